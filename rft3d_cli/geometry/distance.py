"""The distance between oriented boxes, in float64, to rounding error.

The closest points of two convex bodies with flat faces can be chosen so that one of them lies on an edge, and bodies
that meet have an edge of one within the other. So the distance is the least distance of any of the 24 edges from the
other box. Along an edge the squared distance from a box is convex, and a parabola between the places where the edge
crosses one of the six planes of the box's faces: its minimum is found in closed form, without iterations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rft3d_cli.geometry.boxes import CORNER_SIGNS, EDGES, Floats, rotation_from_angles

CHUNK = 512
"""Pairs at a time; each takes some kilobytes."""
_STARTS, _ENDS = (CORNER_SIGNS[list(corners)] for corners in zip(*EDGES, strict=True))


def box_distance(a: ArrayLike, b: ArrayLike) -> Floats:
    """The distance between the closest points of two boxes.

    Args:
        a: ``(..., 9)`` boxes ``[x, y, z, dx, dy, dz, a, b, c]``, metres and radians. A size may be 0: a plate, a line
            or a point.
        b: ``(..., 9)``; the leading shapes are broadcast against each other, so that ``a[:, None]`` and ``b[None]``
            give all pairs.

    Returns:
        ``(...)`` metres; 0 where boxes touch, overlap, or lie one within the other.

    Raises:
        ValueError: On a last axis that is not nine long, a number that is not finite, a negative size, or leading
            shapes that do not fit.

    >>> box_distance([0, 0, 0, 2, 2, 2, 0, 0, 0], [3, 0, 0, 2, 2, 2, np.pi / 4, 0, 0]).round(6)
    np.float64(0.585786)
    >>> box_distance([0, 0, 0, 2, 2, 2, 0, 0, 0], [[0, 0, 0, 1, 1, 1, 1, 2, 3], [4, 5, 0, 2, 2, 2, 0, 0, 0]]).round(6)
    array([0.      , 3.605551])
    """
    first, second = _checked(a), _checked(b)
    shape = np.broadcast_shapes(first.shape, second.shape)
    one = np.broadcast_to(first, shape).reshape(-1, 9)
    other = np.broadcast_to(second, shape).reshape(-1, 9)
    out = np.empty(len(one))
    for start in range(0, len(one), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = np.minimum(_edges_to_box(one[part], other[part]), _edges_to_box(other[part], one[part]))
    distances: Floats = out.reshape(shape[:-1])[()]
    return distances


def _checked(boxes: ArrayLike) -> Floats:
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != 9:
        raise ValueError(f"boxes must have shape (..., 9), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("boxes must be finite")
    if (array[..., 3:6] < 0).any():
        raise ValueError("box sizes must not be negative")
    return array


def _edges_to_box(boxes: Floats, others: Floats) -> Floats:
    """The least distance of the twelve edges of each box ``(n, 9)`` from its partner, ``(n,)`` metres."""
    turn, back = rotation_from_angles(boxes[:, 6:9]), np.swapaxes(rotation_from_angles(others[:, 6:9]), 1, 2)
    centre = np.einsum("nij,nj->ni", back, boxes[:, :3] - others[:, :3])
    axes = back @ turn
    start = centre[:, None] + np.einsum("nij,nej->nei", axes, boxes[:, None, 3:6] * _STARTS)
    step = np.einsum("nij,nej->nei", axes, boxes[:, None, 3:6] * (_ENDS - _STARTS))
    half = others[:, None, 3:6] / 2
    # Where along the edge it crosses the planes of the faces; an edge along a plane crosses it nowhere.
    along = np.where(step == 0, 1.0, step)
    with np.errstate(over="ignore"):  # an edge of no length to speak of crosses at infinity
        crossings = np.concatenate([(-half - start) / along, (half - start) / along], axis=2)
    ends = np.broadcast_to([0.0, 1.0], (*start.shape[:2], 2))
    knots = np.sort(np.concatenate([np.clip(crossings, 0, 1), ends], axis=2), axis=2)
    low, high = knots[..., :-1], knots[..., 1:]
    # Between two knots each coordinate stays below, within or above the box: it counts from the face it is beyond.
    middle = start[:, :, None] + ((low + high) / 2)[..., None] * step[:, :, None]
    side = np.where(np.abs(middle) > half[:, :, None], np.sign(middle), 0.0)
    beyond = start[:, :, None] - side * half[:, :, None]
    counts = side != 0
    slope = (counts * beyond * step[:, :, None]).sum(axis=3)
    curve = (counts * step[:, :, None] ** 2).sum(axis=3)
    with np.errstate(over="ignore"):
        lowest = np.clip(-slope / np.where(curve > 0, curve, 1.0), low, high)
    # Each candidate is a point of the edge, so its distance is never too small.
    points = start[:, :, None] + lowest[..., None] * step[:, :, None]
    outside = np.maximum(np.abs(points) - half[:, :, None], 0.0)
    nearest: Floats = np.sqrt((outside**2).sum(axis=3)).min(axis=(1, 2))
    return nearest
