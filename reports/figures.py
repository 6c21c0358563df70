"""The figure beside each table, and the histograms of a cache; the one door to matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from ntdm.reports.typeset import Block, Line

_LINES_PANEL, _BARS_PANEL = (4.2, 3.2), (8.4, 2.3)  # inches
_LEGEND_ENTRY = 2.4  # inches
_VIEWPOINTS = (11.0, 6.0)  # inches
_FARTHEST = 40.0  # CAD units: a few annotations reach 100 and would squeeze the rest into one bar
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


def draw_viewpoints(
    title: str, viewpoint: np.ndarray, cads: Mapping[str, int], dropped: Mapping[str, int], path: Path
) -> None:
    """Histograms of a cache file's viewpoints, beside its samples by CAD and its dropped ones by reason.

    Args:
        viewpoint: [N, 4] azimuth, elevation, theta (radians), distance (CAD units).
        cads: label -> samples. dropped: reason -> count.
    """
    figure = Figure(_VIEWPOINTS, layout="constrained")
    (azimuth, elevation, theta), (distance, cad, lost) = figure.subplots(2, 3)
    a, e, t = np.degrees(viewpoint[:, :3]).T
    # Bins of 30 degrees with the front in the middle of the first.
    azimuth.hist((a + 15) % 360 - 15, np.arange(-15, 346, 30), edgecolor="white")
    azimuth.set_xticks(
        [0, 90, 180, 270], ["0\nfront", "90\nits left", "180\nback", "270\nits right"], fontsize=8
    )
    for panel, values in ((elevation, e), (theta, t)):
        # Symmetric about 0, as far out as the samples are.
        reach = max(30.0, 10 * np.ceil(np.abs(values).max(initial=0) / 10))
        panel.hist(values, np.arange(-reach, reach + 1, 10), edgecolor="white")
        panel.xaxis.set_major_locator(MultipleLocator(30 if reach <= 90 else 60))
    d = viewpoint[:, 3]
    far = min(_FARTHEST, max(1.0, np.ceil(d.max(initial=0))))
    distance.hist(d.clip(0, far), np.linspace(0, far, 21), edgecolor="white")
    if (d > far).any():
        distance.annotate(f"{(d > far).sum()} at {far:.0f} or more", (0.98, 0.95), xycoords="axes fraction",
                          ha="right", va="top", fontsize=8)  # fmt: skip
    for panel, label in (
        (azimuth, "azimuth (degrees): the side that is seen"),
        (elevation, "elevation (degrees), > 0 from above"),
        (theta, "theta (degrees), > 0 counter-clockwise"),
        (distance, "distance (CAD units)"),
    ):
        panel.set_xlabel(label, fontsize=9)
        panel.set_ylabel("samples", fontsize=9)
        panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    _counted(cad, cads, "samples by CAD")
    _counted(lost, dropped, "dropped samples by reason")
    for panel in (azimuth, elevation, theta, distance, cad, lost):
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120, format="png", metadata={"Software": None})


def _counted(panel: Axes, counts: Mapping[str, int], label: str) -> None:
    """Horizontal bars, each with its number; first on top."""
    names = list(counts)
    bars = panel.barh(range(len(names)), [counts[name] for name in names])
    panel.bar_label(bars, padding=3, fontsize=8)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.set_xlabel(label, fontsize=9)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not names:
        panel.set_axis_off()
        panel.text(0.5, 0.5, f"{label}: none", transform=panel.transAxes, ha="center", fontsize=9)


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
