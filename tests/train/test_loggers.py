"""Trackers are told what the metrics file says, and only where a recipe names them."""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_runs import metrics

from rft3d_cli.errors import SetupError, UsageError
from rft3d_cli.recipe import Recipe
from rft3d_cli.train import loggers
from rft3d_cli.train.grpo import run_grpo
from rft3d_cli.train.preflight import preflight
from rft3d_cli.train.run import Run

Make = Callable[..., Recipe]


class Tracked(types.ModuleType):
    """trackio's functions, of those that transformers calls."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.__spec__ = importlib.machinery.ModuleSpec("trackio", None)
        self.__version__ = "0.30.0"
        self.begun: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.ended = 0
        self.config: dict[str, Any] = _Settings()
        self.context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))

    def init(self, **arguments: Any) -> None:
        self.begun.append(arguments)

    def log(self, logs: dict[str, Any], **_: Any) -> None:
        self.logs.append(logs)

    def finish(self) -> None:
        self.ended += 1


class _Settings(dict[str, Any]):
    def update(self, other: Any, **_: Any) -> None:  # type: ignore[override]
        super().update(other)


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Tracked:
    module = Tracked()
    monkeypatch.setitem(sys.modules, "trackio", module)
    for name in ("trl.extras.profiling", "trl.trainer.grpo_trainer"):  # they import it where it is installed
        monkeypatch.setattr(importlib.import_module(name), "trackio", module, raising=False)
    return module


def test_a_tracker_hears_what_the_metrics_file_says(
    grpo_recipe: Make, world: Any, tmp_path: Path, trackio: Tracked, caplog: pytest.LogCaptureFixture
) -> None:
    made = grpo_recipe(
        "log.to=[jsonl, trackio]", "train.steps=2", "rollout.max_tokens=6", "eval.every=1", "eval.limit=2",
        f"data.eval={world.data / 'val.jsonl'}", "data.shared_scenes=true",
    )  # fmt: skip
    run_grpo(made, tmp_path / "run")
    (begun,) = trackio.begun
    assert begun["project"] == "rft3d"
    assert begun["name"] == "run"
    assert begun["space_id"] is None
    lines = metrics(tmp_path / "run")
    for line in lines:
        name = "loss" if "loss" in line else "eval/score"
        told = "train/loss" if "loss" in line else "eval/score"
        assert line[name] in [logs.get(told) for logs in trackio.logs]
    assert all(value is not None for logs in trackio.logs for value in logs.values())
    assert sum("eval/score" in logs for logs in trackio.logs) == 2


def test_a_run_that_names_no_tracker_starts_none(grpo_recipe: Make, tmp_path: Path, trackio: Tracked) -> None:
    run_grpo(grpo_recipe("train.steps=1", "rollout.max_tokens=3"), tmp_path / "run")
    assert trackio.begun == []
    assert trackio.logs == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_with_how_to_get_it(
    grpo_recipe: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("rft3d_cli.train.preflight.find_spec", lambda package: None)
    (problem,) = preflight(grpo_recipe(f"log.to={name}")).problems
    assert isinstance(problem, SetupError)
    assert problem.message == f"log.to: {name} needs the package {name}"
    assert problem.hint == f"pip install {name}"


def test_an_unknown_tracker_is_refused(grpo_recipe: Make) -> None:
    with pytest.raises(UsageError, match=r"log\.to"):
        grpo_recipe("log.to=mlflow")


def test_wandb_gets_a_project_and_the_runs_folder_unless_the_user_has_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_DIR", raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    found = loggers.arguments(["jsonl", "wandb"], Run(tmp_path / "det"))
    assert found["report_to"] == ["wandb"]
    assert found["run_name"] == "det"
    assert os.environ["WANDB_PROJECT"] == "mine"
    assert os.environ["WANDB_DIR"] == str(tmp_path / "det")


def test_tensorboard_writes_into_the_runs_folder(grpo_recipe: Make, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run_grpo(grpo_recipe("log.to=tensorboard", "train.steps=1", "rollout.max_tokens=3"), tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert not (tmp_path / "run" / "checkpoints" / "runs").exists()
    assert metrics(tmp_path / "run")
