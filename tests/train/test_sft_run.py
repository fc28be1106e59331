from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loss_reference import token_log_probs
from small_runs import Kind, World, metrics, moved, recipe, sft_tree, steps, warmup_trainer, weight_bytes, weights

from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.files import sha256
from rft3d_cli.models.loader import load_model
from rft3d_cli.recipe import Recipe, load_recipe
from rft3d_cli.train.data import read_examples
from rft3d_cli.train.sft import run_sft

Make = Callable[..., Recipe]
ANSWERS = {"choice": ("A", "B"), "number": ("2", "3")}


@pytest.fixture
def run(kind: Callable[[str], Kind]) -> Kind:
    """Six steps on eight records, three epochs, scored on held-out records every second step."""
    return kind("sft")


def test_labels_are_the_answer_and_the_end_of_its_turn(sft_recipe: Make, world: World, tmp_path: Path) -> None:
    trainer = warmup_trainer(sft_recipe(), tmp_path / "run")
    tokenizer = trainer.processing_class.tokenizer
    records = world.records("mix")
    batch = trainer.data_collator([{"row": row} for row in range(len(records))])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["mm_token_type_ids"].shape
    for row, record in enumerate(records):
        ids, labels = batch["input_ids"][row], batch["labels"][row]
        known = labels != -100
        answer = record.answer or ANSWERS[record.task][int(record.id[-1]) % 2]
        assert tokenizer.decode(labels[known]) == f"{answer}<|im_end|>"
        assert torch.equal(ids[known], labels[known])
        first, last = int(known.nonzero()[0]), int(known.nonzero()[-1])
        assert known[first : last + 1].all()
        assert tokenizer.decode(ids[:first]).endswith("<|im_start|>assistant\n")
        assert (ids[last + 1 :] == tokenizer.pad_token_id).all()
        assert (batch["attention_mask"][row] == (torch.arange(len(ids)) <= last)).all()


@pytest.fixture(scope="module")
def whole_batch(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[int, SimpleNamespace]:
    """Runs of two steps on all sixteen records at once, by micro-batch."""
    folder = tmp_path_factory.mktemp("whole")
    tree = sft_tree(world.data, world.plain)
    tree["train"] |= {"steps": 2, "batch": 16, "warmup": 0, "schedule": "constant"}
    out = {}
    for micro in (16, 4):
        made = recipe(folder / f"{micro}.yaml", tree, f"train.micro_batch={micro}")
        run_sft(made, folder / str(micro))
        out[micro] = SimpleNamespace(recipe=made, out=folder / str(micro))
    return out


def mean_loss(model: torch.nn.Module, recipe: Recipe, swap: bool = False) -> float:
    _, processor = load_model(recipe.config.model)
    examples = read_examples(recipe.config.data.train, processor, recipe.config)
    total, count = 0.0, 0
    for row in range(len(examples)):
        prompt = examples.prompt(row)
        if swap:  # the neighbour of the same task shows the other block
            other = examples.prompt((row + 4) % len(examples))
            prompt = type(prompt)(prompt.input_ids, prompt.mm_token_type_ids, other.pixel_values, other.image_grid_thw)
        with torch.no_grad():
            log_probs = token_log_probs(model, prompt, examples.answer_ids(row).tolist())
        total, count = total - float(log_probs.sum()), count + len(log_probs)
    return total / count


@pytest.mark.parametrize("micro", [16, 4])
def test_the_loss_is_the_mean_over_the_batchs_answer_tokens_and_sees_frames(
    whole_batch: dict[int, SimpleNamespace], micro: int
) -> None:
    run = whole_batch[micro]
    model, _ = load_model(run.recipe.config.model)
    expected = mean_loss(model, run.recipe)
    assert metrics(run.out)[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert abs(mean_loss(model, run.recipe, swap=True) - expected) > 1e-3 * expected


def test_micro_batches_do_not_change_what_is_learned(whole_batch: dict[int, SimpleNamespace]) -> None:
    one, four = (weights(whole_batch[micro].out / "final") for micro in (16, 4))
    assert metrics(whole_batch[16].out)[0]["grad_norm"] == pytest.approx(
        metrics(whole_batch[4].out)[0]["grad_norm"], rel=1e-4
    )
    # Adam turns differences of 1e-7 in gradients near 0 into whole steps, so not every single weight is close.
    apart = np.concatenate([np.abs(one[name] - four[name]).ravel() for name in one])
    assert np.quantile(apart, 0.99) < 1e-5


def test_the_same_seed_gives_the_same_bytes_whatever_happened_before(run: Kind, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    np.random.seed(12345)  # noqa: NPY002 - the global state is what must not matter
    run_sft(run.recipe, tmp_path / "again")
    assert weight_bytes(tmp_path / "again" / "final") == weight_bytes(run.straight / "final")
    assert metrics(tmp_path / "again") == metrics(run.straight)


def test_reading_in_other_processes_changes_nothing(run: Kind, tmp_path: Path) -> None:
    made = load_recipe(run.straight / "recipe.yaml", ["data.workers=2"])
    run_sft(made, tmp_path / "run")
    assert run.differences(tmp_path / "run") == []


def test_another_seed_gives_other_weights_and_another_order(sft_recipe: Make, tmp_path: Path) -> None:
    for seed in (0, 1):
        run_sft(sft_recipe(f"train.seed={seed}", "train.steps=1", model="tiny-random"), tmp_path / str(seed))
    assert metrics(tmp_path / "0")[0]["loss"] != metrics(tmp_path / "1")[0]["loss"]
    assert weight_bytes(tmp_path / "0" / "final") != weight_bytes(tmp_path / "1" / "final")


def test_metrics_have_one_line_a_step_and_one_an_evaluation(run: Kind) -> None:
    lines = metrics(run.straight)
    assert steps(run.straight) == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "eval/loss" in line] == [2, 4, 6]
    for line in lines:
        if "loss" in line:
            assert {"grad_norm", "learning_rate", "mean_token_accuracy", "epoch"} <= line.keys()
            assert all(np.isfinite(value) for value in line.values())
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 0.5 * max(rates)


def test_the_run_folder_says_what_is_needed_to_repeat_it(run: Kind, world: World) -> None:
    assert load_recipe(run.straight / "recipe.yaml").tree() == run.recipe.tree()
    document = json.loads((run.straight / "run.json").read_text())
    assert document["recipe"] == {"name": "recipe", "sha256": sha256(run.recipe.path)}
    assert document["model"]["name"] == str(world.warm)
    assert document["model"]["sha256"] == {"model.safetensors": sha256(world.warm / "model.safetensors")}
    assert 0 < document["model"]["trainable"] == document["model"]["parameters"]
    for split, name in (("train", "mix.jsonl"), ("eval", "val.jsonl")):
        path = world.data / name
        expected = {"file": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}
        assert document["data"][split] == [expected]
    assert document["records"] == {"detection": 2, "grounding": 2, "choice": 2, "number": 2}
    assert {"torch", "transformers", "trl", "rft3d", "python"} <= document["versions"].keys()
    assert {"command", "machine", "prompt_hash", "started", "finished"} <= document.keys()
    assert document["summary"]["steps"] == 6
    assert document["summary"]["model"] == str(run.straight / "final")
    assert document["summary"]["best"] == str(run.straight / "best")
    assert document["resumed_from"] is None


def test_checkpoints_are_complete_and_as_many_as_asked(run: Kind) -> None:
    folders = sorted((run.straight / "checkpoints").glob("checkpoint-*"))
    assert [folder.name for folder in folders] == ["checkpoint-3", "checkpoint-6"]
    for folder in folders:
        listed = json.loads((folder / "complete.json").read_text())["files"]
        present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert present == listed.keys() | {"complete.json"}
        assert all(sha256(folder / name) == entry["sha256"] for name, entry in listed.items())


def test_only_as_many_checkpoints_are_kept_as_asked_and_two_at_least(sft_recipe: Make, tmp_path: Path) -> None:
    run_sft(sft_recipe("train.steps=4", "checkpoint.every=1", "checkpoint.keep=1"), tmp_path / "run")
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["checkpoint-3", "checkpoint-4"]


def test_the_final_model_is_a_model_directory_that_says_how_it_was_trained(run: Kind) -> None:
    model, _ = load_model(run.straight / "final")
    assert not model.training
    document = json.loads((run.straight / "final" / "rft3d.json").read_text())
    assert document["datasets"] == ["blocks"]
    assert {task: document["frames"][task] for task in ("detection", "choice")} == {"detection": 2, "choice": 1}
    newest = weights(run.straight / "checkpoints" / "checkpoint-6")
    assert all(np.array_equal(value, newest[name]) for name, value in weights(run.straight / "final").items())


def test_no_leftovers_and_no_model_card(run: Kind) -> None:
    names = {path.name for path in run.straight.rglob("*")}
    assert not {name for name in names if name.endswith((".tmp", ".old"))}
    assert "README.md" not in names
    assert {p.name for p in run.straight.iterdir()} == {
        "best", "best.json", "checkpoints", "completions.jsonl", "final", "metrics.jsonl", "recipe.yaml", "run.json",
    }  # fmt: skip


def test_answers_to_held_out_records_are_kept_at_each_evaluation(run: Kind, world: World) -> None:
    rows = [json.loads(line) for line in (run.straight / "completions.jsonl").read_text().splitlines()]
    expected = [record.id for record in world.records("val")[:2]]
    assert [(row["step"], row["id"]) for row in rows] == [(step, name) for step in (2, 4, 6) for name in expected]
    assert all(0 <= row["score"] <= 1 and isinstance(row["prediction"], str) for row in rows)


@pytest.mark.parametrize(
    ("override", "still"),
    [
        pytest.param("model.freeze=[vision, vision_merger]", ("visual.",), id="vision"),
        pytest.param("model.freeze=[vision]", ("visual.blocks.", "visual.patch_embed."), id="all-but-merger"),
        pytest.param("model.freeze=[]", (), id="nothing"),
    ],
)
def test_frozen_parts_stay_and_all_others_move(
    sft_recipe: Make, world: World, tmp_path: Path, override: str, still: tuple[str, ...]
) -> None:
    run_sft(sft_recipe("train.steps=2", "train.warmup=0", override), tmp_path / "run")
    changed = moved(world.plain, tmp_path / "run" / "final")
    expected = {name for name in weights(world.plain) if not any(part in name for part in still)}
    assert changed == expected


def test_the_geometry_encoder_is_frozen_and_its_merger_learns(kind: Callable[[str], Kind], world: World) -> None:
    changed = moved(world.fused, kind("sft-geometry").straight / "final")
    encoder = {name for name in weights(world.fused) if "geometry_encoder" in name}
    assert encoder
    assert changed == weights(world.fused).keys() - encoder


def test_a_folder_that_holds_a_run_is_not_overwritten(run: Kind) -> None:
    before = weight_bytes(run.straight / "final")
    with pytest.raises(UsageError, match="holds a run already") as caught:
        run_sft(run.recipe, run.straight)
    assert "--resume" in (caught.value.hint or "")
    assert weight_bytes(run.straight / "final") == before


def test_a_folder_with_other_things_is_not_used(sft_recipe: Make, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="not a run's folder"):
        run_sft(sft_recipe(), tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_one_clear_error(sft_recipe: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((DataError, UsageError), match="file"):
        run_sft(sft_recipe(), tmp_path / "file" / "run")
