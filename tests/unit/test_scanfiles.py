from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.errors import DataError
from rft3d_cli.prepare.scanfiles import (
    aggregation_file,
    axis_alignment,
    object_boxes,
    read_aggregation,
    read_label_table,
    read_ply_vertices,
    read_scan_text,
    read_segments,
)

POINTS = [[0.0, 0.0, 0.0], [1.0, 2.0, 0.5], [1.0, 0.0, 3.0], [-1.0, 1.0, 1.0], [4.0, 4.0, 4.0]]


def ply(points: list[list[float]] = POINTS, extra: str = "", kind: str = "float", code: str = "f") -> bytes:
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment made by hand\n"
        f"element vertex {len(points)}\nproperty {kind} x\nproperty {kind} y\nproperty {kind} z\n"
        f"property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n{extra}"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    tail = b"\0" * (4 if extra else 0)
    rows = b"".join(struct.pack(f"<3{code}4B", *point, 1, 2, 3, 255) + tail for point in points)
    return header.encode() + rows + struct.pack("<Biii", 3, 0, 1, 2)


def write(path: Path, content: bytes | str | dict) -> Path:
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(ply(), id="as ScanNet's"),
        pytest.param(ply(extra="property float quality\n"), id="with another property"),
        pytest.param(ply(kind="double", code="d"), id="in doubles"),
        pytest.param(ply(kind="float32"), id="with the newer type names"),
        pytest.param(ply().replace(b"\n", b"\r\n", 13), id="with Windows line ends"),
    ],
)
def test_vertices_are_read(tmp_path: Path, content: bytes) -> None:
    np.testing.assert_array_equal(read_ply_vertices(write(tmp_path / "a.ply", content)), POINTS)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        pytest.param(b"", "not a PLY", id="empty"),
        pytest.param(b"ply\nformat ascii 1.0\nelement vertex 1\nend_header\n0 0 0", "binary", id="ascii"),
        pytest.param(ply().replace(b"end_header", b"end_nothing"), "not a PLY", id="no end of header"),
        pytest.param(ply().replace(b"vertex 5", b"vertex 6000000000"), "truncated", id="more vertices than bytes"),
        pytest.param(ply().replace(b"vertex 5", b"vertex -1"), "truncated", id="minus one vertex"),
        pytest.param(ply().replace(b"vertex 5", b"vertex five"), "header", id="a count in words"),
        pytest.param(ply().replace(b"property float z", b"property float w"), "header", id="no z"),
        pytest.param(ply().replace(b"property float z", b"property list uchar int z"), "header", id="a list"),
        pytest.param(ply().replace(b"property float z", b"property half z"), "header", id="an unknown type"),
        pytest.param(ply().replace(b"element vertex 5", b"element lamp 5"), "header", id="no vertices first"),
        pytest.param(ply([[0, float("nan"), 0]]), "finite", id="a NaN"),
    ],
)
def test_other_meshes_are_refused(tmp_path: Path, content: bytes, word: str) -> None:
    path = write(tmp_path / "a.ply", content)
    with pytest.raises(DataError, match=word) as error:
        read_ply_vertices(path)
    assert str(path) in error.value.message


ALIGN = " ".join(str(n) for n in range(16))


def test_scan_text_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", f"axisAlignment = {ALIGN} \ncolorWidth = 1296\nsceneType = A = B\nrubbish\n")
    assert read_scan_text(path) == {"axisAlignment": ALIGN, "colorWidth": "1296", "sceneType": "A = B"}
    np.testing.assert_array_equal(axis_alignment(path), np.arange(16).reshape(4, 4))


def test_a_test_scan_has_no_alignment(tmp_path: Path) -> None:
    np.testing.assert_array_equal(axis_alignment(write(tmp_path / "a.txt", "colorWidth = 1296\n")), np.eye(4))


@pytest.mark.parametrize("value", ["1 2 3", "a " * 16, "nan " * 16, ""])
def test_a_wrong_alignment_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(DataError, match="axisAlignment"):
        axis_alignment(write(tmp_path / "a.txt", f"axisAlignment = {value}\n"))


def scan(folder: Path, groups: list[dict], segments: list[int] | None = None) -> Path:
    folder.mkdir()
    base = folder / folder.name
    write(Path(f"{base}_vh_clean_2.ply"), ply())
    write(Path(f"{base}_vh_clean_2.0.010000.segs.json"), {"segIndices": segments or [7, 7, 8, 9, 9]})
    write(Path(f"{base}.aggregation.json"), {"segGroups": groups})
    return folder


GROUPS = [
    {"id": 0, "objectId": 0, "segments": [7], "label": "chair"},
    {"id": 1, "objectId": 3, "segments": [8, 9], "label": "office table"},
    {"id": 2, "objectId": 4, "segments": [55], "label": "ghost"},
]


def test_objects_are_boxed_in_the_aligned_world(tmp_path: Path) -> None:
    quarter = np.array([[0.0, -1, 0, 10], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    boxes = object_boxes(scan(tmp_path / "scene0000_00", GROUPS), quarter)
    assert {number: label for number, (label, _) in boxes.items()} == {0: "chair", 3: "office table"}
    # (0,0,0), (1,2,0.5) become (10,0,0), (8,1,0.5).
    np.testing.assert_allclose(boxes[0][1], [9, 0.5, 0.25, 2, 1, 0.5, 0, 0, 0])
    # (1,0,3), (-1,1,1), (4,4,4) become (10,1,3), (9,-1,1), (6,4,4).
    np.testing.assert_allclose(boxes[3][1], [8, 1.5, 2.5, 4, 5, 3, 0, 0, 0])


def test_the_other_name_of_an_aggregation_is_found(tmp_path: Path) -> None:
    folder = scan(tmp_path / "scene0000_00", GROUPS)
    (folder / "scene0000_00.aggregation.json").rename(folder / "scene0000_00_vh_clean.aggregation.json")
    assert len(read_aggregation(aggregation_file(folder))) == 3


def test_mesh_and_segments_must_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 entries for a mesh of 5"):
        object_boxes(scan(tmp_path / "scene0000_00", GROUPS, [7, 7, 8, 9]), np.eye(4))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("[]", id="a list"),
        pytest.param("{", id="torn"),
        pytest.param('{"segIndices": [[1]], "segGroups": [1]}', id="wrong insides"),
        pytest.param(
            '{"segIndices": [1.5], "segGroups": [{"objectId": Infinity, "label": "", "segments": []}]}', id="floats"
        ),
        pytest.param('{"segIndices": null, "segGroups": null}', id="nulls"),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_wrong_json_is_refused(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "a.json", content)
    with pytest.raises(DataError):
        read_segments(path)
    with pytest.raises(DataError):
        read_aggregation(path)


def test_an_object_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twice"):
        read_aggregation(write(tmp_path / "a.json", {"segGroups": [GROUPS[0], GROUPS[0]]}))


def test_the_label_table_is_read(tmp_path: Path) -> None:
    head = "id\traw_category\tcategory\tcount\tnyu40id\teigen13id"
    table = f"{head}\n1\twall\twall\t8277\t1\t12\n22\toffice chair\tchair\t4646\t5\t4\n"
    assert read_label_table(write(tmp_path / "a.tsv", table)) == {"wall": 1, "office chair": 5}
    with pytest.raises(DataError, match="table of labels"):
        read_label_table(write(tmp_path / "b.tsv", "a\tb\n1\t2\n"))


def test_missing_files_are_data_errors(tmp_path: Path) -> None:
    for read in (read_ply_vertices, read_scan_text, read_segments, read_aggregation, read_label_table):
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / "none")


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 10_000))
def test_damaged_meshes_read_or_raise_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: int
) -> None:
    content = bytearray(ply())
    content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "mutated.ply"
    path.write_bytes(content[: len(content) - cut % 40])
    try:
        points = read_ply_vertices(path)
    except DataError:
        return
    assert points.shape[1] == 3
    assert np.isfinite(points).all()
