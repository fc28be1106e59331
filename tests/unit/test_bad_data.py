"""What bad files do to a whole command, row by row: one part is left out with its reason, or the command refuses.

Either way nothing else is lost (the other parts' lines stay the same to the byte) and nothing is half-written. The
readers' own tables are in the tests of each reader.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from posed_rooms import write_posed
from small_rooms import build_rooms, infos, write_infos
from typer.testing import CliRunner, Result
from video_clips import hum, make

from rft3d_cli.commands.prepare import app
from rft3d_cli.errors import Rft3dError
from rft3d_cli.prepare.rooms.build import RoomsSpec

SPEC = RoomsSpec(scenes=3, seed=4, objects=(3, 4), seconds=3, fps=4, size=(96, 72), antialias=1, val=0, clips=False)
VICTIM = "scene0001_00"
INFOS = "rooms/embodiedscan_infos_train.json"
SCANS = f"--scans rooms/scans --annotations {INFOS} --split train"
LINES = {
    "scannet": f"scannet {SCANS} --media out/media",
    "scanrefer": f"scanrefer {SCANS} --media out/media --descriptions rooms/ScanRefer_filtered_train.json --frames 8",
    "spatialqa": f"spatialqa {SCANS} --media out/media --types object_abs_distance,object_size_estimation --frames 8",
    "posed": "posed --scans flats --split train --stride 3",
    "video": "video --videos clips --questions questions.jsonl --split train",
    "vsibench": "vsibench --questions vsi/test.jsonl --videos vsi",
}
QUESTION = {"dataset": "scannet", "question_type": "object_counting", "question": "How many?", "options": None}
FIELDS = ("version", "name length", "name", "colour matrix", "depth matrix", "kinds", "sizes", "shift", "frames")
FIELDS += ("pose", "times", "lengths", "colour", "depth", "second pose", "last byte")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything whole, and what each command makes of it."""
    root = tmp_path_factory.mktemp("sound")
    write_posed(build_rooms(SPEC, root / "rooms"), root / "flats", depth=True)
    (root / "clips").mkdir()
    rows = []
    for number in range(3):
        make(root / "clips" / f"{number}.mp4", 12, container={"movflags": "faststart"})
        rows += [
            {"video": f"{number}.mp4", "question": "How many?", "answer": number, "scene": f"scene{number:04d}_00"}
        ]
    save(root / "questions.jsonl", rows)
    (root / "vsi").mkdir()
    rows = [{"id": n, "scene_name": f"scene{n:04d}_00", "ground_truth": str(n), **QUESTION} for n in range(3)]
    save(root / "vsi" / "test.jsonl", rows)
    pack(root, {f"scannet/scene{n:04d}_00.mp4": b"film" for n in range(3)})
    here = Path.cwd()
    os.chdir(root)
    try:
        for name in LINES:
            assert command(name).exit_code == 0
            (root / "out" / "train.jsonl").rename(root / f"{name}.good")
            shutil.rmtree(root / "out")
    finally:
        os.chdir(here)
    return root


@pytest.fixture
def here(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(sound, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def command(name: str, *more: str) -> Result:
    words = [*LINES[name].split(), "-o", "out/train.jsonl", "--workers", "1", "--quiet", *more]
    return CliRunner().invoke(app, words)


def save(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pack(root: Path, members: dict[Any, bytes]) -> None:
    with zipfile.ZipFile(root / "vsi" / "scannet.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def member(name: Any, content: bytes = b"x") -> Callable[[Path], None]:
    films = {f"scannet/scene{n:04d}_00.mp4": b"film" for n in range(3)}
    return lambda root: pack(root, {**films, name: content})


def ends(field: str) -> Callable[[Path], None]:
    """Cut the victim's ``.sens`` file within a field."""

    def damage(root: Path) -> None:
        path = root / "rooms" / "scans" / VICTIM / f"{VICTIM}.sens"
        data = path.read_bytes()
        name = int.from_bytes(data[4:12], "little")
        at = 12 + name
        frame = at + 4 * 64 + 2 * 4 + 4 * 4 + 4 + 8
        colour, depth = (int.from_bytes(data[frame + 80 + 8 * i : frame + 88 + 8 * i], "little") for i in (0, 1))
        pixels = frame + 96
        offsets = (0, 4, 12, at, at + 128, at + 256, at + 264, at + 280, at + 284)
        offsets += (frame, frame + 64, frame + 80, pixels, pixels + colour, pixels + colour + depth, len(data) - 10)
        path.write_bytes(data[: dict(zip(FIELDS, offsets, strict=True))[field] + 1])

    return damage


def annotated(edit: Callable[[dict[str, Any], list[Any]], Any]) -> Callable[[Path], None]:
    """Change the victim's entry; the edit also gets the list of all."""

    def damage(root: Path) -> None:
        data = infos(root / "rooms")
        (entry,) = (entry for entry in data["data_list"] if VICTIM in entry["sample_idx"])
        edit(entry, data["data_list"])
        write_infos(root / INFOS, data)

    return damage


def posed(name: str, edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "flats" / VICTIM / f"{name}.json"
        value = json.loads(path.read_text())
        edit(value)
        path.write_text(json.dumps(value))

    return damage


def every_pose(value: float) -> Callable[[dict[str, Any], list[Any]], None]:
    return lambda entry, _: [image.update(cam2global=[[value] * 4] * 4) for image in entry["images"]]


def clip(kind: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "clips" / "1.mp4"
        data = path.read_bytes()
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "text": b"no film" * 99}.get(kind, data))
        if kind == "sound":
            with av.open(str(path), "w") as output:
                hum(output, output.add_stream("aac", rate=44100))

    return damage


def rows(edit: Callable[[list[dict[str, Any]]], Any], name: str = "questions.jsonl") -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        found = [json.loads(line) for line in (root / name).read_text().splitlines()]
        edit(found)
        save(root / name, found)

    return damage


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("marker",)


def hostile(protocol: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / "rooms" / "infos.pkl").write_bytes(pickle.dumps({"metainfo": Bomb(), "data_list": []}, protocol))

    return damage


def without(*names: str) -> Callable[[Path], None]:
    return lambda root: [(root / name).unlink() for name in names] and None


NAN, INF = float("nan"), float("-inf")
LEFT_OUT = [
    *[pytest.param("scannet", ends(field), "damaged .sens", id=f"sens ends in {field}") for field in FIELDS],
    pytest.param("scanrefer", ends("frames"), "damaged .sens", id="grounding, sens ends"),
    pytest.param("spatialqa", ends("frames"), "damaged .sens", id="questions, sens ends"),
    pytest.param("scannet", without(f"rooms/scans/{VICTIM}/{VICTIM}.sens"), "missing .sens", id="no sens"),
    pytest.param("scanrefer", annotated(every_pose(NAN)), "no tracked frame", id="grounding, all poses NaN"),
    pytest.param("spatialqa", annotated(every_pose(INF)), "no tracked frame", id="questions, all poses -inf"),
    pytest.param("scannet", annotated(lambda e, _: e.pop("images")), "wrong annotations", id="an entry without images"),
    pytest.param(
        "scanrefer", annotated(lambda e, all_: all_.remove(e)), "no annotations", id="a scene without annotations"
    ),
    pytest.param(
        "scannet",
        annotated(lambda e, _: e["instances"][0].update(bbox_label_3d=999)),
        "wrong annotations",
        id="an unknown label",
    ),
    pytest.param("scannet", annotated(lambda e, all_: all_.append(e)), "wrong annotations", id="a scene listed twice"),
    pytest.param("posed", without(f"flats/{VICTIM}/boxes.json"), "no boxes.json", id="posed, no annotations"),
    pytest.param("posed", posed("boxes", lambda b: b[0].pop("label")), "wrong boxes.json", id="posed, no label"),
    pytest.param("posed", posed("boxes", lambda b: b[1].update(id="0")), "ids that repeat", id="posed, an id twice"),
    pytest.param(
        "posed",
        posed("cameras", lambda c: [f.update(cam_to_world=[[NAN] * 4] * 4) for f in c["frames"].values()]),
        "no usable frame",
        id="posed, all poses NaN",
    ),
    pytest.param("video", clip("sound"), "unusable video", id="mp4 of sound alone"),
    pytest.param("video", clip("empty"), "unusable video", id="empty mp4"),
    pytest.param("video", clip("half"), "unusable video", id="half-written mp4"),
    pytest.param("video", clip("text"), "unusable video", id="mp4 of text"),
    pytest.param("video", rows(lambda r: r[1].update(answer=None)), "wrong row", id="a question without an answer"),
]


def others(name: str) -> list[str]:
    """The lines of the parts that were not touched."""
    lines = Path(f"{name}.good").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["meta"]["scene"] != VICTIM]
    assert 0 < len(kept) < len(lines)
    return kept


def nothing_half_written() -> None:
    assert not [path for path in Path().rglob("*") if ".tmp" in path.name]
    assert not Path("marker").exists()


@pytest.mark.parametrize(("name", "damage", "reason"), LEFT_OUT)
def test_a_bad_part_is_left_out_with_its_reason_and_nothing_else_is_lost(
    here: Path, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    kept = others(name)
    damage(here)
    refused = command(name)
    assert isinstance(refused.exception, Rft3dError), refused.output
    assert refused.exception.exit_code == 3
    assert not Path("out/train.jsonl").exists()
    nothing_half_written()
    result = command(name, "--max-bad", "0.9")
    assert result.exit_code == 0, (result.output, result.exception)
    assert Path("out/train.jsonl").read_text().splitlines() == kept
    left = [json.loads(line) for line in Path("out/train.rejects.jsonl").read_text().splitlines()]
    assert reason in {row["reason"] for row in left}
    assert not Path("out/train.unfinished").exists()
    nothing_half_written()


THINNED = [
    pytest.param(
        "scannet", annotated(lambda e, _: e["images"][-1].update(cam2global=[[NAN] * 4] * 4)), id="one pose NaN"
    ),
    pytest.param(
        "scannet", annotated(lambda e, _: e["images"][-1].update(cam2global=[[INF] * 4] * 4)), id="one pose -inf"
    ),
    pytest.param(
        "posed",
        posed("cameras", lambda c: c["frames"]["00011.jpg"].update(cam_to_world=[[INF] * 4] * 4)),
        id="posed, one pose -inf",
    ),
]


@pytest.mark.parametrize(("name", "damage"), THINNED)
def test_a_lost_frame_is_left_out_of_its_scan_alone(here: Path, name: str, damage: Callable[[Path], None]) -> None:
    kept = others(name)
    damage(here)
    assert command(name).exit_code == 0
    lines = Path("out/train.jsonl").read_text().splitlines()
    assert [line for line in lines if VICTIM not in json.loads(line)["id"]] == kept
    mine = [json.loads(line) for line in lines if VICTIM in json.loads(line)["id"]]
    assert mine
    assert not [frame for record in mine for frame in record["video"]["frames"] if "00011" in frame]
    left = [json.loads(line) for line in Path("out/train.rejects.jsonl").read_text().splitlines()]
    assert [(row["what"], row["reason"]) for row in left if row["scene"] == VICTIM and row["what"] == "frame"] == [
        ("frame", "non-finite pose")
    ]
    nothing_half_written()


REFUSED = [
    *[
        pytest.param("scannet", hostile(n), "not a pickle of plain data", id=f"hostile pickle, protocol {n}")
        for n in range(6)
    ],
    pytest.param("scannet", without(INFOS), "there is no file", id="no annotations at all"),
    pytest.param("scannet", lambda root: (root / INFOS).write_text('{"metainfo"'), "not JSON", id="torn annotations"),
    pytest.param("vsibench", member("../evil"), "not safe", id="zip entry that climbs"),
    pytest.param("vsibench", member("/tmp/evil"), "not safe", id="zip entry with an absolute name"),
    pytest.param("vsibench", member(link("scannet/other.mp4"), b"/etc/passwd"), "link", id="zip entry that is a link"),
    pytest.param("vsibench", member("scannet/scene0001_00.mp4", bytes(9_000_000)), "unpacks to", id="zip bomb"),
    pytest.param(
        "vsibench", lambda root: (root / "vsi/scannet.zip").write_bytes(b"PK\x03\x04"), "zip", id="half a zip file"
    ),
    pytest.param("video", without("clips/1.mp4"), "1 of 3 videos are missing", id="a video that is not there"),
]


@pytest.mark.parametrize(("name", "damage", "words"), REFUSED)
def test_what_cannot_be_trusted_is_refused_in_one_line(
    here: Path, name: str, damage: Callable[[Path], None], words: str
) -> None:
    damage(here)
    before = [path for path in here.rglob("*") if path.is_file()]
    pickled = ["--annotations", "rooms/infos.pkl"] if Path("rooms/infos.pkl").exists() else []
    result = command(name, *pickled)
    assert isinstance(result.exception, Rft3dError), result.output
    assert result.exception.exit_code == 3
    assert words in result.exception.message
    assert "\n" not in result.exception.message
    # Videos that an archive gave before its bad one are whole; nothing else is new.
    new = {path for path in here.rglob("*") if path.is_file()} - {*before}
    assert {path.read_bytes() for path in new} <= {b"film"}
    nothing_half_written()


def test_these_pickles_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        pickle.loads(pickle.dumps({"metainfo": Bomb()}, protocol))
        Path("marker").rmdir()
