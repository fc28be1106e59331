from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.benchmarks.asking import by_video, share
from rft3d_cli.benchmarks.journal import (
    ANSWERS,
    ASKED,
    check,
    differences,
    drop_torn_line,
    fingerprint,
    journal,
    marks,
    question_hash,
    read_saved_answers,
    shard_folder,
    shards,
)
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.examples import example_record

SETTINGS = {"model": {"name": "tiny", "sha256": {"a": "1"}}, "decoding": {"greedy": True}, "frames": None}


def line(name: str, text: str = "4") -> dict[str, str]:
    return {"id": name, "prediction": text, "of": question_hash(example_record("number"))}


def test_what_is_appended_is_there_again(tmp_path: Path) -> None:
    record = example_record("number")
    with journal(tmp_path, SETTINGS, fresh=False) as book:
        assert not book.has([record])
        book.append([line(record.id, "‘four’\u2028")])
        assert book.has([record])
    with journal(tmp_path, SETTINGS, fresh=False) as book:
        assert book.has([record])
        assert book.saved[record.id]["prediction"] == "‘four’\u2028"
        assert not book.has([record.model_copy(update={"prompt": "another question"})])
    with journal(tmp_path, SETTINGS, fresh=True) as book:
        assert not book.saved
    assert (tmp_path / ANSWERS).read_bytes() == b""


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 12000))
def test_a_torn_line_is_cut_and_no_other(tmp_path_factory: pytest.TempPathFactory, tail: bytes, whole: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "lines"
    kept = b"x" * whole + b"\n" if whole else b""
    path.write_bytes(kept + tail.replace(b"\n", b""))
    drop_torn_line(path)
    assert path.read_bytes() == kept


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_file_cut_anywhere_still_opens_and_keeps_every_whole_line(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("cut")
    lines = [json.dumps(line(f"q{i}", "é" * i)) + "\n" for i in range(5)]
    whole = "".join(lines).encode()
    end = data.draw(st.integers(0, len(whole)))
    (folder / ANSWERS).write_bytes(whole[:end])
    (folder / ASKED).write_text(json.dumps(SETTINGS), encoding="utf-8")
    with journal(folder, SETTINGS, fresh=False) as book:
        assert len(book.saved) == whole[:end].count(b"\n")
        book.append([line("new")])
    assert set(read_saved_answers(folder)) == {*book.saved}


@pytest.mark.parametrize(
    ("known", "now", "expected"),
    [
        pytest.param({}, {}, [], id="the same"),
        pytest.param({"frames": 4}, {"frames": 8}, ["frames 4, now 8"], id="a value"),
        pytest.param({"frames": None}, {"frames": 8}, ["frames by default, now 8"], id="from the default"),
        pytest.param({"decoding": {"greedy": True}}, {"decoding": {"greedy": False}}, ["greedy True, now False"],
                     id="a part"),
        pytest.param({"made": {"versions": {"torch": "1"}}}, {}, [], id="another machine"),
        pytest.param({"model": {"name": "a", "sha256": {"w": "1"}}}, {"model": {"name": "b", "sha256": {"w": "1"}}}, [],
                     id="the same weights elsewhere"),
        pytest.param({"model": {"name": "a", "sha256": {"w": "1"}}}, {"model": {"name": "a", "sha256": {"w": "2"}}},
                     ["the model's weights changed"], id="other weights there"),
        pytest.param({"model": {"name": "a", "sha256": {}}}, {"model": {"name": "b", "sha256": {}}},
                     ["model a, now b"], id="fresh models by name"),
        pytest.param({"model": {"name": "a", "sha256": {"w": "1"}, "settings_sha256": "1"}},
                     {"model": {"name": "a", "sha256": {"w": "1"}, "settings_sha256": "2"}},
                     ["the model's configuration or tokenizer changed"], id="another tokenizer beside the weights"),
        pytest.param({"later": 1}, {}, ["later 1, now by default"], id="a setting of another version"),
    ],
)  # fmt: skip
def test_differences_are_said_in_words(known: dict, now: dict, expected: list[str]) -> None:
    assert differences(known, now) == expected


def test_answers_of_unknown_making_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / ANSWERS).write_text('{"id": "a", "prediction": "4"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="does not say how its answers were asked for"):
        check(tmp_path, SETTINGS, fresh=False)
    check(tmp_path, SETTINGS, fresh=True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param('{"id": "a"\n{"id": "b", "prediction": "4"}\n', "line 1: not JSON", id="half a line within"),
        pytest.param('{"id": "a", "prediction": 4}\n', "line 1 is no answer", id="no text"),
        pytest.param("[]\n", "line 1 is no answer", id="no object"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / ANSWERS).write_text(text, encoding="utf-8")
    (tmp_path / ASKED).write_text(json.dumps(SETTINGS), encoding="utf-8")
    with pytest.raises(DataError, match=problem), journal(tmp_path, SETTINGS, fresh=False):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_broken_asked_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ANSWERS).write_text(json.dumps(line("a")) + "\n", encoding="utf-8")
    (tmp_path / ASKED).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=ASKED):
        check(tmp_path, SETTINGS, fresh=False)


def test_a_folder_without_an_answer_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / ANSWERS).touch()
    check(tmp_path, SETTINGS, fresh=False)
    with journal(tmp_path, SETTINGS, fresh=False) as book:
        assert not book.saved


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_changed_video_has_another_fingerprint(tmp_path: Path, size: int, place: float) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"a" * size)
    first = fingerprint(path)
    assert fingerprint(path) == first != "missing"
    path.write_bytes(b"a" * (size - 1))
    assert fingerprint(path) != first
    if size > 1 << 20:
        whole = bytearray(b"a" * size)
        whole[int(place * size)] = 0
        path.write_bytes(whole)
        assert fingerprint(path) != first


def test_an_answer_is_to_a_question_about_its_media(tmp_path: Path) -> None:
    record = example_record("number")
    for name in record.media:
        (tmp_path / name).write_bytes(b"picture")
    first = marks([record], tmp_path)
    with journal(tmp_path / "out", SETTINGS, fresh=False, marks=first) as book:
        book.append([{"id": record.id, "prediction": "4", "of": book.mark(record)}])
    (tmp_path / record.media[-1]).write_bytes(b"another one")
    with journal(tmp_path / "out", SETTINGS, fresh=False, marks=marks([record], tmp_path)) as book:
        assert not book.has([record])
    with journal(tmp_path / "out", SETTINGS, fresh=False, marks=first) as book:
        assert book.has([record])


def test_settled_answers_stand_in_the_order_of_their_records_with_others_behind(tmp_path: Path) -> None:
    with journal(tmp_path, SETTINGS, fresh=False) as book:
        book.append([line("c"), line("a"), line("b", "1"), line("b", "2")])
        book.settle(["a", "b"])
    lines = [json.loads(text) for text in (tmp_path / ANSWERS).read_text(encoding="utf-8").splitlines()]
    assert [(one["id"], one["prediction"]) for one in lines] == [("a", "4"), ("b", "2"), ("c", "4")]


def test_shares_are_found(tmp_path: Path) -> None:
    for index in (1, 2):
        shard_folder(tmp_path, (index, 2)).mkdir()
        (shard_folder(tmp_path, (index, 2)) / ANSWERS).touch()
    (tmp_path / "shard-of-something").mkdir()
    assert [path.name for path in shards(tmp_path)] == ["shard-1-of-2", "shard-2-of-2"]


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_neighbours_that_cover_everything_once(batches: int, count: int) -> None:
    found = [list(share(range(batches), (index, count))) for index in range(1, count + 1)]
    assert [batch for part in found for batch in part] == list(range(batches))
    assert max(map(len, found)) - min(map(len, found)) <= 1


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_records_of_a_video_stand_together_and_in_order(clips: list[str]) -> None:
    base = example_record("number")
    records = [
        base.model_copy(update={"id": str(i), "video": base.video.model_copy(update={"frames": [name]})})
        for i, name in enumerate(clips)
    ]
    ordered = by_video(records)
    assert sorted(record.id for record in ordered) == sorted(record.id for record in records)
    names = [record.media[0] for record in ordered]
    assert [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name] == list(dict.fromkeys(clips))
    for name in set(clips):
        own = [int(record.id) for record in ordered if record.media[0] == name]
        assert own == sorted(own)
