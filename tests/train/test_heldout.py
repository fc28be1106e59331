from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from loss_reference import token_log_probs
from small_runs import Kind, World, metrics, weights

from rft3d_cli.models.loader import load_model
from rft3d_cli.models.predict import Decoding
from rft3d_cli.recipe import Recipe
from rft3d_cli.records import Record
from rft3d_cli.rewards.registry import RewardSet, Score
from rft3d_cli.train.data import Examples, read_examples
from rft3d_cli.train.heldout import HeldOut, own_score, summarise
from rft3d_cli.train.monitor import HeldOutLog
from rft3d_cli.train.run import Run


@pytest.fixture(scope="module")
def held(world: World, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    from small_runs import recipe, sft_tree

    made: Recipe = recipe(tmp_path_factory.mktemp("r") / "r.yaml", sft_tree(world.data, world.warm, "val"))
    model, processor = load_model(made.config.model)
    return SimpleNamespace(model=model.eval(), examples=read_examples(made.config.data.train, processor, made.config))


@pytest.mark.parametrize(
    ("metric", "values", "kept"),
    [
        pytest.param("score", [0.2, 0.8, 0.5], [1, 2], id="most-is-best"),
        pytest.param("score", [0.5, 0.5, 0.5], [1], id="the-first-of-equals"),
        pytest.param("loss", [0.9, 0.3, 0.4], [1, 2], id="least-loss-is-best"),
        pytest.param("f1", [None, 0.1, 0.2], [2, 3], id="a-metric-that-is-not-there-at-first"),
    ],
)
def test_the_best_model_is_kept(tmp_path: Path, metric: str, values: list[float | None], kept: list[int]) -> None:
    saved: list[int] = []
    scores = iter(values)
    step = 0

    def score(_: int) -> dict[str, float]:
        value = next(scores)
        return {"other": 0.0} if value is None else {"other": 0.0, metric: value}

    log = HeldOutLog(
        score, lambda folder: saved.append(step), Run(tmp_path), every=1, metric=metric, keep_best=True
    )  # fmt: skip
    for step in (1, 2, 3):
        log.run_now(step)
    assert saved == kept
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {"step": kept[-1], "metric": metric, "value": values[kept[-1] - 1]}
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("every", "at"),
    [pytest.param(None, [7], id="at-the-end"), pytest.param(3, [3, 6, 7], id="every-third-and-at-the-end"),
     pytest.param(7, [7], id="once-where-both-fall-together")],
)  # fmt: skip
def test_when_held_out_records_are_scored(tmp_path: Path, every: int | None, at: list[int]) -> None:
    asked: list[int] = []

    def score(step: int) -> dict[str, float]:
        asked.append(step)
        return {"score": 1.0}

    log = HeldOutLog(score, lambda _: None, Run(tmp_path), every=every, metric="score", keep_best=False)
    for step in range(1, 8):
        log.on_step_end(None, SimpleNamespace(global_step=step, max_steps=7), None)
    log.on_train_end(None, SimpleNamespace(global_step=7, max_steps=7), None)
    assert asked == at
    assert log.last == {"score": 1.0}
    assert not (tmp_path / "best.json").exists()


def test_a_run_that_was_stopped_is_not_scored_at_its_stop(tmp_path: Path) -> None:
    log = HeldOutLog(lambda step: 1 / 0, lambda _: None, Run(tmp_path), every=None, metric="score", keep_best=True)
    log.on_train_end(None, SimpleNamespace(global_step=3, max_steps=7), None)
    assert log.last == {}


def test_the_best_folder_holds_the_weights_of_the_best_step(kind: Callable[[str], Kind]) -> None:
    run = kind("sft").straight
    losses = {line["step"]: line["eval/loss"] for line in metrics(run) if "eval/loss" in line}
    best = json.loads((run / "best.json").read_text())
    assert best == {"step": min(losses, key=lambda step: losses[step]), "metric": "loss", "value": min(losses.values())}
    last = weights(run / "checkpoints" / "checkpoint-6")
    same = all(np.array_equal(value, last[name]) for name, value in weights(run / "best").items())
    assert same == (best["step"] == 6)
    assert (run / "best" / "tokenizer.json").is_file()


def test_loss_is_the_mean_over_answer_tokens_whatever_the_batch(held: SimpleNamespace) -> None:
    examples: Examples = held.examples
    expected = []
    with torch.no_grad():
        for row in range(len(examples)):
            expected += token_log_probs(held.model, examples.prompt(row), examples.answer_ids(row).tolist()).tolist()
    scorer = HeldOut(examples, Decoding())
    for batch in (1, 3, 32):
        assert scorer.loss(held.model, batch=batch) == pytest.approx(-np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sample", [True, False])
def test_scoring_leaves_the_models_mode_and_the_random_state_alone(
    held: SimpleNamespace, sample: bool, training: bool
) -> None:
    held.model.train(training)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    scorer = HeldOut(held.examples, Decoding(max_tokens=4, sample=sample, seed=1))
    first, second = scorer.score(held.model), scorer.score(held.model)
    scorer.loss(held.model)
    assert held.model.training is training
    assert torch.equal(torch.get_rng_state(), before)
    assert first == second
    held.model.eval()


def test_answers_come_in_the_order_of_the_records_and_are_kept(held: SimpleNamespace, tmp_path: Path) -> None:
    scorer = HeldOut(
        held.examples,
        Decoding(max_tokens=20, batch=3),
        RewardSet({"format": 1, "accuracy": 1}, {"answer_style": "direct"}),
    )
    metrics_now = scorer.score(held.model, keep=tmp_path / "c.jsonl", step=5, limit=3)
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    answered = scorer.answer(held.model)
    assert [record.id for record, _ in answered] == [example.record.id for example in held.examples.examples]
    assert [(row["step"], row["id"], row["prediction"]) for row in rows] == [
        (5, record.id, text) for record, text in answered[:3]
    ]
    totals = [scorer.rewards.total(scorer.rewards.score(text, record)) for record, text in answered]
    assert metrics_now["reward"] == pytest.approx(np.mean(totals))
    assert metrics_now["score"] == pytest.approx(np.mean([own_score(record, text).value for record, text in answered]))


def scored(tasks: dict[str, list[Score]]) -> dict[str, float]:
    records = [SimpleNamespace(task=task) for task, scores in tasks.items() for _ in scores]
    return summarise(records, [score for scores in tasks.values() for score in scores])


def boxes(tp: float, fp: float, fn: float) -> Score:
    value = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0
    return Score(value, {"tp": tp, "fp": fp, "fn": fn})


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        pytest.param(
            {"detection": [boxes(1, 1, 0), boxes(0, 0, 2)]},
            {"score": 1 / 3, "precision": 0.5, "recall": 1 / 3, "f1": 0.4},
            id="boxes-are-pooled",
        ),
        pytest.param(
            {"detection": [boxes(0, 0, 0)]}, {"score": 1, "precision": 0, "recall": 0, "f1": 1}, id="nothing-to-find"
        ),
        pytest.param(
            {"grounding": [Score(0.25), Score(0.6), Score(0.0)]},
            {"score": 0.85 / 3, "acc@0.25": 2 / 3, "acc@0.5": 1 / 3, "mean_iou": 0.85 / 3},
            id="grounding",
        ),
        pytest.param(
            {"choice": [Score(1.0), Score(0.0), Score(0.0)], "number": [Score(0.8)]},
            {"score": 0.45, "accuracy": 1 / 3, "mra": 0.8, "overall": 0.45},
            id="questions",
        ),
        pytest.param({"text": [Score(0.0)]}, {"score": 0.0}, id="text-has-no-score-of-its-own"),
    ],
)
def test_summaries(tasks: dict[str, list[Score]], expected: dict[str, float]) -> None:
    assert scored(tasks) == pytest.approx(expected)


def test_each_task_has_its_own_score(world: World) -> None:
    answers: dict[str, Any] = {"choice": ("A", "B"), "number": ("2", "9")}
    for record in world.records("val"):
        if record.task in answers and record.id.endswith("0"):
            right, wrong = answers[record.task]
            assert own_score(record, right).value == 1.0
            assert own_score(record, wrong).value == 0.0
    text = Record.model_validate({"id": "t", "task": "text", "video": {"path": "x.mp4"}, "prompt": "What is it?"})
    assert own_score(text, "a chair").value == 0.0
