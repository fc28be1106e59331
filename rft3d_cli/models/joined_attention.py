"""Attention to two sets of keys at once, without putting them side by side.

A group of completions attends to its prompt and each completion to itself. Each part runs torch's flash kernel, which
also gives the logarithm of its softmax's denominator; weighed by these, the two outputs are the attention over both.
Given the joined output and the joined logarithm, the kernel's backward pass yields each part's own gradients, as ring
attention uses it (arXiv:2310.01889). No key is copied for a completion, and no mask is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"
_FORMATS = (torch.float32, torch.bfloat16)


def available(*tensors: Tensor) -> bool:
    """Whether the kernel is there for these: on a CPU, all of one format."""
    formats = {tensor.dtype for tensor in tensors}
    known = hasattr(torch.ops.aten, _KERNEL) and hasattr(torch.ops.aten, f"{_KERNEL}_backward")
    return known and len(formats) == 1 and formats <= {*_FORMATS} and all(t.device.type == "cpu" for t in tensors)


def joined_attention(
    query: Tensor, key: Tensor, value: Tensor, prompt_key: Tensor, prompt_value: Tensor, scale: float
) -> Tensor:
    """Causal attention of completions to themselves, and to all of their prompt.

    Args:
        query: ``(rows, heads, length, dim)``; rows of one prompt follow one another, as many for each.
        key: ``(rows, kv heads, length, dim)``.
        value: Likewise.
        prompt_key: ``(prompts, kv heads, prompt length, dim)``.
        prompt_value: Likewise.
        scale: Factor on the scores.

    Returns:
        ``(rows, heads, length, dim)``.
    """
    out: Tensor = _Joined.apply(query, key, value, prompt_key, prompt_value, scale)  # type: ignore[no-untyped-call]
    return out


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prompt_key: Tensor, prompt_value: Tensor, scale: float
    ) -> Tensor:
        kernel = getattr(torch.ops.aten, _KERNEL)
        size, heads = query.shape[:3], query.shape[1] // key.shape[1]
        to_prompt, prompt_sum = kernel(_by_prompt(query, prompt_key), prompt_key, prompt_value, 0.0, False, scale=scale)
        to_prompt, prompt_sum = _by_row(to_prompt, size), _by_row(prompt_sum, size)
        to_own, own_sum = kernel(query, _repeated(key, heads), _repeated(value, heads), 0.0, True, scale=scale)
        whole = torch.logaddexp(prompt_sum, own_sum)
        shares = ((part - whole).exp()[..., None].to(query.dtype) for part in (prompt_sum, own_sum))
        out: Tensor = next(shares) * to_prompt + next(shares) * to_own
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, out, whole)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prompt_key, prompt_value, out, whole = ctx.saved_tensors
        kernel = getattr(torch.ops.aten, f"{_KERNEL}_backward")
        gradient = gradients[0].contiguous()
        size, heads = query.shape[:3], query.shape[1] // key.shape[1]
        asked, meant, found, total = (_by_prompt(t, prompt_key) for t in (gradient, query, out, whole))
        for_query, for_prompt_key, for_prompt_value = kernel(
            asked, meant, prompt_key, prompt_value, found, total, 0.0, False, scale=ctx.scale
        )
        own_query, own_key, own_value = kernel(
            gradient, query, _repeated(key, heads), _repeated(value, heads), out, whole, 0.0, True, scale=ctx.scale
        )
        own = (part.unflatten(1, (key.shape[1], heads)).sum(dim=2) for part in (own_key, own_value))
        return _by_row(for_query, size) + own_query, *own, for_prompt_key, for_prompt_value, None


def _by_prompt(tensor: Tensor, prompt_key: Tensor) -> Tensor:
    """``(rows, heads, length, …)`` → ``(prompts, kv heads, queries that meet one key, …)``."""
    prompts, shared = prompt_key.shape[:2]
    rows, heads, length, *more = tensor.shape
    split = tensor.reshape(prompts, rows // prompts, shared, heads // shared * length, *more)
    return split.transpose(1, 2).reshape(prompts, shared, -1, *more)


def _by_row(tensor: Tensor, size: torch.Size) -> Tensor:
    """:func:`_by_prompt` undone, for ``size`` rows, heads and length."""
    rows, heads, length = size
    prompts, shared, _, *more = tensor.shape
    split = tensor.reshape(prompts, shared, rows // prompts, heads // shared * length, *more)
    return split.transpose(1, 2).reshape(rows, heads, length, *more)


def _repeated(tensor: Tensor, heads: int) -> Tensor:
    """Keys or values once for each of the query heads that share them."""
    return tensor.repeat_interleave(heads, dim=1) if heads > 1 else tensor
