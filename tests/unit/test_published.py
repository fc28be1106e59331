from __future__ import annotations

from pathlib import Path

import pytest

from rft3d_cli.answers.target import target_answer
from rft3d_cli.benchmarks import detection, published, scanrefer, vsibench
from rft3d_cli.benchmarks.metrics import lookup
from rft3d_cli.benchmarks.published import context_rows, known, note, published_rows
from rft3d_cli.benchmarks.registry import BENCHMARKS
from rft3d_cli.errors import UsageError
from rft3d_cli.examples import example_record

# Copied by hand from the collected figures, apart from the file that is tested.
DETECTION = {
    "Qwen2.5-VL-3B, SFT": (32.6, 27.9, 30.0),
    "VG LLM-4B": (41.7, 35.7, 38.2),
    "VG LLM-8B": (43.4, 39.6, 41.2),
    "VLM-IE3D-4B": (44.2, 41.9, 42.8),
    "3D-RFT-4B": (54.2, 38.2, 43.7),
}
SCANREFER = {
    "SFT, no VGGT": (31.9, 9.3, None, None),
    "SFT → SFT, no VGGT": (34.2, 10.4, None, None),
    "SFT → RL, no VGGT": (38.2, 12.1, None, None),
    "VG LLM-4B (SFT, VGGT)": (36.4, 11.8, 53.5, 47.5),
    "VG LLM-8B": (41.6, 14.9, 57.6, 50.9),
    "3D-RFT-4B (SFT → RL, VGGT)": (42.9, 15.9, None, None),
    "VLM-IE3D-4B": (43.2, 16.9, 55.4, 48.9),
}
VSIBENCH = (
    "Qwen2.5-VL-3B 29.0 · vsGRPO-V-7B 40.7 · ViLaSR-7B 45.4 · SpaceR-7B 45.6 · SpatialLadder-3B 45.7 · "
    "VG LLM-4B 47.3 · VG LLM-8B 50.7 · "
    "Spatial-MLLM-4B 48.4 · GPT-5 55.0 · Cambrian-S-3B 57.3 · Cambrian-S-7B 67.5 · Qwen3-VL-8B 57.9 · "
    "VST-7B-RL 61.2 · VLM-3R-7B 60.9 · 3D-RFT-4B 62.8 · SenseNova-SI-8B 68.8 · GeoVR-2B 69.1 · SpaceMind-8B 69.6 · "
    "GeoThinker 72.6 · Cambrian-P-7B 73.7 · human 79.2 · VG LLM-8B, SFT on its own and VLM-3R's data 62.2"
)


def test_detection_rows_are_the_collected_figures() -> None:
    keys = ("classes_20.precision", "classes_20.recall", "classes_20.f1")
    assert {row.model: tuple(row.numbers[key] for key in keys) for row in published_rows("detection")} == DETECTION


def test_scanrefer_rows_are_the_collected_figures() -> None:
    keys = [f"{part}overall.acc@{t}" for part in ("", "refined.") for t in (0.25, 0.5)]
    assert {row.model: tuple(row.numbers.get(key) for key in keys) for row in published_rows("scanrefer")} == SCANREFER


def test_vsibench_rows_are_the_collected_figures() -> None:
    figures = dict(part.rsplit(" ", 1) for part in VSIBENCH.split(" · "))
    assert {row.model: f"{row.numbers['overall']:.1f}" for row in published_rows("vsibench")} == figures
    own = next(row for row in published_rows("vsibench") if row.model == "3D-RFT-4B")
    assert (own.numbers["tasks.object_counting"], own.numbers["tasks.object_abs_distance"]) == (71.2, 53.5)


ROWS = [row for name in ("detection", "scanrefer", "vsibench") for row in published_rows(name)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.benchmark}-{row.model}")
def test_a_row_has_a_source_numbers_in_percent_and_the_size_of_its_name(row: published.PublishedRow) -> None:
    assert row.source.strip()
    assert all(0 < value < 100 for value in row.numbers.values())
    assert row.headline in row.numbers.values()
    assert row.year in (None, 2026)
    assert row.size is None or f"-{row.size}" in row.model


def test_no_row_is_there_twice() -> None:
    assert len({(row.benchmark, row.model) for row in ROWS}) == len(ROWS)
    assert known() == ["detection", "scanrefer", "vsibench"]
    assert "±2 points is noise" in note()


def test_keys_are_those_of_our_own_results() -> None:
    """Each key of a row is looked up in a result of the benchmark's scorer."""
    results = {}
    for name, module, task in (
        ("detection", detection, "detection"),
        ("scanrefer", scanrefer, "grounding"),
        ("vsibench", vsibench, "number"),
    ):
        record = example_record(task)
        record = record.model_copy(update={"meta": record.meta.model_copy(update={"scene": "s"})})
        more = {"proposals": {}} if name == "scanrefer" else {}
        results[name] = module.score([record], {record.id: target_answer(record)}, **more).document
    for row in ROWS:
        for key in row.numbers:
            part, _, last = key.rpartition(".")
            inside = results[row.benchmark]
            if row.benchmark == "vsibench" and part:
                assert last in inside["tasks"]
            else:
                assert lookup(inside, key) is not None, key


def test_headlines_are_those_of_the_benchmarks() -> None:
    assert {name: BENCHMARKS[name].headline for name in published.HEADLINES} == published.HEADLINES


# ---- Beside a result


@pytest.mark.parametrize(
    ("value", "names"),
    [
        pytest.param(0.0, ["Qwen2.5-VL-3B, SFT", "VG LLM-4B", "VG LLM-8B"], id="below all"),
        pytest.param(42.0, ["VG LLM-8B", "VLM-IE3D-4B", "3D-RFT-4B"], id="among them"),
        pytest.param(99.0, ["VG LLM-8B", "VLM-IE3D-4B", "3D-RFT-4B"], id="above all"),
        pytest.param(None, [], id="not measured"),
    ],
)
def test_the_nearest_rows_stand_in_order(value: float | None, names: list[str]) -> None:
    assert [row.model for row in context_rows("detection", {"classes_20": {"f1": value}}, count=3)] == names


def test_a_benchmark_without_rows_has_no_context() -> None:
    assert published_rows("sqa3d") == context_rows("sqa3d", {"overall": {"em": 50.0}}) == []


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown benchmark 'vsi'"):
        published_rows("vsi")


def test_the_rows_lie_beside_the_module() -> None:
    assert Path(published.__file__).with_name("published.yaml").is_file()
