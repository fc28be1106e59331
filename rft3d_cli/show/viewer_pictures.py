"""The frames of a page: thinned out, scaled and packed so that the page stays a few megabytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.camera import scale_intrinsic

MOST_FRAMES = 64
"""Frames of a page, at most, apart from those that answers name."""
WIDTHS = (640, 480, 360, 240)
"""Longer sides of the pictures, pixels: the first at which they fit :data:`LETTERS`."""
LETTERS = 3_000_000
"""Of all pictures together."""
QUALITY = 82
"""Of the JPEG pictures."""


@dataclass(frozen=True)
class Pictures:
    """Frames ready for a page.

    Args:
        kept: Which of the frames these are, ascending.
        sources: A data URI each.
        size: ``(width, height)`` of each, pixels.
        full: ``(width, height)`` of the frames they were made of.
    """

    kept: list[int]
    sources: list[str]
    size: tuple[int, int]
    full: tuple[int, int]

    def scaled(self, intrinsic: ArrayLike) -> Floats:
        """The intrinsic matrix of the pictures, from that of the frames."""
        return scale_intrinsic(intrinsic, self.full, self.size)


def pictures(images: Sequence[NDArray[np.uint8]], *, keep: Iterable[int]) -> Pictures:
    """Choose, scale and pack frames.

    Args:
        images: ``(H, W, 3)`` RGB, of one size.
        keep: Frames that stay whatever is thinned out.

    Returns:
        The pictures.
    """
    kept = thinned(len(images), keep)
    height, width = images[0].shape[:2]
    for longest in WIDTHS:
        scale = min(1.0, longest / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        sources = []
        for index in kept:
            sources.append(_packed(images[index], size))
            if sum(map(len, sources)) > LETTERS and longest != WIDTHS[-1]:
                break
        else:
            break
    return Pictures(kept, sources, size, (width, height))


def thinned(count: int, keep: Iterable[int]) -> list[int]:
    """Which of ``count`` frames a page shows: all, or evenly spread ones and those that must stay.

    >>> len(thinned(1000, [501])), 501 in thinned(1000, [501]), thinned(3, [0])
    (65, True, [0, 1, 2])
    """
    if count <= MOST_FRAMES:
        return list(range(count))
    even = np.round(np.linspace(0, count - 1, MOST_FRAMES)).astype(int).tolist()
    return sorted({*even, *keep})


def _packed(image: NDArray[np.uint8], size: tuple[int, int]) -> str:
    from PIL import Image

    picture = Image.fromarray(image)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
