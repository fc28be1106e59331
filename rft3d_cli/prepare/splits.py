"""Which scenes of a source to use, and what the split is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rft3d_cli.errors import DataError
from rft3d_cli.lines import read_lines

SPLITS = ("train", "val", "test")
_IN_NAME = re.compile(r"(?:^|[^a-z])(train|val|test)(?:[^a-z]|$)")


@dataclass(frozen=True)
class Split:
    """A choice of scenes.

    Args:
        name: ``train``, ``val`` or ``test``; goes into the records' ``meta``.
        scenes: The scenes to use, in that order of the source; None for all.
        file: Where they were listed.
    """

    name: str
    scenes: tuple[str, ...] | None = None
    file: Path | None = None


def resolve_split(value: str | None, *sources: Path | None) -> Split:
    """A ``--split`` option.

    Args:
        value: ``train``, ``val`` or ``test``; a text file with one scene a line; or None.
        sources: Input files; where the option does not name the split, the first name that contains one does.

    Raises:
        DataError: Where the file is missing or empty.
    """
    if value in SPLITS:
        return Split(str(value))
    if value is None:
        return Split(_guess(*sources))
    path = Path(value)
    scenes = tuple(dict.fromkeys(line.strip() for _, line in read_lines(path)))
    if not scenes:
        raise DataError(f"{path} names no scenes", "one scene a line, as in scannetv2_train.txt")
    return Split(_guess(path, *sources), scenes, path)


def _guess(*sources: Path | None) -> str:
    for path in sources:
        found = None if path is None else _IN_NAME.search(path.name.lower())
        if found is not None:
            return found[1]
    return "train"


def chosen(split: Split, available: Sequence[str], where: str) -> list[str]:
    """The scenes to work on, in the source's order.

    Raises:
        DataError: Where the split names scenes that the source does not have.
    """
    if split.scenes is None:
        return list(available)
    missing = sorted(set(split.scenes) - set(available))
    if missing:
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise DataError(f"{split.file} names {len(missing):,} scenes that {where} does not have: {some}")
    wanted = set(split.scenes)
    return [name for name in available if name in wanted]
