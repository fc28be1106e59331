"""EmbodiedScan's annotations: which frames a scan has, their cameras, the 9-DoF boxes, and what each frame shows.

Read from ``embodiedscan_infos_*.pkl`` (see :mod:`rft3d_cli.prepare.unpickle`) or from JSON of the same shape, which
``rft3d prepare rooms`` writes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
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
        number: Raw frame number, from the image's name; outside ScanNet the place in the scan's list, from 0.
        cam_to_world: ``(4, 4)``, to the scan's own world; not finite where the file says so.
        visible: Indices into the scan's instances.
        file: ``img_path``: the picture, relative to EmbodiedScan's data folder; empty for frames of other origin.
        intrinsic: ``(3, 3)`` of this picture, where it has its own.
    """

    number: int
    cam_to_world: Floats
    visible: tuple[int, ...]
    file: str = ""
    intrinsic: Floats | None = None

    @property
    def tracked(self) -> bool:
        """Whether the pose is usable."""
        return bool(np.isfinite(self.cam_to_world).all())


@dataclass(frozen=True)
class Scan:
    """One annotated scan.

    Args:
        scene: ``scene0000_00``; of Matterport3D ``2azQ1b91cZZ/region0``, of ARKitScenes ``Training/40753679``.
        axis_align: ``(4, 4)`` from the scan's world to the axis-aligned one.
        intrinsic: ``(3, 3)`` of the colour images; of the first where they have their own.
        frames: Listed frames, in the file's order.
        instances: Boxes in the axis-aligned world, with class names.
        dataset: ``scannet``, ``3rscan``, ``matterport3d`` or ``arkitscenes``.
        ids: ``bbox_id`` of each instance, by which descriptions name it; None where the file has none.
    """

    scene: str
    axis_align: Floats
    intrinsic: Floats
    frames: tuple[Frame, ...]
    instances: Boxes3D
    dataset: str = "scannet"
    ids: tuple[int | None, ...] = ()

    @property
    def sample(self) -> str:
        """``sample_idx``: data set and scene."""
        return f"{self.dataset}/{self.scene}"

    @property
    def place(self) -> str:
        """What the place is called in other data sets' records: ARKitScenes' scans by their number alone."""
        return self.scene.rsplit("/", 1)[-1] if self.dataset == "arkitscenes" else self.scene

    def intrinsic_of(self, frame: Frame) -> Floats:
        """``(3, 3)`` of a frame's picture."""
        return self.intrinsic if frame.intrinsic is None else frame.intrinsic


@dataclass(frozen=True)
class Infos:
    """An annotation file.

    Args:
        path: The file.
        scans: In the file's order: ScanNet's alone by scene name, those of :func:`read_datasets` by ``sample_idx``.
        bad: Why scans were left out, by the same name.
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
    found = read_datasets(path, [dataset])
    cut = len(dataset) + 1
    return Infos(found.path, {k[cut:]: v for k, v in found.scans.items()}, {k[cut:]: v for k, v in found.bad.items()})


def read_datasets(path: Path | str, datasets: Sequence[str]) -> Infos:
    """Read the scans of several data sets from an annotation file, by ``sample_idx``.

    Args:
        path: ``.pkl`` or ``.json``.
        datasets: Scans of these are kept: the part of ``sample_idx`` before the first slash.

    Raises:
        DataError: As :func:`read_infos`.
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
        dataset, _, scene = sample.partition("/")
        if dataset not in datasets:
            continue
        if sample in out.scans or sample in out.bad:
            out.scans.pop(sample, None)
            out.bad[sample] = "it is listed twice"
            continue
        try:
            out.scans[sample] = _scan(dataset, scene, entry, categories)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            out.bad[sample] = f"no field {error}" if isinstance(error, KeyError) else str(error)
    if not out.scans and not out.bad:
        raise DataError(f"{path} holds no scans of {' or '.join(datasets)}", hint)
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
    if not isinstance(sample, str) or not _writable(sample):
        raise TypeError
    return sample


def _writable(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON may hold half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _scan(dataset: str, scene: str, entry: Mapping[str, Any], categories: Mapping[int, str]) -> Scan:
    parts = [scene] if dataset == "scannet" else scene.split("/")
    if not all(_SCENE.fullmatch(part) for part in parts):
        raise ValueError(f"{scene!r} is not a scene's name")
    rows = [_numbers(item["bbox_3d"], (9,), "bbox_3d") for item in entry["instances"]]
    labels = [int(item["bbox_label_3d"]) for item in entry["instances"]]
    unknown = sorted({label for label in labels if label not in categories})
    if unknown:
        raise ValueError(f"class number {unknown[0]} is not among the categories")
    frames = tuple(_frame(image, place, dataset, len(rows)) for place, image in enumerate(entry["images"]))
    if len({frame.number for frame in frames}) < len(frames) or len({frame.file for frame in frames}) < len(frames):
        raise ValueError("a frame is listed twice")
    return Scan(
        scene,
        _numbers(entry["axis_align_matrix"], (4, 4), "axis_align_matrix"),
        _scan_camera(entry, frames),
        frames,
        Boxes3D(rows, [categories[label] for label in labels]),
        dataset,
        tuple(_id(item.get("bbox_id")) for item in entry["instances"]),
    )


def _scan_camera(entry: Mapping[str, Any], frames: Sequence[Frame]) -> Floats:
    """The camera of a scan; where each picture has its own, as in Matterport3D, that of the first."""
    own = next((frame.intrinsic for frame in frames if frame.intrinsic is not None), None)
    if own is not None and all(frame.intrinsic is not None for frame in frames):
        return own
    return _camera(entry["cam2img"])


def _camera(value: Any) -> Floats:
    intrinsic = np.asarray(value, dtype=np.float64)
    if intrinsic.ndim != 2 or min(intrinsic.shape) < 3 or not np.isfinite(intrinsic).all():
        raise ValueError("cam2img is not a camera matrix")
    return intrinsic[:3, :3]


def _id(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _frame(image: Mapping[str, Any], place: int, dataset: str, instances: int) -> Frame:
    file = image["img_path"]
    if not isinstance(file, str) or not _writable(file):
        raise ValueError("img_path is not text")
    if dataset == "scannet":
        name = _FRAME.search(file)
        if name is None:
            raise ValueError(f"{file!r} does not end in a frame number")
        number, called = int(name[1]), name[1]
    else:
        # Elsewhere names hold times, or the camera and heading of a panorama.
        number, called = place, file
    shown = np.asarray(image["visible_instance_ids"])
    visible = tuple(shown.reshape(-1).tolist())
    if (shown.size and shown.dtype.kind not in "iu") or not all(0 <= i < instances for i in visible):
        raise ValueError(f"frame {called} shows an instance that is not listed")
    pose = np.asarray(image["cam2global"], dtype=np.float64)
    if pose.shape != (4, 4):
        raise ValueError(f"frame {called}: cam2global is not a 4×4 matrix")
    own = _camera(image["cam2img"]) if "cam2img" in image else None
    return Frame(number, pose, visible, file, own)


def _numbers(value: Any, shape: tuple[int, ...], what: str) -> Floats:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{what} does not hold {' × '.join(map(str, shape))} finite numbers")
    return array
