"""SQA3D's two files of a split: questions with where they are asked from, and their answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft3d_cli.errors import DataError
from rft3d_cli.prepare.scanfiles import read_json
from rft3d_cli.prompts import FORBIDDEN, IMAGE

DATASET = "sqa3d"
"""What ``meta.dataset`` of the records says."""
TYPES = ("what", "is", "how", "can", "which", "others")
"""Question types, in the order of the public tables: how a question begins."""
NOTHING = "questions and annotations are SQA3D's two files of one split"
"""What to try where no record results."""

_SCENE = re.compile(r"[A-Za-z0-9][\w.-]*")


def question_type(question: str) -> str:
    """The type of a question, by its first letters, as the field counts them.

    >>> question_type("Which way is out?"), question_type("Am I alone?"), question_type("island or table?")
    ('which', 'others', 'is')
    """
    start = question.lstrip().lower()
    return next((name for name in TYPES if start.startswith(name)), "others")


@dataclass(frozen=True)
class Situated:
    """One question of the two files.

    Args:
        id: ``question_id``.
        scene: ``scene_id``.
        situations: ``situation``, then those of ``alternative_situation``.
        question: As written.
        answers: The right ones; the released files have one each.
    """

    id: str
    scene: str
    situations: tuple[str, ...]
    question: str
    answers: tuple[str, ...]


def read_situated(questions: Path, annotations: Path) -> tuple[list[Situated], list[str]]:
    """The questions of a split with their answers.

    Args:
        questions: ``v1_balanced_questions_*_scannetv2.json``.
        annotations: ``v1_balanced_sqa_annotations_*_scannetv2.json``.

    Returns:
        The questions, and why others were left out.

    Raises:
        DataError: Where a file cannot be read, or is none of SQA3D's.
    """
    asked = _entries(questions, "questions", "annotations")
    answered: dict[str, tuple[str, tuple[str, ...]]] = {}
    wrong = []
    for number, row in enumerate(_entries(annotations, "annotations", "questions"), start=1):
        try:
            name, scene = _name(row)
            texts = tuple(_text(answer, "answer") for answer in _list(row, "answers"))
            if not texts:
                raise ValueError("has no answer")
            if name in answered:
                raise ValueError(f"repeats question_id {name}")
            answered[name] = scene, texts
        except ValueError as error:
            wrong.append(f"annotation {number} {error}")
    found: dict[str, Situated] = {}
    for number, row in enumerate(asked, start=1):
        try:
            name, scene = _name(row)
            others = _list(row, "alternative_situation", missing=True)
            spoken = [text for text in others if isinstance(text, str) and text.strip()]
            said = (_text(row, "situation"), *(_text({"situation": text}, "situation") for text in spoken))
            question = _text(row, "question")
            if name in found:
                raise ValueError(f"repeats question_id {name}")
            if name not in answered:
                raise ValueError(f"has no annotation: question_id {name}")
            if answered[name][0] != scene:
                raise ValueError(f"is about {scene}, its annotation about {answered[name][0]}")
            found[name] = Situated(name, scene, tuple(dict.fromkeys(said)), question, answered[name][1])
        except ValueError as error:
            wrong.append(f"question {number} {error}")
    return list(found.values()), wrong


def _entries(path: Path, key: str, other: str) -> list[Any]:
    data = read_json(path)
    rows = data.get(key) if isinstance(data, dict) else None
    if isinstance(rows, list):
        return rows
    if isinstance(data, dict) and other in data:
        raise DataError(f"{path} holds SQA3D's {other}, not its {key}", "name the files the other way round")
    raise DataError(f"{path} has no list of {key}", f"{NOTHING}: https://zenodo.org/record/7544818")


def _name(row: Any) -> tuple[str, str]:
    if not isinstance(row, dict):
        raise ValueError("is no JSON object")
    number = row.get("question_id")
    if isinstance(number, int) and not isinstance(number, bool):
        number = str(number)
    scene = _text(row, "scene_id")
    if not _SCENE.fullmatch(scene):
        raise ValueError(f"has scene_id {scene!r}, which is no name")
    return _text({"question_id": number}, "question_id"), scene


def _text(row: Any, key: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"has no {key}")
    if value.encode("utf-8", "replace").decode() != value:
        raise ValueError(f"has half of a surrogate pair in its {key}")
    if mark := next((mark for mark in (IMAGE, *FORBIDDEN) if mark in value), None):
        raise ValueError(f"has {mark} in its {key}, which stands for a picture")
    return value.strip()


def _list(row: Mapping[str, Any], key: str, *, missing: bool = False) -> list[Any]:
    value = row.get(key)
    if value is None and missing:
        return []
    if not isinstance(value, list):
        raise ValueError(f"has no list of {key}")
    return value
