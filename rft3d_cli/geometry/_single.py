"""IoU of one pair of boxes in plain Python.

The same steps and the same formulas as the array form in :mod:`rft3d_cli.geometry.iou` and
:mod:`rft3d_cli.geometry._clamped`: a sum of ``± ∬ clamp(z)`` over one box's faces. Here each face is clipped as a
polygon and cut into a fan of triangles. For a few pairs this is faster than starting a hundred array operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]
Point = tuple[float, float, float]

SMALLEST, LARGEST = 1e-30, 1e30
"""Metres within which volumes and their ratios are ordinary floats."""

FACES = ((4, 5, 6, 7), (3, 2, 1, 0), (1, 2, 6, 5), (4, 7, 3, 0), (3, 7, 6, 2), (1, 5, 4, 0))
"""Corner indices of the six faces, anticlockwise as seen from outside; corners in the order of :func:`_corners`."""

BESIDE_X, BESIDE_Y, BELOW = 1 + 2, 4 + 8, 16
"""Bits that say where a corner lies outside the cube: on the low or the high side in x and in y, below in z."""


def single_iou(box: Vector, other: Vector) -> float:
    """IoU of two boxes of nine Python floats; 0 for boxes without a volume.

    >>> single_iou([0, 0, 0, 1, 1, 1, 0, 0, 0], [0.5, 0, 0, 1, 1, 1, 0, 0, 0]) == 1 / 3
    True
    """
    if not (_usable(box) and _usable(other)):
        return 0.0
    half, sizes = [v / 2 for v in box[3:6]], [v / 2 for v in other[3:6]]
    x, y, z = other[0] - box[0], other[1] - box[1], other[2] - box[2]
    if math.hypot(x, y, z) >= math.hypot(*half) + math.hypot(*sizes):
        return 0.0
    axes = _axes(*box[6:9])
    offset = [p * x + q * y + r * z for p, q, r in axes]
    if box[6:9] == other[6:9]:
        fraction = _aligned_fraction(offset, half, sizes)
    else:
        (ux, uy, uz), (vx, vy, vz), (wx, wy, wz) = _axes(*other[6:9])
        rows = [(p * ux + q * uy + r * uz, p * vx + q * vy + r * vz, p * wx + q * wy + r * wz) for p, q, r in axes]
        if _apart(offset, half, rows, sizes):
            return 0.0
        fraction = shared_fraction(
            [t / h for t, h in zip(offset, half, strict=True)],
            [(p * sizes[0] / h, q * sizes[1] / h, r * sizes[2] / h) for (p, q, r), h in zip(rows, half, strict=True)],
        )
    ratio = (sizes[0] * sizes[1] * sizes[2]) / (half[0] * half[1] * half[2])
    fraction = min(max(fraction, 0.0), ratio, 1.0)
    return fraction / (1.0 + ratio - fraction)


def shared_fraction(offset: Vector, edges: Sequence[Vector]) -> float:
    """The fraction of the cube [-1, 1]³ inside the box ``{offset + edges · w, w ∈ [-1, 1]³}``.

    Args:
        offset: Centre, 3 numbers.
        edges: 3 rows of 3; column ``k`` is half an edge along the box's ``k``-th axis. Positive determinant.

    Returns:
        The fraction, in [0, 1] up to rounding.

    >>> shared_fraction([1, 0, 0], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    0.5
    """
    corners = _corners(offset, edges)
    codes = [
        (1 if x < -1.0 else 2 if x > 1.0 else 0) + (4 if y < -1.0 else 8 if y > 1.0 else 0) + (BELOW if z < -1.0 else 0)
        for x, y, z in corners
    ]
    doubled = 0.0
    for i, j, k, m in FACES:
        # clamp(z) + 1 integrates to the same sum over a closed surface, and is zero on faces below the cube.
        if not codes[i] & codes[j] & codes[k] & codes[m]:
            somewhere = codes[i] | codes[j] | codes[k] | codes[m]
            doubled += _face([corners[i], corners[j], corners[k], corners[m]], somewhere)
    return doubled / 16


def _usable(box: Vector) -> bool:
    """Whether a box has finite numbers and a volume that floats can hold."""
    x, y, z, dx, dy, dz, a, b, c = box
    return (
        (SMALLEST <= dx <= LARGEST and SMALLEST <= dy <= LARGEST and SMALLEST <= dz <= LARGEST)
        and (abs(x) <= LARGEST and abs(y) <= LARGEST and abs(z) <= LARGEST)
        and (math.isfinite(a) and math.isfinite(b) and math.isfinite(c))
    )


def _axes(a: float, b: float, c: float) -> tuple[Point, Point, Point]:
    """The columns of :func:`~rft3d_cli.geometry.boxes.rotation_from_angles`."""
    sa, sb, sc, ca, cb, cc = math.sin(a), math.sin(b), math.sin(c), math.cos(a), math.cos(b), math.cos(c)
    return (
        (ca * cc - sa * sb * sc, sa * cc + ca * sb * sc, -cb * sc),
        (-sa * cb, ca * cb, sb),
        (ca * sc + sa * sb * cc, sa * sc - ca * sb * cc, cb * cc),
    )


def _aligned_fraction(offset: Vector, half: Vector, sizes: Vector) -> float:
    """The shared fraction for equal rotations; exactly 1 for a box and itself."""
    fraction = 1.0
    for t, h, s in zip(offset, half, sizes, strict=True):
        fraction *= max(min(h, t + s) - max(-h, t - s), 0.0) / (2 * h)
    return fraction


def _apart(offset: Vector, half: Vector, rows: Sequence[Vector], other: Vector) -> bool:
    """Whether one of the six face normals separates two boxes; ``rows`` turn the other's axes into the first's."""
    (x, y, z), (h, k, m), (u, v, w) = offset, half, other
    for t, s, (p, q, r) in zip(offset, half, rows, strict=True):
        if abs(t) >= s + abs(p) * u + abs(q) * v + abs(r) * w:
            return True
    for s, p, q, r in zip(other, *rows, strict=True):
        if abs(p * x + q * y + r * z) >= s + abs(p) * h + abs(q) * k + abs(r) * m:
            return True
    return False


def _corners(offset: Vector, edges: Sequence[Vector]) -> list[Point]:
    """Four corners around the low end of the first axis, then four around its high end."""
    (x, y, z), ((ax, bx, cx), (ay, by, cy), (az, bz, cz)) = offset, edges
    px, py, pz = bx + cx, by + cy, bz + cz
    qx, qy, qz = bx - cx, by - cy, bz - cz
    lx, ly, lz = x - ax, y - ay, z - az
    hx, hy, hz = x + ax, y + ay, z + az
    return [
        *((lx - px, ly - py, lz - pz), (lx + qx, ly + qy, lz + qz)),
        *((lx + px, ly + py, lz + pz), (lx - qx, ly - qy, lz - qz)),
        *((hx - px, hy - py, hz - pz), (hx + qx, hy + qy, hz + qz)),
        *((hx + px, hy + py, hz + pz), (hx - qx, hy - qy, hz - qz)),
    ]


def _face(points: list[Point], somewhere: int) -> float:
    """Twice ``∬ clamp(z) + 1`` over the part of one face above or below the square, signed by its orientation."""
    points = _slab(points) if somewhere & BESIDE_X else [(y, z, x) for x, y, z in points]
    if not points:
        return 0.0
    points = _slab(points) if somewhere & BESIDE_Y else [(z, x, y) for y, z, x in points]
    total = 0.0
    if len(points) > 2:
        (z0, x0, y0), (z1, x1, y1) = points[:2]
        x1, y1 = x1 - x0, y1 - y0
        for z, x, y in points[2:]:
            x, y = x - x0, y - y0
            total += (x1 * y - x * y1) * (1.0 + _mean_clamp(z0, z1, z))
            z1, x1, y1 = z, x, y
    return total


def _mean_clamp(low: float, middle: float, high: float) -> float:
    """The mean of ``clamp(z)`` over a triangle with corners at three heights, in any order.

    The formula of :func:`rft3d_cli.geometry._clamped._mean_clamps`, less what is zero.
    """
    if low > middle:
        low, middle = middle, low
    if high < low:
        low, middle, high = high, low, middle
    elif high < middle:
        middle, high = high, middle
    if low >= -1.0 and high <= 1.0:
        return (low + middle + high) / 3.0
    if low >= 1.0:
        return 1.0
    if high <= -1.0:
        return -1.0
    mean = clamped = -1.0 if middle < -1.0 else 1.0 if middle > 1.0 else middle
    if clamped > -1.0 and middle > low:
        outside = -1.0 - low if low < -1.0 else 0.0
        inside = clamped + 1.0 if low < -1.0 else clamped - low
        mean -= (outside * (outside + inside) + inside * inside / 3.0) / ((high - low) * (middle - low)) * inside
    if clamped < 1.0 and high > middle:
        outside = high - 1.0 if high > 1.0 else 0.0
        inside = 1.0 - clamped if high > 1.0 else high - clamped
        mean += (outside * (outside + inside) + inside * inside / 3.0) / ((high - low) * (high - middle)) * inside
    return mean


def _slab(points: list[Point]) -> list[Point]:
    """A polygon clipped to first coordinates in [-1, 1], with that coordinate moved to the back."""
    out: list[Point] = []
    u, v, w = points[-1]
    for x, y, z in points:
        # Each side of the polygon adds where it enters the slab, then where it leaves it or its own end.
        if u > 1.0:
            if x <= 1.0:
                t = (1.0 - u) / (x - u)
                out.append((v + t * (y - v), w + t * (z - w), 1.0))
        elif u < -1.0 <= x:
            t = (-1.0 - u) / (x - u)
            out.append((v + t * (y - v), w + t * (z - w), -1.0))
        if x > 1.0:
            if u <= 1.0:
                t = (1.0 - u) / (x - u)
                out.append((v + t * (y - v), w + t * (z - w), 1.0))
        elif x >= -1.0:
            out.append((y, z, x))
        elif u >= -1.0:
            t = (-1.0 - u) / (x - u)
            out.append((v + t * (y - v), w + t * (z - w), -1.0))
        u, v, w = x, y, z
    return out
