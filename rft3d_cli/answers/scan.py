"""Finding JSON-like objects in model text, in one pass.

The scanner never raises, never evaluates, and takes time linear in the text by construction: every step consumes at
least one character, the token patterns are possessive (they cannot backtrack), the stack of open brackets has a
fixed depth, and text beyond a cap is not looked at.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from rft3d_cli.records import MAX_NUMBER

MAX_CHARS = 1 << 18
"""Characters of an answer that are read: thirty times the longest real detection answer."""

MAX_DEPTH = 16
"""Open brackets that are remembered; deeper nesting forgets the outermost ones."""

_OPEN = re.compile(r"[\[{]")
_TOKEN = re.compile(
    r"""[\[\]{},:]"""
    r"""|"(?:[^"\\\n]++|\\.)*+("?)"""
    r"""|'(?:[^'\\\n]++|\\.)*+('?)"""
    r"""|[^\s\[\]{},:"']++"""
)
_NUMBER = re.compile(r"[-+]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?")
_NAMES = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Region:
    """The part of a model's text that holds its answer.

    Args:
        text: The answer's text, at most :data:`MAX_CHARS` characters.
        truncated: It was cut: an open tag, or more text than is read.
        why: For an empty region, what is missing.
    """

    text: str
    truncated: bool = False
    why: str = ""


def answer_region(text: str) -> Region:
    """Where the answer stands: after the last ``</think>``, inside the last complete ``<answer>``.

    Thinking that never ends leaves no answer: a guess from the middle of it would be an invention. An ``<answer>``
    that never ends is read to the end of the text and marked truncated.

    Args:
        text: Anything a model wrote. Never raises; takes time linear in the text.

    Returns:
        The answer's text without the tags, or an empty region that says what is missing.

    >>> answer_region("<think>A or B?</think><answer>B</answer>").text
    'B'
    >>> answer_region("<think>A or B? The door is").why
    'the thinking never ends'
    """
    rest = text[text.rfind("</think>") + len("</think>") :] if "</think>" in text else text
    closed = rest.rfind("</answer>")
    opened = rest.rfind("<answer>", 0, max(closed, 0))
    truncated, why = False, "an empty answer" if text.strip() else "no text"
    if opened >= 0:
        body = rest[opened + len("<answer>") : rest.find("</answer>", opened)]
    elif "<answer>" in rest:
        body, truncated = rest[rest.rfind("<answer>") + len("<answer>") :], True
    else:
        body, thinking, _ = rest.partition("<think>")
        body = body.partition("</answer>")[0]
        why = "the thinking never ends" if thinking else why
    if len(body) > MAX_CHARS:
        body, truncated = body[:MAX_CHARS], True
    return Region(body, truncated) if body.strip() else Region("", truncated, why)


@dataclass(frozen=True, slots=True)
class Flaw:
    """What stands where a value should be, and could not be read."""

    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """One object in the text; see :func:`scan_objects` for which.

    Args:
        data: Its keys and values; an unreadable value is a :class:`Flaw`.
        start: Where it opens.
        end: Where it closes, exclusive.
        flaw: Why the object as a whole is not well formed.
    """

    data: dict[str, Any]
    start: int
    end: int
    flaw: str | None = None


@dataclass(slots=True)
class Scan:
    """Everything that one pass found.

    Args:
        objects: Objects with a wanted key, in the order in which they close.
        empty_list: An explicit ``[]`` that is no part of an object's box.
        truncated: The text ends inside a bracket.
        strays: Lists of nine numbers outside the objects.
    """

    objects: list[Found] = field(default_factory=list)
    empty_list: bool = False
    truncated: bool = False
    strays: int = 0


class _Frame:
    """One open bracket: what it holds so far and what may come next."""

    __slots__ = ("data", "flaw", "items", "key", "start", "want")

    def __init__(self, start: int, is_object: bool) -> None:
        self.start = start
        self.items: list[Any] | None = None if is_object else []
        self.data: dict[str, Any] | None = {} if is_object else None
        self.key = ""
        self.want = "key" if is_object else "value"
        self.flaw: str | None = None

    def put(self, value: Any) -> None:
        """A value has been read: where it goes depends on what was wanted."""
        if self.items is not None:
            if self.want == "comma":
                self.flaw = self.flaw or "a comma is missing"
            self.items.append(value)
            self.want = "comma"
        elif self.data is not None:
            if self.want == "value":
                self.data[self.key] = value
                self.want = "comma"
            elif isinstance(value, str) and self.want != "colon":
                if self.want == "comma":
                    self.flaw = self.flaw or "a comma is missing"
                self.key, self.want = value, "colon"
            else:
                self.flaw = self.flaw or "a value without a key"

    def comma(self) -> None:
        if self.want == "comma":
            self.want = "value" if self.items is not None else "key"
        else:
            self.flaw = self.flaw or "a comma too many"
            if self.data is not None:
                self.want = "key"

    def colon(self) -> None:
        if self.want == "colon":
            self.want = "value"
        else:
            self.flaw = self.flaw or "a colon too many"


def scan_objects(text: str, wanted: frozenset[str]) -> Scan:
    """Find objects that carry a wanted key, wherever they stand: in a list, nested, alone, in prose.

    An object in a list is reported without such a key too, and so is whatever else stands in a list of objects: they
    were meant as something.

    Args:
        text: Any text; what lies beyond :data:`MAX_CHARS` is not read.
        wanted: Keys that make an object worth reporting.

    Returns:
        The objects in the order in which they close, well formed or not, and how the text ends.

    >>> scan = scan_objects('so: [{"label": "bed"}, {"label": "ch', frozenset({"label"}))
    >>> [(found.data["label"], found.flaw) for found in scan.objects], scan.truncated
    ([('bed', None), (Flaw(reason='a string is not closed'), 'cut off')], True)
    """
    out = Scan(truncated=len(text) > MAX_CHARS)
    text = text[:MAX_CHARS]
    stack: list[_Frame] = []
    position = 0
    while match := (_TOKEN if stack else _OPEN).search(text, position):
        position = match.end()
        found = match.group()
        if found == "{" and (flat := _flat_object(text, match.start())):
            position, data = flat
            frame = _Frame(match.start(), is_object=True)
            frame.data = data
            _report(out, frame, stack, position, wanted, None)
            if stack:
                stack[-1].put(data)
            else:
                out.empty_list |= any(value == [] for key, value in data.items() if key not in wanted)
            continue
        if found in ("{", "["):
            if len(stack) == MAX_DEPTH:
                _report(out, stack.pop(0), [], match.start(), wanted, "nested too deeply")
            stack.append(_Frame(match.start(), found == "{"))
        elif found in ("}", "]"):
            _close(out, stack, position, found == "}", wanted)
        elif found == ",":
            stack[-1].comma()
        elif found == ":":
            stack[-1].colon()
        else:
            stack[-1].put(_scalar(found, bool(match.group(1) or match.group(2))))
    out.truncated = out.truncated or bool(stack)
    while stack:
        _report(out, stack.pop(), stack, len(text), wanted, "cut off")
    return out


def _looks_like_a_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 9 and all(isinstance(item, float) for item in value)


def _refuse(name: str) -> float:
    raise ValueError(name)


_FLAT = re.compile(r"\{[^{}\\\n]++\}")
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=_refuse)


def strict_json(text: str) -> Any:
    """Read a text that is exactly one JSON value. Never raises.

    Args:
        text: Any text. ``NaN`` and ``Infinity`` are no JSON.

    Returns:
        The value, all its numbers floats; None for any other text, and for ``null``.

    >>> strict_json('{"frame": 3}'), strict_json("[NaN]")
    ({'frame': 3.0}, None)
    """
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _flat_object(text: str, start: int) -> tuple[int, dict[str, Any]] | None:
    """The well-formed case, in C: an object on one line without another inside. None leaves it to the scanner.

    An attempt reads no further than the next brace, so all attempts together read the text once.
    """
    match = _FLAT.match(text, start)
    data = strict_json(match.group()) if match else None
    return None if match is None or data is None else (match.end(), data)


def _close(out: Scan, stack: list[_Frame], end: int, is_object: bool, wanted: frozenset[str]) -> None:
    """A closing bracket: it closes the innermost bracket of its kind; unclosed ones inside it are broken."""
    if not any((frame.data is not None) == is_object for frame in stack):
        return
    while True:
        frame = stack.pop()
        fits = (frame.data is not None) == is_object
        flaw = frame.flaw if fits else frame.flaw or "a bracket is missing"
        _report(out, frame, stack, end, wanted, flaw)
        if frame.items == [] and not flaw:
            parent = stack[-1] if stack else None
            out.empty_list |= parent is None or (len(stack) == 1 and parent.items is None and parent.key not in wanted)
        if stack and frame.items is not None:
            stack[-1].put(Flaw(flaw) if flaw else frame.items)
        elif stack:
            stack[-1].put(frame.data)
        if fits:
            return


def _report(out: Scan, frame: _Frame, outer: list[_Frame], end: int, wanted: frozenset[str], flaw: str | None) -> None:
    """Report what a closed bracket holds: a wanted object, or what stands beside objects in a list and is none."""
    if frame.data is not None:
        listed = bool(outer) and outer[-1].items is not None
        if listed or frame.key in wanted or wanted & frame.data.keys():
            out.objects.append(Found(frame.data, frame.start, end, flaw))
        else:
            out.strays += sum(map(_looks_like_a_box, frame.data.values()))
    elif frame.items is not None and any(isinstance(item, dict) for item in frame.items):
        strays = sum(not isinstance(item, dict) for item in frame.items)
        out.objects.extend([Found({}, frame.start, end, "a list element is not an object")] * strays)
    elif frame.items is not None and all(other.data is None for other in outer):
        # A list inside is left to its own list, which may hold objects and then reports it.
        out.strays += sum(map(_looks_like_a_box, frame.items)) + (not outer and _looks_like_a_box(frame.items))


def _scalar(token: str, closed: bool) -> Any:
    if token[0] in "\"'":
        return unescape(token[1:-1]) if closed else Flaw("a string is not closed")
    number = read_float(token)
    if number is not None:
        return number
    if token in _NAMES:
        return _NAMES[token]
    return Flaw(f"{token[:20]!r} is not a number")


def unescape(text: str) -> str:
    r"""The content of a quoted string with its backslash escapes undone.

    Args:
        text: What stands between the quotes.

    Returns:
        The text with JSON's escapes undone; any other character after a backslash stands for itself.

    >>> unescape(r"caf\u00e9"), unescape(r"a \"big\" bed"), unescape(r"\q")
    ('café', 'a "big" bed', 'q')
    """
    if "\\" not in text:
        return text

    def one(match: re.Match[str]) -> str:
        code = match.group(1)
        return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPES.get(code, code)

    # JSON writes characters beyond the basic plane as two surrogates; joined here, a lone one stays as it is.
    plain = _ESCAPE.sub(one, text)
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def read_float(token: str) -> float | None:
    """A decimal number in ASCII digits; values beyond a float's range read as infinite.

    Args:
        token: The number and nothing else, of any length, with a sign and an exponent if it has them.

    Returns:
        Its value, or None where the token is no such number.

    >>> read_float("-1.50"), read_float("1e999"), read_float("nan"), read_float("1_000")
    (-1.5, inf, None, None)
    """
    return float(token) if _NUMBER.fullmatch(token) else None


def is_number(value: Any) -> bool:
    """Whether a value that was read is a finite number of a sane size, at most :data:`MAX_NUMBER` either way.

    Args:
        value: As :func:`strict_json` or :func:`scan_objects` reads it: all numbers are floats, so integers and booleans
            are none.

    >>> [is_number(value) for value in (1.5, -1e6, 1e7, float("nan"), True, "1.5")]
    [True, True, False, False, False, False]
    """
    return isinstance(value, float) and math.isfinite(value) and abs(value) <= MAX_NUMBER
