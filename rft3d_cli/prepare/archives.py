"""Taking named files out of a zip archive that may mean harm."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from rft3d_cli.errors import DataError
from rft3d_cli.files import atomic_path

MAX_RATIO = 200
"""Unpacked bytes a packed byte; videos hardly pack at all."""
MAX_BYTES = 4 << 30
"""Of one file, unpacked."""
MAX_NAMES = 200_000
_BLOCK = 1 << 20


class Archive:
    """An open zip archive whose names have all been checked.

    Args:
        path: The archive, for messages.
        members: Files by name.
    """

    def __init__(self, path: Path, source: zipfile.ZipFile) -> None:
        self.path = path
        self._source = source
        infos = source.infolist()
        if len(infos) > MAX_NAMES:
            raise DataError(f"{path} lists {len(infos):,} files")
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            _check(path, info)
            if info.is_dir():
                continue
            if info.filename in self.members:
                raise DataError(f"{path} holds {info.filename!r} twice")
            self.members[info.filename] = info

    def extract(self, name: str, target: Path) -> None:
        """Write one member to ``target``, whole or not at all.

        Raises:
            DataError: Where it is encrypted, damaged, too large, or packed too tightly to be honest.
        """
        info = self.members[name]
        if info.flag_bits & 1:
            raise DataError(f"{self.path}: {name} is encrypted")
        if info.file_size > MAX_BYTES or info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise DataError(f"{self.path}: {name} unpacks to {info.file_size:,} bytes from {info.compress_size:,}")
        try:
            with self._source.open(info) as packed, atomic_path(target) as temporary, temporary.open("wb") as stream:
                _copy(packed, stream, info.file_size)
        except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, ValueError) as error:
            raise DataError(f"{self.path}: {name} is damaged ({error})", "download the archive again") from None


def _copy(packed: IO[bytes], stream: IO[bytes], size: int) -> None:
    # What the archive announces is a promise; what it unpacks to is counted.
    left = size
    while block := packed.read(min(_BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            raise ValueError("it unpacks to more than it announces")
        stream.write(block)
    if left:
        raise ValueError("it unpacks to less than it announces")


def _check(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or any(c in name for c in "\\:\0"):
        raise DataError(f"{path} is not safe to unpack: it holds {name!r}", "download it from its publisher")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{path} is not safe to unpack: {name!r} is a link or a device")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip archive and check every name in it.

    Raises:
        DataError: Where it is no zip archive, or where any name is absolute, climbs with ``..``, is a link, or repeats.
    """
    try:
        with zipfile.ZipFile(path) as source:
            yield Archive(path, source)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not a zip archive: {error}", "download it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
