from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rft3d_cli.commands.prepare import app
from rft3d_cli.errors import DataError, Rft3dError, UsageError
from rft3d_cli.examples import example_record
from rft3d_cli.records import Clip, Record, write_records
from rft3d_cli.rewards import as_trl

TASKS = ("detection", "grounding", "choice", "number", "text")


def good(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exit_code == 0, (result.exception, result.output)
    return result.output


def refused(line: str) -> Rft3dError:
    result = CliRunner().invoke(app, shlex.split(line))
    assert isinstance(result.exception, Rft3dError), (result.exception, result.output)
    return result.exception


def clip() -> Record:
    return example_record("number").model_copy(update={"id": "clip", "video": Clip(path="rooms/a.mp4", frames=8)})


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "train.jsonl"
    silent = example_record("text").model_copy(update={"id": "silent", "target": None})
    write_records(path, [*map(example_record, TASKS), clip(), silent])
    return path


def rows(path: Path) -> dict[str, dict]:
    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return {row["id"]: row for row in found}


@pytest.mark.parametrize("out", ["swift.jsonl", "swift.json"])
def test_swift_rows_are_messages_beside_their_media(out: str, records: Path, tmp_path: Path) -> None:
    said = good(f"export {records} --format swift -o {tmp_path / out}")
    assert "7 rows" in said
    assert "1 rows have no answer to teach" in said
    found = rows(tmp_path / out)
    choice = found["example-choice"]
    assert [message["role"] for message in choice["messages"]] == ["user", "assistant"]
    assert choice["messages"][0]["content"].startswith("<image><image>Which is closer")
    assert choice["messages"][1]["content"] == choice["solution"] == "B"
    assert choice["images"] == [str(records.parent.absolute() / name) for name in ("0.jpg", "1.jpg")]
    video = found["clip"]
    assert video["videos"] == [str(records.parent.absolute() / "rooms/a.mp4")]
    assert video["messages"][0]["content"].startswith("<video>How far")
    assert [message["role"] for message in found["silent"]["messages"]] == ["user"]


def test_every_row_has_as_many_marks_as_media(records: Path, tmp_path: Path) -> None:
    for form, question in (
        ("swift", lambda row: row["messages"][0]["content"]),
        ("easyr1", lambda row: row["problem"]),
        ("llava", lambda row: row["conversations"][0]["value"]),
    ):
        good(f"export {records} --format {form} -o {tmp_path}/{form}.jsonl --paths relative")
        for row in rows(tmp_path / f"{form}.jsonl").values():
            text = question(row)
            videos = row.get("videos", [row["video"]] if "video" in row else [])
            assert text.count("<image>") == len(row.get("images", []))
            assert text.count("<video>") == len(videos)
            assert videos in ([], ["rooms/a.mp4"])


def test_rewards_go_along_with_the_rows(records: Path, tmp_path: Path) -> None:
    good(f"export {records} --format easyr1 -o {tmp_path}/easy.jsonl")
    found = rows(tmp_path / "easy.jsonl")
    both = [found["example-detection"], found["example-number"]]
    columns = {"completions": [row["answer"] for row in both], "record": [row["record"] for row in both]}
    assert as_trl("det_f1")(**columns) == [1.0, None]
    assert as_trl("mra")(**columns) == [None, 1.0]


def test_the_media_root_can_be_named(records: Path, tmp_path: Path) -> None:
    good(f"export {records} --format llava -o {tmp_path}/llava.json --media-root {tmp_path}/media")
    row = rows(tmp_path / "llava.json")["example-grounding"]
    assert row["images"] == [f"{tmp_path}/media/0.jpg", f"{tmp_path}/media/1.jpg"]
    assert [part["from"] for part in row["conversations"]] == ["human", "gpt"]


def test_wrong_names_are_refused_and_nothing_is_written(records: Path, tmp_path: Path) -> None:
    assert isinstance(refused(f"export {records} -o {tmp_path}/out.txt"), UsageError)
    assert isinstance(refused(f"export {tmp_path}/none.jsonl -o {tmp_path}/out.jsonl"), DataError)
    bad = tmp_path / "bad.jsonl"
    outside = example_record("choice").model_copy(update={"video": Clip(path="../secret.mp4")})
    write_records(bad, [outside])
    assert "leaves the media root" in refused(f"export {bad} -o {tmp_path}/out.jsonl").message
    assert not (tmp_path / "out.jsonl").exists()
