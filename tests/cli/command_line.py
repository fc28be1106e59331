"""The whole command line, run in this process, and a small world for it: one clip and what can be asked about it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rft3d_cli import prompts
from rft3d_cli.cli import main
from rft3d_cli.records import Record

WIDTH, HEIGHT, FRAMES, RATE = 96, 64, 8, 4
INTRINSIC = [[80.0, 0.0, 47.5], [0.0, 80.0, 31.5], [0.0, 0.0, 1.0]]
IDENTITY = np.eye(4).tolist()
BOX = [0.1, 0.1, 2.0, 0.6, 0.6, 0.6, 0.0, 0.0, 0.0]
BOX_TEXT = ", ".join(f"{value:.1f}" for value in BOX)
GROUNDING_ANSWER = f'```json\n\t{{"frame": 1, "bbox_3d": [{BOX_TEXT}]}}\n```'
DETECTION_ANSWER = f'```json\n[\n\t{{"label": "chair", "bbox_3d": [{BOX_TEXT}]}}\n]```'


@dataclass(frozen=True)
class Shown:
    """What a command left on the screen."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Stdout as the one JSON document that it must be."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """What is wrong, line by line."""
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def hint(self) -> str:
        """What to do next."""
        return self.err.partition("\n\nhint: ")[2].rstrip("\n")


def run(*words: object) -> Shown:
    """Run ``rft3d WORDS`` from the parsing of its words to its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    code = stopped.value.code
    assert isinstance(code, int)
    return Shown(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def clip_pictures() -> list[np.ndarray]:
    """A red block that moves to the right in front of a noisy wall."""
    wall = np.random.default_rng(0).integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pictures = [wall.copy() for _ in range(FRAMES)]
    for number, picture in enumerate(pictures):
        picture[20:44, 10 + 6 * number : 30 + 6 * number] = (200, 40, 40)
    return pictures


def record(task: str, prompt: str, answer: str, target: dict[str, Any], *, name: str = "", **meta: Any) -> Record:
    """A record about the clip."""
    return Record.model_validate(
        {
            "id": name or task,
            "task": task,
            "video": {"path": "clip.mp4", "frames": 2},
            "prompt": prompt,
            "answer": answer,
            "target": target,
            "camera": {
                "intrinsic": INTRINSIC,
                "image_size": [WIDTH, HEIGHT],
                "cam_to_world": [IDENTITY, IDENTITY],
                "axis_align": IDENTITY,
            },
            "meta": {"dataset": "blocks", **meta},
        }
    )


def records() -> list[Record]:
    """One record of each kind, in the words that ``infer`` uses for the same questions."""
    return [
        record(
            "grounding",
            prompts.grounding_prompt("The chair.", 2),
            GROUNDING_ANSWER,
            {"frame": 1, "bbox_3d": BOX, "bbox_world": BOX},
            subset="unique",
        ),
        record(
            "detection",
            prompts.detection_prompt(2),
            DETECTION_ANSWER,
            {"boxes": [{"label": "chair", "bbox_3d": BOX}]},
        ),
        record(
            "number",
            prompts.vsibench_prompt("how many chairs are there", None),
            "1",
            {"value": 1},
            question_type="object_counting",
        ),
    ]


TEACH = """\
stage: sft
model: {name: tiny-random, dtype: float32, freeze: []}
data: {train: all.jsonl, workers: 0}
train: {lr: 3e-3, warmup: 0, betas: [0.9, 0.95], batch: 3, micro_batch: 3, steps: 30}
"""


@dataclass(frozen=True)
class World:
    """One clip, records about it, and two models.

    Args:
        folder: Of everything.
        clip: 8 frames of 96 × 64 pixels.
        records: A record file with one record of grounding, detection and number each.
        fresh: A tiny model that knows nothing.
    """

    folder: Path
    clip: Path
    records: Path
    fresh: Path
