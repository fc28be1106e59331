"""Frames and text to model inputs, for Qwen2.5-VL and its kin, without torchvision.

transformers' own ``Qwen2_5_VLProcessor`` wants a video processor, which wants torchvision, whose PyPI build is a CUDA
build. Frames go in as *images* anyway (the public 3D checkpoints were trained so), and for those a tokenizer and the
PIL image processor are enough.

Every stage sizes frames here and nowhere else: width to ``frame_width``, height in proportion to the nearest multiple
of the patch, both cut at the top left to whole merged patches (VG-LLM's rule: 1296 × 968 becomes 504 × 392). A geometry
encoder that wants the frame before that cut (518 × 392) gets it from here too, so that both towers' grids fit.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from rft3d_cli.models.sizing import PATCHES_WIDE, frame_size, frame_tokens

KEY = "rft3d_frame"
"""``Image.info`` key that names a frame; equal keys mean equal pixels, so a frame's patches are computed once."""

_TALLEST = 4
"""Times its width that a frame's height may be for it to be resized as a whole."""

_CACHED_BYTES = 2**29
"""Memory for patches: 2,000 frames of the tiny model and more, or a hundred of a real one."""


def size_frame(image: Image.Image, frame_width: int, patch: int, merge: int, *, uncut: bool = False) -> Image.Image:
    """A frame resized (bicubic) and cut for the model; unchanged where it already fits. Keeps ``info``.

    Args:
        image: The frame.
        frame_width: See :func:`frame_size`.
        patch: Likewise.
        merge: Likewise.
        uncut: Stop before the cut to whole merged patches; :func:`cut_frame` does the rest.
    """
    resized, cut = frame_size(*image.size, frame_width, patch, merge)
    fits = (resized,) if uncut else (resized, cut)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if resized[1] > _TALLEST * frame_width:
        # A strip would be resized to gigabytes, for the square in its middle.
        top, factor = (resized[1] - frame_width) // 2, image.height / resized[1]
        box = (0, top * factor, image.width, (top + frame_width) * factor)
        out = image.resize((frame_width, frame_width), Image.Resampling.BICUBIC, box=box)
    else:
        out = image if image.size in fits else image.resize(resized, Image.Resampling.BICUBIC)
    top = max(0, (out.height - frame_width) // 2)
    if top:
        out = out.crop((0, top, out.width, top + frame_width))
    out.info = {KEY: image.info[KEY]} if KEY in image.info else {}
    return out if uncut else cut_frame(out, patch, merge)


def cut_frame(image: Image.Image, patch: int, merge: int) -> Image.Image:
    """A sized frame cut at the top left to whole merged patches. Keeps ``info``."""
    factor = patch * merge
    cut = image.width // factor * factor, image.height // factor * factor
    if image.size == cut:
        return image
    out = image.crop((0, 0, *cut))
    out.info = {KEY: image.info[KEY]} if KEY in image.info else {}
    return out


class FrameProcessor(ProcessorMixin):  # type: ignore[misc]
    """Text with ``<|image_pad|>`` placeholders and frames → token ids and patches.

    Args:
        image_processor: Normalisation and patches.
        tokenizer: The model's tokenizer.
        chat_template: Jinja template; the tokenizer's where None.
        frame_width: Width to which frames are resized, pixels; 37 patches where None.

    Attributes:
        max_length: Tokens that the model's positions reach, where its configuration says so.
        uncut: Whether the model's geometry encoder wants frames before the cut to whole merged patches.
    """

    return_mm_token_type_ids = True

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        frame_width: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_token = "<|image_pad|>"  # noqa: S105 - a placeholder in prompts
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.frame_width = frame_width or PATCHES_WIDE * image_processor.patch_size
        self.max_length: int | None = None
        self.uncut = False
        self._patches: OrderedDict[Any, tuple[Any, Any]] = OrderedDict()
        self._patch_bytes = 0
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, *, model: str | Path | None = None, **kwargs: Any
    ) -> FrameProcessor:
        """Load from a model directory or a hub name that has tokenizer and preprocessor files.

        Tokenizer and image processor come from the public files; ``frame_width`` from ``processor_config.json``,
        where we wrote it.

        Args:
            directory: The folder, or the name.
            model: Where the model's configuration is, if elsewhere: a folder of adapters has none.
            **kwargs: ``revision``, ``local_files_only``, ``cache_dir`` and ``token``, for the hub.
        """
        hub: dict[str, Any] = {"trust_remote_code": False}
        hub.update((k, kwargs[k]) for k in ("revision", "local_files_only", "cache_dir", "token") if k in kwargs)
        tokenizer = AutoTokenizer.from_pretrained(directory, **hub)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(directory, **hub)
        config = Path(directory) / "processor_config.json"
        width = json.loads(config.read_text()).get("frame_width") if config.is_file() else None
        template = Path(directory) / "chat_template.jinja"
        processor = cls(image_processor, tokenizer, template.read_text() if template.is_file() else None, width)
        text_config = AutoConfig.from_pretrained(model or directory, **hub).get_text_config()
        processor.max_length = getattr(text_config, "max_position_embeddings", None)
        return processor

    def save_pretrained(self, directory: str | Path, **kwargs: Any) -> list[str]:
        """Write tokenizer, image processor, chat template and frame width as an ordinary model directory has them."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.chat_template = self.chat_template
        written = [*self.tokenizer.save_pretrained(folder), *self.image_processor.save_pretrained(folder)]
        (folder / "processor_config.json").write_text(
            json.dumps({"processor_class": "Qwen2_5_VLProcessor", "frame_width": self.frame_width}, indent=2) + "\n"
        )
        return [*written, str(folder / "processor_config.json")]

    def frame_tokens(self, width: int, height: int) -> int:
        """Tokens that a frame of ``width`` × ``height`` pixels becomes."""
        patch, merge = self.image_processor.patch_size, self.image_processor.merge_size
        return frame_tokens(width, height, self.frame_width, patch, merge)

    @property
    def model_input_names(self) -> list[str]:
        """What a model's forward takes from here."""
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids"]

    def size(self, image: Image.Image) -> Image.Image:
        """A frame as the model's towers see it; see :func:`size_frame`."""
        patch, merge = self.image_processor.patch_size, self.image_processor.merge_size
        return size_frame(image, self.frame_width, patch, merge, uncut=self.uncut)

    def patches(self, image: Image.Image) -> tuple[Any, Any]:
        """Patches ``(n, patch_dim)`` float32 and grid ``(3,)`` of one frame, remembered for frames with a key."""
        key = image.info.get(KEY)
        if key is not None and key in self._patches:
            self._patches.move_to_end(key)
            return self._patches[key]
        patch, merge = self.image_processor.patch_size, self.image_processor.merge_size
        done = self.image_processor([cut_frame(self.size(image), patch, merge)], do_resize=False, return_tensors="np")
        out = np.asarray(done["pixel_values"], dtype=np.float32), np.asarray(done["image_grid_thw"][0])
        if key is not None:
            self._patches[key] = out
            self._patch_bytes += out[0].nbytes
            while self._patch_bytes > _CACHED_BYTES and len(self._patches) > 1:
                self._patch_bytes -= self._patches.popitem(last=False)[1][0].nbytes
        return out

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[BatchFeature, list[str]]:
        flat = [image for group in images for image in (group if isinstance(group, list | tuple) else [group])]
        done = [self.patches(image) for image in flat]
        merged = self.image_processor.merge_size**2
        tokens = [self.image_token * int(grid.prod() // merged) for _, grid in done]
        values = np.concatenate([patch for patch, _ in done])
        return BatchFeature({"pixel_values": values, "image_grid_thw": np.stack([grid for _, grid in done])}), tokens
