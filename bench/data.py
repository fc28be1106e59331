"""What reading data costs: 32 frames out of a ``.sens`` file, and out of a minute of video.

In turn in one process, on files made here in a temporary folder:

    .sens    our reader (offset table, then the wanted frames) beside a reader that takes the whole file into memory,
             and, in the full run, beside one that unpacks it byte by byte, as the public readers do
    video    our packet plan beside a full decode of the clip, for three structures of H.264, on one thread; both give
             the same pixels, which is checked

    python bench/data.py            a table
    python bench/data.py --json     one JSON document
    python bench/data.py --quick    smaller files
"""

from __future__ import annotations

import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from side_by_side import document, main, medians

from rft3d_cli.prepare.sens import SensFile, write_sens
from rft3d_cli.video import read_frames

FRAMES = 32
SIZE = (448, 336)
STRUCTURES = {
    "H.264, groups of 250, 3 B-frames": {"g": "250", "bf": "3"},
    "H.264, groups of 30, 3 B-frames": {"g": "30", "bf": "3"},
    "H.264, groups of 30, no B-frames": {"g": "30", "bf": "0"},
}


def measure(quick: bool) -> dict[str, Any]:
    """All cases, in turn; medians."""
    rounds, raw_frames, seconds = (3, 400, 10) if quick else (5, 2000, 60)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = make_scan(folder / "scan.sens", raw_frames)
        clips = {label: make_clip(folder / f"{k}.mp4", seconds, options)
                 for k, (label, options) in enumerate(STRUCTURES.items())}  # fmt: skip
        cases: dict[str, Callable[[int], object]] = {
            "sens, ours": lambda _: ours(scan),
            "sens, whole file": lambda _: whole(scan, bytewise=False),
        }
        for label, clip in clips.items():
            cases[f"{label}, ours"] = lambda _, clip=clip: read_frames(clip, FRAMES, size=SIZE)
            cases[f"{label}, full decode"] = lambda _, clip=clip: full_decode(clip)
        times = {case: middle for case, (middle, _) in medians(cases, rounds).items()}
        if not quick:
            times |= {
                c: t for c, (t, _) in medians({"sens, byte by byte": lambda _: whole(scan, bytewise=True)}, 1).items()
            }
        same = all(
            np.array_equal(read_frames(clip, FRAMES, size=SIZE).images, full_decode(clip)) for clip in clips.values()
        )
        same &= all(
            one[0] == other[0] and np.array_equal(one[1], other[1])
            for one, other in zip(ours(scan), whole(scan, bytewise=False), strict=True)
        )
        tracemalloc.start()
        ours(scan)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        size = scan.stat().st_size
    rows = [{"case": case, "seconds": value} for case, value in times.items()]
    summary = {
        "raw_frames": raw_frames,
        "sens_bytes": size,
        "sens_peak_bytes": peak,
        "sens_speedup_vs_whole_file": times["sens, whole file"] / times["sens, ours"],
        "sens_speedup_vs_byte_by_byte": times.get("sens, byte by byte", np.nan) / times["sens, ours"],
        "video_speedup": {label: times[f"{label}, full decode"] / times[f"{label}, ours"] for label in clips},
        "same_pixels": bool(same),
    }
    if quick:
        summary["sens_speedup_vs_byte_by_byte"] = None
    return document("data", rows, summary)


def make_scan(path: Path, count: int) -> Path:
    """A scan of ScanNet's sizes; its frames repeat eight pictures of noise and slopes."""
    rng = np.random.default_rng(0)
    colours = [jpeg(rng) for _ in range(8)]
    slope = np.add.outer(np.arange(480), np.arange(640)).astype(np.uint16) * 4
    depths = [slope + rng.integers(0, 6, slope.shape, dtype=np.uint16) for _ in range(8)]
    camera = np.array([[577.0, 0, 319.5], [0, 577.0, 239.5], [0, 0, 1]])
    write_sens(
        path,
        colours=[colours[i % 8] for i in range(count)],
        depths=[depths[i % 8] for i in range(count)],
        poses=np.tile(np.eye(4), (count, 1, 1)),
        times=np.arange(count) / 30,
        intrinsic_colour=camera,
        intrinsic_depth=camera,
        colour_size=(1296, 968),
        depth_size=(640, 480),
    )
    return path


def jpeg(rng: np.random.Generator) -> bytes:
    """A picture of a camera's size, with some texture."""
    import io

    from PIL import Image

    small = rng.integers(0, 255, (121, 162, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((1296, 968)).save(stream, "JPEG", quality=75)
    return stream.getvalue()


def make_clip(path: Path, seconds: int, options: dict[str, str]) -> Path:
    """A clip of 640 × 480 at 30 frames a second, with a texture that moves."""
    rng = np.random.default_rng(1)
    texture = np.repeat(np.repeat(rng.integers(40, 216, (30, 40, 3), np.uint8), 16, 0), 16, 1)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"preset": "veryfast", **options})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        stream.thread_count = 1
        for number in range(30 * seconds):
            picture = np.roll(texture, (number, 3 * number), axis=(0, 1))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def ours(path: Path) -> list[tuple[bytes, Any]]:
    """Colour bytes and depth of evenly spaced frames."""
    scan = SensFile(path)
    return [(scan.colour(i), scan.depth(i)) for i in wanted(len(scan))]


def wanted(count: int) -> list[int]:
    """Evenly spaced frames."""
    return np.linspace(0, count - 1, FRAMES).astype(int).tolist()


def whole(path: Path, *, bytewise: bool) -> list[tuple[bytes, Any]]:
    """The same from a reader that first takes every frame into memory."""
    frames = []
    with path.open("rb") as stream:
        length = struct.unpack("<IQ", stream.read(12))[1]
        stream.seek(length + 4 * 64 + 8, 1)
        *_, width, height, _, count = struct.unpack("<IIIIfQ", stream.read(28))
        for _ in range(count):
            stream.seek(64 + 16, 1)
            sizes = struct.unpack("<QQ", stream.read(16))
            if bytewise:
                frames.append([b"".join(struct.unpack("c" * n, stream.read(n))) for n in sizes])
            else:
                frames.append([stream.read(n) for n in sizes])
    return [
        (colour, np.frombuffer(zlib.decompress(depth), dtype="<u2").reshape(height, width))
        for colour, depth in (frames[i] for i in wanted(count))
    ]


def full_decode(path: Path) -> list[Any]:
    """Every frame decoded, the wanted ones brought to size."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        places = set(wanted(stream.frames))
        return [
            frame.reformat(*SIZE, format="rgb24", interpolation=Interpolation.BICUBIC).to_ndarray()
            for number, frame in enumerate(container.decode(stream))
            if number in places
        ]


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    summary = found["summary"]
    for row in found["rows"]:
        print(f"{row['case']:52}{1000 * row['seconds']:12,.0f} ms")
    print(
        f"\n32 of {summary['raw_frames']:,} frames of a .sens file of {summary['sens_bytes'] / 1e6:,.0f} MB: "
        f"{summary['sens_speedup_vs_whole_file']:.1f} times as fast as reading it whole"
        + (
            f", {summary['sens_speedup_vs_byte_by_byte']:.0f} times as byte by byte"
            if summary["sens_speedup_vs_byte_by_byte"]
            else ""
        )
        + f"; {summary['sens_peak_bytes'] / 1e6:.0f} MB at most"
    )
    for label, ratio in summary["video_speedup"].items():
        print(f"{label}: {ratio:.1f} times as fast as a full decode")
    print("the same pixels" if summary["same_pixels"] else "DIFFERENT PIXELS")


if __name__ == "__main__":
    main("Time reading frames of .sens files and clips beside the plain ways.", measure, show)
