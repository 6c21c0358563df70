"""PASCAL3D+, releases 1.0 and 1.1: the ImageNet part by its own lists, the VOC part by those of VOC2012.

Images/<category>_imagenet/<name>.JPEG        Annotations/<category>_imagenet/<name>.mat
Images/<category>_pascal/<name>.jpg           Annotations/<category>_pascal/<name>.mat
Image_sets/<category>_imagenet_{train,val}.txt
PASCAL/VOCdevkit/VOC2012/ImageSets/Main/<category>_{train,val}.txt        "<name> <label>" a line
CAD/<category>/NN.off, or CAD/<category>.mat
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ntdm.data_prep.listing import DatasetListing, Item, Listing
from ntdm.data_prep.raw.cad import cads_of
from ntdm.data_prep.raw.files import base_name, read_list, sift_names
from ntdm.data_prep.raw.roots import PASCAL3D, check_root, choose_categories, choose_splits

SPLITS = ("train", "val")
VOC_SPLITS = ("voc_train", "voc_val")  # only on request: NeMo's protocol is the ImageNet part


def read(
    root: Path, categories: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> DatasetListing:
    """What of the dataset at `root` goes into `pascal3d/{train,val,voc_train,voc_val}/<category>.h5`.

    Args:
        root: of PASCAL3D+.
        categories: by default those that have a list.
        splits: train and val by default.

    Raises:
        ValueError: a wrong root, an unknown category or split, a list or CADs that are not there.
    """
    check_root(root, PASCAL3D, "Image_sets", "PASCAL/VOCdevkit")
    chosen, wanted = choose_categories(categories), choose_splits(splits or SPLITS, (*SPLITS, *VOC_SPLITS))
    listed: dict[tuple[str, str], list[str]] = {}  # category, split -> names
    unread: dict[str, str] = {}
    for category in chosen:
        found = {split: list_path(root, category, split) for split in wanted}
        if categories is None and not any(path.is_file() for path in found.values()):
            continue
        for split, path in found.items():
            try:
                listed[category, split] = _names(path, voc=split in VOC_SPLITS)
            except ValueError as error:
                if not path.is_file():
                    raise
                unread[f"pascal3d/{split}/{category}"] = str(error)
    if not listed and not unread:
        paths = " or ".join(str(list_path(root, "<category>", split)) for split in wanted)
        raise ValueError(f"{root} holds no list: expected {paths}")
    cads = cads_of(root, [category for category, _ in listed])
    listings = []
    for (category, split), names in listed.items():
        items, dropped = items_of(root, category, names)
        listings.append(Listing("pascal3d", split, category, root, items, cads[category], dropped))
    return DatasetListing(listings, unread)


def list_path(root: Path, category: str, split: str) -> Path:
    """The list of a category's photos, of the ImageNet or the VOC part."""
    if split in VOC_SPLITS:
        main = root / "PASCAL" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main"
        return main / f"{category}_{split.removeprefix('voc_')}.txt"
    return root / "Image_sets" / f"{category}_imagenet_{split}.txt"


def _names(path: Path, voc: bool) -> list[str]:
    """The photos of a list. VOC's name every photo: label 1 has the category, 0 only hard cases, -1 none."""
    lines = read_list(path)
    if not voc:
        return lines
    words = [line.split() for line in lines]
    for line, pair in zip(lines, words, strict=True):
        if len(pair) != 2 or pair[1] not in ("-1", "0", "1"):
            raise ValueError(f"{path}: line {line!r} is not '<name> <label>' with label -1, 0 or 1")
    return [name for name, label in words if label == "1"]


def items_of(root: Path, category: str, names: Iterable[str]) -> tuple[list[Item], Counter[str]]:
    """The photos of a list, of either part, each once; what is no file name, or there twice, is counted."""
    good, dropped = sift_names(base_name(name) for name in names)
    items = []
    for name in good:
        # ImageNet names begin with "n", VOC names with the year.
        part = f"{category}_imagenet" if name.startswith("n") else f"{category}_pascal"
        items.append(Item(name, f"Images/{part}", root / "Annotations" / part / f"{name}.mat"))
    return items, dropped
