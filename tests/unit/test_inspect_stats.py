from __future__ import annotations

import json

import numpy as np
import pytest
from inspect_records import ALIGN, BOX, POSES, camera, record

from rft3d_cli.geometry.boxes import transform_boxes
from rft3d_cli.show.inspect_stats import spread, statistics, tables


def detection(name: str, *boxes: tuple[str, list[float]], **changes: object):
    target = {"boxes": [{"label": label, "bbox_3d": box} for label, box in boxes]}
    return record(id=name, target=target, **changes)


SIZED = [[0, 0, 3, 1, 2, 3, 0, 0, 0], [0, 0, 3, 2, 2, 2, 0, 0, 0], [0, 0, 3, 3, 2, 1, 0, 0, 0]]
LATER = transform_boxes([0, 0, 3, 1, 1, 1, 0, 0, 0], np.linalg.inv(POSES[0]) @ POSES[0] @ np.diag([-1, 1, -1, 1.0]))
"""Straight behind the first camera."""
TURNED = camera([POSES[0], POSES[1], POSES[0] @ np.diag([-1, 1, -1, 1.0])])


def test_boxes_are_counted_by_record_and_class():
    found = statistics(
        [
            detection("a", ("chair", SIZED[0]), ("chair", SIZED[1]), ("bed", SIZED[2])),
            detection("b", ("chair", SIZED[0])),
            detection("c"),
        ]
    )["boxes"]["detection"]
    assert found["n"] == 4
    assert found["per_record"] == {"min": 0, "median": 1, "max": 3}
    assert found["classes"] == {"chair": {"n": 3, "records": 2}, "bed": {"n": 1, "records": 1}}


def test_sizes_are_measured_along_each_axis():
    found = statistics([detection("a", *(("x", box) for box in SIZED))])["boxes"]["detection"]["size"]
    assert found["x"]["median"] == 2
    assert found["y"] == {"p5": 2, "median": 2, "p95": 2}
    assert found["z"]["p95"] == pytest.approx(2.9)
    assert found["volume"]["median"] == 6


def test_the_share_of_visible_boxes_is_of_those_whose_place_is_known():
    behind = [*LATER]
    nowhere = [40.0, 0, 3, 1, 1, 1, 0, 0, 0]
    found = statistics(
        [
            detection("a", ("seen", BOX), ("later", behind), ("never", nowhere), camera=TURNED),
            detection("b", ("seen", BOX), camera=TURNED),
            detection("blind", ("unknown", BOX), camera=None),
        ]
    )["boxes"]["detection"]
    assert (found["n"], found["with_camera"]) == (5, 4)
    assert found["in_own_frame"] == 0.5
    assert found["in_any_frame"] == 0.75
    assert found["behind_every_camera"] == 0
    assert (found["records_with_unseen_boxes"], found["first_with_unseen_boxes"]) == (1, ["a"])


def test_boxes_behind_every_camera_are_counted():
    found = statistics([detection("a", ("chair", BOX), ("bed", [0, 0, -3, 1, 1, 1, 0, 0, 0]))])["boxes"]["detection"]
    assert found["behind_every_camera"] == 0.5


def test_without_any_camera_nothing_is_said_of_visibility():
    found = statistics([detection("a", ("chair", BOX), camera=None)])["boxes"]["detection"]
    assert (found["in_own_frame"], found["in_any_frame"], found["with_camera"]) == (None, None, 0)


def test_world_boxes_that_are_other_boxes_are_counted():
    world = transform_boxes(BOX, ALIGN @ POSES[1]).tolist()
    unaligned = transform_boxes(BOX, POSES[1]).tolist()
    found = statistics(
        [
            record("grounding", id=name, target={"frame": 1, "bbox_3d": BOX, "bbox_world": box})
            for name, box in (("good", world), ("bad", unaligned))
        ]
    )["boxes"]["grounding"]
    assert (found["world_box_disagrees"], found["first_that_disagree"]) == (1, ["bad"])


def test_texts_are_measured_by_task():
    found = statistics(
        [
            record("number", id="1", prompt="x" * 10),
            record("number", id="2", prompt="x" * 30, answer="12345"),
            record("choice", prompt="x" * 7),
        ]
    )
    assert found["tasks"] == {"choice": 1, "number": 2}
    assert found["prompt_characters"]["number"] == {"min": 10, "median": 20, "p95": 29, "max": 30}
    assert found["answer_characters"]["number"] == {"min": 3, "median": 4, "p95": 4.9, "max": 5}
    assert found["answer_characters"]["choice"]["max"] == 1


def test_a_text_record_that_teaches_nothing_has_no_answer_length():
    found = statistics([record("text", target=None)])
    assert found["answer_characters"]["text"]["max"] is None


def test_letters_are_counted_as_right_and_as_offered():
    options = {2: ["A. x", "B. y"], 3: ["x", "y", "z"]}
    found = statistics(
        [
            record("choice", id=str(place), target={"letter": letter, "options": options[count]})
            for place, (letter, count) in enumerate([("A", 2), ("B", 2), ("B", 3), ("b", 3)])
        ]
    )["choices"]
    assert found["options"] == {"2": 2, "3": 2}
    assert found["letters"] == {
        "A": {"right": 1, "offered": 4},
        "B": {"right": 3, "offered": 4},
        "C": {"right": 0, "offered": 2},
    }


def test_numbers_are_told_apart_by_what_is_asked():
    records = [
        record("number", id=f"{kind}{value}", target={"value": value}, meta={"question_type": kind})
        for kind, value in [("object_counting", 1), ("object_counting", 3), ("room_size_estimation", 20.5)]
    ]
    found = statistics(records)["numbers"]
    assert found["object_counting"] == {"n": 2, "min": 1, "p5": 1.1, "median": 2, "p95": 2.9, "max": 3}
    assert found["room_size_estimation"]["median"] == 20.5


def test_scenes_splits_data_sets_and_frames_are_counted():
    records = [
        record(id="a", meta={"dataset": "x", "scene": "s1", "split": "train"}),
        record(id="b", meta={"dataset": "y", "scene": "s1", "split": "train"}),
        record(id="c", meta={"dataset": "x", "scene": "s1", "split": "val"}),
        record("number", id="d", meta={}, video={"path": "a.mp4"}, camera=None),
        record("number", id="e", meta={}, video={"path": "a.mp4", "frames": 8}, camera=None),
    ]
    found = statistics(records)
    assert (found["datasets"], found["splits"]) == ({"x": 2, "y": 1}, {"train": 2, "val": 1})
    assert found["scenes"] == {"count": 2, "records": {"min": 1, "median": 1.5, "max": 2}}
    assert found["frames"] == {
        "detection": {"min": 3, "median": 3, "max": 3},
        "number": {"min": 8, "median": 20, "max": 32},
    }


def test_the_document_is_plain_json_and_every_table_is_even():
    records = [record(task) for task in ("detection", "grounding", "choice", "number", "text")]
    found = statistics(records)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for title, rows in tables(found):
        assert title
        assert len({len(row) for row in rows}) == 1
        assert len(rows) > 1


def test_tables_say_what_the_document_holds():
    words = "\n".join(" ".join(row) for _, rows in tables(statistics([record(), record("choice")])) for row in rows)
    for line in ("detection 1 3", "in any frame 100.0 %", "chair 1 1", "B 1 100.0 % 1", "scenes 1 2 each"):
        assert line in words


def test_many_classes_are_cut_in_the_table_and_not_in_the_document():
    found = statistics([detection("a", *((f"class {i:02}", BOX) for i in range(30)))])
    assert len(found["boxes"]["detection"]["classes"]) == 30
    (rows,) = (rows for title, rows in tables(found) if "classes" in title)
    assert rows[-1] == ("10 more", "10", "")


def test_hostile_names_lose_their_control_characters():
    evil = "\x1b[31mred\u202e"
    found = statistics([detection("a", (evil, BOX), meta={"dataset": evil, "split": evil, "question_type": evil})])
    assert json.dumps(found, ensure_ascii=False).encode().find(b"\x1b") == -1
    assert list(found["boxes"]["detection"]["classes"]) == [" [31mred "]


@pytest.mark.parametrize(
    ("values", "percents", "out"),
    [
        ([3], (0, 50, 100), {"min": 3, "median": 3, "max": 3}),
        ([0, 10], (5, 95), {"p5": 0.5, "p95": 9.5}),
        ([], (5, 50), {"p5": None, "median": None}),
    ],
)
def test_quantiles(values, percents, out):
    assert spread(values, percents) == out


def test_progress_is_told_once_a_record():
    told: list[int] = []
    statistics([record(), record("number")], lambda: told.append(1))
    assert len(told) == 2
