"""The paper's claim in miniature: does optimising the 3D metric beat more training on the labels?

Rooms are new for every seed, of two kinds: ``uncertain`` ones, where some labelled boxes cannot be seen (detection),
and ``clear`` ones, where all can (grounding: a box for one described piece; and numbers). From the shipped
``tiny-sft`` each seed trains

    start      by SFT on its own rooms' labels of all tasks,

and for each task alone, as in the paper,

    more SFT   from start, on the same labels, for as long as GRPO takes, and
    GRPO       from start, on the same rooms, by rft3d's recipes and TRL's trainer.

All three answer held-out rooms, greedily and sampled. Two controls do without RL: dropping boxes below a confidence
tuned on training rooms, and the minimum-Bayes-risk choice among 8 samples.

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SMALL = ("--seconds", "2", "--fps", "1", "--size", "128x96", "--antialias", "1")
"""Two frames a room."""
MODELS = ("start", "more SFT", "GRPO")


@dataclass(frozen=True)
class Task:
    """What GRPO is for.

    Args:
        recipe: Of GRPO.
        steps: Of GRPO.
        held_out: Records to score.
        keys: What else GRPO's recipe is told.
    """

    recipe: str
    steps: int
    held_out: int
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """Rooms, and what is trained in them.

    Args:
        options: Of ``prepare rooms``.
        train: Rooms to train on.
        held_out: Rooms to score in.
        start: Steps of SFT from the shipped model to the start.
        tasks: By name.
    """

    options: tuple[str, ...]
    train: int
    held_out: int
    start: int
    tasks: Mapping[str, Task]

    def quick(self) -> Kind:
        """The same, for a smoke test."""
        tasks = {name: replace(task, steps=3, held_out=16) for name, task in self.tasks.items()}
        return replace(self, train=48, held_out=16, start=4, tasks=tasks)


LARGE = ("rollout.prompts=16", "train.micro_batch=128")
"""Groups a step where answers are short."""
KINDS = {
    "uncertain": Kind(
        options=("--kind", "uncertain", "--no-clips"),
        train=3000,
        held_out=320,
        start=800,
        tasks={"detection": Task("tiny-det", steps=200, held_out=320)},
    ),
    "clear": Kind(
        options=("--kind", "clear"),
        train=1500,
        held_out=200,
        start=500,
        tasks={
            "grounding": Task("tiny-mix", steps=160, held_out=400, keys=(*LARGE, "train.lr=1e-3")),
            "numbers": Task("tiny-mix", steps=120, held_out=400, keys=(*LARGE, "train.lr=7e-4")),
        },
    ),
}
SEED = 20_000
"""Rooms of the claim are drawn from seeds of their own."""
SFT = ("train.lr=2e-3", "data.eval=null", "checkpoint.every=1000000")
SAMPLES = 8
"""Answers of the minimum-Bayes-risk control."""


class Job:
    """One seed in one kind of rooms.

    Args:
        kind: The name of one of :data:`KINDS`.
        seed: Of rooms, training and sampling.
        quick: The smoke test.
        out: The job's folder.
    """

    def __init__(self, kind: str, seed: int, quick: bool, out: Path) -> None:
        self.kind, self.seed, self.out = KINDS[kind].quick() if quick else KINDS[kind], seed, out

    def run(self) -> None:
        """Everything, down to ``TASK-result.json`` of each task."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.check_plan()
        self.prepare()
        tasks = self.kind.tasks
        start = self.train("start", "sft", "tiny-sft", "tiny-sft", list(tasks), self.kind.start, *SFT)
        pace = self.seconds("start") / self.kind.start
        for name, task in tasks.items():
            folder = f"{name}-grpo"
            grpo = self.train(folder, "grpo", task.recipe, start, [name], task.steps, "data.eval=null", *task.keys)
            # The same seconds on the same machine, at the pace at which the start was trained.
            steps = round(self.seconds(folder) / pace)
            more = self.train(f"{name}-more", "sft", "tiny-sft", start, [name], steps, *SFT)
            self.score(name, dict(zip(MODELS, (start, more, grpo), strict=True)), steps)

    def check_plan(self) -> None:
        """Keep what is planned beside what is made, and refuse to go on with another plan's rooms and runs."""
        plan, path = asdict(self.kind), self.out / "plan.json"
        text = json.dumps({**plan, "seed": SEED + self.seed, "sft": SFT, "small": SMALL}, indent=1) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{self.out} was begun by another plan; name another folder with --out")
        path.write_text(text, encoding="utf-8")

    def prepare(self) -> None:
        """Rooms and records."""
        scenes, rooms = self.kind.train + self.kind.held_out, self.out / "rooms"
        if not rooms.exists():
            words = ("--scenes", scenes, "--val", f"{(self.kind.held_out + 0.25) / scenes:.5f}")
            words = (*words, "--seed", SEED + self.seed, *SMALL, "--workers", 1, "-q", "--out", rooms)
            rft3d("prepare", "rooms", *self.kind.options, *words)
        for task in self.kind.tasks:
            for split in ("train", "val"):
                out = self.records(task, split)
                if not out.exists():
                    rft3d("prepare", *_source(task, rooms, split), "--frames", 2, "-q", "--out", out)

    def records(self, task: str, split: str) -> Path:
        """Where a task's records of a split are."""
        return self.out / f"{task}-{split}.jsonl"

    def train(
        self, name: str, stage: str, recipe: str, model: object, tasks: Sequence[str], steps: int, *keys: str
    ) -> Path:
        """One run of the command line on the records of ``tasks``; returns its final model."""
        run = self.out / name
        if not self.finished(name):
            shutil.rmtree(run, ignore_errors=True)
            data = json.dumps([str(self.records(task, "train")) for task in tasks])
            own = (f"model.name={model}", f"data.train={data}", f"train.steps={steps}", f"train.seed={self.seed}")
            rft3d(stage, "--recipe", recipe, *own, *keys, "--out", run)
        return run / "final"

    def finished(self, name: str) -> bool:
        """Whether a run came to its end, and said so."""
        run = self.out / name
        return (run / "final").exists() and "summary" in json.loads((run / "run.json").read_text(encoding="utf-8"))

    def seconds(self, name: str) -> float:
        """What a finished run took."""
        document = json.loads((self.out / name / "run.json").read_text(encoding="utf-8"))
        return float(document["summary"]["seconds"])

    def score(self, name: str, models: Mapping[str, Path], steps: int) -> None:
        """Answer and score a task's held-out records with every model and control."""
        sys.path.insert(0, str(HERE))
        from claim_answers import Asker, by_confidence, minimum_risk, scored, tuned_threshold

        task, rows = self.kind.tasks[name], dict[str, list[dict[str, Any]]]()
        for model, folder in models.items():
            asker = Asker(folder, task.recipe)
            records = asker.records(self.records(name, "val"), task.held_out)
            for decoding, sampled in (("greedy", False), ("sampled", True)):
                texts = asker.answers(records, sample=sampled, seed=self.seed)
                rows[f"{model}, {decoding}"] = scored(records, texts, asker.rewards)
            if model == "start" and name == "detection":
                known = asker.records(self.records(name, "train"), task.held_out)
                cut = tuned_threshold(known, asker.confident(known))
                texts = [by_confidence(answer, cut) for answer in asker.confident(records)]
                rows["start, confident boxes only"] = scored(records, texts, asker.rewards)
                draws = [asker.answers(records, sample=True, seed=1000 + i) for i in range(SAMPLES)]
                texts = [minimum_risk(record, own) for record, *own in zip(records, *draws, strict=True)]
                rows[f"start, minimum Bayes risk of {SAMPLES} samples"] = scored(records, texts, asker.rewards)
        runs = {"start": "start", "grpo": f"{name}-grpo", "more": f"{name}-more"}
        seconds = {model: self.seconds(run) for model, run in runs.items()}
        document = {"task": name, "seed": self.seed, "more_steps": steps, "seconds": seconds, "rows": rows}
        (self.out / f"{name}-result.json").write_text(json.dumps(document) + "\n", encoding="utf-8")

    @property
    def done(self) -> bool:
        """Whether every task has its result."""
        return all((self.out / f"{name}-result.json").exists() for name in self.kind.tasks)


def _source(task: str, rooms: Path, split: str) -> tuple[object, ...]:
    """The ``prepare`` command of a task's records, without its output."""
    if task == "numbers":
        asked = rooms / "vsibench" / ("train.jsonl" if split == "train" else "test.jsonl")
        return ("vsibench", "--questions", asked, "--videos", rooms / "vsibench", "--media-root", rooms.parent)
    infos = rooms / f"embodiedscan_infos_{split}.json"
    scans = ("--scans", rooms / "scans", "--annotations", infos, "--decimals", 1, "--workers", 1)
    if task == "detection":
        return ("scannet", *scans, "--stride", 1)
    told = ("--descriptions", rooms / f"ScanRefer_filtered_{split}.json", "--ground-truth", "instance")
    # Every frame shows every piece: the first is the one to name.
    return ("scanrefer", *scans, *told, "--target", "first")


def rft3d(*words: object) -> None:
    """Run one command of the command line; stop where it fails."""
    command = [str(word) for word in words]
    print("$ rft3d", *command, flush=True)
    subprocess.run([sys.executable, "-m", "rft3d_cli", *command], check=True)


def job(options: argparse.Namespace, kind: str, seed: int) -> Job:
    """One job of the command line."""
    return Job(kind, seed, options.quick, options.out / f"{kind}-{seed}")


def run_jobs(options: argparse.Namespace) -> None:
    """Run all jobs, ``--jobs`` at a time, each on one thread with a log of its own."""
    todo = [(kind, seed) for seed in range(1 if options.quick else options.seeds) for kind in KINDS]
    todo = [(kind, seed) for kind, seed in todo if not job(options, kind, seed).done]
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
    parser.add_argument(
        "--jobs", type=int, choices=range(1, 65), metavar="N", default=2, help="jobs side by side, one thread each"
    )
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps, in a folder of its own")
    parser.add_argument("--report", action="store_true", help="only print the tables of what is there")
    parser.add_argument("--job", nargs=2, metavar=("KIND", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job:
        job(options, options.job[0], int(options.job[1])).run()
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
