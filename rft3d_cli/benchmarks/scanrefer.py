"""ScanRefer: the share of descriptions whose box overlaps the right one by at least 0.25 and 0.5.

The ``official`` scorer reads the first line that holds ``bbox_3d`` as one Python literal: it must be a dict with an
integer ``frame`` within the clip and nine numbers. The frame only places the box. The ``robust`` one reads the object
wherever it stands.

Boxes that a detector proposed for the scene can refine the answers, as VG-LLM's own script does: each answer is then
also scored as the proposal that it overlaps most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rft3d_cli.answers import read_grounding
from rft3d_cli.answers.literal import read_literal
from rft3d_cli.benchmarks.official import as_box, strip_fence
from rft3d_cli.benchmarks.result import (
    Result,
    Row,
    check_options,
    clean,
    header,
    interval,
    official_text,
    percent,
    ratio,
    scene_draws,
    scene_index,
    sum_by_scene,
)
from rft3d_cli.errors import DataError
from rft3d_cli.geometry.boxes import Floats, angles_from_rotation, rotation_from_angles
from rft3d_cli.geometry.iou import box_iou, paired_iou
from rft3d_cli.records import Camera, GroundingTarget, Record
from rft3d_cli.rewards.grounding import frame_problem

THRESHOLDS = (0.25, 0.5)
SUBSETS = ("overall", "unique", "multiple")
METRICS = ("acc@0.25", "acc@0.5", "mean_iou")


def score(
    records: Sequence[Record],
    predictions: Mapping[str, str],
    *,
    scorer: str = "official",
    answer_style: str = "direct",
    seed: int = 0,
    intervals: bool = True,
    proposals: Mapping[str, Floats] | None = None,
) -> Result:
    """Score ScanRefer predictions.

    Args:
        records: Grounding records with cameras; ``meta.subset`` is ``unique`` or ``multiple`` where known.
        predictions: Record id → text.
        scorer: ``official`` or ``robust``.
        answer_style: ``think`` takes the answer out of its tags before the official reading; ``robust`` always does.
        seed: Of the intervals.
        intervals: Whether to resample scenes for them.
        proposals: ``(N, 9)`` boxes in the axis-aligned world, by scene, to refine the answers by.

    Returns:
        In the document, ``overall``, ``unique`` and ``multiple`` hold ``acc@0.25``, ``acc@0.5``, ``mean_iou`` and
        ``n``. A record's score in the details is its IoU. With proposals, ``refined`` holds the same three of the
        refined answers, and ``without_proposals``, the records of scenes that have none and are left as they are.

    Raises:
        UsageError: On an unknown scorer or answer style.
        DataError: On a record that is no grounding record, or has no cameras.

    The frame only places the box. Here the wrong one puts it half a metre, half its width, from the target:

    >>> from rft3d_cli.answers.target import target_answer
    >>> from rft3d_cli.examples import example_record
    >>> record = example_record("grounding")
    >>> wrong = target_answer(record).replace('"frame": 1', '"frame": 0')
    >>> overall = score([record], {record.id: wrong}).document["overall"]
    >>> overall["acc@0.25"], overall["acc@0.5"], round(overall["mean_iou"], 2)
    (100.0, 0.0, 33.33)

    The right one as ``1.0`` is no integer to the official scorer:

    >>> text = target_answer(record).replace('"frame": 1', '"frame": 1.0')
    >>> results = [score([record], {record.id: text}, scorer=scorer) for scorer in ("official", "robust")]
    >>> [result.document["overall"]["acc@0.5"] for result in results]
    [0.0, 100.0]
    """
    check_options(scorer, answer_style)
    details: list[dict[str, Any]] = []
    unreadable: list[str] = []
    placed: list[tuple[int, Floats, Floats]] = []
    targets = np.zeros((len(records), 9))
    for index, record in enumerate(records):
        target, camera = record.target, record.camera
        if not isinstance(target, GroundingTarget) or camera is None:
            problem = "has no cameras" if isinstance(target, GroundingTarget) else f"is a {record.task} record"
            raise DataError(f"record {record.id} {problem}", "ScanRefer needs grounding records with cameras")
        targets[index] = target.bbox_world
        text = predictions.get(record.id)
        frame, box, why = None, None, "no prediction"
        if text is not None:
            if scorer == "robust":
                frame, box, why = _robust(text)
            else:
                frame, box, why = _official(official_text(text, answer_style))
            if frame is None:
                unreadable.append(record.id)
            else:
                why = frame_problem(int(frame), record)
        if frame is not None and box is not None and not why:
            placed.append((index, box, _pose(camera, frame)))
        answer = None if frame is None or box is None else {"frame": frame, "bbox_3d": box.tolist()}
        details.append({"id": record.id, "score": 0.0, "parts": {}, "answer": answer, "why": why})
    rows = [index for index, _, _ in placed]
    world = _to_world(placed) if placed else np.zeros((0, 9))
    iou = _spread(paired_iou(world, targets[rows]), rows, len(records))
    for detail, value in zip(details, iou.tolist(), strict=True):
        detail["score"] = value
        detail["parts"] = {f"acc@{t:g}": float(value >= t) for t in THRESHOLDS} | {"iou": value}
        detail["why"] = detail["why"] or f"IoU {value:.3f}"
    subsets = _subsets(records, iou, seed if intervals else None)
    options = {"scorer": scorer, "answer_style": answer_style}
    document = {
        **header("scanrefer", records, predictions, details, unreadable, options),
        **{name: {"n": n, **{m: value for m, (value, _) in numbers.items()}} for name, (n, numbers) in subsets.items()},
        "intervals": _intervals(subsets) if intervals else {},
        "seed": seed,
    }
    table = [
        Row(name, metric, n, value, bounds)
        for name, (n, numbers) in subsets.items()
        for metric, (value, bounds) in numbers.items()
    ]
    if proposals is not None:
        better = refine(world, [records[index].meta.scene for index in rows], proposals)
        refined = _spread(paired_iou(better, targets[rows]), rows, len(records))
        for detail, value in zip(details, refined.tolist(), strict=True):
            detail["parts"]["refined_iou"] = value
        more = _subsets(records, refined, seed if intervals else None)
        document["refined"] = {
            **{name: {"n": n, **{m: value for m, (value, _) in ms.items()}} for name, (n, ms) in more.items()},
            "without_proposals": sum(_none_for(record.meta.scene, proposals) for record in records),
        }
        document["intervals"] |= _intervals(more, "refined.") if intervals else {}
        table += [
            Row(f"{name} refined", metric, n, value, bounds)
            for name, (n, numbers) in more.items()
            for metric, (value, bounds) in numbers.items()
        ]
    return Result(clean(document), table, details)


def refine(boxes: Floats, scenes: Sequence[str | None], proposals: Mapping[str, Floats]) -> Floats:
    """For each box the proposal of its scene with the largest IoU, the first of equals; the box where none meets it.

    Args:
        boxes: ``(N, 9)`` in the axis-aligned world.
        scenes: One a box.
        proposals: ``(M, 9)`` by scene.

    Returns:
        ``(N, 9)``.

    >>> box, near = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0.0]), np.array([0.2, 0, 0, 1, 1, 1, 0, 0, 0])
    >>> refine(np.stack([box, box]), ["a", "b"], {"a": near[None]})[:, 0].tolist()
    [0.2, 0.0]
    """
    out = boxes.copy()
    for scene in dict.fromkeys(scenes):
        if scene is None or _none_for(scene, proposals):
            continue
        mine = np.array([i for i, other in enumerate(scenes) if other == scene])
        overlaps = box_iou(boxes[mine], proposals[scene])
        met = overlaps.max(axis=1) > 0
        out[mine[met]] = proposals[scene][overlaps.argmax(axis=1)[met]]
    return out


def _none_for(scene: str | None, proposals: Mapping[str, Floats]) -> bool:
    return scene is None or not len(proposals.get(scene, ()))


def _spread(values: Floats, rows: Sequence[int], count: int) -> Floats:
    """``(count,)`` IoUs: the values at their rows, 0 elsewhere, without the last bits of a float."""
    out: Floats = np.zeros(count)
    out[rows] = np.round(np.nan_to_num(values), 12)
    return out


def _official(text: str) -> tuple[int | None, Floats | None, str]:
    line = next((line for line in strip_fence(text).split("\n") if "bbox_3d" in line), None)
    if line is None:
        return None, None, "no line with bbox_3d"
    try:
        found = read_literal(line.strip())
    except ValueError as error:
        return None, None, f"the line does not read: {error}"
    if not isinstance(found, dict):
        return None, None, "the line is not one object"
    frame, values = found.get("frame"), found.get("bbox_3d")
    if not isinstance(frame, int) or frame < 0:
        return None, None, "frame is not a whole number from 0"
    if not isinstance(values, list) or len(values) != 9:
        return None, None, "bbox_3d is not a list of nine"
    try:
        box = as_box(values) if all(isinstance(value, int | float) for value in values) else None
    except ValueError:
        # A whole number that no float can hold.
        box = None
    return (int(frame), box, "") if box is not None else (None, None, "bbox_3d holds something that is not a number")


def _robust(text: str) -> tuple[int | None, Floats | None, str]:
    answer = read_grounding(text)
    return answer.frame, None if answer.box is None else np.asarray(answer.box, dtype=np.float64), answer.why


def _pose(camera: Camera, frame: int) -> Floats:
    pose: Floats = np.asarray(camera.axis_align, dtype=np.float64) @ np.asarray(camera.cam_to_world[frame])
    return pose


def _to_world(placed: Sequence[tuple[int, Floats, Floats]]) -> Floats:
    """All boxes by their own poses at once: ``(N, 9)``."""
    boxes = np.stack([box for _, box, _ in placed])
    poses = np.stack([pose for _, _, pose in placed])
    out = boxes.copy()
    out[:, :3] = np.einsum("nij,nj->ni", poses[:, :3, :3], boxes[:, :3]) + poses[:, :3, 3]
    out[:, 6:] = angles_from_rotation(poses[:, :3, :3] @ rotation_from_angles(boxes[:, 6:]))
    return out


Numbers = dict[str, tuple[float | None, tuple[float, float] | None]]


def _intervals(subsets: Mapping[str, tuple[int, Numbers]], prefix: str = "") -> dict[str, Any]:
    """The intervals of a document, by dotted name."""
    return {f"{prefix}{name}.{m}": bounds for name, (_, ms) in subsets.items() for m, (_, bounds) in ms.items()}


def _subsets(records: Sequence[Record], iou: Floats, seed: int | None) -> dict[str, tuple[int, Numbers]]:
    """For each subset its count, and each metric's value and interval; without a seed there are no intervals."""
    values = np.stack([*(iou >= t for t in THRESHOLDS), iou], axis=-1).astype(np.float64)
    scenes, count = scene_index(records)
    draws = scene_draws(count, seed) if count > 1 and seed is not None else None
    out: dict[str, tuple[int, Numbers]] = {}
    for name in SUBSETS:
        member = np.array([name in ("overall", record.meta.subset) for record in records], dtype=np.float64)
        n = int(member.sum())
        sums = np.concatenate([values * member[:, None], member[:, None]], axis=-1)
        means = ratio(sums[:, :-1].sum(axis=0), sums[:, -1:].sum(axis=0))
        drawn = None
        if draws is not None:
            resampled = draws @ sum_by_scene(sums, scenes, count)
            drawn = ratio(resampled[:, :-1], resampled[:, -1:])
        out[name] = (
            n,
            {
                metric: (percent(float(means[i])), None if drawn is None else interval(drawn[:, i]))
                for i, metric in enumerate(METRICS)
            },
        )
    return out
