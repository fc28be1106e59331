from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.benchmarks.consensus import as_truth, median, minimum_risk
from rft3d_cli.benchmarks.headroom import Measured, Replies, by_task, detail, measure, spread, tune
from rft3d_cli.benchmarks.verdict import standard_error, summarise, verdict
from rft3d_cli.examples import example_record
from rft3d_cli.models.confidence import QUANTILES, Confident, by_confidence
from rft3d_cli.models.predict import Answer
from rft3d_cli.records import DetectionTarget, Record
from rft3d_cli.rewards import RewardSet
from rft3d_cli.rewards.own import own_rewards

OWN = own_rewards()
TASKS = ("detection", "grounding", "choice", "number")
few = settings(max_examples=60, deadline=None)

LETTERS = st.sampled_from(["A", "B", "?"])
NUMBERS = st.sampled_from(["1", "2", "2.4", "2.5", "2.6", "4", "many"])
PLACES = st.frozensets(st.tuples(st.sampled_from(["chair", "lamp"]), st.integers(0, 3)), max_size=4)


def box_text(place: tuple[str, int]) -> str:
    """A labelled unit box; boxes of different places do not touch."""
    label, x = place
    return json.dumps({"label": label, "bbox_3d": [10.0 * x, 0, 2, 1, 1, 1, 0, 0, 0]})


def boxes_text(places: Sequence[tuple[str, int]] | frozenset[tuple[str, int]]) -> str:
    return "[" + ", ".join(box_text(place) for place in sorted(places)) + "]"


def grounding_text(frame: int, x: float) -> str:
    return json.dumps({"frame": frame, "bbox_3d": [x, 0, 2, 1, 1, 1, 0, 0, 0]})


def record(task: str, name: str = "r", scene: str | None = None, kind: str | None = None) -> Record:
    meta = {"scene": scene, "question_type": kind or ("object_abs_distance" if task == "number" else None)}
    return Record.model_validate({**example_record(task).model_dump(by_alias=True), "id": name, "meta": meta})


def looking_for(places: frozenset[tuple[str, int]], name: str, scene: str | None = None) -> Record:
    boxes = [json.loads(box_text(place)) for place in sorted(places)]
    target = DetectionTarget.model_validate({"boxes": boxes})
    return record("detection", name, scene).model_copy(update={"target": target})


def replies(one: Record, greedy: str, *samples: str, cut: Sequence[bool] = ()) -> Replies:
    ends = [*cut, *[False] * len(samples)]
    return Replies(one, Answer(greedy), [Answer(text, end) for text, end in zip(samples, ends, strict=False)])


def sure(one: Record, places: Sequence[tuple[str, int]], confidence: Sequence[float]) -> Replies:
    """A greedy detection answer with the confidence of each of its boxes, and two samples that say nothing."""
    boxes = [box_text(place) for place in places]
    text = "[" + ", ".join(boxes) + "]"
    return Replies(one, Answer(text), [Answer("?"), Answer("?")], Confident(text, boxes, list(confidence)))


def set_f1(said: frozenset[Any], wanted: frozenset[Any]) -> float:
    """F1 of boxes that are the same or apart."""
    if not said and not wanted:
        return 1.0
    return 2 * len(said & wanted) / (len(said) + len(wanted))


# ---- The choice among samples, beside what each task's rule comes to


def argmax_of_means(samples: Sequence[Any], score: Callable[[Any, Any], float]) -> int:
    means = [math.fsum(score(one, truth) for truth in samples if truth is not None) for one in samples]
    return means.index(max(means))


def first_close(means: Sequence[float]) -> int:
    return next(i for i, value in enumerate(means) if value > max(means) - 1e-6)


@few
@given(st.lists(LETTERS, min_size=1, max_size=9))
def test_for_a_choice_it_is_the_majority_vote(samples: list[str]) -> None:
    votes = Counter(sample for sample in samples if sample != "?")
    won = samples[minimum_risk(record("choice"), samples, OWN)]
    if votes:
        assert votes[won] == max(votes.values())
        assert won == next(sample for sample in samples if votes[sample] == max(votes.values()))
    else:
        assert won == samples[0]


@few
@given(st.lists(NUMBERS, min_size=1, max_size=9))
def test_for_a_number_it_is_the_sample_of_the_highest_mean_relative_accuracy(samples: list[str]) -> None:
    values = [None if sample == "many" else float(sample) for sample in samples]
    limits = [1 - t / 100 for t in range(50, 100, 5)]

    def accuracy(value: float | None, truth: float) -> float:
        # The answers of this test lie on none of the limits.
        return 0.0 if value is None else sum(abs(value - truth) / truth < limit - 1e-9 for limit in limits) / 10

    means = [math.fsum(accuracy(value, truth) for truth in values if truth is not None) for value in values]
    assert minimum_risk(record("number"), samples, OWN) == first_close(means)


@few
@given(st.lists(st.one_of(st.none(), PLACES), min_size=1, max_size=6))
def test_for_boxes_it_is_the_list_with_the_highest_mean_f1(samples: list[frozenset[tuple[str, int]] | None]) -> None:
    texts = ["nothing to read" if sample is None else boxes_text(sample) for sample in samples]
    means = [
        math.fsum(set_f1(sample, truth) for truth in samples if truth is not None) if sample is not None else 0.0
        for sample in samples
    ]
    assert minimum_risk(record("detection"), texts, OWN) == first_close(means)


@few
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.25, 0.5, 3.0])), min_size=1, max_size=7))
def test_for_a_place_it_is_the_box_of_the_highest_mean_iou_in_the_world(samples: list[tuple[int, float]]) -> None:
    texts = [grounding_text(frame, x) for frame, x in samples]

    # The second camera stands half a metre to the right; there is no third.
    def iou(one: tuple[int, float], other: tuple[int, float]) -> float:
        if one[0] > 1 or other[0] > 1:
            return 0.0
        overlap = max(0.0, 1 - abs(one[0] / 2 + one[1] - other[0] / 2 - other[1]))
        return overlap / (2 - overlap)

    means = [math.fsum(iou(one, other) for other in samples) for one in samples]
    assert minimum_risk(record("grounding"), texts, OWN) == first_close(means)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        pytest.param("detection", boxes_text(frozenset({("lamp", 1)})), id="boxes"),
        pytest.param("detection", "[]", id="no boxes"),
        pytest.param("grounding", grounding_text(0, 1), id="a place"),
        pytest.param("choice", "B", id="a letter"),
        pytest.param("number", "0", id="zero"),
    ],
)
def test_samples_that_are_all_the_same_choose_it_and_are_right_by_themselves(task: str, text: str) -> None:
    samples = [text] * 3
    assert samples[minimum_risk(record(task), samples, OWN)] == text
    truth = as_truth(record(task), text)
    assert truth is not None
    assert OWN.total(OWN.score(text, truth)) == 1.0
    assert truth.id == record(task).id


def test_the_own_target_has_no_say_in_the_choice() -> None:
    samples = [boxes_text(frozenset({("chair", i)})) for i in (0, 1, 1)]
    for truth in (frozenset({("chair", 0)}), frozenset({("chair", 1)}), frozenset()):
        assert minimum_risk(looking_for(truth, "r"), samples, OWN) == 1


def test_what_cannot_be_read_has_no_vote() -> None:
    # Two mumbled answers must not elect the list that says that nothing is there.
    samples = ["hm", boxes_text(frozenset({("chair", 0)})), "[]", boxes_text(frozenset({("chair", 0)})), "hm"]
    assert minimum_risk(record("detection"), samples, OWN) == 1


@few
@given(st.sampled_from(TASKS), st.text(max_size=60))
def test_any_text_is_a_truth_or_none(task: str, text: str) -> None:
    truth = as_truth(record(task), text)
    assert truth is None or type(truth.target) is type(record(task).target)
    assert minimum_risk(record(task), [text, text], OWN) == 0


def test_a_text_record_has_no_truth() -> None:
    assert as_truth(example_record("text"), "a chair") is None


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        pytest.param(["3", "1", "2"], 2, id="the middle"),
        pytest.param(["4", "1", "3", "2"], 3, id="the lower of two in the middle"),
        pytest.param(["2", "2.0", "2"], 0, id="the first of equals"),
        pytest.param(["many", "3", "none"], 1, id="only what can be read"),
        pytest.param(["many", "none"], 0, id="nothing"),
        pytest.param(["900 cm", "1", "300 cm"], 2, id="in the unit that is asked for"),
    ],
)
def test_the_median_is_a_sample(samples: list[str], expected: int) -> None:
    assert median(record("number"), samples) == expected


# ---- Scores


@few
@given(st.lists(st.tuples(NUMBERS, st.lists(NUMBERS, min_size=2, max_size=5)), min_size=1, max_size=5))
def test_no_way_to_an_answer_beats_the_best_of_the_group_and_the_best_is_no_less_than_the_mean(
    said: list[tuple[str, list[str]]],
) -> None:
    asked = [replies(record("number", str(i)), greedy, *samples) for i, (greedy, samples) in enumerate(said)]
    for one, (_, samples) in zip(measure(asked, OWN)[0], said, strict=True):
        scores = one.scores
        assert scores["best"] == max(one.rewards) >= scores["sampled"] - 1e-12
        assert scores["sampled"] >= min(one.rewards) - 1e-12
        for rule in ("mbr", "median"):
            assert scores["best"] >= scores[rule] >= min(one.rewards)
            assert one.picks[rule] in samples
        assert one.texts == len(set(samples))
        assert one.unreadable == samples.count("many")


def test_every_rule_is_worked_out_for_the_tasks_that_it_is_for() -> None:
    asked = [
        *[sure(looking_for(frozenset({("chair", i)}), f"d{i}", f"s{i}"), [("chair", i)], [-0.1]) for i in range(2)],
        *[replies(record("number", f"n{i}", f"s{i}"), "2.5", "2.5", "3") for i in range(2)],
        replies(record("choice", "c"), "A", "A", "B"),
    ]
    measured, _ = measure(asked, OWN)
    common = {"greedy", "sampled", "best", "mbr"}
    assert [set(one.scores) - common for one in measured] == [
        *[{"luck", "threshold"}] * 2, *[{"luck", "median"}] * 2, set(),
    ]  # fmt: skip
    parts = by_task(measured)
    assert {task: len(part) for task, part in parts.items()} == {"detection": 2, "number": 2, "choice": 1}
    # Over all records only what all of them have.
    assert set(summarise(measured, 0.02)["rules"]) == common


def test_luck_is_what_the_answers_to_another_prompt_earn() -> None:
    asked = [replies(record("choice", str(i), f"s{i}"), "A", *group) for i, group in enumerate(("AA", "BA", "AA"))]
    assert [one.scores["luck"] for one in measure(asked, OWN)[0]] == [1.0, 0.0, 0.0]


def test_luck_prefers_the_same_kind_of_question_and_another_scene() -> None:
    kinds = [("count", "s0", "1"), ("size", "s1", "9"), ("count", "s0", "2"), ("count", "s2", "2.5")]
    asked = [replies(record("number", str(i), s, k), text, text) for i, (k, s, text) in enumerate(kinds)]
    # The first is answered by the last, the only other count of another scene; that one by the first.
    luck = [one.scores["luck"] for one in measure(asked, OWN)[0]]
    assert luck[0] == 1.0
    assert luck[3] == 0.0


def test_rewards_of_ones_own_are_what_answers_are_worth() -> None:
    rewards = RewardSet({"format": 1, "mra": 2}, {"answer_style": "direct"})
    one = measure([replies(record("number"), "2.5", "3", "many")], rewards)[0][0]
    assert one.scores["greedy"] == one.full == 3.0
    assert one.rewards == pytest.approx([1 + 2 * 0.6, 0.0])
    assert one.scores["sampled"] == pytest.approx(1.1)


def test_a_line_of_details_can_be_written() -> None:
    one = measure([replies(record("choice", "c", "s"), "A", "B", "A", cut=(True,))], OWN)[0][0]
    line = json.loads(json.dumps(detail(one)))
    assert (line["id"], line["scene"], line["rewards"], line["cut"]) == ("c", "s", [1.0, 0.0], 1)
    assert line["std"] == pytest.approx(math.sqrt(0.5))
    assert line["picks"] == {"greedy": "A", "best": "B", "mbr": "B"}


# ---- The threshold


def reference_thresholds(rows: Sequence[tuple[str, frozenset[Any], list[Any], list[float]]]) -> list[float]:
    """By scenes in the order in which they come: even ones are tuned on odd ones, and the other way round."""
    scenes = list(dict.fromkeys(scene for scene, *_ in rows))
    out = []
    for scene, *_ in rows:
        others = [row for row in rows if scenes.index(row[0]) % 2 != scenes.index(scene) % 2]
        values = sorted({value for *_, confidence in others for value in confidence})
        best, best_value = -math.inf, -math.inf
        for cut in [-math.inf, *([] if not values else np.quantile(values, QUANTILES))]:
            f1 = math.fsum(
                set_f1(frozenset(p for p, c in zip(said, sureness, strict=True) if c >= cut), wanted)
                for _, wanted, said, sureness in others
            )
            if f1 > best_value + 1e-9:
                best, best_value = float(cut), f1
        out.append(best)
    return out


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 6))
def test_each_record_gets_the_threshold_of_the_other_half_of_the_scenes(random: Any, count: int) -> None:
    rows = []
    for i in range(count):
        places = random.sample([(label, x) for label in ("chair", "lamp") for x in range(4)], 3)
        wanted = frozenset(random.sample(places, random.randint(0, 3)))
        rows.append((f"s{i // 2 if count > 3 else i}", wanted, places, [-round(random.random(), 3) for _ in places]))
    asked = [sure(looking_for(wanted, str(i), s), said, c) for i, (s, wanted, said, c) in enumerate(rows)]
    measured, how = measure(asked, OWN)
    assert how is not None
    assert how["by"] == "halves of scenes"
    expected = reference_thresholds(rows)
    assert set(how["values"]) == set(expected)
    for one, cut, (_, wanted, said, confidence) in zip(measured, expected, rows, strict=True):
        kept = frozenset(place for place, value in zip(said, confidence, strict=True) if value >= cut)
        assert one.scores["threshold"] == pytest.approx(set_f1(kept, wanted))


def test_no_record_has_a_say_in_its_own_threshold() -> None:
    def asked(wanted: frozenset[tuple[str, int]]) -> list[Replies]:
        said = [("chair", 0), ("lamp", 1)]
        rest = [
            sure(looking_for(frozenset({said[0]}), f"r{i}", f"s{i}"), said, [-0.1, -1.0 - i / 10]) for i in range(1, 6)
        ]
        return [sure(looking_for(wanted, "r0", "s0"), said, [-0.1, -2.0]), *rest]

    texts = []
    for wanted in (frozenset({("chair", 0)}), frozenset({("chair", 0), ("lamp", 1)}), frozenset()):
        measured, _ = measure(asked(wanted), OWN)
        texts.append(measured[0].picks["threshold"])
    assert len(set(texts)) == 1
    assert "lamp" not in texts[0]


def test_records_of_one_scene_are_halved_by_themselves_and_one_record_has_no_threshold() -> None:
    said = [("chair", 0), ("lamp", 1)]
    asked = [sure(looking_for(frozenset({said[0]}), str(i), "s"), said, [-0.1, -1.0]) for i in range(3)]
    measured, how = measure(asked, OWN)
    assert how is not None
    assert how["by"] == "halves of records"
    assert [one.scores["threshold"] for one in measured] == [1.0] * 3
    measured, how = measure(asked[:1], OWN)
    assert how is None
    assert "threshold" not in measured[0].scores


def test_a_threshold_of_other_records_serves_all() -> None:
    said = [("chair", 0), ("lamp", 1)]
    scored = [sure(looking_for(frozenset(said), str(i), f"s{i}"), said, [-0.1, -1.0]) for i in range(4)]
    tuning = [sure(looking_for(frozenset({said[0]}), f"t{i}", f"t{i}"), said, [-0.2, -0.9]) for i in range(3)]
    measured, how = measure(scored, OWN, tuning)
    assert how == {"by": "other records", "values": [tune(tuning, OWN)]}
    assert -0.9 < how["values"][0] <= -0.2
    assert [one.scores["threshold"] for one in measured] == pytest.approx([2 / 3] * 4)
    assert measure(scored, OWN, [replies(record("number", "n"), "1", "2")])[1] is None


def test_an_answer_that_keeps_all_of_its_boxes_stays_as_it_was() -> None:
    # A broken box is a wrong box: leaving it out would be a repair, not a threshold.
    chair = box_text(("chair", 0))
    text = f'[{chair}, {{"label": "lamp"}}]'
    wanted = frozenset({("chair", 0)})
    asked = [
        Replies(looking_for(wanted, str(i), f"s{i}"), Answer(text), [Answer(text)], Confident(text, [chair], [-0.1]))
        for i in range(2)
    ]
    measured, _ = measure(asked, OWN)
    assert [one.picks["threshold"] for one in measured] == [text] * 2
    assert measured[0].scores["threshold"] == measured[0].scores["greedy"] == pytest.approx(2 / 3)


@few
@given(st.lists(st.floats(-5, 0), max_size=5), st.floats(-6, 1))
def test_boxes_below_the_threshold_are_left_out_in_order(confidence: list[float], threshold: float) -> None:
    boxes = [box_text(("chair", i)) for i in range(len(confidence))]
    text = by_confidence(Confident("", boxes, confidence), threshold)
    kept = [box for box, value in zip(boxes, confidence, strict=True) if value >= threshold]
    assert json.loads(text.strip("`").removeprefix("json")) == [json.loads(box) for box in kept]


# ---- Summaries


def measured_of(
    rewards: Sequence[Sequence[float]], scenes: Sequence[int] | None = None, **scores: Any
) -> list[Measured]:
    return [
        Measured(
            record=record("choice", str(i)),
            scene=i if scenes is None else scenes[i],
            scores={
                "greedy": 0.0, "sampled": float(np.mean(group)), "best": max(group),
                **{rule: values[i] for rule, values in scores.items()},
            },
            picks={},
            rewards=list(group),
            full=1.0,
            unreadable=0,
            cut=0,
            texts=2,
        )
        for i, group in enumerate(rewards)
    ]  # fmt: skip


def test_groups_are_counted_by_what_grpo_can_learn_from_them() -> None:
    groups = [[0, 0], [1, 1], [0.5, 0.5], [0.5, 0.51], [0, 1]]
    found = summarise(measured_of(groups), std_floor=0.02)["groups"]
    assert {key: found[key] for key in ("equal", "all_zero", "all_full", "below_floor")} == pytest.approx(
        {"equal": 0.6, "all_zero": 0.2, "all_full": 0.2, "below_floor": 0.8}
    )
    assert found["std"] == pytest.approx((0.01 / math.sqrt(2) + math.sqrt(0.5)) / 5)


def test_gains_are_paired_and_have_the_error_of_pairs() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 0.5, 30)
    found = summarise(measured_of([[b, b] for b in base], greedy=base, mbr=base + 0.1), 0.02)["rules"]
    assert found["mbr"]["over_greedy"] == pytest.approx(0.1)
    assert found["mbr"]["error"] == pytest.approx(0, abs=1e-9)
    assert "over_greedy" not in found["greedy"]


@few
@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 4)), min_size=2, max_size=12))
def test_the_error_takes_the_records_of_a_scene_as_one_draw(rows: list[tuple[float, int]]) -> None:
    values, scenes = np.array([v for v, _ in rows]), np.array([s for _, s in rows])
    found = standard_error(values, scenes)
    names = set(scenes.tolist())
    if len(names) < 2:
        assert math.isnan(found)
        return
    mean = sum(values) / len(values)
    sums = [sum(v - mean for v, s in rows if s == name) for name in names]
    expected = math.sqrt(len(names) / (len(names) - 1) * sum(x * x for x in sums)) / len(values)
    assert found == pytest.approx(expected, abs=1e-12)
    alone = standard_error(values, np.arange(len(values)))
    assert alone == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)), abs=1e-12)


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [
        pytest.param(3, 5, [0, 1, 2], id="all where there are few"),
        pytest.param(10, 1, [0], id="one"),
        pytest.param(101, 3, [0, 50, 100], id="from end to end"),
    ],
)
def test_records_are_taken_from_the_whole_file(count: int, limit: int, expected: list[int]) -> None:
    records = [record("choice", str(i)) for i in range(count)]
    assert [int(one.id) for one in spread(records, limit)] == expected


@few
@given(st.integers(1, 300), st.integers(1, 300))
def test_as_many_different_records_as_asked_for(count: int, limit: int) -> None:
    records: Any = range(count)
    found = spread(records, limit)
    assert len(found) == len(set(found)) == min(count, limit)
    assert found == sorted(found)


# ---- The verdict


def summary(best: tuple[float, float], luck: float = 0.5, free: float = 0.0, **groups: float) -> dict[str, Any]:
    shares = {"equal": 0.17, "all_zero": 0.0, "all_full": 0.0, "one_text": 0.0, **groups}
    return {
        "scenes": 40,
        "group": 8,
        "full": 1.0,
        "groups": shares,
        "rules": {
            "best": {"over_greedy": best[0], "error": best[1], "over_luck": luck, "over_luck_error": 0.01},
            "mbr": {"over_greedy": free, "error": 0.01},
            "threshold": {"over_greedy": free / 2, "error": 0.01},
        },
    }


@pytest.mark.parametrize(
    ("found", "said", "unsaid"),
    [
        pytest.param(
            summary((0.21, 0.01)),
            "differ in 83% of prompts; best of 8 is +0.21 ± 0.01 above greedy: RL has room", "without", id="room",
        ),
        pytest.param(summary((0.01, 0.005)), "greedy already equals best of 8", "room;", id="no room"),
        pytest.param(summary((-0.2, 0.01)), "greedy already equals best of 8", "RL has room", id="samples are worse"),
        pytest.param(summary((0.03, 0.002)), "greedy already equals best of 8, or nearly", "room;", id="little room"),
        pytest.param(
            {**summary((0.06, 0.01)), "full": 3.0}, "greedy already equals best of 8, or nearly", "RL has room",
            id="little room beside a larger sum",
        ),
        pytest.param(
            summary((0.19, 0.12)), "+0.19 ± 0.12 above greedy: too few records to tell", "room", id="undecided"
        ),
        pytest.param(summary((0.01, 0.12)), "too few records to tell", "room", id="nothing seen is not nothing there"),
        pytest.param(
            summary((0.3, 0.01), luck=0.01), "only +0.01 ± 0.01 above 8 answers to other prompts: that may be luck",
            "RL has room", id="luck",
        ),
        pytest.param(
            summary((0.2, 0.01), free=0.1), "minimum Bayes risk gives +0.10 ± 0.01 of it without training", "luck",
            id="the best free rule",
        ),
        pytest.param(
            summary((0.0, 0.0), equal=0.99, all_full=0.9), "no gradient, the samples are right as they are", "SFT",
            id="solved",
        ),
        pytest.param(summary((0.0, 0.0), equal=1.0, all_zero=1.0), "more SFT first?", "room", id="too hard"),
        pytest.param(summary((0.0, 0.0), equal=1.0, one_text=1.0), "a higher temperature?", "SFT", id="one text"),
        pytest.param({**summary((0.2, math.nan)), "scenes": 1}, "too few", "room", id="one scene"),
        pytest.param(
            {**summary((0.0, math.nan), equal=1.0, all_zero=1.0), "scenes": 1},
            "no gradient, all samples score 0 (more SFT first?); seen in one scene only", "too few",
            id="nothing right in one scene",
        ),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_numbers_mean_in_one_line(found: dict[str, Any], said: str, unsaid: str) -> None:
    text = verdict(found)
    assert said in text
    assert unsaid not in text
    assert "\n" not in text
