from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from loss_reference import token_log_probs
from small_runs import Kind, World, known_warnings_off, metrics, weights

from rft3d_cli.models.loader import load_model
from rft3d_cli.recipe import Recipe
from rft3d_cli.train.data import read_examples
from rft3d_cli.train.grpo import run_grpo


@pytest.mark.parametrize("name", ["sft-lora", "grpo-lora"])
def test_the_result_is_an_adapter_that_knows_its_base(kind: Callable[[str], Kind], name: str) -> None:
    run = kind(name)
    final = run.straight / "final"
    assert {path.name for path in final.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "preprocessor_config.json",
        "processor_config.json", "rft3d.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    config = json.loads((final / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == run.recipe.config.model.name
    document = json.loads((run.straight / "run.json").read_text())["model"]
    assert 0 < document["trainable"] < 0.3 * document["parameters"]


@pytest.mark.parametrize("name", ["sft-lora", "grpo-lora"])
def test_adapters_are_in_the_language_model_and_learn(kind: Callable[[str], Kind], name: str) -> None:
    saved = weights(kind(name).straight / "final")
    adapters = {key: value for key, value in saved.items() if "lora_" in key}
    assert adapters
    assert all(".language_model.layers." in key for key in adapters)
    rest = saved.keys() - adapters.keys()
    assert all(".geometry_merger." in key for key in rest)
    assert bool(rest) == (name == "sft-lora")  # its model has a geometry branch
    second = {key: value for key, value in adapters.items() if ".lora_B." in key}
    assert len(second) == 7 * 3  # seven layers in each of three blocks
    assert all(np.abs(value).max() > 0 for value in second.values())  # they start at zero


@pytest.mark.parametrize("name", ["sft-lora", "grpo-lora"])
def test_a_loaded_adapter_answers_as_the_last_checkpoint_and_not_as_its_base(
    kind: Callable[[str], Kind], world: World, name: str
) -> None:
    run = kind(name)
    last = max((run.straight / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    outputs = []
    with known_warnings_off():
        for folder in (run.straight, last, run.recipe.config.model.name):
            model, processor = load_model(str(folder))
            examples = read_examples(run.recipe.config.data.train, processor, run.recipe.config)
            with torch.no_grad():
                outputs.append(token_log_probs(model, examples.prompt(0), examples.answer_ids(0).tolist()))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-2)


def test_the_trained_geometry_merger_comes_back_with_the_adapter(kind: Callable[[str], Kind], world: World) -> None:
    run = kind("sft-lora").straight
    with known_warnings_off():
        model, _ = load_model(str(run))
    saved = {key.rpartition("geometry_merger.")[2]: v for key, v in weights(run / "final").items() if "merger" in key}
    base = {
        key.rpartition("geometry_merger.")[2]: v for key, v in weights(world.fused).items() if "geometry_merger" in key
    }
    assert saved.keys() == base.keys()
    used = dict(model.get_base_model().model.geometry_merger.modules_to_save["default"].named_parameters())
    for name, value in saved.items():
        assert not np.array_equal(value, base[name])
        assert np.array_equal(value, used[name].detach().numpy())


def test_kl_is_measured_to_the_starting_policy(kind: Callable[[str], Kind]) -> None:
    values = [line["kl"] for line in metrics(kind("grpo-lora").straight) if "kl" in line]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert max(values) > 1e-4


def test_training_an_adapter_further_starts_from_it_and_measures_kl_to_it(
    kind: Callable[[str], Kind], grpo_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    first = shutil.copytree(kind("grpo-lora").straight / "final", tmp_path / "first")
    # Dropout draws anew for policy and reference, and would count as divergence.
    settings = json.loads((first / "adapter_config.json").read_text())
    (first / "adapter_config.json").write_text(json.dumps(settings | {"lora_dropout": 0.0}))
    recipe = grpo_recipe("train.kl=0.1", "train.steps=2", "train.lr=1e-2", model=first)
    run_grpo(recipe, tmp_path / "run")
    lines = metrics(tmp_path / "run")
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    before, after = weights(first), weights(tmp_path / "run" / "final")
    assert before.keys() == after.keys()
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "run" / "final" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == kind("grpo-lora").recipe.config.model.name


def test_another_seed_starts_other_adapters(world: World) -> None:
    from rft3d_cli.recipe_schema import Lora, Model

    spec = Model(name=str(world.plain), lora=Lora(rank=4))
    with known_warnings_off():
        one, again, other = (dict(load_model(spec, seed=seed)[0].named_parameters()) for seed in (0, 0, 1))
    name = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])
