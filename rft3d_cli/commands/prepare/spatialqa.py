"""``rft3d prepare spatialqa``: questions about scans, with answers computed from their boxes."""

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

SCANS = Path("scans")


@app.command(
    epilog="$ rft3d prepare spatialqa --scans scans --annotations embodiedscan_infos_train.pkl "
    "--types object_rel_direction,route_planning -o data/rooms/train-spatial.jsonl\n\n"
    "$ rft3d prepare spatialqa --posed flats -o flats/questions.jsonl"
)
def spatialqa(
    scans: Scans = SCANS,
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
    posed: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Your own scans instead, in the layout of prepare posed: DIR/SCENE/cameras.json.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    videos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Ask about DIR/SCENE.mp4 or DIR/DATASET/SCENE.mp4 instead of extracted frames.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    split: SplitName = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--types",
            metavar="TYPE,...",
            show_default="all",
            help="Question types of VSI-Bench, by its names; may be repeated.",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    per_type: Annotated[
        int, typer.Option(min=1, max=100, help="Questions of a type about a scene, at most.", rich_help_panel=CONTENT)
    ] = 3,
    frames: Annotated[
        int, typer.Option(min=1, max=1024, help="Frames, evenly spaced over the scan.", rich_help_panel=CONTENT)
    ] = 32,
    answer_style: Annotated[
        Literal["direct", "think"],
        typer.Option(
            help="What prompts ask for: the answer alone, as the benchmark does, or a chain of thought before it.",
            rich_help_panel=CONTENT,
        ),
    ] = "direct",
    visibility: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            show_default="0.003",
            help="Without --annotations: share of a depth image (or of the picture, see prepare posed) that makes an "
            "object visible.",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="For what is asked, the words, and the letters.", rich_help_panel=CONTENT)
    ] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/spatialqa.jsonl"
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
    """Ask VSI-Bench's eight kinds of questions about scans, with answers computed from their boxes."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.prepare.spatialqa import QuestionSpec, prepare_questions, question_types, video_root
    from rft3d_cli.prepare.splits import resolve_split

    check_forms(as_json, quiet)
    kinds = question_types(types or [])
    if videos is not None and (media is not None or posed_images is not None):
        raise UsageError("--videos takes the place of frames", "leave --media and --posed-images away")
    if annotations is not None and visibility is not None:
        raise UsageError(
            "--visibility is for scans without --annotations, which say themselves what a frame shows",
            "leave it away",
        )
    if posed is not None:
        given = {"--scans": scans != SCANS, "--posed-images": posed_images, "--annotations": annotations}
        if other := next((name for name, value in {**given, "--media": media}.items() if value), None):
            raise UsageError(f"--posed and {other} exclude each other", "scans of the posed layout bring all they need")
    # With pictures and boxes from elsewhere, scans only tell how large rooms are.
    without = scans == SCANS and annotations is not None and (posed_images is not None or videos is not None)
    without = without or posed is not None
    check_inputs(
        None if without else no_folder(scans, "scans", SCANNET_HINT),
        None if posed is None else no_folder(posed, "posed scans", "lay them out as docs/own-data.md describes"),
        None if posed_images is None else no_folder(posed_images, "exported frames", "check --posed-images"),
        None if videos is None else no_folder(videos, "videos", "check --videos; rooms have theirs in vsibench/rooms"),
        None if annotations is None else no_file(annotations, "annotations", EMBODIEDSCAN_HINT),
    )
    if videos is not None and media_root is None:
        media_root = video_root(out, videos)
    media_or_root = media if videos is None else media_root
    # Own scans are named where they lie, as exported frames are.
    lying = posed_images if posed is None or videos is not None else posed
    places, root = media_places(out, scans, lying, media_or_root, media_root, dry_run)
    chosen = resolve_split(split, annotations or posed)
    announce(annotations, quiet)
    with ticking("scenes", quiet) as begin:
        report = prepare_questions(
            scans=scans if posed is None and scans.is_dir() else None,
            annotations=annotations,
            videos=videos,
            places=places,
            split=chosen,
            out=out,
            media_root=root,
            spec=QuestionSpec(kinds, per_type, frames, seed, answer_style=answer_style),
            visibility=0.003 if visibility is None else visibility,
            posed=posed,
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    recipe = "tiny-mix" if from_rooms(annotations) else "vsi"
    show(report, "prepare spatialqa", next_command(report, chosen.name, "vsibench", recipe), as_json, quiet)
