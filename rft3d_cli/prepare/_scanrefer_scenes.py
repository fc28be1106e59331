"""What the preparations of ScanRefer's descriptions share: the scenes of a file with their scans and objects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.iou import box_iou
from rft3d_cli.prepare.embodiedscan import Frame, Scan, read_infos
from rft3d_cli.prepare.pipeline import Part, Quarantine
from rft3d_cli.prepare.scanfiles import object_boxes
from rft3d_cli.prepare.scannet import tracked_frames
from rft3d_cli.prepare.scanrefer_file import Description, read_descriptions
from rft3d_cli.prepare.splits import Split, chosen

MATCH = 0.5
"""Least overlap of an aggregation's box with the annotated instance that stands for the same object."""
NOTHING = (
    "descriptions and annotations must be of the same scenes: ScanRefer's val scenes are in EmbodiedScan's "
    "embodiedscan_infos_test.pkl"
)
"""What to try where no record results."""


@dataclass(frozen=True)
class DescribedScene:
    """One scene of a file of descriptions.

    Args:
        scene: Its name.
        scan: Its annotations; None where there are none to use.
        problem: Why not, where annotations are there but wrong.
        entries: Its descriptions, in the file's order.
        wrong: What is wrong with entries of the file; kept with its first scene.
    """

    scene: str
    scan: Scan | None
    problem: str | None
    entries: tuple[Description, ...]
    wrong: tuple[str, ...] = field(default=())

    def annotated(self) -> Scan:
        """The scan.

        Raises:
            Quarantine: Where there is none.
        """
        if self.scan is None:
            reason = "no annotations" if self.problem is None else "wrong annotations"
            raise Quarantine(reason, self.problem or f"{self.scene} is described but not annotated")
        return self.scan

    def note_wrong(self, part: Part) -> Part:
        """The part, with what is wrong with entries of the file among its rejects."""
        for detail in self.wrong:
            part.rejects.append({"what": "description", "scene": None, "reason": "wrong entry", "entry": detail})
        return part


def described_scenes(descriptions: Path, annotations: Path, split: Split) -> list[DescribedScene]:
    """The scenes to work on, in the order of the descriptions.

    Args:
        descriptions: ``ScanRefer_filtered_*.json``.
        annotations: EmbodiedScan infos with the scenes' frames.
        split: Which scenes.

    Raises:
        DataError: Where a file cannot be used, or lacks a scene that the split names.
    """
    entries, wrong = read_descriptions(descriptions)
    if not entries:
        raise DataError(f"{descriptions} holds no descriptions")
    infos = read_infos(annotations)
    by_scene: dict[str, list[Description]] = {}
    for entry in entries:
        by_scene.setdefault(entry.scene, []).append(entry)
    scenes = [
        DescribedScene(scene, infos.scans.get(scene), infos.bad.get(scene), tuple(by_scene[scene]))
        for scene in chosen(split, list(by_scene), str(descriptions))
    ]
    if wrong and scenes:
        scenes[0] = replace(scenes[0], wrong=tuple(wrong))
    return scenes


def frames_with_pose(scan: Scan, part: Part) -> list[Frame]:
    """The frames whose pose is known, as listed; the others are counted in ``part``.

    Raises:
        Quarantine: Where there is none.
    """
    usable = tracked_frames(scan, part)
    if not usable:
        raise Quarantine("no tracked frame", f"{scan.scene}: no listed frame has a pose")
    return usable


def match_objects(scan: Scan, folder: Path, wanted: set[int]) -> dict[int, tuple[str, Floats, int | None]]:
    """Name, axis-aligned box and annotated instance of the described objects.

    Where each instance has the label of the aggregation's object of the same number, as in rooms, numbers agree.
    Otherwise an object's instance is the one whose box overlaps the object's best, by an IoU of at least 0.5, as in
    VG-LLM's data.

    Args:
        scan: The annotated scan.
        folder: Its own folder, with mesh, segments and aggregation.
        wanted: Object ids.

    Returns:
        Label, ``(9,)`` box in the axis-aligned world, and index of the instance or None, by object id. Objects that
        the aggregation does not have are absent.
    """
    objects = object_boxes(folder, scan.axis_align)
    same = len(scan.instances) > 0 and all(
        number in objects and objects[number][0] == label for number, label in enumerate(scan.instances.labels)
    )
    out: dict[int, tuple[str, Floats, int | None]] = {}
    for number in sorted(wanted & objects.keys()):
        label, box = objects[number]
        instance: int | None = None
        if same:
            instance = number if number < len(scan.instances) else None
        elif len(scan.instances):
            overlaps = box_iou(box[None], scan.instances.boxes)[0]
            best = int(overlaps.argmax())
            instance = best if overlaps[best] >= MATCH else None
        out[number] = label, box, instance
    return out
