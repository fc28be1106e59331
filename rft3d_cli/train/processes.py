"""Several processes that train together: what they must do alike, and what only the first of them does.

accelerate and torchrun start the processes and announce them in the environment. Trainers keep gradients equal; what
is ours to keep equal is the rest: when to stop, what is the best model, whether a run may begin at all. The first
process writes the files and talks; errors that all find alike are said once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from rft3d_cli.errors import ProblemList, Rft3dError

T = TypeVar("T")

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others: hashing weights and saving a model are one process's work."""
LAST_WORDS = 2.0
"""Seconds that the others leave the first process to say why all end: a launcher ends it as soon as one of them has."""


def world_size() -> int:
    """Processes of this run, as accelerate and torchrun announce them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number; the first is 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this process writes the run's files."""
    return rank() == 0


def sharding() -> str | None:
    """How the weights are cut into pieces, one a process: ``FSDP``, ``DeepSpeed ZeRO-3``, or None where each has all.

    ``accelerate launch`` says so in the environment, before torch is imported.
    """
    if _flag("ACCELERATE_USE_FSDP"):
        return "FSDP"
    if _flag("ACCELERATE_USE_DEEPSPEED") and zero_stage() == 3:
        return "DeepSpeed ZeRO-3"
    return None


def engine() -> str | None:
    """What takes gradients and steps out of the trainer's hands: ``FSDP``, ``DeepSpeed``, or None for plain DDP."""
    if _flag("ACCELERATE_USE_FSDP"):
        return "FSDP"
    return "DeepSpeed" if _flag("ACCELERATE_USE_DEEPSPEED") else None


def zero_stage() -> int:
    """DeepSpeed's ZeRO stage; 0 without DeepSpeed. Its own JSON file decides where there is one."""
    if not _flag("ACCELERATE_USE_DEEPSPEED"):
        return 0
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path.lower() == "none":
        return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
    import json
    from pathlib import Path

    try:
        return int(json.loads(Path(path).read_bytes())["zero_optimization"]["stage"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def join() -> None:
    """Meet the other processes, where there are any; the trainer finds the group that is made here."""
    if world_size() == 1:
        return
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def leave() -> None:
    """Part from the other processes when all work is done."""
    if world_size() == 1:
        return
    import torch.distributed

    if torch.distributed.is_initialized():
        wait()
        torch.distributed.destroy_process_group()


def wait() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def gathered(items: Sequence[T]) -> list[T]:
    """The items of all processes, in the processes' order; each gets them all."""
    if world_size() == 1:
        return list(items)
    from accelerate.utils import gather_object

    found: list[T] = gather_object(list(items))
    return found


def most(number: int) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return number
    import torch
    from accelerate import PartialState

    value = torch.tensor(number, device=PartialState().device)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
    return int(value)


def agreed(work: Callable[[], T]) -> T:
    """Do something in every process that must succeed in all or in none.

    Where it fails, every process ends with the same exit code, and one says why: the first, or where only others have
    failed, the first on their behalf.

    Raises:
        Rft3dError: In the first process. The others leave with ``SystemExit``.
    """
    if world_size() == 1:
        return work()
    join()
    failed: list[tuple[int, Rft3dError]] = []
    result: T | None = None
    try:
        result = work()
    except Rft3dError as error:
        failed = [(rank(), error)]
    said = gathered([(number, _said(error), error.exit_code) for number, error in failed])
    if not said:
        return result  # type: ignore[return-value]
    number, problems, code = said[0]
    if not is_main_process():
        time.sleep(LAST_WORDS)
        raise SystemExit(code)
    if failed:
        raise failed[0][1]
    theirs = [_again(f"process {number} of {world_size()}: {message}", hint, code) for message, hint in problems]
    raise theirs[0] if len(theirs) == 1 else ProblemList(theirs)


def _said(error: Rft3dError) -> list[tuple[str, str | None]]:
    problems = error.problems if isinstance(error, ProblemList) else [error]
    return [(problem.message, problem.hint) for problem in problems]


def _again(message: str, hint: str | None, code: int) -> Rft3dError:
    error = Rft3dError(message, hint)
    error.exit_code = code
    return error


@contextmanager
def beside_others() -> Iterator[None]:
    """Say in one line that another process is gone; what ended it stands in its own message.

    Raises:
        Rft3dError: In place of what torch says of a broken connection.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not _lost(error):
            raise
        message = f"process {rank()} of {world_size()} stopped, because another process of this run has ended"
        raise Rft3dError(message, "the other process says why; repeat the command with --resume") from error


def _lost(error: RuntimeError) -> bool:
    import torch.distributed

    text = str(error).lower()
    words = ("connection closed by peer", "connection reset by peer", "broken pipe", "gloo")
    return isinstance(error, torch.distributed.DistError) or any(word in text for word in words)


def full_state(trainer: Any) -> dict[str, Any] | None:
    """All weights of a model that is sharded, gathered by all processes together; None where each has them all."""
    if sharding() is None:
        return None
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return state
