"""Pictures of meshes by their rendered normals."""

import numpy as np
from torch import Tensor

from ntdm.geometry.camera import Pinhole
from ntdm.geometry.mesh import vertex_normals
from ntdm.ops.rasterize import Fragments, interpolate, rasterize
from ntdm.viz import pictures


def seen_from_ahead(cam: Tensor, faces: Tensor, focal: float, size: tuple[int, int]) -> Fragments:
    """Fragments [1, H, W] of a mesh [1, V, 3] in the frame of a camera that looks at the picture's middle.

    Args:
        cam: vertices in the camera frame.
        faces: [F, 3].
        focal: pixels.
        size: (H, W).
    """
    return rasterize(cam, faces, *Pinhole.centred(cam.new_tensor([focal]), size))


def shading(cam: Tensor, faces: Tensor, fragments: Fragments) -> np.ndarray:
    """Brightness f32 [H, W] in [0, 1] of the first of the meshes [B, V, 3] that `fragments` shows."""
    normals = interpolate(vertex_normals(cam, faces), faces, fragments)
    return pictures.shade(normals[0].cpu().numpy())
