"""Charts as pictures, painted with Pillow; see :mod:`rft3d_cli.show.plot` for the marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from PIL import Image, ImageDraw

from rft3d_cli.show.inspect_sheet import drawable, fitted, font_of
from rft3d_cli.show.plot import COLOURS, WIDTH, Dot, Line, Scene, Text
from rft3d_cli.show.plot_axes import Point

Colour = tuple[int, int, int]

_INKS = ("text", "faint", "line", "card", *(f"c{i}" for i in range(COLOURS)))
LIGHT = dict(zip(_INKS, (
    *("#1c1c20", "#66666e", "#dedee2", "#ffffff"),
    *("#0068b0", "#e04207", "#14a2a2", "#701d34", "#b4795c", "#5c1fff", "#35425f", "#9c0114"),
), strict=True))  # fmt: skip
"""Colours on white. They differ in lightness as well as in hue, for those too who tell no red from green."""
DARK = dict(zip(_INKS, (
    *("#ececf0", "#a0a0aa", "#3a3a42", "#222228"),
    *("#56b4e9", "#ff8a4c", "#1fa67f", "#ffc4e1", "#f0d34a", "#9a7bff", "#7f8a96", "#e0566c"),
), strict=True))  # fmt: skip
"""The same on near black."""

SCALE = 2
"""Pixels of a picture for each of the page's."""
_FINER = 2
"""Lines are drawn so many times larger and then made smaller, which smooths them."""
_PALE = 0.32
_MARGIN, _GAP = 20, 28


def mixed(colour: str, ground: str, share: float) -> Colour:
    """A colour laid thinly on a ground.

    >>> mixed("#000000", "#ffffff", 0.2)
    (204, 204, 204)
    """
    a, b = (tuple(int(text[i : i + 2], 16) for i in (1, 3, 5)) for text in (colour, ground))
    red, green, blue = (round(share * x + (1 - share) * y) for x, y in zip(a, b, strict=True))
    return red, green, blue


def paint(scene: Scene, inks: dict[str, str] | None = None) -> Image.Image:
    """A scene as a picture.

    Args:
        scene: The marks.
        inks: :data:`LIGHT` by default.
    """
    inks = LIGHT if inks is None else inks
    size = WIDTH, math.ceil(scene.height)
    fine = SCALE * _FINER
    picture = Image.new("RGB", (size[0] * fine, size[1] * fine), inks["card"])
    pen = ImageDraw.Draw(picture)
    for mark in scene.marks:
        if isinstance(mark, Line):
            _line(pen, mark, mixed(inks[mark.ink], inks["card"], _PALE if mark.faint else 1.0), fine)
        elif isinstance(mark, Dot):
            x, y, r = mark.x * fine, mark.y * fine, mark.radius * fine
            pen.ellipse(
                (x - r, y - r, x + r, y + r),
                fill=inks["card"] if mark.hollow else inks[mark.ink],
                outline=inks[mark.ink] if mark.hollow else inks["card"],
                width=round((2 if mark.hollow else 1) * fine),
            )
    picture = picture.reduce(_FINER)
    pen = ImageDraw.Draw(picture)
    for mark in scene.marks:
        if isinstance(mark, Text):
            anchor = {"start": "lm", "middle": "mm", "end": "rm"}[mark.anchor]
            place = (mark.x * SCALE, mark.y * SCALE)
            pen.text(
                place,
                drawable(mark.text),
                font=font_of(mark.size * SCALE),
                fill=inks[mark.ink],
                anchor=anchor,
                stroke_width=3 if mark.ink == "text" and not mark.bold else 0,
                stroke_fill=inks["card"],
            )
    return picture


def _line(pen: ImageDraw.ImageDraw, mark: Line, colour: Colour, fine: int) -> None:
    points = [(x * fine, y * fine) for x, y in mark.points]
    width = max(1, round(mark.width * fine))
    for piece in _dashes(points, 4.0 * fine) if mark.dashed else [points]:
        pen.line(piece, fill=colour, width=width, joint="curve")


def _dashes(points: Sequence[Point], length: float) -> list[list[Point]]:
    """A line cut into pieces of equal length, of which every second one is kept."""
    pieces: list[list[Point]] = [[points[0]]]
    left, drawn = length, True
    for start, end in pairwise(points):
        whole, done = math.dist(start, end), 0.0
        while whole - done > left:
            done += left
            at = (start[0] + (end[0] - start[0]) * done / whole, start[1] + (end[1] - start[1]) * done / whole)
            if drawn:
                pieces[-1].append(at)
            else:
                pieces.append([at])
            drawn, left = not drawn, length
        left -= whole - done
        if drawn:
            pieces[-1].append(end)
    return [piece for piece in pieces if len(piece) > 1]


def framed(picture: Image.Image) -> Image.Image:
    """A picture with a margin around."""
    return _rows([[picture]], "")


def sheet(pictures: Sequence[Image.Image], title: str) -> Image.Image:
    """Pictures in one, up to four beside each other, under a title."""
    columns = min(4, max(2, math.ceil(math.sqrt(len(pictures)))), len(pictures))
    return _rows([pictures[at : at + columns] for at in range(0, len(pictures), columns)], title)


def _rows(rows: Sequence[Sequence[Image.Image]], title: str) -> Image.Image:
    """Rows of pictures below each other, under a title."""
    margin, gap, head = _MARGIN * SCALE, _GAP * SCALE, 34 * SCALE if title else 0
    widest = max(sum(item.width + gap for item in row) - gap for row in rows)
    heights = [max(item.height for item in row) + gap for row in rows]
    size = (widest + 2 * margin, sum(heights) - gap + 2 * margin + head)
    picture = Image.new("RGB", size, LIGHT["card"])
    if title:
        words = fitted(title, widest, 20 * SCALE)
        ImageDraw.Draw(picture).text((margin, margin), words, font=font_of(20 * SCALE), fill=LIGHT["text"])
    y = margin + head
    for row, height in zip(rows, heights, strict=True):
        x = margin
        for item in row:
            picture.paste(item, (x, y))
            x += item.width + gap
        y += height
    return picture
