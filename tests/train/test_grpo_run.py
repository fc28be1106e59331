from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import (
    Kind,
    World,
    cli,
    grpo_tree,
    known_warnings_off,
    metrics,
    moved,
    policy_trainer,
    recipe,
    weight_bytes,
    weights,
)

from rft3d_cli.errors import Rft3dError, UsageError
from rft3d_cli.prompts import FORBIDDEN
from rft3d_cli.recipe import Recipe
from rft3d_cli.records import Clip, Record, write_records
from rft3d_cli.train.grpo import run_grpo
from rft3d_cli.train.preflight import preflight
from rft3d_cli.video import write_mp4

Make = Callable[..., Recipe]
GOOD = {
    "detection": '[{"label": "chair", "bbox_3d": [0.0, 0.2, 1.5, 0.5, 0.9, 0.6, 0.3, 0.0, 0.0]}]',
    "grounding": '{"frame": 0, "bbox_3d": [0.0, 0.2, 1.5, 0.5, 0.9, 0.6, 0.3, 0.0, 0.0]}',
    "choice": "A",
    "number": "2",
}
"""The right answer to the first record of each task."""
OWN = {
    "detection": {"det_f1", "det_soft_f1"},
    "grounding": {"ground_frame", "ground_near"},
    "choice": {"accuracy"},
    "number": {"mra"},
}


@pytest.fixture(scope="module")
def trainer(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trainer")
    made = policy_trainer(recipe(folder / "r.yaml", grpo_tree(world.data, world.warm)), folder / "run")
    made.model.train()
    return made


def score(trainer: Any, rows: list[int], texts: list[Any]) -> tuple[list[dict[str, float]], list[float]]:
    """Reward name → value of each completion where it applies, and the totals."""
    matrix = trainer._calculate_rewards([{"row": row} for row in rows], None, texts, None)
    names = trainer.reward_func_names
    assert matrix.shape == (len(rows), len(names))
    applied = [{n: v for n, v in zip(names, line, strict=True) if not math.isnan(v)} for line in matrix.tolist()]
    return applied, trainer._totals.tolist()


@pytest.fixture
def file_reward(tmp_path: Path) -> Callable[[str], str]:
    def write(body: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(f"def paid(text, record):\n    {body}\n")
        return f"{path}:paid"

    return write


@pytest.mark.parametrize("task", GOOD)
@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_a_completion_is_scored_by_the_rewards_of_its_own_task(
    trainer: Any, world: World, task: str, chat: bool
) -> None:
    row = [record.task for record in world.records("mix")].index(task)
    texts: list[Any] = [GOOD[task], "no idea"]
    if chat:
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    (good, bad), totals = score(trainer, [row, row], texts)
    assert good == pytest.approx({"format": 1.0, **dict.fromkeys(OWN[task], 1.0)})
    assert bad == {"format": 0.0, **dict.fromkeys(OWN[task], 0.0)}
    assert totals == pytest.approx([1.0 + len(OWN[task]), 0.0])


def test_tasks_share_a_batch_without_sharing_rewards(trainer: Any, world: World) -> None:
    tasks = [record.task for record in world.records("mix")][:4]
    assert sorted(tasks) == sorted(GOOD)
    applied, totals = score(trainer, [0, 1, 2, 3], [GOOD[task] for task in tasks])
    assert [set(one) for one in applied] == [{"format", *OWN[task]} for task in tasks]
    assert totals == pytest.approx([1.0 + len(OWN[task]) for task in tasks])
    swapped, totals = score(trainer, [0, 1, 2, 3], [GOOD[task] for task in reversed(tasks)])
    assert [set(one) for one in swapped] == [{"format", *OWN[task]} for task in tasks]
    assert max(totals) < 2


def test_the_metrics_hold_rewards_by_name_and_by_task(trainer: Any) -> None:
    trainer._metrics["train"].clear()
    score(trainer, [0, 0, 2, 2], [GOOD["detection"], "", "A", "B"])
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    assert logged["reward/detection"] == pytest.approx(1.5)
    assert logged["reward/choice"] == pytest.approx(1.5)  # both letters have the right form
    assert logged["parts/det_f1/tp"] == pytest.approx(0.5)
    assert logged["parts/det_f1/fn"] == pytest.approx(0.5)
    assert not [name for name in logged if "mra" in name]


def test_gate_multiplies_by_the_form(grpo_recipe: Make, tmp_path: Path) -> None:
    gated = policy_trainer(
        grpo_recipe("reward_options.format=gate", "reward_options.answer_style=think"), tmp_path / "r"
    )
    gated.model.train()
    thought = "<think>red</think><answer>A</answer>"
    assert score(gated, [2, 2, 2], [thought, "A", "<think>x</think><answer>B</answer>"])[1] == [1.0, 0.0, 0.0]


def test_a_run_logs_every_reward_and_only_where_it_applies(kind: Callable[[str], Kind]) -> None:
    run = kind("grpo")
    seen: set[str] = set()
    for line in metrics(run.straight):
        if "loss" not in line:
            continue
        tasks = {name.removeprefix("reward/") for name in line if name.startswith("reward/")}
        seen |= tasks
        for task, names in OWN.items():
            for name in names:
                assert (line[f"rewards/{name}/mean"] is not None) == (task in tasks)
        assert line["rewards/format/mean"] is not None
        means = [line[f"reward/{task}"] for task in tasks]
        assert min(means) - 1e-6 <= line["reward"] <= max(means) + 1e-6
        assert 0 <= line["frac_reward_zero_std"] <= line["frac_reward_below_floor"] <= 1
        assert 0 <= line["completions/clipped_ratio"] <= 1
        assert line["completions/max_length"] <= run.recipe.config.rollout.max_tokens
        assert math.isfinite(line["grad_norm"])
    assert len(seen) > 1
    assert moved(Path(run.recipe.config.model.name), run.straight / "final")


def test_the_kl_term_starts_at_zero_and_grows(kind: Callable[[str], Kind]) -> None:
    values = [line["kl"] for line in metrics(kind("grpo").straight) if "kl" in line]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert max(values[1:]) > 1e-4


def test_the_best_model_is_that_of_the_best_evaluation(kind: Callable[[str], Kind]) -> None:
    run = kind("grpo").straight
    scored = {line["step"]: line["eval/score"] for line in metrics(run) if "eval/score" in line}
    assert list(scored) == [1, 2, 3, 4]
    best = json.loads((run / "best.json").read_text())
    first = min(step for step, value in scored.items() if value == max(scored.values()))
    assert best == {"step": first, "metric": "score", "value": scored[first]}
    for line in metrics(run):
        if "eval/score" in line:
            assert {"eval/f1", "eval/reward", "eval/acc@0.25"} <= line.keys()
    saved = {2: run / "checkpoints" / "checkpoint-2", 4: run / "checkpoints" / "checkpoint-4"}
    for step, folder in saved.items():
        same = all(np.array_equal(value, weights(folder)[name]) for name, value in weights(run / "best").items())
        assert same == (step == first)


def test_equal_rewards_teach_nothing(grpo_recipe: Make, world: World, tmp_path: Path, file_reward: Any) -> None:
    name = file_reward("return 0.5")
    recipe = grpo_recipe("train.steps=1", "train.weight_decay=0", f"rewards={{{name}: 1}}", "rollout.max_tokens=3")
    run_grpo(recipe, tmp_path / "run")
    line = metrics(tmp_path / "run")[0]
    assert (line["loss"], line["grad_norm"]) == (0.0, 0.0)
    assert (line["frac_reward_zero_std"], line["frac_reward_below_floor"], line["reward_std"]) == (1.0, 1.0, 0.0)
    assert (line["reward"], line["rewards/paid/mean"]) == (0.5, 0.5)
    assert moved(world.warm, tmp_path / "run" / "final") == set()


def test_completions_that_cannot_be_scored_teach_nothing(
    grpo_recipe: Make, world: World, tmp_path: Path, file_reward: Any
) -> None:
    name = file_reward("return None")
    recipe = grpo_recipe("train.steps=1", "train.weight_decay=0", f"rewards={{{name}: 1}}", "rollout.max_tokens=3")
    run_grpo(recipe, tmp_path / "run")
    line = metrics(tmp_path / "run")[0]
    assert line["reward"] is None
    assert line["rewards/paid/mean"] is None
    assert line["loss"] == 0.0
    assert moved(world.warm, tmp_path / "run" / "final") == set()


def test_a_reward_that_fails_ends_the_run_with_its_name(grpo_recipe: Make, tmp_path: Path, file_reward: Any) -> None:
    name = file_reward("return 1 / (len(text) - len(text))")
    with pytest.raises(Rft3dError, match=r"mine\.py:paid failed on record .*ZeroDivisionError"):
        run_grpo(grpo_recipe(f"rewards={{{name}: 1}}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_rewards_of_one_name_in_two_files_are_told_apart(grpo_recipe: Make, tmp_path: Path) -> None:
    for folder, value in (("a", 0.25), ("b", 0.5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def paid(text, record):\n    return {value}\n")
    names = ", ".join(f"{tmp_path / folder / 'mine.py'}:paid: 1" for folder in ("a", "b"))
    two = policy_trainer(grpo_recipe(f"rewards={{{names}}}"), tmp_path / "run")
    two.model.train()
    matrix = two._calculate_rewards([{"row": 0}], None, ["x"], None)
    assert matrix.tolist() == [[0.25, 0.5]]
    assert two._totals.tolist() == [0.75]


def test_cut_completions_are_counted_and_still_teach(
    grpo_recipe: Make, tmp_path: Path, file_reward: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    name = file_reward("return len(text) % 3")
    recipe = grpo_recipe("train.steps=1", f"rewards={{{name}: 1, format: 0}}", "rollout.max_tokens=2", data="detection")
    capfd.readouterr()
    assert cli("grpo", "--recipe", _saved(recipe, tmp_path), "--out", tmp_path / "run", "--json") == 0
    printed = json.loads(capfd.readouterr().out)  # nothing but the one document
    assert printed["steps"] == 1
    assert printed["run"] == str(tmp_path / "run")
    line = metrics(tmp_path / "run")[0]
    assert line["completions/clipped_ratio"] == 1.0
    assert (line["completions/min_length"], line["completions/max_length"]) == (2.0, 2.0)
    assert line["grad_norm"] > 0
    # Weight 0 logs a reward and pays nothing for it. Two tokens can be an empty list, so some may be well formed.
    assert 0 <= line["rewards/format/mean"] < 1
    assert line["reward"] == pytest.approx(line["rewards/paid/mean"])


def _saved(recipe: Recipe, folder: Path) -> Path:
    from rft3d_cli.recipe import to_yaml

    (folder / "saved.yaml").write_text(to_yaml(recipe))
    return folder / "saved.yaml"


def test_rollouts_never_hold_tokens_that_stand_for_pixels(trainer: Any) -> None:
    tokenizer = trainer.processing_class.tokenizer
    forbidden = [tokenizer.convert_tokens_to_ids(token) for token in FORBIDDEN]
    assert len(set(forbidden)) == 4
    seen: list[int] = []

    def prefer(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., forbidden] += 1000.0
        seen.append(int(output[0, -1].argmax()))
        return output

    handle = trainer.model.lm_head.register_forward_hook(prefer)
    try:
        with known_warnings_off():
            output = trainer._generate_and_score_completions([trainer.train_dataset[i] for i in [0] * 4 + [2] * 4])
    finally:
        handle.remove()
    assert seen[0] in forbidden  # the model would say nothing else
    sampled = output["completion_ids"][output["completion_mask"].bool()]
    assert not set(sampled.tolist()) & set(forbidden)


def test_a_run_that_could_not_make_a_step_is_refused(grpo_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"3 records do not fill a rollout of 4 prompts") as caught:
        run_grpo(grpo_recipe("data.limit=3", "rollout.prompts=4"), tmp_path / "run")
    assert "rollout.prompts=3" in (caught.value.hint or "")
    assert not (tmp_path / "run").exists()


def test_no_record_is_pickled_on_the_way_to_the_trainer(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled: list[str] = []
    usual = Record.__reduce_ex__
    monkeypatch.setattr(
        Record, "__reduce_ex__", lambda self, protocol: pickled.append(self.id) or usual(self, protocol)
    )
    made = policy_trainer(recipe(tmp_path / "r.yaml", grpo_tree(world.data, world.warm)), tmp_path / "run")
    assert made.train_dataset[0] == {"row": 0}
    assert pickled == []


def test_the_starting_model_stays_as_it_was(kind: Callable[[str], Kind], world: World) -> None:
    kind("grpo")
    kind("grpo-lora")
    assert weight_bytes(world.warm) == weight_bytes(world.warm_run / "final")
    document = json.loads((kind("grpo").straight / "run.json").read_text())
    assert set(document["model"]["sha256"]) == {"model.safetensors"}


def test_a_clip_is_trained_on_as_its_frames_are(world: World, tmp_path: Path) -> None:
    pictures = [np.asarray(Image.open(world.data / "frames" / f"detection-0-{i}.png")) for i in (0, 1)]
    write_mp4(tmp_path / "clip.mp4", [pictures[i // 4] for i in range(8)], 4.0)
    choice = world.records("choice")[0].model_copy(update={"video": Clip(path="clip.mp4"), "camera": None})
    write_records(tmp_path / "choice.jsonl", [choice, choice.model_copy(update={"id": "again"})])
    tree = grpo_tree(tmp_path, world.warm, "choice")
    tree["video"] = {"frames": 3}
    made = recipe(tmp_path / "r.yaml", tree, "train.steps=1", "rollout.max_tokens=3")
    checked = preflight(made)
    assert checked.problems == []
    trainer = policy_trainer(made, tmp_path / "a")
    assert len(trainer.examples.prompt(0).image_grid_thw) == 3
    length = len(trainer.examples.prompt(0)) + 3
    assert dict(checked.lines)["longest"].endswith(f": {length} tokens of 4,096")
    run_grpo(made, tmp_path / "run")
    assert metrics(tmp_path / "run")[0]["num_tokens"] > 8 * (length - 3)
    document = json.loads((tmp_path / "run" / "final" / "rft3d.json").read_text())
    assert document["frames"]["choice"] == 3
