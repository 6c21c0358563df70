"""Metrics of runs by column and category, with 95 % bootstrap intervals.

Photos are resampled with replacement, 1000 times, within each split; all methods and metrics of a split see
the same resamples. The interval is from the 2.5th to the 97.5th percentile of the resampled means. Where all
photos are right, or none, it has no width: the bootstrap knows no photo but these.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ntdm.geometry import metrics
from ntdm.io.table import Table
from ntdm.reports.runs import Run

RESAMPLES = 1000
ALL, CLASS_MEAN = "all", "class mean"  # in the place of a category: every photo; the mean of the categories
MEAN, MEAN_MACRO = "mean", "mean_macro"  # in the place of a column: over all photos; the mean of the columns
MEDIAN = "median_error_deg"

_AT_ONCE = 64  # resamples whose counts are in memory together


@dataclass(frozen=True)
class Metric:
    """A mean over photos, in percent, of an error column: its values, or the share below a threshold."""

    label: str
    column: str
    threshold: float | None = None  # radians

    def of(self, table: Table) -> NDArray[np.float64]:
        """[N], of which the mean is the metric."""
        values = table[self.column]
        found = values if self.threshold is None else values < self.threshold
        return 100.0 * found.astype(np.float64)


METRICS = {
    "pose_acc_pi_6": Metric("Pose accuracy at π/6", "rotation_error", metrics.PI_6),
    "pose_acc_pi_18": Metric("Pose accuracy at π/18", "rotation_error", metrics.PI_18),
    "amodal_iou": Metric("Amodal IoU", "amodal_iou"),
    "class_acc": Metric("Class accuracy", "class_correct"),
}
# Beside the tables, in the breakdown only.
FURTHER = {
    "visible_iou": Metric("Visible IoU", "visible_iou"),
    "pose_acc_pi_6_free": Metric("Class-free pose accuracy at π/6", "rotation_error_free", metrics.PI_6),
    "pose_acc_pi_18_free": Metric("Class-free pose accuracy at π/18", "rotation_error_free", metrics.PI_18),
    "amodal_iou_free": Metric("Class-free amodal IoU", "amodal_iou_free"),
}
LABELS = {name: metric.label for name, metric in (METRICS | FURTHER).items()} | {
    MEDIAN: "Median pose error, degrees"
}


@dataclass(frozen=True)
class Estimate:
    """A number of a table and its 95 % interval; a published number has no interval and no n.

    Percent, but for the median error in degrees.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Key:
    """What an estimate is of; `category` may be ALL or CLASS_MEAN, `column` MEAN or MEAN_MACRO."""

    method: str
    metric: str
    category: str
    column: str


@dataclass(frozen=True)
class _Drawn:
    """A mean over n photos and what it is in every resample [RESAMPLES]."""

    value: float
    n: int
    means: NDArray[np.float64]

    def estimate(self) -> Estimate:
        low, high = np.percentile(self.means, (2.5, 97.5))
        return Estimate(self.value, float(low), float(high), self.n)


def estimate(runs: Sequence[Run], splits: Mapping[str, str], means: bool) -> dict[Key, Estimate]:
    """Every metric that is measured, by category and column.

    Args:
        runs: with the same samples in a split that two of them have (runs.check_comparable).
        splits: column -> ``dataset/split``.
        means: whether the columns MEAN and MEAN_MACRO follow; only where every split is measured.
    """
    drawn: dict[Key, _Drawn] = {}
    for column, split in splits.items():
        drawn |= _of_split(runs, column, split)
    if means:
        drawn |= _over_columns(drawn, tuple(splits))
    return {key: found.estimate() for key, found in drawn.items()} | _medians(runs, splits, means)


def _of_split(runs: Sequence[Run], column: str, split: str) -> dict[Key, _Drawn]:
    measured = {
        (run.method, name): metric.of(run.errors[split])
        for run in runs
        if split in run.errors
        for name, metric in (METRICS | FURTHER).items()
        if run.errors[split].measured(metric.column)
    }
    if not measured:
        return {}
    # Rows are photos, in one order in all runs; columns (method, metric).
    values = pd.DataFrame(measured)
    category = next(run.errors[split]["category"] for run in runs if split in run.errors)
    drawn: dict[Key, _Drawn] = {}
    groups = dict(list(values.groupby(category, sort=True)))
    for name, part in {ALL: values, **groups}.items():
        array = part.to_numpy()
        resampled = resampled_means(array, f"{split}/{name}")
        for j, (method, metric) in enumerate(measured):
            drawn[Key(method, metric, name, column)] = _Drawn(
                float(array[:, j].mean()), len(array), resampled[:, j]
            )
    for method, metric in measured:
        parts = [drawn[Key(method, metric, name, column)] for name in groups]
        drawn[Key(method, metric, CLASS_MEAN, column)] = _macro(parts)
    return drawn


def resampled_means(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Means of `values` [n, M] over photos drawn with replacement, [RESAMPLES, M].

    The draws follow from `name` and n alone, so that a method has the same interval in every report.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    n, means = len(values), []
    for start in range(0, RESAMPLES, _AT_ONCE):
        picks = generator.integers(0, n, (min(_AT_ONCE, RESAMPLES - start), n))
        counts = np.stack([np.bincount(pick, minlength=n) for pick in picks]).astype(np.float64)
        means.append(counts @ values / n)
    return np.concatenate(means)


def _over_columns(drawn: Mapping[Key, _Drawn], columns: Sequence[str]) -> dict[Key, _Drawn]:
    """Means over the columns; a category that a column does not show is missing there for all methods."""
    found = {}
    rows = dict.fromkeys((key.method, key.metric, key.category) for key in drawn)
    for method, metric, category in rows:
        whole = all(Key(method, metric, ALL, column) in drawn for column in columns)
        keys = [Key(method, metric, category, column) for column in columns]
        parts = [drawn[key] for key in keys if key in drawn]
        if whole and category != CLASS_MEAN:
            n = sum(part.n for part in parts)
            found[Key(method, metric, category, MEAN)] = _Drawn(
                sum(part.n * part.value for part in parts) / n,
                n,
                sum((part.n * part.means for part in parts), np.zeros(RESAMPLES)) / n,
            )
        if whole:
            found[Key(method, metric, category, MEAN_MACRO)] = _macro(parts)
    return found


def _macro(parts: Sequence[_Drawn]) -> _Drawn:
    return _Drawn(
        sum(part.value for part in parts) / len(parts),
        sum(part.n for part in parts),
        np.mean([part.means for part in parts], 0),
    )


def _medians(runs: Sequence[Run], splits: Mapping[str, str], means: bool) -> dict[Key, Estimate]:
    medians = {}
    for run in runs:
        parts = [
            pd.DataFrame({"column": column, "category": table["category"], "error": table["rotation_error"]})
            for column, split in splits.items()
            if (table := run.errors.get(split)) is not None and table.measured("rotation_error")
        ]
        if not parts:
            continue
        errors = pd.concat(parts, ignore_index=True)
        whole = means and len(parts) == len(splits)
        by_column = {}
        for column, of_column in errors.groupby("column", sort=False):
            by_column[ALL, column] = of_column
            by_column |= {(name, column): part for name, part in of_column.groupby("category", sort=True)}
        if whole:
            by_column[ALL, MEAN] = errors
            by_column |= {(name, MEAN): part for name, part in errors.groupby("category", sort=False)}
        for (name, column), part in by_column.items():
            medians[Key(run.method, MEDIAN, str(name), str(column))] = median(part["error"].to_numpy())
    return medians


def median(errors: NDArray[np.float64]) -> Estimate:
    """Median of errors [n] (radians) in degrees, between the order statistics that bound it in 95 %."""
    n = len(errors)
    ordered = np.degrees(np.sort(errors))
    # As many errors lie below the true median as heads fall in n throws. The k-th smallest is below it where
    # k or more do; ordered[k - 1] is the k-th, and as far from the least as ordered[n - k] from the greatest.
    reach = 1.96 * n**0.5 / 2
    low, high = int(np.floor(n / 2 - reach)) - 1, int(np.ceil(n / 2 + reach))
    return Estimate(
        metrics.median_error_deg(errors), float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)]), n
    )
