"""What the 4B model costs: Qwen2.5-VL-3B with the whole of VGGT beside it, random weights, clips of 32 frames.

Each stage runs in a process of its own, through the code that the commands run, on a record made here (32 frames of
640 × 480, which become 8,064 visual tokens):

    aggregator   VGGT's aggregator alone, beside the same with every layer's output kept, as the public code keeps them
    forward      one pass over a prompt, bfloat16
    sft          supervised steps, full fine-tuning as in det-sft: towers frozen, trained weights in float32
    grpo         GRPO steps of 8 completions of 64 tokens for one prompt, LoRA as in vsi
    grpo-full    the same with full fine-tuning and a reference model, as in grounding

    python bench/fullsize.py                  the 4B model where there is a CUDA device, else the small one
    python bench/fullsize.py --size small     the same architecture in miniature, anywhere
    python bench/fullsize.py --frames 2       shorter clips; 4B then fits a patient CPU with 16 GB
    python bench/fullsize.py --json           one JSON document
    python bench/fullsize.py --quick          fewer steps, and without grpo-full

Seconds are medians of steps after the first. Memory is the most that torch held on the GPU; without one, the most that
the process held. Weights are drawn once into a temporary folder (10 GB for 4B).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from side_by_side import cpu

import rft3d_cli
from rft3d_cli.models import tiny

STAGES = ("aggregator", "forward", "sft", "grpo", "grpo-full")
VOCABULARY = 151_936
TEXT_3B = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128_000,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "initializer_range": 0.02,
}
VISION_3B = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "rope_parameters": {"rope_type": "axial", "rope_theta": 10_000.0},
}
SMALL = {
    "dino": {"embed_dim": 64, "depth": 4, "num_heads": 4},
    "aggregator": {"embed_dim": 64, "depth": 24, "num_heads": 4},
}
"""Of the small aggregator: as deep as the real one, so that keeping layers costs as much beside the rest."""
SHARD = 4 * 10**9
"""Bytes of a weight file, at most."""


def write_model(folder: Path, size: str) -> None:
    """A model of random weights as an ordinary folder; the tokenizer is tiny's, whatever the vocabulary."""
    if size == "small":
        tiny.create(folder, geometry="vggt")
        return
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from rft3d_cli.models.fusion import FusedConfig, FusedForConditionalGeneration
    from rft3d_cli.models.processor import FrameProcessor

    tokenizer = tiny.build_tokenizer()
    config = FusedConfig.from_qwen(config_3b(tokenizer), encoder="vggt")
    with torch.device("meta"):
        model = FusedForConditionalGeneration(config)
    folder.mkdir(parents=True)
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tied = {"lm_head.weight"}
    write_shards(folder, {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied})
    FrameProcessor(Qwen2VLImageProcessorPil(patch_size=14), tokenizer, tiny.CHAT_TEMPLATE).save_pretrained(folder)


def config_3b(tokenizer: Any) -> Any:
    """Qwen2.5-VL-3B's sizes, with the special tokens of a tokenizer."""
    from transformers import Qwen2_5_VLConfig

    small = tiny.build_config(tokenizer)
    marks = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ends = {name: getattr(small.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return Qwen2_5_VLConfig(
        text_config=TEXT_3B | ends | {"tie_word_embeddings": True},
        vision_config=VISION_3B,
        tie_word_embeddings=True,
        **{name: getattr(small, name) for name in marks},
    )


def write_shards(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Draw the weights, a file at a time: norms at one, biases at zero, the rest narrow around it."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}

    def flush() -> None:
        name = f"model-{len(set(places.values())):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, shape in shapes.items():
        if name.endswith("bias"):
            tensor = torch.zeros(shape)
        elif "norm" in name or "ln_q" in name:
            tensor = torch.ones(shape)
        elif name.endswith("gamma"):
            tensor = torch.full(shape, 0.01 if "global" in name or "frame" in name else 1.0)
        else:
            tensor = 0.02 * torch.randn(shape, generator=generator)
        shard[name] = tensor.to(torch.bfloat16)
        if sum(t.nbytes for t in shard.values()) > SHARD:
            flush()
    flush()
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_data(folder: Path, frames: int) -> None:
    """One question about smooth pictures, four times over."""
    from PIL import Image

    from rft3d_cli.prompts import vsibench_prompt
    from rft3d_cli.records import Record, write_records

    rng = np.random.default_rng(0)
    names = []
    for i in range(frames):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        names.append(f"{i:05d}.jpg")
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(folder / names[-1])
    records = [
        Record.model_validate(
            {
                "id": str(i),
                "task": "number",
                "video": {"frames": names},
                "prompt": vsibench_prompt("How many chairs are there?", None),
                "target": {"value": 3},
            }
        )
        for i in range(4)
    ]
    write_records(folder / "train.jsonl", records)


def run_stage(stage: str, size: str, work: Path, steps: int) -> dict[str, Any]:
    """One stage in this process: seconds (median of all but the first) and the most memory it held."""
    gpu = torch.cuda.is_available()
    found = {"aggregator": aggregator, "forward": forward}.get(stage, training)(stage, size, work, steps)
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"stage": stage, "GiB": peak / 2**30, **found}


def device() -> str:
    """Where to compute."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype(size: str) -> str:
    """The format of the frozen weights and of the arithmetic."""
    return "bfloat16" if size == "4b" else "float32"


def timed(call: Callable[[], object], steps: int) -> float:
    """Median seconds of a call, without its first."""
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def aggregator(stage: str, size: str, work: Path, steps: int) -> dict[str, Any]:
    """VGGT alone, and with what the public code keeps kept."""
    from rft3d_cli.models.vggt import VGGTAggregator

    count = len(list(work.glob("*.jpg")))
    sizes = {} if size == "4b" else tiny.BRANCHES["vggt"] | SMALL
    with torch.device(device()):
        model = VGGTAggregator(**sizes).eval().to(torch.bfloat16 if size == "4b" else torch.float32)
    clip = torch.rand(1, count, 3, *((392, 518) if size == "4b" else (56, 72)), device=device())
    kept: list[torch.Tensor] = []
    peaks = []
    with torch.inference_mode():
        seconds = timed(lambda: model(clip), steps)
        for keep in (False, True):
            handles = []
            if keep:
                blocks = [*model.frame_blocks, *model.global_blocks]
                handles = [block.register_forward_hook(lambda *a: kept.append(a[2])) for block in blocks]
            peaks.append(allocated(lambda: model(clip, layer=-1)))
            for handle in handles:
                handle.remove()
            kept.clear()
    return {"seconds": seconds, "GiB_activations": peaks[0] / 2**30, "kept_over_ours": peaks[1] / peaks[0]}


def allocated(call: Callable[[], object]) -> int:
    """The most bytes that a call allocates at once beyond what is there before it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        call()
    events = [event for event in watch.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def forward(stage: str, size: str, work: Path, steps: int) -> dict[str, Any]:
    """A prompt of 32 frames through the whole model."""
    from rft3d_cli.models.inputs import FrameStore, collate, on_device
    from rft3d_cli.models.loader import load_speaker
    from rft3d_cli.recipe_schema import Model
    from rft3d_cli.records import read_records

    model, processor = load_speaker(Model.model_validate({"name": str(work / "model"), "dtype": dtype(size)}))
    model = model.to(device())
    record = read_records(work / "train.jsonl").records[0]
    prompt = FrameStore(work, processor).encode(record)
    batch = on_device(collate([prompt], processor.tokenizer.pad_token_id), device())
    with torch.inference_mode():
        seconds = timed(lambda: model(**batch, logits_to_keep=1), steps)
    return {"seconds": seconds, "prompt_tokens": len(prompt), "parameters": parameters(model)}


def parameters(model: Any) -> int:
    """Unique parameters."""
    return sum(p.numel() for p in model.parameters())


def training(stage: str, size: str, work: Path, steps: int) -> dict[str, Any]:
    """Steps of a trainer, through the function that the command calls."""
    from rft3d_cli.recipe import load_recipe
    from rft3d_cli.train.grpo import run_grpo
    from rft3d_cli.train.monitor import MetricsLog
    from rft3d_cli.train.preflight import preflight
    from rft3d_cli.train.sft import run_sft

    tree: dict[str, Any] = {
        "stage": "sft" if stage == "sft" else "grpo",
        "model": {"name": str(work / "model"), "dtype": dtype(size), "lora": {"rank": 64} if stage == "grpo" else None},
        "data": {"train": str(work / "train.jsonl"), "workers": 0},
        "train": {"steps": steps + 1, "micro_batch": 1, "gradient_checkpointing": True},
        "checkpoint": {"every": 1000},
    }
    if stage == "sft":
        tree["train"] |= {"batch": 1}
    else:
        tree |= {"rollout": {"group": 8, "prompts": 1, "max_tokens": 64}, "rewards": {"format": 1, "mra": 1}}
        tree["reward_options"] = {"answer_style": "direct"}
        tree["train"] |= {"kl": 0.04 if stage == "grpo-full" else 0.0}
    path = work / f"{stage}.yaml"
    path.write_text(yaml.safe_dump(tree))
    out = work / f"run-{stage}"
    ends: list[float] = []
    written = MetricsLog.on_log

    def on_log(self: MetricsLog, *args: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            ends.append(time.perf_counter())
        written(self, *args, logs=logs, **kwargs)

    MetricsLog.on_log = on_log  # type: ignore[method-assign]
    recipe = load_recipe(str(path))
    estimate = preflight(recipe).budget
    (run_sft if stage == "sft" else run_grpo)(recipe, out)
    found = {"seconds": statistics.median(after - before for before, after in pairwise(ends))}
    return found | ({} if estimate is None else {"GiB_estimated": estimate.peak / 2**30})


def measure(size: str, quick: bool, frames: int, stages: tuple[str, ...]) -> dict[str, Any]:
    """Every stage in a process of its own."""
    steps = 1 if quick else 4
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_model(work / "model", size)
        write_data(work, frames)
        for stage in stages:
            words = ["--stage", stage, "--size", size, "--work", str(work), "--steps", str(steps)]
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
            try:
                rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
            except (ValueError, IndexError):
                last = (done.stderr.strip().splitlines() or ["no output"])[-1]
                rows.append({"stage": stage, "failed": last})
    by_stage = {row["stage"]: row for row in rows}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    summary = {
        f"{stage}_{key}": row[key]
        for stage, row in by_stage.items()
        for key in ("seconds", "GiB", "GiB_estimated")
        if key in row
    }
    summary |= {key: row[key] for row in rows for key in ("kept_over_ours",) if key in row}
    return {
        "schema": 1,
        "bench": "fullsize",
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform(), "gpu": gpu},
        "versions": {"rft3d": rft3d_cli.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "size": size,
        "frames": frames,
        "rows": rows,
        "summary": summary,
    }


def main() -> None:
    """The benchmark's command line."""
    parser = argparse.ArgumentParser(description="What the 4B model costs, with random weights.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="fewer steps, and without grpo-full")
    parser.add_argument("--size", choices=("4b", "small"), help="by default 4b where there is a CUDA device")
    parser.add_argument("--frames", type=int, default=32, help="frames a clip")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="only these")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = options.size or ("4b" if torch.cuda.is_available() else "small")
    if options.stage:
        print(json.dumps(run_stage(options.stage, size, options.work, options.steps)))
        return
    stages = tuple(options.stages or STAGES[: -1 if options.quick else None])
    found = measure(size, options.quick, options.frames, stages)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    gpu = found["machine"]["gpu"]
    print(f"{gpu or found['machine']['cpu']}, {size}, {options.frames} frames", end="\n\n")
    for row in found["rows"]:
        if "failed" in row:
            print(f"{row['stage']:<12}failed: {row['failed']}")
            continue
        seconds = f"{row['seconds']:9.2f} s"
        more = f"  {row['kept_over_ours']:.1f} x the memory with every layer kept" if "kept_over_ours" in row else ""
        if gpu and "GiB_estimated" in row:
            more = f"  estimated {row['GiB_estimated']:.1f} GiB"
        print(f"{row['stage']:<12}{seconds}{row['GiB']:9.2f} GiB{more}")


if __name__ == "__main__":
    main()
