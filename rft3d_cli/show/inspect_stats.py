"""What a file of records holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rft3d_cli.answers import option_letters
from rft3d_cli.answers.target import target_answer
from rft3d_cli.console import clean
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.records import TASKS, ChoiceTarget, NumberTarget, Record
from rft3d_cli.show.inspect_boxes import WORLD_AGREES, Sight, frame_count, sight, views_of, world_overlap

AXES = ("x", "y", "z")
Table = list[tuple[str, ...]]


@dataclass
class _Boxes:
    """What is counted of the boxes of one task."""

    per_record: list[int] = field(default_factory=list)
    sizes: list[Floats] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    class_records: Counter[str] = field(default_factory=Counter)
    located: int = 0
    in_own: int = 0
    in_any: int = 0
    behind: int = 0
    nowhere: list[str] = field(default_factory=list)
    disagree: list[str] = field(default_factory=list)
    disagree_known: int = 0


@dataclass
class _Task:
    """What is counted of the records of one task."""

    records: int = 0
    frames: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)


def statistics(records: Sequence[Record], done: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Count and measure records, without opening their media.

    Lengths of texts are in characters, sizes in metres along a box's own axes. A box counts as in a frame where some
    part of it lies in the picture, whatever stands before it.

    Args:
        records: The records.
        done: Called after each.

    Returns:
        A document of plain numbers, lists and dictionaries; None stands for what cannot be said.

    >>> from rft3d_cli.examples import example_record
    >>> found = statistics([example_record("detection"), example_record("grounding")])
    >>> found["tasks"], found["boxes"]["detection"]["per_record"]["max"]
    ({'detection': 1, 'grounding': 1}, 2)
    """
    tasks: dict[str, _Task] = {}
    boxes: dict[str, _Boxes] = {}
    places: dict[str, Counter[str]] = {"datasets": Counter(), "splits": Counter(), "question_types": Counter()}
    scenes: Counter[tuple[str, str]] = Counter()
    options: Counter[int] = Counter()
    right: Counter[str] = Counter()
    offered: Counter[str] = Counter()
    numbers: dict[str, list[float]] = {}
    for record in records:
        own = tasks.setdefault(record.task, _Task())
        own.records += 1
        own.frames.append(frame_count(record))
        own.prompts.append(len(record.prompt))
        own.answers.extend(_answer_length(record))
        _count_places(record, places, scenes)
        if record.task in ("detection", "grounding"):
            _count_boxes(record, boxes.setdefault(record.task, _Boxes()))
        elif isinstance(record.target, ChoiceTarget):
            options[len(record.target.options)] += 1
            right[clean(record.target.letter.upper())] += 1
            offered.update(_letters(record.target))
        elif isinstance(record.target, NumberTarget):
            kind = clean(record.meta.question_type or "number")
            numbers.setdefault(kind, []).append(record.target.value)
        done()
    order = [task for task in TASKS if task in tasks]
    return {
        "records": len(records),
        "tasks": {task: tasks[task].records for task in order},
        **{name: _ranked(counts) for name, counts in places.items()},
        "scenes": {"count": len(scenes), "records": spread(list(scenes.values()), (0, 50, 100))},
        "frames": {task: spread(tasks[task].frames, (0, 50, 100)) for task in order},
        "prompt_characters": {task: spread(tasks[task].prompts, (0, 50, 95, 100)) for task in order},
        "answer_characters": {task: spread(tasks[task].answers, (0, 50, 95, 100)) for task in order},
        "boxes": {task: _boxes_document(boxes[task]) for task in order if task in boxes},
        "choices": {
            "options": {str(count): options[count] for count in sorted(options)},
            "letters": {
                letter: {"right": right[letter], "offered": offered[letter]} for letter in sorted({*right, *offered})
            },
        },
        "numbers": {kind: {"n": len(v), **spread(v, (0, 5, 50, 95, 100))} for kind, v in sorted(numbers.items())},
    }


def spread(values: Sequence[float], percents: Sequence[int]) -> dict[str, float | None]:
    """Quantiles by name, linear between neighbours; None of nothing.

    >>> spread([1, 2, 3, 4], (0, 50, 100)), spread([], (50,))
    ({'min': 1, 'median': 2.5, 'max': 4}, {'median': None})
    """
    names = {0: "min", 50: "median", 100: "max"}
    if not len(values):
        return {names.get(p, f"p{p}"): None for p in percents}
    found = {names.get(p, f"p{p}"): float(np.percentile(values, p)) for p in percents}
    return {name: int(value) if value.is_integer() else value for name, value in found.items()}


def _answer_length(record: Record) -> list[int]:
    try:
        return [len(target_answer(record))]
    except DataError:  # text without references: nothing is taught
        return []


def _count_places(record: Record, places: dict[str, Counter[str]], scenes: Counter[tuple[str, str]]) -> None:
    meta = record.meta
    for name, value in (("datasets", meta.dataset), ("splits", meta.split), ("question_types", meta.question_type)):
        if value is not None:
            places[name][clean(value)] += 1
    if meta.scene is not None:
        scenes[(meta.dataset or "", meta.scene)] += 1


def _count_boxes(record: Record, out: _Boxes) -> None:
    views = views_of(record)
    labels = [clean(label) for label in views.boxes.labels]
    out.per_record.append(len(labels))
    out.sizes.extend(views.boxes.sizes)
    out.classes.update(labels)
    out.class_records.update(set(labels))
    found: Sight = sight(views)
    if found.known.any():
        out.located += len(labels)
        out.in_own += int(found.seen[views.own].sum()) if views.own < views.frames else 0
        out.in_any += int(found.seen.any(axis=0).sum())
        out.behind += int((~found.ahead.any(axis=0)).sum())
        if any(found.trouble(box) for box in range(len(labels))):
            out.nowhere.append(record.id)
    overlap = world_overlap(record, views)
    if overlap is not None:
        out.disagree_known += 1
        if not overlap >= WORLD_AGREES:
            out.disagree.append(record.id)


def _boxes_document(found: _Boxes) -> dict[str, Any]:
    sizes = np.array(found.sizes).reshape(-1, 3)
    volumes = sizes.prod(axis=1)

    def share(part: int) -> float | None:
        return part / found.located if found.located else None

    document: dict[str, Any] = {
        "n": len(sizes),
        "per_record": spread(found.per_record, (0, 50, 100)),
        "size": {axis: spread(list(sizes[:, i]), (5, 50, 95)) for i, axis in enumerate(AXES)}
        | {"volume": spread(list(volumes), (5, 50, 95))},
        "with_camera": found.located,
        "in_own_frame": share(found.in_own),
        "in_any_frame": share(found.in_any),
        "behind_every_camera": share(found.behind),
        "records_with_unseen_boxes": len(found.nowhere),
        "first_with_unseen_boxes": found.nowhere[:5],
        "classes": {
            label: {"n": count, "records": found.class_records[label]}
            for label, count in _ranked(found.classes).items()
        },
    }
    if found.disagree_known:
        document["world_box_disagrees"] = len(found.disagree)
        document["first_that_disagree"] = found.disagree[:5]
    return document


def _letters(target: ChoiceTarget) -> list[str]:
    return sorted(option_letters(target.options))


def _ranked(counts: Counter[str]) -> dict[str, int]:
    """The commonest first, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# ---- As people read it


def tables(found: dict[str, Any], most: int = 20) -> list[tuple[str, Table]]:
    """The document of :func:`statistics` as titled tables, each with its head first.

    Args:
        found: The document.
        most: Rows of classes that are listed.
    """
    tasks = list(found["tasks"])
    out: list[tuple[str, Table]] = [
        (
            _many(found["records"], "record"),
            [
                (
                    "task",
                    "records",
                    "frames",
                    "prompt, characters (min / median / 95 % / max)",
                    "answer, likewise",
                ),
                *(
                    (
                        task,
                        f"{found['tasks'][task]:,}",
                        _range(found["frames"][task]),
                        _range(found["prompt_characters"][task]),
                        _range(found["answer_characters"][task]),
                    )
                    for task in tasks
                ),
            ],
        )
    ]
    where = [("data set", found["datasets"]), ("split", found["splits"]), ("question type", found["question_types"])]
    rows = [(name, value, f"{count:,}") for name, counts in where for value, count in counts.items()]
    if found["scenes"]["count"]:
        rows.append(("scenes", f"{found['scenes']['count']:,}", f"{_range(found['scenes']['records'])} each"))
    if rows:
        out.append(("where they come from", [("", "", "records"), *rows]))
    for task, boxes in found["boxes"].items():
        out.extend(_box_tables(task, boxes, most))
    if found["choices"]["letters"]:
        out.append(_choice_table(found["choices"]))
    if found["numbers"]:
        names = ("n", "min", "p5", "median", "p95", "max")
        rows = [(kind, *(number(row[name]) for name in names)) for kind, row in found["numbers"].items()]
        out.append(("numbers", [("asked for", "n", "min", "5 %", "median", "95 %", "max"), *rows]))
    return out


def _choice_table(choices: dict[str, Any]) -> tuple[str, Table]:
    letters = choices["letters"]
    total = sum(row["right"] for row in letters.values())
    counts = ", ".join(f"{count} options: {_many(n, 'record')}" for count, n in choices["options"].items())
    rows: Table = [
        (letter, f"{row['right']:,}", _percent(row["right"] / total), f"{row['offered']:,}")
        for letter, row in letters.items()
    ]
    return f"choices ({counts})", [("letter", "right", "share", "offered"), *rows]


def _box_tables(task: str, boxes: dict[str, Any], most: int) -> Iterable[tuple[str, Table]]:
    own = "first frame" if task == "detection" else "target frame"
    rows = [
        ("boxes", f"{boxes['n']:,}"),
        ("a record", _range(boxes["per_record"])),
        (f"in the {own}", _percent(boxes["in_own_frame"])),
        ("in any frame", _percent(boxes["in_any_frame"])),
        ("behind every camera", _percent(boxes["behind_every_camera"])),
    ]
    if boxes["first_with_unseen_boxes"]:
        first = clean(boxes["first_with_unseen_boxes"][0])
        rows.append(("records with a box in no frame", f"{boxes['records_with_unseen_boxes']:,}, first {first}"))
    if "world_box_disagrees" in boxes:
        text = f"{boxes['world_box_disagrees']:,}"
        if boxes["first_that_disagree"]:
            text += f", first {clean(boxes['first_that_disagree'][0])}"
        rows.append(("bbox_world is another box", text))
    yield f"{task} boxes", [("", ""), *rows]
    sizes = [(name, *(number(row[key]) for key in ("p5", "median", "p95"))) for name, row in boxes["size"].items()]
    units = {"volume": "volume, m³"}
    yield (
        f"{task} box sizes",
        [
            ("", "5 %", "median", "95 %"),
            *((units.get(name, f"{name}, m"), *rest) for name, *rest in sizes),
        ],
    )
    classes = list(boxes["classes"].items())
    rows3 = [(label[:40], f"{row['n']:,}", f"{row['records']:,}") for label, row in classes[:most]]
    if len(classes) > most:
        left = sum(row["n"] for _, row in classes[most:])
        rows3.append((f"{len(classes) - most:,} more", f"{left:,}", ""))
    yield f"{task} classes: {len(classes):,}", [("class", "boxes", "records"), *rows3]


def _range(values: dict[str, float | None]) -> str:
    """Quantiles from the least to the greatest, as they are named.

    >>> _range({"min": 1, "median": 2.5, "max": 4}), _range({"min": 4, "median": 4, "max": 4})
    ('1 / 2.5 / 4', '4')
    """
    found = [number(value) for value in values.values()]
    return found[0] if len(set(found)) == 1 else " / ".join(found)


def number(value: float | None) -> str:
    """A number in a table.

    >>> number(0.12345), number(1234), number(12.5), number(None), number(15.0)
    ('0.123', '1,234', '12.5', '–', '15')
    """
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
