from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from report_runs_made import grpo_row, held_out_row, lines, make_run

from rft3d_cli.errors import DataError
from rft3d_cli.show.report_numbers import RAW, SMOOTH, best_of, mean_iou, observations, smoothed, summary, thinned
from rft3d_cli.show.report_page import cells
from rft3d_cli.show.report_runs import Curve, differences, distinct_names, read_run, read_runs


def test_a_run_is_read(tmp_path):
    run = read_run(make_run(tmp_path / "det"))
    assert (run.name, run.stage, run.steps, run.planned, run.finished, run.metric) == (
        "det",
        "grpo",
        40,
        40,
        True,
        "f1",
    )
    reward = run.curve("reward")
    assert reward.steps.tolist() == list(range(1, 41))
    assert reward.values[-1] == pytest.approx(grpo_row(40)["reward"])
    assert run.curve("eval/f1").steps.tolist() == [10, 20, 30, 40]
    assert run.notes == []


def test_half_a_last_line_is_a_run_that_goes_on(tmp_path):
    run = make_run(tmp_path / "det", [grpo_row(1), grpo_row(2)], finished=False)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 3, "reward": 1.2, "rewa')
    found = read_run(run)
    assert (found.steps, found.notes, found.finished) == (2, [], False)


def test_wrong_lines_are_counted_and_left_out(tmp_path):
    run = make_run(tmp_path / "det", [grpo_row(1)])
    with (run / "metrics.jsonl").open("ab") as stream:
        stream.write(b'not json\n[1]\n{"step": null, "reward": 9}\n\xff\xfe\n{"step": 2, "reward": 5}\n')
    found = read_run(run)
    assert found.curve("reward").values.tolist()[1:] == [5]
    assert found.notes == ["metrics.jsonl: 3 lines could not be read and are left out"]


def test_one_wrong_line_is_told_as_one(tmp_path):
    run = make_run(tmp_path / "det", [grpo_row(1)])
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('not json\n{"step": 2, "reward": 5}\n')
    assert read_run(run).notes == ["metrics.jsonl: 1 line could not be read and is left out"]


def test_a_run_that_ended_itself_says_why(tmp_path):
    run = make_run(tmp_path / "det", finished=False)
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**about, "stopped": "nothing was learnt"}), encoding="utf-8")
    found = read_run(run)
    assert found.stopped == "nothing was learnt"
    assert "The run ended itself: nothing was learnt." in observations(found)
    assert cells(summary(found))[1] == "40 of 40, ended itself"


def test_what_is_no_number_is_left_out_and_told(tmp_path):
    rows = [grpo_row(step, loss=None if step in (3, 4) else 0.1) for step in range(1, 6)]
    run = make_run(tmp_path / "det", rows)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 6, "loss": NaN, "kl": Infinity, "text": "x", "flag": true, "big": 1' + "0" * 400 + "}\n")
    found = read_run(run)
    assert found.curve("loss").steps.tolist() == [1, 2, 5]
    assert found.lost["loss"] == (3, 3)
    assert not {"text", "flag", "big"} & {*found.curves}
    told = list(observations(found))
    assert told[:2] == [
        "loss was not a number at 3 steps, first at step 3.",
        "kl was not a number at 1 step, first at step 6.",
    ]


def test_a_step_that_was_made_twice_counts_once_and_as_it_was_last(tmp_path):
    rows = [{"step": s, "reward": v} for s, v in [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.9), (4, 0.4)]]
    curve = read_run(make_run(tmp_path / "det", rows)).curve("reward")
    assert curve.steps.tolist() == [1, 2, 3, 4]
    assert curve.values.tolist() == [0.1, 0.9, 0.3, 0.4]


def test_damaged_side_files_cost_a_note_only(tmp_path):
    run = make_run(tmp_path / "det")
    (run / "run.json").write_text("{", encoding="utf-8")
    (run / "best.json").write_text("[]", encoding="utf-8")
    (run / "recipe.yaml").write_text("a: &x 1\nb: *x\n", encoding="utf-8")
    found = read_run(run)
    assert found.stage == "grpo"
    assert [note.partition(" ")[0] for note in found.notes] == ["run.json", "best.json", "recipe.yaml:"]
    assert summary(found)["steps"] == 40


def test_metrics_alone_are_enough(tmp_path):
    (tmp_path / "bare").mkdir()
    lines(tmp_path / "bare" / "metrics.jsonl", [{"step": 1, "loss": 2.0}])
    assert summary(read_run(tmp_path / "bare"))["stage"] == "sft"


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        pytest.param(lambda p: None, "does not exist", "name the folder of a run", id="nothing there"),
        pytest.param(
            lambda p: p.write_text("x"), "is not the folder of a run", "name the folder of a run", id="a file"
        ),
        pytest.param(lambda p: p.mkdir(), "it has no metrics.jsonl", "name the folder of a run", id="an empty folder"),
        pytest.param(
            lambda p: make_run(p / "inner"), "it has no metrics.jsonl", "rft3d report ", id="a folder of runs"
        ),
        pytest.param(lambda p: make_run(p, []), "has not logged a step yet", "repeat this", id="no steps yet"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path, make, message, hint):
    path = tmp_path / "run"
    make(path)
    with pytest.raises(DataError) as caught:
        read_runs([path])
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint
    if "rft3d report" in hint:
        assert str(path / "inner") in caught.value.hint


def test_a_run_without_steps_beside_others_is_left_out_with_a_note(tmp_path):
    runs = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", [])])
    assert [run.name for run in runs] == ["a"]
    assert "b has not logged a step yet" in runs[0].notes[0]


def test_runs_have_names_that_differ_and_each_is_read_once(tmp_path, monkeypatch):
    for parent in ("one", "two"):
        make_run(tmp_path / parent / "det")
    make_run(tmp_path / "one" / "mix")
    monkeypatch.chdir(tmp_path / "one")
    runs = read_runs([Path("det"), tmp_path / "one" / "det", Path("../two/det"), Path("mix/metrics.jsonl")])
    assert [run.name for run in runs] == ["one/det", "two/det", "mix"]


def test_a_name_that_is_the_end_of_another_is_told_apart():
    assert distinct_names([Path("/r/a/det"), Path("/r/det")]) == ["a/det", "r/det"]


def test_recipes_are_compared(tmp_path):
    runs = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", lr="2e-6")])
    assert differences(runs) == [("train.lr", ["1e-5", "2e-6"])]


def test_a_key_that_only_one_recipe_knows_is_no_difference_unless_it_is_a_reward(tmp_path):
    runs = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b")])
    runs[0].recipe |= {"rollout.group": "8", "rewards.det_f1": "1.0"}
    assert differences(runs) == [("rewards.det_f1", ["1.0", "–"])]


# ---- Numbers


def curve(values) -> Curve:
    return Curve(np.arange(1.0, len(values) + 1), np.array(values, dtype=float))


def test_thinning_keeps_ends_and_extremes():
    values = np.sin(np.arange(20000) / 50)
    values[777], values[15001] = 9, -9
    found = thinned(curve(values))
    assert len(found) <= RAW + 2
    assert (found.values.max(), found.values.min()) == (9, -9)
    assert (found.steps[0], found.steps[-1]) == (1, 20000)
    assert (np.diff(found.steps) > 0).all()


@pytest.mark.parametrize("count", [1, 5, 9, 10, 60, 1000, 30000])
def test_smoothing_keeps_the_span_and_lessens_noise(count):
    noise = np.random.default_rng(0).normal(size=count)
    found = smoothed(curve(3 + noise))
    assert (found.steps[0], found.steps[-1]) == (1, count)
    assert len(found) <= max(9, SMOOTH)
    if count >= 60:
        assert found.values.std() < 0.6 * noise.std()
        assert found.values.mean() == pytest.approx(3, abs=0.3)


def test_a_moving_mean_is_the_mean_of_its_window():
    values = [float(v) for v in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8)]
    found = smoothed(curve(values))
    assert found.values[5] == pytest.approx(sum(values[3:8]) / 5)
    assert found.values[0] == pytest.approx(sum(values[:3]) / 3)


def test_a_median_passes_over_a_spike():
    values = [1.0] * 30
    values[15] = 1000.0
    assert smoothed(curve(values), "median").values.max() == 1.0
    assert smoothed(curve(values), "mean").values.max() > 100


@pytest.mark.parametrize(
    ("row", "value"),
    [
        pytest.param(
            {"rewards/det_iou/mean": 0.4, "parts/det_iou/iou_sum": 3, "parts/det_iou/n_pred": 4}, 0.4, id="own"
        ),
        pytest.param({"parts/det_soft_f1/iou_sum": 1.0, "parts/det_soft_f1/n_pred": 4.0}, 0.25, id="from the soft F1"),
        pytest.param({"parts/det_soft_f1/iou_sum": 1.0, "parts/det_soft_f1/n_pred": 0.0}, None, id="no boxes at all"),
        pytest.param({"rewards/det_f1/mean": 1.0}, None, id="not logged"),
    ],
)
def test_mean_iou_of_boxes(tmp_path, row, value):
    found = mean_iou(read_run(make_run(tmp_path / "det", [{"step": 1, **row}])))
    assert (None if found is None else found.values[0]) == value


def test_the_best_step_is_the_kept_one_else_the_best_logged(tmp_path):
    run = make_run(tmp_path / "det")
    assert best_of(read_run(run)) == {"step": 20, "metric": "f1", "value": 0.5}
    (run / "best.json").write_text(json.dumps({"step": 30, "metric": "f1", "value": 0.45}), encoding="utf-8")
    assert best_of(read_run(run)) == {"step": 30, "metric": "f1", "value": 0.45}


def test_the_best_loss_is_the_least(tmp_path):
    rows = [{"step": s, "eval/loss": v} for s, v in ((1, 3.0), (2, 1.0), (3, 2.0))]
    assert best_of(read_run(make_run(tmp_path / "sft", rows)))["step"] == 2


def test_a_summary_has_starts_and_ends(tmp_path):
    found = summary(read_run(make_run(tmp_path / "det")))
    reward = [grpo_row(step)["reward"] for step in range(1, 41)]
    assert found["metrics"]["reward"]["start"] == pytest.approx(sum(reward[:5]) / 5)
    assert found["metrics"]["reward"]["end"] == pytest.approx(sum(reward[-5:]) / 5)
    assert found["held_out"]["f1"] == {"n": 4, "start": 0.4, "end": 0.42, "min": 0.4, "max": 0.5}
    assert found["step_seconds"] == 2.5
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        pytest.param([grpo_row(s, **{"completions/clipped_ratio": 0.4}) for s in range(1, 11)], "40% of answers end",
                     id="cut off"),
        pytest.param([grpo_row(s, frac_reward_zero_std=0.9) for s in range(1, 11)], "90% of groups", id="equal"),
        pytest.param([grpo_row(s, unreadable=0.5) for s in range(1, 11)], "50% of answers cannot be read", id="form"),
        pytest.param([grpo_row(s, entropy=2.0 / s**2) for s in range(1, 41)], "Entropy fell", id="entropy"),
        pytest.param([grpo_row(s, reward=2 - s / 40) for s in range(1, 41)], "The reward fell", id="reward"),
        pytest.param([grpo_row(s, **{"parts/det_f1/recall": 0.5 - s / 100}) for s in range(1, 41)],
                     "Boxes got better and fewer", id="fewer boxes"),
        pytest.param([held_out_row(1, 0.5), held_out_row(2, 0.2)], "f1 was best at step 1", id="past the best"),
    ],
)  # fmt: skip
def test_what_stands_out_is_said(tmp_path, rows, words):
    assert any(words in text for text in observations(read_run(make_run(tmp_path / "det", rows))))


def test_nothing_is_said_of_a_run_that_goes_well(tmp_path):
    rows = [*(grpo_row(step) for step in range(1, 41)), held_out_row(20, 0.4), held_out_row(40, 0.5)]
    run = read_run(make_run(tmp_path / "det", rows))
    assert list(observations(run)) == []
    assert all(math.isfinite(figures["end"]) for figures in summary(run)["metrics"].values())
