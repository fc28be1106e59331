"""The pictures of answers: a frame each, and one video with the boxes of all questions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.files import atomic_path
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.camera import invert_rigid, scale_intrinsic
from rft3d_cli.show.answer import Answer
from rft3d_cli.show.draw import PALETTE, Colour, draw_boxes, label_colour
from rft3d_cli.video import Image, VideoInfo, stream_frames, write_timed_mp4

HOLD_SECONDS = 2.0
"""How long an answered frame stands in an annotated video that has no camera path."""
STEP_SECONDS = 0.5
"""How long the others do."""
MOST_RATE = 30.0
"""Frames a second of an annotated video, about and at most."""
MOST_FRAMES = 18_000
"""Frames of an annotated video, at most: ten minutes at 30 a second. Longer ones are thinned out evenly."""
LEGIBLE = 480
"""Pixels of a picture's longer side below which it is enlarged, so that its labels can be read."""
LONGEST = 1920
"""Pixels of the longer side of a picture and an annotated video, at most."""
ROOM = 256 * 2**20
"""Bytes of all frames of a video that are kept for pictures, at most."""
_LEGEND_LINES = 6


@dataclass(frozen=True)
class Drawing:
    """How one video's pictures are drawn: their size, its camera at that size, and the questions' colours.

    Args:
        size: ``(width, height)`` of the pictures.
        intrinsic: ``(3, 3)`` for that size.
        answers: All of them; those without boxes are drawn nowhere.
    """

    size: tuple[int, int]
    intrinsic: Floats
    answers: Sequence[Answer]

    @classmethod
    def of(cls, answers: Sequence[Answer], intrinsic: Floats, size: tuple[int, int]) -> Drawing:
        """A drawing for a video of a size, ``intrinsic`` for that size: small ones are enlarged, huge ones reduced."""
        longer = max(size)
        scale = float(-(-LEGIBLE // longer)) if longer < LEGIBLE else min(1.0, LONGEST / longer)
        new = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return cls(new, scale_intrinsic(intrinsic, size, new), answers)

    def picture(self, image: Image, boxes: Sequence[tuple[int, Boxes3D]], *, legend: bool = True) -> Image:
        """A frame with boxes on it.

        Args:
            image: ``(H, W, 3)`` of any size.
            boxes: Number of the question, and its boxes in the frame's camera coordinates.
            legend: Name the questions, where there are several.
        """
        placed = [(number, label, box) for number, found in boxes for label, box in found]
        found = Boxes3D([box for _, _, box in placed], [label for _, label, _ in placed])
        colours = [self.colour(number, label) for number, label, _ in placed]
        out = draw_boxes(self._fitted(image), found, self.intrinsic, colours=colours, grounded=True)
        return self._legend(out) if legend and len(self.answers) > 1 else out

    def colour(self, number: int, label: str) -> Colour:
        """The colour of a box: its class's, or where there are several questions the question's."""
        return label_colour(label) if len(self.answers) == 1 else PALETTE[number % len(PALETTE)]

    def _fitted(self, image: Image) -> Image:
        from PIL import Image as Pillow

        if image.shape[1::-1] == self.size:
            return image
        return np.asarray(Pillow.fromarray(image).resize(self.size, Pillow.Resampling.BICUBIC))

    def _legend(self, image: Image) -> Image:
        """The questions that have boxes, each after its colour, in the lower left corner."""
        from PIL import Image as Pillow
        from PIL import ImageDraw, ImageFont

        rows = [(i, " ".join(a.question.text.split())) for i, a in enumerate(self.answers) if len(a.boxes)]
        height = max(11, round(0.55 * max(self.size) ** 0.5))
        line, font = round(1.6 * height), ImageFont.load_default(height)
        fits = max(1, min(_LEGEND_LINES, self.size[1] // 3 // line))
        texts = [text for _, text in rows[:fits]]
        if len(rows) > fits:
            texts[-1] = f"and {len(rows) - fits + 1} more questions"
        room = self.size[0] - 4 * height
        texts = [_elided(text, room, font) for text in texts]
        width = round(max((font.getlength(text) for text in texts), default=0)) + 3 * height
        panel = Pillow.new("RGBA", (width, line * len(texts) + height // 2), (20, 20, 24, 205))
        pen = ImageDraw.Draw(panel)
        for place, ((number, _), text) in enumerate(zip(rows, texts, strict=False)):
            middle = height // 4 + place * line + line // 2
            if len(rows) <= fits or place < fits - 1:
                box = (height // 2, middle - height // 2, height // 2 + height, middle + height // 2)
                pen.rectangle(box, fill=(*PALETTE[number % len(PALETTE)], 255))
            pen.text((2 * height, middle), text, font=font, fill=(255, 255, 255, 255), anchor="lm")
        out = Pillow.fromarray(image)
        out.paste(panel, (height // 2, self.size[1] - panel.height - height // 2), panel)
        return np.asarray(out)


def _elided(text: str, room: float, font: object) -> str:
    from PIL import ImageFont

    if not isinstance(font, ImageFont.FreeTypeFont | ImageFont.ImageFont):
        raise TypeError("a font of Pillow's")
    text = text[:200]
    if font.getlength(text) <= room:
        return text
    kept = next((n for n in range(len(text), 0, -1) if font.getlength(f"{text[:n].rstrip()}…") <= room), 0)
    return f"{text[:kept].rstrip()}…"


def kept_size(size: tuple[int, int], frames: int) -> tuple[int, int]:
    """Width and height at which so many frames are kept for pictures: as they are, or what memory has room for.

    >>> kept_size((1280, 720), 32), kept_size((3840, 2160), 8), kept_size((1920, 1080), 512)
    ((1280, 720), (1920, 1080), (557, 314))
    """
    width, height = size
    scale = min(1.0, LONGEST / max(size), math.sqrt(ROOM / (3 * frames * width * height)))
    return max(1, round(width * scale)), max(1, round(height * scale))


def write_pictures(drawing: Drawing, images: Sequence[Sequence[Image]], folder: Path) -> list[Path]:
    """Write the frame of every answer that has boxes as a PNG.

    Args:
        drawing: How.
        images: The frames shown with each question.
        folder: Where.

    Returns:
        The files: ``frame07.png``, where 7 is the frame's number in the video, or with several questions
        ``frame07-1.png``, where 1 is the question's number.
    """
    from PIL import Image as Pillow

    written = []
    for number, (answer, shown) in enumerate(zip(drawing.answers, images, strict=True)):
        if not len(answer.boxes):
            continue
        tail = f"-{number + 1}" if len(drawing.answers) > 1 else ""
        path = folder / f"frame{_at(answer):02d}{tail}.png"
        picture = drawing.picture(shown[answer.frame], [(number, answer.boxes)], legend=False)
        with atomic_path(path) as temporary:
            Pillow.fromarray(picture).save(temporary, "PNG")
        written.append(path)
    return written


def write_still_video(path: Path, drawing: Drawing, frames: Sequence[tuple[int, Image]]) -> None:
    """The annotated video where the camera's path is not known: the frames shown, each answered one for longer.

    Args:
        path: The mp4.
        drawing: How.
        frames: Number in the video and image of every frame shown, ascending.
    """

    def shown() -> Iterator[tuple[float, Image]]:
        count = 0
        for index, image in frames:
            boxes = [(n, a.boxes) for n, a in enumerate(drawing.answers) if len(a.boxes) and _at(a) == index]
            picture = drawing.picture(image, boxes)
            for _ in range(round((HOLD_SECONDS if boxes else STEP_SECONDS) / STEP_SECONDS)):
                yield count * STEP_SECONDS, picture
                count += 1

    write_timed_mp4(path, shown(), 1 / STEP_SECONDS, preset="veryfast")


def write_moving_video(path: Path, drawing: Drawing, video: Path, info: VideoInfo, poses: Floats) -> None:
    """The annotated video where the camera's path is known: boxes in every frame, at the video's own pace.

    Frames are decoded, drawn and encoded one by one.

    Args:
        path: The mp4.
        drawing: How.
        video: The video.
        info: What it is.
        poses: ``(frames, 4, 4)`` camera to world, every frame of the video.
    """
    world = [(n, a.boxes.transform(poses[_at(a)])) for n, a in enumerate(drawing.answers) if len(a.boxes)]

    def shown() -> Iterator[tuple[float, NDArray[np.uint8]]]:
        for index, seconds, image in stream_frames(video, paced, size=drawing.size):
            camera = invert_rigid(poses[index])
            yield seconds, drawing.picture(image, [(number, boxes.transform(camera)) for number, boxes in world])

    write_timed_mp4(path, shown(), min(max(info.rate, 1.0), MOST_RATE), preset="veryfast")


def _at(answer: Answer) -> int:
    """The frame of the video whose camera an answer's boxes are in."""
    return answer.indices[answer.frame]


def paced(times: Sequence[float]) -> list[int]:
    """The frames of a video that its annotated copy shows: about 30 a second at most, and 18,000 in all.

    Args:
        times: Seconds of each frame, ascending.

    Returns:
        Frame numbers, ascending; always the first one.

    >>> paced([0.0, 1 / 60, 2 / 60, 3 / 60, 0.5])
    [0, 2, 4]
    """
    least = 0.8 / MOST_RATE  # frames come a little early or late: a clip of 30 a second keeps all of its own
    kept: list[int] = []
    for number, seconds in enumerate(times):
        if not kept or seconds - times[kept[-1]] >= least:
            kept.append(number)
    if len(kept) > MOST_FRAMES:
        kept = [kept[at * len(kept) // MOST_FRAMES] for at in range(MOST_FRAMES)]
    return kept
