"""The contact sheet: a few records in one picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.prompts import IMAGE
from rft3d_cli.records import ChoiceTarget, DetectionTarget, GroundingTarget, NumberTarget
from rft3d_cli.show.answer import describe_box
from rft3d_cli.show.draw import TARGET, Colour
from rft3d_cli.show.inspect_boxes import frames_text
from rft3d_cli.show.inspect_look import Look, Pixels, Shown, drawn, shorten

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

GROUND, CARD, FAINT, TEXT, WARN, SAID = (
    (24, 24, 28),
    (34, 34, 40),
    (150, 150, 160),
    (236, 236, 240),
    (255, 176, 0),
    (86, 180, 233),
)
MARGIN, GAP, PAD = 16, 6, 12
WIDEST, NARROWEST = 400, 80
"""Pixels of one frame."""
MOST = 24
"""Records on one sheet: more would be a picture that no viewer shows whole, and the page has them all."""
LINE = 20


def sheet(looks: Sequence[Look], name: str, total: int, width: int) -> Pixels:
    """A picture of records: frames in a row with their boxes, what is asked, and the target.

    Args:
        looks: The records; beyond :data:`MOST` an even choice of them is drawn.
        name: Of the file.
        total: How many records the file has.
        width: Pixels, at most.

    Returns:
        ``(H, W, 3)`` RGB.
    """
    from PIL import Image, ImageDraw

    drawn_looks = [looks[i * len(looks) // MOST] for i in range(MOST)] if len(looks) > MOST else list(looks)
    frames = max(len(look.frames) for look in drawn_looks)
    columns = min({1: 3, 2: 2}.get(frames, 1), max(1, width // 400))
    room = (width - 2 * MARGIN - (columns - 1) * GAP) // columns - 2 * PAD
    tile = max(NARROWEST, min(WIDEST, (room - (frames - 1) * GAP) // frames))
    inner = max(frames * tile + (frames - 1) * GAP, 300)
    cards = [_card(look, tile, inner) for look in drawn_looks]
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) for row in rows]
    picture = Image.new(
        "RGB",
        (
            2 * MARGIN + columns * (inner + 2 * PAD) + (columns - 1) * GAP,
            3 * LINE + sum(heights) + (len(rows) - 1) * GAP + MARGIN,
        ),
        GROUND,
    )
    pen = ImageDraw.Draw(picture)
    heading = f"{drawable(shorten(name, 60))}: {len(drawn_looks):,} of {total:,} records"
    if any(look.said is not None for look in drawn_looks):
        heading += ". Green: target; dashed: saved answer, with its IoU"
    pen.text((MARGIN, 1.5 * LINE), heading, font=font_of(17), fill=TEXT, anchor="lm")
    y = 3 * LINE
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            x = MARGIN + column * (inner + 2 * PAD + GAP)
            pen.rectangle((x, y, x + inner + 2 * PAD - 1, y + height - 1), fill=CARD)
            picture.paste(card, (x, y))
        y += height + GAP
    return np.asarray(picture)


def _card(look: Look, tile: int, inner: int) -> Image:
    """One record: a line of what it is, its frames, the prompt and the target."""
    from PIL import Image, ImageDraw

    tiles = [_tile(frame, tile, look) for frame in look.frames]
    asked = _wrapped(prompt_text(look.record.prompt), inner, 13, 2)
    target = _wrapped(target_text(look), inner, 13, 2)
    notes = [fitted(note, inner, 13) for note in (hidden_text(look), *look.notes[:3]) if note]
    lines: list[tuple[str, Colour]] = [
        *((line, FAINT) for line in asked),
        *((line, TEXT) for line in target),
        *((fitted(line, inner, 13), SAID) for line in said_lines(look)),
        *((line, WARN) for line in notes),
    ]
    top = PAD + LINE + 4
    height = top + max(picture.height for picture in tiles) + 8 + LINE * len(lines) + PAD - 4
    card = Image.new("RGB", (inner + 2 * PAD, height), CARD)
    pen = ImageDraw.Draw(card)
    _title(pen, look, inner)
    for column, picture in enumerate(tiles):
        card.paste(picture, (PAD + column * (tile + GAP), top))
    y = top + max(picture.height for picture in tiles) + 8
    for text, colour in lines:
        pen.text((PAD, y + LINE / 2), text, font=font_of(13), fill=colour, anchor="lm")
        y += LINE
    return card


def _title(pen: ImageDraw, look: Look, inner: int) -> None:
    meta = look.record.meta
    task = look.record.task
    pen.text((PAD, PAD + LINE / 2), task, font=font_of(14), fill=TARGET, anchor="lm")
    x = PAD + font_of(14).getlength(task) + 12
    name = fitted(look.record.id, round(inner - x + PAD), 14)
    pen.text((x, PAD + LINE / 2), name, font=font_of(14), fill=TEXT, anchor="lm")
    x += font_of(14).getlength(name) + 12
    where = [shorten(part, 60) for part in (meta.dataset, meta.scene, meta.question_type) if part]
    left = round(inner + PAD - x)
    if where and left > 60:
        pen.text((x, PAD + LINE / 2), fitted(" · ".join(where), left, 13), font=font_of(13), fill=FAINT, anchor="lm")


def _tile(frame: Shown, width: int, look: Look) -> Image:
    """A frame under its number; the target's frame has a border in the colour of the truth."""
    from PIL import Image, ImageDraw

    pixels = drawn(frame, width)
    marked = frame.own and look.record.task == "grounding"
    if pixels is None:
        ratio = look.views.size[1] / look.views.size[0] if look.views.size else 0.75
        picture = Image.new("RGB", (width, max(40, min(2 * width, round(width * ratio)))), (72, 72, 78))
        ImageDraw.Draw(picture).text(
            (width / 2, picture.height / 2), "no picture", font=font_of(13), fill=(190, 190, 196), anchor="mm"
        )
    else:
        picture = Image.fromarray(pixels)
    tile = Image.new("RGB", (width, picture.height + LINE), CARD)
    pen = ImageDraw.Draw(tile)
    heading = f"frame {frame.number}, the target's" if marked else f"frame {frame.number}"
    pen.text((0, LINE / 2 - 1), heading, font=font_of(12), fill=TARGET if marked else FAINT, anchor="lm")
    tile.paste(picture, ((width - picture.width) // 2, LINE))
    if marked:
        pen.rectangle((0, LINE, width - 1, tile.height - 1), outline=TARGET, width=2)
    return tile


def prompt_text(prompt: str) -> str:
    r"""A prompt without the marks of its frames.

    >>> prompt_text("Frame-0: <image>Frame-1: <image>\nWhere is it?")
    'Where is it?'
    """
    marks = prompt.split(IMAGE)
    kept = [part for number, part in enumerate(marks[:-1]) if part.strip() not in (f"Frame-{number}:", "")]
    return " ".join([*kept, marks[-1]]).strip()


def target_text(look: Look) -> str:
    """A record's target in words."""
    target = look.record.target
    if isinstance(target, ChoiceTarget):
        return f"target: {right_option(target)}"
    if isinstance(target, NumberTarget):
        return f"target: {target.value:.12g}"
    if isinstance(target, GroundingTarget):
        words = f"target: frame {target.frame}, {describe_box(look.views.boxes.boxes[0])}"
        return words if look.sight.trouble(0) else f"{words}; {place_text(look, 0)}"
    if isinstance(target, DetectionTarget):
        return _boxes_text(look.views.boxes)
    references = target.references if target is not None else []
    text = references[0] if references else look.answer
    return f"target: {text}" if text else "no target"


def _boxes_text(boxes: Boxes3D) -> str:
    if not len(boxes):
        return "target: no boxes"
    listed = ", ".join(f"{number} {shorten(label, 24)}" for number, label in enumerate(boxes.labels, start=1))
    return f"target: {len(boxes)} box{'es' if len(boxes) > 1 else ''}: {listed}"


def hidden_text(look: Look) -> str:
    """Which boxes lie in no frame, and why; empty where all lie in one."""
    found = [
        (f"{n + 1} {shorten(label, 24)}", look.sight.trouble(n)) for n, label in enumerate(look.views.boxes.labels)
    ]
    reasons = dict.fromkeys(why for _, why in found if why)
    listed = [f"{', '.join(name for name, why in found if why == reason)} ({reason})" for reason in reasons]
    return f"in no frame: {'; '.join(listed)}" if listed else ""


def said_lines(look: Look) -> list[str]:
    """A saved answer in one line, or none."""
    said = look.said
    if said is None:
        return []
    if said.value:
        return [f"answer: {said.value}"]
    words = [
        f"{shorten(label, 24)} {'?' if iou is None else f'{iou:.2f}'}"
        for label, iou in zip(said.views.boxes.labels, said.overlaps, strict=True)
    ]
    if look.record.task == "grounding" and words:
        return [f"answer: frame {said.views.own}, IoU {words[0].rpartition(' ')[2]}"]
    listed = f"answer, with IoU: {', '.join(words)}" if words else "answer: no boxes" if len(look.views.boxes) else ""
    return [f"answer unreadable: {said.why}" if said.why and not words else listed or f"answer: {said.text}"]


def place_text(look: Look, box: int) -> str:
    """Which frames show a box.

    Returns:
        ``in frames 0–2``, or ``in no frame: behind every camera``.
    """
    if not look.sight.known.any():
        return "not known"
    trouble = look.sight.trouble(box)
    return f"in no frame: {trouble}" if trouble else f"in {frames_text(look.sight.frames_of(box))}"


def right_option(target: ChoiceTarget) -> str:
    """The right letter with its option's text."""
    from rft3d_cli.answers import option_letters

    letter = target.letter.upper()
    letters = option_letters(target.options)
    if letter not in letters:
        return letter
    option = target.options[letters.index(letter)]
    return option if option.lstrip(" ([")[:1].upper() == letter and len(option) > 1 else f"{letter}. {option}"


@cache
def font_of(size: int) -> Font:
    """Pillow's own font."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """Text in the letters of Pillow's own font, which has neither dashes nor accents."""
    text = text.replace("–", "-").replace("—", "-")
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def fitted(text: str, width: int, size: int) -> str:
    """Text cut to one line of a width, in pixels."""
    return "".join(_wrapped(text, width, size, 1))


def _wrapped(text: str, width: int, size: int, most: int) -> list[str]:
    """Text in at most so many lines of a width; where it is longer, the last one ends in an ellipsis."""
    text, font = drawable(shorten(text, 2000)), font_of(size)
    lines: list[str] = []
    while text and len(lines) < most:
        end = _longest(text, width, font)
        last = len(lines) == most - 1
        if end < len(text) and last:
            end = _longest(text, width - round(font.getlength(" …")), font)
            lines.append(f"{text[:end].rstrip()} …")
            break
        if end < len(text):
            space = text.rfind(" ", 0, end + 1)
            end = space if space > end // 2 else end
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return lines


def _longest(text: str, width: int, font: Font) -> int:
    """How many characters fit, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low
