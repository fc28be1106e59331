"""The demo: from raw scans to a box drawn on a frame, by the commands that anyone would type.

It prints each command before it runs it, so that the demo is also the tutorial.
"""

from __future__ import annotations

import io
import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rft3d_cli.console import duration, note
from rft3d_cli.errors import UsageError
from rft3d_cli.files import write_json
from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.records import FrameList, GroundingTarget, Record, read_predictions, read_records

if TYPE_CHECKING:
    from rich.table import Table

Run = Callable[[list[str]], None]
"""Runs one command of the command line, given its words."""

SEED = 7000
"""The demo's rooms are drawn from seeds of their own: the shipped models have not seen them."""
SMALL = ["--size", "128x96", "--antialias", "1", "--fps", "1"]
SCORES = (
    ("detection", "precision", "micro.precision"),
    ("detection", "recall", "micro.recall"),
    ("detection", "F1 at IoU 0.25", "micro.f1"),
    ("grounding", "Acc@0.25", "overall.acc@0.25"),
    ("grounding", "mean IoU", "overall.mean_iou"),
    ("questions", "mean relative accuracy and accuracy", "overall_micro"),
)
WRITTEN = (
    "rooms",
    "media",
    "runs",
    "eval",
    "look",
    *(f"{task}-*.*" for task in ("detection", "grounding", "questions")),
)
"""What a demo's folder holds beside its ``demo.json``; ``runs`` and ``eval`` are looked into as well."""
BENCHMARKS = {"detection": "detection", "grounding": "scanrefer", "questions": "vsibench"}


@dataclass(frozen=True)
class Plan:
    """How much the demo does.

    Args:
        uncertain: Uncertain rooms for training, and held out: detection.
        few: Plain rooms with few pieces, for training and held out: grounding and questions.
        sft_steps: Steps of SFT, where it starts from scratch.
        grpo_steps: Steps of GRPO.
        held_out: Records scored before and after, for each task.
        seconds: What each part takes on two cores, for the time left.
    """

    uncertain: tuple[int, int]
    few: tuple[int, int]
    sft_steps: int
    grpo_steps: int
    held_out: int
    seconds: Mapping[str, float]


PLANS = {
    "full": Plan(
        uncertain=(320, 128), few=(120, 64), sft_steps=500, grpo_steps=70, held_out=128,
        seconds={"rooms": 25, "records": 8, "sft": 200, "before": 25, "grpo": 150, "after": 20, "pictures": 10},
    ),
    "quick": Plan(
        uncertain=(24, 8), few=(8, 4), sft_steps=10, grpo_steps=4, held_out=8,
        seconds={"rooms": 10, "records": 5, "sft": 12, "before": 10, "grpo": 10, "after": 6, "pictures": 8},
    ),
}  # fmt: skip


class Clock:
    """Says which part runs and how long the rest will take, corrected by how long the parts so far took.

    Args:
        parts: Names of the parts in order.
        expected: Seconds that each takes on two cores.
    """

    def __init__(self, parts: list[str], expected: Mapping[str, float]) -> None:
        self.parts, self.expected = parts, expected
        self.spent: dict[str, float] = {}

    def left(self) -> float:
        """Seconds until the end."""
        done = sum(self.expected[name] for name in self.spent)
        pace = sum(self.spent.values()) / done if done else 1.0
        return pace * sum(self.expected[name] for name in self.parts if name not in self.spent)

    @contextmanager
    def part(self, name: str, text: str) -> Iterator[None]:
        """Run one part."""
        number = self.parts.index(name) + 1
        note(f"[{number}/{len(self.parts)}] {text}  (about {duration(self.left())} left)", "bold")
        start = time.monotonic()
        yield
        self.spent[name] = time.monotonic() - start


class Demo:
    """The demo's folder and the commands run in it.

    Args:
        run: Runs a command.
        out: The folder.
        seed: Of rooms and training.
    """

    def __init__(self, run: Run, out: Path, seed: int) -> None:
        self._run, self.out, self.seed = run, out, seed

    def command(self, *words: str) -> str:
        """Print and run one command; returns what it printed to stdout."""
        note("  $ rft3d " + shlex.join(words), "dim")
        printed = io.StringIO()
        with redirect_stdout(printed):
            self._run(list(words))
        return printed.getvalue()

    def rooms(self, plan: Plan) -> None:
        """Build the rooms: uncertain ones, plain ones, and one scene to look at."""
        train, val = plan.uncertain
        self._build("uncertain", 0, train + val, val, "--kind", "uncertain", "--no-clips", "--seconds", "2", *SMALL)
        train, val = plan.few
        self._build("few", 1, train + val, val, "--objects", "2-4", "--seconds", "4", *SMALL)
        self._build("shown", 2, 1, 0, "--objects", "3-4", "--seconds", "6", "--fps", "6", "--size", "480x360")

    def _build(self, name: str, number: int, scenes: int, val: int, *options: str) -> None:
        share = f"{(val + 0.25) / scenes:.4f}" if val else "0"
        seed = str(SEED + 10 * self.seed + number)
        where = str(self.out / "rooms" / name)
        self.command(
            "prepare", "rooms", "--out", where, "--scenes", str(scenes), "--val", share, "--seed", seed, "-q", *options
        )

    def records(self) -> dict[str, int]:
        """Turn the rooms into records, as one would ScanNet, ScanRefer and VSI-Bench."""
        uncertain, few = self.out / "rooms" / "uncertain", self.out / "rooms" / "few"
        counts = {}
        for split in ("train", "val"):
            infos = f"embodiedscan_infos_{split}.json"
            self.command(
                "prepare", "scannet", "--scans", str(uncertain / "scans"), "--annotations", str(uncertain / infos),
                "--frames", "2", "--stride", "1", "--decimals", "1", "-q", "--out", self.data("detection", split),
            )  # fmt: skip
            self.command(
                "prepare", "scanrefer", "--scans", str(few / "scans"), "--annotations", str(few / infos),
                "--descriptions", str(few / f"ScanRefer_filtered_{split}.json"), "--ground-truth", "instance",
                "--frames", "4", "--decimals", "1", "-q", "--out", self.data("grounding", split),
            )  # fmt: skip
            questions = few / "vsibench" / ("train.jsonl" if split == "train" else "test.jsonl")
            self.command(
                "prepare", "vsibench", "--questions", str(questions), "--videos", str(few / "vsibench"),
                "--frames", "4", "-q", "--media-root", str(self.out), "--out", self.data("questions", split),
            )  # fmt: skip
            for name in BENCHMARKS:
                counts[f"{name} {split}"] = len(read_records(Path(self.data(name, split))).records)
        return counts

    def data(self, name: str, split: str) -> str:
        """The record file of a task and split."""
        return str(self.out / f"{name}-{split}.jsonl")

    def all_data(self, split: str) -> str:
        """The record files of all tasks, as a recipe takes them."""
        return "[" + ", ".join(self.data(name, split) for name in BENCHMARKS) + "]"

    def train(self, stage: str, recipe: str, *overrides: str) -> str:
        """Train by a shipped recipe on the demo's records; returns the trained model's folder."""
        run = str(self.out / "runs" / stage)
        keys = [f"data.train={self.all_data('train')}", "data.eval=null", f"train.seed={self.seed}", *overrides]
        self.command(stage, "--recipe", recipe, *keys, "--out", run)
        return f"{run}/final"

    def evaluate(self, model: str, name: str, held_out: int) -> dict[str, Any]:
        """Score a model on the held-out records of each task."""
        results = {}
        for task, benchmark in BENCHMARKS.items():
            printed = self.command(
                "evaluate", benchmark, "--data", self.data(task, "val"), "--model", model, "--max-tokens", "96",
                "--limit", str(held_out), "--out", str(self.out / "eval" / name / task), "--json",
            )  # fmt: skip
            results[task] = json.loads(printed)
        return results

    def ask(self, model: str) -> Path:
        """Ask the trained model about the clip to look at; returns the folder of the pictures."""
        clip = next((self.out / "rooms" / "shown" / "vsibench" / "rooms").glob("*.mp4"))
        scene = json.loads((self.out / "rooms" / "shown" / "ScanRefer_filtered_train.json").read_text())
        named = next((row["object_name"] for row in scene if row["description"].startswith("this is the ")), "chair")
        look = self.out / "look"
        said = self.command("infer", str(clip), f"where is the {named}", "--model", model, "--out", str(look))
        note(f"  {said.strip()}")
        return look


def run_demo(run: Run, out: Path, plan: Plan, *, from_scratch: bool, seed: int) -> dict[str, Any]:
    """Run the whole road.

    Args:
        run: Runs a command of the command line.
        out: Where everything goes. A folder that an earlier demo made is replaced.
        plan: How much to do.
        from_scratch: Start with SFT of a fresh model.
        seed: Of rooms and training.

    Returns:
        The demo's document: scores before and after, files, times.

    Raises:
        UsageError: Where ``out`` exists and no demo made it.
    """
    marker = out / "demo.json"
    clear(out, marker)
    # Written at once, so that an interrupted demo can be repeated in the same folder.
    write_json(marker, {"schema": 1, "finished": False})
    demo = Demo(run, out, seed)
    parts = ["rooms", "records", *(["sft"] if from_scratch else []), "before", "grpo", "after", "pictures"]
    clock = Clock(parts, plan.seconds)
    with clock.part("rooms", "synthetic rooms, written as ScanNet ships its scans"):
        demo.rooms(plan)
    with clock.part("records", "records from scans, descriptions and questions"):
        counts = demo.records()
    model = "tiny-sft"
    if from_scratch:
        with clock.part("sft", "supervised warm-up of a fresh model"):
            model = demo.train("sft", "tiny-sft", f"train.steps={plan.sft_steps}")
    with clock.part("before", "scores before"):
        before = demo.evaluate(model, "before", plan.held_out)
    with clock.part("grpo", "GRPO: the model's own answers, rewarded by 3D IoU, F1 and accuracy"):
        trained = demo.train("grpo", "tiny-mix", f"model.name={model}", f"train.steps={plan.grpo_steps}")
    with clock.part("after", "scores after"):
        after = demo.evaluate(trained, "after", plan.held_out)
    with clock.part("pictures", "one question about one clip"):
        look = demo.ask(trained)
        compared = _compare(demo, out / "look" / "before-after.png")
        demo.command("report", str(out / "runs" / "grpo"), "-q")
    pictures = [path for path in sorted(look.glob("*")) if path.suffix in (".png", ".mp4") and path != compared]
    document = {
        "schema": 1,
        "finished": True,
        "records": counts,
        "before": _scores(before),
        "after": _scores(after),
        "held_out": {task: result["n"] for task, result in before.items()},
        "files": [
            ("detection, compared", str(compared)),
            *(("the clip's answer", str(path)) for path in pictures),
            ("the trained model", trained),
            ("its training", str(out / "runs" / "grpo" / "report.html")),
        ],
        "seconds": {name: round(value, 1) for name, value in clock.spent.items()},
    }
    write_json(marker, document)
    note(f"  done in {duration(sum(clock.spent.values()))}", "bold")
    return document


def clear(out: Path, marker: Path) -> None:
    """Remove what an earlier demo wrote, and nothing else.

    Raises:
        UsageError: Where ``out`` holds anything that no demo wrote.
    """
    if not out.exists():
        return
    found = sorted(out.iterdir()) if out.is_dir() else [out]
    foreign = [path for path in found if not any(path.match(pattern) for pattern in (marker.name, *WRITTEN))]
    foreign += [path for path in out.glob("runs/*") if path.name not in ("sft", "grpo")]
    foreign += [path for path in out.glob("eval/*") if path.name not in ("before", "after")]
    if foreign or (found and not marker.is_file()):
        raise UsageError(f"{out} exists and was not made by the demo", "name another folder with --out")
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _scores(results: Mapping[str, Any]) -> dict[str, float | None]:
    from rft3d_cli.benchmarks.metrics import lookup

    return {f"{task} {name}": lookup(results[task], key) for task, name, key in SCORES}


def table(document: Mapping[str, Any]) -> Table:
    """Scores before and after, in percent."""
    from rich.table import Table

    out = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("task", "held out", "score"):
        out.add_column(heading, justify="right" if heading == "held out" else "left")
    for heading in ("before", "after", "change"):
        out.add_column(heading, justify="right")
    for task, name, _ in SCORES:
        old, new = document["before"][f"{task} {name}"], document["after"][f"{task} {name}"]
        cells = ["–", "–", ""] if old is None or new is None else [f"{old:.1f}", f"{new:.1f}", f"{new - old:+.1f}"]
        out.add_row(task, str(document["held_out"][task]), name, *cells)
    return out


def _compare(demo: Demo, path: Path) -> Path:
    """Detection before and after side by side, on the held-out rooms where most changed; targets in green."""
    from PIL import Image

    from rft3d_cli.answers import read_boxes
    from rft3d_cli.rewards.registry import get
    from rft3d_cli.show.draw import TARGET, draw_boxes, label_colour, with_headings

    source = read_records(Path(demo.data("detection", "val")))
    said = [
        read_predictions(demo.out / "eval" / name / "detection" / "predictions.jsonl") for name in ("before", "after")
    ]
    score = get("det_f1")

    def gain(record: Record) -> float:
        both = [score(texts[record.id], record) for texts in said]
        return (both[1].value if both[1] else 0.0) - (both[0].value if both[0] else 0.0)

    rows = []
    for record in sorted((r for r in source.records if r.id in said[0]), key=gain, reverse=True)[:2]:
        if not isinstance(record.video, FrameList) or record.camera is None or record.target is None:
            continue
        with Image.open(source.media(record.video.frames[0])) as image:
            scale = 4
            frame = np.asarray(
                image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
            )
        intrinsic = np.array(record.camera.intrinsic) * [[scale], [scale], [1]]
        targets = [] if isinstance(record.target, GroundingTarget) else getattr(record.target, "boxes", [])
        truth = Boxes3D([box.bbox_3d for box in targets], [box.label for box in targets])
        frame = draw_boxes(frame, truth, intrinsic, colours=[TARGET] * len(truth), captions=[""] * len(truth))
        views = []
        for texts in said:
            boxes = read_boxes(texts[record.id]).boxes
            views.append(draw_boxes(frame, boxes, intrinsic, colours=[label_colour(label) for label in boxes.labels]))
        rows.append(np.concatenate(views, axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = with_headings(np.concatenate(rows, axis=0), ("before GRPO", "after GRPO"))
    Image.fromarray(picture).save(path)
    return path
