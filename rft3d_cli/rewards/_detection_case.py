"""A detection answer beside its target: read once, overlaps worked out once, for all rewards that look at it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.answers import read_boxes
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.iou import BLOCK, paired_iou
from rft3d_cli.geometry.matching import Match, optimal_matches
from rft3d_cli.records import DetectionTarget, Record
from rft3d_cli.rewards.registry import Score

MIN_CAP = 50
"""Boxes that an answer may always hold before the rest count as wrong."""

HEAVY_OVERLAP = 0.25
"""IoU above which two predictions of one label count as two guesses at one object."""

Indices = NDArray[np.intp]

KEPT = 1024
"""Answers, and targets, that are remembered."""


class Case:
    """An answer beside its target.

    Attributes:
        predicted: Distinct usable boxes, within the cap.
        target: Distinct target boxes.
        n_pred: Those predicted, unusable objects, and boxes beyond the cap.
        parts: Counts for logs.
        why: For an answer without any list, what is missing.
    """

    def __init__(self, text: str, target: Boxes3D) -> None:
        answer = read_boxes(text)
        distinct = _distinct(answer.boxes)
        cap = max(2 * len(target), MIN_CAP)
        self.target = target
        self.predicted = distinct if len(distinct) <= cap else distinct[:cap]
        overflow = len(distinct) - len(self.predicted)
        self.n_pred = len(distinct) + len(answer.dropped)
        self.parts = {
            "n_pred": float(self.n_pred),
            "n_target": float(len(target)),
            "dropped": float(len(answer.dropped)),
            "overflow": float(overflow),
            "duplicates": float(len(answer.boxes) - len(distinct)),
        }
        self.why = answer.why

    @cached_property
    def iou(self) -> Floats:
        """``(N, M)`` predictions by targets; 0 where labels differ, which is never looked at."""
        return _ious([self])[0]

    @cached_property
    def overlaps(self) -> int:
        """Pairs of predictions of one label that overlap heavily."""
        return _overlaps([self])[0]

    @cached_property
    def matches(self) -> list[Match]:
        """The matching that maximises the sum of IoU."""
        return optimal_matches(self.iou, self.predicted.labels, self.target.labels)

    def trivial(self) -> Score | None:
        """The score where there is nothing to match."""
        if self.why:
            return Score(0.0, dict(self.parts), self.why)
        if not len(self.target):
            right = self.n_pred == 0
            return Score(
                float(right), dict(self.parts), "rightly empty" if right else f"{self.n_pred} boxes where none is"
            )
        if not len(self.predicted):
            return Score(0.0, dict(self.parts), f"no usable box for {len(self.target)} objects")
        return None


def case_of(text: str, target: DetectionTarget) -> Case:
    """The case of an answer; the same object while it is remembered."""
    return _cases(text, target, lambda: Case(text, _wanted(target)))


def prepare_iou(answers: Sequence[tuple[str, Record]]) -> None:
    """Work out the IoU of predictions and targets of many answers, in one call."""
    lacking = [case for case in _cases_of(answers) if "iou" not in vars(case)]
    for case, iou in zip(lacking, _ious(lacking), strict=True):
        case.iou = iou


def prepare_overlaps(answers: Sequence[tuple[str, Record]]) -> None:
    """The same, and the overlaps among the predictions of each."""
    prepare_iou(answers)
    lacking = [case for case in _cases_of(answers) if "overlaps" not in vars(case)]
    for case, overlaps in zip(lacking, _overlaps(lacking), strict=True):
        case.overlaps = overlaps


def _cases_of(answers: Sequence[tuple[str, Record]]) -> list[Case]:
    """The cases of those answers that are for detection records."""
    return [case_of(text, record.target) for text, record in answers if isinstance(record.target, DetectionTarget)]


def _ious(cases: Sequence[Case]) -> list[Floats]:
    out = [np.zeros((len(case.predicted), len(case.target))) for case in cases]
    places = [_same(case.predicted.labels, case.target.labels).nonzero() for case in cases]
    pairs = [_Pairs(case.predicted, case.target, *place) for case, place in zip(cases, places, strict=True)]
    for iou, place, found in zip(out, places, _in_few_calls(pairs), strict=True):
        iou[place] = found
    return out


def _overlaps(cases: Sequence[Case]) -> list[int]:
    found = [(case.predicted, np.triu(_same(case.predicted.labels, case.predicted.labels), 1)) for case in cases]
    pairs = [_Pairs(boxes, boxes, *same.nonzero()) for boxes, same in found]
    return [int((found > HEAVY_OVERLAP).sum()) for found in _in_few_calls(pairs)]


class _Pairs(NamedTuple):
    """Pairs of boxes of two sets, by index."""

    one: Boxes3D
    other: Boxes3D
    rows: Indices
    columns: Indices


def _in_few_calls(pairs: Sequence[_Pairs]) -> list[Floats]:
    """IoU of several lists of pairs: small calls cost more for starting than for their pairs."""
    out = [np.zeros(len(item.rows)) for item in pairs]
    waiting: list[tuple[Floats, Floats, Floats]] = []

    def call() -> None:
        if waiting:
            places, first, second = zip(*waiting, strict=True)
            found = paired_iou(np.concatenate(first), np.concatenate(second))
            for place, values in zip(places, np.split(found, np.cumsum([len(p) for p in places])[:-1]), strict=True):
                place[:] = values
            waiting.clear()

    for place, (one, other, rows, columns) in zip(out, pairs, strict=True):
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            waiting.append((place[part], one.boxes[rows[part]], other.boxes[columns[part]]))
            if sum(len(first) for _, first, _ in waiting) >= BLOCK:
                call()
    call()
    return out


def _distinct(boxes: Boxes3D) -> Boxes3D:
    keys = list(zip(boxes.labels, map(tuple, boxes.boxes.tolist()), strict=True))
    if len(set(keys)) == len(keys):
        return boxes
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    return boxes[sorted(first.values())]


def _same(labels: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """``(N, M)``: where two labels are equal."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys([*labels, *others]))}
    one, other = (np.array([numbers[label] for label in row], dtype=np.intp) for row in (labels, others))
    return np.asarray(one[:, None] == other)


Made = TypeVar("Made")


class _Memory(Generic[Made]):
    """What was made of a target last, and of a text beside it.

    Targets are told apart by identity. They are held, so that an id cannot become another's; a copy that was changed
    is another object.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int], tuple[DetectionTarget, Made]] = OrderedDict()

    def __call__(self, text: str, target: DetectionTarget, make: Callable[[], Made]) -> Made:
        key = text, id(target)
        known = self._known.get(key)
        if known is not None and known[0] is target:
            return known[1]
        made = make()
        self._known[key] = target, made
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return made


_cases: _Memory[Case] = _Memory()
_targets: _Memory[Boxes3D] = _Memory()


def _wanted(target: DetectionTarget) -> Boxes3D:
    return _targets(
        "",
        target,
        lambda: _distinct(Boxes3D([box.bbox_3d for box in target.boxes], [box.label.strip() for box in target.boxes])),
    )
