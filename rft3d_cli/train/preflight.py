"""Everything that can be known to be wrong before the first step, found at once.

``--dry-run`` prints the report; a real run prints only what is wrong.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft3d_cli.answers.target import exact_answer, in_style, target_answer
from rft3d_cli.console import note, warn
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, SetupError, UsageError
from rft3d_cli.models.loader import load_processor, model_problems
from rft3d_cli.prepare.heldout import CHECKED, HeldOut, synthetic
from rft3d_cli.recipe import Recipe
from rft3d_cli.recipe_schema import Config
from rft3d_cli.records import Clip, Meta, Record, RecordFile, missing_media, read_records
from rft3d_cli.rewards.own import OWN
from rft3d_cli.rewards.registry import RewardSet
from rft3d_cli.samplers import DEFAULT_FRAMES
from rft3d_cli.train import processes, vllm
from rft3d_cli.train.budget import Budget, Row, assumed_row, budget, gib, less
from rft3d_cli.train.cost import TYPICAL, Answers, cost, words, worth_saying
from rft3d_cli.train.devices import USUAL, gpus, rate_of
from rft3d_cli.train.processes import world_size
from rft3d_cli.train.shape import shape_of

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
        warnings: What may go wrong; it keeps nobody from trying.
        budget: Tokens and memory, where the model's sizes and the data's are known.
        cost: Arithmetic and seconds of a step, of models for GPUs.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Rft3dError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    budget: Budget | None = None
    cost: dict[str, Any] | None = None

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
        """Print the checks that passed, and the warnings, to stderr."""
        for name, text in self.lines:
            note(f"  {name:<11}{text}")
        for text in self.warnings:
            warn(text)


def preflight(recipe: Recipe) -> Report:
    """Check a training recipe against the data and models on this machine, without loading weights."""
    config = recipe.config
    report = Report()
    report.add("recipe", f"{recipe.path.name} (sha256 {recipe.sha256[:12]})")
    report.problems += model_problems(config.model)
    report.problems += _packages(config)
    report.problems += _blind(config)
    _together(config, report)
    train = _read(config.data.train, config, report, "train", required=True)
    held_out = _read(config.data.eval, config, report, "eval", required=False)
    if not config.data.shared_scenes:
        _leaks(train, held_out, report)
        _evaluated(train, report)
    if not any(isinstance(problem, SetupError) for problem in report.problems):
        _lengths(config, train, held_out, report)
    if report.budget is None:
        _memory(config, None, report)
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
    return [
        SetupError(f"{key} needs the package {name}", f"pip install {name.replace('_', '-')}")
        for key, name in wanted.items()
        if find_spec(name) is None
    ]


def _together(config: Config, report: Report) -> None:
    """How this run is started: by whom, in how many processes, with what sampling its completions."""
    world, here = processes.world_size(), len(gpus())
    grpo = config.stage == "grpo"
    if grpo and config.rollout.engine == "vllm":
        report.problems += vllm.problems(config, world, here)
    if world == 1 and here > 1:
        report.warnings.append(
            f"one process uses one of the {here} GPUs here; on all: "
            f"torchrun --nproc_per_node {here} -m rft3d_cli {config.stage} ..."
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "bf16") or (precision == "bf16" and config.model.dtype == "float32"):
        report.problems.append(
            UsageError(
                f"accelerate is told mixed_precision {precision}, and model.dtype says {config.model.dtype}",
                "model.dtype=bfloat16 with mixed_precision bf16, or model.dtype=float32 with mixed_precision no",
            )
        )
    engine, cut = processes.engine(), processes.sharding()
    if engine == "DeepSpeed" and find_spec("deepspeed") is None:
        report.problems.append(
            SetupError("accelerate is told to use DeepSpeed, which is not here", "pip install deepspeed")
        )
    if not grpo:
        return
    if engine is not None and config.rollout.shared_prompt:
        # FSDP cuts weights into pieces between passes that share a prompt; DeepSpeed makes its step with the last
        # completions' backward pass, before that of their prompts.
        report.problems.append(
            UsageError(
                f"{engine} takes its step before the gradients of shared prompts are there",
                "rollout.shared_prompt=false, or train with DDP (torchrun, or cluster/ddp.yaml)",
            )
        )
    if cut is not None and config.rollout.engine == "transformers":
        report.warnings.append(f"{cut} gathers all weights for the sampling of completions; DDP and ZeRO-2 do not")


def _blind(config: Config) -> list[Rft3dError]:
    """A branch that comes with the model's files; one that the recipe names is refused with the recipe."""
    if config.stage != "grpo" or config.rollout.engine != "vllm" or config.model.geometry != "auto":
        return []
    try:
        branch = shape_of(config.model).branch
    except Rft3dError:  # said where the model is looked at
        return []
    if branch is None:
        return []
    return [
        UsageError(
            f"`rollout.engine: vllm` takes no input of the {branch.encoder} branch that {config.model.name} brings and "
            "would answer without it",
            "use rollout.engine=transformers, or model.geometry=none",
        )
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


def _evaluated(train: Sequence[RecordFile], report: Report) -> None:
    """Benchmark scores of scenes that were trained on are no scores either."""
    found: dict[str, list[str]] = {}
    for source in train:
        if synthetic([source.path, source.media_root, *_inputs(source.path)]):
            continue
        for record in source.records:
            # Whatever the split is called: it is trained on.
            whose = HeldOut().of(record.meta, CHECKED, media=record.media)
            if whose is not None:
                found.setdefault(whose, []).append(record.meta.scene or record.media[0])
    for whose, names in found.items():
        scenes = list(dict.fromkeys(names))
        some = ", ".join(scenes[:SHOWN]) + (", …" if len(scenes) > SHOWN else "")
        report.problems.append(
            DataError(
                f"{len(names):,} records of data.train show scenes that are evaluated on ({whose}): {some}",
                "rft3d prepare leaves them out; data.shared_scenes=true trains on them all the same",
            )
        )


def _inputs(path: Path) -> list[str]:
    """What records were made from, as their card says where there is one."""
    try:
        options = json.loads(path.with_suffix(".card.json").read_text(encoding="utf-8"))["options"]
        return [value for value in options.values() if isinstance(value, str)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


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
    if config.rollout.max_refills and world_size() > 1:
        report.problems.append(
            UsageError(
                f"rollout.max_refills replaces groups within one process, and this run has {world_size()}",
                "leave rollout.max_refills out",
            )
        )
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
    # A completion may be as long as it may be; held-out records are answered.
    whole = [(prompt + (most if config.stage == "grpo" else answer), record) for prompt, answer, record in taught]
    answered = [(prompt + most, record) for prompt, _, record in asked]
    for name, found, limit in (
        ("longest", whole, config.train.max_length or processor.max_length),
        ("held out", answered, processor.max_length),
    ):
        if not found:
            continue
        tokens, record = max(found, key=lambda pair: pair[0])
        if limit is not None and tokens > limit:
            problem = f"record {record.id} takes {tokens:,} tokens, more than {limit:,}"
            hint = "fewer frames (video.frames), shorter answers (rollout.max_tokens), or a larger train.max_length"
            report.problems.append(DataError(problem, hint))
        else:
            report.add(name, f"{record.id}: {tokens:,} tokens" + (f" of {limit:,}" if limit else ""))
    clipped = sum(answer > most for _, answer, _ in taught)
    if clipped and config.stage == "grpo":
        report.add("clipped", f"{clipped:,} of {len(taught):,} targets are longer than rollout.max_tokens")
    if taught:
        prompt, answer, record = max(taught, key=lambda size: size[0] + (0 if config.stage == "grpo" else size[1]))
        _memory(config, _row(record, prompt, most if config.stage == "grpo" else answer, config, processor), report)
        ordered = sorted(taught, key=lambda size: size[0] + size[1])
        prompt, answer, record = ordered[len(ordered) // 2]
        _time(config, _row(record, prompt, answer, config, processor), _answers(config, taught), len(taught), report)


def _sizes(
    source: RecordFile, config: Config, processor: FrameProcessor, limit: int | None
) -> Iterator[tuple[int, int, Record]]:
    """Tokens of each record's prompt and answer, and the record."""
    from rft3d_cli.models.inputs import FrameStore

    video = config.video
    store = FrameStore(source.media_root, processor, frames=video.frames, sampler=video.sampler, tags=video.tags)
    for record in source.records[:limit]:
        answer = len(processor.tokenizer(target_answer(record))["input_ids"]) + 1
        yield store.prompt_length(record), answer, record


def _row(record: Record, prompt: int, answer: int, config: Config, processor: FrameProcessor) -> Row:
    """A record's tokens; what its prompt has beyond its words are its frames'."""
    from rft3d_cli.models.inputs import chat

    video = record.video
    count = (config.video.frames or video.frames or DEFAULT_FRAMES) if isinstance(video, Clip) else len(video.frames)
    text = processor.apply_chat_template(
        chat(record.prompt, count, tags=config.video.tags), tokenize=False, add_generation_prompt=True
    )
    words = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Row(count, (prompt - words) // count + 1, prompt, answer)


def _memory(config: Config, row: Row | None, report: Report) -> None:
    """Tokens a clip and the memory that they will take; a GPU that seems too small is a warning, not a refusal.

    Args:
        config: The recipe.
        row: The longest sequence; None where the data or the model's processor are not here.
        report: Where it is said.
    """
    try:
        shape = shape_of(config.model)
    except Rft3dError:  # a model that is built in another way can be trained all the same
        return
    assumed = "" if row is not None else ", where frames are 4:3"
    row = row or assumed_row(config, shape)
    tokens = f"{row.frames} frames \N{MULTIPLICATION SIGN} {row.frame_tokens} = {row.clip_tokens:,} a clip"
    report.add("tokens", f"{tokens}{assumed}")
    report.budget = budget(config, shape, row, processes=world_size())
    report.add("memory", f"{report.budget.needs()}: {report.budget.shares()}")
    here = min((gpu.memory for gpu in gpus()), default=None)
    if here is not None and report.budget.peak > here:
        report.warnings.append(
            f"this run is estimated to take {gib(report.budget.peak)} of GPU memory, and there are {gib(here)}; "
            f"less: {less(config, report.budget)}"
        )


def _answers(config: Config, taught: Sequence[tuple[int, int, Record]]) -> Answers:
    """How long completions will be: as the targets are, or where a model thinks before it answers, assumed."""
    most = config.rollout.max_tokens
    lengths = sorted(answer for _, answer, _ in taught)
    if config.stage == "grpo":
        thinks = config.reward_options.answer_style == "think"
        if thinks and any(record.task in ("choice", "number") for _, _, record in taught):
            return Answers(max(1, most // TYPICAL), most)
        lengths = [min(length, most) for length in lengths]
    # Of the prompts that are sampled together, the one with the longest answers keeps all others waiting.
    last = lengths[len(lengths) - 1 - len(lengths) // (2 * config.rollout.prompts)]
    return Answers(max(1, round(_mean(lengths))), last)


def _time(config: Config, row: Row, answers: Answers, records: int, report: Report) -> None:
    """Hours of the run, on the GPUs here or on the usual ones."""
    try:
        shape = shape_of(config.model)
    except Rft3dError:
        return
    if not worth_saying(shape):
        return
    here = gpus()
    rate, count = (rate_of(here[0].name), world_size()) if here else (USUAL, 8)
    found = cost(config, shape, row, answers)
    train = config.train
    used = records * train.epochs
    if train.steps is not None:
        used = train.steps / config.generation_period_steps * found.records
    report.add("time", words(found, count, rate, round(used)))
    report.cost = found.document(count, rate)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
