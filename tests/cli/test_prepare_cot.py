from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rft3d_cli.commands.prepare import app
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, UsageError
from rft3d_cli.examples import example_record
from rft3d_cli.prompts import THINK_CHOICE, THINK_NUMBER, VSI_CHOICE, thinking_prompt, vsibench_prompt
from rft3d_cli.records import Clip, Record, read_records, write_records
from rft3d_cli.rewards import RewardSet

THOUGHT = "The table stands next to the door, the chair does not."


def chain(answer: str, thought: str = THOUGHT) -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


def good(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exit_code == 0, (result.exception, result.output)
    return result.output


def refused(line: str) -> Rft3dError:
    result = CliRunner().invoke(app, shlex.split(line))
    assert isinstance(result.exception, Rft3dError), (result.exception, result.output)
    return result.exception


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    asked = example_record("choice").model_copy(
        update={"prompt": vsibench_prompt("Which is closer to the door?", ["A. chair", "B. table"])}
    )
    write_records(path, [asked, example_record("number"), example_record("detection")])
    return path


def say(path: Path, **said: list[str]) -> Path:
    rows = [{"id": f"example-{name}", "prediction": text} for name, texts in said.items() for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def kept(path: Path) -> dict[str, Record]:
    return {record.id: record for record in read_records(path).records}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(chain("B"), None, id="right"),
        pytest.param(f"  {chain('B. table')}\n", None, id="right, with the option's text and spaces around"),
        pytest.param(chain("A"), "wrong answer", id="wrong letter"),
        pytest.param("B", "not in the form", id="no tags"),
        pytest.param(f"<answer>B</answer>{THOUGHT}", "not in the form", id="thought outside"),
        pytest.param(chain("B", ""), "no thought", id="empty thought"),
        pytest.param(chain("B", "B, clearly."), "no thought", id="two words"),
        pytest.param(chain("B", "so " * 2000), "too long", id="rambling"),
        pytest.param("", "not in the form", id="nothing"),
    ],
)
def test_a_chain_is_kept_where_it_holds(text: str, reason: str | None, records: Path, tmp_path: Path) -> None:
    outputs = say(tmp_path / "teacher.jsonl", choice=[text], number=[chain("2.5")])
    good(f"cot {records} --outputs {outputs} -o {tmp_path}/thoughts.jsonl")
    found = kept(tmp_path / "thoughts.jsonl")
    assert ("example-choice-cot1" in found) == (reason is None)
    assert "example-number-cot1" in found
    if reason is not None:
        rejects = [json.loads(line) for line in (tmp_path / "thoughts.rejects.jsonl").read_text().splitlines()]
        (row,) = [row for row in rejects if row.get("id") == "example-choice"]
        assert row[reason] == 1


def test_kept_records_ask_for_what_they_teach(records: Path, tmp_path: Path) -> None:
    outputs = say(tmp_path / "teacher.jsonl", choice=[chain("B")], number=[chain("2.6")])
    good(f"cot {records} --outputs {outputs} -o {tmp_path}/thoughts.jsonl")
    found = kept(tmp_path / "thoughts.jsonl")
    assert found["example-choice-cot1"].prompt.endswith(f"B. table\n{THINK_CHOICE}")
    assert VSI_CHOICE not in found["example-choice-cot1"].prompt
    assert found["example-number-cot1"].prompt.endswith(THINK_NUMBER)
    rewards = RewardSet({"format": 1, "accuracy": 1, "mra": 1})
    for record in found.values():
        assert record.answer is not None
        assert rewards.total(rewards.score(record.answer, record)) >= 1.9


def test_several_chains_are_kept_where_asked_and_none_twice(records: Path, tmp_path: Path) -> None:
    said = [chain("B"), chain("A"), chain("B"), chain("B", THOUGHT + " Sure."), chain("B", THOUGHT + " Quite sure.")]
    outputs = say(tmp_path / "teacher.jsonl", choice=said)
    good(f"cot {records} --outputs {outputs} -o {tmp_path}/thoughts.jsonl --keep 2")
    found = kept(tmp_path / "thoughts.jsonl")
    assert [record.answer for record in found.values()] == [said[0], said[3]]
    counts = json.loads((tmp_path / "thoughts.card.json").read_text())["counts"]
    assert counts["outputs"] == 5
    assert counts["outputs wrong answer"] == 1
    assert counts["outputs more than are kept"] == 1


@pytest.mark.parametrize(("at_least", "there"), [("0.9", False), ("0.8", True)])
def test_numbers_hold_from_a_stated_accuracy(at_least: str, there: bool, records: Path, tmp_path: Path) -> None:
    # 2.8 for 2.5 is off by 12 %: within eight of the ten limits.
    outputs = say(tmp_path / "teacher.jsonl", choice=[chain("B")], number=[chain("2.8")])
    good(f"cot {records} --outputs {outputs} -o {tmp_path}/thoughts.jsonl --at-least {at_least}")
    assert ("example-number-cot1" in kept(tmp_path / "thoughts.jsonl")) == there


def test_wrong_answers_are_kept_where_asked_and_nothing_else_that_does_not_hold(records: Path, tmp_path: Path) -> None:
    outputs = say(tmp_path / "teacher.jsonl", choice=[chain("A")], number=[chain("2.5", ""), chain("99")])
    good(f"cot {records} --outputs {outputs} -o {tmp_path}/any.jsonl --any-answer")
    assert {name: record.answer for name, record in kept(tmp_path / "any.jsonl").items()} == {
        "example-choice-cot1": chain("A"),
        "example-number-cot1": chain("99"),
    }
    assert json.loads((tmp_path / "any.card.json").read_text())["options"]["any_answer"] is True


def test_nothing_that_holds_is_an_error_and_nothing_is_written(records: Path, tmp_path: Path) -> None:
    outputs = say(tmp_path / "teacher.jsonl", choice=["A"], stranger=["B"])
    error = refused(f"cot {records} --outputs {outputs} -o {tmp_path}/thoughts.jsonl")
    assert isinstance(error, ProblemList)
    assert not (tmp_path / "thoughts.jsonl").exists()


def test_a_teacher_must_be_named_once(records: Path, tmp_path: Path) -> None:
    out = f"-o {tmp_path}/thoughts.jsonl"
    assert isinstance(refused(f"cot {records} {out}"), UsageError)
    assert isinstance(refused(f"cot {records} {out} --model tiny --outputs {records}"), UsageError)
    assert isinstance(refused(f"cot {records} {out} --model tiny --dry-run"), UsageError)
    assert isinstance(refused(f"cot {records} {out} --outputs {tmp_path}/none.jsonl"), DataError)


def test_a_model_can_be_the_teacher_and_what_it_said_is_kept(tmp_path: Path) -> None:
    clips = Path(__file__).parents[2] / "assets" / "clips"
    asked = example_record("number").model_copy(update={"video": Clip(path="room.mp4", frames=2)})
    write_records(tmp_path / "train.jsonl", [asked, example_record("detection")])
    error = refused(
        f"cot {tmp_path}/train.jsonl --model tiny --samples 2 --max-tokens 8 --media-root {clips} "
        f"-o {tmp_path}/thoughts.jsonl"
    )
    # tiny was never taught to think.
    assert "no chain holds" in str(error)
    said = [json.loads(line) for line in (tmp_path / "thoughts.outputs.jsonl").read_text().splitlines()]
    assert [row["id"] for row in said] == ["example-number"] * 2


def test_a_prompt_is_asked_to_think_once() -> None:
    prompt = vsibench_prompt("Which?", ["A. left", "B. right"])
    once = thinking_prompt(prompt, choice=True)
    assert thinking_prompt(once, choice=True) == once
    assert once.splitlines()[:-1] == prompt.splitlines()[:-1]
    assert thinking_prompt("My own words.", choice=False) == f"My own words.\n{THINK_NUMBER}"
