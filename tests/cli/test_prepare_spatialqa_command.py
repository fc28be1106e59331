from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Shown, run
from PIL import Image

from rft3d_cli.prepare.questions.recompute import recompute
from rft3d_cli.records import read_records

BUILD = "--scenes 3 --seed 10 --objects 9-12 --seconds 4 --fps 4 --size 64x48 --antialias 1 --val 0.34 --workers 1"
Rft3d = Callable[..., Shown]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "rooms"
    assert run("prepare", "rooms", "--out", folder, *BUILD.split()).code == 0
    return folder


def words(rooms: Path, out: Path | str, *more: object, split: str = "train") -> list[object]:
    infos = rooms / f"embodiedscan_infos_{split}.json"
    line = ["prepare", "spatialqa", "--scans", rooms / "scans", "--annotations", infos, "-o", out, "--workers", 1]
    return [*line, *more]


def test_the_report_says_what_was_asked_what_not_and_what_comes_next(built: Path, rft3d: Rft3d) -> None:
    shown = rft3d(*words(built, "out/train.jsonl", "--frames", 12))
    assert shown.code == 0, shown.err
    records = read_records("out/train.jsonl").records
    assert f"wrote    out/train.jsonl  ({len(records):,} records" in shown.out
    assert "labels (several objects share it)" in shown.out
    assert "questions (between two directions)" in shown.out
    assert "next     rft3d grpo --recipe tiny-mix data.train=out/train.jsonl" in shown.err
    card = json.loads(Path("out/train.card.json").read_text())
    assert card["command"] == "prepare spatialqa"
    assert card["options"]["per_type"] == 3
    assert all(recompute(record) == record.answer for record in records)


def test_right_answers_score_full_marks(built: Path, rft3d: Rft3d) -> None:
    shown = rft3d(*words(built, "val.jsonl", "--per-type", 8, split="val"))
    assert "next     rft3d evaluate vsibench --data val.jsonl" in shown.err
    records = read_records("val.jsonl").records
    lines = [json.dumps({"id": record.id, "prediction": record.answer}) for record in records]
    Path("p.jsonl").write_text("\n".join(lines))
    scored = rft3d("evaluate", "vsibench", "--data", "val.jsonl", "--predictions", "p.jsonl", "--json").document
    assert scored["overall"] == 100
    assert rft3d("rewards", "check", "val.jsonl").code == 0


def test_one_json_document_and_a_dry_run_that_agrees(built: Path, rft3d: Rft3d) -> None:
    line = words(built, "out/a.jsonl", "--json")
    dry = rft3d(*line, "--dry-run").document
    assert not Path("out").exists()
    real = rft3d(*line).document
    assert (dry["records"], dry["counts"], dry["rejects"]) == (real["records"], real["counts"], real["rejects"])
    assert real["counts"]["labels"].keys() >= {"object_rel_direction_easy", "object_size_estimation"}
    assert real["rejects"]["question"]["between two directions"] > 0


def test_prompts_can_ask_for_a_chain_of_thought(built: Path, rft3d: Rft3d) -> None:
    for style in ("direct", "think"):
        assert rft3d(*words(built, f"{style}.jsonl", "--answer-style", style)).code == 0
    direct, think = (read_records(f"{style}.jsonl").records for style in ("direct", "think"))
    assert [record.target for record in think] == [record.target for record in direct]
    for record, plain in zip(think, direct, strict=True):
        assert record.prompt.splitlines()[:-1] == plain.prompt.splitlines()[:-1]
        assert "<think>" in record.prompt
        assert f"<answer>{plain.answer}</answer>" in record.answer
    trained = rft3d("grpo", "--recipe", "tiny-mix", "data.train=think.jsonl", "data.eval=null", "--dry-run")
    assert trained.code == 0, trained.err


def test_types_may_be_listed_and_repeated(built: Path, rft3d: Rft3d) -> None:
    more = ["--types", "object_rel_direction,object_counting", "--types", "room_size_estimation", "--per-type", 1]
    shown = rft3d(*words(built, "a.jsonl", *more, "--quiet"))
    assert (shown.out, shown.err) == ("a.jsonl\n", "")
    levels = [f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")]
    assert {record.meta.question_type for record in read_records("a.jsonl").records} == {
        "object_counting",
        "room_size_estimation",
        *levels,
    }


def test_clips_are_named_from_where_the_records_lie(built: Path, rft3d: Rft3d) -> None:
    shutil.copytree(built, "rooms")
    here = Path("rooms")
    assert rft3d(*words(here, "rooms/qa.jsonl", "--videos", "rooms/vsibench")).code == 0
    file = read_records("rooms/qa.jsonl")
    assert file.records[0].video.path == "vsibench/rooms/scene0000_00.mp4"
    shown = rft3d(*words(here, "elsewhere/qa.jsonl", "--videos", "rooms/vsibench"))
    assert "data.media_root=rooms/vsibench" in shown.err
    file = read_records("elsewhere/qa.jsonl", media_root="rooms/vsibench")
    assert file.media(file.records[0].video.path).exists()
    shown = rft3d(*words(here, "elsewhere/qa.jsonl", "--videos", "rooms/vsibench", "--media-root", "rooms"))
    file = read_records("elsewhere/qa.jsonl", media_root="rooms")
    assert file.records[0].video.path == "vsibench/rooms/scene0000_00.mp4"


def test_exported_frames_need_no_scans(built: Path, rft3d: Rft3d) -> None:
    assert rft3d(*words(built, "first/qa.jsonl", "--frames", 64)).code == 0
    Path("first/media").rename("mine")
    infos = built / "embodiedscan_infos_train.json"
    line = ["prepare", "spatialqa", "--posed-images", "mine/posed_images", "--annotations", infos, "--frames", 64]
    shown = rft3d(*line, "-o", "second/qa.jsonl", "--workers", 1)
    assert shown.code == 0, shown.err
    assert "no floor is known" in shown.out
    file = read_records("second/qa.jsonl", media_root="mine")
    assert file.media(file.records[0].video.frames[0]).exists()
    known = {record.id: record.answer for record in read_records("first/qa.jsonl").records}
    assert {record.id: record.answer for record in file.records} == {
        name: answer for name, answer in known.items() if "room_size" not in name
    }


def test_repeated_runs_give_the_same_bytes(built: Path, rft3d: Rft3d) -> None:
    found = []
    for _ in range(2):
        assert rft3d(*words(built, "out/a.jsonl")).code == 0
        found.append({f: f.read_bytes() for f in Path("out").rglob("*") if f.is_file()})
    assert found[0] == found[1]


def test_shares_join_to_the_whole(built: Path, rft3d: Rft3d) -> None:
    # Outputs of one name in folders side by side, so that media have the same names.
    assert rft3d(*words(built, "whole/a.jsonl")).code == 0
    for i in (1, 2):
        assert rft3d(*words(built, f"part/{i}.jsonl", "--shard", f"{i}/2")).code == 0
    shown = rft3d("prepare", "merge", "part/1.jsonl", "part/2.jsonl", "-o", "part/a.jsonl")
    assert shown.code == 0, shown.err
    assert Path("part/a.jsonl").read_bytes() == Path("whole/a.jsonl").read_bytes()


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["--types", "dance"], id="no such type"),
        pytest.param(["--per-type", 0], id="no question"),
        pytest.param(["--frames", 0], id="no frame"),
        pytest.param(["--seed", -1], id="negative seed"),
        pytest.param(["--visibility", 0.1], id="a share of depth that annotations do without"),
        pytest.param(["--videos", ".", "--media", "m"], id="clips and extracted frames"),
        pytest.param(["--videos", ".", "--posed-images", "."], id="clips and exported frames"),
        pytest.param(["--videos", "..", "--media-root", "."], id="clips outside the media root"),
        pytest.param(["--json", "--quiet"], id="two forms"),
        pytest.param(["--shard", "3/2"], id="no such share"),
        pytest.param(["-o", "a.json"], id="not a record file"),
    ],
)
def test_wrong_options_are_usage_errors(built: Path, rft3d: Rft3d, more: list[object]) -> None:
    shown = rft3d(*words(built, "a.jsonl", *more))
    assert shown.code == 2
    assert not any(Path().iterdir())


def test_everything_that_is_missing_is_said_at_once(rft3d: Rft3d) -> None:
    shown = rft3d("prepare", "spatialqa", "--scans", "nowhere", "--annotations", "a.pkl", "--videos", "none")
    assert shown.code == 3
    assert [next(word for word in ("nowhere", "none", "a.pkl") if word in line) for line in shown.errors] == [
        "nowhere",
        "none",
        "a.pkl",
    ]
    assert rft3d("prepare", "spatialqa").code == 3


def test_exported_frames_without_annotations_are_a_usage_error(rft3d: Rft3d) -> None:
    Path("posed").mkdir()
    Path("scans").mkdir()
    shown = rft3d("prepare", "spatialqa", "--posed-images", "posed", "-o", "a.jsonl")
    assert shown.code == 2
    assert "--annotations" in shown.hint


def test_scenes_without_a_clip_fail_or_are_left_out(built: Path, rft3d: Rft3d) -> None:
    Path("clips").mkdir()
    shutil.copy(built / "vsibench" / "rooms" / "scene0000_00.mp4", "clips")
    shown = rft3d(*words(built, "a.jsonl", "--videos", "clips"))
    assert shown.code == 3
    assert "missing video" in shown.err
    shown = rft3d(*words(built, "a.jsonl", "--videos", "clips", "--max-bad", 0.5))
    assert shown.code == 0
    assert {record.video.path for record in read_records("a.jsonl").records} == {"clips/scene0000_00.mp4"}


def flats(folder: Path) -> Path:
    """Two frames and four objects of one's own."""
    scan = folder / "flats" / "flat3"
    (scan / "frames").mkdir(parents=True)
    poses = [[[1, 0, 0, x], [0, 0, 1, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]] for x in (0.0, 0.5)]
    cameras = {
        "intrinsic": [[90, 0, 47.5], [0, 90, 35.5], [0, 0, 1]],
        "image_size": [96, 72],
        "frames": {f"{number}.png": {"cam_to_world": pose} for number, pose in enumerate(poses)},
    }
    for name in cameras["frames"]:
        Image.new("RGB", (96, 72), (90, 60, 30)).save(scan / "frames" / name)
    places = {"chair": (-1, 3), "table": (0.5, 4), "lamp": (1, 6), "door": (-1, 7)}
    boxes = [{"label": name, "center": [x, y, 1], "size": [0.4, 0.4, 2]} for name, (x, y) in places.items()]
    (scan / "cameras.json").write_text(json.dumps(cameras))
    (scan / "boxes.json").write_text(json.dumps(boxes))
    return folder / "flats"


def test_own_scans_are_asked_about_and_named_where_they_lie(tmp_path: Path, rft3d: Rft3d) -> None:
    scans = flats(tmp_path)
    shown = rft3d("prepare", "spatialqa", "--posed", scans, "-o", scans / "q.jsonl", "--split", "train")
    assert shown.code == 0, shown.err
    records = read_records(scans / "q.jsonl").records
    assert {record.meta.question_type for record in records} >= {"object_abs_distance", "object_rel_direction_easy"}
    for record in records:
        assert recompute(record) == record.answer
        assert record.video.frames == ["flat3/frames/0.png", "flat3/frames/1.png"]
    assert "without depth images" in (scans / "q.rejects.jsonl").read_text()
    assert not (scans / "media").exists()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        pytest.param(["--annotations", "a.json"], 2, "--posed and --annotations exclude", id="annotations"),
        pytest.param(["--scans", "."], 2, "--posed and --scans exclude", id="scans"),
        pytest.param(["--posed-images", "."], 2, "--posed and --posed-images exclude", id="exported frames"),
        pytest.param(["--media", "m"], 2, "--posed and --media exclude", id="media"),
        pytest.param(["--posed", "nowhere"], 3, "there is no folder nowhere", id="no folder"),
        pytest.param(["--media-root", "flats/flat3"], 2, "not inside the media root", id="media root"),
    ],
)
def test_own_scans_bring_all_they_need(tmp_path: Path, rft3d: Rft3d, more: list[str], code: int, words: str) -> None:
    scans = flats(tmp_path)
    more = [str(tmp_path / word) if word == "flats/flat3" else word for word in more]
    shown = rft3d("prepare", "spatialqa", "--posed", scans, "-o", tmp_path / "out" / "q.jsonl", *more)
    assert shown.code == code
    assert words in " ".join(shown.err.split())
    assert not (tmp_path / "out").exists()
