"""What transformers and PEFT would say while models are loaded and saved: kept away, or made one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rft3d_cli.errors import Rft3dError, SetupError
from rft3d_cli.models.checkpoint import AGAIN


@contextmanager
def no_progress() -> Iterator[None]:
    """Keep transformers' bars for loading and saving shards away: ours say more, and a model here has one shard."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextmanager
def no_report() -> Iterator[None]:
    """Keep away transformers' table of weights that a folder lacks: of an added branch that is a screen of alarm.

    Whatever it would tell, :func:`~rft3d_cli.models.misfits.misfits` refuses.
    """
    logger = logging.getLogger("transformers.modeling_utils")

    def report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(report)
    try:
        yield
    finally:
        logger.removeFilter(report)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Keep away transformers' word on a name of its own that PEFT still reads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing.*")
        yield


@contextmanager
def reading(name: str) -> Iterator[None]:
    """One line for whatever transformers, tokenizers, safetensors, torch and PEFT raise over files from anywhere."""
    try:
        yield
    except Rft3dError:
        raise
    except Exception as error:
        # The first sentence says what is wrong; those after it are advice on other programs.
        first = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
        hint = "model.attention=sdpa needs no other package" if isinstance(error, ImportError) else AGAIN
        raise SetupError(f"model {name} cannot be loaded: {first}", hint) from error
