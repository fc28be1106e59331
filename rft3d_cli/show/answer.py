"""A model's text read as the answer to a question, in words and numbers; and the camera that its boxes are in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.answers import read_boxes, read_choice, read_grounding, read_number
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.camera import assumed_intrinsic, scale_intrinsic
from rft3d_cli.geometry.eras import Era, converted
from rft3d_cli.show.infer_questions import Question, asked_classes, object_label, singular

ASSUMED_FOV = 58.0
"""Horizontal field of view where nothing is known of the camera, degrees: that of ScanNet's."""
ANOTHER_SHAPE = 0.05
"""By how much the ratio of width and height of a camera file's pictures may differ from the video's."""
CAMERA_HINT = "name the camera file of this video, or give its field of view with --fov"
ROUNDING = 1e-2
"""By how much the entries of a camera file's rotations may be off."""
SHOWN = 200
"""Letters of an unreadable text that are shown; ``answer.json`` has it whole."""
CONVENTION = "centre and full sizes in metres, ZXY-intrinsic angles in radians, OpenCV camera axes of `frame`"


@dataclass(frozen=True)
class Camera:
    """The camera of a video.

    Args:
        intrinsic: ``(3, 3)`` for the video's size.
        source: ``file``, ``fov`` or ``assumed``.
        poses: ``(frames, 4, 4)`` camera to world for every frame of the video, where known.
    """

    intrinsic: Floats
    source: str
    poses: Floats | None = None


def of_classes(boxes: Boxes3D, classes: frozenset[str]) -> Boxes3D:
    """The boxes whose label has one of the words; all of them where no class was asked for."""
    if not classes:
        return boxes
    kept = [i for i, label in enumerate(boxes.labels) if classes & {*map(singular, label.casefold().split())}]
    return boxes[kept]


def named(video: Path) -> Path:
    """The video by a path that ends in its name, also where it is written as ``.`` or ``..``."""
    return video if video.name not in ("", "..") else video.resolve()


def camera_beside(video: Path) -> Path | None:
    """The camera file that lies beside a video under its name, if one does."""
    path = named(video).with_suffix(".camera.json")
    return path if path.is_file() else None


def read_camera(video: Path, size: tuple[int, int], *, file: Path | None, fov: float | None) -> Camera:
    """The camera of a video: a file, a field of view, or an assumption that is named as one.

    Args:
        video: The video; ``clip.camera.json`` beside ``clip.mp4`` is found by itself.
        size: ``(width, height)`` of the video, pixels.
        file: A camera file: ``{"intrinsic": 3×3, "image_size": [w, h], "cam_to_world": [4×4 a frame, optional]}``.
        fov: Horizontal field of view, degrees.

    Raises:
        DataError: On a camera file that is missing or wrong.
    """
    path = file or camera_beside(video)
    if path is None:
        source = "assumed" if fov is None else "fov"
        return Camera(assumed_intrinsic(*size, fov or ASSUMED_FOV), source)
    import json

    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        intrinsic = np.array(known["intrinsic"], dtype=np.float64)[:3, :3]
        image_size = (int(known["image_size"][0]), int(known["image_size"][1]))
        poses = np.array(known["cam_to_world"], dtype=np.float64) if known.get("cam_to_world") else None
        if intrinsic.shape != (3, 3) or (poses is not None and poses.shape[1:] != (4, 4)):
            raise ValueError("intrinsic is 3 × 3, and cam_to_world holds 4 × 4 matrices")
        if not np.isfinite(intrinsic).all() or (poses is not None and not np.isfinite(poses).all()):
            raise ValueError("it holds numbers that are not finite")
        if poses is not None:
            _check_poses(poses)
        if min(intrinsic[0, 0], intrinsic[1, 1]) <= 0:
            raise ValueError("the focal lengths of intrinsic are not positive")
        if min(image_size) < 1:
            raise ValueError(f"image_size {list(image_size)} is empty")
    except OSError as error:
        raise DataError(f"camera file {path} cannot be read: {error.strerror}", CAMERA_HINT) from None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        hint = 'a camera file holds {"intrinsic": 3×3, "image_size": [width, height]}'
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"camera file {path} is wrong: {why}", hint) from None
    if abs(image_size[0] * size[1] / (image_size[1] * size[0]) - 1) > ANOTHER_SHAPE:
        raise DataError(
            f"camera file {path} is for pictures of {image_size[0]} × {image_size[1]}, and the video has "
            f"{size[0]} × {size[1]}: another shape",
            CAMERA_HINT,
        )
    return Camera(scale_intrinsic(intrinsic, image_size, size), "file", poses)


def _check_poses(poses: Floats) -> None:
    """Refuse matrices that mirror, scale or shear, or whose last row is not that of a pose.

    Raises:
        ValueError: Where one does.
    """
    turns = poses[:, :3, :3]
    rigid = np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=ROUNDING)
    if not rigid or not np.allclose(np.linalg.det(turns), 1, atol=ROUNDING):
        raise ValueError("a matrix of cam_to_world is no pose: its upper left is not a rotation")
    if not np.allclose(poses[:, 3], [0, 0, 0, 1], atol=ROUNDING):
        raise ValueError("a matrix of cam_to_world is no pose: its last row is not 0, 0, 0, 1")


@dataclass(frozen=True)
class Answer:
    """A model's answer, read.

    Args:
        question: What was asked.
        text: What the model wrote.
        frame: Index, among the frames shown, of the frame whose camera the boxes are in.
        boxes: In that frame's camera coordinates.
        value: A number or a letter, for questions that ask for one.
        why: Why nothing could be read, empty where something was.
        indices: Numbers in the video of the frames shown.
        times: Seconds of each.
    """

    question: Question
    text: str
    frame: int
    boxes: Boxes3D
    value: float | str | None
    why: str
    indices: Sequence[int] = ()
    times: Sequence[float] = ()

    def words(self) -> list[str]:
        """The answer as lines of text."""
        task = self.question.task
        if self.why:
            wrote = " ".join(self.text.split())
            wrote = wrote if len(wrote) <= SHOWN else f"{wrote[: SHOWN - 1].rstrip()}…"
            return [f"no {_WANTED[task]} could be read: {self.why}", *([f"the model wrote: {wrote}"] if wrote else [])]
        if len(self.boxes):
            # Questions see other frames than each other: the number in the video is the same for all of them.
            when = f" ({self.times[self.frame]:.2f} s)" if self.times else ""
            number = self.indices[self.frame] if self.indices else self.frame
            camera = f"from the camera in frame {number}{when}"
            return [f"{label}, {camera}: {describe_box(box)}" for label, box in self.boxes]
        if task == "detection":
            return ["nothing of the kind is in sight"]
        if task == "number":
            unit = {"m2": "m²", "ft2": "ft²"}.get(self.question.unit or "", self.question.unit)
            return [f"{self.value:.10g}" + (f" {unit}" if unit else "")]
        if task == "choice":
            return [next(option for option in self.question.options if option[0] == self.value)]
        return [self.text.strip()]

    def document(self) -> dict[str, Any]:
        """The answer as ``answer.json`` has it."""
        return {
            "question": self.question.text,
            "task": self.question.task,
            "words": self.words(),
            "text": self.text,
            "unreadable": self.why or None,
            "value": self.value,
            "unit": self.question.unit,
            "options": list(self.question.options),
            "asked": self.question.prompt(len(self.indices)),
            "frames": list(self.indices),
            "times": list(self.times),
            "frame": self.frame if len(self.boxes) else None,
            "boxes": [{"label": label, "bbox_3d": [float(v) for v in box]} for label, box in self.boxes],
        }


_WANTED = {"detection": "box", "grounding": "box", "number": "number", "choice": "letter", "text": "answer"}


def read_answer(
    question: Question, text: str, indices: Sequence[int], times: Sequence[float], angles: Era = "intrinsic"
) -> Answer:
    """Read a model's text.

    Args:
        question: What was asked: it names a grounded box, the classes of detected ones, a number's unit.
        text: What the model wrote.
        indices: Numbers in the video of the frames that it saw.
        times: Seconds of each.
        angles: What the model means by the angles of boxes.
    """

    def read(frame: int = 0, boxes: Boxes3D | None = None, value: float | str | None = None, why: str = "") -> Answer:
        found = boxes if boxes is not None else Boxes3D([])
        found = Boxes3D(converted(found.boxes, angles), found.labels)
        return Answer(question, text, frame, found, value, why, tuple(indices), tuple(times))

    if question.task == "detection":
        detected = read_boxes(text)
        lost = detected.why or (detected.dropped[0].reason if detected.dropped else "")
        why = "" if len(detected.boxes) else lost
        return read(boxes=of_classes(detected.boxes, asked_classes(question.text)), why=why)
    if question.task == "grounding":
        place = read_grounding(text)
        if place.frame is None or place.box is None:
            return read(why=place.why)
        if place.frame >= len(indices):
            return read(why=f"it names frame {place.frame} of the {len(indices)} shown, counted from 0")
        return read(place.frame, Boxes3D([place.box], [object_label(question.text)]))
    if question.task == "number":
        number = read_number(text, question.unit)
        why = "" if number.value is not None else number.why
        if '"bbox_3d"' in text:  # the numbers in it are no answer
            why = "the model wrote boxes"
        elif number.value is not None and number.value < 0:
            why = f"{number.value:g} is less than nothing"
        return read(value=None if why else number.value, why=why)
    if question.task == "choice":
        choice = read_choice(text, question.options)
        return read(value=choice.letter, why="" if choice.letter is not None else choice.why)
    return read(why="" if text.strip() else "the model wrote nothing")


def describe_box(box: Floats) -> str:
    """A box in words: where it is from its camera, its size and its heading.

    The heading is the angle of the box's longer horizontal side to the picture's plane, in degrees.

    >>> describe_box(np.array([0.4, 0.1, 2.0, 1.0, 0.5, 0.8, 0, -np.pi / 2, 0]))
    '0.40 m right, 0.10 m down, 2.00 m ahead; size 1.00 x 0.50 x 0.80 m, turned 0 degrees'
    """
    from rft3d_cli.geometry.boxes import rotation_from_angles

    rotation = rotation_from_angles(box[6:9])
    # The camera's up is -y; the box's upright axis is the one closest to it, the other two lie flat.
    upright = int(np.argmax(np.abs(rotation[1])))
    flat = [axis for axis in range(3) if axis != upright]
    longer = max(flat, key=lambda axis: float(box[3 + axis]))
    x, _, z = rotation[:, longer]
    turned = float(np.degrees(np.arctan2(z, x))) % 180
    sides = (("left", "right"), ("up", "down"), ("behind", "ahead"))
    centre = ", ".join(f"{abs(v):.2f} m {names[int(v >= 0)]}" for v, names in zip(box[:3], sides, strict=True))
    size = " x ".join(f"{value:.2f}" for value in box[3:6])
    return f"{centre}; size {size} m, turned {turned:.0f} degrees"


def document(answers: Sequence[Answer], **around: Any) -> dict[str, Any]:
    """The content of ``answer.json``: a single answer also stands at its top."""
    rows = [answer.document() for answer in answers]
    top = {key: value for key, value in rows[0].items() if key not in ("frames", "times")} if len(rows) == 1 else {}
    return {"schema": 1, **top, **around, "convention": CONVENTION, "answers": rows}
