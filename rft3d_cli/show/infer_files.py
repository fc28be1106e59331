"""Where answers come from and go to: the videos of a folder, and a folder of files that appear together."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rft3d_cli.errors import DataError
from rft3d_cli.files import check_place
from rft3d_cli.show.answer import named
from rft3d_cli.video import IMAGE_SUFFIXES, by_number

ANSWER, ANSWERS, MOVIE, PAGE, RERUN = "answer.json", "answers.json", "video.mp4", "scene.html", "scene.rrd"
VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".gif"]
)
"""What is taken for a video in a folder; a file that is named by itself may be called anything."""
ANY_VIDEO = "name a video file, a folder of .jpg or .png frames, or a folder of videos"

_OURS = re.compile(r"frame\d+(-\d+)?\.png|video\.mp4|scene\.html|scene\.rrd")


def find_videos(place: Path) -> list[Path]:
    """The videos that a path stands for: itself, or the files of a folder that holds videos and no frames.

    Raises:
        DataError: Where there is nothing, or a folder of neither.
    """
    if not place.exists():
        raise DataError(f"{place} does not exist", ANY_VIDEO)
    if not place.is_dir():
        return [place]
    try:
        files = [file for file in place.iterdir() if file.is_file() and not file.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}") from None
    if any(file.suffix.lower() in IMAGE_SUFFIXES for file in files):
        return [place]
    videos = sorted((file for file in files if file.suffix.lower() in VIDEO_SUFFIXES), key=by_number)
    if not videos:
        raise DataError(f"{place} holds neither frames nor videos", ANY_VIDEO)
    return videos


def is_collection(place: Path, videos: Sequence[Path]) -> bool:
    """Whether a path stands for a folder of videos."""
    return list(videos) != [place]


def folder_names(videos: Sequence[Path]) -> list[str]:
    """A folder's name for each video: its own without the ending, unless another one has the same.

    >>> folder_names([Path("v/a.mp4"), Path("v/b.mp4"), Path("v/b.mov")])
    ['a', 'b.mp4', 'b.mov']
    """
    stems = [named(video).stem.casefold() for video in videos]
    return [
        video.name if stems.count(stem) > 1 else named(video).stem for video, stem in zip(videos, stems, strict=True)
    ]


def check_out(out: Path) -> None:
    """Try that answers can be written into a folder.

    Raises:
        DataError: Where it is a file, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, where a folder would be written", "name another folder: --out")
    check_place(out / ANSWER)


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder whose files move into ``out`` when the block ends well, ``answer.json`` last.

    Pictures that an earlier answer left there and this one does not have are removed. Where the block raises, ``out``
    is as it was.

    Raises:
        DataError: Where ``out`` cannot be written.
    """
    fresh = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".answer.", suffix=".tmp", dir=out))
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}", "name another folder: --out") from None
    try:
        yield work
        files = sorted(work.iterdir(), key=lambda file: (file.name == ANSWER, file.name))
        for name in _earlier(out / ANSWER) - {file.name for file in files}:
            with suppress(FileNotFoundError):
                (out / name).unlink()
        for file in files:
            if (target := out / file.name).is_dir():
                raise DataError(f"{target} is a folder, where a file would be written", "name another folder: --out")
            file.replace(target)
        work.rmdir()
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        if fresh:
            with suppress(OSError):
                out.rmdir()
        raise


def _earlier(answer: Path) -> set[str]:
    """Names of the pictures that an earlier ``answer.json`` speaks of, where they are such as we write."""
    try:
        files = json.loads(answer.read_text(encoding="utf-8"))["files"]
        names = {Path(file).name for file in files if isinstance(file, str)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    return {name for name in names if _OURS.fullmatch(name)}
