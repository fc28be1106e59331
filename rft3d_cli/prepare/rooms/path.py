"""A hand-held camera's way through a room."""

from __future__ import annotations

import numpy as np

from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare.rooms.scene import Item, Rng, overlap

TURN_DEGREES = 18.0
"""How fast the camera walks around the room's centre, degrees a second."""

EYE = 1.45
"""Mean height of the camera, metres."""

CLEARANCE = 0.35
"""Least distance of the camera from furniture that reaches near its height, metres."""


def look_at(position: Floats, target: Floats, roll: float = 0.0) -> Floats:
    """A ``(4, 4)`` camera-to-world pose with OpenCV axes, looking at ``target``; ``roll`` in radians.

    >>> look_at(np.array([0.0, 0, 1]), np.array([0.0, 5, 1]))[:3, 2]
    array([0., 1., 0.])
    """
    forward = target - position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, 0] = c * right + s * down
    pose[:3, 1] = c * down - s * right
    pose[:3, 2] = forward
    pose[:3, 3] = position
    return pose


def shake(rng: Rng, times: Floats, amplitude: float) -> Floats:
    """Smooth noise of one hand: two sines of random phase, ``(n,)``, within ± ``amplitude``."""
    phase = rng.uniform(0, 2 * np.pi, size=2)
    rate = rng.uniform(0.5, 1.1, size=2) * np.array([1.0, 2.3])
    out: Floats = amplitude * (0.7 * np.sin(rate[0] * times + phase[0]) + 0.3 * np.sin(rate[1] * times + phase[1]))
    return out


def walk(rng: Rng, size: tuple[float, float, float], items: tuple[Item, ...], times: Floats) -> Floats | None:
    """Poses of a walk around the room that looks across its centre.

    Args:
        rng: Generator.
        size: The room's size, metres.
        items: What stands in it; tall pieces are kept clear of.
        times: ``(n,)`` seconds.

    Returns:
        ``(n, 4, 4)`` camera to axis-aligned world, or None where no way is free.
    """
    start, way = rng.uniform(0, 2 * np.pi), (1.0 if rng.random() < 0.5 else -1.0)
    angle = start + way * np.radians(TURN_DEGREES) * times
    centre = np.array(size[:2]) / 2
    half = centre - 0.30
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    height = EYE + rng.uniform(-0.1, 0.1) + shake(rng, times, 0.04)
    wobble = np.stack([shake(rng, times, 0.04) for _ in range(2)], axis=1)
    aim = np.stack([shake(rng, times, 0.12) for _ in range(3)], axis=1)
    roll = shake(rng, times, np.radians(2.0))
    tall = [item.footprint for item in items if item.box[2] + item.box[5] / 2 > EYE - 0.35]
    for reach in (0.92, 0.8, 0.65, 0.5, 0.35):
        ground = centre + around * half * reach + wobble
        if all(_clear(point, tall) for point in ground):
            break
    else:
        return None
    position = np.concatenate([ground, height[:, None]], axis=1)
    target = np.concatenate([centre - 0.35 * around * half, np.full((len(times), 1), 0.65)], axis=1) + aim
    return np.stack([look_at(p, t, float(r)) for p, t, r in zip(position, target, roll, strict=True)])


def _clear(point: Floats, tall: list[Floats]) -> bool:
    body = point + 0.01 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return not any(overlap(body, foot, CLEARANCE) for foot in tall)
