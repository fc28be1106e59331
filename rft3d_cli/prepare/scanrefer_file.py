"""ScanRefer's file of descriptions, and its own split into unique and multiple objects."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft3d_cli.errors import DataError

BENCHMARK_CLASSES = frozenset({*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39})
"""NYU40 classes that ScanRefer keeps apart; all others count as 39, other furniture."""
OTHER = 39


@dataclass(frozen=True)
class Description:
    """One entry of a ScanRefer file.

    Args:
        scene: ``scene_id``.
        object_id: ``objectId`` of the scan's aggregation.
        name: ``object_name``, words joined by underscores.
        ann: ``ann_id``.
        text: As written.
    """

    scene: str
    object_id: int
    name: str
    ann: str
    text: str

    @property
    def id(self) -> str:
        """The grounding record's id."""
        return f"{self.scene}/ref/{self.object_id}/{self.ann}"


def read_descriptions(path: Path) -> tuple[list[Description], list[str]]:
    """The entries of a ``ScanRefer_filtered_*.json`` file.

    Returns:
        The entries, and why others were left out.

    Raises:
        DataError: Where the file is not a JSON list.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            rows = json.load(stream)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list of descriptions", "name ScanRefer_filtered_train.json or a file like it")
    found: dict[str, Description] = {}
    wrong = []
    for number, row in enumerate(rows, start=1):
        try:
            entry = _description(row)
        except (TypeError, KeyError, ValueError):
            wrong.append(f"entry {number} lacks scene_id, object_id, object_name, ann_id or description")
            continue
        if entry.id in found:
            wrong.append(f"entry {number} repeats {entry.id}")
        found.setdefault(entry.id, entry)
    return list(found.values()), wrong


def _description(row: Mapping[str, Any]) -> Description:
    texts = [row[key] for key in ("scene_id", "object_name", "description")]
    if not all(isinstance(text, str) and text for text in texts) or isinstance(row["object_id"], float):
        raise TypeError
    return Description(texts[0], int(row["object_id"]), texts[1], str(row["ann_id"]), texts[2])


def benchmark_subsets(entries: Sequence[Description], table: Mapping[str, int]) -> dict[tuple[str, int], str]:
    """ScanRefer's own unique/multiple split.

    An object is unique where no other *described* object of its scene falls into its class, of the benchmark's 20.

    Args:
        entries: All entries of the file.
        table: NYU40 class of each raw category.

    Returns:
        ``unique`` or ``multiple`` by (scene, object id).
    """
    classes: dict[tuple[str, int], int] = {}
    for entry in entries:
        number = table.get(entry.name.replace("_", " "), OTHER)
        classes[entry.scene, entry.object_id] = number if number in BENCHMARK_CLASSES else OTHER
    counts = Counter((scene, number) for (scene, _), number in classes.items())
    return {
        (scene, object_id): "unique" if counts[scene, number] == 1 else "multiple"
        for (scene, object_id), number in classes.items()
    }
