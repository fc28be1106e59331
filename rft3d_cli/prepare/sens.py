"""ScanNet's ``.sens`` files, version 4: one scan's colour, depth and poses in one stream.

Little-endian, no padding. Header: version, sensor name, four 4×4 matrices, compression kinds, image sizes, depth
shift, frame count. Each frame: a pose, two time stamps, two lengths, colour bytes, depth bytes. A block of IMU samples
follows, and may be missing.

The reader makes one pass over the frame headers, which leaves an offset table; images are read and decoded only when
asked for, and every length is checked against the file before it is believed.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.errors import DataError
from rft3d_cli.files import atomic_path
from rft3d_cli.geometry.boxes import Floats

VERSION = 4
COLOUR_KINDS = {-1: "unknown", 0: "raw", 1: "png", 2: "jpeg"}
DEPTH_KINDS = {-1: "unknown", 0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}

_MATRIX = struct.Struct("<16f")
_SIZES = struct.Struct("<iiIIIIfQ")
_FRAME = struct.Struct("<16fQQQQ")
_MAX_SIDE = 1 << 14
_MAX_NAME = 1 << 16


@dataclass(frozen=True)
class SensFrame:
    """One frame's header.

    Args:
        index: Raw frame number, from 0.
        pose: ``(4, 4)`` camera to the scan's world; not finite where tracking was lost.
        colour_time: Time stamp as stored, microseconds in ScanNet, often 0 or garbage.
        depth_time: Likewise.
        offset: Where the colour bytes begin in the file.
        colour_bytes: Their length.
        depth_bytes: Length of the depth bytes that follow.
    """

    index: int
    pose: Floats
    colour_time: int
    depth_time: int
    offset: int
    colour_bytes: int
    depth_bytes: int

    @property
    def tracked(self) -> bool:
        """Whether the pose is usable: ScanNet marks lost frames with −inf."""
        return bool(np.isfinite(self.pose).all()) and self.pose[0, 0] != 0


class SensFile:
    """A ``.sens`` file opened for reading.

    Args:
        path: The file.

    Attributes:
        sensor: The sensor's name.
        intrinsic_colour: ``(4, 4)``, pixels of the colour image.
        intrinsic_depth: ``(4, 4)``, pixels of the depth image.
        colour_size: ``(width, height)``.
        depth_size: ``(width, height)``.
        depth_shift: Depth units a metre.
        frames: Headers of all frames.

    Raises:
        DataError: On anything that is not a whole ``.sens`` file; the message says what and at which frame.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._size = self.path.stat().st_size
            with self.path.open("rb") as stream:
                count = self._read_header(stream)
                self.frames = self._read_frames(stream, count)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from None

    def _read_header(self, stream: io.BufferedReader) -> int:
        version, length = struct.unpack("<IQ", self._take(stream, 12, "the header"))
        if version != VERSION:
            raise DataError(f"{self.path} is not a .sens file of version {VERSION} (it says {version})")
        if length > _MAX_NAME:
            raise DataError(f"{self.path} is damaged: a sensor name of {length} bytes")
        self.sensor = self._take(stream, length, "the sensor name").decode("utf-8", "replace")
        matrices = [self._matrix(stream) for _ in range(4)]
        self.intrinsic_colour, self.extrinsic_colour, self.intrinsic_depth, self.extrinsic_depth = matrices
        fields = _SIZES.unpack(self._take(stream, _SIZES.size, "the header"))
        self._colour_kind = COLOUR_KINDS.get(fields[0], "unknown")
        self._depth_kind = DEPTH_KINDS.get(fields[1], "unknown")
        self.colour_size, self.depth_size = (fields[2], fields[3]), (fields[4], fields[5])
        self.depth_shift = float(fields[6])
        if max(fields[2:6]) > _MAX_SIDE or not np.isfinite(self.depth_shift) or self.depth_shift <= 0:
            raise DataError(f"{self.path} is damaged: image sizes {self.colour_size} and {self.depth_size}")
        return int(fields[7])

    def _matrix(self, stream: io.BufferedReader) -> Floats:
        values = _MATRIX.unpack(self._take(stream, _MATRIX.size, "a camera matrix"))
        return np.array(values, dtype=np.float64).reshape(4, 4)

    def _read_frames(self, stream: io.BufferedReader, count: int) -> list[SensFrame]:
        frames: list[SensFrame] = []
        position = stream.tell()
        if count > (self._size - position) // _FRAME.size:
            raise self._torn(f"it announces {count:,} frames, more than it has room for")
        for index in range(count):
            fields = _FRAME.unpack(self._take(stream, _FRAME.size, f"frame {index} of {count}"))
            pose = np.array(fields[:16], dtype=np.float64).reshape(4, 4)
            colour_time, depth_time, colour_bytes, depth_bytes = fields[16:]
            position += _FRAME.size
            if colour_bytes + depth_bytes > self._size - position:
                raise self._torn(f"frame {index} of {count} ends beyond the file")
            frames.append(SensFrame(index, pose, colour_time, depth_time, position, colour_bytes, depth_bytes))
            position += colour_bytes + depth_bytes
            stream.seek(position)
        return frames

    def _take(self, stream: io.BufferedReader, length: int, what: str) -> bytes:
        data = stream.read(length)
        if len(data) != length:
            raise self._torn(f"it ends within {what}")
        return data

    def _torn(self, why: str) -> DataError:
        return DataError(f"{self.path} is truncated: {why} ({self._size:,} bytes)", "download or copy the file again")

    def __len__(self) -> int:
        return len(self.frames)

    def colour(self, index: int) -> bytes:
        """The colour image's bytes as the file holds them, normally a JPEG.

        Raises:
            DataError: Where they are neither JPEG nor PNG.
        """
        frame = self.frames[index]
        data = self._slice(frame.offset, frame.colour_bytes)
        if not data.startswith((b"\xff\xd8", b"\x89PNG")):
            raise DataError(f"{self.path} frame {index}: its colour image is neither JPEG nor PNG")
        return data

    def depth(self, index: int) -> NDArray[np.uint16]:
        """The depth image ``(H, W)`` in units of ``1 / depth_shift`` metres; 0 is unknown.

        Raises:
            DataError: On damaged data, or on the proprietary ``occi`` compression.
        """
        frame = self.frames[index]
        data = self._slice(frame.offset + frame.colour_bytes, frame.depth_bytes)
        width, height = self.depth_size
        size = width * height * 2
        if self._depth_kind == "zlib_ushort":
            inflate = zlib.decompressobj()
            try:
                data = inflate.decompress(data, size + 1)
            except zlib.error as error:
                raise DataError(f"{self.path} frame {index}: damaged depth image ({error})") from None
        elif self._depth_kind != "raw_ushort":
            raise DataError(f"{self.path}: depth compression {self._depth_kind} cannot be read")
        if len(data) != size:
            raise DataError(f"{self.path} frame {index}: depth image of {len(data)} bytes instead of {size}")
        return np.frombuffer(data, dtype="<u2").reshape(height, width)

    def _slice(self, offset: int, length: int) -> bytes:
        try:
            with self.path.open("rb") as stream:
                stream.seek(offset)
                return self._take(stream, length, "an image")
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from None


def write_sens(
    path: Path,
    *,
    colours: Sequence[bytes],
    depths: Sequence[NDArray[np.uint16]],
    poses: Floats,
    times: Floats,
    intrinsic_colour: Floats,
    intrinsic_depth: Floats,
    colour_size: tuple[int, int],
    depth_size: tuple[int, int],
    sensor: str = "StructureSensor",
) -> None:
    """Write a ``.sens`` file as ScanNet's tools do: JPEG colour, zlib depth in millimetres.

    Args:
        path: The file.
        colours: One JPEG a frame.
        depths: ``(H, W)`` millimetres, one a frame.
        poses: ``(n, 4, 4)`` camera to the scan's world; −inf marks a lost frame.
        times: ``(n,)`` seconds, stored in microseconds.
        intrinsic_colour: ``(3, 3)`` or ``(4, 4)``.
        intrinsic_depth: Likewise.
        colour_size: ``(width, height)``.
        depth_size: ``(width, height)``.
        sensor: The sensor's name.
    """
    name = sensor.encode()
    identity = np.eye(4)
    with atomic_path(path, durable=False) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<IQ", VERSION, len(name)) + name)
        for matrix in (_square(intrinsic_colour), identity, _square(intrinsic_depth), identity):
            stream.write(_MATRIX.pack(*matrix.ravel()))
        stream.write(_SIZES.pack(2, 1, *colour_size, *depth_size, 1000.0, len(colours)))
        for colour, depth, pose, time in zip(colours, depths, poses, times, strict=True):
            packed = zlib.compress(np.ascontiguousarray(depth, dtype="<u2").tobytes(), 6)
            stamp = round(float(time) * 1e6)
            stream.write(_FRAME.pack(*pose.ravel(), stamp, stamp, len(colour), len(packed)))
            stream.write(colour)
            stream.write(packed)
        stream.write(struct.pack("<Q", 0))


def _square(matrix: Floats) -> Floats:
    out = np.eye(4)
    out[: len(matrix), : len(matrix)] = matrix
    return out
