"""``rft3d recipes``: list, show, copy and check recipes, and list their keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rft3d_cli import console
from rft3d_cli.commands._complete import (
    complete_key,
    complete_override,
    complete_recipe,
    complete_recipe_or_override,
)

if TYPE_CHECKING:
    from rft3d_cli.recipe import Recipe
    from rft3d_cli.train.budget import Budget

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, copy and check recipes.",
    epilog="$ rft3d recipes list\n\n$ rft3d recipes show det train.lr=2e-6",
)


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A shipped recipe, or a file.", autocompletion=complete_recipe, show_default=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values to change, as in train.lr=2e-6.",
        autocompletion=complete_override,
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def _quiet(what: str) -> Any:
    return typer.Option("--quiet", "-q", help=f"Print only {what}.")


def _one_form(as_json: bool, quiet: bool) -> None:
    from rft3d_cli.commands.prepare._shared import check_forms

    check_forms(as_json, quiet)


@app.command(
    "list",
    epilog="$ rft3d recipes list\n\n$ rft3d recipes list --json",
)
def list_recipes(as_json: Json = False, quiet: Annotated[bool, _quiet("the names")] = False) -> None:
    """List the recipes that ship with rft3d."""
    from rft3d_cli.recipe import load_recipe, shipped_recipes

    _one_form(as_json, quiet)
    if quiet:
        typer.echo("\n".join(shipped_recipes()))
        return
    recipes = [load_recipe(path) for path in shipped_recipes().values()]
    if as_json:
        console.print_json({"recipes": [_described(recipe) for recipe in recipes]})
        return
    rows = [("NAME", "STAGE", "METHOD", "MODEL", "REWARDS")]
    for recipe in recipes:
        config = recipe.config
        rows.append(
            (recipe.name, config.stage, _method(recipe), config.model.name, ", ".join(config.rewards) or "\N{EN DASH}")
        )
    console.columns(rows)


@app.command(epilog="$ rft3d recipes show det\n\n$ rft3d recipes show det lr=2e-6 --yaml > mine.yaml")
def show(
    name: Name,
    overrides: Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print it as a recipe with every value.")] = False,
    as_json: Json = False,
    quiet: Annotated[bool, _quiet("the path of its file")] = False,
) -> None:
    """Show every value of a recipe and where it comes from."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.recipe import load_recipe, to_yaml
    from rft3d_cli.recipe_problems import value_text

    _one_form(as_json, quiet)
    if as_yaml and (as_json or quiet):
        raise UsageError(f"--yaml and --{'json' if as_json else 'quiet'} exclude each other")
    recipe = load_recipe(name, overrides or [])
    if quiet:
        typer.echo(recipe.path)
        return
    for short, key in recipe.aliases.items():
        console.note(f"{short} -> {key}")
    if as_yaml:
        typer.echo(to_yaml(recipe), nl=False)
        return
    computed, budget, cost = _budget(recipe)
    values = recipe.leaves() | recipe.computed | computed
    origin = recipe.origin | dict.fromkeys(computed, "computed")
    if as_json:
        keys = {key: {"value": value, "source": origin[key]} for key, value in values.items()}
        for key, (source, value) in recipe.before.items():
            keys[key]["before"] = {"source": source, "value": value}
        console.print_json(
            {
                **_described(recipe),
                "config": recipe.tree(),
                "keys": keys,
                "aliases": recipe.aliases,
                "budget": budget.document() if budget is not None else None,
                "cost": cost,
            }
        )
        return
    console.note(str(recipe.path))
    rows = [(f"# {recipe.name} \N{MIDDLE DOT} {recipe.config.stage}", "source", "")]
    for key, value in values.items():
        before = " ".join(map(value_text, recipe.before[key])) if key in recipe.before else ""
        rows.append((f"{key}: {value_text(value)}", origin[key], f"({before})" if before else ""))
    console.columns(rows)


@app.command(epilog="$ rft3d recipes copy det\n\n$ rft3d recipes copy tiny-det my-recipes/first.yaml")
def copy(
    name: Name,
    dest: Annotated[
        Path | None,
        typer.Argument(metavar="DEST", help="File or folder to write; by default ./NAME.yaml.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: Json = False,
    quiet: Annotated[bool, _quiet("its path")] = False,
) -> None:
    """Copy a recipe, comments and all, to change it."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.files import write_bytes
    from rft3d_cli.recipe import load_recipe

    _one_form(as_json, quiet)
    recipe = load_recipe(name)
    target = dest if dest is not None else Path()
    if target.is_dir():
        target = target / f"{recipe.name}.yaml"
    if target.exists() and not force:
        raise UsageError(f"{target} exists already", "name another file, or replace it with --force")
    write_bytes(target, recipe.path.read_bytes())
    if as_json:
        console.print_json({"name": recipe.name, "path": str(target)})
        return
    typer.echo(target)
    if not quiet and recipe.config.stage in ("sft", "grpo"):
        console.note(f"run it with: rft3d {recipe.config.stage} --recipe {target}")


@app.command(epilog="$ rft3d recipes cluster\n\n$ rft3d recipes cluster my-cluster")
def cluster(
    dest: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")] = Path("cluster"),
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: Json = False,
    quiet: Annotated[bool, _quiet("the folder")] = False,
) -> None:
    """Copy the files that start a run on many GPUs: accelerate's, and a Slurm script."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.files import write_bytes
    from rft3d_cli.resources import cluster_files

    _one_form(as_json, quiet)
    files = cluster_files()
    there = [dest / path.name for path in files if (dest / path.name).exists()]
    if there and not force:
        raise UsageError(f"{there[0]} exists already", "name another folder, or replace what is there with --force")
    for path in files:
        write_bytes(dest / path.name, path.read_bytes())
    if as_json:
        console.print_json({"folder": str(dest), "files": [path.name for path in files]})
        return
    for path in [dest] if quiet else [dest / path.name for path in files]:
        typer.echo(path)


@app.command(epilog="$ rft3d recipes check\n\n$ rft3d recipes check mine.yaml train.lr=2e-6")
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME... KEY=VALUE...",
            help="Recipes, and values to change in each; by default every shipped recipe.",
            autocompletion=complete_recipe_or_override,
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Annotated[bool, _quiet("what is wrong")] = False,
) -> None:
    """Check recipes: every key, value and rule. Data and weights are not looked at."""
    from rft3d_cli.errors import ProblemList, Rft3dError, UsageError
    from rft3d_cli.recipe import load_recipe, shipped_recipes
    from rft3d_cli.recipe_problems import together

    _one_form(as_json, quiet)
    overrides = [word for word in names or [] if "=" in word]
    recipes = [word for word in names or [] if "=" not in word] or [*shipped_recipes()]
    rows: list[dict[str, Any]] = []
    problems: list[Rft3dError] = []
    for name in recipes:
        try:
            recipe = load_recipe(name, overrides)
        except UsageError as error:
            found: Sequence[Rft3dError] = [error]
        except ProblemList as error:
            found = error.problems
        else:
            found = []
        stage = None if found else recipe.config.stage
        details = [{"message": problem.message, "hint": problem.hint} for problem in found]
        rows.append({"name": name, "ok": not found, "stage": stage, "problems": details})
        problems += [UsageError(f"{name}: {problem.message}", problem.hint) for problem in found]
    if as_json:
        console.print_json({"ok": not problems, "recipes": rows})
        raise typer.Exit(UsageError.exit_code if problems else 0)
    if not quiet:
        console.columns([(row["name"], row["stage"] or "", "ok" if row["ok"] else "wrong") for row in rows])
    if problems:
        raise together(problems)


@app.command(epilog="$ rft3d recipes keys train\n\n$ rft3d recipes keys rollout.group")
def keys(
    under: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY", help="A section or key; by default all.", autocompletion=complete_key, show_default=False
        ),
    ] = None,
    as_json: Json = False,
    quiet: Annotated[bool, _quiet("the keys' names")] = False,
) -> None:
    """List the keys of a recipe with their types, defaults and meanings."""
    from rft3d_cli.recipe_overrides import resolve
    from rft3d_cli.recipe_problems import value_text
    from rft3d_cli.recipe_schema import keys as all_keys
    from rft3d_cli.recipe_schema import stages_of

    _one_form(as_json, quiet)
    if under is not None:
        under = resolve(under, {})
    found = [
        key
        for key in all_keys().values()
        if key.kind != "section" and (under is None or key.key == under or key.key.startswith(f"{under}."))
    ]
    if as_json:
        entries = [
            {
                "key": key.key,
                "type": key.type,
                "default": key.default,
                "required": key.required,
                "stages": stages_of(key.key),
                "text": key.text,
            }
            for key in found
        ]
        console.print_json({"keys": entries})
        return
    if quiet:
        typer.echo("\n".join(key.key for key in found))
        return
    for key in found:
        default = "required" if key.required else f"default {value_text(key.default)}"
        stages = stages_of(key.key)
        only = f", only {' and '.join(stages)}" if len(stages) < 4 else ""
        typer.echo(f"{key.key}\n    {key.text}\n    {key.type}; {default}{only}")


def _budget(recipe: Recipe) -> tuple[dict[str, Any], Budget | None, dict[str, Any] | None]:
    """Tokens, memory and time where the model's sizes are known; no weight is loaded."""
    from rft3d_cli.errors import SetupError
    from rft3d_cli.train.budget import assumed_row, budget, known_frames
    from rft3d_cli.train.cost import cost, words, worth_saying
    from rft3d_cli.train.devices import USUAL
    from rft3d_cli.train.shape import shape_of

    config = recipe.config
    if config.stage not in ("sft", "grpo"):
        return {}, None, None
    try:
        shape = shape_of(config.model)
    except SetupError:
        return {}, None, None
    found = budget(config, shape, assumed_row(config, shape))
    row = found.row
    said: dict[str, Any] = {"video.tokens_per_frame": row.frame_tokens}
    if known_frames(config) is None:
        return {**said, "needs": f"{found.needs()} with {row.frames} frames a clip"}, found, None
    said |= {"video.tokens_per_clip": row.clip_tokens, "needs": found.needs()}
    if not worth_saying(shape):
        return said, found, None
    step = cost(config, shape, row)
    return {**said, "time": words(step, 8, USUAL)}, found, step.document(8, USUAL)


def _described(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "stage": recipe.config.stage,
        "summary": recipe.summary,
        "method": _method(recipe),
        "model": recipe.config.model.name,
        "rewards": recipe.config.rewards,
        "path": str(recipe.path),
        "sha256": recipe.sha256,
    }


def _method(recipe: Recipe) -> str:
    lora = recipe.config.model.lora
    return f"LoRA {lora.rank}" if lora is not None else "full"
