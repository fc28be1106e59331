"""``rft3d prepare embodiedscan``: 3RScan, Matterport3D and ARKitScenes, and descriptions of their objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rft3d_cli.commands.prepare._shared import (
    CONTENT,
    EMBODIEDSCAN_HINT,
    INPUT,
    OUTPUT,
    AllowEvaluation,
    Decimals,
    DryRun,
    FirstFrame,
    HeldOutFiles,
    InView,
    Json,
    Limit,
    MaxBad,
    MediaRoot,
    MinArea,
    OnError,
    Quiet,
    Resume,
    Shard,
    Workers,
    announce,
    app,
    check_forms,
    check_inputs,
    media_places,
    next_command,
    no_file,
    no_folder,
    show,
    ticking,
    view_rule,
    work_policy,
)

_DATA_HINT = "it holds 3rscan/, matterport3d/ and arkitscenes/ as they are published; docs/data.md says what to unpack"


@app.command(
    epilog="$ rft3d prepare embodiedscan --data data --annotations embodiedscan_infos_train.pkl "
    "-o data/es/train.jsonl\n\n"
    "$ rft3d prepare embodiedscan --data data --annotations embodiedscan_infos_val.pkl "
    "--descriptions embodiedscan_val_vg.json -o data/es/val-refer.jsonl"
)
def embodiedscan(
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="EmbodiedScan's data folder, where its img_path starts: DIR/3rscan, DIR/matterport3d …",
            rich_help_panel=INPUT,
        ),
    ] = Path("data"),
    annotations: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="EmbodiedScan infos, .pkl or .json; no code in a pickle can run.",
            rich_help_panel=INPUT,
        ),
    ] = Path("embodiedscan_infos_train.pkl"),
    descriptions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="EmbodiedScan's embodiedscan_*_vg.json: grounding records instead of detection.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    datasets: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            show_default="3rscan,matterport3d,arkitscenes; with --descriptions scannet too",
            help="Data sets to use, with commas between them.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="[train|val|test|FILE]",
            help="Name of the split, or a file with one sample_idx a line; by default read from the input's name.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, show_default="4; 32 for descriptions", help="Frames a record.", rich_help_panel=CONTENT
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="3",
            help="List entries between two frames of a clip.",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    per_scene: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="all of train, 10 of val",
            help="Clips of a scan, chosen with the seed.",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    decimals: Decimals = 2,
    in_view: InView = 0.0,
    min_area: MinArea = 0.0,
    first_frame: FirstFrame = False,
    target: Annotated[
        Literal["largest", "first"],
        typer.Option(
            help="Of descriptions: name the frame in which the box covers most, or the first that lists the object.",
            rich_help_panel=CONTENT,
        ),
    ] = "largest",
    seed: Annotated[int, typer.Option(min=0, help="For --per-scene.", rich_help_panel=CONTENT)] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/embodiedscan.jsonl"
    ),
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
    """Turn EmbodiedScan's other data sets, or its descriptions, into records."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.prepare.embodied_detection import DATASETS, STRIDE, Source, chosen_datasets, prepare_embodiedscan
    from rft3d_cli.prepare.embodied_grounding import DESCRIBED, UtteranceSpec, prepare_utterances
    from rft3d_cli.prepare.splits import resolve_split

    check_forms(as_json, quiet)
    if descriptions is not None and (first_frame or stride is not None or per_scene is not None):
        raise UsageError(
            "--first-frame, --stride and --per-scene are for detection clips",
            "leave them away with --descriptions; --target first names the first frame that lists the object",
        )
    names = chosen_datasets(datasets, DATASETS if descriptions is None else DESCRIBED)
    check_inputs(
        no_folder(data, "EmbodiedScan's data", _DATA_HINT),
        no_file(annotations, "annotations", EMBODIEDSCAN_HINT),
        None if descriptions is None else no_file(descriptions, "descriptions", EMBODIEDSCAN_HINT),
    )
    # Nothing is extracted: the pictures are used where they are.
    places, root = media_places(out, data, None, data, media_root, dry_run=True)
    chosen = resolve_split(split, descriptions, annotations)
    source = Source(data, annotations, names, chosen, places.store)
    policy = work_policy(workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes)
    announce(annotations, quiet)
    with ticking("scans", quiet) as begin:
        if descriptions is None:
            report = prepare_embodiedscan(
                source=source,
                out=out,
                media_root=root,
                frames=frames or 4,
                stride=stride or STRIDE,
                decimals=decimals,
                per_scene=per_scene,
                seed=seed,
                view=view_rule(in_view, min_area, first_frame),
                policy=policy,
                begin=begin,
            )
        else:
            report = prepare_utterances(
                source=source,
                descriptions=descriptions,
                out=out,
                media_root=root,
                spec=UtteranceSpec(frames or 32, target, decimals),
                view=view_rule(in_view, min_area),
                policy=policy,
                begin=begin,
            )
    benchmark, recipe = ("detection", "det") if descriptions is None else ("scanrefer", "grounding")
    show(report, "prepare embodiedscan", next_command(report, chosen.name, benchmark, recipe), as_json, quiet)
