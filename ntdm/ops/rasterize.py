"""Triangles to pixels: the rasterizer, its derivative, and its torch twin.

Backends: "native", the kernels of cuda/rasterize.cpp and, on CUDA, of cuda/rasterize_cuda.cu; "kaolin", on
CUDA (rasterize_kaolin.py). ``rasterize_reference`` is the same function in plain torch, written to be read
and used as the tests' truth. interpolate.py carries attributes to the pixels, soft_silhouette.py makes a mask
with a gradient across the outline.

Vertices are in the camera frame (camera.py): x right, y up, z back, depth = -z. Pixel (row i, column j) has
its centre at (j + 0.5, i + 0.5). A pixel is covered by a triangle when its centre is inside or on an edge,
whichever way the triangle winds; the smallest depth (compared as float32) wins, at equal depth the lower
face index. A face with a corner at depth <= NEAR, or not finite, is dropped whole and counted; one whose
projection is a line (area under 1e-12 square pixels) covers nothing.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdm.geometry.camera_np import NEAR
from ntdm.ops import checks, kernels, rasterize_kaolin
from ntdm.ops.fragments import Fragments, corners_by_vertex, pixels_by_face
from ntdm.ops.interpolate import interpolate as interpolate
from ntdm.ops.rasterize_kaolin import Backend
from ntdm.ops.registration import register
from ntdm.ops.triangle import LINE_AREA, cross, pixel_centres, project_faces


def rasterize(
    vertices_cam: Tensor,
    faces: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    size: tuple[int, int],
    backend: Backend = "auto",
) -> Fragments:
    """Rasterize one mesh topology in B poses or shapes.

    Args:
        vertices_cam: [B, V, 3] camera frame, float32 or float64.
        faces: [F, 3] int64.
        focal: [B] pixels.
        principal_point: [B, 2] pixels.
        size: (H, W).
        backend: "auto" is Kaolin for CUDA tensors where Kaolin imports, else native.

    Returns:
        Fragments, on the tensors' device. barycentric and depth are differentiable with respect to
        vertices_cam, focal and principal_point, once, at fixed face_index; the outline's gradient is
        :func:`ntdm.ops.soft_silhouette.soft_silhouette`'s.

    Raises:
        ValueError: wrong rank, shape or dtype; a face index out of range; tensors that are neither on the CPU
            nor on CUDA, or not all on one device; more than 2^31 elements in vertices_cam or barycentric; a
            backend that is not to be had there.
    """
    checks.check_mesh("rasterize", vertices_cam, faces, focal, principal_point)
    height, width = size
    if height < 0 or width < 0:
        raise ValueError(f"rasterize: size must be (H, W) >= 0, got {tuple(size)}")
    checks.check_elements("rasterize", "barycentric", (len(vertices_cam), height, width, 3))
    if rasterize_kaolin.is_chosen("rasterize", backend, vertices_cam):
        arguments = (vertices_cam, faces, focal, principal_point, size)
        return Fragments(*rasterize_kaolin.rasterize(*arguments))
    barycentric, depth, face_index, dropped = torch.ops.ntdm.rasterize(
        vertices_cam, faces, focal, principal_point, height, width
    )
    return Fragments(face_index, barycentric, depth, dropped)


def coverage(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, size: tuple[int, int]
) -> Tensor:
    """Mask of one mesh.

    Args:
        vertices_cam: [V, 3] camera frame.
        faces: [F, 3] int64.
        focal: [] pixels.
        principal_point: [2] pixels.
        size: (H, W).

    Returns:
        [H, W] bool: the pixel's centre is covered. Raises as :func:`rasterize`.
    """
    with torch.no_grad():
        fragments = rasterize(
            vertices_cam[None], faces, focal.reshape(1), principal_point.reshape(1, 2), size
        )
    return fragments.face_index[0] >= 0


def rasterize_reference(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, size: tuple[int, int]
) -> Fragments:
    """:func:`rasterize` in plain torch: every face at every pixel, memory F x H x W."""
    pixel = pixel_centres(size, vertices_cam)
    items = []
    for b in range(vertices_cam.shape[0]):
        kept, xy, depth = project_faces(vertices_cam[b], faces, focal[b], principal_point[b])
        # The background is one more "face" behind all others: a point, which covers nothing.
        kept = torch.cat([kept, kept.new_tensor([-1])])
        xy = torch.cat([xy, xy.new_zeros(1, 3, 2)])
        depth = torch.cat([depth, depth.new_ones(1, 3)])
        # Twice the areas of (pixel, corner k + 1, corner k + 2): [F + 1, P, 3].
        corner = xy[:, None] - pixel[:, None]
        weight = cross(corner.roll(-1, -2), corner.roll(-2, -2))
        area = cross(xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0])[:, None]
        inside = (weight * area.sign()[..., None] >= 0).all(-1) & (area.abs() > LINE_AREA)
        perspective = weight / depth[:, None]
        total = torch.where(inside, perspective.sum(-1), 1)
        z = torch.where(inside, weight.sum(-1) / total, torch.inf)
        nearest = z.detach().float()
        order = torch.arange(len(kept), device=pixel.device)[:, None].expand_as(nearest)
        first = torch.where(nearest == nearest.amin(0), order, len(kept)).amin(0)
        covered = torch.isfinite(nearest.amin(0))
        at = (torch.where(covered, first, len(kept) - 1), torch.arange(len(pixel), device=pixel.device))
        barycentric = torch.where(covered[:, None], perspective[at] / total[at][:, None], 0)
        dropped = kept.new_tensor(len(faces) + 1 - len(kept))
        items.append((kept[at[0]].view(size), barycentric.view(*size, 3), z[at].view(size), dropped))
    if not items:
        empty = vertices_cam.new_zeros(0, *size)
        return Fragments(empty.long(), empty[..., None].expand(0, *size, 3), empty, empty.new_zeros(0).long())
    return Fragments(*(torch.stack(parts) for parts in zip(*items, strict=True)))


# ---- the registered operators ----


def _forward(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.check_vertex_range("rasterize", faces, vertices_cam.shape[1])
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point)]
    outputs = _forward_fake(vertices_cam, faces, focal, principal_point, height, width)
    scratch: tuple[Tensor, ...] = ()
    if kernels.target(vertices_cam).cuda:
        # The vertices in the picture, and a z-buffer of background. Dropped faces are counted from 0.
        background = torch.iinfo(torch.int64).max
        scratch = (
            projected_vertices(vertices_cam),
            faces.new_full((len(inputs[0]), height, width), background),
        )
        outputs[3].zero_()
    sizes = (*vertices_cam.shape[:2], len(faces), height, width)
    kernels.call("rasterize", *inputs, *sizes, NEAR, *scratch, *outputs)
    return outputs


# Real outputs first: torch.library.opcheck adds up all outputs in the first one's type.
def _forward_fake(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (vertices_cam.shape[0], height, width)
    return (
        vertices_cam.new_empty((*shape, 3)),
        vertices_cam.new_empty(shape),
        faces.new_empty(shape),
        faces.new_empty(shape[:1]),
    )


def _backward(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, *maps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point, *maps)]
    outputs = camera_gradients(vertices_cam, faces, focal, principal_point)
    sizes = (*vertices_cam.shape[:2], *maps[0].shape[1:])
    kernels.call("rasterize_backward", *inputs, *sizes, *outputs)
    return outputs


def _backward_cuda(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, face_index: Tensor,
    barycentric: Tensor, depth: Tensor, grad_barycentric: Tensor, grad_depth: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    maps = (barycentric, depth, grad_barycentric, grad_depth)
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point, *maps)]
    batch, vertices, _ = vertices_cam.shape
    grad_vertices = torch.empty_like(inputs[0])
    # To a face's corners, to the focal length, to the principal point.
    face_sums = vertices_cam.new_empty((batch, len(faces), 12), dtype=torch.float64)
    kernels.call(
        "rasterize_backward", *inputs, batch, vertices, len(faces), *depth.shape[1:],
        *pixels_by_face(face_index, len(faces)), *corners_by_vertex(faces, vertices), face_sums,
        grad_vertices,
    )  # fmt: skip
    camera_sums = face_sums[..., 9:].sum(1).to(depth.dtype)
    return grad_vertices, camera_sums[:, 0].contiguous(), camera_sums[:, 1:].contiguous()


def camera_gradients(
    vertices_cam: Tensor, _faces: Tensor, focal: Tensor, principal_point: Tensor, *_: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for the gradients to a mesh in camera frame and its cameras."""
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(vertices_cam, memory_format=contiguous),
        torch.empty_like(focal, memory_format=contiguous),
        torch.empty_like(principal_point, memory_format=contiguous),
    )


def projected_vertices(vertices_cam: Tensor) -> Tensor:
    """Memory for x, y in pixels and 1 / depth of vertices, which CUDA's kernels make first; double."""
    return vertices_cam.new_empty(vertices_cam.shape, dtype=torch.float64)


def _context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    barycentric, depth, face_index, dropped = output
    ctx.mark_non_differentiable(face_index, dropped)
    ctx.save_for_backward(*inputs[:4], face_index, barycentric, depth)


@once_differentiable
def _gradient(
    ctx: Any, grad_barycentric: Tensor, grad_depth: Tensor, _index: Tensor, _dropped: Tensor
) -> tuple[Tensor | None, ...]:
    to_vertices, to_focal, to_principal_point = torch.ops.ntdm.rasterize_backward(
        *ctx.saved_tensors, grad_barycentric, grad_depth
    )
    return to_vertices, None, to_focal, to_principal_point, None, None


register(
    "rasterize(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point,"
    " int height, int width) -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    context=_context,
    gradient=_gradient,
)
register(
    "rasterize_backward(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point,"
    " Tensor face_index, Tensor barycentric, Tensor depth, Tensor grad_barycentric, Tensor grad_depth)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    camera_gradients,
    cuda=_backward_cuda,
)
