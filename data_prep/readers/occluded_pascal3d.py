"""Occluded PASCAL3D+: PASCAL3D+'s val photos with occluders pasted on; poses and CADs from PASCAL3D+ itself.

    images/<category>FGLi_BGLj/<name>.JPEG        annotations/<category>FGLi_BGLj/<name>.npz
    lists/<category>FGLi_BGLj.txt                 one "<name>.JPEG" a line

The papers' levels L1, L2, L3 are FGL1_BGL1, FGL2_BGL2, FGL3_BGL3; the six mixed ones, FGL1_BGL2 to FGL3_BGL2,
keep the folders' names. The level is the folder's: the files' own `occluder_level` is always "G".
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ntdm.config.protocol import MIXED_LEVELS, OCCLUSION_LEVELS
from ntdm.data_prep.listing import DatasetListing, Listing
from ntdm.data_prep.raw.cad import cads_of
from ntdm.data_prep.raw.files import read_list
from ntdm.data_prep.raw.roots import OCCLUDED, PASCAL3D, check_root, choose_categories, choose_splits
from ntdm.data_prep.readers.pascal3d import items_of

LEVELS = (*OCCLUSION_LEVELS, *MIXED_LEVELS)


def read(
    root: Path,
    pascal3d: Path,
    categories: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> DatasetListing:
    """What of the dataset at `root` goes into `occluded_pascal3d/<level>/<category>.h5`.

    Args:
        root: of Occluded PASCAL3D+.
        pascal3d: root of PASCAL3D+, for poses and CADs.
        categories: by default those that have a list.
        splits: of LEVELS, by default those that have a list.

    Raises:
        ValueError: a wrong root, an unknown category or level, a list that a named category lacks.
    """
    check_root(root, OCCLUDED, "lists/*FGL*_BGL*.txt")
    check_root(pascal3d, PASCAL3D, "Annotations")
    lists = {
        (level, category): root / "lists" / f"{category}{folder_level(level)}.txt"
        for level in choose_splits(splits, LEVELS)
        for category in choose_categories(categories)
    }
    # A category that was asked for must have its lists, the mixed levels only where they were asked for too.
    needed = () if categories is None else splits or OCCLUSION_LEVELS
    lists = {key: path for key, path in lists.items() if path.is_file() or key[0] in needed}
    if not lists:
        raise ValueError(f"{root / 'lists'} holds no list of the levels {', '.join(splits or LEVELS)}")
    listed: dict[tuple[str, str], list[str]] = {}
    unread: dict[str, str] = {}
    for (level, category), path in lists.items():
        try:
            listed[level, category] = read_list(path)
        except ValueError as error:
            if not path.is_file():
                raise
            unread[f"occluded_pascal3d/{level}/{category}"] = str(error)
    check_root(pascal3d, PASCAL3D, "CAD")
    cads = cads_of(pascal3d, {category for _, category in listed})
    listings = []
    for (level, category), names in listed.items():
        items, dropped = items_of(pascal3d, category, names)
        folder = f"{category}{folder_level(level)}"
        items = [
            replace(item, folder=f"images/{folder}", masks=root / "annotations" / folder / f"{item.name}.npz")
            for item in items
        ]
        optional = ("occluder_mask", "source_mask")
        listings.append(
            Listing("occluded_pascal3d", level, category, root, items, cads[category], dropped, optional)
        )
    return DatasetListing(listings, unread)


def folder_level(level: str) -> str:
    """The folder suffix of a level: "L2" is "FGL2_BGL2"."""
    return f"FG{level}_BG{level}" if level in OCCLUSION_LEVELS else level
