from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rft3d_cli.geometry.boxes import (
    CORNER_SIGNS,
    EDGES,
    Boxes3D,
    angles_from_rotation,
    box_corners,
    points_in_box,
    rotation_from_angles,
    transform_boxes,
)
from rft3d_cli.geometry.camera import (
    assumed_intrinsic,
    invert_rigid,
    project_points,
    projected_bounds,
    scale_intrinsic,
    transform_points,
    unproject_depth,
    visible_edges,
)

PI = math.pi
CHAIR = [0.42, -0.31, 2.18, 0.55, 0.93, 0.57, 1.2, 0.1, -0.2]
BED = [1.0, 0.5, 3.0, 2.0, 1.5, 0.5, 0.0, 0.0, 0.0]
K = np.array([[100.0, 0, 50], [0, 120, 40], [0, 0, 1]])

angle = st.floats(-4, 4) | st.sampled_from([0.0, PI / 2, -PI / 2, PI, -PI, PI / 2 - 1e-9, PI / 2 + 1e-12])
angles = st.tuples(angle, angle, angle)
coordinate = st.floats(-5, 5)
box = st.tuples(*[coordinate] * 3, *[st.floats(0.01, 3)] * 3, *[angle] * 3).map(list)


def motion(turn: tuple[float, ...] = (0.4, -1.1, 2.5), shift: tuple[float, ...] = (3.0, -1.0, 0.5)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
    matrix[:3, 3] = shift
    return matrix


@settings(max_examples=100, deadline=None)
@given(angles)
def test_rotations_are_scipys_intrinsic_zxy(turn: tuple[float, float, float]) -> None:
    assert np.allclose(rotation_from_angles(turn), Rotation.from_euler("ZXY", turn).as_matrix(), rtol=0, atol=1e-14)


def test_rotations_are_not_scipys_extrinsic_zxy() -> None:
    turn = [0.5, 0.4, 0.3]
    assert np.abs(rotation_from_angles(turn) - Rotation.from_euler("zxy", turn).as_matrix()).max() > 0.1


@pytest.mark.parametrize(
    ("turn", "axis", "direction"),
    [
        pytest.param([PI / 2, 0, 0], 0, [0, 1, 0], id="a turns x to y"),
        pytest.param([0, PI / 2, 0], 1, [0, 0, 1], id="b turns y to z"),
        pytest.param([0, 0, PI / 2], 2, [1, 0, 0], id="c turns z to x"),
        pytest.param([PI / 2, PI / 2, 0], 1, [0, 0, 1], id="b about the turned x"),
        pytest.param([PI / 2, 0, PI / 2], 2, [0, 1, 0], id="c about the turned y"),
    ],
)
def test_columns_are_the_directions_of_the_axes(turn: list[float], axis: int, direction: list[float]) -> None:
    assert rotation_from_angles(turn)[:, axis] == pytest.approx(direction, abs=1e-15)


@settings(max_examples=150, deadline=None)
@given(angles)
def test_angles_reproduce_their_rotation_even_at_the_poles(turn: tuple[float, float, float]) -> None:
    rotation = rotation_from_angles(turn)
    again = angles_from_rotation(rotation)
    assert np.allclose(rotation_from_angles(again), rotation, rtol=0, atol=1e-14)
    assert (np.abs(again) <= [PI, PI / 2, PI]).all()


def test_rotations_and_angles_keep_leading_shapes() -> None:
    turns = np.zeros((2, 5, 3))
    assert rotation_from_angles(turns).shape == (2, 5, 3, 3)
    assert angles_from_rotation(rotation_from_angles(turns)).shape == (2, 5, 3)
    assert box_corners(np.ones((2, 5, 9))).shape == (2, 5, 8, 3)
    assert box_corners(np.zeros((0, 9))).shape == (0, 8, 3)


@settings(max_examples=60, deadline=None)
@given(box)
def test_corners_and_edges_span_the_box(numbers: list[float]) -> None:
    corners = box_corners(numbers)
    assert corners.mean(axis=0) == pytest.approx(numbers[:3], abs=1e-12)
    lengths = np.linalg.norm(corners[[i for i, _ in EDGES]] - corners[[j for _, j in EDGES]], axis=1)
    assert lengths == pytest.approx(np.repeat(numbers[3:6], 4), abs=1e-12)
    assert points_in_box(corners, numbers, margin=1e-9).all()
    inner, outer = (numbers[:3] + scale * (corners - numbers[:3]) for scale in (0.99, 1.01))
    assert points_in_box(inner, numbers).all()
    assert not points_in_box(outer, numbers).any()


def test_corners_follow_their_signs() -> None:
    assert box_corners([1, 2, 3, 2, 4, 6, 0, 0, 0]) == pytest.approx([1, 2, 3] + CORNER_SIGNS * [2, 4, 6])


@settings(max_examples=60, deadline=None)
@given(box)
def test_moving_a_box_moves_its_corners(numbers: list[float]) -> None:
    there = transform_boxes(numbers, motion())
    assert there[3:6].tolist() == numbers[3:6]
    assert np.allclose(box_corners(there), transform_points(box_corners(numbers), motion()), rtol=0, atol=1e-12)
    back = transform_boxes(there, invert_rigid(motion()))
    assert np.allclose(box_corners(back), box_corners(numbers), rtol=0, atol=1e-12)


def test_moving_leaves_the_input_alone() -> None:
    boxes = np.array([CHAIR, BED])
    transform_boxes(boxes, motion())
    assert boxes.tolist() == [CHAIR, BED]


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        pytest.param([CHAIR[:7]], None, r"shape \(N, 9\), not \(1, 7\)", id="seven numbers"),
        pytest.param(CHAIR, None, r"shape \(N, 9\), not \(9,\)", id="a box without a list"),
        pytest.param([[*CHAIR[:8], math.nan]], None, "finite", id="NaN"),
        pytest.param([[math.inf, *CHAIR[1:]]], None, "finite", id="infinity"),
        pytest.param([[0, 0, 0, 1, -1, 1, 0, 0, 0]], None, "negative", id="negative size"),
        pytest.param([CHAIR], ["chair", "bed"], "1 boxes but 2 labels", id="too many labels"),
        pytest.param([], ["chair"], "0 boxes but 1 labels", id="labels without boxes"),
    ],
)
def test_wrong_boxes_are_refused(boxes: list[list[float]], labels: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Boxes3D(boxes, labels)


def test_a_set_of_boxes_behaves_like_a_sequence() -> None:
    boxes = Boxes3D([CHAIR, BED, CHAIR], ["chair", "bed", "stool"])
    assert len(boxes) == 3
    assert [label for label, _ in boxes] == ["chair", "bed", "stool"]
    assert boxes[1:].labels == ("bed", "stool")
    assert boxes[[2, 0]].labels == ("stool", "chair")
    assert boxes[np.array([True, False, True])].labels == ("chair", "stool")
    assert len(boxes[[]]) == 0
    assert boxes.centres.tolist() == [CHAIR[:3], BED[:3], CHAIR[:3]]
    assert boxes.sizes[1].tolist() == BED[3:6]
    assert Boxes3D([]).corners().shape == (0, 8, 3)


def test_sets_of_boxes_compare_by_value() -> None:
    assert Boxes3D([CHAIR, BED], ["chair", "bed"]) == Boxes3D([CHAIR, BED], ["chair", "bed"])
    assert Boxes3D([CHAIR, BED], ["chair", "bed"]) != Boxes3D([BED, CHAIR], ["chair", "bed"])
    assert Boxes3D([CHAIR], ["chair"]) != Boxes3D([CHAIR], ["stool"])
    assert Boxes3D([CHAIR]) != Boxes3D([])
    assert Boxes3D([CHAIR]) != CHAIR


def test_a_set_of_boxes_is_a_frozen_copy() -> None:
    source = np.array([CHAIR])
    boxes = Boxes3D(source)
    source[0, 0] = 99
    assert boxes.boxes[0, 0] == CHAIR[0]
    with pytest.raises(ValueError, match="read-only"):
        boxes.boxes[0, 0] = 1


def test_boxes_from_rotations_and_from_embodiedscan() -> None:
    boxes = Boxes3D([CHAIR, BED], ["chair", "bed"])
    again = Boxes3D.from_rotations(boxes.centres, boxes.sizes, boxes.rotations(), boxes.labels)
    assert again.labels == boxes.labels
    assert np.allclose(again.boxes, boxes.boxes, rtol=0, atol=1e-14)
    instances = [{"bbox_3d": CHAIR, "bbox_label_3d": 7}, {"bbox_3d": BED, "bbox_label_3d": np.int64(3)}]
    assert Boxes3D.from_embodiedscan(instances, {3: "bed", 7: "chair"}) == boxes
    assert Boxes3D.from_embodiedscan([], {}) == Boxes3D([])


def test_a_set_of_boxes_moves_and_projects_as_its_parts() -> None:
    boxes = Boxes3D([CHAIR, BED], ["chair", "bed"])
    assert np.allclose(boxes.transform(motion()).corners(), transform_points(boxes.corners(), motion()))
    pixels, depth = boxes.project(K)
    assert pixels.shape == (2, 8, 2)
    assert depth == pytest.approx(boxes.corners()[..., 2])


@pytest.mark.parametrize(
    ("point", "pixel"),
    [
        pytest.param([0, 0, 2], [50, 40], id="on the axis"),
        pytest.param([1, 0, 2], [100, 40], id="right"),
        pytest.param([0, 1, 2], [50, 100], id="down"),
        pytest.param([0.5, -0.25, 1], [100, 10], id="near"),
    ],
)
def test_projection_by_hand(point: list[float], pixel: list[float]) -> None:
    four = np.eye(4)
    four[:3, :3] = K
    for intrinsic in (K, four):
        pixels, depth = project_points(point, intrinsic)
        assert pixels == pytest.approx(pixel)
        assert depth == point[2]


def test_points_in_the_camera_plane_project_to_finite_pixels() -> None:
    pixels, depth = project_points([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, -2.0]], K)
    assert np.isfinite(pixels).all()
    assert depth.tolist() == [0, 0, -2]


def test_depth_unprojects_to_points_that_project_back() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 4, (6, 8))
    depth[2, 3] = 0
    points = unproject_depth(depth, K)
    assert points[2, 3].tolist() == [0, 0, 0]
    known = depth > 0
    pixels, again = project_points(points[known], K)
    v, u = np.nonzero(known)
    assert np.allclose(pixels, np.stack([u, v], axis=1), rtol=0, atol=1e-10)
    assert again == pytest.approx(depth[known])


def test_inverse_of_a_float32_pose_is_an_inverse_in_float64() -> None:
    pose = motion().astype(np.float32)
    assert np.abs(invert_rigid(pose) @ pose.astype(np.float64) - np.eye(4)).max() < 1e-14
    assert invert_rigid(np.stack([motion(), np.eye(4)])).shape == (2, 4, 4)


@pytest.mark.parametrize("new", [(200, 160), (50, 40), (333, 77), (100, 80)])
def test_resizing_keeps_borders_at_borders(new: tuple[int, int]) -> None:
    old = (100, 80)
    scaled = scale_intrinsic(K, old, new)
    for u, v, there in [(-0.5, -0.5, (-0.5, -0.5)), (99.5, 79.5, (new[0] - 0.5, new[1] - 0.5))]:
        ray = [(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], 1]
        assert project_points(ray, scaled)[0] == pytest.approx(there)
    assert K[0, 0] == 100


@pytest.mark.parametrize("degrees", [40.0, 60.0, 90.0])
def test_an_assumed_camera_sees_its_angle(degrees: float) -> None:
    half = math.radians(degrees) / 2
    intrinsic = assumed_intrinsic(640, 480, degrees)
    right = project_points([math.tan(half), 0, 1], intrinsic)[0][0]
    left = project_points([-math.tan(half), 0, 1], intrinsic)[0][0]
    assert (left, right) == pytest.approx((-0.5, 639.5))


def test_edges_in_front_are_whole() -> None:
    edges = visible_edges([0, 0, 3, 1, 1, 1, 0, 0, 0], K)
    corners, depth = project_points(box_corners([0, 0, 3, 1, 1, 1, 0, 0, 0]), K)
    assert edges.shape == (12, 2, 3)
    assert edges[..., :2] == pytest.approx(corners[np.array(EDGES)])
    assert edges[..., 2] == pytest.approx(depth[np.array(EDGES)])


@pytest.mark.parametrize(
    ("numbers", "count"),
    [
        pytest.param([0, 0, 0.5, 1, 1, 2, 0, 0, 0], 8, id="around the camera"),
        pytest.param([0, 0, -3, 1, 1, 1, 0, 0, 0], 0, id="behind"),
        pytest.param([0, 0, 0.6, 1, 1, 1, 0, 0, 0], 12, id="just in front"),
        pytest.param([0, 0, 0.05, 0.1, 0.1, 1, 0, PI / 4, 0], 8, id="tilted through the near plane"),
    ],
)
def test_edges_are_cut_at_the_near_plane(numbers: list[float], count: int) -> None:
    edges = visible_edges(numbers, K)
    assert edges.shape == (count, 2, 3)
    assert (edges[..., 2] >= 0.05 - 1e-12).all()


def test_a_cut_edge_keeps_its_line() -> None:
    edges = visible_edges([0.3, 0.2, 0.5, 0.2, 0.2, 2, 0, 0, 0], K)
    cut = edges[np.abs(edges[..., 2].min(axis=1) - 0.05) < 1e-9]
    assert len(cut) == 4
    near = cut[np.arange(4), cut[..., 2].argmin(axis=1)]
    x = (near[:, 0] - 50) / 100 * near[:, 2]
    assert sorted(x.round(9)) == pytest.approx([0.2, 0.2, 0.4, 0.4])


@pytest.mark.parametrize(
    ("numbers", "bounds"),
    [
        pytest.param([0, 0, 2, 1, 0.5, 1e-9, 0, 0, 0], (25, 25, 75, 55), id="a flat square"),
        pytest.param([0, 0, 2.5, 1, 0.5, 1, 0, 0, 0], (25, 25, 75, 55), id="its near face counts"),
        pytest.param([0, 0, 2, 100, 100, 1e-9, 0, 0, 0], (-0.5, -0.5, 99.5, 79.5), id="larger than the image"),
        pytest.param([0, 0, 0, 1, 1, 1, 0, 0, 0], (-0.5, -0.5, 99.5, 79.5), id="camera inside"),
        pytest.param([-1, 0, 2, 1, 0.5, 1e-9, 0, 0, 0], (-0.5, 25, 25, 55), id="cut by the left border"),
        pytest.param([9, 0, 2, 1, 1, 1, 0, 0, 0], None, id="beside the image"),
        pytest.param([0, -9, 2, 1, 1, 1, 0, 0, 0], None, id="above the image"),
        pytest.param([0, 0, -2, 1, 1, 1, 0, 0, 0], None, id="behind"),
    ],
)
def test_bounds_in_the_image(numbers: list[float], bounds: tuple[float, ...] | None) -> None:
    found = projected_bounds(numbers, K, (100, 80))
    assert found == (None if bounds is None else pytest.approx(bounds, abs=1e-6))
