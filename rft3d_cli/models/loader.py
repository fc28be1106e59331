"""The one way to a model: shipped names, local folders, our run folders, adapters, and hub names."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.errors import Rft3dError, SetupError, UsageError
from rft3d_cli.files import sha256
from rft3d_cli.models.adapters import adapter_config, add_lora, base_name, load_adapters, made_from, other_adapters
from rft3d_cli.models.checkpoint import (
    AGAIN,
    RENAMES,
    Checkpoint,
    read_checkpoint,
)
from rft3d_cli.models.freeze import freeze, rest_where_frozen
from rft3d_cli.models.known import KNOWN, fetch_command
from rft3d_cli.models.misfits import AGGREGATOR, COMPARED, codes, compare, misfits, strange, vggt_misfits, vggt_table
from rft3d_cli.models.quiet import no_progress, no_report, reading
from rft3d_cli.resources import assets_dir

if TYPE_CHECKING:
    from rft3d_cli.models.defaults import Defaults
    from rft3d_cli.models.processor import FrameProcessor
    from rft3d_cli.recipe_schema import Model

SHIPPED = {name: known.text for name, known in KNOWN.items() if known.home == "shipped"}
"""Models that come with rft3d, under ``assets/models``."""

FRESH = {name: known.text for name, known in KNOWN.items() if known.home == "fresh"}
"""Models made on the spot from a seed."""

VGGT = "facebook/VGGT-1B"
"""Where VGGT's weights come from, where the model has none and the recipe names none."""

_LIST = "rft3d models list names the models that are here"


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
    if path.is_absolute() or name.startswith((".", "runs/")) or name.count("/") != 1 or path.parent.is_dir():
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
            problems.append(_not_fetched(spec.name, *_beside(spec)))
        elif (folder / "config.json").is_file():
            problems += _branch_problems(read_checkpoint(folder), spec)
        elif spec.lora is not None:
            problems += other_adapters(folder, spec.lora)
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


def fetched(name: str) -> Path | None:
    """The folder into which a known model of the hub was fetched, or None."""
    return _snapshot(name)


def _not_fetched(name: str, *more: str) -> SetupError:
    commands = " && ".join(map(fetch_command, (name, *more)))
    return SetupError(f"weights of {name} are not on this machine", f"fetch them first: {commands}")


def _beside(spec: Model) -> list[str]:
    """What has to be fetched beside a known model for the branch that it is to get, and does not come with."""
    known = KNOWN.get(spec.name)
    if spec.geometry != "vggt" or known is None or known.branch != "none" or "Qwen2.5-VL" not in spec.name:
        return []
    weights = spec.geometry_weights or VGGT
    return [] if Path(weights).is_dir() or _snapshot(weights) else [weights]


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

    if name in FRESH:
        return Defaults(note=ROOMS_ONLY)
    known = KNOWN.get(name)
    found = read_defaults(find_model(name))
    return replace(found, angles=known.angles) if known is not None and known.angles is not None else found


def penalty_of(name: str) -> float:
    """The repetition penalty with which a model is asked where nobody says otherwise; 1 is none.

    What a model from elsewhere has in its ``generation_config.json``: published checkpoints bring 1.05 along, and were
    scored with it. A model that rft3d trained was sampled without one, whatever its file says.
    """
    if defaults_of(name).datasets:
        return 1.0
    folder = None if name in FRESH else find_model(name) or _snapshot(name)
    if folder is None:
        return 1.0
    try:
        found = json.loads((folder / "generation_config.json").read_bytes()).get("repetition_penalty")
    except (OSError, ValueError, AttributeError):
        return 1.0
    return float(found) if isinstance(found, int | float) and found > 0 else 1.0


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
    base = {} if (folder / "config.json").is_file() else weight_hashes(base_name(folder, name))
    return base | {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def settings_hash(name: str) -> str:
    """SHA-256 of what shapes a model's answers beside its weights: configuration, tokenizer, chat template, sizes.

    Args:
        name: See :func:`find_model`. Of adapters, the files of the model under them count too.

    Returns:
        Hex; empty for a freshly made model, whose name and seed say all.

    Raises:
        SetupError: Where there is no such model.
    """
    if name in FRESH:
        return ""
    folder = _folder(_section(name), 0)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _SETTINGS and path.is_file()):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    if not (folder / "config.json").is_file():
        digest.update(settings_hash(base_name(folder, name)).encode())
    return digest.hexdigest()


_SETTINGS = (".json", ".jinja", ".txt", ".model")
"""Endings of the files of a model's folder that are small and matter."""


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
    folder, base, spec = located(spec, seed=seed)
    model = _load(base, spec, seed)
    if base != folder:
        model = load_adapters(model, folder, spec.name)
    elif spec.lora is not None:
        beside, fresh = spec.geometry_weights, spec.name in FRESH
        model = add_lora(model, spec.lora, base=spec.name, seed=seed, fresh=fresh, beside=beside)
    freeze(model, spec.freeze)
    return model.eval(), processor_of(folder, base, spec)


def located(spec: Model | str | Path, *, seed: int = 0) -> tuple[Path, Path, Model]:
    """Where a model's files are, without loading them.

    Returns:
        The folder that the name stands for; the folder of the whole model, another one where the first holds adapters;
        and what that is loaded as.

    Raises:
        SetupError: Where either is not on this machine.
    """
    spec = _section(spec)
    folder = _folder(spec, seed)
    return folder, *_base(folder, spec, seed)


def blueprint(checkpoint: Checkpoint, spec: Model) -> Any:
    """The model that :func:`load_model` would fill with a folder's weights, without memory for any.

    Raises:
        SetupError: Where the folder's configuration makes none.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    with reading(spec.name), torch.device("meta"):
        return AutoModelForImageTextToText.from_config(_config(checkpoint, spec), trust_remote_code=False)


def load_speaker(spec: Model | str | Path, *, seed: int = 0) -> tuple[Any, FrameProcessor]:
    """:func:`load_model` for whoever has it read and write: a model without a tokenizer is refused."""
    model, processor = load_model(spec, seed=seed)
    if processor is None:
        raise _speechless(_section(spec).name)
    return model, processor


def _speechless(name: str) -> SetupError:
    return SetupError(f"model {name} has no tokenizer files", AGAIN)


def load_processor(spec: Model | str | Path, *, seed: int = 0) -> FrameProcessor:
    """A model's processor without its weights; see :func:`load_speaker`."""
    spec = _section(spec)
    folder = _folder(spec, seed)
    processor = processor_of(folder, *_base(folder, spec, seed))
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
        raise _not_fetched(spec.name, *_beside(spec))
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
    if fused.reference_frame not in ("first", "last"):
        raise SetupError(
            f"model {spec.name}: reference_frame is {fused.reference_frame!r}, not 'first' or 'last'", AGAIN
        )
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
    _compare_beforehand(checkpoint, spec)
    with reading(spec.name), no_progress(), no_report(), torch.random.fork_rng():
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
    for problem in strange(spec.name, model):
        raise problem
    if fused:
        saved_as_named(model)
    added = fused and not checkpoint.has_branch
    # transformers draws weights that are missing at random, drops those that it does not know, and goes on.
    unfit = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    for problem in misfits(spec, unfit, report["unexpected_keys"], added=added):
        raise problem
    if added:
        load_vggt(model.model.geometry_encoder, geometry_folder(spec.geometry_weights))
    batch_vision_attention(model)
    rest_where_frozen(model.model.visual)
    # What a checkpoint's generation_config.json brings (penalties, top-k) changes scores and biases rollouts, silently.
    # Decoding is stated by whoever decodes; only the stop and padding tokens are the model's own.
    stop = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=stop.bos_token_id, eos_token_id=stop.eos_token_id, pad_token_id=stop.pad_token_id
    )
    return model


def _compare_beforehand(checkpoint: Checkpoint, spec: Model) -> None:
    """Refuse weights that do not fill the configuration's model before any are drawn in their place.

    transformers would draw them first: over a configuration of another size, that takes all of a machine's memory.
    """
    if checkpoint.config.get("model_type") not in COMPARED or not checkpoint.tensors:
        return
    added = spec.geometry == "vggt" and not checkpoint.has_branch
    unfit = misfits(spec, *compare(blueprint(checkpoint, spec), checkpoint), added=added)
    for problem in [*unfit, *codes(spec.name, checkpoint)]:
        raise problem


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

    for problem in vggt_misfits(encoder, folder):
        raise problem
    table = vggt_table(folder)
    own = {f"{AGGREGATOR}{name}": tensor for name, tensor in encoder.aggregator.state_dict().items()}
    for file in sorted({table[name].file for name in own}):
        with reading(str(folder)), safe_open(folder / file, framework="pt") as weights, torch.no_grad():
            for name in own:
                if table[name].file == file:
                    own[name].copy_(weights.get_tensor(name))


def _base(folder: Path, spec: Model, seed: int) -> tuple[Path, Model]:
    """The folder of the model that a folder's adapters belong to, and what it is to be loaded as.

    The folder itself where it holds a whole model.
    """
    if not (folder / "adapter_config.json").is_file():
        return folder, spec
    name = base_name(folder, spec.name)
    with reading(spec.name):
        config = adapter_config(folder)
        fused = "geometry_merger" in (config.get("modules_to_save") or [])
        made = made_from(config)
        if name in FRESH:
            geometry = made.geometry or ("tiny" if fused else "none")
            return _fresh(name, geometry, seed if made.seed is None else made.seed)[0], spec
        base = _folder(spec.model_copy(update={"name": name}), seed)
        if fused and spec.geometry in ("auto", "vggt") and not read_checkpoint(base).has_branch:
            # Trained on a plain model with VGGT beside it: the adapters hold the merger, and VGGT is as it was.
            weights = spec.geometry_weights or made.weights
            spec = spec.model_copy(update={"geometry": "vggt", "geometry_weights": weights})
        return base, spec


def processor_of(folder: Path, base: Path, spec: Model) -> FrameProcessor | None:
    """The processor of what :func:`located` found, or None where neither folder has tokenizer files."""
    from rft3d_cli.models.fusion import FusedConfig, encoder_class
    from rft3d_cli.models.processor import FrameProcessor

    source = next((f for f in (folder, base) if (f / "tokenizer_config.json").is_file()), None)
    if source is None:
        return None
    with reading(spec.name):
        processor = FrameProcessor.from_pretrained(source, model=base)
        config = _config(read_checkpoint(base), spec)
        processor.uncut = isinstance(config, FusedConfig) and encoder_class(config.geometry_encoder_type).uncut
    return processor
