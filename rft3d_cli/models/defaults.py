"""What a model directory says about how its model was trained: ``rft3d.json``.

Frames a clip for each task and how they are chosen and marked, the data sets, and a line for people. Models from
elsewhere have none, and the field's usual numbers apply.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import BaseModel, PositiveInt, ValidationError

from rft3d_cli.errors import SetupError
from rft3d_cli.geometry.eras import Era
from rft3d_cli.records import describe
from rft3d_cli.samplers import Sampler

FILE = "rft3d.json"
FRAMES = {"detection": 4, "grounding": 32, "choice": 32, "number": 32, "text": 32}
"""VG-LLM's and VSI-Bench's frame counts."""
ROOMS_ONLY = "only knows rft3d's synthetic rooms; name a real model with --model"
"""What every tiny model says of itself."""
MAX_TOKENS = {"detection": 4096, "grounding": 256, "choice": 1024, "number": 1024, "text": 1024}


@dataclass(frozen=True)
class Defaults:
    """How a model likes to be asked.

    Args:
        frames: Frames a clip, by task.
        datasets: What it was trained on.
        note: One line for people who use it.
        sampler: How frames were chosen from clips, where the recipe said so.
        tags: Whether ``Frame-i: `` stood before each frame that a prompt does not place itself.
        angles: What it means by the angles of boxes; see :mod:`rft3d_cli.geometry.eras`.
    """

    frames: dict[str, int] = field(default_factory=lambda: dict(FRAMES))
    datasets: list[str] = field(default_factory=list)
    note: str = ""
    sampler: Sampler | None = None
    tags: bool = False
    angles: Era = "intrinsic"

    def write(self, folder: Path) -> None:
        """Write ``rft3d.json`` into a model directory."""
        document = {"schema": 1, **asdict(self)}
        (folder / FILE).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _Document(BaseModel):
    """What ``rft3d.json`` holds; other keys are left to versions to come."""

    frames: dict[str, PositiveInt] = {}
    datasets: list[str] = []
    note: str = ""
    sampler: Sampler | None = None
    tags: bool = False
    angles: Era = "intrinsic"


def read_defaults(folder: Path | None) -> Defaults:
    """The defaults of a model directory, or the field's.

    Raises:
        SetupError: Where ``rft3d.json`` is not what :meth:`Defaults.write` writes.
    """
    path = folder / FILE if folder is not None else None
    if path is None or not path.is_file():
        return Defaults()
    try:
        known = _Document.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SetupError(f"{path}: {describe(error)}", "remove it, and the usual frame counts apply") from None
    return Defaults(**{**known.model_dump(), "frames": {**FRAMES, **known.frames}})


def trained_defaults(
    frames: Mapping[str, Counter[int]],
    datasets: Counter[str],
    base: Defaults,
    *,
    sampler: Sampler | None = None,
    tags: bool = False,
) -> Defaults:
    """Defaults after training: the commonest frame count of each task that was trained.

    Args:
        frames: Frame counts seen, by task.
        datasets: Data sets seen.
        base: Of the model that training started from.
        sampler: The recipe's, where it names one.
        tags: The recipe's.
    """
    common = {task: counts.most_common(1)[0][0] for task, counts in frames.items()}
    return Defaults({**base.frames, **common}, sorted({*base.datasets, *datasets}), base.note, sampler, tags)
