"""``rft3d evaluate compare``: two evaluations of the same records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rft3d_cli.benchmarks.compare import Comparison, Evaluation
    from rft3d_cli.benchmarks.paired import Difference

EPILOG = (
    "$ rft3d evaluate compare eval/vsibench/tiny eval/vsibench/tiny-rft\n\n"
    "$ rft3d evaluate compare before after --show 10 --changed changed.jsonl --fail-if-worse"
)
LONGEST = 60
"""Characters of an answer that is shown."""

WHAT = "Folder of an evaluation, or its result or details."


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", show_default=False, help=WHAT)],
    b: Annotated[Path, typer.Argument(metavar="B", show_default=False, help=WHAT)],
    common: Annotated[
        bool, typer.Option("--common", help="Compare the records that both have, where the data differ.")
    ] = False,
    show: Annotated[int, typer.Option(min=0, metavar="INT", help="Print so many of the most changed records.")] = 0,
    changed: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Write each changed record, a line each.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="INT", help="Of intervals and tests.")] = 0,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail-if-worse", help="Exit with 5 where the first row is worse, or that cannot be told.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict alone.")] = False,
) -> None:
    """Compare two evaluations of the same records: B minus A, with intervals, and the records that changed."""
    from rft3d_cli import console
    from rft3d_cli.benchmarks.compare import compare as held
    from rft3d_cli.benchmarks.compare import read_evaluation
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.errors import ThresholdError, UsageError
    from rft3d_cli.files import atomic_writer

    check_forms(as_json, quiet)
    before, after = read_evaluation(a), read_evaluation(b)
    if changed is not None and changed.resolve() in _read(a, b):
        raise UsageError(f"--changed {changed} is what is compared", "name another file")
    found = held(before, after, common=common, seed=seed)
    if changed is not None:
        with atomic_writer(changed) as stream:
            stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in found.changed)
    for note in found.notes:
        console.warn(note)
    if as_json:
        console.print_json({**found.document(before, after, seed), "most_changed": found.changed[:show]})
    elif quiet:
        console.out().print(_verdict(found), markup=False)
    else:
        _print(before, after, found, show)
    if changed is not None and not quiet:
        console.note(f"  wrote   {changed}")
    head = found.rows[0]
    if fail_if_worse and found.verdict is None:
        raise ThresholdError(f"{head.key}: {_unknown(found)} whether it is worse")
    if fail_if_worse and found.verdict == "worse":
        raise ThresholdError(
            f"{head.key} is worse by {-(head.difference or 0):.2f}, 95% CI {_interval(head)}, p {_p(head)}"
        )


def _read(*sides: Path) -> list[Path]:
    names = ("details.jsonl", "result.json")
    return [(side / name if side.is_dir() else side).resolve() for side in sides for name in names]


def _print(before: Evaluation, after: Evaluation, found: Comparison, show: int) -> None:
    from rft3d_cli import console
    from rft3d_cli.benchmarks.compare import model_of
    from rft3d_cli.benchmarks.paired import TEST
    from rft3d_cli.benchmarks.result import ROUNDS

    def say(text: str) -> None:
        console.out().print(console.clean(text), markup=False)

    size = f"{found.records:,} records"
    if found.scenes is not None:
        size += f" of {found.scenes:,} scene{'' if found.scenes == 1 else 's'}"
    say(f"{found.benchmark or 'evaluations'}: {size}")
    for name, side in (("A", before), ("B", after)):
        model = model_of(side)
        say(f"{name}  {side.path}" + (f"  {model}" if model else ""))
    say("")
    rows = [
        (row.key, f"{row.n:,}", _number(row.a), _number(row.b), _gain(row), _interval(row), _p(row))
        for row in found.rows
    ]
    console.columns([("", "n", "A", "B", "B - A", "95% CI", "p"), *rows], numbers=True)
    say("")
    counts = found.counts
    say(f"records: {counts['better']:,} better, {counts['worse']:,} worse, {counts['same']:,} the same")
    say(_verdict(found))
    if found.rows[0].interval is not None:
        say(f"{ROUNDS:,} paired resamples of {found.unit}s; p: {TEST} by {found.unit}, not corrected for several rows")
    if found.asked_differently:
        say("")
        settings = [(key, _short(one), _short(two)) for key, (one, two) in found.asked_differently.items()]
        console.columns([("asked differently", "A", "B"), *settings])
    if show:
        say("")
        lines = []
        for line in found.changed[:show]:
            scores = f"{line['a']['score']:.2f} → {line['b']['score']:.2f}"
            lines.append(
                (line["id"], scores, _short(line["a"]["answer"]), _short(line["b"]["answer"]), line["b"]["why"] or "")
            )
        console.columns([("most changed", "score", "answer A", "answer B", "why B"), *lines])


def _verdict(found: Comparison) -> str:
    row, verdict = found.rows[0], found.verdict
    if row.difference is None:
        return f"{row.key}: not measured on both sides"
    if verdict is None:
        return f"{row.key}: B - A {_gain(row)}; {_unknown(found)}"
    if verdict in ("better", "worse"):
        return f"{row.key}: B is {verdict}, by {_gain(row)} ({_interval(row)})"
    low, high = row.interval or (0.0, 0.0)
    return f"{row.key}: no difference shown; B - A lies between {low:+.1f} and {high:+.1f}, p {_p(row)}"


def _unknown(found: Comparison) -> str:
    """Why there is no verdict."""
    from rft3d_cli.benchmarks.paired import FEWEST

    count = found.records if found.scenes is None else found.scenes
    return f"too few {found.unit}s to tell" if count < FEWEST else "too little is measured to tell"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _gain(row: Difference) -> str:
    return "–" if row.difference is None else f"{row.difference:+.1f}"


def _interval(row: Difference) -> str:
    return "" if row.interval is None else f"{row.interval[0]:+.1f} to {row.interval[1]:+.1f}"


def _p(row: Difference) -> str:
    if row.p is None:
        return ""
    return "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"


def _short(value: Any) -> str:
    """A setting or an answer in a cell."""
    if value is None:
        return "–"
    line = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
