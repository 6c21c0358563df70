"""The errors of runs as one pandas frame.

errors = ntdm.reports.errors(["runs/ntdm", "runs/nemo"])
errors.groupby(["method", "split"])["rotation_error"].median()
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ntdm.config.protocol import KNOWN_SPLITS
from ntdm.io.run_folder import RunFolder
from ntdm.reports.runs import Run, read_run, run_folders

# Types that have a missing value of their own, or NaN.
COLUMNS = {
    "method": "string",
    "seed": "Int64",
    **dict.fromkeys(("dataset", "split", "category", "name"), "string"),
    **dict.fromkeys(("rotation_error", "amodal_iou", "visible_iou"), "float64"),
    "class_correct": "boolean",
    **dict.fromkeys(("seconds", "rotation_error_free", "amodal_iou_free"), "float64"),
    "predicted_category": "string",
}


def errors(runs: Path | str | Sequence[Path | str]) -> pd.DataFrame:
    """The errors of one run, or of several, a row a sample.

    Args:
        runs: run folders. Runs of one method are told apart by their seeds.

    Returns:
        method (text), seed (Int64, NA without run.json), dataset, split, category, name (text),
        rotation_error (radians, pi of a failed prediction), amodal_iou, visible_iou (0 to 1, 0 of a failed
        prediction), class_correct (boolean), seconds, rotation_error_free, amodal_iou_free (those under the
        predicted category), predicted_category (text). NaN or NA where a run did not measure it. Rows stand
        in the order of the runs, then of the protocol's splits, of categories and names.

    Raises:
        ValueError: a folder that is no run or has no error file; a file that breaks its contract (file, line
            and column named); a seed that is no whole number; two runs of one method and seed.
    """
    read = [_read(folder) for folder in run_folders(runs)]
    seeds = [_seed(run) for run in read]
    for i, run in enumerate(read):
        for other, seed in zip(read[:i], seeds, strict=False):
            if (run.method, seeds[i]) == (other.method, seed):
                which = "both without a seed" if seed is None else f"both with seed {seed}"
                raise ValueError(
                    f"{other.path} and {run.path} are runs of {run.method!r}, {which}: name every run once"
                )
    parts = [
        frame.reset_index().assign(
            method=run.method,
            seed=pd.array([seed] * len(frame), "Int64"),
            dataset=split.partition("/")[0],
            split=split.partition("/")[2],
        )
        for run, seed in zip(read, seeds, strict=True)
        for split, frame in run.errors.items()
    ]
    every = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return every.reindex(columns=list(COLUMNS)).astype(COLUMNS)


def _read(folder: Path) -> Run:
    """A run with all splits that it has error files of."""
    files = folder.glob("errors/*/[!.]*.csv")
    splits = {f"{path.parent.name}/{path.stem}" for path in files}
    protocol = [f"{dataset}/{split}" for dataset, names in KNOWN_SPLITS.items() for split in names]
    run = read_run(folder, [s for s in protocol if s in splits] + sorted(splits.difference(protocol)))
    if not run.errors:
        raise ValueError(f"{folder} has no errors/<dataset>/<split>.csv: run evaluate first")
    return run


def _seed(run: Run) -> int | None:
    seed = run.about.get("seed")
    if seed is not None and (type(seed) is not int or not -(2**63) <= seed < 2**63):
        raise ValueError(
            f"{RunFolder(run.path).provenance}: seed is {seed!r}, want a whole number of 64 bits"
        )
    return seed
