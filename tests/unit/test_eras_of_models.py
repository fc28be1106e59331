"""What a model means by its angles: read in either meaning, and told from its answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rft3d_cli.answers import detection_answer, grounding_answer, read_boxes
from rft3d_cli.answers.eras import reread
from rft3d_cli.benchmarks.eras import Evidence, tell_era
from rft3d_cli.benchmarks.run import evaluate
from rft3d_cli.files import write_json
from rft3d_cli.records import Record, RecordFile

EYE = np.eye(4).tolist()


def old(box: np.ndarray) -> np.ndarray:
    """A box as models before 28 November 2025 wrote it: SciPy's lower-case order."""
    turn = Rotation.from_euler("ZXY", box[6:]).as_matrix()
    return np.concatenate([box[:6], Rotation.from_matrix(turn).as_euler("zxy")])


def boxes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = rng.uniform([0.3, 0.5, 1.2], [0.5, 0.9, 2.0], (count, 3))
    places = rng.uniform([-2, -1, 2], [2, 1, 5], (count, 3))
    angles = np.column_stack([rng.uniform(-3, 3, count), rng.uniform(0.5, 1.2, count), rng.uniform(-3, 3, count)])
    return np.column_stack([places, sizes, angles])


def detection(count: int, seed: int = 0) -> Record:
    targets = [{"label": f"thing {i}", "bbox_3d": box} for i, box in enumerate(boxes(count, seed).tolist())]
    return Record.model_validate(
        {
            "id": str(seed),
            "task": "detection",
            "video": {"frames": ["0.jpg"]},
            "prompt": "?",
            "target": {"boxes": targets},
        }
    )


def grounding(seed: int) -> Record:
    (box,) = boxes(1, seed).tolist()
    camera = {
        "intrinsic": [[100.0, 0, 50], [0, 100, 50], [0, 0, 1]],
        "image_size": [100, 100],
        "cam_to_world": [EYE, EYE],
        "axis_align": EYE,
    }
    return Record.model_validate(
        {
            "id": str(seed),
            "task": "grounding",
            "video": {"frames": ["0.jpg", "1.jpg"]},
            "prompt": "?",
            "target": {"frame": 1, "bbox_3d": box, "bbox_world": box},
            "camera": camera,
        }
    )


def said(record: Record, ancient: bool) -> str:
    """A right answer in one meaning or the other."""
    target = record.target
    if record.task == "grounding":
        box = np.array(target.bbox_3d)
        return grounding_answer(1, (old(box) if ancient else box).tolist(), 4)
    found = [np.array(item.bbox_3d) for item in target.boxes]
    return detection_answer(
        [item.label for item in target.boxes], [(old(b) if ancient else b).tolist() for b in found], 4
    )


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
@settings(max_examples=60, deadline=None)
def test_an_old_answer_is_read_as_the_box_it_means(angles: list[float]) -> None:
    box = np.array([0.1, 0.2, 2.0, 0.5, 0.9, 0.6, *angles])
    box[7] = box[7] / 3 * 1.5  # within the range of the middle angle
    text = reread(detection_answer(["bed"], [old(box).tolist()], 6), "extrinsic")
    (again,) = read_boxes(text).boxes.boxes
    turn, expected = (Rotation.from_euler("ZXY", b[6:]).as_matrix() for b in (again, box))
    assert turn == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("no boxes", id="words"),
        pytest.param('{"bbox_3d": [1, 2, 3]}', id="three numbers"),
        pytest.param('{"bbox_3d": [1, 2, 3, 4, 5, 6, 7, 8, NaN]}', id="not a number"),
        pytest.param('{"bbox_3d": [1, 2, 3, 4, 5, 6, 7, 8, "x"]}', id="a word"),
        pytest.param('{"bbox_3d": [1, 2, 3, 4, 5, 6, 7, 8, 1e999]}', id="infinite"),
        pytest.param('{"bbox_3d": [[1, 2, 3, 4, 5, 6, 7, 8, 9]]}', id="nested"),
        pytest.param('{"bbox_3d": [1, 2, 3, 4, 5, 6, 7, 8, 9', id="cut off"),
        pytest.param('"bbox_3d": [' * 20_000, id="a flood"),
    ],
)
def test_what_is_no_box_stays_as_it_is(text: str) -> None:
    assert reread(text, "extrinsic") == text


def test_only_boxes_change() -> None:
    text = '```json\n[\n\t{"label": "a [b]", "bbox_3d": [0, 0, 2, 1, 1, 1, 0.5, 0.2, 0.1]},\n{\'bbox_3d\': [1]}]```'
    out = reread(text, "extrinsic")
    assert reread(text, "intrinsic") == text
    assert out.startswith('```json\n[\n\t{"label": "a [b]", "bbox_3d": [0.0, 0.0, 2.0, 1.0, 1.0, 1.0, ')
    assert out.endswith("]},\n{'bbox_3d': [1]}]```")


@pytest.mark.parametrize("kind", ["detection", "grounding"])
@pytest.mark.parametrize("ancient", [False, True], ids=["new", "old"])
def test_answers_show_their_meaning(kind: str, ancient: bool) -> None:
    records = [detection(4, seed) for seed in range(3)] if kind == "detection" else [grounding(s) for s in range(12)]
    evidence = tell_era(records, {record.id: said(record, ancient) for record in records})
    assert evidence.era == ("extrinsic" if ancient else "intrinsic")
    assert evidence.boxes >= 8


def test_few_or_contradicting_boxes_tell_nothing() -> None:
    assert Evidence(4, 4, 0).era is None
    assert Evidence(10, 6, 4).era is None
    assert Evidence(10, 1, 9).era == "extrinsic"
    assert tell_era([], {}).era is None
    records = [detection(4, seed) for seed in range(3)]
    assert tell_era(records, dict.fromkeys("012", "nothing")).boxes == 0
    level = [[0.0, 0, 3, 1, 1, 1, yaw, 0, 0] for yaw in (0.1, 0.5)]
    flat = {record.id: detection_answer(["thing 0", "thing 1"], level, 2) for record in records}
    assert tell_era(records, flat).boxes == 0


def test_the_result_says_how_boxes_were_read(tmp_path) -> None:
    records = [detection(4, seed) for seed in range(3)]
    write_json(tmp_path / "r.jsonl", [])
    source = RecordFile(tmp_path / "r.jsonl", tmp_path, records)
    predictions = {record.id: said(record, ancient=True) for record in records}
    options = {"scorer": "robust", "answer_style": "direct", "seed": 0, "about": {}}
    scores = {}
    for angles in ("intrinsic", "extrinsic"):
        _, document = evaluate("detection", source, records, predictions, angles=angles, **options)
        scores[angles] = document["micro"]["f1"]
        assert document["angles"]["read_as"] == angles
        assert document["angles"]["evidence"]["extrinsic"] >= 8
        json.dumps(document)
    assert scores["extrinsic"] == 100
    assert scores["intrinsic"] < 90
