"""Training records with their frames, read lazily and once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
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
        if index in self._encoded:
            self._encoded.move_to_end(index)
            return self._encoded[index]
        example = self.examples[index]
        found = example.store.encode(example.record)
        self._encoded[index] = found
        self._bytes += found.nbytes
        while self._bytes > KEPT_BYTES and len(self._encoded) > 1:
            self._bytes -= self._encoded.popitem(last=False)[1].nbytes
        return found

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
        store = FrameStore(
            source.media_root,
            processor,
            frames=config.video.frames,
            sampler=config.video.sampler,
            tags=config.video.tags,
        )
        examples += [Example(record, store) for record in source.records]
    return Examples(examples, processor)
