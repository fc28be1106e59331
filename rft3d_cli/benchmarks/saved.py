"""Saved predictions of anybody's making: ours, and the files that other harnesses leave behind.

Predictions join records by id, never by position: the order of VSI-Bench's rows changed in November 2025, and
harnesses count their own rows beside the ids of the data. Where a file has no ids, scene and question say which record
is meant.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.errors import DataError
from rft3d_cli.lines import read_lines

if TYPE_CHECKING:
    from rft3d_cli.records import Record

OWN = "rft3d"
"""The name of our own format: one object a line, ``{"id", "prediction"}``."""

MAX_BYTES = 512 * 1024 * 1024
"""The largest file that is read whole."""

_ASKED = frozenset(
    {"question", "input", "prompt", "scene_name", "scene", "scene_id", "video", "images", "options", "candidates"}
    | {"question_type", "dataset", "doc"}
)
"""Keys that say what was asked, which our own lines say by ``of``."""
TABLES = (".csv", ".tsv", ".xlsx")
HINT = (
    'a line is {"id": …, "prediction": …}; also read: {id: text} as JSON, sample logs of lmms-eval, csv, tsv and xlsx'
)


@dataclass
class Saved:
    """What a file or folder of predictions holds.

    Args:
        predictions: Record id → text.
        confidence: Record id → mean log-probability (nats) of each object of the text, where the file says.
        format: What it was read as: ``rft3d``, ``json``, ``lmms-eval``, ``csv``, ``tsv`` or ``xlsx``.
        notes: What was left out or done otherwise, each a line for people.
    """

    predictions: dict[str, str] = field(default_factory=dict)
    confidence: dict[str, list[float]] = field(default_factory=dict)
    format: str = OWN
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, text: str, where: str) -> None:
        """Take one prediction.

        Args:
            name: The record's id.
            text: The prediction.
            where: Names the file and the place in it.

        Raises:
            DataError: Where the id has another prediction already.

        >>> saved = Saved()
        >>> for text in ("A", "A", "B"):
        ...     saved.add("7", text, "answers.jsonl")
        Traceback (most recent call last):
        rft3d_cli.errors.DataError: answers.jsonl: another prediction for id '7'
        """
        if self.predictions.setdefault(name, text) != text:
            raise DataError(f"{where}: another prediction for id {name!r}", "keep one prediction for each id")


def read_saved(path: Path | str, records: Sequence[Record] = (), *, everything: Sequence[Record] = ()) -> Saved:
    r"""Read predictions from a file, or from the folder of an evaluation.

    Args:
        path: Our JSONL; a folder with ``predictions.jsonl``, or with shares in ``shard-I-of-N`` folders; a sample log
            of lmms-eval (``…_samples_TASK.jsonl``, or the older ``TASK.json`` with ``logs``, as thinking-in-space
            writes it); a result table as VLMEvalKit writes it (xlsx, tsv, csv); JSON or JSONL of objects with an id and
            a prediction; JSON ``{id: text}``.
        records: What is scored.
        everything: All records of the data where ``records`` are some of them: files without ids are joined to these,
            and ids are held against their questions. By default ``records``.

    Returns:
        Predictions by id, of known and unknown ids.

    Raises:
        DataError: On a file that is missing, broken or of no known form; where one id has two predictions; where a
            prediction's record cannot be told; where JSON ``{id: text}`` knows no id of the data. The message names
            the place.

    A last line that was torn by a kill is left out:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "answers.jsonl"
    ...     _ = path.write_text('{"id": 7, "prediction": "A"}\n{"id": 8, "pred', encoding="utf-8")
    ...     saved = read_saved(path)
    >>> saved.predictions, saved.format, len(saved.notes)
    ({'7': 'A'}, 'rft3d', 1)
    """
    path, records = Path(path), everything or records
    if path.is_dir():
        return _folder(path, records)
    if not path.exists():
        raise DataError(f"{path} does not exist", "name a file of predictions, or the folder of an evaluation")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES // 1024**2} MiB, which no file of predictions is")
    if path.suffix.lower() in TABLES:
        from rft3d_cli.benchmarks.saved_rows import resolve
        from rft3d_cli.benchmarks.saved_tables import read_table

        return resolve(path, read_table(path), records, path.suffix.lower()[1:])
    if path.suffix.lower() == ".json":
        found = _document(path)
        if found is not None:
            return _json(path, found, records)
    return _lines(path, records)


def _lines(path: Path, records: Sequence[Record]) -> Saved:
    """JSON, an object a line: our own form by its first line, else another's."""
    out = Saved()
    rows: list[tuple[str, dict[str, Any]]] = []
    journal: dict[str, str | None] = {}
    later = 0
    own: bool | None = None
    for number, line in read_lines(path, torn=True):
        if number == 1:
            line = line.removeprefix("\ufeff")
            if line.lstrip().startswith("["):
                found = _document(path)
                if isinstance(found, list):
                    return _json(path, found, records)
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n") and own is not None:
                out.notes.append(f"{path} line {number} is torn and left out")
                continue
            if own is None and (whole := _document(path)) is not None:
                return _json(path, whole, records)
            why = f"not JSON: {error}" if isinstance(error, ValueError) else "nested too deeply"
            raise DataError(f"{path} line {number}: {why}", HINT) from None
        if not isinstance(data, dict):
            raise DataError(f"{path} line {number}: not a JSON object", HINT)
        if own is None:
            # A line that says what was asked is held against the record of its id.
            own = {"id", "prediction"} <= data.keys() and ("of" in data or _ASKED.isdisjoint(data))
        if not own:
            rows.append((f"{path} line {number}", data))
            continue
        name, text = _own(data, path, number)
        if out.predictions.get(name, text) != text:
            # Appended later, as by a run that goes on: the last word counts.
            later += 1
            out.confidence.pop(name, None)
        out.predictions[name] = text
        journal[name] = str(data["of"]) if "of" in data else None
        if (sure := data.get("confidence")) is not None:
            out.confidence[name] = confidence_of(sure, f"{path} line {number}")
    if own is None:
        raise DataError(f"{path} holds no predictions", HINT)
    if later:
        out.notes.append(f"{later:,} answers were replaced by later ones for the same id")
    _leave_out_older(out, path, {name: of for name, of in journal.items() if of is not None}, records)
    if rows:
        from rft3d_cli.benchmarks.saved_rows import resolve

        other = resolve(path, rows, records, "json")
        other.notes[:0] = out.notes
        return other
    return out


def _own(data: Mapping[str, Any], path: Path, number: int) -> tuple[str, str]:
    """Id and text of a line of ours."""
    if "id" not in data or "prediction" not in data:
        raise DataError(f'{path} line {number}: a prediction is an object {{"id": …, "prediction": …}}', HINT)
    name, text = data["id"], data["prediction"]
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise DataError(f"{path} line {number}: id must be text or a whole number")
    if not isinstance(text, str | None):
        raise DataError(f"{path} line {number}: prediction must be text")
    return str(name), text or ""


def _leave_out_older(out: Saved, path: Path, asked: Mapping[str, str], records: Sequence[Record]) -> None:
    """Leave out answers to records that have since changed, by the hashes of what was asked."""
    # Light stand-ins do not say what a model would be shown.
    known = [record for record in records if record.id in asked and hasattr(record, "video")] if asked else []
    if not known:
        return
    from rft3d_cli.benchmarks.journal import question_hash
    from rft3d_cli.prompts import thinking_prompt

    older = []
    for record in known:
        of = asked[record.id].partition("-")[0]
        if of == question_hash(record):
            continue
        if record.task in ("choice", "number"):
            thinking = thinking_prompt(record.prompt, choice=record.task == "choice")
            if of == question_hash(record.model_copy(update={"prompt": thinking})):
                continue
        older.append(record.id)
        del out.predictions[record.id]
        out.confidence.pop(record.id, None)
    if older:
        out.notes.append(
            f"{path}: {len(older):,} of {len(asked):,} answers are to other prompts or frames than the records of "
            f"their ids have now, and are left out, first {older[0]}"
        )


def confidence_of(value: Any, where: str) -> list[float]:
    """A line's ``confidence``.

    Args:
        value: As the file has it.
        where: Names the file and the place in it.

    Raises:
        DataError: Where it is no list of finite numbers.

    >>> confidence_of([-1, -0.5], "line 1")
    [-1.0, -0.5]
    """
    good = isinstance(value, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in value
    )
    if not good:
        raise DataError(f"{where}: confidence must be a list of numbers, one for each object")
    return [float(one) for one in value]


def _document(path: Path) -> Any:
    """The whole file as one JSON value; None where it is not one."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except RecursionError:
        raise DataError(f"{path} is nested too deeply") from None
    except ValueError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _json(path: Path, found: Any, records: Sequence[Record]) -> Saved:
    """One JSON value: rows, a log with rows, or ``{id: text}``."""
    if isinstance(found, dict) and isinstance(found.get("logs"), list):
        found = found["logs"]
    if isinstance(found, dict) and {"id", "prediction"} <= found.keys():
        found = [found]
    if isinstance(found, dict) and found and all(isinstance(text, str | None) for text in found.values()):
        known = {record.id for record in records}
        if known and known.isdisjoint(found):
            # Any settings of texts look like this form.
            raise DataError(f"{path}: none of the {len(found):,} predictions is for a record of the data", HINT)
        return Saved({name: text or "" for name, text in found.items()}, format="json")
    if not isinstance(found, list) or not found:
        raise DataError(f"{path} holds no predictions", HINT)
    rows = [(f"{path} entry {number}", row) for number, row in enumerate(found, start=1)]
    if bad := next((where for where, row in rows if not isinstance(row, dict)), None):
        raise DataError(f"{bad}: not a JSON object", HINT)
    from rft3d_cli.benchmarks.saved_rows import resolve

    return resolve(path, rows, records, "json")


def _folder(path: Path, records: Sequence[Record]) -> Saved:
    """The predictions of an evaluation's folder: its own file, else its shares, else one log of lmms-eval."""
    if (path / "predictions.jsonl").is_file():
        return _lines(path / "predictions.jsonl", records)
    shares = {
        (int(match[1]), int(match[2])): folder / "predictions.jsonl"
        for folder in sorted(path.glob("shard-*-of-*"))
        if (match := re.fullmatch(r"shard-(\d+)-of-(\d+)", folder.name)) and (folder / "predictions.jsonl").is_file()
    }
    if shares:
        return _shares(path, shares, records)
    logs = sorted(path.glob("*_samples_*.jsonl"))
    if len(logs) == 1:
        return _lines(logs[0], records)
    if logs:
        raise DataError(f"{path} holds {len(logs)} sample logs", f"name one of them, for example {logs[-1]}")
    raise DataError(f"{path} holds no predictions.jsonl and no shares of one", "name the file of the predictions")


def _shares(path: Path, shares: Mapping[tuple[int, int], Path], records: Sequence[Record]) -> Saved:
    counts = sorted({count for _, count in shares})
    if len(counts) > 1:
        said = " and ".join(str(count) for count in counts)
        raise DataError(f"{path} holds shares of {said}", "keep the folders of one division")
    out = Saved()
    for (number, count), file in sorted(shares.items()):
        part = _lines(file, records)
        for name, text in part.predictions.items():
            out.add(name, text, f"{path} shard {number} of {count}")
        out.confidence |= part.confidence
        out.notes += part.notes
    missing = [str(number) for number in range(1, counts[0] + 1) if (number, counts[0]) not in shares]
    if missing:
        few = ", ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
        out.notes.append(f"{path} lacks shard {few} of {counts[0]}")
    return out
