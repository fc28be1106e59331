"""Rows of VG-LLM's files as records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats, box_corners, transform_boxes
from rft3d_cli.geometry.camera import invert_rigid, project_points, projected_bounds
from rft3d_cli.geometry.eras import Era, converted, differs
from rft3d_cli.prepare._scanrefer_frames import projected_area
from rft3d_cli.prepare._vgllm_rows import (
    Cameras,
    Kind,
    answer_boxes,
    answer_json,
    box_of,
    boxes_of,
    cameras_of,
    frame_box,
    kind_of,
    labelled_boxes,
    rewritten,
)
from rft3d_cli.prepare._vgllm_video import video_of
from rft3d_cli.prepare.conversations import (
    RowError,
    Turns,
    image_names,
    inside,
    letter_of,
    metadata,
    number_of,
    options_of,
    spar_type,
    turns,
)
from rft3d_cli.prepare.pictures import image_size
from rft3d_cli.prepare.pipeline import Store, is_there
from rft3d_cli.prompts import FORBIDDEN, IMAGE
from rft3d_cli.records import Record, describe

ROUNDED = 0.00501
"""How far a number may be from its two decimals."""
MISSING = "missing media"
_SCENE = re.compile(r"(?:^|/)(scene\d{4}_\d\d)(?=[/._]|$)")


@dataclass(frozen=True)
class Context:
    """What the rows of a file have in common.

    Args:
        stem: Name of the file, for ids.
        store: The media folder, and how records name what lies in it.
        split: Name of the split.
        era: What the angles mean; None where it does not matter.
    """

    stem: str
    store: Store
    split: str
    era: Era | None


@dataclass(frozen=True)
class Parsed:
    """A row whose kind, turns and media names are known.

    Args:
        row: The row.
        kind: What it asks for.
        said: Its turns.
        images: Its images, as the row names them; None with a video.
        spar: Type of a SPAR question.
    """

    row: Mapping[str, Any]
    kind: Kind
    said: Turns
    images: list[str] | None
    spar: str | None

    @property
    def media(self) -> list[str]:
        """Every file or folder that the row needs."""
        return self.images if self.images is not None else [inside(self.row["video"])]


def parse_row(row: Mapping[str, Any]) -> Parsed:
    """A row's kind, turns and media names.

    Raises:
        RowError: Where it lacks one of them, or needs marks painted into its images.
    """
    spar = spar_type(row)
    said = turns(row)
    images = image_names(row)
    parsed = Parsed(row, kind_of(row, said), said, images, spar)
    if images is None:
        inside(row["video"])
        if parsed.kind in ("detection", "grounding"):
            raise RowError("no images", "boxes need the images that they belong to")
    if found := next((token for token in FORBIDDEN if token in said.prompt), None):
        raise RowError("wrong prompt", f"it holds {found}, which stands for pixels")
    return parsed


def detection_boxes(parsed: Parsed) -> tuple[list[str], Floats]:
    """Labels and boxes ``(N, 9)`` of a detection row, angles as they are in the file.

    Raises:
        RowError: Where there are none, or the answer says something else.
    """
    row, answer = parsed.row, parsed.said.answer
    if row.get("boxes") is None:
        return answer_boxes(answer)
    labels, boxes = labelled_boxes(row["boxes"])
    if answer.strip():
        said, shown = answer_boxes(answer)
        if said != labels or (len(boxes) and np.abs(shown - boxes).max() > ROUNDED):
            raise RowError("answer and boxes differ", f"{len(said)} objects said, {len(labels)} in boxes")
    return labels, boxes


def grounding_target(parsed: Parsed) -> tuple[int, Floats] | None:
    """Frame and box ``(9,)`` that a grounding row names, angles as they are in the file; None for a test row.

    Raises:
        RowError: Where target and answer differ, or one of them is none.
    """
    frames = len(parsed.images or [])
    answer = parsed.said.answer
    said = frame_box(answer_json(answer), frames, "answer") if answer.strip() else None
    if parsed.row.get("target") is None:
        return said
    frame, box = frame_box(parsed.row["target"], frames, "target")
    if said is not None and (said[0] != frame or np.abs(said[1] - box).max() > ROUNDED):
        raise RowError("answer and target differ")
    return frame, box


def row_record(parsed: Parsed, number: int, context: Context, warnings: set[str]) -> Record:
    """The record of a row.

    Args:
        parsed: The row.
        number: Of the row, from 0.
        context: What its file's rows have in common.
        warnings: What looks wrong is added here.

    Raises:
        RowError: Where it becomes none.
    """
    for name in parsed.media:
        if not is_there(context.store.folder / name):
            raise RowError(MISSING, name, bad=False)
    data = {"detection": _detection, "grounding": _grounding}.get(parsed.kind, _text)(parsed, context, warnings)
    video, prompt = (
        video_of(inside(parsed.row["video"]), parsed.said.prompt, context.store)
        if parsed.images is None
        else ({"frames": [context.store.name(name) for name in parsed.images]}, parsed.said.prompt)
    )
    if parsed.kind == "grounding" and IMAGE not in prompt:
        # Test rows keep their prompt without the line of frames, which their evaluation puts before it.
        tags = "".join(f"Frame-{i}: {IMAGE}" for i in range(len(parsed.media)))
        prompt = f"{tags}\n{prompt.removeprefix(chr(10))}"
    marks = prompt.count(IMAGE)
    if parsed.images is not None and marks not in (0, len(parsed.images)):
        raise RowError("wrong prompt", f"{marks} {IMAGE} marks for {len(parsed.images)} images")
    meta = _meta(parsed, context) | data.pop("meta", {})
    try:
        record = Record.model_validate(
            {
                "id": f"{context.stem}/{number}",
                "video": video,
                "prompt": prompt,
                "answer": parsed.said.answer or None,
                **data,
                "meta": meta,
            }
        )
        record.to_json().encode()
    except ValidationError as error:
        raise RowError("no valid record", describe(error)) from None
    except ValueError as error:
        raise RowError("no valid record", f"half of a surrogate pair ({type(error).__name__})") from None
    return record


def _detection(parsed: Parsed, context: Context, warnings: set[str]) -> dict[str, Any]:
    labels, stored = detection_boxes(parsed)
    boxes = converted(stored, context.era)
    images = parsed.images or []
    return {
        "task": "detection",
        "answer": _said(parsed.said.answer, stored, boxes, context.era),
        "target": {
            "boxes": [{"label": label, "bbox_3d": box} for label, box in zip(labels, boxes.tolist(), strict=True)]
        },
        "camera": _camera(cameras_of(parsed.row, len(images)), images[0], context, warnings),
        "meta": {"dataset": "scannet"},
    }


def _grounding(parsed: Parsed, context: Context, warnings: set[str]) -> dict[str, Any]:
    """A grounding record.

    Test rows name no frame. Theirs becomes the one in whose picture the projected box covers the largest area, among
    those in which its centre lies where there are any; what stands in between is not known. Scores do not depend on
    it: they place a predicted box by the frame that the prediction names.
    """
    row, images = parsed.row, parsed.images or []
    cameras = cameras_of(row, len(images))
    world = None if row.get("gt_bbox") is None else converted(box_of(row["gt_bbox"], "gt_bbox"), context.era)
    camera = _camera(cameras, images[0], context, warnings)
    named = grounding_target(parsed)
    rule = {}
    if named is not None:
        frame, stored = named
        box = converted(stored, context.era)
        if world is None and cameras is None:
            raise RowError("no place in the world", "neither gt_bbox nor cameras")
        if world is None and cameras is not None:
            world = transform_boxes(box, cameras.pose(frame))
        elif world is not None and cameras is not None:
            exact = transform_boxes(world, invert_rigid(cameras.pose(frame)))
            limit = 0.03 + 0.02 * float(np.linalg.norm(exact[3:6]))
            if np.abs(box_corners(exact) - box_corners(box)).max() > limit:
                raise RowError("target and gt_bbox differ")
            box = exact
        elif world is not None and np.abs(world[3:6] - box[3:6]).max() > 2 * ROUNDED:
            raise RowError("target and gt_bbox differ", "in their sizes")
        answer = _said(parsed.said.answer, stored[None], box[None], context.era)
    else:
        if world is None or cameras is None or camera is None:
            raise RowError("no target", f"neither target nor {'gt_bbox' if world is None else 'cameras'}")
        frame = clearest_frame(world, cameras, camera["image_size"])
        box = transform_boxes(world, invert_rigid(cameras.pose(frame)))
        answer, rule = None, {"target_rule": "largest projected area"}
    if world is None:
        raise ValueError("no box in the world")
    return {
        "task": "grounding",
        "answer": answer,
        "target": {"frame": frame, "bbox_3d": box.tolist(), "bbox_world": world.tolist()},
        "camera": camera,
        "meta": {"dataset": "scanrefer", **rule},
    }


def clearest_frame(world: Floats, cameras: Cameras, size: tuple[int, int]) -> int:
    """The frame in which a box covers the largest area.

    Args:
        world: ``(9,)`` in the axis-aligned world.
        cameras: Of the frames.
        size: ``(width, height)`` of the pictures.

    Raises:
        RowError: Where no frame shows the whole box before the camera, and a part of it in the picture.
    """
    ranks = []
    for frame in range(len(cameras.cam_to_world)):
        box = transform_boxes(world, invert_rigid(cameras.pose(frame)))
        if projected_bounds(box, cameras.intrinsic, size) is None:
            continue
        area = projected_area(box, cameras.intrinsic)
        pixel, _ = project_points(box[:3], cameras.intrinsic)
        centred = bool(((pixel >= 0) & (pixel < np.array(size))).all())
        if area > 0:
            ranks.append((centred, area, -frame))
    if not ranks:
        raise RowError("no frame shows the box", bad=False)
    return -max(ranks)[2]


def _text(parsed: Parsed, context: Context, warnings: set[str]) -> dict[str, Any]:
    answer, row = parsed.said.answer, parsed.row
    if parsed.kind == "caption":
        references = row.get("annotations") or ([answer] if answer else [])
        if not isinstance(references, list) or not references or not all(isinstance(r, str) for r in references):
            raise RowError("no answer", "neither an answer nor annotations that are texts")
        meta = {"dataset": "scan2cap", "iou": row.get("iou")}
        return {"task": "text", "target": {"references": references}, "meta": _plain(meta)}
    if parsed.kind == "sqa3d" and isinstance(row.get("answer"), str | int):
        answer = str(row["answer"])
    if not answer.strip():
        raise RowError("no answer")
    if parsed.kind == "sqa3d":
        return {"task": "text", "target": {"references": [answer]}, "meta": {"dataset": "sqa3d"}}
    options = options_of(parsed.said.prompt)
    letter = letter_of(answer, options)
    if letter is not None:
        return {"task": "choice", "target": {"letter": letter, "options": options}}
    number = number_of(answer)
    if number is not None:
        return {"task": "number", "target": {"value": number}}
    return {"task": "text", "target": {"references": [answer]}}


def _said(answer: str, stored: Floats, boxes: Floats, era: Era | None) -> str | None:
    """The answer text with the converted boxes; as it is where none had to be converted."""
    if not answer.strip():
        return None
    if era != "extrinsic" or not len(stored) or not differs(stored).any():
        return answer
    text = rewritten(answer, boxes) if len(re.findall('"bbox_3d"', answer)) == len(boxes) else ""
    shown: Any = answer_json(text) if text else None
    items = shown if isinstance(shown, list) else [shown]
    if len(items) != len(boxes) or np.abs(boxes_of([i["bbox_3d"] for i in items]) - boxes).max() > ROUNDED:
        raise RowError("wrong answer", "its boxes cannot be written anew")
    return text


def _camera(cameras: Cameras | None, image: str, context: Context, warnings: set[str]) -> dict[str, Any] | None:
    if cameras is None:
        return None
    size = _size(context.store.folder / image)
    middle = cameras.intrinsic[:2, 2] / np.array(size)
    if not ((middle > 0.25) & (middle < 0.75)).all():
        warnings.add("the camera does not fit the size of the frames")
    return {
        "intrinsic": cameras.intrinsic.tolist(),
        "image_size": size,
        "cam_to_world": cameras.cam_to_world.tolist(),
        "axis_align": cameras.axis_align.tolist(),
    }


@lru_cache(maxsize=4096)
def _size(path: Path) -> tuple[int, int]:
    try:
        return image_size(path)
    except DataError as error:
        raise RowError("damaged image", f"{path}: {error.message}") from None


def _meta(parsed: Parsed, context: Context) -> dict[str, Any]:
    row, about = parsed.row, metadata(parsed.row)
    found = next((m for name in parsed.media if (m := _SCENE.search(name))), None)
    scene = found.group(1) if found else row.get("scene_name")
    asked = next((x for x in (row.get("question_type"), about.get("question_type"), parsed.spar) if x), None)
    source = row.get("data_source") or about.get("dataset") or (parsed.spar and "spar")
    subset = parsed.kind == "grounding" and asked in ("unique", "multiple")
    texts = {
        "dataset": source,
        "scene": scene,
        "question_type": None if subset else asked,
        "subset": asked if subset else None,
    }
    kept = {"source_id": row.get("id", row.get("qid"))} | {key: about.get(key) for key in ("object_id", "ann_id")}
    return (
        {key: value if isinstance(value, str) else None for key, value in texts.items()}
        | {"split": context.split}
        | _plain(kept)
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are text or finite numbers."""
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, str | int) or (isinstance(value, float) and np.isfinite(value))
    }


__all__ = [
    "MISSING",
    "Context",
    "Parsed",
    "detection_boxes",
    "grounding_target",
    "parse_row",
    "row_record",
]
