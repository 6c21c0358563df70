"""How the datasets lie on disk: which one a folder holds, and what its lists name."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ntdm.config import CATEGORIES

PASCAL3D = "PASCAL3D+"
OCCLUDED = "Occluded PASCAL3D+"
OOD_CV = "OOD-CV, packaging B (pose.zip)"
NEMO = "a NeMo-prepared tree"


def recognise(root: Path) -> str | None:
    """What the folder `root` looks like, by the folders every copy of a dataset has; None: nothing known."""

    def has(*patterns: str) -> bool:
        return all(next(root.glob(pattern), None) is not None for pattern in patterns)

    if has("Image_sets", "Annotations") or has("Images", "Annotations") or has("CAD/*/01.off"):
        return PASCAL3D
    if has("lists/*FGL*_BGL*") or has("annotations/*FGL*_BGL*"):
        return OCCLUDED
    if has("lists/TrainSet.txt") or has("lists/*_all.txt") or has("lists/*_context.txt"):
        return OOD_CV
    if has("nuisances", "iid_test"):
        if has("iid_test/labels.csv"):
            return "OOD-CV, packaging A' (processed crops and labels.csv)"
        return "OOD-CV, packaging A (ROBIN: tables and images by nuisance)"
    if has("phase-1") or has("phase-2") or has("train/processed"):
        return "OOD-CV, packaging C (pose-npz of the challenge)"
    if has("*/annotations/*/*.npz") or has("annotations/*.npz"):
        return NEMO
    return None


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


def read_list(path: Path) -> list[str]:
    """The non-empty lines of a list file, stripped. ValueError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"list {path} cannot be read: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def sift_names(names: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """The file names of a list, each once, in order; what is no file name, or there twice, is counted."""
    names = list(names)
    good = [name for name in dict.fromkeys(names) if valid_name(name)]
    invalid = sum(not valid_name(name) for name in names)
    return good, +Counter(name_invalid=invalid, listed_twice=len(names) - invalid - len(good))


def valid_name(name: str) -> bool:
    """Whether a listed name is one file name: a list may not lead out of the dataset's folders."""
    return name not in ("", ".", "..") and not any(c in "/\\\0" for c in name)
