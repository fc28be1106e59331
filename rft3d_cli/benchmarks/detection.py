"""ScanNet video detection: precision, recall and F1 at IoU 0.25 and 0.5, by class, by view and by confidence.

The ``official`` scorer is VG-LLM's: one object a line, read as a Python literal; within each label, predictions in
output order take the best unused target, and count as found above 0.25; lines that do not read cost nothing; means
over 8, 20 and 31 classes, of which the 31 name ``lamp`` twice and ``towl``, which no target has. The ``robust`` one
reads objects wherever they stand, matches free of order, counts what cannot be used as wrong, and takes the 30 classes
that were meant.

Views and confidence are ours and follow either scorer's reading; see :mod:`rft3d_cli.benchmarks._detection_views` and
:mod:`rft3d_cli.benchmarks._detection_curve`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rft3d_cli.benchmarks._detection_curve import Ranked
from rft3d_cli.benchmarks._detection_curve import rows as curve_rows
from rft3d_cli.benchmarks._detection_curve import summary as curve_summary
from rft3d_cli.benchmarks._detection_reading import UNLABELLED, Reading, read, with_confidence
from rft3d_cli.benchmarks._detection_table import (
    CLASSES_8,
    CLASSES_20,
    CLASSES_30,
    CLASSES_31,
    THRESHOLDS,
    Scored,
    Table,
)
from rft3d_cli.benchmarks._detection_views import record_views
from rft3d_cli.benchmarks.result import Result, check_options, clean, header
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.iou import paired_iou
from rft3d_cli.geometry.matching import Counts, optimal_matches, output_order_matches
from rft3d_cli.records import DetectionTarget, Record

__all__ = ["CLASSES_8", "CLASSES_20", "CLASSES_30", "CLASSES_31", "THRESHOLD", "UNLABELLED", "score"]

THRESHOLD = THRESHOLDS[0]


def score(
    records: Sequence[Record],
    predictions: Mapping[str, str],
    *,
    scorer: str = "official",
    answer_style: str = "direct",
    seed: int = 0,
    intervals: bool = True,
    visibility: bool = True,
    confidence: Mapping[str, Sequence[float]] | None = None,
    min_confidence: float | None = None,
) -> Result:
    r"""Score detection predictions.

    Args:
        records: Detection records.
        predictions: Record id → text.
        scorer: ``official`` or ``robust``.
        answer_style: ``think`` takes the answer out of its tags before the official reading; ``robust`` always does.
        seed: Of the intervals.
        intervals: Whether to resample scenes for them.
        visibility: Whether to tell boxes apart by view, which takes most of the time.
        confidence: Record id → one number for each ``{…}`` object of the text, in order, higher where surer.
        min_confidence: Boxes that are less sure are left out before scoring.

    Returns:
        In the document, at IoU 0.25, ``classes_8``, ``classes_20``, ``classes_31`` (30 under ``robust``) and
        ``classes_all`` (every label of the targets) hold the unweighted means of ``precision``, ``recall`` and ``f1``;
        ``micro`` the same of pooled counts over all labels; ``per_class`` each class's counts. ``at_0.5`` holds all of
        these at IoU 0.5, matched anew. ``frames`` holds them by the number of frames where records differ in it.
        ``other_labels`` counts predictions with labels that occur nowhere else; ``mean_iou`` is the IoU of each
        target's box under the best one-to-one matching by label, 0 where it has none.

        ``visibility`` has, for targets in view in the ``first_frame``, in ``later_frames`` only, ``occluded`` and
        ``out_of_view``, their number ``n``, ``recall@0.25`` and ``recall@0.5``, and of the wrong boxes those that lie
        so: ``wrong@…`` and, of all wrong boxes, ``wrong_share@…``. ``rule`` counts records by how it is known what is
        hidden. ``unknown`` takes what has no place: records without cameras, boxes that cannot be computed with. All of
        it is empty where ``visibility`` was not asked for.

        With ``confidence``, ``confidence`` holds ``ap@0.25``, ``ap@0.5``, ``curve`` and ``best``, of all boxes whatever
        ``min_confidence`` leaves out.

        A record's score in the details is its F1 at 0.25, 1 where target and answer are empty.

    Raises:
        UsageError: On an unknown scorer or answer style, or a least confidence without confidences.
        DataError: On a record that is no detection record, confidences that are not as many as the boxes of a text, or
            a ``meta.visible_frames`` that does not fit the target.

    A right answer: two classes are found, and the mean over 20 counts the 18 that no target has as 0.

    >>> from rft3d_cli.answers.target import target_answer
    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("detection")
    >>> document = score([record], {record.id: target_answer(record)}).document
    >>> document["micro"]["f1"], document["classes_all"]["f1"], document["classes_20"]["f1"]
    (100.0, 100.0, 10.0)

    The same on one line; the official scorer wants an object a line and drops what does not read:

    >>> text = target_answer(record).replace("\n", "")
    >>> for scorer in ("official", "robust"):
    ...     document = score([record], {record.id: text}, scorer=scorer).document
    ...     print(scorer, document["micro"]["f1"], "dropped:", document["dropped"])
    official 0.0 dropped: 1
    robust 100.0 dropped: 0
    """
    check_options(scorer, answer_style)
    if min_confidence is not None and confidence is None:
        raise UsageError("a least confidence needs predictions with confidences")
    readings = [_read(record, predictions, scorer, answer_style, confidence) for record in records]
    wanted = [_target_labels(record, scorer) for record in records]
    overlaps = _overlaps(records, wanted, readings)
    curve = None
    if confidence is not None:
        ranked = [
            Ranked(reading.labels, reading.confidence or [], names, iou)
            for names, reading, iou in zip(wanted, readings, overlaps, strict=True)
        ]
        curve = {"min_confidence": min_confidence, **curve_summary(ranked, THRESHOLDS, CLASSES_20)}
    if min_confidence is not None:
        overlaps = [iou[reading.places(min_confidence)] for reading, iou in zip(readings, overlaps, strict=True)]
        readings = [reading.at_least(min_confidence) for reading in readings]
    match = output_order_matches if scorer == "official" else optimal_matches
    scored: list[Scored] = []
    details: list[dict[str, Any]] = []
    for record, names, reading, iou in zip(records, wanted, readings, overlaps, strict=True):
        matches = [match(iou, reading.labels, names, threshold) for threshold in THRESHOLDS]
        best = sum(pair.iou for pair in optimal_matches(iou, reading.labels, names))
        # Only where wrong boxes lie is asked.
        right = set.intersection(*({pair.prediction for pair in pairs} for pairs in matches))
        boxes = [None if place in right else box for place, box in enumerate(reading.boxes)]
        views = record_views(record, boxes) if visibility else None
        one = Scored(reading.labels, names, matches, best, views)
        scored.append(one)
        details.append(_detail(record, reading, one))
    unreadable = [
        record.id
        for record, reading in zip(records, readings, strict=True)
        if record.id in predictions and not reading.readable
    ]
    table = Table(records, scored, scorer, seed, intervals)
    options = {"scorer": scorer, "answer_style": answer_style, "iou_threshold": THRESHOLD}
    document = {
        **header("detection", records, predictions, details, unreadable, options),
        **table.summary(),
        "dropped": sum(reading.dropped for reading in readings),
        "invalid": sum(box is None for reading in readings for box in reading.boxes),
        "intervals": table.bounds,
        "seed": seed,
    }
    rows = table.rows()
    if curve is not None:
        document["confidence"] = {**curve, "left_out": sum(reading.unsure for reading in readings)}
        rows += curve_rows(curve, len(records))
    return Result(clean(document), rows, details)


def _read(
    record: Record,
    predictions: Mapping[str, str],
    scorer: str,
    answer_style: str,
    confidence: Mapping[str, Sequence[float]] | None,
) -> Reading:
    if not isinstance(record.target, DetectionTarget):
        raise DataError(f"record {record.id} is a {record.task} record", "detection needs detection records")
    text = predictions.get(record.id)
    if text is None:
        return Reading(readable=False, why="no prediction")
    reading = read(text, scorer, answer_style)
    if confidence is None:
        return reading
    return with_confidence(reading, record.id, text, confidence.get(record.id, ()), scorer, answer_style)


def _target_labels(record: Record, scorer: str) -> list[str]:
    boxes = record.target.boxes if isinstance(record.target, DetectionTarget) else []
    return [box.label if scorer == "official" else box.label.strip() for box in boxes]


def _overlaps(records: Sequence[Record], wanted: Sequence[Sequence[str]], readings: Sequence[Reading]) -> list[Floats]:
    """For each record the IoU ``(predictions, targets)``, computed within labels, all records in one call."""
    tables: list[Floats] = []
    places: list[tuple[int, int, int]] = []
    left: list[Any] = []
    right: list[Any] = []
    for index, (record, names, reading) in enumerate(zip(records, wanted, readings, strict=True)):
        by_label: dict[str, list[int]] = {}
        targets = record.target.boxes if isinstance(record.target, DetectionTarget) else []
        for j, name in enumerate(names):
            by_label.setdefault(name, []).append(j)
        tables.append(np.zeros((len(reading.labels), len(targets))))
        for i, (label, box) in enumerate(zip(reading.labels, reading.boxes, strict=True)):
            for j in by_label.get(label, ()) if box is not None else ():
                places.append((index, i, j))
                left.append(box)
                right.append(targets[j].bbox_3d)
    if places:
        values = np.nan_to_num(paired_iou(np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)))
        for (index, i, j), value in zip(places, values.tolist(), strict=True):
            tables[index][i, j] = value
    return tables


def _detail(record: Record, reading: Reading, one: Scored) -> dict[str, Any]:
    total = sum(one.counts(0).values(), Counts(0, 0, 0))
    empty = total.tp + total.fp + total.fn == 0
    value = float(reading.readable) if empty else total.f1
    answer: list[dict[str, Any]] = [
        {"label": label, "bbox_3d": None if box is None else box.tolist()}
        for label, box in zip(reading.labels, reading.boxes, strict=True)
    ]
    parts: dict[str, Any] = {"tp": total.tp, "fp": total.fp, "fn": total.fn}
    parts |= {"precision": total.precision, "recall": total.recall}
    parts |= {"tp@0.5": len(one.matches[1]), "iou_sum": float(one.iou_sum), "dropped": reading.dropped}
    parts["per_class"] = {label: [count.tp, count.fp, count.fn] for label, count in one.counts(0).items()}
    said = f"{total.tp} found, {total.fp} wrong, {total.fn} missed"
    if reading.confidence is not None:
        for item, sure in zip(answer, reading.confidence, strict=True):
            item["confidence"] = sure if np.isfinite(sure) else None
        if reading.unsure:
            parts["left_out"] = reading.unsure
            said += f", {reading.unsure} left out"
    why = f"{said}; {reading.why}" if reading.why and reading.readable else reading.why or said
    return {"id": record.id, "score": value, "parts": parts, "answer": answer if reading.readable else None, "why": why}
