"""Everything that can be known to be wrong before the first step, found at once.

``--dry-run`` prints the report; a real run prints only what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rft3d_cli.answers.target import target_answer
from rft3d_cli.console import note
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, SetupError, UsageError
from rft3d_cli.models.loader import load_processor, model_problems
from rft3d_cli.recipe import Recipe
from rft3d_cli.recipe_schema import Config
from rft3d_cli.records import Record, RecordFile, missing_media, read_records
from rft3d_cli.rewards.registry import RewardSet
from rft3d_cli.train.heldout import OWN
from rft3d_cli.train.setup import world_size

SELF_SCORED = 256
"""Records whose target is scored against itself before a run."""


@dataclass
class Report:
    """Findings of a preflight.

    Args:
        lines: Name and finding of each check that passed.
        problems: What is wrong.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Rft3dError] = field(default_factory=list)

    def add(self, name: str, text: str) -> None:
        """Record a check that passed."""
        self.lines.append((name, text))

    def raise_if_any(self) -> None:
        """Raise the problems: one as it is, several as a :class:`~rft3d_cli.errors.ProblemList`."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            raise ProblemList(sorted(self.problems, key=lambda problem: problem.exit_code))

    def show(self) -> None:
        """Print the checks that passed to stderr."""
        for name, text in self.lines:
            note(f"  {name:<11}{text}")


def preflight(recipe: Recipe) -> Report:
    """Check a training recipe against the data and models on this machine, without loading weights."""
    config = recipe.config
    report = Report()
    report.add("recipe", f"{recipe.path.name} (sha256 {recipe.sha256[:12]})")
    report.problems += model_problems(config.model)
    train = _read(config.data.train, config, report, "train", required=True)
    _read(config.data.eval, config, report, "eval", required=False)
    if not any(isinstance(problem, SetupError) for problem in report.problems):
        _lengths(config, train, report)
    if config.stage == "grpo":
        _rewards(config, train, report)
        _rollouts(config, train, report)
    _batches(config, report)
    if not report.problems:
        report.add("model", config.model.name)
    return report


def _read(paths: Sequence[str], config: Config, report: Report, name: str, *, required: bool) -> list[RecordFile]:
    """Record files that can be read; missing ones and missing media become problems."""
    files = []
    if required and not paths:
        report.problems.append(UsageError("data.train names no record file", "set data.train=FILE.jsonl"))
    for path in paths:
        try:
            source = read_records(Path(path), media_root=config.data.media_root, limit=config.data.limit)
            missing = missing_media(source)
            if missing is not None:
                report.problems.append(missing)
        except Rft3dError as error:
            report.problems.append(error)
            continue
        files.append(source)
        tasks: dict[str, int] = {}
        for record in source.records:
            tasks[record.task] = tasks.get(record.task, 0) + 1
        report.add(name, f"{path}  " + ", ".join(f"{count:,} {task}" for task, count in tasks.items()))
    return files


def _rollouts(config: Config, files: Sequence[RecordFile], report: Report) -> None:
    records = sum(len(source.records) for source in files)
    if files and records < config.rollout.prompts:
        # TRL drops the rest of an epoch that fills no batch; here that would be every epoch, and no step would be made.
        report.problems.append(
            UsageError(
                f"{records:,} records do not fill a rollout of {config.rollout.prompts:,} prompts (rollout.prompts)",
                f"set rollout.prompts={records}, or name more records",
            )
        )
    micro, world = config.train.micro_batch, world_size()
    total = config.completions
    if total % (micro * world):
        report.problems.append(
            UsageError(
                f"{total} completions a rollout (rollout.prompts {config.rollout.prompts} × rollout.group "
                f"{config.rollout.group}) do not divide into train.micro_batch {micro} on {world} process(es)",
                f"set train.micro_batch to a divisor of {total // world}",
            )
        )
        return
    report.add(
        "rollouts",
        f"{config.rollout.group} completions × {config.rollout.prompts} prompts = {total} = "
        f"{world} process(es) × {micro} × {total // (micro * world)} micro-batches",
    )


def _batches(config: Config, report: Report) -> None:
    if config.stage != "sft":
        return
    share = config.train.micro_batch * world_size()
    if config.train.batch % share:
        report.problems.append(
            UsageError(
                f"train.batch {config.train.batch} is not a multiple of train.micro_batch {config.train.micro_batch} "
                f"× {world_size()} process(es)",
                "set train.micro_batch to a divisor of train.batch",
            )
        )


def _rewards(config: Config, files: Sequence[RecordFile], report: Report) -> None:
    """Every record must be rewarded by something of its own task, and its own target must score highest."""
    try:
        rewards = RewardSet(config.rewards, config.reward_options.model_dump())
    except Rft3dError as error:
        report.problems.append(error)
        return
    records = [record for source in files for record in source.records]
    paid = {item.task for name, item in rewards.rewards.items() if rewards.weights.get(name) and name != "format"}
    for task in sorted({record.task for record in records}):
        if task not in paid and "all" not in paid:
            own = f"add rewards.{OWN[task]}=1" if task in OWN else "write one: rewards: {path/to/file.py:function: 1}"
            report.problems.append(UsageError(f"no reward applies to {task} records", own))
    for name, item in rewards.rewards.items():
        if item.path is not None:
            note(f"  running code from {item.path} (sha256 {(item.sha256 or '')[:12]}) as reward {name}")
    sample = records[:: max(1, len(records) // SELF_SCORED)][:SELF_SCORED]
    if not sample or report.problems:
        return
    try:
        exact = [rewards.total(rewards.score(exact_answer(record), record)) for record in sample]
        taught = [rewards.total(rewards.score(target_answer(record), record)) for record in sample]
        empty = [rewards.total(rewards.score("", record)) for record in sample]
    except Rft3dError as error:
        report.problems.append(error)
        return
    report.add(
        "rewards",
        f"of {len(sample)} targets: full precision {_mean(exact):.3f}, as taught {_mean(taught):.3f}, "
        f"empty answer {_mean(empty):.3f}",
    )


def exact_answer(record: Record) -> str:
    """The target at full precision, whatever the record's ``answer`` rounds it to."""
    if record.task in ("choice", "number", "text"):
        return target_answer(record)
    return target_answer(record.model_copy(update={"answer": None}), decimals=None)


def _lengths(config: Config, files: Sequence[RecordFile], report: Report) -> None:
    """The longest record must fit the model: a cut prompt would lose frame tokens and keep their pixels."""
    from rft3d_cli.models.inputs import FrameStore

    processor = load_processor(config.model, seed=config.train.seed)
    if processor is None:
        report.problems.append(SetupError(f"model {config.model.name} has no tokenizer files"))
        return
    limit = config.train.max_length or processor.max_length
    longest, who, clipped, total = 0, "", 0, 0
    for source in files:
        store = FrameStore(
            source.media_root,
            processor,
            frames=config.video.frames,
            sampler=config.video.sampler,
            tags=config.video.tags,
        )
        for record in source.records:
            try:
                prompt = store.prompt_length(record)
                answer = len(processor.tokenizer(target_answer(record))["input_ids"]) + 1
            except Rft3dError as error:
                report.problems.append(error)
                return
            total += 1
            tokens = prompt + answer
            if config.stage == "grpo":
                clipped += answer > config.rollout.max_tokens
                tokens = prompt + config.rollout.max_tokens
            if tokens > longest:
                longest, who = tokens, record.id
    if limit is not None and longest > limit:
        report.problems.append(
            DataError(
                f"record {who} takes {longest:,} tokens, more than {limit:,}",
                "fewer frames (video.frames), shorter answers (rollout.max_tokens), or a larger train.max_length",
            )
        )
    elif total:
        report.add("longest", f"{who}: {longest:,} tokens" + (f" of {limit:,}" if limit else ""))
    if clipped:
        report.add("clipped", f"{clipped:,} of {total:,} targets are longer than rollout.max_tokens")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
