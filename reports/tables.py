"""`ntdm report`: Tables 1, 2 and 3 from the error files of runs, beside the published rows (design.md 3.4).

A report reads ``<run>/errors/<dataset>/<split>.csv``, the key ``method`` of ``<run>/config.json``, and
``data_fingerprint`` of ``<run>/run.json`` where there is one. It writes ``table_N.csv`` (four decimals),
``table_N.md`` and ``table_N.tex`` (one decimal, the best of a column bold) and the figure ``table_N.png``.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntdm import metrics
from ntdm.config import NUISANCES
from ntdm.outputs import atomic_path, sweep
from ntdm.reports import figures
from ntdm.reports.typeset import Block, Cell, Line, latex, markdown
from ntdm.sample_table import Table, read_errors, write_csv

METRICS = ("pose_acc_pi_6", "pose_acc_pi_18", "amodal_iou", "class_acc")
ERROR_COLUMN = {
    "pose_acc_pi_6": "rotation_error",
    "pose_acc_pi_18": "rotation_error",
    "amodal_iou": "amodal_iou",
    "class_acc": "class_correct",
}
LABEL = {
    "pose_acc_pi_6": "Pose accuracy at π/6",
    "pose_acc_pi_18": "Pose accuracy at π/18",
    "amodal_iou": "Amodal IoU",
    "class_acc": "Class accuracy",
}
PUBLISHED_SUFFIX = " (published)"


@dataclass(frozen=True)
class Layout:
    """Which splits a table shows, and how."""

    title: str
    splits: dict[str, str]  # column -> dataset/split
    means: bool  # whether columns mean and mean_macro follow
    ordered: bool  # whether the columns are a scale, drawn as lines
    notes: tuple[str, ...]  # said when published rows are shown


LAYOUTS = {
    1: Layout(
        "Occlusion: PASCAL3D+ (L0) and Occluded PASCAL3D+ (L1 to L3)",
        {"L0": "pascal3d/val", **{f"L{i}": f"occluded_pascal3d/L{i}" for i in (1, 2, 3)}},
        False,
        True,
        (
            "The paper heads its second pose column pi/12; text and numbers mean pi/18.",
            "MT Mask R-CNN's published pi/6 accuracies at L1 to L3 equal its published IoU digit for digit.",
        ),
    ),
    2: Layout(
        "Domain shift: the five nuisances of OOD-CV",
        {nuisance: f"ood_cv/{nuisance}" for nuisance in NUISANCES},
        True,
        False,
        ("mean_macro of the published rows is computed from their printed columns.",),
    ),
    3: Layout(
        "Ablations on PASCAL3D+",
        {"all": "pascal3d/val"},
        False,
        False,
        ("The published rows are of three categories: sofa, bus, motorbike.",),
    ),
}


@dataclass(frozen=True)
class Row:
    """One method and metric: percent by column, None where not measured; n samples, None if published."""

    method: str
    metric: str
    cells: dict[str, Cell]
    n: int | None
    published: bool


@dataclass(frozen=True)
class Run:
    """A run's name and its error files by ``dataset/split``, those that exist."""

    path: Path
    method: str
    fingerprint: str | None
    errors: dict[str, Table]


def report(table: int, runs: Sequence[Path], out: Path, published: bool = True) -> Path:
    """Writes a table in CSV, Markdown and LaTeX and its figure into `out`.

    Args:
        table: 1 (occlusion), 2 (nuisances) or 3 (ablations).
        runs: run folders, in the order of the rows.
        out: folder.
        published: whether the paper's rows stand above the measured ones, marked as such.

    Returns:
        The path of the CSV; the other files have its name with ``.md``, ``.tex``, ``.png``.

    Raises:
        ValueError: no such table; nothing to show; a run without config.json; two runs of one method name;
            runs on different data; an error file that breaks its contract (file, line and column named).
    """
    if table not in LAYOUTS:
        raise ValueError(f"table {table} is unknown: want 1, 2 or 3")
    sweep(out)
    layout = LAYOUTS[table]
    found = [read_run(Path(run), list(layout.splits.values())) for run in runs]
    _check_comparable(found)
    rows = read_published(table) if published else []
    for run in found:
        rows += measure(run, layout)
    if not rows:
        wanted = ", ".join(f"errors/{split}.csv" for split in layout.splits.values())
        raise ValueError(
            f"nothing to show in table {table}: no run given has any of {wanted}; run evaluate first"
        )
    columns = [*layout.splits, *(("mean", "mean_macro") if layout.means else ())]
    blocks = _metric_columns(rows) if table == 3 else _metric_blocks(columns, rows)
    notes = [*_notes(found, layout), *(layout.notes if published else ())]
    target = out / f"table_{table}.csv"
    with atomic_path(target.with_suffix(".png")) as temporary:
        figures.draw(f"Table {table}. {layout.title}", blocks, layout.ordered, temporary)
    text = {
        ".md": markdown(f"Table {table}", layout.title, blocks, notes, f"table_{table}.png"),
        ".tex": latex(f"Table {table}", layout.title, blocks, notes),
    }
    for suffix, typeset in text.items():
        with atomic_path(target.with_suffix(suffix)) as temporary:
            temporary.write_text(typeset, encoding="utf-8")
    with atomic_path(target) as temporary:
        write_csv(temporary, *_csv(table, columns, rows, blocks))
    return target


def read_run(path: Path, splits: Sequence[str]) -> Run:
    """A run's name, data fingerprint and error files of `splits` (``dataset/split``)."""
    config = _read_json(path / "config.json")
    method = config.get("method")
    if not isinstance(method, str) or not method.strip():
        raise ValueError(
            f"{path / 'config.json'} has no text under the key 'method', the name of the table's row"
        )
    described = _read_json(path / "run.json") if (path / "run.json").exists() else {}
    errors = {}
    for split in splits:
        file = path / "errors" / f"{split}.csv"
        if not file.exists():
            continue
        errors[split] = table = read_errors(file)
        if not len(table):
            raise ValueError(f"{file} has no rows: a split that was not evaluated should have no file")
        for column, want in zip(("dataset", "split"), split.split("/"), strict=True):
            wrong = np.flatnonzero(table[column] != want)
            if len(wrong):
                line, value = table.lines[wrong[0]], str(table[column][wrong[0]])
                raise ValueError(
                    f"{file}, line {line}: {column} is {value!r}, want {want!r} as in the file's path"
                )
    fingerprint = described.get("data_fingerprint")
    return Run(path, method, None if fingerprint is None else str(fingerprint), errors)


def measure(run: Run, layout: Layout) -> Iterator[Row]:
    """The rows of a run: one for every metric that is measured in at least one column."""
    for metric in METRICS:
        values = {
            column: run.errors[split][ERROR_COLUMN[metric]]
            for column, split in layout.splits.items()
            if split in run.errors and run.errors[split].measured(ERROR_COLUMN[metric])
        }
        if not values:
            continue
        cells = {column: _score(metric, values.get(column)) for column in layout.splits}
        if layout.means:
            whole = len(values) == len(layout.splits)
            cells["mean"] = _score(metric, np.concatenate(list(values.values())) if whole else None)
            cells["mean_macro"] = _macro(cells, layout)
        yield Row(run.method, metric, cells, sum(map(len, values.values())), False)


def read_published(table: int) -> list[Row]:
    """The paper's rows of a table, in its order, from published.csv."""
    layout = LAYOUTS[table]
    cells: dict[tuple[str, str], dict[str, Cell]] = {}
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["table"] == str(table):
                cells.setdefault((line["method"], line["metric"]), {})[line["column"]] = float(line["value"])
    rows = []
    for (method, metric), values in cells.items():
        if layout.means:
            values["mean_macro"] = _macro(values, layout)
        rows.append(Row(method + PUBLISHED_SUFFIX, metric, values, None, True))
    return rows


def _score(metric: str, values: np.ndarray | None) -> Cell:
    if values is None:
        return None
    if metric == "pose_acc_pi_6":
        return metrics.accuracy(values, metrics.PI_6)
    if metric == "pose_acc_pi_18":
        return metrics.accuracy(values, metrics.PI_18)
    return float(100 * values.mean())


def _macro(cells: dict[str, Cell], layout: Layout) -> Cell:
    values = [cells.get(column) for column in layout.splits]
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else None


def _check_comparable(runs: Sequence[Run]) -> None:
    """Rows under one column must be of one data set: names, fingerprints, and the very samples."""
    for i, run in enumerate(runs):
        for other in runs[:i]:
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
            for split in run.errors.keys() & other.errors.keys():
                ours, theirs = run.errors[split], other.errors[split]
                odd = set(ours.keys()) ^ set(theirs.keys())
                if odd:
                    key = min(odd)
                    has, lacks = (ours, theirs) if key in set(ours.keys()) else (theirs, ours)
                    line = has.lines[has.keys().index(key)]
                    raise ValueError(
                        f"{lacks.path} lacks the sample {key} of {has.path}, line {line}: methods are "
                        "compared on the same samples; write a failed prediction as pi and IoU 0"
                    )


def _notes(runs: Sequence[Run], layout: Layout) -> list[str]:
    """What a reader must know beside the numbers: sizes, failures, what is missing."""
    notes = ["Percent; accuracies count errors strictly below the threshold, means are over images."]
    sizes = {
        column: len(run.errors[split])
        for column, split in layout.splits.items()
        for run in runs
        if split in run.errors
    }
    if sizes:
        notes.append("Samples: " + ", ".join(f"{column} {n}" for column, n in sizes.items()) + ".")
    for run in runs:
        poses = [t["rotation_error"] for t in run.errors.values() if t.measured("rotation_error")]
        failed = sum(int((p >= metrics.FAILED_ROTATION_ERROR).sum()) for p in poses)
        if failed:
            notes.append(f"{run.method}: failed predictions, counted as wrong: {failed}.")
        missing = [column for column, split in layout.splits.items() if split not in run.errors]
        if missing:
            notes.append(f"{run.method}: not evaluated on {', '.join(missing)}.")
    return notes


def _metric_blocks(columns: Sequence[str], rows: Sequence[Row]) -> list[Block]:
    """One block a metric that any row has."""
    blocks = []
    for metric in METRICS:
        lines = [
            Line(row.method, tuple(row.cells.get(c) for c in columns), row.n, row.published)
            for row in rows
            if row.metric == metric
        ]
        if lines:
            blocks.append(Block(LABEL[metric], tuple(columns), tuple(lines)))
    return blocks


def _metric_columns(rows: Sequence[Row]) -> list[Block]:
    """Table 3's one block: a line a method, a column a metric."""
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = {row.metric: row for row in rows if row.method == method}
        first = next(iter(mine.values()))
        cells = tuple(mine[m].cells["all"] if m in mine else None for m in METRICS[:3])
        lines.append(Line(method, cells, first.n, first.published))
    return [Block("Ablation", tuple(LABEL[m] for m in METRICS[:3]), tuple(lines))]


def _csv(
    table: int, columns: Sequence[str], rows: Sequence[Row], blocks: Sequence[Block]
) -> tuple[list[str], list[list[str]]]:
    if table == 3:
        header = ["method", *METRICS[:3], "n"]
        return header, [[a.method, *map(_decimals, a.cells), _count(a.n)] for a in blocks[0].lines]
    lines = [[r.method, r.metric, *(_decimals(r.cells.get(c)) for c in columns), _count(r.n)] for r in rows]
    return ["method", "metric", *columns, "n"], lines


def _decimals(value: Cell) -> str:
    return "" if value is None else f"{value:.4f}"


def _count(n: int | None) -> str:
    return "" if n is None else str(n)


def _read_json(path: Path) -> dict[str, object]:
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: is {path.parent} a run folder? It must hold config.json and errors/"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a JSON object")
    return values
