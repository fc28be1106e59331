"""What ``grpo_step.py`` runs on: models of random weights, and clips whose prompts have so many tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.models import tiny

SIZES = ("bench", "small", "4b")
FRAME_TOKENS = 252 + 2
"""Of a frame of 640 × 480 whatever the patch, and the marks around it."""
TEXT = {
    "bench": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
    "small": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2},
}
VOCABULARY = 2048


def write_model(folder: Path, size: str) -> None:
    """A plain Qwen2.5-VL of random weights as an ordinary folder; tokenizer and chat template are tiny's."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from rft3d_cli.models.processor import FrameProcessor
    from rft3d_cli.models.quiet import no_progress

    tokenizer = tiny.build_tokenizer()
    patch = 14 if size == "4b" else 8
    folder.mkdir(parents=True)
    if size == "4b":
        from fullsize import config_3b, write_shards

        config = config_3b(tokenizer)
        with torch.device("meta"):
            model = Qwen2_5_VLForConditionalGeneration(config)
        config.architectures = [type(model).__name__]
        config.dtype = torch.bfloat16
        config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        write_shards(folder, {n: tuple(t.shape) for n, t in model.state_dict().items() if n != "lm_head.weight"})
    else:
        with torch.random.fork_rng(), no_progress():
            torch.manual_seed(0)
            Qwen2_5_VLForConditionalGeneration(config_of(size, tokenizer)).save_pretrained(folder)
    FrameProcessor(Qwen2VLImageProcessorPil(patch_size=patch), tokenizer, tiny.CHAT_TEMPLATE).save_pretrained(folder)


def config_of(size: str, tokenizer: Any) -> Any:
    """Tiny's configuration with other text layers."""
    config = tiny.build_config(tokenizer)
    text = TEXT[size] | {"num_key_value_heads": TEXT[size]["num_attention_heads"]}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    new = config.text_config.to_dict() | text
    new |= {"vocab_size": VOCABULARY, "max_position_embeddings": 16_384, "rope_parameters": rope}
    new |= {"initializer_range": 0.04, "layer_types": None}
    vision = config.vision_config.to_dict() | {"out_hidden_size": text["hidden_size"]}
    document = config.to_dict() | {"text_config": new, "vision_config": vision}
    return type(config)(**document)


def write_clips(folder: Path, processor: Any, lengths: list[int]) -> Path:
    """A record for each prompt length: frames of 252 tokens, and words that fill the rest.

    Args:
        folder: Gets pictures and ``train.jsonl``.
        processor: The model's.
        lengths: Tokens of each prompt, chat marks included.

    Returns:
        The record file.
    """
    from PIL import Image

    from rft3d_cli.models.inputs import FrameStore
    from rft3d_cli.records import Record

    rng = np.random.default_rng(0)
    names = [f"{i:03d}.jpg" for i in range(max(frames_of(length) for length in lengths))]
    for name in names:
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(folder / name)
    store = FrameStore(folder, processor)
    lines = []
    for length in lengths:
        document: dict[str, Any] = {
            "id": str(length),
            "task": "number",
            "video": {"frames": names[: frames_of(length)]},
            "prompt": "chair",
            "target": {"value": 3},
        }
        bare = store.prompt_length(Record.model_validate(document))
        document["prompt"] += " chair" * (length - bare)
        found = store.prompt_length(Record.model_validate(document))
        if found != length:
            raise ValueError(f"a prompt of {length} tokens came out with {found}")
        lines.append(json.dumps(document))
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def frames_of(length: int) -> int:
    """Frames of a prompt of so many tokens, at least one, with some tokens left for words.

    >>> frames_of(1024), frames_of(4096), frames_of(8192)
    (3, 16, 32)
    """
    return max(1, (length - 32) // FRAME_TOKENS)
