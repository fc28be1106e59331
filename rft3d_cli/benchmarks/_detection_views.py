"""Where the boxes of a detection record lie, seen from its frames: in view, hidden, or out of view.

A target in the first frame has to be localised, one that only a later frame shows has to be carried over, and one that
no frame shows can only be guessed or left out. A wrong box that lies out of view is such a guess.

What hides a target is taken from ``meta.visible_frames`` where a record has it: for each target box, the frames that
really show it, from depth. Without it, and always for predicted boxes, a frame that has a box in view shows it unless
target boxes stand in front of more than half of it; walls and what is not labelled hide nothing then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats, box_corners
from rft3d_cli.geometry.visibility import hidden_shares, in_view
from rft3d_cli.records import Camera, DetectionTarget, Record

FIRST, LATER, OCCLUDED, OUT = "first_frame", "later_frames", "occluded", "out_of_view"
VIEWS = (FIRST, LATER, OCCLUDED, OUT)
UNKNOWN = "unknown"
"""Boxes of records without cameras, and predicted boxes that cannot be computed with."""

BY_FRAMES, BY_BOXES, BY_NOTHING = "visible_frames", "boxes_in_front", "no_camera"
RULES = (BY_FRAMES, BY_BOXES, BY_NOTHING)
"""How it is known whether a record's targets are hidden."""

HIDDEN = 0.5
"""A frame does not show a box of which a larger share of the points in view is behind other boxes."""


@dataclass(frozen=True)
class Views:
    """The boxes of one record, each one of :data:`VIEWS` or :data:`UNKNOWN`.

    Args:
        targets: Of the target boxes.
        predictions: Of the predicted boxes.
        rule: One of :data:`RULES`.
    """

    targets: list[str]
    predictions: list[str]
    rule: str


def record_views(record: Record, predictions: Sequence[Floats | None]) -> Views:
    """Where a record's targets and predicted boxes lie.

    Args:
        record: A detection record.
        predictions: ``(9,)`` boxes in the first frame's camera coordinates; None for one that cannot be computed with.

    Raises:
        DataError: Where ``meta.visible_frames`` is not a list of frame numbers for each target box.

    A table in plain view, a bed behind the camera, a chair that stands behind the table's box:

    >>> from rft3d_cli.records import parse_record
    >>> import json
    >>> places = {"table": [0, 0, 2, 2, 2, 0.5], "bed": [0, 0, -3, 2, 1, 2], "chair": [0, 0, 4, 0.5, 1, 0.5]}
    >>> eye = np.eye(4).tolist()
    >>> camera = {"intrinsic": [[100, 0, 49.5], [0, 100, 49.5], [0, 0, 1]], "image_size": [100, 100],
    ...           "cam_to_world": [eye], "axis_align": eye}
    >>> boxes = [{"label": name, "bbox_3d": [*box, 0, 0, 0]} for name, box in places.items()]
    >>> record = {"id": "1", "task": "detection", "video": {"frames": ["0.jpg"]}, "prompt": "?", "camera": camera,
    ...           "target": {"boxes": boxes}}
    >>> record_views(parse_record(json.dumps(record)), []).targets
    ['first_frame', 'out_of_view', 'occluded']
    """
    boxes = record.target.boxes if isinstance(record.target, DetectionTarget) else []
    listed = _listed(record, len(boxes))
    relative = None if record.camera is None else _from_first(record.camera)
    if record.camera is None or relative is None:
        return Views([UNKNOWN] * len(boxes), [UNKNOWN] * len(predictions), BY_NOTHING)
    usable = [i for i, box in enumerate(predictions) if box is not None]
    numbers = [box.bbox_3d for box in boxes] + [predictions[i] for i in usable]
    corners = box_corners(np.array(numbers, dtype=np.float64).reshape(-1, 9))
    known = {i: set(frames) for i, frames in enumerate(listed)} if listed is not None else {}
    classes = _classes(corners, len(boxes), relative, record.camera, known)
    predicted = [UNKNOWN] * len(predictions)
    for place, name in zip(usable, classes[len(boxes) :], strict=True):
        predicted[place] = name
    return Views(classes[: len(boxes)], predicted, BY_BOXES if listed is None else BY_FRAMES)


def _classes(corners: Floats, targets: int, relative: Floats, camera: Camera, known: dict[int, set[int]]) -> list[str]:
    """The class of each box; ``corners`` ``(N, 8, 3)`` in the first camera, the first ``targets`` of the targets."""
    moved = corners @ relative[:, None, :3, :3].transpose(0, 1, 3, 2) + relative[:, None, None, :3, 3]
    viewed = in_view(moved, camera.intrinsic, camera.image_size)
    shown = viewed.copy()
    for i, frames in known.items():
        shown[:, i] = [frame in frames for frame in range(len(relative))]
    asked = viewed.copy()
    asked[:, list(known)] = False
    frame, box = np.nonzero(asked)
    # A box is held against the targets of its own frame, without itself.
    others = np.repeat(np.arange(len(relative)), targets), np.tile(np.arange(targets), len(relative))
    apart = (frame[:, None] != others[0]) | (box[:, None] == others[1])
    hidden = hidden_shares(moved[frame, box], moved[:, :targets], camera.intrinsic, camera.image_size, same=apart)
    shown[frame, box] = ~(hidden > HIDDEN)
    return [_named(seen, looked) for seen, looked in zip(shown.T.tolist(), viewed.T.tolist(), strict=True)]


def _named(shown: list[bool], viewed: list[bool]) -> str:
    """The class of a box from the frames that show it, and those that have it in view."""
    if any(shown):
        return FIRST if shown[0] else LATER
    return OCCLUDED if any(viewed) else OUT


def _from_first(camera: Camera) -> Floats | None:
    """``(frames, 4, 4)`` from the first frame's camera to each frame's; None where a pose cannot be undone."""
    poses = np.asarray(camera.cam_to_world, dtype=np.float64)
    try:
        relative: Floats = np.linalg.inv(poses) @ poses[0]
    except np.linalg.LinAlgError:
        return None
    return relative if np.isfinite(relative).all() else None


def _listed(record: Record, boxes: int) -> list[list[int]] | None:
    """``meta.visible_frames``, checked."""
    found: Any = (record.meta.model_extra or {}).get("visible_frames")
    if found is None:
        return None
    whole = isinstance(found, list) and len(found) == boxes and all(isinstance(row, list) for row in found)
    if not whole or not all(type(number) is int and number >= 0 for row in found for number in row):
        raise DataError(
            f"record {record.id}: meta.visible_frames is not a list of frame numbers for each of {boxes} boxes",
            "rft3d prepare scannet writes it; a record may do without",
        )
    return [list(row) for row in found]
