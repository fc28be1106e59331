from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.answers.objects import object_spans
from rft3d_cli.benchmarks import detection
from rft3d_cli.benchmarks._detection_curve import curve
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.records import Record, parse_record

Items = list[tuple[str, list[float]]]


def at(x: float, size: float = 1.0) -> list[float]:
    return [float(x), 0.0, 2.0, size, 1.0, 1.0, 0.0, 0.0, 0.0]


def make(name: str, items: Items) -> Record:
    record = {
        "id": name,
        "task": "detection",
        "video": {"frames": ["0.jpg"]},
        "prompt": "?",
        "target": {"boxes": [{"label": label, "bbox_3d": box} for label, box in items]},
        "meta": {"scene": name},
    }
    return parse_record(json.dumps(record))


def line(label: str, box: list[float]) -> str:
    return json.dumps({"label": label, "bbox_3d": box})


def taught(*lines: str) -> str:
    return "```json\n[\n\t" + ",\n\t".join(lines) + "\n]```"


TWO: Items = [("chair", at(0)), ("chair", at(5))]
A, B, FAR = line("chair", at(0)), line("chair", at(5)), line("chair", at(20))


def confident(texts: dict[str, str], values: dict[str, list[float]], records: list[Record], **more: Any) -> Any:
    return detection.score(records, texts, confidence=values, intervals=False, **more)


# ---- Objects


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        pytest.param(taught(A, B), [A, B], id="as taught"),
        pytest.param("", [], id="nothing"),
        pytest.param('{"a": {"b": 1}}', ['{"b": 1}'], id="the innermost of nested ones"),
        pytest.param('{}{"a', ["{}"], id="cut off"),
        pytest.param("}{ x }{", ["{ x }"], id="loose braces"),
        pytest.param('{"椅子": "😀"} é {1}', ['{"椅子": "😀"}', "{1}"], id="other letters"),
        pytest.param("{\n1\n}", ["{\n1\n}"], id="over lines"),
    ],
)
def test_objects_of_a_text(text: str, objects: list[str]) -> None:
    assert [text[start:end] for start, end in object_spans(text)] == objects


def test_a_flood_of_braces_takes_no_time() -> None:
    for text in ("{" * 300_000, "{a" * 200_000, "{" + "a" * 300_000, "{}" * 100_000):
        assert len(object_spans(text)) == text.count("{}")


# ---- The curve and average precision against plain loops


def plain_matches(records: list[Record], boxes: dict[str, list[tuple[str, list[float], float]]], t: float) -> list:
    """``(confidence, label, right)`` of all boxes: in a record the surest first, each the best target that is left."""
    out = []
    for record in records:
        target: Any = record.target
        left = list(range(len(target.boxes)))
        for label, box, sure in sorted(boxes[record.id], key=lambda item: -item[2]):
            best, where = t, None
            for j in left:
                other = target.boxes[j]
                if other.label == label:
                    shared = 1.0
                    union = box[3] * box[4] * box[5] + np.prod(other.bbox_3d[3:6])
                    for k in range(3):
                        low = max(box[k] - box[3 + k] / 2, other.bbox_3d[k] - other.bbox_3d[3 + k] / 2)
                        high = min(box[k] + box[3 + k] / 2, other.bbox_3d[k] + other.bbox_3d[3 + k] / 2)
                        shared *= max(0.0, high - low)
                    if round(shared / (union - shared), 12) > best:
                        best, where = round(shared / (union - shared), 12), j
            if where is not None:
                left.remove(where)
            out.append((sure, label, where is not None))
    return out


def plain_ap(found: list[tuple[float, bool]], targets: int) -> float:
    """The area under the monotone precision, by its definition: over every threshold, the best precision from there."""
    points = []
    for threshold in sorted({sure for sure, _ in found}, reverse=True):
        kept = [right for sure, right in found if sure >= threshold]
        points.append((sum(kept) / targets, sum(kept) / len(kept)))
    area, before = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[i:])
        before = recall
    return area


def random_set(seed: int, ties: bool) -> tuple[list[Record], dict[str, list[tuple[str, list[float], float]]]]:
    rng = np.random.default_rng(seed)
    names = ["chair", "bed", "vase", "lamp"]
    records, boxes = [], {}
    for i in range(25):
        items: Items = []
        mine = []
        for _ in range(rng.integers(0, 6)):
            box = [*rng.uniform(-1.5, 1.5, 3), *rng.uniform(0.4, 1.5, 3), 0.0, 0.0, 0.0]
            items.append((names[rng.integers(0, 4)], box))
        for label, box in items:
            for _ in range(rng.integers(0, 3)):
                moved = [*(np.array(box[:3]) + rng.normal(0, 0.2, 3)), *box[3:]]
                mine.append((label, moved, float(-rng.exponential(0.5))))
        if rng.random() < 0.5:
            mine.append(("unicorn", at(0), float(-rng.exponential(0.5))))
        if ties:
            mine = [(label, box, round(sure, 1)) for label, box, sure in mine]
        rng.shuffle(mine)  # type: ignore[arg-type]
        mine = [(str(label), [float(x) for x in box], float(sure)) for label, box, sure in mine]
        records.append(make(str(i), items))
        boxes[str(i)] = mine
    return records, boxes


@pytest.mark.parametrize("scorer", ["official", "robust"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_curve_and_average_precision_follow_their_definitions(seed: int, ties: bool, scorer: str) -> None:
    records, boxes = random_set(seed, ties)
    texts = {name: taught(*[line(label, box) for label, box, _ in mine]) for name, mine in boxes.items()}
    values = {name: [sure for _, _, sure in mine] for name, mine in boxes.items()}
    found = confident(texts, values, records, scorer=scorer).document["confidence"]
    labels = [box.label for record in records for box in record.target.boxes]  # type: ignore[union-attr]
    for t in (0.25, 0.5):
        rows = plain_matches(records, boxes, t)
        aps = {
            name: 100 * plain_ap([(sure, right) for sure, label, right in rows if label == name], labels.count(name))
            for name in set(labels)
        }
        assert {name: part[f"ap@{t}"] for name, part in found["per_class"].items()} == pytest.approx(aps)
        assert found[f"ap@{t}"] == pytest.approx(np.mean(list(aps.values())))
        few = [aps[name] for name in aps if name != "vase"]
        assert found["classes_20"] == {
            **found["classes_20"],
            "classes": len(few),
            f"ap@{t}": pytest.approx(np.mean(few)),
        }
    rows = plain_matches(records, boxes, 0.25)
    for point in found["curve"]:
        kept = [right for sure, _, right in rows if sure >= point["threshold"]]
        tp = sum(kept)
        assert point == pytest.approx(
            {
                "threshold": point["threshold"],
                "n": len(kept),
                "precision": 100 * tp / len(kept),
                "recall": 100 * tp / len(labels),
                "f1": 100 * 2 * tp / (len(kept) + len(labels)),
            }
        )
    assert len(found["curve"]) == len({sure for sure, _, _ in rows})
    assert found["best"] in found["curve"]
    assert found["best"]["f1"] == max(point["f1"] for point in found["curve"])
    assert found["boxes"] == found["curve"][-1]["n"] == len(rows)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(-4, 0), st.booleans()), max_size=12),
    more=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_a_curve_is_monotone_and_free_of_order(rows: list[tuple[int, bool]], more: int, order: Any) -> None:
    targets = sum(right for _, right in rows) + more
    shuffled = order.sample(rows, len(rows))
    found, other = (
        curve(np.array([sure for sure, _ in some], float), np.array([right for _, right in some], bool), targets)
        for some in (rows, shuffled)
    )
    for name in ("threshold", "tp", "kept", "precision", "recall", "f1"):
        assert getattr(found, name).tolist() == getattr(other, name).tolist()
    assert (np.diff(found.recall) >= 0).all()
    assert (np.diff(found.threshold) < 0).all()
    area = found.average_precision()
    assert -1e-12 <= area <= 1 + 1e-12
    if targets:
        assert area == pytest.approx(plain_ap([(float(sure), right) for sure, right in rows], targets))
        assert area <= found.recall.max(initial=0.0) + 1e-12


def test_a_long_curve_is_thinned_and_keeps_its_best_point() -> None:
    count, group = 900, 30
    items: Items = [("chair", at(3 * i)) for i in range(group)]
    records = [make(str(i), items) for i in range(count // group)]
    lines = [line("chair", at(3 * (i % group) if i < 333 else -9)) for i in range(count)]
    parts = [slice(i, i + group) for i in range(0, count, group)]
    values = {str(i): [-place / count for place in range(count)[part]] for i, part in enumerate(parts)}
    found = confident({str(i): taught(*lines[part]) for i, part in enumerate(parts)}, values, records)
    found = found.document["confidence"]
    assert len(found["curve"]) <= 200
    assert found["curve"][0]["n"] == 1
    assert found["curve"][-1]["n"] == count
    assert found["best"]["n"] == 333
    assert found["best"] in found["curve"]


# ---- Which box a confidence belongs to


@pytest.mark.parametrize(
    ("text", "values", "official", "robust"),
    [
        pytest.param(taught(A, B), [-1.0, -2.0], [-1, -2], [-1, -2], id="as taught"),
        pytest.param(f"[{A}, {B}]", [-1.0, -2.0], [], [-1, -2], id="one line"),
        pytest.param(taught(A, B[:-20]), [-1.0], [-1], [-1, None], id="cut off"),
        pytest.param(taught(B.replace("5.0", "oops"), A), [-1.0, -2.0], [-2], [-2, -1], id="the first is lost"),
        pytest.param(taught(A, A), [-1.0, -2.0], [-1, -2], [-1, -2], id="twice the same"),
        pytest.param(taught("{}", A), [-1.0, -2.0], [-2], [-2, -1], id="an empty object"),
        pytest.param(f"<think>{A}</think>" + taught(A), [-1.0, -2.0], [-2], [-2], id="the same in the thinking"),
        pytest.param(
            f"{A}, {B}\n{A}", [-9.0, -1.0, -0.1], [-0.1], [-9, -1, -0.1], id="the same in a line that is lost"
        ),
        pytest.param(f"{A}, {A}\n{A}\n{A}", [-9.0, -8.0, -2.0, -1.0], [-2, -1], [-9, -8, -2, -1], id="twice so"),
        pytest.param(f"<think>.</think><answer>{A}</answer>\n{A}", [-1.0, -2.0], [-1], [-1], id="the same afterwards"),
        pytest.param("json\n" + f"{A},\n{A}" + "\n```", [-1.0, -2.0], [-1, -2], [-1, -2], id="half a fence"),
        pytest.param("nothing", [], [], [], id="nothing"),
        pytest.param(
            taught(A.replace("chair", "Chaise longue é 😀"), B), [-1.0, -2.0], [-1, -2], [-1, -2], id="letters"
        ),
        pytest.param(taught(A.replace("chair", "\ud800"), B), [-1.0, -2.0], [-1, -2], [-2, -1], id="half a pair"),
        pytest.param(taught(A[:-1] + ', "more": {"x": 1}}', B), [-1.0, -2.0], [None, -2], [None, -2], id="nested"),
    ],
)
def test_each_box_has_the_confidence_of_its_object(
    text: str, values: list[float], official: list[float], robust: list[float]
) -> None:
    for scorer, wanted in (("official", official), ("robust", robust)):
        style = "think" if "<think>" in text else "direct"
        result = confident({"0": text}, {"0": values}, [make("0", TWO)], scorer=scorer, answer_style=style)
        answer = result.details[0]["answer"] or []
        assert [box["confidence"] for box in answer] == wanted, scorer
        json.dumps(result.document, allow_nan=False)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        pytest.param({"0": [-1.0]}, "prediction 0: 1 confidences for 2 boxes", id="too few"),
        pytest.param({"0": [-1.0] * 3}, "prediction 0: 3 confidences for 2 boxes", id="too many"),
        pytest.param({}, "prediction 0: 0 confidences for 2 boxes", id="none"),
        pytest.param({"0": [-1.0, float("nan")]}, "prediction 0: a confidence is not a finite number", id="NaN"),
        pytest.param({"0": [-1.0, float("-inf")]}, "prediction 0: a confidence is not a finite number", id="infinite"),
    ],
)
def test_confidences_that_do_not_fit_are_named(values: dict[str, list[float]], problem: str) -> None:
    for scorer in ("official", "robust"):
        with pytest.raises(DataError, match=re.escape(problem)):
            confident({"0": taught(A, B)}, values, [make("0", TWO)], scorer=scorer)


def test_a_record_without_a_prediction_or_without_boxes_needs_no_confidence() -> None:
    records = [make(name, TWO) for name in "abc"]
    found = confident({"b": "none", "c": taught(A)}, {"c": [-0.5], "z": [1.0]}, records).document
    assert found["missing"] == 1
    assert found["confidence"]["boxes"] == 1
    assert found["confidence"]["best"]["recall"] == pytest.approx(100 / 6)


# ---- Leaving boxes out


def test_a_least_confidence_leaves_boxes_out_before_scoring() -> None:
    texts, values = {"0": taught(A, FAR, B)}, {"0": [-0.1, -2.0, -0.5]}
    for scorer in ("official", "robust"):
        records = [make("0", TWO)]
        every = confident(texts, values, records, scorer=scorer)
        some = confident(texts, values, records, scorer=scorer, min_confidence=-0.5)
        one = confident(texts, values, records, scorer=scorer, min_confidence=-0.2)
        none = confident(texts, values, records, scorer=scorer, min_confidence=0.0)
        counts = [tuple(r.document["micro"][k] for k in ("tp", "fp", "fn")) for r in (every, some, one, none)]
        assert counts == [(2, 1, 0), (2, 0, 0), (1, 0, 1), (0, 0, 2)]
        assert [r.document["confidence"]["left_out"] for r in (every, some, one, none)] == [0, 1, 2, 3]
        assert some.document["confidence"]["min_confidence"] == -0.5
        assert some.document["confidence"]["curve"] == every.document["confidence"]["curve"]
        assert some.details[0]["why"] == "2 found, 0 wrong, 0 missed, 1 left out"
        assert none.document["unreadable"] == 0
        assert none.details[0]["answer"] == []
        # The point of the curve is the score of what is kept.
        point = every.document["confidence"]["best"]
        assert point["threshold"] == -0.5
        assert point["f1"] == some.document["micro"]["f1"] == 100


def test_a_least_confidence_below_all_changes_nothing_else() -> None:
    records, boxes = random_set(5, ties=False)
    texts = {name: taught(*[line(label, box) for label, box, _ in mine]) for name, mine in boxes.items()}
    values = {name: [sure for _, _, sure in mine] for name, mine in boxes.items()}
    for scorer in ("official", "robust"):
        bare = detection.score(records, texts, scorer=scorer, intervals=False)
        every = confident(texts, values, records, scorer=scorer, min_confidence=-1e9)
        assert {**every.document, "confidence": None} == {**bare.document, "confidence": None}
        cut = confident(texts, values, records, scorer=scorer, min_confidence=-0.3)
        again = {
            name: taught(*[line(label, box) for label, box, sure in mine if sure >= -0.3])
            for name, mine in boxes.items()
        }
        alone = detection.score(records, again, scorer=scorer, intervals=False)
        for key in ("micro", "classes_20", "at_0.5", "mean_iou", "per_class"):
            assert cut.document[key] == alone.document[key]


def test_a_least_confidence_needs_confidences() -> None:
    with pytest.raises(UsageError, match="a least confidence needs predictions with confidences"):
        detection.score([make("0", TWO)], {"0": taught(A)}, min_confidence=-1.0)


def test_unusable_boxes_count_as_wrong_on_the_curve() -> None:
    text = taught(A, line("chair", at(5)[:7]))
    found = confident({"0": text}, {"0": [-1.0, -0.1]}, [make("0", TWO)]).document["confidence"]
    assert [(point["n"], point["precision"]) for point in found["curve"]] == [(1, 0), (2, 50)]
    assert found["ap@0.25"] == 25


def test_a_file_without_targets_has_no_average_precision() -> None:
    found = confident({"0": taught(A)}, {"0": [-1.0]}, [make("0", [])]).document["confidence"]
    assert (found["ap@0.25"], found["ap@0.5"], found["per_class"]) == (None, None, {})
    assert found["curve"] == [{"threshold": -1, "precision": 0, "recall": 0, "f1": 0, "n": 1}]
    empty = confident({}, {}, []).document["confidence"]
    assert (empty["best"], empty["curve"], empty["boxes"]) == (None, [], 0)
