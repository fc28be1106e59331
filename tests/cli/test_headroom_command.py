from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import BOX, DETECTION_ANSWER, Shown, World, inside, record, records, run

from rft3d_cli import prompts
from rft3d_cli.errors import DataError
from rft3d_cli.records import read_records, write_records

QUICK = ("--group", 3, "--max-tokens", 90)


@pytest.fixture(scope="module")
def many(world: World) -> Path:
    """The world's records, two of each under another scene, and one that nothing scores."""
    chair = {"boxes": [{"label": "chair", "bbox_3d": BOX}]}
    rows = [one.model_copy(update={"id": f"{one.id}-{i}"}) for i in range(2) for one in records()]
    rows += [
        record("detection", prompts.detection_prompt(2), DETECTION_ANSWER, chair, name=f"more-{i}", scene=f"s{i}")
        for i in range(2)
    ]
    rows.append(record("text", "Describe the room.", "A chair.", {"references": ["A chair."]}, name="words"))
    write_records(world.folder / "many.jsonl", rows)
    return world.folder / "many.jsonl"


@pytest.fixture(scope="module")
def shown(many: Path, taught: Path) -> Shown:
    """What a model that knows the answers by heart gets."""
    with inside(many.parent):
        return run("headroom", many.name, "--model", taught, *QUICK, "--details", "details.jsonl", "--out",
                   "headroom.json", "--json")  # fmt: skip


Headroom = Callable[..., Shown]


@pytest.fixture
def headroom(rft3d: Callable[..., Shown], many: Path, world: World) -> Headroom:
    def ask(*words: object, data: Path = many, model: object = world.fresh) -> Shown:
        return rft3d("headroom", data, "--model", model, *words)

    return ask


# ---- The document


def test_the_document_says_what_was_asked_how_and_what_came_of_it(shown: Shown, many: Path, taught: Path) -> None:
    document = shown.document
    assert document["schema"] == 1
    assert document["model"]["name"] == str(taught)
    assert document["decoding"] == {
        "greedy": False, "max_tokens": 90, "repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "seed": 0,
        "batch": 32,
    }  # fmt: skip
    assert (document["n"], document["skipped"], document["score"]) == (8, 1, "own")
    assert {task: part["n"] for task, part in document["tasks"].items()} == {
        "grounding": 2, "detection": 4, "number": 2,
    }  # fmt: skip
    assert document["all"]["n"] == 8
    assert document["verdict"] == document["all"]["verdict"]
    assert document["threshold"]["by"] == "halves of scenes"
    assert json.loads((many.parent / "headroom.json").read_text(encoding="utf-8")) == document
    assert "1 record has no score and is left out" in shown.err


def test_the_parts_of_the_document_agree_with_the_lines_of_the_details(shown: Shown, many: Path) -> None:
    lines = [json.loads(line) for line in (many.parent / "details.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == [one.id for one in read_records(many).records if one.task != "text"]
    for task, part in shown.document["tasks"].items():
        own = [line for line in lines if line["task"] == task]
        for rule, row in part["rules"].items():
            scores = [line["scores"][rule] for line in own]
            assert row["mean"] == pytest.approx(sum(scores) / len(scores))
            assert row.get("over_greedy", 0.0) == pytest.approx(
                sum(line["scores"][rule] - line["scores"]["greedy"] for line in own) / len(own)
            )
        assert all(len(line["rewards"]) == 3 for line in own)
        best, mean = part["rules"]["best"]["mean"], part["rules"]["sampled"]["mean"]
        assert best == pytest.approx(sum(max(line["rewards"]) for line in own) / len(own))
        assert best >= mean
        equal = sum(math.isclose(line["std"], 0, abs_tol=1e-8) for line in own) / len(own)
        assert part["groups"]["equal"] == pytest.approx(equal)


def test_a_model_that_knows_the_answers_has_no_room(shown: Shown) -> None:
    detection = shown.document["tasks"]["detection"]
    assert detection["rules"]["greedy"]["mean"] == 1.0
    assert detection["rules"]["threshold"]["mean"] == 1.0
    assert "RL has room" not in detection["verdict"]


def test_a_seed_gives_the_same_document_and_another_one_other_samples(
    headroom: Headroom, taught: Path, shown: Shown
) -> None:
    again = headroom(*QUICK, "--json", model=taught).document
    other = headroom(*QUICK, "--json", "--seed", 1, "--temperature", 3, model=taught).document
    first = shown.document
    assert again["tasks"] == first["tasks"]
    assert [p["rules"]["greedy"] for p in other["tasks"].values()] == [
        p["rules"]["greedy"] for p in first["tasks"].values()
    ]
    assert [p["rules"]["sampled"] for p in other["tasks"].values()] != [
        p["rules"]["sampled"] for p in first["tasks"].values()
    ]
    assert other["decoding"]["temperature"] == 3


# ---- For people


def test_people_get_tables_a_verdict_a_task_and_warnings(headroom: Headroom) -> None:
    shown = headroom("--group", 2, "--max-tokens", 8)
    assert shown.code == 0
    for said in (
        "detection: 4 records of 4 scenes, det_f1",
        "best of 2 (knows the truth)",
        "best of 2 answers to another prompt",
        "minimum Bayes risk of 2",
        "what GRPO would see",
        "± is one standard error over scenes",
    ):
        assert said in shown.out
    verdicts = [line for line in shown.out.splitlines() if "GRPO has no gradient" in line]
    assert [line.partition(":")[0] for line in verdicts] == ["grounding", "detection", "number", "all"]
    assert "warning: detection: 100% of samples are cut at 8 tokens: raise --max-tokens" in shown.err
    assert "nan" not in shown.out


def test_one_record_tells_little(headroom: Headroom) -> None:
    shown = headroom("--limit", 1, *QUICK)
    assert "seen in one scene only" in shown.out
    assert "nan" not in shown.out
    assert "confident boxes" not in shown.out


# ---- Whose rewards, and how it is asked


def test_a_recipe_says_rewards_sampling_and_model(rft3d: Callable[..., Shown], many: Path) -> None:
    words = ("rollout.temperature=0.5", "rollout.max_tokens=20", "--group", 4, "--limit", 2, "--json")
    document = rft3d("headroom", many, "--recipe", "tiny-det", *words).document
    assert document["model"]["name"] == "tiny-sft"
    assert (document["decoding"]["temperature"], document["decoding"]["max_tokens"]) == (0.5, 20)
    assert document["score"] == "recipe"
    assert document["all"]["group"] == 4
    assert "det_f1" in document["weights"]


def test_named_rewards_are_summed_and_leave_out_what_they_do_not_score(headroom: Headroom) -> None:
    document = headroom("-r", "det_iou", "-r", "det_f1", *QUICK, "--json").document
    assert document["weights"] == {"det_iou": 1.0, "det_f1": 1.0}
    assert list(document["tasks"]) == ["detection"]
    assert document["skipped"] == 5


def test_other_records_tune_the_threshold(headroom: Headroom, world: World, taught: Path) -> None:
    document = headroom(*QUICK, "--threshold-from", world.records, "--json", model=taught).document
    assert document["threshold"]["by"] == "other records"
    assert document["threshold"]["file"] == str(world.records)
    assert len(document["threshold"]["values"]) == 1


def test_a_dry_run_loads_no_model(headroom: Headroom, tmp_path: Path) -> None:
    shown = headroom("--dry-run", "--group", 5)
    assert (shown.code, shown.out) == (0, "")
    assert "8 prompts, 6 answers each" in shown.err
    assert not any(tmp_path.iterdir())


# ---- What is wrong


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(["--recipe", "tiny-det", "-r", "det_f1"], 2, "exclude each other", id="two sources of rewards"),
        pytest.param(["--recipe", "det-sft"], 2, "has no rewards", id="a recipe without rewards"),
        pytest.param(["rollout.group=4"], 2, "none is named", id="a key without a recipe"),
        pytest.param(["-r", "det_f2"], 2, "unknown reward 'det_f2'", id="no such reward"),
        pytest.param(["-r", "accuracy"], 3, "no reward applies", id="nothing to score"),
        pytest.param(["--group", "1"], 2, "--group", id="a group of one"),
        pytest.param(["--temperature", "0"], 2, "--temperature", id="no temperature"),
        pytest.param(["--top-p", "1.5"], 2, "--top-p", id="more than all"),
        pytest.param(["--media-root", "nowhere"], 3, "media files are missing", id="no media"),
        pytest.param(["--model", "nobody/nothing"], 4, "not on this machine", id="no model"),
        pytest.param(["--details", "."], 2, "is a folder", id="details are a folder"),
        pytest.param(["--threshold-from", "gone.jsonl"], 3, "does not exist", id="nothing to tune on"),
    ],
)
def test_a_wrong_word_stops_before_the_model_is_loaded(
    headroom: Headroom, words: list[str], code: int, message: str
) -> None:
    shown = headroom(*words)
    assert (shown.code, shown.out) == (code, "")
    assert any(message in error for error in shown.errors), shown.errors
    assert shown.hint


def test_a_threshold_is_not_tuned_on_what_is_scored(headroom: Headroom, many: Path) -> None:
    shown = headroom("--threshold-from", many)
    assert shown.code == 3
    assert "of the records that are scored, first detection-0" in shown.errors[0]
    assert "halves of the scenes" in shown.hint


@pytest.mark.parametrize("option", ["--details", "--out"])
@pytest.mark.parametrize("words", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize("place", ["/proc/x/d.jsonl", "file/d.jsonl", "many/" + "d" * 300])
def test_what_cannot_be_written_stops_before_the_model_is_asked(
    headroom: Headroom, tmp_path: Path, option: str, words: list[str], place: str
) -> None:
    (tmp_path / "file").write_text("")
    shown = headroom(option, place, *words, model="nobody/nothing")
    assert (shown.code, shown.out) == (3, "")
    assert "cannot be written" in shown.errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_was_measured_is_shown_although_its_file_fails(
    headroom: Headroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise DataError("the disk is full")

    monkeypatch.setattr("rft3d_cli.commands.headroom._write_lines", full)
    shown = headroom("--limit", 1, *QUICK, "--details", "deep/d.jsonl", "--json")
    assert (shown.code, shown.errors) == (3, ["the disk is full"])
    assert json.loads(shown.out)["n"] == 1
    assert not any(tmp_path.iterdir())


def test_a_threshold_needs_detection_to_be_scored(rft3d: Callable[..., Shown], world: World, tmp_path: Path) -> None:
    number = [one for one in records() if one.task == "number"]
    write_records(tmp_path / "number.jsonl", number)
    words = ("--media-root", world.folder, "--model", "nobody/nothing", "--threshold-from", world.records)
    shown = rft3d("headroom", "number.jsonl", *words)
    assert shown.code == 2
    assert "number.jsonl holds no detection record to score" in shown.errors[0]
    assert "leave --threshold-from out" in shown.hint


def test_records_without_targets_are_named_so(rft3d: Callable[..., Shown], world: World, tmp_path: Path) -> None:
    text = record("text", "Describe it.", "A chair.", {"references": ["A chair."]})
    write_records(tmp_path / "text.jsonl", [text.model_copy(update={"target": None})])
    shown = rft3d("headroom", "text.jsonl", "--media-root", world.folder)
    assert shown.code == 3
    assert "none of its records has a target" in shown.errors[0]


def test_records_are_not_written_over(headroom: Headroom, many: Path) -> None:
    before = many.read_bytes()
    for option in ("--details", "--out"):
        assert headroom(option, many).code == 2
    assert many.read_bytes() == before


def test_records_of_text_alone_have_nothing_to_gain(rft3d: Callable[..., Shown], world: World, tmp_path: Path) -> None:
    text = record("text", "Describe it.", "A chair.", {"references": ["A chair."]})
    write_records(tmp_path / "text.jsonl", [text])
    shown = rft3d("headroom", "text.jsonl", "--media-root", world.folder)
    assert shown.code == 3
    assert "no reward applies to its records (text)" in shown.errors[0]
