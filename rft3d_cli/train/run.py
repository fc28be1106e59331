"""A run's folder: everything that is needed to continue it, to repeat it, and to say what it was.

::

    runs/det/
      recipe.yaml        the resolved recipe
      run.json           command, versions, machine, data and model with their hashes, times; when and how resumed
      metrics.jsonl      one line a logged step
      completions.jsonl  answers to held-out records, at each evaluation
      rollouts.jsonl     the best and worst completions of some groups, now and then
      checkpoints/       checkpoint-50/ …, each with complete.json written last
      best/  final/      model directories
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rft3d_cli import __version__
from rft3d_cli.console import note
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.files import atomic_writer, sha256, write_json
from rft3d_cli.recipe import Recipe, flatten, to_yaml
from rft3d_cli.recipe_yaml import parse_file

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "scipy", "av", "pillow")
FREE_TO_CHANGE = (
    "output",
    "data.workers",
    "log.to",
    "log.every",
    "log.completions",
    "checkpoint.keep",
    "train.patience",
    "eval.patience",
)
"""Keys that may differ between a run and its continuation: they do not touch what is learned."""


@dataclass(frozen=True)
class Run:
    """An open run folder.

    Args:
        folder: The folder.
        checkpoint: The checkpoint to continue from, or None for a fresh start.
        before: Seconds that the processes before this one took, up to the checkpoint.
        opened: When, on the monotonic clock.
    """

    folder: Path
    checkpoint: Path | None = None
    before: float = 0.0
    opened: float = field(default_factory=time.monotonic)

    @property
    def metrics(self) -> Path:
        """Where metrics go."""
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.folder / "checkpoints"

    def seconds(self) -> float:
        """What the run has taken until now: this process, and those before it up to the checkpoint."""
        return round(self.before + time.monotonic() - self.opened, 1)

    def update(self, **values: Any) -> None:
        """Add to ``run.json``."""
        path = self.folder / "run.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"schema": 1}
        write_json(path, {**known, **values})


def open_run(recipe: Recipe, out: Path, *, resume: bool) -> Run:
    """Open the folder of a run, fresh or to be continued.

    Args:
        recipe: The resolved recipe.
        out: The folder.
        resume: Continue from the newest complete checkpoint, where there is one.

    Raises:
        UsageError: Where the folder holds a run and ``resume`` was not asked for, or the recipe has changed.
    """
    known = check_folder(recipe, out, resume=resume)
    checkpoint = None
    if known:
        checkpoint = newest_complete(out / "checkpoints")
        for name in ("metrics.jsonl", "completions.jsonl", "rollouts.jsonl"):
            _cut(out / name, step_of(checkpoint) if checkpoint else 0)
        note(f"resuming {out} from {checkpoint.name}" if checkpoint else f"{out} has no complete checkpoint yet")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from None
    run = Run(out, checkpoint, _seconds_of(checkpoint) if checkpoint else 0.0)
    with atomic_writer(out / "recipe.yaml") as stream:
        stream.write(to_yaml(recipe))
    run.update(
        **_begun(out, checkpoint, known=known),
        recipe={"name": recipe.name, "sha256": recipe.sha256},
        versions=versions(),
        machine=machine(),
        resumed_from=checkpoint.name if checkpoint else None,
    )
    return run


def _begun(out: Path, checkpoint: Path | None, *, known: bool) -> dict[str, Any]:
    """When and by which command a run began; one that goes on keeps that, and adds to the list of its resumptions."""
    now, command = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), [Path(sys.argv[0]).name, *sys.argv[1:]]
    if not known:
        return {"command": command, "started": now}
    before = json.loads((out / "run.json").read_text(encoding="utf-8"))
    again = {"time": now, "command": command, "checkpoint": checkpoint.name if checkpoint else None}
    return {
        "command": before.get("command", command),
        "started": before.get("started", now),
        "resumed": [*before.get("resumed", []), again],
        "stopped": None,
    }


def check_folder(recipe: Recipe, out: Path, *, resume: bool) -> bool:
    """Whether ``out`` holds a run that is to be continued; see :func:`open_run` for what it refuses."""
    known = (out / "run.json").is_file()
    if known and not resume:
        raise UsageError(f"{out} holds a run already", "add --resume to continue it, or name another folder with --out")
    if out.exists() and not known and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not a run's folder", "name another folder with --out")
    if known:
        _same_recipe(recipe, out)
    return known


def versions() -> dict[str, str]:
    """Versions of rft3d, Python and the libraries that training rests on."""
    found = {"rft3d": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What the run runs on."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _same_recipe(recipe: Recipe, out: Path) -> None:
    path = out / "recipe.yaml"
    if not path.is_file():
        return
    before = flatten(parse_file(path.read_bytes(), path.name)[0])
    now = flatten(parse_file(to_yaml(recipe).encode(), recipe.path.name)[0])
    changed = sorted(
        key
        for key in {**before, **now}
        if before.get(key) != now.get(key)
        and not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    )
    if changed:
        listed = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed[:6])
        raise UsageError(
            f"the recipe has changed since {out} was started: {listed}",
            "continue with the recipe it was started with, or start a new run with --out",
        )


def _cut(path: Path, step: int) -> None:
    """Drop lines of steps that the checkpoint does not have, so that a resumed run writes them once."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line torn by a crash; the step is run again
        if row.get("step", 0) <= step:
            kept.append(line)
    with atomic_writer(path) as stream:
        stream.writelines(f"{line}\n" for line in kept)


def step_of(checkpoint: Path) -> int:
    """The step of a folder ``checkpoint-N``."""
    return int(checkpoint.name.rpartition("-")[2])


def mark_complete(checkpoint: Path, seconds: float) -> None:
    """Write ``complete.json``, the last file of a checkpoint: names, sizes and hashes of all others.

    Args:
        checkpoint: Its folder.
        seconds: What the run has taken so far, over all its processes.
    """
    files = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != "complete.json"
    }
    step = step_of(checkpoint)
    document = {"schema": 1, "step": step, "seconds": seconds, "files": files, "versions": versions()}
    write_json(checkpoint / "complete.json", document)


def _seconds_of(checkpoint: Path) -> float:
    known = json.loads((checkpoint / "complete.json").read_text(encoding="utf-8"))
    return float(known.get("seconds", 0))


def newest_complete(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all there with their sizes; says which newer ones it passed over."""
    found = [p for p in folder.glob("checkpoint-*") if p.is_dir() and p.name.rpartition("-")[2].isdigit()]
    for checkpoint in sorted(found, key=step_of, reverse=True):
        try:
            files = json.loads((checkpoint / "complete.json").read_text(encoding="utf-8"))["files"]
            if all((checkpoint / name).stat().st_size == entry["bytes"] for name, entry in files.items()):
                return checkpoint
        except (OSError, ValueError, KeyError, TypeError):
            pass
        note(f"passing over {checkpoint}: it is not complete")
    return None
