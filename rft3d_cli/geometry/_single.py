"""IoU of one pair of boxes in plain Python.

The same steps and the same formula as the array form in :mod:`rft3d_cli.geometry.iou` and
:mod:`rft3d_cli.geometry._clamped`: a sum of ``± ∬ clamp(z)`` over one box's faces, with each face clipped as a polygon.
For a few pairs this is faster than starting a hundred array operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Vector = Sequence[float]
Point = tuple[float, float, float]

SMALLEST, LARGEST = 1e-30, 1e30
"""Metres within which volumes and their ratios are ordinary floats."""

FACES = ((4, 5, 6, 7), (3, 2, 1, 0), (1, 2, 6, 5), (4, 7, 3, 0), (3, 7, 6, 2), (1, 5, 4, 0))
"""Corner indices of the six faces, anticlockwise as seen from outside; corners in the order of :func:`_corners`."""

BESIDE_X, BESIDE_Y, BELOW, ABOVE = 1 + 2, 4 + 8, 16, 32
"""Bits that say where a corner lies outside the cube, low side first."""


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
        others = _axes(*other[6:9])
        rows = [[p * u + q * v + r * w for u, v, w in others] for p, q, r in axes]
        columns = list(zip(*rows, strict=True))
        x, y, z = offset
        if _apart(offset, half, rows, sizes) or _apart(
            [p * x + q * y + r * z for p, q, r in columns], sizes, columns, half
        ):
            return 0.0
        u, v, w = sizes
        fraction = shared_fraction(
            [t / h for t, h in zip(offset, half, strict=True)],
            [(p * u / h, q * v / h, r * w / h) for (p, q, r), h in zip(rows, half, strict=True)],
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
        (1 if x < -1.0 else 2 if x > 1.0 else 0)
        + (4 if y < -1.0 else 8 if y > 1.0 else 0)
        + (16 if z < -1.0 else 32 if z > 1.0 else 0)
        for x, y, z in corners
    ]
    doubled = 0.0
    for i, j, k, m in FACES:
        everywhere = codes[i] & codes[j] & codes[k] & codes[m]
        # clamp(z) + 1 integrates to the same sum over a closed surface, and is zero on faces below the cube.
        if not everywhere & (BESIDE_X | BESIDE_Y | BELOW):
            somewhere = codes[i] | codes[j] | codes[k] | codes[m]
            doubled += _face([corners[i], corners[j], corners[k], corners[m]], everywhere, somewhere)
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


def _apart(offset: Vector, half: Vector, rows: Iterable[Vector], other: Vector) -> bool:
    """Whether one of a box's three axes separates it from another box."""
    u, v, w = other
    for t, h, (p, q, r) in zip(offset, half, rows, strict=True):
        if abs(t) >= h + abs(p) * u + abs(q) * v + abs(r) * w:
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


def _face(points: list[Point], everywhere: int, somewhere: int) -> float:
    """Twice ``∬ clamp(z) + 1`` over the part of one face above or below the square, signed by its orientation."""
    points = _slab(points) if somewhere & BESIDE_X else [(y, z, x) for x, y, z in points]
    points = _slab(points) if somewhere & BESIDE_Y else [(z, x, y) for y, z, x in points]
    if len(points) < 3:
        return 0.0
    if everywhere & ABOVE:
        return 2 * _area(points)
    if not somewhere & (BELOW | ABOVE):
        return _mean_height([(x, y, z) for z, x, y in points])
    total = 2 * _area(_beyond(points)) if somewhere & ABOVE else 0.0
    return total + _mean_height(_slab(points))


def _slab(points: list[Point]) -> list[Point]:
    """A polygon clipped to first coordinates in [-1, 1], with that coordinate moved to the back.

    Three calls clip all three coordinates and restore their order.
    """
    out: list[Point] = []
    if not points:
        return out
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


def _beyond(points: list[Point]) -> list[Point]:
    """The part of a polygon with first coordinates above 1, moved onto 1."""
    out: list[Point] = []
    u, v, w = points[-1]
    for x, y, z in points:
        if (x > 1.0) != (u > 1.0):
            t = (1.0 - u) / (x - u)
            out.append((1.0, v + t * (y - v), w + t * (z - w)))
        if x > 1.0:
            out.append((1.0, y, z))
        u, v, w = x, y, z
    return out


def _area(points: list[Point]) -> float:
    """Twice the signed area of a polygon in its second and third coordinates."""
    total = 0.0
    if len(points) > 2:
        (_, x0, y0), (_, x1, y1) = points[:2]
        x1, y1 = x1 - x0, y1 - y0
        for _, x, y in points[2:]:
            x, y = x - x0, y - y0
            total += x1 * y - x * y1
            x1, y1 = x, y
    return total


def _mean_height(points: list[Point]) -> float:
    """Twice the signed integral of ``z + 1`` over a flat polygon's projection to ``xy``."""
    total = 0.0
    if len(points) > 2:
        (x0, y0, z0), (x1, y1, z1) = points[:2]
        x1, y1 = x1 - x0, y1 - y0
        for x, y, z in points[2:]:
            x, y = x - x0, y - y0
            total += (x1 * y - x * y1) * (z0 + z1 + z + 3.0)
            x1, y1, z1 = x, y, z
    return total / 3
