"""Dynamic sampling: groups whose rewards are all equal are replaced by groups of other prompts.

Such a group has no advantages, so its place in the batch would be empty (DAPO, arXiv:2503.14476). Which prompts follow
is drawn from the seed and the step alone, so a resumed run draws the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rft3d_cli.rewards.registry import completion_text
from rft3d_cli.train.rollout import same_rewards


class Refill:
    """Replaces groups without spread while a rollout is generated.

    Args:
        trainer: A :class:`~rft3d_cli.train.compat.PolicyTrainer` that is alone: its rollout holds whole groups.
        rounds: How often in one rollout.
        seed: Of the draw.
    """

    def __init__(self, trainer: Any, *, rounds: int, seed: int) -> None:
        self.trainer, self.rounds, self.seed = trainer, rounds, seed
        trainer.refill = self

    def generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL's ``_generate``; ``prompts`` and the trainer's rows are changed in place where groups are replaced."""
        trainer, group = self.trainer, self.trainer.num_generations
        metrics = trainer._metrics["train"]
        before = {name: len(values) for name, values in metrics.items()}
        rows: list[int] = list(trainer._indices)
        out = _copied(trainer.generate_once(prompts))
        sampled = len(rows) // group
        spread = self._spread(rows, out)
        others = self._others(rows)
        for _ in range(self.rounds):
            empty = [place for place, known in enumerate(spread) if not known]
            drawn = [next(others, None) for _ in empty]
            new = [row for row in drawn if row is not None]
            if not new:
                break
            trainer._indices = [row for row in new for _ in range(group)]
            asked = [trainer.examples.messages(row) for row in trainer._indices]
            found = trainer.generate_once(asked)
            sampled += len(new)
            taken = zip(empty, self._spread(trainer._indices, found), strict=False)
            for source, place in [(k, place) for k, (place, good) in enumerate(taken) if good]:
                here = slice(place * group, (place + 1) * group)
                there = slice(source * group, (source + 1) * group)
                for ours, theirs in zip(out, found, strict=True):
                    if isinstance(ours, list) and ours:
                        ours[here] = theirs[there]
                prompts[here] = asked[there]
                rows[here] = trainer._indices[there]
                spread[place] = True
        trainer._indices = rows
        for source, row in zip(trainer._inputs, rows, strict=True):
            source["row"] = row
        for name in [name for name in metrics if name.startswith("completions/")]:
            del metrics[name][before.get(name, 0) :]
        ends = {*trainer.eos_token_ids, trainer._tokenizer.pad_token_id}
        for name, value in lengths(out[1], ends).items():
            metrics[name].append(value)
        metrics["refill/groups"].append(float(sampled - len(spread)))
        metrics["refill/kept"].append(sum(spread) / sampled)
        return tuple(out)

    def _spread(self, rows: Sequence[int], out: Sequence[Any]) -> list[bool]:
        """Whether each group's rewards differ."""
        trainer, group = self.trainer, self.trainer.num_generations
        answers = [
            (completion_text(completion), trainer.examples[row].record)
            for row, completion in zip(rows, out[3], strict=True)
        ]
        rewards = [
            trainer.reward_set.total(scores) if scores else float("nan")
            for scores in trainer.reward_set.score_all(answers)
        ]
        return [not same_rewards(rewards[start : start + group]) for start in range(0, len(rewards), group)]

    def _others(self, rows: Sequence[int]) -> Any:
        """Rows that are not in the rollout, each once, in the order of this step."""
        generator = random.Random(f"{self.seed} {self.trainer.state.global_step}")
        used, count = set(rows), len(self.trainer.examples)
        while len(used) < count:
            row = generator.randrange(count)
            if row not in used:
                used.add(row)
                yield row


def _copied(out: Sequence[Any]) -> list[Any]:
    """TRL's lists, ours to change."""
    return [list(value) if isinstance(value, list) else value for value in out]


def lengths(completions: Sequence[Sequence[int]], ends: set[int]) -> dict[str, float]:
    """TRL's metrics of lengths.

    Args:
        completions: Token ids.
        ends: Ids that end a completion that was not cut.

    >>> lengths([[5, 1], [5, 6, 7]], {1})["completions/clipped_ratio"]
    0.5
    """
    sizes = [len(ids) for ids in completions]
    ended = [len(ids) for ids in completions if ids[-1] in ends] or [0]
    out = {"completions/clipped_ratio": sum(ids[-1] not in ends for ids in completions) / len(completions)}
    for name, values in (("length", sizes), ("terminated_length", ended)):
        out[f"completions/mean_{name}"] = sum(values) / len(values)
        out[f"completions/min_{name}"] = float(min(values))
        out[f"completions/max_{name}"] = float(max(values))
    return out
