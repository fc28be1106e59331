"""``rft3d prepare posed``: your own posed scans with boxes to detection and grounding records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rft3d_cli.commands.prepare._shared import (
    CONTENT,
    INPUT,
    OUTPUT,
    AllowEvaluation,
    Decimals,
    DryRun,
    HeldOutFiles,
    Json,
    Limit,
    MaxBad,
    MediaRoot,
    OnError,
    Quiet,
    Resume,
    Shard,
    SplitName,
    Workers,
    app,
    check_forms,
    check_inputs,
    next_command,
    no_folder,
    shell_line,
    show,
    ticking,
    work_policy,
)

if TYPE_CHECKING:
    from rft3d_cli.prepare.pipeline import Report


@app.command(
    epilog="$ rft3d prepare posed --scans flats -o flats/train.jsonl\n\n"
    "$ rft3d prepare posed --scans flats --task detection --frames 4 --stride 0.5s --split val -o flats/val.jsonl"
)
def posed(
    scans: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="DIR/SCENE/ with frames/, cameras.json and boxes.json; descriptions.json and depth/ where there are "
            "any. docs/own-data.md describes them.",
            rich_help_panel=INPUT,
        ),
    ] = Path("scans"),
    split: SplitName = None,
    task: Annotated[
        Literal["all", "detection", "grounding"],
        typer.Option(help="Which records; grounding needs descriptions.json.", rich_help_panel=CONTENT),
    ] = "all",
    frames: Annotated[
        int, typer.Option(min=1, max=64, help="Frames of a detection clip.", rich_help_panel=CONTENT)
    ] = 4,
    stride: Annotated[
        str | None,
        typer.Option(
            metavar="N|Ns",
            show_default="1s, or 30 frames where times are not known",
            help="From one frame of a clip to the next: frames (30) or seconds (0.5s).",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    per_scene: Annotated[
        int | None,
        typer.Option(
            min=1, show_default="all", help="Clips of a scene, chosen with the seed.", rich_help_panel=CONTENT
        ),
    ] = None,
    grounding_frames: Annotated[
        int,
        typer.Option(
            min=1,
            max=256,
            help="Frames of a grounding record, evenly spaced over the scan.",
            rich_help_panel=CONTENT,
        ),
    ] = 32,
    target: Annotated[
        Literal["largest", "first"],
        typer.Option(
            help="The frame that a grounding record names, of those that show the object: by the area of its box, or "
            "the first.",
            rich_help_panel=CONTENT,
        ),
    ] = "largest",
    visibility: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the picture from which on an object is shown: of the depth image within its box, or without "
            "depth, of the picture that its box covers.",
            rich_help_panel=CONTENT,
        ),
    ] = 0.003,
    decimals: Decimals = 2,
    seed: Annotated[int, typer.Option(min=0, help="For --per-scene.", rich_help_panel=CONTENT)] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/posed.jsonl"
    ),
    media_root: MediaRoot = None,
    workers: Workers = None,
    on_error: OnError = "quarantine",
    max_bad: MaxBad = 0.01,
    dry_run: DryRun = False,
    resume: Resume = False,
    shard: Shard = "1/1",
    limit: Limit = None,
    held_out: HeldOutFiles = None,
    allow_evaluation_scenes: AllowEvaluation = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn your own posed scans and boxes into detection and grounding records; frames are named where they lie."""
    from rft3d_cli.prepare.pipeline import Store, check_out, lies_in, relative_name
    from rft3d_cli.prepare.posed import PosedSpec, prepare_posed, read_stride
    from rft3d_cli.prepare.splits import resolve_split

    check_forms(as_json, quiet)
    check_out(out)
    hint = (
        "lay your scans out as docs/own-data.md describes; synthetic rooms need nothing: "
        "rft3d prepare rooms --out data/rooms"
    )
    check_inputs(no_folder(scans, "scans", hint))
    root = media_root or (out.parent if lies_in(scans, out.parent) else scans)
    chosen = resolve_split(split, scans)
    with ticking("scenes", quiet) as begin:
        report = prepare_posed(
            scans=scans,
            store=Store(scans, relative_name(scans, root), write=False),
            split=chosen,
            out=out,
            media_root=root,
            spec=PosedSpec(
                task=task,
                frames=frames,
                stride=None if stride is None else read_stride(stride),
                grounding_frames=grounding_frames,
                target=target,
                visibility=visibility,
                per_scene=per_scene,
                seed=seed,
                decimals=decimals,
            ),
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    show(report, "prepare posed", _next(report, chosen.name), as_json, quiet)


def _next(report: Report, split: str) -> str:
    kinds = {"clips": ("detection", "det"), "descriptions": ("scanrefer", "grounding")}
    found = [words for key, words in kinds.items() if report.counts.get(key)]
    # A recipe rewards one task; what two tasks are worth is looked at first.
    return next_command(report, split, *found[0]) if len(found) == 1 else shell_line("rft3d rewards check", report.out)
