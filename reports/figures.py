"""The figure beside each table; the one door to matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntdm.reports.typeset import Block, Line

_LINES_PANEL, _BARS_PANEL = (4.2, 3.2), (8.4, 2.3)  # inches
_LEGEND_ENTRY = 2.4  # inches
_MARKERS = "osD^vPX*"

Styles = dict[str, tuple[str, Any]]  # method -> marker, colour


def draw(title: str, blocks: Sequence[Block], ordered: bool, path: Path) -> None:
    """One panel a block: lines over ordered columns (occlusion levels), bars over unordered ones.

    Published rows are dashed or hatched and pale; a cell that was not measured is left out.
    """
    lines = [line for block in blocks for line in block.lines]
    methods = list(dict.fromkeys(line.method for line in sorted(lines, key=lambda line: line.published)))
    palette = colormaps["tab10" if len(methods) <= 10 else "tab20"]
    styles = {m: (_MARKERS[i % len(_MARKERS)], palette(i % palette.N)) for i, m in enumerate(methods)}
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
    for block, panel in zip(blocks, axes, strict=False):
        (_lines if ordered else _bars)(panel, block, styles, handles)
        if len(blocks) > 1:
            panel.set_title(block.heading, fontsize=10)
        panel.set_xticks(range(len(block.columns)), block.columns)
        panel.set_ylim(0, 100)
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


def _lines(panel: Axes, block: Block, styles: Styles, handles: dict[str, Any]) -> None:
    for line in block.lines:
        marker, colour = styles[line.method]
        (handles[line.method],) = panel.plot(
            range(len(block.columns)),
            _values(line),
            color=colour,
            marker=marker,
            markersize=4 if line.published else 6,
            linewidth=1.1 if line.published else 2.2,
            linestyle="--" if line.published else "-",
            alpha=0.65 if line.published else 1.0,
        )


def _bars(panel: Axes, block: Block, styles: Styles, handles: dict[str, Any]) -> None:
    width = 0.84 / len(block.lines)
    for i, line in enumerate(block.lines):
        places = np.arange(len(block.columns)) - 0.42 + width * (i + 0.5)
        values = _values(line)
        handles[line.method] = panel.bar(
            places,
            values,
            width * 0.92,
            color=styles[line.method][1],
            hatch="///" if line.published else None,
            edgecolor="white",
            linewidth=0.0,
            alpha=0.55 if line.published else 1.0,
        )
        # More numbers than these would run into each other.
        if len(block.lines) * len(block.columns) <= 30:
            for x, value in zip(places[np.isfinite(values)], values[np.isfinite(values)], strict=True):
                panel.text(x, value + 1, f"{value:.1f}", ha="center", va="bottom", fontsize=6)


def _values(line: Line) -> np.ndarray:
    return np.array([np.nan if cell is None else cell for cell in line.cells])
