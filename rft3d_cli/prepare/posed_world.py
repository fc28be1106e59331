"""A scan in the posed layout of docs/own-data.md as questions need it: its listed frames, and what cannot be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rft3d_cli.prepare._posed_files import PosedFrame, PosedScan, read_posed
from rft3d_cli.prepare.embodiedscan import Frame, Scan
from rft3d_cli.prepare.pictures import Pictures
from rft3d_cli.prepare.pipeline import Part, Store
from rft3d_cli.prepare.posed import annotated, look, posed_pictures, usable_frames
from rft3d_cli.samplers import Sampler
from rft3d_cli.video import sample_indices

LISTED = 8
"""Frames looked at for each frame of a record: between them an object may show first."""
UPRIGHT = 0.5
"""Least downward part of the direction that is down in the pictures, on average: cameras may look 60 degrees down."""
NO_DEPTH = "without depth images nobody knows what a frame shows"
NOT_UP = "the scan's z does not point up"

OF_SIGHT = ("object_counting", "obj_appearance_order")
"""Question types whose answer, or whether it may be asked, is what frames show."""
OF_FLOOR = (
    *("room_size_estimation", "route_planning"),
    *(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")),
)
"""Question types whose answer is read on the floor, so from above."""


@dataclass(frozen=True)
class PosedWorld:
    """A scan to ask about.

    Args:
        posed: As it was read.
        scan: In the form of an annotated scan: listed frames, boxes in the axis-aligned world.
        frames: The listed frames, by number.
        unknown: Why a question type cannot be asked, by type.
    """

    posed: PosedScan
    scan: Scan
    frames: dict[int, PosedFrame]
    unknown: dict[str, str]

    def pictures(self, store: Store, used: Sequence[Frame]) -> Pictures:
        """Frames as records name them; see :func:`rft3d_cli.prepare.posed.posed_pictures`."""
        return posed_pictures(self.posed, store, {frame.number: self.frames[frame.number] for frame in used})


def posed_world(folder: Path, frames: int, sampler: Sampler, visibility: float, part: Part) -> PosedWorld:
    """Read a scan for questions.

    Args:
        folder: ``DIR/SCENE``.
        frames: Frames that a record has; :data:`LISTED` times as many are looked at, evenly spaced over the scan.
        sampler: How to space them.
        visibility: See :func:`rft3d_cli.prepare._posed_images.shown_objects`.
        part: For what is left out, and for what looks wrong.

    Raises:
        Quarantine: Where the scan cannot be used.
    """
    posed = read_posed(folder)
    usable = usable_frames(posed, part)
    listed = [usable[i] for i in sample_indices(len(usable), min(LISTED * frames, len(usable)), sampler)]
    scan = annotated(posed, listed, look(posed, listed, range(len(listed)), visibility, part))
    unknown = {} if posed.depth is not None else dict.fromkeys(OF_SIGHT, NO_DEPTH)
    if not upright(posed, listed):
        part.warnings.append(f"{NOT_UP}, so directions, routes and rooms are not asked about: see axis_align")
        unknown |= dict.fromkeys(OF_FLOOR, NOT_UP)
    return PosedWorld(posed, scan, {frame.number: frame for frame in listed}, unknown)


def upright(posed: PosedScan, frames: Sequence[PosedFrame]) -> bool:
    """Whether the cameras hang as cameras do, z taken for up."""
    # The second column of a pose is where down in the picture points.
    down = [float((posed.axis_align @ frame.cam_to_world)[2, 1]) for frame in frames]
    return -float(np.mean(down)) >= UPRIGHT
