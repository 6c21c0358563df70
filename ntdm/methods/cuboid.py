"""NeMo's mesh: one box a category, its six sides gridded, around the CADs of all its instances.

    1. the box: per axis, the shortest interval that holds 99 % of all CADs' vertices;
    2. one grid spacing for all sides, sqrt(box surface / wanted number of vertices);
    3. six sides with vertices of their own, so that a vertex is seen when its side is.

Rigid: the one shape that the solver (ntdm/render_and_compare) needs no latent for.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ntdm.io.cache import CacheFile
from ntdm.io.cache_split import CacheSplit
from ntdm.io.run_folder import check_kinds
from ntdm.methods.base import Shapes

COVERAGE = 0.99


class Cuboid(nn.Module):
    """The gridded box of one category, in the object frame, CAD units.

    Args:
        low: [3] its corner of least coordinates.
        high: [3] its corner of largest coordinates.
        vertices: about how many it gets.

    Attributes:
        vertices: [V, 3]; side after side, each a whole grid: z low, z high, y low, y high, x low, x high.
        faces: [F, 3] int64.
        normals: [V, 3] outward normal of each vertex's side.
    """

    num_latents = 1  # a shape of no freedom, for the solver

    vertices: Tensor
    faces: Tensor
    normals: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float], vertices: int) -> None:
        super().__init__()
        self.low, self.high, self.wanted = tuple(low), tuple(high), vertices
        points, faces, normals = _sides(np.array(low), np.array(high), vertices)
        # Nothing is learned here: the box is kept in the run's config.json.
        self.register_buffer("vertices", torch.from_numpy(points).float(), persistent=False)
        self.register_buffer("faces", torch.from_numpy(faces), persistent=False)
        self.register_buffer("normals", torch.from_numpy(normals).float(), persistent=False)

    def forward(self, z: Tensor, scale_factor: Tensor | None = None) -> Tensor:
        """Vertices [B, V, 3] for any z [B, 1], times scale_factor [B] where given."""
        vertices = self.vertices.expand(len(z), -1, -1)
        return vertices if scale_factor is None else vertices * scale_factor[:, None, None]

    def one_hot(self) -> Tensor:
        """[1, 1]: the only latent."""
        return self.vertices.new_ones(1, 1)

    def seen_from(self, centre: Tensor) -> Tensor:
        """Which vertices are seen from camera centres [B, 3], bool [B, V]: those of the sides facing it."""
        return ((centre[:, None] - self.vertices) * self.normals).sum(-1) > 0


def around(cads: Sequence[np.ndarray], vertices: int, name: str) -> Cuboid:
    """The cuboid around the vertices [V, 3] of a category's CADs; ValueError names `name` if it is flat."""
    points = np.concatenate([np.asarray(cad, np.float64) for cad in cads])
    inside = int(len(points) * COVERAGE)
    low, high = np.empty(3), np.empty(3)
    for axis in range(3):
        ordered = np.sort(points[:, axis])
        lengths = ordered[inside:] - ordered[: len(points) - inside]
        first = int(lengths.argmin())
        low[axis], high[axis] = ordered[first], ordered[first + inside]
    if not (np.isfinite(high - low).all() and (high > low).all()):
        raise ValueError(
            f"{name}: the box around its CADs is {low.tolist()} to {high.tolist()}, want a volume"
        )
    return Cuboid(low.tolist(), high.tolist(), vertices)


def _sides(low: np.ndarray, high: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    extent = high - low
    area = 2 * (extent[0] * extent[1] + extent[1] * extent[2] + extent[2] * extent[0])
    spacing = math.sqrt(area / wanted)
    # NeMo's counts; but a side has two ends, however thin it is.
    ticks = [
        np.linspace(a, b, max(2, int(length / spacing + 1)))
        for a, b, length in zip(low, high, extent, strict=True)
    ]
    points, faces, normals, first = [], [], [], 0
    for fixed, fast, slow in ((2, 0, 1), (1, 0, 2), (0, 1, 2)):
        for end, outward in ((low, -1.0), (high, 1.0)):
            side = np.empty((len(ticks[slow]), len(ticks[fast]), 3))
            side[..., fixed], side[..., fast] = end[fixed], ticks[fast]
            side[..., slow] = ticks[slow][:, None]
            number = first + np.arange(side[..., 0].size).reshape(side.shape[:2])
            a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
            faces.append(np.stack([a, b, c, d, b, c], -1).reshape(-1, 3))
            points.append(side.reshape(-1, 3))
            normals.append(np.broadcast_to(outward * np.eye(3)[fixed], points[-1].shape))
            first += number.size
    return np.concatenate(points), np.concatenate(faces), np.concatenate(normals)


def _around_cads(config: Any, split: CacheSplit, folder: Path) -> dict[str, Cuboid]:
    """A cuboid of `config.vertices` for every category, around the CADs that its caches carry."""
    cads: dict[str, list[np.ndarray]] = {}
    for path in split.paths:
        if not cads.get(path.stem):  # splits of a category carry the same ones
            with CacheFile(path) as file:
                cads[path.stem] = [vertices for vertices, _ in file.cads().values()]
    lacking = [name for name in split.categories if not cads[name]]
    if lacking:
        raise ValueError(
            f"the caches of {lacking[0]} hold no CAD to build {config.method}'s cuboid around; prepare them "
            "from a dataset with CADs"
        )
    return {name: around(cads[name], config.vertices, name) for name in split.categories}


def _describe(cuboid: Cuboid) -> dict[str, Any]:
    return {"low": list(cuboid.low), "high": list(cuboid.high), "vertices": cuboid.wanted}


def _restore(values: Mapping[str, Any], source: str) -> Cuboid:
    check_kinds(values, {"low": list, "high": list, "vertices": int}, source)
    low, high = values["low"], values["high"]
    numbers = all(isinstance(x, int | float) and math.isfinite(x) for x in (*low, *high))
    if not (numbers and len(low) == len(high) == 3 and all(a < b for a, b in zip(low, high, strict=True))):
        raise ValueError(f"{source}: a cuboid from {low} to {high}; train again with --overwrite")
    return Cuboid(low, high, values["vertices"])


CUBOIDS = Shapes(_around_cads, _describe, _restore)
