"""Reading pickles of plain data, without running anything that is written in them.

A pickle is a program for a small machine that can call any function it names. EmbodiedScan ships its annotations as
pickles of dicts, lists, numbers, text and numpy arrays, so this reader knows those and nothing else, in three layers:

1. The file is scanned, opcode by opcode, before any object is built. An opcode or a name that such data does not need
   refuses the file, as do too many bytes or opcodes.
2. The unpickler resolves a name only from a list of ten, and never to the real thing: each gives a stand-in of our
   own, so that numpy's constructors do not see what the file says either.
3. The stand-ins accept numbers and text only, check every length, and cannot be changed.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.errors import DataError

MAX_BYTES = 4 << 30
MAX_OPCODES = 200_000_000
"""A listed frame takes about 46, so this is room for four million frames."""

_OPCODES = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    }
)
"""What picklers of protocol 2 to 5 write for plain data. No INST, OBJ, NEWOBJ, EXT, PERSID or NEXT_BUFFER."""

_TEXT = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"})
_PUTS = frozenset({"MEMOIZE", "BINPUT", "LONG_BINPUT"})
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[US][0-9]{1,4}")
_ODD = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
_HINT = "EmbodiedScan's files hold numbers, text and arrays only; download it again, or read a .json copy of it"


def load_plain_pickle(path: Path, *, max_bytes: int = MAX_BYTES, max_opcodes: int = MAX_OPCODES) -> Any:
    """Read a pickle that holds only dicts, lists, tuples, numbers, text and numpy arrays.

    Args:
        path: The file, protocol 2 to 5.
        max_bytes: Larger files are refused.
        max_opcodes: Longer programs are refused.

    Returns:
        The data. Arrays are :class:`PlainArray`, which ``numpy.asarray`` turns into the array.

    Raises:
        DataError: On anything else. Nothing in the file has run then.
    """
    try:
        size = path.stat().st_size
        if not 0 < size <= max_bytes:
            raise DataError(f"{path} holds {size:,} bytes; a pickle of annotations has 1 to {max_bytes:,}")
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _scan(path, data, max_opcodes)
            data.seek(0)
            return _Unpickler(data).load()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except DataError:
        raise
    except (pickle.UnpicklingError, EOFError, MemoryError, struct.error, *_ODD) as error:
        what = str(error) or type(error).__name__
        raise DataError(f"{path} is a damaged pickle: {what} ({size:,} bytes)", _HINT) from None


def _scan(path: Path, data: mmap.mmap, max_opcodes: int) -> None:
    """Refuse the file where it does more than describe plain data."""
    memo: dict[int, str] = {}
    last: tuple[str | None, str | None] = (None, None)
    puts = 0
    argument: Any
    # Out of a memory map no read can reserve more than the file holds, whatever length the file claims.
    for count, (opcode, argument, at) in enumerate(pickletools.genops(cast("IO[bytes]", data))):
        name, position = opcode.name, at or 0
        if name not in _OPCODES or count >= max_opcodes:
            why = f"more than {max_opcodes:,} operations" if name in _OPCODES else f"operation {name}"
            raise DataError(f"{path} is not a pickle of plain data: {why} at byte {position}", _HINT)
        if name in _TEXT:
            last = (last[1], argument)
        elif name in ("BINGET", "LONG_BINGET"):
            last = (last[1], memo.get(argument))
        elif name in _PUTS:
            index = puts if name == "MEMOIZE" else argument
            # The unpickler reserves memory for the highest number, so it may not run ahead.
            if index > count:
                raise DataError(f"{path} is not a pickle of plain data: memo {index} at byte {position}", _HINT)
            if last[1] is not None:
                memo[index] = last[1]
            else:
                memo.pop(index, None)
            puts += 1
        elif name != "FRAME":
            if name == "GLOBAL":
                module, _, attribute = argument.partition(" ")
                _check_name(path, module, attribute, position)
            elif name == "STACK_GLOBAL":
                _check_name(path, *last, position)
            last = (None, None)


def _check_name(path: Path, module: str | None, name: str | None, position: int) -> None:
    if (module, name) not in _ALLOWED:
        what = f"{module}.{name}" if module is not None and name is not None else "a name that it computes"
        raise DataError(f"{path} is not a pickle of plain data: it calls {what} at byte {position}", _HINT)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to objects outside the file")


class _Fixed:
    """An object that a pickle's BUILD can neither fill nor change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes what it may only call")

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("it changes what it may only call")


class _Callable(_Fixed):
    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)  # type: ignore[attr-defined]


class _Dtype(_Fixed):
    """A number or text type. Its byte order arrives after it, as a state."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"it holds an array of type {str(code)[:20]!r}")
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "order", "|")

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags)
        if not isinstance(state, tuple) or len(state) != 8 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it holds an array of an odd type")
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds an array of records")
        object.__setattr__(self, "order", state[1])

    def resolve(self) -> np.dtype[Any]:
        return np.dtype(f"{self.order}{self.code}")  # type: ignore[attr-defined]


class PlainArray(_Fixed):
    """An array read from a pickle; ``numpy.asarray`` gives it."""

    __slots__ = ("value",)
    value: NDArray[Any] | None

    def __init__(self, value: NDArray[Any] | None = None) -> None:
        object.__setattr__(self, "value", value)

    def __setstate__(self, state: object) -> None:
        # (version, shape, dtype, column-major, bytes); lists instead of bytes would be objects.
        if not isinstance(state, tuple) or len(state) != 5 or self.value is not None:
            raise pickle.UnpicklingError("it holds an odd array")
        object.__setattr__(self, "value", _array(state[4], state[2], state[1], "F" if state[3] is True else "C"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self.value is None:
            raise ValueError("an array without content")
        return np.array(self.value, dtype=dtype)

    def tolist(self) -> Any:
        """The array as nested lists."""
        return np.asarray(self).tolist()


def _array(data: object, dtype: object, shape: object, order: object) -> NDArray[Any]:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("it holds an array of objects")
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("it holds an array of an odd shape")
    kind = dtype.resolve()
    count = 1
    for side in shape:
        count *= side
    if count * kind.itemsize != len(data):
        raise pickle.UnpicklingError("it holds an array whose size and content differ")
    if count == 0:
        return np.empty(shape, dtype=kind)
    return np.frombuffer(bytes(data), dtype=kind).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(subtype: object, shape: object, code: object) -> PlainArray:
    if subtype is not _NDARRAY or shape != (0,):
        raise pickle.UnpicklingError("it holds an odd array")
    return PlainArray()


def _frombuffer(data: object, dtype: object, shape: object, order: object, *more: object) -> PlainArray:
    return PlainArray(_array(data, dtype, shape, order))


def _scalar(dtype: object, data: object) -> Any:
    return _array(data, dtype, (), "C").item()


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes text in an odd way")
    return text.encode("latin1")


def _no_bytes(*arguments: object) -> bytes:
    if arguments:
        raise pickle.UnpicklingError("it makes bytes in an odd way")
    return b""


def _not_called(*arguments: object) -> NoReturn:
    raise pickle.UnpicklingError("it makes an array in an odd way")


_NDARRAY = _Callable(_not_called)
_ALLOWED: dict[tuple[str | None, str | None], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Callable(_Dtype),
    # Protocol 2 has no bytes: it encodes text, and calls bytes() where there are none.
    ("_codecs", "encode"): _Callable(_encode),
    ("__builtin__", "bytes"): _Callable(_no_bytes),
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Callable(_reconstruct)
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _Callable(_scalar)
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Callable(_frombuffer)
