"""Synthetic PASCAL3D+, Occluded PASCAL3D+ and OOD-CV (packaging B), in the raw formats of the originals.

Layout under OUT: PASCAL3D+_release1.1/, OccludedPASCAL3D/, OOD-CV/, and make-data.json, which holds the
config and whether the set is whole. Every sample is drawn from its own generator, seeded by (seed, split,
category, index): the same seed gives the same bytes on any number of workers, and a larger set begins with
the samples of a smaller one.

Training and validation show models 01-04; 05 and 06 appear only in OOD-CV's shape nuisance. Texture and
context nuisances use families of synthetic_texture.UNSEEN, which nothing else uses.
"""

import io
import json
import os
import shutil
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ntdm import camera
from ntdm.config import NUISANCES, SyntheticConfig, to_dict
from ntdm.data_prep import synthetic_models, synthetic_scene
from ntdm.data_prep.synthetic_cad import Cad, mat_bytes, mat_file, off_text
from ntdm.data_prep.synthetic_render import View, frame, ground_shadow, render, visible_anchors
from ntdm.data_prep.synthetic_texture import Array
from ntdm.data_prep.workers import process_pool
from ntdm.outputs import atomic_path, finished, sweep
from ntdm.progress import track

PASCAL3D, OCCLUDED, OOD_CV = "PASCAL3D+_release1.1", "OccludedPASCAL3D", "OOD-CV"
MARKER = "make-data.json"
WNID = {
    "aeroplane": "n02690373", "bus": "n02924116", "car": "n02958343",
    "chair": "n03001627", "motorbike": "n03790512", "sofa": "n04256520",
}  # fmt: skip
SPLITS = ("train", "val", "iid", *NUISANCES)  # a sample's number starts with its split's position here
NUMBERS_PER_SPLIT = 1_000_000
TRAINING_CADS = 4  # the first four of each category
JPEG_QUALITY = 92
GOLDEN = 0.6180339887498949  # azimuths step by it around the circle: any number of samples covers it evenly
FILL = (0.55, 0.85)  # share of the photo's width or height that the object spans
CHUNK = 4  # samples a worker takes at a time

# degrees
ELEVATION, THETA = (-10.0, 50.0), (-15.0, 15.0)
UNSEEN_ELEVATION, UNSEEN_THETA = ((50.0, 70.0), (-25.0, -10.0)), (15.0, 30.0)


@dataclass(frozen=True)
class _Sample:
    """One photo to make: its place in the set and where the set lies."""

    config: SyntheticConfig
    out: Path
    split: str
    category: str
    index: int

    @property
    def name(self) -> str:
        return f"{WNID[self.category]}_{SPLITS.index(self.split) * NUMBERS_PER_SPLIT + self.index + 1}"

    @property
    def photo(self) -> Path:
        return self._file("Images", "images", "JPEG")

    @property
    def annotation(self) -> Path:
        return self._file("Annotations", "annotations", "mat")

    def occluded(self, level: int, kind: str) -> Path:
        folder = self.out / OCCLUDED / kind / f"{self.category}FGL{level}_BGL{level}"
        return folder / f"{self.name}.{'JPEG' if kind == 'images' else 'npz'}"

    def generator(self, purpose: str) -> np.random.Generator:
        """A stream of its own for each purpose, so that a change of one draw leaves the others alone."""
        words = (self.split, self.category, purpose)
        return np.random.default_rng([self.config.seed, self.index, *(zlib.crc32(w.encode()) for w in words)])

    def _file(self, pascal: str, ood_cv: str, suffix: str) -> Path:
        if self.split in ("train", "val"):
            return self.out / PASCAL3D / pascal / f"{self.category}_imagenet" / f"{self.name}.{suffix}"
        return self.out / OOD_CV / ood_cv / self.category / f"{self.name}.{suffix}"


def make_data(config: SyntheticConfig, out: Path, workers: int = 0, overwrite: bool = False) -> Path:
    """Writes the three synthetic datasets; resumes an interrupted run, skips a finished one.

    Args:
        config: what to make.
        out: the folder that will hold the three trees.
        workers: processes; 0 takes one for each CPU, 1 works in this process.
        overwrite: replace what an earlier run, finished or not, left in `out`.

    Returns:
        `out`.

    Raises:
        ValueError: a category has no built-in models; `out` holds datasets that make-data did not write, or
            ones of another config.
    """
    out = Path(out)
    for category in config.categories:
        synthetic_models.build(category)
    if _started(config, out, overwrite):
        return out
    _write_marker(config, out, complete=False)
    _write_cads(config, out)
    samples = list(_samples(config, out))
    for _ in track(_made(samples, workers or os.cpu_count() or 1), "make-data", total=len(samples)):
        pass
    _write_lists(samples, out)
    _write_marker(config, out, complete=True)
    return out


def best_constant_pose(viewpoints: Array, threshold: float = np.pi / 6, candidates: int = 2000) -> float:
    """Share of viewpoints that the best single guess gets right.

    Args:
        viewpoints: [N, 3] azimuth, elevation, theta, radians.
        threshold: largest rotation error that counts as right, radians.
        candidates: how many of the viewpoints are tried as the guess.
    """
    R = camera.rotation(torch.as_tensor(viewpoints))
    cosine = (torch.einsum("nij,mij->nm", R, R[:candidates]) - 1) / 2
    return float((cosine > np.cos(threshold)).double().mean(0).max())


# ---- one sample -------------------------------------------------------------------------------------------


def _make(sample: _Sample) -> None:
    """Photo, annotation, and for validation photos the three occlusion levels; files already there stay."""
    cad, cad_index, view = _stage(sample)
    if not sample.annotation.exists():
        picture = _photograph(sample, cad, view)
        _write_jpeg(sample.photo, synthetic_scene.sensor(picture, sample.generator("sensor")))
        _write_bytes(sample.annotation, mat_file("record", _record(sample, cad, cad_index, view)))
    if sample.split == "val":
        for level in synthetic_scene.FOREGROUND:
            if not sample.occluded(level, "annotations").exists():
                _occlude(sample, cad, view, level)


def _stage(sample: _Sample) -> tuple[Cad, int, View]:
    """The model, its 1-based file number, and the camera."""
    rng = sample.generator("view")
    cads = synthetic_models.build(sample.category)
    if sample.split == "shape":
        number = TRAINING_CADS + sample.index % (len(cads) - TRAINING_CADS)
    else:
        number = sample.index % TRAINING_CADS
    longer = sample.config.image_size
    shorter = round(longer * rng.uniform(0.75, 1.0))
    size = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
    place = (rng.uniform(0.02, 0.98), rng.uniform(0.02, 0.98))
    return cads[number], number + 1, frame(cads[number], _angles(sample), size, rng.uniform(*FILL), place)


def _angles(sample: _Sample) -> Array:
    """Azimuth, elevation, theta [3] of a sample, radians."""
    rng = sample.generator("angles")
    start = zlib.crc32(f"{sample.config.seed} {sample.split} {sample.category}".encode()) / 2**32
    azimuth = 360 * ((start + GOLDEN * sample.index) % 1)
    if sample.split == "pose":
        elevation = rng.uniform(*UNSEEN_ELEVATION[sample.index % 2])
        theta = rng.uniform(*UNSEEN_THETA) * rng.choice([-1, 1])
    else:
        elevation, theta = rng.uniform(*ELEVATION), rng.uniform(*THETA)
    return np.deg2rad([azimuth, elevation, theta])


def _photograph(sample: _Sample, cad: Cad, view: View) -> Array:
    """The photo [H, W, 3] in 0..1 before the sensor."""
    rng = sample.generator("scene")
    picture = synthetic_scene.background(view.size, sample.generator("background"), sample.split == "context")
    strength = rng.uniform(0.25, 0.65)
    if rng.random() < (0.15 if sample.category == "aeroplane" else 0.75):
        picture *= ground_shadow(cad, view, strength)[..., None]
    render(cad, view, sample.generator("look"), sample.split == "texture").over(picture)
    if sample.split == "weather":
        picture = synthetic_scene.weather(picture, sample.index, rng)
    return picture


def _record(sample: _Sample, cad: Cad, cad_index: int, view: View) -> dict[str, object]:
    """MATLAB's `record`: degrees, and pixels whose first centre is (1, 1), corner-origin plus one half."""
    height, width = view.size
    xy, _ = view.project(cad.vertices)
    low, high = np.maximum(xy.min(0), 0), np.minimum(xy.max(0), [width, height])
    azimuth, elevation, theta = np.rad2deg(view.viewpoint[:3])
    found = visible_anchors(cad, view)
    anchors = {
        name: {"location": pixel[None] + 0.5, "status": float(status)}
        for name, (pixel, status) in found.items()
    }
    statuses = [status for _, status in found.values()]
    viewpoint = {
        "azimuth_coarse": 45 * round(azimuth / 45) % 360, "elevation_coarse": 15 * round(elevation / 15),
        "azimuth": azimuth, "elevation": elevation, "distance": view.viewpoint[3], "focal": 1.0,
        "px": view.principal_point[0] + 0.5, "py": view.principal_point[1] + 0.5, "theta": theta,
        "error": 0.0, "interval_azimuth": 5.0, "interval_elevation": 2.5, "num_anchor": statuses.count(1),
        "viewport": camera.PASCAL3D_FOCAL_PX,
    }  # fmt: skip
    thing = {
        "class": sample.category,
        "bbox": np.concatenate([low, high])[None] + 0.5,
        "anchors": anchors,
        "viewpoint": {name: float(value) for name, value in viewpoint.items()},
        "cad_index": float(cad_index),
        "subtype": _subtype(sample.category, cad_index),
        "truncated": float(4 in statuses),
        "occluded": 0.0,
        "difficult": 0.0,
    }
    return {
        "filename": sample.photo.name,
        "objects": thing,
        "size": {"width": float(width), "height": float(height), "depth": 3.0},
        "database": "ImageNet",
        "imgsize": np.array([[width, height, 3.0]]),
    }


def _occlude(sample: _Sample, cad: Cad, view: View, level: int) -> None:
    """One occlusion level of a validation photo; left out where no layout reaches the level's ranges."""
    with Image.open(sample.photo) as file:
        photo = np.array(file.convert("RGB"))
    amodal = view.mask(cad)
    rng = sample.generator(f"occluders {level}")
    # occluders of a category under test would be a second right answer to "what is it"
    strangers = [name for name in synthetic_models.RECIPES if name not in sample.config.categories]
    others = [name for name in synthetic_models.RECIPES if name != sample.category]
    result = synthetic_scene.occlude(photo, amodal, level, strangers or others, rng)
    if result is None:
        return
    picture, masks = result
    size = amodal.shape
    xy, _ = view.project(cad.vertices)
    low, high = np.maximum(xy.min(0), 0) + 0.5, np.minimum(xy.max(0), size[::-1]) + 0.5
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        source=np.array(f"../{sample.photo.relative_to(sample.out).as_posix()}"),
        mask=amodal.astype(np.uint8) * 255,
        box=np.array([low[1], high[1], low[0], high[0], *size]).astype(np.int32),  # truncated, as published
        occluder_mask=np.logical_or.reduce(masks),
        occluder_box=np.array([_box(mask) for mask in masks], np.int32),
        category=np.array(sample.category),
        occluder_level=np.array("G"),  # the published files carry this slip; the folder names the level
    )
    _write_jpeg(sample.occluded(level, "images"), picture)
    _write_bytes(sample.occluded(level, "annotations"), buffer.getvalue())


def _box(mask: synthetic_scene.Mask) -> list[int]:
    """[y0, y1, x0, x1, h, w] of a mask, half-open."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1, *mask.shape]


def _subtype(category: str, cad_index: int) -> str:
    return f"{category}_{cad_index:02d}"


# ---- the set ----------------------------------------------------------------------------------------------


def _samples(config: SyntheticConfig, out: Path) -> Iterator[_Sample]:
    counts = dict.fromkeys(NUISANCES, config.ood_per_category)
    counts["train"], counts["val"] = config.train_per_category, config.val_per_category
    counts["iid"] = config.iid_per_category
    for split in SPLITS:
        for category in config.categories:
            for index in range(counts[split]):
                yield _Sample(config, out, split, category, index)


def _made(samples: Sequence[_Sample], workers: int) -> Iterator[None]:
    """Makes the samples, yielding once for each."""
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # operations this small only lose by being shared out
        try:
            yield from map(_make, samples)
        finally:
            torch.set_num_threads(threads)
        return
    with process_pool(workers) as pool:
        yield from pool.map(_make, samples, chunksize=CHUNK)


def _started(config: SyntheticConfig, out: Path, overwrite: bool) -> bool:
    """Whether `out` is finished; clears it for `overwrite`, and what a killed run left half-written."""
    trees = [out / name for name in (PASCAL3D, OCCLUDED, OOD_CV)]
    marker = out / MARKER
    if not marker.exists():
        for tree in trees:
            if tree.exists():
                raise ValueError(f"{tree} was not written by make-data (no {marker}): choose another folder")
        return False
    try:
        state = json.loads(marker.read_text(encoding="utf-8"))
        made_with, complete = state["config"], state["complete"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{marker} is not a make-data marker ({error}): choose another folder") from None
    if not finished(marker, made_with, to_dict(config), overwrite):
        for tree in trees:
            shutil.rmtree(tree, ignore_errors=True)
        return False
    if complete:
        return True
    for tree in trees:
        sweep(tree)
    return False


def _write_cads(config: SyntheticConfig, out: Path) -> None:
    for category in config.categories:
        cads = synthetic_models.build(category)
        for number, cad in enumerate(cads, 1):
            _write_bytes(out / PASCAL3D / "CAD" / category / f"{number:02d}.off", off_text(cad).encode())
        _write_bytes(out / PASCAL3D / "CAD" / f"{category}.mat", mat_bytes(category, cads))


def _write_lists(samples: Sequence[_Sample], out: Path) -> None:
    """Image sets, occlusion lists and OOD-CV lists, from the samples that are there."""
    sets, ood_cv, occluded = out / PASCAL3D / "Image_sets", out / OOD_CV / "lists", out / OCCLUDED / "lists"
    lists: defaultdict[Path, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.split in ("train", "val"):
            lists[sets / f"{sample.category}_imagenet_{sample.split}.txt"].append(sample.name)
        else:
            lists[ood_cv / f"{sample.category}_all.txt"].append(f"{sample.name} 0")
        if sample.split == "train":
            lists[ood_cv / "TrainSet.txt"].append(sample.name)
        if sample.split in NUISANCES:
            lists[ood_cv / f"{sample.category}_{sample.split}.txt"].append(f"{sample.name} 0")
        if sample.split == "val":
            for level in synthetic_scene.FOREGROUND:
                if sample.occluded(level, "annotations").exists():
                    lists[occluded / f"{sample.category}FGL{level}_BGL{level}.txt"].append(
                        f"{sample.name}.JPEG"
                    )
    for category in {sample.category for sample in samples}:
        numbers = range(1, len(synthetic_models.build(category)) + 1)
        lists[sets / f"{category}_imagenet_subtype.txt"] = [_subtype(category, number) for number in numbers]
    for path, lines in lists.items():
        _write_bytes(path, ("\n".join(lines) + "\n").encode())


def _write_marker(config: SyntheticConfig, out: Path, complete: bool) -> None:
    state = {"config": to_dict(config), "complete": complete}
    _write_bytes(out / MARKER, (json.dumps(state, indent=2) + "\n").encode())


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, "JPEG", quality=JPEG_QUALITY)


def _write_bytes(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
