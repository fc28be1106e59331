"""The loss that GRPO runs minimise, against the formula, in real runs: gradients, values and logged means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loss_reference import Sample, advantages, gradient_error, policy_loss
from small_runs import World, known_warnings_off, policy_trainer
from watched import State, Watched, watched_run

from rft3d_cli.recipe import Recipe
from rft3d_cli.train import setup

Make = Callable[..., Recipe]


def model_at(recipe: Recipe, state: State) -> Any:
    with known_warnings_off():
        model, _ = setup.trainable_model(recipe.config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name in missing if name != "lm_head.weight" and not name.endswith("lm_head.weight")]
    return model.eval()


def samples_of(watched: Watched, recipe: Recipe, rollout: int) -> list[Sample]:
    """Completions with advantages from their texts: decoded, scored and normalised here."""
    _, rows, output = watched.rollouts[rollout]
    trainer, config = watched.trainer, recipe.config
    kept = [
        ids[mask.bool()].tolist() for ids, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
    ]
    texts = trainer.processing_class.batch_decode(kept, skip_special_tokens=True)
    rewards = []
    for row, text in zip(rows, texts, strict=True):
        scores = trainer.reward_set.score(text, trainer.examples[row].record)
        rewards.append(sum(config.rewards[name] * score.value for name, score in scores.items()))
    size = config.rollout.group
    scaled = advantages(rewards, size, config.train.std_floor, config.train.scale_rewards)
    assert len({tuple(rows[i : i + size]) for i in range(0, len(rows), size)}) == config.rollout.prompts
    return [
        Sample(i // size, trainer.examples.prompt(row), tokens, advantage)
        for i, (row, tokens, advantage) in enumerate(zip(rows, kept, scaled, strict=True))
    ]


CASES = [
    pytest.param("warm", ["rollout.temperature=0.7"], id="group"),
    pytest.param("warm", ["train.micro_batch=2"], id="group-micro-batches-of-2"),
    pytest.param(
        "warm", ["train.loss=batch", "train.micro_batch=1", "train.scale_rewards=batch"], id="batch-micro-batches-of-1"
    ),
    pytest.param(
        "warm", ["train.loss=sequence", "train.micro_batch=4", "train.scale_rewards=none"], id="sequence-not-scaled"
    ),
    pytest.param("warm", ["train.kl=0.5", "train.steps=2"], id="kl"),
    pytest.param(
        "warm", ["train.iterations=2", "train.clip=0.05", "train.micro_batch=4", "train.steps=2"], id="two-iterations"
    ),
    pytest.param(
        "fused", ["model.geometry=tiny", "model.freeze=[geometry]", "train.kl=0.5", "train.steps=2"], id="geometry-kl"
    ),
    pytest.param(
        "vggt",
        ["model.geometry=vggt", "model.lora={rank: 4, dropout: 0}", "train.kl=0.5", "train.micro_batch=2",
         "train.steps=2"],
        id="vggt-lora-kl",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("model", "overrides"), CASES)
def test_gradient_loss_and_logged_means_follow_the_formula(
    grpo_recipe: Make, world: World, tmp_path: Path, model: str, overrides: list[str]
) -> None:
    # A fresh fused model answers nothing readable: what it is paid for is the reward of this file.
    paid = tmp_path / "letters.py"
    paid.write_text("def letters(text, record):\n    return sum(c.isalpha() for c in text) % 7 / 7\n")
    extra = ["train.steps=1", "checkpoint.every=2", "train.max_grad_norm=1e9", f"rewards.{paid}:letters=1"]
    recipe = grpo_recipe(*extra, *overrides, model=getattr(world, model))
    config = recipe.config
    watched = watched_run(recipe, tmp_path / "run")
    assert len(watched.gradients) == config.train.steps
    start = model_at(recipe, watched.before[0])
    for step in range(len(watched.gradients)):
        rollout = step // config.train.iterations
        samples = samples_of(watched, recipe, rollout)
        assert any(sample.advantage for sample in samples)
        policy = model_at(recipe, watched.before[step])
        old = model_at(recipe, watched.before[watched.rollouts[rollout][0]]) if step % config.train.iterations else None
        expected, means = policy_loss(
            policy, samples, loss=config.train.loss, old=old, reference=start if config.train.kl else None,
            kl=config.train.kl, clip=config.train.clip, temperature=config.rollout.temperature,
        )  # fmt: skip
        expected.backward()
        gradient = {name: p.grad for name, p in policy.named_parameters() if p.requires_grad and p.grad is not None}
        assert gradient_error(watched.gradients[step], gradient) < 2e-4
        log = watched.logs[step]
        assert log["loss"] == pytest.approx(expected.item(), abs=2e-5)
        if config.train.micro_batch == config.completions:
            assert log["entropy"] == pytest.approx(means["entropy"], rel=1e-3)
            assert log["clip_ratio/region_mean"] == pytest.approx(means["clip"], abs=1e-6)
            if config.train.kl:
                assert log["kl"] == pytest.approx(means["kl"], rel=1e-3, abs=1e-6)
        if config.train.iterations > 1:
            assert (means["clip"] > 0) == (step == 1)
            assert (log["clip_ratio/region_mean"] > 0) == (step == 1)
        if config.train.kl:
            assert log["kl"] < 1e-6 if step == 0 else log["kl"] > 1e-5


@pytest.mark.parametrize("loss", ["group", "batch"])
def test_logged_means_do_not_shrink_with_the_micro_batch(grpo_recipe: Make, tmp_path: Path, loss: str) -> None:
    overrides = ("train.micro_batch=1", "train.steps=1", "checkpoint.every=1", f"train.loss={loss}")
    recipe = grpo_recipe(*overrides)
    watched = watched_run(recipe, tmp_path / "run")
    samples = samples_of(watched, recipe, 0)
    policy = model_at(recipe, watched.before[0])
    # With one completion a micro-batch each mean is that completion's own, and the log line averages them.
    own = [policy_loss(policy, [sample], loss="sequence")[1]["entropy"] for sample in samples]
    assert watched.logs[0]["entropy"] == pytest.approx(sum(own) / len(own), rel=1e-3)


def test_a_group_of_letters_weighs_as_much_as_a_group_of_lists(grpo_recipe: Make, tmp_path: Path) -> None:
    trainer = policy_trainer(grpo_recipe(), tmp_path / "run")
    trainer.model.train()
    letters, lists = 2, 0  # a choice and a detection record of the mix
    with known_warnings_off():
        output = trainer._generate_and_score_completions(
            [trainer.train_dataset[i] for i in [letters] * 4 + [lists] * 4]
        )
    lengths = output["completion_mask"].sum(dim=1)
    assert lengths[4:].sum() > 3 * lengths[:4].sum()
    weights = output["completion_mask"] * output["tool_mask"] / output["num_items_in_batch"]
    assert weights[:4].sum().item() == pytest.approx(0.5)
    assert weights[4:].sum().item() == pytest.approx(0.5)
    assert weights.count_nonzero() == lengths.sum()
