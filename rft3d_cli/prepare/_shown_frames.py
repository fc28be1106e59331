"""Which frames of a clip really show an object, by their depth images.

Annotations list more than can be seen: what stands behind a wall, or beside the picture. Here each line of sight
through an object's box is held against the depth image: it ends before the box, within it, or behind it. What stands
within another object's box counts for both. The depth camera is taken to stand where the colour camera stands, as it
nearly does in ScanNet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rft3d_cli.geometry.boxes import Boxes3D, Floats, rotation_from_angles
from rft3d_cli.geometry.camera import invert_rigid, projected_bounds
from rft3d_cli.prepare.embodiedscan import Frame
from rft3d_cli.prepare.sens import SensFile

LINES = 20_000
"""About so many lines of sight of a depth image are looked at."""
SHARE = 0.05
"""A frame shows an object where at least this share of the lines through its box, of known depth, end within it."""
SLACK = 0.03
"""How far before or behind a box a line may end and still end within it, metres: annotation and depth are not exact."""
KNOWN = 0.1
"""A depth image that knows less of itself says nothing."""


@dataclass(frozen=True)
class Depth:
    """Some lines of sight of one depth image.

    Args:
        values: ``(rows, columns)`` metres along the optical axis; 0 is unknown.
        across: ``(columns,)`` pixels of the whole image.
        down: ``(rows,)``.
        intrinsic: ``(3, 3)`` of the whole image.
        size: ``(width, height)`` of it.
    """

    values: Floats
    across: Floats
    down: Floats
    intrinsic: Floats
    size: tuple[int, int]

    @classmethod
    def of(cls, image: Floats, intrinsic: Floats) -> Depth:
        """Every so many pixels of an image ``(H, W)``, metres."""
        every = max(1, round((image.size / LINES) ** 0.5))
        start = every // 2
        down, across = (np.arange(start, side, every) for side in image.shape)
        size = image.shape[1], image.shape[0]
        return cls(image[np.ix_(down, across)], across.astype(float), down.astype(float), intrinsic[:3, :3], size)

    @property
    def known(self) -> float:
        """The share of lines whose depth is known."""
        return float((self.values > 0).mean())

    def shows(self, box: Floats) -> bool:
        """Whether the image shows what is in a box ``(9,)``, in this camera's coordinates.

        True also where lines meet the box and the depth of none is known: black and shining things have none.

        >>> wall = Depth.of(np.full((60, 80), 3.0), np.array([[80.0, 0, 39.5], [0, 80, 29.5], [0, 0, 1]]))
        >>> [wall.shows(np.array([0, 0, z, 1, 1, 0.5, 0, 0, 0])) for z in (2, 3, 4)]
        [False, True, False]
        """
        bounds = projected_bounds(box, self.intrinsic, self.size)
        if bounds is None:
            return False
        left, top, right, bottom = bounds
        columns = slice(*np.searchsorted(self.across, (left, right)))
        rows = slice(*np.searchsorted(self.down, (top, bottom)))
        x = (self.across[columns] - self.intrinsic[0, 2]) / self.intrinsic[0, 0]
        y = (self.down[rows] - self.intrinsic[1, 2]) / self.intrinsic[1, 1]
        lines = np.stack([*np.broadcast_arrays(x[None], y[:, None]), np.ones((len(y), len(x)))], axis=-1)
        enter, leave = _depths(box, lines)
        met = enter <= leave
        ends = self.values[rows, columns][met]
        within = (ends >= enter[met] - SLACK) & (ends <= leave[met] + SLACK)
        known = int((ends > 0).sum())
        if not known:
            return bool(met.any())
        return int((within & (ends > 0)).sum()) >= SHARE * known


def _depths(box: Floats, lines: Floats) -> tuple[Floats, Floats]:
    """At which depths lines ``(…, 3)`` of depth 1 enter and leave a box; they miss it where the first is more."""
    turn = rotation_from_angles(box[6:9])
    step = lines @ turn
    step = np.where(np.abs(step) < 1e-12, 1e-12, step)
    start, half = -box[:3] @ turn, box[3:6] / 2
    low, high = (-half - start) / step, (half - start) / step
    return np.minimum(low, high).max(axis=-1).clip(0.0), np.maximum(low, high).min(axis=-1)


def depth_of(sens: SensFile, number: int) -> Depth:
    """The depth image of a raw frame.

    Raises:
        DataError: Where it cannot be read.
    """
    return Depth.of(sens.depth(number).astype(np.float64) / sens.depth_shift, sens.intrinsic_depth)


def shown_frames(targets: Boxes3D, frames: Sequence[Frame], depths: Mapping[int, Depth]) -> list[list[int]] | None:
    """The frames of a clip that show each of its targets.

    Args:
        targets: In the camera coordinates of the first frame.
        frames: The clip.
        depths: By raw frame number.

    Returns:
        For each target the places of frames in the clip, ascending; None where a depth image is all but empty.
    """
    out: list[list[int]] = [[] for _ in range(len(targets))]
    for place, frame in enumerate(frames):
        depth = depths[frame.number]
        if depth.known < KNOWN:
            return None
        moved = targets.transform(invert_rigid(frame.cam_to_world) @ frames[0].cam_to_world)
        for index, box in enumerate(moved.boxes):
            if depth.shows(box):
                out[index].append(place)
    return out
