"""Supervised warm-up: next-token loss on the answers only, through TRL's SFT trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft3d_cli.recipe import Recipe
from rft3d_cli.train.stage import Stage, run_stage

COLUMNS = (("loss", "loss"), ("accuracy", "mean_token_accuracy"), ("lr", "learning_rate"))


def run_sft(recipe: Recipe, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train a model on the answers of records.

    Args:
        recipe: A recipe of stage ``sft``.
        out: The run's folder.
        resume: Continue the run in that folder from its newest complete checkpoint.

    Returns:
        The run's summary: step, held-out metrics, folders.

    Raises:
        ProblemList: Everything that is wrong before the start.
    """
    return run_stage(recipe, out, resume=resume, columns=COLUMNS, trainer=_trainer)


def _trainer(stage: Stage) -> Any:
    from datasets import Dataset

    from rft3d_cli.train.compat import SFTConfig, WarmupTrainer

    config, examples = stage.config, stage.examples
    share = config.train.micro_batch * stage.processes
    args = SFTConfig(
        **stage.arguments,
        gradient_accumulation_steps=config.train.batch // share,
        max_length=None,  # cutting a prompt would cut frame tokens; preflight has refused what is too long
        dataset_kwargs={"skip_prepare_dataset": True},
    )

    def collate(rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        return examples.supervised_batch([row["row"] for row in rows])

    return WarmupTrainer(
        model=stage.model,
        args=args,
        train_dataset=Dataset.from_dict({"row": list(range(len(examples)))}),
        data_collator=collate,
        processing_class=stage.processor,
    )
