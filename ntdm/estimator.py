"""One photo in; class, pose, shape and masks out: ``ntdm.load(run)(photo, bbox)``. `ntdm infer` is this call.

The photo is cropped about the box, scaled so that the box is as large as the training objects' were; the
object's distance, and a small shift of the principal point, are refined along with everything else.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ntdm.config.reading import resolve, to_dict
from ntdm.config.stages import InferConfig
from ntdm.estimate import Box, Estimate, FittedMesh
from ntdm.geometry import mesh
from ntdm.geometry.camera import Pinhole, cam_from_obj, rotation
from ntdm.geometry.crop import CropMap
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

TEXTURE_SIZE = 256
FARTHEST, SMALLEST_BOX = 1e6, 1.0  # pixels, of a box's edges and sides

Photo = Path | str | Image.Image | np.ndarray


class Estimator:
    """A trained NTDM run that is asked about photos; :func:`load` makes one.

    Attributes:
        model: in eval mode.
        device: where photos are fitted.
        categories: the names it knows.
        config: the inference's configuration.
    """

    model: NTDM
    device: str
    categories: tuple[str, ...]
    config: InferConfig

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

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str, but no list of photos
        self, photo: Photo, bbox: Sequence[float] | None = None
    ) -> Estimate: ...

    @overload
    def __call__(
        self, photo: Sequence[Photo], bbox: Sequence[Sequence[float] | None] | None = None
    ) -> list[Estimate]: ...

    def __call__(self, photo: Any, bbox: Any = None) -> Estimate | list[Estimate]:
        """Estimate one photo, or a list of photos in batches of `config.batch_size`.

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
            return self._estimates([photo], [bbox])[0]
        boxes = [None] * len(photo) if bbox is None else list(bbox)
        if len(boxes) != len(photo):
            raise ValueError(
                f"{len(photo)} photos and {len(boxes)} boxes: want a box, or None, for every photo"
            )
        return self._estimates(photo, boxes)

    def _estimates(self, given: Sequence[Photo], bboxes: Sequence[Any]) -> list[Estimate]:
        photos = [read(photo) for photo in given]
        paths = [Path(photo) if isinstance(photo, Path | str) else None for photo in given]
        boxes = [
            checked_box(bbox, photo, str(path or "given"))
            for bbox, photo, path in zip(bboxes, photos, paths, strict=True)
        ]
        names = [None if path is None else path.name for path in paths]
        estimates, size = [], self.config.batch_size
        for part in (slice(start, start + size) for start in range(0, len(photos), size)):
            estimates += self._batch(photos[part], boxes[part], names[part])
        return estimates

    def _batch(
        self, photos: Sequence[np.ndarray], boxes: Sequence[Box], names: Sequence[str | None]
    ) -> list[Estimate]:
        crop_maps = [self._crop_map(box) for box in boxes]
        crops = np.stack([crop.resample(photo) for crop, photo in zip(crop_maps, photos, strict=True)])
        pixels = torch.from_numpy(crops.round().clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)
        encoded = encode(self.model, pixels.to(self.device), self.config)
        losses, fits = fit_categories(self.solvers, encoded)
        estimates = []
        for i, of_photo in enumerate(losses.tolist()):
            best = int(np.argmin(of_photo))
            fitted, solutions = fits[best]
            solution = solutions.select((fitted == i).nonzero()[:, 0])
            here = encoded.select(torch.tensor([i]))
            fit = _Fit(self.model, self.solvers[best], solution, here, crop_maps[i])
            made_with = self.made_with(photos[i], boxes[i])
            estimates.append(fit.estimate(photos[i], names[i], boxes[i], of_photo, made_with))
        return estimates

    def _crop_map(self, box: Box) -> CropMap:
        """From the photo to the crop, which shows the box as large as the training objects' were."""
        zoom = self._typical_box / math.hypot(box[2] - box[0], box[3] - box[1])
        return CropMap(self._size, zoom, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))


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
        solution, solver = self.solution, self.solver
        logit = solver.visible_logit(solution, self.encoded)
        amodal, visible, brightness = self._masks(photo.shape[:2], logit)
        focal = torch.tensor([solver.focal], dtype=torch.float64)
        crop_camera = Pinhole(focal, solution.principal_point.double().cpu(), solver.image_size)
        camera = crop_camera.in_photo(self.crop_map, photo.shape[:2])
        pose = torch.cat([rotation(solution.viewpoint[0]), solution.viewpoint.new_zeros(3, 1)], 1)
        pose[2, 3] = -solution.viewpoint[0, 3]
        by_category = dict(zip(self.model.categories, losses, strict=True))
        category = self.model.categories[solver.renderer.category]
        return Estimate(
            photo=photo, name=name, bbox=box, category=category, score=1 - by_category[category],
            scores={c: 1 - loss for c, loss in by_category.items()}, losses=by_category,
            viewpoint=solution.viewpoint[0].cpu().numpy(), cam_from_obj=pose.cpu().numpy(),
            focal=float(camera.focal), principal_point=camera.principal_point[0].numpy(),
            latent=solution.latent[0].cpu().numpy(), scale=float(solution.scale[0]), mesh=self._mesh(logit),
            amodal=amodal, visible=visible, shading=brightness, made_with=made_with,
        )  # fmt: skip

    def _mesh(self, logit: Tensor) -> FittedMesh:
        """The mesh, its texture the visible mask [1, H, W], carried onto the surface by the UV scatter."""
        model, solution = self.model, self.solution
        _, visible = self.solver.masks(solution, logit)
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

    def _masks(self, size: tuple[int, int], logit: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Amodal and visible masks, bool, and shading f32 in [0, 1], all [h, w] on the photo's own grid."""
        faces, solver, crop_map, solution = self.model.faces, self.solver, self.crop_map, self.solution
        cam = cam_from_obj(solution.vertices, solution.viewpoint)
        fragments = rasterize(cam, faces, *solver.camera(solution).in_photo(crop_map, size))
        amodal = fragments.face_index[0] >= 0
        rows, columns = amodal.nonzero(as_tuple=True)
        pixels = np.stack([columns.cpu().numpy() + 0.5, rows.cpu().numpy() + 0.5], -1)
        height, width = solver.image_size
        grid = cam.new_tensor(crop_map.crop_from_photo(pixels) / [width / 2, height / 2] - 1)[None, None]
        values = F.grid_sample(logit[:, None], grid, align_corners=False, padding_mode="border")[0, 0, 0]
        visible = torch.zeros_like(amodal)
        visible[rows, columns] = values >= 0
        return amodal.cpu().numpy(), visible.cpu().numpy(), shading(cam, faces, fragments)


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
