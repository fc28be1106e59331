"""Qwen2.5-VL with a geometry branch: features of a 3D encoder added, patch by patch, to those of the vision tower.

The encoder sees the same frames as the vision tower and knows which of them form one clip. Its features are merged
2 × 2 and projected to the language model's width, and added to Qwen's visual tokens in ``get_image_features``, where
training, ``generate`` and every trainer pass. VG-LLM and 3D-RFT do the same with VGGT.

Everything that touches transformers' model classes is in this file.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

ENCODERS = {
    "tiny": "rft3d_cli.models.geometry_tiny:TinyGeometryEncoder",
    "vggt": "rft3d_cli.models.vggt:VGGTEncoder",
}
"""Geometry encoders by name: ``module:class``, one file each."""


class GeometryEncoder(Protocol):
    """What a geometry encoder offers.

    Attributes:
        output_dim: Width of its patch features.
        merger_hidden_dim: Width between the two layers of the merger behind it, where a configuration names none.
        uncut: Whether it wants frames as they were before Qwen's cut to whole merged patches.
    """

    output_dim: int
    merger_hidden_dim: int
    uncut: bool

    def unread(self) -> Iterable[nn.Parameter]:
        """Parameters that no feature depends on; they are never trained."""

    def __call__(self, frames: Tensor) -> Tensor:
        """Features of one clip.

        Args:
            frames: ``(S, 3, H, W)`` in [0, 1].

        Returns:
            ``(S, H / patch, W / patch, output_dim)``.
        """


def encoder_class(name: str) -> Any:
    """A geometry encoder's class by name.

    Raises:
        ValueError: For an unknown name.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown geometry encoder {name!r}; there are {', '.join(ENCODERS)}")
    module, _, attribute = ENCODERS[name].partition(":")
    return getattr(import_module(module), attribute)


def build_encoder(name: str, config: dict[str, Any]) -> nn.Module:
    """A geometry encoder by name, of the sizes in ``config``.

    Raises:
        ValueError: For an unknown name.
    """
    encoder: nn.Module = encoder_class(name)(**config)
    return encoder


class FusedConfig(Qwen2_5_VLConfig):  # type: ignore[misc]
    """Qwen2.5-VL's configuration and the geometry branch's.

    Args:
        geometry_encoder_type: A key of :data:`ENCODERS`.
        geometry_encoder_config: Keyword arguments of the encoder; None for its own, the public sizes.
        geometry_merger_hidden_dim: Width between the merger's two layers; None for the encoder's own.
        reference_frame: Which frame of a clip the encoder gets first, ``first`` or ``last``: its features are in that
            frame's coordinates.
    """

    model_type = "rft3d_fused_qwen2_5_vl"
    # TRL copies this attribute when it loads the reference model; without it a custom configuration raises there.
    auto_map = {}  # type: ignore[var-annotated]  # noqa: RUF012 - an annotation would make it a field

    geometry_encoder_type: str = "tiny"
    geometry_encoder_config: dict[str, Any] | None = None
    geometry_merger_hidden_dim: int | None = None
    reference_frame: str = "first"

    @classmethod
    def from_qwen(cls, config: Qwen2_5_VLConfig, encoder: str, **encoder_config: Any) -> FusedConfig:
        """The configuration of a plain model with a branch added."""
        # Published configurations name the branch in their own way.
        own = {"model_type", "architectures", "reference_frame"}
        values = {k: v for k, v in config.to_dict().items() if k not in own and not k.startswith("geometry_")}
        return cls(**values, geometry_encoder_type=encoder, geometry_encoder_config=encoder_config)


class GeometryMerger(nn.Module):
    """2 × 2 patch features → one feature of the language model's width: RMSNorm, gather, linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int, merge: int) -> None:
        super().__init__()
        self.merge = merge
        self.ln_q = nn.RMSNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim * merge**2, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, features: Tensor) -> Tensor:
        """Merge patches.

        Args:
            features: ``(S, H, W, dim)`` patches.

        Returns:
            ``(S, H // merge · W // merge, out)``, rows first; an odd last row or column is left out.
        """
        s, h, w, dim = features.shape
        m = self.merge
        features = self.ln_q(features[:, : h // m * m, : w // m * m])
        blocks = features.reshape(s, h // m, m, w // m, m, dim).permute(0, 1, 3, 2, 4, 5)
        out: Tensor = self.mlp(blocks.reshape(s, (h // m) * (w // m), m * m * dim))
        return out


_WHOLE = [*Qwen2_5_VLForConditionalGeneration._no_split_modules, "VGGTBlock"]
"""Modules that a device map keeps on one device."""


class FusedModel(Qwen2_5_VLModel):  # type: ignore[misc]
    """The backbone: vision tower, geometry branch and language model."""

    config_class = FusedConfig
    _no_split_modules = _WHOLE

    def __init__(self, config: FusedConfig) -> None:
        super().__init__(config)
        self.geometry_encoder = build_encoder(config.geometry_encoder_type, config.geometry_encoder_config or {})
        self.geometry_merger = GeometryMerger(
            int(self.geometry_encoder.output_dim),  # type: ignore[arg-type]
            config.geometry_merger_hidden_dim or int(self.geometry_encoder.merger_hidden_dim),  # type: ignore[arg-type]
            config.text_config.hidden_size,
            config.vision_config.spatial_merge_size,
        )
        self._supplied: deque[Tensor] | None = None
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, geometry_images: Any = None, **kwargs: Any) -> Any:
        """As Qwen2.5-VL's; ``geometry_images`` may hold the encoder's own frames, see ``get_image_features``."""
        if kwargs.get("pixel_values") is not None:
            if input_ids is None:
                raise ValueError("frames without input_ids: which of them are one clip is read from those")
            kwargs["frames_per_sample"] = self.frames_per_sample(input_ids)
            kwargs["geometry_images"] = geometry_images
        return super().forward(input_ids=input_ids, **kwargs)

    def frames_per_sample(self, input_ids: Tensor) -> list[int]:
        """How many frames each row of ``(rows, tokens)`` ids shows."""
        counts: list[int] = (input_ids == self.config.vision_start_token_id).sum(dim=1).tolist()
        return counts

    def get_image_features(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor | None = None,
        geometry_images: Sequence[Tensor] | None = None,
        frames_per_sample: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Visual tokens with geometry added.

        Args:
            pixel_values: ``(patches, patch_dim)``.
            image_grid_thw: ``(frames, 3)``.
            geometry_images: One ``(S, 3, H, W)`` in [0, 1] a sample, where the encoder wants other pixels than
                Qwen's; recovered from ``pixel_values`` where None.
            frames_per_sample: Frames of each sample; all one clip where None.
            **kwargs: Passed on.
        """
        outputs = super().get_image_features(pixel_values, image_grid_thw, **kwargs)
        frames = list(outputs.pooler_output)
        if image_grid_thw is None:
            raise ValueError("frames cannot be told apart without image_grid_thw")
        counts = list(frames_per_sample) if frames_per_sample is not None else [len(frames)]
        if geometry_images is None and self._supplied is not None:
            wanted = sum(count > 0 for count in counts)
            if wanted > len(self._supplied):
                raise ValueError(f"{wanted} rows have frames, and {len(self._supplied)} supplied clips are left")
            geometry_images = [self._supplied.popleft() for _ in range(wanted)]
        if geometry_images is None:
            images = self.frames_from_patches(pixel_values, image_grid_thw)
            clips = [images[sum(counts[:i]) : sum(counts[: i + 1])] for i in range(len(counts))]
        else:
            clips = [list(clip) for clip in geometry_images]
        lengths = [len(clip) for clip in clips if clip]
        if frames_per_sample is not None and lengths != [count for count in counts if count]:
            # Of one size, they would fit: each row's last frames would get the next row's geometry.
            raise ValueError(f"rows show {counts} frames, and the geometry encoder is given clips of {lengths}")
        tokens = [token for clip in clips if clip for token in self._geometry_tokens(clip, frames[0].device)]
        outputs.pooler_output = _added(frames, tokens)
        return outputs

    @contextmanager
    def supplied(self, clips: Iterable[Tensor]) -> Iterator[None]:
        """Give the encoder its own frames for the forward passes inside, where nobody can hand them on as an input.

        Trainers pass a fixed list of inputs to the model and drop any other without a word.

        Args:
            clips: One ``(S, 3, H, W)`` a row with frames, in the order in which rows will come.

        Raises:
            ValueError: Where not all clips were used: rows and clips were then not each other's.
        """
        self._supplied = deque(clips)
        try:
            yield
            if self._supplied:
                raise ValueError(f"{len(self._supplied)} supplied clips were not used")
        finally:
            self._supplied = None

    def _geometry_tokens(self, clip: Sequence[Tensor], device: torch.device) -> Tensor:
        sizes = {tuple(frame.shape[-2:]) for frame in clip}
        if len(sizes) > 1:
            raise ValueError(f"frames of one clip have {len(sizes)} sizes; the geometry encoder relates frames of one")
        frames = torch.stack(list(clip)).to(device)
        if frames.dtype == torch.uint8:
            frames = frames.float() / 255
        last = self.config.reference_frame == "last"
        trained = any(p.requires_grad for p in self.geometry_encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            features = self.geometry_encoder(frames.flip(0) if last else frames)
        merged: Tensor = self.geometry_merger(features.to(self.geometry_merger.ln_q.weight.dtype))
        return merged.flip(0) if last else merged

    def frames_from_patches(self, pixel_values: Tensor, image_grid_thw: Tensor) -> list[Tensor]:
        """Frames ``(3, H, W)`` in [0, 1], read back from Qwen's patches: the patchify step undone.

        Args:
            pixel_values: ``(patches, patch_dim)``, frames one after another.
            image_grid_thw: ``(frames, 3)``.
        """
        vision = self.config.vision_config
        p, t, m = vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size
        mean = pixel_values.new_tensor(OPENAI_CLIP_MEAN).view(3, 1, 1)
        std = pixel_values.new_tensor(OPENAI_CLIP_STD).view(3, 1, 1)
        out, start = [], 0
        for _, h, w in image_grid_thw.tolist():
            patches = pixel_values[start : start + h * w].reshape(h // m, w // m, m, m, 3, t, p, p)[:, :, :, :, :, 0]
            image = patches.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, h * p, w * p)
            out.append((image * std + mean).clamp(0, 1))
            start += h * w
        return out


def _added(frames: Sequence[Tensor], tokens: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Visual tokens and geometry tokens summed, frame by frame; sums of other shapes would broadcast."""
    shapes = [[tuple(token.shape) for token in side] for side in (frames, tokens)]
    if shapes[0] != shapes[1]:
        seen = [f"{len(side)} frames of {sorted({shape[0] for shape in side})} tokens" for side in shapes]
        raise ValueError(f"the vision tower gives {seen[0]}, the geometry branch {seen[1]}")
    return tuple(f + g.to(f) for f, g in zip(frames, tokens, strict=True))


class FusedForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):  # type: ignore[misc]
    """The whole model, with a language head."""

    config_class = FusedConfig
    _no_split_modules = _WHOLE

    def __init__(self, config: FusedConfig) -> None:
        super().__init__(config)
        self.model = FusedModel(config)
        self.post_init()

    def forward(self, *args: Any, geometry_images: Any = None, **kwargs: Any) -> Any:
        """As Qwen2.5-VL's, with ``geometry_images``: one ``(S, 3, H, W)`` in [0, 1] a sample."""
        return super().forward(*args, geometry_images=geometry_images, **kwargs)

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any], model_input_name: str | None, *args: Any
    ) -> Any:
        """``generate`` encodes frames before its first forward pass, and does not say which ones are one clip."""
        if model_input_name == "input_ids" and model_kwargs.get("pixel_values") is not None:
            model_kwargs["frames_per_sample"] = self.model.frames_per_sample(inputs_tensor)
        return super()._maybe_prepare_encoder_kwargs_for_generation(
            inputs_tensor, model_kwargs, model_input_name, *args
        )


def saved_as_named(model: Any) -> None:
    """Let a model be saved under its modules' names, whatever names its weights were loaded by.

    transformers remembers those and writes them again; our configuration does not announce them.
    """
    model._weight_conversions = []


# ``generate`` hands a model what its forward names; ours names what Qwen's does, and one input more.
_SIGNATURE = inspect.signature(Qwen2_5_VLForConditionalGeneration.forward)
_GEOMETRY = inspect.Parameter("geometry_images", inspect.Parameter.KEYWORD_ONLY, default=None)
FusedForConditionalGeneration.forward.__signature__ = _SIGNATURE.replace(  # type: ignore[attr-defined]
    parameters=[
        *(p for p in _SIGNATURE.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD),
        _GEOMETRY,
        *(p for p in _SIGNATURE.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD),
    ]
)

AutoConfig.register(FusedConfig.model_type, FusedConfig)
AutoModel.register(FusedConfig, FusedModel)
AutoModelForImageTextToText.register(FusedConfig, FusedForConditionalGeneration)
AutoModelForCausalLM.register(FusedConfig, FusedForConditionalGeneration)
