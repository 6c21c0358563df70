"""Triangles to pixels: rasterizer, attribute interpolation and soft silhouette, with derivatives.

Backends: "native", on the CPU (rasterize_ops.py) and CUDA (rasterize_cuda.py), kernels in cuda/; "kaolin", on
CUDA (rasterize_kaolin.py). ``rasterize_reference`` and ``soft_silhouette_reference`` are the same functions
in plain torch, written to be read and used as the tests' truth.

Vertices are in the camera frame (camera.py): x right, y up, z back, depth = -z. Pixel (row i, column j) has
its centre at (j + 0.5, i + 0.5). A pixel is covered by a triangle when its centre is inside or on an edge,
whichever way the triangle winds; the smallest depth (compared as float32) wins, at equal depth the lower
face index. A face with a corner at depth <= NEAR, or not finite, is dropped whole and counted; one whose
projection is a line (area under 1e-12 square pixels) covers nothing.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ntdm.geometry import camera
from ntdm.geometry.camera_np import NEAR
from ntdm.ops import rasterize_kaolin
from ntdm.ops.checks import check_elements, check_face_index, check_faces, check_mesh
from ntdm.ops.rasterize_ops import operators

_LINE_AREA = 1e-12

Backend = Literal["auto", "native", "kaolin"]


class Fragments(NamedTuple):
    """What each pixel sees.

    Fields:
        face_index [B, H, W] int64, -1 where no face.
        barycentric [B, H, W, 3] perspective-correct weights of the face's corners, 0 where no face.
        depth [B, H, W] in the vertices' unit, inf where no face.
        dropped [B] int64: faces dropped at the near plane or for not being finite.
    """

    face_index: Tensor
    barycentric: Tensor
    depth: Tensor
    dropped: Tensor


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
        vertices_cam, focal and principal_point, at fixed face_index; the outline's gradient is
        :func:`soft_silhouette`'s.

    Raises:
        ValueError: wrong rank, shape or dtype; a face index out of range; tensors that are neither on the CPU
            nor on CUDA, or not all on one device; more than 2^31 elements in vertices_cam or barycentric; a
            backend that is not to be had there.
    """
    check_mesh(vertices_cam, faces, focal, principal_point)
    height, width = size
    if height < 0 or width < 0:
        raise ValueError(f"rasterize: size must be (H, W) >= 0, got {tuple(size)}")
    check_elements("rasterize", "barycentric", (len(vertices_cam), height, width, 3))
    if takes_kaolin(backend, vertices_cam):
        arguments = (vertices_cam, faces, focal, principal_point, size)
        return Fragments(*rasterize_kaolin.rasterize(*arguments))
    barycentric, depth, face_index, dropped = operators.rasterize(
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


def interpolate(attributes: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Vertex attributes at the pixels.

    Args:
        attributes: [B, V, C], or [1, V, C] shared by all items; the fragments' dtype.
        faces: [F, 3] int64, those that were rasterized.
        fragments: of B items.

    Returns:
        [B, H, W, C], 0 where no face; differentiable with respect to attributes and fragments.barycentric.

    Raises:
        ValueError: wrong rank, batch or dtype; a vertex or face index out of range; more than 2^31 elements.
    """
    check_face_index("interpolate", fragments.face_index)
    batch = fragments.face_index.shape[0]
    if attributes.dim() != 3 or attributes.shape[0] not in (1, batch):
        raise ValueError(
            f"interpolate: attributes must be [{batch} or 1, V, C], got {list(attributes.shape)}"
        )
    if attributes.dtype != fragments.barycentric.dtype:
        raise ValueError(
            f"interpolate: attributes are {attributes.dtype}, the fragments {fragments.barycentric.dtype}"
        )
    check_faces("interpolate", faces)
    if fragments.barycentric.shape != (*fragments.face_index.shape, 3):
        raise ValueError(
            f"interpolate: barycentric must be {[*fragments.face_index.shape, 3]} as face_index, "
            f"got {list(fragments.barycentric.shape)}"
        )
    check_elements("interpolate", "the result", (*fragments.face_index.shape, attributes.shape[2]))
    index = fragments.face_index
    for name, tensor in (("attributes", attributes), ("faces", faces), ("face_index", index)):
        if tensor.device != fragments.barycentric.device:
            raise ValueError(
                f"interpolate: {name} is on {tensor.device}, the fragments on {fragments.barycentric.device}"
            )
    return operators.interpolate(attributes, faces, fragments.face_index, fragments.barycentric)


def rasterize_reference(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, size: tuple[int, int]
) -> Fragments:
    """:func:`rasterize` in plain torch: every face at every pixel, memory F x H x W."""
    pixel = pixel_centres(size, vertices_cam)
    items = []
    for b in range(vertices_cam.shape[0]):
        kept, xy, depth = projected_faces(vertices_cam[b], faces, focal[b], principal_point[b])
        # The background is one more "face" behind all others: a point, which covers nothing.
        kept = torch.cat([kept, kept.new_tensor([-1])])
        xy = torch.cat([xy, xy.new_zeros(1, 3, 2)])
        depth = torch.cat([depth, depth.new_ones(1, 3)])
        # Twice the areas of (pixel, corner k + 1, corner k + 2): [F + 1, P, 3].
        corner = xy[:, None] - pixel[:, None]
        weight = _cross(corner.roll(-1, -2), corner.roll(-2, -2))
        area = _cross(xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0])[:, None]
        inside = (weight * area.sign()[..., None] >= 0).all(-1) & (area.abs() > _LINE_AREA)
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


def pixel_centres(size: tuple[int, int], like: Tensor) -> Tensor:
    """Centres [H * W, 2] of the pixels of a map, x and y in pixels, row by row."""
    rows, columns = (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5 for n in size)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).view(-1, 2)


def projected_faces(
    vertices: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The faces that are not dropped: numbers [F'], corners in pixels [F', 3, 2] and depths [F', 3]."""
    usable = vertices.detach().isfinite().all(-1) & (vertices.detach()[:, 2] < -NEAR)
    kept = usable[faces].all(-1).nonzero()[:, 0]
    xy, depth = camera.project(vertices[faces[kept]], focal, principal_point.view(1, 2))
    return kept, xy, depth


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def takes_kaolin(backend: str, vertices_cam: Tensor) -> bool:
    """Whether the call goes to Kaolin; ValueError when it is asked for and cannot."""
    if backend not in get_args(Backend):
        raise ValueError(f"rasterize: backend must be one of {get_args(Backend)}, got {backend!r}")
    if backend == "native" or (backend == "auto" and not vertices_cam.is_cuda):
        return False
    reason = rasterize_kaolin.missing()
    if backend == "kaolin" and reason is not None:
        raise ValueError(f"rasterize: backend kaolin cannot be used here: {reason}")
    if backend == "kaolin" and not vertices_cam.is_cuda:
        raise ValueError("rasterize: backend kaolin wants CUDA tensors, vertices_cam is on the CPU")
    return reason is None
