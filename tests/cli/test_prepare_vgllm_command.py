from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from command_line import Shown
from vgllm_files import DETECT, Room, add_images, names, save, talk

from rft3d_cli.commands.prepare import app
from rft3d_cli.records import read_records

Command = Callable[..., Shown]


def det(era: str = "extrinsic") -> list[dict[str, Any]]:
    return [Room(seed).detection(era) for seed in range(3)]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An old detection file and its images."""
    rows = det()
    add_images(tmp_path / "data/media", rows, (96, 72))
    return save(tmp_path / "scannet_det_train.json", rows)


def answers(kind: str) -> list[dict[str, Any]]:
    images = names("scene0000_00", (0, 30))
    asked = {"choice": ("Which?\nA. bed\nB. lamp", "B"), "text": ("What?", "A bed.")}[kind]
    return [{"conversations": talk(f"<image><image>{asked[0]}", asked[1]), "images": images}]


def test_help_ends_with_two_examples_whose_options_exist(rft3d: Command) -> None:
    found = typer.main.get_command(app).commands["vgllm"]
    known = {name for parameter in found.params for name in [*parameter.opts, *parameter.secondary_opts]}
    examples = [line for line in found.epilog.split("\n\n") if line.startswith("$ rft3d prepare vgllm ")]
    assert len(examples) == 2
    for example in examples:
        words = shlex.split(example)[3:]
        assert {word for word in words if re.match("--?[a-z]", word)} <= known
        found.make_context("vgllm", words[1:])
    for parameter in found.params:
        assert parameter.help or parameter.name == "help", parameter.name
    assert rft3d("prepare", "vgllm", "--help").code == 0


def test_an_old_file_becomes_records_that_are_worth_their_reward(rft3d: Command, old: Path) -> None:
    shown = rft3d("prepare", "vgllm", old, "-o", "data/det.jsonl")
    assert shown.code == 0, shown.err
    assert "wrote    data/det.jsonl  (3 records" in shown.out
    assert "detection 3" in shown.out
    assert "next     rft3d grpo --recipe det data.train=data/det.jsonl" in shown.err
    record = read_records("data/det.jsonl").records[0]
    assert record.prompt == "<image>\n" * 4 + DETECT
    assert record.video.frames[0] == "media/scannet/posed_images/scene0000_00/00000.jpg"
    assert json.loads(Path("data/det.card.json").read_text())["options"]["angles"]["era"] == "extrinsic"
    checked = rft3d("rewards", "check", "data/det.jsonl")
    assert checked.code == 0, checked.err


def test_one_json_document_and_a_dry_run_that_says_the_same(rft3d: Command, old: Path) -> None:
    line = ["prepare", "vgllm", old, "-o", "data/det.jsonl", "--json"]
    dry = rft3d(*line, "--dry-run")
    assert not Path("data/det.jsonl").exists()
    document = rft3d(*line).document
    assert (document["command"], document["records"], document["schema"]) == ("prepare vgllm", 3, 1)
    assert dry.document["counts"] == document["counts"]
    assert rft3d("prepare", "vgllm", old, "-o", "data/det.jsonl", "--quiet").out == "data/det.jsonl\n"


@pytest.mark.parametrize(
    ("split", "rows", "following"),
    [
        pytest.param("val", det(), "rft3d evaluate detection --data data/a.jsonl", id="detection val"),
        pytest.param(
            "val", [Room(0).grounding("intrinsic", frame=None)], "rft3d evaluate scanrefer", id="grounding val"
        ),
        pytest.param("train", [Room(0).grounding("intrinsic")], "rft3d grpo --recipe grounding", id="grounding train"),
        pytest.param("test", answers("choice"), "rft3d evaluate vsibench", id="choice test"),
        pytest.param("train", answers("text"), "rft3d sft --recipe vsi-sft data.train=data/a.jsonl", id="text"),
    ],
)
def test_what_comes_next_fits_the_task(rft3d: Command, split: str, rows: list[Any], following: str) -> None:
    add_images(Path("data/media"), rows)
    shown = rft3d("prepare", "vgllm", save(Path("a.json"), rows), "--split", split, "-o", "data/a.jsonl")
    assert shown.code == 0, shown.err
    assert f"next     {following}" in shown.err


def test_the_split_is_read_from_the_name(rft3d: Command) -> None:
    rows = answers("choice")
    add_images(Path("media"), rows)
    rft3d("prepare", "vgllm", save(Path("sqa3d_test_32frame.json"), rows), "--media", "media", "-o", "a.jsonl")
    assert read_records("a.jsonl").records[0].meta.split == "test"


def test_a_file_that_cannot_tell_its_angles_names_the_option(rft3d: Command) -> None:
    rows = [Room(2, pieces=1).detection("extrinsic")]
    add_images(Path("data/media"), rows)
    line = ["prepare", "vgllm", save(Path("a.json"), rows), "-o", "data/a.jsonl"]
    shown = rft3d(*line)
    assert shown.code == 3
    assert "none of 1 rows with turned boxes" in shown.err
    assert re.search(r"hint: .*--angles intrinsic.*--angles extrinsic", shown.err)
    assert rft3d(*line, "--angles", "extrinsic").code == 0
    assert rft3d(*line, "--angles", "old").code == 2


def test_a_file_of_both_eras_is_refused_with_its_counts(rft3d: Command) -> None:
    rows = [*det("intrinsic"), *det("extrinsic")]
    add_images(Path("data/media"), rows)
    shown = rft3d("prepare", "vgllm", save(Path("a.json"), rows), "-o", "data/a.jsonl")
    assert shown.code == 3
    assert "3 rows intrinsic, 3 extrinsic" in shown.err


def test_rows_that_speak_against_the_option_are_warned_of(rft3d: Command, old: Path) -> None:
    shown = rft3d("prepare", "vgllm", old, "-o", "data/det.jsonl", "--angles", "intrinsic")
    assert shown.code == 0
    assert "3 rows speak against --angles intrinsic" in shown.err


def test_missing_media_are_an_error_that_names_the_option(rft3d: Command, old: Path) -> None:
    Path("data/media/scannet/posed_images/scene0001_00/00030.jpg").unlink()
    line = ["prepare", "vgllm", old, "-o", "data/det.jsonl"]
    shown = rft3d(*line)
    assert shown.code == 3
    assert "1 of 12 media files are missing" in shown.err
    assert "--allow-missing" in shown.err
    shown = rft3d(*line, "--allow-missing")
    assert shown.code == 0
    assert "skipped  1 row (missing media) -> data/det.rejects.jsonl" in shown.out


def test_everything_that_is_missing_is_said_at_once(rft3d: Command) -> None:
    shown = rft3d("prepare", "vgllm", "nowhere.json", "--media", "nowhere")
    assert shown.code == 3
    assert "there is no file nowhere.json" in shown.err
    assert "there is no folder nowhere" in shown.err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        pytest.param(["-o", "a.json"], 2, id="not jsonl"),
        pytest.param(["--json", "--quiet"], 2, id="two forms"),
        pytest.param(["--split", "dev"], 2, id="no such split"),
        pytest.param(["--workers", "0"], 2, id="no workers"),
        pytest.param(["--media-root", "elsewhere"], 2, id="media outside the root"),
    ],
)
def test_wrong_options_are_usage_errors(rft3d: Command, old: Path, options: list[str], code: int) -> None:
    assert rft3d("prepare", "vgllm", old, *options).code == code


def test_shares_join_to_the_whole(rft3d: Command) -> None:
    rows = [Room(seed, pieces=3, frames=1).detection("intrinsic") for seed in range(4)] * 80
    add_images(Path("data/media"), rows[:4], (8, 6))
    line = ["prepare", "vgllm", save(Path("a.json"), rows), "--workers", "1"]
    assert rft3d(*line, "-o", "data/all.jsonl").code == 0
    text = ""
    for number in (1, 2):
        assert rft3d(*line, "-o", f"data/{number}.jsonl", "--shard", f"{number}/2").code == 0
        text += Path(f"data/{number}.jsonl").read_text()
    assert text == Path("data/all.jsonl").read_text()
