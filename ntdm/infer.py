"""Inference on any photo: `ntdm infer`. One folder a photo.

    <out>/<photo>/result.json   class, pose, camera of the photo, shape latent, losses of all classes
                  amodal.png    the object's whole silhouette, photo resolution, 0/255
                  visible.png   its visible part
                  mesh.obj (.mtl, .png)  the fitted mesh: visible blue, occluded orange, unseen grey
                  overlay.png   the mesh over the photo

The photo is cropped about the box, scaled so that the box is as large as the training objects' were; the
object's distance, and a small shift of the principal point, are refined along with everything else.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ntdm.config.reading import to_dict
from ntdm.config.stages import InferConfig
from ntdm.geometry import mesh, obj
from ntdm.geometry.camera import cam_from_obj, rotation
from ntdm.geometry.crop import CropMap
from ntdm.io import run_folder as run_folders
from ntdm.io.outputs import atomic_path, finished, sweep
from ntdm.io.photo import read_photo
from ntdm.io.progress import track
from ntdm.methods import load
from ntdm.methods.ntdm import NTDM
from ntdm.ops.rasterize import interpolate, rasterize
from ntdm.ops.uv_scatter import uv_scatter
from ntdm.render_and_compare.encode import Photos, encode
from ntdm.render_and_compare.solver import Solution, Solver, fit_categories
from ntdm.viz import pictures

FILES = ("result.json", "amodal.png", "visible.png", "overlay.png", "mesh.obj", "mesh.mtl", "mesh.png")
TEXTURE_SIZE = 256
FARTHEST, SMALLEST_BOX = 1e6, 1.0  # pixels, of a box's edges and sides


def run(
    images: Sequence[Path],
    run_folder: Path,
    out: Path,
    bbox: tuple[float, float, float, float] | None,
    config: InferConfig,
    overwrite: bool = False,
    device: str = "cpu",
) -> Path:
    """Infer photos and write one folder each.

    Args:
        bbox: x0, y0, x1, y1 in photo pixels (corner-origin) of the object; None is the whole photo.
        device: "cpu" or "cuda", where photos are fitted.

    Returns:
        `out`. A photo whose result is there, made with the same config, weights and box, is skipped.

    Raises:
        ValueError: an unreadable photo, a box that misses the photo, a run of a method without meshes, a
            result made otherwise without `overwrite`, a folder of that name that holds other files.
    """
    sweep(out)
    model, description = load.load(run_folder, device)
    if not isinstance(model, NTDM):
        raise ValueError(
            f"{run_folder} holds method {description['method']!r}, which fits no mesh; give an ntdm run"
        )
    stems = [path.stem for path in images]
    if {"", ".", ".."} & set(stems):
        raise ValueError("a photo's name is made of dots only: its result would have no folder; rename it")
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(
            f"two photos are called {twice[0]}: their results would share a folder; infer them apart"
        )
    size = (description["image_size"][0], description["image_size"][1])
    config = dataclasses.replace(config, refine_principal_point=True)  # a box's centre is not the object's
    weights = run_folders.weights_digest(run_folder)
    todo = []
    for path in images:
        photo = read_photo(path)
        box = _checked_box(bbox, photo, path)
        digest = hashlib.sha256(photo.tobytes()).hexdigest()[:16]
        made_with = {"infer": to_dict(config), "weights": weights, "bbox": list(box), "photo": digest}
        if not _finished(out / path.stem, made_with, overwrite):
            todo.append((path, box, made_with))
    solvers = [
        Solver(model, c, config, size, description["nominal_focal"]) for c in range(len(model.categories))
    ]
    for path, box, made_with in track(todo, "infer"):
        photo = read_photo(path)
        width, height = box[2] - box[0], box[3] - box[1]
        zoom = description["typical_box"] / math.hypot(width, height)
        crop_map = CropMap(size, zoom, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        crop = torch.from_numpy(crop_map.resample(photo).round().clip(0, 255).astype(np.uint8)).permute(
            2, 0, 1
        )
        photos = encode(model, crop[None].to(device), config)
        every, fits = fit_categories(solvers, photos)
        losses = every[0].tolist()
        best = int(np.argmin(losses))
        _, solution = fits[best]
        result = _result(path, box, crop_map, model, solvers[best], solution, losses)
        # The whole folder is written under a temporary name, so that a result is never half there.
        with atomic_path(out / path.stem) as part:
            part.mkdir()
            _write(part, photo, crop_map, model, solvers[best], solution, photos)
            text = json.dumps(result | {"made_with": made_with}, indent=1, allow_nan=False)
            (part / "result.json").write_text(text + "\n", encoding="utf-8")
            if (out / path.stem).exists():
                _remove_result(out / path.stem)
    return out


def _finished(folder: Path, made_with: dict[str, Any], overwrite: bool) -> bool:
    """Whether `folder` holds this very result; ValueError when it holds what must not be replaced."""
    if not folder.exists():
        return False
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - set(FILES):
        raise ValueError(
            f"{folder} is there and holds more than a result of `ntdm infer`: choose another --out"
        )
    if overwrite or not (folder / "result.json").exists():
        return False
    try:
        before = json.loads((folder / "result.json").read_text(encoding="utf-8"))["made_with"]
        if not isinstance(before, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / 'result.json'} is damaged: pass --overwrite to make it again") from None
    return finished(folder, before, made_with, overwrite)


def surface_labels(model: NTDM, solver: Solver, solution: Solution, visible: torch.Tensor) -> np.ndarray:
    """The mesh's colours on its UV square: u8 [T, T, 3] of picture.py's three.

    The visible mask [1, H, W] is carried onto the surface by the UV scatter.
    """
    cam = cam_from_obj(solution.vertices, solution.viewpoint)
    surface = model.surface_map(
        cam, cam.new_tensor([solver.focal]), solution.principal_point, solver.image_size
    )
    covered = surface.fragments.face_index >= 0
    uv = mesh.sphere_uv(torch.where(covered[..., None], surface.sphere, model.sphere[0]))
    mean, weight = uv_scatter(visible[..., None].float(), uv, covered, TEXTURE_SIZE)
    colours = np.full((TEXTURE_SIZE, TEXTURE_SIZE, 3), pictures.UNSEEN_COLOUR, np.uint8)
    reached, shown = weight[0].cpu().numpy() > 0, mean[0, ..., 0].cpu().numpy() > 0.5
    colours[reached & shown] = pictures.VISIBLE_COLOUR
    colours[reached & ~shown] = pictures.OCCLUDED_COLOUR
    return colours


def photo_masks(
    model: NTDM, solver: Solver, solution: Solution, photos: Photos, crop_map: CropMap, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Amodal and visible masks, bool, and shading f32 in [0, 1], all [h, w] on the photo's own grid."""
    cam = cam_from_obj(solution.vertices, solution.viewpoint)
    focal = cam.new_tensor([solver.focal / crop_map.zoom])
    centre, middle = cam.new_tensor([crop_map.centre]), cam.new_tensor(crop_map.principal_point)
    point = (solution.principal_point - middle) / crop_map.zoom + centre
    fragments = rasterize(cam, model.faces, focal, point, shape)
    amodal = fragments.face_index[0] >= 0
    normals = interpolate(mesh.vertex_normals(cam, model.faces), model.faces, fragments)
    rows, columns = amodal.nonzero(as_tuple=True)
    crop_xy = crop_map.crop_from_photo(np.stack([columns.cpu().numpy() + 0.5, rows.cpu().numpy() + 0.5], -1))
    height, width = solver.image_size
    grid = cam.new_tensor(crop_xy / [width / 2, height / 2] - 1)[None, None]
    logit = solver.visible_logit(solution, photos)[:, None]
    values = F.grid_sample(logit, grid, align_corners=False, padding_mode="border")[0, 0, 0]
    visible = torch.zeros_like(amodal)
    visible[rows, columns] = values >= 0
    return amodal.cpu().numpy(), visible.cpu().numpy(), pictures.shade(normals[0].cpu().numpy())


def _write(
    folder: Path,
    photo: np.ndarray,
    crop_map: CropMap,
    model: NTDM,
    solver: Solver,
    solution: Solution,
    photos: Photos,
) -> None:
    amodal, visible, shading = photo_masks(model, solver, solution, photos, crop_map, photo.shape[:2])
    for name, mask in (("amodal", amodal), ("visible", visible)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}.png")
    Image.fromarray(pictures.overlay(photo, amodal, visible, shading)).save(folder / "overlay.png")
    _, crop_visible = solver.masks(solution, photos)
    colours = surface_labels(model, solver, solution, crop_visible)
    written = (solution.vertices[0].cpu(), model.faces.cpu(), model.sphere.cpu())
    obj.write_obj(folder / "mesh.obj", *written, colours)


def _result(
    path: Path, box: tuple[float, ...], crop_map: CropMap, model: NTDM, solver: Solver, solution: Solution,
    losses: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    azimuth, elevation, theta, distance = solution.viewpoint[0].tolist()
    middle = crop_map.principal_point
    point = (solution.principal_point[0].double().cpu().numpy() - middle) / crop_map.zoom + np.array(
        crop_map.centre
    )
    return {
        "schema": "ntdm-result",
        "schema_version": 1,
        "photo": path.name,
        "bbox": list(box),
        "category": model.categories[solver.category],
        "score": 1 - losses[solver.category],
        "losses": dict(zip(model.categories, losses, strict=True)),
        "viewpoint": {"azimuth": azimuth, "elevation": elevation, "theta": theta, "distance": distance},
        "cam_from_obj": {
            "rotation": rotation(solution.viewpoint[0]).tolist(),
            "translation": [0.0, 0.0, -distance],
        },
        "focal_px": solver.focal / crop_map.zoom,
        "principal_point": point.tolist(),
        "latent": solution.latent[0].tolist(),
        "scale": float(solution.scale[0]),
    }


def _checked_box(
    bbox: tuple[float, float, float, float] | None, photo: np.ndarray, path: Path
) -> tuple[float, float, float, float]:
    height, width = photo.shape[:2]
    if bbox is None:
        return 0.0, 0.0, float(width), float(height)
    x0, y0, x1, y1 = bbox
    if not all(abs(edge) <= FARTHEST for edge in bbox) or min(x1 - x0, y1 - y0) < SMALLEST_BOX:
        raise ValueError(
            f"--bbox {x0},{y0},{x1},{y1}: want x0,y0,x1,y1 in pixels, at least {SMALLEST_BOX:g} wide and high"
        )
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise ValueError(f"--bbox {x0},{y0},{x1},{y1} misses photo {path}, which is {width} x {height}")
    return bbox


def _remove_result(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()
