"""The soft silhouette of a mesh, and its torch twin."""

from typing import NamedTuple

import torch
from torch import Tensor

from ntdm.ops import rasterize_kaolin
from ntdm.ops.checks import REACH, check_face_index, check_mesh
from ntdm.ops.rasterize import Backend, Fragments, pixel_centres, projected_faces, takes_kaolin
from ntdm.ops.rasterize_ops import operators


class Silhouette(NamedTuple):
    """The mesh's mask with a soft rim.

    Fields:
        soft [B, H, W] in [0, 1]: 1 inside.
        nearest_face [B, H, W] int64: the face nearest to an outside pixel, -1 inside and beyond the reach.
        nearest_barycentric [B, H, W, 3]: perspective-correct weights of that face's nearest point, detached.
    """

    soft: Tensor
    nearest_face: Tensor
    nearest_barycentric: Tensor


def soft_silhouette(
    vertices_cam: Tensor,
    faces: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    fragments: Fragments,
    sigma: float = 1.0,
    backend: Backend = "native",
) -> Silhouette:
    """The mask that has a gradient outside the outline (DIB-R's, with distances in pixels).

    soft = 1 inside; outside 1 - prod_f (1 - exp(-d_f^2 / sigma^2)), d_f the distance in pixels from the
    pixel's centre to face f, over the faces with d_f <= 3 sigma.

    Args:
        vertices_cam: [B, V, 3] camera frame, float32 or float64.
        faces: [F, 3] int64.
        focal: [B] pixels.
        principal_point: [B, 2] pixels.
        fragments: what :func:`rasterize` returned for the same arguments; its face_index says what is inside.
        sigma: pixels.
        backend: "kaolin" takes `soft` from DIB-R, for comparison, and the nearest faces, which DIB-R does not
            name, from the native operator.

    Returns:
        Silhouette; soft is differentiable with respect to vertices_cam, focal and principal_point. In float32
        distances err by about 1e-7 of the face's size in pixels.

    Raises:
        ValueError: as :func:`rasterize`; sigma not positive; fragments of another batch.
    """
    check_mesh(vertices_cam, faces, focal, principal_point)
    if not 0 < sigma < float("inf"):
        raise ValueError(f"soft_silhouette: sigma must be a positive number of pixels, got {sigma}")
    inside = fragments.face_index
    check_face_index("soft_silhouette", inside)
    if inside.shape[0] != vertices_cam.shape[0]:
        raise ValueError(
            f"soft_silhouette: fragments must be of the same batch, [{vertices_cam.shape[0]}, H, W], "
            f"got {list(inside.shape)}"
        )
    if inside.device != vertices_cam.device:
        raise ValueError(
            f"soft_silhouette: fragments are on {inside.device}, vertices_cam on {vertices_cam.device}"
        )
    mesh = (vertices_cam, faces, focal, principal_point, inside, float(sigma))
    silhouette = Silhouette(*operators.soft_silhouette(*mesh))
    if takes_kaolin(backend, vertices_cam) and backend == "kaolin":
        silhouette = silhouette._replace(soft=rasterize_kaolin.soft_mask(*mesh))
    return silhouette


def soft_silhouette_reference(
    vertices_cam: Tensor,
    faces: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    fragments: Fragments,
    sigma: float = 1.0,
) -> Silhouette:
    """:func:`soft_silhouette` in plain torch: every face at every pixel, memory F x H x W."""
    _, height, width = fragments.face_index.shape
    size = (height, width)
    pixel = pixel_centres(size, vertices_cam)
    items = []
    for b in range(vertices_cam.shape[0]):
        kept, xy, depth = projected_faces(vertices_cam[b], faces, focal[b], principal_point[b])
        inside = fragments.face_index[b].view(-1) >= 0
        # Segments from corner k to corner k + 1, [F, 1, 3, 2]; the nearest point is corner + t side.
        corner, side = xy[:, None], (xy.roll(-1, 1) - xy)[:, None]
        length = (side**2).sum(-1)
        offset = pixel[:, None] - corner
        t = ((offset * side).sum(-1) / torch.where(length > 0, length, 1)).clamp(0, 1)
        square, segment = ((offset - t[..., None] * side) ** 2).sum(-1).min(-1)
        near = torch.exp(-square / sigma**2) * (square <= (REACH * sigma) ** 2)
        soft = torch.where(inside, 1, 1 - torch.prod(1 - near, 0))

        square = torch.cat([square.detach(), square.new_full((1, len(pixel)), torch.inf)])
        order = torch.arange(len(square), device=pixel.device)[:, None].expand_as(square)
        first = torch.where(square == square.amin(0), order, len(square)).amin(0)
        found = ~inside & (square.amin(0) <= (REACH * sigma) ** 2)
        nearest_face = torch.full_like(first, -1)
        barycentric = pixel.new_zeros(len(pixel), 3)
        at = (first[found], found.nonzero()[:, 0])
        nearest_face[found] = kept[at[0]]
        k, t = segment[at], t.detach()[at].gather(1, segment[at][:, None])[:, 0]
        weight = pixel.new_zeros(len(k), 3).scatter(1, k[:, None], 1 - t[:, None])
        weight = weight.scatter(1, (k[:, None] + 1) % 3, t[:, None]) / depth.detach()[at[0]]
        barycentric[found] = weight / weight.sum(-1, keepdim=True)
        items.append((soft.view(size), nearest_face.view(size), barycentric.view(*size, 3)))
    if not items:
        empty = vertices_cam.new_zeros(0, *size)
        return Silhouette(empty, empty.long(), empty[..., None].expand(0, *size, 3))
    return Silhouette(*(torch.stack(parts) for parts in zip(*items, strict=True)))
