"""Joining the record files of ``--shard 1/N`` … ``--shard N/N`` into the one that a single run would have written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft3d_cli.errors import DataError, ProblemList, UsageError
from rft3d_cli.files import atomic_writer, sha256
from rft3d_cli.prepare.card import save_card
from rft3d_cli.prepare.unfinished import differing_option

LAST = ("records", "classes", "types", "labels", "warnings", "scans")
"""How counts end, in this order."""


def merge(parts: Sequence[Path], out: Path) -> dict[str, Any]:
    """Join shards, in the order of their numbers.

    Args:
        parts: The record files, with their cards beside them, in any order.
        out: The record file to write; its card and rejects go beside it.

    Returns:
        The new card.

    Raises:
        DataError: Where a file or its card is missing, changed since, or no shard.
        UsageError: Where the shards are not those of one run, or not all of them.
    """
    problems: list[DataError | UsageError] = []
    cards: dict[int, tuple[Path, dict[str, Any]]] = {}
    for path in parts:
        try:
            card = _card(path)
            number, count = (int(word) for word in str(card["options"].get("shard", "0/0")).split("/"))
            if not count:
                raise DataError(f"{path} is no shard: its card names none", "make shards with --shard I/N")
            if number in cards:
                raise UsageError(f"{path} is shard {number}/{count}, and so is {cards[number][0]}")
            cards[number] = path, card
        except (DataError, UsageError) as error:
            problems.append(error)
    if problems:
        raise problems[0] if len(problems) == 1 else ProblemList(list(problems))
    ordered = [cards[number] for number in sorted(cards)]
    first_path, first = ordered[0]
    for path, card in ordered[1:]:
        for key in ("command", "options", "sources", "versions"):
            one, other = (
                {k: v for k, v in x[key].items() if k != "shard"} if key == "options" else x[key] for x in (first, card)
            )
            if one != other:
                what = f"option {differing_option(one, other)} differs" if key == "options" else f"{key} differ"
                raise UsageError(f"{path} and {first_path} are of different runs: their {what}")
    count = int(first["options"]["shard"].partition("/")[2])
    if missing := [f"{i}/{count}" for i in range(1, count + 1) if i not in cards]:
        raise UsageError(f"shards are missing: {', '.join(missing)}")

    rejects: list[dict[str, Any]] = []
    with atomic_writer(out) as stream:
        for path, _ in ordered:
            stream.write(path.read_text(encoding="utf-8"))
            rejected = path.with_suffix(".rejects.jsonl")
            if rejected.exists():
                rejects += [json.loads(line) for line in rejected.read_text(encoding="utf-8").splitlines()]
    options = {key: value for key, value in first["options"].items() if key != "shard"}
    counts = _summed([card["counts"] for _, card in ordered])
    return save_card(out, {**first, "options": options, "counts": counts}, rejects)


def _card(path: Path) -> dict[str, Any]:
    place = path.with_suffix(".card.json")
    try:
        card = json.loads(place.read_text(encoding="utf-8"))
        same = card["records"]["sha256"] == sha256(path)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{place} is no card of records") from None
    if not same:
        raise DataError(f"{path} is not what its card describes: it has changed since", "prepare that shard again")
    return dict(card)


def _summed(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of several runs as those of one: numbers add up, lists join, classes are counted anew."""
    out: dict[str, Any] = {}
    for one in counts:
        for key, value in one.items():
            if isinstance(value, dict):
                mine = out.setdefault(key, {})
                for name, item in value.items():
                    mine[name] = mine[name] + item if name in mine else item
            else:
                out[key] = out[key] + value if key in out else value
    for key in out.keys() & {"classes", "types"}:
        out[key] = len(out.get("labels", {}))
    if "labels" in out:
        out["labels"] = dict(sorted(out["labels"].items()))
    if "warnings" in out:
        out["warnings"] = {text: list(dict.fromkeys(names)) for text, names in out["warnings"].items()}
    # What only a later share counts stands where a single run has it.
    order = [*(key for key in out if key not in LAST), *(key for key in LAST if key in out)]
    return {key: out[key] for key in order}
