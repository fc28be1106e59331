"""Grounding records: ScanRefer's descriptions, ScanNet's frames, EmbodiedScan's cameras and visibility.

A record asks for the frame that shows the described object and for the object's box in that frame's camera
coordinates. The user's files are only read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rft3d_cli.answers import grounding_answer
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats, box_corners, transform_boxes
from rft3d_cli.geometry.camera import invert_rigid, project_points
from rft3d_cli.geometry.iou import box_iou
from rft3d_cli.prepare.embodiedscan import Frame, Scan, read_infos
from rft3d_cli.prepare.pictures import Pictures, Places, pictures
from rft3d_cli.prepare.pipeline import Part, Policy, Quarantine, Report, run
from rft3d_cli.prepare.scanfiles import aggregation_file, object_boxes, read_aggregation, read_label_table
from rft3d_cli.prepare.scannet import camera, checked_camera, frame_list, tracked_frames
from rft3d_cli.prepare.splits import Split, chosen
from rft3d_cli.prompts import grounding_prompt
from rft3d_cli.records import GroundingTarget, Meta, Record
from rft3d_cli.video import sample_indices

GroundTruth = Literal["aabb", "instance"]
TargetRule = Literal["largest", "first"]

SAMPLER = "linspace-floor"
MATCH = 0.5
"""Least overlap of an aggregation's box with the annotated instance that stands for the same object."""
NEAR = 0.01
"""Corners closer to the camera plane than this have no place in the picture, metres."""
BENCHMARK_CLASSES = frozenset({*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39})
"""NYU40 classes that ScanRefer keeps apart; all others count as 39, other furniture."""
OTHER = 39


@dataclass(frozen=True)
class Description:
    """One entry of a ScanRefer file.

    Args:
        scene: ``scene_id``.
        object_id: ``objectId`` of the scan's aggregation.
        name: ``object_name``, words joined by underscores.
        ann: ``ann_id``.
        text: As written.
    """

    scene: str
    object_id: int
    name: str
    ann: str
    text: str

    @property
    def id(self) -> str:
        """The record's id."""
        return f"{self.scene}/ref/{self.object_id}/{self.ann}"


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
    """

    frames: int = 32
    target: TargetRule = "largest"
    ground_truth: GroundTruth = "aabb"
    decimals: int = 2
    split: str = "train"


def read_descriptions(path: Path) -> tuple[list[Description], list[str]]:
    """The entries of a ``ScanRefer_filtered_*.json`` file.

    Returns:
        The entries, and why others were left out.

    Raises:
        DataError: Where the file is not a JSON list.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            rows = json.load(stream)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list of descriptions", "name ScanRefer_filtered_train.json or a file like it")
    found: dict[str, Description] = {}
    wrong = []
    for number, row in enumerate(rows, start=1):
        try:
            entry = _description(row)
        except (TypeError, KeyError, ValueError):
            wrong.append(f"entry {number} lacks scene_id, object_id, object_name, ann_id or description")
            continue
        if entry.id in found:
            wrong.append(f"entry {number} repeats {entry.id}")
        found.setdefault(entry.id, entry)
    return list(found.values()), wrong


def _description(row: Mapping[str, Any]) -> Description:
    texts = [row[key] for key in ("scene_id", "object_name", "description")]
    if not all(isinstance(text, str) and text for text in texts) or isinstance(row["object_id"], float):
        raise TypeError
    return Description(texts[0], int(row["object_id"]), texts[1], str(row["ann_id"]), texts[2])


def benchmark_subsets(entries: Sequence[Description], table: Mapping[str, int]) -> dict[tuple[str, int], str]:
    """ScanRefer's own unique/multiple split.

    An object is unique where no other *described* object of its scene falls into its class, of the benchmark's 20.

    Args:
        entries: All entries of the file.
        table: NYU40 class of each raw category.

    Returns:
        ``unique`` or ``multiple`` by (scene, object id).
    """
    classes: dict[tuple[str, int], int] = {}
    for entry in entries:
        number = table.get(entry.name.replace("_", " "), OTHER)
        classes[entry.scene, entry.object_id] = number if number in BENCHMARK_CLASSES else OTHER
    counts = Counter((scene, number) for (scene, _), number in classes.items())
    return {
        (scene, object_id): "unique" if counts[scene, number] == 1 else "multiple"
        for (scene, object_id), number in classes.items()
    }


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
    entries, wrong = read_descriptions(descriptions)
    if not entries:
        raise DataError(f"{descriptions} holds no descriptions")
    infos = read_infos(annotations)
    subsets = {} if labels is None else benchmark_subsets(entries, read_label_table(labels))
    by_scene: dict[str, list[Description]] = {}
    for entry in entries:
        by_scene.setdefault(entry.scene, []).append(entry)
    jobs = []
    for scene in chosen(split, list(by_scene), str(descriptions)):
        mine = by_scene[scene]
        known = {entry.object_id: subsets[scene, entry.object_id] for entry in mine} if subsets else {}
        jobs.append(_Job(scene, infos.scans.get(scene), infos.bad.get(scene), tuple(mine), known))
    if wrong and jobs:
        jobs[0] = replace(jobs[0], wrong=tuple(wrong))
    options = {
        "scans": str(scans),
        "posed_images": None if places.posed is None else str(places.posed),
        "descriptions": str(descriptions),
        "annotations": str(annotations),
        "labels": None if labels is None else str(labels),
        **asdict(spec),
        "sampler": SAMPLER,
        "subset": "described objects by benchmark class" if subsets else "objects of the scan by name",
        "media_root": str(media_root),
    }
    return run(
        jobs,
        partial(_work, spec=spec, places=places, scans=scans),
        _name,
        out=out,
        media_root=media_root,
        command="prepare scanrefer",
        options=options,
        sources=[path for path in (descriptions, annotations, labels, split.file) if path is not None],
        policy=policy,
        nothing="descriptions and annotations must be of the same scenes: ScanRefer's val scenes are in EmbodiedScan's "
        "embodiedscan_infos_test.pkl",
        done=begin(len(jobs)),
    )


@dataclass(frozen=True)
class _Job:
    scene: str
    scan: Scan | None
    problem: str | None
    entries: tuple[Description, ...]
    subsets: dict[int, str]
    wrong: tuple[str, ...] = field(default=())


def _name(job: _Job) -> str:
    return job.scene


def _work(job: _Job, spec: GroundingSpec, places: Places, scans: Path) -> Part:
    if job.scan is None:
        reason = "no annotations" if job.problem is None else "wrong annotations"
        raise Quarantine(reason, job.problem or f"{job.scene} is described but not annotated")
    part = grounding_part(job.scan, job.entries, job.subsets, spec, places, scans / job.scene)
    for detail in job.wrong:
        part.rejects.append({"what": "description", "scene": None, "reason": "wrong entry", "entry": detail})
    return part


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
    usable = tracked_frames(scan, part)
    if not usable:
        raise Quarantine("no tracked frame", f"{scan.scene}: no listed frame has a pose")
    frames = [usable[i] for i in sample_indices(len(usable), min(spec.frames, len(usable)), SAMPLER)]
    objects = match_objects(scan, folder, {entry.object_id for entry in entries})
    names = Counter(group.label for group in read_aggregation(aggregation_file(folder)))
    found: list[tuple[Description, int, Floats, str]] = []
    for entry in entries:
        if entry.object_id not in objects:
            part.reject("description", "object not in the aggregation", id=entry.id)
            continue
        label, box, instance = objects[entry.object_id]
        if instance is None:
            part.reject("description", "no annotated instance matches the object", id=entry.id)
            continue
        world = box if spec.ground_truth == "aabb" else scan.instances.boxes[instance]
        chosen_frame = target_frame(scan, frames, instance, world, spec.target)
        if chosen_frame is None:
            part.reject("description", "no sampled frame shows the object", id=entry.id)
            continue
        subset = subsets.get(entry.object_id) or ("unique" if names[label] == 1 else "multiple")
        found.append((entry, chosen_frame, world, subset))
    if found:
        shots = pictures(places, scan.scene, frames)
        intrinsic = checked_camera(scan, shots, folder, part)
        part.records = [
            _record(scan, frames, entry, index, world, subset, shots, intrinsic, spec)
            for entry, index, world, subset in found
        ]
        part.scan = shots.about
    part.counts.update(
        descriptions=len(entries), objects=len({e.object_id for e, *_ in found}), frames=len(frames) if found else 0
    )
    part.labels.update(entry.name.replace("_", " ") for entry, *_ in found)
    return part


def match_objects(scan: Scan, folder: Path, wanted: set[int]) -> dict[int, tuple[str, Floats, int | None]]:
    """Name, axis-aligned box and annotated instance of the described objects.

    Where each instance has the label of the aggregation's object of the same number, as in rooms, numbers agree.
    Otherwise an object's instance is the one whose box overlaps the object's best, by an IoU of at least 0.5, as in
    VG-LLM's data.

    Args:
        scan: The annotated scan.
        folder: Its own folder, with mesh, segments and aggregation.
        wanted: Object ids.

    Returns:
        Label, ``(9,)`` box in the axis-aligned world, and index of the instance or None, by object id. Objects that
        the aggregation does not have are absent.
    """
    objects = object_boxes(folder, scan.axis_align)
    same = len(scan.instances) > 0 and all(
        number in objects and objects[number][0] == label for number, label in enumerate(scan.instances.labels)
    )
    out: dict[int, tuple[str, Floats, int | None]] = {}
    for number in sorted(wanted & objects.keys()):
        label, box = objects[number]
        instance: int | None = None
        if same:
            instance = number if number < len(scan.instances) else None
        elif len(scan.instances):
            overlaps = box_iou(box[None], scan.instances.boxes)[0]
            best = int(overlaps.argmax())
            instance = best if overlaps[best] >= MATCH else None
        out[number] = label, box, instance
    return out


def target_frame(scan: Scan, frames: Sequence[Frame], instance: int, box: Floats, rule: TargetRule) -> int | None:
    """The index of the frame to name among ``frames``; None where no frame lists the instance as visible.

    Args:
        scan: The annotated scan.
        frames: Sampled frames.
        instance: The object.
        box: ``(9,)`` in the axis-aligned world.
        rule: See :class:`GroundingSpec`. Of equal areas the first wins.
    """
    seen = [i for i, frame in enumerate(frames) if instance in frame.visible]
    if not seen:
        return None
    if rule == "first":
        return seen[0]
    poses = [scan.axis_align @ frames[i].cam_to_world for i in seen]
    areas = [projected_area(transform_boxes(box, invert_rigid(pose)), scan.intrinsic) for pose in poses]
    return seen[int(np.argmax(areas))]


def projected_area(box: Floats, intrinsic: Floats) -> float:
    """The area in the picture of the convex hull of a box's projected corners, pixels².

    0 where a corner lies behind the camera, which includes every camera inside the box. The picture's borders do not
    cut it, as in VG-LLM's data.

    Args:
        box: ``(9,)`` in camera coordinates.
        intrinsic: ``(3, 3)``.

    >>> box = np.array([0, 0, 2.5, 1, 1, 1, 0, 0, 0])
    >>> projected_area(box, np.diag([100.0, 100.0, 1.0])).__round__(6)
    2500.0
    """
    from scipy.spatial import ConvexHull, QhullError

    pixels, depth = project_points(box_corners(box), intrinsic)
    if depth.min() < NEAR:
        return 0.0
    try:
        return float(ConvexHull(pixels).volume)
    except QhullError:
        return 0.0


def _record(
    scan: Scan,
    frames: Sequence[Frame],
    entry: Description,
    index: int,
    world: Floats,
    subset: str,
    shots: Pictures,
    intrinsic: Floats,
    spec: GroundingSpec,
) -> Record:
    box = transform_boxes(world, invert_rigid(scan.axis_align @ frames[index].cam_to_world))
    target = {"frame": index, "bbox_3d": box.tolist(), "bbox_world": world.tolist()}
    meta = {
        "dataset": "scanrefer",
        "scene": entry.scene,
        "split": spec.split,
        "subset": subset,
        "sampler": SAMPLER,
        "object_id": entry.object_id,
        "object_name": entry.name,
        "ann_id": entry.ann,
        "description": entry.text,
    }
    return Record(
        id=entry.id,
        task="grounding",
        video=frame_list(frames, shots),
        # VG-LLM's data capitalises so, which also lower-cases the rest.
        prompt=grounding_prompt(entry.text.capitalize(), len(frames)),
        answer=grounding_answer(index, box, spec.decimals),
        target=GroundingTarget.model_validate(target),
        camera=camera(scan, frames, shots, intrinsic),
        meta=Meta.model_validate(meta),
    )
