"""Shapes that no file holds: a model stretched unevenly, the second half of the shape nuisance."""

from collections.abc import Callable

import numpy as np

from ntdm.data_prep.synthetic.texture import Array

LENGTHS = (1.15, 1.35)  # by which a model is stretched along one axis at least, and pressed along another
BEND = (
    0.45  # share of an axis's stretch that moves from its middle to its ends or back; below 1 nothing folds
)
TAPER = 0.18  # of the width and length that is gone at the top, or at the bottom


def non_rigid(vertices: Array, rng: np.random.Generator) -> Callable[[Array], Array]:
    """A smooth map of space that takes a model to another shape, and no line to a line.

    Args:
        vertices: [V, 3], object frame, CAD units; all that the faces use.
        rng: decides the shape.

    Returns:
        from points [N, 3] of the model to points [N, 3] of the new one, whose box is centred at the origin
        and has the diagonal 1 again. What mirrors about x = 0 does so afterwards.
    """
    low, high = vertices.min(0), vertices.max(0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-6)
    lengths = rng.uniform(*LENGTHS, 3) ** rng.permutation([1, -1, rng.choice([1, -1])])
    bend = rng.uniform(0.2, BEND, 3) * rng.choice([-1, 1], 3)
    taper = TAPER * rng.uniform(-1, 1)

    def moved(points: Array) -> Array:
        place = (points - middle) / half  # -1 to 1
        along = half * lengths * (place + bend * np.sin(np.pi * place) / np.pi)
        return along * np.stack([1 - taper * place[:, 2], 1 - taper * place[:, 2], np.ones(len(place))], 1)

    shape = moved(vertices)
    low, high = shape.min(0), shape.max(0)
    centre, diagonal = (low + high) / 2, np.linalg.norm(high - low)
    return lambda points: (moved(points) - centre) / diagonal
