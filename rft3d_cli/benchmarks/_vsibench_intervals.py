"""Intervals of VSI-Bench's means by resampling scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rft3d_cli.benchmarks._vsibench_tables import TASK_COLUMNS, TASKS, TYPES
from rft3d_cli.benchmarks.result import interval, mean_of_known, ratio, scene_draws, scene_index

if TYPE_CHECKING:
    from rft3d_cli.geometry.boxes import Floats

Bounds = dict[str, tuple[float, float] | None]


def bounds(
    records: Sequence[Any], columns: Sequence[int], scores: Sequence[float], marks: Sequence[str | None], seed: int
) -> Bounds:
    """95 % intervals in percent: ``overall``, ``overall_micro``, ``tasks.NAME``, and ``PART.overall`` of each part.

    Args:
        records: Questions with their scenes.
        columns: Each one's type, as an index into :data:`TYPES`.
        scores: Each one's score, 0…1.
        marks: Each one's part of the benchmark, for example ``debiased``; None is in no part.
        seed: Of the draws.

    Returns:
        Intervals by key, None where too few draws measured anything; empty with fewer than two scenes.
    """
    scenes, count = scene_index(records)
    if count < 2:
        return {}
    draws = scene_draws(count, seed)
    at = scenes * len(TYPES) + np.asarray(columns, dtype=np.int64)
    values = np.asarray(scores, dtype=np.float64)
    names = np.array([mark or "" for mark in marks])
    out: Bounds = {}
    for name in ("", *sorted({mark for mark in marks if mark})):
        member = names == name if name else slice(None)
        cells = [np.bincount(at[member], weight, count * len(TYPES)) for weight in (values[member], None)]
        drawn = _averages(*(draws @ cell.reshape(count, -1) for cell in cells))
        prefix = f"{name}." if name else ""
        out |= {f"{prefix}{key}": interval(drawn[key]) for key in ("overall", "overall_micro")}
        if not name:
            out |= {f"tasks.{task}": interval(drawn["tasks"][:, i]) for i, task in enumerate(TASKS)}
    return out


def _averages(sums: Floats, counts: Floats) -> dict[str, Floats]:
    """``tasks`` ``(…, 8)``, ``overall`` and ``overall_micro`` ``(…)`` of sums and counts ``(…, types)``."""
    types = ratio(sums, counts)
    tasks = np.stack([mean_of_known(types[..., columns]) for columns in TASK_COLUMNS], axis=-1)
    micro = ratio(sums.sum(axis=-1), counts.sum(axis=-1))
    return {"tasks": tasks, "overall": mean_of_known(tasks), "overall_micro": micro}
