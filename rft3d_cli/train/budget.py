"""Tokens and GPU memory of a run, known from its recipe and its model's configuration: no weight is loaded.

Memory is an estimate, a sum of named terms. Some are there all the time, some while a rollout is generated, some while
a micro-batch is learned from; the peak is what is always there and the larger of the other two. Weights, gradients,
optimiser and cache are counts; activations follow what autograd keeps of each layer; CUDA's own share is a guess.

Symbols: a token's *residual* is ``r`` bytes a channel, what layers *compute* with is ``c``: 4 and 4 in float32; 4 and 2
where float32 weights are trained under bfloat16 autocast; 2 and 2 where only adapters are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rft3d_cli.models.sizing import frame_tokens
from rft3d_cli.recipe_schema import Config, Lora
from rft3d_cli.samplers import DEFAULT_FRAMES
from rft3d_cli.train.shape import Layers, Shape

GIB = 1 << 30
SOURCE = (640, 480)
"""Pixels of a frame where no data says it: ScanNet's 4 : 3."""
WORDS = 256
"""Tokens of a prompt's text where no data says it."""
CUDA = GIB
"""CUDA's context, libraries and workspaces, and what the allocator cannot fill: a guess, not a measurement."""
HEAD_TOKENS, HEAD_WORDS = 4096, 32768
"""TRL's fused head projects so many positions on so many entries of the vocabulary at a time."""

When = Literal["always", "update", "rollout"]


@dataclass(frozen=True)
class Row:
    """Tokens of one sequence.

    Args:
        frames: Frames of its clip.
        frame_tokens: Tokens a frame.
        prompt: Tokens of the prompt, frames included.
        answer: Tokens that follow: the target in supervised training, else the longest completion.
    """

    frames: int
    frame_tokens: int
    prompt: int
    answer: int

    @property
    def clip_tokens(self) -> int:
        """Tokens of the clip."""
        return self.frames * self.frame_tokens


@dataclass(frozen=True)
class Term:
    """One share of the memory.

    Args:
        name: What it holds.
        bytes: How much.
        when: ``always``, while a micro-batch is learned from (``update``), or while a rollout is generated.
    """

    name: str
    bytes: int
    when: When


@dataclass(frozen=True)
class Budget:
    """Tokens and memory of a run on each of its GPUs.

    Args:
        row: The longest sequence, or an assumed one.
        terms: What the memory is made of.
        processes: GPUs that train together; each holds all of this.
    """

    row: Row
    terms: tuple[Term, ...]
    processes: int = 1

    def during(self, when: When) -> int:
        """Bytes of the terms of one time alone."""
        return sum(term.bytes for term in self.terms if term.when == when)

    @property
    def peak(self) -> int:
        """Bytes at the most crowded moment."""
        return self.during("always") + max(self.during("update"), self.during("rollout"))

    @property
    def crowded(self) -> When:
        """When that is."""
        return "rollout" if self.during("rollout") > self.during("update") else "update"

    def needs(self) -> str:
        """The peak in words.

        >>> Budget(Row(4, 252, 1264, 4096), (Term("weights", 3 << 30, "always"),)).needs()
        'about 3.0 GiB on 1 GPU (estimate)'
        """
        on = "1 GPU" if self.processes == 1 else f"each of {self.processes} GPUs"
        return f"about {gib(self.peak)} on {on} (estimate)"

    def shares(self, most: int = 5) -> str:
        """The terms of the most crowded moment, the largest first."""
        there = [term for term in self.terms if term.bytes and term.when in ("always", self.crowded)]
        there.sort(key=lambda term: -term.bytes)
        rest = sum(term.bytes for term in there[most:])
        named = [f"{term.name} {gib(term.bytes)}" for term in there[:most]]
        return ", ".join([*named, f"the rest {gib(rest)}"] if rest else named)

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "estimate": True,
            "gpus": self.processes,
            "peak_bytes": self.peak,
            "peak_during": self.crowded,
            "terms": [{"name": t.name, "bytes": t.bytes, "when": t.when} for t in self.terms if t.bytes],
            "tokens": {
                "frame": self.row.frame_tokens,
                "frames": self.row.frames,
                "clip": self.row.clip_tokens,
                "prompt": self.row.prompt,
                "answer": self.row.answer,
            },
        }


def gib(count: int) -> str:
    """Bytes as people compare them with a GPU.

    >>> gib(80 << 30), gib(3 << 29), gib(5 << 20)
    ('80.0 GiB', '1.5 GiB', '0.00 GiB')
    """
    return f"{count / GIB:.1f} GiB" if count >= GIB // 10 else f"{count / GIB:.2f} GiB"


def known_frames(config: Config) -> int | None:
    """Frames a clip: what the first training record says where it is there, else the recipe's; None for neither."""
    said: Any = {}
    with suppress(OSError, ValueError, LookupError, TypeError), Path(config.data.train[0]).open("rb") as lines:
        said = json.loads(lines.readline())["video"]
    frames = said.get("frames") if isinstance(said, dict) else None
    if isinstance(frames, list):
        return len(frames) or None
    return config.video.frames or (frames if isinstance(frames, int) else None)


def assumed_row(config: Config, shape: Shape) -> Row:
    """The sequence to count with before the data are read: frames of 640 × 480 pixels, and 256 tokens of words."""
    frames = known_frames(config) or DEFAULT_FRAMES
    each = frame_tokens(*SOURCE, shape.frame_width, shape.patch, shape.merge)
    # A frame's tokens stand between two marks.
    return Row(frames, each, frames * (each + 2) + WORDS, config.rollout.max_tokens)


def less(config: Config, found: Budget) -> str:
    """What would make a run smaller, by the key that saves most."""
    if found.crowded == "rollout":
        return "fewer rollout.prompts, or more GPUs"
    keys = [
        ("model.lora.rank=64", config.model.lora is None),
        ("train.kl=0", config.model.lora is None and config.stage == "grpo" and config.train.kl > 0),
        ("train.micro_batch=1", config.train.micro_batch > 1),
        ("train.gradient_checkpointing=true", not config.train.gradient_checkpointing),
        ("fewer video.frames", found.row.frames > 1),
    ]
    return " or ".join([key for key, helps in keys if helps][:2])


def shares_prompts(config: Config) -> bool:
    """Whether a run computes each prompt once for its group."""
    return config.stage == "grpo" and config.rollout.shared_prompt


def budget(config: Config, shape: Shape, row: Row, *, processes: int = 1, shared_prompt: bool | None = None) -> Budget:
    """The memory of a recipe of stage ``sft`` or ``grpo``.

    Args:
        config: The recipe.
        shape: Its model's.
        row: The longest sequence; every row of a batch is taken to be as long.
        processes: GPUs that train together, as plain data parallelism: what ZeRO or FSDP would share is not taken off.
        shared_prompt: Whether each prompt is computed once for its group; by default as the recipe says.
    """
    numbers = _Numbers.of(config, shape)
    shared = shares_prompts(config) if shared_prompt is None else shared_prompt and config.stage == "grpo"
    terms = [*held(config, shape, processes=processes, shared=shared), *_update(config, shape, row, numbers, shared)]
    if config.stage == "grpo":
        rows = math.ceil(config.completions / processes)
        prompts = math.ceil(rows / config.rollout.group) if shared else rows
        if shared:
            terms.append(Term("pixels of the prompts", pixels(shape, row, prompts), "rollout"))
            terms.append(Term("features of frozen towers", features(config, shape, row, numbers, prompts), "always"))
        else:
            terms.append(Term("pixels of the rollout", pixels(shape, row, rows), "always"))
        if config.rollout.engine == "transformers":
            terms += _rollout(config, shape, row, numbers, prompts, rows)
    else:
        terms.append(Term("pixels of the batch", pixels(shape, row, config.train.micro_batch), "update"))
    terms.append(Term("CUDA", CUDA, "always"))
    return Budget(row, tuple(terms), processes)


@dataclass(frozen=True)
class _Numbers:
    """Bytes of a number: frozen weights, the residual stream, and what layers compute with."""

    frozen: int
    residual: int
    compute: int

    @classmethod
    def of(cls, config: Config, shape: Shape) -> _Numbers:
        if config.model.dtype == "float32":
            return cls(4, 4, 4)
        return cls(2, 2 if lora_of(config, shape) is not None else 4, 2)


def lora_of(config: Config, shape: Shape) -> Lora | None:
    """The adapters of a run: those that the model brings, else the recipe's."""
    return shape.adapters or config.model.lora


def trained(config: Config, shape: Shape) -> dict[str, int]:
    """Trained parameters by part.

    Without adapters: the language model, the geometry merger, and what ``model.freeze`` does not name, but for what the
    geometry encoder never reads. With them: the adapters and a copy of the geometry merger.
    """
    lora = lora_of(config, shape)
    merger = shape.parts.get("geometry merger", 0)
    if lora is not None:
        found = {"adapters": adapter_parameters(lora, shape.text), "geometry merger": merger}
    else:
        frozen = {"vision": "vision", "vision merger": "vision_merger", "geometry encoder": "geometry"}
        found = {part: n for part, n in shape.parts.items() if frozen.get(part) not in config.model.freeze}
        if shape.branch is not None and "geometry encoder" in found:
            found["geometry encoder"] -= shape.branch.unread
    return {part: count for part, count in found.items() if count}


def adapter_parameters(lora: Lora, text: Layers) -> int:
    """Numbers of the two narrow matrices beside each adapted linear layer: rank × (in + out)."""
    h, a, k, i = text.width, text.queries, text.keys, text.inner
    ends = {
        "q_proj": h + a, "k_proj": h + k, "v_proj": h + k, "o_proj": a + h,
        "gate_proj": h + i, "up_proj": h + i, "down_proj": i + h,
    }  # fmt: skip
    return text.layers * lora.rank * sum(ends.get(name, 0) for name in lora.targets)


def held(config: Config, shape: Shape, *, processes: int = 1, shared: bool = False) -> Iterator[Term]:
    """What does not depend on the data: weights, gradients, optimiser, reference.

    Trained weights are float32 whatever ``model.dtype`` says (``train.setup.trainable_model``), frozen ones are of it.
    Gradients are as large as the trained weights, and there from the first micro-batch of a step to its end; AdamW
    keeps two numbers for each trained one from the first step on. With several processes, DDP keeps gradients always,
    in the buckets that it sums; shared prompts do without it. Full fine-tuning with a KL term loads the starting model
    a second time, in the same formats; with adapters, TRL keeps the starting ones, and the merger as it was loaded.

    Under autocast the bfloat16 copy of a float32 weight lives as long as the forward pass that made it, or a whole
    rollout. The embeddings are copied only by ``generate``: TRL's head casts them piece by piece.
    """
    learnt = trained(config, shape)
    lora = lora_of(config, shape)
    small = 4 if config.model.dtype == "float32" else 2
    weights = 0
    for part, count in shape.parts.items():
        trains = learnt.get(part, 0) if lora is None else 0
        size = 4 * trains + small * (count - trains)
        weights += size
        yield Term(f"{part} weights", size, "always")
    if lora is not None:
        yield Term("adapters", 4 * sum(learnt.values()), "always")
    total = sum(learnt.values())
    yield Term("gradients", 4 * total, "always" if processes > 1 and not shared else "update")
    yield Term("AdamW", 8 * total, "always")
    if config.stage == "grpo" and config.train.kl > 0:
        merger = learnt.get("geometry merger", 0)
        again = weights if lora is None else 4 * (total - merger) + small * merger
        yield Term("reference model", again, "always")
    if small == 2:
        embeddings = shape.vocabulary * shape.text.width * (1 if shape.tied else 2) if lora is None else 0
        copied = 2 * (total - embeddings)
        yield Term("bfloat16 copies of weights", copied, "update")
        if config.stage == "grpo":
            head = 2 * shape.vocabulary * shape.text.width if lora is None else 0
            yield Term("bfloat16 copies of weights", copied + head, "rollout")


def pixels(shape: Shape, row: Row, rows: int) -> int:
    """Bytes of float32 patches; TRL's rollout holds them once a completion, a shared prompt's are read once."""
    return rows * row.clip_tokens * shape.merge**2 * shape.patch_numbers * 4


def features(config: Config, shape: Shape, row: Row, numbers: _Numbers, prompts: int) -> int:
    """Bytes of what frozen towers made of the prompts of a rollout, kept until the next: no tower sees a clip twice."""
    learnt = trained(config, shape)
    total = 0
    if "vision" not in learnt and "vision merger" not in learnt:
        total += row.clip_tokens * shape.text.width * numbers.frozen
    if shape.branch is not None and "geometry encoder" not in learnt:
        patches = row.frames * shape.geometry_patches(row.frame_tokens)
        total += patches * 2 * shape.branch.width * numbers.compute
    return prompts * total


# A micro-batch ------------------------------------------------------------------------------------


def kept_by_layer(layers: Layers, residual: int, compute: int) -> int:
    """Bytes that autograd keeps of one layer for each token.

    Two norms keep their float32 input and the normalised values. Each linear layer keeps its input: where autocast
    casts it, a copy for each of the five that read a norm's output, else one for each norm. Attention keeps queries,
    keys and values of every query head, and its output; SwiGLU keeps the gate before and after the activation, and the
    other factor.
    """
    h, a, i = layers.width, layers.queries, layers.inner
    norms = 2 * (4 + residual) * h
    inputs = compute * ((5 if residual > compute else 2) * h + a + i)
    return norms + inputs + compute * (4 * a + 3 * i)


def gradients_within_layer(layers: Layers, residual: int, compute: int) -> int:
    """Bytes a token of a layer's gradients that exist at once: SwiGLU's factors and product, and the residual's."""
    return 3 * compute * layers.inner + 2 * residual * layers.width


def forward_only(layers: Layers, residual: int, compute: int) -> int:
    """Bytes a token in one layer whose activations nobody keeps: residual, norm, and the wider of attention and MLP.

    The vision tower turns queries and keys in float32, through some eight tensors of their size.
    """
    h, a, k, i = layers.width, layers.queries, layers.keys, layers.inner
    attention = compute * 3 * a + 4 * 8 * a if layers.float_rotary else compute * (4 * a + 2 * k)
    return (residual + 8 + compute) * h + max(attention, 3 * compute * i)


def activations(layers: Layers, tokens: int, residual: int, compute: int, *, checkpointing: bool) -> int:
    """Bytes that a stack of layers keeps from forward to backward; with gradient checkpointing only their inputs."""
    each = residual * layers.width if checkpointing else kept_by_layer(layers, residual, compute)
    return tokens * layers.layers * each


def backward(layers: Layers, tokens: int, residual: int, compute: int, *, checkpointing: bool) -> int:
    """Bytes of one layer on the way back: gradients, and with gradient checkpointing all that was not kept."""
    again = kept_by_layer(layers, residual, compute) if checkpointing else 0
    return tokens * (gradients_within_layer(layers, residual, compute) + again)


def scores(layers: Layers, rows: int, tokens: int, compute: int, *, checkpointing: bool) -> int:
    """Bytes of attention weights, which only ``model.attention: eager`` keeps: a float32 softmax, and what is cast."""
    each = 4 if compute == 4 else 4 + compute
    return (1 if checkpointing else layers.layers) * rows * layers.heads * tokens**2 * each


def head(shape: Shape, tokens: int, residual: int, compute: int, *, trains: bool) -> int:
    """Bytes of TRL's fused head: one tile of logits, its slice of weights, and the hidden states with their gradients.

    Where the embeddings are trained, their gradient is made anew in each micro-batch before it is added: once by the
    head and once by the lookup.
    """
    tile = min(tokens, HEAD_TOKENS) * HEAD_WORDS * compute
    slices = min(shape.vocabulary, HEAD_WORDS) * shape.text.width * compute
    states = tokens * shape.text.width * (residual + compute + 4)
    return tile + slices + states + (4 * shape.vocabulary * shape.text.width if trains else 0)


def encoder(shape: Shape, row: Row, compute: int) -> int:
    """Bytes while a frozen geometry encoder looks at one clip; clips come one after another.

    VGGT's blocks hold about seven times tokens × width at once (measured: tests/models/test_vggt.py holds its peak to a
    fifth of what keeping every layer would take), beside the clip in float32 and the features of its patches.
    """
    branch = shape.branch
    if branch is None:
        return 0
    patches = row.frames * shape.geometry_patches(row.frame_tokens)
    tokens = patches + row.frames * branch.special_tokens
    clip = 4 * 3 * patches * branch.patch**2
    return clip + compute * (7 * tokens * branch.width + 2 * patches * branch.width)


def merger(shape: Shape, tokens: int, compute: int) -> int:
    """Bytes that the trained geometry merger keeps of some merged tokens.

    Float32 features before and after their norm, the gathered ones that its first layer reads, and its hidden layer
    before and after the activation.
    """
    if shape.branch is None:
        return 0
    gathered = 2 * shape.branch.width * shape.merge**2
    return tokens * (gathered * (8 + 4 + compute) + 2 * compute * shape.branch.merger_hidden)


def _update(config: Config, shape: Shape, row: Row, numbers: _Numbers, shared: bool) -> Iterator[Term]:
    """What is kept adds up; of what is at work, one thing is at a time.

    Where prompts are shared, a micro-batch is one prompt (or as many as it has whole groups) and its completions. The
    prompt's activations stay until the last of its completions has been through; its own way back comes after theirs.
    """
    r, c = numbers.residual, numbers.compute
    rows, light = config.train.micro_batch, config.train.gradient_checkpointing
    learnt = trained(config, shape)
    prompts = math.ceil(rows / config.rollout.group) if shared else rows
    parts = [prompts * row.prompt, rows * row.answer]
    tokens = sum(parts)
    kept = activations(shape.text, tokens, r, c, checkpointing=light)
    if config.model.attention == "eager" and not shared:
        kept += scores(shape.text, rows, row.prompt + row.answer, c, checkpointing=light)
    yield Term("activations of the language model", kept, "update")
    if shared:
        each = cache(shape.text, rows, row.prompt + row.answer, c) // (shape.text.layers if light else 1)
        yield Term("the prompt's keys and values, for each completion", each, "update")
        yield Term("gradients of the prompt's keys and values", cache(shape.text, prompts, row.prompt, c), "update")
    back = max(parts) if shared else tokens
    at_work = {
        "logits and head": head(shape, rows * row.answer, r, c, trains="language model" in learnt),
        "a layer on the way back": backward(shape.text, back, r, c, checkpointing=light),
    }
    rows = prompts  # from here on: clips
    patches = rows * row.clip_tokens * shape.merge**2
    # With gradient checkpointing, transformers makes what enters a tower need a gradient; one that is frozen as a whole
    # is spared that (models.freeze.rest_where_frozen).
    if "vision" in learnt or (light and "vision merger" in learnt):
        stream = 4 if "vision" in learnt else numbers.frozen
        size = activations(shape.vision, patches, stream, c, checkpointing=light)
        yield Term("activations of the vision tower", size, "update")
        at_work["a layer on the way back"] = max(
            at_work["a layer on the way back"], backward(shape.vision, patches, stream, c, checkpointing=light)
        )
    elif not (shared and config.rollout.engine == "transformers"):  # else the rollout has kept what it saw
        at_work["vision tower at work"] = _seen(config, shape, row, numbers, rows, shared)
    if shape.branch is not None:
        if not (shared and config.rollout.engine == "transformers" and "geometry encoder" not in learnt):
            at_work["geometry encoder at work"] = encoder(shape, row, c)
        yield Term("activations of the geometry merger", merger(shape, rows * row.clip_tokens, c), "update")
        if "geometry encoder" in learnt:
            clip = shape.branch.kept(row.frames * shape.geometry_patches(row.frame_tokens), row.frames, c)
            yield Term("activations of the geometry encoder", rows * clip, "update")
    yield _largest(at_work, "update")


def _largest(at_work: dict[str, int], when: When) -> Term:
    name = max(at_work, key=lambda name: at_work[name])
    return Term(name, at_work[name], when)


# A rollout ----------------------------------------------------------------------------------------


def cache(text: Layers, rows: int, tokens: int, compute: int) -> int:
    """Bytes of the keys and values that ``generate`` keeps: every layer's, of every token of every completion."""
    return 2 * text.layers * text.keys * rows * tokens * compute


def _seen(config: Config, shape: Shape, row: Row, numbers: _Numbers, rows: int, shared: bool) -> int:
    """Bytes while the vision tower looks: at all clips at once, or, frozen, at those of shared prompts in turn."""
    frozen = not {"vision", "vision merger"} & trained(config, shape).keys()
    clips = 1 if shared and frozen else rows
    return clips * row.clip_tokens * shape.merge**2 * forward_only(shape.vision, numbers.frozen, numbers.compute)


def _rollout(config: Config, shape: Shape, row: Row, numbers: _Numbers, prompts: int, rows: int) -> Iterator[Term]:
    """All completions of a process are generated at once, and each brings its prompt and frames along, unless shared.

    The keys and values of a shared prompt are there once: decoding reads them for the whole group.
    """
    r, c = numbers.residual, numbers.compute
    kept = cache(shape.text, prompts, row.prompt, c) + cache(shape.text, rows, config.rollout.max_tokens, c)
    yield Term("key-value cache", kept, "rollout")
    at_work = {
        "prompts being read": prompts * row.prompt * forward_only(shape.text, r, c),
        "vision tower at work": _seen(config, shape, row, numbers, prompts, prompts < rows),
        "geometry encoder at work": encoder(shape, row, c),
    }
    yield _largest(at_work, "rollout")
