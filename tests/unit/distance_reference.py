"""The distance of two boxes by SciPy's solvers, which share no code with ``box_distance``."""

from __future__ import annotations

import numpy as np
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation


def axes(box: np.ndarray) -> np.ndarray:
    return Rotation.from_euler("ZXY", box[6:9]).as_matrix()


def solved_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Bounded least squares over one point in each box, in the coordinates of the boxes themselves.

    Whatever a solver finds is the distance of two points of the boxes and so never too small. Each stops early now and
    then (BVLS in one of a thousand pairs, by centimetres), so the better of two counts.
    """
    free = np.hstack([axes(a), -axes(b)])
    reach = np.concatenate([a[3:6], b[3:6]]) / 2 + 1e-15
    shift = b[:3] - a[:3]
    found = [lsq_linear(free, shift, (-reach, reach), method=method, tol=1e-15).x for method in ("bvls", "trf")]
    return min(float(np.linalg.norm(free @ x - shift)) for x in found)
