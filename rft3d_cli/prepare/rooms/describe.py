"""Descriptions that single out one piece of a room, in ScanRefer's form."""

from __future__ import annotations

from typing import Any

import numpy as np

from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare.rooms.scene import Item, Rng, Scene

NEAR = 1.0
"""Pieces closer than this stand next to each other, metres between their footprints."""
MARGIN = 0.4
"""How much closer the nearest piece must be than the second nearest to be called the closest, metres."""


def footprint_distance(a: Floats, b: Floats) -> float:
    """The distance between two convex polygons on the floor, metres; 0 where they meet.

    >>> square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    >>> footprint_distance(square, square + [3.0, 0.0])
    2.0
    """

    def to_edges(points: Floats, polygon: Floats) -> float:
        start, edge = polygon, np.roll(polygon, -1, axis=0) - polygon
        relative = points[:, None] - start
        along = np.clip((relative * edge).sum(-1) / (edge * edge).sum(-1), 0, 1)
        return float(np.linalg.norm(relative - along[..., None] * edge, axis=-1).min())

    return min(to_edges(a, b), to_edges(b, a))


def descriptions(rng: Rng, scene: Scene, seen: set[int]) -> list[dict[str, Any]]:
    """ScanRefer entries for the pieces in ``seen``: at most two ways to say each, none where no way singles it out."""
    out = []
    for index in sorted(seen):
        ways = _ways(scene, index, seen)
        for number, choice in enumerate(rng.permutation(len(ways))[:2]):
            text = ways[int(choice)]
            out.append(
                {
                    "scene_id": scene.name,
                    "object_id": str(index),
                    "object_name": scene.items[index].label,
                    "ann_id": str(number),
                    "description": text,
                    "token": text.replace(".", " .").replace(",", " ,").split(),
                }
            )
    return out


def _ways(scene: Scene, index: int, seen: set[int]) -> list[str]:
    item = scene.items[index]
    targets = [(i, other) for i, other in enumerate(scene.items) if other.target]
    same = [(i, other) for i, other in targets if other.label == item.label]
    name, colour = item.label, item.colour_name
    ways = []
    if len(same) == 1:
        ways += [f"this is the {name}.", f"the {colour} {name} in the room."]
        anchor = _neighbour(item, [other for i, other in targets if i != index and i in seen])
        if anchor is not None:
            ways += [f"the {name} next to the {anchor}.", f"this is a {colour} {name}. it is next to the {anchor}."]
    elif sum(other.colour_name == colour for _, other in same) == 1:
        ways += [f"the {colour} {name}.", f"of all the {name}s, this is the {colour} one."]
    for anchor_index, anchor_item in targets:
        if anchor_index not in seen or sum(o.label == anchor_item.label for _, o in targets) > 1 or len(same) < 2:
            continue
        if anchor_item.label == item.label:
            continue
        distances = sorted((footprint_distance(o.footprint, anchor_item.footprint), i) for i, o in same)
        if distances[0][1] == index and distances[1][0] - distances[0][0] > MARGIN:
            ways.append(f"the {name} closest to the {anchor_item.label}.")
    return ways


def _neighbour(item: Item, others: list[Item]) -> str | None:
    """The class of the piece that stands next to ``item``, where that class names one piece."""
    close = [o for o in others if footprint_distance(item.footprint, o.footprint) < NEAR]
    unique = [o for o in close if sum(p.label == o.label for p in others) == 1]
    if not unique:
        return None
    return min(unique, key=lambda o: footprint_distance(item.footprint, o.footprint)).label
