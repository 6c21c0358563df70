"""Input of strangers: their words in our sentences, and NumPy archives (.npz) without running their pickles.

An archive holds arrays of numbers and text, and None where a field was left empty.
NumPy stores None as a pickle, and loading a pickle can run code. So no pickle is loaded: its opcodes are
listed, and one that spells an array holding None is taken for None. A file with any other pickle is refused.
"""

import io
import math
import pickletools
import zipfile
from pathlib import Path

import numpy as np

_LONGEST_TEXT = 200  # characters; scipy quotes the whole file
LARGEST = 100_000_000  # bytes, packed or unpacked: two masks of the largest photo, and some to spare
_MOST = 1000  # members: an annotation has some twenty
_LONGEST_HEADER = 1000  # bytes of an array's header: NumPy writes 118 of a plain one
_LONGEST_NONE = 1000  # bytes of a pickled None: NumPy writes some 130
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes; the others unpack without a limit

# What NumPy's pickle of an array of one None is made of, by any NumPy since 1.7 and any protocol since 2.
_WORDS = frozenset(
    {
        "numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_reconstruct", "ndarray", "dtype",
        "O8", "|", "b", "_codecs", "encode", "latin1",
    }
)  # fmt: skip
_BOOKKEEPING = frozenset({"BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"})
_ENDING = ["EMPTY_LIST", "NONE", "APPEND", "TUPLE", "BUILD", "STOP"]


def one_line(text: str) -> str:
    """A stranger's text as one printable line of at most 200 characters."""
    text = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return text[:_LONGEST_TEXT] + ("..." if len(text) > _LONGEST_TEXT else "")


def reason(error: BaseException) -> str:
    """The message of an error as :func:`one_line`; its type where it has none."""
    return one_line(str(error)) or type(error).__name__


def unpack(data: bytes, path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive by name; a field that holds None is left out, as if it were not there.

    Args:
        data: the archive's bytes.
        path: where they come from, for errors.

    Raises:
        ValueError: names the file, and the field where one is to blame: no archive, cut short, larger than
            any annotation, or a field that holds a pickled object.
    """
    try:
        # Counted before zipfile makes an object of each. Packed bytes hardly ever look like an entry.
        if data.count(b"PK\1\2") > _MOST:
            raise ValueError(f"it has more than {_MOST} members")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST} bytes")
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            fields = {member.filename.removesuffix(".npy"): _read(archive, member) for member in members}
    except MemoryError:  # no fault of the file
        raise MemoryError(f"for {path}") from None
    # Damaged bytes make zipfile and NumPy raise nearly anything: KeyError, TokenError, zlib.error ...
    except Exception as error:
        raise ValueError(f"{path} is not a readable .npz file: {reason(error)}") from None
    return {name: array for name, array in fields.items() if array is not None}


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray | None:
    """The array of a .npy member, or None where that holds None."""
    if member.compress_type not in _METHODS:
        raise ValueError(f"field {member.filename.removesuffix('.npy')} is compressed by another method")
    with archive.open(member) as file:
        # With the size, or a member could unpack to more than it claims.
        content = file.read(member.file_size)
    try:
        return _array(content)
    except ValueError as error:
        name = member.filename.removesuffix(".npy")
        raise ValueError(f"field {name} holds no plain array ({reason(error)})") from None


def _array(content: bytes) -> np.ndarray | None:
    """The array of these bytes. NumPy would allocate what the header claims; here the bytes must be there."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format")
    # The header is a Python literal: a long one could be nested deeper than the parser's stack.
    if int.from_bytes(content[8 : 10 if version == (1, 0) else 12], "little") > _LONGEST_HEADER:
        raise ValueError(f"its header has more than {_LONGEST_HEADER} bytes")
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = read_header(stream)
    payload = content[stream.tell() :]
    if dtype.hasobject:
        if shape == () and _is_none(payload):
            return None
        raise ValueError("pickled objects are not loaded")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(payload) or count > max(len(payload), 1):
        raise ValueError(f"{dtype} {shape} is not what its {len(payload)} bytes hold")
    array = np.frombuffer(payload, dtype) if dtype.itemsize else np.zeros(count, dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")


def _is_none(pickled: bytes) -> bool:
    """Whether the bytes are a pickled array whose one element is None; nothing in them is run."""
    if len(pickled) > _LONGEST_NONE:
        return False
    try:
        steps = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled)]
    except (ValueError, IndexError):
        return False
    words = {word for _, text in steps if isinstance(text, str) for word in text.split(" ")}
    names = [name for name, _ in steps if name not in _BOOKKEEPING]
    return words <= _WORDS and names[-len(_ENDING) :] == _ENDING
