"""The cache, schema 1: one HDF5 file a dataset, split and category, at `<dataset>/<split>/<category>.h5`.

    images           u8  [N,H,W,3]  object-centred RGB crops, one chunk a sample
    amodal_mask      u8  [N,H,W]    0/1: the annotated CAD projected with the stored camera, by area
    visible_mask     u8  [N,H,W]    0/1: amodal and not occluder
    occluder_mask    u8  [N,H,W]    0/1, only where the dataset has occluders
    source_mask      u8  [N,H,W]    0/1, only where the dataset ships an amodal mask of its own
    viewpoint        f64 [N,4]      azimuth in [0, 2 pi), elevation, theta (radians); distance (CAD units)
    focal            f64 [N]        pixels of the crop
    principal_point  f64 [N,2]      x, y; corner-origin frame of camera.py
    bbox             f64 [N,4]      x0, y0, x1, y1, same frame
    cad_index        i16 [N]        CAD file number - 1; -1 where the packaging ships none
    latent           f32 [N,K]      written by fit-shapes; K CADs in ascending cad_index
    name, source     utf-8 [N]      unique sample name; path relative to the dataset's root
    cad/<k>/vertices f32 [V,3], cad/<k>/faces i32 [F,3]

and the attributes of cache_schema.ATTRIBUTES. A file has its final name only when it is whole.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

import ntdm
from ntdm.config.protocol import PASCAL3D_FOCAL_PX
from ntdm.config.reading import from_dict
from ntdm.config.stages import PrepConfig
from ntdm.io.cache_schema import OPTIONAL, REQUIRED, SCHEMA, SCHEMA_VERSION, check, resolved
from ntdm.io.outputs import atomic_hdf5

_PIXELS = ("images", "amodal_mask", "visible_mask", "occluder_mask", "source_mask")

Cad = tuple[np.ndarray, np.ndarray]  # vertices f32 [V, 3] in the object frame, faces i32 [F, 3]
Cads = Mapping[int, Cad]  # by cad_index


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample, as stored: the fields, types, units and frames of the table above, without the N."""

    name: str
    source: str
    image: np.ndarray  # u8 [H, W, 3], a row of `images`
    amodal_mask: np.ndarray  # bool or 0/1 [H, W]
    visible_mask: np.ndarray  # [H, W]
    viewpoint: np.ndarray  # f64 [4]
    focal: float
    principal_point: np.ndarray  # f64 [2]
    bbox: np.ndarray  # f64 [4]
    cad_index: int
    occluder_mask: np.ndarray | None = None  # [H, W]
    source_mask: np.ndarray | None = None  # [H, W]


class CacheWriter:
    """Writes one cache file, sample by sample; the file takes its final name when the `with` block ends well.

    Args:
        path: final path.
        dataset: "pascal3d", ...
        split: "train", ...
        category: "car", ...
        image_size: (H, W) of every sample.
        config: JSON-ready dictionary of what the file is made with.
        cads: cad_index -> (vertices [V, 3], faces [F, 3]), the category's CADs.
        inputs: digest of the photos and CADs listed for this file, used or not, and of how masks are made.
        optional: which of OPTIONAL every sample carries.
        compression: of photos and masks, "none", "lzf" or "gzip".

    Set `dropped` (reason -> count) before the block ends. The same samples give the same data.
    """

    def __init__(
        self,
        path: Path,
        *,
        dataset: str,
        split: str,
        category: str,
        image_size: tuple[int, int],
        config: Mapping[str, Any],
        cads: Cads,
        inputs: str = "",
        optional: Sequence[str] = (),
        compression: str = "none",
    ) -> None:
        self.path, self.count = path, 0
        self.dropped: dict[str, int] = {}
        self._attributes = {"dataset": dataset, "split": split, "category": category, "inputs": inputs}
        self._size, self._config, self._cads = image_size, config, cads
        self._layout = REQUIRED | {name: OPTIONAL[name] for name in optional}
        self._compression = None if compression == "none" else compression
        self._names: set[str] = set()
        self._pixels = hashlib.sha256()

    def __enter__(self) -> "CacheWriter":
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(atomic_hdf5(self.path))
            self._create()
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def _create(self) -> None:
        for name, (kind, shape) in self._layout.items():
            sizes = resolved(shape, self._size)
            self._file.create_dataset(
                name,
                shape=(0, *sizes),
                maxshape=(None, *sizes),
                dtype=h5py.string_dtype() if kind == "O" else kind,
                chunks=(1, *sizes) if name in _PIXELS else (256, *sizes),
                compression=self._compression if name in _PIXELS else None,
            )
        for index, (vertices, faces) in sorted(self._cads.items()):
            self._file[f"cad/{index}/vertices"] = np.asarray(vertices, np.float32)
            self._file[f"cad/{index}/faces"] = np.asarray(faces, np.int32)
        self._file.require_group("cad")

    def add(self, sample: Sample) -> None:
        """Append a sample; ValueError when its name is there already."""
        if sample.name in self._names:
            raise ValueError(f"{self.path}: sample {sample.name!r} is there twice; names must be unique")
        assert sample.cad_index < 0 or sample.cad_index in self._cads, f"{sample.name}: CAD not in the file"
        self._names.add(sample.name)
        for name, (_, shape) in self._layout.items():
            value = getattr(sample, "image" if name == "images" else name)
            assert np.shape(value) == resolved(shape, self._size), (
                f"{sample.name}: {name} is {np.shape(value)}"
            )
            stored = self._file[name]
            if name in _PIXELS:
                self._pixels.update(np.ascontiguousarray(value).tobytes())
            stored.resize(self.count + 1, axis=0)
            stored[self.count] = value
        self._file.check()
        self.count += 1

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            attributes: dict[str, Any] = {
                "schema": SCHEMA,
                "schema_version": SCHEMA_VERSION,
                "image_size": np.asarray(self._size, np.int64),
                "config": json.dumps(self._config, sort_keys=True),
                "ntdm_version": ntdm.__version__,
                "dropped": json.dumps(dict(self.dropped), sort_keys=True),
                "pixels": self._pixels.hexdigest()[:16],
                "complete": True,
            }
            self._file.attrs.update(self._attributes | attributes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Last in, first out: writes the attributes, closes the file, renames it; after an error, removes it.
        self._stack.__exit__(kind, error, trace)


def _is_plain(stored: h5py.Dataset) -> bool:
    """Whether a sample's pixels are one chunk of bytes, as they are."""
    plain = stored.id.get_create_plist().get_nfilters() == 0 and stored.dtype == np.uint8
    return plain and stored.chunks == (1, *stored.shape[1:])


# Errors of the system on a file that may well be whole: rights, memory, handles, locks, a silent server.
NOT_THE_FILES_FAULT = frozenset(
    {
        errno.EACCES,
        errno.EAGAIN,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOLCK,
        errno.ENOMEM,
        errno.ESTALE,
    }
)


class CacheFile:
    """A cache file opened for reading, its schema checked.

    `len(file)` is the number of samples, `file["viewpoint"]` a whole array (names and sources as lists of
    str), `file.read("images", i)` one sample of it. Caches are only ever replaced as whole files: a reader
    takes no lock, which another program may hold or the file system may not have.

    Args:
        path: the file.

    Attributes:
        path: the file.
        dataset: "pascal3d", ...
        split: "train", ...
        category: "car", ...
        inputs: digest of the photos and CADs that were listed for the file.
        pixels: digest of the photos and masks that it holds.
        image_size: (H, W).
        config: what the file was made with.
        dropped: reason -> count, the samples that prep-data left out.

    Raises:
        ValueError: the file is absent, is not HDF5, is not whole, or does not keep the schema, which
            cache_schema.py has.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._stored: dict[str, tuple[h5py.Dataset, bool, tuple[int, ...]]] = {}
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"{path} has the name of a cache file and is not a file: move it away")
        if not self.path.is_file():
            raise ValueError(f"cache file {path} does not exist; `ntdm prep-data` makes it")
        try:
            self._file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            if error.errno in NOT_THE_FILES_FAULT:
                raise ValueError(f"{path} cannot be opened: {os.strerror(error.errno)}") from None
            raise ValueError(
                f"{path} is not a whole HDF5 file ({error}); make it again with prep-data --overwrite"
            ) from None
        try:
            header = check(self._file, self.path)
        # Damaged bytes make h5py raise nearly anything: RuntimeError, KeyError, OverflowError ...
        except Exception as error:
            self._file.close()
            raise ValueError(f"{self.path}: {error}; make it again with prep-data --overwrite") from None
        self.dataset, self.split, self.category = header.dataset, header.split, header.category
        self.inputs, self.pixels = header.inputs, header.pixels
        self.config, self.dropped = header.config, header.dropped
        self.image_size = header.image_size

    path: Path
    dataset: str
    split: str
    category: str
    inputs: str
    pixels: str
    image_size: tuple[int, int]
    config: dict[str, Any]
    dropped: dict[str, int]

    @property
    def nominal_focal(self) -> float:
        """3000 s, crop pixels: the focal length that inference assumes, which has no annotated distance."""
        if "scale" not in self.config:
            raise ValueError(
                f"{self.path}: its config has no scale; make it again with prep-data --overwrite"
            )
        config = from_dict(PrepConfig, self.config | {"image_size": list(self.image_size)}, str(self.path))
        return PASCAL3D_FOCAL_PX * config.resolved_scale

    def __len__(self) -> int:
        return int(self._file["name"].shape[0])

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def __getitem__(self, name: str) -> Any:
        """A whole array by its name in the schema; `name` and `source` as lists of str."""
        if name not in self._file:
            raise ValueError(f"{self.path}: dataset {name} is missing")
        with self._whole(name):
            if name in ("name", "source"):
                return [str(s) for s in self._file[name].asstr()[:]]
            return self._file[name][:]

    def read(self, name: str, index: int) -> np.ndarray:
        """One sample of a numeric array."""
        if name not in self._stored:
            stored = self._file[name]
            self._stored[name] = stored, _is_plain(stored), stored.shape
        stored, plain, (count, *shape) = self._stored[name]
        with self._whole(name):
            if not plain or not 0 <= index < count:
                return stored[index]
            # The chunk as it lies in the file: ten times as fast as HDF5's selections.
            value = np.empty(shape, np.uint8)
            stored.id.read_direct_chunk((index, *[0] * len(shape)), out=value.reshape(-1))
            return value

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[None]:
        """Names the file where the library cannot unpack what it holds."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:  # the last where a chunk was never written
            text = f"{self.path}: dataset {name} is damaged ({error})"
            raise ValueError(f"{text}; make it again with prep-data --overwrite") from None

    def cads(self) -> dict[int, Cad]:
        """cad_index -> (vertices f32 [V, 3] in the object frame, faces i32 [F, 3]), ascending."""
        group = self._file["cad"]
        with self._whole("cad"):
            return {k: (group[f"{k}/vertices"][:], group[f"{k}/faces"][:]) for k in sorted(map(int, group))}

    def close(self) -> None:
        """Close the file; further reads fail."""
        self._file.close()

    def __enter__(self) -> "CacheFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_latents(path: Path, latent: np.ndarray) -> None:
    """Add or replace `latent` f32 [N, K], the shape latent of every sample's CAD; K is the shape's.

    Works on a copy that replaces the file when whole: an interrupted HDF5 file cannot be repaired.
    Raises ValueError when N is not the file's, or a latent is not finite.
    """
    with CacheFile(path) as file:
        samples = len(file)
    if latent.ndim != 2 or len(latent) != samples or not latent.shape[1]:
        raise ValueError(f"{path}: latent is {latent.shape}, want ({samples}, K) for its samples")
    if not np.isfinite(latent).all():
        raise ValueError(f"{path}: a latent is not finite")
    with atomic_hdf5(path, copy_of=path) as file:
        if "latent" in file:
            del file["latent"]
        file["latent"] = np.asarray(latent, np.float32)
