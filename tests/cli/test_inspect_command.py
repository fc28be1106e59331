from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import BOX, DETECTION_ANSWER, Shown, World, run
from PIL import Image

from rft3d_cli.records import read_records


@pytest.fixture
def look(rft3d, world: World):
    """Inspects the world's records from an empty folder, and says what it printed."""

    def inspect(*words: object) -> Shown:
        return run("inspect", world.records, *words)

    return inspect


def test_a_sheet_and_a_page_are_written_and_named(look, tmp_path):
    shown = look()
    assert shown.code == 0, shown.err
    assert shown.out.splitlines() == [
        "  shown    3 of 3 records, 6 frames, 2 boxes",
        "  wrote    look/sheet.png",
        "  wrote    look/index.html",
    ]
    assert shown.err == ""
    assert sorted(path.name for path in Path("look").iterdir()) == ["index.html", "sheet.png"]
    with Image.open("look/sheet.png") as image:
        assert image.format == "PNG"
        assert image.width <= 1600
    text = Path("look/index.html").read_text(encoding="utf-8")
    assert text.count("<article ") == 3
    assert text.count("data:image/jpeg;base64,") == 6
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_same_command_gives_the_same_bytes(look):
    for out in ("one", "two"):
        assert look("--out", out).code == 0
    for name in ("sheet.png", "index.html"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_stats_alone_write_nothing(look, tmp_path):
    shown = look("--stats")
    assert shown.code == 0, shown.err
    assert not list(tmp_path.iterdir())
    for words in ("3 records", "detection  1", "in any frame         100.0 %", "numbers", "chair  1      1"):
        assert words in shown.out


def test_stats_and_pictures_together(look):
    document = look("--stats", "--out", "both", "--json").document
    assert document["schema"] == 1
    assert document["n"] == 3
    assert document["stats"]["tasks"] == {"detection": 1, "grounding": 1, "number": 1}
    assert document["files"] == ["both/sheet.png", "both/index.html"]
    assert [item["id"] for item in document["shown"]] == ["grounding", "detection", "number"]


def test_the_document_says_where_boxes_are(look):
    shown = {item["id"]: item for item in look("--json").document["shown"]}
    assert "stats" not in look("--json").document
    assert shown["detection"] == {
        "id": "detection",
        "task": "detection",
        "frames": [0, 1],
        "missing": 0,
        "missing_why": None,
        "boxes": [{"label": "chair", "frames": [0, 1], "trouble": None}],
        "notes": [],
    }
    assert shown["number"]["boxes"] == []


def test_stats_as_one_document_are_those_of_all_records(look):
    document = look("--stats", "--json").document
    assert set(document) == {"schema", "records", "n", "stats"}
    boxes = document["stats"]["boxes"]["detection"]
    assert (boxes["n"], boxes["in_own_frame"], boxes["classes"]) == (1, 1.0, {"chair": {"n": 1, "records": 1}})
    assert boxes["size"]["x"]["median"] == BOX[3]


def test_quiet_prints_the_page_and_nothing_else(look):
    shown = look("-q", "--out", "here")
    assert (shown.code, shown.out, shown.err) == (0, "here/index.html\n", "")


def test_records_can_be_named_counted_and_told_by_task(look):
    def ids(*words: object) -> list[str]:
        return [item["id"] for item in look(*words, "--json").document["shown"]]

    assert ids("--id", "number", "--id", "grounding") == ["number", "grounding"]
    assert ids("-n", 1) == ["grounding"]
    assert ids("--task", "detection") == ["detection"]
    assert look("--task", "detection", "--stats", "--json").document["stats"]["records"] == 1


def test_media_can_lie_elsewhere(rft3d, world):
    Path("alone.jsonl").write_bytes(world.records.read_bytes())
    shown = run("inspect", "alone.jsonl")
    assert shown.code == 3
    assert "nothing can be shown" in shown.errors[0]
    assert "clip.mp4 does not exist" in shown.errors[0]
    assert "--media-root" in shown.hint
    assert not Path("look").exists()
    assert run("inspect", "alone.jsonl", "--media-root", world.folder).code == 0


def test_some_media_missing_is_a_warning(rft3d, world):
    record = json.loads(read_records(world.records).records[2].to_json())
    Image.new("RGB", (96, 64)).save("0.png")
    video = {"frames": ["0.png", "1.png"]}
    Path("r.jsonl").write_text(json.dumps({**record, "video": video}) + "\n", encoding="utf-8")
    shown = run("inspect", "r.jsonl")
    assert shown.code == 0
    assert "warning: 1 of 2 frames could not be read, first: 1.png does not exist" in shown.err


def test_boxes_in_no_frame_are_a_warning(rft3d, world):
    record = json.loads(read_records(world.records).records[1].to_json())
    record["target"]["boxes"][0]["bbox_3d"][2] = -2.0
    Path("r.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    shown = run("inspect", "r.jsonl", "--media-root", world.folder)
    assert shown.code == 0
    assert "warning: 1 of the 1 boxes shown lie in no frame" in shown.err


def test_saved_answers_are_drawn_beside_their_targets(look, world):
    lines = [{"id": "detection", "prediction": DETECTION_ANSWER}, {"id": "elsewhere", "prediction": "1"}]
    Path("said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    document = look("--predictions", "said.jsonl", "--json").document
    (shown,) = document["shown"]
    assert shown["prediction"] == {
        "boxes": [{"label": "chair", "iou": pytest.approx(1)}],
        "value": None,
        "unreadable": None,
    }
    Path("said.jsonl").write_text('{"id": "elsewhere", "prediction": "1"}\n', encoding="utf-8")
    shown = look("--predictions", "said.jsonl")
    assert shown.code == 3
    assert "no prediction has the id of a record" in shown.errors[0]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(["--id", "detektion"], 2, "no record has the id 'detektion'", id="unknown id"),
        pytest.param(["--task", "choice"], 3, "holds no choice records", id="no such task here"),
        pytest.param(["--task", "boxes"], 2, "'boxes' is not one of", id="no such task"),
        pytest.param(["-n", "0"], 2, "Invalid value for '-n' / '--count'", id="no records"),
        pytest.param(["--json", "-q"], 2, "exclude each other", id="two forms"),
        pytest.param(["--stats", "-q"], 2, "--stats alone writes none", id="quiet without a page"),
        pytest.param(["--out", "taken"], 3, "taken cannot be written", id="a file in the way"),
        pytest.param(["--predictions", "no.jsonl"], 3, "no.jsonl does not exist", id="no answers"),
    ],
)
def test_a_wrong_word_is_one_line_and_a_hint(look, words, code, message):
    Path("taken").write_text("mine", encoding="utf-8")
    shown = look(*words)
    assert (shown.code, shown.out) == (code, "")
    (error,) = shown.errors
    assert message in error
    assert "Traceback" not in shown.err
    assert Path("taken").read_text(encoding="utf-8") == "mine"


def test_a_wrong_line_is_named(rft3d, world):
    Path("r.jsonl").write_bytes(world.records.read_bytes() + b'{"id": "x"}\n')
    shown = run("inspect", "r.jsonl", "--media-root", world.folder)
    assert shown.code == 3
    assert shown.errors[0].startswith("r.jsonl line 4: missing field")


def test_terminal_control_characters_stay_out(rft3d, world):
    record = json.loads(read_records(world.records).records[1].to_json())
    record["id"] = record["target"]["boxes"][0]["label"] = "\x1b[31mred"
    record["meta"] = {"scene": "\x1b[2J", "dataset": "\x1b[2J"}
    Path("r.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    shown = run("inspect", "r.jsonl", "--media-root", world.folder, "--stats", "--out", "look")
    assert shown.code == 0
    assert "\x1b" not in shown.out + shown.err
    assert "\x1b" not in Path("look/index.html").read_text(encoding="utf-8")
