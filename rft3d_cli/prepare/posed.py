"""A team's own posed scans, with boxes and descriptions, as detection and grounding records.

The layout is that of docs/own-data.md. Records mean what those of ``prepare scannet`` and ``prepare scanrefer`` mean,
and are made by the same functions. Pictures are named where they lie: none is copied or encoded again.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rft3d_cli.answers import detection_answer, grounding_answer
from rft3d_cli.errors import UsageError
from rft3d_cli.files import sha256
from rft3d_cli.geometry.boxes import Boxes3D, Floats, transform_boxes
from rft3d_cli.geometry.camera import invert_rigid
from rft3d_cli.prepare._posed_files import (
    BOXES,
    CAMERAS,
    DESCRIPTIONS,
    FRAMES,
    PosedFrame,
    PosedScan,
    posed_scenes,
    read_posed,
)
from rft3d_cli.prepare._posed_images import doubts, image_fault, shown_objects
from rft3d_cli.prepare._posed_objects import Described, read_descriptions
from rft3d_cli.prepare._scanrefer_frames import SAMPLER, TargetRule, target_frame
from rft3d_cli.prepare.embodiedscan import Frame, Scan
from rft3d_cli.prepare.pictures import RATE, Pictures
from rft3d_cli.prepare.pipeline import Part, Policy, Quarantine, Report, Store, run
from rft3d_cli.prepare.scannet import camera, clip_targets, frame_list, thinned
from rft3d_cli.prepare.splits import Split, chosen
from rft3d_cli.prompts import detection_prompt, grounding_prompt
from rft3d_cli.records import DetectionTarget, GroundingTarget, LabelledBox, Meta, Record
from rft3d_cli.video import sample_indices

PosedTask = Literal["all", "detection", "grounding"]

DATASET = "posed"
_STRIDE = re.compile(r"([0-9]+|[0-9]*\.[0-9]+)(s?)")


@dataclass(frozen=True)
class Stride:
    """How far the frames of a clip are apart.

    Args:
        value: Frames or seconds.
        seconds: Whether it is seconds.
    """

    value: float
    seconds: bool

    def __str__(self) -> str:
        return f"{self.value:g}{'s' if self.seconds else ''}"


def read_stride(text: str) -> Stride:
    """A ``--stride`` option: ``30`` frames, or ``1s`` or ``0.5s`` in seconds.

    Raises:
        UsageError: Where it is neither.

    >>> read_stride("30"), read_stride("0.5s")
    (Stride(value=30.0, seconds=False), Stride(value=0.5, seconds=True))
    """
    found = _STRIDE.fullmatch(text.strip())
    stride = None if found is None else Stride(float(found[1]), bool(found[2]))
    if stride is None or stride.value <= 0 or not math.isfinite(stride.value):
        raise UsageError(f"--stride {text} is neither frames nor seconds", "write it like --stride 30 or --stride 1s")
    if not stride.seconds and stride.value % 1:
        raise UsageError(f"--stride {text} is not a whole number of frames", f"seconds are written --stride {text}s")
    return stride


@dataclass(frozen=True)
class PosedSpec:
    """What the records look like.

    Args:
        task: Which records to write.
        frames: Frames of a detection clip.
        stride: From one of them to the next; by default a second, or 30 frames of a scan without times.
        grounding_frames: Frames of a grounding record, evenly spaced over the scan; all of a scan that has fewer.
        target: The frame that a grounding record names, see :class:`rft3d_cli.prepare.scanrefer.GroundingSpec`.
        visibility: From which share of the picture on an object counts as shown.
        per_scene: Most clips of one scene, chosen with the seed; None for all.
        seed: For that choice.
        decimals: Digits in the answer text.
        split: For the records' ``meta``.
    """

    task: PosedTask = "all"
    frames: int = 4
    stride: Stride | None = None
    grounding_frames: int = 32
    target: TargetRule = "largest"
    visibility: float = 0.003
    per_scene: int | None = None
    seed: int = 0
    decimals: int = 2
    split: str = "train"


def clips(clock: Sequence[float], frames: int, stride: float, slack: float = 0.0) -> list[list[int]]:
    """Positions of every clip's frames.

    A clip starts about every third of a stride. Its frames are those nearest to the start plus whole strides; where
    one of them is further off than the slack, there is no clip.

    Args:
        clock: Seconds of the frames, or their numbers; increasing.
        frames: Frames a clip.
        stride: In the same unit.
        slack: In the same unit.

    >>> clips([0, 1, 2, 3, 4, 5, 7, 8, 9], frames=2, stride=3)
    [[0, 3], [1, 4], [2, 5], [4, 6], [5, 7]]
    """
    times = np.asarray(clock, dtype=np.float64)
    out: list[list[int]] = []
    last = -math.inf
    for start, time in enumerate(times):
        # Clocks have rounding errors; a frame that is a thousandth early is the next one.
        if time < last + stride * (1 / 3 - 1e-3):
            continue
        last = time
        wanted = time + stride * np.arange(frames)
        after = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(np.abs(times[before] - wanted) <= np.abs(times[after] - wanted), before, after)
        if (np.abs(times[nearest] - wanted) <= slack).all() and (np.diff(nearest) > 0).all():
            out.append([start, *nearest[1:].tolist()])
    return out


def prepare_posed(
    *,
    scans: Path,
    store: Store,
    split: Split,
    out: Path,
    media_root: Path,
    spec: PosedSpec,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write detection and grounding records of scans in the posed layout.

    Args:
        scans: ``DIR`` of ``DIR/SCENE/cameras.json``.
        store: The same folder, with its place below the media root.
        split: Which scenes, and what the split is called.
        out: The record file.
        media_root: What the records' paths are relative to.
        spec: What to write; its ``split`` is replaced by the name of ``split``.
        policy: How to work.
        begin: Called with the number of scenes; returns what to call after each.

    Raises:
        DataError: Where there are no scans, and see :func:`rft3d_cli.prepare.pipeline.run`.
    """
    spec = replace(spec, split=split.name)
    names = chosen(split, posed_scenes(scans), str(scans))
    options = {**asdict(spec), "stride": None if spec.stride is None else str(spec.stride)}
    return run(
        names,
        partial(posed_part, scans=scans, store=store, spec=spec),
        str,
        out=out,
        media_root=media_root,
        command="prepare posed",
        # The files' hash, because a run is only resumed, or joined with its other shards, over the same files.
        options={
            "scans": str(scans),
            "files_sha256": files_digest(scans, names),
            **options,
            "media_root": str(media_root),
        },
        sources=[] if split.file is None else [split.file],
        policy=policy,
        nothing=f"clips of {spec.frames} frames {spec.stride or '1s (or 30 frames)'} apart were asked for: lower "
        "--frames or --stride; the layout is described in docs/own-data.md",
        done=begin(len(names)),
    )


def files_digest(scans: Path, names: Sequence[str]) -> str:
    """One SHA-256 of all that scans say of themselves in JSON."""
    digest = hashlib.sha256()
    for file in (scans / scene / name for scene in names for name in (CAMERAS, BOXES, DESCRIPTIONS)):
        digest.update(sha256(file).encode() if file.is_file() else b"-")
    return digest.hexdigest()


def posed_part(scene: str, scans: Path, store: Store, spec: PosedSpec) -> Part:
    """The records of one scan.

    Args:
        scene: Its name.
        scans: The folder of scans.
        store: How records name files of that folder.
        spec: What to write.

    Raises:
        Quarantine: Where the scan cannot be used.
    """
    part = Part(scene)
    posed = read_posed(scans / scene)
    frames = usable_frames(posed, part)
    windows = _windows(posed, frames, spec) if spec.task != "grounding" else []
    described: list[Described] = []
    if spec.task != "detection":
        described, wrong = read_descriptions(posed.folder / DESCRIPTIONS, posed.ids)
        for entry, detail in wrong.items():
            part.reject("description", "wrong entry", entry=f"{entry}: {detail}")
    count = min(spec.grounding_frames, len(frames))
    sampled = sample_indices(len(frames), count, SAMPLER) if described else []
    looked = sorted({*sampled, *(i for window in windows for i in window)})
    shown = look(posed, frames, looked, spec.visibility, part)
    scan = annotated(posed, frames, shown)
    used: dict[int, PosedFrame] = {}
    found = _detections(scan, [[scan.frames[i] for i in window] for window in windows], posed, spec, part)
    told = _groundings(scan, [scan.frames[i] for i in sampled], described, posed, spec, part)
    by_number = {frame.number: frame for frame in frames}
    for clip, _ in found:
        used |= {frame.number: by_number[frame.number] for frame in clip}
    if told:
        used |= {scan.frames[i].number: frames[i] for i in sampled}
    if not used:
        part.reject("scene", "no clip" if spec.task == "detection" else "no clip and no description")
        return part
    shots = posed_pictures(posed, store, used)
    part.records = [_detection(scan, clip, boxes, posed, shots, by_number, spec) for clip, boxes in found]
    part.records += [_grounding(scan, [scan.frames[i] for i in sampled], *row, shots, by_number, spec) for row in told]
    part.counts.update(
        clips=len(found), boxes=sum(len(b) for _, b in found), descriptions=len(told), frames=len(shots.paths)
    )
    part.labels.update(label for _, boxes in found for label in boxes.labels)
    part.labels.update(posed.boxes.labels[entry.object] for entry, _ in told)
    part.scan = shots.about
    return part


def usable_frames(posed: PosedScan, part: Part) -> list[PosedFrame]:
    """The frames of a scan that have a pose, and a depth image where others do; ``part`` counts those that have not.

    Raises:
        Quarantine: Where there are none.
    """
    for name, reason in posed.skipped.items():
        part.reject("frame", reason, frame=name)
    frames = list(posed.frames)
    if posed.depth is not None:
        for frame in posed.frames:
            if not (posed.depth / f"{frame.stem}.png").is_file():
                part.reject("frame", "no depth image", frame=frame.name)
                frames.remove(frame)
    if not frames:
        reasons = Counter(row["reason"] for row in part.rejects if row["what"] == "frame")
        why = ", ".join(f"{count:,} × {reason}" for reason, count in reasons.items())
        raise Quarantine("no usable frame", f"{posed.folder}: none of its frames can be used: {why}")
    return frames


def look(
    posed: PosedScan, frames: Sequence[PosedFrame], looked: Sequence[int], visibility: float, part: Part
) -> dict[int, tuple[int, ...]]:
    """Which boxes some of a scan's frames show, by the place of the frame; ``part`` gets what looks wrong.

    Args:
        posed: The scan.
        frames: Its usable frames.
        looked: Places of those to look at.
        visibility: See :func:`rft3d_cli.prepare._posed_images.shown_objects`.
        part: For warnings, and for the objects that none of them shows.

    Raises:
        Quarantine: Where none shows any object.
    """
    shown = {i: shown_objects(posed, frames[i], visibility) for i in looked}
    if looked:
        seen = {i for visible in shown.values() for i in visible}
        found_odd = doubts(posed, frames, seen, visibility)
        if len(posed.boxes) and not seen:
            raise Quarantine("no object in view", f"{posed.folder}: {'; '.join(found_odd)}")
        part.warnings += found_odd
        for i in sorted({*range(len(posed.boxes))} - seen):
            part.reject("object", "seen in no frame", id=posed.ids[i], label=posed.boxes.labels[i])
    return shown


def _windows(posed: PosedScan, frames: Sequence[PosedFrame], spec: PosedSpec) -> list[list[int]]:
    stride = spec.stride or (Stride(1.0, True) if posed.timed else Stride(RATE, False))
    if stride.seconds and not posed.timed:
        without = next(frame.name for frame in posed.frames if frame.time is None)
        detail = (
            f"{posed.folder / CAMERAS}: {without} has no time, and --stride is in seconds; name frames: --stride 30"
        )
        raise Quarantine("no times", detail)
    clock = [frame.time or 0.0 if stride.seconds else frame.number for frame in frames]
    return clips(clock, spec.frames, stride.value, stride.value / 5 if stride.seconds else 0.0)


def annotated(posed: PosedScan, frames: Sequence[PosedFrame], shown: Mapping[int, tuple[int, ...]]) -> Scan:
    """A posed scan in the form of an annotated one, boxes in the axis-aligned world.

    Args:
        posed: The scan.
        frames: Those to list.
        shown: Which boxes they show, by the place of the frame.
    """
    listed = tuple(Frame(f.number, f.cam_to_world, shown.get(i, ())) for i, f in enumerate(frames))
    return Scan(
        posed.folder.name, posed.axis_align, frames[0].intrinsic, listed, posed.boxes.transform(posed.axis_align)
    )


def _detections(
    scan: Scan, windows: list[list[Frame]], posed: PosedScan, spec: PosedSpec, part: Part
) -> list[tuple[list[Frame], Boxes3D]]:
    found = []
    for clip in windows:
        targets = clip_targets(scan, clip, frozenset())
        if len(targets):
            found.append((clip, targets))
        else:
            part.reject("clip", "no target", id=f"{scan.scene}/det/{clip[0].number}")
    return thinned(found, spec.per_scene, spec.seed, scan.scene)


def _groundings(
    scan: Scan, frames: list[Frame], described: Sequence[Described], posed: PosedScan, spec: PosedSpec, part: Part
) -> list[tuple[Described, int]]:
    found = []
    for entry in described:
        index = target_frame(scan, frames, entry.object, scan.instances.boxes[entry.object], spec.target)
        if index is None:
            part.reject("description", "no sampled frame shows the object", id=entry.id, object=posed.ids[entry.object])
        else:
            found.append((entry, index))
    return found


def posed_pictures(posed: PosedScan, store: Store, used: Mapping[int, PosedFrame]) -> Pictures:
    """The frames that records name, their headers checked.

    Args:
        posed: The scan.
        store: How records name files of the folder of scans.
        used: The frames, by number.

    Raises:
        Quarantine: Where an image is not what the cameras are for.
    """
    scene = posed.folder.name
    for number in sorted(used):
        fault = image_fault(posed.folder / FRAMES / used[number].name, posed.size)
        if fault is not None:
            raise Quarantine(*fault)
    files = [file for name in (CAMERAS, BOXES, DESCRIPTIONS) if (file := posed.folder / name).exists()]
    about: dict[str, Any] = {
        "frames": len(used),
        "convention": posed.convention,
        "depth": posed.depth is not None,
        "sha256": {file.name: sha256(file) for file in files},
    }
    timed = all(frame.time is not None for frame in used.values())
    return Pictures(
        paths={number: store.name(f"{scene}/{FRAMES}/{used[number].name}") for number in sorted(used)},
        times={number: used[number].time or 0.0 for number in sorted(used)} if timed else {},
        size=posed.size,
        intrinsic=None,
        about=about,
    )


def _meta(scene: str, spec: PosedSpec, **more: Any) -> Meta:
    return Meta.model_validate({"dataset": DATASET, "scene": scene, "split": spec.split, **more})


def _detection(
    scan: Scan,
    clip: Sequence[Frame],
    targets: Boxes3D,
    posed: PosedScan,
    shots: Pictures,
    frames: dict[int, PosedFrame],
    spec: PosedSpec,
) -> Record:
    first = frames[clip[0].number]
    stride = spec.stride or ("1s" if posed.timed else f"{RATE:g}")
    return Record(
        id=f"{scan.scene}/det/{first.stem}",
        task="detection",
        video=frame_list(clip, shots),
        prompt=detection_prompt(len(clip)),
        answer=detection_answer(targets.labels, targets.boxes, spec.decimals),
        target=DetectionTarget(boxes=[LabelledBox(label=n, bbox_3d=tuple(box.tolist())) for n, box in targets]),
        camera=camera(scan, clip, shots, first.intrinsic),
        meta=_meta(scan.scene, spec, sampler=f"stride-{stride}"),
    )


def _grounding(
    scan: Scan,
    sampled: Sequence[Frame],
    entry: Described,
    index: int,
    shots: Pictures,
    frames: dict[int, PosedFrame],
    spec: PosedSpec,
) -> Record:
    label = scan.instances.labels[entry.object]
    world: Floats = scan.instances.boxes[entry.object]
    box = transform_boxes(world, invert_rigid(scan.axis_align @ sampled[index].cam_to_world))
    target = {"frame": index, "bbox_3d": box.tolist(), "bbox_world": world.tolist()}
    subset = "unique" if scan.instances.labels.count(label) == 1 else "multiple"
    more = {"subset": subset, "sampler": SAMPLER, "object_name": label, "description": entry.text}
    return Record(
        id=f"{scan.scene}/ref/{entry.id}",
        task="grounding",
        video=frame_list(sampled, shots),
        # As in prepare scanrefer: the words that models were trained on start so.
        prompt=grounding_prompt(entry.text.capitalize(), len(sampled)),
        answer=grounding_answer(index, box, spec.decimals),
        target=GroundingTarget.model_validate(target),
        camera=camera(scan, sampled, shots, frames[sampled[index].number].intrinsic),
        meta=_meta(scan.scene, spec, **more),
    )
