from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import qa_files as sets
import typer.main
from command_line import Shown
from killed_runs import files, good, killed, refused
from qa_files import CHOICES, CLOSEST, COUNT, NUMBERS, add_media, save, talk
from small_rooms import SMALL, build_rooms

from rft3d_cli.commands.prepare import app
from rft3d_cli.commands.prepare.qa import qa
from rft3d_cli.prepare.qa.forms import FORMS
from rft3d_cli.records import read_records

Command = Callable[..., Shown]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A small VSI-590K file beside its videos."""
    asked = [question for question in (*NUMBERS, *CHOICES) if question[0] in sets.VSI590K]
    found = [sets.vsi590k(question) for question in asked]
    add_media(tmp_path / "VSI-590K", found)
    return save(tmp_path / "VSI-590K/vsi_590k.jsonl", found)


def test_help_ends_with_two_examples_whose_options_exist(rft3d: Command) -> None:
    found = typer.main.get_command(app).commands["qa"]
    known = {name for parameter in found.params for name in [*parameter.opts, *parameter.secondary_opts]}
    examples = [line for line in found.epilog.split("\n\n") if line.startswith("$ rft3d prepare qa ")]
    assert len(examples) == 2
    for example in examples:
        words = shlex.split(example)[3:]
        assert {word for word in words if re.match("--?[a-z]", word)} <= known
        found.make_context("qa", words[1:])
    for parameter in found.params:
        assert parameter.help or parameter.name == "help", parameter.name
    assert rft3d("prepare", "qa", "--help").code == 0


def test_the_option_names_every_form() -> None:
    named, _ = get_args(get_type_hints(qa)["form"])
    assert sorted(get_args(named)) == sorted(FORMS)


def as_vsi590k(rooms: Path) -> list[dict[str, Any]]:
    """The rooms' own questions, whose answers are exact, as rows of VSI-590K."""
    lines = (rooms / "vsibench/train.jsonl").read_text(encoding="utf-8").splitlines()
    out = []
    for row in map(json.loads, lines):
        options = "\n".join(["Options:", *row["options"], sets.LETTER]) if row["options"] else sets.WORD
        text = f"<image>\n{sets.HEAD}\n{row['question']}\n{options}"
        kind = sets.VSI590K.get(row["question_type"], row["question_type"])
        video = f"{row['dataset']}/{row['scene_name']}.mp4"
        out.append({"video": video, "conversations": talk(text, row["ground_truth"]), "question_type": kind})
    return out


def test_rooms_written_as_vsi590k_become_what_vsibench_makes_of_them(
    rft3d: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rooms = build_rooms(SMALL, tmp_path_factory.mktemp("rooms"))
    asked = as_vsi590k(rooms)
    file = save(Path("train.jsonl"), asked)
    shown = rft3d("prepare", "qa", file, "--media", rooms / "vsibench", "-o", "qa.jsonl", "--frames", "4")
    assert shown.code == 0, shown.err
    assert f"({len(asked)} records" in shown.out
    root = ["--media-root", rooms / "vsibench"]
    line = ["--questions", rooms / "vsibench/train.jsonl", "--videos", rooms / "vsibench", "--frames", "4"]
    assert rft3d("prepare", "vsibench", *line, "-o", "vsi.jsonl", *root).code == 0
    ours = read_records("qa.jsonl").records
    theirs = read_records("vsi.jsonl").records
    for one, other in zip(ours, theirs, strict=True):
        same = ("task", "video", "prompt", "answer", "target")
        assert [getattr(one, key) for key in same] == [getattr(other, key) for key in same]
        assert one.meta.scene == other.meta.scene
        assert one.meta.model_extra["vsibench_type"] == other.meta.question_type
    checked = rft3d("rewards", "check", "qa.jsonl")
    assert checked.code == 0, checked.err
    assert rft3d("inspect", "qa.jsonl", *root, "--stats").code == 0


def test_a_file_becomes_records_and_a_card(rft3d: Command, rows: Path) -> None:
    shown = rft3d("prepare", "qa", rows, "--media", rows.parent, "-o", "data/qa.jsonl")
    assert shown.code == 0, shown.err
    assert re.search(r"number 4 .*choice 5 .*|choice 5 .*number 4", shown.out)
    assert "letter B 2" in shown.out
    assert "next     rft3d grpo --recipe vsi data.train=data/qa.jsonl" in shown.err
    card = json.loads(Path("data/qa.card.json").read_text())
    assert card["command"] == "prepare qa"
    assert card["options"]["form"]["form"] == "vsi590k"
    assert card["sources"][0]["file"] == "vsi_590k.jsonl"
    assert rft3d("rewards", "check", "data/qa.jsonl").code == 0


def test_one_json_document_and_a_dry_run_that_says_the_same(rft3d: Command, rows: Path) -> None:
    line = ["prepare", "qa", rows, "--media", rows.parent, "-o", "data/qa.jsonl"]
    dry = rft3d(*line, "--json", "--dry-run")
    assert not Path("data/qa.jsonl").exists()
    document = rft3d(*line, "--json").document
    assert (document["command"], document["records"]) == ("prepare qa", 9)
    assert dry.document["counts"] == document["counts"]
    assert rft3d(*line, "--quiet").out == "data/qa.jsonl\n"


def test_options_reach_the_records(rft3d: Command, rows: Path) -> None:
    kinds = ["--types", "absolute_count,object_rel_distance", "--types", "appearance_order"]
    line = ["prepare", "qa", rows, "--media", rows.parent, "--limit", "8", *kinds]
    line += ["--answer-style", "think", "--frames", "16", "--sampler", "linspace-round"]
    assert rft3d(*line, "--balance-letters", "--seed", "3", "--split", "val", "-o", "a.jsonl").code == 0
    found = read_records("a.jsonl").records
    assert {record.meta.question_type for record in found} == {"absolute_count", "relative_distance_object"}
    for record in found:
        assert (record.video.frames, record.video.sampler, record.meta.split) == (16, "linspace-round", "val")
        assert record.answer.startswith("<think></think><answer>")
        assert ("stored_letter" in record.meta.model_extra) is (record.task == "choice")
    card = json.loads(Path("a.card.json").read_text())
    assert (card["options"]["balance_letters"], card["options"]["limit"]) == ({"seed": 3}, 8)


@pytest.mark.parametrize(
    ("name", "write", "following"),
    [
        pytest.param("qa_train.json", sets.vsi590k, "rft3d grpo --recipe vsi data.train=a.jsonl", id="train"),
        pytest.param("qa_val.json", sets.vlm3r, "rft3d evaluate vsibench --data a.jsonl", id="the benchmark's kinds"),
        pytest.param("qa_val.json", sets.vsi590k, "rft3d inspect a.jsonl", id="other kinds"),
    ],
)
def test_what_comes_next_fits_the_kinds(rft3d: Command, name: str, write: Any, following: str) -> None:
    asked = [write(COUNT), write(CLOSEST)]
    add_media(Path("media"), asked)
    shown = rft3d("prepare", "qa", save(Path(name), asked), "--media", "media", "-o", "a.jsonl")
    assert shown.code == 0, shown.err
    assert f"next     {following}" in shown.err


def test_free_text_goes_to_supervised_training(rft3d: Command) -> None:
    asked = [{"image": "a.png", "conversations": talk("<image>\nDescribe it.", "A room.")}]
    add_media(Path("media"), asked)
    shown = rft3d("prepare", "qa", save(Path("a.json"), asked), "--media", "media", "-o", "a.jsonl")
    assert "next     rft3d sft --recipe vsi-sft data.train=a.jsonl" in shown.err


def test_a_file_of_no_form_names_the_forms(rft3d: Command, rows: Path) -> None:
    shown = rft3d("prepare", "qa", save(Path("a.json"), [{"a": 1}]), "--media", rows.parent)
    assert shown.code == 3
    assert all(name in shown.hint for name in FORMS)
    assert rft3d("prepare", "qa", rows, "--media", rows.parent, "--form", "vsibench").code == 2


def test_vsibench_s_own_rows_are_sent_to_their_command(rft3d: Command) -> None:
    row = {"id": 1, "dataset": "scannet", "scene_name": "s", "question_type": "object_counting"}
    file = save(Path("test.jsonl"), [{**row, "question": "How many?", "ground_truth": "2", "options": None}])
    Path("media").mkdir()
    shown = rft3d("prepare", "qa", file, "--media", "media")
    assert (shown.code, shown.hint) == (3, "rft3d prepare vsibench --questions reads them")


def test_missing_media_are_an_error_that_names_the_option(rft3d: Command, rows: Path) -> None:
    (rows.parent / "scannet/scene0191_00.mp4").unlink()
    line = ["prepare", "qa", rows, "--media", rows.parent, "-o", "data/qa.jsonl"]
    shown = rft3d(*line)
    assert shown.code == 3
    assert "1 of 1 media files are missing" in shown.err
    assert "--allow-missing" in shown.err


def test_everything_that_is_missing_is_said_at_once(rft3d: Command) -> None:
    shown = rft3d("prepare", "qa", "nowhere.json", "--media", "nowhere")
    assert shown.code == 3
    assert "there is no file nowhere.json" in shown.err
    assert "there is no folder nowhere" in shown.err


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["-o", "a.json"], id="not jsonl"),
        pytest.param(["--json", "--quiet"], id="two forms of output"),
        pytest.param(["--split", "dev"], id="no such split"),
        pytest.param(["--types", "colours"], id="no such type"),
        pytest.param(["--prompt", "own"], id="no such prompt"),
        pytest.param(["--prompt", "stored", "--balance-letters"], id="stored and balanced"),
        pytest.param(["--frames", "0"], id="no frames"),
        pytest.param(["--limit", "0"], id="no rows"),
        pytest.param(["--media-root", "elsewhere"], id="media outside the root"),
    ],
)
def test_wrong_options_are_usage_errors(rft3d: Command, rows: Path, options: list[str]) -> None:
    assert rft3d("prepare", "qa", rows, "--media", rows.parent, *options).code == 2


def test_shares_join_to_the_whole(rft3d: Command, tmp_path: Path) -> None:
    question = {True: CLOSEST, False: COUNT}
    found = [sets.vsi590k(question[n % 2 == 0], f"scannet/{n % 5}.mp4") for n in range(5)]
    many = []
    for number, row in enumerate(found * 120):
        human, gpt = (turn["value"] for turn in row["conversations"])
        many.append({**row, "conversations": talk(f"{number}? {human}", gpt)})
    add_media(tmp_path / "media", found)
    line = ["prepare", "qa", save(Path("a.json"), many), "--media", tmp_path / "media", "--workers", "1"]
    line.append("--balance-letters")
    assert rft3d(*line, "-o", "data/all.jsonl").code == 0
    text = ""
    for number in (1, 2):
        assert rft3d(*line, "-o", f"data/{number}.jsonl", "--shard", f"{number}/2").code == 0
        text += Path(f"data/{number}.jsonl").read_text()
    assert text == Path("data/all.jsonl").read_text()
    assert rft3d("prepare", "merge", "data/1.jsonl", "data/2.jsonl", "-o", "data/merged.jsonl").code == 0
    assert Path("data/merged.jsonl").read_text() == text


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    asked = [sets.vsi590k((*CLOSEST[:1], f"{n}? {CLOSEST[1]}", *CLOSEST[2:]), f"a/{n % 5}.mp4") for n in range(700)]
    asked[300] = {**asked[300], "conversations": talk("How many?", "nan")}
    add_media(tmp_path / "media", asked)
    line = f"qa {save(tmp_path / 'a.jsonl', asked)} --media {tmp_path}/media --media-root {tmp_path} --balance-letters"
    whole, out = tmp_path / "whole.jsonl", tmp_path / "train.jsonl"
    good(f"{line} -o {whole} --workers 1")
    assert killed(f"{line} -o {out} --workers 1", 2, signal.SIGKILL).returncode == -signal.SIGKILL
    assert not out.exists()
    assert len((tmp_path / "train.unfinished/parts.jsonl").read_text().splitlines()) == 3
    refused(f"{line} -o {out} --workers 1 --resume --seed 1")
    good(f"{line} -o {out} --workers 2 --resume")
    assert files(out) == files(whole)
