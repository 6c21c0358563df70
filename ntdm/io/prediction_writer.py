"""Writing prediction files, batch by batch (docs/formats.md; the files: ntdm/io/predictions.py)."""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import weakref
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ntdm.io.outputs import atomic_hdf5, atomic_path
from ntdm.io.predictions import (
    POSE_COLUMNS,
    PREDICTION_COLUMNS,
    SCHEMA,
    SCHEMA_VERSION,
    DenseOutputs,
    Prediction,
)
from ntdm.io.progress import say
from ntdm.io.table import cell_text, write_csv


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

    def add(self, rows: Sequence[Prediction], geometry: DenseOutputs | None = None) -> None:
        """Stores a batch of rows (n) and its geometry (arrays of n), safe once this returns.

        Angles are wrapped: azimuth to [0, 2 pi), the others to (-pi, pi].
        """
        if not rows:
            return
        keys = [(row.category, row.name) for row in rows]
        again = self.done.intersection(keys)
        if again or len(set(keys)) < len(keys):
            raise ValueError(f"{self.path}: sample {sorted(again or keys)[0]} is predicted twice")
        arrays = dict((geometry or DenseOutputs()).items())
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
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                text = "this file system has no locks; see that no other process predicts this split"
                say(f"{self.folder}: {text}")
                return lock
            if not isinstance(error, BlockingIOError | FileNotFoundError):
                raise
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
    geometry: DenseOutputs | None = None,
    made_with: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a whole split's prediction files at once; see :class:`PredictionWriter`."""
    writer = PredictionWriter(path, made_with or {})
    writer.add(rows, geometry)
    return writer.finish()


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
