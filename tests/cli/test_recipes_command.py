from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rft3d_cli import console
from rft3d_cli.commands._complete import complete_recipe
from rft3d_cli.commands.recipes import app
from rft3d_cli.errors import ProblemList, SetupError, UsageError
from rft3d_cli.recipe import load_recipe, shipped_recipes

MINE = "# Mine.\nstage: sft\nmodel: {name: m}\ndata: {train: a.jsonl}\n"


@pytest.fixture
def rft3d(tmp_path, monkeypatch):
    """Runs ``rft3d recipes …`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    # The consoles hold on to the streams that they were made with.
    console.out.cache_clear()
    console.err.cache_clear()
    yield lambda *words: CliRunner().invoke(app, words)
    console.out.cache_clear()
    console.err.cache_clear()


def document(result) -> dict:
    assert result.exit_code == 0, result.output
    parsed = json.loads(result.stdout)
    assert parsed["schema"] == 1
    return parsed


def test_list_shows_every_shipped_recipe_and_nothing_else_on_stdout(rft3d):
    result = rft3d("list")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["NAME", "STAGE", "METHOD", "MODEL", "REWARDS"]
    assert [line.split()[0] for line in lines[1:]] == list(shipped_recipes())
    assert next(line for line in lines if line.startswith("vsi ")).split()[1:4] == ["grpo", "LoRA", "64"]


def test_list_as_json(rft3d):
    recipes = {recipe["name"]: recipe for recipe in document(rft3d("list", "--json"))["recipes"]}
    assert set(recipes) == set(shipped_recipes())
    assert recipes["det"]["rewards"] == {"format": 1.0, "det_iou": 1.0, "det_f1": 1.0}
    assert recipes["det-sft"]["stage"] == "sft"
    assert Path(recipes["det"]["path"]).is_file()


def test_show_prints_key_value_and_source(rft3d):
    result = rft3d("show", "det", "lr=2e-6")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "# det · grpo source"
    assert "train.lr: 2e-06 command line (recipe 1e-6)" in lines
    assert "rollout.engine: transformers default" in lines
    assert "rewards.det_iou: 1.0 recipe" in lines
    assert "rollout.completions: 64 computed" in lines


@pytest.mark.parametrize(
    ("words", "tokens", "needs"),
    [
        pytest.param(["det"], "video.tokens_per_clip: 1008", "needs: about 75.2 GiB on 1 GPU (estimate)", id="full"),
        pytest.param(
            ["det", "model.lora.rank=64"], "video.tokens_per_clip: 1008", "needs: about 22.9 GiB", id="adapters"
        ),
        pytest.param(["grounding"], "video.tokens_per_clip: 8064", "needs: about 77.2 GiB", id="32 frames"),
        pytest.param(["tiny-det"], "video.tokens_per_frame: 12", "(estimate) with 32 frames a clip", id="tiny"),
    ],
)
def test_show_computes_tokens_and_memory(rft3d, monkeypatch, words, tokens, needs):
    monkeypatch.setattr("rft3d_cli.train.shape.geometry_folder", missing)
    shown = rft3d("show", *words).stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert f"{tokens} computed" in lines
    assert any(needs in line and line.endswith("computed") for line in lines)


def missing(name):
    raise SetupError(f"{name} is not here")


def test_show_counts_the_frames_of_the_records_that_are_there(rft3d, tmp_path):
    (tmp_path / "r.jsonl").write_text('{"video": {"frames": ["a.jpg", "b.jpg"]}}\n', encoding="utf-8")
    shown = document(rft3d("show", "tiny-det", "data.train=r.jsonl", "--json"))
    assert shown["keys"]["video.tokens_per_clip"] == {"value": 24, "source": "computed"}
    assert shown["budget"]["tokens"]["frames"] == 2
    assert shown["budget"]["peak_bytes"] > 2**30
    assert {term["when"] for term in shown["budget"]["terms"]} == {"always", "update", "rollout"}


def test_show_says_nothing_of_a_model_that_it_does_not_know(rft3d, tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE.replace("name: m", "name: someone/else"), encoding="utf-8")
    assert "needs" not in rft3d("show", "mine.yaml").stdout
    assert document(rft3d("show", "mine.yaml", "--json"))["budget"] is None


def test_show_computes_without_torch():
    code = (
        "import sys; from rft3d_cli.cli import main\n"
        "try: main(['recipes', 'show', 'det'])\n"
        "except SystemExit: print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.endswith("[]\n")


def test_show_echoes_the_aliases_on_stderr(rft3d):
    result = rft3d("show", "det", "lr=2e-6")
    assert "lr -> train.lr" in result.stderr
    assert "->" not in result.stdout


def test_show_leaves_out_what_has_no_effect_in_the_stage(rft3d):
    shown = rft3d("show", "det-sft").stdout
    assert "train.batch" in shown
    assert "rewards" not in shown
    assert "train.kl" not in shown


def test_show_as_json(rft3d):
    shown = document(rft3d("show", "det", "lr=2e-6", "--json"))
    assert shown["config"]["train"]["lr"] == 2e-6
    assert shown["keys"]["train.lr"] == {
        "value": 2e-6,
        "source": "command line",
        "before": {"source": "recipe", "value": "1e-6"},
    }
    assert shown["keys"]["train.seed"] == {"value": 0, "source": "default"}
    assert shown["aliases"] == {"lr": "train.lr"}


def test_show_as_yaml_is_a_recipe(rft3d, tmp_path):
    (tmp_path / "mine.yaml").write_text(rft3d("show", "vsi", "kl=0.01", "--yaml").stdout, encoding="utf-8")
    assert load_recipe("mine.yaml").config == load_recipe("vsi", ["kl=0.01"]).config


def test_yaml_and_json_exclude_each_other(rft3d):
    assert isinstance(rft3d("show", "det", "--yaml", "--json").exception, UsageError)


def test_show_refuses_an_unknown_key_with_a_near_match(rft3d):
    error = rft3d("show", "det", "rollout.grup=8").exception
    assert isinstance(error, UsageError)
    assert (error.exit_code, error.hint) == (2, "did you mean `rollout.group`?")


def test_copy_keeps_the_file_as_it_is(rft3d, tmp_path):
    result = rft3d("copy", "tiny-det")
    assert result.stdout == "tiny-det.yaml\n"
    assert (tmp_path / "tiny-det.yaml").read_bytes() == shipped_recipes()["tiny-det"].read_bytes()
    assert "rft3d grpo --recipe tiny-det.yaml" in result.stderr


def test_copy_into_a_folder_and_to_a_new_place(rft3d, tmp_path):
    (tmp_path / "folder").mkdir()
    assert rft3d("copy", "det", "folder").stdout.strip() == str(Path("folder/det.yaml"))
    assert document(rft3d("copy", "det", "new/place.yaml", "--json"))["path"] == str(Path("new/place.yaml"))
    assert (tmp_path / "new" / "place.yaml").is_file()


def test_copy_replaces_a_file_only_by_force(rft3d, tmp_path):
    (tmp_path / "det.yaml").write_text(MINE, encoding="utf-8")
    error = rft3d("copy", "tiny-det", "det.yaml").exception
    assert isinstance(error, UsageError)
    assert "--force" in str(error.hint)
    assert (tmp_path / "det.yaml").read_text(encoding="utf-8") == MINE
    assert rft3d("copy", "tiny-det", "det.yaml", "--force").exit_code == 0
    assert (tmp_path / "det.yaml").read_text(encoding="utf-8") != MINE


def test_check_without_names_checks_every_shipped_recipe(rft3d):
    result = rft3d("check")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(shipped_recipes())
    assert all(line.endswith("ok") for line in result.stdout.splitlines())


def test_check_reports_the_problems_of_all_recipes(rft3d, tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE + "train: {lrr: 1, lr: x}\n", encoding="utf-8")
    result = rft3d("check", "mine.yaml", "det", "nothing-like-it")
    assert isinstance(result.exception, ProblemList)
    assert result.exception.exit_code == 2
    assert [problem.message.split(":")[0] for problem in result.exception.problems] == [
        "mine.yaml",
        "mine.yaml",
        "nothing-like-it",
    ]
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["wrong", "ok", "wrong"]


def test_check_applies_overrides_to_each_recipe(rft3d):
    error = rft3d("check", "det", "train.batch=4").exception
    assert isinstance(error, UsageError)
    assert error.message.startswith("det: `train.batch` has no effect")


def test_check_as_json_exits_with_2_where_a_recipe_is_wrong(rft3d):
    result = rft3d("check", "det", "train.lr=x", "--json")
    assert result.exit_code == 2
    parsed = json.loads(result.stdout)
    assert parsed["ok"] is False
    assert parsed["recipes"][0]["problems"][0]["message"].startswith("`train.lr` is x")
    assert document(rft3d("check", "det", "--json"))["ok"] is True


def test_keys_explains_a_section_and_a_key(rft3d):
    assert "rollout.group" in rft3d("keys", "rollout").stdout
    only = rft3d("keys", "lr").stdout
    assert only.splitlines()[0] == "train.lr"
    assert "number; default 1e-06, only sft and grpo" in only
    assert rft3d("keys", "frames").stdout.endswith("whole number or null; default null\n")
    assert rft3d("keys", "model.name").stdout.endswith("text; required\n")
    entries = document(rft3d("keys", "--json"))["keys"]
    assert next(entry for entry in entries if entry["key"] == "model.name")["required"] is True


@pytest.mark.parametrize("command", ["list", "show", "copy", "check", "keys"])
def test_every_command_has_a_help_text_with_two_examples(rft3d, command):
    shown = rft3d(command, "--help").stdout
    assert shown.count("$ rft3d recipes ") == 2


def test_the_examples_of_the_help_texts_work(rft3d, tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE, encoding="utf-8")
    for command in app.registered_commands:
        for example in str(command.epilog).split("\n\n"):
            words = example.removeprefix("$ rft3d recipes ").split(" > ")[0].split()
            result = rft3d(*words)
            assert result.exit_code == 0, (example, result.exception)


def test_shell_completion_offers_the_shipped_recipes():
    assert complete_recipe("tiny-") == [name for name in shipped_recipes() if name.startswith("tiny-")] != []


def test_control_characters_of_a_recipe_do_not_reach_the_terminal(rft3d, tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE.replace("name: m", r'name: "m\e[31m"'), encoding="utf-8")
    result = rft3d("show", "mine.yaml")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout


def test_the_module_imports_nothing_heavy():
    code = (
        "import sys, rft3d_cli.commands.recipes;"
        "print([m for m in ('pydantic', 'yaml', 'numpy', 'torch', 'rft3d_cli.recipe') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
