"""What a row of VG-LLM's files holds: its kind, its two turns, its media, boxes and cameras, each checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare.conversations import RowError, Turns, metadata
from rft3d_cli.records import MAX_NUMBER

Kind = Literal["detection", "grounding", "caption", "sqa3d", "answer"]

_BOX = re.compile(r'("bbox_3d"\s*:\s*)\[[^\[\]]*\]')


def kind_of(row: Mapping[str, Any], said: Turns) -> Kind:
    """What a row asks for.

    Args:
        row: The row.
        said: Its turns.
    """
    if "boxes" in row:
        return "detection"
    source = str(metadata(row).get("dataset", "")).lower()
    if "gt_bbox" in row or source == "scanrefer":
        return "grounding"
    if source == "scan2cap" or "annotations" in row or "input_box" in row:
        return "caption"
    if isinstance(row.get("situation"), str) and "question" in row:
        return "sqa3d"
    if _BOX.search(said.answer):
        return "grounding" if '"frame"' in said.answer else "detection"
    return "answer"


def numbers(value: Any, shape: tuple[int, ...], what: str) -> Floats:
    """An array of finite numbers.

    Args:
        value: Nested lists, as JSON has them.
        shape: The shape wanted; -1 for any length of the first dimension.
        what: What to call it.

    Raises:
        RowError: Where it is anything else.
    """
    try:
        flat = np.array(value, dtype=object)
        if not {*map(type, flat.ravel().tolist())} <= {int, float}:
            raise ValueError
        array = flat.astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        raise RowError(f"wrong {what}", "not all of it is numbers") from None
    fits = array.ndim == len(shape) and all(want in (-1, n) for want, n in zip(shape, array.shape, strict=True))
    if not fits:
        raise RowError(f"wrong {what}", f"its shape is {array.shape}")
    if not np.isfinite(array).all():
        raise RowError(f"wrong {what}", "a number is not finite")
    if (np.abs(array) > MAX_NUMBER).any():
        raise RowError(f"wrong {what}", "a number is too large")
    return array


def boxes_of(values: list[Any], what: str = "box") -> Floats:
    """Boxes ``(N, 9)``; one of six numbers lies along the axes.

    Raises:
        RowError: Where one of them is none.
    """
    if not values:
        return np.zeros((0, 9))
    nine = [[*value, 0, 0, 0] if isinstance(value, list) and len(value) == 6 else value for value in values]
    boxes = numbers(nine, (-1, 9), what)
    if (boxes[:, 3:6] < 0).any():
        raise RowError(f"wrong {what}", "a size is negative")
    return boxes


def box_of(value: Any, what: str = "box") -> Floats:
    """One box ``(9,)``; see :func:`boxes_of`."""
    box: Floats = boxes_of([value], what)[0]
    return box


def labelled_boxes(value: Any) -> tuple[list[str], Floats]:
    """Labels and boxes ``(N, 9)`` of a list of objects with ``label`` and ``bbox_3d``.

    Raises:
        RowError: Where it is none.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RowError("wrong boxes", "not a list of objects")
    labels = [item.get("label") for item in value]
    if not all(isinstance(label, str) and label.strip() for label in labels):
        raise RowError("wrong boxes", "a box has no label")
    return labels, boxes_of([item.get("bbox_3d") for item in value])


def answer_json(answer: str) -> Any:
    """What an answer in a code fence says.

    Raises:
        RowError: Where it is not JSON.
    """
    text = answer.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowError("wrong answer", "it is not JSON") from None


def answer_boxes(answer: str) -> tuple[list[str], Floats]:
    """The labels and boxes of a detection answer.

    Raises:
        RowError: Where it is none.
    """
    return labelled_boxes(answer_json(answer))


def frame_box(value: Any, frames: int, what: str) -> tuple[int, Floats]:
    """The frame and the box ``(9,)`` of a grounding target or answer.

    Raises:
        RowError: Where it is none.
    """
    if not isinstance(value, dict):
        raise RowError(f"wrong {what}", "not an object with frame and bbox_3d")
    frame = value.get("frame")
    if not isinstance(frame, int) or isinstance(frame, bool) or not 0 <= frame < frames:
        raise RowError(f"wrong {what}", f"frame {str(frame)[:20]} of {frames}")
    return frame, box_of(value.get("bbox_3d"), what)


def rewritten(answer: str, boxes: Floats) -> str:
    """An answer with other boxes in the place of its own, two decimals each; all else stays as it is.

    Args:
        answer: With as many boxes.
        boxes: ``(N, 9)``.

    >>> rewritten('[{"label": "bed", "bbox_3d": [0]}]', np.arange(9.0)[None] / 7)
    '[{"label": "bed", "bbox_3d": [0.0, 0.14, 0.29, 0.43, 0.57, 0.71, 0.86, 1.0, 1.14]}]'
    """
    following = iter(boxes.tolist())
    return _BOX.sub(lambda match: match.group(1) + json.dumps([round(x, 2) + 0.0 for x in next(following)]), answer)


@dataclass(frozen=True)
class Cameras:
    """The cameras of a row.

    Args:
        intrinsic: ``(3, 3)``.
        cam_to_world: ``(n, 4, 4)``, one a frame.
        axis_align: ``(4, 4)``.
    """

    intrinsic: Floats
    cam_to_world: Floats
    axis_align: Floats

    def pose(self, frame: int) -> Floats:
        """``(4, 4)``, from a frame's camera to the axis-aligned world."""
        out: Floats = self.axis_align @ self.cam_to_world[frame]
        return out


def cameras_of(row: Mapping[str, Any], frames: int) -> Cameras | None:
    """The row's cameras; None where it has none.

    Raises:
        RowError: Where some of them are missing or no cameras.
    """
    keys = ("cam2img", "cam2global", "axis_align_matrix")
    given = [row.get(key) is not None for key in keys]
    if not any(given):
        return None
    if not all(given):
        raise RowError("wrong cameras", f"no {keys[given.index(False)]}")
    intrinsic = np.eye(4)
    size = 3 if isinstance(row["cam2img"], list) and len(row["cam2img"]) == 3 else 4
    intrinsic[:size, :size] = numbers(row["cam2img"], (size, size), "cameras")
    poses = numbers(row["cam2global"], (-1, 4, 4), "cameras")
    if len(poses) != frames:
        raise RowError("wrong cameras", f"{len(poses)} poses of {frames} frames")
    align = numbers(row["axis_align_matrix"], (4, 4), "cameras")
    for matrix in (align, *poses):
        turn = matrix[:3, :3]
        rigid = np.allclose(turn @ turn.T, np.eye(3), atol=1e-2) and np.linalg.det(turn) > 0
        if not rigid or not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
            raise RowError("wrong cameras", "a pose is no rigid motion")
    if min(intrinsic[0, 0], intrinsic[1, 1]) <= 0:
        raise RowError("wrong cameras", "a focal length is not positive")
    return Cameras(intrinsic[:3, :3], poses, align)
