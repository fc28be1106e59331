"""What every benchmark's result has: a document, table rows, details, and intervals by scene."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli import __version__
from rft3d_cli.answers.scan import answer_region
from rft3d_cli.errors import UsageError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.records import Record

SCORERS = ("official", "robust")
ANSWER_STYLES = ("direct", "think")
ROUNDS = 1000
"""Resamples of an interval."""

_EXAMPLES = 10
_PACKAGES = ("numpy", "scipy", "pydantic", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "av")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a result's table; values in percent, None where there is nothing to average.

    Args:
        name: What is measured, for example a task or a set of classes.
        metric: The name of the number.
        n: How many records it rests on.
        value: The number.
        interval: Its 95 % interval, from resampling scenes.
    """

    name: str
    metric: str
    n: int
    value: float | None
    interval: tuple[float, float] | None = None


@dataclass(slots=True)
class Result:
    """The result of one benchmark.

    Args:
        document: JSON-able, values in percent; see each benchmark's ``score``.
        rows: The same as a table.
        details: One dict a record: ``id``, ``score`` (0…1), ``parts``, ``answer``, ``why``.
    """

    document: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)


def check_options(scorer: str, answer_style: str) -> None:
    """Refuse an unknown scorer or answer style.

    Raises:
        UsageError: Names the known ones.
    """
    if scorer not in SCORERS:
        raise UsageError(f"unknown scorer {scorer!r}", f"scorers: {', '.join(SCORERS)}")
    if answer_style not in ANSWER_STYLES:
        raise UsageError(f"unknown answer style {answer_style!r}", f"answer styles: {', '.join(ANSWER_STYLES)}")


def official_text(text: str, answer_style: str) -> str:
    """What the official readers are given: the text, or for ``think`` the answer taken out of its tags."""
    text = writable(text)
    return answer_region(text).text.strip() if answer_style == "think" else text


def writable(text: str) -> str:
    """The text with what UTF-8 cannot hold (half a surrogate pair) as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def header(
    benchmark: str,
    records: Sequence[Record],
    predictions: Mapping[str, str],
    details: Sequence[Mapping[str, Any]],
    unreadable: Sequence[str],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The part of a document that all benchmarks share: how it was scored, and how much could be read.

    ``missing`` counts records without a prediction and ``unreadable`` predictions without an answer; both score 0.
    ``parse_rate`` is the percentage of records with a readable answer.
    """
    ids = {record.id for record in records}
    missing = len(ids - predictions.keys())
    why = {detail["id"]: detail["why"] for detail in details} if unreadable else {}
    read = len(records) - missing - len(unreadable)
    return {
        "schema": 1,
        "benchmark": benchmark,
        **options,
        "n": len(records),
        "missing": missing,
        "unreadable": len(unreadable),
        "unknown_ids": len(predictions.keys() - ids),
        "parse_rate": percent(read / len(records)) if records else None,
        "unreadable_examples": [
            {"id": name, "text": writable(predictions[name][:120]), "why": why[name]} for name in unreadable[:_EXAMPLES]
        ],
    }


def percent(value: float | None) -> float | None:
    """A share as a percentage; None and NaN as None."""
    return None if value is None or math.isnan(value) else 100 * float(value)


def scene_index(records: Sequence[Record]) -> tuple[NDArray[np.int64], int]:
    """The scene of each record as a number from 0, and how many scenes there are.

    A record without a scene is a scene of its own.
    """
    seen: dict[tuple[str | None, str], int] = {}
    index = [
        seen.setdefault((record.meta.dataset, record.meta.scene) if record.meta.scene else (None, record.id), len(seen))
        for record in records
    ]
    return np.asarray(index, dtype=np.int64), len(seen)


def sum_by_scene(values: Floats, scenes: NDArray[np.int64], count: int) -> Floats:
    """Sums ``(S, …)`` of per-record values ``(N, …)`` over scenes."""
    out = np.zeros((count, *values.shape[1:]))
    np.add.at(out, scenes, values)
    return out


def scene_draws(count: int, seed: int, rounds: int = ROUNDS) -> Floats:
    """How often each of ``count`` scenes occurs in each resample: ``(rounds, count)``, for ``draws @ sums``."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    return draws.astype(np.float64)


def interval(samples: Floats) -> tuple[float, float] | None:
    """The 95 % percentile interval of resampled shares, in percent.

    Args:
        samples: ``(rounds,)``; NaN marks a resample in which nothing was measured.

    Returns:
        None where fewer than half of the resamples measured anything.
    """
    good = samples[~np.isnan(samples)]
    if 2 * len(good) < len(samples) or not len(good):
        return None
    low, high = np.percentile(good, (2.5, 97.5))
    return 100 * float(low), 100 * float(high)


def ratio(numerator: Floats, denominator: Floats, empty: float = math.nan) -> Floats:
    """``numerator / denominator`` with ``empty`` where the denominator is 0."""
    safe = np.where(denominator == 0, 1.0, denominator)
    return np.where(denominator == 0, empty, numerator / safe)


def mean_of_known(values: Floats) -> Floats:
    """The mean over the last axis without NaN; NaN where all of it is NaN."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def clean(value: Any) -> Any:
    """The value as plain JSON: NaN and infinities as None, numpy numbers and arrays as Python's.

    >>> clean({"a": np.float64("nan"), "b": (1, np.int64(2))})
    {'a': None, 'b': [1, 2]}
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def environment() -> dict[str, str]:
    """Versions of rft3d, Python and the packages that numbers may depend on; imports none of them."""
    out = {"rft3d": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out
