"""Questions and answers as the conversations of published training sets have them: turns, media, options, answers.

What is here knows no particular set; see :mod:`rft3d_cli.prepare.vgllm` and :mod:`rft3d_cli.prepare.qa`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rft3d_cli.errors import DataError
from rft3d_cli.prepare.rowfile import Unreadable
from rft3d_cli.records import media_path

UNPAINTED = frozenset(
    {
        *("view_change_infer", "camera_motion_infer", "distance_infer_center_oc_mv", "appearance_order", "room_size"),
        *("obj_count", "nav", "spatial_imagination_oc_video_hard", "spatial_imagination_oo_video_hard"),
    }
)
"""The types of SPAR questions for which VG-LLM's loader paints nothing. All others ask about coloured dots and boxes
that are not in the image files."""

_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_LETTER = re.compile(r"\s*[(\[]?([A-Z])[)\].:]?\s*")
_NUMBER = re.compile(r"\s*[-+]?\d{1,15}(?:\.\d{1,15})?\s*")
_LINE = re.compile(r"^[ \t]*([(\[]?([A-Z])[.):\]][ \t]*\S[^\n]*)", re.MULTILINE)
_MARK = re.compile(r"(?<![A-Za-z0-9.])[(\[]?([A-Z])[.):\]]\s")


class RowError(ValueError):
    """A row that becomes no record.

    Args:
        reason: The same words for all rows with this problem, for counting.
        why: What exactly.
        bad: Whether the row is wrong; False where it is right and records have no place for it.
    """

    def __init__(self, reason: str, why: str = "", *, bad: bool = True) -> None:
        # What a row says may hold half of a surrogate pair, which no file takes.
        why = why.encode("utf-8", "replace").decode("utf-8")
        super().__init__(f"{reason}: {why}" if why else reason)
        self.reason, self.why, self.bad = reason, why, bad


@dataclass(frozen=True)
class Turns:
    """One question and its answer.

    Args:
        prompt: As stored.
        answer: As stored; "" where the row has none.
    """

    prompt: str
    answer: str


def checked_row(row: Any) -> Mapping[str, Any]:
    """A row that is an object.

    Raises:
        RowError: Otherwise.
    """
    if isinstance(row, Unreadable):
        raise RowError("not JSON", row.why)
    if not isinstance(row, dict):
        raise RowError("not an object", type(row).__name__)
    return row


def turns(row: Mapping[str, Any]) -> Turns:
    """The row's question and answer.

    Raises:
        RowError: Where there is no question, or more than one.
    """
    talk = row.get("conversations")
    if talk is None:
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise RowError("no conversation")
        return Turns(row["prompt"], "")
    if not isinstance(talk, list) or not talk or not all(isinstance(turn, dict) for turn in talk):
        raise RowError("no conversation", "conversations is not a list of turns")
    speakers = [_SPEAKERS.get(str(turn.get("from"))) for turn in talk]
    values = [turn.get("value") for turn in talk]
    if None in speakers or not all(isinstance(value, str) for value in values):
        raise RowError("no conversation", "a turn is not from human or gpt, or has no text")
    if len(talk) > 2:
        raise RowError("more than one question", f"{len(talk)} turns", bad=False)
    if speakers != ["human", "gpt"][: len(talk)] or not values[0].strip():
        raise RowError("no conversation", "a question by human and then an answer by gpt are wanted")
    return Turns(values[0], values[1] if len(values) > 1 else "")


def spar_type(row: Mapping[str, Any]) -> str | None:
    """The type of a SPAR question that needs no painted marks; None for other rows.

    Raises:
        RowError: Where marks would have to be painted, or the type is not known.
    """
    info = row.get("spar_info")
    if info is None:
        return None
    try:
        data = json.loads(info) if isinstance(info, str) else info
        kind = data["type"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RowError("wrong spar_info", "it is not JSON with a type") from None
    if not isinstance(kind, str) or kind not in UNPAINTED:
        # A type that is not known may need marks too.
        raise RowError("needs painted marks", str(kind)[:100], bad=False)
    return kind


def metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row's ``metadata``, empty where it has none."""
    found = row.get("metadata")
    return found if isinstance(found, dict) else {}


def image_names(row: Mapping[str, Any]) -> list[str] | None:
    """The row's images, relative to the media folder; None for a row with a video.

    Raises:
        RowError: Where there are none, or one lies outside.
    """
    images = row.get("images", row.get("image"))
    if images is None and isinstance(row.get("video"), str):
        return None
    if isinstance(images, str):
        images = [images]
    if not isinstance(images, list) or not images:
        raise RowError("no images", "a row needs images or a video")
    return [inside(name) for name in images]


def inside(name: Any) -> str:
    """A media name that does not leave the media folder.

    Raises:
        RowError: Otherwise.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise RowError("wrong media path", repr(name)[:100])
    return _inside(name)


@lru_cache(maxsize=4096)  # many rows are about one video
def _inside(name: str) -> str:
    try:
        media_path(Path(), name)
        name.encode()
    except (DataError, UnicodeEncodeError):
        raise RowError("media outside the media folder", repr(name)[:200]) from None
    return name.removeprefix("./")


@dataclass(frozen=True)
class Shown:
    """A question taken apart.

    Args:
        stem: What stands before the options; all of the text where there are none.
        options: With their letters, at least two or none.
        rest: What stands after them.
        inline: Whether they stand one after another in a line.
    """

    stem: str
    options: list[str]
    rest: str = ""
    inline: bool = False


def shown_options(prompt: str) -> Shown:
    r"""The options that a question shows, A, B, C … a line each, or one after another, and what stands around them.

    Args:
        prompt: The question.

    >>> shown_options("Which?\nOptions:\nA. bed\nB. lamp\nAnswer.")
    Shown(stem='Which?\nOptions:\n', options=['A. bed', 'B. lamp'], rest='\nAnswer.', inline=False)
    """
    best: list[tuple[str, str, int, int]] = []
    for inline, found in (
        (False, [(m.group(2), m.group(1).rstrip(), m.start(1), m.end(1)) for m in _LINE.finditer(prompt)]),
        (True, _pieces(prompt, list(_MARK.finditer(prompt)))),
    ):
        run: list[tuple[str, str, int, int]] = []
        for piece in found:
            letter = piece[0]
            run = [*run, piece] if letter == chr(ord("A") + len(run)) else [piece] if letter == "A" else run
            best = run if len(run) > len(best) else best
        if len(best) > 1:
            return Shown(prompt[: best[0][2]], [piece[1] for piece in best], prompt[best[-1][3] :], inline)
    return Shown(prompt, [])


def options_of(prompt: str) -> list[str]:
    r"""The options that a question shows, with their letters: A, B, C … a line each, or one after another.

    Args:
        prompt: The question.

    Returns:
        At least two, or none.

    >>> options_of("Which?\nOptions:\nA. bed\nB. lamp\nAnswer."), options_of("Is it (A) left or (B) right?")
    (['A. bed', 'B. lamp'], ['(A) left or', '(B) right?'])
    """
    return shown_options(prompt).options


def _pieces(text: str, marks: Sequence[re.Match[str]]) -> list[tuple[str, str, int, int]]:
    starts = [mark.start() for mark in marks]
    out = []
    for mark, start, following in zip(marks, starts, [*starts[1:], len(text)], strict=False):
        piece = text[start:following].partition("\n")[0]
        out.append((mark.group(1), piece.strip(), start, start + len(piece)))
    return out


def letter_of(answer: str, options: Sequence[str]) -> str | None:
    """The letter that an answer names: alone, or with the words of its option.

    Args:
        answer: As stored.
        options: See :func:`options_of`.
    """
    match = _LETTER.fullmatch(answer)
    letters = [next(c for c in option if c.isalpha()) for option in options]
    if match:
        return match.group(1) if match.group(1) in letters else None
    for letter, option in zip(letters, options, strict=True):
        if answer.strip().rstrip(".") == option.rstrip("."):
            return letter
    return None


def number_of(answer: str) -> float | None:
    """The number that is all of an answer."""
    value = float(answer) if _NUMBER.fullmatch(answer) and answer.isascii() else math.nan
    return value if math.isfinite(value) else None
