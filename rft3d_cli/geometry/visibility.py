"""How much of a box a camera has in view: by volume, and by area in the picture.

Both are exact for the box as a solid; what stands in front of it is not known here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rft3d_cli.geometry.boxes import Floats, box_corners
from rft3d_cli.geometry.camera import visible_edges

THIN = 1e-4
"""A box that is flatter counts as this thick, metres: the volume shares of a plate are then those of its area."""

FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
"""Corners of each face, all six the same way round, in the order of :data:`rft3d_cli.geometry.boxes.CORNER_SIGNS`."""


def share_in_view(box: ArrayLike, intrinsic: ArrayLike, size: tuple[int, int]) -> float:
    """The share of a box's volume that lies in a camera's view: before the camera and within the picture's borders.

    Args:
        box: ``(9,)`` in camera coordinates.
        intrinsic: ``(3, 3)`` or ``(4, 4)``.
        size: ``(width, height)`` in pixels.

    Returns:
        In [0, 1]. It stays the same where picture and intrinsic are resized together.

    A box in the picture, one that the right border halves, one around the camera, one behind it:

    >>> k = [[100, 0, 49.5], [0, 100, 49.5], [0, 0, 1]]
    >>> places = [(0, 5), (2.5, 5), (0, 0), (0, -5)]
    >>> [round(share_in_view([x, 0, z, 1, 1, 1, 0, 0, 0], k, (100, 100)), 4) for x, z in places]
    [1.0, 0.5, 0.0417, 0.0]
    """
    thick = np.array(box, dtype=np.float64)
    thick[3:6] = thick[3:6].clip(THIN)
    k = np.asarray(intrinsic, dtype=np.float64)[:3, :3]
    # Inward normals of the planes through the camera's centre and the picture's left, right, upper and lower border.
    # Points before two opposite ones are before the camera.
    normals = np.array([k[0] + k[2] / 2, (size[0] - 0.5) * k[2] - k[0], k[1] + k[2] / 2, (size[1] - 0.5) * k[2] - k[1]])
    corners = box_corners(thick)
    sides = corners @ normals.T
    if (sides >= 0).all():
        return 1.0
    if (sides <= 0).all(axis=0).any():
        return 0.0
    # By the divergence theorem the volume is the sum of the cones from the camera's centre to all faces of what is in
    # view. Faces along the borders of the view pass through that centre: their cones are empty.
    sixfold = 0.0
    for face in FACES:
        polygon = corners[list(face)]
        for normal in normals:
            polygon = cut_polygon(polygon, polygon @ normal)
        if len(polygon):
            following = np.concatenate([polygon[1:], polygon[:1]])
            sixfold += float(polygon[0] @ np.cross(polygon, following).sum(axis=0))
    return min(max(abs(sixfold) / 6 / float(thick[3:6].prod()), 0.0), 1.0)


def area_in_view(box: Floats, intrinsic: Floats, size: tuple[int, int]) -> float:
    """The area of the picture that a box's projection covers, pixels².

    The part of the box before the near plane (5 cm) is projected; the area of its convex hull within the picture's
    borders counts.

    Args:
        box: ``(9,)`` in camera coordinates.
        intrinsic: ``(3, 3)``.
        size: ``(width, height)`` in pixels.

    >>> k = np.array([[100, 0, 49.5], [0, 100, 49.5], [0, 0, 1]])
    >>> area_in_view(np.array([0, 0, 2.5, 1, 1, 1, 0, 0, 0]), k, (100, 100))
    2500.0
    """
    from scipy.spatial import ConvexHull, QhullError

    points = visible_edges(box, intrinsic)[..., :2].reshape(-1, 2)
    if len(points) < 3:
        return 0.0
    low, high = np.array([-0.5, -0.5]), np.array(size) - 0.5
    if (points.max(axis=0) <= low).any() or (points.min(axis=0) >= high).any():
        return 0.0
    try:
        polygon = points[ConvexHull(points).vertices]
    except QhullError:
        return 0.0
    for axis in (0, 1):
        polygon = cut_polygon(polygon, polygon[:, axis] - low[axis])
        polygon = cut_polygon(polygon, high[axis] - polygon[:, axis])
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def covered_share(box: Floats, intrinsic: Floats, size: tuple[int, int]) -> float:
    """The share of the picture that a box's projection covers: :func:`area_in_view` by the picture's area.

    Args:
        box: ``(9,)`` in camera coordinates.
        intrinsic: ``(3, 3)``.
        size: ``(width, height)`` in pixels.

    A box that the right border cuts, and one around the camera:

    >>> k = np.array([[100, 0, 49.5], [0, 100, 49.5], [0, 0, 1]])
    >>> round(covered_share(np.array([1.0, 0, 2.5, 1, 1, 1, 0, 0, 0]), k, (100, 100)), 3)
    0.16
    >>> covered_share(np.array([0, 0, 0, 1.0, 1, 1, 0, 0, 0]), k, (100, 100))
    1.0
    """
    return area_in_view(box, intrinsic, size) / (size[0] * size[1])


def cut_polygon(polygon: Floats, sides: Floats) -> Floats:
    """The part of a convex polygon on one side of a line or a plane.

    Args:
        polygon: ``(n, d)`` corners in order.
        sides: ``(n,)`` how far each corner lies on the side that stays; negative on the other.

    Returns:
        ``(m, d)`` corners in order.

    >>> square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    >>> cut_polygon(square, 1 - square[:, 0]).tolist()
    [[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [0.0, 2.0]]
    """
    if (sides >= 0).all():
        return polygon
    out = []
    rows, values = list(polygon), sides.tolist()
    for here, there, a, b in zip(rows, rows[1:] + rows[:1], values, values[1:] + values[:1], strict=True):
        if a >= 0:
            out.append(here)
        if a * b < 0:
            out.append(here + a / (a - b) * (there - here))
    return np.array(out).reshape(-1, polygon.shape[1])
