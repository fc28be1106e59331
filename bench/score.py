"""What scoring saved answers costs as a whole process: 5,130 predictions for VSI-Bench, from a shell and back.

The questions and predictions are made up, as many of each type and scenes as the benchmark has. In turn, as processes:

    help      rft3d --help, which every command pays for,
    brief     rft3d evaluate vsibench --brief: the official score alone,
    default   the same with intervals and the second scorer, and
    authors   the public scorer's arithmetic from its description, alone in a file: json, numpy, and pandas for the
              means where it is installed. It has no options, checks nothing and prints one number.

The overall score of `brief`, `default` and `authors` must be the same number.

    python bench/score.py            a table
    python bench/score.py --json     one JSON document
    python bench/score.py --quick    one round instead of five
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import document, main

COUNTS = {
    "object_counting": (565, 0),
    "object_abs_distance": (834, 0),
    "object_size_estimation": (953, 0),
    "room_size_estimation": (288, 0),
    "object_rel_distance": (710, 4),
    "object_rel_direction_easy": (217, 2),
    "object_rel_direction_medium": (378, 3),
    "object_rel_direction_hard": (373, 4),
    "route_planning": (194, 4),
    "obj_appearance_order": (618, 4),
}
"""Questions of each type, and options of each question."""
SCENES = [("arkitscenes", f"{41_000_000 + i}") for i in range(150)]
SCENES += [("scannet", f"scene{i:04d}_00") for i in range(88)]
SCENES += [("scannetpp", f"{i:010x}") for i in range(50)]
THINGS = ("chair", "table", "sofa", "bed", "lamp", "sink", "toilet", "stove", "monitor", "door", "window", "backpack")
ODD = ("", "(A)", "The answer is B.", "four", "about 3.5 meters", "2-3", "1,200", "<answer>C</answer>", "3.5m", "nan")

AUTHORS = """
import json, sys
import numpy as np
try:
    import pandas
except ImportError:
    pandas = None
NUMBERS = {"object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation"}
said = {}
for line in open(sys.argv[2], encoding="utf-8"):
    row = json.loads(line)
    said[row["id"]] = row["prediction"]
rows = []
for line in open(sys.argv[1], encoding="utf-8"):
    row = json.loads(line)
    token, truth = said[row["id"]].split(" ")[0].rstrip(".").strip(), row["ground_truth"]
    if row["question_type"] in NUMBERS:
        try:
            error = abs(float(token) - float(truth)) / float(truth)
            score = (error <= 1 - np.linspace(0.5, 0.95, int((0.95 - 0.5) / 0.05 + 2))).mean()
        except ValueError:
            score = 0.0
    else:
        score = float(token.lower() == truth.lower())
    rows.append((row["question_type"], score))
if pandas:
    means = pandas.DataFrame(rows, columns=["type", "score"]).groupby("type")["score"].mean().to_dict()
else:
    means = {kind: float(np.mean([s for k, s in rows if k == kind])) for kind in {k for k, _ in rows}}
levels = [means.pop("object_rel_direction_" + level) for level in ("easy", "medium", "hard")]
print(100 * float(np.mean([*means.values(), np.mean(levels)])))
"""


def measure(quick: bool) -> dict[str, Any]:
    """All processes, in turn, round after round; medians of wall and processor time."""
    rounds = 1 if quick else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, answers, script = (folder / file for file in ("test.jsonl", "answers.jsonl", "authors.py"))
        write(data, answers)
        script.write_text(AUTHORS, encoding="utf-8")
        rft3d = [sys.executable, "-m", "rft3d_cli"]
        score = [*rft3d, "evaluate", "vsibench", "--data", str(data), "--predictions", str(answers)]
        cases = {
            "help": [*rft3d, "--help"],
            "brief": [*score, "--brief"],
            "default": score,
            "authors": [sys.executable, str(script), str(data), str(answers)],
        }
        overall = {name: number(output(cases[name])) for name in ("brief", "default", "authors")}
        if any(round(value, 1) != round(overall["authors"], 1) for value in overall.values()):
            raise SystemExit(f"the scores differ: {overall}")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, command in cases.items():
                times[name].append(timed(command))
    wall = {name: statistics.median(w for w, _ in found) for name, found in times.items()}
    rows = [
        {
            "case": name,
            "seconds": wall[name],
            "cpu_seconds": statistics.median(c for _, c in found),
            "over_help": wall[name] - wall["help"],
        }
        for name, found in times.items()
    ]
    summary = {
        "questions": sum(count for count, _ in COUNTS.values()),
        "rounds": rounds,
        "pandas": find_spec("pandas") is not None,
        "overall": overall["authors"],
        "brief_over_help": wall["brief"] - wall["help"],
        "default_over_help": wall["default"] - wall["help"],
        "brief_to_authors": wall["brief"] / wall["authors"],
        "default_to_authors": wall["default"] / wall["authors"],
    }
    return document("score", rows, summary)


def write(data: Path, answers: Path) -> None:
    """Questions as published, and a prediction for each: mostly a guess near the right answer, at times an odd text."""
    rng = np.random.default_rng(0)
    rows, texts = [], []
    for kind, (count, options) in COUNTS.items():
        for index in range(count):
            dataset, scene = SCENES[len(rows) % len(SCENES)]
            things = [str(thing) for thing in rng.permutation(THINGS)[: max(options, 2)]]
            if options:
                truth, guess = ("ABCD"[int(i)] for i in rng.integers(options, size=2))
            else:
                truth = str(int(rng.integers(1, 12))) if kind == "object_counting" else f"{rng.gamma(2, 2) + 0.1:.1f}"
                guess = f"{float(truth) * rng.lognormal(0, 0.4):.1f}"
            row: dict[str, Any] = {"dataset": dataset, "scene_name": scene, "question_type": kind}
            row["question"] = f"Measuring from the closest point of each object, how do {' and '.join(things)} stand?"
            row["ground_truth"] = truth
            row["options"] = [f"{'ABCD'[i]}. {thing}" for i, thing in enumerate(things)] if options else None
            row["pruned"] = bool(index % 2)
            rows.append(row)
            texts.append(ODD[int(rng.integers(len(ODD)))] if rng.random() < 0.1 else guess)
    with data.open("w", encoding="utf-8") as questions, answers.open("w", encoding="utf-8") as said:
        for number, index in enumerate(rng.permutation(len(rows))):
            questions.write(json.dumps({"id": number, **rows[index]}) + "\n")
            said.write(json.dumps({"id": number, "prediction": texts[index]}) + "\n")


def output(command: list[str]) -> str:
    """What a process prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def number(text: str) -> float:
    """The overall score in what a process printed: the only number, or the score in the table's row."""
    row = re.search(r"^overall .*?([\d.]+)(?: +[\d.]+ – [\d.]+)?$", text, re.MULTILINE)
    return float(row[1] if row else text)


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return wall, used.ru_utime + used.ru_stime


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    print(f"{'whole process':12}{'s':>8}{'CPU s':>8}{'over help':>12}")
    for row in found["rows"]:
        print(f"{row['case']:12}{row['seconds']:8.2f}{row['cpu_seconds']:8.2f}{row['over_help']:+12.2f}")
    summary = found["summary"]
    print(
        f"\n{summary['questions']:,} answers: the official score takes {summary['brief_to_authors']:.2f} times, all of "
        f"it {summary['default_to_authors']:.2f} times what the authors' arithmetic takes as a process"
    )


if __name__ == "__main__":
    main("Time the scoring of 5,130 saved answers as a whole process.", measure, show)
