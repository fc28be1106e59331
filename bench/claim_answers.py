"""What the claim asks models, how it scores them, and the two controls that do without RL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.models.inputs import FrameStore, collate, encode_answer
from rft3d_cli.models.loader import load_model
from rft3d_cli.models.predict import Decoding, answers
from rft3d_cli.recipe import load_recipe
from rft3d_cli.records import DetectionTarget, Record, read_records
from rft3d_cli.rewards.registry import RewardSet, get
from rft3d_cli.train.heldout import own_score

MAX_TOKENS = 160


@dataclass(frozen=True)
class Item:
    """A record and where its frames are."""

    record: Record
    store: FrameStore


@dataclass(frozen=True)
class Confident:
    """A greedy detection answer in pieces.

    Args:
        boxes: The text of each box.
        confidence: Mean log-probability of each box's tokens.
    """

    boxes: list[str]
    confidence: list[float]


class Asker:
    """A model ready to answer, and the training reward of a recipe.

    Args:
        folder: The model.
        recipe: Whose rewards count.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        self.model, self.processor = load_model(folder)
        config = load_recipe(recipe).config
        self.rewards = RewardSet(config.rewards, config.reward_options.model_dump())

    def records(self, path: Path, limit: int) -> list[Item]:
        """The first ``limit`` records of a file."""
        source = read_records(path, limit=limit)
        store = FrameStore(source.media_root, self.processor)
        return [Item(record, store) for record in source.records]

    def answers(self, items: Sequence[Item], *, sample: bool, seed: int) -> list[str]:
        """Answers in order."""
        decoding = Decoding(max_tokens=MAX_TOKENS, sample=sample, seed=seed)
        out: list[str] = []
        for store in dict.fromkeys(item.store for item in items):
            records = [item.record for item in items if item.store is store]
            out += [text for _, text in answers(self.model, self.processor, records, store, decoding)]
        return out

    def confident(self, items: Sequence[Item], batch: int = 32) -> list[Confident]:
        """Greedy answers with the confidence of each box."""
        texts = self.answers(items, sample=False, seed=0)
        out: list[Confident] = []
        for start in range(0, len(items), batch):
            out += self._confident(items[start : start + batch], texts[start : start + batch])
        return out

    def _confident(self, items: Sequence[Item], texts: Sequence[str]) -> list[Confident]:
        import torch

        tokenizer = self.processor.tokenizer
        prompts = [item.store.encode(item.record) for item in items]
        inputs = collate(prompts, tokenizer.pad_token_id, [encode_answer(self.processor, text) for text in texts])
        labels = inputs.pop("labels")[:, 1:]
        with torch.inference_mode():
            logp = self.model(**inputs).logits[:, :-1].float().log_softmax(-1)
        out = []
        for row, text in enumerate(texts):
            known = labels[row] != -100
            ids = labels[row][known]
            values = logp[row][known].gather(1, ids[:, None])[:, 0].tolist()
            ends = np.cumsum([len(tokenizer.decode([int(i)])) for i in ids])
            boxes, confidence = [], []
            for match in re.finditer(r"\{[^{}]*\}", text):
                inside = [v for v, end in zip(values, ends, strict=True) if match.start() < end <= match.end()]
                boxes.append(match.group())
                confidence.append(float(np.mean(inside)) if inside else 0.0)
            out.append(Confident(boxes, confidence))
        return out


def by_confidence(answer: Confident, threshold: float) -> str:
    """The answer without the boxes below a threshold."""
    kept = [box for box, value in zip(answer.boxes, answer.confidence, strict=True) if value >= threshold]
    return "```json\n[\n\t" + ",\n\t".join(kept) + "\n]```"


def tuned_threshold(items: Sequence[Item], found: Sequence[Confident]) -> float:
    """The threshold with the best pooled F1 on records that the model was trained on."""
    values = sorted({value for answer in found for value in answer.confidence})
    candidates = [-np.inf, *(np.quantile(values, np.linspace(0.02, 0.98, 49)) if values else ())]

    def f1(threshold: float) -> float:
        parts = [
            _counts(item.record, by_confidence(answer, threshold)) for item, answer in zip(items, found, strict=True)
        ]
        tp, fp, fn = (sum(part[name] for part in parts) for name in ("tp", "fp", "fn"))
        return 2 * tp / max(1.0, 2 * tp + fp + fn)

    return float(max(candidates, key=f1))


def minimum_risk(item: Item, samples: Sequence[str]) -> str:
    """The sample that agrees best with the others: each takes its turn as the truth."""
    from rft3d_cli.answers import read_boxes

    scores = np.zeros(len(samples))
    for other in samples:
        boxes = read_boxes(other).boxes
        target = DetectionTarget.model_validate(
            {
                "boxes": [
                    {"label": label, "bbox_3d": box.tolist()}
                    for label, box in zip(boxes.labels, boxes.boxes, strict=True)
                ]
            }
        )
        as_truth = item.record.model_copy(update={"target": target})
        scores += [_value("det_f1", sample, as_truth) for sample in samples]
    return samples[int(scores.argmax())]


def scored(items: Sequence[Item], texts: Sequence[str], rewards: RewardSet) -> list[dict[str, Any]]:
    """One row a record: its task, the training reward, its own score, and the counts of boxes in detection."""
    rows = []
    for item, text in zip(items, texts, strict=True):
        own = own_score(item.record, text)
        row = {
            "task": item.record.task,
            "reward": rewards.total(rewards.score(text, item.record)),
            "score": own.value,
            **{name: own.parts[name] for name in ("tp", "fp", "fn") if name in own.parts},
        }
        rows.append(row)
    return rows


def _counts(record: Record, text: str) -> dict[str, float]:
    return dict(own_score(record, text).parts)


def _value(name: str, text: str, record: Record) -> float:
    score = get(name)(text, record)
    return score.value if score is not None else 0.0
