from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from inspect import getmembers, isfunction, signature
from pathlib import Path

import pytest
import typer.main

from rft3d_cli import cli
from rft3d_cli.benchmarks import vsibench
from rft3d_cli.commands import _complete
from rft3d_cli.models.known import KNOWN
from rft3d_cli.recipe import shipped_recipes
from rft3d_cli.recipe_schema import keys, stages_of
from rft3d_cli.rewards import names

ROOT = typer.main.get_command(cli.app)

# The command line as the installed `rft3d` starts it, and what it imported for an answer.
RFT3D = """
import atexit, sys
heavy = ("torch", "transformers", "numpy", "scipy", "PIL", "av")
atexit.register(lambda: sys.stderr.write("".join(name + "\\n" for name in heavy if name in sys.modules)))
sys.argv = ["rft3d", *sys.argv[1:]]
from rft3d_cli.cli import main
main()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two runs, one of which holds a model, and a data set."""
    (tmp_path / "runs/det/best").mkdir(parents=True)
    (tmp_path / "runs/det/best/config.json").write_text("{}")
    (tmp_path / "runs/going-on").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text("")
    (tmp_path / "first.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def question(shell: str, line: str) -> dict[str, str]:
    """The variables by which a shell asks how a line may go on."""
    words = line.split(" ")
    variables = {
        "bash": {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    return {**variables, "_RFT3D_COMPLETE": f"complete_{shell}"}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[dict[str, str]], str]:
    """Runs `rft3d` in this process with some variables set, and returns what it prints."""

    def ask(variables: dict[str, str]) -> str:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit):
                ROOT.main([], prog_name="rft3d", standalone_mode=False)
        shown = capsys.readouterr()
        assert shown.err == ""
        return shown.out

    return ask


@pytest.fixture
def offered(said: Callable[[dict[str, str]], str]) -> Callable[[str, str], list[str]]:
    """Asks as a shell does."""

    def ask(shell: str, line: str) -> list[str]:
        out = said(question(shell, line))
        if shell == "zsh":
            out = out.replace("_arguments '*: :((", "").replace("))'", "").replace('"', "").replace("_files", "")
        return [row.partition("\t")[0] for row in out.splitlines() if row]

    return ask


# ---- The shells' own questions


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "answer"),
    [
        pytest.param("rft3d sft --recipe tiny-m", ["tiny-mix"], id="recipe"),
        pytest.param("rft3d sft -r tiny-sft model.geometry=no", ["model.geometry=none"], id="value"),
        pytest.param("rft3d models check tiny-r", ["tiny-random"], id="model"),
        pytest.param("rft3d rewards explain det_s", ["det_soft_f1"], id="reward"),
    ],
)
def test_each_shell_gets_what_it_asks_for(offered, shell: str, line: str, answer: list[str]) -> None:
    assert offered(shell, line) == answer


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_where_nothing_fits_the_shell_is_left_to_its_files(offered, shell: str) -> None:
    assert offered(shell, "rft3d rewards explain mine.py:ne") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_for_a_shell_asks_in_these_variables(said, shell: str) -> None:
    script = said({"_RFT3D_COMPLETE": f"source_{shell}"})
    assert all(name in script for name in question(shell, "rft3d"))


@pytest.mark.parametrize("line", ["rft3d sft -r tiny-sft model.", "rft3d models check ti", "rft3d rewards explain de"])
def test_an_answer_costs_no_heavy_import(line: str) -> None:
    environment = {**os.environ, **question("fish", line)}
    found = subprocess.run([sys.executable, "-c", RFT3D], env=environment, capture_output=True, text=True)
    assert found.stdout
    assert found.stderr == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_itself_completes_also_behind_the_equals_sign_at_which_it_breaks_words(tmp_path: Path) -> None:
    (tmp_path / "rft3d.py").write_text(RFT3D, encoding="utf-8")
    program = tmp_path / "rft3d"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/rft3d.py" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    script = """
source <(_RFT3D_COMPLETE=source_bash rft3d)
ask() { COMP_WORDS=(rft3d "$@"); COMP_CWORD=$#; _rft3d_completion rft3d; printf "%s\\n" "${COMPREPLY[@]}"; }
ask sft --recipe tiny-d
ask sft -r tiny-sft model.geometry = v
ask sft -r tiny-sft data.train = data/tr
"""
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    found = subprocess.run(["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("tiny-det\nvggt\ndata/train.jsonl\n", "")


# ---- What is offered


class Context:
    """What a completer sees of the words before."""

    def __init__(self, command: str, *words: str) -> None:
        self.info_name = command
        self.params = {"recipe": "det", "overrides": list(words)}


def overrides(incomplete: str, *words: str, command: str = "grpo") -> list[str]:
    return _complete.complete_override(Context(command, *words), incomplete)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("incomplete", "answer"),
    [
        pytest.param("train.l", ["train.lr=", "train.loss="], id="keys"),
        pytest.param("rollout.shared_prompt", [f"rollout.shared_prompt={v}" for v in ("true", "false")], id="switch"),
        pytest.param("train.loss=", [f"train.loss={v}" for v in ("group", "batch", "sequence")], id="choices"),
        pytest.param("loss=se", ["loss=sequence"], id="choices by the key's end"),
        pytest.param("freeze=vision_", ["freeze=vision_merger"], id="choices of a list"),
        pytest.param("lr", ["lr="], id="end that is one key's"),
        pytest.param("every", [], id="end that is several keys'"),
        pytest.param("rewards.mr", ["rewards.mra="], id="reward"),
        pytest.param("train.lr=", [], id="any number"),
        pytest.param("data.eval=da", ["data.eval=data/"], id="folder"),
        pytest.param("data.eval=data/", ["data.eval=data/train.jsonl"], id="record file"),
        pytest.param("model.name=runs/", ["model.name=runs/det"], id="run that holds a model"),
        pytest.param("nothing.like.it", [], id="unknown"),
        pytest.param("=", [], id="no key"),
    ],
)
def test_keys_and_values_of_recipes(incomplete: str, answer: list[str]) -> None:
    assert overrides(incomplete) == answer


def test_values_alone_follow_a_broken_word() -> None:
    assert overrides("se", "train.lr=1", "train.loss", "=") == ["sequence"]
    assert overrides("se", "=") == overrides("se") == ["server_url=", "seed="]


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_only_keys_with_an_effect_in_the_stage_are_offered(stage: str) -> None:
    known = {key.key for key in keys().values() if key.is_leaf}
    found = {word.removesuffix("=") for word in overrides("", command=stage) if not word.startswith("rewards.")}
    assert found == {key for key in known if stage in stages_of(key)}


def test_models_are_known_ones_runs_that_hold_one_and_folders() -> None:
    assert _complete.complete_model("") == [*KNOWN, "runs/det", "mine"]
    assert _complete.complete_model("run") == ["runs/det"]
    assert _complete.complete_model("mi") == ["mine"]
    assert _complete.complete_model("da") == ["data/"]


def test_recipes_are_shipped_ones_else_files() -> None:
    assert _complete.complete_recipe("") == list(shipped_recipes())
    assert _complete.complete_recipe("fi") == ["first.yaml"]


def test_question_types_stand_with_commas_and_once() -> None:
    assert _complete.complete_question_type("room") == ["room_size_estimation"]
    assert _complete.complete_question_type("route_planning,ro") == ["route_planning,room_size_estimation"]


def test_the_names_that_completion_knows_by_heart_are_those_there_are() -> None:
    assert list(_complete.REWARDS) == names()
    assert sorted(_complete.QUESTION_TYPES) == sorted(vsibench.TYPES)


# ---- Whatever is typed

COMPLETERS = [
    function for name, function in getmembers(_complete, isfunction) if name.startswith("complete_")
]  # fmt: skip


@pytest.mark.parametrize("complete", COMPLETERS, ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    "incomplete",
    ["", "=", "==", "a=b=c", "~", "~nobody/", "/nowhere/\0", "../" * 40, "x" * 5000, "\udcff", "[", "data.train=/\0/"],
)
def test_no_completer_raises(complete: Callable[..., list[str]], incomplete: str) -> None:
    context = [Context("sft")] if "ctx" in signature(complete).parameters else []
    assert isinstance(complete(*context, incomplete), list)


@pytest.mark.parametrize("complete", COMPLETERS, ids=lambda function: function.__name__)
def test_a_broken_installation_offers_nothing(complete: Callable[..., list[str]], monkeypatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError

    for name in ("recipe_files", "recipes_dir"):
        monkeypatch.setattr(f"rft3d_cli.resources.{name}", broken)
    monkeypatch.setattr("rft3d_cli.recipe_schema.keys", broken)
    monkeypatch.setattr(_complete, "_paths", broken)
    monkeypatch.setattr(_complete, "_starting", broken)
    context = [Context("sft")] if "ctx" in signature(complete).parameters else []
    assert complete(*context, "t") == []
