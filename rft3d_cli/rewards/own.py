"""Each task's own score: the one reward that says how good an answer is, whatever a recipe pays for."""

from __future__ import annotations

from rft3d_cli.records import Record
from rft3d_cli.rewards.registry import RewardSet, Score, get

OWN = {"detection": "det_f1", "grounding": "ground_iou", "choice": "accuracy", "number": "mra"}
"""The reward that is each task's own score: F1 at 0.25, IoU, right or wrong, mean relative accuracy."""


def own_score(record: Record, text: str) -> Score:
    """A record's own score; 0 for a text record, which has none.

    Args:
        record: Of any task.
        text: The answer.

    >>> from rft3d_cli.examples import example_record
    >>> own_score(example_record("number"), "3").value, own_score(example_record("text"), "a chair").value
    (0.6, 0.0)
    """
    name = OWN.get(record.task)
    score = get(name)(text, record) if name else None
    return score if score is not None else Score(0.0)


def own_rewards() -> RewardSet:
    """The own scores as a set of rewards, for whoever takes either those or a recipe's.

    >>> from rft3d_cli.examples import example_record
    >>> rewards = own_rewards()
    >>> rewards.total(rewards.score("3", example_record("number")))
    0.6
    """
    return RewardSet(dict.fromkeys(OWN.values(), 1.0))
