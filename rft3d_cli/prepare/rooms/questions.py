"""Questions of VSI-Bench's eight kinds, in its form, with answers computed from the room's geometry.

Only pieces that the clip shows are asked about. Ambiguous cases are left out by stated margins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from rft3d_cli.prepare.questions import rules
from rft3d_cli.prepare.rooms.describe import footprint_distance
from rft3d_cli.prepare.rooms.scene import Item, Rng, Scene

DATASET = "rooms"
CLOSER = 0.3
"""The closest of several pieces must be closer than the next by this much, metres."""
ANGLE_MARGIN = 12.0
"""A direction must be this far from the boundary between two answers, degrees."""
MOST_OF_A_TYPE = 2
"""Questions of one type about one room, at most."""
ASKED = {
    "easy": "to the left or to the right",
    "medium": "to the left, to the right, or behind me, where behind is a turn of 135 degrees or more",
    "hard": "front-left, front-right, back-left or back-right",
}
"""How a question of relative direction ends."""

Question = tuple[str, str, str, list[str] | None]
"""Type, question, ground truth, options."""


def questions(rng: Rng, scene: Scene, first_seen: dict[int, float]) -> list[dict[str, Any]]:
    """VSI-Bench rows about one room, without ``id``.

    Args:
        rng: Generator, for the choice and the order of options.
        scene: The room.
        first_seen: When each piece first shows, seconds, by index; pieces that never show are absent.
    """
    labels = [item.label for item in scene.items if item.target]
    unique = [i for i in sorted(first_seen) if labels.count(scene.items[i].label) == 1]
    makers: tuple[Callable[[Rng, Scene, list[int], dict[int, float]], list[Question]], ...] = (
        _counting,
        _absolute_distance,
        _size,
        _room_size,
        _relative_distance,
        _relative_direction,
        _route,
        _appearance,
    )
    rows = []
    for make in makers:
        found = make(rng, scene, unique, first_seen)
        for choice in rng.permutation(len(found))[:MOST_OF_A_TYPE]:
            kind, question, answer, options = found[int(choice)]
            rows.append(
                {
                    "dataset": DATASET,
                    "scene_name": scene.name,
                    "question_type": kind,
                    "question": question,
                    "ground_truth": answer,
                    "options": options,
                }
            )
    return rows


def _choice(rng: Rng, kind: str, question: str, right: str, wrong: Sequence[str]) -> Question:
    """A multiple-choice question with its options in random order."""
    options = [right, *wrong]
    options = [options[int(i)] for i in rng.permutation(len(options))]
    return kind, question, rules.LETTERS[options.index(right)], rules.lettered(options)


def _counting(rng: Rng, scene: Scene, unique: list[int], first_seen: dict[int, float]) -> list[Question]:
    out: list[Question] = []
    labels = [item.label for item in scene.items if item.target]
    for label in sorted(set(labels)):
        members = [i for i, item in enumerate(scene.items) if item.target and item.label == label]
        if all(i in first_seen for i in members):
            out.append(("object_counting", f"How many {label}(s) does this room have?", str(len(members)), None))
    return out


def _absolute_distance(rng: Rng, scene: Scene, unique: list[int], first_seen: dict[int, float]) -> list[Question]:
    out: list[Question] = []
    for n, i in enumerate(unique):
        for j in unique[n + 1 :]:
            a, b = scene.items[i], scene.items[j]
            distance = footprint_distance(a.footprint, b.footprint)
            question = (
                f"How far apart are the {a.label} and the {b.label}, from closest point to closest point, in meters?"
            )
            if distance >= rules.LEAST_DISTANCE:
                out.append(("object_abs_distance", question, rules.one_decimal(distance), None))
    return out


def _size(rng: Rng, scene: Scene, unique: list[int], first_seen: dict[int, float]) -> list[Question]:
    return [
        (
            "object_size_estimation",
            f"How long is the longest side of the {scene.items[i].label}, in centimeters?",
            rules.centimetres(float(scene.items[i].box[3:6].max())),
            None,
        )
        for i in unique
    ]


def _room_size(rng: Rng, scene: Scene, unique: list[int], first_seen: dict[int, float]) -> list[Question]:
    area = scene.size[0] * scene.size[1]
    return [
        (
            "room_size_estimation",
            "How large is the floor of this room, in square meters?",
            rules.one_decimal(area),
            None,
        )
    ]


def _relative_distance(rng: Rng, scene: Scene, unique: list[int], first_seen: dict[int, float]) -> list[Question]:
    out: list[Question] = []
    for i in unique:
        others = [j for j in unique if j != i]
        if len(others) < 4:
            continue
        picked = [others[int(k)] for k in rng.permutation(len(others))[:4]]
        item = scene.items[i]
        ranked = sorted((footprint_distance(item.footprint, scene.items[j].footprint), j) for j in picked)
        if ranked[1][0] - ranked[0][0] < CLOSER:
            continue
        names = [scene.items[j].label for _, j in ranked]
        listed = ", ".join(sorted(names))
        question = f"Which of these stands closest to the {item.label}, measured at the closest points: {listed}?"
        out.append(_choice(rng, "object_rel_distance", question, names[0], names[1:]))
    return out


def _triples(rng: Rng, scene: Scene, unique: list[int]) -> list[tuple[Item, Item, Item, float]]:
    """Up to eight random ordered triples of well separated pieces, with the bearing of the third."""
    out = []
    all_triples = list(permutations(unique, 3))
    for choice in rng.permutation(len(all_triples))[:8]:
        a, b, c = (scene.items[i] for i in all_triples[int(choice)])
        if min(np.linalg.norm(a.box[:2] - other.box[:2]) for other in (b, c)) > rules.APART:
            out.append((a, b, c, rules.bearing(a.box[:2], b.box[:2], c.box[:2])))
    return out


def _relative_direction(rng: Rng, scene: Scene, unique: list[int], first_seen: dict[int, float]) -> list[Question]:
    out: list[Question] = []
    for a, b, c, angle in _triples(rng, scene, unique):
        head = f"I stand at the {a.label} and look toward the {b.label}. Where is the {c.label} from me"
        level = ("easy", "medium", "hard")[int(rng.integers(3))]
        if rules.clearance(angle, rules.BOUNDARIES[level]) <= ANGLE_MARGIN:
            continue
        right = rules.direction(level, angle)
        wrong = [d for d in rules.DIRECTIONS[level] if d != right]
        out.append(_choice(rng, f"object_rel_direction_{level}", f"{head}: {ASKED[level]}?", right, wrong))
    return out


def _route(rng: Rng, scene: Scene, unique: list[int], first_seen: dict[int, float]) -> list[Question]:
    out: list[Question] = []
    for a, b, c, _ in _triples(rng, scene, unique):
        angle = rules.heading_change(a.box[:2], b.box[:2], c.box[:2])
        right = rules.turn(angle)
        if right is None or rules.clearance(angle, rules.TURN_BOUNDARIES) <= ANGLE_MARGIN:
            continue
        question = (
            f"A robot starts at the {a.label}, facing the {b.label}, and is to reach the {c.label}. "
            f"Its route: 1. go forward to the {b.label}; 2. [missing turn]; 3. go forward to the {c.label}. "
            "Which turn is missing?"
        )
        out.append(_choice(rng, "route_planning", question, right, [turn for turn in rules.TURNS if turn != right]))
    return out


def _appearance(rng: Rng, scene: Scene, unique: list[int], first_seen: dict[int, float]) -> list[Question]:
    labels = {scene.items[i].label for i in first_seen if scene.items[i].target}
    earliest = {
        label: min(t for i, t in first_seen.items() if scene.items[i].target and scene.items[i].label == label)
        for label in sorted(labels)
    }
    # One class a moment: classes that appear together have no order.
    by_time: dict[float, list[str]] = {}
    for label, time in earliest.items():
        by_time.setdefault(time, []).append(label)
    candidates = [names[int(rng.integers(len(names)))] for _, names in sorted(by_time.items())]
    if len(candidates) < 4:
        return []
    picked = sorted(int(i) for i in rng.permutation(len(candidates))[:4])
    order = [candidates[i] for i in picked]
    others = [p for p in permutations(order) if list(p) != order]
    wrong = [", ".join(others[int(i)]) for i in rng.permutation(len(others))[:3]]
    listed = ", ".join(sorted(order))
    question = f"In which order do these kinds of objects first appear in the video: {listed}?"
    return [_choice(rng, "obj_appearance_order", question, ", ".join(order), wrong)]
