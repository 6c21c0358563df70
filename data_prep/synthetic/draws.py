"""Draws that keep the textures, backgrounds and lights of the tests apart from training's.

Every range that such a parameter is drawn from is cut into CELLS equal cells; training has those with even
numbers, all other splits those with odd ones. So the tests look as varied and are as hard, but nothing in
them was seen: a test hue lies between two sectors of training's hues, the lamp stands between its lamps.

Apart is what `uniform` draws: hue, saturation and value of colours, lightness of greys and of typical
materials; frequency and scale of textures; the lamp's azimuth, height and strength, ambient and fill light,
gloss; the shadow's depth; the background's horizon, clutter, slopes and blur. Not apart is which family of
textures or shapes is drawn (those that training never draws are the texture and context nuisances), and what
is normally distributed: directions and small casts of colour.
"""

import math
from typing import Any

import numpy as np

CELLS = 16


class TrainingDraws(np.random.Generator):
    """A generator whose `uniform` falls into the even cells of its range."""

    odd = 0

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """As numpy's, at double density in the allowed cells."""
        if size is None and isinstance(low, int | float) and isinstance(high, int | float):
            # the same arithmetic without arrays, a sixth of the time: most draws are of one number
            one = self.random() * (CELLS // 2)
            return float(low + (high - low) * ((math.floor(one) + self.odd + one) / CELLS))
        shape = np.broadcast_shapes(np.shape(low), np.shape(high)) if size is None else size
        place = self.random(shape) * (CELLS // 2)
        share = (np.floor(place) + self.odd + place) / CELLS
        drawn = np.asarray(low) + (np.asarray(high) - np.asarray(low)) * share
        return drawn if np.ndim(drawn) else float(drawn)  # a numpy scalar would turn float32 into float64


class HeldOutDraws(TrainingDraws):
    """A generator whose `uniform` falls into the odd cells of its range."""

    odd = 1
