"""What ends a run that has gone wrong: numbers that are none, and steps in which nothing is learnt.

A loss or a gradient that is not finite stops the run before the optimiser has spoilt the weights, and weights that are
not finite stop it before they are written. Both name the records that they came from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from rft3d_cli.console import warn
from rft3d_cli.errors import Rft3dError
from rft3d_cli.files import write_json
from rft3d_cli.train import processes
from rft3d_cli.train.data import ROWS
from rft3d_cli.train.rollout import Rollout
from rft3d_cli.train.run import Run, newest_complete

SHOWN = 5
"""Records named in a message."""

STATE = "watch.json"
"""What a checkpoint keeps of the streaks, so that a resumed run stops where the straight one would."""

REASONS = {
    "same": (
        "nothing was learnt in the last {steps}: the rewards of each group's completions are all equal",
        "look at rollouts.jsonl: where all is wrong, warm the model up or pay for less; where all is right, train on "
        "harder records",
    ),
    "clipped": (
        "all completions of the last {steps} were cut at rollout.max_tokens {most}",
        "look at rollouts.jsonl: raise rollout.max_tokens, or warm the model up until its answers end",
    ),
}
"""What each streak is, and what to do."""


class Stopped(Rft3dError):
    """A run that ended itself because going on would have been useless."""


class Watch(TrainerCallback):
    """Looks at every rollout, loss, gradient and checkpoint.

    Args:
        run: Whose checkpoints are named.
        name: Row of the training data → id of its record.
        patience: Steps without anything to learn, or with nothing but cut completions, that are enough; None for
            any number.
        period: Optimiser steps that share a rollout.
        most: Longest completion, in tokens.
    """

    def __init__(self, run: Run, name: Callable[[int], str], *, patience: int | None, period: int, most: int) -> None:
        self.run, self.name, self.patience = run, name, patience
        self.period, self.most = period, most
        self.reason: str | None = None
        self._streaks: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._ids: dict[str, list[str]] = {name: [] for name in REASONS}
        self._rows: list[int] = []
        self._step = 0
        if run.checkpoint is not None and (run.checkpoint / STATE).is_file():
            kept = json.loads((run.checkpoint / STATE).read_text(encoding="utf-8"))
            self._streaks |= kept["steps"]
            self._ids |= kept["ids"]

    def attach(self, trainer: Any) -> None:
        """Look at each micro-batch's loss before it is learnt from."""
        compute = trainer.compute_loss

        def checked(model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
            rows = inputs.pop(ROWS) if ROWS in inputs else inputs.get("records", torch.empty(0))
            here = [int(row) for row in rows]
            out = compute(model, inputs, return_outputs=return_outputs, **kwargs)
            loss = out[0] if return_outputs else out
            if model.training:
                self._rows += here
                self._require(torch.isfinite(loss.detach()).all(), "the loss", here)
            return out

        trainer.compute_loss = checked

    def on_rollout(self, rollout: Rollout) -> None:
        """Refuse rewards that are no numbers; count steps that teach nothing."""
        if broken := [sample for sample in rollout.samples if sample.broken]:
            wrong = [name for name, value in broken[0].scores.items() if not math.isfinite(value)]
            what = f"the reward {wrong[0]}" if wrong else "the sum of rewards"
            raise self._not_finite(rollout.step, what, [sample.id for sample in broken])
        for name, found in (("same", rollout.all_same), ("clipped", rollout.all_clipped)):
            before = self._streaks[name]
            now = self._streaks[name] = before + self.period if found else 0
            self._ids[name] = list(dict.fromkeys(self._ids[name] + rollout.ids)) if found else []
            if self.patience is None:
                continue
            if now >= self.patience:
                self.reason = name
            elif before * 2 < self.patience <= now * 2 and processes.is_main_process():
                warn(f"{self._text(name)}; the run stops after {self.patience} (train.patience)")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget the last step's records."""
        self._rows.clear()
        self._step = state.global_step + 1

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a gradient that is not finite, before it is applied."""
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients)
            self._require(torch.isfinite(norm), "the gradient", self._rows)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Refuse weights that are not finite; end a useless run with a checkpoint."""
        self.require_finite(kwargs["model"])
        if self.reason is not None and state.global_step % self.period == 0 and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the streaks with the checkpoint."""
        if state.is_world_process_zero:
            folder = self.run.checkpoints / f"checkpoint-{state.global_step}"
            write_json(folder / STATE, {"steps": self._streaks, "ids": self._ids})

    def require_finite(self, model: Any) -> None:
        """Refuse weights that are not finite: no answer could be sampled from them, and they are not to be kept.

        Raises:
            Stopped: Where there are any.
        """
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad and p.numel()}
        what = "a weight"
        fine = torch.isfinite(torch.nn.utils.get_total_norm(list(trained.values()), math.inf))
        if not fine:
            what = next(f"the weight {name}" for name, p in trained.items() if not torch.isfinite(p).all())
        self._require(fine, what, self._rows)

    def stopped(self, step: int) -> Stopped | None:
        """Why the run ended itself at ``step``, or None."""
        if self.reason is None:
            return None
        return Stopped(
            f"{self._text(self.reason)}, at step {step} ({shown(self._ids[self.reason])}); {self._kept()}",
            f"{REASONS[self.reason][1]}; train.patience=null goes on",
        )

    def _text(self, name: str) -> str:
        steps = self._streaks[name]
        return REASONS[name][0].format(steps="step" if steps == 1 else f"{steps} steps", most=self.most)

    def _require(self, finite: torch.Tensor, what: str, rows: Iterable[int]) -> None:
        """Raise in all processes where something is not finite in one: the others would wait for it for ever."""
        found = [] if bool(finite) else [(what, [self.name(row) for row in rows])]
        if found := processes.gathered(found):
            raise self._not_finite(self._step, found[0][0], [name for _, names in found for name in names])

    def _not_finite(self, step: int, what: str, ids: Sequence[str]) -> Stopped:
        checkpoint = newest_complete(self.run.checkpoints)
        start = f"model.name={checkpoint} and another --out" if checkpoint else "the same recipe and another --out"
        return Stopped(
            f"{what} is not a finite number in step {step} ({shown(ids)}); {self._kept()}",
            f"look at these records; a lower train.lr or train.max_grad_norm, with {start}",
        )

    def _kept(self) -> str:
        checkpoint: Path | None = newest_complete(self.run.checkpoints)
        return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"


def shown(ids: Sequence[str]) -> str:
    """Records in words, a few by name.

    >>> shown(["a", "b", "a"]), shown([f"r{i}" for i in range(9)])
    ('records a, b', 'records r0, r1, r2, r3, r4 and 4 more')
    """
    names = list(dict.fromkeys(ids))
    if not names:
        return "no record known"
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ("record " if len(names) == 1 else "records ") + ", ".join(names[:SHOWN]) + more
