"""The figure beside each table; the one door to matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntdm.reports.typeset import Block, Line

_PANEL = (4.2, 3.4)  # inches
_MARKERS = "osD^vPX*"


def draw(title: str, blocks: Sequence[Block], ordered: bool, path: Path) -> None:
    """One panel a block: lines over ordered columns (occlusion levels), bars over unordered ones.

    Published rows are dashed or hatched and pale; a cell that was not measured is left out.
    """
    methods = list(dict.fromkeys(line.method for block in blocks for line in block.lines))
    palette = colormaps["tab10" if len(methods) <= 10 else "tab20"]
    colours = {method: palette(i % palette.N) for i, method in enumerate(methods)}
    columns = min(len(blocks), 2) if ordered else 1
    rows = -(-len(blocks) // columns)
    widest = max(len(block.columns) * len(block.lines) for block in blocks)
    width = _PANEL[0] * columns if ordered else min(max(2.0 * _PANEL[0], 0.22 * widest), 18)
    legend_rows = -(-len(methods) // max(1, int(width // 2.4)))
    # No pyplot: it would keep the figure, and ask for a display.
    figure = Figure((width, _PANEL[1] * rows + 0.25 * legend_rows + 0.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel in axes[len(blocks) :]:
        panel.remove()
    handles: dict[str, object] = {}
    for block, panel in zip(blocks, axes, strict=False):
        (_lines if ordered else _bars)(panel, block, colours, handles)
        panel.set_title(block.heading, fontsize=10)
        panel.set_ylim(0, 100)
        panel.set_ylabel("%")
        panel.grid(axis="y", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    shown = {method: handles[method] for method in methods if method in handles}
    figure.legend(
        list(shown.values()),
        list(shown),
        loc="outside lower center",
        ncols=max(1, int(width // 2.4)),
        fontsize=8,
        frameon=False,
    )
    # The library's version in the file would make equal reports differ.
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})


def _lines(panel: Axes, block: Block, colours: dict, handles: dict) -> None:
    for i, line in enumerate(block.lines):
        (handles[line.method],) = panel.plot(
            range(len(block.columns)),
            _values(line),
            color=colours[line.method],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=4 if line.published else 6,
            linewidth=1.1 if line.published else 2.2,
            linestyle="--" if line.published else "-",
            alpha=0.65 if line.published else 1.0,
        )
    panel.set_xticks(range(len(block.columns)), block.columns)


def _bars(panel: Axes, block: Block, colours: dict, handles: dict) -> None:
    width = 0.84 / max(len(block.lines), 1)
    numbers = len(block.lines) * len(block.columns) <= 40  # more would run into each other
    for i, line in enumerate(block.lines):
        places = np.arange(len(block.columns)) - 0.42 + width * (i + 0.5)
        values = _values(line)
        bars = panel.bar(
            places,
            values,
            width * 0.92,
            color=colours[line.method],
            hatch="///" if line.published else None,
            edgecolor="white",
            linewidth=0.0,
            alpha=0.55 if line.published else 1.0,
        )
        handles[line.method] = bars
        for x, value in zip(places, values, strict=True):
            if numbers and np.isfinite(value):
                panel.text(x, value + 1, f"{value:.1f}", ha="center", va="bottom", fontsize=6)
    panel.set_xticks(range(len(block.columns)), block.columns)


def _values(line: Line) -> np.ndarray:
    return np.array([np.nan if cell is None else cell for cell in line.cells])
