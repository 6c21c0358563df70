"""Picture sheet of a category: each CAD, its Γ and where they differ, from four sides."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ntdm.geometry.camera import cam_from_obj
from ntdm.geometry.mesh import as_mesh, box_centre
from ntdm.io.cache import Cads
from ntdm.io.outputs import atomic_path
from ntdm.ops.rasterize import interpolate
from ntdm.shapes.nearest_faces import nearest_faces
from ntdm.shapes.visible_surface import Surface
from ntdm.viz import pictures
from ntdm.viz.shading import seen_from_ahead, shading

VIEWS = ((-60, 20), (30, 20), (90, 0), (0, 70))  # azimuth, elevation in degrees
TILE = 160  # pixels
WORST = 0.03  # error, in diagonals, from which a point has the last colour
_PALE, _MIDDLE, _STRONG = (np.array(c, float) for c in ((225, 225, 225), (240, 160, 20), (190, 20, 30)))


def write_sheet(
    path: Path,
    category: str,
    cads: Cads,
    surfaces: Sequence[Surface],
    shapes: Tensor,
    faces: Tensor,
) -> Path:
    """A row a CAD: four views of the CAD, four of Γ, four of Γ coloured by its distance to the CAD.

    Args:
        path: of the PNG.
        category: for the captions.
        cads: by cad_index.
        surfaces: their visible surfaces.
        shapes: [K, V, 3] Γ(z_k) in the same order.
        faces: [F, 3].

    Returns:
        path.
    """
    rows, captions = [], []
    for (k, cad), surface, vertices in zip(cads.items(), surfaces, shapes, strict=True):
        truth = as_mesh(cad)
        centre = box_centre(truth)
        nearest = nearest_faces([(surface.vertices, surface.faces)], surface.diagonal)
        error = (nearest(vertices[None])[2][0] - vertices).norm(dim=1) / surface.diagonal
        tiles: list[list[pictures.Picture]] = [[], [], []]
        for azimuth, elevation in VIEWS:
            viewpoint = torch.tensor(
                [math.radians(azimuth), math.radians(elevation), 0.0, 5 * surface.diagonal]
            )
            posed, true_posed = (cam_from_obj(v - centre, viewpoint) for v in (vertices, truth.vertices))
            tiles[0].append(_view(true_posed, truth.faces))
            tiles[1].append(_view(posed, faces))
            tiles[2].append(_view(posed, faces, error))
        rows.append([tile for kind in tiles for tile in kind])
        captions.append(
            f"{category} {k + 1:02d}: vertices of the fit off by {100 * error.mean():.2f} % of a diagonal, "
            f"at most {100 * error.max():.1f} %"
        )
    headings = [name for name in ("CAD", "fit", f"error, red: {100 * WORST:.0f} % and more") for _ in VIEWS]
    sheet = pictures.contact_sheet(rows, captions, headings, tile=TILE)
    with atomic_path(path) as part:
        Image.fromarray(sheet).save(part)
    return path


def error_colours(error: Tensor) -> np.ndarray:
    """[V] distances in diagonals -> colours [V, 3], 0..255: grey, orange at half of WORST, then red."""
    share = (error / WORST).clamp(0, 1).numpy()[:, None]
    low, high = np.minimum(2 * share, 1), np.maximum(2 * share - 1, 0)
    return (_PALE * (1 - low) + _MIDDLE * low) * (1 - high) + _STRONG * high


def _view(vertices_cam: Tensor, faces: Tensor, error: Tensor | None = None) -> pictures.Picture:
    """A shaded tile u8 [TILE, TILE, 3] of one mesh [V, 3] in the camera frame, coloured by errors [V]."""
    # At this focal length a diagonal at distance 5 is 1.04 tiles long; no view shows it at its full length.
    cam = vertices_cam[None]
    fragments = seen_from_ahead(cam, faces, 5.2 * TILE, (TILE, TILE))
    colour = _PALE
    if error is not None:
        per_vertex = torch.from_numpy(error_colours(error)).to(cam)[None]
        colour = interpolate(per_vertex, faces, fragments)[0].numpy()
    shaded = colour * shading(cam, faces, fragments, smooth=False)[..., None]
    return np.where((fragments.face_index[0] >= 0)[..., None].numpy(), shaded, 255).astype(np.uint8)
