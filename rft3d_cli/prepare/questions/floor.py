"""The floor of a scan, as a polygon: what the size of a room is read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.camera import transform_points
from rft3d_cli.prepare.embodiedscan import Scan
from rft3d_cli.prepare.questions.rules import LEAST_AREA, LEAST_FILL, polygon_area
from rft3d_cli.prepare.scanfiles import (
    aggregation_file,
    read_aggregation,
    read_ply_vertices,
    read_segments,
    scan_file,
)

FLOOR = "floor"
NO_FLOOR = "no floor is known"
DAMAGED = "the mesh cannot be read"


@dataclass(frozen=True)
class Floor:
    """A floor.

    Args:
        polygon: ``(n, 2)`` corners in order, metres in the axis-aligned world: the convex hull of the floor.
        source: ``mesh``: the vertices of the scan's mesh that are labelled floor; ``box``: the corners of the boxes
            annotated as floor.
        fill: Share of its smallest enclosing rectangle that it fills.
    """

    polygon: Floats
    source: str
    fill: float

    def told(self) -> dict[str, Any]:
        """The floor as a record's ``meta.floor`` holds it."""
        return {"source": self.source, "polygon": self.polygon.tolist()}


def find_floor(scan: Scan, folder: Path | None) -> Floor | str:
    """The floor of a scan: of its mesh where there is one, else of its annotations; or why there is none.

    Args:
        scan: The annotated scan.
        folder: The scan's own folder, where known.
    """
    boxes = [i for i, label in enumerate(scan.instances.labels) if label == FLOOR]
    try:
        points = None if folder is None else _mesh_floor(folder, scan.axis_align)
    except DataError:
        return DAMAGED
    if points is not None:
        return floor_of(points, "mesh")
    return floor_of(scan.instances[boxes].corners().reshape(-1, 3), "box") if boxes else NO_FLOOR


def floor_of(points: Floats, source: str) -> Floor | str:
    """The floor that points ``(n, 3)`` span, or why there is none.

    Refused is a hull that leaves more than a tenth of its smallest enclosing rectangle empty: such a room is no
    rectangle, and if it has a corner to the inside, its hull is larger than its floor.

    >>> floor_of(np.array([[0.0, 0, 0], [4, 0, 0], [4, 3, 0], [0, 3, 0]]), "mesh").fill
    1.0
    >>> floor_of(np.array([[0.0, 0, 0], [4, 0, 0], [4, 2, 0], [2, 4, 0], [0, 4, 0]]), "mesh")
    'the floor is not a rectangle'
    """
    from scipy.spatial import ConvexHull, QhullError

    if len(points) < 3:
        return NO_FLOOR
    flat = points[:, :2]
    try:
        hull = flat[ConvexHull(flat).vertices]
    except QhullError:
        return NO_FLOOR
    area, rectangle = polygon_area(hull), _smallest_rectangle(hull)
    if area < LEAST_AREA:
        return "the floor is too small for a room"
    if area < LEAST_FILL * rectangle:
        return "the floor is not a rectangle"
    return Floor(hull, source, area / rectangle)


def _mesh_floor(folder: Path, align: Floats) -> Floats | None:
    """Vertices ``(n, 3)`` labelled floor, in the axis-aligned world; None where a file of the mesh is missing."""
    mesh, segments = (scan_file(folder, end) for end in ("_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json"))
    objects = aggregation_file(folder)
    if not all(path.exists() for path in (mesh, segments, objects)):
        return None
    mine = [segment for group in read_aggregation(objects) if group.label == FLOOR for segment in group.segments]
    points, of = read_ply_vertices(mesh), read_segments(segments)
    if len(of) != len(points):
        raise DataError(f"{segments} has {len(of):,} entries for a mesh of {len(points):,} vertices")
    return transform_points(points[np.isin(of, mine)], align)


def _smallest_rectangle(hull: Floats) -> float:
    """The area of the smallest rectangle around a convex polygon: one of its sides lies on an edge of the polygon."""
    edges = np.roll(hull, -1, axis=0) - hull
    along = edges / np.linalg.norm(edges, axis=1, keepdims=True)
    across = along[:, ::-1] * [-1, 1]
    spans = [np.ptp(hull @ sides.T, axis=0) for sides in (along, across)]
    return float((spans[0] * spans[1]).min())
