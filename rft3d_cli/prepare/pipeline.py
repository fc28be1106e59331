"""What every ``prepare`` shares: work in parallel, quarantine, records in order, the card.

The parts of a data set (one a scene) are worked on by several processes and arrive in their order, so the files are
the same with any number of workers. A part that cannot be used is counted and its reason kept; media are written
before the records that name them; records appear all at once, at the end.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from rft3d_cli import __version__
from rft3d_cli.errors import DataError, ProblemList, UsageError
from rft3d_cli.files import sha256
from rft3d_cli.prepare.card import write_card
from rft3d_cli.prepare.crew import ordered
from rft3d_cli.prepare.heldout import CHECKED, REASON, HeldOut, synthetic
from rft3d_cli.prepare.unfinished import Part, unfinished
from rft3d_cli.records import DetectionTarget, Record, media_path

Job = TypeVar("Job")

__all__ = ["Part", "Policy", "Quarantine", "Report", "Store", "ordered", "run", "run_part", "share"]

NAMED = 10
"""Parts named one by one where too many are bad."""


class Quarantine(DataError):
    """A part of the data that cannot be used.

    Args:
        reason: A few words that are the same for all parts with this problem, for counting.
        detail: What and where.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Policy:
    """How to work.

    Args:
        workers: Processes.
        stop: Whether the first bad part ends the work.
        max_bad: The largest share of bad parts to accept.
        dry_run: Whether to leave every file as it is.
        resume: Whether to go on from what an interrupted run of the same kind has finished.
        shard: Which share of the parts to work on: ``(2, 4)`` is the second of four.
        limit: How many parts to work on, the first ones, shared out by ``shard``; None for all.
        held_out: Scenes that no train split may have.
    """

    workers: int = 1
    stop: bool = False
    max_bad: float = 0.01
    dry_run: bool = False
    resume: bool = False
    shard: tuple[int, int] = (1, 1)
    limit: int | None = None
    held_out: HeldOut = field(default_factory=HeldOut)


@dataclass(frozen=True)
class Store:
    """Where media lie and how records name them.

    Args:
        folder: The folder of the media.
        prefix: That folder relative to the media root, ``""`` where it is the root.
        write: Whether files may be written.
    """

    folder: Path
    prefix: str = ""
    write: bool = True

    def name(self, relative: str) -> str:
        """How a record names the file ``relative`` to the folder."""
        return f"{self.prefix}/{relative}" if self.prefix else relative


@dataclass
class Report:
    """What was done.

    Args:
        out: The record file.
        records: How many records it holds.
        counts: Numbers for people.
        rejects: Rows of what was left out.
        warnings: Scenes by warning.
        seconds: Wall time.
        media_root: What the records' paths are relative to.
        dry_run: Whether nothing was written.
        digest: SHA-256 of the record file; None in a dry run.
    """

    out: Path
    records: int
    counts: dict[str, Any]
    rejects: list[dict[str, Any]]
    warnings: dict[str, list[str]]
    seconds: float
    media_root: Path
    dry_run: bool
    digest: str | None = None

    @property
    def card(self) -> Path:
        """The card beside the records."""
        return self.out.with_suffix(".card.json")

    @property
    def rejects_file(self) -> Path | None:
        """The rejects beside the records, where there are any."""
        return self.out.with_suffix(".rejects.jsonl") if self.rejects else None


def check_out(out: Path) -> None:
    """Refuse an output that cannot become a record file.

    Raises:
        UsageError: Where it is a folder or does not end in ``.jsonl``.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder", f"name a file: --out {out / 'train.jsonl'}")
    if out.suffix != ".jsonl":
        raise UsageError(f"{out} does not end in .jsonl", f"--out {out.with_suffix('.jsonl')}")


def relative_name(path: Path, root: Path) -> str:
    """``path`` relative to the media root, as records write it; ``""`` for the root itself.

    Raises:
        UsageError: Where it lies outside, or where its name has characters that media paths may not have.
    """
    inside = Path(os.path.relpath(path, root)).as_posix()
    name = "" if inside == "." else inside
    try:
        if name and PurePosixPath(name).parts[0] == "..":
            raise DataError(f"{path} is not inside the media root {root}")
        media_path(root, name)
    except DataError as error:
        raise UsageError(error.message, f"--media-root {path} makes it the media root") from None
    return name


def lies_in(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or inside it, by name: links are not followed."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))  # noqa: PTH100 - resolve() follows links


def is_there(path: Path) -> bool:
    """Whether one finds such a file or folder: not where a folder may not be looked into or no name is so long.

    >>> is_there(Path()), is_there(Path("a" * 999))
    (True, False)
    """
    return os.path.exists(path)  # noqa: PTH110 - Path.exists() raises an error there


def cpu_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - not on Linux


def guarded(
    job: Job,
    work: Callable[[Job], Part],
    name: Callable[[Job], str],
    held_out: HeldOut = HeldOut(allow=True),  # noqa: B008 - frozen
    split: str | None = None,
) -> Part:
    """Do one part's work; a :class:`DataError`, or a file that may not be read, becomes a bad part.

    Records leave the process as text: the parent then has little to do but write them.

    Args:
        job: The part's job.
        work: What to do.
        name: What the part is called.
        held_out: Scenes whose records are left out of a train split.
        split: Where parts are scenes, the split that they are of: one that is held out is not worked on then.
    """
    try:
        if (whose := held_out.source(name(job), split)) is not None:
            part = Part(name(job))
            part.reject("scene", REASON + whose)
            return part
        part = without_held_out(work(job), held_out)
        part.pack()
        return part
    except DataError as error:
        return bad_part(name(job), error)
    except PermissionError as error:
        return bad_part(name(job), DataError(f"{error.filename} cannot be read: {error.strerror}"))


def bad_part(name: str, error: DataError) -> Part:
    """What remains of a part that cannot be used."""
    part = Part(name, bad=1)
    reason = error.reason if isinstance(error, Quarantine) else "unreadable scan"
    part.reject("scene", reason, detail=error.message)
    return part


def without_held_out(part: Part, held_out: HeldOut) -> Part:
    """Leave out the records of scenes that are held out, and take them from the part's numbers."""
    whose = [held_out.of(record.meta, media=record.media) for record in part.records]
    if not any(whose):
        return part
    if part.total == 1 and all(whose):
        # A scene, and nothing of it remains.
        rest = Part(part.name, rejects=part.rejects)
        rest.reject("scene", f"{REASON}{whose[0]}")
        return rest
    for record, name in zip(part.records, whose, strict=True):
        if name is not None:
            part.reject("record", REASON + name, scene=record.meta.scene, id=record.id)
            _uncount(part, record)
    part.records = [record for record, name in zip(part.records, whose, strict=True) if name is None]
    return part


def _uncount(part: Part, record: Record) -> None:
    """Take one record from the numbers by task, question and class."""
    labels = [record.meta.question_type or record.task]
    if isinstance(record.target, DetectionTarget):
        labels = [box.label for box in record.target.boxes]
        if "boxes" in part.counts:
            part.counts["boxes"] -= len(labels)
    for numbers, keys in ((part.counts, (record.task, "questions")), (part.labels, labels)):
        for key in keys:
            if numbers[key] > 0:
                numbers[key] -= 1


def share(jobs: Sequence[Job], policy: Policy) -> Sequence[Job]:
    """The jobs that a policy asks for: of the first few, one share.

    Args:
        jobs: All of them.
        policy: How to work.

    >>> share(range(10), Policy(shard=(2, 3), limit=7))
    range(2, 4)
    """
    jobs = jobs[: policy.limit]
    number, count = policy.shard
    return jobs[len(jobs) * (number - 1) // count : len(jobs) * number // count]


class _Tally:
    def __init__(self, policy: Policy, what: str) -> None:
        self.policy, self.what = policy, what
        self.total = self.bad = self.records = 0
        self.counts: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.rejects: list[dict[str, Any]] = []
        self.warnings: dict[str, list[str]] = {}
        self.scans: list[dict[str, Any]] = []

    def add(self, part: Part, records: int) -> None:
        self.total += part.total
        self.bad += part.bad
        self.records += records
        self.counts += part.counts
        self.labels += part.labels
        self.rejects += part.rejects
        for warning in part.warnings:
            names = self.warnings.setdefault(warning, [])
            if part.name not in names:
                names.append(part.name)
        if part.scan is not None:
            self.scans.append({"scene": part.name, **part.scan})
        if part.bad and self.policy.stop:
            row = part.rejects[0]
            hint = "leave --on-error stop away to quarantine what cannot be used"
            raise DataError(f"{part.name}: {row.get('detail', row['reason'])}", hint)

    def check(self, nothing: str, again: str) -> None:
        """Refuse a result that is empty, or of which too much is bad; ``again`` is an option that saves work."""
        bad = [row for row in self.rejects if "detail" in row]
        problems = [DataError(f"{row['scene']}: {row['reason']}: {row['detail']}") for row in bad[:NAMED]]
        if len(bad) > NAMED:
            problems.append(DataError(f"and {len(bad) - NAMED:,} more"))
        # One share of a data set may well hold nothing.
        if not self.records and self.policy.shard[1] == 1:
            reasons = Counter(row["reason"] for row in self.rejects)
            why = ", ".join(f"{count:,} × {reason}" for reason, count in reasons.most_common())
            if any(reason.startswith(REASON) for reason in reasons):
                nothing = "name scenes of the train split; --allow-evaluation-scenes keeps those that are evaluated on"
            head = DataError(f"nothing to write from {self.total:,} {self.what}" + (f": {why}" if why else ""), nothing)
            raise ProblemList([head, *problems])
        if self.bad > self.policy.max_bad * self.total:
            share = math.ceil(1000 * self.bad / self.total) / 1000
            head = DataError(
                f"{self.bad:,} of {self.total:,} {self.what} cannot be used",
                f"repair them, name the {self.what} to use, or accept this share: {again}--max-bad {share:g}",
            )
            raise ProblemList([head, *problems])


def run(
    jobs: Sequence[Job],
    work: Callable[[Job], Part],
    name: Callable[[Job], str],
    *,
    out: Path,
    media_root: Path,
    command: str,
    options: Mapping[str, Any],
    sources: Iterable[Path],
    policy: Policy,
    what: str = "scenes",
    kinds: str = "classes",
    nothing: str = "see the reasons above",
    done: Callable[[], object] = lambda: None,
) -> Report:
    """Work through the jobs, write the records and their card.

    Args:
        jobs: One a part, in the order of the records.
        work: Module-level function or a partial of one, because processes are spawned.
        name: The name of a job's part, likewise.
        out: The record file.
        media_root: What the records' paths are relative to.
        command: For the card.
        options: The options that shaped the content, for the card.
        sources: Files to name in the card with their hashes.
        policy: How to work.
        what: What the parts are called.
        kinds: What their labels are called.
        nothing: What to try where no record results.
        done: Called once a part.

    Raises:
        DataError: Where nothing, or too little, can be used; nothing is written then but media.
        UsageError: Where the run to resume was another one.
    """
    start = time.monotonic()
    tally = _Tally(policy, what)
    held_out = policy.held_out
    held_out.check()
    sources = [*sources, *held_out.files]
    if held_out.files:
        options = {**options, "held_out": [str(path) for path in held_out.files]}
    if held_out.allow:
        options = {**options, "allow_evaluation_scenes": True}
    if synthetic([*sources, *(value for value in options.values() if isinstance(value, str))]):
        held_out = replace(held_out, published=False)
    jobs = share(jobs, policy)
    if policy.limit is not None:
        options = {**options, "limit": policy.limit}
    if policy.shard[1] > 1:
        options = {**options, "shard": "{}/{}".format(*policy.shard)}
    split = CHECKED if what == "scenes" and options.get("split") == CHECKED else None
    worker = partial(guarded, work=work, name=name, held_out=held_out, split=split)
    if policy.dry_run:
        for part in ordered(jobs, worker, policy.workers):
            tally.add(part, part.size)
            done()
        tally.check(nothing, "")
    else:
        identity = {
            "command": command,
            "rft3d": __version__,
            "options": dict(options),
            "sources": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sources],
            what: [name(job) for job in jobs],
        }
        with unfinished(out, identity, resume=policy.resume) as going:
            for known in going.finished:
                tally.add(known.part, known.records)
                done()
            for part in ordered(jobs[len(going.finished) :], worker, policy.workers):
                tally.add(part, part.size)
                going.add(part)
                done()
            tally.check(nothing, "--resume " if len(jobs) > 1 else "")
            going.finish(out)
    counts: dict[str, Any] = {what: tally.total, "bad": tally.bad, **tally.counts, "records": tally.records}
    if tally.labels:
        counts |= {kinds: len(tally.labels), "labels": dict(sorted(tally.labels.items()))}
    report = Report(out, tally.records, counts, tally.rejects, tally.warnings, 0.0, media_root, policy.dry_run)
    if not policy.dry_run:
        card_counts = {**counts, "warnings": tally.warnings, "scans": tally.scans}
        write_card(out, command=command, options=options, sources=sources, counts=card_counts, rejects=tally.rejects)
        report.digest = sha256(out)
    report.seconds = time.monotonic() - start
    return report


def run_part(part: Part, **settings: Any) -> Report:
    """:func:`run` for a data set of one part that is done already; it takes the same settings."""
    return run([part], _itself, _name, **settings)


def _itself(part: Part) -> Part:
    return part


def _name(part: Part) -> str:
    return part.name
