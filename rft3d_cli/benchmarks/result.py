"""What every benchmark's result has: a document, table rows, details, and intervals by scene."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rft3d_cli import __version__
from rft3d_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rft3d_cli.geometry.boxes import Floats
    from rft3d_cli.records import Record

SCORERS = ("official", "robust")
ANSWER_STYLES = ("direct", "think")
ROUNDS = 1000
"""Resamples of an interval."""

_EXAMPLES = 10
_PACKAGES = ("numpy", "scipy", "pydantic", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "av")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a result's table; values in percent, None where there is nothing to average.

    Args:
        name: What is measured, for example a task or a set of classes.
        metric: The name of the number.
        n: How many records it rests on.
        value: The number.
        interval: Its 95 % interval, from resampling scenes.
    """

    name: str
    metric: str
    n: int
    value: float | None
    interval: tuple[float, float] | None = None


@dataclass(slots=True)
class Result:
    """The result of one benchmark.

    Args:
        document: JSON-able, values in percent; see each benchmark's ``score``.
        rows: The same as a table.
        details: One dict a record: ``id``, ``score`` (0…1), ``parts``, ``answer``, ``why``.
    """

    document: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)


def check_options(scorer: str, answer_style: str) -> None:
    """Refuse an unknown scorer or answer style.

    Args:
        scorer: One of :data:`SCORERS`.
        answer_style: One of :data:`ANSWER_STYLES`.

    Raises:
        UsageError: Names the known ones.

    >>> check_options("strict", "direct")
    Traceback (most recent call last):
    rft3d_cli.errors.UsageError: unknown scorer 'strict'
    """
    if scorer not in SCORERS:
        raise UsageError(f"unknown scorer {scorer!r}", f"scorers: {', '.join(SCORERS)}")
    if answer_style not in ANSWER_STYLES:
        raise UsageError(f"unknown answer style {answer_style!r}", f"answer styles: {', '.join(ANSWER_STYLES)}")


def official_text(text: str, answer_style: str) -> str:
    """What the official readers are given: the text, or for ``think`` the answer taken out of its tags.

    Args:
        text: The prediction.
        answer_style: ``direct`` or ``think``.

    Returns:
        Text that UTF-8 can hold; under ``direct`` tags stay in it.

    >>> official_text("<think>A or B?</think><answer>B</answer>", "think")
    'B'
    >>> official_text("<answer>B</answer>", "direct")
    '<answer>B</answer>'
    """
    text = writable(text)
    if answer_style != "think":
        return text
    from rft3d_cli.answers.scan import answer_region

    return answer_region(text).text.strip()


def writable(text: str) -> str:
    r"""The text with what UTF-8 cannot hold (half a surrogate pair) as question marks.

    >>> writable("a \ud83d chair")
    'a ? chair'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def header(
    benchmark: str,
    records: Sequence[Record],
    predictions: Mapping[str, str],
    details: Sequence[Mapping[str, Any]],
    unreadable: Sequence[str],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The part of a document that all benchmarks share: how it was scored, and how much could be read.

    ``missing`` counts records without a prediction and ``unreadable`` predictions without an answer; both score 0.
    ``parse_rate`` is the percentage of records with a readable answer.

    Args:
        benchmark: Its name.
        records: The records that were scored.
        predictions: Record id → text. Ids of no record are counted as ``unknown_ids``.
        details: One dict a record, with ``id`` and ``why``.
        unreadable: Ids of the predictions without an answer, each of a record.
        options: Put in as they are: scorer, answer style and the like.

    Returns:
        ``schema``, ``benchmark``, the options, ``n``, the counts, ``parse_rate`` (None without records), and
        ``unreadable_examples``: the first ten, each with ``id``, the first 120 characters of ``text``, and ``why``.

    >>> from rft3d_cli.examples import example_record
    >>> head = header("scanrefer", [example_record("grounding")], {"another": "A chair."}, [], [], {})
    >>> head["n"], head["missing"], head["unknown_ids"], head["parse_rate"]
    (1, 1, 1, 0.0)
    """
    ids = {record.id for record in records}
    missing = len(ids - predictions.keys())
    why = {detail["id"]: detail["why"] for detail in details} if unreadable else {}
    read = len(records) - missing - len(unreadable)
    return {
        "schema": 1,
        "benchmark": benchmark,
        **options,
        "n": len(records),
        "scenes": len({(r.meta.dataset, r.meta.scene) if r.meta.scene else (None, r.id) for r in records}),
        "missing": missing,
        "unreadable": len(unreadable),
        "unknown_ids": len(predictions.keys() - ids),
        "parse_rate": percent(read / len(records)) if records else None,
        "unreadable_examples": [
            {"id": name, "text": writable(predictions[name][:120]), "why": why[name]} for name in unreadable[:_EXAMPLES]
        ],
    }


def percent(value: float | None) -> float | None:
    """A share as a percentage; None and NaN as None.

    >>> percent(0.25), percent(float("nan"))
    (25.0, None)
    """
    return None if value is None or math.isnan(value) else 100 * float(value)


def scene_index(records: Sequence[Record]) -> tuple[NDArray[np.int64], int]:
    """The scene of each record as a number from 0, and how many scenes there are.

    A record without a scene is a scene of its own. The same scene name in two data sets is two scenes.

    Args:
        records: Records with ``meta.dataset`` and ``meta.scene`` where known.

    Returns:
        ``(N,)`` scene numbers in order of first occurrence, and the count.

    >>> from rft3d_cli.records import Record
    >>> base = {"task": "text", "video": {"path": "a.mp4"}, "prompt": "?"}
    >>> scenes = ("scene0000_00", "scene0000_00", None, None)
    >>> records = [Record.model_validate({**base, "id": i, "meta": {"scene": s}}) for i, s in enumerate(scenes)]
    >>> index, count = scene_index(records)
    >>> index.tolist(), count
    ([0, 0, 1, 2], 3)
    """
    import numpy as np

    seen: dict[tuple[str | None, str], int] = {}
    index = [
        seen.setdefault((record.meta.dataset, record.meta.scene) if record.meta.scene else (None, record.id), len(seen))
        for record in records
    ]
    return np.asarray(index, dtype=np.int64), len(seen)


def sum_by_scene(values: Floats, scenes: NDArray[np.int64], count: int) -> Floats:
    """Sums ``(S, …)`` of per-record values ``(N, …)`` over scenes.

    Args:
        values: ``(N, …)``, in any unit.
        scenes: ``(N,)`` scene numbers below ``count``, from :func:`scene_index`.
        count: How many scenes there are.

    >>> import numpy as np
    >>> sum_by_scene(np.array([1.0, 2.0, 5.0]), np.array([0, 0, 1]), 2).tolist()
    [3.0, 5.0]
    """
    import numpy as np

    out = np.zeros((count, *values.shape[1:]))
    np.add.at(out, scenes, values)
    return out


def scene_draws(count: int, seed: int, rounds: int = ROUNDS) -> Floats:
    """How often each of ``count`` scenes occurs in each resample: ``(rounds, count)``, for ``draws @ sums``.

    Args:
        count: How many scenes there are, and how many each resample draws, with replacement.
        seed: Of the draws: the same seed gives the same ones.
        rounds: How many resamples.

    Raises:
        ZeroDivisionError: On no scenes.

    >>> draws = scene_draws(4, seed=0)
    >>> draws.shape, set(draws.sum(axis=1).tolist())
    ((1000, 4), {4.0})
    """
    import numpy as np

    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    return draws.astype(np.float64)


def interval(samples: Floats) -> tuple[float, float] | None:
    """The 95 % percentile interval of resampled shares, in percent.

    Args:
        samples: ``(rounds,)`` shares (0…1); NaN marks a resample in which nothing was measured.

    Returns:
        The 2.5th and the 97.5th percentile; None where fewer than half of the resamples measured anything.

    >>> import numpy as np
    >>> [round(bound, 6) for bound in interval(np.linspace(0, 1, 1001))]
    [2.5, 97.5]
    >>> interval(np.array([0.5, np.nan, np.nan])) is None
    True
    """
    import numpy as np

    good = samples[~np.isnan(samples)]
    if 2 * len(good) < len(samples) or not len(good):
        return None
    low, high = np.percentile(good, (2.5, 97.5))
    return 100 * float(low), 100 * float(high)


def ratio(numerator: Floats, denominator: Floats, empty: float = math.nan) -> Floats:
    """``numerator / denominator`` with ``empty`` where the denominator is 0.

    Args:
        numerator: ``(…)``.
        denominator: ``(…)``, of a shape that broadcasts.
        empty: The quotient where there is none: NaN for "not measured", 0 as the public detection scorer has it.

    >>> import numpy as np
    >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]), empty=0.0).tolist()
    [0.5, 0.0]
    """
    import numpy as np

    safe = np.where(denominator == 0, 1.0, denominator)
    return np.where(denominator == 0, empty, numerator / safe)


def mean_of_known(values: Floats) -> Floats:
    """The mean over the last axis without NaN; NaN where all of it is NaN.

    Args:
        values: ``(…, K)``.

    Returns:
        ``(…)``.

    >>> import numpy as np
    >>> mean_of_known(np.array([[1.0, 3.0], [4.0, np.nan], [np.nan, np.nan]])).tolist()
    [2.0, 4.0, nan]
    """
    import numpy as np

    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def clean(value: Any) -> Any:
    """The value as plain JSON: NaN and infinities as None, numpy numbers and arrays as Python's.

    Args:
        value: Numbers, text and None, in dicts, lists, tuples and arrays to any depth.

    >>> import numpy as np
    >>> clean({"a": np.float64("nan"), "b": (1, np.int64(2))})
    {'a': None, 'b': [1, 2]}
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def environment() -> dict[str, str]:
    """Versions of rft3d, Python and the packages that numbers may depend on; imports none of them.

    Returns:
        Version by name; a package that is not installed is left out.

    >>> list(environment())[:3]
    ['rft3d', 'python', 'numpy']
    """
    out = {"rft3d": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out
