"""What people and programs see: results on stdout, everything else on stderr.

Rich is imported on first use, so that ``rft3d --help`` and scoring stay quick.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from rft3d_cli.errors import ProblemList, Rft3dError

if TYPE_CHECKING:
    from rich.console import Console

PROGRESS_SECONDS = 30.0
"""Off a terminal, progress is one line every so many seconds."""


@cache
def out() -> Console:
    """The console for results, on stdout."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, emoji=False)


@cache
def err() -> Console:
    """The console for everything that is not a result, on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


_others: list[bool] = []
_quiet: list[bool] = []


def hush() -> None:
    """Print no notes and warnings any more: this process works beside others, and the first one talks."""
    _others.append(True)


@contextmanager
def quietly(wanted: bool = True) -> Iterator[None]:
    """Print no notes and no progress within, where that is wanted; warnings and errors are still said."""
    if wanted:
        _quiet.append(True)
    try:
        yield
    finally:
        if wanted:
            _quiet.pop()


def note(text: str, style: str | None = None) -> None:
    """One line to stderr; square brackets are printed as they are."""
    if _others or _quiet:
        return
    err().print(clean(text), style=style, markup=False)


def warn(text: str) -> None:
    """One warning line to stderr."""
    if _others:
        return
    err().print(f"warning: {clean(text)}", style="yellow", markup=False)


def clean(text: str) -> str:
    r"""Text from a model or a file made safe for a terminal: control characters become spaces.

    >>> clean("a\x1b[31mb\tc")
    'a [31mb c'
    """
    return "".join(c if c == "\n" or c.isprintable() else " " for c in text)


def columns(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> None:
    """Columns to stdout, as wide as their widest cell however narrow the terminal: a cut number is a wrong number.

    Args:
        rows: Cells, the head first; all rows have as many.
        numbers: Whether all columns but the first stand to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [cell.rjust(w) if numbers else cell.ljust(w) for cell, w in zip(rest, widths[1:], strict=True)]
        out().print(clean("  ".join([first.ljust(widths[0]), *cells]).rstrip()), markup=False)


def jsonable(value: Any) -> Any:
    """``value`` with NaN and infinities as None and numpy scalars as Python's.

    >>> jsonable({"f1": float("nan"), "n": (1, 2)})
    {'f1': None, 'n': [1, 2]}
    """
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str | bytes):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(document: dict[str, Any]) -> None:
    """One JSON document to stdout; a ``schema`` field is added where it lacks one."""
    sys.stdout.write(json.dumps(jsonable({"schema": 1, **document}), ensure_ascii=False, indent=2) + "\n")


def report(error: Rft3dError) -> None:
    """An error as people see it: one line a problem, a blank line, what to do about each."""
    problems = error.problems if isinstance(error, ProblemList) else [error]
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    hint = "\n      ".join(hints) or error.hint
    from rich.text import Text

    for problem in problems:
        err().print(Text.assemble(("error:", "bold red"), f" {clean(problem.message)}"))
    if hint:
        err().print()
        err().print(Text.assemble(("hint:", "bold"), f" {clean(hint)}"))


def plain_progress() -> bool:
    """Whether progress is printed as lines instead of a bar; :func:`quietly` leaves them out too."""
    unwanted = bool(os.environ.get("RFT3D_NO_PROGRESS")) or os.environ.get("TERM") == "dumb"
    return bool(_quiet) or unwanted or not sys.stderr.isatty()


def duration(seconds: float) -> str:
    """A time span as people write it.

    >>> duration(7.4), duration(75), duration(3675)
    ('7.4 s', '1:15', '1:01:15')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"


class Ticker(Protocol):
    """What :func:`progress` yields."""

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` more as done."""


class _Lines:
    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.start = self.last = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.last >= PROGRESS_SECONDS:
            self.last = now
            left = (now - self.start) / self.done * (self.total - self.done)
            note(f"{self.label}: {self.done:,} of {self.total:,}, {duration(left)} left")


@contextmanager
def progress(label: str, total: int) -> Iterator[Ticker]:
    """Progress of a loop of known length: a bar on a terminal, otherwise a line now and then.

    Yields:
        An object with ``advance(steps=1)``.
    """
    if plain_progress():
        yield _Lines(label, total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(label, total=total)

        class Bar:
            def advance(self, steps: int = 1) -> None:
                bar.advance(task, steps)

        yield Bar()
