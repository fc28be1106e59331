"""GRPO with verifiable 3D rewards, through TRL's trainer.

How it differs from the textbook: the loss of each group is normalised by that group's own tokens (as in the 3D-RFT
paper), so that tasks with long and short answers can share a run; a group's standard deviation has a floor; each
record is rewarded by the rewards of its own task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rft3d_cli.recipe import Recipe
from rft3d_cli.train import vllm
from rft3d_cli.train.stage import Stage, run_stage

LOSSES = {"group": "dapo", "batch": "dapo", "sequence": "grpo"}
"""Our names for the loss's normalisation, and TRL's loss that it is built on."""


def run_grpo(recipe: Recipe, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train a model on rewards of its own completions.

    Args:
        recipe: A recipe of stage ``grpo``.
        out: The run's folder.
        resume: Continue the run in that folder from its newest complete checkpoint.

    Returns:
        The run's summary: step, held-out metrics, folders.

    Raises:
        ProblemList: Everything that is wrong before the start.
    """
    names = list(recipe.config.rewards)
    columns = (
        ("reward", "reward"),
        *((short(name), f"rewards/{short(name)}/mean") for name in names),
        ("length", "completions/mean_length"),
        ("cut", "completions/clipped_ratio"),
        ("same", "frac_reward_zero_std"),
        *((("kl", "kl"),) if recipe.config.train.kl else ()),
        ("s/step", "step_time"),
    )
    return run_stage(recipe, out, resume=resume, columns=columns, trainer=_trainer)


def short(name: str) -> str:
    """A reward's name in logs: the function's, for a reward from a file.

    >>> short("rewards/mine.py:near_wall"), short("det_f1")
    ('near_wall', 'det_f1')
    """
    return name.rpartition(":")[2]


def _trainer(stage: Stage) -> Any:
    from datasets import Dataset

    from rft3d_cli.models.predict import forbidden_ids
    from rft3d_cli.rewards.registry import RewardSet
    from rft3d_cli.train.compat import GRPOConfig, PolicyTrainer, reward_placeholders

    config, examples = stage.config, stage.examples
    train, rollout = config.train, config.rollout
    rewards = RewardSet(config.rewards, config.reward_options.model_dump())
    args = GRPOConfig(
        **stage.arguments,
        gradient_accumulation_steps=config.completions // (train.micro_batch * stage.processes),
        num_generations=rollout.group,
        generation_batch_size=config.completions,
        num_iterations=train.iterations,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=0,
        repetition_penalty=1.0,
        **vllm.arguments(config, forbidden_ids(stage.processor), train.max_length or stage.processor.max_length),
        # Adapters' dropout would let the network that is updated differ from the one that sampled.
        disable_dropout=True,
        beta=train.kl,
        epsilon=train.clip,
        loss_type=LOSSES[train.loss],
        scale_rewards=train.scale_rewards,
        reward_weights=[rewards.weights.get(name, 0.0) for name in rewards.rewards],
    )
    return PolicyTrainer(
        model=stage.model,
        args=args,
        train_dataset=Dataset.from_dict({"row": list(range(len(examples)))}),
        processing_class=stage.processor,
        reward_funcs=reward_placeholders([short(name) for name in rewards.rewards]),
        examples=examples,
        reward_set=rewards,
        std_floor=train.std_floor,
        group_loss=train.loss == "group",
        shared_prompt=rollout.shared_prompt,
    )
