"""Exact 3D IoU of oriented boxes, in float64.

Exact means to rounding error for every pair, nearly parallel, touching, flush and thin ones included; there is no
tolerance and no fallback. One box is mapped to the cube [-1, 1]³ and the volume that the other shares with it is
integrated (:mod:`rft3d_cli.geometry._clamped`). Most pairs in a room end before that, at their bounding spheres or at
one of six axes along which they lie apart. Where both boxes are plates or needles, rounding grows with their aspect:
to 1e-9 at 1e6.

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
from rft3d_cli.geometry.boxes import Floats, rotation_rows

FEW = 8
"""Below this many pairs plain Python is faster than arrays."""

CHUNK = 512
"""Pairs at a time; keeps the working set within a core's cache."""

BLOCK = 4096
"""Pairs whose boxes are prepared at a time; bounds the memory."""

FAR_REACH = 1e3
"""A box that reaches further in units of another's half sizes costs digits."""


def box_iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """IoU of every box of one set with every box of another.

    Args:
        a: ``(N, 9)`` boxes ``[x, y, z, dx, dy, dz, a, b, c]``, metres and radians.
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
    boxes, n, flat = _Boxes.of(first, second), len(first), out.ravel()
    block = max(1, 2**16 // len(second))
    for start in range(0, n, block):
        part = slice(start, min(start + block, n))
        shift = boxes.centre[:, part, None] - boxes.centre[:, None, n:]
        near = np.flatnonzero(_squared_length(shift) < (boxes.radius[part, None] + boxes.radius[n:]) ** 2)
        i = near // len(second)
        flat[start * len(second) + near] = _near_iou(boxes, start + i, n + near - i * len(second))
    return out


def paired_iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """IoU of each box with its partner in another set.

    Args:
        a: ``(N, 9)`` boxes ``[x, y, z, dx, dy, dz, a, b, c]``, metres and radians.
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
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        boxes, n = _Boxes.of(first[part], second[part]), len(out[part])
        shift = boxes.centre[:, :n] - boxes.centre[:, n:]
        near = np.flatnonzero(_squared_length(shift) < (boxes.radius[:n] + boxes.radius[n:]) ** 2)
        out[start + near] = _near_iou(boxes, near, n + near)
    return out


class _Boxes(NamedTuple):
    """Boxes with all that is needed of each, computed once.

    Args:
        centre: ``(3, N)``.
        radius: ``(N,)`` of the bounding sphere; NaN for boxes without a volume, which are then near nothing.
        volume: ``(N,)``.
        least: ``(N,)`` smallest half size.
        most: ``(N,)`` largest half size.
        table: ``(18, N)`` centre, half sizes, angles and rotation matrix, row by row.
    """

    centre: Floats
    radius: Floats
    volume: Floats
    least: Floats
    most: Floats
    table: Floats

    @classmethod
    def of(cls, first: Floats, second: Floats) -> _Boxes:
        """The boxes of two sets ``(N, 9)`` and ``(M, 9)``, one after the other."""
        n = len(first)
        table = np.empty((18, n + len(second)))
        boxes, half = table[:9], table[3:6]
        boxes[:, :n], boxes[:, n:] = first.T, second.T
        good = _usable(boxes)
        if not good.all():
            boxes[:, ~good] = np.nan
        half /= 2
        rotation_rows(table[6:9], out=table[9:].reshape(3, 3, -1))
        x, y, z = half
        least, most = np.minimum(np.minimum(x, y), z), np.maximum(np.maximum(x, y), z)
        return cls(table[:3], np.sqrt(_squared_length(half)), x * y * z, least, most, table)


def _near_iou(boxes: _Boxes, i: Indices, j: Indices) -> Floats:
    """``(P,)`` IoU of boxes ``i`` with boxes ``j``, worth a closer look because their bounding spheres meet."""
    _keep_freed_memory()
    # The smaller box becomes the cube: then more of the other's edges pass it by. But in units of a thin plate the
    # other box may be so large that its place is rounded away; then the one with the shorter reach is cut.
    swap = boxes.volume[j] < boxes.volume[i]
    reach, other = boxes.most[j] / boxes.least[i], boxes.most[i] / boxes.least[j]
    swap = np.where(np.maximum(reach, other) > FAR_REACH, other < reach, swap)
    i, j = np.where(swap, j, i), np.where(swap, i, j)
    out = np.zeros(len(i))
    for start in range(0, len(i), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = _chunk_iou(boxes, i[part], j[part])
    return out


def _chunk_iou(boxes: _Boxes, i: Indices, j: Indices) -> Floats:
    """The same for few enough pairs to stay in cache."""
    # Brackets would put the pairs first in memory; take keeps them last, and everything below runs along them.
    box, partner = boxes.table.take(i, axis=1, mode="clip"), boxes.table.take(j, axis=1, mode="clip")
    half, other = box[3:6], partner[3:6]
    axes, others = box[9:].reshape(3, 3, -1), partner[9:].reshape(3, 3, -1)
    # In the frame of box i; relative[r, k] is component r of box j's axis k.
    relative = _transposed_product(axes, others)
    offset = _transposed_times(axes, partner[:3] - box[:3])
    cosines = np.abs(relative)
    gaps = np.empty((6, len(i)))
    gaps[:3] = np.abs(offset) - half - _transposed_times(cosines.swapaxes(0, 1), other)
    gaps[3:] = np.abs(_transposed_times(relative, offset)) - other - _transposed_times(cosines, half)
    meet = (gaps < 0).all(axis=0)
    parallel = (box[6:9] == partner[6:9]).all(axis=0)

    fraction = np.zeros(len(i))
    same, oblique = np.flatnonzero(meet & parallel), np.flatnonzero(meet & ~parallel)
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
    fraction = fraction.clip(0, 1)
    iou: Floats = fraction / (1 + boxes.volume[j] / boxes.volume[i] - fraction)
    return iou


def _transposed_product(a: Floats, b: Floats) -> Floats:
    """``aᵀ · b`` of matrices ``(3, 3, n)``."""
    product: Floats = a[0][:, None] * b[0] + a[1][:, None] * b[1] + a[2][:, None] * b[2]
    return product


def _transposed_times(matrix: Floats, vector: Floats) -> Floats:
    """``matrixᵀ · vector`` of matrices ``(3, 3, n)`` and vectors ``(3, n)``."""
    product: Floats = matrix[0] * vector[0] + matrix[1] * vector[1] + matrix[2] * vector[2]
    return product


def _squared_length(vectors: Floats) -> Floats:
    """Squared lengths of vectors whose components lie along the first axis."""
    squared: Floats = vectors[0] ** 2 + vectors[1] ** 2 + vectors[2] ** 2
    return squared


def checked(boxes: ArrayLike) -> Floats:
    """Boxes as a float64 array; copied only where they are something else.

    Args:
        boxes: ``(N, 9)``, or empty. Their numbers are not looked at; :func:`usable` does that.

    Returns:
        ``(N, 9)``.

    Raises:
        ValueError: On another shape.

    >>> checked([[0, 0, 0, 1, 1, 1, 0, 0, 0]]).shape, checked([]).shape
    ((1, 9), (0, 9))
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.shape == (0,):
        return array.reshape(0, 9)
    if array.ndim != 2 or array.shape[1] != 9:
        raise ValueError(f"boxes must have shape (N, 9), not {array.shape}")
    return array


def usable(boxes: Floats) -> NDArray[np.bool_]:
    """Which boxes have finite numbers and a volume that floats can hold; the others have IoU 0.

    Args:
        boxes: ``(N, 9)``, as :func:`checked` returns them.

    Returns:
        ``(N,)`` booleans.

    >>> usable(checked([[0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0, 0]])).tolist()
    [True, False]
    """
    return _usable(np.ascontiguousarray(boxes.T))


def _usable(boxes: Floats) -> NDArray[np.bool_]:
    """The same for boxes ``(9, N)``, and the same as ``_single._usable`` for one box."""
    sizes, centre = boxes[3:6], boxes[:3]
    good = (sizes >= SMALLEST) & (sizes <= LARGEST) & (np.abs(centre) <= LARGEST) & np.isfinite(boxes[6:])
    return np.asarray(good.all(axis=0))


@cache
def _keep_freed_memory() -> None:
    """Save a third of the time on Linux, where glibc would return memory to the system after every array.

    It adapts to what a program frees: once a block of this size (4 MiB) has been freed, as in any program that has held
    an image, smaller ones stay in the process and need no new page faults.
    """
    np.empty(2**19)
