"""NumPy archives (.npz) of strangers: arrays of numbers and text, and None where a field was left empty.

NumPy stores None as a pickle, and loading a pickle can run code. So no pickle is loaded: its opcodes are
listed, and one that spells an array holding None is taken for None. A file with any other pickle is refused.
"""

import io
import pickletools
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ntdm.data_prep.layout import refuse_link

_LARGEST = 400_000_000  # bytes unpacked: no annotation of a photo that we read is as large

# What NumPy's pickle of an array of one None is made of, by any NumPy since 1.7 and any protocol since 2.
_WORDS = frozenset(
    {
        "numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_reconstruct", "ndarray", "dtype",
        "O8", "|", "b", "_codecs", "encode", "latin1",
    }
)  # fmt: skip
_BOOKKEEPING = frozenset({"BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"})
_ENDING = ["EMPTY_LIST", "NONE", "APPEND", "TUPLE", "BUILD", "STOP"]


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive by name; a field that holds None is left out, as if it were not there.

    Raises ValueError naming the file, and the field where one is to blame: no archive, cut short, larger
    than any annotation, a link out of the dataset, or a field that holds a pickled object.
    """
    refuse_link(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST:
                raise ValueError(f"it unpacks to more than {_LARGEST} bytes")
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            fields = {name.removesuffix(".npy"): _array(name, archive.read(name)) for name in names}
    # Damaged bytes make zipfile and NumPy raise all of these.
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError,
        NotImplementedError, RuntimeError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise ValueError(f"{path} is not a readable .npz file: {error}") from None
    return {name: array for name, array in fields.items() if array is not None}


def _array(name: str, member: bytes) -> np.ndarray | None:
    """The array of a .npy member, or None where that holds None."""
    try:
        return np.lib.format.read_array(io.BytesIO(member), allow_pickle=False)
    except ValueError as error:
        # Either a damaged array or a pickled one: only the pickle of None is neither's fault.
        if _is_none(_payload(member)):
            return None
        raise ValueError(f"field {name.removesuffix('.npy')} holds no plain array ({error})") from None


def _payload(member: bytes) -> bytes:
    """What follows the header of a .npy file: magic (6 bytes), version (2), length (2, later 4), the rest."""
    width = 2 if member[6:7] == b"\x01" else 4
    return member[8 + width + int.from_bytes(member[8 : 8 + width], "little") :]


def _is_none(pickled: bytes) -> bool:
    """Whether the bytes are a pickled array whose one element is None; nothing in them is run."""
    try:
        steps = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled)]
    except (ValueError, IndexError):
        return False
    words = {word for _, said in steps if isinstance(said, str) for word in said.split(" ")}
    names = [name for name, _ in steps if name not in _BOOKKEEPING]
    return words <= _WORDS and names[-len(_ENDING) :] == _ENDING
