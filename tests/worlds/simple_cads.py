"""CADs of a few primitives, and their visible surfaces."""

import numpy as np
import torch

from ntdm.geometry import mesh
from ntdm.shapes import visible_surface


def ellipsoid(*radii: float, centre=(0.0, 0.0, 0.0), subdivisions: int = 3) -> mesh.Cad:
    sphere = mesh.icosphere(subdivisions)
    return (sphere.vertices.numpy() * radii + centre).astype(np.float32), sphere.faces.numpy().astype(
        np.int32
    )


def box(*half: float) -> mesh.Cad:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32) * half
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners.astype(np.float32), np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])


def join(*cads: mesh.Cad) -> mesh.Cad:
    first = np.cumsum([0] + [len(v) for v, _ in cads[:-1]])
    faces = [f + k for (_, f), k in zip(cads, first, strict=True)]
    return np.concatenate([v for v, _ in cads]), np.concatenate(faces)


def seen(cad: mesh.Cad) -> visible_surface.Surface:
    return visible_surface.visible_surface(cad, torch.Generator().manual_seed(0))
