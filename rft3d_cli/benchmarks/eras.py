"""What a model means by the angles of its boxes, told by scoring its answers in both meanings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rft3d_cli.answers import read_boxes, read_grounding
from rft3d_cli.geometry.boxes import Floats, transform_boxes
from rft3d_cli.geometry.eras import ERAS, Era, converted, differs
from rft3d_cli.geometry.iou import box_iou
from rft3d_cli.records import DetectionTarget, GroundingTarget, Record

FOUND, APART = 0.25, 0.05
"""Least overlap for a box to be a witness, and least difference between its overlaps in the two meanings."""
WITNESSES, SHARE = 5, 0.8
"""Least number of witnesses, and the share of them that must agree."""
LOOKED_AT = 500
"""Answers looked at, the first ones: the question needs few."""


@dataclass(frozen=True)
class Evidence:
    """How a model's turned boxes overlap their targets in both meanings.

    Args:
        boxes: Witnesses: boxes that mean two things and overlap a target in one of them.
        intrinsic: How many overlap better as intrinsic angles.
        extrinsic: How many as extrinsic ones.
    """

    boxes: int
    intrinsic: int
    extrinsic: int

    @property
    def era(self) -> Era | None:
        """The meaning that they speak for; None where too few do, or not with one voice.

        >>> Evidence(9, 1, 8).era, Evidence(9, 4, 5).era, Evidence(3, 0, 3).era
        ('extrinsic', None, None)
        """
        for era in ERAS:
            if self.boxes >= WITNESSES and getattr(self, era) >= SHARE * self.boxes:
                return era
        return None

    def document(self) -> dict[str, Any]:
        """For results.

        >>> Evidence(9, 1, 8).document()
        {'boxes': 9, 'intrinsic': 1, 'extrinsic': 8}
        """
        return asdict(self)


def tell_era(records: Sequence[Record], predictions: Mapping[str, str]) -> Evidence:
    """Score a model's boxes in both meanings of their angles.

    A box of a detection answer is held against the targets of its label, one of a grounding answer against the target
    in the world, placed by the frame that the answer names.

    Args:
        records: Detection and grounding records; others say nothing.
        predictions: Record id → text, in the meaning that the model has.

    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("detection")
    >>> tell_era([record], {record.id: "[]"})
    Evidence(boxes=0, intrinsic=0, extrinsic=0)
    """
    votes = dict.fromkeys(ERAS, 0)
    answered = [record for record in records if record.id in predictions]
    for record in answered[:LOOKED_AT]:
        for box, pose, targets in _placed(record, predictions[record.id]):
            if not differs(box):
                continue
            placed = {era: transform_boxes(converted(box, era), pose)[None] for era in ERAS}
            overlap = {era: float(box_iou(placed[era], targets).max()) for era in ERAS}
            better, worse = sorted(ERAS, key=lambda era: overlap[era], reverse=True)
            if overlap[better] > FOUND and overlap[better] - overlap[worse] > APART:
                votes[better] += 1
    return Evidence(sum(votes.values()), votes["intrinsic"], votes["extrinsic"])


def _placed(record: Record, text: str) -> list[tuple[Floats, Floats, Floats]]:
    """Boxes of an answer ``(9,)``, where each stands ``(4, 4)``, and what it is held against ``(n, 9)``."""
    if isinstance(record.target, DetectionTarget):
        targets: dict[str, list[tuple[float, ...]]] = {}
        for item in record.target.boxes:
            targets.setdefault(item.label, []).append(item.bbox_3d)
        found = read_boxes(text).boxes
        return [(box, np.eye(4), np.array(targets[label])) for label, box in found if label in targets]
    if isinstance(record.target, GroundingTarget) and record.camera is not None:
        answer = read_grounding(text)
        poses = record.camera.cam_to_world
        if answer.box is None or answer.frame is None or not 0 <= answer.frame < len(poses):
            return []
        pose = np.array(record.camera.axis_align) @ np.array(poses[answer.frame])
        return [(np.array(answer.box), pose, np.array(record.target.bbox_world)[None])]
    return []
