"""``rft3d evaluate compare``: what changed from one evaluation to another of the same records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rft3d_cli.benchmarks.metrics import lookup
from rft3d_cli.benchmarks.paired import FLIPS, TEST, Difference, differences
from rft3d_cli.benchmarks.paired_tables import table_of
from rft3d_cli.benchmarks.result import ROUNDS, clean
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.files import sha256
from rft3d_cli.lines import read_lines

ASKED = (
    *("scorer", "answer_style", "iou_threshold", "min_confidence", "angles", "prompt_hash", "proposals", "blind"),
    *("frames", "sampler", "tags", "model", "decoding", "asked", "versions"),
)
"""Parts of a result that say how it was made."""

_OF_MODELS = ("blind", "frames", "sampler", "tags", "model", "decoding", "asked")

ANSWERED = {"time", "file", "evidence", "name", "sha256", "notes", "batch", "records"}
"""Keys below them that may differ without meaning that anything was asked differently; weights do by intent."""

SAME = 1e-9
"""Scores closer than this are the same."""

_FACTS = ("scene", "dataset", "question_type", "subset", "pruned")
_HINT = "rft3d evaluate BENCHMARK --out DIR writes details.jsonl and result.json"


@dataclass(frozen=True)
class Evaluation:
    """One side of a comparison.

    Args:
        path: As the user named it.
        document: Its ``result.json``; empty where there is none.
        details: Its lines by record id.
        facts: What is known of each record: :data:`_FACTS` by id, from the details and the data.
    """

    path: Path
    document: dict[str, Any]
    details: dict[str, dict[str, Any]]
    facts: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """Two evaluations held against each other.

    Args:
        benchmark: Its name; None where neither side says.
        records: How many records both have.
        scenes: How many scenes these are of; None where none is known and records are resampled.
        rows: Every number on both sides, the headline first.
        changed: Records whose score changed, most changed first: ``id``, ``a`` and ``b`` with ``score``, ``answer``,
            ``why``, and ``difference`` (0…1).
        counts: ``better``, ``worse`` and ``same`` records.
        asked_differently: Settings that differ, each ``[a, b]``.
        notes: What a reader has to know, each a line.
    """

    benchmark: str | None
    records: int
    scenes: int | None
    rows: list[Difference]
    changed: list[dict[str, Any]]
    counts: dict[str, int]
    asked_differently: dict[str, list[Any]]
    notes: list[str]

    def document(self, a: Evaluation, b: Evaluation, seed: int) -> dict[str, Any]:
        """The comparison as JSON, without the changed records.

        Args:
            a: The first side.
            b: The second side.
            seed: Of the resamples.

        >>> row = Difference("overall", 2, 40.0, 50.0, 10.0, None, None)
        >>> found = Comparison("vsibench", 2, None, [row], [], {"better": 1, "worse": 0, "same": 1}, {}, [])
        >>> side = Evaluation(Path("before"), {}, {}, {})
        >>> document = found.document(side, side, seed=0)
        >>> document["headline"], document["measures"]["overall"]["difference"], document["interval"]["method"]
        ('overall', 10.0, 'paired bootstrap by record')
        """
        found: dict[str, Any] = clean(
            {
                "benchmark": self.benchmark,
                "a": {"path": str(a.path), "model": model_of(a)},
                "b": {"path": str(b.path), "model": model_of(b)},
                "records": self.records,
                "scenes": self.scenes,
                "headline": self.rows[0].key,
                "verdict": self.verdict,
                "measures": {row.key: {k: v for k, v in asdict(row).items() if k != "key"} for row in self.rows},
                "changed": self.counts,
                "asked_differently": self.asked_differently,
                "interval": {"level": 95, "method": f"paired bootstrap by {self.unit}", "rounds": ROUNDS},
                "test": {"method": f"{TEST} by {self.unit}", "flips": FLIPS},
                "seed": seed,
                "notes": self.notes,
            }
        )
        return found

    @property
    def verdict(self) -> str | None:
        """Of the headline: see :meth:`rft3d_cli.benchmarks.paired.Difference.verdict`."""
        return self.rows[0].verdict(self.records if self.scenes is None else self.scenes)

    @property
    def unit(self) -> str:
        """What is resampled."""
        return "record" if self.scenes is None else "scene"


def read_evaluation(path: Path) -> Evaluation:
    """One side of a comparison.

    Args:
        path: The folder of an evaluation, or its ``result.json``, or its details: the other file is looked for beside
            it, and details may do without.

    Raises:
        DataError: Where there are no details, a file is broken, or the details are not those of the result.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     line = {"id": "a", "score": 1.0, "parts": {}, "answer": "4", "why": "", "scene": "scene0000_00"}
    ...     _ = (Path(folder) / "details.jsonl").write_text(json.dumps(line))
    ...     side = read_evaluation(Path(folder))
    >>> list(side.details), side.facts["a"]["scene"], side.document
    (['a'], 'scene0000_00', {})
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "name the folder of an evaluation")
    folder = path if path.is_dir() else path.parent
    details = path if path.is_file() and path.suffix != ".json" else folder / "details.jsonl"
    result = path if path.is_file() and path.suffix == ".json" else folder / "result.json"
    if not details.is_file():
        raise DataError(f"{folder} holds no details.jsonl, which says how each record scored", _HINT)
    document = _result(result) if result.is_file() else {}
    said = document.get("details")
    if isinstance(said, dict) and said.get("sha256") not in (None, sha256(details)):
        raise DataError(
            f"{details} does not hold the details of {result}: one of them is of another run",
            "repeat the evaluation, which writes both",
        )
    lines = _details(details)
    return Evaluation(path, document, lines, _facts(lines, document))


def _result(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}", _HINT) from None
    if not isinstance(found, dict) or "benchmark" not in found:
        raise DataError(f"{path} is no result of an evaluation", _HINT)
    return found


def _details(path: Path) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for number, line in read_lines(path):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path} line {number}: not JSON", _HINT) from None
        if (
            not isinstance(found, dict)
            or not _is_number(found.get("score"))
            or not isinstance(found.get("id"), str | int)
        ):
            raise DataError(f"{path} line {number} is no detail of an evaluation: it has no id or no score", _HINT)
        name = str(found["id"])
        if name in out:
            raise DataError(f"{path} line {number}: id {name!r} repeats", _HINT)
        if not isinstance(found.setdefault("parts", {}), dict):
            raise DataError(f"{path} line {number}: parts must be an object", _HINT)
        out[name] = found
    if not out:
        raise DataError(f"{path} holds no details", _HINT)
    return out


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _facts(details: Mapping[str, Mapping[str, Any]], document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Scene, type and the like of each record: what its line says, else what the data says, if it is still the same."""
    out = {name: _known(line) for name, line in details.items()}
    for name, meta in _data(document.get("data")):
        if name in out:
            out[name] = _known(meta) | out[name]
    return out


def _known(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: meta[key] for key in _FACTS if isinstance(meta.get(key), str | bool)}


def _data(said: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Id and ``meta`` of each record of the data that a result names."""
    path = Path(said["file"]) if isinstance(said, dict) and isinstance(said.get("file"), str) else None
    if path is None or not path.is_file() or sha256(path) != said.get("sha256"):
        return
    if path.suffix == ".parquet":
        from rft3d_cli.prepare.vsibench import published_records

        for record in published_records(path).records:
            yield record.id, record.meta.model_dump()
        return
    for _, line in read_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and "id" in row:
            meta = row.get("meta")
            # VSI-Bench's own rows, which can be scored as they are, name these things at the top.
            yield str(row["id"]), meta if isinstance(meta, dict) else {**row, "scene": row.get("scene_name")}


def model_of(side: Evaluation) -> str | None:
    """The name of the model that answered, or the file of the predictions.

    >>> model_of(Evaluation(Path("eval"), {"model": {"name": "tiny"}}, {}, {}))
    'tiny'
    """
    model, said = side.document.get("model"), side.document.get("predictions")
    for found in (model, said):
        if isinstance(found, dict):
            found = found.get("name", found.get("file"))
        if isinstance(found, str):
            return found
    return None


def compare(a: Evaluation, b: Evaluation, *, common: bool = False, seed: int = 0) -> Comparison:
    """Hold two evaluations of the same records against each other.

    Args:
        a: The one before.
        b: The one after: differences are ``b - a``.
        common: Compare the records that both have where the data or the ids differ, instead of raising.
        seed: Of the intervals and the test.

    Raises:
        UsageError: On two benchmarks.
        DataError: On different data, or no common record.

    >>> def side(*scores: float) -> Evaluation:
    ...     names = [f"q{i}" for i in range(len(scores))]
    ...     lines = {n: {"id": n, "score": s, "parts": {}, "answer": "", "why": ""} for n, s in zip(names, scores)}
    ...     return Evaluation(Path("x"), {}, lines, {n: {"scene": n} for n in names})
    >>> found = compare(side(0.0, 1.0, 0.0), side(1.0, 1.0, 0.5))
    >>> found.rows[0].difference, found.counts
    (50.0, {'better': 2, 'worse': 0, 'same': 1})
    """
    names = [side.document.get("benchmark") for side in (a, b)]
    if None not in names and names[0] != names[1]:
        raise UsageError(
            f"{a.path} is a result of {names[0]}, {b.path} of {names[1]}", "compare results of one benchmark"
        )
    ids = [name for name in a.details if name in b.details]
    notes = _same_data(a, b, ids, common=common)
    if bool(a.document) != bool(b.document):
        silent = (b if a.document else a).path
        notes.append(f"{silent} comes without a result.json: its scorer and settings are not known")
    before, after = ([side.details[name] for name in ids] for side in (a, b))
    facts = [a.facts[name] | b.facts[name] for name in ids]
    scenes, count, known = _scenes(ids, facts)
    if not known:
        notes.append("the details name no scenes: records are resampled, and intervals may be too narrow")
    elif count == 1:
        notes.append("all records are of one scene: no intervals")
    benchmark = names[0] or names[1]
    rows = differences(table_of(benchmark, before, after, facts), scenes, count, seed)
    if len(ids) == len(a.details) == len(b.details):
        notes += _other_numbers(a, b, rows)
    changed = _changed(ids, before, after)
    better = sum(line["difference"] > 0 for line in changed)
    counts = {"better": better, "worse": len(changed) - better, "same": len(ids) - len(changed)}
    asked = _asked_differently(a.document, b.document)
    return Comparison(benchmark, len(ids), count if known else None, rows, changed, counts, asked, notes)


def _same_data(a: Evaluation, b: Evaluation, ids: Sequence[str], *, common: bool) -> list[str]:
    """Refuse different records, or say how many both have."""
    if not ids:
        raise DataError(f"{a.path} and {b.path} have no record in common", "were they made of the same data?")
    said = [side.document.get("data") for side in (a, b)]
    hashes = [data.get("sha256") if isinstance(data, dict) else None for data in said]
    lone = len(a.details) - len(ids), len(b.details) - len(ids)
    hint = f"--common compares the {len(ids):,} records that both have"
    if any(lone):
        why = f"{a.path} has {lone[0]:,} records that {b.path} lacks, which has {lone[1]:,} of its own"
        if not common:
            raise DataError(why, hint)
        return [f"{why}: {len(ids):,} common records are compared"]
    if None not in hashes and hashes[0] != hashes[1]:
        why = "the ids are the same, but the files of the data are not"
        if not common:
            raise DataError(f"{a.path} and {b.path}: {why}", hint)
        return [why]
    if hashes.count(None) == 1:
        silent = (a, b)[hashes.index(None)].path
        return [f"{silent} does not say which data it is of: that both are of the same was not checked"]
    return []


def _scenes(ids: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> tuple[list[int], int, bool]:
    """The scene of each record as a number, how many there are, and whether any is known.

    A record without a scene is a scene of its own, and the same name in two data sets is two scenes.
    """
    known = any(fact.get("scene") for fact in facts)
    seen: dict[tuple[Any, str], int] = {}
    index = []
    for name, fact in zip(ids, facts, strict=True):
        key = (fact.get("dataset"), str(fact["scene"])) if fact.get("scene") else (None, f"\0{name}")
        index.append(seen.setdefault(key, len(seen)))
    return index, len(seen), known


def _other_numbers(a: Evaluation, b: Evaluation, rows: Sequence[Difference]) -> list[str]:
    """Where a result does not say what its details add up to: the files are not of one evaluation."""
    out = []
    for side, values in ((a, [row.a for row in rows]), (b, [row.b for row in rows])):
        for row, value in zip(rows, values, strict=True):
            said = lookup(side.document, row.key)
            if said is not None and value is not None and abs(said - value) > 1e-6:
                out.append(f"{side.path}: result.json says {row.key} {said:.2f}, its details {value:.2f}")
                break
    return out


def _changed(
    ids: Sequence[str], a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    out = []
    for name, before, after in zip(ids, a, b, strict=True):
        difference = float(after["score"]) - float(before["score"])
        if abs(difference) > SAME:
            sides = {
                side: {key: line.get(key) for key in ("score", "answer", "why")}
                for side, line in (("a", before), ("b", after))
            }
            out.append({"id": name, **sides, "difference": difference})
    return sorted(out, key=lambda line: -abs(line["difference"]))


def _asked_differently(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings that both results name and that differ, by their dotted keys."""
    if not a or not b:
        return {}  # a side without a result, which is said
    # Saved predictions do not say how their model was asked: nothing is known to differ.
    parts = [key for key in ASKED if key not in _OF_MODELS or ("model" in a and "model" in b)]
    sides = [dict(_settings({key: side[key] for key in parts if key in side})) for side in (a, b)]
    keys = dict.fromkeys((*sides[0], *sides[1]))
    return {key: [side.get(key) for side in sides] for key in keys if sides[0].get(key) != sides[1].get(key)}


def _settings(part: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if key in ANSWERED and (prefix != "proposals." or key == "file"):
            continue
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}".removeprefix("model."), value
