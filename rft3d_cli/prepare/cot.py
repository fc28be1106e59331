"""Chains of thought that hold: a teacher's answers to choice and number records, kept where the answer is right.

The 3D-RFT paper warms reasoning up on chains that were kept only where their answer is right, and finds poor ones worse
than none. The teacher may be any model: its outputs are read from a file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

from rft3d_cli.errors import UsageError
from rft3d_cli.files import sha256, write_json
from rft3d_cli.prepare.pipeline import Part, Policy, Report, run, share
from rft3d_cli.prompts import thinking_prompt
from rft3d_cli.records import Record, RecordFile
from rft3d_cli.rewards import RewardSet

TASKS = ("choice", "number")
BATCH = 32
"""Records that a model is asked together, and that are worked on together."""


@dataclass(frozen=True)
class CotSpec:
    """What is kept.

    Args:
        keep: Chains a record, in the order in which they come.
        at_least: Mean relative accuracy that a numeric answer must reach; letters must be right.
        min_words: Words of thought that a chain has at least: an empty one teaches not to think.
        max_chars: Characters of a whole text at most.
        any_answer: Keep chains with wrong answers too: the control that says what the selection is worth.
    """

    keep: int = 1
    at_least: float = 0.9
    min_words: int = 5
    max_chars: int = 4000
    any_answer: bool = False


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
        elif not spec.any_answer and value < (1 if record.task == "choice" else spec.at_least):
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


@dataclass(frozen=True)
class Batch:
    """Neighbouring records, of which :data:`BATCH` are asked.

    Args:
        file: Where they come from.
        first: How many are asked before them.
        records: All of them.
        outputs: Record id → what a teacher said, in order.
    """

    file: str
    first: int
    records: tuple[Record, ...]
    outputs: dict[str, list[str]] = field(default_factory=dict)

    @property
    def asked(self) -> list[Record]:
        """The records that are asked, with a prompt that asks for a chain of thought."""
        return [asked(record) for record in self.records if record.task in TASKS]


def batches(source: RecordFile, limit: int | None = None) -> list[Batch]:
    """Records in batches.

    Args:
        source: A record file.
        limit: How many of its records, the first ones; None for all.
    """
    out: list[Batch] = []
    these: list[Record] = []
    first = count = 0
    for record in source.records[:limit]:
        if record.task in TASKS and count == BATCH:
            out.append(Batch(str(source.path), first, tuple(these)))
            first, count, these = first + count, 0, []
        count += record.task in TASKS
        these.append(record)
    return [*out, Batch(str(source.path), first, tuple(these))]


class Sampling:
    """What a model has said so far: a file that grows by a line an output. Made by :func:`sampling`."""

    def __init__(self, stream: IO[bytes], finished: int) -> None:
        self.finished = finished
        self._stream = stream

    def add(self, name: str, text: str) -> None:
        """Keep one output."""
        row = {"id": name, "prediction": text}
        self._stream.write(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n")
        self._stream.flush()


@contextmanager
def sampling(outputs: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[Sampling]:
    """The file of a model's outputs, and beside it, in ``X.card.json``, which run they are of.

    Args:
        outputs: A ``.jsonl`` file.
        identity: What tells runs apart, JSON-able: only the same run may go on.
        resume: Keep the outputs of an interrupted run; otherwise they are dropped.

    Raises:
        UsageError: Where the run to resume was another one.
    """
    card = outputs.with_suffix(".card.json")
    mine = json.loads(json.dumps(identity))
    end = finished = 0
    if resume and outputs.is_file() and card.is_file():
        try:
            known = json.loads(card.read_text(encoding="utf-8"))
        except ValueError:
            known = {}
        if not isinstance(known, dict) or known != mine:
            differing = [key for key in mine if not isinstance(known, dict) or known.get(key) != mine[key]] or ["card"]
            raise UsageError(f"{outputs} is of another run: its {differing[0]} differs", "leave --resume away")
        with outputs.open("rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):
                    end, finished = end + len(line), finished + 1
    outputs.parent.mkdir(parents=True, exist_ok=True)
    if not end:
        # The old outputs go first: with the new card they would be taken for this run's.
        outputs.unlink(missing_ok=True)
        write_json(card, mine)
    with outputs.open("r+b" if end else "wb") as stream:
        stream.truncate(end)
        stream.seek(end)
        yield Sampling(stream, finished)


def prepare_cot(
    *,
    source: RecordFile,
    outputs: Mapping[str, Sequence[str]],
    outputs_file: Path,
    out: Path,
    media_root: Path,
    spec: CotSpec,
    policy: Policy,
    teacher: Mapping[str, Any] | None = None,
) -> Report:
    """Keep the chains of thought that verify, as records to warm a model up on.

    Args:
        source: Choice and number records; others are left out and counted.
        outputs: Record id → what the teacher said, in order.
        outputs_file: Where the outputs came from, for the card.
        out: The record file; the ids are those of the records with ``-cot1`` and so on.
        media_root: What the records' paths are relative to.
        spec: What is kept.
        policy: How to work; its limit counts records.
        teacher: How the outputs were sampled, where this command did it: for the card, in place of ``outputs_file``.

    Raises:
        DataError: Where no chain holds.
    """
    jobs = [
        replace(batch, outputs={one.id: list(outputs[one.id]) for one in batch.records if one.id in outputs})
        for batch in batches(source, policy.limit)
    ]
    said = {"outputs": str(outputs_file)} if teacher is None else dict(teacher)
    options = {"records": str(source.path), **said, **asdict(spec)}
    if policy.limit is not None:
        options["limit"] = policy.limit
    return run(
        jobs,
        partial(_work, spec=spec),
        _name,
        out=out,
        media_root=media_root,
        command="prepare cot",
        options=options,
        sources=[source.path] if teacher is not None else [source.path, outputs_file],
        # A job is many records; those beyond the limit have been cut off. What a model said is judged anew each time.
        policy=replace(policy, limit=None, resume=policy.resume and teacher is None),
        what="records_asked",
        kinds="types",
        nothing='outputs are lines {"id", "prediction"} with <think>…</think><answer>…</answer> in them',
    )


def mine(source: RecordFile, policy: Policy) -> Sequence[Batch]:
    """The batches that a policy asks for.

    Args:
        source: A record file.
        policy: How to work.
    """
    return share(batches(source, policy.limit), replace(policy, limit=None))


def sampled_by(model: str, source: RecordFile, policy: Policy, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one sampling of a model from another.

    Args:
        model: Its name.
        source: The records that it is asked about.
        policy: How to work.
        settings: Of the samples.
    """
    shard = "{}/{}".format(*policy.shard)
    return {"model": model, **settings, "records_sha256": sha256(source.path), "limit": policy.limit, "shard": shard}


@lru_cache(maxsize=1)
def _rewards() -> RewardSet:
    return RewardSet({"format": 1, "accuracy": 1, "mra": 1}, {"answer_style": "think"})


def _name(batch: Batch) -> str:
    return batch.file


def _work(batch: Batch, spec: CotSpec) -> Part:
    part = Part(batch.file, total=len(batch.records))
    for record in batch.records:
        if record.task not in TASKS:
            part.reject("record", "no choice or number", id=record.id)
            continue
        texts = batch.outputs.get(record.id, ())
        kept, lost = chains(record, texts, spec, _rewards())
        part.counts.update(outputs=len(texts))
        part.counts.update({f"outputs {reason}": number for reason, number in lost.items()})
        if not kept:
            part.reject("record", "no output" if not texts else "no chain holds", id=record.id, **lost)
        for number, text in enumerate(kept, 1):
            update = {"id": f"{record.id}-cot{number}", "answer": text}
            part.records.append(asked(record).model_copy(update=update))
            part.labels.update([record.meta.question_type or record.task])
    return part
