"""VSI-Bench's questions as published: rows of ``test.jsonl`` or parquet, checked, and as what scoring reads.

Nothing here needs the schema of records: saved answers are scored without it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rft3d_cli.errors import DataError, SetupError
from rft3d_cli.lines import kept, read_lines
from rft3d_cli.prepare.splits import resolve_split
from rft3d_cli.prompts import vsibench_prompt
from rft3d_cli.samplers import DEFAULT_SAMPLER

if TYPE_CHECKING:
    from rft3d_cli.records import RecordFile

_REQUIRED = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth")
_NO_NAME = re.compile(r"^\.|[/\\:\0]")


def read_questions(path: Path) -> list[Any]:
    """The rows of a ``.jsonl`` or ``.parquet`` file, unchecked; None for a line that is not JSON.

    Args:
        path: The file.

    Raises:
        DataError: Where the file cannot be read.
        SetupError: Where a parquet file needs a package that is not installed.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    rows: list[Any] = []
    for _, line in read_lines(path):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            rows.append(None)
    return rows


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow as arrow  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError:
        raise SetupError(f"{path} needs pyarrow to be read", "pip install datasets, or name test.jsonl") from None
    try:
        return list(parquet.read_table(path).to_pylist())
    except (OSError, arrow.ArrowException) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path} is not a parquet file: {first}") from None


@dataclass(frozen=True, slots=True)
class Question:
    """One checked row.

    Args:
        id: As text.
        dataset: ``scannet``, ``scannetpp``, ``arkitscenes``, ``rooms`` …
        scene: ``scene_name``.
        kind: ``question_type``.
        text: The question.
        truth: A letter, or a number as written.
        options: As shown, or None for a numeric question.
        pruned: Whether the debiased benchmark leaves it out; None where the row does not say.
    """

    id: str
    dataset: str
    scene: str
    kind: str
    text: str
    truth: str
    options: tuple[str, ...] | None
    pruned: bool | None = None

    @property
    def clip(self) -> str:
        """The video's path under the root."""
        return f"{self.dataset}/{self.scene}.mp4"


def parse_question(row: Mapping[str, Any]) -> Question:
    """A row as a question.

    Args:
        row: With the keys of the published files; others are ignored.

    Raises:
        ValueError: With what is wrong.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for key in _REQUIRED:
        value = row.get(key)
        if value is None or value == "":
            raise ValueError(f"no {key}")
    dataset, scene = str(row["dataset"]), str(row["scene_name"])
    if _NO_NAME.search(dataset):
        raise ValueError(f"dataset {dataset!r} is not a name")
    if _NO_NAME.search(scene):
        raise ValueError(f"scene_name {scene!r} is not a name")
    options, truth = row.get("options"), str(row["ground_truth"]).strip()
    if options is not None and not isinstance(options, list | tuple):
        raise ValueError("options are not a list")
    if options:
        if any(type(option) is not str for option in options):
            raise ValueError("options are not text")
        letters = [option.strip()[:1].upper() for option in options]
        if len(truth) != 1 or letters.count(truth.upper()) != 1:
            raise ValueError(f"ground truth {truth!r} is not the letter of one option")
    elif not _finite(truth):
        raise ValueError(f"ground truth {truth!r} is not a number")
    pruned = row.get("pruned")
    return Question(
        str(row["id"]),
        dataset,
        scene,
        str(row["question_type"]),
        str(row["question"]),
        truth,
        tuple(options) if options else None,
        pruned if isinstance(pruned, bool) else None,
    )


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def checked(rows: Sequence[Any]) -> list[Question | str]:
    """Each row as a question, or what is wrong with it; an id that repeats is wrong.

    Args:
        rows: From :func:`read_questions`.
    """
    out: list[Question | str] = []
    ids: set[str] = set()
    for number, row in enumerate(rows, start=1):
        try:
            question = parse_question(row)
            if question.id in ids:
                raise ValueError(f"id {question.id} repeats")
        except ValueError as error:
            out.append(f"entry {number}: {error}")
            continue
        ids.add(question.id)
        out.append(question)
    return out


def sound(entries: Iterable[Question | str]) -> list[Question]:
    """The questions among checked entries."""
    return [entry for entry in entries if isinstance(entry, Question)]


def is_published(path: Path) -> bool:
    """Whether a file holds questions as VSI-Bench publishes them, and not records.

    Args:
        path: Any file; one that cannot be read is not published.
    """
    if path.suffix == ".parquet":
        return True
    try:
        _, line = next(iter(read_lines(path)))
        first = json.loads(line)
    except (DataError, StopIteration, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "task" not in first and {"question_type", "ground_truth"} <= first.keys()


def all_questions(path: Path) -> list[Question]:
    """The questions of a published file, every one of them right.

    Args:
        path: ``test.jsonl``, or a parquet file.

    Raises:
        DataError: Where the file cannot be read, holds a row that is no question, or none at all.
    """
    entries = checked(read_questions(path))
    if wrong := next((entry for entry in entries if isinstance(entry, str)), None):
        raise DataError(f"{path} {wrong}", "rft3d prepare vsibench leaves such rows out and counts them")
    if not entries:
        raise DataError(f"{path} holds no questions")
    return sound(entries)


@dataclass(slots=True)
class Letter:
    """The target of a choice."""

    letter: str
    options: tuple[str, ...]


@dataclass(slots=True)
class Number:
    """The target of a numeric question."""

    value: float


@dataclass(slots=True)
class Source:
    """Where a question comes from: the ``meta`` of its record."""

    dataset: str
    scene: str
    split: str
    question_type: str
    model_extra: Mapping[str, Any]
    subset: None = None
    sampler: str = DEFAULT_SAMPLER


@dataclass(slots=True)
class Asked:
    """What scoring reads of a record, under the same names."""

    id: str
    task: str
    prompt: str
    target: Letter | Number
    meta: Source


@dataclass
class QuestionFile:
    """Questions read from one file; see :class:`rft3d_cli.records.RecordFile`."""

    path: Path
    media_root: Path
    records: list[Asked]
    rejects: list[Any] = field(default_factory=list)


def published_questions(path: Path, media_root: Path | None = None) -> RecordFile:
    """Published questions to score saved answers by: as :func:`rft3d_cli.prepare.vsibench.published_records`, lighter.

    The records are stand-ins that have ``id``, ``task``, ``prompt``, ``target`` and ``meta``, and are neither validated
    nor good for asking a model. Reading VSI-Bench so takes a fifth of the time, and pydantic is not imported.

    Args:
        path: ``test.jsonl``, or a parquet file.
        media_root: The folder of the videos, which are not looked at; by default the file's own.

    Raises:
        DataError: Where the file cannot be read, or holds a row that is no question.
    """
    split = resolve_split(None, path).name
    with kept():
        records = [_asked(question, split) for question in all_questions(path)]
    return cast("RecordFile", QuestionFile(path, path.parent if media_root is None else media_root, records))


_EXTRA: dict[bool | None, dict[str, Any]] = {None: {}, True: {"pruned": True}, False: {"pruned": False}}


def _asked(question: Question, split: str) -> Asked:
    meta = Source(question.dataset, question.scene, split, question.kind, _EXTRA[question.pruned])
    prompt = vsibench_prompt(question.text, question.options)
    if question.options is None:
        return Asked(question.id, "number", prompt, Number(float(question.truth)), meta)
    return Asked(question.id, "choice", prompt, Letter(question.truth, question.options), meta)


def pruned_ids(path: Path) -> frozenset[str]:
    """The ids of a list such as VSI-Bench's ``pruned_ids.txt``, for files of questions that do not say.

    Args:
        path: Ids between white space or commas, as many a line as there are; or one JSON list of them.

    Raises:
        DataError: Where the file cannot be read, or holds no ids.
    """
    text = "".join(line for _, line in read_lines(path))
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = re.split(r"[\s,]+", text.strip(" \t\r\n,"))
    ids = data if isinstance(data, list) else [data]
    if not ids or not all(isinstance(name, str | int) and not isinstance(name, bool) and name != "" for name in ids):
        raise DataError(f"{path} is no list of ids", "one id a line, as in VSI-Bench's pruned_ids.txt")
    return frozenset(str(name) for name in ids)
