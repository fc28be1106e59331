from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_rooms import SMALL, build_rooms, infos, raw_frames, write_infos

from rft3d_cli.answers import read_grounding
from rft3d_cli.errors import DataError, ProblemList
from rft3d_cli.geometry.boxes import box_corners, points_in_box, rotation_from_angles
from rft3d_cli.geometry.camera import unproject_depth
from rft3d_cli.geometry.iou import paired_iou
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Report, Store
from rft3d_cli.prepare.rooms.build import draw_scene
from rft3d_cli.prepare.rooms.render import FIRST_ITEM
from rft3d_cli.prepare.scanrefer import (
    Description,
    GroundingSpec,
    benchmark_subsets,
    prepare_grounding,
    projected_area,
    read_descriptions,
)
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records

FRAMES = 6


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(SMALL, tmp_path_factory.mktemp("scanrefer") / "rooms")


def run(rooms: Path, out: Path, spec: GroundingSpec | None = None, **options: Any) -> Report:
    fields: dict[str, Any] = {
        "scans": rooms / "scans",
        "descriptions": rooms / "ScanRefer_filtered_train.json",
        "annotations": rooms / "embodiedscan_infos_train.json",
        "labels": None,
        "places": Places(rooms / "scans", None, Store(out.parent / "media", "media")),
        "split": Split("train"),
        "out": out,
        "media_root": out.parent,
        "spec": spec or GroundingSpec(frames=FRAMES),
        "policy": Policy(),
        **options,
    }
    return prepare_grounding(**fields)


@pytest.fixture(scope="module", params=["aabb", "instance"])
def prepared(request: pytest.FixtureRequest, rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("out") / "ref.jsonl"
    run(rooms, out, GroundingSpec(frames=FRAMES, ground_truth=request.param))
    records = read_records(out).records
    assert len(records) > 8
    return records


def rows(rooms: Path) -> dict[str, dict]:
    found = json.loads((rooms / "ScanRefer_filtered_train.json").read_text())
    return {f"{row['scene_id']}/ref/{row['object_id']}/{row['ann_id']}": row for row in found}


def entries(rooms: Path) -> dict[str, dict]:
    return {entry["sample_idx"].split("/")[1]: entry for entry in infos(rooms)["data_list"]}


def matrix(box: Any) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation_from_angles(box[6:]), box[:3]
    return out


def test_records_hold_what_the_files_say(rooms: Path, prepared: list[Record]) -> None:
    described, annotated = rows(rooms), entries(rooms)
    for record in prepared:
        row, entry = described[record.id], annotated[record.meta.scene]
        numbers = [int(Path(frame).stem) for frame in record.video.frames]
        assert numbers == np.linspace(0, SMALL.frames - 1, FRAMES).astype(int).tolist()
        assert record.video.times == pytest.approx([n / SMALL.fps for n in numbers])
        assert record.camera.cam_to_world == [entry["images"][n]["cam2global"] for n in numbers]
        tags = "".join(f"Frame-{i}: <image>" for i in range(FRAMES))
        assert record.prompt == (
            f"{tags}\nLocalize the first clear frame in the video showing the object described in the text.\n"
            f"Text: {row['description'].capitalize()}\n"
            'Output a JSON dictionary with the frame index in "frame" and its 3D bounding box in "bbox_3d" in the '
            "frame's coordinates.\n"
        )
        extra = record.meta.model_extra
        assert (extra["object_id"], extra["ann_id"]) == (int(row["object_id"]), row["ann_id"])
        assert (extra["object_name"], extra["description"]) == (row["object_name"], row["description"])
        assert (record.meta.dataset, record.meta.sampler) == ("scanrefer", "linspace-floor")


def test_the_box_in_the_world_and_in_the_frame_are_the_same_box(prepared: list[Record]) -> None:
    for record in prepared:
        pose = np.array(record.camera.cam_to_world[record.target.frame])
        back = np.array(record.camera.axis_align) @ pose @ matrix(record.target.bbox_3d)
        np.testing.assert_allclose(back, matrix(record.target.bbox_world), atol=5e-6)
        assert record.target.bbox_3d[3:6] == record.target.bbox_world[3:6]
        read = read_grounding(record.answer)
        assert read.frame == record.target.frame
        np.testing.assert_allclose(read.box, record.target.bbox_3d, atol=0.0051)


def test_depth_pixels_of_the_object_lie_in_its_box(rooms: Path, prepared: list[Record]) -> None:
    scenes = {f"scene{i:04d}_00": draw_scene(SMALL, i) for i in range(2)}
    pixels = 0
    for record in prepared:
        scene, _, images = scenes[record.meta.scene]
        number = int(Path(record.video.frames[record.target.frame]).stem)
        depth = raw_frames(rooms / "scans" / scene.name / f"{scene.name}.sens")[number][2]
        mine = images[number].instance == FIRST_ITEM + record.meta.model_extra["object_id"]
        points = unproject_depth(depth, record.camera.intrinsic)[mine]
        assert points_in_box(points, record.target.bbox_3d, margin=0.003).all(), record.id
        assert len(points) >= 20
        pixels += len(points)
    assert pixels > 1000


def test_ground_truth_is_the_oriented_box_or_the_extent(rooms: Path, tmp_path: Path) -> None:
    worlds = {}
    for kind in ("aabb", "instance"):
        run(rooms, tmp_path / f"{kind}.jsonl", GroundingSpec(frames=FRAMES, ground_truth=kind))
        worlds[kind] = {r.id: r.target.bbox_world for r in read_records(tmp_path / f"{kind}.jsonl").records}
    annotated, described = entries(rooms), rows(rooms)
    for key, box in worlds["instance"].items():
        instance = annotated[key.split("/")[0]]["instances"][int(described[key]["object_id"])]
        assert list(box) == instance["bbox_3d"]
        extent = worlds["aabb"][key]
        assert extent[6:] == (0, 0, 0)
        corners = box_corners(box)
        # The mesh fills the box, but a round piece does not reach its corners.
        assert (np.array(extent[3:6]) <= np.ptp(corners, axis=0) + 1e-6).all()
        assert (np.array(extent[3:6]) >= 0.6 * np.ptp(corners, axis=0)).all()
    assert paired_iou(list(worlds["aabb"].values()), list(worlds["instance"].values())).min() < 0.8


def test_the_target_frame_shows_the_largest_box(rooms: Path, prepared: list[Record]) -> None:
    annotated = entries(rooms)
    several = 0
    for record in prepared:
        entry = annotated[record.meta.scene]
        numbers = [int(Path(frame).stem) for frame in record.video.frames]
        areas = {}
        for i, n in enumerate(numbers):
            if record.meta.model_extra["object_id"] not in entry["images"][n]["visible_instance_ids"]:
                continue
            view = np.linalg.inv(np.array(entry["axis_align_matrix"]) @ np.array(entry["images"][n]["cam2global"]))
            areas[i] = pixels_of_box(np.array(record.target.bbox_world), view, np.array(record.camera.intrinsic))
        # Counted on a grid: the named frame is the largest, or as good as.
        assert areas[record.target.frame] >= 0.97 * max(areas.values()) > 0
        several += len(areas) > 1
    assert several > 3


def pixels_of_box(box: np.ndarray, view: np.ndarray, k: np.ndarray) -> float:
    """Pixels of the picture whose line of sight meets the box, by slabs, on a fine grid; 0 from inside the box."""
    width, height = 2 * k[0, 2], 2 * k[1, 2]
    u, v = np.meshgrid(np.arange(0.05, width, 0.1) - 0.5, np.arange(0.05, height, 0.1) - 0.5)
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], axis=-1)
    a, b, c = box[6:]
    turn = Rotation.from_euler("ZXY", [a, b, c]).as_matrix()
    away = np.linalg.inv(view)
    origin = turn.T @ (away[:3, 3] - box[:3])
    if (np.abs(origin) <= box[3:6] / 2).all():
        return 0.0
    rays = rays @ away[:3, :3].T @ turn
    with np.errstate(divide="ignore"):
        ends = np.stack([(side * box[3:6] / 2 - origin) / rays for side in (-1, 1)])
    enter, leave = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
    return float(((enter <= leave) & (leave > 0.05)).sum() / 100)


def test_the_first_frame_that_shows_the_object_can_be_named_instead(rooms: Path, tmp_path: Path) -> None:
    run(rooms, tmp_path / "ref.jsonl", GroundingSpec(frames=FRAMES, target="first"))
    annotated = entries(rooms)
    for record in read_records(tmp_path / "ref.jsonl").records:
        images = annotated[record.meta.scene]["images"]
        numbers = [int(Path(frame).stem) for frame in record.video.frames]
        seen = [record.meta.model_extra["object_id"] in images[n]["visible_instance_ids"] for n in numbers]
        assert seen.index(True) == record.target.frame


@pytest.mark.parametrize(
    ("box", "area"),
    [
        pytest.param([0, 0, 3, 1, 1, 2, 0, 0, 0], 2500, id="in front: the near face covers the far one"),
        pytest.param([0.5, 0, 3, 1, 1, 2, 0, 0, 0], 2475, id="cut by the right border"),
        pytest.param([0, 0, 0, 1, 1, 1, 0, 0, 0], 0, id="around the camera"),
        pytest.param([0, 0, -3, 1, 1, 1, 0, 0, 0], 0, id="behind"),
        pytest.param([2, 0, 0.2, 1, 1, 1, 0, 0, 0], 0, id="beside, reaching behind"),
        pytest.param([0, 0, 0.6, 9, 9, 1, 0, 0, 0], 10_000, id="filling the picture"),
        pytest.param([0, 0, 2, 1, 0, 0, 0, 0, 0], 0, id="a line"),
    ],
)
def test_projected_area(box: list[float], area: float) -> None:
    camera = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]])
    assert projected_area(np.array(box, float), camera) == pytest.approx(area)


def test_more_frames_than_the_scan_has_keep_them_all(rooms: Path, tmp_path: Path) -> None:
    run(rooms, tmp_path / "ref.jsonl", GroundingSpec(frames=64))
    for record in read_records(tmp_path / "ref.jsonl").records:
        assert [int(Path(frame).stem) for frame in record.video.frames] == list(range(SMALL.frames))


def test_the_users_files_stay_as_they_are(rooms: Path, tmp_path: Path) -> None:
    before = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in rooms.rglob("*") if f.is_file()}
    run(rooms, tmp_path / "ref.jsonl")
    assert {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in rooms.rglob("*") if f.is_file()} == before


# ---- Matching as on ScanNet, where object ids are not instances' numbers


def scramble(rooms: Path, tmp_path: Path) -> Path:
    """Annotations whose instances come in another order, with other class names, as EmbodiedScan's do."""
    data = infos(rooms)
    data["metainfo"]["categories"] = {f"{name} of some kind": n for name, n in data["metainfo"]["categories"].items()}
    for entry in data["data_list"]:
        order = list(range(len(entry["instances"])))[::-1]
        entry["instances"] = [entry["instances"][i] for i in order]
        for frame in entry["images"]:
            frame["visible_instance_ids"] = [order.index(i) for i in frame["visible_instance_ids"]]
    return write_infos(tmp_path / "infos.json", data)


def test_objects_are_matched_by_their_boxes_where_numbers_differ(rooms: Path, tmp_path: Path) -> None:
    spec = GroundingSpec(frames=FRAMES, ground_truth="instance")
    run(rooms, tmp_path / "plain.jsonl", spec)
    run(rooms, tmp_path / "ref.jsonl", spec, annotations=scramble(rooms, tmp_path))
    plain, records = (read_records(tmp_path / name).records for name in ("plain.jsonl", "ref.jsonl"))
    assert [(r.id, r.target) for r in records] == [(r.id, r.target) for r in plain]


def test_an_object_without_a_matching_instance_is_counted(rooms: Path, tmp_path: Path) -> None:
    path = scramble(rooms, tmp_path)
    data = json.loads(path.read_text())
    instance = data["data_list"][0]["instances"][-1]
    # Shifted along its first axis by 0.4 of its length, a box keeps an IoU of 0.6 / 1.4 with itself.
    box = instance["bbox_3d"]
    turn = rotation_from_angles(box[6:])
    box[:3] = (np.array(box[:3]) + turn @ [0.4 * box[3], 0, 0]).tolist()
    report = run(rooms, tmp_path / "ref.jsonl", annotations=write_infos(path, data))
    moved = [key for key, row in rows(rooms).items() if key.startswith("scene0000_00/ref/0/")]
    lost = [row["id"] for row in report.rejects if row["reason"] == "no annotated instance matches the object"]
    assert lost == moved != []


# ---- What is left out


def test_objects_that_no_sampled_frame_shows_are_counted(rooms: Path, tmp_path: Path) -> None:
    data = infos(rooms)
    for entry in data["data_list"]:
        for frame in entry["images"]:
            frame["visible_instance_ids"] = [i for i in frame["visible_instance_ids"] if i != 0]
    report = run(rooms, tmp_path / "ref.jsonl", annotations=write_infos(tmp_path / "infos.json", data))
    hidden = [key for key, row in rows(rooms).items() if row["object_id"] == "0"]
    lines = [json.loads(line) for line in report.rejects_file.read_text().splitlines()]
    assert [row["id"] for row in lines] == hidden
    assert {row["reason"] for row in lines} == {"no sampled frame shows the object"}
    assert not {r.id for r in read_records(report.out).records} & set(hidden)


def described(tmp_path: Path, rooms: Path, *more: Any) -> Path:
    path = tmp_path / "descriptions.json"
    path.write_text(json.dumps([*rows(rooms).values(), *more]))
    return path


def test_wrong_entries_are_counted(rooms: Path, tmp_path: Path) -> None:
    first = next(iter(rows(rooms).values()))
    wrong = [
        first,
        {**first, "ann_id": "7", "object_id": "x"},
        {**first, "ann_id": "8", "description": 3},
        {**first, "ann_id": "9", "object_id": "999"},
        "text",
        None,
    ]
    report = run(rooms, tmp_path / "ref.jsonl", descriptions=described(tmp_path, rooms, *wrong))
    found = [(row["reason"], row.get("entry", row.get("id"))) for row in report.rejects]
    n = len(rows(rooms))
    lacks = "lacks scene_id, object_id, object_name, ann_id or description"
    assert sorted(found) == sorted(
        [
            ("object not in the aggregation", f"{first['scene_id']}/ref/999/9"),
            ("wrong entry", f"entry {n + 1} repeats {first['scene_id']}/ref/{first['object_id']}/{first['ann_id']}"),
            *(("wrong entry", f"entry {n + i} {lacks}") for i in (2, 3, 5, 6)),
        ]
    )


def test_scenes_without_annotations_are_quarantined(rooms: Path, tmp_path: Path) -> None:
    data = infos(rooms)
    del data["data_list"][0]
    path = write_infos(tmp_path / "infos.json", data)
    with pytest.raises(ProblemList, match="1 of 2 scenes cannot be used"):
        run(rooms, tmp_path / "ref.jsonl", annotations=path)
    report = run(rooms, tmp_path / "ref.jsonl", annotations=path, policy=Policy(max_bad=0.5))
    assert [(row["scene"], row["reason"]) for row in report.rejects] == [("scene0000_00", "no annotations")]


def test_annotations_of_other_scenes_say_which_file_is_needed(rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(ProblemList, match="2 × no annotations") as error:
        run(rooms, tmp_path / "ref.jsonl", annotations=rooms / "embodiedscan_infos_val.json")
    assert "embodiedscan_infos_test.pkl" in error.value.hint


def test_a_scan_without_a_pose_is_quarantined(rooms: Path, tmp_path: Path) -> None:
    data = infos(rooms)
    for frame in data["data_list"][0]["images"]:
        frame["cam2global"] = [[-math.inf] * 4] * 4
    path = write_infos(tmp_path / "infos.json", data)
    report = run(rooms, tmp_path / "ref.jsonl", annotations=path, policy=Policy(max_bad=0.5))
    assert "no tracked frame" in {row["reason"] for row in report.rejects}


@pytest.mark.parametrize("content", ["{}", "", "[1, 2]", "3"])
def test_other_files_are_no_descriptions(rooms: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "descriptions.json"
    path.write_text(content)
    with pytest.raises(DataError):
        run(rooms, tmp_path / "ref.jsonl", descriptions=path)


# ---- Unique and multiple


def test_subsets_count_the_objects_of_a_name_in_the_scan(rooms: Path, prepared: list[Record]) -> None:
    seen = set()
    for record in prepared:
        path = rooms / "scans" / record.meta.scene / f"{record.meta.scene}.aggregation.json"
        labels = [group["label"] for group in json.loads(path.read_text())["segGroups"]]
        same = labels.count(record.meta.model_extra["object_name"])
        assert record.meta.subset == ("unique" if same == 1 else "multiple")
        seen.add(record.meta.subset)
    assert seen == {"unique", "multiple"}


def ref(object_id: int, name: str, ann: int = 0, scene: str = "scene0000_00") -> Description:
    return Description(scene, object_id, name, str(ann), "text")


TABLE = {"chair": 5, "office chair": 5, "table": 7, "plant": 40, "cup": 40, "lamp": 35, "desk": 14}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([ref(0, "chair"), ref(1, "table")], "uu", id="one of each"),
        pytest.param([ref(0, "chair"), ref(1, "office_chair")], "mm", id="two names of one class"),
        pytest.param([ref(0, "chair"), ref(0, "chair", 1)], "u", id="one object described twice"),
        pytest.param([ref(0, "plant"), ref(1, "lamp")], "mm", id="two kinds of other furniture"),
        pytest.param([ref(0, "plant"), ref(1, "nothing known")], "mm", id="an unknown name is other furniture"),
        pytest.param([ref(0, "chair"), ref(0, "chair", 0, "scene0001_00")], "uu", id="two scenes"),
    ],
)
def test_scanrefers_own_subsets(found: list[Description], expected: str) -> None:
    assert "".join(subset[0] for subset in benchmark_subsets(found, TABLE).values()) == expected


def test_a_label_table_makes_the_subsets_scanrefers_own(rooms: Path, tmp_path: Path) -> None:
    # Every class of rooms in one class of the table: an object is unique only where it alone is described.
    head = "id\traw_category\tcategory\tcount\tnyu40id\n"
    names = infos(rooms)["metainfo"]["categories"]
    table = tmp_path / "labels.tsv"
    table.write_text(head + "".join(f"{i}\t{name}\t{name}\t1\t5\n" for name, i in names.items()))
    report = run(rooms, tmp_path / "ref.jsonl", labels=table)
    assert {record.meta.subset for record in read_records(report.out).records} == {"multiple"}
    card = json.loads(report.card.read_text())
    assert card["options"]["subset"] == "described objects by benchmark class"
    assert "labels.tsv" in [source["file"] for source in card["sources"]]


def test_ids_may_be_numbers_or_text(tmp_path: Path) -> None:
    row = {"scene_id": "s", "object_id": 3, "object_name": "a_b", "ann_id": 0, "description": "d"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row, {**row, "object_id": "4", "ann_id": "1"}]))
    found, wrong = read_descriptions(path)
    assert ([entry.id for entry in found], wrong) == (["s/ref/3/0", "s/ref/4/1"], [])
