"""Records with known cameras, and what their frames must show, worked out without the code under test."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from rft3d_cli.records import Record, RecordFile

WIDTH, HEIGHT, FOCAL = 320, 240, 260.0
INTRINSIC = [[FOCAL, 0.0, 159.5], [0.0, FOCAL, 119.5], [0.0, 0.0, 1.0]]
GREY = 90
EYE = np.eye(4).tolist()


def pose(angles: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    out[:3, 3] = shift
    return out


POSES = [
    pose((-95, 3, 40), (1.0, 2.0, 1.5)),
    pose((-98, 0, 48), (1.3, 2.2, 1.4)),
    pose((-90, -2, 30), (0.8, 1.9, 1.6)),
]
"""Cameras that look about the same way, none along an axis."""
BEHIND = POSES[0] @ np.diag([-1.0, 1.0, -1.0, 1.0])
"""Where the first camera is, looking back."""
ALIGN = pose((0, 0, 25), (0.3, -0.2, 0.1))
BOX = [0.1, 0.05, 3.0, 0.8, 0.5, 0.6, 0.5, -0.3, 0.2]


def record(task: str = "detection", **changes: Any) -> Record:
    """A record of three frames."""
    targets: dict[str, Any] = {
        "detection": {"boxes": [{"label": "chair", "bbox_3d": BOX}]},
        "grounding": {"frame": 1, "bbox_3d": BOX, "bbox_world": BOX},
        "choice": {"letter": "B", "options": ["A. chair", "B. table"]},
        "number": {"value": 2.5},
        "text": {"references": ["A room."]},
    }
    data = {
        "id": task,
        "task": task,
        "video": {"frames": ["0.png", "1.png", "2.png"]},
        "prompt": "What is there?",
        "target": targets[task],
        "camera": {
            "intrinsic": INTRINSIC,
            "image_size": [WIDTH, HEIGHT],
            "cam_to_world": [p.tolist() for p in POSES],
            "axis_align": ALIGN.tolist(),
        },
        "meta": {"dataset": "greys", "scene": "grey0", "split": "val"},
    }
    return Record.model_validate({**data, **changes})


def camera(poses: list[np.ndarray], **changes: Any) -> dict[str, Any]:
    """A record's camera with other poses."""
    return {
        "intrinsic": INTRINSIC,
        "image_size": [WIDTH, HEIGHT],
        "cam_to_world": [np.asarray(p).tolist() for p in poses],
        "axis_align": ALIGN.tolist(),
        **changes,
    }


def grey_frames(folder: Path, count: int = 3, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """Grey frames ``0.png`` … in a folder."""
    for number in range(count):
        Image.new("RGB", size, (GREY, GREY, GREY)).save(folder / f"{number}.png")
    return folder


def source(folder: Path, *records: Record) -> RecordFile:
    return RecordFile(folder / "r.jsonl", folder, list(records))


def corners(box: list[float]) -> np.ndarray:
    """``(8, 3)``, by SciPy's rotations."""
    turn = Rotation.from_euler("ZXY", box[6:9]).as_matrix()
    signs = np.array(list(product((-0.5, 0.5), repeat=3)))
    return (signs * box[3:6]) @ turn.T + box[:3]


def pixels_in(frame: int, box: list[float], own: int, poses: list[np.ndarray], scale: float) -> np.ndarray:
    """``(8, 2)`` pixels of a box's corners in a frame enlarged by ``scale``, the box given in the frame ``own``."""
    points = np.concatenate([corners(box), np.ones((8, 1))], axis=1).T
    x, y, z, _ = np.linalg.solve(ALIGN @ poses[frame], ALIGN @ poses[own] @ points)
    u, v = FOCAL * x / z + 159.5, FOCAL * y / z + 119.5
    # Pixel centres are whole numbers, so the picture's edge lies half a pixel outside of 0.
    return np.stack([(u + 0.5) * scale - 0.5, (v + 0.5) * scale - 0.5], axis=1)
