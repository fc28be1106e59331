from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from posed_rooms import GL, change, load, matrix, nine, records, run, save, write_posed
from scipy.spatial.transform import Rotation
from small_rooms import SMALL, build_rooms, raw_frames

from rft3d_cli.errors import DataError, ProblemList, UsageError
from rft3d_cli.geometry.boxes import points_in_box
from rft3d_cli.geometry.iou import paired_iou
from rft3d_cli.prepare._posed_images import covered_share
from rft3d_cli.prepare._posed_objects import read_boxes
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Quarantine, Store
from rft3d_cli.prepare.posed import PosedSpec, Stride, clips, posed_part, read_stride
from rft3d_cli.prepare.scannet import prepare_detection
from rft3d_cli.prepare.scanrefer import GroundingSpec, prepare_grounding
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records, write_records


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(SMALL, tmp_path_factory.mktemp("posed") / "rooms")


@pytest.fixture(scope="module")
def plain(rooms: Path) -> Path:
    return write_posed(rooms, rooms.parent / "plain")


@pytest.fixture(scope="module")
def deep(rooms: Path) -> Path:
    return write_posed(rooms, rooms.parent / "deep", depth=True)


def pairs(mine: list[Record], theirs: list[Record]) -> tuple[np.ndarray, np.ndarray]:
    both = [[box.bbox_3d for record in side for box in record.target.boxes] for side in (mine, theirs)]
    return np.array(both[0]), np.array(both[1])


# ---- The same room by another road


@pytest.fixture(scope="module")
def scannet(rooms: Path) -> list[Record]:
    out = rooms.parent / "scannet.jsonl"
    places = Places(rooms / "scans", None, Store(rooms.parent / "media", "media"))
    prepare_detection(
        scans=rooms / "scans",
        annotations=rooms / "embodiedscan_infos_train.json",
        places=places,
        split=Split("train"),
        out=out,
        media_root=rooms.parent,
        policy=Policy(),
    )
    return read_records(out).records


def test_with_depth_the_records_are_those_of_prepare_scannet(deep: Path, scannet: list[Record], tmp_path: Path) -> None:
    mine = records(run(deep, tmp_path / "a.jsonl"), "detection")
    theirs = {(record.meta.scene, int(record.id[-5:])): record for record in scannet}
    assert [(r.meta.scene, int(r.id[-5:])) for r in mine] == [*theirs]
    same = shared = only = 0
    for record in mine:
        other = theirs[record.meta.scene, int(record.id[-5:])]
        assert record.camera == other.camera
        assert record.video.times == pytest.approx(other.video.times)
        assert record.prompt == other.prompt
        boxes = {tuple(np.round(box.bbox_3d[:3], 3)): box for box in record.target.boxes}
        others = {tuple(np.round(box.bbox_3d[:3], 3)): box for box in other.target.boxes}
        same += [*boxes] == [*others]
        common = boxes.keys() & others.keys()
        shared += len(common)
        only += len(boxes.keys() ^ others.keys())
        for key in common:
            assert boxes[key].label == others[key].label
            assert paired_iou(np.array([boxes[key].bbox_3d]), np.array([others[key].bbox_3d]))[0] > 0.99
    # Which pixels are an object's is known in rooms; depth in boxes is a little blinder at rims and where boxes meet.
    assert same > 0.6 * len(mine)
    assert only < 0.06 * shared


def test_grounding_is_that_of_prepare_scanrefer(rooms: Path, deep: Path, tmp_path: Path) -> None:
    mine = {r.id: r for r in records(run(deep, tmp_path / "a.jsonl", grounding_frames=5), "grounding")}
    prepare_grounding(
        scans=rooms / "scans",
        descriptions=rooms / "ScanRefer_filtered_train.json",
        annotations=rooms / "embodiedscan_infos_train.json",
        labels=None,
        places=Places(rooms / "scans", None, Store(tmp_path / "media", "media")),
        split=Split("train"),
        out=tmp_path / "b.jsonl",
        media_root=tmp_path,
        spec=GroundingSpec(frames=5, ground_truth="instance"),
        policy=Policy(),
    )
    theirs = {r.id: r for r in read_records(tmp_path / "b.jsonl").records}
    common = mine.keys() & theirs.keys()
    assert len(common) > 0.9 * len(theirs) > 5
    assert sum(mine[i].target.frame == theirs[i].target.frame for i in common) > 0.9 * len(common)
    for name in common:
        a, b = mine[name], theirs[name]
        assert (a.prompt, a.camera, a.meta.subset) == (b.prompt, b.camera, b.meta.subset)
        worlds = [np.array([r.target.bbox_world]) for r in (a, b)]
        assert paired_iou(*worlds)[0] > 0.99
        if a.target.frame == b.target.frame:
            assert paired_iou(*(np.array([r.target.bbox_3d]) for r in (a, b)))[0] > 0.99


def test_target_boxes_cover_the_depth_of_their_objects(rooms: Path, deep: Path, tmp_path: Path) -> None:
    """What the depth images saw, placed by nothing but the record, lies in the record's boxes."""
    found = records(run(deep, tmp_path / "a.jsonl"), "detection")
    for record in found[::5]:
        scene = record.meta.scene
        raw = raw_frames(rooms / "scans" / scene / f"{scene}.sens")
        k, poses = np.array(record.camera.intrinsic), np.array(record.camera.cam_to_world)
        held = np.zeros((len(record.target.boxes), len(poses)))
        for number, (name, pose) in enumerate(zip(record.video.frames, poses, strict=True)):
            metres = raw[int(Path(name).stem)][2]
            v, u = np.indices(metres.shape)
            points = np.stack([(u - k[0, 2]) / k[0, 0] * metres, (v - k[1, 2]) / k[1, 1] * metres, metres], axis=-1)
            move = np.linalg.inv(poses[0]) @ pose
            points = points.reshape(-1, 3) @ move[:3, :3].T + move[:3, 3]
            held[:, number] = [points_in_box(points, box.bbox_3d, 0.001).mean() for box in record.target.boxes]
        assert (held.max(axis=1) >= 0.003).all()


def test_without_depth_nothing_that_depth_shows_is_missing(plain: Path, deep: Path, tmp_path: Path) -> None:
    blind = records(run(plain, tmp_path / "a.jsonl"), "detection")
    seeing = {record.id: record for record in records(run(deep, tmp_path / "b.jsonl"), "detection")}
    more = 0
    for record in blind:
        boxes = {(box.label, np.round(box.bbox_3d[:3], 6).tobytes()) for box in record.target.boxes}
        assert {(box.label, np.round(box.bbox_3d[:3], 6).tobytes()) for box in seeing[record.id].target.boxes} <= boxes
        more += len(boxes) - len(seeing[record.id].target.boxes)
    assert more > 0


# ---- One meaning, several ways to write it


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"convention": "opengl"}, id="OpenGL axes"),
        pytest.param({"form": "matrix"}, id="boxes with rotation matrices"),
        pytest.param({"form": "quaternion"}, id="boxes with quaternions"),
    ],
)
def test_the_same_scan_written_otherwise_gives_the_same_records(
    rooms: Path, plain: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    other = read_records(run(write_posed(rooms, tmp_path / "scans", **changes), tmp_path / "a.jsonl").out).records
    base = read_records(run(plain, tmp_path / "b.jsonl").out).records
    assert [r.id for r in other] == [r.id for r in base]
    detections = [[r for r in side if r.task == "detection"] for side in (other, base)]
    assert paired_iou(*pairs(*detections)).min() > 0.999
    for a, b in zip(other, base, strict=True):
        assert (a.video, a.prompt, a.meta) == (b.video, b.prompt, b.meta)
        np.testing.assert_allclose(a.camera.cam_to_world, b.camera.cam_to_world, atol=1e-12)
        if a.task == "grounding":
            assert a.target.frame == b.target.frame


def test_any_rotation_can_be_written_in_three_ways(tmp_path: Path) -> None:
    turns = Rotation.random(30, random_state=4)
    place = {"label": "chair", "center": [1, 2, 3], "size": [0.5, 1, 2]}
    nines = [[1, 2, 3, 0.5, 1, 2, *angles] for angles in turns.as_euler("ZXY")]
    ways = {
        "matrix": [{**place, "rotation": turn} for turn in turns.as_matrix().tolist()],
        "quaternion": [{**place, "rotation": turn} for turn in turns.as_quat().tolist()],
        "nine numbers": [{"label": "chair", "bbox_3d": box} for box in nines],
    }
    for name, boxes in ways.items():
        save(tmp_path, "boxes", boxes)
        found, ids = read_boxes(tmp_path / "boxes.json")
        np.testing.assert_allclose(found.rotations(), turns.as_matrix(), atol=1e-9, err_msg=name)
        np.testing.assert_allclose(found.boxes[:, :6], np.array(nines)[:, :6])
        assert ids == tuple(map(str, range(30)))


def test_without_axis_align_the_scans_world_is_the_aligned_one(plain: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(plain, tmp_path / "scans")
    for folder in scans.iterdir():
        cameras = load(folder, "cameras")
        del cameras["axis_align"]
        save(folder, "cameras", cameras)
    mine, base = run(scans, tmp_path / "a.jsonl"), run(plain, tmp_path / "b.jsonl")
    assert records(mine, "detection")[0].camera.axis_align == np.eye(4).tolist()
    assert paired_iou(*pairs(records(mine, "detection"), records(base, "detection"))).min() > 0.999
    for record in records(mine, "grounding"):
        pose = np.array(record.camera.cam_to_world[record.target.frame])
        seen = pose @ matrix(list(record.target.bbox_3d))
        np.testing.assert_allclose(seen, matrix(list(record.target.bbox_world)), atol=1e-5)


def test_records_name_the_frames_where_they_lie(plain: Path, tmp_path: Path) -> None:
    report = run(plain, tmp_path / "a.jsonl")
    before = sorted(plain.rglob("*"))
    for record in read_records(report.out, media_root=plain).records:
        for name in record.video.frames:
            assert name.startswith(f"{record.meta.scene}/frames/")
            assert (plain / name).is_file()
    assert sorted(plain.rglob("*")) == before
    card = json.loads(report.card.read_text())
    assert card["command"] == "prepare posed"
    assert card["counts"]["scans"][0]["convention"] == "opencv"


def test_the_same_bytes_with_any_number_of_workers_and_again(rooms: Path, plain: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    for number, source in enumerate(sorted(plain.iterdir()) * 2):
        shutil.copytree(source, scans / f"flat{number}")
    for folder in scans.iterdir():
        for file in sorted((folder / "frames").iterdir())[8:]:
            file.unlink()
        cameras = load(folder, "cameras")
        save(folder, "cameras", {**cameras, "frames": dict([*cameras["frames"].items()][:8])})
    one, two = (
        run(scans, tmp_path / f"{n}.jsonl", Policy(workers=n), stride=Stride(2, False)).out.read_bytes() for n in (1, 2)
    )
    assert one == two
    assert one.count(b"\n") > 8


# ---- What is chosen


@pytest.mark.parametrize(
    ("clock", "frames", "stride", "slack", "expected"),
    [
        pytest.param(range(12), 4, 3, 0, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]], id="every frame starts a clip"),
        pytest.param(range(70), 2, 30, 0, [[0, 30], [10, 40], [20, 50], [30, 60]], id="a third of the stride later"),
        pytest.param([0, 1, 2, 4, 5, 6], 3, 1, 0, [[0, 1, 2], [3, 4, 5]], id="a frame is missing"),
        pytest.param([0, 0.24, 0.51, 0.76, 1.01], 2, 0.5, 0.1, [[0, 2], [1, 3], [2, 4]], id="an uneven clock"),
        pytest.param([0, 5, 10], 2, 1, 0.25, [], id="too slow"),
        pytest.param([0.0], 1, 1, 0, [[0]], id="one frame"),
        pytest.param([], 1, 1, 0, [], id="none"),
    ],
)
def test_clips_by_the_clock(clock: Any, frames: int, stride: float, slack: float, expected: Any) -> None:
    assert clips([*clock], frames, stride, slack) == expected


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.floats(0.01, 2), min_size=1, max_size=40),
    frames=st.integers(1, 5),
    stride=st.floats(0.05, 3),
)
def test_frames_of_any_clip_are_about_a_stride_apart(steps: list[float], frames: int, stride: float) -> None:
    clock = np.cumsum(steps)
    for clip in clips(clock.tolist(), frames, stride, stride / 4):
        wanted = clock[clip[0]] + stride * np.arange(frames)
        assert np.abs(clock[clip] - wanted).max() <= stride / 4
        assert len({*clip}) == frames


@pytest.mark.parametrize(
    ("text", "value"),
    [("30", Stride(30, False)), ("1s", Stride(1, True)), (".25s", Stride(0.25, True)), (" 2s ", Stride(2, True))],
)
def test_a_stride_is_frames_or_seconds(text: str, value: Stride) -> None:
    assert read_stride(text) == value


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1.5", "1m", "s", "1e3", "nan", "1 s", "٣"])
def test_other_strides_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--stride"):
        read_stride(text)


def test_seconds_and_frames_give_the_same_clips(plain: Path, tmp_path: Path) -> None:
    by_frames = run(plain, tmp_path / "a.jsonl", stride=Stride(4, False), task="detection")
    by_time = run(plain, tmp_path / "b.jsonl", stride=Stride(1, True), task="detection")
    default = run(plain, tmp_path / "c.jsonl", stride=None, task="detection")
    assert [r.video for r in records(by_frames, "detection")] == [r.video for r in records(by_time, "detection")]
    assert by_time.out.read_bytes() == default.out.read_bytes()
    assert records(default, "detection")[0].meta.sampler == "stride-1s"


def test_scans_without_times_have_records_without_times(plain: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(plain, tmp_path / "scans")
    for folder in scans.iterdir():
        cameras = load(folder, "cameras")
        for entry in cameras["frames"].values():
            del entry["time"]
        save(folder, "cameras", cameras)
    report = run(scans, tmp_path / "a.jsonl")
    assert {r.video.times for r in read_records(report.out).records} == {None}
    with pytest.raises(ProblemList, match="has no time, and --stride is in seconds"):
        run(scans, tmp_path / "b.jsonl", stride=Stride(1, True))


def test_tasks_can_be_chosen_and_clips_limited(plain: Path, tmp_path: Path) -> None:
    assert {r.task for r in read_records(run(plain, tmp_path / "a.jsonl").out).records} == {"detection", "grounding"}
    for task in ("detection", "grounding"):
        assert {r.task for r in read_records(run(plain, tmp_path / "b.jsonl", task=task).out).records} == {task}
    limited = run(plain, tmp_path / "c.jsonl", task="detection", per_scene=2)
    assert limited.records == 4
    assert limited.counts["clips"] == 4


def test_the_first_frame_can_be_the_one_to_name(plain: Path, tmp_path: Path) -> None:
    largest = records(run(plain, tmp_path / "a.jsonl", task="grounding"), "grounding")
    first = records(run(plain, tmp_path / "b.jsonl", task="grounding", target="first"), "grounding")
    assert all(f.target.frame <= a.target.frame for f, a in zip(first, largest, strict=True))
    assert any(f.target.frame < a.target.frame for f, a in zip(first, largest, strict=True))


def test_every_label_is_a_target_also_a_wall(plain: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(plain, tmp_path / "scans")
    for folder in scans.iterdir():
        save(folder, "boxes", [{**box, "label": "wall"} for box in load(folder, "boxes")])
    found = records(run(scans, tmp_path / "a.jsonl"), "detection")
    assert {box.label for record in found for box in record.target.boxes} == {"wall"}


# ---- Visibility


def counted_share(box: list[float], k: np.ndarray, size: tuple[int, int]) -> float:
    """The same share by casting a ray through every pixel."""
    v, u = np.indices(size[::-1])
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones(size[::-1])], axis=-1).reshape(-1, 3)
    turn = Rotation.from_euler("ZXY", box[6:]).as_matrix()
    start, way = -np.array(box[:3]) @ turn, rays @ turn
    way = np.where(np.abs(way) < 1e-12, 1e-12, way)
    ends = [(side * np.array(box[3:6]) / 2 - start) / way for side in (-1, 1)]
    enter, leave = np.minimum(*ends).max(axis=1), np.maximum(*ends).min(axis=1)
    return float(((leave > enter) & (leave > 0.05)).mean())


@settings(max_examples=60, deadline=None)
@given(
    centre=st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-2, 5)),
    size=st.tuples(*[st.floats(0.1, 2)] * 3),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
)
def test_the_covered_share_is_that_of_rays(centre: Any, size: Any, angles: Any) -> None:
    k = np.array([[90.0, 0, 79.5], [0, 90, 59.5], [0, 0, 1]])
    box = [*centre, *size, *angles]
    assert covered_share(np.array(box), k, (160, 120)) == pytest.approx(counted_share(box, k, (160, 120)), abs=0.01)


def test_depth_of_another_size_is_scaled(plain: Path, deep: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(deep, tmp_path / "scans")
    for file in scans.glob("*/depth/*.png"):
        large = np.kron(np.array(Image.open(file)), np.ones((2, 2))).astype(np.uint16)
        Image.fromarray(large).save(file)
    mine, base = (records(run(s, tmp_path / "a.jsonl"), "detection") for s in (scans, deep))
    counts = [[len(r.target.boxes) for r in side] for side in (mine, base)]
    assert np.mean(np.array(counts[0]) == np.array(counts[1])) > 0.9


def test_frames_without_depth_are_left_out_and_counted(deep: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(deep, tmp_path / "scans")
    scene = min(scans.iterdir())
    (scene / "depth" / "00000.png").unlink()
    report = run(scans, tmp_path / "a.jsonl")
    assert {"what": "frame", "scene": scene.name, "frame": "00000.jpg", "reason": "no depth image"} in report.rejects
    assert not any(f"{scene.name}/frames/00000.jpg" in r.video.frames for r in read_records(report.out).records)


# ---- What looks wrong is warned of


def poses(edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], None]:
    def change_all(cameras: Any) -> None:
        for entry in cameras["frames"].values():
            entry["cam_to_world"] = edit(np.array(entry["cam_to_world"])).tolist()

    return change_all


def oddities(scans: Path) -> str:
    """What a scan is warned of, or refused for."""
    try:
        part = posed_part("scene0000_00", scans, Store(scans), PosedSpec(stride=Stride(3, False)))
    except Quarantine as error:
        return error.message
    return "; ".join(part.warnings)


DOUBTS = [
    pytest.param("cameras", poses(lambda p: p @ GL), 'rather "opengl"', id="OpenGL poses called OpenCV"),
    pytest.param(
        "boxes", lambda b: [{**x, "bbox_3d": [999, *x["bbox_3d"][1:]]} for x in b], "one world", id="other world"
    ),
    pytest.param(
        "cameras", lambda c: c.update(intrinsic=[[86, 0, 20], [0, 86, 10], [0, 0, 1]]), "does not fit", id="off centre"
    ),
    pytest.param(
        "boxes",
        lambda b: b[0].update(bbox_3d=[*b[0]["bbox_3d"][:3], 450, 600, 900, 0, 0, 0]),
        "metres",
        id="millimetres",
    ),
    pytest.param(
        "cameras",
        lambda c: c["frames"]["00003.jpg"].update(intrinsic=[[120, 0, 47.5], [0, 120, 35.5], [0, 0, 1]]),
        "differ by more than 2 %",
        id="zoom",
    ),
]


@pytest.mark.parametrize(("file", "edit", "words"), DOUBTS)
def test_a_scan_that_cannot_be_meant_so_is_warned_of(
    plain: Path, tmp_path: Path, file: str, edit: Any, words: str
) -> None:
    scans = change(shutil.copytree(plain, tmp_path / "scans"), file, edit)
    assert words in oddities(scans)


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        pytest.param(np.linalg.inv, "if the poses were world_to_cam: invert them", id="OpenCV axes"),
        pytest.param(lambda pose: np.linalg.inv(pose @ GL), "world_to_cam with OpenGL axes", id="OpenGL axes"),
    ],
)
def test_inverted_poses_are_recognised(plain: Path, tmp_path: Path, turn: Any, words: str) -> None:
    away = np.eye(4)
    away[:3, 3] = [20, -15, 0]  # near the origin of the world an inverse may see as much
    scans = change(shutil.copytree(plain, tmp_path / "scans"), "cameras", poses(lambda p: turn(away @ p)))
    change(
        scans, "boxes", lambda b: [{**x, "bbox_3d": nine(away @ matrix(x["bbox_3d"]), x["bbox_3d"][3:6])} for x in b]
    )
    assert words in oddities(scans)


def test_good_scans_are_not_warned_of(plain: Path, deep: Path, tmp_path: Path) -> None:
    for scans in (plain, deep):
        assert run(scans, tmp_path / "a.jsonl").warnings == {}


def test_depth_in_other_units_is_warned_of(deep: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(deep, tmp_path / "scans")
    for file in scans.glob("*/depth/*.png"):
        Image.fromarray(np.array(Image.open(file)) // 100).save(file)
    found = oddities(scans)
    assert "they are in view, so look at the depth" in found
    assert "not to be in millimetres" in found


def test_objects_that_no_frame_shows_are_counted(plain: Path, tmp_path: Path) -> None:
    lost = {"label": "lamp", "id": "far", "bbox_3d": [0, 0, -50, 1, 1, 1, 0, 0, 0]}
    scans = change(shutil.copytree(plain, tmp_path / "scans"), "boxes", lambda b: [*b, lost])
    change(scans, "descriptions", lambda d: [*d, {"object": "far", "description": "The far lamp."}])
    report = run(scans, tmp_path / "a.jsonl")
    rows = [row for row in report.rejects if row.get("id") == "far"]
    assert [(row["what"], row["reason"], row["label"]) for row in rows] == [("object", "seen in no frame", "lamp")] * 2
    assert [row["object"] for row in report.rejects if row["what"] == "description"] == ["far", "far"]


# ---- Frames that are left out


NAN = [[math.nan] * 4] * 4
INF = [[-math.inf] * 4] * 4


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(NAN, "non-finite pose", id="NaN"),
        pytest.param(INF, "non-finite pose", id="-inf, as ScanNet writes lost poses"),
        pytest.param([[None] * 4] * 4, "non-finite pose", id="nulls"),
        pytest.param(None, "no pose", id="null"),
        pytest.param("absent", "no pose", id="no entry"),
    ],
)
def test_frames_without_a_pose_are_left_out_and_counted(plain: Path, tmp_path: Path, value: Any, reason: str) -> None:
    def lose(cameras: Any) -> None:
        if value == "absent":
            del cameras["frames"]["00012.jpg"]
        else:
            cameras["frames"]["00012.jpg"]["cam_to_world"] = value

    scans = change(shutil.copytree(plain, tmp_path / "scans"), "cameras", lose)
    report = run(scans, tmp_path / "a.jsonl")
    rows = [row for row in report.rejects if row["what"] == "frame"]
    assert [(row["frame"], row["reason"]) for row in rows] == [("00012.jpg", reason)] * 2
    found = read_records(report.out).records
    assert not any("00012.jpg" in name for record in found for name in record.video.frames)
    starts = [int(r.id[-5:]) for r in found if r.task == "detection" and r.meta.scene == "scene0000_00"]
    assert {*starts} == {s for s in range(SMALL.frames - 9) if 12 not in (s, s + 3, s + 6, s + 9)}


def test_poses_without_an_image_are_counted(plain: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(plain, tmp_path / "scans")
    (scans / "scene0000_00" / "frames" / "00004.jpg").unlink()
    rows = run(scans, tmp_path / "a.jsonl").rejects
    assert [(r["frame"], r["reason"]) for r in rows if r["what"] == "frame"] == [("00004.jpg", "no image")]


def test_numbers_in_names_are_ordered_by_value(plain: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(plain, tmp_path / "scans")
    for folder in scans.iterdir():
        for file in sorted((folder / "frames").iterdir()):
            file.rename(file.with_name(f"{int(file.stem)}.jpg"))
        (folder / "frames" / ".DS_Store").touch()
        (folder / "frames" / "notes.txt").touch()
    change(scans, "cameras", lambda c: c.update(frames={f"{int(Path(n).stem)}.jpg": e for n, e in c["frames"].items()}))
    first = records(run(scans, tmp_path / "a.jsonl"), "detection")[0]
    assert [Path(f).name for f in first.video.frames] == ["0.jpg", "3.jpg", "6.jpg", "9.jpg"]


def test_folders_that_hold_no_scans_are_refused(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no scans"):
        run(tmp_path / "empty", tmp_path / "a.jsonl")
    with pytest.raises(DataError) as caught:
        run(plain / "scene0000_00", tmp_path / "a.jsonl")
    assert caught.value.hint == f"name the folder above it: --scans {plain}"


def test_records_survive_writing(plain: Path, tmp_path: Path) -> None:
    found = read_records(run(plain, tmp_path / "a.jsonl").out).records
    write_records(tmp_path / "b.jsonl", copy.deepcopy(found))
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()
