from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distance_reference import solved_distance as gap
from PIL import Image
from posed_rooms import change, load, matrix, save, write_posed
from small_rooms import build_rooms

from rft3d_cli.errors import DataError, ProblemList
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Report, Store
from rft3d_cli.prepare.questions.recompute import recompute
from rft3d_cli.prepare.rooms.build import RoomsSpec
from rft3d_cli.prepare.spatialqa import MAKERS, QuestionSpec, prepare_questions
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records

ROOMS = RoomsSpec(scenes=4, seed=10, objects=(9, 12), seconds=6, fps=4, size=(96, 72), antialias=1, val=0, clips=False)
SPEC = QuestionSpec(per_type=20, frames=12)
OF_SIGHT = {"object_counting", "obj_appearance_order"}
OF_FLOOR = {kind for kind in MAKERS if "direction" in kind} | {"route_planning", "room_size_estimation"}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(ROOMS, tmp_path_factory.mktemp("rooms") / "rooms")


@pytest.fixture
def bare(rooms: Path, tmp_path: Path) -> Path:
    return write_posed(rooms, tmp_path / "flats")


@pytest.fixture
def deep(rooms: Path, tmp_path: Path) -> Path:
    return write_posed(rooms, tmp_path / "flats", depth=True)


def run(flats: Path, spec: QuestionSpec = SPEC, **options: Any) -> Report:
    fields: dict[str, Any] = {
        "scans": None,
        "annotations": None,
        "videos": None,
        "places": Places(None, None, Store(flats, write=False)),
        "posed": flats,
        "split": Split("train"),
        "out": flats.parent / "qa.jsonl",
        "media_root": flats,
        "spec": spec,
        "policy": Policy(),
        **options,
    }
    return prepare_questions(**fields)


def asked(report: Report) -> dict[str, list[Record]]:
    out: dict[str, list[Record]] = {}
    for record in read_records(report.out).records:
        out.setdefault(record.meta.question_type or "", []).append(record)
    return out


def told(record: Record) -> list[dict[str, Any]]:
    return (record.meta.model_extra or {})["objects"]


def refused(report: Report) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {}
    for row in report.rejects:
        if row["what"] == "question":
            out.setdefault(row["reason"], set()).add(row["question_type"])
    return out


def with_floors(flats: Path) -> Path:
    """A slab of 4 × 3 m under every room, in the world of the poses."""
    for folder in flats.iterdir():
        align = np.array(load(folder, "cameras")["axis_align"])
        back = np.linalg.inv(align)
        at = back @ [0.5, 0.5, -0.05, 1]
        slab = {"label": "floor", "center": at[:3].tolist(), "size": [4, 3, 0.1], "rotation": back[:3, :3].tolist()}
        save(folder, "boxes", [*load(folder, "boxes"), {**slab, "id": "slab"}])
    return flats


def test_all_kinds_are_asked_and_computed_again_from_what_records_say(deep: Path) -> None:
    report = run(with_floors(deep))
    found = asked(report)
    assert set(found) == set(MAKERS)
    for record in (record for records in found.values() for record in records):
        assert recompute(record) == record.answer, record.id


def test_answers_are_those_of_the_boxes_as_they_were_written(deep: Path) -> None:
    found = asked(run(with_floors(deep)))
    boxes = {}
    for folder in deep.iterdir():
        align = np.array(load(folder, "cameras")["axis_align"])
        entries = [entry for entry in load(folder, "boxes") if "bbox_3d" in entry]
        for number, entry in enumerate(entries):
            boxes[folder.name, number] = (entry["label"], align @ matrix(entry["bbox_3d"]), entry["bbox_3d"][3:6])
    for record in found["object_abs_distance"] + found["object_rel_distance"]:
        for thing in told(record):
            label, pose, size = boxes[record.meta.scene, thing["id"]]
            assert thing["label"] == label
            assert np.allclose(matrix(thing["box"]), pose, atol=1e-6)
            assert np.allclose(thing["box"][3:6], size)
    for record in found["object_abs_distance"]:
        a, b = (np.array(thing["box"]) for thing in told(record))
        assert abs(gap(a, b) - record.target.value) <= 0.05 + 1e-6
    for record in found["object_counting"]:
        named = [label for (scene, _), (label, *_) in boxes.items() if scene == record.meta.scene]
        assert record.target.value == named.count(told(record)[0]["label"])
    assert {record.target.value for record in found["room_size_estimation"]} == {12.0}


def test_an_order_is_that_of_the_depth_images(deep: Path) -> None:
    spec = QuestionSpec(("obj_appearance_order",), per_type=20, frames=12)
    records = asked(run(deep, spec))["obj_appearance_order"]
    for record in records:
        cameras = load(deep / record.meta.scene, "cameras")
        align, k = np.array(cameras["axis_align"]), np.array(cameras["intrinsic"])
        first = {}
        for thing in told(record):
            for index, name in enumerate(record.video.frames):
                name = Path(name)
                depth = np.array(Image.open(deep / record.meta.scene / "depth" / f"{name.stem}.png")) / 1000
                v, u = np.nonzero(depth)
                z = depth[v, u]
                rays = np.linalg.inv(k) @ np.stack([u * z, v * z, z])
                pose = align @ np.array(cameras["frames"][name.name]["cam_to_world"])
                world = pose[:3, :3] @ rays + pose[:3, 3:]
                box = matrix(thing["box"])
                inside = np.abs(box[:3, :3].T @ (world - box[:3, 3:])) <= np.array(thing["box"][3:6])[:, None] / 2
                if inside.all(axis=0).sum() >= 0.003 * depth.size:
                    first[thing["label"]] = index
                    break
        (option,) = (text[3:] for text in record.target.options if text[0] == record.answer)
        order = option.split(", ")
        assert order == sorted(first, key=first.get)
    assert records


def test_frames_are_evenly_spaced_and_lie_where_they_lay(deep: Path) -> None:
    before = sorted(deep.rglob("*"))
    report = run(deep)
    assert sorted(deep.rglob("*")) == before
    for record in read_records(report.out).records:
        numbers = [int(Path(name).stem) for name in record.video.frames]
        assert numbers == np.linspace(0, ROOMS.frames - 1, 12).astype(int).tolist()
        assert record.video.times == [number / 4 for number in numbers]
        assert all((deep / name).is_file() for name in record.video.frames)


def test_without_depth_nothing_is_asked_about_what_frames_show(bare: Path) -> None:
    report = run(with_floors(bare))
    assert set(asked(report)) == set(MAKERS) - OF_SIGHT
    assert refused(report)["without depth images nobody knows what a frame shows"] == OF_SIGHT


@pytest.mark.parametrize(
    "turn",
    [
        pytest.param([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], id="y points up"),
        pytest.param([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], id="z points down"),
    ],
)
def test_where_z_is_not_up_the_floor_is_not_read(deep: Path, turn: list[list[float]]) -> None:
    def lay(cameras: dict[str, Any]) -> None:
        cameras["axis_align"] = (np.linalg.inv(turn) @ cameras["axis_align"]).tolist()

    report = run(change(with_floors(deep), "cameras", lay))
    assert set(asked(report)) == set(MAKERS) - OF_FLOOR
    assert refused(report)["the scan's z does not point up"] == OF_FLOOR
    assert any("z does not point up" in warning for warning in report.warnings)


def test_without_a_floor_box_the_room_s_size_is_not_asked(deep: Path) -> None:
    report = run(deep)
    assert "room_size_estimation" not in asked(report)
    assert refused(report)["no floor is known"] == {"room_size_estimation"}


def test_a_wrong_scan_is_quarantined_with_what_prepare_posed_says(deep: Path) -> None:
    folder = sorted(deep.iterdir())[1]
    save(folder, "boxes", [{"label": "chair", "bbox_3d": [0, 0, 0, 1, 0, 1, 0, 0, 0]}])
    report = run(deep, policy=Policy(max_bad=0.3))
    assert {row["reason"] for row in report.rejects if row["what"] == "scene"} == {"box without volume"}
    assert folder.name not in {record.meta.scene for record in read_records(report.out).records}


def test_more_bad_scans_than_accepted_write_nothing(deep: Path) -> None:
    for folder in deep.iterdir():
        (folder / "cameras.json").write_text('{"frames"')
    with pytest.raises(ProblemList, match="nothing to write from 4 scenes: 4 × wrong cameras"):
        run(deep)
    assert not (deep.parent / "qa.jsonl").exists()


def test_a_folder_without_scans_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flats").mkdir()
    with pytest.raises(DataError, match="holds no scans"):
        run(tmp_path / "flats")


def test_any_number_of_workers_gives_the_same_bytes(deep: Path) -> None:
    one = run(deep, out=deep.parent / "one.jsonl").digest
    assert run(deep, out=deep.parent / "two.jsonl", policy=Policy(workers=2)).digest == one
