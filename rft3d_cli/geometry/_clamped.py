"""The volume that boxes share with the cube [-1, 1]³, many pairs at a time.

By the divergence theorem with the field ``(0, 0, clamp(z, -1, 1))``, the shared volume is the sum over the box's six
faces of ``± ∬ clamp(z)``, taken over the part of the face that lies above or below the square [-1, 1]². Green's theorem
turns each of those into integrals along the face's four edges. The cube's own faces never appear and nothing is
stitched together, so touching, flush and identical faces are not special: every term is continuous in the box.

At a point of an edge, let ``H`` be the integral of ``clamp(z)`` over one face of that edge, at fixed ``x``, from
``y = -1`` up to the point, or to ``y = 1`` where the point lies beyond. The volume is the sum of ``± ∫ H dx`` over all
edges and their two faces, with ``x`` kept in [-1, 1]. ``H`` is zero where ``y < -1``. Elsewhere it is a piecewise
quadratic that breaks only where the edge passes ``y = 1`` and where either end of the integral passes ``z = ±1``;
two-point Gauss on each piece is exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.geometry.boxes import Floats

Indices = NDArray[np.intp]

TINY = 1e-150
"""Added to divisors, away from zero: nothing divides by zero, and no other result changes."""

STEEPEST = 1e90
"""Slope of a vertical face. Its projection has no area, so any large number gives the same integral."""

NODES = np.array([[0.5 - 0.5 / np.sqrt(3)], [0.5 + 0.5 / np.sqrt(3)]])
"""Two-point Gauss nodes on [0, 1]; exact up to cubics."""

NEXT, PREVIOUS = [1, 2, 0], [2, 0, 1]
"""For each edge direction ``k``, the two others ``i, j`` such that ``(i, j, k)`` is cyclic."""

CORNER_SIGN = np.array([-1.0, -1.0, 1.0, 1.0])[:, None, None]
"""``-s_i · s_j`` for the four parallel edges at ``w_i = s_i, w_j = s_j``, in the order of :func:`_edge_starts`."""


def shared_fractions(offset: Floats, edges: Floats, normals: Floats) -> Floats:
    """The fraction of the cube [-1, 1]³ inside each box ``{offset + edges · w, w ∈ [-1, 1]³}``.

    Args:
        offset: ``(3, n)`` centres.
        edges: ``(3, 3, n)``; column ``k`` is half an edge along the box's ``k``-th axis. Positive determinant.
        normals: ``(3, 3, n)``; column ``k`` is normal to the faces across the ``k``-th axis, of any length. It follows
            from ``edges``, but callers have it without cancellation.

    Returns:
        ``(n,)`` fractions, in [0, 1] up to rounding.
    """
    offset, edges, slope, sign = _oriented(offset, edges, normals)
    n = offset.shape[1]
    start, step = _edge_starts(offset, edges), 2 * edges
    edge, low, high = _live_parts(start, step)
    column = np.tile(np.arange(3 * n), 4)[edge]
    weight = (step[0] * sign * CORNER_SIGN).ravel()[edge] * (high - low)

    ends = np.array([low, high])
    # y counts from the low side of the square.
    y = start[1].ravel()[edge] + 1 + ends * step[1].ravel()[column]
    z = start[2].ravel()[edge] + ends * step[2].ravel()[column]
    length = np.clip(y, 0, 2)
    faces = np.array([slope[NEXT].ravel()[column], slope[PREVIOUS].ravel()[column]])
    heights = np.empty((2, 2, *faces.shape))
    np.subtract(z[:, None], (y - length)[:, None] * faces, out=heights[1])
    np.subtract(heights[1], length[:, None] * faces, out=heights[0])
    means = _mean_integrals(np.tile(length, 2), heights.reshape(2, 2, -1), faces.ravel()).reshape(2, -1)
    pair = np.tile(np.arange(n), 3)[column]
    return np.bincount(pair, weight * (means[0] - means[1]), minlength=n) / 8


def _oriented(offset: Floats, edges: Floats, normals: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """The same problem with ``y`` rising along every edge and the centre at ``y <= 0``.

    Mirrors in ``y`` and swaps of an edge's two directions each turn the orientation; ``sign`` undoes that. With the
    centre low, more edges lie below the square, where they count nothing.

    Returns:
        ``offset``, ``edges``, the faces' slopes ``dz/dy`` as ``(3, n)``, and ``sign`` as ``(n,)``.
    """
    mirror = np.where(offset[1] > 0, -1.0, 1.0)
    slope = np.clip(-mirror * normals[1] * _inverse(normals[2]), -STEEPEST, STEEPEST)
    turn = np.copysign(1.0, edges[1] * mirror)
    edges = edges * turn
    edges[1] *= mirror
    offset = np.array([offset[0], offset[1] * mirror, offset[2]])
    return offset, edges, slope, mirror * turn[0] * turn[1] * turn[2]


def _edge_starts(offset: Floats, edges: Floats) -> Floats:
    """``(3 coordinates, 4, 3 directions, n)``: the low end of each of the twelve edges."""
    base = offset[:, None] - edges
    i, j = edges.take(NEXT, axis=1), edges.take(PREVIOUS, axis=1)
    out = np.empty((3, 4, 3, offset.shape[1]))
    same, opposite = i + j, i - j
    np.subtract(base, same, out=out[:, 0])
    np.add(base, same, out=out[:, 1])
    np.subtract(base, opposite, out=out[:, 2])
    np.add(base, opposite, out=out[:, 3])
    return out


def _live_parts(start: Floats, step: Floats) -> tuple[Indices, Floats, Floats]:
    """The stretches of edges that count: ``|x| < 1``, and ``y`` either within the square or beyond it.

    Args:
        start: ``(3, 4, 3, n)`` the edges' low ends.
        step: ``(3, 3, n)`` the edges.

    Returns:
        Indices into the ``(4, 3, n)`` edges, and where each stretch starts and ends, as a share of the edge.
    """
    inverse = _inverse(step[0])
    half, centre = np.abs(inverse), start[0] * -inverse
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    half = _inverse(step[1])
    centre = start[1] * -half
    inside, leave = np.maximum(low, centre - half).ravel(), centre + half
    until, beyond = np.minimum(high, leave).ravel(), np.maximum(low, leave).ravel()
    high = high.ravel()
    within, past = np.flatnonzero(until > inside), np.flatnonzero(high > beyond)
    lows, highs = [inside[within], beyond[past]], [until[within], high[past]]
    return np.concatenate([within, past]), np.concatenate(lows), np.concatenate(highs)


def _mean_integrals(length: Floats, heights: Floats, slope: Floats) -> Floats:
    """The mean of ``H`` over stretches of edges, along which everything that it is made of is linear.

    Args:
        length: ``(2 ends, S)`` the extent in ``y`` of the integral in ``H``.
        heights: ``(2, 2 ends, S)`` the face's ``z`` where that integral starts and where it stops.
        slope: ``(S,)`` the face's ``dz/dy``.

    Returns:
        ``(S,)`` means.
    """
    # Where the face does not pass z = ±1, clamp(z) is linear on it, and so is each factor of length · height.
    first, second = np.clip(heights, -1, 1).sum(axis=0)
    means: Floats = (length[0] * (2 * first + second) + length[1] * (first + 2 * second)) / 12
    low, high = heights.min(axis=(0, 1)), heights.max(axis=(0, 1))
    passing = np.flatnonzero(((low < 1) & (high > 1)) | ((low < -1) & (high > -1)))
    corners = heights.reshape(4, -1)
    means[passing] = _mean_by_pieces(
        np.array([end[passing] for end in length]),
        np.array([corner[passing] for corner in corners]).reshape(2, 2, -1),
        slope[passing],
    )
    return means


def _mean_by_pieces(length: Floats, heights: Floats, slope: Floats) -> Floats:
    """The same for stretches where the face passes ``z = ±1``: cut into pieces on which each ``clamp(z)`` is linear."""
    at, rise = heights[:, 0], heights[:, 1] - heights[:, 0]
    inverse = _inverse(rise)
    half, centre = np.abs(inverse), -at * inverse
    enter, leave = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    late, early = np.maximum(enter[0], enter[1]), np.minimum(leave[0], leave[1])
    cuts = np.empty((6, slope.size))
    cuts[0], cuts[5] = 0, 1
    np.minimum(enter[0], enter[1], out=cuts[1])
    np.minimum(late, early, out=cuts[2])
    np.maximum(late, early, out=cuts[3])
    np.maximum(leave[0], leave[1], out=cuts[4])

    rows = [np.flatnonzero(row) for row in cuts[1:] > cuts[:-1]]
    piece = np.concatenate(rows)
    low = np.concatenate([cuts[k][row] for k, row in enumerate(rows)])
    width = np.concatenate([cuts[k + 1][row] for k, row in enumerate(rows)]) - low
    where = low + NODES * width
    span = length[0][piece] + where * (length[1] - length[0])[piece]
    z0 = at[0][piece] + where * rise[0][piece]
    z1 = at[1][piece] + where * rise[1][piece]
    first, second = _clamp_integral(z0, z1, span, _inverse(slope)[piece])
    return np.bincount(piece, (first + second) * width, minlength=slope.size) / 4


def _clamp_integral(z0: Floats, z1: Floats, span: Floats, inverse_slope: Floats) -> Floats:
    """Twice ``∫ clamp(z)`` over ``span``, with ``z`` going linearly from ``z0`` to ``z1``; overwrites ``z0``.

    With ``c = clamp(z)`` and ``r = z - c`` at both ends it is ``span (c0 + c1) + (r0 + r1)(c1 - c0) / slope``. This
    form loses nothing as the slope goes to zero: either both ``r`` do, or ``c1 - c0`` is zero already.
    """
    c0, c1 = np.clip(z0, -1, 1), np.clip(z1, -1, 1)
    clamped = c0 + c1
    z0 += z1
    z0 -= clamped
    c1 -= c0
    c1 *= inverse_slope
    c1 *= z0
    clamped *= span
    clamped += c1
    return clamped


def _inverse(x: Floats) -> Floats:
    """``1 / x``, finite for every finite ``x``."""
    inverse: Floats = 1 / (x + np.copysign(TINY, x))
    return inverse
