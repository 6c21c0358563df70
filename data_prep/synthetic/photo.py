"""One synthetic photo: what is staged before the camera, and the raw files that come of it.

Every sample is drawn from its own generators, seeded by (seed, split, category, index, purpose): it is the
same on any number of workers and with more photos; with lists of viewpoints, of the same categories.
"""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ntdm.config.protocol import NUISANCES, OOD_CV_CATEGORIES
from ntdm.config.stages import SyntheticConfig
from ntdm.data_prep.synthetic import models as synthetic_models
from ntdm.data_prep.synthetic import scene
from ntdm.data_prep.synthetic import viewpoints as synthetic_viewpoints
from ntdm.data_prep.synthetic.draws import HeldOutDraws, TrainingDraws
from ntdm.data_prep.synthetic.models import Models
from ntdm.data_prep.synthetic.raw_files import _write_jpeg, mat_file, write_bytes
from ntdm.data_prep.synthetic.render import Cutout, View, cast_ground_shadow, frame, render, visible_anchors
from ntdm.data_prep.synthetic.solids import Cad
from ntdm.data_prep.synthetic.texture import Array
from ntdm.geometry import camera

PASCAL3D, OCCLUDED, OOD_CV = "PASCAL3D+_release1.1", "OccludedPASCAL3D", "OOD-CV"
WNID = {
    "aeroplane": "n02690373", "bicycle": "n02834778", "boat": "n04196502", "bottle": "n02823428",
    "bus": "n02924116", "car": "n02958343", "chair": "n03001627", "diningtable": "n03201208",
    "motorbike": "n03790512", "sofa": "n04256520", "train": "n02917067", "tvmonitor": "n06278475",
}  # fmt: skip
SPLITS = ("train", "val", "iid", *NUISANCES)  # a sample's number starts with its split's position here
NUMBERS_PER_SPLIT = 1_000_000
FILL = (0.55, 0.85)  # share of the photo's width or height that the object spans
SHADOWED = {
    "aeroplane": 0.15
}  # share of photos with a ground shadow, of the categories that may be in the air
SHADOWED_ELSE = 0.75


@dataclass(frozen=True)
class Sample:
    """One photo to make: its place in the set, where the set lies, and what it is made from."""

    config: SyntheticConfig
    out: Path
    split: str
    category: str
    index: int
    cad_root: Path | None = None  # None: built-in models
    viewpoints: Path | None = None  # folder of lists; None: the prior

    @property
    def name(self) -> str:
        return f"{WNID[self.category]}_{SPLITS.index(self.split) * NUMBERS_PER_SPLIT + self.index + 1}"

    @property
    def models(self) -> Models:
        return synthetic_models.models(self.category, self.cad_root)

    @property
    def cad_number(self) -> int:
        """The file number of the model it shows, from 1."""
        shown = self.models.unseen if self.split == "shape" else self.models.training
        return shown[self.index % len(shown)]

    @property
    def angles(self) -> Array:
        """Azimuth, elevation, theta [3], radians."""
        return synthetic_viewpoints.draw(
            self.split,
            self.category,
            self.index,
            self.config.seed,
            self.generator("angles"),
            self.viewpoints,
            shown(self.split, self.config.categories),
        )

    @property
    def shift(self) -> str:
        """What sets a nuisance's photo apart from training's; empty for the other splits."""
        if self.split == "shape":
            return "stretched CAD" if self.cad_number in self.models.stretched else "unseen CAD"
        if self.split == "weather":
            return scene.WEATHER[self.index % len(scene.WEATHER)]
        return {
            "pose": "unseen elevation and theta",
            "texture": "unseen texture families",
            "context": "unseen background families",
        }.get(self.split, "")

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

    def draws(self, purpose: str) -> np.random.Generator:
        """As `generator`, for textures, backgrounds and lights, which training and tests must not share."""
        kind = TrainingDraws if self.split == "train" else HeldOutDraws
        return kind(self.generator(purpose).bit_generator)

    def _file(self, pascal: str, ood_cv: str, suffix: str) -> Path:
        if self.split in ("train", "val"):
            return self.out / PASCAL3D / pascal / f"{self.category}_imagenet" / f"{self.name}.{suffix}"
        return self.out / OOD_CV / ood_cv / self.category / f"{self.name}.{suffix}"


def shown(split: str, categories: Sequence[str]) -> tuple[str, ...]:
    """Those of the categories that a split has photos of: OOD-CV has neither bottles nor monitors."""
    return tuple(c for c in categories if split in ("train", "val") or c in OOD_CV_CATEGORIES)


def make(sample: Sample) -> None:
    """Photo, annotation, and for validation photos the three occlusion levels; files already there stay."""
    cad, view = _stage(sample)
    if not sample.annotation.exists():
        cutout = render(cad, view, sample.draws("look"), sample.split == "texture")
        picture = _photograph(sample, cad, view, cutout)
        _write_jpeg(sample.photo, scene.sensor(picture, sample.generator("sensor")))
        anchors = visible_anchors(cad, view, cutout)
        write_bytes(sample.annotation, mat_file("record", _record(sample, cad, view, anchors)))
    if sample.split == "val":
        for level in scene.FOREGROUND:
            if not sample.occluded(level, "annotations").exists():
                _occlude(sample, cad, view, level)


def _stage(sample: Sample) -> tuple[Cad, View]:
    """The model and the camera."""
    rng = sample.generator("view")
    cad = sample.models.cads[sample.cad_number]
    longer = sample.config.image_size
    shorter = round(longer * rng.uniform(0.75, 1.0))
    size = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
    place = (rng.uniform(0.02, 0.98), rng.uniform(0.02, 0.98))
    return cad, frame(cad, sample.angles, size, rng.uniform(*FILL), place)


def _photograph(sample: Sample, cad: Cad, view: View, cutout: Cutout) -> Array:
    """The photo [H, W, 3] in 0..1 before the sensor."""
    rng = sample.draws("scene")
    picture = scene.background(view.size, sample.draws("background"), sample.split == "context")
    strength = rng.uniform(0.25, 0.65)
    if rng.random() < SHADOWED.get(sample.category, SHADOWED_ELSE):
        cast_ground_shadow(cad, view, strength, picture)
    cutout.over(picture)
    if sample.split == "weather":
        picture = scene.weather(picture, sample.index, sample.generator("weather"))
    return picture


def _record(sample: Sample, cad: Cad, view: View, found: dict[str, tuple[Array, int]]) -> dict[str, object]:
    """MATLAB's `record`: degrees, and pixels whose first centre is (1, 1), corner-origin plus one half."""
    height, width = view.size
    xy, _ = view.project(cad.outline)
    low, high = np.maximum(xy.min(0), 0), np.minimum(xy.max(0), [width, height])
    azimuth, elevation, theta = np.rad2deg(view.viewpoint[:3])
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
        "anchors": anchors or np.zeros((0, 0)),  # MATLAB's empty array where the CAD has none
        "viewpoint": {name: float(value) for name, value in viewpoint.items()},
        "cad_index": float(sample.cad_number),
        "subtype": subtype(sample.category, sample.cad_number),
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


def _occlude(sample: Sample, cad: Cad, view: View, level: int) -> None:
    """One occlusion level of a validation photo; left out where no layout reaches the level's ranges."""
    with Image.open(sample.photo) as file:
        photo = np.array(file.convert("RGB"))
    amodal = view.mask(cad)
    rng = sample.draws(f"occluders {level}")
    # occluders of a category under test would be a second right answer to "what is it"
    strangers = [name for name in synthetic_models.RECIPES if name not in sample.config.categories]
    others = [name for name in synthetic_models.RECIPES if name != sample.category]
    result = scene.occlude(photo, amodal, level, strangers or others, rng)
    if result is None:
        return
    picture, masks = result
    size = amodal.shape
    xy, _ = view.project(cad.outline)
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
    write_bytes(sample.occluded(level, "annotations"), buffer.getvalue())


def _box(mask: scene.Mask) -> list[int]:
    """[y0, y1, x0, x1, h, w] of a mask, half-open."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1, *mask.shape]


def subtype(category: str, cad_index: int) -> str:
    """The name of a model's kind, as a record and the list of a category's kinds give it."""
    return f"{category}_{cad_index:02d}"
