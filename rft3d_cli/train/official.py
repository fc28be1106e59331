"""The benchmarks' own numbers on held-out records, while a model is trained.

A reward is paid per record; a table is pooled over boxes, or a mean over classes or tasks, and its scorer reads less
than the rewards do. What is best by one need not be best by the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from rft3d_cli.benchmarks import detection, scanrefer, vsibench
from rft3d_cli.benchmarks.result import official_text
from rft3d_cli.records import Record

Answered = Sequence[tuple[Record, str]]
"""Records, each beside its answer."""


def official_metrics(answered: Answered) -> dict[str, float]:
    """What ``rft3d evaluate`` says of answers under the official scorers, in [0, 1].

    An answer is taken out of its tags where the prompt asked for tags.

    Args:
        answered: Of any tasks.

    Returns:
        Detection: ``official_f1``, pooled over boxes, and ``official_f1_20``, the mean over VG-LLM's 20 classes, of
        which those without targets count 0. Grounding with cameras: ``official_acc@0.25`` and ``official_acc@0.5``.
        VSI-Bench's questions: ``official_overall``, the mean over its tasks. What does not occur is absent.

    >>> from rft3d_cli.answers.target import target_answer
    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("detection")
    >>> official_metrics([(record, target_answer(record))])
    {'official_f1': 1.0, 'official_f1_20': 0.1}
    """
    out: dict[str, float] = {}
    if found := _named([pair for pair in answered if pair[0].task == "detection"]):
        document = detection.score(*found, intervals=False, visibility=False).document
        out["official_f1"] = document["micro"]["f1"] / 100
        out["official_f1_20"] = document["classes_20"]["f1"] / 100
    if found := _named([pair for pair in answered if pair[0].task == "grounding" and pair[0].camera is not None]):
        overall = scanrefer.score(*found, intervals=False).document["overall"]
        for name in ("acc@0.25", "acc@0.5"):
            out[f"official_{name}"] = overall[name] / 100
    if found := _named([pair for pair in answered if _is_vsibench(pair[0])]):
        out["official_overall"] = vsibench.score(*found, intervals=False).document["overall"] / 100
    return out


def _is_vsibench(record: Record) -> bool:
    return record.task in ("choice", "number") and record.meta.question_type in vsibench.TYPES


def _named(answered: Answered) -> tuple[list[Record], dict[str, str]] | None:
    """Records and predictions by id; ids are numbers here, as files may share those of their records."""
    if not answered:
        return None
    records = [record.model_copy(update={"id": str(index)}) for index, (record, _) in enumerate(answered)]
    texts = {
        str(index): official_text(text, "think" if "</answer>" in record.prompt else "direct")
        for index, (record, text) in enumerate(answered)
    }
    return records, texts
