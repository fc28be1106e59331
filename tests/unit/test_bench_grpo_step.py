from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpo_step
import grpo_step_count
import grpo_step_made
import grpo_step_report
import pytest
from grpo_step_count import Shape, peak_tflops, peaks, update_flops
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPE = Shape(layers=2, hidden=8, intermediate=16, heads=4, shared_heads=2, dim=3, vocabulary=50)
small = st.integers(1, 6)


def measured(row: str, **changes: Any) -> dict[str, Any]:
    phases = {"prefill": 8.0, "decode": 2.0, "log_probs": 6.0, "update": 10.0}
    phases |= {"whole": 30.0} if " " in row else {}
    document: dict[str, Any] = {
        "row": row,
        "micro_batch": 4,
        "stock_s": phases,
        "ours_s": {phase: seconds / 2 for phase, seconds in phases.items()},
        "speedup": dict.fromkeys(phases, 2.0),
        "memory_ratio": {"whole": 0.5, "update": 0.6},
        "log_prob_error": 1e-6,
        "gradient_error": 2e-6,
    }
    return document | changes


def test_help_names_every_option() -> None:
    script = Path(grpo_step.__file__)
    found = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    for option in ("--json", "--quick", "--size", "--threads", "--repeats", "--rows", "--peak-tflops"):
        assert option in found.stdout


@pytest.mark.parametrize("module", [grpo_step, grpo_step_count, grpo_step_made], ids=lambda m: m.__name__)
def test_examples_of_the_bench_hold(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


@given(prompt=small, completion=small, group=small, shared=st.booleans())
@settings(max_examples=60, deadline=None)
def test_operations_are_those_of_every_product(prompt: int, completion: int, group: int, shared: bool) -> None:
    # Token by token: (tokens before it and itself, whether it is a completion's).
    one = [(i + 1, False) for i in range(prompt)]
    answer = [(prompt + i + 1, True) for i in range(completion)]
    tokens = one * (1 if shared else group) + answer * group
    forward = 0
    for seen, last in tokens:
        for _ in range(SHAPE.layers):
            for out in (12, 6, 6):  # queries, keys, values
                forward += 2 * 8 * out
            forward += 2 * 12 * 8 + 3 * 2 * 8 * 16
            forward += 4 * seen * (2 * 3 + 2 * 3)  # a head's scores, and its sum of values
        forward += 2 * 8 * 50 if last else 0
    assert update_flops(SHAPE, prompt, completion, group, shared=shared) == 3 * forward


def test_without_a_group_there_is_nothing_to_share() -> None:
    assert update_flops(SHAPE, 9, 4, 1, shared=True) == update_flops(SHAPE, 9, 4, 1, shared=False)
    ratio = update_flops(SHAPE, 10_000, 1, 8, shared=False) / update_flops(SHAPE, 10_000, 1, 8, shared=True)
    assert ratio == pytest.approx(8, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("NVIDIA H200", 989.0, id="H200"),
        pytest.param("NVIDIA A100-SXM4-80GB", 312.0, id="A100"),
        pytest.param("NVIDIA L4", 121.0, id="L4, which is no L40S"),
        pytest.param("NVIDIA L40S", 362.0, id="L40S"),
        pytest.param("NVIDIA A10", 125.0, id="A10, which is no A100"),
        pytest.param("NVIDIA GeForce RTX 4090", 165.0, id="two words"),
        pytest.param("Tesla K80", None, id="not known"),
    ],
)
def test_peaks_of_devices(name: str, expected: float | None) -> None:
    assert peak_tflops(name) == expected


@given(
    blocks=st.lists(st.tuples(st.integers(0, 20), st.integers(-9, 9)), max_size=12).map(sorted),
    spans=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20), st.integers(0, 20)), max_size=3),
)
@settings(max_examples=80, deadline=None)
def test_a_peak_is_the_highest_level_within_its_spans(
    blocks: list[tuple[int, int]], spans: list[tuple[str, int, int]]
) -> None:
    levels = [(moment, sum(size for _, size in blocks[: i + 1])) for i, (moment, _) in enumerate(blocks)]
    expected = {"whole": max([0, *(level for _, level in levels)])}
    for name in {name for name, _, _ in spans}:
        inside = [level for moment, level in levels if any(s <= moment <= e for other, s, e in spans if other == name)]
        expected[name] = max([0, *inside])
    assert peaks(blocks, spans) == expected


def test_the_summary_takes_its_rows_and_the_worst_memory() -> None:
    rows = [
        measured("4096x128x8", speedup={"prefill": 7.0, "update": 6.5}),
        measured("8192x128x16", speedup={"update": 12.0}, memory_ratio={"whole": 0.9, "update": 0.4}),
        measured("1100x770x8 detection", speedup={"whole": 1.9}, gradient_error=3e-5),
        measured("8192x128x8 grounding", speedup={"whole": 5.0}, memory_ratio={"whole": 0.2, "update": 0.7}),
    ]
    found = grpo_step_report.summary_of(rows)
    assert {name: value for name, value in found.items() if "speedup" in name} == {
        "update_speedup_p4k_g8": 6.5,
        "update_speedup_p8k_g16": 12.0,
        "prefill_speedup_g8": 7.0,
        "step_speedup_detection": 1.9,
        "step_speedup_grounding": 5.0,
    }
    assert (found["memory_ratio"], found["memory_ratio_row"]) == (0.9, "8192x128x16")
    assert (found["memory_ratio_update"], found["gradient_error"]) == (0.7, 3e-5)


def test_a_row_that_was_not_run_is_absent_and_not_zero() -> None:
    found = grpo_step_report.summary_of([measured("1024x128x4")])
    assert found["update_speedup_p4k_g8"] is None
    assert found["step_speedup_grounding"] is None


def test_quick_rows_give_every_name_of_the_summary() -> None:
    rows = [*grpo_step.TARGETS, *grpo_step.NAMED]
    found = grpo_step_report.summary_of([measured(str(row)) for row in rows if not row.name])
    named = grpo_step_report.summary_of([measured(str(row)) for row in rows if row.name])
    assert not [name for name in found if found[name] is None and named[name] is None]


def test_the_table_shows_what_was_measured() -> None:
    lines = grpo_step_report.table([measured("1024x128x4"), measured("8192x128x8 grounding")])
    assert len({len(line) for line in lines}) == 1
    assert lines[1].count("2.0x") == 4
    assert lines[2].count("2.0x") == 5
    assert lines[1].rstrip().endswith("0.50x")


@pytest.mark.parametrize(
    ("changes", "dtype", "word"),
    [
        pytest.param({}, "float32", None, id="equal"),
        pytest.param({"log_prob_error": 2e-4}, "float32", "log_prob_error", id="log-probs differ"),
        pytest.param({"gradient_error": float("inf")}, "float32", "gradient_error", id="no number"),
        pytest.param({"gradient_error": 2e-2}, "bfloat16", None, id="bfloat16 is only shown"),
    ],
)
def test_sides_that_differ_are_refused(changes: dict[str, float], dtype: str, word: str | None) -> None:
    found = {"dtype": dtype, "summary": grpo_step_report.summary_of([measured("1024x128x4", **changes)])}
    reason = grpo_step_report.wrong(found)
    assert (reason is None) if word is None else (reason is not None and word in reason)


def test_differences_are_the_largest_and_relative_to_each_weight() -> None:
    import torch

    stock = {"reference": torch.tensor([[-1.0, -2.0]]), "policy": torch.tensor([[-1.0, -2.0]])}
    ours = {"reference": torch.tensor([[-1.0, -2.0]]), "policy": torch.tensor([[-1.0, -1.5]])}
    wanted = {"large": torch.tensor([30.0, 40.0]), "small": torch.tensor([3e-6, 4e-6])}
    close = {"large": torch.tensor([30.0, 41.0]), "small": torch.tensor([3e-6, 5e-6])}
    found = grpo_step_report.difference(stock, ours, wanted, close)
    assert found["log_prob_error"] == 0.5
    assert found["gradient_error"] == pytest.approx(0.2)
    missed = {"reference": torch.tensor([[-1.0, float("nan")]]), "policy": stock["policy"]}
    broken = {"large": torch.tensor([float("nan"), 40.0]), "small": wanted["small"]}
    found = grpo_step_report.difference(stock, missed, wanted, broken)
    assert found == {"log_prob_error": float("inf"), "gradient_error": float("inf")}
    with pytest.raises(ValueError, match="same things"):
        grpo_step_report.difference(stock, ours, wanted, {"large": wanted["large"]})


@pytest.mark.parametrize("text", ["1024", "1024x128", "1024x128x8x2", "axbxc", "1024x128x1", "0x1x2", "-1024x128x8"])
def test_rows_that_make_no_sense_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        grpo_step.command_line().parse_args([f"--rows={text}"])
    assert "detection or grounding" in capsys.readouterr().err
