"""What surrounds a synthetic object: cluttered backgrounds, occluders with measured coverage, and weather."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ntdm.data_prep.synthetic import models, render
from ntdm.data_prep.synthetic.texture import Array, draw_family, picked, random_colour

Mask = NDArray[np.bool_]

# As the dataset's authors give them: target ratio of the covered part of the object, and of everything else
FOREGROUND = {1: (0.2, 0.4), 2: (0.4, 0.6), 3: (0.6, 0.8)}
BACKGROUND = {1: (0.0, 0.2), 2: (0.2, 0.4), 3: (0.4, 0.6)}
LAYOUTS = 40  # tries of a whole layout, as the benchmark's authors allow
PLACEMENTS = 60  # occluders tried in one layout
GRAIN_DEVIATION = 147.8  # of the sum of four uniform bytes
WEATHER = ("fog", "rain", "snow", "night")


def background(size: tuple[int, int], rng: np.random.Generator, unseen: bool = False) -> Array:
    """A cluttered background [H, W, 3] in 0..1; `unseen` takes families that training never shows."""
    height, width = size
    rows, columns = np.mgrid[:height, :width].astype(np.float32) / max(size)
    points = np.stack([columns.ravel() - 0.5, rows.ravel() - 0.5, np.zeros(height * width, np.float32)]).T
    pixels = _surface(points, rng, unseen)
    if rng.random() < 0.6:  # a floor or a skyline
        line = rng.uniform(0.3, 0.8) * height / max(size) + (columns - 0.5) * rng.normal(0, 0.1)
        below = np.flatnonzero(rows > line)
        pixels.T[:, below] = _surface(
            picked(points, below) * np.array([1, 1.5, 1], np.float32), rng, unseen
        ).T
    clutter = _UNSEEN_SHAPES if unseen else _SEEN_SHAPES
    for _ in range(rng.integers(4, 14)):
        shape = clutter[rng.integers(len(clutter))]
        covered = np.flatnonzero(_draw(size, shape, rng))
        slope = rng.uniform(-0.6, 0.6, 2).astype(np.float32)
        side_light = 1 + slope[0] * points[covered, 0] + slope[1] * points[covered, 1]
        if rng.random() < 0.3:
            inside = _surface(picked(points, covered), rng, unseen).T
        else:
            inside = random_colour(rng)[:, None]
        pixels.T[:, covered] = inside * side_light
    picture = pixels.reshape(height, width, 3)
    return _blurred(picture * rng.uniform(0.7, 1.1), rng.uniform(0.4, 1.8))


def sensor(picture: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A finished photo: white balance, noise, eight bits."""
    tinted = picture * (1 + rng.normal(0, 0.03, 3)).astype(np.float32)
    # the sum of four random bytes: nearly normal, in a third of the time
    count = picture.size
    dice = rng.integers(0, 2**64, -(-count // 2), np.uint64).view(np.uint8)[: 4 * count]
    grain = dice.reshape(4, *picture.shape).sum(0, dtype=np.int16) - np.float32(510)
    tinted += rng.uniform(0, 0.02) / GRAIN_DEVIATION * grain
    np.clip(tinted, 0, 1, out=tinted)
    tinted *= 255
    tinted += 0.5
    return tinted.astype(np.uint8)


# ---- occluders --------------------------------------------------------------------------------------------


def occlude(
    photo: NDArray[np.uint8], amodal: Mask, level: int, things: Sequence[str], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Mask]] | None:
    """Pastes occluders until the covered shares of object and background lie inside the level's ranges.

    Args:
        photo: [H, W, 3].
        amodal: the object's mask [H, W].
        level: 1 to 3, FGL and BGL alike.
        things: categories whose models serve as rendered occluders.
        rng: decides the layout.

    Returns:
        The occluded photo and each occluder's mask [H, W] (they may overlap), or None where no layout fits.
    """
    (fg_low, fg_high), (bg_low, bg_high) = FOREGROUND[level], BACKGROUND[level]
    rows, columns = np.nonzero(amodal)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    for _ in range(LAYOUTS):
        picture, union = photo.copy(), np.zeros_like(amodal)
        masks: list[Mask] = []
        shrink = 1.0
        for _ in range(PLACEMENTS):
            fg, bg = _ratios(union, amodal)
            if fg_low < fg < fg_high and bg_low < bg < bg_high:
                return picture, masks
            if fg <= fg_low:  # onto the object
                pick = rng.integers(len(rows))
                centre = np.array([rows[pick], columns[pick]], float)
            else:  # beside it
                centre = rng.uniform([0, 0], amodal.shape)
            # Few and large, as in Occluded PASCAL3D+ (a level-1 bottle has one occluder, 0.8 of its own
            # size); smaller ones only where large ones overshoot the level.
            side = extent * rng.uniform(0.5, 1.1) * shrink
            colour, mask = _occluder(amodal.shape, centre, side, things, rng)
            new_fg, new_bg = _ratios(union | mask, amodal)
            if mask.any() and new_fg < fg_high and new_bg < bg_high:
                picture[mask] = colour[mask]
                masks.append(mask)
                union |= mask
                shrink = min(1.0, 1.2 * shrink)
            else:
                shrink *= 0.85
    return None


def _ratios(union: Mask, amodal: Mask) -> tuple[float, float]:
    """Covered share of the object and of everything else."""
    return float(union[amodal].mean()), float(union[~amodal].mean())


def _occluder(
    size: tuple[int, ...], centre: Array, side: float, things: Sequence[str], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Mask]:
    """A thing about `side` pixels wide around `centre` (row, column): colours [H, W, 3], mask [H, W]."""
    height, width = size[0], size[1]
    patch: Array
    if rng.random() < 0.4:
        cads = models.built_in(things[int(rng.integers(len(things)))])
        cad = cads[rng.integers(len(cads))]
        angles = np.array([rng.uniform(0, 2 * np.pi), rng.uniform(-0.2, 0.9), rng.uniform(-0.5, 0.5)])
        box = max(int(side), 8)
        view = render.frame(cad, angles, (box, box), 0.98, (0.5, 0.5))
        cutout = render.render(cad, view, rng)
        solid = cutout.alpha >= 0.5
        patch = cutout.premultiplied / np.maximum(cutout.alpha, 0.5)[..., None]
        corner = np.round(centre - np.array(solid.shape) / 2).astype(int)
    else:
        box = max(int(side), 8)
        shapes = _SEEN_SHAPES if rng.random() < 0.4 else [_leaf]
        solid = _draw((box, box), shapes[rng.integers(len(shapes))], rng, whole=True)
        rows, columns = np.mgrid[:box, :box].astype(np.float32) / box - 0.5
        points = np.stack([columns.ravel(), rows.ravel(), np.zeros(box * box, np.float32)]).T
        points *= rng.uniform(0.4, 1)
        patch = _surface(points, rng, False).reshape(box, box, 3)
        patch = patch * (1 + 0.5 * (columns * rng.normal() + rows * rng.normal()))[..., None]
        corner = np.round(centre - box / 2).astype(int)
    colour, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
    low = np.maximum(corner, 0)
    high = np.minimum(corner + solid.shape, [height, width])
    if (high > low).all():
        inner = tuple(slice(a, b) for a, b in zip(low - corner, high - corner, strict=True))
        outer = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        colour[outer] = np.clip(patch[inner], 0, 1) * 255
        mask[outer] = solid[inner]
    return colour, mask


# ---- weather ----------------------------------------------------------------------------------------------


def weather(picture: Array, kind: int, rng: np.random.Generator) -> Array:
    """The kind of WEATHER, counted round, over a photo [H, W, 3] in 0..1."""
    return (_fog, _rain, _snow, _night)[kind % len(WEATHER)](picture, rng)


def _fog(picture: Array, rng: np.random.Generator) -> Array:
    height, width, _ = picture.shape
    density = rng.uniform(0.45, 0.72) + 0.25 * (_clouds((height, width), 5, rng) - 0.5)
    density += 0.15 * np.linspace(1, -1, height)[:, None]
    density = np.clip(density, 0.2, 0.85)[..., None]
    white = np.array([0.82, 0.84, 0.86]) * rng.uniform(0.85, 1.05)
    return _blurred(picture, 0.8) * (1 - density) + white * density


def _rain(picture: Array, rng: np.random.Generator) -> Array:
    height, width, _ = picture.shape
    grey = picture.mean(-1, keepdims=True)
    dull = (0.55 * picture + 0.45 * grey) * rng.uniform(0.55, 0.75) * np.array([0.94, 0.98, 1.06])
    streaks = Image.new("L", (width, height))
    pen = ImageDraw.Draw(streaks)
    slope, reach = rng.normal(0, 0.2), 0.09 * max(height, width)
    for _ in range(int(0.006 * height * width)):
        x, y, length = rng.uniform(-10, width), rng.uniform(-10, height), reach * rng.uniform(0.4, 1.3)
        pen.line([(x, y), (x + slope * length, y + length)], fill=int(rng.uniform(70, 170)), width=1)
    wet = np.asarray(streaks.filter(ImageFilter.GaussianBlur(0.5)), float)[..., None] / 255
    return _blurred(dull, 0.6) * (1 - wet) + 0.85 * wet


def _snow(picture: Array, rng: np.random.Generator) -> Array:
    height, width, _ = picture.shape
    pale = 0.6 * picture + 0.4 * picture.mean(-1, keepdims=True)
    pale = pale * 0.75 + 0.22
    flakes = Image.new("L", (width, height))
    pen = ImageDraw.Draw(flakes)
    for _ in range(int(0.012 * height * width)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius = max(height, width) / 160 * rng.gamma(2.0, 0.45)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=int(rng.uniform(140, 255)))
    white = np.asarray(flakes.filter(ImageFilter.GaussianBlur(0.6)), float)[..., None] / 255
    return pale * (1 - white) + 0.98 * white


def _night(picture: Array, rng: np.random.Generator) -> Array:
    height, width, _ = picture.shape
    dark = picture**1.3 * rng.uniform(0.24, 0.4) * np.array([0.75, 0.85, 1.25])
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    for _ in range(rng.integers(1, 4)):  # street lamps light their surroundings
        away = (rows - rng.uniform(0, 1)) ** 2 + (columns - rng.uniform(0, 1)) ** 2
        glow = np.exp(-away / rng.uniform(0.02, 0.08))[..., None] * np.array([1.0, 0.85, 0.55])
        dark = dark + glow * (0.45 * picture + 0.08)
    return dark + rng.normal(0, 0.025, picture.shape)


# ---- shapes -----------------------------------------------------------------------------------------------

Shape = Callable[[ImageDraw.ImageDraw, Array, float, np.random.Generator], None]  # pen, centre x y, radius


def _draw(size: tuple[int, ...], shape: Shape, rng: np.random.Generator, whole: bool = False) -> Mask:
    """Mask [H, W] of one shape; `whole` fills the frame with it instead of placing it at random."""
    height, width = size[0], size[1]
    canvas = Image.new("1", (width, height))
    if whole:
        centre, radius = np.array([width, height]) / 2, min(width, height) / 2
    else:
        centre, radius = rng.uniform(0, 1, 2) * [width, height], max(size) * rng.gamma(2.5, 0.05)
    shape(ImageDraw.Draw(canvas), centre, max(radius, 2.0), rng)
    return np.array(canvas)


def _around(centre: Array, radius: float, angles: Array, reach: Array | float) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in centre + radius * np.stack(
        [np.cos(angles) * reach, np.sin(angles) * reach], 1)]  # fmt: skip


def _polygon(pen: ImageDraw.ImageDraw, centre: Array, radius: float, rng: np.random.Generator) -> None:
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
    pen.polygon(_around(centre, radius, angles, rng.uniform(0.6, 1, len(angles))), fill=1)


def _ellipse(pen: ImageDraw.ImageDraw, centre: Array, radius: float, rng: np.random.Generator) -> None:
    angles, turn = np.linspace(0, 2 * np.pi, 32), rng.uniform(0, np.pi)
    ratio = rng.uniform(0.3, 1)
    spread = 1 / np.sqrt(np.cos(angles) ** 2 + (np.sin(angles) / ratio) ** 2)
    pen.polygon(_around(centre, radius, angles + turn, spread), fill=1)


def _slab(pen: ImageDraw.ImageDraw, centre: Array, radius: float, rng: np.random.Generator) -> None:
    half, turn = rng.uniform(0.1, 0.8), rng.normal(0, 0.4)
    angles = np.array([half, np.pi - half, np.pi + half, -half]) + turn + rng.choice([0, np.pi / 2])
    pen.polygon(_around(centre, 1.2 * radius, angles, 1.0), fill=1)


def _bar(pen: ImageDraw.ImageDraw, centre: Array, radius: float, rng: np.random.Generator) -> None:
    ends = _around(centre, 3 * radius, np.array([0, np.pi]) + rng.uniform(0, np.pi), 1.0)
    pen.line(ends, fill=1, width=max(int(radius * rng.uniform(0.1, 0.4)), 1))


def _leaf(pen: ImageDraw.ImageDraw, centre: Array, radius: float, rng: np.random.Generator) -> None:
    """A lobed blob: a few random harmonics round a circle."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = sum(rng.normal(0, 0.32 / k) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in range(2, 7))
    reach = np.clip(0.75 + waves, 0.25, 1.0)
    pen.polygon(_around(centre, radius, angles, reach), fill=1)


def _star(pen: ImageDraw.ImageDraw, centre: Array, radius: float, rng: np.random.Generator) -> None:
    points = 2 * rng.integers(4, 9)
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False) + rng.uniform(0, 6.3)
    pen.polygon(_around(centre, 1.3 * radius, angles, np.where(np.arange(points) % 2, 0.45, 1.0)), fill=1)


def _ring(pen: ImageDraw.ImageDraw, centre: Array, radius: float, rng: np.random.Generator) -> None:
    low, high = centre - 1.3 * radius, centre + 1.3 * radius
    pen.arc([*low, *high], 0, 360, fill=1, width=max(int(radius * rng.uniform(0.2, 0.5)), 1))


def _fence(pen: ImageDraw.ImageDraw, centre: Array, radius: float, rng: np.random.Generator) -> None:
    """Crossing bars."""
    turn = rng.uniform(0, np.pi)
    for shift in np.linspace(-1, 1, 4):
        for angle in (turn, turn + np.pi / 2):
            offset = shift * radius * np.array([-np.sin(angle), np.cos(angle)])
            ends = _around(centre + offset, 1.4 * radius, np.array([angle, angle + np.pi]), 1.0)
            pen.line(ends, fill=1, width=2)


_SEEN_SHAPES: list[Shape] = [_polygon, _ellipse, _slab, _bar, _leaf]
_UNSEEN_SHAPES: list[Shape] = [_star, _ring, _fence]


def _surface(points: Array, rng: np.random.Generator, unseen: bool) -> Array:
    return draw_family(rng, unseen)(points * rng.uniform(0.5, 1.2), rng)


def _clouds(size: tuple[int, int], cells: int, rng: np.random.Generator) -> Array:
    """Smooth noise [H, W] in 0..1 with about `cells` cells a side."""
    coarse = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC), float) / 255


def _blurred(picture: Array, radius: float) -> Array:
    """Gaussian blur of [H, W, 3] in 0..1, through eight bits (Pillow's is many times faster than scipy's)."""
    channels = (np.clip(picture, 0, 1) * 255).astype(np.uint8).transpose(2, 0, 1)
    blur = ImageFilter.GaussianBlur(radius)
    blurred = np.stack([np.asarray(Image.fromarray(channel).filter(blur)) for channel in channels])
    return (blurred / np.float32(255)).transpose(1, 2, 0)
