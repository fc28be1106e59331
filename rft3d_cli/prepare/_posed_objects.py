"""The objects of a scan in the posed layout: ``boxes.json`` and ``descriptions.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from rft3d_cli.geometry.boxes import Boxes3D, Floats, angles_from_rotation
from rft3d_cli.prepare._posed_checks import RIGID, Known, load, rotation_fault
from rft3d_cli.prepare.pipeline import Quarantine
from rft3d_cli.prompts import FORBIDDEN, IMAGE
from rft3d_cli.records import Finite, Id, Label, Matrix3, describe

Vector = tuple[Finite, Finite, Finite]


class _Box(Known):
    label: Label
    bbox_3d: Annotated[list[Finite], Field(min_length=9, max_length=9)] | None = None
    center: Vector | None = None
    size: Vector | None = None
    rotation: Matrix3 | Annotated[list[Finite], Field(min_length=4, max_length=4)] | None = None
    id: Id | None = None


def _trimmed(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


class _Description(Known):
    object: Id
    description: Annotated[str, BeforeValidator(_trimmed), Field(min_length=1)]
    id: Id | None = None


def read_boxes(path: Path) -> tuple[Boxes3D, tuple[str, ...]]:
    """The boxes of ``boxes.json`` in the world of the poses, and their ids.

    Raises:
        Quarantine: On the first wrong box: a box left out would teach that its object is not there.
    """
    entries = load(path, TypeAdapter(list[_Box]))
    rows: list[Floats] = []
    ids: dict[str, int] = {}
    for index, entry in enumerate(entries):
        name = str(index) if entry.id is None else entry.id
        what = f"{path}: box {index} ({entry.label})"
        if name in ids:
            raise Quarantine("ids that repeat", f"{what} has the id {name!r} of box {ids[name]}")
        ids[name] = index
        row = _nine(what, entry)
        if row[3:6].min() <= 0:
            raise Quarantine("box without volume", f"{what} has the size {_words(row[3:6])}")
        rows.append(row)
    return Boxes3D(np.array(rows).reshape(-1, 9), [entry.label for entry in entries]), tuple(ids)


def _nine(what: str, entry: _Box) -> Floats:
    parts = (entry.center, entry.size)
    if entry.bbox_3d is not None:
        if any(part is not None for part in (*parts, entry.rotation)):
            raise Quarantine("wrong box", f"{what} has bbox_3d and center, size or rotation: one of the two")
        return np.array(entry.bbox_3d, dtype=np.float64)
    if entry.center is None or entry.size is None:
        raise Quarantine("wrong box", f"{what} has neither bbox_3d nor center and size")
    rotation = np.eye(3) if entry.rotation is None else _rotation(what, np.array(entry.rotation, dtype=np.float64))
    return np.concatenate([*np.array(parts, dtype=np.float64), angles_from_rotation(rotation)])


def _rotation(what: str, value: Floats) -> Floats:
    if value.shape == (3, 3):
        if fault := rotation_fault(value):
            raise Quarantine("wrong rotation of a box", f"{what}: its rotation {fault}")
        return value
    length = float(np.linalg.norm(value))
    if abs(length - 1) > RIGID:
        raise Quarantine("wrong rotation of a box", f"{what}: its quaternion has the length {length:.4g}, not 1")
    x, y, z, w = value / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _words(values: Floats) -> str:
    return " × ".join(f"{value:g}" for value in values)


@dataclass(frozen=True)
class Described:
    """One description.

    Args:
        id: Unique in the scan.
        object: Index of its box.
        text: As written, spaces made single.
    """

    id: str
    object: int
    text: str


def read_descriptions(path: Path, ids: Sequence[str]) -> tuple[list[Described], dict[str, str]]:
    """The descriptions of ``descriptions.json``; none where there is no such file.

    Args:
        path: The file.
        ids: Ids of the boxes.

    Returns:
        The good ones, and what is wrong with the others, by the place of the entry.

    Raises:
        Quarantine: Where the file is not a list.
    """
    if not path.exists():
        return [], {}
    places: dict[str, int] = {name: index for index, name in enumerate(ids)}
    found: dict[str, Described] = {}
    wrong: dict[str, str] = {}
    one = TypeAdapter(_Description)
    for number, row in enumerate(load(path, TypeAdapter(list[Any]))):
        try:
            entry = one.validate_python(row)
        except ValidationError as error:
            wrong[f"entry {number}"] = describe(error)
            continue
        name = str(number) if entry.id is None else entry.id
        mark = next((mark for mark in (IMAGE, *FORBIDDEN) if mark in entry.description), None)
        if entry.object not in places:
            wrong[f"entry {number}"] = f"no box has the id {entry.object!r}"
        elif name in found:
            wrong[f"entry {number}"] = f"its id {name!r} repeats"
        elif mark is not None:
            wrong[f"entry {number}"] = f"it holds {mark}, which stands for pixels"
        else:
            found[name] = Described(name, places[entry.object], entry.description)
    return list(found.values()), wrong
