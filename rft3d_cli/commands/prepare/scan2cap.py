"""``rft3d prepare scan2cap``: descriptions of objects to caption records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rft3d_cli.commands.prepare._shared import (
    CONTENT,
    EMBODIEDSCAN_HINT,
    INPUT,
    OUTPUT,
    SCANNET_HINT,
    AllowEvaluation,
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
    no_file,
    no_folder,
    shell_line,
    show,
    ticking,
    work_policy,
)

if TYPE_CHECKING:
    from rft3d_cli.prepare.pipeline import Report


@app.command(
    epilog="$ rft3d prepare scan2cap --scans scans --descriptions ScanRefer_filtered_val.json "
    "--annotations embodiedscan_infos_test.pkl --proposals scannet_val_pred_box.json -o data/captions/val.jsonl\n\n"
    "$ rft3d prepare scan2cap --scans data/rooms/scans --descriptions data/rooms/ScanRefer_filtered_train.json "
    "--annotations data/rooms/embodiedscan_infos_train.json --frames 8 -o data/rooms/train-captions.jsonl"
)
def scan2cap(
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
    proposals: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Ask about a detector's boxes: scannet_val_pred_box.json, or a folder of SCENE.mask.npz. Without it, "
            "about the objects' own.",
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
    seed: Annotated[int, typer.Option(min=0, help="For wrap-around frames.", rich_help_panel=CONTENT)] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/scan2cap.jsonl"
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
    """Turn ScanRefer descriptions into caption records: the place of an object, and what people said of it."""
    from rft3d_cli.prepare.scan2cap import CaptionSpec, prepare_captions
    from rft3d_cli.prepare.splits import resolve_split

    check_forms(as_json, quiet)
    check_inputs(
        no_folder(scans, "scans", SCANNET_HINT),
        None if posed_images is None else no_folder(posed_images, "exported frames", "check --posed-images"),
        no_file(
            descriptions,
            "descriptions",
            "ScanRefer is given on request at https://github.com/daveredrum/ScanRefer; rooms bring their own",
        ),
        no_file(annotations, "annotations", EMBODIEDSCAN_HINT),
        None
        if proposals is None or proposals.is_dir()
        else no_file(proposals, "proposals", "without --proposals records ask about the objects' own boxes"),
    )
    places, root = media_places(out, scans, posed_images, media, media_root, dry_run)
    chosen = resolve_split(split, descriptions, annotations)
    announce(annotations, quiet)
    with ticking("scenes", quiet) as begin:
        report = prepare_captions(
            scans=scans,
            descriptions=descriptions,
            annotations=annotations,
            proposals=proposals,
            places=places,
            split=chosen,
            out=out,
            media_root=root,
            spec=CaptionSpec(frames, sampler, seed),
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    following = _next(report, chosen.name, "tiny-sft" if from_rooms(annotations) else "grounding-sft")
    show(report, "prepare scan2cap", following, as_json, quiet)


def _next(report: Report, split: str, recipe: str) -> str:
    # Captions have no reward: they are learnt from, or scored.
    elsewhere = report.media_root != report.out.parent
    if split == "train":
        root = [f"data.media_root={report.media_root}"] if elsewhere else []
        return shell_line("rft3d sft --recipe", recipe, f"data.train={report.out}", *root)
    place: list[str | Path] = ["--media-root", report.media_root] if elsewhere else []
    return shell_line("rft3d evaluate scan2cap --data", report.out, *place)
