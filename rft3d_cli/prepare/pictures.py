"""The frames of a scan as image files.

They are taken out of a ``.sens`` file, found in a folder of exported frames, or lie where annotations say.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.errors import DataError, Rft3dError
from rft3d_cli.files import write_bytes
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare._posed_checks import rigid_fault
from rft3d_cli.prepare.embodiedscan import Frame, Scan
from rft3d_cli.prepare.pipeline import Part, Quarantine, Store, is_there
from rft3d_cli.prepare.scanfiles import scan_file
from rft3d_cli.prepare.sens import SensFile
from rft3d_cli.records import media_path
from rft3d_cli.video import IMAGE_FORMATS

RATE = 30.0
"""ScanNet's frames a second, where time stamps say nothing."""
POSED = "posed_images"
CENTRED = 0.1
"""How far from a picture's middle its camera's principal point may be, by the picture's width and height.

In a picture that was turned or resized after its camera was measured it is further off.
"""


@dataclass(frozen=True)
class Places:
    """Where frames come from and go to.

    Args:
        scans: Folder of scans as downloaded.
        posed: Folder of exported frames, ``<scene>/<frame:05d>.jpg``; then no ``.sens`` file is read.
        store: Where extracted frames go, or where ``posed`` lies, and how records name them.
    """

    scans: Path | None
    posed: Path | None
    store: Store


@dataclass(frozen=True)
class Pictures:
    """Frames on disk.

    Args:
        paths: As records name them, by raw frame number.
        times: Seconds, by raw frame number; empty where they are not known.
        size: ``(width, height)``.
        intrinsic: ``(3, 3)`` of the ``.sens`` file's colour camera; None without one.
        about: For the card.
        warnings: What looks wrong.
    """

    paths: dict[int, str]
    times: dict[int, float]
    size: tuple[int, int]
    intrinsic: Floats | None
    about: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def pictures(places: Places, scene: str, frames: Iterable[Frame]) -> Pictures:
    """Make the frames of a scene available as files.

    Args:
        places: From where, to where.
        scene: Its name.
        frames: The frames needed.

    Raises:
        Quarantine: Where the scan or a frame of it is missing or damaged.
    """
    wanted = sorted(frames, key=lambda frame: frame.number)
    if places.posed is not None:
        return _exported(places.posed / scene, places.store, [frame.number for frame in wanted])
    if places.scans is None:
        raise ValueError("neither scans nor exported frames")
    return _extracted(open_sens(places.scans / scene), places.store, scene, wanted)


def picture_size(places: Places, scene: str, frame: Frame) -> tuple[int, int]:
    """``(width, height)`` of a scene's pictures, before any is extracted.

    Args:
        places: From where.
        scene: Its name.
        frame: One of its frames.

    Raises:
        Quarantine: Where the scan or the frame is missing or damaged.
    """
    if places.posed is not None:
        return _exported(places.posed / scene, places.store, [frame.number]).size
    if places.scans is None:
        raise ValueError("neither scans nor exported frames")
    return open_sens(places.scans / scene).colour_size


def listed_pictures(store: Store, scan: Scan, frames: Iterable[Frame], part: Part) -> tuple[Pictures, list[Frame]]:
    """The pictures that a scan of EmbodiedScan lists, where they lie under its data folder.

    Args:
        store: The data folder, and how records name it.
        scan: The scan.
        frames: Those of its frames whose poses are known.
        part: Gets a row for each frame that cannot be used: its picture is missing, damaged, turned by its EXIF
            orientation, of another size than most of the scan's, or does not fit its camera; or its pose is no rigid
            motion.

    Returns:
        The pictures, and the frames that can be used.

    Raises:
        Quarantine: Where there is none.
    """
    sizes: dict[int, tuple[int, int]] = {}
    found: list[Frame] = []
    faults: list[tuple[Frame, str, str]] = []
    for frame in frames:
        fault = rigid_fault(frame.cam_to_world)
        if fault is not None:
            faults.append((frame, "pose not rigid", f"cam2global of {frame.file} {fault}"))
            continue
        try:
            sizes[frame.number] = _listed_size(store, scan, frame)
            found.append(frame)
        except Quarantine as error:
            faults.append((frame, error.reason, error.message))
    counts = Counter(sizes.values())
    size = max(counts, key=lambda item: (counts[item], item), default=(0, 0))
    for frame in found:
        if sizes[frame.number] != size:
            width, height = sizes[frame.number]
            detail = f"{frame.file} has {width} × {height} pixels, most of the scan's pictures {size[0]} × {size[1]}"
            faults.append((frame, "frame of another size", detail))
    found = [frame for frame in found if sizes[frame.number] == size]
    if not found and faults:
        raise Quarantine(faults[0][1], faults[0][2] + (f", and so on: {len(faults):,} frames" if faults[1:] else ""))
    for frame, reason, _ in faults:
        part.reject("frame", reason, frame=frame.number, file=frame.file)
    paths = {frame.number: store.name(frame.file) for frame in found}
    about = {"pictures": len(found), "size": list(size)}
    return Pictures(paths, _named_times(scan, found), size, None, about), found


def _listed_size(store: Store, scan: Scan, frame: Frame) -> tuple[int, int]:
    try:
        file = media_path(store.folder, frame.file)
        if "\0" in frame.file:
            raise DataError(f"{frame.file!r} is not the name of a file")
    except DataError as error:
        raise Quarantine("wrong img_path", error.message) from None
    if not (is_there(file) and file.is_file()):
        raise Quarantine("missing frame", f"{file} does not exist")
    try:
        size, turned = image_header(file)
    except DataError as error:
        raise Quarantine("damaged frame", f"{file}: {error.message}") from None
    if turned != 1:
        raise Quarantine("frame turned by EXIF", f"{file} is turned by its EXIF orientation ({turned}) when it is read")
    middle = (scan.intrinsic_of(frame)[:2, 2] + 0.5) / np.array(size)
    if not (np.abs(middle - 0.5) <= CENTRED).all():
        at = " × ".join(f"{value:.0f}" for value in 2 * middle * np.array(size))
        detail = f"{file} has {size[0]} × {size[1]} pixels, its camera is for about {at}: use the published pictures"
        raise Quarantine("frame does not fit its camera", detail)
    return size


def _named_times(scan: Scan, frames: list[Frame]) -> dict[int, float]:
    """Seconds by frame number; ARKitScenes' file names end in them. Elsewhere times are not known."""
    if scan.dataset != "arkitscenes":
        return {}
    found = {frame.number: re.search(r"_(\d+\.\d+)\.[a-z]+$", frame.file) for frame in frames}
    times = {number: float(name[1]) for number, name in found.items() if name is not None}
    return times if len(times) == len(frames) else {}


def open_sens(folder: Path) -> SensFile:
    """The ``.sens`` file of the scan in ``folder``.

    Raises:
        Quarantine: Where it is missing or damaged.
    """
    path = scan_file(folder, ".sens")
    if not path.exists():
        raise Quarantine("missing .sens", f"{path} does not exist")
    try:
        return SensFile(path)
    except DataError as error:
        raise Quarantine("damaged .sens", error.message) from None


def frame_times(sens: SensFile) -> Floats:
    """Seconds of every raw frame since the first, ``(n,)``.

    From the colour time stamps, where they increase from frame to frame by plausible steps of microseconds; else 30
    frames a second.
    """
    stamps = [frame.colour_time for frame in sens.frames]
    # Differences in Python's integers: garbage may fill all 64 bits.
    steps = [b - a for a, b in pairwise(stamps)]
    if steps and min(steps) > 0 and max(steps) < 6e8 and 1e3 <= float(np.median(steps)) <= 1e7:
        return np.array([stamp - stamps[0] for stamp in stamps], dtype=np.float64) / 1e6
    return np.arange(len(stamps)) / RATE


def _extracted(sens: SensFile, store: Store, scene: str, wanted: list[Frame]) -> Pictures:
    clock = frame_times(sens)
    digest = hashlib.sha256()
    paths, times = {}, {}
    for frame in wanted:
        if frame.number >= len(sens):
            raise Quarantine(
                "frame not in .sens", f"{sens.path} has {len(sens):,} frames; the annotations list {frame.number:,}"
            )
        try:
            data = sens.colour(frame.number)
            size = image_size(data)
        except DataError as error:
            raise Quarantine("damaged .sens", f"{sens.path} frame {frame.number}: {error.message}") from None
        if size != sens.colour_size:
            detail = f"{sens.path} frame {frame.number} is {size}, the file says {sens.colour_size}"
            raise Quarantine("damaged .sens", detail)
        ending = "jpg" if data.startswith(b"\xff\xd8") else "png"
        relative = f"{POSED}/{scene}/{frame.number:05d}.{ending}"
        if store.write:
            _write(store.folder / relative, data)
        digest.update(data)
        paths[frame.number] = store.name(relative)
        times[frame.number] = float(clock[frame.number])
    about = {
        "file": sens.path.name,
        "bytes": sens.path.stat().st_size,
        "frames": len(wanted),
        "frames_sha256": digest.hexdigest(),
    }
    notes = []
    if not all(np.allclose(sens.frames[f.number].pose, f.cam_to_world, atol=1e-3) for f in wanted):
        notes.append("poses of the annotations and of the .sens file differ")
    return Pictures(paths, times, sens.colour_size, sens.intrinsic_colour[:3, :3], about, notes)


def _exported(folder: Path, store: Store, numbers: list[int]) -> Pictures:
    paths = {}
    sizes = set()
    for number in numbers:
        file = next((f for end in ("jpg", "png", "jpeg") if (f := folder / f"{number:05d}.{end}").is_file()), None)
        if file is None:
            raise Quarantine("missing frame", f"{folder / f'{number:05d}.jpg'} does not exist")
        try:
            sizes.add(image_size(file))
        except DataError as error:
            raise Quarantine("damaged frame", f"{file}: {error.message}") from None
        paths[number] = store.name(f"{folder.name}/{file.name}")
    if len(sizes) != 1:
        raise Quarantine("damaged frame", f"{folder}: frames of {len(sizes)} sizes")
    times = {number: number / RATE for number in numbers}
    return Pictures(paths, times, sizes.pop(), None, {"folder": folder.name, "frames": len(numbers)})


def image_size(image: bytes | Path) -> tuple[int, int]:
    """``(width, height)`` of an image from its header.

    Raises:
        DataError: Where it is no image.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
                return opened.size
    except Exception as error:
        # Pillow's readers raise almost anything on damaged headers.
        raise DataError(f"not an image ({type(error).__name__})") from None


def image_header(file: Path) -> tuple[tuple[int, int], int]:
    """``(width, height)`` of an image from its header, and its EXIF orientation: 1 where it is read as it is stored.

    Raises:
        DataError: Where it is not a JPEG or PNG image.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=IMAGE_FORMATS) as opened:
            return opened.size, int(opened.getexif().get(0x0112, 1))
    except Exception as error:
        # Pillow's readers raise almost anything on damaged headers.
        raise DataError(f"not a JPEG or PNG image ({type(error).__name__})") from None


def _write(path: Path, data: bytes) -> None:
    try:
        write_bytes(path, data, durable=False)
    except OSError as error:
        raise Rft3dError(f"{path} cannot be written: {error.strerror}", "is the disk full?") from None
    except DataError as error:
        # A folder that cannot be written is no fault of the scene's: do not quarantine it.
        raise Rft3dError(error.message) from None
