"""Rewards for grounding: the frame, and the box in the axis-aligned world."""

from __future__ import annotations

import math

import numpy as np

from rft3d_cli.answers import GroundingAnswer, read_grounding
from rft3d_cli.geometry.boxes import Floats, transform_boxes
from rft3d_cli.geometry.iou import paired_iou
from rft3d_cli.records import Camera, FrameList, GroundingTarget, Record
from rft3d_cli.rewards.registry import Score, reward

FRAME_REACH = 5
"""Frames off at which the frame reward reaches 0 (the paper's)."""

SHARPNESS = 2.0
"""How fast ``ground_near`` falls: by e² for each diagonal of the target."""


@reward("ground_frame", task="grounding")
def ground_frame(text: str, record: Record) -> Score | None:
    """``max(0, 1 − |frame − target| / 5)``, in sampled frames, as in the 3D-RFT paper.

    Args:
        text: The completion.
        record: Its record.

    Returns:
        The score, or None for a record of another task.

    >>> from rft3d_cli.examples import example_record
    >>> ground_frame('{"frame": 0, "bbox_3d": [0, 0, 2, 1, 1, 1, 0, 0, 0]}', example_record("grounding")).value
    0.8
    """
    if not isinstance(record.target, GroundingTarget):
        return None
    answer = read_grounding(text)
    if answer.frame is None or (problem := frame_problem(answer.frame, record)):
        return Score(0.0, {}, answer.why or problem)
    off = abs(answer.frame - record.target.frame)
    value = max(0.0, 1 - off / FRAME_REACH)
    return Score(value, {"frames_off": float(off)}, f"{off} frames off" if off else "")


@reward("ground_iou", task="grounding")
def ground_iou(text: str, record: Record) -> Score | None:
    """3D IoU in the axis-aligned world, the box placed by the predicted frame's pose, as in the 3D-RFT paper.

    Does not apply to a record without cameras.

    Args:
        text: The completion.
        record: Its record.

    Returns:
        The score, or None for a record of another task, or without cameras.

    The box is right in frame 1, and half a metre off as seen from frame 0:

    >>> from rft3d_cli.examples import example_record
    >>> answer = '{"frame": %d, "bbox_3d": [0, 0, 2, 1, 1, 1, 0, 0, 0]}'
    >>> [ground_iou(answer % frame, example_record("grounding")).why for frame in (1, 0)]
    ['IoU 1.000', 'IoU 0.333']
    """
    if not isinstance(record.target, GroundingTarget) or record.camera is None:
        return None
    box, why = _predicted(text, record, record.camera)
    if box is None:
        return Score(0.0, {}, why)
    value = round(float(paired_iou(box[None], np.asarray([record.target.bbox_world], dtype=np.float64))[0]), 9)
    return Score(value, {}, f"IoU {value:.3f}")


@reward("ground_near", task="grounding")
def ground_near(text: str, record: Record) -> Score | None:
    """``exp(−2 · distance / target diagonal)`` between centres: dense where boxes do not touch, blind to size.

    Ours, not the paper's. Does not apply to a record without cameras.

    Args:
        text: The completion.
        record: Its record.

    Returns:
        The score, or None for a record of another task, or without cameras.

    >>> from rft3d_cli.examples import example_record
    >>> far = ground_near('{"frame": 1, "bbox_3d": [3, 0, 2, 1, 1, 1, 0, 0, 0]}', example_record("grounding"))
    >>> round(far.value, 3), far.why
    (0.031, '3.00 m off')
    """
    if not isinstance(record.target, GroundingTarget) or record.camera is None:
        return None
    box, why = _predicted(text, record, record.camera)
    if box is None:
        return Score(0.0, {}, why)
    target = np.asarray(record.target.bbox_world, dtype=np.float64)
    distance = float(np.linalg.norm(box[:3] - target[:3]))
    diagonal = max(float(np.linalg.norm(target[3:6])), 0.01)
    value = round(math.exp(-SHARPNESS * distance / diagonal), 9)
    return Score(value, {"distance": distance}, f"{distance:.2f} m off")


def frame_problem(frame: int, record: Record) -> str:
    """What is wrong with a frame index for a record's clip, or nothing.

    >>> from rft3d_cli.examples import example_record
    >>> frame_problem(2, example_record("grounding"))
    'frame 2 of a clip of 2 frames'
    """
    if record.camera is not None:
        count: int | None = len(record.camera.cam_to_world)
    else:
        count = len(record.video.frames) if isinstance(record.video, FrameList) else record.video.frames
    if count is None or 0 <= frame < count:
        return ""
    return f"frame {frame} of a clip of {count} frames"


def to_world(box: Floats | tuple[float, ...], frame: int, camera: Camera) -> Floats:
    """A box of one frame's camera in the axis-aligned world: ``axis_align · cam_to_world[frame] · box``.

    Args:
        box: ``(9,)``, metres and radians.
        frame: Index of the frame, from 0.
        camera: The cameras of the clip.

    Returns:
        ``(9,)``.

    Raises:
        IndexError: For a frame without a pose; see :func:`frame_problem`.

    >>> from rft3d_cli.examples import example_record
    >>> to_world((0, 0, 2, 1, 1, 1, 0, 0, 0), 1, example_record("grounding").camera)[:3].tolist()
    [0.5, 0.0, 2.0]
    """
    pose = np.asarray(camera.axis_align, dtype=np.float64) @ np.asarray(camera.cam_to_world[frame], dtype=np.float64)
    return transform_boxes(box, pose)


def _predicted(text: str, record: Record, camera: Camera) -> tuple[Floats | None, str]:
    """The predicted box in the axis-aligned world, or why there is none."""
    answer: GroundingAnswer = read_grounding(text)
    if answer.frame is None or answer.box is None:
        return None, answer.why
    if problem := frame_problem(answer.frame, record):
        return None, problem
    return to_world(answer.box, answer.frame, camera), ""
