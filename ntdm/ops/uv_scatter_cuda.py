"""The CUDA implementation of the operators of uv_scatter.py: memory, running sums and the order of launches.

The kernels are cuda/uv_scatter_cuda.cu. A hit is a quad and a texel that it owns; hits are counted first, so
that memory for exactly as many is there. Each sum is taken in raster order of quads, by one team: the same
bits every time.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ntdm.ops import kernels


class _Hits(NamedTuple):
    """The hits of all images. Quads (by their first pixel) and texels are counted through the images."""

    of_quad: Tensor  # [B h w] int32 hits of each quad
    of_texel: Tensor  # [B q q] int32 hits of each texel
    quad_end: Tensor  # [B h w] int64 where each quad's hits end
    texel_end: Tensor  # [B q q] int64 where each texel's end in by_texel
    quad: Tensor  # [N] int64
    texel: Tensor  # [N] int64
    st: Tensor  # [N, 2] double, the texel's centre in the quad
    weight: Tensor  # [N, 4] of the quad's corners in the texel's mean
    by_texel: Tensor | None  # [N] int64 hits, texel after texel


def forward(
    features: Tensor, uv: Tensor, coverage: Tensor, size: int, max_extent: float
) -> tuple[Tensor, Tensor]:
    """ntdm::uv_scatter; ValueError when a covered uv is not finite."""
    batch, _, w, d = features.shape
    features = features.contiguous()
    mean = features.new_empty(batch, size, size, d)
    weight = uv.new_empty(batch, size, size)
    hits = _find_hits(uv.contiguous(), coverage.contiguous(), size, max_extent, by_texel=True)
    assert hits.by_texel is not None
    kernels.call(
        "uv_scatter_average", features, len(hits.of_texel), w, d,
        hits.of_texel, hits.texel_end, hits.by_texel, hits.quad, hits.weight, mean, weight,
    )  # fmt: skip
    return mean, weight


def backward(
    mean_grad: Tensor,
    features: Tensor,
    uv: Tensor,
    coverage: Tensor,
    _weight: Tensor,  # counted again: the hits of each texel are needed, and come with it
    max_extent: float,
    for_features: bool,
    for_uv: bool,
) -> tuple[Tensor, Tensor]:
    """ntdm::uv_scatter_backward; a gradient that is not wanted comes back empty."""
    _, h, w, d = features.shape
    mean_grad, features, uv = mean_grad.contiguous(), features.contiguous(), uv.contiguous()
    features_grad = features.new_empty(features.shape if for_features else (0,))
    uv_grad = uv.new_empty(uv.shape if for_uv else (0,))
    hits = _find_hits(uv, coverage.contiguous(), mean_grad.shape[1], max_extent, by_texel=False)
    sizes = (len(hits.of_quad), h, w, d)
    if for_features:
        kernels.call(
            "uv_scatter_feature_gradient", mean_grad, *sizes, hits.of_quad, hits.quad_end,
            hits.texel, hits.weight, features_grad,
        )  # fmt: skip
    if for_uv:
        corners = hits.st.new_empty(len(hits.of_quad), 4, 2)
        kernels.call(
            "uv_scatter_uv_gradient", mean_grad, features, uv, *sizes, hits.of_quad, hits.of_texel,
            hits.quad_end, hits.texel, hits.st, corners, uv_grad,
        )  # fmt: skip
    return features_grad, uv_grad


def check_finite(first_bad: int, batch: int) -> None:
    """ValueError when an image, the first of them, has a covered uv that is not finite; `batch`: none has."""
    if first_bad < batch:
        raise ValueError(
            f"uv_scatter: uv[{first_bad}] is not finite at a covered pixel: check the mesh and coverage"
        )


def _find_hits(uv: Tensor, coverage: Tensor, size: int, max_extent: float, by_texel: bool) -> _Hits:
    batch, h, w, _ = uv.shape
    of_quad = coverage.new_empty(batch * h * w, dtype=torch.int32)
    of_texel = coverage.new_zeros(batch * size * size, dtype=torch.int32)
    first_bad = coverage.new_full((1,), batch, dtype=torch.int64)
    inputs = (uv, coverage, batch, h, w, size, float(max_extent))
    kernels.call("uv_scatter_count", *inputs, of_quad, of_texel, first_bad)
    quad_end, texel_end = of_quad.cumsum(0), of_texel.cumsum(0)
    # The one wait for the device: memory has to be asked for.
    image, *total = torch.cat([first_bad, quad_end[-1:]]).tolist()
    check_finite(image, batch)
    number = sum(total)
    quad, texel = quad_end.new_empty(2, number)
    st, weight = uv.new_empty(number, 2, dtype=torch.float64), uv.new_empty(number, 4)
    order = quad_end.new_empty(number) if by_texel else None
    kernels.call(
        "uv_scatter_list", *inputs, of_quad, of_texel, quad_end, texel_end, quad, texel, st, weight,
        torch.zeros_like(of_texel) if by_texel else None, order,
    )  # fmt: skip
    return _Hits(of_quad, of_texel, quad_end, texel_end, quad, texel, st, weight, order)
