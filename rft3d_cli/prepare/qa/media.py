"""The media of a row as a record's video."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from rft3d_cli.prepare.conversations import RowError
from rft3d_cli.prepare.pipeline import Store
from rft3d_cli.samplers import Sampler
from rft3d_cli.video import sample_indices

_VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm")
_PICTURES = (".jpg", ".jpeg", ".png")


def video_of(media: tuple[str, ...], clip: bool, store: Store, frames: int, sampler: Sampler) -> dict[str, Any]:
    """The video of a record: a clip, some frames of a folder, or the images as they are.

    Args:
        media: As the row names them.
        clip: Whether they are one video or folder.
        store: Where they lie.
        frames: How many to take of a clip or folder; images are taken all.
        sampler: How.

    Raises:
        RowError: Where there is nothing to take.
    """
    if not clip:
        return {"frames": [store.name(name) for name in media]}
    (name,) = media
    path = store.folder / name
    if path.is_dir():
        pictures = pictures_in(path)
        if not pictures:
            raise RowError("no images", f"{name} holds none")
        chosen = sorted({int(i) for i in sample_indices(len(pictures), frames, sampler)})
        return {"frames": [store.name(f"{name}/{pictures[i]}") for i in chosen]}
    if path.suffix.lower() in _PICTURES:
        return {"frames": [store.name(name)]}
    if path.suffix.lower() not in _VIDEOS:
        raise RowError("wrong media path", f"{name} is neither a video nor a folder of frames")
    return {"path": store.name(name), "frames": frames, "sampler": sampler}


@lru_cache(maxsize=256)  # many questions are about one folder; each stretch of rows looks anew
def pictures_in(folder: Path) -> tuple[str, ...]:
    """The names of a folder's frames, in their order."""
    names = [file.name for file in folder.iterdir() if file.suffix.lower() in _PICTURES]
    # frame-2 comes before frame-10.
    return tuple(sorted(names, key=lambda name: [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", name)]))
