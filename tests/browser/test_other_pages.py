"""The pages of ``rft3d inspect`` and ``rft3d report`` in a real browser: they run no script and load nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from inspect_records import grey_frames, record, source
from report_runs_made import lines, make_run, rollout

from rft3d_cli.answers.target import target_answer
from rft3d_cli.records import write_records
from rft3d_cli.show.inspect import inspect, write_looks
from rft3d_cli.show.inspect_stats import statistics
from rft3d_cli.show.report import make_report, write_page

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror=alert(1)></pre><script>alert("2")</script>'
BROKEN = "[...document.images].filter((image) => !image.complete || !image.naturalWidth).length"


def narrow(tab) -> None:
    """The page fits a telephone."""
    tab.size(400, 800)
    tab.drawn()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_page_of_inspect_opens(tab, tmp_path):
    tasks = ("detection", "grounding", "choice", "number", "text")
    records = [record(task, id=task) for task in tasks]
    records.append(record("number", id="hostile", prompt=HOSTILE, answer=HOSTILE))
    found = source(grey_frames(tmp_path), *records)
    looks = inspect(found, count=len(records), ids=())
    tab.open(write_looks(looks, found, statistics(records), tmp_path / "look", width=800)[1])
    assert tab.evaluate("document.querySelectorAll('article').length") == len(records)
    assert tab.evaluate("document.images.length") > len(records)
    assert tab.evaluate(BROKEN) == 0
    assert HOSTILE in tab.evaluate("document.body.innerText")
    tab.click("details > summary")
    narrow(tab)
    tab.clean()


@pytest.fixture
def room(tmp_path: Path) -> Path:
    grey_frames(tmp_path)
    write_records(tmp_path / "train.jsonl", [record("detection"), record("choice")])
    return tmp_path / "train.jsonl"


def test_the_page_of_report_opens(tab, tmp_path, room):
    folders = [make_run(tmp_path / name, data=room, steps=steps) for name, steps in (("one", 40), ("two", 20))]
    right = target_answer(record("detection"))
    lines(folders[0] / "rollouts.jsonl", [rollout(1, "detection", right, HOSTILE), rollout(9, "choice", "B", HOSTILE)])
    write_page(make_report(folders, 6), tmp_path / "report.html")
    tab.open(tmp_path / "report.html")
    assert tab.evaluate("document.querySelectorAll('svg').length") > 5
    assert tab.evaluate(BROKEN) == 0
    assert tab.evaluate("document.scripts.length") == 0
    assert HOSTILE in tab.evaluate("document.body.textContent")
    visible = (
        "[...document.querySelectorAll('main .g0')].filter((one) => getComputedStyle(one).display !== 'none').length"
    )
    shown = tab.evaluate(visible)
    assert shown > 0
    tab.click("label[for=t0]")
    assert tab.evaluate(visible) == 0, "choosing a run's name hides it"
    tab.click("label[for=t0]")
    assert tab.evaluate(visible) == shown
    tab.scheme("dark")
    narrow(tab)
    tab.clean()


def test_the_driver_notices_what_must_not_happen(tab, tmp_path):
    """Errors, messages, dialogs and requests are seen: the other tests rest on it."""
    nowhere = "http://127.0.0.1:9/a.png"
    text = (
        f"<script>console.warn('hm'); throw new Error('oh')</script><img src='{nowhere}'><script>alert('boo')</script>"
    )
    (tmp_path / "bad.html").write_text(text, encoding="utf-8")
    tab.open(tmp_path / "bad.html")
    tab.until("document.images[0].complete")
    seen = " ".join(tab.complaints)
    assert "hm" in seen
    assert "Error: oh" in seen
    assert nowhere in tab.requests
    assert tab.dialogs == ["boo"]
    with pytest.raises(AssertionError):
        tab.clean()
    with pytest.raises(RuntimeError, match="ERR_FILE_NOT_FOUND"):
        tab.open(tmp_path / "gone.html")
