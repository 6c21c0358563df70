"""OOD-CV, packaging B (pose.zip): test photos by nuisance; the training photos are PASCAL3D+'s own.

    images/<category>/<name>.JPEG                 annotations/<category>/<name>.mat
    lists/TrainSet.txt                            names of PASCAL3D+ photos, ImageNet and VOC part
    lists/<category>_<nuisance>.txt               "<name> <object index, 0-based>" a line
    lists/<category>_all.txt                      every test line; those in no nuisance list are i.i.d.

The other packagings (A, A', C) are recognised and refused by name.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ntdm.config import CATEGORIES, NUISANCES, PrepConfig
from ntdm.data_prep.layout import (
    OOD_CV,
    PASCAL3D,
    check_root,
    choose_categories,
    choose_splits,
    read_list,
    valid_name,
)
from ntdm.data_prep.pascal3d import cads_of, items_of
from ntdm.data_prep.prepare import PrepReport
from ntdm.data_prep.prepare import prepare as prepare_listings
from ntdm.data_prep.samples import Item, Listing
from ntdm.progress import say

OOD_CV_CATEGORIES = tuple(c for c in CATEGORIES if c not in ("bottle", "tvmonitor"))
SPLITS = ("train", "iid", *NUISANCES)


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
    """Write `<cache_dir>/ood_cv/{train,iid,<nuisance>}/<category>.h5` from the dataset at `root`.

    `pascal3d` is the root of PASCAL3D+, for CADs and the training photos. Combinations without a list
    (cars have no context, say) give no file. Raises ValueError as prepare.prepare, and for a wrong root, an
    unknown category or split, a test line without an object index.
    """
    check_root(root, OOD_CV, "lists/TrainSet.txt")
    check_root(pascal3d, PASCAL3D, "Annotations")
    chosen = choose_categories(categories, OOD_CV_CATEGORIES)
    wanted = choose_splits(splits, SPLITS)
    train = _train_items(root, pascal3d, chosen) if "train" in wanted else {}
    tests = {category: _test_items(root, category) for category in chosen}
    contents = {
        (split, category): train[category] if split == "train" else tests[category][split]
        for split in wanted
        for category in chosen
    }
    contents = {key: (items, dropped) for key, (items, dropped) in contents.items() if items or dropped}
    for category in categories or ():
        if not any(category == found for _, found in contents):
            raise ValueError(f"{root / 'lists'} names no {category} of the splits {', '.join(wanted)}")
    cads = cads_of(pascal3d, {category for _, category in contents})
    listings = [
        Listing(
            "ood_cv", split, category, pascal3d if split == "train" else root, items, *cads[category], dropped
        )
        for (split, category), (items, dropped) in contents.items()
    ]
    return prepare_listings(listings, cache_dir, config, workers=workers, strict=strict, overwrite=overwrite)


def _train_items(
    root: Path, pascal3d: Path, categories: Sequence[str]
) -> dict[str, tuple[list[Item], Counter[str]]]:
    """The training photos by category: a name belongs to every category whose folder has its annotation."""
    names = read_list(root / "lists" / "TrainSet.txt")
    found = {
        category: {
            path.stem
            for part in ("imagenet", "pascal")
            for path in (pascal3d / "Annotations" / f"{category}_{part}").glob("*.mat")
        }
        for category in CATEGORIES
    }
    unknown = [name for name in names if not any(name in stems for stems in found.values())]
    if unknown:
        # Such a name has no category, so no cache file to be counted in.
        count = f"{len(unknown)} of {len(names)} names in {root / 'lists' / 'TrainSet.txt'}"
        first = ", ".join(unknown[:3])
        say(f"{count} have no annotation in {pascal3d / 'Annotations'} and are left out: {first}, ...")
    return {
        category: items_of(pascal3d, category, [name for name in names if name in found[category]])
        for category in categories
    }


def _test_items(root: Path, category: str) -> dict[str, tuple[list[Item], Counter[str]]]:
    """The test objects by split; an entry of several nuisance lists is in each of those splits."""
    entries = {split: _test_lines(root, category, split) for split in (*NUISANCES, "all")}
    shifted = {entry for nuisance in NUISANCES for entry in entries[nuisance]}
    entries["iid"] = [entry for entry in entries.pop("all") if entry not in shifted]
    result = {}
    for split, lines in entries.items():
        once = dict.fromkeys(lines)
        good = [(name, index) for name, index in once if valid_name(name)]
        items = [
            Item(name, f"images/{category}", root / "annotations" / category / f"{name}.mat", index)
            for name, index in good
        ]
        dropped = Counter(listed_twice=len(lines) - len(once), name_invalid=len(once) - len(good))
        result[split] = (items, +dropped)
    return result


def _test_lines(root: Path, category: str, split: str) -> list[tuple[str, int]]:
    path = root / "lists" / f"{category}_{split}.txt"
    if not path.is_file():
        return []
    lines = []
    for line in read_list(path):
        name, _, index = line.rpartition(" ")
        if not name or not index.isdecimal():
            raise ValueError(f"{path}: line {line!r} is not '<name> <object index>'")
        lines.append((name.strip(), int(index)))
    return lines
