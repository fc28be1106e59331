"""``rft3d report``: runs as one page: curves, scores and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

EPILOG = "$ rft3d report runs/det\n\n$ rft3d report runs/det runs/det-slow --out compare.html --png figures"


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, also of runs that are still going on.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PAGE", help="The page; by default report.html in the run's "
                                  "folder, or here for several runs.", show_default=False)
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="DIR", help="Also write each chart as a PNG, and all in one.",
                                  show_default=False)
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=0, max=100, metavar="INT", help="Records whose answers are shown.")
    ] = 6,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the path of the page.")] = False,
) -> None:  # fmt: skip
    """Show runs: rewards, held-out scores, precision and recall, what training went through, and answers.

    One page that needs neither network nor script. Several runs share its charts.
    """
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.show import report as showing

    check_forms(as_json, quiet)
    found = showing.make_report(runs, count)
    page = out if out is not None else showing.default_page(runs, found.runs)
    showing.write_page(found, page)
    files = [page, *(showing.write_pictures(found, png) if png is not None else [])]
    document: dict[str, Any] = {**found.document(), "files": [str(path) for path in files]}
    if as_json:
        console.print_json(document)
    elif quiet:
        typer.echo(str(page))
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    """The runs' main numbers, what stands out, and where the page is."""
    from rft3d_cli import console
    from rft3d_cli.show.report_page import HEAD, cells

    console.columns([("run", *HEAD), *((one["name"], *cells(one)) for one in document["runs"])])
    for one in document["runs"]:
        for words in [*one["observations"], *one["notes"]]:
            console.warn(f"{one['name']}: {words.removesuffix('.')}")
    page, *pictures = document["files"]
    console.out().print(f"  wrote    {console.clean(page)}", markup=False)
    if pictures:
        words = f"{console.clean(pictures[0])} and {len(pictures) - 1} charts beside it"
        console.out().print(f"  wrote    {words}", markup=False)
