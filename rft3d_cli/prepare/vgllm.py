"""VG-LLM's own JSON files as records, whichever of its tasks and of its two meanings of angles they have.

A file is read twice, a stretch at a time: first to see which media it needs and what its angles mean
(:mod:`rft3d_cli.prepare._vgllm_angles`), then to write records (:mod:`rft3d_cli.prepare._vgllm_records`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.eras import ERAS, Era, differs
from rft3d_cli.prepare._vgllm_angles import (
    HINT,
    Witnesses,
    by_common_axis,
    by_overlap,
    by_pair,
    by_world,
)
from rft3d_cli.prepare._vgllm_records import (
    Context,
    Parsed,
    detection_boxes,
    grounding_target,
    parse_row,
    row_record,
)
from rft3d_cli.prepare._vgllm_rows import box_of, cameras_of
from rft3d_cli.prepare.conversations import RowError, checked_row
from rft3d_cli.prepare.pipeline import Part, Policy, Report, Store, is_there, lies_in, relative_name, run
from rft3d_cli.prepare.rowfile import Span, read_span, read_spans
from rft3d_cli.prepare.splits import Split

OTHER_ERA = "angles of the other era"
NAMED = 10
"""Missing files named one by one."""

__all__ = ["ERAS", "HINT", "Era", "prepare_vgllm"]


def prepare_vgllm(
    *,
    file: Path,
    media: Path,
    media_root: Path | None,
    split: Split,
    out: Path,
    angles: Era | None,
    allow_missing: bool,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write records of one of VG-LLM's files.

    Args:
        file: A JSON list of rows, or one row a line.
        media: The folder that the rows' media paths start at.
        media_root: What the records' paths are relative to. By default the record file's folder where ``media`` lies
            in it, else ``media``.
        split: What the split is called.
        out: The record file.
        angles: What the angles of the file's boxes mean; None reads it from the boxes.
        allow_missing: Whether to leave out rows whose media are missing, instead of raising.
        policy: How to work; its limit counts rows.
        begin: Called with the number of jobs; returns what to call after each.

    Raises:
        DataError: Where media are missing, the meaning of angles cannot be told or is mixed, and see
            :func:`rft3d_cli.prepare.pipeline.run`.
        UsageError: Where the media folder does not lie in the media root.
    """
    if not media.is_dir():
        raise DataError(f"{media} is not a folder", "name the folder that the rows' paths start at: --media DIR")
    root = media_root or (out.parent if lies_in(media, out.parent) else media)
    store = Store(media, relative_name(media, root), write=False)
    seen = _survey(file, media, policy.limit)
    if not seen.spans:
        raise DataError(f"{file} holds no rows")
    if seen.missing and not allow_missing:
        some = ", ".join(seen.missing[:NAMED]) + (", …" if len(seen.missing) > NAMED else "")
        raise DataError(
            f"{len(seen.missing):,} of {len(seen.media):,} media files are missing under {media}: {some}",
            "add them, or leave their rows out: --allow-missing",
        )
    era = seen.witnesses.decide(file, angles)
    against = seen.witnesses.against(era)
    context = Context(file.stem, store, split.name, era)
    # Who names the era has looked: rows that seem to say otherwise are kept then, and warned of.
    dissent = frozenset() if angles is not None else frozenset(against)
    told = "option" if angles is not None else "rows" if seen.witnesses.votes else "no turned box"
    options = {
        "file": str(file),
        "media": str(media),
        "split": split.name,
        "allow_missing": allow_missing,
        "media_root": str(root),
        "angles": {"option": angles, "era": era, "told_by": told, "rows": seen.witnesses.document()},
    }
    if policy.limit is not None:
        options["limit"] = policy.limit
    spans = [span for span in seen.spans if policy.limit is None or span.first < policy.limit]
    last = len(spans) - 1
    jobs = [
        _Job(
            file,
            span,
            span.count if policy.limit is None else min(span.count, policy.limit - span.first),
            frozenset(row for row in dissent if span.first <= row < span.first + span.count),
            len(against) if angles is not None and index == last else 0,
            len(seen.missing) if index == last else 0,
        )
        for index, span in enumerate(spans)
    ]
    return run(
        jobs,
        partial(_work, context=context, stop=policy.stop),
        _name,
        out=out,
        media_root=root,
        command="prepare vgllm",
        options=options,
        sources=[file],
        # A job is many rows; those beyond the limit have been cut off.
        policy=replace(policy, limit=None),
        what="rows",
        kinds="classes" if seen.classes else "types",
        nothing="name one of VG-LLM's training or evaluation files, and with --media the folder of its images",
        done=begin(len(jobs)),
    )


@dataclass(frozen=True)
class _Job:
    file: Path
    span: Span
    take: int
    dissent: frozenset[int]
    contrary: int
    missing: int


def _name(job: _Job) -> str:
    return str(job.file)


def _work(job: _Job, context: Context, stop: bool) -> Part:
    part = Part(str(job.file), total=job.take)
    warnings: set[str] = set()
    for number, row in enumerate(read_span(job.file, job.span)[: job.take], start=job.span.first):
        try:
            if number in job.dissent:
                raise RowError(OTHER_ERA, "nearly all other rows mean them differently")
            parsed = parse_row(checked_row(row))
            record = row_record(parsed, number, context, warnings)
        except RowError as error:
            part.bad += error.bad
            where = {"detail": f"row {number}: {error.why or error.reason}"} if error.bad else {"why": error.why}
            part.reject("row", error.reason, row=number, **where)
            continue
        part.records.append(record)
        part.counts[record.task] += 1
        if record.task == "detection":
            labels = [box.label for box in record.target.boxes]  # type: ignore[union-attr]
            part.counts["boxes"] += len(labels)
            part.labels.update(labels)
        elif record.meta.question_type:
            part.labels[record.meta.question_type] += 1
    if stop:
        # The pipeline tells of the first.
        part.rejects.sort(key=lambda reject: "detail" not in reject)
    part.counts["missing_media"] += job.missing
    if job.contrary:
        warnings.add(f"{job.contrary:,} rows speak against --angles {context.era}")
    part.warnings = sorted(warnings)
    return part


@dataclass
class _Survey:
    """What the first reading finds."""

    media: dict[str, bool] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    witnesses: Witnesses = field(default_factory=Witnesses)
    described: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)
    classes: bool = False

    @property
    def missing(self) -> list[str]:
        return [name for name, there in self.media.items() if not there]


def _survey(file: Path, media: Path, limit: int | None) -> _Survey:
    """Read the file: all of it for its angles, so that they are those of a whole run, and ``limit`` rows' media."""
    seen = _Survey()
    for span, rows in read_spans(file):
        seen.spans.append(span)
        for number, row in enumerate(rows, start=span.first):
            try:
                parsed = parse_row(checked_row(row))
                _testify(seen, number, parsed)
            except RowError:
                continue  # the second reading says why
            for name in parsed.media if limit is None or number < limit else ():
                if name not in seen.media:
                    seen.media[name] = is_there(media / name)
    return seen


def _testify(seen: _Survey, number: int, parsed: Parsed) -> None:
    """Ask one row what its angles mean."""
    frames = len(parsed.images or [])
    if parsed.kind == "detection":
        seen.classes = True
        _, boxes = detection_boxes(parsed)
        if not len(boxes) or not np.any(differs(boxes)):
            return
        cameras = cameras_of(parsed.row, frames)
        if cameras is not None:
            seen.witnesses.add("upright in the world", number, by_world(boxes, cameras.pose(0)))
        else:
            seen.witnesses.add("common vertical", number, by_common_axis(boxes))
    elif parsed.kind == "grounding":
        named = grounding_target(parsed)
        if named is None or not np.any(differs(named[1])):
            return
        frame, box = named
        cameras = cameras_of(parsed.row, frames)
        if parsed.row.get("gt_bbox") is None:
            seen.witnesses.add("overlap with gt_bbox", number, None)
            return
        world = box_of(parsed.row["gt_bbox"], "gt_bbox")
        if cameras is not None:
            seen.witnesses.add("overlap with gt_bbox", number, by_overlap(box, cameras.pose(frame), world))
            return
        first = seen.described.setdefault((parsed.images or [""])[frame], (box, world))
        seen.witnesses.add("two objects of one frame", number, by_pair(first, (box, world)))
