"""The command line: wiring only.

Nothing heavy is imported here or at the top of a command's module, so that ``rft3d --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

# Torch reads these when it is first imported. Two threads that spin while another process wants the core turn steps
# of 0.4 s into 7.6 s; waiting passively costs nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Read when huggingface_hub is first imported.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import typer
import typer.main
from typer.core import TyperGroup

from rft3d_cli import __version__
from rft3d_cli.commands import (
    demo,
    doctor,
    evaluate,
    grpo,
    headroom,
    infer,
    inspect,
    models,
    prepare,
    recipes,
    report,
    rewards,
    sft,
)
from rft3d_cli.commands._later import later
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, SetupError, UsageError

LOCKED = "give yourself the right to it, or name another place"

ORDER = (
    "prepare",
    "inspect",
    "sft",
    "headroom",
    "grpo",
    "report",
    "recipes",
    "rewards",
    "models",
    "evaluate",
    "infer",
    "demo",
    "doctor",
)


class _Ordered(TyperGroup):
    """Commands in the order of the work, not in the order of registration."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=_Ordered,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start: rft3d demo, then rft3d recipes list. "
    "Exit codes: 0 ok, 1 failed, 2 usage or recipe, 3 data, 4 environment, 5 below threshold, 130 interrupted.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"rft3d {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; stands before the command (also RFT3D_DEBUG=1).")
    ] = False,
) -> None:
    """Teach video-language models 3D with rewards you can check."""
    if debug:
        os.environ["RFT3D_DEBUG"] = "1"


app.add_typer(prepare.app, name="prepare", rich_help_panel="Data")
app.command("inspect", rich_help_panel="Data", epilog=inspect.EPILOG)(inspect.inspect)
app.command("sft", rich_help_panel="Train", epilog=sft.EPILOG)(sft.sft)
app.command("headroom", rich_help_panel="Train", epilog=headroom.EPILOG)(headroom.headroom)
app.command("grpo", rich_help_panel="Train", epilog=grpo.EPILOG)(grpo.grpo)
app.command("report", rich_help_panel="Train", epilog=report.EPILOG)(report.report)
app.add_typer(recipes.app, name="recipes", rich_help_panel="Train")
app.add_typer(rewards.app, name="rewards", rich_help_panel="Train")
app.add_typer(models.app, name="models", rich_help_panel="Train")
app.add_typer(evaluate.app, name="evaluate", rich_help_panel="Use")
app.command("infer", rich_help_panel="Use", epilog=infer.EPILOG)(infer.infer)
app.command("demo", rich_help_panel="Start here", epilog=demo.EPILOG)(demo.demo)
app.command("doctor", rich_help_panel="Help", epilog=doctor.EPILOG)(doctor.doctor)
later(app)


def main(args: list[str] | None = None) -> None:
    """Run the command line; the exit code is the one that ``errors.py`` gives each kind of problem."""
    words = sys.argv[1:] if args is None else args
    try:
        code = app(words, standalone_mode=False)
    except Rft3dError as error:
        _stop(error, words)
    except typer.TyperException as error:
        message = error.format_message().rstrip(".")
        if not message:  # a group typed alone: its help is on the screen
            sys.exit(UsageError.exit_code)
        late = getattr(error, "option_name", None) == "--debug"
        _stop(UsageError(message, "--debug stands before the command: rft3d --debug ..." if late else None), words)
    except Exception as error:
        if os.environ.get("RFT3D_DEBUG"):
            raise
        first_line = (str(error).splitlines() or [""])[0]
        hint = "this is a bug or a case we did not foresee; repeat it as rft3d --debug ... to see where"
        if isinstance(error, PermissionError) and error.filename:
            _stop(DataError(f"{error.filename} cannot be read or written: {error.strerror}", LOCKED), words)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free some space, then repeat the command"
        _stop(Rft3dError(f"{type(error).__name__}: {first_line}", hint), words)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(error: Rft3dError, words: Sequence[str]) -> NoReturn:
    if os.environ.get("RFT3D_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if error.hint is None and isinstance(error, ProblemList | UsageError | DataError | SetupError):
        error.hint = f"{_command(words)} --help"
    from rft3d_cli.console import report

    report(error)
    sys.exit(error.exit_code)


def _command(words: Sequence[str]) -> str:
    """The command that a command line names: ``rft3d evaluate detection``."""
    path, group = ["rft3d"], typer.main.get_command(app)
    for word in words:
        known = getattr(group, "commands", {})
        if word in known:
            path, group = [*path, word], known[word]
    return " ".join(path)
