"""The one way to a model: shipped names, local folders, our run folders, adapters, and hub names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.errors import Rft3dError, SetupError
from rft3d_cli.resources import assets_dir

if TYPE_CHECKING:
    from rft3d_cli.models.processor import FrameProcessor
    from rft3d_cli.recipe_schema import Lora, Model

SHIPPED = {
    "tiny": "the tiny model after SFT and GRPO on synthetic rooms: what infer uses",
    "tiny-sft": "the tiny model after SFT: where the tiny GRPO recipes start",
}
"""Models that come with rft3d, under ``assets/models``."""

FRESH = {"tiny-random": "a freshly initialised tiny model: where the tiny SFT recipes start"}
"""Models made on the spot from a seed."""


def find_model(name: str) -> Path | None:
    """The folder of a shipped model, a local folder, or the newest model of a run folder; None for a hub name.

    Raises:
        SetupError: For a local-looking path that is not there, or a folder that holds no model.
    """
    if name in SHIPPED:
        folder = assets_dir() / "models" / name
        if not (folder / "config.json").is_file():
            raise SetupError(f"the shipped model {name} is missing from {folder}", "install rft3d again")
        return folder
    path = Path(name)
    if path.is_dir():
        for folder in (path, path / "best", path / "final"):
            if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
                return folder
        raise SetupError(
            f"{path} holds no model (no config.json)", "name a model's folder, or a run folder that has finished"
        )
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1 or path.parent.is_dir():
        raise SetupError(f"model {name} does not exist", "rft3d models list names the models that are here")
    return None


def model_problems(spec: Model) -> list[Rft3dError]:
    """What keeps a recipe's model from being loaded, found without loading anything."""
    problems: list[Rft3dError] = []
    if spec.geometry == "vggt":
        problems.append(
            SetupError(
                "model.geometry: the VGGT branch is not part of this version of rft3d",
                "train without it (model.geometry=none), or on the tiny stand-in (model.geometry=tiny)",
            )
        )
    if spec.name in FRESH:
        return problems
    try:
        if find_model(spec.name) is None and not _in_hub_cache(spec.name):
            problems.append(
                SetupError(
                    f"weights of {spec.name} are not on this machine",
                    f"fetch them first: hf download {spec.name}",
                )
            )
    except SetupError as error:
        problems.append(error)
    return problems


def _in_hub_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


@cache
def _fresh(name: str, geometry: bool, seed: int) -> tuple[Path, Any]:
    """The folder of a freshly made model; it lives as long as the process, for the reference model is read from it."""
    from rft3d_cli.models import tiny

    holder = tempfile.TemporaryDirectory(prefix=f"{name}-")
    folder = Path(holder.name) / "model"
    tiny.create(folder, seed=seed, geometry=geometry)
    return folder, holder


def load_model(spec: Model | str | Path, *, seed: int = 0) -> tuple[Any, FrameProcessor | None]:
    """Load a model and its processor.

    Args:
        spec: A recipe's ``model`` section, or just a name or folder. What a name may be: see :func:`find_model`.
        seed: Initial weights of ``tiny-random`` and of new adapters.

    Returns:
        The model in evaluation mode, and its processor, or None for a folder without tokenizer files. With a recipe's
        section the named parts are frozen and adapters are added.

    Raises:
        SetupError: Where weights are missing.
    """
    spec = _section(spec)
    folder = _folder(spec, seed)
    adapter = isinstance(folder, Path) and (folder / "adapter_config.json").is_file()
    if adapter:
        from peft import PeftModel

        base = json.loads((Path(folder) / "adapter_config.json").read_text())["base_model_name_or_path"]
        model = PeftModel.from_pretrained(_load(find_model(base) or base, spec), folder, is_trainable=True)
    else:
        model = _load(folder, spec)
        if spec.lora is not None:
            model = add_lora(model, spec.lora, base=spec.name, seed=seed)
    freeze(model, spec.freeze)
    return model.eval(), _processor(folder)


@contextmanager
def no_progress() -> Iterator[None]:
    """Keep transformers' bars for loading and saving shards away: ours say more, and a model here has one shard."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_processor(spec: Model | str | Path, *, seed: int = 0) -> FrameProcessor | None:
    """A model's processor without its weights; see :func:`load_model`."""
    spec = _section(spec)
    return _processor(_folder(spec, seed))


def _section(spec: Model | str | Path) -> Model:
    from rft3d_cli.recipe_schema import Model

    return spec if isinstance(spec, Model) else Model(name=str(spec), freeze=[])


def _folder(spec: Model, seed: int) -> Path | str:
    problems = model_problems(spec)
    if problems:
        raise problems[0]
    if spec.name in FRESH:
        return _fresh(spec.name, spec.geometry == "tiny", seed)[0]
    return find_model(spec.name) or spec.name


def _load(folder: Path | str, spec: Model) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    import rft3d_cli.models.fusion  # noqa: F401 - registers our classes
    from rft3d_cli.models.attention import batch_vision_attention

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
        spec.dtype, torch.bfloat16 if torch.cuda.is_available() else torch.float32
    )
    try:
        with no_progress():
            config = AutoConfig.from_pretrained(folder)
            model = AutoModelForImageTextToText.from_pretrained(
                folder, config=config, dtype=dtype, attn_implementation=spec.attention
            )
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise SetupError(f"model {spec.name} cannot be loaded: {first}") from error
    if spec.geometry == "tiny" and not hasattr(model.model, "geometry_encoder"):
        raise SetupError(f"model {spec.name} has no geometry branch", "drop model.geometry, or name tiny-random")
    batch_vision_attention(model)
    # What a checkpoint's generation_config.json brings (penalties, top-k) changes scores and biases rollouts, silently.
    # Decoding is stated by whoever decodes; only the stop and padding tokens are the model's own.
    stop = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=stop.bos_token_id, eos_token_id=stop.eos_token_id, pad_token_id=stop.pad_token_id
    )
    return model


def _processor(folder: Path | str) -> FrameProcessor | None:
    import rft3d_cli.models.fusion  # noqa: F401 - registers our configuration
    from rft3d_cli.models.processor import FrameProcessor

    if isinstance(folder, Path) and not (folder / "tokenizer_config.json").is_file():
        return None
    return FrameProcessor.from_pretrained(folder)


def add_lora(model: Any, lora: Lora, *, base: str, seed: int) -> Any:
    """Low-rank adapters on the language model's linear layers; a geometry merger is trained in full beside them.

    Args:
        model: The base model.
        lora: Rank, scale, dropout and layers.
        base: The base model's name as the user wrote it: the saved adapter finds its base by it.
        seed: Initial weights of the adapters.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    fused = hasattr(model.model, "geometry_merger")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"model\.language_model\..*\.({'|'.join(lora.targets)})",
        modules_to_save=["geometry_merger"] if fused else None,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def freeze(model: Any, parts: Sequence[str]) -> None:
    """Switch off the gradients of the named parts: ``vision``, ``vision_merger``, ``geometry`` (the encoder).

    Parts that the model does not have are passed over: one list fits plain and fused models.
    """
    backbone = (model.get_base_model() if hasattr(model, "peft_config") else model).model
    merger = {id(p) for p in backbone.visual.merger.parameters()}
    for parameter in backbone.visual.parameters():
        part = "vision_merger" if id(parameter) in merger else "vision"
        if part in parts:
            parameter.requires_grad_(False)
    if "geometry" in parts and hasattr(backbone, "geometry_encoder"):
        backbone.geometry_encoder.requires_grad_(False)
