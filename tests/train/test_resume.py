"""A run that was stopped, killed or crashed and then resumed is the run that was not: same bytes, same lines."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import KINDS, Kind, cli, moved, steps, weight_bytes

from rft3d_cli.errors import UsageError
from rft3d_cli.recipe import load_recipe
from rft3d_cli.train.grpo import run_grpo
from rft3d_cli.train.monitor import MetricsLog
from rft3d_cli.train.run import newest_complete
from rft3d_cli.train.stage import Interrupted

HERE = Path(__file__).parent


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Have something happen when a step has been logged, once."""
    write, done = MetricsLog.on_log, []

    def on_log(self: MetricsLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        write(self, args, state, control, **kwargs)
        if state.global_step == step and not done:
            done.append(step)
            action()

    monkeypatch.setattr(MetricsLog, "on_log", on_log)


@pytest.mark.parametrize("name", KINDS)
def test_a_run_stopped_by_ctrl_c_and_resumed_is_the_straight_run(
    kind: Callable[[str], Kind], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    straight = kind(name)
    out = tmp_path / "run"
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted) as caught:
        straight.run(straight.recipe, out)
    assert caught.value.exit_code == 130
    # The step in progress is finished, and with it its generation period.
    stopped = 4 if name == "grpo-lora" else 3
    assert newest_complete(out / "checkpoints") == out / "checkpoints" / f"checkpoint-{stopped}"
    assert f"stopped at step {stopped} of {straight.recipe.config.train.steps}" in caught.value.message
    assert "--resume" in (caught.value.hint or "")
    assert not (out / "final").exists()
    mark = out / "checkpoints" / f"checkpoint-{stopped}" / "complete.json"
    marked = json.loads(mark.read_text())
    assert 0 < marked["seconds"] < 600
    mark.write_text(json.dumps({**marked, "seconds": 5000.0}))
    torch.manual_seed(99)
    began = json.loads((out / "run.json").read_text())
    assert "resumed" not in began
    monkeypatch.setattr(sys, "argv", ["/bin/rft3d", "again"])
    summary = straight.run(straight.recipe, out, resume=True)
    assert 5000 < summary["seconds"] < 5600, "the time before the checkpoint counts"
    assert straight.differences(out) == []
    assert steps(out) == list(range(1, summary["steps"] + 1))
    document = json.loads((out / "run.json").read_text())
    assert document["resumed_from"] == f"checkpoint-{stopped}"
    assert (document["started"], document["command"]) == (began["started"], began["command"])
    (again,) = document["resumed"]
    assert (again["checkpoint"], again["command"]) == (f"checkpoint-{stopped}", ["rft3d", "again"])
    assert again["time"] >= began["started"]


def test_a_crash_between_checkpoints_loses_only_the_steps_since(
    kind: Callable[[str], Kind], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = kind("sft")
    out = tmp_path / "run"
    every = straight.recipe.config.checkpoint.every

    def crash() -> None:
        raise MemoryError("as if")

    at_step(monkeypatch, every + 1, crash)
    with pytest.raises(MemoryError):
        straight.run(straight.recipe, out)
    assert steps(out)[-1] == every + 1
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 9, "lo')  # a line torn by the crash
    straight.run(straight.recipe, out, resume=True)
    assert straight.differences(out) == []


def test_checkpoints_differ_so_that_equality_after_a_resume_says_something(kind: Callable[[str], Kind]) -> None:
    straight = kind("sft")
    first, last = (straight.straight / "checkpoints" / f"checkpoint-{n}" for n in (3, 6))
    assert moved(first, last)
    assert moved(Path(straight.recipe.config.model.name), first)


def test_an_incomplete_checkpoint_is_passed_over_and_said_so(
    kind: Callable[[str], Kind], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = kind("sft")
    out = shutil.copytree(straight.straight, tmp_path / "run")
    torn = out / "checkpoints" / "checkpoint-6" / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    capsys.readouterr()
    straight.run(straight.recipe, out, resume=True)
    assert "passing over" in (said := capsys.readouterr().err)
    assert "it/s" not in said
    assert "checkpoint-6" in said
    assert "resuming" in said
    assert "checkpoint-3" in said
    assert straight.differences(out) == []


def test_resuming_a_finished_run_changes_nothing(kind: Callable[[str], Kind], tmp_path: Path) -> None:
    straight = kind("grpo")
    out = shutil.copytree(straight.straight, tmp_path / "run")
    again = straight.run(straight.recipe, out, resume=True)
    assert straight.differences(out) == []
    first = json.loads((straight.straight / "run.json").read_text())["summary"]
    assert (again["steps"], again["held_out"]) == (first["steps"], first["held_out"])
    assert again["held_out"]


def test_a_changed_recipe_is_refused_with_what_changed(kind: Callable[[str], Kind]) -> None:
    straight = kind("sft")
    before = weight_bytes(straight.straight / "final")
    changed = load_recipe(straight.straight / "recipe.yaml", ["train.lr=5e-5", "log.every=2"])
    with pytest.raises(UsageError, match=r"train\.lr was .*, is ") as caught:
        straight.run(changed, straight.straight, resume=True)
    assert "log.every" not in caught.value.message  # free to change
    assert weight_bytes(straight.straight / "final") == before


def rft3d(*command: object) -> subprocess.CompletedProcess[str]:
    """The child script; see there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)}
    words = [sys.executable, str(HERE / "signal_child.py"), *map(str, command)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900, check=False)


def test_ctrl_c_ends_with_130_a_complete_checkpoint_and_the_command_that_goes_on(
    kind: Callable[[str], Kind], tmp_path: Path
) -> None:
    straight = kind("sft")
    out = tmp_path / "run"
    changes = KINDS["sft"][2]
    done = rft3d("SIGINT", 2, "sft", "--recipe", straight.recipe.path, *changes, "--out", out)
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert "stopped at step 3 of 6" in done.stderr
    assert "Traceback" not in done.stderr
    assert newest_complete(out / "checkpoints") == out / "checkpoints" / "checkpoint-3"
    hint = done.stderr.partition("hint: ")[2].strip()
    assert hint.startswith("rft3d sft ")
    assert cli(*shlex.split(hint)[1:]) == 0
    assert straight.differences(out) == []


def test_a_killed_process_resumes_to_the_same_bytes(kind: Callable[[str], Kind], tmp_path: Path) -> None:
    straight = kind("grpo")
    out = tmp_path / "run"
    source = straight.straight / "recipe.yaml"
    done = rft3d("SIGKILL", 3, "grpo", "--recipe", source, "--out", out)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == ""
    assert "it/s" not in done.stderr  # the bars of libraries that load and save one shard
    assert steps(out) == [1, 2, 3]
    assert newest_complete(out / "checkpoints") == out / "checkpoints" / "checkpoint-2"
    run_grpo(load_recipe(source), out, resume=True)
    assert straight.differences(out) == []


def test_a_second_ctrl_c_stops_at_once_with_130(
    kind: Callable[[str], Kind], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 1, twice)
    before = signal.getsignal(signal.SIGINT)
    assert cli("sft", "--recipe", kind("sft").straight / "recipe.yaml", "--out", tmp_path / "run") == 130
    assert newest_complete(tmp_path / "run" / "checkpoints") is None
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this step" in capsys.readouterr().err
