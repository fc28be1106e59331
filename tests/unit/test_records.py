from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.errors import DataError
from rft3d_cli.records import (
    Record,
    media_path,
    missing_media,
    parse_record,
    read_predictions,
    read_records,
    write_records,
)

BOX = [0.42, -0.31, 2.18, 0.55, 0.93, 0.57, 1.2, 0.1, -0.2]


def detection(**changes: object) -> dict[str, object]:
    record: dict[str, object] = {
        "schema": 1,
        "id": "scene0011_00/det/00120",
        "task": "detection",
        "video": {"frames": ["a/00120.jpg", "a/00150.jpg"], "times": [4.0, 5.0]},
        "prompt": "Detect.",
        "answer": "[]",
        "target": {"boxes": [{"label": "chair", "bbox_3d": BOX}]},
    }
    return {**record, **changes}


def camera(poses: int, **changes: object) -> dict[str, object]:
    eye = [[float(i == j) for j in range(4)] for i in range(4)]
    intrinsic = [row[:3] for row in eye[:3]]
    known = {"intrinsic": intrinsic, "image_size": [4, 3], "cam_to_world": [eye] * poses, "axis_align": eye}
    return {**known, **changes}


def grounding(frame: int) -> dict[str, object]:
    return detection(task="grounding", target={"frame": frame, "bbox_3d": BOX, "bbox_world": BOX})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        pytest.param(detection(prompt=""), "prompt", id="empty prompt"),
        pytest.param(detection(schema=2), "schema", id="another schema"),
        pytest.param(detection(id="a\ud800"), "surrogate", id="half a surrogate pair"),
        pytest.param(detection(colour="red"), "unknown field colour", id="unknown field"),
        pytest.param(detection(task="dance"), "task", id="unknown task"),
        pytest.param(detection(target=None), "needs a target", id="no target"),
        pytest.param(detection(target={"boxes": [{"label": "x", "bbox_3d": BOX[:8]}]}), "bbox_3d", id="eight numbers"),
        pytest.param(detection(target={"boxes": [{"label": "x", "bbox_3d": [*BOX[:3], -1, 1, 1, 0, 0, 0]}]}),
                     "bbox_3d.3", id="negative size"),
        pytest.param(detection(target={"value": 3}), "missing field boxes", id="target of another task"),
        pytest.param(detection(video={"frames": []}), "frames", id="no frames"),
        pytest.param(detection(video={"frames": ["a"], "times": [1.0, 2.0]}), "2 times for 1 frames", id="times"),
        pytest.param(detection(video={"path": "a.mp4", "frames": 0}), "video", id="zero frames of a clip"),
        pytest.param(grounding(2), "frame 2 of a clip of 2 frames", id="target frame outside the clip"),
        pytest.param(detection(target={"boxes": [{"label": " ", "bbox_3d": BOX}]}), "needs letters", id="blank label"),
        pytest.param(detection(target={"boxes": [{"label": "x" * 101, "bbox_3d": BOX}]}), "label", id="long label"),
        pytest.param(detection(task="choice", target={"letter": "E", "options": ["A. one", "B. two"]}),
                     "none of 2 options is 'E'", id="a letter of no option"),
        pytest.param(detection(camera=camera(1)), "1 poses for 2 frames", id="too few poses"),
        pytest.param(detection(camera=camera(2, image_size=[0, 5])), "image_size", id="an empty picture"),
        pytest.param(detection(task="grounding", video={"path": "a.mp4", "frames": 4}, camera=camera(1),
                               target={"frame": 1, "bbox_3d": BOX, "bbox_world": BOX}),
                     "no pose for the target's frame 1", id="no pose at the target"),
        pytest.param({k: v for k, v in detection().items() if k != "video"}, "missing field video", id="no video"),
    ],
)  # fmt: skip
def test_a_wrong_record_is_refused_with_the_field_that_is_wrong(record: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace(".", r"\.")) as problem:
        parse_record(json.dumps(record))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "3", '{"id": NaN}', '{"a": ' + "[" * 100_000])
def test_text_that_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not|nested"):
        parse_record(text)


def test_not_a_number_is_refused() -> None:
    line = json.dumps(detection()).replace("0.42", "NaN")
    with pytest.raises(ValueError, match="NaN"):
        parse_record(line)


def test_numeric_ids_are_read_as_text() -> None:
    assert parse_record(json.dumps(detection(id=17))).id == "17"


finite = st.floats(-50, 50)
size = st.floats(0, 5)
boxes = st.tuples(finite, finite, finite, size, size, size, finite, finite, finite)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=8).filter(str.strip), boxes), max_size=5),
    st.text(min_size=1, max_size=20),
)
def test_a_record_survives_writing_and_reading_exactly(found: list[tuple[str, tuple[float, ...]]], prompt: str) -> None:
    target = {"boxes": [{"label": label, "bbox_3d": list(box)} for label, box in found]}
    record = Record.model_validate(detection(target=target, prompt=prompt))
    assert parse_record(record.to_json()) == record
    assert "\n" not in record.to_json()


def test_files_round_trip_and_name_the_wrong_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    records = [Record.model_validate(detection(id=f"r{i}")) for i in range(3)]
    assert write_records(path, records) == 3
    assert read_records(path).records == records
    assert [r.id for r in read_records(path, limit=2).records] == ["r0", "r1"]
    with path.open("a") as stream:
        stream.write('{"schema": 1}\n')
    with pytest.raises(DataError, match=r"r\.jsonl line 4: missing field id"):
        read_records(path)
    kept = read_records(path, quarantine=True)
    assert kept.records == records
    assert [(reject.line, reject.reason) for reject in kept.rejects] == [(4, "missing field id")]


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_records(path, [Record.model_validate(detection())] * 2)
    with pytest.raises(DataError, match="repeats line 1"):
        read_records(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_a_data_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"does not exist|is a folder"):
        read_records(tmp_path / name)


def test_an_empty_file_and_a_binary_one_are_data_errors(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text("\n\n")
    with pytest.raises(DataError, match="holds no records"):
        read_records(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_records(path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "c:\\x.jpg", "file:x"])
def test_media_paths_cannot_leave_their_root(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="leaves the media root"):
        media_path(tmp_path, path)


def test_missing_media_are_counted_and_named_once(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_records(path, [Record.model_validate(detection(id=f"r{i}")) for i in range(3)])
    problem = missing_media(read_records(path))
    assert problem is not None
    assert "2 of 2 media files are missing" in problem.message
    (tmp_path / "a").mkdir()
    for name in ("00120", "00150"):
        (tmp_path / "a" / f"{name}.jpg").touch()
    assert missing_media(read_records(path)) is None


def test_predictions_torn_within_a_character_lose_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    whole = '{"id": "a", "prediction": "né"}\n{"id": "b", "prediction": "n'.encode()
    path.write_bytes(whole + "é".encode()[:1])
    assert read_predictions(path) == {"a": "né"}
    path.write_bytes(whole + "é".encode()[:1] + b'"}\n')
    with pytest.raises(DataError, match="not UTF-8 text: line 2"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param('[{"id": "a", "prediction": "A"}]', "line 1: a prediction is an object", id="a list"),
        pytest.param('{"id": "a", "answer": "B"}', "line 1: a prediction is an object", id="another key"),
        pytest.param('{"id": "a", "prediction": 3}', "line 1: prediction must be text", id="a number"),
        pytest.param("[" * 100_000 + "\n", "line 1: nested too deeply", id="nested deeply"),
    ],
)
def test_a_whole_line_that_is_no_prediction_is_an_error_also_at_the_end(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=why):
        read_predictions(path)


def test_predictions_keep_the_last_line_of_an_id_and_pass_over_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": 1, "prediction": "old"}\n{"id": "1", "prediction": "new", "x": 2}\n{"id": "2", "predi')
    assert read_predictions(path) == {"1": "new"}
    path.write_text('{"id": "1"}\n{"id": "2", "prediction": null}\n')
    with pytest.raises(DataError, match="line 1"):
        read_predictions(path)


def test_writing_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("before")

    def broken() -> object:
        yield Record.model_validate(detection())
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        write_records(path, broken())  # type: ignore[arg-type]
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
