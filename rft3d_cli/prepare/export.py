"""Records as the files that other trainers read: ms-swift, EasyR1, and the conversations of LLaVA.

Each row also carries the record itself, as its JSON line, in a column ``record``: what
:func:`rft3d_cli.rewards.as_trl` wants, so that the rewards go along with the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft3d_cli.answers.target import target_answer
from rft3d_cli.errors import DataError
from rft3d_cli.files import atomic_writer
from rft3d_cli.prompts import IMAGE
from rft3d_cli.records import FrameList, Record, media_path

VIDEO = "<video>"


@dataclass(frozen=True)
class Turn:
    """One question and its answer, with ``<image>`` or ``<video>`` where the pictures stand.

    Args:
        question: What the user says.
        answer: What the model should say; None where a record has no answer to teach.
        images: Paths of the frames, for a video given as pictures.
        videos: Path of the video, for one given as a file.
    """

    question: str
    answer: str | None
    images: list[str]
    videos: list[str]

    @property
    def media(self) -> dict[str, list[str]]:
        """The key that the trainers know, and its paths."""
        return {"images": self.images} if self.images else {"videos": self.videos}


def turn(record: Record, root: Path | None) -> Turn:
    """A record's question and answer.

    Args:
        record: The record.
        root: The media root, to write absolute paths; None keeps them as they are in the record.

    Returns:
        The turn; a prompt that does not say where its frames stand gets them first, as training has it.

    Raises:
        DataError: Where a media path leaves the root.

    >>> from rft3d_cli.examples import example_record
    >>> found = turn(example_record("choice"), None)
    >>> found.question[:19], found.answer, found.images
    ('<image><image>Which', 'B', ['0.jpg', '1.jpg'])
    """

    def place(relative: str) -> str:
        return relative if root is None else str(media_path(root, relative).absolute())

    try:
        answer: str | None = target_answer(record)
    except DataError:
        answer = None
    if isinstance(record.video, FrameList):
        marks = "" if IMAGE in record.prompt else IMAGE * len(record.video.frames)
        return Turn(marks + record.prompt, answer, [place(name) for name in record.video.frames], [])
    # The trainer takes the frames out of the file, so one mark stands for all of them.
    words = record.prompt.replace(f"{IMAGE}\n", "").replace(IMAGE, "")
    return Turn(f"{VIDEO}{words}", answer, [], [place(record.video.path)])


def _swift(said: Turn) -> dict[str, Any]:
    messages = [{"role": "user", "content": said.question}]
    if said.answer is not None:
        messages.append({"role": "assistant", "content": said.answer})
    return {"messages": messages, **said.media, "solution": said.answer}


def _easyr1(said: Turn) -> dict[str, Any]:
    return {"problem": said.question, "answer": said.answer, **said.media}


def _llava(said: Turn) -> dict[str, Any]:
    talk = [{"from": "human", "value": said.question}]
    if said.answer is not None:
        talk.append({"from": "gpt", "value": said.answer})
    return {"conversations": talk, **({"images": said.images} if said.images else {"video": said.videos[0]})}


FORMATS: dict[str, Callable[[Turn], dict[str, Any]]] = {"swift": _swift, "easyr1": _easyr1, "llava": _llava}


def row(record: Record, form: str, root: Path | None) -> dict[str, Any]:
    """A record as one row of another trainer's file.

    Args:
        record: The record.
        form: One of :data:`FORMATS`.
        root: As for :func:`turn`.

    >>> from rft3d_cli.examples import example_record
    >>> sorted(row(example_record("number"), "easyr1", None))
    ['answer', 'id', 'images', 'problem', 'record']
    """
    return {"id": record.id, **FORMATS[form](turn(record, root)), "record": record.to_json()}


def export(records: Sequence[Record], out: Path, form: str, root: Path | None) -> Mapping[str, int]:
    """Write records for another trainer: one JSON list for ``.json``, else one object a line.

    Args:
        records: The records.
        out: The file.
        form: One of :data:`FORMATS`.
        root: As for :func:`turn`.

    Returns:
        How many rows were written (``rows``), and how many of them have no answer to teach (``without_answer``).

    Raises:
        DataError: Where a media path leaves the root, or the file cannot be written.
    """
    rows = [row(record, form, root) for record in records]
    with atomic_writer(out) as stream:
        if out.suffix == ".json":
            json.dump(rows, stream, ensure_ascii=False, indent=1)
            stream.write("\n")
        else:
            stream.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in rows)
    return {"rows": len(rows), "without_answer": sum(turn(record, None).answer is None for record in records)}
