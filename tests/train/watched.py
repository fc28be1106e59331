"""GRPO runs whose gradients, log lines and rollouts are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from small_runs import known_warnings_off, policy_trainer
from transformers import TrainerCallback

from rft3d_cli.recipe import Recipe

State = dict[str, torch.Tensor]


@dataclass
class Watched(TrainerCallback):
    """What a run did: weights before, and gradients, log line and rollouts of each step."""

    trainer: Any
    before: list[State] = field(default_factory=list)
    gradients: list[State] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    rollouts: list[tuple[int, list[int], dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        generate = self.trainer._generate_and_score_completions

        def watch(rows: list[dict[str, Any]]) -> dict[str, Any]:
            output = generate(rows)
            self.rollouts.append((len(self.before) - 1, [row["row"] for row in rows], output))
            return output

        self.trainer._generate_and_score_completions = watch
        self.trainer.add_callback(self)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        parameters = self.trainer.model.named_parameters()
        self.before.append({name: value.detach().clone() for name, value in parameters if ".ref." not in name})

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        parameters = self.trainer.model.named_parameters()
        self.gradients.append(
            {name: p.grad.clone() for name, p in parameters if p.requires_grad and p.grad is not None}
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        self.logs.append(dict(logs))


def watched_run(recipe: Recipe, out: Path) -> Watched:
    trainer = policy_trainer(recipe, out)
    watched = Watched(trainer)
    with known_warnings_off():
        trainer.train()
    return watched
