from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iou_reference import exact_iou

from rft3d_cli.geometry.boxes import angles_from_rotation, rotation_from_angles, transform_boxes
from rft3d_cli.geometry.iou import box_iou, paired_iou

PI = math.pi
UNIT = [0.0, 0, 0, 1, 1, 1, 0, 0, 0]
TILTED = [1.5, -2, 0.7, 0.8, 1.3, 0.4, 0.3, -0.7, 2.1]
PAIRS = 14


def pair_by_pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The path for a few pairs, where long inputs would take the one for many."""
    return np.array([paired_iou(a[k : k + 1], b[k : k + 1])[0] for k in range(len(a))])


def changed(box: list[float], **values: float) -> list[float]:
    names = ["x", "y", "z", "dx", "dy", "dz", "a", "b", "c"]
    return [values.get(name, value) for name, value in zip(names, box, strict=True)]


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        pytest.param(UNIT, changed(UNIT, x=0.5), 1 / 3, id="half a cube"),
        pytest.param(UNIT, changed(UNIT, x=0.5, y=0.5, z=0.5), 1 / 15, id="an eighth of a cube"),
        pytest.param(UNIT, changed(UNIT, a=PI / 4), 1 / math.sqrt(2), id="octagon about z"),
        pytest.param(UNIT, changed(UNIT, b=PI / 4), 1 / math.sqrt(2), id="octagon about x"),
        pytest.param(UNIT, changed(UNIT, c=PI / 4), 1 / math.sqrt(2), id="octagon about y"),
        pytest.param(changed(UNIT, dx=2, dy=2, dz=2), changed(UNIT, a=1, b=2, c=3), 1 / 8, id="inside"),
        pytest.param(changed(UNIT, dx=2), changed(UNIT, dx=2, a=PI / 2), 1 / 3, id="cross"),
        pytest.param(changed(UNIT, dx=2), changed(UNIT, dy=2, a=PI / 2), 1, id="same box, axes renamed"),
        pytest.param(UNIT, changed(UNIT, a=PI / 2, b=PI, c=-PI / 2), 1, id="cube turned by right angles"),
        pytest.param(UNIT, changed(UNIT, x=0.99, y=0.99, z=0.99), 1e-6 / (2 - 1e-6), id="only corners meet"),
        pytest.param(UNIT, changed(UNIT, x=1), 0, id="shared face"),
        pytest.param(UNIT, changed(UNIT, x=1, y=1), 0, id="shared edge"),
        pytest.param(UNIT, changed(UNIT, x=1, y=1, z=1), 0, id="shared corner"),
        pytest.param(UNIT, changed(UNIT, x=0.5 + math.sqrt(0.5), a=PI / 4), 0, id="edge on face"),
        pytest.param(UNIT, changed(UNIT, x=0.25, dx=0.5), 0.5, id="flush half"),
        pytest.param(UNIT, changed(UNIT, x=0.95, y=0.95, a=PI / 4, b=0.3), 0, id="spheres meet, boxes do not"),
        pytest.param(changed(UNIT, dx=2, dy=2, dz=2), changed(UNIT, dx=1e-9, b=1), 1.25e-10, id="sheet within"),
        pytest.param(UNIT, changed(UNIT, x=1e9), 0, id="a gigametre away"),
    ],
)
def test_known_overlaps(a: list[float], b: list[float], iou: float) -> None:
    many = np.tile(a, (10, 1)), np.tile(b, (10, 1))
    assert paired_iou([a], [b])[0] == pytest.approx(iou, abs=1e-15)
    assert paired_iou(*many) == pytest.approx(np.full(10, iou), abs=1e-15)


@pytest.mark.parametrize("box", [pytest.param(UNIT, id="upright"), pytest.param(TILTED, id="tilted")])
@pytest.mark.parametrize("thickness", [1.0, 1e-3, 1e-12, 1e-29])
def test_a_box_and_itself_overlap_by_exactly_one(box: list[float], thickness: float) -> None:
    boxes = np.tile(changed(box, dy=thickness), (9, 1))
    assert paired_iou(boxes[:1], boxes[:1]).tolist() == [1.0]
    assert paired_iou(boxes, boxes).tolist() == [1.0] * 9


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            pytest.param({"dx": value}, id=f"size {value}")
            for value in (0, -0.0, -1, math.nan, math.inf, 1e-300, 1e300)
        ),
        *(pytest.param({"y": value}, id=f"centre {value}") for value in (math.nan, -math.inf, 1e308)),
        *(pytest.param({"c": value}, id=f"angle {value}") for value in (math.nan, math.inf)),
    ],
)
def test_boxes_without_a_volume_overlap_nothing(wrong: dict[str, float]) -> None:
    broken, fine = np.array([changed(UNIT, **wrong)]), np.tile(UNIT, (9, 1))
    assert paired_iou(broken, broken).tolist() == [0.0]
    mixed = np.concatenate([fine, broken, fine])
    assert paired_iou(mixed, mixed).tolist() == [1.0] * 9 + [0.0] + [1.0] * 9
    assert box_iou(mixed, mixed).sum() == 18 * 18
    assert box_iou(broken, mixed).sum() == 0


def room(rng: np.random.Generator) -> np.ndarray:
    parts = [rng.uniform(-3, 3, (PAIRS, 3)), rng.uniform(0.1, 2, (PAIRS, 3)), rng.uniform(-PI, PI, (PAIRS, 3))]
    return np.concatenate(parts, axis=1)


def moved(boxes: np.ndarray, rng: np.random.Generator, shift: float = 0.0, turn: float = 0.0) -> np.ndarray:
    out = boxes.copy()
    out[:, :3] += rng.normal(0, shift, (PAIRS, 3))
    out[:, 6:] += rng.normal(0, turn, (PAIRS, 3))
    return out


def along_own_axis(boxes: np.ndarray, share: float) -> np.ndarray:
    """Moved along the first axis by a share of the size there."""
    out = boxes.copy()
    out[:, :3] += rotation_from_angles(boxes[:, 6:])[:, :, 0] * boxes[:, 3:4] * share
    return out


def spelled_anew(boxes: np.ndarray) -> np.ndarray:
    """The same rotations to rounding error, in other angles."""
    out = boxes.copy()
    out[:, 6:] = angles_from_rotation(rotation_from_angles(boxes[:, 6:]))
    return out


def with_size(boxes: np.ndarray, axis: int, size: float | np.ndarray) -> np.ndarray:
    out = boxes.copy()
    out[:, 3 + axis] = size
    return out


def right_angles(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = boxes.copy()
    out[:, 6:] = rng.integers(-4, 5, (PAIRS, 3)) * PI / 2
    return out


def flush(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A shorter box against the low end of each box."""
    share = rng.uniform(0.2, 0.9, PAIRS)
    out = with_size(boxes, 0, boxes[:, 3] * share)
    out[:, :3] -= rotation_from_angles(boxes[:, 6:])[:, :, 0] * (boxes[:, 3] * (1 - share) / 2)[:, None]
    return out


def coplanar(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turned about the own third axis: two faces stay in their planes."""
    turn = rotation_from_angles(np.stack([rng.uniform(-3, 3, PAIRS), *np.zeros((2, PAIRS))], axis=1))
    out = boxes * np.array([1, 1, 1, 0.8, 1.2, 1, 1, 1, 1])
    out[:, 6:] = angles_from_rotation(rotation_from_angles(boxes[:, 6:]) @ turn)
    return out


def sheet(boxes: np.ndarray, wide: float, thick: float) -> np.ndarray:
    return with_size(with_size(with_size(boxes, 0, wide), 1, wide), 2, thick)


def needles(boxes: np.ndarray) -> np.ndarray:
    return boxes * np.array([1, 1, 1, 1e3, 1e-3, 1e-3, 1, 1, 1])


Category = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]

CATEGORIES: dict[str, Category] = {
    "unrelated": lambda a, r: (a, np.concatenate([a[:, :3] + r.normal(0, 0.3, (PAIRS, 3)), room(r)[:, 3:]], axis=1)),
    "nearly identical": lambda a, r: (a, a + r.normal(0, 1e-9, a.shape)),
    "good predictions": lambda a, r: (a, moved(a, r, 0.05, 0.05)),
    **{f"turned by 1e-{e}": lambda a, r, e=e: (a, moved(a, r, 0, 10.0**-e)) for e in (1, 2, 3, 4, 5, 6, 7, 10, 16)},
    "turned by a whole turn": lambda a, r: (a, a + np.array([0, 0, 0, 0, 0, 0, 2 * PI, 0, 0])),
    "two decimals": lambda a, r: (a, a.round(2)),
    "touching": lambda a, r: (a, along_own_axis(a, 1)),
    "touching, other angles": lambda a, r: (a, spelled_anew(along_own_axis(a, 1))),
    "shifted along a face": lambda a, r: (a, spelled_anew(along_own_axis(a, 0.4))),
    "flush": lambda a, r: (a, flush(a, r)),
    "flush, other angles": lambda a, r: (a, spelled_anew(flush(a, r))),
    "coplanar": lambda a, r: (a, coplanar(a, r)),
    "contained": lambda a, r: (a, moved(a, r, 0, 2) * np.array([1, 1, 1, 0.1, 0.1, 0.1, 1, 1, 1])),
    "right angles": lambda a, r: (right_angles(a, r), right_angles(moved(a, r, 0.2), r)),
    "poles of the angles": lambda a, r: (with_size(a, 4, PI / 2), moved(with_size(a, 4, PI / 2), r, 0, 1e-4)),
    "thin plates": lambda a, r: (with_size(a, 1, 1e-3), moved(with_size(a, 1, 1e-3), r, 3e-4, 3e-4)),
    "crossing plates": lambda a, r: (with_size(a, 0, 1e-6), moved(with_size(a, 1, 1e-6), r, 0, 1)),
    **{
        f"aspect 1e6, axis {axis}": lambda a, r, axis=axis: (
            with_size(a, axis, 1e-6),
            moved(with_size(a, axis, 1e-6), r, 1e-7, 1e-7),
        )
        for axis in range(3)
    },
    "aspect 1e6, other angles": lambda a, r: (with_size(a, 1, 1e-6), spelled_anew(with_size(a, 1, 1e-6))),
    "needles": lambda a, r: (needles(a), moved(needles(a), r, 1e-4, 1e-7)),
    "a sheet through furniture": lambda a, r: (a, sheet(moved(a, r, 0.05, 0.3), 1e3, 1e-9)),
    "a sheet larger than a city": lambda a, r: (a, sheet(moved(a, r, 0.05, 0.3), 1e6, 1e-13)),
    "a needle and a town": lambda a, r: (sheet(a, 1e-6, 1.0), sheet(moved(a, r, 0, 1), 1e5, 1e5)),
    "far from the origin": lambda a, r: (
        a + np.r_[[1e7] * 3, [0] * 6],
        moved(a + np.r_[[1e7] * 3, [0] * 6], r, 0.1, 0.1),
    ),
    "mountain and pebble": lambda a, r: (a * np.r_[1, 1, 1, [1e5] * 3, 1, 1, 1], moved(a, r, 0, 1)),
    "nanometres": lambda a, r: (a * np.r_[[1e-9] * 6, 1, 1, 1], moved(a * np.r_[[1e-9] * 6, 1, 1, 1], r, 1e-10, 0.1)),
    "no size": lambda a, r: (a, with_size(a, 2, 0.0)),
}


@pytest.mark.parametrize("name", CATEGORIES)
def test_overlap_agrees_with_sixty_digits(name: str) -> None:
    rng = np.random.default_rng(7)
    a, b = CATEGORIES[name](room(rng), rng)
    expected = np.array([exact_iou(x, y) for x, y in zip(a, b, strict=True)])
    assert np.abs(paired_iou(a, b) - expected).max() < 1e-9
    assert np.abs(paired_iou(b, a) - expected).max() < 1e-9
    assert np.abs(pair_by_pair(a, b) - expected).max() < 1e-9
    assert np.abs(np.diag(box_iou(a, b)) - expected).max() < 1e-9


def test_the_reference_agrees_with_closed_forms() -> None:
    assert exact_iou(UNIT, changed(UNIT, x=0.5)) == pytest.approx(1 / 3, abs=1e-16)
    assert exact_iou(UNIT, changed(UNIT, a=PI / 4)) == pytest.approx(1 / math.sqrt(2), abs=1e-15)
    assert exact_iou(UNIT, TILTED) == 0
    assert exact_iou(TILTED, TILTED) == 1


def test_rooms_agree_pair_by_pair() -> None:
    rng = np.random.default_rng(3)
    many = np.concatenate(
        [rng.uniform(0, 7, (400, 3)), rng.uniform(0.1, 1.5, (400, 3)), rng.normal(0, 2, (400, 3))], axis=1
    )
    iou = box_iou(many, many[:333])
    assert iou.shape == (400, 333)
    assert 2000 < (iou > 0).sum() < 20000
    i, j = np.nonzero(iou > 0)
    assert np.abs(paired_iou(many[i], many[j]) - iou[i, j]).max() < 1e-12
    i, j = rng.integers(0, 333, (2, 300))
    assert np.abs(pair_by_pair(many[i], many[j]) - iou[i, j]).max() < 1e-12
    assert np.abs(iou[:333] - iou[:333].T).max() < 1e-12


def test_small_calls_agree_with_large_ones() -> None:
    rng = np.random.default_rng(4)
    a, b = room(rng), moved(room(rng), rng)
    b[:, :3] = a[:, :3]
    whole = box_iou(a, b)
    for n, m in [(1, 1), (1, 7), (7, 1), (2, 3), (3, 3), (14, 1), (1, 14)]:
        assert np.abs(box_iou(a[:n], b[:m]) - whole[:n, :m]).max() < 1e-13


any_float = st.floats(allow_nan=True, allow_infinity=True)
awkward = st.sampled_from([0.0, -0.0, 1.0, 0.5, -1.0, PI / 2, PI, 1e-7, 1e-17, 1e-160, 5e-324, 1e-30, 1e30, 1e15])
size = st.floats(0.01, 5)
sane_box = st.tuples(*[st.floats(-2, 2)] * 3, *[size] * 3, *[st.floats(-4, 4)] * 3).map(list)
wild_box = st.lists(any_float | awkward, min_size=9, max_size=9)
odd_box = st.tuples(*[awkward] * 3, *[awkward.map(abs)] * 3, *[awkward] * 3).map(list)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(wild_box | odd_box | sane_box, min_size=1, max_size=12),
    st.lists(odd_box | sane_box, min_size=1, max_size=4),
)
def test_any_floats_give_a_number_in_range(a: list[list[float]], b: list[list[float]]) -> None:
    iou = box_iou(a, b)
    assert iou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1)).all()
    single = np.array([[paired_iou([x], [y])[0] for y in b] for x in a])
    assert ((single >= 0) & (single <= 1)).all()


@settings(max_examples=60, deadline=None)
@given(sane_box, sane_box)
def test_overlap_is_symmetric(a: list[float], b: list[float]) -> None:
    many = np.tile(a, (8, 1)), np.tile(b, (8, 1))
    forth = paired_iou([a], [b])[0]
    assert paired_iou([b], [a])[0] == pytest.approx(forth, abs=1e-11)
    assert paired_iou(*many) == pytest.approx(np.full(8, forth), abs=1e-11)
    assert paired_iou(*many[::-1]) == pytest.approx(np.full(8, forth), abs=1e-11)


@settings(max_examples=60, deadline=None)
@given(
    sane_box, sane_box, st.tuples(*[st.floats(-3, 3)] * 3), st.tuples(*[st.floats(-50, 50)] * 3), st.integers(-40, 40)
)
def test_overlap_survives_rigid_motion_and_scale(
    a: list[float], b: list[float], angles: tuple[float, ...], shift: tuple[float, ...], exponent: int
) -> None:
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation_from_angles(angles), shift
    pair = np.array([a, b])
    there = transform_boxes(pair, motion)
    there[:, :6] *= 2.0**exponent
    assert paired_iou(there[:1], there[1:])[0] == pytest.approx(paired_iou(pair[:1], pair[1:])[0], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(sane_box, sane_box, st.floats(0, 1), st.floats(0, 1))
def test_moving_straight_towards_a_target_never_lowers_overlap(
    box: list[float], target: list[float], near: float, far: float
) -> None:
    near, far = sorted([near, far])
    start, end = np.array(box), np.array(target)
    path = np.tile(start, (8, 1))
    path[:, :3] = end[:3] + np.linspace(near, far, 8)[:, None] * (start[:3] - end[:3])
    assert (np.diff(paired_iou(path, np.tile(end, (8, 1)))) < 1e-11).all()


@pytest.mark.parametrize("call", [pytest.param(box_iou, id="box_iou"), pytest.param(paired_iou, id="paired_iou")])
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(UNIT, id="one box without a list"),
        pytest.param([UNIT[:7]], id="seven numbers"),
        pytest.param([[*UNIT, 1.0]], id="ten numbers"),
        pytest.param([[UNIT]], id="three levels"),
        pytest.param([UNIT, UNIT[:8]], id="ragged"),
        pytest.param([[]], id="a box of no numbers"),
        pytest.param(1.0, id="a number"),
        pytest.param([["a"] * 9], id="words"),
    ],
)
def test_other_shapes_are_errors(call: Callable[..., np.ndarray], wrong: object) -> None:
    with pytest.raises(ValueError, match=r"shape|convert"):
        call(wrong, [UNIT])
    with pytest.raises(ValueError, match=r"shape|convert"):
        call([UNIT], wrong)


def test_pairs_need_partners() -> None:
    with pytest.raises(ValueError, match="2 boxes cannot be paired with 1"):
        paired_iou([UNIT, UNIT], [UNIT])


def test_empty_sets_give_empty_arrays() -> None:
    many = np.tile(UNIT, (20, 1))
    assert paired_iou([], []).shape == (0,)
    assert box_iou([], []).shape == (0, 0)
    assert box_iou([], many).shape == (0, 20)
    assert box_iou(many, np.zeros((0, 9))).shape == (20, 0)
    assert box_iou(many, []).dtype == np.float64


def test_inputs_of_any_number_type_are_read_and_left_alone() -> None:
    boxes = np.tile(np.array(TILTED, dtype=np.float32), (20, 1))
    boxes.flags.writeable = False
    assert (box_iou(boxes[::2], boxes) == 1).all()
    assert (box_iou(np.asfortranarray(boxes), boxes.tolist()) == 1).all()
    assert paired_iou([[0, 0, 0, 2, 2, 2, 0, 0, 0]], [[1, 0, 0, 2, 2, 2, 0, 0, 0]])[0] == pytest.approx(1 / 3)
