"""Boxes drawn on frames: wireframes with depth, and labels that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rft3d_cli.geometry.boxes import EDGES, Boxes3D, Floats, box_corners, rotation_from_angles
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

_LIMIT = 1e5
"""Farthest that a line is drawn outside a picture, pixels: beyond, Pillow's arithmetic overflows."""
_LETTERS = 28
"""Letters of a label that are drawn: a model's may be a sentence."""
_CROWDED = 0.35
"""A label that would hide more than this share of itself or of others is left out: two on one place read as none."""


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
    grounded: bool = False,
) -> NDArray[np.uint8]:
    """Draw wireframes of boxes on a frame.

    Far boxes are drawn first, near edges thicker and brighter than far ones, and edges behind their own box thin, so
    that what stands in front looks so. Captions step aside for those of nearer boxes; where there is no room left for
    one, it is left out.

    Args:
        image: ``(H, W, 3)`` RGB; not changed.
        boxes: In the frame's camera coordinates.
        intrinsic: ``(3, 3)``, for the frame's size.
        colours: One a box; the class's by default.
        captions: One a box; the label and the distance by default. Empty text draws no label.
        dashed: Whether a box has broken lines, one a box, to tell one set of boxes from another; none by default.
        grounded: Tint the face that each box stands on, where the camera is held about upright.

    Returns:
        A new ``(H, W, 3)`` picture.
    """
    from PIL import Image

    size = (image.shape[1], image.shape[0])
    matrix = np.asarray(intrinsic, dtype=np.float64)
    order = np.argsort([-float(np.linalg.norm(box[:3])) for _, box in boxes])
    tints = [colours[i] if colours is not None else label_colour(boxes.labels[i]) for i in range(len(boxes))]
    lines = [_Lines(boxes.boxes[i], matrix, tints[i], dashed is not None and dashed[i]) for i in order]
    picture = Image.fromarray(_with_lines(image, lines, grounded=grounded))
    tags: list[tuple[Image.Image, tuple[int, int]]] = []
    taken: list[Rectangle] = []
    for index in reversed(order):
        label, box = boxes.labels[index], boxes.boxes[index]
        distance = f"{float(np.linalg.norm(box[:3])):.1f} m"
        short = label if len(label) <= _LETTERS else f"{label[: _LETTERS - 1].rstrip()}…"
        caption = captions[index] if captions is not None else f"{short} {distance}"
        bounds = projected_bounds(box, matrix, size)
        if caption and bounds is not None:
            tag = _tag(caption, size, tints[index])
            left, top, hidden = _free_place(tag.size, bounds, size, taken)
            if hidden > _CROWDED * tag.width * tag.height:
                continue
            taken.append((left, top, left + tag.width, top + tag.height))
            tags.append((tag, (left, top)))
    for tag, place in reversed(tags):
        picture.paste(tag, place, tag)
    return np.asarray(picture)


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


class _Lines:
    """What is drawn of one box: its edges from far to near, and the outline of the face it stands on."""

    def __init__(self, box: Floats, intrinsic: Floats, colour: Colour, dashed: bool) -> None:
        self.colour, self.dashed = colour, dashed
        self.edges = visible_edges(box, intrinsic)
        self.hidden = _hidden_edges(box) if len(self.edges) == len(EDGES) else np.zeros(len(self.edges), bool)
        self.floor = _standing_face(box, intrinsic)


def _hidden_edges(box: Floats) -> NDArray[np.bool_]:
    """Which of a box's edges the box itself hides: those between two faces that look away from the camera."""
    rotation, half = rotation_from_angles(box[6:9]), box[3:6] / 2
    # A face looks at the camera, which is the origin, where its normal points from the face towards it.
    offsets = rotation.T @ box[:3]
    seen = np.stack([offsets > half, -offsets > half])  # (side: low or high, axis)
    corners = box_corners([0, 0, 0, 2, 2, 2, 0, 0, 0])
    hidden = []
    for start, end in EDGES:
        middle = (corners[start] + corners[end]) / 2
        faces = [(0 if middle[axis] < 0 else 1, axis) for axis in range(3) if abs(middle[axis]) > 0.5]
        hidden.append(not any(seen[side, axis] for side, axis in faces))
    return np.array(hidden) & bool(seen.any())  # from inside a box all is seen


def _standing_face(box: Floats, intrinsic: Floats) -> Floats | None:
    """The face that looks down most, ``(4, 2)`` pixels; None where it reaches behind the camera or none looks down."""
    rotation = rotation_from_angles(box[6:9])
    axis = int(np.argmax(np.abs(rotation[1])))
    if abs(rotation[1, axis]) < 0.7:
        return None
    down = rotation[:, axis] * np.sign(rotation[1, axis]) * box[3 + axis] / 2
    one, two = (rotation[:, other] * box[3 + other] / 2 for other in range(3) if other != axis)
    corners = box[:3] + down + np.array([one + two, one - two, -one - two, two - one])
    if corners[:, 2].min() < 0.05:
        return None
    pixels = corners @ intrinsic[:3, :3].T
    face: Floats = pixels[:, :2] / pixels[:, 2:]
    return face


def _with_lines(image: NDArray[np.uint8], found: Sequence[_Lines], *, grounded: bool) -> NDArray[np.uint8]:
    """A picture with the lines of boxes on it, smoothed; only the part of it that they cover is worked on."""
    from PIL import Image, ImageDraw

    size = (image.shape[1], image.shape[0])
    ends = [lines.edges[..., :2].reshape(-1, 2) for lines in found if len(lines.edges)]
    out = image.copy()
    if not ends:
        return out
    # Lines in pixels: thin ones would vanish in small pictures, and ones in proportion be bars in large ones.
    width = max(1.0, 0.085 * max(size) ** 0.5)
    points = np.clip(np.concatenate(ends), -_LIMIT, _LIMIT)
    margin = 2 * width + 2
    left, top = np.clip(np.floor(points.min(axis=0) - margin), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(points.max(axis=0) + margin), 0, size).astype(int).tolist()
    if right <= left or bottom <= top:
        return out
    scale = 3 if max(size) < 900 else 2
    # Four plain bands that hold colours times their opacity: as RGBA, Pillow would multiply and divide each time.
    layer = Image.new("CMYK", ((right - left) * scale, (bottom - top) * scale), (0, 0, 0, 0))
    pen = _Pen(ImageDraw.Draw(layer), (left, top), size, scale)
    for lines in found:
        if grounded and lines.floor is not None:
            pen.face(lines.floor, (*lines.colour, 70))
        _wireframe(pen, lines, width)
    over = np.asarray(layer.reduce(scale)).astype(np.uint16)
    part = out[top:bottom, left:right]
    part[:] = np.minimum(over[..., :3] + (part * (255 - over[..., 3:]) + 127) // 255, 255)
    return out


class _Pen:
    """Draws in a picture's pixels on the enlarged layer that stands for a part of it."""

    def __init__(self, draw: ImageDraw, origin: tuple[int, int], size: tuple[int, int], scale: int) -> None:
        self.draw, self.origin, self.size, self.scale = draw, np.array(origin), size, scale

    def _place(self, pixels: Floats) -> list[tuple[float, float]]:
        placed = np.clip((pixels - self.origin + 0.5) * self.scale - 0.5, -_LIMIT, _LIMIT)
        return [(float(x), float(y)) for x, y in placed]

    def face(self, pixels: Floats, colour: tuple[int, int, int, int]) -> None:
        """Fill a face, ``(4, 2)``."""
        self.draw.polygon(self._place(pixels), fill=_weighted(colour))

    def line(self, pixels: Floats, colour: tuple[int, int, int, int], width: int) -> None:
        """A line, ``(2, 2)``, with round ends, so that edges meet in a corner without a notch."""
        ends, radius = self._place(pixels), (width - 1) / 2
        self.draw.line(ends, fill=_weighted(colour), width=width)
        for x, y in ends:
            self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_weighted(colour))


def _weighted(colour: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """A colour times its opacity."""
    red, green, blue, alpha = colour
    return red * alpha // 255, green * alpha // 255, blue * alpha // 255, alpha


def _wireframe(pen: _Pen, lines: _Lines, width: float) -> None:
    if not len(lines.edges):
        return
    depth = lines.edges[:, :, 2].mean(axis=1)
    span = max(float(np.ptp(depth)), 1e-6)
    near = 1.0 - (depth - float(depth.min())) / span
    # Hidden edges first, then from far to near.
    for index in sorted(range(len(depth)), key=lambda i: (not lines.hidden[i], near[i])):
        strength = 0.25 if lines.hidden[index] else 0.5 + 0.5 * float(near[index])
        alpha = round(110 + 145 * strength)
        # An odd number of pixels: the line then lies on its edge, not beside it.
        stroke = 2 * round(width * pen.scale * (0.35 + 0.65 * strength) / 2) + 1
        rim = 2 * max(1, round(0.3 * width * pen.scale))
        part = lines.edges[index : index + 1]
        for piece in _dashes(part, pen.size) if lines.dashed else part:
            pen.line(piece[:, :2], (*_darker(lines.colour, 0.35), alpha // 2), stroke + rim)
            pen.line(piece[:, :2], (*lines.colour, alpha), stroke)


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
    """A label to lay on a picture of a size, no wider than it: what does not fit ends in an ellipsis."""
    from PIL import Image, ImageDraw, ImageFont

    text = " ".join(text.split())  # labels come from models, and the tag has one line
    height = max(10, round(0.62 * max(size) ** 0.5))
    font = ImageFont.load_default(height)
    pad = max(2, height // 4)
    room = max(size[0] - 2 * pad, 1)
    if font.getlength(text) > room:
        kept = next(
            (n for n in range(min(len(text), 200), 0, -1) if font.getlength(f"{text[:n].rstrip()}…") <= room), 0
        )
        text = f"{text[:kept].rstrip()}…" if kept else ""
    left, top, right, bottom = font.getbbox(text or "x")
    box_width, box_height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    tag = Image.new("RGBA", (box_width, box_height), (*_darker(colour, 0.25), 225))
    pen = ImageDraw.Draw(tag)
    pen.rectangle((0, box_height - max(1, pad // 2), box_width, box_height), fill=(*colour, 255))
    pen.text((pad - left, pad - top - max(1, pad // 4)), text, font=font, fill=(255, 255, 255, 255))
    return tag


def _free_place(
    tag: tuple[int, int], bounds: Rectangle, size: tuple[int, int], taken: Sequence[Rectangle]
) -> tuple[int, int, float]:
    """Where a label goes, and how many pixels of other labels it hides there.

    Above its box, or inside the picture's top edge where there is no room. Where another label stands there already it
    tries the other places around its box, and takes the one where least is hidden.
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
    return *best, least


def _shared(a: Rectangle, b: Rectangle) -> float:
    """The area that two rectangles share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
