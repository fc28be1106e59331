"""SQA3D: questions that someone asks who stands somewhere in a room, and says where, as text records.

A record's prompt is VG-LLM's: the situation, then the question. For training each wording of the situation is a record
of its own; for evaluation the first one is asked, as the field does. The scene is shown by a clip, or by frames out of
its scan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.prepare._scanrefer_frames import SAMPLER, evenly
from rft3d_cli.prepare.embodiedscan import Frame
from rft3d_cli.prepare.pictures import Places, open_sens, pictures
from rft3d_cli.prepare.pipeline import Part, Policy, Quarantine, Report, lies_in, relative_name, run, share
from rft3d_cli.prepare.scannet import frame_list
from rft3d_cli.prepare.splits import Split, chosen
from rft3d_cli.prepare.sqa3d_file import DATASET, NOTHING, Situated, question_type, read_situated
from rft3d_cli.prepare.vsibench import locate
from rft3d_cli.prompts import sqa3d_prompt
from rft3d_cli.records import Clip, FrameList, Meta, Record, TextTarget

_UNKNOWN = np.full((4, 4), -np.inf)


@dataclass(frozen=True)
class SituatedSpec:
    """What a record looks like.

    Args:
        frames: Frames a record.
        sampler: How they are chosen of a clip, see :data:`rft3d_cli.video.SAMPLERS`. Of a scan they are evenly spaced.
        split: For the records' ``meta``. ``train`` has a record a wording of the situation, any other the first only.
    """

    frames: int = 32
    sampler: str = SAMPLER
    split: str = "train"


@dataclass(frozen=True)
class _Job:
    """A scene.

    Args:
        scene: Its name.
        questions: In the file's order.
        clip: How records name its clip; None where there is none.
        wrong: What is wrong with entries of the files; kept with the first scene.
    """

    scene: str
    questions: tuple[Situated, ...]
    clip: str | None = None
    wrong: tuple[str, ...] = field(default=())


def prepare_situated(
    *,
    questions: Path,
    annotations: Path,
    videos: Path | None,
    places: Places | None,
    media: Path,
    split: Split,
    out: Path,
    media_root: Path | None,
    spec: SituatedSpec,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write records of SQA3D's questions.

    Args:
        questions: ``v1_balanced_questions_*_scannetv2.json``.
        annotations: ``v1_balanced_sqa_annotations_*_scannetv2.json`` of the same split.
        videos: Folder of ``SCENE.mp4``, of ``scannet/SCENE.mp4`` or of ``scannet.zip``; None takes frames from scans.
        places: Where frames of scans come from and go to; None takes clips.
        media: Packed clips are unpacked to its ``videos/scannet``.
        split: Which scenes, and what the split is called.
        out: The record file.
        media_root: What the records' paths are relative to. For clips by default the record file's folder where they
            lie in it, else ``videos``, else ``media``.
        spec: What to write; its ``split`` is replaced by the name of ``split``.
        policy: How to work.
        begin: Called with the number of scenes; returns what to call after each.

    Raises:
        DataError: Where a file cannot be used, and see :func:`rft3d_cli.prepare.pipeline.run`.
        UsageError: Where no folder holds all the clips.
    """
    spec = replace(spec, split=split.name)
    entries, wrong = read_situated(questions, annotations)
    if not entries:
        raise DataError(f"{questions} and {annotations} hold no question with an answer", NOTHING)
    by_scene: dict[str, list[Situated]] = {}
    for entry in entries:
        by_scene.setdefault(entry.scene, []).append(entry)
    jobs = [_Job(scene, tuple(by_scene[scene])) for scene in chosen(split, list(by_scene), str(questions))]
    jobs[:1] = [replace(job, wrong=tuple(wrong)) for job in jobs[:1]]
    root = media_root
    if videos is not None:
        found = _clips([job.scene for job in share(jobs, policy)], videos, media, write=not policy.dry_run)
        root = media_root or _root(out.parent, (videos, media), list(found.values()))
        names = {scene: relative_name(path, root) for scene, path in found.items()}
        jobs = [replace(job, clip=names.get(job.scene)) for job in jobs]
    if root is None:
        raise ValueError("frames of scans need a media root")
    options = {
        "questions": str(questions),
        "annotations": str(annotations),
        "videos": None if videos is None else str(videos),
        "scans": None if places is None else str(places.scans),
        "posed_images": None if places is None or places.posed is None else str(places.posed),
        **asdict(spec),
        "media_root": str(root),
    }
    return run(
        jobs,
        partial(_work, spec=spec, places=places, videos=videos),
        _scene,
        out=out,
        media_root=root,
        command="prepare sqa3d",
        options=options,
        sources=[path for path in (questions, annotations, split.file) if path is not None],
        policy=policy,
        kinds="types",
        nothing=NOTHING,
        done=begin(len(share(jobs, policy))),
    )


def _clips(scenes: Sequence[str], videos: Path, media: Path, *, write: bool) -> dict[str, Path]:
    """Where the clip of each scene lies, unpacking those that are only in ``scannet.zip``; others are absent."""
    flat = locate({f"{scene}.mp4": None for scene in scenes}, videos, media, write=False)
    rest = [scene for scene in scenes if f"{scene}.mp4" not in flat]
    packed = locate({f"scannet/{scene}.mp4": None for scene in rest}, videos, media, write=write)
    both = {scene: flat.get(f"{scene}.mp4") or packed.get(f"scannet/{scene}.mp4") for scene in scenes}
    return {scene: path for scene, path in both.items() if path is not None}


def _root(home: Path, folders: Sequence[Path], files: Sequence[Path]) -> Path:
    """The first folder that holds all files; the record file's own comes first, because readers assume it."""
    for folder in (home, *folders):
        if all(lies_in(path, folder) for path in files):
            return folder
    raise UsageError(
        "some clips are loose and some packed, and no one folder holds both",
        f"unpack them beside the loose ones: --media {folders[0]}",
    )


def _scene(job: _Job) -> str:
    return job.scene


def _work(job: _Job, spec: SituatedSpec, places: Places | None, videos: Path | None) -> Part:
    part = Part(job.scene)
    if videos is not None:
        if job.clip is None:
            raise Quarantine("missing video", f"{videos} has no {job.scene}.mp4")
        video: Clip | FrameList = Clip(path=job.clip, frames=spec.frames, sampler=spec.sampler)
    else:
        video = _frames(job.scene, spec, places, part)
    for entry in job.questions:
        situations = entry.situations if spec.split == "train" else entry.situations[:1]
        part.records += [_record(entry, number, video, spec) for number in range(len(situations))]
        part.labels[question_type(entry.question)] += len(situations)
    part.counts.update(questions=len(job.questions))
    for detail in job.wrong:
        part.rejects.append({"what": "question", "scene": None, "reason": "wrong entry", "entry": detail})
    return part


def _frames(scene: str, spec: SituatedSpec, places: Places | None, part: Part) -> FrameList:
    if places is None or (places.posed is None and places.scans is None):
        raise ValueError("neither clips nor scans")
    if places.posed is None and places.scans is not None:
        listed = [Frame(header.index, header.pose, ()) for header in open_sens(places.scans / scene).frames]
    else:
        folder = Path(str(places.posed)) / scene
        files = folder.iterdir() if folder.is_dir() else []
        numbers = {int(f.stem) for f in files if re.fullmatch(r"[0-9]{5}\.(?:jpe?g|png)", f.name)}
        listed = [Frame(number, _UNKNOWN, ()) for number in sorted(numbers)]
    if not listed:
        raise Quarantine("no frames", f"{scene} has no frames")
    frames = evenly(listed, spec.frames)
    shots = pictures(places, scene, frames)
    part.warnings += shots.warnings
    part.scan = shots.about
    part.counts["frames"] = len(frames)
    return frame_list(frames, shots)


def _record(entry: Situated, number: int, video: Clip | FrameList, spec: SituatedSpec) -> Record:
    meta = {
        "dataset": DATASET,
        "scene": entry.scene,
        "split": spec.split,
        "question_type": question_type(entry.question),
        "sampler": spec.sampler if isinstance(video, Clip) else SAMPLER,
        "situation": entry.situations[number],
        "question": entry.question,
    }
    return Record(
        id=f"{entry.id}/{number}" if number else entry.id,
        task="text",
        video=video,
        prompt=sqa3d_prompt(entry.situations[number], entry.question),
        answer=entry.answers[0],
        target=TextTarget(references=list(entry.answers)),
        meta=Meta.model_validate(meta),
    )
