"""The figure of one estimate: ``estimate.plot()``."""

import numpy as np
from matplotlib.figure import Figure


def draw_estimate(
    photo: np.ndarray, overlay: np.ndarray, amodal: np.ndarray, visible: np.ndarray, title: str
) -> Figure:
    """Photo, mesh over it and both masks, side by side.

    Args:
        photo: u8 [h, w, 3].
        overlay: u8 [h, w, 3].
        amodal: bool [h, w].
        visible: bool [h, w].
        title: of the figure.
    """
    height, width = amodal.shape
    figure = Figure(figsize=(10, 10 / 4 * height / width + 0.8), layout="constrained")
    panels = {"photo": photo, "mesh": overlay, "amodal": amodal, "visible": visible}
    for axes, (name, picture) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1 if picture.dtype == bool else 255)
        axes.set_title(name)
        axes.axis("off")
    figure.suptitle(title)
    return figure
