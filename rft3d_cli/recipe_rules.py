"""Rules that join several keys of a recipe, each with the reason in its message."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator

from rft3d_cli.errors import UsageError
from rft3d_cli.recipe_schema import Config, stages_of

_FILE_REWARD = re.compile(r".+\.py:[A-Za-z_]\w*")

Where = Callable[[str], str]


def broken_rules(config: Config, where: Where) -> list[UsageError]:
    """Every rule that a recipe breaks.

    Args:
        config: A tree that fits the schema.
        where: Says where a key was given, for the messages.
    """
    rules = [_data, _batches, _attention]
    if config.stage == "grpo":
        rules += [_rewards, _reward_options, _rollout, _checkpoints]
    return [UsageError(f"{message} ({where(key)})", hint) for rule in rules for key, message, hint in rule(config)]


def without_effect(config: Config, given: Iterable[str], where: Where) -> list[UsageError]:
    """Keys that were set although they have no effect in the recipe's stage."""
    return [
        UsageError(
            f"`{key}` has no effect in the stage {config.stage} ({where(key)})",
            f"leave `{key}` out, it is for {' and '.join(stages_of(key))}",
        )
        for key in given
        if config.stage not in stages_of(key)
    ]


Broken = Iterator[tuple[str, str, str | None]]
"""The key to point at, the message and the hint of each rule that is broken."""


def _data(config: Config) -> Broken:
    if config.stage in ("sft", "grpo") and not config.data.train:
        hint = "name a record file: data.train=FILE; rft3d prepare writes them"
        yield "data.train", f"`data.train` is missing, {config.stage} needs records to train on", hint
    metric = config.eval.metric
    if (metric, config.stage) in (("reward", "sft"), ("loss", "grpo")):
        yield (
            "eval.metric",
            f"`eval.metric: {metric}` means nothing in the stage {config.stage}",
            "use eval.metric=score",
        )
    if config.eval.patience is not None and config.eval.every is None:
        message = "`eval.patience` counts evaluations, and without `eval.every` there is only one, at the end"
        yield "eval.patience", message, "set eval.every to a number of steps"


def _batches(config: Config) -> Broken:
    micro = config.train.micro_batch
    if config.stage == "grpo" and config.completions % micro:
        yield (
            "train.micro_batch",
            f"`rollout.group` x `rollout.prompts` = {config.completions} completions are no multiple of "
            f"`train.micro_batch` {micro}",
            f"set train.micro_batch to a divisor of {config.completions}",
        )
    if config.stage == "sft" and config.train.batch % micro:
        yield (
            "train.micro_batch",
            f"`train.batch` {config.train.batch} is no multiple of `train.micro_batch` {micro}",
            f"set train.micro_batch to a divisor of {config.train.batch}",
        )


def _attention(config: Config) -> Broken:
    if config.model.attention == "flash_attention_2" and config.model.dtype == "float32":
        message = "`model.attention: flash_attention_2` does not compute in float32"
        yield "model.attention", message, "use model.dtype=bfloat16, or model.attention=sdpa"


def _rewards(config: Config) -> Broken:
    if not config.rewards:
        yield "rewards", "`rewards` is missing, grpo needs at least one", "for example rewards={format: 1, det_f1: 1}"
        return
    gated = config.reward_options.format == "gate"
    if not any(weight for name, weight in config.rewards.items() if not (gated and name == "format")):
        message = "every reward but the gate has weight 0" if gated else "every reward has weight 0"
        yield "rewards", f"{message}, so nothing would be learnt", "give one of them a weight above 0"
    known = reward_names()
    for name in config.rewards:
        key = f"rewards.{name}"
        if ":" in name or name.endswith(".py"):
            if not _FILE_REWARD.fullmatch(name):
                message = f"`{name}` does not name a reward in a file"
                yield key, message, "write path/to/file.py:name, where name is the function"
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else None
            yield key, f"unknown reward `{name}`; there are {', '.join(sorted(known))}", hint


def reward_names() -> frozenset[str]:
    """The registered rewards."""
    from rft3d_cli.rewards import names

    return frozenset(names())


def _reward_options(config: Config) -> Broken:
    options = config.reward_options
    if options.length.zero <= options.length.full:
        message = f"`reward_options.length.zero` {options.length.zero} must be above `full` {options.length.full}"
        yield "reward_options.length.zero", message, None


def _rollout(config: Config) -> Broken:
    rollout = config.rollout
    yield from _vllm(config)
    if rollout.engine == "vllm":
        if config.model.geometry not in ("auto", "none"):
            message = (
                f"`rollout.engine: vllm` takes no input of the geometry branch `{config.model.geometry}` and would "
                "answer without it"
            )
            yield "rollout.engine", message, "use rollout.engine=transformers, or model.geometry=none"
        if rollout.top_p < 1:
            message = "`rollout.engine: vllm` needs `rollout.top_p` 1: truncated sampling biases the probability ratio"
            yield "rollout.top_p", message, "leave rollout.top_p out"


def _vllm(config: Config) -> Broken:
    vllm = config.rollout.vllm
    # What a run wrote down of itself names every key; only other values than the defaults are somebody's wish.
    wished = [name for name, value in vllm if value != type(vllm).model_fields[name].default]
    if config.rollout.engine != "vllm":
        for name in wished:
            message = f"`rollout.vllm.{name}` has no effect with `rollout.engine: {config.rollout.engine}`"
            yield f"rollout.vllm.{name}", message, f"leave `rollout.vllm.{name}` out, or set rollout.engine=vllm"
        return
    own = {"colocate": ("gpu_memory", "tensor_parallel"), "server": ("server_url",)}[vllm.mode]
    for name in [name for name in wished if name not in ("mode", *own)]:
        message = f"`rollout.vllm.{name}` has no effect with `rollout.vllm.mode: {vllm.mode}`"
        yield f"rollout.vllm.{name}", message, f"leave `rollout.vllm.{name}` out"
    if vllm.mode == "server" and vllm.server_url is None:
        message = "`rollout.vllm.mode: server` needs `rollout.vllm.server_url`"
        yield "rollout.vllm.mode", message, "for example rollout.vllm.server_url=http://localhost:8000"
    if vllm.server_url is not None and not vllm.server_url.startswith(("http://", "https://")):
        message = f"`rollout.vllm.server_url` {vllm.server_url} is no http address"
        yield "rollout.vllm.server_url", message, "for example rollout.vllm.server_url=http://localhost:8000"


def _checkpoints(config: Config) -> Broken:
    period, every = config.generation_period_steps, config.checkpoint.every
    if every % period:
        nearest = max(period, round(every / period) * period)
        yield (
            "checkpoint.every",
            f"`checkpoint.every` {every} is no whole number of generation periods, which are {period} steps "
            "(`train.iterations`): a resumed run would differ",
            f"checkpoint.every={nearest}",
        )
