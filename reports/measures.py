"""Metrics of runs by column and category, with 95 % bootstrap intervals.

Photos are resampled with replacement, 1000 times, within each split; all methods and metrics of a split see
the same resamples. The interval is from the 2.5th to the 97.5th percentile of the resampled means. Where all
photos are right, or none, it has no width: the bootstrap knows no photo but these.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ntdm.geometry import metrics
from ntdm.reports.runs import Run

RESAMPLES = 1000
KEYS = ["method", "metric", "category", "column"]  # what an estimate is of
ALL, CLASS_MEAN = "all", "class mean"  # in the place of a category: every photo; the mean of the categories
MEAN, MEAN_MACRO = "mean", "mean_macro"  # in the place of a column: over all photos; the mean of the columns
MEDIAN = "median_error_deg"

_AT_ONCE = 64  # resamples whose counts are in memory together
_DRAWS = ["n", *range(RESAMPLES + 1)]


@dataclass(frozen=True)
class Metric:
    """A mean over photos, in percent, of an error column: its values, or the share below a threshold.

    Attributes:
        label: its heading.
        column: of the error file.
        threshold: radians; None for the values themselves.
    """

    label: str
    column: str
    threshold: float | None = None

    def of(self, errors: pd.DataFrame) -> NDArray[np.float64]:
        """[N], of which the mean is the metric."""
        values = errors[self.column].to_numpy()
        return 100.0 * (values if self.threshold is None else (values < self.threshold).astype(np.float64))


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


def estimate(runs: Sequence[Run], splits: Mapping[str, str], means: bool) -> pd.DataFrame:
    """Every metric that is measured, by category and column, with its 95 % interval.

    Args:
        runs: with the same samples in a split that two of them have (runs.check_comparable).
        splits: column -> ``dataset/split``.
        means: whether the columns MEAN and MEAN_MACRO follow; only where every split is measured.

    Returns:
        Indexed by KEYS: value, low, high (percent, of MEDIAN degrees) and n, the number of samples.
    """
    measured = {column: _of_split(runs, split) for column, split in splits.items()}
    draws = {column: frame for column, frame in measured.items() if frame is not None}
    parts = {column: _intervals(frame) for column, frame in draws.items()}
    estimates = [pd.concat(parts, names=["column"])] if parts else []
    if means and len(draws) == len(splits):
        estimates.append(_over_columns(list(draws.values())))
    estimates = [frame.reorder_levels(KEYS) for frame in estimates]
    medians = _medians(runs, splits, means)
    return pd.concat([*estimates, medians]) if len(medians) and estimates else (estimates or [medians])[0]


def _of_split(runs: Sequence[Run], split: str) -> pd.DataFrame | None:
    """Means over a split's photos, and over resamples of them; None where nothing is measured.

    Returns:
        Indexed by category, method and metric; n, the number of photos, and the columns of :func:`_means`.
    """
    errors = {run.method: run.errors[split] for run in runs if split in run.errors}
    measured = {
        (method, name): metric.of(frame)
        for method, frame in errors.items()
        for name, metric in (METRICS | FURTHER).items()
        if metric.column in frame
    }
    if not measured:
        return None
    photos = pd.DataFrame(measured, next(iter(errors.values())).index)
    categories = {
        str(category): _means(part, f"{split}/{category}")
        for category, part in photos.groupby(level="category")
    }
    parts = {ALL: _means(photos, f"{split}/{ALL}")} | categories
    parts[CLASS_MEAN] = _macro(list(categories.values()))
    return pd.concat(parts, names=["category", "method", "metric"])


def _means(photos: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row a column of `photos` [n, M]: n; 0, the mean; 1 to RESAMPLES, the means of the resamples."""
    values = np.ascontiguousarray(photos.to_numpy())
    draws = [[column.mean() for column in values.T], *resampled_means(values, name)]
    return pd.DataFrame(np.transpose([[len(values)] * values.shape[1], *draws]), photos.columns, _DRAWS)


def resampled_means(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Means of `values` [n, M] over photos drawn with replacement, [RESAMPLES, M].

    The draws follow from `name` and n alone, so that a method has the same interval in every report.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    n, means = len(values), []
    for start in range(0, RESAMPLES, _AT_ONCE):
        rows = min(_AT_ONCE, RESAMPLES - start)
        picks = generator.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(picks.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        means.append(counts @ values / n)
    return np.concatenate(means)


def _over_columns(draws: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Intervals of the means over columns, of what every column has; a category may be missing in some."""
    whole = reduce(pd.Index.intersection, (frame.xs(ALL, level="category").index for frame in draws))
    rows = reduce(lambda rows, more: rows.union(more, sort=False), (frame.index for frame in draws))
    rows = rows[rows.droplevel("category").isin(whole)]
    parts = [frame.reindex(rows) for frame in draws]
    samples = [part["n"].fillna(0) for part in parts]
    mean = sum(part.mul(part["n"], axis=0).fillna(0) for part in parts).div(sum(samples), axis=0)
    mean = mean.assign(n=sum(samples)).drop(CLASS_MEAN, level="category")
    both = {MEAN: _intervals(mean), MEAN_MACRO: _intervals(_macro(parts))}
    estimates = pd.concat(both, names=["column"])
    # Both means of a row stand below each other.
    place = rows.get_indexer(estimates.index.droplevel("column"))
    return estimates.iloc[np.argsort(place, kind="stable")]


def _macro(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean of frames of the same rows, some of them NaN, and the sum of n."""
    count = sum(part["n"].notna() for part in parts)
    total = sum(part.fillna(0) for part in parts)
    return total.div(count, axis=0).assign(n=total["n"])


def _intervals(draws: pd.DataFrame) -> pd.DataFrame:
    """Value, the interval that holds 95 % of the resamples, and n."""
    low, high = np.percentile(draws.drop(columns=["n", 0]).to_numpy(), (2.5, 97.5), axis=1)
    return pd.DataFrame({"value": draws[0], "low": low, "high": high, "n": draws["n"].astype(np.int64)})


def _medians(runs: Sequence[Run], splits: Mapping[str, str], means: bool) -> pd.DataFrame:
    """As :func:`estimate`, of the median pose error."""
    medians: dict[tuple[str, ...], tuple[float, float, float, int]] = {}
    for run in runs:
        errors = {
            column: run.errors[split]["rotation_error"]
            for column, split in splits.items()
            if split in run.errors and "rotation_error" in run.errors[split]
        }
        if means and len(errors) == len(splits):
            errors[MEAN] = pd.concat(list(errors.values()))
        for column, values in errors.items():
            medians[run.method, MEDIAN, ALL, column] = median(values.to_numpy())
            for category, part in values.groupby(level="category", sort=False):
                medians[run.method, MEDIAN, str(category), column] = median(part.to_numpy())
    index = pd.MultiIndex.from_tuples(list(medians), names=KEYS)
    return pd.DataFrame(list(medians.values()), index, ["value", "low", "high", "n"])


def median(errors: NDArray[np.float64]) -> tuple[float, float, float, int]:
    """Median of errors [n] (radians) in degrees, the order statistics that bound it in 95 %, and n."""
    n = len(errors)
    ordered = np.degrees(np.sort(errors))
    # As many errors lie below the true median as heads fall in n throws. The k-th smallest is below it where
    # k or more do; ordered[k - 1] is the k-th, and as far from the least as ordered[n - k] from the greatest.
    reach = 1.96 * n**0.5 / 2
    low, high = int(np.floor(n / 2 - reach)) - 1, int(np.ceil(n / 2 + reach))
    bounds = float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])
    return metrics.median_error_deg(errors), *bounds, n
