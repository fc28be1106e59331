from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from vgllm_files import ORDER, Room, corners, in_camera, look, two, yawed

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import box_corners, rotation_from_angles
from rft3d_cli.geometry.eras import ERAS, converted, differs, rotations
from rft3d_cli.prepare._vgllm_angles import Witnesses, by_common_axis, by_overlap, by_pair, by_world

angle = st.floats(-3.14, 3.14, allow_nan=False)
BOX = [0.5, -0.2, 3.0, 1.0, 2.0, 0.5]


# ---- The two conventions


@given(st.tuples(angle, angle, angle))
@settings(max_examples=60, deadline=None)
def test_the_eras_are_scipys_upper_and_lower_case(angles: tuple[float, float, float]) -> None:
    for era in ERAS:
        expected = Rotation.from_euler(ORDER[era], angles).as_matrix()
        assert rotations([*BOX, *angles], era) == pytest.approx(expected, abs=1e-12)


@given(st.tuples(angle, angle, angle))
@settings(max_examples=60, deadline=None)
def test_a_converted_box_is_where_it_was(angles: tuple[float, float, float]) -> None:
    box = np.array([*BOX, *angles])
    assert box_corners(converted(box, "extrinsic")) == pytest.approx(corners(box, "extrinsic"), abs=1e-3)
    assert converted(box, "intrinsic").tolist() == box.tolist()


def test_the_gimbal_lock_of_either_convention_is_converted() -> None:
    for middle in (np.pi / 2, -np.pi / 2):
        box = np.array([*BOX, 0.4, middle, 0.3])
        turned = rotation_from_angles(converted(box, "extrinsic")[6:9])
        assert turned == pytest.approx(rotations(box, "extrinsic"), abs=1e-9)


def test_boxes_turned_about_one_axis_mean_the_same_in_both_eras() -> None:
    boxes = np.array([[*BOX, 0, 0, 0], [*BOX, 1.2, 0, 0], [*BOX, 0, 0.7, 0], [*BOX, 0, 0.7, 0.1]])
    assert differs(boxes).tolist() == [False, False, False, True]
    assert converted(boxes, "extrinsic")[:3].tolist() == boxes[:3].tolist()
    assert converted(np.zeros((0, 9)), "extrinsic").shape == (0, 9)


# ---- What a row shows


@pytest.mark.parametrize("rounded", [False, True], ids=["full", "two decimals"])
@pytest.mark.parametrize("era", ERAS)
def test_each_kind_of_row_shows_its_era(era: str, rounded: bool) -> None:
    for seed in range(5):
        room = Room(seed, pieces=8)
        boxes = np.array([two(box) if rounded else box for box in room.boxes(era)])
        assert by_common_axis(boxes) == era
        assert by_world(boxes, room.placed[0]) == era
        seen = []
        for piece in (1, 2):
            world = np.array(room.world(piece))
            box = in_camera(world[:3], world[3:6], np.eye(3), room.placed[0], era)
            seen.append((np.array(two(box) if rounded else box), world))
        assert by_overlap(*seen[0][:1], room.placed[0], seen[0][1]) in (era, None)
        assert by_pair(*seen) in (era, None)


def test_an_old_row_repeats_its_last_two_numbers() -> None:
    # What the data formats say of old rows, which the test for a common axis stands on.
    boxes = np.array(Room(3, free=0).boxes("extrinsic"))
    # Up to a full turn: a level camera's last number is at π, where its sign is chance.
    for wave in (np.cos, np.sin):
        assert np.ptp(wave(boxes[:, 7:9]), axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert np.ptp(boxes[:, 6]) > 0.5
    assert by_common_axis(boxes) == "extrinsic"


@pytest.mark.parametrize("era", ERAS)
def test_no_row_of_many_is_a_witness_of_the_wrong_era(era: str) -> None:
    rng = np.random.default_rng(11)
    found = {None: 0, era: 0}
    for _ in range(60):
        count = int(rng.integers(2, 10))
        # Furniture along the walls, a little askew, one piece in ten lying as it likes.
        yaws = np.radians(rng.choice([0, 90, 180, -90], count) + rng.normal(0, 2, count))
        turns = [yawed(y) if rng.random() > 0.1 else Rotation.random(random_state=rng).as_matrix() for y in yaws]
        placed = look([0, 0, 1.5], [*rng.uniform(-2, 2, 2), rng.uniform(-0.5, 1.4)])
        placed[:3, :3] = placed[:3, :3] @ yawed(rng.normal(0, 0.1))
        boxes = [two(in_camera(rng.uniform(-2, 2, 3), rng.uniform(0.1, 2, 3), r, placed, era)) for r in turns]
        for verdict in (by_common_axis(np.array(boxes)), by_world(np.array(boxes), placed)):
            found[verdict] = found.get(verdict, 0) + 1
    assert set(found) == {None, era}
    assert found[era] > 80


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "turns",
    [
        pytest.param([0.3], id="one box"),
        pytest.param([0.3] * 5, id="all turned alike"),
        pytest.param([0.3, 0.32, 0.34], id="nearly alike"),
    ],
)
def test_rows_that_cannot_tell_say_so(era: str, turns: list[float]) -> None:
    placed = look([0, -3, 1.5], [0.4, 0, 0.5])
    boxes = np.array([in_camera([i, 0, 1], [1, 1, 1], yawed(yaw), placed, era) for i, yaw in enumerate(turns)])
    assert by_common_axis(boxes) is None


@pytest.mark.parametrize("era", ERAS)
def test_a_camera_that_looks_straight_down_cannot_tell(era: str) -> None:
    placed = np.diag([1.0, -1, -1, 1])
    placed[:3, :3] = placed[:3, :3] @ yawed(0.2)
    placed[2, 3] = 3
    boxes = np.array([in_camera([i, 0, 1], [1, 1, 1], yawed(0.7 * i), placed, era) for i in range(4)])
    assert not differs(boxes).any() or by_common_axis(boxes) is None


def test_boxes_that_lie_as_they_like_cannot_tell() -> None:
    turns = Rotation.random(8, random_state=2).as_matrix()
    placed = look([0, -3, 1.5], [0.4, 0, 0.5])
    boxes = np.array([in_camera([i, 0, 1], [1, 1, 1], turn, placed, "intrinsic") for i, turn in enumerate(turns)])
    assert by_common_axis(boxes) is None
    assert by_world(boxes, placed) is None


def test_objects_that_are_close_or_do_not_fit_cannot_tell() -> None:
    room = Room(1)
    world = np.array(room.world(1))
    box = np.array(in_camera(world[:3], world[3:6], np.eye(3), room.placed[0], "intrinsic"))
    assert by_pair((box, world), (box, world)) is None
    elsewhere = world + np.array([2.0, *[0.0] * 8])
    assert by_pair((box, world), (box, elsewhere)) is None
    assert by_overlap(box, room.placed[0], elsewhere) is None


# ---- What a file shows


def witnesses(new: int, old: int, silent: int = 0) -> Witnesses:
    out = Witnesses()
    for row in range(new + old + silent):
        out.add("test", row, "intrinsic" if row < new else "extrinsic" if row < new + old else None)
    return out


@pytest.mark.parametrize(
    ("new", "old", "silent", "era"),
    [
        pytest.param(5, 0, 0, "intrinsic", id="all new"),
        pytest.param(0, 5, 0, "extrinsic", id="all old"),
        pytest.param(1, 0, 900, "intrinsic", id="one that can tell"),
        pytest.param(1000, 5, 10, "intrinsic", id="few dissenters"),
        pytest.param(0, 0, 0, None, id="no turned box"),
    ],
)
def test_the_rows_that_can_tell_decide(new: int, old: int, silent: int, era: str | None) -> None:
    found = witnesses(new, old, silent)
    assert found.decide(Path("a.json"), None) == era
    assert len(found.against(era)) == (min(new, old) if era else 0)
    for option in ERAS:
        assert found.decide(Path("a.json"), option) == option


@pytest.mark.parametrize(
    ("new", "old", "silent", "words"),
    [
        pytest.param(0, 0, 7, "none of 7 rows", id="none can tell"),
        pytest.param(60, 40, 7, "60 rows intrinsic, 40 extrinsic", id="mixed"),
        pytest.param(97, 3, 0, "97 rows intrinsic, 3 extrinsic", id="three in a hundred"),
        pytest.param(1, 1, 0, "1 rows intrinsic, 1 extrinsic", id="one each"),
    ],
)
def test_a_file_that_shows_none_or_both_is_refused(new: int, old: int, silent: int, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        witnesses(new, old, silent).decide(Path("a.json"), None)
    assert caught.value.hint is not None
    assert "--angles intrinsic" in caught.value.hint
    assert "--angles extrinsic" in caught.value.hint


def test_the_card_gets_all_counts() -> None:
    assert witnesses(3, 1, 2).document() == {"test": {"intrinsic": 3, "extrinsic": 1, "undetermined": 2}}
