"""A record to look at: its frames as training reads them, with the target's boxes drawn where they belong."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rft3d_cli.answers.target import target_answer
from rft3d_cli.console import clean
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.camera import scale_intrinsic
from rft3d_cli.records import Clip, Record, RecordFile
from rft3d_cli.samplers import DEFAULT_SAMPLER
from rft3d_cli.show.draw import TARGET, draw_boxes, label_colour
from rft3d_cli.show.inspect_boxes import WORLD_AGREES, Sight, Views, frame_count, sight, views_of, world_overlap
from rft3d_cli.show.inspect_said import Said, read_said
from rft3d_cli.video import IMAGE_FORMATS, open_video

MOST_FRAMES = 6
"""Frames that are shown of a record."""
PICTURE = 640
"""Width of a frame on the page, pixels; smaller ones are enlarged, so that lines and labels stay fine."""
CROWD = 12
"""Boxes in one frame from which on their labels are only the numbers that the page lists."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """One frame of a record.

    Args:
        number: Its index among the record's frames.
        picture: ``(H, W, 3)``, at most :data:`PICTURE` wide; None where it could not be read.
        boxes: In this frame's camera, those that it shows; None where their place is not known.
        names: The number of each of these boxes in the target, from 1.
        intrinsic: For ``picture``.
        own: Whether the target's boxes are given in this frame's camera.
        said: Boxes of an answer in this frame's camera, those that it shows.
        said_captions: What stands at each of these.
    """

    number: int
    picture: Pixels | None
    boxes: Boxes3D | None
    names: tuple[int, ...]
    intrinsic: Floats | None
    own: bool
    said: Boxes3D | None = None
    said_captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """One record, ready to be shown.

    Args:
        record: The record.
        frames: Those that are shown.
        views: Its boxes and cameras.
        sight: Which of all its frames show which boxes.
        answer: What supervised training teaches; None where that is nothing.
        notes: What is odd or missing.
        lost: Why a frame could not be read, empty where all could.
        said: A saved answer, where there is one.
    """

    record: Record
    frames: tuple[Shown, ...]
    views: Views
    sight: Sight
    answer: str | None
    notes: tuple[str, ...]
    lost: str = ""
    said: Said | None = None

    @property
    def missing(self) -> int:
        """How many of the shown frames could not be read."""
        return sum(frame.picture is None for frame in self.frames)


def choose(records: Sequence[Record], count: int, ids: Sequence[str] = ()) -> list[Record]:
    """The records to show: those that are named, or ``count`` of all tasks, evenly spaced over the file.

    Args:
        records: In file order.
        count: How many, where none are named.
        ids: Names of records, shown in this order.

    Raises:
        UsageError: On an id that no record has.

    >>> from rft3d_cli.examples import example_record
    >>> tasks = ["detection"] * 8 + ["number"] * 2
    >>> many = [example_record(task).model_copy(update={"id": str(i)}) for i, task in enumerate(tasks)]
    >>> [record.id for record in choose(many, 4)]
    ['2', '6', '8', '9']
    """
    if ids:
        known = {record.id: record for record in records}
        for name in ids:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"the first is {records[0].id}"
                raise UsageError(f"no record has the id {name!r}", hint)
        return [known[name] for name in dict.fromkeys(ids)]
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(record.task, []).append(place)
    shares = dict.fromkeys(places, 0)
    for _ in range(min(count, len(records))):
        open_tasks = [task for task in places if shares[task] < len(places[task])]
        shares[min(open_tasks, key=lambda task: shares[task])] += 1
    taken = [own[(2 * i + 1) * len(own) // (2 * shares[t])] for t, own in places.items() for i in range(shares[t])]
    return [records[place] for place in sorted(taken)]


def chosen_frames(count: int, own: int, most: int = MOST_FRAMES) -> list[int]:
    """The frames of a record to show: evenly spaced from the first to the last, and the boxes' own among them.

    >>> chosen_frames(3, 0), chosen_frames(32, 11)
    ([0, 1, 2], [0, 6, 11, 18, 24, 31])
    """
    if count <= most:
        return list(range(count))
    frames = [place * (count - 1) // (most - 1) for place in range(most)]
    if own < count and own not in frames:
        # The first and the last stay: they show how far the clip goes.
        nearest = min(range(1, most - 1), key=lambda place: (abs(frames[place] - own), place))
        frames[nearest] = own
    return sorted(frames)


def look_at(record: Record, source: RecordFile, prediction: str | None = None) -> Look:
    """Read a record's frames and find its boxes in them; what cannot be read is noted, and no error.

    Args:
        record: The record.
        source: The file it comes from, which knows its media.
        prediction: A saved answer to show beside the target.
    """
    views = views_of(record)
    found, overlap = sight(views), world_overlap(record, views)
    numbers = chosen_frames(views.frames, views.own)
    notes, lost = list(views.notes), list[str]()
    pictures = _read(record, source, numbers, notes, lost)
    if lost:
        notes.append(f"{lost[0]}, and {len(lost) - 1} more" if len(lost) > 1 else lost[0])
    if overlap is not None and not overlap >= WORLD_AGREES:
        notes.append(f"bbox_3d placed in the world is not bbox_world: their IoU is {overlap:.2f}")
    if len(views.boxes) and views.intrinsic is None:
        notes.append("no camera: its boxes cannot be drawn")
    said = None if prediction is None else read_said(prediction, record, views)
    frames = [
        _shown(number, picture, views, found, said, notes) for number, picture in zip(numbers, pictures, strict=True)
    ]
    try:
        answer = target_answer(record)
    except DataError:
        answer = None
    return Look(record, tuple(frames), views, found, answer, tuple(dict.fromkeys(notes)), lost[0] if lost else "", said)


def _shown(
    number: int, picture: Pixels | None, views: Views, found: Sight, said: Said | None, notes: list[str]
) -> Shown:
    own = number == views.own and len(views.boxes) > 0
    intrinsic = None
    if picture is not None:
        height, width = picture.shape[:2]
        size = fitted((width, height), PICTURE)
        if views.intrinsic is not None and views.size is not None:
            if views.size != (width, height):
                one, two = ("×".join(map(str, pair)) for pair in ((width, height), views.size))
                notes.append(f"frames are {one} pixels, and the camera is for {two}")
            intrinsic = scale_intrinsic(views.intrinsic, views.size, size)
        picture = resized(picture, size)
    boxes, indices = _in_sight(views, found, number)
    shown = Shown(number, picture, boxes, tuple(index + 1 for index in indices), intrinsic, own)
    if said is None:
        return shown
    guesses, indices = _in_sight(said.views, said.sight, number)
    captions = [said_caption(said, index, len(indices)) for index in indices]
    return replace(shown, said=guesses, said_captions=tuple(captions))


def _in_sight(views: Views, found: Sight, number: int) -> tuple[Boxes3D | None, list[int]]:
    """The boxes that a frame shows, and their indices; None where their place in it is not known."""
    everything = views.in_frame(number) if found.known[number] else None
    if everything is None:
        return None, []
    indices = [int(index) for index in np.flatnonzero(found.seen[number])]
    return everything[indices], indices


def _read(
    record: Record, source: RecordFile, numbers: Sequence[int], notes: list[str], lost: list[str]
) -> list[Pixels | None]:
    """The pixels of frames, by the rules of training; None where there are none, and ``lost`` gets the reason."""
    if isinstance(record.video, Clip):
        try:
            sampler = record.video.sampler or DEFAULT_SAMPLER
            read = open_video(source.media(record.video.path), frame_count(record), sampler)
        except DataError as error:
            lost.append(error.message)
            return [None] * len(numbers)
        notes.extend(read.notes)
        return [read.images[number] for number in numbers]
    pictures: list[Pixels | None] = []
    for number in numbers:
        try:
            pictures.append(_picture(source.media(record.video.frames[number])))
        except DataError as error:
            lost.append(error.message)
            pictures.append(None)
    return pictures


def _picture(path: Path) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except PermissionError:
        raise DataError(f"{path} cannot be read: permission denied") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path} cannot be read as an image: it is damaged, too large or of another kind") from None


def fitted(size: tuple[int, int], width: int) -> tuple[int, int]:
    """The size of a picture ``width`` wide, or less where it would be more than twice as high.

    >>> fitted((320, 240), 640), fitted((10, 1000), 640)
    ((640, 480), (13, 1280))
    """
    scale = min(width / size[0], 2 * width / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """A picture in another size, ``(width, height)``."""
    if picture.shape[1::-1] == size:
        return picture
    smaller = size[0] < picture.shape[1]
    how = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize(size, how))


def drawn(frame: Shown, width: int) -> Pixels | None:
    """A frame's picture in some width with its boxes on it, or None where it could not be read; see :func:`fitted`."""
    if frame.picture is None:
        return None
    old = frame.picture.shape[1::-1]
    size = fitted((old[0], old[1]), width)
    picture = resized(frame.picture, size)
    if frame.intrinsic is None:
        return picture
    truth = frame.boxes if frame.boxes is not None else Boxes3D([])
    said = frame.said if frame.said is not None else Boxes3D([])
    crowd = len(frame.names) if frame.said is None else CROWD + 1
    captions = [caption(n, label, crowd) for n, label in zip(frame.names, truth.labels, strict=True)]
    if not len(truth) + len(said):
        return picture
    # Beside answers the truth is green, as in every picture that compares, and has its numbers only.
    colours = [TARGET if frame.said is not None else label_colour(label) for label in truth.labels]
    return draw_boxes(
        picture,
        Boxes3D(np.concatenate([truth.boxes, said.boxes]), truth.labels + said.labels),
        scale_intrinsic(frame.intrinsic, old, size),
        colours=[*colours, *map(label_colour, said.labels)],
        captions=[*captions, *frame.said_captions],
        dashed=[False] * len(truth) + [True] * len(said),
    )


def caption(number: int, label: str, boxes: int) -> str:
    """What stands at a box: its number in the page's table and its label, or in a crowd only the number.

    >>> caption(2, "chair", 3), caption(2, "chair", 30)
    ('2 chair', '2')
    """
    return f"{number} {shorten(label, 24)}" if boxes <= CROWD else f"{number}"


def said_caption(said: Said, index: int, boxes: int) -> str:
    """What stands at a box of an answer: its label and its IoU, or in a crowd only the IoU."""
    overlap = said.overlaps[index]
    score = "" if overlap is None else f"{overlap:.2f}"
    return score if boxes > CROWD else f"{shorten(said.views.boxes.labels[index], 24)} {score}".strip()


def shorten(text: str, most: int) -> str:
    r"""Text on one line, of at most ``most`` characters, safe for any screen.

    >>> shorten("a long\n  story", 8)
    'a long …'
    """
    line = " ".join(clean(text[: 20 * most]).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()} …"[:most]
