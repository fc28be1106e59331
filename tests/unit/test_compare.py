from __future__ import annotations

import json
import math
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.answers.target import target_answer
from rft3d_cli.benchmarks import detection, scan2cap, scanrefer, sqa3d, vsibench
from rft3d_cli.benchmarks.compare import compare, read_evaluation
from rft3d_cli.benchmarks.paired import FLIPS, Difference
from rft3d_cli.benchmarks.result import scene_draws
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.examples import example_record
from rft3d_cli.files import sha256
from rft3d_cli.records import Meta, TextTarget

DIRECTION = ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard")
KINDS = ("object_counting", "route_planning", *DIRECTION)


def line(name: str, score: float, scene: str | None = "s0", kind: str | None = None, **more: Any) -> dict[str, Any]:
    fact = {"scene": scene, "dataset": "scannet", "question_type": kind, "subset": more.pop("subset", None)}
    return {
        "id": name,
        "score": score,
        "parts": more.pop("parts", {}),
        "answer": more.pop("answer", None),
        "why": "",
        **fact,
    }


def questions(
    scores: dict[str, list[float]] | np.random.Generator, per_scene: int = 5, scenes: int = 6
) -> list[dict[str, Any]]:
    """Details of VSI-Bench: scenes hold unequal numbers of questions of several types."""
    rng = scores if isinstance(scores, np.random.Generator) else np.random.default_rng(0)
    out = []
    for scene in range(scenes):
        for index in range(per_scene + scene % 3):
            kind = KINDS[(scene + index) % len(KINDS)]
            score = rng.integers(0, 11) / 10 if kind == "object_counting" else float(rng.integers(0, 2))
            out.append(line(f"{scene}/{index}", float(score), f"s{scene}", kind))
    return out


def save(folder: Path, details: list[dict[str, Any]], **document: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "details.jsonl").write_text("".join(json.dumps(one) + "\n" for one in details), encoding="utf-8")
    whole = {"benchmark": "vsibench", "data": {"file": "absent.jsonl", "sha256": "0"}, **document}
    (folder / "result.json").write_text(json.dumps(whole), encoding="utf-8")
    return folder


def held(tmp_path: Path, a: list[dict[str, Any]], b: list[dict[str, Any]], **document: Any):  # type: ignore[no-untyped-def]
    sides = (read_evaluation(save(tmp_path / name, side, **document)) for name, side in (("a", a), ("b", b)))
    return compare(*sides)


# ---- A reference, record by record


def official(details: list[dict[str, Any]]) -> float:
    """Means of types, the three directions merged, the mean of that."""
    types = defaultdict(list)
    for one in details:
        types[one["question_type"]].append(one["score"])
    means = {kind: sum(scores) / len(scores) for kind, scores in types.items()}
    turns = [means.pop(kind) for kind in DIRECTION if kind in means]
    tasks = [*means.values(), *([sum(turns) / len(turns)] if turns else [])]
    return 100 * sum(tasks) / len(tasks)


def by_scene(details: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    scenes = defaultdict(list)
    for one in details:
        scenes[one["scene"]].append(one)
    return list(scenes.values())


def test_the_headline_is_the_official_mean_and_its_interval_resamples_scenes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a, b = questions(rng), questions(rng)
    row = held(tmp_path, a, b).rows[0]
    assert row.key == "overall"
    assert (row.a, row.b) == (pytest.approx(official(a)), pytest.approx(official(b)))
    assert row.difference == pytest.approx(official(b) - official(a))
    gains = []
    for draw in scene_draws(6, seed=0).astype(int):
        sides = (
            [one for scene, times in zip(by_scene(side), draw, strict=True) for one in scene * times] for side in (a, b)
        )
        before, after = (official(side) for side in sides)
        gains.append(after - before)
    assert row.interval == pytest.approx(tuple(np.percentile(gains, (2.5, 97.5))))


def test_with_few_scenes_p_counts_all_ways_to_swap_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    a, b = questions(rng), questions(rng)
    seen = abs(official(b) - official(a))
    as_far = 0
    for swaps in product((False, True), repeat=6):
        pairs = list(zip(by_scene(a), by_scene(b), swaps, strict=True))
        one = [x for before, after, swap in pairs for x in (after if swap else before)]
        two = [x for before, after, swap in pairs for x in (before if swap else after)]
        as_far += abs(official(two) - official(one)) >= seen - 1e-9
    assert held(tmp_path, a, b).rows[0].p == pytest.approx(as_far / 2**6)


def test_with_many_scenes_p_is_that_of_the_binomial(tmp_path: Path) -> None:
    a = [line(str(i), 0.0, f"s{i}", "route_planning") for i in range(40)]
    b = [line(str(i), float(i < 10), f"s{i}", "route_planning") for i in range(40)]
    # Ten scenes gained and none lost: all ten to one side, by chance, in 2 of 1,024 ways.
    assert held(tmp_path, a, b).rows[0].p == pytest.approx(2 / 1024, abs=4 * math.sqrt(2 / 1024 / FLIPS))


def test_under_no_difference_p_is_seldom_small(tmp_path: Path) -> None:
    small = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = held(tmp_path, questions(rng, 3, 8), questions(rng, 3, 8)).rows[0]
        small += found.p is not None and found.p <= 0.1
    assert small <= 11  # 4 expected; 12 or more once in a thousand


@pytest.mark.parametrize("scenes", [2, 3, 5, 8])
def test_under_no_difference_there_is_seldom_a_verdict(tmp_path: Path, scenes: int) -> None:
    said = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sides = ([line(str(i), rng.random(), f"s{i // 5}", "object_counting") for i in range(5 * scenes)] for _ in "ab")
        said += held(tmp_path, *sides).verdict in ("better", "worse")
    assert said <= (0 if scenes < 6 else 7)  # 2 expected of 8 scenes; 8 or more once in a thousand


@pytest.mark.parametrize(
    ("interval", "p", "scenes", "verdict"),
    [
        pytest.param((1.0, 9.0), 0.01, 8, "better", id="better"),
        pytest.param((-9.0, -1.0), 0.01, 8, "worse", id="worse"),
        pytest.param((-9.0, -1.0), 0.156, 8, "not shown", id="the interval alone"),
        pytest.param((-1.0, 9.0), 0.01, 8, "not shown", id="the test alone"),
        pytest.param((-9.0, -1.0), 0.05, 8, "not shown", id="at the level"),
        pytest.param((-9.0, -1.0), 0.01, 5, None, id="few scenes"),
        pytest.param(None, None, 8, None, id="neither"),
        pytest.param((-9.0, -1.0), None, 8, None, id="no test"),
    ],
)
def test_a_verdict_needs_interval_and_test(
    interval: tuple[float, float] | None, p: float | None, scenes: int, verdict: str | None
) -> None:
    assert Difference("overall", 9, 50.0, 50.0, 0.0, interval, p).verdict(scenes) == verdict


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_other_way_round_all_signs_turn(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = questions(rng, 3, 4), questions(rng, 3, 4)
    forth, back = (held(tmp_path_factory.mktemp("x"), *sides) for sides in ((a, b), (b, a)))
    for one, two in zip(forth.rows, back.rows, strict=True):
        assert (one.key, one.difference) == (two.key, pytest.approx(-two.difference))
        assert one.p == pytest.approx(two.p)
        low, high = two.interval
        assert one.interval == pytest.approx((-high, -low), abs=1e-9)
    assert (forth.counts["better"], forth.counts["worse"]) == (back.counts["worse"], back.counts["better"])


def test_an_evaluation_does_not_differ_from_itself(tmp_path: Path) -> None:
    details = questions(np.random.default_rng(0))
    found = held(tmp_path, details, details)
    assert {(row.difference, row.interval, row.p) for row in found.rows} == {(0.0, (0.0, 0.0), 1.0)}
    assert found.counts == {"better": 0, "worse": 0, "same": len(details)}
    assert (found.changed, found.asked_differently, found.notes) == ([], {}, [])


def test_the_parts_of_a_benchmark_have_rows_of_their_own(tmp_path: Path) -> None:
    a = questions(np.random.default_rng(0))
    for one in a[::2]:
        one["dataset"] = "arkitscenes"
    keys = {row.key: row.n for row in held(tmp_path, a, a).rows}
    assert keys["tasks.object_rel_direction"] == sum(one["question_type"] in DIRECTION for one in a)
    assert keys["datasets.arkitscenes.overall"] == len(a[::2])
    assert "tasks.room_size_estimation" not in keys


# ---- The same numbers as the result's


def evaluations(tmp_path: Path, benchmark: str) -> list[Any]:
    """Two real results with their details, as ``evaluate`` writes them."""
    module, task = {
        "vsibench": (vsibench, "number"),
        "scanrefer": (scanrefer, "grounding"),
        "detection": (detection, "detection"),
        "sqa3d": (sqa3d, "text"),
        "scan2cap": (scan2cap, "text"),
    }[benchmark]
    example = example_record(task)
    if task == "text":
        meta = Meta.model_validate({"dataset": benchmark, "question_type": "what", "iou": 0.6})
        example = example.model_copy(update={"meta": meta})
    metas = [{"scene": f"s{i % 4}", "subset": ("unique", "multiple")[i % 2]} for i in range(12)]
    records = [
        example.model_copy(update={"id": str(i), "meta": example.meta.model_copy(update=meta)})
        for i, meta in enumerate(metas)
    ]
    if task == "text":
        # CIDEr weighs words by how rare they are: captions that are all alike have no weight.
        texts = [TextTarget(references=[f"the {word} chair by the wall"]) for word in ("red", "blue", "green") * 4]
        records = [one.model_copy(update={"target": text}) for one, text in zip(records, texts, strict=True)]
    right = [one.target.references[0] if task == "text" else target_answer(one) or "" for one in records]
    other = {"vsibench": "2.2", "sqa3d": "the red chair", "scan2cap": "a chair"}.get(benchmark)
    turn = ('"frame": 1', '"frame": 0') if benchmark == "scanrefer" else ('"', "'", 1)
    answers = [
        {r.id: right[i] if i % n else other or right[i].replace(*turn) for i, r in enumerate(records)} for n in (3, 2)
    ]
    answers[1]["5"] = "nothing"
    out = []
    for name, predictions in zip("ab", answers, strict=True):
        result = module.score(records, predictions)
        facts = [
            {key: getattr(r.meta, key) for key in ("scene", "dataset", "question_type", "subset")} for r in records
        ]
        details = [detail | fact for detail, fact in zip(result.details, facts, strict=True)]
        out.append(read_evaluation(save(tmp_path / name, details, **result.document)))
    return out


def said(document: dict[str, Any], key: str) -> float:
    """A number of a result under a key whose parts may hold dots themselves."""
    if key in document:
        return float(document[key])
    part = next(part for part in document if key.startswith(f"{part}.") and isinstance(document[part], dict))
    return said(document[part], key.removeprefix(f"{part}."))


@pytest.mark.parametrize("benchmark", ["vsibench", "scanrefer", "detection", "sqa3d", "scan2cap"])
def test_both_sides_say_what_their_results_say(tmp_path: Path, benchmark: str) -> None:
    a, b = evaluations(tmp_path, benchmark)
    found = compare(a, b)
    assert found.notes == []
    assert found.counts["worse"] > 0
    for row in found.rows:
        for side, value in ((a, row.a), (b, row.b)):
            assert value == pytest.approx(said(side.document, row.key)), row.key
    assert len(found.rows) >= 3


def test_refined_answers_are_compared_where_both_sides_have_them(tmp_path: Path) -> None:
    parts = {"acc@0.25": 1.0, "acc@0.5": 0.0, "iou": 0.4, "refined_iou": 0.6}
    details = [line(str(i), 0.4, f"s{i}", subset="unique", parts=parts) for i in range(3)]
    values = {row.key: row.a for row in held(tmp_path, details, details, benchmark="scanrefer").rows}
    assert (values["overall.acc@0.5"], values["refined.unique.acc@0.5"]) == (0.0, 100.0)
    assert "multiple.acc@0.5" not in values


def test_classes_are_averaged_where_the_details_count_them(tmp_path: Path) -> None:
    def one(name: str, chair: list[int], bed: list[int]) -> dict[str, Any]:
        tp, fp, fn = (x + y for x, y in zip(chair, bed, strict=True))
        parts = {"tp": tp, "fp": fp, "fn": fn, "per_class": {"chair": chair, "bed": bed}}
        return line(name, 0.0, name, parts=parts)

    a = [one("x", [1, 0, 1], [0, 1, 0]), one("y", [1, 1, 0], [1, 0, 0])]
    rows = {row.key: row.a for row in held(tmp_path, a, a, benchmark="detection").rows}
    # chair: 2 found, 1 wrong, 1 missed; bed: 1 found, 1 wrong; six of eight classes have nothing.
    assert rows["classes_8.f1"] == pytest.approx(100 * (2 / 3 + 2 / 3) / 8)
    assert rows["classes_8.precision"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 8)
    assert rows["micro.f1"] == pytest.approx(100 * 6 / 9)
    assert next(iter(rows)) == "classes_20.f1"


def test_a_benchmark_without_numbers_of_its_own_is_compared_by_its_scores(tmp_path: Path) -> None:
    a = [line(str(i), i / 4, f"s{i}", ("what", "how")[i % 2], parts={"em": i % 2, "said": "x"}) for i in range(4)]
    rows = {row.key: (row.n, row.a) for row in held(tmp_path, a, a, benchmark="mine").rows}
    assert rows == {"score": (4, 37.5), "em": (4, 50.0), "what.score": (2, 25.0), "how.score": (2, 50.0)}


@pytest.mark.parametrize(
    ("benchmark", "odd"),
    [
        pytest.param("detection", {"parts": {"tp": "1", "fp": [], "fn": None}}, id="counts of other kinds"),
        pytest.param("scanrefer", {"parts": {"iou": True}}, id="a truth for an IoU"),
        pytest.param("vsibench", {"question_type": ["route_planning"]}, id="a list of types"),
        pytest.param("vsibench", {"scene": {"name": "s"}}, id="a scene with insides"),
    ],
)
def test_details_of_another_make_are_compared_by_their_scores(
    tmp_path: Path, benchmark: str, odd: dict[str, Any]
) -> None:
    details = [{"id": str(i), "score": i / 4, "why": "", "parts": {}, **odd} for i in range(5)]
    assert held(tmp_path, details, details, benchmark=benchmark).rows[0].key == "score"


# ---- What changed


def test_changed_records_come_with_both_answers_most_changed_first(tmp_path: Path) -> None:
    a = [
        line("x", 0.5, kind="object_counting", answer=4),
        line("y", 1.0, kind="object_counting"),
        line("z", 0.3, kind="object_counting"),
    ]
    b = [
        line("x", 0.6, kind="object_counting", answer=5),
        line("y", 0.0, kind="object_counting"),
        line("z", 0.3, kind="object_counting"),
    ]
    found = held(tmp_path, a, b)
    assert [one["id"] for one in found.changed] == ["y", "x"]
    assert (found.changed[1]["a"]["answer"], found.changed[1]["b"]["answer"]) == (4, 5)
    assert found.counts == {"better": 1, "worse": 1, "same": 1}


SAID = {"scorer": "official", "versions": {"rft3d": "1", "torch": "2"}, "prompt_hash": "p"}
MODEL = {"name": "tiny", "sha256": {"w": "1"}, "frames": 8, "decoding": {"max_tokens": 16, "batch": 32}}


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"scorer": "robust"}, {"scorer": ["official", "robust"]}, id="scorer"),
        pytest.param({"prompt_hash": "q"}, {"prompt_hash": ["p", "q"]}, id="prompts"),
        pytest.param({"versions": {"rft3d": "1", "torch": "3"}}, {"versions.torch": ["2", "3"]}, id="a version"),
        pytest.param({"versions": {"rft3d": "1"}}, {"versions.torch": ["2", None]}, id="a package less"),
        pytest.param({"model": {**MODEL, "name": "rft", "sha256": {"v": "2"}}}, {}, id="another model, asked alike"),
        pytest.param({"model": {**MODEL, "frames": 4}}, {"frames": [8, 4]}, id="frames"),
        pytest.param({"model": {**MODEL, "decoding": {"max_tokens": 32, "batch": 1}}},
                     {"decoding.max_tokens": [16, 32]}, id="decoding, but for the batch"),
        pytest.param({"model": None, "predictions": {"file": "theirs.jsonl"}}, {}, id="saved predictions"),
    ],
)  # fmt: skip
def test_what_was_asked_differently_is_said(tmp_path: Path, other: dict[str, Any], differs: dict[str, Any]) -> None:
    details = questions(np.random.default_rng(0))
    a = save(tmp_path / "a", details, **SAID, model=MODEL)
    document = {key: value for key, value in {**SAID, "model": MODEL, **other}.items() if value is not None}
    b = save(tmp_path / "b", details, **document)
    assert compare(read_evaluation(a), read_evaluation(b)).asked_differently == differs


# ---- Scenes


def test_without_scenes_records_are_resampled_and_that_is_said(tmp_path: Path) -> None:
    details = questions(np.random.default_rng(0))
    for one in details:
        del one["scene"]
    found = held(tmp_path, details, details)
    assert (found.scenes, found.unit) == (None, "record")
    assert found.notes == ["the details name no scenes: records are resampled, and intervals may be too narrow"]


def test_one_scene_has_no_interval(tmp_path: Path) -> None:
    details = [line(str(i), float(i % 2), kind="route_planning") for i in range(5)]
    found = held(tmp_path, details, details)
    assert (found.scenes, found.rows[0].interval, found.rows[0].p) == (1, None, None)
    assert found.notes == ["all records are of one scene: no intervals"]


def test_scenes_of_two_data_sets_are_two(tmp_path: Path) -> None:
    details = [line(str(i), float(i % 2), kind="route_planning") for i in range(4)]
    details[0]["dataset"] = "arkitscenes"
    assert held(tmp_path, details, details).scenes == 2


@pytest.mark.parametrize("form", ["records", "published"])
def test_scenes_and_types_come_from_the_data_where_the_details_lack_them(tmp_path: Path, form: str) -> None:
    details = questions(np.random.default_rng(0))
    rows = []
    for one in details:
        meta = {key: one.pop(key) for key in ("scene", "dataset", "question_type")}
        published = {"scene_name": meta["scene"], "dataset": meta["dataset"], "question_type": meta["question_type"]}
        rows.append({"id": one["id"], **({"task": "number", "meta": meta} if form == "records" else published)})
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {"file": str(data), "sha256": sha256(data)}
    found = held(tmp_path, details, details, data=said)
    assert (found.scenes, found.rows[0].key) == (6, "overall")
    data.write_text(data.read_text() + "\n")
    later = held(tmp_path, details, details, data=said)
    assert (later.scenes, later.rows[0].key) == (None, "score")


# ---- What cannot be compared


def test_two_benchmarks_are_not_compared(tmp_path: Path) -> None:
    details = questions(np.random.default_rng(0))
    a, b = save(tmp_path / "a", details), save(tmp_path / "b", details, benchmark="scanrefer")
    with pytest.raises(UsageError, match=r"a result of vsibench, .* of scanrefer"):
        compare(read_evaluation(a), read_evaluation(b))


def test_different_records_are_compared_on_demand_only(tmp_path: Path) -> None:
    details = questions(np.random.default_rng(0))
    a, b = read_evaluation(save(tmp_path / "a", details[1:])), read_evaluation(save(tmp_path / "b", details[:-3]))
    with pytest.raises(DataError, match=r"has 3 records that .* lacks, which has 1 of its own") as caught:
        compare(a, b)
    assert f"--common compares the {len(details) - 4} records" in str(caught.value.hint)
    found = compare(a, b, common=True)
    assert (found.records, len(found.notes)) == (len(details) - 4, 1)


def test_the_same_ids_of_other_data_are_compared_on_demand_only(tmp_path: Path) -> None:
    details = questions(np.random.default_rng(0))
    a, b = (save(tmp_path / name, details, data={"file": "x", "sha256": name}) for name in "ab")
    with pytest.raises(DataError, match="the files of the data are not"):
        compare(read_evaluation(a), read_evaluation(b))
    assert compare(read_evaluation(a), read_evaluation(b), common=True).records == len(details)


def test_data_that_one_side_does_not_name_was_not_checked(tmp_path: Path) -> None:
    details = questions(np.random.default_rng(0))
    a, b = save(tmp_path / "a", details), save(tmp_path / "b", details, data={"file": "x"})
    notes = compare(read_evaluation(a), read_evaluation(b)).notes
    assert notes == [f"{b} does not say which data it is of: that both are of the same was not checked"]
    (b / "result.json").unlink()
    notes = compare(read_evaluation(a), read_evaluation(b)).notes
    assert len(notes) == 2
    assert notes[1] == f"{b} comes without a result.json: its scorer and settings are not known"


def test_details_of_another_run_are_refused(tmp_path: Path) -> None:
    details = questions(np.random.default_rng(0))
    folder = save(tmp_path / "a", details)
    stamp = {"sha256": sha256(folder / "details.jsonl")}
    result = {"benchmark": "vsibench", "details": stamp}
    (folder / "result.json").write_text(json.dumps(result))
    for path in (folder, folder / "details.jsonl", folder / "result.json"):
        assert len(read_evaluation(path).details) == len(details)
    save(folder, details[:-1])
    (folder / "result.json").write_text(json.dumps(result))
    for path in (folder, folder / "details.jsonl", folder / "result.json"):
        with pytest.raises(DataError, match="one of them is of another run") as caught:
            read_evaluation(path)
        assert "repeat the evaluation" in str(caught.value.hint)


def test_nothing_in_common_is_nothing_to_compare(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", [line("x", 1.0)]), save(tmp_path / "b", [line("y", 1.0)])
    with pytest.raises(DataError, match="no record in common"):
        compare(read_evaluation(a), read_evaluation(b), common=True)


def test_a_result_of_other_details_is_told(tmp_path: Path) -> None:
    details = questions(np.random.default_rng(0))
    notes = held(tmp_path, details, details, overall=99.0).notes
    assert len(notes) == 2
    assert "result.json says overall 99.00" in notes[0]


@pytest.mark.parametrize("name", ["", "result.json", "details.jsonl"])
def test_a_side_is_a_folder_or_either_of_its_files(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "a", questions(np.random.default_rng(0)))
    side = read_evaluation(folder / name)
    assert (side.document["benchmark"], len(side.details)) == ("vsibench", 36)


def test_details_alone_will_do(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", questions(np.random.default_rng(0)))
    (folder / "result.json").unlink()
    side = read_evaluation(folder / "details.jsonl")
    found = compare(side, side)
    assert (found.benchmark, found.rows[0].key) == (None, "score")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("details.jsonl", "", "holds no details", id="empty"),
        pytest.param("details.jsonl", "{\n", "line 1: not JSON", id="broken"),
        pytest.param("details.jsonl", '{"id": "a"}\n', "line 1 is no detail", id="no score"),
        pytest.param("details.jsonl", '{"id": "a", "score": null}\n', "line 1 is no detail", id="null score"),
        pytest.param("details.jsonl", '[1]\n', "line 1 is no detail", id="a list"),
        pytest.param("details.jsonl", '{"id": "a", "score": 1, "parts": 3}\n', "parts must be", id="parts a number"),
        pytest.param("details.jsonl", '{"id": "a", "score": NaN}\n', "line 1 is no detail", id="score NaN"),
        pytest.param("details.jsonl", '{"id": 1, "score": 1}\n{"id": "1", "score": 1}\n', "line 2: id '1' repeats",
                     id="a number and its text"),
        pytest.param("details.jsonl", '{"id": "a", "score": 1}\n' * 2, "line 2: id 'a' repeats", id="repeated"),
        pytest.param("result.json", "[", "cannot be read", id="result broken"),
        pytest.param("result.json", "{}", "is no result", id="result of something else"),
    ],
)  # fmt: skip
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = save(tmp_path / "a", [line("a", 1.0)])
    (folder / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_evaluation(folder)
    assert message in caught.value.message
    assert str(folder / name) in caught.value.message


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_evaluation(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no details\.jsonl"):
        read_evaluation(tmp_path)
