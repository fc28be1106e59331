"""The volume that boxes share with the cube [-1, 1]³, many pairs at a time.

By the divergence theorem with the field ``(0, 0, clamp(z, -1, 1))``, the shared volume is the sum over the box's six
faces of ``± ∬ clamp(z)``, taken over the part of the face that lies above or below the square [-1, 1]². Green's theorem
turns each of those into integrals along the face's four edges. The cube's own faces never appear and nothing is
stitched together, so touching, flush and identical faces are not special: every term is continuous in the box.

In detail: the part of an edge with ``|x| < 1`` and ``y > -1`` has a strip of each of its two faces below it, from
``y = -1`` up to the edge, or up to ``y = 1`` where the edge lies beyond. The shared volume is the sum of
``± ∬ clamp(z) dx dy`` over all edges and their two strips. A strip is two triangles, on which ``z`` is linear, and the
mean of ``clamp(z)`` over a triangle has a closed form in the heights of its corners (:func:`_mean_clamps`).
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
    edge, ends = _live_parts(start, step)
    column = _modulo(edge, 3 * n)
    base = (step[0] * sign * CORNER_SIGN).ravel()[edge] * (ends[1] - ends[0])

    # y counts from the low side of the square.
    y = start[1].ravel()[edge] + 1 + ends * step[1].ravel()[column]
    z = start[2].ravel()[edge] + ends * step[2].ravel()[column]
    length = y.clip(0, 2)
    above = y - length
    # The corners of the two strips: where each starts and stops in y, at either end of the edge's part.
    faces = [slope[order].ravel()[column] for order in (NEXT, PREVIOUS)]
    stops = np.array([z - above * face for face in faces])
    starts = stops - np.array([length * face for face in faces])
    # Cut along the diagonal that both triangles have: the one with its third corner at the part's low end, the other.
    one, other = starts[:, 0], stops[:, 1]
    third = np.array([stops[:, 0], starts[:, 1]])
    means = _mean_clamps(np.minimum(one, other), np.maximum(one, other), third)
    integrals = (means[0, 0] - means[0, 1]) * length[0] + (means[1, 0] - means[1, 1]) * length[1]
    return np.bincount(_modulo(column, n), base * integrals, minlength=n) / 16


def _oriented(offset: Floats, edges: Floats, normals: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """The same problem with ``y`` rising along every edge and the centre at ``y <= 0``.

    Mirrors in ``y`` and swaps of an edge's two directions each turn the orientation; ``sign`` undoes that. With the
    centre low, more edges lie below the square, where they count nothing.

    Returns:
        ``offset``, ``edges``, the faces' slopes ``dz/dy`` as ``(3, n)``, and ``sign`` as ``(n,)``.
    """
    mirror = -np.copysign(1.0, offset[1])
    slope = (-mirror * normals[1] * _inverse(normals[2])).clip(-STEEPEST, STEEPEST)
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


def _live_parts(start: Floats, step: Floats) -> tuple[Indices, Floats]:
    """The parts of edges that count: ``|x| < 1``, and ``y`` either within the square or beyond it.

    Args:
        start: ``(3, 4, 3, n)`` the edges' low ends.
        step: ``(3, 3, n)`` the edges.

    Returns:
        Indices into the ``(4, 3, n)`` edges, and where each part starts and ends, as a share of the edge, ``(2, S)``.
    """
    inverse = _inverse(step[0])
    half, centre = np.abs(inverse), start[0] * -inverse
    low, high = (centre - half).clip(0, 1), (centre + half).clip(0, 1)
    half = _inverse(step[1])
    centre = start[1] * -half
    enter, leave = np.maximum(low, centre - half).ravel(), centre + half
    until, beyond, high = np.minimum(high, leave).ravel(), np.maximum(low, leave).ravel(), high.ravel()
    within, past = np.flatnonzero(until > enter), np.flatnonzero(high > beyond)
    ends = np.empty((2, len(within) + len(past)))
    for part, (lows, highs, edge) in zip(
        (ends[:, : len(within)], ends[:, len(within) :]), ((enter, until, within), (beyond, high, past)), strict=True
    ):
        part[0], part[1] = lows[edge], highs[edge]
    return np.concatenate([within, past]), ends


def _mean_clamps(low: Floats, high: Floats, third: Floats) -> Floats:
    """The mean of ``clamp(z)`` over triangles on which ``z`` is linear.

    With corners at ``l ≤ m ≤ h`` the share of a triangle that lies below ``u`` is ``(u - l)² / ((h - l)(m - l))`` up to
    ``m``, and mirrored above. The mean follows by integrating that share over [-1, 1]: it is ``clamp(m)`` less what
    the lower part takes away, plus what the upper part adds. Every term is bounded, and continuous in the heights.

    Args:
        low: Heights of one corner of each triangle.
        high: Those of another, not below ``low``.
        third: Those of the third, any; with leading axes where triangles share the first two.

    Returns:
        Means in [-1, 1], in the shape of ``third``.
    """
    heights = np.empty((3, *third.shape))
    np.minimum(third, low, out=heights[0])
    np.maximum(np.minimum(third, high), low, out=heights[1])
    np.maximum(third, high, out=heights[2])
    clamped = heights.clip(-1, 1)
    # Of the lower and the upper part: how high it is, how much of that lies in [-1, 1], and how much outside.
    spread, part, inside = heights[2] - heights[0], heights[1:] - heights[:-1], clamped[1:] - clamped[:-1]
    heights -= clamped
    outside = np.abs(heights[::2])
    np.minimum(outside, part, out=outside)
    share = outside + inside
    share *= outside
    outside = inside * inside
    outside *= 1 / 3
    share += outside
    part *= spread
    part += TINY
    share /= part
    share *= inside
    means: Floats = clamped[1]
    means -= share[0]
    means += share[1]
    return means


def _modulo(index: Indices, n: int) -> Indices:
    """``index % n``, several times as fast: numpy divides by one number with multiplications."""
    rest: Indices = index - index // n * n
    return rest


def _inverse(x: Floats) -> Floats:
    """``1 / x``, finite for every finite ``x``."""
    inverse: Floats = 1 / (x + np.copysign(TINY, x))
    return inverse
