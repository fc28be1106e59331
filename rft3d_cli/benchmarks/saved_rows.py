"""Rows of other harnesses: which record each one answers, and with what text."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from rft3d_cli.benchmarks.saved import HINT, Saved
from rft3d_cli.errors import DataError
from rft3d_cli.prompts import IMAGE
from rft3d_cli.records import Record

IDS = ("id", "question_id", "sample_id", "qid")
"""Where an id may stand. ``index`` and ``doc_id`` count rows of one copy of the data: they are no ids."""

TEXTS = ("prediction", "response", "pred_response", "pred", "output", "text")
"""Where the model's text may stand. ``answer`` is the truth as often as not."""

SCENES = ("scene_name", "scene", "scene_id")
QUESTIONS = ("question", "input", "prompt")

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
        records: What was asked.
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
    names = _ids(about, records)
    if names is None:
        _by_question(path, rows, about, texts, records, out)
        return out
    for (where, _), name, text in zip(rows, names, texts, strict=True):
        out.add(name, text, where)
    return out


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says of its question: its own keys, those of its ``doc``, and those of a metric that copies it."""
    out: dict[str, Any] = {}
    inner = [row["doc"]] if isinstance(row.get("doc"), dict) else []
    inner += [value for value in row.values() if isinstance(value, dict)]
    for part in (*inner, row):
        for key in (*IDS, *SCENES, *QUESTIONS, "video", "images", "options", "candidates", "question_type"):
            if part.get(key) not in (None, ""):
                out.setdefault(key, part[key])
    return out


def _ids(about: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> list[str] | None:
    """The rows' ids; None where some have none, or the data knows none of them or asks something else under them."""
    names = []
    for row in about:
        found = next((row[key] for key in IDS if key in row), None)
        if not isinstance(found, str | int | float) or isinstance(found, bool):
            return None
        names.append(_id_text(found))
    if not records:
        return names
    known = {record.id: record for record in records}
    if known.keys().isdisjoint(names):
        theirs = _source_ids(records)
        names = [theirs.get(name, name) for name in names]
    asked = [(known[name], row) for name, row in zip(names, about, strict=True) if name in known]
    scenes = {record.meta.scene for record in records}
    if not asked or any(_asks_otherwise(record, row, scenes) for record, row in asked):
        return None
    return names


def _asks_otherwise(record: Record, row: Mapping[str, Any], scenes: Container[str | None]) -> bool:
    """Whether a row speaks of another of the scenes, or another question, than its id, as where ids count rows."""
    scene, question = _scene_of(row), row.get("question")
    if scene is not None and scene in scenes and record.meta.scene not in (None, scene):
        return True
    return isinstance(question, str) and _plain(question) not in _plain(record.prompt)


def _source_ids(records: Sequence[Record]) -> dict[str, str]:
    """Record ids by the ids of the rows that they were prepared from, where these are given once."""
    pairs = [((getattr(record.meta, "model_extra", None) or {}).get("source_id"), record.id) for record in records]
    counts: dict[str, int] = {}
    for theirs, _ in pairs:
        counts[str(theirs)] = counts.get(str(theirs), 0) + 1
    return {str(theirs): ours for theirs, ours in pairs if theirs is not None and counts[str(theirs)] == 1}


def _id_text(value: str | float) -> str:
    """An id as text; spreadsheets make ``12.0`` of 12.

    >>> _id_text(12), _id_text("12.0"), _id_text("scene0011_00/ref/1")
    ('12', '12', 'scene0011_00/ref/1')
    """
    return re.sub(r"^(\d+)\.0$", r"\1", str(value).strip())


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


def _plain(text: str) -> str:
    """A prompt or question for comparison: without marks of frames, white space made single."""
    return " ".join(re.sub(rf"(Frame-\d+: )?{re.escape(IMAGE)}", " ", text).split())


def _scene_of(row: Mapping[str, Any]) -> str | None:
    """The scene that a row is about, by name or by the path of its video or first image."""
    for key in SCENES:
        if isinstance(row.get(key), str):
            return str(row[key]).rsplit("/", 1)[-1]
    video, images = row.get("video"), row.get("images")
    if isinstance(video, str):
        return video.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    if isinstance(images, list) and images and isinstance(images[0], str) and "/" in images[0]:
        return images[0].split("/")[-2]
    return None


def _options(row: Mapping[str, Any]) -> list[str]:
    """The options of a row; tables hold a printed list."""
    found = row.get("options", row.get("candidates"))
    if isinstance(found, str):
        from rft3d_cli.answers.literal import read_literal

        try:
            found = read_literal(found)
        except ValueError:
            return []
    return [_plain(str(one)) for one in found] if isinstance(found, list) else []


def _by_question(
    path: Path,
    rows: Sequence[Row],
    about: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    records: Sequence[Record],
    out: Saved,
) -> None:
    """Join rows to records by what they ask."""
    scenes: dict[str | None, list[tuple[Record, str]]] = {}
    prompts: dict[str, list[tuple[Record, str]]] = {}
    for record in records:
        prompt = _plain(record.prompt)
        if record.meta.scene:
            scenes.setdefault(record.meta.scene, []).append((record, prompt))
        prompts.setdefault(prompt, []).append((record, prompt))
    lost, first, by_scene = 0, "", False
    for (where, _), row, text in zip(rows, about, texts, strict=True):
        question = next((_plain(row[key]) for key in QUESTIONS if isinstance(row.get(key), str)), "")
        scene = _scene_of(row)
        if not question:
            raise DataError(f"{where}: neither an id of the data nor a question", _ADD_IDS)
        near = scenes[scene] if scene in scenes else prompts.get(question, [])
        options, kind = _options(row), row.get("question_type")
        fits = [
            record
            for record, prompt in near
            if f" {question} " in f" {prompt} "
            and all(option in prompt for option in options)
            and (kind is None or record.meta.question_type in (None, kind))
        ]
        if len(fits) > 1:
            ids = ", ".join(record.id for record in fits[:3])
            raise DataError(f"{where}: {len(fits)} records ask the same: {ids}", _ADD_IDS)
        by_scene |= scene in scenes
        if fits:
            out.add(fits[0].id, text, where)
        else:
            lost, first = lost + 1, first or where
    if not out.predictions:
        raise DataError(f"{path}: no row has an id of the data, and none asks what a record asks", _ADD_IDS)
    how = "scene and question" if by_scene else "the whole prompt"
    out.notes.append(f"{path} has no ids of the data: {len(out.predictions):,} predictions joined by {how}")
    if lost:
        out.notes.append(f"{lost:,} of {len(rows):,} rows fit no record, first {first}")
