from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli import console
from rft3d_cli.errors import DataError, ProblemList, Rft3dError, SetupError

KEYS = st.integers(0, 9)
NUMPY = st.builds(np.float64, st.floats()) | st.builds(np.int64, KEYS) | st.builds(np.bool_, st.booleans())
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | NUMPY
TRICKY = [
    pytest.param("[bold]not bold[/bold] [red]", id="markup"),
    pytest.param("[/]", id="a closing tag"),
    pytest.param("a \\[bold] b\\", id="backslashes"),
    pytest.param("sleeping:zzz:cat:cat:", id="emoji names"),
    pytest.param("x" * 500, id="longer than a terminal"),
    pytest.param("two  spaces   three", id="spaces"),
    pytest.param("http://example.org/a/b.c 12.5 None 'text' <tag>", id="what rich would colour"),
    pytest.param("größer, 椅子, 🪑", id="other scripts"),
]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A console decides once whether its stream is a terminal.
    console.out.cache_clear()
    console.err.cache_clear()
    for name in ("FORCE_COLOR", "NO_COLOR", "RFT3D_NO_PROGRESS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    yield
    console.out.cache_clear()
    console.err.cache_clear()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# ---- Streams and text


def test_results_and_the_rest_go_to_streams_of_their_own(capsys):
    console.out().print("result")
    console.note("note")
    console.warn("careful")
    console.print_json({"a": 1})
    shown = capsys.readouterr()
    assert shown.out == 'result\n{\n  "schema": 1,\n  "a": 1\n}\n'
    assert shown.err == "note\nwarning: careful\n"


@pytest.mark.parametrize("text", TRICKY)
def test_text_is_printed_as_it_is(capsys, text):
    console.note(text)
    console.warn(text)
    console.report(Rft3dError(text, text))
    shown = capsys.readouterr()
    assert shown.err == f"{text}\nwarning: {text}\nerror: {text}\n\nhint: {text}\n"
    assert shown.out == ""


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60))
def test_no_text_reaches_the_terminal_with_control_characters(text):
    found = console.clean(text)
    assert len(found) == len(text)
    assert all(c == "\n" or c.isprintable() for c in found)
    assert all(new == old for new, old in zip(found, text, strict=True) if old == "\n" or old.isprintable())
    assert console.clean(found) == found
    found.encode()  # half a surrogate pair, as in a file name that is no UTF-8, would not be writable


@pytest.mark.parametrize("say", [console.note, console.warn, lambda text: console.report(Rft3dError(text, text))])
def test_escape_sequences_do_not_pass(capsys, say):
    say("a\x1b[2Jb\x07c\x9bd\udcffe")
    assert not {"\x1b", "\x07", "\x9b"} & set(capsys.readouterr().err)


def test_colour_only_where_a_terminal_wants_it(monkeypatch):
    for environment, stream, coloured in (
        ({}, Terminal(), True),
        ({}, io.StringIO(), False),
        ({"NO_COLOR": "1"}, Terminal(), False),
        ({"TERM": "dumb"}, Terminal(), False),
    ):
        with monkeypatch.context() as patch:
            patch.setenv("TERM", "xterm-256color")
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr("sys.stderr", stream)
            console.err.cache_clear()
            console.warn("careful")
        assert ("\x1b[33m" in stream.getvalue()) == coloured, environment
        assert "careful" in stream.getvalue()


def test_quiet_leaves_out_notes_and_progress_but_no_warning_and_no_error(capsys, monkeypatch):
    monkeypatch.setattr(console, "PROGRESS_SECONDS", 0.0)
    with console.quietly():
        console.note("note")
        console.warn("careful")
        console.report(Rft3dError("wrong"))
        with console.progress("reading", 2) as ticker:
            ticker.advance()
    assert capsys.readouterr().err == "warning: careful\nerror: wrong\n"
    with console.quietly(False):
        console.note("aloud")
    with pytest.raises(KeyError), console.quietly():
        raise KeyError
    console.note("aloud again")
    assert capsys.readouterr().err == "aloud\naloud again\n"


# ---- Errors


def test_an_error_is_a_line_a_blank_line_and_a_hint(capsys):
    console.report(DataError("a.jsonl line 3: no id", "add one"))
    console.report(DataError("b.jsonl is empty"))
    assert capsys.readouterr().err == "error: a.jsonl line 3: no id\n\nhint: add one\nerror: b.jsonl is empty\n"


def test_several_problems_are_a_line_each_with_every_hint_once(capsys):
    problems = [SetupError("no weights", "fetch them"), DataError("no a", "make it"), DataError("no b", "make it")]
    console.report(ProblemList(problems))
    assert capsys.readouterr().err == (
        "error: no weights\nerror: no a\nerror: no b\n\nhint: fetch them\n      make it\n"
    )  # fmt: skip


def test_a_hint_for_all_problems_is_shown_where_none_has_its_own(capsys):
    both = ProblemList([DataError("no a"), DataError("no b")])
    both.hint = "make them"
    console.report(both)
    assert capsys.readouterr().err == "error: no a\nerror: no b\n\nhint: make them\n"


# ---- JSON


def test_json_has_a_schema_unless_it_brings_one(capsys):
    console.print_json({"schema": 2, "text": "größer"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"schema": 2, "text": "größer"}
    assert "größer" in text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -np.inf, np.float32("nan"), np.float64("inf")])
def test_what_is_no_number_is_null(capsys, number):
    console.print_json({"alone": number, "listed": [1, (number,)], "deep": {"er": number}})
    found = json.loads(capsys.readouterr().out)
    assert found == {"schema": 1, "alone": None, "listed": [1, [None]], "deep": {"er": None}}


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(LEAVES, lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(KEYS, inner), max_leaves=8)
)
def test_everything_that_is_computed_becomes_strict_json(value):
    found = console.jsonable({"value": value})
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found


# ---- Time and progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (7.44, "7.4 s"), (59.94, "59.9 s"), (60, "1:00"), (3599.4, "59:59"), (3599.6, "1:00:00"),
     (100_000, "27:46:40")],
)  # fmt: skip
def test_durations_are_written_as_people_do(seconds, text):
    assert console.duration(seconds) == text


def test_off_a_terminal_progress_is_a_line_every_thirty_seconds(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with console.progress("scenes", 100) as ticker:
        for _ in range(100):
            now[0] += 1.0
            ticker.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["scenes: 30 of 100, 1:10 left", "scenes: 60 of 100, 40.0 s left", "scenes: 90 of 100, 10.0 s left"]


def test_a_quick_loop_says_nothing_off_a_terminal(capsys):
    with console.progress("scenes", 3) as ticker:
        ticker.advance(3)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


@pytest.mark.parametrize(
    ("stream", "environment", "plain_lines"),
    [
        pytest.param(Terminal(), {}, False, id="a terminal"),
        pytest.param(io.StringIO(), {}, True, id="a file"),
        pytest.param(Terminal(), {"RFT3D_NO_PROGRESS": "1"}, True, id="asked for"),
        pytest.param(Terminal(), {"TERM": "dumb"}, True, id="a dumb terminal"),
    ],
)
def test_a_bar_is_for_terminals(monkeypatch, stream, environment, plain_lines):
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", stream)
    assert console.plain_progress() is plain_lines
    with console.progress("scenes", 2) as ticker:
        ticker.advance()
        ticker.advance()
    assert ("scenes" in stream.getvalue()) is not plain_lines


def test_a_loop_that_raises_takes_its_bar_away(monkeypatch):
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream)

    def loop() -> None:
        with console.progress("scenes", 2) as ticker:
            ticker.advance()
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        loop()
    # The line is erased, and the cursor is back.
    assert stream.getvalue().rfind("\x1b[2K") > stream.getvalue().rfind("scenes")
    assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l")
