"""One prompt, many completions: attention that computes the prompt once, for training and for sampling.

In GRPO a prompt is thousands of video tokens and its completions are dozens. Attention is causal, so nothing of the
prompt depends on what follows, and its keys and values serve every completion. :func:`read_prompts` computes them,
:class:`Continued` lets completions attend to them (with gradients), and :func:`generate_from` samples from them without
ever copying them for each sample.

The prompt is read up to its last token but one. The last is the first input of every completion: what predicts a
completion's first token then belongs to the completion, and the keys and values are all that prompt and completion
share.

Attention is chosen by name through transformers' ``AttentionInterface``; without a shared prompt the function is its
``sdpa``. Everything else of a layer is transformers' own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rft3d_cli.errors import UsageError
from rft3d_cli.models.inputs import EncodedPrompt, collate, on_device
from rft3d_cli.models.joined_attention import available, joined_attention
from rft3d_cli.models.towers import FrozenTowers

ATTENTION = "rft3d_shared_prompt"
"""The name of our attention function among transformers'."""


class Reading(Protocol):
    """What an attention layer does where a prompt is shared."""

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Any:
        """Attention of one layer: ``(rows, heads, tokens, dim)`` in, ``(rows, tokens, heads, dim)`` out."""


@dataclass
class Prompts:
    """Keys and values of some prompts, all but their last tokens.

    Args:
        ids: ``(prompts, length + 1)`` token ids, padded on the left.
        valid: ``(prompts, length)``, False where a shorter prompt is padded.
        next_position: ``(prompts,)`` rotary positions of the last tokens.
        keys: ``(prompts, kv heads, length, dim)`` a layer, rotated.
        values: Likewise.
        layers: How many layers the model has.
    """

    ids: Tensor
    valid: Tensor
    next_position: Tensor = field(default_factory=lambda: torch.empty(0))
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    layers: int = 0

    @cached_property
    def padded(self) -> bool:
        """Whether the prompts differ in length."""
        return not bool(self.valid.all())

    @property
    def nbytes(self) -> int:
        """Memory of keys and values."""
        return sum(t.nbytes for part in (self.keys, self.values) for t in part.values())

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> tuple[Tensor, None]:
        """The prompts' own attention; keys and values are kept.

        A layer that is run again to recompute its activations must not replace what completions have used. What comes
        after the last layer's keys and values is of no use to anybody.
        """
        self.keys.setdefault(module.layer_idx, key)
        self.values.setdefault(module.layer_idx, value)
        if module.layer_idx == self.layers - 1:
            return torch.zeros_like(query).transpose(1, 2), None
        out, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=scale)
        return out, None

    def leaves(self) -> Prompts:
        """The same keys and values as the start of a graph of their own: gradients gather in them."""
        return Prompts(
            self.ids,
            self.valid,
            self.next_position,
            {layer: key.detach().requires_grad_() for layer, key in self.keys.items()},
            {layer: value.detach().requires_grad_() for layer, value in self.values.items()},
        )

    def backward_from(self, leaves: Prompts) -> None:
        """Carry the gradients that gathered in :meth:`leaves` on, into the model."""
        pairs = [
            (tensor, leaf.grad)
            for own, theirs in ((self.keys, leaves.keys), (self.values, leaves.values))
            for layer, tensor in own.items()
            if tensor.requires_grad and (leaf := theirs[layer]).grad is not None
        ]
        if pairs:
            torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])


@dataclass
class Continued:
    """Completions after prompts.

    Args:
        prompts: What they share.
        owner: ``(rows,)``, the prompt of each completion.
    """

    prompts: Prompts
    owner: Tensor
    _mask: Tensor | None = None

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> tuple[Tensor, None]:
        """Attention to the prompt and to the completion itself.

        Where no kernel joins the two, each row gets its prompt's keys beside its own. Heads that share a key are then
        folded into the queries: keys and values are not repeated for them.
        """
        prompt_key, prompt_value = (part[module.layer_idx] for part in (self.prompts.keys, self.prompts.values))
        if self.in_order and not self.prompts.padded and available(query, key, value, prompt_key, prompt_value):
            joined = joined_attention(query, key, value, prompt_key, prompt_value, scale)
            return joined.transpose(1, 2).contiguous(), None
        rows, heads, length, dim = query.shape
        shared = key.shape[1]
        keys = torch.cat([self._of_rows(prompt_key), key], dim=2)
        values = torch.cat([self._of_rows(prompt_value), value], dim=2)
        folded = query.reshape(rows, shared, heads // shared * length, dim)
        seen = self._seen(length, heads // shared, value.dtype)
        out = scaled_dot_product_attention(folded, keys, values, attn_mask=seen, scale=scale)
        return out.reshape(rows, heads, length, dim).transpose(1, 2).contiguous(), None

    @cached_property
    def in_order(self) -> bool:
        """Whether rows of one prompt follow one another, as many for each."""
        count = len(self.prompts.ids)
        if len(self.owner) % count:
            return False
        expected = torch.arange(count, device=self.owner.device).repeat_interleave(len(self.owner) // count)
        return bool(torch.equal(self.owner, expected))

    def _of_rows(self, tensor: Tensor) -> Tensor:
        """Each row's prompt."""
        count = tensor.shape[0]
        if count == 1:
            return tensor.expand(len(self.owner), -1, -1, -1)
        return tensor.index_select(0, self.owner)

    def _seen(self, length: int, folds: int, dtype: torch.dtype) -> Tensor:
        """``(rows or 1, 1, folds · length, prompt + length)``: 0 where a token of a completion sees, else −∞.

        One for all layers: a mask of truth values would be made into such a one, and kept, by each of them.
        """
        if self._mask is None:
            device = self.owner.device
            own = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None]
            if self.prompts.padded:
                before = self.prompts.valid[self.owner][:, None].expand(-1, length, -1)
            else:
                before = torch.ones(1, length, self.prompts.valid.shape[1], dtype=torch.bool, device=device)
            seen = torch.cat([before, own.expand(len(before), -1, -1)], dim=2).repeat(1, folds, 1)[:, None]
            self._mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)
        return self._mask


class SampledCache(DynamicCache):  # type: ignore[misc]
    """The cache of completions that are being sampled: it holds them only, and says how long the prompt is besides.

    Args:
        prompts: What they share.
        group: Completions a prompt, one after another.
    """

    def __init__(self, prompts: Prompts, group: int) -> None:
        super().__init__()
        self.prompts, self.group = prompts, group
        self._bias: Tensor | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the next one, with the prompt's."""
        return int(super().get_seq_length(layer_idx)) + self.prompts.valid.shape[1]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """For the mask that the model builds, which the attention here does without."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> tuple[Tensor, None]:
        """Attention of one new token a completion, to the prompt and to the completion so far.

        All queries of a group meet the prompt's keys in one product: those are read once for the group. Products are
        float32 whatever the format: attention kernels do not round scores either, and what is sampled should be what
        is learned from.
        """
        with torch.autocast(query.device.type, enabled=False):
            out = self._attend(module, query.float(), key.float(), value.float(), scale)
        return out.to(query.dtype), None

    def _attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        prompt_keys, prompt_values = (
            part[module.layer_idx].float() for part in (self.prompts.keys, self.prompts.values)
        )
        rows, heads, length, dim = query.shape
        if length != 1:
            raise ValueError(f"{length} tokens at once; completions are sampled token by token")
        count, shared, before, _ = prompt_keys.shape
        folds = heads // shared
        own = query.reshape(rows, shared, folds, dim)
        grouped = own.reshape(count, self.group, shared, folds, dim).transpose(1, 2)
        grouped = grouped.reshape(count, shared, self.group * folds, dim)
        to_prompt = grouped @ prompt_keys.transpose(2, 3) * scale
        if self.prompts.padded:
            if self._bias is None:
                self._bias = torch.zeros(self.prompts.valid.shape, device=query.device)
                self._bias.masked_fill_(~self.prompts.valid, -torch.inf)
            to_prompt = to_prompt + self._bias[:, None, None]
        to_own = own @ key.transpose(2, 3) * scale
        to_prompt = to_prompt.reshape(count, shared, self.group, folds, before).transpose(1, 2)
        weights = torch.cat([to_prompt.reshape(rows, shared, folds, before), to_own], dim=3).softmax(dim=3)
        from_prompt = weights[..., :before].reshape(count, self.group, shared, folds, before).transpose(1, 2)
        from_prompt = from_prompt.reshape(count, shared, self.group * folds, before) @ prompt_values
        from_prompt = from_prompt.reshape(count, shared, self.group, folds, dim).transpose(1, 2)
        out = from_prompt.reshape(rows, shared, folds, dim) + weights[..., before:] @ value
        return out.reshape(rows, 1, heads, dim)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prompt: Reading | None = None,
    **kwargs: Any,
) -> Any:
    """What transformers calls in every text layer."""
    reading = shared_prompt if shared_prompt is not None else getattr(module, "sampled_from", None)
    if reading is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return reading.attend(module, query, key, value, attention_mask, scale)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def why_not(model: Any) -> str | None:
    """Why a model cannot share prompts, in words; None where it can."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"its layers use {', '.join(sorted(kinds - {'full_attention'}))}, which do not see the whole prompt"
    if getattr(text, "attention_dropout", 0):
        return f"its attention drops {text.attention_dropout:g} of the weights, which is not done here"
    if not hasattr(backbone(model), "rope_deltas"):
        return f"its kind ({model.config.model_type}) is not one whose positions are known: Qwen2.5-VL, Qwen3-VL"
    return None


def share_prompts(model: Any) -> None:
    """Let a model's text layers use our attention; without a shared prompt it is transformers' ``sdpa``.

    Raises:
        UsageError: Where the model cannot share prompts; see :func:`why_not`.
    """
    reason = why_not(model)
    if reason is not None:
        raise UsageError(f"the model's prompts cannot be shared: {reason}", "add rollout.shared_prompt=false")
    model.set_attn_implementation({"text_config": ATTENTION})


@contextmanager
def sharing(model: Any) -> Iterator[None]:
    """:func:`share_prompts` for a while."""
    before = model.config.get_text_config()._attn_implementation
    share_prompts(model)
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


def language_model(model: Any) -> Any:
    """The model with the language head inside wrappers of adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: Any) -> Any:
    """The part without the language head: towers and text layers."""
    return language_model(model).model


def read_prompts(
    model: Any,
    encoded: Sequence[EncodedPrompt],
    pad_token_id: int,
    towers: FrozenTowers,
    indices: Sequence[int],
) -> Prompts:
    """Compute what the completions of some prompts share.

    Args:
        model: With :func:`share_prompts`; gradients flow where they are enabled.
        encoded: The prompts.
        pad_token_id: Fills shorter prompts on the left.
        towers: Keeps what frozen towers made of each prompt's frames.
        indices: Each prompt's own number, by which ``towers`` knows it.
    """
    body = backbone(model)
    batch = on_device(collate(encoded, pad_token_id), model.device)
    ids, valid = batch.pop("input_ids"), batch.pop("attention_mask").bool()
    types = batch.pop("mm_token_type_ids")
    prompts = Prompts(ids, valid[:, :-1], layers=len(body.language_model.layers))
    with towers.showing(body, indices, encoded):
        body(
            input_ids=ids[:, :-1],
            attention_mask=valid[:, :-1].long(),
            mm_token_type_ids=types[:, :-1],
            use_cache=False,
            shared_prompt=prompts,
            **batch,
        )
    prompts.next_position = valid[:, :-1].sum(dim=1) + body.rope_deltas.reshape(-1).to(ids.device)
    return prompts


def continued_inputs(prompts: Prompts, owner: Tensor, completions: Tensor) -> dict[str, Any]:
    """What the model takes to predict every token of some completions.

    Args:
        prompts: What they share.
        owner: ``(rows,)``, the prompt of each.
        completions: ``(rows, length)`` token ids, padded on the right.

    Returns:
        Keyword arguments of the backbone; its output is at the positions that predict the completions' tokens.
    """
    length = completions.shape[1]
    inputs = torch.cat([prompts.ids[owner, -1:], completions[:, :-1]], dim=1)
    positions = prompts.next_position[owner][:, None] + torch.arange(length, device=inputs.device)
    return {
        "input_ids": inputs,
        "position_ids": positions[None].expand(3, -1, -1),
        "shared_prompt": Continued(prompts, owner),
    }


@contextmanager
def _sampling(model: Any, cache: SampledCache) -> Iterator[None]:
    """``generate`` hands no argument of ours to the layers, so they find the cache on themselves."""
    layers = [layer.self_attn for layer in backbone(model).language_model.layers]
    for layer in layers:
        layer.sampled_from = cache
    try:
        yield
    finally:
        for layer in layers:
            del layer.sampled_from


def generate_from(model: Any, prompts: Prompts, group: int, generation_config: Any, **kwargs: Any) -> Tensor:
    """Sample completions of prompts that were read.

    transformers' own ``generate`` does it: sampling parameters, suppressed tokens and stops mean what they mean there,
    and the same seed draws the same tokens as from repeated prompts.

    Args:
        model: As given to :func:`read_prompts`.
        prompts: Read without gradients.
        group: Completions a prompt.
        generation_config: transformers'.
        **kwargs: More for ``generate``: a tokenizer, which stop strings need.

    Returns:
        ``(prompts · group, length)`` new token ids, those of one prompt after another, padded after each stop.
    """
    cache = SampledCache(prompts, group)
    valid = torch.nn.functional.pad(prompts.valid, (0, 1), value=True).repeat_interleave(group, dim=0)
    text = (valid.long().cumsum(dim=1) - 1).clamp(min=0)
    position = prompts.next_position.repeat_interleave(group)[:, None]
    places = text + (position - text[:, -1:])
    with _sampling(model, cache):
        out: Tensor = model.generate(
            input_ids=prompts.ids.repeat_interleave(group, dim=0),
            attention_mask=valid.long(),
            position_ids=torch.stack([text, places, places, places]),
            past_key_values=cache,
            generation_config=generation_config,
            **kwargs,
        )
    return out[:, valid.shape[1] :]
