"""``rft3d prepare sqa3d``: questions of someone who stands in a room to text records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rft3d_cli.commands.prepare._shared import (
    CONTENT,
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
    Shard,
    SplitName,
    Workers,
    app,
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
    work_policy,
)
from rft3d_cli.samplers import Sampler

if TYPE_CHECKING:
    from rft3d_cli.prepare.pipeline import Report

HINT = "SQA3D's files are at https://zenodo.org/record/7544818, in sqa_task/balanced"


@app.command(
    epilog="$ rft3d prepare sqa3d --questions sqa_task/balanced/v1_balanced_questions_test_scannetv2.json "
    "--videos sqa3d/video -o data/sqa3d/test.jsonl\n\n"
    "$ rft3d prepare sqa3d --questions sqa_task/balanced/v1_balanced_questions_train_scannetv2.json "
    "--scans scans -o data/sqa3d/train.jsonl"
)
def sqa3d(
    questions: Annotated[
        Path,
        typer.Option(metavar="FILE", help="v1_balanced_questions_*_scannetv2.json.", rich_help_panel=INPUT),
    ] = Path("sqa_task/balanced/v1_balanced_questions_test_scannetv2.json"),
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="v1_balanced_sqa_annotations_*_scannetv2.json; by default the one beside the questions.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    videos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Clips: DIR/SCENE.mp4, or as VSI-Bench has them, DIR/scannet/SCENE.mp4 or DIR/scannet.zip.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    scans: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Frames out of scans as downloaded instead: DIR/SCENE/SCENE.sens.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    posed_images: Posed = None,
    split: SplitName = None,
    frames: Annotated[
        int, typer.Option(min=1, max=1024, help="Frames that a model is to see.", rich_help_panel=CONTENT)
    ] = 32,
    sampler: Annotated[
        Sampler,
        typer.Option(help="How they are to be chosen of a clip; of a scan evenly.", rich_help_panel=CONTENT),
    ] = "linspace-floor",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/sqa3d.jsonl"
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
    """Turn SQA3D's questions into text records: where someone stands in a room, what they ask, and the answer."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.prepare.pipeline import check_out
    from rft3d_cli.prepare.splits import resolve_split
    from rft3d_cli.prepare.sqa3d import SituatedSpec, prepare_situated

    check_forms(as_json, quiet)
    check_out(out)
    if sum(source is not None for source in (videos, scans, posed_images)) != 1:
        raise UsageError(
            "one of --videos, --scans and --posed-images says where the frames come from",
            "--videos DIR takes clips, DIR/SCENE.mp4",
        )
    annotations = annotations or questions.with_name(questions.name.replace("_questions_", "_sqa_annotations_"))
    check_inputs(
        no_file(questions, "questions", HINT),
        no_file(annotations, "annotations", HINT),
        None if videos is None else no_folder(videos, "clips", "check --videos"),
        None if scans is None else no_folder(scans, "scans", SCANNET_HINT),
        None if posed_images is None else no_folder(posed_images, "exported frames", "check --posed-images"),
    )
    places = None
    if videos is None:
        places, media_root = media_places(out, scans or Path("scans"), posed_images, media, media_root, dry_run)
    chosen = resolve_split(split, questions)
    with ticking("scenes", quiet) as begin:
        report = prepare_situated(
            questions=questions,
            annotations=annotations,
            videos=videos,
            places=places,
            media=media or out.parent / "media",
            split=chosen,
            out=out,
            media_root=media_root,
            spec=SituatedSpec(frames, sampler),
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    recipe = "tiny-sft" if from_rooms(scans or videos) else "vsi-sft"
    show(report, "prepare sqa3d", _next(report, chosen.name, recipe), as_json, quiet)


def _next(report: Report, split: str, recipe: str) -> str:
    # Answers in words have no reward: they are learnt from.
    if split != "train":
        return next_command(report, split, "sqa3d", recipe)
    root = [] if report.media_root == report.out.parent else [f"data.media_root={report.media_root}"]
    return shell_line("rft3d sft --recipe", recipe, f"data.train={report.out}", *root)
