"""Triangles in the picture: what torch twins and the Kaolin backend share, as kernels do cuda/triangle.h."""

import torch
from torch import Tensor

from ntdm.geometry import camera
from ntdm.geometry.camera_np import NEAR

LINE_AREA = 1e-12  # twice the area, in square pixels, under which a triangle is a line and covers nothing


def cross(a: Tensor, b: Tensor) -> Tensor:
    """a x b of vectors [..., 2]: twice the signed area of the triangle that they span."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def pixel_centres(size: tuple[int, int], like: Tensor) -> Tensor:
    """(x, y) of the centres of a map's pixels, row after row [H W, 2]; type and device of `like`."""
    rows, columns = (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5 for n in size)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).view(-1, 2)


def project_faces(
    vertices: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The faces of one mesh that are not dropped, in the picture.

    Args:
        vertices: [V, 3] camera frame.
        faces: [F, 3].
        focal: [] pixels.
        principal_point: [2] pixels.

    Returns:
        Their indices [F'], their corners in pixels [F', 3, 2] and the corners' depths [F', 3].
    """
    usable = vertices.detach().isfinite().all(-1) & (vertices.detach()[:, 2] < -NEAR)
    kept = usable[faces].all(-1).nonzero()[:, 0]
    xy, depth = camera.project(vertices[faces[kept]], focal, principal_point.view(1, 2))
    return kept, xy, depth
