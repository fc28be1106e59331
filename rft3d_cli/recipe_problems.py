"""What is wrong with a recipe, in words: each problem with its key, its place and a near match."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from rft3d_cli.errors import ProblemList, Rft3dError, UsageError
from rft3d_cli.recipe_overrides import unknown
from rft3d_cli.recipe_schema import keys
from rft3d_cli.recipe_yaml import Tree

_WORDS = {
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "string_type": "should be text",
    "string_too_short": "should not be empty",
}
"""The schema's commonest complaints in plainer words than pydantic's."""


def together(problems: Sequence[Rft3dError]) -> Rft3dError:
    """One error for all problems, with every hint."""
    if len(problems) == 1:
        return problems[0]
    error = ProblemList(problems)
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    error.hint = "\n      ".join(hints) or None
    return error


def explain(error: ValidationError, where: Callable[[str], str], tree: Tree) -> list[UsageError]:
    """Each problem that the schema found.

    Args:
        error: What pydantic raised.
        where: Says where a key was given.
        tree: The tree that was validated.
    """
    return [_explain_one(dict(details), where, tree) for details in error.errors(include_url=False)]


def _explain_one(details: dict[str, Any], where: Callable[[str], str], tree: Tree) -> UsageError:
    parts = [part for part in details["loc"] if part != "[key]"]
    key = _short(".".join(part for part in parts if isinstance(part, str)))
    item = next((f" item {part + 1}" for part in parts if isinstance(part, int)), "")
    place = where(key)
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        if key in keys():
            section, _, name = key.rpartition(".")
            return UsageError(
                f"`{key}` is written with a dot ({place})", f"in a file, write `{name}` under `{section}:`"
            )
        return unknown(key, place, tree)
    if kind == "missing" and not item:
        required = [name for name, entry in keys().items() if entry.required and f"{name}.".startswith(f"{key}.")]
        return UsageError(f"`{required[-1]}` is missing ({place})", f"set it: {required[-1]}=VALUE")
    if kind in ("model_type", "dict_type"):
        inside = [name.removeprefix(f"{key}.") for name in keys() if name.rpartition(".")[0] == key]
        has = f"a section with the keys {', '.join(inside)}" if inside else "a mapping of names to numbers"
        return UsageError(f"`{key}` is {_short(value_text(given))}: should be {has} ({place})")
    entry = keys().get(key)
    what = _WORDS.get(kind) or details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    hint = None
    if entry is not None and kind == "literal_error":
        choices = entry.type.removeprefix("list of ").split(" | ")
        what = f"should be one of {', '.join(choices)}"
        near = difflib.get_close_matches(str(given), choices, n=1)
        hint = f"did you mean `{near[0]}`?" if near else None
    elif entry is not None and kind in ("list_type", "tuple_type", "too_long", "too_short", "missing"):
        what, item = f"should be {entry.type}", ""
    return UsageError(f"`{key}`{item} is {_short(value_text(given))}: {what[:1].lower()}{what[1:]} ({place})", hint)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def value_text(value: Any) -> str:
    """A value as a recipe would write it, on one line.

    >>> value_text(None), value_text(True), value_text(1e-06), value_text(["a", "b"]), value_text({"format": 1.0})
    ('null', 'true', '1e-06', '[a, b]', '{format: 1.0}')
    """
    if value is None:
        return "null"
    if value == "":
        return "''"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {value_text(item)}' for key, item in value.items())}}}"
    return str(value)
