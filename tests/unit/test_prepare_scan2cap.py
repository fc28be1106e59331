from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from small_rooms import SMALL, build_rooms, infos, write_infos

from rft3d_cli.errors import DataError, ProblemList
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Report, Store
from rft3d_cli.prepare.scan2cap import CaptionSpec, prepare_captions
from rft3d_cli.prepare.scanfiles import read_ply_vertices
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records

FRAMES = 6


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(SMALL, tmp_path_factory.mktemp("captions") / "rooms")


def run(rooms: Path, out: Path, split: str = "train", **options: Any) -> Report:
    fields: dict[str, Any] = {
        "scans": rooms / "scans",
        "descriptions": rooms / "ScanRefer_filtered_train.json",
        "annotations": rooms / "embodiedscan_infos_train.json",
        "proposals": None,
        "places": Places(rooms / "scans", None, Store(out.parent / "media", "media")),
        "split": Split(split),
        "out": out,
        "media_root": out.parent,
        "spec": CaptionSpec(frames=FRAMES),
        "policy": Policy(),
        **options,
    }
    return prepare_captions(**fields)


@pytest.fixture(scope="module")
def train(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("train") / "cap.jsonl"
    run(rooms, out)
    return read_records(out).records


@pytest.fixture(scope="module")
def val(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("val") / "cap.jsonl"
    run(rooms, out, "val")
    return read_records(out).records


def rows(rooms: Path) -> list[dict[str, Any]]:
    return json.loads((rooms / "ScanRefer_filtered_train.json").read_text())


def entries(rooms: Path) -> dict[str, dict[str, Any]]:
    return {entry["sample_idx"].split("/")[1]: entry for entry in infos(rooms)["data_list"]}


def objects(rooms: Path, scene: str) -> dict[int, np.ndarray]:
    """Which vertices each object has, from the scan's own files."""
    folder = rooms / "scans" / scene
    segments = np.array(json.loads((folder / f"{scene}_vh_clean_2.0.010000.segs.json").read_text())["segIndices"])
    groups = json.loads((folder / f"{scene}.aggregation.json").read_text())["segGroups"]
    return {group["objectId"]: np.isin(segments, group["segments"]) for group in groups}


def vertices(rooms: Path, scene: str) -> np.ndarray:
    align = np.array(entries(rooms)[scene]["axis_align_matrix"])
    points = read_ply_vertices(rooms / "scans" / scene / f"{scene}_vh_clean_2.ply")
    return points @ align[:3, :3].T + align[:3, 3]


def extent(points: np.ndarray) -> list[float]:
    low, high = points.min(axis=0), points.max(axis=0)
    return [*((low + high) / 2), *(high - low)]


def true_boxes(rooms: Path, scene: str) -> dict[int, list[float]]:
    points = vertices(rooms, scene)
    return {number: extent(points[mask]) for number, mask in objects(rooms, scene).items()}


def axis_iou(a: Any, b: Any) -> float:
    sides = [
        max(0.0, min(p + s / 2, q + t / 2) - max(p - s / 2, q - t / 2))
        for p, q, s, t in zip(a[:3], b[:3], a[3:6], b[3:6], strict=True)
    ]
    shared = float(np.prod(sides))
    return shared / (float(np.prod(a[3:6])) + float(np.prod(b[3:6])) - shared)


def place(rooms: Path, record: Record, centre: Any) -> list[float]:
    """A point of the aligned world as the record's first camera has it."""
    entry = entries(rooms)[record.meta.scene]
    first = int(Path(record.video.frames[0]).stem)
    pose = np.array(entry["axis_align_matrix"]) @ np.array(entry["images"][first]["cam2global"])
    found: list[float] = np.linalg.solve(pose, [*centre[:3], 1])[:3].tolist()
    return found


def asked_place(record: Record) -> list[float]:
    tail = record.prompt.partition("located at ")[2]
    found: list[float] = json.loads(tail.removesuffix(" in detail."))
    return found


# ---- Training


def test_each_description_is_a_record(rooms: Path, train: list[Record]) -> None:
    described = rows(rooms)
    assert [r.id for r in train] == [f"{d['scene_id']}/cap/{d['object_id']}/{d['ann_id']}" for d in described]
    for record, row in zip(train, described, strict=True):
        assert record.task == "text"
        assert record.answer == row["description"].capitalize()
        assert record.target.references == [row["description"]]
        extra = record.meta.model_extra
        assert (record.meta.dataset, record.meta.scene, record.meta.split) == ("scan2cap", row["scene_id"], "train")
        assert (extra["object_id"], extra["object_name"]) == (int(row["object_id"]), row["object_name"])
        assert (extra["ann_id"], extra["iou"]) == (row["ann_id"], 1.0)
        assert extra["input_box"] == extra["gt_box"]
        assert record.meta.sampler == "linspace-floor"


def test_the_prompt_is_that_of_the_public_checkpoints(rooms: Path, train: list[Record]) -> None:
    for record in train:
        x, y, z = (round(float(value), 2) for value in place(rooms, record, record.meta.model_extra["gt_box"]))
        assert record.prompt == (
            "<image>" * FRAMES + "\nCarefully watch the video and describe the object located at "
            f"[{x}, {y}, {z}] in detail."
        )


def test_boxes_are_the_extents_of_the_objects(rooms: Path, train: list[Record]) -> None:
    for record in train:
        box = true_boxes(rooms, record.meta.scene)[record.meta.model_extra["object_id"]]
        np.testing.assert_allclose(record.meta.model_extra["gt_box"], [*box, 0, 0, 0], atol=1e-9)


def test_frames_and_cameras_are_those_of_the_scan(rooms: Path, train: list[Record]) -> None:
    for record in train:
        numbers = [int(Path(frame).stem) for frame in record.video.frames]
        assert numbers == np.linspace(0, SMALL.frames - 1, FRAMES).astype(int).tolist()
        images = entries(rooms)[record.meta.scene]["images"]
        assert record.camera.cam_to_world == [images[n]["cam2global"] for n in numbers]


# ---- Evaluation


def test_each_object_is_one_record_with_all_references(rooms: Path, val: list[Record]) -> None:
    said: dict[str, list[str]] = {}
    for row in rows(rooms):
        said.setdefault(f"{row['scene_id']}/cap/{row['object_id']}", []).append(row["description"])
    assert {record.id: record.target.references for record in val} == said
    assert [record.id for record in val] == list(said)
    assert max(map(len, said.values())) > 1
    for record in val:
        assert record.answer == said[record.id][0].capitalize()
        assert "ann_id" not in record.meta.model_extra
        assert record.meta.split == "val"


def test_a_test_split_is_for_evaluation_too(rooms: Path, tmp_path: Path, val: list[Record]) -> None:
    run(rooms, tmp_path / "a.jsonl", "test")
    assert [record.id for record in read_records(tmp_path / "a.jsonl").records] == [record.id for record in val]


def boxes_file(path: Path, boxes: dict[str, Any]) -> Path:
    path.write_text(json.dumps({f"scannet/{scene}": rows for scene, rows in boxes.items()}))
    return path


def shifted(rooms: Path, seed: int = 0) -> dict[str, list[list[float]]]:
    """Proposals near the objects, and some that are nowhere near."""
    rng = np.random.default_rng(seed)
    out = {}
    for scene in entries(rooms):
        true = [np.array(box) for box in true_boxes(rooms, scene).values()]
        near = [
            np.concatenate([b[:3] + rng.normal(0, 0.15, 3) * b[3:], b[3:] * rng.uniform(0.7, 1.3, 3)]) for b in true
        ]
        far = [[50.0 + i, 0, 0, 1, 1, 1] for i in range(3)]
        mixed = [*far, *(box.tolist() for box in near)]
        out[scene] = [mixed[i] for i in rng.permutation(len(mixed))]
    return out


def test_with_proposals_the_best_one_is_asked_about(rooms: Path, tmp_path: Path, val: list[Record]) -> None:
    proposed = shifted(rooms)
    report = run(rooms, tmp_path / "a.jsonl", "val", proposals=boxes_file(tmp_path / "p.json", proposed))
    records = read_records(tmp_path / "a.jsonl").records
    assert [(r.id, r.target, r.video, r.camera) for r in records] == [(r.id, r.target, r.video, r.camera) for r in val]
    met = 0
    for record in records:
        extra = record.meta.model_extra
        ious = [axis_iou(extra["gt_box"], box) for box in proposed[record.meta.scene]]
        best = int(np.argmax(ious))
        assert extra["iou"] == pytest.approx(ious[best], abs=1e-9)
        assert extra["input_box"] == [*proposed[record.meta.scene][best], 0, 0, 0]
        expected = place(rooms, record, extra["input_box"])
        assert asked_place(record) == [round(value, 2) for value in expected]
        met += ious[best] >= 0.5
    assert 0 < met < len(records)
    assert report.counts["objects met"] == met
    card = json.loads(report.card.read_text())
    assert "p.json" in [source["file"] for source in card["sources"]]


@pytest.mark.parametrize("inside", [False, True])
def test_masks_give_the_boxes_that_their_vertices_span(
    rooms: Path, tmp_path: Path, val: list[Record], inside: bool
) -> None:
    folder = tmp_path / "detected"
    where = folder / "mask" if inside else folder
    where.mkdir(parents=True)
    for scene in entries(rooms):
        masks = np.stack([*objects(rooms, scene).values()][::-1])
        sparse.save_npz(where / f"{scene}.mask.npz", sparse.csr_matrix(masks))
    run(rooms, tmp_path / "a.jsonl", "val", proposals=folder)
    # The detector is perfect, so the records are those without it.
    records = read_records(tmp_path / "a.jsonl").records
    assert [r.prompt for r in records] == [r.prompt for r in val]
    assert {r.meta.model_extra["iou"] for r in records} == {1.0}


def test_a_box_that_meets_no_object_is_the_first_proposal(rooms: Path, tmp_path: Path) -> None:
    far = [[60.0, 0, 0, 1, 1, 1], [50.0, 0, 0, 1, 1, 1]]
    path = boxes_file(tmp_path / "p.json", dict.fromkeys(entries(rooms), far))
    report = run(rooms, tmp_path / "a.jsonl", "val", proposals=path)
    for record in read_records(tmp_path / "a.jsonl").records:
        assert (record.meta.model_extra["iou"], record.meta.model_extra["input_box"][0]) == (0.0, 60.0)
    assert report.counts.get("objects met", 0) == 0


# ---- Proposals that cannot be used


def spoiled(rooms: Path, tmp_path: Path, kind: str) -> Path:
    """Proposals of which the first scene's are wrong."""
    proposed: dict[str, Any] = shifted(rooms)
    first = next(iter(proposed))
    if kind == "missing":
        del proposed[first]
    elif kind == "empty":
        proposed[first] = []
    elif kind == "shape":
        proposed[first][0] = proposed[first][0][:5]
    elif kind == "nan":
        proposed[first][0][1] = float("nan")
    elif kind == "unknown":
        proposed["scene9999_00"] = proposed.pop(first)
    else:
        text = json.dumps({f"scannet/{scene}": rows for scene, rows in proposed.items()})
        path = tmp_path / "p.json"
        path.write_text(text[:-1] + f', "scannet/{first}": []}}')
        return path
    return boxes_file(tmp_path / "p.json", proposed)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        pytest.param("missing", "no proposals", id="a scene that the file lacks"),
        pytest.param("unknown", "no proposals", id="a scene that nobody knows in its place"),
        pytest.param("empty", "no proposals", id="an empty list"),
        pytest.param("shape", "wrong proposals", id="five numbers"),
        pytest.param("nan", "wrong proposals", id="NaN"),
        pytest.param("twice", "wrong proposals", id="a scene listed twice"),
    ],
)
def test_a_scene_without_usable_proposals_is_quarantined(rooms: Path, tmp_path: Path, kind: str, reason: str) -> None:
    path = spoiled(rooms, tmp_path, kind)
    with pytest.raises(ProblemList, match="1 of 2 scenes cannot be used"):
        run(rooms, tmp_path / "a.jsonl", "val", proposals=path)
    report = run(rooms, tmp_path / "a.jsonl", "val", proposals=path, policy=Policy(max_bad=0.5))
    assert [(row["scene"], row["reason"]) for row in report.rejects] == [("scene0000_00", reason)]
    assert {record.meta.scene for record in read_records(tmp_path / "a.jsonl").records} == {"scene0001_00"}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        pytest.param("none", "no proposals", id="no file"),
        pytest.param("other mesh", "wrong proposals", id="of another mesh"),
        pytest.param("objects", "wrong proposals", id="Python objects"),
        pytest.param("no vertex", "no proposals", id="masks without a vertex"),
    ],
)
def test_a_scene_without_usable_masks_is_quarantined(rooms: Path, tmp_path: Path, kind: str, reason: str) -> None:
    for scene in entries(rooms):
        masks = sparse.csr_matrix(np.stack([*objects(rooms, scene).values()]))
        sparse.save_npz(tmp_path / f"{scene}.mask.npz", masks)
    path = tmp_path / "scene0000_00.mask.npz"
    shape = sparse.load_npz(path).shape
    if kind == "none":
        path.unlink()
    elif kind == "other mesh":
        sparse.save_npz(path, sparse.csr_matrix((3, shape[1] - 1)))
    elif kind == "no vertex":
        sparse.save_npz(path, sparse.csr_matrix(shape))
    else:
        np.savez(path, data=np.array([print], dtype=object), allow_pickle=True)
    report = run(rooms, tmp_path / "a.jsonl", "val", proposals=tmp_path, policy=Policy(max_bad=0.5))
    assert [(row["scene"], row["reason"]) for row in report.rejects] == [("scene0000_00", reason)]


@pytest.mark.parametrize("content", ["[]", "{", '"scannet"'])
def test_a_file_of_another_form_is_an_error(rooms: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(DataError):
        run(rooms, tmp_path / "a.jsonl", "val", proposals=tmp_path / "p.json")


# ---- What is left out, and what does not matter


def test_wrong_entries_and_unknown_objects_are_counted(rooms: Path, tmp_path: Path) -> None:
    first = rows(rooms)[0]
    more = [{**first, "object_id": "999"}, {**first, "ann_id": "9", "description": None}, first]
    (tmp_path / "d.json").write_text(json.dumps([*rows(rooms), *more]))
    for split in ("train", "val"):
        report = run(rooms, tmp_path / f"{split}.jsonl", split, descriptions=tmp_path / "d.json")
        reasons = sorted(row["reason"] for row in report.rejects)
        assert reasons == ["object not in the aggregation", "wrong entry", "wrong entry"]


def test_scenes_without_annotations_are_quarantined(rooms: Path, tmp_path: Path) -> None:
    data = infos(rooms)
    del data["data_list"][0]
    path = write_infos(tmp_path / "infos.json", data)
    report = run(rooms, tmp_path / "a.jsonl", annotations=path, policy=Policy(max_bad=0.5))
    assert [row["reason"] for row in report.rejects] == ["no annotations"]
    with pytest.raises(ProblemList) as error:
        run(rooms, tmp_path / "a.jsonl", annotations=rooms / "embodiedscan_infos_val.json")
    assert "embodiedscan_infos_test.pkl" in error.value.hint


def test_wrap_around_frames_start_anywhere_and_place_the_object_from_there(rooms: Path, tmp_path: Path) -> None:
    spec = CaptionSpec(frames=FRAMES, sampler="wrap-around", seed=3)
    run(rooms, tmp_path / "a.jsonl", spec=spec)
    starts = set()
    for record in read_records(tmp_path / "a.jsonl").records:
        numbers = [int(Path(frame).stem) for frame in record.video.frames]
        step = SMALL.frames // FRAMES
        assert numbers == [(numbers[0] + i * step) % SMALL.frames for i in range(FRAMES)]
        assert record.meta.sampler == "wrap-around"
        expected = place(rooms, record, record.meta.model_extra["gt_box"])
        assert asked_place(record) == [round(value, 2) for value in expected]
        starts.add(numbers[0])
    assert len(starts) > 3


@pytest.mark.parametrize("sampler", ["chronological", "wrap-around"])
def test_shares_join_to_the_whole(rooms: Path, tmp_path: Path, sampler: Any) -> None:
    spec = CaptionSpec(frames=FRAMES, sampler=sampler)
    run(rooms, tmp_path / "a.jsonl", spec=spec)
    for i in (1, 2):
        run(rooms, tmp_path / f"{i}.jsonl", spec=spec, policy=Policy(shard=(i, 2)))
    parts = [(tmp_path / f"{i}.jsonl").read_bytes() for i in (1, 2)]
    assert all(parts)
    assert b"".join(parts) == (tmp_path / "a.jsonl").read_bytes()


def test_a_box_that_no_mesh_has_is_no_crash(rooms: Path, tmp_path: Path) -> None:
    # A proposal without a volume meets nothing, even where it lies within the object.
    flat = {scene: [[*box[:3], 0, 1, 1] for box in true_boxes(rooms, scene).values()] for scene in entries(rooms)}
    run(rooms, tmp_path / "a.jsonl", "val", proposals=boxes_file(tmp_path / "p.json", flat))
    assert {r.meta.model_extra["iou"] for r in read_records(tmp_path / "a.jsonl").records} == {0.0}


def test_the_users_files_stay_as_they_are(rooms: Path, tmp_path: Path) -> None:
    before = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in rooms.rglob("*") if f.is_file()}
    run(rooms, tmp_path / "a.jsonl")
    assert {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in rooms.rglob("*") if f.is_file()} == before
