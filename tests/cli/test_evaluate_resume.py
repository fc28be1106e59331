from __future__ import annotations

import functools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import RATE, Shown, clip_pictures, record

from rft3d_cli.benchmarks import asking
from rft3d_cli.models import loader, predict
from rft3d_cli.records import write_records
from rft3d_cli.video import write_mp4

CLIPS, BATCH = 3, 4
WHOLE = ("predictions.jsonl", "details.jsonl", "frames.jsonl", "asked.json")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory, world) -> Path:
    """Eleven questions about three clips, in an order that jumps between them."""
    folder = tmp_path_factory.mktemp("questions")
    for number in range(CLIPS):
        write_mp4(folder / f"{number}.mp4", clip_pictures()[: 8 - number], RATE, crf=5)
    records = []
    for number in range(11):
        item = record("number", f"how many chairs are there, and {number}", "", {"value": number % 4 + 1},
                      name=f"q{number}", question_type="object_counting", scene=f"s{number % CLIPS}")  # fmt: skip
        video = item.video.model_copy(update={"path": f"{number % CLIPS}.mp4"})
        records.append(item.model_copy(update={"video": video}))
    write_records(folder / "questions.jsonl", records)
    return folder / "questions.jsonl"


@pytest.fixture(autouse=True, scope="module")
def loaded_once() -> Iterator[None]:
    """One model for a hundred evaluations; the processes that get signals load their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "load_speaker", functools.cache(loader.load_speaker))
        yield


@pytest.fixture
def ask(rft3d, world, questions) -> Callable[..., Shown]:
    def evaluate(*options: object) -> Shown:
        line = ("evaluate", "vsibench", "-d", questions, "-m", world.fresh, "--max-tokens", 6, "--batch", BATCH)
        return rft3d(*line, *options)

    return evaluate


def copied(folder: Path, to: Path) -> Path:
    """The clips in a folder of their own."""
    to.mkdir()
    for number in range(CLIPS):
        (to / f"{number}.mp4").write_bytes((folder / f"{number}.mp4").read_bytes())
    return to


def left(folder: Path | str) -> dict[str, object]:
    """Every file of an evaluation's folder; of the result, all but what another process has otherwise."""
    folder = Path(folder)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert set(result.pop("run")) == {"time", "seconds", "asked", "answered_before"}
    return {name: (folder / name).read_bytes() for name in WHOLE} | {"result": result}


class Stop:
    """Ends a process's asking by Ctrl-C after so many batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.after = 0, sys.maxsize
        real = predict.answer_batch

        def answer_batch(*arguments: object) -> list[str]:
            if self.asked == self.after:
                raise KeyboardInterrupt
            self.asked += 1
            return real(*arguments)

        monkeypatch.setattr(predict, "answer_batch", answer_batch)


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    return Stop(monkeypatch)


@pytest.mark.parametrize("options", [pytest.param((), id="greedy"), pytest.param(("--sample",), id="sampled")])
def test_a_stop_after_any_batch_changes_nothing(ask, stop, options):
    assert ask("--out", "whole", *options).code == 0
    assert stop.asked == 3
    for after in range(3):
        stop.asked, stop.after = 0, after
        shown = ask("--out", f"stopped-{after}", *options)
        assert shown.code == 130
        assert f"answers so far are kept in stopped-{after}/" in shown.err
        assert not Path(f"stopped-{after}/result.json").exists()
        stop.asked, stop.after = 0, sys.maxsize
        assert ask("--out", f"stopped-{after}", *options).code == 0
        assert stop.asked == 3 - after
        assert left(f"stopped-{after}") == left("whole")


def test_a_kill_within_any_line_changes_nothing(ask):
    assert ask("--out", "whole").code == 0
    whole = left("whole")
    written = Path("whole/predictions.jsonl").read_bytes()
    for end in [*range(0, len(written), len(written) // 9), len(written) - 1]:
        torn = Path(f"torn-{end}")
        torn.mkdir()
        for name in ("asked.json", "frames.jsonl"):
            (torn / name).write_bytes(Path("whole", name).read_bytes())
        (torn / "predictions.jsonl").write_bytes(written[:end])
        assert ask("--out", torn).code == 0
        assert left(torn) == whole, end


def test_a_finished_evaluation_is_repeated_without_a_model(ask, monkeypatch):
    first = ask("--out", "whole", "--json").document
    before = left("whole")
    monkeypatch.setattr(asking, "_Asking", None)
    again = ask("--out", "whole", "--json").document
    assert left("whole") == before
    assert (first["run"]["asked"], again["run"]["asked"], again["run"]["answered_before"]) == (11, 0, 11)


def test_the_default_folder_is_named_after_benchmark_and_model(ask):
    assert ask().code == 0
    assert Path("eval/vsibench/fresh/result.json").is_file()
    assert ask("--blind").code == 0
    assert json.loads(Path("eval/vsibench/fresh-blind/result.json").read_text())["model"]["blind"] is True


def test_more_records_ask_only_what_is_missing(ask, stop):
    assert ask("--out", "grown", "--limit", 6).code == 0
    assert ask("--out", "whole").code == 0
    stop.asked = 0
    shown = ask("--out", "grown", "--json")
    assert shown.document["n"] == 11
    assert left("grown")["predictions.jsonl"] == left("whole")["predictions.jsonl"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(("--max-tokens", 7), "max_tokens 6, now 7", id="longer answers"),
        pytest.param(("--frames", 3), "frames by default, now 3", id="other frames"),
        pytest.param(("--repetition-penalty", 1.05), "repetition_penalty 1.0, now 1.05", id="a penalty"),
        pytest.param(("--blind",), "blind False, now True", id="no frames"),
        pytest.param(("--sample",), "greedy True, now False", id="sampled"),
        pytest.param(("--model", "tiny"), "model ", id="another model"),
    ],
)
def test_answers_asked_for_otherwise_are_kept_until_told(ask, options, problem):
    assert ask("--out", "mine", "--limit", 2).code == 0
    before = left("mine")
    for dry in ((), ("--dry-run",)):
        shown = ask("--out", "mine", "--limit", 2, *options, *dry)
        assert shown.code == 2
        assert shown.errors[0].startswith(f"mine holds answers asked for otherwise: {problem}"), shown.err
        assert "--fresh" in shown.hint
        assert left("mine") == before
    assert ask("--out", "mine", "--limit", 2, *options, "--fresh").code == 0
    assert Path("mine/asked.json").read_bytes() != before["asked.json"]


def test_a_changed_question_is_asked_again(ask, questions, stop):
    assert ask("--out", "mine").code == 0
    lines = questions.read_text(encoding="utf-8").splitlines()
    changed = questions.with_name("changed.jsonl")
    changed.write_text("\n".join([lines[0].replace("how many", "count the"), *lines[1:]]) + "\n", encoding="utf-8")
    stop.asked = 0
    assert ask("--data", changed, "--out", "mine").code == 0
    assert stop.asked == 1
    assert ask("--data", changed, "--out", "anew").code == 0
    assert left("mine")["predictions.jsonl"] == left("anew")["predictions.jsonl"]


def test_answers_of_other_media_under_the_same_name_are_not_taken_up(ask, questions, tmp_path, stop):
    media = copied(questions.parent, tmp_path / "media")
    assert ask("--out", "mine", "--media-root", media).code == 0
    write_mp4(media / "1.mp4", [255 - picture for picture in clip_pictures()], RATE, crf=5)
    stop.asked = 0
    assert ask("--out", "mine", "--media-root", media).code == 0
    # Three batches of four, each about one clip.
    assert stop.asked == 1
    assert ask("--out", "anew", "--media-root", media).code == 0
    assert left("mine") == left("anew")


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "generation_config.json"],
)
def test_a_model_is_its_configuration_and_tokenizer_too(ask, world, tmp_path, name):
    model = tmp_path / "model"
    shutil.copytree(world.fresh, model)
    assert ask("--model", model, "--out", "mine", "--limit", 2).code == 0
    assert ask("--model", model, "--out", "mine", "--limit", 2).code == 0
    (model / name).write_text((model / name).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    shown = ask("--model", model, "--out", "mine", "--limit", 2)
    assert shown.code == 2
    assert "the model's configuration or tokenizer changed" in shown.errors[0]


def test_a_batch_keeps_its_size_where_the_first_clip_was_unreadable(world, questions, rft3d, tmp_path):
    media = copied(questions.parent, tmp_path / "media")
    good = (media / "0.mp4").read_bytes()
    line = ("evaluate", "vsibench", "-d", questions, "-m", world.fresh, "--max-tokens", 6, "--sample")
    whole = rft3d(*line, "--media-root", media, "--out", "whole")
    assert whole.code == 0
    (media / "0.mp4").write_bytes(b"no video at all")
    assert rft3d(*line, "--media-root", media, "--out", "hurt").code == 3
    size = json.loads(Path("hurt/asked.json").read_text())["made"]["batch"]
    (media / "0.mp4").write_bytes(good)
    assert rft3d(*line, "--media-root", media, "--out", "hurt", "--fresh").code == 0
    assert json.loads(Path("hurt/asked.json").read_text())["made"]["batch"] == size
    assert left("hurt") == left("whole")


def test_a_damaged_clip_is_said_and_counted(ask, questions, tmp_path):
    media = copied(questions.parent, tmp_path / "media")
    frames = [np.random.default_rng(i).integers(0, 255, (64, 96, 3)).astype(np.uint8) for i in range(24)]
    write_mp4(media / "1.mp4", frames, RATE, crf=5)
    whole = (media / "1.mp4").read_bytes()
    (media / "1.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    shown = ask("--out", "hurt", "--media-root", media, "--json")
    assert json.loads(shown.out)["damaged_clips"] == 1
    assert "1 clips are damaged" in shown.err
    assert "first 1.mp4" in shown.err


def test_what_is_there_is_said_before_and_instead_of_asking(ask):
    assert "would ask" in ask("--out", "mine", "--dry-run").err
    assert ask("--out", "mine", "--limit", 4).code == 0
    shown = ask("--out", "mine", "--dry-run")
    assert "questions of 11, the others being answered," in shown.err
    assert ask("--out", "mine").code == 0
    assert "would ask" in ask("--out", "mine", "--dry-run").err
    assert "all answers are there; nothing is asked" in ask("--out", "mine").err


def test_the_frames_that_were_shown_are_those_of_the_answers(ask):
    assert ask("--out", "mine").code == 0
    assert ask("--out", "mine", "--frames", 3, "--fresh").code == 0
    plans = [json.loads(line) for line in Path("mine/frames.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [len(plan["indices"]) for plan in plans] == [3, 3, 3]


def test_details_of_an_earlier_run_do_not_outlive_a_stop(ask, stop):
    assert ask("--out", "mine").code == 0
    stop.asked, stop.after = 0, 1
    assert ask("--out", "mine", "--fresh").code == 130
    assert not Path("mine/details.jsonl").exists()
    assert not Path("mine/result.json").exists()


def test_a_model_that_cannot_be_loaded_throws_no_answers_away(ask, world, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(world.fresh, model)
    assert ask("--model", model, "--out", "mine", "--limit", 4).code == 0
    before = left("mine")
    # Another file under the name: the loaded model still maps the old one.
    (tmp_path / "half").write_bytes((model / "model.safetensors").read_bytes()[:1000])
    (tmp_path / "half").replace(model / "model.safetensors")
    loader.load_speaker.cache_clear()
    assert ask("--model", model, "--out", "mine", "--limit", 4, "--fresh").code == 4
    assert left("mine") == before


# ---- Shares


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shares_are_scored_as_one(ask, stop, count):
    assert ask("--out", "whole").code == 0
    for index in range(1, count + 1):
        shown = ask("--out", "shared", "--shard", f"{index}/{count}")
        assert shown.code == 0
        assert shown.out == ""
        assert "without --shard" in shown.err
    stop.asked = 0
    assert ask("--out", "shared").code == 0
    assert stop.asked == 0
    assert left("shared") == left("whole")
    # A share that is repeated asks nothing and spoils nothing; started afresh, all of it is asked again.
    assert ask("--out", "shared", "--shard", f"1/{count}").code == 0
    assert stop.asked == 0
    assert left("shared") == left("whole")
    assert ask("--out", "shared", "--fresh").code == 0
    assert stop.asked == 3


def test_an_empty_share_says_why(ask):
    shown = ask("--out", "shared", "--shard", "1/5")
    assert shown.code == 0
    assert "wrote   0 answers of share 1/5" in shown.err
    assert "whole batches of 4 are shared out" in shown.err


def test_a_share_that_is_missing_is_asked_by_the_last_command(ask, stop):
    assert ask("--out", "whole").code == 0
    assert ask("--out", "shared", "--shard", "1/3").code == 0
    stop.asked = 0
    assert ask("--out", "shared").code == 0
    assert stop.asked == 2
    assert left("shared")["predictions.jsonl"] == left("whole")["predictions.jsonl"]


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_share_that_is_none_is_refused(ask, share):
    shown = ask("--shard", share)
    assert shown.code == 2
    assert "--shard" in shown.errors[0]


# ---- Records that cannot be asked


def test_an_unreadable_clip_costs_its_records_and_the_exit_code(ask, questions, tmp_path):
    whole = ask("--out", "whole", "--json").document
    media = copied(questions.parent, tmp_path / "media")
    good = (media / "1.mp4").read_bytes()
    (media / "1.mp4").write_bytes(b"no video at all")
    shown = ask("--out", "hurt", "--media-root", media, "--json")
    assert shown.code == 3
    document = json.loads(shown.out)
    assert (document["n"], document["missing"]) == (11, 4)
    assert shown.errors[0].startswith("4 of 11 records could not be asked and score 0; q1: ")
    lost = [json.loads(line) for line in Path("hurt/not-asked.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lost] == ["q1", "q4", "q7", "q10"]
    (media / "1.mp4").write_bytes(good)
    mended = ask("--out", "hurt", "--media-root", media, "--json").document
    assert not Path("hurt/not-asked.jsonl").exists()
    assert (mended["missing"], mended["overall"]) == (0, whole["overall"])
    assert left("hurt")["predictions.jsonl"] == left("whole")["predictions.jsonl"]


def test_without_one_readable_clip_nothing_is_scored(ask, questions, tmp_path):
    for number in range(CLIPS):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video at all")
    shown = ask("--out", "hurt", "--media-root", tmp_path)
    assert (shown.code, shown.out) == (3, "")
    assert shown.errors[0].startswith("no record could be asked; the first: ")
    assert not Path("hurt/result.json").exists()


# ---- Two processes, and real signals


def test_a_second_process_is_kept_out(ask):
    fcntl = pytest.importorskip("fcntl")
    assert ask("--out", "mine").code == 0
    with Path("mine/predictions.jsonl").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        shown = ask("--out", "mine")
    assert shown.code == 2
    assert shown.errors == ["another process is writing answers to mine"]


KILLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from rft3d_cli.benchmarks import journal
append = journal.Journal.append
def killing(self, lines):
    append(self, lines)
    if len(self.saved) >= int(sys.argv[1]):
        os.kill(os.getpid(), int(sys.argv[2]))
journal.Journal.append = killing
from rft3d_cli.cli import main
main(sys.argv[3:])
"""


@pytest.fixture
def after_signal(world, questions) -> Callable[..., subprocess.CompletedProcess[str]]:
    def start(number: signal.Signals, out: str) -> subprocess.CompletedProcess[str]:
        line = [
            "evaluate",
            "vsibench",
            "-d",
            questions,
            "-m",
            world.fresh,
            "--max-tokens",
            6,
            "--batch",
            BATCH,
            "-o",
            out,
        ]
        words = [sys.executable, "-c", KILLED, "5", str(int(number)), *map(str, line)]
        return subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, -9),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, -15, marks=pytest.mark.long),
    ],
)
def test_a_process_that_was_stopped_by_a_signal_is_gone_on_with(ask, stop, after_signal, number, code):
    assert ask("--out", "whole").code == 0
    ended = after_signal(number, "stopped")
    assert ended.returncode in (code, 143 if number == signal.SIGTERM else code), ended.stderr
    assert "Traceback" not in ended.stderr
    stop.asked = 0
    assert ask("--out", "stopped").code == 0
    assert stop.asked == 1
    assert left("stopped") == left("whole")


def test_records_of_one_video_are_asked_together_and_each_clip_is_read_once(ask, monkeypatch):
    from rft3d_cli import video

    opened: list[str] = []
    real = video.open_video

    def open_video(path: Path, *arguments: object) -> object:
        opened.append(Path(path).name)
        return real(path, *arguments)

    monkeypatch.setattr(video, "open_video", open_video)
    assert ask("--out", "mine").code == 0
    assert opened == ["0.mp4", "1.mp4", "2.mp4"]
    plan = [json.loads(line) for line in Path("mine/frames.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(clip["path"], clip["indices"], clip["sampler"]) for clip in plan] == [
        ("0.mp4", [0, 7], "linspace-floor"), ("1.mp4", [0, 6], "linspace-floor"), ("2.mp4", [0, 5], "linspace-floor"),
    ]  # fmt: skip


def test_the_words_alone_are_asked_blind(ask, questions):
    shown = ask("--out", "blind", "--blind", "--media-root", "nowhere", "--json")
    assert shown.document["missing"] == 0
    assert not Path("blind/frames.jsonl").exists()
