"""What SFT and GRPO have in common: from a checked recipe to a finished run folder."""

from __future__ import annotations

import shlex
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft3d_cli.console import duration, jsonable, note
from rft3d_cli.errors import Rft3dError
from rft3d_cli.models.defaults import Defaults, trained_defaults
from rft3d_cli.models.loader import defaults_of
from rft3d_cli.models.predict import Decoding
from rft3d_cli.models.processor import FrameProcessor
from rft3d_cli.models.quiet import no_progress
from rft3d_cli.prompts import prompt_hash
from rft3d_cli.recipe import Recipe
from rft3d_cli.recipe_schema import Config
from rft3d_cli.records import FrameList
from rft3d_cli.samplers import DEFAULT_FRAMES
from rft3d_cli.train import loggers, processes, setup
from rft3d_cli.train.data import Announced, Examples, WithRows, read_examples
from rft3d_cli.train.devices import use_one_gpu
from rft3d_cli.train.preflight import preflight
from rft3d_cli.train.run import Run, newest_complete, open_run


@dataclass(frozen=True)
class Stage:
    """What a trainer is built from.

    Args:
        config: The recipe.
        model: Ready to be trained.
        processor: The model's.
        examples: Training records.
        arguments: Trainer arguments that both stages share.
        processes: How many processes train together.
    """

    config: Config
    model: Any
    processor: FrameProcessor
    examples: Examples
    arguments: dict[str, Any]
    processes: int


class Interrupted(Rft3dError):
    """A run that was stopped by a signal and can be continued."""

    def __init__(self, message: str, hint: str, number: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + number


def run_stage(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool,
    columns: tuple[tuple[str, str], ...],
    trainer: Callable[[Stage], Any],
) -> dict[str, Any]:
    """Check, train, score held-out records, and write the run folder.

    Args:
        recipe: The resolved recipe.
        out: The run's folder.
        resume: Continue the run there.
        columns: Of the console's table.
        trainer: Builds the stage's trainer.

    Returns:
        The run's summary.
    """
    config = recipe.config
    use_one_gpu(config.stage)
    processes.agreed(lambda: preflight(recipe).raise_if_any())
    main = processes.is_main_process()
    run = processes.agreed(lambda: open_run(recipe, out, resume=resume) if main else _beside(out, resume=resume))

    from rft3d_cli.train.monitor import CompleteMark, ConsoleLog, GracefulStop, MetricsLog
    from rft3d_cli.train.rollout_log import RolloutLog
    from rft3d_cli.train.watch import Stopped, Watch

    setup.reuse_memory()
    with _known_warnings_off():
        model, processor = setup.trainable_model(config)
    examples = read_examples(config.data.train, processor, config, limit=config.data.limit)
    stage = Stage(
        config=config,
        model=model,
        processor=processor,
        examples=examples,
        arguments=setup.arguments(config, run, low_precision=setup.computes_low(model)),
        processes=processes.world_size(),
    )
    defaults = _defaults(config, examples)
    if main:
        run.update(
            model=setup.model_document(config.model.name, model),
            data={"train": setup.data_document(config.data.train), "eval": setup.data_document(config.data.eval)},
            records=examples.tasks,
            rewards=setup.reward_files(config.rewards),
            prompt_hash=prompt_hash([example.record.prompt for example in examples.examples]),
        )
    with _known_warnings_off():
        trained = trainer(stage)
        trained.quiet()
        stopper = GracefulStop(config.generation_period_steps)
        watch = Watch(
            run,
            lambda row: examples[row].record.id,
            patience=config.train.patience,
            period=config.generation_period_steps,
            most=config.rollout.max_tokens,
        )
        watch.attach(trained)
        _feed(config, trained, examples)

        def save(folder: Path) -> None:
            watch.require_finite(trained.model)
            state = processes.full_state(trained)
            if main:
                save_model(trained.accelerator.unwrap_model(trained.model), processor, folder, defaults, state)
            processes.wait()

        trackers, report = loggers.taken_out(trained, config.log.to, run)
        held_out = _held_out(recipe, processor, run, trained, save, report)
        period = config.generation_period_steps
        rollouts = RolloutLog(run, limit=config.log.completions, every=config.eval.every, period=period)
        # What writes into a checkpoint comes before what marks it complete.
        for callback in (
            MetricsLog(run), ConsoleLog(columns), stopper, held_out, watch, rollouts, CompleteMark(run), *trackers,
        ):  # fmt: skip
            if callback is not None:
                trained.add_callback(callback)
        try:
            with stopper.listening(), no_progress(), processes.beside_others():
                trained.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
        except Stopped as error:
            _end(run, error)
        finally:
            examples.close()
    step = trained.state.global_step
    if stopper.signal is not None and step < trained.state.max_steps:
        stopped = Interrupted(
            f"stopped at step {step} of {trained.state.max_steps}; checkpoint saved",
            # The run's own recipe: the file that it began with may have been changed by words on the command line.
            shlex.join(["rft3d", config.stage, "--recipe", str(out / "recipe.yaml"), "--out", str(out), "--resume"]),
            stopper.signal,
        )
        processes.agreed(lambda: _raise(stopped))
    useless = watch.stopped(step)
    if useless is not None and step < trained.state.max_steps:
        _end(run, useless)
    summary: dict[str, Any] = {
        "stage": config.stage,
        "run": str(out),
        "steps": step,
        "seconds": run.seconds(),
        "model": str(out / "final"),
        "best": str(out / "best") if (out / "best").is_dir() else None,
        "held_out": held_out.last if held_out is not None else {},
        "stopped": held_out.stopped if held_out is not None else None,
    }
    save(out / "final")
    if main:
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        run.update(finished=finished, summary=jsonable(summary), stopped=summary["stopped"])
        early = f"; ended early: {summary['stopped']}" if summary["stopped"] else ""
        note(f"  {step:,} steps in {duration(summary['seconds'])}{early}; model in {out / 'final'}")
        note(f"  {shlex.join(['rft3d', 'report', str(out)])} shows what it went through")
    return summary


def _feed(config: Config, trained: Any, examples: Examples) -> None:
    """What goes into the trainer: whose rows a batch holds, prompts that are read ahead, groups that are replaced."""
    if config.stage == "sft":
        trained.data_collator = WithRows(trained.data_collator)
        return
    if config.data.workers:
        trained.data_collator = Announced(trained.data_collator, examples)
    if config.rollout.max_refills:
        from rft3d_cli.train.dynamic import Refill

        Refill(trained, rounds=config.rollout.max_refills, seed=config.train.seed)


def _beside(out: Path, *, resume: bool) -> Run:
    """The run's folder for a process that writes nothing there."""
    return Run(out, newest_complete(out / "checkpoints") if resume else None)


def _end(run: Run, error: Rft3dError) -> None:
    """Write down why a run ended itself, and say so once."""
    if processes.is_main_process():
        run.update(stopped=error.message)
    processes.agreed(lambda: _raise(error))


def _raise(error: Rft3dError) -> None:
    raise error


@contextmanager
def _known_warnings_off() -> Iterator[None]:
    """Keep warnings away that libraries address to each other: nothing in them is for us or our users to mend."""
    with warnings.catch_warnings():
        # torch's scheduler and checkpoint code warn about each other's calls.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.")
        # The old name of activation checkpointing is the one that TRL and PEFT read.
        warnings.filterwarnings("ignore", category=FutureWarning, message=r".*gradient_checkpointing.*")
        yield


def _held_out(
    recipe: Recipe,
    processor: FrameProcessor,
    run: Run,
    trained: Any,
    save: Callable[[Path], None],
    report: Callable[[Mapping[str, float]], None],
) -> Any:
    """The callback that scores held-out records, or None where the recipe names none."""
    from rft3d_cli.rewards.registry import RewardSet
    from rft3d_cli.train.heldout import HeldOut
    from rft3d_cli.train.monitor import HeldOutLog

    config = recipe.config
    if not config.data.eval:
        return None
    examples = read_examples(config.data.eval, processor, config, limit=config.eval.limit)
    decoding = Decoding(
        max_tokens=config.rollout.max_tokens,
        sample=config.eval.sample,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        seed=config.train.seed,
        batch=min(Decoding.batch, config.train.micro_batch),
    )
    rewards = RewardSet(config.rewards, config.reward_options.model_dump()) if config.rewards else None
    # Sharded weights are gathered by all processes together: none may skip a record of another.
    share = (0, 1) if processes.sharding() else (processes.rank(), processes.world_size())
    scorer = HeldOut(examples, decoding, rewards, share=share)
    keep = run.folder / "completions.jsonl" if processes.is_main_process() else None

    def score(step: int) -> dict[str, float]:
        model = trained.accelerator.unwrap_model(trained.model)
        with trained.accelerator.autocast():
            metrics = scorer.score(model, keep=keep, step=step, limit=config.log.completions)
            if config.stage == "sft":
                metrics["loss"] = scorer.loss(model, config.train.micro_batch)
        return metrics

    return HeldOutLog(
        score,
        save,
        run,
        every=config.eval.every,
        metric=config.eval.metric,
        keep_best=config.eval.keep_best,
        patience=config.eval.patience,
        period=config.generation_period_steps,
        report=report,
    )


def _defaults(config: Config, examples: Examples) -> Defaults:
    """What the trained model's directory will say of its training: frames by task, and data sets."""
    frames: dict[str, Counter[int]] = {}
    datasets: Counter[str] = Counter()
    for example in examples.examples:
        video = example.record.video
        shown = len(video.frames) if isinstance(video, FrameList) else (config.video.frames or video.frames)
        frames.setdefault(example.record.task, Counter())[shown or DEFAULT_FRAMES] += 1
        if example.record.meta.dataset:
            datasets[example.record.meta.dataset] += 1
    known = defaults_of(config.model.name)
    return trained_defaults(frames, datasets, known, sampler=config.video.sampler, tags=config.video.tags)


def save_model(
    model: Any, processor: FrameProcessor, folder: Path, defaults: Defaults, state: dict[str, Any] | None = None
) -> None:
    """Write a model directory beside its place, then rename: a reader sees the old one or the new one.

    Args:
        model: The model.
        processor: Its processor.
        folder: The place.
        defaults: What is to be known of its training.
        state: Its weights, where the model itself holds only a share of them.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    # TRL keeps the starting adapter as `ref` beside the one that is trained; it is no part of the result.
    only = {"selected_adapters": ["default"]} if hasattr(model, "peft_config") else {}
    with no_progress():
        model.save_pretrained(temporary, **only, **({"state_dict": state} if state is not None else {}))
    processor.save_pretrained(temporary)
    defaults.write(temporary)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
