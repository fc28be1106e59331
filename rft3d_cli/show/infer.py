"""From a video and a question to an answer on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli import prompts
from rft3d_cli.console import duration
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, UsageError
from rft3d_cli.files import write_json
from rft3d_cli.models.defaults import MAX_TOKENS
from rft3d_cli.show.answer import (
    ASSUMED_FOV,
    Answer,
    Camera,
    boxes_in_all_frames,
    describe_box,
    described_object,
    document,
    draw_answer,
    guess_task,
    read_answer,
    read_camera,
)
from rft3d_cli.show.draw import draw_boxes
from rft3d_cli.video import SAMPLERS, Frames, open_video, write_mp4

MOVIE = "video.mp4"
"""The annotated video."""
HOLD_SECONDS = 2.0
"""How long the answered frame stands in an annotated video that has no camera path."""
MOST_FRAMES = 600
"""Frames of an annotated video, at most."""

_ANY_VIDEO = "name a video file, or a folder of .jpg or .png frames"


def ask(
    video: Path,
    question: str,
    *,
    model: str,
    out: Path,
    task: str,
    frames: int | None,
    fov: float | None,
    camera_file: Path | None,
    max_tokens: int | None,
    say: Callable[[str, str], object],
) -> dict[str, Any]:
    """Answer one question about one video and draw the answer.

    Args:
        video: A video file or a folder of frames.
        question: In plain words.
        model: See :func:`~rft3d_cli.models.loader.find_model`.
        out: Folder of ``answer.json``, the answered frame and the annotated video.
        task: ``auto``, ``grounding``, ``detection`` or ``text``.
        frames: Frames to show the model; its own number where None.
        fov: Horizontal field of view, degrees.
        camera_file: Camera file.
        max_tokens: Longest answer.
        say: Called with a word and a line for people.

    Returns:
        What ``answer.json`` holds, with ``words``: the answer as lines of text.

    Raises:
        UsageError: For an empty question, or an output folder that holds the video under a name that is written.
        DataError: Where the video or the camera file cannot be read.
        SetupError: Where the model is missing.
        ProblemList: Where both the video and the model are missing.
    """
    start = time.monotonic()
    if not question.strip():
        raise UsageError("the question is empty", 'ask something: "where is the chair"')
    mark = next((mark for mark in (prompts.IMAGE, *prompts.FORBIDDEN) if mark in question), None)
    if mark is not None:
        raise UsageError(f"the question holds {mark}, which stands for a frame", "ask in plain words")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise UsageError("the question is not UTF-8 text", "type it in a terminal that is set to UTF-8")
    _check(video, model, out)
    from rft3d_cli.models.loader import FRESH, defaults_of, find_model

    folder = None if model in FRESH else find_model(model)
    defaults = defaults_of(model)
    kind = guess_task(question) if task == "auto" else task
    # Free questions are asked in the words of VSI-Bench's numeric ones, so with as many frames.
    count = frames or defaults.frames["number" if kind == "text" else kind]
    try:
        sampler = defaults.sampler or SAMPLERS[0]
        clip = open_video(video, count, sampler)
    except DataError as error:
        raise DataError(error.message, error.hint or _ANY_VIDEO) from None
    say("video", f"{video}  {_facts(clip)} -> {len(clip.images)} frames")
    for remark in clip.notes:
        say("", remark)
    camera = read_camera(video, (clip.info.width, clip.info.height), file=camera_file, fov=fov)
    if camera.poses is not None and len(camera.poses) != clip.info.frames:
        raise DataError(
            f"{video} has {clip.info.frames:,} frames, and its camera file {len(camera.poses):,} poses",
            "remove the camera file's cam_to_world, or name the file that belongs to the video with --camera",
        )
    say("camera", _camera_words(camera, fov))
    if defaults.note:
        say("model", f"{model}: {defaults.note}")

    prompt = _prompt(kind, question, len(clip.images))
    text = _generate(model, prompt, clip, max_tokens or MAX_TOKENS[kind], tags=defaults.tags)
    answer = read_answer(kind, text, len(clip.images), question)
    written, pictures = draw_answer(answer, clip.images, camera.intrinsic, out)
    if len(answer.boxes):
        movie = out / MOVIE
        _write_video(movie, video, clip, camera, answer, pictures)
        written.append(movie)
    words = _words(answer)
    result = document(
        answer,
        question=question,
        words=words,
        video={
            "path": str(video),
            "width": clip.info.width,
            "height": clip.info.height,
            "frames": clip.indices,
            "times": clip.times,
            "sampler": sampler,
            "damaged": clip.damaged,
        },
        camera={"source": camera.source, "intrinsic": camera.intrinsic.tolist(), "fov_assumed": _assumed(camera)},
        model={"name": model, "path": str(folder or model)},
        files=[str(path) for path in written],
        seconds=round(time.monotonic() - start, 2),
    )
    write_json(out / "answer.json", result)
    say("wrote", "  ".join(str(path) for path in (*written, out / "answer.json")) + f"   {duration(result['seconds'])}")
    return result


def _check(video: Path, model: str, out: Path) -> None:
    """What is missing, all of it at once; and whether what is written would replace what is read."""
    from rft3d_cli.models.loader import model_problems

    problems: list[Rft3dError] = []
    if video.resolve() in (out.resolve(), (out / MOVIE).resolve()):
        problems.append(UsageError(f"the answer in {out} would be written over {video}", "name another folder: --out"))
    if not video.exists():
        problems.append(DataError(f"{video} does not exist", _ANY_VIDEO))
    problems += model_problems(model)
    if problems:
        raise problems[0] if len(problems) == 1 else ProblemList(problems)


def _facts(clip: Frames) -> str:
    info = clip.info
    return f"{info.width}x{info.height}  {info.rate:.3g} fps  {info.duration:.1f} s"


def _assumed(camera: Camera) -> float | None:
    return ASSUMED_FOV if camera.source == "assumed" else None


def _camera_words(camera: Camera, fov: float | None) -> str:
    if camera.source == "file":
        return "from its camera file" + (", with the camera's path" if camera.poses is not None else "")
    if camera.source == "fov":
        return f"field of view {fov:g} degrees, as given"
    return f"unknown: a field of view of {ASSUMED_FOV:g} degrees is assumed (give yours with --fov)"


def _prompt(kind: str, question: str, frames: int) -> str:
    if kind == "detection":
        return prompts.detection_prompt(frames)
    if kind == "grounding":
        return prompts.grounding_prompt(described_object(question), frames)
    return prompts.vsibench_prompt(question, None)


def _generate(name: str, prompt: str, clip: Frames, max_tokens: int, *, tags: bool) -> str:
    from PIL import Image

    from rft3d_cli.models.inputs import encode_prompt
    from rft3d_cli.models.loader import load_speaker
    from rft3d_cli.models.predict import Decoding, generate

    model, processor = load_speaker(name)
    images = [processor.size(Image.fromarray(image)) for image in clip.images]
    encoded = encode_prompt(processor, prompt, images, tags=tags)
    return generate(model, processor, [encoded], Decoding(max_tokens=max_tokens))[0]


def _words(answer: Answer) -> list[str]:
    """The answer as lines of text."""
    if answer.why:
        return [f"no box could be read: {answer.why}", *(["the model wrote: " + answer.text] if answer.text else [])]
    if len(answer.boxes):
        camera = f"from the camera in frame {answer.frame}"
        return [f"{label}, {camera}: {describe_box(box)}" for label, box in answer.boxes]
    if answer.task == "detection":
        return ["nothing of the kind is in sight"]
    return [answer.text.strip() or "(no answer)"]


def _write_video(
    path: Path,
    video: Path,
    clip: Frames,
    camera: Camera,
    answer: Answer,
    pictures: Sequence[NDArray[np.uint8]],
) -> None:
    """The annotated video: boxes in every frame where the camera's path is known, else on the answered frame."""
    if camera.poses is None or len(camera.poses) > MOST_FRAMES:
        # Frames as the model saw them, half a second each; the answered one stands longer.
        shown: list[NDArray[np.uint8]] = []
        for index, picture in enumerate(pictures):
            shown += [picture] * (round(2 * HOLD_SECONDS) if index == answer.frame else 1)
        write_mp4(path, shown, 2)
        return
    whole = open_video(video, len(camera.poses))
    placed = boxes_in_all_frames(answer, camera.poses, camera.poses[clip.indices[answer.frame]])
    pairs = zip(whole.images, placed, strict=True)
    write_mp4(path, (draw_boxes(image, boxes, camera.intrinsic) for image, boxes in pairs), clip.info.rate)
