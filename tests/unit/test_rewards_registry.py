from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rft3d_cli.errors import DataError, Rft3dError, UsageError
from rft3d_cli.records import Record, parse_record
from rft3d_cli.rewards import Reward, RewardSet, Score, as_trl, get, load, names, reward

BUILT_IN = {
    "format": "all",
    "length": "all",
    "det_iou": "detection",
    "det_f1": "detection",
    "det_soft_f1": "detection",
    "ground_frame": "grounding",
    "ground_iou": "grounding",
    "ground_near": "grounding",
    "accuracy": "choice",
    "mra": "number",
}


def line(task: str, target: Any, **more: Any) -> str:
    record = {"schema": 1, "id": "r", "task": task, "video": {"frames": ["0.jpg"]}, "prompt": "?", "target": target}
    return json.dumps({**record, **more})


CHOICE = line("choice", {"letter": "B", "options": ["A. left", "B. right"]})
NUMBER = line("number", {"value": 4})
TEXT = line("text", {"references": ["a room"]})
GOOD = "<think>so</think><answer>B</answer>"


def record(text: str = CHOICE) -> Record:
    return parse_record(text)


def write(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(body, encoding="utf-8")
    return str(path)


def test_the_registry_lists_what_the_specification_names() -> None:
    assert {name: get(name).task for name in names()} == BUILT_IN
    assert names("number") == ["format", "length", "mra"]
    assert names("detection") == ["det_f1", "det_iou", "det_soft_f1", "format", "length"]


def test_every_reward_says_what_it_is_in_one_line() -> None:
    for name in names():
        assert 20 < len(get(name).summary) < 160, name
        assert get(name).path is None


def test_options_are_the_keyword_arguments() -> None:
    assert get("det_f1").options == {"iou_threshold": 0.25}
    assert get("det_iou").options == {"det_iou_matching": "one_to_one"}
    assert get("length").options == {"full": 2048, "zero": 4096}
    assert get("mra").options == {}


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="unknown reward 'det_f2'") as caught:
        get("det_f2")
    assert caught.value.hint == "did you mean det_f1?"


def test_a_name_cannot_be_taken_twice_nor_a_task_invented() -> None:
    with pytest.raises(ValueError, match="already defined"):
        reward("mra", task="number")(lambda text, record: None)
    with pytest.raises(ValueError, match="is not one of"):
        reward("new", task="poetry")
    assert get("mra").function.__module__ == "rft3d_cli.rewards.reasoning"


@pytest.mark.parametrize("task_line", [CHOICE, NUMBER, TEXT])
def test_a_reward_is_silent_on_the_tasks_of_others(task_line: str) -> None:
    one = record(task_line)
    for name, task in BUILT_IN.items():
        applies = task == one.task or (task == "all" and one.task != "text")
        assert (get(name)(GOOD, one) is not None) == applies, name


def test_a_file_gives_a_reward_and_its_hash(tmp_path: Path) -> None:
    body = "def short(text, record, *, limit=5):\n    '''1 for a short text.'''\n    return float(len(text) <= limit)\n"
    path = write(tmp_path, body)
    mine = load(f"{path}:short")
    assert mine.sha256 == hashlib.sha256(body.encode()).hexdigest()
    assert (mine.name, mine.task, mine.summary) == (f"{path}:short", "all", "1 for a short text.")
    assert mine("four", record()) == Score(1.0)
    assert mine("too long", record(), limit=3) == Score(0.0)
    assert get(f"{path}:short").function("", record()) == 1.0


def test_a_file_may_use_the_decorator_and_dataclasses_without_changing_the_registry(tmp_path: Path) -> None:
    body = """\
from __future__ import annotations
from dataclasses import dataclass
from rft3d_cli.rewards import Score, reward

@dataclass
class Limits:
    low: float = 0.0

@reward("mine", task="number")
def mine(text: str, record) -> Score | None:
    return Score(0.5, {"low": Limits().low}, "half")
"""
    path = write(tmp_path, body)
    mine = load(f"{path}:mine")
    assert mine.task == "number"
    assert mine("", record(NUMBER)) == Score(0.5, {"low": 0.0}, "half")
    assert "mine" not in names()


@pytest.mark.parametrize(
    ("body", "spec", "message"),
    [
        pytest.param("x = 1\n", "{}:score", "has no function score", id="no such function"),
        pytest.param("score = 1\n", "{}:score", "has no function score", id="not a function"),
        pytest.param("def score(:\n", "{}:score", "does not run: SyntaxError", id="syntax error"),
        pytest.param("import no_such_module\n", "{}:score", "does not run: ModuleNotFoundError", id="missing import"),
        pytest.param(
            "from rft3d_cli.rewards import reward\n@reward('mra')\ndef score(text, record): return 1.0\n",
            "{}:score",
            "reward 'mra' is already defined",
            id="takes a built-in name",
        ),
        pytest.param("1 / 0\n", "{}:score", "does not run: ZeroDivisionError", id="raises"),
        pytest.param("", "{}x.py:score", "cannot be read", id="no such file"),
        pytest.param("", "{}:", "does not name a reward", id="no function named"),
        pytest.param("", "mine.txt:score", "does not name a reward", id="not a Python file"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, body: str, spec: str, message: str) -> None:
    path = write(tmp_path, body)
    with pytest.raises(UsageError, match=message):
        load(spec.format(path))
    assert set(names()) == set(BUILT_IN)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("return 'good'", "returned 'good' on record r", id="text"),
        pytest.param("return float('nan')", "returned nan on record r", id="NaN"),
        pytest.param("return 10**400", "returned 1000", id="a number beyond floats"),
        pytest.param("from rft3d_cli.rewards import Score; return Score('1')", "returned Score", id="a score of text"),
        pytest.param(
            "from rft3d_cli.rewards import Score; return Score(1.0, {'a': object()})", "Score", id="odd parts"
        ),
        pytest.param("import sys; sys.exit(3)", "failed on record r: SystemExit: 3", id="leaves"),
        pytest.param("return True", "returned True", id="a boolean"),
        pytest.param("return record.nothing", "failed on record r: AttributeError", id="raises"),
    ],
)
def test_what_a_users_reward_returns_is_checked(tmp_path: Path, body: str, message: str) -> None:
    path = write(tmp_path, f"def score(text, record):\n    {body}\n")
    with pytest.raises(Rft3dError, match=message):
        load(f"{path}:score")("", record())


def test_a_set_scores_each_record_by_its_own_rewards() -> None:
    rewards = RewardSet({"format": 1.0, "accuracy": 2.0, "mra": 3.0, "length": 0.0})
    scores = rewards.score(GOOD, record())
    assert {name: score.value for name, score in scores.items()} == {"format": 1, "accuracy": 1, "length": 1}
    assert rewards.total(scores) == 3
    numbers = rewards.score("<think></think><answer>3</answer>", record(NUMBER))
    assert set(numbers) == {"format", "mra", "length"}
    assert rewards.total(numbers) == 1 + 3 * 0.5
    assert rewards.total(rewards.score("a room", record(TEXT))) == 0


def test_format_adds_or_gates() -> None:
    direct = "B"
    added = RewardSet({"format": 1.0, "accuracy": 2.0})
    gated = RewardSet({"format": 1.0, "accuracy": 2.0}, {"format": "gate"})
    silent = RewardSet({"accuracy": 2.0}, {"format": "gate"})
    assert [s.total(s.score(direct, record())) for s in (added, gated, silent)] == [2, 0, 0]
    assert [s.total(s.score(GOOD, record())) for s in (added, gated, silent)] == [3, 2, 2]


def test_options_reach_the_rewards_that_take_them() -> None:
    recipe = {"format": "add", "iou_threshold": 0.5, "det_iou_matching": "best", "length": {"full": 2, "zero": 12}}
    rewards = RewardSet({"length": 1.0}, recipe)
    assert rewards.score("I say B", record())["length"].value == 0.5


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({"accurcy": 1.0}, {}, "unknown reward 'accurcy'"),
        ({"mra": float("nan")}, {}, "the weight of reward mra is nan"),
        ({"mra": "1"}, {}, "the weight of reward mra is '1'"),
        ({"mra": True}, {}, "the weight of reward mra is True"),
        ({"mra": 1.0}, {"format": "multiply"}, "reward option format is 'multiply'"),
        ({"mra": 1.0}, {"iou_treshold": 0.5}, "unknown reward option 'iou_treshold'"),
        ({"length": 1.0}, {"length": {"ful": 3}}, "reward length has no option 'ful'"),
    ],
)
def test_a_wrong_set_is_refused(weights: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RewardSet(weights, options)


def test_trl_form_takes_text_and_chats_lines_and_records() -> None:
    function = as_trl("accuracy")
    blocks = [{"type": "text", "text": "The answer "}, {"type": "text", "text": "is B"}]
    completions = [
        "B",
        [{"role": "assistant", "content": "B"}],
        [{"role": "assistant", "content": blocks}],
        [
            {"role": "assistant", "content": "A"},
            {"role": "tool", "content": "x"},
            {"role": "assistant", "content": "B"},
        ],
        [{"role": "assistant", "content": None}],
        [],
        "A",
        "B",
    ]
    column = [CHOICE, record(), CHOICE, CHOICE, CHOICE, CHOICE, CHOICE, NUMBER]
    values = function(prompts=[""] * 8, completions=completions, completion_ids=[[1]] * 8, record=column, extra=[0] * 8)
    assert values == [1, 1, 1, 1, 0, 0, 0, None]
    assert function.__name__ == "accuracy"


def test_trl_form_logs_the_means_of_parts() -> None:
    logged = {}
    as_trl("mra")(
        prompts=[""] * 3,
        completions=["4", "2", "none"],
        record=[NUMBER] * 3,
        log_metric=lambda name, value: logged.update({name: value}),
        trainer_state=None,
    )
    assert logged == {"mra/value": 3.0}


def test_trl_form_takes_options_and_files(tmp_path: Path) -> None:
    assert as_trl("length", full=0, zero=2)(completions=["B"], record=[CHOICE]) == [0.5]
    path = write(tmp_path, "def half(text, record):\n    return 0.5\n")
    function = as_trl(f"{path}:half")
    assert function(completions=["B"], record=[CHOICE]) == [0.5]
    assert function.__name__ == "half"
    assert as_trl(Reward("mine", "all", lambda text, record: Score(0.25)))(completions=[""], record=[TEXT]) == [0.25]
    with pytest.raises(UsageError, match="has no option 'limit'"):
        as_trl("length", limit=3)


def test_trl_form_says_what_its_column_lacks() -> None:
    with pytest.raises(DataError, match="needs a column `record`"):
        as_trl("mra")(prompts=[""], completions=["4"])
    with pytest.raises(DataError, match="needs a column `record`"):
        as_trl("mra")(prompts=[""], completions=["4"], record=[NUMBER, NUMBER])
    with pytest.raises(DataError, match="column `record`: not JSON"):
        as_trl("mra")(prompts=[""], completions=["4"], record=["{"])


def test_rewards_import_neither_torch_nor_the_command_line() -> None:
    code = "import sys; from rft3d_cli.rewards import names; names(); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "typer", "rich"} & set(out.stdout.split())
