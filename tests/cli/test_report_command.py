from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_runs_made import grpo_row, make_run

COLUMNS = "run  stage  steps     reward or loss      best held out  last held out  a step"


@pytest.fixture
def det(rft3d, tmp_path: Path) -> Path:
    """A run's folder, named from where commands run."""
    make_run(tmp_path / "runs" / "det")
    return Path("runs/det")


def test_a_run_is_shown_and_its_page_lies_in_its_folder(rft3d, det):
    shown = rft3d("report", det)
    assert shown.code == 0, shown.err
    head, row, wrote = shown.out.splitlines()
    assert head.split() == COLUMNS.split()
    assert row.split()[:6] == ["det", "grpo", "40", "of", "40", "reward"]
    assert "f1 0.5 at 20" in row
    assert wrote == "  wrote    runs/det/report.html"
    assert (det / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "warning: det: Held-out f1 was best at step 20 (0.5) and is 0.42 at step 40" in shown.err


def test_several_runs_share_a_page_and_pictures(rft3d, tmp_path):
    rows = [{"step": step, "eval/f1": step / 9, "reward": 1.0} for step in range(9)]
    for name in ("one", "other"):
        make_run(tmp_path / "runs" / name, rows)
    shown = rft3d("report", "runs/one", "runs/other", "--png", "figures")
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[-2] == "  wrote    report.html"
    names = sorted(path.name for path in Path("figures").iterdir())
    assert {*names} == {"overview.png", "reward.png", "held-out-f1.png"}
    assert shown.out.splitlines()[-1] == "  wrote    figures/overview.png and 2 charts beside it"


def test_the_document_has_the_numbers(rft3d, det, tmp_path):
    make_run(tmp_path / "runs" / "other", steps=20, lr="2e-6", finished=False)
    document = rft3d("report", det, "runs/other", "--out", "page.html", "--json").document
    assert document["schema"] == 1
    assert document["files"] == ["page.html"]
    assert document["differences"]["train.lr"] == {"det": "1e-5", "other": "2e-6"}
    one, two = document["runs"]
    assert (one["name"], one["steps"], one["finished"], one["best"]["step"]) == ("det", 40, True, 20)
    assert (two["name"], two["steps"], two["planned"], two["finished"]) == ("other", 20, 20, False)
    assert set(one["metrics"]["reward"]) == {"n", "start", "end", "min", "max"}


def test_quiet_prints_the_path_alone(rft3d, det):
    shown = rft3d("report", det, "-q", "--out", "a/b.html")
    assert (shown.code, shown.out) == (0, "a/b.html\n")
    assert Path("a/b.html").is_file()


def test_a_run_that_is_still_going_on_is_shown(rft3d, det):
    with (det / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 41, "rew')
    (det / "run.json").write_text(json.dumps({"schema": 1}), encoding="utf-8")
    shown = rft3d("report", det)
    assert shown.code == 0, shown.err
    assert "40 of 40, not finished" in shown.out


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        pytest.param(["nowhere"], "nowhere does not exist", "name the folder of a run", id="nothing there"),
        pytest.param(["runs"], "runs is not the folder of a run: it has no metrics.jsonl", "rft3d report runs/det",
                     id="a folder of runs"),
        pytest.param(["runs/det/recipe.yaml"], "runs/det/recipe.yaml is not the folder of a run", "name the folder",
                     id="a file"),
        pytest.param(["runs/empty"], "runs/empty has not logged a step yet", "repeat this", id="no steps"),
        pytest.param(["runs/det", "nowhere"], "nowhere does not exist", "name the folder", id="one of two"),
        pytest.param(["runs/det", "--out", "runs"], "runs is a folder, where a file would be written", "",
                     id="a folder as page"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_said_in_a_line(rft3d, det, tmp_path, words, message, hint):
    make_run(tmp_path / "runs" / "empty", [])
    shown = rft3d("report", *words)
    assert shown.code == 3
    assert shown.errors == [message]
    assert hint in shown.hint
    assert shown.out == ""


def test_json_and_quiet_exclude_each_other(rft3d, det):
    assert rft3d("report", det, "--json", "-q").code == 2
    assert not (det / "report.html").exists()


def test_no_answers_on_request(rft3d, det):
    (det / "completions.jsonl").write_text(
        json.dumps({"step": 1, "id": "a", "prediction": "said", "score": 0.5, "why": ""}) + "\n", encoding="utf-8"
    )
    assert rft3d("report", det, "--json").document["samples"] == {"det": ["a"]}
    assert rft3d("report", det, "-n", "0", "--json").document["samples"] == {"det": []}
    assert "said" not in (det / "report.html").read_text(encoding="utf-8")


def test_what_went_wrong_is_warned_of(rft3d, tmp_path):
    make_run(tmp_path / "bad", [grpo_row(step, loss=None) for step in range(1, 4)])
    assert "warning: bad: loss was not a number at 3 steps, first at step 1\n" in rft3d("report", "bad").err
