"""VSI-Bench: accuracy of letters, mean relative accuracy of numbers, mean of eight tasks.

The ``official`` scorer is that of thinking-in-space (and of lmms-eval until July 2026): the answer is the text up to
the first space, without trailing dots; a letter must equal the right one, a number must be what Python's ``float``
takes. Later harnesses read more and score higher; numbers compare only under one scorer. Where the public scorer
crashes (a right number of 0) the question scores 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.answers.short import read_choice, read_number
from rft3d_cli.benchmarks.result import (
    Result,
    Row,
    check_options,
    clean,
    header,
    interval,
    mean_of_known,
    official_text,
    percent,
    ratio,
    scene_draws,
    scene_index,
    sum_by_scene,
)
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.records import ChoiceTarget, NumberTarget, Record
from rft3d_cli.rewards.reasoning import UNITS, mean_relative_accuracy

TASKS = {
    "object_counting": ("object_counting",),
    "object_abs_distance": ("object_abs_distance",),
    "object_size_estimation": ("object_size_estimation",),
    "room_size_estimation": ("room_size_estimation",),
    "object_rel_distance": ("object_rel_distance",),
    "object_rel_direction": (
        "object_rel_direction_easy",
        "object_rel_direction_medium",
        "object_rel_direction_hard",
    ),
    "route_planning": ("route_planning",),
    "obj_appearance_order": ("obj_appearance_order",),
}
"""The eight tasks in the order of the public tables, and the question types of each."""

TYPES = tuple(name for types in TASKS.values() for name in types)
_COLUMN = {name: index for index, name in enumerate(TYPES)}
_TASK_COLUMNS = [[_COLUMN[name] for name in types] for types in TASKS.values()]

Answer = tuple[float, Any, str, bool]
"""Score, what was read, why not 1, readable."""


def score(
    records: Sequence[Record],
    predictions: Mapping[str, str],
    *,
    scorer: str = "official",
    answer_style: str = "direct",
    seed: int = 0,
) -> Result:
    """Score VSI-Bench predictions.

    Args:
        records: Choice and number records with ``meta.question_type``.
        predictions: Record id → text.
        scorer: ``official``, or ``robust``: tags, boxed answers, decorated letters, units, thousands, number words.
        answer_style: ``think`` takes the answer out of ``<answer>``, or from after ``</think>``, before the official
            reading; ``robust`` always does.
        seed: Of the intervals.

    Returns:
        In the document, ``tasks`` maps each of the eight tasks to its score, ``types`` each question type to its
        score and count; ``overall`` is the mean of the tasks, ``overall_micro`` that of the questions. With question
        types absent the mean is over the tasks there are and ``incomplete`` is true. ``datasets`` holds both means for
        the records of each data set, ``debiased`` for those whose ``meta.pruned`` is false, where any record says.

    Raises:
        UsageError: On an unknown scorer or answer style.
        DataError: On a record that is no VSI-Bench question.

    The right distance is 2.5 m. An error of 12 % is within 8 of the 10 limits of mean relative accuracy; the official
    scorer reads the first word only.

    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("number")
    >>> for text in ("2.2 m", "about 2.2 m"):
    ...     results = [score([record], {record.id: text}, scorer=scorer) for scorer in ("official", "robust")]
    ...     print(text, [round(result.document["overall"], 2) for result in results])
    2.2 m [80.0, 80.0]
    about 2.2 m [0.0, 80.0]
    """
    check_options(scorer, answer_style)
    details: list[dict[str, Any]] = []
    unreadable: list[str] = []
    scores = np.zeros(len(records))
    columns = np.zeros(len(records), dtype=np.int64)
    for index, record in enumerate(records):
        kind = record.meta.question_type or ""
        target = record.target
        if kind not in _COLUMN or not isinstance(target, ChoiceTarget | NumberTarget):
            raise DataError(
                f"record {record.id} is not a VSI-Bench question: task {record.task}, question type {kind or 'none'}",
                f"question types: {', '.join(TYPES)}",
            )
        text = predictions.get(record.id)
        if text is None:
            value, answer, why = 0.0, None, "no prediction"
        else:
            if scorer == "robust":
                value, answer, why, readable = _robust(text, target, kind)
            else:
                value, answer, why, readable = _official(official_text(text, answer_style), target)
            if not readable:
                unreadable.append(record.id)
        scores[index], columns[index] = value, _COLUMN[kind]
        details.append({"id": record.id, "score": value, "parts": {}, "answer": answer, "why": why})
    tables = _Tables(records, scores, columns, seed)
    options = {"scorer": scorer, "answer_style": answer_style}
    document = {
        **header("vsibench", records, predictions, details, unreadable, options),
        **tables.summary(),
        "intervals": tables.bounds,
        "seed": seed,
    }
    return Result(clean(document), tables.rows(), details)


def _first_token(text: str) -> str:
    """The text up to its first space (no other white space), without trailing dots, stripped.

    >>> _first_token("A. chair"), _first_token(" A"), _first_token("3.5m wide")
    ('A', '', '3.5m')
    """
    return text.split(" ", 1)[0].rstrip(".").strip()


def _official(text: str, target: ChoiceTarget | NumberTarget) -> Answer:
    token = _first_token(text)
    if isinstance(target, ChoiceTarget):
        # Equality is all that counts; readability is ours, to tell a wrong letter from no letter.
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(target.options) or 26]
        right = token.lower() == target.letter.lower()
        readable = right or (len(token) == 1 and token.upper() in letters)
        why = "" if right else f"{token}, not {target.letter}" if readable else "the first word is no option's letter"
        return float(right), token[:40], why, readable
    try:
        value = float(token)
    except ValueError:
        return 0.0, None, "the first word is not a number", False
    if not math.isfinite(value):
        return 0.0, None, "not a finite number", False
    if target.value == 0:
        return 0.0, value, "the right number is 0, where the public scorer fails", True
    # The public scorer divides by the signed right number, so below 0 every error is within every limit.
    share = 1.0 if target.value < 0 else mean_relative_accuracy(value, target.value, strict=False)
    return share, value, "" if share == 1 else f"{value:g} for {target.value:g}", True


def _robust(text: str, target: ChoiceTarget | NumberTarget, kind: str) -> Answer:
    if isinstance(target, ChoiceTarget):
        choice = read_choice(text, target.options)
        right = choice.letter == target.letter.upper()
        why = "" if right else choice.why or f"{choice.letter}, not {target.letter}"
        return float(right), choice.letter, why, choice.letter is not None
    number = read_number(text, UNITS.get(kind))
    if number.value is None:
        return 0.0, None, number.why, False
    share = mean_relative_accuracy(number.value, target.value, strict=False)
    return share, number.value, "" if share == 1 else f"{number.value:g} for {target.value:g}", True


class _Tables:
    """Sums and counts of scores by question type, and everything that is averaged from them."""

    def __init__(self, records: Sequence[Record], scores: Floats, columns: NDArray[np.int64], seed: int) -> None:
        self.records = records
        self.cells = np.zeros((len(records), len(TYPES), 2))
        self.cells[np.arange(len(records)), columns, 0] = scores
        self.cells[np.arange(len(records)), columns, 1] = 1
        total = self.cells.sum(axis=0)
        self.counts = total[:, 1].astype(int)
        self.means = _averages(total)
        self.bounds: dict[str, tuple[float, float] | None] = {}
        scenes, count = scene_index(records)
        if count > 1:
            table = sum_by_scene(self.cells, scenes, count).reshape(count, -1)
            drawn = _averages((scene_draws(count, seed) @ table).reshape(-1, len(TYPES), 2))
            self.bounds = {name: interval(drawn[name]) for name in ("overall", "overall_micro")}
            self.bounds |= {f"tasks.{name}": interval(drawn["tasks"][:, i]) for i, name in enumerate(TASKS)}

    def summary(self) -> dict[str, Any]:
        """The document's part: the means by task, type, data set, and over all."""
        out = {
            **_overall(self.means),
            "tasks": {name: percent(float(value)) for name, value in zip(TASKS, self.means["tasks"], strict=True)},
            "types": {
                name: {"n": int(n), "score": percent(float(value))}
                for name, n, value in zip(TYPES, self.counts, self.means["types"], strict=True)
            },
            "incomplete": bool((self.counts == 0).any()),
            "datasets": self._parts([record.meta.dataset for record in self.records]),
        }
        pruned = [(record.meta.model_extra or {}).get("pruned") for record in self.records]
        if any(value is not None for value in pruned):
            out |= self._parts(["debiased" if value is False else None for value in pruned])
        return out

    def _parts(self, names: Sequence[str | None]) -> dict[str, dict[str, Any]]:
        """The means of parts of the records, by the part's name; None is in no part."""
        out = {}
        for name in sorted({name for name in names if name is not None}):
            member = np.array([other == name for other in names])
            out[name] = {"n": int(member.sum()), **_overall(_averages(self.cells[member].sum(axis=0)))}
        return out

    def rows(self) -> list[Row]:
        """The table: eight tasks, and the two means over all."""
        rows = []
        for index, (name, columns) in enumerate(zip(TASKS, _TASK_COLUMNS, strict=True)):
            n, metric = int(self.counts[columns].sum()), "MRA" if index < 4 else "accuracy"
            rows.append(
                Row(name, metric, n, percent(float(self.means["tasks"][index])), self.bounds.get(f"tasks.{name}"))
            )
        for name, what in (("overall", "mean of tasks"), ("overall_micro", "mean of questions")):
            rows.append(Row(name, what, len(self.records), percent(float(self.means[name])), self.bounds.get(name)))
        return rows


def _overall(means: dict[str, Floats]) -> dict[str, float | None]:
    return {name: percent(float(means[name])) for name in ("overall", "overall_micro")}


def _averages(cells: Floats) -> dict[str, Floats]:
    """From sums and counts ``(…, types, 2)``: ``types``, ``tasks``, ``overall``, ``overall_micro``; NaN where empty.

    A task of several types is the unweighted mean of those there are.
    """
    types = ratio(cells[..., 0], cells[..., 1])
    tasks = np.stack([mean_of_known(types[..., columns]) for columns in _TASK_COLUMNS], axis=-1)
    micro = ratio(cells[..., 0].sum(axis=-1), cells[..., 1].sum(axis=-1))
    return {"types": types, "tasks": tasks, "overall": mean_of_known(tasks), "overall_micro": micro}
