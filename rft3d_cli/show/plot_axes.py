"""Axes: what they span, and the round numbers along them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Point = tuple[float, float]

TINY = 1e-11
"""What counts as nothing: no learning rate is as small."""


@dataclass(frozen=True)
class Axis:
    """What an axis spans, and the round numbers along it."""

    ends: Point
    ticks: Floats
    names: list[str]


def rounded(values: Floats, *, zero: bool, most: float = math.inf) -> Axis:
    """An axis that begins and ends at round numbers, and with ``zero`` at 0 where that is not far.

    A single value stands amid its axis, which ends at ``most`` where nothing can be above it.
    """
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if zero and 0 < low <= 0.5 * high:
        low = 0.0
    size = max(abs(low), abs(high))
    if high - low < max(1e-9 * size, TINY):
        low, high = (low - 0.1 * size, max(high, min(high + 0.1 * size, most))) if size > TINY else (0.0, 1.0)
    step = tick_step(low, high, 5)
    return axis_along((step * math.floor(low / step + 1e-6), step * math.ceil(high / step - 1e-6)), step)


def axis_along(ends: Point, step: float) -> Axis:
    """An axis between two ends, with a tick at each multiple of ``step``."""
    values = _multiples(*ends, step)
    return Axis(ends, values, [number(float(value), step) for value in values])


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> Floats:
    """Round numbers between two numbers.

    Args:
        low: Not above ``high``.
        high: The other end.
        most: How many there may be, at least 2.
        whole: Only whole numbers.

    >>> ticks(0.07, 0.93, 6).tolist(), ticks(1, 60, 5, whole=True).tolist()
    ([0.2, 0.4, 0.6, 0.8], [20.0, 40.0, 60.0])
    """
    return _multiples(low, high, tick_step(low, high, most, whole=whole))


def _multiples(low: float, high: float, step: float) -> Floats:
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    values = [number * step for number in range(first, last + 1)]
    return np.array([round(value, _decimals(step)) if step < 1 else value for value in values])


def tick_step(low: float, high: float, most: int, *, whole: bool = False) -> float:
    """The distance of ticks, 1, 2 or 5 times a power of ten, of which at most ``most`` lie between two numbers."""
    rough = max((high - low) / max(most - 1, 1), 1e-12 * max(1e-3, abs(low), abs(high)))
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return max(step, 1.0) if whole else step


def _decimals(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))


def number(value: float, step: float = 0.0) -> str:
    """A number as it stands at an axis, or with three digits where no distance of ticks is given.

    >>> number(0.5, 0.1), number(1500, 500), number(25000, 5000), number(2e-6, 1e-6), number(0.46268)
    ('0.5', '1,500', '25k', '2e-06', '0.463')
    """
    if 1e-4 <= step < 1000 and abs(value) < 1e5:
        return f"{value + 0.0:,.{_decimals(step)}f}"
    if abs(value) >= 1e12:
        return f"{value:.3g}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and (step or abs(value) >= 1e4):
            return f"{value / size:.4g}{letter}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
