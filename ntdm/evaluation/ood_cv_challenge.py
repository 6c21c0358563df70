"""The OOD-CV challenge's table of poses."""

import csv
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ntdm.io.predictions import SampleKey
from ntdm.io.progress import say
from ntdm.io.table import cell_text

OOD_CV_COLUMNS = ("imgs", "labels", "azimuth", "elevation", "theta", "distance")


def challenge_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """File and line, and the cells, of every row of a table in the challenge's columns."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in OOD_CV_COLUMNS[:-1] if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(
                    f"{path}, line 1: column {missing[0]} is missing; want {','.join(OOD_CV_COLUMNS)}"
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{where}: it has not as many cells as the header")
                yield where, row
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from None


def challenge_sample(image: str, category: str, where: str) -> SampleKey:
    """`<source>_<category>_<image>_<object>.jpg` as the cache calls it, `<image>_<object>` in two digits."""
    parts = re.fullmatch(
        rf"(?:imagenet|pascal|collection)_{re.escape(category)}_(.+)_(\d+)", Path(image).stem
    )
    if not parts:
        raise ValueError(f"{where}: {image!r} is not <source>_{category}_<image>_<object>.jpg")
    return SampleKey(category, f"{parts[1]}_{int(parts[2]):02d}")


def challenge_name(category: str, name: str) -> str:
    """`<source>_<category>_<image>_<object>`, as the OOD-CV challenge calls the crop of an object.

    Raises ValueError when a sample's name is not `<image>_<object>`.
    """
    image, _, number = name.rpartition("_")
    if not image or not number.isdecimal():
        raise ValueError(
            f"ood-cv: sample name {name!r} of {category} is not <image>_<object>, so the challenge's name "
            "of it is not known"
        )
    imagenet, voc = re.fullmatch(r"n\d{8}_\d+", image), re.fullmatch(r"\d{4}_\d{6}", image)
    source = "imagenet" if imagenet else "pascal" if voc else "collection"
    return f"{source}_{category}_{image}_{int(number)}"


def in_order_of(lines: Sequence[list[str]], order: Path) -> list[list[str]]:
    """The lines under the names, and in the order, of the CSV `order`; nan where there is none."""
    try:
        with open(order, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"imgs", "labels"} <= set(reader.fieldnames or ()):
                raise ValueError(
                    f"{order}, line 1: columns imgs and labels are wanted, found {reader.fieldnames}"
                )
            wanted = [(row["imgs"], row["labels"]) for row in reader]
    except FileNotFoundError:
        raise ValueError(f"{order} does not exist") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{order} is not a CSV file: {error}") from None
    found = {line[0]: line for line in lines}
    missing = [image for image, _ in wanted if image not in found]
    if len(missing) == len(wanted):
        raise ValueError(f"{order} names none of the samples, such as {next(iter(found), 'none')}")
    if missing:
        say(f"{len(missing)} of {len(wanted)} rows of {order} are nan, not in the cache: {missing[0]}, ...")
    left = len(found.keys() - {image for image, _ in wanted})
    if left:
        say(f"{left} of {len(found)} samples are not in {order} and are left out")
    nothing = [cell_text(math.nan)] * 4
    return [found.get(image, [image, label, *nothing]) for image, label in wanted]
