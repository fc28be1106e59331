"""``rft3d prepare scannet``: ScanNet scans and boxes to detection records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rft3d_cli.commands.prepare._shared import (
    CONTENT,
    EMBODIEDSCAN_HINT,
    INPUT,
    OUTPUT,
    SCANNET_HINT,
    AllowEvaluation,
    Decimals,
    DryRun,
    FirstFrame,
    HeldOutFiles,
    InView,
    Json,
    Limit,
    MaxBad,
    Media,
    MediaRoot,
    MinArea,
    OnError,
    Posed,
    Quiet,
    Resume,
    Scans,
    Shard,
    SplitName,
    Workers,
    announce,
    app,
    check_forms,
    check_inputs,
    from_rooms,
    media_places,
    next_command,
    no_file,
    no_folder,
    show,
    ticking,
    view_rule,
    work_policy,
)


@app.command(
    epilog="$ rft3d prepare scannet --scans scans --annotations embodiedscan_infos_train.pkl "
    "-o data/det/train.jsonl\n\n"
    "$ rft3d prepare scannet --scans scans --split scannetv2_val.txt -o data/own/val.jsonl"
)
def scannet(
    scans: Scans = Path("scans"),
    posed_images: Posed = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="EmbodiedScan infos, .pkl or .json; no code in a pickle can run. Without it, boxes are the "
            "axis-aligned extents of the scans' own labelled meshes.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    split: SplitName = None,
    frames: Annotated[int, typer.Option(min=1, max=64, help="Frames a clip.", rich_help_panel=CONTENT)] = 4,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="3 entries of the frame list: 30 on ScanNet",
            help="Raw frames between two of a clip.",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    per_scene: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="all of train, 10 of val",
            help="Clips of a scene, chosen with the seed.",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    decimals: Decimals = 2,
    visibility: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            show_default="0.003",
            help="Without --annotations: share of a depth image that makes an object visible.",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    in_view: InView = 0.0,
    min_area: MinArea = 0.0,
    first_frame: FirstFrame = False,
    seed: Annotated[int, typer.Option(min=0, help="For --per-scene.", rich_help_panel=CONTENT)] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/scannet.jsonl"
    ),
    media: Media = None,
    media_root: MediaRoot = None,
    workers: Workers = None,
    on_error: OnError = "quarantine",
    max_bad: MaxBad = 0.01,
    resume: Resume = False,
    shard: Shard = "1/1",
    limit: Limit = None,
    held_out: HeldOutFiles = None,
    allow_evaluation_scenes: AllowEvaluation = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn ScanNet scans and EmbodiedScan boxes into 3D detection records."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.prepare.scannet import prepare_detection
    from rft3d_cli.prepare.splits import resolve_split

    check_forms(as_json, quiet)
    if annotations is not None and visibility is not None:
        raise UsageError(
            "--visibility is for scans without --annotations, which say themselves what a frame shows",
            "how much of it a frame must have in view is --in-view SHARE and --min-area PIXELS",
        )
    check_inputs(
        None if posed_images is not None else no_folder(scans, "scans", SCANNET_HINT),
        None if posed_images is None else no_folder(posed_images, "exported frames", "check --posed-images"),
        None if annotations is None else no_file(annotations, "annotations", EMBODIEDSCAN_HINT),
    )
    places, root = media_places(out, scans, posed_images, media, media_root, dry_run)
    chosen = resolve_split(split, annotations)
    announce(annotations, quiet)
    with ticking("scenes", quiet) as begin:
        report = prepare_detection(
            scans=scans if scans.is_dir() else None,
            annotations=annotations,
            places=places,
            split=chosen,
            out=out,
            media_root=root,
            frames=frames,
            stride=stride,
            decimals=decimals,
            per_scene=per_scene,
            seed=seed,
            visibility=0.003 if visibility is None else visibility,
            view=view_rule(in_view, min_area, first_frame),
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    recipe = "tiny-det" if from_rooms(annotations) else "det"
    show(report, "prepare scannet", next_command(report, chosen.name, "detection", recipe), as_json, quiet)
