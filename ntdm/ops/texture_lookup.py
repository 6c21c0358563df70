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

from ntdm.ops import kernels
from ntdm.ops.checks import require

SMALLEST_NORM = 1e-6  # of g; below it the direction is rounding noise
_CUDA_SCRATCH = 48 * 1024  # bytes of shared memory: one point's blend


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
    require(
        target.ndim == 2 and target.shape[1] == texture.shape[-1],
        f"texture_similarity: target has shape {tuple(target.shape)}: want [N, {texture.shape[-1]}]",
    )
    require(
        target.dtype == texture.dtype and target.device == texture.device,
        f"texture_similarity: target is {target.dtype} on {target.device}: convert it to the texture's "
        f"{texture.dtype} on {texture.device}",
    )
    if target_index is None:
        require(
            len(target) == len(uv),
            f"texture_similarity: target has {len(target)} rows for {len(uv)} points: "
            "want one a point, or pass target_index",
        )
    else:
        require(
            target_index.shape == map_index.shape
            and target_index.dtype == torch.int64
            and target_index.device == texture.device,
            f"texture_similarity: target_index is {target_index.dtype} {tuple(target_index.shape)} "
            f"on {target_index.device}: want int64 [{len(uv)}] on {texture.device}",
        )
    wants_gradient = torch.is_grad_enabled() and (uv.requires_grad or alpha.requires_grad)
    cosine, evidence, _ = torch.ops.ntdm.texture_similarity(
        texture, seen, map_index, uv, alpha, target, target_index, wants_gradient
    )
    return cosine, evidence


def _check(op: str, texture: Tensor, seen: Tensor, map_index: Tensor, uv: Tensor, alpha: Tensor) -> None:
    shape, points = tuple(texture.shape), tuple(uv.shape)
    require(
        texture.device.type in ("cpu", "cuda"), f"{op}: texture is on {texture.device}: want the CPU or CUDA"
    )
    require(
        texture.dtype in (torch.float32, torch.float64),
        f"{op}: texture is {texture.dtype}: convert it to float32 or float64",
    )
    require(
        texture.ndim == 5 and shape[1] == shape[2] and min(shape) > 0,
        f"{op}: texture has shape {shape}: want [M, q, q, b, d], none of them 0",
    )
    require(
        tuple(seen.shape) == shape[:4],
        f"{op}: seen has shape {tuple(seen.shape)}: want {shape[:4]} as texture",
    )
    require(len(points) == 2 and points[1] == 2, f"{op}: uv has shape {points}: want [P, 2]")
    require(
        tuple(alpha.shape) == (points[0], shape[3]),
        f"{op}: alpha has shape {tuple(alpha.shape)}: want {(points[0], shape[3])}, a weight a point and bin",
    )
    require(
        tuple(map_index.shape) == points[:1] and map_index.dtype == torch.int64,
        f"{op}: map_index is {map_index.dtype} {tuple(map_index.shape)}: want int64 [{points[0]}]",
    )
    require(
        map_index.device == texture.device,
        f"{op}: map_index is on {map_index.device}: move it to {texture.device} as texture",
    )
    for name, tensor in (("seen", seen), ("uv", uv), ("alpha", alpha)):
        require(
            tensor.dtype == texture.dtype and tensor.device == texture.device,
            f"{op}: {name} is {tensor.dtype} on {tensor.device}: convert it to the texture's "
            f"{texture.dtype} on {texture.device}",
        )


# ---- the registered operators ----

_ops = torch.library.Library("ntdm", "FRAGMENT")
_ARGUMENTS = "Tensor texture, Tensor seen, Tensor map_index, Tensor uv, Tensor alpha"
_ops.define(f"texture_lookup({_ARGUMENTS}) -> (Tensor feature, Tensor evidence)")
# jacobian [P, 2, 2 + b] holds d(cosine, evidence) / d(u, v, alpha); [0, 2, 2 + b] unless it is asked for.
_ops.define(
    f"texture_similarity({_ARGUMENTS}, Tensor target, Tensor? target_index, bool with_jacobian)"
    " -> (Tensor cosine, Tensor evidence, Tensor jacobian)"
)


_Outputs = tuple[Tensor | None, ...]  # feature, cosine, evidence, jacobian; None: not asked for


def _launch(
    texture: Tensor, seen: Tensor, map_index: Tensor, uv: Tensor, alpha: Tensor, target: Tensor | None,
    target_index: Tensor | None, outputs: _Outputs,
) -> None:  # fmt: skip
    given = (texture, seen, map_index, uv, alpha, target, target_index)
    inputs = tuple(None if tensor is None else tensor.contiguous() for tensor in given)
    num_maps, q, _, b, d = texture.shape
    num_targets = 0 if target is None else len(target)
    arguments = (*inputs, len(uv), num_maps, num_targets, q, b, d, SMALLEST_NORM, *outputs)
    # The first point whose uv is not finite or whose map or target is out of range; P or -1 if none is.
    if kernels.uses_cuda(texture.device):
        channels = _CUDA_SCRATCH // texture.element_size()
        require(
            d <= channels,
            f"texture look-up: texture has {d} channels: want {channels} of {texture.dtype} at most on CUDA",
        )
        bad = texture.new_full((1,), len(uv), dtype=torch.int64)
        kernels.call("texture_lookup", *arguments, bad, dtype=texture.dtype)
        point = int(bad)
    else:
        point = kernels.call("texture_lookup", *arguments, dtype=texture.dtype)
    if not 0 <= point < len(uv):
        return
    map_of, uv_of = int(map_index[point]), uv[point].tolist()
    if not 0 <= map_of < num_maps:
        raise ValueError(f"texture look-up: map_index[{point}] is {map_of}: want 0 to {num_maps - 1}")
    if target_index is not None and not 0 <= int(target_index[point]) < num_targets:
        row = int(target_index[point])
        raise ValueError(f"texture look-up: target_index[{point}] is {row}: want 0 to {num_targets - 1}")
    raise ValueError(f"texture look-up: uv[{point}] is {uv_of}: want finite numbers")


def _lookup(
    texture: Tensor, seen: Tensor, map_index: Tensor, uv: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor]:
    feature, evidence = _lookup_fake(texture, seen, map_index, uv, alpha)
    _launch(texture, seen, map_index, uv, alpha, None, None, (feature, None, evidence, None))
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
    cosine, evidence, jacobian = _similarity_fake(
        texture, seen, map_index, uv, alpha, target, target_index, with_jacobian
    )
    wanted = jacobian if with_jacobian else None
    _launch(texture, seen, map_index, uv, alpha, target, target_index, (None, cosine, evidence, wanted))
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


def _lookup_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


@once_differentiable
def _lookup_backward(ctx: Any, feature_grad: Tensor, evidence_grad: Tensor) -> tuple[Tensor | None, ...]:
    # d(feature . feature_grad) with feature_grad held fixed is the similarity's derivative.
    _, _, jacobian = torch.ops.ntdm.texture_similarity(*ctx.saved_tensors, feature_grad, None, True)
    gradient = jacobian[:, 0] + evidence_grad[:, None] * jacobian[:, 1]
    return None, None, None, gradient[:, :2], gradient[:, 2:]


def _similarity_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[2])


@once_differentiable
def _similarity_backward(
    ctx: Any, cosine_grad: Tensor, evidence_grad: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    (jacobian,) = ctx.saved_tensors
    gradient = cosine_grad[:, None] * jacobian[:, 0] + evidence_grad[:, None] * jacobian[:, 1]
    return None, None, None, gradient[:, :2], gradient[:, 2:], None, None, None


kernels.register(_ops, "texture_lookup", _lookup, _lookup, _lookup_fake)
kernels.register(_ops, "texture_similarity", _similarity, _similarity, _similarity_fake)
torch.library.register_autograd(
    "ntdm::texture_lookup", _lookup_backward, setup_context=_lookup_setup, lib=_ops
)
torch.library.register_autograd(
    "ntdm::texture_similarity", _similarity_backward, setup_context=_similarity_setup, lib=_ops
)
