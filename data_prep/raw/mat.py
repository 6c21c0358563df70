"""MATLAB files (.mat, version 5) of strangers: one variable, its claims checked before scipy believes them.

scipy allocates what a header claims, unpacks as much as a compressed variable holds and follows nested cells
as deep as they go. So the variable is unpacked here, up to a limit, and its elements are walked: every array
must be as large as the bytes that hold it, there are no more arrays, and none nested deeper, than the
datasets have, and classes other than numbers, text, cells and structs (function handles, objects) are
refused. Only then scipy reads it.
"""

import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import scipy.io

from ntdm.data_prep.raw.files import read_bytes
from ntdm.io.untrusted import reason

_LARGEST = 64 * 2**20  # bytes, unpacked: the largest category of CADs, with its visibility tables, has 20 MB
_DEEPEST = 20  # a record's anchor locations are at depth 5
# Arrays: release 1.0's chairs have 158,000. scipy makes an object of each empty cell, stored in 8 bytes.
_MOST = 500_000
_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = range(6, 16)  # double, single, and the integers
_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 2,
    5: 4,
    6: 4,
    7: 4,
    9: 8,
    12: 8,
    13: 8,
    16: 1,
    17: 2,
    18: 4,
}  # of stored types


def read_mat(path: Path, name: str) -> Any:
    """The variable `name` as scipy.io.loadmat gives it, None where the file has none of that name.

    Raises ValueError naming the file: unreadable, of another version, damaged, larger than any annotation, or
    the variable holds something else than numbers, text, cells and structs.
    """
    data = read_bytes(path, _LARGEST)
    try:
        order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
        if order is None or len(data) < _HEADER or data[124:126] not in (b"\0\1", b"\1\0"):
            raise ValueError("it is no MATLAB file of version 5 to 7")
        variable = _variable(data, name, order)
        if variable is None:
            return None
        tag = struct.pack(f"{order}2I", _MATRIX, len(variable))
        # Damaged bytes make scipy raise nearly anything: OSError, TypeError, KeyError ...
        return scipy.io.loadmat(io.BytesIO(data[:_HEADER] + tag + variable))[name]
    except MemoryError:  # no fault of the file
        raise MemoryError(f"for {path}") from None
    except Exception as error:
        raise ValueError(f"{path} is not a readable .mat file: {reason(error)}") from None


def _variable(data: bytes, name: str, order: str) -> bytes | None:
    """The checked bytes of the variable `name`, without their tag."""
    at, left = _HEADER, _LARGEST
    for _ in range(_MOST):
        if at >= len(data):
            return None
        kind, start, stop, _ = _element(data, at, len(data), order)
        at = stop
        body = data[start:stop]
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            body = unpacker.decompress(body, left)
            if unpacker.unconsumed_tail:
                raise ValueError(f"it unpacks to more than {_LARGEST} bytes")
            left -= len(body) - 1  # never 0, which would mean no limit
            kind, start, stop, _ = _element(body, 0, len(body), order)
            body = body[start:stop]
        if kind == _MATRIX and _Matrix(body, order).check(name):
            return body
    raise ValueError(f"it holds more than {_MOST} variables")


def _element(data: bytes, at: int, end: int, order: str) -> tuple[int, int, int, int]:
    """Type, start and stop of the data, start of the next element; a small one has its data in the tag."""
    if at + 8 > end:
        raise ValueError("it is cut short")
    first, count = struct.unpack_from(f"{order}2I", data, at)
    if first >> 16:
        kind, count, start, following = first & 0xFFFF, first >> 16, at + 4, at + 8
        if count > 4:
            raise ValueError("an element is longer than its place")
    else:
        kind, start = first, at + 8
        following = start + -(-count // 8) * 8
    if start + count > end:
        raise ValueError("an element claims more bytes than the file has")
    return kind, start, start + count, following


class _Matrix:
    """Walks the elements of one variable."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.count = data, order, 0

    def check(self, name: str) -> bool:
        """Whether this is the variable `name`; ValueError where it is, and is not sound."""
        data, order = self.data, self.order
        _, flags, _, at = _element(data, 0, len(data), order)
        if data[flags + (0 if order == "<" else 3)] == 17:  # an object of a MATLAB class: its header differs
            return False
        _, _, _, at = _element(data, at, len(data), order)
        _, start, stop, _ = _element(data, at, len(data), order)
        if data[start:stop] != name.encode():
            return False
        self._walk(0, len(data), 0)
        return True

    def _walk(self, at: int, end: int, depth: int) -> None:
        """One matrix, whose elements lie in data[at:end]."""
        if at == end:
            return  # how an empty field is stored
        if depth > _DEEPEST:
            raise ValueError(f"cells are nested more than {_DEEPEST} deep")
        data, order = self.data, self.order
        _, start, stop, at = _element(data, at, end, order)
        if stop - start != 8:
            raise ValueError("an array has no flags")
        (flags,) = struct.unpack_from(f"{order}I", data, start)
        kind = flags & 0xFF
        if kind not in (_CELL, _STRUCT, _CHAR, *_NUMBERS):
            raise ValueError("it holds a function handle, an object or a sparse matrix, not plain data")
        _, start, stop, at = _element(data, at, end, order)
        dims = struct.unpack_from(f"{order}{(stop - start) // 4}i", data, start)
        if not 2 <= len(dims) <= 8 or min(dims) < 0:
            raise ValueError(f"an array has the shape {dims}")
        count = math.prod(dims)
        _, _, _, at = _element(data, at, end, order)  # the name
        if kind in (_CELL, _STRUCT):
            if kind == _STRUCT:
                _, start, stop, at = _element(data, at, end, order)
                (width,) = struct.unpack_from(f"{order}i", data, start) if stop - start == 4 else (0,)
                _, start, stop, at = _element(data, at, end, order)
                fields = (stop - start) // width if 0 < width <= 1024 else 0
                if count and not fields:
                    raise ValueError("a struct has no fields")
                count *= fields
            if count * 8 > end - at:
                raise ValueError(f"an array of shape {dims} is larger than what is stored of it")
            self.count += count
            if self.count > _MOST:
                raise ValueError(f"it holds more than {_MOST} arrays")
            for _ in range(count):
                inner, start, stop, at = _element(data, at, end, order)
                if inner != _MATRIX:
                    raise ValueError("a cell or field holds no array")
                self._walk(start, stop, depth + 1)
            return
        for _ in range(2 if flags & 0x800 else 1):  # the imaginary part lies behind the real one
            stored, start, stop, at = _element(data, at, end, order)
            if stored not in _BYTES or count * _BYTES[stored] != stop - start:
                # Text in UTF-8 has a character of one to four bytes.
                if stored in (16, 17) and count <= stop - start <= 4 * count:
                    continue
                raise ValueError(f"an array of shape {dims} has {stop - start} bytes of type {stored}")
