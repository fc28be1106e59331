"""``rft3d evaluate``: scores that say how they were made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rft3d_cli.benchmarks.result import Result
    from rft3d_cli.benchmarks.run import Asked
    from rft3d_cli.geometry.boxes import Floats
    from rft3d_cli.geometry.eras import Era
    from rft3d_cli.records import RecordFile

WRITTEN = {"detection": "scannet", "scanrefer": "scanrefer", "vsibench": "vsibench"}
"""The ``prepare`` command that writes each benchmark's records, by default to ``data/NAME.jsonl``."""

app = typer.Typer(
    no_args_is_help=True,
    help="Score a model, or saved predictions, on VSI-Bench, ScanRefer or detection.",
    epilog="$ rft3d evaluate vsibench --data data/rooms/vsi-val.jsonl --model tiny\n\n"
    "$ rft3d evaluate detection --data val.jsonl --predictions theirs.jsonl --scorer robust --json",
)

Data = Annotated[Path, typer.Option("--data", "-d", metavar="FILE", help="Records (rft3d prepare writes them).")]
VsiData = Annotated[
    Path,
    typer.Option("--data", "-d", metavar="FILE", help="Records, or VSI-Bench's test.jsonl or parquet as published."),
]
Predictions = Annotated[
    Path | None,
    typer.Option("--predictions", "-p", metavar="FILE", show_default=False,
                 help='Saved answers to score, {"id", "prediction"} a line; no model is loaded.'),
]  # fmt: skip
Model = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME", help="A shipped model, a folder, a run, or a hub name.")
]
Scorer = Annotated[
    Literal["official", "robust"],
    typer.Option(help="official reads as the public scorer does; robust reads tolerantly and matches in any order."),
]
Style = Annotated[
    Literal["direct", "think"], typer.Option(help="think takes answers out of <answer> before the official reading.")
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", show_default=False,
                              help="Folder of predictions and result; by default eval/BENCHMARK with a model."),
]  # fmt: skip
Details = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write one line a record: its score and why.", show_default=False),
]
MediaRoot = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the media; by default the data's own.", show_default=False)
]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="INT", help="Score the first so many records.", show_default=False)
]
Frames = Annotated[
    int | None, typer.Option(min=1, max=512, metavar="INT", show_default=False,
                             help="Frames of a clip; by default what the records or the model say."),
]  # fmt: skip
MaxTokens = Annotated[
    int | None, typer.Option(min=1, metavar="INT", help="Longest answer, in tokens.", show_default=False)
]
Sample = Annotated[bool, typer.Option("--sample", help="Sample answers at temperature 1; by default greedy.")]
Seed = Annotated[int, typer.Option(min=0, metavar="INT", help="Of intervals, and of sampled answers.")]
Batch = Annotated[int, typer.Option(min=1, metavar="INT", help="Records a forward pass.")]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(metavar="METRIC=VALUE", help="Exit with 5 where a metric is below this.", show_default=False),
]
ProposalFile = Annotated[
    Path | None,
    typer.Option("--proposals", metavar="FILE", show_default=False,
                 help="scannet_val_pred_box.json: also score each answer as the proposed box that it overlaps most."),
]  # fmt: skip
Angles = Annotated[
    Literal["intrinsic", "extrinsic"] | None,
    typer.Option(show_default="what the model says, else intrinsic",
                 help="What the model means by a box's angles: extrinsic before 28 November 2025."),
]  # fmt: skip
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check data, media and model, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def _command(benchmark: str, data_type: object, text: str) -> Callable[..., None]:
    """One benchmark's command: they differ in their data only."""

    def run(
        data: Data = Path(f"data/{WRITTEN[benchmark]}.jsonl"),
        predictions: Predictions = None,
        model: Model = "tiny",
        scorer: Scorer = "official",
        answer_style: Style = "direct",
        out: Out = None,
        details: Details = None,
        media_root: MediaRoot = None,
        limit: Limit = None,
        frames: Frames = None,
        max_tokens: MaxTokens = None,
        sample: Sample = False,
        seed: Seed = 0,
        batch: Batch = 32,
        fail_under: FailUnder = None,
        proposals: ProposalFile = None,
        angles: Angles = None,
        dry_run: DryRun = False,
        as_json: Json = False,
    ) -> None:
        from rft3d_cli import console
        from rft3d_cli.benchmarks import run as running
        from rft3d_cli.errors import UsageError
        from rft3d_cli.files import sha256
        from rft3d_cli.records import read_predictions

        for wanted in fail_under or []:
            running.threshold(wanted)
        source = _read(benchmark, data, media_root)
        records = running.select(benchmark, source.records, data)[:limit]
        folder = out if out is not None or predictions is not None else Path("eval") / benchmark
        if folder is not None and folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file, not a folder", "name another folder with --out")
        if details is not None and (details.is_dir() or details.resolve() in _inputs(data, predictions)):
            what = "a folder" if details.is_dir() else "what is scored"
            raise UsageError(f"--details {details} is {what}", "name another file")

        if angles is None:
            angles = "intrinsic" if predictions is not None else _meant(model)
        more = None if proposals is None else {"proposals": _boxes(proposals)}
        scored = partial(
            running.evaluate, benchmark, source, records, scorer=scorer, answer_style=answer_style, seed=seed,
            angles=angles, more=more,
        )  # fmt: skip
        if fail_under:
            # A metric that does not exist is known before a model has answered for an hour.
            nothing = scored({}, about={})[1]
            for wanted in fail_under:
                running.metric(nothing, running.threshold(wanted)[0])
        if predictions is not None:
            if dry_run:
                read_predictions(predictions)
                console.note(f"  would score {len(records):,} records")
                return
            found = read_predictions(predictions)
            about: dict[str, object] = {"predictions": str(predictions)}
        else:
            _check(replace(source, records=records), model)
            asked = _asked(replace(source, records=records), model, frames, max_tokens, sample, seed, batch)
            if dry_run:
                console.note(f"  would ask {model} {len(records):,} questions and write {folder}/")
                return
            found, about_model = running.predict(records, asked, folder or Path())
            about = {"model": about_model}
        if proposals is not None:
            about["proposals"] = {"file": str(proposals), "sha256": sha256(proposals)}
        result, document = scored(found, about=about)
        if details is not None:
            running.write_details(details, result)
        if folder is not None:
            running.write_result(folder / "result.json", document)
        _warn(document["missing"], len(records), document["unknown_ids"])
        if proposals is not None and document["refined"]["without_proposals"]:
            lone = document["refined"]["without_proposals"]
            console.warn(f"{lone:,} of {len(records):,} records have no proposals and are not refined")
        _warn_of_angles(document)
        if as_json:
            console.print_json(document)
        else:
            _print(benchmark, result, document)
        if folder is not None:
            console.note(f"  wrote   {folder / 'result.json'}")
        for wanted in fail_under or []:
            running.check_threshold(document, wanted)

    run.__annotations__["data"] = data_type
    run.__doc__ = text
    others = {"detection": {"proposals"}, "scanrefer": set(), "vsibench": {"proposals", "angles"}}[benchmark]
    whole = signature(run, eval_str=True)
    own = [parameter for name, parameter in whole.parameters.items() if name not in others]
    run.__signature__ = whole.replace(parameters=own)  # type: ignore[attr-defined]
    return run


def _boxes(proposals: Path) -> dict[str, Floats]:
    """The proposed boxes, all of them in order."""
    from rft3d_cli.errors import DataError
    from rft3d_cli.prepare.proposals import HINT, read_proposals

    found = read_proposals(proposals)
    if found.bad:
        raise DataError(next(iter(found.bad.values())), HINT)
    return found.boxes


def _inputs(*paths: Path | None) -> list[Path]:
    return [path.resolve() for path in paths if path is not None]


def _read(benchmark: str, data: Path, media_root: Path | None) -> RecordFile:
    """Records, or VSI-Bench's own files as published."""
    from rft3d_cli.errors import DataError
    from rft3d_cli.records import read_records

    if not data.exists():
        hint = f"name another file with --data, or write it: rft3d prepare {WRITTEN[benchmark]} --out {data}"
        raise DataError(f"{data} does not exist", hint)
    if benchmark == "vsibench":
        from rft3d_cli.prepare.vsibench import is_published, published_records

        if is_published(data):
            return published_records(data, media_root)
    return read_records(data, media_root=media_root)


def _asked(
    source: RecordFile,
    model: str,
    frames: int | None,
    max_tokens: int | None,
    sample: bool,
    seed: int,
    batch: int,
) -> Asked:
    from rft3d_cli.benchmarks.run import Asked
    from rft3d_cli.models.defaults import MAX_TOKENS
    from rft3d_cli.models.loader import defaults_of
    from rft3d_cli.models.predict import Decoding

    defaults = defaults_of(model)
    tasks = {record.task for record in source.records}
    longest = max_tokens or max(MAX_TOKENS[task] for task in tasks)
    # A model that we trained is asked as it was trained; where its tasks differ in that, each record says for itself.
    own = {defaults.frames[task] for task in tasks} if defaults.datasets else set()
    return Asked(
        model,
        Decoding(max_tokens=longest, sample=sample, seed=seed, batch=batch),
        frames or (own.pop() if len(own) == 1 else None),
        source.media_root,
        defaults.sampler,
        defaults.tags,
    )


def _check(source: RecordFile, model: str) -> None:
    """Missing media and a missing model, found together and before the model is loaded."""
    from rft3d_cli.errors import ProblemList
    from rft3d_cli.models.loader import model_problems
    from rft3d_cli.records import missing_media

    missing = missing_media(source)
    problems = [*([missing] if missing is not None else []), *model_problems(model)]
    if problems:
        raise ProblemList(problems)


def _warn(missing: int, records: int, unknown: int) -> None:
    """Say what tells of the wrong file: records without a prediction, and predictions without a record."""
    from rft3d_cli import console

    if missing:
        console.warn(f"{missing:,} of {records:,} records have no prediction and score 0")
    if unknown:
        console.warn(f"{unknown:,} predictions are for ids that the data does not have")


def _meant(model: str) -> Era:
    """What a model says that it means by angles; where it cannot be found, that is said later and better."""
    from rft3d_cli.errors import Rft3dError
    from rft3d_cli.models.loader import defaults_of

    try:
        return defaults_of(model).angles
    except Rft3dError:
        return "intrinsic"


def _warn_of_angles(document: Mapping[str, Any]) -> None:
    """Say where the answers make sense in the other meaning of their angles only."""
    from rft3d_cli import console
    from rft3d_cli.benchmarks.eras import Evidence

    angles = document.get("angles")
    if angles is None:
        return
    evidence = Evidence(**angles["evidence"])
    if evidence.era not in (None, angles["read_as"]):
        console.warn(
            f"{getattr(evidence, evidence.era):,} of {evidence.boxes:,} turned boxes overlap their targets better as "
            f"{evidence.era} angles: --angles {evidence.era} reads them so"
        )


def _print(benchmark: str, result: Result, document: dict[str, object]) -> None:
    """The result as a table for people."""
    from rich.table import Table

    from rft3d_cli import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("", "left"), ("metric", "left"), ("n", "right"), ("score", "right"), ("95% CI", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in result.rows:
        value = "–" if row.value is None else f"{row.value:.1f}"
        spread = "" if row.interval is None else f"{row.interval[0]:.1f} – {row.interval[1]:.1f}"
        table.add_row(row.name, row.metric, f"{row.n:,}", value, spread)
    console.out().print(f"{benchmark}, scorer {document['scorer']}, {document['n']:,} records", markup=False)
    console.out().print(table)
    other = document["other_scorer"]
    if isinstance(other, dict):
        key, value = next((k, v) for k, v in other.items() if k not in ("scorer", "unreadable"))
        shown = "–" if value is None else f"{value:.1f}"
        console.out().print(f"scorer {other['scorer']}: {key} {shown}", markup=False)
    console.out().print(f"unreadable {document['unreadable']}, missing {document['missing']}", markup=False)


app.command("detection", epilog="$ rft3d evaluate detection --data val.jsonl --model runs/tiny-det\n\n"
            "$ rft3d evaluate detection --data val.jsonl -p answers.jsonl --fail-under micro.f1=40")(
    _command("detection", Data, "Score 3D video detection: precision, recall and F1 at IoU 0.25.")
)  # fmt: skip
app.command("scanrefer", epilog="$ rft3d evaluate scanrefer --data val.jsonl --model runs/grounding\n\n"
            "$ rft3d evaluate scanrefer --data val.jsonl -p answers.jsonl --proposals scannet_val_pred_box.json")(
    _command("scanrefer", Data, "Score visual grounding: accuracy at IoU 0.25 and 0.5.")
)  # fmt: skip
app.command("vsibench", epilog="$ rft3d evaluate vsibench --data data/rooms/vsi-val.jsonl\n\n"
            "$ rft3d evaluate vsibench --data test.jsonl -p answers.jsonl --scorer robust")(
    _command("vsibench", VsiData, "Score spatial questions: VSI-Bench's eight tasks.")
)  # fmt: skip
