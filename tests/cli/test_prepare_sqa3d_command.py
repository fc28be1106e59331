from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Shown, run
from sqa3d_files import asked_of, save

from rft3d_cli.records import read_records

BUILD = (
    "--scenes 3 --seed 4 --objects 3-4 --seconds 4 --fps 4 --size 64x48 --antialias 1 --val 0 --workers 1 --no-clips"
)
Rft3d = Callable[..., Shown]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "rooms"
    assert run("prepare", "rooms", "--out", folder, *BUILD.split()).code == 0
    for split in ("train", "test"):
        save(folder / "sqa3d", asked_of(folder), split)
    return folder


def words(rooms: Path, out: str, *more: object, split: str = "test", source: str = "--scans") -> list[object]:
    questions = ["--questions", rooms / "sqa3d" / f"v1_balanced_questions_{split}_scannetv2.json"]
    return ["prepare", "sqa3d", *questions, source, rooms / "scans", "-o", out, "--frames", 4, "--workers", 1, *more]


def test_the_report_says_what_was_written_and_what_comes_next(built: Path, rft3d: Rft3d) -> None:
    shown = rft3d(*words(built, "out/test.jsonl"))
    assert shown.code == 0, shown.err
    records = read_records("out/test.jsonl").records
    assert f"wrote    out/test.jsonl  ({len(records):,} records" in shown.out
    assert "next     rft3d evaluate sqa3d --data out/test.jsonl" in shown.err
    assert {len(record.video.frames) for record in records} == {4}
    assert json.loads(Path("out/test.card.json").read_text())["command"] == "prepare sqa3d"


def test_training_records_have_all_wordings_and_are_learnt_from(built: Path, rft3d: Rft3d) -> None:
    shown = rft3d(*words(built, "train.jsonl", split="train"))
    assert "next     rft3d sft --recipe tiny-sft data.train=train.jsonl" in shown.err
    more, fewer = read_records("train.jsonl").records, rft3d(*words(built, "test.jsonl", "--json")).document["records"]
    assert len(more) > fewer
    assert all(record.answer for record in more)


def test_clips_are_named_and_not_copied(built: Path, rft3d: Rft3d) -> None:
    Path("clips").mkdir()
    for path in (built / "scans").iterdir():
        Path(f"clips/{path.name}.mp4").write_bytes(b"video")
    line = words(built, "out/test.jsonl", "--media-root", ".")
    line[line.index("--scans") : line.index("-o")] = ["--videos", "clips"]
    shown = rft3d(*line)
    assert shown.code == 0, shown.err
    assert read_records("out/test.jsonl").records[0].video.path.startswith("clips/scene")
    assert "rft3d evaluate sqa3d --data out/test.jsonl --media-root ." in shown.err
    assert not Path("out/media").exists()


def test_one_json_document_and_a_dry_run_that_agrees(built: Path, rft3d: Rft3d) -> None:
    line = words(built, "out/a.jsonl", "--json")
    dry = rft3d(*line, "--dry-run").document
    assert not Path("out").exists()
    real = rft3d(*line).document
    assert (dry["records"], dry["counts"], dry["rejects"]) == (real["records"], real["counts"], real["rejects"])


def test_annotations_may_lie_elsewhere(built: Path, rft3d: Rft3d) -> None:
    Path("own.json").write_bytes((built / "sqa3d" / "v1_balanced_sqa_annotations_test_scannetv2.json").read_bytes())
    assert rft3d(*words(built, "a.jsonl", "--annotations", "own.json", "--quiet")).out == "a.jsonl\n"
    assert rft3d(*words(built, "b.jsonl", "--quiet")).out == "b.jsonl\n"
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("more", "code", "problem"),
    [
        pytest.param(["--videos", "clips"], 2, "one of --videos, --scans and --posed-images", id="two sources"),
        pytest.param(["--annotations", "none.json"], 3, "there is no file none.json", id="no annotations"),
        pytest.param(["--json", "--quiet"], 2, "exclude each other", id="two forms"),
        pytest.param(["-o", "a.json"], 2, "does not end in .jsonl", id="no record file"),
        pytest.param(["--shard", "3/2"], 2, "there is no such share", id="no such share"),
    ],
)
def test_wrong_options_are_refused(built: Path, rft3d: Rft3d, more: list[object], code: int, problem: str) -> None:
    shown = rft3d(*words(built, "a.jsonl", *more))
    assert (shown.code, problem in shown.err) == (code, True), shown.err
    assert not Path("a.jsonl").exists()


def test_all_that_is_missing_is_said_at_once(rft3d: Rft3d) -> None:
    shown = rft3d("prepare", "sqa3d", "--videos", "clips")
    assert shown.code == 3
    assert [error.split(" (")[1] for error in shown.errors if " (" in error] == ["questions)", "annotations)", "clips)"]


def test_files_given_the_wrong_way_round_are_told(built: Path, rft3d: Rft3d) -> None:
    questions, annotations = (
        built / "sqa3d" / f"v1_balanced_{kind}_test_scannetv2.json" for kind in ("questions", "sqa_annotations")
    )
    shown = rft3d(*words(built, "a.jsonl", "--questions", annotations, "--annotations", questions))
    assert (shown.code, shown.hint) == (3, "name the files the other way round")
