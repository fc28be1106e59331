"""Mean relative accuracy, VSI-Bench's measure of numbers: its scorer and the reward are this one function."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

MRA_LIMITS = (
    0.050000000000000044,
    0.10000000000000009,
    0.15000000000000002,
    0.19999999999999996,
    0.25,
    0.30000000000000004,
    0.35,
    0.4,
    0.44999999999999996,
    0.5,
)
"""``1 - t`` for t = 0.95 … 0.50, to the bit as VSI-Bench's scorer computes them: answers do sit on the edges."""

UNITS = {"object_abs_distance": "m", "object_size_estimation": "cm", "room_size_estimation": "m2"}
"""The unit that a VSI-Bench question type asks for."""


def mean_relative_accuracy(value: float, target: float, *, strict: bool) -> float:
    """The share of the ten thresholds that a number's relative error stays within.

    Args:
        value: The answer.
        target: The right number. A target of 0 has no relative error: 1 where the answer is exactly it, else 0.
        strict: True for the paper's reward (error ``<`` limit), False for VSI-Bench's scorer (``≤``).

    Returns:
        0, 0.1 … 1.

    >>> mean_relative_accuracy(3, 4, strict=True), mean_relative_accuracy(3, 4, strict=False)
    (0.5, 0.6)
    """
    if target == 0 or not (math.isfinite(value) and math.isfinite(target)):
        return float(target == value)
    error = abs(value - target) / abs(target)
    return (10 - (bisect_right if strict else bisect_left)(MRA_LIMITS, error)) / 10
