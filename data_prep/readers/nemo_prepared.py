"""NeMo-prepared trees, current and old, and what ImageNet3D ships: cropped photos and a .npz of each object.

    <root>/[train|val]/images/<category>[FGLi_BGLj]/<name>_<object>.JPEG        old: <name>.JPEG
    <root>/[train|val]/annotations/<category>[FGLi_BGLj]/<name>_<object>.npz
    <root>/[train|val]/lists/<category>[FGLi_BGLj]/meshNN.txt       a sample a line; without, every .npz

A tree without train/ and val/ is the split `all`; folders of occluded photos are the levels of
occluded_pascal3d.py. CADs come from PASCAL3D+. Of the masks only occ_mask is read, the others are mostly
None; the keypoints are not, being wrong wherever the photo was resized.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ntdm.config.protocol import NOMINAL_DISTANCE, PASCAL3D_FOCAL_PX
from ntdm.data_prep.listing import DatasetListing, Item, Listing
from ntdm.data_prep.raw.annotation import ObjectPose, SampleError, pixels_from_matlab, viewpoint_of
from ntdm.data_prep.raw.cad import cads_of
from ntdm.data_prep.raw.files import base_name, read_list, read_npz, sift_names
from ntdm.data_prep.raw.roots import NEMO, OCCLUDED, PASCAL3D, check_root, choose_categories, choose_splits
from ntdm.data_prep.readers.occluded_pascal3d import LEVELS, folder_level
from ntdm.io.progress import say

SPLITS = ("train", "val", "all", *LEVELS)
# The names of PASCAL3D+ hold one underscore themselves: n02690373_16, 2008_000033.
_NAME_AND_OBJECT = re.compile(r"(.+_.+)_(\d\d)")


def read(
    root: Path,
    pascal3d: Path,
    categories: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> DatasetListing:
    """What of the tree at `root` goes into `nemo_prepared/<split>/<category>.h5`.

    Args:
        root: of the prepared tree.
        pascal3d: root of PASCAL3D+, for CADs.
        categories: by default those that have annotations.
        splits: of SPLITS, by default those that have annotations.

    Raises:
        ValueError: a wrong root, an unknown category or split, one that has no annotations.
    """
    check_root(root, NEMO, *(f"{base}annotations/*/*.npz" for base in ("", "train/", "val/")))
    if next(root.glob("lists/*FGL*_BGL*.txt"), None) is not None:
        # Its folders are called the same; its lists are files, of which NeMo has a folder for each category.
        text = f"expected {NEMO} at {root}, with lists, if any, at lists/<category>/meshNN.txt"
        raise ValueError(f"{root} looks like {OCCLUDED}; {text}")
    check_root(pascal3d, PASCAL3D, "CAD")
    folders = {
        (split, category): _folder(root, split, category)
        for split in choose_splits(splits, SPLITS)
        for category in choose_categories(categories)
    }
    folders = {
        key: folder for key, folder in folders.items() if (root / folder.format("annotations")).is_dir()
    }
    for kind, wanted, found in (
        ("split", splits or (), {split for split, _ in folders}),
        ("category", categories or (), {category for _, category in folders}),
    ):
        for name in wanted:
            if name not in found:
                raise ValueError(f"{root} has no annotations of the {kind} {name}")
    if not folders:
        raise ValueError(f"{root} has annotations, but of no category of PASCAL3D+")
    say(f"{root}: {NEMO}, {', '.join(dict.fromkeys(split for split, _ in folders))}")
    cads = cads_of(pascal3d, {category for _, category in folders})
    listings = []
    unread: dict[str, str] = {}
    for (split, category), folder in folders.items():
        try:
            names, dropped = sift_names(_names(root, folder))
        except ValueError as error:
            unread[f"nemo_prepared/{split}/{category}"] = str(error)
            continue
        occluded = split in LEVELS
        items = [_item(root, folder, name, occluded) for name in names]
        optional = ("occluder_mask",) if occluded else ()
        listings.append(
            Listing("nemo_prepared", split, category, root, items, cads[category], dropped, optional)
        )
    return DatasetListing(listings, unread)


def _folder(root: Path, split: str, category: str) -> str:
    """Where a category lies below the root; `{}` stands for images, annotations or lists."""
    if split in LEVELS:
        base = "val/" if (root / "val").is_dir() else ""
        return f"{base}{{}}/{category}{folder_level(split)}"
    return f"{'' if split == 'all' else split + '/'}{{}}/{category}"


def _names(root: Path, folder: str) -> list[str]:
    """The samples of the lists, of all meshes; of the annotations where there is no list."""
    lists = sorted((root / folder.format("lists")).glob("mesh*.txt"))
    if lists:
        return [base_name(line) for path in lists for line in read_list(path)]
    return sorted(path.stem for path in (root / folder.format("annotations")).glob("[!.]*.npz"))


def _item(root: Path, folder: str, name: str, occluded: bool) -> Item:
    annotation = root / folder.format("annotations") / f"{name}.npz"
    photo, number = parse_name(name)
    return Item(
        photo,
        folder=folder.format("images"),
        annotation=annotation,
        object=number,
        masks=annotation if occluded else None,
        photo=name,
        pose=prepared_pose,
    )


def parse_name(name: str) -> tuple[str, int]:
    """Photo and object of a prepared photo's base name; the old form names no object, it has the first."""
    parts = _NAME_AND_OBJECT.fullmatch(name)
    return (parts[1], int(parts[2])) if parts else (name, 0)


def prepared_pose(item: Item, size: tuple[int, int]) -> ObjectPose:
    """The camera of a prepared photo of `size` (h, w), from its .npz.

    What is stored is nominal: the current form (with px and py) divides the distance by the resize rate and
    keeps the focal length; the old form stores the distance as annotated. The exact camera of a resized photo
    has the annotated distance and a focal length that is resized too. NeMo truncated principal points to
    whole pixels; the original's, which both forms keep, is taken through the crop here.

    Raises SampleError: annotation_missing, annotation_unreadable, and as annotation.object_pose.
    """
    fields = _Fields(item.annotation)
    distance = fields.number("distance")
    if "px" in fields:
        resize = fields.number("resize_rate")
        distance *= resize
    else:
        resize = fields.number("resize_rate", default=distance / NOMINAL_DISTANCE)
    angles = [fields.number(name) for name in ("azimuth", "elevation", "theta")]
    viewpoint = viewpoint_of(angles, distance, str(item.annotation))
    focal_px = fields.number("focal", 1) * fields.number("viewport", PASCAL3D_FOCAL_PX) * resize
    if not (resize > 0 and focal_px > 0):
        text = f"resize_rate is {resize:g}, and times focal and viewport {focal_px:g}"
        raise SampleError("no_pose", f"{item.annotation}: {text}")
    principal_point, bbox = _in_crop(fields, size, resize)
    cad_index = fields.number("true_cad_index" if "true_cad_index" in fields else "cad_index", 0)
    return ObjectPose(viewpoint, focal_px, principal_point, bbox, max(int(cad_index), 0) - 1)


def _in_crop(fields: "_Fields", size: tuple[int, int], resize: float) -> tuple[np.ndarray, np.ndarray]:
    """Principal point [2] and bbox [4] in the prepared photo of `size` (h, w), corner-origin frame."""
    height, width = size
    if "principal" not in fields:
        # The least that packaging C of OOD-CV may hold: a crop centred on the principal point.
        return np.array([width / 2, height / 2]), np.array([0.0, 0.0, width, height])
    principal = fields.numbers("principal", 2)
    original = np.array([fields.number("width"), fields.number("height")])
    if "padding_params" in fields:
        y0, y1, x0, x1, padded_height, padded_width = fields.numbers("box", 6)
        if (height, width) != (y1 - y0, x1 - x0):
            text = f"the photo has {size} (h, w), its box is of {(int(y1 - y0), int(x1 - x0))}"
            raise SampleError("crop_mismatch", f"{fields.path}: {text}: it was resized since")
        top, bottom, left, right = fields.numbers("padding_params", 6)[:4]
        zoom = np.array([padded_width - left - right, padded_height - top - bottom]) / original
        shift = np.array([left - x0, top - y0])
    else:
        # The old form's photo is centred; its box and padding may be those of an older crop still.
        zoom = np.floor(original * resize) / original
        shift = np.array([width // 2, height // 2]) - np.floor(principal * resize)
    principal_point = pixels_from_matlab(principal) * zoom + shift
    if "px" in fields:
        stored = np.array([fields.number("px"), fields.number("py")])
        # Half a photo pixel of frame, one of truncation, one of a photo resized to whole pixels.
        if np.abs(stored - principal_point).max() > 0.5 * resize + 2:
            text = f"px, py are {stored}, principal, box and padding_params say {principal_point}"
            raise SampleError("no_pose", f"{fields.path}: {text}")
    bbox = pixels_from_matlab(fields.numbers("bbox", 4)).reshape(2, 2) * zoom + shift
    return principal_point, bbox.reshape(4)


class _Fields:
    """The fields of one .npz; what is missing or no number raises SampleError with file and field."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise SampleError("annotation_missing", f"{path} does not exist")
        self.path = path
        try:
            self._arrays = read_npz(path)
        except ValueError as error:
            raise SampleError("annotation_unreadable", str(error)) from None

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def numbers(self, name: str, count: int) -> np.ndarray:
        """A field of `count` finite numbers, f64 [count]."""
        array = self._arrays.get(name, np.empty(0))
        if array.size != count or array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            reason = "no_bbox" if name == "bbox" else "no_pose"
            found = f"{array.dtype} {array.shape}" if name in self else "missing"
            raise SampleError(reason, f"{self.path}: {name} is {found}, want {count} finite numbers")
        return array.reshape(count).astype(np.float64)

    def number(self, name: str, default: float | None = None) -> float:
        """A field of one finite number; `default` where the file lacks it."""
        if default is not None and name not in self:
            return default
        return float(self.numbers(name, 1)[0])
