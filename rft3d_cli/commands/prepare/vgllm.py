"""``rft3d prepare vgllm``: one of VG-LLM's own JSON files to records."""

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

if TYPE_CHECKING:
    from rft3d_cli.prepare.pipeline import Report

_HINT = (
    "VG-LLM's files are at https://huggingface.co/datasets/zd11024/VG-LLM-Data; records without them come from scans: "
    "rft3d prepare rooms --out data/rooms"
)


@app.command(
    epilog="$ rft3d prepare vgllm scannet_det_train_4frames.json --media data/media -o data/vgllm/det.jsonl\n\n"
    "$ rft3d prepare vgllm scanrefer_val_32frames.json --media data/media --angles intrinsic --allow-missing "
    "-o data/vgllm/refer-val.jsonl"
)
def vgllm(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A JSON list of rows, or one row a line.", show_default=False),
    ],
    media: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="The folder that the rows' paths start at: DIR/scannet/posed_images/…; nothing is written there.",
            rich_help_panel=INPUT,
        ),
    ] = Path("data/media"),
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Name of the split; by default read from the name of the file.", rich_help_panel=INPUT),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out rows whose media are missing.", rich_help_panel=INPUT)
    ] = False,
    angles: Annotated[
        Literal["intrinsic", "extrinsic"] | None,
        typer.Option(
            show_default="read from the boxes",
            help="What the boxes' angles mean: intrinsic in files from 28 November 2025 on, extrinsic in older ones.",
            rich_help_panel=CONTENT,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)] = Path(
        "data/vgllm.jsonl"
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
    """Turn VG-LLM's training and evaluation files into records, old and new boxes alike."""
    from rft3d_cli.prepare.pipeline import check_out
    from rft3d_cli.prepare.splits import resolve_split
    from rft3d_cli.prepare.vgllm import prepare_vgllm

    check_forms(as_json, quiet)
    check_out(out)
    check_inputs(
        no_file(file, "rows", _HINT),
        no_folder(media, "media", "name the folder that the rows' paths start at: --media DIR"),
    )
    chosen = resolve_split(split, file)
    announce(file, quiet)
    with ticking("rows", quiet) as begin:
        report = prepare_vgllm(
            file=file,
            media=media,
            media_root=media_root,
            split=chosen,
            out=out,
            angles=angles,
            allow_missing=allow_missing,
            policy=work_policy(
                workers, on_error, max_bad, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes
            ),
            begin=begin,
        )
    show(report, "prepare vgllm", _following(report, chosen.name), as_json, quiet)


def _following(report: Report, split: str) -> str:
    """The command that uses the records, by the task that most of them have."""
    tasks = ("detection", "grounding", "choice", "number", "text")
    task = max(tasks, key=lambda name: report.counts.get(name, 0))
    if task == "text":
        # No reward and no benchmark is for free text.
        elsewhere = report.media_root != report.out.parent
        root = [f"data.media_root={report.media_root}"] if elsewhere else []
        return shell_line("rft3d sft --recipe", "vsi-sft", f"data.train={report.out}", *root)
    benchmark, recipe = {"detection": ("detection", "det"), "grounding": ("scanrefer", "grounding")}.get(
        task, ("vsibench", "vsi")
    )
    return next_command(report, split, benchmark, recipe)
