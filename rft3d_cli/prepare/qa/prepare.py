"""Training questions of the field as records.

A file is read twice, a stretch at a time: first to see of which form it is, which media it needs, which rows say the
same or the opposite of others and where options are to go; then to write records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError

from rft3d_cli.answers.target import in_style
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.prepare.conversations import RowError, checked_row, number_of
from rft3d_cli.prepare.heldout import REASON, HeldOut, synthetic
from rft3d_cli.prepare.pipeline import Part, Policy, Report, Store, is_there, lies_in, relative_name, run
from rft3d_cli.prepare.qa.forms import FORMS, Asked, Form, elsewhere, form_of
from rft3d_cli.prepare.qa.media import pictures_in, video_of
from rft3d_cli.prepare.qa.questions import Question, moved, parse_question, prompt_of
from rft3d_cli.prepare.rowfile import Span, read_span, read_spans
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Meta, Record, describe
from rft3d_cli.samplers import DEFAULT_FRAMES, DEFAULT_SAMPLER, Sampler

MISSING = "missing media"
NAMED = 10
"""Missing files named one by one."""
REPEATED = "repeats an earlier row"
OPPOSED = "same question, other answer"


@dataclass(frozen=True)
class QaSpec:
    """What records are to be like.

    Args:
        form: Of :data:`rft3d_cli.prepare.qa.forms.FORMS`; None reads it from the rows' keys.
        types: Kinds of questions to take, by the set's names or VSI-Bench's; all where empty.
        prompt: ``vsibench`` for the benchmark's words around choices and numbers, ``stored`` for the rows' own.
        answer_style: ``think`` asks for a chain of thought before the answer.
        frames: Frames that are to be taken of a clip or of a folder.
        sampler: How.
        balance: Whether to let options change places, so that each letter is right equally often.
        seed: Of the places.
    """

    form: str | None = None
    types: tuple[str, ...] = ()
    prompt: str = "vsibench"
    answer_style: str = "direct"
    frames: int = DEFAULT_FRAMES
    sampler: Sampler = DEFAULT_SAMPLER
    balance: bool = False
    seed: int = 0


def prepare_qa(
    *,
    file: Path,
    media: Path,
    media_root: Path | None,
    split: Split,
    out: Path,
    spec: QaSpec,
    allow_missing: bool,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write records of a training set's questions.

    Args:
        file: A JSON list of rows, one row a line, or a parquet file.
        media: The folder that the rows' media paths start at.
        media_root: What the records' paths are relative to. By default the record file's folder where ``media`` lies
            in it, else ``media``.
        split: What the split is called.
        out: The record file.
        spec: What records are to be like.
        allow_missing: Whether to leave out rows whose media are missing, instead of raising.
        policy: How to work; its ``limit`` counts rows.
        begin: Called with the number of jobs; returns what to call after each.

    Raises:
        DataError: Where the form cannot be told or media are missing, and see
            :func:`rft3d_cli.prepare.pipeline.run`.
        UsageError: Where options do not fit each other or the file.
    """
    if not media.is_dir():
        raise DataError(f"{media} is not a folder", "name the folder that the rows' paths start at: --media DIR")
    if spec.balance and spec.prompt != "vsibench":
        raise UsageError("--balance-letters moves options, and --prompt stored leaves them where they stand")
    root = media_root or (out.parent if lies_in(media, out.parent) else media)
    store = Store(media, relative_name(media, root), write=False)
    policy.held_out.check()
    # Scenes of synthetic rooms only look like ScanNet's by name.
    held_out = replace(policy.held_out, published=policy.held_out.published and not synthetic([file, media]))
    wanted = _Wanted(spec, split.name, held_out)
    seen = _survey(file, media, wanted, policy.limit)
    unknown = sorted(set(spec.types) - seen.types.keys())
    if unknown and policy.limit is None:  # the first rows need not have every kind
        kinds = ", ".join(sorted(seen.types)) or "none: its rows name no kinds"
        raise UsageError(f"--types: {file} has no {unknown[0]!r}", f"its kinds are {kinds}")
    missing = [name for name, there in seen.media.items() if not there]
    if missing and not allow_missing:
        some = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
        raise DataError(
            f"{len(missing):,} of {len(seen.media):,} media files are missing under {media}: {some}",
            "add them, or leave their rows out: --allow-missing",
        )
    form = seen.form
    context = _Context(file.stem, store, form.name, wanted)
    last = len(seen.spans) - 1
    jobs = [
        _Job(
            file,
            span,
            count,
            {row: seen.left_out[row] for row in range(span.first, span.first + count) if row in seen.left_out},
            {row: seen.places[row] for row in range(span.first, span.first + count) if row in seen.places},
            len(missing) if index == last else 0,
        )
        for index, (span, count) in enumerate(seen.spans)
    ]
    options = {
        "file": str(file),
        "media": str(media),
        "split": split.name,
        "form": {"option": spec.form, "form": form.name},
        "types": list(spec.types),
        "prompt": spec.prompt,
        "answer_style": spec.answer_style,
        "frames": spec.frames,
        "sampler": spec.sampler,
        "balance_letters": {"seed": spec.seed} if spec.balance else None,
        "allow_missing": allow_missing,
        "media_root": str(root),
        **({} if policy.limit is None else {"limit": policy.limit}),
    }
    return run(
        jobs,
        partial(_work, context=context, stop=policy.stop),
        _name,
        out=out,
        media_root=root,
        command="prepare qa",
        options=options,
        sources=[file],
        policy=replace(policy, limit=None),
        what="rows",
        kinds="types",
        nothing="name the file of a training set's questions, and with --media the folder that its paths start at",
        done=begin(len(jobs)),
    )


@dataclass(frozen=True)
class _Wanted:
    """Which rows are to become records."""

    spec: QaSpec
    split: str
    held_out: HeldOut

    def kind(self, asked: Asked, question: Question) -> bool:
        return not self.spec.types or not {*self.spec.types}.isdisjoint(_kinds(asked, question))

    def evaluated(self, asked: Asked) -> str | None:
        """Who evaluates on the row's scene, where it is not to be trained on."""
        return self.held_out.of(Meta(dataset=asked.dataset, scene=asked.scene, split=self.split), media=asked.media)


@dataclass(frozen=True)
class _Context:
    stem: str
    store: Store
    form: str
    wanted: _Wanted


@dataclass(frozen=True)
class _Job:
    file: Path
    span: Span
    count: int
    left_out: Mapping[int, str]
    places: Mapping[int, int]
    missing: int


def _name(job: _Job) -> str:
    return str(job.file)


def _work(job: _Job, context: _Context, stop: bool) -> Part:
    part = Part(str(job.file), total=job.count)
    there: dict[str, bool] = {}
    pictures_in.cache_clear()
    for number, row in enumerate(read_span(job.file, job.span)[: job.count], start=job.span.first):
        try:
            asked = _read(row, FORMS[context.form])
            question = parse_question(asked)
            if not context.wanted.kind(asked, question):
                part.counts["other_types"] += 1
                continue
            if (whose := context.wanted.evaluated(asked)) is not None:
                raise RowError(f"{REASON}{whose}", asked.scene or asked.media[0], bad=False)
            if number in job.left_out:
                reason = job.left_out[number]
                raise RowError(reason, bad=reason != REPEATED)
            if not _look(asked.media, context.store.folder, there):
                raise RowError(MISSING, next(name for name in asked.media if not there[name]), bad=False)
            record = _record(asked, question, number, job.places.get(number), context)
        except RowError as error:
            part.bad += error.bad
            where = {"detail": f"row {number}: {error.why or error.reason}"} if error.bad else {"why": error.why}
            part.reject("row", error.reason, row=number, **where)
            continue
        part.records.append(record)
        part.counts[record.task] += 1
        if record.task == "choice":
            part.counts[f"letter_{record.target.letter}"] += 1  # type: ignore[union-attr]
        part.counts["balanced"] += number in job.places
        part.labels[record.meta.question_type or record.task] += 1
    if stop:
        # The pipeline tells of the first.
        part.rejects.sort(key=lambda reject: "detail" not in reject)
    part.counts["missing_media"] += job.missing
    part.counts = Counter(dict(sorted(part.counts.items())))  # letters stand in their order
    return part


def _read(row: Any, form: Form) -> Asked:
    full = {key: value for key, value in checked_row(row).items() if value is not None}
    if not form.tells(full):
        other = form_of(full)
        raise RowError("another form", f"its keys are of {other.name}" if other else f"no {form.keys}")
    return form.read(full)


def _kinds(asked: Asked, question: Question) -> list[str]:
    return [kind for kind in (asked.type, question.vsibench, asked.family) if kind]


def _record(asked: Asked, question: Question, number: int, place: int | None, context: _Context) -> Record:
    spec = context.wanted.spec
    shown = question if place is None else moved(question, place)
    meta = {
        "dataset": asked.dataset,
        "scene": asked.scene,
        "split": context.wanted.split,
        "question_type": next(iter(_kinds(asked, question)), None),
        "sampler": spec.sampler if asked.clip else None,
        "form": context.form,
        "source_id": asked.source_id,
        "vsibench_type": question.vsibench,
        "unit": question.unit,
        "stored_letter": question.answer if place is not None else None,
    }
    targets: dict[str, dict[str, Any]] = {
        "choice": {"letter": shown.answer, "options": list(shown.options)},
        "number": {"value": float(shown.answer) if shown.task == "number" else None},
        "text": {"references": [shown.answer]},
    }
    prompt = prompt_of(shown, spec.prompt, spec.answer_style, asked.options)
    try:
        "".join([prompt, shown.answer, *shown.options, *map(str, meta.values())]).encode()
        record = Record.model_validate(
            {
                "id": f"{context.stem}/{number}",
                "task": shown.task,
                "video": video_of(asked.media, asked.clip, context.store, spec.frames, spec.sampler),
                "prompt": prompt,
                "answer": shown.answer,
                "target": targets[shown.task],
                "meta": {key: value for key, value in meta.items() if value is not None},
            }
        )
    except ValidationError as error:
        raise RowError("no valid record", describe(error)) from None
    except UnicodeEncodeError:
        raise RowError("no valid record", "half of a surrogate pair") from None
    styled = in_style(shown.answer, record, spec.answer_style)
    return record if styled == record.answer else record.model_copy(update={"answer": styled})


@dataclass
class _Survey:
    """What the first reading finds."""

    form: Form
    media: dict[str, bool] = field(default_factory=dict)
    spans: list[tuple[Span, int]] = field(default_factory=list)
    types: Counter[str] = field(default_factory=Counter)
    left_out: dict[int, str] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)


def _survey(file: Path, media: Path, wanted: _Wanted, limit: int | None) -> _Survey:
    seen: _Survey | None = None
    asked_before: dict[int, tuple[int, int]] = {}
    choices: list[tuple[int, str, int]] = []
    for span, rows in read_spans(file):
        count = span.count if limit is None else min(span.count, limit - span.first)
        if count <= 0:
            break
        seen = seen or _Survey(_form(file, rows, wanted.spec.form))
        seen.spans.append((span, count))
        for number, row in enumerate(rows[:count], start=span.first):
            try:
                asked = _read(row, seen.form)
                question = parse_question(asked)
            except RowError:
                continue  # the second reading says why
            kinds = _kinds(asked, question)
            seen.types.update(kinds)
            if not wanted.kind(asked, question) or wanted.evaluated(asked) is not None:
                continue
            there = _look(asked.media, media, seen.media)
            if not there or _again(seen, asked_before, number, asked, question):
                continue
            if wanted.spec.balance and question.can_move:
                choices.append((number, kinds[0] if kinds else "", len(question.options)))
    if seen is None:
        raise DataError(f"{file} holds no rows")
    seen.places = _deal([choice for choice in choices if choice[0] not in seen.left_out], wanted.spec.seed)
    return seen


def _form(file: Path, rows: Sequence[Any], named: str | None) -> Form:
    """The form of a file: the named one, or that of the first row whose keys tell one."""
    form = next((form for row in rows if (form := form_of(row))), None)
    if named is not None:
        if not any(isinstance(row, dict) and FORMS[named].tells(row) for row in rows):
            what = f"they are of {form.name}: leave --form away" if form else "and of no other form that is known"
            raise DataError(f"--form {named}: the rows of {file} do not have {FORMS[named].keys}", what)
        return FORMS[named]
    if form is not None:
        return form
    if other := next((command for row in rows if (command := elsewhere(row))), None):
        raise DataError(f"the rows of {file} are no training questions of a form that is known", f"{other} reads them")
    first = next((row for row in rows if isinstance(row, dict)), {})
    keys = ", ".join(sorted(map(str, first))[:NAMED]) or "no keys"
    forms = "; ".join(f"{form.name} ({form.keys})" for form in FORMS.values())
    raise DataError(f"the rows of {file} ({keys}) are of no known form", f"the forms are {forms}; --form names one")


def _look(names: tuple[str, ...], folder: Path, known: dict[str, bool]) -> bool:
    """Whether all of a row's media are there, remembering what was looked for."""
    for name in names:
        if name not in known:
            known[name] = is_there(folder / name)
    return all(known[name] for name in names)


def _again(seen: _Survey, before: dict[int, tuple[int, int]], number: int, asked: Asked, question: Question) -> bool:
    """Whether a row asks what an earlier one asked; of two that answer it differently, neither can be trusted."""
    key = hash((asked.media, question.task, question.text, question.options))
    value = number_of(question.answer)
    answer = hash(question.answer if value is None else value)
    if key not in before:
        before[key] = (number, answer)
        return False
    first, said = before[key]
    if said == answer:
        seen.left_out[number] = REPEATED
    elif question.task == "text":
        return False  # free words differ without contradiction
    else:
        seen.left_out[first] = seen.left_out[number] = OPPOSED
    return True


def _deal(choices: Sequence[tuple[int, str, int]], seed: int) -> dict[int, int]:
    """Places of right options, by row: of every kind and number of options, each place equally often.

    Args:
        choices: Row, kind and number of options.
        seed: Of the order of places within each round.
    """
    dealt: dict[tuple[str, int], list[int]] = {}
    rounds: Counter[tuple[str, int]] = Counter()
    out = {}
    for row, kind, size in choices:
        group = (kind, size)
        if not dealt.get(group):
            dealt[group] = Random(f"{seed}/{kind}/{size}/{rounds[group]}").sample(range(size), size)
            rounds[group] += 1
        out[row] = dealt[group].pop()
    return out
