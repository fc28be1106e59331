"""Furniture: class-typical shapes and sizes, built from boxes and upright cylinders.

A piece is described in its own frame: origin at the centre of its bounding box, x along its width, y along its depth
(its front faces +y), z up. Parts are given in shares of the size, so the parts always fill the box exactly and the
box is the tight ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Range = tuple[float, float]
Colour = tuple[float, float, float]
Span = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """One primitive, in shares of the piece's size.

    Args:
        kind: A box, or an upright elliptic cylinder.
        x: From and to, in [-0.5, 0.5].
        y: From and to.
        z: From and to.
        shade: Factor on the piece's colour.
    """

    kind: Literal["box", "cylinder"]
    x: Span
    y: Span
    z: Span
    shade: float = 1.0


@dataclass(frozen=True)
class Furniture:
    """A class of furniture.

    Args:
        width: Range of sizes along x, metres.
        depth: Range along y.
        height: Range along z.
        colours: Names from :data:`COLOURS` that this class comes in.
        at_wall: Whether it stands with its back to a wall.
        parts: Its primitives.
    """

    width: Range
    depth: Range
    height: Range
    colours: tuple[str, ...]
    at_wall: bool
    parts: tuple[Part, ...]


COLOURS: dict[str, Colour] = {
    "red": (0.78, 0.16, 0.14),
    "orange": (0.93, 0.53, 0.13),
    "yellow": (0.93, 0.80, 0.22),
    "green": (0.22, 0.58, 0.24),
    "teal": (0.10, 0.55, 0.56),
    "blue": (0.16, 0.34, 0.75),
    "purple": (0.49, 0.25, 0.62),
    "pink": (0.90, 0.50, 0.62),
    "brown": (0.47, 0.29, 0.15),
    "beige": (0.80, 0.68, 0.50),
    "white": (0.93, 0.93, 0.91),
    "gray": (0.52, 0.54, 0.56),
    "black": (0.13, 0.13, 0.15),
}


def _box(x: Span, y: Span, z: Span, shade: float = 1.0) -> Part:
    return Part("box", x, y, z, shade)


def _cylinder(x: Span, y: Span, z: Span, shade: float = 1.0) -> Part:
    return Part("cylinder", x, y, z, shade)


def _legs(width: float, depth: float, top: float, shade: float = 0.8) -> tuple[Part, ...]:
    spans_x = ((-0.5, -0.5 + width), (0.5 - width, 0.5))
    spans_y = ((-0.5, -0.5 + depth), (0.5 - depth, 0.5))
    return tuple(_box(x, y, (-0.5, top), shade) for x in spans_x for y in spans_y)


ALL: Span = (-0.5, 0.5)

CATALOGUE: dict[str, Furniture] = {
    "bed": Furniture(
        (1.35, 1.75), (1.95, 2.10), (0.85, 1.05), ("pink", "white"), True,
        (
            _box(ALL, (-0.5, -0.46), ALL, 0.55),
            _box(ALL, (-0.46, 0.5), (-0.5, -0.22), 0.6),
            _box((-0.48, 0.48), (-0.46, 0.49), (-0.22, 0.0)),
            _box((-0.38, -0.05), (-0.44, -0.28), (0.0, 0.12), 1.2),
            _box((0.05, 0.38), (-0.44, -0.28), (0.0, 0.12), 1.2),
        ),
    ),
    "bin": Furniture(
        (0.28, 0.36), (0.28, 0.36), (0.36, 0.48), ("black", "gray"), False,
        (_cylinder((-0.44, 0.44), (-0.44, 0.44), (-0.5, 0.42)), _cylinder(ALL, ALL, (0.42, 0.5), 1.4)),
    ),
    "cabinet": Furniture(
        (0.80, 1.20), (0.40, 0.50), (1.40, 1.90), ("brown", "gray"), True,
        (
            _box((-0.47, 0.47), (-0.5, 0.38), (-0.5, -0.45), 0.5),
            _box(ALL, (-0.5, 0.42), (-0.45, 0.5)),
            _box((-0.48, -0.01), (0.42, 0.47), (-0.43, 0.48), 1.15),
            _box((0.01, 0.48), (0.42, 0.47), (-0.43, 0.48), 1.15),
            _box((-0.06, -0.03), (0.47, 0.5), (-0.1, 0.1), 0.4),
            _box((0.03, 0.06), (0.47, 0.5), (-0.1, 0.1), 0.4),
        ),
    ),
    "chair": Furniture(
        (0.44, 0.54), (0.46, 0.56), (0.84, 0.98), ("red", "orange"), False,
        (
            *_legs(0.10, 0.10, -0.06),
            _box(ALL, (-0.42, 0.5), (-0.06, 0.02)),
            _box(ALL, (-0.5, -0.40), (-0.02, 0.5), 0.9),
        ),
    ),
    "couch": Furniture(
        (1.60, 2.10), (0.85, 0.98), (0.74, 0.86), ("blue", "teal"), True,
        (
            _box((-0.5, -0.39), ALL, (-0.5, 0.22), 0.9),
            _box((0.39, 0.5), ALL, (-0.5, 0.22), 0.9),
            _box((-0.39, 0.39), (-0.5, -0.22), (-0.5, 0.5), 0.95),
            _box((-0.39, 0.39), (-0.22, 0.48), (-0.5, -0.14), 0.8),
            _box((-0.385, -0.01), (-0.22, 0.5), (-0.14, 0.03), 1.1),
            _box((0.01, 0.385), (-0.22, 0.5), (-0.14, 0.03), 1.1),
        ),
    ),
    "desk": Furniture(
        (1.10, 1.50), (0.58, 0.72), (0.72, 0.78), ("beige", "white"), True,
        (
            _box(ALL, ALL, (0.43, 0.5)),
            _box((-0.48, -0.44), (-0.46, 0.46), (-0.5, 0.43), 0.8),
            _box((0.18, 0.48), (-0.46, 0.44), (-0.5, 0.43), 0.85),
            _box((0.20, 0.46), (0.44, 0.47), (0.05, 0.38), 1.05),
            _box((0.20, 0.46), (0.44, 0.47), (-0.42, 0.0), 1.05),
        ),
    ),
    "lamp": Furniture(
        (0.38, 0.48), (0.38, 0.48), (1.45, 1.75), ("yellow", "white"), False,
        (
            _cylinder((-0.36, 0.36), (-0.36, 0.36), (-0.5, -0.48), 0.4),
            _cylinder((-0.05, 0.05), (-0.05, 0.05), (-0.48, 0.32), 0.4),
            _cylinder(ALL, ALL, (0.28, 0.5), 1.15),
        ),
    ),
    "ottoman": Furniture(
        (0.55, 0.75), (0.55, 0.75), (0.38, 0.46), ("purple", "teal"), False,
        (
            _cylinder((-0.45, 0.45), (-0.45, 0.45), (-0.5, -0.36), 0.5),
            _cylinder(ALL, ALL, (-0.36, 0.40)),
            _cylinder((-0.46, 0.46), (-0.46, 0.46), (0.40, 0.5), 1.15),
        ),
    ),
    "plant": Furniture(
        (0.48, 0.62), (0.48, 0.62), (0.90, 1.30), ("green",), False,
        (
            _cylinder((-0.28, 0.28), (-0.28, 0.28), (-0.5, -0.22), 0.45),
            _cylinder((-0.06, 0.06), (-0.06, 0.06), (-0.22, 0.0), 0.5),
            _cylinder((-0.40, 0.40), (-0.40, 0.40), (-0.10, 0.06), 0.85),
            _cylinder(ALL, ALL, (0.06, 0.28)),
            _cylinder((-0.36, 0.36), (-0.36, 0.36), (0.28, 0.42), 1.15),
            _cylinder((-0.20, 0.20), (-0.20, 0.20), (0.42, 0.5), 1.25),
        ),
    ),
    "refrigerator": Furniture(
        (0.62, 0.74), (0.62, 0.72), (1.55, 1.85), ("white", "gray"), True,
        (
            _box(ALL, (-0.5, 0.40), ALL, 0.9),
            _box((-0.49, 0.49), (0.40, 0.46), (0.16, 0.49)),
            _box((-0.49, 0.49), (0.40, 0.46), (-0.48, 0.14)),
            _box((0.38, 0.43), (0.46, 0.5), (0.20, 0.36), 0.45),
            _box((0.38, 0.43), (0.46, 0.5), (-0.16, 0.08), 0.45),
        ),
    ),
    "shelf": Furniture(
        (0.75, 1.05), (0.28, 0.36), (1.30, 1.80), ("beige", "brown"), True,
        (
            _box((-0.5, -0.45), ALL, ALL, 0.9),
            _box((0.45, 0.5), ALL, ALL, 0.9),
            _box((-0.45, 0.45), (-0.5, -0.42), ALL, 0.6),
            *(_box((-0.45, 0.45), (-0.42, 0.5), (z, z + 0.03)) for z in (-0.5, -0.27, -0.02, 0.23, 0.47)),
            _box((-0.40, -0.05), (-0.35, 0.3), (-0.24, -0.10), 0.45),
            _box((0.02, 0.38), (-0.35, 0.3), (0.01, 0.16), 0.5),
        ),
    ),
    "stand": Furniture(
        (0.42, 0.54), (0.38, 0.46), (0.48, 0.62), ("brown", "purple"), False,
        (
            *_legs(0.12, 0.12, -0.34, 0.6),
            _box((-0.46, 0.46), (-0.5, 0.46), (-0.34, 0.42), 0.95),
            _box((-0.40, 0.40), (0.46, 0.5), (-0.28, 0.36), 1.15),
            _box(ALL, ALL, (0.42, 0.5), 0.85),
        ),
    ),
    "table": Furniture(
        (1.10, 1.60), (0.75, 0.95), (0.70, 0.78), ("brown", "beige"), False,
        (_box(ALL, ALL, (0.42, 0.5)), *_legs(0.06, 0.09, 0.42)),
    ),
    "toilet": Furniture(
        (0.38, 0.46), (0.62, 0.74), (0.72, 0.84), ("white",), True,
        (
            _box(ALL, (-0.5, -0.22), (-0.05, 0.5)),
            _box((-0.3, 0.3), (-0.35, 0.2), (-0.5, -0.05), 0.85),
            _cylinder((-0.46, 0.46), (-0.22, 0.5), (-0.18, 0.02), 0.97),
        ),
    ),
}  # fmt: skip
"""Every class, alphabetically. All names are in VG-LLM's 31 detection classes or EmbodiedScan's categories."""

CLASSES: tuple[str, ...] = tuple(CATALOGUE)
