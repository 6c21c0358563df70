"""Pictures of what a run predicted: contact sheets of a split, and those of a report.

overview   a split from best to worst pose: photo, mesh over it, masks
examples   a photo of every split: the photo, its mesh from another side in three colours, the mesh over it
gallery    the best, the middle and the worst poses of a split
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ntdm.geometry.camera import cam_from_obj
from ntdm.io import cache as caches
from ntdm.io import cache_split, predictions
from ntdm.io.error_table import read_errors
from ntdm.io.outputs import atomic_path
from ntdm.io.progress import say, track
from ntdm.io.run_folder import RunFolder
from ntdm.io.table import Table
from ntdm.methods import load
from ntdm.methods.ntdm import NTDM
from ntdm.viz import pictures
from ntdm.viz.shading import seen_from_ahead, shading

OVERVIEW_ROWS, GALLERY_ROWS = 12, 4
_FINER = 4  # times the crop's resolution, at which the seen faces are told from the unseen
_TURNED = (65.0, 20.0)  # degrees: further azimuth, and the elevation, that the mesh is shown from
_MESH_PIXELS = 320


@dataclass(frozen=True)
class Fit:
    """A sample's prediction, ready to be drawn.

    Attributes:
        photo: u8 [H, W, 3].
        amodal: [H, W], 0 or 1.
        visible: [H, W], 0 or 1.
        vertices: f32 [1, V, 3] in the object's frame.
        viewpoint: f32 [1, 4] radians, CAD units.
        caption: two lines.
    """

    photo: np.ndarray
    amodal: np.ndarray
    visible: np.ndarray
    vertices: torch.Tensor
    viewpoint: torch.Tensor
    caption: str


def overview(model: NTDM, focal: float, run_folder: Path, split: str, paths: Sequence[Path]) -> Path:
    """A contact sheet of the split, best to worst pose, in ``<run>/sheets/<split>.png``.

    Args:
        model: of the run.
        focal: of the crop's nominal camera, pixels.
        run_folder: with predictions and errors of the split.
        split: "pascal3d/val", ...
        paths: the split's cache files.
    """
    order = _by_error(_errors(run_folder, split))
    chosen = pictures.even_steps(order, OVERVIEW_ROWS)
    fits = read_fits(model, run_folder, split, paths, chosen)
    rows = [[f.photo, _over(model, focal, f), pictures.mask_picture(f.amodal, f.visible)] for f in fits]
    sheet = pictures.contact_sheet(
        rows,
        [f.caption for f in fits],
        ("photo", "predicted mesh", "visible blue, occluded orange"),
        across=2,
    )
    return _save(RunFolder(run_folder).sheet(split), sheet)


def run(runs: Sequence[Path], cache: Path, splits: Mapping[str, str], out: Path) -> list[tuple[Path, str]]:
    """Examples and galleries of the runs that fit meshes.

    Args:
        runs: run folders; one without a model, or whose method fits no mesh, is passed over, and said.
        cache: root of the cache that the splits were predicted on.
        splits: column of the table -> ``dataset/split``; those that a run has no errors of are left out.
        out: folder of the pictures.

    Returns:
        path and caption of each.

    Raises:
        ValueError: as trained.load and predictions.read_geometry; a predicted sample that the cache lacks.
    """
    written = []
    for number, folder in enumerate(track(runs, "pictures")):
        run = RunFolder(folder)
        have = {c: s for c, s in splits.items() if run.errors(s).exists()}
        if not run.weights.exists() or not have:
            say(f"{folder}: no model or no errors, so no pictures")
            continue
        described = run.description()
        learned = described.get("train")
        if isinstance(learned, dict) and learned.get("method") != "ntdm":
            # Its model is not built: that may need a package which is not there.
            say(f"{folder}: {described.get('method')} fits no mesh, so no pictures")
            continue
        model, description = load.load(folder)
        assert isinstance(model, NTDM)
        focal, method, name = description["nominal_focal"], description["method"], folder.resolve().name
        stem = name if [path.resolve().name for path in runs].count(name) == 1 else f"{name}_{number}"
        path = _examples(model, focal, folder, cache, have, out / f"{stem}_examples.png")
        caption = (
            f"{method}: of every split the photo with the median pose error; its mesh from another side, "
            "visible blue, occluded orange, unseen grey; the mesh over the photo."
        )
        written.append((path, caption))
        for column, split in have.items():
            path = _gallery(model, focal, folder, cache, split, out / f"{stem}_{column}.png")
            written.append((path, f"{method}, {column}: best, median and worst poses."))
    return written


def _examples(
    model: NTDM, focal: float, run_folder: Path, cache: Path, splits: Mapping[str, str], out: Path
) -> Path:
    columns, names = [], []
    for column, split in splits.items():
        order = _by_error(_errors(run_folder, split))
        middle = order[len(order) // 2 : len(order) // 2 + 1]
        (fit,) = read_fits(model, run_folder, split, cache_split.find(cache, split), middle)
        columns.append((fit.photo, coloured_mesh(model, focal, fit), _over(model, focal, fit)))
        names.append(f"{column}: {fit.caption.rpartition(', ')[0].rpartition(', ')[2]}")
    rows = [[column[i] for column in columns] for i in range(3)]
    return _save(out, pictures.contact_sheet(rows, None, names))


def _gallery(model: NTDM, focal: float, run_folder: Path, cache: Path, split: str, out: Path) -> Path:
    order = _by_error(_errors(run_folder, split))
    count = min(GALLERY_ROWS, len(order))
    start = (len(order) - count) // 2
    groups = {"best": order[:count], "median": order[start : start + count], "worst": order[-count:][::-1]}
    chosen = np.stack(list(groups.values()), 1).ravel()  # row by row: a best, a median, a worst one
    fits = read_fits(model, run_folder, split, cache_split.find(cache, split), chosen)
    captions = [f"{list(groups)[i % 3]}: {fit.caption}" for i, fit in enumerate(fits)]
    rows = [[fit.photo, _over(model, focal, fit)] for fit in fits]
    return _save(out, pictures.contact_sheet(rows, captions, ("photo", "predicted mesh"), tile=176, across=3))


def read_fits(
    model: NTDM, run_folder: Path, split: str, paths: Sequence[Path], rows: Sequence[int] | np.ndarray
) -> list[Fit]:
    """What was predicted of some rows of a split's error file, in their order; a row may come twice.

    Raises ValueError when the cache files `paths` lack one of the samples.
    """
    errors = _errors(run_folder, split)
    path = RunFolder(run_folder).predictions(split)
    table = predictions.read_predictions(path)
    place = {key: i for i, key in enumerate(table.keys())}
    keys = [errors.keys()[i] for i in rows]
    masks = predictions.read_geometry(path, keys)
    assert masks.amodal is not None and masks.visible is not None
    assert masks.latent is not None and masks.scale is not None
    photos = _photos(paths, set(keys))
    fits = []
    for n, (i, key) in enumerate(zip(rows, keys, strict=True)):
        if key not in photos:
            raise ValueError(f"{paths[0].parent} has no sample {key}, which {run_folder} predicted")
        row, shape = place[key], model.shape(model.categories.index(key[0]))
        latent = torch.from_numpy(masks.latent[n, : shape.num_latents])[None].to(model.faces.device)
        vertices = shape(latent) * float(masks.scale[n])
        viewpoint = vertices.new_tensor([[float(table[column][row]) for column in predictions.POSE_COLUMNS]])
        iou = float(errors["amodal_iou"][i]) if errors.measured("amodal_iou") else None
        guess = str(table["predicted_category"][row])
        caption = pictures.describe(key[1], key[0], guess, float(errors["rotation_error"][i]), iou)
        fits.append(Fit(photos[key], masks.amodal[n], masks.visible[n], vertices, viewpoint, caption))
    return fits


def coloured_mesh(model: NTDM, focal: float, fit: Fit) -> np.ndarray:
    """The fitted mesh from another side, u8 [S, S, 3]: visible blue, occluded orange, unseen grey.

    A face is seen where it covers a part of the photo under the fitted pose, and visible where most of that
    part is in the visible mask.
    """
    height, width = (_FINER * side for side in fit.visible.shape)
    cam = cam_from_obj(fit.vertices, fit.viewpoint)
    index = seen_from_ahead(cam, model.faces, _FINER * focal, (height, width)).face_index[0].cpu().numpy()
    shown = np.kron(fit.visible != 0, np.ones((_FINER, _FINER), bool))
    count = len(model.faces)
    covered = np.bincount(index[index >= 0], minlength=count)
    visible = np.bincount(index[(index >= 0) & shown], minlength=count)
    colours = np.array([pictures.UNSEEN_COLOUR, pictures.OCCLUDED_COLOUR, pictures.VISIBLE_COLOUR])
    of_face = colours[np.where(covered == 0, 0, np.where(2 * visible > covered, 2, 1))]

    azimuth, elevation = np.radians(_TURNED)
    turned = fit.viewpoint.clone()
    turned[0, 0] += float(azimuth)
    turned[0, 1], turned[0, 2] = float(elevation), 0.0
    cam = cam_from_obj(fit.vertices, turned)
    size = (_MESH_PIXELS, _MESH_PIXELS)
    # As large as it can be: the farthest vertex touches the edge.
    reach = float((cam[..., :2].norm(dim=-1) / -cam[..., 2]).max())
    larger = 0.48 * _MESH_PIXELS / max(reach, 1e-9)
    fragments = seen_from_ahead(cam, model.faces, larger, size)
    light = shading(cam, model.faces, fragments)
    index = fragments.face_index[0].cpu().numpy()
    picked = of_face[np.maximum(index, 0)] * (0.25 + 0.85 * light[..., None])
    return np.where(index[..., None] >= 0, picked.clip(0, 255), 255).astype(np.uint8)


def _errors(run_folder: Path, split: str) -> Table:
    return read_errors(RunFolder(run_folder).errors(split))


def _by_error(errors: Table) -> np.ndarray:
    return np.argsort(errors["rotation_error"], kind="stable")


def _over(model: NTDM, focal: float, fit: Fit) -> np.ndarray:
    cam = cam_from_obj(fit.vertices, fit.viewpoint)
    height, width = fit.photo.shape[:2]
    light = shading(cam, model.faces, seen_from_ahead(cam, model.faces, focal, (height, width)))
    return pictures.overlay(fit.photo, fit.amodal, fit.visible, light)


def _photos(paths: Sequence[Path], keys: set[tuple[str, str]]) -> dict[tuple[str, str], np.ndarray]:
    photos = {}
    for path in paths:
        with caches.CacheFile(path) as file:
            for i, name in enumerate(file["name"]):
                if (file.category, name) in keys:
                    photos[file.category, name] = file.read("images", i)
    return photos


def _save(path: Path, sheet: np.ndarray) -> Path:
    with atomic_path(path) as part:
        Image.fromarray(sheet).save(part)
    return path
