from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rft3d_cli.benchmarks import vsibench
from rft3d_cli.benchmarks.result import environment, interval, scene_draws
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.prepare.vsibench import published_records
from rft3d_cli.prepare.vsibench_questions import pruned_ids, published_questions
from rft3d_cli.records import Meta, Record, parse_record
from rft3d_cli.rewards.reasoning import MRA_LIMITS

NUMERIC = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
FULL = dict(zip(vsibench.TYPES, (565, 834, 953, 288, 710, 217, 378, 373, 194, 618), strict=True))
OPTIONS = ["A. chair", "B. table", "C. left", "D. right"]


def question(index: int, kind: str, right: float | str, **meta: Any) -> Record:
    target = {"value": right} if kind in NUMERIC else {"letter": right, "options": OPTIONS}
    record = {
        "schema": 1,
        "id": str(index),
        "task": "number" if kind in NUMERIC else "choice",
        "video": {"path": "scannet/scene.mp4"},
        "prompt": "?",
        "target": target,
        "meta": {"dataset": "scannet", "scene": f"scene{index % 40:04d}", "question_type": kind, **meta},
    }
    return parse_record(json.dumps(record))


def random_set(counts: dict[str, int], seed: int) -> tuple[list[Record], dict[str, str]]:
    rng = np.random.default_rng(seed)
    odd = ["", " A", "(A)", "A.", "a", "A\nfoo", "A or B", "B.\n", "The answer is A", "<answer>A</answer>", "A. chair"]
    odd += [
        "4 chairs",
        "four",
        "3.5m",
        "1_200",
        "1e3",
        ".5",
        "1,200",
        "nan",
        "inf",
        "-4",
        "2.",
        "٤",
        "２",
        "1.0.0",
        "...",
    ]
    records, predictions = [], {}
    for kind, count in counts.items():
        for _ in range(count):
            index = len(records)
            if kind in NUMERIC:
                right: float | str = (
                    float(rng.integers(1, 12)) if kind == "object_counting" else round(rng.gamma(2, 2), 1) + 0.1
                )
                guess = str(round(float(right) * rng.lognormal(0, 0.4), int(rng.integers(0, 3))))
            else:
                right = "ABCD"[rng.integers(0, 4)]
                guess = "ABCDabcd"[rng.integers(0, 8)]
            records.append(question(index, kind, right))
            predictions[str(index)] = odd[rng.integers(0, len(odd))] if rng.random() < 0.3 else guess
    return records, predictions


def reference(records: list[Record], predictions: dict[str, str]) -> dict[str, float]:
    """The public scorer from its description: plain loops, thresholds from linspace, macro mean of eight tasks."""
    by_type = defaultdict(list)
    thresholds = np.linspace(0.5, 0.95, int((0.95 - 0.5) / 0.05 + 2))
    for record in records:
        token = predictions[record.id].split(" ")[0].rstrip(".").strip()
        kind = record.meta.question_type
        target: Any = record.target
        if kind in NUMERIC:
            try:
                error = abs(float(token) - target.value) / target.value
                by_type[kind].append(np.mean([error <= 1 - theta for theta in thresholds]))
            except ValueError:
                by_type[kind].append(0.0)
        else:
            by_type[kind].append(float(token.lower() == target.letter.lower()))
    means = {kind: float(np.mean(scores)) for kind, scores in by_type.items()}
    directions = [means.pop(f"object_rel_direction_{level}") for level in ("easy", "medium", "hard")]
    means["object_rel_direction"] = sum(directions) / 3
    means["overall"] = sum(means.values()) / len(means)
    means["overall_micro"] = float(np.mean([score for scores in by_type.values() for score in scores]))
    return means


@pytest.mark.parametrize("seed", range(4))
def test_the_official_scorer_is_the_public_one(seed: int) -> None:
    records, predictions = random_set(dict.fromkeys(vsibench.TYPES, 40 + 7 * seed), seed)
    document = vsibench.score(records, predictions).document
    want = reference(records, predictions)
    got = {**document["tasks"], "overall": document["overall"], "overall_micro": document["overall_micro"]}
    assert got == pytest.approx({name: 100 * value for name, value in want.items()}, abs=1e-9)
    assert not document["incomplete"]


def test_the_limits_are_those_of_the_public_scorer_to_the_bit() -> None:
    thresholds = np.linspace(0.5, 0.95, int((0.95 - 0.5) / 0.05 + 2))
    assert [1 - float(t) for t in thresholds] == sorted(MRA_LIMITS, reverse=True)


@pytest.mark.parametrize(
    ("text", "official", "robust"),
    [
        pytest.param("A", 1, 1, id="letter"),
        pytest.param("a", 1, 1, id="lower case"),
        pytest.param("A.", 1, 1, id="dot"),
        pytest.param("A...", 1, 1, id="dots"),
        pytest.param("A. chair", 1, 1, id="letter and text"),
        pytest.param("A or B", 1, 0, id="two letters"),
        pytest.param("A\nfoo", 0, 1, id="newline"),
        pytest.param("A.\n", 0, 1, id="dot and newline"),
        pytest.param(" A", 0, 1, id="leading space"),
        pytest.param("(A)", 0, 1, id="parentheses"),
        pytest.param("A)", 0, 1, id="one parenthesis"),
        pytest.param("A: x", 0, 1, id="colon"),
        pytest.param("**A**", 0, 1, id="bold"),
        pytest.param("The answer is A", 0, 1, id="sentence"),
        pytest.param("<answer>A</answer>", 0, 1, id="tag"),
        pytest.param("<think>B</think>A", 0, 1, id="thinking"),
        pytest.param("chair", 0, 1, id="the option's text"),
        pytest.param("", 0, 0, id="no text"),
        pytest.param("B", 0, 0, id="wrong letter"),
        pytest.param("E", 0, 0, id="no such letter"),
    ],
)
def test_odd_letters(text: str, official: float, robust: float) -> None:
    records = [question(0, "route_planning", "A")]
    for scorer, want in (("official", official), ("robust", robust)):
        result = vsibench.score(records, {"0": text}, scorer=scorer)
        assert result.details[0]["score"] == want, scorer
        assert result.document["tasks"]["route_planning"] == 100 * want


@pytest.mark.parametrize(
    ("text", "right", "official", "robust"),
    [
        pytest.param("4", 4, 1, 1, id="right"),
        pytest.param("3", 4, 0.6, 0.6, id="3 for 4: the edge counts"),
        pytest.param("0.8", 1, 0.7, 0.7, id="0.8 for 1"),
        pytest.param("8", 10, 0.6, 0.6, id="8 for 10"),
        pytest.param("2.1", 2, 1, 1, id="2.1 for 2"),
        pytest.param("4 chairs", 4, 1, 1, id="noun"),
        pytest.param("four", 4, 0, 1, id="word"),
        pytest.param("about 4", 4, 0, 1, id="about"),
        pytest.param("4m", 4, 0, 1, id="unit"),
        pytest.param("1,200", 1200, 0, 1, id="thousands"),
        pytest.param("1,5", 1.5, 0, 0, id="decimal comma"),
        pytest.param("1_200", 1200, 1, 0, id="underscore"),
        pytest.param("1e3", 1000, 1, 1, id="exponent"),
        pytest.param(".5", 0.5, 1, 1, id="point first"),
        pytest.param("４", 4, 1, 0, id="full-width digit"),
        pytest.param("4\nchairs", 4, 0, 1, id="newline"),
        pytest.param("-4", 4, 0, 0, id="negative"),
        pytest.param("2-3", 2, 0, 0, id="range"),
        pytest.param("nan", 4, 0, 0, id="nan"),
        pytest.param("inf", 4, 0, 0, id="inf"),
        pytest.param("1e999", 4, 0, 0, id="1e999"),
        pytest.param("0", 0, 0, 1, id="right number 0"),
        pytest.param("1", 0, 0, 0, id="right number 0, answer 1"),
        pytest.param("1", -4, 1, 0, id="right number below 0"),
    ],
)
def test_odd_numbers(text: str, right: float, official: float, robust: float) -> None:
    records = [question(0, "object_counting", right)]
    for scorer, want in (("official", official), ("robust", robust)):
        assert vsibench.score(records, {"0": text}, scorer=scorer).details[0]["score"] == want, scorer


@pytest.mark.parametrize(
    ("kind", "text", "right"),
    [
        ("object_abs_distance", "350 cm", 3.5),
        ("object_size_estimation", "1.2 m", 120),
        ("room_size_estimation", "20 square meters", 20),
    ],
)
def test_the_robust_scorer_converts_to_the_unit_of_the_question(kind: str, text: str, right: float) -> None:
    assert vsibench.score([question(0, kind, right)], {"0": text}, scorer="robust").details[0]["score"] == 1


def test_thinking_answers_need_their_style_under_the_official_scorer() -> None:
    records = [question(0, "route_planning", "A"), question(1, "object_counting", 4)]
    predictions = {"0": "<think>B?</think>\n<answer> A </answer>", "1": "<think>5?</think> 4"}
    direct = vsibench.score(records, predictions)
    think = vsibench.score(records, predictions, answer_style="think")
    assert (direct.document["overall"], direct.document["unreadable"]) == (0, 2)
    assert (think.document["overall"], think.document["unreadable"]) == (100, 0)
    assert think.document["answer_style"] == "think"


def test_a_partial_set_gives_the_partial_mean_and_says_so() -> None:
    records = [
        question(0, "object_counting", 4),
        question(1, "object_rel_direction_easy", "A"),
        question(2, "object_rel_direction_hard", "A"),
    ]
    document = vsibench.score(records, {"0": "4", "1": "A", "2": "B"}).document
    assert document["incomplete"]
    assert document["tasks"]["object_rel_direction"] == 50
    assert document["overall"] == 75
    assert document["overall_micro"] == pytest.approx(200 / 3)
    assert document["tasks"]["room_size_estimation"] is None


def test_no_records_at_all_do_not_crash() -> None:
    result = vsibench.score([], {})
    assert result.document["overall"] is None
    assert result.document["n"] == 0
    json.dumps(result.document, allow_nan=False)


def test_what_is_missing_unreadable_or_unknown_is_counted() -> None:
    records = [question(i, "object_counting", 4) for i in range(4)]
    result = vsibench.score(records, {"0": "4", "1": "many", "2": "5", "99": "4"})
    document = result.document
    assert (document["n"], document["missing"], document["unreadable"], document["unknown_ids"]) == (4, 1, 1, 1)
    assert document["parse_rate"] == 50
    assert document["unreadable_examples"] == [{"id": "1", "text": "many", "why": "the first word is not a number"}]
    assert [detail["score"] for detail in result.details] == [1, 0, 0.6, 0]
    assert [detail["id"] for detail in result.details] == ["0", "1", "2", "3"]
    assert set(result.details[0]) == {"id", "score", "parts", "answer", "why"}


def test_data_sets_and_both_cuts_are_reported_beside_the_whole() -> None:
    records = [
        question(0, "object_counting", 4, dataset="scannet", pruned=True),
        question(1, "object_counting", 4, dataset="arkitscenes", pruned=False),
        question(2, "route_planning", "A", dataset="arkitscenes", pruned=False),
        question(3, "route_planning", "A", dataset="arkitscenes"),
    ]
    result = vsibench.score(records, {"0": "4", "1": "0", "2": "A", "3": "A"})
    document = result.document
    nothing = dict.fromkeys(vsibench.TASKS)
    assert document["datasets"] == {
        "arkitscenes": {
            "n": 3,
            "overall": 50,
            "overall_micro": pytest.approx(200 / 3),
            "by_task": {**nothing, "object_counting": 0, "route_planning": 100},
        },
        "scannet": {"n": 1, "overall": 100, "overall_micro": 100, "by_task": {**nothing, "object_counting": 100}},
    }
    cuts = {name: (document[name]["n"], document[name]["overall"]) for name in ("debiased", "pruned")}
    assert cuts == {"debiased": (2, 50), "pruned": (1, 100)}
    assert [(row.name, row.n, row.value) for row in result.rows[-2:]] == [("debiased", 2, 50), ("pruned", 1, 100)]
    assert not {"debiased", "pruned"} & vsibench.score(records[3:], {}).document.keys()


def test_a_list_of_ids_cuts_files_that_do_not_say(tmp_path: Path) -> None:
    records = [question(0, "object_counting", 4), question(1, "object_counting", 4, pruned=False)]
    path = tmp_path / "pruned_ids.txt"
    for text in ("0\n1\n7\n", "0, 1, 7", "[0, 1, 7]", '["0", "1", "7"]\n', "\n 0\t1\r\n7 ,\n"):
        path.write_text(text)
        assert pruned_ids(path) == {"0", "1", "7"}
    document = vsibench.score(records, {"0": "4"}, pruned=pruned_ids(path)).document
    assert (document["pruned"]["n"], document["pruned"]["overall"]) == (1, 100)
    assert (document["debiased"]["n"], document["debiased"]["overall"]) == (1, 0), "the record's own word counts more"
    assert vsibench.score(records, {}, pruned=[]).document["debiased"]["n"] == 2


@pytest.mark.parametrize("text", ["", "[]", '{"0": 1}', "[[0]]", "[true]", "[null]", '[""]'])
def test_what_is_no_list_of_ids_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pruned_ids.txt"
    path.write_text(text)
    with pytest.raises(DataError, match="is no list of ids"):
        pruned_ids(path)


def test_chance_is_reported_by_task() -> None:
    records = [
        *(question(i, "route_planning", letter) for i, letter in enumerate("AABC")),
        *(question(4 + i, "object_counting", right) for i, right in enumerate((2, 2, 4, 4))),
        question(8, "object_rel_direction_easy", "a"),
        question(9, "object_rel_direction_hard", "D"),
        question(10, "object_rel_direction_hard", "C"),
    ]
    chance = vsibench.score(records, {}).document["chance"]
    nothing = dict.fromkeys(vsibench.TASKS)
    assert chance["uniform"] == {**nothing, "route_planning": 25, "object_rel_direction": 25}
    # Always 2: right for two, and an error of half for the other two, which is within one of ten limits.
    want = {"route_planning": 50, "object_counting": pytest.approx(55), "object_rel_direction": 75}
    assert chance["frequent"] == {**nothing, **want}
    assert vsibench.score(records[::-1], {}).document["chance"] == chance
    assert vsibench.score([], {}).document["chance"] == {"uniform": nothing, "frequent": nothing}


def test_without_intervals_there_are_none_and_all_else_is_the_same() -> None:
    records, predictions = random_set(dict.fromkeys(vsibench.TYPES, 20), 5)
    full, brief = (vsibench.score(records, predictions, intervals=on) for on in (True, False))
    assert brief.document["intervals"] == {}
    assert {**full.document, "intervals": {}} == brief.document
    assert brief.details == full.details
    assert [(row.name, row.value, row.interval) for row in brief.rows] == [(r.name, r.value, None) for r in full.rows]


def test_intervals_are_of_the_means_that_are_reported() -> None:
    records, predictions = random_set(dict.fromkeys(vsibench.TYPES, 60), 6)
    metas = [Meta.model_validate({**r.meta.model_dump(), "pruned": i % 3 == 0}) for i, r in enumerate(records)]
    records = [record.model_copy(update={"meta": meta}) for record, meta in zip(records, metas, strict=True)]
    document = vsibench.score(records, predictions).document
    keys = {"overall", "overall_micro", *(f"tasks.{name}" for name in vsibench.TASKS)}
    keys |= {f"{cut}.{mean}" for cut in ("debiased", "pruned") for mean in ("overall", "overall_micro")}
    assert document["intervals"].keys() == keys
    for key, (low, high) in document["intervals"].items():
        value = document
        for part in key.split("."):
            value = value[part]
        assert low < value < high, key


def test_published_questions_score_as_their_records_do(tmp_path: Path) -> None:
    rows = [
        {"id": i, "dataset": "scannet", "scene_name": f"s{i % 7}", "question_type": kind, "question": "?"}
        | ({"ground_truth": "3.5"} if kind in NUMERIC else {"ground_truth": "b", "options": OPTIONS})
        | ({"pruned": i % 2 == 0} if i % 5 else {})
        for i, kind in enumerate(vsibench.TYPES * 3)
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictions = {str(i): ["B", "3.1", "(b)", "three"][i % 4] for i in range(len(rows))}
    light, whole = published_questions(path), published_records(path)
    assert (light.path, light.media_root) == (whole.path, whole.media_root)
    for one, other in zip(light.records, whole.records, strict=True):
        assert (one.id, one.task, one.prompt) == (other.id, other.task, other.prompt)
        for name in ("dataset", "scene", "split", "question_type", "subset", "sampler", "model_extra"):
            assert getattr(one.meta, name) == getattr(other.meta, name)
    for scorer in ("official", "robust"):
        one, other = (vsibench.score(file.records, predictions, scorer=scorer) for file in (light, whole))
        assert (one.document, one.details) == (other.document, other.details)


def test_what_is_no_question_is_refused() -> None:
    with pytest.raises(DataError, match="record 0 is not a VSI-Bench question"):
        vsibench.score([question(0, "colour", "A")], {})
    with pytest.raises(UsageError, match="unknown scorer 'strict'"):
        vsibench.score([], {}, scorer="strict")
    with pytest.raises(UsageError, match="unknown answer style 'loud'"):
        vsibench.score([], {}, answer_style="loud")


def test_intervals_hold_the_value_and_repeat_with_the_seed() -> None:
    records, predictions = random_set(dict.fromkeys(vsibench.TYPES, 50), 3)
    one, same, other = (vsibench.score(records, predictions, seed=seed) for seed in (0, 0, 1))
    assert one.document["intervals"] == same.document["intervals"]
    assert one.document["intervals"] != other.document["intervals"]
    for row in one.rows:
        assert row.interval is not None
        assert row.value is not None
        assert row.interval[0] < row.value < row.interval[1]
    assert [row.name for row in one.rows] == [*vsibench.TASKS, "overall", "overall_micro"]


def test_intervals_resample_scenes_not_questions() -> None:
    whole_scenes = [question(i, "object_counting", 4, scene=f"s{i // 50}") for i in range(500)]
    own_scenes = [question(i, "object_counting", 4, scene=f"s{i}") for i in range(500)]
    predictions = {str(i): "4" if (i // 50) % 2 else "0" for i in range(500)}
    widths = []
    for records in (whole_scenes, own_scenes):
        low, high = vsibench.score(records, predictions).document["intervals"]["overall"]
        widths.append(high - low)
    # Ten scenes that are right or wrong as a whole: a standard error √50 times that of 500 questions.
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(50), rel=0.15)


def test_the_interval_of_a_mean_is_that_of_the_theory() -> None:
    values = np.random.default_rng(0).random(2000)
    low, high = interval(scene_draws(2000, 0) @ values / 2000) or (0, 0)
    half = 196 * values.std() / math.sqrt(2000)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert interval(np.full(10, math.nan)) is None


def test_scoring_the_whole_benchmark_takes_no_time() -> None:
    records, predictions = random_set(FULL, 0)
    assert len(records) == 5130
    start = time.process_time()
    document = vsibench.score(records, predictions).document
    assert time.process_time() - start < 2
    assert document["n"] == 5130


def test_scoring_imports_neither_torch_nor_scipy() -> None:
    code = "import sys; from rft3d_cli.benchmarks.vsibench import score; score([], {}); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "scipy", "typer", "rich"} & set(out.stdout.split())


def test_the_environment_is_told_without_importing_it() -> None:
    versions = environment()
    assert {"rft3d", "python", "numpy"} <= versions.keys()


def test_what_is_reported_can_be_written() -> None:
    for scorer in ("official", "robust"):
        result = vsibench.score([question(0, "route_planning", "A")], {"0": "\ud800"}, scorer=scorer)
        json.dumps([result.document, result.details], ensure_ascii=False).encode("utf-8")
