"""``rft3d inspect``: records as pictures, a page and numbers, before a model is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

EPILOG = (
    "$ rft3d inspect data/rooms/val.jsonl --out look/val\n\n"
    "$ rft3d inspect data/rooms/val.jsonl --task detection --stats"
)

Task = Literal["detection", "grounding", "choice", "number", "text"]


def inspect(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Records, as rft3d prepare writes them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where sheet.png and index.html go; by default "
                                  "look, or with --stats nowhere.", show_default=False)
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=200, metavar="INT",
                          help="Records to show, evenly spaced over the file and over its tasks.")
    ] = 8,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Show this record; repeat for more.",
                                       show_default=False)
    ] = None,
    task: Annotated[Task | None, typer.Option(help="Only records of this task.", show_default=False)] = None,
    media_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What media paths are relative to; by default the records' "
                                  "folder.", show_default=False)
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Saved answers, drawn dashed beside the targets with their IoU.",
                                  show_default=False)
    ] = None,
    width: Annotated[
        int, typer.Option("--max-width", min=640, max=8000, metavar="INT", help="Most pixels across sheet.png.")
    ] = 1600,
    stats: Annotated[bool, typer.Option("--stats", help="Count and measure all records.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the path of the page.")] = False,
) -> None:  # fmt: skip
    """Look at records: their frames with the target boxes drawn, prompts, answers, and numbers over all of them.

    Boxes beside their objects, or in no frame, are the sign of a wrong convention: see docs/records.md.
    """
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms, ticking
    from rft3d_cli.errors import DataError, UsageError
    from rft3d_cli.records import read_predictions, read_records
    from rft3d_cli.show.inspect_stats import statistics

    check_forms(as_json, quiet)
    pictures = out is not None or not stats
    if quiet and not pictures:
        raise UsageError("--quiet prints the path of the page, and --stats alone writes none", "add --out DIR")
    source = read_records(records, media_root=media_root)
    if task is not None:
        known = sorted({record.task for record in source.records})
        source.records = [record for record in source.records if record.task == task]
        if not source.records:
            raise DataError(f"{records} holds no {task} records", f"it has {', '.join(known)}")
    said = None if predictions is None else read_predictions(predictions)
    with ticking("measuring", quiet) as begin:
        found = statistics(source.records, begin(len(source.records)))
    document: dict[str, Any] = {"records": str(records), "n": len(source.records)}
    if pictures:
        from rft3d_cli.show import inspect as showing

        with ticking("reading frames", quiet) as begin:
            done = begin(len(ids) if ids else min(count, len(source.records)))
            looks = showing.inspect(source, count=count, ids=ids or [], predictions=said, done=done)
        files = showing.write_looks(looks, source, found, out or Path("look"), width=width)
        document |= {"shown": showing.document(looks), "files": [str(path) for path in files]}
    if stats:
        document["stats"] = found
    if as_json:
        console.print_json(document)
    elif quiet:
        typer.echo(document["files"][-1])
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    """What was shown and where it is; then the numbers."""
    from rft3d_cli import console
    from rft3d_cli.show.inspect_stats import tables

    shown = console.out()
    for title, rows in tables(document["stats"]) if "stats" in document else []:
        shown.print(console.clean(title), style="bold", markup=False)
        console.columns(rows if any(rows[0]) else rows[1:])
        shown.print()
    if "files" not in document:
        return
    looks = document["shown"]
    frames, missing = sum(len(look["frames"]) for look in looks), sum(look["missing"] for look in looks)
    boxes = [box for look in looks for box in look["boxes"]]
    nowhere = sum(box["trouble"] is not None for box in boxes)
    shown.print(
        f"  shown    {len(looks):,} of {document['n']:,} records, {frames:,} frames, {len(boxes):,} boxes", markup=False
    )
    if nowhere:
        console.warn(f"{nowhere:,} of the {len(boxes):,} boxes shown lie in no frame")
    if missing:
        first = next(look["missing_why"] for look in looks if look["missing"])
        console.warn(f"{missing:,} of {frames:,} frames could not be read, first: {first}")
    for path in document["files"]:
        shown.print(f"  wrote    {console.clean(path)}", markup=False)
