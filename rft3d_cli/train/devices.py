"""The GPUs of this machine, asked of torch only where there can be some: importing it takes seconds."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from rft3d_cli.console import note
from rft3d_cli.train.processes import world_size


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Args:
        name: As its driver calls it.
        memory: Bytes.
        bfloat16: Whether it computes in bfloat16 itself.
    """

    name: str
    memory: int
    bfloat16: bool


def cpu_build() -> bool:
    """Whether the installed torch knows no GPU."""
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def has_driver() -> bool:
    """Whether NVIDIA's driver is installed."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def gpus() -> list[Gpu]:
    """The CUDA devices that torch sees."""
    if cpu_build() or not has_driver():
        return []
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(number)
        found.append(Gpu(known.name, int(known.total_memory), known.major >= 8))
    return found


def visible() -> int:
    """How many CUDA devices torch would use; asking does not claim them."""
    if cpu_build() or not has_driver():
        return 0
    import torch

    return int(torch.cuda.device_count())


def use_one_gpu(stage: str) -> None:
    """Leave a process that trains alone only the first of several GPUs.

    transformers would otherwise copy the model to all of them in every step (torch's DataParallel) and multiply the
    batch by their number. It has to happen before torch touches a GPU.

    Args:
        stage: The command, for the hint.
    """
    count = visible() if world_size() == 1 else 1
    if count < 2:
        return
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = named[0] if named else "0"
    note(f"  one process trains on one of the {count} GPUs here")
    note(f"  on all: torchrun --nproc_per_node {count} -m rft3d_cli {stage} ...")


@dataclass(frozen=True)
class Rate:
    """What a kind of GPU can do at most, as its maker says.

    Args:
        name: As people call it.
        flops: Operations a second on dense bfloat16 matrices.
        bandwidth: Bytes a second from its memory.
    """

    name: str
    flops: float
    bandwidth: float


RATES = (
    Rate("H200", 989e12, 4.8e12),
    Rate("H100", 989e12, 3.35e12),
    Rate("H800", 989e12, 3.35e12),
    Rate("A100", 312e12, 2.04e12),
    Rate("L40S", 362e12, 0.864e12),
    Rate("A10G", 70e12, 0.6e12),
    Rate("RTX 4090", 165e12, 1.01e12),
)
"""Kinds whose sheets are known; the 80 GB SXM models where there are several."""
USUAL = RATES[1]
"""What is counted with where no GPU of a known kind is here."""


def rate_of(name: str | None) -> Rate:
    """The rate of a GPU by its driver's name; the usual one for a name that is not known.

    >>> rate_of("NVIDIA A100-SXM4-80GB").name, rate_of(None).name
    ('A100', 'H100')
    """
    return next((rate for rate in RATES if name is not None and rate.name in name), USUAL)
