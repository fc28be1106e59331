"""Trackers that a recipe names in ``log.to``, through transformers' own callbacks for them.

``metrics.jsonl`` is written in any case. A run that names no tracker imports none and reaches no network; tensorboard
and trackio write files here, wandb asks for its own login.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rft3d_cli.train.run import Run


def names(to: Sequence[str]) -> list[str]:
    """The trackers among the names of ``log.to``.

    >>> names(["jsonl", "tensorboard"])
    ['tensorboard']
    """
    return [name for name in to if name != "jsonl"]


def arguments(to: Sequence[str], run: Run) -> dict[str, Any]:
    """The trainer's arguments for trackers: where they write, and under which names.

    Args:
        to: The recipe's ``log.to``.
        run: The run.
    """
    if "wandb" in to:
        # wandb takes these from nowhere else; what the user has set stands.
        os.environ.setdefault("WANDB_PROJECT", "rft3d")
        os.environ.setdefault("WANDB_DIR", str(run.folder.resolve()))
    return {
        "report_to": names(to),
        "run_name": run.folder.name,
        "project": "rft3d",
        # trackio would else publish what it has when the run has ended.
        "trackio_static_space_id": False,
    }


def taken_out(trainer: Any, to: Sequence[str], run: Run) -> tuple[list[Any], Callable[[Mapping[str, float]], None]]:
    """The trainer's trackers, to be put back behind every callback that reports: they close when training ends.

    They write into the run's folder, and are told numbers only.

    Args:
        trainer: The trainer.
        to: The recipe's ``log.to``.
        run: The run.

    Returns:
        The trackers, and a function that sends held-out scores to them; their names begin with ``eval/`` there.
    """
    from transformers.integrations import get_reporting_integration_callbacks

    kinds = tuple(get_reporting_integration_callbacks(names(to)))
    trackers = [callback for callback in trainer.callback_handler.callbacks if kinds and isinstance(callback, kinds)]
    for tracker in trackers:
        if hasattr(tracker, "logging_dir") and not os.environ.get("TENSORBOARD_LOGGING_DIR"):
            tracker.logging_dir = str(run.folder / "tensorboard")
        tracker.on_log = _numbers_only(tracker.on_log)
        trainer.remove_callback(tracker)

    def report(metrics: Mapping[str, float]) -> None:
        logs = {f"eval_{name}": value for name, value in metrics.items()}
        for tracker in trackers:
            tracker.on_log(trainer.args, trainer.state, trainer.control, logs=logs, model=trainer.model)

    return trackers, report


def _numbers_only(on_log: Callable[..., Any]) -> Callable[..., Any]:
    """A reward that applied to none of a step's records is logged as None, which trackers complain about."""

    def filtered(args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        known = {name: value for name, value in (logs or {}).items() if value is not None}
        return on_log(args, state, control, logs=known, **kwargs)

    return filtered
