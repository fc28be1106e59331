from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.spatial.transform import Rotation

from rft3d_cli.benchmarks import detection
from rft3d_cli.benchmarks._detection_views import record_views
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import box_corners
from rft3d_cli.geometry.visibility import GRID, hidden_shares, in_view, share_in_view
from rft3d_cli.records import Record, parse_record

SIZE = (100, 80)
K = np.array([[80.0, 0, 49.5], [0, 90.0, 35.0], [0, 0, 1]])
BOXES = st.builds(
    lambda centre, size, angles: np.array([*centre, *size, *angles]),
    st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 6)),
    st.tuples(*[st.floats(0.0, 3)] * 3),
    st.tuples(*[st.floats(-3, 3)] * 3),
)


# ---- In view


def depth_within(box: np.ndarray, k: np.ndarray, size: tuple[int, int]) -> float:
    """How far inside the view the innermost point of a box lies, by linear programming; negative: apart."""
    turn = Rotation.from_euler("ZXY", box[6:]).as_matrix()
    # Variables: place along the box's axes, and the slack of every border.
    rows, limits = [], []
    for a, b in (((1, 0, 0), -0.5), ((-1, 0, 0), -(size[0] - 0.5)), ((0, 1, 0), -0.5), ((0, -1, 0), -(size[1] - 0.5))):
        # Pixel ``(k p) / z`` beyond the border: sign · (k p)_i ≥ limit · z.
        normal = np.array(a) @ k - b * k[2]
        normal = normal / np.linalg.norm(normal)
        rows.append([*(-normal @ turn), 1.0])
        limits.append(normal @ box[:3])
    bounds = [(-s / 2, s / 2) for s in box[3:6]] + [(None, 10.0)]
    found = linprog([0, 0, 0, -1.0], A_ub=rows, b_ub=limits, bounds=bounds)
    return float(-found.fun)


@settings(max_examples=80, deadline=None)
@given(box=BOXES)
def test_a_box_is_in_view_where_some_point_of_it_is(box: np.ndarray) -> None:
    depth = depth_within(box, K, SIZE)
    if abs(depth) > 1e-6:
        assert bool(in_view(box_corners(box), K, SIZE)) == (depth > 0)


@settings(max_examples=50, deadline=None)
@given(box=BOXES)
def test_a_share_in_view_is_in_view(box: np.ndarray) -> None:
    box[3:6] = box[3:6].clip(0.01)
    if share_in_view(box, K, SIZE) > 1e-6:
        assert in_view(box_corners(box), K, SIZE)


def test_many_boxes_are_seen_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate(
        [rng.uniform(-3, 4, (60, 3)), rng.uniform(0, 3, (60, 3)), rng.uniform(-3, 3, (60, 3))], axis=1
    )
    corners = box_corners(boxes)
    together = in_view(corners.reshape(6, 10, 8, 3), K, SIZE)
    assert together.shape == (6, 10)
    assert together.ravel().tolist() == [bool(in_view(one, K, SIZE)) for one in corners]
    assert 0 < together.sum() < 60
    assert in_view(np.zeros((0, 8, 3)), K, SIZE).shape == (0,)


# ---- Behind other boxes


def hidden_by_walking(box: np.ndarray, others: list[np.ndarray], steps: int = 1500) -> float:
    """The same share with small steps along each line of sight."""
    turn = Rotation.from_euler("ZXY", box[6:]).as_matrix()
    at = (np.arange(GRID) + 0.5) / GRID - 0.5
    found = []
    for x in at:
        for y in at:
            for z in at:
                point = turn @ (np.array([x, y, z]) * box[3:6]) + box[:3]
                pixel = K @ point
                if point[2] <= 0 or not (
                    -0.5 <= pixel[0] / pixel[2] <= SIZE[0] - 0.5 and -0.5 <= pixel[1] / pixel[2] <= SIZE[1] - 0.5
                ):
                    continue
                line = np.linspace(0, 1, steps)[:, None] * point
                behind = False
                for other in others:
                    local = (line - other[:3]) @ Rotation.from_euler("ZXY", other[6:]).as_matrix()
                    inside = (np.abs(local) <= other[3:6] / 2).all(axis=1)
                    behind |= bool(inside.any() and not inside[0] and not inside[-1])
                found.append(behind)
    return float(np.mean(found)) if found else float("nan")


def test_what_is_hidden_is_what_lines_of_sight_pass_through() -> None:
    rng = np.random.default_rng(3)
    differs = 0
    for _ in range(14):
        near = [
            np.array([*rng.uniform(-0.6, 0.6, 2), z, *rng.uniform(0.2, 0.9, 3), *rng.uniform(-2, 2, 3)])
            for z in (1.5, 2)
        ]
        far = np.array([*rng.uniform(-0.8, 0.8, 2), 3.5, *rng.uniform(0.4, 1.5, 3), *rng.uniform(-2, 2, 3)])
        share = hidden_shares(box_corners(far), box_corners(near), K, SIZE)[0]
        wanted = hidden_by_walking(far, near)
        assert share == pytest.approx(wanted, abs=2.5 / GRID**3, nan_ok=True)
        differs += bool(wanted not in (0.0, 1.0))
    assert differs > 3


def flat(x: float, y: float, z: float, *size: float) -> np.ndarray:
    return np.array([x, y, z, *size, 0, 0, 0])


TABLE = flat(0, 0, 3, 2, 2, 2)


@pytest.mark.parametrize(
    ("box", "other", "share"),
    [
        pytest.param(flat(0, 0, 3, 0.2, 0.2, 0.2), TABLE, 0, id="a chair within a table's box"),
        pytest.param(flat(0, 0, 6, 0.2, 0.2, 0.2), TABLE, 1, id="a chair behind a table"),
        pytest.param(TABLE, flat(0, 0, 6, 0.2, 0.2, 0.2), 0, id="what is behind hides nothing"),
        pytest.param(flat(0, 0, 3, 0.2, 0.2, 0.2), flat(0, 0, 0, 2, 2, 2), 0, id="the camera within the other box"),
        pytest.param(flat(0, 0, 6, 0.2, 0.2, 0.2), flat(0, 0, 3, 2, 2, 0), 0, id="a plate without volume"),
        pytest.param(flat(0, 0, 6, 0.2, 0.2, 0.2), flat(0, 0, -3, 2, 2, 2), 0, id="a box behind the camera"),
        pytest.param(TABLE, TABLE, 0, id="itself"),
        pytest.param(flat(0, 0, -6, 1, 1, 1), TABLE, np.nan, id="nothing in view"),
    ],
)
def test_hidden_shares(box: np.ndarray, other: np.ndarray, share: float) -> None:
    found = hidden_shares(box_corners(box), box_corners(other), K, SIZE)
    np.testing.assert_allclose(found, [share])


def test_several_boxes_hide_together_and_pairs_can_be_left_out() -> None:
    far = box_corners(flat(0, 0, 5, 1, 1, 1))
    halves = box_corners([flat(-0.52, 0, 2, 1, 3, 0.1), flat(0.48, 0, 2, 1, 3, 0.1)])
    assert hidden_shares(far, halves, K, SIZE).tolist() == [1]
    assert hidden_shares(far, halves, K, SIZE, same=[[True, False]]).round(6).tolist() == [0.666667]
    assert hidden_shares(far, np.zeros((0, 8, 3)), K, SIZE).tolist() == [0]


# ---- Records


def pose(x: float = 0.0, turned: float = 0.0) -> list[list[float]]:
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler("Y", turned, degrees=True).as_matrix()
    out[0, 3] = x
    return out.tolist()


def make(
    boxes: list[np.ndarray],
    poses: list[list[list[float]]] | None,
    name: str = "0",
    scene: str | None = None,
    **meta: Any,
) -> Record:
    camera = None
    if poses is not None:
        camera = {"intrinsic": K.tolist(), "image_size": SIZE, "cam_to_world": poses, "axis_align": np.eye(4).tolist()}
    frames = [f"{i}.jpg" for i in range(1 if poses is None else len(poses))]
    record = {
        "id": name,
        "task": "detection",
        "video": {"frames": frames},
        "prompt": "?",
        "target": {"boxes": [{"label": "chair", "bbox_3d": box.tolist()} for box in boxes]},
        "camera": camera,
        "meta": {"dataset": "flats", "scene": scene or name, **meta},
    }
    return parse_record(json.dumps(record))


FRONT, LEFT, BEHIND = flat(0, 0, 3, 1, 1, 1), flat(-4, 0, 0, 1, 1, 1), flat(0, 0, -4, 1, 1, 1)
SHADED = flat(0, 0, 6, 0.5, 0.5, 0.5)
TURN = [pose(), pose(turned=-90)]
"""The second frame looks along the first one's -x."""


@pytest.mark.parametrize(
    ("poses", "meta", "views", "rule"),
    [
        pytest.param(
            [pose()], {}, ["first_frame", "out_of_view", "out_of_view", "occluded"], "boxes_in_front", id="one"
        ),
        pytest.param(TURN, {}, ["first_frame", "later_frames", "out_of_view", "occluded"], "boxes_in_front", id="two"),
        pytest.param(
            [pose(), pose(x=3.0)],
            {},
            ["first_frame", "out_of_view", "out_of_view", "later_frames"],
            "boxes_in_front",
            id="a step aside shows what is behind",
        ),
        pytest.param(
            TURN,
            {"visible_frames": [[], [1], [], [0, 1]]},
            ["occluded", "later_frames", "out_of_view", "first_frame"],
            "visible_frames",
            id="the record knows better",
        ),
        pytest.param(
            [pose()],
            {"visible_frames": [[1], [7], [], []]},
            ["occluded", "out_of_view", "out_of_view", "occluded"],
            "visible_frames",
            id="frames that the clip does not have",
        ),
        pytest.param(None, {}, ["unknown"] * 4, "no_camera", id="no camera"),
        pytest.param([np.zeros((4, 4)).tolist()], {}, ["unknown"] * 4, "no_camera", id="a pose that cannot be undone"),
    ],
)
def test_where_targets_lie(poses: Any, meta: dict[str, Any], views: list[str], rule: str) -> None:
    found = record_views(make([FRONT, LEFT, BEHIND, SHADED], poses, **meta), [FRONT, None, BEHIND, SHADED])
    assert (found.targets, found.rule) == (views, rule)
    if poses is not None and rule != "no_camera":
        predicted = ["first_frame", "unknown", "out_of_view", "occluded"]
        assert found.predictions[:3] == predicted[:3]
        assert (found.predictions[3] == "occluded") == (len(poses) == 1 or poses == TURN)


@settings(max_examples=40, deadline=None)
@given(
    centres=st.lists(st.tuples(st.floats(-4, 4), st.floats(-2, 2), st.floats(-4, 6)), min_size=1, max_size=5),
    turns=st.lists(st.floats(-180, 180), min_size=1, max_size=4),
    world=st.tuples(*[st.floats(-3, 3)] * 3),
)
def test_views_follow_from_frames_one_by_one_in_any_world(
    centres: list[tuple[float, float, float]], turns: list[float], world: tuple[float, float, float]
) -> None:
    boxes = [flat(*centre, 0.6, 0.7, 0.8) for centre in centres]
    poses = [np.array(pose(turned=turn)) for turn in turns]
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = Rotation.from_euler("ZXY", world).as_matrix(), world
    found = record_views(make(boxes, [(moved @ one).tolist() for one in poses]), [])
    shown, viewed = np.zeros((len(poses), len(boxes)), bool), np.zeros((len(poses), len(boxes)), bool)
    sure = True
    for i, one in enumerate(poses):
        relative = np.linalg.inv(one) @ poses[0]
        corners = box_corners(boxes) @ relative[:3, :3].T + relative[:3, 3]
        for j, part in enumerate(corners):
            others = np.delete(corners, j, axis=0)
            viewed[i, j] = in_view(part, K, SIZE)
            share = hidden_shares(part, others, K, SIZE)[0]
            sure &= not 0.4 < share < 0.6 and bool(in_view(part * 1.001, K, SIZE)) == viewed[i, j]
            shown[i, j] = viewed[i, j] and not share > 0.5
    expected = [
        "first_frame" if now[0] else "later_frames" if now.any() else "occluded" if ever.any() else "out_of_view"
        for now, ever in zip(shown.T, viewed.T, strict=True)
    ]
    if sure:
        assert found.targets == expected


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("all", id="text"),
        pytest.param([[0]], id="too few"),
        pytest.param([[0]] * 5, id="too many"),
        pytest.param([0, 0, 0, 0], id="numbers"),
        pytest.param([[True]] * 4, id="booleans"),
        pytest.param([[0.0]] * 4, id="floats"),
        pytest.param([[-1]] * 4, id="before the first"),
    ],
)
def test_visible_frames_that_do_not_fit_are_named(value: Any) -> None:
    with pytest.raises(DataError, match=r"record 0: meta\.visible_frames is not a list of frame numbers"):
        detection.score([make([FRONT, LEFT, BEHIND, SHADED], TURN, visible_frames=value)], {})


# ---- The result


def say(*boxes: np.ndarray) -> str:
    lines = [json.dumps({"label": "chair", "bbox_3d": box.tolist()}) for box in boxes]
    return "```json\n[\n\t" + ",\n\t".join(lines) + "\n]```"


def shifted(box: np.ndarray, by: float) -> np.ndarray:
    return box + np.array([by, *[0] * 8])


def test_recall_and_wrong_boxes_by_view() -> None:
    record = make([FRONT, LEFT, BEHIND, SHADED], TURN)
    # Found well, found poorly (IoU 1/3), missed, found; two guesses out of view, one wrong box in view, one unusable.
    far = flat(0, 9, -9, 1, 1, 1)
    text = say(FRONT, shifted(LEFT, -0.5), SHADED, far, shifted(far, 3), flat(1, 0, 4, 0.2, 0.2, 0.2))
    text = text.replace("\n]", ',\n\t{"label": "chair", "bbox_3d": [1, 2]}\n]')
    for scorer in ("official", "robust"):
        found = detection.score([record], {"0": text}, scorer=scorer, intervals=False).document["visibility"]
        assert found["rule"] == {"visible_frames": 0, "boxes_in_front": 1, "no_camera": 0}
        rows = {
            name: (part["n"], part["recall@0.25"], part["recall@0.5"]) for name, part in found.items() if name != "rule"
        }
        assert rows == {
            "first_frame": (1, 100, 100),
            "later_frames": (1, 100, 0),
            "occluded": (1, 100, 100),
            "out_of_view": (1, 0, 0),
            "unknown": (0, None, None),
        }
        wrong = {name: (part["wrong@0.25"], part["wrong@0.5"]) for name, part in found.items() if name != "rule"}
        assert wrong == {
            "first_frame": (1, 1),
            "later_frames": (0, 1),
            "occluded": (0, 0),
            "out_of_view": (2, 2),
            "unknown": (1, 1),
        }
        assert found["out_of_view"]["wrong_share@0.25"] == 50
        assert found["out_of_view"]["wrong_share@0.5"] == 40


def test_views_add_up_to_the_pooled_counts() -> None:
    rng = np.random.default_rng(1)
    records, said = [], {}
    for i in range(30):
        boxes = [flat(*rng.uniform(-3, 3, 3), *rng.uniform(0.3, 1.5, 3)) for _ in range(rng.integers(0, 6))]
        poses = [pose(x, turn) for x, turn in zip(rng.uniform(-1, 1, 3), rng.uniform(-90, 90, 3), strict=True)]
        records.append(make(boxes, poses if i % 5 else None, name=str(i), scene=f"s{i % 7}"))
        said[str(i)] = say(
            *[shifted(box, rng.normal(0, 0.2)) for box in boxes if rng.random() < 0.8],
            flat(*rng.uniform(-3, 3, 6).clip(0.2)),
        )
    document = detection.score(records, said).document
    parts = [part for name, part in document["visibility"].items() if name != "rule"]
    assert len(parts) == 5
    for at, key in (("@0.25", None), ("@0.5", "at_0.5")):
        micro = document["micro"] if key is None else document[key]["micro"]
        assert sum(part["n"] for part in parts) == micro["tp"] + micro["fn"]
        assert sum(part[f"wrong{at}"] for part in parts) == micro["fp"]
        found = sum(part["n"] * part[f"recall{at}"] / 100 for part in parts if part["n"])
        assert found == pytest.approx(micro["tp"])
        assert sum(part[f"wrong_share{at}"] for part in parts) == pytest.approx(100)
    low, high = document["intervals"]["visibility.first_frame.recall@0.25"]
    assert low < document["visibility"]["first_frame"]["recall@0.25"] < high
    assert sum(document["visibility"]["rule"].values()) == len(records)


def test_views_can_be_left_out() -> None:
    record = make([FRONT, LEFT], TURN)
    full, bare = (detection.score([record], {"0": say(FRONT)}, visibility=asked) for asked in (True, False))
    assert bare.document["visibility"] == {}
    assert not any("visibility" in key for key in bare.document["intervals"])
    for key in ("micro", "at_0.5", "per_class", "mean_iou"):
        assert bare.document[key] == full.document[key]
    assert bare.details == full.details
    assert not any("frame" in row.name or "view" in row.name for row in bare.rows)
    assert any(row.name == "targets first_frame" for row in full.rows)
