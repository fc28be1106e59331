"""The paper's claim in miniature: does optimising the 3D metric beat more training on the labels?

Rooms are new for every seed. From the shipped ``tiny-sft`` each seed trains

    start      by SFT on its own rooms' labels,
    more SFT   from start, on the same labels, for as long as GRPO takes, and
    GRPO       from start, on the same rooms, by rft3d's recipes and TRL's trainer,

and all three answer held-out rooms, greedily and sampled. Two halves: ``uncertain`` rooms, where some labelled boxes
cannot be seen (detection), and ``clear`` ones, where all can (in one run, a box for one described piece, and numbers).
Two controls do without RL: dropping boxes below a confidence tuned on training rooms, and the minimum-Bayes-risk choice
among 8 samples.

    python bench/claim.py            three seeds, two jobs side by side, one thread each
    python bench/claim.py --quick    one seed, a few steps: does it run at all?
    python bench/claim.py --report   only print the tables of the newest run again

Every result is kept in the output folder; a job that was interrupted continues with the run that was, from its start.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SMALL = ("--size", "128x96", "--antialias", "1", "--fps", "1")
MODELS = ("start", "more SFT", "GRPO")


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Args:
        train: Rooms to train on.
        held_out: Records of each task to score, and of rooms held out as many as that takes.
        start: Steps of SFT from the shipped model to the start.
        grpo: Steps of GRPO.
    """

    train: int
    held_out: int
    start: int
    grpo: int


FULL = {"uncertain": Plan(3000, 320, 800, 250), "clear": Plan(1000, 320, 150, 200)}
QUICK = {"uncertain": Plan(48, 16, 4, 3), "clear": Plan(24, 16, 4, 3)}
ROOMS = {
    "uncertain": ("--kind", "uncertain", "--no-clips", "--seconds", "2"),
    "clear": ("--kind", "clear", "--seconds", "2"),
}
RECORDS_A_ROOM = 2
"""At least: descriptions of a clear room, or numbers about it."""
SEED = 20_000
"""Rooms of the claim are drawn from seeds of their own."""
SFT = ("train.lr=2e-3", "data.eval=null", "checkpoint.every=1000000")
GRPO = {"uncertain": "tiny-det", "clear": "tiny-mix"}
SAMPLES = 8
"""Answers of the minimum-Bayes-risk control."""


class Job:
    """One seed in one kind of rooms.

    Args:
        kind: Of rooms, ``uncertain`` or ``clear``.
        seed: Of rooms, training and sampling.
        plan: How much.
        out: The job's folder.
    """

    def __init__(self, kind: str, seed: int, plan: Plan, out: Path) -> None:
        self.kind, self.seed, self.plan, self.out = kind, seed, plan, out

    def run(self) -> None:
        """Everything, down to ``result.json``."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.prepare()
        start = self.train("start", "sft", "tiny-sft", "tiny-sft", self.plan.start, *SFT)
        grpo = self.train("grpo", "grpo", GRPO[self.kind], start, self.plan.grpo, "data.eval=null")
        # The same seconds on the same machine, at the pace at which the start was trained.
        steps = round(self.seconds("grpo") / (self.seconds("start") / self.plan.start))
        more = self.train("more", "sft", "tiny-sft", start, steps, *SFT)
        self.score(dict(zip(MODELS, (start, more, grpo), strict=True)), steps)

    def prepare(self) -> None:
        """Rooms and records."""
        held = self.plan.held_out if self.kind == "uncertain" else -(-self.plan.held_out // RECORDS_A_ROOM)
        scenes, rooms = self.plan.train + held, self.out / "rooms"
        if not rooms.exists():
            words = ("--scenes", scenes, "--val", f"{(held + 0.25) / scenes:.5f}", "--seed", SEED + self.seed)
            rft3d("prepare", "rooms", *ROOMS[self.kind], *words, *SMALL, "--workers", 1, "-q", "--out", rooms)
        for split in ("train", "val"):
            infos = rooms / f"embodiedscan_infos_{split}.json"
            scans = ("--scans", rooms / "scans", "--annotations", infos, "--decimals", 1, "--frames", 2, "--workers", 1)
            if self.kind == "uncertain":
                self._records("scannet", f"{split}.jsonl", *scans, "--stride", 1)
                continue
            told = ("--descriptions", rooms / f"ScanRefer_filtered_{split}.json", "--ground-truth", "instance")
            # Every frame shows every piece: the first is the one to name.
            self._records("scanrefer", f"{split}-boxes.jsonl", *scans, *told, "--target", "first")
            asked = rooms / "vsibench" / ("train.jsonl" if split == "train" else "test.jsonl")
            words = ("--questions", asked, "--videos", rooms / "vsibench", "--frames", 2, "--media-root", self.out)
            self._records("vsibench", f"{split}-numbers.jsonl", *words)

    def _records(self, command: str, name: str, *words: object) -> None:
        if not (self.out / name).exists():
            rft3d("prepare", command, *words, "-q", "--out", self.out / name)

    def files(self, split: str) -> list[Path]:
        """Record files of a split."""
        names = ("",) if self.kind == "uncertain" else ("-boxes", "-numbers")
        return [self.out / f"{split}{name}.jsonl" for name in names]

    def train(self, name: str, stage: str, recipe: str, model: object, steps: int, *overrides: str) -> Path:
        """One run of the command line; returns its final model."""
        run = self.out / name
        if not (run / "final").exists():
            shutil.rmtree(run, ignore_errors=True)
            data = json.dumps([str(path) for path in self.files("train")])
            keys = (f"model.name={model}", f"data.train={data}", f"train.steps={steps}", f"train.seed={self.seed}")
            rft3d(stage, "--recipe", recipe, *keys, *overrides, "--out", run)
        return run / "final"

    def seconds(self, name: str) -> float:
        """What a finished run took."""
        document = json.loads((self.out / name / "run.json").read_text(encoding="utf-8"))
        return float(document["summary"]["seconds"])

    def score(self, models: Mapping[str, Path], steps: int) -> None:
        """Answer and score the held-out rooms with every model and control."""
        sys.path.insert(0, str(HERE))
        from claim_answers import Asker, by_confidence, minimum_risk, scored, tuned_threshold

        held = self.plan.held_out
        rows: dict[str, list[dict[str, Any]]] = {}
        for name, folder in models.items():
            asker = Asker(folder, GRPO[self.kind])
            records = [item for path in self.files("val") for item in asker.records(path, held)]
            for decoding, sampled in (("greedy", False), ("sampled", True)):
                texts = asker.answers(records, sample=sampled, seed=self.seed)
                rows[f"{name}, {decoding}"] = scored(records, texts, asker.rewards)
            if name == "start" and self.kind == "uncertain":
                known = [item for path in self.files("train") for item in asker.records(path, held)]
                cut = tuned_threshold(known, asker.confident(known))
                texts = [by_confidence(answer, cut) for answer in asker.confident(records)]
                rows["start, confident boxes only"] = scored(records, texts, asker.rewards)
                draws = [asker.answers(records, sample=True, seed=1000 + i) for i in range(SAMPLES)]
                texts = [minimum_risk(record, own) for record, *own in zip(records, *draws, strict=True)]
                rows[f"start, best of {SAMPLES} by Bayes risk"] = scored(records, texts, asker.rewards)
        seconds = {name: self.seconds(name) for name in ("start", "grpo", "more")}
        document = {"kind": self.kind, "seed": self.seed, "more_steps": steps, "seconds": seconds, "rows": rows}
        (self.out / "result.json").write_text(json.dumps(document) + "\n", encoding="utf-8")


def rft3d(*words: object) -> None:
    """Run one command of the command line; stop where it fails."""
    command = [str(word) for word in words]
    print("$ rft3d", *command, flush=True)
    subprocess.run([sys.executable, "-m", "rft3d_cli", *command], check=True)


def run_jobs(options: argparse.Namespace) -> None:
    """Run all jobs, ``--jobs`` at a time, each on one thread with a log of its own; the long ones first."""
    todo = [(kind, seed) for kind in FULL for seed in range(1 if options.quick else options.seeds)]
    todo = [(kind, seed) for kind, seed in todo if not (options.out / f"{kind}-{seed}" / "result.json").exists()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    failed: list[str] = []
    while todo or running:
        while todo and len(running) < options.jobs:
            kind, seed = todo.pop(0)
            name = f"{kind}-{seed}"
            words = ["--job", kind, str(seed), "--out", str(options.out), *(["--quick"] if options.quick else [])]
            options.out.mkdir(parents=True, exist_ok=True)
            with (options.out / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, str(Path(__file__).resolve()), *words], stdout=log, stderr=log, env=environment
                )
            print(f"{time.strftime('%H:%M:%S')}  {name}: started, log in {options.out / name}.log", flush=True)
            running.append((name, process))
        time.sleep(1)
        for name, process in [pair for pair in running if pair[1].poll() is not None]:
            running.remove((name, process))
            print(f"{time.strftime('%H:%M:%S')}  {name}: {'failed' if process.returncode else 'done'}", flush=True)
            if process.returncode:
                failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; see their logs in {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description="SFT start, more SFT and GRPO on held-out rooms.")
    parser.add_argument("--out", type=Path, default=Path("runs/claim"), help="folder for everything")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1")
    parser.add_argument("--jobs", type=int, default=2, help="jobs side by side, one thread each")
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps, in a folder of its own")
    parser.add_argument("--report", action="store_true", help="only print the tables of what is there")
    parser.add_argument("--job", nargs=2, metavar=("KIND", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job:
        kind, seed = options.job[0], int(options.job[1])
        Job(kind, seed, (QUICK if options.quick else FULL)[kind], options.out / f"{kind}-{seed}").run()
        return 0
    if options.quick:
        options.out = options.out.with_name(options.out.name + "-quick")
    start = time.monotonic()
    if not options.report:
        run_jobs(options)
    sys.path.insert(0, str(HERE))
    from claim_report import report

    text, holds = report(options.out)
    print(text)
    if not options.report:
        print(f"{(time.monotonic() - start) / 60:.0f} minutes")
        (options.out / "report.md").write_text(text + "\n", encoding="utf-8")
    return 0 if holds or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
