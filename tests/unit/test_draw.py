from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation

from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.show.draw import PALETTE, TARGET, draw_boxes, label_colour, with_headings

WIDTH, HEIGHT = 160, 120
FOCAL, CENTRE = 130.0, (79.5, 59.5)
INTRINSIC = np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1]])
GREY = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
NEAR = 0.05
WIDEST = 5.0
"""Pixels from the middle of an edge to where its dark rim ends, with room for smoothing."""
AROUND = 20
"""Pixels around the picture that are looked at too: a line just outside reaches in."""


def edges_of(box: np.ndarray) -> np.ndarray:
    """Where the twelve edges project to, by SciPy's rotations and the pinhole equations, with a frame around."""
    axes = Rotation.from_euler("ZXY", box[6:9]).as_matrix().T * (np.asarray(box[3:6]) / 2)[:, None]
    steps = np.linspace(-1, 1, 3000)[:, None]
    points = []
    for axis in range(3):
        others = [axes[other] for other in range(3) if other != axis]
        for one, two in product((-1, 1), repeat=2):
            points.append(box[:3] + one * others[0] + two * others[1] + steps * axes[axis])
    x, y, z = np.concatenate(points).T
    x, y, z = x[z > NEAR], y[z > NEAR], z[z > NEAR]
    u, v = FOCAL * x / z + CENTRE[0] + AROUND, FOCAL * y / z + CENTRE[1] + AROUND
    mask = np.zeros((HEIGHT + 2 * AROUND, WIDTH + 2 * AROUND), bool)
    inside = (u > -0.5) & (u < mask.shape[1] - 0.5) & (v > -0.5) & (v < mask.shape[0] - 0.5)
    mask[np.round(v[inside]).astype(int), np.round(u[inside]).astype(int)] = True
    return mask


def without_frame(mask: np.ndarray) -> np.ndarray:
    return mask[AROUND:-AROUND, AROUND:-AROUND]


def draw(*boxes: list[float], image: np.ndarray = GREY, **options: object) -> np.ndarray:
    options.setdefault("captions", [""] * len(boxes))
    return draw_boxes(image, Boxes3D(boxes, ["chair"] * len(boxes)), INTRINSIC, **options)


def changed(picture: np.ndarray, before: np.ndarray = GREY) -> np.ndarray:
    return (picture != before).any(axis=2)


def astray(picture: np.ndarray, box: np.ndarray) -> int:
    """How many pixels are drawn away from every edge."""
    expected = edges_of(box)
    if not expected.any():
        return int(changed(picture).sum())
    return int((changed(picture) & (without_frame(distance_transform_edt(~expected)) > WIDEST)).sum())


def missed(picture: np.ndarray, box: np.ndarray) -> int:
    """How many pixels of edges have nothing drawn on them."""
    expected, found = without_frame(edges_of(box)), changed(picture)
    return int((expected & (distance_transform_edt(~found) > 1.5)).sum()) if found.any() else int(expected.sum())


CASES = [
    pytest.param([0, 0, 3, 1, 1, 1, 0, 0, 0], id="straight ahead"),
    pytest.param([0.3, -0.2, 2.5, 0.8, 1.2, 0.5, 0.4, -0.7, 1.1], id="turned about all axes"),
    pytest.param([1.2, 0.1, 3, 1.5, 0.6, 0.4, 0.2, 0, 0], id="half out of the picture"),
    pytest.param([0, 0, 3, 3, 3, 2.5, 0, 0, 0], id="with its near face around the picture"),
    pytest.param([0, 0.3, 0.2, 0.4, 0.4, 3, 0, 0, 0], id="reaching behind the camera"),
    pytest.param([0, 0, 0, 2, 2, 2, 0.3, 0.2, 0.1], id="around the camera"),
    pytest.param([0.2, 0.2, 60, 1, 1, 1, 0, 0, 0], id="far away"),
    pytest.param([0, 0, 2, 1, 1, 0, 0, 0, 0], id="flat"),
]


@pytest.mark.parametrize("box", CASES)
def test_edges_are_drawn_where_they_project_and_nowhere_else(box):
    picture = draw(box)
    assert picture.shape == GREY.shape
    assert picture.dtype == np.uint8
    assert changed(picture).any()
    assert (missed(picture, np.array(box, float)), astray(picture, np.array(box, float))) == (0, 0)


def test_a_line_lies_on_its_edge_to_a_fraction_of_a_pixel():
    # The left edge of this flat box projects to the middle of column 190, its upper edge to the middle of row 110.
    grey = np.full((480, 640, 3), 90, np.uint8)
    box = Boxes3D([[0, 0, 2, 1, 1, 0, 0, 0, 0]], ["chair"])
    picture = draw_boxes(grey, box, [[520, 0, 320], [0, 520, 240], [0, 0, 1]], captions=[""])
    strength = np.abs(picture.astype(float) - grey).sum(axis=2)
    across, down = strength[240, 180:201], strength[100:121, 320]
    assert (across * np.arange(180, 201)).sum() / across.sum() == pytest.approx(190, abs=0.2)
    assert (down * np.arange(100, 121)).sum() / down.sum() == pytest.approx(110, abs=0.2)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([0, 0, -3, 1, 1, 1, 0, 0, 0], id="behind"),
        pytest.param([0, 0, -0.5, 4, 4, 1, 0, 0, 0], id="just behind"),
        pytest.param([9, 0, 3, 1, 1, 1, 0, 0, 0], id="right of the picture"),
        pytest.param([0, -9, 3, 1, 1, 1, 0, 0, 0], id="above the picture"),
        pytest.param([1e7, 0, 3, 1, 1, 1, 0, 0, 0], id="nowhere near"),
    ],
)
def test_a_box_that_no_part_of_is_in_the_picture_leaves_it_as_it_is(box):
    picture = draw(box, captions=["chair"])
    assert np.array_equal(picture, GREY)


def test_the_part_behind_the_camera_does_not_come_back_mirrored():
    # Below the camera and far through it: all that is in front lies in the lower half, and its mirror image would not.
    found = changed(draw([0, 0.5, 0.0, 0.4, 0.2, 6, 0, 0, 0]))
    assert found[HEIGHT // 2 + 5 :].any()
    assert not found[: HEIGHT // 2 - 5].any()


finite = {"allow_nan": False, "allow_infinity": False}


@settings(max_examples=60, deadline=None)
@given(
    centre=st.tuples(*[st.floats(-3, 3, **finite)] * 3),
    size=st.tuples(*[st.floats(0.05, 4, **finite)] * 3),
    angles=st.tuples(*[st.floats(-3.2, 3.2, **finite)] * 3),
)
def test_any_box_is_drawn_along_its_edges_and_nowhere_else(centre, size, angles):
    box = np.array([*centre, *size, *angles])
    picture = draw(list(box))
    assert (missed(picture, box), astray(picture, box)) == (0, 0)


# ---- What it looks like


def test_the_frame_itself_is_not_changed():
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image.flags.writeable = False
    before = image.copy()
    picture = draw([0, 0, 3, 1, 1, 1, 0, 0, 0], image=image, captions=None)
    assert np.array_equal(image, before)
    assert picture is not image
    empty = draw_boxes(image, Boxes3D([]), INTRINSIC)
    assert np.array_equal(empty, before)


def test_a_class_has_one_colour_and_given_colours_win():
    assert len({label_colour(label) for label in ("chair", "table", "bed", "lamp", "sofa", "desk")}) > 2
    assert all(label_colour(label) in PALETTE for label in ("chair", "", "größer"))
    box = [0, 0, 2, 1, 1, 0, 0, 0, 0]
    for colour, picture in ((label_colour("chair"), draw(box)), (TARGET, draw(box, colours=[TARGET]))):
        # Across the left edge: a dark rim, and the colour in its middle.
        left = round(CENTRE[0] - FOCAL * 0.25)
        across = picture[60, left - 2 : left + 3].astype(int)
        assert np.abs(across - colour).max(axis=1).min() < 60


def test_near_edges_are_brighter_than_far_ones():
    picture = draw([0, 0, 3, 1, 1, 2, 0, 0, 0]).astype(int)
    colour = np.array(label_colour("chair"))
    row = round(CENTRE[1])
    near, far = (round(CENTRE[0] - FOCAL * 0.5 / depth) for depth in (2, 4))
    difference = [np.abs(picture[row, column - 1 : column + 2] - colour).sum(axis=1).min() for column in (near, far)]
    assert difference[0] < difference[1]


def test_edges_behind_their_own_box_are_thinner_than_those_before_it():
    # Seen from above to the right: the far lower left corner and its three edges are hidden.
    grey = np.full((480, 640, 3), 90, np.uint8)
    box = Boxes3D([[-0.6, 0.6, 3, 1, 1, 1, 0, 0, 0]], ["chair"])
    picture = draw_boxes(grey, box, [[520, 0, 319.5], [0, 520, 239.5], [0, 0, 1]], captions=[""])
    row = [319.5 + 520 * x / z for x, z in ((-1.1, 3.5), (-0.1, 2.5))]  # the hidden upright edge and the nearest one
    widths = []
    for column in row:
        part = picture[330, round(column) - 8 : round(column) + 9].astype(int)
        widths.append(np.abs(part - 90).sum() / 100)
    assert 0 < widths[0] < 0.6 * widths[1]


def test_from_inside_a_box_no_edge_is_hidden():
    inside = draw([0, 0, 0.5, 2, 2, 6, 0, 0, 0])
    assert changed(inside).any()
    assert missed(inside, np.array([0, 0, 0.5, 2, 2, 6, 0, 0, 0], float)) == 0


@pytest.mark.parametrize(
    ("box", "tinted"),
    [
        pytest.param([0, 0.5, 3, 1, 1, 1, 0, 0, 0], True, id="upright"),
        pytest.param([0, 0.5, 3, 1, 1, 1, 0, 1.57, 0], True, id="lying on another face"),
        pytest.param([0, 0.5, 3, 1, 1, 1, 0.6155, 0.7854, 0], False, id="standing on a corner"),
        pytest.param([0, 0.5, 0.2, 1, 1, 3, 0, 0, 0], False, id="reaching behind the camera"),
    ],
)
def test_the_face_that_a_box_stands_on_is_tinted_where_it_is_asked_for(box, tinted):
    plain, tint = draw(box), draw(box, grounded=True)
    assert (changed(tint).sum() > changed(plain).sum() + 50) == tinted


def test_a_label_that_would_hide_another_is_left_out():
    same = [[0, 0, 3, 0.05, 0.05, 0.05, 0, 0, 0]] * 40
    picture = draw(*same, captions=[f"a rather long label {number}" for number in range(40)])
    # All labels over each other would be one dark block; those that are there keep their own place.
    one = draw(same[0], captions=["a rather long label 1"])
    assert changed(picture).sum() < 6 * changed(one).sum()


@pytest.mark.parametrize("width", [24, 60, 96, 160])
def test_a_caption_never_reaches_over_the_picture(width):
    image = np.full((60, width, 3), 90, np.uint8)
    label = "a red armchair by the window"
    picture = draw_boxes(image, Boxes3D([[0, 0, 3, 0.3, 0.3, 0.3, 0, 0, 0]], [label]),
                         [[40, 0, width / 2], [0, 40, 30], [0, 0, 1]])  # fmt: skip
    white = picture.min(axis=2) > 180
    assert white.any()
    # The tag's border stays free of letters.
    assert not white[:, [0, -1]].any()


def test_the_nearer_box_is_drawn_over_the_farther_one():
    near, far = [0, 0, 2, 1, 1, 0, 0, 0, 0], [0, 0, 4, 2, 2, 0, 0, 0, 0]  # the same outline
    red, blue = (255, 0, 0), (0, 0, 255)
    row, left = 60, round(CENTRE[0] - FOCAL * 0.25)
    for boxes, colours in (((near, far), (red, blue)), ((far, near), (blue, red))):
        pixel = draw(*boxes, colours=colours)[row, left]
        assert pixel[0] > pixel[2]


# ---- Captions


def captioned(box: list[float], label: str = "chair", **options: object) -> np.ndarray:
    with_caption = draw_boxes(GREY, Boxes3D([box], [label]), INTRINSIC, **options)
    return changed(with_caption, draw_boxes(GREY, Boxes3D([box], [label]), INTRINSIC, captions=[""]))


def test_a_caption_stands_above_its_box():
    rows, columns = np.nonzero(captioned([0, 0.3, 3, 1, 1, 1, 0, 0, 0]))
    top, left = (CENTRE[1] + FOCAL * (0.3 - 0.5) / 2.5, CENTRE[0] - FOCAL * 0.5 / 2.5)
    assert rows.max() < top + 2
    assert rows.max() > top - 6
    assert abs(columns.min() - left) < 3


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([0, 0, 1.2, 3, 3, 0.2, 0, 0, 0], id="larger than the picture"),
        pytest.param([0, -1.2, 3, 1, 1, 1, 0, 0, 0], id="at the top"),
        pytest.param([1.7, 0, 3, 1, 1, 1, 0, 0, 0], id="at the right"),
        pytest.param([-1.7, 1.2, 3, 1, 1, 1, 0, 0, 0], id="in a corner"),
    ],
)
def test_a_caption_stays_whole_inside_the_picture(box):
    middle = captioned([0, 0.3, 3, 1, 1, 1, 0, 0, 0], captions=["chair"])
    found = captioned(box, captions=["chair"])
    # Its upper edge shows it all; where it crosses the box's lines some pixels may be equal.
    assert found.sum() > 0.75 * middle.sum()


def test_a_caption_says_label_and_distance_unless_told_otherwise():
    box = [0, 0.3, 3, 1, 1, 1, 0, 0, 0]
    distance = np.hypot(0.3, 3)
    default = draw_boxes(GREY, Boxes3D([box], ["chair"]), INTRINSIC)
    assert np.array_equal(default, draw(box, captions=[f"chair {distance:.1f} m"]))
    assert not np.array_equal(default, draw(box, captions=["chair"]))


@pytest.mark.parametrize("label", ["", "a\nb", "x" * 100, "椅子 🪑", "\x00\x1b[2J", "tab\there", "größer"])
def test_any_label_can_be_drawn(label):
    picture = draw_boxes(GREY, Boxes3D([[0, 0.3, 3, 1, 1, 1, 0, 0, 0]], [label]), INTRINSIC)
    assert changed(picture).any()


def test_line_breaks_of_a_label_do_not_make_its_caption_taller():
    box = [0, 0.3, 3, 1, 1, 1, 0, 0, 0]
    assert np.array_equal(draw(box, captions=["red\n\n chair"]), draw(box, captions=["red chair"]))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 200), (200, 9)])
def test_pictures_of_any_size_can_be_drawn_on(size):
    image = np.zeros((*size, 3), np.uint8)
    picture = draw_boxes(image, Boxes3D([[0, 0, 3, 1, 1, 1, 0, 0, 0]], ["chair"]), INTRINSIC)
    assert picture.shape == image.shape


def test_headings_stand_over_their_columns_and_leave_the_picture_as_it_is():
    picture = np.full((40, 400, 3), 90, np.uint8)
    out = with_headings(picture, ("before", "after"))
    assert np.array_equal(out[-40:], picture)
    bar = out[:-40]
    for half in (bar[:, :200], bar[:, 200:]):
        lit = np.argwhere(half.max(axis=2) > 200)
        assert len(lit)
        assert abs(lit[:, 1].mean() - 100) < 15
