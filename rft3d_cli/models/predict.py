"""Answers of a model to records: what evaluate, infer and the evaluations during training share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rft3d_cli.models.inputs import EncodedPrompt, FrameStore, collate
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
    """

    max_tokens: int = 1024
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    batch: int = 32

    def document(self) -> dict[str, Any]:
        """The settings that shape the answers."""
        if not self.sample:
            return {"greedy": True, "max_tokens": self.max_tokens}
        return {
            "greedy": False,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "batch": self.batch,
        }


def forbidden_ids(processor: FrameProcessor) -> list[int]:
    """Ids of the tokens that stand for pixels, where the tokenizer knows them: none of them may be sampled."""
    tokenizer = processor.tokenizer
    ids = [tokenizer.convert_tokens_to_ids(token) for token in FORBIDDEN]
    return [i for i in ids if i is not None and i != tokenizer.unk_token_id]


def generate(model: Any, processor: FrameProcessor, prompts: Sequence[EncodedPrompt], decoding: Decoding) -> list[str]:
    """Answers to one batch of prompts, in order."""
    import torch
    from transformers import GenerationConfig

    tokenizer = processor.tokenizer
    stop = model.generation_config.eos_token_id
    sampling: dict[str, Any] = {"do_sample": False}
    if decoding.sample:
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=decoding.max_tokens,
        eos_token_id=stop if stop is not None else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=forbidden_ids(processor),
        **sampling,
    )
    batch = on_device(collate(prompts, tokenizer.pad_token_id), model.device)
    with torch.inference_mode():
        out = model.generate(**batch, generation_config=config)
    width = batch["input_ids"].shape[1]
    texts: list[str] = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return texts


def on_device(batch: dict[str, Any], device: Any) -> dict[str, Any]:
    """A batch of :func:`~rft3d_cli.models.inputs.collate` on a device."""
    return {k: [t.to(device) for t in v] if isinstance(v, list) else v.to(device) for k, v in batch.items()}


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
    import torch

    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(records), decoding.batch):
            part = records[start : start + decoding.batch]
            prompts = [store.encode(record) for record in part]
            devices = [model.device] if model.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices, enabled=decoding.sample):
                if decoding.sample:
                    torch.manual_seed(decoding.seed * 1_000_003 + first + start)
                texts = generate(model, processor, prompts, decoding)
            yield from zip(part, texts, strict=True)
    finally:
        model.train(was_training)
