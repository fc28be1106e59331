"""3D detection records from the data sets that EmbodiedScan annotates besides ScanNet.

A clip is a few listed pictures of one scan, a fixed number of list entries apart. Its targets mean what those of
:mod:`rft3d_cli.prepare.scannet` mean. The pictures stay where they are: EmbodiedScan names each by its path in a data
folder into which the data sets were unpacked as they are published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rft3d_cli.errors import UsageError
from rft3d_cli.prepare._posed_checks import rigid_fault
from rft3d_cli.prepare._view_filter import LOOSEN, ViewFilter, ViewRule
from rft3d_cli.prepare.embodiedscan import Frame, Infos, Scan, read_datasets
from rft3d_cli.prepare.pictures import Pictures, listed_pictures
from rft3d_cli.prepare.pipeline import Part, Policy, Quarantine, Report, Store, run
from rft3d_cli.prepare.scannet import VAL_CLIPS, DetectionSpec, detection_clips, detection_record, tracked_frames
from rft3d_cli.prepare.splits import Split, chosen

DATASETS = ("3rscan", "matterport3d", "arkitscenes")
"""EmbodiedScan's besides ScanNet."""
STRIDE = 3
"""List entries from one frame of a clip to the next."""
UNEQUAL = 0.02
"""How far the focal lengths of a record's frames may differ unremarked."""


@dataclass(frozen=True)
class Source:
    """EmbodiedScan's files.

    Args:
        data: The folder that ``img_path`` starts at.
        annotations: The infos.
        datasets: Which data sets to use.
        split: Which scans, by ``sample_idx``, and what the split is called.
        store: The data folder again, and how records name it.
    """

    data: Path
    annotations: Path
    datasets: tuple[str, ...]
    split: Split
    store: Store

    def options(self) -> dict[str, Any]:
        """What the card says."""
        return {"data": str(self.data), "annotations": str(self.annotations), "datasets": list(self.datasets)}


@dataclass(frozen=True)
class ScanJob:
    """One scan to work on, or why it cannot be."""

    sample: str
    scan: Scan | None
    problem: str | None


def chosen_datasets(text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """A ``--datasets`` option: names with commas between them, all by default.

    Args:
        text: The option.
        known: What there is.

    Raises:
        UsageError: On a name that is not known.

    >>> chosen_datasets("arkitscenes,3rscan", DATASETS)
    ('3rscan', 'arkitscenes')
    """
    if text is None:
        return tuple(known)
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            hint = "ScanNet's detection records are what rft3d prepare scannet writes" if name == "scannet" else None
            raise UsageError(f"--datasets {text}: there is no {name} among {', '.join(known)}", hint)
    if not names:
        raise UsageError("--datasets names none", f"for example --datasets {','.join(known[:2])}")
    return tuple(name for name in known if name in names)


def scan_jobs(source: Source, infos: Infos) -> list[ScanJob]:
    """The scans of the split, in the file's order."""
    names = chosen(source.split, [*infos.scans, *infos.bad], str(source.annotations))
    return [ScanJob(name, infos.scans.get(name), infos.bad.get(name)) for name in names]


def prepare_embodiedscan(
    *,
    source: Source,
    out: Path,
    media_root: Path,
    frames: int = 4,
    stride: int = STRIDE,
    decimals: int = 2,
    per_scene: int | None = None,
    seed: int = 0,
    view: ViewRule | None = None,
    policy: Policy,
    begin: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> Report:
    """Write detection records of 3RScan, Matterport3D and ARKitScenes.

    Args:
        source: EmbodiedScan's files.
        out: The record file.
        media_root: What the records' paths are relative to.
        frames: Frames a clip.
        stride: List entries between two.
        decimals: Digits in the answer text.
        per_scene: Most clips of a scan; by default all of a train scan and ten of any other.
        seed: For the choice of those.
        view: Which of the visible objects are targets; by default all.
        policy: How to work.
        begin: Called with the number of scans; returns what to call after each.

    Raises:
        DataError: See :func:`rft3d_cli.prepare.pipeline.run`.
    """
    limit = per_scene if per_scene is not None or source.split.name == "train" else VAL_CLIPS
    spec = DetectionSpec(frames, stride, 1, decimals, limit, seed, source.split.name)
    jobs = scan_jobs(source, read_datasets(source.annotations, source.datasets))
    options = {
        **source.options(),
        **{name: value for name, value in vars(spec).items() if name != "step"},
        "media_root": str(media_root),
    }
    if view is not None:
        options |= view.options()
    return run(
        jobs,
        partial(_work, spec=spec, store=source.store, view=view),
        job_name,
        out=out,
        media_root=media_root,
        command="prepare embodiedscan",
        options=options,
        sources=[path for path in (source.annotations, source.split.file) if path is not None],
        policy=policy,
        nothing=f"clips of {frames} pictures {stride} list entries apart were asked for: lower --frames or --stride"
        f"{'' if view is None else LOOSEN}, or see whether --data is the folder that img_path starts at",
        done=begin(len(jobs)),
    )


def job_name(job: ScanJob) -> str:
    """What reports call a job's scan."""
    return job.sample


def _work(job: ScanJob, spec: DetectionSpec, store: Store, view: ViewRule | None) -> Part:
    scan = usable_scan(job)
    part = Part(job.sample)
    shots, usable = listed_pictures(store, scan, tracked_frames(scan, part), part)
    objects = None if view is None else ViewFilter(view, scan, shots.size)
    clips = detection_clips(scan, usable, spec, objects, part)
    if not clips:
        part.reject("scene", "no clip")
        return part
    part.records = [
        detection_record(scan, frames, targets, shots, scan.intrinsic_of(frames[0]), spec) for frames, targets in clips
    ]
    finish(part, scan, shots, [frames for frames, _ in clips])
    return part


def usable_scan(job: ScanJob) -> Scan:
    """The scan of a job.

    Raises:
        Quarantine: Where its annotations are wrong.
    """
    if job.scan is None:
        raise Quarantine("wrong annotations", job.problem or f"{job.sample} is not annotated")
    fault = rigid_fault(job.scan.axis_align)
    if fault is not None:
        raise Quarantine("wrong annotations", f"{job.sample}: axis_align_matrix {fault}")
    return job.scan


def finish(part: Part, scan: Scan, shots: Pictures, clips: Sequence[Sequence[Frame]]) -> None:
    """Count what the records of a scan use, and warn where one camera does not do for all frames of a record."""
    part.counts["frames"] += len({frame.number for frames in clips for frame in frames})
    part.scan = shots.about
    if any(_unequal(scan, frames) for frames in clips):
        part.warnings.append(
            "the intrinsics of the frames differ by more than 2 %: a record has one, that of its target's frame"
        )


def _unequal(scan: Scan, frames: Sequence[Frame]) -> bool:
    focal = np.array([scan.intrinsic_of(frame)[[0, 1], [0, 1]] for frame in frames])
    return bool((np.ptp(focal, axis=0) > UNEQUAL * focal.min(axis=0)).any())
