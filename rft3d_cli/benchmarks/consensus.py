"""One answer out of several samples, without the truth: what most of them support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rft3d_cli.answers import read_boxes, read_choice, read_grounding, read_number
from rft3d_cli.records import (
    ChoiceTarget,
    DetectionTarget,
    GroundingTarget,
    NumberTarget,
    Record,
)
from rft3d_cli.rewards.grounding import frame_problem, to_world
from rft3d_cli.rewards.reasoning import asked_unit
from rft3d_cli.rewards.registry import RewardSet


def as_truth(record: Record, text: str) -> Record | None:
    """The record with an answer in the place of its target.

    Args:
        record: Of any task.
        text: The answer.

    Returns:
        A copy; None where the answer says nothing that can be read, or the record is of a task without a score.

    >>> from rft3d_cli.examples import example_record
    >>> as_truth(example_record("number"), "about 3 m").target.value
    3.0
    >>> as_truth(example_record("choice"), "neither") is None
    True
    """
    target = _target(record, text)
    return None if target is None else record.model_copy(update={"target": target})


def _target(record: Record, text: str) -> DetectionTarget | GroundingTarget | ChoiceTarget | NumberTarget | None:
    old = record.target
    if isinstance(old, DetectionTarget):
        answer = read_boxes(text)
        pairs = zip(answer.boxes.labels, answer.boxes.boxes.tolist(), strict=True)
        boxes = [{"label": label, "bbox_3d": box} for label, box in pairs]
        return DetectionTarget.model_validate({"boxes": boxes}) if answer.found else None
    if isinstance(old, GroundingTarget):
        place = read_grounding(text)
        if place.frame is None or place.box is None or frame_problem(place.frame, record):
            return None
        box: Any = place.box
        world: Any = box if record.camera is None else tuple(to_world(box, place.frame, record.camera).tolist())
        # Not checked again: a box far out may lie still further out in the world.
        return GroundingTarget.model_construct(frame=place.frame, bbox_3d=box, bbox_world=world)
    if isinstance(old, ChoiceTarget):
        letter = read_choice(text, old.options).letter
        return None if letter is None else ChoiceTarget(letter=letter, options=old.options)
    if isinstance(old, NumberTarget):
        value = read_number(text, asked_unit(record)).value
        return None if value is None else NumberTarget(value=value)
    return None


def minimum_risk(record: Record, samples: Sequence[str], rewards: RewardSet) -> int:
    """The sample that scores best on average where each sample takes its turn as the truth.

    Minimum-Bayes-risk decoding, with the samples for the model's distribution and a score for the risk. For a choice
    under accuracy it is the majority vote. What cannot be read has no vote.

    Args:
        record: Its own target is not looked at.
        samples: One at least.
        rewards: The score.

    Returns:
        The sample's index, the first of equals; 0 where none can be read.

    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.rewards.own import own_rewards
    >>> minimum_risk(example_record("choice"), ["A", "B", "?", "B"], own_rewards())
    1
    """
    truths = [truth for sample in samples if (truth := as_truth(record, sample)) is not None]
    found = rewards.score_all([(sample, truth) for truth in truths for sample in samples])
    scores = np.array([rewards.total(scores) for scores in found]).reshape(len(truths), len(samples))
    # Rounded, so that the order in which samples are added decides nothing.
    return int(scores.sum(axis=0).round(9).argmax()) if truths else 0


def median(record: Record, samples: Sequence[str]) -> int:
    """The sample with the median number: the lower one of the two in the middle.

    Args:
        record: Says which unit is asked for.
        samples: One at least.

    Returns:
        The sample's index, the first of equals; 0 where none holds a number.

    >>> from rft3d_cli.examples import example_record
    >>> median(example_record("number"), ["9", "many", "200 cm", "3"])
    3
    """
    unit = asked_unit(record)
    known = [
        (answer.value, i) for i, text in enumerate(samples) if (answer := read_number(text, unit)).value is not None
    ]
    middle = sorted(known)[(len(known) - 1) // 2][0] if known else None
    return next((i for value, i in known if value == middle), 0)
