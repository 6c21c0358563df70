"""One photo in; class, pose, shape and masks out: ``ntdm.load(run)(photo, bbox)``. `ntdm infer` is this call.

The photo is cropped about the box, scaled so that the box is as large as the training objects' were; the
object's distance, and a small shift of the principal point, are refined along with everything else.
"""

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ntdm.config.reading import resolve, to_dict
from ntdm.config.stages import InferConfig
from ntdm.geometry import mesh, obj
from ntdm.geometry.camera import Pinhole, cam_from_obj, rotation
from ntdm.geometry.crop import CropMap
from ntdm.io.outputs import atomic_path
from ntdm.io.photo import photo_from_array, photo_from_image, read_photo
from ntdm.io.run_folder import RunFolder
from ntdm.methods import load as methods_load
from ntdm.methods.ntdm import NTDM, TextureRenderer
from ntdm.ops.rasterize import rasterize
from ntdm.ops.uv_scatter import uv_scatter
from ntdm.render_and_compare.encode import EncodedPhotos, encode
from ntdm.render_and_compare.solver import Solution, Solver, fit_categories
from ntdm.viz import pictures
from ntdm.viz.shading import shading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("result.json", "amodal.png", "visible.png", "overlay.png", "mesh.obj", "mesh.mtl", "mesh.png")
TEXTURE_SIZE = 256
FARTHEST, SMALLEST_BOX = 1e6, 1.0  # pixels, of a box's edges and sides

Photo = Path | str | Image.Image | np.ndarray
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class FittedMesh:
    """The fitted mesh in the object frame (+z up, front along -y), CAD units.

    Attributes:
        vertices: f32 [V, 3], with s' applied.
        faces: i64 [F, 3].
        sphere: f32 [V, 3] the template point of every vertex.
        uv: f32 [V, 2] its texture coordinates in [0, 1], longitude and latitude of `sphere`.
        colours: u8 [T, T, 3] on the UV square: visible blue, occluded orange, unseen grey.
    """

    vertices: np.ndarray
    faces: np.ndarray
    sphere: np.ndarray
    uv: np.ndarray
    colours: np.ndarray


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was found in one photo [h, w]. Angles in radians; pixels are corner-origin, x right, y down.

    Attributes:
        photo: u8 [h, w, 3].
        name: of the photo's file; None for a photo that came as pixels.
        bbox: (x0, y0, x1, y1) that was asked for, pixels.
        category: the likeliest.
        score: its score, 1 - loss.
        scores: of every category.
        viewpoint: f32 [4] azimuth, elevation, theta, distance (CAD units); see ntdm.camera.
        cam_from_obj: f32 [3, 4], R and t of x_cam = R x_obj + t; the camera looks along -z.
        focal: pixels of the photo.
        principal_point: f64 [2] pixels of the photo.
        latent: f32 [K] shape latent z.
        scale: s'.
        mesh: the fitted mesh.
        amodal: bool [h, w], the object's whole silhouette.
        visible: bool [h, w], its visible part.
        shading: f32 [h, w] in [0, 1], brightness of the mesh where it is.
        made_with: inference config, digests of weights and photo, box; what decides whether it is up to date.
    """

    photo: np.ndarray
    name: str | None
    bbox: Box
    category: str
    score: float
    scores: dict[str, float]
    losses: dict[str, float]
    viewpoint: np.ndarray
    cam_from_obj: np.ndarray
    focal: float
    principal_point: np.ndarray
    latent: np.ndarray
    scale: float
    mesh: FittedMesh
    amodal: np.ndarray
    visible: np.ndarray
    shading: np.ndarray
    made_with: dict[str, Any]

    @property
    def overlay(self) -> np.ndarray:
        """u8 [h, w, 3]: the mesh over the photo, blue where it is visible, orange where it is occluded."""
        return pictures.overlay(self.photo, self.amodal, self.visible, self.shading)

    def as_dict(self) -> dict[str, Any]:
        """What result.json holds (docs/formats.md)."""
        azimuth, elevation, theta, distance = self.viewpoint.tolist()
        return {
            "schema": "ntdm-result",
            "schema_version": 1,
            "photo": self.name,
            "bbox": list(self.bbox),
            "category": self.category,
            "score": self.score,
            "losses": self.losses,
            "viewpoint": {"azimuth": azimuth, "elevation": elevation, "theta": theta, "distance": distance},
            "cam_from_obj": {
                "rotation": self.cam_from_obj[:, :3].tolist(),
                "translation": [0.0, 0.0, -distance],
            },
            "focal_px": self.focal,
            "principal_point": self.principal_point.tolist(),
            "latent": self.latent.tolist(),
            "scale": self.scale,
            "made_with": self.made_with,
        }

    def save(self, folder: Path | str, overwrite: bool = False) -> Path:
        """Write the files that `ntdm infer` writes of a photo: result.json, masks, overlay, mesh.

        The whole folder is written under a temporary name, so that a result is never half there.

        Args:
            folder: of this result alone.
            overwrite: replace another result that lies there.

        Returns:
            The folder.

        Raises:
            ValueError: `folder` is there and holds other files, or a result without `overwrite`.
        """
        folder = Path(folder)
        check_result_folder(folder)
        if folder.exists() and any(folder.iterdir()) and not overwrite:
            raise ValueError(f"{folder} holds a result already: pass overwrite=True, or another folder")
        with atomic_path(folder) as part:
            part.mkdir()
            for name, mask in (("amodal", self.amodal), ("visible", self.visible)):
                Image.fromarray(mask.astype(np.uint8) * 255).save(part / f"{name}.png")
            Image.fromarray(self.overlay).save(part / "overlay.png")
            vertices, faces, sphere = map(
                torch.from_numpy, (self.mesh.vertices, self.mesh.faces, self.mesh.sphere)
            )
            obj.write_obj(part / "mesh.obj", vertices, faces, sphere, self.mesh.colours)
            text = json.dumps(self.as_dict(), indent=1, allow_nan=False)
            (part / "result.json").write_text(text + "\n", encoding="utf-8")
            if folder.exists():
                remove_result(folder)
        return folder

    def plot(self) -> "Figure":
        """A matplotlib figure: the photo, the mesh over it, and both masks."""
        from ntdm.reports.estimates import draw_estimate

        title = f"{self.category}, score {self.score:.2f}"
        return draw_estimate(self.photo, self.overlay, self.amodal, self.visible, title)

    def _repr_png_(self) -> bytes:
        """The overlay, which a notebook shows by itself."""
        buffer = io.BytesIO()
        Image.fromarray(self.overlay).save(buffer, "png")
        return buffer.getvalue()


class Estimator:
    """A trained NTDM run that is asked about photos; :func:`load` makes one.

    Attributes:
        categories: the names it knows.
        config: the inference's configuration.
    """

    def __init__(self, run_folder: Path, config: InferConfig, device: str) -> None:
        model, description = methods_load.load(run_folder, device)
        if not isinstance(model, NTDM):
            raise ValueError(
                f"{run_folder} holds method {description['method']!r}, which fits no mesh; give an ntdm run"
            )
        self.model, self.device = model, device
        self.categories = model.categories
        # The centre of a box is not the object's.
        self.config = dataclasses.replace(config, refine_principal_point=True)
        self._size = (description["image_size"][0], description["image_size"][1])
        self._focal, self._typical_box = description["nominal_focal"], description["typical_box"]
        self._weights = RunFolder(run_folder).weights_digest()
        self._solvers: list[Solver] = []

    @property
    def solvers(self) -> list[Solver]:
        """One a category, made when the first photo comes: each renders its starts."""
        if not self._solvers:
            self._solvers = [
                Solver(TextureRenderer(self.model, c), self.config, self._size, self._focal)
                for c in range(len(self.categories))
            ]
        return self._solvers

    def made_with(self, photo: np.ndarray, bbox: Box) -> dict[str, Any]:
        """What decides the result of a photo u8 [h, w, 3] and a box, as result.json keeps it."""
        digest = hashlib.sha256(photo.tobytes()).hexdigest()[:16]
        return {
            "infer": to_dict(self.config), "weights": self._weights, "bbox": list(bbox), "photo": digest,
        }  # fmt: skip

    def __call__(
        self,
        photo: Photo | Sequence[Photo],
        bbox: Sequence[float] | Sequence[Sequence[float] | None] | None = None,
    ) -> Any:
        """Estimate one photo, or a list of photos as one batch.

        Args:
            photo: a path, a PIL image or u8 [h, w, 3]; or a list of these.
            bbox: (x0, y0, x1, y1) of the object in pixels of the photo; None is the whole photo. With a list
                of photos a list of boxes, or None.

        Returns:
            :class:`Estimate`, or a list of them.

        Raises:
            ValueError: a photo that is none, a box that misses it, lists of different lengths.
        """
        if isinstance(photo, Path | str | Image.Image | np.ndarray) or not isinstance(photo, Sequence):
            return self._estimate([photo], [bbox])[0]
        boxes = [None] * len(photo) if bbox is None else list(bbox)
        if len(boxes) != len(photo):
            raise ValueError(
                f"{len(photo)} photos and {len(boxes)} boxes: want a box, or None, for every photo"
            )
        return self._estimate(photo, boxes) if photo else []

    def _estimate(self, given: Sequence[Photo], bboxes: Sequence[Any]) -> list[Estimate]:
        photos = [read(photo) for photo in given]
        paths = [Path(photo) if isinstance(photo, Path | str) else None for photo in given]
        boxes = [
            checked_box(bbox, photo, str(path or "given"))
            for bbox, photo, path in zip(bboxes, photos, paths, strict=True)
        ]
        crops = [self._crop(photo, box) for photo, box in zip(photos, boxes, strict=True)]
        batch = torch.from_numpy(np.stack([pixels for _, pixels in crops])).permute(0, 3, 1, 2)
        encoded = encode(self.model, batch.to(self.device), self.config)
        every, fits = fit_categories(self.solvers, encoded)
        estimates = []
        for i, losses in enumerate(every.tolist()):
            best = int(np.argmin(losses))
            rows, solutions = fits[best]
            (at,) = (rows == i).nonzero()[:, 0].tolist()
            solution = Solution(*(field[at : at + 1] for field in solutions))
            here = encoded.select(torch.tensor([i]))
            fit = _Fit(self.model, self.solvers[best], solution, here, crops[i][0])
            path = paths[i]
            name = None if path is None else path.name
            made_with = self.made_with(photos[i], boxes[i])
            estimates.append(fit.estimate(photos[i], name, boxes[i], losses, made_with))
        return estimates

    def _crop(self, photo: np.ndarray, box: Box) -> tuple[CropMap, np.ndarray]:
        """Where the box goes, and the crop u8 [H, W, 3]."""
        zoom = self._typical_box / math.hypot(box[2] - box[0], box[3] - box[1])
        crop_map = CropMap(self._size, zoom, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        return crop_map, crop_map.resample(photo).round().clip(0, 255).astype(np.uint8)


def load(run: Path | str, device: str = "auto", config: InferConfig | str = "tiny") -> Estimator:
    """The estimator of a trained run.

    Args:
        run: folder that `ntdm train` wrote.
        device: "cpu", "cuda", or "auto": CUDA where it is there.
        config: of the inference; a name or a TOML file as `ntdm infer --config` takes it.

    Raises:
        ValueError: `run` is no run, or one of a method that fits no mesh; an unknown configuration.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    settled = resolve(InferConfig, config) if isinstance(config, str) else config
    return Estimator(Path(run), settled, device)


@dataclass(frozen=True)
class _Fit:
    """One photo's fit under its best category, on its way to the photo's own grid."""

    model: NTDM
    solver: Solver
    solution: Solution  # of one photo
    encoded: EncodedPhotos  # of that photo
    crop_map: CropMap

    def estimate(
        self,
        photo: np.ndarray,
        name: str | None,
        box: Box,
        losses: Sequence[float],
        made_with: dict[str, Any],
    ) -> Estimate:
        """The estimate of the photo u8 [h, w, 3], with the losses of all categories."""
        solution, zoom = self.solution, self.crop_map.zoom
        amodal, visible, shading = self._masks(photo.shape[:2])
        shift = solution.principal_point[0].double().cpu().numpy() - self.crop_map.principal_point
        pose = torch.cat([rotation(solution.viewpoint[0]), solution.viewpoint.new_zeros(3, 1)], 1)
        pose[2, 3] = -solution.viewpoint[0, 3]
        by_category = dict(zip(self.model.categories, losses, strict=True))
        category = self.model.categories[self.solver.renderer.category]
        return Estimate(
            photo=photo, name=name, bbox=box, category=category, score=1 - by_category[category],
            scores={c: 1 - loss for c, loss in by_category.items()}, losses=by_category,
            viewpoint=solution.viewpoint[0].cpu().numpy(), cam_from_obj=pose.cpu().numpy(),
            focal=self.solver.focal / zoom,
            principal_point=shift / zoom + np.array(self.crop_map.centre),
            latent=solution.latent[0].cpu().numpy(), scale=float(solution.scale[0]), mesh=self._mesh(),
            amodal=amodal, visible=visible, shading=shading, made_with=made_with,
        )  # fmt: skip

    def _mesh(self) -> FittedMesh:
        """The mesh, its texture the visible mask [1, H, W], carried onto the surface by the UV scatter."""
        model, solution = self.model, self.solution
        _, visible = self.solver.masks(solution, self.encoded)
        cam = cam_from_obj(solution.vertices, solution.viewpoint)
        surface = model.surface_map(cam, self.solver.camera(solution))
        covered = surface.fragments.face_index >= 0
        uv = mesh.sphere_uv(torch.where(covered[..., None], surface.sphere, model.sphere[0]))
        mean, weight = uv_scatter(visible[..., None].float(), uv, covered, TEXTURE_SIZE)
        colours = np.full((TEXTURE_SIZE, TEXTURE_SIZE, 3), pictures.UNSEEN_COLOUR, np.uint8)
        reached, shown = weight[0].cpu().numpy() > 0, mean[0, ..., 0].cpu().numpy() > 0.5
        colours[reached & shown] = pictures.VISIBLE_COLOUR
        colours[reached & ~shown] = pictures.OCCLUDED_COLOUR
        return FittedMesh(
            vertices=solution.vertices[0].cpu().numpy(), faces=model.faces.cpu().numpy(),
            sphere=model.sphere.cpu().numpy(), uv=mesh.sphere_uv(model.sphere).cpu().numpy(), colours=colours,
        )  # fmt: skip

    def _masks(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Amodal and visible masks, bool, and shading f32 in [0, 1], all [h, w] on the photo's own grid."""
        model, solver, crop_map, solution = self.model, self.solver, self.crop_map, self.solution
        cam = cam_from_obj(solution.vertices, solution.viewpoint)
        centre, middle = cam.new_tensor([crop_map.centre]), cam.new_tensor(crop_map.principal_point)
        point = (solution.principal_point - middle) / crop_map.zoom + centre
        camera = Pinhole(cam.new_tensor([solver.focal / crop_map.zoom]), point, shape)
        fragments = rasterize(cam, model.faces, *camera)
        amodal = fragments.face_index[0] >= 0
        rows, columns = amodal.nonzero(as_tuple=True)
        pixels = np.stack([columns.cpu().numpy() + 0.5, rows.cpu().numpy() + 0.5], -1)
        height, width = solver.image_size
        grid = cam.new_tensor(crop_map.crop_from_photo(pixels) / [width / 2, height / 2] - 1)[None, None]
        logit = solver.visible_logit(solution, self.encoded)[:, None]
        values = F.grid_sample(logit, grid, align_corners=False, padding_mode="border")[0, 0, 0]
        visible = torch.zeros_like(amodal)
        visible[rows, columns] = values >= 0
        return amodal.cpu().numpy(), visible.cpu().numpy(), shading(cam, model.faces, fragments)


def read(photo: Photo) -> np.ndarray:
    """u8 [h, w, 3] of a path, a PIL image or an array; ValueError where it is none."""
    if isinstance(photo, Path | str):
        return read_photo(Path(photo))
    return photo_from_image(photo) if isinstance(photo, Image.Image) else photo_from_array(photo)


def checked_box(bbox: Sequence[float] | None, photo: np.ndarray, name: str) -> Box:
    """The box in pixels of a photo [h, w, 3], by default all of it; ValueError where it cannot be one."""
    height, width = photo.shape[:2]
    if bbox is None:
        return 0.0, 0.0, float(width), float(height)
    try:
        x0, y0, x1, y1 = (float(edge) for edge in bbox)
    except (TypeError, ValueError):
        raise ValueError(f"--bbox {bbox!r}: want x0,y0,x1,y1, four numbers in pixels") from None
    box = (x0, y0, x1, y1)
    if not all(abs(edge) <= FARTHEST for edge in box) or min(x1 - x0, y1 - y0) < SMALLEST_BOX:
        raise ValueError(
            f"--bbox {x0},{y0},{x1},{y1}: want x0,y0,x1,y1 in pixels, at least {SMALLEST_BOX:g} wide and high"
        )
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise ValueError(f"--bbox {x0},{y0},{x1},{y1} misses photo {name}, which is {width} x {height}")
    return box


def check_result_folder(folder: Path) -> None:
    """ValueError where `folder` is there and is no folder of a result."""
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - set(FILES)):
        raise ValueError(
            f"{folder} is there and holds more than a result of `ntdm infer`: choose another --out"
        )


def remove_result(folder: Path) -> None:
    """Deletes a result's files and its folder."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()
