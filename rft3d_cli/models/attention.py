"""The vision tower's attention over many frames at once.

transformers runs it segment by segment in a Python loop unless flash-attention is installed: one call a frame, and in
windowed layers one a window, thousands for a clip. Segments of equal length do not see each other, so they can be a
batch. The numbers are the same; only the loop goes.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention, apply_rotary_pos_emb_vision
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention

LOOPS = (Qwen2_5_VLVisionAttention, Qwen3VLVisionAttention)
"""Modules with the same loop, and the same parts around it."""


def batch_vision_attention(model: Any) -> int:
    """Replace the loop over segments in a Qwen2.5-VL or Qwen3-VL vision tower that uses ``sdpa``.

    Args:
        model: A model with such a vision tower; any other is left alone.

    Returns:
        How many layers were changed.
    """
    changed = 0
    for module in model.modules():
        if type(module) in LOOPS and module.config._attn_implementation == "sdpa":
            module.forward = MethodType(_forward, module)
            changed += 1
    return changed


def _forward(
    self: Any,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Tensor:
    tokens = hidden_states.shape[0]
    q, k, v = self.qkv(hidden_states).reshape(tokens, 3, self.num_heads, -1).unbind(1)
    q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
    out: Tensor = self.proj(segment_attention(q, k, v, cu_seqlens, self.scaling).reshape(tokens, -1))
    return out


def segment_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    """Attention within segments of a packed sequence.

    Args:
        q: ``(tokens, heads, dim)``.
        k: Likewise.
        v: Likewise.
        cu_seqlens: ``(segments + 1,)``, where each segment begins, and the end.
        scale: Factor on the scores.

    Returns:
        ``(tokens, heads, dim)``.
    """
    starts, lengths = cu_seqlens[:-1], cu_seqlens[1:] - cu_seqlens[:-1]
    distinct = sorted(set(lengths.tolist()))
    if len(distinct) == 1:
        return _batch(q, k, v, distinct[0], scale)
    out = torch.empty_like(q)
    for length in distinct:
        begin = starts[lengths == length]
        index = (begin[:, None] + torch.arange(length, device=q.device)).reshape(-1)
        out = out.index_copy(0, index, _batch(q[index], k[index], v[index], length, scale))
    return out


def _batch(q: Tensor, k: Tensor, v: Tensor, length: int, scale: float) -> Tensor:
    """Attention of equal segments that follow one another."""
    shape = (-1, length, *q.shape[1:])
    q_, k_, v_ = (x.reshape(shape).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q_, k_, v_, scale=scale).transpose(1, 2).reshape(q.shape)
