"""Render-time look-up of neural textures: view-binned texels -> unit features and evidence, in one pass.

A texture [q, q, b, d] holds, at texel (i, j) with centre u = (j + 0.5) / q, v = (i + 0.5) / q, one feature
theta per view bin and a mark `seen` (0 or 1) saying whether training ever visited that bin. At a surface
point with bin weights alpha (Eq. 4 and 5 of arXiv 2306.00118), bilinear weights w_c over the four texels c
around it, u wrapping and v clamped,

    g        = sum_c w_c sum_b alpha_b seen_cb theta_cb
    feature  = g / |g|                                   (0 where |g| < 1e-6: nothing was seen there)
    evidence = sum_c w_c sum_b alpha_b seen_cb           (in [0, 1] when alpha sums to 1)

Derivatives go to uv and alpha. The texture is a constant here: training moves it by momentum, not by
gradient. :func:`texture_similarity` is what the pose search needs, feature . target, and its derivatives are
taken in the same pass, so that no [P, d] gradient exists. The kernels are cuda/texture_lookup.cpp and, on
CUDA, cuda/texture_lookup_cuda.cu.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdm.ops import checks, kernels
from ntdm.ops.registration import register

SMALLEST_NORM = 1e-6  # of g; below it the direction is rounding noise
CUDA_SCRATCH = 48 * 1024  # bytes of shared memory: one point's blend


def texture_lookup_reference(
    texture: Tensor,  # [M, q, q, b, d]
    seen: Tensor,  # [M, q, q, b]
    map_index: Tensor,  # [P]
    uv: Tensor,  # [P, 2]
    alpha: Tensor,  # [P, b]
) -> tuple[Tensor, Tensor]:
    """The torch twin of :func:`texture_lookup`: same arguments and results, plain and slow, any device."""
    q = texture.shape[1]
    x = uv[:, 0] * q - 0.5
    y = (uv[:, 1] * q - 0.5).clamp(0, q - 1)
    left, top = x.floor().detach(), y.floor().detach()
    g = texture.new_zeros(len(uv), texture.shape[-1])
    evidence = texture.new_zeros(len(uv))
    for column, wx in ((left, 1 - (x - left)), (left + 1, x - left)):
        for row, wy in ((top, 1 - (y - top)), (top + 1, y - top)):
            texel = map_index, row.long().clamp(0, q - 1), column.long() % q
            blend = (wx * wy)[:, None] * alpha * seen[texel]  # [P, b]
            g = g + (blend[..., None] * texture[texel]).sum(1)
            evidence = evidence + blend.sum(1)
    square = g.square().sum(-1, keepdim=True)
    something = square >= SMALLEST_NORM**2
    norm = torch.where(something, square, 1).sqrt()
    return torch.where(something, g / norm, 0), evidence


def texture_similarity_reference(
    texture: Tensor,  # [M, q, q, b, d]
    seen: Tensor,  # [M, q, q, b]
    map_index: Tensor,  # [P]
    uv: Tensor,  # [P, 2]
    alpha: Tensor,  # [P, b]
    target: Tensor,  # [P, d], or [N, d] with target_index
    target_index: Tensor | None = None,  # [P]
) -> tuple[Tensor, Tensor]:
    """The torch twin of :func:`texture_similarity`."""
    feature, evidence = texture_lookup_reference(texture, seen, map_index, uv, alpha)
    if target_index is not None:
        target = target[target_index]
    return (feature * target).sum(-1), evidence


def texture_lookup(
    texture: Tensor,  # [M, q, q, b, d] float32 or float64, no gradient
    seen: Tensor,  # [M, q, q, b] 0 or 1, no gradient
    map_index: Tensor,  # [P] int64
    uv: Tensor,  # [P, 2]
    alpha: Tensor,  # [P, b]
) -> tuple[Tensor, Tensor]:
    """Unit features of P surface points, each in one of M textures.

    Args:
        texture: [M, q, q, b, d] features, indexed map, row (v), column (u), view bin, channel; on
            the CPU or CUDA.
        seen: [M, q, q, b] of the same dtype, 1 where the bin was visited in training and 0 elsewhere.
        map_index: [P] int64 in [0, M), the texture of each point.
        uv: [P, 2] (u, v): u has period 1, v is clamped to the first and last rows' centres.
        alpha: [P, b] weights of the view bins (a softmax: they sum to 1).

    Returns:
        - feature [P, d], of unit length, or 0 where nothing was seen.
        - evidence [P], the share of the blend that comes from seen bins.

    Both are differentiable once with respect to uv and alpha.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, an index out of range, a uv that is not finite.
    """
    _check("texture_lookup", texture, seen, map_index, uv, alpha)
    return torch.ops.ntdm.texture_lookup(texture, seen, map_index, uv, alpha)


def texture_similarity(
    texture: Tensor,  # [M, q, q, b, d] float32 or float64, no gradient
    seen: Tensor,  # [M, q, q, b] 0 or 1, no gradient
    map_index: Tensor,  # [P] int64
    uv: Tensor,  # [P, 2]
    alpha: Tensor,  # [P, b]
    target: Tensor,  # [P, d], or [N, d] with target_index; no gradient
    target_index: Tensor | None = None,  # [P] int64
) -> tuple[Tensor, Tensor]:
    """Product of each point's feature with a target: the cosine when the targets have unit length.

    Args:
        texture: as for :func:`texture_lookup`, as are the next four.
        seen: 0 or 1.
        map_index: each point's texture.
        uv: each point's place on it.
        alpha: each point's bin weights.
        target: [P, d] one row a point; or, with `target_index`, [N, d] rows shared between points (many
            poses rendered against one picture need no gathered copy of its features).
        target_index: [P] int64 in [0, N), each point's row of `target`.

    Returns:
        - cosine [P] = feature . target, 0 where nothing was seen.
        - evidence [P], as :func:`texture_lookup`.

    Both are differentiable once with respect to uv and alpha; the derivative is taken in the forward pass.

    Raises:
        ValueError: as :func:`texture_lookup`.
    """
    _check("texture_similarity", texture, seen, map_index, uv, alpha)
    op, like = "texture_similarity", (texture.dtype, texture.device, "texture")
    if target.ndim != 2 or target.shape[1] != texture.shape[-1]:
        raise ValueError(f"{op}: target has shape {tuple(target.shape)}: want [N, {texture.shape[-1]}]")
    checks.check_type(op, "target", target, *like)
    if target_index is not None:
        checks.check_shape(op, "target_index", target_index, map_index.shape, "map_index")
        checks.check_type(op, "target_index", target_index, torch.int64, texture.device, "map_index")
    elif len(target) != len(uv):
        raise ValueError(
            f"{op}: target has {len(target)} rows for {len(uv)} points: "
            "want one a point, or pass target_index"
        )
    with_jacobian = torch.is_grad_enabled() and (uv.requires_grad or alpha.requires_grad)
    cosine, evidence, _ = torch.ops.ntdm.texture_similarity(
        texture, seen, map_index, uv, alpha, target, target_index, with_jacobian
    )
    return cosine, evidence


def _check(op: str, texture: Tensor, seen: Tensor, map_index: Tensor, uv: Tensor, alpha: Tensor) -> None:
    checks.check_device(op, "texture", texture)
    if texture.dtype not in checks.FLOATS:
        raise ValueError(f"{op}: texture is {texture.dtype}: convert it to float32 or float64")
    shape = tuple(texture.shape)
    if texture.ndim != 5 or shape[1] != shape[2] or min(shape) == 0:
        raise ValueError(f"{op}: texture has shape {shape}: want [M, q, q, b, d], none of them 0")
    if uv.ndim != 2 or uv.shape[1] != 2:
        raise ValueError(f"{op}: uv has shape {tuple(uv.shape)}: want [P, 2]")
    points, device = len(uv), texture.device
    checks.check_shape(op, "seen", seen, shape[:4], "texture")
    checks.check_shape(op, "alpha", alpha, (points, shape[3]), "uv, a weight a point and bin")
    checks.check_shape(op, "map_index", map_index, (points,), "uv")
    checks.check_type(op, "map_index", map_index, torch.int64, device, "numbers of texture's maps")
    for name, tensor in (("seen", seen), ("uv", uv), ("alpha", alpha)):
        checks.check_type(op, name, tensor, texture.dtype, device, "texture")


# ---- the registered operators ----

_ARGUMENTS = "Tensor texture, Tensor seen, Tensor map_index, Tensor uv, Tensor alpha"


def _run(
    texture: Tensor, seen: Tensor, map_index: Tensor, uv: Tensor, alpha: Tensor, target: Tensor | None,
    target_index: Tensor | None, outputs: tuple[Tensor | None, ...],
) -> None:  # fmt: skip
    """The kernel, which writes those of feature, cosine, evidence and jacobian that are not None."""
    if kernels.target(texture).cuda and texture.shape[-1] * texture.element_size() > CUDA_SCRATCH:
        raise ValueError(
            f"texture look-up: texture has {texture.shape[-1]} channels: "
            f"want {CUDA_SCRATCH // texture.element_size()} of {texture.dtype} at most on CUDA"
        )
    arguments = (texture, seen, map_index, uv, alpha, target, target_index)
    inputs = [None if tensor is None else tensor.contiguous() for tensor in arguments]
    num_maps, q, _, b, d = texture.shape
    num_points, num_targets = len(uv), 0 if target is None else len(target)
    sizes = (num_points, num_maps, num_targets, q, b, d)
    first_bad = map_index.new_full((1,), num_points)
    kernels.call("texture_lookup", *inputs, *sizes, SMALLEST_NORM, *outputs, first_bad)
    point = int(first_bad)
    if point == num_points:
        return
    if not 0 <= (map_of := int(map_index[point])) < num_maps:
        raise ValueError(f"texture look-up: map_index[{point}] is {map_of}: want 0 to {num_maps - 1}")
    if target_index is not None and not 0 <= (row := int(target_index[point])) < num_targets:
        raise ValueError(f"texture look-up: target_index[{point}] is {row}: want 0 to {num_targets - 1}")
    raise ValueError(f"texture look-up: uv[{point}] is {uv[point].tolist()}: want finite numbers")


def _lookup(
    texture: Tensor, seen: Tensor, map_index: Tensor, uv: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor]:
    feature, evidence = _lookup_fake(texture, seen, map_index, uv, alpha)
    _run(texture, seen, map_index, uv, alpha, None, None, (feature, None, evidence, None))
    return feature, evidence


def _lookup_fake(
    texture: Tensor, seen: Tensor, map_index: Tensor, uv: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor]:
    num_points = uv.shape[0]
    return texture.new_empty(num_points, texture.shape[-1]), texture.new_empty(num_points)


def _similarity(
    texture: Tensor, seen: Tensor, map_index: Tensor, uv: Tensor, alpha: Tensor, target: Tensor,
    target_index: Tensor | None, with_jacobian: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    arguments = (texture, seen, map_index, uv, alpha, target, target_index)
    cosine, evidence, jacobian = _similarity_fake(*arguments, with_jacobian)
    _run(*arguments, (None, cosine, evidence, jacobian if with_jacobian else None))
    return cosine, evidence, jacobian


def _similarity_fake(
    texture: Tensor, seen: Tensor, map_index: Tensor, uv: Tensor, alpha: Tensor, target: Tensor,
    target_index: Tensor | None, with_jacobian: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    num_points = uv.shape[0]
    return (
        texture.new_empty(num_points),
        texture.new_empty(num_points),
        texture.new_empty(num_points if with_jacobian else 0, 2, 2 + texture.shape[3]),
    )


def _lookup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


@once_differentiable
def _lookup_gradient(ctx: Any, feature_grad: Tensor, evidence_grad: Tensor) -> tuple[Tensor | None, ...]:
    # d(feature . feature_grad) with feature_grad held fixed is the similarity's derivative.
    _, _, jacobian = torch.ops.ntdm.texture_similarity(*ctx.saved_tensors, feature_grad, None, True)
    gradient = jacobian[:, 0] + evidence_grad[:, None] * jacobian[:, 1]
    return None, None, None, gradient[:, :2], gradient[:, 2:]


def _similarity_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[2])


@once_differentiable
def _similarity_gradient(
    ctx: Any, cosine_grad: Tensor, evidence_grad: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    (jacobian,) = ctx.saved_tensors
    gradient = cosine_grad[:, None] * jacobian[:, 0] + evidence_grad[:, None] * jacobian[:, 1]
    return None, None, None, gradient[:, :2], gradient[:, 2:], None, None, None


register(
    f"texture_lookup({_ARGUMENTS}) -> (Tensor feature, Tensor evidence)",
    _lookup,
    _lookup_fake,
    context=_lookup_context,
    gradient=_lookup_gradient,
)
# jacobian [P, 2, 2 + b] holds d(cosine, evidence) / d(u, v, alpha); [0, 2, 2 + b] unless it is asked for.
register(
    f"texture_similarity({_ARGUMENTS}, Tensor target, Tensor? target_index, bool with_jacobian)"
    " -> (Tensor cosine, Tensor evidence, Tensor jacobian)",
    _similarity,
    _similarity_fake,
    context=_similarity_context,
    gradient=_similarity_gradient,
)
