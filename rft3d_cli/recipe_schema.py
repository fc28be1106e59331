"""The recipe's schema: every key with its type, its default and one line on what it does.

One tree serves every stage. Keys that have no effect in a recipe's stage are refused when they are set: a setting
that does nothing would only mislead.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from rft3d_cli.samplers import Sampler

STAGES = ("sft", "grpo", "evaluate", "infer")


def _none(value: Any) -> Any:
    """``none`` and ``null`` as people write them where a key may be empty."""
    return None if isinstance(value, str) and value.lower() in ("none", "null") else value


def _listed(value: Any) -> Any:
    """One value where a list is asked for is a list of one, and nothing is an empty list."""
    value = _none(value)
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


T = TypeVar("T")
Maybe = Annotated[T | None, BeforeValidator(_none)]
Listed = Annotated[list[T], BeforeValidator(_listed)]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Real = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Section(BaseModel):
    """Keys that belong together."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(Section):
    """Low-rank adapters on the language model."""

    rank: Count = Field(64, description="Rank of the adapters.")
    alpha: Positive = Field(128.0, description="Scale; the adapters' output is multiplied by alpha / rank.")
    dropout: Share = Field(0.05, description="Dropout before the adapters.")
    targets: Listed[Text] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        description="Linear layers of the language model that get adapters, by name.",
    )


class Model(Section):
    """The model and which parts of it are trained."""

    name: Text = Field(description="A shipped model (rft3d models list), a folder, a run, or a name on the hub.")
    geometry: Literal["auto", "none", "vggt", "tiny"] = Field(
        "auto", description="Geometry branch: what the model's files hold, none, or one that is added to a plain model."
    )
    geometry_weights: Maybe[Text] = Field(
        None, description="VGGT's weights, for a model without: a folder or a hub name; by default facebook/VGGT-1B."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format of the weights; auto is bfloat16 on a GPU and float32 elsewhere."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="Attention kernel.")
    freeze: Listed[Literal["vision", "vision_merger", "geometry"]] = Field(
        ["vision", "vision_merger", "geometry"], description="Parts that are not trained; [] trains them all."
    )
    lora: Maybe[Lora] = Field(None, description="Train low-rank adapters instead of the language model itself.")


class Data(Section):
    """Record files. Relative paths start at the working directory."""

    train: Listed[Text] = Field([], description="Record file, or a list of them, to train on; their tasks may differ.")
    eval: Listed[Text] = Field([], description="Record file, or a list of them, held out.")
    media_root: Maybe[Text] = Field(None, description="Folder of the media paths; by default each file's own folder.")
    limit: Maybe[Count] = Field(None, description="Train on the first so many records of each file.")
    shared_scenes: bool = Field(
        False,
        description="Allow scenes in train that eval or a benchmark has too; scores then say little.",
    )
    workers: int = Field(4, ge=0, description="Processes that read and decode; 0 does it in the main process.")


class Video(Section):
    """Which frames the model sees."""

    frames: Maybe[Count] = Field(None, description="Frames a clip; by default what each record says.")
    sampler: Maybe[Sampler] = Field(
        None, description="How frames are chosen from a clip that has more; by default what each record says."
    )
    tags: bool = Field(
        False, description="Write `Frame-i: ` before each frame, where the prompt does not do so itself."
    )


class Vllm(Section):
    """vLLM, where it samples the completions."""

    mode: Literal["colocate", "server"] = Field(
        "colocate", description="On the training GPUs, or in a server of its own (vllm serve)."
    )
    server_url: Maybe[Text] = Field(None, description="Where the server listens, as in http://node7:8000.")
    gpu_memory: float = Field(0.3, gt=0, lt=1, description="Share of a GPU's memory for vLLM; colocate only.")
    tensor_parallel: Count = Field(1, description="GPUs over which vLLM cuts the model; colocate only.")


class Rollout(Section):
    """How completions are sampled."""

    group: int = Field(8, ge=2, description="Completions a prompt; their rewards are compared with each other.")
    prompts: Count = Field(8, description="Prompts a rollout batch, over all devices.")
    temperature: Positive = Field(1.0, description="Sampling temperature.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the smallest set of tokens with this probability.")
    max_tokens: Count = Field(1024, description="Longest completion, in tokens.")
    engine: Literal["transformers", "vllm"] = Field("transformers", description="What generates the completions.")
    vllm: Vllm = Vllm()
    shared_prompt: bool = Field(True, description="Compute each prompt once for its whole group.")
    max_refills: int = Field(
        0, ge=0, description="Times that groups with equal rewards are replaced by other prompts' (dynamic sampling)."
    )


class Length(Section):
    """The soft penalty of the `length` reward."""

    full: Count = Field(2048, description="Characters up to which a completion scores 1.")
    zero: Count = Field(4096, description="Characters from which a completion scores 0; linear between.")


class RewardOptions(Section):
    """How rewards are computed and combined."""

    format: Literal["add", "gate"] = Field(
        "add", description="add counts the format reward as one more term; gate multiplies the sum of the others by it."
    )
    answer_style: Literal["think", "direct"] = Field(
        "think", description="What the format reward asks of choices and numbers: think and answer tags, or the answer."
    )
    iou_threshold: Share = Field(0.25, description="A box counts as found above this IoU (det_f1).")
    det_iou_matching: Literal["one_to_one", "best"] = Field(
        "one_to_one", description="det_iou: one-to-one and by label, or each prediction's best box."
    )
    length: Length = Field(Length(), description="When the length reward starts to fall and where it ends.")


class Train(Section):
    """The optimiser and the loss."""

    lr: Positive = Field(1e-6, description="Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="Decay after the warm-up, to 0.")
    warmup: NotNegative = Field(0.03, description="Warm-up: a share of all steps below 1, a number of steps from 1.")
    weight_decay: NotNegative = Field(0.01, description="AdamW's weight decay.")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="AdamW's two decay rates.")
    max_grad_norm: Positive = Field(1.0, description="Gradients are scaled down to this norm.")
    kl: NotNegative = Field(0.04, description="Weight of the KL term to the starting model; 0 needs no reference.")
    clip: Positive = Field(0.2, description="The probability ratio is clipped to 1 ± this.")
    loss: Literal["group", "batch", "sequence"] = Field(
        "group", description="Token losses are averaged over a prompt's group, the whole batch, or each completion."
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group",
        description="Advantages are divided by the rewards' standard deviation in the group, in the batch, or not.",
    )
    std_floor: NotNegative = Field(0.02, description="That standard deviation is taken to be at least this.")
    iterations: Count = Field(1, description="Optimiser steps on each rollout batch.")
    epochs: Positive = Field(1.0, description="Passes over the training records, unless steps is set.")
    steps: Maybe[Count] = Field(None, description="Optimiser steps; by default as many as the epochs take.")
    batch: Count = Field(16, description="Samples an optimiser step, over all devices.")
    micro_batch: Count = Field(4, description="Sequences a forward pass and device; costs memory, not accuracy.")
    max_length: Maybe[Count] = Field(
        None, description="Refuse records with more tokens, prompt and answer; by default what the model can take."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, more time.")
    patience: Maybe[Count] = Field(
        20, description="Stop after so many steps with only equal rewards, or only cut completions; null never does."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of data order, initial weights and sampling.")

    @field_validator("warmup")
    @classmethod
    def _share_or_steps(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError("should be a share below 1 or a whole number of steps")
        return value


class Eval(Section):
    """Scoring held-out records during training."""

    every: Maybe[Count] = Field(None, description="Optimiser steps between evaluations; by default only at the end.")
    limit: Maybe[Count] = Field(None, description="Score the first so many held-out records.")
    metric: Literal[
        "score",
        "reward",
        "loss",
        "f1",
        "acc@0.25",
        "acc@0.5",
        "overall",
        "official_f1",
        "official_f1_20",
        "official_acc@0.25",
        "official_acc@0.5",
        "official_overall",
    ] = Field(
        "score",
        description="What the best checkpoint is best in: score is the mean over records of their task's own score, "
        "official_… what rft3d evaluate says by the public scorers.",
    )
    patience: Maybe[Count] = Field(
        None, description="Stop after so many evaluations without a better one; by default never."
    )
    keep_best: bool = Field(True, description="Keep the checkpoint with the best metric in the folder best.")
    sample: bool = Field(False, description="Sample the answers as rollouts do; by default greedy.")


class Checkpoint(Section):
    """Checkpoints to resume from."""

    every: Count = Field(50, description="Optimiser steps between checkpoints.")
    keep: Count = Field(2, description="How many of the newest are kept: two at least, so that one is complete.")


class Log(Section):
    """What is written down during a run."""

    to: Listed[Literal["jsonl", "tensorboard", "wandb", "trackio"]] = Field(["jsonl"], description="Where metrics go.")
    completions: int = Field(
        20, ge=0, description="Completions, and groups of rollouts, kept with their scores at a time."
    )
    every: Count = Field(1, description="Optimiser steps between two lines of metrics.")


class Config(Section):
    """The whole tree."""

    stage: Literal["sft", "grpo", "evaluate", "infer"] = Field(description="What the recipe is for.")
    model: Model
    data: Data = Data()
    video: Video = Video()
    rollout: Rollout = Rollout()
    rewards: dict[Text, NotNegative] = Field(
        {}, description="Reward name, or file.py:name, and its weight; 0 only logs it."
    )
    reward_options: RewardOptions = RewardOptions()
    train: Train = Train()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    output: Maybe[Text] = Field(None, description="The run's folder; by default runs/NAME.")

    @property
    def completions(self) -> int:
        """Completions of one rollout batch."""
        return self.rollout.group * self.rollout.prompts

    @property
    def generation_period_steps(self) -> int:
        """Optimiser steps that share one rollout batch.

        The trainer's rollout buffer is not part of a checkpoint, so only between two periods can a run be resumed
        exactly.
        """
        return self.train.iterations if self.stage == "grpo" else 1


ONLY: dict[str, tuple[str, ...]] = {
    "data.train": ("sft", "grpo"),
    "rollout.group": ("grpo",),
    "rollout.prompts": ("grpo",),
    "rollout.engine": ("grpo",),
    "rollout.shared_prompt": ("grpo",),
    "rollout.vllm": ("grpo",),
    "rollout.max_refills": ("grpo",),
    "rewards": ("grpo",),
    "reward_options": ("grpo",),
    "train": ("sft", "grpo"),
    "train.kl": ("grpo",),
    "train.clip": ("grpo",),
    "train.loss": ("grpo",),
    "train.scale_rewards": ("grpo",),
    "train.std_floor": ("grpo",),
    "train.iterations": ("grpo",),
    "train.patience": ("grpo",),
    "train.batch": ("sft",),
    "train.seed": STAGES,
    "eval.every": ("sft", "grpo"),
    "eval.metric": ("sft", "grpo"),
    "eval.keep_best": ("sft", "grpo"),
    "eval.patience": ("sft", "grpo"),
    "checkpoint": ("sft", "grpo"),
    "log": ("sft", "grpo"),
}
"""The stages in which a key or section has an effect, where not in all; the longest matching key decides."""


def stages_of(key: str) -> tuple[str, ...]:
    """The stages in which a key has an effect.

    >>> stages_of("train.kl"), stages_of("rewards.det_f1")
    (('grpo',), ('grpo',))
    """
    while key:
        if key in ONLY:
            return ONLY[key]
        key = key.rpartition(".")[0]
    return STAGES


Kind = Literal["section", "optional section", "names", "list", "value"]


@dataclass(frozen=True)
class Key:
    """One key of the tree.

    Args:
        key: The dotted key.
        kind: What it holds. ``names`` is a mapping with free names; an optional section may be null.
        type: Its type in words.
        default: The default, None where there is none.
        required: Whether a recipe must set it.
        text: One line on what it does.
    """

    key: str
    kind: Kind
    type: str
    default: Any
    required: bool
    text: str

    @property
    def is_leaf(self) -> bool:
        """Whether it can be given a value as a whole."""
        return self.kind != "section"


@cache
def keys() -> dict[str, Key]:
    """Every key of the tree by its dotted name, sections before their keys."""
    return {key.key: key for key in _walk(Config, "")}


def _walk(section: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        required = field.is_required()
        text = field.description or ""
        inner, optional = _strip(field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            doc = text or (inner.__doc__ or "").split("\n")[0]
            yield Key(key, "optional section" if optional else "section", "section", None, required, doc)
            yield from _walk(inner, f"{key}.")
            continue
        default = None if required else field.get_default()
        kind: Kind = "value"
        if get_origin(inner) is dict:
            kind = "names"
        elif get_origin(inner) in (list, tuple):
            kind = "list"
        yield Key(key, kind, _type_text(inner) + (" or null" if optional else ""), default, required, text)


def _strip(annotation: Any) -> tuple[Any, bool]:
    """An annotation without metadata and without None, and whether None was in it."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if len(parts) == 1:
            return _strip(parts[0])[0], True
    return annotation, False


def _type_text(annotation: Any) -> str:
    """A type in words.

    >>> _type_text(list[Literal["a", "b"]]), _type_text(float), _type_text(dict[str, float])
    ('list of a | b', 'number', 'name: number')
    """
    annotation, _ = _strip(annotation)
    args = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is list:
        return f"list of {_type_text(args[0])}"
    if origin is tuple:
        return "[" + ", ".join(_type_text(arg) for arg in args) + "]"
    if origin is dict:
        return f"name: {_type_text(args[1])}"
    return {int: "whole number", float: "number", bool: "true | false", str: "text"}[annotation]
