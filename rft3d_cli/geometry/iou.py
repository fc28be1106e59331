"""Exact 3D IoU of oriented boxes, in float64.

Exact means to rounding error for every pair, nearly parallel, touching, flush and thin ones included; there is no
tolerance and no fallback. One box is mapped to the cube [-1, 1]³ and the volume that the other shares with it is
integrated (:mod:`rft3d_cli.geometry._clamped`). Most pairs in a room end before that, at their bounding spheres or at
one of six axes along which they lie apart.

A box with a size that is not positive, or with any number that is not finite, has IoU 0 with everything. So has one
that no metre can measure: sizes outside 1e-30 … 1e30 or a centre beyond 1e30.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rft3d_cli.geometry._clamped import Indices, shared_fractions
from rft3d_cli.geometry._single import LARGEST, SMALLEST, shared_fraction, single_iou
from rft3d_cli.geometry.boxes import Floats, rotation_from_angles

FEW = 8
"""Below this many pairs plain Python is faster than arrays."""

CHUNK = 512
"""Pairs at a time; keeps the working set within a core's cache."""


def box_iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """IoU of every box of one set with every box of another.

    Args:
        a: ``(N, 9)`` boxes ``[x, y, z, dx, dy, dz, a, b, c]``.
        b: ``(M, 9)``.

    Returns:
        ``(N, M)`` in [0, 1]; never NaN.

    Raises:
        ValueError: On another shape.

    >>> box_iou([[0, 0, 0, 1, 1, 1, 0, 0, 0]], [[0.5, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, np.pi / 4, 0, 0]])
    array([[0.33333333, 0.70710678]])
    """
    first, second = checked(a), checked(b)
    out = np.zeros((len(first), len(second)))
    if out.size < FEW:
        others = second.tolist()
        for row, box in enumerate(first.tolist()):
            out[row] = [single_iou(box, other) for other in others]
        return out
    rows, columns = np.flatnonzero(usable(first)), np.flatnonzero(usable(second))
    if not len(rows) or not len(columns):
        return out
    boxes, n = _Boxes.of(np.concatenate([first[rows], second[columns]])), len(rows)
    block = max(1, 2**16 // len(columns))
    for start in range(0, n, block):
        part = slice(start, min(start + block, n))
        shift = boxes.centre[:, part, None] - boxes.centre[:, None, n:]
        near = _squared_length(shift) < (boxes.radius[part, None] + boxes.radius[n:]) ** 2
        i, j = np.divmod(np.flatnonzero(near), len(columns))
        out[rows[start + i], columns[j]] = _near_iou(boxes, start + i, n + j)
    return out


def paired_iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """IoU of each box with its partner in another set.

    Args:
        a: ``(N, 9)`` boxes ``[x, y, z, dx, dy, dz, a, b, c]``.
        b: ``(N, 9)``.

    Returns:
        ``(N,)`` in [0, 1]; never NaN.

    Raises:
        ValueError: On another shape, or sets of different length.

    >>> paired_iou([[0, 0, 0, 2, 2, 2, 0.3, 0.1, 0]], [[0, 0, 0, 1, 1, 1, 1, 2, 3]]).round(9)
    array([0.125])
    """
    first, second = checked(a), checked(b)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} boxes cannot be paired with {len(second)}")
    if len(first) < FEW:
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        return np.array([single_iou(box, other) for box, other in pairs], dtype=np.float64)
    out = np.zeros(len(first))
    rows = np.flatnonzero(usable(first) & usable(second))
    boxes, n = _Boxes.of(np.concatenate([first[rows], second[rows]])), len(rows)
    shift = boxes.centre[:, :n] - boxes.centre[:, n:]
    near = np.flatnonzero(_squared_length(shift) < (boxes.radius[:n] + boxes.radius[n:]) ** 2)
    out[rows[near]] = _near_iou(boxes, near, n + near)
    return out


class _Boxes(NamedTuple):
    """Boxes with the box index last, which keeps array operations contiguous."""

    centre: Floats
    half: Floats
    angles: Floats
    rotation: Floats
    radius: Floats
    volume: Floats

    @classmethod
    def of(cls, boxes: Floats) -> _Boxes:
        centre, size, angles = np.ascontiguousarray(boxes.T).reshape(3, 3, -1)
        rotation = np.ascontiguousarray(np.moveaxis(rotation_from_angles(boxes[:, 6:9]), 0, -1))
        return cls(centre, size / 2, angles, rotation, np.sqrt(_squared_length(size / 2)), size.prod(axis=0))


def _near_iou(boxes: _Boxes, i: Indices, j: Indices) -> Floats:
    """``(P,)`` IoU of boxes ``i`` with boxes ``j``, worth a closer look because their bounding spheres meet."""
    _keep_freed_memory()
    # The smaller box becomes the cube: then more of the other's edges pass it by.
    swap = boxes.volume[j] < boxes.volume[i]
    i, j = np.where(swap, j, i), np.where(swap, i, j)
    out = np.zeros(len(i))
    for start in range(0, len(i), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = _chunk_iou(boxes, i[part], j[part])
    return out


def _chunk_iou(boxes: _Boxes, i: Indices, j: Indices) -> Floats:
    """The same for few enough pairs to stay in cache."""
    # Brackets would put the pairs first in memory; take keeps them last, and everything below runs along them.
    half, other = boxes.half.take(i, axis=1), boxes.half.take(j, axis=1)
    axes, others = boxes.rotation.take(i, axis=2), boxes.rotation.take(j, axis=2)
    # In the frame of box i; relative[r, k] is component r of box j's axis k.
    relative = np.einsum("krn,kcn->rcn", axes, others)
    offset = np.einsum("krn,kn->rn", axes, boxes.centre.take(j, axis=1) - boxes.centre.take(i, axis=1))
    cosines = np.abs(relative)
    apart = (np.abs(offset) >= half + np.einsum("rcn,cn->rn", cosines, other)).any(axis=0)
    along = np.abs(np.einsum("rcn,rn->cn", relative, offset))
    apart |= (along >= other + np.einsum("rcn,rn->cn", cosines, half)).any(axis=0)
    parallel = (boxes.angles.take(i, axis=1) == boxes.angles.take(j, axis=1)).all(axis=0)

    fraction = np.zeros(len(i))
    same, oblique = np.flatnonzero(~apart & parallel), np.flatnonzero(~apart & ~parallel)
    if len(same):
        t, h, s = offset[:, same], half[:, same], other[:, same]
        overlap = np.minimum(h, t + s) - np.maximum(-h, t - s)
        fraction[same] = (np.maximum(overlap, 0) / (2 * h)).prod(axis=0)
    if len(oblique):
        h, relative = half.take(oblique, axis=1), relative.take(oblique, axis=2)
        centre, edges = offset.take(oblique, axis=1) / h, relative * other.take(oblique, axis=1) / h[:, None]
        if len(oblique) < FEW:
            cases = zip(centre.T.tolist(), np.moveaxis(edges, -1, 0).tolist(), strict=True)
            fraction[oblique] = [shared_fraction(*case) for case in cases]
        else:
            fraction[oblique] = shared_fractions(centre, edges, relative * h[:, None])
    fraction = np.clip(fraction, 0, 1)
    iou: Floats = fraction / (1 + boxes.volume[j] / boxes.volume[i] - fraction)
    return iou


def _squared_length(vectors: Floats) -> Floats:
    """Squared lengths of vectors whose components lie along the first axis."""
    squared: Floats = vectors[0] ** 2 + vectors[1] ** 2 + vectors[2] ** 2
    return squared


def checked(boxes: ArrayLike) -> Floats:
    """Boxes as a float64 array ``(N, 9)``; copied only where they are something else.

    Raises:
        ValueError: On another shape.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.shape == (0,):
        return array.reshape(0, 9)
    if array.ndim != 2 or array.shape[1] != 9:
        raise ValueError(f"boxes must have shape (N, 9), not {array.shape}")
    return array


def usable(boxes: Floats) -> NDArray[np.bool_]:
    """Which of the boxes ``(N, 9)`` have finite numbers and a volume that floats can hold; the others have IoU 0.

    The same as ``_single._usable`` for one box.
    """
    centre, sizes, angles = np.ascontiguousarray(boxes.T).reshape(3, 3, -1)
    good = (sizes >= SMALLEST) & (sizes <= LARGEST) & (np.abs(centre) <= LARGEST) & np.isfinite(angles)
    return np.asarray(good.all(axis=0))


@cache
def _keep_freed_memory() -> None:
    """Save a third of the time on Linux, where glibc would return memory to the system after every array.

    It adapts to what a program frees: once a block of this size (4 MiB) has been freed, as in any program that has held
    an image, smaller ones stay in the process and need no new page faults.
    """
    np.empty(2**19)
