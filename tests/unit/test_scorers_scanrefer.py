from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rft3d_cli.answers import grounding_answer
from rft3d_cli.benchmarks import scanrefer
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import transform_boxes
from rft3d_cli.geometry.iou import paired_iou
from rft3d_cli.records import Record, parse_record


def pose(rng: np.random.Generator, level: bool = False) -> np.ndarray:
    out = np.eye(4)
    turn = rng.uniform(-3, 3, 3) * ([1, 0, 0] if level else [1, 1, 1])
    out[:3, :3] = Rotation.from_euler("ZXY", turn).as_matrix()
    out[:3, 3] = rng.uniform(-2, 2, 3)
    return out


def make(name: str, rng: np.random.Generator, subset: str | None = "unique", frames: int = 4, **more: Any) -> Record:
    poses, align = [pose(rng) for _ in range(frames)], pose(rng, level=True)
    world = [*rng.uniform(-2, 2, 3), *rng.uniform(0.3, 1.5, 3), 0.0, 0.0, 0.0]
    frame = int(rng.integers(0, frames))
    camera = {
        "intrinsic": np.eye(3).tolist(),
        "image_size": [640, 480],
        "cam_to_world": [p.tolist() for p in poses],
        "axis_align": align.tolist(),
    }
    record = {
        "schema": 1,
        "id": name,
        "task": "grounding",
        "video": {"frames": [f"{i}.jpg" for i in range(frames)]},
        "prompt": "?",
        "target": {"frame": frame, "bbox_3d": box_in(world, align @ poses[frame]), "bbox_world": world},
        "camera": camera,
        "meta": {"dataset": "scannet", "scene": f"scene{int(rng.integers(0, 9))}", "subset": subset},
    }
    return parse_record(json.dumps({**record, **more}))


def box_in(world: Any, to_world: np.ndarray) -> list[float]:
    box: list[float] = transform_boxes(world, np.linalg.inv(to_world)).tolist()
    return box


def seen_from(record: Record, frame: int) -> list[float]:
    assert record.camera is not None
    target: Any = record.target
    return box_in(target.bbox_world, np.array(record.camera.axis_align) @ np.array(record.camera.cam_to_world[frame]))


def reference(record: Record, text: str) -> float:
    """The public scorer from its description: first line with bbox_3d, one literal, any problem is 0."""
    camera, target = record.camera, record.target
    assert camera is not None
    for line in text.strip("\n").strip("`").strip("json").strip("\n").split("\n"):
        if "bbox_3d" in line:
            try:
                one = ast.literal_eval(line.strip())
                frame, box = one["frame"], one["bbox_3d"]
                assert isinstance(frame, int)
                assert 0 <= frame < len(camera.cam_to_world)
                assert isinstance(box, list)
                assert len(box) == 9
                to_world = np.array(camera.axis_align) @ np.array(camera.cam_to_world[frame])
                centre = (to_world @ [*box[:3], 1])[:3]
                turn = Rotation.from_matrix(to_world[:3, :3] @ Rotation.from_euler("ZXY", box[6:]).as_matrix())
                world = [*centre, *np.abs(np.array(box[3:6], dtype=float)), *turn.as_euler("ZXY")]
                return float(paired_iou(np.array([world]), np.array([target.bbox_world]))[0])  # type: ignore[union-attr]
            except Exception:
                return 0.0
    return 0.0


def random_set(seed: int, count: int = 80) -> tuple[list[Record], dict[str, str]]:
    rng = np.random.default_rng(seed)
    records, predictions = [], {}
    for index in range(count):
        record = make(str(index), rng, ["unique", "multiple"][index % 2])
        frame = int(rng.integers(0, 5))
        box = np.array(seen_from(record, min(frame, 3)))
        box[:6] += rng.normal(0, 0.1, 6)
        box[3:6] = np.abs(box[3:6])
        text = grounding_answer(frame, box)
        odd = rng.random()
        if odd < 0.1:
            text = text.replace("}", "},")
        elif odd < 0.2:
            text = json.dumps(json.loads(text.strip("`json\n\t")), indent=1)
        elif odd < 0.3:
            text = text.replace("\n", "").replace("\t", "")
        records.append(record)
        predictions[str(index)] = text
    return records, predictions


@pytest.mark.parametrize("seed", range(3))
def test_the_official_scorer_is_the_public_one(seed: int) -> None:
    records, predictions = random_set(seed)
    want = np.array([reference(record, predictions[record.id]) for record in records])
    result = scanrefer.score(records, predictions)
    assert [detail["score"] for detail in result.details] == pytest.approx(want, abs=1e-8)
    for name, member in (("overall", slice(None)), ("unique", slice(0, None, 2)), ("multiple", slice(1, None, 2))):
        part = want[member]
        assert result.document[name] == pytest.approx(
            {
                "n": len(part),
                "acc@0.25": 100 * np.mean(part >= 0.25),
                "acc@0.5": 100 * np.mean(part >= 0.5),
                "mean_iou": 100 * np.mean(part),
            }
        )
    assert 0 < result.document["overall"]["acc@0.5"] < result.document["overall"]["acc@0.25"] < 100


def with_first(old: float, new: str) -> str:
    return f'{{"frame": 1, "bbox_3d": {NUMBERS}}}'.replace(str(old), new)


RECORD = make("r", np.random.default_rng(0))
BOX = seen_from(RECORD, 1)
NUMBERS = json.dumps(BOX)


@pytest.mark.parametrize(
    ("text", "official", "robust"),
    [
        pytest.param(grounding_answer(1, BOX, None), True, True, id="as taught"),
        pytest.param(f'```json\n{{"frame": 1, "bbox_3d": {NUMBERS}}}\n```', True, True, id="single-line fence"),
        pytest.param(f'{{"frame": 1, "bbox_3d": {NUMBERS}}}', True, True, id="bare"),
        pytest.param(f'{{"frame": 1, "bbox_3d": {NUMBERS}}},', False, True, id="trailing comma"),
        pytest.param(f'[{{"frame": 1, "bbox_3d": {NUMBERS}}}]', False, True, id="list wrapper"),
        pytest.param(json.dumps({"frame": 1, "bbox_3d": BOX}, indent=2), False, True, id="pretty printed"),
        pytest.param(f'{{"frame": True, "bbox_3d": {NUMBERS}}}', True, False, id="frame True"),
        pytest.param(f'{{"frame": "1", "bbox_3d": {NUMBERS}}}', False, False, id="frame as text"),
        pytest.param(f'{{"frame": 1.0, "bbox_3d": {NUMBERS}}}', False, True, id="frame 1.0"),
        pytest.param(f'{{"frame": -1, "bbox_3d": {NUMBERS}}}', False, False, id="frame -1"),
        pytest.param(f'{{"frame": 4, "bbox_3d": {NUMBERS}}}', False, False, id="frame beyond the clip"),
        pytest.param(f'{{"bbox_3d": {NUMBERS}}}', False, False, id="no frame"),
        pytest.param('{"frame": 1, "bbox_3d": [1, 2]}', False, False, id="two numbers"),
        pytest.param(f'{{"frame": 1, "bbox_3d": {NUMBERS}'[:-10], False, False, id="cut off"),
        pytest.param(f'The answer: {{"frame": 1, "bbox_3d": {NUMBERS}}}', False, True, id="prose on the line"),
        pytest.param(f'Here:\n{{"frame": 1, "bbox_3d": {NUMBERS}}}\nDone', True, True, id="prose around"),
        pytest.param(f'bbox_3d:\n{{"frame": 1, "bbox_3d": {NUMBERS}}}', False, True, id="another line first"),
        pytest.param(f'<think>x</think>{{"frame": 1, "bbox_3d": {NUMBERS}}}', False, True, id="thinking"),
        pytest.param(with_first(BOX[3], f"-{BOX[3]}"), True, False, id="size < 0"),
        pytest.param(with_first(BOX[0], "NaN"), False, False, id="NaN"),
        pytest.param(with_first(BOX[0], "1e999"), False, False, id="1e999"),
        pytest.param(with_first(BOX[0], "1" + "0" * 400), False, False, id="a whole number that no float can hold"),
        pytest.param(with_first(BOX[0], '"1"'), False, False, id="text number"),
        pytest.param("", False, False, id="no text"),
    ],
)
def test_odd_outputs(text: str, official: bool, robust: bool) -> None:
    for scorer, want in (("official", official), ("robust", robust)):
        result = scanrefer.score([RECORD], {"r": text}, scorer=scorer)
        assert result.details[0]["score"] == pytest.approx(float(want), abs=1e-9), scorer
        assert result.document["overall"]["acc@0.25"] == 100 * want
        assert result.details[0]["why"]


def test_the_frame_places_the_box_and_is_not_scored_otherwise() -> None:
    for frame in range(4):
        right = grounding_answer(frame, seen_from(RECORD, frame), None)
        assert scanrefer.score([RECORD], {"r": right}).details[0]["score"] == pytest.approx(1)
        wrong = grounding_answer((frame + 1) % 4, seen_from(RECORD, frame), None)
        assert scanrefer.score([RECORD], {"r": wrong}).details[0]["score"] < 0.5


@pytest.mark.parametrize(
    ("width", "start", "shift", "quarter", "half"),
    [
        pytest.param(1, 0, 0.6, 1, 0, id="a quarter"),
        pytest.param(1, 0, 0.61, 0, 0, id="less than a quarter"),
        pytest.param(1, 0, 1 / 3, 1, 1, id="a half"),
        pytest.param(1, 0, 0.34, 1, 0, id="less than a half"),
        pytest.param(0.05, 0.7, 0.03, 1, 0, id="a quarter, less the last bits of a float"),
        pytest.param(0.03, 0.7, 0.01, 1, 1, id="a half, less the last bits of a float"),
    ],
)
def test_the_thresholds_themselves_are_enough(
    width: float, start: float, shift: float, quarter: int, half: int
) -> None:
    # Boxes of width w in a world without rotation; shifted by s they overlap by (w - s) / (w + s).
    box = [start, 0, 2, width, 0.3, 1, 0, 0, 0]
    eye = {"intrinsic": np.eye(3).tolist(), "image_size": [4, 4], "cam_to_world": [np.eye(4).tolist()] * 4}
    target = {"frame": 0, "bbox_3d": box, "bbox_world": box}
    camera = {**eye, "axis_align": np.eye(4).tolist()}
    record = make("0", np.random.default_rng(1), target=target, camera=camera)
    result = scanrefer.score([record], {"0": grounding_answer(0, [round(start + shift, 9), *box[1:]], None)})
    parts = result.details[0]["parts"]
    assert (parts["acc@0.25"], parts["acc@0.5"]) == (quarter, half)
    assert (result.document["overall"]["acc@0.25"], result.document["overall"]["acc@0.5"]) == (
        100 * quarter,
        100 * half,
    )
    assert parts["iou"] == pytest.approx((width - shift) / (width + shift))


def test_counts_and_subsets() -> None:
    rng = np.random.default_rng(2)
    records = [make("a", rng), make("b", rng, "multiple"), make("c", rng, None), make("d", rng)]
    good = {name: grounding_answer(0, seen_from(record, 0), None) for name, record in zip("abcd", records, strict=True)}
    result = scanrefer.score(records, {"a": good["a"], "b": "no", "c": good["c"], "z": "?"})
    document = result.document
    assert (document["n"], document["missing"], document["unreadable"], document["unknown_ids"]) == (4, 1, 1, 1)
    assert [document[name]["n"] for name in ("overall", "unique", "multiple")] == [4, 2, 1]
    assert [document[name]["acc@0.5"] for name in ("overall", "unique", "multiple")] == [50, 50, 0]
    assert set(result.details[0]) == {"id", "score", "parts", "answer", "why"}
    json.dumps(document, allow_nan=False)
    only = scanrefer.score(records[:1], {}).document
    assert only["multiple"] == {"n": 0, "acc@0.25": None, "acc@0.5": None, "mean_iou": None}
    assert scanrefer.score([], {}).document["overall"]["acc@0.25"] is None


def test_thinking_needs_its_style_under_the_official_scorer() -> None:
    text = f'<think>\n{{"frame": 0, "bbox_3d": {NUMBERS}}}\n</think><answer>{grounding_answer(1, BOX, None)}</answer>'
    assert scanrefer.score([RECORD], {"r": text}).details[0]["score"] < 0.9
    assert scanrefer.score([RECORD], {"r": text}, answer_style="think").details[0]["score"] == pytest.approx(1)


def test_intervals_hold_the_value_and_repeat_with_the_seed() -> None:
    records, predictions = random_set(5)
    one, same = (scanrefer.score(records, predictions) for _ in range(2))
    assert one.document["intervals"] == same.document["intervals"]
    for row in one.rows:
        assert row.value is not None
        assert row.interval is not None
        assert row.interval[0] < row.value < row.interval[1]
    assert len(one.rows) == 9


def test_without_intervals_the_numbers_are_the_same() -> None:
    records, predictions = random_set(5)
    boxes = as_arrays(proposed(records, 5))
    for scorer in ("official", "robust"):
        full = scanrefer.score(records, predictions, scorer=scorer, proposals=boxes)
        bare = scanrefer.score(records, predictions, scorer=scorer, proposals=boxes, intervals=False)
        assert bare.document == {**full.document, "intervals": {}}
        assert [(row.name, row.metric, row.n, row.value) for row in bare.rows] == [
            (row.name, row.metric, row.n, row.value) for row in full.rows
        ]
        assert {row.interval for row in bare.rows} == {None}
        assert bare.details == full.details


def test_what_cannot_be_scored_is_refused() -> None:
    bare = make("x", np.random.default_rng(0), camera=None)
    with pytest.raises(DataError, match="record x has no cameras"):
        scanrefer.score([bare], {})
    number = {"schema": 1, "id": "n", "task": "number", "video": {"path": "a"}, "prompt": "?", "target": {"value": 1}}
    with pytest.raises(DataError, match="record n is a number record"):
        scanrefer.score([parse_record(json.dumps(number))], {})


# ---- Proposals


def world_of(record: Record, text: str) -> list[float] | None:
    """The answer's box in the world, as the public scorer reads it; None where it does not."""
    assert record.camera is not None
    for line in text.strip("\n").strip("`").strip("json").strip("\n").split("\n"):
        if "bbox_3d" in line:
            try:
                one = ast.literal_eval(line.strip())
                to_world = np.array(record.camera.axis_align) @ np.array(record.camera.cam_to_world[one["frame"]])
                box = np.array(one["bbox_3d"])
            except Exception:
                return None
            centre = (to_world @ [*box[:3], 1])[:3]
            turn = Rotation.from_matrix(to_world[:3, :3] @ Rotation.from_euler("ZXY", box[6:]).as_matrix())
            return [*centre, *box[3:6], *turn.as_euler("ZXY")]
    return None


def refined_reference(record: Record, text: str, proposals: dict[str, list[list[float]]]) -> float:
    """The public script: one proposal after another, a larger IoU takes over, 0 does not."""
    kept = world_of(record, text)
    if kept is None:
        return 0.0
    most = 0.0
    prediction = kept
    for proposal in proposals.get(record.meta.scene or "", []):
        iou = float(paired_iou(np.array([prediction]), np.array([[*proposal, 0, 0, 0]]))[0])
        if iou > most:
            most, kept = iou, [*proposal, 0, 0, 0]
    target: Any = record.target
    return float(paired_iou(np.array([kept]), np.array([target.bbox_world]))[0])


def proposed(records: list[Record], seed: int) -> dict[str, list[list[float]]]:
    """Boxes near the targets, and boxes anywhere; one scene has none, one an empty list."""
    rng = np.random.default_rng(seed)
    out: dict[str, list[list[float]]] = {}
    for record in records:
        target: Any = record.target
        near = np.array(target.bbox_world[:6]) + rng.normal(0, 0.08, 6)
        near[3:] = np.abs(near[3:])
        anywhere = [*rng.uniform(-2, 2, 3), *rng.uniform(0, 1.5, 3)]
        out.setdefault(record.meta.scene or "", []).extend([near.tolist(), anywhere])
    out["scene0"] = []
    del out["scene1"]
    return out


def as_arrays(proposals: dict[str, list[list[float]]]) -> dict[str, np.ndarray]:
    return {
        scene: np.array([[*box, 0, 0, 0] for box in boxes]).reshape(-1, 9).astype(float)
        for scene, boxes in proposals.items()
    }


@pytest.mark.parametrize("seed", range(3))
def test_refined_answers_are_those_of_the_public_script(seed: int) -> None:
    records, predictions = random_set(seed)
    del predictions["5"]
    boxes = proposed(records, seed)
    plain = scanrefer.score(records, predictions)
    result = scanrefer.score(records, predictions, proposals=as_arrays(boxes))
    want = np.array([refined_reference(record, predictions.get(record.id, ""), boxes) for record in records])
    assert [detail["parts"]["refined_iou"] for detail in result.details] == pytest.approx(want, abs=1e-8)
    found = result.document["refined"]
    for name, member in (("overall", slice(None)), ("unique", slice(0, None, 2)), ("multiple", slice(1, None, 2))):
        part = want[member]
        assert found[name] == pytest.approx(
            {
                "n": len(part),
                "acc@0.25": 100 * np.mean(part >= 0.25),
                "acc@0.5": 100 * np.mean(part >= 0.5),
                "mean_iou": 100 * np.mean(part),
            }
        )
        assert result.document[name] == plain.document[name]
    assert found["without_proposals"] == sum(record.meta.scene in ("scene0", "scene1") for record in records) > 0
    assert (want != [detail["score"] for detail in plain.details]).any()
    assert [detail["score"] for detail in result.details] == [detail["score"] for detail in plain.details]


def test_without_proposals_nothing_is_said_of_them() -> None:
    records, predictions = random_set(1, 10)
    result = scanrefer.score(records, predictions)
    assert "refined" not in result.document
    assert not any("refined" in row.name for row in result.rows)
    assert "refined_iou" not in result.details[0]["parts"]


def box_at(x: float, size: float = 1.0) -> list[float]:
    return [x, 0, 0, size, size, size, 0, 0, 0]


@pytest.mark.parametrize(
    ("said", "boxes", "refined"),
    [
        pytest.param(box_at(0.4), [box_at(0.1)], 0.9 / 1.1, id="a better box takes over"),
        pytest.param(box_at(0.0), [box_at(0.5)], 0.5 / 1.5, id="a worse box takes over too"),
        pytest.param(box_at(0.0), [box_at(1.0)], 1.0, id="a box that only touches does not"),
        pytest.param(box_at(0.0), [box_at(9.0)], 1.0, id="nor one that is far away"),
        pytest.param(box_at(0.0), [], 1.0, id="nor none"),
        pytest.param(box_at(0.0), [box_at(0.5), box_at(-0.5)], 0.5 / 1.5, id="of equals the first"),
        pytest.param(box_at(0.0), [box_at(0.5), box_at(0.2)], 0.8 / 1.2, id="the largest overlap of two"),
        pytest.param(box_at(0.0), [box_at(0.0, 0.0)], 1.0, id="a box without a volume does not"),
    ],
)
def test_which_proposal_takes_over(said: list[float], boxes: list[list[float]], refined: float) -> None:
    eye = np.eye(4).tolist()
    camera = {"intrinsic": np.eye(3).tolist(), "image_size": [4, 4], "cam_to_world": [eye] * 4, "axis_align": eye}
    target = {"frame": 0, "bbox_3d": box_at(0.0), "bbox_world": box_at(0.0)}
    record = make("0", np.random.default_rng(1), target=target, camera=camera)
    proposals = {record.meta.scene: np.array(boxes, dtype=float).reshape(-1, 9)}
    result = scanrefer.score([record], {"0": grounding_answer(0, said, None)}, proposals=proposals)
    assert result.details[0]["parts"]["refined_iou"] == pytest.approx(refined)


@pytest.mark.parametrize("text", [None, "", "no box", grounding_answer(9, box_at(0.0), None)])
def test_no_answer_is_not_refined(text: str | None) -> None:
    target: Any = RECORD.target
    proposals = {str(RECORD.meta.scene): np.array([target.bbox_world])}
    said = {} if text is None else {"r": text}
    result = scanrefer.score([RECORD], said, proposals=proposals)
    assert result.details[0]["parts"]["refined_iou"] == 0
    assert result.document["refined"]["overall"]["acc@0.25"] == 0


def test_a_record_without_a_scene_is_counted_and_scored_as_it_is() -> None:
    record = make("r", np.random.default_rng(0), meta={"dataset": "mine"})
    text = {"r": grounding_answer(1, seen_from(record, 1), None)}
    document = scanrefer.score([record], text, proposals={}).document
    assert document["refined"]["without_proposals"] == 1
    assert document["refined"]["overall"]["acc@0.5"] == 100
    assert scanrefer.score([], {}, proposals={}).document["refined"]["overall"]["acc@0.25"] is None


def test_text_is_never_evaluated(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = f"{{'frame': 1, 'bbox_3d': [open({str(marker)!r}, 'w')]}}"
    assert scanrefer.score([RECORD], {"r": text}).document["unreadable"] == 1
    assert not marker.exists()


def test_every_iou_is_a_share() -> None:
    records, predictions = random_set(9)
    for scorer in ("official", "robust"):
        for detail in scanrefer.score(records, predictions, scorer=scorer).details:
            assert 0 <= detail["score"] <= 1
            assert math.isfinite(detail["score"])
