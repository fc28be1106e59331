"""Colour, depth and instance images of a scene, in plain numpy.

Every surface is a convex polygon. In camera coordinates a pixel's ray ``d = (x, y, 1)`` hits a polygon with corners
``p₀ … pₖ`` exactly when all ``d · (pᵢ × pᵢ₊₁)`` have one sign, whether or not corners lie behind the camera, so
nothing is ever clipped. The inverse depth of a plane is linear in ``(x, y)``: a depth buffer is one multiply-add and
one comparison a pixel. Shading happens once at the end, on what is visible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.geometry.boxes import Floats, rotation_from_angles
from rft3d_cli.prepare.rooms.scene import Scene

SIDES = 12
"""Sides of the prism that stands for a cylinder; a multiple of 4, so that its extent is exact on both axes."""

Singles = NDArray[np.float32]

LIGHT: Floats = np.array([0.35, 0.25, 0.90]) / np.linalg.norm([0.35, 0.25, 0.90])
FLOOR, WALL, CEILING = 0, 1, 2
"""Instance numbers of the room itself; pieces follow from :data:`FIRST_ITEM` in the scene's order."""
FIRST_ITEM = 3

_BOX_FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


@dataclass(frozen=True)
class Surface:
    """One convex polygon, counter-clockwise seen from outside.

    Args:
        points: ``(k, 3)`` metres, axis-aligned world.
        instance: 0 … 2 for the room, otherwise 3 + index of the piece.
        part: Index of the part within its piece.
        colour: RGB in [0, 1] before lighting.
    """

    points: Floats
    instance: int
    part: int
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Image:
    """What one frame shows.

    Args:
        colour: ``(H, W, 3)`` uint8.
        depth: ``(H, W)`` metres along the optical axis, at pixel centres.
        instance: ``(H, W)`` instance numbers, at pixel centres.
    """

    colour: NDArray[np.uint8]
    depth: Floats
    instance: NDArray[np.int16]


def surfaces(scene: Scene) -> list[Surface]:
    """All polygons of a scene: the room's inside, then every piece's parts."""
    out = _room(scene)
    for index, item in enumerate(scene.items):
        # Parts follow the piece's front, which may differ from the box's yaw by half a turn.
        rotation = rotation_from_angles([item.turn, 0.0, 0.0])
        for number, part in enumerate(item.parts):
            low = np.array([part.x[0], part.y[0], part.z[0]])
            high = np.array([part.x[1], part.y[1], part.z[1]])
            polygons = _box(low, high) if part.kind == "box" else _cylinder(low, high)
            colour = tuple(float(np.clip(c * part.shade, 0, 1)) for c in item.colour)
            for polygon in polygons:
                points = (polygon * item.box[3:6]) @ rotation.T + item.box[:3]
                out.append(Surface(points, FIRST_ITEM + index, number, (colour[0], colour[1], colour[2])))
    return out


def _room(scene: Scene) -> list[Surface]:
    low, high = np.zeros(3), np.array(scene.size)
    faces = [polygon[::-1] for polygon in _box(low, high)]
    ceiling = (0.93, 0.93, 0.92)
    kinds = [WALL, WALL, WALL, WALL, FLOOR, CEILING]
    colours = {FLOOR: scene.floor, WALL: scene.wall, CEILING: ceiling}
    return [Surface(face, kind, i, colours[kind]) for i, (face, kind) in enumerate(zip(faces, kinds, strict=True))]


def _box(low: Floats, high: Floats) -> list[Floats]:
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    return [corners[list(face)] for face in _BOX_FACES]


def _cylinder(low: Floats, high: Floats) -> list[Floats]:
    angle = 2 * np.pi * np.arange(SIDES) / SIDES
    centre, radius = (low + high) / 2, (high - low) / 2
    ring = np.stack([centre[0] + radius[0] * np.cos(angle), centre[1] + radius[1] * np.sin(angle)], axis=1)
    bottom = np.column_stack([ring, np.full(SIDES, low[2])])
    top = np.column_stack([ring, np.full(SIDES, high[2])])
    sides = [np.array([bottom[i], bottom[(i + 1) % SIDES], top[(i + 1) % SIDES], top[i]]) for i in range(SIDES)]
    return [*sides, top, bottom[::-1]]


class Renderer:
    """Renders one scene from many poses.

    Args:
        scene: What to render.
        width: Pixels.
        height: Pixels.
        intrinsic: ``(3, 3)`` for that size.
        antialias: Samples along a pixel's side; odd, so that one of them is the pixel's centre.
    """

    def __init__(self, scene: Scene, width: int, height: int, intrinsic: Floats, antialias: int = 3) -> None:
        if antialias % 2 == 0:
            raise ValueError("antialias must be odd")
        self.antialias = antialias
        self.shape = (height * antialias, width * antialias)
        self.surfaces = surfaces(scene)
        counts = np.array([len(s.points) for s in self.surfaces])
        self._points = np.concatenate([s.points for s in self.surfaces])
        self._begin = np.cumsum(counts) - counts
        self._end = np.cumsum(counts)
        after = np.arange(len(self._points)) + 1
        after[self._end - 1] = self._begin
        self._after = after
        first, second, third = (self._points[self._begin + k] for k in range(3))
        normals = np.cross(second - first, third - first)
        self._normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        self._instance = np.array([s.instance for s in self.surfaces], dtype=np.int16)
        self._colour = self._lit()
        # Sample k of pixel u lies at u + (k + 0.5) / a - 0.5; pixel centres are integers.
        u = (np.arange(self.shape[1]) + 0.5) / antialias - 0.5
        v = (np.arange(self.shape[0]) + 0.5) / antialias - 0.5
        self._x = ((u - intrinsic[0, 2]) / intrinsic[0, 0]).astype(np.float32)
        self._y = ((v - intrinsic[1, 2]) / intrinsic[1, 1]).astype(np.float32)
        self._feet = [(item.box[:2], item.box[3:5] / 2, item.turn) for item in scene.items]

    def _lit(self) -> Singles:
        """Colours after one fixed light from above and an even ambient term."""
        light = 0.62 + 0.42 * np.clip(self._normals @ LIGHT, 0, None) + 0.06 * self._normals[:, 0]
        room = self._instance < FIRST_ITEM
        light[room] = 0.9 + 0.06 * self._normals[room, 0] + 0.03 * self._normals[room, 1]
        colours = np.array([s.colour for s in self.surfaces])
        lit: Singles = np.clip(colours * light[:, None], 0, 1).astype(np.float32)
        return lit

    def render(self, pose: Floats) -> Image:
        """One frame.

        Args:
            pose: ``(4, 4)`` camera to axis-aligned world.
        """
        inverse, face = self._visible(pose)
        a = self.antialias
        middle = slice(a // 2, None, a)
        inverse_centre, face_centre = inverse[middle, middle], face[middle, middle]
        rows, columns = np.indices(face_centre.shape).reshape(2, -1) * a + a // 2
        colour = self._shade(face_centre.ravel(), inverse_centre.ravel(), columns, rows, pose)
        if a > 1:
            # Only pixels that see more than one surface need all their samples; the rest are even.
            blocks = face.reshape(face_centre.shape[0], a, face_centre.shape[1], a)
            mixed = np.nonzero((blocks != face_centre[:, None, :, None]).any(axis=(1, 3)).ravel())[0]
            offset = np.arange(a) - a // 2
            rr = (rows[mixed][:, None, None] + offset[:, None]).repeat(a, axis=2).reshape(-1)
            cc = (columns[mixed][:, None, None] + offset[None, :]).repeat(a, axis=1).reshape(-1)
            samples = self._shade(face[rr, cc], inverse[rr, cc], cc, rr, pose)
            colour[mixed] = samples.reshape(len(mixed), a * a, 3).mean(axis=1)
        pixels = (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(*face_centre.shape, 3)
        return Image(pixels, 1.0 / inverse_centre.astype(np.float64), self._instance[face_centre])

    def _visible(self, pose: Floats) -> tuple[Singles, NDArray[np.int16]]:
        """Inverse depth and index of the nearest surface at every sample."""
        points = (self._points - pose[:3, 3]) @ pose[:3, :3]
        normals = self._normals @ pose[:3, :3]
        offsets = np.einsum("ij,ij->i", normals, points[self._begin])
        with np.errstate(divide="ignore"):
            planes = (normals / offsets[:, None]).astype(np.float32)
        edges = np.cross(points, points[self._after]).astype(np.float32)
        bounds = self._bounds(points)
        inverse = np.zeros(self.shape, dtype=np.float32)
        face = np.zeros(self.shape, dtype=np.int16)
        # Offsets are negative where a surface faces the camera.
        for index in np.nonzero((offsets < -1e-6) & (bounds[:, 0] < bounds[:, 1]) & (bounds[:, 2] < bounds[:, 3]))[0]:
            top, bottom, left, right = bounds[index]
            x, y = self._x[left:right], self._y[top:bottom, None]
            plane = planes[index]
            depth = plane[0] * x + (plane[1] * y + plane[2])
            target = inverse[top:bottom, left:right]
            closer = depth > target
            if self._instance[index] >= FIRST_ITEM:
                for edge in edges[self._begin[index] : self._end[index]]:
                    closer &= edge[0] * x <= -(edge[1] * y + edge[2])
            np.copyto(target, depth, where=closer)
            face[top:bottom, left:right][closer] = index
        return inverse, face

    def _bounds(self, points: Floats) -> NDArray[np.int64]:
        """Rectangles ``(n, 4)`` of samples that each surface can touch: top, bottom, left, right, ends excluded."""
        z = points[:, 2]
        nearest = np.minimum.reduceat(z, self._begin)
        safe = np.maximum(z, 1e-3)
        out = np.empty((len(self.surfaces), 4), dtype=np.int64)
        for column, (values, grid) in enumerate(((points[:, 1] / safe, self._y), (points[:, 0] / safe, self._x))):
            out[:, 2 * column] = np.searchsorted(grid, np.minimum.reduceat(values, self._begin))
            out[:, 2 * column + 1] = np.searchsorted(grid, np.maximum.reduceat(values, self._begin))
        # A surface that reaches behind the camera may show anywhere; one that lies behind it, nowhere.
        out[nearest < 0.02] = [0, self.shape[0], 0, self.shape[1]]
        out[np.maximum.reduceat(z, self._begin) < 0.02] = 0
        return out

    def _shade(
        self,
        face: NDArray[np.int16],
        inverse: Singles,
        columns: NDArray[np.int64],
        rows: NDArray[np.int64],
        pose: Floats,
    ) -> Singles:
        """Colours ``(n, 3)`` of samples: light, floor tiles, shadows at the feet of furniture, skirting boards."""
        colour = self._colour[face]
        instance = self._instance[face]
        where = np.nonzero(instance <= WALL)[0]
        depth = 1 / inverse[where]
        x, y = self._x[columns[where]] * depth, self._y[rows[where]] * depth
        r = pose.astype(np.float32)
        world = [r[k, 0] * x + r[k, 1] * y + r[k, 2] * depth + r[k, 3] for k in range(3)]
        light = np.where(world[2] < 0.08, 0.72, 1.0) * (0.90 + 0.10 * np.clip(world[2] / 1.5, 0, 1))
        on_floor = np.nonzero(instance[where] == FLOOR)[0]
        light[on_floor] = self._floor_light(world[0][on_floor], world[1][on_floor])
        colour[where] *= light[:, None].astype(np.float32)
        return colour

    def _floor_light(self, x: Singles, y: Singles) -> Singles:
        """Tiles of half a metre with joints, darkened around the feet of furniture."""
        tile_x, tile_y = np.floor(x * 2), np.floor(y * 2)
        joint = (x * 2 - tile_x < 0.05) | (y * 2 - tile_y < 0.05)
        light = (0.95 + 0.05 * ((tile_x + tile_y) % 2)) * np.where(joint, np.float32(0.86), np.float32(1.0))
        for centre, half, turn in self._feet:
            dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
            reach = np.float32(np.hypot(*half) + 0.4)
            near = np.nonzero((np.abs(dx) < reach) & (np.abs(dy) < reach))[0]
            c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            dx, dy = dx[near], dy[near]
            along = np.maximum(np.abs(c * dx + s * dy) - np.float32(half[0]), 0)
            across = np.maximum(np.abs(c * dy - s * dx) - np.float32(half[1]), 0)
            light[near] *= 1 - 0.42 * np.exp(-np.hypot(along, across) / np.float32(0.10))
        out: Singles = np.asarray(light, dtype=np.float32)
        return out
