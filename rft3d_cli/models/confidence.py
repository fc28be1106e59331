"""How sure a model is of each box that it wrote, and answers without the boxes that it is least sure of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.answers.objects import object_spans
from rft3d_cli.models.inputs import EncodedPrompt, collate, on_device
from rft3d_cli.models.processor import FrameProcessor

QUANTILES = np.linspace(0.02, 0.98, 49)
"""Of all boxes' confidences: the thresholds that are tried."""

LOGITS = 1 << 28
"""Logits that are held at once: a GiB of them. A batch that needs more is computed in parts."""


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

    A box is each ``{…}`` of a text, readable or not (:func:`rft3d_cli.answers.objects.object_spans`). Its tokens are
    those that end within it: where a tokenizer joins a brace and the comma after it, the joined token is not the box's.
    Answers are cut into tokens anew, names of special tokens like any other text, so a text may come from anywhere. A
    box's confidence depends on its own prompt and text only, up to rounding.

    Args:
        model: Weights, in evaluation mode.
        processor: Its tokenizer, which has to know where its tokens stand in the text.
        prompts: What was asked.
        texts: What was answered, one text a prompt.

    Returns:
        One a text, in order. Texts without boxes are not computed.

    Raises:
        ValueError: Where prompts and texts are not as many.

    >>> from PIL import Image
    >>> from rft3d_cli.models.inputs import encode_prompt
    >>> from rft3d_cli.models.loader import load_speaker
    >>> model, processor = load_speaker("tiny")
    >>> prompt = encode_prompt(processor, "Find chairs.", [Image.new("RGB", (64, 48))])
    >>> found = box_confidence(model, processor, [prompt, prompt], ['[{"label": "chair"}]', "none"])
    >>> [(one.boxes, [value < 0 for value in one.confidence]) for one in found]
    [(['{"label": "chair"}'], [True]), ([], [])]
    """
    spans = [object_spans(text) for text in texts]
    rows = list(zip(prompts, texts, spans, strict=True))
    wanted = [i for i, (_, _, boxes) in enumerate(rows) if boxes]
    cut = [_tokens(processor.tokenizer, texts[i]) for i in wanted]
    values: dict[int, list[float]] = {}
    sizes = [(len(prompts[i]), len(ids)) for i, (ids, _) in zip(wanted, cut, strict=True)]
    for part in _parts(sizes, LOGITS // len(processor.tokenizer)):
        asked = [prompts[wanted[i]] for i in part]
        logp = _log_probabilities(model, processor.tokenizer.pad_token_id, asked, [cut[i][0] for i in part])
        for i, found in zip(part, logp, strict=True):
            values[wanted[i]] = [_mean(found, cut[i][1], box) for box in spans[wanted[i]]]
    return [
        Confident(text, [text[start:end] for start, end in boxes], values.get(i, []))
        for i, (_, text, boxes) in enumerate(rows)
    ]


def _tokens(tokenizer: Any, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of a text, and where each token starts and ends in it, ``(n, 2)`` characters."""
    # Half a surrogate pair cannot be tokenized; a question mark takes as many characters.
    plain = text.encode("utf-8", "replace").decode("utf-8")
    found = tokenizer(plain, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return np.asarray(found["input_ids"], dtype=np.int64), np.asarray(found["offset_mapping"], dtype=np.int64)


def _parts(sizes: Sequence[tuple[int, int]], most: int) -> Iterator[list[int]]:
    """Rows in order, so many at a time that their logits fit.

    Args:
        sizes: Tokens of prompt and answer, by row.
        most: Places in all rows of a part for which logits may be held; one row is always taken.
    """
    part: list[int] = []
    shortest = longest = 0
    for row, (prompt, answer) in enumerate(sizes):
        low, high = min(shortest, prompt) if part else prompt, max(longest, prompt + answer)
        if part and (high - low + 1) * (len(part) + 1) > most:
            yield part
            part, low, high = [], prompt, prompt + answer
        part.append(row)
        shortest, longest = low, high
    if part:
        yield part


def _log_probabilities(
    model: Any, pad: int, prompts: Sequence[EncodedPrompt], answers: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.float64]]:
    """The log-probability of each token of each answer, from one forward pass."""
    import torch

    inputs = on_device(collate(prompts, pad, answers), model.device)
    inputs.pop("labels")
    width = inputs["input_ids"].shape[1]
    # Logits of the prompts' places would be most of the memory and none of the result.
    first = min(map(len, prompts)) - 1
    out = []
    with torch.inference_mode():
        logits = model(**inputs, logits_to_keep=width - first).logits
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            start = len(prompt) - 1 - first
            mine = logits[row, start : start + len(answer)].float()
            said = torch.as_tensor(answer, device=mine.device)
            logp = -torch.nn.functional.cross_entropy(mine, said, reduction="none")
            out.append(logp.double().cpu().numpy())
    return out


def _mean(logp: NDArray[np.float64], places: NDArray[np.int64], box: tuple[int, int]) -> float:
    """The mean over the tokens that end within a box; where none does, over those that reach into it."""
    starts, ends = places.T
    inside = (ends > box[0]) & (ends <= box[1])
    if not inside.any():
        inside = (ends > box[0]) & (starts < box[1])
    return float(logp[inside].mean())


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
