"""Prediction files of a run (docs/formats.md): schema, reading, joining to the cache.

    <run>/predictions/<dataset>/<split>.csv    one row a sample: pose, predicted category, score, seconds
    <run>/predictions/<dataset>/<split>.h5     what does not fit a cell: masks, shape latent, scale
    <run>/errors/<dataset>/<split>.csv         one row a sample: the errors; all that the reports read

Radians everywhere. In a prediction file an empty column means "this method does not predict it", and the
text ``nan`` in a pose means "this prediction failed". Ground truth never stands in a prediction file;
:func:`ntdm.evaluation.score.score` joins it from the cache. The error file is described in ntdm/io/table.py.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ntdm.io.cache import CacheFile
from ntdm.io.table import KEY_COLUMNS, ROUNDING, Table, read_table, refuse

POSE_COLUMNS = ("azimuth", "elevation", "theta", "distance")
FREE_POSE_COLUMNS = tuple(f"free_{name}" for name in POSE_COLUMNS)
PREDICTION_COLUMNS = (
    *KEY_COLUMNS, "predicted_category", *POSE_COLUMNS, "score", "seconds", *FREE_POSE_COLUMNS,
)  # fmt: skip

SCHEMA, SCHEMA_VERSION = "ntdm-predictions", 1


class Prediction(NamedTuple):
    """One row of a prediction file. Angles in radians, distances in CAD units.

    None: not predicted by this method. A pose of NaN: the prediction failed.

    Attributes:
        dataset: of the sample.
        split: of the sample.
        category: key of the cache file, and the class under which pose and masks were fitted.
        name: of the sample.
        predicted_category: the method's choice.
        azimuth: of the camera around the object, as PASCAL3D+ counts.
        elevation: of the camera.
        theta: in-plane rotation.
        distance: of the camera from the object.
        score: higher is better.
        seconds: time a photo.
        free_azimuth: of the pose fitted under `predicted_category`.
        free_elevation: of that pose.
        free_theta: of that pose.
        free_distance: of that pose.
    """

    dataset: str
    split: str
    category: str
    name: str
    predicted_category: str | None
    azimuth: float | None
    elevation: float | None
    theta: float | None
    distance: float | None
    score: float | None
    seconds: float | None
    free_azimuth: float | None = None
    free_elevation: float | None = None
    free_theta: float | None = None
    free_distance: float | None = None


@dataclass(frozen=True)
class DenseOutputs:
    """What an HDF5 prediction file holds beside its keys; None where a method does not predict it.

    Attributes:
        amodal: u8 [N, H, W], 0 or 1, on the crop grid of the cache.
        visible: as `amodal`.
        latent: f32 [N, K]; categories with fewer CADs than K are padded with NaN.
        scale: f32 [N], the fitted s'.
        amodal_free: as `amodal`, under the predicted category.
    """

    amodal: NDArray[np.uint8] | None = None
    visible: NDArray[np.uint8] | None = None
    latent: NDArray[np.float32] | None = None
    scale: NDArray[np.float32] | None = None
    amodal_free: NDArray[np.uint8] | None = None

    def items(self) -> list[tuple[str, NDArray[Any]]]:
        """(field, array) for every field that is there."""
        pairs = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return [(name, np.asarray(value)) for name, value in pairs if value is not None]


def read_predictions(path: Path) -> Table:
    """A prediction CSV, validated; ValueError names file, column and line.

    Refused: missing, unknown or duplicate columns, duplicate samples, columns with holes, angles beyond a
    full turn (degrees).
    """
    table = read_table(path, PREDICTION_COLUMNS, (), failed_allowed=(*POSE_COLUMNS, *FREE_POSE_COLUMNS))
    for column in (c for c in (*POSE_COLUMNS, *FREE_POSE_COLUMNS) if not c.endswith("distance")):
        refuse(
            table,
            column,
            np.abs(table[column]) > 2 * math.pi + ROUNDING,
            "radians are wanted; is it in degrees?",
        )
    return table


def rows_of(table: Table, file: CacheFile) -> list[int]:
    """The row of `table` for each sample of a cache file, in the file's order.

    Raises ValueError: a sample has no prediction, or one made for another dataset or split.
    """
    place = {key: row for row, key in enumerate(table.keys())}
    keys = [(file.category, name) for name in file["name"]]
    missing = [key for key in keys if key not in place]
    if missing:
        raise ValueError(
            f"{table.path} has no prediction for {len(missing)} of the {len(keys)} samples of {file.path}, "
            f"the first is {missing[0]}: write a failed prediction as a row with nan for its pose"
        )
    rows = [place[key] for key in keys]
    for column in ("dataset", "split"):
        wrong = [row for row in rows if table[column][row] != getattr(file, column)]
        if wrong:
            raise ValueError(
                f"{table.path}, line {table.lines[wrong[0]]}: {column} is {str(table[column][wrong[0]])!r}, "
                f"but {file.path} is {getattr(file, column)!r}"
            )
    return rows


def made_with(path: Path) -> dict[str, Any]:
    """The config stored with a prediction ``.csv``, in the ``.h5`` beside it; empty where there is none."""
    beside = path.with_suffix(".h5")
    if not beside.exists():
        return {}
    with _open_geometry(beside) as file:
        return dict(json.loads(file.attrs.get("config", "{}")))


def read_geometry(path: Path, keys: Sequence[tuple[str, str]]) -> DenseOutputs:
    """Masks, latents and scales of samples, in the order that they are asked for.

    Args:
        path: the ``.h5`` (or the ``.csv`` beside it).
        keys: (category, name) of each sample.

    Raises:
        ValueError: not a whole prediction file, or a sample that it does not hold.
    """
    path = path.with_suffix(".h5")
    with _open_geometry(path) as file:
        place = _places(file)
        missing = [key for key in keys if key not in place]
        if missing:
            raise ValueError(f"{path} has no sample {missing[0]}: predict this split again")
        where = [place[key] for key in keys]
        return DenseOutputs(**{
            field.name: np.stack([file[field.name][i] for i in where]) if where else file[field.name][:0]
            for field in dataclasses.fields(DenseOutputs) if field.name in file
        })  # fmt: skip


def _open_geometry(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, locking=False)
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from None
    if file.attrs.get("schema") != SCHEMA or not file.attrs.get("complete", False):
        file.close()
        raise ValueError(f"{path} is not a finished {SCHEMA} file: run evaluate again")
    if file.attrs["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema version {file.attrs['schema_version']}, want {SCHEMA_VERSION}")
    return file


def _places(file: h5py.File) -> dict[tuple[str, str], int]:
    names = zip(file["category"].asstr()[:], file["name"].asstr()[:], strict=True)
    return {key: i for i, key in enumerate(names)}


class SampleKey(NamedTuple):
    """The key of a sample of the truth."""

    category: str
    name: str
