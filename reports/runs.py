"""What a report reads of a run folder, and whether runs may stand in one table.

Read are ``errors/<dataset>/<split>.csv`` and the key ``method`` of ``config.json``; where there are, the
seed, ``data_fingerprint`` and ``seconds`` of ``run.json``, and what ``predictions/<dataset>/<split>`` says of
the predicted categories and of the test data.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ntdm.config.protocol import KNOWN_SPLITS
from ntdm.io.error_table import ERROR_COLUMNS, OPTIONAL_ERROR_COLUMNS, read_errors
from ntdm.io.predictions import made_with, read_predictions
from ntdm.io.run_folder import RunFolder
from ntdm.io.table import KEY_COLUMNS, Table

PUBLISHED_SUFFIX = " (published)"
SAMPLE = ["category", "name"]  # the key of a sample within its split
_MEASURED = tuple(c for c in (*ERROR_COLUMNS, *OPTIONAL_ERROR_COLUMNS) if c not in KEY_COLUMNS)


@dataclass(frozen=True)
class Run:
    """A run's row name and its error files by ``dataset/split``, those that exist.

    Attributes:
        path: the run folder.
        method: the name of its row.
        about: what run.json says, empty where there is none.
        errors: a row a sample, indexed and sorted by SAMPLE; the columns of the error file that were measured
            (f64), `predicted_category` (text) where the predictions have it, and `line`, that of the error
            file.
        test_data: digest of the cache files that a split was predicted on, where it is known.
    """

    path: Path
    method: str
    about: dict[str, Any]
    errors: dict[str, pd.DataFrame]
    test_data: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str | None:
        """Digest of the training data; None where it is not known."""
        found = self.about.get("data_fingerprint")
        return None if found is None else str(found)


def run_folders(runs: Path | str | Sequence[Path | str]) -> list[Path]:
    """One run folder or several, as paths."""
    return [Path(run) for run in ([runs] if isinstance(runs, Path | str) else runs)]


def read_run(path: Path, splits: Sequence[str]) -> Run:
    """A run's name and what it has of `splits` (``dataset/split``).

    Raises:
        ValueError: config.json missing, damaged or without a method; an error or prediction file that breaks
            its contract (file, line and column named); a split of an unknown name under errors/.
    """
    folder = RunFolder(path)
    config = read_json(folder.config)
    method = config.get("method")
    if not isinstance(method, str) or not method.strip() or not method.isprintable():
        raise ValueError(
            f"{path / 'config.json'} has no line of text under the key 'method', the name of the table's row"
        )
    if method.endswith(PUBLISHED_SUFFIX):
        raise ValueError(
            f"{path / 'config.json'}: the method is {method!r}, and {PUBLISHED_SUFFIX.strip()} marks the "
            "papers' rows: give it another name"
        )
    about = read_json(folder.provenance) if folder.provenance.exists() else {}
    seconds = about.get("seconds", 0)
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ValueError(f"{path / 'run.json'}: seconds is {seconds!r}, want a number from 0 on")
    _check_split_names(path)
    run = Run(path, method, about, {})
    for split in splits:
        file = folder.errors(split)
        if file.exists():
            run.errors[split] = _read_split(file, split)
            if folder.predictions(split).exists():
                _join_predictions(run, split, folder.predictions(split))
    return run


def check_comparable(runs: Sequence[Run]) -> None:
    """ValueError unless the runs have names of their own, the same data, and the very same samples."""
    for i, run in enumerate(runs):
        for other in runs[:i]:
            if run.path.resolve() == other.path.resolve():
                raise ValueError(f"{run.path} is given twice: name every run once")
            if run.method == other.method:
                raise ValueError(
                    f"{other.path / 'config.json'} and {run.path / 'config.json'} both have the method name "
                    f"{run.method!r}: give one of them another"
                )
            if run.fingerprint and other.fingerprint and run.fingerprint != other.fingerprint:
                raise ValueError(
                    f"{other.path} and {run.path} are runs on different data (data_fingerprint "
                    f"{other.fingerprint} and {run.fingerprint} in run.json): make a report of each"
                )
            for split in run.test_data.keys() & other.test_data.keys():
                if run.test_data[split] != other.test_data[split]:
                    raise ValueError(
                        f"{split} of {other.path} and of {run.path} was predicted on different data (digest "
                        f"{other.test_data[split]} and {run.test_data[split]} in predictions/{split}.h5): "
                        "evaluate both on the same cache"
                    )
        for split, errors in run.errors.items():
            first = next(run for run in runs if split in run.errors)
            if not errors.index.equals(first.errors[split].index):
                odd = first.errors[split].index.symmetric_difference(errors.index)
                has, lacks = (first, run) if odd[0] in first.errors[split].index else (run, first)
                raise ValueError(
                    f"{RunFolder(lacks.path).errors(split)} lacks the sample {odd[0]} of "
                    f"{RunFolder(has.path).errors(split)}, line {has.errors[split]['line'][odd[0]]}: methods "
                    "are compared on the same samples; write a failed prediction as pi and IoU 0"
                )


def _check_split_names(run: Path) -> None:
    """A misspelt split would be left out of the table without a word."""
    for dataset, known in KNOWN_SPLITS.items():
        for file in sorted((run / "errors" / dataset).glob("[!.]*.csv")):
            if file.stem not in known:
                raise ValueError(
                    f"{file}: {dataset} has no split {file.stem!r}; its splits are {', '.join(known)}"
                )


def _read_split(file: Path, split: str) -> pd.DataFrame:
    table = read_errors(file)
    if not len(table):
        raise ValueError(f"{file} has no rows: a split that was not evaluated should have no file")
    for column, want in zip(("dataset", "split"), split.split("/"), strict=True):
        wrong = table[column] != want
        if wrong.any():
            row = wrong.argmax()
            raise ValueError(
                f"{file}, line {table.lines[row]}: {column} is {str(table[column][row])!r}, want {want!r} as "
                "in the file's path"
            )
    return _frame(table, _MEASURED)


def _join_predictions(run: Run, split: str, file: Path) -> None:
    """The predicted categories beside the errors, and what is known of the test data."""
    digest = made_with(file).get("data")
    if isinstance(digest, str):
        run.test_data[split] = digest
    predicted, scored = _frame(read_predictions(file), ["predicted_category"]), run.errors[split]
    if not predicted.index.equals(scored.index):
        missing = scored.index.difference(predicted.index)
        said = f"lacks {missing[0]}" if len(missing) else f"has {len(predicted)} samples, not {len(scored)}"
        raise ValueError(f"{file} {said}, unlike {RunFolder(run.path).errors(split)}: score the split again")
    if "predicted_category" in predicted:
        run.errors[split] = scored.assign(predicted_category=predicted["predicted_category"])


def _frame(table: Table, columns: Sequence[str]) -> pd.DataFrame:
    """A row a sample, indexed and sorted by SAMPLE: `line`, and of the columns those that were measured."""
    index = pd.MultiIndex.from_arrays([table[name] for name in SAMPLE], names=SAMPLE)
    values = {name: table[name] for name in columns if table.measured(name)}
    return pd.DataFrame({"line": table.lines} | values, index).sort_index()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a run folder's JSON file; ValueError says what is wrong."""
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: is {path.parent} a run folder? It must hold config.json and errors/"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a JSON object")
    return values
