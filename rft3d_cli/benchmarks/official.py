"""What the public detection and ScanRefer scorers share: how they undress a text and take a box."""

from __future__ import annotations

from typing import Any

import numpy as np

from rft3d_cli.answers.scan import MAX_NUMBER
from rft3d_cli.geometry.boxes import Floats


def strip_fence(text: str) -> str:
    r"""The text without newlines, back-ticks, any of the letters j, s, o, n, and newlines again, at both ends.

    >>> strip_fence("```json\n[]\n```")
    '[]'
    """
    return text.strip("\n").strip("`").strip("json").strip("\n")


def as_box(value: Any) -> Floats | None:
    """Nine numbers that overlap can be computed for, or None.

    The public scorers mirror a negative size, which gives the box of the positive one.

    Raises:
        ValueError: Where the value does not become an array of numbers at all.
    """
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    if array.shape != (9,) or not (np.abs(array) <= MAX_NUMBER).all():
        return None
    array[3:6] = np.abs(array[3:6])
    return array
