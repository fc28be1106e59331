"""Answers of an evaluation on disk: appended as they come, found again when the command is repeated.

A folder holds ``asked.json``, how the model was asked, and ``predictions.jsonl``, a line an answer. A batch is written
at once and flushed to the disk, and a batch that is not whole is asked again whole: an evaluation that was stopped
anywhere ends as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.files import atomic_writer, write_json
from rft3d_cli.records import Record, read_lines

ASKED = "asked.json"
ANSWERS = "predictions.jsonl"
MADE = "made"
"""Part of ``asked.json`` that says where the answers were made: ``device``, ``frame_width`` (pixels), ``versions``."""
PLAN = "frames.jsonl"
"""Which frames of each clip were shown, one line a clip."""
ERRORS = "not-asked.jsonl"
"""What kept records from being asked, one line a record; absent where nothing did."""

LARGE, BLOCK = 1 << 20, 1 << 16
"""Files above so many bytes are told apart by three of their blocks, smaller ones (pictures, mostly) by length."""

Saved = dict[str, dict[str, Any]]
"""Lines of ``predictions.jsonl`` by id: ``id``, ``prediction``, ``of``, and ``confidence`` where it was asked for."""


def question_hash(record: Record) -> str:
    """A short hash of what a record shows and asks, to tell an answer to an older version of it.

    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("number")
    >>> question_hash(record) == question_hash(record.model_copy(update={"target": None}))
    True
    """
    asked = json.dumps([record.prompt, record.video.model_dump(exclude={"times"})], ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()[:12]


def fingerprint(path: Path) -> str:
    """A few letters that tell a media file from another: of its length, its beginning, middle and end.

    Args:
        path: A file; one that is missing has a fingerprint too.

    >>> fingerprint(Path("nowhere"))
    'missing'
    """
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        if size > LARGE:
            with path.open("rb") as stream:
                for place in (0, size // 2, size - BLOCK):
                    stream.seek(place)
                    digest.update(stream.read(BLOCK))
    except OSError:
        return "missing"
    return digest.hexdigest()[:8]


def marks(records: Sequence[Record], media_root: Path | None) -> dict[str, str]:
    """What each record's answer is an answer to, by id: the hash of its question, and of the media that it shows.

    Args:
        records: With unique ids.
        media_root: Folder of their media; None where no media are shown.

    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("number")
    >>> marks([record], None)[record.id] == question_hash(record)
    True
    >>> marks([record], Path("nowhere"))[record.id].startswith(question_hash(record) + "-")
    True
    """
    known: dict[str, str] = {}
    out = {}
    for record in records:
        out[record.id] = question_hash(record)
        if media_root is not None:
            for name in record.media:
                if name not in known:
                    known[name] = fingerprint(media_root / name)
            shown = " ".join(known[name] for name in record.media)
            out[record.id] += "-" + hashlib.sha256(shown.encode()).hexdigest()[:8]
    return out


def question_hash_of_all(records: Sequence[Record]) -> str:
    """A short hash of all records' questions, in their order.

    >>> from rft3d_cli.examples import example_record
    >>> one, two = example_record("number"), example_record("choice")
    >>> question_hash_of_all([one, two]) == question_hash_of_all([two, one])
    False
    """
    return hashlib.sha256("".join(map(question_hash, records)).encode()).hexdigest()[:12]


@dataclass
class Journal:
    """The open journal of one process.

    Args:
        path: ``predictions.jsonl``.
        saved: What was answered before, by id.
        stream: Where answers are appended.
        settings: What ``asked.json`` says.
        marks: What each record's answer has to be an answer to; see :func:`marks`.
    """

    path: Path
    saved: Saved
    stream: IO[str] = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)

    def made(self, where: Mapping[str, Any] | None) -> None:
        """Write down where the answers were made; the first word counts.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, journal(Path(folder), {}, fresh=False) as book:
        ...     book.made({"device": "cpu"})
        ...     asked_in(Path(folder))["made"]
        {'device': 'cpu'}
        """
        if where is not None and self.settings.get(MADE) is None:
            self.settings[MADE] = dict(where)
            write_json(self.path.with_name(ASKED), self.settings)

    def has(self, records: Sequence[Record]) -> bool:
        """Whether all of these were answered, as they are now.

        >>> import io
        >>> from rft3d_cli.examples import example_record
        >>> record = example_record("number")
        >>> line = {"id": record.id, "prediction": "2", "of": question_hash(record)}
        >>> book = Journal(Path(), {record.id: line}, io.StringIO())
        >>> book.has([record]), book.has([record, example_record("choice")])
        (True, False)
        """
        return all(self.saved.get(record.id, {}).get("of") == self.mark(record) for record in records)

    def mark(self, record: Record) -> str:
        """What an answer to a record is an answer to.

        >>> import io
        >>> from rft3d_cli.examples import example_record
        >>> record = example_record("number")
        >>> Journal(Path(), {}, io.StringIO(), marks={record.id: "1f-2e"}).mark(record)
        '1f-2e'
        """
        return self.marks.get(record.id) or question_hash(record)

    def take(self, saved: Saved) -> None:
        """Add what another journal holds, where this one holds nothing, or an answer to something older.

        >>> import io
        >>> saved, marks = {"a": {"of": "old"}, "b": {"of": "now"}}, {"a": "now", "b": "now"}
        >>> book = Journal(Path(), saved, io.StringIO(), marks=marks)
        >>> book.take({name: {"of": "now", "shard": 1} for name in "abc"})
        >>> {name: line.get("shard") for name, line in book.saved.items()}
        {'a': 1, 'b': None, 'c': 1}
        """
        for name, line in saved.items():
            if name not in self.saved or self.saved[name].get("of") != self.marks.get(name):
                self.saved[name] = line

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write the answers of one batch; they are on the disk when this returns.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, journal(Path(folder), {}, fresh=False) as book:
        ...     book.append([{"id": "a", "prediction": "4", "of": "1f"}])
        ...     len(book.path.read_text().splitlines())
        1
        """
        self.stream.write("".join(map(_line, lines)))
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.saved |= {line["id"]: line for line in lines}

    def settle(self, ids: Sequence[str]) -> None:
        """Leave one line an id, these first, in their order: the file that a run without a stop would leave.

        Args:
            ids: Of answers that are there. Answers to other records are kept behind them.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, journal(Path(folder), {}, fresh=False) as book:
        ...     book.append([{"id": name, "prediction": "4", "of": "1f"} for name in ("b", "a")])
        ...     book.settle(["a"])
        ...     [json.loads(line)["id"] for line in book.path.read_text().splitlines()]
        ['a', 'b']
        """
        lines = [_line(self.saved[name]) for name in dict.fromkeys((*ids, *self.saved))]
        if "".join(lines) != self.path.read_text(encoding="utf-8"):
            with atomic_writer(self.path) as stream:
                stream.writelines(lines)


def _line(answer: Mapping[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False) + "\n"


def shard_folder(folder: Path, shard: tuple[int, int] | None) -> Path:
    """Where a share of the answers goes.

    >>> shard_folder(Path("eval"), (2, 4)).as_posix()
    'eval/shard-2-of-4'
    """
    return folder if shard is None else folder / f"shard-{shard[0]}-of-{shard[1]}"


def begun(folder: Path) -> bool:
    """Whether a folder has answers.

    >>> begun(Path("nowhere"))
    False
    """
    path = folder / ANSWERS
    return path.exists() and path.stat().st_size > 0


def check(folder: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
    """Refuse a folder whose answers were asked for otherwise, before a model is loaded.

    Args:
        folder: Of the journal; need not exist.
        settings: What shapes the answers.
        fresh: Answers that are there will be thrown away.

    Raises:
        UsageError: Names the first settings that differ.
        DataError: Where ``asked.json`` cannot be read.

    >>> check(Path("nowhere"), {"frames": 4}, fresh=False)
    """
    if fresh or not begun(folder):
        return
    known = asked_in(folder)
    if known is None:
        raise UsageError(f"{folder / ANSWERS} does not say how its answers were asked for", _OTHERWISE)
    if other := differences(known, settings):
        raise UsageError(f"{folder} holds answers asked for otherwise: {'; '.join(other[:3])}", _OTHERWISE)


_OTHERWISE = "--fresh throws them away and asks again; --out names another folder"


def asked_in(folder: Path) -> dict[str, Any] | None:
    """What ``asked.json`` of a folder says, or None where there is none.

    Raises:
        DataError: Where it is not JSON.

    >>> asked_in(Path("nowhere")) is None
    True
    """
    path = folder / ASKED
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", _OTHERWISE) from None
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a JSON object", _OTHERWISE)
    return found


def differences(known: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """How two sets of settings differ, in words; the model's name counts where its weights have no hash.

    >>> differences({"frames": 4, "model": {"name": "a", "sha256": {}}}, {"frames": 8, "model": {"name": "b"}})
    ['frames 4, now 8', 'model a, now b']
    """
    out = []
    for key in dict.fromkeys((*known, *settings)):
        if key in ("schema", MADE):
            continue
        before, now = known.get(key), settings.get(key)
        if key == "model" and isinstance(before, Mapping) and isinstance(now, Mapping):
            out += _other_model(before, now)
        elif isinstance(before, Mapping) and isinstance(now, Mapping):
            out += differences(before, now)
        elif before != now:
            out.append(f"{key} {_word(before)}, now {_word(now)}")
    return out


def _other_model(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The same files are the same model, wherever they lie; a freshly made one has no files, only a name."""
    made_of = [(side.get("sha256"), side.get("settings_sha256")) for side in (before, now)]
    if made_of[0] == made_of[1] and (before.get("sha256") or before.get("name") == now.get("name")):
        return []
    if before.get("name") != now.get("name"):
        return [f"model {before.get('name')}, now {now.get('name')}"]
    weights = before.get("sha256") != now.get("sha256")
    return [f"the model's {'weights' if weights else 'configuration or tokenizer'} changed"]


def _word(value: Any) -> str:
    return "by default" if value is None else str(value)


@contextmanager
def journal(
    folder: Path, settings: Mapping[str, Any], *, fresh: bool, marks: Mapping[str, str] | None = None
) -> Iterator[Journal]:
    """Open a folder's journal for one process.

    Args:
        folder: Made where missing.
        settings: Written to ``asked.json``.
        fresh: Throw away what was answered before.
        marks: See :func:`marks`; the questions' hashes alone where None.

    Raises:
        UsageError: As :func:`check`; where another process writes to the folder.
        DataError: Where the folder cannot be written, or a line is broken.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with journal(Path(folder), {"frames": 4}, fresh=False) as book:
    ...         book.append([{"id": "a", "prediction": "4", "of": "1f"}])
    ...     with journal(Path(folder), {"frames": 4}, fresh=False) as again:
    ...         list(again.saved)
    ['a']
    """
    check(folder, settings, fresh=fresh)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ANSWERS).touch()
        stream = (folder / ANSWERS).open("r+", encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}", "name another folder with --out") from None
    with stream:
        _lock(stream, folder)
        if fresh:
            stream.truncate(0)
            for name in (PLAN, ERRORS):
                (folder / name).unlink(missing_ok=True)
        # What was torn by a kill would swallow the line that comes after it.
        drop_torn_line(folder / ANSWERS)
        saved = read_saved_answers(folder)
        before = None if fresh else asked_in(folder)
        written = {"schema": 1, **settings, MADE: (before or {}).get(MADE)}
        write_json(folder / ASKED, written)
        stream.seek(0, os.SEEK_END)
        yield Journal(folder / ANSWERS, saved, stream, written, marks or {})


def _lock(stream: IO[str], folder: Path) -> None:
    """Hold the file for this process; it is let go when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: nothing keeps two processes apart there
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        hint = "wait for it, or share the work: --shard 1/2 here and --shard 2/2 there"
        raise UsageError(f"another process is writing answers to {folder}", hint) from None


def drop_torn_line(path: Path) -> None:
    r"""Cut off what follows the last newline of a file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "lines"
    ...     _ = path.write_bytes(b"whole\nto")
    ...     drop_torn_line(path)
    ...     path.read_bytes()
    b'whole\n'
    """
    with path.open("rb+") as raw:
        size = raw.seek(0, os.SEEK_END)
        start = size
        while start:
            step = min(4096, start)
            raw.seek(start - step)
            found = raw.read(step).rfind(b"\n")
            if found >= 0:
                raw.truncate(start - step + found + 1)
                return
            start -= step
        raw.truncate(0)


def read_saved_answers(folder: Path) -> Saved:
    """The answers of a folder's ``predictions.jsonl``; the later of two for an id counts, a torn last line does not.

    Raises:
        DataError: On another broken line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lines = ('{"id": "a", "prediction": "1"}', '{"id": "a", "prediction": "2"}', '{"id": "b", "pre')
    ...     _ = (Path(folder) / ANSWERS).write_text(chr(10).join(lines))
    ...     read_saved_answers(Path(folder))
    {'a': {'id': 'a', 'prediction': '2'}}
    """
    path = folder / ANSWERS
    saved: Saved = {}
    for number, line in read_lines(path, torn=True):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            if not line.endswith("\n"):
                continue
            raise DataError(f"{path} line {number}: not JSON", _OTHERWISE) from None
        if not (
            isinstance(found, dict) and isinstance(found.get("id"), str) and isinstance(found.get("prediction"), str)
        ):
            raise DataError(f"{path} line {number} is no answer of an evaluation", _OTHERWISE)
        saved[found["id"]] = found
    return saved


def shards(folder: Path) -> list[Path]:
    """Folders of shares beside each other, as :func:`shard_folder` names them.

    >>> shards(Path("nowhere"))
    []
    """
    return sorted(path for path in folder.glob("shard-*-of-*") if (path / ANSWERS).is_file())
