from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import BOX, DETECTION_ANSWER, Shown, World, records

from rft3d_cli.commands._complete import complete_reward
from rft3d_cli.records import write_records
from rft3d_cli.rewards import names

Run = Callable[..., Shown]


def test_list_names_every_reward_and_what_it_is_for(rft3d: Run) -> None:
    shown = rft3d("rewards", "list")
    assert shown.code == 0
    assert [line.split()[0] for line in shown.out.splitlines()] == names()
    assert "``" not in shown.out
    listed = rft3d("rewards", "list", "--json").document["rewards"]
    assert {item["name"]: item["task"] for item in listed}["mra"] == "number"
    assert next(item for item in listed if item["name"] == "det_f1")["options"] == {"iou_threshold": 0.25}


def test_explain_tells_options_and_where_a_reward_comes_from(rft3d: Run, tmp_path: Path) -> None:
    shown = rft3d("rewards", "explain", "det_f1")
    assert shown.out.startswith("det_f1, for detection records\n")
    assert "  iou_threshold: 0.25\n    The IoU above which a matched box counts as found.\n" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "Args:" not in shown.out
    assert ">>>" not in shown.out
    (tmp_path / "mine.py").write_text('def flat(text, record):\n    """Always one."""\n    return 1\n')
    shown = rft3d("rewards", "explain", "mine.py:flat")
    assert "Always one." in shown.out
    assert "from mine.py, sha256 " in shown.out


def test_names_complete() -> None:
    assert complete_reward("ground_") == ["ground_frame", "ground_iou", "ground_near"]


def test_check_shows_what_answers_are_worth(rft3d: Run, world: World) -> None:
    shown = rft3d("rewards", "check", world.records)
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert [line for line in lines if line.endswith(" 1 record")] == [
        "grounding, 1 record",
        "detection, 1 record",
        "number, 1 record",
    ]
    targets = [line.split() for line in lines if line.startswith("target")]
    assert [words[:2] for words in targets] == [["target", "1"]] * 3
    assert {value for words in targets for value in words[2:]} == {"1.000"}
    assert max(map(len, lines)) <= 80
    assert "rounding ceiling (answers as taught): none" in shown.out
    document = rft3d("rewards", "check", world.records, "--json").document
    assert document["ok"]
    assert document["tasks"] == {"grounding": 1, "detection": 1, "number": 1}
    rows = {(row["variant"], row["reward"]): row for row in document["rows"]}
    assert rows["moved 50 cm", "det_soft_f1"]["mean"] < rows["moved 5 cm", "det_soft_f1"]["mean"] < 1
    assert rows["empty text", "mra"] == {
        "task": "number",
        "variant": "empty text",
        "reward": "mra",
        "n": 1,
        "mean": 0.0,
        "min": 0.0,
    }


def test_check_takes_rewards_and_options_from_a_recipe(rft3d: Run, world: World) -> None:
    document = rft3d("rewards", "check", world.records, "--recipe", "det", "--json").document
    assert {row["reward"] for row in document["rows"]} == {"format", "det_iou", "det_f1"}
    assert document["weights"] == {"format": 1.0, "det_iou": 1.0, "det_f1": 1.0}
    assert document["recipe"] == "det"
    for words, style, taught in (((), "think", 0), (("--answer-style", "direct"), "direct", 1)):
        document = rft3d("rewards", "check", world.records, "--recipe", "vsi", *words, "--json").document
        assert document["options"]["format"] == {"answer_style": style}
        assert document["rounding_ceiling"]["number"]["format"] == taught


def test_what_cannot_be_json_is_written_as_python_writes_it(rft3d: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(text, record, *, k, among={1}, how=print):\n    return 1\n")
    document = rft3d("rewards", "explain", "mine.py:f", "--json").document
    assert document["options"] == {"k": None, "among": "{1}", "how": "<built-in function print>"}


def test_tables_are_never_cut(rft3d: Run, world: World, tmp_path: Path) -> None:
    name = "a_reward_with_a_name_that_no_terminal_has_room_for_" + "x" * 60
    (tmp_path / "mine.py").write_text(f"def {name}(text, record):\n    return 0.25\n")
    out = rft3d("rewards", "check", world.records, "-r", f"mine.py:{name}", "-r", "det_f1").out
    assert name in out
    assert "0.250" in out
    assert "…" not in out


def test_check_ends_with_5_where_a_target_is_not_worth_1(rft3d: Run, tmp_path: Path) -> None:
    good = records()[0]
    wrong = good.target.model_copy(update={"bbox_world": (BOX[0] + 0.2, *BOX[1:])})
    write_records(tmp_path / "bad.jsonl", [good, good.model_copy(update={"id": "wrong", "target": wrong})])
    shown = rft3d("rewards", "check", "bad.jsonl")
    assert shown.code == 5
    assert shown.errors[0].startswith("1 of 2 targets do not score 1: wrong gets 0.")
    assert "leave it out" in shown.hint
    shown = rft3d("rewards", "check", "bad.jsonl", "--json")
    assert shown.code == 5
    document = json.loads(shown.out)
    assert not document["ok"]
    assert {failure["id"] for failure in document["failures"]} == {"wrong"}


def test_score_tells_value_parts_and_reason_of_each_record(rft3d: Run, world: World, tmp_path: Path) -> None:
    lines = [{"id": "detection", "prediction": DETECTION_ANSWER}, {"id": "number", "prediction": "2"}]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = rft3d("rewards", "score", world.records, "said.jsonl", "--json")
    assert "warning: 1 of 3 records have no prediction" in shown.err
    document = shown.document
    assert (document["n"], document["missing"]) == (3, 1)
    found = {row["id"]: row["rewards"] for row in document["records"]}
    assert found["detection"]["det_f1"]["value"] == 1
    assert found["detection"]["det_f1"]["parts"]["tp"] == 1
    assert found["number"]["mra"]["why"] == "2 for 1"
    assert document["rewards"]["mra"] == {"mean": 0.0, "n": 1}
    table = rft3d("rewards", "score", world.records, "said.jsonl", "--recipe", "tiny-mix").out
    assert "total, weighted as in tiny-mix: " in table
    one = rft3d("rewards", "score", world.records, "said.jsonl", "--limit", "1", "--json").document
    assert (one["n"], one["unknown_ids"], one["total"]) == (1, 0, None)


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        pytest.param(("check", "none.jsonl"), 3, "none.jsonl does not exist", "", id="no records"),
        pytest.param(("check", "all.jsonl", "-r", "det_f2"), 2, "unknown reward 'det_f2'", "did you mean", id="name"),
        pytest.param(("check", "all.jsonl", "-r", "mine.py:f"), 2, "mine.py cannot be read", "file.py", id="no file"),
        pytest.param(
            ("check", "all.jsonl", "-r", "mra", "--recipe", "det"), 2, "exclude each other", "", id="two sources"
        ),
        pytest.param(("check", "all.jsonl", "--recipe", "det-sft"), 2, "has no rewards", "recipes list", id="sft"),
        pytest.param(
            ("check", "all.jsonl", "-r", "accuracy"), 3, "no reward applies to its records", "rewards list", id="task"
        ),
        pytest.param(("score", "all.jsonl", "none.jsonl"), 3, "none.jsonl does not exist", "", id="no answers"),
        pytest.param(("explain", "nothing"), 2, "unknown reward 'nothing'", "one of", id="explain"),
    ],
)
def test_bad_input_is_one_line_with_the_right_code(
    rft3d: Run, tmp_path: Path, words: tuple[str, ...], code: int, message: str, hint: str
) -> None:
    write_records(tmp_path / "all.jsonl", records())
    shown = rft3d("rewards", *words)
    assert shown.code == code
    assert len(shown.errors) == 1
    assert message in shown.errors[0]
    assert hint in shown.hint
    assert shown.out == ""
