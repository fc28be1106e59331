"""What the answer to a question is, and how far from another answer it must be.

Pure geometry of boxes and points in the axis-aligned world (z up, metres). Questions about synthetic rooms follow the
same rules, some with margins of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.distance import box_distance

LETTERS = "ABCDEF"
LEAST_DISTANCE = 0.2
"""Objects closer than this are not asked about: rounded to a tenth of a metre, the answer would be mostly rounding."""
LEAST_SIZE = 0.05
"""Objects whose longest side is shorter are not asked about, metres."""
LEAST_AREA = 1.0
"""A floor smaller than this is not a room's, m²."""
LEAST_FILL = 0.9
"""Least share of its smallest enclosing rectangle that a floor's hull fills; less means another shape than a room's."""
CLOSER, CLOSER_SHARE = 0.15, 0.1
"""The closest of several must be closer than the next by this much, metres, and by this share of the next."""
ANGLE_MARGIN = 15.0
"""A direction must be this far from the boundary between two answers, degrees."""
APART = 0.8
"""Places between which a direction is asked must be further apart than this, metres on the floor."""
FRAMES_APART = 2
"""First appearances must be at least this far apart, in frames of the record."""
WALK_FROM, WALK_TO, WALK_SIDE = 0.2, 1.5, 0.2
"""What reaches into a leg of a route, between these heights above the floor and this far to its sides, blocks it."""

DIRECTIONS = {
    "easy": ("left", "right"),
    "medium": ("left", "right", "back"),
    "hard": ("front-left", "front-right", "back-left", "back-right"),
}
"""Answers to the three levels of relative direction."""
BOUNDARIES = {"easy": (0, 180), "medium": (0, 135), "hard": (0, 90, 180)}
"""Where an answer ends and the next begins: degrees from straight on, on either side."""
TURNS = ("turn back", "turn left", "turn right")
TURN_BOUNDARIES = (45, 135)


def lettered(options: Sequence[str]) -> list[str]:
    """Options as they are shown.

    >>> lettered(["left", "right"])
    ['A. left', 'B. right']
    """
    return [f"{LETTERS[i]}. {text}" for i, text in enumerate(options)]


def one_decimal(value: float) -> str:
    """One decimal, without a trailing .0 nobody would write.

    >>> one_decimal(2.04), one_decimal(1.26)
    ('2', '1.3')
    """
    return f"{round(value, 1):g}"


def centimetres(metres: float) -> str:
    """Whole centimetres.

    >>> centimetres(0.756)
    '76'
    """
    return str(round(100 * metres))


def polygon_area(points: Floats) -> float:
    """The area of a polygon ``(n, 2)`` whose corners are in order.

    >>> polygon_area(np.array([[0, 0], [2, 0], [2, 3], [0, 3]]))
    6.0
    """
    x, y = np.asarray(points, dtype=np.float64).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def nearest(anchor: Floats, kinds: Sequence[Floats]) -> tuple[int, float, float]:
    """Which kind of object is closest to a box.

    Args:
        anchor: ``(9,)``.
        kinds: Two or more; each the boxes ``(n, 9)`` of its objects, of which the closest counts.

    Returns:
        Its index, and the distances of it and of the next, metres between closest points.

    >>> cubes = np.array([[x, 0, 0, 1, 1, 1, 0, 0, 0] for x in (0, 4, 2, 9)])
    >>> nearest(cubes[0], [cubes[1:2], cubes[2:]])
    (1, 1.0, 3.0)
    """
    distances = np.array([box_distance(anchor, boxes).min() for boxes in kinds])
    first, second = np.argsort(distances, kind="stable")[:2]
    return int(first), float(distances[first]), float(distances[second])


def bearing(origin: Floats, facing: Floats, target: Floats) -> float:
    """Degrees from the direction ``origin → facing`` to ``origin → target`` on the floor; positive is left.

    >>> bearing(np.zeros(2), np.array([0.0, 1]), np.array([-2.0, 0]))
    90.0
    """
    return _turned(facing - origin, target - origin)


def heading_change(start: Floats, corner: Floats, end: Floats) -> float:
    """Degrees that someone who comes from ``start`` turns at ``corner`` to go on to ``end``; positive is left.

    >>> heading_change(np.zeros(2), np.array([0.0, 1]), np.array([1.0, 1]))
    -90.0
    """
    return _turned(corner - start, end - corner)


def _turned(ahead: Floats, there: Floats) -> float:
    cross = ahead[0] * there[1] - ahead[1] * there[0]
    return float(np.degrees(np.arctan2(cross, ahead[:2] @ there[:2])))


def clearance(angle: float, boundaries: Sequence[float]) -> float:
    """Degrees from an angle to the closest boundary, either side of straight on alike.

    >>> clearance(-100, BOUNDARIES["hard"])
    10
    """
    return min(abs(abs(angle) - boundary) for boundary in boundaries)


def direction(level: str, angle: float) -> str:
    """The answer to a question of relative direction.

    Args:
        level: ``easy``, ``medium`` or ``hard``.
        angle: Degrees, positive is left.

    >>> [direction(level, -150) for level in ("easy", "medium", "hard")]
    ['right', 'back', 'back-right']
    """
    side = "left" if angle > 0 else "right"
    if level == "easy":
        return side
    if level == "medium":
        return "back" if abs(angle) > BOUNDARIES["medium"][1] else side
    return f"{'front' if abs(angle) < BOUNDARIES['hard'][1] else 'back'}-{side}"


def turn(angle: float) -> str | None:
    """The turn that a change of heading asks for; None where the way goes on more or less straight.

    >>> turn(90), turn(-170), turn(10)
    ('turn left', 'turn back', None)
    """
    size = abs(angle)
    if size < TURN_BOUNDARIES[0]:
        return None
    if size > TURN_BOUNDARIES[1]:
        return "turn back"
    return "turn left" if angle > 0 else "turn right"


def route_turns(stops: Sequence[Floats]) -> tuple[list[str | None], float]:
    """The turns at the inner stops of a route, and the least clearance of any of them, degrees.

    Args:
        stops: Three or more places on the floor.

    >>> route_turns([np.array(p, dtype=float) for p in ((0, 0), (0, 2), (2, 2))])
    (['turn right'], 45.0)
    """
    angles = [
        heading_change(start, corner, end)
        for (start, corner), (_, end) in pairwise(pairwise(np.asarray(stop)[:2] for stop in stops))
    ]
    return [turn(angle) for angle in angles], min(clearance(angle, TURN_BOUNDARIES) for angle in angles)
