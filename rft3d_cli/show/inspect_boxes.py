"""Where a record's target boxes lie in each of its frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.camera import invert_rigid, project_points, projected_bounds
from rft3d_cli.geometry.iou import paired_iou
from rft3d_cli.records import Clip, DetectionTarget, GroundingTarget, Record
from rft3d_cli.samplers import DEFAULT_FRAMES

NEAR = 0.05
"""The plane, metres, before which nothing is drawn."""
WORLD_AGREES = 0.9
"""IoU from which on a grounding target's two boxes count as one: their poses are rounded to seven digits."""


@dataclass(frozen=True)
class Views:
    """A record's boxes and the cameras that may see them.

    Args:
        boxes: In the camera coordinates of frame ``own``.
        own: The frame that the boxes are given in: the first for detection, the target's for grounding.
        poses: ``(frames, 4, 4)``, camera to the axis-aligned world; anything where ``posed`` is False.
        posed: ``(frames,)``: whether the pose of a frame is known, and is one.
        intrinsic: ``(3, 3)`` for ``size``, where the record has a camera.
        size: ``(width, height)``, pixels.
        notes: What is odd about the cameras.
    """

    boxes: Boxes3D
    own: int
    poses: Floats
    posed: NDArray[np.bool_]
    intrinsic: Floats | None
    size: tuple[int, int] | None
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """How many frames the model sees."""
        return len(self.posed)

    @property
    def home(self) -> Floats | None:
        """The pose of the frame that the boxes are given in, where it is known."""
        return self.poses[self.own] if self.own < self.frames and self.posed[self.own] else None

    def in_frame(self, frame: int) -> Boxes3D | None:
        """The boxes in the camera coordinates of a frame, or None where its pose is not known."""
        if self.intrinsic is None:
            return None
        if frame == self.own:
            return self.boxes
        if self.home is None or not self.posed[frame]:
            return None
        return self.boxes.transform(self.home).transform(invert_rigid(self.poses[frame]))


@dataclass(frozen=True)
class Sight:
    """What the frames show of the boxes.

    Args:
        known: ``(frames,)``: whether the boxes' place in a frame is known.
        seen: ``(frames, boxes)``: some part of the box lies in the picture. Nothing is said of what stands before it.
        ahead: ``(frames, boxes)``: some part of it lies before the camera.
    """

    known: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    ahead: NDArray[np.bool_]

    def frames_of(self, box: int) -> list[int]:
        """The frames that show a box."""
        return [int(frame) for frame in np.flatnonzero(self.seen[:, box])]

    def trouble(self, box: int) -> str:
        """Why no frame shows a box, empty where one does or nothing is known."""
        if self.seen[:, box].any() or not self.known.any():
            return ""
        return "outside every picture" if self.ahead[:, box].any() else "behind every camera"


def frame_count(record: Record) -> int:
    """How many frames of a record the model sees, where no recipe says otherwise."""
    if isinstance(record.video, Clip):
        return record.video.frames or DEFAULT_FRAMES
    return len(record.video.frames)


def views_of(record: Record) -> Views:
    """The boxes and cameras of a record; no boxes for tasks that have none.

    >>> from rft3d_cli.examples import example_record
    >>> views = views_of(example_record("grounding"))
    >>> views.own, views.boxes.labels, views.in_frame(0).centres.tolist()
    (1, ('object',), [[0.5, 0.0, 2.0]])
    """
    boxes, own = _target_boxes(record)
    frames, camera = frame_count(record), record.camera
    poses, posed = np.tile(np.eye(4), (frames, 1, 1)), np.zeros(frames, bool)
    if camera is None:
        return Views(boxes, own, poses, posed, None, None)
    notes = [f"the target's frame {own} is none of its {frames} frames"] if own >= frames else []
    if len(camera.cam_to_world) == frames:
        poses = np.array(camera.axis_align) @ np.array(camera.cam_to_world)
        posed = _rigid(poses)
        if not posed.all():
            notes.append(f"no rotation and shift, so no pose: {frames_text(np.flatnonzero(~posed).tolist())}")
    else:
        notes.append(f"{len(camera.cam_to_world)} poses for {frames} frames: boxes are drawn in their own frame only")
    return Views(boxes, own, poses, posed, np.array(camera.intrinsic), camera.image_size, tuple(notes))


def _target_boxes(record: Record) -> tuple[Boxes3D, int]:
    target = record.target
    if isinstance(target, DetectionTarget):
        return Boxes3D([box.bbox_3d for box in target.boxes], [box.label for box in target.boxes]), 0
    if isinstance(target, GroundingTarget):
        # Where the data set names the object, the name is a better label than none.
        name = (record.meta.model_extra or {}).get("object_name")
        label = name.replace("_", " ") if isinstance(name, str) and name.strip() else "object"
        return Boxes3D([target.bbox_3d], [label]), target.frame
    return Boxes3D([]), 0


def _rigid(poses: Floats) -> NDArray[np.bool_]:
    """Which of ``(N, 4, 4)`` matrices are a rotation and a shift."""
    turns = poses[:, :3, :3]
    squares: Floats = turns @ turns.transpose(0, 2, 1)
    straight: NDArray[np.bool_] = np.all(np.abs(squares - np.eye(3)) < 0.01, axis=(1, 2))
    affine = (np.abs(poses[:, 3] - (0, 0, 0, 1)) < 1e-6).all(axis=1)
    handed: NDArray[np.bool_] = np.linalg.det(turns) > 0
    return straight & affine & handed


def sight(views: Views) -> Sight:
    """Which frames show which boxes.

    Args:
        views: Of one record.

    Returns:
        What :func:`rft3d_cli.geometry.camera.projected_bounds` says of each box in each frame, for all at once.

    >>> from rft3d_cli.examples import example_record
    >>> sight(views_of(example_record("grounding"))).seen.tolist()
    [[True], [True]]
    """
    frames = views.frames
    known, shape = np.zeros(frames, bool), (frames, len(views.boxes))
    if views.intrinsic is None or views.size is None or not len(views.boxes) or views.own >= frames:
        return Sight(known, np.zeros(shape, bool), np.zeros(shape, bool))
    corners = views.boxes.corners()
    moved = np.broadcast_to(corners, (frames, *corners.shape)).copy()
    if views.home is not None:
        known = views.posed.copy()
        turns = invert_rigid(np.where(known[:, None, None], views.poses, np.eye(4))) @ views.home
        moved = np.einsum("fij,ncj->fnci", turns[:, :3, :3], corners) + turns[:, None, None, :3, 3]
        moved[views.own] = corners
    known[views.own] = True
    front = moved[..., 2] > NEAR
    ahead = front.any(axis=-1)
    pixels, _ = project_points(moved, views.intrinsic)
    low = np.maximum(pixels.min(axis=-2), -0.5)
    high = np.minimum(pixels.max(axis=-2), np.array(views.size) - 0.5)
    seen = front.all(axis=-1) & (low < high).all(axis=-1)
    partly = ahead & ~front.all(axis=-1) & known[:, None]
    for frame in np.flatnonzero(partly.any(axis=1)):
        here = views.in_frame(int(frame))
        for box in np.flatnonzero(partly[frame]):
            # Cut by the near plane: its corners do not bound what can be seen of it.
            bounds = None if here is None else projected_bounds(here.boxes[box], views.intrinsic, views.size)
            seen[frame, box] = bounds is not None
    return Sight(known, seen & known[:, None], ahead & known[:, None])


def world_overlap(record: Record, views: Views) -> float | None:
    """IoU of a grounding target's world box and its camera box placed in the world: 1 unless one of them is wrong."""
    if not isinstance(record.target, GroundingTarget) or views.home is None:
        return None
    placed = views.boxes.transform(views.home).boxes
    return float(paired_iou(placed, np.array([record.target.bbox_world]))[0])


def frames_text(frames: list[int]) -> str:
    """Frame numbers in few words.

    >>> frames_text([0, 1, 2, 5, 7, 8]), frames_text([3]), frames_text([])
    ('frames 0–2, 5, 7–8', 'frame 3', 'no frame')
    """
    if not frames:
        return "no frame"
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    words = [f"{first}" if first == last else f"{first}–{last}" for first, last in runs]
    return f"frame{'s' if len(frames) > 1 else ''} {', '.join(words)}"
