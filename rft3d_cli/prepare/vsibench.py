"""VSI-Bench's questions, and questions in its form, as ``choice`` and ``number`` records over mp4 clips.

The videos lie as the benchmark ships them: ``<root>/<dataset>/<scene>.mp4``, or packed as ``<root>/<dataset>.zip``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.answers.target import in_style
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.prepare.splits import Split, resolve_split
from rft3d_cli.prepare.vsibench_questions import Question, all_questions, checked, sound
from rft3d_cli.prepare.vsibench_questions import is_published as is_published
from rft3d_cli.prepare.vsibench_questions import parse_question as parse_question
from rft3d_cli.prepare.vsibench_questions import read_questions as read_questions
from rft3d_cli.prompts import thinking_prompt, vsibench_prompt
from rft3d_cli.records import ChoiceTarget, Clip, Meta, NumberTarget, Record, RecordFile, media_path

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


def published_records(path: Path, media_root: Path | None = None) -> RecordFile:
    """Questions as VSI-Bench publishes them, as records: 32 frames of ``<dataset>/<scene>.mp4``.

    Args:
        path: ``test.jsonl``, or a parquet file.
        media_root: The folder of the videos, which are not looked at; by default the file's own.

    Raises:
        DataError: Where the file cannot be read, or holds a row that is no question.
    """
    split = resolve_split(None, path)
    records = [_record(question, question.clip, split, ClipSpec()) for question in all_questions(path)]
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
    entries = checked(read_questions(questions)[: policy.limit])
    wanted = dict.fromkeys(question.clip for question in sound(entries))
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
    mine = dict.fromkeys(q.clip for job in share(jobs, policy) for q in sound(job.entries))
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
        clips = {question.clip for question in sound(these)}
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
    for question in sound(job.entries):
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
        answer=question.truth,
        target=target,
        meta=Meta.model_validate(meta),
    )
    answer = in_style(question.truth, record, spec.answer_style)
    return record if answer == question.truth else record.model_copy(update={"answer": answer})
