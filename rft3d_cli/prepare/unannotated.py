"""Scans without EmbodiedScan's annotations: boxes and visibility from ScanNet's own files.

Boxes are the axis-aligned extents of the aggregation's objects, so their yaw is 0, and their names are ScanNet's raw
categories. A frame shows an object where enough of its depth image lies in the object's box; the depth camera is taken
to stand where the colour camera stands, as it nearly does in ScanNet. What stands within another object's box counts
for both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Boxes3D, Floats, points_in_box
from rft3d_cli.geometry.camera import transform_points, unproject_depth
from rft3d_cli.prepare.embodiedscan import Frame, Scan
from rft3d_cli.prepare.pictures import open_sens
from rft3d_cli.prepare.scanfiles import aggregation_file, axis_alignment, object_boxes, scan_file

SAMPLES = 20_000
"""About so many pixels of a depth image are looked at."""


def scenes_with_meshes(scans: Path) -> list[str]:
    """Names of the scans under ``scans`` that have an aggregation, sorted.

    Raises:
        DataError: Where there are none.
    """
    found = sorted(f.name for f in scans.iterdir() if aggregation_file(f).exists()) if scans.is_dir() else []
    if not found:
        raise DataError(
            f"{scans} holds no scans with an .aggregation.json",
            "without --annotations, boxes are made from each scan's mesh, segments and aggregation",
        )
    return found


def scan_from_files(folder: Path, step: int, visibility: float) -> Scan:
    """An annotated scan from the scan's own files.

    Args:
        folder: ``scans/<scene>``.
        step: Every ``step``-th raw frame is listed.
        visibility: Least share of a depth image's pixels within an object's box for the frame to show the object.

    Raises:
        DataError: Where a file is missing or damaged.
    """
    align = axis_alignment(scan_file(folder, ".txt"))
    found = list(object_boxes(folder, align).values())
    boxes = Boxes3D([box for _, box in found], [label for label, _ in found])
    sens = open_sens(folder)
    frames = []
    for header in sens.frames[::step]:
        if not header.tracked:
            frames.append(Frame(header.index, np.full((4, 4), -np.inf), ()))
            continue
        depth = sens.depth(header.index).astype(np.float64) / sens.depth_shift
        shown = shown_by_depth(boxes, depth, sens.intrinsic_depth, align @ header.pose, visibility)
        frames.append(Frame(header.index, header.pose, shown))
    return Scan(folder.name, align, sens.intrinsic_colour[:3, :3], tuple(frames), boxes)


def shown_by_depth(
    boxes: Boxes3D, depth: Floats, intrinsic: Floats, cam_to_boxes: Floats, visibility: float
) -> tuple[int, ...]:
    """Which boxes hold enough of what a depth image sees.

    Args:
        boxes: The boxes.
        depth: ``(H, W)`` metres along the optical axis; 0 means unknown.
        intrinsic: ``(3, 3)`` or ``(4, 4)``, of the depth image.
        cam_to_boxes: ``(4, 4)``, from the camera to the world of the boxes.
        visibility: Least share of the image's pixels.

    Returns:
        Indices of boxes, ascending.
    """
    every = max(1, round((depth.size / SAMPLES) ** 0.5))
    points = unproject_depth(depth, intrinsic)[::every, ::every].reshape(-1, 3)
    seen = transform_points(points[points[:, 2] > 0], cam_to_boxes)
    counts = [int(points_in_box(seen, box).sum()) for _, box in boxes]
    return tuple(i for i, count in enumerate(counts) if count >= max(visibility * len(points), 1))
