"""The cache files of splits: found once, and opened once for all that is asked of them before training."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntdm.io.cache import CacheFile


def find(cache_dir: Path, key: str, categories: Sequence[str] | None = None) -> list[Path]:
    """The cache files of `key` ("pascal3d/train"), all categories or those asked for, in alphabetical order.

    Raises ValueError when there is none, or when a category asked for has none.
    """
    folder = Path(cache_dir) / key
    paths = {p.stem: p for p in sorted(folder.glob("[!.]*.h5"))}
    if not paths:
        raise ValueError(f"no cache file in {folder}; make it with `ntdm prep-data {key.split('/')[0]}`")
    missing = sorted(set(categories or ()) - set(paths))
    if missing:
        raise ValueError(
            f"no cache file {folder / missing[0]}.h5; the categories there are {', '.join(paths)}"
        )
    return [p for name, p in paths.items() if categories is None or name in categories]


def split_files(cache: Path, keys: Sequence[str] = ()) -> dict[str, list[Path]]:
    """The cache files of each split that is tested on.

    Args:
        cache: cache folder, or one cache file, which is a split by itself.
        keys: "pascal3d/val", ...; none for every split of the folder but training data.

    Raises:
        ValueError: no cache file of a split, or of any test split.
    """
    if cache.is_file():
        header = read_header(cache)
        return {f"{header.dataset}/{header.split}": [cache]}
    return {key: find(cache, key) for key in keys or every_test_split(cache)}


def every_test_split(cache_dir: Path) -> list[str]:
    """Every "dataset/split" under a cache folder but training data; ValueError where there is none."""
    keys = sorted({"/".join(path.parts[-3:-1]) for path in cache_dir.glob("*/*/*.h5")})
    keys = [key for key in keys if not key.endswith(("/train", "_train"))]
    if not keys:
        raise ValueError(
            f"{cache_dir}: no cache file <dataset>/<split>/<category>.h5 of a test split; run prep-data first"
        )
    return keys


COLUMNS = ("viewpoint", "focal", "principal_point", "cad_index", "bbox")


@dataclass(frozen=True)
class Header:
    """What one cache file says beside its photos.

    Attributes:
        path: the file.
        dataset: "pascal3d", ...
        split: "train", ...
        category: "car", ...
        image_size: (H, W) of the crops.
        nominal_focal: crop pixels.
        names: of the samples.
        columns: arrays [N, ...] of COLUMNS, as docs/formats.md gives them.
        latent: [N, K], or None where fit-shapes has not been through the file.
        has_occluders: whether the file holds masks of them.
        content: what the fingerprint is made of: key, names, cameras, configuration, digest of the pixels.
    """

    path: Path
    dataset: str
    split: str
    category: str
    image_size: tuple[int, int]
    nominal_focal: float
    names: tuple[str, ...]
    columns: Mapping[str, NDArray[Any]]
    latent: NDArray[np.float32] | None
    has_occluders: bool
    content: bytes

    @property
    def num_latents(self) -> int | None:
        """K, or None where fit-shapes has not been through the file."""
        return None if self.latent is None else self.latent.shape[1]

    @property
    def box_diagonals(self) -> NDArray[np.float64]:
        """[N] crop pixels."""
        x0, y0, x1, y1 = self.columns["bbox"].T
        return np.hypot(x1 - x0, y1 - y0)


def read_header(path: Path) -> Header:
    """The header of a cache file; ValueError as :class:`CacheFile`."""
    with CacheFile(path) as file:
        columns = {name: file[name] for name in COLUMNS}
        config = {key: value for key, value in file.config.items() if key != "compression"}
        key = [file.dataset, file.split, file.category, config, file.pixels, file["name"]]
        digested = ("viewpoint", "focal", "principal_point", "cad_index")
        content = json.dumps(key).encode() + b"".join(
            np.ascontiguousarray(columns[name]).tobytes() for name in digested
        )
        fitted = "latent" in file
        return Header(
            path=path, dataset=file.dataset, split=file.split, category=file.category,
            image_size=file.image_size, nominal_focal=file.nominal_focal, names=tuple(file["name"]),
            columns=columns, latent=file["latent"] if fitted else None,
            has_occluders="occluder_mask" in file, content=content,
        )  # fmt: skip


class CacheSplit:
    """The cache files of one or more splits, by what their headers say; ntdm.data.dataset reads the photos.

    Attributes:
        headers: one a file, in the files' order.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.headers = tuple(read_header(Path(path)) for path in paths)

    @classmethod
    def open(
        cls, cache_dir: Path, keys: Sequence[str], categories: Sequence[str] | None = None
    ) -> "CacheSplit":
        """The files of `keys` ("pascal3d/train", ...) in a cache folder; ValueError as :func:`find`."""
        return cls(path for key in keys for path in find(cache_dir, key, categories))

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [header.path for header in self.headers]

    @property
    def categories(self) -> list[str]:
        """By the files' names, in alphabetical order."""
        return sorted({header.path.stem for header in self.headers})

    @property
    def names(self) -> set[str]:
        """Of every sample, as "category/name"."""
        return {f"{header.category}/{name}" for header in self.headers for name in header.names}

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of key, names, cameras, configuration and pixels as written."""
        digest = hashlib.sha256()
        for header in sorted(self.headers, key=lambda header: str(header.path)):
            digest.update(header.content)
        return digest.hexdigest()[:16]

    @property
    def nominal_focal(self) -> float:
        """The one nominal focal length, crop pixels; ValueError where the files have several."""
        lengths = sorted({header.nominal_focal for header in self.headers})
        if len(lengths) > 1:
            raise ValueError(
                "the caches were prepared at different scales, their nominal focal lengths are "
                f"{', '.join(f'{focal:g}' for focal in lengths)} pixels; prepare them at one"
            )
        return lengths[0]

    @property
    def typical_box(self) -> float:
        """Median diagonal of the boxes, crop pixels: `ntdm infer` scales its box to it."""
        return float(np.median(np.concatenate([header.box_diagonals for header in self.headers])))

    def require_latents(self) -> None:
        """Raises ValueError naming the first file that fit-shapes has not been through."""
        for header in self.headers:
            if header.num_latents is None:
                raise ValueError(f"{header.path} holds no latents; run `ntdm fit-shapes` on the cache first")
