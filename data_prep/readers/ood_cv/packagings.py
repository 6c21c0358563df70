"""OOD-CV (ROBIN): finds out which packaging a folder holds and has it read; CADs come from PASCAL3D+.

The packagings differ in what they ship:

    A   tables and photos by nuisance    tables.py           poses; records, else PASCAL3D+'s
    A'  cropped objects and labels.csv   tables.py           poses; the rest of the camera from PASCAL3D+
    B   lists, photos, records           lists.py            all but the training photos: PASCAL3D+'s
    C   prepared photos and .npz         prepared.py         poses, and what else the .npz hold
        its phase 2, photos and a table  phase2.py           poses
"""

from collections.abc import Sequence
from pathlib import Path

from ntdm.config.protocol import OOD_CV_CATEGORIES
from ntdm.data_prep.listing import DatasetListing, Listing
from ntdm.data_prep.raw.cad import cads_of
from ntdm.data_prep.raw.roots import (
    OOD_CV_CROPS,
    OOD_CV_LISTS,
    OOD_CV_NPZ,
    OOD_CV_PHASE2,
    OOD_CV_TABLES,
    PASCAL3D,
    check_root,
    choose_categories,
    choose_splits,
    ood_cv_packaging,
)
from ntdm.data_prep.readers.ood_cv import lists, phase2, prepared, tables
from ntdm.data_prep.readers.ood_cv.names import SPLITS
from ntdm.io.progress import say

_READERS = {
    OOD_CV_TABLES: tables.read_tables,
    OOD_CV_CROPS: tables.read_crops,
    OOD_CV_LISTS: lists.read_lists,
    OOD_CV_NPZ: prepared.read_prepared,
    OOD_CV_PHASE2: phase2.read_phase2,
}


def read(
    root: Path,
    pascal3d: Path,
    categories: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> DatasetListing:
    """What of the dataset at `root` goes into `ood_cv/{train,iid,<nuisance>,occlusion}/<category>.h5`.

    Combinations that nothing is listed for (cars have no context, say) give no file.

    Args:
        root: of any packaging of OOD-CV.
        pascal3d: root of PASCAL3D+, for CADs and what else the packaging lacks.
        categories: by default all.
        splits: by default all.

    Raises:
        ValueError: a wrong root, an unknown category or split, lists or tables that cannot be read.
    """
    packaging = ood_cv_packaging(root)
    say(f"{root}: {packaging}")
    chosen, wanted = choose_categories(categories, OOD_CV_CATEGORIES), choose_splits(splits, SPLITS)
    contents = _READERS[packaging](root, pascal3d, chosen, wanted)
    for category in categories or ():
        if not contents.unread and not any(category == found for _, found in contents.files):
            raise ValueError(f"{root} names no {category} of the splits {', '.join(wanted)}")
    if not contents.files and not contents.unread:
        raise ValueError(f"{root} names nothing of the splits {', '.join(wanted)}")
    check_root(pascal3d, PASCAL3D, "CAD")
    cads = cads_of(pascal3d, {category for _, category in contents.files})
    listings = [
        Listing("ood_cv", split, category, contents.photos(split), items, cads[category], dropped)
        for (split, category), (items, dropped) in contents.files.items()
    ]
    return DatasetListing(listings, contents.unread, contents.lost)
