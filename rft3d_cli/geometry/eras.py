"""The two meanings of the three angles of a box in VG-LLM's files and models, by when they were made.

They were replaced under their old names. Three angles ``(p, q, r)`` mean

- ``intrinsic``, from 28 November 2025 on: ``R = Rz(p) · Rx(q) · Ry(r)`` (SciPy's ``"ZXY"``), as in records;
- ``extrinsic``, before: ``R = Ry(r) · Rx(q) · Rz(p)`` (SciPy's ``"zxy"``).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from rft3d_cli.geometry.boxes import Floats, angles_from_rotation, rotation_from_angles

Era = Literal["intrinsic", "extrinsic"]
ERAS: tuple[Era, Era] = ("intrinsic", "extrinsic")

SAME = 1e-4
"""Rotations that differ by less in every entry are one."""


def rotations(boxes: ArrayLike, era: Era) -> Floats:
    """Rotation matrices of boxes as that era means them.

    Args:
        boxes: ``(..., 9)``.
        era: See the module.

    Returns:
        ``(..., 3, 3)``.

    >>> box = [0, 0, 2, 1, 1, 1, np.pi / 2, np.pi / 2, 0]
    >>> [(rotations(box, era).round(6)[0] + 0.0).tolist() for era in ERAS]
    [[0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]
    """
    angles = np.asarray(boxes, dtype=np.float64)[..., 6:9]
    if era == "intrinsic":
        return rotation_from_angles(angles)
    # The product in the other order is the transpose of that of the opposite angles.
    return np.swapaxes(rotation_from_angles(-angles), -1, -2)


def converted(boxes: ArrayLike, era: Era | None) -> Floats:
    """Boxes of that era as records have them.

    Args:
        boxes: ``(..., 9)``.
        era: Boxes of the intrinsic era stay as they are, and so do those where it does not matter (None).

    Returns:
        ``(..., 9)``, float64.

    >>> converted([0, 0, 2, 1, 1, 1, 0.5, 0.2, 0.0], "extrinsic").round(3).tolist()
    [0.0, 0.0, 2.0, 1.0, 1.0, 1.0, 0.509, 0.175, -0.097]
    """
    out = np.array(boxes, dtype=np.float64)
    if era == "extrinsic" and out.size:
        turned = differs(out)
        angles = angles_from_rotation(rotations(out, era))
        out[..., 6:9] = np.where(turned[..., None], angles, out[..., 6:9])
    return out


def differs(boxes: ArrayLike) -> Any:
    """Which boxes ``(..., 9)`` mean different things in the two eras; booleans ``(...)``.

    >>> differs([[0, 0, 2, 1, 1, 1, 0.5, 0, 0], [0, 0, 2, 1, 1, 1, 0.5, 0.2, 0]]).tolist()
    [False, True]
    """
    gap = np.abs(rotations(boxes, "intrinsic") - rotations(boxes, "extrinsic"))
    return gap.max(axis=(-2, -1)) > SAME
