"""Rewards for short answers: the right letter, a number close to the right one."""

from __future__ import annotations

from rft3d_cli.answers import read_choice, read_number
from rft3d_cli.mra import MRA_LIMITS as MRA_LIMITS
from rft3d_cli.mra import UNITS as UNITS
from rft3d_cli.mra import mean_relative_accuracy as mean_relative_accuracy
from rft3d_cli.records import ChoiceTarget, NumberTarget, Record
from rft3d_cli.rewards.registry import Score, reward


def asked_unit(record: Record) -> str | None:
    """The unit that a record's question asks for, where its type or ``meta.unit`` says.

    >>> from rft3d_cli.examples import example_record
    >>> asked_unit(example_record("number"))
    'm'
    """
    said = (record.meta.model_extra or {}).get("unit")
    return UNITS.get(record.meta.question_type or "", said if isinstance(said, str) else None)


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
