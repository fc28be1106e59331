"""``rft3d rewards``: what rewards there are, what they say of good and bad answers, and of saved ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rft3d_cli import console
from rft3d_cli.commands._complete import complete_recipe, complete_reward

if TYPE_CHECKING:
    from rft3d_cli.rewards.check import Check
    from rft3d_cli.rewards.registry import Reward, RewardSet

app = typer.Typer(
    no_args_is_help=True,
    help="List and explain rewards, check them on targets, score saved answers.",
    epilog="$ rft3d rewards list\n\n$ rft3d rewards check data/rooms/val.jsonl\n\n"
    "$ rft3d rewards score data/rooms/val.jsonl eval/detection/predictions.jsonl --json",
)

SHOWN = 5
"""Failures that are listed."""


Records = Annotated[Path, typer.Argument(metavar="RECORDS", help="Records, as rft3d prepare writes them.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--reward", "-r", metavar="NAME", autocompletion=complete_reward, show_default=False,
                 help="A reward, or FILE.py:FUNCTION; repeat for more. By default all that ship."),
]  # fmt: skip
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", metavar="NAME", help="Take rewards, weights and options from a recipe.",
                 autocompletion=complete_recipe, show_default=False),
]  # fmt: skip
Style = Annotated[
    Literal["direct", "think"] | None,
    typer.Option(help="The form that choices and numbers must have; by default the recipe's, or direct.",
                 show_default=False),
]  # fmt: skip
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="INT", help="Read the first so many records.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def _quiet(what: str) -> Any:
    return typer.Option("--quiet", "-q", help=f"Print only {what}.")


def _one_form(as_json: bool, quiet: bool) -> None:
    from rft3d_cli.commands.prepare._shared import check_forms

    check_forms(as_json, quiet)


@app.command("list", epilog="$ rft3d rewards list\n\n$ rft3d rewards list --json")
def list_rewards(as_json: Json = False, quiet: Annotated[bool, _quiet("the names")] = False) -> None:
    """List the rewards that a recipe can name."""
    from rft3d_cli.rewards.registry import get, names

    _one_form(as_json, quiet)
    if quiet:
        typer.echo("\n".join(names()))
        return
    items = [get(name) for name in names()]
    if as_json:
        console.print_json({"rewards": [_described(item) for item in items]})
        return
    console.columns([(item.name, item.task, _plain(item.summary)) for item in items])
    console.note("your own: FILE.py:FUNCTION; more on one: rft3d rewards explain NAME")


@app.command(epilog="$ rft3d rewards explain det_f1\n\n$ rft3d rewards explain rewards/mine.py:near_wall")
def explain(
    name: Annotated[
        str, typer.Argument(metavar="NAME", autocompletion=complete_reward, help="A name, or FILE.py:FUNCTION.")
    ],
    as_json: Json = False,
    quiet: Annotated[bool, _quiet("its first line")] = False,
) -> None:
    """Explain one reward: what it pays for, its options and where it comes from."""
    from rft3d_cli.rewards.registry import get

    _one_form(as_json, quiet)
    item = get(name)
    if item.notice:
        console.note(item.notice)
    if as_json:
        console.print_json(_described(item))
        return
    if quiet:
        typer.echo(console.clean(_plain(item.summary)))
        return
    shown = console.out()
    records = "records of all tasks" if item.task == "all" else f"{item.task} records"
    shown.print(f"{item.name}, for {records}", markup=False)
    shown.print()
    shown.print(_wrapped(item.text or "no docstring", shown.width), markup=False)
    if item.options:
        shown.print()
        # A recipe has no key for the options of code that it does not know.
        shown.print("options:" if item.path else "options, under reward_options in a recipe:", markup=False)
        for option, default in item.options.items():
            shown.print(f"  {option}: {default}", markup=False)
            if text := item.option_texts[option]:
                shown.print(_wrapped(text, shown.width, "    "), markup=False)
    if item.path is not None:
        shown.print()
        shown.print(f"from {item.path}, sha256 {item.sha256}", markup=False)


@app.command(
    epilog="$ rft3d rewards check data/rooms/val.jsonl\n\n$ rft3d rewards check data/det/train.jsonl --recipe det"
)
def check(
    records: Records,
    names: Names = None,
    recipe: RecipeName = None,
    answer_style: Style = None,
    limit: Limit = None,
    sample: Annotated[
        int, typer.Option(min=1, metavar="INT", help="Records, of all tasks, of which worse answers are made.")
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, metavar="INT", help="Of the ways in which answers get worse.")] = 0,
    as_json: Json = False,
    quiet: Annotated[bool, _quiet("what is wrong")] = False,
) -> None:
    """Score every target against itself, and answers that get worse: moved, turned, doubled, needless, empty.

    Exits with 5 where a target at full precision does not score exactly 1. Rewards from your own files and `length` are
    shown and not judged.
    """
    from rft3d_cli.errors import DataError, ThresholdError
    from rft3d_cli.records import read_records
    from rft3d_cli.rewards import check as checking

    _one_form(as_json, quiet)
    chosen = _rewards(names, recipe, answer_style)
    found = read_records(records, limit=limit).records
    with console.quietly(quiet), console.progress("checking", len(found)) as ticker:
        result = checking.check(found, chosen, sample=sample, seed=seed, done=ticker.advance)
    if not result.tasks:
        tasks = ", ".join(sorted({record.task for record in found}))
        raise DataError(f"{records}: no reward applies to its records ({tasks})", "see rft3d rewards list")
    if as_json:
        console.print_json({**_settings(chosen, recipe), "sample": sample, "seed": seed, **_check_document(result)})
    elif not quiet:
        _print_check(result)
    if result.failures:
        first = result.failures[0]
        count = len({failure.id for failure in result.failures})
        raise ThresholdError(
            f"{count:,} of {sum(result.tasks.values()):,} targets do not score 1: "
            f"{first.id} gets {first.value:.9g} from {first.reward}",
            "look at the record, and at the reward's options (rft3d rewards explain); mend it or leave it out",
        )


@app.command(
    epilog="$ rft3d rewards score val.jsonl predictions.jsonl\n\n"
    "$ rft3d rewards score val.jsonl predictions.jsonl --recipe det --json"
)
def score(
    records: Records,
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help='{"id", "prediction"} a line.')],
    names: Names = None,
    recipe: RecipeName = None,
    answer_style: Style = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Annotated[bool, _quiet("a recipe's total, else each reward's name and mean")] = False,
) -> None:
    """Reward saved answers as training would; --json tells each record's values, parts and reasons."""
    from rft3d_cli.records import read_predictions, read_records
    from rft3d_cli.rewards.scored import score_predictions

    _one_form(as_json, quiet)
    chosen = _rewards(names, recipe, answer_style)
    source = read_records(records).records
    found, texts = source[:limit], read_predictions(predictions)
    with console.quietly(quiet), console.progress("scoring", len(found)) as ticker:
        document = score_predictions(found, texts, chosen, weighted=recipe is not None, done=ticker.advance)
    known = {record.id for record in source}
    document["unknown_ids"] = sum(name not in known for name in texts)
    if document["missing"]:
        console.warn(f"{document['missing']:,} of {len(found):,} records have no prediction and are scored as empty")
    if document["unknown_ids"]:
        console.warn(f"{document['unknown_ids']:,} predictions are for ids that the records do not have")
    if as_json:
        console.print_json({**_settings(chosen, recipe), **document})
        return
    means = document["rewards"].items()
    if quiet:
        totals = [("", document["total"])] if recipe is not None else [(name, row["mean"]) for name, row in means]
        for name, value in totals:
            typer.echo(f"{_short(name)} {_number(value)}".strip())
        return
    rows = [(_short(name), f"{row['n']:,}", _number(row["mean"])) for name, row in means if row["n"]]
    console.columns([("reward", "n", "mean"), *rows], numbers=True)
    if recipe is not None:
        console.out().print(f"total, weighted as in {recipe}: {_number(document['total'])}", markup=False)


def _rewards(names: list[str] | None, recipe: str | None, style: str | None) -> RewardSet:
    """The rewards of a recipe, those that were named, or all that ship; each of the latter two with weight 1."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.rewards import registry

    if recipe is not None and names:
        raise UsageError("--recipe and --reward exclude each other", "a recipe names its own rewards")
    weights = dict.fromkeys(names or registry.names(), 1.0)
    options: dict[str, Any] = {"answer_style": "direct"}
    if recipe is not None:
        from rft3d_cli.recipe import load_recipe

        config = load_recipe(recipe).config
        if not config.rewards:
            raise UsageError(f"recipe {recipe} has no rewards", "name a recipe of stage grpo: rft3d recipes list")
        weights, options = dict(config.rewards), config.reward_options.model_dump()
    if style is not None:
        options["answer_style"] = style
    chosen = registry.RewardSet(weights, options)
    for item in chosen.rewards.values():
        if item.notice:
            console.note(item.notice)
    return chosen


def _described(item: Reward) -> dict[str, Any]:
    return {
        "name": item.name,
        "task": item.task,
        "summary": _plain(item.summary),
        "text": _plain(item.text),
        "options": {name: _plain_value(value) for name, value in item.options.items()},
        "option_texts": {name: _plain(text) for name, text in item.option_texts.items()},
        "path": str(item.path) if item.path is not None else None,
        "sha256": item.sha256,
    }


def _wrapped(text: str, width: int, indent: str = "") -> str:
    """A docstring's text for a screen: paragraphs flow, indented lines stay as they are."""
    import textwrap

    paragraphs = console.clean(_plain(text)).split("\n\n")
    return "\n\n".join(
        part if part.startswith(" ") or "\n " in part
        else textwrap.fill(part, min(width, 100), initial_indent=indent, subsequent_indent=indent)
        for part in paragraphs
    )  # fmt: skip


def _plain_value(value: Any) -> Any:
    """An option's default as JSON has it; anything else as Python writes it."""
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _plain(text: str) -> str:
    return text.replace("``", "")


def _settings(chosen: RewardSet, recipe: str | None) -> dict[str, Any]:
    """What makes a document repeatable: where the rewards came from, their weights and options."""
    return {
        "recipe": recipe,
        "weights": chosen.weights,
        "format": chosen.format,
        "options": {
            name: {option: _plain_value(chosen.option(name, option)) for option in item.options}
            for name, item in chosen.rewards.items()
            if item.options
        },
    }


def _check_document(result: Check) -> dict[str, Any]:
    return {
        "ok": not result.failures,
        "n": sum(result.tasks.values()),
        "tasks": result.tasks,
        "skipped": result.skipped,
        "rounding_ceiling": {task: result.ceiling(task) for task in result.tasks},
        "rows": [
            {
                "task": row.task,
                "variant": row.variant,
                "reward": row.reward,
                "n": len(row.values),
                "mean": row.mean,
                "min": min(row.values),
            }
            for row in result.rows
        ],
        "failures": [vars(failure) for failure in result.failures],
    }


def _print_check(result: Check) -> None:
    """A table a task: kinds of answers by rewards."""
    for task, records in result.tasks.items():
        own = [row for row in result.rows if row.task == task]
        names = list(dict.fromkeys(row.reward for row in own))
        means: dict[str, dict[str, str]] = {}
        counts: dict[str, int] = {}
        for row in own:
            means.setdefault(row.variant, {})[row.reward] = _number(row.mean)
            counts[row.variant] = max(counts.get(row.variant, 0), len(row.values))
        console.out().print(f"{task}, {records:,} record{'s' if records > 1 else ''}", markup=False)
        rows = [
            (variant, f"{counts[variant]:,}", *(found.get(name, "–") for name in names))
            for variant, found in means.items()
        ]
        console.columns([("answer", "n", *map(_short, names)), *rows], numbers=True)
        ceiling = ", ".join(f"{name} {value:.4g}" for name, value in result.ceiling(task).items() if value < 1)
        console.out().print(f"rounding ceiling (answers as taught): {ceiling or 'none'}\n", markup=False)
    if result.skipped:
        console.note(f"  {result.skipped:,} records have no reward")
    for failure in result.failures[:SHOWN]:
        console.warn(f"{failure.id}: {failure.reward} gives the target {failure.value:.9g} ({failure.why})")
    if len(result.failures) > SHOWN:
        console.warn(f"and {len(result.failures) - SHOWN:,} more; --json lists them all")


def _short(name: str) -> str:
    """A reward's name in a table: the function's, for one from a file."""
    return name.rpartition(":")[2]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
