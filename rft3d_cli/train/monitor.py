"""What watches a run: the metrics file, the lines on the console, signals, and the mark of a complete checkpoint."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rft3d_cli.console import PROGRESS_SECONDS, duration, jsonable, note, plain_progress
from rft3d_cli.files import write_json
from rft3d_cli.train import processes
from rft3d_cli.train.run import Run, mark_complete

SUMMARY = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")
"""Keys of transformers' own last log line; the run's folder and the command say it better."""


class MetricsLog(TrainerCallback):
    """Appends every logged step to ``metrics.jsonl``."""

    def __init__(self, run: Run) -> None:
        self.path = run.metrics

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write one line."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        row = {"step": state.global_step, **jsonable(logs)}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


class ConsoleLog(TrainerCallback):
    """A short table on stderr: a line every twentieth of the run on a terminal, every half minute elsewhere.

    Args:
        columns: Heading and log key of each column, in order.
    """

    def __init__(self, columns: tuple[tuple[str, str], ...]) -> None:
        self.columns = columns
        self._start = self._shown = time.monotonic()
        self._first = 0
        self._rows = 0
        self._sums: dict[str, list[float]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._start = self._shown = time.monotonic()
        self._first = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Gather means since the last line, and print one when it is due."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        for _, key in self.columns:
            if isinstance(logs.get(key), int | float):
                self._sums.setdefault(key, []).append(float(logs[key]))
        now = time.monotonic()
        if plain_progress():
            due = now - self._shown >= PROGRESS_SECONDS
        else:
            due = state.global_step % max(1, state.max_steps // 20) == 0
        if not (due or state.global_step == state.max_steps) or not self._sums:
            return
        if self._rows % 20 == 0:
            heads = [f"{'step':>9}", *(f"{name:>{_width(name)}}" for name, _ in self.columns), f"{'left':>9}"]
            note("  " + "".join(heads), "bold")
        self._rows += 1
        self._shown = now
        done = state.global_step - self._first
        left = (now - self._start) / max(1, done) * (state.max_steps - state.global_step)
        middle = (f"{self._cell(key):>{_width(name)}}" for name, key in self.columns)
        cells = [f"{state.global_step:>9}", *middle, f"{duration(left):>9}"]
        note("  " + "".join(cells))
        self._sums.clear()

    def _cell(self, key: str) -> str:
        values = self._sums.get(key)
        if not values:
            return "–"
        mean = sum(values) / len(values)
        return f"{mean:.1e}" if 0 < abs(mean) < 1e-3 else f"{mean:.3f}"


def _width(name: str) -> int:
    return max(9, len(name) + 2)


class CompleteMark(TrainerCallback):
    """Marks a checkpoint complete once transformers has written all of it."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write ``complete.json``, once every process has written its share."""
        processes.wait()
        if state.is_world_process_zero:
            mark_complete(self.run.checkpoints / f"checkpoint-{state.global_step}", self.run.seconds())


SAME_SECONDS = 5.0
"""Signals to one of several processes that come within this time are one."""


class GracefulStop(TrainerCallback):
    """Turns a first Ctrl-C or SIGTERM into a checkpoint and an orderly end; a second one stops at once.

    A signal to one process stops all of them, at the same step: those that go on would wait for it for ever.

    Args:
        period: Optimiser steps a rollout batch lasts; a checkpoint within one would not continue exactly.
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self.signal: int | None = None
        self._heard = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask for a checkpoint and the end where a signal has come."""
        if state.global_step % self.period == 0:
            self.signal = processes.most(self.signal or 0) or None
        if self.signal is not None and state.global_step % self.period == 0:
            control.should_save = True
            control.should_training_stop = True
        return control

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while the block runs."""

        def handle(number: int, _: Any) -> None:
            if self.signal is not None:
                # A cluster signals every process, and the launcher signals them again.
                if processes.world_size() > 1 and time.monotonic() - self._heard < SAME_SECONDS:
                    return
                raise KeyboardInterrupt
            self.signal, self._heard = number, time.monotonic()
            note("stopping after this step; once more to stop at once")

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class HeldOutLog(TrainerCallback):
    """Scores held-out records every so many steps and at the end, and keeps the best model.

    Every process takes part: each answers its share, and all go the same way. The first one writes.

    Args:
        score: Scores the model as it is; returns metrics.
        save: Writes the model to a folder.
        run: The run.
        every: Steps between two scores; None for the end only.
        metric: What is best; ``loss`` is best when least, all else when most.
        keep_best: Whether to keep the best model in ``best/``.
        patience: Scores without a better one that end the run; None for any number.
        period: Optimiser steps that share a rollout; a run ends between two.
        report: Also told of the scores.
    """

    def __init__(
        self,
        score: Callable[[int], dict[str, float]],
        save: Callable[[Path], None],
        run: Run,
        *,
        every: int | None,
        metric: str,
        keep_best: bool,
        patience: int | None = None,
        period: int = 1,
        report: Callable[[dict[str, float]], None] = lambda metrics: None,
    ) -> None:
        self.score, self.save, self.run = score, save, run
        self.every, self.metric, self.keep_best = every, metric, keep_best
        self.patience, self.period, self.report = patience, period, report
        self._record = run.folder / "best.json"
        self.last: dict[str, float] = {}
        self.stopped: str | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make no step more of a run that had ended for want of patience."""
        self.stopped = self._enough()
        if self.stopped is not None:
            state.max_steps = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Score where it is due, and end the run where scores have long not risen."""
        if state.global_step >= state.max_steps:
            return control
        if self.every and state.global_step % self.every == 0:
            self.run_now(state.global_step)
            self.stopped = self._enough()
        if self.stopped is not None and state.global_step % self.period == 0:
            control.should_save = True
            control.should_training_stop = True
        return control

    def _enough(self) -> str | None:
        """Why the run ends here, by the scores that were logged; None where it goes on."""
        if self.patience is None:
            return None
        found = [(row["step"], row.get(f"eval/{self.metric}")) for row in self._rows()]
        known = [(step, value) for step, value in found if value is not None]
        reason = None
        if known:
            sign = -1.0 if self.metric == "loss" else 1.0
            step, value = max(known, key=lambda pair: sign * pair[1])
            since = sum(later > step for later, _ in known)
            if since >= self.patience:
                times = f"{since} evaluation{'s' if since > 1 else ''}"
                reason = f"no better {self.metric} than {value:.3f} of step {step} in {times}"
        return processes.gathered([reason])[0]

    def _rows(self) -> list[dict[str, Any]]:
        """The lines of the metrics file."""
        lines = self.run.metrics.read_text(encoding="utf-8").splitlines() if self.run.metrics.is_file() else []
        return [json.loads(line) for line in lines]

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the end; of a run that had ended before it was resumed, the scores stand."""
        if state.global_step == state.max_steps:
            (self.last,) = processes.gathered([self._scored(state.global_step)])[:1]
            if not self.last:
                self.run_now(state.global_step)

    def _scored(self, step: int) -> dict[str, float]:
        """The metrics that were logged at ``step``, or none."""
        rows = [row for row in self._rows() if row["step"] == step]
        return {key.removeprefix("eval/"): value for row in rows for key, value in row.items() if key[:5] == "eval/"}

    def run_now(self, step: int) -> None:
        """Score, keep the model where it is the best so far, and log: last, so that what is logged has been kept."""
        metrics = self.score(step)
        self.last = metrics
        self._keep(step, metrics)
        if not processes.is_main_process():
            return
        with self.run.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **{f"eval/{k}": v for k, v in jsonable(metrics).items()}}) + "\n")
        self.report(metrics)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items() if "/" not in name)
        note(f"  held out at step {step}: {shown}")

    def _keep(self, step: int, metrics: dict[str, float]) -> None:
        value = metrics.get(self.metric)
        if not self.keep_best or value is None or not math.isfinite(value):
            return
        best = json.loads(self._record.read_text()) if self._record.is_file() else None
        sign = -1.0 if self.metric == "loss" else 1.0
        better = best is None or best["step"] >= step or sign * value > sign * best["value"]
        if processes.gathered([better])[0]:  # as the first process says: the others may not see its files
            self.save(self.run.folder / "best")
            if processes.is_main_process():
                write_json(self._record, {"step": step, "metric": self.metric, "value": value})
