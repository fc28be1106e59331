"""Arithmetic of a run and the hours it may take, from its recipe and its model's sizes: nothing is measured.

Floating-point operations are counted: two a weight and token forwards, twice that backwards where weights are trained,
once where only adapters are, and attention by the pairs of tokens that see each other. The time is that arithmetic at a
stated share of a GPU's peak, and, for completions that transformers samples, one pass over weights and cache a token:
limited by memory where there is much to read, and by the launching of kernels where there is little.

What a prompt costs is counted once a completion, or once a group where prompts are shared: in the language model, and
in the towers, which see each clip again in each pass over it unless they are frozen and shared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rft3d_cli.recipe_schema import Config
from rft3d_cli.train.budget import Row, cache, lora_of, shares_prompts, trained
from rft3d_cli.train.devices import Rate
from rft3d_cli.train.shape import Branch, Shape

UTILISATION = 0.2
"""Share of a GPU's peak that training reaches. VG-LLM's published warm-up of its 4B model, about 8 hours on eight H800,
comes to about this by the same count; kernels that are well fed reach twice as much."""
READ = 0.6
"""Share of the memory's peak that decoding reaches."""
LAUNCH = 0.8e-3
"""Seconds a layer and token that transformers takes to launch its kernels, however little there is to compute."""
DECODING = "decoding"
LARGE = 10**8
"""Parameters from which a model is one for GPUs, whose hours are worth an estimate."""
TYPICAL = 4
"""Where no data says how long answers are, they are taken to be a quarter of ``rollout.max_tokens``."""


@dataclass(frozen=True)
class Answers:
    """How long completions are.

    Args:
        mean: Tokens of one.
        longest: Tokens of the longest that is sampled together; all the others wait for it.
    """

    mean: int
    longest: int


@dataclass(frozen=True)
class Cost:
    """The work of one step, over all GPUs.

    A step of GRPO is a rollout of ``rollout.prompts`` prompts and all that is learned from it.

    Args:
        work: Floating-point operations by what they are for.
        records: Records that a step uses.
        decoding: Decoding steps, one token of every completion each; 0 where nothing is sampled here.
        floor: Seconds a decoding step takes at least.
        weights: Bytes of weights that a decoding step reads on each GPU.
        keys: Bytes of keys and values that it reads on all GPUs together, on average.
        tokens: Tokens that the language model passes, forwards.
    """

    work: dict[str, float]
    records: int
    decoding: int = 0
    floor: float = 0.0
    weights: int = 0
    keys: int = 0
    tokens: int = 0

    @property
    def flops(self) -> float:
        """Floating-point operations of a step."""
        return sum(self.work.values())

    def seconds(self, gpus: int, rate: Rate, utilisation: float = UTILISATION) -> float:
        """Seconds of a step on so many GPUs of one kind."""
        read = (self.weights + self.keys / gpus) / (rate.bandwidth * READ)
        reckoned = self.flops - self.work.get(DECODING, 0)  # decoding waits for memory and launches, not for arithmetic
        return reckoned / (gpus * rate.flops * utilisation) + self.decoding * max(self.floor, read)

    def hours(self, records: int, gpus: int, rate: Rate, utilisation: float = UTILISATION) -> float:
        """Hours of one pass over so many records."""
        return records / self.records * self.seconds(gpus, rate, utilisation) / 3600

    def document(self, gpus: int, rate: Rate) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "estimate": True,
            "flops": self.flops,
            "parts": self.work,
            "tokens": self.tokens,
            "records": self.records,
            "decoding_steps": self.decoding,
            "gpu": rate.name,
            "gpus": gpus,
            "utilisation": UTILISATION,
            "seconds": round(self.seconds(gpus, rate), 2),
        }


def assumed_answers(row: Row) -> Answers:
    """Completions where no data says how long they are."""
    return Answers(max(1, row.answer // TYPICAL), row.answer)


def cost(
    config: Config, shape: Shape, row: Row, answers: Answers | None = None, *, shared_prompt: bool | None = None
) -> Cost:
    """The work of one step of a recipe of stage ``sft`` or ``grpo``.

    Args:
        config: The recipe.
        shape: Its model's.
        row: A typical sequence: its frames and prompt.
        answers: How long answers are; by default assumed from the row's longest.
        shared_prompt: Whether each prompt is computed once for its group; by default as the recipe says.
    """
    said = answers or assumed_answers(row)
    if config.stage == "sft":
        return _warm_up(config, shape, row, said.mean)
    shared = shares_prompts(config) if shared_prompt is None else shared_prompt
    prompts, group = config.rollout.prompts, config.rollout.group
    times = 1 if shared else group
    forward = prompts * _group(shape, row.prompt, said.mean, group, shared)
    seen = prompts * times * _mergers(shape, row)
    passes = {
        "reference": float(config.train.kl > 0),
        # Log-probabilities of the network that sampled: of later passes, or where another engine sampled.
        "old policy": float(config.train.iterations > 1 or config.rollout.engine == "vllm"),
        "update": config.train.iterations * _training(config, shape),
    }
    read = prompts * times * _language(shape, row.prompt, row.prompt**2 / 2, 1)
    work = {"prompts being read": read + seen, **{name: factor * (forward + seen) for name, factor in passes.items()}}
    looks = 1 + sum(factor > 0 for name, factor in passes.items() if name != "update") + config.train.iterations
    work["towers"] = prompts * _towers(config, shape, row, times * looks, kept=shared)
    decoded = prompts * group * said.mean
    context = row.prompt + said.mean / 2
    work[DECODING] = _language(shape, decoded, decoded * context, decoded)
    passed = prompts * (times * row.prompt + group * said.mean)
    tokens = int(passed * sum(bool(f) for f in passes.values()) + prompts * times * row.prompt + decoded)
    size = 4 if config.model.dtype == "float32" else 2
    slow = config.rollout.engine == "transformers"
    return Cost(
        {name: count for name, count in work.items() if count},
        records=prompts,
        decoding=said.longest,
        floor=LAUNCH * shape.text.layers if slow else 0.0,
        weights=size * (shape.text.layers * _layer(shape) + shape.vocabulary * shape.text.width),
        keys=cache(shape.text, prompts * times, row.prompt, size)
        + cache(shape.text, prompts * group, said.mean // 2, size),
        tokens=tokens,
    )


def _warm_up(config: Config, shape: Shape, row: Row, answer: int) -> Cost:
    length, rows = row.prompt + answer, config.train.batch
    forward = rows * (_language(shape, length, length**2 / 2, answer) + _mergers(shape, row))
    work = {"training": _training(config, shape) * forward, "towers": rows * _towers(config, shape, row, 1, kept=False)}
    return Cost(work, records=rows, tokens=rows * length)


def _training(config: Config, shape: Shape) -> float:
    """Forward passes that one forward and backward pass cost: gradients of inputs, of weights, and what is repeated."""
    light = config.train.gradient_checkpointing
    return 1 + 1 + (lora_of(config, shape) is None) + light


def _layer(shape: Shape) -> int:
    t = shape.text
    return 2 * t.width * t.queries + 2 * t.width * t.keys + 3 * t.width * t.inner


def _language(shape: Shape, tokens: float, pairs: float, predicted: float) -> float:
    """Operations of the language model for some tokens, pairs that attend, and positions that predict a token."""
    t = shape.text
    attention = 4 * t.queries * t.layers * pairs
    return 2 * tokens * t.layers * _layer(shape) + attention + 2 * predicted * shape.vocabulary * t.width


def _group(shape: Shape, prompt: int, answer: int, group: int, shared: bool) -> float:
    """One forward pass of a prompt and its completions."""
    if not shared:
        length = prompt + answer
        return group * _language(shape, length, length**2 / 2, answer)
    pairs = prompt**2 / 2 + group * answer * (prompt + answer / 2)
    return _language(shape, prompt + group * answer, pairs, group * answer)


def _mergers(shape: Shape, row: Row) -> float:
    """What lies between the towers and the language model."""
    parameters = shape.parts.get("geometry merger", 0)
    return 2.0 * parameters * row.clip_tokens


def _towers(config: Config, shape: Shape, row: Row, looks: int, *, kept: bool) -> float:
    """The towers over one record's clip in one step.

    Args:
        config: The recipe.
        shape: The model's.
        row: The clip.
        looks: Passes over the clip.
        kept: Whether what a frozen tower has seen is kept until the step's end.
    """
    learnt = trained(config, shape)
    patches = row.clip_tokens * shape.merge**2
    vision = 2.0 * patches * (shape.parts.get("vision", 0) + shape.parts.get("vision merger", 0) / shape.merge**2)
    parts = [(vision, bool({"vision", "vision merger"} & learnt.keys()))]
    if shape.branch is not None:
        parts.append((_encoder(shape, shape.branch, row), "geometry encoder" in learnt))
    # A trained tower is passed backwards too, in the update alone.
    return sum(count * (1 if kept and not moves else looks + 2 * moves) for count, moves in parts)


def _encoder(shape: Shape, branch: Branch, row: Row) -> float:
    """The geometry encoder over one clip: attention within frames and, in some blocks, over all of them."""
    each = shape.geometry_patches(row.frame_tokens) + branch.special_tokens
    tokens = row.frames * each
    linear = 2.0 * tokens * 12 * branch.width**2 * branch.blocks
    pairs = (branch.blocks - branch.across) * row.frames * each**2 + branch.across * tokens**2
    return linear + 4.0 * branch.width * pairs


def worth_saying(shape: Shape) -> bool:
    """Whether a model is large enough for the question."""
    return sum(shape.parts.values()) >= LARGE


def words(found: Cost, gpus: int, rate: Rate, records: int | None = None) -> str:
    """An estimate in words.

    >>> rate = Rate("H100", 989e12, 3.35e12)
    >>> words(Cost({"training": 1.6e15}, records=16), 8, rate)
    '1.0 s a step of 16 records, 0.2 h for 10,000 on 8 H100 (estimate at 20 % of peak)'
    """
    count = 10_000 if records is None else records
    hours = found.hours(count, gpus, rate)
    of = f"{count:,}" if records is None else f"all {count:,}"
    shown = f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"
    return (
        f"{found.seconds(gpus, rate):.1f} s a step of {found.records} records, {shown} h for {of} on {gpus} "
        f"{rate.name} (estimate at {math.floor(100 * UTILISATION)} % of peak)"
    )
