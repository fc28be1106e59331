"""Traps of the libraries under the trainers: each test fails when its trap is open."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trl
import trl.trainer.base_trainer
import trl.trainer.utils
from loss_reference import rope_positions
from small_runs import Kind, World, grpo_tree, known_warnings_off, policy_trainer, recipe, sft_tree, warmup_trainer

from rft3d_cli.models.inputs import FrameStore
from rft3d_cli.recipe import Recipe
from rft3d_cli.train import data
from rft3d_cli.train.compat import PolicyTrainer

Make = Callable[..., Recipe]
ROWS = [0] * 4 + [2] * 4
"""Two groups of the mix: a detection record with a long prompt and two frames, a choice with a short one and one."""


@pytest.fixture(scope="module")
def trainer(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trainer")
    tree = grpo_tree(world.data, world.warm)
    tree["rollout"] |= {"shared_prompt": False}  # TRL's traps; ours are in test_shared_prompt.py
    made = policy_trainer(recipe(folder / "r.yaml", tree), folder / "run")
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


@pytest.fixture(scope="module", params=["fused", "vggt"])
def fused_trainer(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trainer")
    tree = grpo_tree(world.data, getattr(world, request.param))
    tree["model"] |= {"freeze": ["geometry"]}
    tree["rollout"] |= {"shared_prompt": False}
    made = policy_trainer(recipe(folder / "r.yaml", tree), folder / "run")
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def rollout(trainer: Any, rows: list[int] = ROWS) -> dict[str, Any]:
    torch.manual_seed(0)
    with known_warnings_off():
        output: dict[str, Any] = trainer._generate_and_score_completions([trainer.train_dataset[row] for row in rows])
    return output


@contextmanager
def calls(module: torch.nn.Module) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """The arguments of every call of a module's forward."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def loss_of(trainer: Any, output: dict[str, Any]) -> float:
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, output).item()


def log_probs(trainer: Any, output: dict[str, Any], **changed: Any) -> torch.Tensor:
    """What the loss sees of the completions."""
    kept = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    inputs = {name: output[name] for name in kept} | changed
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    with torch.no_grad():
        values = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, output["completion_ids"].shape[1], **inputs
        )[0]
    return values * output["completion_mask"]


def test_the_loss_of_grpo_sees_the_pixels_of_each_completions_own_frames(trainer: Any) -> None:
    output = rollout(trainer)
    with calls(trainer.model.model.visual) as seen:
        loss_of(trainer, output)
    assert len(seen) == 1
    expected = np.concatenate([trainer.examples.prompt(row).pixel_values for row in ROWS])
    assert torch.equal(seen[0][0][0].float(), torch.from_numpy(expected))


def test_swapping_the_clip_changes_the_log_probabilities_that_the_loss_sees(trainer: Any) -> None:
    output = rollout(trainer)
    before = log_probs(trainer, output)
    after = log_probs(trainer, output, pixel_values=output["pixel_values"].flip(0))
    changed = (before - after).abs().max(dim=1).values
    assert (changed > 1e-3).all()


def test_the_geometry_branch_sees_the_frames_of_each_completion_in_rollout_and_loss(fused_trainer: Any) -> None:
    with calls(fused_trainer.model.model.geometry_encoder) as in_rollout:
        output = rollout(fused_trainer)
    with calls(fused_trainer.model.model.geometry_encoder) as in_loss:
        loss_of(fused_trainer, output)
    assert len(in_rollout) == len(in_loss) == len(ROWS)  # one clip a completion
    for row, told, learned in zip(ROWS, in_rollout, in_loss, strict=True):
        example = fused_trainer.examples[row]
        frames = np.stack([np.asarray(image) for image in example.store.load(example.record)])
        expected = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        for args, _ in (told, learned):
            torch.testing.assert_close(args[0], expected, atol=2e-6, rtol=0)


def test_swapping_the_geometry_changes_the_log_probabilities_that_the_loss_sees(fused_trainer: Any) -> None:
    output = rollout(fused_trainer)
    before = log_probs(fused_trainer, output)
    encoder = fused_trainer.model.model.geometry_encoder
    handle = encoder.register_forward_hook(lambda _, args, features: features.flip(1, 2))
    try:
        after = log_probs(fused_trainer, output)
    finally:
        handle.remove()
    assert ((before - after).abs().max(dim=1).values > 1e-5).all()


def positions_in(seen: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> torch.Tensor:
    """``(3, rows, tokens)`` positions of the first pass through a language model."""
    positions = seen[0][1]["position_ids"]
    return positions[-3:]


def test_prompts_have_the_same_three_axis_positions_in_sft_rollout_and_loss(
    trainer: Any, sft_recipe: Make, world: World, tmp_path: Path
) -> None:
    image = trainer.processing_class.image_token_id
    expected = {row: rope_positions(trainer.examples.prompt(row).input_ids.tolist(), image, 3, 4) for row in set(ROWS)}
    assert len({found.shape[1] for found in expected.values()}) == 2  # prompts of different lengths share the batch
    language = trainer.model.model.language_model
    with calls(language) as seen:
        output = rollout(trainer)
    told = positions_in(seen)
    with calls(language) as seen:
        loss_of(trainer, output)
    learned = positions_in(seen)
    prompt = output["prompt_ids"].shape[1]
    for i, row in enumerate(ROWS):
        mask = output["prompt_mask"][i].bool()
        assert torch.equal(told[:, i][:, mask], torch.from_numpy(expected[row]))
        assert torch.equal(learned[:, i, :prompt][:, mask], torch.from_numpy(expected[row]))
        rest = learned[:, i, prompt:][:, output["completion_mask"][i].bool()]
        first = int(expected[row].max()) + 1
        assert torch.equal(rest, torch.arange(first, first + rest.shape[1]).expand(3, -1))

    supervised = warmup_trainer(sft_recipe(), tmp_path / "run")
    batch = supervised.data_collator([{"row": row} for row in (0, 2)])
    with calls(supervised.model.model.language_model) as seen, torch.no_grad():
        supervised.compute_loss(supervised.model, batch)
    taught = positions_in(seen)
    for i, row in enumerate((0, 2)):
        length = expected[row].shape[1]
        assert torch.equal(taught[:, i, :length], torch.from_numpy(expected[row]))


def test_a_short_prompt_beside_a_long_one_keeps_its_log_probabilities(trainer: Any) -> None:
    torch.manual_seed(1)
    together = rollout(trainer)
    short = {
        name: value[4:] if torch.is_tensor(value) and value.ndim and len(value) == len(ROWS) else value
        for name, value in together.items()
    }
    width = int(short["prompt_mask"].sum(dim=1).max())
    cut = together["prompt_ids"].shape[1] - width
    short |= {name: short[name][:, cut:] for name in ("prompt_ids", "prompt_mask", "mm_token_type_ids")}
    short["num_images"] = together["num_images"][4:]
    frames = sum(together["num_images"][:4])
    patches = int(together["image_grid_thw"][:frames].prod(dim=1).sum())
    short["image_grid_thw"] = together["image_grid_thw"][frames:]
    short["pixel_values"] = together["pixel_values"][patches:]
    torch.testing.assert_close(log_probs(trainer, short), log_probs(trainer, together)[4:], atol=1e-4, rtol=0)


def test_messages_hold_no_empty_keys_that_a_template_would_take_for_a_video(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeenError(Exception):
        pass

    def see(self: Any, inputs: list[dict[str, Any]]) -> None:
        raise SeenError(inputs)

    # What reaches TRL's own rollout, on the way from the data set that its trainer iterates over.
    monkeypatch.setattr(trl.GRPOTrainer, "_generate_and_score_completions", see)
    with pytest.raises(SeenError) as caught:
        trainer._generate_and_score_completions([trainer.train_dataset[row] for row in range(4)])
    for row, seen in enumerate(caught.value.args[0]):
        assert seen["row"] == row
        (message,) = seen["prompt"]
        assert all(value is not None for part in message["content"] for value in part.values())
        assert {part["type"] for part in message["content"]} == {"image", "text"}
        text = trainer.processing_class.apply_chat_template([message], tokenize=False)
        assert "<|video_pad|>" not in text
        frames = len(trainer.examples[row].record.video.frames)
        assert text.count("<|image_pad|>") == frames


def test_a_checkpoints_generation_settings_do_not_reach_the_rollouts(
    trainer: Any, world: World, tmp_path: Path
) -> None:
    marked = shutil.copytree(world.warm, tmp_path / "marked")
    path = marked / "generation_config.json"
    settings = {
        "repetition_penalty": 5.0,
        "top_k": 1,
        "temperature": 0.01,
        "do_sample": True,
        "no_repeat_ngram_size": 1,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    other = policy_trainer(recipe(tmp_path / "r.yaml", grpo_tree(world.data, marked)), tmp_path / "run")
    other.model.train()
    ours, theirs = rollout(trainer), rollout(other)
    assert torch.equal(ours["completion_ids"], theirs["completion_ids"])
    assert len({tuple(ids.tolist()) for ids in ours["completion_ids"][:4]}) > 1  # sampled, not greedy


def test_each_prompt_is_encoded_once_however_often_it_is_used(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = policy_trainer(recipe(tmp_path / "r.yaml", grpo_tree(world.data, world.warm)), tmp_path / "run")
    fresh.model.train()
    encoded: list[str] = []
    encode = FrameStore.encode

    def counted(self: FrameStore, record: Any) -> Any:
        encoded.append(record.id)
        return encode(self, record)

    monkeypatch.setattr(FrameStore, "encode", counted)
    patched = []
    patches = fresh.processing_class.image_processor._preprocess

    def counted_patches(images: Any, *args: Any, **kwargs: Any) -> Any:
        patched.append(len(images))
        return patches(images, *args, **kwargs)

    monkeypatch.setattr(fresh.processing_class.image_processor, "_preprocess", counted_patches)
    rollout(fresh)
    rollout(fresh)
    assert sorted(encoded) == ["choice/0", "detection/0"]
    assert sum(patched) == 3  # two frames and one


def test_the_memory_of_encoded_prompts_is_bounded(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = warmup_trainer(recipe(tmp_path / "r.yaml", sft_tree(world.data, world.plain)), tmp_path / "run")
    examples: data.Examples = made.data_collator.__closure__[0].cell_contents
    first = examples.prompt(0)
    monkeypatch.setattr(data, "KEPT_BYTES", int(2.5 * first.nbytes))
    for row in (0, 4, 8, 12, 0):  # detection records are of one size
        assert examples.prompt(row).nbytes == first.nbytes
        assert len(examples._encoded) <= 2
        assert examples._bytes == sum(kept.nbytes for kept in examples._encoded.values())
    again = examples.prompt(0)
    assert again is examples.prompt(0)
    assert again is not first
    assert np.array_equal(again.pixel_values, first.pixel_values)


def test_trainers_report_nothing_to_anyone(
    sft_recipe: Make, grpo_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(trl.trainer.base_trainer, "send_telemetry", lambda *args, **kwargs: sent.append((args, kwargs)))
    monkeypatch.delenv("CI", raising=False)
    policy = policy_trainer(grpo_recipe(), tmp_path / "a")
    warmup_trainer(sft_recipe(), tmp_path / "b")
    assert sent == []
    trl.trainer.base_trainer._BaseTrainer._send_telemetry(policy)
    assert len(sent) == 1  # TRL's own would have
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_no_run_writes_a_model_card_or_a_completions_table(kind: Callable[[str], Kind]) -> None:
    for name in ("sft", "grpo", "grpo-lora"):
        found = {path.name for path in kind(name).straight.rglob("*")}
        assert not found & {"README.md", "completions", "runs"}
        assert not [one for one in found if one.endswith(".parquet")]


def test_only_the_tokens_that_are_scored_pass_the_language_head(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    output = rollout(trainer)
    rows: list[int] = []
    function = trl.trainer.utils._ChunkedLogProbFunction

    class Counted:
        @staticmethod
        def apply(hidden: torch.Tensor, *args: Any) -> Any:
            rows.append(len(hidden))
            return function.apply(hidden, *args)

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", Counted)
    loss_of(trainer, output)
    assert rows == [int(output["completion_mask"].sum())]


def test_supervised_batches_are_not_cut_at_trls_default_length(sft_recipe: Make, world: World, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (world.data / "number.jsonl").read_text().splitlines()]
    rows[0]["prompt"] += " please" * 1200
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "frames").symlink_to(world.data / "frames")
    (folder / "number.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = warmup_trainer(recipe(tmp_path / "r.yaml", sft_tree(folder, world.plain, "number")), tmp_path / "run")
    assert made.args.max_length is None
    batch = made.data_collator([{"row": 0}])
    assert batch["input_ids"].shape[1] > 1024
    with torch.no_grad():
        assert torch.isfinite(made.compute_loss(made.model, batch))


def test_the_command_line_sets_how_threads_wait_before_torch_is_imported() -> None:
    code = (
        "import os, sys; import rft3d_cli.cli; "
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PASSIVE", "0", "False"]


class Pair:
    """accelerate's ``reduce`` between two threads that stand for two processes."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.sent: dict[int, torch.Tensor] = {}

    def end(self, rank: int) -> Any:
        def reduce(tensor: torch.Tensor, reduction: str) -> torch.Tensor:
            self.sent[rank] = tensor.clone()
            self.barrier.wait()
            total = self.sent[0] + self.sent[1]
            self.barrier.wait()
            return total / 2 if reduction == "mean" else total

        return SimpleNamespace(device=torch.device("cpu"), reduce=reduce)


def test_a_parameter_without_a_gradient_anywhere_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.train.compat._pieces", lambda parameters, numbers: ([p] for p in parameters))
    names = ("both", "first", "second", "nobody")
    models = [torch.nn.ParameterDict({name: torch.ones(2) for name in names}) for _ in range(2)]
    for rank, own in enumerate((("both", "first"), ("both", "second"))):
        for name in own:
            models[rank][name].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    pair = Pair()
    with ThreadPoolExecutor(2) as pool:
        ends = [SimpleNamespace(model=models[rank], accelerator=pair.end(rank)) for rank in range(2)]
        for done in [pool.submit(PolicyTrainer._average_gradients, end) for end in ends]:
            done.result()
    for model in models:
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
        found = {name: None if model[name].grad is None else model[name].grad.tolist() for name in names}
        assert found == {"both": [1.5, 3.0], "first": [0.5, 1.0], "second": [1.0, 2.0], "nobody": None}
        optimiser.step()
        assert model["nobody"].tolist() == [1, 1]
        assert len(optimiser.state) == 3
