"""Where the files that ship with rft3d lie: recipes and run-time assets.

In an installed wheel they travel inside the package; in a checkout they lie at the top of the tree.
"""

from __future__ import annotations

from pathlib import Path

from rft3d_cli.errors import SetupError

_PACKAGE = Path(__file__).resolve().parent

RECIPE_SUFFIX = ".yaml"
TINY_RECIPES = ("tiny-", "ablate-")
"""How the names of recipes for the tiny model begin."""


def recipes_dir() -> Path:
    """The folder of the shipped recipes.

    Raises:
        SetupError: Where the installation lacks it.
    """
    return _shipped("recipes")


def recipe_files() -> dict[str, Path]:
    """Name and file of each recipe that ships: ``tiny-det`` for ``recipes/tiny/det.yaml``, ``det`` for one at the top.

    The tiny ones come first, those of the ablation grid last.

    Raises:
        SetupError: Where the installation lacks them.
    """
    root = recipes_dir()
    found: dict[str, Path] = {}
    for folder, prefix in (("tiny", "tiny-"), (".", ""), ("ablate", "ablate-")):
        files = sorted((root / folder).glob(f"*{RECIPE_SUFFIX}"), key=lambda path: path.stem)
        found |= {f"{prefix}{path.stem}": path for path in files}
    return found


def cluster_files() -> list[Path]:
    """The files for runs on many GPUs: accelerate's configurations and a Slurm script.

    Raises:
        SetupError: Where the installation lacks them.
    """
    return sorted(path for path in (recipes_dir() / "cluster").iterdir() if path.suffix in (".yaml", ".sh"))


def assets_dir() -> Path:
    """The folder of the shipped models and clips.

    Raises:
        SetupError: Where the installation lacks it.
    """
    return _shipped("assets")


def _shipped(name: str) -> Path:
    for folder in (_PACKAGE / f"_{name}", _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise SetupError(
        f"this installation of rft3d has no {name} folder", "reinstall it: pip install --force-reinstall rft3d"
    )
