"""What a reader says of a dataset: its splits, their photos, labels and CADs."""

import collections
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ntdm.data_prep.raw.annotation import ObjectPose
from ntdm.data_prep.raw.cad import CategoryCads
from ntdm.ops.amodal_mask import RULE


@dataclass(frozen=True)
class Item:
    """One photo to make samples of.

    Attributes:
        name: base name of the photo; a sample is called `<name>_<object:02d>`.
        folder: where the photo lies, relative to the listing's root.
        annotation: the .mat file, or what `pose` reads.
        object: index of the only object wanted; None for what the protocol (PrepConfig.objects) says.
        masks: the .npz of the occluder, where the dataset has one.
        photo: base name of the photo's file, where that is not `name`.
        file: the photo's file as a table spells it, suffix and all, where it does; looked for first.
        pose: reads the pose of the one object where the annotation is no `record`: given this item and the
            photo's (h, w); raises SampleError. A module-level function, so that it can go to a worker.
    """

    name: str
    folder: str
    annotation: Path
    object: int | None = None
    masks: Path | None = None
    photo: str | None = None
    file: str | None = None
    pose: "Callable[[Item, tuple[int, int]], ObjectPose] | None" = None


@dataclass
class Contents:
    """What a copy of the dataset names.

    Attributes:
        root: what the items' folders are relative to.
        files: (split, category) -> the photos, and what the lists already dropped, by reason.
        lost: (split, reason) -> names that belong to no category, so to no file.
        unread: key of a file, or split and list -> why its list or table cannot be read.
        train_root: what the folders of the training photos are relative to, where that is another folder.
    """

    root: Path
    files: dict[tuple[str, str], tuple[list[Item], Counter[str]]] = field(default_factory=dict)
    lost: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    train_root: Path | None = None

    def photos(self, split: str) -> Path:
        """The folder that a split's photos lie in."""
        return self.train_root if self.train_root and split == "train" else self.root


@dataclass
class Listing:
    """One cache file to be: its key, the photos it is made of, and what the lists already dropped."""

    dataset: str
    split: str
    category: str
    root: Path
    items: list[Item]
    cads: CategoryCads
    dropped: collections.Counter[str] = field(default_factory=collections.Counter)
    optional: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.split}/{self.category}"

    def fingerprint(self) -> str:
        """Hexadecimal digest of what is listed, wherever the dataset lies, and of the masks' rule."""
        digest = hashlib.sha256(RULE.encode())
        for item in self.items:
            digest.update(f"{item.folder}/{item.photo or item.name} {item.object}\n".encode())
        for index, cad in sorted(self.cads.models.items()):
            for array in cad:
                digest.update(f"{index} {array.shape}\n".encode() + array.tobytes())
        return digest.hexdigest()[:16]


@dataclass
class DatasetListing:
    """What a reader says of a dataset: the cache files that can be written, and what cannot be listed.

    Attributes:
        listings: one a cache file.
        unread: key of a file, or split and list -> why its list or table cannot be read.
        unclaimed: (split, reason) -> listed names that belong to no category, so to no file.
    """

    listings: list[Listing]
    unread: dict[str, str] = field(default_factory=dict)
    unclaimed: dict[tuple[str, str], list[str]] = field(default_factory=dict)
