"""Overlap that tells apart boxes which do not touch: GIoU and DIoU, as metrics.

Not as rewards: where a box's place is uncertain, both pay for making it larger than it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rft3d_cli.geometry.boxes import Floats, box_corners
from rft3d_cli.geometry.iou import checked, paired_iou, usable


def giou(a: ArrayLike, b: ArrayLike) -> Floats:
    """Generalised IoU of each box with its partner: IoU minus the share of their convex hull that neither fills.

    ``IoU − (C − U) / C`` with the volumes ``U`` of the union and ``C`` of the smallest convex body around both
    (Rezatofighi and others, 2019). Unchanged by rigid motion and by scale.

    Args:
        a: ``(N, 9)`` boxes ``[x, y, z, dx, dy, dz, a, b, c]``, metres and radians.
        b: ``(N, 9)``.

    Returns:
        ``(N,)`` in [-1, 1]; -1 where a box is not usable, as in :mod:`~rft3d_cli.geometry.iou`.

    Raises:
        ValueError: On another shape, or sets of different length.

    >>> giou([[0, 0, 0, 1, 1, 1, 0, 0, 0]], [[3, 0, 0, 1, 1, 1, 0, 0, 0]])
    array([-0.5])
    """
    first, second = checked(a), checked(b)
    iou = paired_iou(first, second)
    out = np.full(len(first), -1.0)
    for i in np.flatnonzero(usable(first) & usable(second)):
        volumes = float(first[i, 3:6].prod()) + float(second[i, 3:6].prod())
        union = volumes / (1 + iou[i])
        hull = max(_hull_volume(first[i], second[i]), union)
        out[i] = iou[i] - (hull - union) / hull
    return out


def diou(a: ArrayLike, b: ArrayLike) -> Floats:
    """Distance IoU of each box with its partner, with the largest distance of two corners in place of a diagonal.

    ``IoU − d² / c²`` with the distance ``d`` of the centres (Zheng and others, 2020). There ``c`` is the diagonal of
    the aligned box around both, which changes as the axes turn; here it is the largest distance between two corners,
    which no rigid motion changes and which is never more.

    Args:
        a: ``(N, 9)`` boxes ``[x, y, z, dx, dy, dz, a, b, c]``, metres and radians.
        b: ``(N, 9)``.

    Returns:
        ``(N,)`` in (-1, 1]; -1 where a box is not usable.

    Raises:
        ValueError: On another shape, or sets of different length.

    >>> diou([[0, 0, 0, 1, 1, 1, 0, 0, 0]], [[0, 0, 0, 1, 1, 1, 0, 0, 0]])
    array([1.])
    """
    first, second = checked(a), checked(b)
    iou = paired_iou(first, second)
    out = np.full(len(first), -1.0)
    rows = np.flatnonzero(usable(first) & usable(second))
    corners = np.concatenate([box_corners(first[rows]), box_corners(second[rows])], axis=1)
    between = np.linalg.norm(corners[:, :, None] - corners[:, None], axis=-1).max(axis=(1, 2))
    # A box too small for its place has all its corners there: then the sizes say how far its ends are apart.
    between = np.maximum(between, np.linalg.norm(np.maximum(first[rows, 3:6], second[rows, 3:6]), axis=1))
    apart = np.linalg.norm(first[rows, :3] - second[rows, :3], axis=1)
    out[rows] = iou[rows] - (apart / between) ** 2
    return out


def _hull_volume(one: Floats, other: Floats) -> float:
    """The volume of the convex hull of two boxes ``(9,)``, m³; 0 where rounding leaves none.

    Volumes of one affine image keep their ratios: the corners are brought to equal spread along all axes first, so
    that plates and needles are as easy as cubes.
    """
    from scipy.spatial import ConvexHull, QhullError

    # Around the pair's own middle: far from the origin a small box would lose its corners to rounding.
    pair = np.stack([one, other])
    pair[:, :3] -= pair[:, :3].mean(axis=0)
    points = box_corners(pair).reshape(16, 3)
    points = points - points.mean(axis=0)
    _, spread, axes = np.linalg.svd(points, full_matrices=False)
    if not spread.all():
        return 0.0
    try:
        return float(ConvexHull(points @ axes.T / spread).volume) * float(spread.prod())
    except QhullError:
        # Thinner than rounding: the hull has no volume of its own to speak of.
        return 0.0
