"""The cache's schema, version 1, and the check of a file against it, before anything of the file is used.

The fields are those of cache.py. A damaged HDF5 file can claim any shape and type, and its library raises
nearly any error on it; both become one ValueError here.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SCHEMA, SCHEMA_VERSION = "ntdm-cache", 1
ATTRIBUTES = (
    "schema", "schema_version", "dataset", "split", "category", "image_size", "config", "ntdm_version",
    "dropped", "complete",
)  # fmt: skip
# name -> (type, shape after N; "H", "W" stand for the image size)
REQUIRED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "images": ("u1", ("H", "W", 3)),
    "amodal_mask": ("u1", ("H", "W")),
    "visible_mask": ("u1", ("H", "W")),
    "viewpoint": ("f8", (4,)),
    "focal": ("f8", ()),
    "principal_point": ("f8", (2,)),
    "bbox": ("f8", (4,)),
    "cad_index": ("i2", ()),
    "name": ("O", ()),
    "source": ("O", ()),
}
OPTIONAL: dict[str, tuple[str, tuple[Any, ...]]] = {
    "occluder_mask": ("u1", ("H", "W")),
    "source_mask": ("u1", ("H", "W")),
}
LARGEST_SIDE = 8192  # pixels of a crop
_MAX_COMPRESSION = 1100  # factor by which no filter of HDF5 makes data smaller


@dataclass(frozen=True)
class Header:
    """The attributes of a cache file; see cache.CacheFile."""

    dataset: str
    split: str
    category: str
    inputs: str
    pixels: str
    image_size: tuple[int, int]
    config: dict[str, Any]
    dropped: dict[str, int]


def resolved(shape: tuple[Any, ...], size: tuple[int, int]) -> tuple[int, ...]:
    """A shape of REQUIRED or OPTIONAL for images of `size` (H, W)."""
    return tuple({"H": size[0], "W": size[1]}.get(s, s) for s in shape)


def check(file: h5py.File, path: Path) -> Header:
    """The header of a file that keeps the schema. Raises ValueError with the first thing that does not."""
    header = _header(file, path)
    size = path.stat().st_size
    shape = _dataset(file, "name", size).shape
    count = shape[0] if len(shape) == 1 else 0
    for name, (kind, shape) in (REQUIRED | OPTIONAL).items():
        if name in OPTIONAL and file.get(name, getlink=True) is None:
            continue
        dataset, want = _dataset(file, name, size), (count, *resolved(shape, header.image_size))
        if dataset.shape != want or dataset.dtype != np.dtype(kind):
            have = f"{dataset.dtype} {dataset.shape}"
            raise ValueError(f"dataset {name} is {have}, want {np.dtype(kind)} {want}")
    names = [str(name) for name in file["name"].asstr()[:]]
    if len(set(names)) < count or not all(
        name.isprintable() for name in [*names, *file["source"].asstr()[:]]
    ):
        raise ValueError("a name is there twice, or is no text")
    cads = _cads(file, size)
    _latent(file, size, count)
    _numbers(file, names, cads)
    return header


def _header(file: h5py.File, path: Path) -> Header:
    attrs = file.attrs
    if _scalar(attrs, "schema") != SCHEMA:
        raise ValueError(f"attribute schema is {_scalar(attrs, 'schema')!r}, want {SCHEMA!r}")
    if _scalar(attrs, "schema_version") != SCHEMA_VERSION:
        version = _scalar(attrs, "schema_version")
        raise ValueError(f"schema version {version}; this ntdm reads version {SCHEMA_VERSION}")
    missing = [name for name in ATTRIBUTES if name not in attrs]
    if missing:
        raise ValueError(f"attribute {missing[0]} is missing")
    if not _scalar(attrs, "complete"):
        raise ValueError("it is not complete")
    texts = {name: _scalar(attrs, name) for name in ("dataset", "split", "category", "config", "dropped")}
    texts |= {name: _scalar(attrs, name, "") for name in ("inputs", "pixels")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"attribute {name} is {text!r}, want text")
    key = texts["dataset"], texts["split"], texts["category"]
    if not all(re.fullmatch(r"[\w-]+", part) for part in key):  # outputs are named after them
        raise ValueError(f"dataset, split and category are {key}, want names of files")
    if key[2] != path.stem:
        raise ValueError(f"it holds category {key[2]}: name it {key[2]}.h5")
    settings, dropped = (_json(texts[name], name) for name in ("config", "dropped"))
    if not all(type(count) is int and count >= 0 for count in dropped.values()):
        raise ValueError("attribute dropped has something else than counts")
    size = np.asarray(attrs["image_size"])
    if size.shape != (2,) or size.dtype.kind not in "iu" or not ((size > 0) & (size <= LARGEST_SIDE)).all():
        raise ValueError(f"attribute image_size is {size.tolist()}, want [H, W]")
    return Header(*key, texts["inputs"], texts["pixels"], (int(size[0]), int(size[1])), settings, dropped)


def _scalar(attrs: h5py.AttributeManager, name: str, default: Any = None) -> Any:
    """A scalar attribute; None, which is refused as a value, where it is an array or unreadable text."""
    value = attrs.get(name, default)
    return value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else (
        None if isinstance(value, np.ndarray | bytes) else value
    )  # fmt: skip


def _json(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"attribute {name} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"attribute {name} is JSON, but no object")
    return value


def _dataset(group: h5py.Group, name: str, size: int) -> h5py.Dataset:
    """A dataset of this very file that does not claim more than `size` bytes could hold."""
    # A soft or external link could lead to another file.
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(
        group[name], h5py.Dataset
    ):
        raise ValueError(f"dataset {name} is missing")
    dataset = group[name]
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"dataset {name} lies in another file")
    if (
        dataset.shape is None
        or math.prod(dataset.shape) * max(dataset.dtype.itemsize, 1) > _MAX_COMPRESSION * size
    ):
        raise ValueError(f"dataset {name} claims the shape {dataset.shape}, more than the file can hold")
    return dataset


def _cads(file: h5py.File, size: int) -> set[int]:
    """The cad_index of every CAD in the file, its arrays sound."""
    if not isinstance(file.get("cad", getlink=True), h5py.HardLink) or not isinstance(
        file["cad"], h5py.Group
    ):
        raise ValueError("group cad is missing")
    cad_index = set()
    for key in file["cad"]:
        group = (
            file["cad"].get(key) if isinstance(file["cad"].get(key, getlink=True), h5py.HardLink) else None
        )
        if not re.fullmatch(r"0|[1-9]\d{0,4}", key) or not isinstance(group, h5py.Group):
            raise ValueError(f"cad/{key} is no CAD")
        vertices, faces = (_dataset(group, name, size) for name in ("vertices", "faces"))
        for name, array, kind in (("vertices", vertices, "f4"), ("faces", faces, "i4")):
            if array.dtype != np.dtype(kind) or array.ndim != 2 or array.shape[1] != 3 or not len(array):
                want = f"{np.dtype(kind)} (N, 3)"
                raise ValueError(f"dataset cad/{key}/{name} is {array.dtype} {array.shape}, want {want}")
        corners = faces[:]
        if not np.isfinite(vertices[:]).all() or corners.min() < 0 or corners.max() >= len(vertices):
            raise ValueError(f"cad/{key} has a vertex that is not finite, or a face of a vertex it has not")
        cad_index.add(int(key))
    return cad_index


def _latent(file: h5py.File, size: int, count: int) -> None:
    if file.get("latent", getlink=True) is None:
        return
    latent = _dataset(file, "latent", size)
    shaped = latent.ndim == 2 and latent.shape[0] == count and latent.shape[1] > 0
    if not shaped or latent.dtype != np.dtype("f4") or not np.isfinite(latent[:]).all():
        have = f"{latent.dtype} {latent.shape}"
        raise ValueError(f"dataset latent is {have}, want finite float32 ({count}, K) (samples, CADs fitted)")


def _numbers(file: h5py.File, names: list[str], cads: set[int]) -> None:
    """Every camera is one, and every CAD that a sample names is there."""
    for name in ("viewpoint", "focal", "principal_point", "bbox", "cad_index"):
        values = file[name][:]
        rows = values.reshape(len(names), math.prod(values.shape[1:]))
        if name == "cad_index":
            wrong, fault = ~np.isin(values, [-1, *cads]), "not in cad/"
        else:
            wrong, fault = ~np.isfinite(rows).all(1), "not finite"
            if name in ("viewpoint", "focal") and not wrong.any():
                wrong, fault = rows[:, -1] <= 0, "not a camera"
                if name == "viewpoint":  # angles are in one turn, which a damaged 1e308 is not
                    wrong |= (np.abs(rows[:, :3]) > 2 * math.pi).any(1)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"{name} of sample {names[i]} is {values[i]}, which is {fault}")
