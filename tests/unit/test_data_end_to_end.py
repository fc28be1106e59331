"""One small set of rooms through every ``prepare``: what was written is read again and proved from the scans' files.

Nothing of ``prepare`` is used to check it: geometry is numpy's and SciPy's, frames are cut out of ``.sens`` files here.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distance_reference import solved_distance as gap
from iou_reference import exact_iou
from posed_rooms import matrix, nine, write_posed
from small_rooms import build_rooms, infos, raw_frames
from typer.testing import CliRunner
from vgllm_files import corners, detection_row, grounding_row, save

from rft3d_cli.commands import rewards
from rft3d_cli.commands.prepare import app
from rft3d_cli.prepare.questions.recompute import recompute
from rft3d_cli.prepare.rooms.build import RoomsSpec, draw_scene
from rft3d_cli.prepare.rooms.render import FIRST_ITEM
from rft3d_cli.records import FrameList, Record, read_records

SPEC = RoomsSpec(scenes=3, seed=10, objects=(7, 9), seconds=4, fps=4, size=(96, 72), antialias=1, val=0)
FILES = ("scannet", "scanrefer", "vsibench", "spatialqa", "posed", "posed-spatialqa", "vgllm-det", "vgllm-refer")


@dataclass(frozen=True)
class Made:
    rooms: Path
    flats: Path
    out: Path

    def records(self, name: str) -> list[Record]:
        return _records(self.out / f"{name}.jsonl")

    @property
    def scenes(self) -> dict[str, dict[str, Any]]:
        return _scenes(self.rooms)


@cache
def _records(path: Path) -> list[Record]:
    return read_records(path).records


@cache
def _scenes(rooms: Path) -> dict[str, dict[str, Any]]:
    """Annotations by scene, classes by their names."""
    data = infos(rooms)
    names = {number: name for name, number in data["metainfo"]["categories"].items()}
    for entry in data["data_list"]:
        entry["labels"] = [names[item["bbox_label_3d"]] for item in entry["instances"]]
        entry["boxes"] = [item["bbox_3d"] for item in entry["instances"]]
    return {entry["sample_idx"].split("/")[1]: entry for entry in data["data_list"]}


@cache
def raw(made: Made, scene: str) -> list[tuple[np.ndarray, bytes, np.ndarray]]:
    return raw_frames(made.rooms / "scans" / scene / f"{scene}.sens")


def prepare(*words: object) -> None:
    result = CliRunner().invoke(app, [*map(str, words), "--workers", "1", "--quiet"])
    assert result.exit_code == 0, (words, result.output, result.exception)


def vgllm_rows(made: Made) -> dict[str, list[dict[str, Any]]]:
    """What VG-LLM's files would hold of the scans, from the annotations alone."""
    rows: dict[str, list[dict[str, Any]]] = {"det": [], "refer": []}
    told = json.loads((made.rooms / "ScanRefer_filtered_train.json").read_text())
    for scene, entry in made.scenes.items():
        align = np.array(entry["axis_align_matrix"])
        for start in range(0, 7, 3):
            numbers = range(start, start + 10, 3)
            shown = dict.fromkeys(i for n in numbers for i in entry["images"][n]["visible_instance_ids"])
            back = np.linalg.inv(align @ entry["images"][start]["cam2global"])
            boxes = [nine(back @ matrix(entry["boxes"][i]), entry["boxes"][i][3:6]) for i in shown]
            images = [f"scannet/posed_images/{scene}/{n:05d}.jpg" for n in numbers]
            labels = [entry["labels"][i] for i in shown]
            rows["det"].append(detection_row(images, labels, [list(map(float, box)) for box in boxes]))
        for row in (row for row in told if row["scene_id"] == scene):
            numbers, index = [0, 5, 10, 15], int(row["object_id"])
            seen = [k for k, n in enumerate(numbers) if index in entry["images"][n]["visible_instance_ids"]]
            if seen:
                pose = align @ entry["images"][numbers[seen[0]]]["cam2global"]
                box = nine(np.linalg.inv(pose) @ matrix(entry["boxes"][index]), entry["boxes"][index][3:6])
                cameras = {
                    "cam2img": entry["cam2img"],
                    "cam2global": [entry["images"][n]["cam2global"] for n in numbers],
                    "axis_align_matrix": entry["axis_align_matrix"],
                }
                images = [f"scannet/posed_images/{scene}/{n:05d}.jpg" for n in numbers]
                target = (seen[0], list(map(float, box)))
                rows["refer"].append(
                    grounding_row(images, row["description"], entry["boxes"][index], target, **cameras)
                )
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("whole")
    rooms = build_rooms(SPEC, folder / "rooms")
    made = Made(rooms, write_posed(rooms, folder / "flats", depth=True), folder / "out")
    out = made.out
    scans = ["--scans", rooms / "scans", "--annotations", rooms / "embodiedscan_infos_train.json"]
    scans += ["--split", "train", "--media", out / "media" / "scannet"]
    prepare("scannet", *scans, "-o", out / "scannet.jsonl")
    described = ["--descriptions", rooms / "ScanRefer_filtered_train.json", "--ground-truth", "instance"]
    prepare("scanrefer", *scans, *described, "--frames", 16, "-o", out / "scanrefer.jsonl")
    prepare("spatialqa", *scans, "--frames", 16, "-o", out / "spatialqa.jsonl")
    asked = ["--questions", rooms / "vsibench" / "train.jsonl", "--videos", rooms / "vsibench", "--split", "train"]
    prepare("vsibench", *asked, "--media-root", folder, "-o", out / "vsibench.jsonl")
    flats = ["--split", "train", "--media-root", made.flats]
    prepare("posed", "--scans", made.flats, *flats, "--stride", 3, "-o", out / "posed.jsonl")
    prepare("spatialqa", "--posed", made.flats, *flats, "--frames", 16, "-o", out / "posed-spatialqa.jsonl")
    for name, rows in vgllm_rows(made).items():
        save(folder / f"{name}_train.json", rows)
        # Frames that prepare scannet and scanrefer took out of the scans.
        prepare("vgllm", folder / f"{name}_train.json", "--media", out / "media", "-o", out / f"vgllm-{name}.jsonl")
    return made


@pytest.mark.parametrize("name", FILES)
def test_every_answer_is_worth_full_marks(made: Made, name: str) -> None:
    result = CliRunner().invoke(rewards.app, ["check", str(made.out / f"{name}.jsonl"), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    document = json.loads(result.stdout)
    rows = [row for row in document["rows"] if row["variant"] == "target" and row["reward"] != "length"]
    assert rows
    assert all(row["mean"] == 1 for row in rows), rows
    assert document["failures"] == []


@pytest.mark.parametrize("name", ["scannet", "posed", "vgllm-det"])
def test_boxes_hold_the_depth_pixels_of_their_objects(made: Made, name: str) -> None:
    """Of each object's pixels in a clip, placed by its frames' poses, the share within its target; 1 mm is rounding."""
    records = [record for record in made.records(name) if record.task == "detection"]
    drawn = {scene.name: (scene, images) for scene, _, images in (draw_scene(SPEC, i) for i in range(SPEC.scenes))}
    shares = []
    for record in records[::3]:
        scene_name = Path(record.video.frames[0]).parent.name
        if scene_name == "frames":
            scene_name = Path(record.video.frames[0]).parents[1].name
        scene, images = drawn[scene_name]
        entry = made.scenes[scene_name]
        numbers = [int(Path(frame).stem) for frame in record.video.frames]
        poses = [np.array(entry["images"][n]["cam2global"]) for n in numbers]
        k = np.array(entry["cam2img"])
        for box in record.target.boxes:
            first = np.linalg.inv(np.array(entry["axis_align_matrix"]) @ poses[0])
            centres = [(first @ [*item.box[:3], 1])[:3] for item in scene.items]
            which = int(np.argmin([np.linalg.norm(centre - box.bbox_3d[:3]) for centre in centres]))
            assert scene.items[which].label == box.label
            inside = total = 0
            for number, pose in zip(numbers, poses, strict=True):
                v, u = np.nonzero(images[number].instance == FIRST_ITEM + which)
                z = raw(made, scene_name)[number][2][v, u]
                points = np.stack([(u - k[0, 2]) / k[0, 0] * z, (v - k[1, 2]) / k[1, 1] * z, z, np.ones_like(z)])
                points = (np.linalg.inv(poses[0]) @ pose @ points)[:3]
                placed = matrix(box.bbox_3d)
                local = placed[:3, :3].T @ (points - placed[:3, 3:])
                inside += (np.abs(local) <= np.array(box.bbox_3d[3:6])[:, None] / 2 + 0.002).all(axis=0).sum()
                total += len(u)
            shares.append(inside / total)
    assert len(shares) > 10
    print(name, len(shares), min(shares), np.mean(shares))
    assert min(shares) > 0.99, sorted(shares)[:5]
    assert np.mean(shares) > 0.999


@pytest.mark.parametrize("name", ["scanrefer", "posed", "vgllm-refer"])
def test_grounding_targets_meet_the_described_box_in_the_world(made: Made, name: str) -> None:
    told = json.loads((made.rooms / "ScanRefer_filtered_train.json").read_text())
    worlds = {
        (row["scene_id"], row["description"].lower()): made.scenes[row["scene_id"]]["boxes"][int(row["object_id"])]
        for row in told
    }
    records = [record for record in made.records(name) if record.task == "grounding"]
    assert len(records) > 10
    for record in records:
        ((scene, _),) = [key for key in worlds if key[0] in record.video.frames[0] and key[1] in record.prompt.lower()]
        ((_, world),) = [item for item in worlds.items() if item[0][0] == scene and item[0][1] in record.prompt.lower()]
        camera = record.camera
        pose = np.array(camera.axis_align) @ np.array(camera.cam_to_world[record.target.frame])
        found = nine(pose @ matrix(record.target.bbox_3d), record.target.bbox_3d[3:6])
        assert exact_iou(found, world) > 0.99
        assert exact_iou(record.target.bbox_world, world) > 0.99


@pytest.mark.parametrize("name", ["scannet", "scanrefer", "spatialqa", "posed", "posed-spatialqa", "vgllm-det"])
def test_frames_are_the_bytes_of_the_scan(made: Made, name: str) -> None:
    root = made.flats if name.startswith("posed") else made.out
    frames = {frame for record in made.records(name) for frame in record.video.frames}
    assert frames
    for frame in frames:
        (scene,) = [part for part in Path(frame).parts if part.startswith("scene")]
        assert (root / frame).read_bytes() == raw(made, scene)[int(Path(frame).stem)][1]


def test_numbers_and_directions_of_the_benchmark_follow_from_the_boxes(made: Made) -> None:
    checked = set()
    for record in made.records("vsibench"):
        entry = made.scenes[record.meta.scene]
        boxes = {label: np.array(box) for label, box in zip(entry["labels"], entry["boxes"], strict=True)}
        kind, text = record.meta.question_type or "", record.prompt
        if kind == "object_counting":
            assert record.target.value == entry["labels"].count(re.search(r"How many (\w+)\(s\)", text)[1])
        elif kind == "object_abs_distance":
            a, b = re.search(r"How far apart are the (\w+) and the (\w+),", text).groups()
            assert record.target.value == pytest.approx(gap(boxes[a], boxes[b]), abs=0.065)
        elif kind == "object_size_estimation":
            longest = max(boxes[re.search(r"of the (\w+), in cent", text)[1]][3:6])
            assert record.target.value == pytest.approx(100 * longest, abs=0.51)
        elif kind.startswith("object_rel_direction"):
            names = re.search(r"stand at the (\w+) and look toward the (\w+)\. Where is the (\w+) ", text).groups()
            at, to, what = (complex(*boxes[name][:2]) for name in names)
            angle = np.degrees(np.angle((what - at) / (to - at)))
            side = "left" if angle > 0 else "right"
            quarter = f"{'front' if abs(angle) < 90 else 'back'}-{side}"
            right = {"easy": side, "medium": "back" if abs(angle) > 135 else side, "hard": quarter}
            (option,) = [option[3:] for option in record.target.options if option[0] == record.target.letter]
            assert option == right[kind.rpartition("_")[2]]
            kind = "direction"
        else:
            continue
        checked.add(kind)
    assert len(checked) == 4


@pytest.mark.parametrize("name", ["spatialqa", "posed-spatialqa"])
def test_questions_about_scans_are_answered_again_from_their_metadata(made: Made, name: str) -> None:
    records = made.records(name)
    for record in records:
        assert recompute(record) == record.answer
        for thing in (record.meta.model_extra or {})["objects"]:
            entry = made.scenes[record.meta.scene]
            (same,) = [i for i, box in enumerate(entry["boxes"]) if np.allclose(box[:3], thing["box"][:3], atol=1e-5)]
            assert entry["labels"][same] == thing["label"]
    assert len({record.meta.question_type for record in records}) >= 7


def test_vgllm_files_of_the_same_scans_give_the_same_records(made: Made) -> None:
    """Their boxes were computed with SciPy from the annotations; ours come from the scans."""
    ours = {tuple(Path(f).as_posix()[-30:] for f in r.video.frames): r for r in made.records("scannet")}
    theirs = made.records("vgllm-det")
    for record in theirs:
        other = ours[tuple(Path(f).as_posix()[-30:] for f in record.video.frames)]
        assert record.prompt == other.prompt
        assert [box.label for box in record.target.boxes] == [box.label for box in other.target.boxes]
        for a, b in zip(record.target.boxes, other.target.boxes, strict=True):
            assert np.allclose(corners(np.array(a.bbox_3d)), corners(np.array(b.bbox_3d)), atol=1e-4)
    assert len(theirs) == 3 * SPEC.scenes


def test_ids_are_unique_and_media_are_there(made: Made) -> None:
    roots = {"vsibench": made.out.parent, "posed": made.flats, "posed-spatialqa": made.flats}
    for name in FILES:
        root = roots.get(name, made.out)
        records = made.records(name)
        assert len({record.id for record in records}) == len(records)
        wanted = itertools.chain.from_iterable(
            record.video.frames if isinstance(record.video, FrameList) else [record.video.path] for record in records
        )
        assert all((root / path).is_file() for path in set(wanted))


def test_the_page_of_records_names_every_key_of_meta(made: Made) -> None:
    page = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    table = page.partition("## Meta")[2].partition("## Predictions")[0]
    named = {name for row in re.findall(r"^\|(.*?)\|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    written = {key for name in FILES for record in made.records(name) for key in record.meta.model_dump()}
    assert written <= named, written - named
