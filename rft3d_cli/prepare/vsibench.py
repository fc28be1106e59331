"""VSI-Bench's questions, and questions in its form, as ``choice`` and ``number`` records over mp4 clips.

The videos lie as the benchmark ships them: ``<root>/<dataset>/<scene>.mp4``, or packed as ``<root>/<dataset>.zip``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.answers.target import in_style
from rft3d_cli.errors import DataError, SetupError, UsageError
from rft3d_cli.prepare.splits import Split, resolve_split
from rft3d_cli.prompts import thinking_prompt, vsibench_prompt
from rft3d_cli.records import ChoiceTarget, Clip, Meta, NumberTarget, Record, RecordFile, media_path, read_lines

# Scoring reads published questions through here and has no use for worker processes.
if TYPE_CHECKING:
    from rft3d_cli.prepare.pipeline import Policy, Report
    from rft3d_cli.prepare.unfinished import Part

VIDEOS = "videos"
"""Folder of unpacked clips within the media folder."""
TOGETHER = 64
"""Rows that are worked on together."""


@dataclass(frozen=True)
class ClipSpec:
    """How the clips are to be sampled when they are read.

    Args:
        frames: Frames a clip.
        sampler: See :data:`rft3d_cli.video.SAMPLERS`.
        answer_style: ``think`` asks for a chain of thought before the answer, ``direct`` as the harness does.
    """

    frames: int = 32
    sampler: str = "linspace-floor"
    answer_style: str = "direct"


def read_questions(path: Path) -> list[Any]:
    """The rows of a ``.jsonl`` or ``.parquet`` file, unchecked; None for a line that is not JSON.

    Raises:
        DataError: Where the file cannot be read.
        SetupError: Where a parquet file needs a package that is not installed.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    rows: list[Any] = []
    for _, line in read_lines(path):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            rows.append(None)
    return rows


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow as arrow  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError:
        raise SetupError(f"{path} needs pyarrow to be read", "pip install datasets, or name test.jsonl") from None
    try:
        return list(parquet.read_table(path).to_pylist())
    except (OSError, arrow.ArrowException) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path} is not a parquet file: {first}") from None


@dataclass(frozen=True)
class Question:
    """One checked row.

    Args:
        id: As text.
        dataset: ``scannet``, ``scannetpp``, ``arkitscenes``, ``rooms`` …
        scene: ``scene_name``.
        kind: ``question_type``.
        text: The question.
        truth: A letter, or a number as written.
        options: As shown, or None for a numeric question.
        pruned: Whether the debiased benchmark leaves it out; None where the row does not say.
    """

    id: str
    dataset: str
    scene: str
    kind: str
    text: str
    truth: str
    options: tuple[str, ...] | None
    pruned: bool | None = None

    @property
    def clip(self) -> str:
        """The video's path under the root."""
        return f"{self.dataset}/{self.scene}.mp4"


def parse_question(row: Mapping[str, Any]) -> Question:
    """A row as a question.

    Raises:
        ValueError: With what is wrong.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for key in ("id", "dataset", "scene_name", "question_type", "question", "ground_truth"):
        if row.get(key) is None or row[key] == "":
            raise ValueError(f"no {key}")
    for key in ("dataset", "scene_name"):
        value = str(row[key])
        if value.startswith(".") or any(c in value for c in "/\\:\0"):
            raise ValueError(f"{key} {value!r} is not a name")
    options, truth = row.get("options"), str(row["ground_truth"]).strip()
    if options is not None and not isinstance(options, list | tuple):
        raise ValueError("options are not a list")
    if not options:
        options = None
    if options is not None:
        if not all(isinstance(option, str) for option in options):
            raise ValueError("options are not text")
        letters = [option.strip()[:1].upper() for option in options]
        if len(truth) != 1 or letters.count(truth.upper()) != 1:
            raise ValueError(f"ground truth {truth!r} is not the letter of one option")
    else:
        try:
            finite = math.isfinite(float(truth))
        except ValueError:
            finite = False
        if not finite:
            raise ValueError(f"ground truth {truth!r} is not a number")
    return Question(
        str(row["id"]),
        str(row["dataset"]),
        str(row["scene_name"]),
        str(row["question_type"]),
        str(row["question"]),
        truth,
        None if options is None else tuple(options),
        row["pruned"] if isinstance(row.get("pruned"), bool) else None,
    )


def _checked(rows: Sequence[Any]) -> list[Question | str]:
    """Each row as a question, or what is wrong with it."""
    out: list[Question | str] = []
    ids: set[str] = set()
    for number, row in enumerate(rows, start=1):
        try:
            question = parse_question(row)
            if question.id in ids:
                raise ValueError(f"id {question.id} repeats")
        except ValueError as error:
            out.append(f"entry {number}: {error}")
            continue
        ids.add(question.id)
        out.append(question)
    return out


def _questions(entries: Iterable[Question | str]) -> list[Question]:
    return [entry for entry in entries if isinstance(entry, Question)]


def is_published(path: Path) -> bool:
    """Whether a file holds questions as VSI-Bench publishes them, and not records.

    Args:
        path: Any file; one that cannot be read is not published.
    """
    if path.suffix == ".parquet":
        return True
    try:
        _, line = next(iter(read_lines(path)))
        first = json.loads(line)
    except (DataError, StopIteration, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "task" not in first and {"question_type", "ground_truth"} <= first.keys()


def published_records(path: Path, media_root: Path | None = None) -> RecordFile:
    """Questions as VSI-Bench publishes them, as records: 32 frames of ``<dataset>/<scene>.mp4``.

    Args:
        path: ``test.jsonl``, or a parquet file.
        media_root: The folder of the videos, which are not looked at; by default the file's own.

    Raises:
        DataError: Where the file cannot be read, or holds a row that is no question.
    """
    entries = _checked(read_questions(path))
    asked = _questions(entries)
    if wrong := next((entry for entry in entries if isinstance(entry, str)), None):
        raise DataError(f"{path} {wrong}", "rft3d prepare vsibench leaves such rows out and counts them")
    if not asked:
        raise DataError(f"{path} holds no questions")
    split = resolve_split(None, path)
    records = [_record(question, question.clip, split, ClipSpec()) for question in asked]
    return RecordFile(path, path.parent if media_root is None else media_root, records)


def prepare_vsibench(
    *,
    questions: Path,
    videos: Path,
    media: Path,
    media_root: Path | None,
    split: Split,
    out: Path,
    spec: ClipSpec,
    allow_missing: bool,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write records of VSI-Bench, or of questions in its form.

    Args:
        questions: ``test.jsonl``, or a parquet file.
        videos: Folder of ``<dataset>/<scene>.mp4`` or of ``<dataset>.zip``.
        media: Where packed videos are unpacked to, as ``videos/<dataset>/<scene>.mp4``.
        media_root: What the records' paths are relative to. By default the record file's folder where the videos lie
            in it, else ``videos``, else ``media``.
        split: What the split is called.
        out: The record file.
        spec: How the clips are to be sampled.
        allow_missing: Whether to leave out questions whose video is missing, instead of raising.
        policy: How to work; its limit counts rows.
        begin: Called with the number of jobs; returns what to call after each.

    Raises:
        DataError: Where videos are missing (all are listed), and see :func:`rft3d_cli.prepare.pipeline.run`.
        UsageError: Where no folder holds all the videos.
    """
    from rft3d_cli.prepare.pipeline import relative_name, run, share

    if not videos.is_dir():
        raise DataError(f"{videos} is not a folder", "name the folder of the videos or of their zip archives: --videos")
    entries = _checked(read_questions(questions)[: policy.limit])
    wanted = dict.fromkeys(question.clip for question in _questions(entries))
    found = locate(wanted, videos, media, write=False)
    missing = [clip for clip in wanted if clip not in found]
    if missing and not allow_missing:
        raise DataError(
            f"{len(missing):,} of {len(wanted):,} videos are missing under {videos}: {', '.join(missing)}",
            "add them, or leave their questions out: --allow-missing",
        )
    root = media_root or _root(out.parent, (videos, media), found.values())
    names = {clip: relative_name(path, root) for clip, path in found.items()}
    options = {
        "questions": str(questions),
        "videos": str(videos),
        **asdict(spec),
        "split": split.name,
        "allow_missing": allow_missing,
        "media_root": str(root),
    }
    if policy.limit is not None:
        options["limit"] = policy.limit
    # A job is many rows; those beyond the limit have been cut off.
    policy = replace(policy, limit=None)
    jobs = _jobs(str(questions), entries, names)
    mine = dict.fromkeys(q.clip for job in share(jobs, policy) for q in _questions(job.entries))
    locate(mine, videos, media, write=not policy.dry_run)
    return run(
        jobs,
        partial(_work, split=split, spec=spec),
        _name,
        out=out,
        media_root=root,
        command="prepare vsibench",
        options=options,
        sources=[questions],
        policy=policy,
        what="entries",
        kinds="types",
        nothing="questions are rows as in VSI-Bench's test.jsonl",
        done=begin(len(share(jobs, policy))),
    )


@dataclass(frozen=True)
class _Job:
    """Neighbouring rows.

    Args:
        file: Where they come from.
        entries: Questions, and what is wrong with other rows.
        names: How records name the clips that were found.
        fresh: Clips that no job before asks about.
    """

    file: str
    entries: tuple[Question | str, ...]
    names: dict[str, str]
    fresh: frozenset[str]


def _jobs(file: str, entries: Sequence[Question | str], names: Mapping[str, str]) -> list[_Job]:
    jobs = []
    known: set[str] = set()
    for start in range(0, max(len(entries), 1), TOGETHER):
        these = tuple(entries[start : start + TOGETHER])
        clips = {question.clip for question in _questions(these)}
        there = {clip: names[clip] for clip in clips if clip in names}
        jobs.append(_Job(file, these, there, frozenset(clips - known)))
        known |= clips
    return jobs


def _name(job: _Job) -> str:
    return job.file


def _work(job: _Job, split: Split, spec: ClipSpec) -> Part:
    from rft3d_cli.prepare.unfinished import Part

    part = Part(job.file, total=len(job.entries))
    for entry in job.entries:
        if isinstance(entry, str):
            part.bad += 1
            part.reject("question", "wrong entry", detail=entry)
    for question in _questions(job.entries):
        if question.clip in job.names:
            part.records.append(_record(question, job.names[question.clip], split, spec))
        else:
            part.reject("question", "missing video", id=question.id, video=question.clip)
    there = len(job.fresh & job.names.keys())
    part.counts.update(questions=len(part.records), videos=there, missing_videos=len(job.fresh) - there)
    part.labels.update(record.meta.question_type or "" for record in part.records)
    return part


def locate(clips: Mapping[str, None], videos: Path, media: Path, *, write: bool) -> dict[str, Path]:
    """Where each clip lies, unpacking those that are only in a zip archive.

    Args:
        clips: Names ``<dataset>/<scene>.mp4``.
        videos: The folder of videos and archives.
        media: Packed clips go to ``media/videos``.
        write: Whether to unpack; otherwise only the archives' lists are read.

    Returns:
        Paths by name; clips found nowhere are absent.
    """
    from rft3d_cli.prepare.archives import open_archive
    from rft3d_cli.prepare.pipeline import is_there

    found = {}
    packed: dict[str, list[str]] = {}
    for clip in clips:
        path = media_path(videos, clip)
        unpacked = media / VIDEOS / clip
        if is_there(path) and path.is_file():
            found[clip] = path
        elif (videos / f"{clip.partition('/')[0]}.zip").is_file():
            packed.setdefault(clip.partition("/")[0], []).append(clip)
        elif is_there(unpacked) and unpacked.is_file():
            found[clip] = unpacked
    for dataset, members in packed.items():
        with open_archive(videos / f"{dataset}.zip") as archive:
            for clip in members:
                name = next((n for n in (clip, clip.partition("/")[2]) if n in archive.members), None)
                if name is None:
                    continue
                found[clip] = media / VIDEOS / clip
                there = found[clip].is_file() and found[clip].stat().st_size == archive.members[name].file_size
                if write and not there:
                    archive.extract(name, found[clip])
    return found


def _root(home: Path, folders: Sequence[Path], files: Iterable[Path]) -> Path:
    """The first folder that holds all files; the record file's own comes first, because readers assume it."""
    from rft3d_cli.prepare.pipeline import lies_in

    paths = list(files)
    for folder in (home, *folders):
        if all(lies_in(path, folder) for path in paths):
            return folder
    raise UsageError(
        "some videos are loose and some packed, and no one folder holds both",
        f"unpack them beside the loose ones: --media {folders[0]}",
    )


def _record(question: Question, path: str, split: Split, spec: ClipSpec) -> Record:
    task: Any
    target: ChoiceTarget | NumberTarget
    if question.options is None:
        task, target = "number", NumberTarget(value=float(question.truth))
    else:
        task, target = "choice", ChoiceTarget(letter=question.truth, options=list(question.options))
    meta: dict[str, Any] = {
        "dataset": question.dataset,
        "scene": question.scene,
        "split": split.name,
        "question_type": question.kind,
        "sampler": spec.sampler,
    }
    if question.pruned is not None:
        meta["pruned"] = question.pruned
    prompt = vsibench_prompt(question.text, question.options)
    if spec.answer_style == "think":
        prompt = thinking_prompt(prompt, choice=question.options is not None)
    record = Record(
        id=question.id,
        task=task,
        video=Clip(path=path, frames=spec.frames, sampler=spec.sampler),
        prompt=prompt,
        target=target,
        meta=Meta.model_validate(meta),
    )
    return record.model_copy(update={"answer": in_style(question.truth, record, spec.answer_style)})
