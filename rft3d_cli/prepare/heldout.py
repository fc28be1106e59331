"""Scenes that the field evaluates on: records of a train split leave them out.

The names lie beside this file, in ``evaluated/``: ScanNet's val split (312 scans), the 138 scenes of VSI-Bench that
come from ScanNet (88) and ScanNet++ (50, its val split), and the 549 videos of ARKitScenes' validation split, in which
VSI-Bench's other 150 lie. Lists of one's own join them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rft3d_cli.errors import DataError
from rft3d_cli.records import Meta, read_lines

PUBLISHED = {"VSI-Bench": "vsibench.txt", "ScanNet val": "scannet-val.txt", "ARKitScenes val": "arkitscenes-val.txt"}
"""Lists that ship, by what they are called in a reason. The first that holds a scene names it."""
REASON = "evaluation scene: "
"""How the reason of a reject starts."""
ROOMS = "rooms.card.json"
"""A file beside synthetic rooms, whose names are in ScanNet's form."""
DATASET = "rooms"
"""What questions about those are from."""
CHECKED = "train"
"""The split whose records are looked at."""

FORMS = "one scene a line, VSI-Bench's test.jsonl, or a record file"
"""What a list of one's own looks like."""
TABLES = (".csv", ".tsv")
"""What it is not."""

_FOLDER = Path(__file__).with_name("evaluated")
_SCANNET = re.compile(r"scene(\d{4})(?:_\d{2})?(?![0-9])")
_WORD = re.compile(r"[0-9a-z]+")
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")


@dataclass(frozen=True)
class HeldOut:
    """Which scenes are kept out of a train split.

    Args:
        files: Lists of one's own; see :func:`read_scenes`.
        published: Whether the lists that ship count.
        allow: Whether all records are kept.
    """

    files: tuple[Path, ...] = ()
    published: bool = True
    allow: bool = False

    def source(self, scene: str | None, split: str | None) -> str | None:
        """Who evaluates on a scene of the train split; None where nobody does, or where that is allowed.

        Args:
            scene: As in a record's ``meta``: a name, or a path with one in it.
            split: As there.

        >>> HeldOut().source("scannet/scene0011_00.mp4", "train"), HeldOut().source("scene0011_00", "val")
        ('ScanNet val', None)
        """
        if self.allow or split != CHECKED or not scene:
            return None
        return _source(scene, self.files, self.published)

    def of(self, meta: Meta, split: str | None = None, media: Iterable[str] = ()) -> str | None:
        """Who evaluates on the scene of a record, likewise.

        Args:
            meta: The record's.
            split: What the record is used for; by default what it says.
            media: Paths of its video, of which any part may name the scene where ``meta`` does not.

        >>> HeldOut().of(Meta(split="train"), media=["arkitscenes/41069021/0.png"])
        'ARKitScenes val'
        """
        known = replace(self, published=False) if meta.dataset == DATASET else self
        used = split or meta.split
        if meta.scene or self.allow or used != CHECKED:
            return known.source(meta.scene, used)
        return next((whose for path in media if (whose := known.source(path, used)) is not None), None)

    def check(self) -> None:
        """Read the lists.

        Raises:
            DataError: Where one of one's own cannot be read or names no scene.
        """
        _own(self.files)


@lru_cache(maxsize=4096)
def _source(scene: str, files: tuple[Path, ...], published: bool) -> str | None:
    for file, names, endings in _own(files):
        if _room(scene) in names or (own := _plain(scene)) in endings or any(part in names for part in _parts(own)):
            return file.name
    if published:
        known = _published()
        found = _SCANNET.search(scene)
        words = [found[0][:9]] if found else _WORD.findall(scene.lower())
        return next((known[word] for word in words if word in known), None)
    return None


@lru_cache(maxsize=1)
def _published() -> dict[str, str]:
    """Who evaluates on it, by scene; ScanNet's are named by room, because its scans of a room are of one split."""
    known: dict[str, str] = {}
    for name, file in PUBLISHED.items():
        for scene in (_FOLDER / file).read_text(encoding="utf-8").split():
            known.setdefault(_room(scene) or scene, name)
    return known


@lru_cache(maxsize=8)
def _own(files: tuple[Path, ...]) -> list[tuple[Path, frozenset[str], frozenset[str]]]:
    """Each list with its scenes, ScanNet's by room and others whole, and with the ends of those that are paths."""
    out = []
    for file in files:
        scenes = read_scenes(file)
        rooms = {room for scene in scenes if (room := _room(scene)) is not None}
        others = {_plain(scene) for scene in scenes if _room(scene) is None}
        out.append((file, frozenset(rooms | others), frozenset(end for name in others for end in _endings(name))))
    return out


def _room(scene: str) -> str | None:
    """``scene0011`` of a scan of ScanNet, however it is named."""
    found = _SCANNET.search(scene)
    return found and f"scene{found[1]}"


def _plain(scene: str) -> str:
    """A path with ``/``, without the suffix of a file."""
    return _SUFFIX.sub("", scene.strip().strip("/").replace("\\", "/"))


def _endings(name: str) -> Iterator[str]:
    """``a/b/c``, ``b/c`` and ``c``."""
    while name:
        yield name
        name = name.partition("/")[2]


def _parts(name: str) -> Iterator[str]:
    """Of ``a/b/c`` all that stands together: ``a/b/c``, ``b/c``, ``c``, ``a/b``, ``b`` and ``a``."""
    while name:
        yield from _endings(name)
        name = name.rpartition("/")[0]


def read_scenes(path: Path) -> list[str]:
    """The scenes that a file names.

    Args:
        path: A text file with one scene a line, VSI-Bench's questions (``.jsonl`` or ``.parquet``), a record file, or a
            JSON list of ScanRefer's descriptions.

    Raises:
        DataError: Where it cannot be read or names no scene.
    """
    found = list(dict.fromkeys(str(scene) for scene in _scenes(path) if scene))
    if not found:
        raise DataError(f"{path} names no scenes", FORMS)
    return found


def _scenes(path: Path) -> Iterable[Any]:
    if path.suffix.lower() in TABLES:
        # Its lines would be names of nothing.
        raise DataError(f"{path} is a table", f"write the scenes to leave out to a text file: {FORMS}")
    if path.suffix == ".parquet":
        from rft3d_cli.prepare.vsibench import read_questions

        return [_scene(path, number, row) for number, row in enumerate(read_questions(path), 1)]
    lines = list(read_lines(path))
    if lines and lines[0][1].lstrip()[:1] == "[":
        try:
            rows = json.loads("".join(line for _, line in lines))
        except (ValueError, RecursionError):
            raise DataError(f"{path} is not JSON, though it starts like a list") from None
        return [_scene(path, number, row) for number, row in enumerate(rows, 1)]
    if not any(line.lstrip()[:1] == "{" for _, line in lines):
        return [line.strip() for _, line in lines]
    out = []
    for number, line in lines:
        try:
            out.append(_scene(path, number, json.loads(line)))
        except (ValueError, RecursionError):
            raise DataError(f"{path} line {number}: not JSON") from None
    return out


def _scene(path: Path, number: int, row: Any) -> Any:
    if not isinstance(row, Mapping):
        raise DataError(f"{path} entry {number} is not an object")
    meta = row.get("meta")
    inner = meta.get("scene") if isinstance(meta, Mapping) else None
    return inner or row.get("scene_name") or row.get("scene_id") or row.get("scene")


def synthetic(paths: Iterable[Path | str]) -> bool:
    """Whether one of the paths lies in a data set of synthetic rooms: their scenes only look like ScanNet's by name.

    Args:
        paths: Files and folders, or any other words: those are looked up like a file that is not there.
    """
    for path in map(Path, paths):
        try:
            if any((folder / ROOMS).is_file() for folder in (path, *path.parents[:3])):
                return True
        except (OSError, ValueError):
            continue
    return False
