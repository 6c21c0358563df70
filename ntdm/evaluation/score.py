"""Errors of a split: its predictions compared with the truth of its cache files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdm.geometry import camera_np, metrics
from ntdm.io.cache import CacheFile
from ntdm.io.error_table import write_errors
from ntdm.io.predictions import FREE_POSE_COLUMNS, POSE_COLUMNS, read_geometry, read_predictions, rows_of
from ntdm.io.table import KEY_COLUMNS

BATCH = 128  # samples whose masks are in memory at once


class Scored(NamedTuple):
    """What :func:`score` wrote."""

    path: Path
    samples: int
    failed: int


def score(predictions: Path, cache_files: Iterable[Path], out: Path) -> Scored:
    """Compares a split's predictions with the truth of its cache files and writes the error CSV.

    Amodal IoU is measured when every sample has a CAD (cad_index >= 0), visible IoU when every cache file
    also has occluder masks; where only some samples have them, a mean over those would pass for the split's,
    so it is left unmeasured.

    Args:
        predictions: ``<run>/predictions/<dataset>/<split>.csv``; masks are read from the ``.h5`` beside it.
        cache_files: the cache files of that dataset and split, all categories that were predicted.
        out: ``<run>/errors/<dataset>/<split>.csv``.

    Raises:
        ValueError: predictions missing for a cached sample, or made for an unknown one (named), or masks of
            another size.
    """
    table = read_predictions(predictions)
    n = len(table)
    rotation, rotation_free, amodal, visible, amodal_free = (np.full(n, np.nan) for _ in range(5))
    seen, all_cads, all_occluders = np.zeros(n, bool), True, True
    beside = predictions.with_suffix(".h5")
    for path in cache_files:
        with CacheFile(path) as cache:
            names = [(cache.category, name) for name in cache["name"]]
            rows = rows_of(table, cache)
            seen[rows] = True
            truth = camera_np.rotation(cache["viewpoint"])
            for columns, errors in ((POSE_COLUMNS, rotation), (FREE_POSE_COLUMNS, rotation_free)):
                angles = np.stack([table[column][rows] for column in columns[:3]], -1)
                errors[rows] = metrics.rotation_error(camera_np.rotation(angles), truth)
            all_cads &= bool((cache["cad_index"] >= 0).all())
            all_occluders &= "occluder_mask" in cache
            if beside.exists():
                for start in range(0, len(rows), BATCH):
                    part = range(start, min(start + BATCH, len(rows)))
                    where = rows[start : start + BATCH]
                    found = read_geometry(beside, names[start : start + BATCH])
                    amodal[where] = _iou(found.amodal, cache, "amodal_mask", part, beside)
                    visible[where] = _iou(found.visible, cache, "visible_mask", part, beside)
                    amodal_free[where] = _iou(found.amodal_free, cache, "amodal_mask", part, beside)
    if not seen.all():
        row = int(np.flatnonzero(~seen)[0])
        raise ValueError(
            f"{predictions}, line {table.lines[row]}: sample {table.keys()[row]} "
            "is in none of the cache files given"
        )
    has_pose, has_free = table.measured("azimuth"), table.measured("free_azimuth")
    failed = ~np.isfinite(np.stack([table[c] for c in POSE_COLUMNS[:3]])).all(0) & has_pose
    failed_free = ~np.isfinite(np.stack([table[c] for c in FREE_POSE_COLUMNS[:3]])).all(0) & has_free
    columns_out: dict[str, Any] = {name: table[name] for name in KEY_COLUMNS}
    if has_pose:
        columns_out["rotation_error"] = rotation
    if has_free:
        columns_out["rotation_error_free"] = rotation_free
    for name, values, measurable, lost in (
        ("amodal_iou", amodal, all_cads, failed),
        ("visible_iou", visible, all_cads and all_occluders, failed),
        ("amodal_iou_free", amodal_free, all_cads, failed_free),
    ):
        if measurable and not np.isnan(values).any():
            columns_out[name] = np.where(lost, 0.0, values)
    if table.measured("predicted_category"):
        columns_out["class_correct"] = (table["predicted_category"] == table["category"]).astype(int)
    if table.measured("seconds"):
        columns_out["seconds"] = table["seconds"]
    return Scored(write_errors(out, columns_out), n, int(failed.sum()))


def _iou(
    predicted: NDArray[np.uint8] | None, cache: CacheFile, truth: str, samples: range, path: Path
) -> NDArray[np.float64]:
    """IoU of predicted masks [n, H, W] with those of the cache's `samples`; nan where there is no mask."""
    if predicted is None:
        return np.full(len(samples), np.nan)
    if predicted.shape[1:] != cache.image_size:
        raise ValueError(
            f"{path}: masks are {predicted.shape[1:]}, those of {cache.path} {cache.image_size} (H, W)"
        )
    return metrics.iou(predicted, np.stack([cache.read(truth, i) for i in samples]))
