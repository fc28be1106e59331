"""One optimiser step of GRPO on completions that are given, in one process or in several.

Started by torchrun with recipe files as arguments, it writes beside each what every process had: its gradients after
they were averaged, and the first line of its log.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from small_runs import known_warnings_off, stage_of
from transformers import TrainerCallback

from rft3d_cli.recipe import load_recipe
from rft3d_cli.train import grpo, processes


class Step(TrainerCallback):
    """The gradients of the first step, as the optimiser takes them, and what was logged."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.gradients: dict[str, Any] = {}
        self.logs: dict[str, Any] = {}

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.gradients = self.gradients or {
            name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None
        }

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        self.logs = self.logs or {k: v for k, v in logs.items() if isinstance(v, int | float)}


def given(trainer: Any, group: int) -> list[list[int]]:
    """Completions of unequal lengths: each member of a group says less of the answer, with another token changed."""
    examples, stop = trainer.examples, trainer.eos_token_ids[0]
    first = trainer.accelerator.process_index * len(trainer._indices)
    said = []
    for place, row in enumerate(trainer._indices, start=first):
        member = place % group
        words = examples.answer_ids(row).tolist()[:-1]
        words[member % len(words)] = words[-1]
        said.append([*words[: max(1, len(words) - 2 * member)], *([stop] if member % 2 else [])])
    return said


def step(path: Path, out: Path) -> Step:
    """One step of the recipe at ``path``."""
    recipe = load_recipe(path)
    with known_warnings_off():
        stage = replace(stage_of(recipe, out), processes=processes.world_size())
        trainer: Any = grpo._trainer(stage)

    def single_turn(*_: Any, **__: Any) -> Any:
        if getattr(trainer, "shared", None) is not None:
            trainer.shared.next_rollout()
        return given(trainer, recipe.config.rollout.group), None

    trainer._generate_single_turn = single_turn
    trainer.quiet()
    found = Step(trainer.accelerator.unwrap_model(trainer.model))
    trainer.add_callback(found)
    with known_warnings_off():
        trainer.train()
    return found


def main(paths: list[str]) -> None:
    """Make a step of each recipe and write what came of it."""
    for path in map(Path, paths):
        found = step(path, path.with_suffix(".run"))
        name = f"{path.stem}-{processes.rank()}"
        save_file(found.gradients, path.with_name(f"{name}.safetensors"))
        path.with_name(f"{name}.json").write_text(json.dumps(found.logs))
        processes.wait()
    processes.leave()


if __name__ == "__main__":
    main(sys.argv[1:])
