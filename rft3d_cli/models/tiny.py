"""tiny: a Qwen2.5-VL of about half a million parameters that learns rooms on a laptop.

It is an ordinary model directory, made of transformers' own classes, and takes the same records, prompts and answers
as the 4B model. Its tokenizer is what makes it fast: a byte-level vocabulary in which every number, class name and
piece of answer syntax that rooms need is one token, so that a box costs 11 tokens instead of 65. Any other text
still works, byte by byte.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rft3d_cli import prompts
from rft3d_cli.models.defaults import ROOMS_ONLY, Defaults
from rft3d_cli.prepare.rooms.catalogue import CLASSES, COLOURS

FRAME_WIDTH = 64
PADDING, END_OF_TURN = "<|endoftext|>", "<|im_end|>"
SPECIAL = (
    PADDING,
    "<|im_start|>",
    END_OF_TURN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "<|im_start|>{{ message['role'] + '\\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""Qwen's template without its system turn."""

LABELS = (*CLASSES, "wall", "object")
ANSWER_OPEN, ANSWER_MORE, ANSWER_CLOSE = "```json\n[\n\t", "]},\n\t", "]}\n]```"
"""Continuing a list and closing it are tokens of their own: the choice between them is what abstaining means."""

PHRASES: tuple[str, ...] = (
    prompts.DETECTION,
    f"{prompts.GROUNDING_HEAD}\nText: ",
    f"\n{prompts.GROUNDING_TAIL}\n",
    f"{prompts.VSI_HEAD}\n",
    f"\n{prompts.VSI_NUMBER}",
    f"\n{prompts.VSI_CHOICE}",
    "\nOptions:\n",
    "user\n",
    "assistant\n",
    ANSWER_OPEN,
    ANSWER_MORE,
    ANSWER_CLOSE,
    "```json\n[\n\t\n]```",
    '```json\n\t{"frame": ',
    ', "bbox_3d": [',
    "]}\n```",
    *(f"Frame-{i}: " for i in range(8)),
    *(f'{{"label": "{label}", "bbox_3d": [' for label in LABELS),
    *(f"{letter}. " for letter in "ABCDEF"),
    "(s)",
)
"""Pieces that are one token as a whole, as the chat lays them out: it takes the line break after a frame away."""

_WORDS = """
a above all and any apart appear are at away back back-left back-right be behind beside by centimeters clip closest
degrees direction distance do does each every facing far find first floor for forward from front-left front-right
furniture go have how i in is it its kinds large largest least left length long longest look many me measured meters
missing more near next number object objects of on one only or order please point points reach right robot room route
show side sides size square stand standing stands start starts than that the there these they this to toward turn
turns video walls what where which wide with you A All An And Find From How I In It Its Of Show That The This What
Where Which
"""


def pieces() -> list[str]:
    """The vocabulary beyond bytes and special tokens, in a fixed order, without repeats."""
    words = sorted({*_WORDS.split(), *LABELS, *(f"{label}s" for label in LABELS), *COLOURS})
    texts = [form for word in words for form in (word, f" {word}")]
    decimals = [f"{n / 10:.1f}" for n in range(-99, 100)]
    numbers = [*decimals, *(f"{d}, " for d in decimals), *(f"{n / 10:.1f}" for n in range(100, 400) if n % 10)]
    integers = [str(n) for n in range(300)]
    return list(dict.fromkeys([*PHRASES, *texts, *numbers, *integers]))


def build_tokenizer() -> Any:
    """The tokenizer: isolate phrases, numbers and words by one pattern; look each up whole; fall back to bytes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary: dict[str, int] = {}
    for piece in [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]:
        vocabulary[piece] = len(vocabulary)
    for piece in pieces():
        ((mapped, _),) = to_bytes.pre_tokenize_str(piece)
        vocabulary.setdefault(mapped, len(vocabulary))
    phrases = sorted(PHRASES, key=len, reverse=True)
    pattern = "|".join(
        [*(re.escape(p) for p in phrases), r"-?\d+(?:\.\d+)?(?:, (?=-?\d))?", r" ?[A-Za-z\-]+", r"[\s\S]"]
    )
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), to_bytes]
    )
    tokenizer.decoder = decoders.ByteLevel()
    out = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        additional_special_tokens=[token for token in SPECIAL if token not in (END_OF_TURN, PADDING)],
        clean_up_tokenization_spaces=False,
    )
    out.chat_template = CHAT_TEMPLATE
    return out


def build_processor(*, uncut: bool = False) -> Any:
    """Tiny's processor: patches of 8 pixels, frames 64 pixels wide.

    Args:
        uncut: Frames of one patch more, which the vision tower's cut takes away again, as in the real models.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from rft3d_cli.models.processor import FrameProcessor

    images = Qwen2VLImageProcessorPil(patch_size=8, temporal_patch_size=2, merge_size=2, min_pixels=16 * 16)
    processor = FrameProcessor(images, build_tokenizer(), CHAT_TEMPLATE, FRAME_WIDTH + 8 * uncut)
    processor.uncut = uncut
    return processor


def build_config(tokenizer: Any) -> Any:
    """The configuration of the plain variant."""
    from transformers import Qwen2_5_VLConfig

    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4096,
            # Frames are 4 × 3 tokens. With Qwen's base of a million the axes of rows and columns would turn by less
            # than a degree from one end to the other, and the model could not tell left from right. Columns get the
            # slowest turns, and a base of 2 keeps those at half a radian a column.
            "rope_parameters": {"rope_type": "default", "rope_theta": 2.0, "mrope_section": [2, 5, 5]},
            "initializer_range": 0.06,
            "bos_token_id": None,
            "eos_token_id": token[END_OF_TURN],
            "pad_token_id": token[PADDING],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 64,
            "fullatt_block_indexes": [0, 1],
            "out_hidden_size": 96,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 10.0},
            "initializer_range": 0.06,
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
    )


BRANCHES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "vggt": {
        "img_size": 72,
        "patch_size": 8,
        "num_register_tokens": 2,
        "dino": {"embed_dim": 32, "depth": 1, "num_heads": 2},
        "aggregator": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    },
}
"""Sizes of the geometry encoders that tiny can have; of VGGT's two pairs, one runs, as 23 of 24 do in the real one."""


def create(directory: Path, *, seed: int = 0, geometry: str = "none") -> None:
    """Write a freshly initialised tiny model as an ordinary model directory.

    Args:
        directory: Made where missing.
        seed: The same seed gives the same weights.
        geometry: ``none``, or a key of :data:`BRANCHES`.
    """
    import torch
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    from rft3d_cli.models.quiet import no_progress

    processor = build_processor(uncut=geometry == "vggt")
    config = build_config(processor.tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if geometry == "none":
            model = Qwen2_5_VLForConditionalGeneration(config)
        else:
            from rft3d_cli.models.fusion import FusedConfig, FusedForConditionalGeneration

            fused = FusedConfig.from_qwen(config, encoder=geometry, **BRANCHES[geometry])
            fused.geometry_merger_hidden_dim = 192
            model = FusedForConditionalGeneration(fused)
    model.generation_config = GenerationConfig(
        eos_token_id=processor.tokenizer.eos_token_id, pad_token_id=processor.tokenizer.pad_token_id
    )
    with no_progress():
        model.save_pretrained(directory)
    processor.save_pretrained(directory)
    Defaults(note=ROOMS_ONLY).write(directory)
