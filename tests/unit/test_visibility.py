from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rft3d_cli.geometry.camera import scale_intrinsic
from rft3d_cli.geometry.visibility import area_in_view, covered_share, cut_polygon, share_in_view

SIZE = (160, 120)
K = np.array([[90.0, 0, 79.5], [0, 95, 61.0], [0, 0, 1]])
POINTS = np.random.default_rng(7).uniform(-0.5, 0.5, (20_000, 3))

BOXES = st.builds(
    lambda centre, size, angles: np.array([*centre, *size, *angles]),
    st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-2, 5)),
    st.tuples(*[st.floats(0.05, 3)] * 3),
    st.tuples(*[st.floats(-3, 3)] * 3),
)


def counted(box: np.ndarray, k: np.ndarray, size: tuple[int, int]) -> float:
    """The share of points, strewn evenly through the box, that land in the picture."""
    points = Rotation.from_euler("ZXY", box[6:]).apply(POINTS * box[3:6]) + box[:3]
    before = points[points[:, 2] > 0]
    u = k[0, 0] * before[:, 0] / before[:, 2] + k[0, 2]
    v = k[1, 1] * before[:, 1] / before[:, 2] + k[1, 2]
    inside = (u > -0.5) & (u < size[0] - 0.5) & (v > -0.5) & (v < size[1] - 0.5)
    return float(inside.sum() / len(POINTS))


@settings(max_examples=150, deadline=None)
@given(box=BOXES)
def test_the_share_in_view_is_that_of_points_in_the_box(box: np.ndarray) -> None:
    # At least five standard deviations of the count.
    assert share_in_view(box, K, SIZE) == pytest.approx(counted(box, K, SIZE), abs=0.02)


@settings(max_examples=60, deadline=None)
@given(box=BOXES, new=st.tuples(st.integers(20, 900), st.integers(20, 900)))
def test_the_share_in_view_does_not_depend_on_the_pictures_size(box: np.ndarray, new: tuple[int, int]) -> None:
    scaled = share_in_view(box, scale_intrinsic(K, SIZE, new), new)
    assert scaled == pytest.approx(share_in_view(box, K, SIZE), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(box=BOXES, axis=st.integers(0, 2), at=st.floats(0.1, 0.9))
def test_the_views_of_two_parts_of_a_box_add_up(box: np.ndarray, axis: int, at: float) -> None:
    turn = Rotation.from_euler("ZXY", box[6:]).as_matrix()
    parts = []
    for low, high in ((0.0, at), (at, 1.0)):
        part = box.copy()
        part[3 + axis] *= high - low
        part[:3] += turn[:, axis] * box[3 + axis] * ((low + high) / 2 - 0.5)
        parts.append((high - low) * share_in_view(part, K, SIZE))
    assert sum(parts) == pytest.approx(share_in_view(box, K, SIZE), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(box=BOXES, wider=st.integers(0, 200))
def test_a_wider_picture_has_no_less_in_view(box: np.ndarray, wider: int) -> None:
    large = (SIZE[0] + wider, SIZE[1])
    assert share_in_view(box, K, large) >= share_in_view(box, K, SIZE) - 1e-12
    assert area_in_view(box, K, large) >= area_in_view(box, K, SIZE) * (1 - 1e-12)


def box(x: float, y: float, z: float, *size: float) -> list[float]:
    return [x, y, z, *size, 0, 0, 0]


SQUARE = np.array([[100, 0, 49.5], [0, 100, 49.5], [0, 0, 1.0]])


@pytest.mark.parametrize(
    ("item", "share", "area"),
    [
        pytest.param(box(0, 0, 5, 1, 1, 1), 1, (100 / 4.5) ** 2, id="within the picture"),
        pytest.param(box(2.5, 0, 5, 1, 1, 0), 0.5, 10 * 20, id="a plate that the right border halves"),
        pytest.param(box(0, -2.5, 5, 1, 1, 0), 0.5, 10 * 20, id="a plate that the upper border halves"),
        pytest.param(box(2.5, 2.5, 5, 1, 1, 0), 0.25, 10 * 10, id="a plate in a corner"),
        pytest.param(box(0, 0, -5, 1, 1, 1), 0, 0, id="behind the camera"),
        pytest.param(box(4, 0, 5, 1, 1, 1), 0, 0, id="beside the picture"),
        pytest.param(box(0, 0, 0, 1, 1, 1), 1 / 24, 100 * 100, id="around the camera"),
        pytest.param(box(0, 0, 0, 20, 20, 2), 1 / 2400, 100 * 100, id="around the camera, and wide"),
        pytest.param(box(0, 0, 5, 0, 0, 0), 1, 0, id="a point"),
        pytest.param(box(0, 0, 5, 0, 0, 2), 1, None, id="a line"),
        pytest.param(box(-2.5, 0, 5, 0, 1, 0), 0.5, 0, id="a line on the left border"),
        pytest.param(box(3, 0, 5, 0, 0, 0), 0, 0, id="a point beside the picture"),
    ],
)
def test_what_is_in_view(item: list[float], share: float, area: float | None) -> None:
    assert share_in_view(item, SQUARE, (100, 100)) == pytest.approx(share, abs=1e-5)
    if area is not None:
        assert area_in_view(np.array(item, float), SQUARE, (100, 100)) == pytest.approx(area, rel=1e-6, abs=1e-6)
        assert covered_share(np.array(item, float), SQUARE, (100, 100)) == pytest.approx(area / 1e4, abs=1e-9)


def test_all_of_a_box_is_exactly_one() -> None:
    # So that --in-view 1 means wholly in view.
    assert share_in_view(box(0.1, 0.1, 5, 0.3, 0.7, 1.1), SQUARE, (100, 100)) == 1.0


def test_thin_boxes_keep_their_digits() -> None:
    for thickness in (1e-3, 1e-5, 1e-8, 0):
        assert share_in_view(box(2.5, 0, 5, 1, 1, thickness), SQUARE, (100, 100)) == pytest.approx(0.5, abs=1e-4)


def test_the_whole_4x4_camera_of_the_annotations_serves() -> None:
    whole = np.eye(4)
    whole[:3, :3] = SQUARE
    assert share_in_view(box(2.5, 0, 5, 1, 1, 1), whole, (100, 100)) == share_in_view(
        box(2.5, 0, 5, 1, 1, 1), SQUARE, (100, 100)
    )


def test_a_polygon_is_cut_where_the_line_runs() -> None:
    triangle = np.array([[0.0, 0], [4, 0], [0, 4]])
    left = cut_polygon(triangle, 2 - triangle[:, 0])
    x, y = left.T
    area = abs(math.fsum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    assert area == pytest.approx(8 - 2)
    assert cut_polygon(triangle, -1 - triangle[:, 0]).shape == (0, 2)
    assert cut_polygon(triangle, triangle[:, 0]) is triangle
