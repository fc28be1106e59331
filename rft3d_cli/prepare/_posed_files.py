"""One scan in the posed layout of docs/own-data.md: ``cameras.json`` and ``frames/``.

Everything is checked before it is believed, and a refusal says what to do: these files were written by a script that
somebody has just finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.prepare._posed_checks import Known, load, rigid_fault, writable
from rft3d_cli.prepare._posed_objects import read_boxes
from rft3d_cli.prepare.pipeline import Quarantine
from rft3d_cli.records import Finite, Matrix3, Matrix4, media_path
from rft3d_cli.video import IMAGE_SUFFIXES, by_number

CAMERAS, BOXES, DESCRIPTIONS = "cameras.json", "boxes.json", "descriptions.json"
FRAMES, DEPTH = "frames", "depth"

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""``pose @ OPENGL`` takes a pose with OpenGL's camera axes to OpenCV's, and back."""

# Null, NaN and infinities are how trackers write a pose that they do not have.
Row = Annotated[list[float | None], Field(min_length=4, max_length=4)]
Pose = Annotated[list[Row], Field(min_length=4, max_length=4)]


class _Camera(Known):
    cam_to_world: Pose | None = None
    time: Finite | None = None
    intrinsic: Matrix3 | None = None


class _Cameras(Known):
    intrinsic: Matrix3 | None = None
    image_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    frames: dict[str, _Camera]
    axis_align: Matrix4 | None = None
    convention: Literal["opencv", "opengl"] = "opencv"


@dataclass(frozen=True)
class PosedFrame:
    """One image of a scan that has a pose.

    Args:
        number: Its place among all images, sorted by name.
        name: The file's name.
        cam_to_world: ``(4, 4)``, OpenCV axes.
        intrinsic: ``(3, 3)``, pixels.
        time: Seconds, where known.
    """

    number: int
    name: str
    cam_to_world: Floats
    intrinsic: Floats
    time: float | None

    @property
    def stem(self) -> str:
        """The name without its suffix: what the depth image and the record are called."""
        return Path(self.name).stem


@dataclass(frozen=True)
class PosedScan:
    """A checked scan.

    Args:
        folder: Where it lies.
        size: ``(width, height)`` that the intrinsics are for.
        axis_align: ``(4, 4)`` from the world of the poses to the axis-aligned one.
        convention: As the file says; the poses here are OpenCV's.
        frames: Images with a pose, in the order of their names, which is that of time.
        skipped: Reason by the name of an image or of a pose that cannot be used.
        boxes: In the world of the poses.
        ids: One a box.
    """

    folder: Path
    size: tuple[int, int]
    axis_align: Floats
    convention: str
    frames: tuple[PosedFrame, ...]
    skipped: dict[str, str]
    boxes: Boxes3D
    ids: tuple[str, ...]

    @property
    def depth(self) -> Path | None:
        """The folder of depth images, where there is one."""
        folder = self.folder / DEPTH
        return folder if folder.is_dir() else None

    @property
    def timed(self) -> bool:
        """Whether every frame has a time."""
        return all(frame.time is not None for frame in self.frames)


def posed_scenes(scans: Path) -> list[str]:
    """Names of the scans under ``scans``, sorted: folders with ``cameras.json``, ``boxes.json`` or ``frames/``.

    Raises:
        DataError: Where there are none.
    """
    parts = (CAMERAS, BOXES, FRAMES)
    if bad := next((folder.name for folder in scans.iterdir() if not writable(folder.name)), None):
        raise DataError(f"{scans}: {bad!r} is not UTF-8", "rename that folder")
    found = sorted(
        folder.name
        for folder in scans.iterdir()
        if not folder.name.startswith(".") and any((folder / part).exists() for part in parts)
    )
    if not found:
        itself = any((scans / part).exists() for part in parts)
        hint = f"name the folder above it: --scans {scans.parent}" if itself else "see docs/own-data.md for the layout"
        raise DataError(f"{scans} holds no scans: no SCENE/{CAMERAS} with SCENE/{BOXES} and SCENE/{FRAMES}/", hint)
    return found


def read_posed(folder: Path) -> PosedScan:
    """Read and check one scan; images are listed, not opened.

    Args:
        folder: ``DIR/SCENE``.

    Raises:
        Quarantine: With the first thing that is wrong, and where.
    """
    path = folder / CAMERAS
    cameras = load(path, TypeAdapter(_Cameras))
    align = np.eye(4) if cameras.axis_align is None else np.array(cameras.axis_align, dtype=np.float64)
    if fault := rigid_fault(align):
        raise Quarantine("wrong axis_align", f"{path}: axis_align {fault}")
    images = _images(folder / FRAMES)
    skipped = {name: "no pose" for name in images if name not in cameras.frames}
    skipped |= {name: "no image" for name in cameras.frames if name not in images}
    if len(skipped) == len(images) + len(cameras.frames) and cameras.frames:
        example = f"cameras.json has {next(iter(cameras.frames))!r}, frames/ has {next(iter(images))!r}"
        raise Quarantine("names that do not match", f"{path}: no entry of frames names an image of frames/: {example}")
    flip = OPENGL if cameras.convention == "opengl" else np.eye(4)
    frames = []
    for number, name in enumerate(images):
        if name in skipped:
            continue
        entry = cameras.frames[name]
        if entry.cam_to_world is None:
            skipped[name] = "no pose"
            continue
        pose = np.array(entry.cam_to_world, dtype=np.float64)
        if not np.isfinite(pose).all():
            skipped[name] = "non-finite pose"
            continue
        if fault := rigid_fault(pose):
            raise Quarantine("pose that is not rigid", f"{path}: cam_to_world of {name} {fault}")
        frames.append(PosedFrame(number, name, pose @ flip, _intrinsic(path, cameras, name), entry.time))
    boxes, ids = read_boxes(folder / BOXES)
    scan = PosedScan(folder, cameras.image_size, align, cameras.convention, tuple(frames), skipped, boxes, ids)
    _check_order(path, scan)
    return scan


def _images(folder: Path) -> list[str]:
    """Names of the images in ``folder``, in their order: numbers in names by value."""
    try:
        listed = [file for file in folder.iterdir() if not file.name.startswith(".")]
    except OSError as error:
        raise Quarantine("no frames", f"{folder} cannot be read: {error.strerror}") from None
    files = sorted((file for file in listed if file.suffix.lower() in IMAGE_SUFFIXES), key=by_number)
    if not files:
        raise Quarantine("no frames", f"{folder} holds no .jpg, .jpeg or .png files ({len(listed):,} others)")
    _check_name(folder.parent)
    stems: dict[str, str] = {}
    for file in files:
        if (other := stems.setdefault(file.stem, file.name)) != file.name:
            raise Quarantine("frames of one name", f"{folder}: {other} and {file.name} differ in their suffix only")
        _check_name(file)
    return [file.name for file in files]


def _check_name(path: Path) -> None:
    """Refuse a name that records cannot hold."""
    try:
        media_path(path.parent, path.name)
    except DataError:
        raise Quarantine("name that records cannot hold", f"{path.parent}: {path.name!r} holds ':' or '\\'") from None
    if not writable(path.name):
        raise Quarantine("name that records cannot hold", f"{path.parent}: {path.name!r} is not UTF-8")


def _intrinsic(path: Path, cameras: _Cameras, name: str) -> Floats:
    own = cameras.frames[name].intrinsic
    value = own if own is not None else cameras.intrinsic
    if value is None:
        raise Quarantine("no intrinsic", f"{path}: neither the file nor its frame {name} has an intrinsic")
    matrix = np.array(value, dtype=np.float64)
    where = f"{path}: intrinsic of {name}" if own is not None else f"{path}: intrinsic"
    if matrix[2, :2].any() and not matrix[:2, 2].any():
        raise Quarantine("wrong intrinsic", f"{where} is transposed: the centre belongs into the last column")
    if not np.allclose(matrix[2], [0, 0, 1]) or matrix[1, 0] or min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise Quarantine("wrong intrinsic", f"{where} is not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0")
    if matrix[0, 0] < 10:
        raise Quarantine("wrong intrinsic", f"{where} has fx {matrix[0, 0]:g}: it is in pixels, not normalised")
    return matrix


def _check_order(path: Path, scan: PosedScan) -> None:
    """Refuse times that disagree with the order of the names."""
    last: PosedFrame | None = None
    for frame in scan.frames:
        if frame.time is None:
            continue
        if last is not None and last.time is not None and frame.time <= last.time:
            raise Quarantine(
                "times that do not increase",
                f"{path}: {frame.name} ({frame.time:g} s) comes after {last.name} ({last.time:g} s) by name",
            )
        last = frame
