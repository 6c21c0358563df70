"""The operators behind rasterize.py: CPU kernels called through ctypes, registered with torch.

``torch.ops.ntdm.{rasterize, interpolate, soft_silhouette}`` and the derivative of each, with shapes for
tracing (fake implementations) and autograd. Arguments of the public functions are checked in rasterize.py;
what needs the values (face indices) is checked here, where tracing does not come.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdm.geometry.camera_np import NEAR
from ntdm.ops import kernels, rasterize_cuda
from ntdm.ops.checks import REACH, check_fragments, check_range

operators = torch.ops.ntdm

_library = torch.library.Library("ntdm", "FRAGMENT")
_library.define(
    "rasterize(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point,"
    " int height, int width) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "rasterize_backward(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point,"
    " Tensor face_index, Tensor barycentric, Tensor depth, Tensor grad_barycentric, Tensor grad_depth)"
    " -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "interpolate(Tensor attributes, Tensor faces, Tensor face_index, Tensor barycentric) -> Tensor"
)
_library.define(
    "interpolate_backward(Tensor grad, Tensor attributes, Tensor faces, Tensor face_index,"
    " Tensor barycentric, bool need_attributes) -> (Tensor, Tensor)"
)
_library.define(
    "soft_silhouette(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point,"
    " Tensor face_index, float sigma) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "soft_silhouette_backward(Tensor vertices_cam, Tensor faces, Tensor focal, Tensor principal_point,"
    " Tensor face_index, Tensor soft, Tensor grad, float sigma) -> (Tensor, Tensor, Tensor)"
)


def _rasterize_cpu(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_range("rasterize", faces, vertices_cam.shape[1])
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point)]
    outputs = _rasterize_fake(vertices_cam, faces, focal, principal_point, height, width)
    kernels.advise(*outputs)
    sizes = (vertices_cam.shape[0], vertices_cam.shape[1], faces.shape[0], height, width)
    kernels.call("rasterize", *inputs, *sizes, NEAR, *outputs)
    return outputs


# Real outputs first: torch.library.opcheck adds up all outputs in the first one's type.
def _rasterize_fake(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (vertices_cam.shape[0], height, width)
    return (
        vertices_cam.new_empty((*shape, 3)),
        vertices_cam.new_empty(shape),
        faces.new_empty(shape),
        faces.new_empty(shape[:1]),
    )


def _rasterize_backward_cpu(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, *maps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point, *maps)]
    outputs = _gradients_fake(vertices_cam, faces, focal, principal_point)
    sizes = (vertices_cam.shape[0], vertices_cam.shape[1], *maps[0].shape[1:])
    kernels.call("rasterize_backward", *inputs, *sizes, *outputs)
    return outputs


def _gradients_fake(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, *_: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(vertices_cam, memory_format=contiguous),
        torch.empty_like(focal, memory_format=contiguous),
        torch.empty_like(principal_point, memory_format=contiguous),
    )


def _rasterize_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    barycentric, depth, face_index, dropped = output
    ctx.mark_non_differentiable(face_index, dropped)
    ctx.save_for_backward(*inputs[:4], face_index, barycentric, depth)


@once_differentiable
def _rasterize_gradient(ctx, grad_barycentric, grad_depth, _index, _dropped):  # type: ignore[no-untyped-def]
    gradients = operators.rasterize_backward(*ctx.saved_tensors, grad_barycentric, grad_depth)
    return gradients[0], None, gradients[1], gradients[2], None, None


def _interpolate_cpu(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentric: Tensor) -> Tensor:
    check_range("interpolate", faces, attributes.shape[1])
    check_fragments(face_index, faces)
    inputs = [t.contiguous() for t in (attributes, faces, face_index, barycentric)]
    output = _interpolate_fake(attributes, faces, face_index, barycentric)
    kernels.advise(output)
    kernels.call("interpolate", *inputs, *_interpolate_sizes(attributes, face_index), output)
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
    kernels.call(
        "interpolate_backward", *inputs, batch, stride, vertices, channels, pixels,
        per_item if need_attributes else None, grad_barycentric,
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


@once_differentiable
def _interpolate_gradient(ctx, grad):  # type: ignore[no-untyped-def]
    need_attributes = ctx.needs_input_grad[0]
    gradients = operators.interpolate_backward(grad, *ctx.saved_tensors, need_attributes)
    return gradients[0] if need_attributes else None, None, None, gradients[1]


def _soft_silhouette_cpu(
    vertices_cam: Tensor,
    faces: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    face_index: Tensor,
    sigma: float,
) -> tuple[Tensor, Tensor, Tensor]:
    check_range("soft_silhouette", faces, vertices_cam.shape[1])
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point, face_index)]
    outputs = _soft_silhouette_fake(vertices_cam, faces, focal, principal_point, face_index, sigma)
    kernels.advise(*outputs)
    sizes = (*vertices_cam.shape[:2], faces.shape[0], *face_index.shape[1:])
    kernels.call("soft_silhouette", *inputs, *sizes, NEAR, float(sigma), REACH * sigma, *outputs)
    return outputs


def _soft_silhouette_fake(
    vertices_cam: Tensor,
    faces: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    face_index: Tensor,
    sigma: float,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = face_index.shape
    return vertices_cam.new_empty(shape), faces.new_empty(shape), vertices_cam.new_empty((*shape, 3))


def _soft_silhouette_backward_cpu(
    vertices_cam: Tensor,
    faces: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    face_index: Tensor,
    soft: Tensor,
    grad: Tensor,
    sigma: float,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = [t.contiguous() for t in (vertices_cam, faces, focal, principal_point, face_index, soft, grad)]
    outputs = _gradients_fake(vertices_cam, faces, focal, principal_point)
    sizes = (*vertices_cam.shape[:2], faces.shape[0], *face_index.shape[1:])
    kernels.call("soft_silhouette_backward", *inputs, *sizes, NEAR, float(sigma), REACH * sigma, *outputs)
    return outputs


def _soft_silhouette_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(*inputs[:5], output[0])
    ctx.sigma = inputs[5]


@once_differentiable
def _soft_silhouette_gradient(ctx, grad, _face, _barycentric):  # type: ignore[no-untyped-def]
    gradients = operators.soft_silhouette_backward(*ctx.saved_tensors, grad, ctx.sigma)
    return gradients[0], None, gradients[1], gradients[2], None, None


for _name, _cpu, _cuda, _fake in (
    ("rasterize", _rasterize_cpu, rasterize_cuda.rasterize, _rasterize_fake),
    ("rasterize_backward", _rasterize_backward_cpu, rasterize_cuda.rasterize_backward, _gradients_fake),
    ("interpolate", _interpolate_cpu, rasterize_cuda.interpolate, _interpolate_fake),
    (
        "interpolate_backward", _interpolate_backward_cpu, rasterize_cuda.interpolate_backward,
        _interpolate_backward_fake,
    ),
    ("soft_silhouette", _soft_silhouette_cpu, rasterize_cuda.soft_silhouette, _soft_silhouette_fake),
    (
        "soft_silhouette_backward", _soft_silhouette_backward_cpu, rasterize_cuda.soft_silhouette_backward,
        _gradients_fake,
    ),
):  # fmt: skip
    kernels.register(_library, _name, _cpu, _cuda, _fake)
for _name, _gradient, _context in (
    ("rasterize", _rasterize_gradient, _rasterize_context),
    ("interpolate", _interpolate_gradient, _interpolate_context),
    ("soft_silhouette", _soft_silhouette_gradient, _soft_silhouette_context),
):
    torch.library.register_autograd(f"ntdm::{_name}", _gradient, setup_context=_context, lib=_library)
