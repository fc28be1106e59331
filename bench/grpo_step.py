"""A step of GRPO with a prompt computed once for its group, beside stock TRL: the same trainer with the switch off.

Both sides are the trainer that ``rft3d grpo`` builds, with ``rollout.shared_prompt`` on and off, on the same model of
random weights, the same record and the same completions: random tokens, all as long as they may be. Stock is TRL's own
generation, log-probabilities and loss with its fused language head. Towers are frozen on both sides; a reference model
takes part (``train.kl`` 0.04). They take turns, and after each step log-probabilities and gradients are compared: where
they differ, there is nothing to report, and the exit code is 1.

    prefill    until the first token's logits: towers and prompt
    decode     the tokens after it; rows without a name sample 16 in all, whatever the length that is learned from
    log-probs  the pass without gradients, by the reference
    update     forward and backward
    step       everything from rows to gradients, for the rows with a name: detection and grounding

    python bench/grpo_step.py              every row but those that would take too long, which it names (an hour)
    python bench/grpo_step.py --quick      the rows of the summary, once
    python bench/grpo_step.py --json       one JSON document
    python bench/grpo_step.py --size 4b    Qwen2.5-VL-3B's sizes in bfloat16, for a GPU, with model FLOP utilisation
    python bench/grpo_step.py --size small --rows 1024x128x8 detection    prompt x completion x group, or a name

Micro-batches are what is faster for stock, all completions at once (as far as memory goes) or one at a time, and the
same for ours. Seconds are medians; on one CPU thread, the thread's own. Memory is the most that tensors took at once
beyond what was there before the step: by the count of torch's allocator on a GPU, and of every allocation that its
profiler recorded on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from grpo_step_count import Shape, peak_tflops, update_flops
from grpo_step_made import SIZES, write_clips, write_model
from grpo_step_report import SHOWN, SIDES, difference, show, summary_of, wrong
from side_by_side import document

SAMPLED = 16
"""Tokens that a row without a name samples."""
AT_ONCE = {"cpu": 40_000, "cuda": 100_000}
"""Tokens of a micro-batch, at most: 5 GB of the bench model's activations."""
TOO_LONG = 40_000
"""Tokens of a group on stock's side beyond which a row is left out by default."""


@dataclass(frozen=True)
class Row:
    """One size to measure.

    Args:
        prompt: Tokens.
        completion: Tokens.
        group: Completions a prompt.
        name: Of a row whose whole step is measured.
        update_only: Learn from given completions, without sampling and without a reference.
    """

    prompt: int
    completion: int
    group: int
    name: str = ""
    update_only: bool = False

    @property
    def stock_tokens(self) -> int:
        """Tokens of the group with the prompt repeated."""
        return self.group * (self.prompt + self.completion)

    def __str__(self) -> str:
        return f"{self.prompt}x{self.completion}x{self.group}" + (f" {self.name}" if self.name else "")


TARGETS = (Row(4096, 128, 8), Row(8192, 128, 16, update_only=True))
NAMED = (Row(1100, 770, 8, "detection"), Row(8192, 128, 8, "grounding"))
GRID = tuple(Row(p, c, g) for p in (1024, 4096, 8192) for c in (128, 768) for g in (4, 8, 16))
WARM_UP = Row(300, 4, 2)
FULL_SIZE = (Row(8192, 128, 8, "grounding"),)


def default_rows() -> tuple[list[Row], list[Row]]:
    """The grid and the rows of the summary, and what of the grid is left out.

    >>> rows, out = default_rows()
    >>> [str(row) for row in out]
    ['4096x128x16', '4096x768x16', '8192x768x8', '8192x768x16']
    """
    first = [*TARGETS, *NAMED]
    sizes = {(row.prompt, row.completion, row.group) for row in first}
    others = [row for row in GRID if (row.prompt, row.completion, row.group) not in sizes]
    left_out = [row for row in others if row.stock_tokens > TOO_LONG]
    return [*first, *(row for row in others if row not in left_out)], left_out


def parsed(text: str) -> Row:
    """A row as the command line has it.

    >>> parsed("1024x128x8")
    Row(prompt=1024, completion=128, group=8, name='', update_only=False)
    >>> str(parsed("detection"))
    '1100x770x8 detection'
    """
    for row in NAMED:
        if row.name == text:
            return row
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if not found or int(found[1]) < 300 or int(found[2]) < 2 or int(found[3]) < 2:
        names = " or ".join(row.name for row in NAMED)
        raise argparse.ArgumentTypeError(f"{text!r} is neither {names} nor a size such as 1024x128x8 (from 300x2x2)")
    return Row(*map(int, found.groups()))


def at_once(row: Row, device: str) -> int:
    """Completions of the largest micro-batch that stock is given on a kind of device.

    >>> at_once(Row(4096, 128, 8), "cpu"), at_once(Row(8192, 128, 16), "cpu")
    (8, 4)
    """
    most = AT_ONCE[device] // (row.prompt + row.completion)
    fits = [micro for micro in range(1, row.group + 1) if row.group % micro == 0 and micro <= most]
    return max(fits, default=1)


class Bench:
    """All rows of one model.

    Args:
        size: The model's.
        work: Folder for model, records and runs.
        repeats: Rounds a row.
        thorough: Choose micro-batches for each length of prompts; else on the first row, for all.
    """

    def __init__(self, size: str, work: Path, repeats: int, *, thorough: bool) -> None:
        import torch

        self.size, self.work, self.repeats, self.thorough = size, work, repeats, thorough
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = "bfloat16" if size == "4b" else "float32"
        self.one_by_one: dict[int, bool] = {}
        self.places: dict[int, int] = {}

    def prepare(self, rows: Sequence[Row]) -> None:
        """Write model and records, and go once through everything that is slow the first time."""
        from rft3d_cli.models.loader import load_processor

        write_model(self.work / "model", self.size)
        lengths = sorted({WARM_UP.prompt, *(row.prompt for row in rows)})
        write_clips(self.work, load_processor(str(self.work / "model")), lengths)
        self.places = {length: place for place, length in enumerate(lengths)}
        for name in SIDES:
            self.step(WARM_UP, self.side(WARM_UP, name, WARM_UP.group), tokens=2, watch=True)

    def side(self, row: Row, name: str, micro: int) -> Any:
        """A trainer for a row."""
        from grpo_step_side import Side

        return Side(
            self.work,
            shared=name == "ours",
            group=row.group,
            micro=micro,
            length=row.completion,
            dtype=self.dtype,
            checkpointing=self.size == "4b",
            kl=0.0 if row.update_only else 0.04,
        )

    def micro(self, row: Row) -> int:
        """Completions of a micro-batch: as many as fit, or one, whatever updates stock faster on prompts so long."""
        most = at_once(row, self.device)
        known = row.prompt if self.thorough else 0
        if known not in self.one_by_one:
            probe = Row(row.prompt, row.completion, max(most, 2), update_only=True)
            seconds = {}
            for micro in sorted({most, 1}):
                side = self.side(probe, "stock", micro)
                seconds[micro] = self.step(probe, side, tokens=0, watch=False).seconds["update"]
                del side
                gc.collect()
            self.one_by_one[known] = min(seconds, key=lambda micro: seconds[micro]) == 1
        return 1 if self.one_by_one[known] else most

    def step(self, row: Row, side: Any, *, tokens: int | None, watch: bool) -> Any:
        """One step of a side on completions that a row always has."""
        import torch

        draw = torch.Generator().manual_seed(row.prompt + row.group)
        completions = torch.randint(20, 1500, (row.group, row.completion), generator=draw)
        advantages = torch.randn(row.group, generator=draw)
        return side.step(self.places[row.prompt], completions, advantages, tokens=tokens, watch=watch)

    def measure(self, row: Row) -> dict[str, Any]:
        """Both sides in turn, round after round."""
        micro = self.micro(row)
        sides = {name: self.side(row, name, micro) for name in SIDES}
        shape = Shape.of(sides["ours"].model.config.get_text_config())
        tokens = None if row.name else SAMPLED
        steps: dict[str, list[Any]] = {name: [] for name in SIDES}
        for number in range(self.repeats):
            for name, side in sides.items():
                # Ours finds in its update what the towers made of the frames in the rollout, and needs one for that.
                only = 1 if name == "ours" else 0
                given = only if row.update_only else tokens
                steps[name].append(self.step(row, side, tokens=given, watch=number == 0))
        errors = difference(*(steps[name][-1].log_probs for name in SIDES), *(s.gradients() for s in sides.values()))
        seconds = {
            name: {phase: statistics.median(s.seconds[phase] for s in found) for phase in SHOWN}
            for name, found in steps.items()
        }
        unmeasured = () if row.name else ("prefill", "decode", "log_probs", "whole") if row.update_only else ("whole",)
        measured = [phase for phase in SHOWN if phase not in unmeasured]
        pairs = list(zip(*(steps[name] for name in SIDES), strict=True))
        flops = {
            name: update_flops(shape, row.prompt, row.completion, row.group, shared=name == "ours") for name in SIDES
        }
        return {
            "row": str(row),
            "prompt": row.prompt,
            "completion": row.completion,
            "group": row.group,
            "micro_batch": micro,
            "sampled": 0 if row.update_only else row.completion if row.name else SAMPLED,
            **{f"{name}_s": {phase: seconds[name][phase] for phase in measured} for name in SIDES},
            "speedup": {
                phase: statistics.median(stock.seconds[phase] / ours.seconds[phase] for stock, ours in pairs)
                for phase in measured
            },
            **{f"{name}_MiB": {k: v / 2**20 for k, v in steps[name][0].peak.items()} for name in SIDES},
            "memory_ratio": {
                part: steps["ours"][0].peak[part] / steps["stock"][0].peak[part] for part in ("whole", "update")
            },
            **{f"{name}_update_tflops": flops[name] / seconds[name]["update"] / 1e12 for name in SIDES},
            **errors,
        }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for."""
    import torch
    import transformers
    import trl

    from rft3d_cli.train.setup import reuse_memory

    torch.set_num_threads(options.threads)
    reuse_memory()
    left_out: list[Row] = []
    if options.rows:
        rows = options.rows
    elif options.size == "4b":
        rows = list(FULL_SIZE)
    elif options.quick:
        # The shortest first: micro-batches are chosen there, for all.
        rows = sorted([*TARGETS, *NAMED], key=lambda row: row.stock_tokens)
    else:
        rows, left_out = default_rows()
    repeats = options.repeats or (1 if options.quick else 3)
    found = []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options.size, Path(name), repeats, thorough=not options.quick)
        bench.prepare(rows)
        for row in rows:
            print(f"{row} …", file=sys.stderr)
            found.append(bench.measure(row))
            gc.collect()
    out = document("grpo_step", found, summary_of(found))
    out["machine"] |= {"gpu": None, "threads": options.threads, "memory": "of tensors, beyond what a step starts with"}
    out["versions"] |= {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    out |= {"size": options.size, "dtype": bench.dtype, "repeats": repeats, "left_out": [str(row) for row in left_out]}
    peak = options.peak_tflops
    if torch.cuda.is_available():
        out["machine"]["gpu"] = torch.cuda.get_device_name()
        peak = peak or peak_tflops(torch.cuda.get_device_name())
    if peak:
        last = found[-1]
        out["summary"] |= {f"update_utilisation_{name}": last[f"{name}_update_tflops"] / peak for name in SIDES}
    return out


def command_line() -> argparse.ArgumentParser:
    """The benchmark's options."""
    parser = argparse.ArgumentParser(description="Time a GRPO step with shared prompts beside stock TRL.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="the rows of the summary only, once each")
    parser.add_argument("--size", choices=SIZES, default="bench", help="the model (default: bench)")
    parser.add_argument("--rows", nargs="+", type=parsed, metavar="ROW", help="PROMPTxCOMPLETIONxGROUP or a name")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--repeats", type=int, help="rounds a row (default: 3; 1 with --quick)")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak, for utilisation; known GPUs need none")
    return parser


def main() -> None:
    """The benchmark's command line."""
    options = command_line().parse_args()
    found = run(options)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)
    reason = wrong(found)
    if reason:
        print(reason, file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
