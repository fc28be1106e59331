"""--limit, --shard, --workers and --resume of the commands that make records: whatever the way, the same bytes."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import pytest
from killed_runs import files, good, killed, refused

from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.examples import example_record
from rft3d_cli.records import Clip, read_records, write_records

COMMANDS = ["scannet", "scanrefer", "spatialqa", "vsibench", "video", "cot"]
ROWS = 150
"""More than are worked on together."""

KILLED_ASKING = """
import os, sys
from rft3d_cli.prepare import cot
add, said = cot.Sampling.add, []
def killing(self, name, text):
    add(self, name, text)
    said.append(name)
    if len(said) == int(sys.argv[1]):
        os.kill(os.getpid(), int(sys.argv[2]))
cot.Sampling.add = killing
from rft3d_cli.cli import main
main(sys.argv[3:])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms, and tables of questions and answers about them."""
    data = tmp_path_factory.mktemp("data")
    rooms = data / "rooms"
    good(
        f"rooms --scenes 5 --seed 4 --objects 3-4 --seconds 4 --fps 4 --size 64x48 --antialias 1 --val 0 "
        f"--workers 1 --out {rooms}"
    )
    asked = [json.loads(line) for line in (rooms / "vsibench" / "train.jsonl").read_text().splitlines()]
    asked = [{**asked[number % len(asked)], "id": number} for number in range(ROWS)]
    asked[70] = {**asked[70], "ground_truth": "many", "options": None}
    asked[3] = asked[100] = {**asked[3], "scene_name": "gone"}
    (data / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    with (data / "questions.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["video", "question", "answer", "options", "split", "note"])
        for row in sorted(asked, key=lambda row: (row["scene_name"], row["id"]))[:40]:
            options = "|".join(row["options"] or [])
            splits = ["train", "", "val"]
            split = splits[row["id"] % 3]
            table.writerow([f"rooms/{row['scene_name']}.mp4", row["question"], row["ground_truth"], options, split, ""])
        # A video that is asked about again later.
        table.writerow(["rooms/scene0000_00.mp4", "Again?", "1", "", "", "x"])
    number = example_record("number")
    named = [number.model_copy(update={"id": str(i)}) for i in range(ROWS)]
    write_records(data / "asked.jsonl", [example_record("detection"), *named])
    said = [
        {"id": str(i), "prediction": f"<think>It is {i} steps from the door.</think><answer>{2.5 + i % 2}</answer>"}
        for i in range(ROWS)
    ]
    (data / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    return data


def line(command: str, data: Path, out: Path, more: str = "") -> str:
    rooms = data / "rooms"
    annotations = f"--annotations {rooms}/embodiedscan_infos_train.json"
    scans = f"--scans {rooms}/scans {annotations} --media {data}/media --media-root {data}"
    words = {
        "scannet": f"{scans} --frames 2",
        "scanrefer": f"{scans} --descriptions {rooms}/ScanRefer_filtered_train.json --frames 4",
        "spatialqa": f"{scans} --frames 4",
        "vsibench": f"--questions {data}/questions.jsonl --videos {rooms}/vsibench --split train --max-bad 1 "
        f"--allow-missing --media-root {data}",
        "video": f"--questions {data}/questions.csv --videos {rooms}/vsibench --split train --max-bad 1 "
        f"--allow-missing --media-root {data}",
        "cot": f"{data}/asked.jsonl --outputs {data}/said.jsonl",
    }
    return f"{command} {words[command]} -o {out} --workers 1 {more}"


@pytest.fixture(scope="module")
def whole(data: Path) -> dict[str, dict[str, bytes]]:
    for command in COMMANDS:
        good(line(command, data, data / f"{command}.jsonl"))
    return {command: files(data / f"{command}.jsonl") for command in COMMANDS}


def merged(command: str, data: Path, folder: Path, count: int, more: str = "") -> dict[str, bytes]:
    parts = [folder / f"{count}-{number}.jsonl" for number in range(1, count + 1)]
    for number, part in enumerate(parts, 1):
        good(line(command, data, part, f"--shard {number}/{count} {more}"))
    good(f"merge {' '.join(map(str, parts))} -o {folder}/all.jsonl")
    return files(folder / "all.jsonl")


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_of_shards_joins_to_the_same_bytes(
    command: str, count: int, data: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    assert merged(command, data, tmp_path, count) == whole[command]


@pytest.mark.parametrize("command", ["vsibench", "video", "cot"])
def test_workers_do_not_change_a_byte(
    command: str, data: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    good(line(command, data, tmp_path / "x.jsonl").replace("--workers 1", "--workers 2"))
    assert files(tmp_path / "x.jsonl") == whole[command]


@pytest.mark.parametrize("command", ["scanrefer", "vsibench", "video", "cot"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    command: str, data: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "x.jsonl"
    assert killed(line(command, data, out), 2, signal.SIGKILL).returncode == -signal.SIGKILL
    assert not out.exists()
    kept = (tmp_path / "x.unfinished" / "parts.jsonl").read_text().splitlines()
    assert len(kept) == 3  # which run it is, and two parts
    good(line(command, data, out, "--resume"))
    assert files(out) == whole[command]
    assert not (tmp_path / "x.unfinished").exists()


@pytest.mark.parametrize(
    ("command", "limit", "what"),
    [
        pytest.param("scannet", 3, "scenes", id="scannet"),
        pytest.param("scanrefer", 3, "scenes", id="scanrefer"),
        pytest.param("spatialqa", 2, "scenes", id="spatialqa"),
        pytest.param("vsibench", 70, "entries", id="vsibench"),
        pytest.param("vsibench", 72, "entries", id="vsibench, with a wrong row"),
        pytest.param("cot", 40, "records_asked", id="cot"),
    ],
)
def test_a_limit_takes_the_first_parts_before_they_are_shared_out(
    command: str, limit: int, what: str, data: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    good(line(command, data, tmp_path / "x.jsonl", f"--limit {limit}"))
    one = files(tmp_path / "x.jsonl")
    card = json.loads(one["card"])
    assert card["counts"][what] == limit
    assert card["options"]["limit"] == limit
    assert one["records"]
    assert whole[command]["records"].startswith(one["records"])
    assert len(one["records"]) < len(whole[command]["records"])
    assert merged(command, data, tmp_path, 3, f"--limit {limit}") == one


def test_a_limit_of_rows_does_not_count_those_of_another_split(
    data: Path, whole: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    good(line("video", data, tmp_path / "x.jsonl", "--limit 9"))
    one = files(tmp_path / "x.jsonl")
    counts = json.loads(one["card"])["counts"]
    rejects = json.loads(one["card"])["rejects"]
    assert counts["questions"] - rejects["another split"] == 9
    assert whole["video"]["records"].startswith(one["records"])
    assert merged("video", data, tmp_path, 2, "--limit 9") == one


def test_a_limit_that_is_no_number_of_parts_is_refused(data: Path, tmp_path: Path) -> None:
    from rft3d_cli.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["prepare", *line("scannet", data, tmp_path / "x.jsonl", "--limit 0").split()])
    assert stopped.value.code == 2


def test_another_limit_is_another_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    assert killed(line("scannet", data, out, "--limit 4"), 2, signal.SIGKILL).returncode == -signal.SIGKILL
    error = refused(line("scannet", data, out, "--limit 3 --resume"))
    assert isinstance(error, UsageError)
    assert "its option limit differs" in error.message
    good(line("scannet", data, out, "--limit 4 --resume"))


def test_missing_videos_are_all_listed_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    command = line("vsibench", data, tmp_path / "out" / "x.jsonl", "--shard 2/2").replace("--allow-missing", "")
    error = refused(command)
    assert isinstance(error, DataError)
    assert "1 of 6 videos are missing" in error.message
    assert "gone.mp4" in error.message
    assert not (tmp_path / "out").exists()
    # Rows beyond the limit need no videos.
    good(f"{command.replace('--shard 2/2', '')} --limit 3")


# ---- Asking a teacher


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    """More records than are asked together, over a clip that ships."""
    one = example_record("number").model_copy(update={"video": Clip(path="room.mp4", frames=1)})
    named = [one.model_copy(update={"id": f"n{i}"}) for i in range(36)]
    write_records(tmp_path / "train.jsonl", [*named[:5], example_record("detection"), *named[5:]])
    return tmp_path / "train.jsonl"


def ask(wanted: Path, out: Path, more: str = "") -> str:
    clips = Path(__file__).parents[2] / "assets" / "clips"
    return (
        f"cot {wanted} --model tiny --samples 2 --max-tokens 4 --media-root {clips} --workers 1 -o {out} {more}".strip()
    )


@pytest.mark.long
def test_what_a_teacher_said_survives_a_kill(wanted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # tiny was never taught to think, so that no chain holds; what it said is what counts here.
    refused(ask(wanted, tmp_path / "whole.jsonl"))
    said = (tmp_path / "whole.outputs.jsonl").read_bytes()
    assert len(said.splitlines()) == 72
    out = tmp_path / "x.jsonl"
    command = ask(wanted, out)
    assert killed(command, 34, signal.SIGKILL, KILLED_ASKING).returncode == -signal.SIGKILL
    kept = tmp_path / "x.outputs.jsonl"
    assert len(kept.read_bytes().splitlines()) == 34
    with kept.open("ab") as stream:
        stream.write(b'{"id": "half a li')
    error = refused(f"{command} --resume --temperature 0.5")
    assert isinstance(error, UsageError)
    assert "its temperature differs" in error.message
    refused(f"{command} --resume")
    assert kept.read_bytes() == said
    # Everything was said: nothing is asked again.
    monkeypatch.setattr("rft3d_cli.models.predict.answers", None)
    refused(f"{command} --resume")
    monkeypatch.undo()
    assert kept.read_bytes() == said
    # Shares are asked what a single run asks.
    good(f"{command} --shard 1/2")
    first = kept.read_bytes().splitlines()
    good(f"{command} --shard 2/2")
    rest = kept.read_bytes().splitlines()
    assert [*first[:32], *rest[:4], *first[32:], *rest[4:]] == said.splitlines()


def test_the_card_says_who_was_asked(wanted: Path, tmp_path: Path) -> None:
    command = ask(wanted, tmp_path / "x.jsonl", "--limit 2")
    refused(command)
    # The outputs as they would be of a model that thinks.
    chain = "<think>It is a few steps from here to there.</think><answer>2.5</answer>"
    rows = [{"id": name, "prediction": chain} for name in ("n0", "n1")] * 2
    (tmp_path / "x.outputs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    good(f"{command} --resume")
    assert [record.id for record in read_records(tmp_path / "x.jsonl").records] == ["n0-cot1", "n1-cot1"]
    options = json.loads((tmp_path / "x.card.json").read_text())["options"]
    assert (options["model"], options["samples"], options["seed"], options["limit"]) == ("tiny", 2, 0, 2)
