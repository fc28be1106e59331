from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main

from rft3d_cli import records as records_module
from rft3d_cli.answers.target import target_answer
from rft3d_cli.benchmarks.registry import BENCHMARKS, select
from rft3d_cli.cli import app
from rft3d_cli.errors import Rft3dError
from rft3d_cli.geometry.iou import paired_iou
from rft3d_cli.prompts import detection_prompt, grounding_prompt, vsibench_prompt
from rft3d_cli.recipe import load_recipe, shipped_recipes
from rft3d_cli.records import Record, parse_record, read_predictions, read_records, write_records
from rft3d_cli.rewards import RewardSet, load, names
from rft3d_cli.rewards.grounding import to_world
from rft3d_cli.show.answer import read_camera

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
RECORDS = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Fence:
    language: str
    text: str


def fences(text: str) -> list[Fence]:
    """Fenced blocks; a fence inside a line, as JSON examples have them, is text."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", text, re.MULTILINE | re.DOTALL)
    return [Fence(language, body) for language, body in found]


def blocks(text: str, language: str) -> list[str]:
    return [fence.text for fence in fences(text) if fence.language == language]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# Commands -------------------------------------------------------------------------------------------------------------


def is_rft3d(words: list[str], at: int) -> bool:
    return Path(words[at]).name == "rft3d" or (words[at] == "rft3d_cli" and at > 0 and words[at - 1] == "-m")


def arguments(words: list[str]) -> list[str] | None:
    """What follows ``rft3d`` (or ``-m rft3d_cli``) up to the shell's next word; None for another command."""
    end = next((i for i, word in enumerate(words) if re.fullmatch(r"[0-9]?>+|\||\|\||&&|;", word)), len(words))
    start = next((i for i in range(end) if is_rft3d(words, i)), None)
    if start is None or any(not re.match(r"[A-Z_]+=|accelerate$|launch$|-m$|python3?$|-", w) for w in words[:start]):
        return None
    return words[start + 1 : end]


def shell_commands(text: str) -> Iterator[list[str]]:
    for fence in fences(text):
        if fence.language not in ("", "bash", "sh", "shell", "console"):
            continue
        for line in fence.text.replace("\\\n", " ").splitlines():
            if "rft3d" not in line:
                continue
            words = arguments(shlex.split(line.strip().removeprefix("$ "), comments=True))
            if words is not None:
                yield words


def quoted_commands(text: str) -> Iterator[list[str]]:
    """Commands in running text; ``…`` ends one."""
    for code in re.findall(r"`(rft3d [^`\n]+)`", prose(text)):
        yield shlex.split(code.partition("…")[0])[1:]


@cache
def root_command() -> Any:
    return typer.main.get_command(app)


def find(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words after it."""
    command, rest = root_command(), list(words)
    flags = {name for parameter in command.params for name in parameter.opts}
    while rest and rest[0] in flags:
        rest.pop(0)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"no command {rest[0]!r} in {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    return command, rest


def known_options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def parse(words: list[str]) -> None:
    """Parse a command line down to its values, and its recipe and overrides where it names a shipped one."""
    command, rest = find(words)
    if {"-h", "--help"} & {*rest}:
        return
    if hasattr(command, "commands"):
        assert not rest, f"no option {rest[0]}"
        return
    values = command.make_context("rft3d", rest).params
    if values.get("recipe") is not None:
        stage = words[0] if words[0] in ("sft", "grpo") else None
        name = values["recipe"]
        assert name in shipped_recipes() or name.endswith(".yaml"), name
        if name in shipped_recipes():
            load_recipe(name, values["overrides"] or (), stage=stage)


WRONG = (typer.TyperException, AssertionError, Rft3dError)
CASES = [pytest.param(page, id=page_id(page)) for page in PAGES]


@pytest.mark.parametrize("page", CASES)
def test_every_command_of_a_fenced_block_parses(page: Path) -> None:
    for words in shell_commands(page.read_text(encoding="utf-8")):
        try:
            parse(words)
        except WRONG as error:
            pytest.fail(f"rft3d {shlex.join(words)}: {error}")


@pytest.mark.parametrize("page", CASES)
def test_every_command_in_running_text_exists_with_its_options(page: Path) -> None:
    for words in quoted_commands(page.read_text(encoding="utf-8")):
        command, rest = find(words)
        unknown = {word.partition("=")[0] for word in rest if word.startswith("-")} - known_options(command)
        assert unknown <= {"--help", "-h"}, f"rft3d {shlex.join(words)}"


@pytest.mark.parametrize("page", CASES)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`make (\w+)`", text))
    for fence in fences(text):
        named |= set(re.findall(r"^make (\w+)", fence.text, re.MULTILINE))
    assert named <= targets


def test_commands_are_found_however_they_are_written() -> None:
    text = "\n".join(
        (
            "```bash",
            "$ rft3d infer clip.mp4 'where is it' --quiet   # a comment",
            "rft3d prepare rooms \\",
            "    --out a > log 2> errors",
            "HF_HUB_OFFLINE=1 .venv/bin/rft3d recipes list | head -n 3",
            "accelerate launch -m rft3d_cli grpo --recipe det",
            "pip install rft3d",
            "```",
            "```text",
            "rft3d dance",
            "```",
            "Then `rft3d evaluate vsibench --data … --json` and `rft3d.json`.",
        )
    )
    assert list(shell_commands(text)) == [
        ["infer", "clip.mp4", "where is it", "--quiet"],
        ["prepare", "rooms", "--out", "a"],
        ["recipes", "list"],
        ["grpo", "--recipe", "det"],
    ]
    assert list(quoted_commands(text)) == [["evaluate", "vsibench", "--data"]]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("rft3d prepare room", id="unknown sub-command"),
        pytest.param("rft3d --verbose", id="unknown option of rft3d"),
        pytest.param("rft3d evaluate vsibench --data a.jsonl --scorers robust", id="unknown option"),
        pytest.param("rft3d evaluate vsibench --data a.jsonl --scorer strict", id="unknown value"),
        pytest.param("rft3d infer clip.mp4", id="argument missing"),
        pytest.param("HF_HUB_OFFLINE=1 rft3d grpo --recipe dett", id="unknown recipe"),
        pytest.param("accelerate launch -m rft3d_cli grpo --recipe det train.rl=1e-6 > log", id="unknown key"),
    ],
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    words = arguments(shlex.split(line))
    assert words
    with pytest.raises(WRONG):
        parse(words)


# Links ----------------------------------------------------------------------------------------------------------------


def slugs(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ +(.+?) *$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", CASES)
def test_relative_links_point_to_files_that_are_there(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", place):
            continue
        target = (page.parent / place) if place else page
        assert target.exists(), f"{page_id(page)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in slugs(target.read_text(encoding="utf-8")), f"{page_id(page)} links to {link}"


# docs/records.md ------------------------------------------------------------------------------------------------------

JSON = [json.loads(text) for text in blocks(RECORDS, "json")]
EXAMPLES = {item["task"]: item for item in JSON if "task" in item}


def example(task: str, **changes: object) -> Record:
    return parse_record(json.dumps({**EXAMPLES[task], **changes}))


def test_there_is_an_example_of_every_task_and_every_json_block_is_known() -> None:
    assert set(EXAMPLES) == set(records_module.TASKS)
    others = [item for item in JSON if "task" not in item]
    assert [set(item) for item in others] == [{"intrinsic", "image_size", "cam_to_world"}]


@pytest.mark.parametrize("task", records_module.TASKS)
def test_an_example_is_a_valid_record_that_survives_writing(task: str, tmp_path: Path) -> None:
    record = example(task)
    write_records(tmp_path / "r.jsonl", [record])
    assert read_records(tmp_path / "r.jsonl").records == [record]


@pytest.mark.parametrize("task", ["detection", "grounding", "choice", "number"])
def test_the_target_of_an_example_earns_every_reward_of_its_task(task: str) -> None:
    record = example(task, answer=None)
    rewards = RewardSet(dict.fromkeys(names(task), 1.0), {"answer_style": "direct"})
    scores = rewards.score(target_answer(record, None), record)
    assert set(scores) == set(names(task))
    # The boxes of the page are rounded to four digits.
    assert {name: score.value for name, score in scores.items()} == pytest.approx(dict.fromkeys(scores, 1.0), abs=1e-3)


def test_the_examples_ask_in_the_words_of_the_prompts_module() -> None:
    assert example("detection").prompt == detection_prompt(2)
    assert example("grounding").prompt == grounding_prompt("The chair by the window.", 2)
    assert example("choice").prompt == vsibench_prompt(
        "Which object is closest to the door?", EXAMPLES["choice"]["target"]["options"]
    )
    assert example("number").prompt == vsibench_prompt("How far is the chair from the table, in meters?", None)


def test_both_boxes_of_the_grounding_example_are_one_and_its_answer_is_its_target() -> None:
    record = example("grounding")
    target: Any = record.target
    assert record.camera is not None
    placed = to_world(target.bbox_3d, target.frame, record.camera)
    assert paired_iou(placed[None], np.array([target.bbox_world]))[0] == pytest.approx(1, abs=1e-3)
    assert record.answer == target_answer(example("grounding", answer=None))


def test_the_python_example_writes_the_detection_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(RECORDS, "python")
    exec(compile(code, "records.md", "exec"), {})
    (record,) = read_records("mine.jsonl").records
    written, shown = json.loads(record.to_json()), json.loads(example("detection").to_json())
    (own,), (theirs,) = written["target"].pop("boxes"), shown["target"].pop("boxes")
    assert own["bbox_3d"] == pytest.approx(theirs["bbox_3d"], abs=1e-4)
    assert written == shown


def test_the_predictions_are_right_answers_to_the_examples_under_both_scorers(tmp_path: Path) -> None:
    (text,) = blocks(RECORDS, "jsonl")
    (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
    found = read_predictions(tmp_path / "p.jsonl")
    everything = [example(task) for task in records_module.TASKS]
    assert set(found) == {record.id for record in everything if record.task != "text"}
    for name, benchmark in BENCHMARKS.items():
        if "text" in benchmark.tasks:
            continue  # the example of free text belongs to no benchmark
        chosen = select(name, everything, tmp_path)
        assert {record.task for record in chosen} == set(benchmark.tasks)
        for scorer in ("official", "robust"):
            details = benchmark.score(chosen, found, scorer=scorer).details
            assert [detail["score"] > 0.9 for detail in details] == [True] * len(chosen), (name, scorer, details)


def test_the_camera_file_is_read(tmp_path: Path) -> None:
    (camera,) = [item for item in JSON if "task" not in item]
    (tmp_path / "clip.camera.json").write_text(json.dumps(camera), encoding="utf-8")
    known = read_camera(tmp_path / "clip.mp4", (1296, 968), file=None, fov=None)
    assert (known.source, known.intrinsic.tolist()) == ("file", camera["intrinsic"])
    assert known.poses is not None
    assert known.poses.tolist() == camera["cam_to_world"]


@pytest.mark.parametrize(
    "model",
    ["Record", "FrameList", "Clip", "Camera", "Meta", "LabelledBox", "DetectionTarget", "GroundingTarget",
     "ChoiceTarget", "NumberTarget", "TextTarget"],
)  # fmt: skip
def test_every_field_of_the_format_is_explained(model: str) -> None:
    fields = getattr(records_module, model).model_fields
    for name, field in fields.items():
        assert re.search(rf"`(target\.)?{field.alias or name}`", prose(RECORDS)), name


def test_the_errors_that_the_page_shows_are_those_that_come(tmp_path: Path) -> None:
    (shown,) = (block for block in blocks(RECORDS, "text") if "mine.jsonl line" in block)
    good = EXAMPLES["detection"]
    negative = [*good["target"]["boxes"][0]["bbox_3d"][:3], -1, 1, 1, 0, 0, 0]
    rows = [
        good,
        {key: value for key, value in good.items() if key != "id"},
        {**good, "id": "a", "colour": "red"},
        {**good, "id": "b", "target": None},
        {**good, "id": "c", "target": {"boxes": [{"label": "chair", "bbox_3d": negative}]}},
        {**good, "id": "d", "video": {**good["video"], "times": [0, 1, 2]}},
        good,
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = read_records(path, quarantine=True)
    assert [f"mine.jsonl line {reject.line}: {reject.reason}" for reject in source.rejects] == shown.splitlines()


# CONTRIBUTING.md ------------------------------------------------------------------------------------------------------


def house() -> list[list[str]]:
    """The parts of the package as CONTRIBUTING lists them, from top to bottom."""
    (text,) = (block for block in blocks(CONTRIBUTING, "text") if "commands/" in block)
    lines = [re.match(r"((?:[\w*]+(?:\.py|/) ?)+)", line) for line in text.splitlines()]
    return [[re.sub(r"\.py$|/$", "", part) for part in line.group(1).split()] for line in lines if line]


def part_of(module: str) -> str:
    name = module.split(".")[1]
    return {"__main__": "cli", "_video_images": "video", "_video_plan": "video"}.get(
        name, "recipe*" if name.startswith("recipe") else name
    )


def test_arrows_point_down_as_contributing_says() -> None:
    level = {part: number for number, line in enumerate(house()) for part in line}
    package = ROOT / "rft3d_cli"
    for path in sorted(package.rglob("*.py")):
        module = ".".join(("rft3d_cli", *path.relative_to(package).with_suffix("").parts))
        if module == "rft3d_cli.__init__":
            continue
        here = part_of(module)
        assert here in level, f"{here} is missing from the house"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            wanted: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted = [f"{node.module}.{item.name}" for item in node.names]
            elif isinstance(node, ast.Import):
                wanted = [item.name for item in node.names]
            for name in wanted:
                if name.startswith("rft3d_cli.") and name != "rft3d_cli.__version__" and part_of(name) != here:
                    assert level[part_of(name)] > level[here], f"{module} imports {name}"


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of a module and methods of its classes, without what starts with an underscore and properties."""
    for node in tree.body:
        inside = node.body if isinstance(node, ast.ClassDef) else []
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for item in [*inside, node]:
            if not isinstance(item, ast.FunctionDef) or f".{prefix}{item.name}".count("._"):
                continue
            if not any("property" in ast.unparse(decorator) for decorator in item.decorator_list):
                yield (prefix if item is not node else "") + item.name, item


@pytest.mark.parametrize("part", ["geometry", "answers", "rewards", "benchmarks"])
def test_every_public_function_of_the_core_shows_an_example_and_names_its_errors(part: str) -> None:
    for path in sorted((ROOT / "rft3d_cli" / part).glob("[!_]*.py")):
        for name, function in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
            said = ast.get_docstring(function) or ""
            assert ">>> " in said, f"{path.name}: {name} has no example"
            raised = {
                node.exc.func.id
                for node in ast.walk(function)
                if isinstance(node, ast.Raise)
                and isinstance(node.exc, ast.Call)
                and isinstance(node.exc.func, ast.Name)
            }
            missing = [error for error in raised if f"{error}:" not in said]
            assert not missing, f"{path.name}: {name} raises {missing[0]} and does not say so"


def test_the_house_has_no_room_that_is_not_there() -> None:
    for part in (part for line in house() for part in line):
        assert any((ROOT / "rft3d_cli").glob(part if "*" in part else f"{part}*")), part


def test_files_that_contributing_and_security_name_are_there() -> None:
    places = r"`((?:rft3d_cli|tests|bench|recipes|docs|assets|\.ci)/[\w./-]*)`"
    for page in (CONTRIBUTING, SECURITY):
        for name in re.findall(places, prose(page)):
            path = ROOT / name
            # NAME stands for what a contributor adds; its folder is there, and files of the pattern too.
            assert any(path.parent.glob(path.name.replace("NAME", "*"))), name


def test_the_reward_of_contributing_is_a_reward(tmp_path: Path) -> None:
    (code,) = blocks(CONTRIBUTING, "python")
    path = tmp_path / "mine.py"
    path.write_text(code, encoding="utf-8")
    (name,) = re.findall(r"^def (\w+)", code, re.MULTILINE)
    mine = load(f"{path}:{name}")
    record = example("detection", answer=None)
    values = [mine(text, record) for text in (target_answer(record), "nothing", "[]")]
    assert [score and score.value for score in values] == [1.0, 0.0, 0.0]
    assert mine("B", example("choice")) is None
