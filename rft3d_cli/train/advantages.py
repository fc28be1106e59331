"""What GRPO makes of a group's rewards, as pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def group_advantages(
    rewards: Tensor, group: int, *, scale: Literal["group", "batch", "none"], std_floor: float
) -> tuple[Tensor, Tensor]:
    """Advantages of completions within their groups.

    Continuous rewards rarely agree exactly, so dividing by a group's own deviation would turn differences of 0.001
    into advantages of ±1. The deviation is therefore taken to be at least ``std_floor``.

    Args:
        rewards: ``(n,)`` totals, groups one after another; NaN marks a completion that cannot be scored.
        group: Completions a group.
        scale: Divide by the standard deviation of the group, of the batch, or not at all.
        std_floor: Least standard deviation.

    Returns:
        ``(n,)`` advantages, 0 where a reward is NaN, and ``(n / group,)`` standard deviations of the groups.

    >>> advantages, std = group_advantages(torch.tensor([0.0, 1.0, 0.5, 0.5]), 2, scale="none", std_floor=0.02)
    >>> advantages.tolist(), std.round(decimals=3).tolist()
    ([-0.5, 0.5, 0.0, 0.0], [0.7070000171661377, 0.0])
    """
    grouped = rewards.view(-1, group)
    centred = grouped - torch.nanmean(grouped, dim=1, keepdim=True)
    std = _nanstd(grouped, dim=1)
    if scale == "group":
        centred = centred / std.clamp(min=std_floor)[:, None].clamp(min=1e-8)
    elif scale == "batch":
        centred = centred / _nanstd(rewards[None], dim=1).clamp(min=max(std_floor, 1e-8))
    return torch.nan_to_num(centred.reshape(-1), nan=0.0), std


def _nanstd(values: Tensor, dim: int) -> Tensor:
    known = ~torch.isnan(values)
    mean = torch.nanmean(values, dim=dim, keepdim=True)
    squares = torch.where(known, values - mean, 0.0).pow(2).sum(dim=dim)
    return (squares / (known.sum(dim=dim) - 1).clamp(min=1)).sqrt()


def token_weights(lengths: Tensor, group: int) -> Tensor:
    """Weight of each completion's tokens when every group is normalised by its own tokens.

    The paper divides a group's loss by that group's tokens. Dividing by the batch's tokens instead would give a
    three-token letter beside a list of 770 tokens 1/250 of its weight.

    Args:
        lengths: ``(n,)`` completion lengths, groups one after another.
        group: Completions a group.

    Returns:
        ``(n,)``: one over the group's token count.

    >>> token_weights(torch.tensor([1, 3, 10, 10]), 2).tolist()
    [0.25, 0.25, 0.05000000074505806, 0.05000000074505806]
    """
    totals = lengths.view(-1, group).sum(dim=1).clamp(min=1)
    return (1.0 / totals).repeat_interleave(group)
