"""Boxes that a detector proposed for scenes: one JSON file of all scenes, or a file of masks a scene.

The JSON file has the form of ``scannet_val_pred_box.json``: six numbers a box, centre and sizes, along the axes of the
aligned world. A file of masks, ``<scene>.mask.npz``, is a sparse matrix of SciPy's with a row a proposal and a column a
vertex of the scene's mesh. It is read without SciPy's reader, since nothing in it may be larger than it says, or code.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.iou import box_iou
from rft3d_cli.prepare.pipeline import Quarantine
from rft3d_cli.records import MAX_NUMBER

MASKS = 50
"""Masks read of a scene, the first ones, as LEO and its followers do; they stand in order of their scores."""
MAX_PROPOSALS = 10_000
"""Of one scene."""
PARTS = frozenset({"format", "shape", "data", "indices", "indptr", "row", "col", "coords"})
"""What SciPy's formats csr, csc and coo keep."""
MAX_JSON = 1 << 27
MAX_UNPACKED = 1 << 29
"""Bytes of one file of masks; those of ScanNet's scenes unpack to a few megabytes."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
Indices = NDArray[np.int64]
HINT = "name scannet_val_pred_box.json or a file like it: six numbers a box, a list of boxes a scene"


@dataclass(frozen=True)
class Proposals:
    """A JSON file of proposals.

    Args:
        path: The file.
        boxes: ``(N, 9)`` in the axis-aligned world, by scene.
        bad: What is wrong, by scene.
    """

    path: Path
    boxes: dict[str, Floats]
    bad: dict[str, str] = field(default_factory=dict)


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON with its keys as they come, repeated ones too."""


def read_proposals(path: Path) -> Proposals:
    """Read ``{"scannet/<scene>": [[x, y, z, dx, dy, dz], …], …}``.

    Args:
        path: The file. A scene's name may stand without ``scannet/``.

    Returns:
        The boxes. A scene that is wrong or listed twice is not an error but an entry in ``bad``.

    Raises:
        DataError: Where the file cannot be read, is larger than 128 MiB, or is of another form.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_JSON + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_JSON:
        raise DataError(f"{path} holds more than {MAX_JSON:,} bytes", HINT)
    try:
        found = json.loads(data, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}", HINT) from None
    if not isinstance(found, _Pairs) or not found:
        raise DataError(f"{path} does not hold boxes by scene", HINT)
    out = Proposals(path, {})
    for key, rows in found:
        scene = key.removeprefix("scannet/")
        if scene in out.boxes or scene in out.bad:
            out.boxes.pop(scene, None)
            out.bad[scene] = f"{path} lists {scene} twice"
            continue
        try:
            out.boxes[scene] = _boxes(rows)
        except ValueError as error:
            out.bad[scene] = f"{path}: {scene}: {error}"
    return out


def _boxes(rows: Any) -> Floats:
    if not isinstance(rows, list) or isinstance(rows, _Pairs):
        raise ValueError("not a list of boxes")
    if len(rows) > MAX_PROPOSALS:
        raise ValueError(f"{len(rows):,} boxes")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 6 or not all(_is_number(value) for value in row):
            raise ValueError(f"box {number} is not six numbers")
        if not all(abs(value) <= MAX_NUMBER for value in row) or min(row[3:]) < 0:
            raise ValueError(f"box {number} has a number that no room has")
    return _upright(np.array(rows, dtype=np.float64).reshape(-1, 6))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _upright(boxes: Floats) -> Floats:
    """``(N, 9)`` from centres and sizes ``(N, 6)``."""
    return np.concatenate([boxes, np.zeros((len(boxes), 3))], axis=1)


def best_proposal(box: Floats, proposals: Floats) -> tuple[int, float]:
    """The proposal that overlaps a box most, the first of equals, and its IoU.

    Args:
        box: ``(9,)``.
        proposals: ``(N, 9)``, at least one.

    >>> boxes = np.array([[5, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 2, 1, 1, 0, 0, 0]], float)
    >>> best_proposal(np.array([0, 0, 0, 1, 1, 1, 0, 0, 0], float), boxes)
    (1, 0.5)
    """
    overlaps = box_iou(box[None], proposals)[0]
    best = int(overlaps.argmax())
    return best, float(overlaps[best])


def mask_file(folder: Path, scene: str) -> Path:
    """Where a scene's masks lie: in the folder, or in ``mask`` in it."""
    inside = folder / "mask" / f"{scene}.mask.npz"
    return inside if inside.exists() else folder / inside.name


def mask_boxes(path: Path, points: Floats) -> Floats:
    """The extents of a scene's masks.

    Args:
        path: ``<scene>.mask.npz``.
        points: ``(V, 3)`` vertices of the scene's mesh in the axis-aligned world.

    Returns:
        ``(N, 9)``, of the first :data:`MASKS` masks; masks without a vertex have none.

    Raises:
        Quarantine: Where the file is missing, damaged or not of this form, or does not fit the mesh.
    """
    if not path.exists():
        raise Quarantine("no proposals", f"there is no file {path}")
    try:
        rows = _mask_rows(path, len(points))
    except (OSError, EOFError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise Quarantine("wrong proposals", f"{path}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise Quarantine("wrong proposals", f"{path} is damaged: {error}") from None
    members = [points[row] for row in rows if len(row)]
    low = np.array([some.min(axis=0) for some in members]).reshape(-1, 3)
    high = np.array([some.max(axis=0) for some in members]).reshape(-1, 3)
    return _upright(np.concatenate([(low + high) / 2, high - low], axis=1))


def _mask_rows(path: Path, vertices: int) -> list[Indices]:
    """The vertices of each mask."""
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        if len(infos) < len(archive.infolist()):
            raise ValueError("it holds a part twice")
        if sum(info.file_size for info in infos.values()) > MAX_UNPACKED:
            raise ValueError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")
        parts = {
            name.removesuffix(".npy"): _plain_array(archive.read(info), name)
            for name, info in infos.items()
            if name.removesuffix(".npy") in PARTS
        }
    try:
        words, shape, data = parts["format"].reshape(-1), _whole(parts["shape"]).tolist(), parts["data"]
        if len(shape) != 2 or not 0 <= shape[0] <= MAX_PROPOSALS:
            raise ValueError(f"a matrix of the shape {tuple(shape)} is not a row a mask")
        if shape[1] != vertices:
            raise ValueError(f"masks of {shape[1]:,} vertices for a mesh of {vertices:,}")
        rows, columns = _places(words.astype(str).tolist(), parts, shape)
    except KeyError as error:
        raise ValueError(f"it has no {error}: not a sparse matrix as SciPy writes it") from None
    if data.shape != rows.shape or rows.shape != columns.shape:
        raise ValueError("its parts do not fit each other")
    if not (_all_below(rows, shape[0]) and _all_below(columns, vertices)):
        raise ValueError("it names a mask or a vertex that is not there")
    if data.dtype.kind not in "biuf" or not np.isin(data, (0, 1)).all():
        raise ValueError("it holds something else than 0 and 1")
    if (np.diff(np.sort(rows * vertices + columns)) == 0).any():
        raise ValueError("it names a vertex of a mask twice")
    rows, columns = rows[data == 1], columns[data == 1]
    return [columns[rows == i] for i in range(min(MASKS, shape[0]))]


def _places(words: list[str], parts: Mapping[str, NDArray[Any]], shape: list[int]) -> tuple[Indices, Indices]:
    """Row and column of each entry."""
    if words == ["coo"]:
        row, column = _axes(parts["coords"]) if "coords" in parts else (parts["row"], parts["col"])
        return _whole(row), _whole(column)
    if words not in (["csr"], ["csc"]):
        raise ValueError(f"sparse matrices of the format {words} are not read, only csr, csc and coo")
    indices, ends = _whole(parts["indices"]), _whole(parts["indptr"])
    lines = shape[0] if words == ["csr"] else shape[1]
    counts = np.diff(ends)
    if len(ends) != lines + 1 or ends[0] != 0 or ends[-1] != len(indices) or (counts < 0).any():
        raise ValueError("its parts do not fit each other")
    along = np.repeat(np.arange(lines), counts)
    return (along, indices) if words == ["csr"] else (indices, along)


def _axes(coords: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if coords.ndim != 2 or len(coords) != 2:
        raise ValueError("its parts do not fit each other")
    return coords[0], coords[1]


def _all_below(numbers: Indices, end: int) -> bool:
    return bool(((numbers >= 0) & (numbers < end)).all())


def _whole(array: NDArray[Any]) -> Indices:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError("it counts by something else than whole numbers")
    return array.astype(np.int64)


def _plain_array(data: bytes, name: str) -> NDArray[Any]:
    """An array as ``numpy.save`` writes it, of numbers or text and of the size that it says.

    Raises:
        ValueError: On anything else, an array of Python objects above all.
    """
    stream = io.BytesIO(data)
    try:
        read = HEADERS[np.lib.format.read_magic(stream)]
        shape, fortran, dtype = read(stream)
    except (ValueError, KeyError, TypeError, SyntaxError):
        raise ValueError(f"{name} is not an array as NumPy writes it") from None
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not read")
    if dtype.kind not in "biufSU" or dtype.itemsize * math.prod(shape) != len(data) - stream.tell():
        raise ValueError(f"{name} is not an array of numbers of the size that it says")
    array: NDArray[Any] = np.frombuffer(data, dtype=dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if fortran else "C")
