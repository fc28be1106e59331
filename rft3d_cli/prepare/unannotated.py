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
    width, height = sens.depth_size
    every = max(1, round((width * height / SAMPLES) ** 0.5))
    frames = []
    for header in sens.frames[::step]:
        if not header.tracked:
            frames.append(Frame(header.index, np.full((4, 4), -np.inf), ()))
            continue
        depth = sens.depth(header.index).astype(np.float64) / sens.depth_shift
        points = unproject_depth(depth, sens.intrinsic_depth)[::every, ::every].reshape(-1, 3)
        seen = transform_points(points[points[:, 2] > 0], align @ header.pose)
        frames.append(Frame(header.index, header.pose, _shown(boxes, seen, visibility * len(points))))
    return Scan(folder.name, align, sens.intrinsic_colour[:3, :3], tuple(frames), boxes)


def _shown(boxes: Boxes3D, points: Floats, least: float) -> tuple[int, ...]:
    counts = [int(points_in_box(points, box).sum()) for _, box in boxes]
    return tuple(i for i, count in enumerate(counts) if count >= max(least, 1))
