"""A model written for others: adapters merged into it, and its weights under the names that other programs know.

``fused`` is rft3d's own form. ``vgllm`` is the form in which VG-LLM's checkpoints were published, and ``plain`` that of
Qwen2.5-VL itself; both as transformers 4.50 wrote them, which it and all later versions read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.models import loader, quiet
from rft3d_cli.models.checkpoint import BRANCH, FUSED, read_checkpoint
from rft3d_cli.models.defaults import FILE
from rft3d_cli.models.processor import FrameProcessor

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["vgllm", "plain", "fused"]
Format = Literal["same", "bfloat16", "float32"]

_VISION_THETA = 10_000.0
"""Base of the vision tower's rotations, which older versions do not ask for."""

SHARD = 5 * 10**9
"""Bytes of a weight file at most, as on the hub."""

NAMES: Mapping[str, Mapping[str, str]] = {
    "plain": {r"^model\.visual\.": "visual.", r"^model\.language_model\.": "model."},
    "vgllm": {
        r"^model\.visual\.": "visual.",
        r"^model\.language_model\.": "model.",
        r"^model\.geometry_encoder\.aggregator\.": "geometry_encoder.vggt.aggregator.",
        r"^model\.geometry_merger\.": "geometry_merger.",
    },
}
"""A model's names → published ones: :data:`~rft3d_cli.models.checkpoint.RENAMES` the other way round."""

_VGLLM = {
    "use_geometry_encoder": True,
    "geometry_encoder_type": "vggt",
    "feature_fusion_method": "add",
    "geometry_merger_type": "mlp",
    "fusion_num_layers": 1,
}


def merge(name: str, out: Path, *, dtype: Format = "same") -> Path:
    """Write a run's adapters and the model under them as one ordinary model.

    Args:
        name: A folder of adapters, or a run folder with one.
        out: A new folder.
        dtype: Number format of the weights; ``same`` is that of the model under the adapters. Sums are taken in
            float32 and rounded once.

    Raises:
        UsageError: Where ``out`` exists, or the model has no adapters.
        SetupError: Where it cannot be loaded.
    """
    folder, base, _ = _source(name, out)
    if folder == base:
        raise UsageError(f"{name} has no adapters to merge", "it is whole already: use it as it is, or copy its folder")
    model, processor = _whole(name, dtype)
    with new_folder(out) as place:
        _own(model, place)
        _beside(folder, processor, place)
    return out


def export(name: str, out: Path, layout: Form, *, dtype: Format = "same") -> list[str]:
    """Write a model in a layout that other programs read; adapters are merged first.

    Args:
        name: See :func:`~rft3d_cli.models.loader.find_model`.
        out: A new folder.
        layout: ``vgllm``, ``plain`` (the branch is left out) or ``fused``.
        dtype: Number format of the weights; ``same`` is that of the model's files.

    Returns:
        What the person who does it has to know, a line each.

    Raises:
        UsageError: Where ``out`` exists, or the model cannot have that layout.
        SetupError: Where it cannot be loaded.
    """
    folder, base, spec = _source(name, out)
    _possible(name, base, spec.geometry, layout)
    model, processor = _whole(name, dtype)
    told = []
    with new_folder(out) as place:
        if layout == "fused" or model.config.model_type not in ("qwen2_5_vl", FUSED):
            _own(model, place)
        else:
            write_shards(place, published(model, layout))
            config = flat(model, layout)
            (place / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            model.generation_config.save_pretrained(place)
            told = _told(model, layout)
        _beside(folder, processor, place)
        if layout != "fused" and processor is not None:
            for_older_versions(place, str(processor.chat_template))
    if processor is None:
        told.append(f"{name} has no tokenizer files, and neither has the copy")
    return told


def _source(name: str, out: Path) -> tuple[Path, Path, Any]:
    if out.exists():
        raise UsageError(f"{out} exists", "name a new folder")
    return loader.located(name)


def _possible(name: str, base: Path, geometry: str, layout: Form) -> None:
    """Refuse a layout that a model cannot have before its weights are read."""
    checkpoint = read_checkpoint(base)
    branch = checkpoint.config.get("geometry_encoder_type", "vggt") if checkpoint.has_branch else None
    if geometry == "vggt":
        branch = "vggt"
    if layout in ("vgllm", "fused") and branch is None:
        raise UsageError(f"model {name} has no geometry branch", "--layout plain writes it as it is")
    if layout == "vgllm" and branch != "vggt":
        raise UsageError(f"model {name} has a {branch} branch, and VG-LLM's layout has VGGT", "--layout fused")


def _whole(name: str, dtype: Format) -> tuple[Any, FrameProcessor | None]:
    """A model without adapters, in memory once."""
    import torch

    from rft3d_cli.recipe_schema import Model

    _, base, _ = loader.located(name)
    counts = read_checkpoint(base).dtypes()
    same = "bfloat16" if max(counts, key=lambda kind: counts[kind], default="F32") == "BF16" else "float32"
    wanted = same if dtype == "same" else dtype
    model, processor = loader.load_model(Model(name=name, dtype=wanted, freeze=[]))
    if hasattr(model, "peft_config"):
        model = model.merge_and_unload()
    # What was trained in full beside the adapters is kept in float32.
    model.to(getattr(torch, wanted))
    return model, processor


def _own(model: Any, place: Path) -> None:
    with quiet.no_progress():
        model.save_pretrained(place, max_shard_size=SHARD)


def _beside(folder: Path, processor: FrameProcessor | None, place: Path) -> None:
    if processor is not None:
        processor.save_pretrained(place)
    if (folder / FILE).is_file():
        shutil.copyfile(folder / FILE, place / FILE)


def published(model: Any, layout: Form) -> dict[str, Tensor]:
    """A model's tensors under published names: views of its memory, but for a tied head's copy in VG-LLM's layout.

    Args:
        model: Ours, or a plain Qwen2.5-VL.
        layout: ``vgllm`` or ``plain``.
    """
    head, embeddings = "lm_head.weight", "model.embed_tokens.weight"
    out = {}
    for name, tensor in model.state_dict().items():
        if layout == "plain" and BRANCH.search(name):
            continue
        for pattern, replacement in NAMES[layout].items():
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
    if _tied(model):
        # A file cannot hold one tensor twice. VG-LLM's have a copy; Qwen's leave it out.
        del out[head]
        if layout == "vgllm":
            out[head] = out[embeddings].clone()
    return out


def write_shards(folder: Path, tensors: Mapping[str, Tensor], *, limit: int = SHARD) -> None:
    """Write tensors as weight files of at most ``limit`` bytes, with an index where there is more than one."""
    from safetensors.torch import save_file

    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.contiguous()
        size += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, file)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": dict(sorted(places.items())),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def flat(model: Any, layout: Form) -> dict[str, Any]:
    """A model's configuration as transformers 4.50 wrote it: the language model's keys at the top, rotations as then.

    Args:
        model: Ours, or a plain Qwen2.5-VL.
        layout: ``vgllm`` or ``plain``.
    """
    from transformers import PreTrainedConfig

    config = model.config.to_dict()
    # What every configuration of today has says nothing of this one, and where it was loaded from is nobody's business.
    usual = PreTrainedConfig().to_dict()
    gone = {"_name_or_path", "transformers_version", "dtype", "model_type", "layer_types", "rope_parameters"}
    own, text, vision = (
        {key: value for key, value in part.items() if key not in gone and (key not in usual or value != usual[key])}
        for part in (config, config["text_config"], config["vision_config"])
    )
    rope, turns = (config[part]["rope_parameters"] for part in ("text_config", "vision_config"))
    if turns["rope_theta"] != _VISION_THETA:
        vision["rope_parameters"] = turns
    fixed = {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "torch_dtype": str(model.dtype).removeprefix("torch."),
        "tie_word_embeddings": _tied(model),
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "vision_config": vision | {"model_type": "qwen2_5_vl", "in_chans": vision["in_channels"]},
    }
    if layout == "vgllm":
        fixed |= _VGLLM | {"reference_frame": model.config.reference_frame}
        fixed["architectures"] = ["Qwen2_5_VLForConditionalGenerationWithVGGT"]
        sizes = ("geometry_encoder_config", "geometry_merger_hidden_dim")
        fixed |= {key: config[key] for key in sizes if config.get(key)}
    ours = {"text_config", "reference_frame", *(key for key in own if key.startswith("geometry_"))}
    out = {key: value for key, value in (own | text).items() if key not in ours} | fixed
    return dict(sorted(out.items()))


def _tied(model: Any) -> bool:
    return model.lm_head.weight is model.get_input_embeddings().weight


def _told(model: Any, layout: Form) -> list[str]:
    branch = getattr(model.config, "geometry_encoder_config", None)
    if layout == "plain":
        left = "the geometry branch is left out: the copy sees pictures without it, and its answers are others"
        return [left] if hasattr(model.model, "geometry_encoder") else []
    told = ["VGGT's point and depth heads are not in it: VG-LLM's code draws them at random, and never uses them"]
    if branch:
        told.append("its VGGT has not the public sizes: rft3d loads it, and VG-LLM's own code builds the public ones")
    return told


def for_older_versions(folder: Path, template: str) -> None:
    """Write a processor's files so that transformers before 5 reads them too.

    Those know neither the name of today's tokenizer class nor a list of special tokens under its new name, may take the
    chat template from the tokenizer alone, and name the sizes of pictures otherwise.
    """
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["chat_template"] = template
    pictures = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    size = pictures["size"]
    pictures |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    for name, content in (("tokenizer_config.json", config), ("preprocessor_config.json", pictures)):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that becomes it when the block ends well, and is removed where it does not.

    Raises:
        DataError: Where it cannot be written.
    """
    from safetensors import SafetensorError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
    with holder:
        place = Path(holder.name) / "model"
        place.mkdir()
        try:
            yield place
            # Weight files are written for their owner's eyes only; results are ordinary files.
            umask = os.umask(0)
            os.umask(umask)
            for file in place.iterdir():
                file.chmod(0o666 & ~umask)
            place.rename(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
