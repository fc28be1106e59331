"""What a model's folder holds and whether it would load, seen without reading a single weight.

The model is built without memory, and its tensors' names and shapes are held against the headers of the weight files,
by the rule that loading goes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.errors import Rft3dError, SetupError
from rft3d_cli.geometry.eras import Era
from rft3d_cli.models import loader
from rft3d_cli.models.adapters import adapter_config, adapter_names
from rft3d_cli.models.checkpoint import AGAIN, IGNORED, Checkpoint, read_checkpoint, tensor_table
from rft3d_cli.models.defaults import ROOMS_ONLY, Defaults, read_defaults
from rft3d_cli.models.known import KNOWN
from rft3d_cli.models.misfits import COMPARED, compare, misfits, strange, vggt_misfits
from rft3d_cli.resources import TINY_RECIPES

if TYPE_CHECKING:
    from rft3d_cli.recipe_schema import Model

LAYOUTS = {
    "plain": "a plain model, as the hub has it",
    "fused": "rft3d's own, with a geometry branch",
    "vgllm": "VG-LLM's",
    "vgllm-first": "VG-LLM's, of its first release",
    "vggt": "VGGT alone: weights of a branch, no model to ask",
    "adapter": "adapters of another model",
}
"""Layouts in words."""

_BESIDE = {
    "tokenizer": ("tokenizer_config.json", "tokenizer.json"),
    "image processor": ("preprocessor_config.json",),
    "generation config": ("generation_config.json",),
    "rft3d.json": ("rft3d.json",),
}


@dataclass(frozen=True)
class Adapters:
    """Adapters as their configuration has them.

    Args:
        base: The model that they belong to, as it was named in training.
        rank: Of the matrices.
        alpha: Their output is multiplied by ``alpha / rank``.
        targets: The linear layers that have some.
        in_full: Modules that were trained themselves.
        parameters: In the adapters' file.
    """

    base: str
    rank: int
    alpha: float
    targets: list[str]
    in_full: list[str]
    parameters: int


@dataclass(frozen=True)
class Held:
    """What a name stands for.

    Args:
        name: As it was given.
        folder: Of the name; of the adapters where it holds such.
        layout: Of the whole model, see :data:`~rft3d_cli.models.checkpoint.Layout`.
        architecture: As its configuration says it.
        branch: The geometry branch that it would be loaded with, or None.
        parameters: Of all parts that are used, each counted once.
        parts: Parameters by part, as the files have them.
        dtypes: Parameters by number format.
        bytes: Of the weight files, adapters too.
        files: How many those are.
        beside: Which files are there beside the weights.
        missing: Names of weights that are not there, or of another shape.
        unexpected: Names of weights that the model does not have, VGGT's heads left out.
        compared: Whether names and shapes were compared at all.
        adapters: Where the folder holds some.
        angles: Order of the angles of its boxes, where known.
        defaults: How it was trained; None for models that do not say.
        recipes: Shipped recipes that fit it, and what to change in each.
        problems: What keeps it from being loaded.
    """

    name: str
    folder: Path
    layout: str
    architecture: str | None
    branch: str | None
    parameters: int
    parts: dict[str, int]
    dtypes: dict[str, int]
    bytes: int
    files: int
    beside: dict[str, bool]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    compared: bool = True
    adapters: Adapters | None = None
    angles: Era | None = None
    defaults: Defaults | None = None
    recipes: dict[str, str] = field(default_factory=dict)
    problems: list[Rft3dError] = field(default_factory=list)


def check_model(name: str) -> Held:
    """Look at a model without loading it.

    Args:
        name: See :func:`~rft3d_cli.models.loader.find_model`.

    Raises:
        SetupError: For a name that is not here, and for files that cannot be read at all. What else would keep it from
            loading is in ``problems``.
    """
    folder, base, spec = loader.located(name)
    checkpoint = read_checkpoint(base)
    if not checkpoint.tensors:
        raise SetupError(f"model {name} has no weights in {base} (model.safetensors)", AGAIN)
    if checkpoint.layout == "vggt":
        return _vggt(name, checkpoint)
    problems: list[Rft3dError] = []
    model: Any = None
    try:
        model = loader.blueprint(checkpoint, spec)
        problems += strange(name, model)
    except SetupError as error:
        problems.append(error)
    missing: set[str] = set()
    extra: set[str] = set()
    compared = model is not None and not problems and checkpoint.config.get("model_type") in COMPARED
    if compared:
        missing, extra = compare(model, checkpoint)
        added = spec.geometry == "vggt" and not checkpoint.has_branch
        problems += misfits(spec, missing, extra, added=added)
        if added:
            problems += _of_weights_to_add(model, spec)
    adapters = None
    if folder != base:
        adapters = _adapters(folder)
        if compared:
            problems += _adapter_problems(folder, model)
    try:
        loader.processor_of(folder, base, spec)
    except SetupError as error:
        # What is wrong with the configuration is wrong here again.
        problems += [error] if error.message not in {problem.message for problem in problems} else []
    defaults = None
    try:
        defaults = read_defaults(folder) if (folder / "rft3d.json").is_file() else None
    except SetupError as error:
        problems.append(error)
    branch = model.config.geometry_encoder_type if model and hasattr(model.model, "geometry_encoder") else None
    weights = [*_weight_files(base), *(_weight_files(folder) if folder != base else [])]
    return Held(
        name=name,
        folder=folder,
        layout=checkpoint.layout,
        architecture=_architecture(checkpoint.config),
        branch=branch,
        parameters=_unique(checkpoint),
        parts=checkpoint.parts(),
        dtypes=checkpoint.dtypes(),
        bytes=sum(path.stat().st_size for path in weights),
        files=len(weights),
        beside=_beside(folder, base),
        missing=sorted(missing),
        unexpected=sorted(name for name in extra if not IGNORED.search(name)),
        compared=compared,
        adapters=adapters,
        angles=angles_of(name, defaults),
        defaults=defaults,
        recipes=fitting_recipes(checkpoint, branch, defaults) if not problems else {},
        problems=problems,
    )


def _architecture(config: Mapping[str, Any]) -> str | None:
    named = config.get("architectures")
    return ", ".join(map(str, named)) if isinstance(named, list) and named else None


def _unique(checkpoint: Checkpoint) -> int:
    """Parameters, with a tied language head counted once, and none that nothing uses."""
    text = checkpoint.config.get("text_config")
    tied = checkpoint.config.get("tie_word_embeddings", isinstance(text, dict) and text.get("tie_word_embeddings"))
    return sum(
        info.size
        for name, info in checkpoint.tensors.items()
        if not IGNORED.search(name) and not (tied and name == "lm_head.weight")
    )


def _of_weights_to_add(model: Any, spec: Model) -> list[Rft3dError]:
    try:
        folder = loader.geometry_folder(spec.geometry_weights)
    except SetupError as error:
        return [error]
    return [*vggt_misfits(model.model.geometry_encoder, folder)]


def _vggt(name: str, checkpoint: Checkpoint) -> Held:
    """VGGT's own folder: what of it the branch of a public size would take."""
    import torch

    from rft3d_cli.models.vggt import VGGTEncoder

    with torch.device("meta"):
        encoder = VGGTEncoder()
    files = _weight_files(checkpoint.folder)
    own = {key: n for key, n in checkpoint.parts().items() if not key.startswith("heads")}
    return Held(
        name=name,
        folder=checkpoint.folder,
        layout="vggt",
        architecture=None,
        branch="vggt",
        parameters=sum(own.values()),
        parts=checkpoint.parts(),
        dtypes=checkpoint.dtypes(),
        bytes=sum(path.stat().st_size for path in files),
        files=len(files),
        beside=_beside(checkpoint.folder, checkpoint.folder),
        problems=[*vggt_misfits(encoder, checkpoint.folder)],
    )


def _adapters(folder: Path) -> Adapters:
    config = adapter_config(folder)
    targets = config.get("target_modules") or []
    if isinstance(targets, str):
        # The last group of our own pattern names the layers.
        targets = targets.rpartition("(")[2].rstrip(")").split("|") if targets.endswith(")") else [targets]
    file = folder / "adapter_model.safetensors"
    try:
        return Adapters(
            base=str(config.get("base_model_name_or_path")),
            rank=int(config.get("r") or 0),
            alpha=float(config.get("lora_alpha") or 0),
            targets=[str(target) for target in targets],
            in_full=[str(module) for module in config.get("modules_to_save") or []],
            parameters=sum(info.size for info in tensor_table(folder, file.name).values()) if file.is_file() else 0,
        )
    except (TypeError, ValueError) as error:
        raise SetupError(f"model {folder} cannot be loaded: adapter_config.json: {error}", AGAIN) from None


def _adapter_problems(folder: Path, model: Any) -> list[Rft3dError]:
    """Adapters that the model would have and the file does not, or in another shape."""
    try:
        expected = adapter_names(folder, model)
    except SetupError as error:
        return [error]
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return [SetupError(f"{folder} holds no {file.name}", AGAIN)]
    table = tensor_table(folder, file.name)
    unfit = [name for name, shape in expected.items() if name not in table or table[name].shape != shape]
    if not unfit:
        return []
    what = f"{len(unfit):,} adapters are missing or of another shape, first {sorted(unfit)[0]}"
    return [SetupError(f"model {folder}: {what}", AGAIN)]


def _weight_files(folder: Path) -> list[Path]:
    named = {info.file for info in tensor_table(folder).values()}
    return sorted({folder / name for name in named} | {*folder.glob("adapter_model.safetensors")})


def _beside(folder: Path, base: Path) -> dict[str, bool]:
    places = (folder, base)
    return {what: any((place / n).is_file() for place in places for n in names) for what, names in _BESIDE.items()}


def angles_of(name: str, defaults: Defaults | None) -> Era | None:
    """The order of the angles in a model's boxes: by its name, or rft3d's own where rft3d has trained it."""
    known = KNOWN.get(name)
    if known is not None and known.home == "hub":
        return known.angles
    return "intrinsic" if defaults is not None and defaults.datasets else None


def unused(parts: Mapping[str, int]) -> int:
    """Parameters of heads that nothing reads, among :meth:`~rft3d_cli.models.checkpoint.Checkpoint.parts`."""
    return sum(count for part, count in parts.items() if part.startswith("heads"))


def fitting_recipes(checkpoint: Checkpoint, branch: str | None, defaults: Defaults | None) -> dict[str, str]:
    """Shipped recipes that a model fits, and the override that each needs beside ``model.name``.

    Recipes for the tiny model ask for boxes in its small vocabulary and for short answers, all others for those of a
    real one; which task a model was trained on is not looked at.
    """
    from rft3d_cli.recipe import load_recipe, shipped_recipes

    tiny = defaults is not None and defaults.note == ROOMS_ONLY
    fits: dict[str, str] = {}
    for name in shipped_recipes():
        model = load_recipe(name).config.model
        if tiny != name.startswith(TINY_RECIPES):
            continue
        if model.geometry == "tiny" and branch != "tiny":
            continue
        # A VGGT branch is added to a plain Qwen2.5-VL where the recipe asks for one.
        may_get_vggt = branch is None and checkpoint.config.get("model_type") == "qwen2_5_vl"
        as_it_is = model.geometry in ("auto", "none", branch) or (model.geometry == "vggt" and may_get_vggt)
        fits[name] = "" if as_it_is else f"model.geometry={'none' if branch is None else branch}"
    return fits
