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
