"""Scoring held-out records: during training, and wherever a model is compared with itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft3d_cli.models.inputs import on_device
from rft3d_cli.models.predict import Decoding, answers
from rft3d_cli.records import Record
from rft3d_cli.rewards.own import own_score
from rft3d_cli.rewards.registry import RewardSet, Score
from rft3d_cli.train.data import Examples
from rft3d_cli.train.official import official_metrics
from rft3d_cli.train.processes import gathered


class HeldOut:
    """Held-out records and how they are answered and scored.

    Args:
        examples: The records.
        decoding: How answers are decoded.
        rewards: Also report the training reward, where given.
        share: Which of how many processes this one is: each answers its share, and all get all answers.
    """

    def __init__(
        self,
        examples: Examples,
        decoding: Decoding,
        rewards: RewardSet | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.examples, self.decoding, self.rewards, self.share = examples, decoding, rewards, share

    def answer(self, model: Any) -> list[tuple[Record, str]]:
        """The model's answers, in the order of the records."""
        mine, of = self.share
        said: list[tuple[int, str]] = []
        examples = self.examples
        start = 0
        while start < len(examples):
            # Records of one file share a frame store; files follow one another.
            store = examples[start].store
            end = start
            while end < len(examples) and examples[end].store is store:
                end += 1
            rows = range(start, end)[mine::of]
            found = answers(model, examples.processor, [examples[i].record for i in rows], store, self.decoding)
            said += [(row, text) for row, (_, text) in zip(rows, found, strict=True)]
            start = end
        everything = sorted(gathered(said)) if of > 1 else said
        return [(examples[row].record, text) for row, text in everything]

    def score(self, model: Any, *, keep: Path | None = None, step: int = 0, limit: int = 0) -> dict[str, float]:
        """Answer and score all records.

        Args:
            model: In any mode; left in the same.
            keep: A JSONL file to which the first ``limit`` answers are appended.
            step: Written beside them.
            limit: How many.

        Returns:
            Metrics in [0, 1]; see :func:`summarise` and :func:`~rft3d_cli.train.official.official_metrics`.
        """
        answered = self.answer(model)
        own = [own_score(record, text) for record, text in answered]
        if keep is not None and limit:
            with keep.open("a", encoding="utf-8") as stream:
                for (record, text), score in list(zip(answered, own, strict=True))[:limit]:
                    row = {"step": step, "id": record.id, "prediction": text, "score": score.value, "why": score.why}
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        metrics = summarise([record for record, _ in answered], own) | official_metrics(answered)
        if self.rewards is not None:
            totals = [
                self.rewards.total(scores)
                for scores in self.rewards.score_all([(text, record) for record, text in answered])
            ]
            metrics["reward"] = sum(totals) / len(totals)
        return metrics

    def loss(self, model: Any, batch: int = 8) -> float:
        """Mean negative log-likelihood of the answers' tokens, in nats; ``batch`` records a forward pass."""
        import torch

        was_training = model.training
        model.eval()
        total, count = 0.0, 0
        with torch.inference_mode():
            mine, of = self.share
            for start in range(0, len(self.examples), batch)[mine::of]:
                rows = range(start, min(start + batch, len(self.examples)))
                inputs = on_device(self.examples.supervised_batch(rows), model.device)
                labels = inputs.pop("labels")[:, 1:]
                known = labels != -100
                # Logits of the prompt's positions would be most of the memory and none of the result.
                first = int(known.any(dim=0).nonzero()[0])
                logits = model(**inputs, logits_to_keep=labels.shape[1] + 1 - first).logits[:, :-1].float()
                labels, known = labels[:, first:], known[:, first:]
                total += float(torch.nn.functional.cross_entropy(logits[known], labels[known], reduction="sum"))
                count += int(known.sum())
        model.train(was_training)
        sums = gathered([(total, count)]) if of > 1 else [(total, count)]
        return sum(total for total, _ in sums) / max(1, sum(count for _, count in sums))


def summarise(records: Sequence[Record], scores: Sequence[Score]) -> dict[str, float]:
    """Means of records' own scores, in all and by task.

    Returns:
        ``score`` over all records. Detection: ``precision``, ``recall`` and ``f1``, pooled over boxes. Grounding:
        ``acc@0.25``, ``acc@0.5`` and ``mean_iou``. Choice and number: ``accuracy`` and ``mra``, and ``overall``, the
        mean over both. Tasks that do not occur are absent.
    """
    by_task: dict[str, list[Score]] = {}
    for record, score in zip(records, scores, strict=True):
        by_task.setdefault(record.task, []).append(score)
    out = {"score": _mean([score.value for score in scores])}
    if found := by_task.get("detection"):
        tp, fp, fn = (sum(score.parts[name] for score in found) for name in ("tp", "fp", "fn"))
        out["precision"] = tp / (tp + fp) if tp + fp else 0.0
        out["recall"] = tp / (tp + fn) if tp + fn else 0.0
        out["f1"] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0
    if found := by_task.get("grounding"):
        iou = [score.value for score in found]
        out["acc@0.25"] = _mean([float(value >= 0.25) for value in iou])
        out["acc@0.5"] = _mean([float(value >= 0.5) for value in iou])
        out["mean_iou"] = _mean(iou)
    answered = [*by_task.get("choice", []), *by_task.get("number", [])]
    if found := by_task.get("choice"):
        out["accuracy"] = _mean([score.value for score in found])
    if found := by_task.get("number"):
        out["mra"] = _mean([score.value for score in found])
    if answered:
        out["overall"] = _mean([score.value for score in answered])
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
