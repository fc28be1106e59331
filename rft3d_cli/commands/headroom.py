"""``rft3d headroom``: what RL could gain on some records, before any GPU-day is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rft3d_cli.commands._complete import complete_model, complete_recipe, complete_reward
from rft3d_cli.commands._train import Overrides

if TYPE_CHECKING:
    from rft3d_cli.benchmarks.asking import Asked
    from rft3d_cli.benchmarks.headroom import Replies
    from rft3d_cli.recipe_schema import Config
    from rft3d_cli.records import RecordFile
    from rft3d_cli.rewards.registry import RewardSet

EPILOG = (
    "$ rft3d headroom data/rooms/val.jsonl --model runs/tiny-sft\n\n"
    "$ rft3d headroom data/det/train.jsonl --recipe det --limit 100 --details groups.jsonl"
)


def headroom(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Records, as rft3d prepare writes them.")],
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", show_default="the recipe's, else tiny",
                                 autocompletion=complete_model, help="A shipped model, a folder, a run, or a hub name.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="NAME", autocompletion=complete_recipe, show_default=False,
                                 help="See what this recipe of GRPO would: its rewards, frames and way of sampling.")
    ] = None,
    rewards: Annotated[
        list[str] | None, typer.Option("--reward", "-r", metavar="NAME", show_default="each task's own score",
                                       autocompletion=complete_reward,
                                       help="What answers are worth: a reward, or FILE.py:FUNCTION; repeat for sums.")
    ] = None,
    group: Annotated[
        int | None, typer.Option("--group", "-g", min=2, metavar="INT", show_default="the recipe's, else 8",
                                 help="Samples a prompt.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, metavar="INT", help="Ask so many records, spread evenly over the file.")
    ] = 200,
    temperature: Annotated[
        float | None, typer.Option(min=0.01, metavar="FLOAT", show_default="the recipe's, else 1", help="Of samples.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=1e-6, max=1, metavar="FLOAT", show_default="the recipe's, else 1",
                                   help="Sample from the smallest set of tokens with this probability.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="INT", show_default="the recipe's, else by task",
                                 help="Longest answer, in tokens.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=512, metavar="INT", show_default=False,
                                 help="Frames of a clip; by default what the recipe, the records or the model say.")
    ] = None,
    threshold_from: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default="the other half of the scenes",
                                  help="Other records to tune the confidence threshold on.")
    ] = None,
    media_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the media; by default the data's own.",
                                  show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="INT", help="Of sampled answers.")] = 0,
    batch: Annotated[int, typer.Option(min=1, metavar="INT", help="Answers a forward pass; a whole group at least.")]
    = 32,
    details: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False,
                                  help="Also write one line a record: scores, picked answers, rewards of its group.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write the JSON document to a file.",
                                  show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check records, media and model, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the verdict of each task.")] = False,
) -> None:  # fmt: skip
    """Say what RL could gain: greedy against sampled and best-of-N scores, and what decoding rules give for free."""
    from rft3d_cli import console
    from rft3d_cli.commands._headroom_shown import count, show, show_verdicts, warn
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.errors import UsageError
    from rft3d_cli.files import check_place, write_json

    check_forms(as_json, quiet)
    config = _config(recipe, overrides, rewards)
    for path in (details, out):
        if path is not None and (path.is_dir() or path.resolve() == records.resolve()):
            raise UsageError(f"{path} is {'a folder' if path.is_dir() else 'what is asked'}", "name another file")
        if path is not None:
            check_place(path)
    chosen = _rewards(config, rewards)
    source, skipped = _read(records, media_root, config, chosen, limit)
    other = None if threshold_from is None else _tuning(threshold_from, media_root, source, config, chosen, limit)
    _check([source, *([other] if other is not None else [])], config, model)
    asked = _asked(source, config, model, frames, max_tokens, temperature, top_p, seed, batch)
    size = group or (config.rollout.group if config is not None else 8)
    if skipped and not quiet:
        verbs = "has no score and is" if skipped == 1 else "have no score and are"
        console.note(f"  {count(skipped, 'record')} {verbs} left out")
    if dry_run:
        console.note(f"  would ask {asked.model} {len(source.records):,} prompts, {1 + size} answers each")
        return
    with console.quietly(quiet):
        document, lines = _measure(source, other, asked, config, model, chosen, size)
    document = {**_settings(asked, recipe, rewards, chosen), "skipped": skipped, **document}
    warn(document)
    # Shown first: whatever happens to the files, what was measured is not lost.
    if as_json:
        console.print_json(document)
    elif quiet:
        show_verdicts(document)
    else:
        show(document)
    if details is not None:
        _write_lines(details, lines)
    if out is not None:
        write_json(out, console.jsonable({"schema": 1, **document}))


def _config(recipe: str | None, overrides: list[str] | None, rewards: list[str] | None) -> Config | None:
    from rft3d_cli.errors import UsageError
    from rft3d_cli.recipe import load_recipe

    if recipe is None:
        if overrides:
            raise UsageError(f"{overrides[0]!r} changes a recipe, and none is named", "name it: --recipe NAME")
        return None
    if rewards:
        raise UsageError("--recipe and --reward exclude each other", "a recipe names its own rewards")
    config = load_recipe(recipe, overrides or []).config
    if not config.rewards:
        raise UsageError(f"recipe {recipe} has no rewards", "name a recipe of stage grpo: rft3d recipes list")
    return config


def _rewards(config: Config | None, names: list[str] | None) -> RewardSet:
    from rft3d_cli import console
    from rft3d_cli.rewards.own import own_rewards
    from rft3d_cli.rewards.registry import RewardSet

    if config is not None:
        chosen = RewardSet(config.rewards, config.reward_options.model_dump())
    elif names:
        chosen = RewardSet(dict.fromkeys(names, 1.0), {"answer_style": "direct"})
    else:
        chosen = own_rewards()
    for item in chosen.rewards.values():
        if item.notice:
            console.note(item.notice)
    return chosen


def _read(
    path: Path, media_root: Path | None, config: Config | None, rewards: RewardSet, limit: int
) -> tuple[RecordFile, int]:
    """The records to ask, spread over their file, and how many of it no reward scores."""
    from dataclasses import replace

    from rft3d_cli.benchmarks.headroom import spread
    from rft3d_cli.errors import DataError
    from rft3d_cli.records import read_records

    if media_root is None and config is not None and config.data.media_root is not None:
        media_root = Path(config.data.media_root)
    source = read_records(path, media_root=media_root)
    known = [record for record in source.records if rewards.score("", record)]
    if not known and all(record.target is None for record in source.records):
        raise DataError(f"{path}: none of its records has a target", "name records to score answers by: rft3d prepare")
    if not known:
        tasks = ", ".join(sorted({record.task for record in source.records}))
        raise DataError(f"{path}: no reward applies to its records ({tasks})", "see rft3d rewards list")
    return replace(source, records=spread(known, limit)), len(source.records) - len(known)


def _tuning(
    path: Path, media_root: Path | None, source: RecordFile, config: Config | None, rewards: RewardSet, limit: int
) -> RecordFile:
    """Detection records to tune on, none of which is scored."""
    from dataclasses import replace

    from rft3d_cli import console
    from rft3d_cli.errors import DataError, UsageError

    if all(record.task != "detection" for record in source.records):
        raise UsageError(
            f"--threshold-from tunes a threshold for detection, and {source.path} holds no detection record to score",
            "leave --threshold-from out",
        )
    found, _ = _read(path, media_root, config, rewards, limit)
    records = [record for record in found.records if record.task == "detection"]
    if not records:
        raise DataError(f"{path} holds no detection records to tune a threshold on")
    scored = {record.id for record in source.records}
    if shared := [record.id for record in records if record.id in scored]:
        hint = "leave --threshold-from out: halves of the scenes then tune for each other"
        raise DataError(f"{path} holds {len(shared):,} of the records that are scored, first {shared[0]}", hint)
    scenes = {(record.meta.dataset, record.meta.scene) for record in source.records if record.meta.scene}
    if seen := {(record.meta.dataset, record.meta.scene) for record in records} & scenes:
        console.warn(f"{len(seen):,} scenes of {path} are also scored: the threshold knows them")
    return replace(found, records=records)


def _check(sources: Sequence[RecordFile], config: Config | None, model: str | None) -> None:
    """Missing media and a missing model, found together and before the model is loaded."""
    from rft3d_cli.errors import ProblemList
    from rft3d_cli.models.loader import model_problems
    from rft3d_cli.records import missing_media

    missing = [problem for source in sources if (problem := missing_media(source)) is not None]
    problems = [*missing, *model_problems(_spec(config, model))]
    if problems:
        raise ProblemList(problems)


def _spec(config: Config | None, model: str | None) -> Any:
    """What is loaded: the named model, or the recipe's as training would begin with it."""
    return config.model if config is not None and model is None else model or "tiny"


def _asked(
    source: RecordFile,
    config: Config | None,
    model: str | None,
    frames: int | None,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int,
    batch: int,
) -> Asked:
    """How the model is asked: as GRPO would under a recipe, else as ``evaluate`` would."""
    from dataclasses import replace

    from rft3d_cli.benchmarks.asking import Asked
    from rft3d_cli.commands.evaluate import _asked as as_evaluated
    from rft3d_cli.models.predict import Decoding

    if config is None:
        asked = as_evaluated(source, model or "tiny", frames, max_tokens, True, seed, batch, 1.0)
        decoding = replace(asked.decoding, temperature=temperature or 1.0, top_p=top_p or 1.0)
        return replace(asked, decoding=decoding)
    rollout, video = config.rollout, config.video
    decoding = Decoding(
        max_tokens=max_tokens or rollout.max_tokens,
        sample=True,
        temperature=temperature or rollout.temperature,
        top_p=top_p or rollout.top_p,
        seed=seed,
        batch=batch,
    )
    name = model or config.model.name
    return Asked(name, decoding, frames or video.frames, source.media_root, video.sampler, video.tags)


def _measure(
    source: RecordFile,
    tuning: RecordFile | None,
    asked: Asked,
    config: Config | None,
    model: str | None,
    rewards: RewardSet,
    group: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ask, and score what was said: the document's numbers, and one line a record."""
    from rft3d_cli.benchmarks import headroom as measuring
    from rft3d_cli.benchmarks.verdict import summarise, verdict
    from rft3d_cli.models.loader import load_speaker
    from rft3d_cli.recipe_schema import Train

    loaded, processor = load_speaker(_spec(config, model))
    loaded.eval()

    def ask(wanted: RecordFile, label: str, size: int) -> list[Replies]:
        from rft3d_cli import console
        from rft3d_cli.models.inputs import FrameStore

        store = FrameStore(wanted.media_root, processor, frames=asked.frames, sampler=asked.sampler, tags=asked.tags)
        found = []
        with console.progress(label, len(wanted.records)) as ticker:
            for reply in measuring.ask(loaded, processor, wanted.records, store, asked.decoding, size):
                found.append(reply)
                ticker.advance()
        return found

    tuned = None if tuning is None else ask(tuning, "tuning", 0)
    measured, threshold = measuring.measure(ask(source, "answering", group), rewards, tuned)
    floor = config.train.std_floor if config is not None else Train().std_floor
    parts = {task: summarise(part, floor) for task, part in measuring.by_task(measured).items()}
    everything = next(iter(parts.values())) if len(parts) == 1 else summarise(measured, floor)
    for summary in (*parts.values(), everything):
        summary["verdict"] = verdict(summary)
    document = {
        "n": len(measured),
        "data": {"file": str(source.path), "records": len(measured)},
        "threshold": threshold and {**threshold, "file": str(tuning.path) if tuning is not None else None},
        "std_floor": floor,
        "tasks": parts,
        "all": everything,
        "verdict": everything["verdict"],
    }
    return document, [measuring.detail(one) for one in measured]


def _settings(asked: Asked, recipe: str | None, names: list[str] | None, rewards: RewardSet) -> dict[str, Any]:
    from rft3d_cli.benchmarks.result import environment
    from rft3d_cli.models.loader import weight_hashes

    return {
        "model": {"name": asked.model, "sha256": weight_hashes(asked.model)},
        "decoding": asked.decoding.document(),
        "frames": asked.frames,
        "recipe": recipe,
        "score": "recipe" if recipe is not None else "rewards" if names else "own",
        "weights": rewards.weights,
        "versions": environment(),
    }


def _write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    import json

    from rft3d_cli.files import atomic_writer

    with atomic_writer(path) as stream:
        stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
