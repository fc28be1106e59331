"""Clips for tests: each picture carries its own number as bars of black and white over a moving texture."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Edit = Callable[[int, bytes], bytes | None]

WIDTH, HEIGHT = 96, 64
COUNT = 60
TEXTURE = np.repeat(np.repeat(np.random.default_rng(7).integers(40, 216, (4, 6, 3), np.uint8), 16, 0), 16, 1)


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    image = np.roll(np.resize(TEXTURE, (height, width, 3)), number * 3, axis=1)
    for bit in range(8):
        image[:16, bit * 12 : (bit + 1) * 12] = 255 if number >> bit & 1 else 0
    return image


def number_in(image: np.ndarray) -> int:
    return sum(1 << bit for bit in range(8) if image[4:12, bit * 12 + 3 : bit * 12 + 9].mean() > 128)


def make(
    path: Path,
    count: int = COUNT,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
    rotation: int | None = None,
    container: dict[str, str] | None = None,
    sound: bool = False,
) -> Path:
    """Encode `count` pictures; `times` are milliseconds in place of 30 frames a second."""
    with av.open(str(path), "w", options=container or {}) as output:
        track = output.add_stream("aac", rate=44100) if sound else None
        stream = output.add_stream(codec, rate=30, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb8" if codec == "gif" else "yuv420p"
        stream.thread_count = 1
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if track is not None:
            hum(output, track)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format=stream.pix_fmt)
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def hum(output: av.container.OutputContainer, stream: av.AudioStream) -> None:
    for block in range(20):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, block * 1024
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def copy_stream(
    source: Path, path: Path, *, shift: int = 0, container: dict[str, str] | None = None, edit: Edit | None = None
) -> Path:
    """Copy the packets as they are, later by `shift` frames; `edit` may replace one."""
    with av.open(str(source)) as input_, av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream_from_template(input_.streams.video[0])
        number = -1
        for packet in input_.demux(video=0):
            if not packet.size:
                continue
            number += 1
            if edit is not None and (data := edit(number, bytes(packet))) is not None:
                broken = av.Packet(data)
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                broken.is_keyframe = packet.is_keyframe
                packet = broken
            ticks = round(shift / 30 / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, stream
            output.mux(packet)
    return path


def decoded(path: Path) -> list[np.ndarray]:
    """Every picture, by the plainest use of PyAV."""
    with av.open(str(path)) as container:
        return [
            frame.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray() for frame in container.decode(video=0)
        ]
