"""Prompts computed once a group, against TRL's own computation: samples, log-probabilities, loss, gradients, runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import qwen3
import torch
from loss_reference import gradient_error
from small_runs import World, known_warnings_off, policy_trainer
from transformers import GenerationConfig
from watched import Watched, watched_run

from rft3d_cli.errors import UsageError
from rft3d_cli.models.inputs import collate
from rft3d_cli.models.shared_prompt import generate_from, read_prompts, share_prompts, why_not
from rft3d_cli.models.towers import FrozenTowers
from rft3d_cli.recipe import Recipe

Make = Callable[..., Recipe]
STOCK = "rollout.shared_prompt=false"

CASES = [
    pytest.param("warm", [], id="plain"),
    pytest.param("warm", ["train.micro_batch=2", "rollout.temperature=0.7"], id="chunks-of-2"),
    pytest.param("warm", ["train.micro_batch=1", "train.loss=batch"], id="one-completion-at-a-time"),
    pytest.param("warm", ["rollout.prompts=3", "train.micro_batch=6"], id="chunks-that-end-amid-a-group"),
    pytest.param("warm", ["rollout.prompts=1", "train.micro_batch=4"], id="one-prompt"),
    pytest.param("warm", ["train.loss=sequence", "train.micro_batch=4"], id="sequence-loss"),
    pytest.param("warm", ["train.kl=0.5"], id="kl"),
    pytest.param("warm", ["train.iterations=3", "train.kl=0.5", "train.micro_batch=4"], id="three-iterations-kl"),
    pytest.param("warm", ["train.gradient_checkpointing=true", "train.micro_batch=2"], id="gradient-checkpointing"),
    pytest.param("warm", ["model.freeze=[vision]", "train.kl=0.5"], id="tower-frozen-its-merger-trained"),
    pytest.param("warm", ["model.freeze=[vision, vision_merger]", "train.kl=0.5"], id="tower-frozen"),
    pytest.param("warm", ["model.lora={rank: 4, dropout: 0.2}", "train.kl=0.5", "train.iterations=2"], id="lora-kl"),
    pytest.param(
        "warm", ["model.lora={rank: 4}", "train.gradient_checkpointing=true", "train.micro_batch=2"],
        id="lora-gradient-checkpointing",
    ),
    pytest.param("fused", ["model.geometry=tiny", "train.kl=0.5", "train.micro_batch=2"], id="geometry-trained"),
    pytest.param("fused", ["model.geometry=tiny", "model.freeze=[geometry]", "train.kl=0.5"], id="geometry-frozen"),
    pytest.param(
        "vggt", ["model.geometry=vggt", "model.freeze=[vision, vision_merger, geometry]", "train.kl=0.5",
                 "train.micro_batch=2"],
        id="vggt-frozen",
    ),
    pytest.param("vggt", ["model.geometry=vggt", "model.lora={rank: 4}", "train.iterations=2"], id="vggt-lora"),
    pytest.param("qwen3", ["train.micro_batch=2"], id="qwen3"),
    pytest.param(
        "qwen3", ["model.freeze=[vision, vision_merger]", "train.kl=0.5", "train.micro_batch=6", "rollout.prompts=3"],
        id="qwen3-frozen",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward that pays any text: what a fresh model says is not readable."""
    path = tmp_path_factory.mktemp("reward") / "letters.py"
    path.write_text("def letters(text, record):\n    return sum(c.isalpha() for c in text) % 7 / 7\n")
    return f"rewards.{path}:letters=1"


@pytest.fixture(scope="module")
def models(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    three = qwen3.create(tmp_path_factory.mktemp("qwen3") / "model")
    return {"warm": world.warm, "fused": world.fused, "vggt": world.vggt, "qwen3": three}


def both_ways(make: Make, tmp_path: Path, *overrides: str, model: Path) -> tuple[Watched, Watched]:
    """Two runs of one recipe: ours, and stock TRL's."""
    return (
        watched_run(make(*overrides, model=model), tmp_path / "ours"),
        watched_run(make(*overrides, STOCK, model=model), tmp_path / "stock"),
    )


@pytest.mark.parametrize(("model", "overrides"), CASES)
def test_a_step_equals_trls(
    grpo_recipe: Make, models: dict[str, Path], tmp_path: Path, letters: str, model: str, overrides: list[str]
) -> None:
    steps = 3 if any("iterations=3" in word for word in overrides) else 2 if "train.iterations=2" in overrides else 1
    common = [f"train.steps={steps}", f"checkpoint.every={steps}", "train.max_grad_norm=1e9", "train.lr=1e-4", letters]
    ours, stock = both_ways(grpo_recipe, tmp_path, *common, *overrides, model=models[model])
    assert ours.trainer.shared is not None
    assert stock.trainer.shared is None
    assert len(ours.gradients) == len(stock.gradients) == steps
    (_, rows, mine), (_, same_rows, theirs) = ours.rollouts[0], stock.rollouts[0]
    assert rows == same_rows
    assert torch.equal(mine["completion_ids"], theirs["completion_ids"])
    assert len(set(mine["completion_mask"].sum(dim=1).tolist())) > 1 or model != "warm"
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        assert (name in mine) == (name in theirs)
        if name in mine:
            difference = (mine[name] - theirs[name]) * mine["completion_mask"]
            assert difference.abs().max() < 1e-5
    for step in range(steps):
        # After the first step Adam has turned differences of 1e-8 into weights that differ by more.
        assert gradient_error(ours.gradients[step], stock.gradients[step]) < (1e-5 if step == 0 else 1e-3)
        assert ours.logs[step]["loss"] == pytest.approx(stock.logs[step]["loss"], abs=1e-6)
        if ours.trainer.args.steps_per_generation == 1:
            # Logged means are means of micro-batches' means, and TRL shuffles what is in which.
            means = [run.logs[step]["entropy"] for run in (ours, stock)]
            assert means[0] == pytest.approx(means[1], rel=1e-5 if step == 0 else 1e-3)


def test_log_probabilities_of_the_policy_equal_trls(grpo_recipe: Make, world: World, tmp_path: Path) -> None:
    rows = [0] * 4 + [2] * 4 + [1] * 4
    found = []
    for extra in ([], [STOCK]):
        trainer = policy_trainer(grpo_recipe("rollout.prompts=3", "train.micro_batch=6", *extra), tmp_path / "run")
        trainer.model.train()
        torch.manual_seed(0)
        with known_warnings_off():
            output = trainer._generate_and_score_completions([trainer.train_dataset[row] for row in rows])
            ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
            mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
            kept = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
            inputs = {name: output[name] for name in kept if name in output}
            with torch.no_grad():
                logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
                    trainer.model, ids, mask, output["completion_ids"].shape[1], 5, compute_entropy=True, **inputs
                )
        found.append((output["completion_ids"], output["completion_mask"], logps, entropies))
    (ids, mask, logps, entropies), (same_ids, _, expected, expected_entropies) = found
    assert torch.equal(ids, same_ids)
    assert (mask.sum(dim=1) < mask.shape[1]).any()
    assert ((logps - expected) * mask).abs().max() < 1e-5
    assert ((entropies - expected_entropies) * mask).abs().max() < 1e-5


@pytest.mark.long
def test_twenty_steps_on_the_same_completions_log_the_same(
    grpo_recipe: Make, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train.steps=20", "checkpoint.every=20", "train.lr=1e-4", "train.kl=0.1", "train.clip=0.01"]
    stock = watched_run(grpo_recipe(*words, STOCK), tmp_path / "stock")
    said = iter(
        [
            [ids[mask.bool()].tolist() for ids, mask in zip(o["completion_ids"], o["completion_mask"], strict=True)]
            for _, _, o in stock.rollouts
        ]
    )
    trainer = policy_trainer(grpo_recipe(*words), tmp_path / "ours")

    def replay(*_: Any) -> Any:
        trainer.shared.next_rollout()
        return next(said), None

    monkeypatch.setattr(trainer, "_generate_single_turn", replay)
    ours = Watched(trainer)
    with known_warnings_off():
        trainer.train()
    assert len(ours.logs) == len(stock.logs)
    assert len({log["reward"] for log in stock.logs[:20]}) > 1
    for mine, theirs in zip(ours.logs[:20], stock.logs[:20], strict=True):
        assert mine.keys() == theirs.keys()
        for name in theirs.keys() - {"step_time"}:
            if theirs[name] is None:
                assert mine[name] is None, name
            else:
                assert mine[name] == pytest.approx(theirs[name], rel=2e-3, abs=2e-5), name


def test_frozen_towers_run_once_a_prompt_and_step(grpo_recipe: Make, world: World, tmp_path: Path) -> None:
    recipe = grpo_recipe(
        "model.geometry=vggt", "model.freeze=[vision, vision_merger, geometry]", "train.kl=0.5", "train.iterations=2",
        "train.micro_batch=2", "train.steps=4", model=world.vggt,
    )  # fmt: skip
    trainer = policy_trainer(recipe, tmp_path / "run")
    calls = {"visual": 0, "geometry": 0}

    def count(name: str, module: Any) -> None:
        forward = module.forward

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return forward(*args, **kwargs)

        module.forward = counted

    for model in (trainer.model, trainer.ref_model):
        count("visual", model.model.visual)
        count("geometry", model.model.geometry_encoder)
    with known_warnings_off():
        trainer.train()
    # Two rollouts of two prompts, each sampled from, scored by the old policy and the reference, and learned twice.
    assert calls == {"visual": 4, "geometry": 4}


def test_the_update_reads_each_prompt_once(grpo_recipe: Make, tmp_path: Path) -> None:
    trainer = policy_trainer(grpo_recipe("train.micro_batch=2", "train.steps=1", "checkpoint.every=1"), tmp_path / "r")
    seen: list[tuple[int, int]] = []
    trainer.model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: (
            seen.append(tuple(kwargs["inputs_embeds"].shape[:2])) if torch.is_grad_enabled() else None
        ),
        with_kwargs=True,
    )
    with known_warnings_off():
        trainer.train()
    prompts = [shape for shape in seen if shape[0] == 1]
    completions = [shape for shape in seen if shape[0] == 2]
    assert len(prompts) == 2
    assert len(completions) == 4
    assert max(width for _, width in completions) <= 20 < min(width for _, width in prompts)


@pytest.fixture(params=["warm", "fused", "vggt", "qwen3"])
def speaker(request: pytest.FixtureRequest, models: dict[str, Path]) -> Any:
    from rft3d_cli.models.loader import load_speaker
    from rft3d_cli.recipe_schema import Model

    model, processor = load_speaker(Model(name=str(models[request.param]), freeze=[]), seed=0)
    return model.eval(), processor


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param({"do_sample": False}, id="greedy"),
        pytest.param({"do_sample": True, "temperature": 1.3, "top_k": 0}, id="sampled"),
        pytest.param({"do_sample": True, "top_p": 0.8, "top_k": 0, "suppress_tokens": [5, 6]}, id="nucleus"),
        pytest.param({"do_sample": True, "top_k": 0, "repetition_penalty": 1.2}, id="repetition-penalty"),
        pytest.param({"do_sample": True, "top_k": 0, "max_new_tokens": 1}, id="one-token"),
    ],
)
@pytest.mark.parametrize("group", [1, 3])
def test_samples_are_those_of_repeated_prompts(
    speaker: Any, world: World, sampling: dict[str, Any], group: int
) -> None:
    from rft3d_cli.models.inputs import FrameStore

    model, processor = speaker
    store = FrameStore(world.data, processor)
    encoded = [store.encode(world.records("mix")[i]) for i in (0, 2, 1)]
    assert len({len(prompt) for prompt in encoded}) > 1
    pad = processor.tokenizer.pad_token_id
    config = GenerationConfig(
        **{"max_new_tokens": 12, "eos_token_id": model.generation_config.eos_token_id, "pad_token_id": pad} | sampling
    )
    repeated = collate([prompt for prompt in encoded for _ in range(group)], pad)
    torch.manual_seed(7)
    with torch.no_grad():
        expected = model.generate(**repeated, generation_config=config)[:, repeated["input_ids"].shape[1] :]
    share_prompts(model)
    torch.manual_seed(7)
    with torch.no_grad():
        prompts = read_prompts(model, encoded, pad, FrozenTowers(), range(3))
        found = generate_from(model, prompts, group, config)
    assert torch.equal(found, expected)
    assert {len(keys) for keys in prompts.keys.values()} == {3}
    assert not [name for name, module in model.named_modules() if hasattr(module, "sampled_from")]


def test_stop_strings_stop(speaker: Any, world: World) -> None:
    from rft3d_cli.models.inputs import FrameStore

    model, processor = speaker
    tokenizer = processor.tokenizer
    encoded = [FrameStore(world.data, processor).encode(world.records("mix")[0])]
    share_prompts(model)
    with torch.no_grad():
        prompts = read_prompts(model, encoded, tokenizer.pad_token_id, FrozenTowers(), [0])
        free = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        said = generate_from(model, prompts, 2, free)
        word = tokenizer.decode(said[0, 3:5])
        stopped = GenerationConfig(**free.to_diff_dict() | {"stop_strings": [word]})
        again = generate_from(model, prompts, 2, stopped, tokenizer=tokenizer)
    assert word in tokenizer.decode(again[0])
    assert again.shape[1] <= 5


def test_without_a_shared_prompt_the_attention_is_sdpa(speaker: Any, world: World) -> None:
    from rft3d_cli.models.inputs import FrameStore

    model, processor = speaker
    store = FrameStore(world.data, processor)
    batch = collate([store.encode(world.records("mix")[i]) for i in (0, 2)], processor.tokenizer.pad_token_id)
    with torch.no_grad():
        before = model(**batch).logits
        share_prompts(model)
        after = model(**batch).logits
    assert model.config.text_config._attn_implementation == "rft3d_shared_prompt"
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert torch.equal(before, after)


def test_a_shared_model_is_saved_as_any_other(speaker: Any, tmp_path: Path) -> None:
    model, _ = speaker
    model.save_pretrained(tmp_path / "plain")
    share_prompts(model)
    model.save_pretrained(tmp_path / "shared")
    plain, shared = ((tmp_path / name / "config.json").read_text() for name in ("plain", "shared"))
    assert shared == plain


def test_a_model_with_sliding_windows_is_refused(speaker: Any) -> None:
    model, _ = speaker
    assert why_not(model) is None
    model.config.text_config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(UsageError, match="sliding_attention"):
        share_prompts(model)
