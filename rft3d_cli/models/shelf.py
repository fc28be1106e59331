"""Which of the models that rft3d knows are on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rft3d_cli.errors import SetupError
from rft3d_cli.models.checkpoint import read_checkpoint
from rft3d_cli.models.known import KNOWN, Known, fetch_command
from rft3d_cli.models.loader import fetched, find_model


@dataclass(frozen=True)
class Row:
    """A known model, here or not.

    Args:
        name: What a recipe calls it.
        known: What is known of it.
        folder: Where its files are.
        parameters: How many.
        incomplete: What of its files is not here, where something is.
    """

    name: str
    known: Known
    folder: Path | None
    parameters: int | None
    incomplete: str = ""

    @property
    def here(self) -> bool:
        """Whether it can be loaded on this machine."""
        return self.known.home == "fresh" or (self.folder is not None and not self.incomplete)

    @property
    def command(self) -> str | None:
        """What fetches it."""
        return fetch_command(self.name) if self.known.home == "hub" else None

    @property
    def cells(self) -> list[str]:
        """Size, branch, order of angles and text, as a table has them."""
        size = f"{(self.parameters or 0) / 1e9:.2f} B" if (self.parameters or 0) >= 1e8 else ""
        size = size or (f"{self.parameters / 1e6:.2f} M" if self.parameters else "")
        branch = {"vggt": "VGGT", "none": "plain"}.get(self.known.branch or "", "")
        return [size, branch, self.known.angles or "", self.known.text]

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        known = {k: v for k, v in asdict(self.known).items() if k not in ("files", "parameters")}
        here = {"here": self.here, "path": str(self.folder) if self.folder else None, "command": self.command}
        return {
            "name": self.name,
            **known,
            "parameters": self.parameters,
            **here,
            "incomplete": self.incomplete or None,
        }


def shelf() -> list[Row]:
    """Known models, shipped ones first; one that should have shipped and is not there is left out."""
    rows = []
    for name, known in KNOWN.items():
        folder, parameters, incomplete = None, known.parameters, ""
        try:
            if known.home == "shipped":
                folder = find_model(name)
            elif known.home == "hub":
                folder = fetched(name)
            if folder is not None:
                tensors = read_checkpoint(folder).tensors
                incomplete = "" if tensors else "it has no weights"
                parameters = parameters or sum(info.size for info in tensors.values())
        except SetupError as error:
            if known.home == "shipped":
                continue
            incomplete = error.message
        rows.append(Row(name, known, folder, parameters, incomplete))
    return rows
