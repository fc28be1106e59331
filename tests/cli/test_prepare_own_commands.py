from __future__ import annotations

import csv
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from rft3d_cli.commands.prepare import app
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, UsageError
from rft3d_cli.records import read_records
from rft3d_cli.video import write_mp4

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")


def rft(line: str) -> Result:
    return CliRunner().invoke(app, shlex.split(line))


def good(line: str) -> Result:
    result = rft(line)
    assert result.exit_code == 0, (result.exception, result.output)
    return result


def refused(line: str) -> Rft3dError:
    result = rft(line)
    assert isinstance(result.exception, Rft3dError), (result.exception, result.output)
    return result.exception


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands(name: str) -> list[str]:
    """The page's command lines of one sub-command, without `rft3d prepare`."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line.removeprefix("rft3d prepare ") for line in lines if line.startswith(f"rft3d prepare {name}")]


def build_page(folder: Path) -> None:
    """What the page shows, on disk."""
    for name, text in re.findall(r"^`(flats/\S+)`\n\n```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    cameras = json.loads((folder / "flats/flat3/cameras.json").read_text())
    (folder / "flats/flat3/frames").mkdir()
    for name in cameras["frames"]:
        Image.new("RGB", tuple(cameras["image_size"]), (90, 60, 30)).save(folder / "flats/flat3/frames" / name)
    (table,) = blocks("csv")
    (folder / "questions.csv").write_text(table)
    for row in csv.DictReader(io.StringIO(table)):
        path = folder / "clips" / row["video"]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, [np.full((48, 64, 3), 7 * n, np.uint8) for n in range(33)], 10)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    build_page(tmp_path)
    return tmp_path


# ---- The page


def test_the_scan_of_the_page_gives_what_the_page_says(here: Path) -> None:
    (line,) = commands("posed")
    result = good(line)
    assert "warning" not in result.stderr
    detection, grounding = read_records("flats/train.jsonl").records
    assert (detection.id, detection.task, grounding.id, grounding.task) == (
        "flat3/det/0001", "detection", "flat3/ref/0", "grounding",
    )  # fmt: skip
    assert detection.video.model_dump() == {
        "frames": ["flat3/frames/0001.jpg", "flat3/frames/0002.jpg"],
        "times": [0.0, 1.0],
    }
    # The chair of docs/records.md, seen from the same camera: there the numbers are rounded.
    chair, table = detection.target.boxes
    assert chair.label == "chair"
    np.testing.assert_allclose(chair.bbox_3d[:6], [0.2, 1.05, 2.5, 0.5, 0.6, 0.9], atol=1e-9)
    np.testing.assert_allclose(chair.bbox_3d[6:], [1.5708, 1.2708, -1.5708], atol=1e-4)
    # A quaternion about z by 0.3: the table's x axis is the camera's (cos, 0, sin).
    turn = table.bbox_3d[6:]
    assert table.bbox_3d[:3] == pytest.approx((-0.6, 1.1, 3.0))
    assert np.cos(turn[0]) * np.cos(turn[2]) - np.sin(turn[0]) * np.sin(turn[1]) * np.sin(turn[2]) == pytest.approx(
        np.cos(0.3), abs=1e-4
    )
    assert grounding.target.bbox_world == pytest.approx((1.2, 2.5, 0.45, 0.5, 0.6, 0.9, 0.3, 0.0, 0.0))
    assert grounding.meta.subset == "unique"
    assert "The chair to the right of the table." in grounding.prompt
    assert "next     rft3d rewards check flats/train.jsonl" in result.stderr


def test_the_scan_of_the_page_is_asked_about(here: Path) -> None:
    (line,) = commands("spatialqa")
    result = good(line)
    assert "warning" not in result.stderr
    found = read_records("flats/questions.jsonl").records
    numbers = {record.meta.question_type: record.target.value for record in found if record.task == "number"}
    # Chair and table nearly touch, so how far apart they are is not asked; their longest sides are 0.9 m and 1.2 m.
    assert set(numbers) == {"object_size_estimation"}
    assert numbers["object_size_estimation"] in (90, 120)
    assert {name for record in found for name in record.video.frames} == {
        "flat3/frames/0001.jpg", "flat3/frames/0002.jpg",
    }  # fmt: skip


def test_the_table_of_the_page_gives_what_the_page_says(here: Path) -> None:
    (line,) = commands("video")
    result = good(line)
    assert "warning" not in result.stderr
    found = read_records("questions.jsonl").records
    assert [record.task for record in found] == ["choice", "number", "text"]
    assert [record.video.path for record in found] == ["clips/kitchen.mp4", "clips/kitchen.mp4", "clips/hall/walk.mp4"]
    assert found[0].id == "kitchen/q/2"
    row = json.loads(blocks("json")[-1])
    Path("one.jsonl").write_text(json.dumps(row))
    good("video --videos clips --questions one.jsonl -o two.jsonl")
    (record,) = read_records("two.jsonl").records
    assert (record.target, record.prompt) == (found[0].target, found[0].prompt)


def test_the_page_names_every_field_and_column() -> None:
    from rft3d_cli.prepare._own_questions import COLUMNS
    from rft3d_cli.prepare._posed_files import _Camera, _Cameras
    from rft3d_cli.prepare._posed_objects import _Box, _Description

    names = {name for model in (_Cameras, _Camera, _Box, _Description) for name in model.model_fields} | {*COLUMNS}
    assert not {name for name in names if not re.search(rf"`(frames\.NAME\.)?{name}`", PAGE)}


# ---- Both commands


POSED = "posed --scans flats --frames 2 -o out/a.jsonl"
VIDEO = "video --videos clips --questions questions.csv -o out/a.jsonl"
BOTH = [pytest.param(POSED, "flats", id="posed"), pytest.param(VIDEO, "clips", id="video")]


@pytest.mark.parametrize(("line", "root"), BOTH)
def test_results_go_to_stdout_and_the_rest_to_stderr(here: Path, line: str, root: str) -> None:
    result = good(line)
    count = len(read_records("out/a.jsonl").records)
    assert f"wrote    out/a.jsonl  ({count} records" in result.stdout
    assert "next     rft3d" in result.stderr
    assert "next" not in result.stdout
    assert json.loads(Path("out/a.card.json").read_text())["options"]["media_root"] == root


@pytest.mark.parametrize(("line", "root"), BOTH)
def test_one_json_document_or_the_path_alone(here: Path, line: str, root: str) -> None:
    document = json.loads(good(f"{line} --json").stdout)
    assert document["media_root"] == root
    assert document["records"] == len(read_records("out/a.jsonl").records)
    quiet = good(f"{line} --quiet")
    assert (quiet.stdout, quiet.stderr) == ("out/a.jsonl\n", "")
    assert isinstance(refused(f"{line} --quiet --json"), UsageError)


@pytest.mark.parametrize(("line", "root"), BOTH)
def test_a_dry_run_writes_nothing_and_counts_the_same(here: Path, line: str, root: str) -> None:
    before = sorted(here.rglob("*"))
    dry = json.loads(good(f"{line} --json --dry-run").stdout)
    assert sorted(here.rglob("*")) == before
    real = json.loads(good(f"{line} --json").stdout)
    assert (dry["records"], dry["counts"]) == (real["records"], real["counts"])


@pytest.mark.parametrize(("line", "root"), BOTH)
def test_media_are_found_below_the_root_and_repeated_runs_give_the_same_bytes(here: Path, line: str, root: str) -> None:
    found = []
    for _ in range(2):
        good(line)
        found.append({file: file.read_bytes() for file in Path("out").iterdir()})
    assert found[0] == found[1]
    source = read_records("out/a.jsonl", media_root=root)
    for record in source.records:
        names = getattr(record.video, "frames", None) if record.task in ("detection", "grounding") else None
        assert all(source.media(name).is_file() for name in names or [record.video.path])


@pytest.mark.parametrize(("line", "root"), BOTH)
def test_an_output_in_the_folder_above_makes_that_the_root(here: Path, line: str, root: str) -> None:
    document = json.loads(good(f"{line} --json -o a.jsonl").stdout)
    assert document["media_root"] == "."
    text = Path("a.jsonl").read_text()
    assert f'"{root}/' in text


@pytest.mark.parametrize("line", ["posed", "video"])
def test_commands_typed_alone_say_what_they_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(line)
    assert isinstance(error, DataError | ProblemList)
    assert error.exit_code == 3
    assert "docs/own-data.md" in error.hint
    assert not any(tmp_path.iterdir())


BAD: list[Any] = [
    pytest.param(f"{POSED} --stride 1m", UsageError, "neither frames nor seconds", id="stride"),
    pytest.param(f"{POSED} -o out", UsageError, "does not end in .jsonl", id="output"),
    pytest.param(f"{POSED} --media-root clips", UsageError, "not inside the media root", id="posed root"),
    pytest.param(f"{VIDEO} --media-root flats", UsageError, "not inside the media root", id="video root"),
    pytest.param("posed --scans clips", DataError, "holds no scans", id="no scans"),
    pytest.param("posed --scans flats/flat3", DataError, "holds no scans", id="a scan for its folder"),
    pytest.param("video --videos flats --questions questions.csv", DataError, "2 of 2 videos are missing", id="videos"),
    pytest.param(
        "video --videos clips --questions flats/flat3/boxes.json", DataError, "neither CSV nor JSONL", id="file"
    ),
]


@pytest.mark.parametrize(("line", "kind", "words"), BAD)
def test_what_is_wrong_is_said(here: Path, line: str, kind: type[Rft3dError], words: str) -> None:
    error = refused(line)
    assert isinstance(error, kind)
    assert words in error.message
    assert error.hint
    assert not Path("out").exists()


def test_a_wrong_convention_is_named(here: Path) -> None:
    path = Path("flats/flat3/cameras.json")
    path.write_text(path.read_text().replace('"opencv"', '"opengl"'))
    error = refused(POSED)
    assert isinstance(error, ProblemList)
    assert 'most boxes are seen in no frame: with "convention": "opencv"' in error.problems[1].message
    assert "upside down" in error.problems[1].message
    # The same with an object that happens to be in view all the same: records, and a warning.
    behind = {"label": "lamp", "bbox_3d": [1.0, -2.5, 1.5, 1, 1, 1, 0, 0, 0]}
    boxes = json.loads(Path("flats/flat3/boxes.json").read_text())
    Path("flats/flat3/boxes.json").write_text(json.dumps([*boxes, behind]))
    result = good(POSED)
    assert 'warning: most boxes are seen in no frame: with "convention": "opencv"' in result.stderr.replace("\n", " ")
    assert "upside down" in result.stderr


def test_shards_join_to_the_bytes_of_one_run(here: Path) -> None:
    import shutil

    for number in range(4, 7):
        shutil.copytree("flats/flat3", f"flats/flat{number}")
    line = "posed --scans flats --frames 2 --workers 1"
    good(f"{line} -o flats/whole.jsonl")
    for share in (1, 2):
        good(f"{line} --shard {share}/2 -o flats/{share}.jsonl")
    good("merge flats/1.jsonl flats/2.jsonl -o flats/joined.jsonl")
    assert Path("flats/joined.jsonl").read_bytes() == Path("flats/whole.jsonl").read_bytes()


def test_what_was_written_can_be_checked(here: Path, rft3d: Any) -> None:
    for line, answers in ((POSED, ["detection, 1 record", "grounding, 1 record"]), (VIDEO, ["choice, 1", "number, 1"])):
        good(line)
        shown = rft3d("rewards", "check", "out/a.jsonl")
        assert shown.code == 0
        assert all(answer in shown.out for answer in answers)
