"""What two evaluations of a benchmark are compared by: its numbers as sums over records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rft3d_cli.benchmarks._vsibench_tables import COLUMN, TASK_COLUMNS, TASKS, TYPES
from rft3d_cli.benchmarks.paired import Measure, Table
from rft3d_cli.benchmarks.result import mean_of_known, ratio
from rft3d_cli.geometry.boxes import Floats

Lines = Sequence[Mapping[str, Any]]
Facts = Sequence[Mapping[str, Any]]
"""What is known of each record: ``scene``, ``dataset``, ``question_type``, ``subset``, ``pruned``; None where not."""


def table_of(benchmark: str | None, a: Lines, b: Lines, facts: Facts) -> Table:
    """The numbers of a benchmark as sums over records.

    Args:
        benchmark: Its name; of one that is not known here, each number of the details is averaged.
        a: The first evaluation's details, ``(N,)``.
        b: The second one's, of the same records in the same order.
        facts: What is known of these records.

    Returns:
        A table whose first number is the one to look at.

    >>> lines = [{"score": 1.0, "parts": {}}, {"score": 0.0, "parts": {}}]
    >>> [measure.key for measure in table_of(None, lines, lines, [{}, {}]).measures]
    ['score']
    """
    table = _BUILD.get(benchmark or "", _plain)(a, b, facts)
    return table if table is not None else _plain(a, b, facts)


def _column(lines: Lines, key: str = "score") -> Floats:
    return np.array([float(line[key] if key == "score" else line["parts"].get(key) or 0) for line in lines])


def _all_have(keys: Sequence[str], *sides: Lines) -> bool:
    """Whether every line holds these numbers."""
    return all(_is_number(line["parts"].get(key)) for side in sides for line in side for key in keys)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _members(facts: Facts, key: str, wanted: Any) -> Floats:
    return np.array([fact.get(key) == wanted for fact in facts], dtype=np.float64)


def _values(facts: Facts, key: str) -> list[str]:
    return sorted({str(fact[key]) for fact in facts if fact.get(key) is not None})


# ---- VSI-Bench


def _types(cells: Floats) -> Floats:
    """Means by question type, from sums and counts ``(…, 2 · types)``."""
    parts = cells.reshape(*cells.shape[:-1], len(TYPES), 2)
    return ratio(parts[..., 0], parts[..., 1])


def _tasks(cells: Floats) -> Floats:
    types = _types(cells)
    return np.stack([mean_of_known(types[..., columns]) for columns in TASK_COLUMNS], axis=-1)


def _vsibench(a: Lines, b: Lines, facts: Facts) -> Table | None:
    """The mean of eight tasks, of questions, each task, and both means of each data set and of the debiased subset."""
    if any(fact.get("question_type") not in COLUMN for fact in facts):
        return None
    kinds = np.zeros((len(facts), len(TYPES)))
    kinds[np.arange(len(facts)), [COLUMN[fact["question_type"]] for fact in facts]] = 1
    counts = kinds.sum(axis=0)
    table = Table()

    def add(member: Floats) -> slice:
        one = kinds * member[:, None]
        sides = (np.stack([one * _column(side)[:, None], one], axis=-1).reshape(len(facts), -1) for side in (a, b))
        return table.add(*sides)

    def means(prefix: str, at: slice, n: int) -> None:
        table.measures.append(Measure(f"{prefix}overall", n, lambda sums: mean_of_known(_tasks(sums[..., at]))))
        table.measures.append(Measure(f"{prefix}overall_micro", n, lambda sums: _micro(sums[..., at])))

    whole = add(np.ones(len(facts)))
    means("", whole, len(facts))
    for index, (name, columns) in enumerate(zip(TASKS, TASK_COLUMNS, strict=True)):
        n = int(counts[columns].sum())
        if n:
            table.measures.append(Measure(f"tasks.{name}", n, lambda sums, i=index: _tasks(sums[..., whole])[..., i]))  # type: ignore[misc]
    parts = [(f"datasets.{name}.", _members(facts, "dataset", name)) for name in _values(facts, "dataset")]
    if any(fact.get("pruned") is not None for fact in facts):
        parts += [("debiased.", _members(facts, "pruned", False)), ("pruned.", _members(facts, "pruned", True))]
    for prefix, member in parts:
        if 0 < member.sum() < len(facts):
            means(prefix, add(member), int(member.sum()))
    return table


def _micro(cells: Floats) -> Floats:
    parts = cells.reshape(*cells.shape[:-1], len(TYPES), 2).sum(axis=-2)
    return ratio(parts[..., 0], parts[..., 1])


# ---- ScanRefer


def _scanrefer(a: Lines, b: Lines, facts: Facts) -> Table | None:
    """Accuracies and mean IoU, over all and by subset, refined as well where both sides are."""
    table = Table()
    if not _all_have(("iou",), a, b):
        return None
    refined = _all_have(("refined_iou",), a, b)
    subsets = [("overall", np.ones(len(facts)))]
    subsets += [(name, _members(facts, "subset", name)) for name in ("unique", "multiple")]
    for prefix in ("", "refined.") if refined else ("",):
        sides = []
        for side in (a, b):
            iou = _column(side, "refined_iou" if prefix else "iou")
            sides.append(np.stack([iou >= 0.25, iou >= 0.5, iou], axis=-1).astype(np.float64))
        for name, member in subsets:
            if member.sum():
                _means(table, f"{prefix}{name}", ("acc@0.25", "acc@0.5", "mean_iou"), sides, member)
    return table


def _means(table: Table, name: str, keys: Sequence[str], sides: Sequence[Floats], member: Floats) -> None:
    """Means of columns ``(N, k)`` over the records of a subset."""
    at = table.add(*(np.concatenate([side, np.ones((len(side), 1))], axis=1) * member[:, None] for side in sides))
    for index, key in enumerate(keys):
        column, last = at.start + index, at.stop - 1
        full = f"{name}.{key}" if name else key
        table.measures.append(
            Measure(full, int(member.sum()), lambda sums, c=column, n=last: ratio(sums[..., c], sums[..., n]))  # type: ignore[misc]
        )


# ---- Detection


def _detection(a: Lines, b: Lines, facts: Facts) -> Table | None:
    """Counts pooled over records and, where the details hold them by class, the means over sets of classes."""
    if not _all_have(("tp", "fp", "fn"), a, b):
        return None
    table = Table()
    n = len(facts)
    if all(_counts_classes(line["parts"].get("per_class")) for side in (a, b) for line in side):
        _class_means(table, a, b)
    pooled = table.add(*(np.stack([_column(side, key) for key in ("tp", "fp", "fn")], axis=-1) for side in (a, b)))
    for metric in ("f1", "precision", "recall"):
        table.measures.append(Measure(f"micro.{metric}", n, lambda sums, m=metric: _prf(sums[..., pooled])[m]))  # type: ignore[misc]
    if _all_have(("tp@0.5",), a, b):
        closer = table.add(*(_at_half(side) for side in (a, b)))
        table.measures.append(Measure("at_0.5.micro.f1", n, lambda sums: _prf(sums[..., closer])["f1"]))
    if _all_have(("iou_sum",), a, b):
        sides = [np.stack([_column(s, "iou_sum"), _column(s, "tp") + _column(s, "fn")], axis=-1) for s in (a, b)]
        at = table.add(*sides)
        table.measures.append(Measure("mean_iou", n, lambda sums: ratio(sums[..., at.start], sums[..., at.start + 1])))
    return table


def _at_half(lines: Lines) -> Floats:
    """Counts at IoU 0.5: what is found less is as much more wrong and missed."""
    tp, fp, fn, near = (_column(lines, key) for key in ("tp", "fp", "fn", "tp@0.5"))
    return np.stack([near, fp + tp - near, fn + tp - near], axis=-1)


def _counts_classes(found: Any) -> bool:
    """Whether a part is counts of found, wrong and missed boxes by class."""
    return isinstance(found, dict) and all(
        isinstance(three, list) and len(three) == 3 and all(map(_is_number, three)) for three in found.values()
    )


def _class_means(table: Table, a: Lines, b: Lines) -> None:
    from rft3d_cli.benchmarks.detection import CLASSES_8, CLASSES_20

    found = [[line["parts"]["per_class"] for line in side] for side in (a, b)]
    labels = sorted({label for side in found for counts in side for label in counts} | {*CLASSES_20})
    place = {label: index for index, label in enumerate(labels)}
    sides = []
    for side in found:
        cells = np.zeros((len(side), len(labels), 3))
        for row, counts in enumerate(side):
            for label, three in counts.items():
                cells[row, place[label]] = three
        sides.append(cells.reshape(len(side), -1))
    at = table.add(*sides)

    def mean(sums: Floats, chosen: list[int], metric: str) -> Floats:
        cells = sums[..., at].reshape(*sums.shape[:-1], len(labels), 3)
        values: Floats = _prf(cells)[metric][..., chosen].mean(axis=-1)
        return values

    for name, classes in (("classes_20", CLASSES_20), ("classes_8", CLASSES_8)):
        chosen = [place[label] for label in classes]
        for metric in ("f1", "precision", "recall"):
            table.measures.append(
                Measure(f"{name}.{metric}", len(a), lambda sums, c=chosen, m=metric: mean(sums, c, m))  # type: ignore[misc]
            )


def _prf(cells: Floats) -> dict[str, Floats]:
    tp, fp, fn = cells[..., 0], cells[..., 1], cells[..., 2]
    return {
        "precision": ratio(tp, tp + fp, 0.0),
        "recall": ratio(tp, tp + fn, 0.0),
        "f1": ratio(2 * tp, 2 * tp + fp + fn, 0.0),
    }


# ---- Answers and captions


def _sqa3d(a: Lines, b: Lines, facts: Facts) -> Table | None:
    """Exact matches over all and by question type, refined ones as well."""
    if not _all_have(("em_refined",), a, b):
        return None
    table = Table()
    sides = [np.stack([_column(side), _column(side, "em_refined")], axis=-1) for side in (a, b)]
    _means(table, "overall", ("em", "em_refined"), sides, np.ones(len(facts)))
    for name in _values(facts, "question_type"):
        _means(table, f"types.{name}", ("em", "em_refined"), sides, _members(facts, "question_type", name))
    return table


def _scan2cap(a: Lines, b: Lines, facts: Facts) -> Table | None:
    """The means over captions. BLEU is none: it is one number of the whole set, which single captions do not give."""
    if not _all_have(("cider", "rouge_l"), a, b):
        return None
    table = Table()
    # A detail's score is its CIDEr by ten.
    sides = [np.stack([10 * _column(s), _column(s, "cider"), _column(s, "rouge_l")], axis=-1) for s in (a, b)]
    _means(table, "", ("cider@0.5", "cider", "rouge_l"), sides, np.ones(len(facts)))
    return table


# ---- Every other


def _plain(a: Lines, b: Lines, facts: Facts) -> Table:
    """Means of the score and of every number that all details hold, over all and by question type."""
    shared = set.intersection(*(_numbers(line) for side in (a, b) for line in side)) if a else set()
    keys = ("score", *sorted(shared))
    sides = [np.stack([_column(side, key) for key in keys], axis=-1) for side in (a, b)]
    table = Table()
    _means(table, "", keys, sides, np.ones(len(facts)))
    for name in _values(facts, "question_type"):
        _means(table, name, ("score",), [side[:, :1] for side in sides], _members(facts, "question_type", name))
    return table


def _numbers(line: Mapping[str, Any]) -> set[str]:
    return {key for key, value in line["parts"].items() if _is_number(value) and key != "score"}


_BUILD: Mapping[str, Callable[[Lines, Lines, Facts], Table | None]] = {
    "vsibench": _vsibench,
    "scanrefer": _scanrefer,
    "detection": _detection,
    "sqa3d": _sqa3d,
    "scan2cap": _scan2cap,
}
