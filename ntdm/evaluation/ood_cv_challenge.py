"""The OOD-CV challenge's tables of poses: a row an object, angles in degrees.

    imgs,labels,azimuth,elevation,theta,distance
    collection_car_photo_0.jpg,car,30.0,5.0,0.0,5.0

`imgs` is ``<source>_<category>_<photo>_<object>`` with a suffix and perhaps folders before it. The source is
where the photo is from; it says nothing that category, photo and object do not, and is not compared.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

from ntdm.io.predictions import POSE_COLUMNS, SampleKey
from ntdm.io.progress import say
from ntdm.io.table import cell_text, check_header, number, read_rows

ANGLES = POSE_COLUMNS[:3]
OOD_CV_COLUMNS = ("imgs", "labels", *ANGLES, "distance")
_SOURCES = ("imagenet", "pascal", "collection")


def challenge_rows(
    path: Path, columns: Sequence[str] = OOD_CV_COLUMNS[:-1]
) -> Iterator[tuple[str, dict[str, str]]]:
    """File and line, and the cells by column, of every row of a table that has at least `columns`.

    Raises:
        ValueError: as :func:`ntdm.io.table.read_rows`; a column is missing.
    """
    rows = read_rows(path)
    _, header = next(rows)
    check_header(path, header, columns, None)
    for line, cells in rows:
        yield f"{path}, line {line}", dict(zip(header, cells, strict=True))


def challenge_angles(row: dict[str, str], where: str) -> list[float]:
    """Azimuth, elevation, theta of a row, degrees; nan: the prediction failed. ValueError names `where`."""
    angles = []
    for name in ANGLES:
        try:
            angle = number(row[name])
        except ValueError:
            angle = math.inf
        if math.isinf(angle):
            raise ValueError(
                f"{where}: {name} is {row[name]!r}, want a number, or nan for a failed prediction"
            )
        angles.append(angle)
    return angles


def object_name(image: str) -> str:
    """``<category>_<photo>_<object>`` of a cell of `imgs`: without folders, suffix and source."""
    stem = PureWindowsPath(image).stem  # which takes both kinds of slash
    return re.sub(rf"^({'|'.join(_SOURCES)})_", "", stem)


def challenge_sample(image: str, category: str, where: str) -> SampleKey:
    """The cache's key of a cell of `imgs`: category and ``<photo>_<object>``, the object in two digits.

    Raises:
        ValueError: it is spelt in another way (`where` named).
    """
    stem = PureWindowsPath(image).stem
    parts = re.fullmatch(rf"(?:{'|'.join(_SOURCES)})_{re.escape(category)}_(.+)_(\d+)", stem)
    if not parts:
        raise ValueError(f"{where}: {image!r} is not <source>_{category}_<image>_<object>.jpg")
    return SampleKey(category, f"{parts[1]}_{int(parts[2]):02d}")


def challenge_name(category: str, name: str) -> str:
    """`<source>_<category>_<image>_<object>`, as the OOD-CV challenge calls the crop of an object.

    The source is told from how its photos are called.

    Args:
        category: of the sample.
        name: of the sample, ``<image>_<object>``.

    Raises:
        ValueError: the name is not `<image>_<object>`.
    """
    image, _, index = name.rpartition("_")
    if not image or not index.isdecimal():
        raise ValueError(
            f"ood-cv: sample name {name!r} of {category} is not <image>_<object>, so the challenge's name "
            "of it is not known"
        )
    imagenet, voc = re.fullmatch(r"n\d{8}_\d+", image), re.fullmatch(r"\d{4}_\d{6}", image)
    source = "imagenet" if imagenet else "pascal" if voc else "collection"
    return f"{source}_{category}_{image}_{int(index)}"


def in_order_of(lines: Sequence[list[str]], order: Path) -> list[list[str]]:
    """Rows in the order, and under the names, of another table; nan where there is none.

    Args:
        lines: rows of OOD_CV_COLUMNS.
        order: a CSV with the columns imgs and labels.

    Raises:
        ValueError: as :func:`challenge_rows`; `order` names none of the rows.
    """
    asked = [(row["imgs"], row["labels"]) for _, row in challenge_rows(order, OOD_CV_COLUMNS[:2])]
    by_name = {object_name(line[0]): line[1:] for line in lines}
    missing = [image for image, _ in asked if object_name(image) not in by_name]
    if len(missing) == len(asked):
        first = lines[0][0] if lines else "none"
        raise ValueError(f"{order} names none of the samples, such as {first}")
    if missing:
        say(f"{len(missing)} of {len(asked)} rows of {order} are nan, not in the cache: {missing[0]}, ...")
    left = len(by_name.keys() - {object_name(image) for image, _ in asked})
    if left:
        say(f"{left} of {len(by_name)} samples are not in {order} and are left out")
    failed = [cell_text(math.nan)] * 4
    return [[image, *by_name.get(object_name(image), [label, *failed])] for image, label in asked]
