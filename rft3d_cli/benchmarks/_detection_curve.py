"""Detection by confidence: the precision-recall curve, average precision, and the threshold with the best F1.

Boxes are taken from the surest to the least sure. Each takes, in its record, the best target of its label that no surer
box took, and is right where their IoU exceeds the threshold: the rule of matching is the same for both scorers, which
differ in what they read. Boxes of equal confidence come and go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.benchmarks.result import Row, percent
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.matching import output_order_matches

POINTS = 200
"""Points of the curve that a document holds at most; the best threshold is looked for among all."""

DEFINITION = (
    "area under the precision-recall curve, precision made monotone, all points; mean over classes with targets"
)


@dataclass(frozen=True)
class Ranked:
    """The boxes of one record.

    Args:
        labels: Of the predicted boxes.
        confidence: Of the same, nats.
        wanted: Labels of the targets.
        iou: ``(predictions, targets)``.
    """

    labels: Sequence[str]
    confidence: Sequence[float]
    wanted: Sequence[str]
    iou: Floats

    def right(self, threshold: float) -> NDArray[np.bool_]:
        """``(predictions,)`` which boxes are right."""
        order = np.argsort(-np.asarray(self.confidence, dtype=np.float64), kind="stable")
        labels = [self.labels[i] for i in order]
        out = np.zeros(len(labels), dtype=np.bool_)
        pairs = output_order_matches(self.iou[order], labels, self.wanted, threshold)
        out[[order[pair.prediction] for pair in pairs]] = True
        return out


@dataclass(frozen=True)
class Curve:
    """Precision and recall at each confidence that some box has, from the highest.

    Args:
        threshold: ``(n,)`` the confidence; boxes that are at least as sure are kept.
        tp: ``(n,)`` right boxes among them.
        kept: ``(n,)`` how many they are.
        targets: How many boxes were to be found.
    """

    threshold: Floats
    tp: Floats
    kept: Floats
    targets: int

    @property
    def precision(self) -> Floats:
        """``(n,)`` shares."""
        return self.tp / self.kept

    @property
    def recall(self) -> Floats:
        """``(n,)`` shares; 0 where there is no target."""
        return self.tp / max(self.targets, 1)

    @property
    def f1(self) -> Floats:
        """``(n,)`` shares."""
        return 2 * self.tp / (self.kept + self.targets)

    def point(self, index: int) -> dict[str, Any]:
        """One point as the document has it."""
        return {
            "threshold": float(self.threshold[index]),
            "precision": percent(float(self.precision[index])),
            "recall": percent(float(self.recall[index])),
            "f1": percent(float(self.f1[index])),
            "n": int(self.kept[index]),
        }

    def average_precision(self) -> float:
        """The area under the curve, the precision at each recall being the best at that recall or a higher one.

        >>> values = np.array([3.0, 2.0, 1.0])
        >>> Curve(values, np.array([1.0, 1, 2]), np.array([1.0, 2, 3]), 2).average_precision()
        0.8333333333333333
        """
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        return float(best @ np.diff(self.recall, prepend=0.0))


def curve(confidence: Floats, right: NDArray[np.bool_], targets: int) -> Curve:
    """The curve of pooled boxes.

    Args:
        confidence: ``(n,)``.
        right: ``(n,)``.
        targets: How many boxes were to be found.

    >>> found = curve(np.array([-0.5, -0.1, -0.5]), np.array([True, True, False]), 2)
    >>> found.threshold.tolist(), found.precision.tolist(), found.recall.tolist()
    ([-0.1, -0.5], [1.0, 0.6666666666666666], [0.5, 1.0])
    """
    order = np.argsort(-confidence, kind="stable")
    values, hits = confidence[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if len(values) else np.array([], dtype=np.intp)
    return Curve(values[last], hits[last].astype(np.float64), (last + 1).astype(np.float64), targets)


def summary(ranked: Sequence[Ranked], thresholds: Sequence[float], classes: Sequence[str]) -> dict[str, Any]:
    """The document's part on confidence.

    Args:
        ranked: The boxes of all records.
        thresholds: IoUs; the curve is that of the first.
        classes: A set of classes to average over besides all.

    Returns:
        ``ap@…`` in percent, over all classes with targets and, in ``classes_20``, over those of ``classes``;
        ``per_class``; ``curve``, pooled over labels; ``best``, its point with the highest F1, the surest of equals.
    """
    confidence = np.array([value for one in ranked for value in one.confidence], dtype=np.float64)
    labels = np.array([label for one in ranked for label in one.labels], dtype=object)
    wanted = [label for one in ranked for label in one.wanted]
    names = sorted(set(wanted))
    per_class: dict[str, dict[str, float | None]] = {name: {} for name in names}
    pooled: Curve | None = None
    for threshold in thresholds:
        right = np.concatenate([np.zeros(0, dtype=np.bool_), *(one.right(threshold) for one in ranked)])
        pooled = pooled or curve(confidence, right, len(wanted))
        for name in names:
            mine = labels == name
            found = curve(confidence[mine], right[mine], wanted.count(name))
            per_class[name][f"ap@{threshold:g}"] = percent(found.average_precision())
    few = [name for name in names if name in classes]
    out: dict[str, Any] = {
        "definition": DEFINITION,
        "boxes": len(confidence),
        "classes": len(names),
        **_means(per_class, names, thresholds),
    }
    out["classes_20"] = {"classes": len(few), **_means(per_class, few, thresholds)}
    out |= {"per_class": per_class, "best": None, "curve": []}
    if pooled is not None and len(pooled.threshold):
        best = int(np.argmax(pooled.f1))
        count = len(pooled.threshold)
        shown = {*np.linspace(0, count - 1, min(POINTS - 1, count)).astype(int).tolist(), best}
        out["best"] = pooled.point(best)
        out["curve"] = [pooled.point(index) for index in sorted(shown)]
    return out


def _means(
    per_class: dict[str, dict[str, float | None]], names: Sequence[str], thresholds: Sequence[float]
) -> dict[str, float | None]:
    keys = [f"ap@{threshold:g}" for threshold in thresholds]
    if not names:
        return dict.fromkeys(keys)
    return {key: sum(per_class[name][key] or 0.0 for name in names) / len(names) for key in keys}


def rows(document: dict[str, Any], n: int) -> list[Row]:
    """The table's part on confidence.

    Args:
        document: From :func:`summary`.
        n: How many records it rests on.
    """
    out = [Row("classes_all", key, n, document[key]) for key in document if key.startswith("ap@")]
    if document["best"] is not None:
        out.append(Row(f"confidence ≥ {document['best']['threshold']:.3f}", "best f1", n, document["best"]["f1"]))
    return out
