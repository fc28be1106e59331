"""Rows of other harnesses: which record each one answers, and with what text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rft3d_cli.benchmarks._saved_asked import (
    QUESTIONS,
    STATED,
    Asked,
    asked_of,
    datasets_of,
    id_text,
    otherwise,
    plain,
    said_by,
)
from rft3d_cli.benchmarks.saved import HINT, Saved, confidence_of
from rft3d_cli.errors import DataError
from rft3d_cli.records import Record

IDS = ("id", "question_id", "sample_id", "qid")
"""Where an id may stand. ``index`` and ``doc_id`` count rows of one copy of the data: they are no ids."""

TEXTS = ("prediction", "response", "pred_response", "pred", "output", "text")
"""Where the model's text may stand. ``answer`` is the truth as often as not."""

Row = tuple[str, dict[str, Any]]
"""A row's place, for messages, and the row."""

_ADD_IDS = "add a column or key `id` with the ids of the data"


def resolve(path: Path, rows: Sequence[Row], records: Sequence[Record], form: str) -> Saved:
    """Predictions of a file's rows.

    Ids are taken where all rows have one and, where rows also say what was asked, the records of these ids ask it.
    Otherwise scene and question tell the record, or the whole prompt where the rows name no scene.

    Args:
        path: The file, for messages.
        rows: Its rows.
        records: All records of the data, also those that are not scored.
        form: ``json``, ``csv``, ``tsv`` or ``xlsx``; rows of lmms-eval are told by their keys.

    Returns:
        The predictions, with a note on how they were joined where it was not by id.

    Raises:
        DataError: Where a row has no text, or its record cannot be told.

    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("number")
    >>> row = {"doc_id": 0, "filtered_resps": ["2.5"], "doc": {"id": record.id}}
    >>> saved = resolve(Path("a.jsonl"), [("line 1", row)], [record], "json")
    >>> saved.format, saved.predictions
    ('lmms-eval', {'example-number': '2.5'})
    """
    if not rows:
        raise DataError(f"{path} holds no predictions", HINT)
    logged = all("filtered_resps" in row or "resps" in row for _, row in rows)
    out = Saved(format="lmms-eval" if logged else form)
    texts = [_logged_text(where, row) if logged else _text(where, row) for where, row in rows]
    about = [_about(row) for _, row in rows]
    asked = asked_of(records)
    names = _ids(about, asked)
    if names is None:
        names = _by_question(path, rows, about, asked, out)
    for (where, row), name, text in zip(rows, names, texts, strict=True):
        if name is None:
            continue
        out.add(name, text, where)
        if not logged and row.get("confidence") not in (None, ""):
            out.confidence[name] = confidence_of(row["confidence"], where)
    return out


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says of its question: its own keys, those of its ``doc``, and those of a metric that copies it."""
    out: dict[str, Any] = {}
    inner = [row["doc"]] if isinstance(row.get("doc"), dict) else []
    inner += [value for value in row.values() if isinstance(value, dict)]
    for part in (*inner, row):
        for key in (*IDS, *STATED):
            if part.get(key) not in (None, ""):
                out.setdefault(key, part[key])
    return out


def _ids(about: Sequence[Mapping[str, Any]], asked: Sequence[Asked]) -> Sequence[str | None] | None:
    """The rows' ids; None where some have none, or the data knows none of them or asks something else under them."""
    names = []
    for row in about:
        found = next((row[key] for key in IDS if key in row), None)
        if not isinstance(found, str | int | float) or isinstance(found, bool):
            return None
        names.append(id_text(found))
    if not asked:
        return names
    known = {one.record.id: one for one in asked}
    if known.keys().isdisjoint(names):
        theirs = _source_ids([one.record for one in asked])
        names = [theirs.get(name, name) for name in names]
    meant = [(known[name], row) for name, row in zip(names, about, strict=True) if name in known]
    datasets = datasets_of(asked)
    # Ids of which one is of another question count rows, or are of another make of the data.
    if not meant or any(otherwise(said_by(row), one, datasets) for one, row in meant):
        return None
    return names


def _source_ids(records: Sequence[Record]) -> dict[str, str]:
    """Record ids by the ids of the rows that they were prepared from, where these are given once."""
    pairs = [((getattr(record.meta, "model_extra", None) or {}).get("source_id"), record.id) for record in records]
    counts: dict[str, int] = {}
    for theirs, _ in pairs:
        counts[str(theirs)] = counts.get(str(theirs), 0) + 1
    return {str(theirs): ours for theirs, ours in pairs if theirs is not None and counts[str(theirs)] == 1}


def _text(where: str, row: Mapping[str, Any]) -> str:
    key = next((key for key in TEXTS if key in row), None)
    if key is None:
        few = ", ".join(str(name) for name in list(row)[:8])
        raise DataError(f"{where}: no prediction among {few}", f"it is looked for under {', '.join(TEXTS)}")
    return _as_text(where, row[key])


def _as_text(where: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    raise DataError(f"{where}: the prediction is no text")


def _logged_text(where: str, row: Mapping[str, Any]) -> str:
    """What lmms-eval scored: the filtered answer, else the raw one."""
    found: Any = row.get("filtered_resps", row.get("resps"))
    while isinstance(found, list):
        if len(found) != 1 and any(one != found[0] for one in found[1:]):
            raise DataError(f"{where}: {len(found)} different answers to one question", "keep one answer a question")
        found = found[0] if found else ""
    text = _as_text(where, found)
    scored = next(
        (part["prediction"] for part in row.values() if isinstance(part, dict) and "prediction" in part), None
    )
    if isinstance(scored, str) and scored != text and text.startswith("["):
        # thinking-in-space's clients of paid models log [request, answer] and score the last.
        try:
            wrapped = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if isinstance(wrapped, list) and wrapped and wrapped[-1] == scored:
            return scored
    return text


def _by_question(
    path: Path, rows: Sequence[Row], about: Sequence[Mapping[str, Any]], asked: Sequence[Asked], out: Saved
) -> list[str | None]:
    """The record of each row by what it asks; None where none does."""
    scenes: dict[str, list[Asked]] = {}
    prompts: dict[str, list[Asked]] = {}
    for one in asked:
        for name in one.scenes:
            scenes.setdefault(name, []).append(one)
        prompts.setdefault(one.prompt, []).append(one)
    datasets = datasets_of(asked)
    names: list[str | None] = []
    by_scene = False
    for (where, _), row in zip(rows, about, strict=True):
        said = said_by(row)
        question = next((plain(row[key]) for key in QUESTIONS if isinstance(row.get(key), str)), "")
        if not question:
            raise DataError(f"{where}: neither an id of the data nor a question", _ADD_IDS)
        near = [one for name in sorted(said.scene) for one in scenes.get(name, ())]
        by_scene |= bool(near)
        fits = dict.fromkeys(
            one.record.id
            for one in near or prompts.get(question, [])
            if f" {question} " in f" {one.prompt} " and not otherwise(said, one, datasets)
        )
        if len(fits) > 1:
            raise DataError(f"{where}: {len(fits)} records ask the same: {', '.join([*fits][:3])}", _ADD_IDS)
        names.append(next(iter(fits), None))
    count = len({name for name in names if name is not None})
    if not count:
        raise DataError(f"{path}: no row has an id of the data, and none asks what a record asks", _ADD_IDS)
    how = "scene and question" if by_scene else "the whole prompt"
    out.notes.append(f"{path} has no ids of the data: {count:,} predictions joined by {how}")
    if lost := names.count(None):
        first = rows[names.index(None)][0]
        out.notes.append(f"{lost:,} of {len(rows):,} rows fit no record, first {first}")
    return names
