from __future__ import annotations

import json
import math
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rft3d_cli.answers import detection_answer, grounding_answer
from rft3d_cli.errors import UsageError
from rft3d_cli.geometry.boxes import rotation_from_angles, transform_boxes
from rft3d_cli.geometry.iou import box_iou
from rft3d_cli.records import Record, parse_record
from rft3d_cli.rewards import RewardSet, as_trl, get, names
from rft3d_cli.rewards.reasoning import MRA_LIMITS, mean_relative_accuracy
from rft3d_cli.rewards.registry import TOGETHER

Box = tuple[float, ...]
Items = list[tuple[str, Box]]

DETECTION = ("det_iou", "det_f1", "det_soft_f1")
UNIT = (0.0, 0.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)


def make(task: str, target: Any, **more: Any) -> Record:
    record = {"schema": 1, "id": "r", "task": task, "video": {"path": "a.mp4"}, "prompt": "?", "target": target}
    return parse_record(json.dumps({**record, **more}))


def detection(items: Items) -> Record:
    return make("detection", {"boxes": [{"label": label, "bbox_3d": list(box)} for label, box in items]})


def pose(angles: Any = (0.0, 0.0, 0.0), place: Any = (0.0, 0.0, 0.0)) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation_from_angles(angles), place
    return out


def grounding(frame: int, box: Box, poses: list[np.ndarray], axis_align: np.ndarray) -> Record:
    camera = {
        "intrinsic": np.eye(3).tolist(),
        "image_size": [640, 480],
        "cam_to_world": [p.tolist() for p in poses],
        "axis_align": axis_align.tolist(),
    }
    world = transform_boxes(box, axis_align @ poses[frame]).tolist()
    return make("grounding", {"frame": frame, "bbox_3d": list(box), "bbox_world": world}, camera=camera)


CLIP = [pose((0.3 * i, -1.5, 0.1), (0.2 * i, 1.0, 1.5)) for i in range(8)]
ALIGN = pose((0.7, 0.0, 0.0), (-2.0, 1.0, 0.0))
GROUND = grounding(3, (0.5, -0.2, 2.5, 0.6, 0.8, 1.1, 0.4, -0.3, 0.2), CLIP, ALIGN)
CHOICE = make("choice", {"letter": "B", "options": ["A. left", "B. right"]})
NUMBER = make("number", {"value": 4})


def text_of(items: Items, decimals: int | None = None) -> str:
    return detection_answer([label for label, _ in items], [box for _, box in items], decimals)


def value(name: str, text: str, record: Record, **options: Any) -> float:
    score = get(name)(text, record, **options)
    assert score is not None
    assert 0 <= score.value <= 1
    assert all(math.isfinite(part) for part in score.parts.values())
    return score.value


labels = st.sampled_from(["chair", "table", "lamp"])
centres = st.floats(-3, 3).map(lambda x: round(x, 3))
sizes = st.floats(0.05, 2).map(lambda x: round(x, 3))
angles = st.floats(-3, 3).map(lambda x: round(x, 3))
boxes = st.tuples(*[centres] * 3, *[sizes] * 3, *[angles] * 3)
scenes = st.lists(st.tuples(labels, boxes), min_size=1, max_size=5)
few = settings(max_examples=25, deadline=None)


def noisy(items: Items, seed: int, scale: float = 0.3) -> Items:
    rng = np.random.default_rng(seed)
    out = []
    for label, box in items:
        array = np.array(box) + rng.normal(0, scale, 9) * ([1] * 3 + [0.3] * 3 + [0.2] * 3)
        array[3:6] = np.abs(array[3:6]) + 0.05
        out.append((label, tuple(array.round(3).tolist())))
    return out


@given(scenes)
@few
def test_the_detection_target_scores_itself_exactly_1(items: Items) -> None:
    for name in DETECTION:
        assert value(name, text_of(items), detection(items)) == 1.0


def test_a_target_that_holds_one_object_twice_still_scores_1() -> None:
    items = [("chair", UNIT), ("chair", UNIT), ("table", UNIT)]
    for name in DETECTION:
        assert value(name, text_of(items), detection(items)) == 1.0


@given(boxes, st.integers(0, 7), angles, angles)
@few
def test_the_grounding_target_scores_itself_exactly_1(box: Box, frame: int, turn: float, tilt: float) -> None:
    poses = [pose((turn + i, tilt, 0.2), (i, -i, 1)) for i in range(8)]
    record = grounding(frame, box, poses, pose((turn, 0, 0), (1, 2, 0)))
    for name in ("format", "ground_frame", "ground_iou", "ground_near"):
        assert value(name, grounding_answer(frame, box, None), record) == 1.0


def test_the_two_decimal_text_scores_the_rounding_ceiling() -> None:
    rng = np.random.default_rng(0)
    sizes_ = rng.uniform(0.2, 1.5, (300, 3))
    items = [
        ("chair", tuple(np.concatenate([rng.uniform(-50, 50, 3), size, rng.uniform(-1.5, 1.5, 3)]))) for size in sizes_
    ]
    ceiling = np.mean([value("det_iou", text_of([item], 2), detection([item])) for item in items])
    assert 0.94 < ceiling < 0.995


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="no text"),
        pytest.param(" \n", id="blank"),
        pytest.param("I do not know.", id="prose"),
        pytest.param("[", id="bracket"),
        pytest.param("{}", id="empty object"),
        pytest.param("<think>", id="thinking"),
        pytest.param("<think></think><answer></answer>", id="empty tags"),
        pytest.param('[{"label": "chair", "bbox_3d": [NaN, 0, 0, 1, 1, 1, 0, 0, 0]}]', id="NaN"),
        pytest.param('{"frame": 1e999, "bbox_3d": [1e999, 0, 0, 1, 1, 1, 0, 0, 0]}', id="1e999"),
        pytest.param('{"frame": 3, "bbox_3d": [1, 0, 0, 1, 1, 1, 0, 0]}', id="eight numbers"),
        pytest.param("\x00\ud800٣", id="odd characters"),
        pytest.param("nan", id="nan"),
    ],
)
def test_an_unreadable_answer_scores_0_by_every_reward(text: str) -> None:
    for record in (detection([("chair", UNIT)]), detection([]), GROUND, CHOICE, NUMBER):
        for name in names(record.task):
            score = get(name)(text, record)
            assert score is not None
            assert (score.value, bool(score.why)) == (0, True), name


@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from([*'[]{},:"1eNa\\<>', "label"])).map("".join)))
@settings(max_examples=100, deadline=None)
def test_no_text_makes_a_reward_raise(text: str) -> None:
    for record in (detection([("chair", UNIT)]), detection([]), GROUND, CHOICE, NUMBER):
        for name in names(record.task):
            value(name, text, record)


@pytest.mark.parametrize("unit", ["[", '{"label":', '[{"bbox_3d":[1,', "<think>", "9", "A or "], ids=repr)
def test_a_megabyte_of_anything_is_scored_in_bounded_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    for record in (detection([("chair", UNIT)]), GROUND, CHOICE, NUMBER):
        for name in names(record.task):
            value(name, text, record)
    assert time.process_time() - start < 20


def test_a_flood_of_boxes_is_scored_in_bounded_time() -> None:
    rng = np.random.default_rng(0)
    items = [("chair", (*rng.uniform(-3, 3, 3).round(2), 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)) for _ in range(3000)]
    start = time.process_time()
    for name in DETECTION:
        value(name, text_of(items), detection([("chair", UNIT)]))
    assert time.process_time() - start < 10


def test_nothing_to_find_wants_an_explicit_empty_list() -> None:
    for name in (*DETECTION, "format"):
        assert value(name, "[]", detection([])) == 1
        assert value(name, detection_answer([], []), detection([])) == 1
        assert value(name, "nothing", detection([])) == 0
    for name in DETECTION:
        assert value(name, text_of([("chair", UNIT)]), detection([])) == 0
        assert value(name, "[]", detection([("chair", UNIT)])) == 0


@given(scenes, st.integers(0, 99), st.randoms(use_true_random=False))
@few
def test_the_order_of_boxes_does_not_matter(items: Items, seed: int, random: Any) -> None:
    predicted = noisy(items, seed) + noisy(items[:2], seed + 1)
    shuffled = list(predicted)
    random.shuffle(shuffled)
    for name in DETECTION:
        assert value(name, text_of(shuffled), detection(items)) == value(name, text_of(predicted), detection(items))


@given(scenes, st.integers(0, 99), st.integers(0, 9))
@few
def test_a_duplicate_or_a_far_box_never_raises_a_reward(items: Items, seed: int, which: int) -> None:
    predicted = noisy(items, seed)
    duplicate = [*predicted, predicted[which % len(predicted)]]
    far = [*predicted, (items[0][0], (90.0, *UNIT[1:]))]
    for name in DETECTION:
        base = value(name, text_of(predicted), detection(items))
        assert value(name, text_of(duplicate), detection(items)) <= base
        assert value(name, text_of(far), detection(items)) <= base


def test_a_duplicate_does_not_take_a_second_target() -> None:
    items = [("chair", UNIT), ("chair", (0.2, *UNIT[1:]))]
    one, two = text_of(items[:1]), text_of([items[0], items[0]])
    for name in DETECTION:
        assert value(name, two, detection(items)) == value(name, one, detection(items))


MALFORMED = [
    '{"label": "chair", "bbox_3d": [1, 2]}',
    '{"label": "chair"}',
    '{"label": "chair", "bbox_3d": [NaN, 0, 0, 1, 1, 1, 0, 0, 0]}',
    '{"label": "chair", "bbox_3d": [0, 0, 0, -1, 1, 1, 0, 0, 0]}',
    '{"label": 5, "bbox_3d": [0, 0, 0, 1, 1, 1, 0, 0, 0]}',
    '{"bbox_3d": [0, 0, 0, 1, 1, 1, 0, 0, 0]}',
    '{"lable": "chair", "box": [0, 0, 0, 1, 1, 1, 0, 0, 0]}',
    "[0, 0, 0, 1, 1, 1, 0, 0, 0]",
    '{"label": "chair", "bbox_3d": [0, 0, 0, 1',
]


@pytest.mark.parametrize("malformed", MALFORMED)
@given(scenes, st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_a_malformed_box_costs_at_least_as_much_as_a_wrong_one(malformed: str, items: Items, seed: int) -> None:
    predicted = [json.dumps({"label": label, "bbox_3d": box}) for label, box in noisy(items, seed, 0.1)]
    wrong = json.dumps({"label": "chair", "bbox_3d": (90.0, *UNIT[1:])})
    record = detection(items)
    for name in (*DETECTION, "format"):
        bad = value(name, "[" + ", ".join([*predicted, malformed]) + "]", record)
        assert bad <= value(name, "[" + ", ".join([*predicted, wrong]) + "]", record)
        assert bad <= value(name, "[" + ", ".join(predicted) + "]", record)


def test_a_long_list_is_capped_and_the_rest_is_wrong() -> None:
    far = [("chair", (10.0 + i, *UNIT[1:])) for i in range(60)]
    items = [("chair", UNIT)]
    late = get("det_f1")(text_of([*far[:50], *items]), detection(items))
    early = get("det_f1")(text_of([*items, *far[:50]]), detection(items))
    assert late is not None
    assert early is not None
    assert (late.parts["tp"], late.parts["fp"], late.parts["overflow"]) == (0, 51, 1)
    assert (early.parts["tp"], early.parts["fp"], early.parts["overflow"]) == (1, 50, 1)
    many = [("chair", (3.0 * i, *UNIT[1:])) for i in range(40)]
    beyond = [("chair", (1000.0 + i, *UNIT[1:])) for i in range(60)]
    full = get("det_f1")(text_of([*many, *beyond]), detection(many))
    assert full is not None
    assert full.parts["overflow"] == 100 - 80
    # Copies are dropped before the rest is counted: a room of many equal boxes keeps its full score.
    same = [("chair", UNIT)] * 60
    copies = get("det_f1")(text_of(same), detection(same))
    assert copies is not None
    assert (copies.value, copies.parts["overflow"], copies.parts["duplicates"]) == (1.0, 0, 59)


@given(scenes, st.integers(0, 99), st.integers(0, 9), st.floats(0, 1))
@few
def test_moving_a_box_straight_to_its_target_never_lowers_soft_f1(
    items: Items, seed: int, which: int, share: float
) -> None:
    predicted = noisy(items, seed, 0.5)
    index = which % len(items)
    label, box = predicted[index]
    # Alone with its label, so that its target is beyond doubt.
    items = [item for i, item in enumerate(items) if i == index or item[0] != label]
    predicted = [item for i, item in enumerate(predicted) if i == index or item[0] != label]
    target = next(np.array(b) for name, b in items if name == label)
    moved = np.array(box)
    moved[:3] += share * (target[:3] - moved[:3])
    after = [(name, tuple(moved)) if name == label else (name, b) for name, b in predicted]
    before = value("det_soft_f1", text_of(predicted), detection(items))
    assert value("det_soft_f1", text_of(after), detection(items)) >= before - 2e-9


@given(st.floats(0, 1), st.floats(0, 1), centres, centres, centres, st.integers(0, 7))
@few
def test_moving_straight_to_the_target_never_lowers_ground_near(
    one: float, two: float, x: float, y: float, z: float, frame: int
) -> None:
    target = GROUND.target
    near = transform_boxes(target.bbox_world, np.linalg.inv(ALIGN @ CLIP[frame]))  # type: ignore[union-attr]
    offset = np.array([x, y, z, 0, 0, 0, 0, 0, 0])
    far, close = max(one, two), min(one, two)
    values = [value("ground_near", grounding_answer(frame, near + s * offset, None), GROUND) for s in (far, close)]
    assert values[0] <= values[1] + 1e-9


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.1, 10))
@few
def test_ground_near_never_pays_for_size(dx: float, dy: float, dz: float) -> None:
    box = np.array(GROUND.target.bbox_3d)  # type: ignore[union-attr]
    box[0] += 0.4
    other = box.copy()
    other[3:6] = dx, dy, dz
    answers = [grounding_answer(3, b, None) for b in (box, other)]
    assert value("ground_near", answers[0], GROUND) == value("ground_near", answers[1], GROUND)


def brute_force(predicted: Items, items: Items, threshold: float | None) -> tuple[float, int]:
    """The best sum of overlaps (or count above a threshold) over all one-to-one same-label assignments."""
    iou = box_iou(np.array([b for _, b in predicted]), np.array([b for _, b in items]))

    def best(row: int, used: frozenset[int]) -> tuple[float, int]:
        if row == len(predicted):
            return 0.0, 0
        options = [best(row + 1, used)]
        for column, (label, _) in enumerate(items):
            overlap = float(iou[row, column])
            if column in used or label != predicted[row][0] or (threshold is not None and overlap <= threshold):
                continue
            total, count = best(row + 1, used | {column})
            options.append((total + overlap, count + 1))
        return max(options, key=lambda o: o[0] if threshold is None else (o[1], o[0]))

    return best(0, frozenset())


@given(scenes, st.integers(0, 99))
@few
def test_detection_rewards_are_what_all_assignments_say(items: Items, seed: int) -> None:
    predicted = noisy(items, seed, 0.2)[:4]
    assume(len(set(items)) == len(items))
    total, _ = brute_force(predicted, items, None)
    _, hits = brute_force(predicted, items, 0.25)
    record, text = detection(items), text_of(predicted)
    sides = len(predicted) + len(items)
    assert value("det_iou", text, record) == pytest.approx(total / len(predicted), abs=1e-8)
    assert value("det_soft_f1", text, record) == pytest.approx(2 * total / sides, abs=1e-8)
    assert value("det_f1", text, record) == pytest.approx(2 * hits / sides, abs=1e-8)


@given(st.lists(st.tuples(scenes, st.integers(0, 99), st.integers(0, 3)), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_answers_score_the_same_together_and_one_by_one(cases: list[tuple[Items, int, int]]) -> None:
    def answers() -> list[tuple[str, Record]]:
        """Anew each time: nothing of one way of scoring is remembered in the other."""
        out = []
        for items, seed, kind in cases:
            own = detection(items)
            out += [(text_of(noisy(items, seed)), own), (["", "[]", "[{}]", text_of(items)][kind], own)]
            out.append(("B", make("choice", {"options": ["A. one", "B. two"], "letter": "B"})))
        # More than are taken together.
        return out * (TOGETHER // len(out) + 1)

    rewards = RewardSet(dict.fromkeys(names(), 1.0))
    together = list(rewards.score_all(answers()))
    for scores, (text, record) in zip(together, answers(), strict=True):
        alone = rewards.score(text, record)
        assert scores.keys() == alone.keys()
        for name, score in scores.items():
            # A large call adds in another order: the last digits of overlaps may differ.
            assert score.value == pytest.approx(alone[name].value, abs=1e-9)
            assert score.parts == pytest.approx(alone[name].parts, abs=1e-9)
            assert score.why == alone[name].why
    columns = [(name, as_trl(name)) for name in ("det_f1", "det_soft_f1")]
    texts, records = zip(*answers(), strict=True)
    for name, column in columns:
        expected = [scores[name].value if name in scores else None for scores in together]
        assert column(completions=texts, record=records) == pytest.approx(expected, abs=1e-9)


def test_a_flood_of_one_label_takes_no_more_memory_in_a_group_than_alone() -> None:
    rng = np.random.default_rng(0)

    def crowd(count: int) -> Items:
        places, sizes, angles = (
            rng.uniform(-3, 3, (count, 3)),
            rng.uniform(0.3, 1, (count, 3)),
            rng.normal(size=(count, 3)),
        )
        return [("chair", tuple(box)) for box in np.concatenate([places, sizes, angles], axis=1).tolist()]

    def peak(answers: list[tuple[str, Record]]) -> int:
        tracemalloc.start()
        list(rewards.score_all(answers))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    rewards = RewardSet({"det_f1": 1})
    one, few = detection(crowd(50)), detection(crowd(50))
    alone = peak([(text_of(crowd(100)), one)])
    together = peak([(text_of(crowd(100)), few) for _ in range(12)])
    assert together < 2 * alone + 2**22, f"{together / 2**20:.0f} MiB for 12, {alone / 2**20:.0f} MiB for one"


def test_parts_and_reasons_of_a_small_scene() -> None:
    items = [("chair", UNIT), ("table", (3.0, *UNIT[1:])), ("lamp", (6.0, *UNIT[1:]))]
    half = (0.5, *UNIT[1:])  # overlaps by one half: IoU 1/3
    text = text_of([("chair", half), ("table", (9.0, *UNIT[1:])), ("sofa", (6.0, *UNIT[1:]))])[:-4] + ", {'label': 5}]"
    f1 = get("det_f1")(text, detection(items))
    assert f1 is not None
    assert f1.value == pytest.approx(2 / 7)
    assert f1.why == "1 found, 3 wrong, 2 missed"
    counts = {"n_pred": 4, "n_target": 3, "dropped": 1, "overflow": 0, "duplicates": 0}
    assert f1.parts == counts | {"tp": 1, "fp": 3, "fn": 2, "precision": 1 / 4, "recall": 1 / 3}
    soft = get("det_soft_f1")(text, detection(items))
    overlap = get("det_iou")(text, detection(items))
    assert soft is not None
    assert overlap is not None
    assert (soft.value, overlap.value) == (pytest.approx(2 / 3 / 7), pytest.approx(1 / 12))
    assert soft.parts["iou_sum"] == overlap.parts["iou_sum"] == pytest.approx(1 / 3)
    assert value("det_f1", text, detection(items), iou_threshold=0.5) == 0


def test_the_threshold_itself_is_not_enough() -> None:
    # Overlap 0.4 of length 1: IoU 0.4 / 1.6 = 0.25 exactly.
    assert value("det_f1", text_of([("chair", (0.6, *UNIT[1:]))]), detection([("chair", UNIT)])) == 0
    assert value("det_f1", text_of([("chair", (0.59, *UNIT[1:]))]), detection([("chair", UNIT)])) == 1


def test_labels_match_exactly_after_stripping() -> None:
    for label, want in ((" chair ", 1), ("Chair", 0), ("chairs", 0)):
        for name in DETECTION:
            assert value(name, text_of([(label, UNIT)]), detection([("chair", UNIT)])) == want
            assert value(name, text_of([("chair", UNIT)]), detection([(label, UNIT)])) == want


def test_the_looser_reading_pays_for_near_duplicates_and_wrong_labels() -> None:
    items = [("chair", UNIT)]
    near = text_of([("chair", UNIT), ("chair", (0.001, *UNIT[1:]))])
    assert value("det_iou", near, detection(items)) == 0.5
    assert value("det_iou", near, detection(items), det_iou_matching="best") > 0.99
    assert value("det_iou", text_of([("sofa", UNIT)]), detection(items), det_iou_matching="best") == 1
    with pytest.raises(UsageError, match="det_iou_matching is 'first'"):
        get("det_iou")(near, detection(items), det_iou_matching="first")


def test_overlapping_guesses_of_one_label_are_counted() -> None:
    guesses = [("chair", UNIT), ("chair", (0.2, *UNIT[1:])), ("chair", (5.0, *UNIT[1:])), ("sofa", UNIT)]
    score = get("det_soft_f1")(text_of(guesses), detection([("chair", UNIT)]))
    assert score is not None
    assert score.parts["overlaps"] == 1


@pytest.mark.parametrize(
    ("frame", "want"), [(3, 1.0), (4, 0.8), (1, 0.6), (0, 0.4), (7, 0.2), (8, 0.0), (100, 0.0)], ids=str
)
def test_the_frame_reward_falls_by_a_fifth_a_frame(frame: int, want: float) -> None:
    assert value("ground_frame", grounding_answer(frame, UNIT), GROUND) == pytest.approx(want)


@given(st.integers(0, 7))
@settings(max_examples=8, deadline=None)
def test_the_same_object_seen_from_any_frame_has_iou_1(frame: int) -> None:
    there = transform_boxes(GROUND.target.bbox_world, np.linalg.inv(ALIGN @ CLIP[frame]))  # type: ignore[union-attr]
    answer = grounding_answer(frame, there, None)
    assert value("ground_iou", answer, GROUND) == pytest.approx(1, abs=1e-9)
    other = grounding_answer((frame + 1) % 8, there, None)
    assert value("ground_iou", other, GROUND) < 0.9


def test_a_frame_outside_the_clip_scores_0_and_says_so() -> None:
    for name in ("ground_frame", "ground_iou", "ground_near"):
        score = get(name)(grounding_answer(8, UNIT), GROUND)
        assert score is not None
        assert (score.value, score.why) == (0, "frame 8 of a clip of 8 frames")


def test_without_cameras_only_the_frame_can_be_scored() -> None:
    record = make("grounding", {"frame": 1, "bbox_3d": UNIT, "bbox_world": UNIT}, video={"frames": ["a", "b"]})
    answer = grounding_answer(1, UNIT)
    assert get("ground_iou")(answer, record) is None
    assert get("ground_near")(answer, record) is None
    assert value("ground_frame", answer, record) == 1
    assert value("ground_frame", grounding_answer(2, UNIT), record) == 0


def test_ground_near_is_the_stated_formula() -> None:
    box = np.array(GROUND.target.bbox_3d)  # type: ignore[union-attr]
    diagonal = math.sqrt(0.6**2 + 0.8**2 + 1.1**2)
    box[1] += 0.5
    assert value("ground_near", grounding_answer(3, box, None), GROUND) == pytest.approx(math.exp(-1 / diagonal))


THOUGHT = "<think>hm</think><answer>{}</answer>"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param(THOUGHT.format("B"), 1, id="as asked"),
        pytest.param(" <think>\n</think>\n<answer> (B) </answer>\n", 1, id="white space"),
        pytest.param("B", 0, id="no tags"),
        pytest.param("<answer>B</answer>", 0, id="no thinking"),
        pytest.param("<think>hm</think>B", 0, id="no answer tag"),
        pytest.param("So: " + THOUGHT.format("B"), 0, id="text before"),
        pytest.param(THOUGHT.format("B") + ".", 0, id="text after"),
        pytest.param("<think>hm</think> so <answer>B</answer>", 0, id="text between"),
        pytest.param("<answer>B</answer><think>hm</think>", 0, id="wrong order"),
        pytest.param(THOUGHT.format("B") * 2, 0, id="twice"),
        pytest.param("<think>hm<answer>B</answer>", 0, id="thinking that never ends"),
        pytest.param(THOUGHT.format(""), 0, id="empty"),
        pytest.param(THOUGHT.format("maybe"), 0, id="no letter"),
    ],
)
def test_the_format_of_reasoning(text: str, want: float) -> None:
    assert value("format", text, CHOICE) == want
    number = text.replace("B", "4")
    assert value("format", number, NUMBER) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        pytest.param(text_of([("chair", UNIT)]), 1, id="as taught"),
        pytest.param("<think>hm</think>" + text_of([("chair", UNIT)]), 1, id="with thinking"),
        pytest.param("<think>hm</think><answer>" + text_of([("chair", UNIT)]) + "</answer>", 1, id="with tags"),
        pytest.param("Here: " + text_of([("chair", UNIT)]), 1, id="prose around"),
        pytest.param(text_of([("chair", UNIT)])[:-5], 0, id="cut off"),
        pytest.param(text_of([("chair", UNIT)])[:-4] + ", {'label': 'x'}]", 0, id="one unusable box"),
        pytest.param("<answer>" + text_of([("chair", UNIT)]), 0, id="tag that never closes"),
    ],
)
def test_the_format_of_detection(text: str, want: float) -> None:
    assert value("format", text, detection([("chair", UNIT)])) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [("B", 1), ("b", 1), ("right", 1), ("<think>A</think><answer>B</answer>", 1), ("A", 0), ("C", 0), ("A or B", 0)],
)
def test_accuracy(text: str, want: float) -> None:
    assert value("accuracy", text, CHOICE) == want


def test_mra_is_the_published_formula_on_every_edge() -> None:
    for target in (1.0, 2.0, 4.0, 10.0, 3.7, -4.0):
        for theta in np.linspace(0.5, 0.95, 10):
            for nudge in (0.0, 1e-12, -1e-12):
                guess = target * (1 + (1 - theta) + nudge)
                error = abs(guess - target) / abs(target)
                strict = np.mean([error < 1 - t for t in np.linspace(0.5, 0.95, 10)])
                loose = np.mean([error <= 1 - t for t in np.linspace(0.5, 0.95, 10)])
                assert mean_relative_accuracy(guess, target, strict=True) == pytest.approx(strict)
                assert mean_relative_accuracy(guess, target, strict=False) == pytest.approx(loose)


def test_mra_is_strict_in_the_reward_and_knows_units() -> None:
    assert value("mra", "3", NUMBER) == 0.5
    assert value("mra", "four", NUMBER) == 1
    assert value("mra", "-4", NUMBER) == 0
    metres = make("number", {"value": 3.5}, meta={"question_type": "object_abs_distance"})
    assert value("mra", "350 cm", metres) == 1
    for unit, said in (("cm", "3.5 m"), ("ft", "350 feet"), ("in", "350"), ("m2", "350 square meters"), (None, "350")):
        assert value("mra", said, make("number", {"value": 350}, meta={"unit": unit})) == 1
    assert value("mra", "1 m", make("number", {"value": 3.28084}, meta={"unit": "ft"})) == 1
    assert value("mra", "0", make("number", {"value": 0})) == 1
    assert value("mra", "0.1", make("number", {"value": 0})) == 0
    assert len(MRA_LIMITS) == 10


@given(st.floats(0.01, 1e4), st.floats(0, 3), st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_mra_never_rises_with_the_error(target: float, one: float, two: float) -> None:
    near, far = sorted((one, two))
    for strict in (True, False):
        closer = mean_relative_accuracy(target * (1 + near), target, strict=strict)
        assert closer >= mean_relative_accuracy(target * (1 + far), target, strict=strict)
    assert mean_relative_accuracy(target, target, strict=True) == 1


@pytest.mark.parametrize(("characters", "want"), [(10, 1.0), (100, 1.0), (150, 0.5), (200, 0.0), (900, 0.0)], ids=str)
def test_length_falls_between_its_two_limits(characters: int, want: float) -> None:
    text = "<think>".ljust(characters - len("</think>4"), "x") + "</think>4" if characters > 20 else "4" + " " * 9
    assert len(text) == characters
    assert value("length", text, NUMBER, full=100, zero=200) == pytest.approx(want)
    assert value("length", "x" * characters, NUMBER, full=100, zero=200) == 0
