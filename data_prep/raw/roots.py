"""How the datasets lie on disk: which one a folder holds, and what its lists name."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ntdm.config.stages import CATEGORIES
from ntdm.io import untrusted

LARGEST_TEXT = 16 * 2**20  # bytes of a list, a table or an OFF file: the largest of PASCAL3D+ has 4 MB
LONGEST_LIST = 40_000  # lines of a list, rows of a table: the longest have some ten thousand
LONGEST_NAME = 200  # characters; file systems take 255 bytes, and suffixes are added

PASCAL3D = "PASCAL3D+"
OCCLUDED = "Occluded PASCAL3D+"
OOD_CV_TABLES = "OOD-CV, packaging A (ROBIN: tables and photos by nuisance)"
OOD_CV_CROPS = "OOD-CV, packaging A' (processed crops and labels.csv)"
OOD_CV_LISTS = "OOD-CV, packaging B (pose.zip)"
OOD_CV_NPZ = "OOD-CV, packaging C (pose-npz of the challenge)"
OOD_CV_PHASE2 = "OOD-CV, packaging C, phase 2 of the challenge (photos and gt.csv)"
NEMO = "a NeMo-prepared tree"
VOC = "PASCAL VOC alone (PASCAL3D+ keeps it in PASCAL/VOCdevkit, beside Annotations and CAD)"

# What tells the packagings of OOD-CV apart, the first match holds: labels.csv is a table too.
_OOD_CV_MARKS = {
    OOD_CV_LISTS: ("lists/TrainSet.txt", "lists/*_all.txt"),
    OOD_CV_CROPS: ("*/labels.csv", "nuisances/*/labels.csv"),
    OOD_CV_TABLES: ("train/*.csv", "iid_test/*.csv", "nuisances/*/*.csv"),
    OOD_CV_NPZ: ("phase-1/*/*/*.npz", "phase-1/nuisances/*/*/*.npz", "train/processed"),
    OOD_CV_PHASE2: ("gt.csv", "phase-2/gt.csv"),
}


def recognise(root: Path) -> str | None:
    """What the folder `root` looks like, by the folders every copy of a dataset has; None: nothing known."""

    def has(*patterns: str) -> bool:
        return all(next(root.glob(pattern), None) is not None for pattern in patterns)

    if (
        has("Image_sets", "Annotations")
        or has("Images", "Annotations")
        or has("CAD/*/01.off")
        or has("CAD/*.mat")
    ):
        return PASCAL3D
    if has("lists/*FGL*_BGL*") or has("annotations/*FGL*_BGL*"):
        return OCCLUDED
    for packaging, marks in _OOD_CV_MARKS.items():
        if any(has(mark) for mark in marks):
            return packaging
    if has("phase-2"):
        return "OOD-CV, phase 2 of the challenge, without its gt.csv"
    if has("*/annotations/*/*.npz") or has("annotations/*/*.npz"):
        return NEMO
    if has("VOCdevkit") or has("VOC20*/JPEGImages") or has("JPEGImages", "ImageSets"):
        return VOC
    return None


def ood_cv_packaging(root: Path) -> str:
    """Which packaging of OOD-CV `root` holds; ValueError as :func:`check_root` where it holds none."""
    check_root(root, "OOD-CV", *(mark for marks in _OOD_CV_MARKS.values() for mark in marks))
    return next(
        packaging
        for packaging, marks in _OOD_CV_MARKS.items()
        if any(next(root.glob(mark), None) is not None for mark in marks)
    )


def check_root(root: Path, wanted: str, *needs: str) -> None:
    """Refuse a `root` that is not the dataset `wanted`, known by one of its file or folder patterns `needs`.

    Raises ValueError saying what it looks like instead, or where below it the dataset was found.
    """

    def fits(folder: Path) -> bool:
        return any(next(folder.glob(pattern), None) is not None for pattern in needs)

    if not root.is_dir():
        raise ValueError(f"{wanted}: there is no folder {root}")
    if fits(root):
        return
    expected = f"expected {wanted} at {' or '.join(str(root / pattern) for pattern in needs)}"
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        if fits(folder):
            raise ValueError(f"{root} is one level too high: {expected}, found it in {folder}")
    found = recognise(root)
    raise ValueError(f"{root} looks like {found or 'none of the known datasets'}; {expected}")


def choose_categories(categories: Sequence[str] | None, known: Sequence[str] = CATEGORIES) -> tuple[str, ...]:
    """`categories` or all `known` ones; ValueError for one the dataset does not have."""
    for category in categories or ():
        if category not in known:
            raise ValueError(f"unknown category {category!r}; the dataset has {', '.join(known)}")
    return tuple(known) if categories is None else tuple(dict.fromkeys(categories))


def choose_splits(splits: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """`splits` or all `known` ones; ValueError for one the dataset does not have."""
    for split in splits or ():
        if split not in known:
            raise ValueError(f"unknown split {split!r}; the dataset has {', '.join(known)}")
    return tuple(known) if splits is None else tuple(dict.fromkeys(splits))


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
            data = file.read(largest + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > largest:
        raise ValueError(f"{path} has more than {largest} bytes, which no file of its kind has")
    return data


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a dataset's archive, as ntdm.io.untrusted unpacks it; ValueError as
    there and in read_bytes."""
    return untrusted.unpack(read_bytes(path, untrusted.LARGEST), path)


def read_list(path: Path) -> list[str]:
    """The non-empty lines of a list file, stripped.

    Raises ValueError when it cannot be read, leads elsewhere, or has more than LONGEST_LIST lines.
    """
    try:
        text = read_bytes(path, LARGEST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"list {path} cannot be read: {error}") from None
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
    if name in (".", "..") or not 0 < len(name) <= LONGEST_NAME:
        return False
    return name.isprintable() and not any(c in "/\\" for c in name)
