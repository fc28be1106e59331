"""What an interrupted ``prepare`` leaves, and how it goes on.

While ``X.jsonl`` is made, the folder ``X.unfinished`` holds two files: ``records.jsonl``, and ``parts.jsonl``, whose
first line says which run it is and which then has a line for each finished part: what it gave besides records, and
where its records end. Records come first, their line after them, so whatever a crash tears is beyond the last whole
line and is cut off when the run goes on. At the end the records get their name and the folder goes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.records import Record


@dataclass
class Part:
    """What one part of a data set gave.

    Args:
        name: The scene.
        records: In order.
        rejects: One mapping a thing left out: ``what``, ``reason``, and where it was.
        counts: Numbers for the report.
        labels: How often each class is a target.
        warnings: Things that look wrong but do not stop the part; the same words for the same problem.
        scan: What was read, for the card.
        bad: How many of the parts in here were quarantined.
        total: How many parts are in here.
        lines: Records as they are written, once they are packed.
    """

    name: str
    records: list[Record] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    scan: dict[str, Any] | None = None
    bad: int = 0
    total: int = 1
    lines: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many records there are, packed or not."""
        return len(self.records) + len(self.lines)

    def pack(self) -> None:
        """Turn records into what is written of them, which is quicker to pass on between processes."""
        self.lines += [record.to_json().encode() + b"\n" for record in self.records]
        self.records = []

    def reject(self, what: str, reason: str, **where: Any) -> None:
        """Note that something was left out."""
        self.rejects.append({"what": what, "scene": self.name, **where, "reason": reason})


@dataclass
class Finished:
    """A part whose records are in the file.

    Args:
        part: The part, without its records.
        records: How many it had.
        end: Where they end in the file, bytes.
    """

    part: Part
    records: int
    end: int


class Unfinished:
    """The folder of a run that is under way. Made by :func:`unfinished`."""

    def __init__(self, folder: Path, finished: list[Finished], records: IO[bytes], parts: IO[bytes]) -> None:
        self.folder, self.finished = folder, finished
        self._records, self._parts = records, parts

    def add(self, part: Part) -> None:
        """Keep a finished part."""
        part.pack()
        self._records.writelines(part.lines)
        self._records.flush()
        count, part.lines = part.size, []
        row = {**vars(part), "records": count, "end": self._records.tell()}
        self._parts.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._parts.flush()
        self.finished.append(Finished(part, count, row["end"]))

    def finish(self, out: Path) -> None:
        """Give the records their name."""
        os.fsync(self._records.fileno())
        (self.folder / "records.jsonl").replace(out)
        _remove(self.folder)


@contextmanager
def unfinished(out: Path, run: Mapping[str, Any], *, resume: bool) -> Iterator[Unfinished]:
    """The folder of a run while it works; it stays where the run ends early and something of use was finished.

    Args:
        out: The record file.
        run: What tells runs apart, JSON-able: only the same run may go on.
        resume: Go on where an interrupted run of the same kind stopped; otherwise what it left is dropped.

    Raises:
        UsageError: Where the run to resume was another one.
        DataError: Where the folder cannot be written, or ``out`` is no file.
    """
    if out.exists() and not out.is_file():
        raise DataError(f"{out} is not a file, where records would be written")
    folder = out.with_suffix(".unfinished")
    identity = json.loads(json.dumps(run))
    finished = _finished(folder, identity) if resume else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            records = _cut(stack, folder / "records.jsonl", finished[-1].end if finished else 0)
            parts = stack.enter_context((folder / "parts.jsonl").open("wb"))
            going = Unfinished(folder, finished, records, parts)
            parts.write(json.dumps(identity, ensure_ascii=False).encode() + b"\n")
            for item in finished:
                row = {**vars(item.part), "records": item.records, "end": item.end}
                parts.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            parts.flush()
            yield going
    except OSError as error:
        if error.filename is None or not Path(str(error.filename)).is_relative_to(folder):
            raise
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    finally:
        if all(item.part.bad for item in finished):
            _remove(folder)


def _finished(folder: Path, identity: Mapping[str, Any]) -> list[Finished]:
    """The finished parts of an earlier run, where there is one."""
    try:
        with (folder / "parts.jsonl").open(encoding="utf-8") as stream:
            lines = [line for line in stream if line.endswith("\n")]
        known, *rows = [json.loads(line) for line in lines]
        size = (folder / "records.jsonl").stat().st_size
    except (OSError, ValueError):
        return []
    found = [Finished(_part(row), row["records"], row["end"]) for row in rows if row["end"] <= size]
    if differing := [key for key in identity if known.get(key) != identity[key]]:
        key = differing[0]
        if key == "options":
            key = f"option {differing_option(identity[key], known.get(key, {}))}"
        raise UsageError(f"{folder} is of another run: its {key} differs", "leave --resume away to start anew")
    return found


def differing_option(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first option in which two runs differ; some are only there where they are used.

    Args:
        one: The options of a run, as in its card.
        other: Those of another one, not the same.

    >>> differing_option({"seed": 0}, {"seed": 0, "limit": 3})
    'limit'
    """
    return next(name for name in {**one, **other} if name not in one or name not in other or one[name] != other[name])


def _part(row: Mapping[str, Any]) -> Part:
    kept = {key: value for key, value in row.items() if key not in ("records", "end", "counts", "labels", "lines")}
    return Part(**kept, counts=Counter(row["counts"]), labels=Counter(row["labels"]))


def _cut(stack: ExitStack, path: Path, end: int) -> IO[bytes]:
    """A file open for writing after its first ``end`` bytes, which it keeps."""
    stream = stack.enter_context(path.open("r+b" if end else "wb"))
    stream.truncate(end)
    stream.seek(end)
    return stream


def _remove(folder: Path) -> None:
    """Remove our two files, and the folder where nothing else is in it."""
    for name in ("records.jsonl", "parts.jsonl"):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
