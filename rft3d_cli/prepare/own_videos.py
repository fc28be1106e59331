"""Your own videos and questions about them, as choice, number and text records.

Each video is opened once: its packets are counted and its first frame is decoded, so that training does not meet a
broken file hours later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from rft3d_cli.answers.target import in_style
from rft3d_cli.errors import DataError
from rft3d_cli.prepare._own_questions import OwnQuestion, Sheet, parse_question, read_sheet
from rft3d_cli.prepare.pipeline import Part, Policy, Report, lies_in, ordered, relative_name, run_part
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
        policy: How to work; videos are checked by its processes.
        begin: Called with the number of videos; returns what to call after each.

    Raises:
        DataError: Where a column or videos are missing, and see :func:`rft3d_cli.prepare.pipeline.run`.
    """
    sheet = read_sheet(questions)
    part = Part(questions.name, total=len(sheet.rows) + len(sheet.wrong))
    asked = _checked(sheet, part)
    if only:
        asked = [question for question in asked if _in_split(question, split, part)]
    wanted = list(dict.fromkeys(question.video for question in asked))
    missing = [name for name in wanted if not media_path(videos, name).is_file()]
    if missing and not allow_missing:
        raise _missing(missing, wanted, videos)
    known = {*wanted} - {*missing}
    done = begin(len(known))
    checks: dict[str, Part] = {}
    for check in ordered([name for name in wanted if name in known], partial(check_video, videos), policy.workers):
        checks[check.name] = check
        done()
    root = media_root or (out.parent if lies_in(videos, out.parent) else videos)
    prefix = relative_name(videos, root)
    for question in asked:
        _add(part, question, checks.get(question.video), f"{prefix}/" if prefix else "", split, spec)
    _summarise(part, checks, len(missing))
    options = {
        "videos": str(videos),
        "questions": str(questions),
        **asdict(spec),
        "split": split.name,
        "only_split": only,
        "allow_missing": allow_missing,
        "media_root": str(root),
    }
    return run_part(
        part,
        out=out,
        media_root=root,
        command="prepare video",
        options=options,
        sources=[questions],
        policy=policy,
        what="questions",
        kinds="types",
        nothing="rows of questions are described in docs/own-data.md",
    )


def _checked(sheet: Sheet, part: Part) -> list[OwnQuestion]:
    """Good rows as questions; the others are bad, with their line and reason."""
    good: dict[str, OwnQuestion] = {}
    wrong = dict(sheet.wrong)
    for line, row in sheet.rows:
        try:
            question = parse_question(line, row)
            name = _id(question)
            if name in good:
                raise ValueError(f"id {name!r} repeats line {good[name].line}")
        except ValueError as error:
            wrong[line] = str(error)
            continue
        good[name] = question
    part.bad += len(wrong)
    for line in sorted(wrong):
        part.reject("question", "wrong row", line=line, detail=f"line {line}: {wrong[line]}")
    if sheet.unused:
        part.warnings.append(f"columns that are not used: {', '.join(sheet.unused)}")
    if any(q.kind == "text" and re.match(r"[+-]?[0-9.]", q.answer) for q in good.values()):
        part.warnings.append("answers that start with a number were taken as text: leave the unit to the question")
    return list(good.values())


def _id(question: OwnQuestion) -> str:
    return question.id or f"{_stem(question.video)}/q/{question.line}"


def _stem(video: str) -> str:
    return str(Path(video).with_suffix("").as_posix())


def _in_split(question: OwnQuestion, split: Split, part: Part) -> bool:
    other = question.meta.get("split", split.name)
    if other != split.name:
        part.reject("question", "another split", line=question.line, split=other)
    return other == split.name


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


def _summarise(part: Part, checks: dict[str, Part], missing: int) -> None:
    good = {name: check.scan for name, check in checks.items() if check.scan is not None}
    kinds = {kind: sum(record.task == kind for record in part.records) for kind in ("choice", "number", "text")}
    part.counts.update(videos=len(good), unusable_videos=len(checks) - len(good), missing_videos=missing, **kinds)
    part.labels.update(record.meta.question_type or record.task for record in part.records)
    splits = sorted({record.meta.split or "" for record in part.records})
    if len(splits) > 1:
        part.warnings.append(f"one file holds several splits ({', '.join(splits)}): --split {splits[0]} takes one")
    part.scan = {"videos": good}
