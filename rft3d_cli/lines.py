"""Lines of JSON, and predictions: what can be read without the schema of records.

Scoring saved answers goes through here, so that it starts without pydantic.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft3d_cli.errors import DataError

_ESCAPED = re.compile(r"[\udc80-\udcff]")
"""Bytes that are not UTF-8, as Python's ``surrogateescape`` hands them on."""


@contextmanager
def kept() -> Iterator[None]:
    """Rest the garbage collector while thousands of rows are made that all stay: it would find nothing among them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def read_lines(path: Path, *, torn: bool = False) -> Iterator[tuple[int, str]]:
    """Numbered, non-blank lines of a UTF-8 text file.

    Args:
        path: The file.
        torn: Give a last line without a newline also where it ends within a character, the bytes that are left escaped.

    Raises:
        DataError: Where the file is missing, is a folder, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as stream:
            for number, line in enumerate(stream, start=1):
                if not (torn and line[-1:] != "\n") and not line.isascii() and _ESCAPED.search(line):
                    raise DataError(f"{path} is not UTF-8 text: line {number}")
                if not line.isspace():
                    yield number, line
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "check the path; rft3d prepare writes record files") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a JSONL file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def read_predictions(path: Path | str) -> dict[str, str]:
    """Read predictions: ``{"id", "prediction"}`` a line, other keys ignored.

    A later line for the same id replaces the earlier one, as a resumed run appends. A last line without a newline
    that is not JSON is a torn write and is left out.

    Raises:
        DataError: On a missing file or a wrong line.
    """
    return dict(read_answers(path))


def read_answers(path: Path | str) -> Iterator[tuple[str, str]]:
    """Ids and texts of a file of predictions, line by line; an id may have several.

    Raises:
        DataError: On a missing file or a wrong line.
    """
    path = Path(path)
    whole = False
    for number, line in read_lines(path, torn=True):
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            if line.endswith("\n"):
                why = f"not JSON: {error}" if isinstance(error, ValueError) else "nested too deeply"
                raise DataError(f"{path} line {number}: {why}") from None
            if not whole:
                raise DataError(f"{path} holds no predictions, only half a line") from None
            continue
        whole = True
        if not isinstance(data, dict) or "id" not in data or "prediction" not in data:
            raise DataError(f'{path} line {number}: a prediction is an object {{"id": …, "prediction": …}}')
        text = data["prediction"]
        if not isinstance(text, str) and text is not None:
            raise DataError(f"{path} line {number}: prediction must be text")
        yield str(data["id"]), text or ""
