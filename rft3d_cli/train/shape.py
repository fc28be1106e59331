"""A model's sizes, from its configuration and the headers of its weights: no weight is loaded, and no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rft3d_cli.errors import SetupError
from rft3d_cli.models.checkpoint import Checkpoint, read_checkpoint
from rft3d_cli.models.known import fetch_command
from rft3d_cli.models.loader import FRESH, find_model, geometry_folder
from rft3d_cli.models.sizing import PATCHES_WIDE
from rft3d_cli.recipe_schema import Lora, Model


@dataclass(frozen=True)
class Layers:
    """A stack of transformer layers.

    Args:
        layers: How many.
        width: Channels of the residual stream.
        heads: Query heads.
        queries: Channels of all query heads.
        keys: Channels of all key heads, and of all value heads.
        inner: Channels between the MLP's two maps.
        float_rotary: Whether queries and keys are turned in float32.
    """

    layers: int
    width: int
    heads: int
    queries: int
    keys: int
    inner: int
    float_rotary: bool = False


@dataclass(frozen=True)
class Branch:
    """A geometry branch.

    Args:
        encoder: Its encoder's name.
        width: Channels of the encoder; its features have twice as many.
        patch: Patch side, pixels.
        special_tokens: Tokens a frame beside the patches.
        blocks: Blocks that run.
        merger_hidden: Width between the merger's two layers.
        parameters: Of the encoder.
        uncut: Whether it sees frames before the cut to whole merged patches.
        across: Those of the blocks whose attention goes over all frames of a clip.
        unread: Those of the parameters that no feature depends on; they are never trained.
    """

    encoder: str
    width: int
    patch: int
    special_tokens: int
    blocks: int
    merger_hidden: int
    parameters: int
    uncut: bool
    across: int = 0
    unread: int = 0

    def kept(self, patches: int, frames: int, compute: int) -> int:
        """Bytes that autograd keeps of one clip where the encoder is trained: some 24 channels a channel and block."""
        return 24 * compute * self.blocks * self.width * (patches + frames * self.special_tokens)


@dataclass(frozen=True)
class Shape:
    """A model's sizes.

    Args:
        text: The language model's layers.
        vocabulary: Entries.
        tied: Whether the language head is the embeddings.
        vision: The vision tower's layers.
        patch: Patch side, pixels.
        merge: Patches a side of a merged token.
        patch_numbers: Numbers of a patch as the tower takes it.
        frame_width: Pixels to which frames are resized.
        parts: Parameters by part, as :meth:`~rft3d_cli.models.checkpoint.Checkpoint.parts` names them; a repeated
            language head is not counted.
        branch: The geometry branch.
        adapters: Adapters that the model's folder brings.
        published: Whether the sizes are those of the published model, because its files are not here.
    """

    text: Layers
    vocabulary: int
    tied: bool
    vision: Layers
    patch: int
    merge: int
    patch_numbers: int
    frame_width: int
    parts: dict[str, int]
    branch: Branch | None = None
    adapters: Lora | None = None
    published: bool = False

    def geometry_patches(self, tokens: int) -> int:
        """Patches that the encoder sees of a frame of so many tokens: its rows are as wide as before the cut."""
        patches = tokens * self.merge**2
        if self.branch is None or not self.branch.uncut:
            return patches
        wide = self.frame_width // self.patch
        return patches // (wide // self.merge * self.merge) * wide


# Qwen2.5-VL and VGGT in formulas ------------------------------------------------------------------

_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
_3B = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True, "model_type": "qwen2_5_vl",
    "vision_config": _VISION | {"out_hidden_size": 2048},
}  # fmt: skip
_7B = _3B | {
    "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False,
    "vision_config": _VISION | {"out_hidden_size": 3584},
}  # fmt: skip
PUBLISHED: Mapping[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _3B,
    "Qwen/Qwen2.5-VL-7B-Instruct": _7B,
    "zd11024/vgllm-3d-vggt-4b": _3B | {"geometry_encoder_type": "vggt"},
    "zd11024/vgllm-qa-vggt-4b": _3B | {"geometry_encoder_type": "vggt"},
    "zd11024/vgllm-3d-vggt-8b": _7B | {"geometry_encoder_type": "vggt"},
    "zd11024/vgllm-qa-vggt-8b": _7B | {"geometry_encoder_type": "vggt"},
}
"""Configurations of models that recipes name, to count with before they are fetched."""


def shape_of(spec: Model) -> Shape:
    """The sizes of a recipe's model.

    Args:
        spec: The recipe's ``model`` section.

    Raises:
        SetupError: Where the model is neither here nor one of :data:`PUBLISHED`, or is built in another way.
    """
    if spec.name in FRESH:
        # Made from a seed, in the sizes of the one that ships trained.
        folder = find_model("tiny-sft")
        checkpoint = Checkpoint(folder, read_checkpoint(folder).config) if folder else None
        branch = _tiny_branch(spec.geometry)
        return _shape(spec, checkpoint.config if checkpoint else {}, folder, branch, counted=None)
    folder = _folder(spec.name)
    if folder is None:
        config = PUBLISHED.get(spec.name)
        if config is None:
            hint = f"fetch it first: {fetch_command(spec.name)}"
            raise SetupError(f"the sizes of {spec.name} are not known before it is on this machine", hint)
        return replace(_shape(spec, config, None, _branch(spec, config), counted=None), published=True)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        base, adapters = _brought(folder, spec)
        return replace(shape_of(base), adapters=adapters)
    checkpoint = read_checkpoint(folder)
    return _shape(spec, checkpoint.config, folder, _branch(spec, checkpoint.config, checkpoint), counted=checkpoint)


def _folder(name: str) -> Path | None:
    found = find_model(name)
    if found is not None:
        return found
    try:
        return geometry_folder(name)  # what was fetched from the hub, whatever it holds
    except SetupError:
        return None


def _brought(folder: Path, spec: Model) -> tuple[Model, Lora]:
    """The model under a folder's adapters, and the adapters."""
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
        name, targets = str(config["base_model_name_or_path"]), config["target_modules"]
        found = re.findall(r"\w+_proj", targets if isinstance(targets, str) else " ".join(targets))
        merger = "geometry_merger" in (config.get("modules_to_save") or [])
        lora = Lora(rank=config["r"], targets=sorted(set(found)) or Lora().targets)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{folder}/adapter_config.json cannot be read: {error}") from None
    base = spec.model_copy(update={"name": name, "lora": None})
    if merger and spec.geometry == "auto":
        # A merger that was trained says that there was a branch, also where the base has none of its own.
        if name in FRESH:
            added = str(config.get("revision")).rpartition("-")[2]
            base = base.model_copy(update={"geometry": added if added in ("tiny", "vggt") else "tiny"})
        elif shape_of(base).branch is None:
            base = base.model_copy(update={"geometry": "vggt"})
    return base, lora


def _shape(
    spec: Model, config: dict[str, Any], folder: Path | None, branch: Branch | None, *, counted: Checkpoint | None
) -> Shape:
    text_config = {**config, **(config.get("text_config") or {})}
    vision_config = config.get("vision_config") or {}
    try:
        heads = int(text_config["num_attention_heads"])
        size = int(text_config.get("head_dim") or text_config["hidden_size"] // heads)
        text = Layers(
            layers=int(text_config["num_hidden_layers"]),
            width=int(text_config["hidden_size"]),
            heads=heads,
            queries=heads * size,
            keys=int(text_config.get("num_key_value_heads") or heads) * size,
            inner=int(text_config["intermediate_size"]),
        )
        wide = int(vision_config["hidden_size"])
        vision = Layers(
            layers=int(vision_config["depth"]),
            width=wide,
            heads=int(vision_config["num_heads"]),
            queries=wide,
            keys=wide,
            inner=int(vision_config["intermediate_size"]),
            float_rotary=True,
        )
        patch, merge = int(vision_config["patch_size"]), int(vision_config["spatial_merge_size"])
        numbers = 3 * int(vision_config.get("temporal_patch_size", 2)) * patch**2
        vocabulary = int(text_config["vocab_size"])
    except (KeyError, TypeError, ValueError):
        raise SetupError(f"model {spec.name}: its configuration does not say its sizes as Qwen2.5-VL's does") from None
    tied = bool(config.get("tie_word_embeddings", text_config.get("tie_word_embeddings", False)))
    if counted is not None and counted.tensors:
        parts = {part: n for part, n in counted.parts().items() if part != "heads (not used)"}
        repeated = [info.size for name, info in counted.tensors.items() if name.endswith("lm_head.weight")]
        if tied and repeated and "language model" in parts:
            parts["language model"] -= repeated[0]
    else:
        parts = {
            "vision": _vision_parameters(vision, numbers),
            "vision merger": _vision_merger_parameters(wide, merge, text.width),
            "language model": _text_parameters(text, vocabulary, tied=tied),
        }
    for part in ("geometry encoder", "geometry merger"):
        parts.pop(part, None)
    if branch is not None:
        parts["geometry encoder"] = branch.parameters
        parts["geometry merger"] = merger_parameters(branch, merge, text.width)
    width = _frame_width(folder, patch)
    return Shape(text, vocabulary, tied, vision, patch, merge, numbers, width, parts, branch)


def _frame_width(folder: Path | None, patch: int) -> int:
    try:
        known = json.loads((folder / "processor_config.json").read_bytes()) if folder is not None else {}
        return int(known["frame_width"])
    except (OSError, ValueError, LookupError, TypeError):
        return PATCHES_WIDE * patch


def _text_parameters(text: Layers, vocabulary: int, *, tied: bool) -> int:
    h, a, k = text.width, text.queries, text.keys
    layer = (h * a + a) + 2 * (h * k + k) + a * h + 3 * h * text.inner + 2 * h
    return vocabulary * h * (1 if tied else 2) + text.layers * layer + h


def _vision_parameters(vision: Layers, patch_numbers: int) -> int:
    d, i = vision.width, vision.inner
    block = 2 * d + (3 * d * d + 3 * d) + (d * d + d) + 2 * (d * i + i) + (i * d + d)
    return patch_numbers * d + vision.layers * block


def _vision_merger_parameters(width: int, merge: int, out: int) -> int:
    gathered = width * merge**2
    return width + gathered * gathered + gathered + gathered * out + out


def merger_parameters(branch: Branch, merge: int, out: int) -> int:
    """Parameters of the geometry merger: a norm and two linear layers."""
    features, hidden = 2 * branch.width, branch.merger_hidden
    return features + features * merge**2 * hidden + hidden + hidden * out + out


# The branch ---------------------------------------------------------------------------------------


def _branch(spec: Model, config: dict[str, Any], checkpoint: Checkpoint | None = None) -> Branch | None:
    """The branch that a model will have: its own, the one that the recipe adds, or none."""
    own = checkpoint.has_branch if checkpoint is not None else "geometry_encoder_type" in config
    if spec.geometry == "none" or (spec.geometry == "auto" and not own):
        return None
    name = config.get("geometry_encoder_type", "vggt") if own else spec.geometry
    sizes = config.get("geometry_encoder_config") or {}
    hidden = config.get("geometry_merger_hidden_dim")
    for tensor in ("geometry_merger.mlp.0.weight", "merger.mlp.0.weight"):
        if checkpoint is not None and tensor in checkpoint.tensors:
            hidden = checkpoint.tensors[tensor].shape[0]
    return tiny_encoder(hidden, **sizes) if name == "tiny" else vggt(hidden, **sizes)


def _tiny_branch(geometry: str) -> Branch | None:
    if geometry not in ("tiny", "vggt"):
        return None
    from rft3d_cli.models.tiny import BRANCHES

    sizes = BRANCHES[geometry]
    return tiny_encoder(192, **sizes) if geometry == "tiny" else vggt(192, **sizes)


def tiny_encoder(hidden: int | None = None, embed_dim: int = 48, num_heads: int = 4, patch_size: int = 8) -> Branch:
    """The stand-in encoder's sizes; see :class:`~rft3d_cli.models.geometry_tiny.TinyGeometryEncoder`."""
    e = embed_dim
    block = 2 * 2 * e + (4 * e * e + 4 * e) + (2 * e * e + 2 * e) + (2 * e * e + e)
    parameters = (3 * patch_size**2 * e + e) + (4 * e + e) + e + 2 * block
    return Branch("tiny", e, patch_size, 0, 2, hidden or 192, parameters, uncut=False)


def vggt(
    hidden: int | None = None,
    img_size: int = 518,
    patch_size: int = 14,
    num_register_tokens: int = 4,
    dino: Mapping[str, int] | None = None,
    aggregator: Mapping[str, int] | None = None,
    layer: int = -2,
) -> Branch:
    """VGGT's aggregator's sizes; see :class:`~rft3d_cli.models.vggt.VGGTAggregator`.

    >>> vggt().parameters, vggt().unread
    (909112320, 25198080)
    """
    public = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
    eyes, pairs = dino or public, aggregator or public
    d, depth, registers = pairs["embed_dim"], pairs["depth"], num_register_tokens
    block = 12 * d * d + 15 * d
    normalised = 4 * (d // pairs["num_heads"])
    learned = (img_size // patch_size) ** 2 + 1 + 1 + registers + 1
    tower = learned * d + 3 * patch_size**2 * d + d + eyes["depth"] * block + 2 * d
    parameters = tower + 2 * depth * (block + normalised) + 2 * (1 + registers) * d
    across = layer % depth + 1
    blocks = eyes["depth"] + 2 * across
    unread = d + 2 * (depth - across) * (block + normalised)
    size = (d, patch_size, 1 + registers, blocks, hidden or 4096, parameters)
    return Branch("vggt", *size, uncut=True, across=across, unread=unread)
