"""Scan2Cap: CIDEr, BLEU-4 and ROUGE-L of captions, where the box asked about meets the object's by an IoU of 0.5.

The ``official`` scorer is VG-LLM's: a caption is taken for empty where the box misses; caption and references are
lower-cased, get spaces around full stops and commas, and ``sos`` and ``eos`` around them; then COCO's metrics
(:mod:`rft3d_cli.benchmarks.captions`). The two extra tokens raise BLEU and ROUGE-L a little. The ``robust`` scorer
takes the answer out of its tags, has no extra tokens, and compares words: letters and digits in lower case, inner
hyphens and decimal points kept, ``'s`` and the like words of their own, punctuation left out, as COCO's tokenizer
nearly does.

METEOR, the benchmark's fourth metric, needs Java and is not computed.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rft3d_cli.answers.scan import answer_region
from rft3d_cli.benchmarks.captions import NGrams, bleu, bleu_counts, cider, rouge_l
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
from rft3d_cli.records import Record, TextTarget

DATASET = "scan2cap"
"""What ``meta.dataset`` of its records says."""
GATES = {"@0.5": 0.5, "@0.25": 0.25, "": 0.0}
"""Least IoU for a caption to count, by the end of a metric's name; plain metrics take every caption."""
METRICS = ("cider", "bleu4", "rouge_l")
NOT_COMPUTED = ("meteor",)

_WORD = re.compile(r"[0-9]++(?:[.,][0-9]++)++|[^\W_]++(?:-[^\W_]++)*+|(?<=[^\W_])'[^\W_]++")
_MARKUP = re.compile(r"[*`]+")


def is_mine(record: Record) -> bool:
    """Whether a record is one of Scan2Cap.

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
    """Score captions.

    Args:
        records: Text records with references. ``meta.iou`` is that of the box asked about with the object's own;
            records without it are about the object's own box.
        predictions: Record id → text. A record without one is scored as an empty caption.
        scorer: ``official`` or ``robust``.
        answer_style: ``think`` takes the caption out of its tags before the official reading; ``robust`` always does.
        seed: Of the intervals.
        intervals: Whether to compute them.

    Returns:
        In the document, ``cider@0.5``, ``bleu4@0.5`` and ``rouge_l@0.5``, the same ``@0.25``, and without an end where
        every caption counts; ``met@0.5`` and ``met@0.25``, the share of boxes that meet; ``references``, how many
        there are; ``without_iou``; and ``not_computed``. CIDEr goes from 0 to 1,000, the others to 100. A record's
        score in the details is its CIDEr at IoU 0.5 by ten, 0 to 1; its parts are those of the caption alone.

        CIDEr weighs words by how rare they are among the references of the records that are scored, so numbers of a
        part of the data are not those of the whole. Intervals resample scenes: counts for BLEU, records' scores for
        the others, CIDEr's with the weights of the whole set.

    Raises:
        UsageError: On an unknown scorer or answer style.
        DataError: On a record without references, or whose IoU is no number.

    >>> from rft3d_cli.records import Meta
    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("text").model_copy(update={"meta": Meta.model_validate({"iou": 0.3})})
    >>> document = score([record], {record.id: "A chair and a table."}).document
    >>> round(document["bleu4"]), round(document["bleu4@0.25"]), round(document["bleu4@0.5"])
    (100, 100, 0)
    """
    check_options(scorer, answer_style)
    robust = scorer == "robust"
    references = [_references(record, robust) for record in records]
    ious = [_iou(record) for record in records]
    details: list[dict[str, Any]] = []
    unreadable: list[str] = []
    said = []
    for record in records:
        text = predictions.get(record.id)
        caption, why = "", "no prediction"
        if text is not None:
            region = answer_region(writable(text))
            caption = (_words(region.text) if robust else official_text(text, answer_style)).strip()
            why = "" if caption else region.why or "no words"
            if not caption:
                unreadable.append(record.id)
        said.append(caption if robust else _official(official_text(text or "", answer_style)))
        details.append({"id": record.id, "score": 0.0, "parts": {}, "answer": caption or None, "why": why})
    numbers = _Numbers(said, references, np.array([1.0 if iou is None else iou for iou in ious]), robust)
    for detail, parts, gated in zip(details, numbers.parts(), numbers.cells["@0.5"][:, 0].tolist(), strict=True):
        detail["parts"], detail["score"] = parts, gated / 10
        if not detail["why"] and parts["iou"] < GATES["@0.5"]:
            detail["why"] = f"IoU {parts['iou']:.3f}: the box misses the object"
    values = numbers.values()
    bounds = numbers.bounds(records, seed) if intervals else {}
    document = {
        **header(DATASET, records, predictions, details, unreadable, {"scorer": scorer, "answer_style": answer_style}),
        **values,
        "references": sum(len(texts) for texts in references),
        "without_iou": sum(iou is None for iou in ious),
        "not_computed": list(NOT_COMPUTED),
        "intervals": bounds,
        "seed": seed,
    }
    rows = [
        Row(f"IoU >= {end[1:]}" if end else "all boxes", name, len(records), values[name + end], bounds.get(name + end))
        for end in GATES
        for name in METRICS
    ]
    return Result(clean(document), rows, details)


class _Numbers:
    """The metrics of all captions at each of :data:`GATES`.

    Args:
        said: Captions, tokenised.
        references: Of each, likewise.
        iou: ``(N,)``.
        robust: Whether an empty caption has no tokens at all.
    """

    def __init__(self, said: Sequence[str], references: Sequence[Sequence[str]], iou: Floats, robust: bool) -> None:
        # An empty caption is scored beside each one that a gate may take for empty.
        missed = np.flatnonzero(iou < max(GATES.values()))
        texts = [*said, *("" if robust else _official("") for _ in missed)]
        items = [*range(len(said)), *missed.tolist()]
        ngrams = NGrams(texts, references, items)
        columns = [cider(ngrams), rouge_l(texts, references, items), np.ones(len(texts))]
        table = np.column_stack([*columns, bleu_counts(ngrams)])
        plain, empty = table[: len(said)], np.zeros((len(said), table.shape[1]))
        empty[missed] = table[len(said) :]
        self.iou = iou
        self.plain = plain
        self.cells = {end: np.where((iou >= gate)[:, None], plain, empty) for end, gate in GATES.items()}
        """``(N, 13)`` by end: CIDEr, ROUGE-L, 1, and the counts of BLEU."""

    def parts(self) -> list[dict[str, float]]:
        """The metrics of each caption, 0 to 1 but CIDEr to 10, and its box's IoU."""
        columns = (self.plain[:, 0], bleu(self.plain[:, 3:])[:, 3], self.plain[:, 1], self.iou)
        names = (*METRICS, "iou")
        return [dict(zip(names, row, strict=True)) for row in np.column_stack(columns).tolist()]

    def values(self) -> dict[str, float | None]:
        """The document's numbers, in percent."""
        out: dict[str, float | None] = {}
        for end in GATES:
            means = _means(self.cells[end].sum(axis=0))
            out |= {name + end: percent(float(value)) for name, value in zip(METRICS, means, strict=True)}
        known = len(self.iou) > 0
        met = {f"met{e}": percent(float((self.iou >= g).mean())) if known else None for e, g in GATES.items() if e}
        return {**out, **met}

    def bounds(self, records: Sequence[Record], seed: int) -> dict[str, tuple[float, float] | None]:
        """Intervals of the numbers, by scene."""
        scenes, count = scene_index(records)
        if count < 2:
            return {}
        draws = scene_draws(count, seed)
        out: dict[str, tuple[float, float] | None] = {}
        for end in GATES:
            drawn = _means(draws @ sum_by_scene(self.cells[end], scenes, count))
            out |= {name + end: interval(drawn[:, column]) for column, name in enumerate(METRICS)}
        return out


def _means(cells: Floats) -> Floats:
    """CIDEr, BLEU-4 and ROUGE-L ``(…, 3)`` from sums ``(…, 13)`` of cells; NaN of none."""
    n = cells[..., 2]
    known = np.where(n > 0, 1.0, np.nan)
    return np.stack([ratio(cells[..., 0], n), bleu(cells[..., 3:])[..., 3] * known, ratio(cells[..., 1], n)], axis=-1)


def _references(record: Record, robust: bool) -> list[str]:
    target = record.target
    if not isinstance(target, TextTarget) or not target.references:
        raise DataError(
            f"record {record.id} has no reference captions", "rft3d prepare scan2cap writes records with them"
        )
    return [_words(writable(text)) if robust else _official(writable(text)) for text in target.references]


def _iou(record: Record) -> float | None:
    value = (record.meta.model_extra or {}).get("iou")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"record {record.id}: meta.iou {value!r} is not a number")
    return float(value)


def _official(text: str) -> str:
    """A text as VG-LLM hands it to COCO's metrics.

    >>> _official("A chair, red.")
    'sos a chair ,  red .  eos'
    """
    return "sos " + text.replace(".", " . ").replace(",", " , ").lower() + " eos"


def _words(text: str) -> str:
    """A text's words with spaces between.

    >>> _words("It's a **two-door** cupboard, 1.5 m high!")
    "it 's a two-door cupboard 1.5 m high"
    """
    plain = unicodedata.normalize("NFKC", _MARKUP.sub("", text)).replace("\u2019", "'").lower()
    return " ".join(_WORD.findall(plain))
