"""Training sets for tests in the layouts that they are released in, written here by hand; no code of ``prepare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

HEAD = "These are frames of a video."
LETTER = "Answer with the option's letter from the given choices directly."
WORD = "Please answer the question using a single word or phrase."

# Questions as VSI-Bench's templates put them, with their answers.
COUNT = ("object_counting", "How many chair(s) are in this room?", None, "4")
DISTANCE = (
    "object_abs_distance",
    "Measuring from the closest point of each object, what is the distance between the sofa and the tv (in meters)?",
    None,
    "2.4",
)
SIZE = (
    "object_size_estimation",
    "What is the length of the longest dimension (length, width, or height) of the bed, measured in centimeters?",
    None,
    "203",
)
ROOM = (
    "room_size_estimation",
    "What is the size of this room (in square meters)? If multiple rooms are shown, estimate the size of the combined "
    "space.",
    None,
    "21.5",
)
CLOSEST = (
    "object_rel_distance",
    "Measuring from the closest point of each object, which of these objects (bed, lamp, door, tv) is the closest to "
    "the chair?",
    ("bed", "lamp", "door", "tv"),
    "B",
)
SIDE = (
    "object_rel_direction_easy",
    "If I am standing by the bed and facing the door, is the lamp to the left or the right of the door?",
    ("left", "right"),
    "A",
)
TURN = (
    "object_rel_direction_medium",
    "If I am standing by the bed and facing the door, is the lamp to my left, right, or back?",
    ("left", "right", "back"),
    "C",
)
QUARTER = (
    "object_rel_direction_hard",
    "If I am standing by the bed and facing the door, is the lamp to my front-left, front-right, back-left, or "
    "back-right?",
    ("back-left", "front-left", "back-right", "front-right"),
    "D",
)
ORDER = (
    "obj_appearance_order",
    "What will be the first-time appearance order of the following categories in the video: bed, tv, lamp?",
    ("bed, tv, lamp", "tv, bed, lamp", "lamp, tv, bed", "tv, lamp, bed"),
    "B",
)
ROUTE = (
    "route_planning",
    "You are a robot beginning at the bed and facing the door. You want to navigate to the tv. You will perform the "
    "following actions: 1. Go forward until the door 2. [please fill in] 3. Go forward until the tv. You have reached "
    "the final destination.",
    ("Turn Left", "Turn Right", "Turn Back"),
    "A",
)
NUMBERS = (COUNT, DISTANCE, SIZE, ROOM)
CHOICES = (CLOSEST, SIDE, TURN, QUARTER, ORDER, ROUTE)
ALL = (*NUMBERS, *CHOICES)
Question = tuple[str, str, tuple[str, ...] | None, str]

VSI590K = {
    "object_counting": "absolute_count",
    "object_abs_distance": "absolute_distance_object",
    "object_size_estimation": "absolute_size_object",
    "room_size_estimation": "absolute_size_room",
    "object_rel_distance": "relative_distance_object",
    "object_rel_direction_easy": "relative_direction_object",
    "object_rel_direction_medium": "relative_direction_object",
    "object_rel_direction_hard": "relative_direction_object",
    "obj_appearance_order": "appearance_order",
}
VSITRAIN = {
    "object_counting": "object_count",
    "object_abs_distance": "absolute_distance",
    "object_size_estimation": "object_size",
    "room_size_estimation": "room_size",
    "object_rel_distance": "relative_distance",
    "object_rel_direction_easy": "relative_direction",
    "object_rel_direction_medium": "relative_direction",
    "object_rel_direction_hard": "relative_direction",
    "obj_appearance_order": "appearance_order",
}
SIMS = {
    "object_counting": "obj_count",
    "object_abs_distance": "obj_abs_distance",
    "object_size_estimation": "obj_size_est",
    "room_size_estimation": "room_size_est",
    "object_rel_distance": "obj_rel_distance",
    "object_rel_direction_easy": "obj_rel_direction_easy",
    "object_rel_direction_medium": "obj_rel_direction_medium",
    "object_rel_direction_hard": "obj_rel_direction_hard",
    "obj_appearance_order": "obj_appearance_order",
}


def marked(options: tuple[str, ...] | None) -> list[str]:
    return [f"{chr(65 + i)}. {option}" for i, option in enumerate(options or ())]


def prompt(asked: Question) -> str:
    """The prompt of VSI-Bench's harness, spelled out."""
    _, text, options, _ = asked
    if options is None:
        return f"{HEAD}\n{text}\n{WORD}"
    lines = "\n".join(marked(options))
    return f"{HEAD}\n{text}\nOptions:\n{lines}\n{LETTER}"


def talk(human: str, gpt: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]


def vsi590k(asked: Question, video: str = "scannet/scene0191_00.mp4", **more: Any) -> dict[str, Any]:
    talked = talk(f"<image>\n{prompt(asked)}", asked[3])
    return {"video": video, "conversations": talked, "question_type": VSI590K[asked[0]], **more}


def vsitrain(asked: Question, video: str = "scannet_videos_128f/train/scene0335_02_128f.mp4") -> dict[str, Any]:
    return {
        "video": video,
        "question": f"<image>\n{prompt(asked)}",
        "ground_truth": asked[3],
        "question_type": VSITRAIN[asked[0]],
        "question_type_detail": VSITRAIN[asked[0]],
        "type": "oe" if asked[2] is None else "mc",
        "source": "scannet",
    }


def spacer(asked: Question, path: str = "/SR_dataset/scene0002_01.mp4", **more: Any) -> dict[str, Any]:
    return {
        "problem_id": 17,
        "problem": asked[1],
        "data_type": "video",
        "problem_type": "numerical" if asked[2] is None else "multiple choice",
        "options": marked(asked[2]),
        "solution": f"<answer>{asked[3]}</answer>",
        "path": path,
        "data_source": "SR_dataset",
        **more,
    }


def vlm3r(asked: Question, scene: str = "scene0384_00", **more: Any) -> dict[str, Any]:
    return {
        "id": "7e8340c2-eb6e-4736-abfe-13ca82a9e62e",
        "data_source": "scannet",
        "scene_name": scene,
        "video": f"scannet/videos/{scene}.mp4",
        "conversations": talk(f"<image>\n{prompt(asked)}", asked[3]),
        **more,
    }


def sims(asked: Question, video: str = "procthor/train/000042/raw_navigation_camera__0.mp4") -> dict[str, Any]:
    return {
        "video": video,
        "conversations": talk(f"<image>\n{prompt(asked)}", asked[3]),
        "question_type": SIMS[asked[0]],
        "fmt": "oe" if asked[2] is None else "mc",
    }


SPAR_IMAGES = [f"spar/scannet/images/scene0012_01/image_color/{n}.jpg" for n in (2626, 3321, 133)]


def spar(question: str, answer: str, kind: str, images: list[str] | None = None) -> dict[str, Any]:
    names = SPAR_IMAGES if images is None else images
    return {
        "id": "scene0012_01_1661",
        "conversations": talk("<image>\n" * len(names) + question, answer),
        "images": names,
        "spar_info": json.dumps({"red_point": [[395, 89]], "point_img_idx": [[0]], "type": kind}),
    }


def mindcube(answer: str = "C") -> dict[str, Any]:
    views = ("front_007", "left_084", "back_101", "right_234")
    return {
        "id": "among_group693_q1_5_2",
        "category": ["among", "O-O"],
        "type": "four_view",
        "meta_info": [["sneaker"], ["left"]],
        "question": "Based on these four images showing the same scene from different viewpoints: From the viewpoint "
        "presented in image 2, which object is to my right? A. Tv B. Dining table C. Light purple sofa "
        "D. Brown curtains",
        "images": [f"other_all_image/among/shoe_216/{view}.jpg" for view in views],
        "gt_answer": answer,
    }


def names(row: Any) -> list[str]:
    """What a row's media are called."""
    if not isinstance(row, dict):
        return []
    found = [row.get(key) for key in ("video", "image", "images", "path")]
    flat = [name for value in found for name in (value if isinstance(value, list) else [value])]
    return [name.lstrip("/") for name in flat if isinstance(name, str) and name]


def add_media(folder: Path, rows: list[Any]) -> Path:
    """Empty videos and tiny pictures for all rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in {name for row in rows for name in names(row)}:
        path = folder / name
        if ".." in name or "\0" in name or path.exists() or not path.suffix:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".mp4":
            path.write_bytes(b"")
        else:
            Image.new("RGB", (8, 6)).save(path)
    return folder


def save(path: Path, rows: list[Any]) -> Path:
    """Write a list, one row a line, or a table, as the name says."""
    if path.suffix == ".parquet":
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        parquet.write_table(arrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path
