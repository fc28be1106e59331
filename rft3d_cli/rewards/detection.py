"""Rewards for detection: overlap and F1 of labelled boxes, free of the order in which they are written.

All three read the answer in the same way. Objects that were meant as boxes and cannot be used count as wrong boxes:
malformed output must never be cheaper than a wrong box. Exact duplicates (the same label and numbers) are dropped, from
the answer and from the target alike. At most ``max(2 · targets, 50)`` of the boxes that are left are matched, in output
order; the rest count as wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rft3d_cli.answers import read_boxes
from rft3d_cli.errors import UsageError
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.iou import box_iou
from rft3d_cli.geometry.matching import Counts, optimal_matches
from rft3d_cli.records import DetectionTarget, Record
from rft3d_cli.rewards.registry import Score, reward

MIN_CAP = 50
"""Boxes that an answer may always hold before the rest count as wrong."""


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

    def iou(self) -> Floats:
        return box_iou(self.predicted.boxes, self.target.boxes)

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


def _case(text: str, target: DetectionTarget) -> _Case:
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


def _iou_sum(case: _Case, iou: Floats) -> tuple[float, int]:
    matches = optimal_matches(iou, case.predicted.labels, case.target.labels)
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
    iou = case.iou()
    total, matched = (float(iou.max(axis=1).sum()), len(iou)) if det_iou_matching == "best" else _iou_sum(case, iou)
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
        tp = len(optimal_matches(case.iou(), case.predicted.labels, case.target.labels, iou_threshold))
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
    parts = {**case.parts, "overlaps": float(_overlaps(case.predicted))}
    if (score := case.trivial()) is not None:
        return Score(score.value, parts, score.why)
    total, matched = _iou_sum(case, case.iou())
    why = f"{matched} of {len(case.target)} objects matched, IoU sum {total:.2f}"
    return Score(_share(2 * total, case.n_pred + len(case.target)), {**parts, "iou_sum": total}, why)


def _overlaps(boxes: Boxes3D) -> int:
    """Pairs of boxes of one label that overlap by more than 0.25."""
    count = 0
    for group in _by_label(boxes.labels):
        if len(group) > 1:
            iou = box_iou(boxes.boxes[group], boxes.boxes[group])
            count += int((np.triu(iou, 1) > 0.25).sum())
    return count


def _by_label(labels: Iterable[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    return list(groups.values())
