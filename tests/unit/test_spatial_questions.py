from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rft3d_cli.prepare.questions import places as located
from rft3d_cli.prepare.questions import quantities
from rft3d_cli.prepare.questions.floor import Floor, floor_of
from rft3d_cli.prepare.questions.order import appearance
from rft3d_cli.prepare.questions.world import Draft, Refusal, Thing, World, selections


def cube(x: float, y: float, size: float = 0.4, z: float = 0.5) -> list[float]:
    return [x, y, z, size, size, size, 0, 0, 0]


def world(*things: tuple[str, list[float]], seen: dict[int, tuple[int, int]] | None = None, floor: Any = "-") -> World:
    """Things by label and box; ``seen`` are frame and raw number of the first frame, 0 and 0 by default."""
    frames = dict.fromkeys(range(len(things)), (0, 0)) if seen is None else seen
    return World(
        tuple(Thing(i, label, np.array(box), *frames.get(i, (None, None))) for i, (label, box) in enumerate(things)),
        floor,
    )


def outcomes(maker: Any, of: World) -> set[str]:
    """Reasons, and answers of what is asked."""
    found = list(maker(np.random.default_rng(0), of, 200))
    return {f.reason if isinstance(f, Refusal) else f.answer for f in found}


def turned(degrees_left: float, distance: float = 2.0) -> list[float]:
    """A cube seen from the origin, so far to the left of the y axis."""
    angle = math.radians(90 + degrees_left)
    return cube(distance * math.cos(angle), distance * math.sin(angle))


@pytest.mark.parametrize(
    ("maker", "of", "expected"),
    [
        pytest.param(quantities.counting, world(("cup", cube(0, 0)), ("cup", cube(1, 0))), {"2"}, id="two cups"),
        pytest.param(quantities.counting, world(("cup", cube(0, 0))), set(), id="one cup is not counted"),
        pytest.param(
            quantities.counting,
            world(("cup", cube(0, 0)), ("cup", cube(1, 0)), seen={0: (0, 0)}),
            {"the record's frames do not show every one"},
            id="one of two cups is never shown",
        ),
        pytest.param(quantities.distance, world(("a", cube(0, 0)), ("b", cube(0, 1.5))), {"1.1"}, id="1.1 m"),
        pytest.param(
            quantities.distance, world(("a", cube(0, 0)), ("b", cube(0, 0.59))), {"nearly touching"}, id="0.19 m"
        ),
        pytest.param(quantities.size, world(("a", [0, 0, 0, 0.1, 0.3, 0.756, 1, 2, 3])), {"76"}, id="76 cm"),
        pytest.param(quantities.size, world(("a", cube(0, 0, 0.04))), {"too small to be measured"}, id="4 cm"),
        pytest.param(quantities.room_size, world(floor="no floor is known"), {"no floor is known"}, id="no floor"),
        pytest.param(
            quantities.room_size,
            world(floor=Floor(np.array([[0, 0], [4, 0], [4, 3.14], [0, 3.14]]), "mesh", 1.0)),
            {"12.6"},
            id="12.6 square metres",
        ),
        pytest.param(
            located.relative_distance,
            world(*((name, cube(2 * i, 0)) for i, name in enumerate("abcd"))),
            set(),
            id="too few to choose from",
        ),
    ],
)
def test_numbers_and_what_gives_none(maker: Any, of: World, expected: set[str]) -> None:
    assert outcomes(maker, of) == expected


@pytest.mark.parametrize(
    ("near", "next_", "several", "expected"),
    [
        pytest.param(1.0, 1.16, (), "b", id="16 cm closer"),
        pytest.param(1.0, 1.14, (), "the two closest are about as close", id="14 cm closer"),
        pytest.param(3.0, 3.3, (), "b", id="30 cm closer, of 2.9 m"),
        pytest.param(3.0, 3.25, (), "the two closest are about as close", id="25 cm closer, of 2.85 m"),
        pytest.param(1.0, 1.16, (5.0,), "b", id="the closest of a kind counts"),
        pytest.param(1.0, 1.16, (-0.7,), "e", id="a farther kind has the closest object"),
    ],
)
def test_the_closest_of_four(near: float, next_: float, several: tuple[float, ...], expected: str) -> None:
    row = [("b", near), ("c", next_), ("d", 7.0), ("e", 8.0), *(("e", x) for x in several)]
    of = world(("a", cube(0, 0)), *((name, cube(x, 0)) for name, x in row))
    (found,) = (f for f in located.relative_distance(np.random.default_rng(0), of, 200) if about(f)[0] == "a")
    assert (found.reason if isinstance(found, Refusal) else found.answer) == expected
    if isinstance(found, Draft):
        assert sorted((found.answer, *found.wrong)) == ["b", "c", "d", "e"]
        assert bool(found.words["several"]) == bool(several)


NEAR_A_BOUNDARY = "between two directions"


@pytest.mark.parametrize(
    ("angle", "easy", "medium", "hard"),
    [
        pytest.param(20, "left", "left", "front-left", id="20 left"),
        pytest.param(-20, "right", "right", "front-right", id="20 right"),
        pytest.param(14, NEAR_A_BOUNDARY, NEAR_A_BOUNDARY, NEAR_A_BOUNDARY, id="nearly straight on"),
        pytest.param(80, "left", "left", NEAR_A_BOUNDARY, id="nearly a right angle"),
        pytest.param(119, "left", "left", "back-left", id="119 left"),
        pytest.param(-125, "right", NEAR_A_BOUNDARY, "back-right", id="nearly behind"),
        pytest.param(155, "left", "back", "back-left", id="behind"),
        pytest.param(-170, NEAR_A_BOUNDARY, "back", NEAR_A_BOUNDARY, id="right behind"),
    ],
)
def test_directions(angle: float, easy: str, medium: str, hard: str) -> None:
    # Whoever stands at the first is far from both others; the other ways round are not looked at here.
    of = world(("at", cube(0, 0)), ("ahead", cube(0, 2)), ("asked", turned(angle)))
    for maker, expected in ((located.easy, easy), (located.medium, medium), (located.hard, hard)):
        found = list(maker(np.random.default_rng(0), of, 200))
        (mine,) = (f for f in found if about(f) == ("at", "ahead", "asked"))
        assert (mine.reason if isinstance(mine, Refusal) else mine.answer) == expected


def about(found: Draft | Refusal) -> tuple[str, ...]:
    return found.labels if isinstance(found, Refusal) else tuple(thing["label"] for thing in found.objects)


def test_places_too_close_have_no_direction() -> None:
    of = world(("a", cube(0, 0)), ("b", cube(0, 0.7)), ("c", cube(2, 0)))
    found = {about(f): f for f in located.hard(np.random.default_rng(0), of, 200)}
    assert found["a", "b", "c"].reason == found["a", "c", "b"].reason == "too close to give a direction"
    assert len(found) == 6


def routes(of: World) -> dict[tuple[str, ...], str]:
    # Whether a route has one or two turns is drawn, too.
    found = [f for seed in range(8) for f in located.route(np.random.default_rng(seed), of, 400)]
    return {about(f): f.reason if isinstance(f, Refusal) else f.answer for f in found}


def test_routes_turn_where_the_way_turns() -> None:
    corner = (("a", cube(0, 0)), ("b", cube(0, 3)), ("c", cube(3, 3)), ("d", cube(3, 6)))
    found = routes(world(*corner))
    assert found["a", "b", "c"] == "turn right"
    assert found["c", "b", "a"] == "turn left"
    assert found["b", "c", "d"] == "turn left"
    assert found["a", "b", "c", "d"] == "turn right, then turn left"
    assert found["a", "b", "d"] == "between two turns"
    assert routes(world(("a", cube(0, 0)), ("b", cube(0, 3)), ("c", cube(0.9, 0))))["a", "b", "c"] == "turn back"
    assert routes(world(("a", cube(0, 0)), ("b", cube(0, 3)), ("c", cube(0, 6))))["a", "b", "c"] == (
        "the way goes on without a turn"
    )


@pytest.mark.parametrize(
    ("label", "box", "free"),
    [
        pytest.param("sofa", [0.5, 1.5, 0.5, 0.2, 0.2, 0.7, 0, 0, 0], True, id="beside the way"),
        pytest.param("sofa", [0.2, 1.5, 0.5, 0.2, 0.2, 0.7, 0, 0, 0], False, id="in the way"),
        pytest.param("object", [0.2, 1.5, 0.5, 0.2, 0.2, 0.7, 0, 0, 0], False, id="something without a name"),
        pytest.param("carpet", [0, 1.5, 0.02, 3, 3, 0.04, 0, 0, 0], True, id="underfoot"),
        pytest.param("lamp", [0, 1.5, 2.2, 0.5, 0.5, 0.5, 0, 0, 0], True, id="overhead"),
        pytest.param("floor", [0, 1.5, 0.2, 9, 9, 0.4, 0, 0, 0], True, id="a thick floor"),
        pytest.param("wall", [0, 1.5, 1.2, 6, 0.1, 2.4, 0, 0, 0], False, id="a wall between"),
        pytest.param("wall", [0, 1.5, 1.2, 9, 9, 2.4, 0, 0, 0], True, id="walls around"),
    ],
)
def test_what_stands_in_the_way(label: str, box: list[float], free: bool) -> None:
    things = [("a", cube(0, 0)), ("b", cube(0, 3)), ("c", cube(3, 3)), ("low", cube(9, 9, 0.1, 0.05)), (label, box)]
    of = world(*things, seen=dict.fromkeys(range(3), (0, 0)))
    expected = "turn right" if free else "something stands in the way"
    assert routes(of)["a", "b", "c"] == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param([(0, 0), (2, 20), (4, 40), (6, 60)], "a, b, c, d", id="two frames apart"),
        pytest.param([(6, 60), (2, 20), (4, 40), (0, 0)], "d, b, c, a", id="another order"),
        pytest.param([(0, 0), (2, 20), (3, 30), (6, 60)], "first appearances too close", id="one frame apart"),
        pytest.param([(0, 0), (0, 0), (3, 30), (6, 60)], "first appearances too close", id="together"),
        pytest.param(
            [(0, 0), (2, 20), (4, 15), (6, 60)],
            "between the record's frames the order is another",
            id="an earlier glimpse between frames",
        ),
    ],
)
def test_order_of_appearance(seen: list[tuple[int, int]], expected: str) -> None:
    of = world(*((name, cube(i, 0)) for i, name in enumerate("abcd")), seen=dict(enumerate(seen)))
    assert outcomes(appearance, of) == {expected}


def test_a_kind_appears_with_its_first_object() -> None:
    things = [("a", cube(0, 0)), ("b", cube(1, 0)), ("c", cube(2, 0)), ("d", cube(3, 0)), ("a", cube(4, 0))]
    seen = {0: (9, 90), 1: (2, 20), 2: (4, 40), 3: (6, 60), 4: (0, 0)}
    assert outcomes(appearance, world(*things, seen=seen)) == {"a, b, c, d"}


def test_names_that_do_not_single_out_are_not_used() -> None:
    of = world(
        *((name, cube(i, 0)) for i, name in enumerate(["wall", "Floor", "ceiling", "object", "desk", "desk", "lamp"])),
        *((name, cube(i, 3)) for i, name in enumerate(["table", "coffee table", "book", "books", "no <image> tag"])),
        ("a, b", cube(9, 9)),
        ("hidden", cube(8, 8)),
        seen=dict.fromkeys(range(13), (0, 0)) | {12: (0, 0)},
    )
    assert [thing.label for thing in of.unique] == ["coffee table", "lamp"]
    assert {label: reason for reason, label in of.problems} == {
        "desk": "several objects share it",
        "table": "other objects are of this kind too",
        "book": "other objects are of this kind too",
        "books": "other objects are of this kind too",
        "no <image> tag": "not a plain name",
        "a, b": "not a plain name",
        "hidden": "no frame of the record shows it",
    }


def test_selections_are_different_and_complete() -> None:
    rng = np.random.default_rng(0)
    assert len(set(selections(rng, "abcd", 3, 1000))) == 24
    assert len(set(selections(rng, range(60), 5, 50))) == 50
    assert list(selections(rng, "ab", 3, 5)) == []


# ---- The floor


SQUARE = np.array([[0, 0, 0], [4, 0, 0.1], [4, 4, 0], [0, 4, 0], [2, 2, 0]], dtype=float)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        pytest.param(SQUARE, 16.0, id="a square"),
        pytest.param(SQUARE @ Rotation.from_euler("z", 0.7).as_matrix(), 16.0, id="a turned square"),
        pytest.param(np.delete(SQUARE, 2, axis=0), "the floor is not a rectangle", id="a triangle"),
        pytest.param(np.vstack([SQUARE, [8, 0, 0], [8, 1, 0]]), "the floor is not a rectangle", id="an L"),
        pytest.param(SQUARE / 5, "the floor is too small for a room", id="a mat"),
        pytest.param(SQUARE * [1, 0, 0], "no floor is known", id="a line"),
        pytest.param(SQUARE[:2], "no floor is known", id="two points"),
    ],
)
def test_floors(points: np.ndarray, expected: float | str) -> None:
    found = floor_of(points, "mesh")
    if isinstance(expected, str):
        assert found == expected
    else:
        x, y = found.polygon.T
        assert abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2 == pytest.approx(expected)
