"""Chains of thought that hold: a teacher's answers to choice and number records, kept where the answer is right.

The 3D-RFT paper warms reasoning up on chains that were kept only where their answer is right, and finds poor ones worse
than none. The teacher may be any model: its outputs are read from a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rft3d_cli.prepare.pipeline import Part, Policy, Report, run_part
from rft3d_cli.prompts import thinking_prompt
from rft3d_cli.records import Record, RecordFile
from rft3d_cli.rewards import RewardSet

TASKS = ("choice", "number")


@dataclass(frozen=True)
class CotSpec:
    """What is kept.

    Args:
        keep: Chains a record, in the order in which they come.
        at_least: Mean relative accuracy that a numeric answer must reach; letters must be right.
        min_words: Words of thought that a chain has at least: an empty one teaches not to think.
        max_chars: Characters of a whole text at most.
    """

    keep: int = 1
    at_least: float = 0.9
    min_words: int = 5
    max_chars: int = 4000


def asked(record: Record) -> Record:
    """The record with a prompt that asks for a chain of thought.

    >>> from rft3d_cli.examples import example_record
    >>> asked(example_record("number")).prompt.endswith("</answer>.")
    True
    """
    return record.model_copy(update={"prompt": thinking_prompt(record.prompt, choice=record.task == "choice")})


def chains(record: Record, texts: Iterable[str], spec: CotSpec, rewards: RewardSet) -> tuple[list[str], Counter[str]]:
    """The texts that hold, at most ``spec.keep``, and why the others do not.

    Args:
        record: A choice or a number.
        texts: What the teacher said, in order.
        spec: What is kept.
        rewards: ``format`` with the style ``think``, ``accuracy`` and ``mra``.
    """
    kept: list[str] = []
    lost: Counter[str] = Counter()
    for text in dict.fromkeys(text.strip() for text in texts):
        scores = rewards.score(text, record)
        value = scores["accuracy" if record.task == "choice" else "mra"].value
        if not scores["format"].value:
            lost["not in the form"] += 1
        elif value < (1 if record.task == "choice" else spec.at_least):
            lost["wrong answer"] += 1
        elif len(text) > spec.max_chars:
            lost["too long"] += 1
        elif len(_thought(text).split()) < spec.min_words:
            lost["no thought"] += 1
        elif len(kept) == spec.keep:
            lost["more than are kept"] += 1
        else:
            kept.append(text)
    return kept, lost


def _thought(text: str) -> str:
    return text.partition("<think>")[2].partition("</think>")[0]


def prepare_cot(
    *,
    source: RecordFile,
    outputs: Mapping[str, Sequence[str]],
    outputs_file: Path,
    out: Path,
    media_root: Path,
    spec: CotSpec,
    policy: Policy,
) -> Report:
    """Keep the chains of thought that verify, as records to warm a model up on.

    Args:
        source: Choice and number records; others are left out and counted.
        outputs: Record id → what the teacher said, in order.
        outputs_file: Where the outputs came from, for the card.
        out: The record file; the ids are those of the records with ``-cot1`` and so on.
        media_root: What the records' paths are relative to.
        spec: What is kept.
        policy: How to work.

    Raises:
        DataError: Where no chain holds.
    """
    rewards = RewardSet({"format": 1, "accuracy": 1, "mra": 1}, {"answer_style": "think"})
    part = Part(str(source.path), total=len(source.records))
    for record in source.records:
        if record.task not in TASKS:
            part.reject("record", "no choice or number", id=record.id)
            continue
        texts = outputs.get(record.id, ())
        kept, lost = chains(record, texts, spec, rewards)
        part.counts.update(outputs=len(texts))
        part.counts.update({f"outputs {reason}": number for reason, number in lost.items()})
        if not kept:
            part.reject("record", "no output" if not texts else "no chain holds", id=record.id, **lost)
        for number, text in enumerate(kept, 1):
            update = {"id": f"{record.id}-cot{number}", "answer": text}
            part.records.append(asked(record).model_copy(update=update))
            part.labels.update([record.meta.question_type or record.task])
    return run_part(
        part,
        out=out,
        media_root=media_root,
        command="prepare cot",
        options={"records": str(source.path), "outputs": str(outputs_file), **asdict(spec)},
        sources=[source.path, outputs_file],
        policy=policy,
        what="records_asked",
        kinds="types",
        nothing='outputs are lines {"id", "prediction"} with <think>…</think><answer>…</answer> in them',
    )
