"""What both stages need before the first step: the model made ready, and the trainer's arguments."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rft3d_cli.files import sha256
from rft3d_cli.models.loader import load_speaker, weight_hashes
from rft3d_cli.models.processor import FrameProcessor
from rft3d_cli.recipe_schema import Config
from rft3d_cli.train import loggers
from rft3d_cli.train.processes import PATIENCE
from rft3d_cli.train.run import Run

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def reuse_memory() -> None:
    """Let glibc keep large blocks instead of handing each back to the kernel, which clears it before the next use.

    Activations of a small model are blocks of a few megabytes, hundreds a step: a tenth of a CPU step goes into them.
    """
    import torch

    if torch.cuda.is_available() or not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 1 << 29)
        mallopt(mmap_threshold, 1 << 25)  # the largest that glibc takes


def trainable_model(config: Config) -> tuple[Any, FrameProcessor]:
    """The recipe's model in training mode and its processor.

    Weights that are trained are held in float32 whatever ``model.dtype`` says: an update of 1e-6 is lost in a bfloat16
    weight. The format is then that of the frozen weights and of the arithmetic (autocast).
    """
    import torch

    model, processor = load_speaker(config.model, seed=config.train.seed)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    return model.train(), processor


def arguments(config: Config, run: Run, *, low_precision: bool) -> dict[str, Any]:
    """Arguments that SFT and GRPO share, in transformers' names.

    Args:
        config: The recipe.
        run: Where checkpoints go.
        low_precision: Compute in bfloat16.
    """
    import torch

    gpu = torch.cuda.is_available()
    train = config.train
    return {
        "output_dir": str(run.checkpoints),
        "learning_rate": train.lr,
        "lr_scheduler_type": SCHEDULES[train.schedule],
        "warmup_steps": train.warmup if train.warmup < 1 else int(train.warmup),
        "weight_decay": train.weight_decay,
        "adam_beta1": train.betas[0],
        "adam_beta2": train.betas[1],
        "max_grad_norm": train.max_grad_norm,
        "num_train_epochs": train.epochs,
        "max_steps": train.steps or -1,
        "seed": train.seed,
        "per_device_train_batch_size": train.micro_batch,
        "gradient_checkpointing": train.gradient_checkpointing,
        "bf16": low_precision,
        "use_cpu": not gpu,
        "ddp_timeout": int(PATIENCE.total_seconds()),
        # Every trained parameter is used in every step: models.freeze leaves out those that an encoder never reads.
        # Looking for unused ones would cost a pass over the graph each time.
        "ddp_find_unused_parameters": False,
        "logging_strategy": "steps",
        "logging_steps": config.log.every,
        "save_strategy": "steps",
        "save_steps": config.checkpoint.every,
        # One more than asked for while the newest is not yet marked complete: old ones are removed before that.
        "save_total_limit": max(2, config.checkpoint.keep),
        "eval_strategy": "no",
        # A loss that is no number is not to be logged as the mean of those before.
        "logging_nan_inf_filter": False,
        **loggers.arguments(config.log.to, run),
        # GRPO's data set holds row numbers only; its prompts are read by a thread that shares memory with the trainer.
        "dataloader_num_workers": config.data.workers if config.stage == "sft" else 0,
        "dataloader_pin_memory": gpu,
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }


def computes_low(model: Any) -> bool:
    """Whether the model was loaded in bfloat16, so that it computes in bfloat16 whatever its weights are held in."""
    import torch

    return model.config.dtype is torch.bfloat16


def model_document(name: str, model: Any) -> dict[str, Any]:
    """A model's name, the hash of its weights on disk where they are files here, and its size."""
    parameters = list(model.parameters())
    return {
        "name": name,
        "sha256": weight_hashes(name),
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }


def reward_files(rewards: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the user's reward files, by the reward's name; built-in rewards are known by rft3d's version."""
    return {name: sha256(Path(name.rpartition(":")[0])) for name in rewards if ":" in name}


def data_document(paths: list[str]) -> list[dict[str, Any]]:
    """Record files with their sizes and hashes."""
    return [{"file": path, "bytes": Path(path).stat().st_size, "sha256": sha256(Path(path))} for path in paths]
