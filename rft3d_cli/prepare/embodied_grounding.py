"""Grounding records from EmbodiedScan's descriptions of objects, ``embodiedscan_*_vg.json``.

A description names its object by ``bbox_id``, so no boxes have to be matched. A record asks for the frame that shows
the object best and for its oriented box in that frame's camera coordinates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from rft3d_cli.answers import grounding_answer
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import transform_boxes
from rft3d_cli.geometry.camera import invert_rigid
from rft3d_cli.geometry.visibility import area_in_view
from rft3d_cli.prepare._posed_checks import writable
from rft3d_cli.prepare._view_filter import LOOSEN, ViewFilter, ViewRule
from rft3d_cli.prepare.embodied_detection import DATASETS, ScanJob, Source, finish, scan_jobs, usable_scan
from rft3d_cli.prepare.embodiedscan import Frame, Scan, read_datasets
from rft3d_cli.prepare.pictures import Pictures, listed_pictures
from rft3d_cli.prepare.pipeline import Part, Policy, Quarantine, Report, Store, bad_part, run
from rft3d_cli.prepare.scanfiles import read_json
from rft3d_cli.prepare.scannet import camera, frame_list, tracked_frames
from rft3d_cli.prompts import IMAGE, grounding_prompt
from rft3d_cli.records import GroundingTarget, Meta, Record, describe
from rft3d_cli.video import sample_indices

DESCRIBED = ("scannet", *DATASETS)
"""Data sets whose objects may be described. ScanNet's pictures, too, are looked for where ``img_path`` says."""
SAMPLER = "linspace-floor"
MARKS = (IMAGE, "<video>")
"""Words that stand for pictures in a prompt, which no description may hold."""


@dataclass(frozen=True)
class Utterance:
    """One entry of a description file.

    Args:
        row: Its number in the file, from 0.
        target: ``target_id``: the object's ``bbox_id``.
        text: As written.
        name: ``target``: the object's class, where given.
        distractors: How many objects of the same class the scan has besides; None where the file does not say.
    """

    row: int
    target: int
    text: str
    name: str | None
    distractors: int | None


@dataclass(frozen=True)
class UtteranceSpec:
    """What a record looks like.

    Args:
        frames: Frames a record, evenly spaced over the scan's pictures; all where there are fewer.
        target: The frame to name, among those that list the object: the one of which the box's projection covers the
            largest area, within its borders, or the first.
        decimals: Digits in the answer text.
        split: For the records' ``meta``.
    """

    frames: int = 32
    target: Literal["largest", "first"] = "largest"
    decimals: int = 2
    split: str = "train"


def read_utterances(path: Path, samples: Mapping[str, str]) -> tuple[dict[str, list[Utterance]], Part]:
    """The entries of a description file that can be used, by scan.

    Args:
        path: ``embodiedscan_train_vg.json`` or another of its shape.
        samples: ``sample_idx`` by each name that a scan goes by.

    Returns:
        The entries, and what was left out.

    Raises:
        DataError: Where the file is not a JSON list.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list of descriptions", "name embodiedscan_train_vg.json or a file like it")
    found: dict[str, list[Utterance]] = {}
    part = Part(path.name, total=0)
    for number, row in enumerate(rows):
        try:
            scan_id, utterance = _utterance(number, row)
        except (TypeError, KeyError, ValueError) as error:
            part.reject("description", str(error) if isinstance(error, ValueError) else "wrong entry", row=number)
            continue
        if scan_id in samples:
            found.setdefault(samples[scan_id], []).append(utterance)
        else:
            part.counts["descriptions_of_other_scans"] += 1
    return found, part


def _utterance(number: int, row: Any) -> tuple[str, Utterance]:
    scan_id, text, target = row["scan_id"], row["text"], row["target_id"]
    targets = target if isinstance(target, list) else [target]
    if not isinstance(scan_id, str) or not all(type(item) is int for item in targets):
        raise TypeError
    if not isinstance(text, str) or not text.strip() or not writable(text):
        raise TypeError
    if len(targets) != 1:
        raise ValueError("not about one object")
    if any(mark in text for mark in MARKS):
        raise ValueError("holds a mark for pictures")
    name = row.get("target")
    others = row.get("distractor_ids")
    known = name if isinstance(name, str) and writable(name) else None
    return scan_id, Utterance(number, targets[0], text, known, len(others) if isinstance(others, list) else None)


def prepare_utterances(
    *,
    source: Source,
    descriptions: Path,
    out: Path,
    media_root: Path,
    spec: UtteranceSpec,
    view: ViewRule | None = None,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write grounding records of EmbodiedScan's descriptions.

    Args:
        source: EmbodiedScan's files.
        descriptions: ``embodiedscan_train_vg.json`` or another of its shape.
        out: The record file.
        media_root: What the records' paths are relative to.
        spec: What to write; its ``split`` is replaced by the name of the source's.
        view: What a frame must have in view of an object to be its target frame.
        policy: How to work.
        begin: Called with the number of scans; returns what to call after each.

    Raises:
        DataError: See :func:`rft3d_cli.prepare.pipeline.run`.
    """
    spec = replace(spec, split=source.split.name)
    every = scan_jobs(source, read_datasets(source.annotations, source.datasets))
    samples = {name: job.sample for job in every for name in (job.sample.partition("/")[2], job.sample)}
    found, rest = read_utterances(descriptions, samples)
    jobs = [_Job(job, tuple(found[job.sample])) for job in every if job.sample in found]
    if not jobs:
        raise DataError(
            f"{descriptions} describes nothing in the scans of {source.annotations}",
            f"both must be of one split, and of the data sets that are looked at: {', '.join(source.datasets)}",
        )
    jobs[0] = replace(jobs[0], rest=rest)
    options = {**source.options(), "descriptions": str(descriptions), **asdict(spec), "sampler": SAMPLER}
    if view is not None:
        options |= view.options()
    return run(
        jobs,
        partial(_work, spec=spec, store=source.store, view=view),
        _name,
        out=out,
        media_root=media_root,
        command="prepare embodiedscan",
        options={**options, "media_root": str(media_root)},
        sources=[path for path in (descriptions, source.annotations, source.split.file) if path is not None],
        policy=policy,
        nothing=f"see whether --data is the folder that img_path starts at{'' if view is None else LOOSEN}",
        done=begin(len(jobs)),
    )


@dataclass(frozen=True)
class _Job:
    scan: ScanJob
    entries: tuple[Utterance, ...]
    rest: Part = field(default_factory=lambda: Part(""))


def _name(job: _Job) -> str:
    return job.scan.sample


def _work(job: _Job, spec: UtteranceSpec, store: Store, view: ViewRule | None) -> Part:
    # What was left out of the file is told once, also where the scan that it goes with is bad.
    try:
        part = _scan_part(job, spec, store, view)
    except DataError as error:
        part = bad_part(_name(job), error)
    part.rejects += [{**row, "scene": None} for row in job.rest.rejects]
    part.counts += job.rest.counts
    return part


def _scan_part(job: _Job, spec: UtteranceSpec, store: Store, view: ViewRule | None) -> Part:
    scan = usable_scan(job.scan)
    part = Part(scan.sample)
    shots, usable = listed_pictures(store, scan, tracked_frames(scan, part), part)
    if not usable:
        raise Quarantine("no tracked frame", f"{scan.sample}: no listed frame has a pose")
    frames = [usable[i] for i in sample_indices(len(usable), min(spec.frames, len(usable)), SAMPLER)]
    rule = ViewFilter(view or ViewRule(), scan, shots.size)
    ids = Counter(scan.ids)
    used = set()
    for entry in job.entries:
        if ids[entry.target] != 1:
            reason = "no such bbox_id" if not ids[entry.target] else "several instances of one bbox_id"
            part.reject("description", reason, row=entry.row, target_id=entry.target)
            continue
        instance = scan.ids.index(entry.target)
        seen = [i for i, frame in enumerate(frames) if instance in frame.visible]
        good = [i for i in seen if rule.look(frames[i], instance) == (True, True)]
        if not good:
            reason = "too little in view" if seen else "no sampled frame shows the object"
            part.reject("description", reason, row=entry.row, target_id=entry.target)
            continue
        index = good[0] if spec.target == "first" else _largest(scan, frames, good, instance, shots.size)
        part.records.append(_record(scan, frames, entry, instance, index, shots, spec))
        part.labels[scan.instances.labels[instance]] += 1
        used.add(instance)
    part.counts.update(descriptions=len(job.entries), objects=len(used))
    finish(part, scan, shots, [frames] if part.records else [])
    return part


def _largest(scan: Scan, frames: Sequence[Frame], good: Sequence[int], instance: int, size: tuple[int, int]) -> int:
    areas = []
    for i in good:
        box = transform_boxes(scan.instances.boxes[instance], invert_rigid(scan.axis_align @ frames[i].cam_to_world))
        areas.append(area_in_view(box, scan.intrinsic_of(frames[i]), size))
    return good[int(np.argmax(areas))]


def _record(
    scan: Scan,
    frames: Sequence[Frame],
    entry: Utterance,
    instance: int,
    index: int,
    shots: Pictures,
    spec: UtteranceSpec,
) -> Record:
    world = scan.instances.boxes[instance]
    box = transform_boxes(world, invert_rigid(scan.axis_align @ frames[index].cam_to_world))
    name = f"{scan.sample}/vg/{entry.target}/{entry.row}"
    meta = {
        "dataset": scan.dataset,
        "scene": scan.place,
        "split": spec.split,
        "subset": None if entry.distractors is None else "multiple" if entry.distractors else "unique",
        "sampler": SAMPLER,
        "object_id": entry.target,
        "object_name": entry.name or scan.instances.labels[instance],
        "row": entry.row,
        "description": entry.text,
    }
    target = {"frame": index, "bbox_3d": box.tolist(), "bbox_world": world.tolist()}
    try:
        return Record(
            id=name,
            task="grounding",
            video=frame_list(frames, shots),
            prompt=grounding_prompt(entry.text.strip().capitalize(), len(frames)),
            answer=grounding_answer(index, box, spec.decimals),
            target=GroundingTarget.model_validate(target),
            camera=camera(scan, frames, shots, scan.intrinsic_of(frames[index])),
            meta=Meta.model_validate(meta),
        )
    except ValidationError as error:
        raise Quarantine("wrong annotations", f"{name}: {describe(error)}") from None
