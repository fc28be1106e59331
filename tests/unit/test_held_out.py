from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.errors import DataError, ProblemList
from rft3d_cli.examples import example_record
from rft3d_cli.prepare.heldout import PUBLISHED, REASON, HeldOut, read_scenes, synthetic
from rft3d_cli.prepare.pipeline import Part, Policy, Report, run
from rft3d_cli.prepare.summary import document, warnings
from rft3d_cli.records import Clip, Meta, Record, read_records, write_records

FOLDER = Path(__file__).parents[2] / "rft3d_cli" / "prepare" / "evaluated"

VSI, SCANNET, ARKIT = PUBLISHED
OURS = "mine.txt"


def published(name: str) -> list[str]:
    return (FOLDER / PUBLISHED[name]).read_text(encoding="utf-8").splitlines()


# ---- The lists


def test_the_lists_have_the_published_sizes() -> None:
    scannet = [scene for scene in published(VSI) if scene.startswith("scene")]
    others = [scene for scene in published(VSI) if not scene.startswith("scene")]
    assert (len(published(SCANNET)), len(scannet), len(others), len(published(ARKIT))) == (312, 88, 50, 549)
    for name in PUBLISHED:
        assert len({*published(name)}) == len(published(name))
    # VSI-Bench is made of val scenes.
    assert {*scannet} <= {*published(SCANNET)}
    assert {len(scene) for scene in others} == {10}
    assert {len(scene) for scene in published(ARKIT)} == {8}


def test_scannets_val_split_has_rooms_whole() -> None:
    scans: dict[str, list[int]] = {}
    for scene in published(SCANNET):
        room, _, scan = scene.partition("_")
        scans.setdefault(room, []).append(int(scan))
    assert len(scans) == 142
    assert all(sorted(numbers) == list(range(len(numbers))) for numbers in scans.values())


@pytest.mark.parametrize(
    ("scene", "split", "whose"),
    [
        pytest.param("scene0025_01", "train", VSI, id="VSI-Bench of ScanNet"),
        pytest.param("scene0025_00", "train", VSI, id="another scan of the room"),
        pytest.param("scene0011_00", "train", SCANNET, id="ScanNet val"),
        pytest.param("7b6477cb95", "train", VSI, id="VSI-Bench of ScanNet++"),
        pytest.param("41069025", "train", ARKIT, id="VSI-Bench of ARKitScenes"),
        pytest.param("41069021", "train", ARKIT, id="ARKitScenes val"),
        pytest.param("scene0025_01", "val", None, id="a val record"),
        pytest.param("scene0025_01", "test", None, id="a test record"),
        pytest.param("scene0025_01", None, None, id="no split"),
        pytest.param(None, "train", None, id="no scene"),
        pytest.param("", "train", None, id="an empty scene"),
        pytest.param("scene0000_00", "train", None, id="ScanNet train"),
        pytest.param("scene0706_00", "train", None, id="ScanNet train, a high number"),
        pytest.param("00777c41d4", "train", None, id="ScanNet++ train"),
        pytest.param("40753679", "train", None, id="ARKitScenes train"),
        pytest.param("kitchen_02", "train", None, id="a scene of one's own"),
        pytest.param("scene00251_00", "train", None, id="a longer number"),
        pytest.param("scannet/scene0025_01", "train", VSI, id="a prefix"),
        pytest.param("scene0025_01.mp4", "train", VSI, id="a suffix"),
        pytest.param("scannet/scene0025_01.mp4", "train", VSI, id="a video's path"),
        pytest.param("posed_images\\scene0025_01", "train", VSI, id="a path of Windows"),
        pytest.param("scannet_scene0025_01", "train", VSI, id="a prefix in the name"),
        pytest.param("scene0025", "train", VSI, id="a room"),
        pytest.param("scannetpp/7b6477cb95.mp4", "train", VSI, id="a ScanNet++ video"),
        pytest.param("arkitscenes/Validation/41069025", "train", ARKIT, id="EmbodiedScan's name"),
    ],
)
def test_evaluation_scenes_are_told_by_name(scene: str | None, split: str | None, whose: str | None) -> None:
    assert HeldOut().source(scene, split) == whose
    assert HeldOut(allow=True).source(scene, split) is None


@pytest.mark.parametrize(
    ("scene", "path", "whose"),
    [
        pytest.param(None, "arkitscenes/41069021.mp4", ARKIT, id="a video"),
        pytest.param(None, "scannetpp/7b6477cb95/dslr/DSC0001.JPG", VSI, id="a picture in folders"),
        pytest.param("", "scannet/scene0011_00/0.jpg", SCANNET, id="an empty scene"),
        pytest.param(None, "flats/flat3/frames/0001.jpg", OURS, id="a list of one's own"),
        pytest.param(None, "flats/flat30/frames/0001.jpg", None, id="another name"),
        pytest.param("matterport3d/flat3/region0", "1.jpg", OURS, id="a part of a place"),
        pytest.param("40753679", "a/41069021/0.png", None, id="the record's own name counts"),
    ],
)
def test_a_record_without_a_scene_is_told_by_its_media(
    scene: str | None, path: str, whose: str | None, tmp_path: Path
) -> None:
    mine = tmp_path / OURS
    mine.write_text("flat3\n")
    held_out = HeldOut((mine,))
    assert held_out.of(Meta(scene=scene, split="train"), media=["a.jpg", path]) == whose
    assert held_out.of(Meta(scene=scene, split="val"), media=[path]) is None
    assert HeldOut((mine,), allow=True).of(Meta(scene=scene, split="train"), media=[path]) is None


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(PUBLISHED)),
    number=st.integers(0, 10_000),
    before=st.sampled_from(["", "a/", "scans/b/", "/data/", "x_"]),
    after=st.sampled_from(["", ".mp4", "/", "/frames", ".mov"]),
)
def test_every_listed_scene_is_found_in_any_form(name: str, number: int, before: str, after: str) -> None:
    scenes = published(name)
    scene = scenes[number % len(scenes)]
    if not scene.startswith("scene"):
        before = before.replace("_", "/")
    assert HeldOut().source(f"{before}{scene}{after}", "train") is not None


# ---- Lists of one's own


def listed(tmp_path: Path, form: str, scenes: list[str]) -> Path:
    path = tmp_path / f"mine.{ {'json list': 'json', 'parquet': 'parquet', 'text': 'txt'}.get(form, 'jsonl') }"
    rows: list[Any] = []
    if form == "text":
        path.write_text("\n".join(["", *scenes, "", scenes[0]]) + "\n")
    elif form == "questions":
        rows = [{"id": i, "dataset": "d", "scene_name": s, "question": "?"} for i, s in enumerate(scenes)]
    elif form == "records":
        record = example_record("number")
        meta = [record.meta.model_copy(update={"scene": scene}) for scene in scenes]
        write_records(path, [record.model_copy(update={"id": str(i), "meta": m}) for i, m in enumerate(meta)])
    elif form == "json list":
        path.write_text(json.dumps([{"scene_id": scene, "object_id": "3"} for scene in scenes], indent=1))
    else:
        table = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(table.table({"id": [*range(len(scenes))], "scene_name": scenes}), path)
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("form", ["text", "questions", "records", "json list", "parquet"])
def test_lists_of_all_forms_are_read(form: str, tmp_path: Path) -> None:
    path = listed(tmp_path, form, ["flat1/kitchen", "scannet/scene0001_00", "hall.mp4"])
    assert read_scenes(path) == ["flat1/kitchen", "scannet/scene0001_00", "hall.mp4"]
    held_out = HeldOut((path,))
    known = ["flat1/kitchen", "flat1/kitchen.mp4", "clips/flat1/kitchen", "kitchen", "scene0001_02", "hall", "a/hall"]
    assert [held_out.source(scene, "train") for scene in known] == [path.name] * len(known)
    assert [held_out.source(scene, "train") for scene in ("flat2/kitchen", "hallway", "scene0002_00")] == [None] * 3
    assert held_out.source("kitchen", "val") is None
    # The published lists go on to count.
    assert held_out.source("scene0025_01", "train") == VSI


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "names no scenes", id="empty"),
        pytest.param("\n\n", "names no scenes", id="blank lines"),
        pytest.param('{"id": 1}\n', "names no scenes", id="rows without scenes"),
        pytest.param('{"id": 1\n', "line 1: not JSON", id="half a line"),
        pytest.param("[1, 2", "not JSON", id="half a list"),
        pytest.param('[1, "a"]', "entry 1 is not an object", id="a list of something else"),
    ],
)
def test_a_file_that_names_no_scenes_is_an_error(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        HeldOut((path,)).check()


def test_a_table_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "3dod_train_val_splits.csv"
    path.write_text("video_id,visit_id,fold\n41069021,420673,Validation\n")
    with pytest.raises(DataError, match="is a table"):
        read_scenes(path)


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        HeldOut((tmp_path / "none.txt",)).check()


# ---- In the pipeline


def record(name: str, scene: str, split: str = "train", dataset: str = "scannet") -> Record:
    one = example_record("choice")
    meta = one.meta.model_copy(update={"scene": scene, "split": split, "dataset": dataset, "question_type": "near"})
    return one.model_copy(update={"id": name, "meta": meta})


def part_of(scene: str) -> Part:
    part = Part(scene, records=[record(f"{scene}/1", scene), record(f"{scene}/2", scene)])
    part.counts.update(clips=2)
    part.labels.update(chair=3)
    part.scan = {"frames": 4}
    return part


def mixed(scenes: tuple[tuple[str, str], ...]) -> Part:
    part = Part("rows.json", total=len(scenes))
    part.records = [record(str(number), *pair) for number, pair in enumerate(scenes)]
    part.counts.update(choice=len(scenes), videos=1)
    part.labels.update({"near": len(scenes)})
    return part


def refused_work(scene: str) -> Part:
    raise AssertionError(f"{scene} was worked on")


def write(tmp_path: Path, jobs: list[Any], work: Any, name: Any, **more: Any) -> Report:
    fields: dict[str, Any] = {
        "out": tmp_path / "out.jsonl",
        "media_root": tmp_path,
        "command": "prepare test",
        "options": {"split": "train"},
        "sources": [],
        "policy": Policy(),
    }
    return run(jobs, work, name, **(fields | more))


def test_evaluation_scenes_are_left_out_counted_and_named(tmp_path: Path) -> None:
    report = write(tmp_path, ["scene0000_00", "scene0011_00", "scene0025_01"], part_of, str)
    assert [one.meta.scene for one in read_records(report.out).records] == ["scene0000_00"] * 2
    assert [(row["what"], row["scene"], row["reason"]) for row in report.rejects] == [
        ("scene", "scene0011_00", REASON + SCANNET),
        ("scene", "scene0025_01", REASON + VSI),
    ]
    assert {key: report.counts[key] for key in ("scenes", "bad", "clips", "records")} == {
        "scenes": 3,
        "bad": 0,
        "clips": 2,
        "records": 2,
    }
    assert report.counts["labels"] == {"chair": 3}
    (said,) = warnings(report).items()
    assert "2 scenes" in said[0]
    assert "--allow-evaluation-scenes" in said[0]
    assert said[1] == ["scene0011_00", "scene0025_01"]
    assert document(report, "x")["rejects"]["scene"] == {REASON + SCANNET: 1, REASON + VSI: 1}
    card = json.loads(report.card.read_text())
    assert card["rejects"] == {REASON + SCANNET: 1, REASON + VSI: 1}
    assert [scan["scene"] for scan in card["counts"]["scans"]] == ["scene0000_00"]


def test_a_scene_that_may_not_be_read_is_a_bad_one(tmp_path: Path) -> None:
    def work(scene: str) -> Part:
        if scene == "locked":
            raise PermissionError(13, "Permission denied", "scans/locked.sens")
        return part_of(scene)

    report = write(tmp_path, ["locked", "scene0000_00"], work, str, policy=Policy(max_bad=0.5))
    assert (report.records, report.counts["bad"]) == (2, 1)
    assert report.rejects[0]["detail"] == "scans/locked.sens cannot be read: Permission denied"


def test_an_evaluation_scene_is_not_even_worked_on(tmp_path: Path) -> None:
    with pytest.raises(ProblemList):
        write(tmp_path, ["scene0011_00"], refused_work, str)


def test_records_of_mixed_parts_leave_with_their_numbers(tmp_path: Path) -> None:
    scenes = (("scene0000_00", "train"), ("scene0011_00", "train"), ("scene0011_00", "val"), ("41069021", "train"))
    report = write(tmp_path, [scenes], mixed, lambda job: "rows.json", what="rows", kinds="types")
    assert [one.id for one in read_records(report.out).records] == ["0", "2"]
    assert [(row["what"], row["scene"], row["id"], row["reason"]) for row in report.rejects] == [
        ("record", "scene0011_00", "1", REASON + SCANNET),
        ("record", "41069021", "3", REASON + ARKIT),
    ]
    assert (report.counts["choice"], report.counts["labels"], report.counts["videos"]) == (2, {"near": 2}, 1)


def test_records_without_a_scene_leave_by_their_media(tmp_path: Path) -> None:
    def nameless(name: str, path: str) -> Record:
        one = record(name, "")
        return one.model_copy(update={"video": Clip(path=path), "meta": Meta(split="train")})

    videos = ("arkitscenes/41069021.mp4", "arkitscenes/40753679.mp4")
    part = Part("rows.json", total=2, records=[nameless(*pair) for pair in zip("01", videos, strict=True)])
    report = write(tmp_path, [part], lambda part: part, lambda part: part.name, what="rows")
    assert [one.id for one in read_records(report.out).records] == ["1"]
    assert [row["reason"] for row in report.rejects] == [REASON + ARKIT]


def test_the_same_with_workers(tmp_path: Path) -> None:
    jobs = ["scene0000_00", "scene0011_00", "scene0001_00", "scene0025_01", "scene0002_00", "scene0004_00"]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write(tmp_path, jobs, part_of, str, out=one)
    report = write(tmp_path, jobs, part_of, str, out=two, policy=Policy(workers=2))
    assert one.read_bytes() == two.read_bytes()
    assert len(report.rejects) == 2


def test_nothing_left_is_an_error_that_says_what_allows_it(tmp_path: Path) -> None:
    with pytest.raises(ProblemList) as error:
        write(tmp_path, ["scene0011_00", "scene0025_01"], part_of, str)
    (problem,) = error.value.problems
    assert problem.exit_code == 3
    assert f"1 × {REASON}{VSI}" in problem.message
    assert "--allow-evaluation-scenes" in (problem.hint or "")
    assert not (tmp_path / "out.jsonl").exists()
    report = write(tmp_path, ["scene0011_00"], part_of, str, policy=Policy(held_out=HeldOut(allow=True)))
    assert (report.records, report.rejects) == (2, [])
    assert json.loads(report.card.read_text())["options"]["allow_evaluation_scenes"] is True


def test_a_val_split_keeps_them(tmp_path: Path) -> None:
    scenes = (("scene0011_00", "val"), ("41069021", "test"))
    report = write(tmp_path, [scenes], mixed, lambda job: "rows.json", what="rows", options={"split": "val"})
    assert (report.records, report.rejects) == (2, [])


def test_lists_of_ones_own_are_in_the_card(tmp_path: Path) -> None:
    path = tmp_path / OURS
    path.write_text("scene0001_00\n")
    policy = Policy(held_out=HeldOut((path,)))
    report = write(tmp_path, ["scene0000_00", "scene0001_00"], part_of, str, policy=policy)
    assert [row["reason"] for row in report.rejects] == [REASON + OURS]
    card = json.loads(report.card.read_text())
    assert card["options"]["held_out"] == [str(path)]
    assert [source["file"] for source in card["sources"]] == [OURS]


def test_synthetic_rooms_only_look_like_scannet(tmp_path: Path) -> None:
    rooms = tmp_path / "rooms"
    (rooms / "scans").mkdir(parents=True)
    (rooms / "rooms.card.json").write_text("{}")
    assert synthetic([rooms / "scans" / "scene0011_00"])
    assert synthetic(["x", rooms / "train.json"])
    assert not synthetic([tmp_path, "train", "\0"])
    options = {"split": "train", "scans": str(rooms / "scans")}
    assert write(tmp_path, ["scene0011_00"], part_of, str, options=options).records == 2
    # But one's own list is about them.
    path = tmp_path / OURS
    path.write_text("scene0011_00\n")
    policy = Policy(held_out=HeldOut((path,)))
    report = write(tmp_path, ["scene0011_00", "scene0000_00"], part_of, str, options=options, policy=policy)
    assert [row["reason"] for row in report.rejects] == [REASON + OURS]
    assert HeldOut().of(record("1", "scene0011_00", dataset="rooms").meta) is None
    assert HeldOut().of(record("1", "scene0011_00").meta) == SCANNET
