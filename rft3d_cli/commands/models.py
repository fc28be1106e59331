"""``rft3d models``: what models are here, and new tiny ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="List shipped models and create tiny ones.",
    epilog="$ rft3d models list\n\n$ rft3d models create-tiny tiny0 --geometry vggt",
)


@app.command("list", epilog="$ rft3d models list\n\n$ rft3d models list --json")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the models that a recipe can name on a fresh machine."""
    from rft3d_cli import console
    from rft3d_cli.errors import SetupError
    from rft3d_cli.models.loader import FRESH, SHIPPED, find_model

    rows = []
    for name, text in {**SHIPPED, **FRESH}.items():
        try:
            folder = find_model(name) if name in SHIPPED else None
        except SetupError:
            continue
        rows.append({"name": name, "text": text, "path": str(folder) if folder else None})
    if as_json:
        console.print_json({"models": rows})
        return
    for row in rows:
        console.out().print(f"{row['name']:<14}{row['text']}", markup=False)
    console.note("any other name is a folder, or a model on the hub: Qwen/Qwen2.5-VL-3B-Instruct")


@app.command("create-tiny", epilog="$ rft3d models create-tiny tiny0\n\n$ rft3d models create-tiny tiny1 --seed 1")
def create_tiny(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it; must not exist.")],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="INT", help="Of the initial weights.")] = 0,
    geometry: Annotated[
        Literal["none", "tiny", "vggt"],
        typer.Option(help="A geometry branch beside the vision tower: the stand-in, or VGGT's architecture, as small."),
    ] = "none",
) -> None:
    """Write a freshly initialised tiny model as an ordinary model directory."""
    from rft3d_cli import console
    from rft3d_cli.errors import DataError, UsageError
    from rft3d_cli.models import tiny

    if folder.exists():
        raise UsageError(f"{folder} exists", "name a new folder")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    tiny.create(folder, seed=seed, geometry=geometry)
    console.out().print(str(folder), markup=False)
