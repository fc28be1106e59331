"""The claim's tables: means over held-out records of all seeds, with standard errors over those records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = list[dict[str, Any]]
Floats = NDArray[np.float64]
RESAMPLES = 2000


def _total(rows: Rows, name: str) -> Floats:
    return np.array([row.get(name, 0.0) for row in rows])


def _of_task(task: str, value: Callable[[dict[str, Any]], float]) -> Callable[[Rows], tuple[Floats, Floats]]:
    """A mean over one task's records, as a sum and a count for each record."""

    def parts(rows: Rows) -> tuple[Floats, Floats]:
        count = np.array([float(row["task"] == task) for row in rows])
        return np.array([value(row) if row["task"] == task else 0.0 for row in rows]), count

    return parts


METRICS: dict[str, dict[str, Callable[[Rows], tuple[Floats, Floats]]]] = {
    "uncertain": {
        "P": lambda rows: (_total(rows, "tp"), _total(rows, "tp") + _total(rows, "fp")),
        "R": lambda rows: (_total(rows, "tp"), _total(rows, "tp") + _total(rows, "fn")),
        "F1": lambda rows: (2 * _total(rows, "tp"), 2 * _total(rows, "tp") + _total(rows, "fp") + _total(rows, "fn")),
        "reward": lambda rows: (_total(rows, "reward"), np.ones(len(rows))),
    },
    "clear": {
        "Acc@0.25": _of_task("grounding", lambda row: float(row["score"] >= 0.25)),
        "Acc@0.5": _of_task("grounding", lambda row: float(row["score"] >= 0.5)),
        "mean IoU": _of_task("grounding", lambda row: row["score"]),
        "MRA": _of_task("number", lambda row: row["score"]),
        "reward": lambda rows: (_total(rows, "reward"), np.ones(len(rows))),
    },
}
"""Each metric is a ratio of two sums over records; its parts for each record make resampling exact and fast."""
TITLES = {
    "uncertain": "Detection in uncertain rooms, IoU 0.25",
    "clear": "One described piece (boxes) and numbers in clear rooms",
}
TRAINED = {"uncertain": ("F1",), "clear": ("mean IoU", "MRA")}
"""What must rise, greedy."""
SHOWN = {"uncertain": ("F1",), "clear": ("mean IoU", "MRA", "reward")}
"""Metrics shown by seed; those that are not in :data:`TRAINED` may rise or not."""


def _draws(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def estimate(
    rows: Rows, parts: Callable[[Rows], tuple[Floats, Floats]], draws: NDArray[np.int64]
) -> tuple[float, Floats]:
    """A metric and its values on resampled records."""
    top, bottom = parts(rows)
    value = top.sum() / max(bottom.sum(), 1e-9)
    return float(value), top[draws].sum(1) / np.maximum(bottom[draws].sum(1), 1e-9)


def difference(one: Rows, two: Rows, kind: str, metric: str, draws: NDArray[np.int64]) -> tuple[float, float]:
    """How much higher ``one`` is than ``two`` on the same records, and the standard error of that."""
    (a, many_a), (b, many_b) = (estimate(rows, METRICS[kind][metric], draws) for rows in (one, two))
    return a - b, float((many_a - many_b).std(ddof=1))


def table(kind: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """All seeds together: value ± standard error over records."""
    names = list(METRICS[kind])
    lines = ["| " + " | ".join(["", *names]) + " |", "|---" * (len(names) + 1) + "|"]
    for row in results[0]["rows"]:
        rows = [record for result in results for record in result["rows"][row]]
        draws = _draws(len(rows))
        cells = []
        for name in names:
            value, many = estimate(rows, METRICS[kind][name], draws)
            cells.append(f"{value:.3f} ± {many.std(ddof=1):.3f}")
        lines.append("| " + " | ".join([row, *cells]) + " |")
    return lines


def by_seed(kind: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """The trained metric, greedy, of each seed."""
    models = ("start", "more SFT", "GRPO")
    lines = [f"| {', '.join(SHOWN[kind])}, greedy | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for result in results:
        cells = []
        for model in models:
            rows = result["rows"][f"{model}, greedy"]
            draws = _draws(len(rows))
            cells.append(" / ".join(f"{estimate(rows, METRICS[kind][name], draws)[0]:.3f}" for name in SHOWN[kind]))
        lines.append(f"| seed {result['seed']} | " + " | ".join(cells) + " |")
    return lines


def checks(results: Sequence[dict[str, Any]]) -> list[tuple[bool | None, str]]:
    """What must hold, and whether it does; None for what is only shown."""
    out: list[tuple[bool | None, str]] = []
    for kind in METRICS:
        own = [result for result in results if result["kind"] == kind]
        if not own:
            continue
        for decoding, metrics in (("sampled", ("reward",)), ("greedy", SHOWN[kind])):
            for metric in metrics:
                pairs = [(r["rows"][f"GRPO, {decoding}"], r["rows"][f"start, {decoding}"]) for r in own]
                each = [difference(one, two, kind, metric, _draws(len(one)))[0] for one, two in pairs]
                one, two = ([row for pair in pairs for row in pair[i]] for i in (0, 1))
                gain, error = difference(one, two, kind, metric, _draws(len(one)))
                asked = decoding == "sampled" or metric in TRAINED[kind]
                holds = min(each) > 0 and gain > 2 * error if asked else None
                seeds = ", ".join(f"{value:+.3f}" for value in each)
                out.append(
                    (holds, f"{kind}: GRPO over start, {decoding} {metric}: {gain:+.3f} ± {error:.3f} ({seeds})")
                )
        if kind == "uncertain":
            pairs = [(r["rows"]["GRPO, greedy"], r["rows"]["more SFT, greedy"]) for r in own]
            each = [difference(one, two, kind, "F1", _draws(len(one)))[0] for one, two in pairs]
            seeds = ", ".join(f"{value:+.3f}" for value in each)
            out.append((min(each) >= 0.10, f"{kind}: GRPO over more SFT, greedy F1, each seed ≥ 0.10: {seeds}"))
    return out


def report(folder: Path) -> tuple[str, bool]:
    """All tables as Markdown, and whether everything that must hold does."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/result.json"))]
    if not results:
        raise SystemExit(f"{folder} has no results")
    lines: list[str] = []
    for kind, title in TITLES.items():
        own = [result for result in results if result["kind"] == kind]
        if not own:
            continue
        records = len(own[0]["rows"]["start, greedy"])
        lines += [f"### {title}", "", f"{len(own)} seeds, {records} held-out records each, ± standard error.", ""]
        lines += [*table(kind, own), "", *by_seed(kind, own), ""]
        for result in own:
            seconds = result["seconds"]
            lines.append(
                f"- seed {result['seed']}: start {seconds['start']:.0f} s, GRPO {seconds['grpo']:.0f} s, "
                f"more SFT {seconds['more']:.0f} s ({result['more_steps']:,} steps)"
            )
        lines.append("")
    found = checks(results)
    words = {True: "yes", False: "NO", None: "shown only"}
    lines += ["### What must hold", "", *(f"- {words[holds]}: {text}" for holds, text in found)]
    return "\n".join(lines), all(holds is not False for holds, _ in found)
