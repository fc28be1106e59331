"""The benchmarks by name: what each scores, by which numbers it is quoted, and where its scorer stands.

A scorer's module is imported when it is asked for, so that scoring letters does not load the geometry of boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.errors import DataError

if TYPE_CHECKING:
    from rft3d_cli.benchmarks.result import Result
    from rft3d_cli.records import Record


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        name: As the command line says it.
        text: In a line, for help and tables.
        tasks: Tasks of its records.
        headline: The dotted key of the number that it is quoted by.
        written: The ``prepare`` command that writes its records, by default to ``data/NAME.jsonl``.
        short: Longest answer in tokens where the public harness asks for no thinking; None leaves it to the task.
        boxes: Whether answers hold boxes, whose angles have a meaning.
        own: Options of the command that only some benchmarks have.
        light: Arguments of the scorer that leave out what takes long beside the score.
    """

    name: str
    text: str
    tasks: tuple[str, ...]
    headline: str
    written: str
    short: int | None = None
    boxes: bool = False
    own: frozenset[str] = frozenset()
    light: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> Callable[..., Result]:
        """The scorer: ``score(records, predictions, *, scorer, answer_style, seed, intervals, …)``."""
        found: Callable[..., Result] = import_module(f"rft3d_cli.benchmarks.{self.name}").score
        return found

    def owns(self, record: Record) -> bool:
        """Whether it scores a record.

        >>> from rft3d_cli.examples import example_record
        >>> BENCHMARKS["detection"].owns(example_record("detection")), BENCHMARKS["sqa3d"].owns(example_record("text"))
        (True, False)
        """
        if record.task not in self.tasks:
            return False
        return self.tasks != ("text",) or record.meta.dataset == self.written


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "vsibench",
            "spatial questions: VSI-Bench's eight tasks",
            ("choice", "number"),
            "overall",
            "vsibench",
            short=16,
            own=frozenset({"types", "per_type", "pruned_ids"}),
        ),
        Benchmark(
            "scanrefer",
            "visual grounding: accuracy at IoU 0.25 and 0.5",
            ("grounding",),
            "overall.acc@0.25",
            "scanrefer",
            boxes=True,
            own=frozenset({"proposals"}),
        ),
        Benchmark(
            "detection",
            "3D video detection: precision, recall and F1 at IoU 0.25 and 0.5",
            ("detection",),
            "classes_20.f1",
            "scannet",
            boxes=True,
            own=frozenset({"confidence", "min_confidence"}),
            light={"visibility": False},
        ),
        Benchmark(
            "sqa3d", "questions about a place in a room: exact match", ("text",), "overall.em", "sqa3d", short=16
        ),
        Benchmark(
            "scan2cap", "captions: CIDEr, BLEU-4 and ROUGE-L at IoU 0.5", ("text",), "cider@0.5", "scan2cap", short=100
        ),
    )
}
"""In the order of the command's help."""


def select(benchmark: str, records: Sequence[Record], path: Path) -> list[Record]:
    """The records of a file that a benchmark scores; a mixed file gives each benchmark its own.

    Args:
        benchmark: A key of :data:`BENCHMARKS`.
        records: Records of any tasks.
        path: Their file, for the message.

    Returns:
        The benchmark's records, in their order.

    Raises:
        DataError: Where there is none.
        KeyError: On an unknown benchmark.

    >>> from rft3d_cli.examples import example_record
    >>> mixed = [example_record(task) for task in ("detection", "choice", "number")]
    >>> [record.task for record in select("vsibench", mixed, Path("mixed.jsonl"))]
    ['choice', 'number']
    """
    known = BENCHMARKS[benchmark]
    chosen = [record for record in records if known.owns(record)]
    if not chosen:
        found = ", ".join(sorted({record.task for record in records}))
        wanted = " or ".join(known.tasks)
        of = f" of {known.written}" if known.tasks == ("text",) else ""
        raise DataError(f"{path} holds no {wanted} records{of}, only {found}")
    return chosen


def narrowed(
    records: Sequence[Record],
    *,
    types: Sequence[str] = (),
    subset: str | None = None,
    ids: Mapping[str, Any] | None = None,
    pruned: Collection[str] | None = None,
    limit: int | None = None,
    per_type: int | None = None,
    seed: int = 0,
) -> list[Record]:
    """The records that the command line asks for, in their order.

    Args:
        records: Of one benchmark.
        types: Question types to keep; all where empty.
        subset: ``debiased`` or ``pruned`` by ``meta.pruned``, else ``meta.subset``.
        ids: Ids to keep.
        pruned: Ids that the debiased cut leaves out, where the records do not say.
        limit: Keep the first so many, after all else.
        per_type: Draw at most so many of each question type.
        seed: Of that draw.

    Raises:
        DataError: Where nothing is left, or an id or a type is not there.

    >>> from rft3d_cli.examples import example_record
    >>> records = [example_record("choice"), example_record("number")]
    >>> [record.id for record in narrowed(records, types=["object_abs_distance"])]
    ['example-number']
    """
    kept = list(records)
    known = dict.fromkeys(record.meta.question_type or "" for record in kept)
    if unknown := [name for name in types if name not in known]:
        raise DataError(f"no record has question type {unknown[0]}", f"there are {', '.join(filter(None, known))}")
    if ids is not None and (lost := ids.keys() - {record.id for record in kept}):
        raise DataError(f"{len(lost):,} of {len(ids):,} ids are not in the data, first {min(lost)}")
    if types:
        kept = [record for record in kept if record.meta.question_type in types]
    if subset is not None:
        kept = [record for record in kept if _in_subset(record, subset, pruned)]
    if ids is not None:
        kept = [record for record in kept if record.id in ids]
    if per_type is not None:
        kept = _drawn(kept, per_type, seed)
    if not kept:
        if subset is not None:
            raise DataError(f"no record is left in subset {subset}", f"the records' meta marks none as {subset}")
        raise DataError("no record is left", "leave out --types, --ids or --per-type")
    return kept[:limit]


def _in_subset(record: Record, subset: str, pruned: Collection[str] | None) -> bool:
    if subset in ("debiased", "pruned"):
        if pruned is not None:
            return (record.id in pruned) is (subset == "pruned")
        return (record.meta.model_extra or {}).get("pruned") is (subset == "pruned")
    return record.meta.subset == subset


def _drawn(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """At most ``count`` of each question type, by a draw that other types do not change."""
    from random import Random

    places: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        places.setdefault(record.meta.question_type or "", []).append(index)
    chosen = [
        index
        for name, found in places.items()
        for index in (found if len(found) <= count else Random(f"{seed} {name}").sample(found, count))
    ]
    return [records[index] for index in sorted(chosen)]
