"""Questions about where objects are to each other: closest, direction, route."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise, product, zip_longest

import numpy as np

from rft3d_cli.geometry.boxes import box_corners, points_in_box
from rft3d_cli.geometry.distance import box_distance
from rft3d_cli.prepare.questions import rules
from rft3d_cli.prepare.questions.world import Draft, Refusal, Rng, Thing, World, refuse, selections

CANDIDATES = 4
"""Objects to choose from in a question of relative distance."""
WRONG_ROUTES = 3
"""Wrong options where two turns are asked for."""
SEVERAL = " Where there are several of a name, the closest of them counts."
GAP = "[?]"
FLAT = frozenset({"floor", "ceiling"})
"""What a route does not run into."""
WALL = "wall"


def relative_distance(rng: Rng, world: World, most: int) -> Iterator[Draft | Refusal]:
    """Which of four kinds of object is closest to an object that is the only one of its name."""
    asked = set()
    for anchor, others in _anchored(rng, world, most):
        name = anchor.label
        if (name, frozenset(others)) in asked:
            continue
        asked.add((name, frozenset(others)))
        kinds = [world.kinds[other] for other in others]
        best, first, second = rules.nearest(anchor.box, [np.stack([t.box for t in things]) for things in kinds])
        if second - first < max(rules.CLOSER, rules.CLOSER_SHARE * second):
            yield Refusal("the two closest are about as close", (name, *others))
            continue
        several = any(len(things) > 1 for things in kinds)
        words = {
            "a": name,
            "list": ", ".join(f"the {other}" for other in sorted(others)),
            "several": SEVERAL if several else "",
        }
        yield Draft(
            words,
            others[best],
            tuple(other for other in others if other != others[best]),
            (anchor.told("anchor"), *(thing.told("candidate") for things in kinds for thing in things)),
            {"metres": second - first},
        )


def _anchored(rng: Rng, world: World, most: int) -> Iterator[tuple[Thing, tuple[str, ...]]]:
    """An object and four other kinds that are shown whole: about ``most`` of them, each object in its turn."""
    shown = [label for label, members in world.kinds.items() if all(thing.index is not None for thing in members)]
    anchors = [thing for (thing,) in selections(rng, world.unique, 1, most)]
    each = -(-most // max(1, len(anchors)))
    hands = [selections(rng, [n for n in shown if n != thing.label], CANDIDATES, each) for thing in anchors]
    for hand in zip_longest(*hands):
        yield from ((thing, others) for thing, others in zip(anchors, hand, strict=True) if others is not None)


def relative_direction(level: str, rng: Rng, world: World, most: int) -> Iterator[Draft | Refusal]:
    """On which side of someone who stands at one object and faces another a third is."""
    for three in selections(rng, world.unique, 3, most):
        at, facing, asked = (thing.box[:2] for thing in three)
        if not _apart(at, facing) or not _apart(at, asked):
            yield refuse("too close to give a direction", three)
            continue
        angle = rules.bearing(at, facing, asked)
        clear = rules.clearance(angle, rules.BOUNDARIES[level])
        if clear < rules.ANGLE_MARGIN:
            yield refuse("between two directions", three)
            continue
        right = rules.direction(level, angle)
        names = dict(zip("abc", (thing.label for thing in three), strict=True))
        wrong = [name for name in rules.DIRECTIONS[level] if name != right]
        told = tuple(thing.told(role) for thing, role in zip(three, ("at", "facing", "asked"), strict=True))
        yield Draft(names, right, tuple(wrong), told, {"degrees": clear})


def route(rng: Rng, world: World, most: int) -> Iterator[Draft | Refusal]:
    """The missing turns of a route over straight legs from object to object."""
    asked = set()
    for drawn in selections(rng, world.unique, min(4, max(3, len(world.unique))), most):
        stops = drawn[: int(rng.integers(3, 5))]
        ids = tuple(thing.id for thing in stops)
        if ids in asked:
            continue
        asked.add(ids)
        if not all(_apart(a.box[:2], b.box[:2]) for a, b in pairwise(stops)):
            yield refuse("too close to give a direction", stops)
            continue
        turns, clear = rules.route_turns([thing.box for thing in stops])
        if None in turns:
            yield refuse("the way goes on without a turn", stops)
        elif clear < rules.ANGLE_MARGIN:
            yield refuse("between two turns", stops)
        elif any(blocked(a, b, world.things) for a, b in pairwise(stops)):
            yield refuse("something stands in the way", stops)
        else:
            right = route_text(turns)
            others = [text for text in map(route_text, product(rules.TURNS, repeat=len(turns))) if text != right]
            wrong = [others[int(i)] for i in rng.permutation(len(others))[:WRONG_ROUTES]]
            words = {"a": stops[0].label, "b": stops[1].label, "end": stops[-1].label, "steps": _steps(stops)}
            yield Draft(words, right, tuple(wrong), tuple(thing.told("stop") for thing in stops), {"degrees": clear})


def route_text(turns: Sequence[str | None]) -> str:
    """Turns as an option names them.

    >>> route_text(["turn left", "turn back"])
    'turn left, then turn back'
    """
    return ", then ".join(turn or "go on" for turn in turns)


def _steps(stops: Sequence[Thing]) -> str:
    """The route in words, a gap for each turn."""
    steps = [f"go straight to the {stops[1].label}"]
    for thing in stops[2:]:
        steps += [GAP, f"go straight to the {thing.label}"]
    return ", ".join(f"({number}) {step}" for number, step in enumerate(steps, start=1))


def blocked(a: Thing, b: Thing, things: Sequence[Thing]) -> bool:
    """Whether something else reaches into the straight leg from ``a`` to ``b``, at the height of someone who walks.

    Walls around a place are a box that the place is in: they do not tell whether the leg is free, and are passed over.
    """
    ends = np.stack([a.box[:3], b.box[:3]])
    others = [
        thing.box
        for thing in things
        if thing.id not in (a.id, b.id)
        and thing.label not in FLAT
        and not (thing.label == WALL and points_in_box(ends, thing.box).any())
    ]
    if not others:
        return False
    low = float(box_corners(np.stack([t.box for t in things]))[..., 2].min())
    leg = b.box[:2] - a.box[:2]
    middle = [*(a.box[:2] + b.box[:2]) / 2, low + (rules.WALK_FROM + rules.WALK_TO) / 2]
    # What is measured from the plate reaches as far up and down as to the sides.
    height = rules.WALK_TO - rules.WALK_FROM - 2 * rules.WALK_SIDE
    plate = np.array([*middle, np.hypot(*leg), 0, height, np.arctan2(leg[1], leg[0]), 0, 0])
    return bool((box_distance(plate, np.stack(others)) < rules.WALK_SIDE).any())


def _apart(a: np.ndarray, b: np.ndarray) -> bool:
    return float(np.linalg.norm(a - b)) > rules.APART


easy, medium, hard = (partial(relative_direction, level) for level in rules.DIRECTIONS)
