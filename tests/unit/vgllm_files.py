"""VG-LLM's files for tests, written from exact geometry by SciPy and numpy alone; no code of ``prepare`` is shared."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

ORDER = {"intrinsic": "ZXY", "extrinsic": "zxy"}
"""SciPy's names: upper case turns about the body's axes, lower case about the fixed ones."""
SIZE = (1296, 968)
INTRINSIC = [[1170.2, 0.0, 647.75, 0.0], [0.0, 1170.2, 483.75, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
DETECT = (
    "Detect the 3D bounding boxes in the camera coordinate system of the first frame.\n"
    'Output a json list where each entry contains the object name in "label" and its 3D bounding box in "bbox_3d".\n'
    "The 3D bounding box format should be "
    "[x_center, y_center, z_center, x_size, y_size, z_size, yaw, roll, pitch]."
)
LOCALIZE = (
    "Localize the first clear frame in the video showing the object described in the text.\nText: {}\n"
    'Output a JSON dictionary with the frame index in "frame" and its 3D bounding box in "bbox_3d" in the frame\'s '
    "coordinates.\n"
)


def look(position: Any, target: Any) -> np.ndarray:
    """Pose of a level camera (OpenCV axes) that looks from one point to another."""
    forward = np.asarray(target, float) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = position
    return pose


def yawed(yaw: float) -> np.ndarray:
    return Rotation.from_euler("z", yaw).as_matrix()


def in_camera(centre: Any, size: Any, rotation: np.ndarray, placed: np.ndarray, era: str) -> list[float]:
    """The nine numbers that VG-LLM writes for a box of the world, seen by the camera at ``placed`` in that world."""
    back = np.linalg.inv(placed)
    angles = Rotation.from_matrix(back[:3, :3] @ rotation).as_euler(ORDER[era])
    return [*(back[:3, :3] @ centre + back[:3, 3]).tolist(), *map(float, size), *angles.tolist()]


def matrix(box: Any, era: str) -> np.ndarray:
    """Rotation of a stored box as its era means it."""
    return Rotation.from_euler(ORDER[era], box[6:9]).as_matrix()


def corners(box: Any, era: str = "intrinsic") -> np.ndarray:
    """Corners of a stored box."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
    return (signs * box[3:6]) @ matrix(box, era).T + box[:3]


def two(numbers: Any) -> list[float]:
    return [round(float(x), 2) for x in numbers]


def talk(human: str, gpt: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]


def names(scene: str, numbers: Any) -> list[str]:
    return [f"scannet/posed_images/{scene}/{number:05d}.jpg" for number in numbers]


def cameras(poses: Any, align: Any, intrinsic: Any = None) -> dict[str, Any]:
    return {
        "cam2img": INTRINSIC if intrinsic is None else intrinsic,
        "cam2global": [np.asarray(pose).tolist() for pose in poses],
        "axis_align_matrix": np.asarray(align).tolist(),
    }


def detection_answer(labels: list[str], boxes: list[list[float]]) -> str:
    lines = [json.dumps({"label": label, "bbox_3d": two(box)}) for label, box in zip(labels, boxes, strict=True)]
    return "```json\n[\n\t" + ",\n\t".join(lines) + "\n]```"


def detection_row(images: list[str], labels: list[str], boxes: list[list[float]], **more: Any) -> dict[str, Any]:
    return {
        "conversations": talk("<image>\n" * len(images) + DETECT, detection_answer(labels, boxes)),
        "images": images,
        "boxes": [{"bbox_3d": box, "label": label} for label, box in zip(labels, boxes, strict=True)],
        **more,
    }


def grounding_row(
    images: list[str], description: str, world: Any, target: tuple[int, list[float]] | None, **more: Any
) -> dict[str, Any]:
    prompt = LOCALIZE.format(description.capitalize())
    found = None if target is None else {"frame": target[0], "bbox_3d": target[1]}
    said = found and f"```json\n\t{json.dumps({**found, 'bbox_3d': two(found['bbox_3d'])})}\n```"
    return {
        "images": images,
        "conversations": talk("".join(f"Frame-{i}: <image>" for i in range(len(images))) + f"\n{prompt}", said or ""),
        "metadata": {"dataset": "scanrefer", "question_type": "unique", "ann_id": "3", "object_id": "11"},
        "target": found,
        "gt_bbox": list(map(float, world)),
        "prompt": prompt,
        **more,
    }


class Room:
    """A scan with furniture that stands upright, but for one piece, and a camera that walks about."""

    def __init__(self, seed: int, frames: int = 4, pieces: int = 7, free: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.scene = f"scene{seed:04d}_00"
        self.images = names(self.scene, range(0, 30 * frames, 30))
        self.align = np.eye(4)
        self.align[:3, :3], self.align[:3, 3] = yawed(rng.uniform(-1, 1)), [0.3, -0.2, 0.05]
        aligned = [
            look([rng.uniform(-1, 1), rng.uniform(-4, -3), rng.uniform(1.2, 1.8)], [*rng.uniform(-1, 1, 2), 0.6])
            for _ in range(frames)
        ]
        self.placed = np.stack(aligned)
        self.poses = np.linalg.inv(self.align) @ self.placed
        self.centres = np.column_stack([rng.uniform(-1.5, 1.5, (pieces, 2)), rng.uniform(0.3, 1.2, pieces)])
        self.sizes = rng.uniform(0.3, 1.5, (pieces, 3))
        turns = [yawed(yaw) for yaw in rng.uniform(-3, 3, pieces)]
        turns[:free] = [Rotation.random(random_state=seed).as_matrix() for _ in range(free)]
        self.turns = turns
        self.labels = [["chair", "table", "bed"][i % 3] for i in range(pieces)]

    def boxes(self, era: str, frame: int = 0) -> list[list[float]]:
        return [
            in_camera(c, s, r, self.placed[frame], era)
            for c, s, r in zip(self.centres, self.sizes, self.turns, strict=True)
        ]

    def detection(self, era: str, with_cameras: bool = False) -> dict[str, Any]:
        more = cameras(self.poses, self.align) if with_cameras else {}
        return detection_row(self.images, self.labels, self.boxes(era), **more)

    def world(self, piece: int) -> list[float]:
        """A piece as ScanRefer has it: along the axes of the world."""
        return [*self.centres[piece].tolist(), *self.sizes[piece].tolist(), 0.0, 0.0, 0.0]

    def grounding(self, era: str, piece: int = 1, frame: int | None = 1, with_cameras: bool = True) -> dict[str, Any]:
        world, target = self.world(piece), None
        if frame is not None:
            target = frame, in_camera(world[:3], world[3:6], np.eye(3), self.placed[frame], era)
        more = cameras(self.poses, self.align) if with_cameras else {}
        return grounding_row(self.images, "the RED chair by the door.", world, target, **more)


def save(path: Path, rows: list[Any], indent: int | None = None) -> Path:
    """Write a list, or for ``.jsonl`` one row a line."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    return path


@cache
def picture(size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size).save(stream, "JPEG")
    return stream.getvalue()


def add_images(media: Path, rows: list[Any], size: tuple[int, int] = SIZE) -> Path:
    """Empty pictures for all rows."""
    for name in {name for row in rows if isinstance(row, dict) for name in row.get("images") or []}:
        path = media / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(size))
    return media
