"""How sure a model is of each box that it wrote, and answers without the boxes that it is least sure of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rft3d_cli.models.inputs import EncodedPrompt, collate, encode_answer, on_device
from rft3d_cli.models.processor import FrameProcessor

QUANTILES = np.linspace(0.02, 0.98, 49)
"""Of all boxes' confidences: the thresholds that are tried."""

_BOX = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Confident:
    """A detection answer in pieces.

    Args:
        text: All of it.
        boxes: The text of each box.
        confidence: Mean log-probability of each box's tokens, in nats.
    """

    text: str
    boxes: list[str]
    confidence: list[float]


def box_confidence(
    model: Any, processor: FrameProcessor, prompts: Sequence[EncodedPrompt], texts: Sequence[str]
) -> list[Confident]:
    """The boxes of one batch of answers, and how likely the model finds the tokens of each.

    Args:
        model: Weights, in evaluation mode.
        processor: Its tokenizer cuts the answers into tokens again.
        prompts: What was asked.
        texts: What was answered, one text a prompt.
    """
    import torch

    tokenizer = processor.tokenizer
    answers = [encode_answer(processor, text) for text in texts]
    inputs = on_device(collate(prompts, tokenizer.pad_token_id, answers), model.device)
    labels = inputs.pop("labels")[:, 1:]
    # Logits of the prompts' positions would be most of the memory and none of the result.
    first = int((labels != -100).any(dim=0).nonzero()[0])
    labels = labels[:, first:]
    with torch.inference_mode():
        logits = model(**inputs, logits_to_keep=labels.shape[1] + 1).logits[:, :-1].float()
        logp = -torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    out = []
    for row, text in enumerate(texts):
        known = labels[row] != -100
        values = logp[row][known].tolist()
        ends = np.cumsum([len(tokenizer.decode([int(i)])) for i in labels[row][known]])
        boxes, confidence = [], []
        for match in _BOX.finditer(text):
            inside = [v for v, end in zip(values, ends, strict=True) if match.start() < end <= match.end()]
            boxes.append(match.group())
            confidence.append(float(np.mean(inside)) if inside else 0.0)
        out.append(Confident(text, boxes, confidence))
    return out


def by_confidence(answer: Confident, threshold: float) -> str:
    r"""The answer without the boxes below a threshold.

    >>> by_confidence(Confident("[{1}, {2}]", ["{1}", "{2}"], [-0.1, -0.9]), -0.5)
    '```json\n[\n\t{1}\n]```'
    """
    kept = [box for box, value in zip(answer.boxes, answer.confidence, strict=True) if value >= threshold]
    return "```json\n[\n\t" + ",\n\t".join(kept) + "\n]```"


def best_threshold(found: Sequence[Confident], goal: Callable[[float], float]) -> float:
    """The threshold at which a goal is highest, the lowest of equals; minus infinity keeps every box.

    Args:
        found: Answers to tune on: their confidences are what is tried, by :data:`QUANTILES`.
        goal: What a threshold is worth on them.

    >>> answers = [Confident("", ["{}"] * 3, [-3.0, -2.0, -1.0])]
    >>> best_threshold(answers, lambda threshold: -abs(threshold + 2))
    -2.0
    """
    values = sorted({value for answer in found for value in answer.confidence})
    candidates = [-np.inf, *(np.quantile(values, QUANTILES) if values else ())]
    return float(max(candidates, key=goal))
