"""Which charts a report has, and what is drawn in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rft3d_cli.show.plot import COLOURS, Chart, Guide, Label, Series
from rft3d_cli.show.plot_axes import number, ticks
from rft3d_cli.show.report_numbers import HELD_OUT, best_of, mean_iou, middle_of, smoothed, thinned
from rft3d_cli.show.report_runs import Curve, Run

CROWD = 4
"""Lines in one chart from which on single values are left out: only their means could still be told apart."""
MANY = 6
"""Rewards of one run in one chart at most."""


@dataclass(frozen=True)
class Section:
    """Charts under one heading, with a sentence on how to read them."""

    title: str
    text: str
    charts: list[Chart]


@dataclass(frozen=True)
class Topic:
    """What belongs in one chart where there is one run: names and keys. Several runs get a chart for each key.

    With ``only_if_any`` a chart of nothing but zeros is left out.
    """

    title: str
    keys: Sequence[tuple[str, str]]
    y: str = ""
    only_if_any: bool = False


TRAINING = (
    Topic("Length of answers", (("mean", "completions/mean_length"), ("longest", "completions/max_length")), "tokens"),
    Topic("Answers cut off at the length limit", (("", "completions/clipped_ratio"),), "share"),
    Topic(
        "Groups that teach nothing",
        (("all rewards equal", "frac_reward_zero_std"), ("spread below the floor", "frac_reward_below_floor")),
        "share",
    ),
    Topic("Answers that cannot be read", (("", "unreadable"),), "share"),
    Topic("Different answers in a group", (("", "diversity"),), "share"),
    Topic("Groups sampled again", (("", "refill/groups"),), "", True),
    Topic("Spread of rewards in a group", (("", "reward_std"),), "standard deviation"),
    Topic("Entropy", (("", "entropy"),), "nats a token"),
    Topic("KL to the reference", (("", "kl"),), "nats a token"),
    Topic("Clipped updates", (("", "clip_ratio/region_mean"),), "share of tokens", True),
    Topic("Loss", (("", "loss"),)),
    Topic("Right tokens", (("", "mean_token_accuracy"),), "share"),
    Topic("Gradient norm, before it is limited", (("", "grad_norm"),)),
    Topic("Learning rate", (("", "learning_rate"),)),
    Topic("Time of a step", (("", "step_time"),), "seconds"),
)
BOXES = (
    Topic(
        "Found, and how well",
        (
            ("F1", "rewards/det_f1/mean"),
            ("mean IoU of boxes", "mean_iou"),
            ("precision", "parts/det_f1/precision"),
            ("recall", "parts/det_f1/recall"),
        ),
    ),
    Topic("Boxes in an answer", (("given", "parts/det_f1/n_pred"), ("in the target", "parts/det_f1/n_target"))),
    Topic("Boxes that cannot be used", (("", "parts/det_f1/dropped"),), "in an answer", True),
)
GROUNDING = (
    Topic("Frames off", (("", "parts/ground_frame/frames_off"),), "frames"),
    Topic("Distance of centres", (("", "parts/ground_near/distance"),), "metres"),
)
BY_TASK = (
    ("Length of answers, by task", "length/", "tokens"),
    ("Answers that cannot be read, by task", "unreadable/", "share"),
    ("Groups that teach nothing, by task", "zero_std/", "share"),
)
"""Titles, what keys begin with before the task, and units."""
KINDS = {"det": "Detection", "ground": "Grounding"}


def sections(runs: Sequence[Run]) -> list[Section]:
    """The charts of some runs; those of which no run has values are left out."""
    found = [
        Section(
            "Rewards",
            "Of the model's own answers to training prompts. Pale: each step; strong: the moving mean.",
            [*_topics(runs, _reward_topics(runs))],
        ),
        Section(
            "Held out",
            "Answers to records that are not trained on. A ring marks the best step, by the metric that keeps models.",
            [*_held_out(runs)],
        ),
        Section(
            "Tighten, then recall",
            "The 3D-RFT paper saw boxes get tighter first and more objects found after that: the path goes up, then to "
            "the right. From the ring (first step) to the dot (last); dashed lines are of equal F1.",
            [*_path(runs), *_topics(runs, BOXES)],
        ),
        Section("Grounding", "Of the boxes and frames that answers name.", [*_topics(runs, GROUNDING)]),
        Section(
            "Training",
            "Pale: each step; strong: the moving mean, for loss, KL, gradient and time the moving median.",
            [*_topics(runs, [*TRAINING, *_task_topics(runs)])],
        ),
    ]
    return [section for section in found if section.charts]


def _curve(run: Run, key: str) -> Curve | None:
    return mean_iou(run) if key == "mean_iou" else run.curve(key)


def _topics(runs: Sequence[Run], topics: Sequence[Topic]) -> Iterator[Chart]:
    for topic in topics:
        curves = {key: [curve for run in runs if (curve := _curve(run, key)) is not None] for _, key in topic.keys}
        known = [(name, key) for name, key in topic.keys if curves[key]]
        if not known or (topic.only_if_any and not any(c.values.any() for found in curves.values() for c in found)):
            continue
        if len(runs) == 1:
            lines = [
                line
                for at, (name, key) in enumerate(known)
                for line in _lines(runs[0], name, key, at, None, len(known))
            ]
            yield Chart(topic.title, lines, y=topic.y)
            continue
        for name, key in known:
            title = f"{topic.title}: {name}" if name and len(topic.keys) > 1 else topic.title
            lines = [line for at, run in enumerate(runs) for line in _lines(run, run.name, key, at, at, len(runs))]
            yield Chart(title, lines, y=topic.y)


def _lines(run: Run, name: str, key: str, colour: int, group: int | None, crowd: int) -> Iterator[Series]:
    """A curve: its values, pale, and their middle."""
    curve = _curve(run, key)
    if curve is None:
        return
    middle = curve if key == "learning_rate" else smoothed(curve, middle_of(key))
    if middle is curve:
        middle = thinned(curve)
    elif crowd < CROWD:
        raw = thinned(curve)
        yield Series("", raw.steps, raw.values, colour, faint=True, group=group)
    yield Series(name, middle.steps, middle.values, colour, group=group)


def _reward_topics(runs: Sequence[Run]) -> list[Topic]:
    keys = list(dict.fromkeys(key for run in runs for key in run.curves))
    tasks = [key for key in keys if key.startswith("reward/")]
    total = [("in all", "reward"), *((key.removeprefix("reward/"), key) for key in tasks if len(tasks) > 1)]
    parts = [key for key in keys if key.startswith("rewards/") and key.endswith("/mean")]
    named = [(key.removeprefix("rewards/").removesuffix("/mean"), key) for key in parts]
    topics = [Topic("Reward", total if len(total) > 1 else [("", "reward")])]
    if len(named) <= MANY:
        return [*topics, Topic("Parts of the reward", named)]
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, key in named:
        groups.setdefault(KINDS.get(name.partition("_")[0], "Other"), []).append((name, key))
    return [*topics, *(Topic(f"{title} rewards", part) for title, part in groups.items())]


def _task_topics(runs: Sequence[Run]) -> Iterator[Topic]:
    """What is logged by task, for runs of several tasks."""
    for title, prefix, unit in BY_TASK:
        keys = dict.fromkeys(key for run in runs for key in run.curves if key.startswith(prefix))
        if len(keys) > 1:
            yield Topic(title, [(key.removeprefix(prefix), key) for key in keys], unit)


def _held_out(runs: Sequence[Run]) -> Iterator[Chart]:
    keys = sorted({key for run in runs for key in run.curves if key.startswith(HELD_OUT)}, key=_rank)
    if len(runs) > 1:
        for key in keys:
            lines = [_dotted(run, run.name, key, at, at) for at, run in enumerate(runs) if key in run.curves]
            labels = [point for at, run in enumerate(runs) for point in _best(run, key, at, at)]
            yield Chart(f"Held-out {_name(key)}", lines, labels=labels)
        return
    run = runs[0]
    apart = [key for key in keys if _name(key) in ("reward", "loss")]
    public = [key for key in keys if _name(key).startswith("official_")]
    shares = [key for key in keys if key not in apart and key not in public]
    for title, own in (("Held-out scores", shares), ("Held-out scores, by the public scorers", public)):
        for at in range(0, len(own), COLOURS):
            part = own[at : at + COLOURS]
            lines = [_dotted(run, _name(key), key, colour, None) for colour, key in enumerate(part)]
            labels = [point for colour, key in enumerate(part) for point in _best(run, key, colour, None)]
            yield Chart(f"{title}, more" if at else title, lines, labels=labels)
    for key in apart:
        yield Chart(f"Held-out {_name(key)}", [_dotted(run, "", key, 0, None)], labels=list(_best(run, key, 0, None)))


def _name(key: str) -> str:
    return key.removeprefix(HELD_OUT)


def _rank(key: str) -> tuple[int, str]:
    """What people look at first comes first."""
    order = ("f1", "precision", "recall", "acc@0.25", "acc@0.5", "mean_iou", "overall", "accuracy", "mra", "score")
    name = _name(key)
    return (order.index(name) if name in order else len(order) + (name in ("reward", "loss"))), name


def _dotted(run: Run, name: str, key: str, colour: int, group: int | None) -> Series:
    curve = thinned(run.curves[key], 60)
    return Series(name, curve.steps, curve.values, colour, dots=True, group=group)


def _best(run: Run, key: str, colour: int, group: int | None) -> Iterator[Label]:
    best = best_of(run)
    if best is not None and f"{HELD_OUT}{best['metric']}" == key:
        words = f"best {number(best['value'])} at {best['step']:,}" if group is None else number(best["value"])
        yield Label(best["step"], best["value"], words, colour, hollow=True, radius=6, group=group)


# Precision against recall ---------------------------------------------------------------------------------------------


def _path(runs: Sequence[Run]) -> Iterator[Chart]:
    lines: list[Series] = []
    labels: list[Label] = []
    for at, run in enumerate(runs):
        group = at if len(runs) > 1 else None
        name = run.name if len(runs) > 1 else "training"
        found = _both(run, "parts/det_f1/recall", "parts/det_f1/precision", smooth=True)
        if found is not None:
            steps, recall, precision = found
            lines.append(Series(name, recall, precision, at, group=group))
            labels += _milestones(steps, recall, precision, at, group)
        held = _both(run, f"{HELD_OUT}recall", f"{HELD_OUT}precision", smooth=False)
        if held is not None and len(runs) == 1:
            steps, recall, precision = held
            lines.append(Series("held out", recall, precision, 1, dots=True, group=group))
            if len(steps) > 1:
                labels.append(Label(recall[0], precision[0], "", 1, hollow=True, radius=5, group=group))
            labels.append(Label(recall[-1], precision[-1], "", 1, radius=5, group=group))
    if not lines:
        return
    yield Chart(
        "Precision against recall", lines, x="recall", y="precision", whole=False, labels=labels, guides=_equal_f1()
    )


def _both(run: Run, first: str, second: str, *, smooth: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Two curves at the steps that both have."""
    a, b = run.curve(first), run.curve(second)
    if a is None or b is None:
        return None
    steps, i, j = np.intersect1d(a.steps, b.steps, return_indices=True)
    if not len(steps):
        return None
    a, b = Curve(steps, a.values[i]), Curve(steps, b.values[j])
    if smooth:
        # A path that turns on itself has to be smoother than a line over time to be followed: two passes.
        a, b = (smoothed(smoothed(curve, share=0.4), share=0.2) for curve in (a, b))
    return a.steps, a.values, b.values


def _milestones(
    steps: np.ndarray, recall: np.ndarray, precision: np.ndarray, colour: int, group: int | None
) -> Iterator[Label]:
    """Points along the path: its ends, and round steps between."""
    if len(steps) > 1:
        first = f"{steps[0]:,.0f}" if group is None else ""
        yield Label(recall[0], precision[0], first, colour, hollow=True, radius=5, group=group)
        inner = ticks(steps[0], steps[-1], 5, whole=True)
        span = steps[-1] - steps[0]
        for step in inner[(inner > steps[0] + 0.1 * span) & (inner < steps[-1] - 0.1 * span)]:
            at = int(np.abs(steps - step).argmin())
            yield Label(recall[at], precision[at], f"{steps[at]:,.0f}" if group is None else "", colour, radius=3,
                        group=group)  # fmt: skip
    yield Label(recall[-1], precision[-1], f"step {steps[-1]:,.0f}", colour, radius=5, group=group)


def _equal_f1() -> list[Guide]:
    out = []
    for tenth in range(1, 10):
        f1 = tenth / 10
        recall = np.linspace(f1 / 2 + 1e-3, 1.0, 400)
        out.append(Guide(f"F1 {f1}", recall, np.minimum(f1 * recall / (2 * recall - f1), 10.0)))
    return out
