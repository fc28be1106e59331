from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rft3d_cli.models.defaults import read_defaults
from rft3d_cli.models.loader import FRESH, SHIPPED, load_model


def test_list_names_models_that_a_recipe_can_name(rft3d):
    shown = rft3d("models", "list")
    names = [line.split()[0] for line in shown.out.splitlines()]
    assert set(FRESH) <= set(names) <= {*SHIPPED, *FRESH}
    assert "any other name is a folder, or a model on the hub" in shown.err
    models = rft3d("models", "list", "--json").document["models"]
    assert [model["name"] for model in models] == names
    for model in models:
        assert model["text"]
        assert (model["path"] is None) == (model["name"] in FRESH)
        assert model["path"] is None or (Path(model["path"]) / "config.json").is_file()


def test_a_shipped_model_that_is_not_there_is_not_listed(rft3d, monkeypatch, tmp_path):
    monkeypatch.setattr("rft3d_cli.models.loader.assets_dir", lambda: tmp_path)
    assert [line.split()[0] for line in rft3d("models", "list").out.splitlines()] == list(FRESH)


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
