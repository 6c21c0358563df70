"""The cache files of a split."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ntdm.io import cache as caches
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


def fingerprint(paths: Sequence[Path]) -> str:
    """Hexadecimal digest of what the files say: key, names, cameras, configuration, pixels as written."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=str):
        with CacheFile(path) as file:
            config = {key: value for key, value in file.config.items() if key != "compression"}
            said = [file.dataset, file.split, file.category, config, file.pixels, file["name"]]
            digest.update(json.dumps(said).encode())
            for name in ("viewpoint", "focal", "principal_point", "cad_index"):
                digest.update(np.ascontiguousarray(file[name]).tobytes())
    return digest.hexdigest()[:16]


def require_latents(paths: Sequence[Path]) -> None:
    """Raises ValueError naming the first cache file that fit-shapes has not been through."""
    for path in paths:
        with CacheFile(path) as file:
            if "latent" not in file:
                raise ValueError(f"{path} holds no latents; run `ntdm fit-shapes` on the cache first")


def sample_names(paths: Sequence[Path]) -> set[str]:
    """ "category/name" of every sample of the cache files."""
    names = set()
    for path in paths:
        with CacheFile(path) as file:
            names |= {f"{file.category}/{name}" for name in file["name"]}
    return names


def nominal_focal(paths: Sequence[Path]) -> float:
    """The one nominal focal length, crop pixels, of cache files; ValueError where they have several."""
    found = set()
    for path in paths:
        with caches.CacheFile(path) as file:
            found.add(file.nominal_focal)
    if len(found) > 1:
        raise ValueError(
            "the caches were prepared at different scales, their nominal focal lengths are "
            f"{', '.join(f'{focal:g}' for focal in sorted(found))} pixels; prepare them at one"
        )
    return found.pop()


def _typical_box(paths: Sequence[Path]) -> float:
    """Median diagonal of the training boxes, crop pixels: `ntdm infer` scales its box to it."""
    diagonals = []
    for path in paths:
        with caches.CacheFile(path) as file:
            box = file["bbox"]
        diagonals += np.hypot(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]).tolist()
    return float(np.median(diagonals))
