"""Rewards of saved predictions: every value, its parts and its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rft3d_cli.records import Record
from rft3d_cli.rewards.registry import RewardSet


def score_predictions(
    records: Sequence[Record],
    predictions: Mapping[str, str],
    rewards: RewardSet,
    *,
    weighted: bool = True,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Score saved texts as training would score completions.

    Args:
        records: Of any tasks.
        predictions: Texts by record id. A record without one is scored as empty text.
        rewards: The rewards, with their weights and options.
        weighted: Whether weighted sums mean anything: where rewards were only named, they do not.
        done: Called once a record.

    Returns:
        A document: ``n``, ``missing`` records, ``rewards`` (name → ``mean`` and ``n``), ``total`` (the mean of weighted
        sums), and ``records``: ``id``, ``task``, ``missing``, ``total`` and ``rewards`` (name → ``value``, ``parts``,
        ``why``). A ``total`` is None where no reward applies, or where sums are not wanted.

    Raises:
        Rft3dError: Where a user's reward fails.

    >>> from rft3d_cli.examples import example_record
    >>> records = [example_record("choice"), example_record("number")]
    >>> found = score_predictions(records, {"example-number": "3"}, RewardSet({"mra": 1, "accuracy": 1}))
    >>> found["missing"], found["rewards"]["mra"], found["total"]
    (1, {'mean': 0.6, 'n': 1}, 0.3)
    """
    rows: list[dict[str, Any]] = []
    values: dict[str, list[float]] = {name: [] for name in rewards.rewards}
    totals: list[float] = []
    answers = [(predictions.get(record.id, ""), record) for record in records]
    for record, scores in zip(records, rewards.score_all(answers), strict=True):
        for name, score in scores.items():
            values[name].append(score.value)
        total = rewards.total(scores) if scores and weighted else None
        if total is not None:
            totals.append(total)
        rows.append(
            {
                "id": record.id,
                "task": record.task,
                "missing": record.id not in predictions,
                "total": total,
                "rewards": {
                    name: {"value": score.value, "parts": score.parts, "why": score.why}
                    for name, score in scores.items()
                },
            }
        )
        done()
    return {
        "n": len(rows),
        "missing": sum(row["missing"] for row in rows),
        "rewards": {name: {"mean": _mean(found), "n": len(found)} for name, found in values.items()},
        "total": _mean(totals),
        "records": rows,
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
