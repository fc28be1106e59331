"""A prepare's report for people and for programs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rft3d_cli.console import duration
from rft3d_cli.prepare.heldout import REASON
from rft3d_cli.prepare.pipeline import Report

NAMED = 3
"""Scenes named in a line."""


def lines(report: Report) -> list[str]:
    """The report in a few lines of text.

    Args:
        report: What was done.
    """
    counted = {key: value for key, value in report.counts.items() if isinstance(value, int) and key != "records"}
    numbers = [f"{key.replace('_', ' ')} {value:,}" for key, value in counted.items() if value or key != "bad"]
    out = ["  " + "   ".join([*numbers, duration(report.seconds)])]
    head = "skipped"
    for what, reason, count, names in _groups(report):
        some = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        out.append(f"  {head:<8} {count:,} {what}{'' if count == 1 else 's'} ({reason}{f': {some}' if some else ''})")
        head = ""
    if report.rejects_file is not None and not report.dry_run:
        out[-1] += f" -> {report.rejects_file}"
    if report.dry_run:
        out.append(f"  would write {report.out}  ({report.records:,} records)")
    else:
        digest = f", sha256 {report.digest[:8]}" if report.digest else ""
        out.append(f"  wrote    {report.out}  ({report.records:,} records{digest})   {report.card}")
    return out


def warnings(report: Report) -> dict[str, list[str]]:
    """Scenes by warning: what the parts warned of, and what was left out because it is evaluated on.

    Args:
        report: What was done.
    """
    rows = [row for row in report.rejects if row["reason"].startswith(REASON)]
    if not rows:
        return report.warnings
    what = rows[0]["what"]
    some = f"{len(rows):,} {what}{'' if len(rows) == 1 else 's'}"
    text = f"{some} left out of the train split: scenes that are evaluated on; --allow-evaluation-scenes keeps them"
    return {**report.warnings, text: list(dict.fromkeys(row["scene"] for row in rows))}


def document(report: Report, command: str) -> dict[str, Any]:
    """The report as one JSON document.

    Args:
        report: What was done.
        command: For example ``prepare scannet``.
    """
    rejects: dict[str, dict[str, int]] = {}
    for what, reason, count, _ in _groups(report):
        rejects.setdefault(what, {})[reason] = count
    return {
        "command": command,
        "out": str(report.out),
        "records": report.records,
        "sha256": report.digest,
        "media_root": str(report.media_root),
        "card": None if report.dry_run else str(report.card),
        "rejects_file": None if report.dry_run or report.rejects_file is None else str(report.rejects_file),
        "counts": report.counts,
        "rejects": rejects,
        "warnings": warnings(report),
        "dry_run": report.dry_run,
        "seconds": round(report.seconds, 3),
    }


def _groups(report: Report) -> list[tuple[str, str, int, list[str]]]:
    counts = Counter((row["what"], row["reason"]) for row in report.rejects)
    out = []
    for (what, reason), count in counts.items():
        rows = [row for row in report.rejects if (row["what"], row["reason"]) == (what, reason)]
        names = [row["scene"] for row in rows] if what == "scene" else []
        out.append((what, reason, count, names))
    return out
