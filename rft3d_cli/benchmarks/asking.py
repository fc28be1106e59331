"""A model's answers to records: batch by batch, one video after another, safe on disk before the next."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
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

BATCH_TOKENS = 32_768
"""Tokens of pixels in a forward pass where no batch size is given: four clips of a 4B model, all 32 of tiny's."""
MOST = 32
STALE = ("result.json", "details.jsonl")
"""Files of a folder that would seem to be about answers that are now asked for."""


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

    def marks(self, records: Sequence[Record]) -> dict[str, str]:
        """What each record's answer is an answer to, by id.

        >>> from rft3d_cli.models.predict import Decoding
        >>> Asked("tiny", Decoding(), None, Path()).marks([])
        {}
        """
        return journals.marks(records, None if self.blind else self.media_root)

    def settings(self, marks: Mapping[str, str]) -> dict[str, Any]:
        """What shapes the answers, and so must be the same for them to be taken up again.

        Args:
            marks: Of what is asked. Draws depend on all of it, greedy answers each on its own record.

        Raises:
            SetupError: Where there is no such model.

        >>> from rft3d_cli.models.predict import Decoding
        >>> Asked("tiny", Decoding(max_tokens=16), None, Path()).settings({})["decoding"]
        {'greedy': True, 'max_tokens': 16, 'repetition_penalty': 1.0}
        """
        from rft3d_cli.models.loader import settings_hash, weight_hashes

        out: dict[str, Any] = {
            "model": {
                "name": self.model,
                "sha256": weight_hashes(self.model),
                "settings_sha256": settings_hash(self.model),
            },
            "decoding": self.decoding.document(),
            "frames": self.frames,
            "sampler": self.sampler,
            "tags": self.tags,
            "blind": self.blind,
            "confidence": self.confidence,
        }
        if self.decoding.sample:
            out["records"] = hashlib.sha256(" ".join(marks.values()).encode()).hexdigest()[:12]
        return out


@dataclass
class Said:
    """What came of asking.

    Args:
        predictions: Record id → text, in the order of the records.
        confidence: Record id → log-probability of each box of its answer, where that was asked for.
        lost: Why records could not be asked, by id.
        damaged: Clips of which some frames could not be read and others stand in their place.
        about: What the result says of the model.
        run: What differs from one process to the next: seconds, how many were asked now and how many before.
    """

    predictions: dict[str, str]
    confidence: dict[str, list[float]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
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
    start = time.monotonic()
    marks = asked.marks(records)
    settings = asked.settings(marks)
    folder = journals.shard_folder(out, shard)
    # A model that cannot be loaded leaves nothing behind, and throws nothing away.
    asking = _Asking(asked) if fresh or not (journals.begun(folder) or journals.shards(out)) else None
    ordered = by_video(records)
    with journals.journal(folder, settings, fresh=fresh, marks=marks) as book:
        plan = _Plan(folder / journals.PLAN)
        if shard is None and not fresh:
            _take_shares(out, book, settings, plan)
        lost: dict[str, str] = {}
        count = 0
        if _all_there(ordered, asked, book, shard):
            note("  all answers are there; nothing is asked")
        else:
            for name in STALE:
                (out / name).unlink(missing_ok=True)
            count = (asking or _Asking(asked)).ask(ordered, shard, book, plan, lost)
        saved = {record.id: book.saved[record.id] for record in records if book.has([record])}
        plan.settle([name for record in ordered for name in record.media])
        if shard is None:
            book.settle(list(saved))
    _write_lost(folder / journals.ERRORS, lost)
    if lost and not saved:
        raise DataError(f"no record could be asked; the first: {next(iter(lost.values()))}")
    return Said(
        predictions={name: line["prediction"] for name, line in saved.items()},
        confidence={name: line["confidence"] for name, line in saved.items() if "confidence" in line},
        lost=lost,
        damaged=plan.damaged({name for record in records for name in record.media}),
        about={
            **settings["model"],
            **{key: value for key, value in settings.items() if key != "model"},
            **(book.settings.get(journals.MADE) or {}),
        },
        run={"seconds": round(time.monotonic() - start, 1), "asked": count, "answered_before": len(saved) - count},
    )


def _all_there(records: Sequence[Record], asked: Asked, book: journals.Journal, shard: tuple[int, int] | None) -> bool:
    """Whether a share of the records, in the order in which they are asked, is answered."""
    size = _batch_of(asked, book)
    if shard is None or not size:
        return book.has(records)
    starts = share(range(0, len(records), size), shard)
    return all(book.has(records[start : start + size]) for start in starts)


def _batch_of(asked: Asked, book: journals.Journal) -> int:
    """Records a forward pass, as they were when the work began; 0 where nobody has said."""
    return asked.decoding.batch or (book.settings.get(journals.MADE) or {}).get("batch", 0)


class _Plan:
    """``frames.jsonl``: which frames of each clip were shown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, str] = {}
        if path.is_file():
            journals.drop_torn_line(path)
            self.take(path)

    def take(self, path: Path) -> None:
        """Add what another file says of clips that are not known here; nothing is written."""
        if path.is_file():
            found = {_path_of(line): line for _, line in read_lines(path, torn=True) if line.endswith("\n")}
            self.lines = found | self.lines

    def add(self, plans: Mapping[str, Mapping[str, Any]]) -> None:
        """Append what is new, or otherwise than before."""
        fresh = {name: json.dumps(plan, ensure_ascii=False) + "\n" for name, plan in plans.items()}
        fresh = {name: line for name, line in fresh.items() if self.lines.get(name) != line}
        if fresh:
            self.lines |= fresh
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(fresh.values())

    def damaged(self, clips: Collection[str]) -> list[str]:
        """Those of the clips that were damaged."""
        return [name for name, line in self.lines.items() if name in clips and json.loads(line).get("damaged")]

    def settle(self, clips: Sequence[str]) -> None:
        """Leave one line a clip, these first, in their order."""
        order = [name for name in dict.fromkeys((*clips, *self.lines)) if name in self.lines]
        text = "".join(self.lines[name] for name in order)
        if text and (not self.path.is_file() or self.path.read_text(encoding="utf-8") != text):
            with atomic_writer(self.path) as stream:
                stream.write(text)


def _path_of(line: str) -> str:
    return str(json.loads(line).get("path"))


def _take_shares(out: Path, book: journals.Journal, settings: Mapping[str, Any], plan: _Plan) -> None:
    """Take up what shares of the same work have answered."""
    for folder in journals.shards(out):
        known = journals.asked_in(folder)
        if known is None or journals.differences(known, settings):
            warn(f"{folder} holds answers asked for otherwise, which are left out")
            continue
        book.take(journals.read_saved_answers(folder))
        book.made(known.get(journals.MADE))
        plan.take(folder / journals.PLAN)


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
        note(f"  loading {asked.model}")
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
        book: journals.Journal,
        plan: _Plan,
        lost: dict[str, str],
    ) -> int:
        """Ask the batches of a share that are not whole yet.

        Args:
            records: All records, in the order in which they are asked.
            shard: The share.
            book: Where answers go.
            plan: Where the frames that were shown are written down.
            lost: Gets why records could not be asked, by id.

        Returns:
            How many records were answered.
        """
        self.book, self.lost, self.plan = book, lost, plan
        # The size of a batch is that of the first process, also where a clip could not be read then: draws hang on it.
        size = _batch_of(self.asked, book) or self.batch_size(records)
        book.made(self.where() | {"batch": size})
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

    def where(self) -> dict[str, Any]:
        """Where and by what the answers are made."""
        from rft3d_cli.benchmarks.result import environment

        device = self.model.device
        if device.type == "cuda":
            import torch

            device = torch.cuda.get_device_name(device)
        return {"device": str(device), "frame_width": self.processor.frame_width, "versions": environment()}

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
                {"id": record.id, "prediction": text, "of": self.book.mark(record)}
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
        self.plan.add(self.store.plans)
        self.book.append(lines)
        return len(read)
