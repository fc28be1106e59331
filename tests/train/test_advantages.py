from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import advantages

from rft3d_cli.train.advantages import group_advantages, token_weights

NAN = math.nan
REWARDS = st.one_of(st.floats(-3, 3, allow_subnormal=False), st.just(NAN), st.sampled_from([0.0, 0.5, 1.0]))


@settings(max_examples=60, deadline=None)
@given(
    rewards=st.lists(st.tuples(REWARDS, REWARDS, REWARDS), min_size=1, max_size=4),
    scale=st.sampled_from(["group", "batch", "none"]),
    floor=st.sampled_from([0.02, 0.5]),
)
def test_advantages_follow_the_definition(rewards: list[tuple[float, ...]], scale: str, floor: float) -> None:
    flat = [reward for group in rewards for reward in group]
    ours, _ = group_advantages(torch.tensor(flat, dtype=torch.float64), 3, scale=scale, std_floor=floor)
    assert ours.tolist() == pytest.approx(advantages(flat, 3, floor, scale), abs=1e-9)


@pytest.mark.parametrize(
    ("rewards", "floor", "expected", "std"),
    [
        pytest.param([0.0, 2.0], 0.02, [-0.7071, 0.7071], [1.4142], id="scaled-by-the-groups-deviation"),
        pytest.param([0.5, 0.501], 0.02, [-0.025, 0.025], [0.000707], id="a-small-spread-meets-the-floor"),
        pytest.param([0.7, 0.7], 0.02, [0.0, 0.0], [0.0], id="no-spread"),
        pytest.param([0.7, 0.7], 0.0, [0.0, 0.0], [0.0], id="no-spread-and-no-floor"),
        pytest.param([NAN, NAN], 0.02, [0.0, 0.0], [0.0], id="nothing-can-be-scored"),
        pytest.param([NAN, 3.0], 0.02, [0.0, 0.0], [0.0], id="one-can-be-scored"),
        pytest.param([0.0, NAN, 2.0, 1.0, 1.0, 1.0], 0.02, [-0.7071, 0, 0.7071, 0, 0, 0], [1.4142, 0.0], id="groups"),
    ],
)
def test_one_group(rewards: list[float], floor: float, expected: list[float], std: list[float]) -> None:
    group = 3 if len(rewards) == 6 else 2
    ours, spread = group_advantages(torch.tensor(rewards), group, scale="group", std_floor=floor)
    assert ours.tolist() == pytest.approx(expected, abs=1e-3)
    assert spread.tolist() == pytest.approx(std, abs=1e-4)


def test_groups_do_not_see_each_other() -> None:
    alone, _ = group_advantages(torch.tensor([0.0, 1.0]), 2, scale="group", std_floor=0.02)
    beside, _ = group_advantages(torch.tensor([0.0, 1.0, 50.0, 90.0]), 2, scale="group", std_floor=0.02)
    assert torch.equal(alone, beside[:2])


@given(lengths=st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_the_token_weights_of_each_group_sum_to_one(lengths: list[tuple[int, int]]) -> None:
    flat = torch.tensor([length for pair in lengths for length in pair])
    shares = (token_weights(flat, 2) * flat).view(-1, 2).sum(dim=1)
    assert shares.tolist() == pytest.approx([1.0] * len(lengths), rel=1e-5)
