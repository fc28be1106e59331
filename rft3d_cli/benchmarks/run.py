"""Predictions to a result: both scorers, intervals, where everything came from, and files of it all."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.benchmarks.metrics import lookup
from rft3d_cli.benchmarks.registry import BENCHMARKS
from rft3d_cli.benchmarks.result import SCORERS, Result, environment
from rft3d_cli.files import atomic_writer, sha256, write_json
from rft3d_cli.prompts import prompt_hash

if TYPE_CHECKING:
    from rft3d_cli.geometry.eras import Era
    from rft3d_cli.records import Record, RecordFile

RESULT = "result.json"
DETAILS = "details.jsonl"


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
    brief: bool = False,
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
        brief: The chosen score alone: no intervals, no second scorer.

    Returns:
        The chosen scorer's result, and the document of the whole evaluation: the result's own, ``other_scorer`` with
        its headline number, ``angles`` for boxes (how they were read, and which meaning they speak for), ``data``,
        ``prompt_hash``, ``about``, ``versions``, and ``run``, all that another process would have otherwise: ``time``
        (UTC). Details also have ``scene``, ``dataset``, ``question_type`` and ``subset`` of their record.

    Raises:
        UsageError: On an unknown scorer or answer style.
        DataError: On a record that the benchmark does not score.
        KeyError: On an unknown benchmark.
        OSError: Where the file of the records cannot be read.

    >>> import tempfile
    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.records import RecordFile
    >>> record, options = example_record("number"), {"scorer": "official", "answer_style": "direct", "seed": 0}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = RecordFile(Path(folder) / "records.jsonl", Path(folder), [record])
    ...     write_json(source.path, record.model_dump(by_alias=True), indent=None)
    ...     _, document = evaluate("vsibench", source, [record], {record.id: "about 2.5"}, **options, about={})
    >>> document["overall"], document["other_scorer"]
    (0.0, {'scorer': 'robust', 'overall': 100.0, 'unreadable': 0})
    """
    known = BENCHMARKS[benchmark]
    score = known.score
    meant: dict[str, Any] = {}
    given = len(predictions.keys() - {record.id for record in source.records})
    if known.boxes:
        from rft3d_cli.answers.eras import reread
        from rft3d_cli.benchmarks.eras import tell_era

        meant = {"angles": {"read_as": angles, "evidence": tell_era(records, predictions).document()}}
        predictions = {name: reread(text, angles) for name, text in predictions.items()}
    style: dict[str, Any] = {"answer_style": answer_style, "seed": seed}
    light = {**(more or {}), **known.light}
    result = score(
        records, predictions, scorer=scorer, intervals=not brief, **style, **(light if brief else more or {})
    )
    if not brief:
        other = next(name for name in SCORERS if name != scorer)
        second = score(records, predictions, scorer=other, intervals=False, **style, **light).document
        number = {known.headline: lookup(second, known.headline)}
        meant["other_scorer"] = {"scorer": other, **number, "unreadable": second["unreadable"]}
    document = {
        **result.document,
        **meant,
        "unknown_ids": given,
        "data": {"file": str(source.path), "sha256": sha256(source.path), "records": len(records)},
        "prompt_hash": prompt_hash([record.prompt for record in records]),
        **about,
        "versions": environment(),
        "run": {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
    }
    for detail, record in zip(result.details, records, strict=True):
        detail |= {name: getattr(record.meta, name) for name in ("scene", "dataset", "question_type", "subset")}
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


def write_all(folder: Path, result: Result, document: dict[str, Any]) -> None:
    """Details and result of one evaluation; never those of two beside each other.

    Args:
        folder: Made where missing.
        result: Its details.
        document: Gets ``details``: the SHA-256 of the details that belong to it.

    Raises:
        DataError: Where a file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_all(Path(folder), Result({}, details=[]), {"overall": 40.0})
    ...     sorted(json.loads((Path(folder) / "result.json").read_text(encoding="utf-8")))
    ['details', 'overall']
    """
    for name in (RESULT, DETAILS):
        (folder / name).unlink(missing_ok=True)
    write_details(folder / DETAILS, result)
    document["details"] = {"file": DETAILS, "sha256": sha256(folder / DETAILS)}
    write_result(folder / RESULT, document)


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
