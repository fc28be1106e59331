"""Answers of models that mean the angles of their boxes as files before 28 November 2025 did, in today's meaning."""

from __future__ import annotations

import math
import re

from rft3d_cli.geometry.eras import Era, converted

_BOX = re.compile(r"""(["']b?box_3d["']\s{0,20}:\s{0,20})\[([^\[\]]{1,500})\]""")
_DIGITS = 6


def reread(text: str, era: Era) -> str:
    """A model's answer with every box of nine numbers in the meaning that records have.

    Args:
        text: Anything a model wrote. Never raises; takes time linear in the text.
        era: What the model means by its angles. ``intrinsic`` leaves the text as it is.

    Returns:
        The text; all of it but those boxes is unchanged.

    >>> reread('{"label": "bed", "bbox_3d": [0, 0, 2, 1, 1, 1, 0.5, 0.2, 0]}', "extrinsic")
    '{"label": "bed", "bbox_3d": [0.0, 0.0, 2.0, 1.0, 1.0, 1.0, 0.508517, 0.175244, -0.09688]}'
    """
    if era == "intrinsic":
        return text

    def anew(match: re.Match[str]) -> str:
        try:
            box = [float(number) for number in match[2].split(",")]
        except ValueError:
            return match[0]
        if len(box) != 9 or not all(math.isfinite(x) and abs(x) < 1e6 for x in box):
            return match[0]
        numbers = ", ".join(repr(round(x, _DIGITS) + 0.0) for x in converted(box, era).tolist())
        return f"{match[1]}[{numbers}]"

    return _BOX.sub(anew, text)
