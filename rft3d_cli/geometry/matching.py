"""Which prediction belongs to which target, and the counts that follow.

Two rules. :func:`optimal_matches` finds the best one-to-one pairing and does not care in which order boxes are listed;
rewards use it. :func:`output_order_matches` is the rule of VG-LLM's scorer, where an earlier prediction may take the
target of a later one; it is for scores that are compared with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

DECIMALS = 12
"""IoU is rounded to this before it is compared: boxes with two decimals do hit 0.25 and 0.5 exactly."""


class Match(NamedTuple):
    """A prediction and the target that it was given, by index."""

    prediction: int
    target: int
    iou: float


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives; they add up over records.

    A quotient without a denominator is 0. So is the F1 of three zeros, although an empty answer to an empty target is
    right: a caller who scores single records gives those 1.

    >>> Counts(3, 1, 2) + Counts(1, 0, 0)
    Counts(tp=4, fp=1, fn=2)
    >>> Counts(3, 1, 2).f1
    0.6666666666666666
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """``tp / (tp + fp)``."""
        return self.tp / (self.tp + self.fp) if self.tp else 0.0

    @property
    def recall(self) -> float:
        """``tp / (tp + fn)``."""
        return self.tp / (self.tp + self.fn) if self.tp else 0.0

    @property
    def f1(self) -> float:
        """``2 tp / (2 tp + fp + fn)``."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp else 0.0


def optimal_matches(
    iou: ArrayLike,
    predicted_labels: Sequence[str],
    target_labels: Sequence[str],
    threshold: float | None = None,
) -> list[Match]:
    """The best one-to-one matching within each label, whatever the order of the boxes.

    Args:
        iou: ``(N, M)`` predictions by targets. Rounded to 12 decimals first; NaN counts as 0.
        predicted_labels: ``N`` labels, compared exactly.
        target_labels: ``M`` labels.
        threshold: If given, the number of pairs with IoU above it is maximised, then the sum of their IoU, and only
            such pairs count. Otherwise the sum of IoU is maximised over pairs with IoU above 0.

    Returns:
        The matched pairs, by prediction.

    Raises:
        ValueError: If ``iou`` and the labels do not fit, or on a negative threshold.

    >>> optimal_matches([[0.6, 0.5], [0.5, 0.0]], ["chair", "chair"], ["chair", "chair"], threshold=0.25)
    [Match(prediction=0, target=1, iou=0.5), Match(prediction=1, target=0, iou=0.5)]
    """
    from scipy.optimize import linear_sum_assignment

    overlaps = _overlaps(iou, predicted_labels, target_labels, threshold or 0.0)
    gain = np.zeros((len(predicted_labels), len(target_labels)))
    # Pairs that do not count gain nothing, so one assignment over all labels equals one for each. A step larger than
    # any sum of IoU makes the number of pairs come first.
    step = 0.0 if threshold is None else min(gain.shape) + 1.0
    for pair, value in overlaps.items():
        gain[pair] = value + step
    predictions, targets = linear_sum_assignment(gain, maximize=True)
    pairs = zip(predictions.tolist(), targets.tolist(), strict=True)
    return [Match(*pair, overlaps[pair]) for pair in pairs if pair in overlaps]


def output_order_matches(
    iou: ArrayLike, predicted_labels: Sequence[str], target_labels: Sequence[str], threshold: float
) -> list[Match]:
    """True positives by VG-LLM's rule, which depends on the order of the predictions.

    In output order, each prediction looks at the unused targets of its label and takes the one with the largest IoU
    if that is above the threshold.

    Args:
        iou: ``(N, M)`` predictions by targets. Rounded to 12 decimals first; NaN counts as 0.
        predicted_labels: ``N`` labels, compared exactly.
        target_labels: ``M`` labels.
        threshold: IoU that a true positive must exceed.

    Returns:
        The matched pairs, by prediction.

    Raises:
        ValueError: If ``iou`` and the labels do not fit, or on a negative threshold.

    >>> output_order_matches([[0.6, 0.5], [0.5, 0.0]], ["chair", "chair"], ["chair", "chair"], 0.25)
    [Match(prediction=0, target=0, iou=0.6)]
    """
    options: dict[int, list[tuple[float, int]]] = {}
    for (prediction, target), value in _overlaps(iou, predicted_labels, target_labels, threshold).items():
        options.setdefault(prediction, []).append((value, -target))
    used: set[int] = set()
    matches = []
    for prediction, candidates in options.items():
        # Among equals the first target wins.
        value, negative = max((c for c in candidates if -c[1] not in used), default=(0.0, 0))
        if value > 0:
            matches.append(Match(prediction, -negative, value))
            used.add(-negative)
    return matches


def _overlaps(
    iou: ArrayLike, predicted_labels: Sequence[str], target_labels: Sequence[str], threshold: float
) -> dict[tuple[int, int], float]:
    """Rounded IoU of the pairs with equal labels that exceed the threshold, row by row."""
    shape = len(predicted_labels), len(target_labels)
    array = np.asarray(iou, dtype=np.float64)
    if array.shape != shape and (array.size or 0 not in shape):
        raise ValueError(f"iou of shape {array.shape} for {shape[0]} predictions and {shape[1]} targets")
    if not threshold >= 0:
        raise ValueError(f"an IoU threshold must not be negative, it is {threshold}")
    rounded = array.round(DECIMALS).ravel()
    hits = np.flatnonzero(rounded > threshold)
    places = (divmod(hit, shape[1]) for hit in hits.tolist())
    return {
        (i, j): value
        for (i, j), value in zip(places, rounded[hits].tolist(), strict=True)
        if predicted_labels[i] == target_labels[j]
    }
