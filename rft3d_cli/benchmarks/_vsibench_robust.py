"""The robust reading of an answer to VSI-Bench."""

from __future__ import annotations

from rft3d_cli.answers.short import read_choice, read_number
from rft3d_cli.benchmarks._vsibench_tables import Answer, Asked
from rft3d_cli.mra import UNITS, mean_relative_accuracy


def read(text: str, record: Asked, kind: str) -> Answer:
    """Score one answer, read as a person would.

    Args:
        text: The prediction.
        record: Its question.
        kind: The question's type.
    """
    target = record.target
    if record.task == "choice":
        choice = read_choice(text, target.options)
        right = choice.letter == target.letter.upper()
        why = "" if right else choice.why or f"{choice.letter}, not {target.letter}"
        return float(right), choice.letter, why, choice.letter is not None
    number = read_number(text, UNITS.get(kind))
    if number.value is None:
        return 0.0, None, number.why, False
    share = mean_relative_accuracy(number.value, target.value, strict=False)
    return share, number.value, "" if share == 1 else f"{number.value:g} for {target.value:g}", True
