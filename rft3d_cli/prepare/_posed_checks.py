"""What the readers of the posed layout share: strict fields, JSON with people-friendly errors, rigid motions."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare.pipeline import Quarantine
from rft3d_cli.prepare.scanfiles import read_json
from rft3d_cli.records import describe

RIGID = 5e-3
"""How far a rotation's columns may be from orthonormal: rounding to three decimals is within it, a scale of 1 % not."""

Model = TypeVar("Model")


class Known(BaseModel):
    """An object whose fields are all known, so that a misspelt one is not passed over; ``meta`` takes anything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    meta: Any = None

    @field_validator("*")
    @classmethod
    def _writable(cls, value: Any) -> Any:
        """Half of a surrogate pair is valid JSON and cannot be written to any file."""
        texts = [value] if isinstance(value, str) else [*value] if isinstance(value, dict) else []
        if not all(writable(text) for text in texts if isinstance(text, str)):
            raise ValueError("holds half of a surrogate pair")
        return value


def writable(text: str) -> bool:
    """Whether a text can be written as UTF-8; names of files on Linux, too, need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def load(path: Path, adapter: TypeAdapter[Model]) -> Model:
    """A JSON file of the layout.

    Raises:
        Quarantine: Where it is missing or wrong; the detail names the field.
    """
    if not path.exists():
        raise Quarantine(f"no {path.name}", f"{path} does not exist")
    try:
        return adapter.validate_python(read_json(path))
    except ValidationError as error:
        raise Quarantine(f"wrong {path.name}", f"{path}: {describe(error)}{_meant(error)}") from None
    except DataError as error:
        raise Quarantine(f"wrong {path.name}", error.message) from None


def _meant(error: ValidationError) -> str:
    """What a misspelt field was meant to be."""
    first = error.errors(include_url=False)[0]
    if first["type"] != "extra_forbidden":
        return ""
    known = {name for model in Known.__subclasses__() for name in model.model_fields}
    near = get_close_matches(str(first["loc"][-1]), sorted(known), n=1)
    return f" (did you mean {near[0]}?)" if near else " (put what is not for rft3d under meta)"


def rotation_fault(matrix: Floats) -> str | None:
    """What keeps a ``(3, 3)`` matrix from being a rotation, with how far; None for a rotation.

    >>> rotation_fault(np.eye(3)), rotation_fault(np.diag([1.0, 1.0, -1.0])), rotation_fault(1.5 * np.eye(3))
    (None, 'mirrors: its determinant is -1', 'scales by 1.5: a pose has no scale, distances are metres')
    """
    gram = matrix.T @ matrix
    off = float(np.abs(gram - np.eye(3)).max())
    if off > RIGID:
        scale = float(np.sqrt(max(np.trace(gram) / 3, 0)))
        if scale > 0 and np.abs(gram / scale**2 - np.eye(3)).max() <= RIGID:
            return f"scales by {scale:.4g}: a pose has no scale, distances are metres"
        return f"is not rigid: its columns are {off:.2g} from orthonormal (at most {RIGID:g} is rounding)"
    if np.linalg.det(matrix) < 0:
        return "mirrors: its determinant is -1"
    return None


def rigid_fault(matrix: Floats) -> str | None:
    """What keeps a finite ``(4, 4)`` matrix from being a rigid motion; None for one."""
    if not np.allclose(matrix[3], [0, 0, 0, 1], atol=RIGID):
        if np.allclose(matrix[:, 3], [0, 0, 0, 1], atol=RIGID):
            return "is transposed: its translation stands in the last row"
        return f"has the last row {' '.join(f'{value:g}' for value in matrix[3])}, not 0 0 0 1"
    return rotation_fault(matrix[:3, :3])
