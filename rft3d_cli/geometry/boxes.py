"""Oriented 3D boxes: nine numbers, one convention, everywhere.

A box is ``[x, y, z, dx, dy, dz, a, b, c]``: its centre and its full sizes in metres, and three
angles in radians. The rotation is ``R = Rz(a) · Rx(b) · Ry(c)`` (intrinsic ZXY, SciPy's upper-case
``"ZXY"``); column ``k`` of ``R`` is the direction of the box's ``k``-th axis. This is the convention
of EmbodiedScan and of VG-LLM's files since 28 November 2025.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CORNER_SIGNS: Floats = np.array(
    [[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], dtype=np.float64
)
"""Corner ``i`` of a box is ``centre + R · (size * CORNER_SIGNS[i])``; the last axis runs fastest."""

EDGES: tuple[tuple[int, int], ...] = (
    *((0, 4), (1, 5), (2, 6), (3, 7)),
    *((0, 2), (1, 3), (4, 6), (5, 7)),
    *((0, 1), (2, 3), (4, 5), (6, 7)),
)
"""The twelve edges as pairs of corner indices: four along each of the box's x, y and z axes."""


def rotation_from_angles(angles: ArrayLike) -> Floats:
    """Rotation matrices of ZXY-intrinsic Euler angles.

    Args:
        angles: ``(..., 3)``, radians, ``R = Rz(a) · Rx(b) · Ry(c)``.

    Returns:
        ``(..., 3, 3)`` rotation matrices, float64.

    >>> rotation_from_angles([np.pi / 2, 0, 0]).round(6) + 0.0
    array([[ 0., -1.,  0.],
           [ 1.,  0.,  0.],
           [ 0.,  0.,  1.]])
    """
    angles = np.asarray(angles, dtype=np.float64)
    return np.ascontiguousarray(np.moveaxis(rotation_rows(np.moveaxis(angles, -1, 0)), (0, 1), (-2, -1)))


def rotation_rows(angles: Floats, out: Floats | None = None) -> Floats:
    """:func:`rotation_from_angles` for many boxes whose index is last, which keeps array operations contiguous.

    Args:
        angles: ``(3, ...)`` radians, ``R = Rz(a) · Rx(b) · Ry(c)``.
        out: Where to write, if given: ``(3, 3, ...)``.

    Returns:
        ``(3, 3, ...)``: rows, then columns; ``out`` itself where it was given.

    >>> angles = np.array([[0.3, -0.2, 2.0], [1.0, 0.0, 0.5]])
    >>> rows = rotation_rows(angles.T)
    >>> rows.shape, np.allclose(rows[..., 1], rotation_from_angles(angles[1]))
    ((3, 3, 2), True)
    """
    (sa, sb, sc), (ca, cb, cc) = np.sin(angles), np.cos(angles)
    ca_sb, sa_sb = ca * sb, sa * sb
    out = np.empty((3, *angles.shape)) if out is None else out
    out[0, 0], out[0, 1], out[0, 2] = ca * cc - sa_sb * sc, -sa * cb, ca * sc + sa_sb * cc
    out[1, 0], out[1, 1], out[1, 2] = sa * cc + ca_sb * sc, ca * cb, sa * sc - ca_sb * cc
    out[2, 0], out[2, 1], out[2, 2] = -cb * sc, sb, cb * cc
    return out


def angles_from_rotation(rotation: ArrayLike) -> Floats:
    """ZXY-intrinsic Euler angles of rotation matrices.

    Near ``b = ±π/2`` only ``a ± c`` is determined. ``c`` is therefore read after ``a`` has been
    undone, and ``b`` from ``atan2`` instead of ``asin``, so that the three always reproduce the
    matrix to rounding error. Compare boxes by overlap or by matrix, never by angles.

    Args:
        rotation: ``(..., 3, 3)`` rotation matrices.

    Returns:
        ``(..., 3)`` radians: ``a, c`` in (-π, π], ``b`` in [-π/2, π/2].

    >>> angles_from_rotation(rotation_from_angles([0.3, -0.2, 2.0])).round(6)
    array([ 0.3, -0.2,  2. ])
    """
    m = np.asarray(rotation, dtype=np.float64)
    a = np.arctan2(-m[..., 0, 1], m[..., 1, 1])
    b = np.arctan2(m[..., 2, 1], np.hypot(m[..., 2, 0], m[..., 2, 2]))
    sa, ca = np.sin(a), np.cos(a)
    c = np.arctan2(ca * m[..., 0, 2] + sa * m[..., 1, 2], ca * m[..., 0, 0] + sa * m[..., 1, 0])
    return np.stack([a, b, c], axis=-1)


def _nearest_rotation(matrix: ArrayLike) -> Floats:
    """The rotation closest to a matrix that is one but for rounding: its polar factor.

    Poses in files are float32, and alignments have six decimals. Angles read from such a matrix and from its inverse
    would not undo each other; those of the closest rotations do.

    Args:
        matrix: ``(3, 3)``, nearly orthogonal.

    Returns:
        ``(3, 3)``, orthogonal to rounding error; a mirror stays one. Where a number is not finite, the matrix as it is.

    >>> _nearest_rotation([[0, -1.000001, 0], [1, 0, 0], [0, 0, 0.999999]]).round(12) + 0.0
    array([[ 0., -1.,  0.],
           [ 1.,  0.,  0.],
           [ 0.,  0.,  1.]])
    """
    array = np.asarray(matrix, dtype=np.float64)
    if not np.isfinite(array).all():
        return array
    u, _, v = np.linalg.svd(array)
    rotation: Floats = u @ v
    return rotation


def box_corners(boxes: ArrayLike) -> Floats:
    """The eight corners of each box.

    Args:
        boxes: ``(..., 9)``.

    Returns:
        ``(..., 8, 3)`` metres, in the order of :data:`CORNER_SIGNS`.

    >>> box_corners([0, 0, 0, 2, 4, 6, 0, 0, 0])[-1]
    array([1., 2., 3.])
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    local = boxes[..., None, 3:6] * CORNER_SIGNS
    rotation = rotation_from_angles(boxes[..., 6:9])
    corners: Floats = np.einsum("...ij,...kj->...ki", rotation, local) + boxes[..., None, 0:3]
    return corners


def transform_boxes(boxes: ArrayLike, transform: ArrayLike) -> Floats:
    """Boxes moved by a rigid motion.

    Args:
        boxes: ``(..., 9)``.
        transform: ``(4, 4)`` rigid motion, to rounding error; a mirror or a scale is not one, and is not checked here.

    Returns:
        ``(..., 9)`` boxes in the target frame, extents unchanged.

    >>> shift = np.eye(4); shift[:3, 3] = [1, 2, 3]
    >>> transform_boxes([0, 0, 0, 1, 1, 1, 0.5, 0, 0], shift).round(6)
    array([1. , 2. , 3. , 1. , 1. , 1. , 0.5, 0. , 0. ])
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    matrix = np.asarray(transform, dtype=np.float64)
    out = boxes.copy()
    out[..., 0:3] = boxes[..., 0:3] @ matrix[:3, :3].T + matrix[:3, 3]
    out[..., 6:9] = angles_from_rotation(_nearest_rotation(matrix[:3, :3]) @ rotation_from_angles(boxes[..., 6:9]))
    return out


def points_in_box(points: ArrayLike, box: ArrayLike, margin: float = 0.0) -> NDArray[np.bool_]:
    """Which points lie inside one box.

    Args:
        points: ``(..., 3)`` metres.
        box: ``(9,)``.
        margin: How far outside a face still counts, metres.

    Returns:
        ``(...)`` booleans.

    >>> points_in_box([[0, 0, 0], [0, 0, 2]], [0, 0, 0, 1, 1, 1, 0, 0, 0])
    array([ True, False])
    """
    box = np.asarray(box, dtype=np.float64)
    local = (np.asarray(points, dtype=np.float64) - box[:3]) @ rotation_from_angles(box[6:9])
    inside: NDArray[np.bool_] = (np.abs(local) <= box[3:6] / 2 + margin).all(axis=-1)
    return inside


@dataclass(frozen=True, eq=False)
class Boxes3D:
    """A set of labelled boxes: the one box type that modules hand to each other.

    Args:
        boxes: ``(N, 9)``, finite; sizes must not be negative. Copied to float64.
        labels: One label a box; empty labels by default.

    Raises:
        ValueError: On a wrong shape, a non-finite number, a negative size, or a label count that
            differs from the box count.

    >>> b = Boxes3D([[0, 0, 0, 1, 1, 1, 0, 0, 0]], ["chair"])
    >>> len(b), b[0:1].labels, b.corners().shape
    (1, ('chair',), (1, 8, 3))
    """

    boxes: Floats
    labels: tuple[str, ...]

    def __init__(self, boxes: ArrayLike, labels: Sequence[str] | None = None) -> None:
        array = np.array(boxes, dtype=np.float64)
        if array.size == 0:
            array = array.reshape(0, 9)
        if array.ndim != 2 or array.shape[1] != 9:
            raise ValueError(f"boxes must have shape (N, 9), not {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError("boxes must be finite")
        if (array[:, 3:6] < 0).any():
            raise ValueError("box sizes must not be negative")
        names = tuple(labels) if labels is not None else ("",) * len(array)
        if len(names) != len(array):
            raise ValueError(f"{len(array)} boxes but {len(names)} labels")
        array.flags.writeable = False
        object.__setattr__(self, "boxes", array)
        object.__setattr__(self, "labels", names)

    @classmethod
    def from_rotations(
        cls,
        centres: ArrayLike,
        sizes: ArrayLike,
        rotations: ArrayLike,
        labels: Sequence[str] | None = None,
    ) -> Boxes3D:
        """Boxes from their centres, sizes and rotation matrices.

        Args:
            centres: ``(N, 3)`` metres.
            sizes: ``(N, 3)`` metres, full lengths along the box's own axes.
            rotations: ``(N, 3, 3)``; column ``k`` is the direction of the box's ``k``-th axis.
            labels: One label a box; empty labels by default.

        Returns:
            ``N`` boxes, their angles as :func:`angles_from_rotation` reads them.

        Raises:
            ValueError: If the parts do not fit together, or hold what :class:`Boxes3D` refuses.

        >>> quarter_turn = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
        >>> Boxes3D.from_rotations([[0, 0, 1]], [[2, 1, 1]], [quarter_turn]).boxes.round(4).tolist()
        [[0.0, 0.0, 1.0, 2.0, 1.0, 1.0, 1.5708, 0.0, 0.0]]
        """
        angles = angles_from_rotation(np.asarray(rotations, dtype=np.float64).reshape(-1, 3, 3))
        parts = [np.asarray(part, dtype=np.float64).reshape(-1, 3) for part in (centres, sizes, angles)]
        return cls(np.concatenate(parts, axis=-1), labels)

    @classmethod
    def from_embodiedscan(cls, instances: Sequence[dict[str, Any]], categories: dict[int, str]) -> Boxes3D:
        """Boxes of a scan in EmbodiedScan's annotation files, in their order.

        Args:
            instances: The scan's ``instances``: ``bbox_3d`` holds the nine numbers of a box, in this module's
                convention, and ``bbox_label_3d`` the number of its class. Other keys are ignored.
            categories: Class number → name: the files' ``metainfo["categories"]``, turned round.

        Returns:
            One box an instance, labelled with the name of its class.

        Raises:
            KeyError: If an instance lacks one of the two, or its class is not among the categories.
            ValueError: On a box that :class:`Boxes3D` refuses.

        >>> instances = [{"bbox_3d": [1, 2, 0.5, 1, 1, 1, 0, 0, 0], "bbox_label_3d": 7}]
        >>> boxes = Boxes3D.from_embodiedscan(instances, {3: "bed", 7: "chair"})
        >>> boxes.labels, boxes.centres.tolist()
        (('chair',), [[1.0, 2.0, 0.5]])
        """
        return cls(
            [item["bbox_3d"] for item in instances],
            [categories[int(item["bbox_label_3d"])] for item in instances],
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __eq__(self, other: object) -> bool:
        """Equal numbers and labels in the same order; the generated method would fail on arrays."""
        if not isinstance(other, Boxes3D):
            return NotImplemented
        return self.labels == other.labels and np.array_equal(self.boxes, other.boxes)

    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> Boxes3D:
        """A subset: by slice, by a list of indices, or by a boolean mask."""
        rows = np.arange(len(self))[index]
        return Boxes3D(self.boxes[rows], [self.labels[i] for i in rows])

    def __iter__(self) -> Iterator[tuple[str, Floats]]:
        """Pairs of label and ``(9,)`` box."""
        return iter(zip(self.labels, self.boxes, strict=True))

    @property
    def centres(self) -> Floats:
        """``(N, 3)`` metres."""
        return self.boxes[:, 0:3]

    @property
    def sizes(self) -> Floats:
        """``(N, 3)`` metres, full lengths along the box's own axes."""
        return self.boxes[:, 3:6]

    def rotations(self) -> Floats:
        """``(N, 3, 3)`` rotation matrices; column ``k`` is the direction of the box's ``k``-th axis.

        >>> turned = Boxes3D([[0, 0, 0, 1, 1, 1, np.pi / 2, 0, 0]])
        >>> (turned.rotations()[0, :, 0].round(6) + 0.0).tolist()
        [0.0, 1.0, 0.0]
        """
        return rotation_from_angles(self.boxes[:, 6:9])

    def corners(self) -> Floats:
        """``(N, 8, 3)`` metres, in the order of :data:`CORNER_SIGNS`.

        >>> Boxes3D([[0, 0, 3, 2, 4, 6, 0, 0, 0]]).corners()[0, [0, 1, 7]].tolist()
        [[-1.0, -2.0, 0.0], [-1.0, -2.0, 6.0], [1.0, 2.0, 6.0]]
        """
        return box_corners(self.boxes)

    def transform(self, matrix: ArrayLike) -> Boxes3D:
        """The boxes moved by a rigid motion, with their labels.

        Args:
            matrix: ``(4, 4)``, to rounding error; a mirror or a scale is not one, and is not checked here.

        Returns:
            The boxes in the target frame, sizes unchanged.

        Raises:
            ValueError: If the motion holds a number that is not finite.

        >>> lift = np.eye(4); lift[2, 3] = 0.5
        >>> moved = Boxes3D([[1, 2, 0, 1, 1, 1, 0, 0, 0]], ["chair"]).transform(lift)
        >>> moved.labels, moved.centres.tolist()
        (('chair',), [[1.0, 2.0, 0.5]])
        """
        return Boxes3D(transform_boxes(self.boxes, matrix), self.labels)

    def project(self, intrinsic: ArrayLike) -> tuple[Floats, Floats]:
        """Corners in pixels, for boxes in OpenCV camera coordinates.

        Args:
            intrinsic: ``(3, 3)`` or ``(4, 4)``.

        Returns:
            ``(N, 8, 2)`` pixels and ``(N, 8)`` depths in metres. Pixels of corners with depth ≤ 0
            are meaningless; :mod:`rft3d_cli.geometry.camera` clips edges at the near plane.

        >>> boxes = Boxes3D([[0, 0, 2, 1, 1, 2, 0, 0, 0]])
        >>> pixels, depths = boxes.project([[100, 0, 50], [0, 100, 40], [0, 0, 1]])
        >>> pixels[0, 0].tolist(), depths[0, :2].tolist()
        ([0.0, -10.0], [1.0, 3.0])
        """
        from rft3d_cli.geometry.camera import project_points

        return project_points(self.corners(), intrinsic)
