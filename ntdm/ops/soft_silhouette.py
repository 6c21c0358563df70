"""The soft silhouette of a mesh: a mask whose gradient moves the outline, and its torch twin.

DIB-R's mask with distances in pixels: 1 inside; outside, over the faces f no farther than the reach,

    m = 1 - prod_f (1 - exp(-d_f^2 / sigma^2)),   d_f the distance from the pixel's centre to face f

The kernels are cuda/soft_silhouette.cpp and, on CUDA, cuda/soft_silhouette_cuda.cu.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdm.geometry.camera_np import NEAR
from ntdm.ops import checks, kernels, rasterize_kaolin
from ntdm.ops.fragments import Fragments, corners_by_vertex
from ntdm.ops.rasterize import camera_gradients, projected_vertices
from ntdm.ops.rasterize_kaolin import Backend
from ntdm.ops.registration import register
from ntdm.ops.triangle import pixel_centres, project_faces

REACH = 3.0  # sigmas


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
    backend: Backend = "auto",
) -> Silhouette:
    """The mask that has a gradient outside the outline, with a reach of 3 sigma.

    Args:
        vertices_cam: [B, V, 3] camera frame, float32 or float64.
        faces: [F, 3] int64.
        focal: [B] pixels.
        principal_point: [B, 2] pixels.
        fragments: of the same mesh, cameras and size; its face_index says what is inside.
        sigma: pixels.
        backend: "auto" is native wherever the tensors lie, unlike the rasterizer's: the nearest faces, which
            Kaolin does not name, need the native pass in any case, and it makes `soft` on the way. "kaolin"
            then takes `soft` from Kaolin's DIB-R, for comparison.

    Returns:
        Silhouette; soft is differentiable, once, with respect to vertices_cam, focal and principal_point. In
        float32 distances err by about 1e-7 of the face's size in pixels.

    Raises:
        ValueError: as :func:`ntdm.ops.rasterize.rasterize`; sigma not positive; fragments of another batch.
    """
    op, inside = "soft_silhouette", fragments.face_index
    checks.check_mesh(op, vertices_cam, faces, focal, principal_point)
    if not 0 < sigma < float("inf"):
        raise ValueError(f"{op}: sigma must be a positive number of pixels, got {sigma}")
    checks.check_face_index(op, inside)
    if inside.shape[0] != vertices_cam.shape[0]:
        raise ValueError(
            f"{op}: fragments must be of the same batch, [{vertices_cam.shape[0]}, H, W], "
            f"got {list(inside.shape)}"
        )
    checks.check_same_device(op, "fragments", inside, "vertices_cam", vertices_cam.device)
    with_kaolin = rasterize_kaolin.is_chosen(op, backend, vertices_cam) and backend == "kaolin"
    mesh = (vertices_cam, faces, focal, principal_point, inside, float(sigma), REACH * sigma)
    silhouette = Silhouette(*torch.ops.ntdm.soft_silhouette(*mesh))
    return silhouette._replace(soft=rasterize_kaolin.soft_mask(*mesh)) if with_kaolin else silhouette


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
        kept, xy, depth = project_faces(vertices_cam[b], faces, focal[b], principal_point[b])
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


# ---- the registered operators; reach in pixels ----


def _forward(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, face_index: Tensor,
    sigma: float, reach: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    checks.check_vertex_range("soft_silhouette", faces, vertices_cam.shape[1])
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point, face_index)]
    outputs = _forward_fake(vertices_cam, faces, focal, principal_point, face_index, sigma, reach)
    scratch: tuple[Tensor, ...] = ()
    if kernels.target(vertices_cam).cuda:  # the vertices in the picture, and the faces' boxes
        boxes = vertices_cam.new_empty((len(vertices_cam), len(faces), 4))
        scratch = (projected_vertices(vertices_cam), boxes)
    sizes = (*vertices_cam.shape[:2], len(faces), *face_index.shape[1:])
    kernels.call("soft_silhouette", *inputs, *sizes, NEAR, sigma, reach, *scratch, *outputs)
    return outputs


def _forward_fake(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, face_index: Tensor,
    sigma: float, reach: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    shape = face_index.shape
    return vertices_cam.new_empty(shape), faces.new_empty(shape), vertices_cam.new_empty((*shape, 3))


def _backward(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, face_index: Tensor,
    soft: Tensor, grad: Tensor, sigma: float, reach: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point, face_index, soft, grad)]
    outputs = camera_gradients(vertices_cam, faces, focal, principal_point)
    sizes = (*vertices_cam.shape[:2], len(faces), *face_index.shape[1:])
    kernels.call("soft_silhouette_backward", *inputs, *sizes, NEAR, sigma, reach, *outputs)
    return outputs


def _backward_cuda(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, face_index: Tensor,
    soft: Tensor, grad: Tensor, sigma: float, reach: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point, face_index, soft, grad)]
    batch, vertices, _ = vertices_cam.shape
    grad_vertices = torch.empty_like(inputs[0])
    projected = projected_vertices(vertices_cam)
    camera_sums = torch.empty_like(projected)  # a vertex's shares of focal length and principal point
    kernels.call(
        "soft_silhouette_backward", *inputs, batch, vertices, len(faces), *face_index.shape[1:],
        NEAR, sigma, reach, *corners_by_vertex(inputs[1], vertices), projected,
        projected.new_empty((batch, len(faces), 6)), grad_vertices, camera_sums,
    )  # fmt: skip
    to_camera = camera_sums.sum(1).to(soft.dtype)
    return grad_vertices, to_camera[:, 0].contiguous(), to_camera[:, 1:].contiguous()


def _context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(*inputs[:5], output[0])
    ctx.sigma_and_reach = inputs[5:]


@once_differentiable
def _gradient(ctx: Any, grad: Tensor, _face: Tensor, _barycentric: Tensor) -> tuple[Tensor | None, ...]:
    to_vertices, to_focal, to_principal_point = torch.ops.ntdm.soft_silhouette_backward(
        *ctx.saved_tensors, grad, *ctx.sigma_and_reach
    )
    return to_vertices, None, to_focal, to_principal_point, None, None, None


register(
    "soft_silhouette(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point,"
    " Tensor face_index, float sigma, float reach) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    context=_context,
    gradient=_gradient,
)
register(
    "soft_silhouette_backward(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point,"
    " Tensor face_index, Tensor soft, Tensor grad, float sigma, float reach) -> (Tensor, Tensor, Tensor)",
    _backward,
    camera_gradients,
    cuda=_backward_cuda,
)
