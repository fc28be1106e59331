"""Attention over a shared prompt, against softmax over the whole sequence written out for each row."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rft3d_cli.models import shared_prompt
from rft3d_cli.models.shared_prompt import Continued, Prompts, SampledCache

LAYER = SimpleNamespace(layer_idx=0)
SCALE = 0.3


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=["joined", "side by side"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of attending to a prompt; only float32 and bfloat16 have a kernel that joins."""
    if request.param == "side by side":
        monkeypatch.setattr(shared_prompt, "available", lambda *_: False)
    return str(request.param)


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize(("count", "each"), [(1, 1), (1, 4), (3, 2)])
def test_both_ways_give_one_output_and_one_gradient(way: str, count: int, each: int, folds: int) -> None:
    rows, shared, dim, length, before = count * each, 2, 16, 5, 40
    shapes = [
        (rows, shared * folds, length, dim),
        *[(rows, shared, length, dim)] * 2,
        *[(count, shared, before, dim)] * 2,
    ]
    exact = [made(seed, *shape).requires_grad_() for seed, shape in enumerate(shapes)]
    near = [tensor.detach().float().requires_grad_() for tensor in exact]
    owner = torch.arange(count).repeat_interleave(each)

    def attention(parts: list[Tensor]) -> Tensor:
        query, key, value, prompt_key, prompt_value = parts
        prompts = Prompts(torch.zeros(count, before + 1), torch.ones(count, before, dtype=torch.bool))
        prompts.keys[0], prompts.values[0] = prompt_key, prompt_value
        return Continued(prompts, owner).attend(LAYER, query, key, value, None, SCALE)[0]

    assert shared_prompt.available(*near) == (way == "joined")
    assert not shared_prompt.available(*exact)
    expected, found = attention(exact), attention(near)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    asked = made(9, *expected.shape)
    wanted = torch.autograd.grad(expected, exact, asked)
    for mine, theirs in zip(torch.autograd.grad(found, near, asked.float()), wanted, strict=True):
        assert torch.linalg.norm(mine.double() - theirs) < 1e-5 * torch.linalg.norm(theirs)


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
            # Products are float32, whatever the format.
            assert torch.allclose(found[row, 0, head], written_out(query[row, head, 0], keys, values), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_sampling_in_bfloat16_is_as_exact_as_the_kernel_that_is_learned_with(scale: float) -> None:
    group, heads, length, dim = 4, 2, 1500, 64
    keys, values = (made(seed, 1, heads, length, dim).bfloat16() for seed in (1, 2))
    valid = torch.ones(1, length - 1, dtype=torch.bool)
    prompts = Prompts(torch.zeros(1, length), valid, keys={0: keys[:, :, 1:]}, values={0: values[:, :, 1:]})
    query = (made(3, group, heads, 1, dim) * scale).bfloat16()
    key, value = (part[:, :, :1].expand(group, -1, -1, -1) for part in (keys, values))
    whole = [torch.cat([part[:, :, 1:], part[:, :, :1]], dim=2).expand(group, -1, -1, -1) for part in (keys, values)]
    exact = scaled_dot_product_attention(query.double(), *(part.double() for part in whole))
    kernel = scaled_dot_product_attention(query, *whole).double()
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = SampledCache(prompts, group).attend(LAYER, query, key, value, None, dim**-0.5)
    assert ours.dtype == torch.bfloat16
    error, known = ((found - exact).norm().item() for found in (ours.transpose(1, 2).double(), kernel))
    assert error <= 1.2 * known


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
