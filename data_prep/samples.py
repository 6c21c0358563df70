"""One photo and its annotation to cache samples: poses, crop, masks, or the reason why there is none."""

import collections
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ntdm import camera
from ntdm.cache import Sample
from ntdm.config import PrepConfig
from ntdm.crop import CropMap, crop_map
from ntdm.data_prep.annotation import ObjectPose, SampleError, object_class, object_pose, read_objects
from ntdm.data_prep.cad import Cad
from ntdm.rasterize import coverage

_LARGEST_PHOTO = 40_000_000  # pixels: half a gigabyte as float32 RGB
_IMAGE_SUFFIXES = (".JPEG", ".jpg", ".jpeg", ".JPG", ".png")


@dataclass(frozen=True)
class Item:
    """One photo to make samples of.

    Attributes:
        name: base name of the photo; a sample is called `<name>_<object:02d>`.
        folder: where the photo lies, relative to the listing's root.
        annotation: the .mat file.
        object: index of the only object wanted; None for what the protocol (PrepConfig.objects) says.
        masks: Occluded PASCAL3D+'s .npz, where the dataset has one.
    """

    name: str
    folder: str
    annotation: Path
    object: int | None = None
    masks: Path | None = None


@dataclass
class Listing:
    """One cache file to be: its key, the photos it is made of, and what the lists already dropped."""

    dataset: str
    split: str
    category: str
    root: Path
    items: list[Item]
    cads: dict[int, Cad]
    broken_cads: dict[int, str] = field(default_factory=dict)
    dropped: collections.Counter[str] = field(default_factory=collections.Counter)
    optional: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.split}/{self.category}"

    def fingerprint(self) -> str:
        """Hexadecimal digest of what is listed, wherever the dataset lies: photos, objects, CADs."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.folder}/{item.name} {item.object}\n".encode())
        for index, cad in sorted(self.cads.items()):
            for array in cad:
                digest.update(f"{index} {array.shape}\n".encode() + array.tobytes())
        return digest.hexdigest()[:16]


def make_samples(listing: Listing, item: Item, config: PrepConfig) -> list[Sample | SampleError]:
    """The samples of one photo, or why there are none; nothing a file holds raises an error."""
    try:
        objects = read_objects(item.annotation)
        wanted = _wanted_objects(objects, listing.category, item, config)
    except SampleError as fault:
        return [fault]
    photo = None
    results: list[Sample | SampleError] = []
    for index in wanted:
        try:
            pose = object_pose(objects[index], f"{item.annotation}, object {index}")
            if pose.cad_index not in listing.cads:
                _refuse_cad(pose.cad_index, listing, item)
            if photo is None:
                photo = _read_photo(listing, item)
            results.append(_sample(f"{item.name}_{index:02d}", photo, pose, listing, config))
        except SampleError as fault:
            results.append(fault)
            if fault.reason.startswith(("image", "mask")):
                break  # the photo itself cannot be read: counted once, not for each of its objects
    return results


@dataclass(frozen=True)
class _Photo:
    source: str
    pixels: np.ndarray  # u8 [h, w, 3]
    occluder: np.ndarray | None = None  # bool [h, w]
    amodal: np.ndarray | None = None  # bool [h, w]


def _wanted_objects(objects: list[object], category: str, item: Item, config: PrepConfig) -> Sequence[int]:
    if item.object is not None:
        if item.object >= len(objects):
            text = f"{item.annotation} has {len(objects)} objects, the list names number {item.object}"
            raise SampleError("no_object", text)
        return [item.object]
    if not objects:
        raise SampleError("no_object", f"{item.annotation} has no objects")
    if config.objects == "all":
        indices = [i for i, fields in enumerate(objects) if object_class(fields) == category]
    else:
        indices = [0] if object_class(objects[0]) == category else []
    if not indices:
        raise SampleError("other_class", f"{item.annotation}: the object is no {category}")
    return indices


def _refuse_cad(index: int, listing: Listing, item: Item) -> None:
    if index in listing.broken_cads:
        raise SampleError("cad_unreadable", listing.broken_cads[index])
    raise SampleError(
        "cad_missing",
        f"{item.annotation} names {listing.category} CAD {index + 1:02d}.off, not there",
    )


def _read_photo(listing: Listing, item: Item) -> _Photo:
    folder = listing.root / item.folder
    for suffix in _IMAGE_SUFFIXES:
        path = folder / f"{item.name}{suffix}"
        if path.is_file():
            break
    else:
        raise SampleError("image_missing", f"{folder}/{item.name}.JPEG does not exist")
    try:
        with Image.open(path) as image:
            if image.width * image.height > _LARGEST_PHOTO:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {_LARGEST_PHOTO}")
            # Gray and CMYK become RGB. EXIF rotation is ignored: MATLAB did so when the poses were annotated.
            pixels = np.asarray(image.convert("RGB"))
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged bytes.
    except Exception as error:
        raise SampleError("image_unreadable", f"{path} is not a readable image: {error}") from None
    occluder, amodal = read_masks(item.masks, pixels.shape[:2]) if item.masks else (None, None)
    return _Photo(f"{item.folder}/{path.name}", pixels, occluder, amodal)


def read_masks(path: Path, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Occluder and amodal mask, bool [h, w], of an Occluded PASCAL3D+ .npz; nothing in it is unpickled."""
    if not path.is_file():
        raise SampleError("mask_missing", f"{path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as archive:
            for member in ("mask.npy", "occluder_mask.npy"):
                if archive.zip.getinfo(member).file_size > 9 * _LARGEST_PHOTO:
                    raise ValueError(f"{member} is larger than any photo")
            # The mask was decoded from a JPEG: 0 to 37 outside, 218 to 255 inside.
            amodal, occluder = archive["mask"] > 127, archive["occluder_mask"] > 0
        if amodal.shape != size or occluder.shape != size:
            raise ValueError(f"its masks are {amodal.shape} and {occluder.shape}, the photo {tuple(size)}")
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError,
        NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise SampleError("mask_unreadable", f"{path} is not a readable mask file: {error}") from None
    return occluder, amodal


def _sample(name: str, photo: _Photo, pose: ObjectPose, listing: Listing, config: PrepConfig) -> Sample:
    size = config.image_size
    distance = float(pose.viewpoint[3])
    crop = crop_map(size, config.resolved_scale, distance, pose.focal_px, pose.principal_point, pose.bbox)
    focal = pose.focal_px * crop.zoom
    pixels = np.clip(np.rint(crop.resample(photo.pixels)), 0, 255).astype(np.uint8)
    amodal = cad_mask(listing.cads[pose.cad_index], pose.viewpoint, focal, crop)
    occluder = None if photo.occluder is None else crop.resample(photo.occluder) >= 0.5
    return Sample(
        name=name,
        source=photo.source,
        images=pixels,
        amodal_mask=amodal,
        visible_mask=amodal if occluder is None else amodal & ~occluder,
        occluder_mask=occluder,
        source_mask=None if photo.amodal is None else crop.resample(photo.amodal) >= 0.5,
        viewpoint=pose.viewpoint,
        focal=focal,
        principal_point=crop.principal_point,
        bbox=crop.crop_from_photo(pose.bbox.reshape(2, 2)).reshape(4),
        cad_index=pose.cad_index,
    )


def cad_mask(cad: Cad, viewpoint: np.ndarray, focal: float, crop: CropMap) -> np.ndarray:
    """The CAD projected with the crop's camera, two-sided: bool [H, W], set where a centre is covered."""
    vertices, faces = (torch.from_numpy(array) for array in cad)
    vertices_cam = camera.cam_from_obj(vertices.double(), torch.from_numpy(viewpoint))
    principal_point = torch.from_numpy(crop.principal_point)
    return coverage(
        vertices_cam, faces.long(), torch.tensor(focal, dtype=torch.float64), principal_point, crop.size
    ).numpy()
