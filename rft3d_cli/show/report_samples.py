"""Answers of a run to look at: the best and the worst of a group, with their boxes on the frames."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.records import Clip, Record, RecordFile, parse_record, read_lines
from rft3d_cli.show.inspect_look import Look, Pixels, Shown, drawn, look_at
from rft3d_cli.show.report_runs import Run, rows

ROLLOUTS, HELD_OUT = "rollouts.jsonl", "completions.jsonl"
PICTURE = 420
"""Width of a frame, pixels: two stand beside each other."""
LETTERS = 4000
"""Of an answer, after which it is cut."""
_UP = 4
"""How many folders above a run's its files are looked for."""


@dataclass(frozen=True)
class Answer:
    """One answer to a record.

    Args:
        title: What it is among the others.
        text: What the model wrote.
        scores: Its rewards by name, where they were kept.
        why: What is wrong with it, where that was kept.
        frames: Pictures with the target's boxes and its own, and what each is.
    """

    title: str
    text: str
    scores: dict[str, float] = field(default_factory=dict)
    why: str = ""
    frames: tuple[tuple[Pixels, str], ...] = ()


@dataclass(frozen=True)
class Sample:
    """Answers to one record.

    Args:
        id: The record's.
        task: The record's; empty where it is not known.
        about: When they were given, and among which others.
        answers: Two of them, or one.
        prompt: The record's, where it was found.
        target: The record, looked at, where it was found.
        notes: What could not be shown.
    """

    id: str
    task: str
    about: str
    answers: tuple[Answer, ...]
    record: Record | None = None
    look: Look | None = None
    frames: tuple[tuple[Pixels, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Group:
    """Answers as they were kept."""

    id: str
    task: str
    step: int
    about: str
    answers: tuple[Answer, ...]
    weight: float


def samples(run: Run, count: int) -> list[Sample]:
    """Answers of a run: groups of its rollouts, or held-out answers at first and at last where no rollouts were kept.

    Args:
        run: The run.
        count: How many records at most.

    Returns:
        In the order of steps. What is not there any more is said in their notes.
    """
    if count < 1:
        return []
    groups = chosen(_groups(rows(run.folder / ROLLOUTS)), count)
    part = "train"
    if not groups:
        groups, part = sorted(_held_out(rows(run.folder / HELD_OUT)), key=lambda g: -g.weight)[:count], "eval"
    files, note = _sources(run, part)
    records = _records(files, {group.id for group in groups})
    return [_sample(run, group, records.get(group.id), note) for group in groups]


def chosen(groups: Sequence[_Group], count: int) -> list[_Group]:
    """Groups spread over the steps, and of each stretch the one whose rewards differ most: it teaches most.

    Places of stretches without any go to the others whose rewards differ most.
    """
    ordered = sorted(groups, key=lambda group: group.step)
    if not ordered:
        return []
    first, last = ordered[0].step, ordered[-1].step
    stretches: dict[int, int] = {}
    for at, group in enumerate(ordered):
        place = min(count - 1, (group.step - first) * count // max(1, last - first))
        if place not in stretches or group.weight > ordered[stretches[place]].weight:
            stretches[place] = at
    taken = set(stretches.values())
    others = sorted((at for at in range(len(ordered)) if at not in taken), key=lambda at: -ordered[at].weight)
    return [ordered[at] for at in sorted([*taken, *others[: count - len(taken)]])]


def _groups(found: Iterable[dict[str, Any]]) -> list[_Group]:
    out = []
    for row in found:
        best, worst, rewards = row.get("best"), row.get("worst"), row.get("rewards")
        if not isinstance(best, dict) or not isinstance(worst, dict) or not isinstance(row.get("step"), int):
            continue
        values = [float(v) for v in rewards if _number(v)] if isinstance(rewards, list) else []
        size = f" of {len(rewards)}" if isinstance(rewards, list) else ""
        answers = tuple(_answer(f"{name}{size}", one) for name, one in (("best", best), ("worst", worst)))
        if len({(one.text, one.title.partition(",")[2]) for one in answers}) == 1:
            answers = (_answer(f"all{size} alike", best),) if len(set(values)) <= 1 else answers
        about = f"step {row['step']:,}"
        if values:
            about += f", {len(values)} completions, rewards {min(values):.2f} to {max(values):.2f}"
        spread = row.get("std")
        weight = float(spread) if isinstance(spread, int | float) and _number(spread) else 0.0
        out.append(_Group(str(row.get("id")), str(row.get("task") or ""), row["step"], about, answers, weight))
    return out


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _answer(title: str, one: dict[str, Any]) -> Answer:
    scores = one.get("scores")
    known = {str(k): float(v) for k, v in scores.items() if _number(v)} if isinstance(scores, dict) else {}
    reward = one.get("reward")
    words = f", reward {float(reward):.2f}" if isinstance(reward, int | float) and _number(reward) else ""
    return Answer(title + words, str(one.get("prediction", "")), known)


def _held_out(found: Iterable[dict[str, Any]]) -> list[_Group]:
    """Records with their first and last answer; heavier where the score changed more."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        if isinstance(row.get("step"), int) and isinstance(row.get("prediction"), str) and _number(row.get("score")):
            by_id.setdefault(str(row.get("id")), []).append(row)
    out = []
    for name, given in by_id.items():
        given.sort(key=lambda row: row["step"])
        ends = [given[0], given[-1]] if given[-1]["step"] > given[0]["step"] else given[:1]
        answers = tuple(
            Answer(f"step {r['step']:,}, score {r['score']:.2f}", r["prediction"], why=str(r.get("why") or ""))
            for r in ends
        )
        change = abs(ends[-1]["score"] - ends[0]["score"])
        out.append(_Group(name, "", ends[0]["step"], f"held out, {len(given)} times", answers, change))
    return out


# Records --------------------------------------------------------------------------------------------------------------


def _sources(run: Run, part: str) -> tuple[list[tuple[Path, Path]], str]:
    """The record files of a run that are still there, each with its media root; and what is wrong with them."""
    data = run.about.get("data")
    entries = data.get(part) if isinstance(data, dict) else None
    names = [str(entry.get("file")) for entry in entries or [] if isinstance(entry, dict)]
    if not names and isinstance(listed := run.recipe.get(f"data.{part}"), list):
        names = [str(name) for name in listed]
    root = run.recipe.get("data.media_root")
    found, lost = [], []
    for name in names:
        path = _located(name, run.folder)
        if path is None:
            lost.append(name)
        else:
            media = _located(str(root), run.folder) if root else None
            found.append((path, media or (Path(str(root)) if root else path.parent)))
    if not names:
        return found, "the run's folder does not say where its records are"
    return found, f"{lost[0]} is not there any more" if lost else ""


def _located(name: str, folder: Path) -> Path | None:
    """A path that a run was given, from here or from a folder above the run's: nobody notes where a run was started."""
    for base in (Path(), *folder.resolve().parents[:_UP]):
        if (path := base / name).exists():
            return path
    return None


def _records(files: Sequence[tuple[Path, Path]], ids: set[str]) -> dict[str, tuple[Record, RecordFile]]:
    """The records of some ids; the files may hold many more, which are passed over unread."""
    found: dict[str, tuple[Record, RecordFile]] = {}
    marks = {
        form for name in ids for form in (name, json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1])
    }
    for path, media in files:
        source = RecordFile(path, media, [])
        try:
            for _, line in read_lines(path):
                if len(found) == len(ids):
                    return found
                if not any(mark in line for mark in marks):
                    continue
                try:
                    record = parse_record(line)
                except ValueError:
                    continue
                if record.id in ids:
                    found.setdefault(record.id, (record, source))
        except DataError:
            continue
    return found


def _sample(run: Run, group: _Group, found: tuple[Record, RecordFile] | None, note: str) -> Sample:
    if found is None:
        why = note or "its record is not in the run's files any more"
        return Sample(group.id, group.task, group.about, group.answers, notes=(f"text only: {why}",))
    record, source = found
    record = _as_trained(record, run)
    looks = [look_at(record, source, answer.text) for answer in group.answers]
    notes = tuple(dict.fromkeys(f"text only: {look.lost}" for look in looks if look.lost))
    if record.task in ("detection", "grounding"):
        answers = tuple(_with_frames(a, look) for a, look in zip(group.answers, looks, strict=True))
        return Sample(group.id, record.task, group.about, answers, record, looks[0], notes=notes)
    few = [frame for frame in looks[0].frames[:: max(1, len(looks[0].frames) // 3)] if frame.picture is not None][:3]
    return Sample(group.id, record.task, group.about, group.answers, record, looks[0], _pictures(few), notes)


def _as_trained(record: Record, run: Run) -> Record:
    """The record with the recipe's number of frames, where its video is one file."""
    count = str(run.recipe.get("video.frames") or "")
    if isinstance(record.video, Clip) and count.isdigit() and int(count):
        return record.model_copy(update={"video": record.video.model_copy(update={"frames": int(count)})})
    return record


def _with_frames(answer: Answer, look: Look) -> Answer:
    """The answer with the frame that shows most of its boxes and the target's; for grounding, the frames of both."""
    usable = [frame for frame in look.frames if frame.picture is not None]
    if look.record.task == "grounding":
        said = look.said.views.own if look.said is not None else look.views.own
        frames = [frame for frame in usable if frame.number in (look.views.own, said)]
    else:
        frames = sorted(usable, key=lambda frame: (-_boxes(frame), frame.number))[:1]
    # Without boxes of its own an answer's frame still shows the target as beside answers: green.
    frames = [frame if frame.said is not None else replace(frame, said=Boxes3D([])) for frame in frames]
    why = answer.why or (look.said.why if look.said is not None else "")
    return Answer(answer.title, answer.text, answer.scores, why, _pictures(frames))


def _boxes(frame: Shown) -> int:
    return len(frame.boxes or ()) + len(frame.said or ())


def _pictures(frames: Iterable[Shown]) -> tuple[tuple[Pixels, str], ...]:
    out = []
    for frame in frames:
        if (pixels := drawn(frame, PICTURE)) is not None:
            whose = ", the target's" if frame.own and frame.boxes else ""
            out.append((pixels, f"frame {frame.number}{whose}"))
    return tuple(out)
