"""Captions of single objects, as in Scan2Cap: ScanRefer's descriptions the other way round.

A record names the centre of an object's box in the first frame's camera coordinates and asks for a description. For
training each description is a record of its own. For evaluation each object is one, with all its descriptions as
references, and the box may come from a detector instead of the ground truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.camera import invert_rigid, transform_points
from rft3d_cli.prepare._scanrefer_frames import FrameSampler, draws, evenly, sampler_name, wrapped_sample
from rft3d_cli.prepare._scanrefer_scenes import NOTHING, DescribedScene, described_scenes, frames_with_pose
from rft3d_cli.prepare.embodiedscan import Frame, Scan
from rft3d_cli.prepare.pictures import Pictures, Places, pictures
from rft3d_cli.prepare.pipeline import Part, Policy, Quarantine, Report, run
from rft3d_cli.prepare.proposals import Proposals, best_proposal, mask_boxes, mask_file, read_proposals
from rft3d_cli.prepare.scanfiles import object_boxes, read_ply_vertices, scan_file
from rft3d_cli.prepare.scannet import camera, checked_camera, frame_list
from rft3d_cli.prepare.scanrefer_file import Description
from rft3d_cli.prepare.splits import Split
from rft3d_cli.prompts import caption_prompt
from rft3d_cli.records import Meta, Record, TextTarget

MET = 0.5
"""Least IoU of a proposal with the object's box for its caption to count, in Scan2Cap's metrics."""


@dataclass(frozen=True)
class CaptionSpec:
    """What a caption record looks like.

    Args:
        frames: Frames a record, evenly spaced over the scan; all of a scan that has fewer.
        sampler: See :class:`rft3d_cli.prepare.scanrefer.GroundingSpec`. With ``wrap-around`` the first frame, whose
            camera places the object, is a random one.
        seed: For ``wrap-around``.
        split: For the records' ``meta``. ``train`` has a record a description, any other a record an object.
    """

    frames: int = 32
    sampler: FrameSampler = "chronological"
    seed: int = 0
    split: str = "train"


@dataclass(frozen=True)
class Caption:
    """One thing to describe.

    Args:
        id: The record's.
        entry: Its description, or the first of them.
        references: All that are asked for, as written.
    """

    id: str
    entry: Description
    references: tuple[str, ...]


def captions(entries: Sequence[Description], *, by_object: bool) -> list[Caption]:
    """The records to make of a scene's descriptions.

    Args:
        entries: Of one scene.
        by_object: Whether an object is one record with all its descriptions, or each description one.

    >>> said = [Description("s", 3, "chair", str(i), text) for i, text in enumerate(("It is red.", "By the door."))]
    >>> [(c.id, c.references) for c in captions(said, by_object=True)]
    [('s/cap/3', ('It is red.', 'By the door.'))]
    >>> [c.id for c in captions(said, by_object=False)]
    ['s/cap/3/0', 's/cap/3/1']
    """
    if not by_object:
        return [Caption(f"{e.scene}/cap/{e.object_id}/{e.ann}", e, (e.text,)) for e in entries]
    said: dict[int, list[Description]] = {}
    for entry in entries:
        said.setdefault(entry.object_id, []).append(entry)
    return [
        Caption(f"{mine[0].scene}/cap/{number}", mine[0], tuple(entry.text for entry in mine))
        for number, mine in said.items()
    ]


@dataclass(frozen=True)
class _Job:
    """A scene.

    Args:
        described: Its scan and descriptions.
        proposals: ``(N, 9)`` from a JSON file; None without one.
        fault: Why there are none in the file: a reason, and what is wrong.
    """

    described: DescribedScene
    proposals: Floats | None = None
    fault: tuple[str, str] | None = None


def prepare_captions(
    *,
    scans: Path,
    descriptions: Path,
    annotations: Path,
    proposals: Path | None,
    places: Places,
    split: Split,
    out: Path,
    media_root: Path,
    spec: CaptionSpec,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write caption records of a ScanRefer file.

    Args:
        scans: Folder of scans as downloaded.
        descriptions: ``ScanRefer_filtered_*.json``.
        annotations: EmbodiedScan infos with the scenes' frames.
        proposals: Boxes to ask about instead of the objects' own, a JSON file or a folder of masks, see
            :mod:`rft3d_cli.prepare.proposals`: the one that overlaps the object most.
        places: Where frames come from and go to.
        split: Which scenes, and what the split is called.
        out: The record file.
        media_root: What the records' paths are relative to.
        spec: What to write; its ``split`` is replaced by the name of ``split``.
        policy: How to work.
        begin: Called with the number of scenes; returns what to call after each.

    Raises:
        DataError: Where a file cannot be used, and see :func:`rft3d_cli.prepare.pipeline.run`.
    """
    spec = replace(spec, split=split.name)
    jobs = [_Job(scene) for scene in described_scenes(descriptions, annotations, split)]
    masks = proposals if proposals is not None and proposals.is_dir() else None
    boxes_file = None if masks is not None else proposals
    if boxes_file is not None:
        found = read_proposals(boxes_file)
        jobs = [_with_proposals(job, found) for job in jobs]
    options = {
        "scans": str(scans),
        "posed_images": None if places.posed is None else str(places.posed),
        "descriptions": str(descriptions),
        "annotations": str(annotations),
        "proposals": None if proposals is None else str(proposals),
        **asdict(spec),
        "sampler": sampler_name(spec.sampler),
        "media_root": str(media_root),
    }
    return run(
        jobs,
        partial(_work, spec=spec, places=places, scans=scans, masks=masks),
        _name,
        out=out,
        media_root=media_root,
        command="prepare scan2cap",
        options=options,
        sources=[path for path in (descriptions, annotations, boxes_file, split.file) if path is not None],
        policy=policy,
        nothing=NOTHING if proposals is None else f"{NOTHING}; --proposals must have them too",
        done=begin(len(jobs)),
    )


def _with_proposals(job: _Job, found: Proposals) -> _Job:
    scene = job.described.scene
    if scene in found.bad:
        return replace(job, fault=("wrong proposals", found.bad[scene]))
    if scene not in found.boxes:
        return replace(job, fault=("no proposals", f"{found.path} does not list {scene}"))
    return replace(job, proposals=found.boxes[scene])


def _name(job: _Job) -> str:
    return job.described.scene


def _work(job: _Job, spec: CaptionSpec, places: Places, scans: Path, masks: Path | None) -> Part:
    scan, folder = job.described.annotated(), scans / job.described.scene
    proposals = job.proposals
    if masks is not None:
        mesh = transform_points(read_ply_vertices(scan_file(folder, "_vh_clean_2.ply")), scan.axis_align)
        proposals = mask_boxes(mask_file(masks, scan.scene), mesh)
    elif job.fault is not None:
        raise Quarantine(*job.fault)
    if proposals is not None and not len(proposals):
        raise Quarantine("no proposals", f"{scan.scene} has an empty list of proposals")
    return job.described.note_wrong(caption_part(scan, job.described.entries, proposals, spec, places, folder))


@dataclass(frozen=True)
class _Asked:
    caption: Caption
    gt_box: Floats
    input_box: Floats
    iou: float
    frames: list[Frame]


def caption_part(
    scan: Scan,
    entries: Sequence[Description],
    proposals: Floats | None,
    spec: CaptionSpec,
    places: Places,
    folder: Path,
) -> Part:
    """The caption records of one scan.

    Args:
        scan: The annotated scan.
        entries: Its descriptions.
        proposals: ``(N, 9)`` in the axis-aligned world, at least one; None asks about the objects' own boxes.
        spec: What to write.
        places: Where frames come from and go to.
        folder: The scan's own folder.

    Raises:
        DataError: Where the scan cannot be used.
    """
    part = Part(scan.scene)
    usable = frames_with_pose(scan, part)
    objects = object_boxes(folder, scan.axis_align)
    asked: list[_Asked] = []
    for caption in captions(entries, by_object=spec.split != "train"):
        if caption.entry.object_id not in objects:
            part.reject("description", "object not in the aggregation", id=caption.id)
            continue
        _, box = objects[caption.entry.object_id]
        input_box, iou = box, 1.0
        if proposals is not None:
            index, iou = best_proposal(box, proposals)
            input_box = proposals[index]
        asked.append(_Asked(caption, box, input_box, iou, _sample(usable, caption.id, spec)))
    if asked:
        shots = pictures(places, scan.scene, {f.number: f for one in asked for f in one.frames}.values())
        intrinsic = checked_camera(scan, shots, folder, part)
        part.records = [_record(scan, one, shots, intrinsic, spec) for one in asked]
        part.scan = shots.about
    part.counts.update(
        descriptions=len(entries),
        objects=len({one.caption.entry.object_id for one in asked}),
        frames=len({frame.number for one in asked for frame in one.frames}),
    )
    if proposals is not None:
        part.counts["objects met"] = len({one.caption.entry.object_id for one in asked if one.iou >= MET})
    part.labels.update(one.caption.entry.name.replace("_", " ") for one in asked)
    return part


def _sample(usable: Sequence[Frame], name: str, spec: CaptionSpec) -> list[Frame]:
    if spec.sampler == "chronological":
        return evenly(usable, spec.frames)
    return wrapped_sample(usable, spec.frames, draws(spec.seed, name))


def _record(scan: Scan, one: _Asked, shots: Pictures, intrinsic: Floats, spec: CaptionSpec) -> Record:
    entry = one.caption.entry
    view = invert_rigid(scan.axis_align @ one.frames[0].cam_to_world)
    centre = transform_points(one.input_box[None, :3], view)[0]
    meta = {
        "dataset": "scan2cap",
        "scene": entry.scene,
        "split": spec.split,
        "sampler": sampler_name(spec.sampler),
        "object_id": entry.object_id,
        "object_name": entry.name,
        **({"ann_id": entry.ann} if spec.split == "train" else {}),
        "input_box": one.input_box.tolist(),
        "gt_box": one.gt_box.tolist(),
        "iou": one.iou,
    }
    return Record(
        id=one.caption.id,
        task="text",
        video=frame_list(one.frames, shots),
        prompt=caption_prompt(centre.tolist(), len(one.frames)),
        # VG-LLM's data capitalises so, which also lower-cases the rest.
        answer=entry.text.capitalize(),
        target=TextTarget(references=list(one.caption.references)),
        camera=camera(scan, one.frames, shots, intrinsic),
        meta=Meta.model_validate(meta),
    )
