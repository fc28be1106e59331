"""The model that answers: loaded with the first question, and once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rft3d_cli.errors import UsageError
from rft3d_cli.models.defaults import MAX_TOKENS
from rft3d_cli.show.infer_questions import Question
from rft3d_cli.video import Frames, Image

if TYPE_CHECKING:
    from rft3d_cli.models.inputs import EncodedPrompt

TOKENS = 32_768
"""Tokens of padded prompts in one forward pass, at most, but for a prompt that is longer by itself."""


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without searching for garbage on the way, and never search what was imported again.

    The modules of torch and transformers are millions of objects that stay. Collections in between, and the one at the
    end of the process, cost a command of seven seconds two more.
    """
    first = "torch" not in sys.modules
    if not (first and gc.isenabled()):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


class Speaker:
    """A model that is loaded when it is first asked.

    Args:
        name: See :func:`~rft3d_cli.models.loader.find_model`.
        tags: Write ``Frame-i: `` before each frame, as the model was trained.
        max_tokens: Longest answer; each task's own where None.
    """

    def __init__(self, name: str, *, tags: bool, max_tokens: int | None) -> None:
        self.name, self.tags, self.max_tokens = name, tags, max_tokens
        self._loaded: tuple[Any, Any] | None = None

    def sized(self, key: str, index: int, frame: Image) -> Any:
        """A frame of a video as the model sees it.

        Args:
            key: Names the video: a frame that questions share is prepared once.
            index: The frame's number in the video.
            frame: The whole frame.

        Raises:
            SetupError: Where the model cannot be loaded.
        """
        from PIL import Image as Pillow

        with quick_imports():
            from rft3d_cli.models.processor import KEY

        picture = Pillow.fromarray(frame)
        picture.info = {KEY: f"{key}#{index}"}
        return self._load()[1].size(picture)

    def _load(self) -> tuple[Any, Any]:
        with quick_imports():
            from rft3d_cli.models.loader import load_speaker

            self._loaded = self._loaded or load_speaker(self.name)
        return self._loaded

    def answers(self, questions: Sequence[Question], shown: Sequence[Frames]) -> list[str]:
        """What the model says to questions about one video, in order.

        Args:
            questions: The questions.
            shown: The frames that go with each, :meth:`sized` of each in ``made``.

        Raises:
            UsageError: Where a prompt is longer than the model reads.
            SetupError: Where the model cannot be loaded.
        """
        with quick_imports():
            from rft3d_cli.models.inputs import encode_prompt

        _, processor = self._load()
        prompts: list[EncodedPrompt] = []
        asked: dict[tuple[str, tuple[int, ...], int], int] = {}  # "find every chair" and "… table" are one prompt
        places = []
        for question, clip in zip(questions, shown, strict=True):
            text = question.prompt(len(clip.indices))
            same = (text, tuple(clip.indices), self._limit(question))
            places.append(asked.setdefault(same, len(prompts)))
            if places[-1] < len(prompts):
                continue
            prompt = encode_prompt(processor, text, clip.made, tags=self.tags)
            if processor.max_length is not None and len(prompt) >= processor.max_length:
                raise UsageError(
                    f"{question.text!r} with {len(clip.indices)} frames takes {len(prompt):,} tokens, and {self.name} "
                    f"reads at most {processor.max_length:,}",
                    "show it fewer frames: --frames",
                )
            prompts.append(prompt)
        said = [""] * len(prompts)
        for part, limit in self._batches(prompts, [limit for _, _, limit in asked]):
            for place, text in zip(part, self._generate([prompts[i] for i in part], limit), strict=True):
                said[place] = text
        return [said[place] for place in places]

    def _limit(self, question: Question) -> int:
        return self.max_tokens or MAX_TOKENS[question.task]

    def _batches(self, prompts: Sequence[EncodedPrompt], limits: Sequence[int]) -> Iterator[tuple[list[int], int]]:
        """Prompts that are answered together, and how long their answers may be."""
        from rft3d_cli.models.predict import Decoding

        for limit in dict.fromkeys(limits):
            part: list[int] = []
            for place in (i for i, own in enumerate(limits) if own == limit):
                longest = max(len(prompts[i]) for i in (*part, place))
                if part and (len(part) == Decoding().batch or longest * (len(part) + 1) > TOKENS):
                    yield part, limit
                    part = []
                part = [*part, place]
            yield part, limit

    def _generate(self, prompts: Sequence[EncodedPrompt], limit: int) -> list[str]:
        """Answers to one batch; to its halves where the GPU's memory does not take it whole."""
        import torch

        from rft3d_cli.models.loader import penalty_of
        from rft3d_cli.models.predict import Decoding, generate

        if self._loaded is None:
            raise RuntimeError("the model is loaded before it is asked")
        try:
            decoding = Decoding(max_tokens=limit, repetition_penalty=penalty_of(self.name))
            return generate(*self._loaded, prompts, decoding)
        except torch.OutOfMemoryError:
            if len(prompts) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(prompts) // 2
        return [*self._generate(prompts[:half], limit), *self._generate(prompts[half:], limit)]
