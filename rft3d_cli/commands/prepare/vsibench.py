"""``rft3d prepare vsibench``: questions about videos to choice and number records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rft3d_cli.commands.prepare._shared import (
    CONTENT,
    INPUT,
    OUTPUT,
    AllowEvaluation,
    DryRun,
    HeldOutFiles,
    Json,
    Limit,
    MaxBad,
    Media,
    MediaRoot,
    OnError,
    Quiet,
    Resume,
    Shard,
    Workers,
    app,
    check_forms,
    check_inputs,
    from_rooms,
    next_command,
    no_file,
    no_folder,
    show,
    ticking,
    work_policy,
)
from rft3d_cli.samplers import Sampler


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
    answer_style: Annotated[
        Literal["direct", "think"],
        typer.Option(
            help="What prompts ask for: the answer alone, as the benchmark does, or a chain of thought before it.",
            rich_help_panel=CONTENT,
        ),
    ] = "direct",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out questions whose video is missing.", rich_help_panel=INPUT)
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/vsibench.jsonl"
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
            spec=ClipSpec(frames, sampler, answer_style),
            allow_missing=allow_missing,
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    recipe = "tiny-mix" if from_rooms(videos) else "vsi"
    show(report, "prepare vsibench", next_command(report, chosen.name, "vsibench", recipe), as_json, quiet)
