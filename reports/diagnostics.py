"""Figures of what a table rests on: the histograms of a cache, the convergence of a shape fit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

_VIEWPOINTS = (11.0, 6.0)  # inches
_FARTHEST = 40.0  # CAD units: a few annotations reach 100 and would squeeze the rest into one bar


def draw_viewpoints(
    title: str, viewpoint: np.ndarray, cads: Mapping[str, int], dropped: Mapping[str, int], path: Path
) -> None:
    """Histograms of a cache file's viewpoints, beside its samples by CAD and its dropped ones by reason.

    Args:
        title: of the figure.
        viewpoint: [N, 4] azimuth, elevation, theta (radians), distance (CAD units).
        cads: label -> samples.
        dropped: reason -> count.
        path: of the PNG.
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


def draw_convergence(title: str, history: Sequence[Sequence[float]], path: Path) -> None:
    """Loss of a shape fit, on a logarithmic axis, over its steps; history is rows of (step, loss)."""
    figure = Figure((5.0, 3.2), layout="constrained")
    panel = figure.subplots()
    steps, losses = np.asarray(history, float).T
    panel.semilogy(steps, losses)
    panel.set_xlabel("step")
    panel.set_ylabel("loss, diagonals")
    panel.set_title(title, fontsize=10)
    panel.grid(alpha=0.3, which="both")
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})


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
