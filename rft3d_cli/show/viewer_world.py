"""Where everything stands on the page of answers: which way is up, where the floor is, boxes and cameras in one place.

The page's own coordinates, the display's, are metres with z up. They share the world's origin; only the axes turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rft3d_cli.geometry.boxes import Boxes3D, Floats
from rft3d_cli.geometry.camera import invert_rigid, transform_points

FACES: tuple[tuple[int, int, int, int], ...] = (
    *((0, 1, 3, 2), (4, 5, 7, 6)),
    *((0, 1, 5, 4), (2, 3, 7, 6)),
    *((0, 2, 6, 4), (1, 3, 7, 5)),
)
"""The six faces as corner indices, each once around: two across each of the box's x, y and z axes."""

EYE_HEIGHT = 1.5
"""Metres from the floor to a camera, where no box says more."""
REACH = 30.0
"""Metres from the cameras within which a box counts for the floor."""


@dataclass(frozen=True)
class World:
    """A scene in the display's coordinates.

    Args:
        turn: ``(3, 3)``; row ``k`` is the display's axis ``k`` in world coordinates.
        posed: Whether the frames' poses are known. Where not, the world is the camera of the answered frame.
        poses: ``(frames, 4, 4)`` camera to display; NaN where a frame's is unknown.
        path: ``(n, 3)`` the camera's places, NaN where unknown.
        corners: ``(boxes, 8, 3)`` of each answer.
        floor: Height of the floor.
        floor_words: Where that height comes from.
        azimuth: From where to look at the start, radians around z from x.
        frustum: Length of a camera's drawn pyramid, metres.
        note: What the reader must know; may be empty.
    """

    turn: Floats
    posed: bool
    poses: Floats
    path: Floats
    corners: list[Floats]
    floor: float
    floor_words: str
    azimuth: float
    frustum: float
    note: str


def lay_out(frames: int, poses: Floats | None, path: Floats | None, said: Sequence[tuple[int, Boxes3D]]) -> World:
    """Place boxes and cameras.

    Args:
        frames: How many frames there are.
        poses: ``(frames, 4, 4)`` camera to world, or None.
        path: ``(n, 4, 4)`` all known poses of the video, or None.
        said: Of each answer its frame, and its boxes in that frame's camera coordinates.

    Returns:
        The scene.
    """
    cameras = _known(poses, frames)
    known = np.isfinite(cameras[:, 0, 0])
    posed = bool(known.any()) and all(known[frame] for frame, boxes in said if len(boxes))
    note = ""
    if posed:
        up = upwards(cameras)
    else:
        # Every answered frame is a world of its own, seen by its camera.
        cameras, path, up = np.tile(np.eye(4), (frames, 1, 1)), None, np.array([0.0, -1.0, 0.0])
        note = "Where the camera was in the other frames is unknown. Boxes stand in the camera of the frame they were "
        note += "answered in, and are drawn on that frame only."
        if known.any():
            note = f"An answered frame has no pose, so the camera's path is left out. {note}"
        elif not any(len(boxes) for _, boxes in said):
            note = ""
    turn = axes(cameras, up)
    move = np.eye(4)
    move[:3, :3] = turn
    placed = move @ cameras
    corners = [transform_points(boxes.corners(), placed[frame]) for frame, boxes in said]
    every = placed[:, :3, 3] if path is None else transform_points(_known(path, len(path))[:, :3, 3], move)
    seen = placed[np.isfinite(placed).all(axis=(1, 2)), :3]
    floor, words = _floor(corners, seen[:, :, 3], posed)
    ahead = seen[:, :, 2].mean(axis=0)
    if np.hypot(*ahead[:2]) < 0.2:
        ahead = seen[0, :, 2]
    apart = float(np.ptp(seen[:, :, 3], axis=0).max())
    return World(
        turn=turn,
        posed=posed,
        poses=placed,
        path=every if posed else every[:0],
        corners=corners,
        floor=floor,
        floor_words=words,
        azimuth=float(np.arctan2(ahead[1], ahead[0])) + np.pi - 0.6,
        frustum=float(np.clip(apart / 8, 0.18, 0.45)),
        note=note,
    )


def _known(poses: Floats | None, count: int) -> Floats:
    """``(count, 4, 4)`` poses, all NaN where any of their numbers is not finite."""
    if poses is None:
        return np.full((count, 4, 4), np.nan)
    array = np.array(poses, dtype=np.float64)
    array[~np.isfinite(array).all(axis=(1, 2))] = np.nan
    return array


def upwards(poses: Floats) -> Floats:
    """Which way is up in a world, from how its cameras were held.

    People hold a camera upright and nod it, so the mean of the cameras' up directions is near the true one. An axis of
    the world is taken where it is near enough: z within 50 degrees, as ScanNet's worlds and most others have it, any
    other within 20 degrees.

    Args:
        poses: ``(frames, 4, 4)`` camera to world; those that are not finite do not count.

    Returns:
        ``(3,)``, a unit vector.

    >>> upwards(np.array([np.eye(4)])) + 0.0
    array([ 0., -1.,  0.])
    """
    known = poses[np.isfinite(poses).all(axis=(1, 2))]
    mean = -known[:, :3, 1].mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length < 0.1:
        return np.array([0.0, 0.0, 1.0])
    mean = mean / length
    if mean[2] > np.cos(np.radians(50)):
        return np.array([0.0, 0.0, 1.0])
    axis = int(np.argmax(np.abs(mean)))
    if abs(mean[axis]) > np.cos(np.radians(20)):
        nearest: Floats = np.eye(3)[axis] * np.sign(mean[axis])
        return nearest
    up: Floats = mean
    return up


def axes(poses: Floats, up: Floats) -> Floats:
    """The display's axes: the world's own where its z is up, else up and the way the cameras look.

    Args:
        poses: ``(frames, 4, 4)`` camera to world.
        up: ``(3,)``, a unit vector in the world.

    Returns:
        ``(3, 3)``, a rotation; its rows are the axes in world coordinates.

    >>> axes(np.array([np.eye(4)]), np.array([0.0, -1.0, 0.0])) + 0.0
    array([[ 1.,  0.,  0.],
           [ 0.,  0.,  1.],
           [ 0., -1.,  0.]])
    """
    if up[2] > 1 - 1e-9:
        return np.eye(3)
    known = poses[np.isfinite(poses).all(axis=(1, 2))]
    tries = [known[:, :3, 2].mean(axis=0), known[0, :3, 2], *np.eye(3)]
    flat = [ahead - (ahead @ up) * up for ahead in tries]
    ahead = next(vector for vector in flat if np.linalg.norm(vector) > 0.2)
    ahead = ahead / np.linalg.norm(ahead)
    return np.stack([np.cross(ahead, up), ahead, up])


def _floor(corners: Sequence[Floats], cameras: Floats, posed: bool) -> tuple[float, str]:
    """The floor's height and where it comes from.

    Most things stand on the floor, and a few boxes reach below it by mistake, so it is low among the boxes' lowest
    corners but not the lowest, and always below the camera.
    """
    lowest_eye = float(cameras[:, 2].min())
    places = np.concatenate([np.zeros((0, 8, 3)), *corners])
    distance = np.linalg.norm(places.mean(axis=1)[:, None] - cameras[None], axis=2).min(axis=1, initial=np.inf)
    bottoms = places[distance < REACH][:, :, 2].min(axis=1, initial=np.inf)
    level = "level with the world" if posed else "level with the camera, which may be tilted"
    if not len(bottoms):
        height = lowest_eye - EYE_HEIGHT
        return _neat(height), f"{level}, {EYE_HEIGHT:g} m below the lowest camera"
    height = min(float(np.quantile(bottoms, 0.1)), lowest_eye - 0.3)
    if posed and abs(height) < 0.15:
        height = 0.0
    return _neat(height), f"{level}, where the boxes have the floor"


def _neat(value: float) -> float:
    return round(value, 3) + 0.0


def projections(poses: Floats) -> Floats:
    """World to camera of each pose: ``(n, 4, 4)`` to ``(n, 3, 4)``; NaN where it is unknown."""
    out = np.full((len(poses), 3, 4), np.nan)
    known = np.isfinite(poses).all(axis=(1, 2))
    out[known] = invert_rigid(poses[known])[:, :3]
    return out


def frusta(poses: Floats, size: tuple[int, int], intrinsic: Floats, length: float) -> Floats:
    """The pyramids that stand for cameras.

    Args:
        poses: ``(n, 4, 4)`` camera to display.
        size: ``(width, height)`` of the pictures, pixels.
        intrinsic: ``(3, 3)`` for that size.
        length: From the eye to a pyramid's ground, metres.

    Returns:
        ``(n, 5, 3)``: the eye, then the picture's corners: top left, top right, bottom right, bottom left.
    """
    width, height = size
    pixels = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    rays = np.concatenate([pixels, np.ones((4, 1))], axis=1) @ np.linalg.inv(intrinsic).T
    points = np.concatenate([np.zeros((1, 3)), rays * length])
    return np.stack([transform_points(points, pose) for pose in poses])


def spread(path: Floats, most: int) -> list[Floats]:
    """A path's unbroken pieces, of evenly chosen points.

    Args:
        path: ``(n, 3)``; points that are not finite break it.
        most: Points to keep, about.

    Returns:
        Pieces of at least two points.
    """
    if not len(path):
        return []
    step = max(1, -(-len(path) // most))
    known = np.isfinite(path).all(axis=1)
    starts = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(int), [0]])))
    pieces = [path[a:b] for a, b in zip(starts[::2], starts[1::2], strict=True)]
    return [piece[sorted({*range(0, len(piece), step), len(piece) - 1})] for piece in pieces if len(piece) > 1]
