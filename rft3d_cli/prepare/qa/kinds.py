"""Kinds of questions under the names of the sets, and what VSI-Bench calls those that mean the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rft3d_cli.rewards.reasoning import UNITS

DIRECTION = "object_rel_direction"
"""VSI-Bench's three kinds of directions begin so; which one it is, the options tell."""

TYPES = frozenset(
    {
        *("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation"),
        *("object_rel_distance", "route_planning", "obj_appearance_order"),
        *(f"{DIRECTION}_easy", f"{DIRECTION}_medium", f"{DIRECTION}_hard"),
    }
)
"""VSI-Bench's own."""
SAME = {
    **{name: name for name in TYPES},
    # VSI-590K: the names that cambrian-s' data and readers of it have.
    "absolute_count": "object_counting",
    "absolute_distance_object": "object_abs_distance",
    "absolute_size_object": "object_size_estimation",
    "absolute_size_room": "room_size_estimation",
    "relative_distance_object": "object_rel_distance",
    "relative_direction_object": DIRECTION,
    "appearance_order": "obj_appearance_order",
    # VSI-Train-10k.
    "object_count": "object_counting",
    "absolute_distance": "object_abs_distance",
    "object_size": "object_size_estimation",
    "room_size": "room_size_estimation",
    "relative_distance": "object_rel_distance",
    "relative_direction": DIRECTION,
    # SIMS-VSI.
    "obj_count": "object_counting",
    "obj_abs_distance": "object_abs_distance",
    "obj_size_est": "object_size_estimation",
    "room_size_est": "room_size_estimation",
    "obj_rel_distance": "object_rel_distance",
    "obj_rel_direction_easy": f"{DIRECTION}_easy",
    "obj_rel_direction_medium": f"{DIRECTION}_medium",
    "obj_rel_direction_hard": f"{DIRECTION}_hard",
}
"""VSI-Bench's name by a set's. Not here: kinds that VSI-Bench does not have, such as VSI-590K's ``relative_count``,
``relative_size_object``, ``absolute_direction_object`` and those about the camera."""

NUMBERS = frozenset({"object_counting", *UNITS})
"""VSI-Bench's kinds that ask for a number; the others ask for a letter."""

_WORDING = (
    ("object_counting", r"^How many [^.?]+ are in this room\?"),
    ("object_abs_distance", r"what is the (?:direct )?distance between the .+ and the .+\(in meters\)\?"),
    ("object_size_estimation", r"length of the longest dimension .+ of the .+, measured in centimeters\?"),
    ("room_size_estimation", r"^What is the size of this room \(in square meters\)\?"),
    ("object_rel_distance", r"^Measuring from the closest point of each object, which of these objects .+closest to"),
    (DIRECTION, r"^If I am standing by the .+ and facing the .+, is the .+\b(?:left|right)\b"),
    ("route_planning", r"^You are a robot beginning (?:at|by) .+navigate to"),
    ("obj_appearance_order", r"first-time appearance order of the following categories in the video"),
)
"""How VSI-Bench's own templates put it, which VLM-3R's questions follow; most of those have no type of their own."""
_TEMPLATES = [(kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _WORDING]

_MEASURES = {
    **dict.fromkeys(("meter", "meters", "metre", "metres"), "m"),
    **dict.fromkeys(("centimeter", "centimeters", "centimetre", "centimetres", "cm"), "cm"),
    **dict.fromkeys(("inch", "inches"), "in"),
    **dict.fromkeys(("degree", "degrees"), "deg"),
    **dict.fromkeys(("m2", "m^2", "m²", "sqm"), "m2"),
    **dict.fromkeys(("ft2", "ft^2", "ft²", "sqft"), "ft2"),
    "feet": "ft",  # a foot may be that of a bed
}
_SQUARE = {**dict.fromkeys(("m", "meter", "meters", "metre", "metres"), "m2"), **dict.fromkeys(("ft", "feet"), "ft2")}
_WORD = re.compile(r"[a-z]+(?:\^?2|²)?")


def unit_of(question: str) -> str | None:
    """The unit that a question names: ``m``, ``cm``, ``m2``, ``ft``, ``ft2``, ``in`` or ``deg``.

    Args:
        question: Without its options.

    Returns:
        None where it names none, or more than one.

    >>> unit_of("How far is it, in feet?"), unit_of("How many chairs?"), unit_of("The size in square meters?")
    ('ft', None, 'm2')
    """
    words = _WORD.findall(question.lower())
    found = {
        (_SQUARE if before in ("square", "sq") else _MEASURES).get(word)
        for before, word in zip(["", *words], words, strict=False)
    } - {None}
    return found.pop() if len(found) == 1 else None


def vsibench_type(
    own: str | None, question: str, options: Sequence[str] | None, task: str, detail: str | None = None
) -> str | None:
    """VSI-Bench's name for a question, where it means the same and its answer is in the same unit.

    Args:
        own: The set's name; None where the row has none, and then VSI-Bench's own wording tells.
        question: Without its options.
        options: ``A. left`` …
        task: ``choice``, ``number`` or ``text``.
        detail: A finer name, where the set has one.

    >>> vsibench_type("absolute_distance_object", "How far apart, in meters?", None, "number")
    'object_abs_distance'
    >>> vsibench_type("absolute_distance_object", "How far apart, in feet?", None, "number")
    >>> vsibench_type("relative_direction_object", "Where?", ["A. left", "B. right"], "choice")
    'object_rel_direction_easy'
    """
    kind = SAME.get(detail or "") or SAME.get(own or "")
    if own is None and kind is None:
        kind = next((name for name, pattern in _TEMPLATES if pattern.search(question)), None)
    if kind == DIRECTION:
        kind = _direction(options)
    if kind is None or task != ("number" if kind in NUMBERS else "choice"):
        return None
    if kind in UNITS and unit_of(question) != UNITS[kind]:
        return None
    if kind == "object_rel_distance" and re.search(r"\b(?:farthest|furthest)\b", question, re.IGNORECASE):
        return None
    return kind


_WORDS = {
    frozenset({"left", "right"}): "easy",
    frozenset({"left", "right", "back"}): "medium",
    frozenset({"front-left", "front-right", "back-left", "back-right"}): "hard",
}


def _direction(options: Sequence[str] | None) -> str | None:
    words = frozenset(option.partition(". ")[2].strip(" .").lower().replace(" ", "-") for option in options or ())
    level = _WORDS.get(words)
    return level and f"{DIRECTION}_{level}"
