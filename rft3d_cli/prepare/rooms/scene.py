"""A furnished room: sizes, positions and colours drawn from one seeded generator.

Everything lies in the *axis-aligned* world: the floor is z = 0, walls are parallel to x and y, metres. The scan's own
world differs from it by ``axis_align`` (a yaw and a shift), as in ScanNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rft3d_cli.geometry.boxes import Floats, rotation_from_angles
from rft3d_cli.prepare.rooms.catalogue import CATALOGUE, CLASSES, COLOURS, Part

Rng = np.random.Generator

MOST_OF_A_KIND = 3
"""Pieces of one class in a room, at most."""


@dataclass(frozen=True)
class Item:
    """One piece in a room.

    Args:
        label: Its class.
        colour_name: A key of :data:`~rft3d_cli.prepare.rooms.catalogue.COLOURS`.
        colour: Linear RGB in [0, 1], the named colour with some jitter.
        box: ``(9,)`` in the axis-aligned world; only yaw is non-zero, in [-π/2, π/2) for a box looks the same after
            half a turn.
        turn: The direction of the piece's front: yaw in radians, any value.
        parts: Its primitives.
        target: Whether it is furniture to be found; partitions are not.
    """

    label: str
    colour_name: str
    colour: tuple[float, float, float]
    box: Floats
    turn: float
    parts: tuple[Part, ...]
    target: bool = True

    @property
    def footprint(self) -> Floats:
        """``(4, 2)`` corners on the floor, metres, in order around the piece."""
        return footprint(self.box[:2], self.box[3:5], self.turn)


@dataclass(frozen=True)
class Scene:
    """A room with its contents.

    Args:
        name: ScanNet-shaped, ``scene0000_00``.
        size: Width, depth and height of the room, metres; it spans ``[0, size]``.
        items: Pieces, in the order in which annotations list them.
        wall: Colour of the walls.
        floor: Colour of the floor.
        axis_align: ``(4, 4)`` from the scan's world to this one.
        hidden: Indices of pieces that no frame shows and annotations list all the same (``uncertain`` rooms).
        kind: ``plain``, ``clear`` or ``uncertain``.
        poses: ``(n, 4, 4)`` camera to axis-aligned world, as the files' float32 poses give them back.
        scan_poses: ``(n, 4, 4)`` camera to the scan's own world, float32 values.
    """

    name: str
    size: tuple[float, float, float]
    items: tuple[Item, ...]
    wall: tuple[float, float, float]
    floor: tuple[float, float, float]
    axis_align: Floats
    poses: Floats
    hidden: tuple[int, ...] = ()
    kind: str = "plain"
    scan_poses: Floats = field(init=False)

    def __post_init__(self) -> None:
        # A reader gets float32 poses in the scan's world back. Frames are rendered from what the files say, so that
        # annotations are exact for them.
        scan = (np.linalg.inv(self.axis_align) @ self.poses).astype(np.float32).astype(np.float64)
        object.__setattr__(self, "scan_poses", scan)
        object.__setattr__(self, "poses", self.axis_align @ scan)


def footprint(centre: Sequence[float] | Floats, size: Sequence[float] | Floats, yaw: float) -> Floats:
    """Corners ``(4, 2)`` of a rectangle on the floor, turned by ``yaw`` radians."""
    half = np.asarray(size[:2], dtype=np.float64) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    c, s = np.cos(yaw), np.sin(yaw)
    turned: Floats = corners @ np.array([[c, s], [-s, c]]) + np.asarray(centre[:2])
    return turned


def overlap(a: Floats, b: Floats, gap: float = 0.0) -> bool:
    """Whether two convex polygons on the floor come closer than ``gap`` along a separating axis of either.

    >>> square = footprint((0, 0), (1, 1), 0.0)
    >>> overlap(square, square + [1.2, 0]), overlap(square, square + [1.2, 0], gap=0.3)
    (False, True)
    """
    for polygon in (a, b):
        edges = np.roll(polygon, -1, axis=0) - polygon
        normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        pa, pb = a @ normals.T, b @ normals.T
        distance = np.maximum(pb.min(0) - pa.max(0), pa.min(0) - pb.max(0))
        if (distance >= gap).any():
            return False
    return True


def make_item(rng: Rng, label: str, centre: tuple[float, float], turn: float) -> Item:
    """A piece of class ``label`` with drawn size and colour, standing on the floor at ``centre``."""
    kind = CATALOGUE[label]
    size = [round(float(rng.uniform(*span)), 3) for span in (kind.width, kind.depth, kind.height)]
    name = kind.colours[int(rng.integers(len(kind.colours)))]
    shade = rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, size=3)
    colour = np.clip(np.array(COLOURS[name]) * shade, 0, 1).tolist()
    yaw = (turn + np.pi / 2) % np.pi - np.pi / 2
    box = np.array([*centre, size[2] / 2, *size, yaw, 0.0, 0.0])
    return Item(label, name, (colour[0], colour[1], colour[2]), box, turn, kind.parts)


def draw_axis_align(rng: Rng) -> Floats:
    """A yaw and a shift, never the identity: files that forget ``axisAlignment`` must fail loudly."""
    matrix = np.eye(4)
    yaw = rng.uniform(0.2, np.pi - 0.2) * (1 if rng.random() < 0.5 else -1)
    matrix[:3, :3] = rotation_from_angles([yaw, 0.0, 0.0])
    matrix[:3, 3] = [*rng.uniform(-3, 3, size=2), rng.uniform(-0.2, 0.2)]
    # ScanNet's text files hold six decimals; the world is defined by what is written.
    return np.round(matrix, 6)


def draw_colours(rng: Rng) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Wall and floor colours: pale walls, wooden or gray floors."""
    tint = rng.uniform(-0.04, 0.04, size=3)
    wall = np.clip(rng.uniform(0.68, 0.86) + tint, 0, 1)
    floors = ((0.55, 0.42, 0.29), (0.46, 0.36, 0.28), (0.52, 0.52, 0.52), (0.62, 0.56, 0.46))
    floor = np.clip(np.array(floors[int(rng.integers(len(floors)))]) * rng.uniform(0.9, 1.1), 0, 1)
    return tuple(wall.tolist()), tuple(floor.tolist())


def furnish(
    rng: Rng,
    size: tuple[float, float, float],
    count: int,
    *,
    classes: Sequence[str] = CLASSES,
    repeat: float = 0.35,
    gap: float = 0.12,
    taken: Sequence[Item] = (),
) -> tuple[Item, ...]:
    """Place ``count`` pieces without overlap; fewer where the room is full.

    Pieces of wall classes stand near a wall with their back to it, turned by up to 20°; the others stand anywhere,
    turned by any angle.

    Args:
        rng: Generator.
        size: The room's size, metres.
        count: Pieces wanted.
        classes: Classes to draw from.
        repeat: Chance that a piece repeats a class that is already there, so that counting has something to count.
        gap: Least distance between pieces, metres.
        taken: Pieces that already stand there.
    """
    items: list[Item] = []
    for _ in range(count * 12):
        if len(items) == count:
            break
        if items and rng.random() < repeat:
            label = items[int(rng.integers(len(items)))].label
        else:
            label = classes[int(rng.integers(len(classes)))]
        if sum(other.label == label for other in items) == MOST_OF_A_KIND:
            continue
        item = _place(rng, label, size)
        if fits(item, size, [*taken, *items], gap):
            items.append(item)
    return tuple(items)


def fits(item: Item, size: tuple[float, float, float], others: Sequence[Item], gap: float) -> bool:
    """Whether a piece lies inside the room and keeps ``gap`` metres from the others."""
    corners = item.footprint
    inside = bool((corners >= 0.03).all() and (corners <= np.array(size[:2]) - 0.03).all())
    return inside and not any(overlap(corners, other.footprint, gap) for other in others)


def sorted_items(items: Sequence[Item]) -> tuple[Item, ...]:
    """Pieces in the order of annotations: by class, then from one wall to the other, so that lists can be learned."""
    return tuple(sorted(items, key=lambda item: (item.label, float(item.box[0]), float(item.box[1]))))


def _place(rng: Rng, label: str, size: tuple[float, float, float]) -> Item:
    width, depth, _ = size
    if not CATALOGUE[label].at_wall:
        centre = (float(rng.uniform(0, width)), float(rng.uniform(0, depth)))
        return make_item(rng, label, centre, float(rng.uniform(-np.pi, np.pi)))
    # Front +y at turn 0: the wall y = 0 is behind; the other walls follow by quarter turns.
    quarter = int(rng.integers(4))
    turn = quarter * np.pi / 2 + float(rng.uniform(-np.pi / 9, np.pi / 9))
    item = make_item(rng, label, (0.0, 0.0), turn)
    reach = np.abs(item.footprint).max(axis=0)
    free = float(rng.uniform(0.05, 0.20))
    x, y = float(rng.uniform(reach[0], max(reach[0], width - reach[0]))), 0.0
    if quarter == 0:
        y = float(reach[1]) + free
    elif quarter == 2:
        y = depth - float(reach[1]) - free
    else:
        y = float(rng.uniform(reach[1], max(reach[1], depth - reach[1])))
        x = float(reach[0]) + free if quarter == 3 else width - float(reach[0]) - free
    box = item.box.copy()
    box[:2] = x, y
    return Item(item.label, item.colour_name, item.colour, box, item.turn, item.parts)
