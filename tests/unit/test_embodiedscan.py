from __future__ import annotations

import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.errors import DataError
from rft3d_cli.prepare.embodiedscan import read_infos
from rft3d_cli.prepare.unpickle import _Unpickler, load_plain_pickle

ALIGN = [[0.0, 1.0, 0.0, 0.5], [-1.0, 0.0, 0.0, 0.25], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]

EDITS = st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=4)


def as_list(value: list) -> Any:
    return value


def image(number: int, convert: Callable[[list], Any] = as_list, visible: list[int] | None = None) -> dict[str, Any]:
    pose = np.eye(4)
    pose[0, 3] = number / 100
    return {
        "img_path": f"scannet/posed_images/scene0001_00/{number:05d}.jpg",
        "depth_path": f"scannet/posed_images/scene0001_00/{number:05d}.png",
        "cam2global": convert(pose.tolist()),
        "visible_instance_ids": [1, 0] if visible is None else visible,
    }


def data(convert: Callable[[list], Any] = as_list) -> dict[str, Any]:
    boxes = [[0.1 * i for i in range(9)], [1.0] * 9]
    scan = {
        "sample_idx": "scannet/scene0001_00",
        "axis_align_matrix": convert(ALIGN),
        "cam2img": convert([[90.0, 0, 40, 0], [0, 91.0, 30, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        "images": [image(n, convert) for n in (0, 10, 20, 40)],
        "instances": [
            {"bbox_3d": convert(box), "bbox_label_3d": label, "bbox_id": 7 + label} for label, box in enumerate(boxes)
        ],
    }
    other = {**scan, "sample_idx": "3rscan/some"}
    return {"metainfo": {"categories": {"chair": 0, "office table": 1}}, "data_list": [other, scan]}


def save(path: Path, value: Any, protocol: int | None = None) -> Path:
    path.write_bytes(json.dumps(value).encode() if protocol is None else pickle.dumps(value, protocol))
    return path


CONVERT = {
    "lists": as_list,
    "float64": lambda value: np.array(value),
    "float32": lambda value: np.array(value, dtype=np.float32),
    "columns first": lambda value: np.asfortranarray(np.array(value)),
    "big-endian": lambda value: np.array(value, dtype=">f8"),
    "a view": lambda value: np.repeat(np.array(value), 2, axis=0)[::2],
}


def check(path: Path) -> None:
    infos = read_infos(path)
    assert (list(infos.scans), infos.bad, infos.list_step) == (["scene0001_00"], {}, 10)
    scan = infos.scans["scene0001_00"]
    np.testing.assert_array_equal(scan.axis_align, ALIGN)
    np.testing.assert_array_equal(scan.intrinsic, [[90, 0, 40], [0, 91, 30], [0, 0, 1]])
    assert scan.instances.labels == ("chair", "office table")
    np.testing.assert_allclose(scan.instances.boxes[0], [0.1 * i for i in range(9)], atol=1e-6)
    assert [frame.number for frame in scan.frames] == [0, 10, 20, 40]
    assert [frame.visible for frame in scan.frames] == [(1, 0)] * 4
    assert scan.frames[1].cam_to_world[0, 3] == pytest.approx(0.1)


def test_json_is_read(tmp_path: Path) -> None:
    check(save(tmp_path / "infos.json", data()))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", CONVERT)
def test_pickles_are_read(tmp_path: Path, protocol: int, kind: str) -> None:
    check(save(tmp_path / "infos.pkl", data(CONVERT[kind]), protocol))


def test_the_slow_pickler_writes_the_same(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle._Pickler(buffer, 4).dump(data(CONVERT["float64"]))
    (tmp_path / "infos.pkl").write_bytes(buffer.getvalue())
    check(tmp_path / "infos.pkl")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_old_numpy_names_are_read(tmp_path: Path, protocol: int) -> None:
    old = pickle.dumps(data(CONVERT["float64"]), protocol)
    # The name is shorter by one letter; only protocol 2 writes names that end in a newline.
    if protocol == 2:
        old = old.replace(b"numpy._core.", b"numpy.core.")
    else:
        for tail in (b"multiarray", b"numeric"):
            new = b"numpy._core." + tail
            old = old.replace(bytes([0x8C, len(new)]) + new, bytes([0x8C, len(new) - 1]) + b"numpy.core." + tail)
        # A frame's length is only a hint for reading ahead; a wrong one is refused, so frames go.
        assert old[2] == 0x95
        old = old[:2] + old[11:]
    (tmp_path / "infos.pkl").write_bytes(old)
    check(tmp_path / "infos.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_survive(tmp_path: Path, protocol: int) -> None:
    value = {
        "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), np.float64(2.25)],
        "words": np.array(["ab", "c"]),
        "empty": np.zeros((0, 9)),
        "cube": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        "zero": np.array(7.0),
        "plain": [None, True, 1 << 70, "ä", b"\x00\xff", (1, 2.5)],
    }
    found = load_plain_pickle(save(tmp_path / "a.pkl", value, protocol))
    assert found["scalars"] == [1.5, -3, True, 2.25]
    assert found["plain"] == value["plain"]
    for key in ("words", "empty", "cube", "zero"):
        read = np.asarray(found[key])
        assert read.dtype == value[key].dtype
        np.testing.assert_array_equal(read, value[key])


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def marker_command(marker: Path) -> str:
    return f"touch {marker}"


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda m: pickle.dumps(Call(os.system, marker_command(m)), 4),
    "os.system in protocol 2": lambda m: pickle.dumps(Call(os.system, marker_command(m)), 2),
    "os.system in protocol 0": lambda m: pickle.dumps(Call(os.system, marker_command(m)), 0),
    "eval": lambda m: pickle.dumps(Call(eval, f"__import__('os').mkdir({str(m)!r})"), 4),
    "a call deep inside": lambda m: pickle.dumps({"data_list": [{"images": [Call(os.mkdir, str(m))]}]}, 5),
    "a name put together from the memo": lambda m: (
        b"\x80\x04"
        + text("posix")
        + b"\x94"
        + text("system")
        + b"\x94"
        + b"h\x00h\x01\x93"
        + text(marker_command(m))
        + b"\x85R."
    ),
    "a name below another on the stack": lambda m: (
        b"\x80\x04" + text("posix") + text("system") + b"N0\x93" + text(marker_command(m)) + b"\x85R."
    ),
    "a memo that the scan and the machine count differently": lambda m: (
        b"\x80\x04"
        + text("numpy")
        + b"q\x00"
        + text("dtype")
        + b"q\x01"
        + text("posix")
        + b"\x94"
        + text("system")
        + b"\x94"
        + b"h\x02h\x03\x93"
        + text(marker_command(m))
        + b"\x85R."
    ),
    "INST": lambda m: b"(S'" + marker_command(m).encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda m: b"(cos\nsystem\nV" + marker_command(m).encode() + b"\no.",
    "a persistent id": lambda m: b"\x80\x02X\x01\x00\x00\x00aQ.",
    "an extension code": lambda m: b"\x80\x02\x82\x01.",
    "getattr": lambda m: pickle.dumps(Call(getattr, "x", "upper"), 4),
    "bytes of a length": lambda m: b"\x80\x02c__builtin__\nbytes\nJ\x00\x00\x00\x40\x85R.",
    "an array made directly": lambda m: b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x40\x85\x85R.",
    "an array of objects": lambda m: pickle.dumps({"a": np.array([{}, None], dtype=object)}, 4),
    "an array of records": lambda m: pickle.dumps(np.zeros(2, dtype=[("a", "f8")]), 4),
    "an array of dates": lambda m: pickle.dumps(np.zeros(2, dtype="M8[s]"), 4),
    "an object scalar": lambda m: (
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x01\x00\x00\x00O\x85RN\x86R."
    ),
    "a dtype that is text with a comma": lambda m: b"\x80\x02cnumpy\ndtype\nX\x05\x00\x00\x00f8,f8\x85R.",
    "an array larger than its bytes": lambda m: (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01J\xff\xff\xff\x7f\x85cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R\x89C\x08aaaaaaaatb."
    ),
    "a reserved array": lambda m: (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01b\x87R."
    ),
    "state for what may only be called": lambda m: b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.",
    "slot state for what may only be called": lambda m: b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00_makeK\x01s\x86b.",
    "a memo far ahead": lambda m: b"\x80\x02Nr\xff\xff\xff\x7f.",
    "text longer than memory": lambda m: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 50) + b"a.",
    "bytes out of band": lambda m: b"\x80\x05\x97.",
    "no end": lambda m: pickle.dumps([1, 2, 3], 4)[:-1],
    "nothing": lambda m: b"",
    "not a pickle": lambda m: b"PK\x03\x04 hello",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "infos.pkl"
    path.write_bytes(HOSTILE[kind](marker))
    with pytest.raises(DataError) as error:
        load_plain_pickle(path)
    assert str(path) in error.value.message
    assert not marker.exists()


# Only the scan sees how much memory a memo's number would reserve.
CALLS = [kind for kind in HOSTILE if kind not in ("a memo far ahead", "no end", "nothing", "not a pickle")]


@pytest.mark.parametrize("kind", CALLS)
def test_the_unpickler_refuses_them_also_without_the_scan(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    with pytest.raises((pickle.UnpicklingError, ValueError, EOFError)):
        _Unpickler(io.BytesIO(HOSTILE[kind](marker))).load()
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["os.system", "os.system in protocol 0", "eval", "a call deep inside"])
def test_these_pickles_would_have_run(tmp_path: Path, kind: str) -> None:
    # The test above would pass on files that do nothing; these do something.
    marker = tmp_path / "marker"
    pickle.loads(HOSTILE[kind](marker))
    assert marker.exists()


def test_large_files_and_long_programs_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pkl", list(range(1000)), 4)
    with pytest.raises(DataError, match="bytes"):
        load_plain_pickle(path, max_bytes=100)
    with pytest.raises(DataError, match="more than 500 operations"):
        load_plain_pickle(path, max_opcodes=500)


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=4), cut=st.integers()
)
def test_damaged_pickles_read_or_raise_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]], cut: int
) -> None:
    changed = bytearray(pickle.dumps(data(CONVERT["float64"]), 4))
    for position, value in edits:
        changed[position % len(changed)] = value
    if cut % 4 == 0:
        del changed[cut % len(changed) :]
    path = tmp_path_factory.getbasetemp() / "mutated.pkl"
    path.write_bytes(changed)
    with suppress(DataError):
        read_infos(path)


def changed(**fields: Any) -> dict[str, Any]:
    value = data()
    value["data_list"][1] = {**value["data_list"][1], **fields}
    return value


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        pytest.param({"axis_align_matrix": np.eye(3).tolist()}, "axis_align_matrix", id="a 3×3 alignment"),
        pytest.param({"axis_align_matrix": [[float("nan")] * 4] * 4}, "axis_align_matrix", id="a NaN alignment"),
        pytest.param({"cam2img": [1, 2]}, "cam2img", id="no camera"),
        pytest.param({"instances": [{"bbox_3d": [1] * 7, "bbox_label_3d": 0}]}, "bbox_3d", id="seven numbers"),
        pytest.param(
            {"images": [], "instances": [{"bbox_3d": [-1] * 9, "bbox_label_3d": 0}]}, "negative", id="a negative size"
        ),
        pytest.param({"instances": [{"bbox_3d": [1] * 9, "bbox_label_3d": 5}]}, "class number 5", id="no such class"),
        pytest.param({"images": [image(0), image(0)]}, "twice", id="a frame twice"),
        pytest.param({"images": [image(0, visible=[2])]}, "not listed", id="an instance that is not there"),
        pytest.param({"images": [image(0, visible=[-1])]}, "not listed", id="an instance counted from the end"),
        pytest.param({"images": [image(0, visible=[0.5])]}, "not listed", id="half an instance"),
        pytest.param({"images": [{**image(0), "img_path": "a/b.jpg"}]}, "frame number", id="no frame number"),
        pytest.param({"images": [{**image(0), "cam2global": [1]}]}, "4×4", id="no pose"),
        pytest.param({"images": None}, "", id="no images"),
        pytest.param({"sample_idx": "scannet/../etc"}, "name", id="a scene that climbs"),
    ],
)
def test_a_wrong_scan_is_set_aside_with_the_reason(tmp_path: Path, fields: dict, word: str) -> None:
    infos = read_infos(save(tmp_path / "infos.json", changed(**fields)))
    assert not infos.scans
    (reason,) = infos.bad.values()
    assert word in reason


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    value = data()
    del value["data_list"][1]["cam2img"]
    assert "cam2img" in read_infos(save(tmp_path / "infos.json", value)).bad["scene0001_00"]


def test_a_scan_listed_twice_is_set_aside(tmp_path: Path) -> None:
    value = data()
    value["data_list"].append(value["data_list"][1])
    infos = read_infos(save(tmp_path / "infos.json", value))
    assert (infos.scans, infos.bad) == ({}, {"scene0001_00": "it is listed twice"})


def test_a_lost_frame_is_read_and_marked(tmp_path: Path) -> None:
    value = data()
    value["data_list"][1]["images"][2]["cam2global"] = [[-float("inf")] * 4] * 4
    scan = read_infos(save(tmp_path / "infos.json", value)).scans["scene0001_00"]
    assert [frame.tracked for frame in scan.frames] == [True, True, False, True]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"metainfo": {"categories": []}, "data_list": []}', id="categories as a list"),
        pytest.param(b'{"metainfo": {"categories": {}}, "data_list": []}', id="no scans"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"\xff\xfe", id="no text"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "infos.json"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_infos(path)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    for name in ("none.pkl", "none.json"):
        with pytest.raises(DataError, match="cannot be read"):
            read_infos(tmp_path / name)
