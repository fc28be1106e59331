from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from published import publish
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from rft3d_cli.errors import SetupError
from rft3d_cli.models import tiny
from rft3d_cli.models.fusion import FusedConfig, FusedForConditionalGeneration
from rft3d_cli.recipe import load_recipe
from rft3d_cli.recipe_schema import Model
from rft3d_cli.train.budget import assumed_row, trained
from rft3d_cli.train.setup import trainable_model
from rft3d_cli.train.shape import PUBLISHED, shape_of


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh tiny models: ``plain``, ``fused`` with the stand-in branch, and ``vggt``."""
    folder = tmp_path_factory.mktemp("models")
    for name, geometry in (("plain", "none"), ("fused", "tiny"), ("vggt", "vggt")):
        tiny.create(folder / name, geometry=geometry)
    return folder


def parts_of(model: Any) -> dict[str, int]:
    """Parameters by part, from the modules."""
    backbone = model.model
    modules = {
        "vision": backbone.visual,
        "vision merger": backbone.visual.merger,
        "language model": backbone.language_model,
    }
    if hasattr(backbone, "geometry_encoder"):
        modules |= {"geometry encoder": backbone.geometry_encoder, "geometry merger": backbone.geometry_merger}
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    counts["vision"] -= counts["vision merger"]
    if not model.config.tie_word_embeddings:
        counts["language model"] += model.lm_head.weight.numel()
    return counts


# ---- Parameters


def on_meta(config: dict[str, Any], branch: bool) -> Any:
    qwen = Qwen2_5_VLConfig(**{k: v for k, v in config.items() if k != "geometry_encoder_type"})
    with torch.device("meta"):
        if not branch:
            return Qwen2_5_VLForConditionalGeneration(qwen)
        return FusedForConditionalGeneration(FusedConfig.from_qwen(qwen, encoder="vggt"))


@pytest.mark.parametrize(
    ("name", "geometry", "total"),
    [
        # The sums are those of the published files.
        pytest.param("Qwen/Qwen2.5-VL-3B-Instruct", "auto", 3_754_622_976, id="3B"),
        pytest.param("Qwen/Qwen2.5-VL-7B-Instruct", "auto", 8_292_166_656, id="7B"),
        pytest.param("zd11024/vgllm-3d-vggt-4b", "vggt", 4_705_686_528, id="4B with VGGT"),
        pytest.param("zd11024/vgllm-qa-vggt-8b", "vggt", 9_249_523_200, id="8B with VGGT"),
        pytest.param("Qwen/Qwen2.5-VL-3B-Instruct", "vggt", 4_705_686_528, id="3B with VGGT added"),
        pytest.param("zd11024/vgllm-qa-vggt-4b", "none", 3_754_622_976, id="4B without its branch"),
    ],
)
def test_published_models_have_the_parameters_of_their_modules(
    name: str, geometry: str, total: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("rft3d_cli.train.shape._folder", lambda name: None)
    shape = shape_of(Model(name=name, geometry=geometry))
    assert shape.published
    assert shape.parts == parts_of(on_meta(PUBLISHED[name], geometry == "vggt"))
    assert sum(shape.parts.values()) == total


@pytest.mark.parametrize("geometry", ["none", "tiny", "vggt"])
def test_a_model_from_a_seed_has_the_parameters_of_its_modules(geometry: str) -> None:
    made = trainable_model(load_recipe("tiny-sft", [f"model.geometry={geometry}"]).config)[0]
    assert shape_of(Model(name="tiny-random", geometry=geometry)).parts == parts_of(made)


@pytest.mark.parametrize("kind", ["plain", "fused", "vggt"])
def test_headers_and_modules_agree(kind: str, models: Path) -> None:
    folder = models / kind
    model = trainable_model(load_recipe("tiny-sft", [f"model.name={folder}", "model.geometry=auto"]).config)[0]
    assert shape_of(Model(name=str(folder))).parts == parts_of(model)
    bare = shape_of(Model(name=str(folder), geometry="none"))
    assert set(bare.parts) == {"vision", "vision merger", "language model"}
    assert bare.branch is None


@pytest.mark.parametrize("layout", ["first release", "refactored", "plain"])
def test_layouts_of_others_are_counted_as_what_they_become(layout: str, models: Path, tmp_path: Path) -> None:
    folder = publish(models / "vggt", tmp_path / "model", layout)
    ours = shape_of(Model(name=str(models / "vggt"), geometry="none" if layout == "plain" else "auto"))
    theirs = shape_of(Model(name=str(folder)))
    assert theirs.parts == ours.parts
    assert (theirs.text, theirs.vision) == (ours.text, ours.vision)


def test_adapters_of_a_run_count_beside_their_base(models: Path, tmp_path: Path) -> None:
    keys = [f"model.name={models / 'fused'}", "model.lora.rank=4", "model.lora.targets=[q_proj, v_proj, down_proj]"]
    config = load_recipe("tiny-sft", keys).config
    model, _ = trainable_model(config)
    model.save_pretrained(tmp_path / "adapter")
    shape = shape_of(Model(name=str(tmp_path / "adapter"), freeze=[]))
    assert shape.adapters is not None
    assert (shape.adapters.rank, sorted(shape.adapters.targets)) == (4, ["down_proj", "q_proj", "v_proj"])
    plain = config.model_copy(update={"model": Model(name=str(tmp_path / "adapter"))})
    assert trained(plain, shape) == trained(config, shape_of(config.model))


@pytest.mark.parametrize("geometry", ["none", "tiny", "vggt"])
def test_adapters_over_a_model_from_a_seed_say_its_branch(geometry: str, tmp_path: Path) -> None:
    keys = [f"model.geometry={geometry}", "model.lora.rank=4", "train.seed=3"]
    model, _ = trainable_model(load_recipe("tiny-sft", keys).config)
    model.save_pretrained(tmp_path / "adapter")
    shape = shape_of(Model(name=str(tmp_path / "adapter")))
    assert shape.parts == shape_of(Model(name="tiny-random", geometry=geometry)).parts


def test_adapters_over_a_plain_model_with_a_merger_had_vggt_beside_it(models: Path, tmp_path: Path) -> None:
    config = {"base_model_name_or_path": str(models / "plain"), "r": 4, "target_modules": ["q_proj"]}
    for saved, encoder in (([], None), (["geometry_merger"], "vggt")):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": saved}))
        branch = shape_of(Model(name=str(tmp_path))).branch
        assert (branch and branch.encoder) == encoder


@pytest.mark.parametrize("text", ["{", "[]", '{"r": 4}'])
def test_adapters_that_cannot_be_read_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(SetupError, match=r"adapter_config\.json cannot be read"):
        shape_of(Model(name=str(tmp_path)))


@pytest.mark.parametrize("name", ["someone/never-fetched", "./nowhere"])
def test_a_model_of_unknown_sizes_is_named(name: str) -> None:
    with pytest.raises(SetupError, match=name.rpartition("/")[2]):
        shape_of(Model(name=name))


def test_another_architecture_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "other", "hidden_size": 8}')
    with pytest.raises(SetupError, match="does not say its sizes"):
        shape_of(Model(name=str(tmp_path)))


# ---- Tokens


def test_the_assumed_clip_is_scannets() -> None:
    config = load_recipe("det").config
    row = assumed_row(config, shape_of(config.model))
    assert (row.frames, row.frame_tokens, row.clip_tokens, row.answer) == (4, 252, 1008, 4096)
