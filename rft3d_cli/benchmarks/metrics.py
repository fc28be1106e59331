"""Numbers of a result by their names, and held against what was asked of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rft3d_cli.errors import ThresholdError, UsageError

NO_METRICS = {
    "schema", "n", "scenes", "damaged_clips", "details", "seed", "intervals", "data", "model", "versions", "run",
    "evidence", "iou_threshold", "classes", "tp", "fp", "fn", "missing", "unreadable",
    "unknown_ids", "dropped", "invalid", "other_labels", "without_proposals", "without_iou", "references", "records",
    "chance", "rule", "boxes", "left_out", "threshold", "min_confidence", "wrong@0.25", "wrong@0.5",
    "wrong_share@0.25", "wrong_share@0.5",
}  # fmt: skip
"""Numbers of a result, by a part of their key, of which more is not better."""


MOST = 24
"""Metrics that a hint lists."""


def lookup(document: Mapping[str, Any], key: str) -> float | None:
    """A number of a document by its dotted key.

    Args:
        document: A result.
        key: Names of nested dicts and of the number, with dots between.

    Returns:
        The number; None where there is none under the key.

    >>> lookup({"overall": {"acc@0.25": 40.0}}, "overall.acc@0.25")
    40.0
    >>> lookup({"overall": {"acc@0.25": 40.0}}, "acc@0.25") is None
    True
    """
    value: Any = document
    for part in _parts(key):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _parts(key: str) -> list[str]:
    """The parts of a dotted key; the dots of ``acc@0.25`` and ``at_0.5`` belong to theirs."""
    return re.split(r"(?<!@0)(?<!at_0)\.", key)


def check_threshold(document: Mapping[str, Any], wanted: str) -> None:
    """Hold a result against ``METRIC=VALUE``, in percent.

    Args:
        document: The result.
        wanted: A dotted key of the document, or its last part where only one key ends so, and the least value.

    Raises:
        UsageError: Where the metric is unknown or the value no number.
        ThresholdError: Where the value is not reached, or the metric was not measured.

    >>> check_threshold({"micro": {"f1": 40.0}}, "f1=40")
    >>> check_threshold({"micro": {"f1": 40.0}}, "f1=50")
    Traceback (most recent call last):
    rft3d_cli.errors.ThresholdError: micro.f1 is 40.00, below 50
    """
    name, least = threshold(wanted)
    key, value = metric(document, name)
    if value is None or value < least:
        shown = "not measured" if value is None else f"{value:.2f}"
        raise ThresholdError(f"{key} is {shown}, below {least:g}")


def metric(document: Mapping[str, Any], name: str) -> tuple[str, float | None]:
    """A metric of a result by its dotted key, or by the end of it where only one of the shortest keys ends so.

    Args:
        document: The result.
        name: The key or its end. Numbers of which more is not better (:data:`NO_METRICS`) are no metrics.

    Returns:
        The whole key, and the value, None where nothing was measured.

    Raises:
        UsageError: Where none does, or several.

    >>> document = {"overall": {"n": 5, "mean_iou": 40.0}, "unique": {"acc@0.5": None}}
    >>> metric(document, "mean_iou"), metric(document, "acc@0.5")
    (('overall.mean_iou', 40.0), ('unique.acc@0.5', None))
    """
    known = {key: value for key, value in _numbers(document) if NO_METRICS.isdisjoint(_parts(key))}
    matches = [name] if name in known else [key for key in known if key.endswith(f".{name}")]
    # That of the whole goes before those of its parts.
    least = min((len(_parts(key)) for key in matches), default=0)
    matches = [key for key in matches if len(_parts(key)) == least]
    if len(matches) != 1:
        shown = sorted(matches or known, key=lambda key: len(_parts(key)))
        more = f", and {len(shown) - MOST:,} more: --json shows them" if len(shown) > MOST else ""
        near = ", ".join(shown[:MOST]) + more
        raise UsageError(f"--fail-under: {'no' if not matches else 'more than one'} metric {name!r}", f"one of {near}")
    return matches[0], known[matches[0]]


def threshold(wanted: str) -> tuple[str, float]:
    """The metric and the least value of ``METRIC=VALUE``.

    Args:
        wanted: What the user gave to ``--fail-under``.

    Returns:
        The name as it is written, known or not, and a finite number.

    Raises:
        UsageError: Where it has another form.

    >>> threshold("micro.f1=40")
    ('micro.f1', 40.0)
    """
    name, _, text = wanted.partition("=")
    try:
        least = float(text)
    except ValueError:
        least = math.nan
    if not math.isfinite(least):
        raise UsageError(f"--fail-under {wanted!r} is not METRIC=VALUE", "for example --fail-under micro.f1=40")
    return name, least


def _numbers(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float | None]]:
    out: list[tuple[str, float | None]] = []
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out += _numbers(value, f"{name}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            out.append((name, None if value is None else float(value)))
    return out
