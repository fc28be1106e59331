"""Answers of a model to records: what evaluate, infer and the evaluations during training share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rft3d_cli.models.inputs import EncodedPrompt, FrameStore, collate, on_device
from rft3d_cli.models.processor import FrameProcessor
from rft3d_cli.prompts import FORBIDDEN
from rft3d_cli.records import Record


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded; written into every result.

    Args:
        max_tokens: Longest answer.
        sample: Draw from the distribution; greedy otherwise.
        temperature: Of the distribution, where sampled.
        top_p: Nucleus, where sampled.
        seed: Of the draw.
        batch: Records a forward pass. Sampled answers depend on it, greedy ones do not.
        repetition_penalty: Divides the odds of tokens that stand in the prompt or the answer already; 1 for none. Some
            published checkpoints were scored with 1.05.
    """

    max_tokens: int = 1024
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    batch: int = 32
    repetition_penalty: float = 1.0

    def document(self) -> dict[str, Any]:
        """The settings that shape the answers."""
        common = {"max_tokens": self.max_tokens, "repetition_penalty": self.repetition_penalty}
        if not self.sample:
            return {"greedy": True, **common}
        return {
            "greedy": False,
            **common,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "batch": self.batch,
        }


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Args:
        text: Without the token that ends it.
        cut: It did not end by itself: the token limit ended it.
    """

    text: str
    cut: bool = False


def forbidden_ids(processor: FrameProcessor) -> list[int]:
    """Ids of the tokens that stand for pixels, where the tokenizer knows them: none of them may be sampled."""
    tokenizer = processor.tokenizer
    ids = [tokenizer.convert_tokens_to_ids(token) for token in FORBIDDEN]
    return [i for i in ids if i is not None and i != tokenizer.unk_token_id]


def generate(model: Any, processor: FrameProcessor, prompts: Sequence[EncodedPrompt], decoding: Decoding) -> list[str]:
    """Answers to one batch of prompts, in order."""
    return [answer.text for answer in generate_answers(model, processor, prompts, decoding)]


def generate_answers(
    model: Any, processor: FrameProcessor, prompts: Sequence[EncodedPrompt], decoding: Decoding
) -> list[Answer]:
    """Answers to one batch of prompts, in order, and whether each came to its end."""
    import torch

    config = _generation_config(model, processor, decoding)
    batch = on_device(collate(prompts, config.pad_token_id), model.device)
    with torch.inference_mode():
        out = model.generate(**batch, generation_config=config)
    return _said(processor, out[:, batch["input_ids"].shape[1] :], config)


def _generation_config(model: Any, processor: FrameProcessor, decoding: Decoding) -> Any:
    from transformers import GenerationConfig

    tokenizer = processor.tokenizer
    stop = model.generation_config.eos_token_id
    sampling: dict[str, Any] = {"do_sample": False}
    if decoding.sample:
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    if decoding.repetition_penalty != 1:
        sampling["repetition_penalty"] = decoding.repetition_penalty
    return GenerationConfig(
        max_new_tokens=decoding.max_tokens,
        eos_token_id=stop if stop is not None else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=forbidden_ids(processor),
        **sampling,
    )


def _said(processor: FrameProcessor, tokens: Any, config: Any) -> list[Answer]:
    """Answers of ``(rows, length)`` token ids."""
    import torch

    texts: list[str] = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    ended = torch.isin(tokens, torch.tensor(config.eos_token_id, device=tokens.device)).any(dim=1).tolist()
    return [Answer(text, not end) for text, end in zip(texts, ended, strict=True)]


def sample_group(
    model: Any, processor: FrameProcessor, prompts: Sequence[EncodedPrompt], decoding: Decoding, group: int
) -> list[list[Answer]]:
    """Several answers to each prompt of one batch; each prompt is computed once.

    Draws follow ``decoding.seed`` and the batch, and leave the process's generators as they were.

    Args:
        model: Weights, in evaluation mode.
        processor: Text and pixels to what they take.
        prompts: One batch.
        decoding: How; its ``batch`` does not count here.
        group: Answers a prompt.

    Returns:
        ``group`` answers a prompt, in the order of the prompts.
    """
    import torch

    from rft3d_cli.models.shared_prompt import generate_from, read_prompts, sharing, why_not
    from rft3d_cli.models.towers import FrozenTowers

    if why_not(model) is not None:
        repeated = [prompt for prompt in prompts for _ in range(group)]
        with _drawing(model, decoding):
            found = generate_answers(model, processor, repeated, decoding)
    else:
        config = _generation_config(model, processor, decoding)
        with _drawing(model, decoding), torch.inference_mode(), sharing(model):
            read = read_prompts(model, prompts, config.pad_token_id, FrozenTowers(), range(len(prompts)))
            found = _said(processor, generate_from(model, read, group, config), config)
    return [found[start : start + group] for start in range(0, len(found), group)]


def answers(
    model: Any,
    processor: FrameProcessor,
    records: Sequence[Record],
    store: FrameStore,
    decoding: Decoding,
    first: int = 0,
) -> Iterator[tuple[Record, str]]:
    """A model's answers, batch by batch, in the order of the records.

    The model is put into evaluation mode while it answers, and back. A sampled run draws from its own seed and leaves
    the process's generators as they were.

    Args:
        model: Weights.
        processor: Text and pixels to what they take.
        records: What to answer.
        store: Their frames.
        decoding: How.
        first: How many records were answered before these, where a run goes on: a multiple of ``decoding.batch``.
    """
    for part, prompts, own in _batches(model, records, store, decoding, decoding.batch, first):
        with _drawing(model, own):
            texts = generate(model, processor, prompts, own)
        yield from zip(part, texts, strict=True)


def answer_batch(
    model: Any, processor: FrameProcessor, prompts: Sequence[EncodedPrompt], decoding: Decoding, first: int
) -> list[str]:
    """Answers to one batch of a longer run, which draws as :func:`answers` would draw for it.

    Args:
        model: Weights, in evaluation mode.
        processor: Text and pixels to what they take.
        prompts: The batch.
        decoding: How.
        first: How many records of the run stand before it.
    """
    own = _of_batch(decoding, first)
    with _drawing(model, own):
        return generate(model, processor, prompts, own)


def _of_batch(decoding: Decoding, first: int) -> Decoding:
    """The decoding with a seed of the batch's own."""
    return replace(decoding, seed=decoding.seed * 1_000_003 + first)


def grouped_answers(
    model: Any,
    processor: FrameProcessor,
    records: Sequence[Record],
    store: FrameStore,
    decoding: Decoding,
    group: int,
    first: int = 0,
) -> Iterator[tuple[Record, list[Answer]]]:
    """Several answers to each record, in the order of the records; see :func:`answers`.

    Args:
        model: Weights.
        processor: Text and pixels to what they take.
        records: What to answer.
        store: Their frames.
        decoding: How; ``batch`` counts answers, and a forward pass takes at least one whole group.
        group: Answers a record.
        first: How many records were answered before these.
    """
    for part, prompts, own in _batches(model, records, store, decoding, max(1, decoding.batch // group), first):
        yield from zip(part, sample_group(model, processor, prompts, own, group), strict=True)


def _batches(
    model: Any, records: Sequence[Record], store: FrameStore, decoding: Decoding, size: int, first: int
) -> Iterator[tuple[Sequence[Record], list[EncodedPrompt], Decoding]]:
    """Records with their prompts, ``size`` at a time, and the decoding with a seed of the batch's own."""
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(records), size):
            part = records[start : start + size]
            prompts = [store.encode(record) for record in part]
            yield part, prompts, _of_batch(decoding, first + start)
    finally:
        model.train(was_training)


@contextmanager
def _drawing(model: Any, decoding: Decoding) -> Iterator[None]:
    """Sampled tokens are drawn from ``decoding.seed``; the process's generators are left as they were."""
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=decoding.sample):
        if decoding.sample:
            torch.manual_seed(decoding.seed)
        yield
