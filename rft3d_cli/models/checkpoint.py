"""What a model's folder holds, read from its configuration and the headers of its weights: no tensor is loaded.

Four layouts are told apart by their tensors' names: a plain model of the hub, our own, and the two in which VG-LLM's
checkpoints were published. The last two and a plain Qwen2.5-VL become our fused model by renaming.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rft3d_cli.errors import SetupError

Layout = Literal["plain", "fused", "vgllm", "vgllm-first", "vggt", "adapter"]
"""``fused`` is ours; ``vgllm`` has ``geometry_encoder.vggt.*``, ``vgllm-first`` ``vggt.*``; ``vggt`` is VGGT alone."""

AGAIN = "its files may be incomplete or for another program: fetch or copy them again"

FUSED = "rft3d_fused_qwen2_5_vl"
"""Our fused model's ``model_type``."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""Formats that weights are read in; others are codes, which mean nothing without their scales."""

HEADS = r"(?:^|\.)(?:camera|point|depth|track)_head\."
"""VGGT's heads, which VG-LLM's checkpoints carry along and nothing reads."""
_BUFFERS = r"rotary_emb\.inv_freq$|_resnet_(?:mean|std)$"
IGNORED = re.compile(f"{HEADS}|{_BUFFERS}")
"""Tensors that a checkpoint may have and a model need not."""
BRANCH = re.compile(r"(?:^|\.)(?:geometry_encoder|geometry_merger)\.|^vggt\.|^merger\.")
"""The geometry branch's tensors, in every layout."""

_QWEN = {r"^visual\.": "model.visual.", r"^model\.(?=(?:embed_tokens|layers|norm)\.)": "model.language_model."}
RENAMES: Mapping[Layout, Mapping[str, str]] = {
    "plain": _QWEN,
    "vgllm": _QWEN
    | {
        r"^geometry_encoder\.vggt\.aggregator\.": "model.geometry_encoder.aggregator.",
        r"^geometry_merger\.": "model.geometry_merger.",
    },
    "vgllm-first": _QWEN
    | {r"^vggt\.aggregator\.": "model.geometry_encoder.aggregator.", r"^merger\.": "model.geometry_merger."},
}
"""Published names → the fused model's, as regular expressions; no name fits two of them, before or after."""

_PARTS = {
    "heads (not used)": HEADS,
    "geometry encoder": r"(?:^|\.)geometry_encoder\.|^vggt\.|^aggregator\.",
    "geometry merger": r"(?:^|\.)geometry_merger\.|^merger\.",
    "vision merger": r"(?:^|\.)visual\.(?:merger|deepstack_merger_list)\.",
    "vision": r"(?:^|\.)visual\.",
    "language model": r"(?:^|\.)(?:language_model|layers|embed_tokens|norm)\.|^lm_head\.",
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a weight file's header has it.

    Args:
        shape: Its shape.
        dtype: Its format, as safetensors writes it: ``F32``, ``BF16`` …
        file: The weight file's name.
    """

    shape: tuple[int, ...]
    dtype: str
    file: str

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        out = 1
        for side in self.shape:
            out *= side
        return out


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder.

    Args:
        folder: Where.
        config: ``config.json`` as it is; empty where there is none.
    """

    folder: Path
    config: dict[str, Any]

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """All tensors by name.

        Raises:
            SetupError: Where a weight file is damaged, or one of the index is missing.
        """
        return tensor_table(self.folder)

    @cached_property
    def layout(self) -> Layout:
        """See :data:`Layout`."""
        if self.config.get("model_type") == FUSED:
            return "fused"
        if not self.config and (self.folder / "adapter_config.json").is_file():
            return "adapter"
        names = self.tensors
        if any(name.startswith("geometry_encoder.") for name in names):
            return "vgllm"
        if any(name.startswith("vggt.") for name in names):
            return "vgllm-first"
        if any(name.startswith("aggregator.") for name in names) and "model_type" not in self.config:
            return "vggt"
        return "plain"

    @property
    def has_branch(self) -> bool:
        """Whether a geometry branch comes with it."""
        return self.layout in ("fused", "vgllm", "vgllm-first")

    def parts(self) -> dict[str, int]:
        """Parameters by part, in the order of the model; a language head that repeats the embeddings is counted."""
        counts: dict[str, int] = {}
        for name, info in self.tensors.items():
            part = next((part for part, pattern in _PARTS.items() if re.search(pattern, name)), "other")
            counts[part] = counts.get(part, 0) + info.size
        order = [*reversed(_PARTS), "other"]
        return {part: counts[part] for part in order if part in counts}

    def dtypes(self) -> dict[str, int]:
        """Parameters by number format."""
        counts: dict[str, int] = {}
        for info in self.tensors.values():
            counts[info.dtype] = counts.get(info.dtype, 0) + info.size
        return counts


def read_checkpoint(folder: Path) -> Checkpoint:
    """Look at a model's folder.

    Raises:
        SetupError: Where its configuration is not JSON.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise SetupError(f"model {folder} cannot be loaded: config.json is not JSON: {error}", AGAIN) from None
    if not isinstance(config, dict):
        raise SetupError(f"model {folder} cannot be loaded: config.json is not an object", AGAIN)
    return Checkpoint(folder, config)


def tensor_table(folder: Path, file: str | None = None) -> dict[str, TensorInfo]:
    """The tensors of a folder's weight files, from their headers.

    Args:
        folder: With one ``model.safetensors``, or shards with an index.
        file: Of this file alone.

    Raises:
        SetupError: Where a file is damaged, or one that the index names is missing.
    """
    if file is not None:
        return _header(folder / file)
    whole = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    files: list[Path] = []
    if index.is_file():
        try:
            named = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise SetupError(
                f"model {folder} cannot be loaded: {index.name} is not an index of weights", AGAIN
            ) from None
        gone = [name for name in named if not isinstance(name, str) or not (folder / Path(name).name).is_file()]
        if gone:
            raise SetupError(
                f"model {folder}: {len(gone):,} of {len(named):,} weight files are missing, first {gone[0]}", AGAIN
            )
        files = [folder / Path(name).name for name in named]
    if whole.is_file():
        # transformers passes an index over beside it.
        files = [whole]
    table: dict[str, TensorInfo] = {}
    for path in files:
        found = _header(path)
        if again := sorted(table.keys() & found.keys()):
            raise SetupError(
                f"model {folder} cannot be loaded: {again[0]} is in {table[again[0]].file} and in {path.name}", AGAIN
            )
        table |= found
    return table


def _header(path: Path) -> dict[str, TensorInfo]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return {name: TensorInfo(tuple(s.get_shape()), s.get_dtype(), path.name) for name, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise SetupError(f"model {path.parent} cannot be loaded: {path.name} is damaged: {error}", AGAIN) from None


def renamed(name: str, layout: Layout) -> str:
    """A published tensor's name in the fused model.

    >>> renamed("vggt.aggregator.camera_token", "vgllm-first"), renamed("visual.merger.ln_q.weight", "vgllm-first")
    ('model.geometry_encoder.aggregator.camera_token', 'model.visual.merger.ln_q.weight')
    """
    for pattern, replacement in RENAMES.get(layout, {}).items():
        name = re.sub(pattern, replacement, name)
    return name
