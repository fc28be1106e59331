from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.show.plot import COLOURS, WIDTH, Chart, Dot, Guide, Label, Line, Series, Text, lay_out, svg
from rft3d_cli.show.plot_axes import number, rounded, ticks
from rft3d_cli.show.plot_paint import DARK, LIGHT, SCALE, framed, mixed, paint, sheet


def series(values, name="", **changes) -> Series:
    ys = np.array(values, dtype=float)
    return Series(name, np.arange(1.0, len(ys) + 1), ys, changes.pop("colour", 0), **changes)


def curves(chart: Chart, ink: str = "c0") -> list[Line]:
    return [
        mark for mark in lay_out(chart).marks if isinstance(mark, Line) and mark.ink == ink and len(mark.points) > 1
    ]


def words(chart: Chart) -> list[str]:
    return [mark.text for mark in lay_out(chart).marks if isinstance(mark, Text)]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
@settings(max_examples=150, deadline=None)
def test_ticks_are_round_few_and_inside(low, span, most):
    high = low + span
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    slack = 1e-5 * span + 1e-9
    assert all(low - slack <= value <= high + slack for value in found)
    if len(found) > 1:
        step = float(found[1] - found[0])
        lead = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(lead - round_number) for round_number in (1, 2, 5, 10)) < 1e-2


@given(st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=1, max_size=30), st.booleans())
@settings(max_examples=100, deadline=None)
def test_an_axis_holds_all_values_and_ends_on_ticks(values, zero):
    axis = rounded(np.array(values), zero=zero)
    low, high = axis.ends
    slack = 1e-6 * (high - low) + 1e-11
    assert low - slack <= min(values) <= max(values) <= high + slack
    assert high > low
    assert 2 <= len(axis.ticks) <= 8
    assert axis.ticks[0] == pytest.approx(low, abs=slack)
    assert axis.ticks[-1] == pytest.approx(high, abs=slack)
    assert len(axis.names) == len(axis.ticks)


@pytest.mark.parametrize("value", [1.0, 0.95, 0.5, 0.0])
def test_the_axis_of_a_share_ends_at_1(value):
    values = np.full(5, value)
    assert rounded(values, zero=True, most=1.0).ends[1] <= 1
    drawn = lay_out(Chart("Different answers", [Series("", np.arange(5.0), values, 0)], y="share"))
    words = {mark.text for mark in drawn.marks if isinstance(mark, Text)}
    assert not {"1.05", "1.1", "1.10"} & words


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        pytest.param(0.0, 0.2, "0.0", id="zero with the others' decimals"),
        pytest.param(-0.0, 0.5, "0.0", id="no minus before zero"),
        pytest.param(2000.0, 500.0, "2,000", id="thousands"),
        pytest.param(20000.0, 5000.0, "20k", id="many thousands"),
        pytest.param(2e6, 1e6, "2M", id="millions"),
        pytest.param(1e-6, 5e-7, "1e-06", id="a learning rate"),
        pytest.param(1e299, 0.0, "1e+299", id="beyond letters"),
        pytest.param(1234.6, 0.0, "1,235", id="alone, large"),
        pytest.param(0.046268, 0.0, "0.0463", id="alone, small"),
    ],
)
def test_numbers_are_written_as_people_read_them(value, step, text):
    assert number(value, step) == text


def test_points_lie_where_the_axes_say():
    scene = lay_out(Chart("c", [series([0.0, 1.0, 0.5])]))
    rules = [m for m in scene.marks if isinstance(m, Line) and m.ink == "line" and m.points[0][1] == m.points[1][1]]
    bottom, top = max(m.points[0][1] for m in rules), min(m.points[0][1] for m in rules)
    line = next(m for m in scene.marks if isinstance(m, Line) and m.ink == "c0")
    (x0, y0), (x1, y1), (x2, y2) = line.points
    assert (y0, y1, y2) == pytest.approx((bottom, top, (bottom + top) / 2))
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert x2 < WIDTH


def test_values_that_are_no_numbers_are_passed_over():
    (line,) = curves(Chart("c", [series([1.0, math.nan, 3.0, math.inf, 2.0])]))
    assert len(line.points) == 3


def test_a_spike_of_a_pale_line_leaves_the_picture_and_the_rest_stays_readable():
    raw = [1.0 + 0.1 * (i % 5) for i in range(200)]
    raw[100] = 1e6
    chart = Chart("c", [series(raw, faint=True), series([1.2] * 200)])
    assert {"1.0", "1.4"} <= {*words(chart)}
    assert not any("k" in text or "M" in text for text in words(chart))
    marks = lay_out(chart).marks
    top = min(p[1] for m in marks if isinstance(m, Line) and m.ink == "line" for p in m.points)
    pale = [m for m in marks if isinstance(m, Line) and m.faint]
    assert len(pale) == 2
    assert min(p[1] for m in pale for p in m.points) >= top - 1e-6


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="nothing"),
        pytest.param([math.nan, math.nan], id="no numbers"),
        pytest.param([0.5], id="one value"),
        pytest.param([0.0, 0.0, 0.0], id="zeros"),
        pytest.param([-3.0, -3.0], id="the same below zero"),
        pytest.param([1e-300, 2e-300], id="tiny"),
        pytest.param([-1e299, 1e299], id="huge"),
        pytest.param([1e9, 1e9 + 1e-6], id="almost the same"),
    ],
)
def test_odd_values_are_drawn_in_both_forms(values):
    chart = Chart("c", [series(values, "a"), series(values, faint=True)])
    scene = lay_out(chart)
    ET.fromstring(svg(scene, "c"))
    assert "nan" not in svg(scene, "c")
    assert paint(scene).size == (WIDTH * SCALE, math.ceil(scene.height) * SCALE)


def test_one_value_is_a_dot():
    dots = [mark for mark in lay_out(Chart("c", [series([0.5], "a")])).marks if isinstance(mark, Dot)]
    assert len(dots) == 1
    assert dots[0].title == "a 0.5 at 1"


def test_a_legend_names_lines_where_the_title_does_not():
    both = words(Chart("c", [series([1, 2], "one"), series([2, 1], "two", colour=1)]))
    assert {"one", "two"} <= {*both}
    assert words(Chart("one", [series([1, 2], "one")])).count("one") == 1
    assert "one" not in [
        m.text for m in lay_out(Chart("c", [series([1], "one")]), legend=False).marks if isinstance(m, Text)
    ]


def test_a_long_legend_takes_several_rows_inside_the_chart():
    chart = Chart("c", [series([1, 2], f"a rather long name {i}", colour=i) for i in range(6)])
    named = [m for m in lay_out(chart).marks if isinstance(m, Text) and m.text.startswith("a rather")]
    assert len({m.y for m in named}) >= 3
    assert all(m.x < WIDTH / 2 + 40 for m in named)
    assert lay_out(chart).height > lay_out(Chart("c", chart.series[:2])).height


def test_more_lines_than_colours_are_dashed():
    (line,) = curves(Chart("c", [series([1, 2], colour=COLOURS)]))
    assert line.dashed


def test_guides_stay_inside_and_their_words_apart():
    xs = np.linspace(0, 1, 50)
    guides = [Guide(f"g{i}", xs, np.full(50, i / 50)) for i in range(60)]
    chart = Chart("c", [series([0.0, 1.0])], whole=False, guides=guides)
    heights = sorted(m.y for m in lay_out(chart).marks if isinstance(m, Text) and m.text.startswith("g"))
    assert 3 < len(heights) < 20
    assert min(np.diff(heights)) > 12


def test_words_at_points_do_not_cover_each_other():
    labels = [Label(5, 0.5, f"point {i}", i) for i in range(3)]
    placed = [m for m in lay_out(Chart("c", [series(range(10))], labels=labels)).marks
              if isinstance(m, Text) and m.text.startswith("point")]  # fmt: skip
    assert min(abs(a.y - b.y) for a in placed for b in placed if a is not b) > 11


def test_svg_escapes_what_it_is_given():
    bad = '<script>"&\x1b'
    text = svg(lay_out(Chart(bad, [series([1, 2], bad), series([1, 3], "b")], x=bad, y=bad,
                             labels=[Label(1, 1, bad, 0)])), bad)  # fmt: skip
    assert "<script" not in text
    assert "\x1b" not in text
    root = ET.fromstring(text)
    assert root.get("role") == "img"
    assert root.get("aria-label").startswith("<script>")


def test_a_picture_shows_each_line_in_its_colour():
    picture = paint(lay_out(Chart("c", [series([0, 1], "one"), series([1, 0], "two", colour=1)])))
    seen = {colour for _, colour in picture.getcolors(1 << 20)}
    for ink in ("c0", "c1"):
        assert mixed(LIGHT[ink], LIGHT[ink], 1.0) in seen


def test_a_sheet_holds_all_charts():
    chart = paint(lay_out(Chart("c", [series([0, 1])])))
    one, many = framed(chart), sheet([chart] * 7, "a title with an accent: é –")
    assert one.width > chart.width
    assert many.width > 2.5 * one.width
    assert many.height > 2 * (one.height - 100)


DEUTAN = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
PROTAN = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels])


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = (
        np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in TO_XYZ @ rgb.clip(0, 1) / (0.9505, 1, 1.089)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def luminance(colour: str) -> float:
    return float(TO_XYZ[1] @ linear(colour))


@pytest.mark.parametrize("inks", [pytest.param(LIGHT, id="light"), pytest.param(DARK, id="dark")])
def test_colours_stand_out_from_their_ground_and_from_each_other(inks):
    ground = luminance(inks["card"])
    colours = [inks[f"c{i}"] for i in range(COLOURS)]
    for colour, least in [*((c, 3.0) for c in colours), (inks["text"], 7.0), (inks["faint"], 4.5)]:
        a, b = sorted((luminance(colour), ground))
        assert (b + 0.05) / (a + 0.05) >= least, colour
    # As all see them, and those who tell no red from green, or see no red (after Machado, Oliveira and Fernandes).
    for eye in (np.eye(3), DEUTAN, PROTAN):
        seen = [lab(eye @ linear(colour)) for colour in colours]
        apart = {(i, j): np.linalg.norm(seen[i] - seen[j]) for j in range(COLOURS) for i in range(j)}
        assert min(apart[i, j] for i, j in apart if j < 4) > 20
        assert min(apart.values()) > 12
