"""What TRL is told where vLLM samples the completions, and what keeps vLLM from doing so on this machine.

vLLM gets the prompt's tokens and the sized frames as images; the update stays here. It knows nothing of a geometry
branch, so such models are refused elsewhere. Nothing of this has been run with vLLM itself: tests check the arguments.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rft3d_cli.errors import Rft3dError, SetupError, UsageError
from rft3d_cli.recipe_schema import Config

OLDEST, NEWEST = (0, 22), (0, 31)
"""vLLM's versions for which TRL 1.16 says that it is written."""
NEVER = -100.0
"""A bias that leaves a token no chance; vLLM takes none below."""
ANSWER_SECONDS = 5.0
"""How long a dry run waits for the server."""


def arguments(config: Config, forbidden: list[int], longest: int | None) -> dict[str, Any]:
    """Keyword arguments of TRL's ``GRPOConfig`` that say who samples.

    Args:
        config: The recipe.
        forbidden: Ids of tokens that must not be sampled; transformers and vLLM are told in different words.
        longest: Tokens of the longest sequence, where there is a limit.
    """
    if config.rollout.engine == "transformers":
        return {"use_vllm": False, "generation_kwargs": {"suppress_tokens": forbidden}}
    vllm = config.rollout.vllm
    said: dict[str, Any] = {
        "use_vllm": True,
        "vllm_mode": vllm.mode,
        "generation_kwargs": {"logit_bias": dict.fromkeys(forbidden, NEVER)},
    }
    if vllm.mode == "server":
        return {**said, "vllm_server_base_url": vllm.server_url}
    return {
        **said,
        "vllm_gpu_memory_utilization": vllm.gpu_memory,
        "vllm_tensor_parallel_size": vllm.tensor_parallel,
        "vllm_max_model_length": longest,
    }


def problems(config: Config, processes: int, gpus: int) -> Iterator[Rft3dError]:
    """What a dry run finds; it asks the named server, and only that one, whether it is there.

    Args:
        config: A recipe with ``rollout.engine: vllm``.
        processes: That train together.
        gpus: CUDA devices here.
    """
    vllm = config.rollout.vllm
    try:
        installed = version("vllm")
    except PackageNotFoundError:
        yield SetupError("rollout.engine: vllm needs the package vllm", "pip install 'trl[vllm]'")
    else:
        found = tuple(int(part) for part in re.findall(r"\d+", installed)[:2])
        if not OLDEST <= found <= NEWEST:
            oldest, newest = (".".join(map(str, pair)) for pair in (OLDEST, NEWEST))
            message = f"vLLM {installed} is installed, and TRL is written for {oldest} to {newest}"
            yield SetupError(message, f"pip install 'vllm>={oldest},<={newest}'")
    if not gpus:
        yield SetupError(
            "rollout.engine: vllm needs a CUDA GPU, and torch sees none here", "rollout.engine=transformers"
        )
    if vllm.mode == "server" and vllm.server_url is not None:
        yield from _silent(vllm.server_url)
    elif processes % vllm.tensor_parallel:
        yield UsageError(
            f"rollout.vllm.tensor_parallel {vllm.tensor_parallel} does not divide the {processes} process(es)",
            "set rollout.vllm.tensor_parallel to a divisor of the number of processes",
        )


def _silent(url: str) -> Iterator[Rft3dError]:
    """The problem of a server that does not answer."""
    address = url.rstrip("/") + "/health"
    try:
        with urllib.request.urlopen(address, timeout=ANSWER_SECONDS):  # noqa: S310 - the recipe's rules let http through only
            return
    except (OSError, urllib.error.URLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
    yield SetupError(f"no vLLM server answers at {address}: {reason}", "start it first: docs/scaling.md says how")
