"""Line charts: laid out once, then written as SVG for a page or painted as a picture.

A chart becomes a list of marks in a plane whose unit is one pixel of the page. Both outputs draw the same marks, so a
chart looks the same in a browser and in a paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from rft3d_cli.console import clean
from rft3d_cli.show.inspect_sheet import drawable, font_of
from rft3d_cli.show.plot_axes import Axis, Floats, Point, axis_along, number, rounded, tick_step

Place = Callable[[float, float], Point]
"""From values to pixels."""

WIDTH = 360
"""Of a chart: three beside each other on a desk, one on a phone, with the same letters."""
HEIGHT = 176
"""Of the plane between the axes."""
SIZE, SMALL = 12, 11
"""Of letters."""
COLOURS = 8
"""Colours that there are; series beyond them are dashed."""


@dataclass(frozen=True)
class Series:
    """Points that belong together, drawn as a line.

    Args:
        name: In the legend; empty for none.
        xs: Not a number where there is no point.
        ys: As many; not a number where there is no point.
        colour: From 0.
        faint: Thin and pale, as measured values behind their mean.
        dots: Each point has a dot.
        dashed: A broken line.
        group: Lines of one group can be hidden together on a page.
    """

    name: str
    xs: Floats
    ys: Floats
    colour: int
    faint: bool = False
    dots: bool = False
    dashed: bool = False
    group: int | None = None


@dataclass(frozen=True)
class Label:
    """A point with words: the best of a series, or where it begins.

    Args:
        x: Of the point.
        y: Of the point.
        text: Beside it; empty for the point alone.
        colour: As of its series.
        hollow: A ring instead of a dot.
        radius: Of the point, pixels.
        group: As of its series.
    """

    x: float
    y: float
    text: str
    colour: int
    hollow: bool = False
    radius: float = 4.0
    group: int | None = None


@dataclass(frozen=True)
class Guide:
    """A line behind all others that helps to read values, with words at its end."""

    text: str
    xs: Floats
    ys: Floats


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Args:
        title: Over it.
        series: Drawn in this order.
        x: Name of the horizontal axis.
        y: Name of the vertical axis; empty for none.
        whole: Whether horizontal values are whole numbers, as steps are.
        labels: Points with words.
        guides: Lines behind all others.
    """

    title: str
    series: Sequence[Series]
    x: str = "step"
    y: str = ""
    whole: bool = True
    labels: Sequence[Label] = ()
    guides: Sequence[Guide] = ()


@dataclass(frozen=True)
class Line:
    """A mark: a line through points. ``ink`` names a colour."""

    points: list[Point]
    ink: str
    width: float = 1.0
    faint: bool = False
    dashed: bool = False
    group: int | None = None


@dataclass(frozen=True)
class Dot:
    """A mark: a disc, or a ring."""

    x: float
    y: float
    radius: float
    ink: str
    hollow: bool = False
    title: str = ""
    group: int | None = None


@dataclass(frozen=True)
class Text:
    """A mark: one line of words; ``anchor`` is ``start``, ``middle`` or ``end``, and ``y`` the letters' middle."""

    x: float
    y: float
    text: str
    ink: str = "faint"
    anchor: str = "start"
    size: int = SMALL
    bold: bool = False
    group: int | None = None


Mark = Line | Dot | Text


@dataclass
class Scene:
    """Marks and the size of the plane that they lie in."""

    height: float = 0.0
    marks: list[Mark] = field(default_factory=list)


def text_width(text: str, size: int) -> float:
    """Pixels that words take, a little more than in Pillow's letters: a browser's may be wider."""
    return 1.08 * float(font_of(size).getlength(drawable(clean(text))))


# Layout ---------------------------------------------------------------------------------------------------------------


def lay_out(chart: Chart, *, title: bool = True, legend: bool = True) -> Scene:
    """The marks of a chart.

    Args:
        chart: What is drawn; points that are not numbers are left out.
        title: Whether its title stands over it.
        legend: Whether its series are named under the title.

    Returns:
        Marks, :data:`WIDTH` wide.
    """
    scene, top = Scene(), 6.0
    if title:
        scene.marks.append(Text(0, 9, clean(chart.title), "text", size=14, bold=True))
        top = 24.0
    if legend:
        top = _legend(scene, chart, top)
    if chart.y:
        scene.marks.append(Text(0, top + 6, clean(chart.y)))
        top += 16
    top += 4
    across, up = _axes(chart)
    (x_low, x_high), (y_low, y_high) = across.ends, up.ends
    left = max(text_width(name, SMALL) for name in up.names) + 8
    right, bottom = WIDTH - 12.0, top + HEIGHT

    def place(x: float, y: float) -> Point:
        return (
            left + (x - x_low) / (x_high - x_low) * (right - left),
            bottom - (y - y_low) / (y_high - y_low) * HEIGHT,
        )

    for value, name in zip(up.ticks, up.names, strict=True):
        y = place(x_low, float(value))[1]
        scene.marks.append(Line([(left, y), (right, y)], "line"))
        scene.marks.append(Text(left - 6, y, name, anchor="end"))
    for value, name in zip(across.ticks, across.names, strict=True):
        x = place(float(value), y_low)[0]
        scene.marks.append(Line([(x, bottom), (x, bottom + 4)], "line"))
        scene.marks.append(Text(x, bottom + 13, name, anchor="middle"))
    scene.marks.append(Text(right, bottom + 28, clean(chart.x), anchor="end"))
    named: list[float] = [bottom]
    for guide in chart.guides:
        pieces = list(_pieces(guide.xs, guide.ys, (x_low, x_high), (y_low, y_high)))
        scene.marks += [Line([place(*p) for p in piece], "line", dashed=True) for piece in pieces]
        if pieces and all(abs((end := place(*pieces[-1][-1]))[1] - 7 - other) > 13 for other in named):
            scene.marks.append(Text(end[0] - 2, end[1] - 7, guide.text, anchor="end"))
            named.append(end[1] - 7)
    for series in chart.series:
        _draw(scene, series, place, (x_low, x_high), (y_low, y_high))
    _name_points(scene, chart.labels, place, (left, right, top))
    scene.height = bottom + 36
    return scene


def _legend(scene: Scene, chart: Chart, top: float) -> float:
    named = [series for series in chart.series if series.name]
    if len(named) < 2 and not (named and named[0].name != chart.title):
        return top
    x, y = 0.0, top + 6
    for series in named:
        name = clean(series.name)
        width = 24 + text_width(name, SIZE) + 14
        if x and x + width - 14 > WIDTH:
            x, y = 0.0, y + 17
        scene.marks.append(Line([(x, y), (x + 18, y)], f"c{series.colour % COLOURS}", 2.5, dashed=_dashed(series)))
        if series.dots:
            scene.marks.append(Dot(x + 9, y, 3, f"c{series.colour % COLOURS}"))
        scene.marks.append(Text(x + 24, y, name, "text", size=SIZE))
        x += width
    return y + 12


def _dashed(series: Series) -> bool:
    return series.dashed or series.colour >= COLOURS


def _axes(chart: Chart) -> tuple[Axis, Axis]:
    """Both axes. Pale lines may leave the picture by their rarest values: one spike would flatten the rest."""
    xs: list[Floats] = [np.empty(0)]
    ys: list[Floats] = [np.empty(0)]
    for series in chart.series:
        known = np.isfinite(series.xs) & np.isfinite(series.ys)
        if known.any():
            xs.append(series.xs[known])
            ys.append(np.percentile(series.ys[known], (2, 98)) if series.faint else series.ys[known])
    for label in chart.labels:
        xs.append(np.array([label.x]))
        ys.append(np.array([label.y]))
    across, up = np.concatenate(xs), np.concatenate(ys)
    if not chart.whole:
        return rounded(across, zero=False), rounded(up, zero=False)
    low, high = (float(across.min()), float(across.max())) if len(across) else (0.0, 1.0)
    ends = (low - 1, high + 1) if high - low < 1e-9 else (low, high)
    most = 1.0 if chart.y.startswith("share") else math.inf
    return axis_along(ends, tick_step(*ends, 5, whole=True)), rounded(up, zero=True, most=most)


def _draw(scene: Scene, series: Series, place: Place, x_range: Point, y_range: Point) -> None:
    ink = f"c{series.colour % COLOURS}"
    pieces = list(_pieces(series.xs, series.ys, x_range, y_range))
    for piece in pieces:
        points = [place(*point) for point in piece]
        if len(points) > 1:
            width = 1.0 if series.faint else 1.6 if series.dots else 2.2
            scene.marks.append(Line(points, ink, width, series.faint, _dashed(series), series.group))
    known = [(x, y) for x, y in zip(series.xs, series.ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    for x, y in known if series.dots else known[:1] if len(known) == 1 and not series.faint else ():
        words = f"{series.name + ' ' if series.name else ''}{number(y)} at {number(x)}"
        scene.marks.append(Dot(*place(x, y), 3, ink, title=words, group=series.group))


def _pieces(xs: Floats, ys: Floats, x_range: Point, y_range: Point) -> Iterator[list[Point]]:
    """The parts of a line that lie within ranges; points that are not numbers are passed over."""
    piece: list[Point] = []
    before: Point | None = None
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        if before is None:
            piece = [(x, y)] if y_range[0] <= y <= y_range[1] and x_range[0] <= x <= x_range[1] else []
        else:
            found = _cut(before, (x, y), x_range, y_range)
            if found is None:
                if piece:
                    yield piece
                piece = []
            else:
                if not piece or piece[-1] != found[0]:
                    if piece:
                        yield piece
                    piece = [found[0]]
                piece.append(found[1])
        before = (x, y)
    if piece:
        yield piece


def _cut(start: Point, end: Point, x_range: Point, y_range: Point) -> tuple[Point, Point] | None:
    """The part of a segment within ranges."""
    first, last = 0.0, 1.0
    for at, to, (low, high) in ((start[0], end[0], x_range), (start[1], end[1], y_range)):
        along = to - at
        if along == 0:
            if not low <= at <= high:
                return None
            continue
        enter, leave = sorted(((low - at) / along, (high - at) / along))
        first, last = max(first, enter), min(last, leave)
    if first > last:
        return None

    def at_share(share: float) -> Point:
        return (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))

    return start if first == 0 else at_share(first), end if last == 1 else at_share(last)


def _name_points(scene: Scene, labels: Sequence[Label], place: Place, edges: tuple[float, float, float]) -> None:
    """Points with their words, each on the first side of its point where no other words stand."""
    left, right, top = edges
    taken: list[tuple[float, float]] = []
    for label in labels:
        x, y = place(label.x, label.y)
        scene.marks.append(Dot(x, y, label.radius, f"c{label.colour % COLOURS}", label.hollow, label.text, label.group))
        if not label.text:
            continue
        width = text_width(label.text, SMALL)
        at = min(max(x, left + width / 2), right - width / 2)
        heights = [y - 13, y + 14, y - 26, y + 27]
        free = [h for h in heights if h > top + 4 and all(abs(h - b) > 12 or abs(at - a) > width for a, b in taken)]
        height = free[0] if free else heights[0]
        taken.append((at, height))
        scene.marks.append(Text(at, height, clean(label.text), "text", "middle", group=label.group))


# SVG ------------------------------------------------------------------------------------------------------------------


def svg(scene: Scene, name: str) -> str:
    """A scene as an inline picture, whose colours are the page's: ``--c0`` …, ``--text``, ``--faint`` and ``--line``.

    Args:
        scene: The marks.
        name: What it shows, for those who cannot see it.
    """
    parts = [f'<svg viewBox="0 0 {WIDTH} {_short(scene.height)}" role="img" aria-label="{escape(clean(name))}">']
    return "".join([*parts, *map(_svg_mark, scene.marks), "</svg>"])


def _svg_mark(mark: Mark) -> str:
    where = "" if mark.group is None else f" g{mark.group}"
    if isinstance(mark, Line):
        points = " ".join(f"{_short(x)},{_short(y)}" for x, y in mark.points)
        names = f"k-{mark.ink}{' pale' if mark.faint else ''}{' dashed' if mark.dashed else ''}{where}"
        return f'<polyline class="{names}" stroke-width="{mark.width:g}" points="{points}"/>'
    if isinstance(mark, Dot):
        names = f"k-{mark.ink}{' ring' if mark.hollow else ''}{where}"
        title = f"<title>{escape(clean(mark.title))}</title>" if mark.title else ""
        return (
            f'<circle class="{names}" cx="{_short(mark.x)}" cy="{_short(mark.y)}" r="{mark.radius:g}">{title}</circle>'
        )
    names = f"k-{mark.ink}{' bold' if mark.bold else ''}{where}"
    return (
        f'<text class="{names}" x="{_short(mark.x)}" y="{_short(mark.y)}" text-anchor="{mark.anchor}" '
        f'font-size="{mark.size}">{escape(mark.text)}</text>'
    )


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
