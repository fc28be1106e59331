"""The small files of a ScanNet scan: text, mesh vertices, segments, aggregation; and ScanNet's table of labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.camera import transform_points

MAX_TEXT = 1 << 20
MAX_JSON = 1 << 29
_MAX_HEADER = 1 << 16

PLY_TYPES = dict(
    [
        *[("char", "i1"), ("uchar", "u1"), ("short", "i2"), ("ushort", "u2"), ("int", "i4"), ("uint", "u4")],
        *[("int8", "i1"), ("uint8", "u1"), ("int16", "i2"), ("uint16", "u2"), ("int32", "i4"), ("uint32", "u4")],
        *[("float", "f4"), ("double", "f8"), ("float32", "f4"), ("float64", "f8")],
    ]
)


@dataclass(frozen=True)
class Group:
    """One object of an aggregation.

    Args:
        object_id: ``objectId``, from 0; what ScanRefer's ``object_id`` names.
        label: ScanNet's raw category.
        segments: Its segments.
    """

    object_id: int
    label: str
    segments: tuple[int, ...]


def scan_file(folder: Path, ending: str) -> Path:
    """A file of the scan in ``folder``: the scan's name and an ending.

    >>> scan_file(Path("scans/scene0000_00"), ".sens").as_posix()
    'scans/scene0000_00/scene0000_00.sens'
    """
    return folder / f"{folder.name}{ending}"


def read_scan_text(path: Path) -> dict[str, str]:
    """The ``key = value`` lines of ``<scene>.txt``.

    Raises:
        DataError: Where the file cannot be read.
    """
    lines = _read(path, MAX_TEXT).decode("utf-8", "replace").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def axis_alignment(path: Path) -> Floats:
    """The scan's ``axisAlignment``, ``(4, 4)``: from its world to the axis-aligned one.

    ScanNet's test scans have none; theirs is the identity.

    Raises:
        DataError: Where it does not hold 16 finite numbers.
    """
    text = read_scan_text(path).get("axisAlignment")
    if text is None:
        return np.eye(4)
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.empty(0)
    if values.shape != (16,) or not np.isfinite(values).all():
        raise DataError(f"{path}: axisAlignment does not hold 16 numbers")
    return values.reshape(4, 4)


def read_ply_vertices(path: Path) -> Floats:
    """Vertex positions ``(N, 3)`` of a binary little-endian PLY file, metres, in the scan's own world.

    Raises:
        DataError: On any other file, or one that ends too early.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            header = stream.read(_MAX_HEADER)
            end = re.search(rb"\nend_header\r?\n", header)
            if not header.startswith(b"ply") or end is None:
                raise DataError(f"{path} is not a PLY file")
            count, row = _vertex_layout(path, header[: end.start()].decode("ascii", "replace").splitlines())
            if not 0 <= count <= (size - end.end()) // row.itemsize:
                raise DataError(f"{path} is truncated: it announces {count:,} vertices ({size:,} bytes)")
            stream.seek(end.end())
            rows = np.fromfile(stream, dtype=row, count=count)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    points = np.stack([rows[axis].astype(np.float64) for axis in "xyz"], axis=1)
    if not np.isfinite(points).all():
        raise DataError(f"{path} holds vertices that are not finite")
    return points


def _vertex_layout(path: Path, lines: list[str]) -> tuple[int, np.dtype[Any]]:
    """How many vertices follow the header, and what each holds."""
    words = [line.split() for line in lines]
    if ["format", "binary_little_endian", "1.0"] not in words:
        raise DataError(f"{path} is not a binary little-endian PLY file")
    elements = [i for i, word in enumerate(words) if word[:1] == ["element"]]
    try:
        first = words[elements[0]]
        last = elements[1] if len(elements) > 1 else len(words)
        properties = [word for word in words[elements[0] + 1 : last] if word[:1] == ["property"]]
        fields = [(name, f"<{PLY_TYPES[kind]}") for _, kind, name in properties]
        row: np.dtype[Any] = np.dtype(fields)
        if first[1] != "vertex" or not set("xyz") <= set(row.names or ()):
            raise ValueError
        return int(first[2]), row
    except (LookupError, ValueError, TypeError):
        raise DataError(f"{path}: its header does not start with vertices that have x, y and z") from None


def read_segments(path: Path) -> NDArray[np.int64]:
    """The segment of every vertex, from ``*.segs.json``.

    Raises:
        DataError: On any other file.
    """
    try:
        indices = np.asarray(read_json(path)["segIndices"])
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise TypeError
    except (LookupError, TypeError, ValueError):
        raise DataError(f"{path} does not hold segIndices") from None
    return indices.astype(np.int64)


def read_aggregation(path: Path) -> list[Group]:
    """The objects of a scan, from ``*.aggregation.json``.

    Raises:
        DataError: On any other file, or where an object id repeats.
    """
    try:
        groups = [
            Group(int(g["objectId"]), str(g["label"]), tuple(int(s) for s in g["segments"]))
            for g in read_json(path)["segGroups"]
        ]
    except (LookupError, TypeError, ValueError, OverflowError):
        raise DataError(f"{path} does not hold segGroups") from None
    if len({group.object_id for group in groups}) < len(groups):
        raise DataError(f"{path} lists an objectId twice")
    return groups


def object_boxes(folder: Path, align: Floats) -> dict[int, tuple[str, Floats]]:
    """Axis-aligned boxes of a scan's objects, from its mesh.

    Args:
        folder: The scan, ``scans/<scene>``.
        align: ``(4, 4)`` from the scan's world to the axis-aligned one.

    Returns:
        Label and ``(9,)`` box with zero angles by object id, in the aggregation's order: the extent of the vertices of
        the object's segments. Objects without vertices are absent.

    Raises:
        DataError: Where a file is missing or damaged, or mesh and segments do not fit.
    """
    points = transform_points(read_ply_vertices(scan_file(folder, "_vh_clean_2.ply")), align)
    path = scan_file(folder, "_vh_clean_2.0.010000.segs.json")
    segments = read_segments(path)
    if len(segments) != len(points):
        raise DataError(f"{path} has {len(segments):,} entries for a mesh of {len(points):,} vertices")
    out: dict[int, tuple[str, Floats]] = {}
    for group in read_aggregation(aggregation_file(folder)):
        members = points[np.isin(segments, group.segments)]
        if len(members):
            low, high = members.min(axis=0), members.max(axis=0)
            out[group.object_id] = group.label, np.concatenate([(low + high) / 2, high - low, np.zeros(3)])
    return out


def aggregation_file(folder: Path) -> Path:
    """The scan's aggregation, under either of the names that ScanNet's releases use."""
    path = scan_file(folder, ".aggregation.json")
    other = scan_file(folder, "_vh_clean.aggregation.json")
    return other if not path.exists() and other.exists() else path


def read_label_table(path: Path) -> dict[str, int]:
    """NYU40 class of each raw category, from ``scannetv2-labels.combined.tsv``.

    Raises:
        DataError: Where the columns ``raw_category`` and ``nyu40id`` are missing.
    """
    lines = _read(path, MAX_TEXT).decode("utf-8", "replace").splitlines()
    head = lines[0].split("\t") if lines else []
    try:
        name, number = head.index("raw_category"), head.index("nyu40id")
        rows = [line.split("\t") for line in lines[1:] if line.strip()]
        return {row[name]: int(row[number]) for row in rows}
    except (LookupError, ValueError):
        raise DataError(
            f"{path} is not ScanNet's table of labels", "it comes with ScanNet as scannetv2-labels.combined.tsv"
        ) from None


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise DataError(f"{path} holds more than {limit:,} bytes")
    return data


def read_json(path: Path) -> Any:
    """The content of a JSON file of at most half a GiB.

    Raises:
        DataError: Where it cannot be read, is larger, or is not JSON.
    """
    try:
        return json.loads(_read(path, MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
