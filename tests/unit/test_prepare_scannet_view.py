from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_rooms import SMALL, build_rooms, infos, raw_frames, write_infos

from rft3d_cli.errors import ProblemList
from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.prepare._view_filter import ViewFilter, ViewRule
from rft3d_cli.prepare.embodiedscan import Frame, Scan
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Report, Store
from rft3d_cli.prepare.scannet import prepare_detection
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records

POINTS = np.random.default_rng(3).uniform(-0.5, 0.5, (4000, 3))
NOISE = 0.04
"""Five standard deviations of a share counted with so many points."""
WIDTH, HEIGHT = 96, 72


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(SMALL, tmp_path_factory.mktemp("view") / "rooms")


def run(rooms: Path, out: Path, **options: Any) -> Report:
    fields: dict[str, Any] = {
        "scans": rooms / "scans",
        "annotations": rooms / "embodiedscan_infos_train.json",
        "places": Places(rooms / "scans", None, Store(out.parent / "media", "media")),
        "split": Split("train"),
        "out": out,
        "media_root": out.parent,
        "policy": Policy(),
        **options,
    }
    return prepare_detection(**fields)


Make = Callable[..., tuple[Report, dict[str, Record]]]


@pytest.fixture(scope="module")
def made(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Reports and records by id; each rule is worked out once."""
    folder = tmp_path_factory.mktemp("out")
    known: dict[str, tuple[Report, dict[str, Record]]] = {}

    def make(**rule: Any) -> tuple[Report, dict[str, Record]]:
        name = "-".join(f"{key}-{value}" for key, value in sorted(rule.items())) or "all"
        if name not in known:
            report = run(rooms, folder / f"{name}.jsonl", view=ViewRule(**rule) if rule else None)
            known[name] = report, {record.id: record for record in read_records(report.out).records}
        return known[name]

    return make


class Reference:
    """What each frame has in view of each instance, straight from the annotation file, by strewing points."""

    def __init__(self, rooms: Path) -> None:
        self.entries = {entry["sample_idx"].split("/")[1]: entry for entry in infos(rooms)["data_list"]}
        self.found: dict[Any, tuple[float, float]] = {}

    def look(self, scene: str, frame: int, instance: int) -> tuple[float, float]:
        """Share of the points that are in the picture, and the area of the pixels whose rays meet the box."""
        key = scene, frame, instance
        if key not in self.found:
            entry = self.entries[scene]
            box = np.array(entry["instances"][instance]["bbox_3d"])
            pose = np.array(entry["axis_align_matrix"]) @ np.array(entry["images"][frame]["cam2global"])
            k = np.array(entry["cam2img"])[:3, :3]
            turn = Rotation.from_euler("ZXY", box[6:])
            world = turn.apply(POINTS * box[3:6]) + box[:3]
            seen = (world - pose[:3, 3]) @ pose[:3, :3]
            front = seen[seen[:, 2] > 0]
            pixel = (front @ k.T)[:, :2] / front[:, 2:]
            inside = (pixel > -0.5).all(axis=1) & (pixel < np.array([WIDTH, HEIGHT]) - 0.5).all(axis=1)
            v, u = np.indices((HEIGHT, WIDTH)).reshape(2, -1)
            rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones(u.shape)], axis=1)
            start, way = turn.inv().apply(pose[:3, 3] - box[:3]), turn.inv().apply(rays @ pose[:3, :3].T)
            with np.errstate(divide="ignore"):
                ends = [(side * box[3:6] / 2 - start) / way for side in (-1, 1)]
            enter, leave = np.minimum(*ends).max(axis=1), np.maximum(*ends).min(axis=1)
            area = float(((leave > enter) & (leave > 0.05)).sum())
            self.found[key] = float(inside.sum() / len(POINTS)), area
        return self.found[key]

    def listed(self, record: Record) -> list[tuple[int, list[int]]]:
        """Each instance that the record's frames list, in order, with the frames that list it."""
        scene = record.meta.scene
        images = self.entries[scene]["images"]
        out: dict[int, list[int]] = {}
        for name in record.video.frames:
            number = int(Path(name).stem)
            for instance in images[number]["visible_instance_ids"]:
                out.setdefault(instance, []).append(number)
        return list(out.items())

    def instances(self, record: Record) -> list[int]:
        """Which instances the record's targets are, by their place in the world."""
        entry = self.entries[record.meta.scene]
        first = int(Path(record.video.frames[0]).stem)
        pose = np.array(entry["axis_align_matrix"]) @ np.array(entry["images"][first]["cam2global"])
        centres = np.array([item["bbox_3d"][:3] for item in entry["instances"]])
        out = []
        for box in record.target.boxes:
            at = pose[:3, :3] @ np.array(box.bbox_3d[:3]) + pose[:3, 3]
            gaps = np.linalg.norm(centres - at, axis=1)
            assert gaps.min() < 1e-4
            out.append(int(gaps.argmin()))
        return out


@pytest.fixture(scope="module")
def reference(rooms: Path) -> Reference:
    return Reference(rooms)


RULES = [
    pytest.param({"in_view": 0.2}, id="a fifth in view"),
    pytest.param({"in_view": 0.8}, id="most in view"),
    pytest.param({"in_view": 1.0}, id="wholly in view"),
    pytest.param({"min_area": 150.0}, id="150 pixels"),
    pytest.param({"in_view": 0.5, "min_area": 300.0}, id="half in view and 300 pixels, in one frame"),
    pytest.param({"first_frame": True}, id="what the first frame lists"),
    pytest.param({"first_frame": True, "in_view": 0.6}, id="most in view of the first frame"),
]


@pytest.mark.parametrize("rule", RULES)
def test_targets_are_what_the_reference_says(rule: dict[str, Any], made: Make, reference: Reference) -> None:
    every, kept = made()[1], made(**rule)[1]
    judged = 0
    for name, record in every.items():
        found = reference.instances(kept[name]) if name in kept else []
        frames = [int(Path(file).stem) for file in record.video.frames]
        for instance, listing in reference.listed(record):
            use = [n for n in listing if n == frames[0]] if rule.get("first_frame") else listing
            looks = [reference.look(record.meta.scene, n, instance) for n in use]
            sure, possible = (
                any(
                    share >= rule.get("in_view", 0) + sign * (NOISE if rule.get("in_view") else 0)
                    and area >= rule.get("min_area", 0) * (1 + 0.1 * sign) + sign * 12 * bool(rule.get("min_area"))
                    for share, area in looks
                )
                for sign in (1, -1)
            )
            if sure == possible:
                judged += 1
                assert (instance in found) == sure, (name, instance, looks)
    assert judged > 30


@pytest.mark.parametrize("rule", RULES)
def test_what_stays_is_as_it_was_and_what_goes_is_counted(rule: dict[str, Any], made: Make) -> None:
    (_, every), (report, kept) = made(), made(**rule)
    assert 0 < len(kept) <= len(every)
    for name, record in kept.items():
        whole = every[name]
        boxes = [box for box in whole.target.boxes if box in record.target.boxes]
        assert list(record.target.boxes) == boxes
        assert record.model_copy(update={"target": whole.target, "answer": whole.answer}) == whole
    counts = report.counts
    left_out = sum(counts.get(key, 0) for key in COUNTED)
    assert left_out == sum(len(every[name].target.boxes) for name in kept) - counts["boxes"]
    assert left_out + sum(len(every[name].target.boxes) for name in every.keys() - kept.keys()) > 0
    lost = [row for row in report.rejects if row["what"] == "clip"]
    assert {row["id"] for row in lost} == every.keys() - kept.keys()
    assert {row["reason"] for row in lost} <= {"no target"}
    card = json.loads(report.card.read_text())
    assert {key: card["options"][key] for key in rule} == rule
    assert {key: card["counts"].get(key) for key in COUNTED} == {key: counts.get(key) for key in COUNTED}


COUNTED = ("boxes_not_in_first_frame", "boxes_out_of_view", "boxes_too_small")


# A cube of 1 m at the world's origin: 10 m away it covers some 110 pixels, all in view; 2.5 m away it covers 2,500, of
# which the left border takes half.
FAR, NEAR = np.eye(4), np.eye(4)
FAR[2, 3], NEAR[2, 3] = -10, -2.5
NEAR[0, 3] = 1.25
WIDE, TELE = np.diag([100.0, 100, 1]), np.diag([2000.0, 2000, 1])
for _k in (WIDE, TELE):
    _k[:2, 2] = 49.5


@pytest.mark.parametrize(
    ("rule", "frames", "kept", "counted"),
    [
        pytest.param(ViewRule(0.9), [FAR], [0], {}, id="wholly in view"),
        pytest.param(ViewRule(0.9), [NEAR], [], {"boxes_out_of_view": 1}, id="half out of the picture"),
        pytest.param(ViewRule(0.4), [NEAR], [0], {}, id="half in view is enough"),
        pytest.param(ViewRule(0, 500), [FAR], [], {"boxes_too_small": 1}, id="too small"),
        pytest.param(ViewRule(0, 500), [NEAR], [0], {}, id="large enough"),
        pytest.param(ViewRule(0, 500), [FAR, NEAR], [0], {}, id="large enough in one frame"),
        pytest.param(ViewRule(0.9, 500), [FAR, NEAR], [], {"boxes_too_small": 1}, id="never both in one frame"),
        pytest.param(ViewRule(0.9, 100), [NEAR, FAR], [0], {}, id="both in the second frame"),
        pytest.param(ViewRule(0.9, 100, True), [NEAR, FAR], [], {"boxes_out_of_view": 1}, id="but not in the first"),
    ],
)
def test_one_frame_must_satisfy_both_limits(rule: ViewRule, frames: Any, kept: Any, counted: Any) -> None:
    listed = [Frame(n, pose, (0,)) for n, pose in enumerate(frames)]
    scan = Scan("a", np.eye(4), WIDE, tuple(listed), Boxes3D([[0, 0, 0, 1, 1, 1, 0, 0, 0]], ["chair"]))
    assert ViewFilter(rule, scan, (100, 100)).kept(listed, [0]) == (kept, counted)


@pytest.mark.parametrize("rule", [ViewRule(0.9), ViewRule(0, 500)])
def test_a_picture_s_own_camera_is_used(rule: ViewRule) -> None:
    listed = [Frame(0, FAR, (0,), "", TELE)]
    scan = Scan("a", np.eye(4), WIDE, tuple(listed), Boxes3D([[0, 0, 0, 1, 1, 1, 0, 0, 0]], ["chair"]))
    # Twenty times as near: it covers the whole picture, and much of it is out of view.
    assert ViewFilter(rule, scan, (100, 100)).kept(listed, [0])[0] == ([] if rule.in_view else [0])


def test_what_the_first_frame_does_not_list_is_counted_as_that() -> None:
    listed = [Frame(0, FAR, (1,)), Frame(1, FAR, (0, 1))]
    boxes = Boxes3D([[0, 0, 0, 1, 1, 1, 0, 0, 0], [20, 0, 0, 1, 1, 1, 0, 0, 0]], ["chair", "table"])
    scan = Scan("a", np.eye(4), WIDE, tuple(listed), boxes)
    found = ViewFilter(ViewRule(0.5, 0, True), scan, (100, 100)).kept(listed, [1, 0])
    assert found == ([], {"boxes_not_in_first_frame": 1, "boxes_out_of_view": 1})


def test_reasons_are_kept_apart(made: Make) -> None:
    assert {key for key in COUNTED if made(in_view=0.8)[0].counts.get(key)} == {"boxes_out_of_view"}
    assert {key for key in COUNTED if made(min_area=150.0)[0].counts.get(key)} == {"boxes_too_small"}
    assert {key for key in COUNTED if made(first_frame=True)[0].counts.get(key)} == {"boxes_not_in_first_frame"}


@pytest.mark.parametrize(
    ("loose", "strict"),
    [
        pytest.param({"in_view": 0.2}, {"in_view": 0.8}, id="more in view"),
        pytest.param({"in_view": 0.8}, {"in_view": 1.0}, id="all in view"),
        pytest.param({"min_area": 150.0}, {"min_area": 300.0}, id="a larger area"),
        pytest.param({"in_view": 0.5}, {"in_view": 0.5, "min_area": 300.0}, id="both limits"),
        pytest.param({"in_view": 0.6}, {"first_frame": True, "in_view": 0.6}, id="the first frame only"),
    ],
)
def test_a_stricter_rule_keeps_a_subset(loose: dict[str, Any], strict: dict[str, Any], made: Make) -> None:
    many, few = made(**loose)[1], made(**strict)[1]
    assert few.keys() <= many.keys()
    for name, record in few.items():
        assert all(box in many[name].target.boxes for box in record.target.boxes)
    assert sum(len(r.target.boxes) for r in few.values()) < sum(len(r.target.boxes) for r in many.values())


def test_without_a_limit_the_bytes_are_those_of_no_rule(rooms: Path, made: Make, tmp_path: Path) -> None:
    plain = made()[0]
    off = run(rooms, tmp_path / "off.jsonl", view=ViewRule())
    assert off.out.read_bytes() == plain.out.read_bytes()
    cards = [json.loads(report.card.read_text()) for report in (plain, off)]
    assert not {"in_view", "min_area", "first_frame"} & cards[0]["options"].keys()
    assert cards[0]["counts"] == cards[1]["counts"]


def test_a_scene_of_which_nothing_stays_is_told(rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(ProblemList, match="no target") as error:
        run(rooms, tmp_path / "a.jsonl", view=ViewRule(min_area=WIDTH * HEIGHT + 1))
    assert "--min-area" in (error.value.problems[0].hint or "")


def test_val_clips_are_chosen_among_those_that_have_targets(rooms: Path, made: Make, tmp_path: Path) -> None:
    every = made(min_area=300.0)[1]
    report = run(rooms, tmp_path / "v.jsonl", view=ViewRule(min_area=300.0), split=Split("val"), per_scene=2)
    found = {record.id: record for record in read_records(report.out).records}
    assert found.keys() <= every.keys()
    assert len(found) == sum(min(2, sum(r.meta.scene == s for r in every.values())) for s in
                             {r.meta.scene for r in every.values()})  # fmt: skip
    assert all(record.target == every[name].target for name, record in found.items())
    assert report.counts["boxes"] == sum(len(record.target.boxes) for record in found.values())


@pytest.fixture
def halved(rooms: Path, tmp_path: Path) -> Path:
    """Exported frames of half the size."""
    import io

    from PIL import Image

    folder = tmp_path / "posed_images"
    for scan in sorted((rooms / "scans").iterdir()):
        (folder / scan.name).mkdir(parents=True)
        for number, (_, colour, _) in enumerate(raw_frames(scan / f"{scan.name}.sens")):
            with Image.open(io.BytesIO(colour)) as image:
                image.resize((WIDTH // 2, HEIGHT // 2)).save(folder / scan.name / f"{number:05d}.jpg")
    return folder


@pytest.mark.parametrize(
    ("rule", "same"),
    [
        pytest.param(ViewRule(in_view=0.7), {"in_view": 0.7}, id="shares do not depend on the size"),
        pytest.param(ViewRule(min_area=50.0), {"min_area": 200.0}, id="areas are in the pictures' own pixels"),
    ],
)
def test_smaller_pictures(
    rooms: Path, halved: Path, made: Make, tmp_path: Path, rule: ViewRule, same: dict[str, Any]
) -> None:
    places = Places(rooms / "scans", halved, Store(halved, "posed_images"))
    found = read_records(run(rooms, tmp_path / "h.jsonl", places=places, view=rule).out).records
    assert {record.id: record.target for record in found} == {k: r.target for k, r in made(**same)[1].items()}


def test_without_annotations_the_same_rules_hold(rooms: Path, tmp_path: Path) -> None:
    counts = [
        run(rooms, tmp_path / f"{n}.jsonl", annotations=None, stride=3, view=rule).counts
        for n, rule in enumerate([None, ViewRule(in_view=0.5)])
    ]
    assert counts[1]["boxes"] + counts[1]["boxes_out_of_view"] <= counts[0]["boxes"]
    assert 0 < counts[1]["boxes"] < counts[0]["boxes"]


def test_a_pose_that_cannot_be_undone_is_left_out(rooms: Path, tmp_path: Path) -> None:
    data = infos(rooms)
    data["data_list"][0]["images"][12]["cam2global"] = np.zeros((4, 4)).tolist()
    report = run(rooms, tmp_path / "det.jsonl", annotations=write_infos(tmp_path / "infos.json", data))
    assert [(row["frame"], row["reason"]) for row in report.rejects] == [(12, "singular pose")]


def test_a_box_too_far_for_a_record_is_named(rooms: Path, tmp_path: Path) -> None:
    data = infos(rooms)
    for instance in data["data_list"][1]["instances"]:
        instance["bbox_3d"][0] = 1e9
    path = write_infos(tmp_path / "infos.json", data)
    report = run(rooms, tmp_path / "det.jsonl", annotations=path, policy=Policy(max_bad=0.5))
    (row,) = report.rejects
    assert (row["scene"], row["reason"]) == ("scene0001_00", "wrong annotations")
    assert "less than or equal" in row["detail"]
