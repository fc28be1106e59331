"""Video: frames in, from clips and folders of images, and clips out.

Every command reads video through here, so training, evaluation and inference see the same pixels. Frames are chosen
by a named sampler and decoded exactly (:mod:`rft3d_cli._video_plan`), also where the rate varies or the file is cut by
an edit list. Nothing here limits time: a file from a stranger is best opened first in a child process.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from rft3d_cli import _video_plan as plan
from rft3d_cli._video_images import IMAGE_FORMATS as IMAGE_FORMATS
from rft3d_cli._video_images import Image as Image
from rft3d_cli._video_images import read_image, resized
from rft3d_cli.errors import DataError, SetupError, UsageError
from rft3d_cli.files import atomic_path
from rft3d_cli.samplers import Sampler

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

SAMPLERS = (*get_args(Sampler), "fps")
"""Names of the samplers; the first is the default."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})

_CLOCK = Fraction(1, 90_000)
"""The unit of a written frame's own time, seconds: MPEG's, in which all usual rates are whole."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a clip is.

    Args:
        width: Pixels, as shown (after rotation).
        height: Pixels, as shown (after rotation).
        frames: Number of frames, counted and not believed.
        duration: Seconds from the first frame to the end of the last.
        rate: Frames a second on average; 0 where the clip has no duration.
        codec: Name of the codec; "images" for a folder.
        rotation: Degrees anticlockwise that are applied when frames are read: 0, 90, 180 or 270.
        damaged: Whether something of the file could not be read.
    """

    width: int
    height: int
    frames: int
    duration: float
    rate: float
    codec: str
    rotation: int = 0
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a clip.

    Args:
        images: Arrays of shape (H, W, 3), RGB, uint8. A frame that was chosen twice is the same array twice.
        indices: Frame number of each, from 0, in display order.
        times: Seconds of each, as in the file; some clips do not start at 0.
        info: The clip.
        damaged: Whether damage was met on the way; parts that were not needed are not looked at.
        notes: What a record of the run should say about these frames.
        made: What :func:`open_video_sets` was told to make of each frame; empty where nothing.
    """

    images: list[Image]
    indices: list[int]
    times: list[float]
    info: VideoInfo
    damaged: bool = False
    notes: list[str] = field(default_factory=list)
    made: list[Any] = field(default_factory=list)


Keep = Callable[[VideoInfo, int, Image], tuple[Image, Any]]
"""From the clip, a frame's number and the whole frame to the image that is kept of it, and to anything made of it."""


def sample_indices(
    count: int, frames: int, sampler: str, *, times: Sequence[float] | None = None, fps: float | None = None
) -> list[int]:
    """Choose frames of a clip.

    ``linspace-floor`` spreads the frames from the first to the last and rounds down, as thinking-in-space and lmms-eval
    do; ``linspace-round`` rounds to the nearest, half to even, as qwen-vl-utils does; ``chunk-center`` takes the middle
    of equal parts. ``fps`` takes the frame nearest to each tick of a clock that starts with the first frame, and where
    that gives more than ``frames``, thins the ticks out by ``linspace-floor``.

    A clip with fewer frames than asked repeats some, as decord readers do, so that the number of frames that a model
    sees does not depend on the clip. Only ``fps`` may return fewer than asked.

    Args:
        count: Frames of the clip, at least 1.
        frames: Frames to take, at least 1; for ``fps`` the most to take.
        sampler: One of :data:`SAMPLERS`.
        times: Seconds of each frame, ascending; needed by ``fps``.
        fps: Frames a second for ``fps``; 1 by default.

    Returns:
        Frame numbers, ascending.

    Raises:
        UsageError: For an unknown sampler, or numbers that make no sense.
        ValueError: For an empty clip, or times that do not fit it.

    >>> sample_indices(10, 4, "linspace-floor"), sample_indices(10, 4, "chunk-center")
    ([0, 3, 6, 9], [1, 3, 6, 8])
    >>> sample_indices(3, 8, "linspace-floor")
    [0, 0, 0, 0, 1, 1, 1, 2]
    """
    _check_request(frames, sampler, fps)
    if count < 1:
        raise ValueError("a clip without frames")
    if sampler == "fps":
        if times is None or len(times) != count:
            raise ValueError("the sampler fps needs the time of each frame")
        return _on_the_clock(np.asarray(times, dtype=np.float64), frames, 1.0 if fps is None else fps)
    if sampler == "chunk-center":
        return [(2 * part + 1) * count // (2 * frames) for part in range(frames)]
    # By numpy and not by whole numbers: its last bits decide which frames the reference harnesses see.
    spread = np.linspace(0, count - 1, frames)
    if sampler == "linspace-round":
        spread = np.round(spread)
    return [int(index) for index in spread]


def _check_request(frames: int, sampler: str, fps: float | None) -> None:
    if sampler not in SAMPLERS:
        near = get_close_matches(sampler, SAMPLERS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(SAMPLERS)}"
        raise UsageError(f"unknown frame sampler {sampler!r}", hint)
    if frames < 1:
        raise UsageError(f"{frames} frames asked of a clip; at least 1 is needed")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"{fps} frames a second is not a rate")


def _on_the_clock(times: npt.NDArray[np.float64], frames: int, fps: float) -> list[int]:
    # A millisecond of slack: Matroska rounds its times to that.
    ticks = math.floor((times[-1] - times[0] + 1e-3) * fps) + 1
    chosen = range(ticks) if ticks <= frames else sample_indices(ticks, frames, SAMPLERS[0])
    marks = times[0] + np.asarray(chosen, dtype=np.float64) / fps
    after = np.clip(np.searchsorted(times, marks), 1, len(times) - 1) if len(times) > 1 else np.zeros(len(marks), int)
    before = np.maximum(after - 1, 0)
    nearest = np.where(times[after] - marks < marks - times[before], after, before)
    return [int(index) for index in nearest]


def probe(path: str | Path) -> VideoInfo:
    """Describe a clip without reading more of it than needed.

    Raises:
        DataError: Where the file is missing, no video, or damaged beyond its first frame.
    """
    path = _clip_path(path)
    timeline = plan.read_timeline(path)
    faults = plan.Faults()
    for _, frame, _ in plan.decode_frames(path, timeline, [0], 1, faults):
        return _info(path, timeline, frame, damaged=bool(faults))
    raise DataError(f"{path} is damaged: its first frame could not be decoded")


def read_frames(
    path: str | Path,
    frames: int,
    sampler: str = SAMPLERS[0],
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    threads: int = 1,
) -> Frames:
    """Read frames of a video file.

    A frame that damage has destroyed is replaced by the nearest one before it that can be decoded; ``notes`` says so.
    Frames of a clip that changes its size on the way are brought to the first one's.

    Args:
        path: The video.
        frames: How many frames, see :func:`sample_indices`.
        sampler: One of :data:`SAMPLERS`.
        size: Width and height of the images, as shown; scaled by bicubic interpolation straight from the coded
            colours. The clip's own by default.
        fps: Frames a second for the sampler ``fps``.
        threads: Decoding threads. One is best where several clips are read at once.

    Raises:
        UsageError: For an unknown sampler or a request that makes no sense.
        DataError: Where the file is missing, empty, no video, without frames, or too large.
    """
    return _read_sets(path, [frames], sampler, size=size, fps=fps, threads=threads)[0]


def _read_sets(
    path: str | Path,
    counts: Sequence[int],
    sampler: str,
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    threads: int = 1,
    keep: Keep | None = None,
) -> list[Frames]:
    for frames in counts:
        _check_request(frames, sampler, fps)
    if threads < 1:
        raise UsageError(f"{threads} decoding threads; at least 1 is needed")
    if size is not None and not (min(size) >= 1 and max(size) <= plan.MAX_SIDE):
        raise UsageError(f"a picture of {size[0]} × {size[1]} pixels cannot be made")
    path = _clip_path(path)
    timeline = plan.read_timeline(path, threads)
    count = len(timeline.times)
    sets = [sample_indices(count, frames, sampler, times=timeline.times, fps=fps) for frames in counts]
    wanted = set().union(*sets)

    faults = plan.Faults()
    images: dict[int, tuple[Image, Any]] = {}
    info: VideoInfo | None = None
    lost: set[int] = set()
    for number, frame, exact in plan.decode_frames(path, timeline, sorted(wanted), threads, faults):
        info = info or _info(path, timeline, frame)
        image = _to_rgb(frame, size or (info.width, info.height))
        images[number] = keep(info, number, image) if keep else (image, None)
        if not exact:
            lost.add(number)
    if info is None:
        raise DataError(f"{path} is damaged: none of its frames could be decoded")
    for number in wanted - images.keys():
        lost.add(number)
        images[number] = images[min((abs(other - number), other) for other in images)[1]]
    found = []
    for frames, indices in zip(counts, sets, strict=True):
        notes = list(timeline.notes)
        notes += [_repeats(frames, count)] if frames > count and len(indices) > len(set(indices)) else []
        notes += [note for note in faults.notes() if note not in notes]
        if missing := lost.intersection(indices):
            notes.append(f"lost, with the nearest in their place: frames {', '.join(map(str, sorted(missing)))}")
        damaged = timeline.damaged or bool(faults or missing)
        found.append(
            Frames(
                images=[images[number][0] for number in indices],
                indices=indices,
                times=[timeline.times[number] for number in indices],
                info=replace(info, damaged=damaged),
                damaged=damaged,
                notes=notes,
                made=[images[number][1] for number in indices] if keep else [],
            )
        )
    return found


def _repeats(frames: int, count: int) -> str:
    return f"{frames} frames asked of a clip of {count}: some are repeated"


def _clip_path(path: str | Path) -> Path:
    path = Path(path)
    status = _status(path)
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder, not a video")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not an ordinary file")
    if status.st_size == 0:
        raise DataError(f"{path} is empty", "copy or download it again")
    return path


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None


def _turns(frame: VideoFrame) -> int:
    return round(frame.rotation / 90) % 4


def _info(path: Path, timeline: plan.Timeline, frame: VideoFrame, *, damaged: bool = False) -> VideoInfo:
    turns = _turns(frame)
    plan.check_size(path, frame.width, frame.height)
    count = len(timeline.times)
    return VideoInfo(
        width=frame.height if turns % 2 else frame.width,
        height=frame.width if turns % 2 else frame.height,
        frames=count,
        duration=timeline.duration,
        rate=count / timeline.duration if timeline.duration > 0 else 0.0,
        codec=timeline.codec,
        rotation=90 * turns,
        damaged=damaged or timeline.damaged,
    )


def _to_rgb(frame: VideoFrame, size: tuple[int, int]) -> Image:
    from av.video.reformatter import Interpolation

    turns = _turns(frame)
    width, height = size[::-1] if turns % 2 else size
    rgb: Any = frame.reformat(width, height, "rgb24", interpolation=Interpolation.BICUBIC, threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, turns))


def read_folder(path: str | Path, frames: int, sampler: str = SAMPLERS[0], *, fps: float | None = None) -> Frames:
    """Read frames of a folder of images, taken as a clip of one frame a second.

    Images (jpg, png) are ordered by name, numbers in names by value: ``2.jpg`` comes before ``10.jpg``. Names that
    start with a dot are left out. An orientation stored in the file is applied. Each image keeps its own size.

    Raises:
        UsageError: For an unknown sampler or a request that makes no sense.
        DataError: Where the folder is missing or without images, or an image cannot be read.
    """
    return _read_folder_sets(path, [frames], sampler, fps=fps)[0]


def _read_folder_sets(
    path: str | Path, counts: Sequence[int], sampler: str, *, fps: float | None = None, keep: Keep | None = None
) -> list[Frames]:
    for frames in counts:
        _check_request(frames, sampler, fps)
    path = Path(path)
    files = _pictures_of(path)
    sets = [sample_indices(len(files), frames, sampler, times=range(len(files)), fps=fps) for frames in counts]
    first = read_image(files[sets[0][0]])
    height, width, _ = first.shape
    info = VideoInfo(width, height, len(files), float(len(files)), 1.0, "images")
    images: dict[int, tuple[Image, Any]] = {}
    for number in sorted(set().union(*sets)):
        image = first if number == sets[0][0] else read_image(files[number])
        images[number] = keep(info, number, image) if keep else (image, None)
    return [
        Frames(
            images=[images[number][0] for number in indices],
            indices=indices,
            times=[float(number) for number in indices],
            info=info,
            notes=[_repeats(frames, len(files))] if frames > len(files) and len(indices) > len(set(indices)) else [],
            made=[images[number][1] for number in indices] if keep else [],
        )
        for frames, indices in zip(counts, sets, strict=True)
    ]


def _pictures_of(path: Path) -> list[Path]:
    """The images of a folder, in their order."""
    if not stat.S_ISDIR(_status(path).st_mode):
        raise DataError(f"{path} is not a folder")
    try:
        listed = list(path.iterdir())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    files = [file for file in listed if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")]
    if not files:
        raise DataError(f"{path} holds no images", "frames are read from .jpg, .jpeg and .png files")
    return sorted(files, key=by_number)


def by_number(file: Path) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts names by the numbers in them: ``2.jpg`` before ``10.jpg``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", file.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], file.name


def open_video(path: str | Path, frames: int, sampler: str = SAMPLERS[0], *, fps: float | None = None) -> Frames:
    """Read frames of a video file or of a folder of images; see :func:`read_frames` and :func:`read_folder`."""
    read = read_folder if stat.S_ISDIR(_status(Path(path)).st_mode) else read_frames
    return read(path, frames, sampler, fps=fps)


def open_video_sets(
    path: str | Path,
    counts: Sequence[int],
    sampler: str = SAMPLERS[0],
    *,
    fps: float | None = None,
    keep: Keep | None = None,
) -> list[Frames]:
    """Several samplings of one clip, for which every frame is decoded once at most.

    Args:
        path: A video file or a folder of images.
        counts: Frames of each sampling, see :func:`sample_indices`.
        sampler: One of :data:`SAMPLERS`.
        fps: Frames a second for the sampler ``fps``.
        keep: What is kept of each frame, called as soon as it is read; by default the whole frame. Where only a
            smaller copy is kept, memory grows with that.

    Returns:
        What :func:`open_video` returns for each count; frames that two of them share are the same array.

    Raises:
        UsageError: For an unknown sampler or a request that makes no sense.
        DataError: Where the clip cannot be read.
    """
    read = _read_folder_sets if stat.S_ISDIR(_status(Path(path)).st_mode) else _read_sets
    return read(path, counts, sampler, fps=fps, keep=keep)


def stream_frames(
    path: str | Path,
    choose: Callable[[Sequence[float]], Sequence[int]],
    *,
    size: tuple[int, int] | None = None,
) -> Iterator[tuple[int, float, Image]]:
    """The chosen frames of a clip one after the other: memory does not grow with the clip.

    A frame that damage has destroyed is left out.

    Args:
        path: A video file or a folder of images.
        choose: From the time of every frame in seconds to the numbers of those wanted, ascending.
        size: Width and height of the images, as shown; the first frame's own by default.

    Yields:
        Frame number, its time in seconds, and the image.

    Raises:
        DataError: Where the clip cannot be read.
    """
    if stat.S_ISDIR(_status(Path(path)).st_mode):
        files = _pictures_of(Path(path))
        for number in choose([float(second) for second in range(len(files))]):
            image = resized(read_image(files[number]), size)
            size = size or (image.shape[1], image.shape[0])
            yield number, float(number), image
        return
    path = _clip_path(path)
    timeline = plan.read_timeline(path)
    last = -1
    for number, frame, exact in plan.decode_frames(path, timeline, list(choose(timeline.times)), 1, plan.Faults()):
        if not exact or number <= last:  # found late, in a second reading: its place is past
            continue
        last = number
        if size is None:
            info = _info(path, timeline, frame)
            size = info.width, info.height
        yield number, timeline.times[number], _to_rgb(frame, size)


def write_mp4(path: str | Path, images: Iterable[Image], fps: float, *, crf: int = 20) -> None:
    """Write images as an mp4 that browsers play: H.264, yuv420p, BT.709 colours, index in front.

    The file appears whole or not at all, and the same images give the same bytes with the same PyAV. Odd sizes grow
    by one pixel, a copy of the edge, since yuv420p needs even ones.

    Args:
        path: The file to write.
        images: At least one array of shape (H, W, 3), RGB, uint8, all of one size.
        fps: Frames a second.
        crf: Quality from 0 (lossless but for the colour conversion) to 51 (worst).

    Raises:
        UsageError: For a rate or quality out of range.
        DataError: For no images, images of several sizes or too large, or a folder that cannot be written.
        SetupError: Where this PyAV has no H.264 encoder.
    """
    _write(Path(path), ((None, image) for image in images), fps, crf, "medium")


def write_timed_mp4(
    path: str | Path,
    frames: Iterable[tuple[float, Image]],
    fps: float,
    *,
    crf: int = 20,
    preset: Literal["medium", "veryfast"] = "medium",
) -> None:
    """:func:`write_mp4` for images with a time each, for clips whose rate varies. They are taken one by one.

    Args:
        path: The file to write.
        frames: Seconds, ascending, and image. The first one is shown from the start on.
        fps: Frames a second about: the encoder's guide, and how long the last frame stands.
        crf: Quality.
        preset: How hard the encoder tries; ``veryfast`` is three times as fast and makes larger files.

    Raises:
        UsageError: For a rate or quality out of range.
        DataError: As :func:`write_mp4`, or for times that do not ascend.
        SetupError: Where this PyAV has no H.264 encoder.
    """
    _write(Path(path), frames, fps, crf, preset)


def _write(path: Path, frames: Iterable[tuple[float | None, Image]], fps: float, crf: int, preset: str) -> None:
    import av

    rate = Fraction(fps).limit_denominator(1001) if math.isfinite(fps) else Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError(f"{fps} frames a second is not a rate that can be written")
    if not 0 <= crf <= 51:
        raise UsageError(f"crf {crf} is not between 0 and 51")
    if "libx264" not in av.codecs_available:
        raise SetupError("this PyAV has no H.264 encoder", "pip install --force-reinstall --only-binary :all: av")
    stream_of = iter(frames)
    first = next(stream_of, None)
    if first is None:
        raise DataError(f"{path}: a clip needs at least one image")
    options = {"crf": str(crf), "mbtree": "0"} | ({"preset": preset} if preset != "medium" else {})
    with atomic_path(path) as temporary:
        _encode(temporary, path, first, chain([first], stream_of), rate, options)


def _encode(
    temporary: Path,
    path: Path,
    first: tuple[float | None, Image],
    frames: Iterable[tuple[float | None, Image]],
    rate: Fraction,
    options: dict[str, str],
) -> None:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

    av.logging.set_level(None)
    begin, example = first
    _check_image(path, 0, example, example.shape)
    height, width, _ = example.shape
    plan.check_size(path, width, height)
    # The temporary name has no suffix that would tell the container.
    flags = {"movflags": "faststart", "fflags": "+bitexact"}
    with av.open(f"file:{temporary.absolute()}", "w", format="mp4", options=flags) as container:
        # The macroblock tree of x264 (core 165, AVX-512) gives other bytes from run to run, even on one thread.
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.colorspace = Colorspace.ITU709.value
        context.color_range = ColorRange.MPEG.value
        context.color_primaries = ColorPrimaries.BT709.value
        context.color_trc = ColorTrc.BT709.value
        if begin is not None:
            context.time_base = _CLOCK
        last = -1
        for number, (seconds, image) in enumerate(frames):
            _check_image(path, number, image, example.shape)
            even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.BICUBIC,
                threads=1,
            )
            if seconds is not None:
                frame.pts, frame.time_base = round((seconds - (begin or 0)) / _CLOCK), _CLOCK
                frame.duration = round(1 / rate / _CLOCK)
                if frame.pts <= last:
                    raise DataError(f"{path}: image {number} comes at {seconds:g} s, not after the one before it")
                last = frame.pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _check_image(path: Path, number: int, image: Image, shape: tuple[int, ...]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise DataError(f"{path}: image {number} is {image.dtype} of shape {image.shape}, not uint8 (H, W, 3)")
    if image.shape != shape:
        raise DataError(f"{path}: image {number} has the shape {image.shape}, the first one {shape}")
