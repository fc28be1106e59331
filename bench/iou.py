"""Speed of the exact 3D IoU beside SciPy's half-space intersection and convex hull.

Every case is run in turn, round after round in one process, and the median of the rounds is reported. Times are the
thread's own (nothing here waits), so that other work on the machine disturbs them less.
SciPy takes the documented way: an interior point by linear programming, then the intersection's corners, then the
volume of their hull. Both give the same numbers; the largest difference is in the table.

    python bench/iou.py            a table
    python bench/iou.py --json     one JSON document
    python bench/iou.py --quick    fewer pairs and rounds
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection

import rft3d_cli
from rft3d_cli.geometry.boxes import Floats, rotation_from_angles
from rft3d_cli.geometry.iou import box_iou, paired_iou


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the exact 3D IoU beside SciPy's half-space intersection.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="fewer pairs and rounds")
    options = parser.parse_args()
    document = measure(rounds=7 if options.quick else 25, scipy_pairs=24 if options.quick else 96)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        show(document)


def measure(rounds: int, scipy_pairs: int) -> dict[str, object]:
    """All cases, interleaved."""
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
    times: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for (_, _, _, call), record in zip(cases, times, strict=True):
            start = time.thread_time()
            call()
            record.append(time.thread_time() - start)
    rows = [
        {
            "case": case,
            "method": method,
            "pairs": count,
            "us_per_pair": 1e6 * statistics.median(record) / count,
            "us_per_pair_min": 1e6 * min(record) / count,
        }
        for (case, method, count, _), record in zip(cases, times, strict=True)
    ]
    dense, sparse, single, scene, reference = (row["us_per_pair"] for row in rows)
    return {
        "schema": 1,
        "bench": "iou",
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "rft3d": rft3d_cli.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "rows": rows,
        "summary": {
            "us_per_pair_dense": dense,
            "us_per_pair_sparse": sparse,
            "us_single_pair": single,
            "us_scene_20x12": scene * 240,
            "speedup_vs_scipy_halfspace": reference / dense,
            "speedup_vs_scipy_halfspace_single_pair": reference / single,
            "largest_difference_from_scipy": float(np.abs(paired_iou(a, b)[:scipy_pairs] - theirs).max()),
            "share_overlapping_in_room": float((box_iou(here, there) > 0).mean()),
        },
    }


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


def cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show(document: dict[str, object]) -> None:
    """A table for people."""
    machine, summary = document["machine"], document["summary"]
    print(f"{machine['cpu']}, one thread", " ".join(f"{k} {v}" for k, v in document["versions"].items()), sep="\n")
    print(f"\n{'case':44}{'method':10}{'us a pair':>12}{'fastest':>12}")
    for row in document["rows"]:
        print(f"{row['case']:44}{row['method']:10}{row['us_per_pair']:12.2f}{row['us_per_pair_min']:12.2f}")
    print(
        f"\n{summary['speedup_vs_scipy_halfspace']:.0f} times as fast as SciPy in one call, "
        f"{summary['speedup_vs_scipy_halfspace_single_pair']:.0f} times pair by pair; "
        f"largest difference {summary['largest_difference_from_scipy']:.1e}"
    )


if __name__ == "__main__":
    sys.exit(main())
