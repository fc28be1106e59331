from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from rft3d_cli.examples import example_record
from rft3d_cli.models.known import KNOWN
from rft3d_cli.prepare.cot import CotSpec, chains
from rft3d_cli.recipe import find_recipe, load_recipe, shipped_recipes
from rft3d_cli.records import Record, read_answers, write_records
from rft3d_cli.resources import TINY_RECIPES
from rft3d_cli.rewards import RewardSet

NAMES = [name for name in shipped_recipes() if name.startswith("ablate-")]
PAGE = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")


def header(name: str) -> str:
    """The header's text, continued lines joined."""
    lines = find_recipe(name).read_text(encoding="utf-8").split("\nstage:")[0].splitlines()
    return "\n".join(line.removeprefix("#") for line in lines).replace("\\\n", " ")


def commands(name: str) -> list[list[str]]:
    """The training commands of a header, without the remarks behind them."""
    lines = [line for line in header(name).splitlines() if re.search(r"rft3d (sft|grpo) ", line)]
    return [shlex.split(re.split(r" {3,}\S", line[line.index("rft3d ") :])[0])[1:] for line in lines]


def test_the_grid_is_there() -> None:
    assert {"ablate-sft", "ablate-sft-sft", "ablate-sft-rl", "ablate-thoughts"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_a_header_is_one_that_could_be_run(name: str) -> None:
    found = commands(name)
    assert len(found) >= 3
    for stage, option, recipe, *overrides in found:
        assert option == "--recipe"
        assert load_recipe(recipe, overrides, stage=stage).config.stage == stage
    # The small run, and the full-size one that it stands for.
    assert {recipe.startswith(TINY_RECIPES) for _, _, recipe, *_ in found} == {True, False}


@pytest.mark.parametrize("name", NAMES)
def test_the_grid_needs_no_weights_and_no_gpu(name: str) -> None:
    config = load_recipe(name).config
    assert config.model.dtype == "float32"
    made = {load_recipe(other).config.output for other in NAMES}
    assert config.model.name in made or KNOWN[config.model.name].home != "hub"


def test_both_second_stages_start_from_the_first_and_see_the_same_records() -> None:
    first, again, rl = (load_recipe(f"ablate-{name}").config for name in ("sft", "sft-sft", "sft-rl"))
    assert again.model == rl.model
    assert first.output == rl.model.name
    assert again.data == rl.data == first.data
    assert again.train.seed == rl.train.seed == first.train.seed
    assert (again.eval, again.rollout.max_tokens) == (rl.eval, rl.rollout.max_tokens)


def test_cells_do_not_write_over_each_other() -> None:
    fence = next(text for text in re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M) if "ablate-sft-rl" in text)
    cells = [shlex.split(line)[1:] for line in fence.splitlines() if re.match(r"rft3d (sft|grpo) ", line)]
    found = [load_recipe(words[2], words[3:], stage=words[0]).config for words in cells]
    assert len(found) == 6
    assert len({config.output for config in found}) == 6
    assert {config.model.geometry for config in found if config.model.name == "tiny-random"} == {"tiny", "none"}
    # Whatever a cell starts from, an earlier one has made.
    for number, config in enumerate(found):
        assert config.model.name in {"tiny-random", *(earlier.output for earlier in found[:number])}


def test_the_full_grid_of_the_page_loads_and_asks_for_the_branch_that_it_says() -> None:
    rows = re.findall(r"^\| (geometry|plain), (.+?) \| `rft3d (.+?)` \|$", PAGE, re.M)
    assert len(rows) == 6
    for branch, _, line in rows:
        stage, _, recipe, *overrides = shlex.split(line)
        config = load_recipe(recipe, overrides, stage=stage).config
        assert config.model.geometry == {"geometry": "vggt", "plain": "none"}[branch]


def asked(task: str, answers: list[str]) -> list[Record]:
    """Questions of one kind with these right answers, as rooms have them."""
    record = example_record(task)
    out = []
    for number, answer in enumerate(answers):
        right = {"letter": answer} if task == "choice" else {"value": float(answer)}
        target = record.target.model_copy(update=right)  # type: ignore[union-attr]
        out.append(record.model_copy(update={"id": f"{task}-{number}", "answer": answer, "target": target}))
    return out


def test_the_teacher_of_the_page_thinks_in_the_right_form_and_is_sometimes_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    records = [*asked("choice", ["A", "B"] * 50), *asked("number", [str(1 + n / 5) for n in range(100)])]
    (tmp_path / "data/rooms").mkdir(parents=True)
    write_records(tmp_path / "data/rooms/train-questions.jsonl", records)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "reproduce.md", "exec"), {})
    said = dict(read_answers(tmp_path / "teacher.jsonl"))
    assert list(said) == [record.id for record in records]
    rewards = RewardSet({"format": 1, "accuracy": 1, "mra": 1}, {"answer_style": "think"})
    lost = [chains(record, [said[record.id]], CotSpec(), rewards)[1] for record in records]
    wrong = sum(found["wrong answer"] for found in lost)
    assert 30 < wrong < 90
    assert sum(sum(found.values()) for found in lost) == wrong
    anyway = [chains(record, [said[record.id]], CotSpec(any_answer=True), rewards)[0] for record in records]
    assert all(len(kept) == 1 for kept in anyway)
    assert json.loads((tmp_path / "teacher.jsonl").read_text().splitlines()[0])["id"] == "choice-0"
