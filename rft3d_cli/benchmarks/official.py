"""What the public detection and ScanRefer scorers share: how they undress a text and take a box."""

from __future__ import annotations

from typing import Any

import numpy as np

from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.records import MAX_NUMBER


def strip_fence(text: str) -> str:
    r"""The text without newlines, back-ticks, any of the letters j, s, o, n, and newlines again, at both ends.

    This is the public scorers' way to a code fence. Without a fence it eats into words.

    >>> strip_fence("```json\n[]\n```"), strip_fence("no chairs")
    ('[]', ' chair')
    """
    return text.strip("\n").strip("`").strip("json").strip("\n")


def as_box(value: Any) -> Floats | None:
    """Nine numbers that overlap can be computed for, or None.

    The public scorers mirror a negative size, which gives the box of the positive one.

    Args:
        value: What the answer has for ``bbox_3d``: nine numbers if it is right, anything else if it is not. numpy reads
            numbers written as text, too.

    Returns:
        ``(9,)``: centre and size in metres, angles in radians, the sizes positive. None for another shape, for NaN, and
        for a number beyond ±:data:`~rft3d_cli.answers.scan.MAX_NUMBER`.

    Raises:
        ValueError: Where the value does not become an array of numbers at all.

    >>> as_box([0, 0, 2, -1, 1, 1, 0, 0, 0]).tolist()
    [0.0, 0.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    >>> as_box([0, 0, 2]) is None
    True
    """
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    if array.shape != (9,) or not (np.abs(array) <= MAX_NUMBER).all():
        return None
    array[3:6] = np.abs(array[3:6])
    return array
