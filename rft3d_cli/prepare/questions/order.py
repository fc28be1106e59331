"""Questions about when objects first show."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations

from rft3d_cli.prepare.questions.rules import FRAMES_APART
from rft3d_cli.prepare.questions.world import Draft, Refusal, Rng, World, selections

NAMES = 4
WRONG = 3
"""Wrong orders to choose from."""


def appearance(rng: Rng, world: World, most: int) -> Iterator[Draft | Refusal]:
    """In which order four kinds of objects first show; a kind shows with the first of its objects."""
    first = {}
    for label, members in world.kinds.items():
        shown = [(thing.index, thing.frame, thing) for thing in members if thing.index is not None]
        if shown:
            index, _, thing = min(shown, key=lambda entry: (entry[0] or 0, entry[2].id))
            # Between the record's frames a kind may have shown earlier than in any of them.
            frame = min(thing.frame for thing in members if thing.frame is not None)
            first[label] = (index or 0, frame, thing)
    asked = set()
    for names in selections(rng, list(first), NAMES, most):
        if frozenset(names) in asked:
            continue
        asked.add(frozenset(names))
        order = sorted(names, key=lambda label: first[label][:2])
        gap = min(first[b][0] - first[a][0] for a, b in pairwise(order))
        if gap < FRAMES_APART:
            yield Refusal("first appearances too close", names)
        elif any(first[a][1] >= first[b][1] for a, b in pairwise(order)):
            yield Refusal("between the record's frames the order is another", names)
        else:
            others = [", ".join(other) for other in permutations(order) if list(other) != order]
            wrong = tuple(others[int(i)] for i in rng.permutation(len(others))[:WRONG])
            told = [
                {**first[label][2].told("shown"), "index": first[label][0], "frame": first[label][1]}
                for label in sorted(names)
            ]
            listed = ", ".join(sorted(names))
            yield Draft({"list": listed}, ", ".join(order), wrong, tuple(told), {"frames": gap})
