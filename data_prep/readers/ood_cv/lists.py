"""OOD-CV, packaging B (pose.zip): test photos by nuisance; the training photos are PASCAL3D+'s own.

images/<category>/<name>.JPEG                 annotations/<category>/<name>.mat
lists/TrainSet.txt                            names of PASCAL3D+ photos, ImageNet and VOC part
lists/<category>_<nuisance>.txt               "<name> <object index, 0-based>" a line
lists/<category>_all.txt                      every test line; those in no nuisance list are i.i.d.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ntdm.config.protocol import CATEGORIES, NUISANCES
from ntdm.data_prep.listing import Contents, Item
from ntdm.data_prep.raw.files import read_list, valid_name
from ntdm.data_prep.raw.roots import PASCAL3D, check_root
from ntdm.data_prep.readers.pascal3d import items_of


def read_lists(root: Path, pascal3d: Path, categories: Sequence[str], splits: Sequence[str]) -> Contents:
    """What the lists at `root` name.

    Where one of a category's test lists cannot be read, neither can `iid`, which is what the others leave.
    """
    contents = Contents(root, train_root=pascal3d)
    train: dict[str, tuple[list[Item], Counter[str]]] = {}
    if "train" in splits:
        check_root(pascal3d, PASCAL3D, "Annotations")
        try:
            train = _train_items(contents, pascal3d, categories)
        except ValueError as error:
            contents.unread["ood_cv/train"] = str(error)
    tests = {category: _test_items(root, category, splits, contents.unread) for category in categories}
    for split in splits:
        for category in categories:
            found = train.get(category) if split == "train" else tests[category].get(split)
            if found and (found[0] or found[1]):
                contents.files[split, category] = found
    return contents


def _train_items(
    contents: Contents, pascal3d: Path, categories: Sequence[str]
) -> dict[str, tuple[list[Item], Counter[str]]]:
    """The training photos by category: a name belongs to every category whose folder has its annotation."""
    names = read_list(contents.root / "lists" / "TrainSet.txt")
    found = {
        category: {
            path.stem
            for part in ("imagenet", "pascal")
            for path in (pascal3d / "Annotations" / f"{category}_{part}").glob("[!.]*.mat")
        }
        for category in CATEGORIES
    }
    unknown = [name for name in names if not any(name in stems for stems in found.values())]
    if unknown:
        contents.lost["train", "annotation_missing"] = unknown
    return {
        category: items_of(pascal3d, category, [name for name in names if name in found[category]])
        for category in categories
    }


def _test_items(
    root: Path, category: str, splits: Sequence[str], unread: dict[str, str]
) -> dict[str, tuple[list[Item], Counter[str]]]:
    """The test objects by split; an entry of several nuisance lists is in each of those splits."""
    entries: dict[str, list[tuple[str, int]]] = {}
    whole = True
    for split in (*NUISANCES, "all"):
        try:
            entries[split] = _test_lines(root, category, split)
        except ValueError as error:
            whole = False
            for lost in {"iid", split} & set(splits):
                unread[f"ood_cv/{lost}/{category}"] = str(error)
    shifted = {entry for nuisance in NUISANCES for entry in entries.get(nuisance, ())}
    every = entries.pop("all", [])
    if whole:
        entries["iid"] = [entry for entry in every if entry not in shifted]
    result = {}
    for split, lines in entries.items():
        once = dict.fromkeys(lines)
        good = [(name, index) for name, index in once if valid_name(name) and index >= 0]
        items = [
            Item(name, f"images/{category}", root / "annotations" / category / f"{name}.mat", index)
            for name, index in good
        ]
        dropped = Counter(listed_twice=len(lines) - len(once), name_invalid=len(once) - len(good))
        result[split] = (items, +dropped)
    return result


def _test_lines(root: Path, category: str, split: str) -> list[tuple[str, int]]:
    """Names and object indices of a list; -1 where a line has none."""
    path = root / "lists" / f"{category}_{split}.txt"
    if not path.is_file():
        return []
    lines = []
    for line in read_list(path):
        name, _, index = line.rpartition(" ")
        lines.append((name.strip(), int(index)) if name and index.isdecimal() else (line, -1))
    return lines
