"""The files for many GPUs are what accelerate and Slurm read, and the page's numbers are those that are computed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from small_runs import cli

from rft3d_cli.recipe import load_recipe
from rft3d_cli.resources import cluster_files, recipes_dir
from rft3d_cli.train import processes
from rft3d_cli.train.budget import Row, assumed_row
from rft3d_cli.train.cost import Answers, Cost, cost
from rft3d_cli.train.devices import USUAL, Rate, rate_of
from rft3d_cli.train.shape import shape_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
FOLDER = recipes_dir() / "cluster"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.yaml"))
ENGINES = {
    "ddp.yaml": (None, None),
    "zero2.yaml": ("DeepSpeed", None),
    "zero3.yaml": ("DeepSpeed", "DeepSpeed ZeRO-3"),
    "fsdp.yaml": ("FSDP", "FSDP"),
}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The environment that ``accelerate launch`` gives its processes, by its own code, as if there were eight GPUs."""

    def make(name: str) -> dict[str, str]:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
        monkeypatch.setattr("accelerate.commands.launch.is_bf16_available", lambda *_: True)
        words = ["--config_file", str(FOLDER / name), "-m", "rft3d_cli", "grpo"]
        args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
        assert args.num_processes == 8
        args.deepspeed_fields_from_accelerate_config = ""  # as the launcher does next
        return prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)

    return make


def test_there_is_a_file_for_each_way() -> None:
    assert set(ENGINES) == set(CONFIGS)
    assert [path.name for path in cluster_files()] == sorted([*CONFIGS, "slurm.sh"])


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_knows_every_key(name: str) -> None:
    config = load_config_from_file(str(FOLDER / name))
    assert isinstance(config, ClusterConfig)
    written = yaml.safe_load((FOLDER / name).read_text())
    known = {action.dest for action in launch_command_parser()._actions}
    for section in ("deepspeed_config", "fsdp_config"):
        assert set(written.get(section) or {}) <= known
    assert config.mixed_precision == "bf16"


def test_a_wrong_key_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text((FOLDER / "ddp.yaml").read_text() + "mixed_precisoin: bf16\n")
    with pytest.raises(ValueError, match="mixed_precisoin"):
        load_config_from_file(str(tmp_path / "wrong.yaml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_accelerate_announces_is_what_a_run_reads(
    name: str, launched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = launched(name)
    for key in [key for key in os.environ if key.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(key)
    assert (processes.engine(), processes.sharding()) == (None, None)
    for key, value in environment.items():
        if key.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(key, value)
    assert (processes.engine(), processes.sharding()) == ENGINES[name]
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    if name == "fsdp.yaml":
        assert environment["FSDP_VERSION"] == "2"
        from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

        assert hasattr(modeling_qwen2_5_vl, environment["FSDP_TRANSFORMER_CLS_TO_WRAP"])


def test_the_slurm_script_is_bash_and_starts_what_it_says() -> None:
    script = FOLDER / "slurm.sh"
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=False).stderr == b""
    text = script.read_text()
    assert "--resume" in text
    # The launcher's patience is longer than its default, and ends before the time limit.
    (wait,) = re.findall(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", text)
    (before,) = re.findall(r"--signal TERM@(\d+)", text)
    assert 30 < int(wait) < int(before)


def test_the_slurm_script_hands_its_words_to_torchrun(tmp_path: Path) -> None:
    for name, body in {
        "scontrol": "echo node1\necho node2",
        "srun": 'printf "%s\\n" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "77",
    }  # fmt: skip
    words = ["grpo", "--recipe", "grounding", "rollout.prompts=16"]
    done = subprocess.run(
        ["bash", FOLDER / "slurm.sh", *words], env=environment, capture_output=True, text=True, check=True
    )
    said = done.stdout.splitlines()
    at = said.index("torchrun")
    assert said[at + 1 :] == [
        "--nnodes", "2", "--nproc_per_node", "4", "--rdzv_backend", "c10d", "--rdzv_id", "77",
        "--rdzv_endpoint", "node1:29500", "-m", "rft3d_cli", *words, "--resume",
    ]  # fmt: skip
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(said[at + 1 :])
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.training_script) == ("2", "4", "rft3d_cli")


def test_the_files_are_copied_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("recipes", "cluster", tmp_path / "mine", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == [path.name for path in cluster_files()]
    for path in cluster_files():
        assert (tmp_path / "mine" / path.name).read_bytes() == path.read_bytes()
    assert cli("recipes", "cluster", tmp_path / "mine") == 2
    assert "exists already" in capsys.readouterr().err
    assert cli("recipes", "cluster", tmp_path / "mine", "--force") == 0


# ---- Hours


def step(name: str, *words: str, shared: bool | None = None, answers: Answers | None = None) -> tuple[Cost, Any, Row]:
    config = load_recipe(name, words).config
    shape = shape_of(config.model)
    row = assumed_row(config, shape)
    return cost(config, shape, row, answers, shared_prompt=shared), shape, row


@pytest.fixture(autouse=True)
def _published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.train.shape._folder", lambda name: None)


def test_the_language_model_is_counted_as_torch_counts_it() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from rft3d_cli.recipe_schema import Model
    from rft3d_cli.train.cost import _group

    text = {
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 5, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 512, "bos_token_id": None, "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config={"depth": 1, "hidden_size": 32, "num_heads": 2})
    config._attn_implementation = "eager"
    model = Qwen2_5_VLForConditionalGeneration(config).requires_grad_(False)
    from dataclasses import replace

    from rft3d_cli.train.shape import Layers

    published = shape_of(Model(name="Qwen/Qwen2.5-VL-3B-Instruct"))
    shape = replace(published, text=Layers(5, 128, 8, 128, 32, 384), vocabulary=512)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.randint(2, 500, (4, 200)), logits_to_keep=40)
    # Eager attention computes all pairs, of which a causal mask keeps half.
    whole = 4 * 4 * 5 * 128 * 200**2
    expected = _group(shape, 160, 40, 4, shared=False)
    assert counter.get_total_flops() - whole / 2 == pytest.approx(expected, rel=1e-3)


def test_sharing_costs_a_prompt_once_a_group() -> None:
    shared, _, row = step("grounding", shared=True)
    apart, _, _ = step("grounding", shared=False)
    mean = row.answer // 4
    # Tokens of the reference, the update and the reading of prompts, and those that are sampled.
    assert shared.tokens == 8 * (2 * (row.prompt + 8 * mean) + row.prompt + 8 * mean)
    assert apart.tokens == 8 * (2 * 8 * (row.prompt + mean) + 8 * row.prompt + 8 * mean)
    # Eight completions, in the rollout, for the reference and in the update: the towers see each clip once instead.
    assert apart.work["towers"] == pytest.approx(8 * 3 * shared.work["towers"])
    assert apart.work["prompts being read"] == pytest.approx(8 * shared.work["prompts being read"])
    assert 5 < apart.work["update"] / shared.work["update"] < 8
    assert apart.work["decoding"] == shared.work["decoding"]
    assert shared.keys < apart.keys


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ([], {"update", "reference"}),
        (["train.kl=0"], {"update"}),
        (["train.kl=0", "train.iterations=2", "checkpoint.every=2", "eval.every=2"], {"update", "old policy"}),
        (["train.kl=0", "rollout.engine=vllm", "model.geometry=none"], {"update", "old policy"}),
    ],
)
def test_passes_are_those_of_the_recipe(words: list[str], passes: set[str]) -> None:
    found, _, _ = step("grounding", *words)
    assert set(found.work) - {"towers", "decoding", "prompts being read"} == passes


def test_adapters_spare_the_gradients_of_weights_and_checkpoints_cost_a_pass() -> None:
    full, lora, kept = (
        step("grounding", *words)[0].work["update"]
        for words in ([], ["model.lora.rank=8"], ["train.gradient_checkpointing=false"])
    )
    assert lora / full == pytest.approx(3 / 4)
    assert kept / full == pytest.approx(3 / 4)


def test_decoding_waits_for_launches_or_for_memory() -> None:
    slow = Rate("slow", 1e30, 1e9)
    found, _, _ = step("grounding")
    assert found.seconds(8, Rate("quick", 1e30, 1e30)) == pytest.approx(256 * 36 * 0.8e-3)
    assert found.seconds(8, slow) == pytest.approx(256 * (found.weights + found.keys / 8) / (1e9 * 0.6))
    quick, _, _ = step("grounding", "rollout.engine=vllm", "model.geometry=none")
    assert quick.floor == 0


def test_the_published_warm_up_takes_about_the_published_hours() -> None:
    detection, _, _ = step("det-sft", answers=Answers(770, 770))
    grounding, _, _ = step("grounding-sft", answers=Answers(80, 80))
    h800 = rate_of("NVIDIA H800")
    # 144,164 clips, and 36,665 descriptions each as a question and as a caption.
    hours = detection.hours(144_164, 8, h800) + grounding.hours(2 * 36_665, 8, h800)
    assert hours == pytest.approx(8, rel=0.2)


ROW = re.compile(
    r"^\| `(det|grounding|vsi)([^`]*)` \| ([\d,]+) \| ([\d,]+) s \| ([\d,]+) h \| ([\d,]+) s \| ([\d,]+) h \|$",
    re.MULTILINE,
)


def test_the_page_says_the_hours_that_are_computed() -> None:
    rows = ROW.findall(PAGE)
    assert len(rows) == 6
    for name, words, records, shared, hours, apart, hours_apart in rows:
        for yes, seconds, said in ((True, shared, hours), (False, apart, hours_apart)):
            found, _, _ = step(name, *words.split(), shared=yes)
            assert f"{found.seconds(8, USUAL):.0f}" == seconds.replace(",", "")
            assert round(found.hours(int(records.replace(",", "")), 8, USUAL)) == int(said.replace(",", ""))
