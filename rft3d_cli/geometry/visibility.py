"""What a camera has in view of a box: by volume, by area in the picture, at all, and behind other boxes.

Boxes are solids here: what else stands in front of one is not known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rft3d_cli.geometry.boxes import Floats, box_corners
from rft3d_cli.geometry.camera import visible_edges

THIN = 1e-4
"""A box that is flatter counts as this thick, metres: the volume shares of a plate are then those of its area."""

FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
"""Corners of each face, all six the same way round, in the order of :data:`rft3d_cli.geometry.boxes.CORNER_SIGNS`."""

GRID = 3
"""Points along each axis of a box where it is sampled: in the middles of as many equal slices."""

_STEPS = (np.arange(GRID) + 0.5) / GRID * 2 - 1
_POINTS: Floats = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij")).reshape(3, -1)


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
    normals = border_normals(k, size)
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


def border_normals(intrinsic: ArrayLike, size: tuple[int, int]) -> Floats:
    """Inward normals of the planes through the camera's centre and the picture's borders.

    Points on the inner side of all four are before the camera and within the picture.

    Args:
        intrinsic: ``(3, 3)`` or ``(4, 4)``.
        size: ``(width, height)`` in pixels.

    Returns:
        ``(4, 3)``: left, right, upper, lower; of any length.

    >>> border_normals([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], (2, 2)).tolist()
    [[1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, -1.0, 1.0]]
    """
    k = np.asarray(intrinsic, dtype=np.float64)[:3, :3]
    return np.array([k[0] + k[2] / 2, (size[0] - 0.5) * k[2] - k[0], k[1] + k[2] / 2, (size[1] - 0.5) * k[2] - k[1]])


def in_view(corners: ArrayLike, intrinsic: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes a camera has in view, were it only a sliver of them: before the camera and within the borders.

    Box and view are convex, so they are apart just where one of finitely many planes parts them: a border's, a face's,
    or one along an edge of the box and a corner of the view.

    Args:
        corners: ``(..., 8, 3)`` in camera coordinates, in the order of
            :data:`rft3d_cli.geometry.boxes.CORNER_SIGNS`.
        intrinsic: ``(3, 3)`` or ``(4, 4)``.
        size: ``(width, height)`` in pixels.

    Returns:
        ``(...)``; True also where they only touch.

    A box in the picture, one that just reaches into it, one beside it, one around the camera, one behind it:

    >>> k = [[100, 0, 49.5], [0, 100, 49.5], [0, 0, 1]]
    >>> places = [(0, 5), (3.2, 5), (3.3, 5), (0, 0), (0, -5)]
    >>> in_view(box_corners([[x, 0, z, 1, 1, 1, 0, 0, 0] for x, z in places]), k, (100, 100)).tolist()
    [True, True, False, True, False]
    """
    points = np.asarray(corners, dtype=np.float64)
    flat = points.reshape(-1, 8, 3)
    normals = border_normals(intrinsic, size)
    sides = np.einsum("kx,ncx->knc", normals, flat)
    seen: NDArray[np.bool_] = np.asarray((sides >= 0).all(axis=0).any(axis=-1))
    unsure = np.flatnonzero(~seen & ~(sides < 0).all(axis=-1).any(axis=0))
    if len(unsure):
        seen[unsure] = ~_apart(flat[unsure], normals)
    return seen.reshape(points.shape[:-2])


def _apart(corners: Floats, normals: Floats) -> NDArray[np.bool_]:
    """Which boxes ``(n, 8, 3)`` a plane along a face, or along an edge of each, parts from the view."""
    left, right, upper, lower = normals
    rays = np.cross([upper, right, lower, left], [left, upper, right, lower])
    # From the camera's centre along the view's four corners, forwards.
    rays *= np.where((rays @ normals.T).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    edges = corners[:, [4, 2, 1]] - corners[:, :1]
    faces = np.cross(edges[:, [1, 2, 0]], edges[:, [2, 0, 1]])
    axes = np.concatenate([faces, np.cross(edges[:, :, None], rays).reshape(-1, 12, 3)], axis=1)
    along_view = axes @ rays.T
    # An axis across a corner of the view has no part along it, but for rounding.
    along_view[
        np.abs(along_view) <= 1e-12 * np.linalg.norm(axes, axis=-1)[..., None] * np.linalg.norm(rays, axis=1)
    ] = 0
    along_box = axes @ corners.transpose(0, 2, 1)
    below = (along_view >= 0).all(axis=-1) & (along_box < 0).all(axis=-1)
    above = (along_view <= 0).all(axis=-1) & (along_box > 0).all(axis=-1)
    out: NDArray[np.bool_] = np.asarray((below | above).any(axis=-1))
    return out


def hidden_shares(
    corners: ArrayLike, others: ArrayLike, intrinsic: ArrayLike, size: tuple[int, int], same: ArrayLike | None = None
) -> Floats:
    """The share of what a camera has in view of each box that other boxes stand in front of.

    A box is sampled at :data:`GRID` ³ points; those within the picture count. One is hidden where the line from the
    camera to it passes through another box and leaves it again before the point. So nothing hides what stands within
    it, as a chair stands within a table's box, and nothing hides anything from a camera within it. A box without
    volume hides nothing.

    Args:
        corners: ``(N, 8, 3)`` in camera coordinates, in the order of
            :data:`rft3d_cli.geometry.boxes.CORNER_SIGNS`.
        others: ``(M, 8, 3)``, likewise.
        intrinsic: ``(3, 3)`` or ``(4, 4)``.
        size: ``(width, height)`` in pixels.
        same: ``(N, M)``, True where a box is not to be held against another, such as itself.

    Returns:
        ``(N,)`` in [0, 1]; NaN where none of a box's points lies within the picture.

    A third of one of two boxes is behind a wall:

    >>> k = [[100, 0, 49.5], [0, 100, 49.5], [0, 0, 1]]
    >>> boxes = box_corners([[x, 0, 5, 1, 1, 1, 0, 0, 0] for x in (-1, 1)])
    >>> wall = box_corners([[1, 0, 2, 1.1, 3, 0.1, 0, 0, 0]])
    >>> hidden_shares(boxes, wall, k, (100, 100)).round(3).tolist()
    [0.0, 0.333]
    """
    mine = np.asarray(corners, dtype=np.float64).reshape(-1, 8, 3)
    theirs = np.asarray(others, dtype=np.float64).reshape(-1, 8, 3)
    centres, halves = _frames(mine)
    # Coordinates before points: what follows runs along the points.
    points = centres[:, :, None] + halves.transpose(0, 2, 1) @ _POINTS
    shown: NDArray[np.bool_] = np.all(border_normals(intrinsic, size) @ points >= 0, axis=1, keepdims=True)[:, 0]
    hidden = np.zeros_like(shown)
    pairs = _may_hide(mine, theirs) & np.any(shown, axis=1)[:, None]
    if same is not None:
        pairs &= ~np.asarray(same, dtype=np.bool_)
    a, b = np.nonzero(pairs)
    if len(a):
        turns, middles, solid = _cubes(theirs)
        np.logical_or.at(hidden, a, _passes(turns[b], middles[b], points[a]) & solid[b, None])
    count = shown.sum(axis=1)
    return np.where(count == 0, np.nan, (hidden & shown).sum(axis=1) / np.maximum(count, 1))


def _frames(corners: Floats) -> tuple[Floats, Floats]:
    """Centres ``(N, 3)`` and halves of the edges along each axis, as rows ``(N, 3, 3)``."""
    return corners.mean(axis=1), (corners[:, [4, 2, 1]] - corners[:, :1]) / 2


def _may_hide(mine: Floats, theirs: Floats) -> NDArray[np.bool_]:
    """``(N, M)`` False where the spheres around two boxes already tell that the second hides nothing of the first."""
    spheres = []
    for corners in (mine, theirs):
        centres = corners.mean(axis=1)
        radius = np.linalg.norm(corners - centres[:, None], axis=-1).max(axis=-1, initial=0.0)
        far = np.linalg.norm(centres, axis=-1)
        wide = np.where(far > radius, np.arcsin(np.minimum(radius / np.maximum(far, 1e-12), 1.0)), np.pi)
        spheres.append((centres / np.maximum(far, 1e-12)[:, None], radius, far, wide))
    (u, r, d, w), (v, s, e, x) = spheres
    angle = np.arccos((u @ v.T).clip(-1.0, 1.0))
    near: NDArray[np.bool_] = (angle <= w[:, None] + x + 1e-6) & ((e - s) <= (d + r)[:, None])
    return near


def _cubes(corners: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """To each box's own axes, where it is the cube [-1, 1]³: the turn ``(M, 3, 3)``, its centre ``(M, 3)`` after it.

    The third is whether it has a volume; the first two mean nothing where it has none.
    """
    centres, halves = _frames(corners)
    solid: NDArray[np.bool_] = np.asarray(np.abs(np.linalg.det(halves)) > 0)
    turns = np.linalg.inv(np.where(solid[:, None, None], halves, np.eye(3))).transpose(0, 2, 1)
    return turns, (turns @ centres[:, :, None])[:, :, 0], solid


def _passes(turns: Floats, centres: Floats, points: Floats) -> NDArray[np.bool_]:
    """Which lines from the camera to ``(n, 3, P)`` points enter their row's cube and leave it before, ``(n, P)``."""
    step = turns @ points
    step[np.abs(step) < 1e-12] = 1e-12
    half = 1 / step
    near = centres[:, :, None] * half
    np.abs(half, out=half)
    enter, leave = np.max(near - half, axis=1), np.min(near + half, axis=1)
    out: NDArray[np.bool_] = (enter > 0) & (enter < leave) & (leave < 1)
    return out


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
