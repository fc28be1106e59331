"""What detection answers say: their labels and boxes, as the official and the robust scorer read them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rft3d_cli.answers import read_boxes
from rft3d_cli.answers.literal import read_literal
from rft3d_cli.answers.objects import object_spans
from rft3d_cli.answers.scan import answer_region
from rft3d_cli.benchmarks.official import as_box, strip_fence
from rft3d_cli.benchmarks.result import official_text, writable
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats

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
    """

    labels: list[str] = field(default_factory=list)
    boxes: list[Floats | None] = field(default_factory=list)
    dropped: int = 0
    readable: bool = True
    why: str = ""
    confidence: list[float] | None = None
    unsure: int = 0

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
    takes the value of the object that reads as that box by itself; one that no object reads as, minus infinity.

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
    alone: Callable[[str], Reading]
    if scorer == "robust":
        body, alone = answer_region(text).text, _read_robust_object
    else:
        text = writable(text)
        body, alone = official_text(text, answer_style), _read_official
    first = max(text.rfind(body), 0)
    found: dict[tuple[str, bytes], deque[float]] = {}
    for (start, end), value in zip(spans, values, strict=True):
        if start >= first:
            one = alone(text[start:end])
            for key in _keys(one):
                found.setdefault(key, deque()).append(float(value))
    confidence = [found[key].popleft() if found.get(key) else -math.inf for key in _keys(reading)]
    return replace(reading, confidence=confidence)


def _keys(reading: Reading) -> list[tuple[str, bytes]]:
    """What tells the boxes of a text apart."""
    boxes = (b"" if box is None else box.tobytes() for box in reading.boxes)
    return list(zip(reading.labels, boxes, strict=True))


def _read_official(text: str) -> Reading:
    """Boxes by the public scorer's reading: each line by itself one Python dict."""
    out = Reading()
    body = strip_fence(text)
    lost = ""
    for line in body.split("\n"):
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


def _read_robust_object(text: str) -> Reading:
    """One object of a list: there it is read whatever it holds."""
    return _read_robust(f"[{text}]")
