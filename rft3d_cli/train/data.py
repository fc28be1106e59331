"""Training records with their frames, read lazily and once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.answers.target import target_answer
from rft3d_cli.models.inputs import EncodedPrompt, FrameStore, collate, encode_answer
from rft3d_cli.models.processor import FrameProcessor
from rft3d_cli.recipe_schema import Config
from rft3d_cli.records import Record, read_records

KEPT_BYTES = 2**30
"""Memory for encoded prompts: an epoch of small clips, or a few dozen of 32 large frames."""

ROWS = "rows"
"""Key of a supervised batch that says whose its rows are; it is taken out before the model sees the batch."""

_READING = threading.RLock()
"""Held while frames are decoded and encoded: what does that remembers what it has read."""


class _Store(FrameStore):
    """A frame store that may be asked by the thread that reads ahead, and by the one that trains."""

    def load(self, record: Record) -> Any:
        with _READING:
            return super().load(record)

    def encode(self, record: Record) -> EncodedPrompt:
        with _READING:
            return super().encode(record)


@dataclass(frozen=True)
class Example:
    """A record and where its frames come from."""

    record: Record
    store: FrameStore

    @property
    def answer(self) -> str:
        """The text that supervised training teaches."""
        return target_answer(self.record)


class Examples:
    """Records of one or several files, in file order; tasks may differ.

    Args:
        examples: The records.
        processor: Turns them into model inputs.
    """

    def __init__(self, examples: Sequence[Example], processor: FrameProcessor) -> None:
        self.examples, self.processor = list(examples), processor
        self._encoded: OrderedDict[int, EncodedPrompt] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._reader: ThreadPoolExecutor | None = None
        self._coming: dict[int, Future[EncodedPrompt | None]] = {}
        self._wanted: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    @property
    def tasks(self) -> dict[str, int]:
        """How many records of each task there are."""
        counts: dict[str, int] = {}
        for example in self.examples:
            counts[example.record.task] = counts.get(example.record.task, 0) + 1
        return counts

    def prompt(self, index: int) -> EncodedPrompt:
        """The encoded prompt of record ``index``; those used last are kept, up to :data:`KEPT_BYTES`."""
        with self._lock:
            if index in self._encoded:
                self._encoded.move_to_end(index)
                return self._encoded[index]
            coming = self._coming.pop(index, None)
        found = None
        # What is being read already is waited for. What failed is read again, for its error to come here.
        if coming is not None and not coming.cancel() and coming.exception() is None:
            found = coming.result()
        if found is None:
            found = self._read(index)
        with self._lock:
            self._keep(index, found)
            while self._bytes > KEPT_BYTES and len(self._encoded) > 1:
                self._bytes -= self._encoded.popitem(last=False)[1].nbytes
        return found

    def _read(self, index: int) -> EncodedPrompt:
        example = self.examples[index]
        return example.store.encode(example.record)

    def _keep(self, index: int, found: EncodedPrompt) -> None:
        if index not in self._encoded:
            self._encoded[index] = found
            self._bytes += found.nbytes

    def ahead(self, indices: Iterable[int]) -> None:
        """Read prompts in the background, so that they are there when they are asked for.

        Args:
            indices: The batch that comes after the one that was announced last. Both stay in memory where they fit;
                what does not fit, or cannot be read, is left for :meth:`prompt`.
        """
        batch = frozenset(indices)
        with self._lock:
            if batch == self._wanted[1]:
                return
            self._wanted = (self._wanted[1], batch)
            if self._reader is None:
                self._reader = ThreadPoolExecutor(1, thread_name_prefix="rft3d-ahead")
            for index in dict.fromkeys(indices):
                if index not in self._encoded and index not in self._coming:
                    self._coming[index] = self._reader.submit(self._read_ahead, index)

    def _read_ahead(self, index: int) -> EncodedPrompt | None:
        """A prompt, or None where there is no room for one more."""
        with self._lock:
            if self._bytes >= KEPT_BYTES and self._needed(next(iter(self._encoded))):
                return None
        found = self._read(index)
        with self._lock:
            self._coming.pop(index, None)
            while self._encoded and self._bytes + found.nbytes > KEPT_BYTES:
                oldest = next(iter(self._encoded))
                if self._needed(oldest):
                    return found
                self._bytes -= self._encoded.pop(oldest).nbytes
            self._keep(index, found)
        return found

    def _needed(self, index: int) -> bool:
        return index in self._wanted[0] or index in self._wanted[1]

    def close(self) -> None:
        """Stop reading ahead."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()

    def messages(self, index: int) -> list[dict[str, Any]]:
        """Record ``index`` as a chat, as TRL takes it."""
        example = self.examples[index]
        return example.store.messages(example.record, len(example.store.load(example.record)))

    def answer_ids(self, index: int) -> NDArray[np.int64]:
        """Token ids of the answer to record ``index``."""
        return encode_answer(self.processor, self.examples[index].answer)

    def supervised_batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """A padded batch of prompts and answers with labels on the answers only."""
        prompts = [self.prompt(i) for i in indices]
        return collate(prompts, self.processor.tokenizer.pad_token_id, [self.answer_ids(i) for i in indices])


class WithRows:
    """A collator whose batches say whose rows they hold.

    Args:
        collate: Batches of rows to model inputs.
    """

    def __init__(self, collate: Callable[[Sequence[dict[str, int]]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        """The batch."""
        import torch

        return {**self.collate(rows), ROWS: torch.tensor([row["row"] for row in rows])}


class Announced:
    """A collator that has the prompts of its batches read in the background.

    The trainer collates a batch before it works on the one before, so there is time.

    Args:
        collate: Passes rows on.
        examples: Whose rows they are.
    """

    def __init__(self, collate: Callable[[Any], Any], examples: Examples) -> None:
        self.collate, self.examples = collate, examples

    def __call__(self, rows: Sequence[dict[str, int]]) -> Any:
        """The batch."""
        self.examples.ahead([row["row"] for row in rows])
        return self.collate(rows)


def read_examples(
    paths: Sequence[str],
    processor: FrameProcessor,
    config: Config,
    *,
    limit: int | None = None,
) -> Examples:
    """Read the record files of a recipe.

    Args:
        paths: JSONL files.
        processor: The model's.
        config: Media root and frame sampling.
        limit: Records a file.

    Raises:
        DataError: On a missing or wrong file.
    """
    examples: list[Example] = []
    for path in paths:
        source = read_records(Path(path), media_root=config.data.media_root, limit=limit)
        store = _Store(
            source.media_root,
            processor,
            frames=config.video.frames,
            sampler=config.video.sampler,
            tags=config.video.tags,
        )
        examples += [Example(record, store) for record in source.records]
    return Examples(examples, processor)
