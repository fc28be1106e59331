"""``rft3d prepare qa``: the field's training questions to records."""

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
    announce,
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
from rft3d_cli.samplers import DEFAULT_FRAMES, DEFAULT_SAMPLER, Sampler

if TYPE_CHECKING:
    from rft3d_cli.prepare.pipeline import Report

_HINT = (
    "docs/data.md says where each training set is; questions about synthetic rooms need nothing: "
    "rft3d prepare rooms --out data/rooms"
)


@app.command(
    epilog="$ rft3d prepare qa VSI-590K/vsi_590k.jsonl --media VSI-590K -o data/vsi590k.jsonl\n\n"
    "$ rft3d prepare qa SpaceR-151k/SpaceR-151k.jsonl --media SpaceR-151k --answer-style think --balance-letters "
    "-o data/spacer.jsonl"
)
def qa(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A JSON list of rows, one row a line, or parquet.", show_default=False),
    ],
    media: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="The folder that the rows' paths start at; nothing is written there.",
            rich_help_panel=INPUT,
        ),
    ] = Path("data/media"),
    form: Annotated[
        Literal["vsi590k", "vsitrain", "spacer", "vlm3r", "spar", "sims", "mindcube", "llava"] | None,
        typer.Option(show_default="read from the rows' keys", help="Whose rows they are.", rich_help_panel=INPUT),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Name of the split; by default read from the name of the file.", rich_help_panel=INPUT),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out rows whose media are missing.", rich_help_panel=INPUT)
    ] = False,
    types: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE,…",
            show_default="all",
            help="Kinds of questions, by the set's names or VSI-Bench's.",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    prompt: Annotated[
        Literal["vsibench", "stored"],
        typer.Option(
            help="The benchmark's words around choices and numbers, or the row's own.", rich_help_panel=CONTENT
        ),
    ] = "vsibench",
    answer_style: Annotated[
        Literal["direct", "think"],
        typer.Option(
            help="What prompts ask for: the answer alone, as the benchmark does, or a chain of thought before it.",
            rich_help_panel=CONTENT,
        ),
    ] = "direct",
    frames: Annotated[
        int,
        typer.Option(min=1, max=1024, help="Frames of a video; images are taken as they are.", rich_help_panel=CONTENT),
    ] = DEFAULT_FRAMES,
    sampler: Annotated[
        Sampler, typer.Option(help="How they are to be chosen.", rich_help_panel=CONTENT)
    ] = DEFAULT_SAMPLER,
    balance_letters: Annotated[
        bool,
        typer.Option(
            "--balance-letters",
            help="Let options change places, so that each letter is right equally often.",
            rich_help_panel=CONTENT,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the places of options.", rich_help_panel=CONTENT)] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/qa.jsonl"
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
    """Turn the field's spatial question training sets into choice, number and text records."""
    from rft3d_cli.prepare.pipeline import check_out
    from rft3d_cli.prepare.qa.prepare import QaSpec, prepare_qa
    from rft3d_cli.prepare.splits import resolve_split

    check_forms(as_json, quiet)
    check_out(out)
    check_inputs(
        no_file(file, "rows", _HINT),
        no_folder(media, "media", "name the folder that the rows' paths start at: --media DIR"),
    )
    chosen = resolve_split(split, file)
    kinds = dict.fromkeys(name.strip() for text in types or () for name in text.split(",") if name.strip())
    announce(file, quiet)
    with ticking("rows", quiet) as begin:
        report = prepare_qa(
            file=file,
            media=media,
            media_root=media_root,
            split=chosen,
            out=out,
            spec=QaSpec(form, tuple(kinds), prompt, answer_style, frames, sampler, balance_letters, seed),
            allow_missing=allow_missing,
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    show(report, "prepare qa", _following(report, chosen.name), as_json, quiet)


def _following(report: Report, split: str) -> str:
    """The command that uses the records, by the task that most of them have."""
    from rft3d_cli.prepare.qa.kinds import TYPES

    elsewhere = report.media_root != report.out.parent
    if split != "train" and not {*report.counts.get("labels", ())} <= TYPES:
        # The benchmark's scorer knows no other kinds.
        place: list[str | Path] = ["--media-root", report.media_root] if elsewhere else []
        return shell_line("rft3d inspect", report.out, *place)
    if report.counts.get("text", 0) <= report.counts.get("choice", 0) + report.counts.get("number", 0):
        return next_command(report, split, "vsibench", "vsi")
    # No reward and no benchmark is for free text.
    root = [f"data.media_root={report.media_root}"] if elsewhere else []
    return shell_line("rft3d sft --recipe", "vsi-sft", f"data.train={report.out}", *root)
