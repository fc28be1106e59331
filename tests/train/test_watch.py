"""Runs that go wrong end by themselves, before anything is spoilt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import cli, metrics, steps, weight_bytes

from rft3d_cli.recipe import Recipe, to_yaml
from rft3d_cli.train.grpo import run_grpo
from rft3d_cli.train.rollout import Rollout, Sample
from rft3d_cli.train.run import Run, mark_complete, newest_complete
from rft3d_cli.train.sft import run_sft
from rft3d_cli.train.watch import STATE, Stopped, Watch, shown

Make = Callable[..., Recipe]


def rollout(step: int, *, same: bool = False, clipped: bool = False, record: str = "r") -> Rollout:
    samples = [Sample(record, "choice", "A", 3, clipped or i == 0, True, 0.5, {"accuracy": 0.5}) for i in range(4)]
    return Rollout(step, samples, [0.0, 0.0 if same else 0.5])


def watch(folder: Path, patience: int | None = 3, period: int = 1, checkpoint: Path | None = None) -> Watch:
    return Watch(Run(folder, checkpoint), lambda row: f"row{row}", patience=patience, period=period, most=64)


MODEL = torch.nn.Linear(2, 2)


def after(seen: Watch, step: int) -> SimpleNamespace:
    """What the watch asks for at the end of a step."""
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    return seen.on_step_end(None, SimpleNamespace(global_step=step, max_steps=100), control, model=MODEL)


@pytest.mark.parametrize(
    ("kinds", "patience", "period", "stops"),
    [
        pytest.param(["same"] * 4, 3, 1, 3, id="equal-rewards"),
        pytest.param(["clipped"] * 4, 3, 1, 3, id="cut-answers"),
        pytest.param(["same", "same", "", "same", "same", ""], 3, 1, None, id="one-good-step-in-between"),
        pytest.param(["same", "clipped"] * 3, 3, 1, None, id="each-by-itself"),
        pytest.param(["same"] * 9, None, 1, None, id="endless-patience"),
        pytest.param(["same", "same"], 3, 2, 4, id="a-rollout-counts-for-its-steps"),
    ],
)
def test_patience(tmp_path: Path, kinds: list[str], patience: int | None, period: int, stops: int | None) -> None:
    seen = watch(tmp_path, patience, period)
    ended = None
    for index, kind in enumerate(kinds):
        seen.on_rollout(rollout(index * period + 1, same=kind == "same", clipped=kind == "clipped"))
        for step in range(index * period + 1, (index + 1) * period + 1):
            if ended is None and after(seen, step).should_training_stop:
                ended = step
    assert ended == stops
    assert (seen.stopped(9) is None) == (stops is None)


def test_the_reason_names_records_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = watch(tmp_path, patience=4)
    for step in range(1, 5):
        seen.on_rollout(rollout(step, clipped=True, record=f"r{step}"))
        said = capsys.readouterr().err
        assert ("the run stops after 4" in said) == (step == 2)
    assert after(seen, 4).should_save
    error = seen.stopped(4)
    assert error is not None
    assert error.exit_code == 1
    assert "all completions of the last 4 steps were cut at rollout.max_tokens 64, at step 4" in error.message
    assert "records r1, r2, r3, r4" in error.message
    assert "there is no checkpoint yet" in error.message
    assert "train.patience=null" in (error.hint or "")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        pytest.param({"same": True}, "nothing was learnt in the last step: the rewards", id="same"),
        pytest.param({"clipped": True}, "all completions of the last step were cut", id="clipped"),
    ],
)
def test_one_step_is_told_as_one(tmp_path: Path, kind: dict[str, bool], words: str) -> None:
    seen = watch(tmp_path, patience=1)
    seen.on_rollout(rollout(1, **kind))
    assert words in str(seen.stopped(1))


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    seen = watch(tmp_path)
    for step in (1, 2):
        seen.on_rollout(rollout(step, same=True))
    folder = tmp_path / "checkpoints" / "checkpoint-2"
    folder.mkdir(parents=True)
    seen.on_save(None, SimpleNamespace(is_world_process_zero=True, global_step=2), None)
    assert (folder / STATE).is_file()
    again = watch(tmp_path, checkpoint=folder)
    again.on_rollout(rollout(3, same=True))
    assert after(again, 3).should_training_stop
    fresh = watch(tmp_path)
    fresh.on_rollout(rollout(3, same=True))
    assert not after(fresh, 3).should_training_stop


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused(tmp_path: Path, bad: float) -> None:
    good = Sample("a", "choice", "A", 1, False, True, 0.5, {"accuracy": 0.5})
    wrong = Sample("b", "choice", "B", 1, False, True, bad, {"accuracy": bad})
    absent = Sample("c", "text", "C", 1, False, True)
    seen = watch(tmp_path)
    seen.on_rollout(Rollout(7, [good, absent], [0.1]))
    with pytest.raises(Stopped, match=r"the reward accuracy is not a finite number in step 7 \(record b\)"):
        seen.on_rollout(Rollout(7, [good, wrong], [0.1]))


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    seen = watch(tmp_path)
    seen.require_finite(model)
    model.bias.data[1] = math.nan
    with pytest.raises(Stopped, match="the weight bias is not a finite number"):
        seen.require_finite(model)
    model.bias.requires_grad_(False)  # what is not trained was so from the start
    seen.require_finite(model)


def test_the_last_good_checkpoint_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "checkpoint-5"
    folder.mkdir(parents=True)
    mark_complete(folder, 1.0)
    seen = watch(tmp_path)
    model = torch.nn.Linear(1, 1)
    model.weight.grad = torch.tensor([[math.inf]])
    with pytest.raises(Stopped, match=r"the gradient is not.*the last good checkpoint is .*checkpoint-5") as caught:
        seen.on_pre_optimizer_step(None, None, None, model=model)
    assert f"model.name={folder}" in (caught.value.hint or "")


def test_many_records_are_counted() -> None:
    assert shown([]) == "no record known"
    assert shown(["a"]) == "record a"


def saved(recipe: Recipe, folder: Path) -> Path:
    (folder / "saved.yaml").write_text(to_yaml(recipe))
    return folder / "saved.yaml"


def test_a_run_that_learns_nothing_ends_with_a_checkpoint_and_goes_on_when_told_to(
    grpo_recipe: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("def paid(text, record):\n    return 0.5\n")
    overrides = [f"rewards={{{tmp_path / 'mine.py'}:paid: 1}}", "rollout.max_tokens=3", "checkpoint.every=50"]
    recipe = saved(grpo_recipe(*overrides, "train.patience=2", "train.steps=4"), tmp_path)
    out = tmp_path / "run"
    capsys.readouterr()
    assert cli("grpo", "--recipe", recipe, "--out", out) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "nothing was learnt in the last 2 steps" in said
    assert "hint: look at rollouts.jsonl" in said
    assert "Traceback" not in said
    assert newest_complete(out / "checkpoints") == out / "checkpoints" / "checkpoint-2"
    assert not (out / "final").exists()
    document = json.loads((out / "run.json").read_text())
    assert "nothing was learnt" in document["stopped"]
    assert cli("grpo", "--recipe", recipe, "train.patience=null", "--out", out, "--resume") == 0
    assert steps(out) == [1, 2, 3, 4]
    assert json.loads((out / "run.json").read_text())["stopped"] is None
    rows = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {1, 2, 3, 4}
    assert len(rows) == 8


def spoilt(monkeypatch: pytest.MonkeyPatch, step: int, spoil: Callable[[Any, Any], Any]) -> list[list[str]]:
    """Have the loss of one micro-batch changed; returns whose micro-batches came by, all in all."""
    attach, seen = Watch.attach, []

    def attached(self: Watch, trainer: Any) -> None:
        compute = trainer.compute_loss

        def changed(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = compute(model, inputs, *args, **kwargs)
            if trainer.state.global_step + 1 == step and not seen:
                seen.append([])
                return spoil(loss, model)
            return loss

        trainer.compute_loss = changed
        attach(self, trainer)

    monkeypatch.setattr(Watch, "attach", attached)
    return seen


def not_a_number(loss: Any, model: Any) -> Any:
    return loss * math.nan


def bad_gradient(loss: Any, model: Any) -> Any:
    parameter = next(p for p in model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf)
    return loss


@pytest.mark.parametrize(
    ("spoil", "what", "records"),
    [
        pytest.param(not_a_number, "the loss", 2, id="loss"),
        pytest.param(bad_gradient, "the gradient", 4, id="gradient"),
    ],
)
def test_sft_stops_before_the_weights_are_spoilt(
    sft_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, what: str, records: int
) -> None:
    assert spoilt(monkeypatch, 3, spoil) == []
    out = tmp_path / "run"
    with pytest.raises(Stopped, match=rf"{what} is not a finite number in step 3 \(records ") as caught:
        run_sft(sft_recipe("train.micro_batch=2"), out)
    named = caught.value.message.partition("(records ")[2].partition(")")[0].split(", ")
    assert len(named) == records
    assert all("/" in name for name in named)
    assert newest_complete(out / "checkpoints") == out / "checkpoints" / "checkpoint-2"
    assert str(out / "checkpoints" / "checkpoint-2") in caught.value.message
    assert steps(out) == [1, 2]


def test_grpo_stops_before_the_weights_are_spoilt_and_starts_from_the_checkpoint(
    grpo_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        spoilt(patch, 2, not_a_number)
        with pytest.raises(Stopped, match=r"the loss is not a finite number in step 2 \(records? .*\);") as caught:
            run_grpo(grpo_recipe("checkpoint.every=1", "train.micro_batch=4"), out)
    checkpoint = out / "checkpoints" / "checkpoint-1"
    assert f"the last good checkpoint is {checkpoint}" in caught.value.message
    assert steps(out) == [1]
    before = weight_bytes(checkpoint)
    # As the hint says.
    run_grpo(grpo_recipe("train.steps=1", "train.lr=1e-5", model=checkpoint), tmp_path / "other")
    assert steps(tmp_path / "other") == [1]
    assert weight_bytes(checkpoint) == before
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path / "other") if "loss" in line)
