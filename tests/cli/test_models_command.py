from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rft3d_cli.models.defaults import read_defaults
from rft3d_cli.models.known import KNOWN, fetch_command
from rft3d_cli.models.loader import FRESH, SHIPPED, load_model
from rft3d_cli.recipe_schema import Model

HUB = [name for name, known in KNOWN.items() if known.home == "hub"]


@pytest.fixture(autouse=True)
def _no_cache(tmp_path_factory, monkeypatch):
    """An empty cache of the hub, whatever this machine has."""
    import huggingface_hub.file_download

    folder = str(tmp_path_factory.mktemp("hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", folder)
    monkeypatch.setattr(huggingface_hub.file_download.constants, "HF_HUB_CACHE", folder)


@pytest.fixture(scope="module")
def adapted(world, tmp_path_factory):
    """A run folder with adapters that change answers."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    model, processor = load_model(Model.model_validate({"name": str(world.fresh), "lora": {"rank": 2}}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    model.save_pretrained(folder / "final")
    processor.save_pretrained(folder / "final")
    return folder


# list


def test_list_names_what_is_here_and_how_to_fetch_the_rest(rft3d):
    shown = rft3d("models", "list")
    assert shown.code == 0
    here, _, there = shown.out.partition("to fetch\n")
    assert [line.split()[0] for line in here.splitlines()] == ["here", *SHIPPED, *FRESH]
    lines = there.splitlines()
    assert len(lines) == len(HUB)
    for name, line in zip(HUB, lines, strict=True):
        assert line.strip().startswith(fetch_command(name) + "  ")
        assert KNOWN[name].text in line
    assert "any other name is a folder, a run, or a model on the hub" in shown.err
    models = rft3d("models", "list", "--json").document["models"]
    assert [model["name"] for model in models] == list(KNOWN)
    for model in models:
        assert model["text"]
        assert model["here"] == (model["name"] not in HUB)
        assert (model["path"] is not None) == (model["name"] in SHIPPED)
        assert model["path"] is None or (Path(model["path"]) / "config.json").is_file()
        assert (model["command"] is not None) == (model["name"] in HUB)
        assert model["angles"] in ("intrinsic", "extrinsic", None)


def test_a_shipped_model_that_is_not_there_is_not_listed(rft3d, monkeypatch, tmp_path):
    monkeypatch.setattr("rft3d_cli.models.loader.assets_dir", lambda: tmp_path)
    names = [model["name"] for model in rft3d("models", "list", "--json").document["models"] if model["here"]]
    assert names == list(FRESH)


# check


def test_check_tells_people_and_programs(rft3d, world):
    shown = rft3d("models", "check", world.fresh)
    assert (shown.code, shown.err) == (0, "")
    for text in ("a plain model", "685,344", "all there", "tiny-sft", "F32", "only knows"):
        assert text in shown.out
    document = rft3d("models", "check", world.fresh, "--json").document
    assert document["ok"] is True
    assert document["parameters"] == sum(document["parts"].values()) == 685_344
    assert document["layout"] == "plain"
    assert document["branch"] is None
    assert document["problems"] == document["missing"] == document["unexpected"] == []
    assert document["folder"] == str(world.fresh)
    assert document["defaults"]["frames"]["detection"] == 4


def test_check_looks_into_runs_and_adapters(rft3d, adapted):
    shown = rft3d("models", "check", adapted)
    assert shown.code == 0
    assert "rank 2" in shown.out
    assert rft3d("models", "check", adapted, "--json").document["adapters"]["rank"] == 2


def test_what_would_not_load_is_exit_4_with_every_problem(rft3d, world):
    folder = Path("broken")
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "preprocessor_config.json"):
        (folder / name).write_bytes((world.fresh / name).read_bytes())
    tensors = load_file(world.fresh / "model.safetensors")
    tensors["model.layers.9.input_layernorm.weight"] = tensors.pop("model.norm.weight")
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text("{")
    for more in ([], ["--json"]):
        shown = rft3d("models", "check", folder, *more)
        assert shown.code == 4
        assert len(shown.errors) == 3
        assert "model.language_model.norm.weight" in shown.errors[0]
        assert "layers.9" in shown.errors[1]
        assert shown.hint
    document = json.loads(shown.out)
    assert document["ok"] is False
    assert [problem["message"] for problem in document["problems"]] == shown.errors
    assert document["recipes"] == {}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(
            ["zd11024/vgllm-3d-vggt-4b"], 4, "weights of zd11024/vgllm-3d-vggt-4b are not on", id="not fetched"
        ),
        pytest.param(["./nowhere"], 4, "model ./nowhere does not exist", id="no folder"),
        pytest.param(["empty"], 4, "empty holds no model", id="an empty folder"),
        pytest.param(["half"], 4, "model half cannot be loaded: model.safetensors is damaged", id="half a file"),
        pytest.param(["bare"], 4, "model bare has no weights", id="no weights"),
        pytest.param([""], 2, "the model's name is empty", id="no name"),
    ],
)
def test_what_is_no_model_is_one_line(rft3d, world, words, code, message):
    Path("empty").mkdir()
    for name, weights in (("half", b"\x00" * 40), ("bare", None)):
        Path(name).mkdir()
        (Path(name) / "config.json").write_bytes((world.fresh / "config.json").read_bytes())
        if weights is not None:
            (Path(name) / "model.safetensors").write_bytes(weights)
    shown = rft3d("models", "check", *words)
    assert (shown.code, shown.out, len(shown.errors)) == (code, "", 1)
    assert shown.errors[0].startswith(message)
    assert shown.hint


# merge and export


def test_merge_writes_a_whole_model(rft3d, adapted):
    shown = rft3d("models", "merge", adapted, "--out", "merged", "--dtype", "bfloat16")
    assert (shown.code, shown.out, shown.err) == (0, "merged\n", "")
    document = rft3d("models", "check", "merged", "--json").document
    assert (document["adapters"], document["dtypes"]) == (None, {"BF16": 685_344})
    assert rft3d("models", "merge", adapted, "--out", "merged").errors == ["merged exists"]
    shown = rft3d("models", "merge", "merged", "--out", "again")
    assert (shown.code, shown.errors) == (2, ["merged has no adapters to merge"])
    assert "whole already" in shown.hint
    assert not Path("again").exists()


def test_export_says_what_it_leaves_out(rft3d):
    assert rft3d("models", "create-tiny", "fused", "--geometry", "vggt").code == 0
    shown = rft3d("models", "export", "fused", "--out", "plain", "--layout", "plain")
    assert (shown.code, shown.out) == (0, "plain\n")
    assert shown.err.startswith("warning: the geometry branch is left out")
    assert rft3d("models", "export", "fused", "--out", "theirs", "--layout", "vgllm").code == 0
    assert rft3d("models", "check", "theirs", "--json").document["layout"] == "vgllm"
    assert rft3d("models", "export", "plain", "--out", "x", "--layout", "vgllm").code == 2
    assert "Missing option '--layout'" in rft3d("models", "export", "fused", "--out", "x").errors[0]
    assert not Path("x").exists()


# create-tiny


def test_create_tiny_writes_a_model_that_loads(rft3d, world):
    shown = rft3d("models", "create-tiny", "deep/er/tiny0")
    assert (shown.code, shown.out, shown.err) == (0, "deep/er/tiny0\n", "")
    model, _ = load_model("deep/er/tiny0")
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert "only knows" in read_defaults(Path("deep/er/tiny0")).note
    # The default seed is 0, and the same seed gives the same weights.
    assert Path("deep/er/tiny0/model.safetensors").read_bytes() == (world.fresh / "model.safetensors").read_bytes()


def test_another_seed_gives_other_weights_and_geometry_a_branch(rft3d, world):
    assert rft3d("models", "create-tiny", "one", "--seed", 1).code == 0
    assert rft3d("models", "create-tiny", "fused", "--geometry", "tiny").code == 0
    zero, one, fused = (load_file(folder / "model.safetensors") for folder in (world.fresh, Path("one"), Path("fused")))
    assert zero.keys() == one.keys()
    assert any(not np.array_equal(zero[name], one[name]) for name in zero)
    for part in ("geometry_encoder", "geometry_merger"):
        assert any(part in name for name in fused)
        assert not any(part in name for name in zero)
    assert json.loads(Path("fused/config.json").read_text(encoding="utf-8"))["model_type"] != "qwen2_5_vl"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(["taken"], 2, "taken exists", id="a folder"),
        pytest.param(["file"], 2, "file exists", id="a file"),
        pytest.param(["file/inside"], 3, "file/inside cannot be written: Not a directory", id="inside a file"),
        pytest.param(["new", "--seed", "-1"], 2, "Invalid value for '--seed'", id="a negative seed"),
        pytest.param(["new", "--seed", str(2**32)], 2, "Invalid value for '--seed'", id="a huge seed"),
    ],
)
def test_what_cannot_be_created(rft3d, words, code, message):
    Path("taken").mkdir()
    Path("file").write_text("mine", encoding="utf-8")
    shown = rft3d("models", "create-tiny", *words)
    assert (shown.code, shown.out) == (code, "")
    assert shown.errors[0].startswith(message)
    assert shown.hint
    assert {path.name for path in Path().iterdir()} == {"taken", "file"}
    assert not any(Path("taken").iterdir())
    assert Path("file").read_text(encoding="utf-8") == "mine"
