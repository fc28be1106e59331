"""What the page of answers says in words: questions, their answers, and a row for each box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from rft3d_cli.console import clean
from rft3d_cli.show.draw import PALETTE, Colour, label_colour

if TYPE_CHECKING:
    from rft3d_cli.show.viewer import Said

LABEL_LETTERS = 60
"""Of a label, at most: more is a model that rambles."""
TAG_LETTERS = 20
"""Of a label beside its box, at most."""


@dataclass(frozen=True)
class Row:
    """A box as the page lists it.

    Args:
        name: Its label, with a number where others of its answer have the same.
        tag: The same, short enough to stand beside the box.
        colour: Bright, for pictures and dark grounds.
        facts: Size and distance.
        words: The answer's line about it, without its label; may be empty.
    """

    name: str
    tag: str
    colour: Colour
    facts: str
    words: str


def _text(text: str) -> str:
    return escape(clean(text))


def one_line(text: str) -> str:
    """Text of a model or a file as HTML that shows it, on one line."""
    return _text(" ".join(text.split()))


def rows_of(said: Said, number: int | None) -> list[Row]:
    """A row for each box of an answer.

    Args:
        said: The answer.
        number: Which of several questions it answers: its boxes then share that question's colour. None where there is
            one question only: its boxes have the colours of their classes, as in all pictures.
    """
    names = [_short(label, LABEL_LETTERS) or "box" for label in said.boxes.labels]
    paired = len(said.words) == len(names)
    rows = []
    for at, (label, box) in enumerate(said.boxes):
        same = [k for k, other in enumerate(names) if other == names[at]]
        which = f" {same.index(at) + 1}" if len(same) > 1 else ""
        size = " × ".join(_metres(value) for value in box[3:6])
        rows.append(
            Row(
                name=names[at] + which,
                tag=_short(names[at], TAG_LETTERS) + which,
                colour=label_colour(label) if number is None else question_colour(number),
                facts=f"{size} m · {_metres(float(np.linalg.norm(box[:3])))} m away",
                words=said.words[at].removeprefix(label).lstrip(",: ") if paired else "",
            )
        )
    return rows


def _short(text: str, letters: int) -> str:
    text = " ".join(clean(text).split())
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def question_colour(number: int) -> Colour:
    """The colour of one of several questions."""
    return PALETTE[number % len(PALETTE)]


def _metres(value: float) -> str:
    return f"{value:.2f}" if value < 1e4 else f"{value:.2g}"


def answers(said: Sequence[Said], rows: Sequence[Sequence[Row]]) -> list[str]:
    """The page's part below the pictures: a card a question.

    Args:
        said: Questions and answers.
        rows: The boxes of each.

    Returns:
        Lines of HTML.
    """
    many = len(said) > 1
    parts = ['<section class="answers" aria-label="answers">']
    if many:
        parts.append(
            f'<div class="head"><h2>{len(said)} questions</h2><div class="tools">'
            '<button type="button" id="all" aria-pressed="true">show all</button></div></div>'
        )
    parts.append('<div class="cards">')
    first = 0
    for number, one in enumerate(said):
        question = one_line(one.question)
        if many:
            question = (
                f'<button type="button" class="ask" data-question="{number}" aria-pressed="false">'
                f"{_swatch(question_colour(number))}{question}</button>"
            )
        parts.append(f'<article class="card"><h3>{question}</h3>')
        if not any(row.words for row in rows[number]):
            parts += [f"<p>{_text(words)}</p>" for words in one.words]
        if rows[number]:
            listed = (_listed(row, first + at) for at, row in enumerate(rows[number]))
            parts.append(f'<ul class="boxes">{"".join(listed)}</ul>')
        first += len(rows[number])
        parts.append("</article>")
    return [*parts, "</div></section>"]


def _listed(row: Row, number: int) -> str:
    words = f'<span class="words">{one_line(row.words)}</span>' if row.words else ""
    return (
        f'<li><button type="button" class="box" data-box="{number}" aria-pressed="false">{_swatch(row.colour)}'
        f'<span class="about"><span class="name">{one_line(row.name)}</span> '
        f'<span class="facts">{one_line(row.facts)}</span>{words}</span></button></li>'
    )


def _swatch(colour: Colour) -> str:
    return f'<span class="swatch" style="background: {hexadecimal(colour)}"></span>'


def hexadecimal(colour: Colour) -> str:
    """A colour as style sheets write it.

    >>> hexadecimal((255, 176, 0))
    '#ffb000'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


def on_light(colour: Colour) -> Colour:
    """A colour darkened until lines of it stand out from a white page: contrast at least 3 to 1.

    >>> on_light((250, 240, 90)), on_light((20, 20, 200))
    ((157, 151, 57), (20, 20, 200))
    """
    factor = 1.0
    while True:
        shade = np.array(colour) * factor / 255
        linear = np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4)
        if 1.05 / (float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05) >= 3:
            return (round(colour[0] * factor), round(colour[1] * factor), round(colour[2] * factor))
        factor -= 0.01
