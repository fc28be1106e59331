"""Overrides: ``KEY=VALUE`` on a command line, laid over a recipe's tree."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from rft3d_cli.errors import UsageError
from rft3d_cli.recipe_schema import Key, keys
from rft3d_cli.recipe_yaml import NULLS, Tree, parse_value

COMMAND_LINE = "command line"


def apply(tree: Tree, overrides: Sequence[str]) -> tuple[Tree, list[str], dict[str, str], list[UsageError]]:
    """Lay overrides over a tree, in order; a later one wins.

    Args:
        tree: A recipe's tree; it is not changed.
        overrides: ``key=value``. A key is dotted, or the end of exactly one dotted key.

    Returns:
        The new tree, the dotted keys that were set, the aliases that were used (``{"lr": "train.lr"}``), and the
        overrides that could not be applied.

    >>> apply({}, ["lr=1e-6"])
    ({'train': {'lr': '1e-6'}}, ['train.lr'], {'lr': 'train.lr'}, [])
    """
    tree = _copy(tree)
    used: list[str] = []
    aliases: dict[str, str] = {}
    problems: list[UsageError] = []
    for override in overrides:
        try:
            short, value = split(override)
            key = resolve(short, tree)
            _put(tree, key, _read(key, value))
        except UsageError as error:
            problems.append(error)
            continue
        used.append(key)
        if key != short:
            aliases[short] = key
    return tree, used, aliases, problems


def split(override: str) -> tuple[str, str]:
    """Key and value, split at the first ``=``.

    Raises:
        UsageError: Where there is no ``=``, no key or no value.

    >>> split("model.name=a=b")
    ('model.name', 'a=b')
    """
    key, equals, value = override.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key:
        raise UsageError(f"`{override}` is not KEY=VALUE", "for example: train.lr=1e-6")
    if not value:
        # An unset shell variable ends up here; taking it for null would be a silent change.
        raise UsageError(f"`{key}=` has no value", f"write {key}=null where nothing is meant")
    return key, value


def resolve(key: str, tree: Tree) -> str:
    """The dotted key that ``key`` stands for.

    Raises:
        UsageError: Where no key, more than one key, or a whole section bears the name.

    >>> resolve("lora.rank", {}), resolve("rewards.my.py:score", {})
    ('model.lora.rank', 'rewards.my.py:score')
    """
    known = keys()
    if key in known:
        return key
    head, dot, rest = key.partition(".")
    if dot and rest and head in known and known[head].kind == "names":
        return key
    found = [name for name in known if name.endswith(f".{key}")]
    found = [name for name in found if known[name].is_leaf] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"`{key}` is ambiguous ({COMMAND_LINE}): {' or '.join(f'`{name}`' for name in found)}",
            f"write the whole key: {found[0]}=VALUE",
        )
    raise unknown(key, COMMAND_LINE, tree)


def unknown(key: str, where: str, tree: Tree) -> UsageError:
    """The error for a key that the schema does not have, with the valid ones and a near match.

    Args:
        key: The dotted key.
        where: Where it stands, for the message.
        tree: The recipe's tree, for the names of its rewards.
    """
    known = keys()
    section, _, name = key.rpartition(".")
    while section and section not in known:
        section, _, name = section.rpartition(".")
    message = f"unknown key `{key}` ({where})"
    siblings = _children(section)
    if section or where != COMMAND_LINE:
        message += f"\n  {section or 'a recipe'} has: {', '.join(siblings)}"
    near = difflib.get_close_matches(name, siblings, n=1) if section else []
    if near:
        return UsageError(message, f"did you mean `{section}.{near[0]}`?")
    rewards = tree.get("rewards")
    ends = {name.rpartition(".")[2]: name for name, entry in known.items() if entry.is_leaf or "." not in name}
    ends |= {name: f"rewards.{name}" for name in (rewards if isinstance(rewards, dict) else {})}
    near = difflib.get_close_matches(key, [*known, *ends], n=1) or difflib.get_close_matches(name, ends, n=1)
    if near:
        return UsageError(message, f"did you mean `{ends.get(near[0], near[0])}`?")
    return UsageError(message, "rft3d recipes keys lists every key")


def _children(section: str) -> list[str]:
    prefix = f"{section}." if section else ""
    return [
        key.removeprefix(prefix) for key in keys() if key.startswith(prefix) and "." not in key.removeprefix(prefix)
    ]


def _read(key: str, text: str) -> Any:
    """The value in the form in which a YAML file would give it."""
    entry = keys().get(key)
    if entry is not None and entry.kind == "section":
        raise UsageError(f"`{key}` is a section, set one of its keys ({COMMAND_LINE})", _section_hint(entry, text))
    if text in NULLS:
        return None
    if entry is not None and entry.kind != "value" and text[0] in "[{":
        return parse_value(text, f"`{key}` ({COMMAND_LINE})")
    return text


def _section_hint(entry: Key, text: str) -> str:
    children = _children(entry.key)
    twin = next((name for name in keys() if name.endswith(f".{entry.key}")), None)
    return f"did you mean {twin}={text}?" if twin else f"for example {entry.key}.{children[0]}=VALUE"


def path_of(key: str) -> list[str]:
    """A dotted key's steps; a reward's name is one step, dots and all.

    >>> path_of("model.lora.rank"), path_of("rewards.my.py:score")
    (['model', 'lora', 'rank'], ['rewards', 'my.py:score'])
    """
    return key.split(".") if key in keys() else key.split(".", 1)


def _put(tree: Tree, key: str, value: Any) -> None:
    *sections, name = path_of(key)
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        if not isinstance(tree[section], dict):
            return  # the file gives this section a value, which the schema will refuse
        tree = tree[section]
    tree[name] = value


def _copy(tree: Tree) -> Tree:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}
