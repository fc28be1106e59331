"""What the shell offers when Tab is pressed: recipes, their keys and values, rewards, models, question types.

Each completer is a function for ``autocompletion=``. None of them imports torch or numpy, and none ever raises: where
nothing can be said, the shell offers files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import typer

REWARDS = (
    "accuracy",
    "det_f1",
    "det_iou",
    "det_soft_f1",
    "format",
    "ground_frame",
    "ground_iou",
    "ground_near",
    "length",
    "mra",
)
"""The rewards that ship. Their own modules know them too, and take numpy to say so."""

QUESTION_TYPES = (
    "obj_appearance_order",
    "object_abs_distance",
    "object_counting",
    "object_rel_direction_easy",
    "object_rel_direction_hard",
    "object_rel_direction_medium",
    "object_rel_distance",
    "object_size_estimation",
    "room_size_estimation",
    "route_planning",
)
"""VSI-Bench's question types, for the same reason."""

MODEL_FILES = ("config.json", "adapter_config.json")

Completer = TypeVar("Completer", bound=Callable[..., list[str]])


def _silent(complete: Completer) -> Completer:
    """A completer that says nothing where it would raise: a traceback at a prompt helps nobody."""

    @wraps(complete)
    def silent(*args: Any, **kwargs: Any) -> list[str]:
        try:
            return complete(*args, **kwargs)
        except Exception:
            return []

    return cast("Completer", silent)


@_silent
def complete_recipe(incomplete: str) -> list[str]:
    """The shipped recipes, and the recipe files of the folder that is being typed."""
    from rft3d_cli.resources import recipe_files

    shipped = _starting(recipe_files(), incomplete)
    return shipped or [path for path in _paths(incomplete) if path.endswith(("/", ".yaml", ".yml"))]


@_silent
def complete_reward(incomplete: str) -> list[str]:
    """The shipped rewards."""
    return _starting(REWARDS, incomplete)


@_silent
def complete_model(incomplete: str) -> list[str]:
    """Known models, runs that hold a model, and folders of models."""
    from rft3d_cli.models.known import KNOWN

    runs = [path.removesuffix("/") for path in _paths("runs/") if _holds_model(Path(path))]
    here = [path for path in _paths(incomplete) if path.endswith("/")]
    folders = [path.removesuffix("/") if _holds_model(Path(path)) else path for path in here]
    # A folder of anything is offered only where no model's name fits.
    found = _starting([*KNOWN, *runs], incomplete)
    return list(dict.fromkeys([*found, *(path for path in folders if not found or not path.endswith("/"))]))


@_silent
def complete_question_type(incomplete: str) -> list[str]:
    """VSI-Bench's question types; several stand with commas between them."""
    done, comma, last = incomplete.rpartition(",")
    given = done.split(",")
    return [f"{done}{comma}{name}" for name in _starting(QUESTION_TYPES, last) if name not in given]


@_silent
def complete_override(ctx: typer.Context, incomplete: str) -> list[str]:
    """``KEY=`` of a recipe, and ``KEY=VALUE`` where the values are known.

    Some shells hand over ``KEY``, ``=`` and ``VALUE`` as three words; then the value alone is offered.
    """
    before = [word for words in ctx.params.values() if isinstance(words, list | tuple) for word in words]
    if before[-1:] == ["="] and len(before) > 1:
        return _values(str(before[-2]), incomplete)
    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={one}" for one in _values(key, value)]
    found = _keys(incomplete, ctx.info_name or "")
    if len(found) == 1:
        return [f"{found[0]}={one}" for one in _values(found[0], "")] or [f"{found[0]}="]
    return [f"{name}=" for name in found]


@_silent
def complete_recipe_or_override(ctx: typer.Context, incomplete: str) -> list[str]:
    """Recipes, and where none fits, keys of one."""
    return complete_recipe(incomplete) or complete_override(ctx, incomplete)


@_silent
def complete_key(incomplete: str) -> list[str]:
    """Sections and keys of a recipe, without values."""
    from rft3d_cli.recipe_schema import keys

    return _starting(keys(), incomplete)


def _keys(incomplete: str, stage: str) -> list[str]:
    """Dotted keys with an effect in a stage; where none fits, ends that stand for exactly one, as ``lr`` does."""
    from rft3d_cli.recipe_schema import STAGES, keys, stages_of

    usable = [key.key for key in keys().values() if key.kind != "section"]
    if stage in STAGES:
        usable = [key for key in usable if stage in stages_of(key)]
    if "rewards" in usable:
        usable += [f"rewards.{name}" for name in REWARDS]
    ends = [key.rpartition(".")[2] for key in usable if not key.startswith("rewards.")]
    return _starting(usable, incomplete) or [end for end in _starting(ends, incomplete) if ends.count(end) == 1]


def _values(key: str, incomplete: str) -> list[str]:
    """What a key may be given, where that is a short list, models or record files."""
    from rft3d_cli.recipe_schema import keys

    full = [name for name in keys() if name == key or name.endswith(f".{key}")]
    if len(full) != 1:
        return []
    if full[0] == "model.name":
        return complete_model(incomplete)
    if full[0] in ("data.train", "data.eval"):
        return [path for path in _paths(incomplete) if path.endswith(("/", ".jsonl"))]
    choices = keys()[full[0]].type.removeprefix("list of ")
    return _starting(choices.split(" | "), incomplete) if " | " in choices else []


def _paths(incomplete: str) -> list[str]:
    """Files and folders that begin so; folders end in a slash, hidden ones stay hidden."""
    folder, slash, name = incomplete.rpartition("/")
    root = Path(folder + slash).expanduser()
    there = sorted(root.iterdir()) if root.is_dir() else []
    found = [path for path in there if path.name.startswith(name) and not path.name.startswith(".")]
    return [f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}" for path in found]


def _holds_model(folder: Path) -> bool:
    places = (folder, folder / "best", folder / "final")
    return any((place / name).is_file() for place in places for name in MODEL_FILES)


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
