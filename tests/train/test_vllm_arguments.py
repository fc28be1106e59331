"""What TRL and vLLM are told, without vLLM: a stand-in has its classes' shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import World, known_warnings_off, policy_trainer

from rft3d_cli.errors import ProblemList, UsageError
from rft3d_cli.models.predict import forbidden_ids
from rft3d_cli.recipe import Recipe, load_recipe, to_yaml

Make = Callable[..., Recipe]


class Sampler:
    """In the place of TRL's ``VLLMGeneration``: remembers what it was given, answers with the stop token."""

    def __init__(self, **told: Any) -> None:
        self.told = told
        self.asked: list[dict[str, Any]] = []
        self.synced = 0

    def sync_weights(self) -> None:
        self.synced += 1

    def generate(self, prompts: list[list[int]], images: list[Any], num_generations: int, profiler: Any) -> Any:
        self.asked.append({"prompts": prompts, "images": images, "num_generations": num_generations})
        stop = self.told["processing_class"].tokenizer.eos_token_id
        return prompts, [[stop]] * len(prompts), [[[-0.5]]] * len(prompts), [[[stop]]] * len(prompts)


MODES = [
    pytest.param(
        ["rollout.vllm.gpu_memory=0.4", "rollout.vllm.tensor_parallel=1"],
        {"mode": "colocate", "gpu_memory_utilization": 0.4, "tensor_parallel_size": 1, "max_model_length": 4096},
        id="colocate",
    ),
    pytest.param(
        ["rollout.vllm.mode=server", "rollout.vllm.server_url=http://node7:8000"],
        {"mode": "server", "server_base_url": "http://node7:8000"},
        id="server",
    ),
]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("words", "expected"), MODES)
def test_trl_builds_vllm_as_the_recipe_says_and_hands_it_tokens_and_frames(
    grpo_recipe: Make, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], expected: dict[str, Any], shared: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", Sampler)
    monkeypatch.setattr(Sampler, "vllm_client", None, raising=False)

    class Client:
        def get_server_info(self) -> dict[str, Any]:
            return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    monkeypatch.setattr(Sampler, "vllm_client", Client())
    made = grpo_recipe("rollout.engine=vllm", "train.steps=2", f"rollout.shared_prompt={str(shared).lower()}", *words)
    trainer = policy_trainer(made, tmp_path / "run")
    sampler = trainer.vllm_generation
    assert {key: sampler.told[key] for key in expected} == expected
    assert sampler.told["temperature"] == 1.0
    assert sampler.told["max_completion_length"] == made.config.rollout.max_tokens
    forbidden = forbidden_ids(trainer.processing_class)
    assert forbidden
    assert sampler.told["generation_kwargs"] == {"logit_bias": dict.fromkeys(forbidden, -100.0)}
    with known_warnings_off():
        trainer.train()
    assert sampler.synced == 2
    asked = sampler.asked[0]
    image = trainer.processing_class.image_token_id
    for ids, frames in zip(asked["prompts"], asked["images"], strict=True):
        runs = sum(token == image and before != image for before, token in zip([None, *ids], ids, strict=False))
        assert runs == len(frames) > 0, "one run of image tokens a frame"


RULES = [
    pytest.param(["rollout.vllm.gpu_memory=0.5"], "has no effect with `rollout.engine: transformers`", id="no vllm"),
    pytest.param(
        ["rollout.engine=vllm", "rollout.vllm.server_url=http://a:1"], "no effect with `rollout.vllm.mode", id="mode"
    ),
    pytest.param(["rollout.engine=vllm", "rollout.vllm.mode=server"], "needs `rollout.vllm.server_url`", id="no url"),
    pytest.param(
        ["rollout.engine=vllm", "rollout.vllm.mode=server", "rollout.vllm.server_url=file:///etc/passwd"],
        "is no http address",
        id="not http",
    ),
    pytest.param(["rollout.engine=vllm", "rollout.vllm.gpu_memory=1.5"], "less than 1", id="too much memory"),
]


@pytest.mark.parametrize(("words", "message"), RULES)
def test_keys_that_would_do_nothing_are_refused(grpo_recipe: Make, words: list[str], message: str) -> None:
    with pytest.raises((UsageError, ProblemList), match=message):
        grpo_recipe(*words)


def test_a_run_can_be_resumed_from_the_recipe_that_it_wrote(grpo_recipe: Make, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(to_yaml(grpo_recipe()))
    assert load_recipe(tmp_path / "recipe.yaml").config.rollout.engine == "transformers"
