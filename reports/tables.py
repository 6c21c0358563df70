"""`ntdm report`: Tables 1, 2 and 3 from the error files of runs, beside the published rows (docs/formats.md).

    table_N.csv              four decimals          table_N_breakdown.csv   by category, with intervals
    table_N.md, table_N.tex  one decimal            table_N.html            all of it on one page
    table_N.png, table_N_curves.png, table_N_confusion.png, table_N_seconds.png

What is read of a run is said in runs.py, how intervals are made in measures.py.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ntdm.config.protocol import ABLATIONS, NUISANCES
from ntdm.geometry import metrics
from ntdm.io.outputs import atomic_path, sweep
from ntdm.reports import figures, page
from ntdm.reports.measures import (
    ALL,
    FURTHER,
    LABELS,
    MEAN,
    MEAN_MACRO,
    MEDIAN,
    METRICS,
    RESAMPLES,
    Estimate,
    Key,
    estimate,
)
from ntdm.reports.page import Picture
from ntdm.reports.runs import PUBLISHED_SUFFIX, Run, check_comparable, read_run
from ntdm.reports.typeset import Block, Cell, Line, latex, markdown

Estimates = Mapping[Key, Estimate]
_TABLE_3_METRICS = ("pose_acc_pi_6", "pose_acc_pi_18", "amodal_iou")


@dataclass(frozen=True)
class Layout:
    """Which splits a table shows, and how."""

    title: str
    splits: dict[str, str]  # column -> dataset/split
    means: bool  # whether columns mean and mean_macro follow
    ordered: bool  # whether the columns are a scale, drawn as lines
    notes: tuple[str, ...]  # said when published rows are shown

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the CSV, without method, metric and n."""
        return (*self.splits, *((MEAN, MEAN_MACRO) if self.means else ()))


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
    """One method and metric: cells by column, None where not measured; n samples, None if published."""

    method: str
    metric: str
    cells: dict[str, Cell]
    n: int | None
    published: bool


def report(
    table: int,
    runs: Sequence[Path],
    out: Path,
    published: bool = True,
    pictures: Callable[[Mapping[str, str], Path], Iterable[tuple[Path, str]]] | None = None,
) -> Path:
    """Writes a table in CSV, Markdown, LaTeX and HTML, its breakdown and its figures into `out`.

    Args:
        table: 1 (occlusion), 2 (nuisances) or 3 (ablations).
        runs: run folders, in the order of the rows; of Table 3 the ablations stand in the paper's order.
        out: folder.
        published: whether the paper's rows stand above the measured ones, marked as such.
        pictures: makes those shown on the page below the figures, path and caption, of the table's splits, in
            a folder; called once nothing is refused.

    Returns:
        The path of the CSV; the other files have its name and another ending.

    Raises:
        ValueError: no such table; nothing to show; a run without config.json; two runs of one method name;
            runs on different data; an error file that breaks its contract (file, line and column named).
    """
    sweep(out)
    layout, found, estimates, rows, blocks = _measure(table, runs, published)
    target = out / f"table_{table}.csv"
    notes = [*_notes(found, layout, rows), *(layout.notes if published else ())]
    label = f"Table {table}"
    # First what may still refuse: a cache that has not what was predicted.
    shown = pictures(layout.splits, target.with_name(f"{target.stem}_pictures")) if pictures else ()
    drawn = figures.draw_all(target, f"{label}. {layout.title}", blocks, layout.ordered, layout.splits, found)
    text = {
        ".md": markdown(label, layout.title, blocks, notes, drawn[0].path.name),
        ".tex": latex(label, layout.title, blocks, notes),
        ".html": page.html(
            f"{label}. {layout.title}",
            blocks,
            notes,
            _breakdown_blocks(estimates, layout),
            [*drawn, *(Picture(path, caption) for path, caption in shown)],
            _provenance(found),
        ),
    }
    for suffix, typeset in text.items():
        with atomic_path(target.with_suffix(suffix)) as temporary:
            temporary.write_text(typeset, encoding="utf-8")
    _write_csv(target.with_name(f"{target.stem}_breakdown.csv"), _breakdown_frame(estimates))
    _write_csv(target, _frame(layout, table, rows, blocks))
    return target


def table(number: int, runs: Sequence[Path | str], published: bool = False) -> pd.DataFrame:
    """A table as a frame.

    Args:
        number: 1 (occlusion), 2 (nuisances) or 3 (ablations).
        runs: run folders, in the order of the rows.
        published: whether the papers' rows stand above the measured ones.

    Returns:
        Rows (method, metric), of Table 3 method; columns as printed and n, the number of samples; percent,
        NaN where not measured. `frame.attrs["intervals"]` has every estimate with its 95 % interval: method,
        metric, category, column, value, low, high, n.

    Raises:
        ValueError: as :func:`report`.
    """
    layout, _, estimates, rows, blocks = _measure(number, [Path(run) for run in runs], published)
    frame = _frame(layout, number, rows, blocks).set_index(
        ["method"] if number == 3 else ["method", "metric"]
    )
    frame.attrs["intervals"] = _breakdown_frame(estimates)
    return frame


class _Measured(NamedTuple):
    """What a table is made of."""

    layout: Layout
    runs: list[Run]
    estimates: Estimates
    rows: list[Row]
    blocks: list[Block]


def _measure(number: int, paths: Sequence[Path], published: bool) -> _Measured:
    if number not in LAYOUTS:
        raise ValueError(f"table {number} is unknown: want 1, 2 or 3")
    layout = LAYOUTS[number]
    runs = [read_run(Path(path), list(layout.splits.values())) for path in paths]
    if number == 3:
        runs.sort(key=lambda run: ABLATIONS.index(run.method) if run.method in ABLATIONS else len(ABLATIONS))
    check_comparable(runs)
    estimates = estimate(runs, layout.splits, layout.means)
    rows = read_published(number) if published else []
    rows += measured_rows(runs, layout, estimates)
    # Table 3 has no column for what only a classifier measures.
    rows = [row for row in rows if number != 3 or row.metric in _TABLE_3_METRICS]
    if not rows:
        wanted = ", ".join(f"errors/{split}.csv" for split in layout.splits.values())
        raise ValueError(
            f"nothing to show in table {number}: no run given has errors that it shows in {wanted}; "
            "run evaluate first"
        )
    blocks = _metric_columns(rows) if number == 3 else _metric_blocks(layout.columns, rows)
    return _Measured(layout, runs, estimates, rows, blocks)


def measured_rows(runs: Sequence[Run], layout: Layout, estimates: Estimates) -> Iterator[Row]:
    """The rows of runs: one for every metric that is measured in at least one column."""
    for run in runs:
        for metric in METRICS:
            cells: dict[str, Cell] = {
                column: estimates.get(Key(run.method, metric, ALL, column)) for column in layout.columns
            }
            n = sum(cell.n or 0 for c in layout.splits if (cell := cells[c]) is not None)
            if n:
                yield Row(run.method, metric, cells, n, False)


def read_published(table: int) -> list[Row]:
    """The paper's rows of a table, in its order, from published.csv."""
    layout = LAYOUTS[table]
    published = pd.read_csv(Path(__file__).with_name("published.csv"), keep_default_na=False)
    published = published[published["table"] == table]
    cells: dict[tuple[str, str], dict[str, Cell]] = {
        (str(method), str(metric)): {
            str(column): Estimate(float(value))
            for column, value in zip(lines["column"], lines["value"], strict=True)
        }
        for (method, metric), lines in published.groupby(["method", "metric"], sort=False)
    }
    rows = []
    for (method, metric), values in cells.items():
        numbers = [cell.value for c in layout.splits if (cell := values.get(c)) is not None]
        if layout.means and len(numbers) == len(layout.splits):
            values[MEAN_MACRO] = Estimate(sum(numbers) / len(numbers))
        rows.append(Row(method + PUBLISHED_SUFFIX, metric, values, None, True))
    return rows


def _notes(runs: Sequence[Run], layout: Layout, rows: Sequence[Row]) -> list[str]:
    """What a reader must know beside the numbers: protocol, sizes, seeds, intervals, what is missing."""
    notes = ["Percent; accuracies count errors strictly below the threshold, means are over images."]
    notes.append(
        "Pose and masks: under the true category (class-known), as in the papers; class: the method's own "
        "choice (class-free)."
    )
    if layout.means:
        notes.append("The mean is over all images, the macro mean over the columns.")
    sizes = {c: len(run.errors[s]) for c, s in layout.splits.items() for run in runs if s in run.errors}
    if sizes:
        notes.append("Samples: " + ", ".join(f"{column} {n}" for column, n in sizes.items()) + ".")
    seeds = [f"{run.method} {run.about['seed']}" for run in runs if "seed" in run.about]
    if seeds:
        notes.append(f"Seeds: {', '.join(seeds)}.")
    cells = [cell for row in rows for cell in row.cells.values() if cell is not None]
    reach = [
        max(c.high - c.value, c.value - c.low) for c in cells if c.low is not None and c.high is not None
    ]
    if reach:
        notes.append(
            f"95 % intervals (bootstrap, {RESAMPLES} resamples) reach at most {max(reach):.1f} from a cell; "
            "each is on the HTML page and in the breakdown."
        )
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
            blocks.append(Block(LABELS[metric], tuple(columns), tuple(lines)))
    return blocks


def _metric_columns(rows: Sequence[Row]) -> list[Block]:
    """Table 3's one block: a line a method, a column a metric."""
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = {row.metric: row for row in rows if row.method == method}
        first = next(iter(mine.values()))
        cells = tuple(mine[m].cells["all"] if m in mine else None for m in _TABLE_3_METRICS)
        lines.append(Line(method, cells, first.n, first.published))
    return [Block("Ablation", tuple(LABELS[m] for m in _TABLE_3_METRICS), tuple(lines))]


def _breakdown_blocks(estimates: Estimates, layout: Layout) -> list[Block]:
    """A block a metric, a line a method and category; lower is better in the last, the median error."""
    blocks = []
    for metric in (*METRICS, *FURTHER, MEDIAN):
        named = dict.fromkeys((key.method, key.category) for key in estimates if key.metric == metric)
        lines = []
        for method, category in named:
            cells = tuple(estimates.get(Key(method, metric, category, c)) for c in layout.columns)
            n = sum(cell.n or 0 for cell in cells[: len(layout.splits)] if cell is not None)
            lines.append(Line(method, cells, n, False, category))
        if lines:
            blocks.append(Block(LABELS[metric], layout.columns, tuple(lines)))
    return blocks


def _breakdown_frame(estimates: Estimates) -> pd.DataFrame:
    """A row an estimate, with its interval."""
    return pd.DataFrame(
        [(*astuple(key), *astuple(estimate)) for key, estimate in estimates.items()],
        columns=["method", "metric", "category", "column", "value", "low", "high", "n"],
    ).astype({"n": "Int64"})


def _provenance(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """A line a run: what run.json says of how it was made."""
    wanted = ("ntdm", "torch", "device", "threads", "seed", "samples", "seconds", "data_fingerprint")
    lines = []
    for run in runs:
        known = {key: run.about[key] for key in wanted if key in run.about}
        said = (
            f"{key} {value:.0f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in known.items()
        )
        lines.append((run.method, ", ".join(said) or "not known"))
    return lines


def _frame(layout: Layout, number: int, rows: Sequence[Row], blocks: Sequence[Block]) -> pd.DataFrame:
    """The table as its CSV has it: a row a method and metric, of Table 3 a row a method."""
    if number == 3:
        header = ["method", *_TABLE_3_METRICS, "n"]
        lines = [[line.method, *map(_value, line.cells), line.n] for line in blocks[0].lines]
    else:
        header = ["method", "metric", *layout.columns, "n"]
        lines = [
            [row.method, row.metric, *(_value(row.cells.get(c)) for c in layout.columns), row.n]
            for row in rows
        ]
    return pd.DataFrame(lines, columns=header).astype({"n": "Int64"})


def _value(cell: Cell) -> float:
    return math.nan if cell is None else cell.value


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.4f", lineterminator="\n")
