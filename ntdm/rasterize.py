"""Triangles to pixels: rasterizer, attribute interpolation and soft silhouette, with derivatives.

The kernels are cuda/rasterize.cpp and cuda/soft_silhouette.cpp, registered here under ``torch.ops.ntdm``;
``rasterize_reference`` and ``soft_silhouette_reference`` are the same operators in plain torch, written to be
read and used as the tests' truth.

Vertices are in the camera frame (camera.py): x right, y up, z back, depth = -z. Pixel (row i, column j) has its
centre at (j + 0.5, i + 0.5). A pixel is covered by a triangle when its centre is inside or on an edge,
whichever way the triangle winds; the smallest depth (compared as float32) wins, at equal depth the lower face
index. A face with a corner at depth <= NEAR, or not finite, is dropped whole and counted; one whose projection
is a line (area under 1e-12 square pixels) covers nothing.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ntdm import camera, native

NEAR = 1e-3
_LINE_AREA = 1e-12


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
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, size: tuple[int, int]
) -> Fragments:
    """Rasterize one mesh topology in B poses or shapes.

    Args:
        vertices_cam: [B, V, 3] camera frame, float32 or float64.
        faces: [F, 3] int64.
        focal: [B] pixels.
        principal_point: [B, 2] pixels.
        size: (H, W).

    Returns:
        Fragments. barycentric and depth are differentiable with respect to vertices_cam, focal and
        principal_point, at fixed face_index; the outline's gradient is :func:`soft_silhouette`'s.

    Raises:
        ValueError: wrong rank, shape or dtype; a face index out of range; tensors that are not on the CPU.
    """
    _check_mesh(vertices_cam, faces, focal, principal_point)
    height, width = size
    if height < 0 or width < 0:
        raise ValueError(f"rasterize: size must be (H, W) >= 0, got {tuple(size)}")
    return Fragments(*torch.ops.ntdm.rasterize(vertices_cam, faces, focal, principal_point, height, width))


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
        ValueError: wrong rank, batch or dtype; a face index out of range.
    """
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
    return torch.ops.ntdm.interpolate(attributes, faces, fragments.face_index, fragments.barycentric)


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
        order = torch.arange(len(kept))[:, None].expand_as(nearest)
        first = torch.where(nearest == nearest.amin(0), order, len(kept)).amin(0)
        covered = torch.isfinite(nearest.amin(0))
        at = (torch.where(covered, first, len(kept) - 1), torch.arange(len(pixel)))
        barycentric = torch.where(covered[:, None], perspective[at] / total[at][:, None], 0)
        dropped = torch.tensor(len(faces) + 1 - len(kept))
        items.append((kept[at[0]].view(size), barycentric.view(*size, 3), z[at].view(size), dropped))
    if not items:
        empty = vertices_cam.new_zeros(0, *size)
        return Fragments(empty.long(), empty[..., None].expand(0, *size, 3), empty, empty.new_zeros(0).long())
    return Fragments(*(torch.stack(parts) for parts in zip(*items, strict=True)))


def _pixel_centres(size: tuple[int, int], like: Tensor) -> Tensor:
    rows, columns = (torch.arange(n, dtype=like.dtype) + 0.5 for n in size)
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
    for tensor in (vertices_cam, faces, focal, principal_point):
        if tensor.device.type != "cpu":
            raise ValueError(
                f"rasterize: tensors are on {tensor.device}; this version has no CUDA kernels, use .cpu()"
            )


# The operators. Kernels take contiguous tensors; gradients arrive with any strides.
_library = torch.library.Library("ntdm", "FRAGMENT")
_library.define(
    "rasterize(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point, int height, int width)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "rasterize_backward(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point, Tensor face_index,"
    " Tensor barycentric, Tensor depth, Tensor grad_barycentric, Tensor grad_depth) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "interpolate(Tensor attributes, Tensor faces, Tensor face_index, Tensor barycentric) -> Tensor"
)
_library.define(
    "interpolate_backward(Tensor grad, Tensor attributes, Tensor faces, Tensor face_index, Tensor barycentric,"
    " bool need_attributes) -> (Tensor, Tensor)"
)


@functools.cache
def _kernel(name: str, dtype: torch.dtype, signature: str) -> Callable[..., None]:
    # One letter an argument: p(ointer), i(nt64), d(ouble), t(hreads); declared once, so that calls convert cheaply.
    types = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double, "t": ctypes.c_int}
    function = getattr(native.library(), f"ntdm_{name}_{'f32' if dtype == torch.float32 else 'f64'}")
    function.argtypes = [types[letter] for letter in signature]
    function.restype = None
    return function


def _pointers(*tensors: Tensor) -> list[int]:
    assert all(t.is_contiguous() and t.device.type == "cpu" for t in tensors)
    return [t.data_ptr() for t in tensors]


def _check_range(name: str, faces: Tensor, vertices: int) -> None:
    if faces.numel():
        low, high = (int(value) for value in faces.aminmax())
        if low < 0 or high >= vertices:
            raise ValueError(
                f"{name}: faces name vertex {low if low < 0 else high}, there are {vertices} (0 to {vertices - 1})"
            )


def _rasterize_cpu(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check_range("rasterize", faces, vertices_cam.shape[1])
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point)]
    outputs = _rasterize_fake(*inputs, height, width)
    sizes = (vertices_cam.shape[0], vertices_cam.shape[1], faces.shape[0], height, width)
    kernel = _kernel("rasterize", vertices_cam.dtype, "ppppiiiiidtpppp")
    kernel(*_pointers(*inputs), *sizes, NEAR, torch.get_num_threads(), *_pointers(*outputs))
    return outputs


def _rasterize_fake(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (vertices_cam.shape[0], height, width)
    return (
        faces.new_empty(shape),
        vertices_cam.new_empty((*shape, 3)),
        vertices_cam.new_empty(shape),
        faces.new_empty(shape[:1]),
    )


def _rasterize_backward_cpu(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, *maps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point, *maps)]
    outputs = _gradients_fake(vertices_cam, faces, focal, principal_point)
    sizes = (vertices_cam.shape[0], vertices_cam.shape[1], *maps[0].shape[1:])
    kernel = _kernel("rasterize_backward", vertices_cam.dtype, "pppppppppiiiitppp")
    kernel(*_pointers(*inputs), *sizes, torch.get_num_threads(), *_pointers(*outputs))
    return outputs


def _gradients_fake(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, *_: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(vertices_cam, memory_format=contiguous),
        torch.empty_like(focal, memory_format=contiguous),
        torch.empty_like(principal_point, memory_format=contiguous),
    )


def _rasterize_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.mark_non_differentiable(output[0], output[3])
    ctx.save_for_backward(*inputs[:4], *output[:3])


def _rasterize_gradient(ctx, _index, grad_barycentric, grad_depth, _dropped):  # type: ignore[no-untyped-def]
    gradients = torch.ops.ntdm.rasterize_backward(*ctx.saved_tensors, grad_barycentric, grad_depth)
    return gradients[0], None, gradients[1], gradients[2], None, None


def _interpolate_cpu(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentric: Tensor) -> Tensor:
    _check_range("interpolate", faces, attributes.shape[1])
    inputs = [t.contiguous() for t in (attributes, faces, face_index, barycentric)]
    output = _interpolate_fake(attributes, faces, face_index, barycentric)
    kernel = _kernel("interpolate", attributes.dtype, "ppppiiiitp")
    kernel(
        *_pointers(*inputs),
        *_interpolate_sizes(attributes, face_index),
        torch.get_num_threads(),
        output.data_ptr(),
    )
    return output


def _interpolate_fake(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentric: Tensor) -> Tensor:
    return attributes.new_empty((*face_index.shape, attributes.shape[2]))


def _interpolate_sizes(attributes: Tensor, face_index: Tensor) -> tuple[int, int, int, int]:
    shared, vertices, channels = attributes.shape
    batch, height, width = face_index.shape
    return batch, 0 if shared == 1 else vertices * channels, channels, height * width


def _interpolate_backward_cpu(
    grad: Tensor,
    attributes: Tensor,
    faces: Tensor,
    face_index: Tensor,
    barycentric: Tensor,
    need_attributes: bool,
) -> tuple[Tensor, Tensor]:
    inputs = [t.contiguous() for t in (grad, attributes, faces, face_index, barycentric)]
    batch, stride, channels, pixels = _interpolate_sizes(attributes, face_index)
    vertices = attributes.shape[1]
    per_item = attributes.new_empty((batch if need_attributes else 0, vertices, channels))
    grad_barycentric = torch.empty_like(inputs[4])
    kernel = _kernel("interpolate_backward", attributes.dtype, "pppppiiiiitpp")
    kernel(
        *_pointers(*inputs), batch, stride, vertices, channels, pixels, torch.get_num_threads(),
        per_item.data_ptr() if need_attributes else None, grad_barycentric.data_ptr(),
    )  # fmt: skip
    if need_attributes and attributes.shape[0] != batch:
        per_item = per_item.sum(0, keepdim=True)
    return per_item, grad_barycentric


def _interpolate_backward_fake(
    grad: Tensor,
    attributes: Tensor,
    faces: Tensor,
    face_index: Tensor,
    barycentric: Tensor,
    need_attributes: bool,
) -> tuple[Tensor, Tensor]:
    shape = attributes.shape if need_attributes else (0, *attributes.shape[1:])
    return attributes.new_empty(shape), torch.empty_like(barycentric, memory_format=torch.contiguous_format)


def _interpolate_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _interpolate_gradient(ctx, grad):  # type: ignore[no-untyped-def]
    need_attributes = ctx.needs_input_grad[0]
    gradients = torch.ops.ntdm.interpolate_backward(grad, *ctx.saved_tensors, need_attributes)
    return gradients[0] if need_attributes else None, None, None, gradients[1]


for _name, _cpu, _fake in (
    ("rasterize", _rasterize_cpu, _rasterize_fake),
    ("rasterize_backward", _rasterize_backward_cpu, _gradients_fake),
    ("interpolate", _interpolate_cpu, _interpolate_fake),
    ("interpolate_backward", _interpolate_backward_cpu, _interpolate_backward_fake),
):
    _library.impl(_name, _cpu, "CPU")
    torch.library.register_fake(f"ntdm::{_name}", _fake, lib=_library)
torch.library.register_autograd(
    "ntdm::rasterize", _rasterize_gradient, setup_context=_rasterize_context, lib=_library
)
torch.library.register_autograd(
    "ntdm::interpolate", _interpolate_gradient, setup_context=_interpolate_context, lib=_library
)
