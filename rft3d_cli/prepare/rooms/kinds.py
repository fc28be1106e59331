"""The kinds of rooms: ``plain`` ones, ``clear`` ones, and ``uncertain`` ones whose labels cannot all be seen.

A plain room is furnished and walked through. In a clear room one or two pieces stand in front of a camera that hardly
moves: the easiest case there is. An uncertain room is a clear one with a hidden piece and pieces out of view.

Real labels are of the uncertain kind: VG-LLM's detection targets have no visibility filter, so boxes that are hidden
or lie outside the reference view must be listed too. What a model cannot see it can only guess, and guessing well is
where optimising the metric and fitting the labels part ways.
"""

from __future__ import annotations

import numpy as np

from rft3d_cli.errors import Rft3dError
from rft3d_cli.geometry.boxes import Floats, transform_boxes
from rft3d_cli.geometry.camera import invert_rigid, projected_bounds
from rft3d_cli.prepare.rooms.catalogue import COLOURS, Part
from rft3d_cli.prepare.rooms.path import look_at, shake, walk
from rft3d_cli.prepare.rooms.scene import (
    Item,
    Rng,
    Scene,
    draw_axis_align,
    draw_colours,
    fits,
    furnish,
    make_item,
    sorted_items,
)

SIZE = (7.0, 6.6, 2.7)
"""Width, depth and height of uncertain rooms, metres."""
CLEAR_SIZE = ((5.0, 8.0), (5.0, 7.5), (2.4, 2.8))
"""The same of clear rooms, least and most."""
TRIES = 200
"""Rooms drawn before giving up; one in three fits."""

VISIBLE_CLASSES = ("bed", "couch", "desk", "ottoman", "refrigerator", "table")
TINTS = {"ottoman": "purple", "refrigerator": "gray", "toilet": "yellow"}
"""Classes behind a partition, each announced by the partition's tint."""
UNSEEN_CLASSES = (*VISIBLE_CLASSES, "toilet")
FLUSH = 0.35
"""Share of hidden pieces that stand right behind their partition; the others stand 0.8–1.6 m behind it."""
IN_VIEW = (1.4, 3.0)
"""How far pieces in plain view stand from the camera, metres: a frame of 64 pixels shows what they are, and where."""
OUT_OF_VIEW = (0.3, 0.2, 0.5)
"""Chances of 0, 1 and 2 pieces that no frame shows."""


def plain_room(rng: Rng, name: str, times: Floats, objects: tuple[int, int]) -> Scene:
    """A room with ``objects`` (least, most) pieces and a walk through it.

    Args:
        rng: Generator.
        name: The scene's name.
        times: ``(n,)`` seconds, one a frame.
        objects: Range of piece counts, both ends included.
    """
    for _ in range(TRIES):
        size = (float(rng.uniform(3.4, 5.8)), float(rng.uniform(3.4, 5.8)), float(rng.uniform(2.4, 2.8)))
        count = int(rng.integers(objects[0], objects[1] + 1))
        items = sorted_items(furnish(rng, size, count))
        poses = walk(rng, size, items, times)
        if len(items) == count and poses is not None:
            wall, floor = draw_colours(rng)
            return Scene(name, size, items, wall, floor, draw_axis_align(rng), poses)
    raise Rft3dError(f"no room with {objects[1]} pieces could be furnished", "ask for fewer with --objects")


def clear_room(rng: Rng, name: str, times: Floats, intrinsic: Floats, image_size: tuple[int, int]) -> Scene:
    """A room with one or two pieces in plain view of a camera that stands almost still, and nothing else."""
    for _ in range(TRIES):
        width, depth, height = (float(rng.uniform(*span)) for span in CLEAR_SIZE)
        size = (width, depth, height)
        eye, poses = _almost_still(rng, size, times)
        views = [invert_rigid(pose) for pose in poses]
        side = 1.0 if rng.random() < 0.5 else -1.0
        visible = _plainly_visible(rng, size, eye, side, [], views, intrinsic, image_size)
        if visible:
            wall, floor = draw_colours(rng)
            return Scene(name, size, sorted_items(visible), wall, floor, draw_axis_align(rng), poses, kind="clear")
    raise Rft3dError("no clear room could be furnished")


def uncertain_room(rng: Rng, name: str, times: Floats, intrinsic: Floats, image_size: tuple[int, int]) -> Scene:
    """A room with a partition that hides one piece completely, and with pieces beside and behind the camera.

    The camera stands almost still. One or two pieces are in plain view; one is hidden behind a tall tinted partition,
    its class told by the tint, its distance behind the partition not; none, one or two more lie out of view. All are
    annotated, in that order.
    """
    for _ in range(TRIES):
        scene = _uncertain(rng, name, times, intrinsic, image_size)
        if scene is not None:
            return scene
    raise Rft3dError("no uncertain room could be furnished")


def _uncertain(rng: Rng, name: str, times: Floats, intrinsic: Floats, image_size: tuple[int, int]) -> Scene | None:
    size = SIZE
    eye, poses = _almost_still(rng, size, times)

    label = list(TINTS)[int(rng.integers(len(TINTS)))]
    side = 1.0 if rng.random() < 0.5 else -1.0
    partition = _partition(rng, label, eye[:2] + np.array([side * rng.uniform(0.3, 0.7), rng.uniform(2.3, 2.8)]))
    hidden = _behind(rng, label, partition, eye)
    if not fits(hidden, size, [], 0.0):
        return None
    views = [invert_rigid(pose) for pose in poses]
    visible = _plainly_visible(rng, size, eye, -side, [partition, hidden], views, intrinsic, image_size)
    if not visible:
        return None
    outside: list[Item] = []
    wanted = int(rng.choice(3, p=OUT_OF_VIEW))
    for _ in range(60):
        if len(outside) == wanted:
            break
        at = (float(rng.uniform(0.4, size[0] - 0.4)), float(rng.uniform(0.4, size[1] - 0.4)))
        label = UNSEEN_CLASSES[int(rng.integers(len(UNSEEN_CLASSES)))]
        item = make_item(rng, label, at, _along_walls(rng))
        far = np.linalg.norm(item.box[:2] - eye[:2]) > 1.0
        if (
            far
            and fits(item, size, [partition, hidden, *visible, *outside], 0.1)
            and _unseen(item, views, intrinsic, image_size)
        ):
            outside.append(item)
    if len(outside) < wanted:
        return None
    wall, floor = draw_colours(rng)
    items = (*sorted_items(visible), hidden, *outside, partition)
    unseen = tuple(range(len(visible), len(items) - 1))
    return Scene(name, size, items, wall, floor, draw_axis_align(rng), poses, unseen, "uncertain")


def _almost_still(rng: Rng, size: tuple[float, float, float], times: Floats) -> tuple[Floats, Floats]:
    """Where a camera stands, ``(3,)``, and its poses ``(n, 4, 4)``: it looks down into the room and drifts sideways."""
    eye = np.array([size[0] / 2 + rng.uniform(-0.3, 0.3), 1.7, 1.45 + rng.uniform(-0.08, 0.08)])
    aim = eye + np.array([rng.uniform(-0.25, 0.25), 3.0, -0.75 + rng.uniform(-0.1, 0.1)])
    drift = 0.15 * times[:, None] * np.array([1.0 if rng.random() < 0.5 else -1.0, 0.0, 0.0])
    roll = shake(rng, times, np.radians(1.5))
    return eye, np.stack([look_at(eye + d, aim + d, float(r)) for d, r in zip(drift, roll, strict=True)])


def _plainly_visible(
    rng: Rng,
    size: tuple[float, float, float],
    eye: Floats,
    side: float,
    others: list[Item],
    views: list[Floats],
    intrinsic: Floats,
    image_size: tuple[int, int],
) -> list[Item]:
    """One or two pieces whose middle every frame shows, mostly on one ``side``; none where they do not fit."""
    found: list[Item] = []
    wanted = int(rng.integers(1, 3))
    for _ in range(20):
        if len(found) == wanted:
            return found
        item = _in_view(rng, eye, side)
        if fits(item, size, [*others, *found], 0.1) and _inside(item, views, intrinsic, image_size):
            found.append(item)
    return found if len(found) == wanted else []


def _partition(rng: Rng, label: str, at: Floats) -> Item:
    tint = TINTS[label]
    colour = tuple(float(np.clip(0.85 * c + 0.15 + rng.uniform(-0.03, 0.03), 0, 1)) for c in COLOURS[tint])
    yaw = float(rng.uniform(-0.12, 0.12))
    box = np.array([at[0], at[1], 1.0, rng.uniform(1.0, 1.15), 0.06, 2.0, yaw, 0.0, 0.0])
    part = Part("box", (-0.5, 0.5), (-0.5, 0.5), (-0.5, 0.5))
    return Item("wall", tint, (colour[0], colour[1], colour[2]), box, yaw, (part,), target=False)


def _behind(rng: Rng, label: str, partition: Item, eye: Floats) -> Item:
    """The hidden piece, on the line of sight through the partition's middle, its back parallel to the partition."""
    item = make_item(rng, label, (0.0, 0.0), float(partition.turn) + np.pi)
    away = partition.box[:2] - eye[:2]
    away /= np.linalg.norm(away)
    gap = 0.02 if rng.random() < FLUSH else float(rng.uniform(0.8, 1.6))
    box = item.box.copy()
    box[:2] = partition.box[:2] + away * (partition.box[4] / 2 + item.box[4] / 2 + gap)
    return Item(item.label, item.colour_name, item.colour, box, item.turn, item.parts)


def _in_view(rng: Rng, eye: Floats, side: float) -> Item:
    distance = float(rng.uniform(*IN_VIEW))
    across = side * float(rng.uniform(-0.1, 0.5)) * distance
    label = VISIBLE_CLASSES[int(rng.integers(len(VISIBLE_CLASSES)))]
    at = (float(eye[0]) + across, float(eye[1]) + distance)
    return make_item(rng, label, at, _along_walls(rng))


def _along_walls(rng: Rng) -> float:
    """A turn that leaves a piece nearly parallel to the walls, as most furniture stands."""
    return int(rng.integers(4)) * np.pi / 2 + float(rng.uniform(-np.pi / 15, np.pi / 15))


def _inside(item: Item, views: list[Floats], intrinsic: Floats, image_size: tuple[int, int]) -> bool:
    """Whether the piece's middle is in the picture in every frame."""
    for view in views:
        x, y, z = view[:3, :3] @ item.box[:3] + view[:3, 3]
        if z < 0.5:
            return False
        u, v = intrinsic[0, 0] * x / z + intrinsic[0, 2], intrinsic[1, 1] * y / z + intrinsic[1, 2]
        if not (0 <= u < image_size[0] and 0 <= v < image_size[1]):
            return False
    return True


def _unseen(item: Item, views: list[Floats], intrinsic: Floats, image_size: tuple[int, int]) -> bool:
    """Whether no frame shows any of the piece's box."""
    return all(projected_bounds(transform_boxes(item.box, view), intrinsic, image_size) is None for view in views)
