"""Prompts that are read ahead are those that would have been read in time."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import World, grpo_tree, metrics, recipe, weight_bytes

from rft3d_cli.errors import DataError
from rft3d_cli.models.loader import load_processor
from rft3d_cli.recipe import Recipe
from rft3d_cli.records import read_records, write_records
from rft3d_cli.train import data
from rft3d_cli.train.data import Announced, Examples, read_examples
from rft3d_cli.train.grpo import run_grpo

Make = Callable[..., Recipe]


@pytest.fixture
def fresh(world: World, tmp_path: Path) -> Iterator[Callable[..., Examples]]:
    made: list[Examples] = []

    def make(folder: Path = world.data) -> Examples:
        config = recipe(tmp_path / "r.yaml", grpo_tree(folder, world.warm)).config
        made.append(read_examples(config.data.train, load_processor(config.model), config))
        return made[-1]

    yield make
    for examples in made:
        examples.close()


def drained(examples: Examples) -> None:
    """Wait until nothing is being read."""
    for future in list(examples._coming.values()):
        future.exception()


def test_what_is_read_ahead_is_the_same(fresh: Callable[..., Examples], monkeypatch: pytest.MonkeyPatch) -> None:
    early, late = fresh(), fresh()
    threads: list[str] = []
    usual = Examples._read
    monkeypatch.setattr(
        Examples, "_read", lambda self, i: threads.append(threading.current_thread().name) or usual(self, i)
    )
    early.ahead([0, 0, 1, 2])
    drained(early)
    assert len(threads) == 3
    assert all(name.startswith("rft3d-ahead") for name in threads)
    for index in (0, 1, 2, 3):
        ours, theirs = early.prompt(index), late.prompt(index)
        assert np.array_equal(ours.input_ids, theirs.input_ids)
        assert np.array_equal(ours.pixel_values, theirs.pixel_values)
    assert threads[3:].count("MainThread") == 5  # four of `late`, and the one that was not read ahead


def test_a_prompt_that_is_being_read_is_waited_for(
    fresh: Callable[..., Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = fresh()
    begun, go, read = threading.Event(), threading.Event(), []
    usual = Examples._read

    def slow(self: Examples, index: int) -> Any:
        read.append(index)
        begun.set()
        assert go.wait(30)
        return usual(self, index)

    monkeypatch.setattr(Examples, "_read", slow)
    examples.ahead([0])
    assert begun.wait(30)
    threading.Timer(0.1, go.set).start()
    assert len(examples.prompt(0)) > 0
    assert read == [0]


def test_an_error_comes_when_its_record_does(world: World, tmp_path: Path, fresh: Callable[..., Examples]) -> None:
    records = list(read_records(world.data / "mix.jsonl").records[:3])
    gone = ["gone.png"] * len(records[1].media)
    broken = records[1].model_copy(update={"video": records[1].video.model_copy(update={"frames": gone})})
    write_records(tmp_path / "mix.jsonl", [records[0], broken, records[2]])
    shutil.copytree(world.data / "frames", tmp_path / "frames")
    examples = fresh(tmp_path)
    examples.ahead([0, 1, 2])
    drained(examples)
    examples.prompt(0)
    examples.prompt(2)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"record {broken.id}: frame .*gone\.png"):
            examples.prompt(1)


def test_reading_ahead_forgets_the_old_and_keeps_what_is_in_use(
    fresh: Callable[..., Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = fresh()
    sizes = [examples.prompt(i).nbytes for i in range(8)]
    examples = fresh()
    monkeypatch.setattr(data, "KEPT_BYTES", 4 * max(sizes))
    for index in (6, 7):
        examples.prompt(index)
    examples.ahead([0, 1])
    drained(examples)
    for index in (0, 1):
        examples.prompt(index)
    examples.ahead([2, 3, 4, 5])
    drained(examples)
    assert {0, 1} <= set(examples._encoded)
    assert set(examples._encoded) & {2, 3}
    assert not {6, 7} & set(examples._encoded)
    assert sum(found.nbytes for found in examples._encoded.values()) == examples._bytes <= data.KEPT_BYTES
    assert len(examples.prompt(5)) > 0  # what had no room is read in time


def test_a_run_with_a_reader_is_the_run_without(
    grpo_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[tuple[int, ...]] = []
    usual = Announced.__call__

    def call(self: Announced, rows: Any) -> Any:
        announced.append(tuple(dict.fromkeys(row["row"] for row in rows)))
        return usual(self, rows)

    monkeypatch.setattr(Announced, "__call__", call)
    short = ("train.steps=2", "rollout.max_tokens=6")
    run_grpo(grpo_recipe("data.workers=0", *short), tmp_path / "off")
    assert announced == []
    before = threading.active_count()
    run_grpo(grpo_recipe("data.workers=2", *short), tmp_path / "on")
    assert threading.active_count() == before
    assert len(set(announced)) >= 3  # one batch more than there are steps: it was read ahead
    assert weight_bytes(tmp_path / "on" / "final") == weight_bytes(tmp_path / "off" / "final")
    assert metrics(tmp_path / "on") == metrics(tmp_path / "off")
