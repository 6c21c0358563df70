"""Vertex attributes at the pixels that a rasterized mesh covers, with derivatives.

With w the perspective-correct weights of a pixel's face and a the attributes of its corners,

    out = sum_k w_k a_k,   dL/da_k = sum_pixels w_k dL/dout,   dL/dw_k = a_k . dL/dout

The kernels are cuda/rasterize.cpp and, on CUDA, cuda/rasterize_cuda.cu.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdm.ops import checks, kernels
from ntdm.ops.fragments import Fragments, corners_by_vertex, pixels_by_face
from ntdm.ops.registration import register


def interpolate(attributes: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Vertex attributes at the pixels.

    Args:
        attributes: [B, V, C], or [1, V, C] shared by all items; the fragments' dtype.
        faces: [F, 3] int64, those that were rasterized.
        fragments: of B items.

    Returns:
        [B, H, W, C], 0 where no face; differentiable once with respect to attributes and
        fragments.barycentric.

    Raises:
        ValueError: wrong rank, batch or dtype; a vertex or face index out of range; more than 2^31 elements.
    """
    index, weights = fragments.face_index, fragments.barycentric
    checks.check_face_index("interpolate", index)
    batch = len(index)
    if attributes.dim() != 3 or attributes.shape[0] not in (1, batch):
        raise ValueError(
            f"interpolate: attributes must be [{batch} or 1, V, C], got {list(attributes.shape)}"
        )
    if attributes.dtype != weights.dtype:
        raise ValueError(f"interpolate: attributes are {attributes.dtype}, the fragments {weights.dtype}")
    checks.check_faces("interpolate", faces)
    if weights.shape != (*index.shape, 3):
        raise ValueError(
            f"interpolate: barycentric must be {[*index.shape, 3]} as face_index, got {list(weights.shape)}"
        )
    checks.check_elements("interpolate", "the result", (*index.shape, attributes.shape[2]))
    for name, tensor in (("attributes", attributes), ("faces", faces), ("face_index", index)):
        checks.check_same_device("interpolate", name, tensor, "the fragments", weights.device)
    return torch.ops.ntdm.interpolate(attributes, faces, index, weights)


# ---- the registered operators ----


def _forward(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentric: Tensor) -> Tensor:
    checks.check_vertex_range("interpolate", faces, attributes.shape[1])
    checks.check_face_range("interpolate", face_index, faces)
    inputs = [t.contiguous() for t in (attributes, faces, face_index, barycentric)]
    output = _forward_fake(attributes, faces, face_index, barycentric)
    kernels.call("interpolate", *inputs, *_sizes(attributes, face_index), output)
    return output


def _forward_fake(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentric: Tensor) -> Tensor:
    return attributes.new_empty((*face_index.shape, attributes.shape[2]))


def _backward(
    grad: Tensor, attributes: Tensor, faces: Tensor, face_index: Tensor, barycentric: Tensor,
    need_attributes: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    inputs = [t.contiguous() for t in (grad, attributes, faces, face_index, barycentric)]
    sizes, (shared, vertices, channels) = _sizes(attributes, face_index), attributes.shape
    grad_barycentric = torch.empty_like(inputs[4])
    # A table an item, also where all share one: added up below in their order.
    tables = attributes.new_empty((sizes[0] if need_attributes else 0, vertices, channels))
    if not kernels.target(grad).cuda:
        to_attributes = tables if need_attributes else None
        kernels.call("interpolate_backward", *inputs, *sizes, vertices, to_attributes, grad_barycentric)
    else:
        kernels.call("barycentric_gradient", *inputs[:4], *sizes, grad_barycentric)
        if need_attributes:
            kernels.call(
                "attribute_gradient", inputs[0], inputs[4], sizes[0], vertices, len(faces), channels,
                *pixels_by_face(face_index, len(faces)), *corners_by_vertex(faces, vertices), tables,
            )  # fmt: skip
    if need_attributes and shared != sizes[0]:
        tables = tables.sum(0, keepdim=True)
    return tables, grad_barycentric


def _backward_fake(
    grad: Tensor, attributes: Tensor, faces: Tensor, face_index: Tensor, barycentric: Tensor,
    need_attributes: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = attributes.shape if need_attributes else (0, *attributes.shape[1:])
    return attributes.new_empty(shape), torch.empty_like(barycentric, memory_format=torch.contiguous_format)


def _sizes(attributes: Tensor, face_index: Tensor) -> tuple[int, int, int, int]:
    """Items, elements from one item's table to the next (0 where all share one), channels, pixels."""
    shared, vertices, channels = attributes.shape
    batch, height, width = face_index.shape
    return batch, 0 if shared == 1 else vertices * channels, channels, height * width


def _context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


@once_differentiable
def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_attributes = ctx.needs_input_grad[0]
    to_attributes, to_barycentric = torch.ops.ntdm.interpolate_backward(
        grad, *ctx.saved_tensors, need_attributes
    )
    return to_attributes if need_attributes else None, None, None, to_barycentric


register(
    "interpolate(Tensor attributes, Tensor faces, Tensor face_index, Tensor barycentric) -> Tensor",
    _forward,
    _forward_fake,
    context=_context,
    gradient=_gradient,
)
register(
    "interpolate_backward(Tensor grad, Tensor attributes, Tensor faces, Tensor face_index,"
    " Tensor barycentric, bool need_attributes) -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
)
