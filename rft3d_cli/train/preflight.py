"""Everything that can be known to be wrong before the first step, found at once.

``--dry-run`` prints the report; a real run prints only what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rft3d_cli.answers.target import exact_answer, in_style, target_answer
from rft3d_cli.console import note
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, SetupError, UsageError
from rft3d_cli.models.loader import load_processor, model_problems
from rft3d_cli.recipe import Recipe
from rft3d_cli.recipe_schema import Config
from rft3d_cli.records import Meta, RecordFile, missing_media, read_records
from rft3d_cli.rewards.registry import RewardSet
from rft3d_cli.train.heldout import OWN
from rft3d_cli.train.setup import world_size

if TYPE_CHECKING:
    from rft3d_cli.models.processor import FrameProcessor

RESCAN = re.compile(r"^(scene\d{4})_\d{2}$")
SHOWN = 3
"""Rooms named in a message."""
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

    def in_order(self) -> list[Rft3dError]:
        """The problems in the order of their exit codes."""
        return sorted(self.problems, key=lambda problem: problem.exit_code)

    def raise_if_any(self) -> None:
        """Raise the problems: one as it is, several as a :class:`~rft3d_cli.errors.ProblemList`."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            raise ProblemList(self.in_order())

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
    report.problems += _packages(config)
    train = _read(config.data.train, config, report, "train", required=True)
    held_out = _read(config.data.eval, config, report, "eval", required=False)
    if not config.data.shared_scenes:
        _leaks(train, held_out, report)
    if not any(isinstance(problem, SetupError) for problem in report.problems):
        _lengths(config, train, held_out, report)
    if config.stage == "grpo":
        _rewards(config, train, report)
        _rollouts(config, train, report)
    _batches(config, report)
    if not report.problems:
        report.add("model", config.model.name)
    return report


def _packages(config: Config) -> list[Rft3dError]:
    """Packages that a recipe asks for beyond rft3d's own; without them the run would end after the model is loaded."""
    wanted: dict[str, str] = {f"log.to: {name}": name for name in config.log.to if name != "jsonl"}
    if config.model.attention == "flash_attention_2":
        wanted["model.attention: flash_attention_2"] = "flash_attn"
    if config.stage == "grpo" and config.rollout.engine == "vllm":
        wanted["rollout.engine: vllm"] = "vllm"
    return [
        SetupError(f"{key} needs the package {name}", f"pip install {name.replace('_', '-')}")
        for key, name in wanted.items()
        if find_spec(name) is None
    ]


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


def _leaks(train: Sequence[RecordFile], held_out: Sequence[RecordFile], report: Report) -> None:
    """Held-out scores of rooms that were trained on are no held-out scores."""
    learnt, asked = (
        {place for source in files for record in source.records if (place := room(record.meta)) is not None}
        for files in (train, held_out)
    )
    if shared := sorted(learnt & asked):
        some = ", ".join(name for _, name in shared[:SHOWN]) + (", …" if len(shared) > SHOWN else "")
        report.problems.append(
            DataError(
                f"{len(shared):,} of {len(asked):,} rooms of data.eval are in data.train too: {some}",
                "split by rooms; data.shared_scenes=true trains on them all the same",
            )
        )


def room(meta: Meta) -> tuple[str, str] | None:
    """The place that a record shows, by data set and name; None where the record does not say.

    ScanNet scanned many rooms several times: ``scene0000_00`` and ``scene0000_01`` are one. Other data sets ask about
    its rooms under the same names.

    >>> room(Meta(dataset="scannet", scene="scene0000_01")), room(Meta(dataset="scanrefer", scene="scene0000_00"))
    (('scannet', 'scene0000'), ('scannet', 'scene0000'))
    """
    if not meta.scene:
        return None
    rescan = RESCAN.match(meta.scene)
    return ("scannet", rescan.group(1)) if rescan else (meta.dataset or "", meta.scene)


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
    """Every record must be rewarded by something of its own task; what targets and no answer are worth is shown."""
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
    for item in rewards.rewards.values():
        if item.notice:
            note(item.notice)
    count = min(SELF_SCORED, len(records))
    sample = [records[i * len(records) // count] for i in range(count)]
    if not sample or report.problems:
        return
    try:
        style = rewards.option("format", "answer_style")
        targets = [(in_style(exact_answer(record), record, style), record) for record in sample]
        exact, taught, empty = (
            [rewards.total(scores) for scores in rewards.score_all(answers)]
            for answers in (
                targets,
                [(target_answer(record), record) for record in sample],
                [("", record) for record in sample],
            )
        )
    except Rft3dError as error:
        report.problems.append(error)
        return
    report.add(
        "rewards",
        f"of {len(sample)} targets: full precision {_mean(exact):.3f}, as taught {_mean(taught):.3f}, "
        f"empty answer {_mean(empty):.3f}",
    )


def _lengths(config: Config, train: Sequence[RecordFile], held_out: Sequence[RecordFile], report: Report) -> None:
    """The longest record must fit the model: a cut prompt would lose frame tokens and keep their pixels."""
    try:
        processor = load_processor(config.model, seed=config.train.seed)
        taught = [size for source in train for size in _sizes(source, config, processor, None)]
        asked = [size for source in held_out for size in _sizes(source, config, processor, config.eval.limit)]
    except Rft3dError as error:
        report.problems.append(error)
        return
    most = config.rollout.max_tokens
    sampled = [(prompt + most, name) for prompt, _, name in taught]
    whole = sampled if config.stage == "grpo" else [(prompt + answer, name) for prompt, answer, name in taught]
    # Held-out records are answered, and an answer may be as long as it may be.
    answered = [(prompt + most, name) for prompt, _, name in asked]
    for name, found, limit in (
        ("longest", whole, config.train.max_length or processor.max_length),
        ("held out", answered, processor.max_length),
    ):
        if not found:
            continue
        tokens, who = max(found, key=lambda pair: pair[0])
        if limit is not None and tokens > limit:
            problem = f"record {who} takes {tokens:,} tokens, more than {limit:,}"
            hint = "fewer frames (video.frames), shorter answers (rollout.max_tokens), or a larger train.max_length"
            report.problems.append(DataError(problem, hint))
        else:
            report.add(name, f"{who}: {tokens:,} tokens" + (f" of {limit:,}" if limit else ""))
    clipped = sum(answer > most for _, answer, _ in taught)
    if clipped and config.stage == "grpo":
        report.add("clipped", f"{clipped:,} of {len(taught):,} targets are longer than rollout.max_tokens")


def _sizes(
    source: RecordFile, config: Config, processor: FrameProcessor, limit: int | None
) -> Iterator[tuple[int, int, str]]:
    """Tokens of each record's prompt and answer, and its id."""
    from rft3d_cli.models.inputs import FrameStore

    video = config.video
    store = FrameStore(source.media_root, processor, frames=video.frames, sampler=video.sampler, tags=video.tags)
    for record in source.records[:limit]:
        answer = len(processor.tokenizer(target_answer(record))["input_ids"]) + 1
        yield store.prompt_length(record), answer, record.id


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
