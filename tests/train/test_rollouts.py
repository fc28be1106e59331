"""What is logged of rollouts, and what is kept of them for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_runs import Kind, metrics, policy_trainer

from rft3d_cli.examples import example_record
from rft3d_cli.recipe import Recipe
from rft3d_cli.rewards.registry import Score
from rft3d_cli.train.rollout import Rollout, Sample, readable, rollout_metrics, sample
from rft3d_cli.train.rollout_log import RolloutLog, rows
from rft3d_cli.train.run import Run

NAN = math.nan


def said(record: str, task: str, text: str, reward: float, *, tokens: int = 2, clipped: bool = False) -> Sample:
    scores = {} if math.isnan(reward) else {"x": reward}
    return Sample(record, task, text, tokens, clipped, bool(text), reward, scores)


GROUPS = [
    said("c", "choice", "A", 1.0),
    said("c", "choice", "A", 1.0, tokens=4),
    said("n", "number", "2", 0.5, tokens=9, clipped=True),
    said("n", "number", "", 0.0),
    said("t", "text", "a", NAN),
    said("t", "text", "b", NAN),
]


def test_numbers_are_means_over_completions_and_groups_of_each_task() -> None:
    found = rollout_metrics(GROUPS, 2)
    expected = {
        "reward/choice": 1.0, "length/choice": 3.0, "clipped/choice": 0.0, "unreadable/choice": 0.0,
        "diversity/choice": 0.5, "zero_std/choice": 1.0,
        "reward/number": 0.25, "length/number": 5.5, "clipped/number": 0.5, "unreadable/number": 0.5,
        "diversity/number": 1.0, "zero_std/number": 0.0,
        "length/text": 2.0, "clipped/text": 0.0, "unreadable/text": 0.0, "diversity/text": 1.0, "zero_std/text": 1.0,
        "unreadable": 1 / 6, "diversity": 5 / 6,
    }  # fmt: skip
    assert found == pytest.approx(expected)


def test_parts_are_means_over_the_completions_that_have_them() -> None:
    record = example_record("detection")
    two = [
        sample(record, "x", {"det_f1": Score(0.5, {"tp": 2.0, "fp": 1.0})}, 0.5, tokens=1, clipped=False),
        sample(record, "y", {"det_f1": Score(0.5, {"tp": 1.0}), "format": Score(1.0)}, 1.5, tokens=1, clipped=False),
    ]
    found = rollout_metrics(two, 2)
    assert found["parts/det_f1/tp"] == 1.5
    assert found["parts/det_f1/fp"] == 1.0
    assert found["reward/detection"] == 1.0
    assert found["unreadable/detection"] == 1.0


@pytest.mark.parametrize(
    ("task", "good", "bad"),
    [
        ("detection", "[]", "nothing"),
        ("grounding", '{"frame": 9, "bbox_3d": [0, 0, 2, 1, 1, 1, 0, 0, 0]}', '{"frame": 1}'),
        ("choice", "<think>so</think><answer>A</answer>", "A or B"),
        ("number", "about 3", "a few"),
        ("text", "a chair", " "),
    ],
)
def test_an_answer_is_readable_right_or_wrong(task: str, good: str, bad: str) -> None:
    record = example_record(task)
    assert readable(record, good)
    assert not readable(record, bad)


def test_the_best_and_the_worst_of_a_group_are_kept() -> None:
    found = rows(Rollout(3, GROUPS, [0.0, 0.3535, 0.0]), 5)
    assert [row["id"] for row in found] == ["c", "n", "t"]
    assert found[1] == {
        "step": 3, "id": "n", "task": "number", "rewards": [0.5, 0.0], "std": 0.3535,
        "best": {"prediction": "2", "reward": 0.5, "scores": {"x": 0.5}},
        "worst": {"prediction": "", "reward": 0.0, "scores": {"x": 0.0}},
    }  # fmt: skip
    one_known = [said("q", "choice", "A", NAN), said("q", "choice", "B", 0.2)]
    (row,) = rows(Rollout(1, one_known, [0.0]), 5)
    assert (row["best"]["prediction"], row["worst"]["prediction"]) == ("B", "B")


def test_few_groups_are_taken_from_all_over_the_rollout() -> None:
    many = [said(f"r{i}", "choice", "A", 0.0) for i in range(10)]
    assert [row["id"] for row in rows(Rollout(1, many, [0.0] * 10), 3)] == ["r0", "r3", "r6"]


@pytest.mark.parametrize(
    ("every", "steps", "start", "period", "expected"),
    [
        pytest.param(None, 100, 0, 1, [1, 6, 11, 16], id="a-twentieth-of-the-run"),
        pytest.param(7, 100, 0, 1, [1, 8, 15], id="as-often-as-evaluations"),
        pytest.param(None, 10, 0, 1, list(range(1, 18)), id="a-short-run"),
        pytest.param(7, 100, 8, 1, [15], id="resumed-between"),
        pytest.param(7, 100, 7, 1, [8, 15], id="resumed-where-it-is-due"),
        pytest.param(3, 100, 0, 2, [1, 5, 7, 11, 13, 17], id="rollouts-of-two-steps"),
        pytest.param(2, 6, 0, 3, [1, 4, 7, 10, 13, 16], id="rollouts-longer-than-the-period"),
        pytest.param(2, 6, 3, 3, [4, 7, 10, 13, 16], id="these-resumed"),
    ],
)
def test_when_groups_are_kept(
    tmp_path: Path, every: int | None, steps: int, start: int, period: int, expected: list[int]
) -> None:
    log = RolloutLog(Run(tmp_path), limit=1, every=every, period=period)
    log.on_train_begin(None, SimpleNamespace(max_steps=steps, global_step=start), None)
    for step in range(start + 1, 18, period):
        log.on_rollout(Rollout(step, GROUPS, [0.0, 0.5, 0.0]))
    kept = [json.loads(line)["step"] for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert kept == expected


@pytest.mark.parametrize("period", [1, 2, 3, 4])
@pytest.mark.parametrize("every", [1, 2, 3, 5, 7])
def test_a_resumed_run_keeps_the_groups_of_the_straight_one(tmp_path: Path, every: int, period: int) -> None:
    def kept(start: int) -> list[int]:
        log = RolloutLog(Run(tmp_path / str(start)), limit=1, every=every, period=period)
        log.path.parent.mkdir()
        log.on_train_begin(None, SimpleNamespace(max_steps=30, global_step=start), None)
        for step in range(start + 1, 31, period):
            log.on_rollout(Rollout(step, GROUPS, [0.0, 0.5, 0.0]))
        lines = log.path.read_text().splitlines() if log.path.is_file() else []
        return [json.loads(line)["step"] for line in lines]

    straight = kept(0)
    for start in range(period, 30, period):
        assert kept(start) == [step for step in straight if step > start]


def test_none_are_kept_where_none_are_asked_for(tmp_path: Path) -> None:
    log = RolloutLog(Run(tmp_path), limit=0, every=1)
    log.on_train_begin(None, SimpleNamespace(max_steps=9, global_step=0), None)
    log.on_rollout(Rollout(1, GROUPS, [0.0, 0.5, 0.0]))
    assert not (tmp_path / "rollouts.jsonl").exists()


def test_a_run_keeps_groups_whose_rewards_are_those_of_its_metrics(kind: Callable[[str], Kind]) -> None:
    run = kind("grpo")
    kept = [json.loads(line) for line in (run.straight / "rollouts.jsonl").read_text().splitlines()]
    rollout = run.recipe.config.rollout
    for line in metrics(run.straight):
        if "loss" not in line:
            continue
        groups = [row for row in kept if row["step"] == line["step"]]
        assert len(groups) == min(rollout.prompts, run.recipe.config.log.completions)
        rewards = [reward for row in groups for reward in row["rewards"]]
        assert len(rewards) == rollout.prompts * rollout.group
        assert sum(rewards) / len(rewards) == pytest.approx(line["reward"], abs=1e-5)
        for row in groups:
            assert row["best"]["reward"] == max(row["rewards"])
            assert row["worst"]["reward"] == min(row["rewards"])
            assert "format" in row["best"]["scores"]
        tasks = {row["task"] for row in groups}
        assert {name.partition("/")[2] for name in line if name.startswith("length/")} == tasks
        mean = sum(line[f"length/{task}"] * sum(row["task"] == task for row in groups) for task in tasks) / len(groups)
        assert mean == pytest.approx(line["completions/mean_length"])
        assert 0 <= line["unreadable"] <= 1
        assert 1 / rollout.group <= line["diversity"] <= 1


def test_metrics_are_those_of_all_processes(
    grpo_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = policy_trainer(grpo_recipe(), tmp_path / "run")
    trainer.model.train()
    theirs = [said("elsewhere", "number", "2", reward, tokens=7) for reward in (0.0, 1.0, 1.0, 1.0)]
    monkeypatch.setattr("rft3d_cli.train.compat.gather_object", lambda ours: [*ours, *theirs])
    ends = trainer.eos_token_ids[0]
    ids = [[5, ends], [5, 5, 5], [5, ends], [5, ends]]
    trainer._calculate_rewards([{"row": 2}] * 4, None, ["A", "B", "A", "?"], ids)
    logged = dict(trainer._metrics["train"])
    assert logged["reward/number"] == [0.75]
    assert logged["length/number"] == [7.0]
    assert logged["length/choice"] == [9 / 4]
    assert logged["clipped/choice"] == [0.25]
    assert logged["unreadable/choice"] == [0.25]
    assert logged["unreadable"] == [1 / 8]
    assert logged["diversity"] == [(3 / 4 + 1 / 4) / 2]
