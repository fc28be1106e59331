"""Rewards for detection: overlap and F1 of labelled boxes, free of the order in which they are written.

All three read the answer in the same way. Objects that were meant as boxes and cannot be used count as wrong boxes:
malformed output must never be cheaper than a wrong box. Exact duplicates (the same label and numbers) are dropped, from
the answer and from the target alike. At most ``max(2 · targets, 50)`` of the boxes that are left are matched, in output
order; the rest count as wrong.
"""

from __future__ import annotations

from rft3d_cli.errors import UsageError
from rft3d_cli.geometry.iou import box_iou
from rft3d_cli.geometry.matching import Counts, optimal_matches
from rft3d_cli.records import DetectionTarget, Record
from rft3d_cli.rewards._detection_case import Case, case_of, prepare_iou, prepare_overlaps
from rft3d_cli.rewards.registry import Score, reward


def _share(total: float, count: float) -> float:
    """A quotient of overlaps, freed of the last bits so that a perfect answer scores exactly 1."""
    return min(max(round(total / count, 9), 0.0), 1.0)


def _iou_sum(case: Case) -> float:
    return float(sum(match.iou for match in case.matches))


@reward("det_iou", task="detection", prepare=prepare_iou)
def det_iou(text: str, record: Record, *, det_iou_matching: str = "one_to_one") -> Score | None:
    """Sum of IoU over matched boxes, divided by the number of predictions.

    The 3D-RFT paper says "best match" and not whether it looks at labels. Ours is the optimal one-to-one matching
    within each label, so that duplicates and wrong labels do not pay.

    Args:
        text: The completion.
        record: Its record.
        det_iou_matching: ``one_to_one``, or ``best`` for the looser reading: each prediction counts the IoU of its best
            target, whatever the labels, and near-duplicates of a good box pay.

    Returns:
        The score, or None for a record of another task.

    Raises:
        UsageError: On another ``det_iou_matching``.

    >>> from rft3d_cli.examples import example_record
    >>> answer = '[{"label": "chair", "bbox_3d": [0.5, 0, 2, 1, 1, 1, 0, 0, 0]}]'
    >>> det_iou(answer, example_record("detection")).why
    '1 of 1 boxes matched, IoU sum 0.33'
    """
    if det_iou_matching not in ("one_to_one", "best"):
        raise UsageError(f"det_iou_matching is {det_iou_matching!r}", "it is one_to_one or best")
    if not isinstance(record.target, DetectionTarget):
        return None
    case = case_of(text, record.target)
    if (score := case.trivial()) is not None:
        return score
    if det_iou_matching == "best":
        best = box_iou(case.predicted.boxes, case.target.boxes).max(axis=1)
        total, matched = float(best.sum()), len(best)
    else:
        total, matched = _iou_sum(case), len(case.matches)
    why = f"{matched} of {case.n_pred} boxes matched, IoU sum {total:.2f}"
    return Score(_share(total, case.n_pred), {**case.parts, "iou_sum": total}, why)


@reward("det_f1", task="detection", prepare=prepare_iou)
def det_f1(text: str, record: Record, *, iou_threshold: float = 0.25) -> Score | None:
    """``2TP / (2TP + FP + FN)``, a true positive being a matched box with IoU above 0.25, as in the 3D-RFT paper.

    Args:
        text: The completion.
        record: Its record.
        iou_threshold: The IoU above which a matched box counts as found.

    Returns:
        The score, or None for a record of another task.

    Raises:
        UsageError: On a threshold that is no share.

    >>> from rft3d_cli.examples import example_record
    >>> answer = '[{"label": "chair", "bbox_3d": [0.5, 0, 2, 1, 1, 1, 0, 0, 0]}]'
    >>> det_f1(answer, example_record("detection")).why
    '1 found, 0 wrong, 1 missed'
    """
    if not isinstance(iou_threshold, int | float) or not 0 <= iou_threshold < 1:
        raise UsageError(f"iou_threshold is {iou_threshold!r}", "it is a share from 0 to below 1")
    if not isinstance(record.target, DetectionTarget):
        return None
    case = case_of(text, record.target)
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


@reward("det_soft_f1", task="detection", prepare=prepare_overlaps)
def det_soft_f1(text: str, record: Record) -> Score | None:
    """``2 Σ matched IoU / (predictions + targets)``: F1 with overlap in place of hits, dense and free of order.

    Ours, not the paper's. Two guesses at one uncertain object can pay in expectation; ``overlaps`` in the parts counts
    pairs of predictions of one label that overlap by more than 0.25, to watch for it.

    Args:
        text: The completion.
        record: Its record.

    Returns:
        The score, or None for a record of another task.

    >>> from rft3d_cli.examples import example_record
    >>> answer = '[{"label": "chair", "bbox_3d": [0.5, 0, 2, 1, 1, 1, 0, 0, 0]}]'
    >>> round(det_soft_f1(answer, example_record("detection")).value, 3)
    0.222
    """
    if not isinstance(record.target, DetectionTarget):
        return None
    case = case_of(text, record.target)
    parts = {**case.parts, "overlaps": float(case.overlaps)}
    if (score := case.trivial()) is not None:
        return Score(score.value, parts, score.why)
    total = _iou_sum(case)
    why = f"{len(case.matches)} of {len(case.target)} objects matched, IoU sum {total:.2f}"
    return Score(_share(2 * total, case.n_pred + len(case.target)), {**parts, "iou_sum": total}, why)
