"""The images of a scan in the posed layout, and which objects they show.

With depth, a frame shows an object where enough of the depth image lies in the object's box: the rule of
:mod:`rft3d_cli.prepare.unannotated`. Without, where the box's projection covers enough of the picture; what stands in
front of it is then not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Boxes3D, Floats, transform_boxes
from rft3d_cli.geometry.camera import invert_rigid, scale_intrinsic
from rft3d_cli.geometry.visibility import covered_share
from rft3d_cli.prepare._posed_files import OPENGL, PosedFrame, PosedScan
from rft3d_cli.prepare.pictures import image_header
from rft3d_cli.prepare.pipeline import Quarantine
from rft3d_cli.prepare.unannotated import shown_by_depth

LOOKS = 20
"""Frames with which another meaning of the poses is tried."""
FAR = 20.0
"""Metres that the middle of a room's depth images stays below."""


def image_fault(file: Path, size: tuple[int, int]) -> tuple[str, str] | None:
    """Why an image is not what the cameras are for, from its header: reason and detail; None where it is.

    Args:
        file: The image.
        size: ``(width, height)`` that the intrinsics are for.
    """
    try:
        found, turned = image_header(file)
    except DataError as error:
        return "damaged frame", f"{file} is {error.message}"
    if turned != 1:
        detail = (
            f"{file} is turned by its EXIF orientation ({turned}) when it is read; save it upright, without the tag"
        )
        return "frame turned by EXIF", detail
    if found != size:
        detail = f"{file} has {found[0]} × {found[1]} pixels, image_size says {size[0]} × {size[1]}"
        return "frame of another size", f"{detail}: give image_size and intrinsic for the frames as they are"
    return None


def read_depth(file: Path) -> Floats:
    """A depth image, ``(H, W)`` metres; 0 means unknown.

    Raises:
        DataError: Where it is not a 16-bit PNG of one channel.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=("PNG",)) as opened:
            mode = opened.mode
            values = np.array(opened) if mode.startswith("I") else None
    except Exception as error:
        raise DataError(f"{file} is not a PNG image ({type(error).__name__})") from None
    if values is None:
        raise DataError(f"{file} does not hold 16-bit millimetres: its pixels are of the kind {mode}")
    return values.astype(np.float64) / 1000


def shown_objects(scan: PosedScan, frame: PosedFrame, visibility: float) -> tuple[int, ...]:
    """Indices of the boxes that a frame shows, ascending.

    Args:
        scan: The scan.
        frame: One of its frames.
        visibility: Least share of the depth image that lies in the box; without depth, of the picture that the box's
            projection covers.

    Raises:
        Quarantine: Where a depth image is damaged, or of another shape than the frames.
    """
    if scan.depth is None:
        return _covered(scan.boxes, frame, frame.cam_to_world, scan.size, visibility)
    file = scan.depth / f"{frame.stem}.png"
    try:
        depth = read_depth(file)
    except DataError as error:
        raise Quarantine("damaged depth image", error.message) from None
    height, width = depth.shape
    if abs(width / height / (scan.size[0] / scan.size[1]) - 1) > 0.02:
        detail = f"{file} has {width} × {height} pixels, the frames {scan.size[0]} × {scan.size[1]}"
        raise Quarantine("depth of another shape", f"{detail}: depth is to be registered to the frames")
    intrinsic = scale_intrinsic(frame.intrinsic, scan.size, (width, height))
    return shown_by_depth(scan.boxes, depth, intrinsic, frame.cam_to_world, visibility)


def _covered(
    boxes: Boxes3D, frame: PosedFrame, pose: Floats, size: tuple[int, int], visibility: float
) -> tuple[int, ...]:
    seen = transform_boxes(boxes.boxes, invert_rigid(pose))
    # A box around the camera's plane or before it; the others need no polygon.
    near = seen[:, 2] + np.linalg.norm(seen[:, 3:6], axis=1) / 2 > 0
    shares = {int(i): covered_share(seen[i], frame.intrinsic, size) for i in np.nonzero(near)[0]}
    return tuple(i for i, share in shares.items() if share > 0 and share >= visibility)


def doubts(scan: PosedScan, frames: Sequence[PosedFrame], seen: set[int], visibility: float) -> list[str]:
    """What looks wrong with a scan as a whole, in words that are the same for the same problem.

    Args:
        scan: The scan.
        frames: Its usable frames; some of them are looked at.
        seen: Boxes that some frame shows.
        visibility: See :func:`shown_objects`.
    """
    some = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, LOOKS).astype(int))]
    out = []
    if len(scan.boxes) and 2 * len(seen) < len(scan.boxes):
        out.append(f"most boxes are seen in no frame: {_meaning(scan, some, visibility)}")
    downwards = np.mean([(scan.axis_align @ frame.cam_to_world)[2, 1] for frame in some])
    if downwards > 0.5:
        other = "opengl" if scan.convention == "opencv" else "opencv"
        out.append(
            f'the cameras hang upside down (z taken for up): is "convention" in cameras.json rather "{other}", or does '
            "axis_align turn z down?"
        )
    centres = np.array([frame.cam_to_world[:3, 3] for frame in frames])
    if np.ptp(centres, axis=0).max() > 1000 or (len(scan.boxes) and scan.boxes.sizes.max() > 100):
        out.append("the camera's way or a box is longer than a building: are poses and boxes in metres?")
    if scan.depth is not None:
        depth = read_depth(scan.depth / f"{some[0].stem}.png")
        known = depth[depth > 0]
        if not len(known):
            out.append("a depth image is all 0: depth is 16-bit millimetres")
        elif not 0.1 < float(np.median(known)) < FAR:
            out.append("depth images look not to be in millimetres")
    focal = np.array([frame.intrinsic[[0, 1], [0, 1]] for frame in frames])
    if (np.ptp(focal, axis=0) > 0.02 * focal.min(axis=0)).any():
        out.append("the intrinsics of the frames differ by more than 2 %: a record has one, that of its target's frame")
    middle = np.array([frame.intrinsic[:2, 2] for frame in frames]).mean(axis=0) / np.array(scan.size)
    if not ((middle > 0.25) & (middle < 0.75)).all():
        out.append("the camera does not fit the size of the frames")
    return out


def _meaning(scan: PosedScan, frames: Sequence[PosedFrame], visibility: float) -> str:
    """What the poses could mean instead, by what would then be seen."""
    other = "opengl" if scan.convention == "opencv" else "opencv"
    raw = [f.cam_to_world @ (OPENGL if scan.convention == "opengl" else np.eye(4)) for f in frames]
    flipped = [f.cam_to_world @ OPENGL for f in frames]
    inverted = [invert_rigid(pose) for pose in raw]
    readings = {
        f'with "convention": "{other}" in cameras.json they would be': flipped,
        "they would be if the poses were world_to_cam: invert them": inverted,
        "they would be if the poses were world_to_cam with OpenGL axes: invert them": [p @ OPENGL for p in inverted],
    }

    def seen(poses: Sequence[Floats]) -> int:
        views = zip(frames, poses, strict=True)
        return len({i for f, pose in views for i in _covered(scan.boxes, f, pose, scan.size, visibility)})

    as_said = seen([frame.cam_to_world for frame in frames])
    if scan.depth is not None and 2 * as_said >= len(scan.boxes):
        return "they are in view, so look at the depth: 16-bit millimetres, registered to the frames"
    counts = {words: seen(poses) for words, poses in readings.items()}
    best = max(counts, key=lambda words: counts[words])
    if counts[best] >= max(2 * as_said, (len(scan.boxes) + 1) // 2):
        return best
    return 'look at "convention" in cameras.json, and whether poses and boxes share one world'
