"""What ``rft3d headroom`` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rft3d_cli import console

MANY = 0.05
"""Share of answers without an end, or without a readable one, from which a warning is due."""

LABELS = {
    "greedy": "greedy",
    "sampled": "sampled, mean of {n}",
    "best": "best of {n} (knows the truth)",
    "luck": "best of {n} answers to another prompt",
    "threshold": "confident boxes only",
    "mbr": "minimum Bayes risk of {n}",
    "median": "median of {n}",
}


def warn(document: Mapping[str, Any]) -> None:
    """Say what makes the numbers those of something else than the model's skill."""
    for task, summary in document["tasks"].items():
        groups = summary["groups"]
        if groups["cut"] >= MANY:
            limit = document["decoding"]["max_tokens"]
            console.warn(f"{task}: {groups['cut']:.0%} of samples are cut at {limit:,} tokens: raise --max-tokens")
        if groups["unreadable"] >= MANY:
            console.warn(f"{task}: {groups['unreadable']:.0%} of samples are unreadable: warm up by SFT first")


def show(document: Mapping[str, Any]) -> None:
    """Tables for people: ways to an answer, what GRPO would see, and what both mean."""

    def say(text: str) -> None:
        console.out().print(text, markup=False)

    parts = dict(document["tasks"])
    if len(parts) > 1:
        parts["all"] = document["all"]
    for name, summary in parts.items():
        size = f"{count(summary['n'], 'record')} of {count(summary['scenes'], 'scene')}"
        say(f"{name}: {size}, {_worth(document, name)}")
        rows = []
        for rule, row in summary["rules"].items():
            rows.append((LABELS[rule].format(n=summary["group"]), f"{row['mean']:.3f}", _gain(row)))
        console.columns([("answer", "score", "over greedy"), *rows], numbers=True)
        say("")
    say("what GRPO would see")
    head = ("task", "one reward", "all 0", "all full", "one text", f"std < {document['std_floor']:g}", "mean std")
    shares = ("equal", "all_zero", "all_full", "one_text", "below_floor")
    rows = []
    for name, summary in parts.items():
        groups = summary["groups"]
        said = [f"{groups[key]:.1%}" for key in shares]
        rows.append((name, *said, f"{groups['std']:.3f}", f"{groups['unreadable']:.1%}", f"{groups['cut']:.1%}"))
    console.columns([(*head, "unreadable", "cut"), *rows], numbers=True)
    say("")
    if document["threshold"] is not None:
        say(f"the threshold was tuned on {_tuned(document['threshold'])}; ± is one standard error over scenes")
    else:
        say("± is one standard error over scenes")
    show_verdicts(document)


def show_verdicts(document: Mapping[str, Any]) -> None:
    """What the numbers mean, in a line a task, and of several tasks for all."""
    parts = dict(document["tasks"])
    if len(parts) > 1:
        parts["all"] = document["all"]
    for name, summary in parts.items():
        console.out().print(f"{name}: {summary['verdict']}", markup=False)


def _gain(row: Mapping[str, float]) -> str:
    """What a rule adds to greedy; without an error where one scene gives none."""
    if "over_greedy" not in row:
        return ""
    return f"{row['over_greedy']:+.3f}" + ("" if math.isnan(row["error"]) else f" ± {row['error']:.3f}")


def _worth(document: Mapping[str, Any], task: str) -> str:
    from rft3d_cli.rewards.own import OWN

    if document["score"] == "recipe":
        return f"reward of {document['recipe']}"
    return OWN.get(task, "own scores") if document["score"] == "own" else " + ".join(document["weights"])


def _tuned(threshold: Mapping[str, Any]) -> str:
    if threshold["file"] is not None:
        return str(threshold["file"])
    return f"one half of the {threshold['by'].rpartition(' ')[2]} for the other, and the other way round"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
