"""Qwen3-VL through both trainers, in full and with adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import qwen3
from small_runs import World, metrics, weights

from rft3d_cli.recipe import Recipe
from rft3d_cli.train.grpo import run_grpo
from rft3d_cli.train.sft import run_sft

Make = Callable[..., Recipe]
FROZEN = "model.freeze=[vision, vision_merger]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3.create(tmp_path_factory.mktemp("qwen3") / "model")


@pytest.mark.parametrize("extra", [[], ["model.lora.rank=4"]], ids=["full", "lora"])
def test_sft_learns(sft_recipe: Make, folder: Path, tmp_path: Path, extra: list[str]) -> None:
    made = sft_recipe(FROZEN, "train.lr=1e-2", "train.steps=8", "checkpoint.every=4", *extra, model=folder)
    run_sft(made, tmp_path / "run")
    losses = [line["loss"] for line in metrics(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0]
    if not extra:
        changed = {
            n for n, w in weights(tmp_path / "run" / "final").items() if not np.array_equal(w, weights(folder)[n])
        }
        assert changed
        assert not any("visual" in name for name in changed)


@pytest.mark.parametrize("extra", [[], ["model.lora.rank=4", "model.lora.dropout=0"]], ids=["full", "lora"])
def test_grpo_makes_steps(grpo_recipe: Make, world: World, folder: Path, tmp_path: Path, extra: list[str]) -> None:
    paid = tmp_path / "letters.py"
    paid.write_text("def letters(text, record):\n    return sum(c.isalpha() for c in text) % 7 / 7\n")
    made = grpo_recipe(
        FROZEN, "train.kl=0.1", "train.steps=2", "rollout.max_tokens=8", "eval.limit=2", "checkpoint.every=2",
        f"data.eval={world.data}/val.jsonl", f"rewards.{paid}:letters=1", *extra, model=folder,
    )  # fmt: skip
    run_grpo(made, tmp_path / "run")
    lines = [line for line in metrics(tmp_path / "run") if "loss" in line]
    assert len(lines) == 2
    assert all(np.isfinite([line["loss"], line["grad_norm"]]).all() for line in lines)
    assert abs(lines[0]["kl"]) < 1e-5 < lines[1]["kl"]
