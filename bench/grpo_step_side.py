"""One side of ``grpo_step.py``: a real trainer, stock or ours, whose step is timed and watched from outside."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from grpo_step_count import peaks
from torch import Tensor

PHASES = ("prefill", "decode", "log_probs", "update")


@dataclass
class Step:
    """What one step took and what came of it.

    Args:
        seconds: By phase; ``whole`` is everything from rows to gradients, the optimiser's own step left out.
        peak: Most bytes at once beyond what was there before the step, by phase and in ``whole``; where watched.
        log_probs: ``reference`` (the pass without gradients) and ``policy``, each ``(completions, length)``.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    log_probs: dict[str, Tensor] = field(default_factory=dict)


class Side:
    """A GRPO trainer of one record.

    Args:
        work: Folder with ``model`` and ``train.jsonl``.
        shared: Compute prompts once for their groups; else TRL's own computation.
        group: Completions.
        micro: Completions of a micro-batch.
        length: Tokens of a completion.
        dtype: The recipe's ``model.dtype``.
        checkpointing: Recompute activations.
        kl: Weight of the KL term; above 0 a reference model takes part.
    """

    def __init__(
        self,
        work: Path,
        *,
        shared: bool,
        group: int,
        micro: int,
        length: int,
        dtype: str,
        checkpointing: bool,
        kl: float,
    ) -> None:
        from rft3d_cli.recipe import load_recipe
        from rft3d_cli.train import grpo, setup
        from rft3d_cli.train.data import read_examples
        from rft3d_cli.train.run import Run
        from rft3d_cli.train.stage import Stage, _known_warnings_off

        tree = {
            "stage": "grpo",
            "model": {"name": str(work / "model"), "dtype": dtype, "freeze": ["vision", "vision_merger"]},
            "data": {"train": str(work / "train.jsonl"), "workers": 0},
            "rollout": {"group": group, "prompts": 1, "max_tokens": length, "shared_prompt": shared},
            "rewards": {"format": 1},
            "reward_options": {"answer_style": "direct"},
            "train": {"micro_batch": micro, "kl": kl, "steps": 1, "gradient_checkpointing": checkpointing},
        }
        path = work / "grpo.yaml"
        path.write_text(yaml.safe_dump(tree))
        config = load_recipe(str(path)).config
        with _known_warnings_off():
            model, processor = setup.trainable_model(config)
            examples = read_examples(config.data.train, processor, config)
            arguments = setup.arguments(config, Run(work / "run"), low_precision=setup.computes_low(model))
            self.trainer = grpo._trainer(Stage(config, model, processor, examples, arguments, 1))
        self.trainer.quiet()
        if checkpointing:
            self.trainer.model.activation_checkpointing_enable()
        self.group, self.micro, self.length = group, micro, length
        self.trainer.current_gradient_accumulation_steps = group // micro
        self.own = {name: getattr(self.trainer, name) for name in WATCHED}
        self.warnings_off = _known_warnings_off

    @property
    def model(self) -> Any:
        """The policy."""
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    def gradients(self) -> dict[str, Tensor]:
        """Of every trained weight, after a step."""
        return {name: p.grad for name, p in self.model.named_parameters() if p.requires_grad and p.grad is not None}

    def step(self, row: int, completions: Tensor, advantages: Tensor, *, tokens: int | None, watch: bool) -> Step:
        """One step as the trainer makes it, from rows to gradients.

        Sampled completions are let go and given ones learned from, with given advantages: both sides then compute the
        same, and rewards of a random model's text are all equal.

        Args:
            row: The record's number.
            completions: ``(group, length)`` token ids.
            advantages: ``(group,)``.
            tokens: Sample so many; all of ``length`` where None, none where 0.
            watch: Record memory.
        """
        out = Step(seconds=dict.fromkeys((*PHASES, "whole"), 0.0))
        trainer, clock = self.trainer, clock_of(self.trainer.accelerator.device)
        memory = Memory(trainer.accelerator.device) if watch else None
        trainer.model.zero_grad()
        trainer._step, trainer._buffered_inputs = 0, None
        config = trainer.generation_config
        config.max_new_tokens = config.min_new_tokens = tokens or self.length
        marks: dict[str, float] = {}

        @contextmanager
        def phase(name: str) -> Iterator[None]:
            with memory.part(name) if memory else ExitStack():
                start = clock()
                yield
                out.seconds[name] += clock() - start

        def first_logits(*_: Any) -> None:
            marks.setdefault("first", clock())

        def generate(*args: Any, **kwargs: Any) -> Any:
            if tokens == 0:
                return completions.tolist(), None
            start = clock()
            handle = self.model.lm_head.register_forward_hook(first_logits)
            with memory.part("rollout") if memory else ExitStack():
                self.own["_generate_single_turn"](*args, **kwargs)
            handle.remove()
            out.seconds["prefill"] = marks["first"] - start
            out.seconds["decode"] = clock() - marks["first"]
            return completions.tolist(), None

        def roll_out(inputs: Any) -> Any:
            made = self.own["_generate_and_score_completions"](inputs)
            return made | {"advantages": advantages.to(made["advantages"])}

        def score(model: Any, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                found = self.own["_get_per_token_logps_and_entropies"](model, input_ids, *args, **kwargs)
            else:
                with phase("log_probs"):
                    found = self.own["_get_per_token_logps_and_entropies"](model, input_ids, *args, **kwargs)
            kind = "policy" if torch.is_grad_enabled() else "reference"
            into = out.log_probs.setdefault(kind, torch.full(completions.shape, torch.nan))
            into[self._places(input_ids, completions)] = found[0].detach().float().cpu()
            return found

        update = ExitStack()

        def prepare(batch: Any) -> Any:
            # The trainer's `training_step` is this and the update.
            made = self.own["_prepare_inputs"](batch)
            update.enter_context(phase("update"))
            return made

        for name, function in zip(WATCHED, (generate, roll_out, score, prepare), strict=True):
            setattr(trainer, name, function)
        rows = [{"row": row} for _ in range(self.group)]
        with self.warnings_off(), memory or ExitStack():
            start = clock()
            for _ in range(self.group // self.micro):
                trainer.training_step(trainer.model, rows, None)
                update.close()
            out.seconds["whole"] = clock() - start
            trainer._buffered_inputs = None
        if memory:
            out.peak = memory.peaks()
        trainer._metrics["train"].clear()
        return out

    @staticmethod
    def _places(input_ids: Tensor, completions: Tensor) -> list[int]:
        """Which completions a batch holds: TRL shuffles them before it makes micro-batches."""
        known = {tuple(row): place for place, row in enumerate(completions.tolist())}
        return [known[tuple(row)] for row in input_ids[:, -completions.shape[1] :].tolist()]


WATCHED = (
    "_generate_single_turn",
    "_generate_and_score_completions",
    "_get_per_token_logps_and_entropies",
    "_prepare_inputs",
)
"""Methods of the trainer that a step passes through."""


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock for work on a device: the thread's own time where one thread works, so that others disturb it less."""
    if device.type == "cuda":

        def clock() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return clock
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


class Memory:
    """The most bytes of tensors at once during a step, and in its parts.

    On a GPU the allocator counts; on a CPU torch's profiler records every allocation.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.found: dict[str, int] = {}

    def __enter__(self) -> Memory:
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            from torch.profiler import ProfilerActivity, profile

            self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            with native_stderr_off():
                self.profile.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        if self.cuda:
            self._note("whole")
        else:
            with native_stderr_off():
                self.profile.__exit__(*raised)

    def _note(self, name: str) -> None:
        most = torch.cuda.max_memory_allocated() - self.before
        self.found[name] = max(self.found.get(name, 0), most)
        self.found["whole"] = max(self.found.get("whole", 0), most)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the step; it may come several times."""
        if self.cuda:
            self._note("whole")
            torch.cuda.reset_peak_memory_stats()
            yield
            self._note(name)
            return
        with torch.profiler.record_function(f"part:{name}"):
            yield

    def peaks(self) -> dict[str, int]:
        """Bytes by part, and in ``whole``, beyond what was there before the step."""
        if self.cuda:
            return self.found
        events = self.profile.profiler.kineto_results.events()
        spans = [
            (event.name().partition(":")[2], event.start_ns(), event.start_ns() + event.duration_ns())
            for event in events
            if event.name().startswith("part:")
        ]
        blocks = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
        return peaks(blocks, spans)


@contextmanager
def native_stderr_off() -> Iterator[None]:
    """The profiler announces its start and end on stderr, past Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
