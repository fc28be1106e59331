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
    """``max(0, 1 − |frame − target| / 5)``, in sampled frames, as in the 3D-RFT paper."""
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

    Does not apply to a record without cameras.
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
    """What is wrong with a frame index for a record's clip, or nothing."""
    if record.camera is not None:
        count: int | None = len(record.camera.cam_to_world)
    else:
        count = len(record.video.frames) if isinstance(record.video, FrameList) else record.video.frames
    if count is None or 0 <= frame < count:
        return ""
    return f"frame {frame} of a clip of {count} frames"


def to_world(box: Floats | tuple[float, ...], frame: int, camera: Camera) -> Floats:
    """A ``(9,)`` box of one frame's camera in the axis-aligned world: ``axis_align · cam_to_world[frame] · box``."""
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
