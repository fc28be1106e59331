"""The answer that a record's target stands for."""

from __future__ import annotations

from rft3d_cli.answers.boxes import detection_answer, grounding_answer
from rft3d_cli.errors import DataError
from rft3d_cli.records import ChoiceTarget, DetectionTarget, GroundingTarget, NumberTarget, Record, TextTarget


def target_answer(record: Record, decimals: int | None = 2) -> str:
    """The text that supervised training teaches for a record: its ``answer``, or what follows from its target.

    Args:
        record: The record.
        decimals: For boxes written here; None keeps full precision. An ``answer`` in the record is taken as it is.

    Raises:
        DataError: For a text record without answer and references.

    >>> from rft3d_cli.examples import example_record
    >>> [target_answer(example_record(task)) for task in ("choice", "number", "text")]
    ['B', '2.5', 'A chair and a table.']
    """
    if record.answer is not None:
        return record.answer
    target = record.target
    if isinstance(target, DetectionTarget):
        return detection_answer([b.label for b in target.boxes], [b.bbox_3d for b in target.boxes], decimals)
    if isinstance(target, GroundingTarget):
        return grounding_answer(target.frame, target.bbox_3d, decimals)
    if isinstance(target, ChoiceTarget):
        return target.letter
    if isinstance(target, NumberTarget):
        return f"{target.value:.12g}"
    if isinstance(target, TextTarget) and target.references:
        return target.references[0]
    raise DataError(f"record {record.id} has neither an answer nor references to train on")


def exact_answer(record: Record) -> str:
    """The target at full precision, whatever the record's ``answer`` rounds it to or says around it.

    Args:
        record: The record. A text record has no target but its texts: its ``answer`` is taken where it has one.

    Returns:
        The text of the answer, in the form of :func:`target_answer`.

    Raises:
        DataError: For a text record without answer and references.

    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("number").model_copy(update={"answer": "about 3"})
    >>> target_answer(record), exact_answer(record)
    ('about 3', '2.5')
    """
    if record.task == "text":
        return target_answer(record)
    return target_answer(record.model_copy(update={"answer": None}), decimals=None)


def in_style(text: str, record: Record, style: str | None) -> str:
    """An answer in the form that ``answer_style`` asks of choices and numbers; others, and empty ones, as they are.

    Args:
        text: The answer, bare or in tags already.
        record: Its record.
        style: ``think`` for ``<think>…</think><answer>…</answer>``; anything else asks for nothing.

    Returns:
        The answer in tags, with empty thinking; or ``text``.

    >>> from rft3d_cli.records import parse_record
    >>> line = '{"id": "1", "task": "number", "video": {"path": "a.mp4"}, "prompt": "?", "target": {"value": 2}}'
    >>> in_style("2", parse_record(line), "think")
    '<think></think><answer>2</answer>'
    """
    if style != "think" or not text or "<answer>" in text or record.task not in ("choice", "number"):
        return text
    return f"<think></think><answer>{text}</answer>"
