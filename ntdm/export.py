"""A cache's truth, or a run's predictions on it, in the formats of other tools: `ntdm export`.

    coco     JSON. Truth: a COCO dataset (`COCO(file)`); predictions: COCO results (`truth.loadRes(file)`).
             `segmentation` is the amodal mask, `visible_mask` the visible one, RLE on the crop's grid.
    bop      the BOP challenge's CSV of poses, and beside it `<stem>_images.csv`: ids, names and cameras.
    ood-cv   the OOD-CV challenge's CSV of poses, in degrees.

All three take their ids, names and cameras from the cache, so that exports of one cache and the same splits
belong together. All numbers are those of the crop and its exact camera; a prediction, made with the nominal
camera, has its distance multiplied by focal / nominal focal. That keeps the rotation, and the picture of the
plane through the object's centre that faces the camera, exactly; what is nearer or farther than that plane
shifts with the perspective, measured 1.3 to 2.1 pixels at most on a crop of 128. Masks stay as predicted.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntdm.config.protocol import CATEGORIES
from ntdm.evaluation.ood_cv_challenge import OOD_CV_COLUMNS, challenge_name, in_order_of
from ntdm.geometry import camera_np
from ntdm.io import cache as caches
from ntdm.io import predictions
from ntdm.io.cache_split import split_files
from ntdm.io.outputs import atomic_path
from ntdm.io.progress import say, track
from ntdm.io.run_folder import RunFolder
from ntdm.io.table import cell_text, write_csv

MM_PER_CAD_UNIT = 1000.0  # BOP speaks of millimetres; PASCAL3D+ has no metric scale
OPENCV_FROM_CAM = np.array([1.0, -1.0, -1.0])  # x right, y up, z back -> x right, y down, z forward
BOP_COLUMNS = ("scene_id", "im_id", "obj_id", "score", "R", "t", "time")
BOP_IMAGE_COLUMNS = (
    *BOP_COLUMNS[:3], "dataset", "split", "category", "name", "width", "height", "focal", "cx", "cy",
)  # fmt: skip
_BATCH = 128  # samples whose masks are in memory at once


@dataclass(frozen=True)
class Record:
    """One sample, its truth or its prediction.

    Attributes:
        image_id: number of the sample among all that are exported, from 1.
        file_id: number of its cache file, from 1.
        index: its place in that file, from 0.
        dataset: of its cache file.
        split: of its cache file.
        category: the true one.
        name: of the sample, unique in its cache file.
        image_size: (H, W) of the crop.
        focal: of the crop's camera, pixels.
        principal_point: the same, pixels, corner-origin frame.
        viewpoint: f64 [4] azimuth, elevation, theta (radians), distance (CAD units) in that camera; NaN
            where the prediction failed, distance NaN where it is not predicted.
        score: 1 for the truth.
        seconds: -1 where not measured.
        predicted_category: None where not predicted.
        amodal: u8 [H, W], 0 or 1; None where not annotated, not predicted, or not asked for.
        visible: as `amodal`.
    """

    image_id: int
    file_id: int
    index: int
    dataset: str
    split: str
    category: str
    name: str
    image_size: tuple[int, int]
    focal: float
    principal_point: np.ndarray
    viewpoint: np.ndarray
    score: float = 1.0
    seconds: float = -1.0
    predicted_category: str | None = None
    amodal: np.ndarray | None = None
    visible: np.ndarray | None = None

    @property
    def category_id(self) -> int:
        """1 to 12: the place of the category among PASCAL3D+'s, which are in alphabetical order."""
        return _category_id(self.category)

    @property
    def failed(self) -> bool:
        """Whether the prediction has no pose."""
        return not bool(np.isfinite(self.viewpoint[:3]).all())


def coco(paths: Sequence[Path], run: Path | None, out: Path) -> Path:
    """Masks as COCO JSON; a failed prediction is left out, and said.

    Args:
        paths: cache files.
        run: run folder whose predictions are exported; None: the truth.
        out: the JSON file.

    Raises:
        ValueError: pycocotools is not installed; a sample has no CAD; a prediction is missing or has no mask.
    """
    try:
        from pycocotools import mask as rle
    except ImportError:
        raise ValueError("export coco needs pycocotools: pip install 'ntdm[export]'") from None

    def encoded(mask: np.ndarray) -> dict[str, Any]:
        code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        return {"size": list(map(int, code["size"])), "counts": code["counts"].decode("ascii")}

    images, annotations = [], []
    for record in _present(records(paths, run, masks=True)):
        if record.amodal is None:
            what = "has no CAD, so no mask is annotated" if run is None else f"has no mask in {run}"
            raise ValueError(f"export coco: sample {record.name} of {record.dataset}/{record.split} {what}")
        key = f"{record.dataset}/{record.split}/{record.category}/{record.name}"
        height, width = record.image_size
        images.append({"id": record.image_id, "file_name": f"{key}.png", "height": height, "width": width})
        mask = encoded(record.amodal)
        annotation: dict[str, Any] = {"image_id": record.image_id, "category_id": record.category_id}
        annotation["segmentation"] = mask
        if record.visible is not None:
            annotation["visible_mask"] = encoded(record.visible)
        if run is None:
            annotation |= {"id": record.image_id, "iscrowd": 0, "area": int(rle.area(mask))}
            annotation["bbox"] = rle.toBbox(mask).tolist()
        else:
            annotation["score"] = record.score
            if record.predicted_category is not None:
                annotation["predicted_category_id"] = _category_id(record.predicted_category)
        annotations.append(annotation)
    dataset = {
        "info": {"description": "object-centred crops of an ntdm cache; segmentation: amodal masks"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, start=1)],
    }
    with atomic_path(out) as part:
        part.write_text(json.dumps(dataset if run is None else annotations) + "\n", encoding="utf-8")
    return out


def bop(paths: Sequence[Path], run: Path | None, out: Path) -> Path:
    """Poses as the BOP challenge's CSV; a failed prediction is left out, and said.

    R (row-wise) and t (millimetres, 1 CAD unit = 1000 mm) take the object's frame (+z up, front along -y) to
    the camera's: x right, y down, z forward. scene_id is the number of the cache file, from 1, im_id the
    sample's place in it, obj_id the category's number, 1 to 12. `<stem>_images.csv` lists every sample.

    Args, Raises: as :func:`coco`; ValueError when distances are not predicted.
    """
    lines, images = [], []
    for record in records(paths, run):
        ids = [str(record.file_id), str(record.index), str(record.category_id)]
        height, width = record.image_size
        camera = map(cell_text, (width, height, record.focal, *record.principal_point))
        images.append([*ids, record.dataset, record.split, record.category, record.name, *camera])
        if record.failed:
            continue
        if math.isnan(record.viewpoint[3]):
            raise ValueError(f"export bop: {run} predicts no distance, and a pose of BOP has a translation")
        rotation = OPENCV_FROM_CAM[:, None] * camera_np.rotation(record.viewpoint)
        translation = OPENCV_FROM_CAM * [0.0, 0.0, -MM_PER_CAD_UNIT * record.viewpoint[3]]
        numbers = (" ".join(map(cell_text, array.ravel() + 0.0)) for array in (rotation, translation))
        lines.append([*ids, cell_text(record.score), *numbers, cell_text(record.seconds)])
    _say_failed(len(images) - len(lines), len(images))
    with atomic_path(out.with_name(f"{out.stem}_images.csv")) as part:
        write_csv(part, BOP_IMAGE_COLUMNS, images)
    with atomic_path(out) as part:
        write_csv(part, BOP_COLUMNS, lines)
    return out


def ood_cv(paths: Sequence[Path], run: Path | None, out: Path, order: Path | None = None) -> Path:
    """Poses as the OOD-CV challenge's CSV, angles in degrees; a failed prediction is a row of nan.

    Args:
        paths: as for :func:`coco`.
        run: as for :func:`coco`.
        out: as for :func:`coco`.
        order: a CSV with the column `imgs`, such as the challenge's labels.csv. The challenge compares row
            by row: with it the rows are those of `order`, and one that is not in the cache is nan, and told.

    Raises:
        ValueError: as :func:`coco`; a name that is not `<image>_<object>`; an `order` that names none of the
            samples.
    """
    lines = []
    for record in records(paths, run):
        angles = np.degrees(record.viewpoint[:3])
        distance = record.viewpoint[3]
        unknown = math.isnan(distance) and not record.failed
        cells = [*map(cell_text, angles), cell_text(None if unknown else distance)]
        lines.append([f"{challenge_name(record.category, record.name)}.jpg", record.category, *cells])
    with atomic_path(out) as part:
        write_csv(part, OOD_CV_COLUMNS, lines if order is None else in_order_of(lines, order))
    return out


FORMATS: dict[str, Callable[..., Path]] = {"coco": coco, "bop": bop, "ood-cv": ood_cv}


def run(
    form: str, cache: Path, splits: Sequence[str], run_folder: Path | None, out: Path,
    order: Path | None = None,
) -> Path:  # fmt: skip
    """Write one file of the splits of a cache; returns out.

    Args:
        form: a key of FORMATS.
        cache: cache root, or one cache file (`splits` is not used).
        splits: "pascal3d/val", ...; none for every test split of the cache.
        run_folder: whose predictions are written; None for the truth.
        out: the file.
        order: ood-cv alone: the challenge's labels.csv, whose rows and order are taken.

    Raises:
        ValueError: no cache file, or as the format.
    """
    paths = [path for files in split_files(cache, splits).values() for path in files]
    return FORMATS[form](paths, run_folder, out, **({} if order is None else {"order": order}))


def records(paths: Sequence[Path], run: Path | None, masks: bool = False) -> Iterator[Record]:
    """Every sample of the cache files, in their order; with its truth, or with its prediction by `run`.

    Raises:
        ValueError: no cache file or a damaged one; no prediction for a sample; masks of another size.
    """
    image_id = 0
    for file_id, path in enumerate(track(paths, "export"), start=1):
        with caches.CacheFile(path) as file:
            names, focal, centre = file["name"], file["focal"], file["principal_point"]
            rows = _truth(file, masks) if run is None else _predictions(file, run, masks)
            for index, fields in enumerate(rows):
                image_id += 1
                yield Record(
                    image_id=image_id, file_id=file_id, index=index, dataset=file.dataset, split=file.split,
                    category=file.category, name=names[index], image_size=file.image_size,
                    focal=float(focal[index]), principal_point=centre[index], **fields,
                )  # fmt: skip


def _truth(file: caches.CacheFile, masks: bool) -> Iterator[dict[str, Any]]:
    viewpoint, cad_index = file["viewpoint"], file["cad_index"]
    for i in range(len(file)):
        fields: dict[str, Any] = {"viewpoint": viewpoint[i]}
        if masks and cad_index[i] >= 0:
            fields["amodal"] = file.read("amodal_mask", i)
            # Where occluders are not annotated, visible_mask repeats the amodal one and says nothing.
            fields["visible"] = file.read("visible_mask", i) if "occluder_mask" in file else None
        yield fields


def _predictions(file: caches.CacheFile, run: Path, masks: bool) -> Iterator[dict[str, Any]]:
    path = RunFolder(run).predictions(f"{file.dataset}/{file.split}")
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: run evaluate on {file.dataset}/{file.split}, or name others by --splits"
        )
    table = predictions.read_predictions(path)
    rows = predictions.rows_of(table, file)
    if not table.measured("azimuth"):
        raise ValueError(f"{path}: column azimuth is empty, there are no poses to export")
    ratio = file["focal"] / file.nominal_focal
    viewpoint = np.stack([table[column][rows] for column in predictions.POSE_COLUMNS], -1)
    viewpoint[:, 3] *= ratio
    measured = [name for name in ("score", "seconds", "predicted_category") if table.measured(name)]
    with_masks = masks and path.with_suffix(".h5").exists()
    keys = [(file.category, name) for name in file["name"]]
    for start in range(0, len(keys), _BATCH):
        part = range(start, min(start + _BATCH, len(keys)))
        shapes = predictions.read_geometry(path, [keys[i] for i in part]) if with_masks else None
        for n, i in enumerate(part):
            fields: dict[str, Any] = {name: table[name][rows[i]].item() for name in measured}
            for name in ("amodal", "visible"):
                dense = getattr(shapes, name, None)
                if dense is not None and dense.shape[1:] != file.image_size:
                    raise ValueError(
                        f"{path.with_suffix('.h5')}: {name} masks are {dense.shape[1:]}, "
                        f"those of {file.path} {file.image_size} (H, W)"
                    )
                fields[name] = None if dense is None else dense[n]
            yield fields | {"viewpoint": viewpoint[i]}


def _present(exported: Iterable[Record]) -> Iterator[Record]:
    """The records that did not fail; at the end tells how many did."""
    failed = count = 0
    for record in exported:
        count += 1
        failed += record.failed
        if not record.failed:
            yield record
    _say_failed(failed, count)


def _say_failed(failed: int, count: int) -> None:
    if failed:
        say(f"{failed} of {count} predictions failed and are left out")


def _category_id(category: str) -> int:
    if category not in CATEGORIES:
        raise ValueError(f"export: category {category!r} has no number; the categories are {CATEGORIES}")
    return CATEGORIES.index(category) + 1
