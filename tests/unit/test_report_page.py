from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from inspect_records import grey_frames, record
from PIL import Image
from report_runs_made import grpo_row, held_out_row, lines, make_run, rollout

from rft3d_cli.answers.target import target_answer
from rft3d_cli.records import write_records
from rft3d_cli.show import report_page
from rft3d_cli.show.draw import TARGET
from rft3d_cli.show.report import make_report, write_page, write_pictures
from rft3d_cli.show.report_charts import sections
from rft3d_cli.show.report_runs import read_run, read_runs
from rft3d_cli.show.report_samples import samples

SOME = ("step", "reward", "parts/det_f1/precision", "parts/det_f1/recall")
VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """Tags, texts, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def written(folders, tmp_path: Path, count: int = 6) -> str:
    path = tmp_path / "page.html"
    write_page(make_report(folders, count), path)
    return path.read_text(encoding="utf-8")


def titles(folder_or_runs) -> list[str]:
    runs = read_runs(folder_or_runs)
    return [chart.title for section in sections(runs) for chart in section.charts]


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Records of each task, with grey frames beside them."""
    tasks = ("detection", "grounding", "choice", "number")
    grey_frames(tmp_path)
    write_records(tmp_path / "train.jsonl", [record(task) for task in tasks])
    return tmp_path / "train.jsonl"


# ---- Charts


def test_one_run_has_its_curves_together(tmp_path):
    assert titles([make_run(tmp_path / "det")]) == [
        "Reward",
        "Parts of the reward",
        "Held-out scores",
        "Held-out reward",
        "Precision against recall",
        "Found, and how well",
        "Boxes in an answer",
        "Length of answers",
        "Answers cut off at the length limit",
        "Groups that teach nothing",
        "Entropy",
        "KL to the reference",
        "Loss",
        "Gradient norm, before it is limited",
        "Learning rate",
        "Time of a step",
    ]


def test_several_runs_have_a_chart_for_each_number_with_a_line_each(tmp_path):
    runs = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", steps=20)])
    charts = {chart.title: chart for section in sections(runs) for chart in section.charts}
    assert {"Parts of the reward: format", "Parts of the reward: det_f1", "Held-out f1"} <= {*charts}
    for chart in charts.values():
        assert [series.name for series in chart.series if series.name] == ["a", "b"], chart.title
    assert [series.group for series in charts["Held-out f1"].series] == [0, 1]


def test_the_best_step_is_marked_on_the_line_of_its_metric(tmp_path):
    (section,) = (s for s in sections([read_run(make_run(tmp_path / "det"))]) if s.title == "Held out")
    labels = [label for chart in section.charts for label in chart.labels]
    assert [(label.x, label.y, label.text) for label in labels] == [(20, 0.5, "best 0.5 at 20")]
    assert section.charts[0].series[labels[0].colour].name == "f1"


def test_the_path_leads_from_the_first_precision_and_recall_to_the_last(tmp_path):
    rows = [
        grpo_row(s, **{"parts/det_f1/precision": 0.2 + s / 1000, "parts/det_f1/recall": 0.3 + s / 500})
        for s in range(1, 201)
    ]
    (section,) = (s for s in sections([read_run(make_run(tmp_path / "d", rows))]) if s.title == "Tighten, then recall")
    path = section.charts[0]
    assert (path.x, path.y, path.whole) == ("recall", "precision", False)
    first, last = path.labels[0], path.labels[-1]
    assert (first.text, first.hollow, last.text, last.hollow) == ("1", True, "step 200", False)
    assert (first.x, first.y) == pytest.approx((0.3, 0.2), abs=0.1)
    assert (last.x, last.y) == pytest.approx((0.7, 0.4), abs=0.1)
    assert (np.diff(path.series[0].xs) > 0).all()


def test_curves_of_equal_f1_have_that_f1(tmp_path):
    (section,) = (s for s in sections([read_run(make_run(tmp_path / "d"))]) if s.title == "Tighten, then recall")
    for guide in section.charts[0].guides:
        inside = guide.ys <= 1
        f1 = 2 * guide.xs[inside] * guide.ys[inside] / (guide.xs[inside] + guide.ys[inside])
        assert f1 == pytest.approx(float(guide.text.removeprefix("F1 ")))


def test_runs_of_other_tasks_have_no_detection_charts(tmp_path):
    sft = make_run(tmp_path / "sft", [{"step": s, "loss": 2 / s, "mean_token_accuracy": 0.5} for s in range(1, 30)])
    assert titles([sft]) == ["Loss", "Right tokens"]
    rows = [{"step": s, "reward": 1.0, "parts/ground_near/distance": 1.0} for s in range(1, 5)]
    assert titles([make_run(tmp_path / "ground", rows)]) == ["Reward", "Distance of centres"]


def test_many_rewards_are_parted_by_what_they_reward(tmp_path):
    names = ("format", "det_f1", "det_soft_f1", "ground_frame", "ground_iou", "accuracy", "mra")
    rows = [{"step": 1, "reward": 1, **{f"rewards/{name}/mean": 0.5 for name in names}}]
    found = titles([make_run(tmp_path / "mix", rows)])
    assert found[1:4] == ["Other rewards", "Detection rewards", "Grounding rewards"]


def test_what_is_logged_by_task_is_drawn_where_there_are_several(tmp_path):
    rows = [{"step": 1, "reward": 1, "unreadable": 0.1, "length/detection": 40, "reward/detection": 1}]
    assert titles([make_run(tmp_path / "one", rows)]) == ["Reward", "Answers that cannot be read"]
    rows[0] |= {"length/choice": 4, "reward/choice": 0.5}
    run = read_run(make_run(tmp_path / "two", rows))
    charts = {chart.title: chart for section in sections([run]) for chart in section.charts}
    assert [s.name for s in charts["Length of answers, by task"].series] == ["detection", "choice"]
    assert [s.name for s in charts["Reward"].series] == ["in all", "detection", "choice"]


# ---- The page


def test_the_page_needs_nothing_from_anywhere(tmp_path, room):
    run = make_run(tmp_path / "det", data=room)
    lines(run / "rollouts.jsonl", [rollout(1, "detection", target_answer(record()), "[]")])
    text = written([run], tmp_path)
    page = Page(text)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "form"}
    assert "default-src 'none'" in text
    loaded = [value for _, tag in page.tags for name, value in tag.items() if name in ("src", "href", "srcset")]
    assert len(loaded) == 2
    assert all(value.startswith("data:image/jpeg;base64,") for value in loaded)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)
    assert len(page.named("svg")) == 16
    assert page.named("meta")[2]["content"] == "width=device-width, initial-scale=1"
    assert "prefers-color-scheme: dark" in text


def test_every_line_and_word_of_a_chart_has_a_colour(tmp_path):
    text = written([make_run(tmp_path / "det")], tmp_path)
    known = set(re.findall(r"\.(k-\w+) \{", text))
    used = {kind for _, tag in Page(text).tags for kind in (tag.get("class") or "").split() if kind.startswith("k-")}
    assert used <= known
    assert {"k-c0", "k-c1", "k-text", "k-faint", "k-line"} <= used


def test_several_runs_can_be_hidden_one_by_one(tmp_path):
    text = written([make_run(tmp_path / "a"), make_run(tmp_path / "b", lr="3e-6")], tmp_path)
    page = Page(text)
    assert [tag["id"] for tag in page.named("input")] == ["t0", "t1"]
    assert [tag["for"] for tag in page.named("label")] == ["t0", "t1"]
    for at in (0, 1):
        assert f"#t{at}:not(:checked) ~ main .g{at} {{ display: none; }}" in text
        assert any((tag.get("class") or "").endswith(f" g{at}") for tag in page.named("polyline"))
    assert "train.lr" in page.text
    assert "3e-6" in page.text


def test_hostile_text_stays_text(tmp_path, room):
    bad = "<script>alert(1)</script><img src=x onerror=y>\x1b[31m"
    run = make_run(tmp_path / "a & b <i>", [{**grpo_row(1), f"rewards/{bad}/mean": 0.5, f"eval/{bad}": 0.5}], data=room)
    lines(run / "rollouts.jsonl", [rollout(1, bad, bad, bad, task=bad), rollout(2, "number", bad, bad)])
    text = written([run], tmp_path)
    page = Page(text)
    assert "script" not in {name for name, _ in page.tags}
    assert all((tag["src"] or "").startswith("data:image/jpeg;base64,") for tag in page.named("img"))
    assert "\x1b" not in text
    assert "alert(1)" in page.text


@pytest.mark.parametrize("steps", [pytest.param(1, id="a single step"), pytest.param(2, id="two steps")])
def test_short_runs_have_a_page_and_pictures(tmp_path, steps):
    rows = [grpo_row(step) for step in range(1, steps + 1)]
    run = make_run(tmp_path / "det", [{k: v for k, v in row.items() if k in SOME} for row in rows])
    Page(written([run], tmp_path))
    found = write_pictures(make_report([run], 0), tmp_path / "png")
    assert found[0].name == "overview.png"
    for path in found:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width >= 720


def test_thousands_of_steps_of_several_runs_stay_below_two_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    keys = [key for key in grpo_row(1) if key != "step"]
    folders = []
    for number in range(3):
        values = rng.normal(size=(3000, len(keys))).cumsum(axis=0) + 100
        rows = [{"step": s + 1, **dict(zip(keys, row, strict=True))} for s, row in enumerate(values.round(4).tolist())]
        rows += [held_out_row(s, 0.5) for s in range(10, 3001, 10)]
        folders.append(make_run(tmp_path / f"r{number}", rows, steps=3000))
    assert len(written(folders, tmp_path)) < 2e6
    assert len(written(folders[:1], tmp_path)) < 1e6


def test_runs_that_say_nothing_known_still_have_a_page(tmp_path):
    page = Page(written([make_run(tmp_path / "odd", [{"step": 3, "epoch": 0.1}])], tmp_path))
    assert page.named("svg") == []
    assert "epoch" in page.text


# ---- Answers


def test_the_best_and_the_worst_answer_are_drawn_beside_the_target(tmp_path, room):
    run = make_run(tmp_path / "det", data=room)
    good = target_answer(record())
    lines(run / "rollouts.jsonl", [rollout(3, "detection", good, "no idea")])
    (sample,) = samples(read_run(run), 6)
    assert (sample.id, sample.task, sample.notes) == ("detection", "detection", ())
    assert sample.about == "step 3, 4 completions, rewards 0.25 to 2.00"
    best, worst = sample.answers
    assert (best.title, worst.title) == ("best of 4, reward 2.00", "worst of 4, reward 0.25")
    assert best.scores == {"format": 1.0, "det_f1": 1.0}
    assert worst.scores == {"det_f1": 0.25}
    assert worst.why
    ((with_both, _),), ((with_target, words),) = best.frames, worst.frames
    assert words == "frame 0, the target's"
    for pixels in (with_both, with_target):
        green = (np.abs(pixels.astype(int) - TARGET).max(axis=2) < 60).sum()
        assert green > 100
    assert (with_both != with_target).any()


def test_grounding_shows_the_frames_of_target_and_answer(tmp_path, room):
    run = make_run(tmp_path / "ground", data=room)
    far = '{"frame": 2, "bbox_3d": [0.1, 0.05, 3.0, 0.8, 0.5, 0.6, 0, 0, 0]}'
    lines(run / "rollouts.jsonl", [rollout(1, "grounding", target_answer(record("grounding")), far, task="grounding")])
    (sample,) = samples(read_run(run), 1)
    assert [[words for _, words in answer.frames] for answer in sample.answers] == [
        ["frame 1, the target's"],
        ["frame 1, the target's", "frame 2"],
    ]


def test_questions_show_their_frames_once(tmp_path, room):
    run = make_run(tmp_path / "vsi", data=room)
    lines(run / "rollouts.jsonl", [rollout(1, "choice", "B", "A", task="choice")])
    (sample,) = samples(read_run(run), 1)
    assert len(sample.frames) == 3
    assert all(not answer.frames for answer in sample.answers)


def test_groups_are_spread_over_the_run_and_differ_most(tmp_path, room):
    run = make_run(tmp_path / "det", data=room)
    rows = [rollout(step, f"r{step}-{k}", "a", "b", std=0.1 * k) for step in range(1, 41) for k in range(3)]
    lines(run / "rollouts.jsonl", rows)
    found = samples(read_run(run), 4)
    steps = [int(sample.id[1:].partition("-")[0]) for sample in found]
    assert len(found) == 4
    assert all(sample.id.endswith("-2") for sample in found)
    assert steps == sorted(steps)
    assert steps[0] <= 10
    assert steps[-1] > 30


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [
        pytest.param([1, 2], 4, ["1-1", "1-2", "2-1", "2-2"], id="few steps and many groups"),
        pytest.param([5], 2, ["5-1", "5-2"], id="one step"),
        pytest.param([1, 9], 9, ["1-0", "1-1", "1-2", "9-0", "9-1", "9-2"], id="all there are"),
    ],
)
def test_as_many_groups_are_shown_as_asked_for(tmp_path, steps, count, expected):
    run = make_run(tmp_path / "det")
    rows = [rollout(step, f"{step}-{k}", "a", "b", std=0.1 * k) for step in steps for k in range(3)]
    lines(run / "rollouts.jsonl", rows)
    assert [sample.id for sample in samples(read_run(run), count)] == expected


def test_without_rollouts_held_out_answers_are_shown_first_and_last(tmp_path, room):
    run = make_run(tmp_path / "det", data=room)
    good = target_answer(record())
    rows = [(1, "number", "2", 0.5), (1, "detection", "[]", 0.0), (9, "number", "2", 0.5), (9, "detection", good, 1.0)]
    lines(run / "completions.jsonl", [
        {"step": s, "id": name, "prediction": text, "score": score, "why": ""} for s, name, text, score in rows
    ])  # fmt: skip
    (sample,) = samples(read_run(run), 1)
    assert sample.id == "detection"
    assert [answer.title for answer in sample.answers] == ["step 1, score 0.00", "step 9, score 1.00"]


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        pytest.param(lambda p: (p / "train.jsonl").unlink(), "is not there any more", id="no records"),
        pytest.param(lambda p: (p / "train.jsonl").write_text("{}\n"), "its record is not in", id="another file"),
        pytest.param(lambda p: (p / "train.jsonl").write_bytes(b"detection \xff"), "is not in the run", id="no text"),
        pytest.param(lambda p: [(p / f"{i}.png").unlink() for i in range(3)], "does not exist", id="no frames"),
        pytest.param(lambda p: [(p / f"{i}.png").write_text("x") for i in range(3)], "cannot be read as an image",
                     id="damaged frames"),
    ],
)  # fmt: skip
def test_what_is_gone_is_said_and_the_text_stays(tmp_path, room, spoil, note):
    run = make_run(tmp_path / "det", data=room)
    lines(run / "rollouts.jsonl", [rollout(3, "detection", "[1]", "[2]")])
    spoil(tmp_path)
    (sample,) = samples(read_run(run), 6)
    assert len(sample.notes) == 1
    assert sample.notes[0].startswith("text only: ")
    assert note in sample.notes[0]
    assert [(answer.text, answer.frames) for answer in sample.answers] == [("[1]", ()), ("[2]", ())]
    page = Page(written([run], tmp_path))
    assert note in page.text
    assert page.named("img") == []


def test_records_are_found_from_another_folder(tmp_path, room, monkeypatch):
    run = make_run(tmp_path / "runs" / "det", data=Path("train.jsonl"))
    lines(run / "rollouts.jsonl", [rollout(3, "detection", "[1]", "[2]")])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (sample,) = samples(read_run(run), 6)
    assert sample.notes == ()


def test_the_media_root_of_the_recipe_is_used(tmp_path, room):
    (tmp_path / "data").mkdir()
    moved = room.rename(tmp_path / "data" / "train.jsonl")
    run = make_run(tmp_path / "det", data=moved)
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("media_root: null", f"media_root: {tmp_path}"), encoding="utf-8")
    lines(run / "rollouts.jsonl", [rollout(3, "detection", "[1]", "[2]")])
    assert samples(read_run(run), 6)[0].notes == ()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({}, id="empty"),
        pytest.param({"step": 1, "id": 5, "best": {}, "worst": {}}, id="nothing said"),
        pytest.param({"step": 1, "id": None, "best": {"prediction": None, "reward": None, "scores": 3}, "worst": {}},
                     id="wrong kinds"),
        pytest.param({"step": 1, "id": "detection", "rewards": "x", "std": "y", "best": [], "worst": None}, id="lists"),
        pytest.param({"step": 1, "id": "detection", "rewards": [None, 1], "best": {"prediction": 7, "reward": 1e400},
                      "worst": {"prediction": "[" * 9000}}, id="odd values"),
    ],
)  # fmt: skip
def test_odd_rollouts_do_no_harm(tmp_path, room, row):
    run = make_run(tmp_path / "det", data=room)
    (run / "rollouts.jsonl").write_text(json.dumps(row) + '\n{"step": 2, "id"', encoding="utf-8")
    Page(written([run], tmp_path))


def test_a_long_answer_is_cut(tmp_path, room):
    run = make_run(tmp_path / "det", data=room)
    lines(run / "rollouts.jsonl", [rollout(1, "number", "x" * 50_000, "y", task="number")])
    text = written([run], tmp_path)
    assert "(46,000 more characters)" in text
    assert len(text) < 400_000


def test_pictures_end_where_the_page_would_grow_too_large(tmp_path, room, monkeypatch):
    run = make_run(tmp_path / "det", data=room)
    lines(run / "rollouts.jsonl", [rollout(1, "choice", "B", "A", task="choice")])
    whole = Page(written([run], tmp_path)).named("img")
    size = max(len(tag["src"]) for tag in whole)
    monkeypatch.setattr(report_page, "PICTURES", 2 * size)
    page = Page(written([run], tmp_path))
    assert 0 < len(page.named("img")) < len(whole)
    assert "the page would become too large" in page.text
    for tag in page.named("img"):
        data = base64.b64decode(tag["src"].partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"


def test_the_same_run_gives_the_same_bytes(tmp_path, room):
    run = make_run(tmp_path / "det", data=room)
    lines(run / "rollouts.jsonl", [rollout(1, "detection", "[]", "x")])
    assert written([run], tmp_path) == written([run], tmp_path)
    small = make_run(tmp_path / "small", [{"step": step, "reward": step**0.5} for step in range(30)])
    one, two = (write_pictures(make_report([small], 0), tmp_path / name) for name in ("p1", "p2"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_a_report_never_loads_torch(tmp_path):
    run = make_run(tmp_path / "det")
    code = (
        "import sys; from pathlib import Path; from rft3d_cli.show.report import make_report, write_page;"
        f"write_page(make_report([Path({str(run)!r})], 2), Path({str(tmp_path / 'p.html')!r}));"
        "print([n for n in ('torch', 'transformers', 'trl', 'datasets') if n in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
