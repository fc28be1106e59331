from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import KINDS, Kind, World, grpo_tree, recipe, sft_tree, write_data

from rft3d_cli.recipe import Recipe

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("train")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from rft3d_cli.models import tiny
    from rft3d_cli.train.sft import run_sft

    folder = tmp_path_factory.mktemp("world")
    write_data(folder)
    tiny.create(folder / "plain", seed=0)
    tiny.create(folder / "fused", seed=0, geometry="tiny")
    tiny.create(folder / "vggt", seed=0, geometry="vggt")
    tree = sft_tree(folder, folder / "plain")
    tree["data"]["eval"] = str(folder / "val.jsonl")
    tree["rollout"] = {"max_tokens": 24}
    tree["train"] |= {"steps": 30, "batch": 16, "micro_batch": 16}
    tree["eval"] = {"every": 10}
    tree["checkpoint"] = {"every": 100}
    run_sft(recipe(folder / "warm.yaml", tree), folder / "warm-run")
    models = [folder / name for name in ("plain", "fused", "vggt")]
    gc.collect()
    gc.freeze()  # each run begins with a collection, and a process that has imported torch has much to look through
    return World(folder, *models, folder / "warm-run" / "final", folder / "warm-run")


@pytest.fixture
def sft_recipe(world: World, tmp_path: Path) -> Callable[..., Recipe]:
    def make(*overrides: str, model: Any = None, data: str = "mix") -> Recipe:
        return recipe(tmp_path / "sft.yaml", sft_tree(world.data, model or world.plain, data), *overrides)

    return make


@pytest.fixture
def grpo_recipe(world: World, tmp_path: Path) -> Callable[..., Recipe]:
    def make(*overrides: str, model: Any = None, data: str = "mix") -> Recipe:
        return recipe(tmp_path / "grpo.yaml", grpo_tree(world.data, model or world.warm, data), *overrides)

    return make


@pytest.fixture(scope="session")
def kind(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kind]:
    made: dict[str, Kind] = {}

    def make(name: str) -> Kind:
        if name not in made:
            stage, model, overrides = KINDS[name]
            folder = tmp_path_factory.mktemp(name)
            tree = (sft_tree if stage == "sft" else grpo_tree)(world.data, getattr(world, model))
            if any(override.startswith("eval.") for override in overrides):
                tree["data"]["eval"] = str(world.data / "val.jsonl")
                tree["rollout"] = {**tree.get("rollout", {}), "max_tokens": 20}
                tree["eval"] = {"limit": 5}
                tree["log"] = {"completions": 2}
            if stage == "sft":
                tree["train"] |= {"lr": 1e-3}
            from rft3d_cli.train.grpo import run_grpo
            from rft3d_cli.train.sft import run_sft

            run = run_sft if stage == "sft" else run_grpo
            one = recipe(folder / "recipe.yaml", tree, *overrides)
            run(one, folder / "straight", resume=True)  # where there is no run yet, that starts one
            made[name] = Kind(one, folder / "straight", run)
        return made[name]

    return make
