"""What others published, as rows to read a result beside; the rows are in ``published.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rft3d_cli.benchmarks.metrics import lookup
from rft3d_cli.errors import UsageError

HEADLINES = {"detection": "classes_20.f1", "scanrefer": "overall.acc@0.25", "vsibench": "overall"}
"""The number that rows of each benchmark are ordered by."""
NEAR = 5
"""Rows beside a result."""


@dataclass(frozen=True)
class PublishedRow:
    """One published result.

    Args:
        benchmark: Its name.
        model: As its authors call it, with what matters of its training.
        size: Parameters, such as ``4B``; None where it was not named.
        year: Of the source, where it was named.
        numbers: Percent by the dotted keys of our results; the headline is among them.
        source: Where the numbers were read.
    """

    benchmark: str
    model: str
    size: str | None
    year: int | None
    numbers: Mapping[str, float]
    source: str

    @property
    def headline(self) -> float:
        """The number that it is ordered by."""
        return self.numbers[HEADLINES[self.benchmark]]


@cache
def _tree() -> dict[str, Any]:
    from rft3d_cli.recipe_yaml import parse_file

    path = Path(__file__).with_name("published.yaml")
    return parse_file(path.read_bytes(), path.name)[0]


def note() -> str:
    """What holds for all rows: what differs between them.

    >>> "noise" in note()
    True
    """
    return str(_tree()["note"])


def known() -> list[str]:
    """The benchmarks with published rows.

    >>> known()
    ['detection', 'scanrefer', 'vsibench']
    """
    return list(_tree()["results"])


def data_of(benchmark: str) -> tuple[str, int]:
    """What a benchmark's published numbers are of, in words, and how many records that is.

    >>> data_of("vsibench")
    ('VSI-Bench, mean of 8 tasks', 5130)
    """
    said = _tree()["benchmarks"][benchmark]
    return said["data"], int(said["records"])


def published_rows(benchmark: str) -> list[PublishedRow]:
    """Published results of a benchmark, the highest last.

    Args:
        benchmark: Its name.

    Returns:
        The rows; none of a benchmark of which none are kept.

    Raises:
        UsageError: On an unknown benchmark.

    >>> [(row.model, row.headline) for row in published_rows("vsibench")[-2:]]
    [('Cambrian-P-7B', 73.7), ('human', 79.2)]
    """
    from rft3d_cli.benchmarks.registry import BENCHMARKS

    if benchmark not in BENCHMARKS:
        raise UsageError(f"unknown benchmark {benchmark!r}", f"benchmarks: {', '.join(BENCHMARKS)}")
    tree = _tree()
    rows = [
        PublishedRow(
            benchmark,
            row["model"],
            row.get("size"),
            int(row["year"]) if row.get("year") else None,
            {key: float(value) for key, value in row["numbers"].items()},
            tree["sources"][row["source"]],
        )
        for row in tree["results"].get(benchmark, [])
    ]
    return sorted(rows, key=lambda row: row.headline)


def context_rows(benchmark: str, document: Mapping[str, Any], count: int = NEAR) -> list[PublishedRow]:
    """The published rows nearest to a result, by the headline.

    Args:
        benchmark: Its name.
        document: The result.
        count: How many at most.

    Returns:
        The rows, the highest last; none where the result has no headline.

    >>> [row.model for row in context_rows("vsibench", {"overall": 62.5}, count=2)]
    ["VG LLM-8B, SFT on its own and VLM-3R's data", '3D-RFT-4B']
    """
    rows = published_rows(benchmark)
    own = lookup(document, HEADLINES[benchmark]) if rows else None
    if own is None:
        return []
    near = sorted(rows, key=lambda row: abs(row.headline - own))[:count]
    return sorted(near, key=lambda row: row.headline)
