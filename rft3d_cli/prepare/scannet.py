"""3D detection records from ScanNet scans and EmbodiedScan's boxes, with the meaning that VG-LLM gives them.

A clip is a few frames of one scan, a fixed number of raw frames apart. Its targets are all objects that any of its
frames shows, in the camera coordinates of its first frame: also those that the first frame does not show, which must
then be predicted beside or behind it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from rft3d_cli.answers import detection_answer
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.camera import invert_rigid, scale_intrinsic
from rft3d_cli.prepare._shown_frames import depth_of, shown_frames
from rft3d_cli.prepare._view_filter import LOOSEN, ViewFilter, ViewRule
from rft3d_cli.prepare.embodiedscan import Frame, Scan, read_infos
from rft3d_cli.prepare.pictures import Pictures, Places, open_sens, picture_size, pictures
from rft3d_cli.prepare.pipeline import Part, Policy, Quarantine, Report, run
from rft3d_cli.prepare.scanfiles import axis_alignment, read_scan_text, scan_file
from rft3d_cli.prepare.splits import Split, chosen
from rft3d_cli.prepare.unannotated import scan_from_files, scenes_with_meshes
from rft3d_cli.prompts import detection_prompt
from rft3d_cli.records import Camera, DetectionTarget, FrameList, LabelledBox, Meta, Record, describe

Clip = TypeVar("Clip")

NOT_OBJECTS = frozenset({"wall", "ceiling", "floor", "object"})
"""Labels that are never targets."""
VAL_CLIPS = 10
"""Clips kept of a val scene."""
ALIGN_TOLERANCE = 1e-3
"""How far two sources of the axis alignment may differ, per entry."""

SINGULAR = 1e-6
"""A pose with a smaller determinant cannot be undone; that of a rigid motion is 1."""


@dataclass(frozen=True)
class DetectionSpec:
    """What a detection record looks like.

    Args:
        frames: Frames a clip.
        stride: Raw frames from one of them to the next.
        step: Raw frames from one listed frame to the next; divides ``stride``.
        decimals: Digits in the answer text.
        per_scene: Most clips of one scene, chosen with the seed; None for all.
        seed: For that choice.
        split: For the records' ``meta``.
    """

    frames: int
    stride: int
    step: int
    decimals: int
    per_scene: int | None
    seed: int
    split: str

    def __post_init__(self) -> None:
        if self.stride < self.step or self.stride % self.step:
            raise UsageError(
                f"a stride of {self.stride} raw frames does not fit a list of every {self.step}th",
                f"use a multiple of {self.step}: --stride {max(1, round(self.stride / self.step)) * self.step}",
            )


def windows(numbers: Sequence[int], frames: int, stride: int, step: int) -> list[list[int]]:
    """Positions of every clip in a list of frame numbers.

    The list is cut where neighbours are not ``step`` apart; a clip is every ``stride / step``-th entry of one piece.

    Args:
        numbers: Raw frame numbers as listed.
        frames: Frames a clip.
        stride: Raw frames between two of them.
        step: Raw frames between two listed frames.

    >>> windows([0, 10, 20, 30, 50, 60, 70], frames=2, stride=20, step=10)
    [[0, 2], [1, 3], [4, 6]]
    """
    hop = stride // step
    reach = (frames - 1) * hop
    unbroken = [b - a == step for a, b in pairwise(numbers)]
    broken_before = np.concatenate([[0], np.cumsum(~np.array(unbroken, dtype=bool))]).astype(int)
    return [
        list(range(start, start + reach + 1, hop))
        for start in range(len(numbers) - reach)
        if broken_before[start] == broken_before[start + reach]
    ]


def clip_targets(scan: Scan, frames: Sequence[Frame], left_out: Set[str] = NOT_OBJECTS) -> Boxes3D:
    """What is to be found in a clip.

    Args:
        scan: The annotated scan.
        frames: The clip.
        left_out: Labels that are never targets.

    Returns:
        The objects that any frame shows, in order of first appearance, without walls, ceilings, floors and nameless
        objects, as boxes in the first frame's camera coordinates.
    """
    return _seen_from(scan, frames[0], listed_objects(scan, frames, left_out))


def listed_objects(scan: Scan, frames: Sequence[Frame], left_out: Set[str] = NOT_OBJECTS) -> list[int]:
    """The instances that any frame of a clip shows, in order of first appearance.

    Args:
        scan: The annotated scan.
        frames: The clip.
        left_out: Labels that are never targets.
    """
    shown = dict.fromkeys(i for frame in frames for i in frame.visible)
    return [i for i in shown if scan.instances.labels[i] not in left_out]


def _seen_from(scan: Scan, frame: Frame, objects: list[int]) -> Boxes3D:
    return scan.instances[objects].transform(invert_rigid(scan.axis_align @ frame.cam_to_world))


def prepare_detection(
    *,
    scans: Path | None,
    annotations: Path | None,
    places: Places,
    split: Split,
    out: Path,
    media_root: Path,
    frames: int = 4,
    stride: int | None = None,
    decimals: int = 2,
    per_scene: int | None = None,
    seed: int = 0,
    visibility: float = 0.003,
    view: ViewRule | None = None,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write detection records of a data set.

    Args:
        scans: Folder of scans as downloaded; may be None where frames come from ``places.posed``.
        annotations: EmbodiedScan infos; None makes boxes from the scans' own files
            (see :mod:`rft3d_cli.prepare.unannotated`).
        places: Where frames come from and go to.
        split: Which scenes, and what the split is called.
        out: The record file.
        media_root: What the records' paths are relative to.
        frames: Frames a clip.
        stride: Raw frames between two; three entries of the frame list by default.
        decimals: Digits in the answer text.
        per_scene: Most clips of a scene; by default all of a train scene and ten of any other.
        seed: For the choice of those.
        visibility: Without annotations, the share of a depth image from which on an object counts as visible.
        view: Which of the visible objects are targets; by default all.
        policy: How to work.
        begin: Called with the number of scenes; returns what to call after each.

    Raises:
        DataError: See :func:`rft3d_cli.prepare.pipeline.run`.
        UsageError: Where options do not fit each other or the data.
    """
    sources = [path for path in (annotations, split.file) if path is not None]
    jobs: list[_Job]
    if annotations is not None:
        infos = read_infos(annotations)
        step = infos.list_step
        names = chosen(split, [*infos.scans, *infos.bad], str(annotations))
        jobs = [_Job(name, infos.scans.get(name), infos.bad.get(name)) for name in names]
    else:
        if scans is None or places.posed is not None:
            raise UsageError("exported frames have no boxes of their own", "name them with --annotations FILE")
        step = max(1, (stride or 30) // 3)
        jobs = [_Job(name, None, None) for name in chosen(split, scenes_with_meshes(scans), str(scans))]
    limit = per_scene if per_scene is not None or split.name == "train" else VAL_CLIPS
    spec = DetectionSpec(frames, stride or 3 * step, step, decimals, limit, seed, split.name)
    options = {
        "scans": None if scans is None else str(scans),
        "posed_images": None if places.posed is None else str(places.posed),
        "annotations": None if annotations is None else str(annotations),
        **asdict(spec),
        "media_root": str(media_root),
    }
    if annotations is None:
        options |= {"visibility": visibility}
    if view is not None:
        options |= view.options()
    return run(
        jobs,
        partial(_work, spec=spec, places=places, scans=scans, visibility=visibility, view=view),
        _name,
        out=out,
        media_root=media_root,
        command="prepare scannet",
        options=options,
        sources=sources,
        policy=policy,
        nothing=f"clips of {frames} frames {spec.stride} raw frames apart were asked for: lower --frames or --stride"
        + ("" if view is None else LOOSEN),
        done=begin(len(jobs)),
    )


@dataclass(frozen=True)
class _Job:
    scene: str
    scan: Scan | None
    problem: str | None


def _name(job: _Job) -> str:
    return job.scene


def _work(
    job: _Job, spec: DetectionSpec, places: Places, scans: Path | None, visibility: float, view: ViewRule | None
) -> Part:
    if job.problem is not None:
        raise Quarantine("wrong annotations", job.problem)
    folder = None if scans is None else scans / job.scene
    if job.scan is not None:
        return detection_part(job.scan, spec, places, folder, view)
    if folder is None:
        raise ValueError("neither annotations nor scans")
    return detection_part(scan_from_files(folder, spec.step, visibility), spec, places, folder, view)


def detection_part(
    scan: Scan, spec: DetectionSpec, places: Places, folder: Path | None, view: ViewRule | None = None
) -> Part:
    """The detection records of one scan.

    Args:
        scan: The annotated scan.
        spec: What to write.
        places: Where frames come from and go to.
        folder: The scan's own folder, whose axis alignment must agree with the annotations'; None to skip that.
        view: Which of the visible objects are targets; by default all.

    Raises:
        DataError: Where the scan cannot be used.
    """
    part = Part(scan.scene)
    usable = tracked_frames(scan, part)
    chosen_objects = None
    if view is not None and usable:
        size = picture_size(places, scan.scene, usable[0]) if view.measures else (0, 0)
        fitted = fitted_intrinsic(scan, size, folder) if places.posed is not None and view.measures else scan.intrinsic
        chosen_objects = ViewFilter(view, replace(scan, intrinsic=fitted), size)
    clips = detection_clips(scan, usable, spec, chosen_objects, part)
    if not clips:
        part.reject("scene", "no clip")
        return part
    shots = pictures(places, scan.scene, {f.number: f for frames, _ in clips for f in frames}.values())
    intrinsic = checked_camera(scan, shots, folder, part)
    shown = _shown(clips, spec, places, scan.scene, part)
    part.records = [
        detection_record(scan, frames, targets, shots, intrinsic, spec, visible)
        for (frames, targets), visible in zip(clips, shown, strict=True)
    ]
    part.counts["frames"] += len(shots.paths)
    part.scan = shots.about
    return part


def _shown(
    clips: Sequence[tuple[list[Frame], Boxes3D]], spec: DetectionSpec, places: Places, scene: str, part: Part
) -> list[list[list[int]] | None]:
    """Which frames show each target of each clip, from the ``.sens`` file's depth; None where that is not known.

    Records to train on do without: only scores by view need it.
    """
    if spec.split == "train" or places.posed is not None or places.scans is None:
        return [None] * len(clips)
    sens = open_sens(places.scans / scene)
    try:
        depths = {
            number: depth_of(sens, number) for number in sorted({f.number for frames, _ in clips for f in frames})
        }
    except DataError:
        part.warnings.append("depth images cannot be read: records do not say which frames show their objects")
        return [None] * len(clips)
    return [shown_frames(targets, frames, depths) for frames, targets in clips]


def detection_clips(
    scan: Scan, usable: Sequence[Frame], spec: DetectionSpec, objects: ViewFilter | None, part: Part
) -> list[tuple[list[Frame], Boxes3D]]:
    """The clips of one scan with their targets.

    Args:
        scan: The annotated scan.
        usable: Its frames that have a pose and a picture.
        spec: What to write.
        objects: Which of the visible objects are targets; None for all.
        part: Gets the counts of clips, of their boxes and of the boxes left out of them, and clips without a target.

    Returns:
        Frames, and boxes in the camera coordinates of the first.
    """
    found: list[tuple[list[Frame], Boxes3D, Counter[str]]] = []
    for window in windows([frame.number for frame in usable], spec.frames, spec.stride, spec.step):
        frames = [usable[i] for i in window]
        listed = listed_objects(scan, frames)
        kept, gone = (listed, Counter[str]()) if objects is None else objects.kept(frames, listed)
        if kept:
            # All are turned before some are taken: a box then has the same digits whatever else is left out.
            seen = _seen_from(scan, frames[0], listed)
            found.append((frames, seen[[listed.index(i) for i in kept]], gone))
        else:
            part.reject("clip", "no target", id=_id(scan, frames))
    found = thinned(found, spec.per_scene, spec.seed, _name_of(scan))
    if found:
        part.counts.update(clips=len(found), boxes=sum(len(targets) for _, targets, _ in found))
    for _, targets, gone in found:
        part.labels.update(targets.labels)
        part.counts.update(gone)
    return [(frames, targets) for frames, targets, _ in found]


def thinned(clips: list[Clip], per_scene: int | None, seed: int, scene: str) -> list[Clip]:
    """At most ``per_scene`` of a scene's clips, in their order; the seed and the scene's name choose them."""
    if per_scene is None or len(clips) <= per_scene:
        return clips
    rng = np.random.default_rng([seed, zlib.crc32(scene.encode())])
    return [clips[i] for i in np.sort(rng.choice(len(clips), per_scene, replace=False))]


def tracked_frames(scan: Scan, part: Part) -> list[Frame]:
    """The frames whose pose is known; the others are counted in ``part``."""
    usable = []
    for frame in scan.frames:
        if not frame.tracked:
            part.reject("frame", "non-finite pose", frame=frame.number)
        elif abs(np.linalg.det(frame.cam_to_world)) < SINGULAR:
            part.reject("frame", "singular pose", frame=frame.number)
        else:
            usable.append(frame)
    return usable


def checked_camera(scan: Scan, shots: Pictures, folder: Path | None, part: Part) -> Floats:
    """The intrinsic matrix ``(3, 3)`` for the frames as they are on disk.

    Annotations, ``.sens`` file and text file say some things twice; where they differ, ``part`` gets a warning.
    """
    intrinsic = scan.intrinsic
    part.warnings += shots.warnings
    if shots.intrinsic is not None and not np.allclose(shots.intrinsic, intrinsic, atol=0.5):
        part.warnings.append("cameras of the annotations and of the .sens file differ")
    text = None if folder is None else scan_file(folder, ".txt")
    if text is not None and text.exists():
        if not np.allclose(axis_alignment(text), scan.axis_align, atol=ALIGN_TOLERANCE):
            part.warnings.append("axis alignments of the annotations and of the scan's text file differ")
        if shots.intrinsic is None:
            intrinsic = fitted_intrinsic(scan, shots.size, folder)
    middle = intrinsic[:2, 2] / np.array(shots.size)
    if not ((middle > 0.25) & (middle < 0.75)).all():
        part.warnings.append("the camera does not fit the size of the frames")
    return intrinsic


def fitted_intrinsic(scan: Scan, size: tuple[int, int], folder: Path | None) -> Floats:
    """The intrinsic matrix ``(3, 3)`` for exported frames, which may have been resized.

    Args:
        scan: The annotated scan.
        size: ``(width, height)`` of the frames.
        folder: The scan's own folder, whose text file tells what size they had; None where there is none.
    """
    text = None if folder is None else scan_file(folder, ".txt")
    original = None if text is None or not text.exists() else _colour_size(read_scan_text(text))
    return scan.intrinsic if original in (None, size) else scale_intrinsic(scan.intrinsic, original, size)


def _colour_size(text: dict[str, str]) -> tuple[int, int] | None:
    width, height = text.get("colorWidth", ""), text.get("colorHeight", "")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else None


def _name_of(scan: Scan) -> str:
    """What records, seeds and reports call a scan: ScanNet's go by their own name."""
    return scan.scene if scan.dataset == "scannet" else scan.sample


def _id(scan: Scan, frames: Sequence[Frame]) -> str:
    return f"{_name_of(scan)}/det/{frames[0].number:05d}"


def detection_record(
    scan: Scan,
    frames: Sequence[Frame],
    targets: Boxes3D,
    shots: Pictures,
    intrinsic: Floats,
    spec: DetectionSpec,
    visible: list[list[int]] | None = None,
) -> Record:
    """The record of one clip.

    Args:
        scan: The annotated scan.
        frames: The clip.
        targets: Boxes in the first frame's camera coordinates.
        shots: Its pictures.
        intrinsic: ``(3, 3)`` of the first frame.
        spec: What to write.
        visible: For each target the frames that really show it, where that is known.

    Raises:
        Quarantine: Where a number is too large for a record.
    """
    rule = "stride" if scan.dataset == "scannet" else "list-stride"
    try:
        boxes = [LabelledBox(label=label, bbox_3d=tuple(box.tolist())) for label, box in targets]
        return Record(
            id=_id(scan, frames),
            task="detection",
            video=frame_list(frames, shots),
            prompt=detection_prompt(len(frames)),
            answer=detection_answer(targets.labels, targets.boxes, spec.decimals),
            target=DetectionTarget(boxes=boxes),
            camera=camera(scan, frames, shots, intrinsic),
            meta=Meta.model_validate(
                {
                    "dataset": scan.dataset,
                    "scene": scan.place,
                    "split": spec.split,
                    "sampler": f"{rule}-{spec.stride}",
                    **({} if visible is None else {"visible_frames": visible}),
                }
            ),
        )
    except ValidationError as error:
        raise Quarantine("wrong annotations", f"{_id(scan, frames)}: {describe(error)}") from None


def frame_list(frames: Sequence[Frame], shots: Pictures) -> FrameList:
    """The record's video."""
    times = [shots.times[frame.number] for frame in frames] if shots.times else None
    return FrameList(frames=[shots.paths[frame.number] for frame in frames], times=times)


def camera(scan: Scan, frames: Sequence[Frame], shots: Pictures, intrinsic: Floats) -> Camera:
    """The record's cameras."""
    return Camera(
        intrinsic=intrinsic.tolist(),
        image_size=shots.size,
        cam_to_world=[frame.cam_to_world.tolist() for frame in frames],
        axis_align=scan.axis_align.tolist(),
    )
