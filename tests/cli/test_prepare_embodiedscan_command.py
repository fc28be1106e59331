from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Shown
from embodied_rooms import SAMPLES, World, build_world, utterances
from small_rooms import build_rooms, write_infos

from rft3d_cli.prepare.rooms.build import RoomsSpec
from rft3d_cli.records import read_records

ROOMS = RoomsSpec(scenes=3, seed=8, objects=(3, 4), seconds=3, fps=4, size=(64, 48), antialias=1, val=0, clips=False)
Rft3d = Callable[..., Shown]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("embodied")
    made = build_world(build_rooms(ROOMS, folder / "rooms"), folder / "data", size=(64, 48))
    write_infos(folder / "embodiedscan_infos_train.json", made.infos)
    write_infos(folder / "embodiedscan_infos_val.json", made.infos)
    (folder / "embodiedscan_train_vg.json").write_text(json.dumps(utterances(made)))
    return made


def words(world: World, out: Path | str, *more: object, split: str = "train") -> list[object]:
    infos = world.data.parent / f"embodiedscan_infos_{split}.json"
    line = ["prepare", "embodiedscan", "--data", world.data, "--annotations", infos, "-o", out, "--workers", 1]
    return [*line, "--stride", 2, *more]


def described(world: World, out: Path | str, *more: object) -> list[object]:
    line = [word for word in words(world, out) if word not in ("--stride", 2)]
    return [*line, "--descriptions", world.data.parent / "embodiedscan_train_vg.json", "--frames", 5, *more]


def test_detection_records_and_what_comes_next(world: World, rft3d: Rft3d) -> None:
    shown = rft3d(*words(world, "out/train.jsonl"))
    assert shown.code == 0, shown.err
    records = read_records("out/train.jsonl", media_root=world.data)
    assert f"wrote    out/train.jsonl  ({len(records.records):,} records" in shown.out
    assert {record.meta.dataset for record in records.records} == {"3rscan", "matterport3d", "arkitscenes"}
    assert all(records.media(name).is_file() for record in records.records for name in record.video.frames)
    assert f"rft3d grpo --recipe det data.train=out/train.jsonl data.media_root={world.data}" in shown.err
    assert [f.name for f in sorted(Path("out").iterdir())] == ["train.card.json", "train.jsonl"]
    assert rft3d("inspect", "out/train.jsonl", "--media-root", world.data, "--stats").code == 0
    assert rft3d("rewards", "check", "out/train.jsonl").code == 0


def test_val_is_evaluated_with_its_own_answers(world: World, rft3d: Rft3d) -> None:
    shown = rft3d(*words(world, "val.jsonl", split="val"))
    assert f"rft3d evaluate detection --data val.jsonl --media-root {world.data}" in shown.err
    records = read_records("val.jsonl", media_root=world.data).records
    lines = [json.dumps({"id": record.id, "prediction": record.answer}) for record in records]
    Path("p.jsonl").write_text("\n".join(lines))
    scored = rft3d("evaluate", "detection", "--data", "val.jsonl", "--predictions", "p.jsonl", "--json").document
    assert (scored["micro"]["f1"], scored["missing"]) == (100, 0)


def test_grounding_records_and_what_comes_next(world: World, rft3d: Rft3d) -> None:
    shown = rft3d(*described(world, "out/refer.jsonl", "--datasets", "arkitscenes,3rscan", "--target", "first"))
    assert shown.code == 0, shown.err
    records = read_records("out/refer.jsonl", media_root=world.data).records
    assert {record.task for record in records} == {"grounding"}
    assert {record.meta.dataset for record in records} == {"3rscan", "arkitscenes"}
    assert "descriptions of other scans" in shown.out
    assert "rft3d grpo --recipe grounding data.train=out/refer.jsonl" in shown.err
    assert rft3d("rewards", "check", "out/refer.jsonl").code == 0


def test_one_json_document_and_a_dry_run_that_agrees(world: World, rft3d: Rft3d) -> None:
    for line in (words(world, "out/a.jsonl", "--json"), described(world, "out/b.jsonl", "--json", "--max-bad", 0.5)):
        dry = rft3d(*line, "--dry-run").document
        assert not Path("out/a.jsonl" if "out/a.jsonl" in line else "out/b.jsonl").exists()
        real = rft3d(*line).document
        assert {k: dry[k] for k in ("counts", "records", "rejects")} == {
            k: real[k] for k in ("counts", "records", "rejects")
        }
        assert real["command"] == "prepare embodiedscan"


def test_shares_join_to_the_whole_and_a_limit_takes_the_first(world: World, rft3d: Rft3d) -> None:
    assert rft3d(*words(world, "whole.jsonl", "--quiet")).out == "whole.jsonl\n"
    for number in (1, 2, 3):
        assert rft3d(*words(world, f"{number}.jsonl", "--shard", f"{number}/3")).code == 0
    assert rft3d("prepare", "merge", "1.jsonl", "2.jsonl", "3.jsonl", "-o", "joined.jsonl").code == 0
    assert Path("joined.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert rft3d(*words(world, "few.jsonl", "--limit", 1)).code == 0
    assert {record.meta.scene for record in read_records("few.jsonl").records} == {SAMPLES["3rscan"].split("/")[1]}


def test_the_view_options_reach_the_card_and_the_report(world: World, rft3d: Rft3d) -> None:
    shown = rft3d(*words(world, "a.jsonl", "--in-view", 0.8, "--min-area", 40, "--first-frame"))
    assert shown.code == 0, shown.err
    assert "boxes not in first frame" in shown.out
    options = json.loads(Path("a.card.json").read_text())["options"]
    assert (options["in_view"], options["min_area"], options["first_frame"]) == (0.8, 40, True)


def test_data_beside_the_records_are_named_from_there(world: World, rft3d: Rft3d) -> None:
    shutil.copytree(world.data, "data/raw")
    line = [word if word != world.data else "data/raw" for word in words(world, "data/train.jsonl")]
    assert rft3d(*line).code == 0
    name = read_records("data/train.jsonl").records[0].video.frames[0]
    assert name.startswith("raw/3rscan/")
    assert (Path("data") / name).is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param(["--datasets", "scannet"], "there is no scannet among", id="ScanNet's own command"),
        pytest.param(["--datasets", "hm3d"], "there is no hm3d among", id="an unknown data set"),
        pytest.param(["--in-view", 1.5], "less than or equal to 1", id="more than all of a box"),
        pytest.param(["--json", "--quiet"], "exclude each other", id="two forms"),
        pytest.param(["-o", "a.json"], "does not end in .jsonl", id="another ending"),
        pytest.param(["--shard", "3/2"], "no such share", id="a share too many"),
    ],
)
def test_wrong_options_are_usage_errors(more: list[object], said: str, world: World, rft3d: Rft3d) -> None:
    shown = rft3d(*words(world, "a.jsonl", *more))
    assert shown.code == 2
    assert said in shown.err
    assert not Path("a.jsonl").exists()


@pytest.mark.parametrize("more", [["--first-frame"], ["--stride", 2], ["--per-scene", 3]])
def test_options_of_clips_do_not_go_with_descriptions(more: list[object], world: World, rft3d: Rft3d) -> None:
    shown = rft3d(*described(world, "a.jsonl", *more))
    assert shown.code == 2
    assert "are for detection clips" in shown.err


def test_all_that_is_missing_is_said_at_once(rft3d: Rft3d) -> None:
    shown = rft3d("prepare", "embodiedscan", "--descriptions", "vg.json")
    assert shown.code == 3
    assert len(shown.errors) >= 3
    for name in ("no folder data", "no file embodiedscan_infos_train.pkl", "no file vg.json"):
        assert name in shown.err


@pytest.mark.parametrize("value", [0.5, 0.003])
def test_scannets_depth_share_is_refused_with_annotations(value: float, world: World, rft3d: Rft3d) -> None:
    infos = world.data.parent / "rooms/embodiedscan_infos_train.json"
    scans = world.data.parent / "rooms/scans"
    line = ["prepare", "scannet", "--scans", scans, "-o", "a.jsonl", "--workers", 1]
    shown = rft3d(*line, "--annotations", infos, "--visibility", value)
    assert shown.code == 2
    assert "--in-view" in shown.hint
    assert rft3d(*line, "--visibility", value, "--max-bad", 1, "--dry-run").code in (0, 3)
    assert rft3d(*line, "--annotations", infos, "--in-view", value, "--dry-run").code == 0
