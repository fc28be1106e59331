"""``rft3d models``: what models are here, what one holds, copies of it for others, and new tiny ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rft3d_cli.commands._complete import complete_model

if TYPE_CHECKING:
    from rft3d_cli.models.check import Held

app = typer.Typer(
    no_args_is_help=True,
    help="List models, check one, merge adapters, export for other programs, and create tiny ones.",
    epilog="$ rft3d models list\n\n$ rft3d models check runs/det",
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A run, a folder, a shipped model, or a fetched one of the hub.",
        autocompletion=complete_model,
    ),
]  # fmt: skip
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write it; must not exist.")]
Format = Annotated[
    Literal["same", "bfloat16", "float32"],
    typer.Option("--dtype", help="Number format of the weights; same is that of the files."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the model's folder.")]


@app.command("list", epilog="$ rft3d models list\n\n$ rft3d models list --json")
def list_models(
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names of those that are here.")] = False,
) -> None:
    """List the models that rft3d knows: those that are here, and how to fetch the others."""
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.models.shelf import shelf

    check_forms(as_json, quiet)
    rows = shelf()
    if quiet:
        typer.echo("\n".join(row.name for row in rows if row.here))
        return
    if as_json:
        console.print_json({"models": [row.document() for row in rows]})
        return
    for title, here in (("here", True), ("to fetch", False)):
        chosen = [row for row in rows if row.here is here]
        if not chosen:
            continue
        console.out().print(title, style="bold")
        console.columns([[f"  {row.name if here else row.command}", *row.cells] for row in chosen])
    for row in rows:
        if row.incomplete:
            console.warn(f"{row.name} was fetched in part: {row.incomplete}")
    console.note("any other name is a folder, a run, or a model on the hub; rft3d models check MODEL says more")


@app.command(epilog="$ rft3d models check tiny\n\n$ rft3d models check runs/det --json")
def check(name: Name, as_json: Json = False, quiet: Quiet = False) -> None:
    """Say what a model's folder holds and whether it would load, without loading it.

    Exit code 4 where it would not, with everything that is in the way.
    """
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.errors import ProblemList
    from rft3d_cli.models.check import check_model

    check_forms(as_json, quiet)
    held = check_model(name)
    if as_json:
        console.print_json(_document(held))
    elif quiet:
        typer.echo(held.folder)
    else:
        _print(held)
    if held.problems:
        raise ProblemList(held.problems)


@app.command(epilog="$ rft3d models merge runs/vsi --out models/vsi\n\n"
                    "$ rft3d models merge runs/vsi --out models/vsi --dtype bfloat16")  # fmt: skip
def merge(name: Name, out: Out, dtype: Format = "same", as_json: Json = False, quiet: Quiet = False) -> None:
    """Write a run's LoRA adapters and the model under them as one ordinary model."""
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.models import export as writing

    check_forms(as_json, quiet)
    writing.merge(name, out, dtype=dtype)
    _written(out, as_json, {"model": name, "dtype": dtype})


@app.command(epilog="$ rft3d models export runs/det --out models/det --layout vgllm\n\n"
                    "$ rft3d models export runs/det --out models/det-plain --layout plain")  # fmt: skip
def export(
    name: Name,
    out: Out,
    layout: Annotated[
        Literal["vgllm", "plain", "fused"],
        typer.Option(help="vgllm: for VG-LLM's own code. plain: a stock Qwen2.5-VL for transformers and vLLM, WITHOUT "
                          "the geometry branch. fused: rft3d's own."),
    ],
    dtype: Format = "same",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Write a model for other programs; adapters are merged first."""
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.models import export as writing

    check_forms(as_json, quiet)
    told = list(writing.export(name, out, layout, dtype=dtype))
    for words in told:
        console.warn(words)
    _written(out, as_json, {"model": name, "layout": layout, "dtype": dtype, "warnings": told})


@app.command("create-tiny", epilog="$ rft3d models create-tiny tiny0\n\n$ rft3d models create-tiny tiny1 --seed 1")
def create_tiny(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it; must not exist.")],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="INT", help="Of the initial weights.")] = 0,
    geometry: Annotated[
        Literal["none", "tiny", "vggt"],
        typer.Option(help="A geometry branch beside the vision tower: the stand-in, or VGGT's architecture, as small."),
    ] = "none",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a freshly initialised tiny model as an ordinary model directory."""
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.errors import DataError, UsageError
    from rft3d_cli.models import tiny

    check_forms(as_json, quiet)
    if folder.exists():
        raise UsageError(f"{folder} exists", "name a new folder")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    tiny.create(folder, seed=seed, geometry=geometry)
    _written(folder, as_json, {"seed": seed, "geometry": geometry})


def _written(folder: Path, as_json: bool, about: dict[str, Any]) -> None:
    """Say where a model was written."""
    from rft3d_cli import console

    if as_json:
        console.print_json({"path": str(folder), **about})
    else:
        console.out().print(str(folder), markup=False)


def _document(held: Held) -> dict[str, Any]:
    from dataclasses import asdict

    from rft3d_cli.models.check import LAYOUTS

    return {
        **asdict(held),
        "folder": str(held.folder),
        "words": LAYOUTS[held.layout],
        "ok": not held.problems,
        "problems": [{"message": problem.message, "hint": problem.hint} for problem in held.problems],
    }


def _print(held: Held) -> None:
    from rft3d_cli import console
    from rft3d_cli.models.check import LAYOUTS, unused

    branch = f"a {held.branch} geometry branch" if held.branch else "no geometry branch"
    rows = [("layout", LAYOUTS[held.layout]), ("folder", str(held.folder))]
    if held.layout != "vggt":
        rows.append(("model", f"{held.architecture or 'it does not say what it is'}, {branch}"))
    if held.adapters is not None:
        a = held.adapters
        rows.append(("adapters", f"of {a.base}: rank {a.rank}, alpha {a.alpha:g}, {a.parameters:,} parameters, on "
                                 f"{', '.join(a.targets)}" + "".join(f"; {m} in full" for m in a.in_full)))  # fmt: skip
    heads = unused(held.parts)
    rows.append(
        ("parameters", f"{held.parameters:,}" + (f", and {heads:,} in heads that nothing uses" if heads else ""))
    )
    rows += [("", f"{part:<18}{count:>15,}") for part, count in held.parts.items()]
    rows.append(("format", ", ".join(held.dtypes)))
    rows.append(("on disk", f"{held.bytes / 1e9:,.3f} GB in {held.files} weight file{'s' * (held.files != 1)}"))
    if held.layout != "vggt":
        there, gone = ([w for w, is_there in held.beside.items() if is_there is want] for want in (True, False))
        rows.append(("beside", (", ".join(there) or "nothing") + (f"; without {', '.join(gone)}" if gone else "")))
        rows.append(("weights", _weights(held)))
        order = {"intrinsic": "intrinsic ZXY, as rft3d's", "extrinsic": "extrinsic zxy, not rft3d's", None: "not known"}
        rows.append(("angles", order[held.angles]))
    if held.defaults is not None:
        frames = ", ".join(f"{task} {count}" for task, count in held.defaults.frames.items())
        rows += [("frames", frames), ("trained on", ", ".join(held.defaults.datasets) or "nothing yet")]
        rows += [("note", held.defaults.note)] if held.defaults.note else []
    if held.recipes:
        fits = ", ".join(recipe + (f" with {change}" if change else "") for recipe, change in held.recipes.items())
        rows.append(("recipes", f"{fits}; each with model.name={held.name}"))
    console.out().print(console.clean(held.name), style="bold", markup=False)
    for title, text in rows:
        console.out().print(console.clean(f"  {title:<12}{text}"), markup=False)


def _weights(held: Held) -> str:
    if not held.compared:
        return "not compared with a model"
    wrong = {"missing or of another shape": held.missing, "without a place": held.unexpected}
    return "; ".join(f"{len(names):,} {what}" for what, names in wrong.items() if names) or "all there"
