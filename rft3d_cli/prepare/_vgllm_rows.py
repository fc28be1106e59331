"""What a row of VG-LLM's files holds: its kind, its two turns, its media, boxes and cameras, each checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare._vgllm_file import Unreadable
from rft3d_cli.records import MAX_NUMBER, media_path

Kind = Literal["detection", "grounding", "caption", "sqa3d", "answer"]

UNPAINTED = frozenset(
    {
        *("view_change_infer", "camera_motion_infer", "distance_infer_center_oc_mv", "appearance_order", "room_size"),
        *("obj_count", "nav", "spatial_imagination_oc_video_hard", "spatial_imagination_oo_video_hard"),
    }
)
"""The types of SPAR questions for which VG-LLM's loader paints nothing. All others ask about coloured dots and boxes
that are not in the image files."""

_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_BOX = re.compile(r'("bbox_3d"\s*:\s*)\[[^\[\]]*\]')


class RowError(ValueError):
    """A row that becomes no record.

    Args:
        reason: The same words for all rows with this problem, for counting.
        why: What exactly.
        bad: Whether the row is wrong; False where it is right and records have no place for it.
    """

    def __init__(self, reason: str, why: str = "", *, bad: bool = True) -> None:
        # What a row says may hold half of a surrogate pair, which no file takes.
        why = why.encode("utf-8", "replace").decode("utf-8")
        super().__init__(f"{reason}: {why}" if why else reason)
        self.reason, self.why, self.bad = reason, why, bad


@dataclass(frozen=True)
class Turns:
    """One question and its answer.

    Args:
        prompt: As stored.
        answer: As stored; "" where the row has none.
    """

    prompt: str
    answer: str


def checked_row(row: Any) -> Mapping[str, Any]:
    """A row that is an object.

    Raises:
        RowError: Otherwise.
    """
    if isinstance(row, Unreadable):
        raise RowError("not JSON", row.why)
    if not isinstance(row, dict):
        raise RowError("not an object", type(row).__name__)
    return row


def turns(row: Mapping[str, Any]) -> Turns:
    """The row's question and answer.

    Raises:
        RowError: Where there is no question, or more than one.
    """
    talk = row.get("conversations")
    if talk is None:
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise RowError("no conversation")
        return Turns(row["prompt"], "")
    if not isinstance(talk, list) or not talk or not all(isinstance(turn, dict) for turn in talk):
        raise RowError("no conversation", "conversations is not a list of turns")
    speakers = [_SPEAKERS.get(str(turn.get("from"))) for turn in talk]
    values = [turn.get("value") for turn in talk]
    if None in speakers or not all(isinstance(value, str) for value in values):
        raise RowError("no conversation", "a turn is not from human or gpt, or has no text")
    if len(talk) > 2:
        raise RowError("more than one question", f"{len(talk)} turns", bad=False)
    if speakers != ["human", "gpt"][: len(talk)] or not values[0].strip():
        raise RowError("no conversation", "a question by human and then an answer by gpt are wanted")
    return Turns(values[0], values[1] if len(values) > 1 else "")


def spar_type(row: Mapping[str, Any]) -> str | None:
    """The type of a SPAR question that needs no painted marks; None for other rows.

    Raises:
        RowError: Where marks would have to be painted, or the type is not known.
    """
    info = row.get("spar_info")
    if info is None:
        return None
    try:
        data = json.loads(info) if isinstance(info, str) else info
        kind = data["type"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RowError("wrong spar_info", "it is not JSON with a type") from None
    if not isinstance(kind, str) or kind not in UNPAINTED:
        # A type that is not known may need marks too.
        raise RowError("needs painted marks", str(kind)[:100], bad=False)
    return kind


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


def metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row's ``metadata``, empty where it has none."""
    found = row.get("metadata")
    return found if isinstance(found, dict) else {}


def image_names(row: Mapping[str, Any]) -> list[str] | None:
    """The row's images, relative to the media folder; None for a row with a video.

    Raises:
        RowError: Where there are none, or one lies outside.
    """
    images = row.get("images", row.get("image"))
    if images is None and isinstance(row.get("video"), str):
        return None
    if isinstance(images, str):
        images = [images]
    if not isinstance(images, list) or not images:
        raise RowError("no images", "a row needs images or a video")
    return [inside(name) for name in images]


def inside(name: Any) -> str:
    """A media name that does not leave the media folder.

    Raises:
        RowError: Otherwise.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise RowError("wrong media path", repr(name)[:100])
    try:
        media_path(Path(), name)
        name.encode()
    except (DataError, UnicodeEncodeError):
        raise RowError("media outside the media folder", repr(name)[:200]) from None
    return name.removeprefix("./")


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
