"""A saved answer beside its target."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rft3d_cli.answers import read_boxes, read_choice, read_grounding, read_number
from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.geometry.iou import box_iou
from rft3d_cli.records import ChoiceTarget, DetectionTarget, GroundingTarget, NumberTarget, Record
from rft3d_cli.rewards.reasoning import UNITS
from rft3d_cli.show.inspect_boxes import Sight, Views, sight


@dataclass(frozen=True)
class Said:
    """An answer, read.

    Args:
        text: What the model wrote.
        views: Its boxes, in the camera of the frame that it means.
        sight: Which frames show them.
        overlaps: IoU of each box with the best target of its label; None where it cannot be placed.
        value: A number or a letter, and whether it is right, in words; empty for tasks with boxes.
        why: Why something could not be read, empty where nothing was lost.
    """

    text: str
    views: Views
    sight: Sight
    overlaps: tuple[float | None, ...]
    value: str
    why: str


def read_said(text: str, record: Record, views: Views) -> Said:
    """Read an answer to a record.

    Args:
        text: What the model wrote.
        record: The record.
        views: Of the record's target.

    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.show.inspect_boxes import views_of
    >>> record = example_record("detection")
    >>> text = '[{"label": "chair", "bbox_3d": [0, 0, 2, 1, 1, 0.5, 0, 0, 0]}]'
    >>> read_said(text, record, views_of(record)).overlaps
    (0.5,)
    """
    value, why, own, boxes = "", "", views.own, Boxes3D([])
    target = record.target
    if isinstance(target, DetectionTarget):
        found = read_boxes(text)
        boxes = found.boxes
        why = found.why or ", ".join(dict.fromkeys(item.reason for item in found.dropped))
    elif isinstance(target, GroundingTarget):
        place = read_grounding(text)
        why = place.why
        if place.frame is not None and place.box is not None:
            if place.frame >= views.frames:
                why = f"it names frame {place.frame} of {views.frames}"
            else:
                own, boxes = place.frame, Boxes3D([place.box], views.boxes.labels)
    elif isinstance(target, ChoiceTarget):
        choice = read_choice(text, target.options)
        why = "" if choice.letter else choice.why
        value = _verdict(choice.letter, (choice.letter or "").upper() == target.letter.upper())
    elif isinstance(target, NumberTarget):
        number = read_number(text, UNITS.get(record.meta.question_type or ""))
        why = number.why if number.value is None else ""
        value = "" if number.value is None else f"{number.value:.12g}, the target is {target.value:.12g}"
    placed = replace(views, boxes=boxes, own=own)
    return Said(text, placed, sight(placed), _overlaps(placed, views), value, why)


def _verdict(letter: str | None, right: bool) -> str:
    return f"{letter}, {'right' if right else 'wrong'}" if letter else ""


def _overlaps(said: Views, truth: Views) -> tuple[float | None, ...]:
    """IoU of each box with the best target of its label, both in the camera of the target's frame."""
    if not len(said.boxes):
        return ()
    moved = said.boxes if said.own == truth.own else said.in_frame(truth.own)
    if moved is None:
        return (None,) * len(said.boxes)
    if not len(truth.boxes):
        return (0.0,) * len(said.boxes)
    same = np.array([[one == other for other in truth.boxes.labels] for one in moved.labels])
    return tuple(float(value) for value in np.where(same, box_iou(moved.boxes, truth.boxes.boxes), 0.0).max(axis=1))
