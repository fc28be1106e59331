"""Rewards by name, from files, as weighted sets, and in TRL's form."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import math
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

from rft3d_cli.errors import DataError, Rft3dError, UsageError
from rft3d_cli.records import Record, parse_record
from rft3d_cli.rewards._docstring import split_docstring

BUILT_IN = ("detection", "format", "grounding", "reasoning")
"""The modules of this package that register rewards; imported when the first name is looked up."""

REWARD_TASKS = ("all", "detection", "grounding", "choice", "number")

TOGETHER = 64
"""Answers whose common work is done at once: enough for large calls, few enough to be remembered."""

Answers = Sequence[tuple[str, Record]]
"""Completions, each beside its record."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward says of one completion.

    Args:
        value: From 0 to 1.
        parts: Named numbers for logs.
        why: One line for a person; empty where there is nothing to say.
    """

    value: float
    parts: dict[str, float] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Reward:
    """A reward and where it comes from.

    Args:
        name: As recipes write it; for a reward in a file ``path/to/file.py:function``.
        task: The task whose records it scores, or ``all``.
        function: ``f(text, record, **options) -> Score | float | None``.
        path: The user's file, for a reward that is not built in.
        sha256: Of that file, as it was run.
        prepare: Called with many answers before each of them is scored, to do at once what costs less so, and to
            remember it. It changes no score.
    """

    name: str
    task: str
    function: Callable[..., Any]
    path: Path | None = None
    sha256: str | None = None
    prepare: Callable[[Answers], None] | None = None

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return self.text.partition("\n")[0]

    @property
    def text(self) -> str:
        """What the function's docstring says of it, without arguments and examples."""
        return split_docstring(inspect.getdoc(self.function) or "")[0]

    @property
    def option_texts(self) -> dict[str, str]:
        """What the docstring says of each option; empty where it says nothing."""
        said = split_docstring(inspect.getdoc(self.function) or "")[1]
        return {name: said.get(name, "") for name in self.options}

    @property
    def notice(self) -> str:
        """What to tell a person whose file's code runs; empty for a reward that ships."""
        if self.path is None:
            return ""
        return f"  running code from {self.path} (sha256 {(self.sha256 or '')[:12]}) as reward {self.name}"

    @property
    def options(self) -> dict[str, Any]:
        """Its keyword-only options and their defaults; None for one that a user's reward gives no default."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def __call__(self, text: str, record: Record, **options: Any) -> Score | None:
        """Score one completion.

        Args:
            text: The completion.
            record: Its record.
            **options: Some of :attr:`options`.

        Returns:
            None where the reward does not apply to the record.

        Raises:
            Rft3dError: Where a user's reward raises or returns something that is not a finite number.

        >>> from rft3d_cli.examples import example_record
        >>> get("accuracy")("A", example_record("choice"))
        Score(value=0.0, parts={}, why='A, not B')
        """
        if self.path is None:
            score: Score | None = self.function(text, record, **options)
            return score
        try:
            result = self.function(text, record, **options)
        except (Exception, SystemExit) as error:
            problem = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise Rft3dError(f"reward {self.name} failed on record {record.id}: {problem}") from error
        try:
            return _plain_score(result)
        except (TypeError, ValueError, OverflowError):
            hint = "a reward returns a Score of finite numbers, a number, or None where it does not apply"
            raise Rft3dError(f"reward {self.name} returned {result!r:.200} on record {record.id}", hint) from None


def _plain_score(result: Any) -> Score | None:
    """What a user's reward returned, with Python's own numbers and text that can be written.

    Raises:
        TypeError: Where it is no score.
        ValueError: On a number that is not finite.
        OverflowError: On a number that no float can hold.
    """
    if result is None:
        return None
    score = result if isinstance(result, Score) else Score(_finite(result))
    parts = {str(name): _finite(value) for name, value in score.parts.items()} if score.parts else {}
    return Score(_finite(score.value), parts, str(score.why).encode("utf-8", "replace").decode("utf-8"))


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError
    if not math.isfinite(number := float(value)):
        raise ValueError
    return number


_registered: dict[str, Reward] = {}


def reward(
    name: str, task: str = "all", *, prepare: Callable[[Answers], None] | None = None
) -> Callable[[Function], Function]:
    """Register the decorated function as a reward.

    Args:
        name: How recipes name it.
        task: The task whose records it scores, or ``all``; it returns None for the others itself.
        prepare: See :class:`Reward`.

    Returns:
        The decorator; it leaves the function as it is.

    Raises:
        ValueError: On an unknown task or a name that is taken.

    >>> @reward("brief", task="letters")
    ... def brief(text, record):
    ...     return Score(float(len(text) < 80))
    Traceback (most recent call last):
    ValueError: task 'letters' is not one of all, detection, grounding, choice, number
    """
    if task not in REWARD_TASKS:
        raise ValueError(f"task {task!r} is not one of {', '.join(REWARD_TASKS)}")

    def register(function: Function) -> Function:
        known = _registered.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(f"reward {name!r} is already defined in {known.function.__module__}")
        _registered[name] = Reward(name, task, function, prepare=prepare)
        return function

    return register


def _all() -> dict[str, Reward]:
    for module in BUILT_IN:
        importlib.import_module(f"rft3d_cli.rewards.{module}")
    return _registered


def names(task: str | None = None) -> list[str]:
    """The names of the registered rewards, sorted; with ``task``, of those that score its records.

    >>> names("choice")
    ['accuracy', 'format', 'length']
    """
    return sorted(name for name, item in _all().items() if task is None or item.task in (task, "all"))


def get(name: str) -> Reward:
    """A reward by its name, or from a user's file where the name reads ``path/to/file.py:function``.

    Raises:
        UsageError: On an unknown name; the hint names the nearest one.

    >>> get("mra").summary
    'Mean relative accuracy of a numeric answer, strict ``<`` as in the 3D-RFT paper.'
    >>> get("det_f2")
    Traceback (most recent call last):
    rft3d_cli.errors.UsageError: unknown reward 'det_f2'
    """
    if ":" in name:
        return load(name)
    known = _all()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(names())}"
        raise UsageError(f"unknown reward {name!r}", hint)
    return known[name]


def load(spec: str) -> Reward:
    """A reward from a user's own file. This runs the file.

    Args:
        spec: ``path/to/file.py:function``.

    Returns:
        The reward, with the file's path and the SHA-256 of the bytes that were run.

    Raises:
        UsageError: Where the file or the function is missing, or the file does not run.

    >>> import tempfile
    >>> from rft3d_cli.examples import example_record
    >>> with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
    ...     _ = file.write("def brief(text, record): return float(len(text) < 80)")
    ...     file.flush()
    ...     load(f"{file.name}:brief")("two", example_record("number")).value
    1.0
    """
    place, _, function_name = spec.rpartition(":")
    path = Path(place)
    hint = "a reward in a file is named path/to/file.py:function"
    if not place.endswith(".py") or not function_name.isidentifier():
        raise UsageError(f"{spec!r} does not name a reward", hint)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"reward file {path} cannot be read: {error.strerror}", hint) from None
    digest = hashlib.sha256(source).hexdigest()
    module = types.ModuleType(f"rft3d_reward_{digest[:16]}")
    module.__file__ = str(path)
    before = dict(_all())
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        # The one place where a file that we read runs: the user named it. Compiled from the hashed bytes, not
        # imported, so that what runs is what the hash says.
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        problem = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UsageError(f"reward file {path} does not run: {problem}") from error
    finally:
        # A file may decorate its functions; that names their task, but must not replace or add names here.
        decorated = {item.function: item.task for key, item in _registered.items() if before.get(key) is not item}
        _registered.clear()
        _registered.update(before)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"reward file {path} has no function {function_name}", hint)
    return Reward(spec, decorated.get(function, "all"), function, path, digest)


class RewardSet:
    """Weighted rewards; each record is scored by those of its own task.

    Args:
        weights: Reward name → weight. Weight 0 makes a reward a logged metric.
        options: ``format`` says how the format reward counts: ``add`` (one term of the sum) or ``gate`` (the sum of
            the others times it). Any other key is a keyword option of the rewards that have it
            (``iou_threshold``), or the name of a reward with a mapping of its own options
            (``length: {full: 1024, zero: 2048}``).

    Raises:
        UsageError: On an unknown reward or option, or a weight that is not a finite number.

    >>> rewards = RewardSet({"format": 1.0, "det_f1": 1.0}, {"iou_threshold": 0.5})
    >>> rewards.total({"format": Score(1.0), "det_f1": Score(0.25)})
    1.25
    """

    def __init__(self, weights: Mapping[str, float], options: Mapping[str, Any] | None = None) -> None:
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise UsageError(f"the weight of reward {name} is {weight!r}, not a finite number")
        rest = dict(options or {})
        self.format = rest.pop("format", "add")
        if self.format not in ("add", "gate"):
            raise UsageError(f"reward option format is {self.format!r}", "it is add or gate")
        self.weights = {name: float(weight) for name, weight in weights.items()}
        self.rewards = {name: get(name) for name in self.weights}
        if self.format == "gate" and "format" not in self.rewards:
            self.rewards = {"format": get("format"), **self.rewards}
        self._options = {name: _own_options(item, rest) for name, item in self.rewards.items()}
        # One set of options serves recipes with any choice of rewards: known to the registry is good enough.
        known = {option for item in (*_all().values(), *self.rewards.values()) for option in (item.name, *item.options)}
        if unknown := sorted(rest.keys() - known):
            near = difflib.get_close_matches(unknown[0], known, n=1)
            raise UsageError(f"unknown reward option {unknown[0]!r}", f"did you mean {near[0]}?" if near else None)

    def option(self, name: str, option: str) -> Any:
        """The value that an option of one of these rewards has; None where there is no such reward or option.

        >>> RewardSet({"det_f1": 1}, {"iou_threshold": 0.5}).option("det_f1", "iou_threshold")
        0.5
        """
        if name not in self.rewards:
            return None
        return {**self.rewards[name].options, **self._options[name]}.get(option)

    def score(self, text: str, record: Record) -> dict[str, Score]:
        """Score one completion.

        Args:
            text: The completion.
            record: Its record.

        Returns:
            Name → score of the rewards that apply to the record, in the order of the weights.

        Raises:
            Rft3dError: Where a user's reward fails.

        >>> from rft3d_cli.examples import example_record
        >>> scores = RewardSet({"mra": 1, "det_f1": 1}).score("3 m", example_record("number"))
        >>> {name: score.value for name, score in scores.items()}
        {'mra': 0.6}
        """
        out = {}
        for name, item in self.rewards.items():
            score = item(text, record, **self._options[name])
            if score is not None:
                out[name] = score
        return out

    def score_all(self, answers: Answers) -> Iterator[dict[str, Score]]:
        """Score many completions, as :meth:`score` would each by itself, and several times as fast.

        Args:
            answers: Texts beside their records.

        Yields:
            The scores of one answer after another.

        Raises:
            Rft3dError: Where a user's reward fails.

        >>> from rft3d_cli.examples import example_record
        >>> group = [(text, example_record("number")) for text in ("2.5", "3", "a few")]
        >>> [scores["mra"].value for scores in RewardSet({"mra": 1}).score_all(group)]
        [1.0, 0.6, 0.0]
        """
        for text, record in _prepared(self.rewards.values(), answers):
            yield self.score(text, record)

    def total(self, scores: Mapping[str, Score]) -> float:
        """The weighted sum of scores; see ``format`` for the two ways in which the format reward counts.

        >>> scores = {"format": Score(0.0), "mra": Score(0.6)}
        >>> RewardSet({"format": 1, "mra": 1}).total(scores)
        0.6
        >>> RewardSet({"format": 1, "mra": 1}, {"format": "gate"}).total(scores)
        0.0
        """
        if self.format == "add":
            return sum(self.weights.get(name, 0.0) * score.value for name, score in scores.items())
        rest = sum(self.weights[name] * score.value for name, score in scores.items() if name != "format")
        return rest * scores["format"].value if "format" in scores else rest


def _prepared(rewards: Iterable[Reward], answers: Answers) -> Iterator[tuple[str, Record]]:
    """The answers, one after another, with what they share already done."""
    shared = [item for item in dict.fromkeys(one.prepare for one in rewards) if item is not None]
    for start in range(0, len(answers), TOGETHER):
        block = answers[start : start + TOGETHER]
        for prepare in shared:
            prepare(block)
        yield from block


def _own_options(item: Reward, options: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: options[name] for name in item.options if name in options and name != item.name}
    nested = options.get(item.name)
    if nested is not None and not isinstance(nested, Mapping):
        raise UsageError(f"the options of reward {item.name} are {nested!r}, not names with values")
    if nested is not None:
        if unknown := sorted(nested.keys() - item.options.keys()):
            takes = ", ".join(item.options) or "none"
            raise UsageError(f"reward {item.name} has no option {unknown[0]!r}", f"its options: {takes}")
        own |= nested
    return own


def as_trl(name: str | Reward, **options: Any) -> Callable[..., list[float | None]]:
    """A reward in TRL's form.

    Args:
        name: A registered name, ``path/to/file.py:function``, or a :class:`Reward`.
        **options: Its options.

    Returns:
        ``f(prompts, completions, completion_ids=None, record=None, **columns)``, a list with one value a completion,
        None where the reward does not apply. Completions are strings or lists of chat messages; ``record`` is the
        data set's column of records, as JSON lines or :class:`~rft3d_cli.records.Record` objects. Where TRL passes
        ``log_metric``, the batch means of the score's parts are logged as ``name/part``.

    Raises:
        UsageError: On an unknown reward or option.
        DataError: From the function itself, where the records do not fit the completions.

    >>> from rft3d_cli.examples import example_record
    >>> as_trl("mra")(completions=["2.5", "3"], record=[example_record("number")] * 2)
    [1.0, 0.6]
    """
    item = name if isinstance(name, Reward) else get(name)
    if unknown := sorted(options.keys() - item.options.keys()):
        raise UsageError(f"reward {item.name} has no option {unknown[0]!r}", f"its options: {', '.join(item.options)}")

    def function(
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Any] | None = None,
        record: Sequence[str | Record] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        if record is None or len(record) != len(completions):
            raise DataError(
                f"reward {item.name} needs a column `record` with one record a completion",
                "add the records' JSON lines to the data set as a column named record",
            )
        texts = (completion_text(completion) for completion in completions)
        answers = [(text, _as_record(one)) for text, one in zip(texts, record, strict=True)]
        scores = [item(*answer, **options) for answer in _prepared([item], answers)]
        log_metric = columns.get("log_metric")
        if callable(log_metric):
            for part, mean in _part_means(scores).items():
                log_metric(f"{item.name}/{part}", mean)
        return [None if score is None else score.value for score in scores]

    # TRL names its logged columns after the function.
    function.__name__ = function.__qualname__ = item.name.rpartition(":")[2]
    return function


def completion_text(completion: Any) -> str:
    """The text of a completion: a string, one chat message, or a list of them (the assistant's last counts).

    >>> completion_text([{"role": "assistant", "content": [{"type": "text", "text": "B"}]}])
    'B'
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Mapping):
        content = completion.get("content", completion.get("text"))
        return completion_text(content) if content is not None else ""
    if not isinstance(completion, Sequence):
        return ""
    messages = [part for part in completion if isinstance(part, Mapping)]
    if any("role" in part for part in messages):
        spoken = [part for part in messages if part.get("role") == "assistant"]
        return completion_text(spoken[-1]) if spoken else ""
    return "".join(completion_text(part) for part in completion)


def _part_means(scores: Sequence[Score | None]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for score in scores:
        for part, value in score.parts.items() if score is not None else ():
            values.setdefault(part, []).append(value)
    return {part: sum(items) / len(items) for part, items in values.items()}


def _as_record(value: str | Record) -> Record:
    return value if isinstance(value, Record) else _parsed(value)


@lru_cache(maxsize=4096)
def _parsed(line: str) -> Record:
    try:
        return parse_record(line)
    except ValueError as error:
        raise DataError(f"column `record`: {error}", "it holds one record's JSON line a row") from None
