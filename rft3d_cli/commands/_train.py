"""What ``sft`` and ``grpo`` share on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rft3d_cli.commands._complete import complete_override, complete_recipe

if TYPE_CHECKING:
    from rft3d_cli.recipe import Recipe

RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", metavar="NAME", help="A shipped recipe (rft3d recipes list) or a file.",
        autocompletion=complete_recipe, show_default=False,
    ),
]  # fmt: skip
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Recipe values to change, as in lr=2e-6.",
        autocompletion=complete_override, show_default=False,
    ),
]  # fmt: skip
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="The run's folder; by default the recipe's output.",
                 show_default=False),
]  # fmt: skip
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in that folder; start it where it is new.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything that can be checked, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print the run's summary as one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the run's folder, and warnings.")]


def train(
    stage: str,
    recipe_name: str,
    overrides: list[str] | None,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    run: Callable[..., dict[str, Any]],
) -> None:
    """Load the recipe, then check it or run it; of several processes, the first one checks and talks."""
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms

    check_forms(as_json, quiet)
    with console.quietly(quiet):
        _train(stage, recipe_name, overrides, out, resume, dry_run, as_json, run)


def _train(
    stage: str,
    recipe_name: str,
    overrides: list[str] | None,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    run: Callable[..., dict[str, Any]],
) -> None:
    from rft3d_cli import console
    from rft3d_cli.recipe import load_recipe
    from rft3d_cli.train import processes

    main = processes.is_main_process()
    if not main:
        if dry_run:
            return
        console.hush()

    def load() -> Recipe:
        return load_recipe(recipe_name, overrides or [], stage=stage)

    recipe = load() if dry_run else processes.agreed(load)
    for short, full in recipe.aliases.items():
        console.note(f"  {short} -> {full}")
    folder = out or Path(recipe.config.output or f"runs/{recipe.name}")
    if dry_run:
        from rft3d_cli.errors import Rft3dError
        from rft3d_cli.train.preflight import preflight
        from rft3d_cli.train.run import check_folder

        report = preflight(recipe)
        try:
            check_folder(recipe, folder, resume=resume)
        except Rft3dError as error:
            report.problems.append(error)
        if as_json:
            console.print_json(
                {
                    "ok": not report.problems,
                    "checks": dict(report.lines),
                    "problems": [{"message": p.message, "exit_code": p.exit_code} for p in report.in_order()],
                    "warnings": report.warnings,
                    "budget": report.budget.document() if report.budget else None,
                    "cost": report.cost,
                    "out": str(folder),
                }
            )
        else:
            report.show()
        report.raise_if_any()
        console.note(f"  would write {folder}/")
        return
    summary = run(recipe, folder, resume=resume)
    processes.leave()
    if not main:
        return
    if as_json:
        console.print_json(summary)
    else:
        console.out().print(str(folder), markup=False)
