from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import claim_report
import numpy as np
import pytest

ROWS = ("start", "more SFT", "GRPO")


def boxes(gain: float, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Held-out rows of one seed of boxes or numbers, GRPO ``gain`` above its start in every metric."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.2, 0.6, 40)
    noise = rng.normal(0, 0.02, 40)

    def of(shift: float) -> list[dict[str, Any]]:
        scores = base + (shift + noise if shift else 0)
        return [{"score": float(s), "reward": 2 * float(s)} for s in scores]

    rows = {"start": of(0.0), "more SFT": of(0.0), "GRPO": of(gain)}
    return {f"{name}, {decoding}": rows[name] for name in ROWS for decoding in ("greedy", "sampled")}


def lists(hits: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Held-out rows of one seed of detection: ``hits`` of 4 boxes a room, no false ones."""
    rows = {name: [{"tp": hits[name], "fp": 0, "fn": 4 - hits[name], "reward": hits[name]}] * 20 for name in ROWS}
    return {f"{name}, {decoding}": rows[name] for name in ROWS for decoding in ("greedy", "sampled")}


def result(task: str, seed: int, rows: dict[str, Any]) -> dict[str, Any]:
    seconds = {"start": 1.0, "grpo": 2.0, "more": 2.0}
    return {"task": task, "seed": seed, "more_steps": 7, "seconds": seconds, "rows": rows}


def verdicts(results: list[dict[str, Any]]) -> dict[str, bool]:
    return {text.partition(": ")[2].partition(":")[0]: holds for holds, text in claim_report.checks(results)}


def test_the_error_of_a_difference_is_that_of_pairs() -> None:
    rows = boxes(0.05, 3)
    one, two = rows["GRPO, greedy"], rows["start, greedy"]
    gain, error = claim_report.difference(one, two, "grounding", "mean IoU", claim_report._draws(len(one)))
    pairs = np.array([a["score"] - b["score"] for a, b in zip(one, two, strict=True)])
    assert gain == pytest.approx(pairs.mean())
    assert error == pytest.approx(pairs.std(ddof=1) / np.sqrt(len(pairs)), rel=0.15)
    spread = np.std([r["score"] for r in two], ddof=1) / np.sqrt(len(pairs))
    assert error < spread / 2  # records differ far more than the models do on one record


def test_pooled_f1_is_of_all_boxes_together() -> None:
    rows = [{"tp": 1, "fp": 0, "fn": 0}, {"tp": 0, "fp": 3, "fn": 1}]
    for name, expected in (("P", 1 / 4), ("R", 1 / 2), ("F1", 2 / 6)):
        value, _ = claim_report.estimate(rows, claim_report.METRICS["detection"][name], claim_report._draws(2))
        assert value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gains", "holds"),
    [
        pytest.param((0.05, 0.05, 0.05), True, id="every seed gains"),
        pytest.param((0.1, 0.1, -0.02), False, id="one seed loses"),
        pytest.param((0.001, 0.001, 0.001), False, id="a gain within the noise"),
    ],
)
def test_boxes_and_numbers_must_rise_in_every_seed_and_beyond_two_errors(gains: tuple[float, ...], holds: bool) -> None:
    for task, metric in (("grounding", "mean IoU"), ("numbers", "MRA")):
        found = verdicts([result(task, seed, boxes(gain, seed)) for seed, gain in enumerate(gains)])
        assert found == dict.fromkeys(("GRPO over start, sampled reward", f"GRPO over start, greedy {metric}"), holds)


@pytest.mark.parametrize(
    ("more", "holds"),
    [
        pytest.param(2, True, id="well above more SFT"),
        pytest.param(3, False, id="no better than more SFT"),
    ],
)
def test_detection_must_beat_more_sft_in_every_seed(more: int, holds: bool) -> None:
    good = lists({"start": 1, "more SFT": 2, "GRPO": 3})
    other = lists({"start": 1, "more SFT": more, "GRPO": 3})
    found = verdicts([result("detection", 0, good), result("detection", 1, other)])
    assert found["GRPO over more SFT, greedy F1, each seed ≥ 0.10"] is holds
    assert found["GRPO over start, greedy F1"] is True


def test_a_report_shows_every_seed_and_says_what_fails(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no results"):
        claim_report.report(tmp_path)
    for seed, gain in enumerate((0.05, -0.05)):
        folder = tmp_path / f"clear-{seed}"
        folder.mkdir()
        (folder / "grounding-result.json").write_text(json.dumps(result("grounding", seed, boxes(gain, seed))))
    text, holds = claim_report.report(tmp_path)
    assert not holds
    assert "2 seeds, 40 held-out records each" in text
    assert "| seed 1 |" in text
    assert "- NO: grounding: GRPO over start, greedy mean IoU" in text
