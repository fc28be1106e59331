"""Files of rows, read a stretch at a time: JSON lists (the largest known has hundreds of megabytes), lines, parquet."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from rft3d_cli.errors import DataError, SetupError

BATCH = 256
"""Rows of one job."""
MAX_ROW = 64 << 20
"""No row is larger, in characters; the largest known are of some thousands."""
STRETCH = 1 << 20
"""Bytes read at a time."""
HINT = "a file of rows is a JSON list of them, one row a line, or parquet"
_SPACE = " \t\n\r"


@dataclass(frozen=True)
class Unreadable:
    """A line that is not JSON.

    Args:
        why: What is wrong.
    """

    why: str


@dataclass(frozen=True)
class Span:
    """Neighbouring rows of a file.

    Args:
        first: Number of the first row, from 0.
        count: How many there are.
        start: Byte at which they start; 0 in a parquet file.
        end: Byte after them; 0 in a parquet file.
        lines: Whether they are one a line; else they are values of a list, with commas between them.
    """

    first: int
    count: int
    start: int
    end: int
    lines: bool


def read_spans(path: Path) -> Iterator[tuple[Span, list[Any]]]:
    """The rows of a file, ``BATCH`` at a time, unchecked; a line that is not JSON is :class:`Unreadable`.

    Args:
        path: A table, where its name ends in ``.parquet``; JSON values one a line, where it ends in ``.jsonl`` or its
            first character opens an object; else a JSON list.

    Raises:
        DataError: Where the file cannot be read, or a list is not JSON.
        SetupError: Where a parquet file needs a package that is not installed.
    """
    if path.suffix == ".parquet":
        yield from _table_spans(path)
        return
    try:
        with path.open("rb") as stream:
            start, opening = _opening(stream)
            lines = path.suffix == ".jsonl" or opening == "{"
            if not opening or not (lines or opening == "["):
                what = "is empty" if not opening else "is neither a JSON list nor JSON lines"
                raise DataError(f"{path} {what}", HINT)
            stream.seek(start)
            yield from _lines(stream, start) if lines else _list(path, stream, start)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def read_span(path: Path, span: Span) -> list[Any]:
    """The rows of a span that :func:`read_spans` gave.

    Raises:
        DataError: Where the file is not what it was then.
    """
    if path.suffix == ".parquet":
        rows = list(_rows_of(path).slice(span.first, span.count).to_pylist())
        if len(rows) != span.count:
            raise DataError(f"{path} changed while it was read", "run the command again")
        return rows
    try:
        with path.open("rb") as stream:
            stream.seek(span.start)
            data = stream.read(span.end - span.start)
        rows = [_line(line) for line in data.split(b"\n") if line.strip()] if span.lines else json.loads(b"[%b]" % data)
    except (OSError, ValueError, RecursionError):
        rows = []
    if len(rows) != span.count:
        raise DataError(f"{path} changed while it was read", "run the command again")
    return list(rows)


def _table_spans(path: Path) -> Iterator[tuple[Span, list[Any]]]:
    table = _rows_of(path)
    for first in range(0, table.num_rows, BATCH):
        rows = list(table.slice(first, BATCH).to_pylist())
        yield Span(first, len(rows), 0, 0, lines=False), rows


def _rows_of(path: Path) -> Any:
    """A parquet file as a table; as columns it takes little memory."""
    try:
        about = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return _table(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1)  # a process reads all its spans of one file
def _table(path: Path, size: int, time: int) -> Any:
    try:
        import pyarrow as arrow  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError:
        raise SetupError(f"{path} needs pyarrow to be read", "pip install pyarrow") from None
    try:
        return parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path} is not a parquet file: {first}", HINT) from None


def _opening(stream: IO[bytes]) -> tuple[int, str]:
    """The place of the first character that is not space, and the character; a byte order mark is passed over."""
    start = 0
    while piece := stream.read(4096):
        if start == 0:
            bom = len(codecs.BOM_UTF8) if piece.startswith(codecs.BOM_UTF8) else 0
            start, piece = bom, piece[bom:]
        rest = piece.lstrip(_SPACE.encode())
        start += len(piece) - len(rest)
        if rest:
            return start, chr(rest[0])
    return start, ""


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        return Unreadable("nested too deeply")
    except ValueError as error:
        return Unreadable(f"not JSON: {error}")


def _lines(stream: IO[bytes], start: int) -> Iterator[tuple[Span, list[Any]]]:
    first, at, rows = 0, start, []
    while line := stream.readline(MAX_ROW):
        if len(line) == MAX_ROW:
            raise DataError(f"{stream.name} has a line of more than {MAX_ROW >> 20} MiB", HINT)
        at += len(line)
        if line.strip():
            rows.append(_line(line))
        if len(rows) == BATCH:
            yield Span(first, len(rows), start, at, lines=True), rows
            first, start, rows = first + len(rows), at, []
    if rows:
        yield Span(first, len(rows), start, at, lines=True), rows


def _list(path: Path, stream: IO[bytes], start: int) -> Iterator[tuple[Span, list[Any]]]:
    text = _Text(path, stream, start)
    text.take("[")
    rows: list[Any] = []
    first, begin = 0, text.byte()
    more = text.peek() != "]"
    while more:
        rows.append(text.value(first + len(rows)))
        end = text.byte()
        following = text.peek()
        more = following == ","
        if following not in (",", "]"):
            raise DataError(f"{path} ends or breaks after row {first + len(rows) - 1}", "copy or download it again")
        text.take(following)
        if rows and (len(rows) == BATCH or not more):
            yield Span(first, len(rows), begin, end, lines=False), rows
            first, begin, rows = first + len(rows), text.byte(), []


class _Text:
    """A stretch of a file as text, and the place in it."""

    def __init__(self, path: Path, stream: IO[bytes], start: int) -> None:
        self.path, self.stream = path, stream
        self.text, self.at = "", 0
        self._mark, self._base = 0, start  # a character of the text, and its byte in the file
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()

    def byte(self) -> int:
        """Where in the file the place is."""
        passed = self.text[self._mark : self.at]
        self._base += len(passed) if passed.isascii() else len(passed.encode())
        self._mark = self.at
        return self._base

    def more(self, size: int) -> bool:
        """Read on, and forget what lies before the last place that was asked for; False at the end."""
        self.text, self.at, self._mark = self.text[self._mark :], self.at - self._mark, 0
        data = self.stream.read(size)
        try:
            self.text += self._decode.decode(data, final=not data)
        except UnicodeDecodeError:
            raise DataError(f"{self.path} is not UTF-8 text", HINT) from None
        return bool(data)

    def peek(self) -> str:
        """The next character that is not space; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text) or not self.more(STRETCH):
                return self.text[self.at : self.at + 1]

    def take(self, character: str) -> None:
        """Pass over the next character, which is this one."""
        self.peek()
        self.at += len(character)

    def value(self, row: int) -> Any:
        """The next JSON value."""
        self.peek()
        size = STRETCH
        while True:
            try:
                value, end = self._json.raw_decode(self.text, self.at)
            except RecursionError:
                raise DataError(f"{self.path} row {row} is nested too deeply", HINT) from None
            except ValueError as error:
                if len(self.text) - self.at > MAX_ROW or not self.more(size):
                    what = error.msg if isinstance(error, json.JSONDecodeError) else error
                    raise DataError(f"{self.path} row {row} is not JSON: {what}", "copy or download it again") from None
                size *= 2  # so that trying again costs no more than all of it once
                continue
            # A number at the end of the stretch may go on in the next.
            if end == len(self.text) and self.more(STRETCH):
                continue
            self.at = end
            return value
