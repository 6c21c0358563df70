"""Where synthetic photos are taken from: a prior, or the annotated viewpoints of real photos.

The prior: azimuth uniform, elevation -10 to 50 degrees, theta (in-plane) -15 to 15. The pose nuisance lies
outside: elevation 50 to 70 or -25 to -10, theta 15 to 30 either way. Test splits are small, and a few
photos from one side would reward a constant guess: theirs are spread evenly over the prior, all categories
together. Given lists are used within the prior's elevations and thetas, so that the pose nuisance stays
unseen: train.csv for training, as often as they stand in it, and val.csv for all else. Real photos crowd
around a few sides, so tests take from val.csv those that lie apart: each next photo the one with the fewest
photos of its split around it.

A list is a CSV with one header line, then `path,x0,y0,x1,y1,-,azimuth,elevation,theta` a photo, where the
path's second last folder is `<category>_imagenet` or `<category>_pascal` and angles are whole degrees, modulo
360. (The header of the lists in circulation names other columns; it is not read.)
"""

import csv
import hashlib
import re
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ntdm.config.protocol import CATEGORIES
from ntdm.data_prep.raw.files import LARGEST_TEXT, read_bytes
from ntdm.data_prep.synthetic.texture import Array
from ntdm.geometry import camera

# degrees
ELEVATION, THETA = (-10.0, 50.0), (-15.0, 15.0)
UNSEEN_ELEVATION, UNSEEN_THETA = ((-25.0, -10.0), (50.0, 70.0)), (15.0, 30.0)
GOLDEN = 0.6180339887498949  # azimuths step by it around the circle: any number of samples covers it evenly
# Shares of the three ranges by which test photos of a category step, and categories differ. Found by trying
# 2500 at random: with 10 to 50 photos of three or more categories no photo's own pose is right for 15 % of
# them, but for 17 % of 30 photos of the pose nuisance (5 of 30). Of endless photos 12 % is the most.
STEP, CATEGORY_STEP = np.array([GOLDEN, 0.9284, 0.091]), np.array([0.7703, 0.1563, 0.0118])

CROWD = 0.4  # radians: standard deviation of the bell that says how near two viewpoints are

LISTS = ("train.csv", "val.csv")
_FOLDER = re.compile(r"[/\\](\w+)_(?:imagenet|pascal)[/\\][^/\\]+$")


def draw(
    split: str,
    category: str,
    index: int,
    seed: int,
    rng: np.random.Generator,
    lists: Path | None = None,
    categories: tuple[str, ...] = CATEGORIES,
) -> Array:
    """Azimuth, elevation, theta [3] of a photo, radians.

    Args:
        split: of the photo; the photos of a split and category share one sequence.
        category: of the photo.
        index: of the photo in that sequence.
        seed: of the set.
        rng: of the photo.
        lists: folder of the lists to draw from; None: the prior. The pose nuisance never draws from them.
        categories: those of the split, among which test photos are spread where there are lists.

    Raises:
        ValueError: as :func:`read_lists`, or the list has no viewpoint of the category in the range.
    """
    start = zlib.crc32(f"{seed} {split} {category}".encode())
    if lists is not None and split != "pose":
        if split == "train":
            listed = listed_viewpoints(lists, "train.csv", category)
            # a shuffled deck, dealt to its end before it begins anew
            chosen = listed[np.random.default_rng(start).permutation(len(listed))[index % len(listed)]]
        else:
            # a longer sequence begins with a shorter one: few lengths, so that few are made
            rounds = 1 << index.bit_length()
            chosen = _apart(lists, categories, zlib.crc32(f"{seed} {split}".encode()), rounds)[category][
                index
            ]
        azimuth, elevation, theta = chosen + rng.uniform(-0.5, 0.5, 3)  # the lists are rounded to degrees
        return np.deg2rad([azimuth % 360, np.clip(elevation, *ELEVATION), np.clip(theta, *THETA)])
    if split == "train":
        azimuth = 360 * ((start / 2**32 + GOLDEN * index) % 1)
        return np.deg2rad([azimuth, rng.uniform(*ELEVATION), rng.uniform(*THETA)])
    shift = np.random.default_rng(zlib.crc32(f"{seed} {split}".encode())).random(3)
    shares = (shift + index * STEP + CATEGORIES.index(category) * CATEGORY_STEP) % 1
    elevations, thetas, side = ELEVATION, THETA, 1
    if split == "pose":  # the lower half of the share from below, the upper from above; thetas either way
        elevations, thetas = UNSEEN_ELEVATION[int(2 * shares[1])], UNSEEN_THETA
        side = 1 if shares[2] < 0.5 else -1
        shares[1:] = 2 * shares[1:] % 1
    return np.deg2rad([360 * shares[0], np.interp(shares[1], (0, 1), elevations),
                       side * np.interp(shares[2], (0, 1), thetas)])  # fmt: skip


@cache
def _apart(folder: Path, categories: tuple[str, ...], seed: int, rounds: int) -> dict[str, Array]:
    """Viewpoints [rounds, 3] of each category, degrees, chosen from val.csv so that none is crowded.

    The categories take turns; each takes the viewpoint of its list that was taken least often, and of those
    the one with the fewest chosen viewpoints, of all categories, around it.
    """
    rng = np.random.default_rng(seed)
    listed = {category: listed_viewpoints(folder, "val.csv", category) for category in categories}
    R = {c: camera.rotation(torch.as_tensor(np.deg2rad(angles))).flatten(1) for c, angles in listed.items()}
    # a shuffle decides between equals
    crowd = {
        category: torch.from_numpy(1e-6 * rng.random(len(angles))) for category, angles in listed.items()
    }
    taken: dict[str, list[int]] = {category: [] for category in categories}
    for _ in range(rounds):
        for category in categories:
            best = int(crowd[category].argmin())
            taken[category].append(best)
            for other in categories:
                cosine = (R[other] @ R[category][best] - 1) / 2
                angle = torch.arccos(cosine.clamp(-1, 1))
                crowd[other] += torch.exp(-((angle / CROWD) ** 2) / 2)
            crowd[category][best] += len(CATEGORIES) * rounds  # more than any crowd: last of its list now
    return {category: listed[category][taken[category]] for category in categories}


def listed_viewpoints(folder: Path, name: str, category: str) -> Array:
    """Azimuth, elevation, theta [N, 3] of a category's photos in a list, degrees, within the prior's range.

    Raises:
        ValueError: the list cannot be read, or has no such viewpoint.
    """
    angles = _read(folder / name).get(category, np.zeros((0, 3)))
    low, high = np.transpose([ELEVATION, THETA])
    inside = ((low <= angles[:, 1:]) & (angles[:, 1:] <= high)).all(1)
    if not inside.any():
        raise ValueError(
            f"{folder / name} has no viewpoint of {category} with elevation in {ELEVATION} and theta in"
            f" {THETA} degrees ({len(angles)} in all); leave {category} out of --categories,"
            " or --viewpoints away"
        )
    return angles[inside]


def fingerprint(folder: Path) -> str:
    """Tells lists from others: a digest of their bytes. ValueError where one cannot be read."""
    digest = hashlib.sha256()
    for name in LISTS:
        _read(folder / name)
        digest.update(_text(folder / name).encode())
    return digest.hexdigest()[:16]


def constant_pose_shares(viewpoints: Array, guesses: Array, threshold: float = np.pi / 6) -> Array:
    """Share [M] of viewpoints that each guess gets right.

    Args:
        viewpoints: [N, 3] azimuth, elevation, theta, radians.
        guesses: [M, 3], the same.
        threshold: smallest rotation error that counts as wrong, radians.
    """
    R, guessed = (camera.rotation(torch.as_tensor(angles)).flatten(1) for angles in (viewpoints, guesses))
    right = [(part @ R.T - 1) / 2 > np.cos(threshold) for part in guessed.split(4096)]
    shares: Array = torch.cat(right).double().mean(1).numpy()
    return shares


def _text(path: Path) -> str:
    try:
        return read_bytes(path, LARGEST_TEXT).decode("utf-8")
    except ValueError as error:  # of the decoder, too
        raise ValueError(f"--viewpoints: {error}; want a folder with {' and '.join(LISTS)}") from None


@cache
def _read(path: Path) -> dict[str, Array]:
    """Azimuth in 0..360, elevation and theta in -180..180 [N, 3] by category, degrees."""
    found: dict[str, list[list[float]]] = {}
    for number, row in enumerate(csv.reader(_text(path).splitlines()), 1):
        folder = _FOLDER.search(row[0]) if row else None
        if number == 1 or not row:
            continue
        try:
            azimuth, elevation, theta = (float(cell) for cell in row[6:9])
        except ValueError:
            folder = None
        if folder is None or not np.isfinite([azimuth, elevation, theta]).all():
            raise ValueError(
                f"{path}, line {number} is {','.join(row)[:80]!r}; want a path with the folder"
                " <category>_imagenet, four numbers of a box, one more, azimuth, elevation, theta in degrees"
            )
        angles = [azimuth % 360, (elevation + 180) % 360 - 180, (theta + 180) % 360 - 180]
        found.setdefault(folder[1], []).append(angles)
    return {category: np.array(rows) for category, rows in found.items()}
