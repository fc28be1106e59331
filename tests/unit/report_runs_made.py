"""Folders of runs as training writes them, without training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RECIPE = """\
stage: grpo
model: {{name: tiny-sft}}
data: {{train: [{data}], eval: [{data}], media_root: null}}
train: {{lr: {lr}, steps: {steps}}}
eval: {{metric: f1}}
output: runs/somewhere
"""


def grpo_row(step: int, steps: int = 40, **changes: Any) -> dict[str, Any]:
    """One logged step: precision rises, recall too but later."""
    done = step / steps
    wave = 0.02 * math.sin(7 * step)
    return {
        "step": step,
        "loss": 0.05 - 0.01 * done + wave,
        "grad_norm": 0.3,
        "learning_rate": 1e-5 * (1 - done),
        "reward": 1.0 + done + wave,
        "reward/detection": 1.0 + done + wave,
        "rewards/format/mean": 0.9,
        "rewards/det_f1/mean": 0.3 + 0.2 * done + wave,
        "parts/det_f1/precision": 0.3 + 0.3 * done + wave,
        "parts/det_f1/recall": 0.3 + 0.2 * done**2 - wave,
        "parts/det_f1/n_pred": 4.0 - done,
        "parts/det_f1/n_target": 4.0,
        "parts/det_soft_f1/n_pred": 4.0 - done,
        "parts/det_soft_f1/iou_sum": (4.0 - done) * (0.2 + 0.1 * done),
        "frac_reward_zero_std": 0.1,
        "completions/mean_length": 40.0 - 10 * done,
        "completions/clipped_ratio": 0.0,
        "kl": 0.1 * done,
        "entropy": 1.2 - 0.2 * done,
        "step_time": 2.5,
        **changes,
    }


def held_out_row(step: int, f1: float) -> dict[str, Any]:
    return {"step": step, "eval/f1": f1, "eval/precision": f1 + 0.05, "eval/recall": f1 - 0.05, "eval/reward": 1 + f1}


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def make_run(
    folder: Path,
    rows: Iterable[dict[str, Any]] | None = None,
    *,
    data: Path | None = None,
    steps: int = 40,
    lr: str = "1e-5",
    finished: bool = True,
) -> Path:
    """A run's folder."""
    folder.mkdir(parents=True)
    if rows is None:
        scores = {10: 0.4, 20: 0.5, 30: 0.45, 40: 0.42}
        rows = [grpo_row(step, steps) for step in range(1, steps + 1)]
        rows += [held_out_row(step, f1) for step, f1 in scores.items() if step <= steps]
    lines(folder / "metrics.jsonl", rows)
    (folder / "recipe.yaml").write_text(RECIPE.format(data=data or "gone.jsonl", steps=steps, lr=lr), encoding="utf-8")
    entry = [{"file": str(data or "gone.jsonl"), "bytes": 1, "sha256": "0"}]
    about: dict[str, Any] = {"schema": 1, "recipe": {"name": "tiny-det"}, "data": {"train": entry, "eval": entry}}
    if finished:
        about["finished"] = "2026-01-01T00:00:00Z"
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def rollout(
    step: int, name: str, best: str, worst: str, *, std: float = 0.5, task: str = "detection"
) -> dict[str, Any]:
    """One sampled group, as the contract has it."""
    return {
        "step": step,
        "id": name,
        "task": task,
        "rewards": [2.0, 1.0, 0.5, 0.25],
        "std": std,
        "best": {"prediction": best, "reward": 2.0, "scores": {"format": 1.0, "det_f1": 1.0}},
        "worst": {"prediction": worst, "reward": 0.25, "scores": {"format": None, "det_f1": 0.25}},
    }
