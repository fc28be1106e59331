"""Boxes drawn on frames: wireframes with depth, and labels that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.camera import projected_bounds, visible_edges

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
"""Left, top, right and bottom, pixels."""

PALETTE: tuple[Colour, ...] = (
    (255, 176, 0),
    (86, 180, 233),
    (0, 200, 140),
    (240, 110, 170),
    (250, 240, 90),
    (150, 130, 255),
    (255, 110, 60),
    (120, 220, 60),
)
"""Colours that stay apart for most kinds of colour vision, and stand out from indoor pictures."""

TARGET: Colour = (60, 220, 90)
"""The colour of ground truth beside predictions."""

_SUPERSAMPLE = 3


def label_colour(label: str) -> Colour:
    """The colour of a class, the same in every picture.

    >>> label_colour("chair") == label_colour("chair")
    True
    """
    return PALETTE[sum(label.encode()) % len(PALETTE)]


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: Boxes3D,
    intrinsic: ArrayLike,
    *,
    colours: Sequence[Colour] | None = None,
    captions: Sequence[str] | None = None,
    dashed: Sequence[bool] | None = None,
) -> NDArray[np.uint8]:
    """Draw wireframes of boxes on a frame.

    Far boxes are drawn first and near edges brighter than far ones, so that what stands in front looks so. Captions
    step aside for those of nearer boxes where there is room.

    Args:
        image: ``(H, W, 3)`` RGB; not changed.
        boxes: In the frame's camera coordinates.
        intrinsic: ``(3, 3)``, for the frame's size.
        colours: One a box; the class's by default.
        captions: One a box; the label and the distance by default. Empty text draws no label.
        dashed: Whether a box has broken lines, one a box, to tell one set of boxes from another; none by default.

    Returns:
        A new ``(H, W, 3)`` picture.
    """
    from PIL import Image, ImageDraw

    height, width = image.shape[:2]
    order = np.argsort([-float(np.linalg.norm(box[:3])) for _, box in boxes])
    layer = Image.new("RGBA", (width * _SUPERSAMPLE, height * _SUPERSAMPLE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    thickness = max(2, round(max(width, height) / 220 * _SUPERSAMPLE))
    for index in order:
        colour = colours[index] if colours is not None else label_colour(boxes.labels[index])
        edges = visible_edges(boxes.boxes[index], np.asarray(intrinsic, dtype=np.float64))
        _wireframe(
            pen, _dashes(edges, (width, height)) if dashed is not None and dashed[index] else edges, colour, thickness
        )
    picture = Image.fromarray(image).convert("RGBA")
    picture.alpha_composite(layer.resize((width, height), Image.Resampling.LANCZOS))
    tags: list[tuple[Image.Image, tuple[int, int]]] = []
    taken: list[Rectangle] = []
    for index in reversed(order):
        label, box = boxes.labels[index], boxes.boxes[index]
        caption = captions[index] if captions is not None else f"{label} {float(np.linalg.norm(box[:3])):.1f} m"
        colour = colours[index] if colours is not None else label_colour(label)
        bounds = projected_bounds(box, intrinsic, (width, height))
        if caption and bounds is not None:
            tag = _tag(caption, (width, height), colour)
            left, top = _free_place(tag.size, bounds, (width, height), taken)
            taken.append((left, top, left + tag.width, top + tag.height))
            tags.append((tag, (left, top)))
    for tag, place in reversed(tags):
        picture.alpha_composite(tag, place)
    return np.asarray(picture.convert("RGB"))


def with_headings(picture: NDArray[np.uint8], headings: Sequence[str]) -> NDArray[np.uint8]:
    """A picture of equally wide columns with a heading over each.

    Args:
        picture: ``(H, W, 3)`` RGB.
        headings: One a column.

    Returns:
        A taller picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    width = picture.shape[1]
    size = max(12, width // 50)
    bar = Image.new("RGB", (width, 2 * size), (24, 24, 28))
    pen, font = ImageDraw.Draw(bar), ImageFont.load_default(size)
    for column, text in enumerate(headings):
        middle = (column + 0.5) * width / len(headings)
        pen.text((middle, size), text, font=font, fill=(255, 255, 255), anchor="mm")
    return np.concatenate([np.asarray(bar), picture], axis=0)


def _wireframe(pen: ImageDraw, edges: Floats, colour: Colour, thickness: int) -> None:
    if not len(edges):
        return
    depth = edges[:, :, 2].mean(axis=1)
    span = max(float(np.ptp(depth)), 1e-6)
    limit = 1e5
    for edge, z in sorted(zip(edges, depth, strict=True), key=lambda pair: -float(pair[1])):
        nearness = 1.0 - (float(z) - float(depth.min())) / span
        alpha = round(120 + 135 * nearness)
        ends = [tuple(float(v) for v in np.clip((end[:2] + 0.5) * _SUPERSAMPLE, -limit, limit)) for end in edge]
        pen.line(ends, fill=(*_darker(colour, 0.35), alpha // 2), width=round(thickness * 1.9))
        pen.line(ends, fill=(*colour, alpha), width=max(1, round(thickness * (0.6 + 0.4 * nearness))))


def _dashes(edges: Floats, size: tuple[int, int]) -> Floats:
    """Edges as dashes of equal length, of which only those near the picture are kept."""
    step = max(4.0, max(size) / 40)
    out = []
    for start, end in edges:
        length = float(np.hypot(*(end - start)[:2]))
        if not np.isfinite(length):
            continue
        first, last = _inside(start, end, size, step)
        for number in range(int(first * length / step), int(last * length / step) + 1):
            if number % 2 == 0:
                ends = np.clip(np.array([number, number + 1]) * step / max(length, 1e-9), 0, 1)
                out.append(start + ends[:, None] * (end - start))
    return np.array(out).reshape(-1, 2, 3)


def _inside(start: Floats, end: Floats, size: tuple[int, int], margin: float) -> tuple[float, float]:
    """Where along a line, from 0 to 1, it enters and leaves the picture with a margin; (0, -1) where it never does."""
    first, last = 0.0, 1.0
    for axis in range(2):
        at, along = float(start[axis]), float(end[axis] - start[axis])
        low, high = -margin, size[axis] + margin
        if abs(along) < 1e-9:
            if not low <= at <= high:
                return 0.0, -1.0
            continue
        enter, leave = sorted(((low - at) / along, (high - at) / along))
        first, last = max(first, enter), min(last, leave)
    return (first, last) if first <= last else (0.0, -1.0)


def _darker(colour: Colour, factor: float) -> Colour:
    return (round(colour[0] * factor), round(colour[1] * factor), round(colour[2] * factor))


def _tag(text: str, size: tuple[int, int], colour: Colour) -> Image:
    """A label to lay on a picture of a size."""
    from PIL import Image, ImageDraw, ImageFont

    text = " ".join(text.split())  # labels come from models, and the tag has one line
    height = max(10, round(max(size) / 32))
    font = ImageFont.load_default(height)
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, height // 4)
    box_width, box_height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    tag = Image.new("RGBA", (box_width, box_height), (*_darker(colour, 0.30), 215))
    pen = ImageDraw.Draw(tag)
    pen.rectangle((0, box_height - max(1, pad // 2), box_width, box_height), fill=(*colour, 255))
    pen.text((pad - left, pad - top - max(1, pad // 4)), text, font=font, fill=(255, 255, 255, 255))
    return tag


def _free_place(
    tag: tuple[int, int], bounds: Rectangle, size: tuple[int, int], taken: Sequence[Rectangle]
) -> tuple[int, int]:
    """Where a label goes: above its box, or inside the picture's top edge where there is no room.

    Where another label stands there already it tries the other places around its box, and takes the one where least
    is hidden.
    """
    (width, height), (left, top, right, bottom) = tag, bounds
    above, below = top - height - 1, bottom + 2
    tries = [
        (x, y) for y in (above, below, top + 2, bottom - height - 1, above - height - 1) for x in (left, right - width)
    ]
    best, least = (0, 0), float("inf")
    for x, y in tries:
        at = (
            max(0, round(min(max(0.0, x), size[0] - width))),
            max(0, round(min(max(0.0, y), size[1] - height))),
        )
        hidden = sum(_shared((*at, at[0] + width, at[1] + height), other) for other in taken)
        if hidden < least:
            best, least = at, hidden
    return best


def _shared(a: Rectangle, b: Rectangle) -> float:
    """The area that two rectangles share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
