"""``rft3d prepare cot``: a teacher's chains of thought, where they hold, to records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rft3d_cli import console
from rft3d_cli.commands._complete import complete_model
from rft3d_cli.commands.prepare._shared import (
    CONTENT,
    INPUT,
    OUTPUT,
    AllowEvaluation,
    DryRun,
    HeldOutFiles,
    Json,
    Limit,
    Quiet,
    Resume,
    Shard,
    Workers,
    app,
    check_forms,
    shell_line,
    show,
    ticking,
    work_policy,
)

if TYPE_CHECKING:
    from rft3d_cli.prepare.pipeline import Policy
    from rft3d_cli.records import RecordFile

TEACHER = "Teacher"


@app.command(
    epilog="$ rft3d prepare cot data/vsi/train.jsonl --outputs teacher.jsonl -o data/vsi/thoughts.jsonl\n\n"
    "$ rft3d prepare cot data/vsi/train.jsonl --model Qwen/Qwen3-VL-8B-Thinking --samples 8 -o data/vsi/thoughts.jsonl"
)
def cot(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Choice and number records.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL.", rich_help_panel=OUTPUT)
    ],
    outputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What a teacher said: lines {id, prediction}, several an id if you like.",
            rich_help_panel=TEACHER,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Ask this model instead; its outputs are kept beside --out.",
                     autocompletion=complete_model, rich_help_panel=TEACHER),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Outputs a record.", rich_help_panel=TEACHER)] = 4,
    temperature: Annotated[
        float, typer.Option(min=0.01, help="Of the samples.", rich_help_panel=TEACHER)
    ] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest output.", rich_help_panel=TEACHER)] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.", rich_help_panel=TEACHER)] = 0,
    keep: Annotated[int, typer.Option(min=1, help="Chains a record.", rich_help_panel=CONTENT)] = 1,
    at_least: Annotated[
        float,
        typer.Option(min=0, max=1, help="Mean relative accuracy of a numeric answer.", rich_help_panel=CONTENT),
    ] = 0.9,
    any_answer: Annotated[
        bool,
        typer.Option("--any-answer", help="Keep chains with wrong answers too, for ablations.",
                     rich_help_panel=CONTENT),
    ] = False,
    min_words: Annotated[int, typer.Option(min=0, help="Words of thought, at least.", rich_help_panel=CONTENT)] = 5,
    max_chars: Annotated[
        int, typer.Option(min=1, help="Characters of an output, at most.", rich_help_panel=CONTENT)
    ] = 4000,
    media_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the media paths; by default the records' own.",
                     rich_help_panel=INPUT),
    ] = None,
    workers: Workers = None,
    resume: Resume = False,
    shard: Shard = "1/1",
    limit: Limit = None,
    held_out: HeldOutFiles = None,
    allow_evaluation_scenes: AllowEvaluation = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Keep a teacher's chains of thought whose answers are right, as records to warm a model up on."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.prepare.cot import CotSpec, prepare_cot, sampled_by
    from rft3d_cli.prepare.pipeline import check_out
    from rft3d_cli.records import read_answers, read_records

    check_forms(as_json, quiet)
    check_out(out)
    if (outputs is None) == (model is None):
        raise UsageError("name the teacher's outputs or a model to ask, one of them", "--outputs FILE or --model NAME")
    policy = work_policy(workers, "quarantine", 1.0, dry_run, resume, shard, limit, held_out, allow_evaluation_scenes)
    source = read_records(records, media_root=media_root)
    root = source.media_root
    teacher = None
    if model is not None:
        if dry_run:
            raise UsageError("--dry-run cannot tell what a model would say", "try --outputs, or --samples 1")
        teacher = {
            "model": model,
            "samples": samples,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        outputs = out.with_suffix(".outputs.jsonl")
        _ask(model, source, policy, outputs, sampled_by(model, source, policy, teacher))
    assert outputs is not None  # noqa: S101 - one of the two was named
    said: dict[str, list[str]] = {}
    for name, text in read_answers(outputs):
        said.setdefault(name, []).append(text)
    report = prepare_cot(
        source=source,
        outputs=said,
        outputs_file=outputs,
        out=out,
        media_root=root,
        spec=CotSpec(keep, at_least, min_words, max_chars, any_answer),
        policy=policy,
        teacher=teacher,
    )
    elsewhere = [f"data.media_root={root}"] if root != out.parent else []
    show(
        report, "prepare cot", shell_line("rft3d sft --recipe vsi-sft", f"data.train={out}", *elsewhere), as_json, quiet
    )
    if strangers := len(said.keys() - {record.id for record in source.records}):
        console.warn(f"{strangers:,} outputs are for ids that the records do not have")


def _ask(model: str, source: RecordFile, policy: Policy, outputs: Path, identity: dict[str, Any]) -> None:
    """Write a model's answers under each seed, each as it comes; those that an interrupted run has are kept."""
    from rft3d_cli.models.inputs import FrameStore
    from rft3d_cli.models.loader import load_speaker
    from rft3d_cli.models.predict import Decoding, answers
    from rft3d_cli.prepare.cot import BATCH, mine, sampling

    wanted = mine(source, policy)
    samples, tokens = identity["samples"], identity["max_tokens"]
    total = samples * sum(len(batch.asked) for batch in wanted)
    with sampling(outputs, identity, resume=policy.resume) as said, ticking("asking", False) as begin:
        done, left = begin(total), said.finished
        for _ in range(left):
            done()
        if left >= total:
            return
        teacher, processor = load_speaker(model)
        store = FrameStore(source.media_root, processor)
        for number in range(samples):
            decoding = Decoding(tokens, True, identity["temperature"], 1.0, identity["seed"] + number, BATCH)
            for batch in wanted:
                records = batch.asked
                if left >= len(records):
                    left -= len(records)
                    continue
                for record, text in answers(teacher, processor, records, store, decoding, batch.first):
                    if left:
                        left -= 1
                        continue
                    said.add(record.id, text)
                    done()
