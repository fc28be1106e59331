"""Runs of ``prepare vgllm`` for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from vgllm_files import Room, add_images, names, save, talk

from rft3d_cli.prepare.pipeline import Policy, Report
from rft3d_cli.prepare.splits import Split
from rft3d_cli.prepare.vgllm import prepare_vgllm
from rft3d_cli.records import Record, read_records

ERAS = ["intrinsic", "extrinsic"]
LETTERS = "Which is closest?\nOptions:\nA. chair\nB. table\nC. lamp\nAnswer with the letter."
IMAGES = names("scene0001_00", (0, 30))
RIGHT = Room(0).detection("intrinsic")


def run(tmp_path: Path, rows: list[Any] | Path, **options: Any) -> Report:
    file = rows if isinstance(rows, Path) else save(tmp_path / "scannet_train.json", rows)
    media = tmp_path / "media"
    media.mkdir(exist_ok=True)
    if isinstance(rows, list) and options.pop("images", True):
        add_images(media, rows)
    fields: dict[str, Any] = {
        "file": file,
        "media": media,
        "media_root": None,
        "split": Split("train"),
        "out": tmp_path / "out.jsonl",
        "angles": None,
        "allow_missing": False,
        "policy": Policy(max_bad=1.0),
    }
    return prepare_vgllm(**(fields | options))


def records(report: Report) -> list[Record]:
    return read_records(report.out, media_root=report.media_root).records


def one(tmp_path: Path, row: dict[str, Any], **options: Any) -> Record:
    (record,) = records(run(tmp_path, [row], **options))
    return record


def card(report: Report) -> dict[str, Any]:
    return json.loads(report.card.read_text(encoding="utf-8"))


def boxes_of(record: Record) -> np.ndarray:
    return np.array([box.bbox_3d for box in record.target.boxes])


def ask(question: str, answer: str, /, **more: Any) -> dict[str, Any]:
    return {"conversations": talk(f"<image>\n<image>\n{question}", answer), "images": IMAGES, **more}
