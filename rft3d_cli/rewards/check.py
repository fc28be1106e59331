"""What rewards say of answers whose worth is known: the target itself, and the target made worse step by step.

A reward that does not give its own target 1 teaches something else than the metric, and one that does not fall as the
answer gets worse teaches nothing. Both show here before a day of training does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from rft3d_cli.answers import detection_answer, grounding_answer, option_letters
from rft3d_cli.answers.target import exact_answer, in_style, target_answer
from rft3d_cli.geometry.boxes import Floats, angles_from_rotation, rotation_from_angles
from rft3d_cli.records import ChoiceTarget, DetectionTarget, GroundingTarget, NumberTarget, Record
from rft3d_cli.rewards.registry import RewardSet

TARGET = "target"
"""The variant that must score 1."""
TAUGHT = "as taught"
"""The record's own answer: what rounding leaves of the target."""
SHUFFLED, DOUBLED, NEAR = "shuffled", "each box twice", "a copy 1 cm beside each"
NEEDLESS, NOTHING, EMPTY, OTHER = "a needless box", "an empty list", "empty text", "another letter"
MOVED = {f"moved {cm} cm": cm / 100 for cm in (1, 5, 20, 50)}
"""Metres by which all centres move, each box in a direction of its own."""
TURNED = {f"turned {degrees}°": degrees for degrees in (1, 5, 15, 45)}
"""Degrees by which all boxes turn, each about an axis of its own."""
OFF = {f"off by {percent}%": percent / 100 for percent in (1, 5, 20, 50)}
"""Relative errors of numbers, up or down."""
VARIANTS = (TARGET, TAUGHT, SHUFFLED, DOUBLED, NEAR, NEEDLESS, *MOVED, *TURNED, *OFF, OTHER, NOTHING, EMPTY)
"""All variants, in the order in which they are shown."""
FAR = 100.0
"""Metres between a needless box and the first target."""
UNJUDGED = frozenset({"length"})
"""Rewards that may give a target less than 1: a long answer is long however right it is."""


@dataclass(frozen=True)
class Failure:
    """A target that a reward gives something else than 1.

    Args:
        id: The record's.
        reward: The reward's name.
        value: What it gave.
        why: What it said.
    """

    id: str
    reward: str
    value: float
    why: str


@dataclass(frozen=True)
class Row:
    """What one reward says of one kind of answer to one task's records.

    Args:
        task: The records'.
        variant: The kind of answer, one of :data:`VARIANTS`.
        reward: The reward's name.
        values: One a record.
        judged: Whether the reward must give targets 1.
    """

    task: str
    variant: str
    reward: str
    values: list[float]
    judged: bool

    @property
    def mean(self) -> float:
        """Over the records."""
        return sum(self.values) / len(self.values)


@dataclass(frozen=True)
class Check:
    """What a check found.

    Args:
        tasks: Records that some reward applies to, by task.
        skipped: Records that none applies to.
        rows: By task, then in the order of :data:`VARIANTS` and of the rewards.
        failures: Targets that are not worth 1.
    """

    tasks: dict[str, int]
    skipped: int
    rows: list[Row]
    failures: list[Failure]

    def mean(self, variant: str, reward: str) -> float | None:
        """The mean over all records that have this variant and this reward; None where none has.

        >>> Check({"choice": 2}, 0, [Row("choice", EMPTY, "accuracy", [0.0, 1.0], True)], []).mean(EMPTY, "accuracy")
        0.5
        """
        values = [v for row in self.rows if (row.variant, row.reward) == (variant, reward) for v in row.values]
        return sum(values) / len(values) if values else None

    def ceiling(self, task: str) -> dict[str, float]:
        """Reward → the mean of the answers as taught: what a model reaches that says exactly those.

        >>> Check({"detection": 1}, 0, [Row("detection", TAUGHT, "det_iou", [0.97], True)], []).ceiling("detection")
        {'det_iou': 0.97}
        """
        rows = [row for row in self.rows if (row.task, row.variant) == (task, TAUGHT)]
        return {row.reward: row.mean for row in rows if row.judged}


def check(
    records: Sequence[Record],
    rewards: RewardSet,
    *,
    sample: int = 500,
    seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> Check:
    """Score every target against itself, and worse answers to an evenly spaced sample of the records.

    Args:
        records: Of any tasks.
        rewards: The rewards, with their options.
        sample: Records to make worse answers of, shared among the tasks.
        seed: Of the ways in which answers get worse.
        done: Called once a record.

    Returns:
        The scores by task, kind of answer and reward, and the targets that do not score 1.

    Raises:
        Rft3dError: Where a user's reward fails.

    >>> from rft3d_cli.examples import example_record
    >>> found = check([example_record("detection")], RewardSet({"det_iou": 1, "det_f1": 1}))
    >>> [round(found.mean(variant, "det_f1"), 2) for variant in ("target", "moved 20 cm", "empty text")]
    [1.0, 1.0, 0.0]
    >>> found.failures
    []
    """
    values: dict[tuple[str, str, str], list[float]] = {}
    failures: list[Failure] = []
    tasks: dict[str, int] = {}
    skipped = 0
    worse = _sampled(records, sample)
    style = rewards.option("format", "answer_style")
    for index, record in enumerate(records):
        rng = np.random.default_rng([seed, index])
        applied = False
        answers = list(variants(record, rng) if index in worse else variants_of_target(record))
        # What is taught stays as it is: a warm-up that teaches another form than rewards ask for must show.
        said = [(text if variant == TAUGHT else in_style(text, record, style), record) for variant, text in answers]
        for (variant, _), scores in zip(answers, rewards.score_all(said), strict=True):
            for name, score in scores.items():
                applied = True
                values.setdefault((record.task, variant, name), []).append(score.value)
                if variant == TARGET and judged(rewards, name) and score.value != 1:
                    failures.append(Failure(record.id, name, score.value, score.why))
        if applied:
            tasks[record.task] = tasks.get(record.task, 0) + 1
        else:
            skipped += 1
        done()
    orders = [{name: i for i, name in enumerate(order)} for order in (tasks, VARIANTS, rewards.rewards)]
    keys = sorted(values, key=lambda key: [order[part] for order, part in zip(orders, key, strict=True)])
    return Check(tasks, skipped, [Row(*key, values[key], judged(rewards, key[2])) for key in keys], failures)


def judged(rewards: RewardSet, name: str) -> bool:
    """Whether a reward must give targets 1: those that ship must, except for the length of an answer.

    >>> judged(RewardSet({"length": 1, "det_f1": 1}), "length")
    False
    """
    return name not in UNJUDGED and rewards.rewards[name].path is None


def _sampled(records: Sequence[Record], count: int) -> set[int]:
    """Indices of ``count`` records or fewer, evenly spaced within each task and shared among the tasks."""
    own: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        own.setdefault(record.task, []).append(index)
    chosen: set[int] = set()
    # The smallest first: what a task does not need is left to the larger ones.
    for done, indices in enumerate(sorted(own.values(), key=len)):
        share = min(len(indices), max((count - len(chosen)) // (len(own) - done), 1))
        chosen |= {indices[i * len(indices) // share] for i in range(share)}
    return chosen


def variants_of_target(record: Record) -> Iterator[tuple[str, str]]:
    """The target at full precision and as it is taught, by name; of a record of free text only the latter.

    Raises:
        DataError: For a box or a number that cannot be written.

    >>> from rft3d_cli.examples import example_record
    >>> list(variants_of_target(example_record("number")))
    [('target', '2.5'), ('as taught', '2.5')]
    """
    if record.task != "text":
        yield TARGET, exact_answer(record)
    if record.answer is not None or record.task != "text" or getattr(record.target, "references", None):
        yield TAUGHT, target_answer(record)


def variants(record: Record, rng: Generator) -> Iterator[tuple[str, str]]:
    """Answers to a record by name, from the target itself to worse ones; which there are depends on the task.

    Args:
        record: Of any task.
        rng: Of directions, signs, orders and letters.

    Yields:
        The kind of answer, and its text.

    >>> from rft3d_cli.examples import example_record
    >>> list(variants(example_record("choice"), np.random.default_rng(0)))[2:]
    [('another letter', 'A'), ('empty text', '')]
    """
    yield from variants_of_target(record)
    target = record.target
    if isinstance(target, DetectionTarget):
        labels = [box.label for box in target.boxes]
        boxes = np.array([box.bbox_3d for box in target.boxes], dtype=np.float64).reshape(-1, 9)
        for name, changed in _worse(boxes, rng) if labels else ():
            yield name, detection_answer(labels, changed.tolist(), None)
        if labels:
            order = rng.permutation(len(labels)).tolist()
            yield SHUFFLED, detection_answer([labels[i] for i in order], boxes[order].tolist(), None)
            yield DOUBLED, detection_answer(labels * 2, np.concatenate([boxes, boxes]).tolist(), None)
            near = boxes + np.array([0.01, *[0.0] * 8])
            yield NEAR, detection_answer(labels * 2, np.concatenate([boxes, near]).tolist(), None)
            far = boxes[:1] + np.array([FAR, *[0.0] * 8])
            yield NEEDLESS, detection_answer([*labels, labels[0]], np.concatenate([boxes, far]).tolist(), None)
        yield NOTHING, "[]"
    elif isinstance(target, GroundingTarget):
        for name, changed in _worse(np.array([target.bbox_3d], dtype=np.float64), rng):
            yield name, grounding_answer(target.frame, changed[0].tolist(), None)
    elif isinstance(target, NumberTarget):
        for name, share in OFF.items() if target.value else ():
            sign = 1 if rng.random() < 0.5 else -1
            yield name, f"{target.value * (1 + sign * share):.12g}"
    elif isinstance(target, ChoiceTarget):
        others = [letter for letter in option_letters(target.options) if letter != target.letter.upper()]
        if others:
            yield OTHER, others[int(rng.integers(len(others)))]
    yield EMPTY, ""


def _worse(boxes: Floats, rng: Generator) -> Iterator[tuple[str, Floats]]:
    """Boxes ``(N, 9)`` moved and turned, further and further in the same directions."""
    ways, axes = (_directions(len(boxes), rng) for _ in range(2))
    for name, metres in MOVED.items():
        moved = boxes.copy()
        moved[:, :3] += metres * ways
        yield name, moved
    for name, degrees in TURNED.items():
        turned = boxes.copy()
        turn = _rotations(np.radians(degrees) * axes)
        turned[:, 6:9] = angles_from_rotation(turn @ rotation_from_angles(boxes[:, 6:9]))
        yield name, turned


def _directions(count: int, rng: Generator) -> Floats:
    """``(count, 3)`` unit vectors, uniform on the sphere."""
    vectors = rng.normal(size=(count, 3))
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _rotations(vectors: Floats) -> Floats:
    """Rotation matrices ``(N, 3, 3)`` of rotation vectors ``(N, 3)``, radians."""
    from scipy.spatial.transform import Rotation

    matrices: Floats = Rotation.from_rotvec(vectors).as_matrix()
    return matrices
