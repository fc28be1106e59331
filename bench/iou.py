"""Speed of the exact 3D IoU beside SciPy's half-space intersection and convex hull.

Every case is run in turn, round after round in one process, and the median of the rounds is reported.
SciPy takes the documented way: an interior point by linear programming, then the intersection's corners, then the
volume of their hull. Both give the same numbers; the largest difference is in the table.

    python bench/iou.py            a table
    python bench/iou.py --json     one JSON document
    python bench/iou.py --quick    fewer pairs and rounds
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection
from side_by_side import document, main, medians

from rft3d_cli.geometry.boxes import Floats, rotation_from_angles
from rft3d_cli.geometry.iou import box_iou, paired_iou


def measure(quick: bool) -> dict[str, Any]:
    """All cases, in turn."""
    rounds, scipy_pairs = (7, 24) if quick else (25, 96)
    rng = np.random.default_rng(0)
    a = objects(rng, 4096)
    b = predictions(a, rng)
    here, there = objects(rng, 64), objects(rng, 64)
    theirs = np.array([halfspace_iou(x, y) for x, y in zip(a[:scipy_pairs], b[:scipy_pairs], strict=True)])

    pairs = [(a[k, None], b[k, None]) for k in range(scipy_pairs)]
    near = predictions(here[:12], rng)
    cases: list[tuple[str, str, int, Callable[[], object]]] = [
        ("4,096 overlapping pairs, one call", "rft3d", 4096, lambda: paired_iou(a, b)),
        ("64 x 64 in a room, mostly apart, one call", "rft3d", 4096, lambda: box_iou(here, there)),
        ("one overlapping pair a call", "rft3d", scipy_pairs, lambda: [paired_iou(x, y) for x, y in pairs]),
        ("a scene of 20 x 12, one call", "rft3d", 240, lambda: box_iou(here[:20], near)),
        ("one overlapping pair a call", "scipy", scipy_pairs, lambda: [halfspace_iou(x[0], y[0]) for x, y in pairs]),
    ]
    times = medians({f"{case}, {method}": lambda _, call=call: call() for case, method, _, call in cases}, rounds)
    rows = [
        {
            "case": case,
            "method": method,
            "pairs": n,
            "us_per_pair": 1e6 * middle / n,
            "us_per_pair_min": 1e6 * least / n,
        }
        for (case, method, n, _), (middle, least) in zip(cases, times.values(), strict=True)
    ]
    dense, sparse, single, scene, reference = (row["us_per_pair"] for row in rows)
    summary = {
        "us_per_pair_dense": dense,
        "us_per_pair_sparse": sparse,
        "us_single_pair": single,
        "us_scene_20x12": scene * 240,
        "speedup_vs_scipy_halfspace": reference / dense,
        "speedup_vs_scipy_halfspace_single_pair": reference / single,
        "largest_difference_from_scipy": float(np.abs(paired_iou(a, b)[:scipy_pairs] - theirs).max()),
        "share_overlapping_in_room": float((box_iou(here, there) > 0).mean()),
    }
    return document("iou", rows, summary)


def objects(rng: np.random.Generator, n: int) -> Floats:
    """Boxes of furniture size in a room of 8 by 8 by 2.5 metres."""
    places = rng.uniform(0, [8, 8, 2.5], (n, 3))
    return np.concatenate([places, rng.uniform(0.2, 1.2, (n, 3)), rng.uniform(-np.pi, np.pi, (n, 3))], axis=1)


def predictions(boxes: Floats, rng: np.random.Generator) -> Floats:
    """Boxes as a fair model would predict them: all overlap their targets."""
    out = boxes.copy()
    out[:, :3] += rng.uniform(-0.25, 0.25, (len(boxes), 3)) * boxes[:, 3:6].min(axis=1, keepdims=True)
    out[:, 3:6] *= rng.uniform(0.7, 1.4, (len(boxes), 3))
    out[:, 6:] += rng.normal(0, 0.3, (len(boxes), 3))
    return out


def halfspace_iou(a: Floats, b: Floats) -> float:
    """IoU by SciPy, for boxes that overlap."""
    normals, offsets = [], []
    for box in (a, b):
        axes = rotation_from_angles(box[6:9]).T
        for sign in (1.0, -1.0):
            normals.append(sign * axes)
            offsets.append(-(sign * axes @ box[:3] + box[3:6] / 2))
    normal, offset = np.concatenate(normals), np.concatenate(offsets)
    # The centre of the largest ball inside: maximise r with normal · x + r <= -offset.
    lp = linprog([0, 0, 0, -1], A_ub=np.column_stack([normal, np.ones(12)]), b_ub=-offset, bounds=[(None, None)] * 4)
    corners = HalfspaceIntersection(np.column_stack([normal, offset]), lp.x[:3]).intersections
    common = ConvexHull(corners).volume
    return float(common / (a[3:6].prod() + b[3:6].prod() - common))


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    summary = found["summary"]
    print(f"{'case':44}{'method':10}{'us a pair':>12}{'fastest':>12}")
    for row in found["rows"]:
        print(f"{row['case']:44}{row['method']:10}{row['us_per_pair']:12.2f}{row['us_per_pair_min']:12.2f}")
    print(
        f"\n{summary['speedup_vs_scipy_halfspace']:.0f} times as fast as SciPy in one call, "
        f"{summary['speedup_vs_scipy_halfspace_single_pair']:.0f} times pair by pair; "
        f"largest difference {summary['largest_difference_from_scipy']:.1e}"
    )


if __name__ == "__main__":
    main("Time the exact 3D IoU beside SciPy's half-space intersection.", measure, show)
