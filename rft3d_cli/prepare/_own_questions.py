"""Questions about videos from a spreadsheet (CSV) or JSONL, checked row by row."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from rft3d_cli.errors import DataError
from rft3d_cli.prompts import FORBIDDEN, IMAGE
from rft3d_cli.records import media_path, read_lines

NEEDED = ("video", "question", "answer")
OPTIONAL = ("options", "id", "scene", "split", "question_type", "frames")
COLUMNS = (*NEEDED, *OPTIONAL)
DELIMITERS = ",;\t"
MAX_BYTES = 1 << 28
MAX_FRAMES = 1024
SHOWN = 12
"""Columns named in a message."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COMMAS = re.compile(r"[+-]?[0-9]+([,' ][0-9]+)+(\.[0-9]+)?")
_MARKED = re.compile(r"\s*[(\[]?([A-Za-z])[.):\]]\s*(.*)", re.DOTALL)

Kind = Literal["choice", "number", "text"]


@dataclass(frozen=True)
class OwnQuestion:
    """One checked row.

    Args:
        line: In the file, from 1.
        id: As given; None to be made.
        video: Path below the folder of videos.
        text: The question.
        kind: What its answer is.
        answer: A letter, a number as written, or the first reference.
        options: As they are shown, each with its letter.
        references: Of a text.
        frames: How many to take, where the row says so.
        meta: ``scene``, ``split`` and ``question_type``, where the row has them.
    """

    line: int
    id: str | None
    video: str
    text: str
    kind: Kind
    answer: str
    options: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    frames: int | None = None
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sheet:
    """Rows as they are written.

    Args:
        rows: Cells by column, with the line where the row starts.
        wrong: What is wrong with rows that could not be taken apart, by line.
        unused: Columns that mean nothing here.
    """

    rows: list[tuple[int, dict[str, Any]]]
    wrong: dict[int, str]
    unused: list[str]


def read_sheet(path: Path) -> Sheet:
    """Rows of a ``.csv``, ``.tsv`` or ``.jsonl`` file.

    Raises:
        DataError: Where the file cannot be read, or lacks a column.
    """
    kind = path.suffix.lower()
    if kind in (".json", ".xlsx", ".xls", ".ods", ".parquet"):
        hint = "write one object a line (.jsonl)" if kind == ".json" else "save it as CSV UTF-8"
        raise DataError(f"{path} is neither CSV nor JSONL", hint)
    return _jsonl(path) if kind in (".jsonl", ".ndjson") else _table(path)


def _jsonl(path: Path) -> Sheet:
    rows: list[tuple[int, dict[str, Any]]] = []
    wrong: dict[int, str] = {}
    for number, line in read_lines(path):
        try:
            # Windows' tools start a file with a byte order mark.
            row = json.loads(line.removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            wrong[number] = "not JSON"
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            wrong[number] = "not a JSON object"
    names = {name for _, row in rows for name in row}
    if rows:
        _check_columns(path, sorted(names))
    return Sheet(rows, wrong, sorted(names - {*COLUMNS}))


def _table(path: Path) -> Sheet:
    text = _text(path)
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, dict[str, Any]]] = []
    wrong: dict[int, str] = {}
    try:
        header = next((cells for cells in reader if any(cell.strip() for cell in cells)), [])
        names = [name.strip().lower() for name in header]
        _check_columns(path, names)
        repeated = sorted({name for name in names if name and names.count(name) > 1})
        if repeated:
            raise DataError(f"{path} has two columns {repeated[0]}", "rename one")
        start = reader.line_num + 1
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if any(cell.strip() for cell in cells[len(names) :]):
                wrong[line] = (
                    f'{len(cells)} cells for {len(names)} columns: put "…" around a cell with {delimiter!r} in it'
                )
                continue
            rows.append((line, {name: cell.strip() for name, cell in zip(names, cells, strict=False) if cell.strip()}))
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}", 'write a " within a quoted cell twice: ""') from None
    return Sheet(rows, wrong, [name for name in names if name and name not in COLUMNS])


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise DataError(f"{path} holds more than {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        line = data[: _bad_byte(data)].count(b"\n") + 1
        raise DataError(f"{path} is not UTF-8 text: line {line}", "save it as CSV UTF-8") from None


def _bad_byte(data: bytes) -> int:
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def _delimiter(text: str) -> str:
    """The delimiter whose header has most of the columns; the sniffer decides where headers do not."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    found = {mark: len({*COLUMNS} & {*_cells(head, mark)}) for mark in DELIMITERS}
    most = max(found.values())
    best = [mark for mark, count in found.items() if count == most]
    if len(best) == 1:
        return best[0]
    try:
        return csv.Sniffer().sniff(text[:65_536], DELIMITERS).delimiter
    except csv.Error:
        return best[0]


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in line.split(delimiter)]


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in NEEDED if name not in names]
    if missing:
        near = {name: get_close_matches(name, names, n=1, cutoff=0.7) for name in missing}
        renamed = [f"rename {match[0]} to {name}" for name, match in near.items() if match]
        word = "column" if len(missing) == 1 else "columns"
        there = ", ".join(name[:40] for name in names[:SHOWN] if name) + (", …" if len(names) > SHOWN else "")
        raise DataError(
            f"{path} lacks the {word} {', '.join(missing)}; it has {there or 'none'}",
            "; ".join(renamed) or f"columns are {', '.join(NEEDED)}, and where they are wanted {', '.join(OPTIONAL)}",
        )


def parse_question(line: int, row: Mapping[str, Any]) -> OwnQuestion:
    """A row as a question.

    Args:
        line: Where it stands.
        row: Cells by column.

    Raises:
        ValueError: With what is wrong.
    """
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which no file can") from None
    video, text = (_words(row, name) for name in ("video", "question"))
    if video is None or text is None:
        raise ValueError(f"no {'video' if video is None else 'question'}")
    if mark := next((mark for mark in (IMAGE, *FORBIDDEN) if mark in text), None):
        raise ValueError(f"the question holds {mark}, which stands for pixels")
    try:
        media_path(Path(), video)
    except DataError:
        raise ValueError(f"video {video!r} is not a path below the folder of videos, written with /") from None
    meta = {name: value for name in ("scene", "split", "question_type") if (value := _words(row, name)) is not None}
    common: dict[str, Any] = {
        "line": line,
        "id": _words(row, "id"),
        "video": video,
        "text": text,
        "frames": _frames(row.get("frames")),
        "meta": meta,
    }
    answer, options = row.get("answer"), row.get("options")
    if isinstance(options, str):
        options = [option.strip() for option in options.split("|")]
    if options:
        shown, letter = _choice(options, answer)
        return OwnQuestion(**common, kind="choice", answer=letter, options=shown)
    return OwnQuestion(**common, **_open(answer))


def _words(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is not text")
    return str(value).strip()


def _frames(value: Any) -> int | None:
    if value is None or value == "":
        return None
    known = isinstance(value, int) and not isinstance(value, bool)
    if not known and not (isinstance(value, str) and re.fullmatch("[0-9]{1,4}", value.strip())):
        raise ValueError(f"frames {value!r} is not a whole number")
    if not 1 <= int(value) <= MAX_FRAMES:
        raise ValueError(f"frames {value} is not between 1 and {MAX_FRAMES}")
    return int(value)


def _choice(options: Any, answer: Any) -> tuple[tuple[str, ...], str]:
    """Options as shown, and the letter of the right one."""
    if not isinstance(options, list) or not all(isinstance(o, str) and o.strip() for o in options):
        raise ValueError("options are not a list of texts" if isinstance(options, list) else "options are not a list")
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise ValueError(f"{len(options)} options: 2 to {len(ascii_uppercase)} can have a letter")
    letters = ascii_uppercase[: len(options)]
    texts = [option.strip() for option in options]
    marks = [_MARKED.fullmatch(text) for text in texts]
    if all(mark is not None and mark[1] == letter for mark, letter in zip(marks, letters, strict=True)):
        shown, texts = texts, [mark[2].strip() for mark in marks if mark is not None]
    elif all(mark is not None for mark in marks) and {m[1].upper() for m in marks if m} == {*letters}:
        raise ValueError(f"options carry letters that are not {', '.join(letters)} in this order")
    else:
        shown = [f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True)]
    plain = [text.casefold() for text in texts]
    if len({*plain}) < len(plain):
        raise ValueError("two options are the same")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        raise ValueError("no answer" if answer is None or answer == "" else "answer is neither a letter nor an option")
    said = str(answer).strip().casefold()
    marked = _MARKED.fullmatch(said)
    letter = said if len(said) == 1 else marked[1] if marked is not None and not marked[2] else ""
    found = {i for i, (text, full) in enumerate(zip(plain, shown, strict=True)) if said in (text, full.casefold())}
    found |= {i for i, known in enumerate(letters) if known.casefold() == letter}
    if not found:
        raise ValueError(f"answer {answer!r} is neither a letter from A to {letters[-1]} nor one of the options")
    if len(found) > 1:
        raise ValueError(f"answer {answer!r} is the letter of one option and the text of another: answer with a letter")
    return tuple(shown), letters[found.pop()]


def _open(answer: Any) -> dict[str, Any]:
    """Kind, answer and references of a question without options."""
    if isinstance(answer, list):
        references = tuple(text.strip() for text in answer if isinstance(text, str) and text.strip())
        if not references or len(references) < len(answer):
            raise ValueError("answer is not a list of texts")
        return {"kind": "text", "answer": references[0], "references": references}
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise ValueError("no answer" if answer is None else "answer is neither text nor a number")
    said = str(answer).strip()
    if not said:
        raise ValueError("no answer")
    if not isinstance(answer, str) or _NUMBER.fullmatch(said):
        if not math.isfinite(float(said)):
            raise ValueError(f"answer {said} is not a finite number")
        return {"kind": "number", "answer": said}
    if _COMMAS.fullmatch(said):
        raise ValueError(f"answer {said!r}: write numbers with a point for decimals and nothing between thousands")
    return {"kind": "text", "answer": said, "references": (said,)}
