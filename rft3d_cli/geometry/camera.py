"""Pinhole cameras: OpenCV axes (x right, y down, z forward), metres, pixels.

Pixel ``(0, 0)`` is the centre of the top left pixel, as in ScanNet's intrinsics and OpenCV.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rft3d_cli.geometry.boxes import EDGES, Floats, box_corners


def project_points(points: ArrayLike, intrinsic: ArrayLike) -> tuple[Floats, Floats]:
    """Pixels and depths of points in camera coordinates.

    Args:
        points: ``(..., 3)`` metres.
        intrinsic: ``(3, 3)`` or ``(4, 4)``.

    Returns:
        ``(..., 2)`` pixels and ``(...)`` depths. Pixels of points with depth ≤ 0 are meaningless
        but finite.

    >>> project_points([[0.0, 0.0, 2.0]], [[100, 0, 50], [0, 100, 40], [0, 0, 1]])
    (array([[50., 40.]]), array([2.]))
    """
    points = np.asarray(points, dtype=np.float64)
    k = np.asarray(intrinsic, dtype=np.float64)[:3, :3]
    depth = points[..., 2]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    image = points @ k.T
    return image[..., :2] / safe[..., None], depth


def unproject_depth(depth: ArrayLike, intrinsic: ArrayLike) -> Floats:
    """Camera-space points of a depth image.

    Args:
        depth: ``(H, W)`` metres along the optical axis; 0 means unknown and gives the origin.
        intrinsic: ``(3, 3)`` or ``(4, 4)``, of the depth image.

    Returns:
        ``(H, W, 3)`` metres, in camera coordinates: row ``v``, column ``u`` is what pixel ``(u, v)`` sees.

    >>> unproject_depth([[2.0, 2.0, 0.0]], [[100, 0, 0], [0, 100, 0], [0, 0, 1]]).tolist()
    [[[0.0, 0.0, 2.0], [0.02, 0.0, 2.0], [0.0, 0.0, 0.0]]]
    """
    depth = np.asarray(depth, dtype=np.float64)
    k = np.asarray(intrinsic, dtype=np.float64)
    v, u = np.indices(depth.shape)
    x = (u - k[0, 2]) / k[0, 0] * depth
    y = (v - k[1, 2]) / k[1, 1] * depth
    return np.stack([x, y, depth], axis=-1)


def transform_points(points: ArrayLike, matrix: ArrayLike) -> Floats:
    """Points moved by a rigid motion.

    Args:
        points: ``(..., 3)`` metres.
        matrix: ``(4, 4)``, such as a camera's pose: it takes camera coordinates to the world's.

    Returns:
        ``(..., 3)`` metres, in the target frame.

    >>> pose = np.eye(4); pose[:3, 3] = [0.0, 0.0, 1.5]
    >>> transform_points([1.0, 2.0, 3.0], pose)
    array([1. , 2. , 4.5])
    """
    m = np.asarray(matrix, dtype=np.float64)
    moved: Floats = np.asarray(points, dtype=np.float64) @ m[:3, :3].T + m[:3, 3]
    return moved


def invert_rigid(matrix: ArrayLike) -> Floats:
    """The inverse of a rigid motion.

    ScanNet stores poses in float32, so their rotations are orthogonal to about 1e-6 only; a general
    inverse keeps ``invert_rigid(m) @ m`` the identity to float64 for those too.

    Args:
        matrix: ``(..., 4, 4)``.

    Returns:
        ``(..., 4, 4)``, float64.

    Raises:
        numpy.linalg.LinAlgError: On a matrix that has no inverse.

    >>> pose = np.eye(4); pose[:3, 3] = [1, 2, 3]
    >>> invert_rigid(pose)[:3, 3].tolist()
    [-1.0, -2.0, -3.0]
    """
    return np.linalg.inv(np.asarray(matrix, dtype=np.float64))


def scale_intrinsic(intrinsic: ArrayLike, old_size: tuple[int, int], new_size: tuple[int, int]) -> Floats:
    """The intrinsic matrix after an image was resized.

    Args:
        intrinsic: ``(3, 3)`` or ``(4, 4)`` for the old size.
        old_size: ``(width, height)`` in pixels.
        new_size: ``(width, height)`` in pixels.

    Returns:
        The same shape as ``intrinsic``. Centres move by the half-pixel rule: pixel centres are
        integers, so an image of width ``w`` spans ``[-0.5, w - 0.5]``.

    >>> scale_intrinsic([[100, 0, 49.5], [0, 100, 39.5], [0, 0, 1]], (100, 80), (50, 40)).tolist()
    [[50.0, 0.0, 24.5], [0.0, 50.0, 19.5], [0.0, 0.0, 1.0]]
    """
    k = np.array(intrinsic, dtype=np.float64)
    sx, sy = new_size[0] / old_size[0], new_size[1] / old_size[1]
    k[0, 0] *= sx
    k[0, 1] *= sx
    k[1, 1] *= sy
    k[0, 2] = (k[0, 2] + 0.5) * sx - 0.5
    k[1, 2] = (k[1, 2] + 0.5) * sy - 0.5
    return k


def assumed_intrinsic(width: int, height: int, fov_degrees: float = 58.0) -> Floats:
    """A ``(3, 3)`` intrinsic matrix for a video that came without one.

    Args:
        width: Pixels.
        height: Pixels.
        fov_degrees: Horizontal field of view. 58° is that of ScanNet's colour camera, on which the models of this
            field are trained; a phone's main camera has about 65°.

    Returns:
        ``(3, 3)``, pixels: square ones, seen along the axis through the middle of the image.

    >>> assumed_intrinsic(640, 480).round(1).tolist()
    [[577.3, 0.0, 319.5], [0.0, 577.3, 239.5], [0.0, 0.0, 1.0]]
    """
    focal = width / 2 / np.tan(np.radians(fov_degrees) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], dtype=np.float64)


def visible_edges(box: ArrayLike, intrinsic: ArrayLike, near: float = 0.05) -> Floats:
    """The drawable parts of a box's twelve edges.

    Edges are cut at the near plane, so that a box which reaches behind the camera draws its front
    part and nothing else.

    Args:
        box: ``(9,)`` in camera coordinates.
        intrinsic: ``(3, 3)`` or ``(4, 4)``.
        near: Near plane, metres.

    Returns:
        ``(E, 2, 3)``: for each remaining edge two end points ``(u, v, depth)``, pixels and metres; ``E`` ≤ 12. They
        may lie outside the image.

    In front of the camera, around it, behind it:

    >>> intrinsic = [[100, 0, 50], [0, 100, 40], [0, 0, 1]]
    >>> [len(visible_edges([0, 0, z, 1, 1, 1, 0, 0, 0], intrinsic)) for z in (2, 0, -2)]
    [12, 8, 0]
    """
    corners = box_corners(box)
    segments = corners[np.asarray(EDGES)]
    z0, z1 = segments[:, 0, 2], segments[:, 1, 2]
    keep = (z0 > near) | (z1 > near)
    segments, z0, z1 = segments[keep].copy(), z0[keep], z1[keep]
    span = np.where(np.abs(z1 - z0) < 1e-12, 1.0, z1 - z0)
    cut = segments[:, 0] + ((near - z0) / span)[:, None] * (segments[:, 1] - segments[:, 0])
    segments[z0 <= near, 0] = cut[z0 <= near]
    segments[z1 <= near, 1] = cut[z1 <= near]
    pixels, depth = project_points(segments, intrinsic)
    return np.concatenate([pixels, depth[..., None]], axis=-1)


def projected_bounds(
    box: ArrayLike, intrinsic: ArrayLike, size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The image rectangle that a box covers, clipped to the image.

    Args:
        box: ``(9,)`` in camera coordinates.
        intrinsic: ``(3, 3)`` or ``(4, 4)``.
        size: ``(width, height)`` in pixels.

    Returns:
        ``(left, top, right, bottom)`` in pixels, or None where no part of it lies in the image.

    >>> intrinsic = [[100, 0, 50], [0, 100, 40], [0, 0, 1]]
    >>> projected_bounds([0, 0, 2.5, 1, 0.5, 1, 0, 0, 0], intrinsic, (100, 80))
    (25.0, 27.5, 75.0, 52.5)
    >>> projected_bounds([0, 0, -2.5, 1, 0.5, 1, 0, 0, 0], intrinsic, (100, 80)) is None
    True
    """
    edges = visible_edges(box, intrinsic)
    if not len(edges):
        return None
    u, v = edges[..., 0].ravel(), edges[..., 1].ravel()
    left, right = max(float(u.min()), -0.5), min(float(u.max()), size[0] - 0.5)
    top, bottom = max(float(v.min()), -0.5), min(float(v.max()), size[1] - 0.5)
    if left >= right or top >= bottom:
        return None
    return left, top, right, bottom
