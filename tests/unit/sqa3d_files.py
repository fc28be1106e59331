"""Files in SQA3D's released layout, about the objects of synthetic rooms; shares no code with ``prepare``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

INFO = {
    "info": {
        "description": "This is v1.0 of the SQA3D dataset.",
        "url": "bigai.github.io/sqa3d",
        "version": "1.0",
        "year": 2022,
        "contributor": "SQA3D Team",
        "date_created": "2022-06-22 17:11:41",
    },
    "license": {"url": "http://creativecommons.org/licenses/by/4.0/", "name": "Creative Commons Attribution 4.0"},
    "data_type": "scannet",
    "data_subtype": "v2",
}
FIRST_ID = 220602000000
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def asked_of(rooms: Path) -> list[dict[str, Any]]:
    """Questions with their right answers, from the rooms' own lists of objects; scenes come by turns."""
    out: list[dict[str, Any]] = []
    scenes = sorted(path.name for path in (rooms / "scans").iterdir())
    for turn in range(3):
        for scene in scenes:
            groups = json.loads((rooms / "scans" / scene / f"{scene}.aggregation.json").read_text())["segGroups"]
            counts = Counter(group["label"] for group in groups)
            label = sorted(counts)[turn % len(counts)]
            question, answer = (
                (f"How many {label}s are there?", NUMBERS[counts[label]]),
                (f"Is there a {label} in the room?", "yes"),
                (f"What is near the {label}?", label),
            )[turn]
            out.append(
                {
                    "scene_id": scene,
                    "situation": f"I am facing the {label}.",
                    "alternative_situation": [f"I look at the {label}.", f"A {label} is in front of me."][: 2 - turn],
                    "question": question,
                    "question_id": FIRST_ID + 17 * len(out),
                    "answer": answer,
                }
            )
    return out


def question_row(asked: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if key != "answer"}


def annotation_row(asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "scene_id": asked["scene_id"],
        "question_type": "N/A",
        "answer_type": "other",
        "question_id": asked["question_id"],
        "answers": [{"answer": asked["answer"], "answer_confidence": "yes", "answer_id": 1}],
        "rotation": {"_x": 0, "_y": 0, "_z": -0.9995736030415032, "_w": -0.02919952230128897},
        "position": {"x": 0.7110268899979686, "y": -0.03219739162793617, "z": 0},
    }


def save(folder: Path, asked: list[dict[str, Any]], split: str = "test") -> tuple[Path, Path]:
    """The two files of a split."""
    questions = [question_row(one) for one in asked]
    # The annotations of the released files come in the questions' order; nothing depends on it.
    return save_rows(folder, questions, [annotation_row(one) for one in reversed(asked)], split)


def save_rows(folder: Path, questions: list[Any], annotations: list[Any], split: str = "test") -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = (
        folder / f"v1_balanced_questions_{split}_scannetv2.json",
        folder / f"v1_balanced_sqa_annotations_{split}_scannetv2.json",
    )
    task = {"task_type": "Situated question answering"}
    paths[0].write_text(json.dumps({**INFO, **task, "questions": questions}), encoding="utf-8")
    paths[1].write_text(json.dumps({**INFO, "annotations": annotations}), encoding="utf-8")
    return paths
