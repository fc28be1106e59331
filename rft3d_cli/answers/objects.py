"""The ``{…}`` objects of a text: what a confidence is given for, one each, in order."""

from __future__ import annotations

import re

_OBJECT = re.compile(r"\{[^{}]*+\}")


def object_spans(text: str) -> list[tuple[int, int]]:
    """Where the objects of a text stand, readable or not: from a brace that opens to the brace that closes it.

    Of nested objects the innermost count. One that is cut off is none.

    Args:
        text: Anything a model wrote. Takes time linear in the text.

    Returns:
        Start and end (exclusive) of each, in order, in characters.

    >>> text = '[{"label": "bed"}, {}, {"label": "ch'
    >>> [text[start:end] for start, end in object_spans(text)]
    ['{"label": "bed"}', '{}']
    """
    return [match.span() for match in _OBJECT.finditer(text)]
