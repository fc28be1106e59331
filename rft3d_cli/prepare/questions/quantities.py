"""Questions whose answer is a number: how many, how far, how long, how large."""

from __future__ import annotations

from collections.abc import Iterator

from rft3d_cli.geometry.distance import box_distance
from rft3d_cli.prepare.questions.floor import Floor
from rft3d_cli.prepare.questions.rules import (
    LEAST_DISTANCE,
    LEAST_SIZE,
    centimetres,
    one_decimal,
    polygon_area,
)
from rft3d_cli.prepare.questions.world import Draft, Refusal, Rng, World, refuse, selections


def counting(rng: Rng, world: World, most: int) -> Iterator[Draft | Refusal]:
    """How many objects of a name there are, where there are several and the frames show each."""
    several = [label for label, members in world.kinds.items() if len(members) > 1]
    for (label,) in selections(rng, several, 1, most):
        members = world.kinds[label]
        if any(thing.index is None for thing in members):
            yield Refusal("the record's frames do not show every one", (label,))
        else:
            yield Draft({"a": label}, str(len(members)), objects=tuple(thing.told("counted") for thing in members))


def distance(rng: Rng, world: World, most: int) -> Iterator[Draft | Refusal]:
    """How far two objects are apart, between closest points."""
    asked = set()
    for pair in selections(rng, world.unique, 2, most):
        a, b = pair
        ids = frozenset((a.id, b.id))
        if ids in asked:
            continue
        asked.add(ids)
        metres = float(box_distance(a.box, b.box))
        if metres < LEAST_DISTANCE:
            yield refuse("nearly touching", pair)
        else:
            told = (a.told("from"), b.told("to"))
            yield Draft({"a": a.label, "b": b.label}, one_decimal(metres), objects=told, margin={"metres": metres})


def size(rng: Rng, world: World, most: int) -> Iterator[Draft | Refusal]:
    """The longest side of an object's box."""
    for (thing,) in selections(rng, world.unique, 1, most):
        longest = float(thing.box[3:6].max())
        if longest < LEAST_SIZE:
            yield refuse("too small to be measured", [thing])
        else:
            yield Draft({"a": thing.label}, centimetres(longest), objects=(thing.told("measured"),))


def room_size(rng: Rng, world: World, most: int) -> Iterator[Draft | Refusal]:
    """The area of the floor."""
    if isinstance(world.floor, Floor):
        area = polygon_area(world.floor.polygon)
        yield Draft({}, one_decimal(area), margin={"fill": world.floor.fill}, floor=world.floor)
    else:
        yield Refusal(world.floor)
