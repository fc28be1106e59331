"""EmbodiedScan's annotations: which frames a scan has, their cameras, the 9-DoF boxes, and what each frame shows.

Read from ``embodiedscan_infos_*.pkl`` (see :mod:`rft3d_cli.prepare.unpickle`) or from JSON of the same shape, which
``rft3d prepare rooms`` writes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.prepare.unpickle import load_plain_pickle

MAX_JSON_BYTES = 4 << 30
_FRAME = re.compile(r"(\d+)\.(?:jpg|jpeg|png)$")
_SCENE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Frame:
    """One listed frame.

    Args:
        number: Raw frame number, from the image's name.
        cam_to_world: ``(4, 4)``, to the scan's own world; not finite where the file says so.
        visible: Indices into the scan's instances.
    """

    number: int
    cam_to_world: Floats
    visible: tuple[int, ...]

    @property
    def tracked(self) -> bool:
        """Whether the pose is usable."""
        return bool(np.isfinite(self.cam_to_world).all())


@dataclass(frozen=True)
class Scan:
    """One annotated scan.

    Args:
        scene: ``scene0000_00``.
        axis_align: ``(4, 4)`` from the scan's world to the axis-aligned one.
        intrinsic: ``(3, 3)`` of the colour images.
        frames: Listed frames, in the file's order.
        instances: Boxes in the axis-aligned world, with class names.
    """

    scene: str
    axis_align: Floats
    intrinsic: Floats
    frames: tuple[Frame, ...]
    instances: Boxes3D


@dataclass(frozen=True)
class Infos:
    """An annotation file.

    Args:
        path: The file.
        scans: By scene name, in the file's order.
        bad: Why scans were left out, by scene name.
    """

    path: Path
    scans: dict[str, Scan]
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def list_step(self) -> int:
        """Raw frames from one listed frame to the next: the commonest difference (10 on ScanNet)."""
        steps: Counter[int] = Counter()
        for scan in self.scans.values():
            numbers = [frame.number for frame in scan.frames]
            steps.update(b - a for a, b in pairwise(numbers) if b > a)
        return min(steps, key=lambda step: (-steps[step], step), default=1)


def read_infos(path: Path | str, dataset: str = "scannet") -> Infos:
    """Read an annotation file.

    Args:
        path: ``.pkl`` or ``.json``.
        dataset: Scans of this data set are kept: the part of ``sample_idx`` before the first slash.

    Raises:
        DataError: Where the file is missing, is not of that shape, or holds no scan of the data set. A single scan
            that is wrong is not an error but an entry in ``bad``.
    """
    path = Path(path)
    data = load_plain_pickle(path) if path.suffix in (".pkl", ".pickle") else _load_json(path)
    hint = "name one of EmbodiedScan's embodiedscan_infos_*.pkl, or the JSON that rft3d prepare rooms writes"
    try:
        categories = {int(number): str(name) for name, number in data["metainfo"]["categories"].items()}
        entries = [(_sample(entry), entry) for entry in data["data_list"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{path} does not hold EmbodiedScan annotations", hint) from None
    out = Infos(path, {})
    for sample, entry in entries:
        prefix, _, scene = sample.partition("/")
        if prefix != dataset:
            continue
        if scene in out.scans or scene in out.bad:
            out.scans.pop(scene, None)
            out.bad[scene] = "it is listed twice"
            continue
        try:
            out.scans[scene] = _scan(scene, entry, categories)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            out.bad[scene] = f"no field {error}" if isinstance(error, KeyError) else str(error)
    if not out.scans and not out.bad:
        raise DataError(f"{path} holds no scans of {dataset}", hint)
    return out


def _load_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{path} holds more than {MAX_JSON_BYTES:,} bytes")
        with path.open(encoding="utf-8") as stream:
            return json.load(stream)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None


def _sample(entry: Mapping[str, Any]) -> str:
    sample = entry["sample_idx"]
    if not isinstance(sample, str):
        raise TypeError
    return sample


def _scan(scene: str, entry: Mapping[str, Any], categories: Mapping[int, str]) -> Scan:
    if not _SCENE.fullmatch(scene):
        raise ValueError(f"{scene!r} is not a scene's name")
    rows = [_numbers(item["bbox_3d"], (9,), "bbox_3d") for item in entry["instances"]]
    labels = [int(item["bbox_label_3d"]) for item in entry["instances"]]
    unknown = sorted({label for label in labels if label not in categories})
    if unknown:
        raise ValueError(f"class number {unknown[0]} is not among the categories")
    intrinsic = np.asarray(entry["cam2img"], dtype=np.float64)
    if intrinsic.ndim != 2 or min(intrinsic.shape) < 3 or not np.isfinite(intrinsic).all():
        raise ValueError("cam2img is not a camera matrix")
    frames = tuple(_frame(image, len(rows)) for image in entry["images"])
    numbers = [frame.number for frame in frames]
    if len(set(numbers)) < len(numbers):
        raise ValueError("a frame is listed twice")
    return Scan(
        scene,
        _numbers(entry["axis_align_matrix"], (4, 4), "axis_align_matrix"),
        intrinsic[:3, :3],
        frames,
        Boxes3D(rows, [categories[label] for label in labels]),
    )


def _frame(image: Mapping[str, Any], instances: int) -> Frame:
    name = _FRAME.search(image["img_path"])
    if name is None:
        raise ValueError(f"{image['img_path']!r} does not end in a frame number")
    shown = np.asarray(image["visible_instance_ids"])
    visible = tuple(shown.reshape(-1).tolist())
    if (shown.size and shown.dtype.kind not in "iu") or not all(0 <= i < instances for i in visible):
        raise ValueError(f"frame {name[1]} shows an instance that is not listed")
    pose = np.asarray(image["cam2global"], dtype=np.float64)
    if pose.shape != (4, 4):
        raise ValueError(f"frame {name[1]}: cam2global is not a 4×4 matrix")
    return Frame(int(name[1]), pose, visible)


def _numbers(value: Any, shape: tuple[int, ...], what: str) -> Floats:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{what} does not hold {' × '.join(map(str, shape))} finite numbers")
    return array
