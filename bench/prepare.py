"""What preparing data costs, data set by data set, and what a second worker gains: 100 rooms in ScanNet's layout.

Whole commands, from their start to their exit, in turn: with ``--workers 1``, with ``--workers 2``, and, as a measure
of what the machine has to give, two commands of one worker each at the same time (for ``scannet``). Two cores that
share a unit, or that others use, give less than twice of one. That the files are the same is checked.

    python bench/prepare.py            a table
    python bench/prepare.py --json     one JSON document
    python bench/prepare.py --quick    fewer and smaller rooms
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from side_by_side import document, main

from rft3d_cli.prepare.pipeline import cpu_count

CASES = {"1 worker": (1, 1), "2 workers": (2, 1), "two commands at once": (1, 2)}
"""Workers of a command, and how many of it run at once."""
SHARED = ("rooms", "scannet", "scanrefer", "spatialqa")
"""Commands that share their scenes out among workers; the other ones are timed with one."""
PLAIN = "scannet"
"""The command that is also run twice at once."""


def measure(quick: bool) -> dict[str, Any]:
    """All commands in all cases, in turn; medians."""
    scenes, size, rounds = (12, "64x48", 1) if quick else (100, "96x72", 3)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = ["prepare", "rooms", "--scenes", str(scenes), "--size", size, "--val", "0"]
        rows += in_turn(folder, "rooms", built, "", 1)
        # What the first command made is what the others read.
        (folder / "rooms-0").rename(folder / "rooms")
        scans = ["--scans", str(folder / "rooms/scans")]
        scans += ["--annotations", str(folder / "rooms/embodiedscan_infos_train.json")]
        described = ["--descriptions", str(folder / "rooms/ScanRefer_filtered_train.json"), "--frames", "32"]
        asked = ["--questions", str(folder / "rooms/vsibench/train.jsonl"), "--videos", str(folder / "rooms/vsibench")]
        lines = {"scannet": scans, "scanrefer": [*scans, *described], "spatialqa": scans}
        lines["vsibench"] = [*asked, "--media-root", str(folder)]
        for command, words in lines.items():
            rows += in_turn(folder, command, ["prepare", command, *words], "train.jsonl", rounds)
    summary: dict[str, Any] = {"scenes": scenes, "size": size, "cores": cpu_count()}
    summary["same_bytes"] = all(row.pop("same") for row in rows)
    seconds = {(row["command"], row["case"]): row["seconds"] for row in rows}
    summary["speedup"] = {name: seconds[name, "1 worker"] / seconds[name, "2 workers"] for name in SHARED}
    summary["machine_gives"] = 2 * seconds[PLAIN, "1 worker"] / seconds[PLAIN, "two commands at once"]
    return document("prepare", rows, summary)


def in_turn(folder: Path, command: str, words: Sequence[str], record_file: str, rounds: int) -> list[dict[str, Any]]:
    """One command in all its cases, round after round: a row each, with whether all of them wrote the same.

    Args:
        folder: Where results go; those of the first case stay as ``COMMAND-0``.
        command: What it is called here.
        words: Its arguments, but for ``--workers`` and ``--out``.
        record_file: What is to be written in the folder of a result; empty where it is the folder itself.
        rounds: How often.
    """
    cases = dict(list(CASES.items())[: 3 if command == PLAIN else 2 if command in SHARED else 1])
    times: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
    digests = set()
    for _ in range(rounds):
        for number, (case, (workers, commands)) in enumerate(cases.items()):
            places = [folder / f"{command}-{number + i}" for i in range(commands)]
            for place in places:
                shutil.rmtree(place, ignore_errors=True)
            lines = [
                [*words, "--workers", str(workers), "--out", str(place / record_file), "--quiet"] for place in places
            ]
            times[case].append(timed(lines))
            digests |= {digest(place) for place in places}
    rows = []
    for case, found in times.items():
        wall, busy = (statistics.median(values) for values in zip(*found, strict=True))
        row = {"command": command, "case": case, "seconds": wall, "cpu_seconds": busy, "same": len(digests) == 1}
        rows.append(row | ({"records": count(folder / f"{command}-0" / record_file)} if record_file else {}))
    return rows


def count(path: Path) -> int:
    """Lines of a file."""
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def timed(commands: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Seconds from the start of the commands, at once, to the end of the last, and seconds of processors."""
    # One thread a process: the workers are what is measured.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    running = [
        subprocess.Popen([sys.executable, "-m", "rft3d_cli", *words], env=environment, stdout=subprocess.DEVNULL)
        for words in commands
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("a command failed, see above")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def digest(place: Path) -> str:
    """One hash of all files but cards, which name folders."""
    total = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        if path.is_file() and not path.name.endswith(".card.json"):
            total.update(f"{path.relative_to(place)}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    summary = found["summary"]
    for row in found["rows"]:
        line = f"prepare {row['command']}, {summary['scenes']} rooms, {row['case']}"
        records = f"{row['records']:,} records" if "records" in row else ""
        print(f"{line:50}{row['seconds']:7.1f} s{row['cpu_seconds']:9.1f} s of processors{records:>18}".rstrip())
    print(f"\nwhole commands on {summary['cores']} cores, each process one thread; frames of {summary['size']}")
    for command, gain in summary["speedup"].items():
        print(f"prepare {command}: 2 workers are {gain:.2f} times as fast as 1")
    print(f"the machine: two commands at once get {summary['machine_gives']:.2f} times as much done as one")
    print("the same bytes" if summary["same_bytes"] else "DIFFERENT BYTES")


if __name__ == "__main__":
    main("Time preparing data, with one worker and with two.", measure, show)
