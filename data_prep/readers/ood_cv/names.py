"""What the packagings of OOD-CV share: categories, splits and their folders, names of objects."""

import re
from pathlib import Path
from typing import NamedTuple

from ntdm.config import protocol

# Occlusion came with version 1.1, and packaging B has none.
SPLITS = ("train", "iid", *protocol.NUISANCES, "occlusion")
WEB = "collection"  # the source of photos that are not in PASCAL3D+
SOURCES = ("imagenet", "pascal", WEB)


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
