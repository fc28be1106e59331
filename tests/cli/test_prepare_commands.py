from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner, Result

from rft3d_cli.commands.prepare import app
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, UsageError
from rft3d_cli.records import read_records

COMMANDS = sorted(typer.main.get_command(app).commands)
BUILD = "rooms --scenes 3 --seed 4 --objects 3-4 --seconds 4 --fps 4 --size 64x48 --antialias 1 --val 0.34 --workers 1"


def rft(line: str) -> Result:
    return CliRunner().invoke(app, shlex.split(line))


def good(line: str) -> Result:
    result = rft(line)
    assert result.exit_code == 0, (result.exception, result.output)
    return result


def refused(line: str) -> Rft3dError:
    result = rft(line)
    assert isinstance(result.exception, Rft3dError), (result.exception, result.output)
    return result.exception


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "rooms"
    good(f"{BUILD} --out {folder}")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def detection(rooms: Path, out: Path, split: str = "train") -> str:
    return f"scannet --scans {rooms}/scans --annotations {rooms}/embodiedscan_infos_{split}.json -o {out} --workers 1"


def grounding(rooms: Path, out: Path) -> str:
    return (
        f"scanrefer --scans {rooms}/scans --annotations {rooms}/embodiedscan_infos_train.json "
        f"--descriptions {rooms}/ScanRefer_filtered_train.json --frames 5 -o {out} --workers 1"
    )


def reasoning(rooms: Path, out: Path) -> str:
    return f"vsibench --questions {rooms}/vsibench/train.jsonl --videos {rooms}/vsibench -o {out}"


MAKE = {"scannet": detection, "scanrefer": grounding, "vsibench": reasoning}


# ---- Shape of the command


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_two_examples_whose_options_exist(command: str) -> None:
    found = typer.main.get_command(app).commands[command]
    known = {name for parameter in found.params for name in [*parameter.opts, *parameter.secondary_opts]}
    examples = [line for line in found.epilog.split("\n\n") if line.startswith("$ rft3d prepare ")]
    assert len(examples) == 2
    for example in examples:
        words = shlex.split(example)[3:]
        assert words[0] == command
        assert {word for word in words if re.match("--?[a-z]", word)} <= known
    assert good(f"{command} --help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command: str) -> None:
    for parameter in typer.main.get_command(app).commands[command].params:
        assert parameter.help or parameter.name == "help", parameter.name


def test_the_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, rft3d_cli.commands.prepare\n"
        "print([m for m in ('numpy', 'scipy', 'pydantic', 'torch', 'PIL', 'av', 'yaml') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# ---- rooms


def test_rooms_say_what_comes_next_and_it_works(here: Path) -> None:
    result = good(f"{BUILD} --scenes 2 --val 0 --no-clips --out data/rooms")
    assert "wrote    data/rooms  (2 scenes" in result.stdout
    assert "next" not in result.stdout
    following = re.search(r"next +rft3d prepare (.*)", result.stderr)[1]
    good(following)
    assert len(read_records("data/rooms/train.jsonl").records) > 5
    assert not Path("data/rooms/vsibench").exists()


def test_rooms_as_json_and_as_a_path(here: Path) -> None:
    document = json.loads(good(f"{BUILD} --out a --json").stdout)
    assert document["schema"] == 1
    assert document["command"] == "prepare rooms"
    assert document["counts"]["train"]["scenes"] == 2
    assert good(f"{BUILD} --scenes 1 --val 0 --no-clips --out b --quiet").stdout == "b\n"


def test_a_dry_run_of_rooms_says_what_a_real_one_would(here: Path) -> None:
    assert "would write a  (3 scenes of 16 frames)" in good(f"{BUILD} --out a --dry-run").stdout
    assert not Path("a").exists()
    Path("a").mkdir()
    Path("a/mine").touch()
    for dry in ("", "--dry-run"):
        assert refused(f"{BUILD} --out a {dry}").exit_code == 3


@pytest.mark.parametrize(
    "options",
    ["--size 160", "--size axb", "--objects 4", "--objects 9-2", "--antialias 2", "--val 1", "--json --quiet"],
)
def test_wrong_rooms_are_usage_errors(here: Path, options: str) -> None:
    assert isinstance(refused(f"rooms --out a {options}"), UsageError)
    assert not Path("a").exists()


# ---- The three that write records


@pytest.mark.parametrize("command", MAKE)
def test_results_go_to_stdout_and_the_rest_to_stderr(built: Path, here: Path, command: str) -> None:
    out = here / "out" / "train.jsonl"
    result = good(MAKE[command](built, out))
    records = read_records(out).records
    assert f"wrote    {out}  ({len(records):,} records" in result.stdout
    assert str(out.with_suffix(".card.json")) in result.stdout
    assert "next     rft3d grpo --recipe tiny-" in result.stderr
    assert f"data.train={out}" in result.stderr
    assert json.loads(out.with_suffix(".card.json").read_text())["command"] == f"prepare {command}"


@pytest.mark.parametrize("command", MAKE)
def test_one_json_document(built: Path, here: Path, command: str) -> None:
    out = here / "train.jsonl"
    document = json.loads(good(f"{MAKE[command](built, out)} --json").stdout)
    assert document["schema"] == 1
    assert document["records"] == len(read_records(out, media_root=document["media_root"]).records)
    assert document["out"] == str(out)
    assert len(document["sha256"]) == 64
    assert document["next"].startswith("rft3d grpo")


@pytest.mark.parametrize("command", MAKE)
def test_quiet_prints_the_path_alone(built: Path, here: Path, command: str) -> None:
    result = good(f"{MAKE[command](built, here / 'a.jsonl')} --quiet")
    assert result.stdout == f"{here / 'a.jsonl'}\n"
    assert result.stderr == ""


@pytest.mark.parametrize("command", MAKE)
def test_a_dry_run_writes_nothing_and_counts_the_same(built: Path, here: Path, command: str) -> None:
    line = f"{MAKE[command](built, here / 'out' / 'a.jsonl')} --json"
    dry = json.loads(good(f"{line} --dry-run").stdout)
    assert not any(here.iterdir())
    real = json.loads(good(line).stdout)
    assert dry["dry_run"] is not real["dry_run"]
    assert (dry["records"], dry["counts"], dry["rejects"]) == (real["records"], real["counts"], real["rejects"])


@pytest.mark.parametrize("command", MAKE)
@pytest.mark.parametrize("out", ["a.json", "folder"])
def test_the_output_must_be_a_jsonl_file(built: Path, here: Path, command: str, out: str) -> None:
    Path("folder").mkdir()
    assert isinstance(refused(MAKE[command](built, Path(out))), UsageError)


@pytest.mark.parametrize("command", MAKE)
def test_repeated_runs_give_the_same_bytes(built: Path, here: Path, command: str) -> None:
    found = []
    for _ in range(2):
        good(MAKE[command](built, Path("out/a.jsonl")))
        found.append({f: f.read_bytes() for f in Path("out").rglob("*") if f.is_file()})
    assert found[0] == found[1]


@pytest.mark.parametrize("command", MAKE)
def test_commands_typed_alone_say_what_they_lack(here: Path, command: str) -> None:
    error = refused(command)
    assert isinstance(error, DataError | ProblemList)
    assert error.exit_code == 3
    assert "rft3d prepare rooms" in error.hint or "rooms bring their own" in error.hint
    assert not any(here.iterdir())


def test_everything_that_is_missing_is_said_at_once(here: Path) -> None:
    error = refused("scanrefer --scans nowhere --descriptions a.json --annotations b.pkl")
    assert isinstance(error, ProblemList)
    assert [re.search("nowhere|a.json|b.pkl", p.message)[0] for p in error.problems] == ["nowhere", "a.json", "b.pkl"]


def test_json_and_quiet_exclude_each_other(built: Path, here: Path) -> None:
    for command, make in MAKE.items():
        assert isinstance(refused(f"{make(built, here / 'a.jsonl')} --json --quiet"), UsageError), command


def test_val_records_are_for_evaluation(built: Path, here: Path) -> None:
    result = good(detection(built, here / "val.jsonl", "val"))
    assert f"next     rft3d evaluate detection --data {here}/val.jsonl" in result.stderr
    assert {record.meta.split for record in read_records("val.jsonl").records} == {"val"}


# ---- Media


def test_frames_lie_beside_the_records_by_default(built: Path, here: Path) -> None:
    good(detection(built, Path("out/det.jsonl")))
    file = read_records("out/det.jsonl")
    assert file.records[0].video.frames[0] == "media/posed_images/scene0000_00/00000.jpg"
    assert all(file.media(frame).exists() for record in file.records for frame in record.video.frames)


def test_media_elsewhere_are_the_media_root(built: Path, here: Path) -> None:
    result = good(f"{detection(built, Path('out/det.jsonl'))} --media 'big disk'")
    file = read_records("out/det.jsonl", media_root="big disk")
    assert file.records[0].video.frames[0] == "posed_images/scene0000_00/00000.jpg"
    assert all(file.media(frame).exists() for record in file.records for frame in record.video.frames)
    assert "'data.media_root=big disk'" in result.stderr


def test_a_media_root_above_can_be_named(built: Path, here: Path) -> None:
    good(f"{detection(built, Path('out/det.jsonl'))} --media disk/frames --media-root disk")
    file = read_records("out/det.jsonl", media_root="disk")
    assert file.records[0].video.frames[0] == "frames/posed_images/scene0000_00/00000.jpg"
    error = refused(f"{detection(built, Path('out/det.jsonl'))} --media disk/frames --media-root out")
    assert "not inside the media root" in error.message


def test_exported_frames_are_used_where_they_lie(built: Path, here: Path) -> None:
    good(detection(built, Path("first/det.jsonl")))
    Path("first/media").rename("mine")
    line = f"scannet --posed-images mine/posed_images --annotations {built}/embodiedscan_infos_train.json"
    good(f"{line} -o second/det.jsonl --workers 1")
    file = read_records("second/det.jsonl", media_root="mine")
    assert file.records[0].video.frames[0] == "posed_images/scene0000_00/00000.jpg"
    assert all(file.media(frame).exists() for record in file.records for frame in record.video.frames)
    assert isinstance(refused(f"{line} --media x -o second/det.jsonl"), UsageError)


def test_boxes_can_come_from_the_scans_alone(built: Path, here: Path) -> None:
    good(f"scannet --scans {built}/scans --stride 3 -o own.jsonl --workers 1")
    assert len(read_records("own.jsonl").records) > 5


# ---- Trouble


def test_bad_scenes_are_named_and_fail_with_3(built: Path, here: Path) -> None:
    shutil.copytree(built, "rooms")
    Path("rooms/scans/scene0001_00/scene0001_00.sens").write_bytes(b"\4\0\0\0")
    line = detection(Path("rooms"), Path("det.jsonl"))
    for dry in ("", " --dry-run"):
        error = refused(line + dry)
        assert error.exit_code == 3
        assert "1 of 2 scenes cannot be used" in error.problems[0].message
        assert "scene0001_00: damaged .sens" in error.problems[1].message
    assert not Path("det.jsonl").exists()
    result = good(f"{line} --max-bad 0.5")
    assert "skipped  1 scene (damaged .sens: scene0001_00) -> det.rejects.jsonl" in result.stdout
    assert isinstance(refused(f"{line} --on-error stop"), DataError)


def test_contradictions_are_warned_of(built: Path, here: Path) -> None:
    shutil.copytree(built, "rooms")
    text = Path("rooms/scans/scene0001_00/scene0001_00.txt")
    text.write_text(text.read_text().replace("axisAlignment", "axisAlignmentOld"))
    result = good(detection(Path("rooms"), Path("det.jsonl")))
    assert "warning: axis alignments" in result.stderr
    assert "scene0001_00" in result.stderr
    assert "warning" not in result.stdout


@pytest.mark.parametrize(
    "option",
    ["--frames 0", "--frames 65", "--decimals 0", "--max-bad 2", "--workers 0", "--on-error maybe", "--seed -1"],
)
def test_numbers_out_of_range_are_usage_errors(built: Path, here: Path, option: str) -> None:
    assert rft(f"{detection(built, Path('a.jsonl'))} {option}").exit_code == 2


def test_a_hostile_pickle_ends_with_3(built: Path, here: Path) -> None:
    Path("embodiedscan_infos_train.pkl").write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
    error = refused(f"scannet --scans {built}/scans --annotations embodiedscan_infos_train.pkl -o a.jsonl")
    assert error.exit_code == 3
    assert not Path("marker").exists()
