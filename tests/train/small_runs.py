"""Small record files, recipes and runs, and readers of run folders, for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import load_file

from rft3d_cli import prompts
from rft3d_cli.recipe import Recipe, load_recipe
from rft3d_cli.records import Record, write_records
from rft3d_cli.train import grpo, setup, sft
from rft3d_cli.train.data import read_examples
from rft3d_cli.train.run import Run
from rft3d_cli.train.stage import Stage
from rft3d_cli.train.stage import _known_warnings_off as known_warnings_off

IDENTITY = np.eye(4).tolist()
COLOURS = {"chair": (200, 40, 40), "table": (40, 60, 200)}
TIMES = {"step_time"}
"""Logged numbers that are times, and differ from run to run."""


def frame(folder: Path, name: str, label: str, seed: int) -> str:
    """A picture of one coloured block on a noisy floor."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (48, 64, 3)).astype(np.uint8)
    left = int(rng.integers(4, 40))
    pixels[16:40, left : left + 18] = COLOURS[label]
    path = folder / "frames" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return f"frames/{name}"


def record(task: str, folder: Path, index: int) -> Record:
    """A record of one task whose frames show its answer's class."""
    label = ("chair", "table")[index % 2]
    count = 1 if task in ("choice", "number") else 2
    frames = [frame(folder, f"{task}-{index}-{i}.png", label, 100 * index + i) for i in range(count)]
    near = 1.5 + 0.5 * (index % 2)
    box = [0.1 * (index % 2), 0.2, near, 0.5, 0.9, 0.6, 0.3, 0.0, 0.0]
    camera = {
        "intrinsic": [[58.0, 0.0, 32.0], [0.0, 58.0, 24.0], [0.0, 0.0, 1.0]],
        "image_size": [64, 48],
        "cam_to_world": [IDENTITY] * count,
        "axis_align": IDENTITY,
    }
    target: dict[str, Any]
    answer = None
    if task == "detection":
        prompt, target = prompts.detection_prompt(count), {"boxes": [{"label": label, "bbox_3d": box}]}
        answer = f'```json\n[\n\t{{"label": "{label}", "bbox_3d": [{", ".join(f"{x:.1f}" for x in box)}]}}\n]```'
    elif task == "grounding":
        prompt = prompts.grounding_prompt(f"The {label}.", count)
        target = {"frame": index % 2, "bbox_3d": box, "bbox_world": box}
        answer = f'```json\n\t{{"frame": {index % 2}, "bbox_3d": [{", ".join(f"{x:.1f}" for x in box)}]}}\n```'
    elif task == "choice":
        options = ["A. chair", "B. table"]
        prompt = prompts.vsibench_prompt("Which is in the room?", options)
        target = {"letter": "AB"[index % 2], "options": options}
    else:
        prompt = prompts.vsibench_prompt("How far is the wall from the point where you stand?", None)
        target = {"value": 2.0 + index % 2}
    return Record.model_validate(
        {
            "id": f"{task}/{index}",
            "task": task,
            "video": {"frames": frames},
            "prompt": prompt,
            "answer": answer,
            "target": target,
            "camera": camera,
            "meta": {"dataset": "blocks"},
        }
    )


TASKS = ("detection", "grounding", "choice", "number")


def write_data(folder: Path, each: int = 4) -> None:
    """Record files of each task, of all tasks (``mix``), and held out (``val``)."""
    everything: list[Record] = []
    for task in TASKS:
        records = [record(task, folder, i) for i in range(each)]
        write_records(folder / f"{task}.jsonl", records)
        everything += records
    # Tasks take turns, so that each rollout batch holds several.
    mixed = [everything[t * each + i] for i in range(each) for t in range(len(TASKS))]
    write_records(folder / "mix.jsonl", mixed)
    write_records(folder / "val.jsonl", [record(task, folder, 10 + i) for task in TASKS for i in range(2)])


def sft_tree(folder: Path, model: Path | str, data: str = "mix") -> dict[str, Any]:
    """A small SFT recipe."""
    return {
        "stage": "sft",
        "model": {"name": str(model), "dtype": "float32", "freeze": []},
        "data": {"train": str(folder / f"{data}.jsonl"), "workers": 0},
        "train": {"lr": 3e-3, "betas": [0.9, 0.95], "steps": 4, "batch": 4, "micro_batch": 4},
        "checkpoint": {"every": 2, "keep": 4},
    }


REWARDS = {
    "format": 1,
    "det_f1": 1,
    "det_soft_f1": 1,
    "ground_frame": 1,
    "ground_near": 1,
    "accuracy": 1,
    "mra": 1,
}


def grpo_tree(folder: Path, model: Path | str, data: str = "mix") -> dict[str, Any]:
    """A small GRPO recipe: two prompts with four completions each a step."""
    return {
        "stage": "grpo",
        "model": {"name": str(model), "dtype": "float32", "freeze": []},
        "data": {"train": str(folder / f"{data}.jsonl"), "workers": 0},
        "rollout": {"group": 4, "prompts": 2, "max_tokens": 20},
        "rewards": dict(REWARDS),
        "reward_options": {"answer_style": "direct"},
        "train": {"lr": 1e-3, "kl": 0, "warmup": 0, "steps": 4, "micro_batch": 8},
        "checkpoint": {"every": 2, "keep": 4},
    }


def recipe(path: Path, tree: dict[str, Any], *overrides: str) -> Recipe:
    """The recipe of a tree, by way of a file as a user would have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_recipe(path, overrides)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def steps(run: Path) -> list[int]:
    """The steps of the training lines of ``metrics.jsonl``."""
    return [line["step"] for line in metrics(run) if "loss" in line]


def weights(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a model or adapter directory."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def weight_bytes(folder: Path) -> dict[str, bytes]:
    """The weight files of a model or adapter directory."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def moved(before: Path, after: Path) -> set[str]:
    """The names of the tensors that differ between two directories."""
    a, b = weights(before), weights(after)
    assert a.keys() == b.keys()
    return {name for name in a if not np.array_equal(a[name], b[name])}


@dataclass(frozen=True)
class World:
    """What the tests of training share.

    Args:
        data: Folder of the record files.
        plain: A fresh tiny model.
        fused: A fresh tiny model with its geometry branch.
        vggt: A fresh tiny model with VGGT's architecture as its branch, which has frames of its own.
        warm: A tiny model after a short SFT: it answers in the right form, not always the right thing.
        warm_run: The folder of that SFT run.
    """

    data: Path
    plain: Path
    fused: Path
    vggt: Path
    warm: Path
    warm_run: Path

    def records(self, name: str) -> Sequence[Record]:
        """The records of one file."""
        from rft3d_cli.records import read_records

        return read_records(self.data / f"{name}.jsonl").records


@dataclass(frozen=True)
class Kind:
    """A kind of training, and its run from start to end without a break."""

    recipe: Recipe
    straight: Path
    run: Callable[..., dict[str, Any]]

    def differences(self, out: Path) -> list[str]:
        """What differs between a run's folder and the straight one's, in words."""
        found = []
        if weight_bytes(out / "final") != weight_bytes(self.straight / "final"):
            found.append("weights")
        if metrics(out) != metrics(self.straight):
            found.append("metrics")
        for name in ("completions.jsonl", "rollouts.jsonl", "best.json"):
            ours, theirs = (
                path.read_bytes() if path.is_file() else None for path in (out / name, self.straight / name)
            )
            if ours != theirs:
                found.append(name)
        return found


KINDS: dict[str, tuple[str, str, list[str]]] = {
    # SFT makes two steps an epoch of eight records: it breaks in the middle of the second.
    "sft": (
        "sft",
        "warm",
        ["data.limit=8", "train.steps=6", "checkpoint.every=3", "eval.every=2", "eval.metric=loss"],
    ),
    "sft-lora": (
        "sft",
        "fused",
        ["data.limit=8", "train.steps=4", "model.geometry=tiny", "model.lora.rank=4", "model.lora.dropout=0.2"],
    ),
    "sft-bfloat16": (
        "sft",
        "warm",
        ["data.limit=8", "train.steps=4", "model.dtype=bfloat16", "model.freeze=[vision, vision_merger]"],
    ),
    "sft-geometry": (
        "sft",
        "fused",
        ["data.limit=8", "train.steps=4", "model.geometry=tiny", "model.freeze=[geometry]"],
    ),
    # Two steps an epoch: it breaks within the second.
    "grpo": ("grpo", "warm", ["train.kl=0.1", "eval.every=1", "data.limit=4"]),
    "grpo-lora": (
        "grpo",
        "warm",
        ["train.kl=0.1", "model.lora.rank=4", "train.lr=1e-2", "train.iterations=2", "train.steps=6"],
    ),
}


def cli(*words: object) -> int:
    """Run a command in this process; its exit code."""
    from rft3d_cli.cli import main

    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def stage_of(config_recipe: Recipe, out: Path) -> Stage:
    """What a trainer is built from, as ``run_stage`` puts it together."""
    config = config_recipe.config
    model, processor = setup.trainable_model(config)
    examples = read_examples(config.data.train, processor, config, limit=config.data.limit)
    arguments = setup.arguments(config, Run(out), low_precision=setup.computes_low(model))
    return Stage(config, model, processor, examples, arguments, 1)


def policy_trainer(config_recipe: Recipe, out: Path) -> Any:
    """The GRPO trainer of a recipe, not yet run."""
    with known_warnings_off():
        trainer = grpo._trainer(stage_of(config_recipe, out))
    trainer.quiet()
    return trainer


def warmup_trainer(config_recipe: Recipe, out: Path) -> Any:
    """The SFT trainer of a recipe, not yet run."""
    with known_warnings_off():
        trainer = sft._trainer(stage_of(config_recipe, out))
    trainer.quiet()
    return trainer
