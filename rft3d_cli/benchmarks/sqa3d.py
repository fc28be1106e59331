"""SQA3D: the share of answers that are exactly the right one, and that hold it, by the kind of question.

The ``official`` scorer is VG-LLM's ``sqa3d`` task: the first line of the answer and the right answer, both cleaned by
the rules that LEO took from the data set's own code (lower case, other characters left out, the annotators' slips of
the pen mended, digits as words, articles left out before a word), must be equal. ``em_refined`` is LEO's EM-R: one
may also hold the other, white space apart, so ``on`` counts for ``one``. An answer of which nothing is left counts in
neither, though to LEO's code it lies in every right one.

The ``robust`` scorer takes the answer out of its tags, compares words, knows number words up to ninety-nine, leaves out
articles everywhere, and lets one answer hold the other only word by word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from rft3d_cli.answers.scan import answer_region
from rft3d_cli.benchmarks.result import (
    Result,
    Row,
    check_options,
    clean,
    header,
    interval,
    official_text,
    percent,
    ratio,
    scene_draws,
    scene_index,
    sum_by_scene,
    writable,
)
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.prepare.sqa3d_file import DATASET, TYPES
from rft3d_cli.records import Record, TextTarget

METRICS = ("em", "em_refined")

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = dict(zip(map(str, range(21)), (*_SMALL, "twenty"), strict=True)) | {
    "23": "twenty-three",
    "none": "zero",
    "letf": "left",
    "let": "left",
    "rigth": "right",
    "rght": "right",
    "tehre": "there",
    "behine": "behind",
    "chai": "chair",
    "wasing": "washing",
    "waslked": "walked",
    "tv": "TV",
    "oclock": "o'clock",
}
"""What the public scorers put in place of a word."""
_OTHERS = re.compile(r"[^a-zA-Z0-9,'\s\-:]+")
_RUN = re.compile(r"[a-z0-9]+")
_CLOCK = re.compile(r"\bo' +clock\b")
_NUMBERED = re.compile(r"\b([a-zA-Z]+)[0-9]\b")
_ARTICLES = tuple(re.compile(rf"\b{word}\b ([a-zA-Z]+)") for word in ("a", "an", "the"))
_MARKUP = re.compile(r"[*`]+|\\(?:boxed|text)\b")


def is_mine(record: Record) -> bool:
    """Whether a record is one of SQA3D.

    >>> from rft3d_cli.examples import example_record
    >>> is_mine(example_record("text"))
    False
    """
    return record.task == "text" and record.meta.dataset == DATASET


def score(
    records: Sequence[Record],
    predictions: Mapping[str, str],
    *,
    scorer: str = "official",
    answer_style: str = "direct",
    seed: int = 0,
    intervals: bool = True,
) -> Result:
    """Score answers to SQA3D's questions.

    Args:
        records: Text records with the right answers as references, and ``meta.question_type`` where known.
        predictions: Record id → text.
        scorer: ``official`` or ``robust``.
        answer_style: ``think`` takes the answer out of its tags before the official reading; ``robust`` always does.
        seed: Of the intervals.
        intervals: Whether to compute them, by scene.

    Returns:
        In the document, ``overall`` holds ``n``, ``em`` and ``em_refined`` over all questions, ``types`` the same of
        each kind of question (``what``, ``is``, ``how``, ``can``, ``which``, ``others``); a question of another type,
        or of none, is in ``overall`` only.

    Raises:
        UsageError: On an unknown scorer or answer style.
        DataError: On a record without a right answer.

    >>> from rft3d_cli.records import TextTarget
    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("text").model_copy(update={"target": TextTarget(references=["two"])})
    >>> for text in ("2", "Two chairs.", "<answer>2</answer>"):
    ...     results = [score([record], {record.id: text}, scorer=scorer) for scorer in ("official", "robust")]
    ...     print(text, [result.document["overall"]["em"] for result in results])
    2 [100.0, 100.0]
    Two chairs. [0.0, 0.0]
    <answer>2</answer> [0.0, 100.0]
    """
    check_options(scorer, answer_style)
    compare = _robust if scorer == "robust" else _official
    details: list[dict[str, Any]] = []
    unreadable: list[str] = []
    scores = np.zeros((len(records), len(METRICS)))
    for index, record in enumerate(records):
        target = record.target
        if not isinstance(target, TextTarget) or not target.references:
            raise DataError(f"record {record.id} has no right answer", "rft3d prepare sqa3d writes records with them")
        text = predictions.get(record.id)
        answer, why = None, "no prediction"
        if text is not None:
            text = writable(text) if scorer == "robust" else official_text(text, answer_style)
            answer, exact, refined = compare(text, target.references)
            scores[index] = exact, refined
            why = "" if exact else f"{answer[:40]!r}, not {target.references[0][:40]!r}"
            if not answer.strip():
                unreadable.append(record.id)
                answer, why = None, "no answer"
        parts = {"em_refined": float(scores[index, 1])}
        details.append(
            {"id": record.id, "score": float(scores[index, 0]), "parts": parts, "answer": answer, "why": why}
        )
    groups = _groups(records, scores, seed, intervals)
    bounds = {f"{name}.{metric}": found for name, (_, _, known) in groups.items() for metric, found in known.items()}
    numbers = {name: {"n": n, **values} for name, (n, values, _) in groups.items()}
    document = {
        **header(DATASET, records, predictions, details, unreadable, {"scorer": scorer, "answer_style": answer_style}),
        "overall": numbers["overall"],
        "types": {name: numbers[f"types.{name}"] for name in TYPES},
        "intervals": bounds,
        "seed": seed,
    }
    rows = [
        Row(name.removeprefix("types."), metric, n, values[metric], known.get(metric))
        for name, (n, values, known) in groups.items()
        for metric in METRICS
        if n or name == "overall"
    ]
    return Result(clean(document), rows, details)


Bounds = dict[str, tuple[float, float] | None]


def _groups(
    records: Sequence[Record], scores: Floats, seed: int, intervals: bool
) -> dict[str, tuple[int, dict[str, float | None], Bounds]]:
    """Count, means in percent and their intervals of each question type and over all."""
    scenes, count = scene_index(records)
    draws = scene_draws(count, seed) if intervals and count > 1 else None
    kinds = [record.meta.question_type for record in records]
    members = {f"types.{name}": np.array([kind == name for kind in kinds], dtype=bool) for name in TYPES}
    members["overall"] = np.ones(len(records), dtype=bool)
    out = {}
    for name, member in members.items():
        cells = np.column_stack([scores, np.ones(len(records))]) * member[:, None]
        total = cells.sum(axis=0)
        values = {m: percent(float(ratio(total[i], total[-1]))) for i, m in enumerate(METRICS)}
        bounds: Bounds = {}
        if draws is not None and total[-1]:
            drawn = draws @ sum_by_scene(cells, scenes, count)
            bounds = {m: interval(ratio(drawn[:, i], drawn[:, -1])) for i, m in enumerate(METRICS)}
        out[name] = int(total[-1]), values, bounds
    return out


@lru_cache(maxsize=4096)
def cleaned(text: str) -> str:
    """An answer as the public scorers compare it.

    Source: SQA3D's and LEO's ``clean_answer``, whose rules are kept with their oddities: a full stop goes, and the
    space before it stays.

    >>> cleaned(" A  Chair."), cleaned("letf"), cleaned("2 o clock"), cleaned("yes .")
    ('chair', 'left', 'two o clock', 'yes ')
    """
    text = re.sub(" {2,}", " ", text.lower().strip(" "))
    text = _OTHERS.sub("", text)
    # Digits turn into words and slips of the pen into what was meant, both by whole runs of letters and digits.
    text = _CLOCK.sub("o'clock", _RUN.sub(lambda run: _WORDS.get(run[0], run[0]), text))
    text = _NUMBERED.sub(r"\1", text)
    for article in _ARTICLES:
        text = article.sub(r"\1", text)
    return re.sub(r"\bbackwards\b", "backward", text)


def _official(text: str, references: Sequence[str]) -> tuple[str, bool, bool]:
    said = cleaned(text.strip().split("\n")[0])
    right = [cleaned(writable(reference)) for reference in references]
    return said, bool(said) and said in right, _refined(said, right, lambda words: "".join(words.split()))


def _robust(text: str, references: Sequence[str]) -> tuple[str, bool, bool]:
    lines = [line for line in _MARKUP.sub("", answer_region(text).text).splitlines() if line.strip()]
    said = _words(lines[0]) if lines else ""
    right = [_words(writable(reference)) for reference in references]
    return said, bool(said) and said in right, _refined(said, right, lambda words: f" {words} ")


def _refined(said: str, right: Sequence[str], form: Callable[[str], str]) -> bool:
    """Whether the answer holds a right one or lies in it, both in a form."""
    ours = form(said)
    return bool(said.strip()) and any(ours in theirs or theirs in ours for theirs in map(form, right) if theirs.strip())


@lru_cache(maxsize=4096)
def _words(text: str) -> str:
    """An answer's words with spaces between, for the robust scorer.

    >>> _words("There are the 21 chairs!"), _words("At 2 o'clock")
    ('there are twenty one chairs', 'at two oclock')
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("'", "").replace("\u2019", "")
    words = " ".join(_number_words(run) for run in re.findall(r"[^\W_]+", plain))
    words = re.sub(r"\bo clock\b", "oclock", cleaned(words).lower().replace("'", "").replace("-", " "))
    return " ".join(word for word in words.split() if word not in ("a", "an", "the"))


def _number_words(word: str) -> str:
    """Digits from 20 to 99 as words; :func:`cleaned` knows smaller ones."""
    if not re.fullmatch("[2-9][0-9]", word, re.ASCII):
        return word
    tens, ones = divmod(int(word), 10)
    return f"{_TENS[tens - 2]} {_SMALL[ones]}" if ones else _TENS[tens - 2]
