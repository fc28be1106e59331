"""bfloat16 on a CPU: frozen weights and arithmetic in bfloat16, trained weights in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_runs import Kind, World, metrics, policy_trainer, warmup_trainer

from rft3d_cli.recipe import Recipe, load_recipe
from rft3d_cli.train import setup
from rft3d_cli.train.grpo import run_grpo
from rft3d_cli.train.sft import run_sft

Make = Callable[..., Recipe]
LOW = "model.dtype=bfloat16"
FROZEN = "model.freeze=[vision, vision_merger, geometry]"


def formats(folder: Path) -> dict[str, set[str]]:
    """Part (``visual`` or the rest) → number formats of a model's saved weights."""
    out: dict[str, set[str]] = {"visual": set(), "rest": set()}
    with safe_open(folder / "model.safetensors", "np") as saved:
        for name in saved.keys():  # noqa: SIM118 - not a mapping
            out["visual" if "visual" in name else "rest"].add(saved.get_slice(name).get_dtype())
    return out


def test_trained_weights_are_float32_and_frozen_ones_bfloat16(kind: Callable[[str], Kind]) -> None:
    run = kind("sft-bfloat16")
    assert formats(run.straight / "final") == {"visual": {"BF16"}, "rest": {"F32"}}
    last = run.straight / "checkpoints" / "checkpoint-4"
    assert formats(last) == formats(run.straight / "final")


def test_training_computes_in_bfloat16_and_comes_close_to_float32(kind: Callable[[str], Kind], tmp_path: Path) -> None:
    low = kind("sft-bfloat16")
    full = load_recipe(low.straight / "recipe.yaml", ["model.dtype=float32"])
    run_sft(full, tmp_path / "run")
    ours = [line["loss"] for line in metrics(low.straight)]
    theirs = [line["loss"] for line in metrics(tmp_path / "run")]
    assert ours == pytest.approx(theirs, rel=0.05)
    assert ours[0] != pytest.approx(theirs[0], rel=1e-6)


@pytest.mark.parametrize("freeze", [FROZEN, "model.freeze=[]"], ids=["frozen-vision", "all-trained"])
def test_arithmetic_is_bfloat16_whatever_is_trained(
    sft_recipe: Make, grpo_recipe: Make, tmp_path: Path, freeze: str
) -> None:
    for trainer in (
        warmup_trainer(sft_recipe(LOW, freeze), tmp_path / "a"),
        policy_trainer(grpo_recipe(LOW, freeze), tmp_path / "b"),
    ):
        assert trainer.accelerator.mixed_precision == "bf16"
        trained = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
        assert trained == {torch.float32}
    plain = warmup_trainer(sft_recipe(freeze), tmp_path / "c")
    assert plain.accelerator.mixed_precision == "no"


CASES = [
    pytest.param("warm", [FROZEN], id="plain"),
    pytest.param("warm", ["model.lora.rank=4", FROZEN], id="lora"),
    pytest.param("fused", ["model.geometry=tiny", FROZEN], id="geometry"),
    pytest.param("vggt", ["model.lora.rank=4", FROZEN], id="vggt-lora"),
]


@pytest.mark.parametrize(("model", "overrides"), CASES)
def test_a_grpo_step_with_kl_and_an_evaluation(
    grpo_recipe: Make, world: World, tmp_path: Path, model: str, overrides: list[str]
) -> None:
    made = grpo_recipe(
        LOW, "train.kl=0.1", "train.steps=1", "rollout.max_tokens=8", "eval.limit=2",
        f"data.eval={world.data}/val.jsonl", *overrides, model=getattr(world, model),
    )  # fmt: skip
    run_grpo(made, tmp_path / "run")
    line, scored = metrics(tmp_path / "run")
    assert np.isfinite([line["loss"], line["grad_norm"], line["entropy"]]).all()
    # The starting policy is its own reference: in the same formats, so the same numbers but for the order of sums.
    assert abs(line["kl"]) < 1e-4
    assert "eval/score" in scored


@pytest.mark.parametrize(("model", "overrides"), CASES[1:])
def test_an_sft_step_and_an_evaluation(
    sft_recipe: Make, world: World, tmp_path: Path, model: str, overrides: list[str]
) -> None:
    made = sft_recipe(
        LOW, "train.steps=1", "rollout.max_tokens=8", "eval.limit=2", f"data.eval={world.data}/val.jsonl", *overrides,
        model=getattr(world, model),
    )  # fmt: skip
    run_sft(made, tmp_path / "run")
    line, scored = metrics(tmp_path / "run")
    assert np.isfinite([line["loss"], line["grad_norm"], scored["eval/loss"]]).all()


def test_the_reference_model_is_held_in_the_policys_formats(grpo_recipe: Make, tmp_path: Path) -> None:
    trainer = policy_trainer(grpo_recipe(LOW, FROZEN, "train.kl=0.1"), tmp_path / "run")
    reference = dict(trainer.ref_model.named_parameters())
    own = dict(trainer.model.named_parameters())
    assert {p.dtype for p in own.values()} == {torch.float32, torch.bfloat16}
    for name, parameter in own.items():
        assert reference[name].dtype is parameter.dtype
        assert torch.equal(reference[name], parameter)


def test_auto_is_float32_on_a_cpu(sft_recipe: Make) -> None:
    made = sft_recipe("model.dtype=auto")
    model, _ = setup.trainable_model(made.config)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not setup.computes_low(model)
