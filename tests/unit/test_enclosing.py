from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.geometry.boxes import rotation_from_angles, transform_boxes
from rft3d_cli.geometry.enclosing import diou, giou
from rft3d_cli.geometry.iou import paired_iou

CUBE = [0, 0, 0, 1, 1, 1, 0, 0, 0]
numbers = st.floats(-3, 3)
sizes = st.floats(0.05, 3)
boxes = st.tuples(numbers, numbers, numbers, sizes, sizes, sizes, numbers, numbers, numbers).map(list)


def moved(box: list[float], angles: list[float], shift: list[float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation_from_angles(angles), shift
    return transform_boxes(np.array([box]), matrix)


@pytest.mark.parametrize(
    ("other", "hull", "ends"),
    [
        pytest.param(CUBE, 1.0, 3.0, id="the same"),
        pytest.param([2, 0, 0, 1, 1, 1, 0, 0, 0], 3.0, 11.0, id="one apart"),
        pytest.param([0.5, 0, 0, 1, 1, 1, 0, 0, 0], 1.5, 4.25, id="half over"),
        pytest.param([0, 0, 0, 3, 3, 3, 0, 0, 0], 27.0, 27.0, id="inside"),
        pytest.param([1, 1, 1, 1, 1, 1, 0, 0, 0], 4.0, 12.0, id="corner to corner"),
        pytest.param([0, 0, 5, 1, 1, 1, np.pi / 2, 0, 0], 6.0, 38.0, id="turned by a right angle"),
    ],
)
def test_values_that_can_be_worked_out_by_hand(other: list[float], hull: float, ends: float) -> None:
    iou = paired_iou([CUBE], [other])[0]
    union = (1 + np.prod(other[3:6])) / (1 + iou)
    assert giou([CUBE], [other])[0] == pytest.approx(iou - (hull - union) / hull, abs=1e-12)
    apart = float(np.sum(np.square(other[:3])))
    assert diou([CUBE], [other])[0] == pytest.approx(iou - apart / ends, abs=1e-12)


@given(boxes, boxes)
@settings(max_examples=60, deadline=None)
def test_neither_exceeds_iou_and_both_are_symmetric(a: list[float], b: list[float]) -> None:
    iou = paired_iou([a], [b])
    for metric in (giou, diou):
        value = metric([a], [b])
        assert -1 <= value[0] <= iou[0] + 1e-12
        assert value[0] == pytest.approx(metric([b], [a])[0], abs=1e-9)
        assert metric([a], [a])[0] == pytest.approx(1)


@given(boxes, boxes, st.tuples(numbers, numbers, numbers), st.tuples(numbers, numbers, numbers))
@settings(max_examples=40, deadline=None)
def test_rigid_motion_changes_nothing(
    a: list[float], b: list[float], angles: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    one, other = moved(a, list(angles), list(shift)), moved(b, list(angles), list(shift))
    for metric in (giou, diou):
        assert metric(one, other)[0] == pytest.approx(metric([a], [b])[0], abs=1e-8)


@pytest.mark.parametrize("thin", [1e-3, 1e-6, 1e-9])
def test_plates_are_as_exact_as_cubes(thin: float) -> None:
    plate = [0, 0, 0, 1, 1, thin, 0, 0, 0]
    assert giou([plate], [[2, 0, 0, 1, 1, thin, 0, 0, 0]])[0] == pytest.approx(-1 / 3, abs=1e-6)
    assert giou([plate], [plate])[0] == pytest.approx(1)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([1, 1, 1, 1e-20, 1e-20, 1e-20, 0, 0, 0], id="too small for its place"),
        pytest.param([3, 2, 1, 1, 1, 1e-17, 0.3, 0.4, 0.5], id="a tilted sheet"),
        pytest.param([1e6, -1e6, 3, 0.2, 0.3, 0.4, 1, 2, 3], id="far from the origin"),
    ],
)
def test_boxes_at_the_edge_of_rounding_have_a_value(box: list[float]) -> None:
    for metric in (giou, diou):
        assert metric([box], [box])[0] == pytest.approx(1)
        assert -1 <= metric([box], [CUBE])[0] <= 0.5


def test_farther_boxes_score_less_where_iou_is_0() -> None:
    away = np.array([[x, 0, 0, 1, 1, 1, 0.3, 0, 0] for x in (2, 3, 5, 9, 40)])
    same = np.tile(CUBE, (5, 1))
    assert not paired_iou(same, away).any()
    for metric in (giou, diou):
        values = metric(same, away)
        assert (np.diff(values) < 0).all()
        assert values.min() > -1


def test_boxes_that_are_none_get_the_worst_value() -> None:
    broken = [[0, 0, 0, 0, 1, 1, 0, 0, 0], [np.nan, *CUBE[1:]], [0, 0, 0, -1, 1, 1, 0, 0, 0]]
    for metric in (giou, diou):
        assert metric(broken, [CUBE] * 3).tolist() == [-1.0] * 3
        assert metric([], []).shape == (0,)
        with pytest.raises(ValueError, match="cannot be paired"):
            metric([CUBE], [CUBE, CUBE])
