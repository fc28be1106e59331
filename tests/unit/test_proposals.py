from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from rft3d_cli.errors import DataError
from rft3d_cli.prepare.pipeline import Quarantine
from rft3d_cli.prepare.proposals import MASKS, best_proposal, mask_boxes, mask_file, read_proposals

BOX = [1.0, 2.0, 0.5, 0.4, 0.6, 1.0]
OTHER = [-1, 0, 1, 2, 2, 0]


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---- The JSON file


def test_boxes_come_by_scene_with_upright_axes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"scannet/scene0011_00": [BOX, OTHER], "scene0011_01": [], "scannet/x": [BOX]})
    found = read_proposals(path)
    assert found.bad == {}
    assert {scene: boxes.tolist() for scene, boxes in found.boxes.items()} == {
        "scene0011_00": [[*BOX, 0, 0, 0], [*OTHER, 0, 0, 0]],
        "scene0011_01": [],
        "x": [[*BOX, 0, 0, 0]],
    }
    assert found.boxes["scene0011_01"].shape == (0, 9)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        pytest.param([BOX[:5]], "box 0 is not six numbers", id="five numbers"),
        pytest.param([BOX, [*BOX, 0, 0, 0]], "box 1 is not six numbers", id="nine numbers"),
        pytest.param([[BOX]], "box 0 is not six numbers", id="a list too deep"),
        pytest.param([["1", 2, 0, 1, 1, 1]], "box 0 is not six numbers", id="a number as text"),
        pytest.param([[True, 2, 0, 1, 1, 1]], "box 0 is not six numbers", id="true"),
        pytest.param([[None, 2, 0, 1, 1, 1]], "box 0 is not six numbers", id="null"),
        pytest.param([[float("nan"), 2, 0, 1, 1, 1]], "box 0 has a number that no room has", id="NaN"),
        pytest.param([[0, 2, 0, 1, float("inf"), 1]], "box 0 has a number that no room has", id="infinity"),
        pytest.param([[0, 2, 0, 1, 1, 10**400]], "box 0 has a number that no room has", id="beyond all floats"),
        pytest.param([[0, 2, 0, 1, -1, 1]], "box 0 has a number that no room has", id="a size below 0"),
        pytest.param([{"0": 1}], "box 0 is not six numbers", id="an object as a box"),
        pytest.param({"0": BOX}, "not a list of boxes", id="an object of boxes"),
        pytest.param(BOX, "box 0 is not six numbers", id="one box without its list"),
        pytest.param(None, "not a list of boxes", id="nothing"),
        pytest.param([BOX] * 10_001, "10,001 boxes", id="a flood"),
    ],
)
def test_a_wrong_scene_is_named_and_the_others_stay(tmp_path: Path, rows: Any, why: str) -> None:
    path = write(tmp_path / "a.json", {"scannet/good": [BOX], "scannet/wrong": rows})
    found = read_proposals(path)
    assert found.bad == {"wrong": f"{path}: wrong: {why}"}
    assert list(found.boxes) == ["good"]


def test_a_scene_that_is_listed_twice_is_wrong(tmp_path: Path) -> None:
    text = f'{{"scannet/a": [{BOX}], "a": [{BOX}], "scannet/b": [{BOX}], "scannet/b": [{OTHER}], "c": []}}'
    found = read_proposals(write(tmp_path / "a.json", text))
    assert list(found.boxes) == ["c"]
    assert [why.endswith(f"lists {scene} twice") for scene, why in found.bad.items()] == [True, True]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param("{}", id="no scene"),
        pytest.param([BOX], id="a list"),
        pytest.param("{" * 100_000, id="too deep"),
        pytest.param('{"a": [', id="torn"),
        pytest.param("3", id="a number"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError) as error:
        read_proposals(write(tmp_path / "a.json", content))
    assert "scannet_val_pred_box.json" in error.value.hint


def test_bytes_that_are_no_text_and_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    for name in ("a.json", "none.json"):
        with pytest.raises(DataError, match=name):
            read_proposals(tmp_path / name)


# ---- Masks


def points(count: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3))


def extents(dense: np.ndarray, vertices: np.ndarray) -> list[list[float]]:
    """As the public converter has it: the first fifty rows, each the extent of the vertices where it is 1."""
    out = []
    for row in dense[:50]:
        mine = [vertex for vertex, value in zip(vertices.tolist(), row, strict=True) if value == 1]
        if mine:
            sides = [(min(axis), max(axis)) for axis in zip(*mine, strict=True)]
            out.append([*((a + b) / 2 for a, b in sides), *(b - a for a, b in sides), 0, 0, 0])
    return out


@settings(deadline=None, max_examples=40)
@given(
    masks=st.integers(0, 70),
    kind=st.sampled_from(["csr_matrix", "csc_matrix", "coo_matrix", "csr_array", "csc_array", "coo_array"]),
    dtype=st.sampled_from(["bool", "uint8", "int64", "float32", "float64"]),
    compressed=st.booleans(),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_masks_as_scipy_writes_them(
    tmp_path_factory: pytest.TempPathFactory,
    masks: int,
    kind: str,
    dtype: str,
    compressed: bool,
    share: float,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("masks") / "s.mask.npz"
    dense = (np.random.default_rng(seed).random((masks, 40)) < share).astype(dtype)
    sparse.save_npz(path, getattr(sparse, kind)(dense), compressed=compressed)
    np.testing.assert_allclose(mask_boxes(path, points()), np.reshape(extents(dense, points()), (-1, 9)), atol=1e-12)


def test_only_the_first_masks_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "s.mask.npz"
    dense = np.eye(MASKS + 5, 80, dtype=bool)
    dense[3] = False
    sparse.save_npz(path, sparse.csr_matrix(dense))
    boxes = mask_boxes(path, points(80))
    assert len(boxes) == MASKS - 1
    np.testing.assert_array_equal(boxes[:, :3], np.delete(points(80)[:MASKS], 3, axis=0))


class Payload:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "run"))


def parts(**changes: Any) -> dict[str, Any]:
    """A csr file of two masks over 40 vertices."""
    matrix = sparse.csr_matrix(([1, 1, 1], [3, 4, 30], [0, 2, 3]), shape=(2, 40))
    whole = {"format": b"csr", "shape": (2, 40), **{k: getattr(matrix, k) for k in ("data", "indices", "indptr")}}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


COO: dict[str, Any] = {"format": b"coo", "indices": None, "indptr": None}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="csr"),
        pytest.param({"data": [1, 1, 0, 1], "indices": [3, 4, 39, 30], "indptr": [0, 3, 4]}, id="with a 0 written out"),
        pytest.param({**COO, "row": [0, 1, 0], "col": [3, 30, 4]}, id="coo, in any order"),
        pytest.param({**COO, "coords": np.array([[0, 1, 0], [3, 30, 4]])}, id="coo as newer SciPy writes it"),
        pytest.param({**COO, "coords": np.array([[0, 3], [1, 30], [0, 4]]).T}, id="coo, column by column"),
        pytest.param({"format": np.array("csr")}, id="the format as text"),
        pytest.param({"more": [1, 2]}, id="with a part that is not needed"),
    ],
)
def test_two_masks_are_read_in_each_form(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "s.mask.npz"
    np.savez(path, **parts(**change))
    dense = np.zeros((2, 40))
    dense[[0, 0, 1], [3, 4, 30]] = 1
    np.testing.assert_allclose(mask_boxes(path, points()), extents(dense, points()), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param({**COO, "row": [0, 2, 0], "col": [3, 30, 4]}, "that is not there", id="a mask beyond the last"),
        pytest.param({**COO, "row": [0, -1, 0], "col": [3, 30, 4]}, "that is not there", id="a mask before the first"),
        pytest.param({**COO, "row": [0, 1], "col": [3, 30, 4]}, "do not fit each other", id="a row too few"),
        pytest.param({**COO, "row": [0, 1, 0]}, "no 'col'", id="no columns"),
        pytest.param({**COO, "coords": [[0, 1, 0]]}, "do not fit each other", id="coordinates of one axis"),
        pytest.param({"shape": (2, 39)}, "masks of 39 vertices for a mesh of 40", id="another mesh, smaller"),
        pytest.param({"shape": (2, 41)}, "masks of 41 vertices for a mesh of 40", id="another mesh, larger"),
        pytest.param({"shape": (40, 2)}, "masks of 2 vertices for a mesh of 40", id="the other way round"),
        pytest.param({"shape": (10**12, 40)}, "is not a row a mask", id="a shape without end"),
        pytest.param({"shape": (-1, 40)}, "is not a row a mask", id="a shape below 0"),
        pytest.param({"shape": (80,)}, "is not a row a mask", id="one axis"),
        pytest.param({"shape": (2.0, 40.0)}, "something else than whole numbers", id="a shape of floats"),
        pytest.param({"shape": None}, "no 'shape'", id="no shape"),
        pytest.param({"format": None}, "no 'format'", id="no format: not sparse"),
        pytest.param({"format": b"dia"}, "['dia'] are not read", id="diagonals"),
        pytest.param({"format": b"../x"}, "are not read", id="a format that is a path"),
        pytest.param({"indices": [3, 4, 40]}, "that is not there", id="a vertex beyond the mesh"),
        pytest.param({"indices": [3, -1, 30]}, "that is not there", id="a vertex before the first"),
        pytest.param({"indices": [3, 3, 30]}, "twice", id="a vertex twice"),
        pytest.param({"indices": [3, 4]}, "do not fit each other", id="an index too few"),
        pytest.param({"indices": [3.0, 4, 30]}, "something else than whole numbers", id="indices of floats"),
        pytest.param({"indptr": [0, 3]}, "do not fit each other", id="a row too few"),
        pytest.param({"indptr": [0, 4, 3]}, "do not fit each other", id="rows that go back"),
        pytest.param({"indptr": [0, 2, 10**9]}, "do not fit each other", id="a row without end"),
        pytest.param({"data": [1, 1]}, "do not fit each other", id="a value too few"),
        pytest.param({"data": [1, 2, 1]}, "something else than 0 and 1", id="a value of 2"),
        pytest.param({"data": [1, np.nan, 1]}, "something else than 0 and 1", id="NaN"),
        pytest.param({"data": ["1", "1", "1"]}, "something else than 0 and 1", id="values as text"),
        pytest.param({"data": None}, "no 'data'", id="no values"),
    ],
)
def test_wrong_masks_say_what_is_wrong(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = tmp_path / "s.mask.npz"
    np.savez(path, **parts(**change))
    with pytest.raises(Quarantine) as error:
        mask_boxes(path, points())
    assert error.value.reason == "wrong proposals"
    assert why in error.value.message
    assert str(path) in error.value.message


@pytest.mark.parametrize("part", ["data", "indices", "indptr", "shape", "format"])
def test_code_in_masks_never_runs(tmp_path: Path, part: str) -> None:
    path, marker = tmp_path / "s.mask.npz", tmp_path / "marker"
    hostile = np.empty(1, dtype=object)
    hostile[0] = Payload(marker)
    np.savez(path, **parts(**{part: hostile}), allow_pickle=True)
    with pytest.raises(Quarantine, match="holds Python objects, which are not read"):
        mask_boxes(path, points())
    assert not marker.exists()


def header(shape: str, descr: str = "'<i4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(path: Path, changes: dict[str, bytes], twice: str | None = None) -> Path:
    np.savez(path, **parts())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**members, **changes}.items():
            archive.writestr(name, data)
        if twice is not None:
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr(twice, members[twice])
    return path


def refusal(path: Path) -> str:
    with pytest.raises(Quarantine) as error:
        mask_boxes(path, points())
    assert error.value.reason == "wrong proposals"
    assert str(path) in error.value.message
    return error.value.message


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(header("(9999999999999,)"), "of the size that it says", id="an array that announces terabytes"),
        pytest.param(header("(3,)") + b"\0" * 4, "of the size that it says", id="a torn array"),
        pytest.param(header("(-3,)"), "of the size that it says", id="a length below 0"),
        pytest.param(
            header("(3,)", "evil()") + b"\0" * 12, "not an array as NumPy writes it", id="a call in the header"
        ),
        pytest.param(b"\x93NUMPY\x09\x00", "not an array as NumPy writes it", id="an unknown version"),
        pytest.param(b"\x93NUM", "not an array as NumPy writes it", id="a torn header"),
        pytest.param(pickle.dumps([1, 1, 1]), "not an array as NumPy writes it", id="a pickle instead of an array"),
    ],
)
def test_hostile_arrays_are_quarantined(tmp_path: Path, data: bytes, why: str) -> None:
    assert why in refusal(zipped(tmp_path / "s.mask.npz", {"data.npy": data}))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"PK\x03\x04 and no more", id="torn"),
        pytest.param(b"", id="empty"),
        pytest.param(header("(3,)") + b"\0" * 12, id="a dense array"),
        pytest.param(pickle.dumps([1]), id="a pickle"),
    ],
)
def test_what_is_no_archive_is_quarantined(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.mask.npz"
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def test_an_archive_whose_bytes_were_turned_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "s.mask.npz"
    np.savez(path, **parts())
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"indices.npy") + 11 + 128] ^= 255
    path.write_bytes(whole)
    assert "CRC" in refusal(path)


def test_an_archive_with_a_part_twice_is_quarantined(tmp_path: Path) -> None:
    assert "it holds a part twice" in refusal(zipped(tmp_path / "s.mask.npz", {}, twice="data.npy"))


def test_an_archive_that_unpacks_to_too_much_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.prepare.proposals.MAX_UNPACKED", 100_000)
    path = zipped(tmp_path / "s.mask.npz", {"more.npy": b"\0" * 100_000})
    assert path.stat().st_size < 5_000
    assert "it unpacks to more than 100,000 bytes" in refusal(path)


def test_a_folder_in_the_place_of_masks_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "s.mask.npz").mkdir()
    refusal(tmp_path / "s.mask.npz")


def test_missing_masks_say_so(tmp_path: Path) -> None:
    with pytest.raises(Quarantine, match="there is no file") as error:
        mask_boxes(tmp_path / "s.mask.npz", points())
    assert error.value.reason == "no proposals"


def test_masks_lie_in_the_folder_or_in_mask_in_it(tmp_path: Path) -> None:
    assert mask_file(tmp_path, "s") == tmp_path / "s.mask.npz"
    (tmp_path / "mask").mkdir()
    (tmp_path / "mask" / "s.mask.npz").touch()
    assert mask_file(tmp_path, "s") == tmp_path / "mask" / "s.mask.npz"
    assert mask_file(tmp_path / "mask", "s") == tmp_path / "mask" / "s.mask.npz"


# ---- The best of them


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_the_best_proposal_has_the_largest_overlap(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(-1, 1, (count + 1, 3)), rng.uniform(0.2, 2, (count + 1, 3))], axis=1)
    ious = []
    for other in boxes[1:]:
        sides = [
            max(0.0, min(a + s / 2, b + t / 2) - max(a - s / 2, b - t / 2))
            for a, b, s, t in zip(boxes[0][:3], other[:3], boxes[0][3:], other[3:], strict=True)
        ]
        shared = float(np.prod(sides))
        ious.append(shared / (float(np.prod(boxes[0][3:]) + np.prod(other[3:])) - shared))
    whole = np.concatenate([boxes, np.zeros((count + 1, 3))], axis=1)
    index, iou = best_proposal(whole[0], whole[1:])
    assert iou == pytest.approx(max(ious), abs=1e-12)
    assert ious[index] == pytest.approx(max(ious), abs=1e-12)


def test_where_nothing_overlaps_the_first_proposal_is_the_best() -> None:
    far = np.array([[9.0, 0, 0, 1, 1, 1, 0, 0, 0], [5, 0, 0, 1, 1, 1, 0, 0, 0]])
    assert best_proposal(np.array([0.0, 0, 0, 1, 1, 1, 0, 0, 0]), far) == (0, 0.0)
