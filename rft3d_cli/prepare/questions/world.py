"""What questions are drawn from: the objects of a scene, when each shows, and the floor."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare.embodiedscan import Frame, Scan
from rft3d_cli.prepare.questions.floor import Floor
from rft3d_cli.prepare.scannet import NOT_OBJECTS

Rng = np.random.Generator
Item = TypeVar("Item")

_NAME = re.compile(r"\w[\w '&/()-]*")
"""What may stand in a question: no tags, commas or line breaks."""


@dataclass(frozen=True, eq=False)
class Thing:
    """One annotated object.

    Args:
        id: Its index among the scan's instances.
        label: Its class.
        box: ``(9,)`` in the axis-aligned world.
        index: The first of the record's frames that shows it, from 0; None where none does.
        frame: The raw number of the first listed frame that shows it; None where none does.
    """

    id: int
    label: str
    box: Floats
    index: int | None
    frame: int | None

    def told(self, role: str) -> dict[str, Any]:
        """The thing as a record's ``meta.objects`` holds it."""
        return {"role": role, "id": self.id, "label": self.label, "box": self.box.tolist()}


@dataclass(frozen=True)
class World:
    """A scene to ask about.

    Args:
        things: All annotated objects.
        floor: The floor, or why there is none.
        unique: Those that a question may call by their name alone: one of their name, and shown.
        kinds: The objects of each name that questions may use, by name, sorted.
        problems: What no question may name, and why: ``(reason, label)``.
    """

    things: tuple[Thing, ...]
    floor: Floor | str
    unique: tuple[Thing, ...] = field(init=False)
    kinds: dict[str, tuple[Thing, ...]] = field(init=False)
    problems: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        labels = sorted({thing.label for thing in self.things if thing.label.strip().lower() not in NOT_OBJECTS})
        kinds, unique, problems = {}, [], []
        for label in labels:
            members = tuple(thing for thing in self.things if thing.label == label)
            if not _NAME.fullmatch(label):
                problems.append(("not a plain name", label))
            elif any(_covers(label, other) for other in labels):
                problems.append(("other objects are of this kind too", label))
            else:
                kinds[label] = members
                if len(members) == 1 and members[0].index is not None:
                    unique.append(members[0])
                elif len(members) == 1:
                    problems.append(("no frame of the record shows it", label))
                else:
                    problems.append(("several objects share it", label))
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "unique", tuple(unique))
        object.__setattr__(self, "problems", tuple(problems))


def _covers(label: str, other: str) -> bool:
    """Whether people would call the things of another label by this one too: a coffee table is a table."""
    return label != other and (other.endswith(f" {label}") or other.removesuffix("s") == label.removesuffix("s"))


def see(scan: Scan, frames: Sequence[Frame], floor: Floor | str) -> World:
    """The world of a scan as a record's frames show it.

    Args:
        scan: The annotated scan.
        frames: The record's frames, in their order.
        floor: See :class:`World`.
    """
    index: dict[int, int] = {}
    for number, frame in enumerate(frames):
        for i in frame.visible:
            index.setdefault(i, number)
    first: dict[int, int] = {}
    for frame in sorted(scan.frames, key=lambda frame: frame.number):
        for i in frame.visible:
            first.setdefault(i, frame.number)
    things = [Thing(i, label, box, index.get(i), first.get(i)) for i, (label, box) in enumerate(scan.instances)]
    return World(tuple(things), floor)


@dataclass(frozen=True)
class Draft:
    """A question that may be asked.

    Args:
        words: What its sentences need, by name.
        answer: The number as text, or the right option.
        wrong: The other options; none for a number.
        objects: What it is about, for the record's ``meta``.
        margin: How clear the answer is: a number by its unit.
        floor: The floor, where it is about that.
    """

    words: dict[str, str]
    answer: str
    wrong: tuple[str, ...] = ()
    objects: tuple[dict[str, Any], ...] = ()
    margin: dict[str, float] = field(default_factory=dict)
    floor: Floor | None = None


@dataclass(frozen=True)
class Refusal:
    """A question that may not be asked.

    Args:
        reason: A few words, the same for all with this problem.
        labels: What it would have been about.
    """

    reason: str
    labels: tuple[str, ...] = ()


def refuse(reason: str, things: Sequence[Thing] = ()) -> Refusal:
    """A refusal about things."""
    return Refusal(reason, tuple(thing.label for thing in things))


def selections(rng: Rng, items: Sequence[Item], size: int, most: int) -> Iterator[tuple[Item, ...]]:
    """Different ordered selections of ``size`` items, at random, at most ``most``; none where there are too few.

    >>> list(selections(np.random.default_rng(0), "ab", 2, 5))
    [('a', 'b'), ('b', 'a')]
    """
    total = math.perm(len(items), size)
    if not total:
        return
    for rank in rng.choice(total, min(most, total), replace=False).tolist():
        pool, picked = list(items), []
        for left in range(len(items), len(items) - size, -1):
            rank, at = divmod(rank, left)
            picked.append(pool.pop(at))
        yield tuple(picked)
