"""Videos of VG-LLM's files, with the frames that its training loader takes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rft3d_cli.errors import DataError
from rft3d_cli.prepare.conversations import RowError
from rft3d_cli.prepare.pipeline import Store
from rft3d_cli.prompts import IMAGE

VIDEO = "<video>"
FEWEST, MOST, SECONDS = 4, 8, 2.0
"""Frames that the loader takes: one every two seconds, but no fewer and no more than these."""
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def loader_frames(count: int, seconds: float) -> list[int]:
    """The frames that VG-LLM's loader takes of a video.

    Args:
        count: Frames of the video.
        seconds: Its length; a folder of frames has one a second.

    >>> loader_frames(30, 30.0), loader_frames(3, 3.0)
    ([0, 4, 8, 12, 16, 20, 24, 29], [0, 1, 2])
    """
    wanted = min(max(round(seconds / SECONDS), FEWEST), MOST)
    return sorted({int(x) for x in np.linspace(0, count - 1, wanted)})


def video_of(name: str, prompt: str, store: Store) -> tuple[dict[str, Any], str]:
    """The video of a row and its prompt: as many marks as frames, or none where they come first anyway.

    Args:
        name: A video file, or a folder of frames.
        prompt: As stored, with one ``<video>`` or ``<image>``, or none.
        store: The media folder.

    Returns:
        A record's ``video`` and ``prompt``.

    Raises:
        RowError: Where the video or its mark in the prompt are of no use.
    """
    path = store.folder / name
    marks = [mark for mark in (VIDEO, IMAGE) if mark in prompt]
    if sum(prompt.count(mark) for mark in marks) > 1:
        raise RowError("wrong prompt", "more than one mark for one video")
    video: dict[str, Any]
    if path.is_dir():
        files = sorted(f.name for f in path.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not files:
            raise RowError("no images", f"{name} holds none")
        chosen = loader_frames(len(files), float(len(files)))
        video = {"frames": [store.name(f"{name}/{files[i]}") for i in chosen], "times": [float(i) for i in chosen]}
    elif path.suffix.lower() in _VIDEOS:
        from rft3d_cli.video import probe

        try:
            info = probe(path)
        except DataError as error:
            raise RowError("damaged video", error.message) from None
        chosen = loader_frames(info.frames, info.duration)
        video = {"path": store.name(name), "frames": len(chosen), "sampler": "linspace-floor"}
    else:
        raise RowError("wrong media path", f"{name} is neither a video nor a folder of frames")
    for mark in marks:
        if prompt.startswith(mark):
            # Frames come first where no mark says otherwise, and then a recipe may ask for more or fewer of a clip.
            prompt = prompt.removeprefix(mark).removeprefix("\n")
        else:
            prompt = prompt.replace(mark, IMAGE * len(chosen))
    if not prompt.strip():
        raise RowError("wrong prompt", "no words")
    return video, prompt
