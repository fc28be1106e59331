from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.benchmarks import sqa3d
from rft3d_cli.benchmarks.sqa3d import TYPES, cleaned, is_mine, score
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.records import Record


def question(index: int, *answers: str, kind: str | None = "what", scene: str | None = None) -> Record:
    data = {
        "id": str(index),
        "task": "text",
        "video": {"path": "scene.mp4"},
        "prompt": "?",
        "target": {"references": list(answers)},
        "meta": {"dataset": "sqa3d", "scene": scene or f"scene{index % 7:04d}_00", "question_type": kind},
    }
    return Record.model_validate(data)


def em(text: str, *answers: str, **options: Any) -> tuple[float, float]:
    found = score([question(0, *answers)], {"0": text}, **options).document["overall"]
    return found["em"] / 100, found["em_refined"] / 100


# ---- The public rules, one after the other, from their description

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
SLIPS = {"letf": "left", "let": "left", "tehre": "there", "rigth": "right", "rght": "right", "behine": "behind"}
MORE_SLIPS = {"tv": "TV", "chai": "chair", "wasing": "washing", "waslked": "walked", "oclock": "o'clock"}
DIGITS = {**{str(n): word for n, word in enumerate(NUMBERS.split())}, "23": "twenty-three"}


def rules(text: str) -> str:
    text = text.lower()
    while text.endswith(" "):
        text = text[:-1]
    while text.startswith(" "):
        text = text[1:]
    while "  " in text:
        text = text.replace("  ", " ")
    kept = "abcdefghijklmnopqrstuvwxyz0123456789,'-:"
    text = "".join(c for c in text if c in kept or c.isspace() or c in "\x1c\x1d\x1e\x1f\x85")
    for wrong, right in [*SLIPS.items(), *MORE_SLIPS.items()]:
        text = re.sub(rf"\b{wrong}\b", right, text)
    text = re.sub(r"\bo'[ ]+clock\b", "o'clock", text)
    for wrong, right in [*list(DIGITS.items())[:1], ("none", "zero"), *list(DIGITS.items())[1:]]:
        text = re.sub(rf"\b{wrong}\b", right, text)
    text = re.sub(r"\b([a-zA-Z]+)([0-9])\b", r"\1", text)
    for article in ("a", "an", "the"):
        text = re.sub(rf"\b{article}\b ([a-zA-Z]+)", r"\1", text)
    return re.sub(r"\bbackwards\b", "backward", text)


def public(text: str, answers: list[str]) -> tuple[bool, bool]:
    said = rules(text.strip().split("\n")[0])
    right = [rules(answer) for answer in answers]
    if not said:
        return False, False
    bare, others = "".join(said.split()), ["".join(answer.split()) for answer in right]
    return said in right, bool(bare) and any(o and (bare in o or o in bare) for o in others)


ODD = [
    "", " ", "\n", "...", "?!", "'", "-", ",", "a", "the", "The chair.", "the the chair", "a an the chair",
    "an a chair", "? ?", "  two   chairs ", "2", "02", "2.0", "1,2", "1-2", "20", "21", "23", "24",
    "none", "None.", "no1", "mat2", "b12", "x1 y2", "TV",
    "a tv.", "tv1", "letf", "let's go", "to my rigth", "rght", "o clock", "o' clock", "2 o'  clock",
    "2 oclock", "11 o\u2019clock", "backwards", "go backwards 3", "yes .", "yes\nbecause", "\n\n yes", "left/right",
    "left & right", "na\u00efve", "\u00e7a", "caf\u00e9", "\u6905\u5b50", "\u0130", "\u212a", "\u0664", "left\tright",
    "left\u00a0right", "left\x1cright", "<answer>yes</answer>", "**yes**", "chai", "wasing machine", "0 chairs",
    "yes " * 500,
]  # fmt: skip


@pytest.mark.parametrize("text", ODD, ids=[repr(text)[:24] for text in ODD])
def test_odd_answers_are_cleaned_and_compared_by_the_public_rules(text: str) -> None:
    assert cleaned(text) == rules(text)
    for right in ("yes", "two", "chair", "o'clock", "twenty-three", "TV", "left right", "zero"):
        assert em(text, right) == tuple(map(float, public(text, [right])))


pieces = st.sampled_from(
    [*SLIPS, *MORE_SLIPS, *DIGITS, "none", "a", "an", "the", "o'", "clock", "no1", "é", "_", "1st"]
)
marks = st.sampled_from([" ", "  ", "", ", ", ". ", "-", "'", ":", "\n", "\t", "_"])
answers = st.lists(st.tuples(pieces, marks), max_size=6).map(lambda parts: "".join(a + b for a, b in parts))


@settings(max_examples=300, deadline=None)
@given(st.one_of(answers, st.text(max_size=20)))
def test_any_answer_is_cleaned_by_the_public_rules(text: str) -> None:
    assert cleaned(text) == rules(text)


@settings(max_examples=100, deadline=None)
@given(answers, st.lists(answers, min_size=1, max_size=3))
def test_any_answers_are_compared_by_the_public_rules(text: str, right: list[str]) -> None:
    assert em(text, *right) == tuple(map(float, public(text, right)))


# ---- By hand


@pytest.mark.parametrize(
    ("text", "right", "official", "robust"),
    [
        pytest.param("brown", "brown", (1, 1), (1, 1), id="equal"),
        pytest.param("The Brown.", "brown", (1, 1), (1, 1), id="article, case and full stop"),
        pytest.param("3", "three", (1, 1), (1, 1), id="a digit"),
        pytest.param("21", "twenty-one", (0, 0), (1, 1), id="a larger number"),
        pytest.param("twenty one", "21", (0, 0), (1, 1), id="a larger number the other way round"),
        pytest.param("brown chair", "chair", (0, 1), (0, 1), id="more words"),
        pytest.param("chair", "office chair", (0, 1), (0, 1), id="fewer words"),
        pytest.param("on", "one", (0, 1), (0, 0), id="letters of another word"),
        pytest.param("office-chair", "office chair", (0, 0), (1, 1), id="a hyphen"),
        pytest.param("officechair", "office chair", (0, 1), (0, 0), id="a missing space"),
        pytest.param("yes .", "yes", (0, 1), (1, 1), id="a space before the full stop"),
        pytest.param("2 o'clock", "two oclock", (1, 1), (1, 1), id="the hour"),
        pytest.param("2 o clock", "two o'clock", (0, 0), (1, 1), id="the hour in three words"),
        pytest.param("<think>left?</think><answer>right</answer>", "right", (0, 1), (1, 1), id="tags"),
        pytest.param("**Right**", "right", (1, 1), (1, 1), id="markdown"),
        pytest.param(r"\boxed{right}", "right", (0, 1), (1, 1), id="boxed"),
        pytest.param("yes, I can", "yes", (0, 1), (0, 1), id="a sentence"),
        pytest.param("no\nyes", "yes", (0, 0), (0, 0), id="the first line counts"),
        pytest.param("zero", "none", (1, 1), (1, 1), id="none is zero"),
        pytest.param("ＴＶ", "tv", (0, 0), (1, 1), id="wide letters"),
        pytest.param("", "yes", (0, 0), (0, 0), id="nothing"),
        pytest.param("?", "yes", (0, 0), (0, 0), id="nothing after cleaning"),
        pytest.param("the", "the table", (0, 0), (0, 0), id="an article alone"),
        pytest.param("<think>it never ends", "it", (0, 1), (0, 0), id="thinking without end"),
    ],
)
def test_answers_by_hand(text: str, right: str, official: tuple[int, int], robust: tuple[int, int]) -> None:
    assert em(text, right) == official
    assert em(text, right, scorer="robust") == robust


def test_tags_are_opened_where_asked() -> None:
    text = "<think>left or right?</think><answer>right</answer>"
    assert em(text, "right", answer_style="think") == (1, 1)


def test_any_of_several_right_answers_counts() -> None:
    assert em("sofa", "couch", "sofa") == (1, 1)
    assert em("red sofa", "couch", "sofa", scorer="robust") == (0, 1)


@pytest.mark.parametrize("scorer", ["official", "robust"])
@pytest.mark.parametrize("right", ["left", "two", "TV", "o'clock", "office chair", "23", "none", "the TV", "a b c"])
def test_the_right_answer_is_right(right: str, scorer: str) -> None:
    assert em(right, right, scorer=scorer) == (1, 1)


@settings(max_examples=100, deadline=None)
@given(answers, answers, st.sampled_from(["official", "robust"]))
def test_what_is_exact_is_also_refined(text: str, right: str, scorer: str) -> None:
    exact, refined = em(text, right, scorer=scorer)
    assert exact <= refined


# ---- The document


def mixed() -> tuple[list[Record], dict[str, str]]:
    kinds = [*TYPES, None]
    records = [
        question(i, "yes" if i % 2 else "two", kind=kinds[i % 7], scene=f"scene{i % 11:04d}_00") for i in range(70)
    ]
    return records, {r.id: ("yes", "Yes, it is", "2", "no")[i % 4] for i, r in enumerate(records)}


def test_types_and_overall_are_means_of_questions() -> None:
    records, said = mixed()
    document = score(records, said).document
    for name in TYPES:
        mine = [r for r in records if r.meta.question_type == name]
        points = [public(said[r.id], r.target.references) for r in mine]
        expected = {"n": len(mine), "em": 100 * sum(p[0] for p in points) / len(mine)}
        assert document["types"][name] == pytest.approx(
            {**expected, "em_refined": 100 * sum(p[1] for p in points) / len(mine)}
        )
    assert document["overall"]["n"] == 70
    assert sum(document["types"][name]["n"] for name in TYPES) == 60


def test_details_say_what_was_read() -> None:
    records = [question(0, "two"), question(1, "two"), question(2, "two"), question(3, "two")]
    result = score(records, {"0": "2", "1": "two chairs", "2": "?"})
    assert [(d["score"], d["parts"]["em_refined"], d["answer"], d["why"]) for d in result.details] == [
        (1.0, 1.0, "two", ""),
        (0.0, 1.0, "two chairs", "'two chairs', not 'two'"),
        (0.0, 0.0, None, "no answer"),
        (0.0, 0.0, None, "no prediction"),
    ]
    head = {key: result.document[key] for key in ("n", "missing", "unreadable", "parse_rate")}
    assert head == {"n": 4, "missing": 1, "unreadable": 1, "parse_rate": 50.0}


def test_intervals_hold_the_numbers_and_rows_show_them() -> None:
    records, said = mixed()
    result = score(records, said)
    document = result.document
    for metric in ("em", "em_refined"):
        low, high = document["intervals"][f"overall.{metric}"]
        assert low < document["overall"][metric] < high
    assert {*document["intervals"]} == {
        f"{name}.{metric}" for name in ("overall", *(f"types.{t}" for t in TYPES)) for metric in ("em", "em_refined")
    }
    assert [(row.name, row.metric) for row in result.rows] == [
        (name, metric) for name in (*TYPES, "overall") for metric in ("em", "em_refined")
    ]
    assert result.rows[-2].value == document["overall"]["em"]
    assert score(records, said, seed=1).document["intervals"] != document["intervals"]
    assert score(records, said, intervals=False).document == {**document, "intervals": {}}


@settings(max_examples=20, deadline=None)
@given(st.randoms())
def test_the_order_changes_nothing(draw: Any) -> None:
    records, said = mixed()
    found = score(records, said, intervals=False).document
    again = score(draw.sample(records, len(records)), said, intervals=False).document
    assert (again["overall"], again["types"]) == (found["overall"], found["types"])


def test_types_that_are_absent_have_no_number() -> None:
    document = score([question(0, "yes", kind="is")], {"0": "yes"}).document
    assert document["types"]["what"] == {"n": 0, "em": None, "em_refined": None}
    assert document["intervals"] == {}
    assert score([], {}).document["overall"] == {"n": 0, "em": None, "em_refined": None}


@pytest.mark.parametrize("answers", [(), None])
def test_records_without_an_answer_are_named(answers: Any) -> None:
    record = question(5) if answers == () else question(5, "x").model_copy(update={"target": None})
    with pytest.raises(DataError, match="record 5 has no right answer"):
        score([record], {})


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown answer style"):
        score([question(0, "yes")], {}, answer_style="loud")


def test_its_records_are_told_by_their_data_set() -> None:
    record = question(0, "yes")
    assert is_mine(record)
    assert not is_mine(record.model_copy(update={"meta": record.meta.model_copy(update={"dataset": "scan2cap"})}))
    assert sqa3d.DATASET == "sqa3d"
