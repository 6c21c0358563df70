"""OOD-CV, phase 2 of the challenge: numbered photos, and the table of their poses that came out later.

    gt.csv                          imgs,labels,azimuth,elevation,theta,distance,nuisance
    images/<5 digits>_<category>.jpg

either in the root or in phase-2/ below it. The table does not say the unit of its angles: they are radians
where none of them exceeds a turn, as in the .npz of phase 1, else degrees, as in the tables of A'. How the
photos were cut is not said either, and their numbers lead to no record: as for photos from the web, the
camera is taken to look at the middle of the photo, and no CAD is known.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from ntdm.config.protocol import NUISANCES, OOD_CV_CATEGORIES
from ntdm.data_prep.listing import Contents, Item
from ntdm.data_prep.raw.files import valid_name
from ntdm.data_prep.readers.ood_cv.tables import Label, Row, labelled_pose, number, read_rows
from ntdm.io.progress import say

_COLUMNS = ("imgs", "labels", "azimuth", "elevation", "theta", "distance", "nuisance")
_ANGLES = ("azimuth", "elevation", "theta")
_SPLITS = {name: name for name in (*NUISANCES, "occlusion", "iid")} | {"iid_test": "iid"}


def read_phase2(root: Path, pascal3d: Path, categories: Sequence[str], splits: Sequence[str]) -> Contents:
    """What the table names. Raises ValueError for a table that cannot be read or lacks a column."""
    base = "" if (root / "gt.csv").exists() else "phase-2"
    rows = read_rows(root / base, "gt.csv", _COLUMNS)
    contents = Contents(root)
    angles = [number(row[name]) for _, row in rows for name in _ANGLES]
    in_radians = all(abs(angle) <= 2 * math.pi for angle in angles if math.isfinite(angle))
    say(f"{root / base / 'gt.csv'}: its angles are taken for {'radians' if in_radians else 'degrees'}")
    seen: set[tuple[str, str, str]] = set()
    for where, row in rows:
        category, split = row["labels"], _SPLITS.get(row["nuisance"])
        if category not in OOD_CV_CATEGORIES or split is None:
            contents.lost.setdefault(("phase-2", "other_class"), []).append(row["imgs"])
        elif category in categories and split in splits:
            items, dropped = contents.files.setdefault((split, category), ([], Counter()))
            name = PurePosixPath(row["imgs"]).stem
            if not valid_name(row["imgs"]):
                dropped["name_invalid"] += 1
            elif (split, category, name) in seen:
                dropped["listed_twice"] += 1
            else:
                seen.add((split, category, name))
                items.append(_item(base, root, name, _label(row, where, in_radians)))
    return contents


def _label(row: Row, where: str, in_radians: bool) -> Label:
    angles = tuple(number(row[name]) for name in _ANGLES)
    degrees = tuple(map(math.degrees, angles)) if in_radians else angles
    return Label(where, row["labels"], degrees, number(row["distance"]), None, recorded=False)


def _item(base: str, root: Path, name: str, label: Label) -> Item:
    return Item(
        name,
        folder=str(PurePosixPath(base, "images")),
        annotation=root / base / "gt.csv",
        object=0,
        pose=partial(labelled_pose, label=label),
    )
