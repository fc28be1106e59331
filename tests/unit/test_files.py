from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.errors import DataError
from rft3d_cli.files import atomic_path, atomic_writer, sha256, write_bytes, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "er" / "out.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text("whole", encoding="utf-8")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "whole"
    assert names(target.parent) == ["out.txt"]


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1), OSError(28, "full")])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path, error, durable):
    target = tmp_path / "out.txt"
    target.write_text("old", encoding="utf-8")

    def write() -> None:
        with atomic_writer(target, durable=durable) as stream:
            stream.write("half")
            stream.flush()
            raise error

    with pytest.raises(type(error)):
        write()
    assert target.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["out.txt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old", encoding="utf-8")
    with target.open(encoding="utf-8") as reader:
        with atomic_writer(target) as stream:
            stream.write("new")
            assert target.read_text(encoding="utf-8") == "old"
        # Who has opened the old file goes on reading it.
        assert reader.read() == "old"
    assert target.read_text(encoding="utf-8") == "new"


KILLED = """
import os, signal, sys
from pathlib import Path
from rft3d_cli.files import atomic_writer
with atomic_writer(Path(sys.argv[1])) as stream:
    for number in range(1000):
        stream.write("half of the new file\\n")
    stream.flush()
    os.fsync(stream.fileno())
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old", encoding="utf-8")
    found = subprocess.run([sys.executable, "-c", KILLED, str(target)], capture_output=True)
    assert found.returncode == -signal.SIGKILL
    assert target.read_text(encoding="utf-8") == "old"
    # What it had begun is hidden, is named as what it is, and stops no later writer.
    (left,) = [name for name in names(tmp_path) if name != "out.txt"]
    assert left.startswith(".out.txt.")
    assert left.endswith(".tmp")
    with atomic_writer(target) as stream:
        stream.write("new")
    assert target.read_text(encoding="utf-8") == "new"


def test_content_reaches_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    seen = []

    def fsync(number: int) -> None:
        seen.append((os.fstat(number).st_size, (tmp_path / "out.bin").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "out.bin", b"12345")
    assert seen == [(5, False)]
    write_bytes(tmp_path / "out.bin", b"123", durable=False)
    assert len(seen) == 1


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_results_are_ordinary_files_by_the_user_s_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "out", b"")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o666 & ~umask


def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is a device or a pipe"):
        write_bytes(tmp_path / "pipe", b"new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_is_replaced_and_what_it_names_is_kept(tmp_path):
    (tmp_path / "precious").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "old"
    assert (tmp_path / "link").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        pytest.param("file/out", "file cannot be written: (Not a directory|File exists)", id="in a file"),
        pytest.param("folder", "folder is a folder", id="onto a folder"),
        pytest.param("x" * 300, "cannot be written: File name too long", id="a long name"),
    ],
)
def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path, place, words):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=words):
        write_bytes(tmp_path / place, b"x")
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == []


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=2000))
def test_bytes_come_back_with_their_hash(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes"
    write_bytes(path, data, durable=False)
    assert path.read_bytes() == data
    assert sha256(path) == hashlib.sha256(data).hexdigest()


@settings(max_examples=50, deadline=None)
@given(value=JSON)
def test_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            write_json(path, value, durable=False)
        return
    write_json(path, value, durable=False)
    text = path.read_bytes().decode()
    assert json.loads(text) == value
    assert text.endswith("\n")
    assert "\r" not in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"a": -float("inf")}], {1, 2}])
def test_what_is_not_json_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "value.json"
    write_json(path, {"old": True})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": True}
    assert names(tmp_path) == ["value.json"]
