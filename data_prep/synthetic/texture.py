"""Procedural textures: colours as functions of points, in two disjoint sets of families.

A family draws its parameters from a generator and colours points [N, 3] (object coordinates on a surface,
or picture coordinates with z = 0 in a background). SEEN families appear in training; UNSEEN families never
do: they are the texture and context shifts of the synthetic OOD-CV.

Points and colours are float32 and stored column by column (views of [3, N]): numpy then loops over N, and not
over threes, which is several times as fast.
"""

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Family = Callable[[Array, np.random.Generator], Array]  # points [N, 3], in units of the object -> RGB [N, 3]

BLOCK = 8192  # points looked up at a time, so that what is between stays in the cache
LATTICE = 16  # nodes a side of the random lattice behind value noise, a power of two; it repeats after them


def random_colour(rng: np.random.Generator) -> Array:
    """An RGB colour [3] in 0..1, with grey, white and black as common as they are on real objects."""
    if rng.random() < 0.3:
        grey = rng.choice([0.12, 0.35, 0.6, 0.92]) + rng.uniform(-0.08, 0.08)
        return (grey + rng.uniform(-0.025, 0.025, 3)).astype(np.float32)
    hue, saturation, value = rng.uniform(), rng.uniform(0.25, 0.95), rng.uniform(0.3, 0.95)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def picked(rows: Array, index: NDArray[np.intp]) -> Array:
    """Rows [K, 3] of an array [N, 3]."""
    return rows.T.take(index, 1).T


def value_noise(points: Array, rng: np.random.Generator, octaves: int = 2) -> Array:
    """Smooth noise [N] in about 0..1 whose first octave has one cell a unit of `points` [N, 3]."""
    total, weight = np.zeros(len(points), np.float32), 0.0
    for octave in range(octaves):
        lattice = rng.random((LATTICE, LATTICE, LATTICE)).astype(np.float32)
        at = points * np.float32(2**octave) + rng.uniform(0, LATTICE, 3).astype(np.float32)
        total += 0.5**octave * _between_nodes(lattice, at)
        weight += 0.5**octave
    return total / weight


def _between_nodes(lattice: Array, at: Array) -> Array:
    """Trilinear values [N] of a lattice [L, L, L] that repeats, at points [N, 3] in cells."""
    values = np.empty(len(at), np.float32)
    side = LATTICE + 1  # with the first nodes once more behind the last
    nodes = np.pad(lattice, (0, 1), mode="wrap").ravel()
    corners = [nodes[(i * side + j) * side + k :] for i, j, k in np.ndindex(2, 2, 2)]
    for start in range(0, len(at), BLOCK):
        points = at[start : start + BLOCK].T
        cell = np.floor(points)
        x, y, z = cell.astype(np.intp) & (LATTICE - 1)
        node = (x * side + y) * side + z
        between = [corner.take(node) for corner in corners]
        for mix in points - cell:
            half = len(between) // 2
            between = [a + mix * (b - a) for a, b in zip(between[:half], between[half:], strict=True)]
        values[start : start + BLOCK] = between[0]
    return values


def _direction(rng: np.random.Generator) -> Array:
    vector = rng.normal(size=3)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _two_tone(mix: Array, rng: np.random.Generator, contrast: float = 0.25) -> Array:
    """Colours between two random ones at least `contrast` apart, mix [N] in 0..1."""
    first, second = random_colour(rng), random_colour(rng)
    while np.abs(first - second).max() < contrast:
        second = random_colour(rng)
    return (first[:, None] + np.clip(mix, 0, 1) * (second - first)[:, None]).T


def _edge(signal: Array, width: float) -> Array:
    """A step at 0, softened over `width` so that it does not alias."""
    return np.clip(signal / width + 0.5, 0, 1)


def _plain(points: Array, rng: np.random.Generator) -> Array:
    return np.repeat(random_colour(rng)[:, None], len(points), axis=1).T


def _stripes(points: Array, rng: np.random.Generator) -> Array:
    phase = points @ _direction(rng) * rng.uniform(4, 14) + rng.random()
    return _two_tone(_edge(np.sin(2 * np.pi * phase) + rng.uniform(-0.5, 0.5), 0.5), rng)


def _checks(points: Array, rng: np.random.Generator) -> Array:
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(6, 14)
    phase = turn.T.astype(np.float32) @ points.T + rng.random((3, 1)).astype(np.float32)
    x, y, z = np.sin(np.pi * phase)
    return _two_tone(_edge(x * y * z, 0.15), rng)


def _gradient(points: Array, rng: np.random.Generator) -> Array:
    return _two_tone(0.5 + points @ _direction(rng) * rng.uniform(0.8, 2), rng)


def _noise(points: Array, rng: np.random.Generator) -> Array:
    return _two_tone(1.6 * value_noise(points * rng.uniform(4, 14), rng) - 0.3, rng)


def _blotches(points: Array, rng: np.random.Generator) -> Array:
    return _two_tone(_edge(value_noise(points * rng.uniform(3, 9), rng) - 0.5, 0.06), rng)


def _dots(points: Array, rng: np.random.Generator) -> Array:
    cell = points * rng.uniform(7, 14) + rng.random(3).astype(np.float32)
    away = np.linalg.norm(cell - np.round(cell), axis=1)
    return _two_tone(_edge(rng.uniform(0.3, 0.42) - away, 0.1), rng, 0.4)


def _rings(points: Array, rng: np.random.Generator) -> Array:
    radius = np.linalg.norm(points - rng.uniform(-0.4, 0.4, 3).astype(np.float32), axis=1)
    return _two_tone(_edge(np.sin(2 * np.pi * radius * rng.uniform(7, 16)), 0.5), rng, 0.4)


def _zigzag(points: Array, rng: np.random.Generator) -> Array:
    along, across = points @ _direction(rng), points @ _direction(rng)
    fold = np.abs(along * rng.uniform(5, 9) % 1 - 0.5)
    return _two_tone(_edge(np.sin(2 * np.pi * (across * rng.uniform(5, 9) + 1.5 * fold)), 0.5), rng, 0.4)


def _cells(points: Array, rng: np.random.Generator) -> Array:
    """Voronoi cells of random colours."""
    seeds = rng.random((rng.integers(40, 90), 3)).astype(np.float32) * 1.2 - 0.6
    palette = np.stack([random_colour(rng) for _ in range(6)])
    distance = (seeds**2).sum(1)[None] - 2 * points @ seeds.T
    return palette[rng.integers(0, 6, len(seeds))][distance.argmin(1)]


def _marble(points: Array, rng: np.random.Generator) -> Array:
    veins = points @ _direction(rng) * rng.uniform(4, 8) + 2.5 * value_noise(points * 4, rng, 3)
    return _two_tone(np.abs(np.sin(np.pi * veins)) ** 0.6, rng, 0.4)


SEEN: dict[str, Family] = {
    "plain": _plain, "stripes": _stripes, "checks": _checks,
    "gradient": _gradient, "noise": _noise, "blotches": _blotches,
}  # fmt: skip
UNSEEN: dict[str, Family] = {
    "dots": _dots, "rings": _rings, "zigzag": _zigzag, "cells": _cells, "marble": _marble,
}  # fmt: skip


def draw_family(rng: np.random.Generator, unseen: bool, plain: float = 0.0) -> Family:
    """A family of the seen or unseen set; a seen draw is plain with probability `plain`, else uniform."""
    if not unseen and rng.random() < plain:
        return _plain
    families = list((UNSEEN if unseen else SEEN).values())
    return families[rng.integers(len(families))]
