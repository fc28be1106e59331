"""Which parts of a model are trained, and what the others are spared."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any


def freeze(model: Any, parts: Sequence[str]) -> None:
    """Switch off the gradients of the named parts: ``vision``, ``vision_merger``, ``geometry`` (the encoder).

    Parts that the model does not have are passed over: one list fits plain and fused models. What a geometry encoder
    has and never reads is not trained either way: torch's DDP waits for a gradient of every trained parameter, the
    optimiser would hold moments for it, and a gradient of zeros would let weight decay move it.

    Args:
        model: A Qwen-VL, fused or not, with or without adapters.
        parts: Their names.
    """
    backbone = (model.get_base_model() if hasattr(model, "peft_config") else model).model
    # Qwen3-VL merges the features of some inner layers too.
    mergers = [backbone.visual.merger, *getattr(backbone.visual, "deepstack_merger_list", [])]
    merger = {id(p) for module in mergers for p in module.parameters()}
    for parameter in backbone.visual.parameters():
        part = "vision_merger" if id(parameter) in merger else "vision"
        if part in parts:
            parameter.requires_grad_(False)
    if hasattr(backbone, "geometry_encoder"):
        encoder = backbone.geometry_encoder
        # Loading switches gradients on, whatever the encoder's constructor says.
        for parameter in encoder.parameters() if "geometry" in parts else encoder.unread():
            parameter.requires_grad_(False)


def rest_where_frozen(tower: Any) -> None:
    """Let a tower keep nothing for a way back that nobody goes.

    With gradient checkpointing transformers makes what enters every tower need a gradient, so that checkpoints work
    where only adapters are trained. A vision tower without a trained weight would then be gone through backwards for
    nothing.

    Args:
        tower: A module; changed in place. Whether it is frozen is looked at in each pass.
    """
    # Bound, so that a copy of the tower gets a method of its own.
    tower.forward = MethodType(_rested, tower)


def _rested(self: Any, *args: Any, **kwargs: Any) -> Any:
    import torch

    trained = any(parameter.requires_grad for parameter in self.parameters())
    with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
        return type(self).forward(self, *args, **kwargs)
