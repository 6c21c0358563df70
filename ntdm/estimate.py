"""What an estimator says of one photo: pose, shape, masks; and the files that `ntdm infer` writes of it."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ntdm.geometry import obj
from ntdm.io.outputs import atomic_path
from ntdm.viz import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("result.json", "amodal.png", "visible.png", "overlay.png", "mesh.obj", "mesh.mtl", "mesh.png")

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


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
    """Pose, shape, class and masks of the object in one photo [h, w].

    Angles are radians; pixels are corner-origin, x right, y down.

    Attributes:
        photo: u8 [h, w, 3].
        name: of the photo's file; None for a photo that came as pixels.
        bbox: (x0, y0, x1, y1) that was asked for, pixels.
        category: the likeliest.
        score: its score, 1 - loss.
        scores: of every category.
        losses: of every category, L of Eq. 10 (arXiv 2306.00118) and a prior of size; 1 - scores.
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
