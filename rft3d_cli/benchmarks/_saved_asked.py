"""What a row of another harness says it was asked, held against the record that it may answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft3d_cli.prompts import IMAGE, THINK_CHOICE, THINK_NUMBER, VSI_CHOICE, VSI_HEAD, VSI_NUMBER
from rft3d_cli.records import Record

SCENES = ("scene_name", "scene", "scene_id")
QUESTIONS = ("question", "input", "prompt")
STATED = (*SCENES, *QUESTIONS, "video", "images", "options", "candidates", "question_type", "dataset")
"""Where a row may say what was asked."""

SOURCES = frozenset({"scannet", "scannetpp", "arkitscenes", "3rscan", "matterport3d", "rooms"})
"""Data sets of scenes, by their folded names."""

_FRAME = re.compile(rf"(Frame-\d+: )?{re.escape(IMAGE)}")
_OPTIONS = "Options:"
_ENDS = (_OPTIONS, VSI_NUMBER, VSI_CHOICE, *THINK_CHOICE.splitlines(), *THINK_NUMBER.splitlines())
_LETTER = re.compile(r"\(?([A-Za-z])[.):]\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a record asks, made ready to compare.

    Args:
        record: The record.
        prompt: Its whole prompt, by :func:`plain`.
        own: The lines of the prompt that are its own, without those that every prompt of the form has.
        whole: These lines are the question, all of it.
        options: Text by letter; None where the record does not say.
        scenes: Names of its scene; empty where it has none.
        dataset: Its ``meta.dataset``, folded.
    """

    record: Record
    prompt: str
    own: tuple[str, ...]
    whole: bool
    options: Mapping[str, str] | None
    scenes: frozenset[str]
    dataset: str | None


def asked_of(records: Sequence[Record]) -> list[Asked]:
    """What each of these records asks.

    >>> from rft3d_cli.examples import example_record
    >>> asked_of([example_record("choice")])[0].options is None
    False
    """
    # One prompt for all, as of detection: its wording tells no records apart.
    shared = len(records) > 1 and len({record.prompt for record in records}) == 1
    return [_asked(record, shared=shared) for record in records]


def _asked(record: Record, *, shared: bool) -> Asked:
    lines = [line for line in map(plain, record.prompt.splitlines()) if line]
    whole = VSI_HEAD in lines
    if whole:
        lines = lines[lines.index(VSI_HEAD) + 1 :]
        lines = lines[: next((i for i, line in enumerate(lines) if line in _ENDS), len(lines))]
    options, scene = getattr(record.target, "options", None), record.meta.scene
    names = set()
    if scene:
        clip = getattr(getattr(record, "video", None), "path", None)
        names = {scene, _last(scene), *([_stem(clip)] if clip else [])}
    return Asked(
        record,
        plain(record.prompt),
        () if shared else tuple(line for line in lines if line not in _ENDS),
        whole,
        by_letter([plain(option) for option in options]) if options else None,
        frozenset(names),
        _folded(record.meta.dataset) if record.meta.dataset else None,
    )


@dataclass(frozen=True, slots=True)
class Said:
    """What a row says that it was asked; None or empty where it does not.

    Args:
        question: Its question, by :func:`plain`.
        texts: Its whole prompts, as they stand.
        options: Text by letter.
        scene: Names of which one is the scene's: the scene as stated, or every part of the path of its video or image.
        datasets: Names of which one may be that of the data set, folded.
        kind: The type of the question.
    """

    question: str | None
    texts: tuple[str, ...]
    options: Mapping[str, str] | None
    scene: frozenset[str]
    datasets: frozenset[str]
    kind: str | None


def said_by(row: Mapping[str, Any]) -> Said:
    """What a row says, from its :data:`STATED` keys.

    >>> said = said_by({"video": "scannet/scene0011_00.mp4", "candidates": "['left', 'right']"})
    >>> sorted(said.scene), said.options
    (['scannet', 'scene0011_00'], {'A': 'left', 'B': 'right'})
    """
    question = row.get("question")
    options = _options(row)
    path = _path(row)
    stated = next((row[key] for key in SCENES if _is_name(row.get(key))), None)
    scene = frozenset({_last(str(stated))}) if stated is not None else frozenset(path)
    dataset = row.get("dataset")
    # The last part of a path is the scene's or the image's name.
    datasets = {dataset} if isinstance(dataset, str) else {*path[:-1]}
    return Said(
        plain(question) if isinstance(question, str) else None,
        tuple(row[key] for key in ("input", "prompt") if isinstance(row.get(key), str)),
        by_letter(options) if options else None,
        scene,
        frozenset(map(_folded, datasets)),
        str(row["question_type"]) if row.get("question_type") is not None else None,
    )


def otherwise(said: Said, asked: Asked, kinds: Sequence[frozenset[str]]) -> bool:
    """Whether a row speaks of another scene, data set, type, question or options than a record.

    Args:
        said: What the row says.
        asked: What the record asks.
        kinds: Of :func:`datasets_of`.
    """
    kind = asked.record.meta.question_type
    if said.scene and asked.scenes and said.scene.isdisjoint(asked.scenes):
        return True
    for names in kinds:
        if asked.dataset in names and said.datasets & names and asked.dataset not in said.datasets:
            return True
    if said.kind is not None and kind not in (None, said.kind):
        return True
    if said.options and not _same_options(said.options, asked):
        return True
    if said.question is not None and not _is_question(said.question, asked):
        return True
    return any(not _is_prompt(text, asked) for text in said.texts)


def datasets_of(asked: Sequence[Asked]) -> tuple[frozenset[str], frozenset[str]]:
    """Folded names that shut each other out: data sets of scenes, and those of the data.

    Other names beside them do not: a row's ``dataset`` may be that of the benchmark, and a record's as well.
    """
    return SOURCES, frozenset(one.dataset for one in asked if one.dataset)


def _same_options(said: Mapping[str, str], asked: Asked) -> bool:
    if asked.options is not None:
        return said == asked.options
    lines = {plain(line) for line in asked.record.prompt.splitlines()}
    return all(text in lines or f"{letter}. {text}" in lines for letter, text in said.items())


def _is_question(question: str, asked: Asked) -> bool:
    if f" {question} " not in f" {asked.prompt} ":
        return False
    return not asked.whole or " ".join(asked.own) in question


def _is_prompt(text: str, asked: Asked) -> bool:
    """Whether a whole prompt, in whatever form of another harness, asks what the record asks."""
    words = plain(text)
    found = all(line in words for line in asked.own) or (not asked.whole and words in asked.prompt)
    if not found or not asked.options:
        return found
    marks = [_LETTER.fullmatch(line.strip()) for line in text.splitlines()]
    shown = {match[1].upper(): plain(match[2]) for match in marks if match}
    return not asked.options.keys() <= shown.keys() or all(shown[key] == value for key, value in asked.options.items())


def by_letter(options: Sequence[str]) -> dict[str, str]:
    """Options by their letters, written or not.

    >>> by_letter(["B. sofa", "A. bed"]) == by_letter(["bed", "sofa"])
    True
    """
    marks = [_LETTER.fullmatch(option) for option in options]
    found = {match[1].upper(): match[2].strip() for match in marks if match}
    if len(found) == len(options):
        return found
    return {chr(ord("A") + index): option for index, option in enumerate(options)}


def plain(text: str) -> str:
    """A prompt or question for comparison: without marks of frames, white space made single.

    >>> plain("Frame-0: <image> How   many?")
    'How many?'
    """
    return " ".join((_FRAME.sub(" ", text) if IMAGE in text else text).split())


def id_text(value: str | float) -> str:
    """An id as text; spreadsheets make ``12.0`` of 12.

    >>> id_text(12), id_text("12.0"), id_text("scene0011_00/ref/1")
    ('12', '12', 'scene0011_00/ref/1')
    """
    return re.sub(r"^(\d+)\.0$", r"\1", str(value).strip())


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _last(name: str) -> str:
    return id_text(name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])


def _stem(path: str) -> str:
    return re.sub(r"\.[A-Za-z0-9]{1,5}$", "", path.replace("\\", "/").rsplit("/", 1)[-1])


def _path(row: Mapping[str, Any]) -> list[str]:
    """Parts of the path of a row's video without its suffix, or of its first image without the image's name."""
    video, images = row.get("video"), row.get("images")
    if isinstance(video, str):
        folders = video.replace("\\", "/").split("/")[:-1]
        return [part for part in (*folders, _stem(video)) if part]
    if isinstance(images, list) and images and isinstance(images[0], str) and "/" in images[0]:
        return [part for part in images[0].split("/")[:-1] if part]
    return []


def _folded(name: str) -> str:
    """A data set's name however it is written.

    >>> _folded("ScanNet++"), _folded("scannetpp")
    ('scannetpp', 'scannetpp')
    """
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))


def _options(row: Mapping[str, Any]) -> list[str]:
    """The options of a row; tables hold a printed list."""
    found = row.get("options", row.get("candidates"))
    if isinstance(found, str):
        from rft3d_cli.answers.literal import read_literal

        try:
            found = read_literal(found)
        except ValueError:
            return []
    return [plain(str(one)) for one in found] if isinstance(found, list | tuple) else []
