"""Recipes: YAML files that say what to train or run, with which model, data and numbers.

A recipe is found by name or path, laid over the schema's defaults, changed by ``KEY=VALUE`` overrides, validated as
a whole, and remembers where every value came from.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rft3d_cli import __version__
from rft3d_cli.errors import Rft3dError, UsageError
from rft3d_cli.recipe_overrides import COMMAND_LINE, apply, path_of
from rft3d_cli.recipe_problems import explain, together
from rft3d_cli.recipe_rules import broken_rules, without_effect
from rft3d_cli.recipe_schema import STAGES, Config, keys, stages_of
from rft3d_cli.recipe_yaml import Tree, parse_file, read_file
from rft3d_cli.resources import RECIPE_SUFFIX, recipe_files


@dataclass(frozen=True)
class Recipe:
    """A validated recipe.

    Args:
        config: The whole tree.
        name: ``det`` for ``recipes/det.yaml``, ``tiny-det`` for ``recipes/tiny/det.yaml``, else the file's stem.
        path: The file.
        sha256: The file's SHA-256, in hex.
        summary: The first line of the file's header comment.
        origin: Where each leaf's value comes from: ``default``, ``recipe``, ``command line`` or ``computed``.
        before: For leaves from the command line: the source and the value that they replaced.
        aliases: Short keys that were used on the command line, and what they stand for.
        computed: Figures that follow from the tree.
    """

    config: Config
    name: str
    path: Path
    sha256: str
    summary: str = ""
    origin: dict[str, str] = field(default_factory=dict)
    before: dict[str, tuple[str, Any]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    computed: dict[str, Any] = field(default_factory=dict)

    def leaves(self) -> dict[str, Any]:
        """Dotted key and value of every leaf that has an effect in the recipe's stage, in the schema's order."""
        flat = flatten(self.config.model_dump(mode="json"))
        return {key: value for key, value in flat.items() if self.config.stage in stages_of(key)}

    def tree(self) -> Tree:
        """The leaves as a nested mapping."""
        out: Tree = {}
        for key, value in self.leaves().items():
            *sections, name = path_of(key)
            inner = out
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[name] = value
        return out


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), *, stage: str | None = None) -> Recipe:
    """Find, read, override and validate a recipe.

    Args:
        name_or_path: A shipped recipe's name or a file.
        overrides: ``KEY=VALUE``; a later one wins.
        stage: What the caller is about to run. A recipe for ``sft`` cannot run ``grpo`` and the other way round;
            ``evaluate`` and ``infer`` take any recipe and use what they need of it.

    Raises:
        UsageError: For one problem.
        ProblemList: For several, all of them.
    """
    if stage is not None and stage not in STAGES:
        raise ValueError(f"no stage {stage!r}")
    path = find_recipe(name_or_path)
    data = read_file(path)
    file_tree, lines = parse_file(data, path.name)
    tree, used, aliases, bad_overrides = apply(file_tree, overrides)
    if stage is not None and tree.get("stage") is None:
        tree["stage"] = stage
        used.append("stage")
    where = _locator(path.name, lines, used)
    problems: list[Rft3dError] = [*bad_overrides]
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise together([*problems, *explain(error, where, tree)]) from None
    if stage in ("sft", "grpo") and config.stage != stage:
        hint = f"rft3d {config.stage} --recipe {name_or_path}"
        raise UsageError(f"{path.name} is a recipe for {config.stage}, not for {stage}", hint)
    given = [*flatten(tree)]
    problems += without_effect(config, given, where)
    problems += broken_rules(config, where)
    if problems:
        raise together(problems)

    name = _name_of(path)
    sources = {key: COMMAND_LINE if _covered(key, used) else "recipe" for key in given}
    computed: dict[str, Any] = {}
    if config.output is None:
        config = config.model_copy(update={"output": f"runs/{name}"})
        sources["output"] = "computed"
    if config.stage == "grpo":
        computed["rollout.completions"] = config.completions
        computed["train.generation_period_steps"] = config.generation_period_steps
    origin = {key: sources.get(key, "default") for key in flatten(config.model_dump(mode="json"))}
    return Recipe(
        config=config,
        name=name,
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        summary=_summary(data),
        origin=origin | dict.fromkeys(computed, "computed"),
        before=_before([key for key, source in origin.items() if source == COMMAND_LINE], flatten(file_tree)),
        aliases=aliases,
        computed=computed,
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values of a tree's leaves; an empty mapping is a leaf.

    >>> flatten({"model": {"name": "m", "freeze": ["vision"]}, "rewards": {}})
    {'model.name': 'm', 'model.freeze': ['vision'], 'rewards': {}}
    """
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            out |= flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _covered(key: str, used: Sequence[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in used)


def _before(overridden: Sequence[str], in_file: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    out: dict[str, tuple[str, Any]] = {}
    for key in overridden:
        entry = keys().get(key)
        if key in in_file:
            out[key] = ("recipe", in_file[key])
        elif entry is not None and not entry.required:
            out[key] = ("default", entry.default)
    return out


def _locator(source: str, lines: Mapping[str, int], used: Sequence[str]) -> Callable[[str], str]:
    def where(key: str) -> str:
        if _covered(key, used):
            return COMMAND_LINE
        while key:
            if key in lines:
                return f"{source} line {lines[key]}"
            key = key.rpartition(".")[0]
        return source

    return where


def _summary(data: bytes) -> str:
    first = data.decode("utf-8-sig").splitlines()[0].strip()
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def shipped_recipes() -> dict[str, Path]:
    """Name and file of each recipe that ships with rft3d, by name; the tiny ones first."""
    return recipe_files()


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe.

    A bare name such as ``det`` is a shipped recipe. Anything else is a file where there is one, else a shipped recipe
    written as ``det.yaml``, ``tiny-det.yaml`` or ``tiny/det.yaml``.

    Raises:
        UsageError: Where there is neither, with near matches.
    """
    text = str(name)
    shipped = shipped_recipes()
    if text in shipped:
        return shipped[text]
    path = Path(name).expanduser()
    if _is_file(path):
        return path
    plain = text.removesuffix(RECIPE_SUFFIX).removeprefix("recipes/").replace("/", "-", 1)
    if plain in shipped:
        return shipped[plain]
    near = difflib.get_close_matches(plain, shipped, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "rft3d recipes list shows the recipes there are"
    raise UsageError(f"no recipe `{text}`: neither a file nor one that ships with rft3d", hint)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _name_of(path: Path) -> str:
    shipped = {file.resolve(): name for name, file in shipped_recipes().items()}
    return shipped.get(path.resolve(), path.stem)


def to_yaml(recipe: Recipe) -> str:
    """The resolved tree as a recipe that loads to the same tree.

    Only keys with an effect in the recipe's stage are written.
    """
    header = f"# {recipe.name}, resolved by rft3d {__version__} from {recipe.path.name} (sha256 {recipe.sha256})\n"
    return header + yaml.dump(recipe.tree(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
