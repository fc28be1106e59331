"""The one way to a model: shipped names, local folders, our run folders, adapters, and hub names."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.errors import Rft3dError, SetupError, UsageError
from rft3d_cli.files import sha256
from rft3d_cli.models.checkpoint import AGAIN, BRANCH, IGNORED, RENAMES, Checkpoint, read_checkpoint, tensor_table
from rft3d_cli.resources import assets_dir

if TYPE_CHECKING:
    from rft3d_cli.models.defaults import Defaults
    from rft3d_cli.models.processor import FrameProcessor
    from rft3d_cli.recipe_schema import Lora, Model

SHIPPED = {
    "tiny": "the tiny model after SFT and GRPO on synthetic rooms: what infer uses",
    "tiny-sft": "the tiny model after SFT: where the tiny GRPO recipes start",
}
"""Models that come with rft3d, under ``assets/models``."""

FRESH = {"tiny-random": "a freshly initialised tiny model: where the tiny SFT recipes start"}
"""Models made on the spot from a seed."""

VGGT = "facebook/VGGT-1B"
"""Where VGGT's weights come from, where the model has none and the recipe names none."""

_LIST = "rft3d models list names the models that are here"
_SEED = "seed-"
"""Adapters of a model made from a seed name the seed as their base model's revision."""


def find_model(name: str) -> Path | None:
    """The folder of a shipped model, a local folder, or a run's best (else its final) model; None for a hub name.

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
        raise SetupError(f"model {name} does not exist", _LIST)
    return None


def model_problems(spec: Model | str) -> list[Rft3dError]:
    """What keeps a model from being loaded, found without loading anything."""
    problems: list[Rft3dError] = []
    try:
        spec = _section(spec)
    except UsageError as error:
        return [error]
    if spec.name in FRESH:
        return problems
    try:
        folder = find_model(spec.name) or _snapshot(spec.name)
        if folder is None:
            problems.append(_not_fetched(spec.name))
        elif (folder / "config.json").is_file():
            problems += _branch_problems(read_checkpoint(folder), spec)
        elif spec.lora is not None:
            problems += _other_adapters(folder, spec.lora)
    except SetupError as error:
        problems.append(error)
    return problems


def _branch_problems(checkpoint: Checkpoint, spec: Model) -> list[Rft3dError]:
    """What keeps a model from having the geometry branch that was asked for."""
    if spec.geometry in ("auto", "none"):
        return []
    if checkpoint.has_branch:
        encoder = checkpoint.config.get("geometry_encoder_type", "vggt")
        if encoder == spec.geometry:
            return []
        return [SetupError(f"model {spec.name} has a {encoder} branch", f"model.geometry={encoder}, or leave it out")]
    if spec.geometry == "tiny":
        return [
            SetupError(f"model {spec.name} has no geometry branch", "leave model.geometry out, or name tiny-random")
        ]
    if checkpoint.config.get("model_type") != "qwen2_5_vl":
        return [
            SetupError(
                f"model {spec.name}: a VGGT branch can be added to a Qwen2.5-VL, and this is a "
                f"{checkpoint.config.get('model_type', 'model that does not say what it is')}",
                "leave model.geometry out: it loads, trains and answers without geometry",
            )
        ]
    try:
        geometry_folder(spec.geometry_weights)
    except SetupError as error:
        return [error]
    return []


def geometry_folder(name: str | None) -> Path:
    """The folder of VGGT's weights: a local one, or what was fetched from the hub.

    Raises:
        SetupError: Where they are not on this machine.
    """
    name = name or VGGT
    folder = find_model(name) if Path(name).is_dir() else _snapshot(name)
    if folder is None:
        raise _not_fetched(name)
    return folder


def _other_adapters(folder: Path, lora: Lora) -> list[Rft3dError]:
    """Adapters that a model brings are trained on as they are: a recipe that asks for others would not get them."""
    if not (folder / "adapter_config.json").is_file():
        return []
    with _reading(str(folder)):
        config = _adapter_config(folder)
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


def _snapshot(name: str) -> Path | None:
    """The folder into which a hub model was fetched, or None. Loading from it asks the hub nothing.

    Raises:
        SetupError: For what cannot be a name on the hub.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        raise SetupError(f"model {name} does not exist", _LIST) from None
    return Path(found).parent if isinstance(found, str) else None


def _not_fetched(name: str) -> SetupError:
    return SetupError(f"weights of {name} are not on this machine", f"fetch them first: hf download {name}")


@cache
def _fresh(name: str, geometry: str, seed: int) -> tuple[Path, Any]:
    """The folder of a freshly made model; it lives as long as the process, for the reference model is read from it."""
    from rft3d_cli.models import tiny

    holder = tempfile.TemporaryDirectory(prefix=f"{name}-")
    folder = Path(holder.name) / "model"
    tiny.create(folder, seed=seed, geometry=geometry)
    return folder, holder


def defaults_of(name: str) -> Defaults:
    """What a model says of how it was trained; see :func:`find_model` for what a name may be."""
    from rft3d_cli.models.defaults import ROOMS_ONLY, Defaults, read_defaults

    return Defaults(note=ROOMS_ONLY) if name in FRESH else read_defaults(find_model(name))


def weight_hashes(name: str) -> dict[str, str]:
    """SHA-256 of every weight file that a name stands for, by file name; adapters and the model under them.

    A freshly made model has none: its name and seed say all.

    Raises:
        SetupError: Where there is no such model.
    """
    if name in FRESH:
        return {}
    spec = _section(name)
    folder = _folder(spec, 0)
    base = {} if (folder / "config.json").is_file() else weight_hashes(_base_name(folder, name))
    return base | {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def load_model(spec: Model | str | Path, *, seed: int = 0) -> tuple[Any, FrameProcessor | None]:
    """Load a model and its processor.

    Args:
        spec: A recipe's ``model`` section, or just a name or folder. What a name may be: see :func:`find_model`.
        seed: Initial weights of ``tiny-random``, of new adapters and of a new geometry merger.

    Returns:
        The model in evaluation mode, and its processor, which is None where the folder has no tokenizer files. With a
        recipe's section the named parts are frozen and adapters are added.

    Raises:
        SetupError: Where weights are missing, or do not fit.
    """
    spec = _section(spec)
    folder = _folder(spec, seed)
    base, spec = _base(folder, spec, seed)
    model = _load(base, spec, seed)
    if base != folder:
        model = _load_adapters(model, folder, spec.name)
    elif spec.lora is not None:
        model = add_lora(model, spec.lora, base=spec.name, seed=seed)
    freeze(model, spec.freeze)
    return model.eval(), _processor(folder, base, spec)


def load_speaker(spec: Model | str | Path, *, seed: int = 0) -> tuple[Any, FrameProcessor]:
    """:func:`load_model` for whoever has it read and write: a model without a tokenizer is refused."""
    model, processor = load_model(spec, seed=seed)
    if processor is None:
        raise _speechless(_section(spec).name)
    return model, processor


def _speechless(name: str) -> SetupError:
    return SetupError(f"model {name} has no tokenizer files", AGAIN)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """One line for whatever transformers, tokenizers, safetensors, torch and PEFT raise over files from anywhere."""
    try:
        yield
    except Rft3dError:
        raise
    except Exception as error:
        # The first sentence says what is wrong; those after it are advice on other programs.
        first = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
        hint = "model.attention=sdpa needs no other package" if isinstance(error, ImportError) else AGAIN
        raise SetupError(f"model {name} cannot be loaded: {first}", hint) from error


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


def load_processor(spec: Model | str | Path, *, seed: int = 0) -> FrameProcessor:
    """A model's processor without its weights; see :func:`load_speaker`."""
    spec = _section(spec)
    folder = _folder(spec, seed)
    processor = _processor(folder, *_base(folder, spec, seed))
    if processor is None:
        raise _speechless(spec.name)
    return processor


def _section(spec: Model | str | Path) -> Model:
    from rft3d_cli.recipe_schema import Model

    if isinstance(spec, Model):
        return spec
    if not str(spec).strip():
        raise UsageError("the model's name is empty", _LIST)
    return Model(name=str(spec), freeze=[])


def _folder(spec: Model, seed: int) -> Path:
    problems = model_problems(spec)
    if problems:
        raise problems[0]
    if spec.name in FRESH:
        return _fresh(spec.name, "none" if spec.geometry == "auto" else spec.geometry, seed)[0]
    folder = find_model(spec.name) or _snapshot(spec.name)
    if folder is None:
        raise _not_fetched(spec.name)
    return folder


def _config(checkpoint: Checkpoint, spec: Model) -> Any:
    """The configuration to load with: as the folder has it, or with the branch added or left out that the spec says.

    Raises:
        SetupError: For a published checkpoint whose branch is of another make than VG-LLM's released ones.
    """
    from transformers import AutoConfig, Qwen2_5_VLConfig

    from rft3d_cli.models.fusion import FusedConfig

    # Unless it is refused, transformers asks on the terminal whether to run code that came with a model.
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    if spec.geometry == "none":
        if not isinstance(config, FusedConfig):
            return config
        kept = Qwen2_5_VLConfig().to_dict().keys() - {"model_type", "architectures"}
        return Qwen2_5_VLConfig(**{key: value for key, value in config.to_dict().items() if key in kept})
    if checkpoint.layout == "fused" or (spec.geometry == "auto" and not checkpoint.has_branch):
        return config
    raw = checkpoint.config
    for key, released in (("feature_fusion_method", "add"), ("geometry_merger_type", "mlp"), ("fusion_num_layers", 1)):
        if raw.get(key, released) != released:
            raise SetupError(
                f"model {spec.name}: {key} is {raw[key]!r}, and rft3d builds {released!r}, as in the released models",
                "model.geometry=none loads it without its branch",
            )
    fused = FusedConfig.from_qwen(config, encoder="vggt", **(raw.get("geometry_encoder_config") or {}))
    fused.reference_frame = raw.get("reference_frame", "first")
    hidden = raw.get("geometry_merger_hidden_dim")
    for name in ("geometry_merger.mlp.0.weight", "merger.mlp.0.weight"):
        if checkpoint.has_branch and name in checkpoint.tensors:
            hidden = checkpoint.tensors[name].shape[0]
    fused.geometry_merger_hidden_dim = hidden
    return fused


def _load(folder: Path, spec: Model, seed: int) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    from rft3d_cli.models.attention import batch_vision_attention
    from rft3d_cli.models.fusion import FusedConfig, saved_as_named

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
        spec.dtype, torch.bfloat16 if torch.cuda.is_available() else torch.float32
    )
    checkpoint = read_checkpoint(folder)
    with _reading(spec.name), no_progress(), torch.random.fork_rng():
        torch.manual_seed(seed)
        config = _config(checkpoint, spec)
        fused = isinstance(config, FusedConfig)
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=spec.attention,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            key_mapping=dict(RENAMES[checkpoint.layout]) if fused and checkpoint.layout in RENAMES else None,
        )
    if fused:
        saved_as_named(model)
    added = fused and not checkpoint.has_branch
    # transformers draws weights that are missing at random, drops those that it does not know, and goes on.
    missing = {name for name in report["missing_keys"] if not (added and BRANCH.search(name))}
    unfit = sorted(missing | {name for name, *_ in report["mismatched_keys"]})
    extra = sorted(
        name
        for name in report["unexpected_keys"]
        if not IGNORED.search(name) and not (spec.geometry == "none" and BRANCH.search(name))
    )
    for names, what in ((unfit, "are missing or of another shape"), (extra, "have no place in it")):
        if names:
            some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise SetupError(f"model {spec.name}: {len(names):,} weights {what}, first {some}", AGAIN)
    if added:
        load_vggt(model.model.geometry_encoder, geometry_folder(spec.geometry_weights))
    batch_vision_attention(model)
    # What a checkpoint's generation_config.json brings (penalties, top-k) changes scores and biases rollouts, silently.
    # Decoding is stated by whoever decodes; only the stop and padding tokens are the model's own.
    stop = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=stop.bos_token_id, eos_token_id=stop.eos_token_id, pad_token_id=stop.pad_token_id
    )
    return model


def load_vggt(encoder: Any, folder: Path) -> None:
    """Fill a :class:`~rft3d_cli.models.vggt.VGGTEncoder` with VGGT's published weights.

    Args:
        encoder: The encoder.
        folder: With ``model.safetensors``: ``aggregator.*``, and heads, which are left.

    Raises:
        SetupError: Where a weight is missing, unknown, or of another shape.
    """
    import torch
    from safetensors import safe_open

    prefix = "aggregator."
    table = {name: info for name, info in tensor_table(folder).items() if name.startswith(prefix)}
    own = {f"{prefix}{name}": tensor for name, tensor in encoder.aggregator.state_dict().items()}
    wrong = {
        "are missing": [name for name in own if name not in table],
        "have no place in the encoder": [name for name in table if name not in own and not IGNORED.search(name)],
        "have another shape": [n for n in own if n in table and table[n].shape != tuple(own[n].shape)],
    }
    for what, names in wrong.items():
        if names:
            some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise SetupError(f"VGGT's weights in {folder}: {len(names):,} {what}, first {some}", AGAIN)
    for file in sorted({table[name].file for name in own}):
        with _reading(str(folder)), safe_open(folder / file, framework="pt") as weights, torch.no_grad():
            for name in own:
                if table[name].file == file:
                    own[name].copy_(weights.get_tensor(name))


def _base(folder: Path, spec: Model, seed: int) -> tuple[Path, Model]:
    """The folder of the model that a folder's adapters belong to, and what it is to be loaded as.

    The folder itself where it holds a whole model.
    """
    if not (folder / "adapter_config.json").is_file():
        return folder, spec
    name = _base_name(folder, spec.name)
    with _reading(spec.name):
        config = _adapter_config(folder)
        fused = "geometry_merger" in (config.get("modules_to_save") or [])
        if name in FRESH:
            drawn, _, geometry = (config.get("revision") or "").removeprefix(_SEED).partition("-")
            made = _fresh(name, geometry or ("tiny" if fused else "none"), int(drawn) if drawn.isdecimal() else seed)
            return made[0], spec
        base = _folder(spec.model_copy(update={"name": name}), seed)
        if fused and spec.geometry == "auto" and not read_checkpoint(base).has_branch:
            # Trained on a plain model with VGGT beside it: the adapters hold the merger, and VGGT is as it was.
            spec = spec.model_copy(update={"geometry": "vggt"})
        return base, spec


def _adapter_config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return found


def _base_name(folder: Path, model: str) -> str:
    with _reading(model):
        name = _adapter_config(folder)["base_model_name_or_path"]
        if not isinstance(name, str) or not name:
            raise SetupError(f"the adapters in {folder} do not name their base model", "set base_model_name_or_path")
        return name


def _load_adapters(model: Any, folder: Path, name: str) -> Any:
    from peft import PeftModel

    # PEFT would look for a missing file on the hub.
    if not (folder / "adapter_model.safetensors").is_file():
        raise SetupError(f"{folder} holds no adapter_model.safetensors", AGAIN)
    with _reading(name), _quiet_peft():
        # Adapters that are not in the file would be drawn at random.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return _sealed(PeftModel.from_pretrained(model, folder, is_trainable=True))


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Keep away transformers' word on a name of its own that PEFT still reads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing.*")
        yield


def _sealed(model: Any) -> Any:
    """Let adapters be saved without a look at the hub for whether the base model's vocabulary was another."""
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def _processor(folder: Path, base: Path, spec: Model) -> FrameProcessor | None:
    from rft3d_cli.models.fusion import FusedConfig, encoder_class
    from rft3d_cli.models.processor import FrameProcessor

    source = next((f for f in (folder, base) if (f / "tokenizer_config.json").is_file()), None)
    if source is None:
        return None
    with _reading(spec.name):
        processor = FrameProcessor.from_pretrained(source, model=base)
        config = _config(read_checkpoint(base), spec)
    processor.uncut = isinstance(config, FusedConfig) and encoder_class(config.geometry_encoder_type).uncut
    return processor


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
    encoder = model.config.geometry_encoder_type if fused else "none"
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"model\.language_model\..*\.({'|'.join(lora.targets)})",
        modules_to_save=["geometry_merger"] if fused else None,
        task_type="CAUSAL_LM",
        revision=f"{_SEED}{seed}-{encoder}" if base in FRESH else None,
    )
    with torch.random.fork_rng(), _quiet_peft():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    return _sealed(adapted)


def freeze(model: Any, parts: Sequence[str]) -> None:
    """Switch off the gradients of the named parts: ``vision``, ``vision_merger``, ``geometry`` (the encoder).

    Parts that the model does not have are passed over: one list fits plain and fused models.
    """
    backbone = (model.get_base_model() if hasattr(model, "peft_config") else model).model
    # Qwen3-VL merges the features of some inner layers too.
    mergers = [backbone.visual.merger, *getattr(backbone.visual, "deepstack_merger_list", [])]
    merger = {id(p) for module in mergers for p in module.parameters()}
    for parameter in backbone.visual.parameters():
        part = "vision_merger" if id(parameter) in merger else "vision"
        if part in parts:
            parameter.requires_grad_(False)
    if "geometry" in parts and hasattr(backbone, "geometry_encoder"):
        backbone.geometry_encoder.requires_grad_(False)
