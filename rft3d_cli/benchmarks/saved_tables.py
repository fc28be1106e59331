"""Tables of predictions: csv, tsv and xlsx, as pandas writes them."""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any
from xml.parsers import expat

from rft3d_cli.errors import DataError

Row = tuple[str, dict[str, Any]]

MAX_CELL = 16 * 1024 * 1024
"""Characters of one cell: a chain of thought is long, but not that long."""
MAX_SHEET = 64 * 1024 * 1024
"""Bytes of one part of a workbook when unpacked: a few kB of an archive unpack to any number."""
MAX_ROWS = 200_000
"""Rows of a workbook's sheet that hold anything; VSI-Bench has 5,130."""
MAX_CELLS = 500_000
"""Cells of a sheet, empty or not."""
MAX_ELEMENTS = 1_500_000
"""XML elements of one part of a workbook, whatever they are."""
MAX_COLUMNS = 16_384

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, expat.ExpatError)


def read_table(path: Path) -> list[Row]:
    """Rows of a table with a head.

    Args:
        path: csv, tsv or xlsx, of which the first sheet is read.

    Returns:
        Each row's place, and its cells as text by the head's names; an empty cell is "".

    Raises:
        DataError: Where the file is broken, too large, has no head, or a row has more cells than the head.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "answers.csv"
    ...     _ = path.write_text("index,prediction" + chr(10) + "7,A chair" + chr(10))
    ...     [cells for _, cells in read_table(path)]
    [{'index': '7', 'prediction': 'A chair'}]
    """
    if path.suffix.lower() == ".xlsx":
        return _named(path, _workbook(path))
    return _named(path, _separated(path, "\t" if path.suffix.lower() == ".tsv" else ","))


def _named(path: Path, rows: list[tuple[int, dict[int, str]]]) -> list[Row]:
    if not rows:
        raise DataError(f"{path} is empty")
    head = {column: name.strip() for column, name in rows[0][1].items() if name.strip()}
    if len(set(head.values())) != len(head):
        raise DataError(f"{path}: two columns have one name", "keep one of them")
    out = []
    for number, cells in rows[1:]:
        if any(text.strip() for column, text in cells.items() if column not in head):
            raise DataError(f"{path} row {number}: more cells than columns", "is a separator inside an unquoted text?")
        if any(text.strip() for text in cells.values()):
            out.append((f"{path} row {number}", {name: cells.get(column, "") for column, name in head.items()}))
    return out


def _separated(path: Path, separator: str) -> list[tuple[int, dict[int, str]]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    before = csv.field_size_limit(MAX_CELL)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        return [(number, dict(enumerate(row))) for number, row in enumerate(rows, start=1) if row]
    except csv.Error as error:
        raise DataError(f"{path}: {error}", "write it with quotes around texts, as pandas does") from None
    finally:
        csv.field_size_limit(before)


def _workbook(path: Path) -> list[tuple[int, dict[int, str]]]:
    """The first sheet of a workbook."""
    try:
        with zipfile.ZipFile(path) as archive:
            shared: list[str] = []
            if "xl/sharedStrings.xml" in archive.namelist():
                _parse(archive, "xl/sharedStrings.xml", _Strings(shared))
            sheet = _Sheet(shared)
            _parse(archive, _first_sheet(archive), sheet)
            return sheet.rows
    except _BROKEN as error:
        raise DataError(f"{path} is no readable workbook: {error}", "save it as csv") from None
    except _RefusedError as error:
        raise DataError(f"{path}: {error}", "save it as csv") from None


class _RefusedError(Exception):
    """A workbook that is not read, and why."""


class _Events:
    """What a part of a workbook is read by: names without their prefix."""

    def start(self, name: str, attributes: dict[str, str]) -> None: ...

    def end(self, name: str) -> None: ...

    def text(self, data: str) -> None: ...


def _parse(archive: zipfile.ZipFile, name: str, events: _Events) -> None:
    """Stream one XML part; documents that declare a type, as entity bombs do, are refused."""
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    count = 0

    def refuse(*_: object) -> None:
        raise _RefusedError(f"{name} declares a document type, which no workbook does")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > MAX_ELEMENTS:
            raise _RefusedError(f"{name} holds more than {MAX_ELEMENTS:,} elements")
        events.start(tag.rpartition(":")[2], attributes)

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: events.end(tag.rpartition(":")[2])
    parser.CharacterDataHandler = events.text
    size = 0
    with archive.open(name) as stream:
        # The size is counted as it comes: what the archive says of itself may be a lie.
        while chunk := stream.read(1 << 20):
            size += len(chunk)
            if size > MAX_SHEET:
                raise _RefusedError(f"{name} unpacks to more than {MAX_SHEET // 1024**2} MiB")
            parser.Parse(chunk, False)
        parser.Parse(b"", True)


def _first_sheet(archive: zipfile.ZipFile) -> str:
    """The path of the first sheet in the workbook's own order."""
    names = archive.namelist()
    found = _Found()
    for part in ("xl/workbook.xml", "xl/_rels/workbook.xml.rels"):
        if part in names:
            _parse(archive, part, found)
    target = found.targets.get(found.sheet, "worksheets/sheet1.xml")
    path = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
    if path not in names:
        raise _RefusedError("it holds no sheet")
    return path


class _Found(_Events):
    """The first sheet's relation, and the relations' targets."""

    def __init__(self) -> None:
        self.sheet = ""
        self.targets: dict[str, str] = {}

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "sheet" and not self.sheet:
            self.sheet = next((value for key, value in attributes.items() if key.rpartition(":")[2] == "id"), "")
        if name == "Relationship":
            self.targets[attributes.get("Id", "")] = attributes.get("Target", "")


class _Strings(_Events):
    """The table of shared texts; a text may be in several runs, and phonetic hints are none of it."""

    def __init__(self, out: list[str]) -> None:
        self.out = out
        self.parts: list[str] = []
        self.reading = self.hint = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "si":
            self.parts = []
        self.hint |= name == "rPh"
        self.reading = name == "t" and not self.hint

    def end(self, name: str) -> None:
        self.hint &= name != "rPh"
        self.reading &= name != "t"
        if name == "si":
            self.out.append(_unescaped("".join(self.parts)))

    def text(self, data: str) -> None:
        if self.reading:
            self.parts.append(data)


class _Sheet(_Events):
    """Rows of a sheet: texts by column, from 0."""

    def __init__(self, shared: list[str]) -> None:
        self.shared = shared
        self.rows: list[tuple[int, dict[int, str]]] = []
        self.parts: list[str] = []
        self.kind, self.column, self.reading = "n", -1, False
        self.number = self.cells = 0
        self.row: dict[int, str] | None = None
        self.hint = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "row":
            number = attributes.get("r")
            self.number = int(number) if number and re.fullmatch("[0-9]{1,9}", number) else self.number + 1
            self.column, self.row = -1, {}
        elif name == "c":
            self.cells += 1
            if self.cells > MAX_CELLS:
                raise _RefusedError(f"the sheet has more than {MAX_CELLS:,} cells")
            self.kind, self.parts = attributes.get("t", "n"), []
            self.column = _column(attributes["r"]) if "r" in attributes else self.column + 1
        self.hint |= name == "rPh"
        self.reading = name in ("v", "t") and not self.hint

    def end(self, name: str) -> None:
        self.reading = False
        self.hint &= name != "rPh"
        if name == "c" and self.row is not None:
            if text := self._value("".join(self.parts)):
                self.row[self.column] = text
        elif name == "row" and self.row:
            if len(self.rows) >= MAX_ROWS:
                raise _RefusedError(f"the sheet has more than {MAX_ROWS:,} rows")
            self.rows.append((self.number, self.row))
            self.row = None

    def text(self, data: str) -> None:
        if self.reading:
            self.parts.append(data)

    def _value(self, text: str) -> str:
        if self.kind == "s":
            if not re.fullmatch("[0-9]{1,9}", text) or int(text) >= len(self.shared):
                raise _RefusedError("a cell points outside the table of texts")
            return self.shared[int(text)]
        return _unescaped(text) if self.kind in ("str", "inlineStr") else text


def _column(place: str) -> int:
    """The column of a cell's name, from 0.

    >>> _column("A1"), _column("AB12")
    (0, 27)
    """
    match = re.match(r"[A-Z]{1,3}", place)
    number = 0
    for letter in match[0] if match else "":
        number = number * 26 + ord(letter) - ord("A") + 1
    if not 0 < number <= MAX_COLUMNS:
        raise _RefusedError(f"a cell is named {place[:20]!r}")
    return number - 1


def _unescaped(text: str) -> str:
    r"""Control characters, which XML cannot hold, as spreadsheets write them.

    >>> _unescaped("a_x000D_\n")
    'a\r\n'
    """
    return re.sub(r"_x([0-9A-Fa-f]{4})_", lambda match: chr(int(match[1], 16)), text)
