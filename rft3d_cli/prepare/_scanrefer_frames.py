"""The frames of a ScanRefer record: which are taken of a scan, and which of them shows the object best."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from rft3d_cli.geometry.boxes import Floats, points_in_box, transform_boxes
from rft3d_cli.geometry.camera import invert_rigid
from rft3d_cli.geometry.visibility import area_in_view
from rft3d_cli.prepare.embodiedscan import Frame, Scan
from rft3d_cli.video import sample_indices

TargetRule = Literal["largest", "first"]
FrameSampler = Literal["chronological", "wrap-around"]

SAMPLER = "linspace-floor"
"""What records call chronological frames, evenly spaced over the scan."""
REDRAWS = 20
"""How often a wrap-around sample is drawn anew because it does not show the object."""

Item = TypeVar("Item")


def sampler_name(sampler: FrameSampler) -> str:
    """What a record's ``meta.sampler`` says.

    >>> sampler_name("chronological"), sampler_name("wrap-around")
    ('linspace-floor', 'wrap-around')
    """
    return SAMPLER if sampler == "chronological" else sampler


def draws(seed: int, name: str, sampling: int = 0) -> np.random.Generator:
    """The random numbers of one record: the same whatever else is prepared, in whatever order."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), sampling])


def evenly(frames: Sequence[Item], count: int) -> list[Item]:
    """``count`` frames, evenly spaced and in order; all where there are fewer.

    >>> evenly("abcdefg", 3), evenly("ab", 3)
    (['a', 'd', 'g'], ['a', 'b'])
    """
    return [frames[i] for i in sample_indices(len(frames), min(count, len(frames)), SAMPLER)]


def wrapped(frames: Sequence[Item], count: int, start: int) -> list[Item]:
    """Every ``len // count``-th frame from ``start`` on, over the end to the beginning, as VG-LLM samples.

    Args:
        frames: In order.
        count: How many to take; all where there are fewer.
        start: Position of the first.

    >>> wrapped("abcdefg", 3, 4), wrapped("ab", 3, 1)
    (['e', 'g', 'b'], ['b', 'a'])
    """
    turned = [*frames[start:], *frames[:start]]
    return turned[:: max(1, len(frames) // count)][:count]


def wrapped_sample(frames: Sequence[Frame], count: int, rng: np.random.Generator) -> list[Frame]:
    """A wrap-around sample from a random start."""
    return wrapped(frames, count, int(rng.integers(len(frames))))


def showing_sample(frames: Sequence[Frame], count: int, instance: int, rng: np.random.Generator) -> list[Frame]:
    """A wrap-around sample that shows an object, where any frame does.

    After :data:`REDRAWS` draws in vain the first frame that shows the object takes the last one's place, and the sample
    is put in order.

    Args:
        frames: The scan's, in order.
        count: How many to take.
        instance: The object.
        rng: For the starts.
    """
    for _ in range(1 + REDRAWS):
        sample = wrapped_sample(frames, count, rng)
        if any(instance in frame.visible for frame in sample):
            return sample
    shown = next((frame for frame in frames if instance in frame.visible), sample[-1])
    return sorted([*sample[:-1], shown], key=lambda frame: frame.number)


def target_frame(scan: Scan, frames: Sequence[Frame], instance: int, box: Floats, rule: TargetRule) -> int | None:
    """The index of the frame to name among ``frames``; None where no frame shows the instance.

    A frame shows what it lists as visible; for the largest area, what also has one in its picture.

    Args:
        scan: The annotated scan.
        frames: Sampled frames.
        instance: The object.
        box: ``(9,)`` in the axis-aligned world.
        rule: See :class:`rft3d_cli.prepare.scanrefer.GroundingSpec`. Of equal areas the first wins.
    """
    seen = [i for i, frame in enumerate(frames) if instance in frame.visible]
    if not seen:
        return None
    if rule == "first":
        return seen[0]
    poses = [scan.axis_align @ frames[i].cam_to_world for i in seen]
    areas = [projected_area(transform_boxes(box, invert_rigid(pose)), scan.intrinsic) for pose in poses]
    best = int(np.argmax(areas))
    return seen[best] if areas[best] > 0 else None


def projected_area(box: Floats, intrinsic: Floats) -> float:
    """The area of the picture that a box covers, pixels²; 0 for a camera inside the box.

    The picture is taken to reach twice as far as the middle that ``intrinsic`` names, as VG-LLM's data take it. Theirs
    move corners outside to the border where this cuts the box's outline there, and pass over corners behind the camera
    where this cuts the box before it.

    Args:
        box: ``(9,)`` in camera coordinates.
        intrinsic: ``(3, 3)``.

    >>> box = np.array([0, 0, 2.5, 1, 1, 1, 0, 0, 0])
    >>> projected_area(box, np.array([[100, 0, 50], [0, 100, 50], [0, 0, 1]]))
    2500.0
    """
    if points_in_box(np.zeros((1, 3)), box)[0]:
        return 0.0
    width, height = (2 * intrinsic[:2, 2]).round().astype(int).tolist()
    return area_in_view(box, intrinsic, (width, height))
