from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from posed_rooms import SIZE, change, load, run, save, write_posed
from small_rooms import build_rooms

from rft3d_cli.errors import ProblemList
from rft3d_cli.prepare.pipeline import Policy
from rft3d_cli.prepare.rooms.build import RoomsSpec
from rft3d_cli.records import read_records

FEW = RoomsSpec(scenes=2, seed=5, objects=(2, 3), seconds=2.5, fps=4, size=SIZE, antialias=1, val=0, clips=False)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(FEW, tmp_path_factory.mktemp("posed") / "rooms")


@pytest.fixture(scope="module")
def plain(rooms: Path) -> Path:
    return write_posed(rooms, rooms.parent / "plain")


@pytest.fixture(scope="module")
def deep(rooms: Path) -> Path:
    return write_posed(rooms, rooms.parent / "deep", depth=True)


# ---- Hostile and mistaken input: (file, edit, reason, words of the detail)


def test_a_wrong_scan_is_an_error_unless_it_is_allowed_for(plain: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(plain, tmp_path / "scans")
    (scans / "scene0000_00" / "boxes.json").unlink()
    with pytest.raises(ProblemList, match="1 of 2 scenes cannot be used") as caught:
        run(scans, tmp_path / "a.jsonl")
    assert "no boxes.json" in caught.value.problems[1].message
    assert not (tmp_path / "a.jsonl").exists()


def entry(edit: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda cameras: edit(cameras["frames"]["00003.jpg"])


def rotate(edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], None]:
    def change_one(item: Any) -> None:
        pose = np.array(item["cam_to_world"])
        pose[:3, :3] = edit(pose[:3, :3])
        item["cam_to_world"] = pose.tolist()

    return entry(change_one)


def box(**fields: Any) -> Callable[[Any], None]:
    def change_one(boxes: Any) -> None:
        boxes[1] = {"label": "chair", **fields}

    return change_one


PLACE = {"center": [1, 1, 1], "size": [1, 1, 1]}
HOSTILE = [
    pytest.param("cameras", lambda c: [], "wrong cameras.json", "valid dictionary", id="a list"),
    pytest.param(
        "cameras",
        lambda c: c.pop("image_size") and None,
        "wrong cameras.json",
        "missing field image_size",
        id="no size",
    ),
    pytest.param("cameras", lambda c: c.update(image_size=[96, 0]), "wrong cameras.json", "image_size.1", id="size 0"),
    pytest.param(
        "cameras", lambda c: c.update(image_size=[72, 96]), "frame of another size", "96 × 72", id="size turned"
    ),
    pytest.param(
        "cameras", lambda c: c.update(axis_aligned=1), "wrong cameras.json", "did you mean axis_align?", id="misspelt"
    ),
    pytest.param(
        "cameras",
        lambda c: c.update(convention="colmap"),
        "wrong cameras.json",
        "'opencv' or 'opengl'",
        id="convention",
    ),
    pytest.param("cameras", lambda c: c.pop("intrinsic") and None, "no intrinsic", "00000.jpg", id="no intrinsic"),
    pytest.param(
        "cameras", lambda c: c.update(intrinsic=[[86, 0], [0, 86]]), "wrong cameras.json", "intrinsic", id="2 × 2"
    ),
    pytest.param(
        "cameras",
        lambda c: c.update(intrinsic=[[0, 0, 1], [0, 0, 1], [0, 0, 1]]),
        "wrong intrinsic",
        "fx, fy > 0",
        id="fx 0",
    ),
    pytest.param(
        "cameras",
        lambda c: c.update(intrinsic=np.transpose(c["intrinsic"]).tolist()),
        "wrong intrinsic",
        "transposed",
        id="intrinsic transposed",
    ),
    pytest.param(
        "cameras",
        lambda c: c.update(intrinsic=[[0.9, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]]),
        "wrong intrinsic",
        "in pixels",
        id="intrinsic normalised",
    ),
    pytest.param(
        "cameras",
        lambda c: c.update(axis_align=np.diag([2.0, 2, 2, 1]).tolist()),
        "wrong axis_align",
        "scales by 2",
        id="axis_align scales",
    ),
    pytest.param(
        "cameras",
        lambda c: c.update(frames={f"frames/{n}": e for n, e in c["frames"].items()}),
        "names that do not match",
        "'frames/00000.jpg'",
        id="paths for names",
    ),
    pytest.param("cameras", lambda c: c.update(frames={}), "no usable frame", "10 × no pose", id="no entries"),
    pytest.param(
        "cameras",
        entry(lambda e: e.update(cam_to_world=[[1, 0, 0, 0]] * 3)),
        "wrong cameras.json",
        "00003.jpg.cam_to_world",
        id="3 × 4",
    ),
    pytest.param(
        "cameras",
        entry(lambda e: e.update(cam_to_world=np.transpose(e["cam_to_world"]).tolist())),
        "pose that is not rigid",
        "00003.jpg is transposed",
        id="pose transposed",
    ),
    pytest.param(
        "cameras",
        entry(lambda e: e["cam_to_world"].__setitem__(3, [0, 0, 0, 2])),
        "pose that is not rigid",
        "last row 0 0 0 2",
        id="last row",
    ),
    pytest.param("cameras", rotate(lambda r: r * 1.02), "pose that is not rigid", "scales by 1.02", id="pose scales"),
    pytest.param("cameras", rotate(lambda r: r + 0.1), "pose that is not rigid", "from orthonormal", id="pose shears"),
    pytest.param("cameras", rotate(lambda r: r * [1, 1, -1]), "pose that is not rigid", "mirrors", id="pose mirrors"),
    pytest.param("cameras", rotate(np.zeros_like), "pose that is not rigid", "from orthonormal", id="pose of zeros"),
    pytest.param(
        "cameras", entry(lambda e: e.update(time="soon")), "wrong cameras.json", "00003.jpg.time", id="time in words"
    ),
    pytest.param(
        "cameras", entry(lambda e: e.update(time=math.nan)), "wrong cameras.json", "00003.jpg.time", id="time NaN"
    ),
    pytest.param(
        "cameras",
        entry(lambda e: e.update(time=0.1)),
        "times that do not increase",
        "00003.jpg (0.1 s) comes after 00002.jpg (0.5 s)",
        id="time goes back",
    ),
    pytest.param("boxes", lambda b: {"boxes": b}, "wrong boxes.json", "valid list", id="boxes in an object"),
    pytest.param(
        "boxes", box(bbox_3d=[0] * 9), "box without volume", "box 1 (chair) has the size 0 × 0 × 0", id="size 0 0 0"
    ),
    pytest.param(
        "boxes", box(bbox_3d=[0, 0, 0, 1, -1, 1, 0, 0, 0]), "box without volume", "1 × -1 × 1", id="negative size"
    ),
    pytest.param("boxes", box(bbox_3d=[0] * 7), "wrong boxes.json", "1.bbox_3d", id="seven numbers"),
    pytest.param("boxes", box(bbox_3d=[math.nan] * 9), "wrong boxes.json", "1.bbox_3d.0", id="NaN in a box"),
    pytest.param("boxes", box(center=[0, 0, 0]), "wrong box", "neither", id="no size of a box"),
    pytest.param("boxes", box(bbox_3d=[1] * 9, size=[1, 1, 1]), "wrong box", "one of the two", id="both forms"),
    pytest.param(
        "boxes",
        box(**PLACE, rotation=np.diag([1, 1, -1]).tolist()),
        "wrong rotation of a box",
        "mirrors",
        id="mirrored box",
    ),
    pytest.param(
        "boxes",
        box(**PLACE, rotation=[1, 1, 1, 1]),
        "wrong rotation of a box",
        "the length 2, not 1",
        id="long quaternion",
    ),
    pytest.param(
        "boxes", box(**PLACE, rotation=[0, 0, 0.3]), "wrong boxes.json", "rotation", id="Euler angles as rotation"
    ),
    pytest.param(
        "boxes", box(**PLACE, id="0"), "ids that repeat", "box 1 (chair) has the id '0' of box 0", id="id repeats"
    ),
    pytest.param("boxes", lambda b: b[1].update(label="  "), "wrong boxes.json", "1.label", id="no label"),
    pytest.param("boxes", lambda b: b[1].update(label="x" * 101), "wrong boxes.json", "1.label", id="long label"),
    pytest.param("boxes", lambda b: b[1].update(label="\ud800"), "wrong boxes.json", "1.label", id="half a character"),
    pytest.param(
        "boxes", lambda b: b[1].update(lable="x"), "wrong boxes.json", "did you mean label?", id="misspelt label"
    ),
    pytest.param("descriptions", lambda d: {}, "wrong descriptions.json", "valid list", id="descriptions in an object"),
]


@pytest.mark.parametrize(("file", "edit", "reason", "words"), HOSTILE)
def test_a_wrong_scan_is_quarantined_with_its_reason(
    plain: Path, tmp_path: Path, file: str, edit: Any, reason: str, words: str
) -> None:
    scans = shutil.copytree(plain, tmp_path / "scans")
    value = load(scans / "scene0000_00", file)
    changed = edit(value)
    save(scans / "scene0000_00", file, value if changed is None else changed)
    report = run(scans, tmp_path / "a.jsonl", Policy(max_bad=0.5))
    quarantined = [row for row in report.rejects if row["what"] == "scene"]
    assert [(row["scene"], row["reason"]) for row in quarantined] == [("scene0000_00", reason)]
    assert words in quarantined[0]["detail"]
    assert {record.meta.scene for record in read_records(report.out).records} == {"scene0001_00"}


FILES = [
    pytest.param("cameras.json", None, "no cameras.json", id="no cameras"),
    pytest.param("boxes.json", None, "no boxes.json", id="no boxes"),
    pytest.param("cameras.json", b'{"frames": ', "wrong cameras.json", id="half a file"),
    pytest.param("boxes.json", b"[" * 100_000, "wrong boxes.json", id="nested too deeply"),
    pytest.param("boxes.json", b"\xff\xfe\x00", "wrong boxes.json", id="bytes"),
    pytest.param("frames/00003.jpg", b"GIF89a", "damaged frame", id="no image"),
    pytest.param("frames/00003.png", b"", "frames of one name", id="two of one name"),
    pytest.param("frames/a:b.jpg", b"", "name that records cannot hold", id="colon"),
    pytest.param("frames/a\udcff.jpg", b"", "name that records cannot hold", id="a name that is not UTF-8"),
    pytest.param("depth/00003.png", b"\x89PNG\r\n\x1a\n", "damaged depth image", id="half a depth image"),
]


@pytest.mark.parametrize(("name", "data", "reason"), FILES)
def test_wrong_files_are_quarantined(deep: Path, tmp_path: Path, name: str, data: bytes | None, reason: str) -> None:
    scans = shutil.copytree(deep, tmp_path / "scans")
    file = scans / "scene0000_00" / name
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    report = run(scans, tmp_path / "a.jsonl", Policy(max_bad=0.5))
    assert [row["reason"] for row in report.rejects if row["what"] == "scene"] == [reason]


def picture(path: Path, mode: str, size: tuple[int, int], **options: Any) -> None:
    Image.new(mode, size).save(path, **options)


def test_frames_that_are_turned_when_read_are_refused(plain: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(plain, tmp_path / "scans")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(scans / "scene0000_00" / "frames" / "00003.jpg", "RGB", SIZE, exif=exif)
    report = run(scans, tmp_path / "a.jsonl", Policy(max_bad=0.5))
    assert [row["reason"] for row in report.rejects if row["what"] == "scene"] == ["frame turned by EXIF"]


@pytest.mark.parametrize(
    ("mode", "size", "reason"),
    [
        pytest.param("L", SIZE, "damaged depth image", id="8 bits"),
        pytest.param("RGB", SIZE, "damaged depth image", id="coloured"),
        pytest.param("I;16", (72, 96), "depth of another shape", id="turned"),
    ],
)
def test_depth_that_is_none_is_refused(deep: Path, tmp_path: Path, mode: str, size: Any, reason: str) -> None:
    scans = shutil.copytree(deep, tmp_path / "scans")
    picture(scans / "scene0000_00" / "depth" / "00003.png", mode, size)
    report = run(scans, tmp_path / "a.jsonl", Policy(max_bad=0.5))
    assert [row["reason"] for row in report.rejects if row["what"] == "scene"] == [reason]


DESCRIPTIONS = [
    pytest.param({"object": "77", "description": "It."}, "no box has the id '77'", id="unknown object"),
    pytest.param({"object": "0", "description": " \n"}, "description: ", id="no words"),
    pytest.param({"object": "0"}, "missing field description", id="no description"),
    pytest.param({"object": 0.5, "description": "It."}, "object: ", id="half an object"),
    pytest.param("The chair.", "valid dictionary", id="text alone"),
    pytest.param({"object": "0", "description": "\ud800"}, "half of a surrogate pair", id="half a character"),
    pytest.param({"object": "0", "description": "It. <image>"}, "stands for pixels", id="a mark for pixels"),
]


@pytest.mark.parametrize(("row", "words"), DESCRIPTIONS)
def test_wrong_descriptions_are_left_out_and_counted(plain: Path, tmp_path: Path, row: Any, words: str) -> None:
    scans = change(shutil.copytree(plain, tmp_path / "scans"), "descriptions", lambda d: [*d, row])
    report, base = run(scans, tmp_path / "a.jsonl"), run(plain, tmp_path / "b.jsonl")
    rows = [r for r in report.rejects if r["reason"] == "wrong entry"]
    assert len(rows) == 2
    assert words in rows[0]["entry"]
    assert report.records == base.records
