"""Groups with nothing to teach make room for others."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_runs import metrics, weight_bytes

from rft3d_cli.recipe import Recipe
from rft3d_cli.rewards.registry import Score
from rft3d_cli.train import preflight as checks
from rft3d_cli.train.dynamic import Refill, lengths
from rft3d_cli.train.grpo import run_grpo
from rft3d_cli.train.monitor import MetricsLog
from rft3d_cli.train.preflight import preflight
from rft3d_cli.train.stage import Interrupted

Make = Callable[..., Recipe]
END = 9


class FakeRewards:
    """Pays by what a text says; records named in ``easy`` always pay the same."""

    def __init__(self, easy: set[int]) -> None:
        self.easy = easy

    def score_all(self, answers: Any) -> Any:
        for text, record in answers:
            value = 1.0 if record in self.easy else float(text.rpartition("/")[2])
            yield {"x": Score(value)}

    def total(self, scores: Any) -> float:
        return sum(score.value for score in scores.values())


class FakeTrainer:
    """Groups of two; a record's completions say its number and their place, and are as long as its number."""

    def __init__(self, records: int, easy: set[int], rows: list[int]) -> None:
        self.num_generations = 2
        self.model = SimpleNamespace(training=True)
        self.state = SimpleNamespace(global_step=3)
        self.examples = _Numbered(records)
        self.reward_set = FakeRewards(easy)
        self.eos_token_ids, self._tokenizer = [END], SimpleNamespace(pad_token_id=0)
        self._metrics = {"train": defaultdict(list)}
        self._indices = [row for row in rows for _ in range(2)]
        self._inputs = [{"row": row} for row in self._indices]
        self.asked: list[list[int]] = []
        self.refill: Refill | None = None

    def generate_once(self, prompts: list[Any]) -> tuple[Any, ...]:
        assert prompts == [f"prompt {row}" for row in self._indices]
        self.asked.append(self._indices[::2])
        self._metrics["train"]["completions/mean_length"].append(99.0)
        self._metrics["train"]["num_tokens"] = [1]
        ids = [[1] * row + [END] for row in self._indices]
        texts = [f"{row}/{place % 2}" for place, row in enumerate(self._indices)]
        return [[row] for row in self._indices], ids, None, texts, None, {}, None, []


class _Numbered:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        return SimpleNamespace(record=row)

    def messages(self, row: int) -> str:
        return f"prompt {row}"


def refilled(records: int, easy: set[int], rows: list[int], rounds: int, seed: int = 0) -> tuple[FakeTrainer, Any, Any]:
    trainer = FakeTrainer(records, easy, rows)
    refill = Refill(trainer, rounds=rounds, seed=seed)
    assert trainer.refill is refill
    prompts = [f"prompt {row}" for row in trainer._indices]
    return trainer, refill.generate(prompts), prompts


def test_groups_that_teach_nothing_are_replaced_in_their_places() -> None:
    trainer, out, prompts = refilled(8, {1, 2}, [0, 1, 2, 3], 1)
    rows = trainer._indices[::2]
    assert (rows[0], rows[3]) == (0, 3)
    assert len(set(rows)) == 4
    assert set(rows[1:3]) <= {4, 5, 6, 7}
    assert trainer._indices == [row for row in rows for _ in range(2)]
    assert [source["row"] for source in trainer._inputs] == trainer._indices
    assert prompts == [f"prompt {row}" for row in trainer._indices]
    assert out[0] == [[row] for row in trainer._indices]
    assert out[1] == [[1] * row + [END] for row in trainer._indices]
    assert out[3] == [f"{row}/{place % 2}" for place, row in enumerate(trainer._indices)]
    assert (out[2], out[4], out[6]) == (None, None, None)
    logged = trainer._metrics["train"]
    assert logged["refill/groups"] == [2.0]
    assert logged["refill/kept"] == [4 / 6]
    assert logged["completions/mean_length"] == [sum(row + 1 for row in rows) / 4]


@pytest.mark.parametrize(
    ("easy", "rounds", "asked", "left"),
    [
        pytest.param(set(), 3, [2], 0, id="nothing-to-replace"),
        pytest.param(set(range(8)), 2, [2, 2, 2], 2, id="as-often-as-allowed"),
        pytest.param(set(range(8)), 9, [2, 2, 2, 2], 2, id="until-all-records-have-been-tried"),
        pytest.param(set(range(7)), 9, None, 1, id="what-was-found-stays"),
    ],
)
def test_how_often_is_refilled(easy: set[int], rounds: int, asked: list[int] | None, left: int) -> None:
    trainer, _, _ = refilled(8, easy, [0, 1], rounds)
    assert sum(row in easy for row in trainer._indices[::2]) == left
    if asked is not None:
        assert [len(rows) for rows in trainer.asked] == asked
    tried = [row for rows in trainer.asked for row in rows]
    assert len(set(tried)) == len(tried)


def test_which_prompts_follow_depends_on_seed_and_step_alone() -> None:
    first, again = (refilled(50, {0, 1}, [0, 1], 1)[0]._indices for _ in range(2))
    assert first == again
    assert first != refilled(50, {0, 1}, [0, 1], 1, seed=1)[0]._indices


def test_lengths_are_those_of_trl() -> None:
    found = lengths([[5, END], [5, 6, 7], [END]], {END})
    assert found == pytest.approx({
        "completions/clipped_ratio": 1 / 3,
        "completions/mean_length": 2.0, "completions/min_length": 1.0, "completions/max_length": 3.0,
        "completions/mean_terminated_length": 1.5, "completions/min_terminated_length": 1.0,
        "completions/max_terminated_length": 2.0,
    })  # fmt: skip
    assert lengths([[5]], {END})["completions/mean_terminated_length"] == 0.0


@pytest.mark.parametrize("shared", ["true", "false"])
def test_a_refilled_run_resumes_to_the_same_bytes(
    grpo_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str
) -> None:
    # Of choices and numbers every completion is worth the same.
    (tmp_path / "mine.py").write_text(
        "def paid(text, record):\n    return 0.5 if record.task in ('choice', 'number') else len(text) % 5\n"
    )
    made = grpo_recipe(
        f"rewards={{{tmp_path / 'mine.py'}:paid: 1}}",
        "rollout.max_refills=3",
        "rollout.max_tokens=8",
        "train.steps=3",
        "checkpoint.every=2",
        f"rollout.shared_prompt={shared}",
    )
    run_grpo(made, tmp_path / "straight")
    lines = [line for line in metrics(tmp_path / "straight") if "loss" in line]
    assert sum(line["refill/groups"] for line in lines) > 0
    assert all(line["frac_reward_zero_std"] <= 0.5 for line in lines)
    assert all(0 < line["refill/kept"] <= 1 for line in lines)
    tasks = {name for line in lines for name in line if name.startswith("reward/")}
    assert tasks <= {"reward/detection", "reward/grounding", "reward/choice", "reward/number"}

    write = MetricsLog.on_log

    def stop(self: MetricsLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        write(self, args, state, control, **kwargs)
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_log", stop)
        with pytest.raises(Interrupted):
            run_grpo(made, tmp_path / "run")
    run_grpo(made, tmp_path / "run", resume=True)
    assert weight_bytes(tmp_path / "run" / "final") == weight_bytes(tmp_path / "straight" / "final")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "straight")
    assert (tmp_path / "run" / "rollouts.jsonl").read_bytes() == (tmp_path / "straight" / "rollouts.jsonl").read_bytes()


def test_several_processes_are_refused(grpo_recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "world_size", lambda: 2)
    found = [
        problem.message for problem in preflight(grpo_recipe("rollout.max_refills=1", "train.micro_batch=4")).problems
    ]
    assert found == ["rollout.max_refills replaces groups within one process, and this run has 2"]
    assert preflight(grpo_recipe("train.micro_batch=4")).problems == []
