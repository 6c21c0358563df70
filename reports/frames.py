"""Runs as pandas frames: one row a sample, or a table as it is printed.

errors = ntdm.reports.errors("runs/ntdm")
errors.groupby("split").rotation_error.median()
ntdm.reports.table(2, ["runs/ntdm", "runs/nemo"])
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ntdm.config.protocol import KNOWN_SPLITS
from ntdm.io.error_table import ERROR_COLUMNS, OPTIONAL_ERROR_COLUMNS
from ntdm.io.table import KEY_COLUMNS
from ntdm.reports.runs import Run, read_run

Runs = Path | str | Sequence[Path | str]
_NUMBERS = tuple(c for c in (*ERROR_COLUMNS, *OPTIONAL_ERROR_COLUMNS) if c not in KEY_COLUMNS)


def errors(runs: Runs) -> pd.DataFrame:
    """The errors of one run, or of several, one row a sample.

    Args:
        runs: run folders.

    Returns:
        Columns method, dataset, split, category, name (text); predicted_category (text, NA where the method
        names no class); rotation_error [radians, pi for a failed prediction], amodal_iou and visible_iou
        [0 to 1], class_correct [0 or 1], seconds, rotation_error_free, amodal_iou_free: f64, NaN where not
        measured. Rows stand in the order of runs, splits, categories and names.

    Raises:
        ValueError: a folder that is no run, a file that breaks its contract (file, line and column named).
    """
    folders = [runs] if isinstance(runs, Path | str) else runs
    splits = [f"{dataset}/{split}" for dataset, known in KNOWN_SPLITS.items() for split in known]
    frames = [of_run(read_run(Path(folder), _evaluated(Path(folder), splits))) for folder in folders]
    return pd.concat(frames, ignore_index=True) if frames else _empty()


def of_run(run: Run) -> pd.DataFrame:
    """As :func:`errors`, of a run that was read."""
    frames = []
    for split, measured in run.errors.items():
        frame = pd.DataFrame({name: measured[name] for name in measured.columns})
        frame.insert(0, "method", run.method)
        predicted = run.predicted.get(split)
        unknown = [pd.NA] * len(frame)
        frame["predicted_category"] = pd.array(unknown if predicted is None else predicted, "string")
        frames.append(frame)
    return pd.concat([_empty(), *frames], ignore_index=True) if frames else _empty()


def _empty() -> pd.DataFrame:
    text, numbers = ("method", *KEY_COLUMNS, "predicted_category"), _NUMBERS
    return pd.DataFrame(
        {name: pd.Series(dtype="string") for name in text}
        | {name: pd.Series(dtype="float64") for name in numbers}
    )


def _evaluated(run: Path, splits: Sequence[str]) -> list[str]:
    """The splits that a run has errors of, those of other datasets after the known ones."""
    there = {"/".join(path.with_suffix("").parts[-2:]) for path in run.glob("errors/*/[!.]*.csv")}
    return [split for split in splits if split in there] + sorted(there - set(splits))
