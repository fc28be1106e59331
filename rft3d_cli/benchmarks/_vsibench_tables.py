"""VSI-Bench's means: question types, tasks, the whole, and parts of it. Plain Python: scoring starts without numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rft3d_cli.mra import mean_relative_accuracy

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
COLUMN = {name: index for index, name in enumerate(TYPES)}
TASK_COLUMNS = [[COLUMN[name] for name in types] for types in TASKS.values()]


Answer = tuple[float, Any, str, bool]
"""Score, what was read, why not 1, readable."""


class Asked(Protocol):
    """What scoring reads of a record, or of a published question."""

    @property
    def id(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def target(self) -> Any: ...
    @property
    def meta(self) -> Any: ...


@dataclass(slots=True)
class Means:
    """Shares (0…1) of some questions; NaN where there are none.

    Args:
        counts: Questions of each of the ten types.
        types: The mean of each type.
        tasks: The mean of each of the eight tasks: of several types, the unweighted mean of those there are.
        overall: The mean of the tasks.
        micro: The mean of the questions.
    """

    counts: list[int]
    types: list[float]
    tasks: list[float]
    overall: float
    micro: float


def means(columns: Sequence[int], scores: Sequence[float]) -> Means:
    """The means of questions.

    Args:
        columns: Each one's type, as an index into :data:`TYPES`.
        scores: Each one's score, 0…1.
    """
    of_type: list[list[float]] = [[] for _ in TYPES]
    for column, score in zip(columns, scores, strict=True):
        of_type[column].append(score)
    types = [_mean(found) for found in of_type]
    tasks = [_mean([types[column] for column in group if of_type[column]]) for group in TASK_COLUMNS]
    overall = _mean([value for value in tasks if not math.isnan(value)])
    return Means([len(found) for found in of_type], types, tasks, overall, _mean(scores))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def shown(value: float) -> float | None:
    """A share in percent; NaN as None."""
    return None if math.isnan(value) else 100 * value


def by_task(found: Means) -> dict[str, float | None]:
    """The tasks' means in percent, by name."""
    return {name: shown(value) for name, value in zip(TASKS, found.tasks, strict=True)}


def part(found: Means) -> dict[str, Any]:
    """The means of a part of the benchmark, such as a data set."""
    return {
        "n": sum(found.counts),
        "overall": shown(found.overall),
        "overall_micro": shown(found.micro),
        "by_task": by_task(found),
    }


def parts(names: Sequence[str | None], columns: Sequence[int], scores: Sequence[float]) -> dict[str, Means]:
    """The means of each part, by its name in alphabetic order.

    Args:
        names: The part of each question; None is in no part.
        columns: As for :func:`means`.
        scores: As for :func:`means`.
    """
    members: dict[str, tuple[list[int], list[float]]] = {}
    for name, column, score in zip(names, columns, scores, strict=True):
        if name is not None:
            found = members.setdefault(name, ([], []))
            found[0].append(column)
            found[1].append(score)
    return {name: means(*members[name]) for name in sorted(members)}


def chance(records: Sequence[Asked], columns: Sequence[int]) -> dict[str, dict[str, float | None]]:
    """What guessing scores, by task in percent: ``uniform`` among the options, and ``frequent``.

    ``frequent`` always gives the answer that is right most often in this very set, type by type (of two such letters
    the first, of two such numbers the smaller). Numbers have no options to guess among.

    Args:
        records: Questions.
        columns: Their types.
    """
    of_type: list[list[Any]] = [[] for _ in TYPES]
    for record, column in zip(records, columns, strict=True):
        of_type[column].append(record.target)
    uniform, frequent = [], []
    for targets in of_type:
        choices = [target for target in targets if hasattr(target, "letter")]
        optional = [1 / len(target.options) for target in choices if target.options]
        uniform.append(_mean(optional if len(optional) == len(targets) else []))
        frequent.append(_most_frequent(targets, len(choices)))
    out = {}
    for name, types in (("uniform", uniform), ("frequent", frequent)):
        groups = [[types[c] for c in group if not math.isnan(types[c])] for group in TASK_COLUMNS]
        out[name] = {task: shown(_mean(group)) for task, group in zip(TASKS, groups, strict=True)}
    return out


def _most_frequent(targets: Sequence[Any], choices: int) -> float:
    if not targets or choices not in (0, len(targets)):
        return math.nan
    counts: dict[Any, int] = {}
    for target in targets:
        right = target.letter.upper() if choices else target.value
        counts[right] = counts.get(right, 0) + 1
    guess = min(counts, key=lambda right: (-counts[right], right))
    if choices:
        return counts[guess] / len(targets)
    return math.fsum(n * mean_relative_accuracy(guess, right, strict=False) for right, n in counts.items()) / len(
        targets
    )
