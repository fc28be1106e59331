"""The answer of a written record once more, from its ``meta`` alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.distance import box_distance
from rft3d_cli.prepare.questions import rules
from rft3d_cli.prepare.questions.places import route_text
from rft3d_cli.records import ChoiceTarget, Record


def recompute(record: Record) -> str:
    """The answer that a record's ``meta.objects`` or ``meta.floor`` give.

    Args:
        record: A record that ``rft3d prepare spatialqa`` wrote.

    Returns:
        A number as text, or the letter of the option that is right.

    Raises:
        ValueError: Where the record is of another kind, or no option is right.
    """
    found = _answer(record.meta.question_type or "", record.meta.model_extra or {})
    if not isinstance(record.target, ChoiceTarget):
        return found
    letters = [option[0] for option in record.target.options if option[3:] == found]
    if len(letters) != 1:
        raise ValueError(f"{len(letters)} options of {record.id} are {found!r}")
    return letters[0]


def _answer(kind: str, meta: dict[str, Any]) -> str:
    try:
        objects: list[dict[str, Any]] = meta["objects"]
        boxes = np.array([thing["box"] for thing in objects], dtype=np.float64).reshape(-1, 9)
        return _of(kind, objects, boxes, meta)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"not a record of spatialqa: {error}") from None


def _of(kind: str, objects: list[dict[str, Any]], boxes: Floats, meta: dict[str, Any]) -> str:
    if kind == "object_counting":
        return str(len(objects))
    if kind == "object_abs_distance":
        return rules.one_decimal(float(box_distance(boxes[0], boxes[1])))
    if kind == "object_size_estimation":
        return rules.centimetres(float(boxes[0, 3:6].max()))
    if kind == "room_size_estimation":
        return rules.one_decimal(rules.polygon_area(np.array(meta["floor"]["polygon"])))
    if kind == "object_rel_distance":
        labels = [thing["label"] for thing in objects]
        names = list(dict.fromkeys(labels[1:]))
        kinds = [boxes[[i for i, label in enumerate(labels) if i and label == name]] for name in names]
        return str(names[rules.nearest(boxes[0], kinds)[0]])
    if kind.startswith("object_rel_direction_"):
        return rules.direction(kind.removeprefix("object_rel_direction_"), rules.bearing(*boxes[:3, :2]))
    if kind == "route_planning":
        return route_text(rules.route_turns(list(boxes))[0])
    if kind == "obj_appearance_order":
        return ", ".join(thing["label"] for thing in sorted(objects, key=lambda thing: thing["index"]))
    raise ValueError(f"not a question type of spatialqa: {kind!r}")
