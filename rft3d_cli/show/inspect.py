"""Records made visible: a contact sheet, a page, and what was shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from rft3d_cli.console import clean
from rft3d_cli.errors import DataError
from rft3d_cli.files import atomic_path, write_bytes
from rft3d_cli.records import MEDIA_HINT, RecordFile
from rft3d_cli.show.inspect_look import Look, choose, look_at
from rft3d_cli.show.inspect_page import page
from rft3d_cli.show.inspect_sheet import sheet

SHEET, PAGE = "sheet.png", "index.html"


def write_looks(
    looks: Sequence[Look], source: RecordFile, overview: dict[str, Any], out: Path, *, width: int
) -> list[Path]:
    """Write the contact sheet and the page.

    Args:
        looks: At least one.
        source: Where they come from.
        overview: Of all records: :func:`rft3d_cli.show.inspect_stats.statistics`.
        out: The folder.
        width: Of the sheet, pixels, at most.

    Returns:
        The files: sheet and page.

    Raises:
        DataError: Where no frame of any of them could be read, or the folder cannot be written.
    """
    if all(frame.picture is None for look in looks for frame in look.frames):
        why = next((look.lost for look in looks if look.lost), "no frames")
        raise DataError(f"{source.path}: nothing can be shown: {why}", MEDIA_HINT)
    with atomic_path(out / SHEET) as temporary:
        Image.fromarray(sheet(looks, source.path.name, len(source.records), width)).save(temporary, "PNG")
    write_bytes(out / PAGE, page(looks, source.path.name, overview).encode())
    return [out / SHEET, out / PAGE]


def document(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """What was shown, for programs."""
    return [_entry(look) for look in looks]


def _entry(look: Look) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": look.record.id,
        "task": look.record.task,
        "frames": [frame.number for frame in look.frames],
        "missing": look.missing,
        "missing_why": clean(look.lost) or None,
        "boxes": [
            {
                "label": clean(label),
                "frames": look.sight.frames_of(index) if look.sight.known.any() else None,
                "trouble": look.sight.trouble(index) or None,
            }
            for index, label in enumerate(look.views.boxes.labels)
        ],
        "notes": [clean(note) for note in look.notes],
    }
    if look.said is not None:
        labels = zip(look.said.views.boxes.labels, look.said.overlaps, strict=True)
        entry["prediction"] = {
            "boxes": [{"label": clean(label), "iou": overlap} for label, overlap in labels],
            "value": clean(look.said.value) or None,
            "unreadable": clean(look.said.why) or None,
        }
    return entry


def inspect(
    source: RecordFile,
    *,
    count: int,
    ids: Sequence[str],
    predictions: Mapping[str, str] | None = None,
    done: Callable[[], object] = lambda: None,
) -> list[Look]:
    """Read what is to be shown.

    Args:
        source: The records.
        count: How many, where none are named.
        ids: Names of records.
        predictions: Saved answers by id; only records that have one are chosen from.
        done: Called after each.

    Raises:
        UsageError: On an id that no record has.
        DataError: Where no answer is to any of the records.
    """
    pool = source.records
    if predictions is not None and not ids:
        pool = [record for record in pool if record.id in predictions]
        if not pool:
            raise DataError(f"no prediction has the id of a record of {source.path}", "name the records it answers")
    looks = []
    for record in choose(pool, count, ids):
        looks.append(look_at(record, source, (predictions or {}).get(record.id)))
        done()
    return looks
