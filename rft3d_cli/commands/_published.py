"""``rft3d evaluate published``: results of the field, for context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rft3d_cli.benchmarks.published import PublishedRow

EPILOG = "$ rft3d evaluate published\n\n$ rft3d evaluate published vsibench --json"


def _complete(incomplete: str) -> list[str]:
    from rft3d_cli.benchmarks.published import known

    return [name for name in known() if name.startswith(incomplete)]


def published(
    benchmark: Annotated[
        str | None,
        typer.Argument(metavar="[BENCHMARK]", autocompletion=_complete, help="Its rows only.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the tables without the remark on them.")] = False,
) -> None:
    """List published results: model, numbers, source."""
    from rft3d_cli import console
    from rft3d_cli.benchmarks.published import data_of, known, note, published_rows
    from rft3d_cli.commands.prepare._shared import check_forms

    check_forms(as_json, quiet)
    found = {name: published_rows(name) for name in ([benchmark] if benchmark else known())}
    if as_json:
        results = [asdict(row) for rows in found.values() for row in rows]
        console.print_json({"note": note(), "results": results})
        return
    for name, rows in found.items():
        if not rows:
            console.out().print(f"no published results of {name} are kept", markup=False)
            continue
        console.out().print(f"{name}: {data_of(name)[0]}", markup=False)
        console.columns(_table(rows))
        console.out().print("")
    if not quiet and any(found.values()):
        console.note(note())


def show_context(benchmark: str, document: Mapping[str, Any]) -> None:
    """Print the published rows nearest to a result, with the result among them.

    Args:
        benchmark: Its name.
        document: The result.
    """
    from rft3d_cli import console
    from rft3d_cli.benchmarks.published import HEADLINES, PublishedRow, context_rows, data_of, note

    rows = context_rows(benchmark, document)
    if not rows:
        console.out().print("no published results to read this beside", markup=False)
        return
    keys = dict.fromkeys(key for row in rows for key in row.numbers)
    numbers = {key: value for key in keys if (value := _lookup(document, key)) is not None}
    own = PublishedRow(benchmark, "this result", None, None, numbers, "")
    what, records = data_of(benchmark)
    console.out().print(f"published ({what}):", markup=False)
    console.columns(_table(sorted([*rows, own], key=lambda row: row.numbers[HEADLINES[benchmark]])))
    if document.get("n") != records:
        count = document.get("n")
        console.out().print(f"these are of {records:,} records, this result is of {count:,}", markup=False)
    console.out().print(f"rft3d evaluate published {benchmark} lists all. {note()}", markup=False)


def _lookup(document: Mapping[str, Any], key: str) -> float | None:
    from rft3d_cli.benchmarks.metrics import lookup

    return lookup(document, key)


def _table(rows: Sequence[PublishedRow]) -> list[tuple[str, ...]]:
    """A head, and a line a row; a number that a row lacks is a dash."""
    keys = list(dict.fromkeys(key for row in rows for key in row.numbers))
    out: list[tuple[str, ...]] = [("model", "size", *keys, "source")]
    for row in rows:
        numbers = [
            f"{row.numbers[key]:.1f}".rjust(len(key)) if key in row.numbers else "–".rjust(len(key)) for key in keys
        ]
        out.append((row.model, row.size or "", *numbers, row.source))
    return out
