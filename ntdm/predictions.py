"""Prediction files of a run (docs/formats.md): schema, writing, reading, joining to the cache.

    <run>/predictions/<dataset>/<split>.csv    one row a sample: pose, predicted category, score, seconds
    <run>/predictions/<dataset>/<split>.h5     what does not fit a cell: masks, shape latent, scale
    <run>/errors/<dataset>/<split>.csv         one row a sample: the errors; all that the reports read

Radians everywhere. In a prediction file an empty column means "this method does not predict it", and the
text ``nan`` in a pose means "this prediction failed". Ground truth never stands in a prediction file;
:func:`ntdm.scoring.score` joins it from the cache. The error file is described in ntdm/sample_table.py.
"""

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import shutil
import weakref
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ntdm.cache import CacheFile
from ntdm.outputs import atomic_hdf5, atomic_path
from ntdm.sample_table import (
    KEY_COLUMNS,
    ROUNDING,
    Table,
    cell_text,
    read_table,
    refuse,
    write_csv,
)

POSE_COLUMNS = ("azimuth", "elevation", "theta", "distance")
FREE_POSE_COLUMNS = tuple(f"free_{name}" for name in POSE_COLUMNS)
PREDICTION_COLUMNS = (
    *KEY_COLUMNS, "predicted_category", *POSE_COLUMNS, "score", "seconds", *FREE_POSE_COLUMNS,
)  # fmt: skip

SCHEMA, SCHEMA_VERSION = "ntdm-predictions", 1


class Prediction(NamedTuple):
    """One row of a prediction file. Angles in radians, distances in CAD units.

    `category` is the key of the cache file and the class under which pose and masks were fitted; the free
    pose is the one fitted under `predicted_category`. None: not predicted by this method. NaN pose: failed.
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
class Geometry:
    """What an HDF5 prediction file holds beside its keys; None where a method does not predict it.

    amodal, visible: u8 [N, H, W], 0 or 1, on the crop grid of the cache. latent: f32 [N, K]; categories with
    fewer CADs than K are padded with NaN. scale: f32 [N], the fitted s'. amodal_free: the amodal mask
    under the predicted category.
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


class PredictionWriter:
    """Writes a split's prediction files batch by batch; an interrupted run goes on where it stopped.

    Every batch is a file of its own in a hidden folder beside the final files, which one writer at a time may
    hold; :meth:`finish` joins them, sorted by category and name, and only then do the final names exist.

    Args:
        path: the final ``.csv``; the ``.h5`` stands beside it.
        made_with: the config, JSON-ready; stored in the ``.h5``. Batches made with another one are refused.
        overwrite: begin anew, whatever batches are there.
        helps: adds batches for another process's writer, which holds the folder and joins them in the end.
    """

    def __init__(
        self, path: Path, made_with: Mapping[str, Any], overwrite: bool = False, helps: bool = False
    ) -> None:
        self.path = path
        self.made_with = dict(made_with)
        self.folder = path.with_name(f".{path.stem}.parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / "config.json"
        if not helps:
            self._unlock = weakref.finalize(self, os.close, self._locked())
            if overwrite or not note.exists():  # batches without a note are what a removal left
                for part in (*self._parts(), note):
                    part.unlink(missing_ok=True)
        if note.exists() and self._parts():
            if _read_note(note) != json.loads(json.dumps(self.made_with)):
                raise ValueError(
                    f"{self.folder} holds unfinished predictions of another config: "
                    "delete it, or finish them with the config they were begun with"
                )
        else:
            with atomic_path(note) as temporary:
                temporary.write_text(json.dumps(self.made_with))
        self.done = self._predicted()

    def add(self, rows: Sequence[Prediction], geometry: Geometry | None = None) -> None:
        """Stores a batch of rows (n) and its geometry (arrays of n), safe once this returns.

        Angles are wrapped: azimuth to [0, 2 pi), the others to (-pi, pi].
        """
        if not rows:
            return
        keys = [(row.category, row.name) for row in rows]
        again = self.done.intersection(keys)
        if again or len(set(keys)) < len(keys):
            raise ValueError(f"{self.path}: sample {sorted(again or keys)[0]} is predicted twice")
        arrays = dict((geometry or Geometry()).items())
        for name, array in arrays.items():
            if len(array) != len(rows):
                raise ValueError(f"{self.path}: {name} has {len(array)} entries for {len(rows)} rows")
        members: dict[str, Any] = {
            column: np.array([cell_text(_wrapped(column, getattr(row, column))) for row in rows])
            for column in PREDICTION_COLUMNS
        }
        members |= {f"geometry_{name}": array for name, array in arrays.items()}
        assert not any(array.dtype.hasobject for array in members.values()), "numpy would pickle it"
        stamp = hashlib.sha256(repr(keys).encode()).hexdigest()[:20]
        with atomic_path(self.folder / f"{stamp}.npz") as temporary:
            np.savez(temporary, **members)
        self.done.update(keys)

    def finish(self, wanted: Collection[tuple[str, str]] = ()) -> Path:
        """Joins the batches into the final ``.h5`` and ``.csv`` and removes them; returns the ``.csv``.

        Raises ValueError when a sample of `wanted` (category, name) has no prediction yet.
        """
        self.done = self._predicted()
        missing = sorted(set(wanted) - self.done)
        if missing:
            raise ValueError(f"{self.path}: {len(missing)} samples are not predicted, such as {missing[0]}")
        rows: list[tuple[tuple[str, ...], Path, int]] = []
        for part in self._parts():
            with np.load(part, allow_pickle=False) as batch:
                columns = [batch[column].tolist() for column in PREDICTION_COLUMNS]
            rows += [(row, part, i) for i, row in enumerate(zip(*columns, strict=True))]
        rows.sort(key=lambda row: row[0][:4])
        # The CSV is the sign that a split is finished, so it gets its name last.
        with atomic_hdf5(self.path.with_suffix(".h5")) as file:
            self._join_geometry(file, rows)
        with atomic_path(self.path) as temporary:
            write_csv(temporary, PREDICTION_COLUMNS, (row for row, _, _ in rows))
        remove_parts(self.path)
        self._unlock()
        return self.path

    def _predicted(self) -> set[tuple[str, str]]:
        """(category, name) of the samples that have a prediction so far."""
        done: set[tuple[str, str]] = set()
        for part in self._parts():
            try:
                with np.load(part, allow_pickle=False) as batch:
                    done.update(zip(batch["category"].tolist(), batch["name"].tolist(), strict=True))
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise ValueError(f"{part} is damaged ({error}): delete it, and run the same again") from None
        return done

    def _locked(self) -> int:
        """A lock on the folder of batches, gone with this object; ValueError where another holds it."""
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(self.folder).st_ino != os.fstat(lock).st_ino:  # another's, made since
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            os.close(lock)
            raise ValueError(
                f"{self.path}: another process predicts this split; wait until it has finished"
            ) from None
        return lock

    def _parts(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("*.npz") if not p.name.startswith("."))

    def _join_geometry(self, file: h5py.File, rows: list[tuple[tuple[str, ...], Path, int]]) -> None:
        place = {(part, i): where for where, (_, part, i) in enumerate(rows)}
        file.attrs.update(schema=SCHEMA, schema_version=SCHEMA_VERSION, config=json.dumps(self.made_with))
        for column in ("category", "name"):
            values = [row[PREDICTION_COLUMNS.index(column)] for row, _, _ in rows]
            file.create_dataset(column, data=np.array(values, dtype=object), dtype=h5py.string_dtype())
        shapes = self._geometry_shapes()
        for name, (shape, dtype) in shapes.items():
            mask = dtype == np.uint8
            file.create_dataset(
                name, (len(rows), *shape), dtype, chunks=(1, *shape),
                fillvalue=0 if mask else np.nan, compression="lzf" if mask else None,
            )  # fmt: skip
        for part in self._parts():
            with np.load(part, allow_pickle=False) as batch:
                for name in shapes:
                    for i, value in enumerate(batch[f"geometry_{name}"]):
                        index = (place[part, i], *(slice(0, n) for n in value.shape))
                        file[name][index] = value
        file.attrs["complete"] = True

    def _geometry_shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
        names: set[str] | None = None
        for part in self._parts():
            with np.load(part, allow_pickle=False) as batch:
                found = {name for name in batch.files if name.startswith("geometry_")}
                if names is not None and names != found:
                    raise ValueError(f"{self.path}: some batches have {sorted(names ^ found)} and others not")
                names = found
                for name in found:
                    array, key = batch[name], name.removeprefix("geometry_")
                    old = shapes.get(key, (array.shape[1:], array.dtype))[0]
                    if key != "latent" and old != array.shape[1:]:
                        raise ValueError(
                            f"{self.path}: {key} is {old} in one batch, {array.shape[1:]} in another"
                        )
                    shapes[key] = tuple(map(max, old, array.shape[1:])), array.dtype
        return dict(sorted(shapes.items()))


def remove_parts(path: Path) -> None:
    """Remove the batches of a finished split whose table is `path`, where there are any left."""
    folder = path.with_name(f".{path.stem}.parts")
    if folder.exists():
        shutil.rmtree(folder)


def _read_note(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete {path.parent}, and run the same again"
        ) from None


def write_predictions(
    path: Path,
    rows: Sequence[Prediction],
    geometry: Geometry | None = None,
    made_with: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a whole split's prediction files at once; see :class:`PredictionWriter`."""
    writer = PredictionWriter(path, made_with or {})
    writer.add(rows, geometry)
    return writer.finish()


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


def read_geometry(path: Path, keys: Sequence[tuple[str, str]]) -> Geometry:
    """Masks, latents and scales of the samples `keys` ((category, name)), in that order.

    Args:
        path: the ``.h5`` (or the ``.csv`` beside it).

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
        return Geometry(**{
            field.name: np.stack([file[field.name][i] for i in where]) if where else file[field.name][:0]
            for field in dataclasses.fields(Geometry) if field.name in file
        })  # fmt: skip


def _open_geometry(path: Path) -> h5py.File:
    try:
        file = h5py.File(path)
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


def _wrapped(column: str, value: Any) -> Any:
    angle = column.removeprefix("free_")
    if value is None or angle not in POSE_COLUMNS[:3] or not math.isfinite(value):
        return value
    if angle == "azimuth":
        # The outer % takes care of a tiny negative angle, whose remainder rounds up to 2 pi itself.
        return float(value) % (2 * math.pi) % (2 * math.pi)
    if not -math.pi < value <= math.pi:
        value = math.remainder(value, 2 * math.pi)
    return math.pi if value == -math.pi else value
