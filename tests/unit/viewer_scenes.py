"""Scenes for the page of answers, and what it must show, worked out without the code under test."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.show.viewer import Said, Scene

WIDTH, HEIGHT, FOCAL = 320, 240, 260.0
INTRINSIC = np.array([[FOCAL, 0.0, 159.5], [0.0, FOCAL, 119.5], [0.0, 0.0, 1.0]])
CHAIR = [-0.4, 0.3, 2.5, 0.5, 0.9, 0.6, 0.5, -0.3, 0.2]
TABLE = [0.6, 0.4, 3.5, 1.2, 0.8, 0.7, 0.1, 1.4, 0.0]
HOSTILE = (
    '</script><script>alert("a")</script>',
    '<img src=x onerror=alert("b")>',
    '"><svg onload=alert(1)>',
    "\u2028\u2029\x00\x1b[31m\u202e]]><!--<script>",
    "&lt;b&gt; ' \" ` ${alert(2)}",
)


def pose(angles: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    out[:3, 3] = shift
    return out


POSES = np.stack(
    [
        pose((-95, 3, 40), (1.0, 2.0, 1.5)),
        pose((-98, 0, 46), (1.1, 2.1, 1.45)),
        pose((-94, -2, 33), (0.9, 1.9, 1.55)),
        pose((-96, 1, 43), (1.2, 1.8, 1.5)),
    ]
)
"""Cameras held upright in a world whose z is up, none along an axis."""


def images(count: int = 4, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[np.ndarray]:
    """Grey frames, each a little lighter than the one before."""
    return [np.full((size[1], size[0], 3), 60 + 2 * number % 190, np.uint8) for number in range(count)]


def answer(frame: int = 1, **changes: Any) -> Said:
    boxes = Boxes3D([CHAIR, TABLE], ["chair", "table"])
    words = ["chair, from the camera in frame 1: near", "table, from the camera in frame 1: farther"]
    return replace(Said("find every object", words, frame, boxes), **changes)


def scene(**changes: Any) -> Scene:
    """Four frames with known cameras, and one answer with a chair and a table."""
    times = [0.0, 0.5, 1.0, 1.5]
    made = Scene("clip.mp4", images(), times, INTRINSIC, POSES, POSES, "from its camera file", "", [answer()])
    return replace(made, **changes)


def questions() -> list[Said]:
    """Three: of two frames with boxes, and one without."""
    return [
        answer(),
        Said("where is the table", ["table, there"], 2, Boxes3D([TABLE], ["table"])),
        Said("how many doors are there?", ["2"], 0, Boxes3D([])),
    ]


def hostile() -> Scene:
    """Every text that a model or a file may choose, chosen by an enemy."""
    boxes = Boxes3D([CHAIR] * len(HOSTILE), list(HOSTILE))
    said = [Said(HOSTILE[0], list(HOSTILE), 0, boxes), Said(HOSTILE[1], HOSTILE[2:3], 1, boxes[:1])]
    return scene(title=HOSTILE[0], camera=HOSTILE[1], note=HOSTILE[2], said=said)


def corners(box: list[float]) -> np.ndarray:
    """``(8, 3)``, by SciPy's rotations."""
    turn = Rotation.from_euler("ZXY", box[6:9]).as_matrix()
    signs = np.array(list(product((-0.5, 0.5), repeat=3)))
    return (signs * box[3:6]) @ turn.T + box[:3]


def pixels_in(frame: int, box: list[float], own: int, scale: float = 1.0) -> np.ndarray:
    """``(8, 2)`` pixels of a box's corners in a frame's picture scaled by ``scale``, the box given in ``own``."""
    points = np.concatenate([corners(box), np.ones((8, 1))], axis=1).T
    x, y, z, _ = np.linalg.solve(POSES[frame], POSES[own] @ points)
    assert (z > 0.1).all()
    u, v = FOCAL * x / z + 159.5, FOCAL * y / z + 119.5
    return np.stack([(u + 0.5) * scale - 0.5, (v + 0.5) * scale - 0.5], axis=1)
