"""A scene as a recording for Rerun's viewer, through the optional package rerun-sdk."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.errors import SetupError
from rft3d_cli.files import atomic_path
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.show.draw import PALETTE, label_colour
from rft3d_cli.show.viewer import Scene

EXTRA = 'pip install "rft3d[rerun]"'


def check_rerun() -> None:
    """Refuse where the package is missing, without loading it.

    Raises:
        SetupError: Where rerun-sdk is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("rerun")
    if spec is None or spec.origin is None:  # a folder of that name is no package
        raise SetupError("--rerun needs the package rerun-sdk", EXTRA)


def write_rrd(path: Path, scene: Scene) -> None:
    """Write a scene as a ``.rrd`` recording: the frames in their cameras, the camera's path and the boxes.

    Args:
        path: The file.
        scene: Frames, cameras and answers. Without poses every frame is a world of its own, and its boxes are shown
            while its time is.

    Raises:
        SetupError: Where rerun-sdk is not installed, or is of a version that cannot be used.
    """
    check_rerun()
    rr: Any = import_module("rerun")
    with atomic_path(path) as temporary:
        try:
            recording = rr.RecordingStream("rft3d")
            recording.save(str(temporary))
            _log(rr, recording, scene)
            recording.flush()
            recording.disconnect()
        except (AttributeError, TypeError) as error:
            raise SetupError(f"this version of rerun-sdk works otherwise: {error}", f"{EXTRA} --upgrade") from None


def _log(rr: Any, recording: Any, scene: Scene) -> None:
    poses = scene.poses
    if poses is None:
        recording.log("world", rr.ViewCoordinates.RDF, static=True)
    elif scene.path is not None:
        recording.log("world/path", rr.LineStrips3D([scene.path[:, :3, 3]], colors=[[160, 160, 160]]), static=True)
    height, width = scene.images[0].shape[:2]
    recording.log(
        "world/camera/image",
        rr.Pinhole(image_from_camera=scene.intrinsic, resolution=[width, height], camera_xyz=rr.ViewCoordinates.RDF),
        static=True,
    )
    several = len(scene.said) > 1
    for index, (image, seconds) in enumerate(zip(scene.images, scene.times, strict=True)):
        recording.set_time("video", duration=float(seconds))
        if poses is not None:
            pose = poses[index]
            recording.log("world/camera", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        recording.log("world/camera/image", rr.EncodedImage(contents=_jpeg(image), media_type="image/jpeg"))
        if poses is None:
            for number, said in enumerate(scene.said):
                if len(said.boxes):
                    shown = said.boxes if said.frame == index else said.boxes[0:0]
                    recording.log(f"world/boxes/{number + 1}", _boxes(rr, shown, number, several))
    for number, said in enumerate(scene.said):
        recording.log(f"answers/{number + 1}", rr.TextDocument("\n".join([said.question, *said.words])), static=True)
        if poses is not None and len(said.boxes):
            placed = said.boxes.transform(poses[said.frame])
            recording.log(f"world/boxes/{number + 1}", _boxes(rr, placed, number, several), static=True)


def _boxes(rr: Any, boxes: Any, number: int, several: bool) -> Any:
    rotations: Floats = boxes.rotations().reshape(-1, 3, 3)
    colours = [PALETTE[number % len(PALETTE)] if several else label_colour(label) for label in boxes.labels]
    return rr.Boxes3D(
        centers=boxes.centres,
        half_sizes=boxes.sizes / 2,
        quaternions=[rr.Quaternion(xyzw=_quaternion(rotation)) for rotation in rotations],
        labels=list(boxes.labels),
        colors=colours,
    )


def _quaternion(rotation: Floats) -> list[float]:
    """A rotation matrix as ``x, y, z, w``: the eigenvector of its quadratic form, which no angle makes inexact."""
    m = rotation
    form = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    vector = np.linalg.eigh(form)[1][:, -1]
    return [float(value) for value in vector * (1.0 if vector[3] >= 0 else -1.0)]


def _jpeg(image: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=85)
    return out.getvalue()
