"""A slow, plain reference for 3D IoU: 60 decimal digits, tetrahedra cut by planes, nothing shared with the package.

One box is cut into six tetrahedra, each face plane of the other box cuts every tetrahedron into the part below it
(again tetrahedra), and the volumes of what is left are added. No case needs a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from itertools import permutations

import mpmath

DIGITS = 60
Point = tuple[Decimal, Decimal, Decimal]
Tetrahedron = tuple[Point, Point, Point, Point]


def exact_iou(first: Iterable[float], second: Iterable[float]) -> float:
    """IoU of two boxes ``[x, y, z, dx, dy, dz, a, b, c]`` whose floats are taken as exact numbers."""
    with localcontext() as context:
        context.prec = DIGITS
        return float(_iou([float(v) for v in first], [float(v) for v in second]))


def _iou(first: Sequence[float], second: Sequence[float]) -> Decimal:
    volumes = [Decimal(box[3]) * Decimal(box[4]) * Decimal(box[5]) for box in (first, second)]
    if min(first[3:6]) <= 0 or min(second[3:6]) <= 0:
        return Decimal(0)
    centre, axes = _frame(first)
    pieces = _tetrahedra(second)
    for axis, size in zip(axes, first[3:6], strict=True):
        for sign in (1, -1):
            normal = tuple(sign * component for component in axis)
            limit = _dot(normal, centre) + Decimal(size) / 2
            pieces = [part for piece in pieces for part in _below(piece, normal, limit)]
    common = sum((_volume(piece) for piece in pieces), Decimal(0))
    return common / (volumes[0] + volumes[1] - common)


def _frame(box: Sequence[float]) -> tuple[Point, tuple[Point, Point, Point]]:
    """Centre and the three axis directions of ``Rz(a) · Rx(b) · Ry(c)``."""
    with mpmath.workdps(DIGITS):
        (sa, ca), (sb, cb), (sc, cc) = (
            tuple(Decimal(mpmath.nstr(f(mpmath.mpf(angle)), DIGITS)) for f in (mpmath.sin, mpmath.cos))
            for angle in box[6:9]
        )
    z = [[ca, -sa, Decimal(0)], [sa, ca, Decimal(0)], [Decimal(0), Decimal(0), Decimal(1)]]
    x = [[Decimal(1), Decimal(0), Decimal(0)], [Decimal(0), cb, -sb], [Decimal(0), sb, cb]]
    y = [[cc, Decimal(0), sc], [Decimal(0), Decimal(1), Decimal(0)], [-sc, Decimal(0), cc]]
    rotation = _product(_product(z, x), y)
    columns = tuple((rotation[0][k], rotation[1][k], rotation[2][k]) for k in range(3))
    return (Decimal(box[0]), Decimal(box[1]), Decimal(box[2])), columns


def _tetrahedra(box: Sequence[float]) -> list[Tetrahedron]:
    """Six tetrahedra along the main diagonal, one for each order in which a path can walk the three edges."""
    centre, axes = _frame(box)
    edges = [tuple(Decimal(size) * c for c in axis) for size, axis in zip(box[3:6], axes, strict=True)]
    low = tuple(centre[d] - sum(edge[d] for edge in edges) / 2 for d in range(3))
    out = []
    for order in permutations(range(3)):
        path = [low]
        for k in order:
            path.append(tuple(path[-1][d] + edges[k][d] for d in range(3)))
        out.append(tuple(path))
    return out


def _below(piece: Tetrahedron, normal: Point, limit: Decimal) -> list[Tetrahedron]:
    """The part of a tetrahedron where ``normal · v <= limit``, as tetrahedra."""
    height = {vertex: _dot(normal, vertex) - limit for vertex in piece}
    inside = [vertex for vertex in piece if height[vertex] <= 0]
    outside = [vertex for vertex in piece if height[vertex] > 0]

    def cut(p: Point, q: Point) -> Point:
        share = height[p] / (height[p] - height[q])
        return tuple(p[d] + share * (q[d] - p[d]) for d in range(3))

    if not inside or not outside:
        return [piece] if inside else []
    if len(inside) == 1:
        (apex,) = inside
        return [(apex, *(cut(apex, v) for v in outside))]
    if len(inside) == 2:
        base, top = ((p, *(cut(p, v) for v in outside)) for p in inside)
    else:
        base, top = tuple(inside), tuple(cut(p, outside[0]) for p in inside)
    return [(*base, top[2]), (*base[:2], *top[1:]), (base[0], *top)]


def _volume(piece: Tetrahedron) -> Decimal:
    u, v, w = (tuple(p[d] - piece[0][d] for d in range(3)) for p in piece[1:])
    return (
        abs(
            u[0] * (v[1] * w[2] - v[2] * w[1]) + u[1] * (v[2] * w[0] - v[0] * w[2]) + u[2] * (v[0] * w[1] - v[1] * w[0])
        )
        / 6
    )


def _dot(p: Point, q: Point) -> Decimal:
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


def _product(p: list[list[Decimal]], q: list[list[Decimal]]) -> list[list[Decimal]]:
    return [[sum((p[i][k] * q[k][j] for k in range(3)), Decimal(0)) for j in range(3)] for i in range(3)]
