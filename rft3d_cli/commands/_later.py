"""Commands whose parameters are read from their functions when they are asked for, and not before.

Typer reads the parameters of every command to run one, or to print the names of all: with forty commands that takes
as long as importing Typer itself.
"""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand
from typer.models import CommandInfo


class _Later(TyperCommand):
    """A command that knows its name and help; its parameters and its callback come with the first look at them."""

    def __init__(self, *, info: CommandInfo, **settings: Any) -> None:
        super().__init__(**settings)
        self._info = info
        del self.params, self.callback

    def __getattr__(self, name: str) -> Any:
        if name not in ("params", "callback"):
            raise AttributeError(name)
        whole = typer.main.get_command_from_info(
            self._info, pretty_exceptions_short=False, rich_markup_mode=self.rich_markup_mode
        )
        self.params, self.callback = whole.params, whole.callback
        return getattr(self, name)


def later(app: typer.Typer) -> None:
    """Let the commands of an application, and those of its groups, wait with their parameters.

    Args:
        app: All its commands are registered.
    """
    for info in app.registered_commands:
        if isinstance(info.cls, partial) or info.callback is None:
            continue  # it waits already
        info.cls, info.callback = partial(_Later, info=copy(info)), _empty(info.callback)  # type: ignore[assignment]
    for group in app.registered_groups:
        if group.typer_instance is not None:
            later(group.typer_instance)


def _empty(function: Any) -> Any:
    """A function of the same name and docstring, without parameters."""

    def empty() -> None:
        raise AssertionError("a command is run by its own function")

    empty.__name__, empty.__doc__ = function.__name__, function.__doc__
    return empty
