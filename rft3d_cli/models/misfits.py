"""What keeps a folder's weights from filling a model, by name: one rule for loading and for looking beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.errors import SetupError
from rft3d_cli.models.checkpoint import (
    AGAIN,
    BRANCH,
    FLOATS,
    FUSED,
    IGNORED,
    Checkpoint,
    TensorInfo,
    renamed,
    tensor_table,
)

if TYPE_CHECKING:
    from rft3d_cli.recipe_schema import Model

COMPARED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", FUSED)
"""Model types whose published names differ from the model's by our tables only."""

AGGREGATOR = "aggregator."
"""What the names of VGGT's own weights begin with, where they are used at all."""


def strange(name: str, model: Any) -> list[SetupError]:
    """What is wrong with a model's architecture: freezing, adapters and frames need Qwen's vision tower."""
    if hasattr(model.model, "visual"):
        return []
    kind = getattr(model.config, "model_type", "model of another kind")
    return [SetupError(f"model {name} is a {kind}, and rft3d loads Qwen2.5-VL and its kin", "rft3d models list")]


def misfits(spec: Model, unfit: Iterable[str], extra: Iterable[str], *, added: bool) -> list[SetupError]:
    """What is wrong with a folder's weights, by the names that the model has for them.

    Args:
        spec: What the folder is loaded as.
        unfit: Weights that are missing from it, or of another shape.
        extra: Weights that the model does not have.
        added: Whether a branch is added, whose weights come from elsewhere.
    """
    wanted = {name for name in unfit if not (added and BRANCH.search(name))}
    left = {
        name for name in extra if not IGNORED.search(name) and not (spec.geometry == "none" and BRANCH.search(name))
    }
    whose = f"model {spec.name}"
    problems = [_misfit(whose, wanted, "weights are missing or of another shape")] if wanted else []
    return problems + ([_misfit(whose, left, "weights have no place in it")] if left else [])


def compare(model: Any, checkpoint: Checkpoint) -> tuple[set[str], set[str]]:
    """A model's tensors and a folder's, by name and shape.

    Args:
        model: Built on any device, the meta device too.
        checkpoint: The folder.

    Returns:
        Names, as the model has them, of weights that the folder lacks or has in another shape, and of those that only
        the folder has. A weight under two names, as a tied language head is, needs one of them.
    """
    found = {renamed(name, checkpoint.layout): info.shape for name, info in checkpoint.tensors.items()}
    own = model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in own.items():
        names.setdefault(id(tensor), []).append(name)
    unfit: set[str] = set()
    for aliases in names.values():
        here = [alias for alias in aliases if alias in found]
        unfit |= {alias for alias in here or aliases if found.get(alias) != tuple(own[alias].shape)}
    return unfit, found.keys() - own.keys()


def codes(name: str, checkpoint: Checkpoint) -> list[SetupError]:
    """What is wrong with the format of a folder's numbers: those of quantised models mean nothing by themselves."""
    odd = [
        (tensor, info.dtype)
        for tensor, info in checkpoint.tensors.items()
        if info.dtype not in FLOATS and not IGNORED.search(tensor)
    ]
    if not odd:
        return []
    return [
        SetupError(
            f"model {name}: {len(odd):,} weights are of another format than {', '.join(FLOATS)}, "
            f"first {odd[0][0]} ({odd[0][1]})",
            "quantised models are not read: name the model that this one was made from",
        )
    ]


def vggt_misfits(encoder: Any, folder: Path) -> list[SetupError]:
    """What is wrong with VGGT's weights in a folder, for a :class:`~rft3d_cli.models.vggt.VGGTEncoder`."""
    table = vggt_table(folder)
    own = {f"{AGGREGATOR}{name}": tensor for name, tensor in encoder.aggregator.state_dict().items()}
    wrong = {
        "are missing": [name for name in own if name not in table],
        "have no place in the encoder": [name for name in table if name not in own and not IGNORED.search(name)],
        "have another shape": [n for n in own if n in table and table[n].shape != tuple(own[n].shape)],
    }
    return [_misfit(f"VGGT's weights in {folder}", names, what) for what, names in wrong.items() if names]


def vggt_table(folder: Path) -> dict[str, TensorInfo]:
    """VGGT's weights in a folder by name, without its heads."""
    return {name: info for name, info in tensor_table(folder).items() if name.startswith(AGGREGATOR)}


def _misfit(whose: str, names: Iterable[str], what: str) -> SetupError:
    names = sorted(names)
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return SetupError(f"{whose}: {len(names):,} {what}, first {some}", AGAIN)
