from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli import prompts
from rft3d_cli.benchmarks import saved_tables
from rft3d_cli.benchmarks.journal import question_hash
from rft3d_cli.benchmarks.saved import read_saved
from rft3d_cli.errors import DataError
from rft3d_cli.prepare.vsibench_questions import published_questions
from rft3d_cli.records import Record

CHAIRS = "How many chair(s) are in this room?"
NEAREST = "Which of these objects is the closest to the stove?"
WAY = ["A. left", "B. right"]
# Ids are no positions: VSI-Bench's 5,130 rows have ids beyond 5,129, and their order has changed.
QUESTIONS = [
    ("17", "scene0011_00", "object_counting", CHAIRS, None, 4),
    ("3", "scene0011_00", "object_rel_distance", NEAREST, WAY, "A"),
    ("0", "scene0015_00", "object_counting", CHAIRS, None, 2),
    ("5147", "scene0015_00", "object_rel_distance", NEAREST, WAY, "B"),
]
SAID = {"17": "4", "3": "A. left", "0": "two\nor three", "5147": "B, „rechts“"}


def record(
    name: str, scene: str, kind: str, question: str, options: list[str] | None, right: Any, **meta: Any
) -> Record:
    target = {"value": right} if options is None else {"letter": right, "options": options}
    return Record.model_validate(
        {
            "id": name,
            "task": "number" if options is None else "choice",
            "video": {"path": f"scannet/{scene}.mp4"},
            "prompt": prompts.vsibench_prompt(question, options),
            "target": target,
            "meta": {"dataset": "scannet", "scene": scene, "question_type": kind, **meta},
        }
    )


RECORDS = [record(*row) for row in QUESTIONS]


def doc(index: int) -> dict[str, Any]:
    """A row of VSI-Bench as published, with the id as a number."""
    name, scene, kind, question, options, right = QUESTIONS[index]
    return {
        "id": int(name),
        "dataset": "scannet",
        "scene_name": scene,
        "question_type": kind,
        "question": question,
        "options": options,
        "ground_truth": str(right),
    }


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def own(said: dict[str, str] = SAID) -> str:
    return lines(*({"id": name, "prediction": text} for name, text in said.items()))


def logged(index: int, **more: Any) -> dict[str, Any]:
    """A line of lmms-eval's log of samples: the doc is dropped, the metric holds a copy of it."""
    text = SAID[QUESTIONS[index][0]]
    row = doc(index)
    return {
        "doc_id": index,
        "target": row["ground_truth"],
        "filtered_resps": [text],
        "doc_hash": "0f" * 32,
        "vsibench_score": {**row, "prediction": text, "accuracy": 0.0},
        "input": prompts.vsibench_prompt(row["question"], row["options"]),
        **more,
    }


def table_rows(*, ids: bool) -> list[dict[str, str]]:
    """A result table of VLMEvalKit: `index` counts rows, `video` names the scene, `candidates` is a printed list."""
    out = []
    for index, (name, scene, kind, question, options, right) in enumerate(QUESTIONS):
        row = {"index": str(index), "video": f"scannet/{scene}.mp4", "question_type": kind, "question": question}
        row |= {"candidates": "" if options is None else repr(options), "answer": str(right), "prediction": SAID[name]}
        out.append({"id": name, **row} if ids else row)
    return out


def separated(rows: list[dict[str, str]], separator: str, end: str = "\n") -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def letters(column: int) -> str:
    return chr(ord("A") + column) if column < 26 else letters(column // 26 - 1) + letters(column % 26)


def sheet(rows: list[dict[str, str]], *, shared: list[str] | None) -> str:
    """A worksheet with its texts inline, or in a table of shared texts that is filled here."""
    grid = [list(rows[0]), *(list(row.values()) for row in rows)]
    out = []
    for number, cells in enumerate(grid, start=1):
        xml = ""
        for column, text in enumerate(cells):
            place = f"{letters(column)}{number}"
            if number > 1 and text.isdecimal():
                xml += f'<c r="{place}"><v>{text}</v></c>'
            elif shared is None:
                xml += f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'
            elif text:
                shared.append(text)
                xml += f'<c r="{place}" t="s"><v>{len(shared) - 1}</v></c>'
        out.append(f'<row r="{number}">{xml}</row>')
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return f'<worksheet xmlns="{space}"><sheetData>{"".join(out)}</sheetData></worksheet>'


def workbook(path: Path, rows: list[dict[str, str]], *, inline: bool = False, **parts: str) -> Path:
    """A workbook whose first sheet is not its first file."""
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    shared: list[str] | None = None if inline else []
    body = sheet(rows, shared=shared)
    files = {
        "xl/worksheets/sheet1.xml": sheet([{"not": "this one"}], shared=None),
        "xl/worksheets/sheet2.xml": body,
        "xl/workbook.xml": f'<workbook xmlns="{space}" xmlns:r="{rel}"><sheets><sheet name="ALL" sheetId="2" '
        f'r:id="rId7"/><sheet name="old" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
        'relationships"><Relationship Id="rId1" Target="worksheets/sheet1.xml"/>'
        '<Relationship Id="rId7" Target="/xl/worksheets/sheet2.xml"/></Relationships>',
    }
    if shared is not None:
        texts = "".join(f"<si><t>{escape(text[:1])}</t><r><t>{escape(text[1:])}</t></r></si>" for text in shared)
        files["xl/sharedStrings.xml"] = f'<sst xmlns="{space}">{texts}</sst>'
    files |= {name.replace("__", "/"): text for name, text in parts.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


# ---- What is read


NO_DOC = [
    {key: value for key, value in logged(i).items() if key != "vsibench_score"} | {"doc": doc(i)} for i in range(4)
]
WRAPPED = [
    logged(i, filtered_resps=[json.dumps([f"uuid-{i}", SAID[QUESTIONS[i][0]]], ensure_ascii=False)]) for i in range(4)
]
RAW = [
    {**{key: value for key, value in logged(i).items() if key != "filtered_resps"}, "resps": [[SAID[QUESTIONS[i][0]]]]}
    for i in range(4)
]
NO_IDS = [
    {key: value for key, value in doc(i).items() if key != "id"} | {"pred": SAID[QUESTIONS[i][0]]} for i in range(4)
]
POSITIONS = [{**doc(i), "id": i, "prediction": SAID[QUESTIONS[i][0]]} for i in range(4)]


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        pytest.param("a.jsonl", own(), "rft3d", id="ours"),
        pytest.param("a.jsonl", "\ufeff" + own().replace("\n", "\r\n"), "rft3d", id="ours, BOM and CRLF"),
        pytest.param("a.jsonl", own().replace("\n", "\n\n"), "rft3d", id="ours, blank lines"),
        pytest.param("a.jsonl", own() + own(), "rft3d", id="ours, all lines twice"),
        pytest.param("a.txt", own(), "rft3d", id="ours, another suffix"),
        pytest.param("a.json", own(), "rft3d", id="lines in a .json"),
        pytest.param("a.json", json.dumps(SAID), "json", id="id to text"),
        pytest.param("a.json", json.dumps(SAID, indent=1).replace("\n", "\r\n"), "json", id="id to text, indented"),
        pytest.param("a.json", json.dumps([json.loads(line) for line in own().splitlines()]), "json", id="list"),
        pytest.param("a.jsonl", json.dumps([json.loads(line) for line in own().splitlines()], indent=1), "json",
                     id="list in .jsonl"),
        pytest.param("a.json", json.dumps([{**doc(i), "prediction": SAID[QUESTIONS[i][0]]} for i in range(4)]), "json",
                     id="rows of the benchmark with predictions"),
        pytest.param("x_samples_vsibench.jsonl", lines(*map(logged, range(4))), "lmms-eval", id="lmms-eval"),
        pytest.param("x_samples_vsibench.jsonl", lines(*map(logged, reversed(range(4)))), "lmms-eval",
                     id="lmms-eval, other order"),
        pytest.param("x_samples_vsibench.jsonl", lines(*NO_DOC), "lmms-eval", id="lmms-eval with its doc"),
        pytest.param("x_samples_vsibench.jsonl", lines(*RAW), "lmms-eval", id="lmms-eval, raw answers only"),
        pytest.param("vsibench.json", json.dumps({"args": {}, "logs": WRAPPED}), "lmms-eval", id="thinking-in-space"),
        pytest.param("a.csv", separated(table_rows(ids=True), ","), "csv", id="csv"),
        pytest.param("a.tsv", "\ufeff" + separated(table_rows(ids=True), "\t", end="\r\n"), "tsv",
                     id="tsv, BOM and CRLF"),
    ],
)  # fmt: skip
def test_predictions_are_read_by_id(tmp_path: Path, name: str, text: str, form: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    saved = read_saved(path, RECORDS)
    assert (saved.predictions, saved.format, saved.notes) == (SAID, form, [])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("a.json", json.dumps(NO_IDS), id="json without ids"),
        pytest.param("a.json", json.dumps(POSITIONS), id="ids that are positions"),
        pytest.param("a.jsonl", lines(*POSITIONS), id="ids that are positions, by lines"),
        pytest.param("a.csv", separated(table_rows(ids=False), ","), id="csv with an index"),
        pytest.param("a.tsv", separated(table_rows(ids=False)[::-1], "\t"), id="tsv, other order"),
    ],
)
def test_rows_without_ids_join_by_scene_and_question(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    saved = read_saved(path, RECORDS)
    assert saved.predictions == SAID
    assert len(saved.notes) == 1
    assert saved.notes[0].endswith("4 predictions joined by scene and question")


@pytest.mark.parametrize("inline", [True, False], ids=["inline texts", "shared texts"])
@pytest.mark.parametrize("ids", [True, False], ids=["ids", "no ids"])
def test_a_workbook_is_read(tmp_path: Path, ids: bool, inline: bool) -> None:
    saved = read_saved(workbook(tmp_path / "Model_VSI-Bench.xlsx", table_rows(ids=ids), inline=inline), RECORDS)
    assert (saved.predictions, saved.format) == (SAID, "xlsx")


def test_a_log_without_the_data_joins_by_the_whole_prompt_where_it_is_one(tmp_path: Path) -> None:
    head = "".join(f"Frame-{i}: {prompts.IMAGE}" for i in range(2)) + "\n"
    said = [RECORDS[1].model_copy(update={"id": n, "prompt": f"{head}Text: the {n} chair.\n"}) for n in ("red", "blue")]
    rows = [{"doc_id": i, "filtered_resps": [r.id], "input": r.prompt, "score": {"iou": 0}} for i, r in enumerate(said)]
    path = tmp_path / "x_samples_scanrefer.jsonl"
    path.write_text(lines(*rows), encoding="utf-8")
    saved = read_saved(path, said[::-1])
    assert saved.predictions == {"red": "red", "blue": "blue"}
    assert "the whole prompt" in saved.notes[0]


def test_images_name_the_scene_of_a_log_line(tmp_path: Path) -> None:
    same = [RECORDS[1], RECORDS[3]]
    rows = [
        {"filtered_resps": [r.id], "input": r.prompt, "score": {"images": [f"posed_images/{r.meta.scene}/00000.jpg"]}}
        for r in same
    ]
    path = tmp_path / "log.jsonl"
    path.write_text(lines(*rows), encoding="utf-8")
    assert read_saved(path, same).predictions == {"3": "3", "5147": "5147"}


def test_ids_of_the_rows_that_records_were_made_of_are_known(tmp_path: Path) -> None:
    row = QUESTIONS[0]
    known = [record(*row, source_id="q-17"), record("other", *QUESTIONS[2][1:], source_id="q-18")]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"question_id": "q-18", "response": "2"}, {"question_id": "q-17", "response": "4"}]))
    assert read_saved(path, known).predictions == {"17": "4", "other": "2"}


def test_a_folder_is_read_by_its_file_or_its_shares(tmp_path: Path) -> None:
    shares = {
        "shard-1-of-3": {"17": "4", "3": "A. left"},
        "shard-3-of-3": {"0": SAID["0"], "5147": SAID["5147"]},
    }
    for name, said in shares.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.jsonl").write_text(own(said), encoding="utf-8")
    saved = read_saved(tmp_path, RECORDS)
    assert saved.predictions == SAID
    assert saved.notes == [f"{tmp_path} lacks shard 2 of 3"]
    (tmp_path / "predictions.jsonl").write_text(own({"17": "5"}), encoding="utf-8")
    assert read_saved(tmp_path, RECORDS).predictions == {"17": "5"}


def test_confidence_comes_with_the_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"id": "a", "prediction": "[]", "confidence": [-0.5, -1]}, {"id": "b", "prediction": ""}))
    assert read_saved(path).confidence == {"a": [-0.5, -1.0]}


def test_an_evaluation_asked_again_counts_by_its_last_word(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    rows = [{"id": "a", "prediction": text, "of": stamp} for text, stamp in (("1", "old"), ("2", "new"))]
    path.write_text(lines(*rows))
    saved = read_saved(path)
    assert saved.predictions == {"a": "2"}
    assert len(saved.notes) == 1


@pytest.mark.parametrize("cut", [1, 9, 20, len(lines({"id": "b", "prediction": "Bücher"}).encode()) - 6])
def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(own({"a": "A"}).encode() + own({"b": "Bücher"}).encode()[:cut])
    saved = read_saved(path)
    assert saved.predictions == {"a": "A"}
    assert saved.notes == [f"{path} line 2 is torn and left out"]


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=30), min_size=1, max_size=8))
def test_whatever_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, said: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_text("".join(json.dumps({"id": k, "prediction": v}) + "\n" for k, v in said.items()), encoding="utf-8")
    assert read_saved(path).predictions == said


# ---- Some of the records


@pytest.mark.parametrize("chosen", [[0], [1], [0, 1], [2, 3], [3]])
def test_rows_are_joined_to_all_records_though_some_are_scored(tmp_path: Path, chosen: list[int]) -> None:
    # Row 3 asks in one scene what the record 3 asks in the other: only all records tell that the ids count rows.
    path = tmp_path / "a.jsonl"
    path.write_text(lines(*POSITIONS), encoding="utf-8")
    few = [RECORDS[i] for i in chosen]
    assert read_saved(path, few, everything=RECORDS).predictions == SAID
    alone = read_saved(path, few).predictions
    assert alone == {record.id: SAID[record.id] for record in few}


def test_a_scene_that_the_data_does_not_know_is_another_scene(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{**doc(0), "scene_name": "scene0099_00", "prediction": "4"}]))
    with pytest.raises(DataError, match="none asks what a record asks"):
        read_saved(path, RECORDS)


# ---- Ids and questions that do not agree

ROW = {**doc(1), "prediction": "A. left"}
ASKS = prompts.vsibench_prompt(NEAREST, WAY)


@pytest.mark.parametrize(
    ("row", "taken"),
    [
        pytest.param(ROW, True, id="all alike"),
        pytest.param({"id": 3, "prediction": "A. left"}, True, id="the id alone"),
        pytest.param({**ROW, "options": ["left", "right"]}, True, id="options without letters"),
        pytest.param({**ROW, "options": ["B. right", "A. left"]}, True, id="options in another order"),
        pytest.param({**ROW, "options": ["A. right", "B. left"]}, False, id="options with other letters"),
        pytest.param({**ROW, "options": ["A. le", "B. ri"]}, False, id="parts of options"),
        pytest.param({**ROW, "options": [*WAY, "C. back"]}, False, id="an option more"),
        pytest.param({**doc(0), "options": WAY, "prediction": "4"}, False, id="options of a number"),
        pytest.param({**ROW, "question_type": "object_counting"}, False, id="another type"),
        pytest.param({**ROW, "dataset": "arkitscenes"}, False, id="another data set"),
        pytest.param({**ROW, "dataset": "ScanNet"}, True, id="the data set in other letters"),
        pytest.param({**ROW, "dataset": "VSI-Bench"}, True, id="the benchmark for the data set"),
        pytest.param({**ROW, "question": "the stove?"}, False, id="a part of the question"),
        pytest.param({"id": 3, "prompt": "How far?", "prediction": "A"}, False, id="another prompt"),
        pytest.param({"id": 3, "input": "How far?", "output": "A"}, False, id="another input"),
        pytest.param({"id": 3, "prompt": ASKS, "prediction": "A. left"}, True, id="its prompt"),
        pytest.param({"id": 3, "prompt": f"USER: <image>{NEAREST} A. left B. right AI:", "prediction": "A. left"}, True,
                     id="its question in another prompt"),
        pytest.param({"id": 3, "prompt": prompts.vsibench_prompt(NEAREST, ["A. right", "B. left"]), "prediction": "A"},
                     False, id="a prompt with other letters"),
        pytest.param({"id": 3, "video": "v/scannet/scene0011_00.mp4", "prediction": "A. left"}, True, id="its clip"),
        pytest.param({"id": 3, "video": "arkitscenes/scene0011_00.mp4", "prediction": "A"}, False,
                     id="a clip of another data set"),
        pytest.param({"id": 3, "video": "scannet/scene0077_00.mp4", "prediction": "A"}, False, id="another clip"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("light", [False, True], ids=["records", "stand-ins"])
def test_an_id_is_believed_where_the_row_asks_the_same(
    tmp_path: Path, row: dict[str, Any], taken: bool, light: bool
) -> None:
    source, path = tmp_path / "test.jsonl", tmp_path / "a.jsonl"
    source.write_text(lines(*map(doc, range(4))))
    path.write_text(lines(row), encoding="utf-8")
    known = published_questions(source).records if light else RECORDS
    if taken:
        assert read_saved(path, known).predictions == {"3": "A. left"}
    else:
        with pytest.raises(DataError):
            read_saved(path, known)


def test_options_are_not_parts_of_longer_ones(tmp_path: Path) -> None:
    beds = [["A. bed", "B. sofa"], ["A. bed lamp", "B. sofa cushion"]]
    known = [record(str(i), "s0", "object_rel_distance", "Which?", options, "A") for i, options in enumerate(beds)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"scene_name": "s0", "question": "Which?", "options": beds[0], "prediction": "B"}]))
    assert read_saved(path, known).predictions == {"0": "B"}
    with pytest.raises(DataError, match="none asks"):
        read_saved(path, known[1:])


def test_a_scene_s_name_in_another_data_set_is_another_scene(tmp_path: Path) -> None:
    ark = record("1", "47", "object_counting", CHAIRS, None, 2)
    ark = ark.model_copy(update={"meta": ark.meta.model_copy(update={"dataset": "arkitscenes"})})
    path = tmp_path / "a.json"
    for row in ({"video": "scannet/47.mp4"}, {"scene_name": "47", "dataset": "scannet"}):
        path.write_text(json.dumps([{**row, "question": CHAIRS, "prediction": "9"}]))
        with pytest.raises(DataError, match="none asks"):
            read_saved(path, [ark])
    path.write_text(json.dumps([{"scene_name": 47, "dataset": "arkitscenes", "question": CHAIRS, "prediction": "9"}]))
    assert read_saved(path, [ark, RECORDS[0]]).predictions == {"1": "9"}


def test_rows_with_questions_keep_their_confidence(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines({**ROW, "confidence": [-1, -2]}))
    assert read_saved(path, RECORDS).confidence == {"3": [-1.0, -2.0]}


# ---- Answers to older records


def stamped(known: list[Record], *, media: str = "", think: bool = False) -> list[dict[str, Any]]:
    out = []
    for one in known:
        prompt = prompts.thinking_prompt(one.prompt, choice=one.task == "choice") if think else one.prompt
        of = question_hash(one.model_copy(update={"prompt": prompt})) + media
        out.append({"id": one.id, "prediction": SAID[one.id], "of": of, "confidence": []})
    return out


@pytest.mark.parametrize("media", ["", "-0123456789ab"], ids=["", "with its media"])
@pytest.mark.parametrize("think", [False, True], ids=["direct", "think"])
@pytest.mark.parametrize("shares", [False, True], ids=["", "shares"])
def test_answers_to_other_versions_of_records_are_left_out(
    tmp_path: Path, media: str, think: bool, shares: bool
) -> None:
    folder = tmp_path / "shard-1-of-1" if shares else tmp_path
    folder.mkdir(exist_ok=True)
    rows = stamped(RECORDS, media=media, think=think)
    (folder / "predictions.jsonl").write_text(lines(*rows), encoding="utf-8")
    assert (read_saved(tmp_path, RECORDS).predictions, read_saved(tmp_path, RECORDS).notes) == (SAID, [])
    clip = RECORDS[2].video.model_copy(update={"path": "scannet/other.mp4"})
    now = [RECORDS[0], RECORDS[1].model_copy(update={"prompt": "What else?"})]
    now += [RECORDS[2].model_copy(update={"video": clip}), RECORDS[3]]
    saved = read_saved(tmp_path, now[:1], everything=now)
    assert saved.predictions == {"17": SAID["17"], "5147": SAID["5147"]}
    assert saved.confidence.keys() == saved.predictions.keys()
    assert len(saved.notes) == 1
    assert "2 of 4 answers" in saved.notes[0]
    assert saved.notes[0].endswith("first 3")


def test_of_records_without_media_and_of_lines_without_stamps_nothing_is_left_out(tmp_path: Path) -> None:
    source, path = tmp_path / "test.jsonl", tmp_path / "predictions.jsonl"
    source.write_text(lines(*map(doc, range(4))))
    path.write_text(lines(*({**row, "of": "older"} for row in stamped(RECORDS))), encoding="utf-8")
    assert read_saved(path, published_questions(source).records).predictions == SAID
    assert read_saved(path).predictions == SAID
    assert read_saved(path, RECORDS).predictions == {}
    path.write_text(own(), encoding="utf-8")
    assert read_saved(path, RECORDS).predictions == SAID


# ---- What is refused


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("a.jsonl", own() + "{oops}\n" + own(), "line 5: not JSON", id="broken line"),
        pytest.param("a.jsonl", '{"id": "a", "pred', "line 1: not JSON", id="half a line only"),
        pytest.param("a.jsonl", "", "holds no predictions", id="empty"),
        pytest.param("a.json", "", "holds no predictions", id="empty json"),
        pytest.param("a.json", "[]", "holds no predictions", id="empty list"),
        pytest.param("a.json", "{}", "holds no predictions", id="empty object"),
        pytest.param("a.json", "[1]", "entry 1: not a JSON object", id="list of numbers"),
        pytest.param("a.json", "[" * 100_000, "nested too deeply", id="nested json"),
        pytest.param("a.jsonl", "[" * 100_000 + "\n", "nested too deeply", id="nested lines"),
        pytest.param("a.jsonl", '"a"\n', "line 1: not a JSON object", id="text line"),
        pytest.param("a.jsonl", own() + '{"id": "x"}\n', "line 5: a prediction is an object", id="no prediction"),
        pytest.param("a.jsonl", '{"id": "x", "prediction": 4}\n', "line 1: prediction must be text", id="number"),
        pytest.param("a.jsonl", '{"id": [1], "prediction": "4"}\n', "line 1: id must be", id="list as id"),
        pytest.param("a.jsonl", '{"id": true, "prediction": "4"}\n', "line 1: id must be", id="truth as id"),
        pytest.param("a.jsonl", '{"id": 1, "prediction": "", "confidence": [NaN]}\n', "line 1: confidence", id="nan"),
        pytest.param("a.jsonl", '{"id": 1, "prediction": "", "confidence": -1}\n', "line 1: confidence", id="number"),
        pytest.param("a.json", '[{"id": 17, "answer": "4"}]', "1: no prediction among id, answer", id="truth only"),
        pytest.param("a.json", '[{"id": 17, "pred": ["4"]}]', "entry 1: the prediction is no text", id="list as text"),
        pytest.param("a.json", '[{"index": 1, "pred": "4"}]', "1: neither an id of the data", id="index only"),
        pytest.param("a.json", json.dumps([{**NO_IDS[0], "scene_name": "scene9"}]), "no row has", id="other scenes"),
        pytest.param("x.jsonl", lines(logged(0, filtered_resps=["4", "5"])), "1: 2 different", id="two samples"),
        pytest.param("a.csv", "index,prediction\n17,4\n", "row 2: neither an id of the data nor", id="csv, index only"),
        pytest.param("a.csv", "id,answer\n17,4\n", "row 2: no prediction among id, answer", id="csv, no prediction"),
        pytest.param("a.csv", "id,prediction\n17,4,5\n", "row 2: more cells than columns", id="csv, cells to spare"),
        pytest.param("a.csv", "id,id,prediction\n17,1,4\n", "two columns have one name", id="csv, two ids"),
        pytest.param("a.csv", 'id,prediction\n17,"4\n', "a.csv: ", id="csv, open quote"),
        pytest.param("a.csv", "id,prediction\n17,4\n17,5\n", "row 3: another prediction", id="csv, two answers"),
        pytest.param("a.csv", "", "is empty", id="empty csv"),
        pytest.param("a.csv", "id,prediction\n", "holds no predictions", id="csv, head only"),
        pytest.param("a.xlsx", "PK", "no readable workbook", id="no workbook"),
    ],
)  # fmt: skip
def test_what_cannot_be_trusted_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(DataError) as caught:
        read_saved(path, RECORDS)
    assert message in caught.value.message
    assert str(path) in caught.value.message


def test_texts_that_are_no_predictions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"model": "x", "task": "y"}')
    with pytest.raises(DataError, match="none of the 2 predictions is for a record of the data"):
        read_saved(path, RECORDS)
    assert read_saved(path).predictions == {"model": "x", "task": "y"}
    path.write_text('{"0": "x", "task": "y"}')
    assert read_saved(path, RECORDS[:1], everything=RECORDS).predictions == {"0": "x", "task": "y"}


def test_two_records_that_ask_the_same_need_ids(tmp_path: Path) -> None:
    twin = RECORDS[1].model_copy(update={"id": "twin"})
    path = tmp_path / "a.json"
    path.write_text(json.dumps(NO_IDS), encoding="utf-8")
    with pytest.raises(DataError, match="entry 2: 2 records ask the same: 3, twin") as caught:
        read_saved(path, [*RECORDS, twin])
    assert "`id`" in str(caught.value.hint)


def test_options_tell_records_with_one_question_apart(tmp_path: Path) -> None:
    other = record("other", "scene0011_00", "object_rel_distance", NEAREST, ["A. back", "B. front"], "A")
    rows = [*NO_IDS, {**NO_IDS[1], "options": ["A. back", "B. front"], "pred": "B"}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert read_saved(path, [*RECORDS, other]).predictions == SAID | {"other": "B"}


def test_a_question_with_other_options_is_another_question(tmp_path: Path) -> None:
    rows = [NO_IDS[0], {**NO_IDS[1], "options": ["A. right", "B. left"]}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    saved = read_saved(path, RECORDS)
    assert saved.predictions == {"17": "4"}
    assert saved.notes[1] == f"1 of 2 rows fit no record, first {path} entry 2"


def test_shares_must_fit_together(tmp_path: Path) -> None:
    for name, said in {"shard-1-of-2": {"a": "1"}, "shard-2-of-2": {"a": "2"}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.jsonl").write_text(own(said))
    with pytest.raises(DataError, match="shard 2 of 2: another prediction for id 'a'"):
        read_saved(tmp_path)
    (tmp_path / "shard-1-of-3").mkdir()
    (tmp_path / "shard-1-of-3" / "predictions.jsonl").write_text(own({"a": "1"}))
    with pytest.raises(DataError, match="shares of 2 and 3"):
        read_saved(tmp_path)


def test_a_folder_without_predictions_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no predictions.jsonl"):
        read_saved(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_saved(tmp_path / "absent")


BOMB = '<?xml version="1.0"?><!DOCTYPE w [<!ENTITY a "aaaaaaaaaa">]><worksheet>&a;</worksheet>'


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param({"xl__worksheets__sheet2.xml": BOMB}, "declares a document type", id="entities"),
        pytest.param({"xl__worksheets__sheet2.xml": "<worksheet><row>"}, "no readable workbook", id="torn"),
        pytest.param({"xl__worksheets__sheet2.xml": '<w><row><c r="A1" t="s"><v>999</v></c></row></w>'},
                     "outside the table of texts", id="a text that is not there"),
        pytest.param({"xl__worksheets__sheet2.xml": '<w><row><c r="ZZZ1"><v>9</v></c></row></w>'},
                     "a cell is named 'ZZZ1'", id="far column"),
        pytest.param({"xl___rels__workbook.xml.rels": '<R><Relationship Id="rId7" Target="../../etc/passwd"/></R>'},
                     "holds no sheet", id="a sheet outside"),
    ],
)  # fmt: skip
def test_a_hostile_workbook_is_refused(tmp_path: Path, parts: dict[str, str], message: str) -> None:
    path = workbook(tmp_path / "a.xlsx", table_rows(ids=True), **parts)
    with pytest.raises(DataError) as caught:
        read_saved(path, RECORDS)
    assert message in caught.value.message


def test_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_tables, "MAX_SHEET", 3 << 20)
    body = "<worksheet>" + " " * (5 << 20) + "</worksheet>"
    path = workbook(tmp_path / "a.xlsx", table_rows(ids=True), **{"xl__worksheets__sheet2.xml": body})
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="unpacks to more than 3 MiB"):
        read_saved(path, RECORDS)


CELL = '<row><c t="inlineStr"><is><t>1</t></is></c></row>'


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        pytest.param(CELL, "more than 200,000 rows", id="rows"),
        pytest.param("<row>" + "<c/>" * 500 + "</row>", "more than 500,000 cells", id="empty cells"),
        pytest.param("<row/>", "more than 1,500,000 elements", id="empty rows"),
        pytest.param("<a/>", "more than 1,500,000 elements", id="other elements"),
    ],
)
def test_a_small_workbook_takes_bounded_time_and_memory(tmp_path: Path, unit: str, message: str) -> None:
    body = f"<w><sheetData>{unit * ((20 << 20) // len(unit))}</sheetData></w>"
    path = workbook(tmp_path / "a.xlsx", table_rows(ids=True), **{"xl__worksheets__sheet2.xml": body})
    assert path.stat().st_size < 120_000
    del body
    start = time.process_time()
    with pytest.raises(DataError, match=message):
        read_saved(path, RECORDS)
    assert time.process_time() - start < 20
    # Memory by a smaller one: tracing takes its time.
    tracemalloc.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(saved_tables, "MAX_ELEMENTS", 100_000)
            with pytest.raises(DataError):
                read_saved(path, RECORDS)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_empty_rows_are_none(tmp_path: Path) -> None:
    text = '<c r="{}" t="inlineStr"><is><t>{}</t></is></c>'
    head = f"<row r='3'>{text.format('A3', 'id')}{text.format('B3', 'prediction')}</row>"
    rows = f"<row r='5'/><row r='6'><c r='A6'/></row><row r='9'>{text.format('A9', '17')}{text.format('B9', '4')}</row>"
    body = f"<w><sheetData><row r='1'/>{head}{rows}</sheetData></w>"
    path = workbook(tmp_path / "a.xlsx", table_rows(ids=True), **{"xl__worksheets__sheet2.xml": body})
    assert read_saved(path, RECORDS).predictions == {"17": "4"}


def test_phonetic_hints_are_no_text(tmp_path: Path) -> None:
    def cell(text: str) -> str:
        return f'<c t="inlineStr"><is><r><t>{text}</t></r><rPh sb="0" eb="1"><t>hint</t></rPh><phoneticPr/></is></c>'

    rows = "".join(f"<row>{cell(a)}{cell(b)}</row>" for a, b in (("id", "prediction"), ("17", "4"), ("3", "A")))
    parts = {"xl__worksheets__sheet2.xml": f"<w><sheetData>{rows}</sheetData></w>"}
    path = workbook(tmp_path / "a.xlsx", table_rows(ids=True), **parts)
    assert read_saved(path, RECORDS).predictions == {"17": "4", "3": "A"}


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    thought = "so " * 100_000
    path = tmp_path / "a.csv"
    path.write_text(separated([{"id": "17", "prediction": thought}], ","), encoding="utf-8", newline="")
    assert read_saved(path, RECORDS).predictions == {"17": thought}
    assert csv.field_size_limit() < len(thought)


# ---- Quick for our own


def test_our_own_format_needs_no_other_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(own(), encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from rft3d_cli.benchmarks.saved import read_saved;"
        f"read_saved(Path({str(path)!r}));"
        "print([m for m in ('csv', 'zipfile', 'xml', 'pydantic', 'numpy', 'yaml') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_whole_benchmark_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(own({str(i): f"{i} m" for i in range(5130)}), encoding="utf-8")
    start = time.process_time()
    assert len(read_saved(path).predictions) == 5130
    assert time.process_time() - start < 0.5


def test_a_later_line_of_ours_replaces_an_earlier_one_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [{"id": "a", "prediction": "A", "confidence": [-1.0]}, {"id": "b", "prediction": "B"}]
    lines += [{"id": "b", "prediction": "B"}, {"id": "a", "prediction": "C"}]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    found = read_saved(path)
    assert (found.predictions, found.confidence) == ({"a": "C", "b": "B"}, {})
    assert found.notes == ["1 answers were replaced by later ones for the same id"]
