"""A model's answers to records: batch by batch, one video after another, safe on disk before the next."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.benchmarks import journal as journals
from rft3d_cli.console import note, progress, warn
from rft3d_cli.errors import DataError, SetupError
from rft3d_cli.files import atomic_writer
from rft3d_cli.records import Record, read_lines
from rft3d_cli.samplers import Sampler

if TYPE_CHECKING:
    from rft3d_cli.models.predict import Decoding

PLAN = "frames.jsonl"
"""Which frames of each clip were shown, one line a clip."""
BATCH_TOKENS = 32_768
"""Tokens of pixels in a forward pass where no batch size is given: four clips of a 4B model, all 32 of tiny's."""
MOST = 32


@dataclass(frozen=True)
class Asked:
    """How a model is asked.

    Args:
        model: As the user named it.
        decoding: How its answers are decoded; a ``batch`` of 0 is chosen by the clips' length.
        frames: Frames a clip, where the command set it.
        media_root: Folder of the media.
        sampler: How frames are chosen from clips, where the model was trained on one way.
        tags: Whether frames are numbered in prompts that do not do so themselves.
        blind: Show no frames: what is answered then is answered from the words.
        confidence: Also keep how likely the model finds the tokens of each box.
    """

    model: str
    decoding: Decoding
    frames: int | None
    media_root: Path
    sampler: Sampler | None = None
    tags: bool = False
    blind: bool = False
    confidence: bool = False

    def settings(self, hashes: Mapping[str, str], records: Sequence[Record]) -> dict[str, Any]:
        """What shapes the answers, and so must be the same for them to be taken up again.

        Args:
            hashes: SHA-256 of the model's files.
            records: What is asked. Draws depend on all of it, greedy answers each on its own record.

        >>> from rft3d_cli.models.predict import Decoding
        >>> Asked("tiny", Decoding(max_tokens=16), None, Path()).settings({}, [])["decoding"]
        {'greedy': True, 'max_tokens': 16, 'repetition_penalty': 1.0}
        """
        out: dict[str, Any] = {
            "model": {"name": self.model, "sha256": dict(hashes)},
            "decoding": self.decoding.document(),
            "frames": self.frames,
            "sampler": self.sampler,
            "tags": self.tags,
            "blind": self.blind,
            "confidence": self.confidence,
        }
        if self.decoding.sample:
            out["records"] = journals.question_hash_of_all(records)
        return out


@dataclass
class Said:
    """What came of asking.

    Args:
        predictions: Record id → text, in the order of the records.
        confidence: Record id → log-probability of each box of its answer, where that was asked for.
        lost: Why records could not be asked, by id.
        about: What the result says of the model.
        run: What differs from one process to the next: seconds, how many were asked now and how many before.
    """

    predictions: dict[str, str]
    confidence: dict[str, list[float]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


def by_video(records: Sequence[Record]) -> list[Record]:
    """The records with those of one video beside each other, so that each is read once.

    >>> from rft3d_cli.examples import example_record
    >>> a, b = example_record("number"), example_record("choice")
    >>> b = b.model_copy(update={"video": b.video.model_copy(update={"frames": ["x.jpg"]})})
    >>> c = a.model_copy(update={"id": "c"})
    >>> [record.id for record in by_video([a, b, c])]
    ['example-number', 'c', 'example-choice']
    """
    first: dict[tuple[str, ...], int] = {}
    for record in records:
        first.setdefault(tuple(record.media), len(first))
    return sorted(records, key=lambda record: first[tuple(record.media)])


def share(batches: Sequence[Any], shard: tuple[int, int] | None) -> Sequence[Any]:
    """A share of the batches: neighbours, so that two machines read few videos both.

    >>> [list(share(range(5), (i, 2))) for i in (1, 2)]
    [[0, 1], [2, 3, 4]]
    """
    if shard is None:
        return batches
    index, count = shard
    return batches[len(batches) * (index - 1) // count : len(batches) * index // count]


def predict(
    records: Sequence[Record],
    asked: Asked,
    out: Path,
    *,
    shard: tuple[int, int] | None = None,
    fresh: bool = False,
) -> Said:
    """Ask a model what was not answered yet, appending each batch of answers to ``predictions.jsonl`` as it comes.

    Args:
        records: What to ask.
        asked: How.
        out: The folder, made where missing. An older ``result.json`` is removed where anything is asked.
        shard: Ask a share only, ``(i, n)`` with ``i`` from 1; its answers go to a folder of their own in ``out``.
        fresh: Throw away the answers that are there.

    Returns:
        Answers by id. Records whose frames cannot be read are left out and named in ``lost``.

    Raises:
        UsageError: On an empty model name; where ``out`` holds answers that were asked for otherwise.
        SetupError: Where the model, its weights or its tokenizer files are missing, or memory does not suffice.
        DataError: Where no record at all could be asked.

    >>> import tempfile
    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.models.predict import Decoding
    >>> from rft3d_cli.records import Clip
    >>> clips = Path(__file__).parents[2] / "assets" / "clips"
    >>> record = example_record("number").model_copy(update={"video": Clip(path="room.mp4", frames=2)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asked = Asked("tiny", Decoding(max_tokens=4), None, clips)
    ...     first, again = (predict([record], asked, Path(folder)) for _ in range(2))
    >>> list(first.predictions), first.run["asked"], again.run["asked"], again.predictions == first.predictions
    (['example-number'], 1, 0, True)
    """
    from rft3d_cli.models.loader import weight_hashes

    start = time.monotonic()
    hashes = weight_hashes(asked.model)
    settings = asked.settings(hashes, records)
    folder = journals.shard_folder(out, shard)
    # A model that cannot be loaded leaves nothing behind.
    asking = None if journals.begun(folder) or journals.shards(out) else _Asking(asked)
    with journals.journal(folder, settings, fresh=fresh) as book:
        if shard is None and not fresh:
            _take_shares(out, book, settings)
        lost: dict[str, str] = {}
        count = 0
        if not book.has(records):
            (out / "result.json").unlink(missing_ok=True)
            count = (asking or _Asking(asked)).ask(by_video(records), shard, folder, book, lost)
        saved = {record.id: book.saved[record.id] for record in records if book.has([record])}
        if shard is None:
            book.settle(list(saved))
    _write_lost(folder / journals.ERRORS, lost)
    if lost and not saved:
        raise DataError(f"no record could be asked; the first: {next(iter(lost.values()))}")
    return Said(
        predictions={name: line["prediction"] for name, line in saved.items()},
        confidence={name: line["confidence"] for name, line in saved.items() if "confidence" in line},
        lost=lost,
        about={**settings["model"], **{key: value for key, value in settings.items() if key != "model"}},
        run={"seconds": round(time.monotonic() - start, 1), "asked": count, "answered_before": len(saved) - count},
    )


def _take_shares(out: Path, book: journals.Journal, settings: Mapping[str, Any]) -> None:
    """Take up what shares of the same work have answered."""
    for folder in journals.shards(out):
        known = journals.asked_in(folder)
        if known is None or journals.differences(known, settings):
            warn(f"{folder} holds answers asked for otherwise, which are left out")
            continue
        book.saved = journals.read_saved_answers(folder) | book.saved


def _write_lost(path: Path, lost: Mapping[str, str]) -> None:
    if not lost:
        path.unlink(missing_ok=True)
        return
    with atomic_writer(path) as stream:
        lines = (json.dumps({"id": name, "why": why}, ensure_ascii=False) + "\n" for name, why in lost.items())
        stream.writelines(lines)


class _Asking:
    """A loaded model and the questions that one process asks it."""

    def __init__(self, asked: Asked) -> None:
        from rft3d_cli.models.inputs import FrameStore
        from rft3d_cli.models.loader import load_speaker

        self.asked = asked
        self.model, self.processor = load_speaker(asked.model)
        self.store = FrameStore(
            asked.media_root,
            self.processor,
            frames=asked.frames,
            sampler=asked.sampler,
            tags=asked.tags,
            blind=asked.blind,
        )

    def ask(
        self,
        records: Sequence[Record],
        shard: tuple[int, int] | None,
        folder: Path,
        book: journals.Journal,
        lost: dict[str, str],
    ) -> int:
        """Ask the batches of a share that are not whole yet.

        Args:
            records: All records, in the order in which they are asked.
            shard: The share.
            folder: Where the plan of frames is written.
            book: The journal of that folder.
            lost: Gets why records could not be asked, by id.

        Returns:
            How many records were answered.
        """
        self.book, self.lost, self.plan = book, lost, folder / PLAN
        self.planned = _planned(self.plan)
        size = self.asked.decoding.batch or self.batch_size(records)
        starts = share(range(0, len(records), size), shard)
        wanted = [start for start in starts if not self.book.has(records[start : start + size])]
        done = sum(len(records[start : start + size]) for start in starts if start not in set(wanted))
        if done:
            note(f"  goes on {done:,} answers of {sum(len(records[s : s + size]) for s in starts):,} are there")
        answered = 0
        with progress("answering", sum(len(records[start : start + size]) for start in wanted)) as ticker:
            for start in wanted:
                answered += self._batch(records[start : start + size], start)
                ticker.advance(len(records[start : start + size]))
        return answered

    def batch_size(self, records: Sequence[Record]) -> int:
        """Records a forward pass, by the length of the first prompt that can be read."""
        for record in records:
            try:
                return max(1, min(MOST, BATCH_TOKENS // self.store.prompt_length(record)))
            except DataError:
                continue
        return 1

    def _batch(self, records: Sequence[Record], start: int) -> int:
        """Ask one batch and write its answers; records whose frames cannot be read are noted as lost."""
        import torch

        from rft3d_cli.models.confidence import box_confidence
        from rft3d_cli.models.predict import answer_batch

        read: list[Record] = []
        prompts = []
        for record in records:
            try:
                prompts.append(self.store.encode(record))
                read.append(record)
            except DataError as error:
                self.lost[record.id] = error.message
        if not read:
            return 0
        try:
            texts = answer_batch(self.model, self.processor, prompts, self.asked.decoding, start)
            lines: list[dict[str, Any]] = [
                {"id": record.id, "prediction": text, "of": journals.question_hash(record)}
                for record, text in zip(read, texts, strict=True)
            ]
            if self.asked.confidence:
                known = box_confidence(self.model, self.processor, prompts, texts)
                lines = [line | {"confidence": one.confidence} for line, one in zip(lines, known, strict=True)]
        except torch.OutOfMemoryError:
            hint = f"ask fewer at once: --batch {max(1, len(read) // 2)}; answers so far are kept"
            raise SetupError(
                f"a batch of {len(read)} does not fit into the memory of {self.model.device}", hint
            ) from None
        # First the plan: a clip whose questions are all answered is not read again.
        self._write_plan()
        self.book.append(lines)
        return len(read)

    def _write_plan(self) -> None:
        """Append which frames were shown of clips that are new."""
        fresh = [plan for name, plan in self.store.plans.items() if name not in self.planned]
        if fresh:
            self.planned |= {plan["path"] for plan in fresh}
            with self.plan.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(plan, ensure_ascii=False) + "\n" for plan in fresh)


def _planned(path: Path) -> set[str]:
    """Clips whose frames are written down; a torn last line is written again."""
    if not path.is_file():
        return set()
    journals.drop_torn_line(path)
    return {json.loads(line)["path"] for _, line in read_lines(path)}
