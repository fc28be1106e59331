from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_rooms import CLEAR, SMALL, UNCERTAIN, build_rooms, infos, raw_frames

from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.geometry.boxes import points_in_box, transform_boxes
from rft3d_cli.geometry.camera import unproject_depth
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Store
from rft3d_cli.prepare.rooms.build import RoomsSpec, build, draw_scene
from rft3d_cli.prepare.rooms.render import FIRST_ITEM, Image
from rft3d_cli.prepare.rooms.scene import Scene
from rft3d_cli.prepare.scanfiles import read_aggregation, read_ply_vertices, read_segments
from rft3d_cli.prepare.scannet import prepare_detection
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records

MARGIN = 0.003
"""Depth is written in whole millimetres."""


class Rooms:
    """A data set on disk beside the scenes it was drawn from."""

    def __init__(self, spec: RoomsSpec, folder: Path) -> None:
        self.spec, self.folder = spec, build_rooms(spec, folder)
        drawn = [draw_scene(spec, index) for index in range(spec.scenes)]
        self.scenes: dict[str, Scene] = {scene.name: scene for scene, _, _ in drawn}
        self.images: dict[str, list[Image]] = {scene.name: images for scene, _, images in drawn}

    def records(self, split: str) -> list[Record]:
        out = self.folder / f"{split}.jsonl"
        media = self.folder / "media"
        prepare_detection(
            scans=self.folder / "scans",
            annotations=self.folder / f"embodiedscan_infos_{split}.json",
            places=Places(self.folder / "scans", None, Store(media, "media")),
            split=Split(split),
            out=out,
            media_root=self.folder,
            frames=3,
            stride=2,
            policy=Policy(),
        )
        return read_records(out).records


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    return Rooms(SMALL, tmp_path_factory.mktemp("plain") / "rooms")


@pytest.fixture(scope="module")
def uncertain(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    return Rooms(UNCERTAIN, tmp_path_factory.mktemp("uncertain") / "rooms")


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    return Rooms(CLEAR, tmp_path_factory.mktemp("clear") / "rooms")


@pytest.fixture(params=["plain", "clear", "uncertain"])
def rooms(request: pytest.FixtureRequest) -> Rooms:
    return request.getfixturevalue(request.param)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    spec = RoomsSpec(scenes=4, seed=2, objects=(2, 3), seconds=1, fps=3, size=(48, 36), antialias=1, val=0.25)
    one, two = (build_rooms(spec, tmp_path / f"w{workers}", workers) for workers in (1, 2))
    assert contents(one) == contents(two)
    assert len(contents(one)) > 4 * 6


def test_another_seed_gives_other_rooms(plain: Rooms) -> None:
    scene, _, _ = draw_scene(RoomsSpec(**{**SMALL.__dict__, "seed": SMALL.seed + 1}), 0)
    assert not np.array_equal(scene.poses, plain.scenes["scene0000_00"].poses)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(DataError, match="exists already"):
        build(SMALL, tmp_path)
    assert contents(tmp_path) == {"mine": b"keep"}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"scenes": 0}, id="no scene"),
        pytest.param({"objects": (0, 3)}, id="no object"),
        pytest.param({"objects": (5, 3)}, id="more at least than at most"),
        pytest.param({"seconds": 0.01}, id="no frame"),
        pytest.param({"size": (8, 8)}, id="too small"),
        pytest.param({"antialias": 2}, id="no middle sample"),
        pytest.param({"val": 1.0}, id="no train scene"),
    ],
)
def test_impossible_rooms_are_usage_errors(fields: dict) -> None:
    with pytest.raises(UsageError):
        RoomsSpec(**{"scenes": 1, **fields})


def test_boxes_are_tight_around_the_mesh_of_each_object(rooms: Rooms) -> None:
    for name, scene in rooms.scenes.items():
        folder = rooms.folder / "scans" / name
        points = read_ply_vertices(folder / f"{name}_vh_clean_2.ply")
        aligned = points @ scene.axis_align[:3, :3].T + scene.axis_align[:3, 3]
        segments = read_segments(folder / f"{name}_vh_clean_2.0.010000.segs.json")
        groups = {g.object_id: g for g in read_aggregation(folder / f"{name}.aggregation.json")}
        for index, item in enumerate(scene.items):
            assert groups[index].label == item.label
            mine = aligned[np.isin(segments, groups[index].segments)] - item.box[:3]
            c, s = np.cos(item.box[6]), np.sin(item.box[6])
            local = np.stack([c * mine[:, 0] + s * mine[:, 1], -s * mine[:, 0] + c * mine[:, 1], mine[:, 2]], axis=1)
            np.testing.assert_allclose(local.max(axis=0), item.box[3:6] / 2, atol=2e-6)
            np.testing.assert_allclose(local.min(axis=0), -item.box[3:6] / 2, atol=2e-6)


def test_files_hold_what_was_drawn(rooms: Rooms) -> None:
    for name, scene in rooms.scenes.items():
        frames = raw_frames(rooms.folder / "scans" / name / f"{name}.sens")
        assert len(frames) == rooms.spec.frames
        for (pose, colour, depth), image, drawn in zip(frames, rooms.images[name], scene.scan_poses, strict=True):
            np.testing.assert_array_equal(pose, drawn)
            np.testing.assert_allclose(depth, image.depth, atol=0.00051)
            assert colour.startswith(b"\xff\xd8")


def test_depth_pixels_of_every_target_lie_in_its_box(rooms: Rooms) -> None:
    """The central promise: frames, cameras and boxes of a record agree with what the frames show."""
    annotated = {}
    checked = pixels = 0
    for split in ("train", "val") if rooms.spec.val else ("train",):
        annotated |= {entry["sample_idx"].split("/")[1]: entry for entry in infos(rooms.folder, split)["data_list"]}
        for record in rooms.records(split):
            entry, scene = annotated[record.meta.scene], rooms.scenes[record.meta.scene]
            numbers = [int(Path(frame).stem) for frame in record.video.frames]
            shown = dict.fromkeys(i for n in numbers for i in entry["images"][n]["visible_instance_ids"])
            instances = [i for i in shown if scene.items[i].label != "wall"]
            boxes = record.target.boxes
            assert [box.label for box in boxes] == [scene.items[i].label for i in instances]
            frames = raw_frames(rooms.folder / "scans" / scene.name / f"{scene.name}.sens")
            first = np.linalg.inv(record.camera.cam_to_world[0])
            for n, pose in zip(numbers, record.camera.cam_to_world, strict=True):
                points = unproject_depth(frames[n][2], record.camera.intrinsic)
                move = first @ np.array(pose)
                points = points @ move[:3, :3].T + move[:3, 3]
                for box, i in zip(boxes, instances, strict=True):
                    mine = points[rooms.images[scene.name][n].instance == FIRST_ITEM + i]
                    assert points_in_box(mine, box.bbox_3d, margin=MARGIN).all(), (record.id, box.label, n)
                    pixels += len(mine)
            for box, i in zip(boxes, instances, strict=True):
                np.testing.assert_allclose(box.bbox_3d[3:6], scene.items[i].box[3:6])
                checked += 1
    assert checked > 10
    assert pixels > 1000


def test_this_test_would_see_a_wrong_camera(plain: Rooms) -> None:
    record = plain.records("train")[0]
    scene = plain.scenes[record.meta.scene]
    n = int(Path(record.video.frames[0]).stem)
    image = plain.images[scene.name][n]
    points = unproject_depth(np.round(image.depth, 3), record.camera.intrinsic)
    visible = [i for i in range(len(scene.items)) if (image.instance == FIRST_ITEM + i).any()]
    wrong = np.eye(4)
    wrong[0, 3] = 0.02
    for box, i in zip(record.target.boxes, visible, strict=False):
        mine = points[image.instance == FIRST_ITEM + i]
        moved = transform_boxes(box.bbox_3d, wrong)
        if not points_in_box(mine, moved, margin=MARGIN).all():
            return
    pytest.fail("a shift of two centimetres went unseen")


def test_visible_ids_are_those_with_enough_pixels(plain: Rooms) -> None:
    for entry in infos(plain.folder)["data_list"]:
        scene = plain.scenes[entry["sample_idx"].split("/")[1]]
        for frame, image in zip(entry["images"], plain.images[scene.name], strict=True):
            counts = [(image.instance == FIRST_ITEM + i).sum() for i in range(len(scene.items))]
            expected = [i for i, count in enumerate(counts) if count >= 0.003 * 96 * 72 - 0.5]
            assert frame["visible_instance_ids"] == expected


def test_hidden_objects_show_no_pixel_and_are_targets_all_the_same(uncertain: Rooms) -> None:
    for name, scene in uncertain.scenes.items():
        assert scene.hidden
        for image in uncertain.images[name]:
            assert not np.isin(image.instance, [FIRST_ITEM + i for i in scene.hidden]).any()
    for record in uncertain.records("train"):
        scene = uncertain.scenes[record.meta.scene]
        found = [box.label for box in record.target.boxes]
        for i in scene.hidden:
            assert scene.items[i].label in found
        if record.id.endswith("00000"):
            # Frame 0 shows every visible piece: visible, hidden, out of view, as in the scene's own order.
            assert found == [item.label for item in scene.items if item.target]


def test_uncertain_rooms_hide_one_object_behind_the_partition(uncertain: Rooms) -> None:
    for scene in uncertain.scenes.values():
        (partition,) = (item for item in scene.items if not item.target)
        hidden = scene.items[scene.hidden[0]]
        eye = scene.poses[0][:2, 3]
        # From the camera, the partition's footprint covers the hidden piece's in angle, and is nearer.
        angles = [np.unwrap(np.arctan2(*(item.footprint - eye).T[::-1])) for item in (partition, hidden)]
        assert angles[0].min() < angles[1].min()
        assert angles[1].max() < angles[0].max()
        reach = [np.linalg.norm(item.footprint - eye, axis=1).min() for item in (partition, hidden)]
        assert reach[0] < reach[1]


def test_clear_rooms_show_every_piece_in_every_frame_and_say_which_is_which(clear: Rooms) -> None:
    described = {
        (entry["scene_id"], int(entry["object_id"]))
        for split in ("train", "val")
        for entry in json.loads((clear.folder / f"ScanRefer_filtered_{split}.json").read_text())
    }
    for name, scene in clear.scenes.items():
        assert 1 <= len(scene.items) <= 2
        assert scene.hidden == ()
        for image in clear.images[name]:
            assert np.isin([FIRST_ITEM + i for i in range(len(scene.items))], image.instance).all()
        for i, item in enumerate(scene.items):
            alone = sum(other.label == item.label for other in scene.items) == 1
            assert (name, i) in described or not alone
    assert (clear.folder / "vsibench" / "test.jsonl").read_text()
    assert len(list(clear.folder.rglob("*.mp4"))) == CLEAR.scenes


# ---- Language, read back by a checker that knows only the scene's items.


def outline(item: object) -> np.ndarray:
    """Points around a piece's footprint, a centimetre apart or less."""
    x, y, _, dx, dy, _, yaw, _, _ = item.box
    t = np.linspace(-0.5, 0.5, 241)
    low, high = np.full_like(t, -0.5), np.full_like(t, 0.5)
    edge = np.concatenate([np.stack(p, 1) for p in ((t, low), (t, high), (low, t), (high, t))]) * [dx, dy]
    c, s = np.cos(yaw), np.sin(yaw)
    return edge @ np.array([[c, s], [-s, c]]) + [x, y]


def gap(a: object, b: object) -> float:
    one, other = outline(a), outline(b)
    return float(np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1).min()))


def fitting(text: str, scene: Scene) -> list[int]:
    """Every piece that a description fits."""
    named = {label: [i for i, item in enumerate(scene.items) if item.label == label] for label in
             {item.label for item in scene.items}}  # fmt: skip
    colours = "|".join(sorted({item.colour_name for item in scene.items}))
    patterns = [
        (r"this is the (\w+)\.", lambda n: named[n]),
        (rf"the ({colours}) (\w+) in the room\.", lambda c, n: coloured(c, n)),
        (rf"the ({colours}) (\w+)\.", lambda c, n: coloured(c, n)),
        (rf"of all the (\w+)s, this is the ({colours}) one\.", lambda n, c: coloured(c, n)),
        (r"the (\w+) next to the (\w+)\.", lambda n, a: beside(named[n], a)),
        (rf"this is a ({colours}) (\w+)\. it is next to the (\w+)\.", lambda c, n, a: beside(coloured(c, n), a)),
        (r"the (\w+) closest to the (\w+)\.", lambda n, a: closest(named[n], a)),
    ]

    def coloured(colour: str, name: str) -> list[int]:
        return [i for i in named[name] if scene.items[i].colour_name == colour]

    def beside(candidates: list[int], anchor: str) -> list[int]:
        return [
            i for i in candidates
            if any(j != i and gap(scene.items[i], scene.items[j]) < 1.0 + 0.01 for j in named[anchor])
        ]  # fmt: skip

    def closest(candidates: list[int], anchor: str) -> list[int]:
        (there,) = named[anchor]
        gaps = [gap(scene.items[i], scene.items[there]) for i in candidates]
        return [i for i, g in zip(candidates, gaps, strict=True) if g < min(gaps) + 0.2]

    for pattern, find in patterns:
        match = re.fullmatch(pattern, text)
        if match:
            return find(*match.groups())
    raise AssertionError(f"an unknown kind of description: {text}")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    spec = RoomsSpec(scenes=6, seed=10, objects=(5, 8), seconds=10, fps=2, size=(64, 48), antialias=1, val=0.2)
    return Rooms(spec, tmp_path_factory.mktemp("spoken") / "rooms")


def test_every_description_singles_out_its_object(spoken: Rooms) -> None:
    texts = []
    for split in ("train", "val"):
        for row in json.loads((spoken.folder / f"ScanRefer_filtered_{split}.json").read_text()):
            scene = spoken.scenes[row["scene_id"]]
            assert fitting(row["description"], scene) == [int(row["object_id"])], row["description"]
            assert scene.items[int(row["object_id"])].label == row["object_name"]
            texts.append(row["description"])
    for phrase in ("closest to", "next to", "of all the", "in the room", "this is the"):
        assert any(phrase in text for text in texts), phrase


def bearing(a: object, b: object, c: object) -> float:
    """Degrees that one who stands at a and looks at b turns left to look at c."""
    ahead, there = complex(*(b.box[:2] - a.box[:2])), complex(*(c.box[:2] - a.box[:2]))
    return float(np.degrees(np.angle(there / ahead)))


def quarter(angle: float) -> str:
    return f"{'front' if abs(angle) < 90 else 'back'}-{'left' if angle > 0 else 'right'}"


def answer(row: dict, rooms: Rooms) -> str | float:
    """The answer to a question, computed anew."""
    scene = rooms.scenes[row["scene_name"]]
    items = [item for item in scene.items if item.target]

    def the(name: str) -> object:
        (item,) = (item for item in items if item.label == name)
        return item

    kind, text = row["question_type"], row["question"]
    if kind == "object_counting":
        return sum(item.label == re.match(r"How many (\w+)\(s\)", text)[1] for item in items)
    if kind == "object_abs_distance":
        return gap(*map(the, re.match(r"How far apart are the (\w+) and the (\w+),", text).groups()))
    if kind == "object_size_estimation":
        return 100 * max(the(re.search(r"of the (\w+), in cent", text)[1]).box[3:6])
    if kind == "room_size_estimation":
        return scene.size[0] * scene.size[1]
    if kind == "object_rel_distance":
        name, listed = re.match(r"Which of these stands closest to the (\w+), .*: (.*)\?", text).groups()
        return min(listed.split(", "), key=lambda other: gap(the(name), the(other)))
    if kind.startswith("object_rel_direction"):
        at, to, what = re.match(r"I stand at the (\w+) and look toward the (\w+)\. Where is the (\w+) ", text).groups()
        angle = bearing(the(at), the(to), the(what))
        side = "left" if angle > 0 else "right"
        return {"easy": side, "medium": "back" if abs(angle) > 135 else side, "hard": quarter(angle)}[
            kind.split("_")[-1]
        ]
    if kind == "route_planning":
        names = re.match(r"A robot starts at the (\w+), facing the (\w+), and is to reach the (\w+)\.", text).groups()
        a, b, c = map(the, names)
        heading, onward = complex(*(b.box[:2] - a.box[:2])), complex(*(c.box[:2] - b.box[:2]))
        angle = float(np.degrees(np.angle(onward / heading)))
        return "turn back" if abs(angle) > 135 else f"turn {'left' if angle > 0 else 'right'}"
    assert kind == "obj_appearance_order"
    names = re.search(r"in the video: (.*)\?", text)[1].split(", ")
    least = round(0.003 * np.prod(rooms.spec.size))

    def first(name: str) -> int:
        mine = [FIRST_ITEM + i for i, item in enumerate(scene.items) if item.label == name]
        images = rooms.images[scene.name]
        return next(n for n, im in enumerate(images) if any((im.instance == i).sum() >= least for i in mine))

    moments = [first(name) for name in names]
    assert len(set(moments)) == len(moments)
    return ", ".join(sorted(names, key=first))


def question_rows(rooms: Rooms) -> list[dict]:
    files = [rooms.folder / "vsibench" / name for name in ("train.jsonl", "test.jsonl")]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_every_question_has_the_right_answer(spoken: Rooms) -> None:
    rows = question_rows(spoken)
    tolerance = {"object_counting": 0, "object_size_estimation": 0.51, "object_abs_distance": 0.065}
    for row in rows:
        truth = answer(row, spoken)
        if row["options"] is None:
            assert float(row["ground_truth"]) == pytest.approx(truth, abs=tolerance.get(row["question_type"], 0.051))
        else:
            letters = {option[0]: option[3:] for option in row["options"]}
            assert len(set(letters.values())) == len(row["options"])
            assert letters[row["ground_truth"]] == truth, row
    assert len({row["question_type"] for row in rows}) == 10


def test_the_right_letter_is_not_always_the_same(spoken: Rooms) -> None:
    letters = {row["ground_truth"] for row in question_rows(spoken) if row["options"]}
    assert letters == set("ABCD")


def test_clips_have_a_frame_for_every_raw_frame(spoken: Rooms) -> None:
    from rft3d_cli.video import probe

    for name in itertools.islice(spoken.scenes, 2):
        info = probe(spoken.folder / "vsibench" / "rooms" / f"{name}.mp4")
        assert (info.width, info.height, info.frames) == (64, 48, spoken.spec.frames)
