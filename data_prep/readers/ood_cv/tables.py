"""OOD-CV, packagings A and A': poses in tables, angles in degrees.

    A     <split folder>/<any>.csv                          one table; im_path is relative to the folder
          annotations/<category>_<source>/<photo>.mat       PASCAL3D+'s where this copy has none
    A'    <split folder>/labels.csv
          <split folder>/Images/<category>/<source>_<category>_<photo>_<object>.jpg

The split folders are train, iid_test and nuisances/<nuisance>. A photo of A' is the object's box, truncated
to whole pixels, and 10 more on each side. The table's pose holds; principal point, box and CAD are the
record's. Photos from the web have no record in PASCAL3D+: where A has none either, the camera is taken to
look at the middle of the box, and no CAD is known.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from ntdm.config.protocol import OOD_CV_CATEGORIES, PASCAL3D_FOCAL_PX
from ntdm.data_prep.listing import Contents, Item
from ntdm.data_prep.raw.annotation import (
    ObjectPose,
    SampleError,
    object_class,
    object_pose,
    pixels_from_matlab,
    read_objects,
    viewpoint_of,
)
from ntdm.data_prep.raw.files import LARGEST_TEXT, LONGEST_LIST, read_bytes, valid_name, valid_path
from ntdm.data_prep.raw.roots import PASCAL3D, check_root
from ntdm.data_prep.readers.ood_cv.names import WEB, parse_name, record_of, split_folder
from ntdm.io.progress import say
from ntdm.io.untrusted import one_line, reason

MARGIN = 10  # pixels that a photo of A' shows around the box

Row = dict[str, str]

_TABLE = (
    "cls_name", "im_path", "source", "im_name", "object", "azimuth", "elevation", "inplane_rotation",
    "distance", "left", "upper", "right", "lower",
)  # fmt: skip
_LABELS = ("labels", "imgs", "azimuth", "elevation", "theta", "distance")


@dataclass(frozen=True)
class Label:
    """What a table says of one object.

    Attributes:
        where: table and line, for messages.
        category: of the object.
        angles: azimuth, elevation, theta, degrees.
        distance: CAD units.
        box: x0, y0, x1, y1 in MATLAB's frame; None where the photo is the box and its margin.
        recorded: whether PASCAL3D+ has a record of the photo.
    """

    where: str
    category: str
    angles: tuple[float, ...]
    distance: float
    box: tuple[float, ...] | None
    recorded: bool


def read_tables(root: Path, pascal3d: Path, categories: Sequence[str], splits: Sequence[str]) -> Contents:
    """What the tables of packaging A name.

    One that cannot be read, lacks a column, or is not the only one of its folder is `unread`.
    """
    make = partial(_table_item, root, pascal3d)
    return _contents(root, categories, splits, "*.csv", _TABLE, make)


def read_crops(root: Path, pascal3d: Path, categories: Sequence[str], splits: Sequence[str]) -> Contents:
    """What the labels of packaging A' name, as :func:`read_tables`.

    Raises:
        ValueError: `pascal3d` has no annotations.
    """
    check_root(pascal3d, PASCAL3D, "Annotations")
    return _contents(root, categories, splits, "labels.csv", _LABELS, partial(_crop_item, pascal3d))


def _contents(
    root: Path,
    categories: Sequence[str],
    splits: Sequence[str],
    pattern: str,
    columns: Sequence[str],
    make_item: Callable[[str, Row, str], Item | None],
) -> Contents:
    """The rows by split and category, each object once; `columns` begin with those of category and photo."""
    contents = Contents(root)
    invalid: dict[tuple[str, str], list[str]] = {}
    for split in splits:
        try:
            rows = read_rows(root / split_folder(split), pattern, columns)
        except ValueError as error:
            contents.unread[f"ood_cv/{split}"] = str(error)
            continue
        for where, row in rows:
            category = row[columns[0]]
            if category not in OOD_CV_CATEGORIES:
                contents.lost.setdefault((split, "other_class"), []).append(row[columns[1]])
            elif category in categories:
                items, dropped = contents.files.setdefault((split, category), ([], Counter()))
                item = make_item(split, row, where)
                if item is None:
                    dropped["name_invalid"] += 1
                    invalid.setdefault((split, category), []).append(row[columns[1]])
                else:
                    items.append(item)
    for (split, category), names in invalid.items():
        first = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
        say(f"ood_cv/{split}/{category}: name_invalid: {first}")
    for key, (items, dropped) in contents.files.items():
        once: dict[tuple[str, int | None], Item] = {}
        for item in items:
            once.setdefault((item.name, item.object), item)
        dropped["listed_twice"] = len(items) - len(once)
        contents.files[key] = (list(once.values()), +dropped)
    return contents


def read_rows(folder: Path, pattern: str, columns: Sequence[str]) -> list[tuple[str, Row]]:
    """The rows of a folder's table, each with the words that say where it is; none without a table.

    Raises ValueError: several tables, one that cannot be read, that leads elsewhere, lacks a column, or has
    more than LONGEST_LIST rows.
    """
    tables = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if not tables:
        return []
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise ValueError(f"{folder} holds several tables ({names}); leave the one of this split")
    (path,) = tables
    data = read_bytes(path, LARGEST_TEXT)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        header = next(reader, [])
        missing = [name for name in columns if name not in header]
        if missing:
            text = one_line(", ".join(header)) or "none"
            raise ValueError(f"{path} has no column {missing[0]}; its columns are {text}")
        # Only the columns wanted: a header may name a million of them.
        places = {name: header.index(name) for name in columns}
        rows: list[tuple[str, Row]] = []
        for cells in reader:
            if len(rows) == LONGEST_LIST:
                raise ValueError(f"{path} has more than {LONGEST_LIST} rows, which no table has")
            if cells:
                row = {name: cells[at] if at < len(cells) else "" for name, at in places.items()}
                rows.append((f"{path}, line {reader.line_num}", row))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a readable table: {reason(error)}") from None
    return rows


def _table_item(root: Path, pascal3d: Path, split: str, row: Row, where: str) -> Item | None:
    """The item of a row of packaging A; None where a name in it leads out of the folders."""
    source, category, name = row["source"], row["cls_name"], row["im_name"]
    path = row["im_path"].replace("\\", "/")  # as Windows spells it
    if not (valid_name(source) and valid_name(name) and valid_path(path)):
        return None
    index, _, decimals = row["object"].partition(".")  # 0.0 where a column with a gap went through pandas
    whole = index.isdecimal() and not decimals.strip("0")
    own = root / "annotations" / f"{category}_{source}" / f"{name}.mat"
    box = tuple(number(row[side]) for side in ("left", "upper", "right", "lower"))
    label = _label(row, category, "inplane_rotation", where, box, recorded=own.is_file() or source != WEB)
    return Item(
        name,
        folder=str(PurePosixPath(split_folder(split), path).parent),
        annotation=own if own.is_file() else record_of(pascal3d, category, source, name),
        object=int(index) if whole else None,
        photo=PurePosixPath(path).stem,
        file=PurePosixPath(path).name,
        pose=partial(labelled_pose, label=label)
        if whole
        else partial(_no_object, text=f"{where}: object is {row['object']!r}, want a whole number"),
    )


def _no_object(item: Item, size: tuple[int, int], *, text: str) -> ObjectPose:
    raise SampleError("number_absurd", text)


def _crop_item(pascal3d: Path, split: str, row: Row, where: str) -> Item | None:
    """The item of a row of packaging A'; None where the photo's name is none."""
    category, photo = row["labels"], PurePosixPath(row["imgs"]).stem
    if not valid_name(row["imgs"]):
        return None
    spelt = parse_name(photo, category)
    source, name, number = spelt or (WEB, photo, 0)
    return Item(
        name,
        folder=f"{split_folder(split)}/Images/{category}",
        annotation=record_of(pascal3d, category, source, name),
        object=number,
        photo=photo,
        file=row["imgs"],
        pose=partial(
            labelled_pose, label=_label(row, category, "theta", where, None, recorded=source != WEB)
        ),
    )


def _label(
    row: Row, category: str, theta: str, where: str, box: tuple[float, ...] | None, recorded: bool
) -> Label:
    angles = tuple(number(row[name]) for name in ("azimuth", "elevation", theta))
    return Label(where, category, angles, number(row["distance"]), box, recorded)


def number(text: str) -> float:
    """A cell's number; NaN, which the pose refuses, where it holds none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def labelled_pose(item: Item, size: tuple[int, int], *, label: Label) -> ObjectPose:
    """The camera of a labelled object in its photo of `size` (h, w).

    Raises SampleError: as annotation.read_objects and object_pose; no_object; other_class (of the record's
    object); no_bbox; crop_mismatch (a crop that is not as large as its record's box).
    """
    viewpoint = viewpoint_of([math.radians(angle) for angle in label.angles], label.distance, label.where)
    height, width = size
    if label.recorded:
        objects, index = read_objects(item.annotation), item.object or 0
        if index >= len(objects):
            text = f"{item.annotation} has {len(objects)} objects, {label.where} names number {index}"
            raise SampleError("no_object", text)
        found = object_class(objects[index])
        if found != label.category:
            text = (
                f"{item.annotation}: object {index} is called {found!r}, {label.where} says {label.category}"
            )
            raise SampleError("other_class", text)
        pose = replace(object_pose(objects[index], f"{item.annotation}, object {index}"), viewpoint=viewpoint)
        return pose if label.box else _cut_out(pose, size, item, label)
    if label.box:
        box = pixels_from_matlab(np.array(label.box))
    else:
        box = np.array([MARGIN, MARGIN, width - MARGIN, height - MARGIN], np.float64)
    if not (np.isfinite(box).all() and (box[:2] < box[2:]).all()):
        raise SampleError("no_bbox", f"{label.where}: the box is no box of four numbers")
    return ObjectPose(viewpoint, PASCAL3D_FOCAL_PX, (box[:2] + box[2:]) / 2, box, -1)


def _cut_out(pose: ObjectPose, size: tuple[int, int], item: Item, label: Label) -> ObjectPose:
    """The pose in a photo of A', given that in the whole photo.

    PASCAL3D+'s box, whose pixels MATLAB counts from 1, was truncated and used as edges counted from 0.
    """
    edges = np.trunc(pose.bbox + 0.5)
    edges += np.array([-MARGIN, -MARGIN, MARGIN, MARGIN])
    expected = (int(edges[3] - edges[1]), int(edges[2] - edges[0]))
    if expected != size:
        text = f"the box of {item.annotation} with its margin is {expected} (h, w), the photo {size}"
        raise SampleError("crop_mismatch", f"{label.where}: {text}")
    corner = edges[:2]
    return replace(
        pose,
        principal_point=pose.principal_point - corner,
        bbox=(pose.bbox.reshape(2, 2) - corner).reshape(4),
    )
