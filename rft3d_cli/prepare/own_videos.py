"""Your own videos and questions about them, as choice, number and text records.

Each video is opened once: its packets are counted and its first frame is decoded, so that training does not meet a
broken file hours later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from rft3d_cli.answers.target import in_style
from rft3d_cli.errors import DataError
from rft3d_cli.prepare._own_questions import OwnQuestion, Sheet, parse_question, read_sheet
from rft3d_cli.prepare.pipeline import Part, Policy, Report, is_there, lies_in, relative_name, run, share
from rft3d_cli.prepare.splits import Split
from rft3d_cli.prepare.vsibench import ClipSpec
from rft3d_cli.prompts import VSI_HEAD, thinking_prompt, vsibench_prompt
from rft3d_cli.records import ChoiceTarget, Clip, Meta, NumberTarget, Record, TextTarget, media_path
from rft3d_cli.video import IMAGE_SUFFIXES, read_frames

DATASET = "video"
SHORT = "some videos have fewer frames than are asked of them: frames are repeated"
NAMED = 20
"""Missing videos named one by one."""


def prepare_videos(
    *,
    videos: Path,
    questions: Path,
    media_root: Path | None,
    split: Split,
    only: bool,
    out: Path,
    spec: ClipSpec,
    allow_missing: bool,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write records of questions about videos.

    Args:
        videos: Their folder; rows name files below it.
        questions: ``.csv``, ``.tsv`` or ``.jsonl``; the columns are described in docs/own-data.md.
        media_root: What the records' paths are relative to. By default the record file's folder where ``videos`` lies
            in it, else ``videos``.
        split: What the split of rows is called that do not say.
        only: Whether rows that say another split are left out.
        out: The record file.
        spec: How the clips are to be sampled, where rows do not say.
        allow_missing: Whether to leave out questions whose video is missing, instead of raising.
        policy: How to work; its limit counts the rows that are not of another split.
        begin: Called with the number of jobs; returns what to call after each.

    Raises:
        DataError: Where a column or videos are missing, and see :func:`rft3d_cli.prepare.pipeline.run`.
    """
    sheet = read_sheet(questions)
    rows = _rows(sheet, split if only else None, policy.limit)
    asked = [row for row in rows if isinstance(row, OwnQuestion)]
    wanted = list(dict.fromkeys(question.video for question in asked))
    there = {name for name in wanted if is_there(path := media_path(videos, name)) and path.is_file()}
    missing = [name for name in wanted if name not in there]
    if missing and not allow_missing:
        raise _missing(missing, wanted, videos)
    root = media_root or (out.parent if lies_in(videos, out.parent) else videos)
    prefix = relative_name(videos, root)
    options = {
        "videos": str(videos),
        "questions": str(questions),
        **asdict(spec),
        "split": split.name,
        "only_split": only,
        "allow_missing": allow_missing,
        "media_root": str(root),
    }
    if policy.limit is not None:
        options["limit"] = policy.limit
    # A job may be several rows; those beyond the limit have been cut off.
    policy = replace(policy, limit=None)
    jobs = _jobs(questions.name, rows, there, _doubts(sheet, asked, split))
    _check.cache_clear()  # files may have changed since another run in this process
    return run(
        jobs,
        partial(_work, videos=videos, prefix=f"{prefix}/" if prefix else "", split=split, spec=spec),
        _name,
        out=out,
        media_root=root,
        command="prepare video",
        options=options,
        sources=[questions],
        policy=policy,
        what="questions",
        kinds="types",
        nothing="rows of questions are described in docs/own-data.md",
        done=begin(len(share(jobs, policy))),
    )


@dataclass(frozen=True)
class _Left:
    """A row that is not asked.

    Args:
        line: Where it stands.
        wrong: What is wrong with it; None where it is of another split.
        split: That split.
    """

    line: int
    wrong: str | None = None
    split: str | None = None


@dataclass
class _Job:
    """Rows that follow one another and ask about one video.

    Args:
        file: The name of their file.
        rows: Questions, and rows that are left out.
        video: Of the questions.
        there: Whether it is.
        fresh: Whether no job before is about it.
        warnings: About the whole file, in its first job.
    """

    file: str
    rows: list[OwnQuestion | _Left] = field(default_factory=list)
    video: str | None = None
    there: bool = False
    fresh: bool = False
    warnings: list[str] = field(default_factory=list)


def _rows(sheet: Sheet, only: Split | None, limit: int | None) -> list[OwnQuestion | _Left]:
    """The rows in their order, until ``limit`` of them are of the split."""
    good: dict[str, OwnQuestion] = {}
    out: list[OwnQuestion | _Left] = []
    count = 0
    entries: list[tuple[int, dict[str, Any] | str]] = [*sheet.rows, *sheet.wrong.items()]
    for line, row in sorted(entries, key=itemgetter(0)):
        if count == limit:
            break
        try:
            if isinstance(row, str):
                raise ValueError(row)
            question = parse_question(line, row)
            name = _id(question)
            if name in good:
                raise ValueError(f"id {name!r} repeats line {good[name].line}")
        except ValueError as error:
            out.append(_Left(line, wrong=str(error)))
            count += 1
            continue
        good[name] = question
        other = question.meta.get("split")
        if only is not None and other not in (None, only.name):
            out.append(_Left(line, split=other))
            continue
        out.append(question)
        count += 1
    return out


def _doubts(sheet: Sheet, asked: Sequence[OwnQuestion], split: Split) -> list[str]:
    """What looks wrong about the whole file."""
    out = []
    if sheet.unused:
        out.append(f"columns that are not used: {', '.join(sheet.unused)}")
    if any(q.kind == "text" and re.match(r"[+-]?[0-9.]", q.answer) for q in asked):
        out.append("answers that start with a number were taken as text: leave the unit to the question")
    splits = sorted({question.meta.get("split", split.name) for question in asked})
    if len(splits) > 1:
        out.append(f"one file holds several splits ({', '.join(splits)}): --split {splits[0]} takes one")
    return out


def _jobs(file: str, rows: Sequence[OwnQuestion | _Left], there: Set[str], warnings: list[str]) -> list[_Job]:
    jobs = [_Job(file, warnings=warnings)]
    known: set[str] = set()
    for row in rows:
        if isinstance(row, OwnQuestion) and row.video != jobs[-1].video:
            if jobs[-1].video is not None:
                jobs.append(_Job(file))
            jobs[-1].video, jobs[-1].there, jobs[-1].fresh = row.video, row.video in there, row.video not in known
            known.add(row.video)
        jobs[-1].rows.append(row)
    return jobs


def _name(job: _Job) -> str:
    return job.file


def _work(job: _Job, videos: Path, prefix: str, split: Split, spec: ClipSpec) -> Part:
    part = Part(job.file, total=len(job.rows), warnings=list(job.warnings))
    for row in job.rows:
        if isinstance(row, _Left) and row.wrong is not None:
            part.bad += 1
            part.reject("question", "wrong row", line=row.line, detail=f"line {row.line}: {row.wrong}")
    check = _check(videos, job.video) if job.video is not None and job.there else None
    for row in job.rows:
        if isinstance(row, OwnQuestion):
            _add(part, row, check, prefix, split, spec)
        elif row.wrong is None:
            part.reject("question", "another split", line=row.line, split=row.split)
    good = check is not None and check.scan is not None
    fresh = int(job.fresh)
    kinds = {kind: sum(record.task == kind for record in part.records) for kind in ("choice", "number", "text")}
    part.counts.update(
        videos=fresh * good, unusable_videos=fresh * (job.there and not good), missing_videos=fresh * (not job.there)
    )
    part.counts.update(kinds)
    part.labels.update(record.meta.question_type or record.task for record in part.records)
    if check is not None and good and job.fresh:
        part.scan = {"scene": job.video, **(check.scan or {})}
    return part


@lru_cache(maxsize=1024)
def _check(videos: Path, name: str) -> Part:
    # Rows about one video need not follow one another.
    return check_video(videos, name)


def _id(question: OwnQuestion) -> str:
    return question.id or f"{_stem(question.video)}/q/{question.line}"


def _stem(video: str) -> str:
    return str(Path(video).with_suffix("").as_posix())


def _missing(missing: Sequence[str], wanted: Sequence[str], videos: Path) -> DataError:
    there = {path.relative_to(videos).as_posix() for path in videos.rglob("*") if path.is_file()}
    by_stem = {_stem(name): name for name in sorted(there)}
    first = missing[0]
    near = by_stem.get(_stem(first)) or next(iter(get_close_matches(first, sorted(there), n=1)), None)
    names = ", ".join(missing[:NAMED]) + (f", and {len(missing) - NAMED:,} more" if len(missing) > NAMED else "")
    guess = f"did you mean {near} for {first}? " if near else ""
    return DataError(
        f"{len(missing):,} of {len(wanted):,} videos are missing under {videos}: {names}",
        f"{guess}add them, or leave their questions out: --allow-missing",
    )


def check_video(videos: Path, name: str) -> Part:
    """Open a video as training will.

    Args:
        videos: The folder.
        name: The file below it.

    Returns:
        A part of that name whose ``scan`` tells length and size; or with a reject, where it cannot be used.
    """
    part = Part(name, total=0)
    path = media_path(videos, name)
    try:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise DataError(f"{path} is a picture, not a video")
        # The first frame; its pixels do not matter.
        read = read_frames(path, 1, size=(16, 16))
        info = read.info
        if read.damaged or read.notes:
            raise DataError(f"{path} is damaged: {info.frames:,} frames can be found, but {'; '.join(read.notes)}")
    except DataError as error:
        reason = error.message.removeprefix(f"{path} ").partition(":")[0]
        part.reject("video", reason, detail=error.message)
        return part
    part.scan = {
        "frames": info.frames,
        "seconds": round(info.duration, 3),
        "size": [info.width, info.height],
        "codec": info.codec,
    }
    return part


def _add(part: Part, question: OwnQuestion, check: Part | None, prefix: str, split: Split, spec: ClipSpec) -> None:
    """One question's record, or why there is none."""
    where = {"id": _id(question), "video": question.video}
    if check is None:
        part.reject("question", "missing video", **where)
        return
    if check.rejects:
        part.bad += 1
        part.reject("question", "unusable video", **where, detail=check.rejects[0]["detail"])
        return
    frames = question.frames or spec.frames
    if frames > (check.scan or {})["frames"] and SHORT not in part.warnings:
        part.warnings.append(SHORT)
    target: ChoiceTarget | NumberTarget | TextTarget
    if question.kind == "choice":
        target = ChoiceTarget(letter=question.answer, options=list(question.options))
    elif question.kind == "number":
        target = NumberTarget(value=float(question.answer))
    else:
        target = TextTarget(references=list(question.references))
    # The words after a number's question ask for a single word or phrase, which a sentence is not.
    text = question.kind == "text"
    prompt = f"{VSI_HEAD}\n{question.text}" if text else vsibench_prompt(question.text, question.options)
    if spec.answer_style == "think" and not text:
        prompt = thinking_prompt(prompt, choice=question.kind == "choice")
    meta = {"scene": _stem(question.video), "split": split.name, **question.meta}
    record = Record(
        id=_id(question),
        task=question.kind,
        video=Clip.model_validate({"path": prefix + question.video, "frames": frames, "sampler": spec.sampler}),
        prompt=prompt,
        target=target,
        meta=Meta.model_validate({"dataset": DATASET, **meta, "sampler": spec.sampler}),
    )
    answer = None if text else in_style(question.answer, record, spec.answer_style)
    part.records.append(record.model_copy(update={"answer": answer}))
