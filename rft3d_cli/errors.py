"""The errors that people see.

::

    Rft3dError              1   the command could not do its work
    ├── UsageError          2   a wrong option, recipe or key
    ├── DataError           3   a file that is missing, unreadable or wrong
    ├── SetupError          4   missing weights, extra package or GPU
    └── ThresholdError      5   a stated threshold was not met

Each carries one line that says what is wrong and where, and a ``hint`` with what to do next. The
command line prints both and exits with the class's code; tracebacks appear only with ``--debug``.
"""

from __future__ import annotations

from collections.abc import Sequence


class Rft3dError(Exception):
    """A problem worth one line to a person.

    Args:
        message: What is wrong and where, one line, no full stop.
        hint: What to do next, if there is something: a command to copy, or a few words.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(Rft3dError):
    """A wrong option, recipe or recipe key."""

    exit_code = 2


class DataError(Rft3dError):
    """A data file that is missing, unreadable or wrong."""

    exit_code = 3


class SetupError(Rft3dError):
    """Something the machine lacks: weights, an optional package, a GPU."""

    exit_code = 4


class ThresholdError(Rft3dError):
    """A result below the threshold that the user stated."""

    exit_code = 5


class ProblemList(Rft3dError):
    """Several problems found before the start, reported together.

    The exit code is that of the first kind present in the order 2, 3, 4, so that scripts see the
    problem that has to be solved first.

    >>> both = ProblemList([SetupError("no weights"), DataError("no data")])
    >>> both.exit_code
    3
    """

    def __init__(self, problems: Sequence[Rft3dError]) -> None:
        if not problems:
            raise ValueError("a problem list needs at least one problem")
        self.problems = list(problems)
        super().__init__("; ".join(problem.message for problem in problems))
        self.exit_code = min(problem.exit_code for problem in problems)
        self.hint = next((p.hint for p in problems if p.exit_code == self.exit_code and p.hint), None)
