"""``rft3d prepare``: raw data in, records out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rft3d_cli import console
from rft3d_cli.commands._prepare import (
    CONTENT,
    EMBODIEDSCAN_HINT,
    INPUT,
    OUTPUT,
    SCANNET_HINT,
    Decimals,
    DryRun,
    Json,
    MaxBad,
    Media,
    MediaRoot,
    OnError,
    Posed,
    Quiet,
    Scans,
    SplitName,
    Workers,
    announce,
    check_forms,
    check_inputs,
    from_rooms,
    media_places,
    next_command,
    no_file,
    no_folder,
    shell_line,
    show,
    ticking,
    two_numbers,
    work_policy,
)
from rft3d_cli.samplers import Sampler

app = typer.Typer(
    no_args_is_help=True,
    help="Convert ScanNet, EmbodiedScan, ScanRefer or VSI-Bench to records, or build synthetic rooms.",
    epilog="$ rft3d prepare rooms --out data/rooms\n\n"
    "$ rft3d prepare scannet --scans data/rooms/scans --annotations data/rooms/embodiedscan_infos_train.json "
    "-o data/rooms/train.jsonl",
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
        float,
        typer.Option(
            min=0,
            max=1,
            help="Without --annotations: share of a depth image that makes an object visible.",
            rich_help_panel=CONTENT,
        ),
    ] = 0.003,
    seed: Annotated[int, typer.Option(min=0, help="For --per-scene.", rich_help_panel=CONTENT)] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/scannet.jsonl"
    ),
    media: Media = None,
    media_root: MediaRoot = None,
    workers: Workers = None,
    on_error: OnError = "quarantine",
    max_bad: MaxBad = 0.01,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn ScanNet scans and EmbodiedScan boxes into 3D detection records."""
    from rft3d_cli.prepare.scannet import prepare_detection
    from rft3d_cli.prepare.splits import resolve_split

    check_forms(as_json, quiet)
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
            visibility=visibility,
            policy=work_policy(workers, on_error, max_bad, dry_run),
            begin=begin,
        )
    recipe = "tiny-det" if from_rooms(annotations) else "det"
    show(report, "prepare scannet", next_command(report, chosen.name, "detection", recipe), as_json, quiet)


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
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/scanrefer.jsonl"
    ),
    media: Media = None,
    media_root: MediaRoot = None,
    workers: Workers = None,
    on_error: OnError = "quarantine",
    max_bad: MaxBad = 0.01,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn ScanRefer descriptions into grounding records: the frame that shows the object, and its box there."""
    from rft3d_cli.prepare.scanrefer import GroundingSpec, prepare_grounding
    from rft3d_cli.prepare.splits import resolve_split

    check_forms(as_json, quiet)
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
            spec=GroundingSpec(frames, target, ground_truth, decimals),
            policy=work_policy(workers, on_error, max_bad, dry_run),
            begin=begin,
        )
    recipe = "tiny-mix" if from_rooms(annotations) else "grounding"
    show(report, "prepare scanrefer", next_command(report, chosen.name, "scanrefer", recipe), as_json, quiet)


@app.command(
    epilog="$ rft3d prepare vsibench --questions vsibench/test.jsonl --videos vsibench -o data/vsi/test.jsonl\n\n"
    "$ rft3d prepare vsibench --questions data/rooms/vsibench/train.jsonl --videos data/rooms/vsibench "
    "-o data/rooms/train-questions.jsonl"
)
def vsibench(
    questions: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="VSI-Bench's test.jsonl or parquet, or a file like it.", rich_help_panel=INPUT
        ),
    ] = Path("vsibench/test.jsonl"),
    videos: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="DIR/DATASET/SCENE.mp4, or the published DIR/DATASET.zip.", rich_help_panel=INPUT
        ),
    ] = Path("vsibench"),
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Name of the split; by default read from the name of the questions.", rich_help_panel=INPUT),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, max=1024, help="Frames that a model is to see.", rich_help_panel=CONTENT)
    ] = 32,
    sampler: Annotated[
        Sampler,
        typer.Option(help="How they are to be chosen.", rich_help_panel=CONTENT),
    ] = "linspace-floor",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out questions whose video is missing.", rich_help_panel=INPUT)
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/vsibench.jsonl"
    ),
    media: Media = None,
    media_root: MediaRoot = None,
    on_error: OnError = "quarantine",
    max_bad: MaxBad = 0.01,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn VSI-Bench questions into choice and number records; packed videos are unpacked."""
    from rft3d_cli.prepare.pipeline import check_out
    from rft3d_cli.prepare.splits import resolve_split
    from rft3d_cli.prepare.vsibench import ClipSpec, prepare_vsibench

    check_forms(as_json, quiet)
    check_out(out)
    hint = "download it from https://huggingface.co/datasets/nyu-visionx/VSI-Bench; rooms bring their own"
    check_inputs(no_file(questions, "questions", hint), no_folder(videos, "videos", hint))
    chosen = resolve_split(split, questions)
    with ticking("questions", quiet) as begin:
        report = prepare_vsibench(
            questions=questions,
            videos=videos,
            media=media or out.parent / "media",
            media_root=media_root,
            split=chosen,
            out=out,
            spec=ClipSpec(frames, sampler),
            allow_missing=allow_missing,
            policy=work_policy(1, on_error, max_bad, dry_run),
            begin=begin,
        )
    recipe = "tiny-mix" if from_rooms(videos) else "vsi"
    show(report, "prepare vsibench", next_command(report, chosen.name, "vsibench", recipe), as_json, quiet)
