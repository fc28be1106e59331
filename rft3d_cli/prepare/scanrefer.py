"""Grounding records: ScanRefer's descriptions, ScanNet's frames, EmbodiedScan's cameras and visibility.

A record asks for the frame that shows the described object and for the object's box in that frame's camera
coordinates. The user's files are only read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from rft3d_cli.answers import grounding_answer
from rft3d_cli.errors import UsageError
from rft3d_cli.geometry.boxes import Floats, transform_boxes
from rft3d_cli.geometry.camera import invert_rigid
from rft3d_cli.prepare._scanrefer_frames import (
    SAMPLER,
    FrameSampler,
    TargetRule,
    draws,
    evenly,
    projected_area,
    sampler_name,
    showing_sample,
    target_frame,
)
from rft3d_cli.prepare._scanrefer_scenes import (
    NOTHING,
    DescribedScene,
    described_scenes,
    frames_with_pose,
    match_objects,
)
from rft3d_cli.prepare.embodiedscan import Frame, Scan
from rft3d_cli.prepare.pictures import Pictures, Places, pictures
from rft3d_cli.prepare.pipeline import Part, Policy, Report, run
from rft3d_cli.prepare.scanfiles import aggregation_file, read_aggregation, read_label_table
from rft3d_cli.prepare.scannet import camera, checked_camera, frame_list
from rft3d_cli.prepare.scanrefer_file import Description, benchmark_subsets, read_descriptions
from rft3d_cli.prepare.splits import Split
from rft3d_cli.prompts import grounding_prompt
from rft3d_cli.records import GroundingTarget, Meta, Record

__all__ = [
    "SAMPLER",
    "Description",
    "GroundingSpec",
    "TargetRule",
    "benchmark_subsets",
    "grounding_part",
    "prepare_grounding",
    "projected_area",
    "read_descriptions",
    "target_frame",
]

GroundTruth = Literal["aabb", "instance"]


@dataclass(frozen=True)
class GroundingSpec:
    """What a grounding record looks like.

    Args:
        frames: Frames a record, evenly spaced over the scan; all of a scan that has fewer.
        target: The frame to name: the one in which the box covers the largest area, or the first, among those that
            list the object as visible.
        ground_truth: ``aabb``, ScanRefer's own: the extent of the object's mesh along the axes of the aligned world;
            or ``instance``: EmbodiedScan's oriented box.
        decimals: Digits in the answer text.
        split: For the records' ``meta``.
        sampler: ``chronological``: in order, the same for all records of a scan; or ``wrap-around``, as in VG-LLM's
            data: from a random frame on, over the end of the scan to its beginning.
        samplings: Records a description, each with frames of its own; more than one with ``wrap-around`` only.
        seed: For ``wrap-around``.
    """

    frames: int = 32
    target: TargetRule = "largest"
    ground_truth: GroundTruth = "aabb"
    decimals: int = 2
    split: str = "train"
    sampler: FrameSampler = "chronological"
    samplings: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samplings > 1 and self.sampler == "chronological":
            raise UsageError(
                f"{self.samplings} samplings of chronological frames would be the same frames",
                "--sampler wrap-around draws others each time",
            )


def prepare_grounding(
    *,
    scans: Path,
    descriptions: Path,
    annotations: Path,
    labels: Path | None,
    places: Places,
    split: Split,
    out: Path,
    media_root: Path,
    spec: GroundingSpec,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write grounding records of a ScanRefer file.

    Args:
        scans: Folder of scans as downloaded.
        descriptions: ``ScanRefer_filtered_*.json``.
        annotations: EmbodiedScan infos with the scenes' frames.
        labels: ``scannetv2-labels.combined.tsv``, which makes ``subset`` ScanRefer's own. Without it an object is
            unique where the scan's aggregation has one object of its name.
        places: Where frames come from and go to.
        split: Which scenes, and what the split is called.
        out: The record file.
        media_root: What the records' paths are relative to.
        spec: What to write; its ``split`` is replaced by the name of ``split``.
        policy: How to work.
        begin: Called with the number of scenes; returns what to call after each.

    Raises:
        DataError: See :func:`rft3d_cli.prepare.pipeline.run`.
    """
    spec = replace(spec, split=split.name)
    jobs = described_scenes(descriptions, annotations, split)
    table = None if labels is None else read_label_table(labels)
    options = {
        "scans": str(scans),
        "posed_images": None if places.posed is None else str(places.posed),
        "descriptions": str(descriptions),
        "annotations": str(annotations),
        "labels": None if labels is None else str(labels),
        **asdict(spec),
        "sampler": sampler_name(spec.sampler),
        "subset": "objects of the scan by name" if table is None else "described objects by benchmark class",
        "media_root": str(media_root),
    }
    return run(
        jobs,
        partial(_work, spec=spec, places=places, scans=scans, table=table),
        _name,
        out=out,
        media_root=media_root,
        command="prepare scanrefer",
        options=options,
        sources=[path for path in (descriptions, annotations, labels, split.file) if path is not None],
        policy=policy,
        nothing=NOTHING,
        done=begin(len(jobs)),
    )


def _name(job: DescribedScene) -> str:
    return job.scene


def _work(
    job: DescribedScene, spec: GroundingSpec, places: Places, scans: Path, table: Mapping[str, int] | None
) -> Part:
    scan = job.annotated()
    subsets = {} if table is None else benchmark_subsets(job.entries, table)
    known = {object_id: subset for (_, object_id), subset in subsets.items()}
    return job.note_wrong(grounding_part(scan, job.entries, known, spec, places, scans / job.scene))


@dataclass(frozen=True)
class _Found:
    """A description whose object is found.

    Args:
        id: The record's.
        entry: The description.
        subset: ``unique`` or ``multiple``.
        world: ``(9,)`` in the axis-aligned world.
        frames: Of the record.
        index: The frame to name among them.
    """

    id: str
    entry: Description
    subset: str
    world: Floats
    frames: list[Frame]
    index: int


def grounding_part(
    scan: Scan,
    entries: Sequence[Description],
    subsets: Mapping[int, str],
    spec: GroundingSpec,
    places: Places,
    folder: Path,
) -> Part:
    """The grounding records of one scan.

    Args:
        scan: The annotated scan.
        entries: Its descriptions.
        subsets: ``unique`` or ``multiple`` by object id, where known.
        spec: What to write.
        places: Where frames come from and go to.
        folder: The scan's own folder.

    Raises:
        DataError: Where the scan cannot be used.
    """
    part = Part(scan.scene)
    usable = frames_with_pose(scan, part)
    objects = match_objects(scan, folder, {entry.object_id for entry in entries})
    names = Counter(group.label for group in read_aggregation(aggregation_file(folder)))
    found: list[_Found] = []
    for entry in entries:
        if entry.object_id not in objects:
            part.reject("description", "object not in the aggregation", id=entry.id)
            continue
        label, box, instance = objects[entry.object_id]
        if instance is None:
            part.reject("description", "no annotated instance matches the object", id=entry.id)
            continue
        world = box if spec.ground_truth == "aabb" else scan.instances.boxes[instance]
        subset = subsets.get(entry.object_id) or ("unique" if names[label] == 1 else "multiple")
        for sampling in range(spec.samplings):
            frames = _sample(usable, instance, entry, sampling, spec)
            index = target_frame(scan, frames, instance, world, spec.target)
            if index is None:
                part.reject("description", "no sampled frame shows the object", id=entry.id)
                break
            found.append(_Found(record_id(entry, sampling), entry, subset, world, frames, index))
    if found:
        shots = pictures(places, scan.scene, {f.number: f for one in found for f in one.frames}.values())
        intrinsic = checked_camera(scan, shots, folder, part)
        part.records = [_record(scan, one, shots, intrinsic, spec) for one in found]
        part.scan = shots.about
    used = {one.entry.id: one.entry for one in found}.values()
    part.counts.update(
        descriptions=len(entries),
        objects=len({entry.object_id for entry in used}),
        frames=len({frame.number for one in found for frame in one.frames}),
    )
    part.labels.update(entry.name.replace("_", " ") for entry in used)
    return part


def record_id(entry: Description, sampling: int) -> str:
    """The id of a description's first record (0) or of a further one; what no other description's id can be.

    >>> entry = Description("scene0000_00", 3, "chair", "1", "It is red.")
    >>> record_id(entry, 0), record_id(entry, 1)
    ('scene0000_00/ref/3/1', 'scene0000_00/ref-2/3/1')
    """
    return entry.id if sampling == 0 else f"{entry.scene}/ref-{sampling + 1}/{entry.object_id}/{entry.ann}"


def _sample(
    usable: Sequence[Frame], instance: int, entry: Description, sampling: int, spec: GroundingSpec
) -> list[Frame]:
    if spec.sampler == "chronological":
        return evenly(usable, spec.frames)
    return showing_sample(usable, spec.frames, instance, draws(spec.seed, entry.id, sampling))


def _record(scan: Scan, one: _Found, shots: Pictures, intrinsic: Floats, spec: GroundingSpec) -> Record:
    entry = one.entry
    box = transform_boxes(one.world, invert_rigid(scan.axis_align @ one.frames[one.index].cam_to_world))
    target = {"frame": one.index, "bbox_3d": box.tolist(), "bbox_world": one.world.tolist()}
    meta = {
        "dataset": "scanrefer",
        "scene": entry.scene,
        "split": spec.split,
        "subset": one.subset,
        "sampler": sampler_name(spec.sampler),
        "object_id": entry.object_id,
        "object_name": entry.name,
        "ann_id": entry.ann,
        "description": entry.text,
    }
    return Record(
        id=one.id,
        task="grounding",
        video=frame_list(one.frames, shots),
        # VG-LLM's data capitalises so, which also lower-cases the rest.
        prompt=grounding_prompt(entry.text.capitalize(), len(one.frames)),
        answer=grounding_answer(one.index, box, spec.decimals),
        target=GroundingTarget.model_validate(target),
        camera=camera(scan, one.frames, shots, intrinsic),
        meta=Meta.model_validate(meta),
    )
