"""A report of runs: read, drawn and written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft3d_cli.files import atomic_path, write_bytes
from rft3d_cli.show.plot import Chart, lay_out
from rft3d_cli.show.plot_paint import framed, paint, sheet
from rft3d_cli.show.report_charts import Section, sections
from rft3d_cli.show.report_numbers import summary
from rft3d_cli.show.report_page import page
from rft3d_cli.show.report_runs import Run, differences, read_runs
from rft3d_cli.show.report_samples import Sample, samples

SHEET = "overview.png"
PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """What is known of some runs.

    Args:
        runs: At least one.
        sections: Their charts.
        samples: Answers of each run.
        summaries: Numbers of each run.
    """

    runs: list[Run]
    sections: list[Section]
    samples: list[tuple[Run, list[Sample]]]
    summaries: list[dict[str, Any]]

    def document(self) -> dict[str, Any]:
        """The numbers, for programs."""
        differing = {
            key: dict(zip((run.name for run in self.runs), values, strict=True))
            for key, values in differences(self.runs)
        }
        return {
            "runs": self.summaries,
            "differences": differing if len(self.runs) > 1 else {},
            "samples": {run.name: [sample.id for sample in found] for run, found in self.samples},
        }


def make_report(folders: Sequence[Path], count: int) -> Report:
    """Read runs and decide what is shown of them.

    Args:
        folders: Of runs; they may still be going on.
        count: Records whose answers are shown, of all runs together; at least one of each run where it is not 0.

    Raises:
        DataError: Where a folder holds no run, or none has logged a step.
    """
    runs = read_runs(folders)
    share = max(1, count // len(runs)) if count else 0
    return Report(runs, sections(runs), [(run, samples(run, share)) for run in runs], [summary(run) for run in runs])


def default_page(folders: Sequence[Path], runs: Sequence[Run]) -> Path:
    """Where the page goes when nobody says: into the folder of the one run, or here."""
    return runs[0].folder / PAGE if len(runs) == 1 else Path(PAGE)


def write_page(report: Report, path: Path) -> None:
    """Write the page.

    Raises:
        DataError: Where it cannot be written.
    """
    text = page(report.runs, report.summaries, report.sections, report.samples, differences(report.runs))
    write_bytes(path, text.encode())


def write_pictures(report: Report, folder: Path) -> list[Path]:
    """Write every chart as a PNG, and all of them in one.

    Returns:
        The files, the one with all charts first.

    Raises:
        DataError: Where they cannot be written.
    """
    charts = [chart for section in report.sections for chart in section.charts]
    painted = [paint(lay_out(chart)) for chart in charts]
    pictures = [(f"{name}.png", framed(one)) for name, one in zip(file_names(charts), painted, strict=True)]
    if painted:
        pictures.insert(0, (SHEET, sheet(painted, " · ".join(run.name for run in report.runs))))
    for name, picture in pictures:
        with atomic_path(folder / name) as temporary:
            picture.save(temporary, "PNG", compress_level=4)
    return [folder / name for name, _ in pictures]


def file_names(charts: Sequence[Chart]) -> list[str]:
    """Names for files of charts, from their titles; none twice.

    >>> import numpy as np
    >>> file_names([Chart("Held-out acc@0.25", []), Chart("KL", []), Chart("kl", [])])
    ['held-out-acc-0.25', 'kl', 'kl-2']
    """
    out: list[str] = []
    for chart in charts:
        name = re.sub(r"[^a-z0-9.]+", "-", chart.title.lower()).strip("-.")[:60] or "chart"
        taken = sum(other == name or other.rpartition("-")[0] == name for other in out)
        out.append(f"{name}-{taken + 1}" if name in out else name)
    return out
