from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scorers_captions import slow_bleu, slow_cider, slow_rouge

from rft3d_cli.benchmarks import scan2cap
from rft3d_cli.benchmarks.scan2cap import is_mine, score
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.records import Record

SAID = [
    ["This is a red chair. It is by the door.", "The chair, which is red, stands by the door."],
    ["A round table in the corner."],
    ["It's a two-door cupboard, 1.5 m high.", "a brown cupboard", "This is a CUPBOARD."],
    ["the bed is left of the window."],
]


def caption(index: int, references: list[str] | None = None, iou: Any = 1.0, **meta: Any) -> Record:
    data = {
        "id": str(index),
        "task": "text",
        "video": {"frames": ["0.jpg"]},
        "prompt": "Describe it.",
        "target": {"references": SAID[index % 4] if references is None else references},
        "meta": {"dataset": "scan2cap", "scene": f"scene{index % 3:04d}_00", "iou": iou, **meta},
    }
    return Record.model_validate(data)


def words_of_vgllm(text: str) -> str:
    """What VG-LLM gives to COCO's code: spaces around full stops and commas, lower case, a mark at each end."""
    for mark in ".,":
        text = f" {mark} ".join(text.split(mark))
    return f"sos {text.lower()} eos"


def slow(records: list[Record], predictions: dict[str, str], gate: float) -> dict[str, float]:
    met = [record.meta.model_extra["iou"] >= gate for record in records]
    said = [words_of_vgllm(predictions.get(r.id, "") if ok else "") for r, ok in zip(records, met, strict=True)]
    references = [[words_of_vgllm(text) for text in record.target.references] for record in records]
    rouge = [slow_rouge(text, right) for text, right in zip(said, references, strict=True)]
    return {
        "cider": 100 * float(np.mean(slow_cider(said, references))),
        "bleu4": 100 * slow_bleu(said, references)[3],
        "rouge_l": 100 * float(np.mean(rouge)),
    }


def check(records: list[Record], predictions: dict[str, str]) -> dict[str, Any]:
    document = score(records, predictions).document
    for end, gate in (("@0.5", 0.5), ("@0.25", 0.25), ("", 0.0)):
        expected = slow(records, predictions, gate)
        assert {name: document[name + end] for name in expected} == pytest.approx(expected, abs=1e-7)
    return document


ODD = [
    pytest.param("", id="nothing"),
    pytest.param(" \n\t", id="only space"),
    pytest.param("...,,,", id="only punctuation"),
    pytest.param("A red chair\nby the door.", id="two lines"),
    pytest.param("A  red   chair .", id="double spaces"),
    pytest.param("<think>A chair?</think><answer>A red chair.</answer>", id="tags"),
    pytest.param("<think>it never ends", id="thinking without end"),
    pytest.param("**A red chair.**", id="markdown"),
    pytest.param("Une chaise d'été — 椅子 🪑 İ", id="unicode"),
    pytest.param("half a \ud83d pair", id="half a surrogate pair"),
    pytest.param("sos eos sos eos", id="its own marks"),
    pytest.param("chair " * 2000, id="one word very often"),
]


@pytest.mark.parametrize("text", ODD)
def test_odd_captions_score_as_in_the_public_harness(text: str) -> None:
    records = [caption(0), caption(1), caption(2, iou=0.3), caption(3, iou=0.1)]
    known = text.encode("utf-8", "replace").decode()
    said = {str(i): known for i in range(4)}
    document = check(records, said)
    assert score(records, dict.fromkeys(said, text)).document == document


captions = st.lists(st.sampled_from(["a", "red", "chair", "table", ".", ",", "The"]), max_size=7).map(" ".join)
shares = st.sampled_from([0.0, 0.2, 0.25, 0.4999, 0.5, 0.8, 1.0])
cases = st.lists(st.tuples(captions, shares, st.lists(captions, min_size=1, max_size=3)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_any_captions_score_as_in_the_public_harness(rows: list[tuple[str, float, list[str]]]) -> None:
    records = [caption(i, right, iou) for i, (_, iou, right) in enumerate(rows)]
    check(records, {str(i): said for i, (said, _, _) in enumerate(rows)})


@settings(max_examples=25, deadline=None)
@given(cases, st.sampled_from(["official", "robust"]), st.randoms())
def test_the_order_changes_nothing_and_a_gate_adds_nothing(rows: list[Any], scorer: str, draw: Any) -> None:
    records = [caption(i, right, iou) for i, (_, iou, right) in enumerate(rows)]
    said = {str(i): text for i, (text, _, _) in enumerate(rows)}
    found = score(records, said, scorer=scorer, intervals=False).document
    mixed = draw.sample(records, len(records))
    again = score(mixed, said, scorer=scorer, intervals=False).document
    names = [f"{m}{e}" for e in scan2cap.GATES for m in scan2cap.METRICS]
    assert [again[n] for n in names] == pytest.approx([found[n] for n in names], abs=1e-9)
    # An empty caption cannot be nearer to any reference than to an empty one.
    if all(text.strip() for _, _, right in rows for text in right):
        assert found["cider@0.5"] <= found["cider@0.25"] + 1e-9 <= found["cider"] + 2e-9
    assert found["met@0.5"] <= found["met@0.25"]


def test_captions_of_boxes_that_miss_count_as_empty() -> None:
    said = {str(i): SAID[i][0] for i in range(4)}
    right = score([caption(i) for i in range(4)], said)
    missed = score([caption(i, iou=0.4 if i < 2 else 1.0) for i in range(4)], said)
    assert missed.document["cider@0.5"] < missed.document["cider@0.25"] == missed.document["cider"]
    assert missed.document["cider"] == right.document["cider"] == right.document["cider@0.5"]
    assert (missed.document["met@0.5"], missed.document["met@0.25"]) == (50.0, 100.0)
    first, last = missed.details[0], missed.details[3]
    assert (first["score"], first["why"]) == (0.0, "IoU 0.400: the box misses the object")
    assert first["parts"] == right.details[0]["parts"] | {"iou": 0.4}
    assert (last["score"], last["why"]) == (last["parts"]["cider"] / 10, "")
    assert np.mean([d["score"] for d in missed.details]) * 1000 == pytest.approx(missed.document["cider@0.5"])


def test_an_iou_of_exactly_half_meets() -> None:
    records = [caption(0, iou=0.5), caption(1, iou=0.25)]
    document = score(records, {"0": SAID[0][0], "1": SAID[1][0]}).document
    assert (document["met@0.5"], document["met@0.25"]) == (50.0, 100.0)


def test_records_without_an_iou_are_about_the_objects_own_boxes() -> None:
    records = [caption(0, iou=None), caption(1)]
    document = score(records, {"0": SAID[0][0], "1": SAID[1][0]}).document
    assert (document["without_iou"], document["met@0.5"]) == (1, 100.0)
    assert document["references"] == 3
    assert document["not_computed"] == ["meteor"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("A red Chair.", "a red chair", id="case and full stop"),
        pytest.param("It's 1.5 m, two-door!", "it 's 1.5 m two-door", id="numbers, hyphens, apostrophes"),
        pytest.param("don\u2019t 'quote' it", "don 't quote it", id="apostrophes of either kind"),
        pytest.param("**bold** `code` under_score", "bold code under score", id="markdown"),
        pytest.param("ﬁve １２ chairs", "five 12 chairs", id="other forms of letters"),
        pytest.param("-- ... !?", "", id="nothing but punctuation"),
        pytest.param("1,200 and 3,5", "1,200 and 3,5", id="grouped digits"),
    ],
)
def test_the_robust_scorer_compares_words(text: str, words: str) -> None:
    assert scan2cap._words(text) == words


def test_the_robust_scorer_reads_answers_in_tags() -> None:
    records = [caption(i, [SAID[i][0]]) for i in range(4)]
    plain = {str(i): SAID[i][0] for i in range(4)}
    tagged = {str(i): f"<think>Which?</think><answer>{SAID[i][0].upper()}</answer>" for i in range(4)}
    names = ("cider@0.5", "bleu4@0.5", "rouge_l@0.5")
    best = score(records, plain, scorer="robust").document
    assert [best[n] for n in names[1:]] == pytest.approx([100, 100])
    assert best["cider@0.5"] == pytest.approx(1000)
    assert [score(records, tagged, scorer="robust").document[n] for n in names] == [best[n] for n in names]
    direct, think = (score(records, tagged, answer_style=style).document for style in ("direct", "think"))
    assert direct["rouge_l@0.5"] < think["rouge_l@0.5"] == pytest.approx(100)


def test_missing_and_unreadable_captions_are_counted() -> None:
    records = [caption(i) for i in range(4)]
    result = score(records, {"0": SAID[0][0], "1": " ", "2": "!?", "9": "?"}, scorer="robust")
    head = {key: result.document[key] for key in ("n", "missing", "unreadable", "unknown_ids", "parse_rate")}
    assert head == {"n": 4, "missing": 1, "unreadable": 2, "unknown_ids": 1, "parse_rate": 25.0}
    assert [d["why"] for d in result.details] == ["", "no text", "no words", "no prediction"]
    assert [d["answer"] for d in result.details][1:] == [None, None, None]
    assert score(records, {"2": "!?"}).document["unreadable"] == 0


def test_intervals_hold_the_numbers_and_rows_show_them() -> None:
    records = [caption(i, iou=0.1 if i % 5 == 0 else 0.9, scene=f"scene{i % 15:04d}_00") for i in range(60)]
    said = {str(i): SAID[i % 4 if i % 3 else (i + 1) % 4][0] for i in range(60)}
    result = score(records, said)
    names = [f"{m}{e}" for e in scan2cap.GATES for m in scan2cap.METRICS]
    assert [*result.document["intervals"]] == names
    for name in names:
        low, high = result.document["intervals"][name]
        assert low < result.document[name] < high
    assert [(row.metric, row.value) for row in result.rows] == [
        (m, result.document[m + e]) for e in scan2cap.GATES for m in scan2cap.METRICS
    ]
    assert {row.name for row in result.rows} == {"IoU >= 0.5", "IoU >= 0.25", "all boxes"}
    again, other = score(records, said), score(records, said, seed=1)
    assert again.document == result.document
    assert other.document["intervals"] != result.document["intervals"]
    bare = score(records, said, intervals=False)
    assert bare.document == {**result.document, "intervals": {}}
    assert all(row.interval is None for row in bare.rows)


def test_one_scene_has_no_intervals() -> None:
    assert score([caption(0), caption(3)], {}).document["intervals"] == {}


def test_the_counts_of_bleu_are_resampled_not_its_values() -> None:
    # Two scenes: drawn are both, or one of them twice; the bounds must be values of whole sets.
    records = [caption(0, ["a b c d e"]), caption(1, ["a b c d x y z w"])]
    said = {"0": "a b c d e", "1": "a b c d"}
    document = score(records, said, scorer="robust").document
    sets = [["0", "0"], ["0", "1"], ["1", "1"]]
    values = [
        100 * slow_bleu([said[i] for i in some], [[records[int(i)].target.references[0]] for i in some])[3]
        for some in sets
    ]
    assert document["bleu4"] == pytest.approx(values[1])
    assert sorted(document["intervals"]["bleu4"]) == pytest.approx([min(values), max(values)])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        pytest.param(caption(0, []), "no reference captions", id="no references"),
        pytest.param(caption(0, iou="0.5"), "meta.iou '0.5' is not a number", id="an IoU in words"),
        pytest.param(caption(0, iou=True), "is not a number", id="an IoU that is true"),
        pytest.param(caption(0).model_copy(update={"target": None}), "no reference captions", id="no target"),
    ],
)
def test_records_that_cannot_be_scored_are_named(record: Record, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        score([record], {})
    assert "record 0" in error.value.message


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown scorer 'meteor'"):
        score([caption(0)], {}, scorer="meteor")


def test_no_records_have_no_numbers() -> None:
    document = score([], {}).document
    assert (document["n"], document["cider@0.5"], document["bleu4"], document["met@0.5"]) == (0, None, None, None)


def test_its_records_are_told_by_their_data_set() -> None:
    record = caption(0)
    assert is_mine(record)
    assert not is_mine(record.model_copy(update={"meta": record.meta.model_copy(update={"dataset": "sqa3d"})}))


def test_a_validation_set_is_scored_in_seconds() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(3000)]
    rare = 1 / np.arange(1, 3001)
    drawn = iter(rng.choice(words, p=rare / rare.sum(), size=9508 * 2 * 18).reshape(-1, 18).tolist())
    records = [caption(i, [" ".join(next(drawn)) + "."], iou=0.3 if i % 6 == 0 else 0.9) for i in range(9508)]
    said = {record.id: " ".join(next(drawn)) + "." for record in records}
    start = time.process_time()
    score(records, said)
    assert time.process_time() - start < 10


def test_scoring_captions_imports_no_torch() -> None:
    code = "import sys, rft3d_cli.benchmarks.scan2cap, rft3d_cli.benchmarks.sqa3d\nprint('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
