"""What ``grpo_step.py`` counts: operations of an update, what devices can do, and memory over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DENSE_BF16 = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
}
"""Tera-operations a second in bfloat16 without sparsity, by a part of the device's name; the makers' data sheets."""


def peak_tflops(device: str) -> float | None:
    """A device's peak, where it is known.

    >>> peak_tflops("NVIDIA H100 80GB HBM3"), peak_tflops("NVIDIA H100 PCIe"), peak_tflops("a toaster")
    (989.0, 756.0, None)
    """
    words = device.upper().replace("-", " ").split()
    for name in sorted(DENSE_BF16, key=len, reverse=True):
        if set(name.upper().split()) <= set(words):
            return DENSE_BF16[name]
    return None


@dataclass(frozen=True)
class Shape:
    """The sizes of text layers that operations depend on."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    shared_heads: int
    dim: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From transformers' configuration of a text model."""
        heads = config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            heads,
            config.num_key_value_heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            config.vocab_size,
        )

    @property
    def weights(self) -> int:
        """Weights of all layers that a token is multiplied with.

        >>> Shape(1, 8, 16, 4, 2, 2, 100).weights == 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16
        True
        """
        attention = 2 * self.hidden * self.heads * self.dim + 2 * self.hidden * self.shared_heads * self.dim
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


def update_flops(shape: Shape, prompt: int, completion: int, group: int, *, shared: bool) -> int:
    """Operations of the forward and backward pass of one group, full fine-tuning; a backward pass is two forward ones.

    Text layers and the language head at the completions' positions are counted, frozen towers and recomputed
    activations are not. Attention counts the pairs of tokens that see each other.

    Args:
        shape: The model's.
        prompt: Tokens.
        completion: Tokens of each.
        group: Completions.
        shared: The prompt is computed once, else for each completion.
    """
    prompts = 1 if shared else group
    tokens = prompts * prompt + group * completion
    pairs = prompts * prompt * (prompt + 1) // 2
    pairs += group * (completion * prompt + completion * (completion + 1) // 2)
    forward = 2 * tokens * shape.weights
    forward += 4 * shape.layers * shape.heads * shape.dim * pairs
    forward += 2 * group * completion * shape.hidden * shape.vocabulary
    return 3 * forward


def peaks(blocks: list[tuple[int, int]], spans: list[tuple[str, int, int]]) -> dict[str, int]:
    """The highest level of memory in each span of time, and in ``whole``.

    Args:
        blocks: Time and bytes of each allocation (positive) and release (negative), in order of time.
        spans: Name, start and end; a name may come several times.

    >>> peaks([(1, 100), (2, 50), (3, -50), (4, 20)], [("a", 0, 1), ("b", 3, 5)])
    {'whole': 150, 'a': 100, 'b': 120}
    """
    found = {"whole": 0} | {name: 0 for name, _, _ in spans}
    level = 0
    for moment, size in blocks:
        level += size
        for name in {"whole", *(name for name, start, end in spans if start <= moment <= end)}:
            found[name] = max(found[name], level)
    return found
