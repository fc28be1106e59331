from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Shown, run

from rft3d_cli.records import read_records

BUILD = "--scenes 3 --seed 4 --objects 3-4 --seconds 4 --fps 4 --size 64x48 --antialias 1 --val 0.34 --workers 1"
Rft3d = Callable[..., Shown]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "rooms"
    assert run("prepare", "rooms", "--out", folder, *BUILD.split()).code == 0
    return folder


def words(rooms: Path, out: Path | str, *more: object, command: str = "scan2cap") -> list[object]:
    told = ["--descriptions", rooms / "ScanRefer_filtered_train.json"]
    infos = ["--annotations", rooms / "embodiedscan_infos_train.json"]
    few = ["--frames", 5, "--workers", 1]
    return ["prepare", command, "--scans", rooms / "scans", *told, *infos, "-o", out, *few, *more]


def proposals(path: Path, records: Path) -> Path:
    """The objects' own boxes, as a detector that makes no mistake would have them."""
    found: dict[str, list[list[float]]] = {}
    for record in read_records(records).records:
        found.setdefault(f"scannet/{record.meta.scene}", []).append(record.meta.model_extra["gt_box"][:6])
    path.write_text(json.dumps(found))
    return path


def test_the_report_says_what_was_written_and_what_comes_next(built: Path, rft3d: Rft3d) -> None:
    shown = rft3d(*words(built, "out/train.jsonl"))
    assert shown.code == 0, shown.err
    records = read_records("out/train.jsonl").records
    assert f"wrote    out/train.jsonl  ({len(records):,} records" in shown.out
    assert "next     rft3d sft --recipe tiny-sft data.train=out/train.jsonl" in shown.err
    card = json.loads(Path("out/train.card.json").read_text())
    assert (card["command"], card["options"]["sampler"]) == ("prepare scan2cap", "linspace-floor")
    learnt = rft3d("sft", "--recipe", "tiny-sft", "data.train=out/train.jsonl", "data.eval=null", "--dry-run")
    assert learnt.code == 0, learnt.err


def test_val_records_are_to_be_scored_and_looked_at(built: Path, rft3d: Rft3d) -> None:
    shown = rft3d(*words(built, "elsewhere/val.jsonl", "--split", "val", "--media", "pictures"))
    assert "next     rft3d evaluate scan2cap --data elsewhere/val.jsonl --media-root pictures" in shown.err
    shown = rft3d("inspect", "elsewhere/val.jsonl", "--media-root", "pictures")
    assert shown.code == 0, shown.err


def test_one_json_document_and_a_dry_run_that_agrees(built: Path, rft3d: Rft3d) -> None:
    line = words(built, "out/a.jsonl", "--json")
    dry = rft3d(*line, "--dry-run").document
    assert not Path("out").exists()
    real = rft3d(*line).document
    assert (dry["records"], dry["counts"], dry["rejects"]) == (real["records"], real["counts"], real["rejects"])


def test_a_detectors_boxes_can_be_asked_about(built: Path, rft3d: Rft3d) -> None:
    assert rft3d(*words(built, "a.jsonl", "--split", "val", "--quiet")).out == "a.jsonl\n"
    shown = rft3d(*words(built, "b.jsonl", "--split", "val", "--proposals", proposals(Path("p.json"), Path("a.jsonl"))))
    assert shown.code == 0, shown.err
    assert "objects met" in shown.out
    plain, asked = (read_records(name).records for name in ("a.jsonl", "b.jsonl"))
    assert [r.prompt for r in asked] == [r.prompt for r in plain]
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()


def test_proposals_refine_the_answers_of_a_grounding_model(built: Path, rft3d: Rft3d) -> None:
    assert rft3d(*words(built, "cap.jsonl", "--split", "val")).code == 0
    assert rft3d(*words(built, "ref.jsonl", "--target", "first", command="scanrefer")).code == 0
    boxes = proposals(Path("p.json"), Path("cap.jsonl"))
    records = read_records("ref.jsonl").records
    lines = []
    for record in records:
        # Each answer is a little too far away: its own proposal is still the nearest.
        answer = json.loads(record.answer.strip("`json\n\t"))
        answer["bbox_3d"][2] += 0.35 * record.target.bbox_3d[5]
        lines.append(json.dumps({"id": record.id, "prediction": json.dumps(answer)}))
    Path("p.jsonl").write_text("\n".join(lines))
    line = ["evaluate", "scanrefer", "--data", "ref.jsonl", "-p", "p.jsonl"]
    plain = rft3d(*line, "--json").document
    document = rft3d(*line, "--proposals", boxes, "--json").document
    assert document["overall"] == plain["overall"]
    assert document["refined"]["overall"]["mean_iou"] > plain["overall"]["mean_iou"]
    assert document["refined"]["without_proposals"] == 0
    assert document["proposals"]["file"] == "p.json"
    shown = rft3d(*line, "--proposals", boxes, "--fail-under", "refined.overall.acc@0.25=1")
    assert (shown.code, shown.err) == (0, "")
    assert "overall refined" in shown.out


def test_scenes_without_proposals_are_warned_of(built: Path, rft3d: Rft3d) -> None:
    assert rft3d(*words(built, "ref.jsonl", command="scanrefer")).code == 0
    Path("p.json").write_text('{"scannet/scene9999_00": [[0, 0, 0, 1, 1, 1]]}')
    records = read_records("ref.jsonl").records
    Path("p.jsonl").write_text(json.dumps({"id": records[0].id, "prediction": ""}) + "\n")
    shown = rft3d("evaluate", "scanrefer", "--data", "ref.jsonl", "-p", "p.jsonl", "--proposals", "p.json")
    count = len(records)
    assert shown.code == 0, shown.err
    assert f"{count} of {count} records have no proposals and are not refined" in shown.err


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('{"scannet/scene0000_00": [[0, 0, 0, 1, 1]]}', id="five numbers"),
        pytest.param('{"scannet/scene0000_00": [[0, 0, NaN, 1, 1, 1]]}', id="NaN"),
        pytest.param('{"a": [], "a": []}', id="a scene twice"),
        pytest.param("[]", id="a list"),
        pytest.param(None, id="no file"),
    ],
)
def test_wrong_proposals_are_refused_before_anything_is_scored(rft3d: Rft3d, built: Path, content: str | None) -> None:
    assert rft3d(*words(built, "ref.jsonl", command="scanrefer")).code == 0
    Path("p.jsonl").write_text('{"id": "nobody", "prediction": ""}\n')
    if content is not None:
        Path("p.json").write_text(content)
    shown = rft3d("evaluate", "scanrefer", "--data", "ref.jsonl", "-p", "p.jsonl", "--proposals", "p.json")
    assert shown.code == 3
    assert "p.json" in shown.errors[0]
    assert shown.out == ""


def test_other_benchmarks_have_no_proposals(rft3d: Rft3d) -> None:
    for benchmark in ("detection", "vsibench"):
        shown = rft3d("evaluate", benchmark, "--proposals", "p.json")
        assert shown.code == 2
        assert "--proposals" in shown.errors[0]


@pytest.mark.parametrize("command", ["scan2cap", "scanrefer"])
def test_wrap_around_frames_are_named_in_records_and_card(built: Path, rft3d: Rft3d, command: str) -> None:
    shown = rft3d(*words(built, "a.jsonl", "--sampler", "wrap-around", "--seed", 3, command=command))
    assert shown.code == 0, shown.err
    assert {record.meta.sampler for record in read_records("a.jsonl").records} == {"wrap-around"}
    options = json.loads(Path("a.card.json").read_text())["options"]
    assert (options["sampler"], options["seed"]) == ("wrap-around", 3)


def test_samplings_multiply_the_records(built: Path, rft3d: Rft3d) -> None:
    counts = []
    for samplings in (1, 3):
        more = ["--sampler", "wrap-around", "--samplings", samplings, "--json"]
        counts.append(rft3d(*words(built, "a.jsonl", *more, command="scanrefer")).document["records"])
    assert counts[1] == 3 * counts[0] > 0


@pytest.mark.parametrize(
    ("command", "more"),
    [
        pytest.param("scanrefer", ["--samplings", 2], id="chronological samplings"),
        pytest.param("scanrefer", ["--samplings", 0], id="no sampling"),
        pytest.param("scan2cap", ["--sampler", "random"], id="no such sampler"),
        pytest.param("scan2cap", ["--frames", 0], id="no frame"),
        pytest.param("scan2cap", ["--seed", -1], id="negative seed"),
        pytest.param("scan2cap", ["--json", "--quiet"], id="two forms"),
        pytest.param("scan2cap", ["--shard", "3/2"], id="no such share"),
        pytest.param("scan2cap", ["-o", "a.json"], id="not a record file"),
        pytest.param("scan2cap", ["--posed-images", ".", "--media", "m"], id="exported and extracted frames"),
    ],
)
def test_wrong_options_are_usage_errors(built: Path, rft3d: Rft3d, command: str, more: list[object]) -> None:
    shown = rft3d(*words(built, "a.jsonl", *more, command=command))
    assert shown.code == 2, shown.err
    assert not any(Path().iterdir())


def test_everything_that_is_missing_is_said_at_once(rft3d: Rft3d) -> None:
    shown = rft3d("prepare", "scan2cap", "--scans", "nowhere", "--annotations", "a.pkl", "--proposals", "p.json")
    assert shown.code == 3
    missing = ("nowhere", "ScanRefer", "a.pkl", "p.json")
    assert [next(word for word in missing if word in line) for line in shown.errors] == [*missing]


def test_shares_join_to_the_whole_and_a_limit_takes_the_first(built: Path, rft3d: Rft3d) -> None:
    assert rft3d(*words(built, "whole/a.jsonl")).code == 0
    for i in (1, 2):
        assert rft3d(*words(built, f"part/{i}.jsonl", "--shard", f"{i}/2")).code == 0
    assert rft3d("prepare", "merge", "part/1.jsonl", "part/2.jsonl", "-o", "part/a.jsonl").code == 0
    assert Path("part/a.jsonl").read_bytes() == Path("whole/a.jsonl").read_bytes()
    assert rft3d(*words(built, "first/1.jsonl", "--limit", 1)).code == 0
    assert Path("first/1.jsonl").read_bytes() == Path("part/1.jsonl").read_bytes()
