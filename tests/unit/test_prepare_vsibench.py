from __future__ import annotations

import json
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rft3d_cli.errors import DataError, ProblemList, UsageError
from rft3d_cli.prepare.archives import open_archive
from rft3d_cli.prepare.pipeline import Policy, Report
from rft3d_cli.prepare.splits import Split
from rft3d_cli.prepare.vsibench import (
    ClipSpec,
    is_published,
    parse_question,
    prepare_vsibench,
    published_records,
)
from rft3d_cli.records import Record, read_records

CHOICE = {
    "id": 7,
    "dataset": "scannet",
    "scene_name": "scene0011_00",
    "question_type": "object_rel_distance",
    "question": "Which is closest?",
    "ground_truth": "B",
    "options": ["A. chair", "B. table", "C. lamp", "D. bed"],
}
NUMBER = {
    "id": 8,
    "dataset": "arkitscenes",
    "scene_name": "41069025",
    "question_type": "room_size_estimation",
    "question": "How large is it?",
    "ground_truth": "23.5",
    "options": None,
}


def videos(folder: Path, *names: str) -> Path:
    for name in names or ("scannet/scene0011_00.mp4", "arkitscenes/41069025.mp4"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"video {name}".encode())
    return folder


def save(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(tmp_path: Path, rows: list[Any] | Path, **options: Any) -> Report:
    fields: dict[str, Any] = {
        "questions": rows if isinstance(rows, Path) else save(tmp_path / "test.jsonl", rows),
        "videos": tmp_path / "vsibench",
        "media": tmp_path / "out" / "media",
        "media_root": None,
        "split": Split("test"),
        "out": tmp_path / "out" / "vsi.jsonl",
        "spec": ClipSpec(),
        "allow_missing": False,
        "policy": Policy(),
        **options,
    }
    return prepare_vsibench(**fields)


def records(report: Report) -> list[Record]:
    return read_records(report.out).records


def test_rows_become_choice_and_number_records(tmp_path: Path) -> None:
    videos(tmp_path / "vsibench")
    report = run(tmp_path, [CHOICE, NUMBER])
    choice, number = records(report)
    assert (choice.id, choice.task, number.id, number.task) == ("7", "choice", "8", "number")
    assert choice.prompt == (
        "These are frames of a video.\nWhich is closest?\nOptions:\nA. chair\nB. table\nC. lamp\nD. bed\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert number.prompt == (
        "These are frames of a video.\nHow large is it?\nPlease answer the question using a single word or phrase."
    )
    assert (choice.target.letter, choice.target.options, choice.answer) == ("B", CHOICE["options"], "B")
    assert (number.target.value, number.answer) == (23.5, "23.5")
    assert choice.video.model_dump() == {"path": "scannet/scene0011_00.mp4", "frames": 32, "sampler": "linspace-floor"}
    meta = choice.meta
    assert (meta.dataset, meta.scene, meta.split) == ("scannet", "scene0011_00", "test")
    assert meta.question_type == "object_rel_distance"
    assert report.media_root == tmp_path / "vsibench"
    assert report.counts["types"] == 2


def test_frames_and_sampler_are_kept_with_the_record(tmp_path: Path) -> None:
    videos(tmp_path / "vsibench")
    (record,) = records(run(tmp_path, [CHOICE], spec=ClipSpec(8, "chunk-center")))
    assert (record.video.frames, record.video.sampler, record.meta.sampler) == (8, "chunk-center", "chunk-center")


def test_paths_start_at_the_record_files_folder_where_the_videos_lie_in_it(tmp_path: Path) -> None:
    videos(tmp_path / "vsibench")
    report = run(tmp_path, [CHOICE], out=tmp_path / "vsi.jsonl")
    file = read_records(report.out)
    assert file.records[0].video.path == "vsibench/scannet/scene0011_00.mp4"
    assert file.media(file.records[0].video.path).exists()


def test_paths_start_at_the_media_root_that_is_named(tmp_path: Path) -> None:
    videos(tmp_path / "vsibench")
    (record,) = records(run(tmp_path, [CHOICE], media_root=tmp_path))
    assert record.video.path == "vsibench/scannet/scene0011_00.mp4"
    with pytest.raises(UsageError, match="not inside the media root"):
        run(tmp_path, [CHOICE], media_root=tmp_path / "out")


@pytest.mark.parametrize("pruned", [True, False, None])
def test_the_debiased_cut_is_kept(tmp_path: Path, pruned: bool | None) -> None:
    videos(tmp_path / "vsibench")
    (record,) = records(run(tmp_path, [CHOICE if pruned is None else {**CHOICE, "pruned": pruned}]))
    assert record.meta.model_extra.get("pruned") == pruned


def test_parquet_gives_the_same_records(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    videos(tmp_path / "vsibench")
    path = tmp_path / "test.parquet"
    parquet.write_table(arrow.Table.from_pylist([CHOICE, NUMBER]), path)
    one = records(run(tmp_path, [CHOICE, NUMBER]))
    assert records(run(tmp_path, path)) == one


def test_a_broken_parquet_file_is_a_data_error(tmp_path: Path) -> None:
    videos(tmp_path / "vsibench")
    path = tmp_path / "test.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a parquet file"):
        run(tmp_path, path)


def test_published_questions_are_records_without_their_videos(tmp_path: Path) -> None:
    videos(tmp_path / "vsibench")
    path = save(tmp_path / "vsibench" / "test.jsonl", [CHOICE, NUMBER])
    prepared = run(tmp_path, path)
    assert published_records(path).records == records(prepared)
    assert published_records(path).media_root == path.parent
    assert published_records(path, tmp_path).media_root == tmp_path
    assert (is_published(path), is_published(prepared.out)) == (True, False)


def test_published_questions_must_all_be_right(tmp_path: Path) -> None:
    path = save(tmp_path / "test.jsonl", [CHOICE, CHOICE])
    with pytest.raises(DataError, match="entry 2: id 7 repeats"):
        published_records(path)
    with pytest.raises(DataError, match="no questions"):
        published_records(save(path, []))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_other_files_are_not_published_questions(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert not is_published(path)
    assert not is_published(tmp_path / "none.jsonl")
    assert not is_published(tmp_path)


# ---- Missing videos


def test_all_missing_videos_are_listed_at_once(tmp_path: Path) -> None:
    videos(tmp_path / "vsibench", "scannet/other.mp4")
    rows = [CHOICE, NUMBER, {**NUMBER, "id": 9}]
    with pytest.raises(DataError, match="2 of 2 videos are missing") as error:
        run(tmp_path, rows)
    assert "scannet/scene0011_00.mp4, arkitscenes/41069025.mp4" in error.value.message
    assert not (tmp_path / "out").exists()


def test_missing_videos_may_be_left_out(tmp_path: Path) -> None:
    videos(tmp_path / "vsibench", "scannet/scene0011_00.mp4")
    report = run(tmp_path, [CHOICE, NUMBER, {**NUMBER, "id": 9}], allow_missing=True)
    assert [record.id for record in records(report)] == ["7"]
    lines = [json.loads(line) for line in report.rejects_file.read_text().splitlines()]
    assert [(row["id"], row["reason"], row["video"]) for row in lines] == [
        (number, "missing video", "arkitscenes/41069025.mp4") for number in ("8", "9")
    ]
    assert report.counts["missing_videos"] == 1


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vsibench is not a folder"):
        run(tmp_path, [CHOICE])


# ---- Wrong rows


@pytest.mark.parametrize(
    ("change", "word"),
    [
        pytest.param({"ground_truth": "E"}, "letter", id="a letter without an option"),
        pytest.param({"ground_truth": "table"}, "letter", id="a text for a letter"),
        pytest.param({"options": ["A. x", "A. y", "B. z", "B. w"]}, "letter", id="one letter twice"),
        pytest.param({"options": None}, "not a number", id="a letter for a number"),
        pytest.param({"options": None, "ground_truth": "nan"}, "not a number", id="NaN"),
        pytest.param({"options": None, "ground_truth": "inf"}, "not a number", id="infinity"),
        pytest.param({"options": [1, 2]}, "not text", id="numbers as options"),
        pytest.param({"question": ""}, "no question", id="no question"),
        pytest.param({"ground_truth": None}, "no ground_truth", id="no answer"),
        pytest.param({"scene_name": "../../etc/passwd"}, "not a name", id="a scene that climbs"),
        pytest.param({"dataset": "/etc"}, "not a name", id="an absolute dataset"),
        pytest.param({"dataset": ".."}, "not a name", id="the folder above"),
    ],
)
def test_wrong_rows_are_refused(change: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_question({**CHOICE, **change})


def test_wrong_rows_are_quarantined_within_the_limit(tmp_path: Path) -> None:
    videos(tmp_path / "vsibench")
    path = save(tmp_path / "test.jsonl", [CHOICE, {**CHOICE}, {**NUMBER, "ground_truth": "many"}, ["x"]])
    path.write_text(path.read_text() + "{torn\n")
    with pytest.raises(ProblemList, match="4 of 5 entries cannot be used"):
        run(tmp_path, path)
    report = run(tmp_path, path, policy=Policy(max_bad=0.8))
    assert [record.id for record in records(report)] == ["7"]
    details = [row["detail"] for row in report.rejects]
    assert details == [
        "entry 2: id 7 repeats",
        "entry 3: ground truth 'many' is not a number",
        "entry 4: not a JSON object",
        "entry 5: not a JSON object",
    ]
    with pytest.raises(DataError, match="entry 2"):
        run(tmp_path, path, policy=Policy(stop=True, max_bad=1.0))


@pytest.mark.parametrize(("text", "value"), [("4", 4.0), ("0.5", 0.5), (" 12 ", 12.0), ("1e2", 100.0), (3, 3.0)])
def test_numbers_are_read_as_floats(tmp_path: Path, text: Any, value: float) -> None:
    videos(tmp_path / "vsibench")
    (record,) = records(run(tmp_path, [{**NUMBER, "ground_truth": text}]))
    assert record.target.value == value


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    pack(tmp_path / "vsibench" / "scannet.zip", {"scannet/scene0011_00.mp4": b"video"})
    report = run(tmp_path, [CHOICE], policy=Policy(dry_run=True))
    assert report.records == 1
    assert not (tmp_path / "out").exists()


# ---- Archives


def pack(path: Path, members: dict[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["scannet/scene0011_00.mp4", "scene0011_00.mp4"])
def test_packed_videos_are_unpacked_beside_the_records(tmp_path: Path, name: str) -> None:
    pack(tmp_path / "vsibench" / "scannet.zip", {name: b"video", "scannet/other.mp4": b"other"})
    file = read_records(run(tmp_path, [CHOICE]).out)
    assert file.records[0].video.path == "media/videos/scannet/scene0011_00.mp4"
    assert file.media(file.records[0].video.path).read_bytes() == b"video"
    assert [f.name for f in (tmp_path / "out/media").rglob("*") if f.is_file()] == ["scene0011_00.mp4"]


def test_a_video_missing_in_its_archive_is_missing(tmp_path: Path) -> None:
    pack(tmp_path / "vsibench" / "scannet.zip", {"scannet/other.mp4": b"other"})
    with pytest.raises(DataError, match="1 of 1 videos are missing"):
        run(tmp_path, [CHOICE])


def test_loose_and_packed_videos_need_one_folder(tmp_path: Path) -> None:
    folder = videos(tmp_path / "vsibench", "arkitscenes/41069025.mp4")
    pack(folder / "scannet.zip", {"scannet/scene0011_00.mp4": b"video"})
    with pytest.raises(UsageError, match="no one folder") as error:
        run(tmp_path, [CHOICE, NUMBER])
    assert f"--media {folder}" in error.value.hint
    found = records(run(tmp_path, [CHOICE, NUMBER], media=folder))
    assert [r.video.path for r in found] == ["videos/scannet/scene0011_00.mp4", "arkitscenes/41069025.mp4"]


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


GOOD = "scannet/scene0011_00.mp4"


@pytest.mark.parametrize(
    ("members", "word"),
    [
        pytest.param({GOOD: b"v", "../evil": b"x"}, "not safe", id="climbing"),
        pytest.param({GOOD: b"v", "scannet/../../evil": b"x"}, "not safe", id="climbing within"),
        pytest.param({GOOD: b"v", "/tmp/evil": b"x"}, "not safe", id="absolute"),
        pytest.param({GOOD: b"v", "C:evil": b"x"}, "not safe", id="a drive"),
        pytest.param({GOOD: b"v", "a\\..\\evil": b"x"}, "not safe", id="backslashes"),
        pytest.param({link(GOOD): b"/etc/passwd"}, "link", id="a link in the video's place"),
        pytest.param({GOOD: b"v", link("other"): b"/etc"}, "link", id="a link beside it"),
    ],
)
def test_archives_with_hostile_names_are_refused_whole(tmp_path: Path, members: dict, word: str) -> None:
    pack(tmp_path / "vsibench" / "scannet.zip", members)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=word):
        run(tmp_path, [CHOICE])
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "test.jsonl"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vsibench" / "scannet.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(GOOD, b"one")
        archive.writestr(GOOD, b"two")
    with pytest.raises(DataError, match="twice"):
        run(tmp_path, [CHOICE])


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    pack(tmp_path / "vsibench" / "scannet.zip", {GOOD: bytes(5_000_000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="unpacks to 5,000,000 bytes"):
        run(tmp_path, [CHOICE])
    assert not (tmp_path / "out").exists()


def understate(data: bytes, size: int) -> bytes:
    """The archive with ``size`` as the unpacked size of its one file, in both places that say it."""
    out = bytearray(data)
    struct.pack_into("<I", out, 22, size)
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<I", out, central + 24, size)
    return bytes(out)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [10, 5000])
def test_a_size_that_is_not_true_is_noticed(tmp_path: Path, method: int, size: int) -> None:
    path = pack(tmp_path / "vsibench" / "scannet.zip", {GOOD: bytes(range(256)) * 4}, method)
    path.write_bytes(understate(path.read_bytes(), size))
    with pytest.raises(DataError, match="damaged"):
        run(tmp_path, [CHOICE])
    assert not list(tmp_path.rglob("*.mp4*"))


def test_a_damaged_member_is_noticed(tmp_path: Path) -> None:
    path = pack(tmp_path / "vsibench" / "scannet.zip", {GOOD: b"some video content"})
    path.write_bytes(path.read_bytes().replace(b"some video", b"other vide"))
    with pytest.raises(DataError, match="damaged"):
        run(tmp_path, [CHOICE])
    assert not list(tmp_path.rglob("*.mp4*"))


@pytest.mark.parametrize("cut", [0, 10, 60, 100])
def test_torn_archives_are_refused(tmp_path: Path, cut: int) -> None:
    path = pack(tmp_path / "vsibench" / "scannet.zip", {GOOD: b"v" * 100})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="not a zip archive"):
        run(tmp_path, [CHOICE])


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "vsibench" / "scannet.zip", {GOOD: b"v" * 100})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        run(tmp_path, [CHOICE])


def test_folders_in_an_archive_are_no_files(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"scannet/": b"", GOOD: b"v"})
    with open_archive(path) as archive:
        assert list(archive.members) == [GOOD]


def test_what_is_unpacked_already_stays(tmp_path: Path) -> None:
    pack(tmp_path / "vsibench" / "scannet.zip", {GOOD: b"video"})
    run(tmp_path, [CHOICE])
    path = tmp_path / "out/media/videos" / GOOD
    before = path.stat().st_mtime_ns
    run(tmp_path, [CHOICE])
    assert path.stat().st_mtime_ns == before
