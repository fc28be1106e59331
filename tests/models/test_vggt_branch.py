"""The whole model with VGGT's architecture as its branch: what training, generation and saving make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_fixtures import Loaded, picture

from rft3d_cli.errors import DataError
from rft3d_cli.models.inputs import EncodedPrompt, collate, encode_answer
from rft3d_cli.models.loader import load_model
from rft3d_cli.models.processor import cut_frame, size_frame
from rft3d_cli.models.sizing import frame_size
from rft3d_cli.models.vggt import VGGTEncoder
from rft3d_cli.recipe_schema import Model
from rft3d_cli.train.shape import vggt as branch_sizes

SAME = {"rtol": 0.0, "atol": 2e-5}
FROZEN = ["vision", "vision_merger", "geometry"]


def section(name: Path, **keys: Any) -> Model:
    return Model.model_validate({"name": str(name), "freeze": [], **keys})


@pytest.fixture(scope="module")
def prompt(vggt: Loaded) -> EncodedPrompt:
    return vggt.prompt("where is the chair?", picture(1), picture(2))


@pytest.fixture(scope="module")
def tall(vggt: Loaded) -> EncodedPrompt:
    """Another size, another number of frames, another length."""
    return vggt.prompt("how many?", picture(3, 48, 64), picture(4, 48, 64), picture(5, 48, 64))


def sampled(loaded: Loaded, rows: list[EncodedPrompt], **options: Any) -> torch.Tensor:
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        out: torch.Tensor = loaded.model.generate(
            **collate(rows, loaded.pad), max_new_tokens=6, **({"do_sample": True, "top_k": 0} | options)
        )
    return out


# Two towers, two cuts of one frame


@pytest.mark.parametrize(
    ("size", "uncut", "cut", "tokens"),
    [
        pytest.param((1296, 968), (518, 392), (504, 392), 252, id="ScanNet colour"),
        pytest.param((640, 480), (518, 392), (504, 392), 252, id="ScanNet depth"),
        pytest.param((1920, 1080), (518, 294), (504, 280), 180, id="16:9"),
        pytest.param((1080, 1920), (518, 518), (504, 504), 324, id="portrait"),
        pytest.param((1000, 1000), (518, 518), (504, 504), 324, id="square"),
        pytest.param((1752, 1168), (518, 350), (504, 336), 216, id="ScanNet++"),
    ],
)
def test_both_towers_have_one_grid(
    size: tuple[int, int], uncut: tuple[int, int], cut: tuple[int, int], tokens: int
) -> None:
    image = Image.new("RGB", size)
    whole = size_frame(image, 518, 14, 2, uncut=True)
    assert whole.size == uncut
    assert size_frame(whole, 518, 14, 2, uncut=True) is not None
    assert size_frame(whole, 518, 14, 2, uncut=True).size == uncut
    assert cut_frame(whole, 14, 2).size == size_frame(image, 518, 14, 2).size == frame_size(*size, 518, 14, 2)[1] == cut
    assert [side // 14 // 2 for side in uncut] == [side // 28 for side in cut]
    assert cut[0] * cut[1] // 28**2 == tokens


def test_the_vision_tower_sees_the_left_of_what_geometry_sees(vggt: Loaded) -> None:
    prompt = vggt.prompt("?", picture(1, 320, 240), picture(2, 320, 240))
    assert prompt.geometry is not None
    assert prompt.geometry.shape == (2, 3, 56, 72)
    assert prompt.image_grid_thw.tolist() == [[1, 6, 8], [1, 6, 8]]
    read_back = vggt.model.model.frames_from_patches(
        torch.from_numpy(prompt.pixel_values), torch.from_numpy(prompt.image_grid_thw)
    )
    for frame, whole in zip(read_back, prompt.geometry, strict=True):
        np.testing.assert_allclose(frame.numpy() * 255, whole[:, :48, :64], atol=1e-4)


def test_frames_of_one_clip_have_one_size(vggt: Loaded) -> None:
    with pytest.raises(DataError, match=r"2 sizes \(72 x 56, 72 x 72\)"):
        vggt.prompt("?", picture(1), picture(2, 64, 64))


# Numbers


def test_a_batch_of_two_sizes_is_each_alone(vggt: Loaded, prompt: EncodedPrompt, tall: EncodedPrompt) -> None:
    for rows in ([prompt, tall], [tall, prompt], [prompt, prompt, tall]):
        alone = torch.cat([vggt.logits(row) for row in rows])
        torch.testing.assert_close(vggt.logits(*rows), alone, **SAME)


def test_greedy_answers_alone_are_those_of_a_padded_batch(
    vggt: Loaded, prompt: EncodedPrompt, tall: EncodedPrompt
) -> None:
    rows = [prompt, tall, vggt.prompt("a longer question about one room?", picture(7))]
    together = sampled(vggt, rows, do_sample=False)[:, -6:]
    alone = torch.cat([sampled(vggt, [row], do_sample=False)[:, -6:] for row in rows])
    assert torch.equal(together, alone)


def test_eight_sampled_sequences_are_the_prompt_eight_times(
    vggt: Loaded, prompt: EncodedPrompt, tall: EncodedPrompt
) -> None:
    expanded = sampled(vggt, [prompt, tall], num_return_sequences=8)
    assert torch.equal(expanded, sampled(vggt, [prompt] * 8 + [tall] * 8))
    assert len({tuple(row.tolist()) for row in expanded}) > 2


def test_supplied_frames_are_given_frames(vggt: Loaded, prompt: EncodedPrompt, tall: EncodedPrompt) -> None:
    batch = collate([prompt, tall], vggt.pad)
    clips = batch.pop("geometry_images")
    expected = vggt.logits(prompt, tall)
    with torch.inference_mode():
        with vggt.model.model.supplied(clips):
            both = vggt.model(**batch).logits[:, -1]
        with vggt.model.model.supplied(clips):
            first = vggt.model(**without_geometry(vggt, prompt)).logits[:, -1]
            second = vggt.model(**without_geometry(vggt, tall)).logits[:, -1]
        blind = vggt.model(**batch).logits[:, -1]
    torch.testing.assert_close(both, expected, **SAME)
    torch.testing.assert_close(torch.cat([first, second]), expected, **SAME)
    # Afterwards frames are read back from the patches again, without what the cut took away.
    assert not torch.equal(blind, expected)


def without_geometry(loaded: Loaded, prompt: EncodedPrompt) -> dict[str, Any]:
    return {name: value for name, value in collate([prompt], loaded.pad).items() if name != "geometry_images"}


def test_the_reference_frame_may_be_the_last(vggt_dir: Path, vggt: Loaded, prompt: EncodedPrompt) -> None:
    other = Loaded.of(load_model(vggt_dir))
    other.model.model.config.reference_frame = "last"
    tokens = []
    for loaded in (vggt, other):
        clip = torch.from_numpy(prompt.geometry)
        with torch.inference_mode():
            tokens.append(loaded.model.model._geometry_tokens(list(clip), torch.device("cpu")))
            if loaded is vggt:
                turned = loaded.model.model._geometry_tokens(list(clip.flip(0)), torch.device("cpu")).flip(0)
    torch.testing.assert_close(tokens[1], turned)
    assert not torch.equal(tokens[0], tokens[1])


def test_pixels_as_bytes_or_as_shares_are_the_same(vggt: Loaded, prompt: EncodedPrompt) -> None:
    batch = collate([prompt], vggt.pad)
    shares = [clip.float() / 255 for clip in batch["geometry_images"]]
    with torch.inference_mode():
        assert torch.equal(vggt.model(**(batch | {"geometry_images": shares})).logits, vggt.model(**batch).logits)


# Training


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_frozen_towers_leave_gradients_to_the_merger_and_the_language_model(
    checkpointing: bool, vggt_dir: Path, prompt: EncodedPrompt
) -> None:
    loaded = Loaded.of(load_model(section(vggt_dir, freeze=FROZEN)))
    loaded.model.train()
    if checkpointing:
        loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    loaded.model(**collate([prompt], loaded.pad, [encode_answer(loaded.processor, "the chair")])).loss.backward()
    reached = {n for n, p in loaded.model.named_parameters() if p.grad is not None and p.grad.any()}
    expected = {
        n
        for n, _ in loaded.model.named_parameters()
        if n.startswith(("model.geometry_merger.", "model.language_model."))
    }
    # A query's bias moves all scores of a row alike for keys; key biases get no gradient but rounding.
    assert {n for n in expected if "k_proj.bias" not in n} <= reached <= expected


@pytest.mark.parametrize(("kind", "silent"), [("plain", 0), ("fused", 0), ("vggt", 37)])
@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["all", "adapters"])
def test_what_is_trained_is_what_gradients_reach(
    kind: str, silent: int, lora: dict[str, Any] | None, request: pytest.FixtureRequest
) -> None:
    keys = {"lora": lora} if lora else {}
    loaded = Loaded.of(load_model(section(request.getfixturevalue(f"{kind}_dir"), **keys)))
    for pictures in ([picture(1)], [picture(1), picture(2)]):
        row = loaded.prompt("where is the chair?", *pictures)
        loaded.model.train().zero_grad()
        loaded.model(**collate([row], loaded.pad, [encode_answer(loaded.processor, "the chair")])).loss.backward()
        trained = {n for n, p in loaded.model.named_parameters() if p.requires_grad}
        assert trained == {n for n, p in loaded.model.named_parameters() if p.grad is not None}
        rest = {n for n, _ in loaded.model.named_parameters()} - trained
        if lora is None:
            # Of the two pairs of blocks the first is read: the second has two blocks of 18 tensors.
            assert len(rest) == silent
            assert all("mask_token" in n or "frame_blocks.1." in n or "global_blocks.1." in n for n in rest)


@pytest.mark.parametrize("layer", [-3, -2, -1, 0, 1, 2])
def test_what_an_encoder_calls_unread_changes_nothing_and_the_rest_does(layer: int) -> None:
    sizes = {"embed_dim": 16, "depth": 3, "num_heads": 2}
    encoder = VGGTEncoder(layer, img_size=14, patch_size=7, num_register_tokens=1, dino=sizes, aggregator=sizes)
    encoder(torch.rand(2, 3, 14, 21)).square().sum().backward()
    unread = {id(p) for p in encoder.unread()}
    assert unread == {id(p) for p in encoder.parameters() if p.grad is None and p.requires_grad} | {
        id(encoder.aggregator.patch_embed.mask_token)
    }
    count = sum(p.numel() for p in encoder.parameters() if id(p) in unread)
    told = branch_sizes(None, 14, 7, 1, sizes, sizes, layer)
    assert (told.unread, told.parameters) == (count, sum(p.numel() for p in encoder.parameters()))


def test_adapters_go_on_and_off(vggt_dir: Path, vggt: Loaded, prompt: EncodedPrompt, tmp_path: Path) -> None:
    adapted, processor = load_model(section(vggt_dir, freeze=FROZEN, lora={"rank": 2}))
    assert processor is not None
    loaded = Loaded(adapted, processor)
    torch.testing.assert_close(loaded.logits(prompt), vggt.logits(prompt), **SAME)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    changed = loaded.logits(prompt)
    assert (changed - vggt.logits(prompt)).abs().max() > 1e-3
    with adapted.disable_adapter():
        torch.testing.assert_close(loaded.logits(prompt), vggt.logits(prompt), **SAME)
    adapted.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = Loaded.of(load_model(tmp_path))
    assert again.processor.uncut
    torch.testing.assert_close(again.logits(prompt), changed, rtol=0, atol=1e-6)


def test_a_fresh_one_with_adapters_finds_its_branch_again(tmp_path: Path) -> None:
    adapted, processor = load_model(
        Model.model_validate({"name": "tiny-random", "geometry": "vggt", "lora": {"rank": 2}, "freeze": []}), seed=3
    )
    assert processor is not None
    adapted.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = Loaded(adapted, processor)
    prompt = loaded.prompt("?", picture(1))
    torch.testing.assert_close(Loaded.of(load_model(tmp_path)).logits(prompt), loaded.logits(prompt), rtol=0, atol=1e-6)


def test_it_works_in_bfloat16(vggt_dir: Path, vggt: Loaded, prompt: EncodedPrompt) -> None:
    low = Loaded.of(load_model(section(vggt_dir, dtype="bfloat16")))
    assert low.model.model.geometry_encoder.aggregator.camera_token.dtype == torch.bfloat16
    assert (low.logits(prompt).float() - vggt.logits(prompt)).abs().max() < 0.5


# Whose frames


def test_clips_that_do_not_fit_their_rows_are_refused(vggt: Loaded, prompt: EncodedPrompt) -> None:
    one = vggt.prompt("?", picture(3))
    batch = collate([prompt, one], vggt.pad)
    two, single = batch.pop("geometry_images")
    with torch.inference_mode(), pytest.raises(ValueError, match=r"rows show \[2, 1\] frames, .* clips of \[1, 2\]"):
        vggt.model(**batch, geometry_images=[single, two])
    for clips, said in (
        ([single, two], r"clips of \[1, 2\]"),
        ([two], "2 rows have frames, and 1 supplied"),
        ([two, single, single], "1 supplied clips were not used"),
    ):
        with (
            torch.inference_mode(),
            pytest.raises(ValueError, match=said),
            vggt.model.model.supplied(clips),
        ):
            vggt.model(**batch)
        assert vggt.model.model._supplied is None


def test_frames_without_ids_are_refused(vggt: Loaded, prompt: EncodedPrompt) -> None:
    batch = collate([prompt], vggt.pad)
    batch["inputs_embeds"] = vggt.model.get_input_embeddings()(batch.pop("input_ids"))
    with torch.inference_mode(), pytest.raises(ValueError, match="frames without input_ids"):
        vggt.model(**batch)


def test_a_row_without_frames_takes_no_clip(vggt: Loaded, prompt: EncodedPrompt, tall: EncodedPrompt) -> None:
    batch = collate([prompt, tall], vggt.pad)
    clips = batch.pop("geometry_images")
    ids = torch.full((1, batch["input_ids"].shape[1]), 300)
    for name, row in (("input_ids", ids), ("attention_mask", ids * 0 + 1), ("mm_token_type_ids", ids * 0)):
        batch[name] = torch.cat([batch[name][:1], row, batch[name][1:]])
    with torch.inference_mode(), vggt.model.model.supplied(clips):
        logits = vggt.model(**batch).logits[:, -1]
    torch.testing.assert_close(logits[::2], vggt.logits(prompt, tall), **SAME)


# Sizes


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
@settings(max_examples=300, deadline=None)
def test_both_towers_have_one_grid_whatever_the_size(width: int, height: int) -> None:
    resized, cut = frame_size(width, height, 518, 14, 2)
    uncut = resized[0], min(518, resized[1])
    assert uncut[0] % 14 == uncut[1] % 14 == cut[0] % 28 == cut[1] % 28 == 0
    assert [side // 28 for side in uncut] == [side // 28 for side in cut]
    assert min(cut) >= 28
    # As VGGT's own loader has it, but for what it would leave nothing of.
    assert resized == (518, max(28, round(height * (518 / width) / 14) * 14))
    # What is sized stays as it is.
    assert frame_size(*uncut, 518, 14, 2) == (uncut, cut)
    assert frame_size(*cut, 518, 14, 2)[1] == cut


def test_rounding_is_that_of_the_public_loader() -> None:
    # 92.5 rows of patches to the digit; the public order of operations gives a hair more.
    assert frame_size(54, 135, 518, 14, 2)[0] == (518, 93 * 14)


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (7, 6000)])
def test_strips_are_sized_without_the_memory_for_all_of_them(size: tuple[int, int]) -> None:
    whole = size_frame(Image.new("RGB", size, (9, 90, 200)), 518, 14, 2, uncut=True)
    assert whole.size == (518, 28 if size[0] > size[1] else 518)
    assert whole.getpixel((100, 20)) == (9, 90, 200)


def test_a_strip_shows_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    strip = picture(1, 60, 6000)
    cheap = np.asarray(size_frame(strip, 518, 14, 2, uncut=True), dtype=float)
    monkeypatch.setattr("rft3d_cli.models.processor._TALLEST", 1000)
    assert np.abs(cheap - np.asarray(size_frame(strip, 518, 14, 2, uncut=True))).mean() < 1


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_a_frozen_vision_tower_keeps_nothing_for_the_way_back(
    frozen: bool, vggt_dir: Path, prompt: EncodedPrompt
) -> None:
    # transformers makes what enters a tower need a gradient once gradient checkpointing is on.
    loaded = Loaded.of(load_model(section(vggt_dir, freeze=FROZEN if frozen else [])))
    loaded.model.train()
    loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    seen = []
    loaded.model.model.visual.register_forward_hook(lambda _, args, out: seen.append(out.pooler_output))
    loaded.model(**collate([prompt], loaded.pad, [encode_answer(loaded.processor, "the chair")])).loss.backward()
    assert seen[0].requires_grad is not frozen
    embeddings = loaded.model.model.language_model.embed_tokens.weight
    assert embeddings.grad is not None
