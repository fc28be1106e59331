"""What a run's folder says of the run: its curves, its recipe, and where its records are."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.errors import DataError, Rft3dError
from rft3d_cli.recipe import flatten
from rft3d_cli.recipe_yaml import parse_file, read_file

Floats = NDArray[np.float64]

METRICS, RECIPE, ABOUT, BEST = "metrics.jsonl", "recipe.yaml", "run.json", "best.json"
HINT = "name the folder of a run: rft3d sft and rft3d grpo write one, with metrics.jsonl in it"


@dataclass(frozen=True)
class Curve:
    """Values at steps.

    Args:
        steps: Ascending, each once.
        values: As many, all finite.
    """

    steps: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)

    def ends(self) -> tuple[float, float]:
        """Means over the first and the last tenth, of short curves over up to five values: single steps say little."""
        count = max(len(self.values) // 10, min(5, len(self.values) // 4), 1)
        return float(self.values[:count].mean()), float(self.values[-count:].mean())


@dataclass
class Run:
    """A run, read.

    Args:
        name: What it is called beside the others.
        folder: Its folder.
        curves: By the key of ``metrics.jsonl``.
        lost: Keys of which a value was no number, with the first such step and how many there were.
        recipe: Dotted keys and texts of its recipe; empty where there is none.
        about: ``run.json``; empty where there is none.
        best: Step, metric and value of the best model that was kept, where one was.
        notes: What could not be read.
    """

    name: str
    folder: Path
    curves: dict[str, Curve]
    lost: dict[str, tuple[int, int]] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def curve(self, *keys: str) -> Curve | None:
        """The first of some curves that the run has."""
        return next((self.curves[key] for key in keys if key in self.curves), None)

    @property
    def stage(self) -> str:
        """``grpo`` or ``sft``."""
        return str(self.recipe.get("stage") or ("grpo" if "reward" in self.curves else "sft"))

    @property
    def steps(self) -> int:
        """The last step that was logged."""
        return int(max((curve.steps[-1] for curve in self.curves.values()), default=0))

    @property
    def planned(self) -> int | None:
        """How many steps the recipe asks for, where it says."""
        try:
            return int(self.recipe["train.steps"])
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def finished(self) -> bool:
        """Whether it ran to its end."""
        return "finished" in self.about

    @property
    def stopped(self) -> str | None:
        """Why it ended itself, where it did."""
        why = self.about.get("stopped")
        return why if isinstance(why, str) and why else None

    @property
    def metric(self) -> str:
        """The held-out metric that says which step is best."""
        return str(self.recipe.get("eval.metric") or "score")


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the folders of runs; a folder named twice is read once.

    Args:
        folders: Of runs, or their ``metrics.jsonl``.

    Returns:
        At least one run, with names that differ.

    Raises:
        DataError: Where a folder holds no run, or none of them has logged a step.
    """
    folders = [folder.parent if folder.name == METRICS and folder.is_file() else folder for folder in folders]
    known = list({folder.resolve(): folder for folder in folders}.values())
    runs = [read_run(folder) for folder in known]
    for run, name in zip(runs, distinct_names(known), strict=True):
        run.name = name
    begun = [run for run in runs if run.curves]
    if not begun:
        raise DataError(f"{runs[0].folder} has not logged a step yet", "repeat this once the run has made its first")
    for run in runs:
        if not run.curves:
            begun[0].notes.append(f"{run.folder} has not logged a step yet and is left out")
    return begun


def read_run(folder: Path) -> Run:
    """Read a run's folder, also while the run goes on.

    Raises:
        DataError: Where it is none.
    """
    _check(folder)
    run = Run(folder.resolve().name, folder, {})
    read = _Reading()
    for row in _objects(folder / METRICS, run.notes):
        read.add(row)
    run.curves, run.lost = read.curves(), read.lost
    run.about, best = _document(folder / ABOUT, run.notes), _document(folder / BEST, run.notes)
    if isinstance(best.get("step"), int) and isinstance(best.get("value"), int | float):
        run.best = best
    if (folder / RECIPE).is_file():
        try:
            run.recipe = flatten(parse_file(read_file(folder / RECIPE), RECIPE)[0])
        except Rft3dError as error:
            run.notes.append(f"{RECIPE}: {error.message}")
    return run


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file that a run may still be writing; none where there is no file."""
    return _objects(path, [])


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Short names of folders that differ: their own, with as much of the path before it as it takes.

    >>> distinct_names([Path("/a/det"), Path("/b/det"), Path("/b/mix")])
    ['a/det', 'b/det', 'mix']
    """
    parts = [folder.resolve().parts for folder in folders]
    names: list[str] = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]).replace("//", "/"))
    return names


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Recipe keys in which runs differ, with each run's value.

    A key that other runs' recipes do not know is no difference, unless it is a reward.
    """
    keys = dict.fromkeys(key for run in runs for key in run.recipe)
    out = []
    for key in keys:
        known = {_words(run.recipe[key]) for run in runs if key in run.recipe}
        some = key.startswith("rewards.") and any(key not in run.recipe for run in runs)
        if key != "output" and (len(known) > 1 or some):
            out.append((key, [_words(run.recipe.get(key)) for run in runs]))
    return out


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "–" if value is None else str(value)


def _check(folder: Path) -> None:
    if not folder.exists():
        raise DataError(f"{folder} does not exist", HINT)
    if not folder.is_dir():
        raise DataError(f"{folder} is not the folder of a run", HINT)
    if (folder / METRICS).is_file() or (folder / ABOUT).is_file():
        return
    inner = sorted(path.parent for path in folder.glob(f"*/{METRICS}"))
    words = " ".join(map(str, inner[:4]))
    raise DataError(
        f"{folder} is not the folder of a run: it has no {METRICS}", f"rft3d report {words}" if words else HINT
    )


def _objects(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Lines that are JSON objects. The last one may be half written; others that are wrong are counted in a note."""
    if not path.is_file():
        return
    bad, last_bad = 0, False
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                last_bad = not isinstance(row, dict)
                if isinstance(row, dict):
                    yield row
                else:
                    bad += 1
                half = last_bad and not line.endswith("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if last_bad and half:
        bad -= 1
    if bad:
        words = "lines could not be read and are" if bad > 1 else "line could not be read and is"
        notes.append(f"{path.name}: {bad:,} {words} left out")


def _document(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    notes.append(f"{path.name} could not be read")
    return {}


class _Reading:
    """Numbers by key, as compact as they come: runs of a hundred thousand steps log forty of them."""

    def __init__(self) -> None:
        self.steps: dict[str, array[float]] = {}
        self.values: dict[str, array[float]] = {}
        self.lost: dict[str, tuple[int, int]] = {}

    def add(self, row: dict[str, Any]) -> None:
        step = _finite(row.get("step"))
        if step is None or step < 0:
            return
        for key, value in row.items():
            number = _finite(value)
            if key == "step":
                continue
            if number is not None:
                self.steps.setdefault(key, array("d")).append(step)
                self.values.setdefault(key, array("d")).append(number)
            elif value is None or isinstance(value, float):
                first, count = self.lost.get(key, (int(step), 0))
                self.lost[key] = (first, count + 1)

    def curves(self) -> dict[str, Curve]:
        out = {}
        for key, found in self.steps.items():
            steps, values = np.frombuffer(found), np.frombuffer(self.values[key])
            order = np.argsort(steps, kind="stable")
            steps, values = steps[order], values[order]
            # A run that was resumed by other hands may have a step twice: the later line is the one that counts.
            last = np.append(steps[1:] != steps[:-1], True)
            out[key] = Curve(steps[last], values[last])
        return out


def _finite(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        return None
    return float(value)
