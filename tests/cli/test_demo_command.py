from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rft3d_cli import demo
from rft3d_cli.video import probe


@pytest.mark.parametrize("kind", ["a file", "a full folder"])
def test_a_folder_that_no_demo_made_is_left_alone(rft3d, kind):
    mine = Path("mine") if kind == "a file" else Path("mine/thesis.txt")
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("do not touch", encoding="utf-8")
    shown = rft3d("demo", "--quick", "--out", "mine")
    assert (shown.code, shown.out) == (2, "")
    assert shown.errors == ["mine exists and was not made by the demo"]
    assert "--out" in shown.hint
    assert mine.read_text(encoding="utf-8") == "do not touch"


def test_a_stranger_s_file_in_a_demo_s_folder_keeps_the_demo_out(rft3d):
    Path("d").mkdir()
    Path("d/demo.json").write_text("{}", encoding="utf-8")
    Path("d/thesis.txt").write_text("do not touch", encoding="utf-8")
    shown = rft3d("demo", "--quick", "--out", "d")
    assert (shown.code, shown.errors) == (2, ["d exists and was not made by the demo"])
    assert sorted(path.name for path in Path("d").iterdir()) == ["demo.json", "thesis.txt"]


def test_ctrl_c_in_one_of_its_commands_ends_the_demo(rft3d, monkeypatch):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rft3d_cli.prepare.rooms.build.build", interrupted)
    shown = rft3d("demo", "--quick", "--out", "d")
    assert shown.code == 130
    assert shown.err.count("$ rft3d ") == 1
    assert [path.name for path in Path("d").iterdir()] == ["demo.json"]
    # What it left can be replaced by the next.
    assert rft3d("demo", "--quick", "--out", "d").code == 130


def test_an_error_in_one_of_its_commands_is_the_demo_s(rft3d, monkeypatch):
    monkeypatch.setattr("rft3d_cli.models.loader.assets_dir", lambda: Path("nowhere"))
    monkeypatch.setattr(demo.Demo, "rooms", lambda self, plan: None)
    monkeypatch.setattr(demo.Demo, "records", lambda self: {})
    monkeypatch.setattr(demo.Demo, "data", lambda self, name, split: "nothing.jsonl")
    shown = rft3d("demo", "--quick", "--out", "d")
    assert shown.code == 3
    assert shown.errors == ["nothing.jsonl does not exist"]


def test_the_time_left_is_corrected_by_the_time_that_parts_took(monkeypatch):
    now = iter([0.0, 20.0, 20.0, 30.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    monkeypatch.setattr("sys.stderr", io.StringIO())
    clock = demo.Clock(["a", "b", "c"], {"a": 10, "b": 5, "c": 30})
    assert clock.left() == 45
    with clock.part("a", "first"):
        pass
    assert clock.left() == 2 * 35
    with clock.part("b", "second"):
        pass
    assert clock.left() == 2 * 30
    assert clock.spent == {"a": 20.0, "b": 10.0}


def test_the_quick_demo_walks_the_whole_road(rft3d):
    shown = rft3d("demo", "--quick", "--out", "d", "--json")
    document = shown.document
    assert document["finished"] is True
    assert json.loads(Path("d/demo.json").read_text(encoding="utf-8")) == document
    # Every part was announced, and every command printed before it ran.
    parts = ["rooms", "records", "before", "grpo", "after", "pictures"]
    assert list(document["seconds"]) == parts
    for number in range(1, len(parts) + 1):
        assert f"[{number}/{len(parts)}]" in shown.err
    verbs = [line.split()[2] for line in shown.err.splitlines() if line.strip().startswith("$ rft3d ")]
    assert verbs == ["prepare"] * 9 + ["evaluate"] * 3 + ["grpo"] + ["evaluate"] * 3 + ["infer", "report"]
    # Scores before and after are percentages of the same held-out records.
    assert document["before"].keys() == document["after"].keys()
    assert all(0 <= value <= 100 for value in (*document["before"].values(), *document["after"].values()))
    assert set(document["held_out"]) == {"detection", "grounding", "questions"}
    assert all(0 < count <= document["records"][f"{task} val"] for task, count in document["held_out"].items())
    # Every file that it names is there, and the pictures are pictures.
    files = [Path(path) for _, path in document["files"]]
    assert all(path.exists() for path in files)
    assert np.asarray(Image.open("d/look/before-after.png")).std() > 10
    assert all(probe(path).frames > 0 for path in files if path.suffix == ".mp4")
    assert Path("d/look/answer.json").is_file()
    metrics = [json.loads(line) for line in Path("d/runs/grpo/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in metrics if "reward" in row] == [1, 2, 3, 4]
    assert not list(Path("d").rglob("*.tmp"))
    assert demo.table(document).row_count == len(demo.SCORES)
