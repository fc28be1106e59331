"""VSI-Bench: accuracy of letters, mean relative accuracy of numbers, mean of eight tasks.

The ``official`` scorer is that of thinking-in-space (and of lmms-eval until July 2026): the answer is the text up to
the first space, without trailing dots; a letter must equal the right one, a number must be what Python's ``float``
takes. Later harnesses read more and score higher; numbers compare only under one scorer. Where the public scorer
crashes (a right number of 0) the question scores 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rft3d_cli.benchmarks._vsibench_tables import (
    COLUMN,
    TASKS,
    TYPES,
    Answer,
    Asked,
    Means,
    by_task,
    chance,
    means,
    part,
    parts,
    shown,
)
from rft3d_cli.benchmarks.result import Result, Row, check_options, header, official_text, writable
from rft3d_cli.errors import DataError
from rft3d_cli.mra import mean_relative_accuracy

if TYPE_CHECKING:
    from rft3d_cli.records import Record

__all__ = ["TASKS", "TYPES", "score"]


def score(
    records: Sequence[Record],
    predictions: Mapping[str, str],
    *,
    scorer: str = "official",
    answer_style: str = "direct",
    seed: int = 0,
    intervals: bool = True,
    pruned: Collection[str] | None = None,
) -> Result:
    """Score VSI-Bench predictions.

    Args:
        records: Choice and number records with ``meta.question_type``.
        predictions: Record id → text.
        scorer: ``official``, or ``robust``: tags, boxed answers, decorated letters, units, thousands, number words.
        answer_style: ``think`` takes the answer out of ``<answer>``, or from after ``</think>``, before the official
            reading; ``robust`` always does.
        seed: Of the intervals.
        intervals: Whether to resample scenes for 95 % intervals; without, the document's ``intervals`` is empty.
        pruned: Ids that the debiased benchmark leaves out, for records whose ``meta.pruned`` does not say (the first
            revision of the public files); see :func:`rft3d_cli.prepare.vsibench_questions.pruned_ids`.

    Returns:
        In the document, ``tasks`` maps each of the eight tasks to its score, ``types`` each question type to its
        score and count; ``overall`` is the mean of the tasks, ``overall_micro`` that of the questions. With question
        types absent (``absent``) the mean is over the tasks there are and ``incomplete`` is true. ``datasets`` holds
        both means and ``by_task`` for the records of each data set; ``debiased`` and ``pruned`` for those whose
        ``meta.pruned`` is false and true, where any record or ``pruned`` says. ``chance`` is what guessing scores by
        task, uniformly among the options or always with the most frequent right answer.

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
    read = _reader(scorer, answer_style)
    details: list[dict[str, Any]] = []
    unreadable: list[str] = []
    scores: list[float] = []
    columns: list[int] = []
    for record in records:
        kind = record.meta.question_type or ""
        column = COLUMN.get(kind)
        if column is None or record.task not in ("choice", "number"):
            raise DataError(
                f"record {record.id} is not a VSI-Bench question: task {record.task}, question type {kind or 'none'}",
                f"question types: {', '.join(TYPES)}",
            )
        text = predictions.get(record.id)
        if text is None:
            value, answer, why = 0.0, None, "no prediction"
        else:
            value, answer, why, readable = read(text, record, kind)
            if not readable:
                unreadable.append(record.id)
        scores.append(value)
        columns.append(column)
        details.append({"id": record.id, "score": value, "parts": {}, "answer": answer, "why": why})
    whole = means(columns, scores)
    marks = _marks(records, pruned)
    cuts = parts(marks, columns, scores)
    spread = _bounds(records, columns, scores, marks, seed) if intervals else {}
    document = {
        **header(
            "vsibench", records, predictions, details, unreadable, {"scorer": scorer, "answer_style": answer_style}
        ),
        "overall": shown(whole.overall),
        "overall_micro": shown(whole.micro),
        "tasks": by_task(whole),
        "types": {
            name: {"n": n, "score": shown(value)}
            for name, n, value in zip(TYPES, whole.counts, whole.types, strict=True)
        },
        "incomplete": 0 in whole.counts,
        "absent": [name for name, n in zip(TYPES, whole.counts, strict=True) if not n],
        "datasets": {
            name: part(found)
            for name, found in parts([record.meta.dataset for record in records], columns, scores).items()
        },
        **{name: part(found) for name, found in cuts.items()},
        "chance": chance(records, columns),
        "intervals": {name: None if bound is None else list(bound) for name, bound in spread.items()},
        "seed": seed,
    }
    return Result(document, _rows(whole, cuts, spread), details)


def _reader(scorer: str, answer_style: str) -> Callable[[str, Asked, str], Answer]:
    """The reading of one answer: of its text, its question, and the question's type."""
    if scorer == "robust":
        # The readers of answers bring numpy along.
        from rft3d_cli.benchmarks._vsibench_robust import read

        return read
    if answer_style == "direct":
        return _official
    return lambda text, record, kind: _official(official_text(text, answer_style), record, kind)


def _marks(records: Sequence[Asked], pruned: Collection[str] | None) -> list[str | None]:
    """``pruned`` or ``debiased`` for each record, None where neither it nor the list says."""
    out: list[str | None] = []
    for record in records:
        said = (record.meta.model_extra or {}).get("pruned")
        if said is None and pruned is not None:
            said = record.id in pruned
        out.append("pruned" if said is True else "debiased" if said is False else None)
    return out


def _bounds(*args: Any) -> dict[str, tuple[float, float] | None]:
    # numpy takes as long to import as all else takes to run.
    from rft3d_cli.benchmarks._vsibench_intervals import bounds

    return bounds(*args)


def _first_token(text: str) -> str:
    """The text up to its first space (no other white space), without trailing dots, stripped.

    >>> _first_token("A. chair"), _first_token(" A"), _first_token("3.5m wide")
    ('A', '', '3.5m')
    """
    return text.split(" ", 1)[0].rstrip(".").strip()


def _official(text: str, record: Asked, kind: str) -> Answer:
    token = _first_token(text)
    target = record.target
    if record.task == "choice":
        # Equality is all that counts; readability is ours, to tell a wrong letter from no letter.
        if token.lower() == target.letter.lower():
            return 1.0, token, "", True
        if len(token) == 1 and token.upper() in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(target.options) or 26]:
            return 0.0, token, f"{token}, not {target.letter}", True
        return 0.0, None, _no_letter(token), False
    try:
        value = float(token)
    except ValueError:
        return 0.0, None, "the first word is not a number", False
    if not math.isfinite(value):
        return 0.0, None, "not a finite number", False
    right = target.value
    if right == 0:
        return 0.0, value, "the right number is 0, where the public scorer fails", True
    # The public scorer divides by the signed right number, so below 0 every error is within every limit.
    share = 1.0 if right < 0 else mean_relative_accuracy(value, right, strict=False)
    return share, value, "" if share == 1 else f"{value:g} for {right:g}", True


def _no_letter(token: str) -> str:
    return f"the first word {writable(token[:40])!r} is no option's letter" if token else "the first word is empty"


def _rows(whole: Means, cuts: Mapping[str, Means], spread: Mapping[str, tuple[float, float] | None]) -> list[Row]:
    """The table: eight tasks, the two means over all, and the mean of tasks of each cut."""
    rows = []
    for index, (name, types) in enumerate(TASKS.items()):
        n = sum(whole.counts[COLUMN[kind]] for kind in types)
        metric = "MRA" if index < 4 else "accuracy"
        rows.append(Row(name, metric, n, shown(whole.tasks[index]), spread.get(f"tasks.{name}")))
    n = sum(whole.counts)
    rows.append(Row("overall", "mean of tasks", n, shown(whole.overall), spread.get("overall")))
    rows.append(Row("overall_micro", "mean of questions", n, shown(whole.micro), spread.get("overall_micro")))
    for name, found in cuts.items():
        rows.append(Row(name, "mean of tasks", sum(found.counts), shown(found.overall), spread.get(f"{name}.overall")))
    return rows
