from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.errors import UsageError
from rft3d_cli.recipe_yaml import MAX_BYTES, MAX_DEPTH, parse_file, parse_value, read_file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("1e-6", "1e-6", id="exponent"),
        pytest.param("1:30", "1:30", id="not base 60"),
        pytest.param("010", "010", id="not octal"),
        pytest.param("yes", "yes", id="not a truth value"),
        pytest.param("2026-01-01", "2026-01-01", id="not a date"),
        pytest.param("none", "none", id="the word none"),
        pytest.param("null", None, id="null"),
        pytest.param("~", None, id="tilde"),
        pytest.param("", None, id="empty"),
        pytest.param('"null"', "null", id="quoted null is text"),
        pytest.param("''", "", id="quoted empty is text"),
        pytest.param("[a, b, null]", ["a", "b", None], id="list"),
        pytest.param("{my.py:score: 1}", {"my.py:score": "1"}, id="mapping with a file reward"),
        pytest.param("[]", [], id="empty list"),
    ],
)
def test_scalars_stay_the_text_that_was_written(text, value):
    assert parse_file(f"key: {text}\n".encode(), "r.yaml")[0] == {"key": value}


def test_every_key_has_its_line():
    _, lines = parse_file(b"# head\nstage: grpo\ntrain:\n  lr: 1\n\n  kl: 0\n", "r.yaml")
    assert lines == {"stage": 2, "train": 3, "train.lr": 4, "train.kl": 6}


def test_a_byte_order_mark_is_not_part_of_the_first_key():
    assert parse_file("\ufeffstage: sft\n".encode(), "r.yaml")[0] == {"stage": "sft"}


BOMB = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(BOMB, "line 1: anchors", id="alias bomb"),
        pytest.param(b"stage: *other\n", "line 1: aliases", id="alias alone"),
        pytest.param(b"stage: grpo\n<<: *base\n", "line 2: aliases", id="merge key"),
        pytest.param(b"*a : 1\n", "line 1: a key must be", id="alias as a key"),
        pytest.param(b"train: {lr: !!python/object/apply:os.system ['x']}\n", "line 1: tags", id="python tag"),
        pytest.param(b"train: !custom {lr: 1}\n", "line 1: tags", id="own tag"),
        pytest.param(b"lr: !!float 1\n", "line 1: tags", id="standard tag"),
        pytest.param(b"!!str lr: 1\n", "line 1: a key must be", id="tag on a key"),
        pytest.param(b"? [a, b]\n: 1\n", "line 1: a key must be", id="list as a key"),
        pytest.param(b"train:\n  lr: 1\n  kl: 0\n  lr: 2\n", "`train.lr` is given twice, in lines 2 and 4", id="twice"),
        pytest.param(b"stage: sft\nstage: sft\n", "`stage` is given twice, in lines 1 and 2", id="twice at the top"),
        pytest.param(b"a: " + b"[" * 20_000, "nested more than", id="deep lists"),
        pytest.param(b"{a: " * 10_000, "nested more than", id="deep mappings"),
        pytest.param(b"- " * 20_000, "nested more than", id="deep block lists"),
        pytest.param(b"stage: sft\n---\nstage: grpo\n", "line 2: a second document", id="two documents"),
        pytest.param(b"stage: [\n", "line 2:", id="unclosed list"),
        pytest.param(b"stage: a: b\n", "line 1: mapping values are not allowed", id="stray colon"),
        pytest.param(b"stage:\n\tlr: 1\n", "line 2:", id="tab"),
        pytest.param(b"stage: \x00\n", "r.yaml: special characters are not allowed", id="control character"),
        pytest.param(b"stage: \xff\n", "r.yaml is not UTF-8", id="not UTF-8"),
        pytest.param(b"", "holds no keys", id="empty"),
        pytest.param(b"# only a comment\n", "holds no keys", id="comment only"),
        pytest.param(b"- a\n- b\n", "holds no keys", id="a list"),
        pytest.param(b"42\n", "holds no keys", id="a number"),
    ],
)
def test_hostile_and_broken_files_are_refused_with_their_line(data, says):
    start = time.perf_counter()
    with pytest.raises(UsageError, match=r"r\.yaml") as caught:
        parse_file(data, "r.yaml")
    assert says in caught.value.message
    assert time.perf_counter() - start < 2


def test_nesting_up_to_the_limit_is_read():
    text = "{a: " * MAX_DEPTH + "1" + "}" * MAX_DEPTH
    assert parse_value(text, "value") is not None
    with pytest.raises(UsageError, match="nested more than"):
        parse_value(f"{{a: {text}}}", "value")


def test_a_huge_file_is_refused_by_its_size_without_parsing_it(tmp_path):
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"a" * (MAX_BYTES + 1))
    with pytest.raises(UsageError, match="larger than 64 KiB"):
        read_file(path)
    path.write_bytes(b"a" * MAX_BYTES)
    assert len(read_file(path)) == MAX_BYTES


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        read_file(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        read_file(tmp_path / "absent.yaml")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="ab:-{}[]&*!|>'\"#%?,~ \n\t", max_size=80).map(str.encode))
def test_no_bytes_raise_anything_but_a_usage_error(data):
    try:
        tree, lines = parse_file(data, "r.yaml")
    except UsageError:
        return
    assert set(tree) <= set(lines)
