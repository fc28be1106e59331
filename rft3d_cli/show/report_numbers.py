"""Numbers of runs: curves made smooth and short, what they come to, and what stands out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from rft3d_cli.show.plot_axes import number
from rft3d_cli.show.report_runs import Curve, Floats, Run

Middle = Literal["mean", "median"]

RAW, SMOOTH = 300, 240
"""Points of a drawn line: about one a pixel."""
SPIKY = ("step_time", "grad_norm", "kl", "loss")
"""Curves that one step in a hundred would lift: their middle is the median."""
HELD_OUT = "eval/"


def thinned(curve: Curve, most: int = RAW) -> Curve:
    """A curve of little more than ``most`` points: its ends, and the least and the greatest value of every stretch.

    >>> spike = Curve(np.arange(1000.0), np.where(np.arange(1000) == 500, 9.0, 0.0))
    >>> len(thinned(spike, 100)), float(thinned(spike, 100).values.max())
    (52, 9.0)
    """
    if len(curve) <= most:
        return curve
    keep = {0, len(curve) - 1}
    for stretch in np.array_split(np.arange(len(curve)), most // 2):
        values = curve.values[stretch]
        keep |= {int(stretch[values.argmin()]), int(stretch[values.argmax()])}
    chosen = sorted(keep)
    return Curve(curve.steps[chosen], curve.values[chosen])


def smoothed(curve: Curve, middle: Middle = "mean", share: float = 1 / 12) -> Curve:
    """A curve's moving mean or median, of at most :data:`SMOOTH` points.

    The window is a share of the curve, five values at least, of which there are half at the ends. Curves of fewer than
    ten values stay as they are.
    """
    count = len(curve)
    if count < 10:
        return curve
    half = max(5, round(count * share)) // 2
    centres = np.unique(np.linspace(0, count - 1, min(count, SMOOTH)).round().astype(int))
    take: Callable[[Floats], Any] = np.median if middle == "median" else np.mean
    values = [float(take(curve.values[max(0, centre - half) : centre + half + 1])) for centre in centres]
    return Curve(curve.steps[centres], np.array(values))


def middle_of(key: str) -> Middle:
    """How a key is smoothed."""
    return "median" if key in SPIKY else "mean"


def mean_iou(run: Run) -> Curve | None:
    """Mean IoU of the boxes that detection answers give: the reward ``det_iou``, or what other rewards know of it."""
    if (own := run.curve("rewards/det_iou/mean")) is not None:
        return own
    for name in ("det_iou", "det_soft_f1"):
        total, count = run.curve(f"parts/{name}/iou_sum"), run.curve(f"parts/{name}/n_pred")
        if total is not None and count is not None:
            steps, i, j = np.intersect1d(total.steps, count.steps, return_indices=True)
            known = count.values[j] > 0
            if known.any():
                return Curve(steps[known], np.clip(total.values[i][known] / count.values[j][known], 0.0, 1.0))
    return None


def best_of(run: Run) -> dict[str, Any] | None:
    """The best held-out step: the one whose model was kept, else the best by the recipe's metric that was logged."""
    curve = run.curve(f"{HELD_OUT}{run.metric}")
    metric = run.metric
    if curve is None:
        metric = next((name for name in ("f1", "score", "reward", "loss") if f"{HELD_OUT}{name}" in run.curves), "")
        curve = run.curve(f"{HELD_OUT}{metric}")
    if run.best is not None and run.best.get("metric") == (metric or run.metric):
        return {"step": run.best["step"], "metric": run.best["metric"], "value": run.best["value"]}
    if curve is None:
        return None
    at = int(curve.values.argmin() if metric == "loss" else curve.values.argmax())
    return {"step": int(curve.steps[at]), "metric": metric, "value": float(curve.values[at])}


def summary(run: Run) -> dict[str, Any]:
    """What a run came to.

    Returns:
        ``name``, ``folder``, ``stage``, ``steps``, ``planned``, ``finished``, ``stopped`` (why it ended itself),
        ``step_seconds`` (the median), ``best``, ``held_out`` and ``metrics`` (by key: ``n``, ``start`` and ``end``,
        means over the first and the last tenth, ``min``, ``max``; held-out scores give their first and last),
        ``observations``, ``notes``.
    """
    return {
        "name": run.name,
        "folder": str(run.folder),
        "stage": run.stage,
        "recipe": (run.about.get("recipe") or {}).get("name") if isinstance(run.about.get("recipe"), dict) else None,
        "steps": run.steps,
        "planned": run.planned,
        "finished": run.finished,
        "stopped": run.stopped,
        "step_seconds": float(np.median(times.values)) if (times := run.curve("step_time")) is not None else None,
        "best": best_of(run),
        "held_out": {
            key.removeprefix(HELD_OUT): _figures(curve, float(curve.values[0]), float(curve.values[-1]))
            for key, curve in sorted(run.curves.items())
            if key.startswith(HELD_OUT)
        },
        "metrics": {
            key: _figures(curve, *curve.ends())
            for key, curve in sorted(run.curves.items())
            if not key.startswith(HELD_OUT)
        },
        "observations": list(observations(run)),
        "notes": list(run.notes),
    }


def _figures(curve: Curve, start: float, end: float) -> dict[str, Any]:
    values = curve.values
    return {"n": len(curve), "start": start, "end": end, "min": float(values.min()), "max": float(values.max())}


def observations(run: Run) -> Iterator[str]:
    """What stands out in a run, one sentence each, with what may help where something does."""
    for key in ("loss", "grad_norm", "reward", "kl"):
        if key in run.lost:
            first, count = run.lost[key]
            yield f"{key} was not a number at {count:,} step{'s' if count > 1 else ''}, first at step {first:,}."
    if run.stopped is not None:
        yield f"The run ended itself: {run.stopped}."
    yield from _of_answers(run)
    yield from _of_boxes(run)
    yield from _of_held_out(run)


def _end(run: Run, key: str) -> float:
    curve = run.curve(key)
    return curve.ends()[1] if curve is not None else 0.0


def _of_answers(run: Run) -> Iterator[str]:
    if (share := _end(run, "completions/clipped_ratio")) > 0.1:
        yield f"{share:.0%} of answers end at the length limit: raise rollout.max_tokens, or reward shorter answers."
    if (share := _end(run, "unreadable")) > 0.2:
        yield f"{share:.0%} of answers cannot be read: SFT on the answers' form comes first."
    if (share := _end(run, "frac_reward_zero_std")) > 0.5:
        yield (
            f"{share:.0%} of groups have equal rewards and teach nothing: harder records, a higher temperature or a "
            "denser reward help."
        )
    if (curve := run.curve("entropy")) is not None and len(curve) >= 10:
        start, end = curve.ends()
        if end < 0.1 * start:
            yield f"Entropy fell from {number(start)} to {number(end)}: answers hardly differ any more."
    if (curve := run.curve("reward")) is not None and len(curve) >= 30:
        start, end = curve.ends()
        spread = float(curve.values.std())
        if end < start - spread:
            yield f"The reward fell from {number(start)} to {number(end)}."


def _of_boxes(run: Run) -> Iterator[str]:
    found = [run.curve("parts/det_f1/precision"), run.curve("parts/det_f1/recall")]
    if found[0] is None or found[1] is None or len(found[0]) < 10:
        return
    (precision, now), (recall, then) = found[0].ends(), found[1].ends()
    words = f"precision {precision:.2f} to {now:.2f}, recall {recall:.2f} to {then:.2f}"
    if then < recall - 0.05 and now > precision:
        yield f"Boxes got better and fewer: {words}."
    elif now < precision - 0.05 and then > recall:
        yield f"More objects are found, and more boxes are wrong: {words}."


def _of_held_out(run: Run) -> Iterator[str]:
    best = best_of(run)
    if best is None or (curve := run.curve(f"{HELD_OUT}{best['metric']}")) is None:
        return
    last, step = float(curve.values[-1]), int(curve.steps[-1])
    worse = last - best["value"] if best["metric"] == "loss" else best["value"] - last
    if step > best["step"] and worse > 0.05 * abs(best["value"]):
        yield (
            f"Held-out {best['metric']} was best at step {best['step']:,} ({number(best['value'])}) and is "
            f"{number(last)} at step {step:,}{': best/ holds the better model' if run.best is not None else ''}."
        )
