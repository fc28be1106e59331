"""From videos and questions to answers on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli._video_images import resized
from rft3d_cli.console import duration
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, UsageError
from rft3d_cli.files import write_bytes, write_json
from rft3d_cli.geometry.camera import scale_intrinsic
from rft3d_cli.show.answer import ASSUMED_FOV, Answer, Camera, camera_beside, document, named, read_answer, read_camera
from rft3d_cli.show.infer_files import (
    ANSWER,
    ANSWERS,
    ANY_VIDEO,
    MOVIE,
    PAGE,
    RERUN,
    appearing,
    check_index,
    check_out,
    check_replaced,
    find_videos,
    folder_names,
    is_collection,
    own_name,
)
from rft3d_cli.show.infer_model import Speaker
from rft3d_cli.show.infer_questions import Question, understand_all
from rft3d_cli.video import SAMPLERS, Frames, Image, VideoInfo, open_video_sets

if TYPE_CHECKING:
    from rft3d_cli.models.defaults import Defaults
    from rft3d_cli.show.viewer import Scene

Say = Callable[[str, str], object]


@dataclass(frozen=True)
class Wish:
    """How to ask and what to write.

    Args:
        model: See :func:`~rft3d_cli.models.loader.find_model`.
        out: Folder of the answers; ``look/VIDEO`` where None.
        task: ``auto``, ``detection``, ``grounding``, ``choice``, ``number`` or ``text``.
        options: Of every choice, where questions do not bring their own.
        frames: Frames to show the model; its own number for each task where None.
        fov: Horizontal field of view, degrees.
        camera_file: Camera file.
        max_tokens: Longest answer; each task's own where None.
        movie: Write the annotated video.
        rerun: Write ``scene.rrd``.
    """

    model: str = "tiny"
    out: Path | None = None
    task: str = "auto"
    options: tuple[str, ...] = ()
    frames: int | None = None
    fov: float | None = None
    camera_file: Path | None = None
    max_tokens: int | None = None
    movie: bool = True
    rerun: bool = False


@dataclass(frozen=True)
class Plan:
    """What will be asked, after every check that needs no model.

    Args:
        videos: One, or those of a folder.
        folders: Where the answers about each go.
        out: Of everything.
        collection: Whether a folder of videos was named.
        questions: In order.
        model: Folder of the model, or its name on the hub.
        defaults: How the model likes to be asked.
        counts: Frames that go with each question.
        wish: As it was given.
    """

    videos: list[Path]
    folders: list[Path]
    out: Path
    collection: bool
    questions: list[Question]
    model: str
    defaults: Defaults
    counts: list[int]
    wish: Wish


def make_plan(place: Path, texts: Sequence[str], wish: Wish) -> Plan:
    """Check everything that can be checked before a video is read and a model loaded.

    Args:
        place: A video file, a folder of frames or a folder of videos.
        texts: The questions.
        wish: How to ask.

    Raises:
        UsageError: For a question that cannot be asked, options that contradict each other, or an output folder that
            holds the video, or anything else that is not ours, under a name that is written.
        DataError: Where there is no video, or the output folder cannot be written.
        SetupError: Where the model or rerun-sdk is missing.
        ProblemList: Where several of these are so.
    """
    from rft3d_cli.models.loader import FRESH, defaults_of, find_model, model_problems

    questions, problems = understand_all(texts, wish.task, wish.options)
    if not texts:
        problems.append(UsageError("there is no question", 'rft3d infer clip.mp4 "where is the chair"'))
    if wish.camera_file is not None and wish.fov is not None:
        problems.append(UsageError("--camera and --fov both say what the camera is", "leave one of them out"))
    out = wish.out or Path("look") / (named(place).name if place.is_dir() else own_name(place))
    videos: list[Path] = []
    try:
        videos = find_videos(place)
        check_out(out)
    except DataError as error:
        problems.append(error)
    collection = is_collection(place, videos) and bool(videos)
    folders = [out / name for name in folder_names(videos)] if collection else [out]
    if place.resolve() == out.resolve() or any(
        video.resolve() in (folder.resolve(), (folder / MOVIE).resolve())
        for video, folder in zip(videos, folders, strict=False)
    ):
        problems.append(UsageError(f"the answer in {out} would be written over {place}", "name another folder: --out"))
    else:
        problems += _replaced(out, folders, collection, wish)
    problems += model_problems(wish.model)
    if wish.rerun:
        try:
            from rft3d_cli.show.rerun import check_rerun

            check_rerun()
        except Rft3dError as error:
            problems.append(error)
    if problems:
        raise problems[0] if len(problems) == 1 else ProblemList(problems)
    defaults = defaults_of(wish.model)
    # Free questions are asked in the words of VSI-Bench's numeric ones, so with as many frames.
    kinds = ["number" if question.task == "text" else question.task for question in questions]
    counts = [wish.frames or defaults.frames[kind] for kind in kinds]
    folder = None if wish.model in FRESH else find_model(wish.model)
    return Plan(videos, folders, out, collection, questions, str(folder or wish.model), defaults, counts, wish)


def _replaced(out: Path, folders: Sequence[Path], collection: bool, wish: Wish) -> list[Rft3dError]:
    """Files of others in the places of ours."""
    unwritten = {*([] if wish.movie else [MOVIE]), *([] if wish.rerun else [RERUN])}
    problems: list[Rft3dError] = []
    try:
        if collection:
            check_index(out)
        for folder in folders:
            check_replaced(folder, lambda name: name not in unwritten)
    except Rft3dError as error:  # the first is enough: another --out answers for all
        problems.append(error)
    return problems


def ask(plan: Plan, say: Say) -> tuple[dict[str, Any], list[DataError]]:
    """Ask every question about every video; write and draw the answers.

    Args:
        plan: What to ask.
        say: Called with a word and a line for people.

    Returns:
        What ``answer.json``, or for a folder of videos ``answers.json``, holds; and what kept videos of a folder from
        being answered.

    Raises:
        DataError: Where a video that was named by itself cannot be read.
        UsageError: Where a prompt is longer than the model reads.
    """
    start = time.monotonic()
    if plan.defaults.note:
        say("model", f"{plan.wish.model}: {plan.defaults.note}")
    speaker = Speaker(plan.wish.model, tags=plan.defaults.tags, max_tokens=plan.wish.max_tokens)
    if not plan.collection:
        return _ask_one(plan, plan.videos[0], plan.folders[0], speaker, say), []
    rows: list[dict[str, Any]] = []
    lost: list[DataError] = []
    for video, folder in zip(plan.videos, plan.folders, strict=True):
        try:
            rows.append(_ask_one(plan, video, folder, speaker, say))
        except DataError as error:
            lost.append(error)
            rows.append({"video": {"path": str(video)}, "error": error.message})
            say("failed", error.message)
    seconds = round(time.monotonic() - start, 2)
    result = {"schema": 1, "videos": rows, "failed": len(lost), "seconds": seconds}
    write_json(plan.out / ANSWERS, result)
    say("wrote", f"{plan.out / ANSWERS}   {duration(seconds)}")
    return result, lost


def look(plan: Plan, say: Say) -> tuple[dict[str, Any], list[DataError]]:
    """What :func:`ask` would ask of what, without a model; arguments and results as there."""
    rows: list[dict[str, Any]] = []
    lost: list[DataError] = []
    for video, folder in zip(plan.videos, plan.folders, strict=True):
        try:
            clips, camera, _ = _open(plan, video, say)
        except DataError as error:
            if not plan.collection:
                raise
            lost.append(error)
            rows.append({"path": str(video), "error": error.message})
            continue
        row = {"path": str(video), "camera": camera.source, "poses": camera.poses is not None, "out": str(folder)}
        rows.append({**row, "asked": [
            {"question": q.text, "task": q.task, "options": list(q.options), "unit": q.unit,
             "frames": clip.indices, "asked": q.prompt(len(clip.indices))}
            for q, clip in zip(plan.questions, clips, strict=True)
        ]})  # fmt: skip
    model = {"name": plan.wish.model, "path": plan.model}
    return {"schema": 1, "dry_run": True, "model": model, "videos": rows, "failed": len(lost)}, lost


def _open(
    plan: Plan, video: Path, say: Say, sized: Callable[[int, Image], Any] | None = None
) -> tuple[list[Frames], Camera, tuple[int, int]]:
    """The frames that go with each question, the camera, and the size of the frames that are kept.

    The model's own copy of a frame is made of the whole frame as soon as it is read, and what is kept for pictures is
    no larger than they are: many frames of a large video do not fit into memory.
    """
    from rft3d_cli.show.infer_draw import kept_size

    counts = list(dict.fromkeys(plan.counts))
    opened: list[tuple[Camera, tuple[int, int]]] = []

    def keep(info: VideoInfo, index: int, image: Image) -> tuple[Image, Any]:
        if not opened:  # a camera that does not fit is told before a model is loaded
            shown = " and ".join(map(str, counts))
            facts = f"{info.width}x{info.height}  {info.rate:.3g} fps  {info.duration:.1f} s -> {shown} frames"
            say("video", f"{video}  {facts}")
            most = min(sum(counts), info.frames)
            opened.append((_camera(plan, video, info, say), kept_size((info.width, info.height), most)))
        return resized(image, opened[0][1]), sized(index, image) if sized else None

    try:
        sets = open_video_sets(video, counts, plan.defaults.sampler or SAMPLERS[0], keep=keep)
    except DataError as error:
        if opened:
            raise
        raise DataError(error.message, error.hint or ANY_VIDEO) from None
    for remark in dict.fromkeys(note for found in sets for note in found.notes):
        say("note", remark)
    return [sets[counts.index(count)] for count in plan.counts], *opened[0]


def _camera(plan: Plan, video: Path, info: VideoInfo, say: Say) -> Camera:
    """The camera of a video, where it is one of this video."""
    wish = plan.wish
    camera = read_camera(video, (info.width, info.height), file=wish.camera_file, fov=wish.fov)
    if camera.poses is not None and len(camera.poses) != info.frames:
        raise DataError(
            f"{video} has {info.frames:,} frames, and its camera file {len(camera.poses):,} poses",
            "remove the camera file's cam_to_world, or name the file that belongs to the video with --camera",
        )
    unused = wish.fov is not None and camera.source == "file"
    say("camera", camera_words(camera, wish.fov) + (f"; --fov {wish.fov:g} is not used" if unused else ""))
    if unused:
        say("", f"to use it, move {camera_beside(video)} away")
    return camera


def _ask_one(plan: Plan, video: Path, folder: Path, speaker: Speaker, say: Say) -> dict[str, Any]:
    start = time.monotonic()
    key = str(video.resolve())
    clips, camera, size = _open(plan, video, say, lambda index, image: speaker.sized(key, index, image))
    if len(plan.questions) > 1:
        for number, (question, clip) in enumerate(zip(plan.questions, clips, strict=True), 1):
            say("ask" if number == 1 else "", f"{number} {question.task}, {len(clip.indices)} frames: {question.text}")
    texts = speaker.answers(plan.questions, clips)
    answers = [
        read_answer(question, text, clip.indices, clip.times, plan.defaults.angles)
        for question, text, clip in zip(plan.questions, texts, clips, strict=True)
    ]
    info = clips[0].info
    frames = clips[0].indices, clips[0].times
    images = {index: image for clip in clips for index, image in zip(clip.indices, clip.images, strict=True)}
    if len(clips) > 1:
        times = {index: at for clip in clips for index, at in zip(clip.indices, clip.times, strict=True)}
        frames = sorted(times), [times[index] for index in sorted(times)]
    with appearing(folder) as work:
        written = _write(work, plan, video, clips, size, camera, answers, images)
        result = document(
            answers,
            video={
                "path": str(video),
                "width": info.width,
                "height": info.height,
                "frames": frames[0],
                "times": frames[1],
                "sampler": plan.defaults.sampler or SAMPLERS[0],
                "damaged": any(clip.damaged for clip in clips),
            },
            camera={
                "source": camera.source,
                "intrinsic": camera.intrinsic.tolist(),
                "fov_assumed": ASSUMED_FOV if camera.source == "assumed" else None,
                "poses": camera.poses is not None,
            },
            model={"name": plan.wish.model, "path": plan.model},
            files=[str(folder / path.name) for path in written],
            seconds=round(time.monotonic() - start, 2),
        )
        write_json(work / ANSWER, result)
    say("wrote", "  ".join([*result["files"], str(folder / ANSWER)]) + f"   {duration(result['seconds'])}")
    return result


def _write(
    work: Path,
    plan: Plan,
    video: Path,
    clips: Sequence[Frames],
    size: tuple[int, int],
    camera: Camera,
    answers: Sequence[Answer],
    images: dict[int, Image],
) -> list[Path]:
    """Pictures, video and page; returns the files."""
    from rft3d_cli.show.infer_draw import Drawing, write_moving_video, write_pictures, write_still_video
    from rft3d_cli.show.viewer import page

    info = clips[0].info
    drawing = Drawing.of(answers, camera.intrinsic, (info.width, info.height))
    written = write_pictures(drawing, [clip.images for clip in clips], work)
    if plan.wish.movie and any(len(answer.boxes) for answer in answers):
        written.append(work / MOVIE)
        if camera.poses is not None:
            write_moving_video(work / MOVIE, drawing, video, info, camera.poses)
        else:
            write_still_video(work / MOVIE, drawing, sorted(images.items()))
    intrinsic = scale_intrinsic(camera.intrinsic, (info.width, info.height), size)
    shown = _scene(plan, video, clips, replace(camera, intrinsic=intrinsic), answers, images)
    write_bytes(work / PAGE, page(shown).encode("utf-8"))
    written.append(work / PAGE)
    if plan.wish.rerun:
        from rft3d_cli.show.rerun import write_rrd

        write_rrd(work / RERUN, shown)
        written.append(work / RERUN)
    return written


def _scene(
    plan: Plan,
    video: Path,
    clips: Sequence[Frames],
    camera: Camera,
    answers: Sequence[Answer],
    images: dict[int, Image],
) -> Scene:
    """What the page shows: every frame that was shown to the model, once, and every answer.

    ``camera`` is for the images' size.
    """
    from rft3d_cli.show.viewer import Said, Scene

    order = sorted(images)
    times = {index: at for clip in clips for index, at in zip(clip.indices, clip.times, strict=True)}
    said = [
        Said(answer.question.text, answer.words(), order.index(answer.indices[answer.frame]), answer.boxes)
        for answer in answers
    ]
    return Scene(
        title=named(video).name,
        images=[images[index] for index in order],
        times=[times[index] for index in order],
        intrinsic=camera.intrinsic,
        poses=None if camera.poses is None else camera.poses[order],
        path=camera.poses,
        camera=camera_words(camera, plan.wish.fov),
        note=f"{plan.wish.model}: {plan.defaults.note}" if plan.defaults.note else "",
        said=said,
        assumed=camera.source == "assumed",
        numbers=order,
    )


def camera_words(camera: Camera, fov: float | None) -> str:
    """Where a camera comes from, for people."""
    if camera.source == "file":
        return "from its camera file" + (", with the camera's path" if camera.poses is not None else "")
    if camera.source == "fov":
        return f"field of view {fov:g} degrees, as given"
    return f"unknown: a field of view of {ASSUMED_FOV:g} degrees is assumed (give yours with --fov)"
