"""Short answers in VG-LLM's files: the options of a question, a letter, a number."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_LETTER = re.compile(r"\s*[(\[]?([A-Z])[)\].:]?\s*")
_NUMBER = re.compile(r"\s*[-+]?\d{1,15}(?:\.\d{1,15})?\s*")
_LINE = re.compile(r"^[ \t]*([(\[]?([A-Z])[.):\]][ \t]*\S[^\n]*)", re.MULTILINE)
_MARK = re.compile(r"(?<![A-Za-z0-9.])[(\[]?([A-Z])[.):\]]\s")


def options_of(prompt: str) -> list[str]:
    r"""The options that a question shows, with their letters: A, B, C … a line each, or one after another.

    Args:
        prompt: The question.

    Returns:
        At least two, or none.

    >>> options_of("Which?\nOptions:\nA. bed\nB. lamp\nAnswer."), options_of("Is it (A) left or (B) right?")
    (['A. bed', 'B. lamp'], ['(A) left or', '(B) right?'])
    """
    best: list[str] = []
    for found in (
        [(match.group(2), match.group(1).rstrip()) for match in _LINE.finditer(prompt)],
        _pieces(prompt, list(_MARK.finditer(prompt))),
    ):
        run: list[str] = []
        for letter, text in found:
            run = [*run, text] if letter == chr(ord("A") + len(run)) else [text] if letter == "A" else run
            best = run if len(run) > len(best) else best
        if len(best) > 1:
            return best
    return []


def _pieces(text: str, marks: Sequence[re.Match[str]]) -> list[tuple[str, str]]:
    starts = [mark.start() for mark in marks]
    ends = [*starts[1:], len(text)]
    return [
        (mark.group(1), text[start:end].partition("\n")[0].strip())
        for mark, start, end in zip(marks, starts, ends, strict=False)
    ]


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
