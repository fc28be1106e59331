"""The packet plan: exactly the frames that are wanted, decoding as little as possible.

Seeking by frame number is wrong on many clips (variable rates, edit lists, offsets), and decoding everything is slow.
Here the packets are read once without decoding: their presentation times, sorted, are the true list of frames. For
each wanted frame only the packets from the key packet before it are decoded, and of those the non-reference frames
are skipped. The pictures are bit for bit those of a full decode.

Where the packets cannot be trusted (no times, times of another order, a file torn off in the middle), every frame is
decoded in order instead. This module knows nothing of samplers and arrays; :mod:`rft3d_cli.video` is the way in.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rft3d_cli.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_SIDE = 16_384
"""Longest side of a frame, in pixels."""
MAX_PIXELS = 1 << 26
"""Most pixels in a frame: 8192 × 8192."""
MAX_FRAMES = 1 << 20
"""Most frames in a clip: 4.8 hours at 60 a second."""

# libav would also follow playlists and concatenation lists to other files, and draw a text file as a terminal.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,h264,hevc,m4v"
_HOLD_BYTES = 64 << 20
_CLOCK = 1_000_000  # libav counts the duration of a file in microseconds.


@dataclass
class Timeline:
    """The frames of one clip, in display order.

    Args:
        times: Seconds of each frame, as in the file.
        duration: Seconds from the first frame's time to the end of the last one.
        codec: Name of the codec.
        pts: Presentation time of each frame in units of the stream, or None where packets cannot be planned and every
            frame has to be decoded in order.
        packet_pts: Presentation time of each packet, in decoding order.
        packet_key: Whether decoding can start at each packet.
        packets: The packets themselves, where the file is small enough to keep them.
        damaged: Whether something of the file could not be read.
        notes: What happened, for people.
    """

    times: list[float]
    duration: float
    codec: str
    pts: list[int] | None = None
    packet_pts: list[int] = field(default_factory=list)
    packet_key: list[bool] = field(default_factory=list)
    packets: list[Packet[VideoStream]] | None = None
    damaged: bool = False
    notes: list[str] = field(default_factory=list)


class Faults:
    """What libav could not read while a clip was decoded."""

    def __init__(self) -> None:
        self.packets = False
        self.pictures = False
        self.torn = False

    def __bool__(self) -> bool:
        return self.packets or self.pictures or self.torn

    def notes(self) -> list[str]:
        """The faults in words."""
        notes = ["the file breaks off or is unreadable from some point on"] if self.torn else []
        notes += ["some packets could not be decoded"] if self.packets else []
        # Later pictures build on damaged ones without being marked themselves.
        return notes + (["some pictures are damaged, wanted ones or such that they build on"] if self.pictures else [])


@contextmanager
def open_stream(path: Path, threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream that is not a cover picture.

    Raises:
        DataError: Where there is none, libav cannot read the file, or its frames are too large.
    """
    import av

    av.logging.set_level(None)
    try:
        container = av.open(
            f"file:{path.absolute()}",
            mode="r",
            options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(path, error) from None
    with container:
        stream = _video_stream(path, container)
        context = stream.codec_context
        check_size(path, context.width, context.height)
        # Also guards against a stream that grows in the middle.
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_type = "AUTO" if threads > 1 else "NONE"
        context.thread_count = threads
        yield container, stream


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    from av.stream import Disposition

    streams = container.streams.video
    if not streams and _lacks_moov(path):
        raise _unreadable(path)
    for stream in streams:
        if stream.disposition & Disposition.attached_pic:
            continue
        if stream.codec_context is None:
            raise DataError(f"{path} is coded in a way that this PyAV cannot decode", "convert it to H.264")
        return stream
    only = ", only a cover picture" if streams else ", only sound" if container.streams.audio else ""
    raise DataError(f"{path} has no video stream{only}")


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse frames larger than :data:`MAX_SIDE` a side or :data:`MAX_PIXELS`."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"{path} has frames of {width} × {height} pixels; the limit is {MAX_SIDE} a side and {MAX_PIXELS} in all",
            "scale it down first",
        )


def _unreadable(path: Path, error: Exception | None = None) -> DataError:
    if isinstance(error, PermissionError):
        return DataError(f"{path} cannot be read: permission denied")
    if _lacks_moov(path):
        return DataError(
            f"{path} has no index (moov): the recording or the copy was cut short",
            "record or copy it again; without the index its frames cannot be found",
        )
    hint = "known are mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv, ogv and gif"
    if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp", ".bmp"}:
        hint = "put the images into a folder and name the folder"
    return DataError(f"{path} is not a video that can be read", hint)


def _lacks_moov(path: Path) -> bool:
    """Whether a file starts as mp4 but its top-level boxes end without the index."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        offset = 0
        while offset + 8 <= size:
            stream.seek(offset)
            head = stream.read(16)
            kind, length = head[4:8], int.from_bytes(head[:4])
            if offset == 0 and kind != b"ftyp":
                return False
            if kind == b"moov":
                return offset + length > size
            if length == 1:
                length = int.from_bytes(head[8:16])
            if length < 8:
                break
            offset += length
    return size >= 8


def read_timeline(path: Path, threads: int = 1) -> Timeline:
    """List the frames of a clip: from its packets where they say enough, else by decoding it all.

    Raises:
        DataError: Where the clip cannot be read, holds no frames or too many.
    """
    packet_pts: list[int | None] = []
    packet_key: list[bool] = []
    shown: list[tuple[int, int]] = []  # (pts, duration)
    kept: list[Packet[VideoStream]] | None = [] if path.stat().st_size <= _HOLD_BYTES else None
    damaged, notes, faults = False, [], Faults()
    with open_stream(path, threads) as (container, stream):
        base, codec = stream.time_base, stream.codec_context.codec.canonical_name
        # Sound may go on longer than the pictures.
        announced = 0.0 if container.streams.audio else (container.duration or 0) / _CLOCK
        # AVI stores no presentation times; with reordered frames what libav makes up is the decoding order.
        ordered = not (container.format.name == "avi" and stream.codec_context.has_b_frames)
        for packet in _packets(container, stream, faults):
            packet_pts.append(packet.pts)
            packet_key.append(packet.is_keyframe)
            if kept is not None:
                kept.append(packet)
            if packet.is_corrupt:
                damaged = True
            elif packet.pts is not None and not packet.is_discard:
                shown.append((packet.pts, packet.duration or 0))
            _check_count(path, len(packet_pts))
    known = [pts for pts in packet_pts if pts is not None]
    complete = len(known) == len(packet_pts) == len(set(known))
    if faults or not (ordered and complete and base) or not shown:
        return _decoded_timeline(path, threads, timed=ordered)
    shown.sort()
    duration = _seconds(max(pts + length for pts, length in shown) - shown[0][0], base)
    if damaged:
        notes.append("some packets are cut off or corrupt; they are left out")
    ends = max(duration, _seconds(shown[-1][0], base))  # Matroska counts from 0, mp4 from the first frame.
    if announced - ends > max(0.5, 0.1 * announced):
        notes.append(f"the file announces {announced:.1f} s, its frames end at {ends:.1f} s: it may be cut short")
    return Timeline(
        times=[_seconds(pts, base) for pts, _ in shown],
        duration=duration,
        codec=codec,
        pts=[pts for pts, _ in shown],
        packet_pts=known,
        packet_key=packet_key,
        packets=kept,
        damaged=damaged,
        notes=notes,
    )


def _seconds(pts: int, base: Fraction) -> float:
    # Ten times faster than a product of fractions, and as exact.
    return pts * base.numerator / base.denominator


def _check_count(path: Path, count: int) -> None:
    if count > MAX_FRAMES:
        raise DataError(f"{path} has more than {MAX_FRAMES} frames", "cut it into shorter clips")


def _decoded_timeline(path: Path, threads: int, *, timed: bool) -> Timeline:
    faults = Faults()
    pts: list[int] = []
    count = length = 0
    with open_stream(path, threads) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        base, codec = stream.time_base, stream.codec_context.codec.canonical_name
        for frame in _decode_all(container, stream, faults):
            count += 1
            length = frame.duration
            if frame.pts is not None:
                pts.append(frame.pts)
            _check_count(path, count)
    if not count:
        if faults:
            raise DataError(f"{path} is damaged: none of its frames could be decoded")
        raise DataError(f"{path} holds no frames")
    if base is None or len(pts) < count or not timed:
        pts, base, length = list(range(count)), 1 / rate, 1
    pts.sort()  # Frames come in the order of display; times that disagree are made to follow.
    return Timeline(
        times=[_seconds(time, base) for time in pts],
        duration=_seconds(pts[-1] - pts[0] + length, base),
        codec=codec,
        damaged=bool(faults),
        notes=faults.notes(),
    )


def plan_spans(packet_pts: Sequence[int], packet_key: Sequence[bool], wanted: Sequence[int]) -> list[tuple[int, int]]:
    """The runs of packets to decode.

    A run starts at the last key packet, in decoding order, that is not shown after the wanted frame: a later key
    packet of an open group comes before frames that need the group before it. It ends at the frame's own packet.

    Args:
        packet_pts: Presentation times in decoding order, without repeats.
        packet_key: Whether decoding can start at each packet.
        wanted: Presentation times, all among ``packet_pts``.

    Returns:
        Inclusive runs, ascending and not touching.

    >>> plan_spans([0, 3, 1, 2, 4, 5], [True, False, False, False, True, False], [2, 5])
    [(0, 5)]
    >>> plan_spans([0, 1, 2, 3, 4, 5], [True, False, False, True, False, False], [1, 4])
    [(0, 1), (3, 4)]
    """
    place = {pts: number for number, pts in enumerate(packet_pts)}
    keys = [number for number, key in enumerate(packet_key) if key]
    spans: list[tuple[int, int]] = []
    for end in (place[pts] for pts in wanted):
        before = bisect_right(keys, end) - 1
        while before >= 0 and packet_pts[keys[before]] > packet_pts[end]:
            before -= 1
        spans.append((keys[before] if before >= 0 else 0, end))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def decode_frames(
    path: Path, timeline: Timeline, wanted: Sequence[int], threads: int, faults: Faults
) -> Iterator[tuple[int, VideoFrame, bool]]:
    """Decode the frames of the given numbers.

    Args:
        path: The clip.
        timeline: Its frames.
        wanted: Frame numbers in display order, ascending, without repeats.
        threads: Decoding threads.
        faults: Filled on the way.

    Yields:
        Frame number, frame, and whether it is the wanted one; else it is the nearest before it that could be decoded
        (after it, where there is none before).
    """
    if timeline.pts is None:
        with open_stream(path, threads) as (container, stream):
            yield from _pick(enumerate(_decode_all(container, stream, faults)), wanted)
        return
    numbers = {timeline.pts[number]: number for number in wanted}
    for frame in _decode_plan(path, timeline, sorted(numbers), threads, faults):
        if (number := numbers.pop(frame.pts, None) if frame.pts is not None else None) is not None:
            yield number, frame, True
    if not numbers:
        return
    # Damage, or a stream that takes several frames to build its picture after a key packet (intra refresh).
    with open_stream(path, threads) as (container, stream):
        whole = ((frame.pts, frame) for frame in _decode_all(container, stream, faults) if frame.pts is not None)
        for pts, frame, exact in _pick(whole, sorted(numbers)):
            yield numbers[pts], frame, exact


def _decode_plan(
    path: Path, timeline: Timeline, wanted: list[int], threads: int, faults: Faults
) -> Iterator[VideoFrame]:
    spans = plan_spans(timeline.packet_pts, timeline.packet_key, wanted)
    targets = set(wanted)
    with open_stream(path, threads) as (container, stream):
        context = stream.codec_context
        packets = iter(timeline.packets or _packets(container, stream, faults))
        done = 0
        for start, end in spans:
            for packet in islice(packets, start - done, end + 1 - done):
                context.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
                yield from _feed(context, packet, faults)
            done = end + 1
            yield from _feed(context, None, faults)
            context.flush_buffers()


def _decode_all(container: InputContainer, stream: VideoStream, faults: Faults) -> Iterator[VideoFrame]:
    context = stream.codec_context
    for packet in _packets(container, stream, faults):
        yield from _feed(context, packet, faults)
    yield from _feed(context, None, faults)


def _packets(container: InputContainer, stream: VideoStream, faults: Faults) -> Iterator[Packet[VideoStream]]:
    import av

    try:
        # An empty packet would tell the decoder that the clip is over.
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.FFmpegError:
        faults.torn = True
    except IndexError:
        # PyAV 18 fails so at the very end of a transport stream in which another stream has begun on the way.
        return


def _feed(context: VideoCodecContext, packet: Packet[VideoStream] | None, faults: Faults) -> list[VideoFrame]:
    import av

    try:
        frames = context.decode(packet)
    except av.FFmpegError:
        faults.packets = True
        return []
    faults.pictures |= any(frame.is_corrupt for frame in frames)
    return frames


def _pick(frames: Iterator[tuple[int, VideoFrame]], wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame, bool]]:
    """Match ascending frames with ascending wanted keys; a key that is absent gets the frame before it."""
    last: VideoFrame | None = None
    todo = 0
    for key, frame in frames:
        passed = bisect_left(wanted, key, todo)
        for missing in wanted[todo:passed]:
            yield missing, frame if last is None else last, False
        todo = passed
        if todo < len(wanted) and wanted[todo] == key:
            yield key, frame, True
            todo += 1
        if todo == len(wanted):
            return
        last = frame
    if last is not None:
        for missing in wanted[todo:]:
            yield missing, last, False
