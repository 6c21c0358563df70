"""UV scatter: lift the features of an image onto the texture map of the surface it shows.

Equations are numbered as in arXiv 2306.00118.

A texel (i, j) of a q x q map is the point u = (j + 0.5) / q, v = (i + 0.5) / q. Rendering gives each covered
pixel p a surface coordinate U_p = (u, v) and the network gives it a feature F_p. Every 2 x 2 block of covered
pixels is a quad in texture space; a texel centre X inside it solves (inverse bilinear)

    X = sum_k w_k(s, t) U_k,   w = ((1-s)(1-t), s(1-t), (1-s)t, st),   s, t in [0, 1]

    mean F^ = sum_quads sum_k w_k F_pk / sum_quads sum_k w_k           (Eq. 11), weight = number of quads

u has period 1: corners are unwrapped to within half a turn of the first. Quads wider than `max_extent` in u
or v (they straddle an occlusion edge or a pole), degenerate ones and those that are not convex are skipped.
Edges are half-open: a texel on an edge shared by two quads belongs to one. No cap on quads a texel. Each sum
is taken in raster order of quads, so results are the same bits on any number of threads.

Derivatives. To features: dL/dF_p = sum (w_k / W) dL/dF^ (Eq. 12). To uv: with J = dX/d(s, t), the implicit
derivative is d(s, t)/dU_k = -w_k J^-1, hence dL/dU_k = sum_c dL/dF^_c dF_c/d(s, t) (-w_k J^-1) / W, with F
the quad's own interpolant. The paper's printed Eq. 13-15 sum the output's channels without contracting them
with the upstream gradient, and put F^ where the corner features belong; they are not the derivative of
Eq. 11, and a finite-difference check refuses them. Which texels a quad owns is piecewise constant and has no
derivative.

Stored features may be bfloat16 or half: they are read into float32, where all sums are made, and the mean is
rounded back. The kernels are cuda/uv_scatter.cpp and, on CUDA (uv_scatter_cuda.py), cuda/uv_scatter_cuda.cu.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntdm.ops import checks, kernels, uv_scatter_cuda
from ntdm.ops.registration import register
from ntdm.ops.triangle import cross

STORED = (torch.bfloat16, torch.float16)  # types of features that are computed with in float32


def uv_scatter_reference(
    features: Tensor,  # [B, h, w, d]
    uv: Tensor,  # [B, h, w, 2]
    coverage: Tensor,  # [B, h, w] bool
    size: int,
    max_extent: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """The torch twin of :func:`uv_scatter`: every quad against the texels of its box, any device."""
    images = [
        _scatter_image(f, x, c, size, max_extent) for f, x, c in zip(features, uv, coverage, strict=True)
    ]
    mean, weight = zip(*images, strict=True)
    return torch.stack(mean), torch.stack(weight)


def _scatter_image(
    features: Tensor, uv: Tensor, coverage: Tensor, q: int, max_extent: float
) -> tuple[Tensor, Tensor]:
    """One image of the twin. Q quads, N pairs of a quad and a texel of its box, H hits: pairs that own."""
    h, w, d = features.shape
    first = torch.arange(h * w, device=uv.device).view(h, w)[:-1, :-1].reshape(-1)
    pixel = torch.stack([first, first + 1, first + w, first + w + 1], -1)  # [Q, 4]
    pixel = pixel[coverage.reshape(-1)[pixel].all(-1)]
    corner = uv.double().reshape(-1, 2)[pixel]  # [Q, 4, 2]
    U = _short_way(corner - corner[:, :1])
    with torch.no_grad():
        # The turn at each corner, walking 0 1 3 2.
        turn = torch.stack(
            [
                cross(U[:, b] - U[:, a], U[:, c] - U[:, a])
                for a, b, c in ((0, 1, 2), (1, 3, 0), (3, 2, 1), (2, 0, 3))
            ],
            -1,
        )
        keep = ((U.amax(1) - U.amin(1)) <= max_extent).all(-1) & ((turn > 0).all(-1) | (turn < 0).all(-1))
    pixel, corner, U, positive = pixel[keep], corner[keep], U[keep], turn[keep, 0] > 0

    with torch.no_grad():
        # Texels of each quad's box, widened by a hair; columns may run on beyond the seam, rows may not.
        low, high = ((corner[:, 0] + side) * q - 0.5 for side in (U.amin(1), U.amax(1)))
        low, high = (low - 1e-6).ceil().long(), (high + 1e-6).floor().long()
        low[:, 1].clamp_(min=0)
        high[:, 1].clamp_(max=q - 1)
        span = (high - low + 1).clamp(min=0)
        count = span.prod(-1)
        quad = torch.arange(len(count), device=uv.device).repeat_interleave(count)  # [N]
        nth = torch.arange(len(quad), device=uv.device) - (count.cumsum(0) - count)[quad]
        row, column = low[quad, 1] + nth // span[quad, 0], (low[quad, 0] + nth % span[quad, 0]) % q
        centre = (torch.stack([column, row], -1).double() + 0.5) / q  # [N, 2]
        c, way = corner[quad], positive[quad]
        inside = (
            (_left_of(c[:, 0], c[:, 1], centre) == way)
            & (_left_of(c[:, 1], c[:, 3], centre) == way)
            & (_left_of(c[:, 2], c[:, 3], centre) != way)
            & (_left_of(c[:, 0], c[:, 2], centre) != way)
        )
        quad, centre, texel = quad[inside], centre[inside], (row * q + column)[inside]  # [H]
    st = _inverse_bilinear(U[quad], _short_way(centre - corner[quad, 0]))
    weights = _bilinear_weights(st).to(features.dtype)
    value = torch.einsum("hk,hkd->hd", weights, features.reshape(-1, d)[pixel[quad]])

    weight = features.new_zeros(q * q).index_add(0, texel, features.new_ones(len(texel)))
    total = features.new_zeros(q * q, d).index_add(0, texel, value)
    return (total / weight.clamp(min=1)[:, None]).view(q, q, d), weight.view(q, q)


def _short_way(difference: Tensor) -> Tensor:
    """(u, v) differences [..., 2] with u the short way round its period."""
    du, dv = difference.unbind(-1)
    return torch.stack([du - du.detach().round(), dv], -1)


def _left_of(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Whether points x [N, 2] lie to the left of the lines a -> b [N, 2], or on them: [N].

    Neighbours ask with the same a and b (right or down in the image) and take opposite sides.
    """
    edge, to = _short_way(b - a), _short_way(x - a)
    at_corner = (to == 0).all(-1) | (to == edge).all(-1)
    return at_corner | (cross(edge, to) >= 0)


def _bilinear_weights(st: Tensor) -> Tensor:
    s, t = st.unbind(-1)
    return torch.stack([(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t], -1)


def _inverse_bilinear(U: Tensor, x: Tensor) -> Tensor:
    """(s, t) [H, 2] of points x [H, 2] inside convex quads U [H, 4, 2], by Newton's method.

    Only the last step carries a gradient: at the root, x - X(s, t) is 0 and one step from there has the
    exact derivative of the implicit function.
    """
    st = torch.full_like(x, 0.5)
    with torch.no_grad():
        for _ in range(30):
            step = _newton_step(U, x, st)
            st = (st + step).clamp(0, 1)
            if not (step.abs() > 1e-12).any():  # its square is lost in rounding
                break
    return st + _newton_step(U, x, st)


def _newton_step(U: Tensor, x: Tensor, st: Tensor) -> Tensor:
    with torch.no_grad():
        s, t = st[:, :1], st[:, 1:]
        along_s = (1 - t) * (U[:, 1] - U[:, 0]) + t * (U[:, 3] - U[:, 2])
        along_t = (1 - s) * (U[:, 2] - U[:, 0]) + s * (U[:, 3] - U[:, 1])
        determinant = cross(along_s, along_t)
    rest = x - (_bilinear_weights(st)[..., None] * U).sum(1)
    return torch.stack([cross(rest, along_t), cross(along_s, rest)], -1) / determinant[:, None]


def uv_scatter(
    features: Tensor,  # [B, h, w, d], or [B, d, h, w] with channel_first
    uv: Tensor,  # [B, h, w, 2]
    coverage: Tensor,  # [B, h, w] bool
    size: int,
    max_extent: float = 0.2,
    channel_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Average of the image features that fall on each texel, with derivatives to features and uv.

    Args:
        features: [B, h, w, d] (or [B, d, h, w] with `channel_first`), on the CPU or CUDA; float32, float64,
            bfloat16 or float16.
        uv: [B, h, w, 2] surface coordinate (u, v) seen at each pixel, of the same dtype, float32 where
            features are shorter. u has period 1; a texel map covers v in [0, 1], and what lies beyond is
            dropped. Read at covered pixels only.
        coverage: [B, h, w] bool, the pixels that show the surface.
        size: q, texels along each side of the map.
        max_extent: widest quad, in u or v, that is scattered; below half a turn.
        channel_first: layout of `features`; the result is channel last either way.

    Returns:
        - mean [B, q, q, d], of the features' dtype, indexed row (v), column (u); 0 where no quad covers the
            texel.
        - weight [B, q, q], of uv's dtype, number of quads that cover the texel: visibility is weight > 0. No
            gradient.

    Differentiable once.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, more than 2^31 elements in features or mean, or
            a covered uv that is not finite.

    Example, a photo [3, H, W] in [0, 1] lifted onto the mesh that `fragments` shows (ntdm.ops.rasterize),
    with `sphere` the template's points [V, 3], and written as a textured OBJ (examples/lift_photo.py is the
    whole program)::

        points = interpolate(sphere[None], faces, fragments)  # [1, H, W, 3]
        texture, weight = uv_scatter(
            photo[None], sphere_uv(points), fragments.face_index >= 0, size=256, channel_first=True
        )
        write_obj(path, vertices, faces, sphere, (texture[0] * 255).round().to(torch.uint8).numpy())
    """
    op = "uv_scatter"
    if features.ndim != 4:
        layout = "[B, d, h, w]" if channel_first else "[B, h, w, d]"
        raise ValueError(f"{op}: features has shape {tuple(features.shape)}: want {layout}")
    if channel_first:
        features = features.permute(0, 2, 3, 1)
    checks.check_device(op, "features", features)
    if features.dtype not in (*checks.FLOATS, *STORED):
        raise ValueError(f"{op}: features is {features.dtype}: convert it to float32")
    grid, device = tuple(features.shape[:3]), features.device
    checks.check_shape(op, "uv", uv, (*grid, 2), "features")
    checks.check_type(
        op, "uv", uv, torch.float32 if features.dtype in STORED else features.dtype, device, "features"
    )
    checks.check_shape(op, "coverage", coverage, grid, "features")
    checks.check_type(op, "coverage", coverage, torch.bool, device, "a mask of features' pixels")
    if size < 1:
        raise ValueError(f"{op}: size is {size}: want 1 texel a side or more")
    checks.check_elements(op, "features", features.shape)
    checks.check_elements(op, "the mean", (len(features), size, size, features.shape[3]))
    if not 0 < max_extent < 0.5:
        raise ValueError(f"{op}: max_extent is {max_extent}: want more than 0, less than half a turn (0.5)")
    return torch.ops.ntdm.uv_scatter(features, uv, coverage, size, max_extent)


# ---- the registered operators ----


def _forward(
    features: Tensor, uv: Tensor, coverage: Tensor, size: int, max_extent: float
) -> tuple[Tensor, Tensor]:
    if features.dtype in STORED:
        mean, weight = _forward(features.float(), uv, coverage, size, max_extent)
        return mean.to(features.dtype), weight
    mean, weight = _forward_fake(features, uv, coverage, size, max_extent)
    first_bad = uv.new_empty(1, dtype=torch.int64)
    inputs = [tensor.contiguous() for tensor in (features, uv, coverage)]
    with _enough_memory():
        kernels.call("uv_scatter", *inputs, *features.shape, size, max_extent, mean, weight, first_bad)
    uv_scatter_cuda.check_finite(int(first_bad), len(features))
    return mean, weight


def _forward_fake(
    features: Tensor, uv: Tensor, coverage: Tensor, size: int, max_extent: float
) -> tuple[Tensor, Tensor]:
    batch, _, _, d = features.shape
    return features.new_empty(batch, size, size, d), uv.new_empty(batch, size, size)


def _backward(
    mean_grad: Tensor, features: Tensor, uv: Tensor, coverage: Tensor, weight: Tensor, max_extent: float,
    for_features: bool, for_uv: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if features.dtype in STORED:
        features_grad, uv_grad = _backward(
            mean_grad.float(), features.float(), uv, coverage, weight, max_extent, for_features, for_uv
        )
        return features_grad.to(features.dtype), uv_grad
    inputs = [tensor.contiguous() for tensor in (mean_grad, features, uv, coverage, weight)]
    grads = _backward_fake(mean_grad, features, uv, coverage, weight, max_extent, for_features, for_uv)
    outputs = [grad if needed else None for grad, needed in zip(grads, (for_features, for_uv), strict=True)]
    with _enough_memory():
        kernels.call(
            "uv_scatter_backward", *inputs, *features.shape, mean_grad.shape[1], max_extent, *outputs
        )
    return grads


# A gradient that nobody needs comes back empty.
def _backward_fake(
    mean_grad: Tensor, features: Tensor, uv: Tensor, coverage: Tensor, weight: Tensor, max_extent: float,
    for_features: bool, for_uv: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return (
        features.new_empty(features.shape if for_features else (0,)),
        uv.new_empty(uv.shape if for_uv else (0,)),
    )


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise ValueError(
            "uv_scatter: so many quads lie over one another that their texels do not fit into memory: "
            "lower size or max_extent"
        ) from error


def _context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    features, uv, coverage, _, ctx.max_extent = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(features, uv, coverage, output[1])


@once_differentiable
def _gradient(ctx: Any, mean_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    for_features, for_uv = ctx.needs_input_grad[:2]
    features_grad, uv_grad = torch.ops.ntdm.uv_scatter_backward(
        mean_grad, *ctx.saved_tensors, ctx.max_extent, for_features, for_uv
    )
    return features_grad if for_features else None, uv_grad if for_uv else None, None, None, None


register(
    "uv_scatter(Tensor features, Tensor uv, Tensor coverage, int size, float max_extent)"
    " -> (Tensor mean, Tensor weight)",
    _forward,
    _forward_fake,
    cuda=uv_scatter_cuda.forward,
    context=_context,
    gradient=_gradient,
)
register(
    "uv_scatter_backward(Tensor mean_grad, Tensor features, Tensor uv, Tensor coverage, Tensor weight,"
    " float max_extent, bool for_features, bool for_uv) -> (Tensor features_grad, Tensor uv_grad)",
    _backward,
    _backward_fake,
    cuda=uv_scatter_cuda.backward,
)
