"""``rft3d prepare export``: records for other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rft3d_cli import console
from rft3d_cli.commands.prepare._shared import CONTENT, INPUT, OUTPUT, Json, Quiet, app, check_forms

ADVICE = {
    "swift": "swift sft or rlhf --dataset {out}; rewards get the column `record`: rft3d_cli.rewards.as_trl",
    "easyr1": "data.train_files={out} data.prompt_key=problem; data.answer_key=record lets a reward use rft3d's",
    "llava": "conversations and images, as LLaVA and its descendants read them",
}


@app.command(
    epilog="$ rft3d prepare export data/rooms/train.jsonl --format swift -o data/rooms/train-swift.jsonl\n\n"
    "$ rft3d prepare export data/rooms/train.jsonl --format llava --paths relative -o data/rooms/train-llava.json"
)
def export(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Records, as rft3d prepare writes them.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help=".jsonl, or .json for one list.", rich_help_panel=OUTPUT),
    ],
    form: Annotated[
        Literal["swift", "easyr1", "llava"],
        typer.Option("--format", help="Whose format: ms-swift, EasyR1 or LLaVA.", rich_help_panel=CONTENT),
    ] = "swift",
    paths: Annotated[
        Literal["absolute", "relative"],
        typer.Option(help="How media are named; relative to the media root, or not.", rich_help_panel=CONTENT),
    ] = "absolute",
    media_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the media paths; by default the records' own.",
                     rich_help_panel=INPUT),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Write records in the format of another trainer; each row carries its record, so rewards go along."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.prepare.export import export as write
    from rft3d_cli.records import read_records

    check_forms(as_json, quiet)
    if out.suffix not in (".json", ".jsonl"):
        raise UsageError(f"{out} does not end in .jsonl or .json", f"--out {out.with_suffix('.jsonl')}")
    found = read_records(records, media_root=media_root)
    counts = write(found.records, out, form, found.media_root if paths == "absolute" else None)
    if as_json:
        console.print_json({"command": "prepare export", "out": str(out), "format": form, **counts})
    elif quiet:
        typer.echo(out)
    else:
        typer.echo(f"  wrote    {out}  ({counts['rows']:,} rows)")
        if counts["without_answer"]:
            console.warn(f"{counts['without_answer']:,} rows have no answer to teach")
        console.note(f"  use      {ADVICE[form].format(out=out)}")
