"""An answer made visible: what was asked and said, and the boxes drawn where they belong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.answers import read_boxes, read_choice, read_grounding, read_number
from rft3d_cli.errors import DataError
from rft3d_cli.files import atomic_path
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.camera import assumed_intrinsic, invert_rigid, scale_intrinsic
from rft3d_cli.show.draw import draw_boxes

ASSUMED_FOV = 58.0
"""Horizontal field of view where nothing is known of the camera, degrees: that of ScanNet's."""

_FIND_ALL = re.compile(r"\b(every|all|each|detect|list)\b", re.IGNORECASE)
_ANYTHING = frozenset(["object", "thing", "everything", "item", "furniture", "piece", "box", "bounding", "3d"])
"""Words that name no class."""
_FIND_ONE = re.compile(
    r"^\s*(?:where(?:['’]s| is| are)|find|locate|show me|point to)\s+(.*?)\s*[?.!]*\s*$", re.IGNORECASE
)


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


def guess_task(question: str) -> str:
    """``detection``, ``grounding`` or ``text``, from the words of a question.

    >>> guess_task("where is the chair"), guess_task("find every chair"), guess_task("how many chairs are there")
    ('grounding', 'detection', 'text')
    """
    if re.match(r"^\s*(find|detect|list|show)\b", question, re.IGNORECASE) and _FIND_ALL.search(question):
        return "detection"
    return "grounding" if _FIND_ONE.match(question) else "text"


def described_object(question: str) -> str:
    """The description in a grounding question, as a sentence.

    >>> described_object("Where is the red chair?")
    'The red chair.'
    """
    found = _FIND_ONE.match(question)
    text = (found.group(1) if found else question).strip().rstrip("?.!")
    return f"{text[:1].upper()}{text[1:]}."


def object_label(question: str) -> str:
    """What to call the box that answers a grounding question.

    >>> object_label("Where is the red chair?")
    'red chair'
    """
    return re.sub(r"^(the|an?)\s+", "", described_object(question).rstrip("."), flags=re.IGNORECASE)


def asked_classes(question: str) -> frozenset[str]:
    """The words of a question for all objects that may name a class, in the singular; empty where it wants any.

    >>> sorted(asked_classes("find every chair and all tables")), sorted(asked_classes("detect all objects"))
    (['chair', 'table'], [])
    """
    found = _FIND_ALL.search(question)
    words = re.findall(r"\w+", question[found.end() :].casefold() if found else "")
    kept = [_singular(word) for word in words if word not in _FILLERS]
    return frozenset() if _ANYTHING.intersection(kept) else frozenset(kept)


_FILLER_WORDS = "every all each of the a an and or in on at to this that room video picture scene you see"
_FILLERS = frozenset(_FILLER_WORDS.split())


def _singular(word: str) -> str:
    if word.endswith(("shes", "ches", "xes", "sses")):
        return word[:-2]
    if word.endswith("lves"):
        return f"{word[:-3]}f"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def of_classes(boxes: Boxes3D, classes: frozenset[str]) -> Boxes3D:
    """The boxes whose label has one of the words; all of them where no class was asked for."""
    if not classes:
        return boxes
    kept = [i for i, label in enumerate(boxes.labels) if classes & {*map(_singular, label.casefold().split())}]
    return Boxes3D([boxes.boxes[i] for i in kept], [boxes.labels[i] for i in kept])


def named(video: Path) -> Path:
    """The video by a path that ends in its name, also where it is written as ``.`` or ``..``."""
    return video if video.name not in ("", "..") else video.resolve()


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
    path = file or named(video).with_suffix(".camera.json")
    if file is None and not path.is_file():
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
        if poses is not None and not np.allclose(np.linalg.det(poses[:, :3, :3]), 1, atol=1e-2):
            raise ValueError("a matrix of cam_to_world is no pose: its upper left is not a rotation")
        if min(image_size) < 1:
            raise ValueError(f"image_size {list(image_size)} is empty")
    except OSError as error:
        raise DataError(f"camera file {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        hint = 'a camera file holds {"intrinsic": 3×3, "image_size": [width, height]}'
        raise DataError(f"camera file {path} is wrong: {error}", hint) from None
    return Camera(scale_intrinsic(intrinsic, image_size, size), "file", poses)


@dataclass(frozen=True)
class Answer:
    """A model's answer, read.

    Args:
        task: What was asked for.
        text: What the model wrote.
        frame: Index, among the frames shown, of the frame whose camera the boxes are in.
        boxes: In that frame's camera coordinates.
        value: A number or a letter, for questions that ask for one.
        why: Why nothing could be read, empty where something was.
    """

    task: str
    text: str
    frame: int
    boxes: Boxes3D
    value: float | str | None
    why: str


def read_answer(task: str, text: str, frames: int, question: str) -> Answer:
    """Read a model's text.

    Args:
        task: ``detection``, ``grounding``, or any other for short answers.
        text: What the model wrote.
        frames: How many frames it saw.
        question: What was asked: it names a grounded box, and the classes of detected ones.
    """
    none = Boxes3D([])
    if task == "detection":
        found = read_boxes(text)
        lost = found.why or (found.dropped[0].reason if found.dropped else "")
        why = "" if len(found.boxes) else lost
        return Answer(task, text, 0, of_classes(found.boxes, asked_classes(question)), None, why)
    if task == "grounding":
        place = read_grounding(text)
        if place.frame is None or place.box is None:
            return Answer(task, text, 0, none, None, place.why)
        if place.frame >= frames:
            return Answer(task, text, 0, none, None, f"it names frame {place.frame} of {frames}")
        return Answer(task, text, place.frame, Boxes3D([place.box], [object_label(question)]), None, "")
    number, choice = read_number(text), read_choice(text)
    value = number.value if number.value is not None else choice.letter
    return Answer(task, text, 0, none, value, "")


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


def draw_answer(
    answer: Answer, images: Sequence[NDArray[np.uint8]], intrinsic: Floats, folder: Path
) -> tuple[list[Path], list[NDArray[np.uint8]]]:
    """Write the frame that the boxes belong to as a PNG.

    Returns:
        The files written, and all frames with the boxes drawn on theirs.
    """
    from PIL import Image

    pictures = list(images)
    written: list[Path] = []
    if len(answer.boxes):
        pictures[answer.frame] = draw_boxes(images[answer.frame], answer.boxes, intrinsic)
        path = folder / f"frame{answer.frame:02d}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(pictures[answer.frame]).save(temporary, "PNG")
        written.append(path)
    return written, pictures


def boxes_in_all_frames(answer: Answer, poses: Floats, answer_pose: Floats) -> list[Boxes3D]:
    """The answer's boxes in the camera coordinates of every frame of the video.

    Args:
        answer: The answer.
        poses: ``(frames, 4, 4)`` camera to world, every frame of the video.
        answer_pose: ``(4, 4)`` of the frame that the answer's boxes are in.
    """
    world = answer.boxes.transform(answer_pose)
    return [world.transform(invert_rigid(pose)) for pose in poses]


def document(answer: Answer, **around: Any) -> dict[str, Any]:
    """The content of ``answer.json``."""
    return {
        "schema": 1,
        "task": answer.task,
        **around,
        "text": answer.text,
        "unreadable": answer.why or None,
        "value": answer.value,
        "frame": answer.frame if len(answer.boxes) else None,
        "boxes": [{"label": label, "bbox_3d": [float(v) for v in box]} for label, box in answer.boxes],
        "convention": "centre and full sizes in metres, ZXY-intrinsic angles in radians, OpenCV camera axes of `frame`",
    }
