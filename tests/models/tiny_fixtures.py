"""Records with frames, a loaded model, and what tests ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rft3d_cli import prompts
from rft3d_cli.models.inputs import EncodedPrompt, collate, encode_prompt
from rft3d_cli.models.processor import FrameProcessor
from rft3d_cli.records import Record
from rft3d_cli.video import write_mp4

BOX = [0.1, 0.2, 2.0, 0.5, 0.9, 0.6, 0.3, 0.0, 0.0]


@dataclass(frozen=True)
class Loaded:
    """A model and its processor."""

    model: Any
    processor: FrameProcessor

    @classmethod
    def of(cls, pair: tuple[Any, FrameProcessor | None]) -> Loaded:
        model, processor = pair
        return cls(model, processor)

    @property
    def pad(self) -> int:
        return int(self.processor.tokenizer.pad_token_id)

    def prompt(self, text: str, *images: Image.Image) -> EncodedPrompt:
        return encode_prompt(self.processor, text, images)

    def logits(self, *prompts: EncodedPrompt, **more: Any) -> Tensor:
        """Logits after the last token of each prompt: ``(prompts, vocabulary)``."""
        with torch.inference_mode():
            out: Tensor = self.model(**collate(prompts, self.pad), **more).logits[:, -1]
        return out


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """Coarse random colours: far apart for different seeds, and they survive JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)


def record(task: str, frames: Sequence[str] | dict[str, Any], prompt: str, target: Any, **more: Any) -> Record:
    video = {"frames": list(frames)} if not isinstance(frames, dict) else frames
    fields = {"id": f"{task}/{more.pop('name', 0)}", "task": task, "video": video, "prompt": prompt, "target": target}
    return Record.model_validate({**fields, **more})


def write_media(folder: Path) -> dict[str, Record]:
    """One record of each kind, with its frames: PNG, JPEG, mp4; wide, square, tall and turned."""
    for i in range(2):
        picture(i, 96, 72).save(folder / f"det{i}.png")
    for i in range(4):
        picture(10 + i).save(folder / f"ref{i}.jpg", quality=90)
    picture(20, 50, 80).save(folder / "tall.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(21, 72, 96).save(folder / "turned.jpg", exif=turned)
    write_mp4(folder / "clip.mp4", [np.asarray(picture(30 + i, 96, 64)) for i in range(6)], 3)
    grounding = {"frame": 1, "bbox_3d": BOX, "bbox_world": BOX}
    return {
        "detection": record(
            "detection",
            ["det0.png", "det1.png"],
            prompts.detection_prompt(2),
            {"boxes": [{"label": "chair", "bbox_3d": BOX}]},
            answer=None,
        ),
        "grounding": record(
            "grounding", [f"ref{i}.jpg" for i in range(4)], prompts.grounding_prompt("the red chair.", 4), grounding
        ),
        "number": record("number", ["tall.png"], prompts.vsibench_prompt("How far?", None), {"value": 2.5}),
        "choice": record(
            "choice",
            {"path": "clip.mp4", "frames": 3},
            prompts.vsibench_prompt("Which?", ["A. chair", "B. bed"]),
            {"letter": "B", "options": ["A. chair", "B. bed"]},
        ),
        "text": record("text", ["turned.jpg", "ref0.jpg"], "what is this?", {"references": ["a room"]}),
    }
