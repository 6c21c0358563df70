"""Lists, archives and names of untrusted files, within bounds."""

import codecs
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ntdm.io import untrusted

LARGEST_TEXT = 16 * 2**20  # bytes of a list, a table or an OFF file: the largest of PASCAL3D+ has 4 MB
LONGEST_LIST = 40_000  # lines of a list, rows of a table: the longest have some ten thousand
LONGEST_NAME = 200  # bytes as UTF-8; file systems take 255, and suffixes are added


def refuse_link(path: Path) -> None:
    """ValueError where a file is a symbolic link out of its folder and the folders beside that.

    Names in lists must not reach what is not the dataset's. Folders may be links: those are the user's own.
    """
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(path.parent.parent.resolve()):
        raise ValueError(f"{path} is a link that leads out of the dataset; put the file itself there")


def read_bytes(path: Path, largest: int) -> bytes:
    """What a file of the dataset holds.

    Raises ValueError where it cannot be read, is no file (a pipe, say), leads elsewhere, or has more than
    `largest` bytes, which no file of its kind has.
    """
    refuse_link(path)
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no file")
        with path.open("rb") as file:
            # No more than there is: the buffer is as large as what is asked for.
            data = file.read(min(largest, os.fstat(file.fileno()).st_size) + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > largest:
        raise ValueError(f"{path} has more than {largest} bytes, which no file of its kind has")
    return data


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a dataset's archive; ValueError as :func:`ntdm.io.untrusted.unpack` and read_bytes."""
    return untrusted.unpack(read_bytes(path, untrusted.LARGEST), path)


def read_list(path: Path) -> list[str]:
    """The non-empty lines of a list file, stripped.

    Raises ValueError when it cannot be read, leads elsewhere, or has more than LONGEST_LIST lines.
    """
    try:
        text = read_bytes(path, LARGEST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = read_bytes(path, LARGEST_TEXT)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        why = "it is UTF-16: save it as UTF-8" if utf16 else str(error)
        raise ValueError(f"list {path} cannot be read: {why}") from None
    lines = text.splitlines()
    if len(lines) > LONGEST_LIST:
        raise ValueError(f"list {path} has more than {LONGEST_LIST} lines, which none has")
    return [line.strip() for line in lines if line.strip()]


def base_name(name: str) -> str:
    """A file name without the suffix of a photo or annotation; other dots are part of the name."""
    return re.sub(r"\.(JPEG|jpe?g|JPG|png|npz)$", "", name)


def sift_names(names: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """The file names of a list, each once, in order; what is no file name, or there twice, is counted."""
    names = list(names)
    good = [name for name in dict.fromkeys(names) if valid_name(name)]
    invalid = sum(not valid_name(name) for name in names)
    return good, +Counter(name_invalid=invalid, listed_twice=len(names) - invalid - len(good))


def valid_path(path: str) -> bool:
    """Whether a listed path stays below the folder that it is relative to."""
    return not path.startswith("/") and all(valid_name(p) for p in path.split("/") if p not in ("", "."))


def valid_name(name: str) -> bool:
    """Whether a listed name is one file name: a list may not lead out of the dataset's folders.

    Nor may it name what no file can be called, or what a terminal or HDF5 would not take.
    """
    if name in (".", "..") or not 0 < len(name.encode(errors="replace")) <= LONGEST_NAME:
        return False
    return name.isprintable() and not any(c in "/\\" for c in name)
