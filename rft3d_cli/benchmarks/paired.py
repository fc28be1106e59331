"""Two evaluations of the same records: differences of every number, with intervals and tests by scene.

Every number is a function of sums over records, so one table of sums by scene serves all of them: means, means of
means, and ratios of counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rft3d_cli.benchmarks.result import interval, percent, scene_draws, sum_by_scene
from rft3d_cli.geometry.boxes import Floats

FLIPS = 5000
"""Random flips of a permutation test; with few scenes all flips are tried."""
TEST = "two-sided sign-flip permutation test"
LEVEL = 0.05
"""A smaller p shows a difference."""
FEWEST = 6
"""Scenes with which the test can fall below :data:`LEVEL` at all: of ``n`` scenes, p is at least ``2 / 2**n``."""


@dataclass(frozen=True)
class Measure:
    """One number of a result.

    Args:
        key: Dotted, as in ``result.json``.
        n: Records that it rests on.
        of: From sums ``(…, K)`` of the table's columns to the number ``(…)``, a share, NaN where nothing is measured.
    """

    key: str
    n: int
    of: Callable[[Floats], Floats]


@dataclass
class Table:
    """Columns that are summed over records, for both sides, and the numbers made of the sums."""

    a: list[Floats] = field(default_factory=list)
    b: list[Floats] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    width: int = 0

    def add(self, a: Floats, b: Floats) -> slice:
        """Columns ``(N, k)`` of both sides; where they stand in the sums.

        >>> table = Table()
        >>> table.add(np.ones((2, 3)), np.zeros((2, 3))), table.add(np.ones((2, 1)), np.ones((2, 1)))
        (slice(0, 3, None), slice(3, 4, None))
        """
        self.a.append(a)
        self.b.append(b)
        start, self.width = self.width, self.width + a.shape[1]
        return slice(start, self.width)


@dataclass(frozen=True)
class Difference:
    """A number on both sides, in percent; None where it was not measured.

    Args:
        key: Dotted, as in ``result.json``.
        n: Records that it rests on.
        a: The first evaluation's.
        b: The second one's.
        difference: ``b - a``.
        interval: The 95 % interval of the difference, from resampling scenes; None with one scene.
        p: Of the test that the sides do not differ; None with one scene.
    """

    key: str
    n: int
    a: float | None
    b: float | None
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None

    def verdict(self, scenes: int) -> str | None:
        """``better`` or ``worse`` where interval and test agree on it, ``not shown`` where they do not.

        The interval alone is too narrow with few scenes: with eight it shows every eighth difference that is none.

        Args:
            scenes: How many scenes, or whatever is resampled, the number rests on.

        Returns:
            None with fewer than :data:`FEWEST` scenes, or where interval or test are missing: it cannot be told.

        >>> row = Difference("overall", 8, 40.0, 50.0, 10.0, (2.0, 18.0), 0.03)
        >>> row.verdict(8), row.verdict(5)
        ('better', None)
        """
        if self.interval is None or self.p is None or scenes < FEWEST:
            return None
        low, high = self.interval
        if self.p >= LEVEL or low <= 0 <= high:
            return "not shown"
        return "better" if low > 0 else "worse"


def differences(table: Table, scenes: Sequence[int], count: int, seed: int) -> list[Difference]:
    """Every number of a table on both sides.

    Intervals resample scenes, the same ones for both sides. The test swaps the two sides of whole scenes at random, or
    in all ways where these are fewer than :data:`FLIPS`: where the sides are alike, each swap is as likely as none.

    Args:
        table: Of ``N`` records.
        scenes: ``(N,)`` the scene of each record, numbered from 0.
        count: How many scenes there are.
        seed: Of resamples and swaps.

    >>> table = Table()
    >>> table.add(np.array([[0.0], [1.0], [0.0], [1.0]]), np.ones((4, 1)))
    slice(0, 1, None)
    >>> table.measures.append(Measure("share", 4, lambda sums: sums[..., 0] / 4))
    >>> found = differences(table, [0, 1, 2, 3], 4, seed=0)[0]
    >>> found.a, found.b, found.difference, found.p
    (50.0, 100.0, 50.0, 0.5)
    """
    index = np.asarray(scenes, dtype=np.int64)
    a, b = (sum_by_scene(np.concatenate(side, axis=1), index, count) for side in (table.a, table.b))
    total_a, total_b = a.sum(axis=0), b.sum(axis=0)
    more = count > 1
    draws = scene_draws(count, seed) if more else None
    drawn = None if draws is None else (draws @ a, draws @ b)
    moved = _swapped(b - a, seed) if more else None
    out = []
    for measure in table.measures:
        before, after = float(measure.of(total_a)), float(measure.of(total_b))
        gain, bounds, p = after - before, None, None
        if drawn is not None and moved is not None and not math.isnan(gain):
            bounds = interval(measure.of(drawn[1]) - measure.of(drawn[0]))
            chance = measure.of(total_b - moved) - measure.of(total_a + moved)
            p = _p_value(chance, gain, exact=_all_swaps(count))
        out.append(
            Difference(measure.key, measure.n, percent(before), percent(after), percent(gain), bounds, p)
        )  # fmt: skip
    return out


def _all_swaps(count: int) -> bool:
    return 2**count <= FLIPS if count < 64 else False


def _swapped(gains: Floats, seed: int) -> Floats:
    """What moves from one side to the other where scenes are swapped: ``(swaps, K)`` of gains ``(S, K)``."""
    count = len(gains)
    if _all_swaps(count):
        numbers = np.arange(2**count)[:, None]
        return ((numbers >> np.arange(count)) & 1).astype(np.float64) @ gains
    rng = np.random.default_rng([seed, 1])
    # By parts: with thousands of scenes all swaps at once would not fit into memory.
    parts = [rng.integers(0, 2, (500, count)).astype(np.float64) @ gains for _ in range(FLIPS // 500)]
    return np.concatenate(parts)


def _p_value(chance: Floats, gain: float, *, exact: bool) -> float:
    """The share of swaps that differ as much as what was seen, which counts as one of the random ones."""
    known = chance[~np.isnan(chance)]
    as_far = int((np.abs(known) >= abs(gain) - 1e-9).sum())
    return as_far / len(known) if exact else (as_far + 1) / (len(known) + 1)
