from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import claim_report
import numpy as np
import pytest

ROWS = ("start", "more SFT", "GRPO")


def boxes(gain: float, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Held-out rows of one seed of boxes or numbers, GRPO ``gain`` above its start in every metric, but for noise."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.2, 0.6, 40)
    noise = rng.normal(0, 0.02, 40)
    noise -= noise.mean()

    def of(shift: float) -> list[dict[str, Any]]:
        scores = base + (shift + noise if shift else 0)
        return [{"score": float(s), "reward": 2 * float(s), "room": f"{seed}/{i}"} for i, s in enumerate(scores)]

    rows = {"start": of(0.0), "more SFT": of(0.0), "GRPO": of(gain)}
    return {f"{name}, {decoding}": rows[name] for name in ROWS for decoding in ("greedy", "sampled")}


def lists(hits: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Held-out rows of one seed of detection: ``hits`` of 4 boxes a room, no false ones."""
    rows = {
        name: [
            {"tp": hits[name], "fp": 0, "fn": 4 - hits[name], "reward": hits[name], "room": str(room)}
            for room in range(20)
        ]
        for name in ROWS
    }
    return {f"{name}, {decoding}": rows[name] for name in ROWS for decoding in ("greedy", "sampled")}


def result(task: str, seed: int, rows: dict[str, Any]) -> dict[str, Any]:
    seconds = {"start": 1.0, "grpo": 2.0, "more": 2.0}
    return {"task": task, "seed": seed, "more_steps": 7, "seconds": seconds, "rows": rows}


def verdicts(results: list[dict[str, Any]]) -> dict[str, bool | None]:
    return {text.partition(": ")[2].partition(":")[0]: holds for holds, text in claim_report.checks(results)}


def test_the_error_of_a_difference_is_that_of_pairs() -> None:
    rows = boxes(0.05, 3)
    one, two = rows["GRPO, greedy"], rows["start, greedy"]
    gain, error = claim_report.difference(one, two, "grounding", "mean IoU")
    pairs = np.array([a["score"] - b["score"] for a, b in zip(one, two, strict=True)])
    assert gain == pytest.approx(pairs.mean())
    assert error == pytest.approx(pairs.std(ddof=1) / np.sqrt(len(pairs)), rel=0.15)
    spread = np.std([r["score"] for r in two], ddof=1) / np.sqrt(len(pairs))
    assert error < spread / 2  # records differ far more than the models do on one record


def test_records_of_one_room_are_drawn_together() -> None:
    rng = np.random.default_rng(1)
    rooms = rng.uniform(0, 1, 50)
    rows = [{"score": float(rooms[i // 4]), "reward": 0.0, "room": str(i // 4)} for i in range(200)]
    _, many = claim_report.estimate(rows, claim_report.METRICS["numbers"]["MRA"])
    assert many.std(ddof=1) == pytest.approx(rooms.std(ddof=1) / np.sqrt(50), rel=0.1)


def test_pooled_f1_is_of_all_boxes_together() -> None:
    rows = [{"tp": 1, "fp": 0, "fn": 0, "room": "a"}, {"tp": 0, "fp": 3, "fn": 1, "room": "b"}]
    for name, expected in (("P", 1 / 4), ("R", 1 / 2), ("F1", 2 / 6)):
        value, _ = claim_report.estimate(rows, claim_report.METRICS["detection"][name])
        assert value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gains", "holds"),
    [
        pytest.param((0.05, 0.05, 0.05), True, id="every seed gains"),
        pytest.param((0.1, 0.1, -0.02), False, id="one seed loses"),
        pytest.param((0.001, 0.001, 0.001), False, id="a gain in every seed within the noise"),
    ],
)
def test_boxes_and_numbers_must_rise_in_every_seed_and_beyond_two_errors(gains: tuple[float, ...], holds: bool) -> None:
    for task, metric in (("grounding", "mean IoU"), ("numbers", "MRA")):
        found = verdicts([result(task, seed, boxes(gain, seed)) for seed, gain in enumerate(gains)])
        over_start = {"GRPO over start, sampled reward", f"GRPO over start, greedy {metric}"}
        assert {name: found[name] for name in over_start} == dict.fromkeys(over_start, holds)
        assert found[f"GRPO over more SFT, greedy {metric}"] is None


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
    assert found["GRPO over more SFT, greedy F1"] is holds
    assert found["GRPO over start, greedy F1"] is True


def test_a_report_shows_every_seed_and_says_what_fails(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no results"):
        claim_report.report(tmp_path)
    for seed, gain in enumerate((0.05, -0.05)):
        folder = tmp_path / f"clear-{seed}"
        folder.mkdir()
        (folder / "grounding-result.json").write_text(json.dumps(result("grounding", seed, boxes(gain, seed))))
        lines = [json.dumps({"meta": {"scene": f"scene{i // 2}"}}) for i in range(50)]
        (folder / "grounding-val.jsonl").write_text("\n".join(lines) + "\n")
    text, holds = claim_report.report(tmp_path)
    assert not holds
    assert "2 seeds, 40 held-out records of 20 rooms each" in text
    assert "| seed 1 |" in text
    assert "- NO: grounding: GRPO over start, greedy mean IoU" in text
