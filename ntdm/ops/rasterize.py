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

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ntdm.geometry import camera
from ntdm.ops import rasterize_cuda, rasterize_kaolin
from ntdm.ops.rasterize_ops import NEAR, REACH, operators

rasterize_cuda.register()
_LINE_AREA = 1e-12
_MOST_ELEMENTS = 2**31

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
    _check_mesh(vertices_cam, faces, focal, principal_point)
    height, width = size
    if height < 0 or width < 0:
        raise ValueError(f"rasterize: size must be (H, W) >= 0, got {tuple(size)}")
    _check_elements("rasterize", "barycentric", (len(vertices_cam), height, width, 3))
    if _takes_kaolin(backend, vertices_cam):
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
    _check_face_index("interpolate", fragments.face_index)
    batch = fragments.face_index.shape[0]
    if attributes.dim() != 3 or attributes.shape[0] not in (1, batch):
        raise ValueError(
            f"interpolate: attributes must be [{batch} or 1, V, C], got {list(attributes.shape)}"
        )
    if attributes.dtype != fragments.barycentric.dtype:
        raise ValueError(
            f"interpolate: attributes are {attributes.dtype}, the fragments {fragments.barycentric.dtype}"
        )
    _check_faces("interpolate", faces)
    if fragments.barycentric.shape != (*fragments.face_index.shape, 3):
        raise ValueError(
            f"interpolate: barycentric must be {[*fragments.face_index.shape, 3]} as face_index, "
            f"got {list(fragments.barycentric.shape)}"
        )
    _check_elements("interpolate", "the result", (*fragments.face_index.shape, attributes.shape[2]))
    index = fragments.face_index
    for name, tensor in (("attributes", attributes), ("faces", faces), ("face_index", index)):
        if tensor.device != fragments.barycentric.device:
            raise ValueError(
                f"interpolate: {name} is on {tensor.device}, the fragments on {fragments.barycentric.device}"
            )
    return operators.interpolate(attributes, faces, fragments.face_index, fragments.barycentric)


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
    _check_mesh(vertices_cam, faces, focal, principal_point)
    if not 0 < sigma < float("inf"):
        raise ValueError(f"soft_silhouette: sigma must be a positive number of pixels, got {sigma}")
    inside = fragments.face_index
    _check_face_index("soft_silhouette", inside)
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
    if _takes_kaolin(backend, vertices_cam) and backend == "kaolin":
        silhouette = silhouette._replace(soft=rasterize_kaolin.soft_mask(*mesh))
    return silhouette


def rasterize_reference(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, size: tuple[int, int]
) -> Fragments:
    """:func:`rasterize` in plain torch: every face at every pixel, memory F x H x W."""
    pixel = _pixel_centres(size, vertices_cam)
    items = []
    for b in range(vertices_cam.shape[0]):
        kept, xy, depth = _projected_faces(vertices_cam[b], faces, focal[b], principal_point[b])
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
    pixel = _pixel_centres(size, vertices_cam)
    items = []
    for b in range(vertices_cam.shape[0]):
        kept, xy, depth = _projected_faces(vertices_cam[b], faces, focal[b], principal_point[b])
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


def _pixel_centres(size: tuple[int, int], like: Tensor) -> Tensor:
    rows, columns = (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5 for n in size)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).view(-1, 2)


def _projected_faces(
    vertices: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # Indices of the faces that are not dropped [F'], their corners in pixels [F', 3, 2] and depths [F', 3].
    usable = vertices.detach().isfinite().all(-1) & (vertices.detach()[:, 2] < -NEAR)
    kept = usable[faces].all(-1).nonzero()[:, 0]
    xy, depth = camera.project(vertices[faces[kept]], focal, principal_point.view(1, 2))
    return kept, xy, depth


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _check_faces(name: str, faces: Tensor) -> None:
    if faces.dim() != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"{name}: faces must be [F, 3] int64, got {list(faces.shape)} {faces.dtype}")


def _check_face_index(name: str, face_index: Tensor) -> None:
    if face_index.dim() != 3 or face_index.dtype != torch.int64:
        raise ValueError(
            f"{name}: face_index must be [B, H, W] int64, got {list(face_index.shape)} {face_index.dtype}"
        )


def _check_elements(name: str, argument: str, shape: tuple[int, ...]) -> None:
    if math.prod(shape) > _MOST_ELEMENTS:
        raise ValueError(
            f"{name}: {argument}, {list(shape)}, has {math.prod(shape)} elements: "
            f"want {_MOST_ELEMENTS} at most, in parts of the batch"
        )


def _check_mesh(vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor) -> None:
    if vertices_cam.dim() != 3 or vertices_cam.shape[2] != 3:
        raise ValueError(f"rasterize: vertices_cam must be [B, V, 3], got {list(vertices_cam.shape)}")
    batch, dtype = vertices_cam.shape[0], vertices_cam.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"rasterize: vertices_cam must be float32 or float64, got {dtype}")
    _check_faces("rasterize", faces)
    for name, tensor, shape in (("focal", focal, [batch]), ("principal_point", principal_point, [batch, 2])):
        if list(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(
                f"rasterize: {name} must be {shape} {dtype}, got {list(tensor.shape)} {tensor.dtype}"
            )
    device = vertices_cam.device
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"rasterize: vertices_cam is on {device}: want the CPU or CUDA")
    for name, tensor in (("faces", faces), ("focal", focal), ("principal_point", principal_point)):
        if tensor.device != device:
            raise ValueError(f"rasterize: {name} is on {tensor.device}, vertices_cam on {device}")
    if len(faces) > 2**31 - 1:
        raise ValueError(f"rasterize: faces has {len(faces)} rows: want {2**31 - 1} at most")
    _check_elements("rasterize", "vertices_cam", tuple(vertices_cam.shape))


def _takes_kaolin(backend: str, vertices_cam: Tensor) -> bool:
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
