from __future__ import annotations

import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rft3d_cli import __version__, cli

ROOT = typer.main.get_command(cli.app)
HEAVY = (
    *("torch", "transformers", "trl", "peft", "accelerate", "datasets", "huggingface_hub", "tokenizers"),
    *("numpy", "scipy", "yaml", "PIL", "av"),
)


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))


COMMANDS = dict(walk(ROOT))
GROUPS = [path for path, command in COMMANDS.items() if hasattr(command, "commands")]
LEAVES = [path for path in COMMANDS if path not in GROUPS]


# ---- What help says


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "rft3d")
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_helps(rft3d, path, flag):
    shown = rft3d(*path, flag)
    assert (shown.code, shown.err) == (0, "")
    assert "Usage:" in shown.out
    assert shown.out.count("--help") == 1


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: " ".join(path) or "rft3d")
def test_a_group_typed_alone_shows_its_help(rft3d, path):
    shown = rft3d(*path)
    assert (shown.code, shown.err) == (2, "")
    assert shown.out.rstrip() == rft3d(*path, "--help").out.rstrip()


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_two_examples_whose_options_exist(path):
    found = COMMANDS[path]
    known = {name for parameter in found.params for name in [*parameter.opts, *parameter.secondary_opts]}
    examples = [line for line in (found.epilog or "").split("\n\n") if line.startswith("$ rft3d ")]
    assert len(examples) >= 2
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])[2:]
        assert tuple(words[: len(path)]) == path
        assert {word for word in words if re.fullmatch("--?[a-z][a-z-]*", word)} <= known


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_a_form_for_programs_and_a_short_one(path):
    known = {name for parameter in COMMANDS[path].params for name in parameter.opts}
    assert {"--json", "--quiet", "-q"} <= known


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: " ".join(path) or "rft3d")
def test_every_group_has_an_example(path):
    assert "rft3d " in (COMMANDS[path].epilog or "")


@pytest.mark.parametrize(
    "line",
    [
        *("recipes list", "recipes show det", "recipes copy det", "recipes cluster", "recipes check", "recipes keys"),
        *("rewards list", "rewards explain mra", "rewards check r.jsonl", "rewards score r.jsonl p.jsonl"),
        *("models list", "models check tiny", "models merge a -o b", "models export a -o b --layout plain"),
        *("models create-tiny a", "headroom r.jsonl", "sft -r tiny-sft", "grpo -r tiny-det", "demo", "doctor"),
    ],
)
def test_one_form_at_a_time(rft3d, line):
    shown = rft3d(*line.split(), "--json", "--quiet")
    assert (shown.code, shown.out, shown.errors) == (2, "", ["--json and --quiet exclude each other"])


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        pytest.param("recipes list", r"(?s)tiny-det\n.*\ndet\n.*", id="recipes list"),
        pytest.param("recipes show det", r".*/det\.yaml\n", id="recipes show"),
        pytest.param("recipes copy det", r"det\.yaml\n", id="recipes copy"),
        pytest.param("recipes cluster", r"cluster\n", id="recipes cluster"),
        pytest.param("recipes check det", r"", id="recipes check"),
        pytest.param("recipes keys model.lora", r"(model\.lora(\.\w+)?\n){5}", id="recipes keys"),
        pytest.param("rewards list", r"(\w+\n){10}", id="rewards list"),
        pytest.param("rewards explain mra", r"\w[^\n]+\n", id="rewards explain"),
        pytest.param("models list", r"(?s)tiny\n.*", id="models list"),
        pytest.param("models check tiny", r".*/tiny\n", id="models check"),
    ],
)
def test_quiet_prints_the_main_thing_and_nothing_else(rft3d, line, printed):
    shown = rft3d(*line.split(), "--quiet")
    assert (shown.code, shown.err) == (0, "")
    assert re.fullmatch(printed, shown.out), shown.out


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "rft3d")
def test_every_parameter_says_what_it_is_for(path):
    for parameter in COMMANDS[path].params:
        assert parameter.help or parameter.name == "help", parameter.name


def test_the_commands_stand_in_the_order_of_the_work(rft3d):
    shown = rft3d("--help").out
    places = [shown.index(f"│ {name} ") for name in cli.ORDER if name in ROOT.commands]
    assert places == sorted(places)
    assert set(ROOT.commands) <= set(cli.ORDER)


def test_the_help_says_the_exit_codes_and_where_debug_stands(rft3d):
    words = " ".join(rft3d("--help").out.replace("│", " ").split())
    for meaning in ("0 ok", "1 failed", "2 usage", "3 data", "4 environment", "5 below threshold", "130 interrupted"):
        assert meaning in words
    assert "Show tracebacks; stands before the command" in words


def test_the_version(rft3d):
    shown = rft3d("--version")
    assert (shown.code, shown.out, shown.err) == (0, f"rft3d {__version__}\n", "")


# ---- What help costs


def python(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, **options)


def test_help_version_and_wrong_words_import_nothing_heavy():
    # Typer itself takes pydantic to read any word that is not an option.
    light = [["--help"], ["-h"], ["--version"], []]
    lines = light + [[*path, "--help"] for path in COMMANDS] + [["nothing-like-it"], ["infer"]]
    code = f"""
import contextlib, io, sys
from rft3d_cli.cli import main
for words in {lines!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(words)
        except SystemExit:
            pass
    heavy = {HEAVY!r} + (("pydantic",) if words in {light!r} else ())
    loaded = [name for name in heavy if name in sys.modules]
    assert not loaded, (words, loaded)
print("ran", {len(lines)})
"""
    found = python("-c", code)
    assert (found.returncode, found.stdout) == (0, f"ran {len(lines)}\n"), found.stderr


def test_a_command_reads_its_parameters_when_they_are_asked_for():
    fresh = dict(walk(typer.main.get_command(cli.app)))
    assert not any("params" in vars(fresh[path]) for path in LEAVES)
    for path in LEAVES:
        assert fresh[path].name == path[-1]
        assert fresh[path].help
        assert [parameter.name for parameter in fresh[path].params], path
        assert "params" in vars(fresh[path])
    with pytest.raises(AttributeError):
        fresh[LEAVES[0]].no_such_thing  # noqa: B018


def seconds(*words: str) -> float:
    """The processor time of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert python(*words, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


BARE = """
import typer
app = typer.Typer(rich_markup_mode="rich")
app.callback()(lambda: None)
app.command("one")(lambda: None)
app(["--help"])
"""


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_answer_at_once(word):
    ours = ("-m", "rft3d_cli", word)
    # 0.4 s on an ordinary machine; what a busy one adds to one run does not count.
    if any(seconds(*ours) < 0.4 for _ in range(3)):
        return
    # On a slow or crowded one, beside what Typer alone takes there, in turn.
    shares = [seconds(*ours) / seconds("-c", BARE) for _ in range(7)]
    assert statistics.median(shares) < 2.5, shares


# ---- Wrong words


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        pytest.param("evaluat", "No such command 'evaluat'. Did you mean 'evaluate'?", "rft3d --help", id="command"),
        pytest.param("recipes shw", "No such command 'shw'. Did you mean 'show'?", "rft3d recipes --help", id="inner"),
        pytest.param("infer", "Missing argument 'VIDEO'", "rft3d infer --help", id="no argument"),
        pytest.param("infer a.mp4", "Invalid value for 'QUESTION...'", "rft3d infer --help", id="half the arguments"),
        pytest.param(
            "doctor now", "Got unexpected extra argument(s) (now)", "rft3d doctor --help", id="an argument too many"
        ),
        pytest.param("sft", "Missing option '--recipe' / '-r'", "rft3d sft --help", id="no option"),
        pytest.param("sft -r x --ot y", "No such option: --ot", "rft3d sft --help", id="option"),
        pytest.param(
            "evaluate detection --limit", "Option '--limit' requires an argument", "rft3d evaluate detection --help",
            id="no value",
        ),
        pytest.param(
            "evaluate detection --limit many", "Invalid value for '--limit'", "rft3d evaluate detection --help",
            id="wrong type",
        ),
        pytest.param(
            "evaluate detection --limit 0", "Invalid value for '--limit'", "rft3d evaluate detection --help",
            id="out of range",
        ),
        pytest.param(
            "evaluate detection --scorer offical", "'offical' is not one of 'official', 'robust'",
            "rft3d evaluate detection --help", id="wrong choice",
        ),
        pytest.param(
            "recipes list --debug", "No such option: --debug", "--debug stands before the command: rft3d --debug ...",
            id="late debug",
        ),
    ],
)  # fmt: skip
def test_a_wrong_word_is_one_line_and_a_hint(rft3d, line, message, hint):
    shown = rft3d(*line.split())
    assert (shown.code, shown.out) == (2, "")
    assert len(shown.errors) == 1
    assert message in shown.errors[0]
    assert shown.hint == hint
    assert "Traceback" not in shown.err


# ---- What went wrong, and where


def fail(error: BaseException):
    def failing(*args: object, **kwargs: object) -> None:
        raise error

    return failing


def test_what_nobody_foresaw_is_one_line_too(rft3d, monkeypatch):
    monkeypatch.setattr("rft3d_cli.recipe.shipped_recipes", fail(RuntimeError("the disk is on fire\nsecond line")))
    shown = rft3d("recipes", "list")
    assert (shown.code, shown.out) == (1, "")
    assert shown.errors == ["RuntimeError: the disk is on fire"]
    assert "rft3d --debug" in shown.hint
    assert "Traceback" not in shown.err


def test_debug_shows_where_a_known_error_comes_from(rft3d):
    shown = rft3d("--debug", "recipes", "show", "dett")
    assert shown.code == 2
    assert "in find_recipe" in shown.err
    assert len(shown.errors) == 1
    assert "det" in shown.hint


def test_debug_lets_an_unknown_error_through(rft3d, monkeypatch):
    monkeypatch.setattr("rft3d_cli.recipe.shipped_recipes", fail(RuntimeError("the disk is on fire")))
    monkeypatch.setenv("RFT3D_DEBUG", "1")
    with pytest.raises(RuntimeError, match="on fire"):
        cli.main(["recipes", "list"])


def test_an_interrupted_command_ends_with_130(rft3d, monkeypatch):
    monkeypatch.setattr("rft3d_cli.recipe.shipped_recipes", fail(KeyboardInterrupt()))
    shown = rft3d("recipes", "list")
    assert shown.code == 130
    assert "Traceback" not in shown.err


def test_a_reader_that_stops_reading_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        found = subprocess.run(
            [sys.executable, "-m", "rft3d_cli", "recipes", "list"], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert "Traceback" not in found.stderr
    assert "error" not in found.stderr


# ---- The four lines that must work as typed


@pytest.mark.parametrize(
    ("words", "following"),
    [
        pytest.param(["prepare", "scannet"], "rft3d prepare rooms --out data/rooms", id="prepare"),
        pytest.param(["grpo", "--recipe", "det.yaml"], "rft3d prepare", id="grpo"),
        pytest.param(
            ["evaluate", "vsibench"], "rft3d prepare vsibench --out data/vsibench.jsonl", id="evaluate"
        ),
        pytest.param(["infer", "video.mp4", "where is the chair"], "name a video file", id="infer"),
    ],
)  # fmt: skip
def test_what_a_line_typed_in_an_empty_folder_lacks_is_said(rft3d, tmp_path: Path, words, following):
    shown = rft3d(*words)
    assert (shown.code, shown.out) == (3, "")
    assert shown.errors
    assert following in shown.hint
    assert not any(tmp_path.iterdir())
