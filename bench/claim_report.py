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


def _mean(value: Callable[[dict[str, Any]], float]) -> Callable[[Rows], tuple[Floats, Floats]]:
    """A mean over records, as a sum and a count for each record."""
    return lambda rows: (np.array([value(row) for row in rows]), np.ones(len(rows)))


METRICS: dict[str, dict[str, Callable[[Rows], tuple[Floats, Floats]]]] = {
    "detection": {
        "P": lambda rows: (_total(rows, "tp"), _total(rows, "tp") + _total(rows, "fp")),
        "R": lambda rows: (_total(rows, "tp"), _total(rows, "tp") + _total(rows, "fn")),
        "F1": lambda rows: (2 * _total(rows, "tp"), 2 * _total(rows, "tp") + _total(rows, "fp") + _total(rows, "fn")),
        "reward": _mean(lambda row: row["reward"]),
    },
    "grounding": {
        "Acc@0.25": _mean(lambda row: float(row["score"] >= 0.25)),
        "Acc@0.5": _mean(lambda row: float(row["score"] >= 0.5)),
        "mean IoU": _mean(lambda row: row["score"]),
        "reward": _mean(lambda row: row["reward"]),
    },
    "numbers": {
        "MRA": _mean(lambda row: row["score"]),
        "reward": _mean(lambda row: row["reward"]),
    },
}
"""Each metric is a ratio of two sums over records; its parts for each record make resampling exact and fast."""
TITLES = {
    "detection": "Detection in uncertain rooms, IoU 0.25",
    "grounding": "One described piece in clear rooms",
    "numbers": "Numbers about clear rooms",
}
TRAINED = {"detection": "F1", "grounding": "mean IoU", "numbers": "MRA"}
"""What must rise, greedy."""


def _draws(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def estimate(
    rows: Rows, parts: Callable[[Rows], tuple[Floats, Floats]], draws: NDArray[np.int64]
) -> tuple[float, Floats]:
    """A metric and its values on resampled records."""
    top, bottom = parts(rows)
    value = top.sum() / max(bottom.sum(), 1e-9)
    return float(value), top[draws].sum(1) / np.maximum(bottom[draws].sum(1), 1e-9)


def difference(one: Rows, two: Rows, task: str, metric: str, draws: NDArray[np.int64]) -> tuple[float, float]:
    """How much higher ``one`` is than ``two`` on the same records, and the standard error of that."""
    (a, many_a), (b, many_b) = (estimate(rows, METRICS[task][metric], draws) for rows in (one, two))
    return a - b, float((many_a - many_b).std(ddof=1))


def table(task: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """All seeds together: value ± standard error over records."""
    names = list(METRICS[task])
    lines = ["| " + " | ".join(["", *names]) + " |", "|---" * (len(names) + 1) + "|"]
    for row in results[0]["rows"]:
        rows = [record for result in results for record in result["rows"][row]]
        draws = _draws(len(rows))
        cells = []
        for name in names:
            value, many = estimate(rows, METRICS[task][name], draws)
            cells.append(f"{value:.3f} ± {many.std(ddof=1):.3f}")
        lines.append("| " + " | ".join([row, *cells]) + " |")
    return lines


def by_seed(task: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """The trained metric, greedy, of each seed."""
    models = ("start", "more SFT", "GRPO")
    metric = METRICS[task][TRAINED[task]]
    lines = [f"| {TRAINED[task]}, greedy | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for result in results:
        own = [result["rows"][f"{model}, greedy"] for model in models]
        cells = [f"{estimate(rows, metric, _draws(len(rows)))[0]:.3f}" for rows in own]
        lines.append(f"| seed {result['seed']} | " + " | ".join(cells) + " |")
    return lines


def checks(results: Sequence[dict[str, Any]]) -> list[tuple[bool, str]]:
    """What must hold, and whether it does."""
    out: list[tuple[bool, str]] = []
    for task in METRICS:
        own = [result for result in results if result["task"] == task]
        if not own:
            continue
        for decoding, metric in (("sampled", "reward"), ("greedy", TRAINED[task])):
            each, gain, error = _gains(own, task, metric, decoding, "start")
            text = f"{task}: GRPO over start, {decoding} {metric}: {gain:+.3f} ± {error:.3f} ({_signed(each)})"
            out.append((min(each) > 0 and gain > 2 * error, text))
        if task == "detection":
            each, _, _ = _gains(own, task, "F1", "greedy", "more SFT")
            text = f"{task}: GRPO over more SFT, greedy F1, each seed ≥ 0.10: {_signed(each)}"
            out.append((min(each) >= 0.10, text))
    return out


def _gains(
    results: Sequence[dict[str, Any]], task: str, metric: str, decoding: str, other: str
) -> tuple[list[float], float, float]:
    """GRPO's gain over another model: of each seed, of all together, and the standard error of that."""
    pairs = [(r["rows"][f"GRPO, {decoding}"], r["rows"][f"{other}, {decoding}"]) for r in results]
    each = [difference(one, two, task, metric, _draws(len(one)))[0] for one, two in pairs]
    one, two = ([row for pair in pairs for row in pair[i]] for i in (0, 1))
    return each, *difference(one, two, task, metric, _draws(len(one)))


def _signed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)


def report(folder: Path) -> tuple[str, bool]:
    """All tables as Markdown, and whether everything that must hold does."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*-result.json"))]
    if not results:
        raise SystemExit(f"{folder} has no results")
    lines: list[str] = []
    for task, title in TITLES.items():
        own = [result for result in results if result["task"] == task]
        if not own:
            continue
        records = len(own[0]["rows"]["start, greedy"])
        lines += [f"### {title}", "", f"{len(own)} seeds, {records} held-out records each, ± standard error.", ""]
        lines += [*table(task, own), "", *by_seed(task, own), ""]
        for result in own:
            seconds = result["seconds"]
            lines.append(
                f"- seed {result['seed']}: start {seconds['start']:.0f} s, GRPO {seconds['grpo']:.0f} s, "
                f"more SFT {seconds['more']:.0f} s ({result['more_steps']:,} steps)"
            )
        lines.append("")
    found = checks(results)
    lines += ["### What must hold", "", *(f"- {'yes' if holds else 'NO'}: {text}" for holds, text in found)]
    return "\n".join(lines), all(holds for holds, _ in found)
