"""``rft3d prepare merge``: the shards of one run into one record file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rft3d_cli import console
from rft3d_cli.commands.prepare._shared import OUTPUT, Json, Quiet, app, check_forms


@app.command(
    epilog="$ rft3d prepare merge data/train-*of4.jsonl -o data/train.jsonl\n\n"
    "$ rft3d prepare merge data/train-1of2.jsonl data/train-2of2.jsonl -o data/train.jsonl --json"
)
def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART...", help="Record files of all shards, cards beside them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Join the record files of --shard 1/N to N/N: the bytes are those of a single run."""
    from rft3d_cli.prepare.merge import merge as join
    from rft3d_cli.prepare.pipeline import check_out

    check_forms(as_json, quiet)
    check_out(out)
    card = join(parts, out)
    records, digest = card["counts"]["records"], card["records"]["sha256"]
    if as_json:
        console.print_json(
            {"command": "prepare merge", "out": str(out), "records": records, "sha256": digest, "shards": len(parts)}
        )
    elif quiet:
        typer.echo(out)
    else:
        typer.echo(f"  wrote    {out}  ({records:,} records, sha256 {digest[:8]})   {out.with_suffix('.card.json')}")
