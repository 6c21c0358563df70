"""OOD-CV, packaging C (the challenge's pose-npz): photos prepared as NeMo's, each with a .npz, in radians.

    train/<category>.txt                          names of the training photos, one a line
    train/processed/images/<name>.JPEG            train/processed/annotations/<name>.npz
    phase-1/<split folder>/images/<source>_<category>_<photo>_<object>.JPEG
    phase-1/<split folder>/annotations/<source>_<category>_<photo>_<object>.npz

The split folders are iid_test and nuisances/<nuisance>. A .npz may lack the CAD: PASCAL3D+'s record, where
there is one, tells which it is. Phase 2 is another thing: phase2.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ntdm.config.protocol import OOD_CV_CATEGORIES
from ntdm.data_prep.listing import Contents, Item
from ntdm.data_prep.raw.annotation import ObjectPose, object_cad, object_class, read_objects
from ntdm.data_prep.raw.files import base_name, read_list, sift_names
from ntdm.data_prep.readers import nemo_prepared
from ntdm.data_prep.readers.ood_cv.names import ObjectName, parse_name, record_of, split_folder


def read_prepared(root: Path, pascal3d: Path, categories: Sequence[str], splits: Sequence[str]) -> Contents:
    """What the packaging at `root` holds."""
    contents = Contents(root)
    for split in splits:
        if split == "train":
            base, names = "train/processed", _train_names(root, contents)
        else:
            base = f"phase-1/{split_folder(split)}"
            names = _test_names(root / base, split, contents)
        for category in categories:
            good, dropped = sift_names(names.get(category, ()))
            if good or dropped:
                items = [_item(root, base, pascal3d, category, name) for name in good]
                contents.files[split, category] = (items, dropped)
    return contents


def _train_names(root: Path, contents: Contents) -> dict[str, list[str]]:
    """The training photos by category."""
    names: dict[str, list[str]] = {}
    for category in OOD_CV_CATEGORIES:
        path = root / "train" / f"{category}.txt"
        if not path.is_file():
            continue
        try:
            names[category] = [base_name(line) for line in read_list(path)]
        except ValueError as error:
            contents.unread[f"ood_cv/train/{category}"] = str(error)
    return names


def _test_names(folder: Path, split: str, contents: Contents) -> dict[str, list[str]]:
    """The photos and annotations of a split by category; those of neither are lost."""
    found = [*folder.glob("images/[!.]*"), *folder.glob("annotations/[!.]*.npz")]
    names: dict[str, list[str]] = {}
    for name in sorted({base_name(path.name) for path in found if base_name(path.name) != path.name}):
        category = next((category for category in OOD_CV_CATEGORIES if parse_name(name, category)), None)
        if category is None:
            contents.lost.setdefault((split, "other_class"), []).append(name)
        else:
            names.setdefault(category, []).append(name)
    return names


def _item(root: Path, base: str, pascal3d: Path, category: str, name: str) -> Item:
    spelt = parse_name(name, category) or _train_name(name)
    record = record_of(pascal3d, category, spelt.source, spelt.photo)
    return Item(
        spelt.photo,
        folder=f"{base}/images",
        annotation=root / base / "annotations" / f"{name}.npz",
        object=spelt.object,
        photo=name,
        pose=partial(_pose, record=record, category=category),
    )


def _train_name(name: str) -> ObjectName:
    """A training photo, called as in PASCAL3D+, where names of the ImageNet part alone begin with "n"."""
    photo, number = nemo_prepared.parse_name(name)
    return ObjectName("imagenet" if photo.startswith("n") else "pascal", photo, number)


def _pose(item: Item, size: tuple[int, int], *, record: Path, category: str) -> ObjectPose:
    """The pose of a .npz, with the CAD of the record where the .npz names none."""
    pose = nemo_prepared.prepared_pose(item, size)
    if pose.cad_index >= 0 or not record.is_file():
        return pose
    objects, index = read_objects(record), item.object or 0
    # CADs are numbered by category: an object of another class names a model of that one.
    if index >= len(objects) or object_class(objects[index]) != category:
        return pose
    return replace(pose, cad_index=object_cad(objects[index]))
