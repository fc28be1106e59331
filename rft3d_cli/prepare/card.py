"""Cards: what a data file was made from, with which options, by which versions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rft3d_cli import __version__
from rft3d_cli.files import atomic_writer, sha256, write_json


def versions() -> dict[str, str]:
    """Versions of rft3d and of the libraries that shape its data files, read without importing them."""
    found = {"rft3d": __version__}
    for name in ("numpy", "scipy", "pillow", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source(path: Path) -> dict[str, Any]:
    """A source file's name, size and SHA-256."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def write_card(
    records: Path,
    *,
    command: str,
    options: Mapping[str, Any],
    sources: Iterable[Path],
    counts: Mapping[str, Any],
    rejects: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write ``X.card.json`` beside ``X.jsonl``, and ``X.rejects.jsonl`` where something was left out.

    Args:
        records: The JSONL file, already written.
        command: For example ``prepare scannet``.
        options: The options that shaped the content; paths as the user gave them.
        sources: Files read.
        counts: Numbers for people.
        rejects: One mapping a thing left out, with at least ``reason``.

    Returns:
        The card.
    """
    card = {
        "schema": 1,
        "command": command,
        "options": dict(options),
        "sources": [source(path) for path in sources],
        "counts": dict(counts),
        "versions": versions(),
    }
    return save_card(records, card, list(rejects))


def save_card(records: Path, card: Mapping[str, Any], rejects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write a card beside its records, with what the two files say themselves, and the rejects where there are any.

    Args:
        records: The JSONL file, already written.
        card: The rest of the card.
        rejects: One mapping a thing left out.

    Returns:
        The whole card.
    """
    rejected = records.with_suffix(".rejects.jsonl")
    if rejects:
        with atomic_writer(rejected) as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rejects)
    else:
        rejected.unlink(missing_ok=True)
    own = {"records": source(records), "rejects": dict(Counter(row["reason"] for row in rejects))}
    order = ("schema", "command", "records", "options", "sources", "counts", "rejects", "versions")
    whole = {**card, **own}
    card = {key: whole[key] for key in order}
    write_json(records.with_suffix(".card.json"), card)
    return card
