"""``rft3d evaluate``: scores that say how they were made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rft3d_cli.benchmarks.registry import BENCHMARKS, Benchmark
from rft3d_cli.commands import _compare, _published
from rft3d_cli.commands import _evaluate_options as opt

if TYPE_CHECKING:
    from rft3d_cli.benchmarks.asking import Asked
    from rft3d_cli.geometry.boxes import Floats
    from rft3d_cli.geometry.eras import Era
    from rft3d_cli.records import Record, RecordFile

app = typer.Typer(
    no_args_is_help=True,
    help="Score a model, or saved predictions, and compare results.",
    epilog="$ rft3d evaluate vsibench --data data/rooms/questions.jsonl --model tiny\n\n"
    "$ rft3d evaluate detection --data val.jsonl --predictions theirs.jsonl --scorer robust --json\n\n"
    "$ rft3d evaluate compare eval/detection/tiny-sft eval/detection/tiny-det",
)


@dataclass(frozen=True)
class _Answers:
    """What is scored, and what is said of where it comes from."""

    predictions: Mapping[str, str]
    confidence: Mapping[str, Sequence[float]] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)


def _command(benchmark: Benchmark, data_type: object) -> Callable[..., None]:
    """One benchmark's command: they differ in their data and in a few options."""

    def run(
        data: opt.Data = Path(f"data/{benchmark.written}.jsonl"),
        predictions: opt.Predictions = None,
        media_root: opt.MediaRoot = None,
        types: opt.Types = None,
        subset: opt.Subset = None,
        ids: opt.Ids = None,
        pruned_ids: opt.PrunedIds = None,
        per_type: opt.PerType = None,
        limit: opt.Limit = None,
        model: opt.Model = None,
        frames: opt.Frames = None,
        max_tokens: opt.MaxTokens = None,
        repetition_penalty: opt.Penalty = None,
        sample: opt.Sample = False,
        blind: opt.Blind = False,
        batch: opt.Batch = None,
        confidence: opt.Confidence = False,
        shard: opt.Shard = None,
        fresh: opt.Fresh = False,
        scorer: opt.Scorer = "official",
        answer_style: opt.Style = "direct",
        seed: opt.Seed = 0,
        min_confidence: opt.MinConfidence = None,
        proposals: opt.ProposalFile = None,
        angles: opt.Angles = None,
        brief: opt.Brief = False,
        fail_under: opt.FailUnder = None,
        out: opt.Out = None,
        details: opt.Details = None,
        context: opt.Context = False,
        dry_run: opt.DryRun = False,
        as_json: opt.Json = False,
        quiet: opt.Quiet = False,
    ) -> None:
        from rft3d_cli import console
        from rft3d_cli.benchmarks import metrics, registry
        from rft3d_cli.benchmarks import run as running
        from rft3d_cli.commands._evaluate_shown import headline, show, warn_of
        from rft3d_cli.commands.prepare._shared import check_forms
        from rft3d_cli.errors import DataError, UsageError

        check_forms(as_json, quiet)
        for wanted in fail_under or []:
            metrics.threshold(wanted)
        share = _share(shard, predictions)
        if predictions is not None and model is not None:
            raise UsageError(
                "--predictions are answers already, and --model would be asked for others", "leave one out"
            )
        model = model or "tiny"
        more: dict[str, Any] = {}
        if pruned_ids is not None:
            from rft3d_cli.prepare.vsibench_questions import pruned_ids as read_pruned

            more["pruned"] = read_pruned(pruned_ids)
        source = _read(benchmark, data, media_root, asked=predictions is None)
        records = registry.narrowed(
            registry.select(benchmark.name, source.records, data),
            types=[name.strip() for name in types.split(",")] if types else [],
            subset=subset,
            ids=None if ids is None else _ids(ids),
            pruned=more.get("pruned"),
            limit=limit,
            per_type=per_type,
            seed=seed,
        )
        folder = out
        if out is None and predictions is None:
            folder = Path("eval") / benchmark.name / (_folder_name(model) + ("-blind" if blind else ""))
        _check_places(folder, details, data, predictions)
        _check_keeper(folder, predictions)
        if angles is None:
            angles = "intrinsic" if predictions is not None or not benchmark.boxes else _meant(model)
        if proposals is not None:
            more["proposals"] = _boxes(proposals)
        if min_confidence is not None:
            more["min_confidence"] = min_confidence
        scored = partial(
            running.evaluate, benchmark.name, source, records, scorer=scorer, answer_style=answer_style, seed=seed,
            angles=angles,
        )  # fmt: skip
        if fail_under:
            # A metric that does not exist is known before a model has answered for an hour.
            nothing = scored({}, about={}, brief=True, more={k: v for k, v in more.items() if k == "proposals"})[1]
            for wanted in fail_under:
                metrics.metric(nothing, metrics.threshold(wanted)[0])
        if predictions is not None:
            answers = _saved(predictions, records, source.records, quiet=quiet or as_json)
            if dry_run:
                console.note(f"  would score {len(records):,} records")
                return
        else:
            _check(replace(source, records=records), model, blind=blind)
            records = _as_asked(records, answer_style)
            scored = partial(scored.func, benchmark.name, source, records, **scored.keywords)
            asked = _asked(
                replace(source, records=records),
                model,
                frames,
                max_tokens or _longest(benchmark, answer_style),
                sample,
                seed,
                batch or 0,
                repetition_penalty,
                blind=blind,
                confidence=confidence,
            )
            if folder is None:
                raise AssertionError("a model's answers have a folder")
            if dry_run:
                left = _left(folder, asked, records, share, fresh=fresh)
                of = "" if left == len(records) else f" of {len(records):,}, the others being answered,"
                console.note(f"  would ask {model} {left:,} questions{of} and write {folder}/")
                return
            with console.quietly(quiet):
                answers = _predicted(records, asked, folder, share, fresh=fresh)
            if share is not None:
                mine = len(answers.predictions)
                console.note(f"  wrote   {mine:,} answers of share {shard} in {folder}/")
                if not mine:
                    size = answers.about["model"].get("batch", batch)
                    console.note(f"  whole batches of {size} are shared out; smaller ones spread further: --batch")
                console.note("  next    the same command without --shard scores the answers of all shares")
                _stop_over_lost(answers.lost, len(records), folder)
                return
        about = dict(answers.about)
        if proposals is not None:
            from rft3d_cli.files import sha256

            about["proposals"] = {"file": str(proposals), "sha256": sha256(proposals)}
        if answers.confidence:
            more["confidence"] = answers.confidence
        result, document = scored(answers.predictions, about=about, more=more, brief=brief)
        document["run"] |= answers.run
        if details is not None:
            running.write_details(details, result)
        if folder is not None:
            running.write_all(folder, result, document)
        warn_of(document, len(records), has_predictions=predictions is not None)
        if as_json:
            console.print_json(document)
        elif quiet:
            typer.echo(headline(benchmark, document))
        else:
            show(benchmark, result, document, context=context)
        if folder is not None and not quiet:
            console.note(f"  wrote   {folder / running.RESULT}")
        for wanted in fail_under or []:
            metrics.check_threshold(document, wanted)
        _stop_over_lost(answers.lost, len(records), folder)
        if document["missing"] == len(records):
            raise DataError("no record has a prediction", "are these the answers to this data? ids have to agree")

    run.__annotations__["data"] = data_type
    run.__doc__ = f"Score {benchmark.text}."
    hidden = {name for other in BENCHMARKS.values() for name in other.own} - benchmark.own
    if not benchmark.boxes:
        hidden |= {"angles"}
    whole = signature(run, eval_str=True)
    own = [parameter for name, parameter in whole.parameters.items() if name not in hidden]
    run.__signature__ = whole.replace(parameters=own)  # type: ignore[attr-defined]
    return run


def _share(shard: str | None, predictions: Path | None) -> tuple[int, int] | None:
    from rft3d_cli.commands.prepare._shared import two_numbers
    from rft3d_cli.errors import UsageError

    if shard is None:
        return None
    if predictions is not None:
        raise UsageError("--shard shares out questions to a model, and --predictions are answered already")
    number, count = two_numbers(shard, "/", "--shard", "2/4")
    if not 1 <= number <= count:
        raise UsageError(f"--shard {shard}: there is no such share", "the shares of four are 1/4, 2/4, 3/4 and 4/4")
    return number, count


def _folder_name(model: str) -> str:
    """What a model's results are kept under: the last word of its name or path.

    >>> [_folder_name(name) for name in ("tiny", "runs/tiny-det", "org/name", "runs/a/checkpoints/000050")]
    ['tiny', 'tiny-det', 'name', 'a-000050']
    """
    path = Path(model)
    parts = [part for part in (path.resolve() if model.startswith(".") else path).parts if part != path.anchor]
    if len(parts) > 2 and parts[-2] == "checkpoints":
        return f"{parts[-3]}-{parts[-1]}"
    return parts[-1] if parts else "model"


def _check_places(folder: Path | None, details: Path | None, data: Path, predictions: Path | None) -> None:
    from rft3d_cli.errors import UsageError

    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder", "name another folder with --out")
    inputs = [path.resolve() for path in (data, predictions) if path is not None]
    if details is not None and (details.is_dir() or details.resolve() in inputs):
        what = "a folder" if details.is_dir() else "what is scored"
        raise UsageError(f"--details {details} is {what}", "name another file")
    kept = {(folder / name).resolve(): folder / name for name in FILES} if folder is not None else {}
    if details is not None and details.resolve() in kept:
        raise UsageError(f"--details {details} is a file of --out", "leave it out: details.jsonl is written anyway")
    written = [path for path in inputs if path in kept]
    # Answers may be scored again in their own folder: then only the result and the details are written.
    again = folder is not None and (folder / "predictions.jsonl").resolve()
    if lost := [path for path in written if not (predictions is not None and path == again)]:
        raise UsageError(f"--out {folder} would replace {kept[lost[0]]}, which is read", "name another folder")


FILES = ("result.json", "details.jsonl", "predictions.jsonl", "asked.json", "frames.jsonl", "not-asked.jsonl")
"""Everything that is written to the folder of an evaluation."""


def _check_keeper(folder: Path | None, predictions: Path | None) -> None:
    """Other answers' scores do not belong beside those of a model."""
    from rft3d_cli.errors import UsageError

    if folder is None or predictions is None or not (folder / "asked.json").exists():
        return
    if folder.resolve() not in (predictions.resolve(), predictions.resolve().parent):
        raise UsageError(f"{folder} holds the answers of a model, and {predictions} are others", "name another folder")


def _ids(path: Path) -> dict[str, None]:
    """Ids of a file, one a line; blank lines do not count."""
    from rft3d_cli.errors import DataError
    from rft3d_cli.records import read_lines

    found = dict.fromkeys(line.strip() for _, line in read_lines(path))
    if not found:
        raise DataError(f"{path} holds no ids", "one id a line")
    return found


def _boxes(proposals: Path) -> dict[str, Floats]:
    """The proposed boxes, all of them in order."""
    from rft3d_cli.errors import DataError
    from rft3d_cli.prepare.proposals import HINT, read_proposals

    found = read_proposals(proposals)
    if found.bad:
        raise DataError(next(iter(found.bad.values())), HINT)
    return found.boxes


def _read(benchmark: Benchmark, data: Path, media_root: Path | None, *, asked: bool) -> RecordFile:
    """Records, or VSI-Bench's own files as published; what no model is asked is read without its media."""
    from rft3d_cli.errors import DataError

    if not data.exists():
        hint = f"name another file with --data, or write it: rft3d prepare {benchmark.written} --out {data}"
        raise DataError(f"{data} does not exist", hint)
    if benchmark.name == "vsibench":
        from rft3d_cli.prepare.vsibench_questions import is_published, published_questions

        if is_published(data) and not asked:
            return published_questions(data, media_root)
        if is_published(data):
            from rft3d_cli.prepare.vsibench import published_records

            return published_records(data, media_root)
    from rft3d_cli.records import read_records

    return read_records(data, media_root=media_root)


def _saved(path: Path, records: Sequence[Record], everything: Sequence[Record], *, quiet: bool) -> _Answers:
    """Predictions of a file, whoever wrote it."""
    from rft3d_cli import console
    from rft3d_cli.benchmarks.saved import read_saved

    found = read_saved(path, records, everything=everything)
    if not quiet:
        for remark in found.notes:
            console.note(f"  {remark}")
    about = {"predictions": {"file": str(path), "format": found.format, "notes": found.notes}}
    return _Answers(found.predictions, found.confidence, about)


def _as_asked(records: list[Record], answer_style: str) -> list[Record]:
    """The records with the prompts that the answer style wants."""
    if answer_style != "think":
        return records
    from rft3d_cli.prompts import thinking_prompt

    return [
        record.model_copy(update={"prompt": thinking_prompt(record.prompt, choice=record.task == "choice")})
        if record.task in ("choice", "number")
        else record
        for record in records
    ]


def _longest(benchmark: Benchmark, answer_style: str) -> int | None:
    """The longest answer where the command does not say: the public harness's, unless the model is to think."""
    return benchmark.short if answer_style == "direct" else None


def _asked(
    source: RecordFile,
    model: str,
    frames: int | None,
    max_tokens: int | None,
    sample: bool,
    seed: int,
    batch: int,
    repetition_penalty: float | None = None,
    *,
    blind: bool = False,
    confidence: bool = False,
) -> Asked:
    from rft3d_cli.benchmarks.asking import Asked
    from rft3d_cli.models.defaults import MAX_TOKENS
    from rft3d_cli.models.loader import defaults_of, penalty_of
    from rft3d_cli.models.predict import Decoding

    defaults = defaults_of(model)
    tasks = {record.task for record in source.records}
    longest = max_tokens or max(MAX_TOKENS[task] for task in tasks)
    penalty = repetition_penalty
    if penalty is None:
        penalty = penalty_of(model)
    # A model that we trained is asked as it was trained; where its tasks differ in that, each record says for itself.
    own = {defaults.frames[task] for task in tasks} if defaults.datasets else set()
    return Asked(
        model,
        Decoding(max_tokens=longest, sample=sample, seed=seed, batch=batch, repetition_penalty=penalty),
        frames or (own.pop() if len(own) == 1 else None),
        source.media_root,
        defaults.sampler,
        defaults.tags,
        blind,
        confidence,
    )


def _check(source: RecordFile, model: str, *, blind: bool) -> None:
    """Missing media and a missing model, found together and before the model is loaded."""
    from rft3d_cli.errors import ProblemList
    from rft3d_cli.models.loader import model_problems
    from rft3d_cli.records import missing_media

    missing = None if blind else missing_media(source)
    problems = [*([missing] if missing is not None else []), *model_problems(model)]
    if problems:
        raise ProblemList(problems)


def _left(folder: Path, asked: Asked, records: Sequence[Record], share: tuple[int, int] | None, *, fresh: bool) -> int:
    """How many questions the answers in a folder leave, found out without asking; refused where they cannot be used."""
    from rft3d_cli.benchmarks import journal

    marks = asked.marks(records)
    own = journal.shard_folder(folder, share)
    journal.check(own, asked.settings(marks), fresh=fresh)
    if fresh or not journal.begun(own):
        return len(records)
    saved = journal.read_saved_answers(own)
    return sum(saved.get(name, {}).get("of") != mark for name, mark in marks.items())


def _predicted(
    records: Sequence[Record], asked: Asked, folder: Path, share: tuple[int, int] | None, *, fresh: bool
) -> _Answers:
    from rft3d_cli import console
    from rft3d_cli.benchmarks.asking import predict

    try:
        said = predict(records, asked, folder, shard=share, fresh=fresh)
    except KeyboardInterrupt:
        console.note(f"  interrupted; answers so far are kept in {folder}/: repeat the command to go on")
        raise typer.Exit(130) from None
    about = {"model": said.about, "damaged_clips": len(said.damaged)}
    if said.damaged:
        console.warn(
            f"{len(said.damaged):,} clips are damaged: frames that are missing were replaced by others; "
            f"first {said.damaged[0]}"
        )
    return _Answers(said.predictions, said.confidence, about, said.run, said.lost)


def _stop_over_lost(lost: Mapping[str, str], count: int, folder: Path | None) -> None:
    """Some records could not be asked: the result is written and says so, and the command has failed."""
    from rft3d_cli.errors import DataError

    if lost:
        first, why = next(iter(lost.items()))
        hint = f"all are in {folder}/not-asked.jsonl; mend them and repeat the command: it asks what is missing"
        raise DataError(f"{len(lost):,} of {count:,} records could not be asked and score 0; {first}: {why}", hint)


def _meant(model: str) -> Era:
    """What a model says that it means by angles; where it cannot be found, that is said later and better."""
    from rft3d_cli.errors import Rft3dError
    from rft3d_cli.models.loader import defaults_of

    try:
        return defaults_of(model).angles
    except Rft3dError:
        return "intrinsic"


_EPILOGS = {
    "vsibench": ("--data data/rooms/questions.jsonl", "--data test.jsonl -p answers.jsonl --scorer robust"),
    "scanrefer": ("--data val.jsonl --model runs/grounding",
                  "--data val.jsonl -p answers.jsonl --proposals scannet_val_pred_box.json"),
    "detection": ("--data val.jsonl --model runs/tiny-det --confidence",
                  "--data val.jsonl -p answers.jsonl --fail-under micro.f1=40"),
    "sqa3d": ("--data sqa3d.jsonl --model runs/vsi", "--data sqa3d.jsonl -p answers.jsonl --scorer robust"),
    "scan2cap": ("--data scan2cap.jsonl --model runs/captions", "--data scan2cap.jsonl -p answers.jsonl --json"),
}  # fmt: skip

for _benchmark in BENCHMARKS.values():
    app.command(
        _benchmark.name,
        epilog="\n\n".join(f"$ rft3d evaluate {_benchmark.name} {line}" for line in _EPILOGS[_benchmark.name]),
    )(_command(_benchmark, opt.VsiData if _benchmark.name == "vsibench" else opt.Data))

app.command("compare", epilog=_compare.EPILOG)(_compare.compare)
app.command("published", epilog=_published.EPILOG)(_published.published)
