"""Checkpoints as others publish them load into our model, tensor by tensor, or are refused by name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published import publish, publish_vggt, write_shards
from safetensors.torch import load_file, save_file
from tiny_fixtures import Loaded, picture
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from rft3d_cli.errors import SetupError
from rft3d_cli.models import loader
from rft3d_cli.models.checkpoint import read_checkpoint
from rft3d_cli.models.fusion import FusedConfig, FusedForConditionalGeneration
from rft3d_cli.models.inputs import EncodedPrompt, collate
from rft3d_cli.models.loader import load_model, load_processor, model_problems
from rft3d_cli.recipe_schema import Model

LAYOUTS = ["first release", "refactored"]


def section(name: Path, **keys: Any) -> Model:
    return Model.model_validate({"name": str(name), "freeze": [], "dtype": "float32", **keys})


def refused(spec: Model | Path) -> SetupError:
    with pytest.raises(SetupError) as caught:
        load_model(spec)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.fixture(scope="module")
def prompt(vggt: Loaded) -> EncodedPrompt:
    return vggt.prompt("where is the chair?", picture(1), picture(2))


@pytest.fixture(scope="module", params=LAYOUTS)
def published(request: pytest.FixtureRequest, vggt_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(vggt_dir, tmp_path_factory.mktemp("published") / "model", request.param)


@pytest.fixture(scope="module")
def qwen(vggt_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(vggt_dir, tmp_path_factory.mktemp("published") / "qwen", "plain")


@pytest.fixture
def vggt_weights(vggt_dir: Path, tmp_path: Path) -> Path:
    return publish_vggt(vggt_dir, tmp_path / "VGGT-1B")


# The same model in every dress


def test_both_public_layouts_are_the_same_model(published: Path, vggt: Loaded, prompt: EncodedPrompt) -> None:
    loaded = Loaded.of(load_model(published))
    assert type(loaded.model) is FusedForConditionalGeneration
    before, after = vggt.model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(loaded.logits(prompt), vggt.logits(prompt))
    assert loaded.model.lm_head.weight is loaded.model.model.language_model.embed_tokens.weight


def test_saved_again_it_is_ours(published: Path, vggt: Loaded, prompt: EncodedPrompt, tmp_path: Path) -> None:
    model, processor = load_model(published)
    assert processor is not None
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert read_checkpoint(tmp_path).layout == "fused"
    again = Loaded.of(load_model(tmp_path))
    torch.testing.assert_close(again.logits(prompt), vggt.logits(prompt), rtol=0, atol=1e-6)


def test_its_processor_gives_both_towers_their_frames(published: Path) -> None:
    for processor in (load_processor(published), load_model(published)[1]):
        assert processor is not None
        assert processor.uncut
        assert processor.frame_tokens(64, 48) == 4 * 3


def test_without_a_tokenizer_the_model_still_loads(vggt_dir: Path, tmp_path: Path) -> None:
    model, processor = load_model(publish(vggt_dir, tmp_path / "m", "refactored", tokenizer=False))
    assert processor is None
    assert hasattr(model.model, "geometry_encoder")


def test_geometry_none_leaves_the_branch(published: Path, vggt_dir: Path, vggt: Loaded, prompt: EncodedPrompt) -> None:
    bare = [Loaded.of(load_model(section(folder, geometry="none"))) for folder in (published, vggt_dir)]
    for loaded in bare:
        assert type(loaded.model) is Qwen2_5_VLForConditionalGeneration
        assert not loaded.processor.uncut
    inputs = bare[0].prompt("where is the chair?", picture(1), picture(2))
    assert inputs.geometry is None
    assert torch.equal(bare[0].logits(inputs), bare[1].logits(inputs))
    assert (bare[0].logits(inputs) - vggt.logits(prompt)).abs().max() > 1e-3


def test_vggt_beside_a_plain_model(
    qwen: Path, vggt_weights: Path, vggt: Loaded, vggt_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The configuration of the small encoder is not in a plain model's folder.
    sizes = json.loads((vggt_dir / "config.json").read_text())["geometry_encoder_config"]
    edit(qwen / "config.json", geometry_encoder_config=sizes, geometry_merger_hidden_dim=24)
    spec = section(qwen, geometry="vggt", geometry_weights=str(vggt_weights))
    assert model_problems(spec) == []
    loaded, again, other = (load_model(spec, seed=seed)[0] for seed in (0, 0, 1))
    own, expected = loaded.state_dict(), vggt.model.state_dict()
    for name in own:
        if "geometry_merger" not in name:
            assert torch.equal(own[name], expected[name]), name
    merger = loaded.model.geometry_merger
    assert merger.mlp[0].out_features == 24
    assert torch.equal(merger.mlp[0].bias, torch.zeros(24))
    assert 0.01 < merger.mlp[0].weight.std() < 0.1
    assert torch.equal(merger.mlp[0].weight, again.model.geometry_merger.mlp[0].weight)
    assert not torch.equal(merger.mlp[0].weight, other.model.geometry_merger.mlp[0].weight)
    # By its name, where it was fetched.
    monkeypatch.setattr(loader, "_snapshot", lambda name: vggt_weights if name == "facebook/VGGT-1B" else None)
    assert model_problems(section(qwen, geometry="vggt")) == []


def test_a_plain_model_alone_is_plain(qwen: Path) -> None:
    model, processor = load_model(qwen)
    assert type(model) is Qwen2_5_VLForConditionalGeneration
    assert processor is not None
    assert not processor.uncut


# Refusals


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite a folder's shards as one file after ``edit``."""
    weights: dict[str, torch.Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        weights |= load_file(shard)
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    edit(weights)
    write_shards(folder, weights, 1)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(
            lambda w: w.pop("geometry_encoder.vggt.aggregator.global_blocks.0.attn.q_norm.weight"),
            "1 weights are missing or of another shape, first "
            "model.geometry_encoder.aggregator.global_blocks.0.attn.q_norm.weight",
            id="an aggregator tensor missing",
        ),
        pytest.param(
            lambda w: [w.pop(f"geometry_merger.mlp.2.{n}") for n in ("weight", "bias")],
            "2 weights are missing or of another shape, first model.geometry_merger.mlp.2.bias, "
            "model.geometry_merger.mlp.2.weight",
            id="half of the merger missing",
        ),
        pytest.param(
            lambda w: w.update({"geometry_merger.mlp.2.bias": torch.zeros(7)}),
            "1 weights are missing or of another shape, first model.geometry_merger.mlp.2.bias",
            id="a merger of another width",
        ),
        pytest.param(
            lambda w: w.update({"geometry_encoder.vggt.aggregator.extra": torch.zeros(7)}),
            "1 weights have no place in it, first model.geometry_encoder.aggregator.extra",
            id="an aggregator tensor too many",
        ),
        pytest.param(
            lambda w: w.update({"model.layers.9.mlp.up_proj.weight": torch.zeros(7)}),
            "1 weights have no place in it, first model.language_model.layers.9.mlp.up_proj.weight",
            id="a layer too many",
        ),
        pytest.param(
            lambda w: w.pop("visual.blocks.0.norm1.weight"),
            "1 weights are missing or of another shape, first model.visual.blocks.0.norm1.weight",
            id="a vision tensor missing",
        ),
    ],
)
def test_tensors_that_matter_are_named(damage: Any, said: str, vggt_dir: Path, tmp_path: Path) -> None:
    folder = publish(vggt_dir, tmp_path / "m", "refactored")
    change(folder, damage)
    assert said in refused(folder).message


@pytest.mark.parametrize(
    ("key", "value"),
    [("feature_fusion_method", "concat"), ("geometry_merger_type", "avg"), ("fusion_num_layers", 4)],
)
def test_a_branch_of_another_make_is_refused(key: str, value: Any, vggt_dir: Path, tmp_path: Path) -> None:
    folder = publish(vggt_dir, tmp_path / "m", "refactored")
    edit(folder / "config.json", **{key: value})
    error = refused(folder)
    assert f"{key} is {value!r}" in error.message
    assert "model.geometry=none" in (error.hint or "")
    load_model(section(folder, geometry="none"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(
            lambda w: w.pop("aggregator.camera_token"), "1 are missing, first aggregator.camera_token", id="-"
        ),
        pytest.param(
            lambda w: w.update({"aggregator.camera_token": torch.zeros(1)}), "1 have another shape", id="shape"
        ),
        pytest.param(lambda w: w.update({"aggregator.new": torch.zeros(1)}), "1 have no place in the encoder", id="+"),
    ],
)
def test_vggt_weights_that_do_not_fit_are_named(
    damage: Any, said: str, qwen: Path, vggt_dir: Path, vggt_weights: Path
) -> None:
    sizes = json.loads((vggt_dir / "config.json").read_text())["geometry_encoder_config"]
    edit(qwen / "config.json", geometry_encoder_config=sizes, geometry_merger_hidden_dim=24)
    weights = load_file(vggt_weights / "model.safetensors")
    damage(weights)
    save_file(weights, vggt_weights / "model.safetensors")
    assert said in refused(section(qwen, geometry="vggt", geometry_weights=str(vggt_weights))).message


@pytest.mark.parametrize(
    ("keys", "said", "hint"),
    [
        pytest.param({"geometry": "vggt"}, "facebook/VGGT-1B are not on this machine", "hf download", id="no VGGT"),
        pytest.param(
            {"geometry": "vggt", "geometry_weights": "./nowhere"}, "./nowhere does not exist", "models list", id="path"
        ),
        pytest.param({"geometry": "tiny"}, "has no geometry branch", "tiny-random", id="the stand-in"),
    ],
)
def test_a_branch_that_cannot_be_added_is_said_beforehand(
    keys: dict[str, Any], said: str, hint: str, qwen: Path
) -> None:
    (problem,) = model_problems(section(qwen, **keys))
    assert said in problem.message
    assert hint in (problem.hint or "")
    assert problem.exit_code == 4


def test_another_branch_than_the_files_is_refused(vggt_dir: Path, published: Path, fused_dir: Path) -> None:
    for folder, asked, has in ((vggt_dir, "tiny", "vggt"), (published, "tiny", "vggt"), (fused_dir, "vggt", "tiny")):
        (problem,) = model_problems(section(folder, geometry=asked))
        assert f"has a {has} branch" in problem.message
        assert model_problems(section(folder, geometry=has)) == []


def test_a_shard_that_is_missing_is_said(published: Path, tmp_path: Path, vggt_dir: Path) -> None:
    folder = publish(vggt_dir, tmp_path / "m", "refactored", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "1 of 3 weight files are missing, first model-00002-of-00003" in refused(folder).message


# What a folder holds


def test_parts_are_counted(published: Path, vggt: Loaded) -> None:
    parts = read_checkpoint(published).parts()
    count = {name: p.numel() for name, p in vggt.model.named_parameters()}
    assert parts["geometry encoder"] == sum(n for k, n in count.items() if "geometry_encoder" in k)
    assert parts["geometry merger"] == sum(n for k, n in count.items() if "geometry_merger" in k)
    assert parts["vision merger"] == sum(n for k, n in count.items() if "visual.merger" in k)
    assert parts["vision"] + parts["vision merger"] == sum(n for k, n in count.items() if "visual" in k)
    head = vggt.model.lm_head.weight.numel()
    assert parts["language model"] == head + sum(n for k, n in count.items() if "language_model" in k)
    assert parts["heads (not used)"] == 6
    assert "other" not in parts


def test_sizes_of_the_full_models() -> None:
    for public, total in ((QWEN_3B, 4_705_686_528), (QWEN_7B, None)):
        config = FusedConfig.from_qwen(Qwen2_5_VLConfig(**public), encoder="vggt")
        with torch.device("meta"):
            model = FusedForConditionalGeneration(config)
        unique = {id(p): p.numel() for p in model.parameters()}
        merger = sum(p.numel() for p in model.model.geometry_merger.parameters())
        aggregator = sum(p.numel() for p in model.model.geometry_encoder.parameters())
        assert aggregator == 909_112_320
        if total is not None:
            assert sum(unique.values()) == total
            assert merger == 41_951_232
            assert sum(p.numel() for p in model.model.visual.parameters()) == 668_684_288
            language = {id(p): p.numel() for p in model.model.language_model.parameters()}
            assert sum(language.values()) == 3_085_938_688
        else:
            assert model.model.geometry_merger.mlp[2].out_features == 3584
            assert sum(unique.values()) > 9e9


QWEN_3B = {
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
    },
    "tie_word_embeddings": True,
}
QWEN_7B = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
    "tie_word_embeddings": False,
}


# The branch in the whole


def test_frames_order_and_absence_are_felt(vggt: Loaded, prompt: EncodedPrompt) -> None:
    seen = vggt.logits(prompt)
    clip = collate([prompt], vggt.pad)["geometry_images"][0]
    assert clip.shape[-1] == 72
    given = collate([prompt], vggt.pad)
    for name, other in (("reversed", clip.flip(0)), ("changed", 255 - clip)):
        with torch.inference_mode():
            out = vggt.model(**(given | {"geometry_images": [other]})).logits[:, -1]
        assert (out - seen).abs().max() > 1e-6, name


# Odd folders


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"vocab_size": 10**9}, id="words for a terabyte"),
        pytest.param({"geometry_encoder_config": {}}, id="all of VGGT"),
    ],
)
def test_a_configuration_of_another_size_takes_no_memory(
    keys: dict[str, Any], vggt_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(vggt_dir, tmp_path / "m", "refactored")
    edit(folder / "config.json", **keys)
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", None)  # not even called
    assert "weights are missing or of another shape" in refused(folder).message


@pytest.mark.parametrize("which", [0, 1])
def test_a_tensor_in_two_files_is_refused(which: int, vggt_dir: Path, tmp_path: Path) -> None:
    folder = publish(vggt_dir, tmp_path / "m", "refactored")
    files = sorted(folder.glob("*.safetensors"))
    name, tensor = next(iter(load_file(files[1 - which]).items()))
    save_file(load_file(files[which]) | {name: tensor + 1}, files[which], metadata={"format": "pt"})
    assert f"{name} is in {files[0].name} and in {files[1].name}" in refused(folder).message


def test_one_whole_file_goes_before_shards_as_when_loading(vggt_dir: Path, tmp_path: Path) -> None:
    folder = publish(vggt_dir, tmp_path / "m", "refactored")
    (name, tensor), *_ = load_file(next(iter(sorted(folder.glob("*.safetensors"))))).items()
    save_file({name: tensor}, folder / "model.safetensors", metadata={"format": "pt"})
    assert {*read_checkpoint(folder).tensors} == {name}
    assert "weights are missing" in refused(folder).message


@pytest.mark.parametrize("value", ["middle", None, []])
def test_a_reference_frame_that_is_neither_first_nor_last_is_refused(
    value: Any, vggt_dir: Path, tmp_path: Path
) -> None:
    folder = publish(vggt_dir, tmp_path / "m", "refactored")
    edit(folder / "config.json", reference_frame=value)
    assert f"reference_frame is {value!r}" in refused(folder).message
    edit(folder / "config.json", reference_frame="last")
    assert load_model(section(folder))[0].config.reference_frame == "last"


def test_a_snapshot_of_links_into_blobs_is_a_folder_like_any(vggt_dir: Path, vggt: Loaded, tmp_path: Path) -> None:
    folder = publish(vggt_dir, tmp_path / "m", "refactored")
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / f"{i:040d}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{i:040d}")
    state = load_model(section(snapshot))[0].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in vggt.model.state_dict().items())


@pytest.mark.parametrize("asked", ["auto", "vggt"])
def test_adapters_find_the_vggt_that_they_were_trained_beside(
    asked: str,
    qwen: Path,
    vggt_weights: Path,
    vggt_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sizes = json.loads((vggt_dir / "config.json").read_text())["geometry_encoder_config"]
    edit(qwen / "config.json", geometry_encoder_config=sizes, geometry_merger_hidden_dim=24)
    # The usual weights are on this machine too, and are others.
    usual = tmp_path / "usual"
    usual.mkdir()
    weights = load_file(vggt_weights / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, usual / "model.safetensors")
    monkeypatch.setattr(loader, "_snapshot", lambda name: usual if name == "facebook/VGGT-1B" else None)
    said = logging.getLogger("transformers")
    said.addHandler(caplog.handler)
    adapted, _ = load_model(section(qwen, geometry="vggt", geometry_weights=str(vggt_weights), lora={"rank": 2}))
    adapted.save_pretrained(tmp_path / "adapters")
    again, _ = load_model(section(tmp_path / "adapters", geometry=asked))
    said.removeHandler(caplog.handler)
    before, after = adapted.state_dict(), again.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # What is added is no cause for alarm.
    assert "MISSING" not in caplog.text


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_weights_that_are_codes_are_refused(dtype: torch.dtype, vggt_dir: Path, tmp_path: Path) -> None:
    folder = publish(vggt_dir, tmp_path / "m", "refactored")
    name = "model.layers.0.mlp.up_proj.weight"
    change(folder, lambda w: w.update({name: w[name].to(dtype)}))
    assert f"1 weights are of another format than F64, F32, F16, BF16, first {name}" in refused(folder).message
