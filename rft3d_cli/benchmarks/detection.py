"""ScanNet video detection: precision, recall and F1 at IoU 0.25, by class and over sets of classes.

The ``official`` scorer is VG-LLM's: one object a line, read as a Python literal; within each label, predictions in
output order take the best unused target, and count as found above 0.25; lines that do not read cost nothing; means
over 8, 20 and 31 classes, of which the 31 name ``lamp`` twice and ``towl``, which no target has. The ``robust`` one
reads objects wherever they stand, matches free of order, counts what cannot be used as wrong, and takes the 30 classes
that were meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rft3d_cli.answers import read_boxes
from rft3d_cli.answers.literal import read_literal
from rft3d_cli.benchmarks.official import as_box, strip_fence
from rft3d_cli.benchmarks.result import (
    Result,
    Row,
    check_options,
    clean,
    header,
    interval,
    official_text,
    percent,
    ratio,
    scene_draws,
    scene_index,
    sum_by_scene,
    writable,
)
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.iou import paired_iou
from rft3d_cli.geometry.matching import Counts, optimal_matches, output_order_matches
from rft3d_cli.records import DetectionTarget, Record

THRESHOLD = 0.25

_NAMES_20 = (
    "chair pillow cabinet table lamp couch desk stand bed backpack bathtub ottoman dresser bin toilet refrigerator "
    "stove microwave monitor computer"
)
_NAMES_MORE = "window shelf curtain plant stairs picture book bottle lamp towl sink"
CLASSES_8 = ("chair", "cabinet", "table", "bin", "couch", "bed", "bathtub", "toilet")
CLASSES_20 = tuple(_NAMES_20.split())
CLASSES_31 = (*CLASSES_20, *_NAMES_MORE.split())
"""VG-LLM's list as it is."""

CLASSES_30 = tuple(dict.fromkeys("towel" if name == "towl" else name for name in CLASSES_31))
"""The classes that were meant: each once, ``towel`` spelt as the data spells it."""

UNLABELLED = "(no label)"
"""Where the robust scorer counts objects whose label cannot be read."""


@dataclass
class _Reading:
    """What one prediction says.

    Args:
        labels: A label a box, in output order.
        boxes: The box, or None where none can be computed with: it is never found.
        dropped: Objects that the scorer does not count at all.
        readable: There was a list or an object.
        why: Where something was lost, the first reason.
    """

    labels: list[str] = field(default_factory=list)
    boxes: list[Floats | None] = field(default_factory=list)
    dropped: int = 0
    readable: bool = True
    why: str = ""


def score(
    records: Sequence[Record],
    predictions: Mapping[str, str],
    *,
    scorer: str = "official",
    answer_style: str = "direct",
    seed: int = 0,
) -> Result:
    r"""Score detection predictions.

    Args:
        records: Detection records.
        predictions: Record id → text.
        scorer: ``official`` or ``robust``.
        answer_style: ``think`` takes the answer out of its tags before the official reading; ``robust`` always does.
        seed: Of the intervals.

    Returns:
        In the document, ``classes_8``, ``classes_20``, ``classes_31`` (30 under ``robust``) and ``classes_all`` (every
        label of the targets) hold the unweighted means of ``precision``, ``recall`` and ``f1``; ``micro`` the same of
        pooled counts over all labels; ``per_class`` each class's counts; ``other_labels`` predictions with labels
        that occur nowhere else; ``mean_iou`` the IoU of each target's box under the best one-to-one matching by
        label, 0 where it has none. A record's score in the details is its F1, 1 where target and answer are empty.

    Raises:
        UsageError: On an unknown scorer or answer style.
        DataError: On a record that is no detection record.

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
    readings = [_read(record, predictions, scorer, answer_style) for record in records]
    wanted = [_target_labels(record, scorer) for record in records]
    overlaps = _overlaps(records, wanted, readings)
    counts: list[dict[str, Counts]] = []
    details: list[dict[str, Any]] = []
    iou_sums = np.zeros((len(records), 2))
    match = output_order_matches if scorer == "official" else optimal_matches
    for index, (record, names, reading, iou) in enumerate(zip(records, wanted, readings, overlaps, strict=True)):
        found = [names[pair.target] for pair in match(iou, reading.labels, names, THRESHOLD)]
        iou_sums[index] = sum(pair.iou for pair in optimal_matches(iou, reading.labels, names)), len(names)
        counts.append(_count(reading.labels, names, found))
        details.append(_detail(record, reading, sum(counts[-1].values(), Counts(0, 0, 0)), iou_sums[index, 0]))
    unreadable = [
        record.id
        for record, reading in zip(records, readings, strict=True)
        if record.id in predictions and not reading.readable
    ]
    table = _Table(records, {name for names in wanted for name in names}, counts, iou_sums, scorer, seed)
    document = {
        **header(
            "detection",
            records,
            predictions,
            details,
            unreadable,
            {"scorer": scorer, "answer_style": answer_style, "iou_threshold": THRESHOLD},
        ),
        **table.summary(),
        "dropped": sum(reading.dropped for reading in readings),
        "invalid": sum(box is None for reading in readings for box in reading.boxes),
        "intervals": table.intervals(),
        "seed": seed,
    }
    return Result(clean(document), table.rows(), details)


def _read(record: Record, predictions: Mapping[str, str], scorer: str, answer_style: str) -> _Reading:
    if not isinstance(record.target, DetectionTarget):
        raise DataError(f"record {record.id} is a {record.task} record", "detection needs detection records")
    text = predictions.get(record.id)
    if text is None:
        return _Reading(readable=False, why="no prediction")
    return _read_robust(text) if scorer == "robust" else _read_official(official_text(text, answer_style))


def _read_official(text: str) -> _Reading:
    """Boxes by the public scorer's reading: each line by itself one Python dict."""
    out = _Reading()
    body = strip_fence(text)
    lost = ""
    for line in body.split("\n"):
        line = line.strip().strip(",")
        if "bbox_3d" not in line and "label" not in line:
            continue
        try:
            found = read_literal(line)
            box, label = as_box(found["bbox_3d"]), found["label"]
            hash(label)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            out.dropped += 1
            lost = lost or f"a line does not read: {_in_words(error)}"
            continue
        out.labels.append(writable(label) if isinstance(label, str) else repr(label))
        out.boxes.append(box)
    # The public scorer knows no unreadable answers; ours to tell "nothing there" from "nothing read".
    out.readable = bool(out.labels) or (not out.dropped and "".join(body.split()) == "[]")
    out.why = lost or ("" if out.readable else "no line with a box")
    return out


def _in_words(error: Exception) -> str:
    """Why a line is no box, without the names of Python's insides."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    if isinstance(error, TypeError):
        return "it is not one object with a label and a box"
    return "its box is not nine numbers" if "shape" in str(error) else str(error)


def _read_robust(text: str) -> _Reading:
    """Boxes by the tolerant reader; what it cannot use stays as a box that nothing matches."""
    answer = read_boxes(text)
    lost = [item.label or UNLABELLED for item in answer.dropped]
    why = answer.dropped[0].reason if answer.dropped else answer.why
    return _Reading([*answer.boxes.labels, *lost], [*answer.boxes.boxes, *[None] * len(lost)], 0, answer.found, why)


def _target_labels(record: Record, scorer: str) -> list[str]:
    boxes = record.target.boxes if isinstance(record.target, DetectionTarget) else []
    return [box.label if scorer == "official" else box.label.strip() for box in boxes]


def _overlaps(records: Sequence[Record], wanted: Sequence[Sequence[str]], readings: Sequence[_Reading]) -> list[Floats]:
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


def _count(predicted: Iterable[str], targets: Iterable[str], found: Iterable[str]) -> dict[str, Counts]:
    """Counts by label from the labels of predictions, of targets, and of matched pairs."""
    out: dict[str, list[int]] = {}
    for label in predicted:
        out.setdefault(label, [0, 0, 0])[1] += 1
    for label in targets:
        out.setdefault(label, [0, 0, 0])[2] += 1
    for label in found:
        row = out[label]
        row[0], row[1], row[2] = row[0] + 1, row[1] - 1, row[2] - 1
    return {label: Counts(*row) for label, row in out.items()}


def _detail(record: Record, reading: _Reading, total: Counts, iou_sum: float) -> dict[str, Any]:
    empty = total.tp + total.fp + total.fn == 0
    value = float(reading.readable) if empty else total.f1
    answer = [
        {"label": label, "bbox_3d": None if box is None else box.tolist()}
        for label, box in zip(reading.labels, reading.boxes, strict=True)
    ]
    parts = {"tp": total.tp, "fp": total.fp, "fn": total.fn, "precision": total.precision, "recall": total.recall}
    parts |= {"iou_sum": float(iou_sum), "dropped": reading.dropped}
    said = f"{total.tp} found, {total.fp} wrong, {total.fn} missed"
    why = f"{said}; {reading.why}" if reading.why and reading.readable else reading.why or said
    return {"id": record.id, "score": value, "parts": parts, "answer": answer if reading.readable else None, "why": why}


class _Table:
    """Counts by scene and class, and everything that is averaged from them."""

    def __init__(
        self,
        records: Sequence[Record],
        in_targets: set[str],
        counts: Sequence[dict[str, Counts]],
        iou_sums: Floats,
        scorer: str,
        seed: int,
    ) -> None:
        self.n = len(records)
        last = CLASSES_31 if scorer == "official" else CLASSES_30
        self.sets = {
            "classes_8": CLASSES_8,
            "classes_20": CLASSES_20,
            "classes_31": last,
            "classes_all": tuple(sorted(in_targets)),
        }
        self.columns = sorted({*last, *in_targets})
        place = {label: index for index, label in enumerate(self.columns)}
        # One more column pools every label that is in no set; it enters the pooled counts only.
        cells = np.zeros((self.n, len(self.columns) + 1, 3))
        others: set[str] = set()
        for row, record_counts in enumerate(counts):
            for label, count in record_counts.items():
                cells[row, place.get(label, -1)] += (count.tp, count.fp, count.fn)
                if label not in place:
                    others.add(label)
        self.other_labels = {"labels": len(others), "fp": int(cells[:, -1, 1].sum())}
        self.total = cells.sum(axis=0)
        self.iou_total = iou_sums.sum(axis=0)
        self.values = self._averages(self.total, self.iou_total)
        self.resampled: dict[str, Floats] = {}
        scenes, n_scenes = scene_index(records)
        if n_scenes > 1:
            draws = scene_draws(n_scenes, seed)
            by_scene = sum_by_scene(cells, scenes, n_scenes).reshape(n_scenes, -1)
            drawn = (draws @ by_scene).reshape(-1, *cells.shape[1:])
            self.resampled = self._averages(drawn, draws @ sum_by_scene(iou_sums, scenes, n_scenes))

    def _averages(self, cells: Floats, iou: Floats) -> dict[str, Floats]:
        """From counts ``(…, classes + 1, 3)`` every number of the result by its dotted name."""
        place = {label: index for index, label in enumerate(self.columns)}
        by_class = _prf(cells)
        out: dict[str, Floats] = {}
        for name, labels in self.sets.items():
            chosen = [place[label] for label in labels]
            for metric, values in by_class.items():
                mean = values[..., chosen].mean(axis=-1) if chosen else np.full(values.shape[:-1], np.nan)
                out[f"{name}.{metric}"] = mean
        out |= {f"micro.{metric}": values for metric, values in _prf(cells.sum(axis=-2)).items()}
        out["mean_iou"] = ratio(iou[..., 0], iou[..., 1])
        return out

    def summary(self) -> dict[str, Any]:
        """The document's part: sets of classes, pooled counts, classes."""
        out: dict[str, Any] = {name: {"classes": len(labels)} for name, labels in self.sets.items()}
        tp, fp, fn = (int(x) for x in self.total.sum(axis=0))
        out["micro"] = {"tp": tp, "fp": fp, "fn": fn}
        for key, value in self.values.items():
            name, _, metric = key.partition(".")
            if metric:
                out[name][metric] = percent(float(value))
            else:
                out[name] = percent(float(value))
        by_class = {metric: values.tolist() for metric, values in _prf(self.total).items()}
        out["per_class"] = {
            label: {
                **dict(zip(("tp", "fp", "fn"), (int(x) for x in self.total[i]), strict=True)),
                **{metric: percent(values[i]) for metric, values in by_class.items()},
            }
            for i, label in enumerate(self.columns)
        }
        out["other_labels"] = self.other_labels
        return out

    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """The 95 % interval of every averaged number by its dotted name."""
        return {key: interval(self.resampled[key]) if key in self.resampled else None for key in self.values}

    def rows(self) -> list[Row]:
        """The table: each set of classes, the pooled counts, the mean IoU."""
        bounds = self.intervals()
        out = []
        for key, value in self.values.items():
            name, _, metric = key.partition(".")
            out.append(Row(name, metric or "IoU", self.n, percent(float(value)), bounds[key]))
        return out


def _prf(cells: Floats) -> dict[str, Floats]:
    """Precision, recall and F1 of counts ``(…, 3)``; 0 where undefined, as the public scorer has it."""
    tp, fp, fn = cells[..., 0], cells[..., 1], cells[..., 2]
    return {
        "precision": ratio(tp, tp + fp, 0.0),
        "recall": ratio(tp, tp + fn, 0.0),
        "f1": ratio(2 * tp, 2 * tp + fp + fn, 0.0),
    }
