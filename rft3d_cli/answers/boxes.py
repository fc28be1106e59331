"""Boxes in model text: the readers of detection and grounding answers, and the writers of target texts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rft3d_cli.answers.scan import Flaw, Found, Region, answer_region, is_number, scan_objects, strict_json
from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.records import MAX_NUMBER

_CACHED = 1024
_SNIPPET = 120
_MAX_LABEL = 100
_BOX_KEYS = frozenset({"label", "bbox_3d"})
_GROUNDING_KEYS = frozenset({"frame", "bbox_3d"})
_PLAIN_LIST = re.compile(r"\s*+(?:```(?:json)?+)?+\s*+(\[[^\\`]*\])\s*+(?:```)?+\s*+")


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that was meant as an answer and could not be used.

    Args:
        reason: Why, in a few words.
        snippet: The text, shortened.
        label: Its class name, where that much could be read.
    """

    reason: str
    snippet: str
    label: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BoxesAnswer:
    """What a detection answer says.

    Args:
        boxes: The usable boxes, in output order.
        found: There was a list or an object to read; True with no boxes is an explicit empty list, or a list of
            nothing usable (see ``dropped``).
        dropped: Objects that could not be used. Rewards count each as a wrong box.
        truncated: The text ends inside a bracket or was longer than is read.
        why: For ``found`` False, what is missing.
    """

    boxes: Boxes3D
    found: bool
    dropped: tuple[Dropped, ...] = ()
    truncated: bool = False
    why: str = ""

    @property
    def complete(self) -> bool:
        """The answer has its whole structure: a list was found, all of it was usable, and it ends."""
        return self.found and not self.dropped and not self.truncated


@dataclass(frozen=True, slots=True)
class GroundingAnswer:
    """What a grounding answer says: both parts, or neither and why.

    Args:
        frame: Index of the frame, from 0.
        box: The nine numbers of the box, in that frame's camera coordinates.
        why: Why there is no answer.
        truncated: The text ends inside a bracket or was longer than is read.
    """

    frame: int | None = None
    box: tuple[float, ...] | None = None
    why: str = ""
    truncated: bool = False


def read_boxes(text: str) -> BoxesAnswer:
    """Read the labelled boxes of a detection answer.

    Objects with ``label`` and ``bbox_3d`` are taken wherever they stand: in a list on one line or many, in a code
    fence, alone, between words, in a list that was cut off (then its complete part). A box counts where it has nine
    finite numbers, the sizes above zero, and a label.

    Args:
        text: Anything a model wrote. Never raises; takes time linear in the text.

    Returns:
        The usable boxes in output order, what was dropped and why, and whether there was a list at all.

    >>> answer = read_boxes('[{"label": "chair", "bbox_3d": [0, 0, 2, 1, 1, 1, 0, 0, 0]}, {"label": "bed"}]')
    >>> answer.boxes.labels, [item.reason for item in answer.dropped]
    (('chair',), ['no bbox_3d'])
    >>> read_boxes("[]").found, read_boxes("nothing").found
    (True, False)
    """
    return _boxes(answer_region(text))


@lru_cache(maxsize=_CACHED)
def _boxes(region: Region) -> BoxesAnswer:
    if not region.truncated and (plain := _plain_boxes(region.text)) is not None:
        return plain
    scan = scan_objects(region.text, _BOX_KEYS)
    labels: list[str] = []
    boxes: list[list[float]] = []
    dropped: list[Dropped] = []
    for found in scan.objects:
        label = _label(found.data.get("label"))
        problem = found.flaw or _label_problem(found.data, label) or _box_problem(found.data.get("bbox_3d"))
        if problem is None and label is not None:
            labels.append(label)
            boxes.append(found.data["bbox_3d"])
        else:
            dropped.append(Dropped(problem or "no label", _snippet(region.text, found), label))
    dropped += [Dropped("a box without a label", "")] * scan.strays
    found_any = scan.empty_list or bool(scan.objects or scan.strays)
    why = "" if found_any else region.why or "no list of boxes"
    return BoxesAnswer(Boxes3D(boxes, labels), found_any, tuple(dropped), region.truncated or scan.truncated, why)


def _plain_boxes(text: str) -> BoxesAnswer | None:
    """The usual answer, in a third of the time: one JSON list of nothing but usable boxes, perhaps in a fence.

    None for everything else: the scanner reads these texts too, and says the same of them.
    """
    match = _PLAIN_LIST.fullmatch(text)
    items = strict_json(match.group(1)) if match else None
    if not isinstance(items, list):
        return None
    labels, boxes = [], []
    for item in items:
        if not (isinstance(item, dict) and item.keys() == _BOX_KEYS):
            return None
        label, box = _label(item["label"]), item["bbox_3d"]
        if label is None or _box_problem(box) is not None:
            return None
        labels.append(label)
        boxes.append(box)
    return BoxesAnswer(Boxes3D(boxes, labels), True)


def read_grounding(text: str) -> GroundingAnswer:
    """Read the frame and the box of a grounding answer: one object with ``frame`` and ``bbox_3d``.

    Two different objects are no answer: a guess may not be hedged.

    Args:
        text: Anything a model wrote. Never raises; takes time linear in the text.

    Returns:
        Both parts, or neither and why.

    >>> read_grounding('{"frame": 3, "bbox_3d": [0, 0, 2, 1, 1, 1, 0, 0, 0]}').frame
    3
    >>> read_grounding('{"frame": "three"}').why
    'no bbox_3d'
    """
    return _grounding(answer_region(text))


@lru_cache(maxsize=_CACHED)
def _grounding(region: Region) -> GroundingAnswer:
    scan = scan_objects(region.text, _GROUNDING_KEYS)
    truncated = region.truncated or scan.truncated
    if not scan.objects:
        return GroundingAnswer(None, None, region.why or "no object with frame and bbox_3d", truncated)
    first = scan.objects[0]
    if any(other.data != first.data or other.flaw for other in scan.objects[1:]):
        return GroundingAnswer(None, None, f"{len(scan.objects)} objects where one was asked for", truncated)
    frame, box = first.data.get("frame"), first.data.get("bbox_3d")
    problem = first.flaw or _box_problem(box) or _frame_problem(frame)
    if problem is not None or frame is None or box is None:
        return GroundingAnswer(None, None, problem or "", truncated)
    return GroundingAnswer(int(frame), tuple(box), "", truncated)


def _frame_problem(value: Any) -> str | None:
    if value is None:
        return "no frame"
    whole = is_number(value) and value >= 0 and value == math.floor(value)
    return None if whole else "frame is not a whole number from 0"


def _box_problem(value: Any) -> str | None:
    """What is wrong with a value that should be a box, or None."""
    # Most are boxes: seen at once. A NaN makes the sum one, which is not small.
    plain = isinstance(value, list) and len(value) == 9 and {*map(type, value)} == {float}
    if plain and sum(map(abs, value)) <= MAX_NUMBER and min(value[3:6]) > 0:
        return None
    if value is None:
        return "no bbox_3d"
    if isinstance(value, Flaw):
        return value.reason
    if not isinstance(value, list):
        return "bbox_3d is not a list"
    if flaw := next((item.reason for item in value if isinstance(item, Flaw)), None):
        return flaw
    if len(value) != 9:
        return f"{len(value)} values where a box has 9"
    if not all(isinstance(item, float) for item in value):
        return "bbox_3d holds something that is not a number"
    if not all(is_number(item) for item in value):
        return "a number out of range"
    return None if min(value[3:6]) > 0 else "a size that is not positive"


def _label(value: Any) -> str | None:
    name = value.strip() if isinstance(value, str) else ""
    if not 0 < len(name) <= _MAX_LABEL:
        return None
    # A lone surrogate has no UTF-8: it could be read but never written to a log.
    return name if name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name) else None


def _label_problem(data: dict[str, Any], label: str | None) -> str | None:
    if "label" not in data:
        return "no label"
    return None if label is not None else "label is not a name"


def _snippet(text: str, found: Found) -> str:
    part = text[found.start : min(found.end, found.start + _SNIPPET)]
    return part.encode("utf-8", "replace").decode("utf-8")


def detection_answer(labels: Sequence[str], boxes: ArrayLike, decimals: int | None = 2) -> str:
    r"""The text that a detection target is taught as.

    Args:
        labels: N class names.
        boxes: ``(N, 9)``.
        decimals: Digits after the point; None writes full precision. Sizes are floored at one unit of the last digit,
            so that thin boxes survive.

    Raises:
        ValueError: On a number that is not finite, or counts that differ.

    >>> detection_answer(["chair"], [[0.421, -0.001, 2.18, 0.55, 0.93, 0.004, 1.2, 0, 0]])
    '```json\n[\n\t{"label": "chair", "bbox_3d": [0.42, 0.0, 2.18, 0.55, 0.93, 0.01, 1.2, 0.0, 0.0]}\n]```'
    >>> detection_answer([], [])
    '```json\n[\n\t\n]```'
    """
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 9)
    lines = [
        json.dumps({"label": label, "bbox_3d": _box_numbers(box, decimals)})
        for label, box in zip(labels, array, strict=True)
    ]
    return "```json\n[\n\t" + ",\n\t".join(lines) + "\n]```"


def grounding_answer(frame: int, box: ArrayLike, decimals: int | None = 2) -> str:
    r"""The text that a grounding target is taught as.

    Args:
        frame: Index of the frame, from 0.
        box: ``(9,)`` in that frame's camera coordinates.
        decimals: As for :func:`detection_answer`.

    Raises:
        ValueError: On a wrong count of numbers, or one that is not finite.

    >>> grounding_answer(3, [0, 0, 2, 1, 1, 1, 0, 0, 0])
    '```json\n\t{"frame": 3, "bbox_3d": [0.0, 0.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]}\n```'
    """
    return "```json\n\t" + json.dumps({"frame": int(frame), "bbox_3d": _box_numbers(box, decimals)}) + "\n```"


def _box_numbers(box: ArrayLike, decimals: int | None = 2) -> list[float]:
    """The nine numbers of a box as they are written; see :func:`detection_answer`.

    Raises:
        ValueError: On a wrong count or a number that is not finite.
    """
    values = [float(x) for x in np.asarray(box, dtype=np.float64).reshape(9)]
    if not all(math.isfinite(x) for x in values):
        raise ValueError("a box holds a number that is not finite")
    if decimals is None:
        return [x + 0.0 for x in values]
    smallest = round(10.0**-decimals, decimals)
    rounded = [round(x, decimals) + 0.0 for x in values]
    return [max(x, smallest) if 3 <= i < 6 else x for i, x in enumerate(rounded)]
