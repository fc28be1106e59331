"""Rooms on disk, as ScanNet, EmbodiedScan, ScanRefer and VSI-Bench ship theirs."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.files import atomic_path, write_bytes, write_json
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare.rooms.render import CEILING, FIRST_ITEM, FLOOR, WALL, Image, Surface
from rft3d_cli.prepare.rooms.scene import Scene
from rft3d_cli.prepare.sens import write_sens

JPEG_QUALITY = 92
ROOM_LABELS = {FLOOR: "floor", WALL: "wall", CEILING: "ceiling"}


def jpeg(image: Image) -> bytes:
    """The colour image as a JPEG without chroma subsampling: small frames need their colours."""
    from PIL import Image as Pil

    buffer = io.BytesIO()
    Pil.fromarray(image.colour).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def write_scan(
    folder: Path, scene: Scene, images: list[Image], surfaces: list[Surface], times: Floats, k: Floats
) -> None:
    """Write one scan: ``.sens``, ``.txt``, mesh, segments and aggregation.

    Args:
        folder: ``scans/<scene>``.
        scene: What was rendered.
        images: One a frame.
        surfaces: The scene's polygons.
        times: ``(n,)`` seconds.
        k: ``(3, 3)`` intrinsic matrix of colour and depth.
    """
    height, width = images[0].depth.shape
    write_sens(
        folder / f"{scene.name}.sens",
        colours=[jpeg(image) for image in images],
        depths=[np.round(image.depth * 1000).astype(np.uint16) for image in images],
        poses=scene.scan_poses,
        times=times,
        intrinsic_colour=k,
        intrinsic_depth=k,
        colour_size=(width, height),
        depth_size=(width, height),
    )
    _write_text(folder / f"{scene.name}.txt", scene, len(images), width, height, k)
    segments = _write_mesh(folder / f"{scene.name}_vh_clean_2.ply", scene, surfaces)
    _write_segments(folder, scene, surfaces, segments)


def _write_text(path: Path, scene: Scene, frames: int, width: int, height: int, k: Floats) -> None:
    align = " ".join(f"{value:.6f}" for value in scene.axis_align.ravel())
    lines = [
        f"axisAlignment = {align}",
        f"colorHeight = {height}",
        f"colorToDepthExtrinsics = {' '.join(f'{value:.6f}' for value in np.eye(4).ravel())}",
        f"colorWidth = {width}",
        f"depthHeight = {height}",
        f"depthWidth = {width}",
        *(f"{name}_{image} = {k[row, column]:.6f}"
          for image in ("color", "depth")
          for name, row, column in (("fx", 0, 0), ("fy", 1, 1), ("mx", 0, 2), ("my", 1, 2))),
        f"numColorFrames = {frames}",
        f"numDepthFrames = {frames}",
        "numIMUmeasurements = 0",
        "sceneType = Rooms",
    ]  # fmt: skip
    write_bytes(path, ("\n".join(lines) + "\n").encode(), durable=False)


def _write_mesh(path: Path, scene: Scene, surfaces: list[Surface]) -> list[int]:
    """Write the mesh in the scan's own world; returns the segment of every vertex (one segment a part)."""
    back = np.linalg.inv(scene.axis_align)
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {sum(len(s.points) for s in surfaces)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
        f"element face {sum(len(s.points) - 2 for s in surfaces)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    keys: dict[tuple[int, int], int] = {}
    segments: list[int] = []
    vertices, faces = bytearray(), bytearray()
    for surface in surfaces:
        segment = keys.setdefault((surface.instance, surface.part), len(keys))
        first = len(segments)
        colour = [round(c * 255) for c in surface.colour]
        for point in surface.points @ back[:3, :3].T + back[:3, 3]:
            vertices += struct.pack("<fffBBBB", *point, *colour, 255)
            segments.append(segment)
        for i in range(1, len(surface.points) - 1):
            faces += struct.pack("<Biii", 3, first, first + i, first + i + 1)
    with atomic_path(path, durable=False) as temporary:
        temporary.write_bytes(header.encode() + vertices + faces)
    return segments


def _write_segments(folder: Path, scene: Scene, surfaces: list[Surface], segments: list[int]) -> None:
    base = f"{scene.name}_vh_clean_2"
    write_json(
        folder / f"{base}.0.010000.segs.json",
        {"params": {"kThresh": "0.010000", "segMinVerts": "20"}, "sceneId": scene.name, "segIndices": segments},
        indent=None,
        durable=False,
    )
    groups: dict[int, list[int]] = {}
    vertex = 0
    for surface in surfaces:
        members = groups.setdefault(surface.instance, [])
        if segments[vertex] not in members:
            members.append(segments[vertex])
        vertex += len(surface.points)
    # Pieces first, so that objectId is the piece's index; the room's own surfaces follow.
    order = sorted(groups, key=lambda instance: (instance < FIRST_ITEM, instance))
    aggregated = []
    for number, instance in enumerate(order):
        label = ROOM_LABELS[instance] if instance < FIRST_ITEM else scene.items[instance - FIRST_ITEM].label
        aggregated.append({"id": number, "objectId": number, "segments": groups[instance], "label": label})
    write_json(
        folder / f"{scene.name}.aggregation.json",
        {"sceneId": f"scannet.{scene.name}", "appId": "Aggregator.v2", "segGroups": aggregated},
        indent=None,
        durable=False,
    )


def embodiedscan_entry(
    scene: Scene, images: list[Image], k: Floats, categories: dict[str, int], least_pixels: int
) -> dict[str, Any]:
    """One ``data_list`` entry of EmbodiedScan's infos.

    ``visible_instance_ids`` are indices into ``instances``, as in EmbodiedScan: the pieces of which a frame shows at
    least ``least_pixels`` pixels, and in uncertain rooms also those that no frame shows.
    """
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = k
    frames = []
    for index, image in enumerate(images):
        counts = np.bincount(image.instance.ravel(), minlength=FIRST_ITEM + len(scene.items))[FIRST_ITEM:]
        shown = [i for i in range(len(scene.items)) if counts[i] >= least_pixels or i in scene.hidden]
        frames.append(
            {
                "img_path": f"scannet/posed_images/{scene.name}/{index:05d}.jpg",
                "depth_path": f"scannet/posed_images/{scene.name}/{index:05d}.png",
                "cam2global": scene.scan_poses[index].tolist(),
                "visible_instance_ids": shown,
            }
        )
    return {
        "sample_idx": f"scannet/{scene.name}",
        "axis_align_matrix": scene.axis_align.tolist(),
        "cam2img": intrinsic.tolist(),
        "images": frames,
        "instances": [
            {"bbox_3d": item.box.tolist(), "bbox_label_3d": categories[item.label], "bbox_id": index}
            for index, item in enumerate(scene.items)
        ],
    }
