"""How a result is printed, and what is warned of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from rft3d_cli import console
from rft3d_cli.benchmarks.metrics import lookup

if TYPE_CHECKING:
    from rft3d_cli.benchmarks.registry import Benchmark
    from rft3d_cli.benchmarks.result import Result


FEW = 10
"""Scenes below which resampling them says little."""


def headline(benchmark: Benchmark, document: Mapping[str, Any]) -> str:
    """The number by which the benchmark is quoted."""
    return _number(lookup(document, benchmark.headline))


def show(benchmark: Benchmark, result: Result, document: Mapping[str, Any], *, context: bool) -> None:
    """The result as a table for people."""
    _line(f"{benchmark.name}, scorer {document['scorer']}, {document['n']:,} records")
    rows: list[tuple[str, ...]] = [("measured", "metric", "n", "score", "95% CI")]
    for row in result.rows:
        spread = "" if row.interval is None else f"{row.interval[0]:.1f} – {row.interval[1]:.1f}"
        rows.append((row.name, row.metric, f"{row.n:,}", _number(row.value), spread))
    _table(rows)
    if document.get("intervals"):
        few = ": too few to trust intervals" if document["scenes"] < FEW else ""
        _line(f"percent; intervals from resampling {document['scenes']:,} scenes{few}")
    if document.get("incomplete"):
        _line("incomplete: some tasks have no question here, and the mean is of the others")
    if context:
        _context(benchmark, document)
    other = document.get("other_scorer")
    if isinstance(other, dict):
        _line(f"scorer {other['scorer']}: {benchmark.headline} {_number(other[benchmark.headline])}")
    _line(f"unreadable {document['unreadable']:,}, missing {document['missing']:,}")
    for example in document["unreadable_examples"][:3]:
        _line(f"  {example['id']}: {example['why']}: {_short(example['text'])}")


def _line(text: str) -> None:
    """One line to stdout, without loading rich for it."""
    typer.echo(console.clean(text))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else f"{line[:57]}...")


def _table(rows: list[tuple[str, ...]]) -> None:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        _line("  ".join([*left, *right]).rstrip())


def _context(benchmark: Benchmark, document: Mapping[str, Any]) -> None:
    """Published results under the same numbers."""
    from rft3d_cli.commands._published import show_context

    show_context(benchmark.name, document)


def warn_of(document: Mapping[str, Any], records: int, *, has_predictions: bool) -> None:
    """Say what tells of the wrong file or the wrong reading."""
    if document["missing"] and has_predictions:
        console.warn(f"{document['missing']:,} of {records:,} records have no prediction and score 0")
    if document["unknown_ids"]:
        console.warn(f"{document['unknown_ids']:,} predictions are for ids that the data does not have")
    refined = document.get("refined")
    if refined and refined["without_proposals"]:
        console.warn(f"{refined['without_proposals']:,} of {records:,} records have no proposals and are not refined")
    angles = document.get("angles")
    if angles is None:
        return
    from rft3d_cli.benchmarks.eras import Evidence

    evidence = Evidence(**angles["evidence"])
    if evidence.era not in (None, angles["read_as"]):
        console.warn(
            f"{getattr(evidence, evidence.era):,} of {evidence.boxes:,} turned boxes overlap their targets better as "
            f"{evidence.era} angles: --angles {evidence.era} reads them so"
        )
