"""Records: one prompt, one video and one target a line of JSON.

A record is what every stage passes to the next. ``prepare`` writes records, ``sft`` and ``grpo`` train on them,
``evaluate`` and ``rewards`` score predictions against them. Predictions are JSONL too:
``{"id": "…", "prediction": "…text…"}``, from rft3d or from anywhere else.

Media paths are relative to a *media root* (by default the JSONL's own folder) and may not leave it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
)
from pydantic_core.core_schema import ValidationInfo

from rft3d_cli.errors import DataError
from rft3d_cli.files import atomic_writer
from rft3d_cli.lines import read_answers as read_answers
from rft3d_cli.lines import read_lines as read_lines
from rft3d_cli.lines import read_predictions as read_predictions
from rft3d_cli.samplers import Sampler

MEDIA_HINT = "name the folder of the media (--media-root DIR, or data.media_root=DIR)"

MAX_NUMBER = 1e6
"""Largest magnitude of a number in a box or a pose: a kilometre-sized room is a slip, and its square fits a float."""

SCHEMA = 1
TASKS = ("detection", "grounding", "choice", "number", "text")
Task = Literal["detection", "grounding", "choice", "number", "text"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Bounded = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, le=MAX_NUMBER, allow_inf_nan=False)]
Box9 = tuple[Bounded, Bounded, Bounded, Size, Size, Size, Bounded, Bounded, Bounded]
_THREE, _FOUR = Field(min_length=3, max_length=3), Field(min_length=4, max_length=4)
Matrix3 = Annotated[list[Annotated[list[Bounded], _THREE]], _THREE]
Matrix4 = Annotated[list[Annotated[list[Bounded], _FOUR]], _FOUR]


def _text(value: Any) -> Any:
    """Ids are strings; a number is read as its text, which is what a person would write."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _writable(value: str) -> str:
    """Half of a surrogate pair is valid JSON and cannot be written to any file."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair") from None
    return value


Id = Annotated[str, BeforeValidator(_text), Field(min_length=1), AfterValidator(_writable)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FrameList(_Strict):
    """A video given as image files, in the order in which the model sees them.

    Args:
        frames: Paths relative to the media root.
        times: Seconds, one a frame, where known.
    """

    frames: list[str] = Field(min_length=1)
    times: list[Finite] | None = None

    @field_validator("times")
    @classmethod
    def _one_time_a_frame(cls, value: list[float] | None, info: ValidationInfo) -> list[float] | None:
        frames = info.data.get("frames")
        if value is not None and frames is not None and len(value) != len(frames):
            raise ValueError(f"{len(value)} times for {len(frames)} frames")
        return value


class Clip(_Strict):
    """A video given as one file, sampled when it is read.

    Args:
        path: Path relative to the media root.
        frames: How many frames to take; None leaves it to the recipe.
        sampler: How to choose them; None leaves it to the recipe.
    """

    path: str = Field(min_length=1)
    frames: int | None = Field(default=None, ge=1)
    sampler: Sampler | None = None


def _words(value: str) -> str:
    if not value.strip():
        raise ValueError("a label needs letters")
    return value


Label = Annotated[str, Field(max_length=100), AfterValidator(_words)]
"""What a reader of answers takes for a label."""


class LabelledBox(_Strict):
    """A box with its class name."""

    label: Label
    bbox_3d: Box9


class DetectionTarget(_Strict):
    """Every box to find, in the camera coordinates of the first frame, full precision."""

    boxes: list[LabelledBox]


class GroundingTarget(_Strict):
    """One object.

    Args:
        frame: Index of the target frame among the record's frames, from 0.
        bbox_3d: The box in that frame's camera coordinates.
        bbox_world: The box in the axis-aligned world.
    """

    frame: int = Field(ge=0)
    bbox_3d: Box9
    bbox_world: Box9


_MARK = re.compile(r"\s?[(\[]?([A-Za-z])[.):\]]")


class ChoiceTarget(_Strict):
    """A multiple-choice answer: the letter, and the options as they were shown."""

    letter: str = Field(min_length=1, max_length=1)
    options: list[str]

    @field_validator("options")
    @classmethod
    def _one_is_the_letter_s(cls, value: list[str], info: ValidationInfo) -> list[str]:
        letter = info.data.get("letter")
        marks = [_MARK.match(option) for option in value]
        letters = {m.group(1).upper() for m in marks if m} | {*ascii_uppercase[: len(value)]}
        if value and letter is not None and letter.upper() not in letters:
            raise ValueError(f"none of {len(value)} options is {letter!r}")
        return value


class NumberTarget(_Strict):
    """A numeric answer."""

    value: Finite


class TextTarget(_Strict):
    """Free text: reference answers, for captions and open questions."""

    references: list[str]


Target = DetectionTarget | GroundingTarget | ChoiceTarget | NumberTarget | TextTarget

_TARGETS: dict[str, type[_Strict]] = {
    "detection": DetectionTarget,
    "grounding": GroundingTarget,
    "choice": ChoiceTarget,
    "number": NumberTarget,
    "text": TextTarget,
}


class Camera(_Strict):
    """Cameras of the frames, OpenCV axes.

    Args:
        intrinsic: ``(3, 3)``, pixels, for ``image_size``.
        image_size: ``[width, height]``.
        cam_to_world: One ``(4, 4)`` pose a frame, to the scan's own world.
        axis_align: ``(4, 4)`` from the scan's world to the axis-aligned one.
    """

    intrinsic: Matrix3
    image_size: tuple[PositiveInt, PositiveInt]
    cam_to_world: list[Matrix4] = Field(min_length=1)
    axis_align: Matrix4


class Meta(BaseModel):
    """Where a record comes from. Other keys are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    dataset: str | None = None
    scene: str | None = None
    split: str | None = None
    question_type: str | None = None
    subset: str | None = None
    sampler: str | None = None


class Record(_Strict):
    """One line of a record file. See the module's docstring and each part's."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: Id
    task: Task
    video: FrameList | Clip
    prompt: str = Field(min_length=1)
    answer: str | None = None
    target: Target | None = None
    camera: Camera | None = None
    meta: Meta = Meta()

    @property
    def media(self) -> list[str]:
        """Paths of its frames, or of its clip."""
        return [self.video.path] if isinstance(self.video, Clip) else list(self.video.frames)

    @field_validator("video", mode="before")
    @classmethod
    def _which_video(cls, value: Any) -> Any:
        # A union's error message lists every branch; choosing first keeps it to the one that was meant.
        if isinstance(value, dict):
            return _nested(Clip if "path" in value else FrameList, value)
        return value

    @field_validator("target", mode="before")
    @classmethod
    def _which_target(cls, value: Any, info: ValidationInfo) -> Any:
        model = _TARGETS.get(str(info.data.get("task")))
        if model is None:
            return value
        if value is None:
            if model is TextTarget:
                return None
            raise ValueError(f"a {info.data['task']} record needs a target")
        return _nested(model, value) if isinstance(value, dict) else value

    @field_validator("target")
    @classmethod
    def _target_in_video(cls, value: Target | None, info: ValidationInfo) -> Target | None:
        video = info.data.get("video")
        if isinstance(value, GroundingTarget) and isinstance(video, FrameList) and value.frame >= len(video.frames):
            raise ValueError(f"frame {value.frame} of a clip of {len(video.frames)} frames")
        return value

    @field_validator("camera")
    @classmethod
    def _one_pose_a_frame(cls, value: Camera | None, info: ValidationInfo) -> Camera | None:
        video, target = info.data.get("video"), info.data.get("target")
        if value is None:
            return None
        poses = len(value.cam_to_world)
        if isinstance(video, FrameList) and poses != len(video.frames):
            raise ValueError(f"{poses} poses for {len(video.frames)} frames")
        if isinstance(target, GroundingTarget) and target.frame >= poses:
            raise ValueError(f"no pose for the target's frame {target.frame}")
        return value

    def to_json(self) -> str:
        """The record as one line of JSON, without a newline; keys in a fixed order."""
        return json.dumps(self.model_dump(by_alias=True, exclude_unset=False, mode="json"), ensure_ascii=False)


def _nested(model: type[_Strict], value: dict[str, Any]) -> _Strict:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ValueError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """The first problem of a validation error in a few words: where, then what.

    >>> try: NumberTarget.model_validate({"value": "many"})
    ... except ValidationError as e: print(describe(e))
    value: input should be a valid number, unable to parse string as a number
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown field {where}"
    if first["type"] == "missing":
        return f"missing field {where}"
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        what = what[:1].lower() + what[1:]
    return f"{where}: {what}" if where else what


@dataclass
class Reject:
    """A line that was left out: its number from 1, its id where it could be read, and why."""

    line: int
    reason: str
    id: str | None = None


@dataclass
class RecordFile:
    """Records read from one file.

    Args:
        path: The JSONL file.
        media_root: The folder that media paths are relative to.
        records: Records in file order.
        rejects: Lines left out, only ever non-empty when quarantine was asked for.
    """

    path: Path
    media_root: Path
    records: list[Record]
    rejects: list[Reject] = field(default_factory=list)

    def media(self, relative: str) -> Path:
        """The full path of a media file; see :func:`media_path`."""
        return media_path(self.media_root, relative)


def media_path(root: Path, relative: str) -> Path:
    """A media path under its root.

    Raises:
        DataError: Where the path is absolute or leaves the root.
    """
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or "\\" in relative or ":" in relative:
        raise DataError(
            f"media path {relative!r} leaves the media root {root}",
            f"media paths are relative; {MEDIA_HINT}",
        )
    return root / pure


def parse_record(line: str) -> Record:
    """One record from one line of JSON.

    Raises:
        ValueError: With a short reason: no JSON, a wrong field, an unknown field.
    """
    try:
        data = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}" if isinstance(error, ValueError) else "nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        raise ValueError(describe(error)) from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def read_records(
    path: Path | str,
    *,
    media_root: Path | str | None = None,
    limit: int | None = None,
    quarantine: bool = False,
) -> RecordFile:
    """Read a JSONL file of records.

    Args:
        path: The file.
        media_root: Folder of the media paths; by default the file's own folder.
        limit: Read at most this many records.
        quarantine: Collect wrong lines in ``rejects`` instead of raising.

    Raises:
        DataError: On a missing or empty file, a wrong line, or a repeated id; the message names the file, the line
            and the field.
    """
    path = Path(path)
    out = RecordFile(path, Path(media_root) if media_root is not None else path.parent, [])
    seen: dict[str, int] = {}
    for number, line in read_lines(path):
        if limit is not None and len(out.records) >= limit:
            break
        try:
            record = parse_record(line)
            if record.id in seen:
                raise ValueError(f"id {record.id!r} repeats line {seen[record.id]}")
        except ValueError as error:
            if not quarantine:
                hint = "records are described in docs/records.md; rft3d prepare writes good ones"
                raise DataError(f"{path} line {number}: {error}", hint) from None
            out.rejects.append(Reject(number, str(error)))
            continue
        seen[record.id] = number
        out.records.append(record)
    if not out.records:
        raise DataError(f"{path} holds no records", "rft3d prepare writes them; see rft3d prepare --help")
    return out


def write_records(path: Path | str, records: Iterable[Record]) -> int:
    """Write records as JSONL, beside and then renamed, so that no reader sees half a file.

    Returns:
        How many were written.
    """
    count = 0
    with atomic_writer(Path(path)) as stream:
        for record in records:
            stream.write(record.to_json() + "\n")
            count += 1
    return count


def missing_media(source: RecordFile) -> DataError | None:
    """One problem that counts and names the media files that records want and that are not there, or None."""
    missing: list[Path] = []
    seen: set[str] = set()
    for record in source.records:
        names = record.media
        for name in names:
            if name not in seen:
                seen.add(name)
                path = media_path(source.media_root, name)
                if not path.exists():
                    missing.append(path)
    if not missing:
        return None
    problem = f"{source.path}: {len(missing):,} of {len(seen):,} media files are missing, first {missing[0]}"
    return DataError(problem, f"{MEDIA_HINT}, or run rft3d prepare again")
