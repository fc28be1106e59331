"""Small rooms in the posed layout, by a writer that shares no code with its reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation
from small_rooms import SMALL, infos, raw_frames

from rft3d_cli.prepare.pipeline import Policy, Report, Store
from rft3d_cli.prepare.posed import PosedSpec, Stride, prepare_posed
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records

SIZE = (96, 72)
GL = np.diag([1.0, -1.0, -1.0, 1.0])


def matrix(box: list[float]) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler("ZXY", box[6:]).as_matrix()
    out[:3, 3] = box[:3]
    return out


def nine(pose: np.ndarray, size: list[float]) -> list[float]:
    return [*pose[:3, 3], *size, *Rotation.from_matrix(pose[:3, :3]).as_euler("ZXY")]


def write_posed(rooms: Path, out: Path, convention: str = "opencv", depth: bool = False, form: str = "nine") -> Path:
    data = infos(rooms)
    names = {number: name for name, number in data["metainfo"]["categories"].items()}
    told = json.loads((rooms / "ScanRefer_filtered_train.json").read_text())
    for entry in data["data_list"]:
        scene = entry["sample_idx"].split("/")[1]
        folder = out / scene
        (folder / "frames").mkdir(parents=True)
        frames = {}
        for number, (_, colour, metres) in enumerate(raw_frames(rooms / "scans" / scene / f"{scene}.sens")):
            (folder / "frames" / f"{number:05d}.jpg").write_bytes(colour)
            pose = np.array(entry["images"][number]["cam2global"])
            pose = pose @ GL if convention == "opengl" else pose
            frames[f"{number:05d}.jpg"] = {"cam_to_world": pose.tolist(), "time": number / SMALL.fps}
            if depth:
                (folder / "depth").mkdir(exist_ok=True)
                Image.fromarray(np.round(metres * 1000).astype(np.uint16)).save(folder / "depth" / f"{number:05d}.png")
        align = np.array(entry["axis_align_matrix"])
        cameras = {
            "intrinsic": [row[:3] for row in entry["cam2img"][:3]],
            "image_size": SIZE,
            "axis_align": align.tolist(),
            "convention": convention,
            "frames": frames,
        }
        boxes = []
        for item in entry["instances"]:
            pose = np.linalg.inv(align) @ matrix(item["bbox_3d"])
            size = item["bbox_3d"][3:6]
            box: dict[str, Any] = {"label": names[item["bbox_label_3d"]], "id": str(item["bbox_id"])}
            if form == "nine":
                box["bbox_3d"] = nine(pose, size)
            else:
                turn = Rotation.from_matrix(pose[:3, :3])
                rotation = turn.as_matrix() if form == "matrix" else turn.as_quat()
                box |= {"center": pose[:3, 3].tolist(), "size": size, "rotation": rotation.tolist()}
            boxes.append(box)
        described = [
            {
                "object": int(row["object_id"]),
                "description": row["description"],
                "id": f"{row['object_id']}/{row['ann_id']}",
            }
            for row in told
            if row["scene_id"] == scene
        ]
        save(folder, "cameras", cameras)
        save(folder, "boxes", boxes)
        save(folder, "descriptions", described)
    return out


def save(folder: Path, name: str, value: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(value))


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def run(scans: Path, out: Path, policy: Policy | None = None, **spec: Any) -> Report:
    return prepare_posed(
        scans=scans,
        store=Store(scans, write=False),
        split=Split("train"),
        out=out,
        media_root=scans,
        spec=PosedSpec(**{"stride": Stride(3, False), **spec}),
        policy=policy or Policy(),
    )


def records(report: Report, task: str) -> list[Record]:
    return [record for record in read_records(report.out).records if record.task == task]


def change(scans: Path, name: str, edit: Callable[[Any], Any]) -> Path:
    for folder in scans.iterdir():
        value = load(folder, name)
        changed = edit(value)
        save(folder, name, value if changed is None else changed)
    return scans
