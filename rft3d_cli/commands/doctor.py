"""``rft3d doctor``: what works on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rft3d_cli.doctor import Report

EPILOG = "$ rft3d doctor\n\n$ rft3d doctor --json"

DASH = "\N{EN DASH}"


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what is wrong.")] = False,
) -> None:
    """Report what works on this machine, and what to do about the rest."""
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.errors import ProblemList, SetupError

    check_forms(as_json, quiet)
    try:
        from rft3d_cli.doctor import examine
    except ImportError as error:
        raise SetupError(f"{error.name or error} cannot be imported", f"pip install {error.name}") from None
    report = examine()
    if as_json:
        console.print_json(_document(report))
        raise typer.Exit(SetupError.exit_code if report.problems else 0)
    if not quiet:
        _show(report)
    for text in report.warnings:
        console.warn(text)
    if report.problems:
        raise report.problems[0] if len(report.problems) == 1 else ProblemList(report.problems)


def _show(report: Report) -> None:
    from rft3d_cli import console
    from rft3d_cli.doctor import OPTIONAL, in_gib
    from rft3d_cli.models.known import fetch_command

    known = report.machine
    console.out().print(
        f"rft3d {known['rft3d']}, Python {known['python']}, {known['system']}, {known['cores']} cores, "
        f"{in_gib(known['memory'])} of memory",
        markup=False,
    )
    _section("Packages")
    console.columns(
        [
            (
                "  missing" if package.version is None else "  ok" if package.ok else "  other",
                package.name,
                package.version or DASH,
                package.window,
            )
            for package in report.packages
        ]
    )
    _section("GPU")
    for gpu in report.gpus:
        computes = "bfloat16" if gpu.bfloat16 else "no bfloat16: set model.dtype=float32"
        console.out().print(f"  {gpu.name}, {in_gib(gpu.memory)}, {computes}", markup=False)
    if not report.gpus:
        console.out().print(f"  {report.gpu_note or 'unknown'}", markup=False)
    _section("Video")
    console.columns(
        [("  ok" if there else "  missing", name) for name, there in report.codecs.items()] or [("  none",)]
    )
    _section("Optional packages")
    console.columns(
        [
            ("  ok" if found else f"  {DASH}", name, found or "", OPTIONAL[name])
            for name, found in report.optional.items()
        ]
    )
    _section("Weights from the hub")
    rows = []
    for weights in report.weights:
        if weights.problem is not None:
            rows.append(("  broken", weights.name, weights.problem))
        elif weights.folder is None:
            rows.append((f"  {DASH}", weights.name, fetch_command(weights.name)))
        else:
            rows.append(("  ok", weights.name, f"{weights.parameters:,} parameters"))
    console.columns(rows)
    _section("Recipes")
    for ready in report.recipes:
        needs = f", {ready.budget.needs()}" if ready.budget is not None else ""
        console.out().print(f"  {'not yet' if ready.problems else 'ready':<8} {ready.recipe.name}{needs}", markup=False)
        for problem in ready.problems:
            console.out().print(f"             {console.clean(problem.message)}", markup=False)
            if problem.hint:
                console.out().print(f"               {console.clean(problem.hint)}", markup=False)


def _section(title: str) -> None:
    from rft3d_cli import console

    console.out().print(f"\n{title}", style="bold", markup=False)


def _document(report: Report) -> dict[str, Any]:
    from rft3d_cli.doctor import OPTIONAL

    return {
        "ok": not report.problems,
        "machine": report.machine,
        "packages": [{"name": p.name, "version": p.version, "window": p.window, "ok": p.ok} for p in report.packages],
        "gpus": [{"name": gpu.name, "memory": gpu.memory, "bfloat16": gpu.bfloat16} for gpu in report.gpus],
        "gpu_note": report.gpu_note or None,
        "video": report.codecs,
        "optional": [
            {"name": name, "version": found, "for": OPTIONAL[name]} for name, found in report.optional.items()
        ],
        "weights": [
            {
                "name": weights.name,
                "path": str(weights.folder) if weights.folder else None,
                "parameters": weights.parameters or None,
                "problem": weights.problem,
            }
            for weights in report.weights
        ],
        "recipes": [
            {
                "name": ready.recipe.name,
                "ok": not ready.problems,
                "budget": ready.budget.document() if ready.budget is not None else None,
                "problems": [{"message": problem.message, "hint": problem.hint} for problem in ready.problems],
            }
            for ready in report.recipes
        ],
        "problems": [{"message": problem.message, "hint": problem.hint} for problem in report.problems],
        "warnings": report.warnings,
    }
