"""What ``grpo_step.py`` makes of its measurements: whether both sides agree, a summary, a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SIDES = ("stock", "ours")
SHOWN = ("prefill", "decode", "log_probs", "update", "whole")
TOLERANCE = 1e-4


def difference(
    stock: Mapping[str, Any], ours: Mapping[str, Any], stock_gradients: Mapping[str, Any], gradients: Mapping[str, Any]
) -> dict[str, float]:
    """Largest difference of log-probabilities, and of a weight's gradient, relative to that gradient's length.

    What is no number on either side is infinitely far from anything.
    """
    if stock.keys() != ours.keys() or stock_gradients.keys() != gradients.keys() or not gradients:
        raise ValueError("the two sides did not compute the same things")
    log_probs = [float((ours[kind] - stock[kind]).abs().max()) for kind in stock]
    relative = [
        float((gradients[name] - wanted).norm() / wanted.norm().clamp(min=1e-30))
        for name, wanted in stock_gradients.items()
    ]
    found = {"log_prob_error": log_probs, "gradient_error": relative}
    return {name: max(math.inf if math.isnan(error) else error for error in all_) for name, all_ in found.items()}


def wrong(found: Mapping[str, Any]) -> str | None:
    """Why the two sides did not compute the same, where they did not; bfloat16 is not held to it."""
    summary = found["summary"]
    if found["dtype"] != "float32":
        return None
    for name in ("log_prob_error", "gradient_error"):
        if not summary[name] <= TOLERANCE:
            return f"{name} is {summary[name]:.2e}, above {TOLERANCE:.0e}: the two sides do not compute the same"
    return None


def summary_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Named ratios; None where a row was not run."""
    by_name = {row["row"]: row for row in rows}

    def speedup(name: str, phase: str) -> float | None:
        return by_name[name]["speedup"].get(phase) if name in by_name else None

    worst = max(rows, key=lambda row: row["memory_ratio"]["whole"])
    return {
        "update_speedup_p4k_g8": speedup("4096x128x8", "update"),
        "update_speedup_p8k_g16": speedup("8192x128x16", "update"),
        "prefill_speedup_g8": speedup("4096x128x8", "prefill"),
        "step_speedup_detection": speedup("1100x770x8 detection", "whole"),
        "step_speedup_grounding": speedup("8192x128x8 grounding", "whole"),
        "memory_ratio": worst["memory_ratio"]["whole"],
        "memory_ratio_row": worst["row"],
        "memory_ratio_update": max(row["memory_ratio"]["update"] for row in rows),
        "log_prob_error": max(row["log_prob_error"] for row in rows),
        "gradient_error": max(row["gradient_error"] for row in rows),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for people: stock's seconds, ours, and how many times faster, phase by phase."""
    titles = ("prefill", "decode", "log-probs", "update", "step")
    lines = [
        f"{'prompt x completion x group':31}{'micro':>6}" + "".join(f"{title:>21}" for title in titles) + "     memory"
    ]
    for row in rows:
        cells = ""
        for phase in SHOWN:
            if phase in row["speedup"]:
                stock, ours = (row[f"{name}_s"][phase] for name in SIDES)
                cells += f"{stock:8.2f}{ours:7.2f}{row['speedup'][phase]:5.1f}x"
            else:
                cells += f"{'-':>21}"
        lines.append(f"{row['row']:31}{row['micro_batch']:6}{cells}{row['memory_ratio']['whole']:10.2f}x")
    return lines


def show(found: Mapping[str, Any]) -> None:
    """A table for people."""
    machine, summary = found["machine"], found["summary"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    print(
        f"{where}, {found['size']}, {found['dtype']}, median of {found['repeats']}; seconds of stock TRL, ours, ratio"
    )
    print(" ".join(f"{name} {version}" for name, version in found["versions"].items()), end="\n\n")
    print("\n".join(table(found["rows"])), end="\n\n")
    for name, value in summary.items():
        if value is not None:
            print(f"{name:26}{value if isinstance(value, str) else f'{value:.3g}'}")
    if found["left_out"]:
        print(f"\nleft out, for their time: {', '.join(found['left_out'])}")
