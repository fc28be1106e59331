"""Rewards for detection: overlap and F1 of labelled boxes, free of the order in which they are written.

All three read the answer in the same way. Objects that were meant as boxes and cannot be used count as wrong boxes:
malformed output must never be cheaper than a wrong box. Exact duplicates (the same label and numbers) are dropped, from
the answer and from the target alike. At most ``max(2 · targets, 50)`` of the boxes that are left are matched, in output
order; the rest count as wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.answers import read_boxes
from rft3d_cli.errors import UsageError
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.iou import box_iou, paired_iou
from rft3d_cli.geometry.matching import Counts, optimal_matches
from rft3d_cli.records import DetectionTarget, Record
from rft3d_cli.rewards.registry import Score, reward

MIN_CAP = 50
"""Boxes that an answer may always hold before the rest count as wrong."""

KEPT = 64
"""Answers remembered beside their targets."""


@dataclass(frozen=True)
class _Case:
    """An answer beside its target.

    Args:
        predicted: Distinct usable boxes, within the cap.
        target: Distinct target boxes.
        wrong: Unusable objects and boxes beyond the cap.
        parts: Counts for logs.
        why: For an answer without any list, what is missing.
    """

    predicted: Boxes3D
    target: Boxes3D
    wrong: int
    parts: dict[str, float]
    why: str

    @property
    def n_pred(self) -> int:
        return len(self.predicted) + self.wrong

    @cached_property
    def iou(self) -> Floats:
        """``(N, M)`` predictions by targets; 0 where labels differ, which is never looked at."""
        out = np.zeros((len(self.predicted), len(self.target)))
        rows, columns = np.nonzero(_same(self.predicted.labels, self.target.labels))
        out[rows, columns] = paired_iou(self.predicted.boxes[rows], self.target.boxes[columns])
        return out

    @cached_property
    def overlaps(self) -> int:
        """Pairs of predictions of one label that overlap by more than 0.25."""
        first, second = np.nonzero(np.triu(_same(self.predicted.labels, self.predicted.labels), 1))
        boxes = self.predicted.boxes
        return int((paired_iou(boxes[first], boxes[second]) > 0.25).sum())

    def trivial(self) -> Score | None:
        """The score where there is nothing to match."""
        if self.why:
            return Score(0.0, self.parts, self.why)
        if not len(self.target):
            right = self.n_pred == 0
            return Score(float(right), self.parts, "rightly empty" if right else f"{self.n_pred} boxes where none is")
        if not len(self.predicted):
            return Score(0.0, self.parts, f"no usable box for {len(self.target)} objects")
        return None


_recent: OrderedDict[tuple[str, int], tuple[DetectionTarget, _Case]] = OrderedDict()
"""Answers seen last beside their targets: several rewards look at each, one after the other."""


def _case(text: str, target: DetectionTarget) -> _Case:
    key = (text, id(target))
    known = _recent.get(key)
    # The target is held, so that its id cannot become another's; a copy that was changed is another object.
    if known is not None and known[0] is target:
        return known[1]
    case = _read(text, target)
    _recent[key] = (target, case)
    while len(_recent) > KEPT:
        _recent.popitem(last=False)
    return case


def _read(text: str, target: DetectionTarget) -> _Case:
    answer = read_boxes(text)
    wanted = _distinct(Boxes3D([box.bbox_3d for box in target.boxes], [box.label.strip() for box in target.boxes]))
    cap = max(2 * len(wanted), MIN_CAP)
    distinct = _distinct(answer.boxes)
    predicted = distinct[:cap]
    overflow = len(distinct) - len(predicted)
    wrong = len(answer.dropped) + overflow
    counts = {
        "n_pred": len(predicted) + wrong,
        "n_target": len(wanted),
        "dropped": len(answer.dropped),
        "overflow": overflow,
        "duplicates": len(answer.boxes) - len(distinct),
    }
    return _Case(predicted, wanted, wrong, {name: float(value) for name, value in counts.items()}, answer.why)


def _distinct(boxes: Boxes3D) -> Boxes3D:
    first: dict[tuple[str, tuple[float, ...]], int] = {}
    for index, (label, box) in enumerate(boxes):
        first.setdefault((label, tuple(box.tolist())), index)
    return boxes if len(first) == len(boxes) else boxes[list(first.values())]


def _share(total: float, count: float) -> float:
    """A quotient of overlaps, freed of the last bits so that a perfect answer scores exactly 1."""
    return min(max(round(total / count, 9), 0.0), 1.0)


def _iou_sum(case: _Case) -> tuple[float, int]:
    matches = optimal_matches(case.iou, case.predicted.labels, case.target.labels)
    return float(sum(match.iou for match in matches)), len(matches)


@reward("det_iou", task="detection")
def det_iou(text: str, record: Record, *, det_iou_matching: str = "one_to_one") -> Score | None:
    """Sum of IoU over matched boxes, divided by the number of predictions.

    The 3D-RFT paper says "best match" and not whether it looks at labels. Ours is the optimal one-to-one matching
    within each label, so that duplicates and wrong labels do not pay.

    Args:
        text: The completion.
        record: Its record.
        det_iou_matching: ``one_to_one``, or ``best`` for the looser reading: each prediction counts the IoU of its best
            target, whatever the labels, and near-duplicates of a good box pay.
    """
    if det_iou_matching not in ("one_to_one", "best"):
        raise UsageError(f"det_iou_matching is {det_iou_matching!r}", "it is one_to_one or best")
    if not isinstance(record.target, DetectionTarget):
        return None
    case = _case(text, record.target)
    if (score := case.trivial()) is not None:
        return score
    if det_iou_matching == "best":
        best = box_iou(case.predicted.boxes, case.target.boxes).max(axis=1)
        total, matched = float(best.sum()), len(best)
    else:
        total, matched = _iou_sum(case)
    why = f"{matched} of {case.n_pred} boxes matched, IoU sum {total:.2f}"
    return Score(_share(total, case.n_pred), {**case.parts, "iou_sum": total}, why)


@reward("det_f1", task="detection")
def det_f1(text: str, record: Record, *, iou_threshold: float = 0.25) -> Score | None:
    """``2TP / (2TP + FP + FN)``, a true positive being a matched box with IoU above 0.25, as in the 3D-RFT paper.

    Args:
        text: The completion.
        record: Its record.
        iou_threshold: The IoU above which a matched box counts as found.
    """
    if not isinstance(record.target, DetectionTarget):
        return None
    case = _case(text, record.target)
    score = case.trivial()
    tp = 0
    if score is None:
        tp = len(optimal_matches(case.iou, case.predicted.labels, case.target.labels, iou_threshold))
    counts = Counts(tp, case.n_pred - tp, len(case.target) - tp)
    parts = {**case.parts, "tp": float(tp), "fp": float(counts.fp), "fn": float(counts.fn)}
    parts |= {"precision": counts.precision, "recall": counts.recall}
    if score is not None:
        return Score(score.value, parts, score.why)
    why = f"{tp} found, {counts.fp} wrong, {counts.fn} missed"
    return Score(_share(2 * tp, case.n_pred + len(case.target)), parts, why)


@reward("det_soft_f1", task="detection")
def det_soft_f1(text: str, record: Record) -> Score | None:
    """``2 Σ matched IoU / (predictions + targets)``: F1 with overlap in place of hits, dense and free of order.

    Ours, not the paper's. Two guesses at one uncertain object can pay in expectation; ``overlaps`` in the parts counts
    pairs of predictions of one label that overlap by more than 0.25, to watch for it.
    """
    if not isinstance(record.target, DetectionTarget):
        return None
    case = _case(text, record.target)
    parts = {**case.parts, "overlaps": float(case.overlaps)}
    if (score := case.trivial()) is not None:
        return Score(score.value, parts, score.why)
    total, matched = _iou_sum(case)
    why = f"{matched} of {len(case.target)} objects matched, IoU sum {total:.2f}"
    return Score(_share(2 * total, case.n_pred + len(case.target)), {**parts, "iou_sum": total}, why)


def _same(labels: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """``(N, M)``: where two labels are equal."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys([*labels, *others]))}
    one, other = (np.array([numbers[label] for label in row], dtype=np.intp) for row in (labels, others))
    return np.asarray(one[:, None] == other)
