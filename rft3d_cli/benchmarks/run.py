"""An evaluation from beginning to end: answers from a model or a file, both scorers, a result on disk."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.answers.eras import reread
from rft3d_cli.benchmarks import detection, scanrefer, vsibench
from rft3d_cli.benchmarks.eras import tell_era
from rft3d_cli.benchmarks.result import SCORERS, Result, environment
from rft3d_cli.console import progress
from rft3d_cli.errors import DataError, ThresholdError, UsageError
from rft3d_cli.files import atomic_writer, sha256, write_json
from rft3d_cli.geometry.eras import Era
from rft3d_cli.prompts import prompt_hash
from rft3d_cli.records import Record, RecordFile
from rft3d_cli.samplers import Sampler

if TYPE_CHECKING:
    from rft3d_cli.models.predict import Decoding

BENCHMARKS: dict[str, Callable[..., Result]] = {
    "detection": detection.score,
    "scanrefer": scanrefer.score,
    "vsibench": vsibench.score,
}
TASKS = {"detection": ("detection",), "scanrefer": ("grounding",), "vsibench": ("choice", "number")}
"""Tasks of the records that each benchmark scores."""
HEADLINE = {
    "detection": {"official": "classes_20.f1", "robust": "classes_20.f1"},
    "scanrefer": {"official": "overall.acc@0.25", "robust": "overall.acc@0.25"},
    "vsibench": {"official": "overall", "robust": "overall"},
}

NO_METRICS = {
    *("schema", "n", "seed", "intervals", "data", "model", "versions", "iou_threshold", "classes", "tp", "fp", "fn"),
    *("missing", "unreadable", "unknown_ids", "dropped", "invalid", "other_labels", "without_proposals"),
}
"""Numbers of a result, by a part of their key, of which more is not better."""


def select(benchmark: str, records: Sequence[Record], path: Path) -> list[Record]:
    """The records of a file that a benchmark scores; a mixed file gives each benchmark its own.

    Args:
        benchmark: A key of :data:`TASKS`.
        records: Records of any tasks.
        path: Their file, for the message.

    Returns:
        The records of the benchmark's tasks, in their order.

    Raises:
        DataError: Where there is none.
        KeyError: On an unknown benchmark.

    >>> from rft3d_cli.examples import example_record
    >>> mixed = [example_record(task) for task in ("detection", "choice", "number")]
    >>> [record.task for record in select("vsibench", mixed, Path("mixed.jsonl"))]
    ['choice', 'number']
    """
    chosen = [record for record in records if record.task in TASKS[benchmark]]
    if not chosen:
        found = ", ".join(sorted({record.task for record in records}))
        raise DataError(f"{path} holds no {' or '.join(TASKS[benchmark])} records, only {found}")
    return chosen


@dataclass(frozen=True)
class Asked:
    """How a model was asked.

    Args:
        model: As the user named it.
        decoding: How its answers were decoded.
        frames: Frames a clip, where the command set it.
        media_root: Folder of the media.
        sampler: How frames are chosen from clips, where the model was trained on one way.
        tags: Whether frames are numbered in prompts that do not do so themselves.
    """

    model: str
    decoding: Decoding
    frames: int | None
    media_root: Path
    sampler: Sampler | None = None
    tags: bool = False


def predict(records: Sequence[Record], asked: Asked, out: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Ask a model, appending each answer to ``predictions.jsonl`` as it comes.

    Args:
        records: What to ask.
        asked: How.
        out: The folder, made where missing; ``predictions.jsonl`` is written anew, an older ``result.json`` removed.

    Returns:
        Predictions by id, and what the result says of the model: ``name``, ``sha256`` of each weight file, ``frames``,
        ``sampler``, ``tags``, ``frame_width`` (pixels) and ``decoding``.

    Raises:
        UsageError: On an empty model name.
        SetupError: Where the model, its weights or its tokenizer files are missing.
        DataError: Where a frame cannot be read, or a prompt's image marks are not as many as its frames.

    >>> import tempfile
    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.models.predict import Decoding
    >>> from rft3d_cli.records import Clip
    >>> clips = Path(__file__).parents[2] / "assets" / "clips"
    >>> record = example_record("number").model_copy(update={"video": Clip(path="room.mp4", frames=2)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found, about = predict([record], Asked("tiny", Decoding(max_tokens=4), None, clips), Path(folder))
    >>> list(found), about["name"]
    (['example-number'], 'tiny')
    """
    from rft3d_cli.models.inputs import FrameStore
    from rft3d_cli.models.loader import load_speaker, weight_hashes
    from rft3d_cli.models.predict import answers

    model, processor = load_speaker(asked.model)
    store = FrameStore(asked.media_root, processor, frames=asked.frames, sampler=asked.sampler, tags=asked.tags)
    found: dict[str, str] = {}
    out.mkdir(parents=True, exist_ok=True)
    # An older result would seem to be that of the answers that are now written beside it.
    (out / "result.json").unlink(missing_ok=True)
    with (
        (out / "predictions.jsonl").open("w", encoding="utf-8") as stream,
        progress("answering", len(records)) as ticker,
    ):
        for record, text in answers(model, processor, records, store, asked.decoding):
            found[record.id] = text
            stream.write(json.dumps({"id": record.id, "prediction": text}, ensure_ascii=False) + "\n")
            stream.flush()
            ticker.advance()
    about = {
        "name": asked.model,
        "sha256": weight_hashes(asked.model),
        "frames": asked.frames,
        "sampler": asked.sampler,
        "tags": asked.tags,
        "frame_width": processor.frame_width,
        "decoding": asked.decoding.document(),
    }
    return found, about


def evaluate(
    benchmark: str,
    source: RecordFile,
    records: Sequence[Record],
    predictions: Mapping[str, str],
    *,
    scorer: str,
    answer_style: str,
    seed: int,
    about: Mapping[str, Any],
    angles: Era = "intrinsic",
    more: Mapping[str, Any] | None = None,
) -> tuple[Result, dict[str, Any]]:
    """Score predictions by the chosen scorer, and by the other one for its headline.

    Args:
        benchmark: A key of :data:`BENCHMARKS`.
        source: The file of the records; it is hashed, and its ids are the known ones.
        records: Those of its records to score.
        predictions: Record id → text.
        scorer: ``official`` or ``robust``.
        answer_style: ``direct`` or ``think``.
        seed: Of the intervals.
        about: Where the predictions come from; put into the document as it is.
        angles: What the predictions mean by the angles of boxes.
        more: What only this benchmark's ``score`` takes, by name; for the chosen scorer.

    Returns:
        The chosen scorer's result, and the document of the whole evaluation: the result's own, ``other_scorer`` with
        its :data:`HEADLINE` number, ``angles`` for boxes (how they were read, and which meaning they speak for),
        ``data``, ``prompt_hash``, ``about``, ``versions`` and ``time`` (UTC).

    Raises:
        UsageError: On an unknown scorer or answer style.
        DataError: On a record that the benchmark does not score.
        KeyError: On an unknown benchmark.
        OSError: Where the file of the records cannot be read.

    >>> import tempfile
    >>> from rft3d_cli.examples import example_record
    >>> record, options = example_record("number"), {"scorer": "official", "answer_style": "direct", "seed": 0}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = RecordFile(Path(folder) / "records.jsonl", Path(folder), [record])
    ...     write_json(source.path, record.model_dump(by_alias=True), indent=None)
    ...     _, document = evaluate("vsibench", source, [record], {record.id: "about 2.5"}, **options, about={})
    >>> document["overall"], document["other_scorer"]
    (0.0, {'scorer': 'robust', 'overall': 100.0, 'unreadable': 0})
    """
    score = BENCHMARKS[benchmark]
    meant: dict[str, Any] = {}
    if benchmark != "vsibench":
        meant = {"angles": {"read_as": angles, "evidence": tell_era(records, predictions).document()}}
        predictions = {name: reread(text, angles) for name, text in predictions.items()}
    result = score(records, predictions, scorer=scorer, answer_style=answer_style, seed=seed, **(more or {}))
    other = next(name for name in SCORERS if name != scorer)
    second = score(records, predictions, scorer=other, answer_style=answer_style, seed=seed)
    key = HEADLINE[benchmark][other]
    document = {
        **result.document,
        "other_scorer": {
            "scorer": other,
            key: lookup(second.document, key),
            "unreadable": second.document["unreadable"],
        },
        "unknown_ids": len(predictions.keys() - {record.id for record in source.records}),
        "data": {"file": str(source.path), "sha256": sha256(source.path), "records": len(records)},
        "prompt_hash": prompt_hash([record.prompt for record in records]),
        **meant,
        **about,
        "versions": environment(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return result, document


def write_details(path: Path, result: Result) -> None:
    """One line of JSON a record: ``id``, ``score``, ``parts``, ``answer``, ``why``.

    Args:
        path: The file, written whole or not at all; missing folders are made.
        result: Whose ``details`` to write.

    Raises:
        DataError: Where the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "details.jsonl"
    ...     write_details(path, Result({}, details=[{"id": "1", "score": 0.5}, {"id": "2", "score": 1.0}]))
    ...     path.read_text(encoding="utf-8").splitlines()
    ['{"id": "1", "score": 0.5}', '{"id": "2", "score": 1.0}']
    """
    with atomic_writer(path) as stream:
        stream.writelines(json.dumps(detail, ensure_ascii=False) + "\n" for detail in result.details)


def write_result(path: Path, document: Mapping[str, Any]) -> None:
    """The whole document as ``result.json``.

    Args:
        path: The file, written whole or not at all; missing folders are made.
        document: From :func:`evaluate`.

    Raises:
        DataError: Where the file cannot be written.
        ValueError: On NaN or an infinity, which JSON does not have.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_result(Path(folder) / "result.json", {"overall": 40.0})
    ...     json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    {'overall': 40.0}
    """
    write_json(path, document)


def lookup(document: Mapping[str, Any], key: str) -> float | None:
    """A number of a document by its dotted key.

    Args:
        document: A result.
        key: Names of nested dicts and of the number, with dots between.

    Returns:
        The number; None where there is none under the key.

    >>> lookup({"overall": {"acc@0.25": 40.0}}, "overall.acc@0.25")
    40.0
    >>> lookup({"overall": {"acc@0.25": 40.0}}, "acc@0.25") is None
    True
    """
    value: Any = document
    for part in _parts(key):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _parts(key: str) -> list[str]:
    """The parts of a dotted key; the dot of ``acc@0.25`` belongs to its part."""
    import re

    return re.split(r"(?<!@\d)\.", key)


def check_threshold(document: Mapping[str, Any], wanted: str) -> None:
    """Hold a result against ``METRIC=VALUE``, in percent.

    Args:
        document: The result.
        wanted: A dotted key of the document, or its last part where only one key ends so, and the least value.

    Raises:
        UsageError: Where the metric is unknown or the value no number.
        ThresholdError: Where the value is not reached, or the metric was not measured.

    >>> check_threshold({"micro": {"f1": 40.0}}, "f1=40")
    >>> check_threshold({"micro": {"f1": 40.0}}, "f1=50")
    Traceback (most recent call last):
    rft3d_cli.errors.ThresholdError: micro.f1 is 40.00, below 50
    """
    name, least = threshold(wanted)
    key, value = metric(document, name)
    if value is None or value < least:
        shown = "not measured" if value is None else f"{value:.2f}"
        raise ThresholdError(f"{key} is {shown}, below {least:g}")


def metric(document: Mapping[str, Any], name: str) -> tuple[str, float | None]:
    """A metric of a result by its dotted key, or by the end of it where only one key ends so.

    Args:
        document: The result.
        name: The key or its end. Numbers of which more is not better (:data:`NO_METRICS`) are no metrics.

    Returns:
        The whole key, and the value, None where nothing was measured.

    Raises:
        UsageError: Where none does, or several.

    >>> document = {"overall": {"n": 5, "mean_iou": 40.0}, "unique": {"acc@0.5": None}}
    >>> metric(document, "mean_iou"), metric(document, "acc@0.5")
    (('overall.mean_iou', 40.0), ('unique.acc@0.5', None))
    """
    known = {key: value for key, value in _numbers(document) if NO_METRICS.isdisjoint(_parts(key))}
    matches = [name] if name in known else [key for key in known if key.endswith(f".{name}")]
    if len(matches) != 1:
        near = ", ".join((matches or [*known])[:8])
        raise UsageError(f"--fail-under: {'no' if not matches else 'more than one'} metric {name!r}", f"one of {near}")
    return matches[0], known[matches[0]]


def threshold(wanted: str) -> tuple[str, float]:
    """The metric and the least value of ``METRIC=VALUE``.

    Args:
        wanted: What the user gave to ``--fail-under``.

    Returns:
        The name as it is written, known or not, and a finite number.

    Raises:
        UsageError: Where it has another form.

    >>> threshold("micro.f1=40")
    ('micro.f1', 40.0)
    """
    name, _, text = wanted.partition("=")
    try:
        least = float(text)
    except ValueError:
        least = math.nan
    if not math.isfinite(least):
        raise UsageError(f"--fail-under {wanted!r} is not METRIC=VALUE", "for example --fail-under micro.f1=40")
    return name, least


def _numbers(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float | None]]:
    out: list[tuple[str, float | None]] = []
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out += _numbers(value, f"{name}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            out.append((name, None if value is None else float(value)))
    return out
