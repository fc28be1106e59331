"""``rft3d demo``: the whole road on one laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "$ rft3d demo\n\n$ rft3d demo --quick --out look/demo"


def demo(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where everything goes; an earlier demo is replaced.")
    ] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="The same road in a minute, too short to learn much.")] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start with SFT of a fresh model instead of the shipped one.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="INT", help="Of rooms and training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the folder.")] = False,
) -> None:
    """Build rooms, prepare records, train by GRPO, evaluate before and after, draw an answer. About 5 minutes."""
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.demo import PLANS, run_demo, table

    check_forms(as_json, quiet)
    root = context.find_root().command

    def run(arguments: list[str]) -> None:
        code = root.main(arguments, prog_name="rft3d", standalone_mode=False)
        if code:  # Typer turns Ctrl-C into a code, and the demo must not go on after it
            raise typer.Exit(code)

    with console.quietly(quiet):
        document = run_demo(run, out, PLANS["quick" if quick else "full"], from_scratch=from_scratch, seed=seed)
    if quiet:
        typer.echo(out)
        return
    if as_json:
        console.print_json(document)
        return
    console.out().print(table(document))
    for name, path in document["files"]:
        console.out().print(f"{name:<22}{path}", markup=False)
    console.note(
        "tiny only knows synthetic rooms; for real scans: rft3d prepare scannet --help, rft3d recipes show det"
    )
