"""Samples of training rollouts, for people: the best and the worst answer of some groups, now and then."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from rft3d_cli.console import jsonable
from rft3d_cli.train import processes
from rft3d_cli.train.rollout import Rollout, Sample
from rft3d_cli.train.run import Run


class RolloutLog(TrainerCallback):
    """Appends sampled groups to ``rollouts.jsonl``.

    One object a group: ``step``, ``id``, ``task``, ``rewards`` (the total of each completion), ``std``, ``best`` and
    ``worst`` (``prediction``, ``reward``, ``scores``).

    Args:
        run: Whose folder.
        limit: Most groups at a time.
        every: Optimiser steps between two times; None for a twentieth of the run.
        period: Optimiser steps that share a rollout.
    """

    def __init__(self, run: Run, *, limit: int, every: int | None, period: int = 1) -> None:
        self.path, self.limit, self.every, self.period = run.folder / "rollouts.jsonl", limit, every, period
        self._next = 1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find out how long the run is, and where it is."""
        self.every = self.every or max(1, state.max_steps // 20)
        done = state.global_step
        # As after the last rollout of the steps that are done, be it kept or not: a resumed run keeps the same groups.
        self._next = self._after((done - 1) // self.period * self.period + 1) if done else 1

    def on_rollout(self, rollout: Rollout) -> None:
        """Write some groups where they are due: with the first step, then with the first after each period."""
        if not self.limit or rollout.step < self._next or not processes.is_main_process():
            return
        self._next = self._after(rollout.step)
        lines = [json.dumps(jsonable(row), ensure_ascii=False) + "\n" for row in rows(rollout, self.limit)]
        # Each line in one write: a reader, or a crash, finds whole lines.
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            for line in lines:
                os.write(handle, line.encode("utf-8", "replace"))
        finally:
            os.close(handle)

    def _after(self, step: int) -> int:
        """The step from which groups are due again after a rollout at ``step``."""
        every = self.every or 1
        return 1 + ((step - 1) // every + 1) * every


def rows(rollout: Rollout, limit: int) -> list[dict[str, Any]]:
    """At most ``limit`` groups as they are written, spread over the rollout."""
    groups = list(rollout.groups)
    chosen = range(len(groups)) if len(groups) <= limit else [i * len(groups) // limit for i in range(limit)]
    return [_row(rollout.step, *groups[index]) for index in chosen]


def _row(step: int, samples: Sequence[Sample], std: float) -> dict[str, Any]:
    # What no reward applies to is neither best nor worst where anything else is there.
    known = [sample for sample in samples if math.isfinite(sample.reward)] or list(samples)
    best, worst = max(known, key=lambda one: one.reward), min(known, key=lambda one: one.reward)
    return {
        "step": step,
        "id": samples[0].id,
        "task": samples[0].task,
        "rewards": [sample.reward for sample in samples],
        "std": std,
        "best": _said(best),
        "worst": _said(worst),
    }


def _said(sample: Sample) -> dict[str, Any]:
    return {"prediction": sample.text, "reward": sample.reward, "scores": dict(sample.scores)}
