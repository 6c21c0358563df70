"""`ntdm report`: Tables 1, 2 and 3 from the error files of runs, beside the published rows (docs/formats.md).

    table_N.csv              four decimals          table_N_breakdown.csv   by category, with intervals
    table_N.md, table_N.tex  one decimal            table_N.html            all of it on one page
    table_N.png, table_N_curves.png, table_N_confusion.png, table_N_seconds.png

What is read of a run is said in runs.py, how intervals are made in measures.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ntdm.config.protocol import ABLATIONS, NUISANCES
from ntdm.geometry import metrics
from ntdm.io.outputs import atomic_path, sweep
from ntdm.reports import figures, page
from ntdm.reports.measures import ALL, FURTHER, LABELS, MEAN, MEAN_MACRO, MEDIAN, METRICS, RESAMPLES, estimate
from ntdm.reports.page import Picture
from ntdm.reports.runs import PUBLISHED_SUFFIX, Run, check_comparable, read_run, run_folders
from ntdm.reports.typeset import latex, markdown

_TABLE_3_METRICS = ("pose_acc_pi_6", "pose_acc_pi_18", "amodal_iou")
_BOUNDED = ["value", "low", "high"]


@dataclass(frozen=True)
class Layout:
    """Which splits a table shows, and how.

    Attributes:
        title: of the table.
        splits: column -> dataset/split.
        means: whether columns mean and mean_macro follow.
        ordered: whether the columns are a scale, drawn as lines.
        notes: said when published rows are shown.
    """

    title: str
    splits: dict[str, str]
    means: bool
    ordered: bool
    notes: tuple[str, ...]

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
    layout, measured, estimates, rows = _measure(table, runs, published)
    blocks = _blocks(table, rows)
    target = out / f"table_{table}.csv"
    notes = [*_notes(measured, layout, rows), *(layout.notes if published else ())]
    label = f"Table {table}"
    # First what may still refuse: a cache that has not what was predicted.
    shown = pictures(layout.splits, target.with_name(f"{target.stem}_pictures")) if pictures else ()
    drawn = figures.draw_all(
        target, f"{label}. {layout.title}", blocks, layout.ordered, layout.splits, measured
    )
    text = {
        ".md": markdown(label, layout.title, blocks, notes, drawn[0].path.name),
        ".tex": latex(label, layout.title, blocks, notes),
        ".html": page.html(
            f"{label}. {layout.title}",
            blocks,
            notes,
            _breakdown_blocks(estimates, layout),
            [*drawn, *(Picture(path, caption) for path, caption in shown)],
            _provenance(measured),
        ),
    }
    for suffix, typeset in text.items():
        with atomic_path(target.with_suffix(suffix)) as temporary:
            temporary.write_text(typeset, encoding="utf-8")
    _write_csv(target.with_name(f"{target.stem}_breakdown.csv"), estimates)
    _write_csv(target, pd.concat([rows["value"], rows["n"]], axis=1))
    return target


def table(number: int, runs: Path | str | Sequence[Path | str], published: bool = False) -> pd.DataFrame:
    """A table as `ntdm report` prints it.

    Args:
        number: 1 (occlusion), 2 (nuisances) or 3 (ablations).
        runs: run folders, in the order of the rows; of Table 3 the ablations stand in the paper's order.
        published: whether the papers' rows stand above the measured ones, "(published)" after their method.

    Returns:
        Indexed by method and metric, of Table 3 by method. The columns as printed, percent, NaN where not
        measured; `n`, samples, NA of a published row; then `<column>_low` and `<column>_high` of every
        printed column, the bounds of its 95 % interval.

    Raises:
        ValueError: as :func:`report`.
    """
    rows = _measure(number, runs, published).rows
    bounds = [rows[bound].add_suffix(f"_{bound}") for bound in _BOUNDED[1:]]
    return pd.concat([rows["value"], rows["n"], *bounds], axis=1)


def breakdown(number: int, runs: Path | str | Sequence[Path | str]) -> pd.DataFrame:
    """Every number of a table by category, with its 95 % interval.

    Args:
        number: 1 (occlusion), 2 (nuisances) or 3 (ablations).
        runs: run folders.

    Returns:
        Indexed by method, metric, category ("all": every photo, "class mean": the mean of the categories) and
        column; value, low, high (percent; of median_error_deg degrees) and n, samples.

    Raises:
        ValueError: as :func:`report`.
    """
    return _measure(number, runs, published=False).estimates


class _Measured(NamedTuple):
    """What a table is made of.

    Attributes:
        layout: of the table.
        runs: as read, in the order of the rows.
        estimates: as measures.estimate gives them.
        rows: indexed by method and metric, of Table 3 by method; columns value, low, high of every printed
            column, and n.
    """

    layout: Layout
    runs: list[Run]
    estimates: pd.DataFrame
    rows: pd.DataFrame


def _measure(number: int, runs: Path | str | Sequence[Path | str], published: bool) -> _Measured:
    if number not in LAYOUTS:
        raise ValueError(f"table {number} is unknown: want 1, 2 or 3")
    layout = LAYOUTS[number]
    read = [read_run(path, list(layout.splits.values())) for path in run_folders(runs)]
    if number == 3:
        read.sort(key=lambda run: ABLATIONS.index(run.method) if run.method in ABLATIONS else len(ABLATIONS))
    check_comparable(read)
    estimates = estimate(read, layout.splits, layout.means)
    parts = [read_published(number)] if published else []
    rows = pd.concat([*parts, _measured_rows(read, layout, estimates)])
    if number == 3:
        rows = _metric_columns(rows)
    if not len(rows):
        files = ", ".join(f"errors/{split}.csv" for split in layout.splits.values())
        raise ValueError(
            f"nothing to show in table {number}: no run given has errors that it shows in {files}; "
            "run evaluate first"
        )
    return _Measured(layout, read, estimates, rows)


def _measured_rows(runs: Sequence[Run], layout: Layout, estimates: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs: one for every metric that is measured in at least one column."""
    whole = estimates[estimates.index.get_level_values("category") == ALL]
    rows = _wide(whole.droplevel("category"), layout)
    order = [(run.method, metric) for run in runs for metric in METRICS]
    return rows.loc[[key for key in order if key in rows.index]]


def _wide(estimates: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Estimates with their columns side by side, value, low, high and n, in the order that they come in."""
    order = estimates.index.droplevel("column").unique()
    columns = pd.MultiIndex.from_product([_BOUNDED, layout.columns])
    rows = estimates[_BOUNDED].unstack("column").reindex(order, columns=columns)
    samples = estimates["n"].unstack("column").reindex(order, columns=list(layout.splits))
    rows["n", ""] = samples.sum(axis=1).astype("Int64")
    return rows


def read_published(number: int) -> pd.DataFrame:
    """The paper's rows of a table, in its order, from published.csv: no interval, no n."""
    layout = LAYOUTS[number]
    lines = pd.read_csv(
        Path(__file__).with_name("published.csv"),
        dtype={"table": int, "method": str, "metric": str, "column": str, "value": str},
        keep_default_na=False,
    ).astype({"value": float})  # from text: each the nearest number
    lines = lines[lines["table"] == number].assign(method=lambda lines: lines["method"] + PUBLISHED_SUFFIX)
    cells = lines.set_index(["method", "metric", "column"])["value"]
    values = cells.unstack("column").reindex(cells.index.droplevel("column").unique())
    if layout.means:
        values[MEAN_MACRO] = values[list(layout.splits)].mean(axis=1)
    rows = pd.concat({"value": values}, axis=1)
    rows = rows.reindex(columns=pd.MultiIndex.from_product([_BOUNDED, layout.columns]))
    rows["n", ""] = pd.array([pd.NA] * len(rows), "Int64")
    return rows


def _metric_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 3: a row a method, a column a metric; without what only a classifier measures."""
    rows = rows[rows.index.get_level_values("metric").isin(_TABLE_3_METRICS)]
    order = rows.index.unique("method")
    columns = pd.MultiIndex.from_product([_BOUNDED, _TABLE_3_METRICS])
    cells = pd.concat({name: rows[name]["all"].unstack("metric") for name in _BOUNDED}, axis=1)
    table = cells.reindex(order, columns=columns)
    table["n", ""] = rows["n"].groupby(level="method").first()
    return table


def _blocks(number: int, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A block a metric that any row has; of Table 3 the one that there is."""
    if number == 3:
        return {"Ablation": rows.rename(columns=LABELS)}
    measured = rows.index.unique("metric")
    return {LABELS[metric]: rows.xs(metric, level="metric") for metric in METRICS if metric in measured}


def _breakdown_blocks(estimates: pd.DataFrame, layout: Layout) -> dict[str, pd.DataFrame]:
    """A block a metric, a row a method and category; lower is better in the last, the median error."""
    measured = estimates.index.unique("metric")
    return {
        LABELS[metric]: _wide(estimates.xs(metric, level="metric"), layout)
        for metric in (*METRICS, *FURTHER, MEDIAN)
        if metric in measured
    }


def _notes(runs: Sequence[Run], layout: Layout, rows: pd.DataFrame) -> list[str]:
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
    reach = pd.concat([rows["high"] - rows["value"], rows["value"] - rows["low"]]).max().max()
    if pd.notna(reach):
        notes.append(
            f"95 % intervals (bootstrap, {RESAMPLES} resamples) reach at most {reach:.1f} from a cell; "
            "each is on the HTML page and in the breakdown."
        )
    for run in runs:
        poses = [errors["rotation_error"] for errors in run.errors.values() if "rotation_error" in errors]
        failed = sum(int((pose >= metrics.FAILED_ROTATION_ERROR).sum()) for pose in poses)
        if failed:
            notes.append(f"{run.method}: failed predictions, counted as wrong: {failed}.")
        missing = [column for column, split in layout.splits.items() if split not in run.errors]
        if missing:
            notes.append(f"{run.method}: not evaluated on {', '.join(missing)}.")
    return notes


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


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    """An index and its columns, four decimals."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, float_format="%.4f", lineterminator="\n", encoding="utf-8")
