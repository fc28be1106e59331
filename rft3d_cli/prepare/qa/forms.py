"""The rows of each training set: which keys tell it, and where question, answer, media and type stand.

Keys and path forms are those that public training code reads: VSI-590K and VSI-Train-10k (cambrian-s and others),
SpaceR and Video-R1 (their ``open_r1``), VLM-3R and SpatialStack, SPAR and VG-LLM, SIMS-VSI (Molmo2-ER), MindCube, and
LLaVA-NeXT for everything that has conversations and media alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from string import ascii_uppercase
from typing import Any, Literal

from rft3d_cli.prepare.conversations import (
    UNPAINTED,
    RowError,
    Turns,
    image_names,
    inside,
    spar_type,
    turns,
)

Kind = Literal["choice", "number", "text"]

_SCENE = re.compile(r"(?:^|/)(scene\d{4}_\d\d)(?=[/._]|$)")
_FRAMES = re.compile(r"_\d+f$")
"""VSI-Train-10k names a video after its scene and its number of frames: ``scene0335_02_128f``."""
_CAMERA = re.compile(r"__\d+$")
"""ProcTHOR's videos are named after a camera, and their folder after the house: ``raw_navigation_camera__0.mp4``."""
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_SPAR = re.compile(
    r"(?:depth_prediction|distance_(?:prediction|infer)|obj_|spatial_imagination|position_matching|view_change"
    r"|camera_motion|appearance_order|room_size|nav)\w*"
)


@dataclass(frozen=True)
class Asked:
    """What a row asks, in the same words for all sets.

    Args:
        text: The question as stored, with its marks for media and the options that stand in it.
        answer: As stored, without tags.
        media: Paths as the row names them.
        clip: Whether the media are one video, or one folder of frames; else they are images.
        kind: What the row says that its answer is; None where the answer itself has to tell.
        options: Options that stand in a field of their own.
        type: The row's own name for this kind of question.
        detail: A finer name, where the row has one.
        family: A name that only says what the answer looks like, such as ``multiple choice``.
        dataset: Where the scene is from.
        scene: Its name.
        source_id: The row's own id.
    """

    text: str
    answer: str
    media: tuple[str, ...]
    clip: bool
    kind: Kind | None = None
    options: tuple[str, ...] | None = None
    type: str | None = None
    detail: str | None = None
    family: str | None = None
    dataset: str | None = None
    scene: str | None = None
    source_id: str | int | None = None


@dataclass(frozen=True)
class Form:
    """The rows of one set.

    Args:
        name: For ``--form`` and for the records' ``meta``.
        keys: What tells a row of this form, in words.
        tells: Whether a row is of this form.
        read: What a row asks.
    """

    name: str
    keys: str
    tells: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], Asked]


def form_of(row: Any) -> Form | None:
    """The form of a row, by its keys; None where they tell none.

    >>> form_of({"problem": "?", "solution": "<answer>A</answer>", "path": "a.mp4"}).name
    'spacer'
    """
    if not isinstance(row, dict):
        return None
    return next((form for form in FORMS.values() if form.tells(row)), None)


def elsewhere(row: Any) -> str | None:
    """The command that reads a row which is no training question of these forms; None where no command does.

    >>> elsewhere({"scene_name": "a", "question": "?", "ground_truth": "1", "question_type": "object_counting"})
    'rft3d prepare vsibench --questions'
    """
    if not isinstance(row, dict):
        return None
    if {"question", "ground_truth", "question_type", "scene_name"} <= row.keys():
        return "rft3d prepare vsibench --questions"
    if {"boxes", "gt_bbox", "annotations", "situation"} & row.keys():
        return "rft3d prepare vgllm"
    return None


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(row.get(key) is not None for key in keys)


def _media(row: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """Paths, and whether they are one video."""
    video = row.get("video")
    if isinstance(video, list) and len(video) == 1:
        video = video[0]
    if isinstance(video, str) and video:
        return (inside(video),), True
    pictures = row.get("images", row.get("image"))
    if any(isinstance(picture, dict) for picture in (pictures if isinstance(pictures, list) else [pictures])):
        raise RowError("pictures inside the file", "take them out to files, and name those", bad=False)
    images = image_names(row)
    if images is None:
        raise RowError("no images", "a row needs images or a video")
    return tuple(images), False


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    return value if isinstance(value, str) and value.strip() else None


def _id(row: Mapping[str, Any], *keys: str) -> str | int | None:
    found = (row.get(key) for key in keys)
    return next((value for value in found if isinstance(value, str | int) and not isinstance(value, bool)), None)


@lru_cache(maxsize=4096)
def _scene(media: tuple[str, ...]) -> str | None:
    """ScanNet's scene that a path names."""
    return next((found.group(1) for name in media if (found := _SCENE.search(name))), None)


@lru_cache(maxsize=4096)
def _stem(media: tuple[str, ...]) -> str:
    """The scene that a video is named after."""
    path = PurePosixPath(media[0])
    own = path.parent.name if _CAMERA.search(path.stem) and path.parent.name else path.stem
    return _scene(media) or _FRAMES.sub("", own)


@lru_cache(maxsize=4096)
def _top(media: tuple[str, ...]) -> str | None:
    parts = PurePosixPath(media[0]).parts
    return parts[0] if len(parts) > 1 else None


def _talk(row: Mapping[str, Any]) -> Asked:
    """A row of conversations and media: two turns, of which the second is the answer."""
    said: Turns = turns(row)
    media, clip = _media(row)
    return Asked(
        said.prompt,
        said.answer,
        media,
        clip,
        type=_text(row, "question_type"),
        dataset=_text(row, "data_source") or _top(media),
        scene=_text(row, "scene_name") or _scene(media),
        source_id=_id(row, "id"),
    )


def _vsi590k(row: Mapping[str, Any]) -> Asked:
    asked = _talk(row)
    scene = _stem(asked.media) if asked.clip else asked.scene
    return replace(asked, dataset=_top(asked.media), scene=scene)


def _sims(row: Mapping[str, Any]) -> Asked:
    asked = _talk(row)
    kind: Kind | None = "choice" if row.get("fmt") == "mc" else None
    return replace(asked, dataset="sims-vsi", scene=_stem(asked.media), kind=kind)


def _vlm3r(row: Mapping[str, Any]) -> Asked:
    if row.get("video") is None and row.get("images") is None:
        # The place that VLM-3R's training scripts look at.
        row = {**row, "video": f"{row['data_source']}/videos/{row['scene_name']}.mp4"}
    return _talk(row)


def _spar(row: Mapping[str, Any]) -> Asked:
    kind = spar_type(row if row.get("spar_info") is not None else {"spar_info": {"type": row.get("type")}})
    asked = _talk(row)
    parts = PurePosixPath(asked.media[0]).parts
    scene, dataset = asked.scene, "spar"
    if "images" in parts[:-1]:
        at = parts.index("images")
        scene, dataset = scene or parts[at + 1], parts[at - 1] if at else dataset
    return replace(asked, type=kind, dataset=dataset, scene=scene)


def _spacer(row: Mapping[str, Any]) -> Asked:
    problem, solution = _text(row, "problem"), _text(row, "solution")
    if problem is None:
        raise RowError("empty question")
    found = _ANSWER.search(solution or "")
    if found is None:
        raise RowError("no answer", "the solution has no <answer>")
    path = inside(str(row["path"]).lstrip("/") if isinstance(row["path"], str) else row["path"])
    clip = row.get("data_type", "video") != "image"
    said = _text(row, "problem_type")
    kinds: dict[str | None, Kind] = {"multiple choice": "choice", "numerical": "number", "regression": "number"}
    dataset = _text(row, "data_source")
    return Asked(
        problem,
        found.group(1).strip(),
        (path,),
        clip,
        kind=kinds.get(said, "text"),
        options=_options(row) if said == "multiple choice" else None,
        type=_text(row, "problem_sub_type"),
        family=said,
        dataset=dataset,
        scene=_scene((path,)) or (_stem((path,)) if dataset == "SR_dataset" else None),
        source_id=_id(row, "problem_id", "id"),
    )


def _vsitrain(row: Mapping[str, Any]) -> Asked:
    media, clip = _media(row)
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise RowError("empty question")
    kind: Kind | None = "choice" if row.get("type") == "mc" else None
    return Asked(
        row["question"],
        str(row["ground_truth"]).strip(),
        media,
        clip,
        kind=kind,
        options=_options(row) if row.get("options") else None,
        type=_text(row, "question_type"),
        detail=_text(row, "question_type_detail"),
        dataset=_text(row, "source") or _text(row, "dataset") or _top(media),
        scene=_stem(media),
        source_id=_id(row, "id"),
    )


def _mindcube(row: Mapping[str, Any]) -> Asked:
    media, clip = _media(row)
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise RowError("empty question")
    category = row.get("category")
    kind = category[0] if isinstance(category, list) and category and isinstance(category[0], str) else None
    return Asked(
        row["question"],
        str(row["gt_answer"]).strip(),
        media,
        clip,
        kind="choice",
        type=kind,
        dataset="mindcube",
        scene=PurePosixPath(media[0]).parent.name or None,
        source_id=_id(row, "id"),
    )


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    options = row.get("options")
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise RowError("wrong options", "not a list of texts")
    if len(options) > len(ascii_uppercase):
        raise RowError("wrong options", f"{len(options)}, more than letters")
    return tuple(option.strip() for option in options)


def _is_spar(row: Mapping[str, Any]) -> bool:
    kind = row.get("type")
    named = isinstance(kind, str) and (kind in UNPAINTED or _SPAR.fullmatch(kind) is not None)
    return row.get("conversations") is not None and (row.get("spar_info") is not None or named)


def _is_talk(row: Mapping[str, Any]) -> bool:
    media = any(row.get(key) is not None for key in ("video", "image", "images"))
    return row.get("conversations") is not None and media and elsewhere(row) is None


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("spacer", "problem, solution, path", _has("problem", "solution", "path"), _spacer),
        Form("mindcube", "question, gt_answer, images", _has("question", "gt_answer", "images"), _mindcube),
        Form("vsitrain", "question, ground_truth, video", _has("question", "ground_truth", "video"), _vsitrain),
        Form("spar", "conversations, images, spar_info", _is_spar, _spar),
        Form("sims", "conversations, video, fmt", _has("conversations", "video", "fmt"), _sims),
        Form(
            "vlm3r",
            "conversations, data_source, scene_name",
            _has("conversations", "data_source", "scene_name"),
            _vlm3r,
        ),
        Form(
            "vsi590k",
            "conversations, question_type, video or image",
            lambda row: _is_talk(row) and row.get("question_type") is not None,
            _vsi590k,
        ),
        Form("llava", "conversations, video or images", _is_talk, _talk),
    )
}
"""By name; the first whose keys a row has is its form."""
