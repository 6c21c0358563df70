"""How the datasets lie on disk: which one a folder holds, and what its lists name."""

from collections.abc import Sequence
from pathlib import Path

from ntdm.config.protocol import CATEGORIES

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
