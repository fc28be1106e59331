"""GRPO's sampling and log-probabilities with every prompt computed once for its whole group.

TRL repeats a prompt for each of its completions: in the towers, the prefill, the log-probabilities and the backward
pass. Here a prompt is read once, its completions follow in chunks of a micro-batch, and gradients gather in the
prompt's keys and values until the last of its completions has been through; then they go on into the prompt, once. The
cost of an update falls from ``G · (P + C)`` tokens to ``P + G · C``, and its memory from a micro-batch of whole
sequences to one prompt and a micro-batch of completions, with the prompt's keys and values beside each. The result is
the same: sums are only taken in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from rft3d_cli.models.inputs import EncodedPrompt
from rft3d_cli.models.shared_prompt import (
    Prompts,
    continued_inputs,
    generate_from,
    language_model,
    read_prompts,
)
from rft3d_cli.models.towers import FrozenTowers


class _Pass:
    """Prompts that were read together, and who of them still has completions to come."""

    def __init__(self, read: Prompts, indices: Sequence[int]) -> None:
        self.read, self.rows = read, {index: row for row, index in enumerate(indices)}
        self.trained = any(tensor.requires_grad for tensor in read.keys.values())
        self.prompts = read.leaves() if self.trained else read


class SharedPrompts:
    """The prompts of one rollout, read once for all that is done with them.

    Args:
        encode: The encoded prompt of a record, by the record's index; asked once a rollout.
        pad_token_id: Fills shorter rows.
    """

    def __init__(self, encode: Callable[[int], EncodedPrompt], pad_token_id: int) -> None:
        self.encode, self.pad_token_id = encode, pad_token_id
        self.towers = FrozenTowers()
        self._encoded: dict[int, EncodedPrompt] = {}
        self._passes: list[_Pass] = []

    def next_rollout(self) -> None:
        """Let go of everything: other prompts are about to come."""
        self.keep(())
        self._passes.clear()

    def keep(self, indices: Iterable[int]) -> None:
        """Let go of all prompts but these."""
        kept = set(indices)
        self.towers.keep(kept)
        self._encoded = {index: encoded for index, encoded in self._encoded.items() if index in kept}

    def sample(self, model: Any, indices: Sequence[int], generation_config: Any) -> Tensor:
        """Sample a completion for each row.

        Args:
            model: In training or evaluation mode; its own ``generate`` samples.
            indices: The record of each row, equal ones one after another.
            generation_config: transformers'.

        Returns:
            ``(rows, length)`` token ids, padded after each stop.
        """
        runs = [(index, len(list(run))) for index, run in groupby(indices)]
        group = math.gcd(*(length for _, length in runs))
        distinct = [index for index, length in runs for _ in range(length // group)]
        with torch.no_grad():
            return generate_from(model, self._read(model, distinct), group, generation_config)

    def log_probabilities(
        self, model: Any, indices: Sequence[int], completions: Tensor, mask: Tensor, rows: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of completions' tokens, and the entropies of the distributions they were drawn from.

        With gradients enabled, prompts stay open for the completions of a later call; :meth:`close` ends that.

        Args:
            model: The policy or the reference, with TRL's language head.
            indices: The record of each row.
            completions: ``(rows, length)`` token ids, padded on the right.
            mask: Likewise, 0 where padded.
            rows: Rows at a time; all at once where None.

        Returns:
            Two ``(rows, length)``, 0 where padded; entropies also where the model's head gives none.
        """
        step = rows or len(indices)
        parts = []
        for start in range(0, len(indices), step):
            chunk = slice(start, start + step)
            parts.append(self._chunk(model, indices[chunk], completions[chunk], mask[chunk]))
            if not torch.is_grad_enabled():
                self.close(later=set(indices[start + step :]))
        log_probs, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
        return log_probs, entropies

    def close(self, later: set[int]) -> None:
        """Carry gradients on into the prompts that no completion will follow any more.

        Args:
            later: Records whose completions are still to come.
        """
        done = [reading for reading in self._passes if not later.intersection(reading.rows)]
        self._passes = [reading for reading in self._passes if reading not in done]
        for reading in done:
            if reading.trained:
                reading.read.backward_from(reading.prompts)

    def _read(self, model: Any, indices: Sequence[int]) -> Prompts:
        for index in indices:
            if index not in self._encoded:
                self._encoded[index] = self.encode(index)
        encoded = [self._encoded[index] for index in indices]
        return read_prompts(model, encoded, self.pad_token_id, self.towers, indices)

    def _chunk(self, model: Any, indices: Sequence[int], completions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One forward pass a reading; a micro-batch that ends amid a group has two."""
        new = dict.fromkeys(index for index in indices if not any(index in reading.rows for reading in self._passes))
        if new:
            self._passes.append(_Pass(self._read(model, list(new)), list(new)))
        width = int(mask.any(dim=0).sum())
        out = completions.new_zeros((2, *completions.shape), dtype=torch.float32)
        for reading in self._passes:
            rows = [row for row, index in enumerate(indices) if index in reading.rows]
            if not rows:
                continue
            here = torch.tensor(rows, device=completions.device)
            owner = torch.tensor([reading.rows[indices[row]] for row in rows], device=completions.device)
            ids = completions[here, :width]
            labels = ids.masked_fill(mask[here, :width] == 0, -100)
            found = language_model(model)(
                **continued_inputs(reading.prompts, owner, ids), shift_labels=labels, fused_lm_head=True
            )
            # The reference's head gives no entropies, and nobody asks for them.
            entropy = found.entropy if found.entropy is not None else torch.zeros_like(found.log_probs)
            both = torch.stack([found.log_probs, entropy]).float()
            both = torch.nn.functional.pad(both, (0, completions.shape[1] - width))
            out = out.index_copy(1, here, both)
        return out[0], out[1]
