from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_fixtures import Loaded, picture
from transformers import Qwen2_5_VLForConditionalGeneration

from rft3d_cli import prompts
from rft3d_cli.models import tiny
from rft3d_cli.models.attention import batch_vision_attention, segment_attention
from rft3d_cli.models.inputs import EncodedPrompt, FrameStore, collate, encode_answer
from rft3d_cli.models.loader import load_model
from rft3d_cli.records import Record

SAME = {"rtol": 0.0, "atol": 2e-5}
"""Float32 sums in another order; logits are about 2."""


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def loss(loaded: Loaded, prompt: EncodedPrompt, answer: str = "0.5, 1.0") -> float:
    """What supervised training would minimise."""
    batch = collate([prompt], loaded.pad, [encode_answer(loaded.processor, answer)])
    with torch.inference_mode():
        return float(loaded.model(**batch).loss)


# Creation


@pytest.mark.parametrize("geometry", ["none", "tiny", "vggt"])
def test_the_same_seed_gives_the_same_bytes(
    geometry: str, plain_dir: Path, fused_dir: Path, vggt_dir: Path, tmp_path: Path
) -> None:
    torch.manual_seed(99)  # what came before must not matter
    tiny.create(tmp_path / "again", geometry=geometry)
    first = {"none": plain_dir, "tiny": fused_dir, "vggt": vggt_dir}[geometry]
    names = sorted(path.name for path in first.iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes(), name


def test_another_seed_gives_other_weights(plain_dir: Path, tmp_path: Path) -> None:
    tiny.create(tmp_path / "other", seed=1)
    assert weights(tmp_path / "other") != weights(plain_dir)
    assert (tmp_path / "other" / "tokenizer.json").read_bytes() == (plain_dir / "tokenizer.json").read_bytes()


def test_creating_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny.create(tmp_path / "m")
    assert torch.equal(torch.rand(3), expected)


def test_it_is_an_ordinary_model_directory(plain_dir: Path, plain: Loaded) -> None:
    config = json.loads((plain_dir / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    assert config["model_type"] == "qwen2_5_vl"
    assert "auto_map" not in config
    assert type(plain.model) is Qwen2_5_VLForConditionalGeneration
    assert sum(p.numel() for p in plain.model.parameters()) < 1_000_000
    assert not list(plain_dir.glob("*.bin"))


# What reaches the model


@pytest.mark.parametrize("name", ["detection", "grounding", "number", "choice"])
def test_frames_reach_the_logits_and_the_loss(
    name: str, plain: Loaded, store: FrameStore, records: dict[str, Record]
) -> None:
    seen = store.encode(records[name])
    blank = replace(seen, pixel_values=np.zeros_like(seen.pixel_values))
    assert (plain.logits(seen) - plain.logits(blank)).abs().max() > 1e-2
    assert abs(loss(plain, seen) - loss(plain, blank)) > 1e-4


def test_the_order_of_frames_matters(plain: Loaded) -> None:
    a, b = picture(1), picture(2)
    assert (plain.logits(plain.prompt("?", a, b)) - plain.logits(plain.prompt("?", b, a))).abs().max() > 1e-3


def test_where_something_is_in_a_frame_matters(plain: Loaded) -> None:
    left = picture(1)
    right = left.transpose(method=0)  # mirrored: the same colours elsewhere
    assert (plain.logits(plain.prompt("?", left)) - plain.logits(plain.prompt("?", right))).abs().max() > 1e-3


def test_positions_of_patches_need_the_token_types_that_we_pass(plain: Loaded) -> None:
    batch = collate([plain.prompt("?", picture(1), picture(2))], plain.pad)
    with torch.inference_mode():
        ours = plain.model(**batch).logits
        kinds = batch.pop("mm_token_type_ids")
        flat = plain.model(**batch).logits
    assert kinds.sum() == 2 * 12
    assert (ours - flat).abs().max() > 1e-3


def test_positions_follow_the_grid_of_each_frame(plain: Loaded) -> None:
    prompt = plain.prompt("?", picture(1), picture(2))
    batch = collate([prompt], plain.pad)
    positions, _ = plain.model.model.get_rope_index(
        batch["input_ids"], batch["mm_token_type_ids"], batch["image_grid_thw"], attention_mask=batch["attention_mask"]
    )
    t, y, x = (axis[0].tolist() for axis in positions)
    expected: list[tuple[int, int, int]] = []
    at = 0  # text moves all axes by one; a frame of 3 x 4 tokens spans its rows and columns and then its longer side
    kinds = prompt.mm_token_type_ids.tolist()
    i = 0
    while i < len(kinds):
        if kinds[i]:
            expected += [(at, at + row, at + column) for row in range(3) for column in range(4)]
            i, at = i + 12, at + 4
        else:
            expected.append((at, at, at))
            i, at = i + 1, at + 1
    assert list(zip(t, y, x, strict=True)) == expected


# Batches


def test_rows_of_a_batch_are_as_if_alone(plain: Loaded, store: FrameStore, records: dict[str, Record]) -> None:
    rows = [store.encode(records[name]) for name in ("grounding", "number", "choice", "text")]
    assert len({len(row) for row in rows}) == 4
    alone = torch.cat([plain.logits(row) for row in rows])
    torch.testing.assert_close(plain.logits(*rows), alone, **SAME)


def test_training_rows_padded_on_the_right_are_as_if_alone(
    plain: Loaded, store: FrameStore, records: dict[str, Record]
) -> None:
    rows = [store.encode(records[name]) for name in ("grounding", "number")]
    answers = [encode_answer(plain.processor, text) for text in ("1.0, 2.0, 3.0", "4")]
    together = collate(rows, plain.pad, answers)
    with torch.inference_mode():
        logits = plain.model(**together).logits
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            single = plain.model(**collate([row], plain.pad, [answer])).logits[0]
            torch.testing.assert_close(logits[i, : len(single)], single, **SAME)


# Weights


def test_word_embeddings_are_tied_and_stay_so(plain: Loaded, plain_dir: Path, tmp_path: Path) -> None:
    plain.model.save_pretrained(tmp_path / "again")
    plain.processor.save_pretrained(tmp_path / "again")
    for folder in (plain_dir, tmp_path / "again"):
        model, _ = load_model(folder)
        assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert not [name for name in file.keys() if "lm_head" in name]  # noqa: SIM118 - not a dictionary


def test_a_changed_model_saves_and_loads_to_equal_bits(
    plain_dir: Path, store: FrameStore, records: dict[str, Record], tmp_path: Path
) -> None:
    changed = Loaded.of(load_model(plain_dir))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    changed.model.save_pretrained(tmp_path / "m")
    changed.processor.save_pretrained(tmp_path / "m")
    again = Loaded.of(load_model(tmp_path / "m"))
    prompt = store.encode(records["grounding"])
    assert torch.equal(again.logits(prompt), changed.logits(prompt))
    before, after = changed.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


# Attention over many frames at once


def test_batched_vision_attention_is_transformers_own(plain_dir: Path, plain: Loaded) -> None:
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(plain_dir, attn_implementation="sdpa").eval()
    sizes = [(64, 48), (64, 64), (64, 48), (64, 16)]  # segments of three lengths
    prompt = plain.prompt("?", *(picture(i, *size) for i, size in enumerate(sizes)))
    theirs = Loaded(stock, plain.processor)
    torch.testing.assert_close(plain.logits(prompt), theirs.logits(prompt), **SAME)
    pixels, grid = torch.from_numpy(prompt.pixel_values), torch.from_numpy(prompt.image_grid_thw)
    with torch.inference_mode():
        ours = plain.model.model.get_image_features(pixels, grid).pooler_output
        loop = stock.model.get_image_features(pixels, grid).pooler_output
    assert [len(frame) for frame in ours] == [12, 16, 12, 4]
    for a, b in zip(ours, loop, strict=True):
        torch.testing.assert_close(a, b, **SAME)


def test_windowed_layers_are_transformers_own(plain: Loaded) -> None:
    config = tiny.build_config(plain.processor.tokenizer)
    config.vision_config.fullatt_block_indexes = [1]
    config.vision_config.window_size = 32
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    prompt = plain.prompt("?", picture(1), picture(2, 64, 64), picture(3, 64, 16))
    loop = Loaded(model, plain.processor).logits(prompt)
    assert batch_vision_attention(model) == 2
    torch.testing.assert_close(Loaded(model, plain.processor).logits(prompt), loop, **SAME)


def test_batched_vision_attention_has_transformers_own_gradients(plain_dir: Path, plain: Loaded) -> None:
    grads = []
    prompt = plain.prompt("?", picture(1), picture(2, 64, 64))
    for patch in (False, True):
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(plain_dir, attn_implementation="sdpa")
        if patch:
            assert batch_vision_attention(model) == 2
        batch = collate([prompt], plain.pad, [encode_answer(plain.processor, "chair")])
        model(**batch).loss.backward()
        grads.append({n: p.grad for n, p in model.model.visual.named_parameters()})
    assert all(grad is not None and grad.abs().max() > 0 for n, grad in grads[1].items() if "qkv.weight" in n)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-6)


def test_a_copy_of_a_model_attends_with_its_own_weights(plain: Loaded) -> None:
    copy = Loaded(deepcopy(plain.model), plain.processor)
    prompt = plain.prompt("?", picture(1))
    assert torch.equal(copy.logits(prompt), plain.logits(prompt))
    with torch.no_grad():
        copy.model.model.visual.blocks[0].attn.proj.weight.zero_()
    assert not torch.equal(copy.logits(prompt), plain.logits(prompt))


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([5], id="one segment"),
        pytest.param([4, 4, 4], id="equal"),
        pytest.param([3, 5, 3, 1, 5], id="mixed"),
        pytest.param([1, 1, 1], id="single tokens"),
    ],
)
def test_segments_do_not_see_each_other(lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    q, k, v = (torch.randn(sum(lengths), 2, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    ends = torch.tensor([0, *np.cumsum(lengths)])
    out = segment_attention(q, k, v, ends, 0.3)
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        for head in range(2):
            scores = 0.3 * q[start:end, head] @ k[start:end, head].T
            expected = torch.softmax(scores, dim=-1) @ v[start:end, head]
            torch.testing.assert_close(out[start:end, head], expected)


def test_models_that_do_not_use_sdpa_are_left_alone(plain_dir: Path) -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(plain_dir, attn_implementation="eager")
    assert batch_vision_attention(model) == 0
    assert batch_vision_attention(torch.nn.Linear(2, 2)) == 0


@pytest.mark.parametrize(
    ("attention", "dtype", "tolerance"),
    [pytest.param("eager", "float32", 2e-5, id="eager"), pytest.param("sdpa", "bfloat16", 0.2, id="bfloat16")],
)
def test_other_kernels_and_formats_agree(
    attention: Any, dtype: Any, tolerance: float, plain: Loaded, plain_dir: Path
) -> None:
    from rft3d_cli.recipe_schema import Model

    other = Loaded.of(load_model(Model(name=str(plain_dir), attention=attention, dtype=dtype, freeze=[])))
    assert next(other.model.parameters()).dtype == getattr(torch, dtype)
    prompt = plain.prompt(prompts.detection_prompt(2), picture(1), picture(2))
    assert (other.logits(prompt).float() - plain.logits(prompt)).abs().max() < tolerance
