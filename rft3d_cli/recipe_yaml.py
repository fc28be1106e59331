"""YAML as recipes use it: mappings, lists and plain text, nothing else.

Every scalar stays the text that was written and the schema gives it its type. YAML's own guesses are traps in a
recipe: ``1e-6`` is read as a string, ``1:30`` as 90, ``010`` as 8 and ``no`` as false. Only an empty value, ``null``
and ``~`` mean something here: nothing.

The parser's events are read one by one, so a hostile file costs no more than its size: anchors, aliases, tags,
duplicate keys, deep nesting and big files are refused, each with its line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rft3d_cli.errors import UsageError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
NULLS = ("", "~", "null", "Null", "NULL")

Tree = dict[str, Any]


def read_file(path: Path) -> bytes:
    """The bytes of a recipe file.

    Raises:
        UsageError: Where it is missing, is not a file, cannot be read, or is larger than :data:`MAX_BYTES`.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist", "rft3d recipes list shows the recipes that ship with rft3d")
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES // 1024} KiB, which no recipe is")
    return data


def parse_file(data: bytes, source: str) -> tuple[Tree, dict[str, int]]:
    r"""The tree of a recipe file.

    Args:
        data: The file's bytes.
        source: The file's name, for messages.

    Returns:
        The tree, and the line on which each dotted key stands.

    Raises:
        UsageError: Where it is not the YAML that recipes use.

    >>> parse_file(b"train:\n  lr: 1e-6\n  steps:\n", "my.yaml")
    ({'train': {'lr': '1e-6', 'steps': None}}, {'train': 1, 'train.lr': 2, 'train.steps': 3})
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{source} is not UTF-8 text") from None
    reader = _Reader(text, source)
    tree = reader.document()
    if not isinstance(tree, dict):
        raise UsageError(f"{source} holds no keys", "a recipe starts with: stage: grpo")
    return tree, reader.lines


def parse_value(text: str, source: str) -> Any:
    """One value in flow syntax, as in ``[a, b]`` or ``{format: 1}``.

    Raises:
        UsageError: Where it is not the YAML that recipes use.

    >>> parse_value("{format: 1, my.py:score: null}", "rewards")
    {'format': '1', 'my.py:score': None}
    """
    if len(text) > MAX_BYTES:
        raise UsageError(f"the value of {source} is longer than {MAX_BYTES // 1024} KiB")
    return _Reader(text, source).document()


class _Reader:
    """Builds a tree from the events of one YAML document."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.lines: dict[str, int] = {}
        self._events = self._parse(text)

    def _parse(self, text: str) -> Iterator[Any]:
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            what = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
            where = f"{self.source} line {mark.line + 1}" if mark else self.source
            raise UsageError(f"{where}: {what}") from None

    def document(self) -> Any:
        value: Any = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refuse(event, "a second document starts here; a recipe is one")
                value = self._value(next(self._events), "", 0)
        return value

    def _value(self, event: Any, key: str, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            raise self._refuse(event, "aliases are not accepted in recipes; write the value out")
        if event.anchor is not None:
            raise self._refuse(event, "anchors are not accepted in recipes; write the value out")
        if event.tag is not None:
            raise self._refuse(event, "tags are not accepted in recipes; write the plain value")
        if depth > MAX_DEPTH:
            raise self._refuse(event, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(key, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(key, depth)
        return None if event.style is None and event.value in NULLS else event.value

    def _mapping(self, parent: str, depth: int) -> Tree:
        out: Tree = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
                raise self._refuse(event, "a key must be a plain word")
            name = event.value
            key = f"{parent}.{name}" if parent else name
            if name in out:
                raise UsageError(f"{self.source}: `{key}` is given twice, in lines {self.lines[key]} and {line}")
            self.lines[key] = line
            out[name] = self._value(next(self._events), key, depth + 1)
        return out

    def _sequence(self, key: str, depth: int) -> list[Any]:
        out: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            out.append(self._value(event, key, depth + 1))
        return out

    def _refuse(self, event: Any, why: str) -> UsageError:
        return UsageError(f"{self.source} line {event.start_mark.line + 1}: {why}")
