"""Low-rank adapters: added to a model, found in a folder, loaded from it, and what they say of their base."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.errors import Rft3dError, SetupError
from rft3d_cli.models.checkpoint import AGAIN
from rft3d_cli.models.quiet import quiet_peft, reading

if TYPE_CHECKING:
    from rft3d_cli.recipe_schema import Lora

_SEED = "seed-"
"""Adapters of a model made from a seed name the seed as their base model's revision."""
_WEIGHTS = "geometry_weights="
"""Adapters of a model with VGGT's weights beside it name those there, where they are not the usual ones."""


@dataclass(frozen=True)
class MadeFrom:
    """What adapters recorded of their base beyond its name.

    Args:
        seed: That a fresh base was made from.
        geometry: The branch that it was made with.
        weights: Where VGGT's weights beside a plain base came from.
    """

    seed: int | None = None
    geometry: str | None = None
    weights: str | None = None


def made_from(config: Mapping[str, Any]) -> MadeFrom:
    """Read the ``revision`` of an ``adapter_config.json``.

    >>> made_from({"revision": "seed-3-vggt"}), made_from({"revision": None})
    (MadeFrom(seed=3, geometry='vggt', weights=None), MadeFrom(seed=None, geometry=None, weights=None))
    """
    said = config.get("revision") or ""
    if said.startswith(_WEIGHTS):
        return MadeFrom(weights=said.removeprefix(_WEIGHTS) or None)
    drawn, _, geometry = said.removeprefix(_SEED).partition("-")
    return MadeFrom(int(drawn) if drawn.isdecimal() else None, geometry or None)


def adapter_config(folder: Path) -> dict[str, Any]:
    """What a folder's adapters say of themselves."""
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return found


def base_name(folder: Path, model: str) -> str:
    """The name of the model that a folder's adapters belong to.

    Raises:
        SetupError: Where they do not say.
    """
    with reading(model):
        name = adapter_config(folder)["base_model_name_or_path"]
        if not isinstance(name, str) or not name:
            raise SetupError(f"the adapters in {folder} do not name their base model", "set base_model_name_or_path")
        return name


def other_adapters(folder: Path, lora: Lora) -> list[Rft3dError]:
    """Adapters that a model brings are trained on as they are: a recipe that asks for others would not get them."""
    if not (folder / "adapter_config.json").is_file():
        return []
    with reading(str(folder)):
        config = adapter_config(folder)
        brought = {"rank": config["r"], "alpha": config["lora_alpha"], "dropout": config["lora_dropout"]}
    asked = lora.model_dump(include={*brought})
    other = [name for name in brought if brought[name] != asked[name]]
    if not other:
        return []
    brings = ", ".join(f"{name} {brought[name]:g}" for name in other)
    asks = ", ".join(f"{asked[name]:g}" for name in other)
    return [
        SetupError(
            f"model.lora: {folder} brings adapters of {brings}, and the recipe asks for {asks}",
            "set " + " ".join(f"model.lora.{name}={brought[name]:g}" for name in other) + ", or model.lora=null",
        )
    ]


def add_lora(model: Any, lora: Lora, *, base: str, seed: int, fresh: bool, beside: str | None = None) -> Any:
    """Low-rank adapters on the language model's linear layers; a geometry merger is trained in full beside them.

    Args:
        model: The base model.
        lora: Rank, scale, dropout and layers.
        base: The base model's name as the user wrote it: the saved adapter finds its base by it.
        seed: Initial weights of the adapters.
        fresh: Whether the base model was made on the spot, from the same seed.
        beside: Where the geometry encoder's weights came from, if the recipe named a place: the adapter finds them too.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    fused = hasattr(model.model, "geometry_merger")
    encoder = model.config.geometry_encoder_type if fused else "none"
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"model\.language_model\..*\.({'|'.join(lora.targets)})",
        modules_to_save=["geometry_merger"] if fused else None,
        task_type="CAUSAL_LM",
        revision=f"{_SEED}{seed}-{encoder}" if fresh else f"{_WEIGHTS}{beside}" if fused and beside else None,
    )
    with torch.random.fork_rng(), quiet_peft():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    return _sealed(adapted)


def load_adapters(model: Any, folder: Path, name: str) -> Any:
    """Put a folder's adapters on their base model.

    Raises:
        SetupError: Where weights are missing or damaged.
    """
    from peft import PeftModel

    # PEFT would look for a missing file on the hub.
    if not (folder / "adapter_model.safetensors").is_file():
        raise SetupError(f"{folder} holds no adapter_model.safetensors", AGAIN)
    with reading(name), quiet_peft():
        # Adapters that are not in the file would be drawn at random.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return _sealed(PeftModel.from_pretrained(model, folder, is_trainable=True))


def adapter_names(folder: Path, model: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a folder's adapters should have, for a model, which gets them.

    Args:
        folder: Of the adapters; their weights are not read.
        model: Of :func:`~rft3d_cli.models.loader.blueprint`.

    Raises:
        SetupError: Where their configuration does not fit the model.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    with reading(str(folder)), quiet_peft():
        adapted = get_peft_model(model, PeftConfig.from_pretrained(str(folder)), low_cpu_mem_usage=True)
        tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _sealed(model: Any) -> Any:
    """Let adapters be saved without a look at the hub for whether the base model's vocabulary was another."""
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model
