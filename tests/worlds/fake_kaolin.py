"""What ntdm uses of Kaolin, as its manual describes it, brute force: its adapters' stand-in on a CPU.

Of kaolin.render.mesh: image coordinates in [-1, 1]^2, x right, y up; the centre of pixel (i, j) is at
((2j + 1 - W) / W, (H - 2i - 1) / H); the largest z wins, the first of equals; features are interpolated
affinely in the image.
"""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor


def install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make `import kaolin` find this file as the module `name`, say "kaolin.render.mesh"."""
    package = ModuleType("kaolin")
    monkeypatch.setitem(sys.modules, "kaolin", package)
    parts = name.split(".")
    for depth in range(2, len(parts) + 1):
        module = ModuleType(".".join(parts[:depth]))
        setattr(package, parts[depth - 1], module)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        package = module
    package.__dict__.update(globals() | {"__name__": name})


def _centres(height: int, width: int, like: Tensor) -> Tensor:
    y = (height - 2 * torch.arange(height, dtype=like.dtype) - 1) / height
    x = (2 * torch.arange(width, dtype=like.dtype) + 1 - width) / width
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # [H, W, 2]


def rasterize(
    height, width, face_vertices_z, face_vertices_image, face_features, valid_faces=None,
    multiplier=None, eps=None, backend="cuda",
):  # fmt: skip
    assert face_vertices_z.shape == face_vertices_image.shape[:3], "z is [B, F, 3], image [B, F, 3, 2]"
    assert face_features.shape[:3] == face_vertices_z.shape and face_features.dim() == 4
    assert face_vertices_z.dtype == face_vertices_image.dtype == face_features.dtype
    assert valid_faces is None or (valid_faces.dtype == torch.bool and valid_faces.any())
    batch, count, _ = face_vertices_z.shape
    pixel = _centres(height, width, face_vertices_image)
    best = torch.full((batch, height, width), -torch.inf, dtype=face_vertices_z.dtype)
    index = torch.full((batch, height, width), -1)
    features = face_features.new_zeros(batch, height, width, face_features.shape[-1])
    for b in range(batch):
        for f in range(count):
            if valid_faces is not None and not valid_faces[b, f]:
                continue
            corner = face_vertices_image[b, f]
            matrix = torch.cat([corner.T, torch.ones(1, 3, dtype=corner.dtype)])  # w -> (x, y, 1)
            if matrix.det() == 0:
                continue
            right = torch.cat([pixel, torch.ones(height, width, 1, dtype=corner.dtype)], -1)
            weight = right @ torch.linalg.inv(matrix).T
            z = weight @ face_vertices_z[b, f]
            low, high = corner.amin(0), corner.amax(0)
            nearer = (weight >= 0).all(-1) & (z > best[b])
            nearer &= ((pixel >= low) & (pixel < high)).all(-1)
            best[b][nearer], index[b][nearer] = z[nearer], f
            features[b][nearer] = (weight @ face_features[b, f])[nearer]
    return features, index


def dibr_soft_mask(
    face_vertices_image, selected_face_idx, sigmainv=7000, boxlen=0.02, knum=30, multiplier=1000.0
):
    batch, height, width = selected_face_idx.shape
    pixel = _centres(height, width, face_vertices_image)[:, :, None]
    masks = []
    for b in range(batch):
        corner = face_vertices_image[b]  # [F, 3, 2]
        low, high = corner.amin(1) - boxlen, corner.amax(1) + boxlen
        near = ((pixel >= low) & (pixel < high)).all(-1)
        near &= near.cumsum(-1) <= knum  # the first knum that a pixel meets
        side = corner.roll(-1, 1) - corner
        offset = pixel[:, :, :, None] - corner
        along = (offset * side).sum(-1) / (side.square().sum(-1) + 1e-20)
        square = (offset - along.clamp(0, 1)[..., None] * side).square().sum(-1).amin(-1)
        outside = 1 - torch.where(near, 1 - torch.exp(-sigmainv * square), 1).prod(-1)
        masks.append(torch.where(selected_face_idx[b] >= 0, 1.0, outside))
    return torch.stack(masks)


def point_to_mesh_distance(pointclouds, face_vertices):
    """Of kaolin.metrics.trianglemesh: squared distances, faces, and the kinds of nearest points: 0 in the
    plane, 1 to 3 a corner, 4 to 6 the edge 0-1, 1-2, 2-0. A face without area has no distance, and hides
    all others.
    """
    assert pointclouds.dim() == 3 and pointclouds.shape[2] == 3, "points are [B, P, 3]"
    assert face_vertices.dim() == 4 and face_vertices.shape[2:] == (3, 3), "face vertices are [B, F, 3, 3]"
    assert len(pointclouds) == len(face_vertices) and pointclouds.dtype == face_vertices.dtype
    assert pointclouds.is_contiguous() and face_vertices.is_contiguous()
    found = []
    for points, corner in zip(pointclouds, face_vertices, strict=True):
        side = corner.roll(-1, 1) - corner  # [F, 3, 3]
        normal = torch.linalg.cross(side[:, 0], side[:, 1])
        normal = normal / normal.norm(dim=1, keepdim=True)
        offset = points[:, None, None] - corner  # [P, F, 3, 3]
        along = (offset * side).sum(-1) / side.square().sum(-1)
        beyond = (offset * torch.linalg.cross(normal[:, None], side)).sum(-1) <= 0
        square = (offset[:, :, 0] * normal).sum(-1).square()
        kind = torch.zeros_like(square, dtype=torch.int32)
        for k in range(3):
            at_edge = (along[..., k] >= 0) & (along[..., k] <= 1) & beyond[..., k]
            to_edge = (offset[..., k, :] - along[..., k, None] * side[:, k]).square().sum(-1)
            at_corner = (along[..., k] < 0) & (along[..., k - 1] > 1)
            to_corner = offset[..., k, :].square().sum(-1)
            square = torch.where(at_corner, to_corner, torch.where(at_edge, to_edge, square))
            kind = torch.where(at_corner, 1 + k, torch.where(at_edge, 4 + k, kind)).int()
        best = square.argmin(1, keepdim=True)  # not a number counts as the least
        found.append([square.gather(1, best)[:, 0], best[:, 0], kind.gather(1, best)[:, 0]])
    square, best, kind = (torch.stack(parts) for parts in zip(*found, strict=True))
    return square, best, kind
