"""Attention over a shared prompt, against softmax over the whole sequence written out for each row."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rft3d_cli.models.shared_prompt import Continued, Prompts, SampledCache

LAYER = SimpleNamespace(layer_idx=0)
SCALE = 0.3


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read(lengths: list[int], shared: int, dim: int) -> Prompts:
    width = max(lengths)
    valid = torch.stack([torch.arange(width) >= width - length for length in lengths])
    shape = (len(lengths), shared, width, dim)
    return Prompts(torch.zeros(len(lengths), width + 1), valid, keys={0: made(1, *shape)}, values={0: made(2, *shape)})


def written_out(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query ``(dim,)`` over the keys ``(n, dim)`` that it may see."""
    return torch.softmax(keys @ query * SCALE, dim=0) @ values


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    rows=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    tokens=st.integers(1, 4),
    shared=st.sampled_from([1, 2]),
    folds=st.sampled_from([1, 3]),
)
def test_completions_see_their_own_prompt_and_themselves(
    lengths: list[int], rows: list[int], tokens: int, shared: int, folds: int
) -> None:
    dim, heads = 4, shared * folds
    prompts = read(lengths, shared, dim)
    owner = torch.tensor([row % len(lengths) for row in rows])
    query = made(3, len(rows), heads, tokens, dim)
    key, value = made(4, len(rows), shared, tokens, dim), made(5, len(rows), shared, tokens, dim)
    found, _ = Continued(prompts, owner).attend(LAYER, query, key, value, None, SCALE)
    assert found.shape == (len(rows), tokens, heads, dim)
    for row, prompt in enumerate(owner.tolist()):
        for head in range(heads):
            group = head // folds
            seen = prompts.valid[prompt]
            before = prompts.keys[0][prompt, group][seen], prompts.values[0][prompt, group][seen]
            for token in range(tokens):
                keys = torch.cat([before[0], key[row, group, : token + 1]])
                values = torch.cat([before[1], value[row, group, : token + 1]])
                expected = written_out(query[row, head, token], keys, values)
                assert torch.allclose(found[row, token, head], expected, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    group=st.integers(1, 3),
    sampled=st.integers(1, 3),
    shared=st.sampled_from([1, 2]),
    folds=st.sampled_from([1, 3]),
)
def test_a_sampled_token_sees_its_prompt_and_what_was_sampled(
    lengths: list[int], group: int, sampled: int, shared: int, folds: int
) -> None:
    dim, heads, rows = 4, shared * folds, len(lengths) * group
    prompts = read(lengths, shared, dim)
    query = made(3, rows, heads, 1, dim)
    key, value = made(4, rows, shared, sampled, dim), made(5, rows, shared, sampled, dim)
    found, _ = SampledCache(prompts, group).attend(LAYER, query, key, value, None, SCALE)
    for row in range(rows):
        prompt = row // group
        for head in range(heads):
            seen, of = prompts.valid[prompt], head // folds
            keys = torch.cat([prompts.keys[0][prompt, of][seen], key[row, of]])
            values = torch.cat([prompts.values[0][prompt, of][seen], value[row, of]])
            # Scores are summed up in float32, whatever the format.
            assert torch.allclose(found[row, 0, head], written_out(query[row, head, 0], keys, values), atol=1e-5)


def test_gradients_go_on_into_the_prompts() -> None:
    """Two chunks of completions, then the prompt: as one graph would have it."""
    source = made(7, 1, 1, 3, 4).requires_grad_()
    query, key, value = made(3, 4, 1, 2, 4), made(4, 4, 1, 2, 4), made(5, 4, 1, 2, 4)

    def prompt() -> Prompts:
        valid = torch.ones(1, 3, dtype=torch.bool)
        return Prompts(torch.zeros(1, 4), valid, keys={0: source * 2}, values={0: source.sin()})

    def loss(prompts: Prompts, rows: slice) -> Tensor:
        owner = torch.zeros(2, dtype=torch.long)
        out, _ = Continued(prompts, owner).attend(LAYER, query[rows], key[rows], value[rows], None, SCALE)
        return out.pow(2).sum()

    whole = prompt()
    (loss(whole, slice(0, 2)) + loss(whole, slice(2, 4))).backward()
    expected, source.grad = source.grad, None
    whole = prompt()
    leaves = whole.leaves()
    for rows in (slice(0, 2), slice(2, 4)):
        loss(leaves, rows).backward()
        assert source.grad is None
    whole.backward_from(leaves)
    assert source.grad is not None
    assert torch.allclose(source.grad, expected, atol=1e-12)


def test_a_layer_that_runs_again_does_not_replace_what_was_read() -> None:
    prompts = read([3], 1, 4)
    before = prompts.keys[0]
    prompts.attend(LAYER, made(1, 1, 1, 3, 4), made(9, 1, 1, 3, 4), made(9, 1, 1, 3, 4), None, SCALE)
    assert prompts.keys[0] is before


def test_several_tokens_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="token by token"):
        SampledCache(read([3], 1, 4), 1).attend(
            LAYER, made(3, 1, 1, 2, 4), made(4, 1, 1, 2, 4), made(5, 1, 1, 2, 4), None, SCALE
        )
