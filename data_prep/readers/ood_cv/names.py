"""What the packagings of OOD-CV share: categories, splits and their folders, names of objects."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ntdm.config import stages
from ntdm.data_prep.samples import Item

CATEGORIES = tuple(c for c in stages.CATEGORIES if c not in ("bottle", "tvmonitor"))
# Occlusion came with version 1.1, and packaging B has none.
SPLITS = ("train", "iid", *stages.NUISANCES, "occlusion")
WEB = "collection"  # the source of photos that are not in PASCAL3D+
SOURCES = ("imagenet", "pascal", WEB)


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


class ObjectName(NamedTuple):
    """An object as file names spell it, `<source>_<category>_<photo>_<object>`."""

    source: str
    photo: str
    object: int


def parse_name(stem: str, category: str) -> ObjectName | None:
    """What a file name says of its object; None where it is spelt in another way."""
    parts = re.fullmatch(rf"({'|'.join(SOURCES)})_{category}_(.+)_(\d+)", stem)
    return ObjectName(parts[1], parts[2], int(parts[3])) if parts else None


def split_folder(split: str) -> str:
    """The folder of a split in the packagings of the challenge."""
    return {"train": "train", "iid": "iid_test"}.get(split, f"nuisances/{split}")


def record_of(root: Path, category: str, source: str, photo: str) -> Path:
    """The record of a photo in PASCAL3D+; of one from the web there is none, and none at this path."""
    return root / "Annotations" / f"{category}_{source}" / f"{photo}.mat"
