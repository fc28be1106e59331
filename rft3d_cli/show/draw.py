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
) -> NDArray[np.uint8]:
    """Draw wireframes of boxes on a frame.

    Far boxes are drawn first and near edges brighter than far ones, so that what stands in front looks so.

    Args:
        image: ``(H, W, 3)`` RGB; not changed.
        boxes: In the frame's camera coordinates.
        intrinsic: ``(3, 3)``, for the frame's size.
        colours: One a box; the class's by default.
        captions: One a box; the label and the distance by default. Empty text draws no label.

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
        _wireframe(pen, boxes.boxes[index], np.asarray(intrinsic, dtype=np.float64), colour, thickness)
    picture = Image.fromarray(image).convert("RGBA")
    picture.alpha_composite(layer.resize((width, height), Image.Resampling.LANCZOS))
    for index in order:
        label, box = boxes.labels[index], boxes.boxes[index]
        caption = captions[index] if captions is not None else f"{label} {float(np.linalg.norm(box[:3])):.1f} m"
        colour = colours[index] if colours is not None else label_colour(label)
        bounds = projected_bounds(box, intrinsic, (width, height))
        if caption and bounds is not None:
            _caption(picture, caption, bounds, colour)
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


def _wireframe(pen: ImageDraw, box: Floats, intrinsic: Floats, colour: Colour, thickness: int) -> None:
    edges = visible_edges(box, intrinsic)
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


def _darker(colour: Colour, factor: float) -> Colour:
    return (round(colour[0] * factor), round(colour[1] * factor), round(colour[2] * factor))


def _caption(picture: Image, text: str, bounds: tuple[float, float, float, float], colour: Colour) -> None:
    """A label above the box, or inside the picture's top edge where there is no room."""
    from PIL import Image, ImageDraw, ImageFont

    text = " ".join(text.split())  # labels come from models, and the tag has one line
    size = max(10, round(max(picture.size) / 32))
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, size // 4)
    box_width, box_height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    x = round(min(max(0.0, bounds[0]), picture.width - box_width))
    y = round(max(0.0, bounds[1] - box_height - 1))
    tag = Image.new("RGBA", (box_width, box_height), (*_darker(colour, 0.30), 215))
    pen = ImageDraw.Draw(tag)
    pen.rectangle((0, box_height - max(1, pad // 2), box_width, box_height), fill=(*colour, 255))
    pen.text((pad - left, pad - top - max(1, pad // 4)), text, font=font, fill=(255, 255, 255, 255))
    picture.alpha_composite(tag, (max(0, x), y))
