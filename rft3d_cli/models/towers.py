"""What frozen towers make of a prompt's frames, kept for as long as the same prompts come again.

Within one step of GRPO the same frames pass the vision tower and the geometry encoder in the rollout, for the reference
and in the update. Towers that are not trained give the same features each time, so they run once a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rft3d_cli.models.inputs import EncodedPrompt


class FrozenTowers:
    """Features of frozen towers by prompt.

    A model that shares its frozen weights with the policy, as the reference does, may share this memory too. Towers
    with a weight that is trained are left alone.
    """

    def __init__(self) -> None:
        self._visual: dict[int, Any] = {}
        self._geometry: dict[int, Tensor] = {}

    def keep(self, indices: Collection[int]) -> None:
        """Let go of the features of all prompts but these."""
        for memory in (self._visual, self._geometry):
            for index in memory.keys() - set(indices):
                del memory[index]

    @contextmanager
    def showing(self, body: Any, indices: Sequence[int], encoded: Sequence[EncodedPrompt]) -> Iterator[None]:
        """Let a model's frozen towers answer from memory for one forward pass.

        Towers see one prompt at a time, so their activations are those of one clip.

        Args:
            body: The model without its language head.
            indices: The numbers of the prompts in the pass, in order.
            encoded: The prompts.
        """
        undo = []
        if frozen(body.visual):
            undo.append(_replaced(body.visual, self._see(body.visual.forward, indices, encoded)))
        encoder = getattr(body, "geometry_encoder", None)
        if encoder is not None and frozen(encoder):
            undo.append(_replaced(encoder, self._relate(encoder.forward, indices)))
        try:
            yield
        finally:
            for back in undo:
                back()

    def _see(self, forward: Callable[..., Any], indices: Sequence[int], encoded: Sequence[EncodedPrompt]) -> Any:
        def see(pixel_values: Tensor, grid_thw: Tensor, **kwargs: Any) -> Any:
            found, patch, frame = [], 0, 0
            for index, prompt in zip(indices, encoded, strict=True):
                patches, frames = len(prompt.pixel_values), len(prompt.image_grid_thw)
                if index not in self._visual:
                    with torch.no_grad():
                        out = forward(
                            pixel_values[patch : patch + patches], grid_thw=grid_thw[frame : frame + frames], **kwargs
                        )
                    # Nobody looks at the features before their merger, which are the larger part.
                    out.last_hidden_state = None
                    self._visual[index] = out
                found.append(self._visual[index])
                patch, frame = patch + patches, frame + frames
            together: dict[str, Any] = {"pooler_output": torch.cat([out.pooler_output for out in found])}
            if getattr(found[0], "deepstack_features", None) is not None:
                layers = zip(*(out.deepstack_features for out in found), strict=True)
                together["deepstack_features"] = [torch.cat(layer) for layer in layers]
            return type(found[0])(**together)

        return see

    def _relate(self, forward: Callable[..., Tensor], indices: Sequence[int]) -> Any:
        clips = iter(indices)

        def relate(frames: Tensor) -> Tensor:
            index = next(clips)
            if index not in self._geometry:
                with torch.no_grad():
                    self._geometry[index] = forward(frames)
            return self._geometry[index]

        return relate


def frozen(module: nn.Module) -> bool:
    """Whether no weight of a module is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def _replaced(module: Any, forward: Any) -> Callable[[], None]:
    """Give a module another ``forward``; call what is returned to give it back its own."""
    before = vars(module).get("forward")
    module.forward = forward

    def back() -> None:
        if before is None:
            del module.forward
        else:
            module.forward = before

    return back
