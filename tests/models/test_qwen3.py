"""Qwen3-VL: 16-pixel patches, and inner features that go into the language model's first layers. No geometry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import qwen3
import torch
from tiny_fixtures import Loaded, picture
from transformers import Qwen3VLForConditionalGeneration

from rft3d_cli.models.inputs import EncodedPrompt, collate, encode_answer
from rft3d_cli.models.loader import load_model, model_problems
from rft3d_cli.recipe_schema import Model

SAME = {"rtol": 0.0, "atol": 2e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3.create(tmp_path_factory.mktemp("qwen3") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Loaded:
    return Loaded.of(load_model(folder))


@pytest.fixture(scope="module")
def rows(model: Loaded) -> list[EncodedPrompt]:
    wide = [picture(i, 160, 120) for i in (1, 2)]
    return [model.prompt("where is the chair?", *wide), model.prompt("how many?", picture(3, 120, 160))]


def test_frames_are_whole_merged_patches_of_its_size(model: Loaded, rows: list[EncodedPrompt]) -> None:
    # 160 x 120 becomes 128 x 96: 8 x 6 patches, 4 x 3 tokens.
    assert rows[0].image_grid_thw.tolist() == [[1, 6, 8], [1, 6, 8]]
    assert rows[1].image_grid_thw.tolist() == [[1, 8, 8]]
    assert rows[0].pixel_values.shape == (96, 3 * 2 * 16 * 16)
    assert (rows[0].input_ids == model.processor.image_token_id).sum() == 24
    assert model.processor.frame_tokens(160, 120) == 12


def test_the_hubs_own_preprocessor_file_is_read(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    half = [0.5, 0.5, 0.5]
    public = {
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": half,
        "image_std": half,
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(public))
    (tmp_path / "m" / "processor_config.json").unlink()
    loaded = Loaded.of(load_model(tmp_path / "m"))
    assert loaded.processor.frame_width == 37 * 16
    # The smallest size that the file names is larger than such a frame; it must not be scaled up.
    assert loaded.prompt("?", picture(1, 160, 40)).image_grid_thw.tolist() == [[1, 8, 36]]
    assert loaded.prompt("?", picture(1, 160, 120)).pixel_values.min() >= -1


def test_a_padded_batch_is_each_row_alone(model: Loaded, rows: list[EncodedPrompt]) -> None:
    assert type(model.model) is Qwen3VLForConditionalGeneration
    alone = torch.cat([model.logits(row) for row in rows])
    torch.testing.assert_close(model.logits(*rows), alone, **SAME)
    torch.testing.assert_close(model.logits(*rows[::-1]), alone.flip(0), **SAME)


def test_generate_answers_as_forward_does(model: Loaded, rows: list[EncodedPrompt]) -> None:
    with torch.inference_mode():
        out = model.model.generate(
            **collate(rows, model.pad),
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        alone = [model.model.generate(**collate([row], model.pad), max_new_tokens=4, do_sample=False) for row in rows]
    torch.testing.assert_close(out.logits[0], model.logits(*rows), **SAME)
    assert torch.equal(out.sequences[:, -4:], torch.cat([row[:, -4:] for row in alone]))


def test_inner_features_matter(model: Loaded, rows: list[EncodedPrompt]) -> None:
    before = model.logits(rows[0])
    merger = model.model.model.visual.deepstack_merger_list[0]
    handle = merger.register_forward_hook(lambda _, args, out: torch.zeros_like(out))
    try:
        assert (model.logits(rows[0]) - before).abs().max() > 1e-4
    finally:
        handle.remove()


def test_the_vision_tower_gives_what_the_loop_gives(folder: Path, model: Loaded, rows: list[EncodedPrompt]) -> None:
    looped = Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
    torch.testing.assert_close(Loaded(looped, model.processor).logits(*rows), model.logits(*rows), **SAME)


def test_freezing_knows_its_mergers(folder: Path) -> None:
    loaded, _ = load_model(Model.model_validate({"name": str(folder), "freeze": ["vision_merger"]}))
    frozen = {name for name, p in loaded.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in loaded.named_parameters() if "merger" in name}
    assert any("deepstack" in name for name in frozen)


def test_gradients_pass_frozen_towers(folder: Path, rows: list[EncodedPrompt]) -> None:
    loaded = Loaded.of(load_model(Model.model_validate({"name": str(folder)})))
    loaded.model.train()
    loaded.model(**collate(rows[:1], loaded.pad, [encode_answer(loaded.processor, "the chair")])).loss.backward()
    reached = {n for n, p in loaded.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached
    assert all(name.startswith("model.language_model.") for name in reached)


def test_gradients_reach_all_that_is_trained(folder: Path, rows: list[EncodedPrompt]) -> None:
    loaded = Loaded.of(load_model(Model.model_validate({"name": str(folder), "freeze": []})))
    loaded.model.train()
    loaded.model(**collate(rows[:1], loaded.pad, [encode_answer(loaded.processor, "the chair")])).loss.backward()
    assert all(p.requires_grad and p.grad is not None for p in loaded.model.parameters())


def test_a_saved_one_comes_back(folder: Path, model: Loaded, rows: list[EncodedPrompt], tmp_path: Path) -> None:
    model.model.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    torch.testing.assert_close(Loaded.of(load_model(tmp_path)).logits(*rows), model.logits(*rows), rtol=0, atol=1e-6)


def test_a_vggt_branch_is_refused(folder: Path) -> None:
    (problem,) = model_problems(Model.model_validate({"name": str(folder), "geometry": "vggt"}))
    assert "can be added to a Qwen2.5-VL, and this is a qwen3_vl" in problem.message
