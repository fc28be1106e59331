from __future__ import annotations

import itertools

import numpy as np
import pytest
from distance_reference import axes, solved_distance
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.geometry.boxes import transform_boxes
from rft3d_cli.geometry.distance import CHUNK, box_distance


def box(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=float)


UNIT = box(0, 0, 0, 1, 1, 1, 0, 0, 0)
EIGHTH = np.pi / 4


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(UNIT, UNIT, 0, id="the same box"),
        pytest.param(UNIT, UNIT + box(1, 0, 0, 0, 0, 0, 0, 0, 0), 0, id="faces touch"),
        pytest.param(UNIT, UNIT + box(1, 1, 1, 0, 0, 0, 0, 0, 0), 0, id="corners touch"),
        pytest.param(UNIT, UNIT + box(0.5, 0.2, 0.1, 0, 0, 0, 0, 0, 0), 0, id="overlap"),
        pytest.param(UNIT, box(0.1, 0, 0, 0.2, 0.2, 0.2, 1, 2, 3), 0, id="one within the other"),
        pytest.param(UNIT, box(0, 0, 0, 9, 0.1, 0.1, 0.3, 0.2, 0), 0, id="a bar through a box, no corner inside"),
        pytest.param(UNIT, UNIT + box(3, 0, 0, 0, 0, 0, 0, 0, 0), 2, id="face to face"),
        pytest.param(UNIT, UNIT + box(4, 5, 0, 0, 0, 0, 0, 0, 0), 5, id="edge to parallel edge"),
        pytest.param(UNIT, UNIT + box(3, 3, 2, 0, 0, 0, 0, 0, 0), 3, id="corner to corner"),
        pytest.param(UNIT, box(3, 0, 0, 2, 2, 2, EIGHTH, 0, 0), 2.5 - 2**0.5, id="edge to face"),
        pytest.param(
            box(0, 0, 0, 1, 1, 4, EIGHTH, 0, 0),
            box(3, 0, 0, 1, 4, 1, 0, 0, EIGHTH),
            3 - 2**0.5,
            id="edge to crossing edge",
        ),
        pytest.param(box(0, 0, 0, 0, 0, 0, 1, 2, 3), box(0, 3, 4, 0, 0, 0, 0, 0, 0), 5, id="two points"),
        pytest.param(box(0, 0, 0, 4, 0, 0, 0, 0, 0), box(0, 0, 2, 0, 4, 0, 0, 0, 0), 2, id="two crossing lines"),
        pytest.param(box(0, 0, 0, 4, 4, 0, 0, 0, 0), box(0, 0, 0, 0, 0, 2, 0, 0, 0), 0, id="a line through a plate"),
        pytest.param(UNIT * 1e-6, UNIT * 1e-6 + box(3e-6, 0, 0, 0, 0, 0, 0, 0, 0), 2e-6, id="micrometres"),
    ],
)
def test_distances_that_can_be_told_by_hand(a: np.ndarray, b: np.ndarray, expected: float) -> None:
    assert box_distance(a, b) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert box_distance(b, a) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def random_pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    both = np.concatenate(
        [
            rng.uniform(-2, 2, (2, count, 3)),
            rng.uniform(0.05, 2.5, (2, count, 3)) * (rng.random((2, count, 3)) > 0.05),
            rng.uniform(-4, 4, (2, count, 3)) * (rng.random((2, count, 3)) > 0.3),
        ],
        axis=2,
    )
    return both[0], both[1]


def test_distances_are_those_of_a_solver_that_shares_no_code() -> None:
    a, b = random_pairs(500, 3)
    expected = [solved_distance(one, other) for one, other in zip(a, b, strict=True)]
    assert box_distance(a, b) == pytest.approx(expected, abs=1e-9)
    assert 0.3 < np.mean(np.array(expected) > 1e-6) < 0.95, "overlaps and gaps"


@pytest.mark.parametrize("tilt", [0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3])
def test_nearly_parallel_boxes_have_no_jump(tilt: float) -> None:
    other = box(0, 0, 2.5, 1, 3, 1, tilt, -tilt, tilt)
    assert box_distance(box(0, 0, 0, 3, 1, 2, 0, 0, 0), other) == pytest.approx(1.0, abs=4 * tilt + 1e-15)


numbers = st.floats(-3, 3)
sizes = st.floats(0, 3)
boxes = st.tuples(numbers, numbers, numbers, sizes, sizes, sizes, numbers, numbers, numbers).map(np.array)


@settings(max_examples=60, deadline=None)
@given(boxes, boxes, boxes)
def test_rigid_motion_and_order_change_nothing(a: np.ndarray, b: np.ndarray, motion: np.ndarray) -> None:
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = axes(motion), motion[:3]
    moved = box_distance(transform_boxes(b, move), transform_boxes(a, move))
    assert moved == pytest.approx(box_distance(a, b), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(boxes, boxes, st.integers(0, 2**31))
def test_no_two_points_are_closer_and_growing_brings_no_distance(a: np.ndarray, b: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clouds = [one[:3] + (rng.uniform(-0.5, 0.5, (200, 3)) * one[3:6]) @ axes(one).T for one in (a, b)]
    apart = np.linalg.norm(clouds[0][:, None] - clouds[1], axis=-1).min()
    assert box_distance(a, b) <= apart + 1e-12
    larger = a.copy()
    larger[3:6] += 0.2
    assert box_distance(larger, b) <= box_distance(a, b) + 1e-12
    assert box_distance(larger, b) >= box_distance(a, b) - 0.1 * 3**0.5 - 1e-12


def test_shapes_are_broadcast_and_pieces_fit_together() -> None:
    a, b = random_pairs(30, 1)
    table = box_distance(a[:, None], b[None])
    assert table.shape == (30, 30)
    assert CHUNK < 30 * 30
    for i, j in itertools.product(range(0, 30, 7), range(0, 30, 7)):
        assert table[i, j] == box_distance(a[i], b[j])
    assert box_distance(a, b) == pytest.approx(np.diag(table), abs=0)
    assert box_distance(np.empty((0, 9)), b[0]).shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(np.zeros(7), id="seven numbers"),
        pytest.param(np.float64(3), id="one number"),
        pytest.param(box(0, 0, 0, 1, 1, np.nan, 0, 0, 0), id="NaN"),
        pytest.param(box(np.inf, 0, 0, 1, 1, 1, 0, 0, 0), id="infinite"),
        pytest.param(box(0, 0, 0, 1, -1, 1, 0, 0, 0), id="negative size"),
        pytest.param(np.zeros((2, 3, 9)), id="shapes that do not fit"),
    ],
)
def test_what_is_no_box_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"box|shape"):
        box_distance(np.zeros((4, 9)), wrong)
