"""Files that are whole or absent: written beside their place, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rft3d_cli.errors import DataError


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes it when the block ends well.

    The temporary file lies in the same folder, so the rename cannot cross a file system. It is removed when the
    block raises.

    Args:
        path: The final path; missing parent folders are made, and a link is replaced, never what it leads to.
        durable: Flush the content to the disk before it gets its name, so that not even a power cut leaves half a
            file. Off for files by the thousand that a repeated command would write again.

    Raises:
        DataError: Where the folder cannot be written, or ``path`` is a folder, a device or a pipe.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, where a file would be written")
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is a device or a pipe, where a file would be written")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise DataError(f"{path.parent} cannot be written: {error.strerror}") from None
    temporary = Path(name)
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        # mkstemp makes private files; results are ordinary files.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def check_place(path: Path) -> None:
    """Try that a file can be written at ``path``, before the work that it is to hold; nothing stays behind.

    Args:
        path: The final path; parent folders that are missing are not made, but must be such as can be.

    Raises:
        DataError: As :func:`atomic_path`.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder, where a file would be written")
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is a device or a pipe, where a file would be written")
        nearest = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        # Permissions do not tell: a read-only or a virtual file system refuses what they allow.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=nearest)
    except OSError as error:
        raise DataError(f"{path.parent} cannot be written: {error.strerror}", "name another file") from None
    os.close(handle)
    Path(name).unlink()


@contextmanager
def atomic_writer(path: Path, *, durable: bool = True) -> Iterator[IO[str]]:
    """A text stream whose content appears at ``path`` when the block ends well."""
    with atomic_path(path, durable=durable) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any, *, indent: int | None = 2, durable: bool = True) -> None:
    """Write ``value`` as JSON, whole or not at all; NaN is refused."""
    with atomic_writer(path, durable=durable) as stream:
        json.dump(value, stream, indent=indent, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
