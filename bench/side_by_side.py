"""What benchmarks share: cases run in turn, the machine they ran on, one document or a table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy

import rft3d_cli


def medians(cases: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Run every case in turn, round after round; the median and the least of each, seconds.

    Times are the thread's own (nothing here waits), so that other work on the machine disturbs them less.

    Args:
        cases: By name; each is given the number of its round.
        rounds: How often.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, call in cases.items():
            start = time.thread_time()
            call(number)
            times[name].append(time.thread_time() - start)
    return {name: (statistics.median(found), min(found)) for name, found in times.items()}


def document(bench: str, rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> dict[str, Any]:
    """One benchmark's results, with the machine and the versions."""
    return {
        "schema": 1,
        "bench": bench,
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "rft3d": rft3d_cli.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "rows": rows,
        "summary": dict(summary),
    }


def main(text: str, measure: Callable[[bool], dict[str, Any]], show: Callable[[dict[str, Any]], None]) -> None:
    """A benchmark's command line.

    Args:
        text: What it does, one line.
        measure: Given whether to be quick.
        show: Prints the table for people.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="the smallest size that shows the effect")
    options = parser.parse_args()
    found = measure(options.quick)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    versions = " ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(f"{found['machine']['cpu']}, one thread", versions, sep="\n", end="\n\n")
    show(found)


def cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
