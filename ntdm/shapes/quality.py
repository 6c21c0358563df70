"""Quality of a fitted Γ: distances, silhouettes, folds, and whether a template point keeps to its part.

It lies between a floor, the category's scaled sphere, and a ceiling, a mesh of the same topology that is
fitted to one CAD alone (fit_meshes.py).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ntdm.geometry import metrics
from ntdm.geometry.camera import Pinhole, angles_from_direction, cam_from_obj
from ntdm.geometry.mesh import Mesh, as_mesh, box_centre, face_neighbours, face_normals, sample_surface
from ntdm.io.cache import Cad, Cads
from ntdm.io.progress import track
from ntdm.ops.rasterize import coverage
from ntdm.shapes.nearest_faces import nearest_faces, points_on_faces
from ntdm.shapes.visible_surface import Surface, crossing_faces, directions


class ShapeQuality:
    """Measures meshes against one CAD.

    Args:
        cad: the mesh that Γ is compared with.
        surface: its visible surface.
        views: directions of the silhouettes, evenly over the sphere.
        size: their side in pixels.
    """

    def __init__(self, cad: Cad, surface: Surface, views: int = 48, size: int = 96) -> None:
        self.surface = surface
        self._target = nearest_faces([(surface.vertices, surface.faces)], surface.diagonal)
        truth = as_mesh(cad)
        self._centre = box_centre(truth)
        angles = angles_from_direction(torch.from_numpy(directions(views)).double())
        distance = angles.new_full((views, 1), 5 * surface.diagonal)
        self._views = torch.cat([angles, distance], 1).float()
        self._size = size
        self._truth = self._masks(truth)

    def __call__(self, vertices: Tensor, faces: Tensor) -> dict[str, float]:
        """Measure one mesh.

        Args:
            vertices: [V, 3] object frame, CAD units.
            faces: [F, 3].

        Returns:
            chamfer_l1 in diagonals and f_score at 1 % of it, both against the visible surface, the mean
            silhouette_iou against the whole CAD, and the shares of :func:`folds`.
        """
        surface, generator = self.surface, torch.Generator().manual_seed(0)
        gamma = nearest_faces([(vertices, faces)], surface.diagonal)
        points = sample_surface(vertices, faces, len(surface.points), generator)
        precision = (self._target(points[None])[2][0] - points).norm(dim=1).numpy() / surface.diagonal
        recall = (gamma(surface.points[None])[2][0] - surface.points).norm(dim=1).numpy() / surface.diagonal
        return {
            "chamfer_l1": metrics.chamfer_l1(precision, recall),
            "f_score": metrics.f_score(precision, recall, 0.01),
            "silhouette_iou": float(metrics.iou(self._masks(Mesh(vertices, faces)), self._truth).mean()),
            **folds(vertices, faces),
        }

    def _masks(self, mesh: Mesh) -> np.ndarray:
        # A unit diagonal at distance 5 fills 90 % of the picture.
        view = Pinhole.centred(torch.tensor(4.5 * self._size), (self._size, self._size))
        centred = mesh.vertices - self._centre
        return np.stack([coverage(cam_from_obj(centred, v), mesh.faces, *view).numpy() for v in self._views])


def measure(
    category: str, cads: Cads, surfaces: Sequence[Surface], shapes: Tensor, faces: Tensor
) -> dict[str, dict[str, float]]:
    """The :class:`ShapeQuality` of a category's meshes.

    Args:
        category: for the progress.
        cads: K CADs by cad_index.
        surfaces: their visible surfaces.
        shapes: [K, V, 3] their meshes.
        faces: [F, 3].

    Returns:
        "mean" over the CADs, and each cad_index -> the figures of its mesh.
    """
    pairs = track(zip(cads.values(), surfaces, shapes, strict=True), f"{category}: measuring", len(cads))
    measured = [ShapeQuality(cad, surface)(vertices, faces) for cad, surface, vertices in pairs]
    mean = {name: float(np.mean([m[name] for m in measured])) for name in measured[0]}
    return {"mean": mean, **{str(k): m for k, m in zip(cads, measured, strict=True)}}


def in_words(figures: Mapping[str, float]) -> str:
    """The figures of :class:`ShapeQuality` in a line."""
    return (
        f"silhouette IoU {figures['silhouette_iou']:.3f}, Chamfer-L1 {figures['chamfer_l1']:.4f}, F-score "
        f"{figures['f_score']:.3f}, {100 * figures['flipped']:.1f} % of the faces flipped, "
        f"{100 * figures['crossing']:.1f} % crossing"
    )


def folds(vertices: Tensor, faces: Tensor) -> dict[str, float]:
    """Shares of a closed mesh's faces that an embedded surface would not have.

    Args:
        vertices: [V, 3].
        faces: [F, 3].

    Returns:
        flipped: the normal is turned by more than 90 degrees from the sum of the three neighbours' normals.
        crossing: the face meets another one with which it has no vertex in common.
    """
    normals = torch.nn.functional.normalize(face_normals(vertices[None], faces)[0], dim=1)
    _, edge_faces = face_neighbours(faces)
    around = torch.zeros_like(normals)
    for one, other in ((0, 1), (1, 0)):
        around.index_add_(0, edge_faces[:, one], normals[edge_faces[:, other]])
    return {
        "flipped": float(((around * normals).sum(1) < 0).float().mean()),
        "crossing": len(crossing_faces((vertices.numpy(), faces.numpy()))) / len(faces),
    }


def transfer(
    shapes: Tensor, faces: Tensor, surfaces: Sequence[Surface], anchors: Sequence[Mapping[str, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of carrying every named point of CAD j to CAD k: through the template, and to the nearest point.

    Args:
        shapes: [K, V, 3] Γ(z_k).
        faces: [F, 3].
        surfaces: of the K CADs.
        anchors: of each CAD, name -> [3] in its object frame; a CAD may lack some.

    Returns:
        errors [N] of the template and [N] of the baseline, over all names and ordered pairs j != k that both
        have it: distances to the named point of CAD k, in its diagonals. Template: the nearest point of
        Γ(z_j), carried to Γ(z_k). Baseline: the point of CAD k's visible surface nearest to where the anchor
        is on CAD j, both CADs in the dataset's common frame.
    """
    template, baseline = [], []
    for j, named in enumerate(anchors):
        if not named:
            continue
        points = torch.from_numpy(np.stack([np.asarray(p, np.float32) for p in named.values()]))
        source = nearest_faces([(shapes[j], faces)], surfaces[j].diagonal)
        face, weights, _ = source(points[None])
        for k, others in enumerate(anchors):
            both = [i for i, name in enumerate(named) if name in others]
            if k == j or not both:
                continue
            truth = torch.from_numpy(np.stack([others[name] for name in named if name in others])).float()
            carried = points_on_faces(shapes[k][None], faces[face], weights)[0][both]
            target = surfaces[k]
            nearest = nearest_faces([(target.vertices, target.faces)], target.diagonal)
            foot = nearest(points[both][None])[2][0]
            template.append((carried - truth).norm(dim=1) / target.diagonal)
            baseline.append((foot - truth).norm(dim=1) / target.diagonal)
    if not template:
        return np.zeros(0), np.zeros(0)
    return torch.cat(template).numpy(), torch.cat(baseline).numpy()
