"""OOD-CV (ROBIN): finds out which packaging a folder holds and has it read; CADs come from PASCAL3D+.

The packagings differ in what they ship:

    A   tables and photos by nuisance    ood_cv_tables.py    poses; records, else PASCAL3D+'s
    A'  cropped objects and labels.csv   ood_cv_tables.py    poses; the rest of the camera from PASCAL3D+
    B   lists, photos, records           ood_cv_lists.py     all but the training photos: PASCAL3D+'s
    C   prepared photos and .npz         ood_cv_npz.py       poses, and what else the .npz hold
        its phase 2, photos and a table  ood_cv_phase2.py    poses
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ntdm.config.protocol import OOD_CV_CATEGORIES
from ntdm.config.stages import PrepConfig
from ntdm.data_prep.listing import Listing
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
from ntdm.data_prep.readers.pascal3d import cads_of
from ntdm.data_prep.write_caches import FAULTS, PreparedFile, PrepReport
from ntdm.data_prep.write_caches import prepare as prepare_listings
from ntdm.io.progress import say

_READERS = {
    OOD_CV_TABLES: tables.read_tables,
    OOD_CV_CROPS: tables.read_crops,
    OOD_CV_LISTS: lists.read_lists,
    OOD_CV_NPZ: prepared.read_prepared,
    OOD_CV_PHASE2: phase2.read_phase2,
}


def prepare(
    root: Path,
    cache_dir: Path,
    config: PrepConfig,
    *,
    pascal3d: Path,
    categories: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    workers: int = 1,
    strict: bool = False,
    overwrite: bool = False,
) -> PrepReport:
    """Write `<cache_dir>/ood_cv/{train,iid,<nuisance>,occlusion}/<category>.h5` from the dataset at `root`.

    `pascal3d` is the root of PASCAL3D+, for CADs and what else the packaging lacks. Combinations that nothing
    is listed for (cars have no context, say) give no file; what is listed but belongs to no category, so to
    no file, has a line of the report to itself. Raises ValueError as prepare.prepare, and for a wrong root,
    an unknown category or split, lists or tables that cannot be read.
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
    for (split, reason), names in contents.lost.items():
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        text = f"ood_cv/{split}: {reason}: {len(names)} listed names that no category has: {some}"
        if strict and reason in FAULTS:
            raise ValueError(text)
        say(text)
    check_root(pascal3d, PASCAL3D, "CAD")
    cads = cads_of(pascal3d, {category for _, category in contents.files})
    listings = [
        Listing("ood_cv", split, category, contents.photos(split), items, *cads[category], dropped)
        for (split, category), (items, dropped) in contents.files.items()
    ]
    report = prepare_listings(
        listings, cache_dir, config, workers=workers, strict=strict, overwrite=overwrite,
        unread=contents.unread,
    )  # fmt: skip
    return PrepReport((*report.files, *_lost_files(contents.lost)))


def _lost_files(lost: dict[tuple[str, str], list[str]]) -> list[PreparedFile]:
    """The report's lines of names that belong to no category."""
    dropped: dict[str, Counter[str]] = {}
    for (split, reason), names in lost.items():
        dropped.setdefault(split, Counter())[reason] = len(names)
    return [
        PreparedFile(f"ood_cv/{split}/(no category)", None, 0, dict(counts), kept=False)
        for split, counts in dropped.items()
    ]
