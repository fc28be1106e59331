"""What the claim asks models, how it scores them, and the two controls that do without RL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft3d_cli.benchmarks import consensus
from rft3d_cli.models.confidence import Confident, best_threshold, box_confidence, by_confidence
from rft3d_cli.models.inputs import FrameStore
from rft3d_cli.models.loader import load_model
from rft3d_cli.models.predict import Decoding, answers
from rft3d_cli.recipe import load_recipe
from rft3d_cli.records import Record, read_records
from rft3d_cli.rewards.own import own_rewards, own_score
from rft3d_cli.rewards.registry import RewardSet

MAX_TOKENS = 160


@dataclass(frozen=True)
class Item:
    """A record and where its frames are."""

    record: Record
    store: FrameStore


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
            part = slice(start, start + batch)
            prompts = [item.store.encode(item.record) for item in items[part]]
            out += box_confidence(self.model, self.processor, prompts, texts[part])
        return out


def tuned_threshold(items: Sequence[Item], found: Sequence[Confident]) -> float:
    """The threshold with the best pooled F1 on records that the model was trained on."""

    def f1(threshold: float) -> float:
        parts = [
            own_score(item.record, by_confidence(answer, threshold)).parts
            for item, answer in zip(items, found, strict=True)
        ]
        tp, fp, fn = (sum(part[name] for part in parts) for name in ("tp", "fp", "fn"))
        return 2 * tp / max(1.0, 2 * tp + fp + fn)

    return best_threshold(found, f1)


def minimum_risk(item: Item, samples: Sequence[str]) -> str:
    """The sample that agrees best with the others: each takes its turn as the truth."""
    return samples[consensus.minimum_risk(item.record, samples, own_rewards())]


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
