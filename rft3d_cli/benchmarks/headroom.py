"""What RL could gain before it is run: one model's greedy answers, its samples, the best of them, and rules between.

Three questions of one set of answers. What does a model score greedily and sampled, and what would the best of each
group of samples score, which nobody can pick without the truth? What do decoding rules give for free: a threshold on
the confidence of boxes, the minimum-Bayes-risk choice among the samples? And what would GRPO see: how many groups have
one reward for all samples, and so no gradient?
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.benchmarks.consensus import as_truth, median, minimum_risk
from rft3d_cli.benchmarks.result import scene_index
from rft3d_cli.models.confidence import Confident, best_threshold, box_confidence, by_confidence
from rft3d_cli.models.predict import Answer, Decoding, grouped_answers
from rft3d_cli.records import Record
from rft3d_cli.rewards.registry import RewardSet, Score

if TYPE_CHECKING:
    from rft3d_cli.models.inputs import FrameStore

RULES = ("greedy", "sampled", "best", "luck", "threshold", "mbr", "median")
"""Ways to one score a record, in the order in which they are shown.

``sampled`` is the mean of the group and ``best`` its highest score. ``luck`` is the best score of a group that answers
another record: what as many tries earn without looking. The last three pick one answer without the truth.
"""

FREE = ("threshold", "mbr", "median")
"""Rules that anybody can use without training."""

LOGITS = 2**28
"""Logits that are held at once while confidences are worked out: a GiB."""


@dataclass(frozen=True)
class Replies:
    """What a model said to one record.

    Args:
        record: The record.
        greedy: Its greedy answer.
        samples: Its sampled answers.
        confident: The boxes of the greedy answer with their confidence, for detection.
    """

    record: Record
    greedy: Answer
    samples: list[Answer]
    confident: Confident | None = None


@dataclass(frozen=True)
class Measured:
    """One record's scores.

    Args:
        record: The record.
        scene: Its number; records of one scene are not independent.
        scores: By rule of :data:`RULES`; those that do not apply are absent.
        picks: The text that a rule picks, where it picks one.
        rewards: Of the samples.
        full: The reward of a perfect answer.
        unreadable: Samples in which nothing can be read.
        cut: Samples that the token limit ended.
        texts: Different texts among the samples.
    """

    record: Record
    scene: int
    scores: dict[str, float]
    picks: dict[str, str]
    rewards: list[float]
    full: float
    unreadable: int
    cut: int
    texts: int

    @property
    def std(self) -> float:
        """Standard deviation of the group's rewards, as GRPO takes it."""
        return float(np.std(self.rewards, ddof=1)) if len(self.rewards) > 1 else 0.0


def ask(
    model: Any, processor: Any, records: Sequence[Record], store: FrameStore, decoding: Decoding, group: int
) -> Iterator[Replies]:
    """Ask a model for one greedy and several sampled answers to each record.

    Args:
        model: Weights, in evaluation mode.
        processor: Text and pixels to what they take.
        records: What to ask.
        store: Their frames.
        decoding: How; whether it samples does not count.
        group: Sampled answers a record; 0 for none.

    Yields:
        The replies, in the order of the records.

    Raises:
        DataError: Where a frame cannot be read.

    >>> from pathlib import Path
    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.models.inputs import FrameStore
    >>> from rft3d_cli.models.loader import load_speaker
    >>> from rft3d_cli.records import Clip
    >>> record = example_record("number").model_copy(update={"video": Clip(path="room.mp4", frames=2)})
    >>> model, processor = load_speaker("tiny")
    >>> store = FrameStore(Path(__file__).parents[2] / "assets" / "clips", processor)
    >>> [found] = ask(model, processor, [record], store, Decoding(max_tokens=4), 3)
    >>> len(found.samples), found.confident
    (3, None)
    """
    greedily, sampling = replace(decoding, sample=False), replace(decoding, sample=True)
    for start in range(0, len(records), decoding.batch):
        part = records[start : start + decoding.batch]
        greedy = [one for _, (one,) in grouped_answers(model, processor, part, store, greedily, 1)]
        sure = _confidences(model, processor, part, store, greedy)
        drawn = iter(grouped_answers(model, processor, part, store, sampling, group, first=start) if group else ())
        for record, one, confident in zip(part, greedy, sure, strict=True):
            yield Replies(record, one, next(drawn)[1] if group else [], confident)


def _confidences(
    model: Any, processor: Any, records: Sequence[Record], store: FrameStore, greedy: Sequence[Answer]
) -> list[Confident | None]:
    """Confidences of detection answers, in batches that fit; None for other tasks."""
    out: list[Confident | None] = [None] * len(records)
    places = [i for i, record in enumerate(records) if record.task == "detection"]
    tokenizer = processor.tokenizer
    longest = max((len(tokenizer(greedy[i].text)["input_ids"]) for i in places), default=0)
    size = max(1, LOGITS // (len(tokenizer) * (longest + 1)))
    for start in range(0, len(places), size):
        part = places[start : start + size]
        prompts = [store.encode(records[i]) for i in part]
        found = box_confidence(model, processor, prompts, [greedy[i].text for i in part])
        for i, one in zip(part, found, strict=True):
            out[i] = one
    return out


def measure(
    replies: Sequence[Replies], rewards: RewardSet, tuning: Sequence[Replies] | None = None
) -> tuple[list[Measured], dict[str, Any] | None]:
    """Score everything that a model said.

    Args:
        replies: To records that the rewards score, each with as many samples.
        rewards: What an answer is worth: the weighted sum.
        tuning: Replies to other records, to tune the threshold on; by default it is tuned on one half of ``replies``
            and used on the other, and the other way round.

    Returns:
        One measurement a record, and how the threshold was tuned: ``by`` (``halves of scenes``, ``halves of records``
        or ``other records``) and ``values``. It is None without detection answers, or with too few to tune on.

    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.rewards.own import own_rewards
    >>> said = Replies(example_record("choice"), Answer("A"), [Answer("B"), Answer("A"), Answer("B")])
    >>> [found], threshold = measure([said], own_rewards())
    >>> found.scores, threshold
    ({'greedy': 0.0, 'sampled': 0.6666666666666666, 'best': 1.0, 'mbr': 1.0}, None)
    """
    scenes, _ = scene_index([reply.record for reply in replies])
    cuts, how = _thresholds(replies, scenes, rewards, tuning)
    out = []
    for i, reply in enumerate(replies):
        record, texts = reply.record, [answer.text for answer in reply.samples]
        value, *values = totals(rewards, record, [reply.greedy.text, *texts])
        picks = {"best": texts[int(np.argmax(values))], "mbr": texts[minimum_risk(record, texts, rewards)]}
        if record.task == "number":
            picks["median"] = texts[median(record, texts)]
        if reply.confident is not None and i in cuts:
            picks["threshold"] = _kept(reply.confident, cuts[i])
        scores = {"greedy": value, "sampled": float(np.mean(values)), "best": max(values)}
        if (other := _another(replies, scenes, i)) is not None:
            scores["luck"] = max(totals(rewards, record, [answer.text for answer in other.samples]))
        known = dict(zip(texts, values, strict=True))
        for rule in FREE:
            if rule in picks:
                text = picks[rule]
                scores[rule] = known[text] if text in known else totals(rewards, record, [text])[0]
        out.append(
            Measured(
                record=record,
                scene=int(scenes[i]),
                scores=scores,
                picks={"greedy": reply.greedy.text, **picks},
                rewards=values,
                full=rewards.total({name: Score(1.0) for name in rewards.score("", record)}),
                unreadable=sum(as_truth(record, text) is None for text in texts),
                cut=sum(answer.cut for answer in reply.samples),
                texts=len(set(texts)),
            )
        )
    return out, how


def totals(rewards: RewardSet, record: Record, texts: Sequence[str]) -> list[float]:
    """What each text is worth as an answer to a record.

    Args:
        rewards: The rewards and their weights.
        record: The record.
        texts: Answers.

    Raises:
        Rft3dError: Where a user's reward fails.

    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.rewards.own import own_rewards
    >>> totals(own_rewards(), example_record("number"), ["2.5", "3", "?"])
    [1.0, 0.6, 0.0]
    """
    return [rewards.total(scores) for scores in rewards.score_all([(text, record) for text in texts])]


def _kept(answer: Confident, threshold: float) -> str:
    """The answer without its doubtful boxes; as it was, flaws and all, where none is doubtful."""
    doubtful = any(value < threshold for value in answer.confidence)
    return by_confidence(answer, threshold) if doubtful else answer.text


def _thresholds(
    replies: Sequence[Replies], scenes: NDArray[np.int64], rewards: RewardSet, tuning: Sequence[Replies] | None
) -> tuple[dict[int, float], dict[str, Any] | None]:
    """The threshold for each detection answer, never tuned on that answer, and how it was tuned."""
    places = [i for i, reply in enumerate(replies) if reply.confident is not None]
    if tuning is not None:
        if not places or all(reply.confident is None for reply in tuning):
            return {}, None
        value = tune(tuning, rewards)
        return dict.fromkeys(places, value), {"by": "other records", "values": [value]}
    numbers = dict.fromkeys(scenes[i] for i in places)
    by_scene = len(numbers) > 1
    order = {scene: number for number, scene in enumerate(numbers)}
    half = {i: (order[scenes[i]] if by_scene else number) % 2 for number, i in enumerate(places)}
    if len(places) < 2:
        return {}, None
    values = [tune([replies[i] for i in places if half[i] != side], rewards) for side in (0, 1)]
    by = "halves of scenes" if by_scene else "halves of records"
    return {i: values[half[i]] for i in places}, {"by": by, "values": values}


def tune(replies: Sequence[Replies], rewards: RewardSet) -> float:
    """The threshold on the confidence of boxes that is best on some records.

    Args:
        replies: Those with confidences count.
        rewards: What an answer is worth.

    Returns:
        A mean log-probability; minus infinity where leaving boxes out does not help.

    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.rewards.own import own_rewards
    >>> box = '{"label": "%s", "bbox_3d": [0, 0, 2, 1, 1, 1, 0, 0, 0]}'
    >>> boxes = [box % "chair", box % "lamp"]
    >>> sure = Confident(f"[{boxes[0]}, {boxes[1]}]", boxes, [-0.1, -2.0])
    >>> -2 < tune([Replies(example_record("detection"), Answer(sure.text), [], sure)], own_rewards()) <= -0.1
    True
    """
    known = [(reply.record, reply.confident) for reply in replies if reply.confident is not None]
    worth: dict[tuple[int, str], float] = {}

    def goal(threshold: float) -> float:
        texts = [_kept(answer, threshold) for _, answer in known]
        fresh = [i for i, text in enumerate(texts) if (i, text) not in worth]
        found = rewards.score_all([(texts[i], known[i][0]) for i in fresh])
        worth.update({(i, texts[i]): rewards.total(scores) for i, scores in zip(fresh, found, strict=True)})
        return math.fsum(worth[i, text] for i, text in enumerate(texts))

    return best_threshold([answer for _, answer in known], goal)


def _another(replies: Sequence[Replies], scenes: NDArray[np.int64], place: int) -> Replies | None:
    """The next record of the same task; of the same kind of question and another scene, where there is one."""
    own, best, found = replies[place].record, -1, None
    for step in range(1, len(replies)):
        i = (place + step) % len(replies)
        other = replies[i].record
        if other.task != own.task:
            continue
        rank = 2 * (other.meta.question_type == own.meta.question_type) + int(scenes[i] != scenes[place])
        if rank > best:
            best, found = rank, replies[i]
        if best == 3:
            break
    return found


def detail(one: Measured) -> dict[str, Any]:
    """One record as a line of JSON.

    Args:
        one: Its measurement.

    Returns:
        ``id``, ``task``, ``scene``, ``scores`` and ``picks`` by rule, ``rewards`` of the samples with their ``std``,
        and how many samples are ``unreadable``, ``cut`` and different (``texts``).

    >>> from rft3d_cli.examples import example_record
    >>> from rft3d_cli.rewards.own import own_rewards
    >>> said = Replies(example_record("choice"), Answer("A"), [Answer("B"), Answer("A")])
    >>> detail(measure([said], own_rewards())[0][0])["rewards"]
    [1.0, 0.0]
    """
    return {
        "id": one.record.id,
        "task": one.record.task,
        "scene": one.record.meta.scene,
        "scores": one.scores,
        "picks": one.picks,
        "rewards": one.rewards,
        "std": one.std,
        "unreadable": one.unreadable,
        "cut": one.cut,
        "texts": one.texts,
    }


def by_task(measured: Sequence[Measured]) -> Mapping[str, list[Measured]]:
    """Measurements by task, in the order of first occurrence.

    Args:
        measured: Of any tasks.

    >>> by_task([])
    {}
    """
    out: dict[str, list[Measured]] = {}
    for one in measured:
        out.setdefault(one.record.task, []).append(one)
    return out


def spread(records: Sequence[Record], limit: int) -> list[Record]:
    """So many records, spread evenly: neighbours in a file often are of one scene.

    Args:
        records: In the order of the file, which is kept.
        limit: How many, at most.

    >>> spread("abcdefg", 3)
    ['a', 'd', 'g']
    """
    if limit >= len(records):
        return list(records)
    return [records[i] for i in np.linspace(0, len(records) - 1, limit).round().astype(int)]
