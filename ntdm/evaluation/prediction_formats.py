"""Prediction files of other programs, read: our CSV, the OOD-CV challenge's CSV, NeMo's .npz.

    csv      our prediction CSV (docs/formats.md), radians; only the key and the three angles are needed, and
             these are empty columns for a method that predicts no pose but a category
    ood-cv   imgs,labels,azimuth,elevation,theta[,distance], degrees; labels is the photo's category, as in
             the challenge's own tables, and is not read
    nemo     photo name -> distance, theta, elevation, azimuth (radians), and what follows

Each gives one :class:`Prediction` a sample. ValueError names file and line, or the field of an archive: what
is no number, a photo that is none of the samples, two predictions of one, degrees in the place of radians.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ntdm.config.protocol import CATEGORIES
from ntdm.evaluation.ood_cv_challenge import (
    ANGLES,
    challenge_angles,
    challenge_name,
    challenge_rows,
    object_name,
)
from ntdm.io import untrusted
from ntdm.io.predictions import FREE_POSE_COLUMNS, POSE_COLUMNS, PREDICTION_COLUMNS, Prediction, SampleKey
from ntdm.io.table import KEY_COLUMNS, ROUNDING, read_table, refuse

# Fewer small angles than these could be true by chance.
_ENOUGH_ROWS = 10


class Imported(NamedTuple):
    """A prediction and the place that it was read from."""

    where: str  # file and line, or field, for messages
    prediction: Prediction


Imports = dict[SampleKey, Imported]


@dataclass(frozen=True)
class Truth:
    """The samples of a split.

    Attributes:
        where: the cache folder or label table, for messages.
        dataset: of the split.
        split: its name.
        samples: in its order.
        digest: of the cache files; empty for a label table, which stands beside any cache of its split.
        viewpoint: f64 [N, 3] radians, of a label table; None for a cache, which is scored by its own files.
        paths: the cache files.
    """

    where: Path
    dataset: str
    split: str
    samples: tuple[SampleKey, ...]
    digest: str
    viewpoint: np.ndarray | None
    paths: tuple[Path, ...] = ()


def _read_csv(files: Sequence[Path], truth: Truth) -> Imports:
    optional = [column for column in PREDICTION_COLUMNS if column not in (*KEY_COLUMNS, *ANGLES)]
    imports: Imports = {}
    for path in files:
        table = read_table(path, (*KEY_COLUMNS, *ANGLES), optional, (*POSE_COLUMNS, *FREE_POSE_COLUMNS))
        for column in (*ANGLES, *FREE_POSE_COLUMNS[:3]):
            if table.measured(column):
                too_far = np.abs(table[column]) > 2 * math.pi + ROUNDING
                refuse(table, column, too_far, "radians are wanted; is it in degrees?")
        for angles in (ANGLES, FREE_POSE_COLUMNS[:3]):
            measured = {column: table.measured(column) for column in angles}
            if len(set(measured.values())) > 1:
                has, lacks = max(measured, key=measured.__getitem__), min(measured, key=measured.__getitem__)
                raise ValueError(f"{path}: column {lacks} is empty, but {has} is not")
        if len(table) and not table.measured("azimuth") and not table.measured("predicted_category"):
            raise ValueError(f"{path}: azimuth and predicted_category are both empty: nothing is predicted")
        if table.measured("seconds"):
            refuse(table, "seconds", table["seconds"] < 0, "a non-negative number is wanted")
        for i, key in enumerate(table.keys()):
            where = f"{path}, line {table.lines[i]}"
            for column, want in (("dataset", truth.dataset), ("split", truth.split)):
                if table[column][i] != want:
                    raise ValueError(f"{where}: {column} is {str(table[column][i])!r}, want {want!r}")
            cells = {name: table[name][i].item() for name in PREDICTION_COLUMNS if table.measured(name)}
            _add(imports, Imported(where, _prediction(truth, SampleKey(*key), **cells)))
    return imports


def _read_ood_cv(files: Sequence[Path], truth: Truth) -> Imports:
    names = {object_name(f"{challenge_name(*sample)}.jpg"): sample for sample in truth.samples}
    imports: Imports = {}
    for path in files:
        largest, azimuths = 0.0, set()
        for where, row in challenge_rows(path):
            sample = names.get(object_name(row["imgs"]))
            if sample is None:
                raise ValueError(f"{where}: {row['imgs']} is none of the samples of {truth.where}")
            degrees = challenge_angles(row, where)
            largest = max([largest, *(abs(a) for a in degrees if math.isfinite(a))])
            if math.isfinite(degrees[0]):
                azimuths.add(degrees[0])
            angles = dict(zip(ANGLES, map(math.radians, degrees), strict=True))
            read = Imported(where, _prediction(truth, sample, **angles))
            before = imports.get(sample)
            # The challenge's own list of iid names four objects twice, and so do predictions for it.
            if before is None or not _same_pose(before, read):
                _add(imports, read)
        if len(azimuths) >= _ENOUGH_ROWS and largest <= 2 * math.pi:
            raise ValueError(
                f"{path}: no angle of its {len(azimuths)} different azimuths exceeds {largest:.2f}: this "
                "format is in degrees; is the file in radians?"
            )
    return imports


def _read_nemo(files: Sequence[Path], truth: Truth) -> Imports:
    imports: Imports = {}
    for path in files:
        category = re.match(rf"({'|'.join(CATEGORIES)})(?![a-z])", path.stem)
        names = _nemo_names(truth, category[1] if category else None)
        for photo, values in _npz(path).items():
            where = f"{path}, field {photo}"
            samples = names.get(photo, [])
            if len(samples) != 1:
                said = "stands for several samples" if samples else "is none of the samples"
                raise ValueError(f"{where}: {photo} {said} of {truth.where}")
            if values.dtype.kind not in "fiu" or values.size < 4:
                raise ValueError(
                    f"{where} is {values.dtype} {values.shape}: want distance, theta, elevation, azimuth"
                )
            pose = dict(zip(reversed(POSE_COLUMNS), map(float, values.ravel()[:4]), strict=True))
            for name in ANGLES:
                # theta is free to wind up while it is optimised, the others follow from a position.
                if abs(pose[name]) > (4 if name == "theta" else 2) * math.pi + ROUNDING:
                    raise ValueError(
                        f"{where}: {name} is {pose[name]:g}; radians are wanted; is it in degrees?"
                    )
            _add(imports, Imported(where, _prediction(truth, samples[0], **pose)))
    return imports


def _prediction(truth: Truth, sample: SampleKey, **fields: Any) -> Prediction:
    """The prediction of a sample; what is not among the fields is not predicted."""
    values = (fields.get(column) for column in PREDICTION_COLUMNS[len(KEY_COLUMNS) :])
    return Prediction(truth.dataset, truth.split, *sample, *values)


def _nemo_names(truth: Truth, category: str | None) -> dict[str, list[SampleKey]]:
    """What NeMo may call a sample: with the object's number, and without where that is 0."""
    names: dict[str, list[SampleKey]] = {}
    for sample in truth.samples:
        if category in (None, sample.category):
            names.setdefault(sample.name, []).append(sample)
            image, _, number = sample.name.rpartition("_")
            if number == "00":
                names.setdefault(image, []).append(sample)
    return names


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            data = file.read(untrusted.LARGEST + 1)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > untrusted.LARGEST:
        raise ValueError(f"{path} has more than {untrusted.LARGEST} bytes: give one archive a category")
    fields = untrusted.unpack(data, path)
    if "total_error" in fields:
        raise ValueError(
            f"{path} holds total_error, errors without the names of their photos, so that it cannot be told "
            "what they are of; give the predictions (photo name -> distance, theta, elevation, azimuth)"
        )
    return fields


FORMATS: dict[str, Callable[[Sequence[Path], Truth], Imports]] = {
    "csv": _read_csv,
    "ood-cv": _read_ood_cv,
    "nemo": _read_nemo,
}


def _add(imports: Imports, read: Imported) -> None:
    sample = SampleKey(read.prediction.category, read.prediction.name)
    if sample in imports:
        raise ValueError(
            f"{read.where}: {sample.category} {sample.name} is predicted already in {imports[sample].where}"
        )
    imports[sample] = read


def _same_pose(a: Imported, b: Imported) -> bool:
    first, second = (np.array([getattr(read.prediction, angle) for angle in ANGLES]) for read in (a, b))
    return np.array_equal(first, second, equal_nan=True)
