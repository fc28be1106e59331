"""One line as one Python literal, as the public scorers take it, without evaluating anything."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

from rft3d_cli.answers.scan import MAX_DEPTH, read_float

_LITERAL_TOKEN = re.compile(
    r"""[ \t\f\r\n]*+(?:([\[\]{}(),:])|("(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+')|([^\s\[\]{}(),:"']++))"""
)
# An object of plain strings, numbers and lists of numbers reads the same as JSON and as Python, and fast as JSON.
_PLAIN = re.compile(r'\{(?:"[^"\\\n]*+": (?:"[^"\\\n]*+"|\[[-+0-9.eE, ]*+\]|[-+0-9.eE]++)(?:, )?+)*+\}')
_PYTHON_NAMES = {"True": True, "False": False, "None": None}
_ESCAPE = re.compile(r"\\(N\{[^{}]*\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)")
_ESCAPES = {**dict(zip("ntrbfva", "\n\t\r\b\f\v\a", strict=True)), **{mark: mark for mark in "'\"\\"}}
_CLOSERS = {"[": "]", "{": "}", "(": ")"}
MAX_LITERAL = 10_000
"""Characters of one line that the public scorers' line reader takes."""


def read_literal(line: str) -> Any:
    r"""One Python literal (a dict, as the public scorers read it) without evaluating anything.

    Names are those of Python, so ``null``, ``true`` and ``NaN`` fail, as they do there. Arithmetic, which the public
    scorers would run, fails too.

    Args:
        line: One line of a model's text; white space around the literal is allowed.

    Returns:
        A dict, list, tuple, string, number, boolean or None, nested as the line nests them.

    Raises:
        ValueError: Where the line is not exactly one literal, is longer than :data:`MAX_LITERAL` or nests deeper than
            :data:`MAX_DEPTH`.

    >>> read_literal("{'label': 'chair', \"bbox_3d\": (1, .5, -2e0)}")
    {'label': 'chair', 'bbox_3d': (1, 0.5, -2.0)}
    """
    if len(line) > MAX_LITERAL:
        raise ValueError("the line is too long")
    if "\0" in line:
        raise ValueError("a null character")
    if _PLAIN.fullmatch(line):
        try:
            return json.loads(line)
        except ValueError:
            pass
    tokens = _literal_tokens(line)
    value = _literal(next(tokens), tokens, 0)
    if next(tokens) != ("end", ""):
        raise ValueError("more than one value")
    return value


def _literal_tokens(line: str) -> Iterator[tuple[str, str]]:
    position = 0
    line = line.rstrip()
    while position < len(line):
        match = _LITERAL_TOKEN.match(line, position)
        if match is None:
            raise ValueError(f"cannot read {line[position : position + 20]!r}")
        position = match.end()
        kind = ("", "punct", "string", "word")[match.lastindex or 0]
        yield kind, match.group(match.lastindex or 0)
    while True:
        yield "end", ""


def _literal(token: tuple[str, str], tokens: Iterator[tuple[str, str]], depth: int) -> Any:
    kind, text = token
    if kind == "string":
        return _ESCAPE.sub(_unescaped, text[1:-1])
    if kind == "word":
        if text in _PYTHON_NAMES:
            return _PYTHON_NAMES[text]
        return _python_number(text)
    if text not in _CLOSERS or depth >= MAX_DEPTH:
        raise ValueError(f"{text or 'the end'} is out of place" if depth < MAX_DEPTH else "nested too deeply")
    items: list[Any] = []
    data: dict[Any, Any] = {}
    commas = 0
    while (token := next(tokens))[1] != _CLOSERS[text] or token[0] != "punct":
        value = _literal(token, tokens, depth + 1)
        if text == "{":
            if next(tokens) != ("punct", ":"):
                raise ValueError("a set is no object")
            try:
                data[value] = _literal(next(tokens), tokens, depth + 1)
            except TypeError:
                raise ValueError("a key that cannot be one") from None
        else:
            items.append(value)
        token = next(tokens)
        if token == ("punct", _CLOSERS[text]):
            break
        if token != ("punct", ","):
            raise ValueError("a comma is missing")
        commas += 1
    if text == "{":
        return data
    if text == "(":
        return items[0] if len(items) == 1 and not commas else tuple(items)
    return items


def _unescaped(match: re.Match[str]) -> str:
    """What one backslash escape of a Python string stands for; an unknown one stands for itself."""
    code = match.group(1)
    if code.startswith("N{"):
        try:
            return unicodedata.lookup(code[2:-1])
        except KeyError:
            raise ValueError(f"\\{code} is no character") from None
    if code[0] in "xuUN" and len(code) == 1:
        raise ValueError(f"\\{code} without its digits")
    if code[0] in "xuU01234567":
        number = int(code, 8) if code[0].isdigit() else int(code[1:], 16)
        if number > sys.maxunicode:
            raise ValueError(f"\\{code} is no character")
        return chr(number)
    return _ESCAPES.get(code, match.group())


def _python_number(text: str) -> int | float:
    body = text.lstrip("+-")
    if body.isascii() and body.isdigit() and len(text) - len(body) <= 1:
        if body[0] == "0" and body.strip("0"):
            raise ValueError("a number with a leading zero")
        return int(text)
    number = read_float(text)
    if number is None:
        raise ValueError(f"{text[:20]!r} is not a number")
    return number
