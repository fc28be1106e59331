"""Where answers come from and go to: the videos of a folder, and a folder of files that appear together."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from rft3d_cli.errors import DataError, UsageError
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

    No two are the same, also where the disk takes upper and lower case for one, and none is ``answers.json``.

    >>> folder_names([Path("v/a.mp4"), Path("v/b.mp4"), Path("v/b.mov")])
    ['a', 'b.mp4', 'b.mov']
    """
    names = [own_name(video) for video in videos]
    while True:
        # A whole name may be the stem of a third video, so that one round is not enough.
        uses = Counter([ANSWERS, *map(_on_disk, names)])
        longer = [v.name if uses[_on_disk(name)] > 1 else name for v, name in zip(videos, names, strict=True)]
        if longer == names:
            break
        names = longer
    taken = {ANSWERS} | {_on_disk(name) for name in names if uses[_on_disk(name)] == 1}
    for at, name in enumerate(names):
        if uses[_on_disk(name)] > 1:  # their whole names differ by case alone
            tails = (f"{name}-{number}" for number in count(2))
            names[at] = next(new for new in chain([name], tails) if _on_disk(new) not in taken)
            taken.add(_on_disk(names[at]))
    return names


def own_name(video: Path) -> str:
    """A video's name without its ending, where that leaves a name: of ``...mp4`` it would leave ``..``.

    >>> own_name(Path("v/a.b.mp4")), own_name(Path("...mp4"))
    ('a.b', '...mp4')
    """
    video = named(video)
    return video.stem if video.stem.strip(". ") else video.name


def _on_disk(name: str) -> str:
    """What two names share that some disk takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def check_out(out: Path) -> None:
    """Try that answers can be written into a folder.

    Raises:
        DataError: Where it is a file, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, where a folder would be written", "name another folder: --out")
    check_place(out / ANSWER)


def check_replaced(out: Path, written: Callable[[str], bool]) -> None:
    """Refuse to write answers over files that no earlier answer of ours speaks of.

    Args:
        out: The folder of one video's answers.
        written: Whether a file of a name may be written.

    Raises:
        UsageError: Where such a file is there.
        DataError: Where the folder cannot be read.
    """
    if not out.is_dir():
        return
    try:
        there = {file.name for file in out.iterdir()}
    except OSError as error:
        raise DataError(f"{out} cannot be read: {error.strerror}", "name another folder: --out") from None
    ours = _earlier(out / ANSWER)
    others = {name for name in there if _OURS.fullmatch(name) and written(name)} - (ours or set())
    others |= {ANSWER} & there if ours is None else set()
    _refuse(out, others)


def check_index(out: Path) -> None:
    """Refuse to write over an ``answers.json`` that is not ours.

    Raises:
        UsageError: Where such a file is there.
    """
    if (out / ANSWERS).exists() and not isinstance(_document(out / ANSWERS).get("videos"), list):
        _refuse(out, {ANSWERS})


def _refuse(out: Path, names: set[str]) -> None:
    if names:
        listed = sorted(names)
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        raise UsageError(
            f"{out} holds {', '.join(listed[:3])}{more}, which no earlier answer wrote and this one would replace",
            "name another folder: --out",
        )


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
        for name in (_earlier(out / ANSWER) or set()) - {file.name for file in files}:
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


def _earlier(answer: Path) -> set[str] | None:
    """Names of the pictures that an earlier ``answer.json`` speaks of; None where there is no such file of ours."""
    known = _document(answer)
    files = known.get("files")
    if not isinstance(files, list) or not isinstance(known.get("answers"), list):
        return None
    names = {Path(file).name for file in files if isinstance(file, str)}
    return {name for name in names if _OURS.fullmatch(name)}


def _document(path: Path) -> dict[str, Any]:
    """A JSON object of ours, which names its ``schema``; empty where the file holds anything else."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) and "schema" in known else {}
