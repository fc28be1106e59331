"""A whole data set of rooms: rendered in parallel, written in order, the same bytes with any number of workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.files import atomic_writer, write_json
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare.card import versions
from rft3d_cli.prepare.crew import ordered
from rft3d_cli.prepare.rooms.catalogue import CLASSES
from rft3d_cli.prepare.rooms.describe import descriptions
from rft3d_cli.prepare.rooms.kinds import clear_room, plain_room, uncertain_room
from rft3d_cli.prepare.rooms.questions import DATASET, questions
from rft3d_cli.prepare.rooms.render import FIRST_ITEM, Image, Renderer
from rft3d_cli.prepare.rooms.scene import Scene
from rft3d_cli.prepare.rooms.write import embodiedscan_entry, write_scan

FOCAL = 0.9
"""Focal length in image widths, as ScanNet's (1170 / 1296)."""
VISIBLE_SHARE = 0.003
"""A piece counts as visible in a frame from this share of the frame's pixels on."""
CATEGORIES = {name: number for number, name in enumerate((*CLASSES, "wall", "ceiling", "floor", "object"))}


@dataclass(frozen=True)
class RoomsSpec:
    """What to build.

    Args:
        scenes: How many rooms.
        seed: Everything follows from it and from the other fields.
        kind: ``plain`` rooms with a walk through them, ``clear`` ones with one or two pieces in front of the camera, or
            ``uncertain`` ones, which have hidden and out-of-view pieces too.
        objects: Least and most pieces in a plain room.
        seconds: Length of a scan.
        fps: Raw frames a second.
        size: ``(width, height)`` of colour and depth, pixels.
        antialias: Colour samples along a pixel's side, odd.
        val: Share of the scenes, the last ones, that form the val split.
        clips: Whether to write mp4 clips, and VSI-Bench questions except about uncertain rooms.
    """

    scenes: int
    seed: int = 0
    kind: Literal["plain", "clear", "uncertain"] = "plain"
    objects: tuple[int, int] = (4, 8)
    seconds: float = 12.0
    fps: float = 5.0
    size: tuple[int, int] = (160, 120)
    antialias: int = 3
    val: float = 0.2
    clips: bool = True

    def __post_init__(self) -> None:
        if self.scenes < 1 or not 1 <= self.objects[0] <= self.objects[1] <= 12:
            raise UsageError("rooms need at least one scene, and 1 to 12 objects")
        if self.frames < 1 or min(self.size) < 16 or max(self.size) > 2048:
            raise UsageError("rooms need at least one frame, of 16 to 2048 pixels a side")
        if not 0 <= self.val < 1 or self.antialias not in (1, 3, 5):
            raise UsageError("the val share lies in [0, 1); antialias is 1, 3 or 5")

    @property
    def frames(self) -> int:
        """Raw frames a scan."""
        return round(self.seconds * self.fps)

    @property
    def times(self) -> Floats:
        """``(frames,)`` seconds."""
        return np.arange(self.frames) / self.fps

    @property
    def intrinsic(self) -> Floats:
        """``(3, 3)``, square pixels, centred."""
        width, height = self.size
        return np.array([[FOCAL * width, 0, (width - 1) / 2], [0, FOCAL * width, (height - 1) / 2], [0, 0, 1]])

    @property
    def described(self) -> bool:
        """Whether rooms get descriptions and questions: those in which every labelled piece can be seen."""
        return self.kind != "uncertain"

    @property
    def least_pixels(self) -> int:
        """Pixels from which on a piece counts as visible."""
        return max(1, round(VISIBLE_SHARE * self.size[0] * self.size[1]))


@dataclass
class BuiltScene:
    """What the data set's shared files need of one scene."""

    name: str
    entry: dict[str, Any]
    descriptions: list[dict[str, Any]] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)


def draw_scene(spec: RoomsSpec, index: int) -> tuple[Scene, Renderer, list[Image]]:
    """Scene ``index`` of a data set, with its rendered frames.

    A clear or uncertain room is drawn again until the frames bear out what it claims: hidden pieces show no pixel, and
    visible ones show in the first frame.
    """
    name = f"scene{index:04d}_00"
    for attempt in range(100):
        rng = np.random.default_rng([spec.seed, index, attempt])
        if spec.kind == "plain":
            scene = plain_room(rng, name, spec.times, spec.objects)
        else:
            draw = clear_room if spec.kind == "clear" else uncertain_room
            scene = draw(rng, name, spec.times, spec.intrinsic, spec.size)
        renderer = Renderer(scene, *spec.size, spec.intrinsic, spec.antialias)
        images = [renderer.render(pose) for pose in scene.poses]
        if spec.kind == "plain" or _as_claimed(scene, images, spec.least_pixels):
            return scene, renderer, images
    raise DataError(f"{name}: no {spec.kind} room shows what it should")  # pragma: no cover - one in three does


def _as_claimed(scene: Scene, images: list[Image], least: int) -> bool:
    counts = np.array([_pixels(scene, image) for image in images])
    targets = [i for i, item in enumerate(scene.items) if item.target]
    return all((counts[:, i] == 0).all() if i in scene.hidden else counts[0, i] >= least for i in targets)


def _pixels(scene: Scene, image: Image) -> Any:
    return np.bincount(image.instance.ravel(), minlength=FIRST_ITEM + len(scene.items))[FIRST_ITEM:]


def build_scene(index: int, spec: RoomsSpec, out: Path) -> BuiltScene:
    """Render and write scene ``index`` under ``out``."""
    scene, renderer, images = draw_scene(spec, index)
    folder = out / "scans" / scene.name
    folder.mkdir(parents=True, exist_ok=True)
    write_scan(folder, scene, images, renderer.surfaces, spec.times, spec.intrinsic)
    built = BuiltScene(scene.name, embodiedscan_entry(scene, images, spec.intrinsic, CATEGORIES, spec.least_pixels))
    if spec.described:
        first_seen: dict[int, float] = {}
        for image, time in zip(images, spec.times, strict=True):
            for i in np.nonzero(_pixels(scene, image) >= spec.least_pixels)[0]:
                first_seen.setdefault(int(i), float(time))
        rng = np.random.default_rng([spec.seed, index, 1_000_003])
        built.descriptions = descriptions(rng, scene, set(first_seen))
        if spec.clips:
            built.questions = questions(rng, scene, first_seen)
    if spec.clips:
        write_clip(spec, scene, images, out / "vsibench" / DATASET / f"{scene.name}.mp4")
    return built


def write_clip(spec: RoomsSpec, scene: Scene, images: list[Image], path: Path) -> None:
    """A scene's frames as a video, with its camera beside it as ``rft3d infer`` finds it."""
    from rft3d_cli.video import write_mp4

    write_mp4(path, [image.colour for image in images], spec.fps)
    poses = scene.poses.tolist()
    camera = {"intrinsic": spec.intrinsic.tolist(), "image_size": list(spec.size), "cam_to_world": poses}
    write_json(path.with_suffix(".camera.json"), camera, indent=None, durable=False)


def check_free(out: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        DataError: Where ``out`` is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already", f"choose another folder with --out, or remove it: rm -r {out}")


def build(spec: RoomsSpec, out: Path, *, workers: int = 1, done: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Build a data set of rooms under ``out``.

    Args:
        spec: What to build.
        out: The folder; it must not exist yet, and appears only when everything in it is written.
        workers: Processes.
        done: Called once a scene.

    Returns:
        The data set's card.

    Raises:
        DataError: Where ``out`` exists or cannot be written.
    """
    check_free(out)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        card = _build(spec, temporary, workers, done)
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return card


def _build(spec: RoomsSpec, out: Path, workers: int, done: Callable[[], object]) -> dict[str, Any]:
    val = round(spec.scenes * spec.val)
    splits: dict[str, list[BuiltScene]] = {"train": [], "val": []}
    # Closed also where the loop ends early, so that an interrupt does not wait for the whole data set.
    with closing(ordered(range(spec.scenes), partial(build_scene, spec=spec, out=out), workers)) as stream:
        for index, built in enumerate(stream):
            splits["train" if index < spec.scenes - val else "val"].append(built)
            done()
    counts: dict[str, Any] = {}
    for split, scenes in splits.items():
        counts[split] = _write_split(out, split, scenes, spec)
    card = {
        "schema": 1,
        "dataset": "rooms",
        "options": asdict(spec),
        "counts": counts,
        "versions": versions(),
    }
    write_json(out / "rooms.card.json", card)
    return card


def _write_split(out: Path, split: str, scenes: list[BuiltScene], spec: RoomsSpec) -> dict[str, int]:
    with atomic_writer(out / f"scannetv2_{split}.txt") as stream:
        stream.writelines(f"{scene.name}\n" for scene in scenes)
    infos = {"metainfo": {"categories": CATEGORIES}, "data_list": [scene.entry for scene in scenes]}
    write_json(out / f"embodiedscan_infos_{split}.json", infos, indent=None)
    counts = {"scenes": len(scenes)}
    if spec.described:
        described = [row for scene in scenes for row in scene.descriptions]
        write_json(out / f"ScanRefer_filtered_{split}.json", described, indent=None)
        counts["descriptions"] = len(described)
        if spec.clips:
            rows = [row for scene in scenes for row in scene.questions]
            # VSI-Bench's own file is test.jsonl; questions about train scenes have the same form.
            with atomic_writer(out / "vsibench" / ("test.jsonl" if split == "val" else "train.jsonl")) as stream:
                stream.writelines(json.dumps({"id": i, **row}) + "\n" for i, row in enumerate(rows))
            counts["questions"] = len(rows)
    return counts
