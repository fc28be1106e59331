from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import qa_files as sets
from hypothesis import given, settings
from hypothesis import strategies as st
from qa_files import ALL, CHOICES, CLOSEST, COUNT, DISTANCE, NUMBERS, ROUTE, SIZE, SPAR_IMAGES, add_media, save, talk

from rft3d_cli.errors import DataError, ProblemList, Rft3dError, UsageError
from rft3d_cli.prepare import rowfile
from rft3d_cli.prepare.conversations import RowError
from rft3d_cli.prepare.heldout import HeldOut
from rft3d_cli.prepare.pipeline import Policy, Report
from rft3d_cli.prepare.qa.forms import FORMS, form_of
from rft3d_cli.prepare.qa.kinds import SAME, unit_of
from rft3d_cli.prepare.qa.prepare import QaSpec, prepare_qa
from rft3d_cli.prepare.qa.questions import lettered, moved, parse_question
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records
from rft3d_cli.rewards.reasoning import UNITS, accuracy, mra

SCENE = "scannet/scene0191_00.mp4"


def run(tmp_path: Path, rows: list[Any] | Path, **options: Any) -> Report:
    name = options.pop("name", "train.json")
    file = rows if isinstance(rows, Path) else save(tmp_path / name, rows)
    media = tmp_path / "media"
    media.mkdir(exist_ok=True)
    if isinstance(rows, list) and options.pop("add", True):
        add_media(media, rows)
    spec = {key: options.pop(key) for key in list(options) if key in QaSpec.__dataclass_fields__}
    fields: dict[str, Any] = {
        "file": file,
        "media": media,
        "media_root": None,
        "split": Split("train"),
        "out": tmp_path / "out.jsonl",
        "spec": QaSpec(**spec),
        "allow_missing": False,
        "policy": Policy(max_bad=1.0),
    }
    return prepare_qa(**(fields | options))


def records(report: Report) -> list[Record]:
    return read_records(report.out, media_root=report.media_root).records


def one(tmp_path: Path, row: dict[str, Any], **options: Any) -> Record:
    (record,) = records(run(tmp_path, [row], **options))
    return record


def card(report: Report) -> dict[str, Any]:
    return json.loads(report.card.read_text(encoding="utf-8"))


def image_row(question: str, answer: str, images: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"conversations": talk(question, answer), "images": images or SPAR_IMAGES[:2], **more}


# ---- The sets

WRITERS = [
    pytest.param("vsi590k", sets.vsi590k, "train.jsonl", sets.VSI590K, id="VSI-590K"),
    pytest.param("vsitrain", sets.vsitrain, "vsi_train_10k.jsonl", sets.VSITRAIN, id="VSI-Train-10k"),
    pytest.param("vsitrain", sets.vsitrain, "vsi_train_10k.parquet", sets.VSITRAIN, id="VSI-Train-10k, parquet"),
    pytest.param("spacer", sets.spacer, "train.jsonl", None, id="SpaceR-151k"),
    pytest.param("vlm3r", sets.vlm3r, "merged_qa_scannet_train.json", None, id="VLM-3R"),
    pytest.param("sims", sets.sims, "sims_vsi_200k.parquet", sets.SIMS, id="SIMS-VSI"),
]


@pytest.mark.parametrize(("form", "write", "name", "own"), WRITERS)
def test_every_set_trains_the_benchmark_s_prompt_and_answer(
    tmp_path: Path, form: str, write: Any, name: str, own: dict[str, str] | None
) -> None:
    asked = [question for question in ALL if own is None or question[0] in own]
    report = run(tmp_path, [write(question) for question in asked], name=name)
    found = records(report)
    assert len(found) == len(asked)
    for number, (record, question) in enumerate(zip(found, asked, strict=True)):
        kind, _, options, answer = question
        assert record.id == f"{Path(name).stem}/{number}"
        assert record.prompt == sets.prompt(question)
        assert record.answer == answer
        assert record.meta.model_extra["form"] == form
        assert record.meta.model_extra["vsibench_type"] == kind
        assert record.meta.question_type == (own or {}).get(kind, kind)
        if options is None:
            assert (record.task, record.target.value) == ("number", float(answer))
        else:
            assert (record.task, record.target.letter) == ("choice", answer)
            assert record.target.options == sets.marked(options)
    assert card(report)["options"]["form"] == {"option": None, "form": form}
    assert (report.counts["number"], report.counts["choice"]) == (
        sum(q[2] is None for q in asked),
        sum(q[2] is not None for q in asked),
    )


@pytest.mark.parametrize(("form", "write", "name", "own"), WRITERS)
def test_every_answer_is_worth_its_reward(tmp_path: Path, form: str, write: Any, name: str, own: Any) -> None:
    rows = [write(question) for question in ALL if own is None or question[0] in own]
    for style in ("direct", "think"):
        for record in records(run(tmp_path, rows, name=name, answer_style=style)):
            reward = mra if record.task == "number" else accuracy
            assert reward(record.answer, record).value == 1
            assert record.prompt.endswith("<answer> and </answer>.") is (style == "think")


@pytest.mark.parametrize(
    ("row", "dataset", "scene", "video"),
    [
        (sets.vsi590k(COUNT), "scannet", "scene0191_00", SCENE),
        (sets.vsi590k(COUNT, "adt/walk_seq1.mp4"), "adt", "walk_seq1", "adt/walk_seq1.mp4"),
        (sets.vsitrain(COUNT), "scannet", "scene0335_02", "scannet_videos_128f/train/scene0335_02_128f.mp4"),
        (
            sets.vsitrain(COUNT, "arkitscenes_128f/47333462_128f.mp4"),
            "scannet",
            "47333462",
            "arkitscenes_128f/47333462_128f.mp4",
        ),
        (sets.spacer(COUNT), "SR_dataset", "scene0002_01", "SR_dataset/scene0002_01.mp4"),
        (
            sets.spacer(COUNT, "./CLEVRER/video_1.mp4", data_source="CLEVRER"),
            "CLEVRER",
            None,
            "CLEVRER/video_1.mp4",
        ),
        (sets.vlm3r(COUNT), "scannet", "scene0384_00", "scannet/videos/scene0384_00.mp4"),
        (sets.sims(COUNT), "sims-vsi", "000042", "procthor/train/000042/raw_navigation_camera__0.mp4"),
    ],
    ids=lambda value: value.get("video", value.get("path")) if isinstance(value, dict) else None,
)
def test_a_record_names_its_clip_and_scene(
    tmp_path: Path, row: dict[str, Any], dataset: str, scene: str | None, video: str
) -> None:
    record = one(tmp_path, row, frames=8, sampler="chunk-center")
    assert (record.meta.dataset, record.meta.scene, record.meta.split) == (dataset, scene, "train")
    assert (record.video.path, record.video.frames, record.video.sampler) == (f"media/{video}", 8, "chunk-center")
    assert record.meta.sampler == "chunk-center"


def test_vlm3r_rows_without_a_path_have_the_training_scripts_one(tmp_path: Path) -> None:
    row = {key: value for key, value in sets.vlm3r(COUNT, "47333462").items() if key != "video"}
    add_media(tmp_path / "media", [{"video": "scannet/videos/47333462.mp4"}])
    assert one(tmp_path, row).video.path == "media/scannet/videos/47333462.mp4"


def test_spar_questions_that_need_no_painted_marks(tmp_path: Path) -> None:
    select = "Which is it?\nA. the chair\nB. the bed\nYour answer can only include one of options A or B."
    rows = [
        sets.spar("How many chairs are there? Provide a numeric response.", "3", "obj_count"),
        sets.spar(select, "B", "appearance_order"),
        sets.spar("Describe the way.", "Turn left and walk.", "nav"),
        sets.spar("How deep is the chair (red point)? The unit is meter.", "1.5", "depth_prediction_oo_mv"),
    ]
    report = run(tmp_path, rows)
    number, choice, text = records(report)
    assert (number.task, number.target.value, number.prompt) == (
        "number",
        3.0,
        f"{sets.HEAD}\nHow many chairs are there? Provide a numeric response.\n{sets.WORD}",
    )
    assert (number.meta.dataset, number.meta.scene, number.meta.question_type) == (
        "scannet",
        "scene0012_01",
        "obj_count",
    )
    assert number.meta.model_extra["vsibench_type"] == "object_counting"
    assert number.video.frames == [f"media/{name}" for name in SPAR_IMAGES]
    assert choice.prompt == f"{sets.HEAD}\nWhich is it?\nOptions:\nA. the chair\nB. the bed\n{sets.LETTER}"
    assert (choice.target.letter, choice.meta.model_extra["vsibench_type"]) == ("B", "obj_appearance_order")
    assert (text.task, text.prompt, text.target.references) == ("text", "Describe the way.", ["Turn left and walk."])
    assert [(row["reason"], "detail" in row) for row in report.rejects] == [("needs painted marks", False)]


def test_spar_s_own_index_files_are_read_too(tmp_path: Path) -> None:
    row = {
        "id": "scene0261_00_16",
        "conversations": talk("How large is the room?", "20.1"),
        "image": ["scene0261_00/image_color/543.jpg"],
        "type": "room_size",
    }
    painted = {**row, "type": "depth_prediction_oc", "red_point": [[553, 397]]}
    report = run(tmp_path, [row, painted])
    (record,) = records(report)
    assert (record.task, record.target.value, record.meta.scene) == ("number", 20.1, "scene0261_00")
    assert record.meta.model_extra["form"] == "spar"
    assert report.rejects[0]["reason"] == "needs painted marks"


def test_mindcube_has_its_options_in_the_question(tmp_path: Path) -> None:
    record = one(tmp_path, sets.mindcube())
    assert record.target.options == ["A. Tv", "B. Dining table", "C. Light purple sofa", "D. Brown curtains"]
    assert record.prompt.splitlines()[-6:] == ["Options:", *record.target.options, sets.LETTER]
    assert record.prompt.splitlines()[1].endswith("which object is to my right?")
    assert len(record.video.frames) == 4
    assert (record.meta.question_type, record.meta.scene) == ("among", "shoe_216")


def test_other_llava_files_become_what_their_answers_are(tmp_path: Path) -> None:
    rows = [
        {"video": "scannet/a.mp4", "conversations": talk("<image>\nHow far, in meters?", "2.5")},
        image_row("<image>\n<image>\nWhich view is from above, A or B?", "B", ["images/000/1.png", "images/000/2.png"]),
        {"image": "images/1.jpg", "conversations": talk("<image>\nDescribe it.", "A bed.")},
        {"video": "a.mp4", "conversations": talk("a", "b") * 2},
    ]
    report = run(tmp_path, rows)
    number, letter, text = records(report)
    assert (number.task, number.meta.dataset, number.meta.model_extra["unit"]) == ("number", "scannet", "m")
    assert (letter.task, letter.target.letter, letter.target.options) == ("choice", "B", [])
    assert letter.prompt == f"{sets.HEAD}\nWhich view is from above, A or B?\n{sets.LETTER}"
    assert (text.task, text.video.frames, text.prompt) == ("text", ["media/images/1.jpg"], "Describe it.")
    assert [(row["reason"], "detail" in row) for row in report.rejects] == [("more than one question", False)]


def test_video_r1_has_the_same_form_with_more_kinds(tmp_path: Path) -> None:
    base = sets.spacer(COUNT, "./Chart/a.png", data_type="image", data_source="ChartQA")
    rows = [
        {**base, "problem": "What is it?", "problem_type": "free-form", "solution": "<answer>12</answer>"},
        {**base, "problem": "How much?", "problem_type": "regression", "solution": "<answer>1,234.5</answer>"},
        {**base, "problem": "Which part?", "problem_type": "numerical", "solution": "<answer>1/2</answer>"},
    ]
    report = run(tmp_path, rows)
    text, number = records(report)
    assert (text.task, text.target.references, text.video.frames) == ("text", ["12"], ["media/Chart/a.png"])
    assert (number.target.value, number.answer, number.meta.question_type) == (1234.5, "1234.5", "regression")
    assert [(row["reason"], "detail" in row) for row in report.rejects] == [("no plain number", False)]


# ---- Words


def test_the_stored_prompt_stays_to_the_byte_but_for_the_mark(tmp_path: Path) -> None:
    for question in (COUNT, CLOSEST):
        row = sets.vsi590k(question)
        kept = one(tmp_path, row, prompt="stored").prompt
        assert kept == row["conversations"][0]["value"].removeprefix("<image>\n")
    lines = one(tmp_path, sets.spacer(CLOSEST), prompt="stored").prompt.splitlines()
    assert lines == [CLOSEST[1], "Options:", *sets.marked(CLOSEST[2])]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param("<image>\n<image>\nWhat is it?", "What is it?", id="marks first"),
        pytest.param("What is it?\n\n<image><image>", "What is it?", id="marks last"),
        pytest.param("<image>\nWhat is it?", "What is it?", id="one mark for all"),
        pytest.param("<video>\nWhat is it?", "What is it?", id="a video's mark"),
        pytest.param("One: <image> Two: <image> Same?", "One: <image> Two: <image> Same?", id="marks within"),
        pytest.param("In <image>, what is it?", "In <image><image>, what is it?", id="one mark within"),
        pytest.param("What is it?", "What is it?", id="no mark"),
    ],
)
def test_marks_of_images_stay_only_within_a_text(tmp_path: Path, stored: str, expected: str) -> None:
    record = one(tmp_path, image_row(stored, "3"))
    assert record.prompt == f"{sets.HEAD}\n{expected}\n{sets.WORD}"


def test_words_after_the_options_that_are_no_request_stay(tmp_path: Path) -> None:
    text = "Which?\nA. bed\nB. lamp\nThe camera is 1.5 m above the floor."
    assert one(tmp_path, image_row(text, "A")).prompt.splitlines()[1:3] == [
        "Which?",
        "The camera is 1.5 m above the floor.",
    ]
    kept = one(tmp_path, image_row("Is it (A) left or (B) right of me?", "(B)"))
    assert (kept.prompt.splitlines()[1], kept.target.letter) == ("Is it (A) left or (B) right of me?", "B")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("B. Lamp", "B"), ("lamp", "B"), ("Lamp.", "B"), (" B\n", "B")],
)
def test_an_answer_names_its_option_by_letter_or_words(tmp_path: Path, answer: str, letter: str) -> None:
    row = image_row("Which?\nA. Bed\nB. Lamp\nC. Rug", answer)
    record = one(tmp_path, row)
    assert (record.target.letter, record.answer) == (letter, letter)


# ---- Units


@pytest.mark.parametrize(
    ("question", "own", "unit", "kind"),
    [
        ("How far is the sofa from the tv, in meters?", "absolute_distance_object", "m", "object_abs_distance"),
        ("How far is the sofa from the tv, in feet?", "absolute_distance_object", "ft", None),
        ("How long is the bed in centimeters?", "absolute_size_object", "cm", "object_size_estimation"),
        ("How long is the bed in meters?", "absolute_size_object", "m", None),
        ("How long is the bed in inches?", "absolute_size_object", "in", None),
        ("What is the area in square meters?", "absolute_size_room", "m2", "room_size_estimation"),
        ("What is the area in square feet?", "absolute_size_room", "ft2", None),
        ("How far is it?", "absolute_distance_object", None, None),
        ("How many chairs are there?", "absolute_count", None, "object_counting"),
        ("What is the angle, in degrees?", "absolute_direction_object", "deg", None),
        ("How many, in meters or feet?", "absolute_distance_object", None, None),
    ],
)
def test_the_benchmark_s_name_stands_only_where_the_unit_is_its_own(
    tmp_path: Path, question: str, own: str, unit: str | None, kind: str | None
) -> None:
    record = one(tmp_path, sets.vsi590k(("object_counting", question, None, "12"), question_type=own))
    extra = record.meta.model_extra
    assert (extra.get("unit"), extra.get("vsibench_type")) == (unit, kind)
    # The question says the unit, whatever its kind is called.
    assert question in record.prompt
    assert record.meta.question_type == own


def test_a_number_in_another_unit_under_the_benchmark_s_own_name_is_left_out(tmp_path: Path) -> None:
    feet = sets.vlm3r(("object_abs_distance", "How far in feet?", None, "9"), question_type="object_abs_distance")
    report = run(tmp_path, [feet, sets.vlm3r(DISTANCE, question_type="object_abs_distance")])
    assert [record.meta.question_type for record in records(report)] == ["object_abs_distance"]
    assert [(row["reason"], "detail" in row) for row in report.rejects] == [("another unit", False)]


def test_every_name_of_the_table_is_the_benchmark_s() -> None:
    kinds = {question[0] for question in ALL}
    assert {kind for kind in SAME.values() if kind != "object_rel_direction"} == kinds
    assert {kind: unit_of(question[1]) for question in NUMBERS if (kind := question[0]) in UNITS} == UNITS


def test_kinds_that_only_look_alike_get_no_name(tmp_path: Path) -> None:
    far = ("object_rel_distance", "Which is the farthest from the chair?", ("a", "b"), "A")
    mixed = ("object_rel_direction_easy", "Where is it?", ("up", "down"), "A")
    as_choice = ("object_abs_distance", "How far, in meters?", ("1", "2"), "A")
    rows = [sets.vsi590k(far), sets.vsi590k(mixed), sets.sims(as_choice)]
    for row in rows:
        assert "vsibench_type" not in one(tmp_path, row).meta.model_extra


# ---- Choosing


def test_kinds_of_answers_serve_where_a_row_has_no_kind_of_question(tmp_path: Path) -> None:
    rows = [sets.spacer(("object_counting", f"Why {n}?", None, "3")) for n in range(2)]
    rows += [sets.spacer(COUNT), sets.spacer(SIZE, problem_sub_type="object size")]
    report = run(tmp_path, rows, types=("numerical",))
    assert [record.meta.question_type for record in records(report)] == [
        *("numerical", "numerical", "object_counting", "object size")
    ]
    assert run(tmp_path, rows, types=("object_counting", "object size")).records == 2


def test_vsi590k_has_questions_about_single_images_too(tmp_path: Path) -> None:
    row = {
        "image": "robotics/agibot_685462_head_right_fisheye_color_0010.jpg",
        "conversations": talk(f"<image>\nWhere is the cup?\nOptions:\nA. left\nB. right\n{sets.LETTER}", "B"),
        "question_type": "relative_direction_camera",
    }
    record = one(tmp_path, row)
    assert record.video.frames == ["media/robotics/agibot_685462_head_right_fisheye_color_0010.jpg"]
    assert (record.meta.dataset, record.meta.scene, record.meta.sampler) == ("robotics", None, None)
    assert (record.target.letter, record.meta.model_extra["form"]) == ("B", "vsi590k")
    assert "vsibench_type" not in record.meta.model_extra


@pytest.mark.parametrize(
    ("types", "kept"),
    [
        (("absolute_count",), {"absolute_count"}),
        (("object_rel_direction_hard", "appearance_order"), {"relative_direction_object", "appearance_order"}),
        ((), {*sets.VSI590K.values()}),
    ],
)
def test_types_are_named_as_the_set_or_the_benchmark_does(
    tmp_path: Path, types: tuple[str, ...], kept: set[str]
) -> None:
    rows = [sets.vsi590k(question) for question in ALL if question[0] in sets.VSI590K]
    report = run(tmp_path, rows, types=types)
    assert {record.meta.question_type for record in records(report)} == kept
    assert report.counts.get("other_types", 0) == len(rows) - report.records


def test_a_type_that_the_file_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no 'colour'") as caught:
        run(tmp_path, [sets.vsi590k(COUNT)], types=("colour",))
    assert "absolute_count, object_counting" in caught.value.hint


def test_a_limit_counts_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowfile, "BATCH", 4)
    rows = [sets.vsi590k(COUNT, f"scannet/{n}.mp4") for n in range(11)]
    for limit in (1, 4, 6, 11, 30):
        report = run(tmp_path, rows, policy=Policy(limit=limit))
        assert [record.id for record in records(report)] == [f"train/{n}" for n in range(min(limit, 11))]
        assert report.counts["rows"] == min(limit, 11)
        assert card(report)["options"]["limit"] == limit


# ---- Letters


def balanced(tmp_path: Path, rows: list[Any], **options: Any) -> list[Record]:
    return records(run(tmp_path, rows, balance=True, **options))


def biased(count: int) -> list[dict[str, Any]]:
    """Four options of which the first is right, two of which the first is."""
    out = []
    for n in range(count):
        question = (*CLOSEST[:3], "A") if n % 3 else ("object_rel_direction_easy", sets.SIDE[1], ("left", "right"), "A")
        out.append(sets.vsi590k(question, f"scannet/{n}.mp4"))
    return out


def test_each_letter_is_right_equally_often(tmp_path: Path) -> None:
    rows = biased(60)
    before = Counter(record.target.letter for record in records(run(tmp_path, rows)))
    assert before == {"A": 60}
    found = balanced(tmp_path, rows)
    counts = Counter((len(record.target.options), record.target.letter) for record in found)
    assert counts == {(4, letter): 10 for letter in "ABCD"} | {(2, letter): 10 for letter in "AB"}
    for record, row in zip(found, rows, strict=True):
        words = {option[3:] for option in record.target.options}
        right = next(option[3:] for option in record.target.options if option[0] == record.target.letter)
        stored = row["conversations"][0]["value"]
        assert f"A. {right}\n" in stored
        assert all(f". {word}\n" in stored for word in words)
        assert record.prompt.count("\n".join(record.target.options)) == 1
        assert record.meta.model_extra["stored_letter"] == "A"
        assert record.answer == record.target.letter


def test_letters_do_not_depend_on_workers_and_shares_but_on_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowfile, "BATCH", 8)
    path = save(tmp_path / "train.jsonl", biased(40))
    add_media(tmp_path / "media", biased(40))
    whole = run(tmp_path, path, balance=True).out.read_bytes()
    halves = b""
    for share in ((1, 2), (2, 2)):
        halves += run(tmp_path, path, balance=True, policy=Policy(shard=share)).out.read_bytes()
    assert halves == whole
    assert run(tmp_path, path, balance=True, policy=Policy(workers=2)).out.read_bytes() == whole
    assert run(tmp_path, path, balance=True, seed=1).out.read_bytes() != whole


@pytest.mark.parametrize(
    "options",
    [("bed", "lamp", "both A and B"), ("bed", "none of the above"), ("A", "B"), ("bed", "any of these")],
    ids=" | ".join,
)
def test_options_about_other_options_stay_where_they_are(tmp_path: Path, options: tuple[str, ...]) -> None:
    row = sets.vsi590k(("object_rel_distance", "Which is closest?", options, "B"))
    (record,) = balanced(tmp_path, [row])
    assert record.target.options == sets.marked(options)
    assert "stored_letter" not in record.meta.model_extra


def test_pictures_among_options_stay_where_they_are(tmp_path: Path) -> None:
    marks = "\n".join(f"{letter}. <image>" for letter in "ABCD")
    rows = [
        {
            "images": [f"{n}/{i}.png" for i in range(5)],
            "conversations": talk(f"<image>\nWhat is left of it?\n{marks}", "A"),
        }
        for n in range(4)
    ]
    assert [record.target.letter for record in balanced(tmp_path, rows)] == ["A"] * 4


@pytest.mark.parametrize("options", [("3", "4"), ("above the bed", "below it"), ("1.5", "2.5", "3")], ids=" | ".join)
def test_numbers_and_places_move_like_other_words(tmp_path: Path, options: tuple[str, ...]) -> None:
    rows = [sets.vsi590k((CLOSEST[0], "Which is it?", options, "A"), f"a/{n}.mp4") for n in range(6)]
    found = balanced(tmp_path, rows)
    assert Counter(record.target.letter for record in found) == dict.fromkeys("ABC"[: len(options)], 6 // len(options))
    right = {option[3:] for r in found for option in r.target.options if option[0] == r.target.letter}
    assert right == {options[0]}


def test_stored_prompts_cannot_be_balanced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--balance-letters"):
        run(tmp_path, [sets.vsi590k(CLOSEST)], balance=True, prompt="stored")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=8))
def test_letters_are_put_before_options_once(words: list[str]) -> None:
    once = lettered(words)
    assert [option[:3] for option in once] == [f"{chr(65 + i)}. " for i in range(len(words))]
    if all(word.strip() == word for word in words):
        assert lettered([option for option in once if option[3:].strip()]) == once or "" in [
            o[3:].strip() for o in once
        ]


# ---- Trouble

CONVERSATION = sets.vsi590k(COUNT)


def said(human: Any, gpt: Any, **more: Any) -> dict[str, Any]:
    return {**CONVERSATION, "conversations": talk(human, gpt), **more}


OPTIONS = "Which?\nA. bed\nB. lamp"

BAD = [
    pytest.param("text", "not an object", id="text"),
    pytest.param([], "not an object", id="a list"),
    pytest.param({}, "another form", id="empty"),
    pytest.param(sets.spacer(COUNT), "another form", id="a row of another set"),
    pytest.param(said(OPTIONS, "C"), "answer is no option", id="a letter that is no option"),
    pytest.param(said(OPTIONS, "7"), "answer is no option", id="a number with options"),
    pytest.param(sets.vsi590k((*CLOSEST[:3], "AB")), "answer is no option", id="two letters"),
    pytest.param(said(f"{OPTIONS}\n{sets.LETTER}", "a bed"), "answer is no option", id="other words than the option's"),
    pytest.param(said("Which?\nA. bed\nB. bed", "A"), "wrong options", id="a right option that stands twice"),
    pytest.param(said("How many?", "nan"), "number is not finite", id="nan"),
    pytest.param(said("How many?", "-Infinity"), "number is not finite", id="infinite"),
    pytest.param(said("How many?", ""), "no answer", id="no answer"),
    pytest.param(said("  ", "3"), "no conversation", id="no words"),
    pytest.param(said(f"<image>\n{sets.HEAD}\n{sets.WORD}", "3"), "empty question", id="no question"),
    pytest.param(said("A. bed\nB. lamp", "A"), "empty question", id="only options"),
    pytest.param(said("<image><image>How many?", "3"), "wrong prompt", id="two marks for a video"),
    pytest.param(said("<|image_pad|>How many?", "3"), "wrong prompt", id="a token for pixels"),
    pytest.param(said("How many \ud800?", "3"), "no valid record", id="half a pair"),
    pytest.param(said("How many?", "3", video="../a.mp4"), "media outside the media folder", id="above"),
    pytest.param(said("How many?", "3", video="/etc/passwd"), "media outside the media folder", id="absolute"),
    pytest.param(said("How many?", "3", video="a\0.mp4"), "wrong media path", id="a zero byte"),
    pytest.param(said("How many?", "3", video="a.txt"), "wrong media path", id="no video"),
    pytest.param(said("How many?", "3", video=3), "no images", id="a number for a video"),
    pytest.param(said(3, "3"), "no conversation", id="a number for a question"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_bad_row_is_quarantined_and_the_others_are_kept(tmp_path: Path, row: Any, reason: str) -> None:
    add_media(tmp_path / "media", [{"video": SCENE}, {"images": ["a.txt.jpg"]}])
    (tmp_path / "media/a.txt").write_text("no video")
    report = run(tmp_path, [CONVERSATION, row], add=False)
    assert report.records == 1
    (reject,) = report.rejects
    assert (reject["reason"], reject["row"]) == (reason, 1)
    assert "row 1" in reject["detail"]
    with pytest.raises((DataError, ProblemList), match="row 1"):
        run(tmp_path, [CONVERSATION, row], add=False, policy=Policy(stop=True))


ROWS = [
    sets.vsi590k(CLOSEST),
    sets.vsitrain(COUNT),
    sets.spacer(CLOSEST),
    sets.vlm3r(ROUTE),
    sets.sims(SIZE),
    sets.spar("Which?\nA. x\nB. y", "A", "nav"),
    sets.mindcube(),
    image_row("Which?", "B"),
]
WORDS = st.sampled_from(["A", "C", "nan", "7", "A. bed\nB. lamp", "<image>", "a\ud800", "../x", "", "multiple choice"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["from", "value", "type", "bytes", "x"]), inner, max_size=3)
        | st.tuples(inner, inner).map(
            lambda pair: [{"from": "human", "value": pair[0]}, {"from": "gpt", "value": pair[1]}]
        )
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ROWS), st.data())
def test_no_row_stops_a_run_with_anything_but_a_reason(row: dict[str, Any], data: st.DataObject) -> None:
    changed = {**row, data.draw(st.sampled_from(sorted(row))): data.draw(JSON)}
    form = FORMS[data.draw(st.sampled_from(sorted(FORMS)))] if data.draw(st.booleans()) else form_of(row)
    if not form.tells(changed):
        return
    try:
        question = parse_question(form.read(changed))
    except RowError:
        return
    assert question.answer
    assert question.text
    if question.task == "number":
        assert math.isfinite(float(question.answer))
    if question.options and question.task == "choice":
        assert 0 <= ord(question.answer) - ord("A") < len(question.options)
        if question.can_move:
            last = moved(question, len(question.options) - 1)
            assert sorted(o[3:] for o in last.options) == sorted(o[3:] for o in question.options)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"solution": "4"}, "no answer"),
        ({"solution": "<answer> </answer>"}, "no answer"),
        ({"problem": " "}, "empty question"),
        ({"problem_type": "multiple choice", "options": []}, "no options"),
        ({"problem_type": "multiple choice", "options": "A. bed"}, "wrong options"),
        ({"problem_type": "multiple choice", "options": ["bed"] * 27}, "wrong options"),
        ({"problem_type": "multiple choice", "options": ["A. 3", "B. 5"], "solution": "<answer>C</answer>"}, None),
        ({"path": "../../a.mp4"}, "media outside the media folder"),
        ({"path": 4}, "wrong media path"),
        ({"solution": "<answer>inf</answer>"}, "number is not finite"),
    ],
)
def test_a_bad_spacer_row_is_quarantined(tmp_path: Path, change: dict[str, Any], reason: str | None) -> None:
    good = sets.spacer(COUNT)
    add_media(tmp_path / "media", [good])
    report = run(tmp_path, [good, {**good, **change}], add=False)
    assert [row["reason"] for row in report.rejects if "detail" in row] == [reason or "answer is no option"]


def test_rows_that_answer_one_question_differently_are_both_left_out(tmp_path: Path) -> None:
    rows = [
        sets.vsi590k(COUNT),
        sets.vsi590k(SIZE),
        sets.vsi590k((*COUNT[:3], "5")),
        sets.vsi590k((*SIZE[:3], "203.0")),
    ]
    report = run(tmp_path, rows)
    assert [record.id for record in records(report)] == ["train/1"]
    assert {(row["row"], row["reason"], "detail" in row) for row in report.rejects} == {
        (0, "same question, other answer", True),
        (2, "same question, other answer", True),
        (3, "repeats an earlier row", False),
    }
    assert report.counts["bad"] == 2


def test_repeated_ids_of_the_rows_are_no_trouble(tmp_path: Path) -> None:
    """SPAR has them; a record's id is its row."""
    rows = [sets.vlm3r(COUNT), sets.vlm3r(SIZE)]
    assert rows[0]["id"] == rows[1]["id"]
    found = records(run(tmp_path, rows))
    assert len({record.id for record in found}) == 2
    assert {record.meta.model_extra["source_id"] for record in found} == {rows[0]["id"]}


def test_a_name_that_no_file_has_is_a_missing_one(tmp_path: Path) -> None:
    rows = [sets.vsi590k(COUNT), sets.vsi590k(SIZE, "v" * 300 + ".mp4")]
    add_media(tmp_path / "media", rows[:1])
    with pytest.raises(DataError, match="1 of 2 media files are missing"):
        run(tmp_path, rows, add=False)
    report = run(tmp_path, rows, add=False, allow_missing=True)
    assert [(row["row"], row["reason"]) for row in report.rejects] == [(1, "missing media")]


def test_missing_media_are_counted_all_at_once(tmp_path: Path) -> None:
    rows = [sets.vsi590k(COUNT, f"scannet/{n}.mp4") for n in range(14)]
    add_media(tmp_path / "media", rows[:1])
    with pytest.raises(DataError, match="13 of 14 media files are missing") as caught:
        run(tmp_path, rows, add=False)
    assert "--allow-missing" in caught.value.hint
    report = run(tmp_path, rows, add=False, allow_missing=True, policy=Policy(max_bad=0))
    assert (report.records, report.counts["missing_media"]) == (1, 13)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"video": "arkitscenes/41069025.mp4"}, id="llava, a video"),
        pytest.param({"images": ["scannetpp/7b6477cb95/1.jpg", "scannetpp/7b6477cb95/2.jpg"]}, id="llava, images"),
        pytest.param(
            {"image": "arkitscenes/41069025/1.png", "question_type": "absolute_count"}, id="vsi590k, an image"
        ),
    ],
)
def test_evaluation_scenes_are_found_in_paths_where_rows_name_no_scene(row: dict[str, Any], tmp_path: Path) -> None:
    told = {**row, "conversations": sets.vsi590k(COUNT)["conversations"]}
    report = run(tmp_path, [told, sets.vsi590k(COUNT)], policy=Policy(max_bad=0))
    assert [one["reason"].partition(": ")[0] for one in report.rejects] == ["evaluation scene"]


def test_scenes_that_benchmarks_evaluate_on_are_left_out_and_their_media_not_asked_for(tmp_path: Path) -> None:
    rows = [sets.vsi590k(COUNT), sets.vsi590k(COUNT, "scannet/scene0011_00.mp4"), sets.vsi590k(SIZE, "s/41069025.mp4")]
    add_media(tmp_path / "media", rows[:1])
    report = run(tmp_path, rows, add=False, policy=Policy(max_bad=0))
    assert [record.id for record in records(report)] == ["train/0"]
    assert [row["reason"].partition(": ")[0] for row in report.rejects] == ["evaluation scene"] * 2
    add_media(tmp_path / "media", rows)
    assert run(tmp_path, rows, split=Split("val")).records == 3
    assert run(tmp_path, rows, policy=Policy(held_out=HeldOut(allow=True))).records == 3


def test_media_of_kinds_that_are_not_wanted_are_not_needed(tmp_path: Path) -> None:
    rows = [sets.vsi590k(COUNT), sets.vsi590k(SIZE, "scannet/none.mp4")]
    add_media(tmp_path / "media", rows[:1])
    assert run(tmp_path, rows, add=False, types=("absolute_count",)).records == 1


@pytest.mark.parametrize(("frames", "taken"), [(3, [1, 2, 10]), (8, [1, 2, 10]), (2, [1, 10]), (1, [1])])
def test_a_folder_of_frames_is_a_list_of_frames_in_their_order(tmp_path: Path, frames: int, taken: list[int]) -> None:
    add_media(tmp_path / "media", [{"images": [f"walks/a/frame-{n}.jpg" for n in (10, 2, 1)]}])
    record = one(tmp_path, {"video": "walks/a", "conversations": talk("<video>\nHow many?", "3")}, frames=frames)
    assert record.video.frames == [f"media/walks/a/frame-{n}.jpg" for n in taken]
    (tmp_path / "media/empty").mkdir()
    with pytest.raises(ProblemList, match="no images"):
        run(tmp_path, [{"video": "empty", "conversations": talk("How many?", "3")}])


# ---- Files


@pytest.mark.parametrize(
    ("rows", "message", "hint"),
    [
        pytest.param([{"a": 1, "b": 2}], r"\(a, b\) are of no known form", "vsi590k .* --form names one", id="unknown"),
        pytest.param(["text"], "no known form", "the forms are spacer", id="no objects"),
        pytest.param(
            [{"id": 1, "dataset": "a", "scene_name": "b", "question_type": "c", "question": "?", "ground_truth": "1"}],
            "no training questions of a form that is known",
            "rft3d prepare vsibench --questions reads them",
            id="VSI-Bench",
        ),
        pytest.param(
            [{"conversations": talk("a", "b"), "images": ["a.jpg"], "boxes": []}],
            "no training questions",
            "rft3d prepare vgllm reads them",
            id="VG-LLM's detection",
        ),
    ],
)
def test_a_file_of_no_form_is_refused_with_the_forms(tmp_path: Path, rows: list[Any], message: str, hint: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        run(tmp_path, rows)
    assert re.search(hint, caught.value.hint)


def test_the_first_row_that_tells_a_form_tells_it_for_all(tmp_path: Path) -> None:
    rows = ["text", {}, sets.vsi590k(COUNT), sets.sims(CLOSEST)]
    assert [record.meta.model_extra["form"] for record in records(run(tmp_path, rows))] == ["vsi590k"] * 2
    named = run(tmp_path, [sets.vsi590k(COUNT), sets.vsi590k(CLOSEST)], form="llava")
    assert [record.meta.model_extra["form"] for record in records(named)] == ["llava"] * 2
    assert card(named)["options"]["form"] == {"option": "llava", "form": "llava"}


def test_a_form_that_no_row_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--form spar: the rows of .* do not have") as caught:
        run(tmp_path, [sets.vsi590k(COUNT)], form="spar")
    assert caught.value.hint == "they are of vsi590k: leave --form away"
    with pytest.raises(DataError, match="--form spar"):
        run(tmp_path, [{"a": 1}, "text"], form="spar")


def test_keys_tell_forms_apart() -> None:
    rows = {
        "vsi590k": sets.vsi590k(COUNT),
        "vsitrain": sets.vsitrain(COUNT),
        "spacer": sets.spacer(COUNT),
        "vlm3r": sets.vlm3r(ROUTE),
        "sims": sets.sims(COUNT),
        "spar": sets.spar("?", "1", "nav"),
        "mindcube": sets.mindcube(),
        "llava": image_row("?", "1"),
    }
    assert rows.keys() == FORMS.keys()
    assert {name: form_of(row).name for name, row in rows.items()} == {name: name for name in rows}


def test_a_table_with_pictures_inside_is_told_so(tmp_path: Path) -> None:
    row = {"conversations": talk("How many?", "3"), "image": [{"bytes": b"\x89PNG", "path": None}]}
    with pytest.raises(ProblemList, match="pictures inside the file"):
        run(tmp_path, [row], name="train.parquet", add=False)


def test_a_parquet_file_is_read_in_any_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowfile, "BATCH", 3)
    rows = [sets.sims(question, f"a/{n}.mp4") for n, question in enumerate((*NUMBERS, *CHOICES[:5]) * 2)]
    path = save(tmp_path / "sims_vsi_200k.parquet", rows)
    add_media(tmp_path / "media", rows)
    one_process = run(tmp_path, path).out.read_bytes()
    assert one_process.count(b"\n") == 18
    assert run(tmp_path, path, policy=Policy(workers=2)).out.read_bytes() == one_process


@pytest.mark.parametrize("data", [b"", b"PAR1", b"nothing"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    with pytest.raises(Rft3dError, match="is not a parquet file"):
        run(tmp_path, path)


def test_a_dry_run_writes_nothing_and_says_the_same(tmp_path: Path) -> None:
    rows = [sets.vsi590k(question) for question in (COUNT, CLOSEST)]
    dry = run(tmp_path, rows, policy=Policy(dry_run=True))
    assert not dry.out.exists()
    assert not dry.card.exists()
    assert dry.counts == run(tmp_path, rows).counts


def test_letters_are_counted_in_the_card(tmp_path: Path) -> None:
    counts = card(run(tmp_path, biased(6)))["counts"]
    assert (counts["letter_A"], counts["choice"]) == (6, 6)
    assert counts["labels"] == {"relative_direction_object": 2, "relative_distance_object": 4}
