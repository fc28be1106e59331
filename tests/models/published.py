"""Checkpoints in the layouts of others, made from one of ours by tables of their own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

QWEN = [(r"^model\.visual\.", "visual."), (r"^model\.language_model\.", "model.")]
NAMES = {
    "first release": [
        *QWEN,
        (r"^model\.geometry_encoder\.", "vggt."),
        (r"^model\.geometry_merger\.", "merger."),
    ],
    "refactored": [
        *QWEN,
        (r"^model\.geometry_encoder\.", "geometry_encoder.vggt."),
        (r"^model\.geometry_merger\.", "geometry_merger."),
    ],
    "plain": QWEN,
}
HEADS = {"first release": "vggt.", "refactored": "geometry_encoder.vggt."}
FLAGS: dict[str, dict[str, Any]] = {
    "first release": {"use_vggt_feature": True},
    "refactored": {
        "use_geometry_encoder": True,
        "geometry_encoder_type": "vggt",
        "feature_fusion_method": "add",
        "geometry_merger_type": "mlp",
        "fusion_num_layers": 1,
        "reference_frame": "first",
    },
    "plain": {},
}
ARCHITECTURES = {
    "first release": "Qwen2_5_VLForConditionalGenerationWithVGGT",
    "refactored": "Qwen2_5_VLForConditionalGenerationWithVGGT",
    "plain": "Qwen2_5_VLForConditionalGeneration",
}


def publish(ours: Path, folder: Path, layout: str, *, shards: int = 2, tokenizer: bool = True) -> Path:
    """Write one of our model folders as others publish theirs.

    As transformers 4.50 wrote them: a flat configuration, shards with an index, the tied language head once more, and
    in VG-LLM's files the heads of VGGT that nothing uses.
    """
    folder.mkdir(parents=True)
    weights = load_file(ours / "model.safetensors")
    if layout == "plain":
        weights = {name: tensor for name, tensor in weights.items() if "geometry" not in name}
    out = {renamed(name, layout): tensor for name, tensor in weights.items()}
    out["lm_head.weight"] = out["model.embed_tokens.weight"].clone()
    if layout in HEADS:
        for head in ("point_head.norm.weight", "depth_head.projects.0.bias"):
            out[HEADS[layout] + head] = torch.ones(3)
    config = json.loads((ours / "config.json").read_text())
    old = flat(config) | FLAGS[layout] | {"architectures": [ARCHITECTURES[layout]]}
    if layout in HEADS:
        old["geometry_encoder_config"] = config["geometry_encoder_config"]
    (folder / "config.json").write_text(json.dumps(old))
    write_shards(folder, out, shards)
    if tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
            shutil.copy(ours / name, folder / name)
        if (ours / "chat_template.jinja").is_file():
            shutil.copy(ours / "chat_template.jinja", folder)
    return folder


def publish_vggt(ours: Path, folder: Path, *, prefix: str = "aggregator.") -> Path:
    """Write a model's aggregator as ``facebook/VGGT-1B`` is: all of VGGT in one file, heads too."""
    folder.mkdir(parents=True)
    start = "model.geometry_encoder.aggregator."
    weights = load_file(ours / "model.safetensors")
    out = {prefix + name.removeprefix(start): t.clone() for name, t in weights.items() if name.startswith(start)}
    out |= {f"{head}_head.token.weight": torch.zeros(2) for head in ("camera", "point", "depth", "track")}
    save_file(out, folder / "model.safetensors")
    (folder / "config.json").write_text('{"embed_dim": 1024, "img_size": 518, "patch_size": 14}')
    return folder


def renamed(name: str, layout: str) -> str:
    for pattern, replacement in NAMES[layout]:
        name = re.sub(pattern, replacement, name)
    return name


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as transformers 4.50 wrote it: the language model's keys at the top."""
    text = dict(config["text_config"])
    rope = text.pop("rope_parameters")
    keys = {k: v for k, v in config.items() if k not in ("text_config", "model_type") and not k.startswith("geometry")}
    text.pop("model_type", None)
    text |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    text |= {"transformers_version": "4.50.0", "model_type": "qwen2_5_vl"}
    text.pop("layer_types", None)
    return keys | text


def write_shards(folder: Path, weights: dict[str, Tensor], shards: int) -> None:
    names = sorted(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    places = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[i::shards]
        save_file({name: weights[name].contiguous() for name in mine}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(mine, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
