"""From a record to tensors: the one path that training, evaluation and inference share.

A ``FrameStore`` reads frames, ``chat`` lays out prompt and frames, ``encode_messages`` turns them into ids and patches,
``collate`` pads a batch. Whoever needs model inputs calls these, so that what a model is trained on is what it is
asked.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rft3d_cli.errors import DataError
from rft3d_cli.models.processor import KEY, FrameProcessor
from rft3d_cli.prompts import FORBIDDEN, IMAGE
from rft3d_cli.records import MEDIA_HINT, Clip, FrameList, Record, media_path
from rft3d_cli.samplers import DEFAULT_FRAMES, DEFAULT_SAMPLER
from rft3d_cli.video import IMAGE_FORMATS

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises over a picture that it cannot read."""

KEEP = 1 << 30
"""A GiB of pictures: all of a laptop's rooms, so that every epoch but the first reads no file, and no more of 4B's."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its frames, ready to be padded into a batch.

    Args:
        input_ids: ``(n,)`` token ids, ending with the assistant's header.
        mm_token_type_ids: ``(n,)``, 1 where a token stands for a piece of a frame. Without it transformers falls back
            to one-dimensional positions and says nothing.
        pixel_values: ``(patches, patch_dim)`` float32; ``(0, 0)`` without frames.
        image_grid_thw: ``(frames, 3)``.
        geometry: ``(frames, 3, H, W)`` uint8, for a geometry encoder that wants other pixels than the vision tower.
    """

    input_ids: NDArray[np.int64]
    mm_token_type_ids: NDArray[np.int64]
    pixel_values: NDArray[np.float32]
    image_grid_thw: NDArray[np.int64]
    geometry: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        arrays = (self.input_ids, self.mm_token_type_ids, self.pixel_values, self.image_grid_thw, self.geometry)
        return sum(array.nbytes for array in arrays if array is not None)


class FrameStore:
    """Frames of records, read once and kept while they are in use.

    Args:
        media_root: Folder of the records' media paths.
        processor: Its sizing rule is applied on reading, so that the store holds small pictures.
        frames: Frames a clip where neither the record nor this says otherwise.
        sampler: Likewise.
        tags: Write ``Frame-i: `` before each frame of a prompt that does not place its frames itself.
        keep: Bytes of pictures to remember; those used longest ago are forgotten first.
        blind: Show no frames, only the words.

    Attributes:
        plans: Which frames of each clip were read, by the clip's path: ``path``, ``sampler``, ``indices``, ``times``
            (seconds), ``size`` and ``shown`` (pixels), ``damaged``.
    """

    def __init__(
        self,
        media_root: Path,
        processor: FrameProcessor,
        *,
        frames: int | None = None,
        sampler: str | None = None,
        tags: bool = False,
        keep: int = KEEP,
        blind: bool = False,
    ) -> None:
        self.media_root, self.processor = media_root, processor
        self.frames, self.sampler, self.tags, self.keep, self.blind = frames, sampler, tags, keep, blind
        self.plans: dict[str, dict[str, Any]] = {}
        self._kept: OrderedDict[Any, list[Image.Image]] = OrderedDict()
        self._kept_bytes = 0
        self._sizes: dict[str, tuple[int, int]] = {}
        self._tokens: dict[tuple[str, int], int] = {}

    def encode(self, record: Record) -> EncodedPrompt:
        """The record's prompt and frames as model inputs.

        Raises:
            DataError: Where a frame cannot be read, or the prompt's marks are not as many as the frames.
        """
        images = self.load(record)
        return encode_messages(self.processor, self.messages(record, len(images)), images)

    def messages(self, record: Record, frames: int) -> list[dict[str, Any]]:
        """The record's prompt as a chat, with places for ``frames`` frames.

        Raises:
            DataError: Where the prompt's marks are not as many.
        """
        try:
            return chat(blind_prompt(record.prompt) if self.blind else record.prompt, frames, tags=self.tags)
        except PlacementError as error:
            raise DataError(f"record {record.id}: {error.message}") from None

    def prompt_length(self, record: Record) -> int:
        """Tokens of the record's encoded prompt, from the sizes of its frames, without decoding them."""
        size = (0, 0)
        if self.blind:
            count = 0
        elif isinstance(record.video, Clip):
            from rft3d_cli.video import probe

            count = self.frames or record.video.frames or DEFAULT_FRAMES
            if record.video.path not in self._sizes:
                info = probe(media_path(self.media_root, record.video.path))
                self._sizes[record.video.path] = (info.width, info.height)
            size = self._sizes[record.video.path]
        else:
            count = len(record.video.frames)
            size = record.camera.image_size if record.camera is not None else self._load_size(record)
        # Records of one task often share their prompt.
        key = (record.prompt, count)
        if key not in self._tokens:
            text = self.processor.apply_chat_template(
                self.messages(record, count), tokenize=False, add_generation_prompt=True
            )
            self._tokens[key] = len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._tokens[key] + (count * (self.processor.frame_tokens(*size) - 1) if count else 0)

    def _load_size(self, record: Record) -> tuple[int, int]:
        if not isinstance(record.video, FrameList):
            raise TypeError("a clip's size comes from its file")
        try:
            with Image.open(media_path(self.media_root, record.video.frames[0]), formats=IMAGE_FORMATS) as image:
                return ImageOps.exif_transpose(image).size
        except _UNREADABLE as error:
            raise DataError(f"record {record.id}: frame {record.video.frames[0]} cannot be read: {error}") from None

    def load(self, record: Record) -> list[Image.Image]:
        """The record's frames, sized for the model.

        Raises:
            DataError: Where a frame is missing or unreadable; the message names the record and the file.
        """
        if self.blind:
            return []
        if isinstance(record.video, Clip):
            return self._clip(record.video)
        return [self._image(record, name) for name in record.video.frames]

    def _recall(self, key: Any) -> list[Image.Image] | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def _remember(self, key: Any, images: list[Image.Image]) -> None:
        self._kept[key] = images
        self._kept_bytes += _bytes(images)
        while self._kept_bytes > self.keep:
            self._kept_bytes -= _bytes(self._kept.popitem(last=False)[1])

    def _image(self, record: Record, name: str) -> Image.Image:
        path = media_path(self.media_root, name)
        if (known := self._recall(path)) is not None:
            return known[0]
        try:
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                upright = ImageOps.exif_transpose(image)
                upright.info = {KEY: str(path)}
                sized = self.processor.size(upright)
                sized.load()
        except FileNotFoundError:
            raise DataError(f"record {record.id}: frame {path} does not exist", MEDIA_HINT) from None
        except _UNREADABLE as error:
            raise DataError(f"record {record.id}: frame {path} cannot be read: {error}") from None
        self._remember(path, [sized])
        return sized

    def _clip(self, clip: Clip) -> list[Image.Image]:
        from rft3d_cli.video import open_video

        count = self.frames or clip.frames or DEFAULT_FRAMES
        sampler = self.sampler or clip.sampler or DEFAULT_SAMPLER
        key = (clip.path, count, sampler)
        if (known := self._recall(key)) is not None:
            return known
        read = open_video(media_path(self.media_root, clip.path), count, sampler)
        sized: list[Image.Image] = []
        for index, array in zip(read.indices, read.images, strict=True):
            image = Image.fromarray(array)
            image.info = {KEY: f"{self.media_root / clip.path}#{index}"}
            sized.append(self.processor.size(image))
        self._remember(key, sized)
        self.plans[clip.path] = {
            "path": clip.path,
            "sampler": sampler,
            "indices": read.indices,
            "times": [round(time, 3) for time in read.times],
            "size": [read.info.width, read.info.height],
            "shown": [*sized[0].size],
            "damaged": read.damaged,
        }
        return sized


def _bytes(images: Sequence[Image.Image]) -> int:
    """What pictures weigh in memory: Pillow takes four bytes a pixel of colour."""
    return sum(4 * image.width * image.height for image in images)


class PlacementError(DataError):
    """A prompt whose ``<image>`` marks, or tokens that stand for pixels, do not fit its frames."""


def chat(prompt: str, frames: int, *, tags: bool = False) -> list[dict[str, Any]]:
    r"""One user turn: text and frame placeholders in the order of the prompt's ``<image>`` marks.

    A mark at the end of a line takes the line break with it, as VG-LLM's loader does. A prompt without marks gets its
    frames first.

    Args:
        prompt: With or without marks.
        frames: How many there are.
        tags: Write ``Frame-i: `` before each frame that the prompt does not place itself.

    Raises:
        PlacementError: Where the marks are not as many as the frames, or the text holds one of :data:`FORBIDDEN`.

    >>> chat("<image>\n<image>\nWhere?", 2)[0]["content"]
    [{'type': 'image'}, {'type': 'image'}, {'type': 'text', 'text': 'Where?'}]
    """
    for token in FORBIDDEN:
        if token in prompt:
            raise PlacementError(f"its prompt holds {token}, which stands for pixels; mark frames with {IMAGE}")
    marks = prompt.count(IMAGE)
    if marks == 0:
        parts = [f"Frame-{i}: " if tags else "" for i in range(frames)] + [f"\n{prompt}" if tags else prompt]
    elif marks == frames:
        parts = prompt.replace(f"{IMAGE}\n", IMAGE).split(IMAGE)
    else:
        raise PlacementError(f"its prompt has {marks} {IMAGE} marks for {frames} frames")
    content: list[dict[str, Any]] = [{"type": "text", "text": parts[0]}] if parts[0] else []
    for text in parts[1:]:
        content.append({"type": "image"})
        if text:
            content.append({"type": "text", "text": text})
    return [{"role": "user", "content": content}]


def blind_prompt(prompt: str) -> str:
    r"""A prompt without the places of its frames.

    >>> blind_prompt("Frame-0: <image>Frame-1: <image>\nWhere?"), blind_prompt("<image>\n<image>\nWhere?")
    ('Where?', 'Where?')
    """
    return re.sub(rf"(Frame-\d+: )?{IMAGE}\n?", "", prompt)


def encode_messages(
    processor: FrameProcessor, messages: list[dict[str, Any]], images: Sequence[Image.Image]
) -> EncodedPrompt:
    """Ids and patches of one chat with its frames, up to where the answer begins."""
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if not images:
        ids = np.asarray(processor.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        return EncodedPrompt(ids, np.zeros_like(ids), np.zeros((0, 0), np.float32), np.zeros((0, 3), np.int64))
    batch = processor(images=[list(images)], text=[text], return_tensors="np")
    return EncodedPrompt(
        np.asarray(batch["input_ids"][0], dtype=np.int64),
        np.asarray(batch["mm_token_type_ids"][0], dtype=np.int64),
        np.asarray(batch["pixel_values"], dtype=np.float32),
        np.asarray(batch["image_grid_thw"], dtype=np.int64),
        geometry_frames(processor, images) if processor.uncut else None,
    )


def geometry_frames(processor: FrameProcessor, images: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Frames as a geometry encoder sees them, ``(S, 3, H, W)`` uint8.

    Raises:
        DataError: Where they are not of one size: what relates them needs one grid.
    """
    sized = [processor.size(image) for image in images]
    sizes = sorted({image.size for image in sized})
    if len(sizes) > 1:
        seen = ", ".join(f"{width} x {height}" for width, height in sizes)
        raise DataError(f"the frames of one clip have {len(sizes)} sizes ({seen}), and the geometry encoder needs one")
    return np.stack([np.asarray(image, dtype=np.uint8).transpose(2, 0, 1) for image in sized])


def encode_prompt(
    processor: FrameProcessor, prompt: str, images: Sequence[Image.Image], *, tags: bool = False
) -> EncodedPrompt:
    """Ids and patches of one prompt with its frames; see :func:`chat`."""
    return encode_messages(processor, chat(prompt, len(images), tags=tags), images)


def encode_answer(processor: FrameProcessor, answer: str) -> NDArray[np.int64]:
    """Token ids of an answer and the end of its turn: what the loss of supervised training falls on."""
    text = answer + processor.tokenizer.eos_token
    return np.asarray(processor.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)


def collate(
    prompts: Sequence[EncodedPrompt],
    pad: int,
    answers: Sequence[NDArray[np.int64]] | None = None,
) -> dict[str, Any]:
    """A padded batch: tensors, and ``geometry_images``, a list of them, where prompts have geometry.

    Without ``answers`` the padding is on the left, for generation. With them each row is prompt and answer, padded on
    the right, and ``labels`` holds the answer's ids with -100 elsewhere.

    Args:
        prompts: Rows.
        pad: Id of the padding token.
        answers: Answer ids, one a row.
    """
    import torch

    tails = answers if answers is not None else [np.empty(0, dtype=np.int64)] * len(prompts)
    rows = [np.concatenate([p.input_ids, tail]) for p, tail in zip(prompts, tails, strict=True)]
    width = max(len(row) for row in rows)
    shape = (len(rows), width)
    ids, mask, kinds = np.full(shape, pad), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, -100)
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        start = width - len(row) if answers is None else 0
        ids[i, start : start + len(row)] = row
        mask[i, start : start + len(row)] = 1
        kinds[i, start : start + len(prompt)] = prompt.mm_token_type_ids
        if answers is not None:
            labels[i, len(prompt) : len(row)] = row[len(prompt) :]
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": kinds,
    }
    seen = [p for p in prompts if len(p.image_grid_thw)]
    if seen:
        batch["pixel_values"] = np.concatenate([p.pixel_values for p in seen])
        batch["image_grid_thw"] = np.concatenate([p.image_grid_thw for p in seen])
    if answers is not None:
        batch["labels"] = labels
    tensors: dict[str, Any] = {name: torch.from_numpy(value) for name, value in batch.items()}
    clips = [torch.from_numpy(p.geometry) for p in prompts if p.geometry is not None]
    return tensors | ({"geometry_images": clips} if clips else {})


def on_device(batch: dict[str, Any], device: Any) -> dict[str, Any]:
    """A batch of :func:`collate` on a device."""
    return {k: [t.to(device) for t in v] if isinstance(v, list) else v.to(device) for k, v in batch.items()}
