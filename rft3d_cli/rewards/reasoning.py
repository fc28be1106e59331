"""Rewards for short answers: the right letter, a number close to the right one."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

from rft3d_cli.answers import read_choice, read_number
from rft3d_cli.records import ChoiceTarget, NumberTarget, Record
from rft3d_cli.rewards.registry import Score, reward

MRA_LIMITS = (
    0.050000000000000044,
    0.10000000000000009,
    0.15000000000000002,
    0.19999999999999996,
    0.25,
    0.30000000000000004,
    0.35,
    0.4,
    0.44999999999999996,
    0.5,
)
"""``1 - t`` for t = 0.95 … 0.50, to the bit as VSI-Bench's scorer computes them: answers do sit on the edges."""

UNITS = {"object_abs_distance": "m", "object_size_estimation": "cm", "room_size_estimation": "m2"}
"""The unit that a VSI-Bench question type asks for."""


def asked_unit(record: Record) -> str | None:
    """The unit that a record's question asks for, where its type or ``meta.unit`` says.

    >>> from rft3d_cli.examples import example_record
    >>> asked_unit(example_record("number"))
    'm'
    """
    said = (record.meta.model_extra or {}).get("unit")
    return UNITS.get(record.meta.question_type or "", said if isinstance(said, str) else None)


def mean_relative_accuracy(value: float, target: float, *, strict: bool) -> float:
    """The share of the ten thresholds that a number's relative error stays within.

    Args:
        value: The answer.
        target: The right number. A target of 0 has no relative error: 1 where the answer is exactly it, else 0.
        strict: True for the paper's reward (error ``<`` limit), False for VSI-Bench's scorer (``≤``).

    Returns:
        0, 0.1 … 1.

    >>> mean_relative_accuracy(3, 4, strict=True), mean_relative_accuracy(3, 4, strict=False)
    (0.5, 0.6)
    """
    if target == 0 or not (math.isfinite(value) and math.isfinite(target)):
        return float(target == value)
    error = abs(value - target) / abs(target)
    return (10 - (bisect_right if strict else bisect_left)(MRA_LIMITS, error)) / 10


@reward("accuracy", task="choice")
def accuracy(text: str, record: Record) -> Score | None:
    """1 where the answer's letter is the right one.

    Args:
        text: The completion.
        record: Its record.

    Returns:
        The score, or None for a record of another task.

    >>> from rft3d_cli.examples import example_record
    >>> accuracy("<answer>B. table</answer>", example_record("choice")).value
    1.0
    """
    if not isinstance(record.target, ChoiceTarget):
        return None
    answer = read_choice(text, record.target.options)
    right = answer.letter == record.target.letter.upper()
    said = f"{answer.letter}, not {record.target.letter}" if answer.letter else answer.why
    return Score(float(right), {}, "" if right else said)


@reward("mra", task="number")
def mra(text: str, record: Record) -> Score | None:
    """Mean relative accuracy of a numeric answer, strict ``<`` as in the 3D-RFT paper.

    A unit is read where the question's type says which one is asked for: 250 cm is 2.5 m.

    Args:
        text: The completion.
        record: Its record.

    Returns:
        The score, or None for a record of another task.

    >>> from rft3d_cli.examples import example_record
    >>> mra("250 cm", example_record("number")).value
    1.0
    """
    if not isinstance(record.target, NumberTarget):
        return None
    answer = read_number(text, asked_unit(record))
    if answer.value is None:
        return Score(0.0, {}, answer.why)
    value = mean_relative_accuracy(answer.value, record.target.value, strict=True)
    return Score(value, {"value": answer.value}, "" if value == 1 else f"{answer.value:g} for {record.target.value:g}")
