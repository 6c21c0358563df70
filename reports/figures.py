"""The figures beside a table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ntdm.io.outputs import atomic_path
from ntdm.reports.page import Picture
from ntdm.reports.runs import PUBLISHED_SUFFIX, Run
from ntdm.reports.typeset import Blocks

_LINES_PANEL, _BARS_PANEL = (4.2, 3.2), (8.4, 2.3)  # inches
_LEGEND_ENTRY = 2.4  # inches
_CURVES_PANEL, _STAGES_PANEL = (3.4, 2.9), (4.4, 0.34)  # inches; of the second, the height a bar
_CONFUSION_CELL = 0.34, 0.14  # inches, with numbers and without
_MOST_NUMBERS = 6  # categories: in a larger confusion matrix numbers would run into each other
_MOST_BAR_NUMBERS = 24  # in a panel, for the same reason
_MARKERS = "osD^vPX*"
_OPTIONAL = ("_curves", "_confusion", "_seconds")  # endings of figures that not every table has
# Published rows, in lower case, that our runs have under another name.
_OURS = {
    "mt mask r-cnn": "mask-rcnn",
    "w/o background": "no-background",
    "single α_b": "single-alpha",
    "fixed shape": "fixed-shape",
    "latent random": "latent-random",
    "latent average 1/n": "latent-average",
}

Styles = dict[str, tuple[str, Any]]  # method -> marker, colour


def draw_all(
    target: Path,
    title: str,
    blocks: Blocks,
    ordered: bool,
    splits: Mapping[str, str],
    runs: Sequence[Run],
) -> list[Picture]:
    """The figures that there is something for; the table's own is the first. A method has one colour in all.

    What an earlier report left of the others is removed: it would pass for this one's.

    Args:
        target: path of the table; a figure has its name and an ending of its own.
        title: of the table.
        blocks: the table.
        ordered: whether its columns are a scale.
        splits: column -> ``dataset/split``.
        runs: those of the table.
    """
    drawn: list[Picture] = []

    def save(ending: str, caption: str, draw: Callable[..., None], *content: Any) -> None:
        path = target.with_name(f"{target.stem}{ending}.png")
        with atomic_path(path) as temporary:
            draw(*content, temporary)
        drawn.append(Picture(path, caption))

    colours = _paired_colours(
        [*(run.method for run in runs), *(method for block in blocks.values() for method in block.index)]
    )
    save("", "The table, with 95 % intervals; pale: published.", draw_table, title, blocks, ordered, colours)
    curves: dict[str, dict[str, np.ndarray]] = {column: {} for column in splits}
    guesses: dict[str, dict[str, pd.Series]] = {run.method: {} for run in runs}
    for run in runs:
        for column, split in splits.items():
            errors = run.errors.get(split, pd.DataFrame())
            if "rotation_error" in errors:
                curves[column][run.method] = np.degrees(errors["rotation_error"].to_numpy())
            if "predicted_category" in errors:
                guesses[run.method][column] = errors["predicted_category"]
    if any(curves.values()):
        caption = "Share of images with a smaller pose error; dotted: π/18 and π/6."
        save("_curves", caption, draw_error_curves, "Cumulative pose error", curves, colours)
    if any(guesses.values()):
        caption = "Images of a category (row) by predicted category (column), percent of the row."
        save("_confusion", caption, draw_confusion, "Predicted categories", guesses, tuple(splits))
    training = {run.method: float(run.about["seconds"]) for run in runs if "seconds" in run.about}
    timed = {run.method: [e["seconds"] for e in run.errors.values() if "seconds" in e] for run in runs}
    prediction = {method: float(np.concatenate(times).mean()) for method, times in timed.items() if times}
    if training or prediction:
        caption = "Time of the stages, each on the device that its run.json names."
        stages = {"training, seconds": training, "prediction, seconds an image": prediction}
        save("_seconds", caption, draw_seconds, "Time of the stages", stages, colours)
    for ending in _OPTIONAL:
        path = target.with_name(f"{target.stem}{ending}.png")
        if path not in [picture.path for picture in drawn]:
            path.unlink(missing_ok=True)
    return drawn


def draw_table(title: str, blocks: Blocks, ordered: bool, colours: Mapping[str, Any], path: Path) -> None:
    """One panel a block: lines over ordered columns (occlusion levels), bars over unordered ones.

    Published rows are dashed or hatched and pale; a cell that was not measured is left out.

    Args:
        title: of the table.
        blocks: the table.
        ordered: whether its columns are a scale.
        colours: by method.
        path: of the PNG.
    """
    names = dict.fromkeys(method for block in blocks.values() for method in block.index)
    methods = sorted(names, key=_published)
    styles = {m: (_MARKERS[i % len(_MARKERS)], colours[m]) for i, m in enumerate(methods)}
    columns = min(len(blocks), 2) if ordered else 1
    rows = -(-len(blocks) // columns)
    panel_width, panel_height = _LINES_PANEL if ordered else _BARS_PANEL
    width = panel_width * columns
    legend_columns = min(len(methods), int(width // _LEGEND_ENTRY))
    height = panel_height * rows + 0.22 * -(-len(methods) // legend_columns) + 0.4
    # No pyplot: it would keep the figure, and ask for a display.
    figure = Figure((width, height), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel in axes[len(blocks) :]:
        panel.remove()
    handles: dict[str, Any] = {}
    for (heading, block), panel in zip(blocks.items(), axes, strict=False):
        (_lines if ordered else _bars)(panel, block, styles, handles)
        if len(blocks) > 1:
            panel.set_title(heading, fontsize=10)
        panel.set_xticks(range(len(block["value"].columns)), block["value"].columns)
        panel.set_ylim(0, 103 if ordered else 114)  # room for markers, for numbers above the bars
        panel.set_yticks(range(0, 101, 20))
        panel.set_ylabel("%")
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.legend(
        [handles[method] for method in methods],
        methods,
        loc="outside lower center",
        ncols=legend_columns,
        fontsize=8,
        frameon=False,
    )
    # The library's version in the file would make equal reports differ.
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})


def draw_error_curves(
    title: str, errors: Mapping[str, Mapping[str, np.ndarray]], colours: Mapping[str, Any], path: Path
) -> None:
    """Share of samples with a smaller pose error, by error; a panel a column, a line a method.

    Args:
        title: of the figure.
        errors: column -> method -> [N] degrees.
        colours: by method.
        path: of the PNG.
    """
    shown = {column: methods for column, methods in errors.items() if methods}
    names = list(dict.fromkeys(method for methods in shown.values() for method in methods))
    across = 2 if len(shown) == 4 else min(len(shown), 3)
    down = -(-len(shown) // across)
    width, height = _CURVES_PANEL
    figure = Figure((width * across, height * down + 0.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(down, across, sharey=True)).ravel()
    for panel in axes[len(shown) :]:
        panel.remove()
    handles: dict[str, Any] = {}
    for (column, methods), panel in zip(shown.items(), axes, strict=False):
        for mark in (10, 30):  # pi/18 and pi/6
            panel.axvline(mark, color="0.6", linewidth=0.8, linestyle=":")
        for method, values in methods.items():
            ordered = np.concatenate([[0.0], np.sort(values), [180.0]])
            share = np.concatenate([[0.0], 100 * np.arange(1, len(values) + 1) / len(values), [100.0]])
            (handles[method],) = panel.step(
                ordered, share, where="post", color=colours[method], linewidth=1.6
            )
        panel.set_title(column, fontsize=10)
        # The square root gives the small errors, which tell good methods apart, half of the width.
        panel.set_xscale("function", functions=(np.sqrt, np.square))
        panel.set_xlim(0, 180)
        panel.set_xticks([0, 5, 10, 30, 60, 90, 180])
        panel.set_ylim(0, 100)
        panel.set_xlabel("pose error, degrees", fontsize=9)
        panel.set_ylabel("images below, %", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    columns = max(1, int(width * across // _LEGEND_ENTRY))
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})


def draw_confusion(
    title: str,
    guesses: Mapping[str, Mapping[str, pd.Series]],
    columns: Sequence[str],
    path: Path,
) -> None:
    """A matrix a method (row of panels) and column of the table; percent of a true category's samples.

    The method's name has a line of its own above its row: it may be longer than a matrix is wide.

    Args:
        title: of the figure.
        guesses: method -> column -> predicted categories [N], the true ones in its index.
        columns: those of the table, in their order.
        path: of the PNG.
    """
    shown = {method: pairs for method, pairs in guesses.items() if pairs}
    across = [column for column in columns if any(column in pairs for pairs in shown.values())]
    names, shares = _confusion({(m, c): guess for m, pairs in shown.items() for c, guess in pairs.items()})
    # One picture with a cell between the matrices: an axes for each would take seconds.
    numbers = len(names) <= _MOST_NUMBERS
    cell = max(_CONFUSION_CELL[0], 1.3 / len(names)) if numbers else _CONFUSION_CELL[1]
    size = 7 if numbers else 5
    gap = max(1, round(0.36 / cell))  # between two rows, for the method's name and the columns'
    step, down = len(names) + 1, len(names) + gap
    grid = np.full((down * len(shown) - gap, step * len(across) - 1), np.nan)
    # A picture's cells stay square, so its frame is cut to what is in it once it is drawn.
    figure = Figure((cell * grid.shape[1] + 1.4, cell * grid.shape[0] + 2.2), layout="constrained")
    panel = figure.subplots()
    for i, (method, pairs) in enumerate(shown.items()):
        for j, column in enumerate(across):
            if column not in pairs:
                continue
            row, left = down * i, step * j
            grid[row : row + len(names), left : left + len(names)] = shares[method, column]
            panel.text(left - 0.5, row - 0.6, column, fontsize=size + 1, va="bottom")
        if len(shown) > 1:
            above = down * i - 0.6 - 0.17 / cell
            panel.text(-0.5, above, method, fontsize=size + 1, va="bottom", weight="bold")
    panel.imshow(grid, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    if numbers:
        for row, left in np.argwhere(np.isfinite(grid)):
            value = grid[row, left]
            colour = "white" if value > 55 else "black"
            panel.text(left, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    rows = [down * i + k for i in range(len(shown)) for k in range(len(names))]
    lefts = [step * j + k for j in range(len(across)) for k in range(len(names))]
    panel.set_yticks(rows, names * len(shown), fontsize=size)
    panel.set_xticks(lefts, names * len(across), rotation=90, fontsize=size)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set_ylabel("true category", fontsize=size + 1)
    panel.set_xlabel("predicted category", fontsize=size + 1)
    figure.suptitle(title, fontsize=11)
    figure.savefig(
        path, dpi=150, format="png", metadata={"Software": None}, bbox_inches="tight", pad_inches=0.1
    )


def _confusion(
    guesses: Mapping[tuple[str, str], pd.Series],
) -> tuple[list[str], dict[tuple[str, str], np.ndarray]]:
    """Percent of a true category's samples (row) by predicted category (column), NaN of one without samples.

    Args:
        guesses: (method, column) -> predicted categories [N], the true ones in the index.

    Returns:
        The K categories that any of them has, and (method, column) -> [K, K].
    """
    every = pd.concat(guesses, names=["method", "column"])
    counts = every.groupby(level=["method", "column", "category"]).value_counts().unstack(fill_value=0)
    names = sorted({*counts.columns, *every.index.unique("category")})
    rows = pd.MultiIndex.from_tuples([(*key, name) for key in guesses for name in names])
    counts = counts.reindex(rows, columns=names, fill_value=0)
    shares = (100.0 * counts).div(counts.sum(axis=1), axis=0).to_numpy()
    return names, dict(zip(guesses, shares.reshape(len(guesses), len(names), len(names)), strict=True))


def draw_seconds(
    title: str, stages: Mapping[str, Mapping[str, float]], colours: Mapping[str, Any], path: Path
) -> None:
    """The stages' times as dots on logarithmic scales, where a bar would have no foot to begin at.

    Args:
        title: of the figure.
        stages: stage and its unit -> method -> seconds.
        colours: by method.
        path: of the PNG.
    """
    shown = {stage: times for stage, times in stages.items() if times}
    most = max(len(times) for times in shown.values())
    width, height = _STAGES_PANEL
    figure = Figure((width * len(shown), height * most + 1.3), layout="constrained")
    for panel, (stage, times) in zip(
        np.atleast_1d(figure.subplots(1, len(shown))), shown.items(), strict=True
    ):
        values = np.array(list(times.values()))
        # Whole decades; a clock that stood still is drawn at the edge.
        decades = np.log10(values[values > 0])
        low, high = np.floor(decades.min(initial=0)), np.ceil(decades.max(initial=-9) + 0.3)
        panel.set_xscale("log")
        panel.set_xlim(10**low, 10 ** max(high, low + 1))
        for i, (method, value) in enumerate(times.items()):
            panel.plot(max(value, 10**low), i, "o", color=colours[method], clip_on=False)
            said = f"{value:.0f}" if value >= 100 else f"{value:.2g}"
            panel.annotate(said, (max(value, 10**low), i), (7, 0), textcoords="offset points", va="center",
                           fontsize=8)  # fmt: skip
        panel.set_yticks(range(len(times)), list(times), fontsize=8)
        panel.set_ylim(len(times) - 0.5, -0.5)
        panel.set_xlabel(stage, fontsize=9)
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})


def _paired_colours(methods: Sequence[str]) -> dict[str, Any]:
    """A colour a method; a published one has that of the measured one it is the paper's row of."""
    bare = {method: method.removesuffix(PUBLISHED_SUFFIX).casefold() for method in methods}
    names = {method: _OURS.get(name, name) for method, name in bare.items()}
    different = list(dict.fromkeys(names.values()))
    palette = colormaps["tab10" if len(different) <= 10 else "tab20"]
    return {method: palette(different.index(name) % palette.N) for method, name in names.items()}


def _published(method: str) -> bool:
    return method.endswith(PUBLISHED_SUFFIX)


def _lines(panel: Axes, block: pd.DataFrame, styles: Styles, handles: dict[str, Any]) -> None:
    places = np.arange(len(block["value"].columns))
    for method, cells in zip(block.index, _cells(block), strict=True):
        published, (marker, colour) = _published(method), styles[method]
        (handles[method],) = panel.plot(
            places,
            cells[0],
            color=colour,
            marker=marker,
            markersize=4 if published else 6,
            linewidth=1.1 if published else 2.2,
            linestyle="--" if published else "-",
            alpha=0.65 if published else 1.0,
        )
        if not published:
            _whiskers(panel, places, cells, colour)


def _bars(panel: Axes, block: pd.DataFrame, styles: Styles, handles: dict[str, Any]) -> None:
    width = 0.84 / len(block)
    for i, (method, cells) in enumerate(zip(block.index, _cells(block), strict=True)):
        places = np.arange(cells.shape[1]) - 0.42 + width * (i + 0.5)
        published, (values, _, high) = _published(method), cells
        handles[method] = panel.bar(
            places,
            values,
            width * 0.92,
            color=styles[method][1],
            hatch="///" if published else None,
            edgecolor="white",
            linewidth=0.0,
            alpha=0.55 if published else 1.0,
        )
        if not published:
            _whiskers(panel, places, cells, "0.25")
        if len(block) * len(places) <= _MOST_BAR_NUMBERS:
            tops = np.where(np.isnan(high), values, high)
            for x, value, top in zip(places, values, tops, strict=True):
                if not np.isnan(value):
                    panel.text(x, top + 1, f"{value:.1f}", ha="center", va="bottom", fontsize=6)


def _whiskers(panel: Axes, places: np.ndarray, cells: np.ndarray, colour: Any) -> None:
    """95 % intervals of the cells [3, C] that have one."""
    value, low, high = cells
    bounded = ~np.isnan(low)
    if bounded.any():
        reach = np.stack([value - low, high - value])[:, bounded]
        panel.errorbar(places[bounded], value[bounded], reach, fmt="none", ecolor=colour, elinewidth=1.0,
                       capsize=2.5)  # fmt: skip


def _cells(block: pd.DataFrame) -> np.ndarray:
    """Value, low and high of a block's rows and columns, [R, 3, C]."""
    return np.stack([block[name].to_numpy() for name in ("value", "low", "high")], 1)
