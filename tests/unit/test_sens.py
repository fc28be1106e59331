from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.errors import DataError
from rft3d_cli.prepare.sens import SensFile, write_sens

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(20))
SENSOR = "Some camera"
FRAMES = 3
K = np.array([[80.0, 0, 7.5], [0, 81.0, 5.5], [0, 0, 1]])

EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6)


def poses() -> np.ndarray:
    out = np.tile(np.eye(4), (FRAMES, 1, 1))
    out[:, :3, 3] = np.arange(9).reshape(3, 3)
    out[1] = -np.inf
    return out


def depths() -> list[np.ndarray]:
    return [np.full((6, 8), 1000 + i, dtype=np.uint16) for i in range(FRAMES)]


def write(path: Path) -> Path:
    write_sens(
        path,
        colours=[JPEG + bytes([i]) for i in range(FRAMES)],
        depths=depths(),
        poses=poses(),
        times=np.array([0.5, 0.75, 1.0]),
        intrinsic_colour=K,
        intrinsic_depth=K / 2,
        colour_size=(16, 12),
        depth_size=(8, 6),
        sensor=SENSOR,
    )
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("sens") / "a.sens").read_bytes()


def read_all(path: Path) -> None:
    sens = SensFile(path)
    for index in range(len(sens)):
        sens.colour(index)
        sens.depth(index)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    sens = SensFile(write(tmp_path / "a.sens"))
    assert (len(sens), sens.sensor, sens.colour_size, sens.depth_size) == (FRAMES, SENSOR, (16, 12), (8, 6))
    assert sens.depth_shift == 1000
    np.testing.assert_allclose(sens.intrinsic_colour[:3, :3], K)
    np.testing.assert_allclose(sens.intrinsic_depth[:2, :3], K[:2] / 2)
    for index in range(FRAMES):
        assert sens.colour(index) == JPEG + bytes([index])
        np.testing.assert_array_equal(sens.depth(index), depths()[index])
        np.testing.assert_array_equal(sens.frames[index].pose, poses()[index])
    assert [frame.colour_time for frame in sens.frames] == [500_000, 750_000, 1_000_000]


def test_a_lost_frame_is_not_tracked(tmp_path: Path) -> None:
    sens = SensFile(write(tmp_path / "a.sens"))
    assert [frame.tracked for frame in sens.frames] == [True, False, True]


def test_the_header_is_304_bytes_and_the_name(data: bytes) -> None:
    np.testing.assert_array_equal(struct.unpack_from("<16f", data, 304 + len(SENSOR)), poses()[0].ravel())


def boundaries(data: bytes) -> dict[str, int]:
    """Where each field begins, and where the trailer does."""
    at = {"version": 0, "name length": 4, "name": 12}
    position = 12 + len(SENSOR)
    for number in range(4):
        at[f"matrix {number}"] = position
        position += 64
    names = ["colour kind", "depth kind", "colour w", "colour h", "depth w", "depth h", "shift", "frames"]
    for name, size in zip(names, (4, 4, 4, 4, 4, 4, 4, 8), strict=True):
        at[name] = position
        position += size
    for index in range(FRAMES):
        for name, size in (
            ("pose", 64),
            ("colour time", 8),
            ("depth time", 8),
            ("colour bytes", 8),
            ("depth bytes", 8),
        ):
            at[f"{name} {index}"] = position
            position += size
        colour, depth = struct.unpack_from("<QQ", data, position - 16)
        at[f"colour {index}"] = position
        at[f"depth {index}"] = position + colour
        position += colour + depth
    at["trailer"] = position
    return at


def test_a_file_that_ends_at_or_within_any_field_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "torn.sens"
    at = boundaries(data)
    end = at.pop("trailer")
    for field, position in at.items():
        for cut in (position, position + 1):
            path.write_bytes(data[:cut])
            with pytest.raises(DataError, match="truncated") as error:
                SensFile(path)
            assert str(path) in error.value.message, field
    assert len(data) == end + 8


def test_the_trailer_may_be_missing_or_torn(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.sens"
    for cut in (8, 3):
        path.write_bytes(data[:-cut])
        assert len(SensFile(path)) == FRAMES


@pytest.mark.parametrize(
    ("offset", "value", "word"),
    [
        pytest.param(0, struct.pack("<I", 3), "version 4", id="another version"),
        pytest.param(4, struct.pack("<Q", 1 << 40), "sensor name", id="a name longer than memory"),
        pytest.param("frames", struct.pack("<Q", 1 << 60), "room", id="frames without room"),
        pytest.param("colour w", struct.pack("<I", 1 << 31), "image sizes", id="a picture wider than a city"),
        pytest.param("shift", struct.pack("<f", float("nan")), "damaged", id="no depth shift"),
        pytest.param("colour bytes 1", struct.pack("<Q", (1 << 64) - 1), "beyond", id="a colour image of 2^64 bytes"),
        pytest.param("depth bytes 2", struct.pack("<Q", 1 << 20), "beyond", id="a depth image beyond the end"),
    ],
)
def test_lengths_are_not_believed(data: bytes, tmp_path: Path, offset: int | str, value: bytes, word: str) -> None:
    at = offset if isinstance(offset, int) else boundaries(data)[offset]
    path = tmp_path / "bad.sens"
    path.write_bytes(data[:at] + value + data[at + len(value) :])
    with pytest.raises(DataError, match=word):
        SensFile(path)


def test_a_depth_image_may_not_inflate_beyond_its_size(data: bytes, tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    at = boundaries(data)
    start = at["depth 2"]
    path = tmp_path / "bomb.sens"
    head = data[: at["depth bytes 2"]] + struct.pack("<Q", len(bomb))
    path.write_bytes(head + data[at["colour 2"] : start] + bomb)
    with pytest.raises(DataError, match="depth image of"):
        SensFile(path).depth(2)


@pytest.mark.parametrize(
    ("kind", "word"), [pytest.param(2, "occi", id="occi"), pytest.param(-1, "unknown", id="unknown")]
)
def test_unreadable_depth_compression_is_named(data: bytes, tmp_path: Path, kind: int, word: str) -> None:
    at = boundaries(data)["depth kind"]
    path = tmp_path / "a.sens"
    path.write_bytes(data[:at] + struct.pack("<i", kind) + data[at + 4 :])
    with pytest.raises(DataError, match=word):
        SensFile(path).depth(0)


def test_a_missing_file_and_a_folder_are_data_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.sens", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            SensFile(path)


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6), cut=st.integers()
)
def test_damaged_bytes_read_or_raise_a_data_error(
    data: bytes, tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]], cut: int
) -> None:
    changed = bytearray(data)
    for position, value in edits:
        changed[position % len(changed)] = value
    if cut % 3 == 0:
        del changed[cut % len(changed) :]
    path = tmp_path_factory.getbasetemp() / "mutated.sens"
    path.write_bytes(changed)
    with suppress(DataError):
        read_all(path)
