"""One photo and its annotation to cache samples: poses, crop, masks, or the reason why there is none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntdm.config.stages import PrepConfig
from ntdm.data_prep.listing import Item, Listing
from ntdm.data_prep.raw.annotation import (
    ObjectPose,
    SampleError,
    object_class,
    object_pose,
    read_record,
    refuse_absurd,
)
from ntdm.data_prep.raw.files import read_bytes, read_npz
from ntdm.geometry.crop import DEGENERATE_DISTANCE, box_distance, crop_map
from ntdm.io.cache import Sample
from ntdm.io.photo import LARGEST_FILE, decode
from ntdm.ops.amodal_mask import amodal_mask

MOST_OBJECTS = 100  # of one category in a photo: more than anyone annotates
_IMAGE_SUFFIXES = (
    ".JPEG", ".jpg", ".jpeg", ".JPG", ".png", ".Jpg", ".Jpeg", ".PNG",
    *(suffix for name in ("webp", "bmp", "gif") for suffix in (f".{name}", f".{name.upper()}")),
)  # fmt: skip


def make_samples(listing: Listing, item: Item, config: PrepConfig) -> list[Sample | SampleError]:
    """The samples of one photo, or why there are none; nothing a file holds raises an error."""
    if item.pose is not None:
        return [_lone_sample(listing, item, config, item.pose)]
    try:
        objects, size = read_record(item.annotation)
        wanted = _wanted_objects(objects, listing.category, item, config)
    except SampleError as fault:
        return [fault]
    photo = None
    results: list[Sample | SampleError] = []
    for index in wanted:
        try:
            where = f"{item.annotation}, object {index}"
            pose = object_pose(objects[index], where)
            if pose.cad_index not in listing.cads.models:
                _refuse_cad(pose.cad_index, listing, item)
            if photo is None:
                photo = _read_photo(listing, item)
                # What OOD-CV ships beside its photos does not say their size reliably.
                if size not in (None, photo.size) and listing.dataset != "ood_cv":
                    text = f"{photo.source} has {photo.size} (h, w), {item.annotation} says {size}"
                    raise SampleError(
                        "image_size_mismatch", f"{text}: boxes and cameras are of another photo"
                    )
            results.append(_sample(f"{item.name}_{index:02d}", where, photo, pose, listing, config))
        except SampleError as fault:
            results.append(fault)
            if fault.reason.startswith(("image", "mask")):
                break  # the photo itself cannot be read: counted once, not for each of its objects
    return results


def _lone_sample(
    listing: Listing,
    item: Item,
    config: PrepConfig,
    read_pose: Callable[[Item, tuple[int, int]], ObjectPose],
) -> Sample | SampleError:
    """The sample of an item whose pose is read from elsewhere than a record, or why there is none."""
    try:
        photo = _read_photo(listing, item)
        pose = read_pose(item, photo.size)
        if pose.cad_index >= 0 and pose.cad_index not in listing.cads.models:
            _refuse_cad(pose.cad_index, listing, item)
        where = f"{item.annotation}, object {item.object or 0}"
        return _sample(f"{item.name}_{item.object or 0:02d}", where, photo, pose, listing, config)
    except SampleError as fault:
        return fault


@dataclass(frozen=True)
class _Photo:
    source: str
    pixels: np.ndarray  # u8 [h, w, 3]
    occluder: np.ndarray | None = None  # bool [h, w]
    amodal: np.ndarray | None = None  # bool [h, w]

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


def _wanted_objects(objects: list[object], category: str, item: Item, config: PrepConfig) -> Sequence[int]:
    if item.object is not None:
        if item.object >= len(objects):
            text = f"{item.annotation} has {len(objects)} objects, the list names number {item.object}"
            raise SampleError("no_object", text)
        if object_class(objects[item.object]) != category:
            raise SampleError("other_class", f"{item.annotation}: object {item.object} is no {category}")
        return [item.object]
    if not objects:
        raise SampleError("no_object", f"{item.annotation} has no objects")
    if config.objects == "all":
        indices = [i for i, fields in enumerate(objects) if object_class(fields) == category]
    else:
        indices = [0] if object_class(objects[0]) == category else []
    if len(indices) > MOST_OBJECTS:
        text = f"{item.annotation} has {len(indices)} objects called {category}; no photo has {MOST_OBJECTS}"
        raise SampleError("annotation_unreadable", text)
    if not indices:
        raise SampleError("other_class", f"{item.annotation}: the object is no {category}")
    return indices


def _refuse_cad(index: int, listing: Listing, item: Item) -> None:
    if listing.cads.missing:
        raise SampleError("cad_missing", listing.cads.missing)
    if index in listing.cads.broken:
        raise SampleError("cad_unreadable", listing.cads.broken[index])
    raise SampleError(
        "cad_missing",
        f"{item.annotation} names {listing.category} CAD {index + 1:02d}.off, not there",
    )


def _read_photo(listing: Listing, item: Item) -> _Photo:
    folder, name = listing.root / item.folder, item.photo or item.name
    paths = [folder / f"{name}{suffix}" for suffix in _IMAGE_SUFFIXES]
    paths = [folder / item.file, *paths] if item.file else paths
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise SampleError("image_missing", f"{paths[0]} does not exist")
    try:
        data = read_bytes(path, LARGEST_FILE)
    except ValueError as error:
        raise SampleError("image_unreadable", str(error)) from None
    try:
        # The EXIF orientation is ignored: MATLAB did so when the poses were annotated.
        pixels = decode(data, upright=False)
    except MemoryError:  # a cache without the sample would count as whole
        raise MemoryError(f"for {path}") from None
    except ValueError as error:
        raise SampleError("image_unreadable", f"{path} is not a readable image: {error}") from None
    occluder, amodal = read_masks(item.masks, pixels.shape[:2]) if item.masks else (None, None)
    return _Photo(f"{item.folder}/{path.name}", pixels, occluder, amodal)


def read_masks(path: Path, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Occluder and amodal mask, bool [h, w], of an annotation .npz; the latter where it holds one.

    Occluded PASCAL3D+ calls them occluder_mask and mask, NeMo's prepared files occ_mask and amodal_mask.
    Raises SampleError: mask_missing, mask_unreadable.
    """
    if not path.is_file():
        raise SampleError("mask_missing", f"{path} does not exist")
    try:
        fields = read_npz(path)
    except ValueError as error:
        raise SampleError("mask_unreadable", str(error)) from None
    prepared = "occluder_mask" not in fields
    occluder, amodal = ("occ_mask", "amodal_mask") if prepared else ("occluder_mask", "mask")
    if occluder not in fields:
        raise SampleError("mask_unreadable", f"{path} holds neither occluder_mask nor occ_mask")
    if not prepared and amodal not in fields:
        raise SampleError("mask_unreadable", f"{path} holds no mask")
    for name in (occluder, amodal):
        if name in fields and (fields[name].shape != size or fields[name].dtype.kind not in "biuf"):
            found = f"{fields[name].dtype} {fields[name].shape}"
            raise SampleError("mask_unreadable", f"{path}: {name} is {found}, the photo {tuple(size)}")
    # Occluded PASCAL3D+'s mask was decoded from a JPEG: 0 to 37 outside, 218 to 255 inside.
    outside = 0 if prepared else 127
    return fields[occluder] > 0, fields[amodal] > outside if amodal in fields else None


def _sample(
    name: str, where: str, photo: _Photo, pose: ObjectPose, listing: Listing, config: PrepConfig
) -> Sample:
    size, scale = config.image_size, config.resolved_scale
    refuse_absurd(pose, where)
    viewpoint = pose.viewpoint
    if viewpoint[3] <= DEGENERATE_DISTANCE:
        viewpoint = np.array([*viewpoint[:3], box_distance(size, scale, pose.focal_px, pose.bbox)])
    crop = crop_map(size, scale, float(viewpoint[3]), pose.focal_px, pose.principal_point)
    focal = pose.focal_px * crop.zoom
    pixels = np.clip(np.rint(crop.resample(photo.pixels)), 0, 255).astype(np.uint8)
    if pose.cad_index >= 0:
        amodal = amodal_mask(
            listing.cads.models[pose.cad_index], viewpoint, focal, crop.principal_point, crop.size
        )
    else:
        amodal = np.zeros(size, bool)  # no CAD is known: IoU is not measured on such a file
    occluder = None if photo.occluder is None else crop.resample(photo.occluder) >= 0.5
    return Sample(
        name=name,
        source=photo.source,
        image=pixels,
        amodal_mask=amodal,
        visible_mask=amodal if occluder is None else amodal & ~occluder,
        occluder_mask=occluder,
        source_mask=None if photo.amodal is None else crop.resample(photo.amodal) >= 0.5,
        viewpoint=viewpoint,
        focal=focal,
        principal_point=crop.principal_point,
        bbox=crop.crop_from_photo(pose.bbox.reshape(2, 2)).reshape(4),
        cad_index=pose.cad_index,
    )
