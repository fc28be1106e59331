"""What works on this machine: nothing is downloaded, and nothing slow is imported without need."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rft3d_cli import __version__
from rft3d_cli.errors import Rft3dError, SetupError
from rft3d_cli.models.checkpoint import read_checkpoint
from rft3d_cli.models.loader import VGGT, geometry_folder, model_problems
from rft3d_cli.recipe import Recipe, load_recipe, shipped_recipes
from rft3d_cli.train.budget import CUDA, GIB, Budget, assumed_row, budget, gib, known_frames, less
from rft3d_cli.train.devices import Gpu, cpu_build, gpus, has_driver
from rft3d_cli.train.shape import PUBLISHED, shape_of

DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")
"""What videos are met in."""
OPTIONAL: Mapping[str, str] = {
    "flash_attn": "model.attention=flash_attention_2",
    "vllm": "rollout.engine=vllm",
    "wandb": "log.to=wandb",
    "tensorboard": "log.to=tensorboard",
    "trackio": "log.to=trackio",
    "pyarrow": "parquet files of questions",
    "deepspeed": "sharing the optimiser among GPUs, through accelerate",
}
"""Packages that nothing needs, and what they are for."""
SLOW = 60
"""Seconds after which an import in a process of its own is given up."""


@dataclass(frozen=True)
class Package:
    """One that rft3d needs.

    Args:
        name: On PyPI.
        window: The versions that it needs and has been tested with.
        version: What is installed, None for nothing.
        ok: Whether that is within the window.
    """

    name: str
    window: str
    version: str | None
    ok: bool

    @property
    def hint(self) -> str:
        """How to get it."""
        return f"pip install '{self.name}{self.window}'"


@dataclass(frozen=True)
class Weights:
    """Weights from the hub.

    Args:
        name: On the hub.
        folder: Where they are, None where they are not.
        parameters: How many there are.
        problem: What is wrong with them.
    """

    name: str
    folder: Path | None = None
    parameters: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Readiness:
    """Whether a recipe can run here.

    Args:
        recipe: The recipe.
        budget: Its memory; None where nothing says how many frames there are, or how large the model is.
        problems: What keeps it from running, with what to do next.
    """

    recipe: Recipe
    budget: Budget | None
    problems: list[Rft3dError] = field(default_factory=list)


@dataclass
class Report:
    """What was found.

    Args:
        machine: Name and value.
        packages: What rft3d needs.
        gpus: CUDA devices.
        gpu_note: Why there are none, or what is wrong with them.
        codecs: Whether this FFmpeg has each of :data:`DECODERS`, and ``h264 encoder``.
        optional: Version of each of :data:`OPTIONAL`, None where it is not installed.
        weights: Of the models that recipes name.
        recipes: The shipped ones.
        problems: What keeps even the tiny recipes from running.
        warnings: What does not.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    packages: list[Package] = field(default_factory=list)
    gpus: list[Gpu] = field(default_factory=list)
    gpu_note: str = ""
    codecs: dict[str, bool] = field(default_factory=dict)
    optional: dict[str, str | None] = field(default_factory=dict)
    weights: list[Weights] = field(default_factory=list)
    recipes: list[Readiness] = field(default_factory=list)
    problems: list[Rft3dError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def examine() -> Report:
    """Look at everything; nothing is changed and nothing outside is asked."""
    report = Report(machine=machine(), packages=packages())
    trial = _torchvision_trial()
    for package in report.packages:
        if package.version is None:
            report.problems.append(SetupError(f"{package.name} is not installed", package.hint))
        elif not package.ok:
            report.warnings.append(
                f"{package.name} {package.version} is outside of {package.window}, which rft3d was tested with: "
                f"{package.hint}"
            )
    _look_for_gpus(report)
    report.codecs = _codecs(report)
    report.optional = {name: _version(name) for name in OPTIONAL}
    try:
        report.weights = [_weights(name) for name in (*PUBLISHED, VGGT)]
        report.recipes = [_readiness(name, report) for name in shipped_recipes()]
    except ImportError as error:  # a package of a package that rft3d needs
        report.problems.append(SetupError(f"{error.name or error} cannot be imported", f"pip install {error.name}"))
    for ready in report.recipes:
        if ready.recipe.name.startswith("tiny-"):
            # Records are made in a minute.
            report.problems += [problem for problem in ready.problems if isinstance(problem, SetupError)]
    if trial is not None:
        report.problems += _torchvision_problem(trial)
    return report


def machine() -> dict[str, Any]:
    """rft3d, Python, system, cores and memory."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "rft3d": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(affinity(0)) if affinity is not None else os.cpu_count(),
        "memory": _memory(),
    }


def _memory() -> int | None:
    """Bytes of the machine, or of the container where that is less."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return found
    return min(found, int(limit)) if limit.isdecimal() else found


# Packages -----------------------------------------------------------------------------------------


def packages() -> list[Package]:
    """What rft3d needs, with the window of ``pyproject.toml``, in its order there."""
    out = []
    for wanted in _requirements():
        parts = re.match(r"([A-Za-z0-9_.-]+)\s*([<>=!~][^;]*)?(?:;.*extra.*)?$", wanted)
        if parts is None or "extra" in wanted:
            continue
        # What pip has installed lists the limits in an order of its own.
        limits = sorted((limit.strip() for limit in (parts[2] or "").split(",")), key=lambda limit: limit[:1] != ">")
        name, window = parts[1], ",".join(limits)
        found = _version(name)
        out.append(Package(name, window, found, found is not None and within(found, window)))
    return out


def _requirements() -> list[str]:
    try:
        known = requires("rft3d")
    except PackageNotFoundError:
        known = None
    if known:
        return known
    # A checkout that is run without being installed.
    try:
        text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
        found: list[str] = tomllib.loads(text)["project"]["dependencies"]
    except (OSError, ValueError, LookupError):
        return []
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def within(found: str, window: str) -> bool:
    """Whether a version lies in a window of ``>=`` and ``<``; what follows a ``+`` names a build, not a version.

    >>> within("2.13.0+cpu", ">=2.9,<2.14"), within("2.14.0", ">=2.9,<2.14"), within("2.14.0rc1", ">=2.9,<2.14")
    (True, False, False)
    """
    have = _numbers(found)
    checks = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    for part in filter(None, (text.strip() for text in window.split(","))):
        sign = next(sign for sign in (*checks, "") if part.startswith(sign))
        if sign and not checks[sign](have, _numbers(part[len(sign) :])):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    """The release of a version, without zeros at its end."""
    release = re.match(r"\s*(\d+(?:\.\d+)*)", text)
    numbers = [int(part) for part in release[1].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _torchvision_trial() -> subprocess.Popen[str] | None:
    """An import of torchvision in a process of its own, where it is installed. Nothing of ours needs it."""
    if find_spec("torchvision") is None:
        return None
    return subprocess.Popen(
        [sys.executable, "-c", "import torchvision"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _torchvision_problem(trial: subprocess.Popen[str]) -> list[Rft3dError]:
    """A torchvision of another build than torch's fails when it is imported, and transformers imports what it finds."""
    try:
        said = trial.communicate(timeout=SLOW)[1]
    except subprocess.TimeoutExpired:
        trial.kill()
        trial.communicate()
        return []
    if trial.returncode == 0:
        return []
    last = ([line for line in said.splitlines() if line.strip()] or ["its import fails"])[-1].strip()
    message = f"torchvision {_version('torchvision') or ''} does not fit torch {_version('torch') or ''}: {last[:160]}"
    return [SetupError(message, "pip uninstall torchvision: rft3d does not need it, and broken it breaks transformers")]


# Devices and video --------------------------------------------------------------------------------


def _look_for_gpus(report: Report) -> None:
    try:
        report.gpus = gpus()
    except Exception as error:  # a torch that cannot be imported says it in many ways
        first = (str(error).splitlines() or [""])[0]
        report.problems.append(SetupError(f"torch cannot be imported: {first}", "pip install --force-reinstall torch"))
        return
    if report.gpus:
        return
    if cpu_build():
        report.gpu_note = "none for torch, which is a CPU build"
        if has_driver():
            report.gpu_note += ", though NVIDIA's driver is here: install torch's CUDA build to use it"
    else:
        report.gpu_note = "NVIDIA's driver is here, but torch sees no device" if has_driver() else "none"


def _codecs(report: Report) -> dict[str, bool]:
    try:
        import av

        known = {name: name in av.codecs_available for name in DECODERS}
        # The decoder that FFmpeg itself has only hands AV1 on to hardware.
        known["av1"] = not {"libdav1d", "libaom-av1", "libgav1"}.isdisjoint(av.codecs_available)
        known["h264 encoder"] = "libx264" in av.codecs_available
    except ImportError as error:
        hint = "pip install --force-reinstall --only-binary :all: av"
        report.problems.append(SetupError(f"av cannot be imported: {error}", hint))
        return {}
    missing = [name for name, there in known.items() if not there]
    if missing:
        report.warnings.append(
            f"FFmpeg is without {', '.join(missing)}: pip install --force-reinstall --only-binary :all: av"
        )
    return known


# Weights and recipes ------------------------------------------------------------------------------


def _weights(name: str) -> Weights:
    try:
        folder = geometry_folder(name)
        checkpoint = read_checkpoint(folder)
        count = sum(info.size for info in checkpoint.tensors.values())
    except SetupError as error:
        fetched = "not on this machine" not in error.message
        return Weights(name, problem=error.message if fetched else None)
    if not count:
        return Weights(name, folder, problem="its configuration is here, its weights are not")
    return Weights(name, folder, count)


def _readiness(name: str, report: Report) -> Readiness:
    recipe = load_recipe(name)
    config = recipe.config
    problems: list[Rft3dError] = [*model_problems(config.model)]
    missing = [path for path in (*config.data.train, *config.data.eval) if not Path(path).is_file()]
    if missing:
        rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        problems.append(Rft3dError(f"data missing: {missing[0]}{rest}", _prepare(recipe)))
    try:
        shape = shape_of(config.model)
    except SetupError as error:
        if not problems:
            problems.append(error)
        return Readiness(recipe, None, problems)
    if known_frames(config) is None:
        return Readiness(recipe, None, problems)
    said = budget(config, shape, assumed_row(config, shape), processes=max(1, len(report.gpus)))
    here = min((gpu.memory for gpu in report.gpus), default=report.machine["memory"])
    if here is not None and said.peak - (0 if report.gpus else CUDA) > here:
        what = f"{gib(here)} on its GPU" if report.gpus else f"{gib(here)} of memory and no GPU"
        problems.append(
            Rft3dError(f"it takes about {gib(said.peak)}, and this machine has {what}", f"less: {less(config, said)}")
        )
    return Readiness(recipe, said, problems)


def _prepare(recipe: Recipe) -> str:
    """The first command of a recipe's header whose result is not there yet."""
    text = recipe.path.read_text(encoding="utf-8").replace("\\\n#", " ")
    commands = [" ".join(line.split()) for line in re.findall(r"^#\s+(rft3d prepare .*)$", text, re.MULTILINE)]
    for command in commands:
        out = re.search(r"(?:--out|-o) (\S+)", command)
        if out is None or not Path(out[1]).exists():
            return command
    return commands[-1] if commands else "rft3d prepare --help"


def in_gib(memory: int | None) -> str:
    """Memory in words.

    >>> in_gib(16 * GIB), in_gib(None)
    ('16.0 GiB', 'unknown')
    """
    return "unknown" if memory is None else f"{memory / GIB:.1f} GiB"
