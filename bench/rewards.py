"""What detection rewards cost: 64 completions of 20 boxes for 12 targets, beside such pairs by other libraries.

A rollout is 8 prompts × 8 completions, as written by a model: text. Reward time is everything from the text to the
totals of ``format``, ``det_iou``, ``det_f1`` and ``det_soft_f1``. Beside it, in turn in the same process:

    box_iou   the overlap of all those pairs alone, whatever the labels, one call a completion,
    SciPy     half-space intersection and convex hull for the pairs whose bounding spheres meet, on a sample of the
              pairs of another such rollout,
    shapely   polygons on the floor times heights, for the same boxes without tilt (where it is installed), and
    a step    of GRPO with the shipped tiny model: 64 answers sampled, then their gradients.

    python bench/rewards.py            a table
    python bench/rewards.py --json     one JSON document
    python bench/rewards.py --quick    fewer rounds
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from iou import halfspace_iou, objects, predictions
from scipy.spatial import QhullError
from side_by_side import document, main, medians

from rft3d_cli.answers import detection_answer, read_boxes
from rft3d_cli.geometry.boxes import Floats
from rft3d_cli.geometry.iou import box_iou
from rft3d_cli.records import Record
from rft3d_cli.rewards import RewardSet

PROMPTS, GROUP, BOXES, TARGETS = 8, 8, 20, 12
LABELS = ("bed", "chair", "couch", "desk", "table")
NAMES = ("format", "det_iou", "det_f1", "det_soft_f1")


def measure(quick: bool) -> dict[str, Any]:
    """All cases, in turn, round after round; medians."""
    rounds, sample = (5, 48) if quick else (15, 192)
    rng = np.random.default_rng(0)
    rewards = RewardSet(dict.fromkeys(NAMES, 1.0), {"answer_style": "direct"})
    # Readers remember texts: every round has texts of its own, as every rollout has, and nothing else reads them.
    rollouts = [rollout(rng) for _ in range(rounds)]
    matrices = boxes_by_completion(rollout(rng))
    pairs = [(a, b) for many, targets in matrices for a in many for b in targets]
    some = [pairs[i] for i in rng.permutation(len(pairs))[:sample]]
    step = Step()

    def reward(number: int) -> None:
        answers = [(text, record) for record, texts in rollouts[number] for text in texts]
        for scores in rewards.score_all(answers):
            rewards.total(scores)

    def overlap(_: int) -> None:
        for a, b in matrices:
            box_iou(a, b)

    cases: dict[str, Callable[[int], object]] = {
        "rewards": reward,
        "box_iou": overlap,
        "scipy": lambda _: [scipy_iou(a, b) for a, b in some],
        "step": lambda _: step(),
    }
    if find_spec("shapely") is not None:
        level = [(flat(a), flat(b)) for a, b in some]
        cases["shapely"] = lambda _: [shapely_iou(a, b) for a, b in level]
    seconds = {name: median for name, (median, _) in medians(cases, rounds).items()}
    completions = PROMPTS * GROUP
    per_pair = {
        "rewards": seconds["rewards"] / len(pairs),
        "box_iou": seconds["box_iou"] / len(pairs),
        **{name: seconds[name] / sample for name in ("scipy", "shapely") if name in seconds},
    }
    rows = [{"case": name, "us_per_pair": 1e6 * value, "ms_per_rollout": 1e3 * value * len(pairs)}
            for name, value in per_pair.items()]  # fmt: skip
    summary = {
        "completions": completions,
        "pairs": len(pairs),
        "share_of_pairs_overlapping": float(np.mean([box_iou(a[None], b[None])[0, 0] > 0 for a, b in some])),
        "us_per_completion": 1e6 * seconds["rewards"] / completions,
        "ms_per_rollout": 1e3 * seconds["rewards"],
        "speedup_vs_scipy_halfspace": per_pair["scipy"] / per_pair["rewards"],
        "speedup_vs_shapely_yaw_only": per_pair["shapely"] / per_pair["rewards"] if "shapely" in per_pair else None,
        "seconds_per_tiny_step": seconds["step"],
        "share_of_tiny_step": seconds["rewards"] / (seconds["step"] + seconds["rewards"]),
    }
    return document("rewards", rows, summary)


def rollout(rng: np.random.Generator) -> list[tuple[Record, list[str]]]:
    """Records with a group of completions each: most boxes near their targets, some anywhere."""
    out = []
    for number in range(PROMPTS):
        truth = objects(rng, TARGETS)
        labels = [LABELS[int(i)] for i in rng.integers(len(LABELS), size=TARGETS)]
        target = [{"label": label, "bbox_3d": box} for label, box in zip(labels, truth.tolist(), strict=True)]
        record = Record.model_validate(
            {
                "id": str(number),
                "task": "detection",
                "video": {"frames": ["0.jpg"]},
                "prompt": "?",
                "target": {"boxes": target},
            }
        )
        texts = []
        for _ in range(GROUP):
            boxes = np.concatenate([predictions(truth, rng), objects(rng, BOXES - TARGETS)])
            more = [LABELS[int(i)] for i in rng.integers(len(LABELS), size=BOXES - TARGETS)]
            texts.append(detection_answer([*labels, *more], boxes.tolist()))
        out.append((record, texts))
    return out


def boxes_by_completion(rollout: list[tuple[Record, list[str]]]) -> list[tuple[Floats, Floats]]:
    """Predicted ``(N, 9)`` and target ``(M, 9)`` boxes of each completion."""
    return [
        (read_boxes(text).boxes.boxes, np.array([box.bbox_3d for box in record.target.boxes]))
        for record, texts in rollout
        for text in texts
    ]


def scipy_iou(a: Floats, b: Floats) -> float:
    """IoU by SciPy's half-spaces; boxes whose spheres do not meet are passed over, as anyone would."""
    if np.linalg.norm(a[:3] - b[:3]) >= (np.linalg.norm(a[3:6]) + np.linalg.norm(b[3:6])) / 2:
        return 0.0
    try:
        return halfspace_iou(a, b)
    except QhullError:  # no common point to start from
        return 0.0


def flat(box: Floats) -> Floats:
    """The same box standing upright."""
    out = box.copy()
    out[7:] = 0
    return out


def shapely_iou(a: Floats, b: Floats) -> float:
    """IoU of two upright boxes: polygons on the floor times the common height."""
    from shapely import Polygon

    bases = []
    for box in (a, b):
        c, s = np.cos(box[6]), np.sin(box[6])
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * box[3:5] / 2
        bases.append(Polygon(corners @ np.array([[c, s], [-s, c]]) + box[:2]))
    height = min(a[2] + a[5] / 2, b[2] + b[5] / 2) - max(a[2] - a[5] / 2, b[2] - b[5] / 2)
    common = bases[0].intersection(bases[1]).area * max(height, 0.0)
    return float(common / (a[3:6].prod() + b[3:6].prod() - common))


class Step:
    """One step of GRPO of the shipped tiny model in miniature: sample 64 answers, then their gradients."""

    def __init__(self) -> None:
        import torch
        from PIL import Image

        from rft3d_cli.models.inputs import chat, collate, encode_messages
        from rft3d_cli.models.loader import load_model
        from rft3d_cli.prompts import detection_prompt

        torch.set_num_threads(1)
        self.torch = torch
        self.model, self.processor = load_model("tiny-sft")
        noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
        prompt = encode_messages(self.processor, chat(detection_prompt(2), 2), [Image.fromarray(x) for x in noise])
        self.batch = collate([prompt] * (PROMPTS * GROUP), self.processor.tokenizer.pad_token_id)

    def __call__(self) -> None:
        """Sample and differentiate."""
        from transformers import GenerationConfig

        tokenizer = self.processor.tokenizer
        config = GenerationConfig(
            max_new_tokens=40, do_sample=True, top_k=0, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        with self.torch.inference_mode():
            out = self.model.generate(**self.batch, generation_config=config).clone()
        added = out.shape[1] - self.batch["input_ids"].shape[1]
        inputs = {**self.batch, "input_ids": out.clone(), "attention_mask": self.torch.ones_like(out)}
        if "mm_token_type_ids" in inputs:
            kinds = inputs["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = self.torch.nn.functional.pad(kinds, (0, added))
        logits = self.model(**inputs).logits[:, -added - 1 : -1]
        chosen = logits.log_softmax(-1).gather(-1, out[:, -added:, None].clone())
        (-chosen.mean()).backward()
        self.model.zero_grad()


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    summary = found["summary"]
    print(f"{'one rollout of 64 completions':32}{'us a pair':>12}{'ms in all':>12}")
    for row in found["rows"]:
        print(f"{row['case']:32}{row['us_per_pair']:12.2f}{row['ms_per_rollout']:12.1f}")
    print(
        f"\n{summary['us_per_completion']:.0f} us a completion, "
        f"{summary['speedup_vs_scipy_halfspace']:.0f} times as fast as SciPy on the same pairs; "
        f"{summary['share_of_tiny_step']:.1%} of a step of tiny "
        f"({summary['seconds_per_tiny_step']:.2f} s)"
    )


if __name__ == "__main__":
    main("Time detection rewards beside SciPy, shapely and a training step.", measure, show)
