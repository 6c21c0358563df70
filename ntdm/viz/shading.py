"""Pictures of meshes by their rendered normals."""

import numpy as np
import torch
from torch import Tensor

from ntdm.geometry.camera import Pinhole
from ntdm.geometry.mesh import face_normals, vertex_normals
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


def shading(cam: Tensor, faces: Tensor, fragments: Fragments, smooth: bool = True) -> np.ndarray:
    """Brightness f64 [H, W] in [0, 1] of a rendered mesh, 0 beside it.

    Args:
        cam: [1, V, 3] vertices in the camera frame.
        faces: [F, 3].
        fragments: [1, H, W] of that mesh.
        smooth: by the vertices' normals; else every face has one brightness, as a CAD has whose neighbouring
            faces share vertices across an edge.
    """
    if smooth:
        normals = interpolate(vertex_normals(cam, faces), faces, fragments)[0]
    else:
        face = fragments.face_index[0]
        normals = torch.where(
            face[..., None] >= 0, face_normals(cam, faces)[0][face.clamp_min(0)], cam.new_zeros(())
        )
    return pictures.shade(normals.cpu().numpy())
