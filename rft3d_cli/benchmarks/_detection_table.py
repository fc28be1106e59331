"""The numbers of a detection result: counts by scene, class and view, their averages and intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rft3d_cli.benchmarks._detection_views import OUT, RULES, UNKNOWN, VIEWS, Views
from rft3d_cli.benchmarks.result import (
    Row,
    interval,
    percent,
    ratio,
    scene_draws,
    scene_index,
    sum_by_scene,
)
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.matching import Counts, Match
from rft3d_cli.records import Clip, Record

THRESHOLDS = (0.25, 0.5)

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

_SEEN = (*VIEWS, UNKNOWN)
_TARGETS, _FOUND, _WRONG = 0, 1, 1 + len(THRESHOLDS)
"""Where the counts of a view stand: its targets, then at each threshold those found, then the wrong boxes there."""

_WIDTH = _WRONG + len(THRESHOLDS)
_FEW = 4
"""Numbers of frames that the table has a row for."""


@dataclass
class Scored:
    """One record, matched.

    Args:
        labels: Of the predicted boxes.
        wanted: Of the targets.
        matches: At each of :data:`THRESHOLDS`.
        iou_sum: Of the best one-to-one matching.
        views: Where the boxes lie, if that was asked.
    """

    labels: Sequence[str]
    wanted: Sequence[str]
    matches: Sequence[Sequence[Match]]
    iou_sum: float
    views: Views | None

    def counts(self, level: int) -> dict[str, Counts]:
        """Counts by label, at one of the thresholds."""
        return count(self.labels, self.wanted, [self.wanted[pair.target] for pair in self.matches[level]])

    def by_view(self) -> Floats:
        """``(views, 5)``: targets, those found and wrong boxes at each threshold, of each of :data:`_SEEN`."""
        out = np.zeros((len(_SEEN), _WIDTH))
        if self.views is None:
            return out
        for name in self.views.targets:
            out[_SEEN.index(name), _TARGETS] += 1
        for level, pairs in enumerate(self.matches):
            for pair in pairs:
                out[_SEEN.index(self.views.targets[pair.target]), _FOUND + level] += 1
            right = {pair.prediction for pair in pairs}
            for place, name in enumerate(self.views.predictions):
                out[_SEEN.index(name), _WRONG + level] += place not in right
        return out


def count(predicted: Iterable[str], targets: Iterable[str], found: Iterable[str]) -> dict[str, Counts]:
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


def frames_of(record: Record) -> str:
    """How many frames a record's clip has, in words for a key: ``default`` where the record leaves it open."""
    number = record.video.frames if isinstance(record.video, Clip) else len(record.video.frames)
    return "default" if number is None else str(number)


class Table:
    """Counts by record, and everything that is averaged from them.

    Args:
        records: The records.
        scored: The same, matched.
        scorer: Whose list of 31 classes is meant.
        seed: Of the intervals.
        resample: Whether to make intervals.
    """

    def __init__(
        self, records: Sequence[Record], scored: Sequence[Scored], scorer: str, seed: int, resample: bool
    ) -> None:
        self.n = len(records)
        in_targets = {name for one in scored for name in one.wanted}
        last = CLASSES_31 if scorer == "official" else CLASSES_30
        self.sets = {
            "classes_8": CLASSES_8,
            "classes_20": CLASSES_20,
            "classes_31": last,
            "classes_all": tuple(sorted(in_targets)),
        }
        self.columns = sorted({*last, *in_targets})
        self.place = {label: index for index, label in enumerate(self.columns)}
        cells = self._cells(scored)
        self.total = cells.sum(axis=0)
        views = np.array([one.by_view() for one in scored]).reshape(-1, len(_SEEN), _WIDTH)
        self.view_total = views.sum(axis=0)
        known = [one.views.rule for one in scored if one.views is not None]
        self.rules = {rule: known.count(rule) for rule in RULES} if known else {}
        frames = [frames_of(record) for record in records]
        self.groups = {name: frames.count(name) for name in dict.fromkeys(frames)}

        self.resample = resample
        self.scenes, self.n_scenes = scene_index(records)
        self.draws = scene_draws(self.n_scenes, seed) if resample and self.n_scenes > 1 else None
        self.values: dict[str, float] = {}
        self.bounds: dict[str, tuple[float, float] | None] = {}
        self._put(cells, self._averages)
        iou = np.array([(one.iou_sum, len(one.wanted)) for one in scored]).reshape(-1, 2)
        self._put(iou, lambda sums: {"mean_iou": ratio(sums[..., 0], sums[..., 1])})
        if self.rules:
            self._put(views, _view_shares)
        if len(self.groups) > 1:
            for name in self.groups:
                mine = np.array([other == name for other in frames])
                found = cells * mine[:, None, None, None]
                self._put(found, self._averages, f"frames.{name}.")

    def _cells(self, scored: Sequence[Scored]) -> Floats:
        """Counts ``(records, thresholds, classes + 1, 3)``."""
        # One more column pools every label that is in no set; it enters the pooled counts only.
        cells = np.zeros((self.n, len(THRESHOLDS), len(self.columns) + 1, 3))
        others: set[str] = set()
        for row, one in enumerate(scored):
            for level in range(len(THRESHOLDS)):
                for label, found in one.counts(level).items():
                    cells[row, level, self.place.get(label, -1)] += (found.tp, found.fp, found.fn)
                    if label not in self.place:
                        others.add(label)
        self.other_labels = {"labels": len(others), "fp": int(cells[:, 0, -1, 1].sum())}
        return cells

    def _put(self, values: Floats, make: Callable[[Floats], dict[str, Floats]], prefix: str = "") -> None:
        """Keep what ``make`` computes from sums over records ``(records, …)``, and its intervals."""
        found = make(values.sum(axis=0))
        drawn: dict[str, Floats] = {}
        if self.draws is not None:
            by_scene = sum_by_scene(values, self.scenes, self.n_scenes).reshape(self.n_scenes, -1)
            drawn = make((self.draws @ by_scene).reshape(-1, *values.shape[1:]))
        for key, value in found.items():
            self.values[prefix + key] = float(value)
            if self.resample:
                self.bounds[prefix + key] = interval(drawn[key]) if key in drawn else None

    def _averages(self, cells: Floats) -> dict[str, Floats]:
        """From counts ``(…, thresholds, classes + 1, 3)`` the means over sets of classes, by dotted name."""
        out: dict[str, Floats] = {}
        for level, prefix in enumerate(_PREFIXES):
            counts = cells[..., level, :, :]
            by_class = _prf(counts)
            for name, labels in self.sets.items():
                chosen = [self.place[label] for label in labels]
                for metric, values in by_class.items():
                    mean = values[..., chosen].mean(axis=-1) if chosen else np.full(values.shape[:-1], np.nan)
                    out[f"{prefix}{name}.{metric}"] = mean
            out |= {f"{prefix}micro.{metric}": values for metric, values in _prf(counts.sum(axis=-2)).items()}
        return out

    def summary(self) -> dict[str, Any]:
        """The document's part: sets of classes, pooled counts, classes, frames and views."""
        out: dict[str, Any] = {**self._at("", 0), "mean_iou": percent(self.values["mean_iou"])}
        out["other_labels"] = self.other_labels
        out["at_0.5"] = self._at("at_0.5.", 1)
        out["frames"] = {}
        if len(self.groups) > 1:
            for name, n in self.groups.items():
                parts = [self._sets(f"frames.{name}.{prefix}") for prefix in _PREFIXES]
                out["frames"][name] = {"n": n, **parts[0], "at_0.5": parts[1]}
        out["visibility"] = {"rule": self.rules} if self.rules else {}
        for name, row in zip(_SEEN, self.view_total.astype(int).tolist(), strict=True):
            if not self.rules or (name == UNKNOWN and not sum(row)):
                continue
            counts = {"n": row[_TARGETS]}
            for level, threshold in enumerate(THRESHOLDS):
                counts[f"wrong@{threshold:g}"] = row[_WRONG + level]
            out["visibility"][name] = counts | self._of(f"visibility.{name}.")
        return out

    def _of(self, prefix: str) -> dict[str, float | None]:
        """The values under a prefix, in percent, by the rest of their names where that has no dot but a threshold's."""
        cut = len(prefix)
        return {key[cut:]: percent(value) for key, value in self.values.items() if key.startswith(prefix)}

    def _sets(self, prefix: str) -> dict[str, Any]:
        return {name: self._of(f"{prefix}{name}.") for name in (*self.sets, "micro")}

    def _at(self, prefix: str, level: int) -> dict[str, Any]:
        """Everything at one threshold."""
        out: dict[str, Any] = self._sets(prefix)
        for name, labels in self.sets.items():
            out[name] = {"classes": len(labels), **out[name]}
        cells = self.total[level]
        out["micro"] = {**_whole(cells.sum(axis=0)), **out["micro"]}
        by_class = {metric: values.tolist() for metric, values in _prf(cells).items()}
        out["per_class"] = {
            label: {**_whole(cells[i]), **{metric: percent(values[i]) for metric, values in by_class.items()}}
            for i, label in enumerate(self.columns)
        }
        return out

    def rows(self) -> list[Row]:
        """The table: what is quoted first, then what explains it."""
        wanted = [(name, metric, "") for name in ("classes_20", "micro") for metric in ("f1", "precision", "recall")]
        wanted += [(name, "f1", "") for name in ("classes_8", "classes_31", "classes_all")]
        wanted += [(name, "f1", "at_0.5.") for name in ("classes_20", "micro")]
        out = [
            self._row(f"{prefix}{name}.{metric}", name, f"{metric}@0.5" if prefix else metric)
            for name, metric, prefix in wanted
        ]
        out.append(self._row("mean_iou", "mean_iou", "IoU"))
        if 1 < len(self.groups) <= _FEW:
            out += [
                self._row(f"frames.{name}.classes_20.f1", f"classes_20, {name} frames", "f1", n)
                for name, n in self.groups.items()
            ]
        if not self.view_total[:-1].any():
            return out
        for name, row in zip(VIEWS, self.view_total.astype(int).tolist(), strict=False):
            out.append(self._row(f"visibility.{name}.recall@0.25", f"targets {name}", "recall", row[_TARGETS]))
        guesses = int(self.view_total[:, _WRONG].sum())
        out.append(self._row(f"visibility.{OUT}.wrong_share@0.25", f"wrong boxes {OUT}", "share", guesses))
        return out

    def _row(self, key: str, name: str, metric: str, n: int | None = None) -> Row:
        return Row(name, metric, self.n if n is None else n, percent(self.values[key]), self.bounds.get(key))


_PREFIXES = ("", "at_0.5.")
"""Of the dotted names at each of :data:`THRESHOLDS`."""


def _view_shares(counts: Floats) -> dict[str, Floats]:
    """Recall by view, and how the wrong boxes are divided among the views, from counts ``(…, views, 5)``."""
    out = {}
    for index, name in enumerate(_SEEN):
        for level, threshold in enumerate(THRESHOLDS):
            found, wrong = counts[..., _FOUND + level], counts[..., _WRONG + level]
            out[f"visibility.{name}.recall@{threshold:g}"] = ratio(found[..., index], counts[..., index, _TARGETS])
            out[f"visibility.{name}.wrong_share@{threshold:g}"] = ratio(wrong[..., index], wrong.sum(axis=-1))
    return out


def _whole(counts: Floats) -> dict[str, int]:
    return dict(zip(("tp", "fp", "fn"), counts.astype(int).tolist(), strict=True))


def _prf(cells: Floats) -> dict[str, Floats]:
    """Precision, recall and F1 of counts ``(…, 3)``; 0 where undefined, as the public scorer has it."""
    tp, fp, fn = cells[..., 0], cells[..., 1], cells[..., 2]
    return {
        "precision": ratio(tp, tp + fp, 0.0),
        "recall": ratio(tp, tp + fn, 0.0),
        "f1": ratio(2 * tp, 2 * tp + fp + fn, 0.0),
    }
