from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rft3d_cli.geometry.boxes import transform_boxes
from rft3d_cli.geometry.camera import invert_rigid
from rft3d_cli.records import Record, parse_record
from rft3d_cli.rewards import RewardSet, names
from rft3d_cli.rewards.check import (
    DOUBLED,
    EMPTY,
    NEAR,
    NEEDLESS,
    NOTHING,
    OTHER,
    SHUFFLED,
    TARGET,
    TAUGHT,
    Check,
    check,
)
from rft3d_cli.rewards.scored import score_predictions

RNG = np.random.default_rng(5)


def record(task: str, target: dict[str, Any], name: str, **more: Any) -> Record:
    base = {"id": name, "task": task, "video": {"frames": ["0.jpg", "1.jpg"]}, "prompt": "?", "target": target}
    return parse_record(json.dumps({**base, **more}))


def box() -> list[float]:
    return [*RNG.uniform(-1, 1, 2), RNG.uniform(1, 3), *RNG.uniform(0.3, 1.5, 3), *RNG.uniform(-1.5, 1.5, 3)]


def pose() -> np.ndarray:
    """A camera as files give it: float32, and so a rotation to seven digits only."""
    matrix = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    out = np.eye(4)
    out[:3, :3] = matrix * np.sign(np.linalg.det(matrix))
    out[:3, 3] = RNG.uniform(-2, 2, 3)
    return out.astype(np.float32).astype(np.float64)


def detection(name: str, count: int = 3, **more: Any) -> Record:
    boxes = [{"label": ("chair", "table")[i % 2], "bbox_3d": box()} for i in range(count)]
    return record("detection", {"boxes": boxes}, name, **more)


def grounding(name: str) -> Record:
    align, poses = np.round(pose(), 6), [pose(), pose()]
    world = np.array(box())
    near = transform_boxes(world, invert_rigid(align @ poses[1]))
    camera = {
        "intrinsic": [[100.0, 0.0, 50.0], [0.0, 100.0, 40.0], [0.0, 0.0, 1.0]],
        "image_size": [100, 80],
        "cam_to_world": [p.tolist() for p in poses],
        "axis_align": align.tolist(),
    }
    target = {"frame": 1, "bbox_3d": near.tolist(), "bbox_world": world.tolist()}
    return record("grounding", target, name, camera=camera)


def number(name: str, value: float = 3.14159, **more: Any) -> Record:
    return record("number", {"value": value}, name, **more)


def choice(name: str) -> Record:
    return record("choice", {"letter": "B", "options": ["A. left", "B. right", "C. behind"]}, name)


def mixed() -> list[Record]:
    rows: list[Record] = []
    for i in range(6):
        rows += [detection(f"d{i}"), grounding(f"g{i}"), number(f"n{i}"), choice(f"c{i}")]
    return rows


def every(style: str = "direct") -> RewardSet:
    return RewardSet(dict.fromkeys(names(), 1.0), {"answer_style": style})


def counted(found: Check, variant: str) -> int:
    return max(len(row.values) for row in found.rows if row.variant == variant)


@pytest.mark.parametrize("style", ["direct", "think"])
def test_every_shipped_reward_gives_every_target_exactly_1(style: str) -> None:
    found = check(mixed(), every(style))
    assert found.failures == []
    assert (found.tasks, found.skipped) == ({"detection": 6, "grounding": 6, "number": 6, "choice": 6}, 0)
    targets = [row for row in found.rows if row.variant == TARGET]
    assert {row.reward for row in targets} == set(names())
    for row in targets:
        assert row.values == [1.0] * 6, row.reward


def test_answers_that_get_worse_are_worth_less() -> None:
    found = check(mixed(), every())
    for name in ("det_iou", "det_soft_f1", "ground_iou", "ground_near"):
        moved = [found.mean(variant, name) for variant in (TARGET, *(f"moved {cm} cm" for cm in (1, 5, 20, 50)))]
        assert moved == sorted(moved, reverse=True), name
        assert len(set(moved)) == 5, name
    for name in ("det_iou", "det_soft_f1", "ground_iou"):
        turned = [found.mean(variant, name) for variant in (TARGET, *(f"turned {d}°" for d in (1, 5, 15, 45)))]
        assert turned == sorted(turned, reverse=True), name
    numbers = [found.mean(variant, "mra") for variant in (TARGET, *(f"off by {p}%" for p in (1, 5, 20, 50)))]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 0
    assert found.mean(OTHER, "accuracy") == 0
    for variant in (EMPTY, NOTHING):
        for name in ("det_iou", "det_f1", "det_soft_f1"):
            assert found.mean(variant, name) == 0
    assert found.mean(EMPTY, "format") == 0


def test_order_and_exact_copies_change_nothing_and_other_boxes_cost() -> None:
    found = check(mixed(), every())
    for name in ("det_iou", "det_f1", "det_soft_f1"):
        assert found.mean(SHUFFLED, name) == 1
        assert found.mean(DOUBLED, name) == 1
        assert found.mean(NEAR, name) < 0.7
        assert found.mean(NEEDLESS, name) < 0.9


def test_the_ceiling_is_what_rounding_leaves() -> None:
    coarse = [detection(f"d{i}", answer=None) for i in range(4)]
    found = check(coarse, every())
    fine = found.ceiling("detection")["det_iou"]
    assert 0.9 < fine < 1
    rounded = []
    for item in coarse:
        lines = [{"label": one.label, "bbox_3d": [round(v, 1) for v in one.bbox_3d]} for one in item.target.boxes]
        rounded.append(item.model_copy(update={"answer": json.dumps(lines)}))
    assert check(rounded, every()).ceiling("detection")["det_iou"] < fine - 0.05
    # The text that is taught may be coarse; the target is not.
    assert check(rounded, every()).failures == []
    assert check([number("n", 3.14159, answer="3")], every()).ceiling("number")["mra"] == 1
    assert check([number("n", 3.14159, answer="2")], every()).ceiling("number")["mra"] < 1


def test_a_target_that_contradicts_itself_is_named() -> None:
    good, bad = grounding("good"), grounding("bad")
    moved = [bad.target.bbox_world[0] + 0.1, *bad.target.bbox_world[1:]]
    bad = bad.model_copy(update={"target": bad.target.model_copy(update={"bbox_world": tuple(moved)})})
    found = check([good, bad], every())
    assert {(failure.id, failure.reward) for failure in found.failures} == {
        ("bad", "ground_iou"),
        ("bad", "ground_near"),
    }
    assert all(0 < failure.value < 1 for failure in found.failures)


def test_all_targets_are_checked_and_a_sample_is_made_worse() -> None:
    rows = [number(f"n{i}") for i in range(10)]
    found = check(rows, every(), sample=3)
    assert (counted(found, TARGET), counted(found, TAUGHT), counted(found, EMPTY)) == (10, 10, 3)
    assert counted(check(rows, every(), sample=100), EMPTY) == 10


def test_every_task_gets_its_share_of_worse_answers() -> None:
    found = check(mixed(), every(), sample=8)
    counts = {row.task: len(row.values) for row in found.rows if row.variant == EMPTY}
    assert counts == {"detection": 2, "grounding": 2, "number": 2, "choice": 2}
    few = [number("n"), *(choice(f"c{i}") for i in range(20))]
    counts = {row.task: len(row.values) for row in check(few, every(), sample=10).rows if row.variant == EMPTY}
    assert counts == {"number": 1, "choice": 9}


def test_a_warm_up_in_another_form_than_the_reward_asks_for_shows() -> None:
    bare, tagged = choice("bare"), choice("tagged")
    tagged = tagged.model_copy(update={"answer": "<think>so</think><answer>B</answer>"})
    assert check([bare], every("think")).ceiling("choice")["format"] == 0
    assert check([tagged], every("think")).ceiling("choice")["format"] == 1
    assert check([bare], every("direct")).ceiling("choice")["format"] == 1


def test_a_wrong_letter_is_one_of_the_options() -> None:
    options = ["B. left", "C. right"]
    found = check([record("choice", {"letter": "B", "options": options}, "c")], every())
    assert found.failures == []
    assert (found.mean(OTHER, "format"), found.mean(OTHER, "accuracy")) == (1, 0)
    letters = record("choice", {"letter": "A", "options": ["A. C", "B. D", "C. A"]}, "c")
    assert check([letters], every()).failures == []


def test_zero_has_no_relative_error() -> None:
    found = check([number("n", 0.0)], every())
    assert found.failures == []
    assert {row.variant for row in found.rows} == {TARGET, TAUGHT, EMPTY}


def test_the_same_seed_gives_the_same_numbers() -> None:
    rows = [detection("a"), grounding("b")]
    one, two, other = check(rows, every(), seed=1), check(rows, every(), seed=1), check(rows, every(), seed=2)
    assert one == two
    assert one != other


def test_records_without_a_reward_are_counted_apart() -> None:
    text = record("text", {"references": ["a room"]}, "t")
    found = check([text, number("n")], every())
    assert (found.tasks, found.skipped) == ({"number": 1}, 1)
    assert check([text], RewardSet({"format": 1.0})).tasks == {}
    nothing = check([detection("d")], RewardSet({"mra": 1.0}))
    assert (nothing.tasks, nothing.skipped, nothing.rows) == ({}, 1, [])


def test_a_detection_record_without_objects_pays_for_an_empty_list() -> None:
    found = check([detection("none", count=0)], every())
    assert found.failures == []
    assert found.mean(NOTHING, "det_f1") == 1
    assert found.mean(EMPTY, "det_f1") == 0


def test_a_reward_of_ones_own_is_shown_and_not_judged(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def half(text, record):\n    return 0.5\n", encoding="utf-8")
    name = f"{tmp_path / 'mine.py'}:half"
    found = check([number("n")], RewardSet({name: 1.0, "mra": 1.0}))
    assert found.mean(TARGET, name) == 0.5
    assert found.failures == []


def test_saved_answers_are_scored_one_by_one() -> None:
    rows = [number("n", 4.0), choice("c"), record("text", {"references": ["a room"]}, "t")]
    chosen = RewardSet({"mra": 2.0, "accuracy": 1.0})
    document = score_predictions(rows, {"n": "3", "t": "a hall", "other": "?"}, chosen)
    assert (document["n"], document["missing"]) == (3, 1)
    assert document["rewards"] == {"mra": {"mean": 0.5, "n": 1}, "accuracy": {"mean": 0.0, "n": 1}}
    assert document["total"] == 0.5
    n, c, t = document["records"]
    assert n == {
        "id": "n",
        "task": "number",
        "missing": False,
        "total": 1.0,
        "rewards": {"mra": {"value": 0.5, "parts": {"value": 3.0}, "why": "3 for 4"}},
    }
    assert (c["missing"], c["total"]) == (True, 0.0)
    assert c["rewards"]["accuracy"]["why"]
    assert (t["rewards"], t["total"]) == ({}, None)
    plain = score_predictions(rows, {"n": "3"}, chosen, weighted=False)
    assert plain["total"] is None
    assert {row["total"] for row in plain["records"]} == {None}
