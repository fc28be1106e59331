from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_clips import hum, make

from rft3d_cli.errors import DataError, ProblemList, UsageError
from rft3d_cli.prepare._own_questions import parse_question, read_sheet
from rft3d_cli.prepare.own_videos import prepare_videos
from rft3d_cli.prepare.pipeline import Policy, Report
from rft3d_cli.prepare.splits import Split
from rft3d_cli.prepare.vsibench import ClipSpec
from rft3d_cli.records import Record, read_records

HEAD = "These are frames of a video.\n"
CHOICE = "\nAnswer with the option's letter from the given choices directly."
NUMBER = "\nPlease answer the question using a single word or phrase."


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "clips"
    (folder / "hall").mkdir(parents=True)
    make(folder / "kitchen.mp4", 12)
    make(folder / "hall" / "walk.mkv", 12)
    return folder


def save(path: Path, rows: list[dict[str, Any]] | str, encoding: str = "utf-8") -> Path:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(text.encode(encoding))
    return path


def run(clips: Path, questions: Path, **options: Any) -> Report:
    fields: dict[str, Any] = {
        "videos": clips,
        "questions": questions,
        "media_root": None,
        "split": Split("train"),
        "only": False,
        "out": questions.parent / "out" / "mine.jsonl",
        "spec": ClipSpec(8),
        "allow_missing": False,
        "policy": Policy(),
        **options,
    }
    return prepare_videos(**fields)


def records(report: Report) -> list[Record]:
    return read_records(report.out).records


# ---- Records


TABLE = """\
video,question,options,answer,id,scene,split,question_type,frames
kitchen.mp4,What stands by the window?,chair|table|lamp,table,k1,kitchen,train,object_rel_distance,4
kitchen.mp4,How many chairs are there?,,2,,,,object_counting,
hall/walk.mkv,"What does the walk show, first?",,"A door, then a lamp.",,,,,
"""


def test_rows_become_choice_number_and_text_records(clips: Path, tmp_path: Path) -> None:
    report = run(clips, save(tmp_path / "q.csv", TABLE))
    choice, number, text = records(report)
    assert (choice.id, choice.task, choice.answer) == ("k1", "choice", "B")
    assert choice.prompt == f"{HEAD}What stands by the window?\nOptions:\nA. chair\nB. table\nC. lamp{CHOICE}"
    assert (choice.target.letter, choice.target.options) == ("B", ["A. chair", "B. table", "C. lamp"])
    assert choice.video.model_dump() == {"path": "kitchen.mp4", "frames": 4, "sampler": "linspace-floor"}
    assert (choice.meta.dataset, choice.meta.scene, choice.meta.split) == ("video", "kitchen", "train")
    assert choice.meta.question_type == "object_rel_distance"
    assert (number.id, number.task, number.answer, number.target.value) == ("kitchen/q/3", "number", "2", 2)
    assert number.prompt == f"{HEAD}How many chairs are there?{NUMBER}"
    assert (number.video.frames, number.meta.scene) == (8, "kitchen")
    assert (text.id, text.task, text.answer) == ("hall/walk/q/4", "text", None)
    assert text.prompt == f"{HEAD}What does the walk show, first?"
    assert text.target.references == ["A door, then a lamp."]
    assert text.video.path == "hall/walk.mkv"
    assert report.media_root == clips
    assert [report.counts[key] for key in ("choice", "number", "text", "videos", "questions", "bad")] == [
        1,
        1,
        1,
        2,
        3,
        0,
    ]
    card = json.loads(report.card.read_text())
    assert {scan["scene"]: scan["frames"] for scan in card["counts"]["scans"]}["kitchen.mp4"] == 12
    assert card["sources"][0]["file"] == "q.csv"


def test_thinking_is_asked_of_choices_and_numbers(clips: Path, tmp_path: Path) -> None:
    found = records(run(clips, save(tmp_path / "q.csv", TABLE), spec=ClipSpec(8, answer_style="think")))
    assert ["<think>" in record.prompt for record in found] == [True, True, False]
    assert [record.answer for record in found[:2]] == [
        "<think></think><answer>B</answer>", "<think></think><answer>2</answer>",
    ]  # fmt: skip


def test_jsonl_gives_the_same_records(clips: Path, tmp_path: Path) -> None:
    rows = [
        {
            "video": "kitchen.mp4",
            "question": "What stands by the window?",
            "options": ["chair", "table", "lamp"],
            "answer": "B",
            "id": "k1",
            "scene": "kitchen",
            "split": "train",
            "question_type": "object_rel_distance",
            "frames": 4,
        },
        {
            "video": "kitchen.mp4",
            "question": "How many chairs are there?",
            "answer": 2,
            "question_type": "object_counting",
            "options": None,
        },
        {"video": "hall/walk.mkv", "question": "What does the walk show, first?", "answer": ["A door, then a lamp."]},
    ]
    by_json = records(run(clips, save(tmp_path / "q.jsonl", rows)))
    by_table = records(run(clips, save(tmp_path / "q.csv", TABLE)))
    changed = [record.model_copy(update={"id": "same"}) for record in by_json]
    assert changed == [record.model_copy(update={"id": "same"}) for record in by_table]


@pytest.mark.parametrize(
    ("delimiter", "encoding"),
    [
        pytest.param(",", "utf-8", id="comma"),
        pytest.param(",", "utf-8-sig", id="comma with a byte order mark"),
        pytest.param(";", "utf-8-sig", id="semicolon, as Excel writes it in half of Europe"),
        pytest.param("\t", "utf-8", id="tab"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_tables_of_any_dialect_are_read(clips: Path, tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    lines = [
        ["Video", " question ", "answer", "options"],
        ["kitchen.mp4", '"Wo steht; der, Stuhl\tin ""Küche""?"', "B", "vorne|hinten"],
        [],
        ["kitchen.mp4", '"Two\nlines?"', "2.5", ""],
    ]
    text = "".join(delimiter.join(cells) + end for cells in lines)
    choice, number = records(run(clips, save(tmp_path / "q.csv", text, encoding)))
    assert choice.prompt.splitlines()[1] == 'Wo steht; der, Stuhl\tin "Küche"?'
    assert choice.target.options == ["A. vorne", "B. hinten"]
    assert (number.id, number.target.value) == ("kitchen/q/4", 2.5)


def test_one_column_of_texts_full_of_other_marks_does_not_mislead(clips: Path, tmp_path: Path) -> None:
    text = 'video,question,answer\nkitchen.mp4,"a; b; c; d; e?",yes; no; perhaps; a; b; c\n'
    (record,) = records(run(clips, save(tmp_path / "q.csv", text)))
    assert record.target.references == ["yes; no; perhaps; a; b; c"]


def test_a_byte_order_mark_before_jsonl_is_passed_over(clips: Path, tmp_path: Path) -> None:
    row = {"video": "kitchen.mp4", "question": "?", "answer": 1}
    assert run(clips, save(tmp_path / "q.jsonl", json.dumps(row), "utf-8-sig")).records == 1


# ---- Answers


@pytest.mark.parametrize(
    ("options", "answer", "shown", "letter"),
    [
        pytest.param(["chair", "table"], "A", ["A. chair", "B. table"], "A", id="letter"),
        pytest.param(["chair", "table"], "b", ["A. chair", "B. table"], "B", id="small letter"),
        pytest.param(["chair", "table"], "(B)", ["A. chair", "B. table"], "B", id="letter in brackets"),
        pytest.param(["chair", "table"], "B.", ["A. chair", "B. table"], "B", id="letter with a point"),
        pytest.param(["chair", "table"], " Table ", ["A. chair", "B. table"], "B", id="text"),
        pytest.param(["A. chair", "B. table"], "table", ["A. chair", "B. table"], "B", id="text of a marked option"),
        pytest.param(["A. chair", "B. table"], "B. table", ["A. chair", "B. table"], "B", id="marked option"),
        pytest.param(["A) chair", "B) table"], "A", ["A) chair", "B) table"], "A", id="other marks"),
        pytest.param(["A. Smith", "Jones"], "A. Smith", ["A. A. Smith", "B. Jones"], "A", id="a name is no mark"),
        pytest.param(["1", "2", "3"], 2, ["A. 1", "B. 2", "C. 3"], "B", id="numbers as options"),
        pytest.param(["1.5", "2"], 1.5, ["A. 1.5", "B. 2"], "A", id="a decimal"),
        pytest.param("chair | table", "A", ["A. chair", "B. table"], "A", id="one cell"),
        pytest.param(["A", "B"], "A", ["A. A", "B. B"], "A", id="letters as options, in order"),
        pytest.param(["yes", "no"], "no", ["A. yes", "B. no"], "B", id="yes and no"),
    ],
)
def test_answers_are_letters_or_options(options: Any, answer: Any, shown: list[str], letter: str) -> None:
    asked = parse_question(1, {"video": "a.mp4", "question": "?", "options": options, "answer": answer})
    assert (asked.kind, [*asked.options], asked.answer) == ("choice", shown, letter)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        *[pytest.param(a, "number", id=f"{a!r}") for a in (2, 2.5, -1, "2", "2.", ".5", "-3e2", " +7 ", "0")],
        *[pytest.param(a, "text", id=f"{a!r}") for a in ("a chair", "2 m", "nan", "inf", "1_000", "٣", "1-2", "0x1")],
        pytest.param(["a", "b"], "text", id="references"),
    ],
)
def test_answers_without_options_are_numbers_or_texts(answer: Any, kind: str) -> None:
    assert parse_question(1, {"video": "a.mp4", "question": "?", "answer": answer}).kind == kind


@settings(max_examples=100, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_any_number_survives(value: float) -> None:
    for written in (value, repr(value), f"{value:g}"):
        asked = parse_question(1, {"video": "a.mp4", "question": "?", "answer": written})
        assert asked.kind == "number"
        assert float(asked.answer) == float(written)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["video", "question", "answer", "options", "id", "scene", "split", "question_type", "frames"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), st.lists, max_leaves=4
        ),
    )
)
def test_any_row_is_a_question_or_a_reason(row: dict[str, Any]) -> None:
    with suppress(ValueError):  # nothing else is raised
        assert parse_question(1, {"video": "a.mp4", "question": "?", **row}).kind in ("choice", "number", "text")


# ---- Rows that are wrong


BASE = {"video": "kitchen.mp4", "question": "Which?", "options": ["chair", "table"], "answer": "A"}
WRONG = [
    pytest.param({"video": ""}, "no video", id="no video"),
    pytest.param({"video": 7.5}, "video is not text", id="video is a number"),
    pytest.param({"video": "../secret.mp4"}, "not a path below the folder", id="video outside"),
    pytest.param({"video": "/etc/passwd"}, "not a path below the folder", id="absolute video"),
    pytest.param({"video": "hall\\walk.mkv"}, "written with /", id="backslash"),
    pytest.param({"question": None}, "no question", id="no question"),
    pytest.param({"question": "See <image>?"}, "holds <image>", id="a mark for pixels"),
    pytest.param({"question": "<|video_pad|>?"}, "stands for pixels", id="a token for pixels"),
    pytest.param({"options": ["chair"]}, "1 options: 2 to 26", id="one option"),
    pytest.param({"options": ["x"] * 27}, "27 options", id="too many options"),
    pytest.param({"options": ["chair", " "]}, "not a list of texts", id="an empty option"),
    pytest.param({"options": {"A": "chair"}}, "options are not a list", id="options in an object"),
    pytest.param({"options": ["chair", "Chair"]}, "two options are the same", id="options repeat"),
    pytest.param(
        {"options": ["B. chair", "A. table"]}, "letters that are not A, B in this order", id="letters swapped"
    ),
    pytest.param({"options": ["B", "A"]}, "answer with a letter", id="letter or text"),
    pytest.param({"answer": "C"}, "neither a letter from A to B nor one of the options", id="no such letter"),
    pytest.param({"answer": "lamp"}, "'lamp' is neither", id="no such option"),
    pytest.param({"answer": ""}, "no answer", id="no answer to a choice"),
    pytest.param({"answer": True}, "neither a letter", id="true to a choice"),
    pytest.param({"options": None, "answer": None}, "no answer", id="no answer"),
    pytest.param({"options": None, "answer": " "}, "no answer", id="a blank answer"),
    pytest.param({"options": None, "answer": True}, "neither text nor a number", id="true"),
    pytest.param({"options": None, "answer": {"a": 1}}, "neither text nor a number", id="an object"),
    pytest.param({"options": None, "answer": []}, "not a list of texts", id="no references"),
    pytest.param({"options": None, "answer": ["a", 1]}, "not a list of texts", id="odd references"),
    pytest.param({"options": None, "answer": float("nan")}, "finite", id="NaN"),
    pytest.param({"options": None, "answer": "1e999"}, "finite", id="too large"),
    pytest.param({"options": None, "answer": "2,5"}, "a point for decimals", id="decimal comma"),
    pytest.param({"options": None, "answer": "1,250.5"}, "nothing between thousands", id="thousands"),
    pytest.param({"frames": 0}, "frames 0 is not between", id="no frames"),
    pytest.param({"frames": "many"}, "not a whole number", id="frames in words"),
    pytest.param({"frames": 2.5}, "not a whole number", id="half a frame"),
    pytest.param({"id": ["a"]}, "id is not text", id="id is a list"),
    pytest.param({"question": "\ud800"}, "half of a surrogate pair", id="half a character"),
    pytest.param({"id": "first"}, "id 'first' repeats line 1", id="id repeats"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_a_wrong_row_is_left_out_with_its_line_and_reason(
    clips: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    rows = [{**BASE, "id": "first"}, {**BASE, **changes}, {**BASE, "id": "last"}]
    path = save(tmp_path / "q.jsonl", rows)
    with pytest.raises(ProblemList, match="1 of 3 questions cannot be used") as caught:
        run(clips, path)
    assert words in caught.value.problems[1].message
    assert "line 2" in caught.value.problems[1].message
    report = run(clips, path, policy=Policy(max_bad=0.5))
    assert [record.id for record in records(report)] == ["first", "last"]
    assert [(row["what"], row["reason"], row["line"]) for row in report.rejects] == [("question", "wrong row", 2)]


def test_lines_that_are_no_rows_are_counted(clips: Path, tmp_path: Path) -> None:
    good = json.dumps({**BASE, "id": "good"})
    path = save(tmp_path / "q.jsonl", f"{good}\n[1]\n{{half\n{'[' * 100_000}\n")
    report = run(clips, path, policy=Policy(max_bad=0.9))
    assert [row["detail"] for row in report.rejects] == [
        "line 2: not a JSON object", "line 3: not JSON", "line 4: not JSON",
    ]  # fmt: skip


def test_cells_beyond_the_columns_are_wrong(clips: Path, tmp_path: Path) -> None:
    text = "video,question,answer\nkitchen.mp4,Where, in fact?,here\nkitchen.mp4,Where?,there,,\n"
    report = run(clips, save(tmp_path / "q.csv", text), policy=Policy(max_bad=0.5))
    assert "line 2: 4 cells for 3 columns" in report.rejects[0]["detail"]
    assert records(report)[0].answer is None


FILES = [
    pytest.param(
        "q.csv", "file,question,answer\na,b,c\n", "lacks the column video; it has file, question, answer", "", id="one"
    ),
    pytest.param(
        "q.csv", "videos;query;Answer\na;b;c\n", "lacks the columns video, question", "rename videos to video", id="two"
    ),
    pytest.param("q.csv", "", "it has none", "", id="empty"),
    pytest.param("q.csv", "video,question,answer,answer\n", "two columns answer", "", id="twice"),
    pytest.param("q.csv", 'video,question,answer\na.mp4,"b,c\n', "line 2: unexpected end", "", id="open quote"),
    pytest.param("q.jsonl", '{"video": "a", "answer": 1}\n', "lacks the column question", "", id="JSONL"),
    pytest.param("q.json", "[]", "neither CSV nor JSONL", "one object a line", id="JSON"),
    pytest.param("q.xlsx", "PK", "neither CSV nor JSONL", "save it as CSV", id="Excel"),
]


@pytest.mark.parametrize(("name", "text", "words", "hint"), FILES)
def test_a_file_of_another_kind_is_refused(
    clips: Path, tmp_path: Path, name: str, text: str, words: str, hint: str
) -> None:
    with pytest.raises(DataError) as caught:
        run(clips, save(tmp_path / name, text))
    assert words in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_other_encodings_are_refused_with_their_line(clips: Path, tmp_path: Path, encoding: str) -> None:
    path = save(tmp_path / "q.csv", "video,question,answer\nkitchen.mp4,Küche?,ja\n", encoding)
    with pytest.raises(DataError, match=r"not UTF-8 text: line [12]") as caught:
        run(clips, path)
    assert caught.value.hint == "save it as CSV UTF-8"


def test_columns_that_mean_nothing_are_named(clips: Path, tmp_path: Path) -> None:
    text = "video,question,answer,notes,option\nkitchen.mp4,Where?,here,x,y\n"
    report = run(clips, save(tmp_path / "q.csv", text))
    assert [*report.warnings] == ["columns that are not used: notes, option"]


def test_no_good_row_is_an_error(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ProblemList, match="nothing to write"):
        run(clips, save(tmp_path / "q.csv", "video,question,answer\nkitchen.mp4,,1\n"))


# ---- Splits


SPLITS = "video,question,answer,split\nkitchen.mp4,a,1,train\nkitchen.mp4,b,2,val\nkitchen.mp4,c,3,\n"


def test_rows_of_several_splits_in_one_file_are_warned_of(clips: Path, tmp_path: Path) -> None:
    report = run(clips, save(tmp_path / "q.csv", SPLITS))
    assert [record.meta.split for record in records(report)] == ["train", "val", "train"]
    assert any("several splits (train, val)" in warning for warning in report.warnings)


def test_one_split_can_be_taken(clips: Path, tmp_path: Path) -> None:
    report = run(clips, save(tmp_path / "q.csv", SPLITS), split=Split("val"), only=True)
    assert [(record.target.value, record.meta.split) for record in records(report)] == [(2, "val"), (3, "val")]
    assert [(row["reason"], row["line"]) for row in report.rejects] == [("another split", 2)]
    assert not report.warnings


# ---- Videos


@pytest.fixture(scope="module")
def bad_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import av

    folder = tmp_path_factory.mktemp("bad")
    make(folder / "good.mp4", 12)
    whole = make(folder / "whole.mp4", 40).read_bytes()
    (folder / "whole.mp4").unlink()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    front = make(folder / "front.mp4", 40, container={"movflags": "faststart"}).read_bytes()
    (folder / "front.mp4").unlink()
    (folder / "torn.mp4").write_bytes(front[: len(front) // 2])
    stream = make(folder / "stream.mkv", 120).read_bytes()
    (folder / "stream.mkv").write_bytes(stream[: len(stream) // 2])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a video")
    (folder / "picture.jpg").write_bytes(b"\xff\xd8\xff")
    with av.open(str(folder / "sound.mp4"), "w") as output:
        hum(output, output.add_stream("aac", rate=44100))
    return folder


BAD = [
    pytest.param("half.mp4", "has no index (moov)", id="index missing"),
    pytest.param("torn.mp4", "is damaged", id="torn off after the index"),
    pytest.param("stream.mkv", "it may be cut short", id="half of a Matroska file"),
    pytest.param("empty.mp4", "is empty", id="empty"),
    pytest.param("text.mp4", "is not a video that can be read", id="text"),
    pytest.param("sound.mp4", "has no video stream, only sound", id="sound only"),
    pytest.param("picture.jpg", "is a picture, not a video", id="a picture"),
]


@pytest.mark.parametrize(("name", "words"), BAD)
def test_a_video_that_cannot_be_used_is_quarantined_with_its_questions(
    bad_videos: Path, tmp_path: Path, name: str, words: str
) -> None:
    rows = [{"video": video, "question": f"{n}?", "answer": n} for n, video in enumerate(["good.mp4", name, name])]
    path = save(tmp_path / "q.jsonl", rows)
    with pytest.raises(ProblemList, match="2 of 3 questions cannot be used") as caught:
        run(bad_videos, path)
    assert words in caught.value.problems[1].message
    report = run(bad_videos, path, policy=Policy(max_bad=0.7))
    assert [record.target.value for record in records(report)] == [0]
    assert [(row["reason"], row["video"]) for row in report.rejects] == [("unusable video", name)] * 2
    assert report.counts["unusable_videos"] == 1
    with pytest.raises(DataError, match="leave --on-error stop|" + words.replace("(", r"\(").replace(")", r"\)")):
        run(bad_videos, path, policy=Policy(stop=True))


def test_missing_videos_are_listed(clips: Path, tmp_path: Path) -> None:
    rows = [{"video": v, "question": "?", "answer": 1} for v in ("kitchen.mp4", "kitchen", "attic.mp4", "attic.mp4")]
    path = save(tmp_path / "q.jsonl", rows)
    with pytest.raises(DataError, match=r"2 of 3 videos are missing under .*: kitchen, attic.mp4") as caught:
        run(clips, path)
    assert caught.value.hint.startswith("did you mean kitchen.mp4 for kitchen?")
    report = run(clips, path, allow_missing=True)
    assert report.records == 1
    assert [(row["reason"], row["video"]) for row in report.rejects] == [
        ("missing video", "kitchen"), ("missing video", "attic.mp4"), ("missing video", "attic.mp4"),
    ]  # fmt: skip


def test_each_video_is_opened_once(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rft3d_cli.prepare import own_videos

    opened = []
    read = own_videos.read_frames
    monkeypatch.setattr(own_videos, "read_frames", lambda path, *a, **k: opened.append(path) or read(path, *a, **k))
    rows = [{"video": "kitchen.mp4", "question": f"{n}?", "answer": n} for n in range(5)]
    assert run(clips, save(tmp_path / "q.jsonl", rows)).records == 5
    assert opened == [clips / "kitchen.mp4"]


def test_short_videos_are_warned_of(clips: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "q.csv", "video,question,answer,frames\nkitchen.mp4,Where?,here,13\n")
    assert any("fewer frames than are asked" in warning for warning in run(clips, path).warnings)


def test_a_unit_in_an_answer_is_warned_of(clips: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "q.csv", "video,question,answer\nkitchen.mp4,How far?,2.5 m\n")
    report = run(clips, path)
    assert records(report)[0].task == "text"
    assert any("taken as text" in warning for warning in report.warnings)


def test_the_same_bytes_with_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = []
    for n in range(5):
        make(folder / f"{n}.mp4", 3)
        rows.append({"video": f"{n}.mp4", "question": "?", "answer": n})
    path = save(tmp_path / "q.jsonl", rows[::2] + rows[1::2])
    one, two = (run(folder, path, policy=Policy(workers=n)).out.read_bytes() for n in (1, 2))
    assert one == two
    assert [record.target.value for record in read_records(tmp_path / "out/mine.jsonl").records] == [0, 2, 4, 1, 3]


def test_paths_start_at_the_media_root(clips: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "q.csv", "video,question,answer\nkitchen.mp4,Where?,here\n")
    for options in ({"media_root": clips.parent}, {"out": clips.parent / "out.jsonl"}):
        report = run(clips, path, **options)
        assert records(report)[0].video.path == "clips/kitchen.mp4"
        assert read_records(report.out, media_root=report.media_root).media("clips/kitchen.mp4").is_file()
    with pytest.raises(UsageError, match="not inside the media root"):
        run(clips, path, media_root=tmp_path)


def test_a_dry_run_counts_the_same_and_writes_nothing(clips: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "q.csv", TABLE)
    dry = run(clips, path, policy=Policy(dry_run=True))
    assert [*tmp_path.iterdir()] == [path]
    real = run(clips, path)
    assert (dry.records, dry.counts) == (real.records, real.counts)


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    text = 'video,question,answer\n\na.mp4,"one\ntwo",1\nb.mp4,three,2\n'
    assert [line for line, _ in read_sheet(save(tmp_path / "q.csv", text)).rows] == [3, 5]
