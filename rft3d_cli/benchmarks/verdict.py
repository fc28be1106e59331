"""What the measurements of ``headroom`` mean for a run of GRPO: means with their errors, and one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.benchmarks.headroom import FREE, RULES, Measured
from rft3d_cli.benchmarks.result import sum_by_scene
from rft3d_cli.geometry.boxes import Floats

EQUAL = 1e-8
"""Rewards that lie no further apart give no gradient, as training counts them."""

SURE = 2.0
"""Standard errors beyond which a difference is taken for one."""

LITTLE = 0.05
"""Share of a perfect answer's worth up to which a gain is too small to train for."""

NEARLY_ALL = 0.95
"""Share of groups with one reward each from which there is next to nothing to learn from."""

NAMES = {"threshold": "a confidence threshold", "mbr": "minimum Bayes risk", "median": "the median"}


def standard_error(values: Floats, scenes: NDArray[np.int64]) -> float:
    """The standard error of a mean over records, those of one scene taken as one draw.

    Args:
        values: ``(N,)``, one a record: a difference between two rules, so that what makes records differ cancels.
        scenes: ``(N,)`` scene numbers.

    Returns:
        NaN with fewer than two scenes.

    >>> round(standard_error(np.array([0.0, 1.0, 0.0, 1.0]), np.arange(4)), 4)
    0.2887
    >>> standard_error(np.array([0.0, 1.0]), np.zeros(2, np.int64))
    nan
    """
    _, index = np.unique(scenes, return_inverse=True)
    count = int(index.max(initial=-1)) + 1
    if count < 2:
        return math.nan
    sums = sum_by_scene(values - values.mean(), index, count)
    return float(np.sqrt((sums**2).sum() * count / (count - 1)) / len(values))


def summarise(measured: Sequence[Measured], std_floor: float) -> dict[str, Any]:
    """Means of one task's records, or of all.

    Args:
        measured: One record at least.
        std_floor: Standard deviations below it are counted: training takes them for this.

    Returns:
        ``n``, ``scenes``, ``group``, ``full`` (what a perfect answer is worth); ``rules`` (those that every record
        has): ``mean``, and but for greedy ``over_greedy`` with its standard ``error``; ``groups``, as shares of
        records: ``equal`` (one reward for all samples), of these ``all_zero`` and ``all_full``, ``below_floor``,
        ``one_text``; ``std``, the mean spread of a group; and as shares of samples ``unreadable`` and ``cut``.

    >>> from rft3d_cli.benchmarks.headroom import Replies, measure
    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.models.predict import Answer
    >>> from rft3d_cli.rewards.own import own_rewards
    >>> said = Replies(example_record("choice"), Answer("A"), [Answer("B"), Answer("A")])
    >>> found = summarise(measure([said], own_rewards())[0], 0.02)
    >>> found["rules"]["best"]["over_greedy"], found["groups"]["equal"]
    (1.0, 0.0)
    """
    scenes = np.array([one.scene for one in measured])
    columns = {
        rule: np.array([one.scores[rule] for one in measured])
        for rule in RULES
        if all(rule in one.scores for one in measured)
    }
    rules: dict[str, dict[str, float]] = {}
    for rule, values in columns.items():
        rules[rule] = {"mean": float(values.mean())}
        if rule != "greedy":
            gain = values - columns["greedy"]
            rules[rule] |= {"over_greedy": float(gain.mean()), "error": standard_error(gain, scenes)}
    gain = columns["best"] - columns["luck"] if "luck" in columns else None
    if gain is not None:
        rules["best"] |= {"over_luck": float(gain.mean()), "over_luck_error": standard_error(gain, scenes)}
    std = np.array([one.std for one in measured])
    samples = sum(len(one.rewards) for one in measured)

    def share(holds: Callable[[Measured], bool]) -> float:
        return sum(map(holds, measured)) / len(measured)

    return {
        "n": len(measured),
        "scenes": len(set(scenes.tolist())),
        "group": len(measured[0].rewards),
        "full": sum(one.full for one in measured) / len(measured),
        "rules": rules,
        "groups": {
            "equal": float((std < EQUAL).mean()),
            "all_zero": share(lambda one: one.std < EQUAL and max(one.rewards) <= EQUAL),
            "all_full": share(lambda one: min(one.rewards) >= one.full - EQUAL),
            "below_floor": float((std < std_floor).mean()),
            "one_text": share(lambda one: one.texts == 1),
            "std": float(std.mean()),
            "unreadable": sum(one.unreadable for one in measured) / samples,
            "cut": sum(one.cut for one in measured) / samples,
        },
    }


def verdict(summary: Mapping[str, Any]) -> str:
    """Whether RL has room, and what comes without it.

    Args:
        summary: From :func:`summarise`.

    Returns:
        One line. Differences count beyond :data:`SURE` standard errors.

    >>> groups = {"equal": 0.17, "all_zero": 0.1, "all_full": 0.05, "one_text": 0.02}
    >>> rules = {"best": {"over_greedy": 0.21, "error": 0.01}, "mbr": {"over_greedy": 0.01, "error": 0.01}}
    >>> verdict({"scenes": 40, "group": 8, "full": 1.0, "groups": groups, "rules": rules})
    'sampled groups differ in 83% of prompts; best of 8 is +0.21 ± 0.01 above greedy: RL has room'
    """
    best, groups, count = summary["rules"]["best"], summary["groups"], summary["group"]
    if groups["equal"] >= NEARLY_ALL:
        why = _why(groups) + ("; seen in one scene only" if summary["scenes"] < 2 else "")
        return f"sampled groups have one reward each in {groups['equal']:.0%} of prompts: GRPO has no gradient{why}"
    if summary["scenes"] < 2:
        return "one scene is too few to tell"
    gain, error = best["over_greedy"], best["error"]
    if gain + SURE * error <= LITTLE * summary["full"]:
        return f"greedy already equals best of {count}, or nearly ({_amount(gain, error)}): RL has no room" + _free(
            summary
        )
    room = f"best of {count} is {_amount(gain, error)} above greedy"
    if gain <= SURE * error:
        return f"{room}: too few records to tell" + _free(summary)
    if "over_luck" in best and best["over_luck"] <= SURE * best["over_luck_error"]:
        luck = _amount(best["over_luck"], best["over_luck_error"])
        return f"{room}, but only {luck} above {count} answers to other prompts: that may be luck" + _free(summary)
    return f"sampled groups differ in {1 - groups['equal']:.0%} of prompts; {room}: RL has room" + _free(summary)


def _why(groups: Mapping[str, float]) -> str:
    """What most of the groups without a gradient have in common."""
    if groups["all_full"] > groups["equal"] / 2:
        return ", the samples are right as they are"
    if groups["one_text"] > groups["equal"] / 2:
        return ", the samples are the same text (a higher temperature?)"
    if groups["all_zero"] > groups["equal"] / 2:
        return ", all samples score 0 (more SFT first?)"
    return ""


def _free(summary: Mapping[str, Any]) -> str:
    """What the best rule gives without training, where it gives anything."""
    known = [(summary["rules"][rule], rule) for rule in FREE if rule in summary["rules"]]
    sure = [(row["over_greedy"], row["error"], rule) for row, rule in known if row["over_greedy"] > SURE * row["error"]]
    if not sure:
        return ""
    gain, error, rule = max(sure)
    return f"; {NAMES[rule]} gives {_amount(gain, error)} of it without training"


def _amount(gain: float, error: float) -> str:
    return f"{gain:+.2f} ± {error:.2f}"
