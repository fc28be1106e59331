from __future__ import annotations

import ast
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rft3d_cli.answers import detection_answer
from rft3d_cli.benchmarks import detection
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.records import Record, parse_record
from rft3d_cli.rewards import get

Items = list[tuple[str, list[float]]]

CATE20 = [
    *["chair", "pillow", "cabinet", "table", "lamp", "couch", "desk", "stand", "bed", "backpack"],
    *["bathtub", "ottoman", "dresser", "bin", "toilet", "refrigerator", "stove", "microwave", "monitor", "computer"],
]
CATE8 = ["chair", "cabinet", "table", "bin", "couch", "bed", "bathtub", "toilet"]
CATE31 = [
    *CATE20,
    *["window", "shelf", "curtain", "plant", "stairs", "picture", "book", "bottle", "lamp", "towl", "sink"],
]


def make(name: str, items: Items, scene: str | None = None, video: dict[str, Any] | None = None) -> Record:
    record = {
        "schema": 1,
        "id": name,
        "task": "detection",
        "video": video or {"frames": ["0.jpg"]},
        "prompt": "?",
        "target": {"boxes": [{"label": label, "bbox_3d": box} for label, box in items]},
        "meta": {"dataset": "scannet", "scene": scene or f"scene{name}"},
    }
    return parse_record(json.dumps(record))


def at(x: float, size: float = 1.0) -> list[float]:
    return [float(x), 0.0, 2.0, size, 1.0, 1.0, 0.0, 0.0, 0.0]


def line(label: str, box: list[float]) -> str:
    return json.dumps({"label": label, "bbox_3d": box})


def taught(*lines: str) -> str:
    return "```json\n[\n\t" + ",\n\t".join(lines) + "\n]```"


def overlap(a: list[float], b: list[float]) -> float:
    """Axis-aligned overlap in closed form."""
    low = np.maximum(np.array(a[:3]) - np.array(a[3:6]) / 2, np.array(b[:3]) - np.array(b[3:6]) / 2)
    high = np.minimum(np.array(a[:3]) + np.array(a[3:6]) / 2, np.array(b[:3]) + np.array(b[3:6]) / 2)
    common = float(np.prod(np.clip(high - low, 0, None)))
    return common / (np.prod(a[3:6]) + np.prod(b[3:6]) - common)


def public_counts(text: str, targets: Items, threshold: float = 0.25) -> dict[str, list[int]]:
    """The public scorer from its description, with plain loops: ``[tp, fp, fn]`` by label.

    Two things are not as there. In place of ``eval`` stands a reader of literals, and the overlap, which throws there
    on boxes with a tiny face, is exact.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    predicted = []
    for raw in text.strip("\n").strip("`").strip("json").strip("\n").split("\n"):
        stripped = raw.strip().strip(",")
        if "bbox_3d" in stripped or "label" in stripped:
            try:
                one = ast.literal_eval(stripped)
                box = np.array(one["bbox_3d"], dtype=float)
                assert not isinstance(one["label"], list)
                predicted.append((one["label"], box))
            except (ValueError, SyntaxError, TypeError, KeyError, AssertionError, OverflowError):
                continue
    used: set[int] = set()
    for label, box in predicted:
        best, where = 0.0, -1
        for j, (name, target) in enumerate(targets):
            if name == label and j not in used and box.shape == (9,) and np.isfinite(box).all():
                size = [abs(x) for x in box[3:6]]
                value = overlap([*box[:3], *size, 0, 0, 0], target) if min(size) > 0 else 0.0
                if value > best:
                    best, where = value, j
        if best > threshold:
            used.add(where)
            counts[label][0] += 1
        else:
            counts[label][1] += 1
    for j, (name, _) in enumerate(targets):
        counts[name][2] += j not in used
    return counts


def reference(
    records: list[Record], predictions: dict[str, str], threshold: float = 0.25
) -> dict[str, dict[str, float]]:
    """The public scorer's means over its lists of classes."""
    tp, fp, fn = defaultdict(int), defaultdict(int), defaultdict(int)
    for record in records:
        boxes: Any = record.target
        targets = [(box.label, list(box.bbox_3d)) for box in boxes.boxes]
        for label, (right, wrong, missed) in public_counts(predictions[record.id], targets, threshold).items():
            tp[label] += right
            fp[label] += wrong
            fn[label] += missed
    out = {}
    for name, classes in (("classes_8", CATE8), ("classes_20", CATE20), ("classes_31", CATE31)):
        p = [tp[c] / (tp[c] + fp[c]) if tp[c] + fp[c] else 0.0 for c in classes]
        r = [tp[c] / (tp[c] + fn[c]) if tp[c] + fn[c] else 0.0 for c in classes]
        f = [2 * x * y / (x + y) if x + y else 0.0 for x, y in zip(p, r, strict=True)]
        out[name] = {"precision": np.mean(p) * 100, "recall": np.mean(r) * 100, "f1": np.mean(f) * 100}
    return out


def random_set(seed: int, count: int = 60) -> tuple[list[Record], dict[str, str]]:
    rng = np.random.default_rng(seed)
    names = [*sorted(set(CATE31)), "towel", "vase"]
    records, predictions = [], {}
    for index in range(count):
        items: Items = []
        for _ in range(rng.integers(0, 9)):
            box = [
                *rng.uniform(-1.5, 1.5, 3).round(2).tolist(),
                *rng.uniform(0.3, 1.5, 3).round(2).tolist(),
                0.0,
                0.0,
                0.0,
            ]
            items.append((names[min(int(rng.geometric(0.15)) - 1, len(names) - 1)], box))
        lines = []
        for label, box in items:
            if rng.random() < 0.8:
                moved = [*(np.array(box[:3]) + rng.normal(0, 0.15, 3)).round(2).tolist(), *box[3:]]
                lines.append(line(label, moved))
            if rng.random() < 0.2:
                lines.append(line(names[rng.integers(0, len(names))], box))
            if rng.random() < 0.1:
                lines.append(line(label, box[:7]))
            if rng.random() < 0.1:
                lines.append(line(label, box)[:-7])
        rng.shuffle(lines)
        records.append(make(str(index), items, f"scene{index % 12}"))
        joint = " " if rng.random() < 0.15 else "\n\t"
        predictions[str(index)] = "```json\n[\n\t" + f",{joint}".join(lines) + "\n]```"
    return records, predictions


@pytest.mark.parametrize("seed", range(5))
def test_the_official_scorer_is_the_public_one(seed: int) -> None:
    records, predictions = random_set(seed)
    document = detection.score(records, predictions).document
    for part, threshold in ((document, 0.25), (document["at_0.5"], 0.5)):
        for name, numbers in reference(records, predictions, threshold).items():
            assert {m: part[name][m] for m in numbers} == pytest.approx(numbers, abs=1e-9), (name, threshold)
    assert document["at_0.5"]["micro"]["tp"] < document["micro"]["tp"]


def test_the_class_lists() -> None:
    assert list(detection.CLASSES_8) == CATE8
    assert list(detection.CLASSES_20) == CATE20
    assert list(detection.CLASSES_31) == CATE31
    assert len(CATE31) == 31
    assert set(detection.CLASSES_30) == (set(CATE31) - {"towl"}) | {"towel"}
    assert len(detection.CLASSES_30) == 30


TWO = [("chair", at(0)), ("chair", at(5))]
A, B = line("chair", at(0)), line("chair", at(5))


@pytest.mark.parametrize(
    ("text", "official", "robust"),
    [
        pytest.param(taught(A, B), (2, 0, 0), (2, 0, 0), id="as taught"),
        pytest.param(f"[{A}, {B}]", (0, 0, 2), (2, 0, 0), id="list on one line"),
        pytest.param(f"[\n{A}, {B}\n]", (0, 0, 2), (2, 0, 0), id="two objects on one line"),
        pytest.param(json.dumps([json.loads(A), json.loads(B)], indent=1), (0, 0, 2), (2, 0, 0), id="pretty printed"),
        pytest.param(f"[\n{A},\n{B[:40]}", (1, 0, 1), (1, 1, 1), id="last object cut off"),
        pytest.param(taught(A, line("chair", at(5)[:7])), (1, 1, 1), (1, 1, 1), id="7 numbers"),
        pytest.param(taught(A, line("chair", [*at(5), 1.0])), (1, 1, 1), (1, 1, 1), id="10 numbers"),
        pytest.param(
            taught(A, '{"label": "chair", "bbox_3d": [[5, 0, 2], [1, 1, 1], [0, 0, 0]]}'),
            (1, 1, 1),
            (1, 1, 1),
            id="3 by 3",
        ),
        pytest.param(taught(A, B.replace("5.0", "NaN")), (1, 0, 1), (1, 1, 1), id="NaN"),
        pytest.param(taught(A, B.replace("5.0", "null")), (1, 0, 1), (1, 1, 1), id="null"),
        pytest.param(taught(A, '{"bbox_3d": [5, 0, 2, 1, 1, 1, 0, 0, 0]}'), (1, 0, 1), (1, 1, 1), id="no label"),
        pytest.param(taught(A, B.replace('"chair"', '["chair"]')), (1, 0, 1), (1, 1, 1), id="label a list"),
        pytest.param(taught(A, '{"label": "chair"}'), (1, 0, 1), (1, 1, 1), id="no box"),
        pytest.param(taught(A, line("chair", at(5, 0.0))), (1, 1, 1), (1, 1, 1), id="size 0"),
        pytest.param(taught(A, line("chair", at(5, -1.0))), (2, 0, 0), (1, 1, 1), id="negative size"),
        pytest.param(taught(A, B.replace("5.0", '"5.0"')), (2, 0, 0), (1, 1, 1), id="a number as text"),
        pytest.param(taught(A, B.replace("5.0", "2.5 * 2")), (1, 0, 1), (1, 1, 1), id="an expression is not evaluated"),
        pytest.param(taught(A, B.replace("5.0", "1e999")), (1, 1, 1), (1, 1, 1), id="1e999"),
        pytest.param(taught(A, B.replace("chair", "Chair")), (1, 1, 1), (1, 1, 1), id="capital"),
        pytest.param(taught(A, B.replace("chair", " chair ")), (1, 1, 1), (2, 0, 0), id="label with spaces"),
        pytest.param(taught(A, B, A), (2, 1, 0), (2, 1, 0), id="duplicate"),
        pytest.param(taught(A.replace('"', "'"), B), (2, 0, 0), (2, 0, 0), id="single quotes"),
        pytest.param(f"<think>{A}</think>" + taught(B), (1, 0, 1), (1, 0, 1), id="thinking with a box on its line"),
        pytest.param("Boxes:\n" + A + "\n" + B + "\nDone.", (2, 0, 0), (2, 0, 0), id="lines in prose"),
        pytest.param("", (0, 0, 2), (0, 0, 2), id="no text"),
        pytest.param(f"[\n{A[:40]}", (0, 0, 2), (0, 1, 2), id="the only object cut off"),
        pytest.param(taught(A, line("chair", [*at(5)[:6], 0.0, 0.0])), (1, 1, 1), (1, 1, 1), id="8 numbers"),
        pytest.param(taught(A, '{"label": "chair", "bbox_3d": []}'), (1, 1, 1), (1, 1, 1), id="no numbers"),
        pytest.param(taught(A, '{"label": "chair", "bbox_3d": null}'), (1, 0, 1), (1, 1, 1), id="box null"),
        pytest.param(taught(A, '{"label": "chair", "bbox_3d": None}'), (1, 1, 1), (1, 1, 1), id="box None"),
        pytest.param(
            taught(A, '{"label": null, "bbox_3d": [5, 0, 2, 1, 1, 1, 0, 0, 0]}'), (1, 0, 1), (1, 1, 1), id="label null"
        ),
        pytest.param(
            taught(A, '{"label": 7, "bbox_3d": [5, 0, 2, 1, 1, 1, 0, 0, 0]}'), (1, 1, 1), (1, 1, 1), id="label a number"
        ),
        pytest.param(taught(A, B.replace("[5.0", "[[5.0]")), (1, 0, 1), (1, 1, 1), id="ragged"),
        pytest.param(taught(A, B.replace("5.0", "1" + "0" * 400)), (1, 0, 1), (1, 1, 1), id="a long whole number"),
        pytest.param(
            taught(A, line("chair", [*at(5)[:3], 1.0, 1.0, 1e-3, 0, 0, 0])), (1, 1, 1), (1, 1, 1), id="very thin"
        ),
        pytest.param(taught(A, B.replace(": [", ": (").replace("]}", ")}")), (2, 0, 0), (1, 1, 1), id="a tuple"),
        pytest.param(taught(A, B[:-1] + ', "score": 0.9}'), (2, 0, 0), (2, 0, 0), id="another key"),
        pytest.param(A + ",,\n" + B + ",", (2, 0, 0), (2, 0, 0), id="commas at the end"),
        pytest.param(A + ";\n" + B, (1, 0, 1), (2, 0, 0), id="a semicolon"),
        pytest.param("- " + A + "\n- " + B, (0, 0, 2), (2, 0, 0), id="a list with dashes"),
        pytest.param("```\n" + A + "\n" + B + "\n```", (2, 0, 0), (2, 0, 0), id="a fence without a language"),
        pytest.param(A + "\r\n" + B, (2, 0, 0), (2, 0, 0), id="carriage returns"),
        pytest.param(
            taught(A, A.replace("0.0, 0.0, 2.0", "0.01, 0.0, 2.0")), (1, 1, 1), (1, 1, 1), id="two at one target"
        ),
    ],
)
def test_odd_outputs(text: str, official: tuple[int, ...], robust: tuple[int, ...]) -> None:
    # The table itself is held against the description of the public scorer.
    by_label = public_counts(text, TWO).values()
    assert tuple(sum(column) for column in zip(*by_label, strict=True)) == official
    for scorer, want in (("official", official), ("robust", robust)):
        result = detection.score([make("0", TWO)], {"0": text}, scorer=scorer)
        micro = result.document["micro"]
        assert (micro["tp"], micro["fp"], micro["fn"]) == want, scorer
        tp, fp, fn = want
        assert result.details[0]["score"] == pytest.approx(2 * tp / (2 * tp + fp + fn)), scorer


def test_output_order_matters_officially_and_not_to_ours() -> None:
    # The first box takes the target that only the second could use.
    items = [("chair", at(0)), ("chair", at(0.5))]
    first, second = line("chair", at(0.3)), line("chair", at(0.9))
    # at(0.3) overlaps both (0.54, 0.67), at(0.9) only the second (0.43).
    for order, want in ((taught(first, second), 1), (taught(second, first), 2)):
        assert detection.score([make("0", items)], {"0": order}).document["micro"]["tp"] == want
        assert detection.score([make("0", items)], {"0": order}, scorer="robust").document["micro"]["tp"] == 2


def test_a_quarter_is_not_enough() -> None:
    for x, want in ((0.6, 0), (0.59, 1)):
        for scorer in ("official", "robust"):
            text = taught(line("chair", at(x)))
            assert detection.score([make("0", TWO)], {"0": text}, scorer=scorer).document["micro"]["tp"] == want


def test_towels_count_for_ours_and_lamps_twice_for_theirs() -> None:
    items = [("towel", at(0)), ("lamp", at(3))]
    text = detection_answer([label for label, _ in items], [box for _, box in items])
    official = detection.score([make("0", items)], {"0": text}).document
    robust = detection.score([make("0", items)], {"0": text}, scorer="robust").document
    assert official["classes_31"]["f1"] == pytest.approx(100 * 2 / 31)
    assert robust["classes_31"]["f1"] == pytest.approx(100 * 2 / 30)
    assert official["classes_31"]["classes"] == 31
    assert robust["classes_31"]["classes"] == 30
    for document in (official, robust):
        assert document["classes_20"]["f1"] == pytest.approx(100 / 20)
        assert document["classes_all"] == {"classes": 2, "precision": 100, "recall": 100, "f1": 100}


def test_labels_outside_the_sets_cost_only_the_pooled_numbers() -> None:
    text = taught(A, B, line("unicorn", at(0)), line("dragon", at(0)), line("dragon", at(1)))
    document = detection.score([make("0", TWO)], {"0": text}).document
    assert document["per_class"]["chair"] == {"tp": 2, "fp": 0, "fn": 0, "precision": 100, "recall": 100, "f1": 100}
    assert document["other_labels"] == {"labels": 2, "fp": 3}
    assert document["micro"]["fp"] == 3
    assert document["classes_all"]["precision"] == 100
    assert "unicorn" not in document["per_class"]


def test_mean_iou_counts_missed_targets_as_nothing() -> None:
    text = taught(line("chair", at(0.5)))
    document = detection.score([make("0", TWO)], {"0": text}).document
    assert document["mean_iou"] == pytest.approx(100 / 3 / 2)


def test_records_without_objects() -> None:
    records = [make(name, []) for name in "abcd"]
    predictions = {"a": "[]", "b": detection_answer([], []), "c": "nothing to see", "d": taught(A)}
    for scorer in ("official", "robust"):
        result = detection.score(records, predictions, scorer=scorer)
        assert [detail["score"] for detail in result.details] == [1, 1, 0, 0]
        assert result.document["classes_all"]["f1"] is None
        assert result.document["mean_iou"] is None
        assert result.document["classes_20"]["f1"] == 0
        assert result.document["unreadable"] == 1
        json.dumps(result.document, allow_nan=False)
    assert detection.score([], {}).document["n"] == 0


def test_what_is_missing_unreadable_or_unknown_is_counted() -> None:
    records = [make(name, TWO) for name in "abc"]
    result = detection.score(records, {"a": taught(A, B), "b": "no idea", "z": taught(A)})
    document = result.document
    assert (document["n"], document["missing"], document["unreadable"], document["unknown_ids"]) == (3, 1, 1, 1)
    assert document["parse_rate"] == pytest.approx(100 / 3)
    assert document["per_class"]["chair"]["fn"] == 4
    assert [detail["score"] for detail in result.details] == [1, 0, 0]
    assert [detail["why"] for detail in result.details][1:] == ["no line with a box", "no prediction"]
    assert document["unreadable_examples"][0]["id"] == "b"
    assert set(result.details[0]) == {"id", "score", "parts", "answer", "why"}
    assert result.details[0]["answer"][1] == {"label": "chair", "bbox_3d": at(5)}
    json.dumps(result.details, allow_nan=False)


def test_lost_lines_and_invalid_boxes_are_told_apart() -> None:
    text = taught(A, line("chair", at(5)[:7]), B[:-3], '{"label": "chair"}')
    document = detection.score([make("0", TWO)], {"0": text}).document
    assert (document["dropped"], document["invalid"]) == (2, 1)


def test_thinking_needs_its_style_under_the_official_scorer() -> None:
    text = "<think>\n" + A + "\n</think>\n<answer>" + taught(A, B) + "</answer>"
    direct = detection.score([make("0", TWO)], {"0": text}).document["micro"]
    think = detection.score([make("0", TWO)], {"0": text}, answer_style="think").document["micro"]
    assert (direct["tp"], direct["fp"]) == (2, 1)
    assert (think["tp"], think["fp"]) == (2, 0)


def test_text_is_never_evaluated(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = taught(A, f"{{'label': 'chair', 'bbox_3d': [open({str(marker)!r}, 'w')]}}")
    for scorer in ("official", "robust"):
        detection.score([make("0", TWO)], {"0": text}, scorer=scorer)
    assert not marker.exists()


def test_the_robust_record_score_is_the_reward() -> None:
    records, predictions = random_set(7)
    result = detection.score(records, predictions, scorer="robust")
    for record, detail in zip(records, result.details, strict=True):
        score = get("det_f1")(predictions[record.id], record)
        assert score is not None
        if not score.parts["duplicates"]:
            assert detail["score"] == pytest.approx(score.value, abs=1e-8)


def test_intervals_hold_the_value_and_repeat_with_the_seed() -> None:
    records, predictions = random_set(3)
    one, same, other = (detection.score(records, predictions, seed=seed) for seed in (0, 0, 1))
    assert one.document["intervals"] == same.document["intervals"]
    assert one.document["intervals"] != other.document["intervals"]
    low, high = one.document["intervals"]["micro.f1"]
    assert low < one.document["micro"]["f1"] < high
    rows = {(row.name, row.metric): row for row in one.rows}
    assert rows["classes_20", "f1"].value == one.document["classes_20"]["f1"]
    assert rows["mean_iou", "IoU"].interval == tuple(one.document["intervals"]["mean_iou"])
    assert detection.score(records[:1], predictions).document["intervals"]["micro.f1"] is None


def test_without_intervals_the_numbers_are_the_same() -> None:
    records, predictions = random_set(3)
    for scorer in ("official", "robust"):
        full = detection.score(records, predictions, scorer=scorer)
        bare = detection.score(records, predictions, scorer=scorer, intervals=False)
        assert bare.document == {**full.document, "intervals": {}}
        assert {row.interval for row in bare.rows} == {None}
        assert bare.details == full.details


def test_every_number_of_the_document_that_is_averaged_has_its_interval() -> None:
    records, predictions = random_set(3)
    document = detection.score(records, predictions).document
    assert {"classes_20.f1", "at_0.5.classes_31.recall", "at_0.5.micro.precision", "mean_iou"} < set(
        document["intervals"]
    )
    for key, bounds in document["intervals"].items():
        if bounds is not None:
            assert 0 <= bounds[0] <= bounds[1] <= 100, key


def test_at_a_half_a_box_must_be_closer() -> None:
    # IoU 0.6, 0.43 and 0.33; only the first is a box at 0.5.
    items: Items = [("chair", at(0)), ("bed", at(3)), ("lamp", at(6))]
    text = taught(line("chair", at(0.25)), line("bed", at(3.4)), line("lamp", at(6.5)))
    for scorer in ("official", "robust"):
        result = detection.score([make("0", items)], {"0": text}, scorer=scorer)
        document = result.document
        assert (document["micro"]["tp"], document["at_0.5"]["micro"]["tp"]) == (3, 1)
        assert document["at_0.5"]["micro"] == pytest.approx(
            {"tp": 1, "fp": 2, "fn": 2, "precision": 100 / 3, "recall": 100 / 3, "f1": 100 / 3}
        )
        assert document["at_0.5"]["classes_8"] == {"classes": 8, "precision": 12.5, "recall": 12.5, "f1": 12.5}
        assert document["at_0.5"]["per_class"]["bed"]["fn"] == 1
        assert document["per_class"]["bed"]["fn"] == 0
        assert result.details[0]["parts"]["tp@0.5"] == 1
        assert result.details[0]["score"] == 1


def test_clips_of_different_lengths_are_told_apart() -> None:
    def clip(frames: int) -> dict[str, Any]:
        return {"frames": [f"{i}.jpg" for i in range(frames)]}

    records = [make(name, TWO, video=clip(4)) for name in "ab"] + [make(name, TWO, video=clip(6)) for name in "cd"]
    records += [make("e", TWO, video={"path": "a.mp4", "frames": 6}), make("f", TWO, video={"path": "a.mp4"})]
    predictions = {"a": taught(A, B), "b": taught(A, B), "c": taught(A), "d": taught(A), "e": "[]", "f": taught(A, A)}
    result = detection.score(records, predictions)
    frames = result.document["frames"]
    assert {name: (part["n"], part["micro"]["recall"]) for name, part in frames.items()} == {
        "4": (2, 100),
        "6": (3, pytest.approx(100 / 3)),
        "default": (1, 50),
    }
    assert frames["4"]["classes_20"] == {"precision": 5, "recall": 5, "f1": 5}
    assert frames["6"]["at_0.5"]["micro"]["precision"] == 100
    alone = detection.score(records[:2], predictions)
    assert alone.document["frames"] == {}
    assert frames["4"]["classes_31"]["f1"] == alone.document["classes_31"]["f1"]
    rows = {row.name: (row.n, row.value) for row in result.rows if row.name.startswith("classes_20, ")}
    assert rows == {
        "classes_20, 4 frames": (2, 5),
        "classes_20, 6 frames": (3, frames["6"]["classes_20"]["f1"]),
        "classes_20, default frames": (1, frames["default"]["classes_20"]["f1"]),
    }


def test_the_table_begins_with_what_is_quoted_and_stays_short() -> None:
    records, predictions = random_set(2)
    rows = detection.score(records, predictions).rows
    assert [(row.name, row.metric) for row in rows[:6]] == [
        *[("classes_20", metric) for metric in ("f1", "precision", "recall")],
        *[("micro", metric) for metric in ("f1", "precision", "recall")],
    ]
    assert len(rows) <= 25
    assert len({(row.name, row.metric) for row in rows}) == len(rows)


def test_what_is_no_detection_record_is_refused() -> None:
    number = {"schema": 1, "id": "n", "task": "number", "video": {"path": "a"}, "prompt": "?", "target": {"value": 1}}
    with pytest.raises(DataError, match="record n is a number record"):
        detection.score([parse_record(json.dumps(number))], {})
    with pytest.raises(UsageError, match="unknown scorer"):
        detection.score([], {}, scorer="best")


def test_a_flood_of_text_is_scored() -> None:
    for text in ("[" * 300_000, A * 5000, (A + "\n") * 3000, '{"label": "x"\n' * 20_000):
        for scorer in ("official", "robust"):
            detection.score([make("0", TWO)], {"0": text}, scorer=scorer)


def test_what_is_reported_can_be_written() -> None:
    for text in ("\ud800", taught(A.replace("chair", "\ud800")), taught(A.replace("chair", "\\ud800"))):
        for scorer in ("official", "robust"):
            result = detection.score([make("0", TWO)], {"0": text}, scorer=scorer)
            json.dumps([result.document, result.details], ensure_ascii=False).encode("utf-8")
