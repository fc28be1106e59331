"""How a file of VG-LLM's shows which of the two meanings (:mod:`rft3d_cli.geometry.eras`) its angles have.

A row is a witness where its boxes make sense under one reading only. Nearly every object stands upright, so the third
axes of a clip's boxes point one way; a described object's box is one with its box in the world.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats, transform_boxes
from rft3d_cli.geometry.eras import ERAS, Era, converted, rotations
from rft3d_cli.geometry.iou import paired_iou

HINT = "say it: --angles intrinsic (files from 28 November 2025 on) or --angles extrinsic (older ones)"

UPRIGHT = np.cos(np.radians(2.0))
"""Cosine between an upright box's third axis and the world's, at least."""
PARALLEL = np.cos(np.radians(1.5))
"""Cosine between third axes that point one way, at least; angles may be rounded to two decimals."""
DISTINCT = 1 + 2 * np.cos(np.radians(5.0))
"""Trace of the rotation between two boxes that are turned against each other, at most."""
OVERLAP, MARGIN = 0.5, 0.1
"""Least overlap of a box with what it should be, and by how much the other reading must be worse."""
FAR = 0.3
"""Least distance in metres between two objects that show how a camera is turned."""
DISSENT = 0.01
"""Largest share of witnesses against the reading that the others show; their rows are left out."""


def by_world(boxes: Floats, pose: Floats) -> Era | None:
    """The reading under which most boxes of a clip stand upright in the world.

    Args:
        boxes: ``(N, 9)`` in a camera's coordinates.
        pose: ``(4, 4)``, from there to the axis-aligned world.

    Returns:
        The era; None where neither reading is clearly the better one.
    """
    shares = {era: float((np.abs((pose[:3, :3] @ rotations(boxes, era))[:, 2, 2]) > UPRIGHT).mean()) for era in ERAS}
    return _clear(shares, least=0.5)


def by_common_axis(boxes: Floats) -> Era | None:
    """The reading under which boxes that are turned against each other have their third axis in common.

    Upright boxes differ by turns about the world's vertical, wherever the camera looks. In an old file's row that
    leaves the last two numbers the same and changes the first; read the new way, such boxes turn about the camera's
    z axis, which is no vertical, and their third axes part. Of boxes with one rotation, one counts. The largest group
    of boxes with one axis decides, so that single boxes may lie as they like.

    Args:
        boxes: ``(N, 9)`` in one camera's coordinates.

    Returns:
        The era; None where neither reading is clearly the better one, as with boxes that are all turned alike or with
        a camera that looks straight down.
    """
    turned = rotations(boxes, "intrinsic")
    traces = np.einsum("nij,mij->nm", turned, turned)
    kept: list[int] = []
    for i in range(len(boxes)):
        if (traces[i, kept] < DISTINCT).all():
            kept.append(i)
    if len(kept) < 2:
        return None
    sizes = {}
    for era in ERAS:
        axes = rotations(boxes[kept], era)[:, :, 2]
        sizes[era] = float((axes @ axes.T > PARALLEL).sum(axis=1).max())
    return _clear(sizes, least=max(2.0, len(kept) / 2))


def by_overlap(box: Floats, pose: Floats, world: Floats) -> Era | None:
    """The reading under which a box is the one in the world.

    Args:
        box: ``(9,)`` in a camera's coordinates.
        pose: ``(4, 4)``, from there to the axis-aligned world.
        world: ``(9,)``.
    """
    moved = [transform_boxes(converted(box, era), pose) for era in ERAS]
    here, there = paired_iou(np.stack(moved), np.stack([world, world])).tolist()
    if max(here, there) < OVERLAP or abs(here - there) < MARGIN:
        return None
    return "intrinsic" if here > there else "extrinsic"


def by_pair(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> Era | None:
    """The reading under which two objects lie to each other as they do in the world.

    Both were described in one frame, of which no pose is known. A box along the world's axes is turned as the world is
    to the camera, and takes the way from one object to the other into the world.

    Args:
        first: An object's box ``(9,)`` in the frame's camera, and the same along the axes of the world.
        second: Another's.
    """
    way = second[0][:3] - first[0][:3]
    truth = second[1][:3] - first[1][:3]
    length = float(np.linalg.norm(truth))
    if length < FAR or abs(float(np.linalg.norm(way)) - length) > 0.05:
        return None
    here, there = (float(np.linalg.norm(rotations(first[0], era).T @ way - truth)) for era in ERAS)
    limit = 0.05 + 0.02 * length
    if min(here, there) > limit or max(here, there) < 3 * limit:
        return None
    return "intrinsic" if here < there else "extrinsic"


def _clear(worth: dict[Era, float], least: float) -> Era | None:
    best = max(ERAS, key=worth.__getitem__)
    other = min(worth.values())
    return best if worth[best] >= least and other <= worth[best] / 2 else None


@dataclass
class Witnesses:
    """What the rows of a file say about its era.

    Args:
        votes: By test: how many rows say ``intrinsic`` or ``extrinsic``, and how many cannot tell
            (``undetermined``). Rows without turned boxes are in no count.
        rows: Numbers of the rows that vote for an era.
    """

    votes: dict[str, Counter[str]] = field(default_factory=dict)
    rows: dict[Era, list[int]] = field(default_factory=lambda: {era: [] for era in ERAS})

    def add(self, test: str, row: int, era: Era | None) -> None:
        """Count one row."""
        self.votes.setdefault(test, Counter())[era or "undetermined"] += 1
        if era is not None:
            self.rows[era].append(row)

    def document(self) -> dict[str, dict[str, int]]:
        """The counts, for the card."""
        names = (*ERAS, "undetermined")
        return {test: {name: count[name] for name in names} for test, count in sorted(self.votes.items())}

    def decide(self, path: Path, option: Era | None) -> Era | None:
        """The era of the file.

        Args:
            path: The file.
            option: What the user says, which goes first.

        Returns:
            The era; None where no box is turned, so that both readings are one.

        Raises:
            DataError: Where no row can tell, or rows of both eras are in the file.
        """
        if option is not None or not self.votes:
            return option
        new, old = (len(self.rows[era]) for era in ERAS)
        if new + old == 0:
            silent = sum(count.total() for count in self.votes.values())
            raise DataError(f"{path}: none of {silent:,} rows with turned boxes shows what their angles mean", HINT)
        if min(new, old) > DISSENT * (new + old):
            raise DataError(f"{path} mixes two meanings of angles: {new:,} rows intrinsic, {old:,} extrinsic", HINT)
        return "intrinsic" if new > old else "extrinsic"

    def against(self, era: Era | None) -> list[int]:
        """Numbers of the rows that vote for the other era."""
        return [] if era is None else self.rows["extrinsic" if era == "intrinsic" else "intrinsic"]
