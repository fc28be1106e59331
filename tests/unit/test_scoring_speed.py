from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

COUNTS = {
    "object_counting": 565,
    "object_abs_distance": 834,
    "object_size_estimation": 953,
    "room_size_estimation": 288,
    "object_rel_distance": 710,
    "object_rel_direction_easy": 217,
    "object_rel_direction_medium": 378,
    "object_rel_direction_hard": 373,
    "route_planning": 194,
    "obj_appearance_order": 618,
}
HEAVY = {"torch", "transformers", "trl", "scipy", "av", "PIL", "pandas", "datasets", "huggingface_hub"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("vsi")
    data, answers = folder / "test.jsonl", folder / "answers.jsonl"
    draw = random.Random(0)
    with data.open("w", encoding="utf-8") as questions, answers.open("w", encoding="utf-8") as said:
        for index, kind in enumerate(kind for kind, count in COUNTS.items() for _ in range(count)):
            numeric = index < 2640
            row = {"id": index, "dataset": "scannet", "scene_name": f"scene{index % 288:04d}_00", "question_type": kind}
            row |= {
                "question": "Which of these is the closest?",
                "ground_truth": draw.choice("2345" if numeric else "ABCD"),
            }
            row |= {"options": None if numeric else [f"{letter}. {draw.choice(list(COUNTS))}" for letter in "ABCD"]}
            questions.write(json.dumps({**row, "pruned": draw.random() < 0.5}) + "\n")
            text = draw.choice(["2", "3.5", "A", "B", "(C)", "The answer is D.", "four", "about 3 m"])
            said.write(json.dumps({"id": index, "prediction": text}) + "\n")
    return data, answers


def loaded(code: str, *args: object) -> set[str]:
    """The modules that are there when some code has run."""
    whole = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    command = [sys.executable, "-c", whole, *map(str, args)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stderr.split())


READ = """
import sys
from pathlib import Path
from rft3d_cli.lines import read_predictions
from rft3d_cli.prepare.vsibench_questions import is_published, published_questions
data, answers = map(Path, sys.argv[1:])
assert is_published(data)
found, said = published_questions(data), read_predictions(answers)
assert len(found.records) == len(said) == 5130
"""
SCORE = "from rft3d_cli.benchmarks.vsibench import score\n"


def test_published_questions_are_read_without_numpy_and_pydantic(files: tuple[Path, Path]) -> None:
    assert not (HEAVY | {"numpy", "pydantic", "typer", "rich"}) & loaded(READ, *files)


def test_the_official_score_alone_needs_no_numpy(files: tuple[Path, Path]) -> None:
    code = READ + SCORE + "assert score(found.records, said, intervals=False).document['n'] == 5130\n"
    assert not (HEAVY | {"numpy", "pydantic", "typer", "rich"}) & loaded(code, *files)


def test_intervals_and_the_robust_scorer_need_nothing_but_numpy(files: tuple[Path, Path]) -> None:
    code = READ + SCORE + "score(found.records, said)\nscore(found.records, said, scorer='robust')\n"
    assert not (HEAVY | {"typer", "rich"}) & loaded(code, *files)


def cpu(*words: object) -> float:
    """The least processor time of the command line in three runs, seconds."""
    times = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "rft3d_cli", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        times.append(used.ru_utime + used.ru_stime)
    return min(times)


def test_scoring_the_whole_benchmark_costs_little_more_than_the_help(files: tuple[Path, Path]) -> None:
    help_ = cpu("--help")
    command = ("evaluate", "vsibench", "--data", files[0], "--predictions", files[1])
    assert cpu(*command, "--brief") < 4 * help_
    assert cpu(*command) < 6 * help_
