"""Split a cache's training photos once more, to choose settings on without a look at the test photos.

    python benchmarks/hold_out.py OUT/cache HELD --photos 156

Every file of pascal3d/train becomes HELD/pascal3d/train and HELD/pascal3d/val: of its photos those with the
least CRC-32 of their names are held out. CADs, latents and attributes stay as they are.
"""

import argparse
import zlib
from pathlib import Path

import h5py
import numpy as np

from ntdm.io import cache_split
from ntdm.io.outputs import atomic_path


def write_part(source: h5py.File, rows: np.ndarray, split: str, path: Path) -> None:
    """The samples `rows` of an open cache file, ascending, as a cache file of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished, h5py.File(unfinished, "w") as part:
        part.attrs.update({**source.attrs, "split": split})
        for name, field in source.items():
            if isinstance(field, h5py.Group):  # the CADs
                source.copy(field, part, name)
                continue
            chunks = field.chunks and (1, *field.chunks[1:])
            written = part.create_dataset(
                name, data=field[:][rows], dtype=field.dtype, chunks=chunks, compression=field.compression
            )
            written.attrs.update(field.attrs)
    print(f"{path}: {len(rows)} of {len(source['name'])}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path)
    parser.add_argument("held", type=Path)
    parser.add_argument("--photos", type=int, default=150, help="held out of every file")
    options = parser.parse_args()
    for path in cache_split.find(options.cache, "pascal3d/train"):
        with h5py.File(path) as source:
            order = np.argsort([zlib.crc32(name) for name in source["name"][:]], kind="stable")
            held, kept = np.split(order, [options.photos])
            for split, rows in (("val", held), ("train", kept)):
                write_part(source, np.sort(rows), split, options.held / "pascal3d" / split / path.name)


if __name__ == "__main__":
    main()
