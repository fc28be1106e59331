"""Small rooms for tests, and readers of their frames that share no code with ``prepare``."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np

from rft3d_cli.prepare.rooms.build import RoomsSpec, build

SMALL = RoomsSpec(scenes=3, seed=5, objects=(4, 6), seconds=5, fps=4, size=(96, 72), antialias=1, val=0.34)
UNCERTAIN = RoomsSpec(
    scenes=3, seed=1, kind="uncertain", seconds=1.5, fps=4, size=(96, 72), antialias=1, val=0, clips=False
)
CLEAR = RoomsSpec(scenes=6, seed=3, kind="clear", seconds=1.5, fps=4, size=(96, 72), antialias=1, val=0.34)


def build_rooms(spec: RoomsSpec, folder: Path, workers: int = 1) -> Path:
    build(spec, folder, workers=workers)
    return folder


def infos(rooms: Path, split: str = "train") -> dict:
    return json.loads((rooms / f"embodiedscan_infos_{split}.json").read_text())


def write_infos(path: Path, data: dict) -> Path:
    path.write_text(json.dumps(data))
    return path


def raw_frames(path: Path) -> list[tuple[np.ndarray, bytes, np.ndarray]]:
    """Pose, colour bytes and depth in metres of every frame of a .sens file, straight from the format's description."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data, 4)
    at = 12 + length + 256
    _, _, _, _, width, height, shift, count = struct.unpack_from("<iiIIIIfQ", data, at)
    at += 36
    out = []
    for _ in range(count):
        pose = np.array(struct.unpack_from("<16f", data, at)).reshape(4, 4)
        colour, depth = struct.unpack_from("<QQ", data, at + 80)
        at += 96
        image = np.frombuffer(zlib.decompress(data[at + colour : at + colour + depth]), "<u2").reshape(height, width)
        out.append((pose, data[at : at + colour], image / shift))
        at += colour + depth
    return out
