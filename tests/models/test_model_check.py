"""A model's folder seen without its weights: what it says is what loading would do."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from published import NAMES, publish, publish_vggt, renamed
from safetensors.torch import load_file, save_file
from test_layouts import QWEN_3B
from test_loader import DAMAGE, edit
from tiny_fixtures import Loaded
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2_5_VLConfig

from rft3d_cli.errors import SetupError
from rft3d_cli.models import loader
from rft3d_cli.models.check import Held, check_model
from rft3d_cli.models.defaults import Defaults
from rft3d_cli.models.fusion import FusedConfig, FusedForConditionalGeneration
from rft3d_cli.models.known import KNOWN
from rft3d_cli.models.loader import load_model
from rft3d_cli.models.vggt import VGGTAggregator
from rft3d_cli.recipe_schema import Model


@pytest.fixture(scope="module")
def folders(
    plain_dir: Path, fused_dir: Path, vggt_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    made = {layout: tmp_path_factory.mktemp("published") / "m" for layout in NAMES}
    for layout, folder in made.items():
        publish(vggt_dir, folder, layout)
    return {"ours, plain": plain_dir, "ours, fused": fused_dir, "ours, vggt": vggt_dir, **made}


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def drop(folder: Path, *parts: str) -> None:
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}
    assert len(kept) < len(tensors)
    save_file(kept, file, metadata={"format": "pt"})


# Folders that load


@pytest.mark.parametrize(
    ("name", "layout", "branch"),
    [
        ("ours, plain", "plain", None),
        ("ours, fused", "fused", "tiny"),
        ("ours, vggt", "fused", "vggt"),
        ("plain", "plain", None),
        ("first release", "vgllm-first", "vggt"),
        ("refactored", "vgllm", "vggt"),
    ],
)
def test_a_folder_that_loads_is_described(name: str, layout: str, branch: str | None, folders: dict[str, Path]) -> None:
    held = check_model(str(folders[name]))
    model, processor = load_model(folders[name])
    assert (held.layout, held.branch, held.problems) == (layout, branch, [])
    assert held.compared
    assert held.missing == held.unexpected == []
    assert held.parameters == sum(p.numel() for p in model.parameters())
    assert held.dtypes.keys() == {"F32"}
    assert held.bytes == sum(f.stat().st_size for f in folders[name].glob("*.safetensors"))
    assert processor is not None
    assert held.beside["tokenizer"]
    assert held.beside["image processor"]
    assert held.architecture == json.loads((folders[name] / "config.json").read_text())["architectures"][0]


def test_what_is_beside_the_weights_is_listed(plain_dir: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(plain_dir / name, tmp_path)
    held = check_model(str(tmp_path))
    assert set(held.beside.values()) == {False}
    assert held.problems == []  # it loads and trains; only infer and evaluate need a tokenizer
    assert held.defaults is None


def test_a_shipped_and_a_fresh_model_are_checked_by_name() -> None:
    for name in ("tiny", "tiny-random"):
        held = check_model(name)
        assert (held.name, held.problems) == (name, [])
        assert held.recipes.keys() >= {"tiny-sft", "tiny-det"}
        assert "det" not in held.recipes


# Folders that do not


def said_by(call: Callable[[], list[str]]) -> list[str]:
    try:
        return call()
    except SetupError as error:
        return [error.message]


def both(folder: Path) -> tuple[list[str], list[str]]:
    """What check says, and what loading says."""
    checked = said_by(lambda: [problem.message for problem in check_model(str(folder)).problems])
    return checked, said_by(lambda: load_model(folder) and [])


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_keeps_a_model_from_loading_is_seen_beforehand(
    damage: Callable[[Path], object], plain_dir: Path, tmp_path: Path
) -> None:
    folder = copy(plain_dir, tmp_path / "model")
    damage(folder)
    checked, loaded = both(folder)
    assert loaded
    assert checked
    assert all("\n" not in message for message in checked)


@pytest.mark.parametrize(
    ("source", "damage"),
    [
        pytest.param("ours, plain", lambda f: drop(f, "layers.1.mlp"), id="weights missing"),
        pytest.param("ours, plain", lambda f: drop(f, "embed_tokens"), id="tied embeddings missing"),
        pytest.param("ours, fused", lambda f: drop(f, "geometry_merger"), id="a merger missing"),
        pytest.param("ours, vggt", lambda f: drop(f, "global_blocks.1.attn.q_norm"), id="part of VGGT missing"),
        pytest.param(
            "ours, vggt", lambda f: edit(f, "config.json", lambda c: c.update(geometry_merger_hidden_dim=7)), id="shape"
        ),
        pytest.param(
            "ours, plain",
            lambda f: edit(f, "config.json", lambda c: c["text_config"].update(num_hidden_layers=2, layer_types=None)),
            id="a layer too many",
        ),
        pytest.param(
            "refactored",
            lambda f: edit(f, "config.json", lambda c: c.update(feature_fusion_method="concat")),
            id="make",
        ),
    ],
)
def test_check_says_what_loading_says(
    source: str, damage: Callable[[Path], object], folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy(folders[source], tmp_path / "model")
    damage(folder)
    checked, loaded = both(folder)
    assert checked == loaded
    assert len(checked) == 1


def test_what_is_missing_and_what_has_no_place_are_both_named(plain_dir: Path, tmp_path: Path) -> None:
    folder = copy(plain_dir, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.7.norm.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    held = check_model(str(folder))
    assert held.missing == ["model.language_model.norm.weight"]
    assert held.unexpected == ["model.language_model.layers.7.norm.weight"]
    assert len(held.problems) == 2


def test_the_tied_head_is_counted_once_and_its_copy_is_no_surprise(folders: dict[str, Path]) -> None:
    held = check_model(str(folders["plain"]))
    assert held.parts["language model"] - 1600 * 96 == 486_912  # the copy stands in the files
    assert held.parameters == 685_344
    assert held.unexpected == []


def test_a_model_of_another_kin_is_refused_by_both(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, **small},
        text_config={"model_type": "llama", "vocab_size": 32, **small},
    )
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    checked, loaded = both(tmp_path)
    assert checked == loaded
    assert "is a llava, and rft3d loads Qwen2.5-VL and its kin" in checked[0]


JUNK: list[Any] = [None, 3, -1, 0.5, "x", "", [], ["x", 1], {}, {"a": 1}, True]


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_no_configuration_ends_in_a_traceback(file: str, fused_dir: Path, adapters: Path, tmp_path: Path) -> None:
    """Every key that is read, in turn, with a value that is not of its kind: a description, or one line."""
    source = fused_dir if file == "config.json" else adapters
    folder = copy(source, tmp_path / "m")
    original = json.loads((folder / file).read_text())
    read = {"r", "lora_alpha", "target_modules", "modules_to_save", "base_model_name_or_path", "revision", "peft_type"}
    keys = read if file == "adapter_config.json" else {*original, "text_config", "vision_config"}
    for number, key in enumerate(sorted(keys)):
        (folder / file).write_text(json.dumps(original | {key: JUNK[number % len(JUNK)]}))
        assert all(
            "\n" not in message for message in said_by(lambda: [p.message for p in check_model(str(folder)).problems])
        )


def test_a_damaged_rft3d_json_is_a_problem_too(plain_dir: Path, tmp_path: Path) -> None:
    folder = copy(plain_dir, tmp_path / "m")
    (folder / "rft3d.json").write_text('{"frames": 4}')
    held = check_model(str(folder))
    assert "rft3d.json" in held.problems[0].message
    assert held.defaults is None


# The real sizes, without their weights


def hollow(path: Path, shapes: Iterable[tuple[str, tuple[int, ...]]], dtype: str = "BF16") -> None:
    """A weight file of any size whose numbers are a hole in the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes:
        start, end = end, end + torch.Size(shape).numel() * {"BF16": 2, "F32": 4}[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VG-LLM 4B as published: 5.1 billion numbers, heads and a second language head among them."""
    folder = tmp_path_factory.mktemp("public") / "vgllm"
    folder.mkdir()
    with torch.device("meta"):
        model = FusedForConditionalGeneration(FusedConfig.from_qwen(Qwen2_5_VLConfig(**QWEN_3B), encoder="vggt"))
    shapes = [(renamed(name, "refactored"), tuple(t.shape)) for name, t in model.state_dict().items()]
    heads = [
        ("geometry_encoder.vggt.point_head.x", (32_654_628,)),
        ("geometry_encoder.vggt.depth_head.x", (32_654_562,)),
    ]
    hollow(folder / "model.safetensors", [*shapes, *heads])
    config = {**QWEN_3B, "model_type": "qwen2_5_vl", "use_geometry_encoder": True, "geometry_encoder_type": "vggt"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_published_4b_is_checked_at_its_full_size(public: Path) -> None:
    held = check_model(str(public))
    assert held.problems == []
    assert held.parameters == KNOWN["zd11024/vgllm-3d-vggt-4b"].parameters == 4_705_686_528
    assert held.parts["heads (not used)"] == 65_309_190
    assert held.parts["geometry encoder"] == 909_112_320
    assert sum(held.parts.values()) == 5_082_160_646
    assert held.bytes > 10_164_000_000
    assert set(held.recipes.values()) == {""}
    assert {"det", "grounding-sft", "vsi"} <= held.recipes.keys()


def test_a_fetched_model_has_the_angles_of_its_name(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_snapshot", lambda name: public)
    eras = {name: check_model(f"zd11024/{name}").angles for name in ("vgllm-3d-vggt-4b", "vgllm-qa-vggt-4b")}
    assert eras == {"vgllm-3d-vggt-4b": "intrinsic", "vgllm-qa-vggt-4b": None}


def test_vggt_alone_is_recognised(vggt_dir: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {f"aggregator.{name}": tuple(t.shape) for name, t in VGGTAggregator().state_dict().items()}
    folder = publish_vggt(vggt_dir, tmp_path / "VGGT-1B")
    small = check_model(str(folder))
    assert small.layout == "vggt"
    assert any("another shape" in problem.message for problem in small.problems)
    hollow(folder / "model.safetensors", [*shapes.items(), ("camera_head.token", (7,))], "F32")
    held = check_model(str(folder))
    assert (held.layout, held.problems, held.parameters) == ("vggt", [], KNOWN[loader.VGGT].parameters)
    assert held.parts["heads (not used)"] == 7


# How it was trained, and for what


def held_after(folder: Path, change: Callable[[Path], object], to: Path) -> Held:
    change(copy(folder, to))
    return check_model(str(to))


def test_a_model_that_rft3d_trained_has_its_angles(plain_dir: Path, tmp_path: Path) -> None:
    assert check_model(str(plain_dir)).angles is None  # nothing has trained it yet
    held = held_after(plain_dir, lambda f: Defaults({"detection": 2}, ["rooms"], "n").write(f), tmp_path / "m")
    assert held.angles == "intrinsic"
    assert held.defaults is not None
    assert (held.defaults.datasets, held.defaults.frames["detection"]) == (["rooms"], 2)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("ours, vggt", "", id="with VGGT"),
        pytest.param("ours, plain", "", id="a plain Qwen2.5-VL, to which VGGT can be added"),
        pytest.param("ours, fused", "model.geometry=tiny", id="with another branch"),
    ],
)
def test_recipes_for_real_models(name: str, change: str, folders: dict[str, Path], tmp_path: Path) -> None:
    held = held_after(folders[name], lambda f: (f / "rft3d.json").unlink(), tmp_path / "m")
    assert held.recipes == dict.fromkeys(held.recipes, change)
    assert {"det", "vsi-sft"} <= held.recipes.keys()
    assert not any(recipe.startswith("tiny") for recipe in held.recipes)


# Adapters


@pytest.fixture(scope="module")
def adapters(fused_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = Model.model_validate(
        {"name": str(fused_dir), "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "up_proj"]}}
    )
    loaded = Loaded.of(load_model(spec))
    folder = tmp_path_factory.mktemp("adapters") / "run" / "final"
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


def test_adapters_are_described_with_the_model_under_them(adapters: Path, fused_dir: Path) -> None:
    held = check_model(str(adapters.parent))
    assert held.adapters is not None
    assert (held.adapters.base, held.adapters.rank, held.adapters.alpha) == (str(fused_dir), 4, 8)
    assert sorted(held.adapters.targets) == ["q_proj", "up_proj"]
    assert held.adapters.in_full == ["geometry_merger"]
    assert held.adapters.parameters == sum(
        t.numel() for t in load_file(adapters / "adapter_model.safetensors").values()
    )
    assert (held.folder, held.branch, held.problems, held.files) == (adapters, "tiny", [], 2)
    assert held.parameters == check_model(str(fused_dir)).parameters


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(lambda f: (f / "adapter_model.safetensors").unlink(), "holds no adapter_model", id="gone"),
        pytest.param(lambda f: drop(f, "layers.2.mlp.up_proj.lora_B"), "1 adapters are missing", id="one"),
        pytest.param(
            lambda f: edit(f, "adapter_config.json", lambda c: c.update(r=8)), "adapters are missing or of", id="rank"
        ),
        pytest.param(lambda f: (f / "adapter_model.safetensors").write_bytes(b"{"), "damaged", id="damaged"),
        pytest.param(
            lambda f: edit(f, "adapter_config.json", lambda c: c.update(base_model_name_or_path="no/where")),
            "no/where are not on this machine",
            id="its model is not here",
        ),
        pytest.param(lambda f: (f / "adapter_config.json").write_text("{"), "cannot be loaded", id="not JSON"),
    ],
)
def test_adapters_that_would_not_load_are_one_line(
    damage: Callable[[Path], object], said: str, adapters: Path, tmp_path: Path
) -> None:
    folder = copy(adapters, tmp_path / "a")
    damage(folder)
    checked, loaded = both(folder)
    assert loaded
    (message,) = checked
    assert said in message
