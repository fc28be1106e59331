"""Losses and positions written down a second time, one unpadded sequence at a time, to compare the trainers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rft3d_cli.models.inputs import EncodedPrompt


def answer_log_probs(model: Any, prompt: EncodedPrompt, answer: Sequence[int], temperature: float = 1.0) -> Tensor:
    """Log-probabilities ``(tokens, vocabulary)`` at each token of an answer, from a plain forward pass of one row."""
    ids = torch.tensor([[*prompt.input_ids.tolist(), *answer]])
    kinds = torch.tensor([[*prompt.mm_token_type_ids.tolist(), *([0] * len(answer))]])
    own = {} if prompt.geometry is None else {"geometry_images": [torch.from_numpy(prompt.geometry).float() / 255]}
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=kinds,
        pixel_values=torch.from_numpy(prompt.pixel_values),
        image_grid_thw=torch.from_numpy(prompt.image_grid_thw),
        **own,
    ).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double() / temperature, dim=-1)


def token_log_probs(model: Any, prompt: EncodedPrompt, answer: Sequence[int], temperature: float = 1.0) -> Tensor:
    """Log-probabilities ``(tokens,)`` of the tokens of an answer."""
    every = answer_log_probs(model, prompt, answer, temperature)
    return every[torch.arange(len(answer)), torch.tensor(answer)]


@dataclass(frozen=True)
class Sample:
    """One completion: the group (prompt) it belongs to, its tokens, and its advantage."""

    group: int
    prompt: EncodedPrompt
    tokens: list[int]
    advantage: float


def advantages(rewards: Sequence[float], group: int, floor: float, scale: str = "group") -> list[float]:
    """Advantages by the definition, one completion at a time; NaN rewards count for nothing."""
    out = []
    every = np.array([r for r in rewards if not np.isnan(r)])
    for start in range(0, len(rewards), group):
        own = np.array([r for r in rewards[start : start + group] if not np.isnan(r)])
        for reward in rewards[start : start + group]:
            if np.isnan(reward):
                out.append(0.0)
                continue
            spread = {"group": own, "batch": every, "none": np.array([])}[scale]
            std = np.std(spread, ddof=1) if len(spread) > 1 else 0.0
            out.append(float((reward - own.mean()) / (max(std, floor) if scale != "none" else 1.0)))
    return out


def policy_loss(
    model: Any,
    samples: Sequence[Sample],
    *,
    loss: str,
    old: Any = None,
    reference: Any = None,
    kl: float = 0.0,
    clip: float = 0.2,
    temperature: float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """The clipped loss of GRPO by the formula, and the means that a run logs.

    Args:
        model: The policy, with gradients.
        samples: Completions of one rollout batch.
        loss: ``group``, ``batch`` or ``sequence``.
        old: The policy that sampled them; the policy itself where None.
        reference: The model to which the KL term pulls.
        kl: Its weight.
        clip: Half-width of the clip range.
        temperature: Of the distributions.

    Returns:
        The loss, and the mean KL, entropy and clipped share, weighted as the tokens are in the loss.
    """
    groups = {s.group for s in samples}
    counts = {g: sum(len(s.tokens) for s in samples if s.group == g) for g in groups}
    total = torch.zeros((), dtype=torch.float64)
    means = {"kl": 0.0, "entropy": 0.0, "clip": 0.0}
    for sample in samples:
        every = answer_log_probs(model, sample.prompt, sample.tokens, temperature)
        own = every[torch.arange(len(sample.tokens)), torch.tensor(sample.tokens)]
        with torch.no_grad():
            before = (
                token_log_probs(old, sample.prompt, sample.tokens, temperature) if old is not None else own.detach()
            )
        ratio = torch.exp(own - before)
        clipped = torch.clamp(ratio, 1 - clip, 1 + clip)
        tokens = -torch.minimum(ratio * sample.advantage, clipped * sample.advantage)
        outside = ratio < 1 - clip if sample.advantage < 0 else ratio > 1 + clip
        weight = {
            "group": 1 / counts[sample.group] / len(groups),
            "batch": 1 / sum(counts.values()),
            "sequence": 1 / len(sample.tokens) / len(samples),
        }[loss]
        if reference is not None:
            with torch.no_grad():
                there = token_log_probs(reference, sample.prompt, sample.tokens, temperature)
            # TRL weights the KL term by the probability ratio: its gradient is then that of the reverse KL.
            divergence = ratio * (torch.exp(there - own) - (there - own) - 1)
            tokens = tokens + kl * divergence
            means["kl"] += weight * float(divergence.detach().sum())
        means["entropy"] += weight * float(-(every.exp() * every).sum().detach())
        means["clip"] += weight * float(outside.double().sum()) * (sample.advantage != 0)
        total = total + weight * tokens.sum()
    return total, means


def rope_positions(ids: Sequence[int], image: int, rows: int, columns: int) -> np.ndarray:
    """``(3, tokens)`` time, row and column positions of a prompt whose frames are ``rows`` × ``columns`` tokens."""
    out: list[tuple[int, int, int]] = []
    at = 0
    i = 0
    while i < len(ids):
        if ids[i] != image:
            out.append((at, at, at))
            at, i = at + 1, i + 1
            continue
        out += [(at, at + k // columns, at + k % columns) for k in range(rows * columns)]
        at, i = at + max(rows, columns), i + rows * columns
    return np.array(out).T


def gradient_error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The norm of the difference of two gradients over the norm of the second."""
    assert ours.keys() == theirs.keys()
    difference = sum(float((ours[name].double() - theirs[name].double()).pow(2).sum()) for name in ours)
    size = sum(float(value.double().pow(2).sum()) for value in theirs.values())
    return (difference / size) ** 0.5
