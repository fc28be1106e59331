from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Shown, record

from rft3d_cli.records import Record, write_records

SCENES = 8


def question(index: int) -> Record:
    kind, answer = (("object_counting", 4), ("object_size_estimation", 100))[index % 2]
    meta = {"question_type": kind, "scene": f"scene{index // 4:04d}_00"}
    return record("number", "how many", "", {"value": answer}, name=f"q{index}", **meta)


RECORDS = [question(index) for index in range(4 * SCENES)]


def save(path: str, texts: list[str]) -> None:
    rows = [{"id": one.id, "prediction": text} for one, text in zip(RECORDS, texts, strict=True)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def evaluated(rft3d):
    """Runs commands beside three evaluations: wrong in half, wrong in a quarter, and read by the other scorer."""
    write_records("val.jsonl", RECORDS)
    right = [f"{one.target.value:g}" for one in RECORDS]
    save("half.jsonl", [text if i % 4 < 2 else "none" for i, text in enumerate(right)])
    save("quarter.jsonl", [text if i % 4 < 3 else "none" for i, text in enumerate(right)])
    for name, options in (("half", ()), ("quarter", ()), ("tolerant", ("--scorer", "robust"))):
        said = "half" if name == "tolerant" else name
        shown = rft3d("evaluate", "vsibench", "-d", "val.jsonl", "-p", f"{said}.jsonl", "--out", name, *options)
        assert shown.code == 0, shown.err
    return rft3d


def compare(rft3d, *words: object) -> Shown:
    return rft3d("evaluate", "compare", *words)


def test_a_table_says_what_improved(evaluated):
    shown = compare(evaluated, "half", "quarter")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0] == "vsibench: 32 records of 8 scenes"
    assert lines[1:3] == ["A  half  half.jsonl", "B  quarter  quarter.jsonl"]
    head = next(line.split() for line in lines if line.startswith("overall "))
    # Counting goes from 8 of 16 to 16 of 16, sizes stay at 8 of 16; all scenes alike.
    assert head == ["overall", "32", "50.0", "75.0", "+25.0", "+25.0", "to", "+25.0", "0.008"]
    assert "records: 8 better, 0 worse, 24 the same" in lines
    assert "overall: B is better, by +25.0 (+25.0 to +25.0)" in lines
    assert "asked differently" not in shown.out


def test_quiet_says_the_verdict_alone(evaluated):
    shown = compare(evaluated, "half", "quarter", "--quiet", "--changed", "changed.jsonl")
    assert (shown.out, shown.err) == ("overall: B is better, by +25.0 (+25.0 to +25.0)\n", "")
    assert Path("changed.jsonl").is_file()
    assert compare(evaluated, "half", "half", "--quiet", "--json").code == 2


def test_the_document_has_every_number(evaluated):
    document = compare(evaluated, "half", "quarter", "--json", "--show", 1).document
    head = ("schema", "benchmark", "records", "scenes", "headline")
    assert [document[key] for key in head] == [1, "vsibench", 32, 8, "overall"]
    counting = document["measures"]["tasks.object_counting"]
    assert counting.pop("interval") == pytest.approx([50.0, 50.0])
    assert counting == pytest.approx({"n": 16, "a": 50.0, "b": 100.0, "difference": 50.0, "p": 2 / 2**8})
    assert document["changed"] == {"better": 8, "worse": 0, "same": 24}
    assert (document["interval"]["method"], document["test"]["method"]) == (
        "paired bootstrap by scene",
        "two-sided sign-flip permutation test by scene",
    )
    assert [line["id"] for line in document["most_changed"]] == ["q2"]


def test_changed_records_are_listed_and_written(evaluated):
    shown = compare(evaluated, "half", "quarter", "--show", 2, "--changed", "why/changed.jsonl")
    assert "  wrote   why/changed.jsonl" in shown.err
    lines = [json.loads(line) for line in Path("why/changed.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == [f"q{index}" for index in range(2, 32, 4)]
    assert (lines[0]["a"]["score"], lines[0]["b"]["answer"], lines[0]["difference"]) == (0.0, 4.0, 1.0)
    assert "0.00 → 1.00" in shown.out
    assert shown.out.count("0.00 → 1.00") == 2


@pytest.mark.parametrize(("sides", "code"), [(("half", "quarter"), 0), (("half", "half"), 0), (("quarter", "half"), 5)])
def test_a_gate_closes_where_interval_and_test_say_worse(evaluated, sides, code):
    shown = compare(evaluated, *sides, "--fail-if-worse")
    assert shown.code == code
    assert shown.errors == ([] if code == 0 else ["overall is worse by 25.00, 95% CI -25.0 to -25.0, p 0.008"])


@pytest.mark.parametrize(("scenes", "words"), [(5, "too few scenes to tell"), (6, "B is worse, by -25.0")])
def test_few_scenes_have_no_verdict(evaluated, scenes, words):
    # All scenes lose as much, so the interval is one point; the test cannot say so with five scenes: p = 2 / 2**5.
    for name in ("half", "quarter"):
        path = Path(name) / "details.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: 4 * scenes]))
        (Path(name) / "result.json").unlink()
    shown = compare(evaluated, "quarter", "half", "--fail-if-worse")
    assert shown.code == 5
    assert words in shown.out
    assert ("B is worse" in shown.out) is (scenes == 6)
    document = compare(evaluated, "quarter", "half", "--json").document
    assert document["verdict"] == (None if scenes == 5 else "worse")


def test_details_of_another_run_are_refused(evaluated):
    from rft3d_cli.files import sha256

    result = json.loads(Path("half/result.json").read_text())
    result["details"] = {"sha256": sha256(Path("half/details.jsonl"))}
    Path("half/result.json").write_text(json.dumps(result))
    assert compare(evaluated, "half", "quarter").code == 0
    Path("half/details.jsonl").write_bytes(Path("tolerant/details.jsonl").read_bytes() + b"\n")
    shown = compare(evaluated, "half", "quarter")
    assert (shown.code, len(shown.errors)) == (3, 1)
    assert "half/details.jsonl does not hold the details of half/result.json" in shown.errors[0]
    assert "repeat the evaluation" in shown.hint


def test_a_gate_without_an_interval_stays_closed(rft3d):
    write_records("val.jsonl", RECORDS[:4])
    Path("said.jsonl").write_text('{"id": "q0", "prediction": "4"}\n')
    assert rft3d("evaluate", "vsibench", "-d", "val.jsonl", "-p", "said.jsonl", "--out", "one").code == 0
    assert compare(rft3d, "one", "one").code == 0
    shown = compare(rft3d, "one", "one", "--fail-if-worse")
    assert (shown.code, shown.errors) == (5, ["overall: too few scenes to tell whether it is worse"])


def test_other_settings_stand_in_a_table(evaluated):
    shown = compare(evaluated, "half", "tolerant")
    table = shown.out[shown.out.index("asked differently") :].splitlines()
    assert [line.split() for line in table] == [["asked", "differently", "A", "B"], ["scorer", "official", "robust"]]
    assert "overall: no difference shown" in shown.out


def test_details_of_a_file_are_read_as_well(evaluated):
    shown = compare(evaluated, "half/details.jsonl", "quarter/result.json")
    assert "overall: B is better" in shown.out


def test_other_records_need_common(evaluated):
    shown = evaluated("evaluate", "vsibench", "-d", "val.jsonl", "-p", "half.jsonl", "--out", "few", "--limit", 16)
    assert shown.code == 0
    shown = compare(evaluated, "half", "few")
    assert (shown.code, shown.errors) == (3, ["half has 16 records that few lacks, which has 0 of its own"])
    assert shown.hint == "--common compares the 16 records that both have"
    shown = compare(evaluated, "half", "few", "--common")
    assert shown.code == 0
    assert "vsibench: 16 records of 4 scenes" in shown.out
    assert "16 common records are compared" in shown.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(("absent", "half"), 3, "absent does not exist", id="absent"),
        pytest.param(
            (".", "half"), 3, ". holds no details.jsonl, which says how each record scored", id="no evaluation"
        ),
        pytest.param(("half", "val.jsonl"), 3, "val.jsonl line 1 is no detail of an evaluation", id="records"),
        pytest.param(
            ("half", "half", "--changed", "half/details.jsonl"), 2, "is what is compared", id="over its input"
        ),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(evaluated, words, code, said):
    before = Path("half/details.jsonl").read_bytes()
    shown = compare(evaluated, *words)
    assert shown.code == code
    assert len(shown.errors) == 1
    assert said in shown.errors[0]
    assert shown.hint
    assert Path("half/details.jsonl").read_bytes() == before


def test_published_rows_are_printed_with_their_sources(rft3d):
    shown = rft3d("evaluate", "published")
    assert shown.code == 0
    assert "vsibench: VSI-Bench, mean of 8 tasks" in shown.out
    row = next(line for line in shown.out.splitlines() if line.startswith("GeoThinker"))
    assert "72.6" in row
    assert row.endswith("abstract of arXiv 2602.06037")
    assert "±2 points is noise" in shown.err
    document = rft3d("evaluate", "published", "detection", "--json").document
    assert {row["benchmark"] for row in document["results"]} == {"detection"}
    assert document["results"][-1]["numbers"]["classes_20.f1"] == 43.7


def test_an_unknown_benchmark_has_no_published_rows(rft3d):
    shown = rft3d("evaluate", "published", "mnist")
    assert (shown.code, shown.errors) == (2, ["unknown benchmark 'mnist'"])
    assert "no published results of sqa3d are kept" in rft3d("evaluate", "published", "sqa3d").out
