"""Train the shipped tiny models and film the shipped clip, by the command line alone: ``make assets``.

An hour or more on two cores. ``assets/models/tiny-sft`` is supervised on detection, grounding and questions in rooms of
every kind; ``assets/models/tiny`` is GRPO from there; ``assets/clips/room.mp4`` is a clip of a room that neither has
seen, with its camera beside it. A part whose result exists in the work folder is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
SMALL = ("--size", "128x96", "--antialias", "1")
ROOMS = {
    "unc": "--kind uncertain --no-clips --scenes 16256 --val 0.0158 --seconds 2 --fps 1 --seed 100",
    "few": "--scenes 5256 --val 0.0487 --objects 1-4 --seconds 4 --fps 1 --seed 101",
    "many": "--scenes 1656 --val 0.0942 --objects 4-7 --seconds 12 --fps 2 --seed 102",
}
SFT_MIX = {
    "unc": 15500,
    "few": 3000,
    "many": 1500,
    "few-ground": 8000,
    "many-ground": 2000,
    "few-vsi": 3000,
    "many-vsi": 1500,
}
"""Records of each file in the supervised mix."""
GRPO_MIX = {
    "unc": 2400,
    "few": 800,
    "many": 800,
    "few-ground": 1600,
    "many-ground": 800,
    "few-vsi": 800,
    "many-vsi": 800,
}
SFT = (
    "train.steps=8000 train.batch=16 train.micro_batch=16 train.weight_decay=0.01 eval.every=2000 eval.limit=448 "
    "checkpoint.every=500"
)
GRPO = "train.steps=120 eval.every=60 checkpoint.every=30"


def rft3d(*words: object) -> None:
    """Run one command of the command line; stop where it fails."""
    command = [str(word) for word in words]
    print("$ rft3d", *command, flush=True)
    subprocess.run([sys.executable, "-m", "rft3d_cli", *command], check=True)


def make_rooms(work: Path) -> None:
    """Rooms of three kinds; a seed each, unlike any that the demo or the claim uses."""
    for name, options in ROOMS.items():
        if not (work / name).exists():
            rft3d("prepare", "rooms", *options.split(), *SMALL, "--out", work / name)


def make_records(work: Path) -> None:
    """Records of every task, for training and held out."""
    for split in ("train", "val"):
        for name in ROOMS:
            rooms, media = work / name, ("--media", work / f"media-{name}")
            infos = ("--annotations", rooms / f"embodiedscan_infos_{split}.json", "--decimals", 1)
            out = work / f"{name}-{split}.jsonl"
            if not out.exists():
                step = ("--frames", 2, "--stride", 1, "--per-scene", 4)
                rft3d("prepare", "scannet", "--scans", rooms / "scans", *infos, *step, "--out", out, *media)
            if name == "unc":
                continue
            out = work / f"{name}-ground-{split}.jsonl"
            if not out.exists():
                told = ("--descriptions", rooms / f"ScanRefer_filtered_{split}.json", "--frames", 4)
                words = ("--scans", rooms / "scans", *infos, *told, "--ground-truth", "instance", "--out", out)
                rft3d("prepare", "scanrefer", *words, *media)
            out = work / f"{name}-vsi-{split}.jsonl"
            if not out.exists():
                asked = rooms / "vsibench" / ("train.jsonl" if split == "train" else "test.jsonl")
                words = ("--questions", asked, "--videos", rooms / "vsibench", "--frames", 4)
                rft3d("prepare", "vsibench", *words, "--media-root", work, "--out", out)


def mix(work: Path, split: str, counts: Mapping[str, int], out: Path) -> None:
    """Take evenly spaced records of each file into one."""
    lines: list[str] = []
    for name, count in counts.items():
        own = (work / f"{name}-{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        count = min(count, len(own))
        for i in range(count):
            record = json.loads(own[i * len(own) // count])
            lines.append(json.dumps({**record, "id": f"{name}/{record['id']}"}, ensure_ascii=False) + "\n")
    out.write_text("".join(lines), encoding="utf-8")


def train(work: Path, stage: str, recipe: str, *overrides: str) -> Path:
    """A run of one stage, continued where it was interrupted; returns its final model."""
    run = work / f"run-{stage}"
    if not (run / "final").exists():
        rft3d(stage, "--recipe", recipe, *overrides, "--out", run, *(["--resume"] if run.exists() else []))
    return run / "final"


def ship(model: Path, name: str) -> None:
    """Copy a model directory to where the package takes it from."""
    target = HERE / "models" / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(model, target)


def make_models(work: Path) -> None:
    """The supervised model, and GRPO from it."""
    for name, counts in (("sft", SFT_MIX), ("grpo", GRPO_MIX)):
        mix(work, "train", counts, work / f"mix-{name}.jsonl")
    mix(work, "val", dict.fromkeys(SFT_MIX, 64), work / "mix-val.jsonl")
    held = f"data.eval={work / 'mix-val.jsonl'}"
    ship(train(work, "sft", "tiny-sft", f"data.train={work / 'mix-sft.jsonl'}", held, *SFT.split()), "tiny-sft")
    ship(train(work, "grpo", "tiny-mix", f"data.train={work / 'mix-grpo.jsonl'}", held, *GRPO.split()), "tiny")


def make_clip(work: Path, scene: int, question: str) -> None:
    """A clip at a size for people, from a seed that no model was trained on, and its answer."""
    rooms = work / "clip"
    if not rooms.exists():
        look = ["--kind", "uncertain", "--size", "480x360", "--antialias", "3", "--seconds", "3", "--fps", "8"]
        rft3d("prepare", "rooms", "--scenes", 6, "--val", 0, "--seed", 106, *look, "--out", rooms)
    clips = HERE / "clips"
    clips.mkdir(exist_ok=True)
    for ending in (".mp4", ".camera.json"):
        shutil.copyfile(rooms / "vsibench" / "rooms" / f"scene{scene:04d}_00{ending}", clips / f"room{ending}")
    make_pictures(work, question)


def make_pictures(work: Path, question: str) -> None:
    """The shipped model's answer about the shipped clip: three moments of its video, and its page in a browser."""
    rft3d("infer", HERE / "clips" / "room.mp4", question, "--out", work / "answer")
    strip(work / "answer" / "video.mp4", HERE / "answer.png")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("no Chromium: assets/scene.png stays as it is")
        return
    page = (work / "answer" / "scene.html").resolve().as_uri()
    seen = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,900")
    subprocess.run([browser, *seen, f"--screenshot={HERE / 'scene.png'}", page], check=True, capture_output=True)


def strip(video: Path, picture: Path) -> None:
    """Three frames of a video side by side."""
    import numpy as np
    from PIL import Image

    from rft3d_cli.video import open_video

    frames = open_video(video, 3, "linspace-floor").images
    Image.fromarray(np.concatenate(frames, axis=1)).resize((1200, 300), Image.Resampling.LANCZOS).save(picture)


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("assets-work"), help="folder for rooms, records and runs")
    parser.add_argument("--scene", type=int, default=3, help="which of the filmed rooms is shipped")
    parser.add_argument("--question", default="find every object", help="what is asked about it")
    parser.add_argument("--pictures", action="store_true", help="only the pictures of the answer, in seconds")
    options = parser.parse_args()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    if options.pictures:
        make_pictures(work, options.question)
        return
    make_rooms(work)
    make_records(work)
    make_models(work)
    make_clip(work, options.scene, options.question)


if __name__ == "__main__":
    main()
