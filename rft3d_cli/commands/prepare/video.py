"""``rft3d prepare video``: your own videos and questions to choice, number and text records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    MediaRoot,
    OnError,
    Quiet,
    Resume,
    Shard,
    Workers,
    app,
    check_forms,
    check_inputs,
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


@app.command(
    epilog="$ rft3d prepare video --videos clips --questions questions.csv -o questions.jsonl\n\n"
    "$ rft3d prepare video --videos clips --questions questions.csv --split val --frames 16 -o val.jsonl"
)
def video(
    videos: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of mp4, mov, mkv, webm, avi … files; each is opened.", rich_help_panel=INPUT
        ),
    ] = Path("videos"),
    questions: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="CSV or JSONL with the columns video, question and answer, and where they are wanted options, id, "
            "scene, split, question_type, frames. docs/own-data.md describes them.",
            rich_help_panel=INPUT,
        ),
    ] = Path("questions.csv"),
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(
            help="Take the rows of this split, and those that name none. By default all; rows that name none get "
            "their split from the file's name.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    frames: Annotated[
        int,
        typer.Option(
            min=1, max=1024, help="Frames that a model is to see, where a row does not say.", rich_help_panel=CONTENT
        ),
    ] = 32,
    sampler: Annotated[
        Sampler, typer.Option(help="How they are to be chosen.", rich_help_panel=CONTENT)
    ] = "linspace-floor",
    answer_style: Annotated[
        Literal["direct", "think"],
        typer.Option(
            help="What prompts of choices and numbers ask for: the answer alone, or a chain of thought before it.",
            rich_help_panel=CONTENT,
        ),
    ] = "direct",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out questions whose video is missing.", rich_help_panel=INPUT)
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/video.jsonl"
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
    """Turn your own videos and a table of questions into choice, number and text records."""
    from rft3d_cli.prepare.own_videos import prepare_videos
    from rft3d_cli.prepare.pipeline import check_out
    from rft3d_cli.prepare.splits import resolve_split
    from rft3d_cli.prepare.vsibench import ClipSpec

    check_forms(as_json, quiet)
    check_out(out)
    hint = "docs/own-data.md shows both; rft3d prepare rooms --out data/rooms makes videos and questions to try"
    check_inputs(no_folder(videos, "videos", hint), no_file(questions, "questions", hint))
    with ticking("videos", quiet) as begin:
        report = prepare_videos(
            videos=videos,
            questions=questions,
            media_root=media_root,
            split=resolve_split(split, questions),
            only=split is not None,
            out=out,
            spec=ClipSpec(frames, sampler, answer_style),
            allow_missing=allow_missing,
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    show(report, "prepare video", _next(report, split or "train"), as_json, quiet)


def _next(report: Report, split: str) -> str:
    # Texts have no reward, and evaluate wants VSI-Bench's own question types.
    plain = not report.counts.get("text") and split == "train"
    return next_command(report, split, "vsibench", "vsi") if plain else shell_line("rft3d rewards check", report.out)
