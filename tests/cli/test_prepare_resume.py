from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from killed_runs import files, good, killed, refused

from rft3d_cli.errors import DataError, UsageError


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "rooms"
    good(
        f"rooms --scenes 5 --seed 4 --objects 3-4 --seconds 4 --fps 4 --size 64x48 --antialias 1 --val 0 --no-clips "
        f"--workers 1 --out {folder}"
    )
    return folder


@pytest.fixture(scope="module")
def whole(rooms: Path) -> dict[str, bytes]:
    good(line(rooms, rooms / "whole.jsonl"))
    return files(rooms / "whole.jsonl")


def line(rooms: Path, out: Path, more: str = "") -> str:
    annotations = f"{rooms}/embodiedscan_infos_train.json"
    place = f"--media {rooms}/media --media-root {rooms}"
    return f"scannet --scans {rooms}/scans --annotations {annotations} -o {out} {place} --workers 1 {more}"


def test_a_killed_run_goes_on_to_the_same_bytes(rooms: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    assert killed(line(rooms, out), 2, signal.SIGKILL).returncode == -signal.SIGKILL
    assert not out.exists()
    parts = (tmp_path / "train.unfinished" / "parts.jsonl").read_text().splitlines()
    assert len(parts) == 3  # which run it is, and two scenes
    # Killed again, after one more; only what is missing is worked on.
    assert killed(line(rooms, out, "--resume"), 3, signal.SIGKILL).returncode == -signal.SIGKILL
    good(line(rooms, out, "--resume"))
    assert files(out) == whole
    assert not (tmp_path / "train.unfinished").exists()


def test_what_a_crash_tore_is_cut_off(rooms: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    killed(line(rooms, out), 2, signal.SIGKILL)
    for name in ("records.jsonl", "parts.jsonl"):
        with (tmp_path / "train.unfinished" / name).open("ab") as stream:
            stream.write(b'{"half a li')
    good(line(rooms, out, "--resume"))
    assert files(out) == whole


def test_records_lost_with_the_disk_are_made_again(rooms: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    killed(line(rooms, out), 3, signal.SIGKILL)
    kept = tmp_path / "train.unfinished" / "records.jsonl"
    os.truncate(kept, kept.stat().st_size // 2)
    good(line(rooms, out, "--resume"))
    assert files(out) == whole


def test_an_interrupt_says_how_to_go_on(rooms: Path, tmp_path: Path) -> None:
    stopped = killed(line(rooms, tmp_path / "train.jsonl"), 2, signal.SIGINT)
    assert stopped.returncode == 130
    assert "--resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_without_resume_a_run_starts_anew(rooms: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    killed(line(rooms, out, "--frames 2"), 2, signal.SIGKILL)
    good(line(rooms, out))
    assert files(out) == whole
    assert not (tmp_path / "train.unfinished").exists()


def test_resume_without_anything_to_resume_is_a_run(rooms: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    good(line(rooms, tmp_path / "train.jsonl", "--resume"))
    assert files(tmp_path / "train.jsonl") == whole


def test_another_run_is_not_resumed(rooms: Path, tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    killed(line(rooms, out), 2, signal.SIGKILL)
    error = refused(line(rooms, out, "--resume --frames 2"))
    assert isinstance(error, UsageError)
    assert "its option frames differs" in error.message
    assert len((tmp_path / "train.unfinished" / "parts.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param("--in-view 0.3", "", id="left away"),
        pytest.param("", "--in-view 0.3", id="added"),
        pytest.param("--in-view 0.3", "--in-view 0.4", id="changed"),
    ],
)
def test_an_option_that_stands_only_where_it_is_used_tells_runs_apart(
    first: str, again: str, rooms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "train.jsonl"
    killed(line(rooms, out, first), 1, signal.SIGKILL)
    error = refused(line(rooms, out, f"--resume {again}"))
    assert isinstance(error, UsageError)
    assert "its option in_view differs" in error.message


def test_a_refused_run_leaves_nothing_behind(rooms: Path, tmp_path: Path) -> None:
    refused(f"scannet --scans {rooms}/scans --split {rooms}/nobody.txt -o {tmp_path}/train.jsonl --workers 1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [2, 5])
def test_shards_join_to_the_same_bytes(count: int, rooms: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    parts = [tmp_path / f"part-{number}.jsonl" for number in range(1, count + 1)]
    for number, part in enumerate(parts, 1):
        good(line(rooms, part, f"--shard {number}/{count}"))
    out = tmp_path / "train.jsonl"
    said = good(f"merge {' '.join(map(str, reversed(parts)))} -o {out} --json")
    assert files(out) == whole
    assert json.loads(said)["shards"] == count


def test_shards_of_different_runs_are_not_joined(rooms: Path, tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{name}.jsonl" for name in ("one", "two", "three"))
    good(line(rooms, one, "--shard 1/3"))
    good(line(rooms, two, "--shard 2/3"))
    good(line(rooms, three, "--shard 3/3 --frames 2"))
    out = tmp_path / "all.jsonl"
    assert "shards are missing: 3/3" in refused(f"merge {one} {two} -o {out}").message
    assert "different runs: their option frames differs" in refused(f"merge {one} {two} {three} -o {out}").message
    assert f"and so is {one}" in refused(f"merge {one} {one} -o {out}").message
    two.write_text(two.read_text() + "\n")
    error = refused(f"merge {one} {two} -o {out}")
    assert isinstance(error, DataError)
    assert "has changed since" in error.message
    assert "cannot be read" in refused(f"merge {tmp_path}/none.jsonl -o {out}").message
    good(line(rooms, three))
    assert "is no shard" in refused(f"merge {three} -o {out}").message
    assert not out.exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_share_that_is_none_is_a_usage_error(shard: str, rooms: Path, tmp_path: Path) -> None:
    assert isinstance(refused(line(rooms, tmp_path / "x.jsonl", f"--shard={shard}")), UsageError)
