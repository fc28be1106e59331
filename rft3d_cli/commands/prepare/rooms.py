"""``rft3d prepare rooms``: build synthetic rooms in the formats of the real data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rft3d_cli import console
from rft3d_cli.commands.prepare._shared import (
    CONTENT,
    OUTPUT,
    DryRun,
    Json,
    Quiet,
    Workers,
    app,
    check_forms,
    shell_line,
    ticking,
    two_numbers,
)


@app.command(
    epilog="$ rft3d prepare rooms --out data/rooms\n\n"
    "$ rft3d prepare rooms --scenes 2000 --kind uncertain --no-clips --out data/uncertain"
)
def rooms(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.", rich_help_panel=OUTPUT)
    ] = Path("data/rooms"),
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Rooms to build.", rich_help_panel=CONTENT)] = 100,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Everything follows from it.", rich_help_panel=CONTENT)
    ] = 0,
    kind: Annotated[
        Literal["plain", "clear", "uncertain"],
        typer.Option(
            "--kind",
            help="clear: a piece or two before the camera. uncertain: also boxes that no frame shows; no language.",
            rich_help_panel=CONTENT,
        ),
    ] = "plain",
    objects: Annotated[
        str,
        typer.Option(
            "--objects", metavar="MIN-MAX", help="Pieces of furniture, in plain rooms only.", rich_help_panel=CONTENT
        ),
    ] = "4-8",
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Length of a scan.", rich_help_panel=CONTENT)
    ] = 12.0,
    fps: Annotated[float, typer.Option("--fps", min=0.1, help="Raw frames a second.", rich_help_panel=CONTENT)] = 5.0,
    size: Annotated[
        str, typer.Option("--size", metavar="WxH", help="Pixels of colour and depth.", rich_help_panel=CONTENT)
    ] = "160x120",
    antialias: Annotated[
        int, typer.Option("--antialias", help="Colour samples along a pixel's side: 1, 3, 5.", rich_help_panel=CONTENT)
    ] = 3,
    val: Annotated[
        float, typer.Option("--val", min=0, max=1, help="Share of the rooms in the val split.", rich_help_panel=CONTENT)
    ] = 0.2,
    clips: Annotated[
        bool, typer.Option(help="mp4 clips and, but for uncertain rooms, VSI-Bench questions.", rich_help_panel=CONTENT)
    ] = True,
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build synthetic rooms with exact ground truth, in the file formats of ScanNet, ScanRefer and VSI-Bench."""
    import time

    from rft3d_cli.prepare.pipeline import cpu_count
    from rft3d_cli.prepare.rooms.build import RoomsSpec, build, check_free

    check_forms(as_json, quiet)
    spec = RoomsSpec(
        scenes,
        seed,
        kind,
        two_numbers(objects, "-", "--objects", "4-8"),
        seconds,
        fps,
        two_numbers(size, "x", "--size", "160x120"),
        antialias,
        val,
        clips,
    )
    check_free(out)
    start = time.monotonic()
    counts: dict[str, Any] = {}
    if not dry_run:
        with ticking("rooms", quiet) as begin:
            counts = build(spec, out, workers=workers or cpu_count(), done=begin(scenes))["counts"]
    elapsed = time.monotonic() - start
    command = shell_line(
        *("rft3d prepare scannet --scans", out / "scans"),
        *("--annotations", out / "embodiedscan_infos_train.json"),
        *("--frames", "2", "--decimals", "1", "-o", out / "train.jsonl"),
    )
    if as_json:
        head = {"command": "prepare rooms", "out": str(out), "scenes": scenes, "frames": spec.frames}
        console.print_json(
            {**head, "counts": counts, "dry_run": dry_run, "seconds": round(elapsed, 3), "next": command}
        )
    elif quiet:
        typer.echo(out)
    elif dry_run:
        typer.echo(f"  would write {out}  ({scenes:,} scenes of {spec.frames:,} frames)")
    else:
        for split, numbers in counts.items():
            typer.echo(f"  {split:<8} " + "   ".join(f"{key} {value:,}" for key, value in numbers.items()))
        typer.echo(f"  wrote    {out}  ({scenes:,} scenes, {console.duration(elapsed)})   {out / 'rooms.card.json'}")
        console.note(f"  next     {command}")
