from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_fixtures import Loaded, picture
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Qwen2_5_VLForConditionalGeneration,
)

from rft3d_cli.models import tiny
from rft3d_cli.models.fusion import (
    ENCODERS,
    FusedConfig,
    FusedForConditionalGeneration,
    FusedModel,
    GeometryMerger,
    build_encoder,
)
from rft3d_cli.models.geometry_tiny import TinyGeometryEncoder
from rft3d_cli.models.inputs import EncodedPrompt, collate, encode_answer
from rft3d_cli.models.loader import load_model
from rft3d_cli.recipe_schema import Model

SAME = {"rtol": 0.0, "atol": 2e-5}


@pytest.fixture(scope="module")
def prompt(fused: Loaded) -> EncodedPrompt:
    return fused.prompt("where is the chair?", picture(1), picture(2))


@pytest.fixture(scope="module")
def square(fused: Loaded) -> EncodedPrompt:
    """Another size, another number of frames, another length."""
    return fused.prompt("how many?", picture(3, 64, 64))


def frames(loaded: Loaded, prompt: EncodedPrompt) -> Tensor:
    """What the encoder sees of a prompt: ``(S, 3, H, W)``."""
    pixels, grid = torch.from_numpy(prompt.pixel_values), torch.from_numpy(prompt.image_grid_thw)
    return torch.stack(loaded.model.model.frames_from_patches(pixels, grid))


def first_logits(loaded: Loaded, *prompts: EncodedPrompt, **more: Any) -> Tensor:
    """Logits of the first generated token: ``(prompts, vocabulary)``."""
    options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with torch.inference_mode():
        out = loaded.model.generate(**collate(prompts, loaded.pad), **more, **options)
    logits: Tensor = out.logits[0]
    return logits


# The whole


def test_it_is_the_plain_model_where_geometry_adds_nothing(fused_dir: Path, prompt: EncodedPrompt) -> None:
    silent = Loaded.of(load_model(fused_dir))
    last = silent.model.model.geometry_merger.mlp[2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    config = tiny.build_config(silent.processor.tokenizer)
    config._attn_implementation = "sdpa"
    bare = Qwen2_5_VLForConditionalGeneration(config).eval()
    weights = {name: w for name, w in silent.model.state_dict().items() if "geometry" not in name}
    bare.load_state_dict(weights, strict=True)
    torch.testing.assert_close(silent.logits(prompt), Loaded(bare, silent.processor).logits(prompt), **SAME)


def test_geometry_is_felt_from_the_first_step_on(fused: Loaded, prompt: EncodedPrompt) -> None:
    # As upstream: the merger is not started at zero, and there is no gate.
    merger = fused.model.model.geometry_merger
    assert merger.mlp[2].weight.abs().max() > 0
    assert torch.equal(merger.mlp[0].bias, torch.zeros_like(merger.mlp[0].bias))
    assert torch.equal(merger.mlp[2].bias, torch.zeros_like(merger.mlp[2].bias))
    assert torch.equal(merger.ln_q.weight, torch.ones_like(merger.ln_q.weight))
    seen = fused.logits(prompt)
    blind = fused.logits(prompt, geometry_images=[torch.zeros(2, 3, 48, 64)])
    assert (seen - blind).abs().max() > 1e-2


def test_saved_and_loaded_it_gives_equal_bits(fused_dir: Path, prompt: EncodedPrompt, tmp_path: Path) -> None:
    changed = Loaded.of(load_model(fused_dir))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    changed.model.save_pretrained(tmp_path)
    changed.processor.save_pretrained(tmp_path)
    again = Loaded.of(load_model(Model(name=str(tmp_path), geometry="tiny", freeze=[])))
    assert type(again.model) is FusedForConditionalGeneration
    before, after = changed.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(changed.logits(prompt), again.logits(prompt))
    assert torch.equal(first_logits(changed, prompt), first_logits(again, prompt))


def test_an_encoder_of_another_size_comes_back_as_it_was(fused: Loaded, prompt: EncodedPrompt, tmp_path: Path) -> None:
    plain = tiny.build_config(fused.processor.tokenizer)
    config = FusedConfig.from_qwen(plain, encoder="tiny", embed_dim=16, num_heads=2)
    config.geometry_merger_hidden_dim = 24
    torch.manual_seed(0)
    built = FusedForConditionalGeneration(config).eval()
    built.save_pretrained(tmp_path)
    fused.processor.save_pretrained(tmp_path)
    again = Loaded.of(load_model(tmp_path))
    assert again.model.config.geometry_encoder_config == {"embed_dim": 16, "num_heads": 2}
    assert again.model.model.geometry_encoder.output_dim == 32
    assert again.model.model.geometry_merger.mlp[0].weight.shape == (24, 32 * 4)
    assert again.model.config.tie_word_embeddings
    torch.testing.assert_close(again.logits(prompt), Loaded(built, fused.processor).logits(prompt), **SAME)


def test_every_auto_class_that_trainers_use_knows_it(fused_dir: Path) -> None:
    assert type(AutoConfig.from_pretrained(fused_dir)) is FusedConfig
    assert FusedConfig.auto_map == {}
    assert "auto_map" not in (fused_dir / "config.json").read_text()
    loaded = [auto.from_pretrained(fused_dir) for auto in (AutoModelForImageTextToText, AutoModelForCausalLM)]
    assert [type(model) for model in loaded] == [FusedForConditionalGeneration] * 2
    assert type(AutoModel.from_config(AutoConfig.from_pretrained(fused_dir))) is FusedModel


def test_text_without_frames_passes_by_the_branch(fused: Loaded) -> None:
    ids = torch.tensor([fused.processor.tokenizer("the chair")["input_ids"]])
    with torch.inference_mode():
        assert fused.model(input_ids=ids).logits.isfinite().all()


def test_it_works_in_bfloat16(fused: Loaded, fused_dir: Path, prompt: EncodedPrompt) -> None:
    low = Loaded.of(load_model(Model.model_validate({"name": str(fused_dir), "dtype": "bfloat16", "freeze": []})))
    for given in ({}, {"geometry_images": [frames(fused, prompt)]}):
        assert (low.logits(prompt, **given).float() - fused.logits(prompt)).abs().max() < 0.5
        assert (first_logits(low, prompt, **given).float() - fused.logits(prompt)).abs().max() < 0.5


# Which frames form a clip


def test_clips_of_a_batch_do_not_see_each_other(fused: Loaded, prompt: EncodedPrompt, square: EncodedPrompt) -> None:
    for rows in ([prompt, square], [square, prompt], [prompt, prompt, square]):
        alone = torch.cat([fused.logits(row) for row in rows])
        torch.testing.assert_close(fused.logits(*rows), alone, **SAME)


def test_generate_keeps_clips_apart_as_training_does(
    fused: Loaded, prompt: EncodedPrompt, square: EncodedPrompt
) -> None:
    other = fused.prompt("and here?", picture(5), picture(6))
    for rows in ([prompt], [prompt, other], [other, prompt], [square, prompt, other]):
        torch.testing.assert_close(first_logits(fused, *rows), fused.logits(*rows), **SAME)


def test_training_rows_padded_on_the_right_keep_their_clips(
    fused: Loaded, prompt: EncodedPrompt, square: EncodedPrompt
) -> None:
    rows, answers = [prompt, square], [encode_answer(fused.processor, text) for text in ("1.0, 2.0", "3")]
    with torch.inference_mode():
        logits = fused.model(**collate(rows, fused.pad, answers)).logits
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            single = fused.model(**collate([row], fused.pad, [answer])).logits[0]
            torch.testing.assert_close(logits[i, : len(single)], single, **SAME)


@pytest.mark.parametrize("given", [False, True], ids=["from patches", "given"])
def test_several_samples_of_a_prompt_are_those_of_the_prompt_repeated(
    given: bool, fused: Loaded, prompt: EncodedPrompt, square: EncodedPrompt
) -> None:
    options = {"max_new_tokens": 6, "do_sample": True, "top_k": 0}

    def clips(*rows: EncodedPrompt) -> dict[str, Any]:
        return {"geometry_images": [frames(fused, row) for row in rows]} if given else {}

    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        expanded = fused.model.generate(
            **collate([prompt, square], fused.pad), **clips(prompt, square), num_return_sequences=2, **options
        )
        torch.manual_seed(0)
        rows = [prompt, prompt, square, square]
        repeated = fused.model.generate(**collate(rows, fused.pad), **clips(*rows), **options)
    assert torch.equal(expanded, repeated)


# Frames of its own


def test_frames_are_read_back_from_patches(fused: Loaded) -> None:
    images = [picture(1), picture(2, 64, 64), picture(3, 64, 16)]
    prompt = fused.prompt("?", *images)
    pixels, grid = torch.from_numpy(prompt.pixel_values), torch.from_numpy(prompt.image_grid_thw)
    for image, frame in zip(images, fused.model.model.frames_from_patches(pixels, grid), strict=True):
        expected = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(frame.numpy(), expected, atol=1e-6)


def test_given_frames_are_as_those_read_back(fused: Loaded, prompt: EncodedPrompt, square: EncodedPrompt) -> None:
    clips = [frames(fused, prompt), frames(fused, square)]
    torch.testing.assert_close(
        fused.logits(prompt, square, geometry_images=clips), fused.logits(prompt, square), **SAME
    )
    torch.testing.assert_close(
        first_logits(fused, prompt, square, geometry_images=clips), fused.logits(prompt, square), **SAME
    )


def test_given_frames_change_what_is_said_and_what_is_learned(fused: Loaded, prompt: EncodedPrompt) -> None:
    clip = frames(fused, prompt)
    for other in (clip.flip(0), 1 - clip):
        expected = fused.logits(prompt, geometry_images=[other])
        assert (expected - fused.logits(prompt)).abs().max() > 1e-3
        torch.testing.assert_close(first_logits(fused, prompt, geometry_images=[other]), expected, **SAME)
        batch = collate([prompt], fused.pad, [encode_answer(fused.processor, "chair")])
        with torch.inference_mode():
            losses = [float(fused.model(**batch, geometry_images=images).loss) for images in (None, [other])]
        assert abs(losses[0] - losses[1]) > 1e-5


def test_given_frames_may_be_larger_where_the_encoder_wants_it(fused: Loaded, prompt: EncodedPrompt) -> None:
    # VGGT sees the uncropped frame; the odd last column of patches is left out.
    clip = frames(fused, prompt)
    wider = torch.cat([clip, torch.rand(2, 3, 48, 8, generator=torch.Generator().manual_seed(0))], dim=3)
    assert fused.logits(prompt, geometry_images=[wider]).isfinite().all()


@pytest.mark.parametrize("count", [1, 3])
def test_given_frames_must_be_as_many(count: int, fused: Loaded, prompt: EncodedPrompt) -> None:
    with pytest.raises(ValueError, match=rf"rows show \[2\] frames, and .* clips of \[{count}\]"):
        fused.logits(prompt, geometry_images=[torch.zeros(count, 3, 48, 64)])


def test_given_frames_must_have_the_same_grid(fused: Loaded, prompt: EncodedPrompt) -> None:
    # A frame of a single token would broadcast.
    for size in ((48, 48), (16, 16)):
        with pytest.raises(ValueError, match="the geometry branch 2 frames of"):
            fused.logits(prompt, geometry_images=[torch.zeros(2, 3, *size)])
    with pytest.raises(ValueError, match="2 sizes"):
        fused.logits(prompt, geometry_images=[[torch.zeros(3, 48, 64), torch.zeros(3, 48, 48)]])


def test_generate_refuses_a_misspelled_input(fused: Loaded, prompt: EncodedPrompt) -> None:
    with pytest.raises(ValueError, match="geometry_image"):
        first_logits(fused, prompt, geometry_image=[frames(fused, prompt)])


# Gradients


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_a_frozen_encoder_keeps_still_and_its_merger_learns(
    frozen: bool, fused_dir: Path, prompt: EncodedPrompt
) -> None:
    freeze = ["geometry"] if frozen else []
    loaded = Loaded.of(load_model(Model.model_validate({"name": str(fused_dir), "freeze": freeze})))
    loaded.model.train()
    batch = collate([prompt], loaded.pad, [encode_answer(loaded.processor, "the chair")])
    loaded.model(**batch).loss.backward()
    backbone = loaded.model.model
    reached = {n for n, p in backbone.geometry_encoder.named_parameters() if p.grad is not None and p.grad.any()}
    if frozen:
        assert reached == set()
    else:
        assert {"first_frame", "patch_embed.weight", "frame_block.mlp.0.weight"} <= reached
        assert "global_block.attention.in_proj_weight" in reached
    assert all(p.grad is not None and p.grad.any() for p in backbone.geometry_merger.parameters())
    assert all(p.grad is not None and p.grad.any() for p in backbone.visual.merger.parameters())


# The merger


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (2, 2)])
def test_the_merger_gathers_two_by_two_rows_first(height: int, width: int) -> None:
    torch.manual_seed(1)
    merger = GeometryMerger(dim=3, hidden=8, out=5, merge=2).double().eval()
    with torch.no_grad():
        merger.ln_q.weight.uniform_(0.5, 1.5)
    features = torch.randn(2, height, width, 3, dtype=torch.float64)
    first, _, second = merger.mlp
    expected = []
    for frame in features.numpy():
        for top in range(0, height - 1, 2):
            for left in range(0, width - 1, 2):
                block = [frame[top + dy, left + dx] for dy in (0, 1) for dx in (0, 1)]
                scaled = [v / np.sqrt((v * v).mean() + 1e-6) * merger.ln_q.weight.detach().numpy() for v in block]
                hidden = first.weight.detach().numpy() @ np.concatenate(scaled) + first.bias.detach().numpy()
                gelu = hidden * torch.special.ndtr(torch.from_numpy(hidden)).numpy()
                expected.append(second.weight.detach().numpy() @ gelu + second.bias.detach().numpy())
    with torch.no_grad():
        out = merger(features)
    assert out.shape == (2, (height // 2) * (width // 2), 5)
    np.testing.assert_allclose(out.reshape(-1, 5).numpy(), expected, rtol=1e-9)


# The tiny encoder


@pytest.fixture
def encoder() -> TinyGeometryEncoder:
    torch.manual_seed(2)
    return TinyGeometryEncoder(embed_dim=16, num_heads=2, patch_size=8).double().eval()


def clip(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 24, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def test_the_encoder_gives_a_grid_of_patches(encoder: TinyGeometryEncoder) -> None:
    assert encoder(clip(3)).shape == (3, 3, 4, encoder.output_dim) == (3, 3, 4, 32)


@torch.no_grad()
def test_half_of_its_features_is_about_the_frame_and_half_about_the_clip(encoder: TinyGeometryEncoder) -> None:
    one, two = clip(3), clip(3)
    two[2] = clip(1, seed=9)[0]
    a, b = encoder(one), encoder(two)
    torch.testing.assert_close(a[:2, ..., :16], b[:2, ..., :16])
    assert (a[:2, ..., 16:] - b[:2, ..., 16:]).abs().max() > 1e-6
    assert (a[2, ..., :16] - b[2, ..., :16]).abs().max() > 1e-3


@torch.no_grad()
def test_it_knows_the_first_frame_once_that_is_learned(encoder: TinyGeometryEncoder) -> None:
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(encoder(clip(3)[order]), encoder(clip(3))[order])
    encoder.first_frame.normal_()
    assert (encoder(clip(3)[order]) - encoder(clip(3))[order]).abs().max() > 1e-3


@torch.no_grad()
def test_it_knows_where_a_patch_is(encoder: TinyGeometryEncoder) -> None:
    flat = encoder(torch.full((1, 3, 24, 32), 0.3, dtype=torch.float64))[0].reshape(12, 32)
    assert torch.pdist(flat).min() > 1e-3


def test_an_unknown_encoder_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'os:system'.*tiny"):
        build_encoder("os:system", {})
    assert all(target.startswith("rft3d_cli.models.") for target in ENCODERS.values())
