"""One rollout: what was sampled of which records, what it was paid, and the numbers that are logged of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rft3d_cli.answers import read_boxes, read_choice, read_grounding, read_number
from rft3d_cli.records import ChoiceTarget, Record
from rft3d_cli.rewards.registry import Score

SAME = 1e-8
"""A group whose rewards have a smaller standard deviation teaches nothing."""


@dataclass(frozen=True)
class Sample:
    """One completion.

    Args:
        id: Its record's.
        task: Likewise.
        text: What was said.
        tokens: How long it is.
        clipped: Whether it was cut at the limit.
        readable: Whether it holds an answer of its task's kind.
        reward: The total; NaN where no reward applies.
        scores: Reward name → value, of the rewards that apply.
        parts: ``NAME/PART`` → number.
    """

    id: str
    task: str
    text: str
    tokens: int
    clipped: bool
    readable: bool
    reward: float = math.nan
    scores: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        """Whether a reward paid something that is no number."""
        return bool(self.scores) and not math.isfinite(self.reward)


@dataclass(frozen=True)
class Rollout:
    """The completions that one or several optimiser steps learn from, of all processes.

    Args:
        step: The first of those steps, from 1.
        samples: Groups one after another.
        std: The standard deviation of each group's rewards.
    """

    step: int
    samples: Sequence[Sample]
    std: Sequence[float]

    @property
    def groups(self) -> Iterator[tuple[Sequence[Sample], float]]:
        """Each group and the standard deviation of its rewards."""
        size = len(self.samples) // len(self.std)
        for index, std in enumerate(self.std):
            yield self.samples[index * size : (index + 1) * size], std

    @property
    def ids(self) -> list[str]:
        """The records, each once."""
        return list(dict.fromkeys(sample.id for sample in self.samples))

    @property
    def all_same(self) -> bool:
        """Whether no group tells its completions apart."""
        return max(self.std) < SAME

    @property
    def all_clipped(self) -> bool:
        """Whether every completion was cut at the limit."""
        return all(sample.clipped for sample in self.samples)


@runtime_checkable
class SeesRollouts(Protocol):
    """A callback that is shown every rollout before anything is learnt from it."""

    def on_rollout(self, rollout: Rollout) -> None:
        """Look at a rollout."""


def sample(
    record: Record, text: str, scores: Mapping[str, Score], total: float, *, tokens: int, clipped: bool
) -> Sample:
    """A completion with its scores.

    Args:
        record: What it answers.
        text: What it says.
        scores: Of the rewards that apply.
        total: Their weighted sum.
        tokens: Its length.
        clipped: Whether it was cut.
    """
    parts = {f"{name}/{part}": value for name, score in scores.items() for part, value in score.parts.items()}
    values = {name: score.value for name, score in scores.items()}
    reward = total if scores else math.nan
    return Sample(record.id, record.task, text, tokens, clipped, readable(record, text), reward, values, parts)


def readable(record: Record, text: str) -> bool:
    """Whether a text holds an answer of the kind that the record's task asks for, right or wrong.

    >>> from rft3d_cli.examples import example_record
    >>> readable(example_record("number"), "about 3"), readable(example_record("number"), "a few")
    (True, False)
    """
    if record.task == "detection":
        return read_boxes(text).found
    if record.task == "grounding":
        return read_grounding(text).box is not None
    if isinstance(record.target, ChoiceTarget):
        return read_choice(text, record.target.options).letter is not None
    if record.task == "number":
        return read_number(text).value is not None
    return bool(text.strip())


def rollout_metrics(samples: Sequence[Sample], group: int) -> dict[str, float]:
    """What is logged of a rollout's completions, in all and by task.

    Args:
        samples: Groups one after another, of all processes.
        group: Completions a group.

    Returns:
        ``unreadable``, the share of completions that hold no answer of their task's kind; ``diversity``, the mean over
        groups of the share of distinct texts among the group's. ``reward/TASK``, ``length/TASK`` (tokens),
        ``clipped/TASK``, ``unreadable/TASK``, ``diversity/TASK`` and ``zero_std/TASK`` (the share of groups whose
        rewards are all equal) for the tasks that occur; ``parts/NAME/PART``, means over the completions that have
        them. Rewards that are not there or no numbers are left out of means.

    >>> said = [("A", 1.0), ("A", 1.0), ("B", 0.0), ("", 1.0)]
    >>> samples = [Sample("q", "choice", text, 1, False, bool(text), reward, {"x": reward}) for text, reward in said]
    >>> found = rollout_metrics(samples, 2)
    >>> found["reward/choice"], found["unreadable"], found["diversity"], found["zero_std/choice"]
    (0.75, 0.25, 0.75, 0.5)
    """
    out: dict[str, list[float]] = {}

    def add(name: str, task: str, value: float) -> None:
        for key in (name, f"{name}/{task}") if name in ("unreadable", "diversity") else (f"{name}/{task}",):
            out.setdefault(key, []).append(value)

    for one in samples:
        if math.isfinite(one.reward):
            add("reward", one.task, one.reward)
        add("length", one.task, one.tokens)
        add("clipped", one.task, float(one.clipped))
        add("unreadable", one.task, float(not one.readable))
        for name, value in one.parts.items():
            out.setdefault(f"parts/{name}", []).append(value)
    for start in range(0, len(samples), group):
        members = samples[start : start + group]
        add("diversity", members[0].task, len({one.text for one in members}) / len(members))
        add("zero_std", members[0].task, float(same_rewards([one.reward for one in members])))
    return {name: math.fsum(values) / len(values) for name, values in sorted(out.items())}


def same_rewards(rewards: Sequence[float]) -> bool:
    """Whether a group's rewards leave nothing to tell its completions apart by; NaN counts as absent.

    >>> same_rewards([0.5, 0.5, math.nan]), same_rewards([0.5, 0.501])
    (True, False)
    """
    known = [reward for reward in rewards if math.isfinite(reward)]
    if len(known) < 2:
        return True
    mean = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((reward - mean) ** 2 for reward in known) / (len(known) - 1)) < SAME
