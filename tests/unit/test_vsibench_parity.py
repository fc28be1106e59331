from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.benchmarks import vsibench
from rft3d_cli.errors import DataError
from rft3d_cli.lines import read_predictions
from rft3d_cli.mra import mean_relative_accuracy
from rft3d_cli.prepare.vsibench_questions import published_questions
from rft3d_cli.records import RecordFile

CHOICES = ("object_rel_distance", "route_planning", "obj_appearance_order")
NUMBERS = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
LEVELS = tuple(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard"))
FULL = dict(zip(vsibench.TYPES, (565, 834, 953, 288, 710, 217, 378, 373, 194, 618), strict=True))


# The public scorer, written from its description alone ----------------------------------------------------------------


def token_of(prediction: Any) -> str:
    return str.strip(prediction.split(" ")[0].rstrip("."))


def number_of(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def public_score(kind: str, truth: str, prediction: Any) -> float:
    """One question. Raises what the public code raises; only a number that is None is caught there."""
    token = token_of(prediction)
    if kind not in NUMBERS:
        return 1.0 if token.lower() == truth.lower() else 0.0
    thresholds = np.linspace(0.5, 0.95, int((0.95 - 0.5) / 0.05 + 2))
    guess, right = number_of(token), number_of(truth)
    if guess is None or right is None:
        return 0.0
    return float(np.mean((abs(guess - right) / right) <= 1 - thresholds))


def public_means(kinds: list[str], scores: list[float]) -> dict[str, float]:
    """Shares by task, and ``overall``. The levels of direction are merged where the easy one is there."""
    groups = defaultdict(list)
    for kind, score in zip(kinds, scores, strict=True):
        groups[kind].append(score)
    means = {kind: sum(found) / len(found) for kind, found in groups.items()}
    if LEVELS[0] in means:
        means["object_rel_direction"] = sum(means.pop(level) for level in LEVELS) / 3
    return {**means, "overall": sum(means.values()) / len(means)}


# Odd answers ----------------------------------------------------------------------------------------------------------

ODD = {
    "letters": ["A", "a", "B", "D", "E", "Z", "AB", "aa", "A.", "A..", "A...", ".A", "A,", "A;", "A:", "A!", "A)",
        "(A)"],
    "brackets": ["[A]", "{A}", "<A>", "'A'", '"A"', "`A`", "*A*", "**A**", "__A__", "$A$", "#A", "A#", "A>", "A/B"],
    "letter first": ["A chair", "A. chair", "a. chair", "A or B", "A and B", "A because", "A\tchair", "A\nchair",
        "A.\n"],
    "spaces": [" A", "  A", "A ", "A  ", "\tA", "\nA", "A\n", "A\r\n", "\u00a0A", "A\u00a0B", "\u3000A", "\u2009A",
        "\x0bA"],
    "dots and spaces": [". A", "A .", "A. .", "A.\t.", "A\t.", "...", ".", "A.B.", "A. B.", "\u2026", "A\u2026",
        "A\u3002"],
    "sentences": ["The answer is A", "Answer: A", "answer A", "Option A", "I think A", "It is A.", "So A", "Sure! A"],
    "tags": ["<answer>A</answer>", "<answer> A </answer>", "<think>B</think>A", "<think>B</think> A", "<think>A",
        "</s>"],
    "boxes and code": ["\\boxed{A}", "$\\boxed{4}$", "```A```", "```json\nA\n```", '{"answer": "A"}', "[4]", "{4}",
        "(4)"],
    "other scripts": ["\uff21", "\u0410", "\u0391", "\u24b6", "\U0001d400", "\u00c5", "\u0131", "\u0130", "\u00df",
        "ﬀ"],
    "digits": ["4", "4.", "4..", "04", "4.0", "4.00", "+4", "-4", "--4", "+-4", "4-", "4+", " 4", "4 ", "\t4", "4\n",
        "4\n5"],
    "digits and words": ["4 chairs", "4chairs", "4m", "4 m", "4cm", "4, I think", "4.5m", "about 4", "~4", "≈4", ">4",
        "four"],
    "points": [".5", "5.", "-.5", "0.5", ".5.", "..5", "1.5.2", "0,5", "1,200", "1,200.5", "1.200,5", "1'200", "1 200"],
    "underscores": ["1_200", "1__200", "_1200", "1200_", "1_2_0_0", "1_200.5", "1e1_0", "1_e3"],
    "exponents": ["1e3", "1E3", "1e+3", "1e-3", "1.2e3", "e3", "1e", "1e3.0", "35e-1", "1e999", "-1e999", "1e-999",
        "0e0"],
    "infinities": ["nan", "NaN", "-nan", "NAN", "inf", "-inf", "Infinity", "-infinity", "+inf", "infin", "nan.",
        "inf m"],
    "digits of the world": ["\u0664", "\uff14", "\u0967\u0968", "\u00b2", "\u2463", "\u00bd", "1\u0663", "\U0001d7d2",
        "IV"],
    "signs": ["\u22124", "\u20134", "4\u00b0", "4%", "$4", "4$", "#4", "4/5", "4:5", "4-5", "4~5", "4–5", "2x3", "4=4"],
    "hex and such": ["0x4", "0b100", "0o4", "4L", "4j", "4f", "True", "False", "None", "null", "int", "[]", "{}"],
    "nothing": ["", " ", "  ", "\n", "\t", "\u00a0", "\u200b", "\ufeff", "\x00", "\ud800", "A\x00", "4\x00",
        "\ufeff4", "\u200b4"],
    "long": ["4" * 400, "0" * 400 + "4", "A" * 5000, "4" + " word" * 2000, "word " * 2000 + "4",
        "0." + "0" * 400 + "1"],
}  # fmt: skip
TEXTS = [pytest.param(text, id=f"{name} {index}") for name, texts in ODD.items() for index, text in enumerate(texts)]
TRUTHS = {
    "object_rel_distance": ("A", "D", "b"),
    "object_counting": ("4", "1200", "0.5", "3.5", "1e3", "0.001", "5", "400"),
}


def questions(folder: Path, rows: list[tuple[str, str]]) -> RecordFile:
    """Rows of question type and right answer, in the published form."""
    options = ["A. chair", "B. table", "C. left", "D. right"]
    path = folder / "test.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for index, (kind, truth) in enumerate(rows):
            row = {"id": index, "dataset": "scannet", "scene_name": f"scene{index % 88:04d}_00", "question_type": kind}
            asked = {"question": "?", "ground_truth": truth, "options": None if kind in NUMBERS else options}
            stream.write(json.dumps({**row, **asked}) + "\n")
    return published_questions(path)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    rows = [(kind, truth) for kind, truths in TRUTHS.items() for truth in truths]
    found = questions(tmp_path_factory.mktemp("vsi"), rows).records
    return dict(zip(rows, found, strict=True))


def test_there_are_enough_odd_answers_and_none_twice() -> None:
    texts = [text for group in ODD.values() for text in group]
    assert len(texts) >= 150
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("text", TEXTS)
def test_odd_answers_score_as_the_public_scorer_scores_them(text: str, asked: dict[tuple[str, str], Any]) -> None:
    for (kind, truth), record in asked.items():
        got = vsibench.score([record], {record.id: text}, intervals=False).details[0]["score"]
        assert got == pytest.approx(public_score(kind, truth, text), abs=1e-15), (kind, truth)


pieces = st.sampled_from(
    [*"ABCDabcd.() \n\t*:,-+_0123456789", "e", "nan", "inf", " or ", "<answer>", "</answer>", "\u00a0", "\uff14", "m"]
)


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(pieces, max_size=8).map("".join) | st.text(max_size=8),
    kind=st.sampled_from(sorted(TRUTHS)),
    pick=st.integers(0, 99),
)
def test_any_text_scores_as_the_public_scorer_scores_it(
    text: str, kind: str, pick: int, asked: dict[tuple[str, str], Any]
) -> None:
    truth = TRUTHS[kind][pick % len(TRUTHS[kind])]
    record = asked[kind, truth]
    got = vsibench.score([record], {record.id: text}, intervals=False).details[0]["score"]
    assert got == pytest.approx(public_score(kind, truth, text), abs=1e-15)


@settings(max_examples=300, deadline=None)
@given(value=st.integers(1, 400), right=st.integers(1, 400), places=st.integers(0, 2))
def test_numbers_on_the_edges_of_the_limits_score_as_there(value: int, right: int, places: int) -> None:
    guess, truth = (f"{number / 10**places:.{places}f}" for number in (value, right))
    got = mean_relative_accuracy(float(guess), float(truth), strict=False)
    assert got == pytest.approx(public_score("object_counting", truth, guess), abs=1e-15)


# The whole benchmark --------------------------------------------------------------------------------------------------


def everything(seed: int) -> tuple[list[tuple[str, str]], list[str]]:
    """As many questions of each type as the benchmark has, with right answers and predictions, shuffled."""
    rng = np.random.default_rng(seed)
    odd = [text for texts in ODD.values() for text in texts if len(text) < 100]
    rows: list[tuple[str, str]] = []
    predictions = []
    for kind, count in FULL.items():
        for _ in range(count):
            if kind in NUMBERS:
                truth = str(rng.integers(1, 12) if kind == "object_counting" else round(rng.gamma(2, 2) + 0.1, 1))
                guess = str(round(float(truth) * rng.lognormal(0, 0.4), int(rng.integers(0, 3))))
            else:
                truth, guess = (
                    "ABCD"[rng.integers(4)],
                    "ABCDabcd"[rng.integers(8)] + ("", ".", ". chair")[rng.integers(3)],
                )
            rows.append((kind, truth))
            predictions.append(odd[rng.integers(len(odd))] if rng.random() < 0.3 else guess)
    order = rng.permutation(len(rows))
    return [rows[i] for i in order], [predictions[i] for i in order]


@pytest.mark.parametrize("seed", range(2))
def test_the_means_of_the_whole_benchmark_are_the_public_ones(seed: int, tmp_path: Path) -> None:
    rows, texts = everything(seed)
    records = questions(tmp_path, rows).records
    assert len(records) == 5130
    result = vsibench.score(records, {str(i): text for i, text in enumerate(texts)}, intervals=False)
    scores = [public_score(kind, truth, text) for (kind, truth), text in zip(rows, texts, strict=True)]
    want = public_means([kind for kind, _ in rows], scores)
    document = result.document
    got = {**document["tasks"], "overall": document["overall"]}
    assert got.keys() == want.keys()
    assert {name: value / 100 for name, value in got.items()} == pytest.approx(want, abs=1e-12)
    assert document["overall_micro"] / 100 == pytest.approx(math.fsum(scores) / 5130, abs=1e-12)
    assert [detail["score"] for detail in result.details] == pytest.approx(scores, abs=1e-15)
    assert (document["incomplete"], document["absent"]) == (False, [])


# Where the public scorer stops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", ["0", "0.0", "-0", "0e3"])
def test_a_right_number_of_0_stops_the_public_scorer_and_scores_0_here(truth: str, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        public_score("object_counting", truth, "4")
    records = questions(tmp_path, [("object_counting", truth)]).records
    for text in ("0", "4"):
        (detail,) = vsibench.score(records, {"0": text}).details
        assert (detail["score"], detail["why"]) == (0.0, "the right number is 0, where the public scorer fails")
    assert vsibench.score(records, {"0": "0"}, scorer="robust").document["overall"] == 100
    assert vsibench.score(records, {"0": "4"}, scorer="robust").document["overall"] == 0


def test_a_right_number_below_0_takes_every_number_there_and_here(tmp_path: Path) -> None:
    records = questions(tmp_path, [("object_counting", "-4")]).records
    for text, want in (("7", 1.0), ("-4", 1.0), ("nan", 0.0), ("inf", 0.0), ("four", 0.0)):
        details = vsibench.score(records, {"0": text}).details
        assert details[0]["score"] == want
        if math.isfinite(number_of(text) or 0):
            assert public_score("object_counting", "-4", text) == want
    assert vsibench.score(records, {"0": "7"}, scorer="robust").document["overall"] == 0


def test_a_right_answer_that_is_no_number_scores_0_there_and_is_named_here(tmp_path: Path) -> None:
    assert public_score("object_counting", "many", "4") == 0
    with pytest.raises(DataError, match=r"entry 1: ground truth 'many' is not a number"):
        questions(tmp_path, [("object_counting", "many")])


@pytest.mark.parametrize("prediction", [None, ["A"]])
def test_a_prediction_that_is_no_text_stops_the_public_scorer(prediction: Any, tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        public_score("route_planning", "A", prediction)
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"id": 0, "prediction": prediction}) + "\n{}\n"[:1])
    if prediction is None:
        document = vsibench.score(
            questions(tmp_path, [("route_planning", "A")]).records, read_predictions(path)
        ).document
        assert (document["overall"], document["missing"], document["unreadable"]) == (0, 0, 1)
    else:
        with pytest.raises(DataError, match="line 1: prediction must be text"):
            read_predictions(path)


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        pytest.param([], ZeroDivisionError, id="no questions"),
        pytest.param([LEVELS[0]], KeyError, id="easy directions alone"),
        pytest.param([LEVELS[0], LEVELS[2]], KeyError, id="no medium directions"),
        pytest.param(["object_counting", *LEVELS[:2]], KeyError, id="no hard directions"),
    ],
)
def test_sets_that_stop_the_public_means_have_a_partial_one_here(
    kinds: list[str], why: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(why):
        public_means(kinds, [1.0] * len(kinds))
    rows = [(kind, "4" if kind in NUMBERS else "A") for kind in kinds]
    records = questions(tmp_path, rows).records if rows else []
    document = vsibench.score(records, dict.fromkeys(map(str, range(len(rows))), "A")).document
    assert document["incomplete"]
    assert set(document["absent"]) == set(vsibench.TYPES) - set(kinds)
    directions = [kind for kind in kinds if kind in LEVELS]
    assert document["tasks"]["object_rel_direction"] == (100 if directions else None)
    assert document["overall"] == ({1: 100, 2: 100, 3: 50}[len(kinds)] if kinds else None)
    json.dumps(document, allow_nan=False)


def test_directions_without_easy_ones_are_two_tasks_there_and_one_here(tmp_path: Path) -> None:
    kinds = ["route_planning", *LEVELS[1:]]
    assert public_means(kinds, [0.0, 1.0, 1.0])["overall"] == pytest.approx(2 / 3)
    records = questions(tmp_path, [(kind, "A") for kind in kinds]).records
    document = vsibench.score(records, {"0": "B", "1": "A", "2": "A"}).document
    assert (document["overall"], document["incomplete"]) == (50, True)


# Answers that other harnesses read wrongly ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "right"),
    [
        pytest.param("object_counting", ".5", "0.5", id="a point first: 5 elsewhere"),
        pytest.param("object_counting", "1,200", "1200", id="thousands: 1 or 200 elsewhere"),
        pytest.param("object_counting", "1e3", "1000", id="an exponent: 1 elsewhere"),
        pytest.param("object_counting", "35e-1", "3.5", id="a negative exponent: 35 elsewhere"),
        pytest.param("room_size_estimation", "20 m^2", "20", id="square metres: 2 elsewhere"),
        pytest.param("room_size_estimation", "20 m^{2}", "20", id="square metres in LaTeX"),
        pytest.param("room_size_estimation", "20 m²", "20", id="square metres in one sign"),
        pytest.param("object_size_estimation", "350cm", "350", id="centimetres: hundreds of metres elsewhere"),
        pytest.param("object_size_estimation", "3500 mm", "350", id="millimetres: hundredfold elsewhere"),
        pytest.param("object_abs_distance", "350cm", "3.5", id="centimetres where metres are asked"),
        pytest.param("object_counting", "<think>I see 7 or 9</think>4", "4", id="thinking: 7 elsewhere"),
        pytest.param("object_counting", "<think>7</think><answer>4</answer>", "4", id="thinking and a tag"),
        pytest.param("object_counting", "\\boxed{4}, of 12 chairs", "4", id="boxed"),
        pytest.param("object_counting", "twenty-one", "21", id="a number of two words"),
        pytest.param("object_counting", "one hundred and five", "105", id="a number of four words"),
        pytest.param("route_planning", "a.", "A", id="a small letter with a dot: nothing elsewhere"),
        pytest.param("route_planning", "(a)", "A", id="a small letter in parentheses"),
        pytest.param("route_planning", '{"answer": "A"}', "A", id="JSON"),
        pytest.param("route_planning", "the chair", "A", id="the option's text with an article"),
        pytest.param("route_planning", "\n A", "A", id="white space first"),
    ],
)
def test_the_robust_scorer_reads_what_others_misread(kind: str, text: str, right: str, tmp_path: Path) -> None:
    records = questions(tmp_path, [(kind, right)]).records
    assert vsibench.score(records, {"0": text}, scorer="robust").details[0]["score"] == 1


@pytest.mark.parametrize(
    ("kind", "text", "right"),
    [
        pytest.param("object_counting", "2-3", "3", id="a range: -3 elsewhere"),
        pytest.param("object_counting", "2 to 3", "2", id="a range in words"),
        pytest.param("object_counting", "<think>4", "4", id="thinking that never ends"),
        pytest.param("object_counting", "I see chairs", "4", id="no number"),
        pytest.param("route_planning", "I cannot tell", "A", id="no letter: right elsewhere where the truth has none"),
        pytest.param("route_planning", "A or B", "A", id="two letters"),
        pytest.param("route_planning", "None", "A", id="none"),
    ],
)
def test_the_robust_scorer_takes_no_guess_for_an_answer(kind: str, text: str, right: str, tmp_path: Path) -> None:
    document = vsibench.score(questions(tmp_path, [(kind, right)]).records, {"0": text}, scorer="robust").document
    assert (document["overall_micro"], document["unreadable"]) == (0, 1)
