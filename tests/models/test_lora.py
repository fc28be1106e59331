from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_fixtures import Loaded, picture

from rft3d_cli.errors import SetupError
from rft3d_cli.files import sha256
from rft3d_cli.models.inputs import EncodedPrompt, FrameStore, collate, encode_answer
from rft3d_cli.models.loader import load_model, load_processor, model_problems, weight_hashes
from rft3d_cli.models.predict import Decoding, answers
from rft3d_cli.recipe_schema import Model
from rft3d_cli.records import Record

LAYERS = {"self_attn": ["q_proj", "k_proj", "v_proj", "o_proj"], "mlp": ["gate_proj", "up_proj", "down_proj"]}


@pytest.fixture(scope="module")
def prompt(plain: Loaded) -> EncodedPrompt:
    return plain.prompt("where is the chair?", picture(1), picture(2))


def adapted(name: str | Path, seed: int = 0, **lora: Any) -> Loaded:
    keys = {"rank": 4, "alpha": 8.0, "dropout": 0.0, **lora}
    return Loaded.of(load_model(Model.model_validate({"name": str(name), "lora": keys}), seed=seed))


def stir(loaded: Loaded) -> Loaded:
    """Give what is trained other values, as training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return loaded


def save(loaded: Loaded, folder: Path) -> Path:
    """As the trainer writes a run's model."""
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(plain_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Path]:
    loaded = stir(adapted(plain_dir))
    return loaded, save(loaded, tmp_path_factory.mktemp("adapters") / "run")


# Where they attach


@pytest.mark.parametrize("targets", [None, ["q_proj"], ["up_proj", "v_proj"]], ids=["all", "one", "two"])
def test_adapters_attach_to_the_named_layers_of_the_language_model_only(
    targets: list[str] | None, plain_dir: Path
) -> None:
    model = adapted(plain_dir, **({"targets": targets} if targets else {})).model
    found = {name.split(".lora_A.")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    # The vision tower has layers of the same names.
    assert found == {
        f"base_model.model.model.language_model.layers.{i}.{block}.{layer}"
        for i in range(3)
        for block, layers in LAYERS.items()
        for layer in layers
        if targets is None or layer in targets
    }


def test_only_adapters_and_the_geometry_merger_are_trained(plain_dir: Path, fused_dir: Path) -> None:
    for folder, fused in ((plain_dir, False), (fused_dir, True)):
        model = adapted(folder).model
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        merger = {name for name in trained if "lora_" not in name}
        assert len(trained) - len(merger) == 2 * 3 * 7
        assert len(merger) == (5 if fused else 0)
        assert all(".geometry_merger.modules_to_save.default." in name for name in merger)


def test_fresh_adapters_change_nothing(plain_dir: Path, fused_dir: Path, prompt: EncodedPrompt) -> None:
    for folder in (plain_dir, fused_dir):
        assert torch.equal(adapted(folder).logits(prompt), Loaded.of(load_model(folder)).logits(prompt))


def test_fresh_adapters_follow_their_seed_and_leave_the_generator_alone(plain_dir: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    zero = adapted(plain_dir)
    assert torch.equal(torch.rand(1), expected)
    again, other = adapted(plain_dir), adapted(plain_dir, seed=1)
    name = next(name for name, _ in zero.model.named_parameters() if ".lora_A." in name)
    weights = [dict(loaded.model.named_parameters())[name] for loaded in (zero, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_adapters_learn_and_the_base_does_not(plain_dir: Path, prompt: EncodedPrompt) -> None:
    loaded = adapted(plain_dir)
    loaded.model.train()
    batch = collate([prompt], loaded.pad, [encode_answer(loaded.processor, "the chair")])
    loaded.model(**batch).loss.backward()
    for name, parameter in loaded.model.named_parameters():
        if ".lora_B." in name:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
        elif "lora_" not in name:
            assert parameter.grad is None, name


def test_dropout_is_off_in_what_the_loader_gives(plain_dir: Path, prompt: EncodedPrompt) -> None:
    loaded = stir(adapted(plain_dir, dropout=0.5))
    assert torch.equal(loaded.logits(prompt), loaded.logits(prompt))


def test_the_scale_is_alpha_over_rank(plain_dir: Path) -> None:
    model = adapted(plain_dir, rank=4, alpha=6.0).model
    layer = model.base_model.model.model.language_model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        x = torch.randn(1, 96)
        low = layer.lora_B["default"].weight @ (layer.lora_A["default"].weight @ x[0])
        torch.testing.assert_close(layer(x)[0], layer.base_layer(x)[0] + 1.5 * low, rtol=1e-4, atol=1e-4)


# Files


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_saved_and_loaded_they_give_equal_bits(
    fused: bool, plain_dir: Path, fused_dir: Path, prompt: EncodedPrompt, tmp_path: Path
) -> None:
    base = fused_dir if fused else plain_dir
    loaded = stir(adapted(base))
    assert not torch.equal(loaded.logits(prompt), Loaded.of(load_model(base)).logits(prompt))
    again = Loaded.of(load_model(save(loaded, tmp_path / "run")))
    assert torch.equal(again.logits(prompt), loaded.logits(prompt))
    before, after = dict(loaded.model.named_parameters()), dict(again.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trained = [
        {name for name, p in model.named_parameters() if p.requires_grad} for model in (loaded.model, again.model)
    ]
    # Loaded by its name alone nothing is frozen beyond what adapters freeze, so that training can go on.
    assert trained[0] == trained[1]


@pytest.mark.parametrize("geometry", ["none", "tiny"])
def test_adapters_on_a_fresh_model_find_it_again_by_its_seed(
    geometry: str, prompt: EncodedPrompt, tmp_path: Path
) -> None:
    section = Model.model_validate({"name": "tiny-random", "geometry": geometry, "lora": {"rank": 2, "dropout": 0}})
    loaded = stir(Loaded.of(load_model(section, seed=3)))
    again = Loaded.of(load_model(save(loaded, tmp_path / "run")))
    assert torch.equal(again.logits(prompt), loaded.logits(prompt))


def test_a_folder_of_adapters_is_small_safe_and_names_its_base(saved: tuple[Loaded, Path], plain_dir: Path) -> None:
    _, folder = saved
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(plain_dir)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == 2 * 3 * 7
    assert all("lora_" in name for name in tensors)
    assert not (folder / "config.json").exists()
    assert not list(folder.glob("*.bin"))


def test_the_processor_comes_with_the_adapters_or_else_with_their_base(
    saved: tuple[Loaded, Path], tmp_path: Path
) -> None:
    _, folder = saved
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / name, tmp_path / name)
    for place in (folder, tmp_path):
        processor = load_processor(place)
        assert processor.frame_width == 64
        assert processor.max_length == 4096
        _, same = load_model(place)
        assert same.max_length == 4096


def test_weight_hashes_are_of_the_adapters_and_of_the_model_under_them(
    saved: tuple[Loaded, Path], plain_dir: Path
) -> None:
    files = {"adapter_model.safetensors": saved[1], "model.safetensors": plain_dir}
    assert weight_hashes(str(saved[1])) == {name: sha256(folder / name) for name, folder in files.items()}
    assert weight_hashes(str(plain_dir)).keys() == {"model.safetensors"}
    assert weight_hashes("tiny-random") == {}


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        pytest.param({"rank": 4, "alpha": 8, "dropout": 0}, "", id="the same"),
        pytest.param({"rank": 8, "alpha": 8, "dropout": 0}, "rank 4, and the recipe asks for 8", id="another rank"),
        pytest.param({}, "rank 4, alpha 8, dropout 0, and the recipe asks for 64, 128, 0.05", id="all by default"),
    ],
)
def test_a_recipe_that_asks_for_other_adapters_than_a_model_brings_is_told_so(
    saved: tuple[Loaded, Path], asked: dict[str, Any], wrong: str
) -> None:
    section = Model.model_validate({"name": str(saved[1]), "lora": asked})
    if not wrong:
        assert model_problems(section) == []
        assert load_model(section)[0].peft_config["default"].r == 4
        return
    (problem,) = model_problems(section)
    assert problem.message.endswith(wrong)
    assert "model.lora.rank=4" in (problem.hint or "")
    with pytest.raises(SetupError, match="the recipe asks for"):
        load_model(section)


def test_merged_weights_say_the_same(saved: tuple[Loaded, Path], prompt: EncodedPrompt) -> None:
    loaded, folder = saved
    other = Loaded.of(load_model(folder))
    merged = Loaded(other.model.merge_and_unload(), other.processor)
    assert not [name for name, _ in merged.model.named_parameters() if "lora_" in name]
    torch.testing.assert_close(merged.logits(prompt), loaded.logits(prompt), rtol=0, atol=1e-4)


def test_merged_weights_are_a_model_of_their_own(
    saved: tuple[Loaded, Path], prompt: EncodedPrompt, tmp_path: Path
) -> None:
    other = Loaded.of(load_model(saved[1]))
    merged = Loaded(other.model.merge_and_unload(), other.processor)
    again = Loaded.of(load_model(save(merged, tmp_path / "merged")))
    torch.testing.assert_close(again.logits(prompt), merged.logits(prompt), rtol=0, atol=0)


def test_a_model_with_adapters_answers(
    saved: tuple[Loaded, Path], store: FrameStore, records: dict[str, Record]
) -> None:
    loaded, folder = saved
    again = Loaded.of(load_model(folder))
    rows = [records["number"], records["grounding"]]
    texts = [
        [text for _, text in answers(one.model, one.processor, rows, store, Decoding(max_tokens=8, batch=batch))]
        for one, batch in ((loaded, 2), (again, 1))
    ]
    assert texts[0] == texts[1]


# Folders that are not right


def change(**values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**document, **values}))

    return edit


def forget(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def rename_base(folder: Path) -> None:
    change(base_model_name_or_path=str(folder / "moved"))(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(rename_base, "moved does not exist", id="the base is gone"),
        pytest.param(change(base_model_name_or_path="someone/base"), "someone/base", id="the base was not fetched"),
        pytest.param(change(base_model_name_or_path=None), "do not name their base", id="no base"),
        pytest.param(change(base_model_name_or_path=7), "do not name their base", id="a number for a base"),
        pytest.param(change(r=7), "cannot be loaded", id="another rank"),
        pytest.param(change(target_modules=["nope"]), "cannot be loaded", id="unknown layers"),
        pytest.param(change(peft_type="MAGIC"), "cannot be loaded", id="an unknown kind"),
        pytest.param(forget, "missing adapter", id="one adapter missing"),
        pytest.param(
            lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors", id="no weights"
        ),
        pytest.param(lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 9), "cannot be loaded", id="noise"),
        pytest.param(lambda f: (f / "adapter_config.json").write_text("{"), "cannot be loaded", id="not JSON"),
        pytest.param(lambda f: (f / "adapter_config.json").write_text("[]"), "cannot be loaded", id="a list"),
        pytest.param(lambda f: (f / "adapter_config.json").write_text("{}"), "cannot be loaded", id="empty"),
    ],
)
def test_a_damaged_folder_of_adapters_is_one_line(
    damage: Callable[[Path], object], words: str, saved: tuple[Loaded, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved[1], folder)
    damage(folder)
    with pytest.raises(SetupError) as caught:
        load_model(folder)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


class Marker:
    """A pickle that leaves a mark where it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_adapters_are_not_read(saved: tuple[Loaded, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(saved[1], folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    with pytest.raises(SetupError, match=r"adapter_model\.safetensors"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()
