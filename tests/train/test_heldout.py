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

from rft3d_cli.answers.target import target_answer
from rft3d_cli.benchmarks import detection, scanrefer, vsibench
from rft3d_cli.errors import UsageError
from rft3d_cli.examples import example_record
from rft3d_cli.models.loader import load_model
from rft3d_cli.models.predict import Decoding
from rft3d_cli.prompts import thinking_prompt
from rft3d_cli.recipe import Recipe
from rft3d_cli.records import Record
from rft3d_cli.rewards.own import own_score
from rft3d_cli.rewards.registry import RewardSet, Score
from rft3d_cli.train.data import Examples, read_examples
from rft3d_cli.train.heldout import HeldOut, summarise
from rft3d_cli.train.monitor import HeldOutLog
from rft3d_cli.train.official import official_metrics
from rft3d_cli.train.run import Run
from rft3d_cli.train.sft import run_sft


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


def evaluations(folder: Path, values: list[float], metric: str = "score", **options: Any) -> tuple[HeldOutLog, int]:
    """A log whose evaluations, one every two steps, give these values; and the step at which it ends the run."""
    coming = iter(values)
    log = HeldOutLog(
        lambda step: {metric: next(coming)},
        lambda _: None,
        Run(folder),
        every=2,
        metric=metric,
        keep_best=False,
        **options,
    )
    for step in range(1, 2 * len(values) + 1):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        log.on_step_end(None, SimpleNamespace(global_step=step, max_steps=100), control)
        if control.should_training_stop:
            assert control.should_save
            return log, step
    return log, 0


@pytest.mark.parametrize(
    ("values", "metric", "options", "ends"),
    [
        pytest.param([0.1, 0.3, 0.2, 0.3, 0.4], "score", {"patience": 2}, 8, id="two-that-are-not-better"),
        pytest.param([0.1, 0.3, 0.2, 0.4, 0.3], "score", {"patience": 2}, 0, id="a-better-one-in-time"),
        pytest.param([0.9, 0.3, 0.5, 0.5, 0.5], "loss", {"patience": 3}, 10, id="the-least-loss"),
        pytest.param([0.5] * 9, "score", {}, 0, id="never-by-default"),
        pytest.param([0.5, 0.4, 0.4, 0.4], "score", {"patience": 1, "period": 3}, 6, id="between-two-rollouts"),
    ],
)
def test_a_run_without_a_better_evaluation_ends_early(
    tmp_path: Path, values: list[float], metric: str, options: dict[str, Any], ends: int
) -> None:
    log, step = evaluations(tmp_path, values, metric, **options)
    assert step == ends
    assert (log.stopped is None) == (ends == 0)
    if ends:
        best = min(values[: ends // 2]) if metric == "loss" else max(values[: ends // 2])
        assert f"no better {metric} than {best:.3f} of step {2 * values.index(best) + 2}" in (log.stopped or "")
        # A run that had ended so makes no step more when it is resumed; with more patience it does.
        state = SimpleNamespace(global_step=step, max_steps=100)
        log.on_train_begin(None, state, None)
        assert state.max_steps == step
        log.patience, state.max_steps = 99, 100
        log.on_train_begin(None, state, None)
        assert state.max_steps == 100


def test_one_evaluation_is_told_as_one(tmp_path: Path) -> None:
    log, _ = evaluations(tmp_path, [0.5, 0.4], patience=1)
    assert (log.stopped or "").endswith("of step 2 in 1 evaluation")


def test_a_run_that_ends_early_says_why_and_changes_nothing_when_repeated(
    sft_recipe: Callable[..., Recipe], world: World, tmp_path: Path
) -> None:
    made = sft_recipe(
        f"data.eval={world.data / 'val.jsonl'}", "data.shared_scenes=true", "eval.every=1", "eval.limit=2",
        "eval.patience=1", "train.lr=1e-9", "rollout.max_tokens=4", "train.steps=9", "log.completions=0",
    )  # fmt: skip
    out = tmp_path / "run"
    summary = run_sft(made, out)
    assert summary["steps"] == 2
    assert "no better score than" in summary["stopped"]
    document = json.loads((out / "run.json").read_text())
    assert document["stopped"] == document["summary"]["stopped"] == summary["stopped"]
    before = (out / "metrics.jsonl").read_bytes()
    again = run_sft(made, out, resume=True)
    assert (again["steps"], again["stopped"], again["held_out"]) == (2, summary["stopped"], summary["held_out"])
    assert (out / "metrics.jsonl").read_bytes() == before
    assert (out / "final" / "config.json").is_file()


def test_held_out_scores_hold_what_the_benchmarks_say(world: World) -> None:
    records = [record for record in world.records("val") if record.task in ("detection", "grounding")]
    asked = [
        record.model_copy(update={"meta": record.meta.model_copy(update={"question_type": kind})})
        for record in world.records("val")
        for kind in ("object_counting" if record.task == "number" else "object_rel_distance",)
        if record.task in ("choice", "number")
    ]
    texts = [target_answer(record) for record in records]
    texts[1] = "none"
    answered = [*zip(records, texts, strict=True), *((record, "A") for record in asked)]
    found = official_metrics(answered)
    for name, task, scorer in (("detection", "detection", detection), ("scanrefer", "grounding", scanrefer)):
        pairs = [pair for pair in answered if pair[0].task == task]
        document = scorer.score([r for r, _ in pairs], {r.id: text for r, text in pairs}).document
        if name == "detection":
            assert found["official_f1"] == pytest.approx(document["micro"]["f1"] / 100)
            assert found["official_f1_20"] == pytest.approx(document["classes_20"]["f1"] / 100)
        else:
            assert found["official_acc@0.25"] == pytest.approx(document["overall"]["acc@0.25"] / 100)
            assert found["official_acc@0.5"] == 1.0
    questions = vsibench.score(asked, {record.id: "A" for record in asked}).document
    assert found["official_overall"] == pytest.approx(questions["overall"] / 100) == 0.25


def test_the_official_reading_takes_answers_out_of_tags_where_the_prompt_asks_for_them() -> None:
    record = example_record("number")
    record = record.model_copy(update={"meta": record.meta.model_copy(update={"question_type": "object_counting"})})
    text = "<think>two and a half</think><answer>2.5</answer>"
    assert official_metrics([(record, text)]) == {"official_overall": 0.0}
    thinking = record.model_copy(update={"prompt": thinking_prompt(record.prompt, choice=False)})
    assert official_metrics([(thinking, text)]) == {"official_overall": 1.0}
    # Two files may use one id; questions of no benchmark have no official score.
    assert official_metrics([(thinking, text), (thinking, "no")]) == {"official_overall": 0.5}
    assert official_metrics([(example_record("text"), "a chair")]) == {}


def test_patience_needs_evaluations_to_count(sft_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(UsageError, match=r"`eval\.patience` counts evaluations"):
        sft_recipe("eval.patience=2")
    assert sft_recipe("eval.patience=2", "eval.every=5").config.eval.patience == 2
