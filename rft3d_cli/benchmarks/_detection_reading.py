"""What detection answers say: their labels and boxes, as the official and the robust scorer read them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rft3d_cli.answers import read_boxes
from rft3d_cli.answers.literal import read_literal
from rft3d_cli.answers.objects import object_spans
from rft3d_cli.answers.scan import answer_region, scan_objects
from rft3d_cli.benchmarks.official import as_box, strip_fence
from rft3d_cli.benchmarks.result import official_text, writable
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats

_KEYS = frozenset({"label", "bbox_3d"})
UNLABELLED = "(no label)"
"""Where the robust scorer counts objects whose label cannot be read."""


@dataclass
class Reading:
    """What one prediction says.

    Args:
        labels: A label a box, in output order.
        boxes: The box, or None where none can be computed with: it is never found.
        dropped: Objects that the scorer does not count at all.
        readable: There was a list or an object.
        why: Where something was lost, the first reason.
        confidence: How sure the model is of each box, where that is known.
        unsure: Boxes that were left out for their confidence.
        lines: Where the official reader's boxes stand: start and end of each one's line, in characters of the text
            that it was given. Empty for the robust one.
    """

    labels: list[str] = field(default_factory=list)
    boxes: list[Floats | None] = field(default_factory=list)
    dropped: int = 0
    readable: bool = True
    why: str = ""
    confidence: list[float] | None = None
    unsure: int = 0
    lines: list[tuple[int, int]] = field(default_factory=list)

    def places(self, confidence: float) -> list[int]:
        """Which boxes the model is at least so sure of; all where that is not known."""
        sure = self.confidence if self.confidence is not None else [math.inf] * len(self.labels)
        return [i for i, value in enumerate(sure) if value >= confidence]

    def at_least(self, confidence: float) -> Reading:
        """The reading without the boxes that the model is less sure of."""
        if self.confidence is None:
            return self
        kept = self.places(confidence)
        return replace(
            self,
            labels=[self.labels[i] for i in kept],
            boxes=[self.boxes[i] for i in kept],
            confidence=[self.confidence[i] for i in kept],
            unsure=len(self.labels) - len(kept),
            lines=[self.lines[i] for i in kept] if self.lines else [],
        )


def read(text: str, scorer: str, answer_style: str) -> Reading:
    """One prediction as a scorer reads it.

    Args:
        text: Anything a model wrote.
        scorer: ``official`` or ``robust``.
        answer_style: Of the official reading.
    """
    return _read_robust(text) if scorer == "robust" else _read_official(official_text(text, answer_style))


def with_confidence(
    reading: Reading, name: str, text: str, values: Sequence[float], scorer: str, answer_style: str
) -> Reading:
    """A reading with the confidence of each of its boxes.

    Confidences are given for the ``{…}`` objects of the text, whether they are boxes or not. Each box that was read
    takes the value of the object that stands where it was read and reads as that box by itself; one that no such object
    reads as, minus infinity.

    Args:
        reading: What the text says.
        name: The record's id, for the message.
        text: The prediction.
        values: One an object of the text, in order.
        scorer: As in :func:`read`.
        answer_style: As in :func:`read`.

    Raises:
        DataError: Where there are more or fewer values than objects, or one is not finite.
    """
    spans = object_spans(text)
    if len(values) != len(spans):
        raise DataError(
            f"prediction {name}: {len(values)} confidences for {len(spans)} boxes",
            "confidence holds one number for each {…} object of the text, in order",
        )
    if not all(map(math.isfinite, values)):
        raise DataError(f"prediction {name}: a confidence is not a finite number")
    if not reading.labels:
        return replace(reading, confidence=[])
    objects = list(zip(spans, map(float, values), strict=True))
    if scorer == "robust":
        confidence = _by_object(reading, text, objects)
    else:
        text = writable(text)
        confidence = _by_line(reading, text, objects, _start(text, official_text(text, answer_style)))
    return replace(reading, confidence=confidence)


Objects = list[tuple[tuple[int, int], float]]
"""Start and end of each object of a text, and its confidence, in order."""


def _by_line(reading: Reading, text: str, objects: Objects, first: int) -> list[float]:
    """The official reader's boxes: each is a line by itself."""
    out, place = [], 0
    for key, (start, end) in zip(_keys(reading), reading.lines, strict=True):
        while place < len(objects) and objects[place][0][0] < first + start:
            place += 1
        value = -math.inf
        while place < len(objects) and objects[place][0][1] <= first + end:
            (a, b), sure = objects[place]
            place += 1
            if key in _keys(_read_official(text[a:b])):
                value = sure
                break
        out.append(value)
    return out


def _by_object(reading: Reading, text: str, objects: Objects) -> list[float]:
    """The robust reader's boxes: of the objects that it takes, each is the first left that reads as the box."""
    body = answer_region(text).text
    first = _start(text, body)
    taken = {(first + one.start, first + one.end) for one in scan_objects(body, _KEYS).objects}
    found: dict[tuple[str, bytes], deque[float]] = {}
    for span, value in objects:
        if span in taken:
            # One object of a list: there it is read whatever it holds.
            for key in _keys(_read_robust(f"[{text[slice(*span)]}]")):
                found.setdefault(key, deque()).append(value)
    return [found[key].popleft() if found.get(key) else -math.inf for key in _keys(reading)]


def _start(text: str, body: str) -> int:
    """Where the answer stands in a text, of which the same may stand in the thinking as well."""
    if body == text:
        return 0
    other = "x" * len(body)
    place = text.rfind(body)
    while place >= 0:
        if answer_region(text[:place] + other + text[place + len(body) :]).text.strip() == other:
            return place
        place = text.rfind(body, 0, place + len(body) - 1)
    return 0


def _keys(reading: Reading) -> list[tuple[str, bytes]]:
    """What tells the boxes of a text apart."""
    boxes = (b"" if box is None else box.tobytes() for box in reading.boxes)
    return list(zip(reading.labels, boxes, strict=True))


def _read_official(text: str) -> Reading:
    """Boxes by the public scorer's reading: each line by itself one Python dict."""
    out = Reading()
    body = strip_fence(text)
    lost = ""
    # Where the fence ends: it is undressed from both sides.
    end = len(text) - len(text.lstrip("\n").lstrip("`").lstrip("json").lstrip("\n")) - 1
    for line in body.split("\n"):
        start, end = end + 1, end + 1 + len(line)
        line = line.strip().strip(",")
        if "bbox_3d" not in line and "label" not in line:
            continue
        try:
            found = read_literal(line)
            box, label = as_box(found["bbox_3d"]), found["label"]
            hash(label)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            out.dropped += 1
            lost = lost or f"a line does not read: {_in_words(error)}"
            continue
        out.labels.append(writable(label) if isinstance(label, str) else repr(label))
        out.boxes.append(box)
        out.lines.append((start, end))
    # The public scorer knows no unreadable answers; ours to tell "nothing there" from "nothing read".
    out.readable = bool(out.labels) or (not out.dropped and "".join(body.split()) == "[]")
    out.why = lost or ("" if out.readable else "no line with a box")
    return out


def _in_words(error: Exception) -> str:
    """Why a line is no box, without the names of Python's insides."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    if isinstance(error, TypeError):
        return "it is not one object with a label and a box"
    return "its box is not nine numbers" if "shape" in str(error) else str(error)


def _read_robust(text: str) -> Reading:
    """Boxes by the tolerant reader; what it cannot use stays as a box that nothing matches."""
    answer = read_boxes(text)
    lost = [item.label or UNLABELLED for item in answer.dropped]
    why = answer.dropped[0].reason if answer.dropped else answer.why
    return Reading([*answer.boxes.labels, *lost], [*answer.boxes.boxes, *[None] * len(lost)], 0, answer.found, why)
