"""``rft3d prepare scanrefer``: descriptions of objects to grounding records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    HeldOutFiles,
    Json,
    Limit,
    MaxBad,
    Media,
    MediaRoot,
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
    work_policy,
)


@app.command(
    epilog="$ rft3d prepare scanrefer --scans scans --descriptions ScanRefer_filtered_train.json "
    "--annotations embodiedscan_infos_train.pkl -o data/grounding/train.jsonl\n\n"
    "$ rft3d prepare scanrefer --scans data/rooms/scans --descriptions data/rooms/ScanRefer_filtered_train.json "
    "--annotations data/rooms/embodiedscan_infos_train.json --frames 8 --ground-truth instance "
    "-o data/rooms/train-grounding.jsonl"
)
def scanrefer(
    scans: Scans = Path("scans"),
    posed_images: Posed = None,
    descriptions: Annotated[
        Path, typer.Option(metavar="FILE", help="ScanRefer's JSON; it is only read.", rich_help_panel=INPUT)
    ] = Path("ScanRefer_filtered_train.json"),
    annotations: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="EmbodiedScan infos of the same scenes, .pkl or .json.", rich_help_panel=INPUT
        ),
    ] = Path("embodiedscan_infos_train.pkl"),
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="scannetv2-labels.combined.tsv: unique and multiple by ScanRefer's classes. Without it, by the names "
            "of the scan's objects.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    split: SplitName = None,
    frames: Annotated[
        int, typer.Option(min=1, max=256, help="Frames, evenly spaced over the scan.", rich_help_panel=CONTENT)
    ] = 32,
    sampler: Annotated[
        Literal["chronological", "wrap-around"],
        typer.Option(
            help="chronological: in order. wrap-around: as VG-LLM, from a random frame on, past the end to the "
            "beginning; for parity only.",
            rich_help_panel=CONTENT,
        ),
    ] = "chronological",
    samplings: Annotated[
        int,
        typer.Option(
            min=1, max=100, help="Records a description, each with its own wrap-around frames.", rich_help_panel=CONTENT
        ),
    ] = 1,
    target: Annotated[
        Literal["largest", "first"],
        typer.Option(
            help="The frame to name, of those that show the object: by the area of its box, or the first.",
            rich_help_panel=CONTENT,
        ),
    ] = "largest",
    ground_truth: Annotated[
        Literal["aabb", "instance"],
        typer.Option(
            help="aabb: ScanRefer's, the extent of the object's mesh. instance: the annotated, oriented box.",
            rich_help_panel=CONTENT,
        ),
    ] = "aabb",
    decimals: Decimals = 2,
    seed: Annotated[int, typer.Option(min=0, help="For wrap-around frames.", rich_help_panel=CONTENT)] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/scanrefer.jsonl"
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
    """Turn ScanRefer descriptions into grounding records: the frame that shows the object, and its box there."""
    from rft3d_cli.prepare.scanrefer import GroundingSpec, prepare_grounding
    from rft3d_cli.prepare.splits import resolve_split

    check_forms(as_json, quiet)
    spec = GroundingSpec(frames, target, ground_truth, decimals, sampler=sampler, samplings=samplings, seed=seed)
    scanrefer_hint = "ScanRefer is given on request at https://github.com/daveredrum/ScanRefer; rooms bring their own"
    check_inputs(
        no_folder(scans, "scans", SCANNET_HINT),
        None if posed_images is None else no_folder(posed_images, "exported frames", "check --posed-images"),
        no_file(descriptions, "descriptions", scanrefer_hint),
        no_file(annotations, "annotations", EMBODIEDSCAN_HINT),
        None if labels is None else no_file(labels, "labels", "it comes with ScanNet"),
    )
    places, root = media_places(out, scans, posed_images, media, media_root, dry_run)
    chosen = resolve_split(split, descriptions, annotations)
    announce(annotations, quiet)
    with ticking("scenes", quiet) as begin:
        report = prepare_grounding(
            scans=scans,
            descriptions=descriptions,
            annotations=annotations,
            labels=labels,
            places=places,
            split=chosen,
            out=out,
            media_root=root,
            spec=spec,
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    recipe = "tiny-mix" if from_rooms(annotations) else "grounding"
    show(report, "prepare scanrefer", next_command(report, chosen.name, "scanrefer", recipe), as_json, quiet)
