"""Small rooms in the layouts of EmbodiedScan's data folder, written here from the layouts' description.

Three rooms become ``3rscan/<uuid>/sequence/frame-000000.color.jpg``, pictures that lie on their side as a phone's do;
``matterport3d/<building>/matterport_color_images/<tripod>_i<camera>_<heading>.jpg``, each with its own camera; and
``arkitscenes/Training/<video>/<video>_frames/lowres_wide/<video>_<seconds>.png``.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from small_rooms import infos, raw_frames

SAMPLES = {
    "3rscan": "3rscan/0cac7578-8d6f-2d13-8c2d-bfa7a04f8af3",
    "matterport3d": "matterport3d/17DRP5sb8fy/region0",
    "arkitscenes": "arkitscenes/Training/40753679",
}
START = 3048.737


@dataclass(frozen=True)
class World:
    """The data folder, its infos, and what they were made from: the room's entry and pictures by data set."""

    data: Path
    infos: dict[str, Any]
    rooms: dict[str, dict[str, Any]]
    colours: dict[str, list[bytes]]

    def entry(self, dataset: str, infos: dict[str, Any] | None = None) -> dict[str, Any]:
        found = (infos or self.infos)["data_list"]
        return next(e for e in found if e["sample_idx"] == SAMPLES[dataset])

    def copy(self) -> dict[str, Any]:
        return copy.deepcopy(self.infos)


def build_world(rooms: Path, data: Path, size: tuple[int, int] = (96, 72)) -> World:
    """Lay out three rooms; needs rooms of which ``embodiedscan_infos_train.json`` lists three, with such pictures."""
    source = infos(rooms)
    made, origin, colours = [], {}, {}
    for entry, dataset in zip(source["data_list"], SAMPLES, strict=True):
        scene = entry["sample_idx"].split("/")[1]
        frames = raw_frames(rooms / "scans" / scene / f"{scene}.sens")
        write = {"3rscan": _sideways, "matterport3d": _panoramas, "arkitscenes": _tablet}[dataset]
        colours[dataset] = [colour for _, colour, _ in frames]
        images, camera = write(data, entry, colours[dataset], size)
        made.append(
            {
                "sample_idx": SAMPLES[dataset],
                "axis_align_matrix": entry["axis_align_matrix"],
                "images": images,
                "instances": [{**item, "bbox_id": 100 + 3 * n} for n, item in enumerate(entry["instances"])],
                **camera,
            }
        )
        origin[dataset] = entry
    scannet = copy.deepcopy(source["data_list"][0])
    return World(data, {"metainfo": source["metainfo"], "data_list": [scannet, *made]}, origin, colours)


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


Size = tuple[int, int]


def _sideways(data: Path, entry: dict[str, Any], colours: list[bytes], size: Size) -> tuple[list, dict[str, Any]]:
    """Pictures turned a quarter to the left, with cameras turned along; every tenth frame, one of them lost."""
    k = np.array(entry["cam2img"], float)
    width, height = size
    turned = np.eye(4)
    # A pixel (u, v) comes to (v, width - 1 - u).
    turned[:2, :3] = [[k[1, 1], 0, k[1, 2]], [0, k[0, 0], width - 1 - k[0, 2]]]
    # The new camera's x axis is the old y axis, its y axis the old -x axis.
    roll = np.eye(4)
    roll[:3, :3] = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    images = []
    for n, (image, colour) in enumerate(zip(entry["images"], colours, strict=True)):
        path = f"{SAMPLES['3rscan']}/sequence/frame-{10 * n + 10 * (n > 12):06d}.color.jpg"
        with Image.open(io.BytesIO(colour)) as picture:
            assert picture.size == (width, height)
            _save(data / path, picture.rotate(90, expand=True))
        images.append(_image(path, np.array(image["cam2global"]) @ roll, image))
    return images, {"cam2img": turned.tolist(), "depth_cam2img": turned.tolist()}


def _panoramas(data: Path, entry: dict[str, Any], colours: list[bytes], size: Size) -> tuple[list, dict[str, Any]]:
    """Three cameras of a tripod, six headings; a picture of camera ``c`` is cropped, so its camera is its own."""
    images = []
    for n, (image, colour) in enumerate(zip(entry["images"], colours, strict=True)):
        camera, heading, tripod = n % 3, (n // 3) % 6, n // 18
        path = f"matterport3d/17DRP5sb8fy/matterport_color_images/{tripod:032x}_i{camera}_{heading}.jpg"
        with Image.open(io.BytesIO(colour)) as picture:
            _save(data / path, picture.crop((camera, 2, size[0] - 2 + camera, size[1] - 2)))
        own = np.array(entry["cam2img"], float)
        own[0, 2] -= camera
        own[1, 2] -= 2
        images.append({**_image(path, image["cam2global"], image), "cam2img": own.tolist()})
    return images, {}


def _tablet(data: Path, entry: dict[str, Any], colours: list[bytes], size: Size) -> tuple[list, dict[str, Any]]:
    """PNG pictures whose names end in seconds."""
    video = SAMPLES["arkitscenes"].rsplit("/", 1)[1]
    images = []
    for n, (image, colour) in enumerate(zip(entry["images"], colours, strict=True)):
        path = f"{SAMPLES['arkitscenes']}/{video}_frames/lowres_wide/{video}_{START + n / 10:.3f}.png"
        with Image.open(io.BytesIO(colour)) as picture:
            assert picture.size == size
            _save(data / path, picture)
        own = {"cam2img": entry["cam2img"]}
        images.append({**_image(path, image["cam2global"], image), **own})
    return images, {}


def _image(path: str, pose: Any, image: dict[str, Any]) -> dict[str, Any]:
    return {
        "img_path": path,
        "depth_path": path.replace("color.jpg", "depth.pgm"),
        "cam2global": np.array(pose).tolist(),
        "visible_instance_ids": image["visible_instance_ids"],
    }


def utterances(world: World) -> list[dict[str, Any]]:
    """Two sentences about each object, in the shape of ``embodiedscan_train_vg.json``."""
    names = {number: name for name, number in world.infos["metainfo"]["categories"].items()}
    out = []
    for entry in world.infos["data_list"]:
        labels = [item["bbox_label_3d"] for item in entry["instances"]]
        for item in entry["instances"]:
            same = [i["bbox_id"] for i in entry["instances"] if i["bbox_label_3d"] == item["bbox_label_3d"]]
            for words in ("find the {} that is near the wall", "choose the {}"):
                out.append(
                    {
                        "scan_id": entry["sample_idx"],
                        "target_id": item["bbox_id"],
                        "distractor_ids": [i for i in same if i != item["bbox_id"]],
                        "text": words.format(names[item["bbox_label_3d"]]),
                        "target": names[item["bbox_label_3d"]],
                        "anchors": [names[label] for label in labels[:1]],
                        "anchor_ids": [entry["instances"][0]["bbox_id"]],
                        "tokens_positive": [[9, 13]],
                    }
                )
    return out
