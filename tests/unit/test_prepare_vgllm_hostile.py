from __future__ import annotations

import copy
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vgllm_files import Room, add_images, save, talk
from vgllm_runs import IMAGES, LETTERS, RIGHT, ask, records, run

from rft3d_cli.errors import DataError, ProblemList, Rft3dError
from rft3d_cli.prepare import rowfile
from rft3d_cli.prepare.pipeline import Policy
from rft3d_cli.prepare.rowfile import read_span, read_spans

# ---- Files


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
def test_rows_are_found_however_they_are_laid_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, indent: int | None
) -> None:
    monkeypatch.setattr(rowfile, "BATCH", 3)
    monkeypatch.setattr(rowfile, "STRETCH", 16)
    rows: list[Any] = [{"a": "é" * n, "b": [n, "]},["]} for n in range(10)] + [
        [1, 2],
        "text",
        12345678901234567890,
        None,
    ]
    path = save(tmp_path / name, rows, indent)
    found, again = [], []
    for span, part in read_spans(path):
        assert span.first == len(found)
        found += part
        again += read_span(path, span)
    assert found == rows
    assert again == rows


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    for name, text in (("a.json", "\ufeff \n[{}, {}]\n"), ("a.jsonl", "\ufeff{}\n\n{}\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert [row for _, rows in read_spans(tmp_path / name) for row in rows] == [{}, {}]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(rowfile, "BATCH", 3)
    rows = [Room(1000 + seed, frames=2).detection("extrinsic") for seed in range(12)]
    rows[5] = {**rows[5], "boxes": "none"}
    path = save(tmp_path / name, rows)
    add_images(tmp_path / "media", rows)
    found = []
    for workers in (1, 2):
        report = run(tmp_path, path, policy=Policy(workers=workers, max_bad=0.5))
        found.append([report.out.read_bytes(), report.card.read_bytes(), report.rejects_file.read_bytes()])
    assert found[0] == found[1]
    assert [record.id for record in records(report)] == [f"a/{i}" for i in range(12) if i != 5]


# ---- Trouble


def changed(row: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(row)), **more}


def with_number(value: Any) -> dict[str, Any]:
    row = changed(RIGHT)
    row["boxes"][0]["bbox_3d"][0] = value
    return row


def with_answer(change: Any) -> dict[str, Any]:
    row = changed(RIGHT)
    row["conversations"][1]["value"] = change(row["conversations"][1]["value"])
    return row


REFER = Room(0).grounding("intrinsic")
VIEW = Room(0).detection("intrinsic", with_cameras=True)
SCALED = (np.diag([2.0, 2, 2, 1])).tolist()

OUTSIDE = "media outside the media folder"

HOSTILE = [
    pytest.param("text", "not an object", id="text"),
    pytest.param(None, "not an object", id="null"),
    pytest.param([RIGHT], "not an object", id="list in a list"),
    pytest.param({}, "no conversation", id="empty"),
    pytest.param({"images": IMAGES}, "no conversation", id="no conversation"),
    pytest.param(changed(RIGHT, conversations="hello"), "no conversation", id="conversation is text"),
    pytest.param(changed(RIGHT, conversations=[]), "no conversation", id="no turns"),
    pytest.param(changed(RIGHT, conversations=[["human", "hi"]]), "no conversation", id="turns are lists"),
    pytest.param(changed(RIGHT, conversations=talk("a", "b")[::-1]), "no conversation", id="answer first"),
    pytest.param(changed(RIGHT, conversations=talk(" ", "b")), "no conversation", id="no words"),
    pytest.param(changed(RIGHT, conversations=talk(7, "b")), "no conversation", id="a number for a text"),
    pytest.param(ask("a", "b") | {"conversations": talk("a", "b") * 2}, "more than one question", id="two questions"),
    pytest.param(ask("a", ""), "no answer", id="no answer"),
    pytest.param(ask("<|image_pad|>", "b"), "wrong prompt", id="a token for pixels"),
    pytest.param(ask("<image>", "b"), "wrong prompt", id="more marks than images"),
    pytest.param({"conversations": talk("a", "b")}, "no images", id="no media"),
    pytest.param(ask("a", "b", images=[]), "no images", id="no images"),
    pytest.param(ask("a", "b", images={"a": 1}), "no images", id="images are an object"),
    pytest.param(ask("a", "b", images=[3, 4]), "wrong media path", id="images are numbers"),
    pytest.param(ask("a", "b", images=["", "x"]), "wrong media path", id="an empty name"),
    pytest.param(ask("a", "b", images=["a\0.jpg", "x"]), "wrong media path", id="a zero byte"),
    pytest.param(ask("a", "b", images=["../up.jpg", "x"]), OUTSIDE, id="above the root"),
    pytest.param(ask("a", "b", images=["/etc/passwd", "x"]), OUTSIDE, id="absolute"),
    pytest.param(ask("a", "b", images=["C:\\a.jpg", "x"]), OUTSIDE, id="windows"),
    pytest.param(ask("a", "b", images=["\ud800.jpg", "x"]), OUTSIDE, id="half a pair, path"),
    pytest.param(ask("a \ud800", "b"), "no valid record", id="half a pair in a prompt"),
    pytest.param({"video": "../x", "conversations": talk("a", "b")}, OUTSIDE, id="video above"),
    pytest.param(ask("a", "b", spar_info={"type": "\ud800"}), "needs painted marks", id="half a pair in a reason"),
    pytest.param(ask("a", "b", spar_info="{"), "wrong spar_info", id="spar_info is not JSON"),
    pytest.param(ask("a", "b", spar_info="[]"), "wrong spar_info", id="spar_info is a list"),
    pytest.param(ask("a", "b", spar_info={"type": ["x"]}), "needs painted marks", id="type is a list"),
    pytest.param(with_number(float("nan")), "wrong box", id="NaN"),
    pytest.param(with_number(float("inf")), "wrong box", id="infinite"),
    pytest.param(with_number(10**400), "wrong box", id="a number of 400 digits"),
    pytest.param(with_number(1e308), "wrong box", id="larger than any room"),
    pytest.param(with_number("1"), "wrong box", id="a number as text"),
    pytest.param(with_number(None), "wrong box", id="null in a box"),
    pytest.param(with_number(True), "wrong box", id="true in a box"),
    pytest.param(with_number([1]), "wrong box", id="a list in a box"),
    pytest.param(with_number(99), "answer and boxes differ", id="answer and boxes differ"),
    pytest.param(changed(RIGHT, boxes={}), "wrong boxes", id="boxes are an object"),
    pytest.param(changed(RIGHT, boxes=[1]), "wrong boxes", id="boxes are numbers"),
    pytest.param(changed(RIGHT, boxes=[{"bbox_3d": [0] * 9}]), "wrong boxes", id="no label"),
    pytest.param(changed(RIGHT, boxes=[{"label": "a", "bbox_3d": [0] * 8}]), "wrong box", id="eight numbers"),
    pytest.param(changed(RIGHT, boxes=[{"label": "a", "bbox_3d": [-1] * 9}]), "wrong box", id="a negative size"),
    pytest.param(changed(RIGHT, boxes=[]), "answer and boxes differ", id="boxes are lost"),
    pytest.param(with_answer(lambda a: a[:-20]), "wrong answer", id="answer cut off"),
    pytest.param(with_answer(lambda a: a.replace("chair", "throne")), "answer and boxes differ", id="other labels"),
    pytest.param(with_answer(lambda a: "[" * 100_000), "wrong answer", id="brackets without end"),
    pytest.param(changed(VIEW, cam2img=None), "wrong cameras", id="one camera field is missing"),
    pytest.param(changed(VIEW, cam2global=VIEW["cam2global"][:2]), "wrong cameras", id="too few poses"),
    pytest.param(changed(VIEW, axis_align_matrix=SCALED), "wrong cameras", id="a scale"),
    pytest.param(changed(VIEW, axis_align_matrix=[[1, 2], [3]]), "wrong cameras", id="ragged"),
    pytest.param(changed(VIEW, cam2img=np.zeros((4, 4)).tolist()), "wrong cameras", id="no focal length"),
    pytest.param(changed(REFER, gt_bbox=[0] * 5), "wrong gt_bbox", id="a world box of five numbers"),
    pytest.param(changed(REFER, target={"frame": 9, "bbox_3d": [1] * 9}), "wrong target", id="frame outside"),
    pytest.param(changed(REFER, target={"frame": True, "bbox_3d": [1] * 9}), "wrong target", id="frame is true"),
    pytest.param(changed(REFER, target=[1]), "wrong target", id="target is a list"),
    pytest.param(
        changed(REFER, target={**REFER["target"], "frame": 2}), "answer and target differ", id="another frame is said"
    ),
    pytest.param(changed(REFER, gt_bbox=Room(5).world(0)), "target and gt_bbox differ", id="another world box"),
    pytest.param(
        {k: v for k, v in REFER.items() if k not in ("gt_bbox", "cam2img", "cam2global", "axis_align_matrix")},
        "no place in the world", id="neither world box nor cameras",
    ),
    pytest.param(Room(0).grounding("intrinsic", frame=None, with_cameras=False), "no target", id="no cameras"),
    pytest.param(
        changed(Room(0).grounding("intrinsic", frame=None), gt_bbox=[0, -90, 1, 1, 1, 1, 0, 0, 0]),
        "no frame shows the box", id="behind every camera",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_images(tmp_path_factory.mktemp("media"), [RIGHT, ask("a", "b")])


@pytest.mark.parametrize(("row", "reason"), HOSTILE)
def test_hostile_rows_are_left_out_with_their_reason(tmp_path: Path, media: Path, row: Any, reason: str) -> None:
    for path in (save(tmp_path / "a.json", [RIGHT, row]), save(tmp_path / "a.jsonl", [row, RIGHT])):
        report = run(tmp_path, path, media=media, policy=Policy(max_bad=1, dry_run=True))
        assert report.records == 1
        assert [reject["reason"] for reject in report.rejects] == [reason]


def test_all_hostile_rows_together_leave_the_good_one_and_a_list_of_reasons(tmp_path: Path, media: Path) -> None:
    rows, reasons = zip(*(case.values for case in HOSTILE), strict=True)
    report = run(tmp_path, save(tmp_path / "a.jsonl", [*rows, RIGHT]), media=media)
    assert [record.id for record in records(report)] == [f"a/{len(rows)}"]
    written = [json.loads(line) for line in report.rejects_file.read_text(encoding="utf-8").splitlines()]
    assert [(reject["row"], reject["reason"]) for reject in written] == list(enumerate(reasons))


def test_damaged_and_small_images_are_noticed(tmp_path: Path) -> None:
    media = add_images(tmp_path / "media", [VIEW])
    (media / VIEW["images"][0]).write_bytes(b"no picture")
    with pytest.raises(ProblemList, match="damaged image"):
        run(tmp_path, [VIEW], images=False)
    other = add_images(tmp_path / "other", [VIEW], (96, 72))
    assert list(run(tmp_path, [VIEW], media=other).warnings) == ["the camera does not fit the size of the frames"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b" \n ", "is empty", id="blank"),
        pytest.param(b"[]", "holds no rows", id="empty list"),
        pytest.param(b"\x80\x04]q\x00.", "neither a JSON list", id="a pickle"),
        pytest.param(b'"text"', "neither a JSON list", id="text"),
        pytest.param(b"[{}, {", "row 1 is not JSON", id="cut off"),
        pytest.param(b"[{} {}]", "ends or breaks after row 0", id="no comma"),
        pytest.param(b"[{},]", "row 1 is not JSON", id="a comma too many"),
        pytest.param(b"[{}", "ends or breaks after row 0", id="no end"),
        pytest.param(b'[{"a": "\xff"}]', "is not UTF-8", id="latin"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="brackets without end"),
        pytest.param(b"{]\n[}\n", "nothing to write from 2 rows: 2 × not JSON", id="no JSON lines"),
        pytest.param(b"[" + b"9" * 5000 + b"]", "row 0 is not JSON", id="a number without end"),
    ],
)
def test_files_that_hold_no_rows_are_data_errors(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(Rft3dError, match=words) as caught:
        run(tmp_path, path)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("opening", [b'[{"a": "', b'{"a": "'], ids=["list", "lines"])
def test_a_row_that_is_too_large_is_refused_before_all_of_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opening: bytes
) -> None:
    monkeypatch.setattr(rowfile, "MAX_ROW", 1 << 16)
    monkeypatch.setattr(rowfile, "STRETCH", 1 << 12)
    path = tmp_path / "a.json"
    path.write_bytes(opening + b"x" * (1 << 22))
    with pytest.raises(DataError, match=r"not JSON|more than"):
        run(tmp_path, path)


def test_repeated_ids_stay_apart(tmp_path: Path) -> None:
    report = run(tmp_path, [ask("How many?", str(n), id="same") for n in range(3)])
    assert [record.id for record in records(report)] == [f"scannet_train/{n}" for n in range(3)]
    assert {record.meta.model_extra["source_id"] for record in records(report)} == {"same"}


def test_bad_rows_fail_beyond_the_limit_and_name_themselves(tmp_path: Path) -> None:
    rows = [RIGHT, with_number(None), RIGHT]
    with pytest.raises(ProblemList) as caught:
        run(tmp_path, rows, policy=Policy(max_bad=0.01))
    assert "1 of 3 rows cannot be used" in caught.value.problems[0].message
    assert "row 1" in caught.value.problems[1].message
    painted = ask("a", "b", spar_info={"type": "position_matching"})
    with pytest.raises(DataError, match="row 1"):
        run(tmp_path, [painted, with_number(None), RIGHT], policy=Policy(stop=True))


def test_a_mixed_file_gives_records_of_every_task(tmp_path: Path) -> None:
    rows = [RIGHT, REFER, ask(LETTERS, "A"), ask("How far?", "1.5"), ask("What?", "A bed.")]
    tasks = Counter(record.task for record in records(run(tmp_path, rows)))
    assert tasks == dict.fromkeys(("detection", "grounding", "choice", "number", "text"), 1)


JUNK = [
    None,
    True,
    -1,
    0,
    1e308,
    5e-324,
    float("nan"),
    10**400,
    2**63,
    "",
    "x",
    "\ud800",
    "<image>",
    "../a",
    [],
    {},
    [[]],
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


@pytest.mark.parametrize("seed", range(4))
def test_rows_with_a_wrong_value_anywhere_never_break_the_run(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    good = [
        RIGHT,
        VIEW,
        REFER,
        Room(0).grounding("intrinsic", frame=None),
        ask(LETTERS, "A", spar_info={"type": "nav"}),
    ]
    rows = []
    for _ in range(80):
        row = copy.deepcopy(rng.choice(good))
        *way, last = rng.choice(places(row)[1:])
        inner: Any = row
        for key in way:
            inner = inner[key]
        inner[last] = rng.choice(JUNK)
        rows.append(row)
    add_images(tmp_path / "media", good)
    path = save(tmp_path / "a.json", [*good, *rows])
    report = run(tmp_path, path, allow_missing=True, angles=["intrinsic", "extrinsic"][seed % 2])
    assert report.records + len(report.rejects) == 85
    assert records(report)[0].id == "a/0"
