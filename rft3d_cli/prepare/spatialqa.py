"""Questions of VSI-Bench's kinds about scans, as ``choice`` and ``number`` records with answers computed from boxes.

Each record holds in ``meta`` what its answer was computed from;
:func:`rft3d_cli.prepare.questions.recompute.recompute` computes it again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.answers.target import in_style
from rft3d_cli.errors import UsageError
from rft3d_cli.prepare._posed_files import posed_scenes
from rft3d_cli.prepare.embodiedscan import Frame, Scan, read_infos
from rft3d_cli.prepare.pictures import Places, pictures
from rft3d_cli.prepare.pipeline import Part, Policy, Quarantine, Report, Store, lies_in, relative_name, run
from rft3d_cli.prepare.posed import files_digest
from rft3d_cli.prepare.posed_world import posed_world
from rft3d_cli.prepare.questions import places as located
from rft3d_cli.prepare.questions import rules
from rft3d_cli.prepare.questions.floor import DAMAGED, find_floor
from rft3d_cli.prepare.questions.order import appearance
from rft3d_cli.prepare.questions.quantities import counting, distance, room_size, size
from rft3d_cli.prepare.questions.wording import WORDING
from rft3d_cli.prepare.questions.world import Draft, Refusal, Rng, World, see
from rft3d_cli.prepare.scannet import checked_camera, frame_list, tracked_frames
from rft3d_cli.prepare.splits import Split, chosen
from rft3d_cli.prepare.unannotated import scan_from_files, scenes_with_meshes
from rft3d_cli.prompts import thinking_prompt, vsibench_prompt
from rft3d_cli.records import ChoiceTarget, Clip, FrameList, Meta, NumberTarget, Record
from rft3d_cli.samplers import Sampler
from rft3d_cli.video import sample_indices

DATASET = "spatialqa"
SAMPLER: Sampler = "linspace-floor"
TRIES = 8
"""Questions drawn for each one that is wanted, at most."""
LIST_STEP = 10
"""Without annotations every so many raw frames are listed, as in EmbodiedScan's ScanNet."""

Maker = Callable[[Rng, World, int], Iterator[Draft | Refusal]]
MAKERS: dict[str, Maker] = {
    "object_counting": counting,
    "object_abs_distance": distance,
    "object_size_estimation": size,
    "room_size_estimation": room_size,
    "object_rel_distance": located.relative_distance,
    "object_rel_direction_easy": located.easy,
    "object_rel_direction_medium": located.medium,
    "object_rel_direction_hard": located.hard,
    "route_planning": located.route,
    "obj_appearance_order": appearance,
}
"""By question type, in the order of a scene's records."""
DIRECTION = "object_rel_direction"


@dataclass(frozen=True)
class QuestionSpec:
    """What to ask.

    Args:
        types: Question types, of :data:`MAKERS`.
        per_type: Most questions of a type about a scene.
        frames: Frames a record, evenly spaced over the scan; all of a scan that has fewer.
        seed: What is asked, in which words, and the order of options follow from it and from the scene's name.
        split: For the records' ``meta``.
        answer_style: ``think`` asks for a chain of thought before the answer, ``direct`` as the benchmark does.
    """

    types: tuple[str, ...] = tuple(MAKERS)
    per_type: int = 3
    frames: int = 32
    seed: int = 0
    split: str = "train"
    answer_style: str = "direct"


def question_types(names: Sequence[str]) -> tuple[str, ...]:
    """The question types that ``--types`` names; all of them where it names none.

    Args:
        names: Names, or lists of names separated by commas; ``object_rel_direction`` stands for its three levels.

    Raises:
        UsageError: On a name that is no type.

    >>> question_types(["route_planning,object_counting"])
    ('object_counting', 'route_planning')
    """
    wanted = {name.strip() for text in names for name in text.split(",")}
    if DIRECTION in wanted:
        wanted = wanted - {DIRECTION} | {kind for kind in MAKERS if kind.startswith(DIRECTION)}
    unknown = sorted(wanted - set(MAKERS))
    if unknown:
        raise UsageError(f"--types: there is no question type {unknown[0]!r}", f"they are {', '.join(MAKERS)}")
    return tuple(kind for kind in MAKERS if kind in wanted or not names)


def prepare_questions(
    *,
    scans: Path | None,
    annotations: Path | None,
    videos: Path | None,
    places: Places,
    split: Split,
    out: Path,
    media_root: Path,
    spec: QuestionSpec,
    visibility: float = 0.003,
    posed: Path | None = None,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write records of questions about scans.

    Args:
        scans: Folder of scans as downloaded; None where frames come from ``places.posed`` or ``videos``. Their meshes
            tell the size of a room.
        annotations: EmbodiedScan infos; None makes boxes from the scans' own files
            (see :mod:`rft3d_cli.prepare.unannotated`).
        videos: Folder of ``<scene>.mp4`` or ``<dataset>/<scene>.mp4``, which then are the records' videos.
        places: Where frames come from and go to.
        split: Which scenes, and what the split is called.
        out: The record file.
        media_root: What the records' paths are relative to.
        spec: What to ask; its ``split`` is replaced by the name of ``split``.
        visibility: Without annotations, the share of a depth image from which on an object counts as visible.
        posed: Folder of scans in the posed layout of docs/own-data.md, which then are what is asked about;
            ``places.store`` names its files.
        policy: How to work.
        begin: Called with the number of scenes; returns what to call after each.

    Raises:
        DataError: See :func:`rft3d_cli.prepare.pipeline.run`.
        UsageError: Where options do not fit each other, or the videos lie outside the media root.
    """
    if videos is not None:
        relative_name(videos, media_root)
    jobs: list[_Job]
    if posed is not None:
        names = chosen(split, posed_scenes(posed), str(posed))
        jobs = [_Job(i, name, None, None) for i, name in enumerate(names)]
    elif annotations is not None:
        infos = read_infos(annotations)
        names = chosen(split, [*infos.scans, *infos.bad], str(annotations))
        jobs = [_Job(i, name, infos.scans.get(name), infos.bad.get(name)) for i, name in enumerate(names)]
    else:
        if scans is None or places.posed is not None:
            raise UsageError("exported frames have no boxes of their own", "name them with --annotations FILE")
        names = chosen(split, scenes_with_meshes(scans), str(scans))
        jobs = [_Job(i, name, None, None) for i, name in enumerate(names)]
    spec = replace(spec, split=split.name)
    options: dict[str, Any] = {
        "scans": None if scans is None else str(scans),
        "posed_images": None if places.posed is None else str(places.posed),
        "annotations": None if annotations is None else str(annotations),
        "videos": None if videos is None else str(videos),
        **asdict(spec),
        "types": list(spec.types),
        "sampler": SAMPLER,
        "media_root": str(media_root),
    }
    if annotations is None:
        options |= {"visibility": visibility}
    if posed is not None:
        # The files' hash, because a run is only resumed, or joined with its other shards, over the same files.
        options |= {"posed": str(posed), "files_sha256": files_digest(posed, names)}
    return run(
        jobs,
        partial(
            _work,
            spec=spec,
            places=places,
            scans=scans,
            videos=videos,
            media_root=media_root,
            visibility=visibility,
            posed=posed,
        ),
        _name,
        out=out,
        media_root=media_root,
        command="prepare spatialqa",
        options=options,
        sources=[path for path in (annotations, split.file) if path is not None],
        policy=policy,
        kinds="types",
        nothing="questions need objects that are the only ones of their name: take more frames, scenes or --types",
        done=begin(len(jobs)),
    )


@dataclass(frozen=True)
class _Job:
    number: int
    scene: str
    scan: Scan | None
    problem: str | None


def _name(job: _Job) -> str:
    return job.scene


def _work(
    job: _Job,
    spec: QuestionSpec,
    places: Places,
    scans: Path | None,
    videos: Path | None,
    media_root: Path,
    visibility: float,
    posed: Path | None,
) -> Part:
    if job.problem is not None:
        raise Quarantine("wrong annotations", job.problem)
    clip = None
    if videos is not None:
        path = relative_name(find_video(videos, job.scene), media_root)
        clip = Clip(path=path, frames=spec.frames, sampler=SAMPLER)
    if posed is not None:
        return posed_question_part(posed / job.scene, job.number, spec, places.store, visibility, clip)
    folder = None if scans is None else scans / job.scene
    scan = job.scan
    if scan is None:
        if folder is None:
            raise ValueError("neither annotations nor scans")
        scan = scan_from_files(folder, LIST_STEP, visibility)
    return question_part(scan, job.number, spec, places, folder, clip)


def find_video(videos: Path, scene: str) -> Path:
    """The clip of a scene: ``<scene>.mp4`` in the folder, or in one of its folders.

    Raises:
        Quarantine: Where there is none, or more than one.
    """
    name = f"{scene}.mp4"
    found = [path for path in (videos / name, *sorted(videos.glob(f"*/{name}"))) if path.is_file()]
    if not found:
        raise Quarantine("missing video", f"there is no {name} in {videos} or in a folder of it")
    if len(found) > 1:
        raise Quarantine("several videos", f"{found[0]} and {found[1]} are both of {scene}")
    return found[0]


def video_root(out: Path, videos: Path) -> Path:
    """What the paths of videos are relative to: the record file's folder where they lie in it, else their own."""
    return out.parent if lies_in(videos, out.parent) else videos


def question_part(
    scan: Scan, number: int, spec: QuestionSpec, places: Places, folder: Path | None, clip: Clip | None = None
) -> Part:
    """The questions about one scan.

    Args:
        scan: The annotated scan.
        number: The scene's place in the data set, which deals the letters of right answers.
        spec: What to ask.
        places: Where frames come from and go to.
        folder: The scan's own folder, whose mesh tells the size of the room; None to do without.
        clip: The records' video; None takes frames. A clip is taken to run evenly from the first to the last listed
            frame.

    Raises:
        DataError: Where the scan cannot be used.
    """
    part = Part(scan.scene)
    usable = sorted(tracked_frames(scan, part), key=lambda frame: frame.number)
    if not usable:
        raise Quarantine("no tracked frame", f"{scan.scene}: no listed frame has a pose")
    frames = evenly(usable, spec)
    return _asked(
        part, scan, number, spec, frames, folder, clip or partial(_frames, scan, frames, places, folder, part)
    )


def posed_question_part(
    folder: Path, number: int, spec: QuestionSpec, store: Store, visibility: float, clip: Clip | None = None
) -> Part:
    """The questions about one scan in the posed layout.

    Args:
        folder: ``DIR/SCENE``.
        number: See :func:`question_part`.
        spec: What to ask.
        store: How records name files of ``DIR``.
        visibility: From which share of the picture on an object counts as shown.
        clip: See :func:`question_part`.

    Raises:
        DataError: Where the scan cannot be used.
    """
    part = Part(folder.name)
    world = posed_world(folder, spec.frames, SAMPLER, visibility, part)
    frames = evenly(world.scan.frames, spec)

    def named() -> FrameList:
        shots = world.pictures(store, frames)
        part.scan = shots.about
        part.counts.update(frames=len(frames))
        return frame_list(frames, shots)

    return _asked(part, world.scan, number, spec, frames, None, clip or named, world.unknown)


def evenly(usable: Sequence[Frame], spec: QuestionSpec) -> list[Frame]:
    """The frames of a record, of those that could be."""
    return [usable[i] for i in sample_indices(len(usable), min(spec.frames, len(usable)), SAMPLER)]


def _asked(
    part: Part,
    scan: Scan,
    number: int,
    spec: QuestionSpec,
    frames: Sequence[Frame],
    folder: Path | None,
    video: Clip | Callable[[], FrameList],
    unknown: Mapping[str, str] | None = None,
) -> Part:
    """Fill a part with questions: ``video`` is called once there are some, ``unknown`` says what may not be asked."""
    unknown = unknown or {}
    wants_floor = "room_size_estimation" in spec.types and "room_size_estimation" not in unknown
    floor = find_floor(scan, folder) if wants_floor else "not asked for"
    if floor == DAMAGED:
        part.warnings.append(f"{DAMAGED}, so the size of the room is not asked")
    world = see(scan, frames, floor)
    for reason, label in world.problems:
        part.reject("label", reason, label=label)
    for kind in (kind for kind in spec.types if kind in unknown):
        part.reject("question", unknown[kind], question_type=kind)
    drafts = {kind: list(_drafts(world, kind, spec, part)) for kind in spec.types if kind not in unknown}
    if not any(drafts.values()):
        part.reject("scene", "no question")
        return part
    shown = video if isinstance(video, Clip) else video()
    part.records = [
        _record(
            scan.scene, kind, i, draft, text, letter_position(spec, kind, number, i, 1 + len(draft.wrong)), shown, spec
        )
        for kind, found in drafts.items()
        for i, (draft, text) in enumerate(found)
    ]
    part.counts.update(questions=len(part.records))
    part.labels.update({kind: len(found) for kind, found in drafts.items() if found})
    return part


def _drafts(world: World, kind: str, spec: QuestionSpec, part: Part) -> Iterator[tuple[Draft, str]]:
    """Questions of one type with their text; those that may not be asked are counted in ``part``."""
    seed = [spec.seed, zlib.crc32(part.name.encode()), zlib.crc32(kind.encode())]
    words = np.random.default_rng([*seed, 1])
    wanted, drawn = spec.per_type, 0
    for found in MAKERS[kind](np.random.default_rng([*seed, 0]), world, TRIES * spec.per_type):
        drawn += 1
        if isinstance(found, Refusal):
            part.reject("question", found.reason, question_type=kind, labels=list(found.labels))
            continue
        templates = WORDING[kind]
        yield found, templates[int(words.integers(len(templates)))].format(**found.words)
        wanted -= 1
        if not wanted:
            return
    if not drawn:
        part.reject("question", "too few objects to ask about", question_type=kind)


def letter_position(spec: QuestionSpec, kind: str, scene: int, question: int, options: int) -> int:
    """Where the right option stands.

    The letters of a type are dealt in shuffled rounds of all of them, a hand for each scene, so that every letter is
    right about as often as any other; no scene needs to know of another.

    Args:
        spec: What to ask.
        kind: The question type.
        scene: The scene's place in the data set.
        question: The question's place among those of its type about the scene.
        options: How many options it has.

    >>> sorted(letter_position(QuestionSpec(), "route_planning", 0, i, 3) for i in range(3))
    [0, 1, 2]
    """
    turn, place = divmod(scene * spec.per_type + question, options)
    seed = [spec.seed, zlib.crc32(kind.encode()), options, turn]
    return int(np.random.default_rng(seed).permutation(options)[place])


def _frames(scan: Scan, frames: Sequence[Frame], places: Places, folder: Path | None, part: Part) -> FrameList:
    shots = pictures(places, scan.scene, frames)
    checked_camera(scan, shots, folder, part)
    part.scan = shots.about
    part.counts.update(frames=len(frames))
    return frame_list(frames, shots)


def _record(
    scene: str,
    kind: str,
    number: int,
    draft: Draft,
    text: str,
    position: int,
    video: FrameList | Clip,
    spec: QuestionSpec,
) -> Record:
    task: Any = "number"
    answer, options = draft.answer, None
    target: ChoiceTarget | NumberTarget
    if draft.wrong:
        texts = list(draft.wrong)
        texts.insert(position, draft.answer)
        task, answer, options = "choice", rules.LETTERS[position], rules.lettered(texts)
        target = ChoiceTarget(letter=answer, options=options)
    else:
        target = NumberTarget(value=float(answer))
    meta: dict[str, Any] = {
        "dataset": DATASET,
        "scene": scene,
        "split": spec.split,
        "question_type": kind,
        "sampler": SAMPLER,
        "objects": list(draft.objects),
    }
    if draft.floor is not None:
        meta["floor"] = draft.floor.told()
    if draft.margin:
        meta["margin"] = draft.margin
    prompt = vsibench_prompt(text, options)
    if spec.answer_style == "think":
        prompt = thinking_prompt(prompt, choice=options is not None)
    record = Record(
        id=f"{scene}/qa/{kind}/{number}",
        task=task,
        video=video,
        prompt=prompt,
        target=target,
        meta=Meta.model_validate(meta),
    )
    return record.model_copy(update={"answer": in_style(answer, record, spec.answer_style)})
