"""Two processes on this CPU learn what one does, write one run folder, stop together and go on together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from loss_reference import gradient_error
from processes_child import step
from safetensors.torch import load_file
from small_runs import World, cli, grpo_tree, metrics, sft_tree, steps, weight_bytes

HERE = Path(__file__).parent
SHARED = [False, True]
"""The values of ``rollout.shared_prompt``."""
WHOLE = [True]
"""Those with which whole runs are made; they take half a minute each."""
LETTERS = "def letters(text, record):\n    return sum(c.isalpha() for c in text) % 7 / 7\n"

pytestmark = pytest.mark.slow


def torchrun(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A module or a script in two processes."""
    known = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent), "HF_HUB_OFFLINE": "1", **environment}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, *map(str, words)],
        env={**os.environ, **known}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "group": ("warm", {}),
    "small-micro-batches": ("warm", {"train": {"micro_batch": 2}}),
    "kl": ("warm", {"train": {"kl": 0.5, "micro_batch": 2}}),
    "batch-loss": ("warm", {"train": {"loss": "batch", "scale_rewards": "batch", "micro_batch": 2}}),
    "a-group-over-both": ("warm", {"rollout": {"prompts": 1}, "train": {"micro_batch": 2}}),
    "geometry-lora-kl": (
        "fused",
        {"model": {"geometry": "tiny", "lora": {"rank": 4, "dropout": 0}}, "train": {"kl": 0.5, "micro_batch": 2}},
    ),
    "vision-too": ("fused", {"model": {"geometry": "tiny", "freeze": []}, "train": {"micro_batch": 1}}),
    "vggt-too": ("vggt", {"model": {"geometry": "vggt", "freeze": []}, "train": {"micro_batch": 1}}),
    "checkpointing": ("warm", {"train": {"gradient_checkpointing": True, "micro_batch": 4}}),
}


@pytest.fixture(scope="module")
def stepped(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A folder with recipes of one step each, and what two processes made of them."""
    made: dict[bool, Path] = {}

    def make(shared: bool) -> Path:
        if shared not in made:
            folder = tmp_path_factory.mktemp(f"shared-{shared}".lower())
            (folder / "paid.py").write_text(LETTERS)
            paths = []
            for name in CASES:
                model, changes = CASES[name]
                tree = grpo_tree(world.data, getattr(world, model))
                tree["rewards"][f"{folder / 'paid.py'}:letters"] = 1
                tree["rollout"]["shared_prompt"] = shared
                tree["train"] |= {"steps": 1, "max_grad_norm": 1e9, "micro_batch": 4}
                for section, keys in changes.items():
                    tree[section] |= keys
                paths.append(folder / f"{name}.yaml")
                paths[-1].write_text(yaml.safe_dump(tree))
            done = torchrun(HERE / "processes_child.py", *paths)
            assert done.returncode == 0, done.stderr[-4000:]
            made[shared] = folder
        return made[shared]

    return make


@pytest.mark.parametrize(("shared", "name"), [
    pytest.param(shared, name, marks=[] if shared else pytest.mark.long) for shared in SHARED for name in CASES
])  # fmt: skip
def test_two_processes_learn_what_one_does(stepped: Callable[[bool], Path], shared: bool, name: str) -> None:
    folder = stepped(shared)
    first, second = (load_file(folder / f"{name}-{number}.safetensors") for number in (0, 1))
    assert gradient_error(first, second) == 0, "both processes take the same step"
    alone = step(folder / f"{name}.yaml", folder / f"{name}-alone")
    assert sum(float(value.abs().sum()) for value in alone.gradients.values()) > 0
    assert gradient_error(first, alone.gradients) < 1e-5
    logs = json.loads((folder / f"{name}-0.json").read_text())
    for key in ("loss", "grad_norm", "reward", "reward_std", "num_tokens", "completions/mean_length"):
        assert logs[key] == pytest.approx(alone.logs[key], rel=1e-4, abs=1e-6), key
    for key, value in alone.logs.items():
        if key.startswith(("reward/", "rewards/", "parts/")):
            assert logs[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


# ---- Whole runs


def run_tree(world: World, shared: bool) -> dict[str, Any]:
    tree = grpo_tree(world.data, world.warm)
    tree["data"]["eval"] = str(world.data / "val.jsonl")
    tree["rollout"]["shared_prompt"] = shared
    tree["train"] |= {"kl": 0.1, "micro_batch": 2}
    tree["eval"] = {"every": 2}
    tree["log"] = {"completions": 3}
    return tree


@pytest.fixture(scope="module")
def straight(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A folder with a recipe and the run that two processes made of it, and what they printed."""
    made: dict[bool, Path] = {}

    def make(shared: bool) -> Path:
        if shared not in made:
            folder = tmp_path_factory.mktemp(f"straight-{shared}".lower())
            (folder / "r.yaml").write_text(yaml.safe_dump(run_tree(world, shared)))
            command = ["-m", "rft3d_cli", "grpo", "--recipe", folder / "r.yaml", "--out", folder / "run", "--json"]
            done = torchrun(*command)
            assert done.returncode == 0, done.stderr[-4000:]
            (folder / "out").write_text(done.stdout)
            (folder / "err").write_text(done.stderr)
            made[shared] = folder
        return made[shared]

    return make


@pytest.mark.parametrize("shared", WHOLE)
def test_a_run_of_two_processes_writes_one_folder_and_talks_once(
    straight: Callable[[bool], Path], shared: bool
) -> None:
    folder = straight(shared)
    run = folder / "run"
    assert steps(run) == [1, 2, 3, 4]
    scored = [line for line in metrics(run) if "eval/score" in line]
    assert [line["step"] for line in scored] == [2, 4]
    held_out = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
    assert [(row["step"], row["id"]) for row in held_out] == [
        (step, f"detection/{i}" if i < 12 else "grounding/10") for step in (2, 4) for i in (10, 11, 12)
    ]
    for checkpoint in ("checkpoint-2", "checkpoint-4"):
        mark = json.loads((run / "checkpoints" / checkpoint / "complete.json").read_text())
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= mark["files"].keys()
    assert json.loads((folder / "out").read_text())["steps"] == 4, "one document on stdout"
    said = (folder / "err").read_text()
    assert said.count("model in ") == 1
    assert said.count("held out at step 2") == 1
    assert "find_unused_parameters" not in said
    assert "destroy_process_group" not in said
    (best,) = [json.loads((run / "best.json").read_text())]
    assert best["value"] == max(line["eval/score"] for line in scored)


@pytest.mark.long
@pytest.mark.parametrize("shared", WHOLE)
def test_a_signal_to_one_process_stops_both_at_one_step_and_they_go_on_as_if_nothing_was(
    straight: Callable[[bool], Path], shared: bool, tmp_path: Path
) -> None:
    folder, out = straight(shared), tmp_path / "run"
    command = ["grpo", "--recipe", folder / "r.yaml", "--out", out]
    done = torchrun(HERE / "signal_child.py", "SIGTERM", 1, *command, SIGNAL_RANK="1")
    assert done.returncode == 1  # torchrun's own, whatever the processes' are
    assert done.stderr.count("stopped at step 2 of 4; checkpoint saved") == 1
    assert done.stderr.count("--resume") == 1
    ends = {int(line.split(":")[1].split()[0]) for line in done.stderr.splitlines() if "exitcode  :" in line}
    # torchrun ends those that are still about to leave when the first has left.
    assert 128 + signal.SIGTERM in ends <= {128 + signal.SIGTERM, -signal.SIGTERM}
    assert not (out / "final").exists()
    assert steps(out) == [1, 2]
    done = torchrun("-m", "rft3d_cli", *command, "--resume")
    assert done.returncode == 0, done.stderr[-4000:]
    assert metrics(out) == metrics(folder / "run")
    assert weight_bytes(out / "final") == weight_bytes(folder / "run" / "final")
    for name in ("completions.jsonl", "best.json"):
        assert (out / name).read_bytes() == (folder / "run" / name).read_bytes()


@pytest.mark.long
def test_a_warm_up_of_two_processes_scores_what_one_scores(world: World, tmp_path: Path) -> None:
    tree = sft_tree(world.data, world.warm)
    tree["data"] |= {"eval": str(world.data / "val.jsonl")}
    tree["train"] |= {"steps": 1, "micro_batch": 2, "lr": 1e-9}
    tree["eval"] = {"metric": "loss"}
    tree["rollout"] = {"max_tokens": 20}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    command = ["sft", "--recipe", tmp_path / "r.yaml", "--out"]
    done = torchrun("-m", "rft3d_cli", *command, tmp_path / "two")
    assert done.returncode == 0, done.stderr[-4000:]
    assert cli(*command, tmp_path / "one") == 0
    (two,), (one,) = ([row for row in metrics(tmp_path / name) if "eval/loss" in row] for name in ("two", "one"))
    assert two == pytest.approx(one, rel=1e-5)
    (two,), (one,) = ([row for row in metrics(tmp_path / name) if "loss" in row] for name in ("two", "one"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


@pytest.mark.long
def test_an_error_of_one_process_ends_both_and_is_said_once(world: World, tmp_path: Path) -> None:
    late = (
        "import os\ncalls = []\n\n\ndef late(text, record):\n    calls.append(1)\n"
        "    if os.environ.get('RANK') == '1' and len(calls) > 60:\n        raise ValueError('as if')\n    return 1\n"
    )
    (tmp_path / "late.py").write_text(late)
    tree = grpo_tree(world.data, world.warm)
    tree["train"] |= {"steps": 100, "micro_batch": 2}
    tree["checkpoint"] = {"every": 100}
    tree["rewards"][f"{tmp_path / 'late.py'}:late"] = 1
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    done = torchrun("-m", "rft3d_cli", "grpo", "--recipe", tmp_path / "r.yaml", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.count("late failed on record ") == 1
    assert "foresee" not in done.stderr
    assert steps(tmp_path / "run")
    assert not (tmp_path / "run" / "final").exists()
