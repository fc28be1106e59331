"""The GPUs of this machine, asked of torch only where there can be some: importing it takes seconds."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


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
